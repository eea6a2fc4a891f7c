# SPDX-License-Identifier: Apache-2.0
"""The container of a suspended machine: what is written is read, and nothing else is believed."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenopsd.backends.xen.builder import image
from xenopsd.backends.xen.builder.image import Header, Kind, Malformed


@given(st.sampled_from(Kind), st.integers(0, image.METADATA_LIMIT))
def test_what_is_written_is_read(kind: Kind, length: int) -> None:
    if kind in (Kind.LIBXC, Kind.END):
        length = 0
    assert image.parse_header(image.header(kind, length)) == Header(kind, length)


@given(st.binary(max_size=40))
def test_nothing_else_is_believed(untrusted: bytes) -> None:
    with contextlib.suppress(Malformed):
        found = image.parse_header(untrusted)
        assert untrusted.startswith(image.header(found.kind, found.length))
    if untrusted != image.SIGNATURE:
        with pytest.raises(Malformed, match="signature"):
            image.check_signature(untrusted)


@pytest.mark.parametrize(
    ("untrusted", "words"),
    [
        (b"", "cut short"),
        (image.header(Kind.XENOPS, -1), "length of -1"),
        (image.header(Kind.XENOPS, image.METADATA_LIMIT + 1), "claims a length"),
        (image.header(Kind.LIBXC, 5), "claims a length"),
        ((0x1234).to_bytes(8, "little") + bytes(8), "unknown kind 0x1234"),
    ],
)
def test_what_is_wrong_is_said(untrusted: bytes, words: str) -> None:
    with pytest.raises(Malformed, match=words):
        image.parse_header(untrusted)


def test_the_numbers_are_those_of_the_format() -> None:
    assert image.SIGNATURE == b"XenSavedDomv2-\n"
    assert image.header(Kind.XENOPS, 3) == b"\x0f" + bytes(7) + b"\x03" + bytes(7)
    assert {kind.name: int(kind) for kind in Kind} == {"XENOPS": 0xF, "LIBXC": 0xF0, "QEMU": 0xF01, "END": 0xFFFF}

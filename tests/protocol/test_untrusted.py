# SPDX-License-Identifier: Apache-2.0
"""Properties that another client filled in: never a crash, and the way back to the caller is kept."""

import struct

from hypothesis import given
from hypothesis import strategies as st
from pika.spec import BasicProperties

from xenops.bus.port import UNREADABLE
from xenops.bus.untrusted import message, salvaged_properties


@given(st.binary(max_size=120))
def test_no_bytes_crash_it(untrusted: bytes) -> None:
    got = message(salvaged_properties(untrusted), b"")
    assert got.headers == {UNREADABLE: True}


@given(st.binary(max_size=60), st.none() | st.text(max_size=20), st.none() | st.text(max_size=20), st.text(max_size=20))
def test_the_way_back_survives_headers_of_any_bytes(
    headers: bytes, content_type: str | None, reply_to: str | None, correlation_id: str
) -> None:
    whole = BasicProperties(content_type=content_type, reply_to=reply_to, correlation_id=correlation_id)
    encoded = b"".join(whole.encode())
    (flags,) = struct.unpack_from(">H", encoded)
    after = 2 if content_type is None else 3 + len(content_type.encode())
    table = struct.pack(">I", len(headers)) + headers
    got = salvaged_properties(struct.pack(">H", flags | 1 << 13) + encoded[2:after] + table + encoded[after:])
    assert (got.content_type, got.reply_to, got.correlation_id) == (content_type, reply_to, correlation_id)
    assert got.headers == {UNREADABLE: True}

# SPDX-License-Identifier: Apache-2.0
"""Addresses for interfaces that were given none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenops.errors import BadRequest
from xenopsd.mac import normalised

SIX = bytes(range(6))


def test_an_address_is_kept() -> None:
    assert normalised("00:16:3E:74:3d:77", vm="v", position=0, random_bytes=SIX) == "00:16:3E:74:3d:77"


@given(st.text(min_size=1), st.integers(0, 255))
def test_a_derived_address_is_the_same_every_time(vm: str, position: int) -> None:
    first = normalised("", vm=vm, position=position, random_bytes=SIX)
    assert first == normalised("", vm=vm, position=position, random_bytes=bytes(6))
    octet = int(first[:2], 16)
    assert octet & 0x03 == 0x02, "local and unicast"
    assert octet != 0xFE
    assert first != normalised("", vm=vm, position=position + 1, random_bytes=SIX)


@given(st.binary(min_size=6, max_size=6))
def test_a_random_address_is_local_and_unicast(random_bytes: bytes) -> None:
    octet = int(normalised("random", vm="v", position=0, random_bytes=random_bytes)[:2], 16)
    assert octet & 0x03 == 0x02
    assert octet != 0xFE


@pytest.mark.parametrize("mac", ["fe", "00:16:3e:00:00", "zz:16:3e:00:00:00", "00-16-3e-00-00-00", "\n"])
def test_anything_else_is_refused(mac: str) -> None:
    with pytest.raises(BadRequest, match="not a MAC address"):
        normalised(mac, vm="v", position=0, random_bytes=SIX)

# SPDX-License-Identifier: Apache-2.0
"""The memory stream: any split is the same conversation, nothing damaged is ever whole, no input breaks the reader."""

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenopsd.migration.compression import compressor, expander
from xenopsd.migration.stream import (
    CHUNK,
    GREETING_BYTES,
    SIGNATURE,
    TICKET_BYTES,
    Damaged,
    Reader,
    Writer,
    agreed,
    greeting,
    parse_greeting,
    parse_welcome,
    welcome,
)

PAYLOADS = st.lists(st.binary(max_size=300), max_size=8)


def written(payloads: list[bytes], *, compressed: bool) -> bytes:
    writer = Writer(compressor() if compressed else None)
    return b"".join(writer.data(payload) for payload in payloads) + writer.end()


def fed(reader: Reader, untrusted: bytes, cuts: list[int]) -> bytes:
    places = sorted({0, len(untrusted), *(cut % (len(untrusted) + 1) for cut in cuts)})
    got = b""
    for start, end in pairwise(places):
        got += b"".join(reader.receive(untrusted[start:end]))
    return got


@given(payloads=PAYLOADS, cuts=st.lists(st.integers(min_value=0), max_size=10), compressed=st.booleans())
def test_any_split_is_the_same_stream(payloads: list[bytes], cuts: list[int], compressed: bool) -> None:
    reader = Reader(expander())
    assert fed(reader, written(payloads, compressed=compressed), cuts) == b"".join(payloads)
    assert reader.whole
    assert reader.total == sum(map(len, payloads))


@given(payloads=PAYLOADS, at=st.integers(min_value=0), mask=st.integers(1, 255), compressed=st.booleans())
def test_a_changed_byte_is_never_whole(payloads: list[bytes], at: int, mask: int, compressed: bool) -> None:
    damaged = bytearray(written(payloads, compressed=compressed))
    damaged[at % len(damaged)] ^= mask
    reader = Reader(expander())
    with contextlib.suppress(Damaged):
        reader.receive(bytes(damaged))
    assert not reader.whole


@given(payloads=PAYLOADS, at=st.integers(min_value=0))
def test_a_stream_that_is_cut_is_not_whole(payloads: list[bytes], at: int) -> None:
    stream = written(payloads, compressed=False)
    reader = Reader()
    reader.receive(stream[: at % len(stream)])
    assert not reader.whole


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_garbage_breaks_nothing(pieces: list[bytes]) -> None:
    reader = Reader(expander())
    with contextlib.suppress(Damaged):
        for piece in pieces:
            reader.receive(piece)
    assert not reader.whole


@given(payloads=st.lists(st.binary(min_size=1, max_size=50), min_size=2, max_size=5), repeated=st.integers(0, 4))
def test_a_frame_twice_is_noticed(payloads: list[bytes], repeated: int) -> None:
    writer = Writer()
    frames = [writer.data(payload) for payload in payloads]
    frames.insert(repeated % len(frames), frames[repeated % len(frames)])
    with pytest.raises(Damaged):
        Reader().receive(b"".join(frames) + writer.end())


def test_what_comes_after_the_end_is_noticed() -> None:
    with pytest.raises(Damaged, match="after the end"):
        Reader().receive(Writer().end() + b"x" * 20)


def test_large_payloads_are_cut_into_frames() -> None:
    payload = bytes(CHUNK * 2 + 5)
    assert b"".join(Reader().receive(Writer().data(payload))) == payload


def test_a_compressed_frame_that_nobody_agreed_on() -> None:
    with pytest.raises(Damaged, match="no compression"):
        Reader().receive(Writer(compressor()).data(bytes(1000)))


def test_a_frame_that_would_expand_to_too_much() -> None:
    bomb = compressor()(bytes(CHUNK + 1))
    with pytest.raises(Damaged, match="too large"):
        expander()(bomb)


@given(st.binary(max_size=GREETING_BYTES + 2))
def test_a_greeting_that_is_none(untrusted: bytes) -> None:
    with pytest.raises(Damaged):
        parse_greeting(untrusted)
    with pytest.raises(Damaged):
        parse_welcome(untrusted)


@given(st.binary(min_size=TICKET_BYTES, max_size=TICKET_BYTES))
def test_a_greeting_comes_back(ticket: bytes) -> None:
    assert parse_greeting(greeting(1, ticket)) == (1, ticket)
    assert parse_welcome(welcome(1)) == 1


def test_versions() -> None:
    assert agreed([1, 2, 3]) == 1
    assert agreed([7]) is None
    with pytest.raises(Damaged, match="version 9"):
        parse_greeting(greeting(9, bytes(TICKET_BYTES)))
    assert len(SIGNATURE) == 16

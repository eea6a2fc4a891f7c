# SPDX-License-Identifier: Apache-2.0
"""The wire protocol: whatever comes, in whatever pieces, means the same and breaks nothing."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenopsd.backends.xen.xenstore.wire import (
    PAYLOAD_LIMIT,
    Decoder,
    Operation,
    Packet,
    Request,
    Unencodable,
    WireError,
    encode,
    encode_packet,
    part,
    raw,
    strings,
    text,
)

WORDS = st.integers(0, 0xFFFFFFFF)
PACKETS = st.builds(Packet, st.sampled_from(Operation), WORDS, WORDS, st.binary(max_size=200))
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(places)]


@given(st.lists(PACKETS, max_size=8), st.lists(st.integers(0, 1 << 16), max_size=8))
def test_packets_survive_the_wire_however_it_is_cut(packets: list[Packet], cuts: list[int]) -> None:
    decoder = Decoder()
    data = b"".join(map(encode_packet, packets))
    assert [packet for piece in _pieces(data, cuts) for packet in decoder.feed(piece)] == packets
    assert not decoder.broken


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=8))
def test_garbage_is_the_same_garbage_however_it_is_cut(untrusted: bytes, cuts: list[int]) -> None:
    whole, cut = Decoder(), Decoder()
    assert [each for piece in _pieces(untrusted, cuts) for each in cut.feed(piece)] == whole.feed(untrusted)
    assert cut.broken == whole.broken


@pytest.mark.parametrize("header", [(20, 0), (23, 0), (0xFFFF, 0), (Operation.READ, (1 << 24) + 1)])
def test_what_cannot_be_a_packet_ends_the_conversation(header: tuple[int, int]) -> None:
    decoder = Decoder()
    kind, length = header
    bad = b"".join(word.to_bytes(4, "little") for word in (kind, 1, 0, length))
    good = encode_packet(Packet(Operation.READ, 1, 0, b"value"))
    assert [packet.untrusted_payload for packet in decoder.feed(good + bad + good)] == [b"value"]
    assert str(length) in decoder.broken
    assert decoder.feed(good) == []


@given(st.sampled_from(Operation), st.lists(NAMES, min_size=1, max_size=4), st.binary(max_size=100), WORDS, WORDS)
def test_a_request_says_its_strings_and_then_its_tail(
    operation: Operation, fields: list[str], tail: bytes, request_id: int, transaction: int
) -> None:
    [packet] = Decoder().feed(encode(Request(operation, tuple(fields), tail), request_id, transaction))
    assert packet[:3] == (operation, request_id, transaction)
    assert packet.untrusted_payload.removesuffix(tail).split(b"\0") == [*(field.encode() for field in fields), b""]


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Request(Operation.READ, ("/a\0b",)), "EINVAL"),
        (Request(Operation.READ, ("/\ud800",)), "EINVAL"),
        (Request(Operation.WRITE, ("/a",), bytes(PAYLOAD_LIMIT - 2)), "E2BIG"),
    ],
)
def test_what_would_be_misunderstood_is_not_said(request_: Request, error: str) -> None:
    with pytest.raises(Unencodable) as caught:
        encode(request_, 1)
    assert caught.value.error == error


def test_the_longest_request_is_said() -> None:
    assert len(encode(Request(Operation.WRITE, ("/a",), bytes(PAYLOAD_LIMIT - 3)), 1)) == 16 + PAYLOAD_LIMIT


@given(st.binary(max_size=100))
def test_any_value_is_a_string_that_is_the_same_value_again(untrusted: bytes) -> None:
    assert raw(text(untrusted)) == untrusted


@given(st.binary(max_size=60))
def test_no_payload_breaks_what_reads_it(untrusted: bytes) -> None:
    assert all("\0" not in each for each in strings(untrusted))
    error = Packet(Operation.ERROR, 1, 0, untrusted).error
    assert error is not None
    assert error.isalnum()
    try:
        piece = part(untrusted)
    except WireError:
        assert b"\0" not in untrusted
    else:
        assert piece.last or piece.length, "who asks on gets further"


@given(st.lists(NAMES.filter(bool), max_size=6), st.integers(0, 1 << 64))
def test_the_parts_of_a_directory(names: list[str], generation: int) -> None:
    listed = b"".join(name.encode() + b"\0" for name in names)
    head = b"%d\0" % generation
    assert part(head + listed + b"\0") == (str(generation), names, len(listed), True)
    if names:
        assert part(head + listed) == (str(generation), names, len(listed), False)


def test_an_error_has_a_name_and_nothing_else_has() -> None:
    assert Packet(Operation.ERROR, 1, 0, b"ENOENT\0").error == "ENOENT"
    assert Packet(Operation.READ, 1, 0, b"ENOENT\0").error is None

# SPDX-License-Identifier: Apache-2.0
"""Frames and properties: any split of the bytes is the same sequence of frames, and no input crashes the reader."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pika import BasicProperties, data, frame, spec

from message_switch import frames, properties
from message_switch.model.faults import Code, ConnectionFault
from message_switch.model.message import Death

payloads = st.binary(max_size=300)
wire_frames = st.lists(st.tuples(st.sampled_from([1, 2, 3, 8]), st.integers(0, 65535), payloads), max_size=12)
short_strings = st.text(max_size=60)
tables = st.dictionaries(
    st.text(min_size=1, max_size=20),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.text(max_size=30) | st.binary(max_size=30),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=5,
)
any_properties = st.builds(
    BasicProperties,
    content_type=st.none() | short_strings,
    headers=st.none() | tables,
    delivery_mode=st.none() | st.sampled_from([1, 2]),
    priority=st.none() | st.integers(0, 9),
    correlation_id=st.none() | short_strings,
    reply_to=st.none() | short_strings,
    expiration=st.none() | short_strings,
    message_id=st.none() | short_strings,
    timestamp=st.none() | st.integers(0, 2**32),
    user_id=st.none() | short_strings,
    app_id=st.none() | short_strings,
)


def as_bytes(items: list[tuple[int, int, bytes]]) -> bytes:
    return frames.GREETING + b"".join(
        bytes([kind]) + number.to_bytes(2, "big") + len(payload).to_bytes(4, "big") + payload + b"\xce"
        for kind, number, payload in items
    )


def pieces(whole: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in cuts)})
    return [whole[a:b] for a, b in pairwise(at)]


@given(wire_frames, st.lists(st.integers(0, 10000), max_size=20))
def test_any_split_is_the_same_frames(items: list[tuple[int, int, bytes]], cuts: list[int]) -> None:
    reader = frames.FrameReader(4096)
    found = [one for piece in pieces(as_bytes(items), cuts) for one in apart(reader.feed(piece))]
    assert found == [(frames.PROTOCOL_HEADER, 0, frames.GREETING), *items]


def apart(found: Iterable[frames.Frame]) -> Iterator[frames.Frame]:
    """Frame by frame, also what the reader gives together."""
    for one in found:
        if len(one) == 5:
            assert one[0] == frames.MESSAGE
            yield from zip((frames.METHOD, frames.HEADER, frames.BODY), (one[1],) * 3, one[2:], strict=True)
        elif one is not frames.HALF_WAY:
            yield one


any_message = st.builds(
    lambda channel, key, header, body, frame_max: (
        frame.Method(channel, spec.Basic.Publish(exchange="", routing_key=key)).marshal()
        + b"".join(frames.content(channel, header, body, frame_max))
    ),
    st.integers(0, 3),
    short_strings,
    st.binary(min_size=2, max_size=20),
    st.binary(max_size=300),
    st.integers(100, 400),
)


@given(
    st.lists(any_message | st.just(frames.HEARTBEAT_FRAME), max_size=6),
    st.lists(st.tuples(st.integers(8), st.integers(0, 255)), max_size=2),
    st.lists(st.integers(0, 10000), max_size=20),
)
def test_messages_are_their_frames_whole_or_damaged_in_any_split(
    written: list[bytes], damage: list[tuple[int, int]], cuts: list[int]
) -> None:
    whole = bytearray(frames.GREETING + b"".join(written))
    for at, value in damage:
        if len(whole) > 8:
            whole[8 + at % (len(whole) - 8)] = value
    one_by_one = everything([bytes(whole[at : at + 1]) for at in range(len(whole))])
    assert everything(pieces(bytes(whole), cuts)) == everything([bytes(whole)]) == one_by_one


def everything(chunks: list[bytes]) -> tuple[list[frames.Frame], Code | None]:
    reader = frames.FrameReader(4096)
    found: list[frames.Frame] = []
    try:
        for chunk in chunks:
            for one in apart(reader.feed(chunk)):
                found.append(one)  # one by one: those before a mistake count
    except ConnectionFault as fault:
        return found, fault.code
    return found, None


def test_half_way_through_many_frames_is_told_once() -> None:
    reader = frames.FrameReader(4096)
    list(reader.feed(frames.GREETING))
    found = list(reader.feed(frames.HEARTBEAT_FRAME * 100))
    assert [number for number, one in enumerate(found) if one is frames.HALF_WAY] == [50]
    found = list(reader.feed(frames.HEARTBEAT_FRAME * 4))
    assert frames.HALF_WAY not in found


@given(wire_frames, st.binary(max_size=60), st.lists(st.integers(0, 10000), max_size=20))
def test_a_mistake_is_the_same_mistake_in_any_split(
    items: list[tuple[int, int, bytes]], junk: bytes, cuts: list[int]
) -> None:
    whole = as_bytes(items) + junk
    assert everything(pieces(whole, cuts)) == everything([whole])


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (b"\x01\0\0\0\0\0\x01x\0", Code.FRAME_ERROR),
        (b"\x07\0\0\0\0\0\0\xce", Code.FRAME_ERROR),
        (b"\x01\0\0\0\0\x10\0", Code.FRAME_ERROR),
    ],
    ids=["no end", "unknown type", "too big"],
)
def test_broken_frames(broken: bytes, code: Code) -> None:
    assert everything([frames.GREETING + broken]) == ([(0, 0, frames.GREETING)], code)


@given(st.sampled_from(sorted(spec.methods)), st.binary(max_size=100))
@example(spec.Queue.Declare.INDEX, b"\0\0\x05abc")  # a string that ends before it says
@example(spec.Connection.StartOk.INDEX, b"\0\0\0\x0b\x01aT\xff\xff\xff\xff\xff\xff\xff\xff")  # a time after all times
@example(spec.Queue.Declare.INDEX, b"\0\0\0\0" + b"\0\0\0\x07\x01ad\x7f\xf8\0\0\0\0\0\0"[:12])
def test_no_method_crashes_it(number: int, untrusted: bytes) -> None:
    try:
        method = frames.decode_method(number.to_bytes(4, "big") + untrusted)
    except ConnectionFault:
        return
    assert number == method.INDEX


@given(short_strings, tables)
def test_a_method_that_is_short_of_bytes_is_refused(name: str, arguments: dict[str, object]) -> None:
    whole = frames.encode_method(1, spec.Queue.Declare(queue=name, durable=True, arguments=arguments))[7:-1]
    assert frames.decode_method(whole).queue == name
    for wrong in (whole[:-1], whole + b"\0"):
        with pytest.raises(ConnectionFault):
            frames.decode_method(wrong)


@given(short_strings, short_strings, st.booleans())
def test_publish_as_the_library_writes_it(exchange: str, key: str, mandatory: bool) -> None:
    method = spec.Basic.Publish(exchange=exchange, routing_key=key, mandatory=mandatory)
    payload = frame.Method(1, method).marshal()[7:-1]
    assert frames.parse_publish(payload) == (exchange, key, mandatory, False)


@given(st.binary(max_size=60))
def test_no_publish_crashes_it(untrusted: bytes) -> None:
    for parse in (frames.parse_publish, frames.parse_ack, frames.parse_content_header):
        try:
            parse(b"\0\x3c\0\x28" + untrusted)
        except ConnectionFault:
            continue


@given(short_strings, st.integers(1, 2**63), st.booleans(), short_strings, short_strings)
def test_deliver_as_the_library_reads_it(tag: str, number: int, again: bool, exchange: str, key: str) -> None:
    written = frames.deliver(3, frames.short(tag), number, again, frames.short(exchange) + frames.short(key))
    assert written == frame.Method(3, spec.Basic.Deliver(tag, number, again, exchange, key)).marshal()
    for multiple in (False, True):
        confirmed = frame.Method(3, spec.Basic.Ack(number, multiple)).marshal()
        assert frames.confirm(3, number, multiple=multiple) == confirmed
    assert frames.refuse(3, number) == frame.Method(3, spec.Basic.Nack(number, False, False)).marshal()


@given(st.binary(max_size=3000), st.integers(100, 1000))
def test_content_is_cut_to_frames(body: bytes, frame_max: int) -> None:
    header = b"".join(BasicProperties(content_type="a").encode())
    written = frames.GREETING + b"".join(frames.content(5, header, body, frame_max))
    kinds = list(frames.FrameReader(frame_max).feed(written))[1:]
    assert frames.parse_content_header(kinds[0][2]) == (len(body), header)
    assert b"".join(payload for kind, _, payload in kinds if kind == frames.BODY) == body


@given(any_properties, short_strings)
def test_one_property_changed_the_others_kept(sent: BasicProperties, reply_to: str) -> None:
    raw = b"".join(sent.encode())
    parts = properties.split(raw)
    assert properties.join(parts) == raw
    assert properties.text(parts, properties.EXPIRATION) == sent.expiration
    there, sent.reply_to = sent.reply_to is not None, reply_to
    if there:
        assert properties.with_reply_to(raw, parts, reply_to) == b"".join(sent.encode())


@given(any_properties)
def test_deaths_are_added_to_the_headers(sent: BasicProperties) -> None:
    deaths = (Death("q2", "rejected", 1, 2.0, "x", "k"), Death("q1", "expired", 3, 1.0, "", "q1"))
    once = properties.with_deaths(b"".join(sent.encode()), deaths[1:], 5)
    read = BasicProperties().decode(properties.with_deaths(once, deaths, None))
    assert [(row["queue"], row["count"]) for row in read.headers.pop("x-death")] == [("q2", 1), ("q1", 3)]
    assert read.headers.pop("x-first-death-queue") == "q1"
    assert read.headers.pop("x-first-death-reason") == "expired"
    assert read.headers.pop("x-first-death-exchange") == ""
    assert read.expiration is None
    pieces: list[bytes] = []
    data.encode_table(pieces, sent.headers)
    assert read.headers == data.decode_table(b"".join(pieces), 0)[0]


@given(st.binary(max_size=80))
@example(b"\x20\0\0\0\0\x03\x01ad")
def test_no_properties_crash_it(untrusted: bytes) -> None:
    try:
        parts = properties.split(untrusted)
    except ConnectionFault:
        return
    assert properties.join(parts) == untrusted
    properties.with_deaths(untrusted, (Death("q", "expired", 1, 0.0, "", "q"),), None)


def test_a_float_survives_being_dead_lettered() -> None:
    table = b"\x01fd" + b"\x3f\xf8\0\0\0\0\0\0"
    raw = (1 << properties.HEADERS).to_bytes(2, "big") + len(table).to_bytes(4, "big") + table
    assert table in properties.with_deaths(raw, (Death("q", "expired", 1, 0.0, "", "q"),), None)

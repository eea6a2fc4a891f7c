# SPDX-License-Identifier: Apache-2.0
"""One connection's conversation, without a socket: byte by byte, with time that is told."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pika import BasicProperties, frame, spec

from message_switch.access.users import Applicant, Guess, User, Users, hashed
from message_switch.conversation.session import CLOSE_PATIENCE_S, Session, State
from message_switch.frames import GREETING, HEARTBEAT_FRAME, OVERHEAD, content
from message_switch.model.broker import Broker
from message_switch.switch import HIGH_WATER, Limits, Switch

NOTIFY = {"capabilities": {"consumer_cancel_notify": True, "authentication_failure_close": True}}


def method(number: int, what: Any) -> bytes:
    return bytes(frame.Method(number, what).marshal())


HELLO = (
    GREETING
    + method(0, spec.Connection.StartOk(NOTIFY, "PLAIN", b"\0xenops\0secret"))
    + method(0, spec.Connection.TuneOk(100, 4096, 10))
    + method(0, spec.Connection.Open("/"))
    + method(1, spec.Channel.Open())
)


def publish(key: str, body: bytes, **properties: Any) -> bytes:
    header = b"".join(BasicProperties(**properties).encode())
    return method(1, spec.Basic.Publish(0, "", key)) + b"".join(content(1, header, body, 4096))


class Peer:
    """A session and what it has said so far."""

    def __init__(self, switch: Switch | None = None, **options: Any) -> None:
        names = iter(range(10**6))
        self.switch = switch or Switch(Broker(unique=lambda: f"u{next(names)}"), Users("xenops", "secret"))
        self.session = Session(self.switch, lambda: None, 0.0, name="test", version="0", **options)
        self.said = b""

    def hear(self, data: bytes, now: float = 0.0) -> list[Any]:
        """Say something; what is answered: methods, and other frames as they are."""
        self.session.receive(data, now)
        return self.answers()

    def answers(self) -> list[Any]:
        said = self.session.outbox.take()
        self.said += said
        found: list[Any] = []
        while said:
            size, one = frame.decode_frame(said)
            said = said[size:]
            found.append(one.method if isinstance(one, frame.Method) else one)
        return found


def test_the_handshake() -> None:
    peer = Peer()
    start, tune, opened, channel = peer.hear(HELLO)
    assert start.mechanisms in ("PLAIN", b"PLAIN")
    assert start.server_properties["capabilities"]["publisher_confirms"] is True
    assert (tune.frame_max, tune.channel_max, tune.heartbeat) == (131072, 2047, 60)
    assert (opened.NAME, channel.NAME) == ("Connection.OpenOk", "Channel.OpenOk")
    closed = peer.hear(method(0, spec.Connection.Close(200, "bye", 0, 0)))
    assert [m.NAME for m in closed] == ["Connection.CloseOk"]
    assert peer.session.state is State.CLOSED


def test_external_is_for_our_own_user_only() -> None:
    hello = GREETING + method(0, spec.Connection.StartOk(NOTIFY, "EXTERNAL", b""))
    assert [m.NAME for m in Peer(peer=User("xenops")).hear(hello)] == ["Connection.Start", "Connection.Tune"]
    refused = Peer().hear(hello)[-1]
    assert (refused.NAME, refused.reply_code) == ("Connection.Close", 403)


@pytest.mark.parametrize("header", [b"AMQP\0\1\0\0", b"GET / HT", b"AMQP\3\1\0\0"])
def test_other_protocols_are_told_what_we_speak(header: bytes) -> None:
    peer = Peer()
    peer.session.receive(header, 0.0)
    assert peer.session.outbox.take() == GREETING
    assert peer.session.state is State.CLOSED


CONVERSATION = (
    HELLO
    + method(1, spec.Queue.Declare(0, "", exclusive=True))
    + method(1, spec.Queue.Declare(0, "kept", durable=True, arguments={"x-max-length": 3}))
    + method(1, spec.Confirm.Select())
    + publish("kept", b"x" * 9000, message_id="1", headers={"a": [1, "b"]})
    + method(1, spec.Basic.Consume(0, "kept", "tag"))
    + publish("kept", b"", reply_to="somebody", delivery_mode=2)
    + HEARTBEAT_FRAME
    + method(1, spec.Basic.Ack(1))
    + publish("nowhere", b"lost")
    + method(1, spec.Basic.Nack(2, requeue=True))
    + method(1, spec.Queue.Delete(0, "kept"))
    + method(1, spec.Basic.Ack(77))
    + method(1, spec.Channel.CloseOk())
    + method(1, spec.Channel.Open())
    + method(1, spec.Channel.Close(200, "", 0, 0))
    + method(5, spec.Basic.Get(0, "kept"))
    + method(0, spec.Connection.CloseOk())
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(CONVERSATION)), max_size=30))
def test_any_split_is_the_same_conversation(cuts: list[int]) -> None:
    whole, split = Peer(), Peer()
    whole.hear(CONVERSATION)
    at = sorted({0, len(CONVERSATION), *cuts})
    for start, end in pairwise(at):
        split.hear(CONVERSATION[start:end])
    assert split.said == whole.said
    assert whole.session.state is State.CLOSED
    codes = [m.reply_code for m in Peer().hear(CONVERSATION) if hasattr(m, "reply_code")]
    assert codes == [406, 504]


OTHER = CONVERSATION.replace(b"\0xenops\0secret", b"\0others\0secret")
OTHERS = f'[others]\npassword = "{hashed(b"secret")}"\nconfigure = ".*"\nwrite = ".*"\nread = ".*"\n'


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(OTHER)), max_size=30), st.integers(0, 30))
def test_however_late_its_password_is_found_right_it_is_the_same_conversation(cuts: list[int], after: int) -> None:
    whole, late = Peer(), Peer()
    whole.hear(CONVERSATION)
    late.switch.users.read(OTHERS)
    waiting: list[tuple[Applicant, Guess]] = []
    late.switch.check = lambda applicant, guess: waiting.append((applicant, guess))

    def decide() -> None:
        for applicant, guess in waiting:
            assert applicant.waits
            applicant.checked(late.switch.users.let_in(guess), 0.0)
        waiting.clear()

    at = sorted({0, len(OTHER), *cuts})
    for number, (start, end) in enumerate(pairwise(at)):
        if number >= after:
            decide()
        late.hear(OTHER[start:end])
    decide()
    late.answers()
    assert late.said == whole.said


def test_half_of_many_answers_is_written_while_the_rest_is_worked_on() -> None:
    written: list[bytes] = []
    peer = Peer(write=lambda: written.append(peer.session.outbox.take()))
    peer.hear(HELLO + method(1, spec.Queue.Declare(0, "q", durable=True)))
    peer.session.receive(method(1, spec.Basic.Get(0, "q")) * 40, 0.0)
    empty = method(1, spec.Basic.GetEmpty())
    assert (written, peer.session.outbox.take()) == ([empty * 20], empty * 20)


def test_byte_by_byte() -> None:
    whole, split = Peer(), Peer()
    whole.hear(CONVERSATION)
    for at in range(len(CONVERSATION)):
        split.hear(CONVERSATION[at : at + 1])
    assert split.said == whole.said


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_input_crashes_it(data: st.DataObject) -> None:
    untrusted = bytearray(CONVERSATION)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(untrusted) - 1))
        untrusted[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    peer = Peer()
    peer.session.receive(bytes(untrusted), 0.0)
    peer.session.lost(1.0)
    assert not peer.switch.broker.repliers
    assert not any(queue.owner or queue.held or queue.consumers for queue in peer.switch.broker.queues.values())


WRONG: dict[str, tuple[int, bytes]] = {
    "content without publish": (505, b"".join(content(1, b"\0\0", b"x", 4096))),
    "a method amid content": (505, method(1, spec.Basic.Publish(0, "", "q")) + method(1, spec.Basic.Get(0, "q"))),
    "too much content": (501, publish("q", b"x")[:-9] + b"\x03\0\1\0\0\0\2xx\xce"),
    "heartbeat on a channel": (501, b"\x08\0\1\0\0\0\0\xce"),
    "channel not open": (504, method(7, spec.Basic.Get(0, "q"))),
    "channel opened twice": (504, method(1, spec.Channel.Open())),
    "too many channels": (530, method(101, spec.Channel.Open())),
    "frame too big": (501, b"\x01\0\1\0\1\0\0"),
    "unknown method": (503, b"\x01\0\1\0\0\0\4\0\x3c\0\x63\xce"),
    "server's method": (540, method(1, spec.Basic.GetEmpty())),
    "login again": (503, method(0, spec.Connection.TuneOk(0, 0, 0))),
    "immediate": (540, method(1, spec.Basic.Publish(0, "", "q", immediate=True))),
    "consumer tag twice": (
        530,
        method(1, spec.Queue.Declare(0, "e", exclusive=True)) + 2 * method(1, spec.Basic.Consume(0, "e", "t")),
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_mistakes_that_close_the_connection(what: str) -> None:
    code, wrong = WRONG[what]
    peer = Peer()
    peer.hear(HELLO)
    closed = peer.hear(wrong)[-1]
    assert (closed.NAME, closed.reply_code) == ("Connection.Close", code)
    assert not peer.hear(publish("q", b"nobody listens any more"))
    peer.hear(method(0, spec.Connection.CloseOk()))
    # Behind a broken frame not even the answer can be told from noise; then patience decides.
    assert (peer.session.state is State.CLOSED) == (what != "frame too big")
    peer.session.tick(CLOSE_PATIENCE_S)
    assert peer.session.state.name == "CLOSED"


def test_a_body_over_the_limit_closes_the_channel() -> None:
    peer = Peer(Switch(Broker(), Users("xenops", "secret"), Limits(body_max=1000)))
    peer.hear(HELLO)
    closed, pong = peer.hear(publish("q", b"x" * 5000) + method(2, spec.Channel.Open()))
    assert (closed.NAME, closed.reply_code, pong.NAME) == ("Channel.Close", 406, "Channel.OpenOk")


def test_what_all_have_begun_and_not_ended_is_bounded() -> None:
    switch = Switch(Broker(bytes_max=100_000), Users("xenops", "secret"))
    first, second, third = Peer(switch), Peer(switch), Peer(switch)
    last = -(60_000 % (4096 - OVERHEAD) + OVERHEAD)
    whole = publish("q", b"x" * 60_000)
    begun, rest = whole[:last], whole[last:]
    for peer in (first, second, third):
        peer.hear(HELLO)
    assert not first.hear(begun)
    closed = second.hear(begun)[-1]
    assert (closed.NAME, closed.reply_code) == ("Connection.Close", 506)
    second.session.lost(0.0)
    first.hear(rest)
    assert switch.begun == 0
    third.hear(begun)
    third.hear(method(1, spec.Channel.Close(200, "", 0, 0)))
    assert switch.begun == 0


def test_heartbeats_both_ways() -> None:
    peer = Peer()
    peer.hear(HELLO)  # agreed: 10 s
    peer.session.spoke_at = 0.0
    peer.session.tick(4.9)
    assert peer.answers() == []
    peer.session.tick(5.0)
    assert peer.answers() == [frame.Heartbeat()]
    peer.hear(HEARTBEAT_FRAME, now=15.0)
    peer.session.tick(35.0)
    assert peer.session.state is State.RUNNING
    peer.session.tick(35.1)
    assert peer.session.state is State.CLOSED


def test_who_does_not_log_in_in_time_is_not_waited_for() -> None:
    peer = Peer()
    peer.hear(GREETING)
    peer.session.tick(9.9)
    assert peer.session.state is State.START
    peer.session.tick(10.0)
    assert peer.session.state is State.CLOSED


def test_a_slow_reader_gets_no_more_until_it_has_read() -> None:
    peer = Peer()
    peer.hear(HELLO + method(1, spec.Queue.Declare(0, "q", durable=True)))
    size = 100_000
    for _ in range(10):
        peer.hear(publish("q", b"x" * size))
    peer.session.receive(method(1, spec.Basic.Consume(0, "q", "t", no_ack=True)), 0.0)
    queue = peer.switch.broker.queues["q"]
    assert HIGH_WATER < peer.session.outbox.size < HIGH_WATER + 2 * size
    assert len(queue.ready) == 7
    peer.session.outbox.take()
    peer.session.resume(0.0)
    assert len(queue.ready) == 4


def test_confirms_wait_for_the_ledger() -> None:
    class Ledger:
        noted = 0

        hurried = 0

        def note(self, record: object) -> int:
            self.noted += 1
            return self.noted

        def hurry(self) -> None:
            self.hurried += 1

        def forget(self, number: int) -> bool:
            return number == 7

    ledger = Ledger()
    switch = Switch(Broker(ledger=ledger), Users("xenops", "secret"))
    peer = Peer(switch)
    peer.hear(HELLO + method(1, spec.Queue.Declare(0, "q", durable=True)) + method(1, spec.Confirm.Select()))
    for _ in range(3):
        assert peer.hear(publish("q", b"", delivery_mode=2)) == []
    (at_once,) = peer.hear(publish("q", b""))
    assert (at_once.delivery_tag, at_once.multiple) == (4, False)
    switch.on_synced(3)  # the queue and two messages
    (both,) = peer.answers()
    assert (both.delivery_tag, both.multiple) == (2, True)
    switch.on_synced(4)
    (third,) = peer.answers()
    assert (third.delivery_tag, third.multiple) == (3, False)
    assert not switch.waiting
    assert switch.broker.count.confirmed == 4
    assert ledger.hurried == 3  # nobody had them in hand
    reader = Peer(switch)
    reader.hear(HELLO + method(1, spec.Basic.Consume(0, "q", "t")))
    reader.hear(method(1, spec.Basic.Ack(4, True)))
    assert ledger.noted == 4 + 3  # what was written is settled in writing
    for _ in range(2):
        assert peer.hear(publish("q", b"", delivery_mode=2)) == []
    assert ledger.hurried == 3
    reader.hear(method(1, spec.Basic.Ack(6)))
    (sixth,) = peer.answers()
    assert (sixth.delivery_tag, sixth.multiple) == (6, False)
    reader.hear(method(1, spec.Basic.Ack(5)))
    (fifth,) = peer.answers()
    assert (fifth.delivery_tag, fifth.multiple) == (5, False)
    assert not switch.waiting


def _replier_gone(peer: Peer) -> None:
    peer.session.lost(1.0)


@pytest.mark.parametrize(
    "end", [lambda peer: peer.hear(method(1, spec.Channel.Close(200, "", 0, 0))), _replier_gone], ids=["close", "lost"]
)
def test_what_a_channel_held_goes_back(end: Callable[[Peer], object]) -> None:
    switch = Switch(Broker(), Users("xenops", "secret"))
    holder, other = Peer(switch), Peer(switch)
    holder.hear(HELLO + method(1, spec.Queue.Declare(0, "q", durable=True)))
    holder.hear(publish("q", b"1") + publish("q", b"2") + method(1, spec.Basic.Consume(0, "q", "t")))
    other.hear(HELLO + method(1, spec.Basic.Consume(0, "q", "t")))
    end(holder)
    got = other.answers()
    assert [m.redelivered for m in got if isinstance(m, spec.Basic.Deliver)] == [True, True]
    assert [m.fragment for m in got if isinstance(m, frame.Body)] == [b"1", b"2"]

# SPDX-License-Identifier: Apache-2.0
"""The model against a simpler one: lists for queues, and everything said aloud that a real one may do."""

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from message_switch.metrics import SwitchCollector
from message_switch.model.broker import Broker
from message_switch.model.exchange import matches
from message_switch.model.faults import AmqpFault
from message_switch.model.message import Entry, Message
from message_switch.model.queue import Consumer, Queue
from message_switch.model.records import Record, Stored, decode, encode
from message_switch.model.recovery import restore, snapshot


class Written:
    """A ledger that writes at once, or as slowly as it may: then whatever need not be written never is."""

    def __init__(self, *, slow: bool = False) -> None:
        self.slow = slow
        self.noted: dict[int, Record] = {}
        self.hurried = 0

    @property
    def records(self) -> list[Record]:
        return list(self.noted.values())

    def note(self, record: Record) -> int:
        number = max(self.noted, default=0) + 1
        self.noted[number] = decode(encode(record))
        return number

    def hurry(self) -> None:
        self.hurried += 1

    def forget(self, number: int) -> bool:
        return self.slow and self.noted.pop(number, None) is not None


class Reader:
    """A consumer's channel and its connection's gate in one."""

    def __init__(self) -> None:
        self.writable = True
        self.got: list[tuple[Consumer, Entry]] = []
        self.told = 0

    def deliver(self, consumer: Consumer, entry: Entry) -> None:
        assert self.writable
        self.got.append((consumer, entry))

    def cancelled(self, consumer: Consumer) -> None:
        self.told += 1


def message(key: str, body: bytes, **more: Any) -> Message:
    return Message("", key, b"\0\0", body, persistent=True, **more)


class OneQueue(RuleBasedStateMachine):
    """Publish, consume, settle, give back, restart, in any order: nothing is lost, doubled or out of turn."""

    @initialize(limit=st.none() | st.integers(1, 5), prefetch=st.integers(0, 3), slow=st.booleans())
    def begin(self, limit: int | None, prefetch: int, *, slow: bool) -> None:
        self.ledger = Written(slow=slow)
        self.broker = Broker(ledger=self.ledger)
        untrusted: dict[str, object] = {} if limit is None else {"x-max-length": limit, "x-overflow": "reject-publish"}
        self.queue = self._declare(untrusted)
        self.limit, self.prefetch = limit, prefetch
        self.readers: list[tuple[Consumer, Reader]] = []
        self.expected: list[int] = []  # what waits, oldest first
        self.next = 0

    def _declare(self, untrusted: dict[str, object]) -> Queue:
        return self.broker.declare_queue(
            "q", None, durable=True, exclusive=False, auto_delete=False, untrusted=untrusted
        )

    @rule()
    def publish(self) -> None:
        full = self.limit is not None and len(self.queue.ready) >= self.limit
        outcome = self.broker.publish(message("q", b"%d" % self.next), None)
        assert outcome.accepted == (not full)
        if outcome.accepted:
            assert self.ledger.noted[outcome.wait_for].body == b"%d" % self.next  # type: ignore[union-attr]
            self.expected.append(self.next)
        self.next += 1

    @rule()
    def join(self) -> None:
        reader = Reader()
        consumer = Consumer("c", reader, reader, prefetch=self.prefetch)
        self.broker.consume(self.queue, consumer)
        self.readers.append((consumer, reader))
        self.queue.pump()

    @precondition(lambda self: any(reader.got for _, reader in self.readers))
    @rule(data=st.data(), how=st.sampled_from(["ack", "reject", "requeue"]))
    def settle(self, data: st.DataObject, how: str) -> None:
        holders = [reader for _, reader in self.readers if reader.got]
        reader = data.draw(st.sampled_from(holders))
        consumer, entry = reader.got.pop(data.draw(st.integers(0, len(reader.got) - 1)))
        consumer.unsettled -= 1
        if how == "requeue":
            self.queue.requeue([entry])
            assert entry.redelivered
        else:
            (self.queue.settle if how == "ack" else self.queue.reject)(entry)
            self.expected.remove(int(entry.message.body))
        self.queue.pump()

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        consumer, reader = self.readers.pop(data.draw(st.integers(0, len(self.readers) - 1)))
        self.broker.leave(consumer)
        self.queue.requeue([entry for _, entry in reader.got])
        self.queue.pump()

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def stall_or_resume(self, data: st.DataObject) -> None:
        _, reader = data.draw(st.sampled_from(self.readers))
        reader.writable = not reader.writable
        self.queue.pump()

    @rule(compacted=st.booleans())
    def restart(self, compacted: bool) -> None:
        history = list(snapshot(self.broker)) if compacted else list(self.ledger.records)
        last = self.broker.last_id
        self.ledger.noted = dict(enumerate(history, start=1))
        self.broker = Broker(ledger=self.ledger)
        restore(self.broker, iter(history))
        self.queue = self.broker.queues["q"]
        self.readers.clear()
        assert self.broker.last_id <= last if self.ledger.slow and not compacted else self.broker.last_id == last
        assert all(entry.redelivered for entry in self.queue.ready)

    @invariant()
    def every_message_is_in_one_place(self) -> None:
        waiting = [int(entry.message.body) for entry in self.queue.ready]
        held = [int(entry.message.body) for _, reader in self.readers for _, entry in reader.got]
        assert waiting == sorted(waiting)
        assert sorted(waiting + held) == self.expected
        assert {int(entry.message.body) for entry in self.queue.held} == set(held)
        everything = (*self.queue.ready, *self.queue.held)
        assert self.broker.queued_bytes == sum(entry.message.size for entry in everything)
        assert self.queue.ready_bytes == sum(len(entry.message.body) for entry in self.queue.ready)

    @invariant()
    def nobody_idles_while_something_waits(self) -> None:
        for consumer, reader in self.readers:
            assert consumer.unsettled == len(reader.got)
            assert not self.prefetch or consumer.unsettled <= self.prefetch
            free = reader.writable and (not self.prefetch or consumer.unsettled < self.prefetch)
            assert not (free and self.queue.ready)


TestOneQueue = OneQueue.TestCase
TestOneQueue.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

words = st.sampled_from(["a", "b", "", "*", "#"])


@given(st.lists(words, max_size=6), st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=6))
def test_topic_patterns_mean_what_a_regular_expression_means(pattern: list[str], key: list[str]) -> None:
    """With every word followed by a dot, `*` and `#` are one and any number of words."""
    pattern_text, key_text = ".".join(pattern), ".".join(key)
    expression = "".join(
        {"*": r"[^.]*\.", "#": r"(?:[^.]*\.)*"}.get(word, re.escape(word) + r"\.")
        for word in (pattern_text.split(".") if pattern_text else [])
    )
    dotted = "".join(word + "." for word in (key_text.split(".") if key_text else []))
    assert matches(pattern_text, key_text) == bool(re.fullmatch(expression, dotted))


def test_many_hashes_cost_no_more_than_their_number() -> None:
    assert matches(".".join(["#"] * 100), ".".join(["a"] * 100))
    assert not matches(".".join(["#", "a"] * 60), ".".join(["a"] * 100 + ["b"]))


NAMES = st.sampled_from(["a", "b", "c"])
STEPS = st.one_of(
    st.tuples(st.just("queue"), NAMES, st.booleans()),
    st.tuples(st.just("delete queue"), NAMES),
    st.tuples(
        st.just("exchange"), NAMES, st.sampled_from(["direct", "fanout", "topic"]), st.booleans(), st.none() | NAMES
    ),
    st.tuples(st.just("delete exchange"), NAMES),
    st.tuples(st.just("bind"), NAMES, NAMES, NAMES),
    st.tuples(st.just("unbind"), NAMES, NAMES, NAMES),
    st.tuples(st.just("join"), NAMES, NAMES, NAMES),
    st.tuples(st.just("part"), NAMES, NAMES, NAMES),
    st.tuples(st.just("publish"), st.sampled_from(["", "a", "b", "c"]), NAMES, st.booleans()),
    st.tuples(st.just("take"), NAMES, st.sampled_from(["ack", "reject", "hold"])),
    st.tuples(st.just("purge"), NAMES),
)


def perform(broker: Broker, step: tuple[Any, ...]) -> None:
    match step:
        case ("queue", name, limited):
            limits = {"x-max-length": 2, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "c"}
            untrusted: dict[str, object] = limits if limited else {}
            broker.declare_queue(name, None, durable=True, exclusive=False, auto_delete=False, untrusted=untrusted)
        case ("delete queue", name):
            broker.delete_queue(broker.queue(name, None))
        case ("exchange", name, kind, auto_delete, alternate):
            options = {"durable": True, "auto_delete": auto_delete, "internal": False}
            broker.exchanges.declare(name, kind, **options, alternate=alternate)
        case ("join", source, name, key):
            broker.exchanges.bind(source, broker.exchanges.known(name), key)
        case ("part", source, name, key):
            broker.exchanges.unbind(source, broker.exchanges.known(name), key)
        case ("delete exchange", name):
            broker.exchanges.delete(name, if_unused=False)
        case ("bind", exchange, name, key):
            broker.exchanges.bind(exchange, broker.queue(name, None), key)
        case ("unbind", exchange, name, key):
            broker.exchanges.unbind(exchange, broker.queue(name, None), key)
        case ("publish", exchange, key, persistent):
            broker.publish(Message(exchange, key, b"\0\0", b"x", persistent=persistent), broker.publishable(exchange))
        case ("purge", name):
            broker.queue(name, None).purge()
        case ("take", name, how):
            queue = broker.queue(name, None)
            entry = queue.get(no_ack=False)
            if entry is not None and how != "hold":
                (queue.settle if how == "ack" else queue.reject)(entry)


@settings(deadline=None)
@given(st.lists(STEPS, max_size=40), st.booleans())
def test_history_and_snapshot_give_the_same_switch(steps: list[tuple[Any, ...]], slow: bool) -> None:
    ledger = Written(slow=slow)
    broker = Broker(ledger=ledger)
    for step in steps:
        with suppress(AmqpFault):
            perform(broker, step)
    whole = list(snapshot(broker))
    for history in (list(ledger.records), whole):
        again = Broker()
        restore(again, history)
        assert without_order(snapshot(again)) == without_order(whole)


def without_order(found: Iterable[Record]) -> list[Record]:
    """Declarations in one order, whatever theirs was; each queue's messages in the order they have."""
    return sorted(found, key=lambda r: (type(r).__name__, r.queues[0] if isinstance(r, Stored) else repr(r)))


def test_time_passes_only_when_it_is_told() -> None:
    alarms: list[float] = []
    broker = Broker(now=100.0, alarm_clock=alarms.append)
    options: dict[str, Any] = {"durable": True, "exclusive": False, "auto_delete": False}
    dead = broker.declare_queue("dead", None, **options, untrusted={})
    arguments = {"x-message-ttl": 2000, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    queue = broker.declare_queue("q", None, **options, untrusted=arguments | {"x-expires": 60000})
    broker.publish(message("q", b"own", ttl_ms=500), None)
    broker.publish(message("q", b"queue's"), None)
    assert min(alarms) == 100.5
    broker.now = 100.49
    assert broker.sweep() == 100.5
    broker.now = 100.5
    assert broker.sweep() == 102.0
    assert [entry.message.body for entry in dead.ready] == [b"own"]
    broker.now = 102.0
    assert broker.sweep() == 160.0
    assert not queue.ready
    broker.now = 160.0
    broker.sweep()
    assert set(broker.queues) == {"dead"}


def test_memory_has_an_end_and_says_so() -> None:
    broker = Broker(bytes_max=10_000)
    broker.declare_queue("q", None, durable=True, exclusive=False, auto_delete=False, untrusted={})
    outcomes = [broker.publish(message("q", b"x" * 1000), None).accepted for _ in range(10)]
    assert outcomes == sorted(outcomes, reverse=True)
    assert not outcomes[-1]
    broker.queues["q"].purge()
    assert broker.queued_bytes == 0
    assert broker.publish(message("q", b"x"), None).accepted


def test_a_dead_letter_is_not_refused_for_lack_of_memory() -> None:
    """It was taken in before, and confirmed: nobody would send it again."""
    broker = Broker(bytes_max=10_000)
    common = {"durable": True, "exclusive": False, "auto_delete": False}
    broker.declare_queue("dead", None, untrusted={}, **common)
    where: dict[str, object] = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead", "x-message-ttl": 1}
    work = broker.declare_queue("work", None, untrusted=where, **common)
    accepted = 0
    while broker.publish(message("work", b"x" * 100), None).accepted:
        accepted += 1
    assert accepted > 10
    for entry in [work.get(no_ack=False) for _ in range(5)]:
        assert entry is not None
        work.reject(entry)
    broker.now = 1.0
    broker.sweep()
    assert (len(work.ready), len(broker.queues["dead"].ready)) == (0, accepted)


def test_figures_for_prometheus() -> None:
    broker = Broker(now=10.0)
    options: dict[str, Any] = {"durable": True, "exclusive": False, "auto_delete": False, "untrusted": {}}
    broker.declare_queue("named", None, **options)
    unnamed = broker.declare_queue(broker.fresh_name(), None, **options, server_named=True)
    broker.publish(message("named", b"x"), None)
    broker.publish(message(unnamed.name, b"x"), None)
    broker.publish(message("nowhere", b"x"), None)
    registry = CollectorRegistry()
    registry.register(SwitchCollector(broker, lambda: 3, lambda: 9, lambda: 4, lambda: 12.5))
    read = registry.get_sample_value
    assert read("message_switch_published_messages_total") == 3
    assert read("message_switch_unroutable_messages_total") == 1
    assert read("message_switch_connections") == 3
    assert read("message_switch_unread_bytes") == 9
    assert read("message_switch_journal_bytes") == 4
    assert read("message_switch_queue_ready", {"queue": "named"}) == 1
    assert read("message_switch_queue_oldest_seconds", {"queue": "named"}) == 2.5
    assert read("message_switch_queue_ready", {"queue": unnamed.name}) is None
    assert read("message_switch_queues") == 2

# SPDX-License-Identifier: Apache-2.0
"""What is judged, hidden and parsed without a broker."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from message_cli import redact, render
from message_cli.admin.rabbitmq import parse_queues, stat
from message_cli.calling import measured
from message_cli.diagnosis import Verdict, verdict
from message_cli.passing import line
from xenops.bus.port import JSON, MSGPACK, Message
from xenops.bus.watch.firehose import passed
from xenops.errors import Fault
from xenops.interfaces.switch import QueueStat
from xenops.types.record import UNSET

VALUES = st.recursive(
    st.none() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(VALUES, st.sampled_from(redact.SECRET_WORDS), st.text(), st.text())
def test_no_secret_field_is_ever_shown(beside: object, word: str, before: str, after: str) -> None:
    shown = redact.redacted({"beside": beside, "deep": [{before + word.upper() + after: "sesame-4711"}]})
    assert "sesame-4711" not in repr(shown)


def test_passwords_of_urls_are_hidden() -> None:
    assert redact.redacted(["see amqp://u:p4ss@h/%2F"]) == ["see amqp://u:(hidden)@h/%2F"]


@given(st.binary(), st.sampled_from([JSON, MSGPACK, "text/plain", ""]))
def test_any_bytes_can_be_looked_at(untrusted: bytes, kind: str) -> None:
    message = Message(untrusted, content_type=kind)
    assert isinstance(redact.method_of(message), str)
    assert isinstance(redact.fault_of(message), str)
    redact.body_of(message)


@example("", {}, b"\xd5\x00\x00\x00")
@given(st.text(), st.dictionaries(st.sampled_from(["routing_keys", "properties", "redelivered"]), VALUES), st.binary())
def test_any_copy_can_be_looked_at(key: str, untrusted: dict[str, object], body: bytes) -> None:
    row = line(passed(key, untrusted, body), bodies=True, seen_s=0.0)
    assert "\n" not in render.passed(row)


@given(st.binary())
def test_any_answer_of_the_management_api_is_rows_or_a_fault(untrusted: bytes) -> None:
    try:
        rows = parse_queues(untrusted)
    except Fault:
        return
    assert [stat(row, 1e9).name for row in rows] == [row.name for row in rows]


@pytest.mark.parametrize(
    ("said", "age_s"),
    [(90, 10), (100, 0), (101, None), (0, None), (-5, None), (10**18, None), ('""', None), ("null", None)],
)
def test_the_age_of_a_message_is_believed_where_it_can_be_true(said: object, age_s: float | None) -> None:
    (row,) = parse_queues(f'[{{"name": "q", "head_message_timestamp": {said}}}]'.encode())
    assert stat(row, 100.0).oldest_s == (UNSET if age_s is None else age_s)


@pytest.mark.parametrize(
    ("queue", "expected"),
    [
        (QueueStat(name="q", ready=1), Verdict.NEVER_STARTED),
        (QueueStat(name="q", ready=1, served=True), Verdict.CRASHED),
        (QueueStat(name="q", consumers=1, served=True), Verdict.RUNNING),
        (QueueStat(name="q", consumers=1, unacked=1, oldest_s=29.0), Verdict.RUNNING),
        (QueueStat(name="q", consumers=1, unacked=1, oldest_s=31.0), Verdict.DEADLOCKED),
        (QueueStat(name="q", consumers=1, ready=2, settled=5), Verdict.DEADLOCKED),
    ],
)
def test_a_look_at_a_queue_is_judged(queue: QueueStat, expected: Verdict) -> None:
    assert verdict(queue, queue, 30.0) is expected


def test_without_ages_a_second_look_tells() -> None:
    before = QueueStat(name="q", consumers=1, ready=2, settled=5)
    after = QueueStat(name="q", consumers=1, ready=2, settled=6)
    assert verdict(before, after, 30.0) is Verdict.RUNNING


@given(st.lists(st.floats(0, 10), max_size=50))
def test_the_median_is_no_higher_than_the_tail(taken: list[float]) -> None:
    figures = measured(taken, 1.0, 0)
    assert figures["p50_ms"] <= figures["p99_ms"]

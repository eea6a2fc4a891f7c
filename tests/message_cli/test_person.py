# SPDX-License-Identifier: Apache-2.0
"""A person who answers by hand: what they are shown, what they may type, and that nothing is lost when they leave."""

import asyncio
import json
import secrets
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st

from message_cli.answering.person import Unreadable, answered
from tests.terminal import Terminal
from xenops import wire
from xenops.bus.amqp import AmqpBus
from xenops.bus.port import Message
from xenops.errors import DoesNotExist, Fault

from .conftest import START, Place

pytestmark = pytest.mark.timeout(120)


@given(st.one_of(st.text(), st.text().map("!".__add__), st.sampled_from(sorted(Fault.known)).map("!".__add__)))
def test_whatever_is_typed_is_an_answer_or_is_asked_for_again(typed: str) -> None:
    try:
        reply = answered(typed)
    except Unreadable:
        return
    assert msgspec.msgpack.decode(reply).keys() in ({"result"}, {"fault"})


def test_a_fault_is_typed_by_its_name_and_fields() -> None:
    with pytest.raises(DoesNotExist, match="x"):
        wire.decode_result(answered('!DoesNotExist {"kind": "VM", "key": "x"}'), object)
    for typed, why in (("!Nonsense", "no fault 'Nonsense'"), ("!DoesNotExist {}", "kind"), ("!DoesNotExist {", "JSON")):
        with pytest.raises(Unreadable, match=why):
            answered(typed)


@pytest.fixture
def serving_by_hand(environ: dict[str, str]) -> Iterator[Callable[[str], Terminal]]:
    opened: list[Terminal] = []

    def start(queue: str) -> Terminal:
        opened.append(Terminal([sys.executable, "-c", START, "serve", queue], environ))
        opened[-1].see("serving")
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def post(place: Place, queue: str, body: bytes, content_type: str = "application/json", **properties: Any) -> None:
    with pika.BlockingConnection(pika.URLParameters(place.url)) as connection:
        about = pika.BasicProperties(content_type, **properties)
        connection.channel().basic_publish("", queue, body, about)


def waiting(place: Place, queue: str) -> int:
    with pika.BlockingConnection(pika.URLParameters(place.url)) as connection:
        count: int = connection.channel().queue_declare(queue, passive=True).method.message_count
        return count


def ask(place: Place, queue: str, body: bytes, content_type: str, during: Callable[[], None]) -> bytes:
    """The reply to a request, while something else is done."""

    async def run() -> bytes:
        bus = AmqpBus(place.url)
        await bus.connect(20)
        try:
            call = asyncio.create_task(bus.call(queue, Message(body, content_type), timeout_s=60))
            await asyncio.to_thread(during)
            return (await call).body
        finally:
            await bus.close()

    return asyncio.run(run())


def test_a_person_sees_a_request_without_its_secrets_and_answers_it(place: Place, serving_by_hand: Any) -> None:
    queue = f"t.{secrets.token_hex(4)}"
    terminal = serving_by_hand(queue)

    def answer() -> None:
        terminal.see("VM.add")
        terminal.see('"password":"(hidden)"')
        terminal.type(b"{no json\n")
        terminal.see("that is no answer")
        terminal.type(b'"by hand"\n')

    body = b'{"jsonrpc": "2.0", "id": 7, "method": "VM.add", "params": {"password": "hunter2", "id": "x"}}'
    assert json.loads(ask(place, queue, body, "application/json", answer)) == {
        "jsonrpc": "2.0", "id": 7, "result": "by hand",
    }  # fmt: skip
    assert "hunter2" not in terminal.screen
    packed = msgspec.msgpack.encode({"method": "VM.start", "params": {"id": "x"}})

    def refuse() -> None:
        terminal.see("VM.start")
        terminal.type(b'!DoesNotExist {"kind": "VM", "key": "x"}\n')

    with pytest.raises(DoesNotExist):
        wire.decode_result(ask(place, queue, packed, "application/msgpack", refuse), object)

    def in_lines() -> None:
        terminal.see("3 bytes that are no request of ours")
        terminal.type(b"one\ntwo\n.\n")

    assert ask(place, queue, b"???", "text/plain", in_lines) == b"one\ntwo\n"


@pytest.mark.parametrize(("keys", "code"), [(b"\x03", 130), (b"\x04", 0)])
def test_who_leaves_gives_back_what_is_unanswered(place: Place, serving_by_hand: Any, keys: bytes, code: int) -> None:
    queue = f"t.{secrets.token_hex(4)}"
    terminal = serving_by_hand(queue)
    for method in ("first", "second"):
        post(place, queue, b'{"jsonrpc": "2.0", "id": 1, "method": "%s"}' % method.encode())
    terminal.see("first")
    terminal.type(keys)
    assert terminal.ends() == code
    assert waiting(place, queue) == 2
    again = serving_by_hand(queue)
    again.see("first")
    again.see("delivered before")

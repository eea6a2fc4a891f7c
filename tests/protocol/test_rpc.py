# SPDX-License-Identifier: Apache-2.0
"""The dispatcher and the stub, over the bus of one process."""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

import msgspec
import pytest

from xenops import rpc as rpc_module
from xenops.bus.memory import MemoryBus, MemorySwitch
from xenops.bus.port import JSON, MAX_BODY, MSGPACK, UNREADABLE, Message
from xenops.errors import BadRequest, DeadlineExceeded, DoesNotExist, Fault, InternalError, UnknownMethod
from xenops.idl import Interface, methods, rpc
from xenops.rpc import Dispatcher, calling, request, stub, waiting_s


class Shop(Interface):
    """Something to ask for."""

    name: ClassVar[str] = "SHOP"

    @rpc(raises=(DoesNotExist,))
    async def buy(self, what: str, count: int = 1) -> int:
        """Buy something."""
        raise NotImplementedError

    @rpc(reads=True)
    async def price(self, what: str) -> int:
        """What it costs."""
        raise NotImplementedError

    @rpc(waits=True)
    async def wait(self, timeout: float = 30.0) -> str:
        """Wait for the shop to open."""
        raise NotImplementedError


METHODS = methods(Shop)


class Counter:
    def __init__(self) -> None:
        self.bought: list[str] = []
        self.said: list[Any] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def buy(self, what: str, count: int = 1) -> int:
        self.said.append(calling.get())
        await self.go_on.wait()
        if what == "cheese":
            raise DoesNotExist("cheese", what)
        if what == "break":
            raise ZeroDivisionError("the till")
        self.bought.append(what)
        return len(self.bought)

    async def price(self, what: str) -> int:
        return len(what)

    async def wait(self, timeout: float = 30.0) -> str:
        await self.go_on.wait()
        return "open"


class Memory:
    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def recall(self, message_id: str) -> bytes | None:
        return self.kept.get(message_id)

    async def remember(self, message_id: str, reply: bytes) -> None:
        self.kept[message_id] = reply


class Handed:
    """A delivery in a test's hands."""

    def __init__(self, message: Message) -> None:
        self.message, self.accepted = message, False

    def accept(self) -> None:
        self.accepted = True


def message(method: str, params: dict[str, Any], message_id: str | None = None, **headers: Any) -> Message:
    body = msgspec.msgpack.encode({"method": method, "params": params})
    return Message(body, MSGPACK, message_id=message_id, headers=headers)


async def ask(dispatcher: Dispatcher, asked: Message) -> Any:
    """The result, or the fault's name and fields."""
    reply = msgspec.msgpack.decode((await dispatcher.answer(Handed(asked))).body)
    return reply["result"] if "result" in reply else (reply["fault"]["name"], reply["fault"]["fields"])


def run(test: Callable[[Dispatcher, Counter], Coroutine[Any, Any, None]], outcomes: Memory | None = None) -> None:
    async def whole() -> None:
        counter = Counter()
        async with asyncio.timeout(10):
            await test(Dispatcher([(Shop, counter)], outcomes=outcomes), counter)

    asyncio.run(whole())


def test_a_stub_asks_and_a_dispatcher_answers() -> None:
    async def test(dispatcher: Dispatcher, counter: Counter) -> None:
        bus = MemoryBus(MemorySwitch())
        await bus.connect()
        await bus.serve("shop", dispatcher.answer)
        shop = stub(Shop, bus, "shop", debug_info="a test")
        assert await shop.buy("milk", count=2) == 1
        assert counter.said[0].debug_info == "a test"
        assert counter.said[0].method == "SHOP.buy"
        assert await shop.price("milk") == 4
        with pytest.raises(DoesNotExist):
            await shop.buy("cheese")
        with pytest.raises(InternalError):
            await shop.buy("break")
        with pytest.raises(BadRequest) as caught:
            await shop.buy(7)  # type: ignore[arg-type]
        assert caught.value.path == "params.what"
        await bus.close()

    run(test)


def test_a_name_of_megabytes_is_not_compared_with_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []
    monkeypatch.setattr(rpc_module, "get_close_matches", lambda word, *_: compared.append(word) or [])

    async def test(dispatcher: Dispatcher, counter: Counter) -> None:
        name, _ = await ask(dispatcher, message("SHOP.price" * 100_000, {}))
        assert name == "UnknownMethod"
        assert [len(word) for word in compared] == [80]

    run(test)


def test_an_answer_that_no_broker_carries_is_a_fault() -> None:
    async def test(dispatcher: Dispatcher, counter: Counter) -> None:
        async def much(timeout: float) -> str:
            return "x" * MAX_BODY

        counter.wait = much  # type: ignore[assignment,method-assign]
        dispatcher = Dispatcher([(Shop, counter)])
        name, fields = await ask(dispatcher, message("SHOP.wait", {}))
        assert name == "AnswerTooLong"
        assert fields["size"] > fields["limit"] == MAX_BODY
        asked = Message(b'{"jsonrpc": "2.0", "method": "SHOP.wait", "id": 7}', JSON)
        reply = msgspec.json.decode((await dispatcher.answer(Handed(asked))).body)
        assert (reply["id"], reply["error"]["data"]["name"]) == (7, "AnswerTooLong")

    run(test)


def test_a_repeated_message_id_gets_the_first_outcome() -> None:
    async def test(dispatcher: Dispatcher, counter: Counter) -> None:
        for _ in range(2):
            assert await ask(dispatcher, message("SHOP.buy", {"what": "milk"}, "id-1")) == 1
        name, fields = await ask(dispatcher, message("SHOP.buy", {"what": "bread"}, "id-1"))
        assert (name, fields["path"]) == ("BadRequest", "message_id")
        assert await ask(dispatcher, message("SHOP.buy", {"what": "bread"}, "id-2")) == 2
        assert counter.bought == ["milk", "bread"]

    run(test, Memory())


def test_only_so_many_wait_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_module, "WAITING_MAX", 2)

    async def test(dispatcher: Dispatcher, counter: Counter) -> None:
        counter.go_on.clear()
        waiting = [asyncio.create_task(ask(dispatcher, message("SHOP.wait", {}))) for _ in range(2)]
        await asyncio.sleep(0)  # both wait now
        refused = Handed(message("SHOP.wait", {}))
        reply = msgspec.msgpack.decode((await dispatcher.answer(refused)).body)
        assert (reply["fault"]["name"], refused.accepted) == ("Busy", False)
        assert await ask(dispatcher, message("SHOP.price", {"what": "milk"})) == 4
        counter.go_on.set()
        assert await asyncio.gather(*waiting) == ["open", "open"]
        assert await ask(dispatcher, message("SHOP.wait", {})) == "open", "there is room again"

    run(test)


def test_a_process_that_was_forked_gives_ids_of_its_own() -> None:
    ask_to_buy = METHODS["SHOP.buy"]
    request(ask_to_buy, ("milk",), {})
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, (request(ask_to_buy, ("bread",), {}).message_id or "").encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs, ours = os.read(reader, 100).decode(), request(ask_to_buy, ("milk",), {}).message_id
    os.close(reader)
    os.close(writer)
    assert theirs
    assert theirs != ours


def test_a_repetition_that_comes_while_the_first_is_under_way_waits_for_it() -> None:
    async def test(dispatcher: Dispatcher, counter: Counter) -> None:
        counter.go_on.clear()
        both = [asyncio.create_task(ask(dispatcher, message("SHOP.buy", {"what": "milk"}, "id"))) for _ in range(2)]
        await asyncio.sleep(0)
        counter.go_on.set()
        assert await asyncio.gather(*both) == [1, 1]
        assert counter.bought == ["milk"]

    run(test)


def test_a_fault_that_work_ended_with_is_remembered_like_any_outcome() -> None:
    async def test(dispatcher: Dispatcher, counter: Counter) -> None:
        first = await ask(dispatcher, message("SHOP.buy", {"what": "cheese"}, "id"))
        assert first == ("DoesNotExist", {"kind": "cheese", "key": "cheese"})
        assert await ask(dispatcher, message("SHOP.buy", {"what": "cheese"}, "id")) == first
        assert len(counter.said) == 1

    run(test, Memory())


def test_reads_are_not_remembered() -> None:
    memory = Memory()

    async def test(dispatcher: Dispatcher, _: Counter) -> None:
        assert await ask(dispatcher, message("SHOP.price", {"what": "milk"}, "id")) == 4
        assert await ask(dispatcher, message("SHOP.price", {"what": "bread"}, "id")) == 5

    run(test, memory)
    assert memory.kept == {}


def test_nothing_starts_after_its_deadline() -> None:
    async def test(dispatcher: Dispatcher, counter: Counter) -> None:
        now = int(time.time() * 1000)
        late = await ask(dispatcher, message("SHOP.buy", {"what": "milk"}, deadline=now - 1))
        assert late == (DeadlineExceeded.__name__, {"deadline": now - 1})
        assert await ask(dispatcher, message("SHOP.buy", {"what": "milk"}, deadline=now + 60_000)) == 1
        assert counter.bought == ["milk"]

    run(test)


def test_a_long_poll_is_accepted_before_it_waits() -> None:
    async def test(dispatcher: Dispatcher, _: Counter) -> None:
        poll, buy = Handed(message("SHOP.wait", {})), Handed(message("SHOP.buy", {"what": "milk"}))
        await dispatcher.answer(poll)
        await dispatcher.answer(buy)
        assert (poll.accepted, buy.accepted) == (True, False)

    run(test)


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        ({"deadline": "soon"}, "headers.deadline"),
        ({"deadline": True}, "headers.deadline"),
        ({"version": "newest"}, "headers.version"),
        ({"version": b"1.0"}, "headers.version"),
        ({"debug_info": "x" * 513}, "headers.debug_info"),
        ({"traceparent": 7}, "headers.traceparent"),
        ({UNREADABLE: True}, "headers"),
    ],
)
def test_headers_are_checked(headers: dict[str, Any], path: str) -> None:
    async def test(dispatcher: Dispatcher, counter: Counter) -> None:
        name, fields = await ask(dispatcher, message("SHOP.buy", {"what": "milk"}, **headers))
        assert (name, fields["path"]) == ("BadRequest", path)
        assert counter.bought == []

    run(test)


def test_a_caller_of_a_newer_version_is_forgiven_unknown_fields() -> None:
    async def test(dispatcher: Dispatcher, _: Counter) -> None:
        params = {"what": "milk", "later": True}
        assert await ask(dispatcher, message("SHOP.price", params, version="9.0")) == 4
        name, fields = await ask(dispatcher, message("SHOP.price", params, version="1.0"))
        assert (name, fields["path"]) == ("BadRequest", "params.later")

    run(test)


def test_an_unknown_method_is_told_the_nearest() -> None:
    async def test(dispatcher: Dispatcher, _: Counter) -> None:
        name, fields = await ask(dispatcher, message("SHOP.pryce", {}))
        assert (name, fields["nearest"]) == (UnknownMethod.__name__, "did you mean SHOP.price?")

    run(test)


def test_an_undeclared_exception_becomes_an_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    async def test(dispatcher: Dispatcher, _: Counter) -> None:
        name, fields = await ask(dispatcher, message("SHOP.buy", {"what": "break"}))
        assert (name, fields["reason"]) == (InternalError.__name__, "ZeroDivisionError")
        assert fields["reference"] in caplog.text
        assert "the till" in caplog.text, "the traceback is in the log"

    run(test)


def test_an_implementation_that_left_a_method_out_is_refused() -> None:
    class Half:
        async def buy(self, what: str, count: int = 1) -> int:
            return 1

    with pytest.raises(TypeError, match=r"Half does not implement SHOP\.price"):
        Dispatcher([(Shop, Half())])


def test_what_is_observed_has_no_name_of_a_callers_making() -> None:
    seen: list[tuple[str, str]] = []

    async def whole() -> None:
        dispatcher = Dispatcher([(Shop, Counter())], observe=lambda method, outcome, _: seen.append((method, outcome)))
        for asked in (message("SHOP.price", {"what": "x"}), message("SHOP.evil", {}), Message(b"\xc1")):
            await dispatcher.answer(Handed(asked))

    asyncio.run(whole())
    assert seen == [("SHOP.price", "ok"), ("unknown", "UnknownMethod"), ("unknown", "BadRequest")]


def test_requests_carry_an_id_of_their_own_and_long_polls_get_their_time() -> None:
    first, second = (request(METHODS["SHOP.buy"], ("milk",), {}) for _ in range(2))
    assert first.message_id
    assert first.message_id != second.message_id
    assert waiting_s(METHODS["SHOP.buy"], ("milk",), {}, 5) == 5
    assert waiting_s(METHODS["SHOP.wait"], (), {}, 5) == 35
    assert waiting_s(METHODS["SHOP.wait"], (2.0,), {}, 5) == 7
    with pytest.raises(TypeError, match="takes what, count"):
        request(METHODS["SHOP.buy"], ("milk", 1, 2), {})


def test_a_fault_is_caught_by_its_family() -> None:
    with pytest.raises(Fault):
        raise DoesNotExist("VM", "a")

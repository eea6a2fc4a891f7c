# SPDX-License-Identifier: Apache-2.0
"""What every bus promises, as `xenops.bus.port` has it."""

import asyncio

import pytest

from xenops.bus.port import MAX_BODY, Delivery, Message
from xenops.errors import BadRequest, Busy, NoSuchService, TimedOut

from .world import World, name, scenario


async def echo(delivery: Delivery) -> Message:
    return Message(delivery.message.body + b"!")


@scenario
async def test_a_reply_comes_back_and_bytes_are_untouched(world: World) -> None:
    seen: list[Message] = []

    async def answer(delivery: Delivery) -> Message:
        seen.append(delivery.message)
        return Message(b"\x00\xff reply", content_type="application/json")

    server, client, queue = await world.bus(), await world.bus(), name("echo")
    await server.serve(queue, answer)
    request = Message(b"\x00\xff request", message_id="m-1", headers={"deadline": 1 << 45, "debug_info": "größer"})
    reply = await client.call(queue, request, timeout_s=5)

    assert (reply.body, reply.content_type) == (b"\x00\xff reply", "application/json")
    (got,) = seen
    assert (got.body, got.content_type, got.message_id) == (b"\x00\xff request", "application/msgpack", "m-1")
    assert got.headers == {"deadline": 1 << 45, "debug_info": "größer"}
    assert got.reply_to
    assert not got.redelivered


@scenario
async def test_a_bus_calls_its_own_queue(world: World) -> None:
    bus, queue = await world.bus(), name("self")
    await bus.serve(queue, echo)
    assert (await bus.call(queue, Message(b"x"), timeout_s=5)).body == b"x!"


@scenario
async def test_how_many_serve_a_queue(world: World) -> None:
    one, two, asking, queue = await world.bus(), await world.bus(), await world.bus(), name("counted")
    assert await asking.servers(queue) == 0
    first = await one.serve(queue, echo)
    assert await asking.servers(queue) == 1
    second = await two.serve(queue, echo)
    assert await asking.servers(queue) == 2
    await first.cancel()
    assert await asking.servers(queue) == 1
    await second.cancel()
    assert await asking.servers(queue) == 0  # declared, and nobody there
    assert await (await world.bus(connected=False)).servers(queue) == 0


@scenario
async def test_big_bodies_go_both_ways(world: World) -> None:
    server, client, queue = await world.bus(), await world.bus(), name("big")
    await server.serve(queue, echo)
    big = bytes(range(256)) * 12_000
    assert (await client.call(queue, Message(big), timeout_s=15)).body == big + b"!"
    assert (await client.call(queue, Message(b""), timeout_s=5)).body == b"!"


@scenario
async def test_a_body_that_no_broker_carries_costs_nobody_else_anything(world: World) -> None:
    server, client, queue = await world.bus(), await world.bus(), name("huge")

    async def answer(delivery: Delivery) -> Message:
        return Message(b"x" * (MAX_BODY + 1) if delivery.message.body == b"huge" else b"!")

    await server.serve(queue, answer)
    with pytest.raises(BadRequest):
        await client.call(queue, Message(b"x" * (MAX_BODY + 1)), timeout_s=5)
    for message_id in (None, "m"):
        with pytest.raises(TimedOut):
            await client.call(queue, Message(b"huge", message_id=message_id), timeout_s=0.5)
    assert await world.dead_letters() == [b"huge", b"huge"]
    assert (await client.call(queue, Message(b"x"), timeout_s=5)).body == b"!"


@scenario
async def test_a_call_waits_for_its_server_to_start_and_order_is_kept(world: World) -> None:
    arrived: list[bytes] = []

    async def answer(delivery: Delivery) -> Message:
        arrived.append(delivery.message.body)
        return Message(b"")

    client, queue = await world.bus(), name("late")
    calls = [asyncio.create_task(client.call(queue, Message(b"%d" % n), timeout_s=10)) for n in range(20)]
    await asyncio.sleep(0)
    with pytest.raises(NoSuchService):
        await client.call(queue, Message(b"impatient"), timeout_s=2.0)
    server = await world.bus()
    await server.serve(queue, answer)
    await asyncio.gather(*calls)
    assert arrived == [b"%d" % n for n in range(20)]


@scenario
async def test_nobody_serving_is_a_named_fault(world: World) -> None:
    client, queues = await world.bus(), [name("nobody") for _ in range(200)]
    # Whenever their time is over: also while another look at the queue is under way.
    calls = (client.call(queue, Message(b"x"), timeout_s=2 + n / 200) for n, queue in enumerate(queues))
    faults = await asyncio.gather(*calls, return_exceptions=True)
    assert [fault.queue for fault in faults if isinstance(fault, NoSuchService)] == queues, faults


@scenario
async def test_no_reply_in_time_is_a_named_fault(world: World) -> None:
    server, client, queue = await world.bus(), await world.bus(), name("slow")
    never = asyncio.Event()

    async def answer(_: Delivery) -> Message | None:
        await never.wait()
        return None

    await server.serve(queue, answer)
    with pytest.raises(TimedOut) as caught:
        await client.call(queue, Message(b"x"), timeout_s=0.3)
    assert (caught.value.queue, caught.value.timeout_s) == (queue, 0.3)


@scenario
async def test_a_caller_that_went_away_harms_nobody(world: World) -> None:
    server, client, queue = await world.bus(), await world.bus(), name("gone")
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def answer(delivery: Delivery) -> Message:
        arrived.set()
        await go_on.wait()
        return Message(delivery.message.body)

    await server.serve(queue, answer)
    call = asyncio.create_task(client.call(queue, Message(b"given up"), timeout_s=5))
    await arrived.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    go_on.set()
    assert (await client.call(queue, Message(b"next"), timeout_s=5)).body == b"next"


@scenario
async def test_a_request_is_delivered_again_when_its_server_is_lost_before_accepting(world: World) -> None:
    server, client, queue = await world.bus(), await world.bus(), name("again")
    seen: list[bool] = []
    arrived = asyncio.Event()

    async def answer(delivery: Delivery) -> Message:
        seen.append(delivery.message.redelivered)
        arrived.set()
        if len(seen) == 1:
            await asyncio.Event().wait()
        return Message(b"second time")

    await server.serve(queue, answer)
    call = asyncio.create_task(client.call(queue, Message(b"x"), timeout_s=10))
    await arrived.wait()
    await world.cut(server)
    assert (await call).body == b"second time"
    assert seen == [False, True]


@scenario
async def test_what_was_accepted_does_not_come_again_and_its_reply_is_sent(world: World) -> None:
    server, client, queue = await world.bus(), await world.bus(), name("accepted")
    seen: list[bytes] = []
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def answer(delivery: Delivery) -> Message:
        seen.append(delivery.message.body)
        delivery.accept()
        delivery.accept()
        arrived.set()
        if delivery.message.body == b"x":
            await go_on.wait()
        return Message(b"done")

    await server.serve(queue, answer)
    back = asyncio.Event()
    await server.subscribe([queue], lambda _: None, on_gap=back.set)
    call = asyncio.create_task(client.call(queue, Message(b"x"), timeout_s=10))
    await arrived.wait()
    assert (await client.call(queue, Message(b"y"), timeout_s=5)).body == b"done"  # the acknowledgement is out
    await world.cut(server)
    await back.wait()
    go_on.set()
    assert (await call).body == b"done"
    assert seen == [b"x", b"y"]


@scenario
async def test_a_server_that_dies_leaves_its_requests_to_another(world: World) -> None:
    first, second, client, queue = await world.bus(), await world.bus(), await world.bus(), name("heir")
    arrived = asyncio.Event()

    async def hang(_: Delivery) -> Message | None:
        arrived.set()
        await asyncio.Event().wait()
        return None

    await first.serve(queue, hang)
    call = asyncio.create_task(client.call(queue, Message(b"x"), timeout_s=10))
    await arrived.wait()
    await first.close()
    await second.serve(queue, echo)
    assert (await call).body == b"x!"


@scenario
async def test_a_full_queue_refuses_with_busy(world: World) -> None:
    server, client, queue = await world.bus(), await world.bus(), name("full")
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def answer(delivery: Delivery) -> Message:
        arrived.set()
        await go_on.wait()
        return Message(delivery.message.body)

    await server.serve(queue, answer, prefetch=1, limit=2)
    in_hand = asyncio.create_task(client.call(queue, Message(b"0"), timeout_s=10))
    await arrived.wait()
    waiting = [asyncio.create_task(client.call(queue, Message(b"%d" % n), timeout_s=10)) for n in (1, 2)]
    await asyncio.sleep(0)
    with pytest.raises(Busy) as caught:
        await client.call(queue, Message(b"one too many"), timeout_s=10)
    assert caught.value.what == queue
    assert caught.value.retry_after_ms > 0
    go_on.set()
    replies = await asyncio.gather(in_hand, *waiting)
    assert [reply.body for reply in replies] == [b"0", b"1", b"2"]


@scenario
async def test_at_most_prefetch_requests_are_worked_on_side_by_side(world: World) -> None:
    server, client, queue = await world.bus(), await world.bus(), name("prefetch")
    now, most = 0, 0
    full, go_on = asyncio.Event(), asyncio.Event()

    async def answer(_: Delivery) -> Message:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == 3:
            full.set()
        await go_on.wait()
        now -= 1
        return Message(b"")

    await server.serve(queue, answer, prefetch=3)
    calls = [asyncio.create_task(client.call(queue, Message(b""), timeout_s=10)) for _ in range(10)]
    await full.wait()
    go_on.set()
    await asyncio.gather(*calls)
    assert most == 3


@scenario
async def test_two_servers_share_the_work(world: World) -> None:
    servers, client, queue = [await world.bus(), await world.bus()], await world.bus(), name("shared")
    served: list[int] = []

    def by(number: int) -> object:
        async def answer(_: Delivery) -> Message:
            served.append(number)
            return Message(b"%d" % number)

        return answer

    for number, server in enumerate(servers):
        await server.serve(queue, by(number), prefetch=1)  # type: ignore[arg-type]
    await asyncio.gather(*(client.call(queue, Message(b""), timeout_s=10) for _ in range(20)))
    assert len(served) == 20
    assert set(served) == {0, 1}


@scenario
async def test_a_request_that_breaks_its_server_becomes_a_dead_letter(world: World) -> None:
    server, client, queue = await world.bus(), await world.bus(), name("poison")

    async def answer(delivery: Delivery) -> Message:
        if delivery.message.body.startswith(b"poison"):
            raise ZeroDivisionError("as this test wants it")
        return Message(b"well")

    await server.serve(queue, answer)
    body = b"poison " + queue.encode()
    with pytest.raises(TimedOut):
        await client.call(queue, Message(body), timeout_s=0.3)
    assert (await client.call(queue, Message(b"x"), timeout_s=5)).body == b"well"
    assert body in await world.dead_letters()


@scenario
async def test_a_server_that_is_cancelled_answers_what_it_has_and_takes_no_more(world: World) -> None:
    server, other, client, queue = await world.bus(), await world.bus(), await world.bus(), name("cancelled")
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def answer(_: Delivery) -> Message:
        arrived.set()
        await go_on.wait()
        return Message(b"first")

    serving = await server.serve(queue, answer)
    first = asyncio.create_task(client.call(queue, Message(b"1"), timeout_s=10))
    await arrived.wait()
    await serving.cancel()
    await serving.cancel()
    second = asyncio.create_task(client.call(queue, Message(b"2"), timeout_s=10))
    go_on.set()
    assert (await first).body == b"first"
    await other.serve(queue, echo)
    assert (await second).body == b"2!"

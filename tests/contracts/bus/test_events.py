# SPDX-License-Identifier: Apache-2.0
"""What every bus promises of events, as `xenops.bus.port` has it."""

import asyncio

from xenops.bus.port import Message

from .world import World, name, scenario


@scenario
async def test_events_reach_those_whose_pattern_matches(world: World) -> None:
    publisher, subscriber, host = await world.bus(), await world.bus(), name("h").replace(".", "_")
    got: dict[str, list[str]] = {}
    done = asyncio.Event()
    for pattern in (f"{host}.*.vm.*", f"{host}.#", f"{host}.i.*.1", f"#.last.{host}"):

        def receive(message: Message, pattern: str = pattern) -> None:
            got.setdefault(pattern, []).append(f"{message.routing_key.removeprefix(host)}={message.body.decode()}")
            if sum(map(len, got.values())) == 8:
                done.set()

        await subscriber.subscribe([pattern], receive)
    for topic, body in (("i.vm.1", "a"), ("i.vbd.1", "b"), ("i.vm.1.x", "c")):
        await publisher.publish(f"{host}.{topic}", Message(body.encode()))
    await publisher.publish(f"{host}.last.{host}", Message(b"end"))
    await done.wait()
    everything = [".i.vm.1=a", ".i.vbd.1=b", ".i.vm.1.x=c", f".last.{host}=end"]
    assert got == {
        f"{host}.*.vm.*": [".i.vm.1=a"],
        f"{host}.#": everything,
        f"{host}.i.*.1": [".i.vm.1=a", ".i.vbd.1=b"],
        f"#.last.{host}": everything[-1:],
    }


@scenario
async def test_two_patterns_of_one_subscriber_give_one_copy(world: World) -> None:
    bus, topic = await world.bus(), name("once")
    got: list[bytes] = []
    done = asyncio.Event()

    def receive(message: Message) -> None:
        got.append(message.body)
        if message.body == b"end":
            done.set()

    await bus.subscribe([topic, "xenops.once.*"], receive)
    await bus.publish(topic, Message(b"event"))
    await bus.publish(topic, Message(b"end"))
    await done.wait()
    assert got == [b"event", b"end"]


@scenario
async def test_nothing_is_received_after_cancelling(world: World) -> None:
    bus, topic = await world.bus(), name("cancel")
    first, second = [], asyncio.Event()
    subscription = await bus.subscribe([topic], first.append)
    await subscription.cancel()
    await subscription.cancel()
    await bus.subscribe([topic], lambda _: second.set())
    await bus.publish(topic, Message(b""))
    await second.wait()
    assert first == []


@scenario
async def test_a_receiver_that_fails_gets_the_next_event_all_the_same(world: World) -> None:
    bus, topic = await world.bus(), name("fails")
    second = asyncio.Event()

    def receive(message: Message) -> None:
        if message.body == b"1":
            raise ZeroDivisionError("as this test wants it")
        second.set()

    await bus.subscribe([topic], receive)
    await bus.publish(topic, Message(b"1"))
    await bus.publish(topic, Message(b"2"))
    await second.wait()


@scenario
async def test_a_reconnection_is_a_gap_and_events_go_on(world: World) -> None:
    publisher, subscriber, topic = await world.bus(), await world.bus(), name("gap")
    got: list[bytes] = []
    gaps = 0
    gap, arrived = asyncio.Event(), asyncio.Event()

    def on_gap() -> None:
        nonlocal gaps
        gaps += 1
        gap.set()

    def receive(message: Message) -> None:
        got.append(message.body)
        arrived.set()

    await subscriber.subscribe([topic], receive, on_gap=on_gap)
    await publisher.publish(topic, Message(b"1"))
    await arrived.wait()
    assert gaps == 0
    await world.cut(subscriber)
    await gap.wait()
    arrived.clear()
    await publisher.publish(topic, Message(b"2"))
    await arrived.wait()
    assert (got, gaps) == ([b"1", b"2"], 1)

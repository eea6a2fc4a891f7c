# SPDX-License-Identifier: Apache-2.0
"""The switch's own queue: it answers, nobody else gets hold of it, and what is not a request does it no harm."""

import asyncio

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from message_switch.access.users import Users
from message_switch.model.broker import Broker
from message_switch.switch import Switch
from xenops.bus.amqp import AmqpBus
from xenops.interfaces.switch import SWITCH, SWITCH_QUEUE, QueueStat
from xenops.rpc import stub

from .conftest import SwitchProcess


@pytest.fixture
def switch_channel(running: SwitchProcess) -> BlockingChannel:
    return pika.BlockingConnection(pika.URLParameters(running.url)).channel()


async def _ask(url: str, prefix: str) -> list[QueueStat]:
    bus = AmqpBus(url)
    try:
        await bus.connect(20)
        return await stub(SWITCH, bus, SWITCH_QUEUE).queues(prefix)
    finally:
        await bus.close()


@pytest.mark.parametrize("act", ["queue_declare", "queue_delete", "queue_purge"])
def test_nobody_else_gets_hold_of_it(switch_channel: BlockingChannel, act: str) -> None:
    with pytest.raises(ChannelClosedByBroker) as refused:
        getattr(switch_channel, act)(SWITCH_QUEUE)
    assert refused.value.reply_code == 405
    switch_channel.connection.close()


def test_it_answers_after_what_was_no_request(running: SwitchProcess, switch_channel: BlockingChannel) -> None:
    for body in (b"", b"\xc1", b"{}", b"\x80"):
        for kind in ("application/json", "application/msgpack", "?"):
            switch_channel.basic_publish("", SWITCH_QUEUE, body, pika.BasicProperties(content_type=kind))
    switch_channel.queue_declare("seen-by-admin", durable=True)
    (row,) = asyncio.run(_ask(running.url, "seen-by-admin"))
    assert (row.name, row.ready, row.consumers, row.served) == ("seen-by-admin", 0, 0, False)
    switch_channel.queue_delete("seen-by-admin")
    switch_channel.connection.close()


def test_what_came_by_a_dead_letter_exchange_is_not_answered(
    running: SwitchProcess, switch_channel: BlockingChannel
) -> None:
    """Else somebody who may not write to the queue could, by way of a queue of his own."""
    where = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": SWITCH_QUEUE}
    switch_channel.queue_declare("roundabout", durable=True, arguments=where)
    answers = switch_channel.queue_declare("", exclusive=True).method.queue
    body = b'{"jsonrpc": "2.0", "id": 1, "method": "SWITCH.queues"}'
    properties = pika.BasicProperties(content_type="application/json", reply_to=answers)
    switch_channel.basic_publish("", "roundabout", body, properties)
    method, _, _ = switch_channel.basic_get("roundabout")
    assert method is not None
    switch_channel.basic_reject(method.delivery_tag, requeue=False)
    switch_channel.queue_delete("roundabout")
    asyncio.run(_ask(running.url, ""))  # later than the other, and answered
    assert switch_channel.basic_get(answers)[0] is None
    switch_channel.connection.close()


def test_only_an_administrator_may_write_to_it() -> None:
    switch = Switch(Broker(), Users("root", "secret", uid=0))
    switch.users.read(
        "[somebody]\nuids = [1]\nwrite = '.*'\n[operator]\nuids = [2]\nwrite = '.*'\nadministrator = true\n"
    )
    root, somebody, operator = (switch.users.by_uid(uid) for uid in range(3))
    assert root is not None
    assert somebody is not None
    assert operator is not None
    assert switch.may_publish(root, "", SWITCH_QUEUE)
    assert switch.may_publish(operator, "", SWITCH_QUEUE)
    assert not switch.may_publish(somebody, "", SWITCH_QUEUE)
    assert switch.may_publish(somebody, "", "xenops.h.simulator")

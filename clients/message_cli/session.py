# SPDX-License-Identifier: Apache-2.0
"""One run of one command: where the broker is, and the ways to it."""

import os
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from message_cli.admin.port import Admin
from message_cli.admin.rabbitmq import RabbitAdmin
from message_cli.admin.switch import SwitchAdmin
from message_cli.exits import Complaint
from xenops.bus.amqp import AmqpBus
from xenops.bus.watch.letters import Letterbox, letterbox
from xenops.where import StackNotFound, find

CONNECT_S = 5.0  # a person waits for the broker no longer than this
_RABBITMQ = "RabbitMQ"
_NAME = "message-cli"


class Session:
    """See the module; `bus` is connected."""

    def __init__(self, args: Namespace, url: str, bus: AmqpBus) -> None:
        self.args = args
        self.bus = bus
        self.url = url

    @property
    def admin(self) -> Admin:
        """The eyes that this broker has."""
        if self.bus.product == _RABBITMQ:
            return RabbitAdmin(self.url, self.args.management or os.environ.get("RABBITMQ_MANAGEMENT_URL", ""))
        return SwitchAdmin(self.bus)

    def letterbox(self) -> AbstractAsyncContextManager[Letterbox]:
        """A connection for work on queues by hand."""
        return letterbox(self.url, name=_NAME)


def place(args: Namespace) -> str:
    """The broker's URL: the option, XENOPS_URL, or what the running stack wrote down."""
    url = args.url or os.environ.get("XENOPS_URL")
    if url:
        return str(url)
    try:
        return find(os.environ).amqp
    except StackNotFound as error:
        raise Complaint(str(error)) from None


@asynccontextmanager
async def connected(args: Namespace) -> AsyncIterator[Session]:
    """A session on the broker that is meant."""
    url = place(args)
    bus = AmqpBus(url, name=_NAME)
    try:
        await bus.connect(CONNECT_S)
        yield Session(args, url, bus)
    finally:
        await bus.close()

# SPDX-License-Identifier: Apache-2.0
"""The way to the stack: where it is, and a connection to it."""

import os
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from xenops.client import connect
from xenops.interfaces.console import CONSOLE
from xenops.rpc import stub
from xenops.where import StackNotFound, Where, find
from xenops_cli.exits import Complaint
from xenops_cli.session import Stack

CONNECT_S = 5.0  # a person waits for the switch no longer than this
REPLY_S = 30.0


def where(args: Namespace) -> Where:
    """What the stack wrote down, except for what the command line says."""
    if args.url and args.queue:
        return Where(amqp=args.url, queue=args.queue)
    try:
        found = find(os.environ)
    except StackNotFound as error:
        raise Complaint(str(error)) from None
    return msgspec.structs.replace(found, amqp=args.url or found.amqp, queue=args.queue or found.queue)


@asynccontextmanager
async def connected(args: Namespace) -> AsyncIterator[Stack]:
    """xenopsd and vncproxy of the stack that is meant."""
    place = where(args)
    xenops = connect(place.amqp, place.queue, timeout_s=REPLY_S, debug_info="xenops-cli")
    try:
        await xenops.bus.connect(CONNECT_S)
        host = place.queue.split(".")[1] if "." in place.queue else place.queue
        yield Stack(xenops, stub(CONSOLE, xenops.bus, place.console or f"console.{host}", debug_info="xenops-cli"))
    finally:
        await xenops.bus.close()

# SPDX-License-Identifier: Apache-2.0
"""The way to the stack: where it is, and a connection to it."""

import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import msgspec

from xenops.blocking import connect_blocking
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


@contextmanager
def connected(args: Namespace) -> Iterator[Stack]:
    """xenopsd and vncproxy of the stack that is meant."""
    place = where(args)
    with connect_blocking(place.amqp, place.queue, timeout_s=REPLY_S, debug_info="xenops-cli") as xenops:
        xenops.bus.connect(CONNECT_S)
        # Read when it is wanted: an event loop takes longer to read than most commands to run.
        yield Stack(xenops, lambda: import_module("xenops_cli.console.talk").connected(place))

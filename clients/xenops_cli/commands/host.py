# SPDX-License-Identifier: Apache-2.0
"""The host and the service on it, for people who look after them."""

from typing import Any

from xenops.interfaces.xenops import DEBUG, HOST, General
from xenops.types.host import Host
from xenops.types.service import ServiceInfo
from xenops_cli.command import Command, argument, count, told
from xenops_cli.render import values
from xenops_cli.session import Session


async def stat(session: Session) -> Host:
    """Processors, hypervisor, memory."""
    return await session.xenops.HOST.stat()


async def dmesg(session: Session) -> str:
    """The hypervisor's console ring."""
    return await session.xenops.HOST.get_console_data()


async def debug_keys(session: Session) -> dict[str, str]:
    """Send debug keys."""
    await session.xenops.HOST.send_debug_keys(session.args.keys)
    return {"keys": session.args.keys}


async def set_workers(session: Session) -> dict[str, int]:
    """Set the size of the worker pool."""
    await session.xenops.HOST.set_worker_pool_size(session.args.size)
    return {"size": session.args.size}


async def query(session: Session) -> ServiceInfo:
    """Who answers."""
    return await session.xenops.query()


async def diagnostics(session: Session) -> dict[str, Any]:
    """How it is."""
    return await session.xenops.get_diagnostics()


async def trigger(session: Session) -> dict[str, Any]:
    """Make something happen."""
    args = session.args
    await session.xenops.DEBUG.trigger(args.word, args.words)
    return {"cmd": args.word, "args": args.words}


COMMANDS: tuple[Command, ...] = (
    Command(name="host", help=told(HOST.stat), run=stat, show=values.any_facts),
    Command(name="dmesg", help=told(HOST.get_console_data), run=dmesg, show=values.text),
    Command(
        name="debug-keys",
        help="Send debug keys to the hypervisor; what they print is in `dmesg`.",
        arguments=(argument("keys", metavar="KEYS"),),
        run=debug_keys,
    ),
    Command(
        name="set-worker-pool-size",
        help=told(HOST.set_worker_pool_size),
        arguments=(argument("size", type=count, metavar="N"),),
        run=set_workers,
    ),
    Command(name="query", help=told(General.query), run=query, show=values.any_facts),
    Command(name="diagnostics", help=told(General.get_diagnostics), run=diagnostics, show=values.json_text),
    Command(
        name="debug",
        help=told(DEBUG.trigger),
        arguments=(argument("word", metavar="CMD"), argument("words", metavar="ARG", nargs="*")),
        run=trigger,
    ),
)

# SPDX-License-Identifier: Apache-2.0
"""The host and the service on it, for people who look after them."""

from typing import Any

from xenops.interfaces.xenops import DEBUG, HOST, General
from xenops.types.host import Host
from xenops.types.service import ServiceInfo
from xenops_cli.command import Command, argument, count, told
from xenops_cli.render import values
from xenops_cli.session import Session


def stat(session: Session) -> Host:
    """Processors, hypervisor, memory."""
    host: Host = session.xenops.HOST.stat()
    return host


def dmesg(session: Session) -> str:
    """The hypervisor's console ring."""
    said: str = session.xenops.HOST.get_console_data()
    return said


def debug_keys(session: Session) -> dict[str, str]:
    """Send debug keys."""
    session.xenops.HOST.send_debug_keys(session.args.keys)
    return {"keys": session.args.keys}


def set_workers(session: Session) -> dict[str, int]:
    """Set the size of the worker pool."""
    session.xenops.HOST.set_worker_pool_size(session.args.size)
    return {"size": session.args.size}


def query(session: Session) -> ServiceInfo:
    """Who answers."""
    return session.xenops.query()


def diagnostics(session: Session) -> dict[str, Any]:
    """How it is."""
    return session.xenops.get_diagnostics()


def trigger(session: Session) -> dict[str, Any]:
    """Make something happen."""
    args = session.args
    session.xenops.DEBUG.trigger(args.word, args.words)
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

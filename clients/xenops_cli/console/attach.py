# SPDX-License-Identifier: Apache-2.0
"""A text console from end to end: connect, carry bytes both ways, come back after a reboot, leave."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable

from xenops.errors import DoesNotExist, Fault, Migrated
from xenops.types.console import ConsoleProtocol
from xenops.types.vm import PowerState, VmStat
from xenops_cli.console.keyboard import Keyboard
from xenops_cli.console.listening import Heard, Listening
from xenops_cli.console.talk import Talk, on_loop
from xenops_cli.console.terminal import raw, write_all
from xenops_cli.exits import Complaint, Exit
from xenops_cli.session import Session

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
BUFFER = 1 << 16
Screen = Callable[[bytes], None]


def attach(session: Session, machine: VmStat) -> Heard:
    """Give this terminal to the guest until Ctrl-], or until the guest is gone; pipes are carried until they end."""
    return on_loop(session, lambda talk: _attach(talk, machine))


async def _attach(talk: Talk, machine: VmStat) -> Heard:
    session = talk.session
    if sys.stdin.isatty():
        session.note(f"connected to {machine.vm.name}; Ctrl-] leaves")
    sys.stdout.flush()
    out = sys.stdout.fileno()
    keyboard = Keyboard(sys.stdin.fileno())
    with raw(sys.stdin.fileno()), keyboard.reading():
        ended = await _converse(talk, machine, keyboard, lambda data: write_all(out, data), asyncio.Event())
    if sys.stdin.isatty() and ended != "detached":
        session.note(f"the console of {machine.vm.name} is closed: the machine is off")
    return Heard(vm=machine.vm.id, ended=ended)


def hear(session: Session, machine: VmStat, *, timeout_s: float | None) -> Heard:
    """Listen until there was enough; what comes is printed as it comes, unless it goes into a document."""
    return on_loop(session, lambda talk: _hear(talk, machine, timeout_s))


async def _hear(talk: Talk, machine: VmStat, timeout_s: float | None) -> Heard:
    args = talk.session.args
    listening = Listening(expect=args.expect, lines=args.lines)
    keyboard = Keyboard(typed=os.fsencode(args.send) + b"\r" if args.send is not None else b"")
    enough = asyncio.Event()
    sys.stdout.flush()
    out = sys.stdout.fileno()

    def screen(data: bytes) -> None:
        taken = listening.receive(data)
        if not args.json:
            write_all(out, taken)
        if listening.ended:
            enough.set()

    try:
        async with asyncio.timeout(timeout_s):
            ended = await _converse(talk, machine, keyboard, screen, enough)
    except TimeoutError:
        ended = "timeout"
    return Heard(vm=machine.vm.id, ended=listening.ended or ended, text=listening.text if args.json else "")


async def _converse(talk: Talk, machine: VmStat, keyboard: Keyboard, screen: Screen, enough: asyncio.Event) -> str:
    """Stay connected until somebody has had enough; the answer says who."""
    ends = {
        asyncio.create_task(_stay(talk, machine, keyboard, screen)): "halted",
        asyncio.create_task(keyboard.detached.wait()): "detached",
        asyncio.create_task(enough.wait()): "enough",
    }
    try:
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        return next(ends[task] for task in reversed(list(ends)) if task in done)
    finally:
        for task in ends:
            task.cancel()
        await asyncio.gather(*ends, return_exceptions=True)


async def _stay(talk: Talk, machine: VmStat, keyboard: Keyboard, screen: Screen) -> None:
    """Connect again whenever the console closes while the machine is on: it may be rebooting."""
    pause_s = FIRST_PAUSE_S
    while True:
        why = ""
        try:
            if await _once(talk, machine, keyboard, screen):
                pause_s = FIRST_PAUSE_S
        except (Fault, OSError) as error:
            why = str(error)
        if not await _is_on(talk, machine):
            if why:
                raise Complaint(
                    f"{machine.vm.name} is off and has no console; `xenops-cli start` turns it on", Exit.WRONG_STATE
                )
            return
        if pause_s > LONGEST_PAUSE_S:
            raise Complaint(f"the console of {machine.vm.name} does not answer: {why or 'it closes at once'}")
        await asyncio.sleep(pause_s)
        pause_s *= 2


async def _once(talk: Talk, machine: VmStat, keyboard: Keyboard, screen: Screen) -> bool:
    """One connection, to its end; whether anything was heard."""
    route = await talk.console.open(machine.vm.id, protocol=ConsoleProtocol.VT100)
    reader, writer = await asyncio.open_connection(route.host, route.port)
    heard = False

    async def send() -> None:
        while True:
            writer.write(await keyboard.typed())
            await writer.drain()

    sending = asyncio.create_task(send())
    try:
        while data := await reader.read(BUFFER):
            heard = True
            screen(data)
        return heard
    finally:
        writer.close()  # first: what is awaited below may be cancelled
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        with contextlib.suppress(OSError):  # it is closed either way
            await writer.wait_closed()


async def _is_on(talk: Talk, machine: VmStat) -> bool:
    try:
        now = await talk.xenops.VM.stat(machine.vm.id)
    except (DoesNotExist, Migrated):
        return False
    return now.state.power_state in (PowerState.RUNNING, PowerState.PAUSED)

# SPDX-License-Identifier: Apache-2.0
"""Commands on queues: which there are, how they are, and an end to one of them or to a message."""

import asyncio
from typing import Any

import msgspec

from message_cli import redact
from message_cli.diagnosis import needs_second_look, verdict
from message_cli.exits import Complaint, Exit
from message_cli.session import Session
from xenops.bus.port import DEAD_QUEUE
from xenops.bus.watch.letters import Letter, Letterbox, Refused
from xenops.errors import DoesNotExist

MOST = 10000  # as many dead letters as there can be


async def listed(session: Session) -> list[dict[str, Any]]:
    """The queues by name."""
    found = await session.admin.queues(session.args.prefix)
    return [msgspec.to_builtins(queue) for queue in found if queue.consumers or not session.args.alive]


async def diagnostics(session: Session) -> list[dict[str, Any]]:
    """What is wrong with whom; queues of one connection alone are not services, and left out."""
    patience_s = session.args.patience
    before = {queue.name: queue for queue in await _services(session)}
    now = before
    if any(needs_second_look(queue, patience_s) for queue in before.values()):
        await asyncio.sleep(patience_s)
        now = {queue.name: queue for queue in await _services(session)}
    return [
        {**msgspec.to_builtins(queue), "verdict": verdict(before.get(name, queue), queue, patience_s).value}
        for name, queue in now.items()
        if name != DEAD_QUEUE
    ]


async def _services(session: Session) -> list[Any]:
    return [queue for queue in await session.admin.queues(session.args.prefix) if not queue.exclusive]


async def destroy(session: Session) -> dict[str, Any]:
    """Delete a queue."""
    args = session.args
    async with session.letterbox() as box:
        try:
            gone = await box.delete(args.queue, if_unused=not args.force, if_empty=not args.force)
        except Refused as refusal:
            raise Complaint(f"{refusal}; --force deletes it all the same") from None
    return {"queue": args.queue, "messages": gone}


async def ack(session: Session) -> dict[str, Any]:
    """Forget one waiting message."""
    queue, id = session.args.queue, session.args.id
    async with session.letterbox() as box:
        (letter,) = _chosen(await _held(box, queue), [id], queue)
        box.forget(letter)
        await box.settled()
    return {"queue": queue, "id": id}


async def dead(session: Session) -> list[dict[str, Any]]:
    """Look at dead letters, or do something with those that are named."""
    args = session.args
    async with session.letterbox() as box:
        try:
            letters = await _held(box, DEAD_QUEUE)
        except DoesNotExist:
            if args.act == "list":
                return []  # nobody has served anything yet, so nothing has died
            raise
        wanted = letters if args.all or args.act == "list" else _chosen(letters, args.ids, DEAD_QUEUE)
        for letter in wanted:
            if args.act == "drop":
                box.forget(letter)
            elif args.act == "requeue":
                headers = {k: v for k, v in letter.message.headers.items() if not k.startswith(("x-death", "x-first-"))}
                await box.send_again(letter, args.to or _home(letter), headers)
        await box.settled()
    return [_described(letter, letters.index(letter), bodies=args.act == "show") for letter in wanted]


async def _held(box: Letterbox, queue: str) -> list[Letter]:
    """Everything that waits in a queue, in our hands until the box closes."""
    letters: list[Letter] = []
    while len(letters) < MOST and (letter := await box.take(queue)) is not None:
        letters.append(letter)
    return letters


def _chosen(letters: list[Letter], ids: list[str], queue: str) -> list[Letter]:
    """Those with these message ids; several with one id are too many to choose from."""
    if not ids:
        raise Complaint("which ones? Name their ids, or --all", Exit.USAGE)
    found = []
    for id in dict.fromkeys(ids):
        same = [letter for place, letter in enumerate(letters) if id in (letter.message.message_id, f"#{place}")]
        if not same:
            raise DoesNotExist(f"waiting message in {queue}", id)
        found += same[:1]
    return found


def _home(letter: Letter) -> str:
    home = letter.message.headers.get("x-first-death-queue")
    if not isinstance(home, str):
        raise Complaint("the letter does not say which queue it came from; say --to QUEUE")
    return home


def _described(letter: Letter, place: int, *, bodies: bool) -> dict[str, Any]:
    headers = letter.message.headers
    described = {
        "id": letter.message.message_id or f"#{place}",
        "queue": str(headers.get("x-first-death-queue", "")),
        "reason": str(headers.get("x-first-death-reason", "")),
        "method": redact.method_of(letter.message),
        "bytes": len(letter.message.body),
    }
    return {**described, "body": redact.body_of(letter.message)} if bodies else described

# SPDX-License-Identifier: Apache-2.0
"""Makes calls of the simulator slow, held or failing, so that tests can meet every misfortune on purpose.

All chance comes from one generator, so that the same seed and the same calls give the same misfortunes.
"""

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

from xenops.errors import BadRequest, Fault
from xenopsd.backends.simulator.world.world import World

P = ParamSpec("P")
R = TypeVar("R")
N = TypeVar("N", bound="Noun")

_STAND_INS: dict[Any, Any] = {str: "injected", int: 1, float: 1.0, list[str]: ["injected"]}


@dataclass
class _Misfortune:
    fault: type[Fault]
    left: int | None = None  # None: for ever
    chance: float = 1.0


class Gate:
    """What every call of the simulator passes before it does anything."""

    def __init__(self, seed: int) -> None:
        self.calls: frozenset[str] = frozenset()
        self._random = random.Random(seed)
        self._latency_ms: dict[str, tuple[float, float]] = {}
        self._misfortunes: dict[str, _Misfortune] = {}
        self._holds: dict[str, asyncio.Event] = {}
        self._arrivals: dict[str, asyncio.Event] = {}

    async def enter(self, call: str) -> None:
        """Wait while the call is held, take its time, and fail if it is to fail."""
        if call in self._holds:
            self._arrivals[call].set()
            await self._holds[call].wait()
        if call in self._latency_ms:
            await asyncio.sleep(self._random.uniform(*self._latency_ms[call]) / 1000)
        misfortune = self._misfortunes.get(call)
        if misfortune is None or self._random.random() >= misfortune.chance:
            return
        if misfortune.left is not None:
            misfortune.left -= 1
            if misfortune.left <= 0:
                del self._misfortunes[call]
        raise _stand_in(misfortune.fault)

    def fail(self, call: str, fault: str, times: str = "1") -> None:
        """Let the call fail that many `times`: a number, `always`, or a chance such as `10%`; 0 ends it."""
        self._check(call)
        kind = Fault.known.get(fault)
        if kind is None:
            raise BadRequest("fault", f"there is no fault {fault!r:.60}; shared/protocol/xenops/errors.py lists them")
        if times == "always":
            self._misfortunes[call] = _Misfortune(kind)
        elif times.endswith("%") and _number(times[:-1]) <= 100:
            self._misfortunes[call] = _Misfortune(kind, chance=_number(times[:-1]) / 100)
        elif times.isdecimal() and int(times) > 0:
            self._misfortunes[call] = _Misfortune(kind, left=int(times))
        elif times == "0":
            self._misfortunes.pop(call, None)
        else:
            raise BadRequest("times", f"{times!r:.60} is no number, no `always` and no chance such as `10%`")

    def delay(self, call: str, milliseconds: str) -> None:
        """Let the call take that long: `5`, or by chance `5-20`; 0 ends it."""
        self._check(call)
        least, _, most = milliseconds.partition("-")
        span = (_number(least), _number(most or least))
        if span[0] > span[1]:
            raise BadRequest("ms", f"{milliseconds!r} ends before it begins")
        if span == (0.0, 0.0):
            self._latency_ms.pop(call, None)
        else:
            self._latency_ms[call] = span

    def hold(self, call: str) -> None:
        """Let nobody through until `release`. Idempotent."""
        self._check(call)
        self._holds.setdefault(call, asyncio.Event())
        self._arrivals.setdefault(call, asyncio.Event())

    def release(self, call: str) -> None:
        """Let everybody through again. Idempotent."""
        self._check(call)
        hold = self._holds.pop(call, None)
        self._arrivals.pop(call, None)
        if hold is not None:
            hold.set()

    async def arrival(self, call: str) -> None:
        """Wait until somebody stands before a held call."""
        await self._arrivals[call].wait()

    def _check(self, call: str) -> None:
        if call not in self.calls:
            raise BadRequest("call", f"there is no call {call!r:.60}; there are {', '.join(sorted(self.calls))}")


class Noun:
    """What the nouns of the simulator have in common: they act on one world, through one gate."""

    noun: ClassVar[str]

    def __init__(self, world: World, gate: Gate) -> None:
        self._world, self._gate = world, gate

    async def enter(self, call: str) -> None:
        """Pass the gate."""
        await self._gate.enter(f"{self.noun}.{call}")


def gated(method: Callable[Concatenate[N, P], Awaitable[R]]) -> Callable[Concatenate[N, P], Coroutine[Any, Any, R]]:
    """Let a method of a noun pass the gate first."""
    call = method.__name__

    @functools.wraps(method)
    async def entered(self: N, /, *args: P.args, **kwargs: P.kwargs) -> R:
        await self.enter(call)
        return await method(self, *args, **kwargs)

    entered.__dict__["gated"] = True
    return entered


def calls_of(nouns: Iterable[object]) -> frozenset[str]:
    """The names of all calls that pass the gate."""
    return frozenset(
        f"{noun.noun}.{name}"
        for noun in nouns
        if isinstance(noun, Noun)
        for name, member in vars(type(noun)).items()
        if getattr(member, "gated", False)
    )


def _stand_in(fault: type[Fault]) -> Fault:
    """That fault, with something in its fields."""
    wanted = [field for field in fields(fault) if field.default is MISSING]  # type: ignore[arg-type]
    return fault(*(_STAND_INS[field.type] for field in wanted))


def _number(untrusted_text: str) -> float:
    if not untrusted_text.isdecimal() or len(untrusted_text) > 9:
        raise BadRequest("number", f"{untrusted_text!r:.60} is not a whole number")
    return float(untrusted_text)

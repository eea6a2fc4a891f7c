# SPDX-License-Identifier: Apache-2.0
"""The asking end of a call, made from the declaration: the request's message, and `stub`, a client of an interface.

A short command reads this and not the answering end (`xenops.rpc`): no event loop, nothing but the words of the call.
"""

import functools
import itertools
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import msgspec
from msgspec import UNSET

from xenops import wire
from xenops.bus.port import Bus, Message
from xenops.idl import Interface, Method, methods

I = TypeVar("I", bound=Interface)  # noqa: E741
REPLY_TIMEOUT_S = 30.0

_counter = itertools.count(1)


@functools.cache
def _client(pid: int) -> str:
    """One for each process: after a fork, two of them would else give the same ids to different requests."""
    return os.urandom(8).hex()


def request(
    method: Method, args: tuple[Any, ...], kwargs: dict[str, Any], *, debug_info: str = "", deadline: int | None = None
) -> Message:
    """The message that asks for `method`; its id makes it safe to send again."""
    names = method.params.__struct_fields__
    if len(args) > len(names):
        raise TypeError(f"{method.wire} takes {', '.join(names) or 'nothing'}")
    params = method.params(**dict(zip(names, args, strict=False)), **kwargs)
    headers: dict[str, Any] = {"version": wire.VERSION}
    if debug_info:
        headers["debug_info"] = debug_info
    if deadline is not None:
        headers["deadline"] = deadline
    id = f"{_client(os.getpid())}-{next(_counter)}"
    return Message(wire.encode_call(method.wire, params), message_id=id, headers=headers)


def waiting_s(method: Method, args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float) -> float:
    """How long a caller waits for the reply: a long poll's own time comes on top."""
    if not method.waits:
        return timeout_s
    names = method.params.__struct_fields__
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    own = given.get(
        "timeout", next((f.default for f in msgspec.structs.fields(method.params) if f.name == "timeout"), UNSET)
    )
    return timeout_s + (own if isinstance(own, int | float) else 0.0)


def stub(
    interface: type[I],
    bus: Bus,
    queue: str,
    *,
    timeout_s: float = REPLY_TIMEOUT_S,
    debug_info: str = "",
    deadline_s: float | None = None,
) -> I:
    """A client of `interface` whose methods are asked of `queue`; they raise the service's faults."""

    def bind(method: Method) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            deadline = None if deadline_s is None else int((time.time() + deadline_s) * 1000)
            message = request(method, args, kwargs, debug_info=debug_info, deadline=deadline)
            reply = await bus.call(queue, message, timeout_s=waiting_s(method, args, kwargs, timeout_s))
            return wire.decode_result(reply.body, method.result)

        call.__name__, call.__doc__ = method.attribute, method.doc
        return call

    members = {m.attribute: staticmethod(bind(m)) for m in methods(interface).values()}
    return cast(I, type(f"{interface.__name__}Stub", (), members)())

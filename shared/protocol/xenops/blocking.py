# SPDX-License-Identifier: Apache-2.0
"""xenopsd for scripts and other threads: the same calls as `xenops.client`, each of which waits for its answer.

with connect_blocking() as xenops:
    task = xenops.VM.start("myfirstvm")
    xenops.finished(task)
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from xenops import wire
from xenops.bus.blocking import BlockingBus
from xenops.client import POLL_S, OnProgress, Waiting, outcome, patterns, placed, read_event
from xenops.errors import DoesNotExist
from xenops.events import Event, Kind
from xenops.idl import Interface, Method, methods
from xenops.interfaces.xenops import DEBUG, HOST, PCI, UPDATES, VBD, VGPU, VIF, VM, VUSB, General, Task
from xenops.rpc import REPLY_TIMEOUT_S, request, waiting_s
from xenops.types.service import ServiceInfo

log = logging.getLogger(__name__)
_PROGRESS_POLL_S = 1.0


class BlockingXenops:
    """xenopsd, as seen from a script; made by `connect_blocking`. It belongs to one thread."""

    def __init__(
        self, bus: BlockingBus, queue: str, *, timeout_s: float = REPLY_TIMEOUT_S, debug_info: str = ""
    ) -> None:
        self.bus, self.queue = bus, queue

        def of(interface: type[Interface]) -> Any:
            return _blocking_stub(interface, bus, queue, timeout_s, debug_info)

        self._general = of(General)
        self.VM, self.VBD, self.VIF, self.PCI = of(VM), of(VBD), of(VIF), of(PCI)
        self.VUSB, self.VGPU, self.HOST = of(VUSB), of(VGPU), of(HOST)
        self.Task, self.UPDATES, self.DEBUG = of(Task), of(UPDATES), of(DEBUG)

    def __enter__(self) -> "BlockingXenops":
        return self

    def __exit__(self, *_: object) -> None:
        self.bus.close()

    def query(self) -> ServiceInfo:
        """Name, version, features and place of the service."""
        info: ServiceInfo = self._general.query()
        return info

    def get_diagnostics(self) -> dict[str, Any]:
        """What the service is doing now; for people who debug."""
        facts: dict[str, Any] = self._general.get_diagnostics()
        return facts

    def finished(self, task: str, timeout_s: float | None = None, on_progress: OnProgress | None = None) -> Any:
        """The result of a task once it has ended, or its fault; its record is removed. `TimedOut` leaves it alone."""
        waiting = Waiting(
            self.queue, timeout_s, on_progress, poll_s=POLL_S if on_progress is None else _PROGRESS_POLL_S
        )
        while True:
            now = self.Task.wait(task, timeout=waiting.poll_s())
            if waiting.has_ended(now):
                break
        try:
            self.Task.destroy(task)
        except DoesNotExist:
            log.debug("the record of %s had been removed already", task)
        return outcome(now)

    def events(
        self,
        kinds: Iterable[Kind] = (),
        timeout_s: float | None = None,
        *,
        on_gap: Callable[[], None] | None = None,
    ) -> Iterator[Event]:
        """What changes from this call on; ends when nothing has for `timeout_s`."""
        messages = self.bus.events(patterns(self.queue, kinds), timeout_s, on_gap=on_gap)
        return filter(None, map(read_event, messages))


def connect_blocking(
    url: str | None = None, queue: str | None = None, *, timeout_s: float = REPLY_TIMEOUT_S, debug_info: str = ""
) -> BlockingXenops:
    """The same for scripts; to be used with `with`."""
    url, queue = placed(url, queue)
    return BlockingXenops(BlockingBus(url), queue, timeout_s=timeout_s, debug_info=debug_info)


def _blocking_stub(interface: type[Interface], bus: BlockingBus, queue: str, timeout_s: float, debug_info: str) -> Any:
    def bind(method: Method) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            message = request(method, args, kwargs, debug_info=debug_info)
            reply = bus.call(queue, message, timeout_s=waiting_s(method, args, kwargs, timeout_s))
            return wire.decode_result(reply.body, method.result)

        call.__name__, call.__doc__ = method.attribute, method.doc
        return call

    members = {m.attribute: staticmethod(bind(m)) for m in methods(interface).values()}
    return type(f"{interface.__name__}Blocking", (), members)()

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
from xenops.asking import REPLY_TIMEOUT_S, request, waiting_s
from xenops.bus.blocking import BlockingBus
from xenops.ending import POLL_S, OnProgress, Waiting, outcome, patterns, placed, read_event
from xenops.errors import DoesNotExist
from xenops.events import Event, Kind
from xenops.idl import Interface, method
from xenops.interfaces.xenops import DEBUG, HOST, PCI, UPDATES, VBD, VGPU, VIF, VM, VUSB, General, Task
from xenops.types.service import ServiceInfo

log = logging.getLogger(__name__)
_PROGRESS_POLL_S = 0.5


class BlockingXenops:
    """xenopsd, as seen from a script; made by `connect_blocking`. It belongs to one thread."""

    def __init__(
        self, bus: BlockingBus, queue: str, *, timeout_s: float = REPLY_TIMEOUT_S, debug_info: str = ""
    ) -> None:
        self.bus, self.queue = bus, queue

        def of(interface: type[Interface]) -> Any:
            return _Namespace(interface, bus, queue, timeout_s, debug_info)

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
        lasting_s: float | None = None,
        on_gap: Callable[[], None] | None = None,
    ) -> Iterator[Event]:
        """What changes from this call on; ends when nothing has for `timeout_s`, and after `lasting_s`."""
        messages = self.bus.events(patterns(self.queue, kinds), timeout_s, lasting_s=lasting_s, on_gap=on_gap)
        return filter(None, map(read_event, messages))


def connect_blocking(
    url: str | None = None, queue: str | None = None, *, timeout_s: float = REPLY_TIMEOUT_S, debug_info: str = ""
) -> BlockingXenops:
    """The same for scripts; to be used with `with`."""
    url, queue = placed(url, queue)
    return BlockingXenops(BlockingBus(url), queue, timeout_s=timeout_s, debug_info=debug_info)


class _Namespace:
    """The methods of one interface, each made when it is first asked for: a script calls few of them."""

    def __init__(
        self, interface: type[Interface], bus: BlockingBus, queue: str, timeout_s: float, debug_info: str
    ) -> None:
        self._interface, self._bus, self._queue = interface, bus, queue
        self._timeout_s, self._debug_info = timeout_s, debug_info

    def __getattr__(self, name: str) -> Callable[..., Any]:
        declared = method(self._interface, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            message = request(declared, args, kwargs, debug_info=self._debug_info)
            timeout_s = waiting_s(declared, args, kwargs, self._timeout_s)
            reply = self._bus.call(self._queue, message, timeout_s=timeout_s)
            return wire.decode_result(reply.body, declared.result)

        call.__name__, call.__doc__ = name, declared.doc
        setattr(self, name, call)
        return call

    def __dir__(self) -> list[str]:
        return [name for name, value in vars(self._interface).items() if hasattr(value, "__rpc__")]

# SPDX-License-Identifier: Apache-2.0
"""The simulated host: which domains there are, whose memory is whose, and who waits for what.

Every change goes through `commit`, which keeps it on the shelf, forgets the cached state and wakes those who wait.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from xenops.errors import AlreadyExists, DoesNotExist, DomainNotBuilt, NotEnoughMemory
from xenops.events import Kind
from xenops.types.console import Console
from xenops.types.vm import DomainType, Vm, VmState
from xenopsd.backends.port import Changed, ShutdownReason
from xenopsd.backends.simulator.world import guest
from xenopsd.backends.simulator.world.domain import (
    Behaviour,
    Domain,
    HostFacts,
    ShutdownCode,
    Suspended,
    hand_over,
    new_domain,
)
from xenopsd.backends.simulator.world.memory import overhead_kib
from xenopsd.backends.simulator.world.shelf import Shelf

_MIB_KIB = 1024


class Screens(Protocol):
    """Those who show consoles."""

    def open(self, domain: Domain) -> None:
        """Offer the domain's consoles. Idempotent."""

    def show(self, domid: int, shown: bytes) -> None:
        """Send to whoever looks."""

    def close(self, domid: int) -> None:
        """The domain is gone. Idempotent."""

    def consoles(self, domid: int) -> list[Console]:
        """What is offered."""


def _ignore(kind: Kind, id: str) -> None:
    """Nobody listens until the backend is started."""


class World:
    """One simulated host."""

    def __init__(self, shelf: Shelf, screens: Screens, *, memory_mib: int, behaviour: Behaviour) -> None:
        self.memory_kib = memory_mib * _MIB_KIB
        self.behaviour = behaviour
        self.changed: Changed = _ignore
        self.screens = screens
        self.states: dict[str, VmState] = {}  # the last answer for each machine that has a domain
        self._shelf = shelf
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._reactions: dict[int, asyncio.TimerHandle] = {}
        domains = [msgspec.msgpack.decode(body, type=Domain) for _, body in shelf.load("domain")]
        self.domains = {domain.vm: domain for domain in domains if domain.vm}
        self.foreign = {domain.domid: domain for domain in domains if not domain.vm}
        self.suspended = {vm: msgspec.msgpack.decode(body, type=Suspended) for vm, body in shelf.load("suspended")}
        facts = dict(shelf.load("host")).get("facts")
        self.facts = msgspec.msgpack.decode(facts, type=HostFacts) if facts else HostFacts()

    def start(self, changed: Changed) -> None:
        """Take up where a former daemon left: consoles open, guests go on, what waits to be seen to is told."""
        self.changed = changed
        for domain in self.domains.values():
            if domain.built:
                self.screens.open(domain)
            self._arm(domain)
            if domain.action is not None or domain.shutdown is not None:
                changed(Kind.VM, domain.vm)

    def stop(self) -> None:
        """Domains run on without us. Idempotent."""
        self.changed = _ignore
        for handle in self._reactions.values():
            handle.cancel()
        self._reactions.clear()
        for domain in self.domains.values():
            self.screens.close(domain.domid)
        self._shelf.close()

    def find(self, vm: str) -> Domain | None:
        """The machine's domain, if it has one."""
        return self.domains.get(vm)

    def domain(self, vm: str) -> Domain:
        """The machine's domain. Raises `DoesNotExist`."""
        domain = self.domains.get(vm)
        if domain is None:
            raise DoesNotExist("domain", vm)
        return domain

    def complete(self, vm: str) -> Domain:
        """The machine's domain, which could be scheduled. Raises `DoesNotExist`, `DomainNotBuilt`."""
        domain = self.domain(vm)
        if not domain.complete:
            raise DomainNotBuilt()
        return domain

    def create(self, vm: Vm) -> Domain:
        """A new domain; an older one of that machine is gone."""
        if vm.id in self.domains:
            self.remove(vm.id)
        domain = new_domain(vm, self._next_domid(), int(time.time() * 1000), self.behaviour)
        self.domains[vm.id] = domain
        self.commit(domain)
        return domain

    def create_foreign(self, name: str) -> Domain:
        """A domain that somebody else made, on the same host."""
        domain = Domain(
            domid=self._next_domid(), vm="", name=name, kind=DomainType.PV, created_ms=int(time.time() * 1000)
        )
        domain.static_max_kib = domain.target_kib = domain.held_kib = 64 * _MIB_KIB
        domain.built, domain.paused, domain.action = True, False, None
        self.foreign[domain.domid] = domain
        self._shelf.put("domain", str(domain.domid), domain)
        return domain

    def remove(self, vm: str) -> None:
        """The domain and all that belonged to it. Idempotent."""
        domain = self.domains.pop(vm, None)
        if domain is None:
            return
        self._disarm(domain)
        self.screens.close(domain.domid)
        self._shelf.drop("domain", str(domain.domid))
        self._touch(vm)

    def rename(self, vm: str, to: Vm) -> None:
        """The domain of one machine is another's from now on. Idempotent. Raises `AlreadyExists`."""
        domain = self.domains.get(vm)
        if domain is None:
            return
        if to.id in self.domains:
            raise AlreadyExists("domain", to.id)
        del self.domains[vm]
        hand_over(domain, to)
        self.domains[to.id] = domain
        self._touch(vm)
        self.commit(domain)

    def commit(self, domain: Domain) -> None:
        """Keep what has changed; a domain that vanished while somebody waited stays gone."""
        if self.domains.get(domain.vm) is not domain:
            return
        self._shelf.put("domain", str(domain.domid), domain)
        self._touch(domain.vm)

    def commit_facts(self) -> None:
        """Keep what has changed of the host."""
        self._shelf.put("host", "facts", self.facts)

    def suspend(self, vm: str, note: Suspended | None) -> None:
        """Note that the machine is suspended, or no longer."""
        if note is not None:
            self.suspended[vm] = note
            self._shelf.put("suspended", vm, note)
        elif self.suspended.pop(vm, None) is not None:
            self._shelf.drop("suspended", vm)
        self._touch(vm)

    def free_kib(self) -> int:
        """What no domain holds."""
        held = sum(domain.held_kib for domain in self.domains.values())
        return self.memory_kib - held - sum(domain.held_kib for domain in self.foreign.values())

    def take_memory(self, domain: Domain, *, least_kib: int, most_kib: int, force: bool = False) -> None:
        """Give the domain between `least_kib` and `most_kib`, as far as there is. Raises `NotEnoughMemory`."""
        free_kib = self.free_kib() + domain.held_kib
        overhead = overhead_kib(domain)
        if least_kib + overhead > free_kib and not force:
            raise NotEnoughMemory(needed=(least_kib + overhead) << 10, free=free_kib << 10)
        domain.target_kib = max(0, min(most_kib, free_kib - overhead))
        domain.held_kib = min(domain.target_kib + overhead, free_kib)

    def show(self, domain: Domain, shown: bytes) -> None:
        """Keep and send what the guest printed."""
        self.commit(domain)
        self.screens.show(domain.domid, shown)

    def ask(self, domain: Domain, reason: ShutdownReason) -> None:
        """Write `control/shutdown`; the guest reacts when it gets to it."""
        domain.asked = reason
        self.commit(domain)
        self._arm(domain)

    def wake(self, vm: str) -> None:
        """The guest goes on after a suspension, or forgets that it was asked for one. Idempotent."""
        domain = self.domains.get(vm)
        if domain is None:
            return
        self._disarm(domain)
        domain.asked = None
        if domain.shutdown is ShutdownCode.SUSPEND:
            self.show(domain, guest.wake(domain, unaware=domain.paused))
        else:
            self.commit(domain)

    def stop_paused(self, domain: Domain) -> None:
        """Shut it down for suspend without asking its guest, which is not scheduled."""
        domain.shutdown = ShutdownCode.SUSPEND
        self.commit(domain)

    def guest_stops(self, domain: Domain, code: ShutdownCode) -> None:
        """The guest shuts down by itself."""
        self._disarm(domain)
        self.show(domain, guest.stop(domain, code))
        self.changed(Kind.VM, domain.vm)

    def schedule(self, domain: Domain) -> None:
        """Unpause: the guest boots or goes on."""
        domain.paused = False
        if not domain.booted:
            self.show(domain, guest.boot(domain))
        else:
            self.commit(domain)
        self._arm(domain)

    def type_in(self, vm: str, untrusted_keys: bytes) -> None:
        """Somebody types at the guest's console."""
        domain = self.domains.get(vm)
        if domain is None or not domain.runs:
            return
        if shown := guest.type_in(domain, untrusted_keys):
            self.show(domain, shown)
        if domain.shutdown is not None:
            self.changed(Kind.VM, domain.vm)

    async def wait(self, vm: str, done: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until something about the machine has made `done` true; false when it is not by then."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not done():
            future: asyncio.Future[None] = loop.create_future()
            self._waiting.setdefault(vm, []).append(future)
            try:
                async with asyncio.timeout_at(deadline):
                    await future
            except TimeoutError:
                return done()
        return True

    def _touch(self, vm: str) -> None:
        self.states.pop(vm, None)
        for future in self._waiting.pop(vm, ()):
            if not future.done():
                future.set_result(None)

    def _arm(self, domain: Domain) -> None:
        delay_ms = domain.behaviour.acknowledges_ms
        if domain.asked is None or not domain.runs or delay_ms is None:
            return
        self._disarm(domain)
        if delay_ms == 0:
            self._react(domain)
        else:
            loop = asyncio.get_running_loop()
            self._reactions[domain.domid] = loop.call_later(delay_ms / 1000, self._react, domain)

    def _disarm(self, domain: Domain) -> None:
        handle = self._reactions.pop(domain.domid, None)
        if handle is not None:
            handle.cancel()

    def _react(self, domain: Domain) -> None:
        self._reactions.pop(domain.domid, None)
        if not domain.runs or self.domains.get(domain.vm) is not domain:
            return
        self.show(domain, guest.acknowledge(domain))
        if domain.shutdown is not None:
            self.changed(Kind.VM, domain.vm)

    def _next_domid(self) -> int:
        domid = self.facts.next_domid
        self.facts.next_domid += 1
        self.commit_facts()
        return domid

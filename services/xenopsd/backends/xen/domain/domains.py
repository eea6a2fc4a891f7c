# SPDX-License-Identifier: Apache-2.0
"""Which domain each machine has, from before it is made until nothing of it is left, and across restarts of ours.

    claim/<nonce>      written before the domain is made, with the nonce as its handle: whatever is found with that
                       handle after a crash is ours, and half made
    machine/<uuid>     written with the domain's tree, in one transaction that also takes the claim away; only then
                       does the domain get the machine's own handle

A domain without such a note was not made here, whatever its handle says, and is never touched.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from uuid import UUID, uuid4

from xenops.errors import AlreadyExists, DoesNotExist, HypercallFailed, IoError
from xenops.events import Kind
from xenops.types.vm import Vm
from xenopsd.backends.port import Changed
from xenopsd.backends.xen.domain import layout
from xenopsd.backends.xen.domain.layout import handle_of
from xenopsd.backends.xen.domctl import CreateDomain, DomainInfo, Domctl
from xenopsd.backends.xen.xenstore.changes import Remove, Write
from xenopsd.backends.xen.xenstore.client import XenStore

log = logging.getLogger(__name__)


class Domains:
    """The domains of our machines."""

    def __init__(self, xs: XenStore, xc: Domctl) -> None:
        self._xs, self._xc = xs, xc
        self._domids: dict[str, int] = {}
        self._machines: dict[int, str] = {}
        self.built: set[int] = set()  # known to have memory: they keep it
        self._gone: set[int] = set()  # the hypervisor has none of them any more, xenstore still does
        self._told: dict[int, tuple[bool, bool]] = {}
        self._released = asyncio.Event()

    def domid(self, vm: str) -> int | None:
        """The domain that a machine has, or had and of which something may be left."""
        return self._domids.get(vm)

    def require(self, vm: str) -> int:
        """The live domain of a machine. Raises `DoesNotExist("domain", id)`."""
        domid = self._domids.get(vm)
        if domid is None or domid in self._gone:
            raise DoesNotExist("domain", vm)
        return domid

    def machine(self, domid: int) -> str | None:
        """Whose domain that is."""
        return self._machines.get(domid)

    def items(self) -> list[tuple[str, int]]:
        """All machines that have domains."""
        return list(self._domids.items())

    async def info(self, vm: str) -> DomainInfo | None:
        """What the hypervisor says of a machine's domain; none when there is none, or one that is dying."""
        domid = self._domids.get(vm)
        return None if domid is None else await self._look(domid)

    async def infos(self, vms: Sequence[str]) -> list[DomainInfo | None]:
        """As `info`, for many with one question."""
        known = {info.domid: info for info in await self._xc.list_info() if not info.dying}
        return [known.get(self._domids.get(vm, -1)) for vm in vms]

    async def create(self, vm: Vm, wanted: Callable[[UUID], CreateDomain]) -> int:
        """Make a domain and its tree. Raises `AlreadyExists` when a foreign domain has the machine's UUID."""
        handle, nonce = handle_of(vm.id), uuid4()
        if vm.id not in self._domids and await self._xs.read(f"{layout.vm_tree(handle)}/uuid") is not None:
            raise AlreadyExists("domain", vm.id)
        await self._xs.commit([Write(layout.claim(nonce), vm.id)])
        try:
            domid = await self._xc.create_domain(wanted(nonce))
            created_ms = int(time.time() * 1000)
            await self._xs.commit(layout.created(vm, handle, domid, nonce, created_ms=created_ms))
        except BaseException:
            await self._discard_claimed(nonce)
            raise
        self._note(vm.id, domid)
        await self._xc.set_handle(domid, handle)
        return domid

    async def rename(self, vm: Vm, to: Vm) -> None:
        """The domain of the one machine is the other's. Idempotent. Raises `AlreadyExists` when that has one."""
        domid = self._domids.get(vm.id)
        if domid is None:
            return
        if to.id in self._domids:
            raise AlreadyExists("domain", to.id)
        top = layout.vm_tree(handle_of(vm.id))
        held = {path[len(top) + 1 :]: value for path, value in (await self._xs.tree(top)).items() if path != top}
        await self._xs.commit(layout.renamed(vm, to, domid, held))
        gone = domid in self._gone
        del self._domids[vm.id]
        self._note(to.id, domid)
        if gone:
            self._gone.add(domid)
        with suppress(DoesNotExist):  # it has vanished meanwhile, which is found out as ever
            await self._xc.set_handle(domid, handle_of(to.id))
        await self._xs.commit([Remove(layout.was(domid))])

    async def bury(self, vm: str, domid: int) -> None:
        """Its tree goes; `vm` may have another domain already."""
        last = self._domids.get(vm) == domid
        await self._xs.commit(layout.gone(handle_of(vm), domid, last=last))
        if last:
            del self._domids[vm]
        self._machines.pop(domid, None)
        self._told.pop(domid, None)
        self._gone.discard(domid)
        self.built.discard(domid)

    async def adopt(self) -> None:
        """Find the domains that an earlier life of ours made, and end those that it had only begun to make."""
        for nonce in await self._xs.ls("/xenopsd/claim"):
            await self._discard_claimed(UUID(nonce))
        for name in await self._xs.ls("/xenopsd/machine"):
            vm, domid = await self._xs.read_many([f"/xenopsd/machine/{name}/id", f"/xenopsd/machine/{name}/domid"])
            if vm is None or domid is None:
                continue
            self._note(vm, int(domid))
            info = await self._xc.get_info(int(domid))
            if info is None or info.dying or not await self._is_ours(info, vm):
                self._gone.add(int(domid))
            elif not info.shutdown:
                with suppress(IoError):  # one that was not introduced yet
                    await self._xs.resume(int(domid))  # killed while it was woken, nobody may have told xenstored
                if info.hvm:
                    await self._forget_writes(int(domid))
        log.info("%d domains of ours found, %d of them gone", len(self._domids), len(self._gone))

    async def _forget_writes(self, domid: int) -> None:
        """A builder that died with us while its memory was sent has left Xen keeping account of it, which slows it down."""
        with suppress(DoesNotExist):
            await self._xc.forget_writes(domid)

    async def follow(self, changed: Changed) -> None:
        """Tell of domains that shut down or vanish, until cancelled."""
        async with self._xs.watch("@releaseDomain") as events:
            async for _ in events:
                await self._survey(changed)

    async def wait(self, vm: str, until: Callable[[DomainInfo | None], bool], timeout_s: float) -> bool:
        """Wait until the hypervisor says that of a machine's domain; false when the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    released = self._released
                    if until(await self.info(vm)):
                        return True
                    await released.wait()
        return until(await self.info(vm))

    def stir(self) -> None:
        """Let everybody who waits look again."""
        released, self._released = self._released, asyncio.Event()
        released.set()

    async def _survey(self, changed: Changed) -> None:
        self.stir()
        for vm, domid in self.items():
            info = await self._look(domid)
            now = (info is None, info is not None and info.shutdown)
            if self._told.get(domid, (False, False)) != now:
                self._told[domid] = now
                changed(Kind.VM, vm)

    async def _look(self, domid: int) -> DomainInfo | None:
        if domid in self._gone:
            return None
        info = await self._xc.get_info(domid)
        if info is None or info.dying:
            self._gone.add(domid)
            return None
        return info

    async def _is_ours(self, info: DomainInfo, vm: str) -> bool:
        """Killed between a tree and its handle, the domain still has its nonce, or what it had before it was renamed:
        finish what was begun.
        """
        if info.handle == handle_of(vm):
            return True
        private = layout.private(info.domid)
        noted, built, was = await self._xs.read_many([f"{private}/machine", f"{private}/built", layout.was(info.domid)])
        renamed = was is not None and info.handle == handle_of(was)
        if noted == vm and (renamed or (not info.shutdown and not built)):
            await self._xc.set_handle(info.domid, handle_of(vm))
            await self._xs.commit([Remove(layout.was(info.domid))])
            return True
        return False

    async def _discard_claimed(self, nonce: UUID) -> None:
        """A crash may have left a domain without a tree."""
        for info in await self._xc.list_info():
            if info.handle == nonce and not info.dying:
                log.warning("domain %d was half made when we ended: destroyed", info.domid)
                with suppress(HypercallFailed):
                    await self._xc.destroy(info.domid)
        await self._xs.commit([Remove(layout.claim(nonce))])

    def _note(self, vm: str, domid: int) -> None:
        self._domids[vm] = domid
        self._machines[domid] = vm
        self._gone.discard(domid)

# SPDX-License-Identifier: Apache-2.0
"""A simulated guest's way to another host: rounds of pages while it runs, the rest and its state once it is suspended."""

import time

import msgspec

from xenops.errors import FailedToSuspend, MigrationFailed
from xenopsd.backends.port import Inlet, Outlet, Progress
from xenopsd.backends.simulator.world.domain import ENCODER, Domain
from xenopsd.backends.simulator.world.ram import Arrived

_MOST_ROUNDS = 5  # as Xen's own
_FEW_PAGES = 50  # so few are sent with the guest suspended
_PAGES, _STATE = b"P", b"S"


async def send_live(domain: Domain, outlet: Outlet, progress: Progress) -> tuple[set[int], int]:
    """Send pages until few are left or it makes no sense to go on; those left, and how many rounds it took."""
    ram, rounds, dirty, paused = domain.ram, 0, set(range(domain.ram.pages)), domain.paused
    while True:
        rounds += 1
        began, written = time.monotonic(), set[int]()
        for chunk in ram.chunks(dirty):
            await outlet.send(_PAGES + chunk)
            if not (domain.runs or (paused and domain.shutdown is None)):  # it has stopped by itself meanwhile
                raise FailedToSuspend(domain.vm, 0.0)
            now = time.monotonic()
            written |= set() if paused else ram.run(now - began)
            began = now
        progress(0.9 * (1 - len(written) / max(1, ram.pages)))
        if len(written) <= _FEW_PAGES or rounds == _MOST_ROUNDS or len(written) >= len(dirty):
            return written, rounds
        dirty = written


async def send_rest(domain: Domain, left: set[int], outlet: Outlet) -> None:
    """Send what the suspended guest had written last, and all else that makes it."""
    for chunk in domain.ram.chunks(left):
        await outlet.send(_PAGES + chunk)
    await outlet.send(_STATE + ENCODER.encode(domain))


async def receive(vm: str, inlet: Inlet, progress: Progress) -> Domain:
    """The domain as it was at the other end, its memory seen to be whole. Raises `MigrationFailed`."""
    arrived, untrusted_state, seen = Arrived(), b"", 0
    try:
        while (untrusted := await inlet.receive()) is not None:
            seen += 1
            if untrusted[:1] == _PAGES:
                arrived.take(untrusted[1:])
            elif untrusted[:1] == _STATE:
                untrusted_state = untrusted[1:]
            else:
                raise ValueError("there is a piece that is neither memory nor state")
            progress(1 - 1 / (1 + seen / 8))
        domain = msgspec.msgpack.decode(untrusted_state, type=Domain)
        arrived.check(domain.ram)
    except (ValueError, msgspec.MsgspecError) as error:
        raise MigrationFailed(vm, f"what arrived cannot be used: {error}") from None
    return domain

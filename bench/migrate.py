# SPDX-License-Identifier: Apache-2.0
"""Migrations: MB of guest memory a second, against a plain socket copy of as many bytes in the same run, and the downtime.

Usage: migrate.py [MEGABYTES [RUNS]]. Both xenopsds are in this process, on simulators, and so are both ends of the copy. The simulated
guest's pages repeat themselves: what zstd makes of them says nothing of real memory, only what it costs.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tests.xenopsd.machines import plain_vm  # noqa: E402
from tests.xenopsd.migration.pair import Host, two  # noqa: E402
from tests.xenopsd.migration.test_tls import authority, certificate  # noqa: E402

VM = "vm-1"
PIECE = 1 << 16
DIRTY_KIB_S = 8000
WAYS = (("plain", False, False), ("zstd", False, True), ("TLS", True, False), ("TLS and zstd", True, True))


async def copied(size: int) -> float:
    """Seconds that a plain copy over a loopback socket takes, until the other end has all of it."""
    taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = size
        while left:
            left -= len(await reader.read(min(left, PIECE)))
        writer.close()
        taken.set_result(None)

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        began = time.perf_counter()
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        piece = bytes(PIECE)
        for _ in range(size // PIECE):
            writer.write(piece)
            await writer.drain()
        await taken
        took = time.perf_counter() - began
        writer.close()
    return took


async def moved(source: Host, destination: Host, *, compress: bool) -> dict[str, Any]:
    """What the task of one migration says, and how long it took for who asked."""
    began = time.perf_counter()
    result = await source.xenops.finished(await source.xenops.VM.migrate(VM, destination.queue, compress=compress))
    return {**result, "took_s": time.perf_counter() - began}


async def measure(folder: Path, megabytes: int, runs: int, *, tls: bool, compress: bool) -> list[dict[str, Any]]:
    """There and back, and a copy after each."""
    folder.mkdir()
    settings: dict[str, Any] = {}
    if tls:
        authority(folder, "ca")
        settings = certificate(folder, "ca", "host")
    found = []
    async with AsyncExitStack() as at_end:
        hosts = list(await at_end.enter_async_context(two(folder, migration_stall_timeout=60.0, **settings)))
        await hosts[0].xenops.VM.add(plain_vm(VM))
        await hosts[0].xenops.finished(await hosts[0].xenops.VM.start(VM, paused=False))
        await hosts[0].xenops.DEBUG.trigger("memory", [VM, str(megabytes << 10), str(DIRTY_KIB_S)])
        for _ in range(runs):
            result = await moved(hosts[0], hosts[1], compress=compress)
            result["copied_s"] = await copied(megabytes << 20)
            found.append(result)
            hosts.reverse()
    return found


def main(megabytes: int = 64, runs: int = 5) -> None:
    """A row for each way: medians, and the median of the paired ratios."""
    print("| Way | Ours | Plain copy | Ratio | Downtime | Worst | Rounds | Sent |\n|---|---|---|---|---|---|---|---|")
    for name, tls, compress in WAYS:
        with tempfile.TemporaryDirectory(prefix="xenops-migrate-") as folder:
            found = asyncio.run(measure(Path(folder) / "w", megabytes, runs, tls=tls, compress=compress))
        middle = {
            key: statistics.median(each[key] for each in found) for key in found[0] if key not in ("destination",)
        }
        ratio = statistics.median(each["copied_s"] / each["took_s"] for each in found)
        worst = max(each["downtime_s"] for each in found) * 1000
        print(
            f"| {name} | {megabytes / middle['took_s']:.0f} MB/s | {megabytes / middle['copied_s']:.0f} MB/s | {ratio:.3f} "
            f"| {middle['downtime_s'] * 1000:.0f} ms | {worst:.0f} ms | {middle['rounds']:.0f} | {middle['bytes'] / (1 << 20):.0f} MB |"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

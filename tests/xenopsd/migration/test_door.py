# SPDX-License-Identifier: Apache-2.0
"""Where a machine's memory arrives: strangers keep nobody out who has a ticket."""

import asyncio

from xenopsd.migration.door import Door, Streams
from xenopsd.migration.line import connect


def test_strangers_keep_nobody_out() -> None:
    async def run() -> None:
        door = Door(Streams())
        expected = await door.expect("vm-1", compress=False)
        crowd = [await asyncio.open_connection("127.0.0.1", door.port) for _ in range(200)]
        line = await connect(
            "vm-1", "127.0.0.1", door.port, expected.ticket, version=1, tls=None, compress=None, stall_s=5.0
        )
        await line.send(b"memory")
        assert await (await expected.line).receive() == b"memory"
        turned_away = [reader for reader, _ in crowd[:100]]
        assert await asyncio.gather(*(reader.read() for reader in turned_away)) == [b""] * 100
        line.close()
        door.forget(expected)
        assert await asyncio.gather(*(reader.read() for reader, _ in crowd)) == [b""] * 200
        for _, writer in crowd:
            writer.close()

    asyncio.run(asyncio.wait_for(run(), 20))

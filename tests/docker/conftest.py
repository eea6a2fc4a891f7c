# SPDX-License-Identifier: Apache-2.0
"""The composed stack that deploy/docker/test.sh has brought up, as seen from this machine."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from xenops.client import Xenops, connect

TOP = Path(__file__).resolve().parents[2]
READY_S = 60.0


@dataclass(frozen=True)
class Composed:
    """Where the stack is; `url` holds the password of the user `clients`."""

    url: str
    queue: str
    prometheus: str

    @property
    def environ(self) -> dict[str, str]:
        """For xenops-cli."""
        return {**os.environ, "XENOPS_URL": self.url, "XENOPS_QUEUE": self.queue}

    def run(self, work: Callable[[Xenops], Awaitable[None]], deadline_s: float = 40.0) -> None:
        """Give `work` a client; services may still be starting."""

        async def whole() -> None:
            async with asyncio.timeout(deadline_s), connect(self.url, self.queue, timeout_s=deadline_s) as xenops:
                await work(xenops)

        asyncio.run(whole())


def compose(*arguments: str) -> str:
    """Run docker-compose, of whichever generation, and return what it prints."""
    command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    ended = subprocess.run([*command, *arguments], cwd=TOP, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, f"{arguments}: {ended.stdout}{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="session")
def composed() -> Composed:
    """The stack, its xenopsd answering."""
    if "COMPOSE_PROJECT_NAME" not in os.environ:
        pytest.skip("deploy/docker/test.sh brings up the stack that this test needs")
    settings = dict(line.split("=", 1) for line in (TOP / "var/docker/client.env").read_text().splitlines())
    inside = urlsplit(settings["XENOPS_URL"])
    address = compose("port", "rabbitmq", "5672").strip()
    found = Composed(
        url=inside._replace(netloc=f"{inside.username}:{inside.password}@{address}").geturl(),
        queue=settings["XENOPS_QUEUE"],
        prometheus=f"http://{compose('port', 'prometheus', '9090').strip()}",
    )

    async def answers(xenops: Xenops) -> None:
        await xenops.query()  # the call itself waits until the queue is served

    found.run(answers, READY_S)
    return found

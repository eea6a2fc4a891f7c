# SPDX-License-Identifier: Apache-2.0
"""Node's amqplib, unmodified, speaks to the switch and to RabbitMQ alike; `amqplib.mjs` is the client."""

import shutil
import subprocess
from pathlib import Path

from tests.message_switch.asking import silence

SAID = ["consumed", "refused", "returned", "replied", "cancelled"]


def test_amqplib(node_modules: Path, url: str, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(node_modules)
    script = shutil.copy(Path(__file__).with_name("amqplib.mjs"), tmp_path)
    pipe = subprocess.PIPE
    with subprocess.Popen(["node", str(script), url], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as client:
        assert client.stdout is not None
        try:
            said = [line for _ in SAID if (line := client.stdout.readline().strip())]
            if said == SAID:
                silence(url)  # who is silent for as long as the client was idle has been hung up on
            rest, complaints = client.communicate("go on\n", timeout=30)
        finally:
            client.kill()
    assert (said, rest, client.returncode) == (SAID, "alive\n", 0), complaints

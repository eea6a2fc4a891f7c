# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ's semantics are the reference: random commands go to it and to the switch, and the same has to come back.

`make test` plays the same few examples each time; `SWITCH_DIFF=2000 make test-switch` plays as many new ones.
What is known to differ, and why, is in docs/api/switch.md.
"""

import os
import time
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.message_switch.commands import COMMANDS, Command
from tests.message_switch.conftest import needs_rabbitmq
from tests.message_switch.peer import Peer

ASKED = os.environ.get("SWITCH_DIFF", "")
EXAMPLES = int(ASKED or 12)
# What comes by itself may take its time on either side.
PATIENCE_S = 5.0


def compare(ours: Peer, reference: Peer, script: list[Command]) -> None:
    """Command by command, and after each wait until both sides have seen the same."""
    for at, command in enumerate(script):
        said = ours.play(command), reference.play(command)
        assert said[0] == said[1], f"{at}: {command}: the switch says {said[0]}, RabbitMQ {said[1]}"
        until = time.monotonic() + PATIENCE_S
        seen = ours.look(), reference.look()
        while seen[0] != seen[1] and time.monotonic() < until:
            time.sleep(0.005)
            seen = ours.look(), reference.look()
        for what in seen[0]:
            assert seen[0][what] == seen[1][what], f"{at}: {command}: {what}: seen on the switch, then on RabbitMQ"


@needs_rabbitmq
@pytest.mark.rabbitmq
@pytest.mark.timeout(0 if ASKED else 600)
def test_the_same_comes_back(running: Any, rabbitmq_port: int) -> None:
    urls = running.url, f"amqp://guest:guest@127.0.0.1:{rabbitmq_port}/%2F"

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=not ASKED,
        print_blob=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(COMMANDS, min_size=5, max_size=40))
    def play(script: list[Command]) -> None:
        prefix = f"d{uuid.uuid4().hex[:8]}."
        peers = [Peer(url, prefix) for url in urls]
        try:
            compare(peers[0], peers[1], script)
        finally:
            for peer in peers:
                peer.close()

    play()

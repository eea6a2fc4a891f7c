# SPDX-License-Identifier: Apache-2.0
"""What a command reads before it does anything: nearly all of the time of a short command is that of reading code."""

import subprocess
import sys

import pytest

# An event loop and its AMQP library alone take longer to read than all that a short command needs.
HEAVY = {"asyncio", "pika", "hashlib", "concurrent.futures"}
READ = """
import sys
import xenops_cli.main
before = set(sys.modules)
from xenops_cli import bus, run
from xenops_cli.commands import commands
from xenops_cli.parser import build
word = sys.argv[1]
build(word)
assert not word or word in commands(word)
print(*set(sys.modules) - before)
"""


def read_by(word: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", READ, word], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "word", ["start", "shutdown", "list", "vm-stat", "pause", "mem-set", "tasks", "host", "console-list"]
)
def test_a_command_reads_no_event_loop_and_no_other_family(word: str) -> None:
    read = read_by(word)
    assert read & HEAVY == set()
    assert not any(module.startswith(("xenops.xlcfg", "xenops_cli.console.talk")) for module in read)
    families = {module for module in read if module.startswith("xenops_cli.commands.")}
    assert len(families) == 1


def test_the_list_of_commands_and_their_completion_read_no_event_loop() -> None:
    assert read_by("") & {"asyncio", "pika", "shtab"} == set()


def test_starting_the_program_reads_nothing_of_it_yet() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, xenops_cli.main; print('msgspec' in sys.modules, 'xenops' in sys.modules)"],
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert done.stdout.split() == ["False", "False"]

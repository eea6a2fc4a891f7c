# SPDX-License-Identifier: Apache-2.0
"""What `--help` says, as a golden text: a word that changes is seen in the diff."""

import os
import subprocess
from pathlib import Path

import pytest

from message_cli.commands import COMMANDS, Command
from message_cli.main import run

GOLDEN = Path(__file__).parents[1] / "golden" / "message_cli"


@pytest.mark.parametrize("name", ["", *(command.name for command in COMMANDS)])
def test_golden_help(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert run([name, "--help"] if name else ["--help"]) == 0
    text = capsys.readouterr().out
    path = GOLDEN / f"{name or 'message-cli'}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "UPDATE_GOLDEN=1 writes it anew; read the difference"


def test_golden_files_are_of_commands_that_there_are() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == {"message-cli", *(command.name for command in COMMANDS)}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_prints_json_and_takes_a_broker(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command.name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--json", "--url", "--management"))


def test_a_shell_completes_our_words(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for shell in ("zsh", "tcsh", "bash"):
        assert run(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert "diagnostics" in script
    (tmp_path / "script").write_text(script, encoding="utf-8")
    ask = (
        f"source {tmp_path}/script; set -- $(complete -p message-cli); while [ $# -gt 1 ] && [ $1 != -F ]; do shift; done; "
        "COMP_WORDS=(message-cli di); COMP_CWORD=1; $2 message-cli di message-cli; echo ${COMPREPLY[*]}"
    )
    completed = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True, timeout=60)
    assert completed.stdout.split() == ["diagnostics"], completed

# SPDX-License-Identifier: Apache-2.0
"""The tour and the first clients that README.md shows, and the examples of the guides, run against a stack of their own."""

import asyncio
import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BIN = Path(sys.executable).parent
RUNNABLE = re.compile(r"^```python runnable\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = {
    f"{page.relative_to(ROOT)}:{number}": code
    for page in PAGES
    for number, code in enumerate(RUNNABLE.findall(page.read_text(encoding="utf-8")), 1)
}


def _stack_module() -> ModuleType:
    """deploy/local is a folder of scripts, no package."""
    if "local_stack" not in sys.modules:
        spec = importlib.util.spec_from_file_location("local_stack", ROOT / "deploy/local/stack.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules["local_stack"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["local_stack"]


def _run(state: Path, *arguments: Sequence[str | Path]) -> list[str]:
    """Start a stack, run these programs beside its state one after the other, and stop it; gives what each printed."""

    async def beside_a_stack() -> list[str]:
        stack = _stack_module().Stack(state, log_to=state.with_suffix(".log"))
        await stack.start()
        printed = []
        try:
            for argv in arguments:
                words = [_text(stack.where_file) if word == "WHERE" else str(word) for word in argv]
                process = await asyncio.create_subprocess_exec(
                    *words,
                    cwd=state.parent,
                    env={**os.environ, "XENOPS_WHERE": str(stack.where_file)},
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                )
                async with asyncio.timeout(40):
                    out, err = await process.communicate()
                assert process.returncode == 0, err.decode()
                printed.append(out.decode())
        finally:
            await stack.stop()
        return printed

    return asyncio.run(beside_a_stack())


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_the_tour_of_the_readme_is_what_happens(tmp_path: Path) -> None:
    (shown,) = re.findall(r"^```console\n(.*?)^```$", _text(ROOT / "README.md"), re.MULTILINE | re.DOTALL)
    steps = [step.partition("\n") for step in shown.split("$ ")[1:]]
    commands = [shlex.split(command) for command, _, _ in steps]
    assert {command[0] for command in commands} == {".venv/bin/xenops-cli"}
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    printed = _run(tmp_path / "var", *([BIN / "xenops-cli", *words] for _, *words in commands))
    assert [_without_ids(text) for text in printed] == [_without_ids(text) for _, _, text in steps]


def _without_ids(text: str) -> str:
    text = text.replace("\r\n", "\n")  # as the guest wrote it to its console
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", text).strip()


def test_the_first_client_in_python(tmp_path: Path) -> None:
    (printed,) = _run(tmp_path / "var", [sys.executable, ROOT / "examples/clients/first.py"])
    assert re.fullmatch(r"xenopsd on (\S+), queue xenops\.\1\.simulator\nfirst is Running\n", printed)


def test_the_first_client_in_another_language(node_modules: Path, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(node_modules)
    script = shutil.copy(ROOT / "examples/clients/first.mjs", tmp_path)
    printed = _run(tmp_path / "var", ["node", script, "WHERE"])
    assert printed == ["first is Running\n"]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_guides_runs(example: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(EXAMPLES[example], encoding="utf-8")
    _run(tmp_path / "var", [sys.executable, script])


def test_the_readme_shows_the_first_clients_as_they_are() -> None:
    readme = _text(ROOT / "README.md")
    for name in ("first.py", "first.mjs"):
        assert (ROOT / "examples/clients" / name).read_text(encoding="utf-8").strip() in readme, name

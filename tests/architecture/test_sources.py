# SPDX-License-Identifier: Apache-2.0
"""How every source file looks: its first lines, its size, its names, and what it may not do.

What is longer than the rule allows stands in a list by name with a limit of its own; the lists may shrink, never grow.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("shared", "services", "clients", "deploy", "bench", "examples")
FILE_LINES, FUNCTION_LINES, FOLDER_FILES = 400, 40, 12
SCENARIO_LINES = 60  # a test may tell a longer story

LONG_FILES = {
    "shared/protocol/xenops/errors.py": 490,  # every fault in one tree, drawn at its top
}
LONG_FUNCTIONS: dict[str, int] = {}
FULL_FOLDERS = {
    "shared/protocol/xenops/types": 19,  # one file a noun
}

BANNED_MODULES = {"utils", "util", "helpers", "helper", "common", "core", "base", "misc", "manager", "handler"}
BANNED_CLASSES = re.compile(r"(Manager|Handler|Helper|Utils?|Base|Impl)$")
SPDX = "# SPDX-License-Identifier: Apache-2.0"

# Starting, watching and killing processes, by the name of the call; only these files may.
PROCESS_CALLS = re.compile(
    r"^(os\.(fork|forkpty|kill|killpg|system|popen|exec\w+|posix_spawnp?|spawn\w+|wait\w*|pidfd_open)"
    r"|signal\.pidfd_send_signal|subprocess\.\w+|asyncio\.create_subprocess_\w+|multiprocessing\.\w+)$"
)
MAY_CALL_PROCESSES = (
    "services/forkexecd/posix.py",
    "clients/message_cli/answering/program.py",  # a person's own program, which answers on that person's behalf
    "clients/xenops_cli/console/viewer.py",  # a person's own viewer, on that person's own desk
    "services/xenopsd/backends/xen/builder/process.py",  # docs/decisions/0010: the builders are xenopsd's own
    "services/xenopsd/backends/xen/devicemodel/process.py",  # ends a device model by pidfd; forkexecd starts it
    "deploy/",
    "bench/",
    "examples/",
)


def _sources(*folders: str) -> list[str]:
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


@cache
def _text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@cache
def _tree(path: str) -> ast.Module:
    return ast.parse(_text(path), path)


SOURCES = _sources(*PRODUCT)
EVERYTHING = [*SOURCES, *_sources("tests")]


def test_there_are_sources() -> None:
    assert {path.split("/")[0] for path in SOURCES} >= {"shared", "services", "clients"}


@pytest.mark.parametrize("path", EVERYTHING)
def test_a_file_begins_with_its_licence_and_says_what_it_is_for(path: str) -> None:
    assert _text(path).startswith(SPDX + "\n")
    docstring = ast.get_docstring(_tree(path)) or ""
    assert re.search(r"[.:!?…]", docstring), "the docstring has a sentence that says what the room is for"


def test_files_are_short() -> None:
    _check({path: len(_text(path).splitlines()) for path in EVERYTHING}, FILE_LINES, exceptions=LONG_FILES)


def test_functions_are_short() -> None:
    lengths = {f"{path}:{name}": length for path in SOURCES for name, length in _functions(path)}
    _check(lengths, FUNCTION_LINES, exceptions=LONG_FUNCTIONS)
    scenarios = {f"{path}:{name}": length for path in _sources("tests") for name, length in _functions(path)}
    _check(scenarios, SCENARIO_LINES, exceptions={})


def test_folders_are_small() -> None:
    files: dict[str, int] = {}
    for path in SOURCES:
        folder, _, name = path.rpartition("/")
        files[folder] = files.get(folder, 0) + (name != "__init__.py")
    _check(files, FOLDER_FILES, exceptions=FULL_FOLDERS)


@pytest.mark.parametrize("path", SOURCES)
def test_names_say_the_thing(path: str) -> None:
    assert not BANNED_MODULES & set(re.split(r"[/.]", path))
    classes = [node.name for node in ast.walk(_tree(path)) if isinstance(node, ast.ClassDef)]
    assert [name for name in classes if BANNED_CLASSES.search(name)] == []


@pytest.mark.parametrize("path", SOURCES)
def test_nothing_is_imported_inside_a_function_or_for_the_type_checker_alone(path: str) -> None:
    hidden = [
        node.lineno
        for scope in ast.walk(_tree(path))
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.If | ast.ClassDef)
        for node in ast.walk(scope)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert hidden == []
    assert "TYPE_CHECKING" not in {node.id for node in ast.walk(_tree(path)) if isinstance(node, ast.Name)}


@pytest.mark.parametrize("path", SOURCES)
def test_only_one_room_starts_and_kills_processes(path: str) -> None:
    calls = {ast.unparse(node) for node in ast.walk(_tree(path)) if isinstance(node, ast.Attribute)}
    if not path.startswith(MAY_CALL_PROCESSES):
        assert {call for call in calls if PROCESS_CALLS.match(call)} == set()


@pytest.mark.parametrize("path", SOURCES)
def test_nothing_is_left_to_do(path: str) -> None:
    assert re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b", _text(path)) == []


def _check(sizes: dict[str, int], limit: int, *, exceptions: dict[str, int]) -> None:
    assert {name: size for name, size in sizes.items() if size > exceptions.get(name, limit)} == {}
    needless = [name for name in exceptions if sizes.get(name, 0) <= limit]
    assert needless == [], "these are short enough by now: take them off the list"


def _functions(path: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1

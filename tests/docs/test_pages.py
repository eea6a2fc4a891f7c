# SPDX-License-Identifier: Apache-2.0
"""What the pages refer to is there: files, headings, functions, words of the Makefile; and what they quote is true."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from forkexecd.config import ForkexecdSettings
from message_switch.config import SwitchSettings
from vncproxy.config import VncproxySettings
from xenops import errors, wire
from xenops.bus.port import JSON, MSGPACK
from xenops.derive.catalogue import all_methods
from xenops.events import Event
from xenops_cli.commands import commands
from xenopsd.atoms.hook import Hook
from xenopsd.config import XenopsdSettings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PLACE = re.compile(r"`([\w./-]+\.py):([\w.]+)`")
METHODS = {method.wire: method for method in all_methods()}


def _named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(_prose(page)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        if not to.exists() or (anchor and to.suffix == ".md" and anchor not in set(_anchors(to))):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_functions_exist(page: Path) -> None:
    missing = [
        f"{path}:{name}"
        for path, name in PLACE.findall(page.read_text(encoding="utf-8"))
        if not (ROOT / path).exists() or not _defines(ast.parse((ROOT / path).read_text()), name.split("."))
    ]
    assert missing == []


def test_the_walkthrough_names_functions() -> None:
    assert len(PLACE.findall((ROOT / "docs/walkthroughs/vm-start.md").read_text())) > 20


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_files_and_folders_named_in_code_spans_exist(page: Path) -> None:
    named = re.findall(r"`((?:services|shared|clients|tests|docs|deploy|examples|bench)/[\w./-]*[\w/])`", _prose(page))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_words_of_the_makefile_are_explained() -> None:
    words = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    explained = set(re.findall(r"^\| `make ([a-z-]+)`", contributing, re.MULTILINE))
    assert explained == words


def test_the_operators_guide_names_settings_hooks_and_commands_that_exist() -> None:
    settings = (ForkexecdSettings, SwitchSettings, VncproxySettings, XenopsdSettings)
    known = {key.replace("_", "-") for each in settings for key in each.__struct_fields__}
    known |= {hook.value for hook in Hook} | set(commands())
    known |= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])
    text = (ROOT / "docs/guides/operator.md").read_text()
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", text)) | set(re.findall(r"`xenops-cli ([a-z-]+)", text))
    assert len(named) > 10
    assert named - known == set()


def test_the_table_of_json_rpc_codes_is_the_one_that_is_spoken() -> None:
    text = (ROOT / "docs/api/wire.md").read_text()
    rows = dict((name, int(code)) for code, name in re.findall(r"^\| (-\d+) \|[^`]*`(\w+)`", text, re.MULTILINE))
    for cls in errors.Fault.known.values():
        family = next(parent for parent in cls.__mro__ if parent.__name__ in rows)
        fault = errors.BadRequest("params", "x") if cls is errors.BadRequest else cls.__new__(cls)
        assert wire.json_code(fault) == rows[family.__name__], cls
    assert wire.json_code(errors.BadRequest("body", "x")) == -32700
    assert wire.json_code(errors.BadRequest("request.method", "x")) == -32600


def test_the_messages_quoted_in_the_contract_are_what_is_spoken() -> None:
    text = (ROOT / "docs/api/wire.md").read_text()
    quoted = [line for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    spoken = {_spoken(msgspec.json.decode(line)) for line in quoted}
    assert spoken == {"call", "json call", "result", "fault", "json fault", "event"}


def _spoken(message: dict[str, object]) -> str:
    """Which kind of message it is, after reading it as a receiver would."""
    if "method" in message:
        content_type = JSON if "jsonrpc" in message else MSGPACK
        codec = msgspec.json if content_type == JSON else msgspec.msgpack
        name, raw, _ = wire.decode_call(codec.encode(message), content_type)
        wire.decode_params(raw, METHODS[name].params, content_type)
        return "json call" if content_type == JSON else "call"
    if "epoch" in message:
        msgspec.convert(message, Event)
        return "event"
    if "error" in message:
        error = message["error"]
        fault = errors.decode({"name": error["data"]["name"], "fields": error["data"]["fields"]})  # type: ignore[index]
        assert msgspec.json.decode(wire.as_json(wire.encode_fault(fault), message["id"])) == message
        return "json fault"
    if "fault" in message:
        fault = errors.decode(message["fault"])
        assert msgspec.msgpack.decode(wire.encode_fault(fault)) == message
        return "fault"
    wire.decode_result(msgspec.msgpack.encode(message), str)
    return "result"


def _prose(page: Path) -> str:
    """The page without its fenced blocks, in which brackets mean other things."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def _anchors(page: Path) -> Iterator[str]:
    text = page.read_text(encoding="utf-8")
    yield from re.findall(r'<a id="([^"]+)"', text)
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = re.sub(r"<[^>]*>|`", "", heading).strip().lower()
        yield re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def _defines(tree: ast.Module | ast.ClassDef, names: list[str]) -> bool:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == names[0]:
            return len(names) == 1 or (isinstance(node, ast.ClassDef) and _defines(node, names[1:]))
    return False

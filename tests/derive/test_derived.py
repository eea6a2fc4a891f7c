# SPDX-License-Identifier: Apache-2.0
"""What is committed is what the declaration says, and what it says is true of the code that decodes requests."""

import re
from pathlib import Path

import jsonschema
import msgspec
import pytest

from xenops import wire
from xenops.bus.port import JSON, MSGPACK
from xenops.derive import asyncapi, catalogue, golden, manual, samples
from xenops.derive.__main__ import files, main, stale
from xenops.errors import Fault
from xenops.idl import Method

ROOT = Path(__file__).parents[2]
METHODS = {method.wire: method for method in catalogue.all_methods()}
FILES = files()


@pytest.mark.parametrize("path", sorted(FILES))
def test_the_committed_file_is_what_the_declaration_says(path: str) -> None:
    committed = (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).exists() else ""
    assert committed == FILES[path], f"{path} is out of date: run `make docs` and commit what changes"


def test_no_page_of_a_declaration_that_is_gone_is_left() -> None:
    assert stale(ROOT, FILES) == []


def test_everything_is_written_and_what_is_gone_is_removed(tmp_path: Path) -> None:
    (tmp_path / "docs/api/xenopsd").mkdir(parents=True)
    by_hand, gone = tmp_path / "docs/api/wire.md", tmp_path / "docs/api/xenopsd/old.md"
    by_hand.write_text("by hand")
    gone.write_text(manual.pages()["types.md"])
    assert main([str(tmp_path)]) == 0
    assert {p for p in FILES if not (tmp_path / p).exists()} == set()
    assert not gone.exists()
    assert by_hand.read_text() == "by hand"


def test_a_directory_that_is_no_checkout_is_left_alone(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_example_request_is_one_that_the_service_decodes(method: Method) -> None:
    request = {"method": method.wire, "params": samples.request(method)}
    as_msgpack = wire.decode_call(msgspec.msgpack.encode(request), MSGPACK)
    as_json = wire.decode_call(msgspec.json.encode({"jsonrpc": "2.0", "id": 1, **request}), JSON)
    assert as_msgpack[0] == as_json[0] == method.wire
    assert wire.decode_params(as_msgpack[1], method.params, MSGPACK) == wire.decode_params(
        as_json[1], method.params, JSON
    )


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_schema_accepts_the_example_request_and_refuses_an_unknown_field(method: Method) -> None:
    document = asyncapi.document()
    schema = {**document["components"]["messages"][f"{method.wire}.request"]["payload"], **_components(document)}
    validator = jsonschema.Draft7Validator(schema)
    request = {"method": method.wire, "params": samples.request(method)}
    validator.validate(request)
    request["params"]["no_such_field"] = 1
    assert not validator.is_valid(request)


def test_every_schema_is_a_schema_and_every_reference_leads_somewhere() -> None:
    document = asyncapi.document()
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft7Validator.check_schema(schema)
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', asyncapi.text())):
        place = document
        for step in reference.split("/"):
            place = place[step]


def test_patterns_are_readable_by_other_languages() -> None:
    patterns = re.findall(r'"pattern": "([^"]+)"', asyncapi.text())
    assert patterns
    assert not [pattern for pattern in patterns if r"\Z" in pattern or r"(?P" in pattern]


def test_every_method_has_a_chapter_in_the_manual_and_a_docstring() -> None:
    pages = manual.pages()
    for service in catalogue.SERVICES:
        for interface in service.interfaces:
            page = pages[manual.page_of(service, interface)]
            for method in catalogue.methods(interface).values():
                assert f"\n## {method.wire}\n\n{method.doc}\n" in page
                assert method.doc.endswith(".")


def test_every_fault_and_every_type_stands_in_the_manual_and_in_the_golden_file() -> None:
    pages, kept = manual.pages(), golden.document()
    for cls in Fault.known.values():
        assert re.search(rf"^##+ {cls.__name__}$", pages["faults.md"], re.MULTILINE), cls
    leaves = {name for name, cls in Fault.known.items() if not cls.__subclasses__()}
    assert set(kept["faults"]) == leaves
    names = [named.cls.__name__ for named in catalogue.named_types()]
    assert len(set(names)) == len(names), "two types of one name cannot be told apart in the manual"
    assert set(kept["types"]) == set(names)


def _components(document: dict[str, object]) -> dict[str, object]:
    return {"components": document["components"]}

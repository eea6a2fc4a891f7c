# SPDX-License-Identifier: Apache-2.0
"""Machines in files: registered, exported, taken back without loss, and never half written."""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from xenops.types.metadata import Metadata
from xenops_cli import files
from xenops_cli.exits import Complaint

EXAMPLE = Path(__file__).parents[2] / "examples" / "myfirstvm.cfg"


def test_add_prints_the_id_once(cli: Any, world: Any, fake: Any) -> None:
    ran = cli("add", EXAMPLE, VM_list=[])
    assert ran.code == 0
    assert ran.out == f"{fake.FIRST}\n"
    sent = msgspec.convert(world.params("VM.import_metadata")["metadata"], Metadata)
    assert (sent.vm.name, sent.vm.memory_static_max, len(sent.vbds), len(sent.vifs)) == ("myfirstvm", 256 << 20, 2, 1)


def test_adding_a_known_id_says_updated(cli: Any, fake: Any) -> None:
    ran = cli("add", EXAMPLE)
    assert ran.out == f"{fake.FIRST}\n"
    assert "updated myfirstvm" in ran.err
    assert json.loads(cli("add", EXAMPLE, "--json").out)["updated"] is True


def test_a_second_machine_of_the_same_name_is_pointed_out(cli: Any, fake: Any) -> None:
    ran = cli("add", EXAMPLE, VM_list=[fake.vm("x1", "myfirstvm")])
    assert ran.code == 0
    assert "another machine is called myfirstvm" in ran.err


def test_warnings_name_the_line_and_are_not_in_the_way(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "vm.cfg"
    path.write_text("name='x'\ntype='hvm'\nnomigrat=1\n", encoding="utf-8")
    ran = cli("add", path, "--json")
    assert ran.code == 0
    assert f"warning: {path}:3: nomigrat" in ran.err
    assert len(json.loads(ran.out)["warnings"]) == 1


def test_a_syntax_error_has_a_caret(cli: Any, world: Any, tmp_path: Path) -> None:
    path = tmp_path / "vm.cfg"
    path.write_text("name='x'\nmemory = = 3\n", encoding="utf-8")
    ran = cli("add", path)
    assert ran.code == 2
    assert f"{path}:2:10" in ran.err
    assert ran.err.rstrip().endswith("^")
    assert world.asked == []


@pytest.mark.parametrize(
    ("content", "code", "hint"),
    [
        (None, 1, "No such file"),
        (b"\xff\xfe", 2, "not text in UTF-8"),
        (b"", 2, "is empty"),
        (b" \n", 2, "is empty"),
        (b"{", 2, "no JSON document"),
        (b'{"vm": {"id": "a", "ty": {"type": "HVM", "happ": 1}}}', 2, "happ"),
    ],
)
def test_a_bad_file_is_explained(
    cli: Any, world: Any, tmp_path: Path, content: bytes | None, code: int, hint: str
) -> None:
    path = tmp_path / "vm"
    if content is not None:
        path.write_bytes(content)
    ran = cli("import", "--filename", path)
    assert ran.code == code
    assert hint in ran.err
    assert "VM.import_metadata" not in [method for method, _ in world.asked]


def test_export_and_import_lose_nothing(cli: Any, world: Any, fake: Any, tmp_path: Path) -> None:
    path = tmp_path / "vm.json"
    ran = cli("export", "myfirstvm", "--filename", path)
    assert (ran.code, ran.out) == (0, "")
    assert cli("import", "--metadata-only", "--filename", path).code == 0
    sent = world.params("VM.import_metadata")["metadata"]
    assert msgspec.convert(sent, Metadata) == fake.ANSWERS["VM.export_metadata"]
    assert json.loads(cli("export", "myfirstvm").out) == sent


def test_export_in_the_words_of_xl_is_read_back(cli: Any, world: Any, fake: Any, tmp_path: Path) -> None:
    path = tmp_path / "vm.cfg"
    assert cli("export", "--xm", "--filename", path, "myfirstvm").code == 0
    assert cli("import", "--filename", path).code == 0
    sent = msgspec.convert(world.params("VM.import_metadata")["metadata"], Metadata)
    assert (sent.vm.id, sent.vm.name) == (fake.FIRST, "myfirstvm")
    assert "myfirstvm" in cli("export", "--xm", "myfirstvm").out


def test_what_the_original_exported_is_handed_over_untouched(cli: Any, world: Any, tmp_path: Path) -> None:
    text = '{"vm": {"id": "a", "ty": ["HVM", {}]}, "vbds": []}'
    path = tmp_path / "vm.json"
    path.write_text(text, encoding="utf-8")
    assert cli("import", "--filename", path).code == 0
    assert world.params("VM.import_metadata")["metadata"] == text


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vm.json"
    path.write_text("old", encoding="utf-8")
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(Complaint, match="No space left"):
        files.write_text(str(path), "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def _full(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_file_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old", encoding="utf-8")
    target.chmod(0o640)
    link.symlink_to(target)
    files.write_text(str(link), "new")
    assert link.is_symlink()
    assert target.read_text(encoding="utf-8") == "new"
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_folder_that_is_not_there_is_explained(tmp_path: Path) -> None:
    with pytest.raises(Complaint, match="is there such a folder"):
        files.write_text(str(tmp_path / "no" / "file"), "x")

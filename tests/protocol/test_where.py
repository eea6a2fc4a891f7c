# SPDX-License-Identifier: Apache-2.0
"""Where the stack is, and what is said when nobody knows."""

import stat
from pathlib import Path

import pytest

from xenops import where
from xenops.where import StackNotFound, Where, find, write

HERE = Where(
    amqp="amqp://u:p@127.0.0.1:5672/%2F", queue="xenops.h.simulator", host="h", metrics={"xenopsd": "http://x"}
)


def test_what_is_written_is_found_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "var" / "where.json"
    path.parent.mkdir()
    path.touch(mode=0o644)
    write(path, HERE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path], "no draft is left"
    assert find({}, tmp_path / ".venv") == HERE
    assert find({"XENOPS_WHERE": str(path)}, tmp_path / "elsewhere") == HERE


def test_the_environment_overrides(tmp_path: Path) -> None:
    path = tmp_path / "where.json"
    write(path, HERE)
    found = find({"XENOPS_WHERE": str(path), "XENOPS_QUEUE": "xenops.h.other"})
    assert (found.amqp, found.queue, found.host) == (HERE.amqp, "xenops.h.other", "h")
    found = find({"XENOPS_URL": "amqp://b", "XENOPS_QUEUE": "q"}, tmp_path)
    assert (found.amqp, found.queue, found.events) == ("amqp://b", "q", "xenops.events")


def test_nothing_found_names_every_place_and_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(where, "RUN_DIRECTORY", tmp_path / "run")
    with pytest.raises(StackNotFound) as caught:
        find({}, tmp_path / ".venv")
    for words in (str(tmp_path / "var" / "where.json"), str(tmp_path / "run" / "where.json"), "make run", "XENOPS_URL"):
        assert words in str(caught.value)
    with pytest.raises(StackNotFound, match="no-such-file"):
        find({"XENOPS_WHERE": str(tmp_path / "no-such-file")})


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"amqp": 1}', b'{"amqp": "x"}', b"\xff"])
def test_a_file_that_says_nothing_is_named(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "where.json"
    path.write_bytes(text)
    with pytest.raises(StackNotFound, match=r"where\.json"):
        find({"XENOPS_WHERE": str(path)})


def test_fields_of_another_version_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "where.json"
    path.write_text('{"amqp": "a", "queue": "q", "later": 1}')
    assert find({"XENOPS_WHERE": str(path)}).queue == "q"

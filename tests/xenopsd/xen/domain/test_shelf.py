# SPDX-License-Identifier: Apache-2.0
"""What is remembered of suspended machines."""

from pathlib import Path

import pytest

from xenops.errors import BadRequest, IoError
from xenopsd.backends.xen.domain.layout import handle_of
from xenopsd.backends.xen.domain.shelf import Shelf, Suspended, parse_note

NOTE = Suspended(memory_bytes=1 << 27, timeoffset="-3600")


def test_a_note_outlives_the_daemon(tmp_path: Path) -> None:
    Shelf(tmp_path / "notes").put("a/b", NOTE)
    again = Shelf(tmp_path / "notes")
    assert again.suspended("a/b") == NOTE
    again.drop("a/b")
    again.drop("a/b")
    assert Shelf(tmp_path / "notes").suspended("a/b") is None


def test_a_note_that_cannot_be_read_is_no_silence(tmp_path: Path) -> None:
    (tmp_path / "vm.json").write_bytes(b"{")
    with pytest.raises(IoError, match=r"vm\.json"):
        Shelf(tmp_path).suspended("vm")


def test_a_note_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    shelf = Shelf(tmp_path / "file" / "notes")
    with pytest.raises(IoError):
        shelf.put("vm", NOTE)


@pytest.mark.parametrize("untrusted", [{}, {"memory_bytes": "x"}, {"memory_bytes": -1.5}])
def test_anothers_note_is_checked(untrusted: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        parse_note(untrusted)
    assert parse_note({"memory_bytes": 1}) == Suspended(memory_bytes=1)


def test_handles_are_uuids_that_stay() -> None:
    own = "11111111-2222-4333-8444-555555555555"
    assert str(handle_of(own)) == own
    assert handle_of("my vm") == handle_of("my vm") != handle_of("my vm 2")

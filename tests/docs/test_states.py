# SPDX-License-Identifier: Apache-2.0
"""The drawings of the state machines are what the tables give, and the tables are what happens."""

from pathlib import Path

import pytest

from docs.states.draw import main, pages

ROOT = Path(__file__).parents[2]
PAGES = pages()


@pytest.mark.parametrize("path", sorted(PAGES))
def test_the_committed_drawing_is_what_the_table_gives(path: str) -> None:
    committed = (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).exists() else ""
    assert committed == PAGES[path], f"{path} is out of date: run `make docs` and commit what changes"


def test_it_writes_every_page(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 0
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.md")} == set(PAGES)

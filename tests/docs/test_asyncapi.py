# SPDX-License-Identifier: Apache-2.0
"""The AsyncAPI document is accepted by the parser of those who define AsyncAPI."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The parser is a large program, and reads itself for seconds; on a busy machine for many.
pytestmark = pytest.mark.timeout(400)


def test_the_official_parser_accepts_the_document(node_modules: Path, tmp_path: Path) -> None:
    assert _validate(node_modules, tmp_path, ROOT / "docs/api/asyncapi.json") == (0, "")


def test_the_official_parser_would_complain(node_modules: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text(
        '{"asyncapi": "3.0.0", "info": {"title": "t", "version": "1"}, "operations": {"o": {"action": "obey"}}}'
    )
    code, complaints = _validate(node_modules, tmp_path, broken)
    assert code == 1
    assert "action" in complaints


def _validate(node_modules: Path, tmp_path: Path, document: Path) -> tuple[int, str]:
    """Run the parser from a folder in which Node finds its packages."""
    (tmp_path / "node_modules").symlink_to(node_modules)
    script = shutil.copy(Path(__file__).with_name("validate.mjs"), tmp_path)
    done = subprocess.run(["node", script, document], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr

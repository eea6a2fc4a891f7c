# SPDX-License-Identifier: Apache-2.0
"""Where the repository is, and the tools of Node that some of these tests run; without them those are skipped."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def node_modules() -> Path:
    """The folder of Node packages that `npm install` filled (CONTRIBUTING.md has the line)."""
    folder = ROOT / "build/node/node_modules"
    if shutil.which("node") is None or not folder.is_dir():
        pytest.skip("needs node and its packages: npm install --prefix build/node @asyncapi/parser@3.6.3 amqplib@2.3.1")
    return folder

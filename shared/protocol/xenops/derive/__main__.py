# SPDX-License-Identifier: Apache-2.0
"""`python -m xenops.derive [DIRECTORY]`: write all that is derived from the interfaces into a checkout.

Pages whose declaration is gone are removed; what is written by hand (docs/api/wire.md) is left alone.
"""

import sys
from pathlib import Path

from xenops.derive import asyncapi, golden, manual

_MARK = "<!-- Made from the declaration"


def files() -> dict[str, str]:
    """Everything derived, by its path in a checkout."""
    pages = {f"docs/api/{path}": text for path, text in manual.pages().items()}
    return {**pages, "docs/api/asyncapi.json": asyncapi.text(), "tests/golden/api/xenops.json": golden.text()}


def stale(root: Path, kept: dict[str, str]) -> list[Path]:
    """The pages that were made from a declaration which is no more."""
    made = (page for page in (root / "docs/api").rglob("*.md") if _MARK in page.read_text(encoding="utf-8"))
    return [page for page in made if page.relative_to(root).as_posix() not in kept]


def main(arguments: list[str]) -> int:
    """Write the files whose text has changed, and say which."""
    root = Path(arguments[0] if arguments else ".")
    if not (root / "docs").is_dir():
        print(f"{root} is no checkout: it has no docs/; name the checkout's directory", file=sys.stderr)
        return 2
    derived = files()
    for page in stale(root, derived):
        page.unlink()
        print(f"removed {page}")
    for path, text in derived.items():
        target = root / path
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

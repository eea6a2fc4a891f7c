# SPDX-License-Identifier: Apache-2.0
"""Where the rig keeps what it builds, how its content keys are made, and how it speaks while it works.

Nothing is ever changed in place: an artefact is made under another name and takes its own when it is whole.
"""

import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BUILD = Path(os.environ.get("XEN_RIG_DIR") or ROOT / "build" / "xen").resolve()
RECIPE = Path(__file__).resolve().parent
DOM0 = RECIPE.parent / "dom0"

_STARTED = time.monotonic()


def elapsed() -> float:
    return time.monotonic() - _STARTED


def say(text: str) -> None:
    """One line of progress, with the seconds since the rig began."""
    print(f"xen rig [{elapsed():5.0f} s] {text}", file=sys.stderr, flush=True)


def content_key(parts: Iterable[str | bytes | Path]) -> str:
    """What names an artefact: the same parts in the same order give the same name, anything else another."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


@contextmanager
def made(target: Path) -> Iterator[Path | None]:
    """Yields where to make `target`, or None when it is there already; one builder at a time.

    Of older ones of its kind (what its name says before the dash) one stays, so that going back costs nothing.
    """
    if target.exists():
        os.utime(target)
        yield None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            yield None
            return
        unfinished = target.with_name(target.name + ".unfinished")
        remove(unfinished)
        yield unfinished
        unfinished.rename(target)
        _prune(target)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _prune(newest: Path) -> None:
    kind = newest.name.partition("-")[0]
    others = [path for path in newest.parent.glob(f"{kind}-*") if path != newest]
    for path in sorted(others, key=lambda path: path.stat().st_mtime)[:-1]:
        remove(path)

# SPDX-License-Identifier: Apache-2.0
"""Files that the commands read and write: whole or not at all."""

import os
import sys
import tempfile
from pathlib import Path

from xenops_cli.exits import Complaint, Exit

LARGEST = 16 << 20  # bytes; a configuration is never larger, a mistyped device may be endless


def read_text(filename: str) -> str:
    """The text of a file; `-` is standard input."""
    try:
        if filename == "-":
            raw = sys.stdin.buffer.read(LARGEST + 1)
        else:
            with Path(filename).open("rb") as file:
                raw = file.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise Complaint(f"{filename} is larger than {LARGEST >> 20} MiB; this is no configuration")
        text = raw.decode("utf-8")
    except OSError as error:
        raise Complaint(f"cannot read {filename}: {error.strerror}; check the path") from None
    except UnicodeDecodeError as error:
        raise Complaint(f"{filename} is not text in UTF-8 (byte {error.start})", Exit.USAGE) from None
    if not text.strip():
        raise Complaint(f"{filename} is empty; was it written to its end?", Exit.USAGE)
    return text


def write_text(filename: str, text: str) -> None:
    """Replace a file in one step: after a failure the old one is still there, whole."""
    target = Path(os.path.realpath(filename))  # a symbolic link stays one
    try:
        if target.exists() and not target.is_file():
            target.write_text(text, encoding="utf-8")  # a pipe or a terminal cannot be replaced
            return
        mode = target.stat().st_mode & 0o7777 if target.exists() else 0o666 & ~_umask()
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as file:
            try:
                file.write(text)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
                Path(file.name).replace(target)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise Complaint(
            f"cannot write {filename}: {error.strerror}; is there such a folder, and may you write there?"
        ) from None


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

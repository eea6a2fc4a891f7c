# SPDX-License-Identifier: Apache-2.0
"""What is remembered of machines that have no domain: those that are suspended.

A file a machine, written whole or not at all; it outlives the host's reboot, as the memory image does.
"""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from xenops.errors import BadRequest, IoError
from xenops.types.vm import Bytes


class Suspended(msgspec.Struct, frozen=True, kw_only=True):
    """A machine whose memory is in an image: how large that is, and what its clock was set to."""

    memory_bytes: Bytes
    timeoffset: str = ""


class Shelf:
    """The notes of all suspended machines."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._notes: dict[str, Suspended | None] = {}

    def suspended(self, vm: str) -> Suspended | None:
        """The note of a machine, when it is suspended. Raises `IoError`."""
        if vm not in self._notes:
            self._notes[vm] = self._load(vm)
        return self._notes[vm]

    def put(self, vm: str, note: Suspended) -> None:
        """The machine is suspended: durable when this returns. Raises `IoError`."""
        path = self._path(vm)
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = path.with_suffix(".new")
            with fresh.open("wb") as file:
                file.write(msgspec.json.encode(note))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
            self._sync()
        except OSError as error:
            raise IoError(str(path), error.strerror or str(error)) from error
        self._notes[vm] = note

    def drop(self, vm: str) -> None:
        """The machine is not suspended any more. Idempotent. Raises `IoError`."""
        if self.suspended(vm) is None:
            return
        try:
            self._path(vm).unlink(missing_ok=True)
            self._sync()
        except OSError as error:
            raise IoError(str(self._path(vm)), error.strerror or str(error)) from error
        self._notes[vm] = None

    def _load(self, vm: str) -> Suspended | None:
        try:
            return msgspec.json.decode(self._path(vm).read_bytes(), type=Suspended)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise IoError(str(self._path(vm)), str(error)) from error

    def _path(self, vm: str) -> Path:
        return self._folder / f"{quote(vm, safe='')}.json"

    def _sync(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def parse_note(untrusted: dict[str, Any]) -> Suspended:
    """The note that another host gave. Raises `BadRequest`."""
    try:
        return msgspec.convert(untrusted, Suspended)
    except msgspec.ValidationError as error:
        raise BadRequest("domains", str(error)) from error

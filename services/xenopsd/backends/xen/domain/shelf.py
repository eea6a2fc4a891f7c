# SPDX-License-Identifier: Apache-2.0
"""What is remembered of machines that have no domain: those that are suspended, and what clocks were set to.

A file a machine, written whole or not at all; it outlives the host's reboot, as a memory image and a clock do.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from xenops.errors import BadRequest, IoError
from xenops.types.vm import Bytes

T = TypeVar("T", bound=msgspec.Struct)


class Suspended(msgspec.Struct, frozen=True, kw_only=True):
    """A machine whose memory is in an image: how large that is and should be, its vCPUs, and what its clock was set to."""

    memory_bytes: Bytes
    target_bytes: Bytes = 0  # 0: as large as it is
    vcpus: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0  # 0: as registered
    timeoffset: str = ""


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """How far a guest has set its clock from the host's; void once something else is registered."""

    registered: str
    timeoffset: str


class Notes(Generic[T]):
    """A note a machine, all of one kind."""

    def __init__(self, folder: Path, kind: type[T]) -> None:
        self._folder, self._kind = folder, kind
        self._notes: dict[str, T | None] = {}

    def get(self, vm: str) -> T | None:
        """The note of a machine, when there is one. Raises `IoError`."""
        if vm not in self._notes:
            self._notes[vm] = self._load(vm)
        return self._notes[vm]

    def put(self, vm: str, note: T) -> None:
        """Keep it: durable when this returns. Raises `IoError`."""
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
        """Keep it no more. Idempotent. Raises `IoError`."""
        if self.get(vm) is None:
            return
        try:
            self._path(vm).unlink(missing_ok=True)
            self._sync()
        except OSError as error:
            raise IoError(str(self._path(vm)), error.strerror or str(error)) from error
        self._notes[vm] = None

    def _load(self, vm: str) -> T | None:
        try:
            return msgspec.json.decode(self._path(vm).read_bytes(), type=self._kind)
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


class Shelf(Notes[Suspended]):
    """The notes of all suspended machines."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Suspended)

    def suspended(self, vm: str) -> Suspended | None:
        """The note of a machine, when it is suspended. Raises `IoError`."""
        return self.get(vm)


class Clocks(Notes[Clock]):
    """What guests have set their clocks to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Clock)

    def offset(self, vm: str, registered: str) -> str:
        """How far a machine's clock is to be from the host's, when that was registered. Raises `IoError`."""
        note = self.get(vm)
        return registered if note is None or note.registered != registered else note.timeoffset

    def keep(self, vm: str, registered: str, timeoffset: str) -> None:
        """A guest has set its clock, or has not. Raises `IoError`."""
        if self.offset(vm, registered) != timeoffset:
            self.put(vm, Clock(registered=registered, timeoffset=timeoffset))


def parse_note(untrusted: dict[str, Any]) -> Suspended:
    """The note that another host gave. Raises `BadRequest`."""
    try:
        return msgspec.convert(untrusted, Suspended)
    except msgspec.ValidationError as error:
        raise BadRequest("domains", str(error)) from error

# SPDX-License-Identifier: Apache-2.0
"""What xenopsd and a builder say to each other: one order at a time, questions in between, one end.

    daemon                              builder
      │ <───────────────────────── Hello ┤   libxc is open; or Failed, and it ends
      ├ Build ────────────────────────>  │
      │ <───────────────────────── Built ┤   the answer; the guest's memory is still mapped
      │ <────────────────────────── Free ┤   nothing of the guest is held any more: the next order may come
      ├ Save ─────────────────────────>  │
      │ <────────────────────── Progress ┤   any number of them
      │ <──────────────────── AskSuspend ┤
      ├ Suspended ────────────────────>  │
      │ <───────────────────────── Saved ┤
      │ <────────────────────────── Free ┤

A message is four bytes of length, most significant first, and that many bytes of msgpack.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Any

import msgspec

LIMIT = 1 << 24  # a longer message is a fault of the peer
_LENGTH = 4


class GuestKind(Enum):
    """How a guest is virtualised."""

    PV = "pv"
    PVH = "pvh"
    HVM = "hvm"


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is"):
    """Anything that travels."""


class Order(Message, frozen=True):
    """What a builder is asked to do."""


class Build(Order, tag="build", frozen=True, kw_only=True):
    """Fill a created domain with memory, a kernel and start-of-day pages.

    The domain has its vCPUs, its memory limit, its paging memory (PVH, HVM) and two unbound event channels. For an HVM
    guest `kernel` is hvmloader and `firmware` what it starts.
    """

    domid: int
    kind: GuestKind
    kernel: str
    memory_max_mib: int
    memory_target_mib: int
    vcpus: int
    vcpus_online: int | None = None  # none means all of them
    store_port: int
    console_port: int
    store_domid: int = 0
    console_domid: int = 0
    ramdisk: str | None = None
    cmdline: str = ""
    video_mib: int = 0
    firmware: str | None = None
    acpi: bool = True
    features: str | None = None
    claim: bool = False


class Unpack(Order, tag="unpack", frozen=True):
    """Put a kernel's ELF image into the cache, so that the next build finds it there."""

    kernel: str


class Save(Order, tag="save", frozen=True, kw_only=True):
    """Write a domain's memory to a file that is made or emptied, to a block device, or into a pipe.

    The builder asks for the guest to be suspended (AskSuspend) when it is ready for it; `live`, when it has sent the memory
    while the guest ran.
    """

    domid: int
    path: str
    metadata: bytes  # goes into the image unread
    hvm: bool  # an HVM or PVH domain
    live: bool = False
    pipe: bool = False  # `path` is a pipe


class Restore(Order, tag="restore", frozen=True, kw_only=True):
    """Fill a created domain from an image. The emulator's state, if there is one, goes to `qemu_state_path`."""

    domid: int
    path: str
    hvm: bool  # an HVM or PVH domain
    store_port: int
    console_port: int
    qemu_state_path: str
    store_domid: int = 0
    console_domid: int = 0
    pipe: bool = False  # `path` is a pipe


class DumpCore(Order, tag="dump-core", frozen=True):
    """Write a domain's memory and registers to an ELF core file."""

    domid: int
    path: str


class Answer(Message, frozen=True):
    """What a builder says at the end of an order."""


class Built(Answer, tag="built", frozen=True):
    """Where the guest's rings are; frame numbers of the machine for PV, of the guest for PVH and HVM."""

    store_mfn: int
    console_mfn: int


class Unpacked(Answer, tag="unpacked", frozen=True):
    """Where the ELF image is."""

    path: str


class Saved(Answer, tag="saved", frozen=True):
    """The image is on the disk, or in the pipe; `rounds` of it were sent while the guest ran."""

    image_bytes: int  # 0 when it went into a pipe
    rounds: int = 0


class Restored(Answer, tag="restored", frozen=True):
    """As Built, with what the image held beside the memory."""

    store_mfn: int
    console_mfn: int
    metadata: bytes
    has_qemu_state: bool


class Dumped(Answer, tag="dumped", frozen=True):
    """The core file is on the disk."""

    core_bytes: int


class Failed(Answer, tag="failed", frozen=True):
    """A fault as `xenops.errors.encode` writes it, and libxc's last lines."""

    fault: dict[str, Any]
    log: list[str]


class Hello(Message, tag="hello", frozen=True):
    """The builder is ready; `release` is the Xen release it speaks to."""

    release: str


class Free(Message, tag="free", frozen=True):
    """The order is over and nothing of its domain is held."""


class Progress(Message, tag="progress", frozen=True):
    """How much is done, 0 to 1."""

    done: float


class AskSuspend(Message, tag="ask-suspend", frozen=True):
    """Suspend the guest now; answered by Suspended."""


class AskLogDirty(Message, tag="ask-log-dirty", frozen=True):
    """Have the emulator note (or stop noting) what it writes to the guest's memory; answered by LogDirty."""

    enable: bool


class Suspended(Message, tag="suspended", frozen=True):
    """Whether the guest is suspended, and the file that holds its emulator's state."""

    ok: bool
    qemu_state_path: str | None = None


class LogDirty(Message, tag="log-dirty", frozen=True):
    """Whether the emulator did."""

    ok: bool


ToBuilder = Build | Unpack | Save | Restore | DumpCore | Suspended | LogDirty
FromBuilder = Hello | Built | Unpacked | Saved | Restored | Dumped | Failed | Free | Progress | AskSuspend | AskLogDirty

_encoder = msgspec.msgpack.Encoder()
to_builder: msgspec.msgpack.Decoder[ToBuilder] = msgspec.msgpack.Decoder(ToBuilder)
from_builder: msgspec.msgpack.Decoder[FromBuilder] = msgspec.msgpack.Decoder(FromBuilder)


class Malformed(Exception):
    """The peer said something that is no message."""


def pack(message: Message) -> bytes:
    """The bytes of one message."""
    body = _encoder.encode(message)
    return len(body).to_bytes(_LENGTH) + body


class Inbox:
    """Bytes in, bodies of messages out, however the bytes were cut."""

    def __init__(self) -> None:
        self._untrusted = bytearray()

    def receive(self, untrusted_data: bytes) -> Iterator[bytes]:
        """The bodies that are complete by now. Raises `Malformed` for one that is too long."""
        self._untrusted += untrusted_data
        while len(self._untrusted) >= _LENGTH:
            length = int.from_bytes(self._untrusted[:_LENGTH])
            if length > LIMIT:
                raise Malformed(f"a message of {length} bytes")
            if len(self._untrusted) < _LENGTH + length:
                return
            body = bytes(self._untrusted[_LENGTH : _LENGTH + length])
            del self._untrusted[: _LENGTH + length]
            yield body

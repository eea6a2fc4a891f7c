# SPDX-License-Identifier: Apache-2.0
"""The entries of `disk`, in the syntax of xl and in the older one of xm.

target, format, vdev, access, key=value, flag, ..., target=TARGET      xl; a named target takes all that follows
phy:target, vdev:cdrom, access                                         xm; also file: tap: aio: qcow2: sm: ...
,vdev:cdrom,access                                                     xm; an empty drive
"""

import re
from collections.abc import Iterable, Iterator
from typing import NoReturn

from xenops.types.device_number import Bus, DeviceNumber
from xenops.types.disk import Disk, Local, RemoteDisk, Vdi
from xenops.types.ids import DeviceId
from xenops.types.record import UNSET, Maybe
from xenops.types.vbd import Mode, Vbd, VbdType
from xenops.xlcfg.document import Document
from xenops.xlcfg.keys import nearest
from xenops.xlcfg.parser import Text

_PREFIX = re.compile(r"([a-z][a-z0-9]*):")
_FORMAT_PREFIXES = ("raw", "qcow", "qcow2", "vhd")
_SCRIPT_PREFIXES = ("iscsi", "nbd", "enbd", "drbd")
_IDLE_PREFIXES = ("tapdisk", "tap", "tap2", "aio", "ioemu", "file", "phy")
_POSITIONAL = ("target", "format", "vdev", "access")
_NAMED = (*_POSITIONAL, "devtype", "backend", "backendtype", "script", "specification")
_FORMATS = ("raw", "qcow", "qcow2", "vhd", "qed")
_TYPES = {"disk": VbdType.DISK, "cdrom": VbdType.CDROM, "floppy": VbdType.FLOPPY}
_ACCESS = {"r": Mode.READ_ONLY, "ro": Mode.READ_ONLY, "w": Mode.READ_WRITE, "rw": Mode.READ_WRITE}
_SHARED = "w!"  # xm's, which xl does not know any more: other guests may write to it, too
# What a flag or a back end's name becomes among the keys of the back end in xenstore.
_FLAGS = {
    "discard": ("discard-enable", "1"),
    "no-discard": ("discard-enable", "0"),
    "direct-io-safe": ("direct-io-safe", "1"),
}
_IDLE_FLAGS = ("trusted", "no-colo")
_KINDS = {"phy": "vbd", "qdisk": "qdisk"}
_DOM0 = ("", "0", "Domain-0", "dom0")
_VM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SCRIPTS = "/etc/xen/scripts/"


def read(doc: Document, text: Text, vm: str, *, hvm: bool) -> Vbd:
    """One drive."""
    return _Spec(doc, text).vbd(vm, hvm=hvm)


class _Spec:
    """One entry taken apart."""

    def __init__(self, doc: Document, text: Text) -> None:
        self.doc, self.text = doc, text
        self._values: dict[str, str] = {}
        self._offsets: dict[str, int] = {}
        self._extra: dict[str, str] = {}
        self._filled = 0
        self._prefixed = False
        for offset, part in _parts(text.value):
            self._parameter(part, offset)

    def _parameter(self, part: str, offset: int) -> None:
        key, equals, value = part.partition("=")
        if equals and key in _NAMED:
            self._set(key, value, offset + len(key) + 1)
        elif part == "cdrom":
            self._set("devtype", part, offset)
        elif part in _FLAGS:
            self._extra.update([_FLAGS[part]])
        elif part in _IDLE_FLAGS:
            pass
        elif part == "untrusted" or part.startswith(("colo", "active-disk=", "hidden-disk=")):
            self.doc.warn("disk", f"{key} is not supported yet; it has no effect", self.text.at(offset))
        elif equals:
            hint = nearest(key, _NAMED) or "; a target that contains '=' is written target=... at the end"
            self.fail(offset, f"disk knows no {key!r:.40}{hint}")
        else:
            self._positional(part, offset)

    def _positional(self, part: str, offset: int) -> None:
        if self._filled == 0 and "target" not in self._values:
            part, offset = self._strip_prefixes(part, offset)
        elif self._filled == 1 and not self._values.get("target") and ":" in part:
            self._prefixed = True
        if self._filled == 1 and self._prefixed:
            self._filled = 2
        while self._filled < 4 and self._values.get(_POSITIONAL[self._filled]):
            self._filled += 1
        if self._filled >= 4:
            self.fail(offset, f"{part!r:.40} is one parameter too many; there are target, format, vdev and access")
        name = _POSITIONAL[self._filled]
        self._filled += 1
        if name == "vdev" and ":" in part:
            part, _, devtype = part.partition(":")
            self._set("devtype", devtype, offset + len(part) + 1)
        self._set(name, part, offset)

    def _strip_prefixes(self, part: str, offset: int) -> tuple[str, int]:
        """Take off `tap:aio:` and their kind; only some of them mean anything."""
        while match := _PREFIX.match(part):
            prefix = match[1]
            if prefix in _FORMAT_PREFIXES:
                self._set("format", prefix, offset)
            elif prefix in _SCRIPT_PREFIXES:
                self._set("script", f"block-{prefix}", offset)
            elif prefix not in (*_IDLE_PREFIXES, "sm"):
                self.fail(offset, f"there is no disk prefix {prefix!r:.40}; for a device or a file write just its path")
            self._prefixed = True
            if prefix == "sm":
                break
            part, offset = part[match.end() :], offset + match.end()
        return part, offset

    def _set(self, key: str, value: str, offset: int) -> None:
        if key == "format":
            value = value or "raw"
        before = self._values.get(key)
        if before and (before != value or key in ("target", "vdev", "script")):
            self.fail(offset, f"{key} is given twice, as {before!r:.40} and as {value!r:.40}")
        self._values[key] = value
        self._offsets[key] = offset

    def fail(self, where: int | str, reason: str) -> NoReturn:
        offset = self._offsets.get(where, 0) if isinstance(where, str) else where
        self.doc.fail(self.text.at(offset), reason)

    def vbd(self, vm: str, *, hvm: bool) -> Vbd:
        backend = self._backend()
        vdev = self._values.get("vdev", "")
        if not vdev:
            self.fail("vdev", "a disk needs a vdev, such as xvda or hdc: write TARGET,FORMAT,VDEV,ACCESS")
        try:
            number = DeviceNumber.parse(vdev, hvm=hvm)
        except ValueError as error:
            self.fail("vdev", str(error))
        ty = self._type(number)
        if backend is UNSET and ty is VbdType.DISK:
            self.fail("target", "a disk needs a target; only the drives of CDs and floppies can be empty")
        return Vbd(
            id=DeviceId(vm=vm, dev=vdev),
            position=number.name,
            mode=self._mode(ty),
            backend=backend,
            ty=ty,
            extra_backend_keys=self._backend_keys(),
        )

    def _type(self, number: DeviceNumber) -> VbdType:
        devtype = self._values.get("devtype", "")
        if devtype and devtype not in _TYPES:
            self.fail("devtype", f"a drive is cdrom, floppy or disk, not {devtype!r:.40}{nearest(devtype, (*_TYPES,))}")
        return _TYPES.get(devtype, VbdType.FLOPPY if number.bus is Bus.FLOPPY else VbdType.DISK)

    def _mode(self, ty: VbdType) -> Mode:
        access = self._values.get("access", "")
        if access and access.lower() not in (*_ACCESS, _SHARED):
            self.fail("access", f"access is r, ro, w or rw, or w! for a disk that guests share, not {access!r:.40}")
        # A CD is never written, whatever is asked for: xl does the same.
        return Mode.READ_ONLY if ty is VbdType.CDROM else _ACCESS.get(access.lower(), Mode.READ_WRITE)

    def _backend(self) -> Maybe[Disk]:
        target, form = self._values.get("target", ""), self._values.get("format", "raw")
        if form not in _FORMATS and not (form == "empty" and not target):
            choice = ", ".join(_FORMATS)
            self.fail("format", f"{form!r:.40} is no disk format: write TARGET,FORMAT,VDEV,ACCESS with one of {choice}")
        if not target:
            return UNSET
        if (driver := self._values.get("backend", "")) not in _DOM0:
            if not _VM.fullmatch(driver):
                self.fail("backend", f"{driver!r:.40} is not the id of a driver domain")
            if form != "raw":
                self.fail("backend", f"a driver domain serves raw disks, not {form}")
            return RemoteDisk(vm=driver, path=target)
        if self._values.get("script"):
            return Local(path=target, format=form)
        if target.startswith("sm:"):
            if target == "sm:":
                self.fail("target", "sm: is followed by the name of a virtual disk, SR/VDI")
            return Vdi(name=target.removeprefix("sm:"))
        return Local(path=target if target.startswith("/") else f"/dev/{target}", format=form)

    def _backend_keys(self) -> dict[str, str]:
        keys = dict(self._extra)
        if self._values.get("access", "").lower() == _SHARED:
            keys["mode"] = _SHARED
        if script := self._values.get("script"):
            keys["script"] = script if "/" in script else _SCRIPTS + script
        backendtype = self._values.get("backendtype", "")
        if backendtype and backendtype not in _KINDS:
            self.fail("backendtype", f"backendtype is {' or '.join(_KINDS)}, not {backendtype!r:.40}")
        if backendtype:
            keys["backend-kind"] = _KINDS[backendtype]
        if self._values.get("specification", "") not in ("", "xen"):
            self.fail("specification", "only disks of the specification xen are supported")
        return keys


def _parts(value: str) -> Iterator[tuple[int, str]]:
    """The parameters and where they start; blanks around them do not count, but a named target keeps all it has."""
    offset = 0
    while offset <= len(value):
        end = value.find(",", offset)
        end = len(value) if end < 0 else end
        part = value[offset:end]
        start = offset + len(part) - len(part.lstrip())
        if part.lstrip().startswith("target="):
            yield start, value[start:]
            return
        # As in xl, a comma at the very end begins no further parameter.
        if part.strip() or end < len(value):
            yield start, part.strip()
        offset = end + 1


def write(vbds: Iterable[Vbd]) -> list[str]:
    """The entries that mean these drives; a second drive in one place, or one without a place, has none."""
    entries: dict[DeviceNumber, str] = {}
    for vbd in vbds:
        number = _number(vbd.position)
        if number is not None and number not in entries:
            entries[number] = _entry(vbd, vbd.id.dev if _number(vbd.id.dev) == number else number.name)
    return list(entries.values())


def _number(name: Maybe[str]) -> DeviceNumber | None:
    try:
        return DeviceNumber.parse(name) if isinstance(name, str) and not name.isdecimal() else None
    except ValueError:
        return None


def _entry(vbd: Vbd, vdev: str) -> str:
    shared = _SHARED if vbd.extra_backend_keys.get("mode") == _SHARED else "rw"
    access = "ro" if vbd.mode is Mode.READ_ONLY else shared
    usual = VbdType.FLOPPY if vdev.startswith(Bus.FLOPPY.value) else VbdType.DISK
    more = ["devtype=" + vbd.ty.value.lower()] if vbd.ty is not usual else []
    script = vbd.extra_backend_keys.get("script", "")
    if script and "," not in script:
        more.append("script=" + script.removeprefix(_SCRIPTS))
    more += [flag for flag, (key, value) in _FLAGS.items() if vbd.extra_backend_keys.get(key) == value]
    more += ["backendtype=" + n for n, kind in _KINDS.items() if vbd.extra_backend_keys.get("backend-kind") == kind]
    match vbd.backend:
        case Vdi(name=name):
            named, form = f"sm:{name}", "raw"
        case RemoteDisk(vm=vm, path=path):
            named, form = path, "raw"
            more.append(f"backend={vm}")
        case Local(path=path, format=form):
            if path.startswith("/") and not re.search(r"[,=]|\s\Z", path):
                return ",".join([path, form, vdev, access, *more])
            named = path
        case _:
            return ",".join(["", "raw", vdev, access, *more])
    return ",".join([f"format={form}", f"vdev={vdev}", f"access={access}", *more, f"target={named}"])

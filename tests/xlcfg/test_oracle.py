# SPDX-License-Identifier: Apache-2.0
"""Our reading of the language against that of xl itself: libxlutil, where the machine has it."""

import ctypes
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from xenops.types.disk import Local
from xenops.types.vbd import Mode, VbdType
from xenops.xlcfg.devices import disk
from xenops.xlcfg.document import Document
from xenops.xlcfg.errors import ConfigError, ConfigSyntaxError, Place, Source
from xenops.xlcfg.parser import List, Text, Value, parse

try:
    XLU = ctypes.CDLL("libxlutil.so.4.17")
except OSError:
    pytest.skip("Debian's libxlutil (package libxenmisc4.17) is not installed", allow_module_level=True)

LIBC = ctypes.CDLL(None)
LIBC.fopen.restype = ctypes.c_void_p
for function in (XLU.xlu_cfg_init, XLU.xlu_cfg_get_listitem2):
    function.restype = ctypes.c_void_p
REPORT = ctypes.c_void_p(LIBC.fopen(b"/dev/null", b"w"))


class DiskStruct(ctypes.Structure):
    """libxl_device_disk of Xen 4.17."""

    _fields_ = [
        ("backend_domid", ctypes.c_uint32),
        ("backend_domname", ctypes.c_char_p),
        ("pdev_path", ctypes.c_char_p),
        ("vdev", ctypes.c_char_p),
        ("backend", ctypes.c_int),
        ("format", ctypes.c_int),
        ("script", ctypes.c_char_p),
        ("removable", ctypes.c_int),
        ("readwrite", ctypes.c_int),
        ("is_cdrom", ctypes.c_int),
        ("direct_io_safe", ctypes.c_bool),
        ("discard_enable", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    ]


FORMATS = {1: "qcow", 2: "qcow2", 3: "vhd", 4: "raw", 5: "raw", 6: "qed"}


def new_config() -> ctypes.c_void_p:
    return ctypes.c_void_p(XLU.xlu_cfg_init(REPORT, b"oracle"))


def xl_reads(text: str, keys: list[str]) -> dict[str, Any] | None:
    """What xl finds under those keys; None if it refuses the text."""
    config, data = new_config(), text.encode()
    try:
        if XLU.xlu_cfg_readdata(config, data, len(data)) != 0:
            return None
        return {key: xl_value(config, key.encode()) for key in keys}
    finally:
        XLU.xlu_cfg_destroy(config)


def xl_value(config: ctypes.c_void_p, key: bytes) -> Any:
    string, items = ctypes.c_char_p(), ctypes.c_void_p()
    if XLU.xlu_cfg_get_string(config, key, ctypes.byref(string), 1) == 0:
        return (string.value or b"").decode()
    if XLU.xlu_cfg_get_list(config, key, ctypes.byref(items), None, 1) == 0:
        return list(xl_items(config, items))
    return None


def xl_items(config: ctypes.c_void_p, items: ctypes.c_void_p) -> Iterator[Any]:
    index = 0
    while item := XLU.xlu_cfg_get_listitem2(items, index):
        value, string, inner = ctypes.c_void_p(item), ctypes.c_char_p(), ctypes.c_void_p()
        if XLU.xlu_cfg_value_get_string(config, value, ctypes.byref(string), 1) == 0:
            yield (string.value or b"").decode()
        else:
            assert XLU.xlu_cfg_value_get_list(config, value, ctypes.byref(inner), 1) == 0
            yield list(xl_items(config, inner))
        index += 1


def plain(value: Value) -> Any:
    return value.value if isinstance(value, Text) else [plain(item) for item in value.items]


def we_read(text: str) -> dict[str, Any] | None:
    try:
        return {setting.key: plain(setting.value) for setting in parse(Source("text", text))}
    except ConfigSyntaxError:
        return None


KEY = st.sampled_from(["a", "name", "disk", "x_1", "k.v", "on_crash"])
# Numeric escapes are left out: libxlutil swallows them. So are upper case digits, which we forgive.
STRING = st.builds(
    lambda quote, pieces: quote + "".join(pieces) + quote,
    st.sampled_from(["'", '"']),
    st.lists(st.sampled_from(["a", "B", " ", "=", ",", "#", ";", "[", "ß", "\\n", "\\t", "\\\\", "\\'", '\\"', "\\v"])),
)
NUMBER = st.sampled_from(["0", "5", "010", "0x1f", "12ab", "00", "9x"])
BLANK = st.sampled_from(["", " ", "\t", "  "])
BREAK = st.sampled_from(["", "", "\n", " # a remark\n", "\n\n"])


def lists(value: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    items = st.lists(st.tuples(BREAK, value, BREAK).map("".join), max_size=4)
    return st.builds(
        lambda members, end, comma: "[" + ",".join(members) + ("," + end if comma and members else end) + "]",
        items,
        BREAK,
        st.booleans(),
    )


VALUE = st.recursive(STRING | NUMBER, lists, max_leaves=6)
STATEMENT = st.tuples(BLANK, KEY, BLANK, st.sampled_from(["=", "=", "+="]), BLANK, VALUE, BLANK).map("".join)
SEPARATOR = st.sampled_from(["\n", ";", "\n\n", "; ", " # and so on\n", ";;\n"])


@st.composite
def documents(draw: st.DrawFn) -> str:
    text = "".join(draw(STATEMENT) + draw(SEPARATOR) for _ in range(draw(st.integers(0, 5))))
    return text if draw(st.booleans()) else text + draw(STATEMENT)


@st.composite
def damaged_documents(draw: st.DrawFn) -> str:
    text = draw(documents())
    at = draw(st.integers(0, len(text)))
    return (
        text[:at]
        + draw(st.sampled_from(list("'\"[]=,;+-#\\ \na5A(")) | st.just(""))
        + text[at + draw(st.integers(0, 2)) :]
    )


@given(documents())
def test_what_is_written_well_is_read_as_xl_reads_it(text: str) -> None:
    ours = we_read(text)
    assert ours == xl_reads(text, list(ours or {}))


@given(damaged_documents())
def test_what_is_damaged_is_refused_where_xl_refuses_it(text: str) -> None:
    # Numeric escapes and upper case digits again, made by the damage.
    assume(not re.search(r"\\[0-7x]|[0-9][0-9a-fx]*A", text))
    # What stands in the last line is only looked at by libxlutil if the line is complete.
    text += "\n"
    ours = we_read(text)
    assert ours == xl_reads(text, list(ours or {}))


def xl_disk(spec: str) -> dict[str, Any] | None:
    config, struct = new_config(), DiskStruct()
    specs = (ctypes.c_char_p * 1)(spec.encode())
    try:
        if XLU.xlu_disk_parse(config, 1, specs, ctypes.byref(struct)) != 0:
            return None
    finally:
        XLU.xlu_cfg_destroy(config)
    return {
        "target": (struct.pdev_path or b"").decode(),
        "vdev": (struct.vdev or b"").decode(),
        "format": FORMATS[struct.format],
        "script": (struct.script or b"").decode().rpartition("/")[2],
        "writable": bool(struct.readwrite),
        "cdrom": bool(struct.is_cdrom),
        "backend": struct.backend,
        "discard": struct.discard_enable,
        "safe": bool(struct.direct_io_safe),
    }


def our_disk(spec: str) -> dict[str, Any] | None:
    try:
        vbd = disk.read(Document("", "spec"), Text(spec, Place(1, 1)), "vm", hvm=True)
    except ConfigError:
        return None
    keys = vbd.extra_backend_keys
    local = vbd.backend if isinstance(vbd.backend, Local) else None
    return {
        "target": local.path if local else "",
        "vdev": vbd.id.dev,
        "format": local.format if local else "raw",
        "script": keys.get("script", "").rpartition("/")[2],
        "writable": vbd.mode is Mode.READ_WRITE,
        "cdrom": vbd.ty is VbdType.CDROM,
        "backend": {None: 0, "vbd": 1, "qdisk": 3}[keys.get("backend-kind")],
        "discard": {None: 0, "0": -1, "1": 1}[keys.get("discard-enable")],
        "safe": keys.get("direct-io-safe") == "1",
    }


TARGET = st.sampled_from(["/dev/vg/a", "/srv/b.img", "/a b", "", "/x:y"])
VDEV = st.sampled_from(["hda", "xvdb", "sdc1", "xvdaa", "", "nonsense"])
MODE = st.sampled_from(["r", "ro", "w", "rw", "", "q"])
FORMAT = st.sampled_from(["raw", "qcow2", "vhd", "qed", "", "iso"])
# A name without a value leaves its place to a positional parameter, says the manual; libxlutil does not always.
NAMED = st.one_of(
    st.builds("format={}".format, FORMAT.filter(bool)),
    st.builds("vdev={}".format, VDEV.filter(bool)),
    st.builds("access={}".format, MODE.filter(bool)),
    st.sampled_from(["cdrom", "devtype=cdrom", "discard", "no-discard", "direct-io-safe", "backendtype=phy"]),
    st.sampled_from(["backendtype=qdisk", "script=block-x", "specification=xen", "unknown=1", "devtype=tape"]),
)
PREFIX = st.sampled_from(["phy:", "file:", "tap:aio:", "qcow2:", "raw:", "iscsi:", "tap2:tapdisk:vhd:", "drbd:"])
OLD = st.builds(
    "{}{},{}{},{}".format, PREFIX, TARGET, VDEV, st.sampled_from(["", "", ":cdrom", ":disk", ":tape"]), MODE
)
NEW = st.builds(
    lambda before, positional, after, target: ", ".join(before + positional + after + target),
    st.lists(NAMED, max_size=2),
    st.tuples(TARGET, FORMAT, VDEV, MODE).flatmap(lambda all_: st.integers(0, 4).map(lambda n: list(all_[:n]))),
    st.lists(NAMED, max_size=3),
    st.lists(st.builds("target={}".format, TARGET | st.just("/a,b=c,cdrom")), max_size=1),
)


def differs_on_purpose(spec: str, theirs: dict[str, Any] | None, ours: dict[str, Any] | None) -> bool:
    """We are stricter than libxlutil where libxl itself or the guest would fail later, or a word is said twice."""
    if theirs is None or ours is not None:
        return False
    words = [part.strip().partition("=")[0] for part in spec.split(",")]
    twice = any(words.count(word) > 1 for word in ("access", "devtype", "format", "vdev"))
    named_access = "access" in words
    no_drive = theirs["vdev"] not in ("hda", "xvdb", "sdc1", "xvdaa")
    no_target = not theirs["target"] and not theirs["cdrom"]
    return twice or named_access or no_drive or no_target


@given(OLD | NEW)
def test_disks_are_read_as_xl_reads_them(spec: str) -> None:
    theirs, ours = xl_disk(spec), our_disk(spec)
    assume(not differs_on_purpose(spec, theirs, ours))
    assert ours == theirs


# From xl-disk-configuration(5): the strings of each group mean the same.
MANUAL = [
    [
        "/dev/vg/guest-volume,,hda",
        "/dev/vg/guest-volume,raw,hda,rw",
        "format=raw, vdev=hda, access=rw, target=/dev/vg/guest-volume",
        "raw:/dev/vg/guest-volume,hda,w",
    ],
    [
        "/root/image.iso,,hdc,cdrom",
        "/root/image.iso,,hdc,,cdrom",
        "/root/image.iso,raw,hdc,devtype=cdrom",
        "format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/root/image.iso",
        "raw:/root/image.iso,hdc:cdrom,ro",
    ],
    ["devtype=cdrom,,,hdc", ",,hdc:cdrom,r", ",hdc:cdrom,r", "vdev=hdc,access=r,devtype=cdrom,target="],
    ["drbd:app01,hda,w", "vdev=hda,access=w,script=block-drbd,target=app01"],
]


@pytest.mark.parametrize("group", MANUAL)
def test_the_manuals_examples_mean_to_us_what_they_mean_to_xl(group: list[str]) -> None:
    readings = [our_disk(spec) for spec in group]
    assert readings[0] is not None
    assert all(reading == readings[0] for reading in readings)
    assert readings == [xl_disk(spec) for spec in group]


def test_the_list_type_is_told_apart() -> None:
    (setting,) = parse(Source("text", "a = [ [ '1' ], 2 ]"))
    assert isinstance(setting.value, List)
    assert plain(setting.value) == [["1"], "2"] == (xl_reads("a = [ [ '1' ], 2 ]", ["a"]) or {})["a"]

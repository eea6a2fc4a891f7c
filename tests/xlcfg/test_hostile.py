# SPDX-License-Identifier: Apache-2.0
"""No text crashes the reader: it is a machine, or an error with a place in the text."""

from hypothesis import given
from hypothesis import strategies as st

from xenops.xlcfg import ConfigError, dump, load
from xenops.xlcfg.keys import KNOWN

KEYS = st.sampled_from(sorted(KNOWN))
SPECS = st.text(alphabet="abcdefhkmptvwxyz0159:/=,.@^-_ *", max_size=40)
SHARDS = """mac= rate=10Mb/s@ vdev= xvda hdc:cdrom target= phy: sm: /a , raw 01:00.0 @ msitranslate= 0-3 ^ all nodes:
devid= 99999999999999999999 restart pv hvm"""
PIECES = st.sampled_from(SHARDS.split())
STRINGS = (SPECS | st.lists(PIECES).map("".join) | st.text(max_size=8)).map(
    lambda text: "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\0", "") + "'"
)
VALUES = st.recursive(
    STRINGS | st.integers(0, 1 << 70).map(str),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]"),
    max_leaves=4,
)
SETTINGS = st.builds("{} {} {}\n".format, KEYS, st.sampled_from(["=", "=", "+="]), VALUES)
TOKENS = st.lists(st.sampled_from([*"abx01'\"[]=,;+-#\\ \t\n\r", "name", "disk", "+=", "0x"]), max_size=60).map("".join)


def refusal(text: str) -> ConfigError | None:
    try:
        loaded = load(text, uuid="u")
    except ConfigError as error:
        return error
    assert load(dump(loaded.metadata)).metadata == loaded.metadata
    assert all(warning.line <= text.count("\n") + 1 for warning in loaded.warnings)
    return None


def must_hold(text: str) -> None:
    error = refusal(text)
    if error is not None:
        lines = text.split("\n")
        assert 1 <= error.line <= len(lines)
        assert 1 <= error.column <= len(lines[error.line - 1]) + 1
        assert str(error).count("\n") == 2


@given(st.text())
def test_any_text(text: str) -> None:
    must_hold(text)


@given(TOKENS)
def test_any_tokens(text: str) -> None:
    must_hold(text)


@given(st.lists(SETTINGS, max_size=5).map("".join))
def test_any_values_of_any_keys(text: str) -> None:
    must_hold(text)


@given(st.sampled_from(["disk", "vif", "pci", "cpus"]), st.lists(STRINGS, max_size=3))
def test_any_entries_of_any_list(key: str, entries: list[str]) -> None:
    must_hold(f"type = 'hvm'\n{key} = [{','.join(entries)}]")

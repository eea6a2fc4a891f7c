# SPDX-License-Identifier: Apache-2.0
"""The language itself: what is a value, what is refused, and that every refusal points at the spot."""

from typing import Any

import pytest

from xenops.xlcfg.errors import ConfigError, ConfigSyntaxError, Source
from xenops.xlcfg.parser import Text, Value, parse


def plain(value: Value) -> Any:
    return value.value if isinstance(value, Text) else [plain(item) for item in value.items]


def read(text: str) -> dict[str, Any]:
    return {setting.key: plain(setting.value) for setting in parse(Source("vm.cfg", text))}


def refusal(text: str) -> ConfigSyntaxError:
    with pytest.raises(ConfigSyntaxError) as caught:
        parse(Source("vm.cfg", text))
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a = 'one'", "one"),
        ('a = "it\'s"', "it's"),
        ("a = 'a # b ; c'", "a # b ; c"),
        ("a = 42", "42"),
        ("a=0x1f", "0x1f"),
        ("a = 010", "010"),
        (r"a = 'tab\there'", "tab\there"),
        (r"a = '\a\b\f\n\r\v\\\'\"'", "\a\b\f\n\r\v\\'\""),
        (r"a = '\x41\102\0101'", "AB\b1"),
        ("a = []", []),
        ("a = [ ]", []),
        ("a = [ 'x', 2 ]", ["x", "2"]),
        ("a = [ 'x', 2, ]", ["x", "2"]),
        ("a = [\n 'x' # first\n ,\n\n 'y',\n]", ["x", "y"]),
        ("a = [ [ 'x' ], [ ], 'y' ]", [["x"], [], "y"]),
        ("a = 'x'\na += 'y'", "xy"),
        ("a = [ 1 ]\na += [ 2, 3 ]", ["1", "2", "3"]),
        ("a += 'alone'", "alone"),
        ("a = 1\na = 2", "2"),
        ("; ;\n\n  a = 1 ;\n", "1"),
        ("\ufeffa = 1\r\n", "1"),
        ("a = 1 # no newline at the end", "1"),
        ("a\t=\t'über'", "über"),
    ],
)
def test_values(text: str, value: Any) -> None:
    assert read(text) == {"a": value}


def test_several_settings_on_a_line() -> None:
    assert read("name='h0'; type='hvm'\nk.2_x = 1") == {"name": "h0", "type": "hvm", "k.2_x": "1"}


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("a = on", 1, 5, "write 1"),
        ("a = destroy", 1, 5, "'destroy'"),
        ("\na = -1", 2, 5, "in quotes"),
        ("a = True", 1, 5, "in quotes"),
        ("a = 'open\nb = 1", 1, 5, "not closed"),
        ('a = """x"""', 1, 7, "';'"),
        ("Name = 'x'", 1, 1, "lower case"),
        ("a 'x'", 1, 3, "expected '='"),
        ("a = ", 1, 5, "expected a value"),
        ("a = 1 b = 2", 1, 7, "new line"),
        ("a = [ 1 2 ]", 1, 9, "','"),
        ("a = [ , ]", 1, 7, "expected a value"),
        ("a = [ 1,\n 2\nb = 3", 3, 1, "','"),
        ("a = [ 1", 1, 8, "the end of the file"),
        ("'a' = 1", 1, 1, "expected a key"),
        ("a = (1)", 1, 5, "not Python"),
        ("my-key = 1", 1, 3, "quotes"),
        (r"a = 'x\q'", 1, 7, "no such escape"),
        (r"a = '\x'", 1, 6, "no such escape"),
        ("a = 'x\0y'", 1, 7, "NUL"),
        (r"a = 'xy\0'", 1, 8, "NUL"),
        ("a = 1\0", 1, 6, "U+0000"),
        ("a = 'x'\na += [ 1 ]", 2, 6, "cannot be added"),
        ("a = " + "[" * 20, 1, 21, "16 deep"),
    ],
)
def test_refusals_point_at_the_spot(text: str, line: int, column: int, words: str) -> None:
    error = refusal(text)
    assert (error.line, error.column) == (line, column)
    assert words in error.reason


def test_a_refusal_shows_the_line_and_a_caret() -> None:
    assert str(refusal("name = 'x'\n\tmemory = lots # MiB\n")) == (
        "vm.cfg:2:11: a value that is a word must stand in quotes: 'lots'\n    \tmemory = lots # MiB\n    \t         ^"
    )


def test_a_long_line_is_cut_to_the_surroundings_of_the_caret() -> None:
    error = refusal("a = '" + "x" * 500 + "' ?" + "y" * 500)
    assert len(error.text) <= 120
    assert error.text[error.caret.index("^")] == "?"


def test_what_could_move_the_cursor_is_not_shown() -> None:
    assert "\x1b" not in str(refusal("a = \x1b[2J"))


def test_every_refusal_is_a_config_error_and_a_value_error() -> None:
    assert issubclass(ConfigSyntaxError, ConfigError)
    assert issubclass(ConfigError, ValueError)

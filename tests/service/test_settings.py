# SPDX-License-Identifier: Apache-2.0
"""Configuration: the file's lines, who wins, and errors that say what to do."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from xenops.service.settings import Settings, SettingsError, load, parse_file, resolve


class Some(Settings, frozen=True, kw_only=True):
    """A service for tests."""

    port: Annotated[int, Meta(description="where to listen", ge=0, le=65535)] = 5672
    name: Annotated[str, Meta(description="what it is called")] = "n"
    quick: Annotated[bool, Meta(description="whether it hurries")] = False
    state_dir: Annotated[Path, Meta(description="where it keeps things")] = Path("/var")
    sort: Annotated[str, Meta(description="which sort: a or b", pattern=r"^[ab]\Z")] = "a"
    friends: Annotated[list[str], Meta(description="whom it knows")] = []
    limit: Annotated[float | None, Meta(description="seconds")] = None
    pace: Annotated[Literal["walk", "run"], Meta(description="how it goes")] = "walk"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", None),
        ("# Foo", None),
        ("foo=true", ("foo", "true")),
        ("n=2 # and no more", ("n", "2")),
        ("n = 2 \t# and no more", ("n", "2")),
        ("n = 'test'  # comment", ("n", "test")),
        ('n = "test" # comment', ("n", "test")),
        ("  \tn = 1", ("n", "1")),
        ("n = foo bar baz # comment", ("n", "foo bar baz")),
        ("n = 'foo bar baz ' # comment", ("n", "foo bar baz ")),
        ("under_score = 1", ("under-score", "1")),
    ],
)
def test_lines_of_the_file(line: str, expected: tuple[str, str] | None) -> None:
    assert parse_file(line, filename="f") == (dict([expected]) if expected else {})


def test_a_line_that_is_neither_names_its_place() -> None:
    with pytest.raises(SettingsError, match="f:2: not understood: 'whatever'; write key = value"):
        parse_file("a = 1\nwhatever\n", filename="f")


@given(st.text())
def test_no_text_crashes_the_parser(text: str) -> None:
    with suppress(SettingsError):
        parse_file(text, filename="f")


def settle(tmp_path: Path, text: str = "", environ: dict[str, str] | None = None, **flags: str) -> Some:
    path = tmp_path / "some.conf"
    path.write_text(text)
    return resolve(Some, program="some-service", flags=flags, environ=environ or {}, path=path, required=True)


def test_flags_win_over_environment_over_file_over_default(tmp_path: Path) -> None:
    assert settle(tmp_path) == Some()
    assert settle(tmp_path, "port = 1").port == 1
    assert settle(tmp_path, "port = 1", {"SOME_SERVICE_PORT": "2"}).port == 2
    assert settle(tmp_path, "port = 1", {"SOME_SERVICE_PORT": "2"}, port="3").port == 3


def test_values_take_the_type_of_their_key(tmp_path: Path) -> None:
    text = "quick = yes\nstate-dir = /tmp/a\nfriends = a, b,\nlimit = 1.5\nname = '#1'"
    assert settle(tmp_path, text) == Some(
        quick=True, state_dir=Path("/tmp/a"), friends=["a", "b"], limit=1.5, name="#1"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "unknown key 'prot'; did you mean 'port'"),
        ("zzz = 1", "--help lists the keys"),
        ("port = many", "key port: is not a whole number"),
        ("limit = soon", "key limit: is not a number"),
        ("pace = trot", "key pace: is none of walk, run"),
        ("port = 70000", "key port: Expected `int` <= 65535"),
        ("sort = c", "key sort: not accepted; which sort: a or b"),
        ("quick = perhaps", "neither true nor false"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settle(tmp_path, text)


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load(Some, program="some-service", argv=["--config", str(tmp_path / "none")], environ={})
    assert ended.value.code == 2
    assert "cannot read the configuration file" in capsys.readouterr().err


def test_help_explains_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load(Some, program="some-service", argv=["--help"], environ={})
    assert ended.value.code == 0
    told = capsys.readouterr().out
    for word in (
        "--port N",
        "where to listen (default: 5672)",
        "--state-dir PATH",
        "--quick true|false",
        "SOME_SERVICE_KEY",
    ):
        assert word in told

# SPDX-License-Identifier: Apache-2.0
"""Cut the text of a configuration into tokens that know their place.

The language is that of libxlutil, which is not Python: no bare words, no negative numbers, no triple quotes. Beyond
it, a carriage return before a newline, a byte order mark and a comment without a final newline are forgiven, and the
numeric escapes of C, which libxlutil swallows, mean what they mean in C.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from xenops.xlcfg.errors import ConfigSyntaxError, Place, Source


class Kind(Enum):
    """The kinds of tokens; the value is how an error message calls them."""

    IDENT = "a key"
    STRING = "a string"
    NUMBER = "a number"
    ASSIGN = "'='"
    ADD = "'+='"
    OPEN = "'['"
    CLOSE = "']'"
    COMMA = "','"
    SEMICOLON = "';'"
    NEWLINE = "the end of the line"
    END = "the end of the file"


@dataclass(frozen=True)
class Token:
    """A token, its meaning, and for a string with escapes the column of each character of that meaning."""

    kind: Kind
    value: str
    place: Place
    columns: tuple[int, ...] = ()


_TOKEN = re.compile(
    r"""
      (?P<BLANK>    [ \t\ufeff]+ | \#[^\n]* )
    | (?P<NEWLINE>  \r?\n )
    | (?P<IDENT>    [a-z][._0-9a-z]* )
    | (?P<NUMBER>   [0-9][0-9a-fA-FxX]* )
    | (?P<STRING>   '(?:[^'\\\n]|\\.)*' | "(?:[^"\\\n]|\\.)*" )
    | (?P<ADD>      \+= )
    | (?P<ASSIGN>   = )
    | (?P<OPEN>     \[ )
    | (?P<CLOSE>    \] )
    | (?P<COMMA>    , )
    | (?P<SEMICOLON> ; )
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(r"x(?P<hex>[0-9a-fA-F]{1,2})|(?P<octal>[0-7]{1,3})|(?P<plain>[abfnrtv\"'\\])")
_PLAIN = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_HINTS = {
    "-": "only digits can stand here; put a negative number in quotes",
    "+": "only += adds; there is no arithmetic in this language",
    "(": "there are no parentheses in this language, which is not Python; write lists in [ ]",
    "{": "there are no braces in this language, which is not Python; write lists in [ ]",
    "'": "this quote is not closed on the same line",
    '"': "this quote is not closed on the same line",
}


def tokens(source: Source) -> Iterator[Token]:
    """The tokens of the text, the last of which is `END`; comments and blanks leave nothing."""
    text, position, line, start = source.text, 0, 1, 0
    while position < len(text):
        place = Place(line, position - start + 1)
        match = _TOKEN.match(text, position)
        if match is None:
            raise ConfigSyntaxError(source, place, _complaint(text[position]))
        position = match.end()
        match match.lastgroup:
            case "BLANK":
                continue
            case "STRING":
                yield _string(source, place, match[0])
            case group:
                yield Token(Kind[group or "END"], match[0], place)
        if match.lastgroup == "NEWLINE":
            line, start = line + 1, position
    yield Token(Kind.END, "", Place(line, position - start + 1))


def _complaint(character: str) -> str:
    if character.isupper():
        return "keys are written in lower case, and every word that is a value in quotes"
    shown = repr(character) if character.isprintable() else f"U+{ord(character):04X}"
    return _HINTS.get(character, f"{shown} has no meaning here")


def _string(source: Source, place: Place, raw: str) -> Token:
    """Take the quotes off and resolve the escapes."""
    if "\\" not in raw:
        return Token(Kind.STRING, _sound(source, place, raw[1:-1], ()), place)
    out: list[str] = []
    columns: list[int] = []
    at = 1
    while at < len(raw) - 1:
        columns.append(place.column + at)
        if raw[at] != "\\":
            out.append(raw[at])
            at += 1
            continue
        match = _ESCAPE.match(raw, at + 1, len(raw) - 1)
        if match is None:
            where = Place(place.line, place.column + at)
            raise ConfigSyntaxError(source, where, r"no such escape; there are \\ \' \" \a \b \f \n \r \t \v \xHH \OOO")
        out.append(_escaped(match))
        at = match.end()
    columns.append(place.column + at)
    return Token(Kind.STRING, _sound(source, place, "".join(out), tuple(columns)), place, tuple(columns))


def _escaped(match: re.Match[str]) -> str:
    if match["hex"]:
        return chr(int(match["hex"], 16))
    if match["octal"]:
        return chr(int(match["octal"], 8))
    return _PLAIN.get(match["plain"], match["plain"])


def _sound(source: Source, place: Place, value: str, columns: tuple[int, ...]) -> str:
    """No value ends up with a NUL: everything that it is handed to would stop reading there."""
    at = value.find("\0")
    if at >= 0:
        where = Place(place.line, columns[at] if columns else place.column + 1 + at)
        raise ConfigSyntaxError(source, where, "a NUL character cannot be part of a value")
    return value

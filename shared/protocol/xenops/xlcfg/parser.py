# SPDX-License-Identifier: Apache-2.0
"""From tokens to settings: `key = value` and `key += value`, one a line or parted by `;`."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NoReturn

from xenops.xlcfg.errors import ConfigSyntaxError, Place, Source
from xenops.xlcfg.lexer import Kind, Token, tokens

# Deeper lists than this mean nothing in any key, and must not exhaust the stack.
_DEPTH = 16


@dataclass(frozen=True)
class Text:
    """A string or a number as written; which of the two it has to be is for the key to say."""

    value: str
    place: Place
    quoted: bool = True
    columns: tuple[int, ...] = ()

    def at(self, offset: int) -> Place:
        """Where the character at that offset of the value stands in the file."""
        if self.columns:
            return Place(self.place.line, self.columns[min(offset, len(self.columns) - 1)])
        return Place(self.place.line, self.place.column + self.quoted + min(offset, len(self.value)))


@dataclass(frozen=True)
class List:
    """A list of values, which may be lists."""

    items: tuple["Value", ...]
    place: Place


Value = Text | List


@dataclass(frozen=True)
class Setting:
    """One key and its value; `added` says that `+=` made it, and then it cannot be read as a number."""

    key: str
    value: Value
    place: Place
    added: bool = False


def parse(source: Source) -> tuple[Setting, ...]:
    """All settings in the order written, each with the value that it has at that point."""
    return tuple(_Parser(source).settings())


class _Parser:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._tokens = tokens(source)
        self._next = next(self._tokens)

    def settings(self) -> Iterator[Setting]:
        latest: dict[str, Setting] = {}
        while self._next.kind is not Kind.END:
            if self._accept(Kind.NEWLINE) or self._accept(Kind.SEMICOLON):
                continue
            setting = self._setting(latest)
            latest[setting.key] = setting
            yield setting
            if self._next.kind not in (Kind.NEWLINE, Kind.SEMICOLON, Kind.END):
                self._fail("expected a new line or ';' after the value")

    def _setting(self, latest: dict[str, Setting]) -> Setting:
        key = self._next
        if not self._accept(Kind.IDENT):
            self._fail("expected a key")
        added = self._next.kind is Kind.ADD
        if not self._accept(Kind.ADD) and not self._accept(Kind.ASSIGN):
            self._fail(f"expected '=' after the key {key.value}")
        value = self._value(0)
        if added and key.value in latest:
            value = self._sum(latest[key.value].value, value)
        return Setting(key.value, value, key.place, added)

    def _value(self, depth: int) -> Value:
        token = self._next
        if self._accept(Kind.STRING) or self._accept(Kind.NUMBER):
            return Text(token.value, token.place, token.kind is Kind.STRING, token.columns)
        if self._accept(Kind.OPEN):
            if depth == _DEPTH:
                self._fail(f"lists are nested more than {_DEPTH} deep", token)
            return List(tuple(self._items(depth + 1)), token.place)
        if token.kind is Kind.IDENT:
            self._fail(_bare(token.value), token)
        self._fail("expected a value: a string in quotes, a number or a list")

    def _items(self, depth: int) -> Iterator[Value]:
        while True:
            self._newlines()
            if self._accept(Kind.CLOSE):
                return
            yield self._value(depth)
            self._newlines()
            if not self._accept(Kind.COMMA) and self._next.kind is not Kind.CLOSE:
                self._fail("expected ',' or ']' in the list")

    def _sum(self, before: Value, after: Value) -> Value:
        match before, after:
            case Text(), Text():
                # The columns of two pieces do not fit one line: errors point at the second piece as a whole.
                return replace(after, value=before.value + after.value, columns=(after.place.column,))
            case List(), List():
                return List(before.items + after.items, after.place)
        raise ConfigSyntaxError(self._source, after.place, "a list and a string cannot be added")

    def _newlines(self) -> None:
        while self._accept(Kind.NEWLINE):
            pass

    def _accept(self, kind: Kind) -> bool:
        if self._next.kind is not kind:
            return False
        if kind is not Kind.END:
            self._next = next(self._tokens)
        return True

    def _fail(self, reason: str, token: Token | None = None) -> NoReturn:
        token = token or self._next
        if token is self._next and token.kind is not Kind.IDENT:
            reason += f", found {token.kind.value}"
        raise ConfigSyntaxError(self._source, token.place, reason)


def _bare(word: str) -> str:
    number = {"true": 1, "yes": 1, "on": 1, "false": 0, "no": 0, "off": 0}.get(word)
    if number is not None:
        return f"there is no word {word}; write {number}"
    return f"a value that is a word must stand in quotes: '{word}'"

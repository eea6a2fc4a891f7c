# SPDX-License-Identifier: Apache-2.0
"""The settings of a configuration, asked for by key and by the type that the key wants.

As in xl, the last of several settings of a key wins. A value of the wrong type is an error, where xl passes over it.
"""

import re
from collections.abc import Iterator
from typing import NoReturn

from xenops.xlcfg.errors import ConfigError, ConfigWarning, Place, Source
from xenops.xlcfg.parser import List, Setting, Text, parse

# What strtol(3) takes in base 0; longer ones fit no integer of ours.
_NUMBER = re.compile(r"[ \t]*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_DIGITS = 24
LONG = (1 << 63) - 1


class Document:
    """One configuration; it remembers which keys were asked for, and collects the warnings."""

    def __init__(self, untrusted_text: str, filename: str) -> None:
        self._source = Source(filename, untrusted_text)
        self._settings: dict[str, Setting] = {}
        self._read: set[str] = set()
        self.warnings: list[ConfigWarning] = []
        for setting in parse(self._source):
            before = self._settings.get(setting.key)
            if before and not setting.added:
                self.warn(
                    setting.key, f"given again; this one counts, not the one in line {before.place.line}", setting
                )
            self._settings[setting.key] = setting

    def fail(self, where: Text | List | Setting | Place, reason: str) -> NoReturn:
        """Refuse the configuration because of that place."""
        raise ConfigError(self._source, where if isinstance(where, Place) else where.place, reason)

    def warn(self, key: str, reason: str, where: Text | List | Setting | Place | None = None) -> None:
        """Note that something of that key's setting is passed over."""
        where = where or self._settings[key]
        place = where if isinstance(where, Place) else where.place
        self.warnings.append(ConfigWarning(self._source.filename, place.line, place.column, key, reason))

    def place(self, key: str) -> Place:
        """Where the key was set last; the beginning of the text if it was not."""
        return self._settings[key].place if key in self._settings else Place(1, 1)

    def __contains__(self, key: str) -> bool:
        return key in self._settings

    def is_list(self, key: str) -> bool:
        """Whether the value is a list, for the few keys that can be either."""
        return key in self._settings and isinstance(self._settings[key].value, List)

    def text(self, key: str) -> Text | None:
        """A string or number, as written."""
        setting = self._setting(key)
        if setting is None:
            return None
        if isinstance(setting.value, List):
            self.fail(setting.value, f"{key} is a single value, not a list")
        return setting.value

    def string(self, key: str, default: str = "") -> str:
        """A string."""
        text = self.text(key)
        return default if text is None else text.value

    def integer(self, key: str, low: int = -LONG, high: int = LONG) -> int | None:
        """A number within those bounds; quotes around it do not matter."""
        text = self.text(key)
        if text is None:
            return None
        if self._settings[key].added:
            self.fail(text, f"{key} is a number, and += does not add numbers")
        value = self.number(text)
        if not low <= value <= high:
            self.fail(text, f"{key} must be from {low} to {high}" if high != LONG else f"{key} must be at least {low}")
        return value

    def boolean(self, key: str) -> bool | None:
        """A number of which 0 is false and every other true."""
        number = self.integer(key)
        return None if number is None else number != 0

    def number(self, text: Text) -> int:
        """A number as C reads it: decimal, octal after 0, hexadecimal after 0x."""
        match = _NUMBER.fullmatch(text.value)
        if match is None or len(text.value) > _DIGITS:
            self.fail(text, f"{text.value!r:.40} is not a number")
        sign, digits = match.groups()
        base = 16 if digits[:2] in ("0x", "0X") else 8 if digits[0] == "0" else 10
        return int(sign + digits, base)

    def texts(self, key: str) -> list[Text]:
        """The entries of a list of strings; none if the key is not set."""
        setting = self._setting(key)
        if setting is None:
            return []
        if isinstance(setting.value, Text):
            self.fail(setting.value, f"{key} is a list; write {key} = [ ... ]")
        return [self._entry(key, item) for item in setting.value.items]

    def _entry(self, key: str, item: Text | List) -> Text:
        if isinstance(item, List):
            self.fail(item, f"an entry of {key} is a string, not a list")
        return item

    def _setting(self, key: str) -> Setting | None:
        self._read.add(key)
        return self._settings.get(key)

    def unread(self) -> Iterator[str]:
        """The keys that are set and that nobody asked for, in the order of the text."""
        return (key for key in self._settings if key not in self._read)

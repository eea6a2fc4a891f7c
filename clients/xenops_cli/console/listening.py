# SPDX-License-Identifier: Apache-2.0
"""What came of a console, and when a script has heard enough of it; what it is fed are bytes, cut anywhere."""

from msgspec import Struct

KEPT = 1 << 20  # bytes: a console may talk for ever, and a document must end somewhere


class Heard(Struct, frozen=True, kw_only=True):
    """What a console said, and why listening ended: expected, lines, timeout, closed, halted or detached."""

    vm: str
    ended: str
    text: str = ""


class Viewed(Struct, frozen=True, kw_only=True):
    """Where the picture is served, once; `viewer` is the program that showed it."""

    vm: str
    host: str
    port: int
    expires_s: float
    viewer: str = ""


class Listening:
    """Feed it with `receive`; `ended` says why it has heard enough, or is empty."""

    def __init__(self, *, expect: str | None = None, lines: int | None = None) -> None:
        self._expect = expect.encode() if expect is not None else None
        self._lines = lines
        self._text = bytearray()
        self._tail = b""
        self.ended = ""

    @property
    def text(self) -> str:
        """The last of what was heard."""
        return self._text.decode("utf-8", "replace")

    def receive(self, untrusted: bytes) -> bytes:
        """Take what came; what is given back is the part that was asked for."""
        if self.ended:
            return b""
        taken, ended = len(untrusted), ""
        if self._lines is not None:
            for i, byte in enumerate(untrusted):
                self._lines -= byte == 0x0A
                if self._lines == 0:
                    taken, ended = i + 1, "lines"
                    break
        if self._expect is not None:
            window = self._tail + untrusted[:taken]
            found = window.find(self._expect)
            if found >= 0:
                taken, ended = max(0, found + len(self._expect) - len(self._tail)), "expected"
            self._tail = window[-(len(self._expect) - 1) :] if len(self._expect) > 1 else b""
        self.ended = ended
        self._text += untrusted[:taken]
        del self._text[: max(0, len(self._text) - KEPT)]
        return untrusted[:taken]

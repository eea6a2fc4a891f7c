# SPDX-License-Identifier: Apache-2.0
"""What one channel publishes: content put together from its frames, sent on its way, returned or confirmed. Pure."""

from functools import partial
from itertools import takewhile
from typing import Any

from message_switch import properties
from message_switch.access.users import User
from message_switch.frames import (
    confirm,
    content,
    encode_method,
    parse_content_header,
    parse_publish,
    refuse,
    spec,
)
from message_switch.model.broker import REPLY_TO
from message_switch.model.faults import ChannelFault, Code, ConnectionFault
from message_switch.model.message import Message
from message_switch.model.trace import Peer
from message_switch.switch import Outbox, Switch
from xenops.interfaces.switch import SWITCH_QUEUE

_REPLY_TO = REPLY_TO.encode()
_TTL_MAX = (1 << 32) - 1


class Publishing:
    """See the module; `reply_name` is where direct replies to this channel go, if it listens for them."""

    def __init__(self, number: int, switch: Switch, outbox: Outbox, owner: Peer, user: User, *, frame_max: int) -> None:
        self.number = number
        self.owner = owner
        self.user = user
        self.reply_name = ""
        self.awaited = False
        self._switch = switch
        self._broker = switch.broker
        self._outbox = outbox
        self._frame_max = frame_max
        self._confirming = False
        self._published = 0
        self._unconfirmed: dict[int, int] = {}  # by its number here, what the ledger must have synced for it
        self._publish = ("", "", False)
        self._header: dict[int, bytes] | None = None
        self._raw_header = b""
        self._body: list[bytes] = []
        self._missing = self._begun = 0

    def begin(self, untrusted: bytes) -> None:
        """basic.publish: its content is `awaited` now, and nothing else will do."""
        exchange, key, mandatory, immediate = parse_publish(untrusted)
        if immediate:
            raise ConnectionFault(Code.NOT_IMPLEMENTED, "immediate=true")
        self._publish = (exchange, key, mandatory)
        self.awaited = True

    def whole(self, untrusted: bytes, header: bytes, body: bytes) -> None:
        """All of it at once; what can be wrong with it is the same."""
        self.begin(untrusted)
        parts = self._read(header)
        self._complete(parts, body)

    def on_header(self, untrusted: bytes) -> None:
        """A content header frame."""
        if not self.awaited or self._header is not None:
            raise ConnectionFault(Code.UNEXPECTED_FRAME, "content header without basic.publish")
        self._header = self._read(untrusted)
        if self._missing:
            self._hold(len(untrusted))
        else:
            self._complete(self._header, b"")

    def _read(self, untrusted: bytes) -> dict[int, bytes]:
        size, self._raw_header = parse_content_header(untrusted)
        if size > self._switch.limits.body_max:
            raise ChannelFault(
                Code.PRECONDITION_FAILED, f"message size {size} is larger than max size {self._switch.limits.body_max}"
            )
        self._missing = size
        return properties.split(self._raw_header)

    def on_body(self, untrusted: bytes) -> None:
        """A piece of content."""
        if self._header is None:
            raise ConnectionFault(Code.UNEXPECTED_FRAME, "content body without its header")
        self._missing -= len(untrusted)
        if self._missing < 0:
            raise ConnectionFault(Code.FRAME_ERROR, "more content than its header said")
        if self._missing:
            self._body.append(untrusted)
            self._hold(len(untrusted))
        else:
            body = b"".join((*self._body, untrusted)) if self._body else untrusted
            self._let_go()
            self._complete(self._header, body)

    def _hold(self, size: int) -> None:
        self._begun += size
        self._switch.begin(size)

    def _let_go(self) -> None:
        self._body = []
        self._switch.begun -= self._begun
        self._begun = 0

    def confirm_select(self) -> None:
        """Publisher confirms, from here on."""
        self._confirming = True

    def synced(self, up_to: int) -> bool:
        """See `Waiting`; one answer for all that became safe together."""
        safe = list(takewhile(lambda number: self._unconfirmed[number] <= up_to, self._unconfirmed))
        for number in safe:
            del self._unconfirmed[number]
        if safe:
            self._broker.count.confirmed += len(safe)
            self._outbox.send(confirm(self.number, safe[-1], multiple=len(safe) > 1))
        return bool(self._unconfirmed)

    def stop(self) -> None:
        """Nobody waits for confirms any more, and what was begun has no end."""
        self._let_go()
        self._unconfirmed.clear()
        self._switch.waiting.pop(self, None)

    def _complete(self, parts: dict[int, bytes], body: bytes) -> None:
        exchange, key, mandatory = self._publish
        self._header = None
        self.awaited = False
        self.user.may("write", "exchange", exchange)
        target = self._broker.publishable(exchange)
        message = self._message(parts, body)
        if key == SWITCH_QUEUE and not self._switch.may_publish(self.user, exchange, key):
            raise ChannelFault(Code.ACCESS_REFUSED, f"user '{self.user.name}' is no administrator")
        if self._broker.trace.on:
            self._broker.trace.published(message, self)
        outcome = self._broker.publish(message, target)
        if mandatory and not outcome.routed:
            self._return(message)
        if self._confirming:
            self._published += 1
            if not outcome.accepted:
                self._outbox.send(refuse(self.number, self._published))
            elif outcome.wait_for > self._switch.synced:
                self._unconfirmed[self._published] = outcome.wait_for
                self._switch.waiting[self] = None
                message.on_safe = partial(self._settled, self._published)
            else:
                self._broker.count.confirmed += 1
                self._outbox.send(confirm(self.number, self._published))

    def _settled(self, number: int) -> None:
        """All consumers are done with it: there is nothing left that could be lost."""
        if self._unconfirmed.pop(number, None) is not None:
            self._broker.count.confirmed += 1
            self._outbox.send(confirm(self.number, number))
            if not self._unconfirmed:
                self._switch.waiting.pop(self, None)

    def _message(self, parts: dict[int, bytes], body: bytes) -> Message:
        if properties.USER_ID in parts and (said := properties.text(parts, properties.USER_ID)) != self.user.name:
            raise ChannelFault(
                Code.PRECONDITION_FAILED,
                f"user_id property set to '{said}' but authenticated user was '{self.user.name}'",
            )
        exchange, key, _ = self._publish
        return Message(
            exchange,
            key,
            self._addressed(parts),
            body,
            persistent=parts.get(properties.DELIVERY_MODE) == properties.PERSISTENT,
            ttl_ms=_ttl(parts) if properties.EXPIRATION in parts else None,
        )

    def _addressed(self, parts: dict[int, bytes]) -> bytes:
        """Properties as they came, unless the answer is to come straight back to this channel."""
        reply_to = parts.get(properties.REPLY_TO)
        if reply_to is None or reply_to[1:] != _REPLY_TO:
            return self._raw_header
        if not self.reply_name:
            raise ChannelFault(Code.PRECONDITION_FAILED, "fast reply consumer does not exist")
        return properties.with_reply_to(self._raw_header, parts, self.reply_name)

    def _return(self, message: Message) -> None:
        returned: Any = spec.Basic.Return(Code.NO_ROUTE.value, "NO_ROUTE", message.exchange, message.routing_key)
        self._outbox.send(encode_method(self.number, returned))
        for part in content(self.number, message.header, message.body, self._frame_max):
            self._outbox.send(part)


def _ttl(parts: dict[int, bytes]) -> int:
    text = properties.text(parts, properties.EXPIRATION) or ""
    if not (text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= _TTL_MAX):
        raise ChannelFault(Code.PRECONDITION_FAILED, f"invalid expiration '{text}'")
    return int(text)

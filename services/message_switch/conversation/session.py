# SPDX-License-Identifier: Apache-2.0
"""One connection's conversation: bytes in, bytes out, from the greeting to the goodbye.

    GREETING --start--> START --start-ok--> CHECKING --tune--> TUNE --tune-ok--> OPEN --open-ok--> RUNNING --close--> CLOSING
    CLOSING --close-ok--> CLOSED

Pure: the rim feeds it, takes what `outbox` holds, ticks it now and then, and closes the socket once it says CLOSED.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from message_switch.access.users import Guess, User
from message_switch.conversation.channel import Channel
from message_switch.conversation.login import Login
from message_switch.conversation.methods import METHODS
from message_switch.frames import (
    BODY,
    FRAME_MIN,
    GREETING,
    HALF_WAY,
    HEADER,
    HEARTBEAT,
    HEARTBEAT_FRAME,
    MESSAGE,
    METHOD,
    PROTOCOL_HEADER,
    PUBLISH,
    FrameReader,
    decode_method,
    encode_method,
    method_id,
    spec,
)
from message_switch.model.faults import AmqpFault, ChannelFault, Code, ConnectionFault
from message_switch.model.queue import Queue
from message_switch.switch import Outbox, Switch

log = logging.getLogger(__name__)

CLOSE_PATIENCE_S = 5.0
_FIRST_FRAMES_MAX = 8192
_REFUSED = "Login was refused using authentication mechanism PLAIN or EXTERNAL"


class State(Enum):
    """Where the conversation is: what is expected next."""

    GREETING = "greeting"
    START = "start-ok"
    CHECKING = "verdict on its login"
    TUNE = "tune-ok"
    OPEN = "open"
    RUNNING = "anything"
    CLOSING = "close-ok"
    CLOSED = "nothing"


class Session:
    """See the module. `peer`: whose the other end is known to be by itself, from its system user or its certificate.

    `write`: has the rim write what all sessions have to say, half-way through many frames: who got something is at it already.
    """

    def __init__(
        self,
        switch: Switch,
        wake: Callable[[], None],
        now: float,
        *,
        name: str,
        version: str,
        peer: User | None = None,
        write: Callable[[], None] = lambda: None,
    ) -> None:
        self.switch = switch
        self.name = name
        self.outbox = Outbox(wake)
        self._write = write
        self.state = State.GREETING
        self.channels: dict[int, Channel] = {}
        self.heartbeat_s = 0
        self.publishes = self.blocked = False
        self._version = version
        self._login = Login(switch.users, peer)
        self.user: User | None = None
        self._reader = FrameReader(_FIRST_FRAMES_MAX)
        self._limits = switch.limits
        self._channel_max = self._limits.channel_max
        self._half_closed: set[int] = set()
        self._lost_track = False
        self._client: dict[str, Any] = {}
        self._deadline: float | None = now + self._limits.handshake_s
        self._heard_at = self.spoke_at = now

    # -- what the rim calls ------------------------------------------------------------------------------------------

    def receive(self, untrusted: bytes, now: float) -> None:
        """Bytes from the peer, in any pieces."""
        self.switch.broker.now = self._heard_at = now
        if self._lost_track:
            return
        try:
            for frame in self._reader.feed(untrusted):
                if frame is HALF_WAY:
                    self._write()
                    continue
                if self.state is State.CLOSED:
                    return
                if self.state is State.CHECKING:
                    self._login.keep(frame)
                else:
                    self._frame(*frame)
            if self.switch.broker.short_of:
                self.crowded(now)
        except ConnectionFault as fault:
            # What follows a broken frame is not known to be a frame. It is still taken in, and not looked at: a socket
            # closed with something unread in it is reset, and our reason would be lost on the way.
            self._lost_track = True
            self._fail(fault, 0)

    def tick(self, now: float) -> None:
        """Keep the heartbeat going both ways, and lose patience."""
        if self._deadline is not None and now >= self._deadline:
            log.info("%s: no %s in time", self.name, self.state.value)
            self.state = State.CLOSED
        elif self.heartbeat_s and not self.may_wait and now - self._heard_at > 2 * self.heartbeat_s:
            log.warning("%s: missed heartbeats, %d s of silence: closing", self.name, now - self._heard_at)
            self.state = State.CLOSED
        elif self.heartbeat_s and now - self.spoke_at >= self.heartbeat_s / 2 and self.state is State.RUNNING:
            self.outbox.send(HEARTBEAT_FRAME)

    @property
    def may_wait(self) -> bool:
        """Whether nothing is lost by not listening to it for a while: it is to wait, and holds nothing that it could settle."""
        return (
            self.blocked
            and self.state is State.RUNNING
            and not any(c.consumers or c.unsettled for c in self.channels.values())
        )

    def crowded(self, now: float) -> None:
        """Tell a publisher that it is to wait, or that it may go on, whichever has become true."""
        short_of = self.switch.broker.short_of
        if self.blocked == bool(short_of and self.publishes) or self.state is not State.RUNNING:
            return
        self.blocked = not self.blocked
        self._heard_at = now  # while we do not listen, nothing is heard
        if self._client.get("connection.blocked"):
            reason = "low on " + " and ".join(short_of)
            self._send(0, spec.Connection.Blocked(reason) if self.blocked else spec.Connection.Unblocked())

    def resume(self, now: float) -> None:
        """The peer has read what it was sent: hand out what has waited for that."""
        self.switch.broker.now = now
        self.outbox.writable = True
        queues = {c.queue: None for channel in self.channels.values() for c in channel.consumers.values() if c.queue}
        for queue in queues:
            queue.pump()

    def lost(self, now: float) -> None:
        """The connection is gone: what it held goes back, what was exclusive to it goes away."""
        broker = self.switch.broker
        broker.now = now
        self.state = State.CLOSED
        self.outbox.close()
        channels = list(self.channels.values())
        self.channels.clear()
        for channel in channels:
            channel.stop()
        # First everything back, then out again: else one queue's messages would overtake each other.
        back: dict[Queue, None] = {}
        for channel in channels:
            back |= dict.fromkeys(channel.unsettled.give_back())
        for queue in [queue for queue in broker.queues.values() if queue.owner is self]:
            broker.delete_queue(queue)
        for queue in back:
            queue.pump()

    def dismiss(self, now: float) -> None:
        """We are going: say so."""
        if self.state is State.RUNNING:
            self._fail(ConnectionFault(Code.CONNECTION_FORCED, "the switch is stopping"), 0)
        else:
            self.state = State.CLOSED
        self._deadline = now + CLOSE_PATIENCE_S

    # -- frames ------------------------------------------------------------------------------------------------------

    def _frame(self, kind: int, number: int, payload: bytes, header: bytes = b"", body: bytes = b"") -> None:
        channel = self.channels.get(number)
        try:
            if channel is None:
                self._elsewhere(kind, number, payload)
            elif self.state is not State.RUNNING:
                return
            elif kind == MESSAGE:
                self.publishes = True
                channel.on_message(payload, header, body)
            elif kind == METHOD:
                if payload[:4] in (_CLOSE, _CLOSE_OK, _OPEN):
                    self._channel_life(number, decode_method(payload))
                else:
                    channel.on_method(payload)
            elif kind == HEADER:
                self.publishes = True
                channel.publishing.on_header(payload)
            elif kind == BODY:
                channel.publishing.on_body(payload)
            else:
                raise ConnectionFault(Code.FRAME_ERROR, "a heartbeat belongs to channel 0")
        except ChannelFault as fault:
            self._fail_channel(number, fault, _cause(kind, payload) or PUBLISH)  # without a method, its content
        except ConnectionFault as fault:
            self._fail(fault, _cause(kind, payload))

    def _elsewhere(self, kind: int, number: int, payload: bytes) -> None:
        """Frames of channel 0 and of channels that are not open."""
        if self.state is State.GREETING:
            self._greet(kind, payload)
        elif number == 0:
            if kind == METHOD:
                self._control(decode_method(payload))
            elif kind != HEARTBEAT:
                raise ConnectionFault(Code.UNEXPECTED_FRAME, "content on channel 0")
        elif self.state is State.CLOSING:
            return
        elif self.state is not State.RUNNING:
            raise ConnectionFault(Code.UNEXPECTED_FRAME, f"channel {number} before connection.open")
        elif number in self._half_closed:
            if kind == METHOD and payload[:4] in (_CLOSE, _CLOSE_OK):
                self._channel_life(number, decode_method(payload))
        elif kind == METHOD and payload[:4] == _OPEN:
            self._channel_life(number, decode_method(payload))
        else:
            raise ConnectionFault(Code.CHANNEL_ERROR, f"expected 'channel.open' on channel {number}")

    def _greet(self, kind: int, payload: bytes) -> None:
        if kind != PROTOCOL_HEADER or payload != GREETING:
            self.outbox.send(GREETING)  # what we speak, as the protocol wants it
            self.state = State.CLOSED
            return
        self._send(0, self._login.start(self._version))
        self.state = State.START

    def _control(self, method: Any) -> None:
        """A method of class connection."""
        kind = type(method)
        if kind is spec.Connection.Close:
            self._send(0, spec.Connection.CloseOk())
            self.state = State.CLOSED
        elif self.state is State.CLOSING:
            if kind is spec.Connection.CloseOk:
                self.state = State.CLOSED
        elif (turn := TURNS.get(self.state)) and kind is turn.expected:
            self.state = turn.then
            turn.take(self, method)
        else:
            raise ConnectionFault(Code.COMMAND_INVALID, f"{method.NAME} is not expected here")

    def _authenticate(self, method: Any) -> None:
        capabilities = (method.client_properties or {}).get("capabilities")
        self._client = capabilities if isinstance(capabilities, dict) else {}
        who = self._login.who(method)
        if isinstance(who, Guess):
            self.switch.check(self, who)
        else:
            self.checked(who, self._heard_at)

    @property
    def waits(self) -> bool:
        """See `Applicant`."""
        return self.state is State.CHECKING

    def checked(self, user: User | None, now: float) -> None:
        """See `Applicant`; what it has said meanwhile is heard now."""
        if self.state is not State.CHECKING:
            return
        self.switch.broker.now = self._heard_at = now
        if user is None:
            log.warning("%s: login refused", self.name)
            if self._client.get("authentication_failure_close"):
                self._fail(ConnectionFault(Code.ACCESS_REFUSED, _REFUSED), spec.Connection.StartOk.INDEX)
            else:
                self.state = State.CLOSED
            return
        self.user = user
        self.state = State.TUNE
        limits = self._limits
        self._send(0, spec.Connection.Tune(limits.channel_max, limits.frame_max, limits.heartbeat_s))
        for frame in self._login.kept():
            self._frame(*frame)

    def _tune(self, method: Any) -> None:
        limits = self._limits
        for name, asked, most, least in (
            ("frame_max", method.frame_max, limits.frame_max, FRAME_MIN),
            ("channel_max", method.channel_max, limits.channel_max, 1),
        ):
            if not least <= asked <= most:
                raise ConnectionFault(
                    Code.NOT_ALLOWED, f"negotiated {name} = {asked} is not between {least} and {most}"
                )
        self._channel_max = method.channel_max
        self._reader.frame_max = method.frame_max
        self.heartbeat_s = method.heartbeat

    def _open(self, method: Any) -> None:
        if method.virtual_host != "/":
            raise ConnectionFault(Code.NOT_ALLOWED, f"vhost {method.virtual_host} not found")
        self._send(0, spec.Connection.OpenOk())
        self._deadline = None

    # -- channels ----------------------------------------------------------------------------------------------------

    def _channel_life(self, number: int, method: Any) -> None:
        kind = type(method)
        if kind is spec.Channel.Open:
            if number in self.channels or number in self._half_closed:
                raise ConnectionFault(Code.CHANNEL_ERROR, f"second 'channel.open' seen on channel {number}")
            if number > self._channel_max:
                raise ConnectionFault(Code.NOT_ALLOWED, f"number of channels opened has reached {self._channel_max}")
            assert self.user is not None
            self.channels[number] = Channel(
                number,
                self.switch,
                self.outbox,
                self,
                self.user,
                methods=METHODS,
                frame_max=self._reader.frame_max,
                tells_cancel=bool(self._client.get("consumer_cancel_notify")),
            )
            self._send(number, spec.Channel.OpenOk())
        elif kind is spec.Channel.Close:
            self._half_closed.discard(number)
            self._end_channel(number)
            self._send(number, spec.Channel.CloseOk())
        elif number in self._half_closed:
            self._half_closed.remove(number)
        else:
            raise ConnectionFault(Code.COMMAND_INVALID, "channel.close-ok without channel.close")

    def _end_channel(self, number: int) -> None:
        channel = self.channels.pop(number, None)
        if channel is None:
            return
        channel.stop()
        for queue in channel.unsettled.give_back():
            queue.pump()

    def _fail_channel(self, number: int, fault: AmqpFault, cause: int) -> None:
        log.info("%s: channel %d: %s", self.name, number, fault.text)
        self._end_channel(number)
        self._half_closed.add(number)
        self._send(number, spec.Channel.Close(fault.code.value, _fit(fault.text), cause >> 16, cause & 0xFFFF))

    def _fail(self, fault: AmqpFault, cause: int) -> None:
        if self.state in (State.CLOSING, State.CLOSED):
            return
        log.info("%s: %s", self.name, fault.text)
        self._send(0, spec.Connection.Close(fault.code.value, _fit(fault.text), cause >> 16, cause & 0xFFFF))
        self.state = State.CLOSING
        self._deadline = self._heard_at + CLOSE_PATIENCE_S

    def _send(self, number: int, method: Any) -> None:
        self.outbox.send(encode_method(number, method))


@dataclass(frozen=True)
class Turn:
    """The one method that a peer may send next, beside connection.close; what takes it, and where that leads."""

    expected: type
    take: Callable[[Session, Any], None]
    then: State


TURNS = {
    State.START: Turn(spec.Connection.StartOk, Session._authenticate, State.CHECKING),
    State.TUNE: Turn(spec.Connection.TuneOk, Session._tune, State.OPEN),
    State.OPEN: Turn(spec.Connection.Open, Session._open, State.RUNNING),
}

_OPEN, _CLOSE, _CLOSE_OK = (
    m.INDEX.to_bytes(4, "big") for m in (spec.Channel.Open, spec.Channel.Close, spec.Channel.CloseOk)
)


def _cause(kind: int, payload: bytes) -> int:
    """Class and method of what went wrong, for the close method."""
    return method_id(payload) if kind in (METHOD, MESSAGE) and len(payload) >= 4 else 0


def _fit(text: str) -> str:
    """Within the 255 bytes of a short string."""
    return text.encode()[:255].decode(errors="ignore")

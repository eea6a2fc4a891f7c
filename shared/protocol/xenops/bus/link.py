# SPDX-License-Identifier: Apache-2.0
"""One AMQP connection on the running event loop, and its channels as things that can be awaited.

pika speaks the protocol; the bytes go through asyncio's own transport, and all that one turn of the loop has to say is
written at once. Nothing here knows what a request is, and nothing connects a second time: a lost link stays lost.
"""

import asyncio
import logging
import struct
from collections.abc import Callable, Sequence
from typing import Any, cast

import pika
import pika.connection
from pika import frame, spec
from pika.channel import Channel
from pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelClosedByClient,
    ConnectionClosed,
    ProbableAuthenticationError,
    StreamLostError,
)

from xenops.bus.place import Place
from xenops.bus.untrusted import salvaged_properties
from xenops.sockets import Intake

log = logging.getLogger(__name__)
_FRAME = struct.Struct(">BHI")
_CONTENT = (spec.FRAME_HEADER, spec.FRAME_BODY)
_DELIVER = spec.Basic.Deliver.INDEX
_ACCESS_REFUSED = 403
_OVERHEAD = 8  # the bytes of a frame that are not its payload


class Link(pika.connection.Connection, Intake):  # type: ignore[misc]
    """A connection; await `opened`, then use it until `closed` is done."""

    def __init__(self, parameters: pika.connection.Parameters) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._stream: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._last_words: list[Callable[[], None]] = []
        self._flushing = False
        self._frame_buffer: bytes = b""
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[BaseException] = loop.create_future()
        super().__init__(
            parameters,
            on_open_callback=lambda _: _settle(self.opened),
            on_open_error_callback=lambda _, error: self._ended(cast(BaseException, error)),
            on_close_callback=lambda _, error: self._ended(error),
            internal_connection_workflow=False,
        )
        self.short = ""  # why the other side reads nothing of who publishes: what it is low on
        self.on_relief: Callable[[], None] = lambda: None  # it reads again
        self.add_on_connection_blocked_callback(lambda _, told: self._blocked(str(told.method.reason)[:200] or "?"))
        self.add_on_connection_unblocked_callback(lambda *_: self._blocked(""))

    @property
    def buffered(self) -> int:
        """How many bytes wait for the other side to read."""
        return self._stream.get_write_buffer_size() if self._stream is not None else 0

    def abort(self) -> None:
        """Drop the connection without a goodbye."""
        if self._stream is not None:
            self._stream.abort()

    def _blocked(self, short: str) -> None:
        log.warning("the switch %s", f"takes no requests: {short}" if short else "takes requests again")
        self.short = short
        if not short:
            self.on_relief()

    def _ended(self, error: BaseException) -> None:
        if not self.opened.done():
            self.opened.set_exception(error)
        if not self.closed.done():
            self.closed.set_result(error)

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._stream = cast(asyncio.Transport, transport)
        self._on_stream_connected()

    def data_received(self, data: bytes) -> None:
        self.bytes_received += len(data)
        try:
            self._on_data_available(data)
        except (AMQPError, struct.error, KeyError, ValueError) as error:
            log.warning("the switch sent what is not AMQP: %r", error)
            self._error = StreamLostError(f"malformed frame: {error!r}")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream = None
        error = self._error if self._error is not None else StreamLostError(f"connection lost: {exc!r}")
        self._on_stream_terminated(error)
        self._ended(error)

    # pika's side

    def _on_data_available(self, data_in: bytes) -> None:
        data = self._frame_buffer + data_in if self._frame_buffer else data_in
        begin, end = 0, len(data)
        while end - begin >= _OVERHEAD:
            kind, _, size = _FRAME.unpack_from(data, begin)
            stop = begin + size + _OVERHEAD
            if stop > end:
                break
            self._take(_decode(kind, data[begin:stop]))
            begin = stop
        self._frame_buffer = data[begin:]

    def _take(self, value: Any) -> None:
        """Messages go straight to their channel; everything else may be an answer that somebody waits for."""
        if value.frame_type in _CONTENT or (value.frame_type == spec.FRAME_METHOD and value.method.INDEX == _DELIVER):
            self.frames_received += 1
            self._deliver_frame_to_channel(value)
        else:
            self._process_frame(value)

    def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes]) -> None:
        self._out += marshaled_frames
        self.frames_sent += len(marshaled_frames)
        self._flush_soon()

    def before_flush(self, last_words: Callable[[], None]) -> None:
        """Call this just before what this turn of the loop has to say is written: what it sends goes along."""
        self._last_words.append(last_words)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def flush(self) -> None:
        """Write what there is at once: for who has nothing else to say in this turn."""
        if self._flushing:
            self._flush()

    def _flush(self) -> None:
        for last_words in self._last_words:
            last_words()
        self._last_words.clear()
        self._flushing = False
        data = b"".join(self._out)
        self._out.clear()
        self.bytes_sent += len(data)
        if data and self._stream is not None:
            self._stream.write(data)

    def _adapter_emit_data(self, data: bytes) -> None:
        self._output_marshaled_frames([data])

    def _adapter_connect_stream(self) -> None:
        raise NotImplementedError("a link is connected by `open_link`")

    def _adapter_disconnect_stream(self) -> None:
        if self._stream is not None:
            self._flush()
            self._stream.close()

    def _adapter_call_later(self, delay: float, callback: Callable[[], None]) -> object:
        return self._loop.call_later(delay, callback)

    def _adapter_remove_timeout(self, timeout_id: object) -> None:
        cast(asyncio.TimerHandle, timeout_id).cancel()

    def _adapter_add_callback_threadsafe(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(callback)


def _decode(kind: int, data: bytes) -> Any:
    """One whole frame. Its properties are another client's: those that pika cannot read must not end our connection."""
    try:
        return frame.decode_frame(data)[1]
    except (AMQPError, struct.error, ValueError, OverflowError, OSError, IndexError, RecursionError, KeyError):
        if kind != spec.FRAME_HEADER:
            raise
    _, channel, _ = _FRAME.unpack_from(data)
    _, _, body_size = struct.unpack_from(">HHQ", data, _FRAME.size)
    return frame.Header(channel, body_size, salvaged_properties(data[_FRAME.size + 12 : -1]))


def parameters(node: Place, name: str) -> pika.URLParameters:
    """How pika is told where to connect, and as who."""
    found = pika.URLParameters(node.bare)
    context = node.tls()
    if context is not None:
        found.ssl_options = pika.SSLOptions(context, node.host.strip("[]"))
    if name:
        found.client_properties = {"connection_name": name}
    return found


async def open_link(parameters: pika.connection.Parameters, timeout_s: float) -> Link:
    """Connect and log in; raises OSError, AMQPError or TimeoutError."""
    link = Link(parameters)
    try:
        async with asyncio.timeout(timeout_s):
            tls = parameters.ssl_options
            await asyncio.get_running_loop().create_connection(
                lambda: link,
                parameters.host,
                parameters.port,
                ssl=tls.context if tls is not None else None,
                server_hostname=(tls.server_hostname or parameters.host) if tls is not None else None,
            )
            await link.opened
    except BaseException:
        link.abort()
        _forget(link.opened)
        raise
    return link


async def close_link(link: Link, timeout_s: float) -> None:
    """Say goodbye and wait for the other side to have heard it, for a while."""
    if not link.is_open:
        link.abort()
        return
    link.close()
    await asyncio.wait([link.closed], timeout=timeout_s)
    link.abort()


class Lane:
    """One channel of a link. A mistake on a channel closes the channel: so each thing that may fail has its own."""

    def __init__(self, link: Link, on_closed: Callable[[BaseException], None]) -> None:
        self.link = link
        self._on_closed = on_closed
        self._waiting: set[asyncio.Future[Any]] = set()
        self.confirmed: Callable[[Any], None] = _unheard  # told of each Ack and Nack, after `confirm`
        self.channel: Channel
        self.failure: BaseException | None = None

    async def open(self) -> "Lane":
        """Open the channel."""

        def begin(done: Callable[[Any], None]) -> None:
            self.channel = self.link.channel(on_open_callback=done)
            self.channel.add_on_close_callback(self._closed)

        await self.ask(begin)
        return self

    async def confirm(self) -> None:
        """Have each message confirmed or refused from now on: `confirmed` is told."""
        await self.ask(lambda done: self.channel.confirm_delivery(lambda frame: self.confirmed(frame.method), done))

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self.failure is None and self.channel.is_open and self.link.is_open

    async def ask(self, method: Callable[[Callable[[Any], None]], Any]) -> Any:
        """Call `method(done)` and wait for pika to call `done`; raises what closed the channel if it does not."""
        if self.failure is not None:
            raise self.failure
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            method(lambda answer: _settle(future, answer))
            return await future
        finally:
            self._waiting.discard(future)

    def close(self) -> None:
        """Close the channel; what it held unacknowledged goes back to its queue. `on_closed` is for who did not ask."""
        self.confirmed = _unheard
        if self.is_open:
            self.channel.close()

    def _closed(self, _: Channel, error: BaseException) -> None:
        self.failure = error
        for future in self._waiting:
            if not future.done():
                future.set_exception(error)
        if not isinstance(error, ChannelClosedByClient):
            self._on_closed(error)


def _unheard(_: Any) -> None:
    """Nobody waits for it."""


def _settle(future: "asyncio.Future[Any]", value: Any = None) -> None:
    if not future.done():
        future.set_result(value)


def _forget(future: "asyncio.Future[None]") -> None:
    if future.done() and not future.cancelled():
        future.exception()
    else:
        future.cancel()


def explained(why: object) -> str:
    """Why there is no connection, as a person would say it."""
    if isinstance(why, AuthenticationError | ProbableAuthenticationError) or _code(why) == _ACCESS_REFUSED:
        return "it refuses the user or the password"
    if why is None or isinstance(why, TimeoutError):
        return "it does not answer"
    return "nobody listens there" if isinstance(why, ConnectionRefusedError) else (str(why) or type(why).__name__)[:200]


def _code(why: object) -> int:
    return why.reply_code if isinstance(why, ConnectionClosed) else 0

# SPDX-License-Identifier: Apache-2.0
"""The protocol's own errors, as exceptions: those that end a channel and those that end the connection."""

from enum import IntEnum


class Code(IntEnum):
    """AMQP 0-9-1 reply codes."""

    CONTENT_TOO_LARGE = 311
    NO_ROUTE = 312
    CONNECTION_FORCED = 320
    ACCESS_REFUSED = 403
    NOT_FOUND = 404
    RESOURCE_LOCKED = 405
    PRECONDITION_FAILED = 406
    FRAME_ERROR = 501
    SYNTAX_ERROR = 502
    COMMAND_INVALID = 503
    CHANNEL_ERROR = 504
    UNEXPECTED_FRAME = 505
    RESOURCE_ERROR = 506
    NOT_ALLOWED = 530
    NOT_IMPLEMENTED = 540
    INTERNAL_ERROR = 541


class AmqpFault(Exception):
    """The peer asked for something that it cannot have."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = f"{code.name} - {text}"


class ChannelFault(AmqpFault):
    """Closes the channel it happens on; the connection goes on."""


class ConnectionFault(AmqpFault):
    """Closes the connection."""

# SPDX-License-Identifier: Apache-2.0
"""The optional arguments of queue.declare and exchange.declare."""

import msgspec

from message_switch.model.faults import ChannelFault, Code


class QueueArguments(msgspec.Struct, frozen=True, kw_only=True, rename=lambda name: "x-" + name.replace("_", "-")):
    """The optional arguments of queue.declare that this switch keeps to; times are in milliseconds."""

    message_ttl: int | None = None
    expires: int | None = None
    max_length: int | None = None
    max_length_bytes: int | None = None
    overflow: str = "drop-head"
    dead_letter_exchange: str | None = None
    dead_letter_routing_key: str | None = None
    queue_type: str = "classic"
    max_priority: int | None = None


_FIELDS = msgspec.structs.fields(QueueArguments)


def named(arguments: QueueArguments) -> dict[str, object]:
    """By the names they have on the wire."""
    return {field.encode_name: getattr(arguments, field.name) for field in _FIELDS}


def parse_alternate(untrusted: dict[str, object]) -> str | None:
    """The one argument of exchange.declare: the exchange for what nobody is bound for."""
    for name in untrusted:
        if name != "alternate-exchange":
            raise ChannelFault(Code.PRECONDITION_FAILED, f"invalid arg: {name}: not supported by this switch")
    alternate = untrusted.get("alternate-exchange")
    if alternate is not None and (not isinstance(alternate, str) or len(alternate.encode()) > 255):
        raise ChannelFault(Code.PRECONDITION_FAILED, "invalid arg: alternate-exchange: not the name of an exchange")
    return alternate


def parse_arguments(untrusted: dict[str, object]) -> QueueArguments:
    """The arguments of queue.declare; one that we would not keep to is refused rather than ignored."""
    try:
        known = {field.encode_name for field in _FIELDS}
        for name in untrusted:
            if name not in known:
                raise msgspec.ValidationError(f"{name}: not supported by this switch")
        arguments = msgspec.convert(untrusted, QueueArguments)
        for name in ("message_ttl", "expires", "max_length", "max_length_bytes"):
            value = getattr(arguments, name)
            if value is not None and (value < 0 or (name == "expires" and value == 0)):
                raise msgspec.ValidationError(f"x-{name.replace('_', '-')}: {value} is out of range")
        if not 0 <= (arguments.max_priority or 0) <= 255:
            raise msgspec.ValidationError(f"x-max-priority: {arguments.max_priority} is not between 0 and 255")
        if arguments.overflow not in ("drop-head", "reject-publish"):
            raise msgspec.ValidationError(f"x-overflow: {arguments.overflow} is not drop-head or reject-publish")
        for name in ("dead_letter_exchange", "dead_letter_routing_key"):
            if len((getattr(arguments, name) or "").encode()) > 255:
                raise msgspec.ValidationError(f"x-{name.replace('_', '-')}: longer than 255 bytes")
        if arguments.queue_type != "classic":
            raise msgspec.ValidationError(f"x-queue-type: {arguments.queue_type}: only classic queues here")
    except msgspec.ValidationError as error:
        raise ChannelFault(Code.PRECONDITION_FAILED, f"invalid arg: {error}") from None
    if arguments.dead_letter_routing_key is not None and arguments.dead_letter_exchange is None:
        raise ChannelFault(Code.PRECONDITION_FAILED, "x-dead-letter-routing-key without x-dead-letter-exchange")
    return arguments

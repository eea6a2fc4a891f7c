# SPDX-License-Identifier: Apache-2.0
"""What holds for the names of queues and exchanges alike: which are not to be had, and when two declarations are one."""

from collections.abc import Mapping

from message_switch.model.faults import ChannelFault, Code

RESERVED = "amq."


def not_default(name: str) -> None:
    """The default exchange is as it is: nobody binds to it, declares it or deletes it."""
    if name == "":
        raise ChannelFault(Code.ACCESS_REFUSED, "operation not permitted on the default exchange")


def not_reserved(what: str, name: str) -> None:
    """Nobody but the switch itself declares or deletes these."""
    if name.startswith(RESERVED):
        raise ChannelFault(Code.ACCESS_REFUSED, f"{what} name '{name}' contains reserved prefix 'amq.*'")


def equivalent(what: str, name: str, wanted: Mapping[str, object], current: Mapping[str, object]) -> None:
    """Who declares again what is there must mean the same."""
    for key, value in wanted.items():
        if value != current[key]:
            raise ChannelFault(
                Code.PRECONDITION_FAILED,
                f"inequivalent arg '{key}' for {what} '{name}' in vhost '/': "
                f"received '{value}' but current is '{current[key]}'",
            )

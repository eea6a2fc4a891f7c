# SPDX-License-Identifier: Apache-2.0
"""A connection's login: who it says it is, and what it says too early, before it is known whether it may come in. Pure."""

from typing import Any

from message_switch.access.users import Guess, User, Users
from message_switch.frames import Frame, spec
from message_switch.model.faults import Code, ConnectionFault

_EARLY_MAX = 1 << 16
_CAPABILITIES = {
    "publisher_confirms": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "authentication_failure_close": True,
    "per_consumer_qos": True,
    "connection.blocked": True,
    "direct_reply_to": True,
}


class Login:
    """See the module. `peer`: whose the other end is known to be by itself, from its system user or its certificate."""

    def __init__(self, users: Users, peer: User | None) -> None:
        self._users = users
        self._peer = peer
        self._early: list[Frame] = []
        self._early_bytes = 0

    def start(self, version: str) -> Any:
        """connection.start: who we are, what we can, and how one may log in."""
        properties = {
            "product": "xenops message switch",
            "version": version,
            "platform": "Python",
            "capabilities": _CAPABILITIES,
        }
        mechanisms = "PLAIN EXTERNAL" if self._peer else "PLAIN"
        return spec.Connection.Start(server_properties=properties, mechanisms=mechanisms)

    def who(self, method: Any) -> User | Guess | None:
        """Whom connection.start-ok lets in; a guess has still to be checked."""
        if method.mechanism == "EXTERNAL":
            return self._peer
        response = method.response if isinstance(method.response, bytes) else str(method.response).encode()
        pieces = response.split(b"\0")
        if method.mechanism != "PLAIN" or len(pieces) != 3:
            return None
        return self._users.by_password(pieces[1], pieces[2])

    def keep(self, frame: Frame) -> None:
        """For when it is let in: a client may go on talking without waiting for our answer, but not for long."""
        self._early.append(frame)
        self._early_bytes += sum(map(len, frame[2:]))
        if self._early_bytes > _EARLY_MAX or len(self._early) > _EARLY_MAX >> 8:
            raise ConnectionFault(Code.RESOURCE_ERROR, "so much is not to be said before connection.tune")

    def kept(self) -> list[Frame]:
        """What it said too early, to be heard now."""
        early, self._early = self._early, []
        return early

# SPDX-License-Identifier: Apache-2.0
"""Where a switch is, read from its URL; never shown with the password."""

from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from xenops.errors import BadRequest

_PORTS = {"amqp": 5672, "amqps": 5671}
_LIKE = "write amqp://user:password@host:port/%2F"


class Place(NamedTuple):
    """The parts of a URL; `host` has the brackets of an IPv6 address."""

    scheme: str
    host: str
    port: int
    user: str
    password: str
    virtual_host: str

    @property
    def address(self) -> str:
        """For logs and faults."""
        return f"{self.scheme}://{self.host}:{self.port}"


def place(url: str) -> Place:
    """Raises `BadRequest` for what is no URL of a switch."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadRequest("url", f"{error}; {_LIKE}") from None
    if parts.scheme not in _PORTS:
        raise BadRequest("url", f"begins with {parts.scheme!r:.20}; {_LIKE}")
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname or "localhost"
    return Place(
        parts.scheme,
        host,
        port or _PORTS[parts.scheme],
        unquote(parts.username or "guest"),
        unquote(parts.password or "guest"),
        unquote(parts.path[1:]) or "/",
    )

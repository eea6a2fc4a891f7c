# SPDX-License-Identifier: Apache-2.0
"""Where a switch is, read from its URL; never shown with the password.

    amqp://user:password@host:port/%2F
    amqps://user:password@host:port/%2F?cacertfile=/path&certfile=/path&keyfile=/path

The parameters are those of RabbitMQ's own URIs (rabbitmq.com/docs/uri-query-parameters). The nodes of a cluster are
written one after the other, in lines or with `;` between them: who loses one goes on to the next.
"""

import ssl
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from xenops.errors import BadRequest

_PORTS = {"amqp": 5672, "amqps": 5671}
_LIKE = "write amqp://user:password@host:port/%2F"
_FILES = ("cacertfile", "certfile", "keyfile")


class Place(NamedTuple):
    """The parts of a URL; `host` has the brackets of an IPv6 address."""

    scheme: str
    host: str
    port: int
    user: str
    password: str
    virtual_host: str
    cacertfile: str = ""  # those of whom to believe; empty: whom this machine believes
    certfile: str = ""
    keyfile: str = ""
    bare: str = ""  # the URL without the files of TLS

    @property
    def address(self) -> str:
        """For logs and faults."""
        return f"{self.scheme}://{self.host}:{self.port}"

    def tls(self) -> ssl.SSLContext | None:
        """How to speak privately, and with whom; None for plain AMQP. Raises `BadRequest` for files of no use."""
        if self.scheme != "amqps":
            return None
        try:
            context = ssl.create_default_context(cafile=self.cacertfile or None)
            if self.certfile:
                context.load_cert_chain(self.certfile, self.keyfile or None)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(filter(None, (self.cacertfile, self.certfile, self.keyfile)))
            raise BadRequest("url", f"{files}: {error.strerror or error}") from None
        return context


def places(untrusted_urls: str) -> list[Place]:
    """The nodes of a switch, in the order in which they are tried. Raises `BadRequest`."""
    found = [place(url) for url in untrusted_urls.replace(";", " ").split()]
    if not found:
        raise BadRequest("url", f"is empty; {_LIKE}")
    return found


def place(untrusted_url: str) -> Place:
    """Raises `BadRequest` for what is no URL of a switch."""
    try:
        parts = urlsplit(untrusted_url)
        port = parts.port
    except ValueError:  # not shown: a password with a stroke in it looks like a port
        raise BadRequest("url", f"its host or its port cannot be read; {_LIKE}") from None
    if parts.scheme not in _PORTS:
        raise BadRequest("url", f"begins with {parts.scheme!r:.20}; {_LIKE}")
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname or "localhost"
    query = parse_qsl(parts.query)
    files = {key: value for key, value in query if key in _FILES}
    if files and parts.scheme != "amqps":
        raise BadRequest("url", f"{next(iter(files))} is for amqps:// alone")
    if "keyfile" in files and "certfile" not in files:
        raise BadRequest("url", "keyfile belongs to a certfile, and there is none")
    rest = urlencode([(key, value) for key, value in query if key not in _FILES])
    return Place(
        parts.scheme,
        host,
        port or _PORTS[parts.scheme],
        unquote(parts.username or "guest"),
        unquote(parts.password or "guest"),
        unquote(parts.path[1:]) or "/",
        **files,
        bare=urlunsplit(parts._replace(query=rest)),
    )


def address_of(nodes: list[Place]) -> str:
    """All of them, for logs and faults."""
    return " or ".join(node.address for node in nodes)

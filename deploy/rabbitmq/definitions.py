# SPDX-License-Identifier: Apache-2.0
"""Makes RabbitMQ's users for a broker that several hosts share: one for each host's services, one for
clients, and one for brokers of other sites that are to have the events (see `federation.py`).

    python3 deploy/rabbitmq/definitions.py DIRECTORY --broker rabbit.example:5672 host1 host2

writes DIRECTORY/definitions.json (for `load_definitions`; it has hashes of passwords, no passwords) and for each user
DIRECTORY/<user>.url, mode 0600, for `amqp-url-file`. Name every node of a cluster with a --broker of its own; with
--cacertfile the nodes speak TLS and must be certified by that authority. Passwords are made here, and are never an argument or a log line.
A user whose .url file exists keeps its password.
"""

import argparse
import base64
import hashlib
import json
import re
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

CLIENTS, EVENTS = "clients", "events"
_EVENTS = "xenops.events"
_HOST = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_PRIVATE = r"amq\.gen-.*"  # queues that the broker names; they are exclusive, so one user cannot read another's


def permissions(host: str) -> dict[str, str]:
    """What the services of a host may touch: their own queues, the dead-letter queue and the exchange of events."""
    name = re.escape(host)
    queues = rf"xenops\.{name}\.[A-Za-z0-9_-]+|forkexec\.{name}|console\.{name}"
    return {
        "configure": rf"^({queues}|xenops\.dead|xenops\.events|{_PRIVATE})$",
        "write": rf"^({queues}|amq\.default|xenops\.events|{_PRIVATE})$",
        "read": rf"^({queues}|xenops\.events|{_PRIVATE})$",
    }


def client_permissions() -> dict[str, str]:
    """Clients send requests and listen to events; they consume nobody's requests."""
    return {
        "configure": rf"^(xenops\.dead|xenops\.events|{_PRIVATE})$",
        "write": rf"^(amq\.default|{_PRIVATE})$",
        "read": rf"^(xenops\.events|{_PRIVATE})$",
    }


def events_permissions() -> dict[str, str]:
    """Another broker keeps a queue and an exchange of its own here, named after the federated exchange."""
    own = r"federation: xenops\.events -> .*"
    return {"configure": f"^{own}$", "write": f"^{own}$", "read": rf"^(xenops\.events|{own})$"}


def definitions(hosts: list[str], passwords: dict[str, str]) -> dict[str, Any]:
    """The whole file. Topics keep a host from speaking in another's name."""
    own = {user_of(host): rf"^{re.escape(host)}\." for host in hosts}
    rights = {user_of(host): permissions(host) for host in hosts}
    rights |= {CLIENTS: client_permissions(), EVENTS: events_permissions()}
    return {
        "vhosts": [{"name": "/"}],
        "users": [
            {
                "name": user,
                "password_hash": hashed(passwords[user]),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": [],
            }
            for user in rights
        ],
        "permissions": [{"user": user, "vhost": "/", **what} for user, what in rights.items()],
        "topic_permissions": [
            {"user": user, "vhost": "/", "exchange": _EVENTS, "write": own.get(user, "^$"), "read": own.get(user, ".*")}
            for user in rights
        ],
        "exchanges": [
            {
                "name": _EVENTS,
                "vhost": "/",
                "type": "topic",
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
        ],
    }


def user_of(host: str) -> str:
    """The user of a host's services."""
    return f"host-{host}"


def hashed(password: str) -> str:
    """As RabbitMQ keeps it: four bytes of salt, then SHA-256 of salt and password."""
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def write(directory: Path, brokers: list[str], hosts: list[str], cacertfile: str = "") -> None:
    """Put the files in place. Each user tries the nodes in an order of its own, so that they share the work."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    passwords = {}
    for n, user in enumerate([*map(user_of, hosts), CLIENTS, EVENTS]):
        first = n % len(brokers)
        nodes = brokers[first:] + brokers[:first]
        passwords[user] = _password(directory / f"{user}.url", user, nodes, cacertfile)
    text = json.dumps(definitions(hosts, passwords), indent=2)
    (directory / "definitions.json").write_text(text + "\n")


def _password(url_file: Path, user: str, nodes: list[str], cacertfile: str) -> str:
    kept = urlsplit(url_file.read_text().split()[0]).password if url_file.exists() else None
    password = kept or secrets.token_urlsafe(24)
    url_file.touch(mode=0o600)
    url_file.chmod(0o600)
    scheme, tls = ("amqps", f"?cacertfile={quote(cacertfile)}") if cacertfile else ("amqp", "")
    url_file.write_text("".join(f"{scheme}://{user}:{password}@{node}/%2F{tls}\n" for node in nodes))
    return password


def _host(text: str) -> str:
    if _HOST.match(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is no host name of letters, digits, dots, _ and -")
    return text


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path, help="where the files go; keep it private")
    parser.add_argument(
        "--broker", action="append", metavar="HOST:PORT", help="where clients find the broker; one for each node of it"
    )
    parser.add_argument("--cacertfile", default="", metavar="PATH", help="who certifies the nodes: speak TLS with them")
    parser.add_argument("hosts", nargs="+", type=_host, metavar="HOST", help="each host's name on the bus (key `host`)")
    given = parser.parse_args()
    write(given.directory, given.broker or ["127.0.0.1:5672"], given.hosts, given.cacertfile)


if __name__ == "__main__":
    main()

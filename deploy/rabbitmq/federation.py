# SPDX-License-Identifier: Apache-2.0
"""Makes what a broker needs to know to have the events of other sites: where they are, and which exchange is federated.

    python3 deploy/rabbitmq/federation.py federation.json north=north/events.url south=south/events.url

Each file of URLs is the one that `definitions.py` wrote at that site for the user `events`. The broker that is to have the events
needs the plugin `rabbitmq_federation`, and then takes the file as it runs:

    rabbitmqctl import_definitions federation.json

It has the sites' passwords in it, and so is mode 0600.
"""

import argparse
import json
from pathlib import Path
from typing import Any

BACKLOG_MS = 3_600_000  # a site keeps the events of so long for a broker that is cut off, and then forgets it


def upstream(urls: list[str]) -> dict[str, Any]:
    """A site, by its nodes. What it says is confirmed before it forgets it."""
    return {
        "uri": [f"{url}&verify=verify_peer" if url.startswith("amqps:") else url for url in urls],
        "ack-mode": "on-confirm",
        "reconnect-delay": 5,
        "expires": BACKLOG_MS,
        "message-ttl": BACKLOG_MS,
    }


def federation(sites: dict[str, list[str]]) -> dict[str, Any]:
    """The whole file: all sites, for the exchange of events alone."""
    return {
        "parameters": [
            {"vhost": "/", "component": "federation-upstream", "name": site, "value": upstream(urls)}
            for site, urls in sites.items()
        ],
        "policies": [
            {
                "vhost": "/",
                "name": "xenops-events",
                "pattern": r"^xenops\.events$",
                "apply-to": "exchanges",
                "priority": 0,
                "definition": {"federation-upstream-set": "all"},
            }
        ],
    }


def write(file: Path, sites: dict[str, Path]) -> None:
    """Put the file in place."""
    file.touch(mode=0o600)
    file.chmod(0o600)
    known = {site: path.read_text().split() for site, path in sites.items()}
    file.write_text(json.dumps(federation(known), indent=2) + "\n")


def _site(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not SITE=PATH")
    return name, Path(path)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="what is written")
    parser.add_argument("sites", nargs="+", type=_site, metavar="SITE=PATH", help="a site, and its file events.url")
    given = parser.parse_args()
    write(given.file, dict(given.sites))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Where the stack is: one small file that it writes when it starts, and that every client reads.

`make run` writes it into `var`, an installed xenopsd where its setting `where-file` says.

Nobody guesses a name: the switch's URL and the names of the queues stand there. The file holds the password of the
switch, and is readable by its owner alone.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from xenops.bus.port import EVENTS_EXCHANGE

FILE = "where.json"
RUN_DIRECTORY = Path("/run/xenopsd")


class Where(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A running stack; fields that we do not know are another version's, and ignored."""

    amqp: str  # the URL of the switch, for any AMQP client
    queue: str  # the request queue of xenopsd
    host: str = ""
    instance: str = ""
    forkexec: str = ""  # the request queue of forkexecd
    console: str = ""  # the request queue of vncproxy
    events: str = EVENTS_EXCHANGE
    metrics: dict[str, str] = {}  # the URL of each service's metrics
    state_dir: str = ""
    pid: int = 0


class StackNotFound(LookupError):
    """There is no (readable) file that says where the stack is."""


def write(path: Path, where: Where) -> None:
    """Put the file in place, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(msgspec.json.format(msgspec.json.encode(where), indent=2) + b"\n")
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def places(environ: Mapping[str, str], prefix: Path) -> list[Path]:
    """Where the file may be, the first that exists counts; `prefix` is that of the running Python."""
    named = environ.get("XENOPS_WHERE")
    if named:
        return [Path(named)]
    return [prefix.parent / "var" / FILE, RUN_DIRECTORY / FILE]


def find(environ: Mapping[str, str], prefix: Path | None = None) -> Where:
    """The running stack; XENOPS_URL and XENOPS_QUEUE override what the file says, and together do without it."""
    url, queue = environ.get("XENOPS_URL"), environ.get("XENOPS_QUEUE")
    if url and queue and not environ.get("XENOPS_WHERE"):
        return Where(amqp=url, queue=queue)
    found = _read(places(environ, prefix if prefix is not None else Path(sys.prefix)))
    return msgspec.structs.replace(found, amqp=url or found.amqp, queue=queue or found.queue)


def _read(searched: list[Path]) -> Where:
    for path in searched:
        try:
            return msgspec.json.decode(path.read_bytes(), type=Where)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StackNotFound(
                f"{path} cannot be read: {error.strerror}; be its owner or root, or set XENOPS_URL and XENOPS_QUEUE"
            ) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StackNotFound(f"{path} does not say where the stack is: {error}; restart the stack") from None
    tried = ", ".join(map(str, searched))
    raise StackNotFound(
        f"no running stack was found (looked for {tried}): start one with `make run`, or xenopsd with a where-file;"
        " name its file in XENOPS_WHERE, or set XENOPS_URL and XENOPS_QUEUE"
    )

# SPDX-License-Identifier: Apache-2.0
"""How a simulated guest acts: it boots, it acknowledges, it stops, it answers at its console.

Each function changes the domain and gives back what went to the console. It never decides what the host does about it.
"""

from collections.abc import Sequence

from xenops.types.vm import DomainType
from xenopsd.backends.port import ShutdownReason
from xenopsd.backends.simulator.world.domain import CODE_OF_REASON, Behaviour, Domain, ShutdownCode

_LINE_BYTES = 256
_FAREWELLS = {
    ShutdownCode.POWEROFF: "reboot: Power down\n",
    ShutdownCode.REBOOT: "reboot: Restarting system\n",
    ShutdownCode.SUSPEND: "PM: suspend entry\n",
    ShutdownCode.CRASH: "Kernel panic - not syncing: crashed as it was told to\n",
    ShutdownCode.SOFT_RESET: "kexec_core: Starting new kernel\n",
}
_ORDERS = {
    "poweroff": ShutdownCode.POWEROFF,
    "halt": ShutdownCode.POWEROFF,
    "reboot": ShutdownCode.REBOOT,
    "crash": ShutdownCode.CRASH,
    "kexec": ShutdownCode.SOFT_RESET,
}
BEHAVIOURS = (
    "cooperates, acknowledges MS, ignores, lingers (acknowledges, never stops), clings (keeps devices), agentless"
)


def parse_behaviour(words: Sequence[str]) -> Behaviour:
    """A guest's behaviour in words; a `ValueError` says what is wrong."""
    match list(words):
        case ["cooperates"]:
            return Behaviour()
        case ["acknowledges", milliseconds] if milliseconds.isdecimal():
            return Behaviour(acknowledges_ms=float(milliseconds))
        case ["ignores"]:
            return Behaviour(acknowledges_ms=None)
        case ["lingers"]:
            return Behaviour(stops=False)
        case ["clings"]:
            return Behaviour(releases=False)
        case ["agentless"]:
            return Behaviour(agent=False)
    raise ValueError(f"{' '.join(words)!r:.60} is no behaviour; a guest {BEHAVIOURS}")


def boot(domain: Domain) -> bytes:
    """The first time that the domain is scheduled."""
    domain.booted = True
    domain.guest = domain.guest | {
        "control/feature-poweroff": "1",
        "control/feature-reboot": "1",
        "control/feature-suspend": "1",
        "control/feature-balloon": "1",
    }
    if domain.behaviour.agent:
        domain.guest = domain.guest | {
            "control/feature-xs-batcmd": "1",
            "attr/os/name": "Simulated",
            "data/updated": "1",
        }
    loader = "hvmloader: " if domain.kind is DomainType.HVM else ""
    return domain.show(
        f"{loader}booting {domain.name} as domain {domain.domid}\n"
        f"Memory: {domain.target_kib}K, {domain.vcpus} vCPUs, {len(domain.vbds)} drives, {len(domain.vifs)} NICs\n"
        f"{domain.name} login: "
    )


def wake(domain: Domain, *, unaware: bool = False) -> bytes:
    """The guest goes on where it was suspended; one that was paused then knows of nothing."""
    domain.shutdown = None
    return b"" if unaware else domain.show("PM: suspend exit\n")


def acknowledge(domain: Domain) -> bytes:
    """Take note of what `control/shutdown` says, and stop if it is that kind of guest."""
    reason, domain.asked = domain.asked, None
    if reason is None:
        return b""
    if reason is ShutdownReason.S3:
        domain.asleep = True
        return domain.show("ACPI: PM: Preparing to enter system sleep state S3\n")
    if not domain.behaviour.stops:
        return domain.show(f"asked to {reason.value}; some services refuse to stop\n")
    return stop(domain, CODE_OF_REASON[reason])


def stop(domain: Domain, code: ShutdownCode) -> bytes:
    """The guest shuts its domain down."""
    domain.shutdown = code
    domain.asked = None
    domain.line = b""
    return domain.show(_FAREWELLS[code])


def type_in(domain: Domain, untrusted_keys: bytes) -> bytes:
    """What somebody types at the console: it is echoed, and a few words are orders."""
    if not domain.runs:
        return b""
    echo, order = "", None
    for key in untrusted_keys:
        if key in b"\r\n":
            line, domain.line = domain.line.decode("ascii"), b""
            order = _ORDERS.get(line.strip())
            echo += "\n" + _answer(line)
            if order is not None:
                break
        elif key in b"\x7f\b" and domain.line:
            domain.line = domain.line[:-1]
            echo += "\b \b"
        elif 32 <= key < 127 and len(domain.line) < _LINE_BYTES:
            domain.line += bytes((key,))
            echo += chr(key)
    shown = domain.show(echo)
    return shown if order is None else shown + stop(domain, order)


def _answer(line: str) -> str:
    word = line.strip()
    if word in _ORDERS:
        return ""
    if word == "help":
        return f"This guest is simulated. It knows: help {' '.join(_ORDERS)}\n# "
    return f"{line}\n# " if word else "# "

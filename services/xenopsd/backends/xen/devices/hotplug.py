# SPDX-License-Identifier: Apache-2.0
"""Hotplug scripts: how a program of the operator's connects a device to the host, and how it says that it has.

    environment   script, XENBUS_TYPE, XENBUS_PATH, XENBUS_BASE_PATH, XENBUS_PREFIX; for interfaces vif and INTERFACE
    argument      add, online, remove, offline, or move
    answer        <back end>/hotplug-status = connected, or <back end>/hotplug-error = what is wrong

Xen's own scripts and those written for them keep to this; the exit status counts as well. None is run for a device whose
work is done here. A script runs through forkexecd, never as a child of ours.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from xenops.errors import BadRequest, Fault, ProgramFailed, StepTimedOut
from xenops.types.process import Ended, Program
from xenopsd.backends.port import RunProgram
from xenopsd.backends.xen.devices.connection import Place
from xenopsd.backends.xen.xenstore.client import XenStore

log = logging.getLogger(__name__)

SCRIPTS = Path("/etc/xen/scripts")
RUN_S = 60.0
STATUS_S = 10.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_WORDS = 400  # of what it said last


class Hotplug:
    """Runs scripts and waits for what they say."""

    def __init__(self, xs: XenStore, run_program: RunProgram, *, run_s: float = RUN_S, status_s: float = STATUS_S):
        self._xs, self._run_program = xs, run_program
        self._run_s, self._status_s = run_s, status_s

    async def add(self, script: str, action: str, place: Place, **extra: str) -> None:
        """Run it and wait until the device is connected. Raises `ProgramFailed`, with its last words, `StepTimedOut`."""
        ended = await self._run(script, action, place, extra)
        error = await self._xs.read(f"{place.back}/hotplug-error")
        if error or ended.timed_out or ended.code != 0:
            raise ProgramFailed(script, f"{action} {_outcome(ended, self._run_s)}{_told(error)}{_last_words(ended)}")
        await self.connected(place, script, self._status_s)

    async def remove(self, script: str, action: str, place: Place, **extra: str) -> None:
        """Run it; the device goes whatever it says."""
        try:
            ended = await self._run(script, action, place, extra)
        except Fault as fault:
            log.warning("%s: the hotplug script of %s was not run: %s", action, place.back, fault)
            return
        if ended.timed_out or ended.code != 0:
            log.warning("%s %s %s%s", script, action, _outcome(ended, self._run_s), _last_words(ended))

    async def connected(self, place: Place, who: str, within_s: float) -> None:
        """Wait for the answer. Raises `ProgramFailed` when it is an error, `StepTimedOut`."""
        status, errors = f"{place.back}/hotplug-status", (f"{place.back}/hotplug-error", f"{place.back_error}/error")

        def answered(values: Mapping[str, str | None]) -> bool:
            return values[status] in ("connected", "online") or any(values[error] for error in errors)

        try:
            values = await self._xs.wait_for([status, *errors], answered, within_s)
        except StepTimedOut:
            raise StepTimedOut(f"{who}: waiting for {status}", within_s) from None
        for error in errors:
            if values[error]:
                raise ProgramFailed(who, f"it reported: {values[error]!r:.200}")

    async def _run(self, script: str, action: str, place: Place, extra: Mapping[str, str]) -> Ended:
        environment = {
            "PATH": _PATH,
            "LC_ALL": "C",
            "script": script,
            "XENBUS_TYPE": place.kind,
            "XENBUS_PATH": place.relative,
            "XENBUS_BASE_PATH": "backend",
            "XENBUS_PREFIX": "",
            **extra,
        }
        words = [f"type_if={extra.get('type_if', 'vif')}"] if place.kind == "vif" else []
        return await self._run_program(
            Program(argv=[script, action, *words], env=environment, timeout_s=self._run_s, output_limit=16384)
        )


def located(script: str) -> str:
    """A bare name is one of Xen's own scripts. Raises `BadRequest` for a path that leads elsewhere than it says."""
    path = Path(script)
    if path.is_absolute():
        return script
    if len(path.parts) != 1 or script in (".", ".."):
        raise BadRequest("script", f"{script!r:.80}: write an absolute path, or the name of a script in {SCRIPTS}")
    return str(SCRIPTS / script)


def _outcome(ended: Ended, run_s: float) -> str:
    if ended.timed_out:
        return f"did not end within {run_s:g} s and was killed"
    if ended.signal:
        return f"was killed by signal {ended.signal}"
    return f"ended with code {ended.code}"


def _told(error: str | None) -> str:
    return f", reported {error!r:.200}" if error else ""


def _last_words(ended: Ended) -> str:
    words = (ended.stderr or ended.stdout).decode("utf-8", "replace").strip()
    return f"; its last words: {words[-_WORDS:]}" if words else ""

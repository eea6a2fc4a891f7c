# SPDX-License-Identifier: Apache-2.0
"""The few words that the rig says to its QEMU: over QMP on a Unix socket, one command at a time."""

import json
import socket
from pathlib import Path
from typing import Any


class Monitor:
    """One conversation with a QEMU that listens."""

    def __init__(self, path: Path, *, timeout_s: float = 60) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rb")
        self._read()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: object) -> Any:
        """The command's answer; a refusal is a RuntimeError."""
        request = {"execute": command, "arguments": arguments}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self._read()
            if "error" in answer:
                raise RuntimeError(f"QEMU refused {command}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]

    def human(self, line: str) -> str:
        """A command of the human monitor, for what QMP does not have; it answers with text alone."""
        answer: str = self.execute("human-monitor-command", **{"command-line": line})
        return answer

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def _read(self) -> dict[str, Any]:
        line = self._file.readline()
        if not line:
            raise ConnectionError("QEMU closed its monitor")
        message: dict[str, Any] = json.loads(line)
        return message

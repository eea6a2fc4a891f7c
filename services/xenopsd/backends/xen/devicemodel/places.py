# SPDX-License-Identifier: Apache-2.0
"""Where the sockets and files of the QEMU of one domain are. Pure.

They have a folder of their own that only we may look into: once it is gone, a QEMU that was about to start cannot.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """The paths; QEMU is told them, and is recognised by them."""

    folder: Path
    domid: int

    @staticmethod
    def of(run_dir: Path, domid: int) -> "Places":
        """Those of a domain."""
        return Places(run_dir / "qemu" / str(domid), domid)

    @property
    def monitor(self) -> Path:
        """The socket where commands are given."""
        return self.folder / "qmp"

    @property
    def screen(self) -> Path:
        """The socket where a viewer sees the guest's screen."""
        return self.folder / "vnc"

    @property
    def incoming(self) -> Path:
        """The socket where a QEMU that restores is given its state."""
        return self.folder / "incoming"

    @property
    def pid(self) -> Path:
        """The file where QEMU writes its process number."""
        return self.folder / "pid"

    @property
    def words(self) -> Path:
        """The pipe through which what it has to say comes."""
        return self.folder / "words"

    @property
    def state(self) -> Path:
        """The file of what it knows of its emulated devices, while a guest is suspended or restored."""
        return self.folder / "state"

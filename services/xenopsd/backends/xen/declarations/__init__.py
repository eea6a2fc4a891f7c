# SPDX-License-Identifier: Apache-2.0
"""The Xen releases that can be spoken to: one file of declarations each, for libxenctrl has no stable interface.

A new release is a new `.h` beside the others, the module that `python -m xenopsd.backends.xen.declarations` makes of
it, and a row in `RELEASES`.
"""

from dataclasses import dataclass
from typing import Any

from xenopsd.backends.xen.declarations import v4_17


@dataclass(frozen=True)
class Release:
    """A Xen release, the library that speaks its hypercalls, and how that library is called."""

    name: str
    soname: str  # what it depends on (libxenctrl, libxentoollog) is found through it
    ffi: Any


RELEASES = (Release("4.17", "libxenguest.so.4.17", v4_17.ffi),)

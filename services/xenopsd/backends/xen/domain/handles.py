# SPDX-License-Identifier: Apache-2.0
"""The handle of a machine's domain: the UUID by which Xen and xl's tools know it."""

from uuid import UUID, uuid5

_OURS = UUID("7c1d8a52-6b1f-5e0b-9d0e-3f2f5a0c4be1")  # machines whose id is no UUID get one below this one


def handle_of(vm: str) -> UUID:
    """A machine's id as a UUID: itself when it is one, else one that is always the same for this id."""
    try:
        return UUID(vm)
    except ValueError:
        return uuid5(_OURS, vm)

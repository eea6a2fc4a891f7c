# SPDX-License-Identifier: Apache-2.0
"""What is taken from outside to be registered: exported metadata, our own and the original's, and records that hold. Pure."""

from itertools import pairwise
from typing import Any

import msgspec

from xenops.errors import BadRequest
from xenops.types.metadata import Metadata
from xenops.types.vm import MIB, Vm
from xenops.wire import bad_request, refuse_nul
from xenopsd.imports.original import from_original, is_original


def read_metadata(untrusted: dict[str, Any] | str) -> Metadata:
    """The metadata that a caller handed in. Raises `BadRequest` with the path of what is wrong."""
    try:
        facts = msgspec.json.decode(untrusted) if isinstance(untrusted, str) else untrusted
        refuse_nul(facts, "params.metadata")
        if is_original(facts):
            return _checked(from_original(facts))
        return _checked(msgspec.convert(facts, Metadata))
    except msgspec.DecodeError as error:
        raise bad_request(error, root="params.metadata") from None


def refuse_contradictions(vm: Vm, path: str) -> None:
    """Raise `BadRequest` for a machine whose figures cannot all be true, with what to change."""
    if vm.vcpus > vm.vcpu_max:
        raise BadRequest(f"{path}.vcpus", f"is {vm.vcpus}, above vcpu_max, {vm.vcpu_max}: raise that or lower this")
    if vm.memory_dynamic_max < MIB:
        raise BadRequest(
            f"{path}.memory_dynamic_max", f"is {vm.memory_dynamic_max} bytes: a machine needs {MIB} at least"
        )
    bounds = ("memory_dynamic_min", "memory_dynamic_max", "memory_static_max")
    for low, high in pairwise(bounds):
        lower, higher = getattr(vm, low), getattr(vm, high)
        if lower > higher:
            raise BadRequest(f"{path}.{low}", f"is {lower}, above {high}, {higher}: raise that or lower this")


def _checked(metadata: Metadata) -> Metadata:
    """The machine must hold, every device belong to it, and no two of a kind may share a name."""
    refuse_contradictions(metadata.vm, "params.metadata.vm")
    for kind in ("vbds", "vifs", "pcis", "vgpus", "vusbs"):
        seen: set[str] = set()
        for place, device in enumerate(getattr(metadata, kind)):
            path = f"params.metadata.{kind}[{place}].id"
            if device.id.vm != metadata.vm.id:
                raise BadRequest(f"{path}.vm", f"is {device.id.vm}, but the machine is {metadata.vm.id}")
            if device.id.dev in seen:
                raise BadRequest(f"{path}.dev", f"{device.id.dev} is there twice")
            seen.add(device.id.dev)
    return metadata

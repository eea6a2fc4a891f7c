# SPDX-License-Identifier: Apache-2.0
"""Reads exported metadata: our own, as a map or as JSON text, and the original xenopsd's JSON. Pure."""

from typing import Any

import msgspec

from xenops.errors import BadRequest
from xenops.types.metadata import Metadata
from xenops.wire import bad_request, refuse_nul
from xenopsd.original import from_original, is_original


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


def _checked(metadata: Metadata) -> Metadata:
    """Every device must belong to the machine, and no two of a kind may share a name."""
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

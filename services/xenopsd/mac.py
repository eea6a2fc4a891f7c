# SPDX-License-Identifier: Apache-2.0
"""MAC addresses for interfaces that were given none. Pure.

An empty `mac` is derived from the machine's id and the interface's position, so that a machine registered again has
the same addresses as before: the scheme is the original's, for the sake of guests that remember it.
"""

import re
from hashlib import md5

from xenops.errors import BadRequest

_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


def normalised(untrusted_mac: str, *, vm: str, position: int, random_bytes: bytes) -> str:
    """The address to use for what a caller wrote: an address, "random" or "". Raises `BadRequest`.

    `random_bytes` are six bytes of the caller's choice, used for "random".
    """
    if untrusted_mac == "random":
        return _local_unicast(bytearray(random_bytes[:6]))
    if untrusted_mac == "":
        return _derived(vm, position)
    if not _MAC.fullmatch(untrusted_mac):
        raise BadRequest(
            "params.vif.mac", f'{untrusted_mac!r:.40} is not a MAC address; write 00:16:3e:xx:xx:xx, "random" or ""'
        )
    return untrusted_mac


def _derived(vm: str, position: int) -> str:
    digest = vm.encode()
    for _ in range(position * 2 + 1):
        digest = md5(digest, usedforsecurity=False).digest()
    second = md5(digest, usedforsecurity=False).digest()
    return _local_unicast(bytearray(digest[:4] + second[:2]))


def _local_unicast(octets: bytearray) -> str:
    octets[0] = (octets[0] | 0x02) & 0xFE
    if octets[0] == 0xFE:  # what backends give to their own ends; the original made it 0xfd here, which is multicast
        octets[0] = 0xFA
    return ":".join(f"{octet:02x}" for octet in octets)

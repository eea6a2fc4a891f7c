# SPDX-License-Identifier: Apache-2.0
"""What every operation is: a request as data, with the power states it needs and the plan that carries it out.

As data it goes into the journal and can be begun again after a restart. A plan reads as what happens to the machine;
tests/golden/plans has them printed.
"""

from typing import ClassVar

import msgspec

from xenops.types.vm import PowerState
from xenopsd.engine.plan import Plan
from xenopsd.store.machine import Machine


class Operation(msgspec.Struct, frozen=True, kw_only=True, tag_field="operation"):
    """The parent of all operations; the tag is the method it answers."""

    needs: ClassVar[tuple[PowerState, ...]] = ()  # any, when empty; the first is the one a refusal names
    reboots: ClassVar[bool] = False  # the machine counts as Running from beginning to end

    vm: str

    @property
    def lasts(self) -> bool:
        """Whether the machine counts as what it is from beginning to end, though its domain goes and another comes."""
        return False

    @property
    def name(self) -> str:
        """The operation's name, as tasks show it."""
        return str(self.__struct_config__.tag)

    def plan(self, machine: Machine) -> Plan:
        """What happens to the machine."""
        raise NotImplementedError(self.name)

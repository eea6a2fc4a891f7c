# SPDX-License-Identifier: Apache-2.0
"""Who are you, how are you."""

from collections.abc import Callable
from typing import Any

from xenops.interfaces.xenops import General
from xenops.types.service import ServiceInfo


class GeneralApi(General):
    """Answers for the service as a whole."""

    def __init__(self, info: ServiceInfo, diagnose: Callable[[], dict[str, Any]]) -> None:
        self._info, self._diagnose = info, diagnose

    async def query(self) -> ServiceInfo:
        return self._info

    async def get_diagnostics(self) -> dict[str, Any]:
        return self._diagnose()

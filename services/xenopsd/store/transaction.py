# SPDX-License-Identifier: Apache-2.0
"""One change of what is remembered: written as a whole and then so in memory, or neither.

Nothing is changed before it is durable, so that a change that could not be written was never seen by anybody.
"""

from collections.abc import Callable
from typing import Any

from xenopsd.store.database import Database, Statement


class Transaction:
    """Collects what is to be written, and what follows from it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._statements: list[Statement] = []
        self._effects: list[Callable[[], None]] = []

    def write(self, statement: str, *parameters: Any) -> None:
        """This is to be written."""
        self._statements.append((statement, parameters))

    def then(self, effect: Callable[[], None]) -> None:
        """This is to be done in memory, once all of it is written."""
        self._effects.append(effect)

    async def commit(self) -> None:
        """Return once all of it is durable, and so in memory; raises `IoError`, and then none of it ever will be."""
        await self._database.write_or_refuse(*self._statements, then=self._take_effect)

    def _take_effect(self) -> None:
        for effect in self._effects:
            effect()

# SPDX-License-Identifier: Apache-2.0
"""How far a long step is, as a share of its task's progress."""

from collections.abc import Callable

from xenopsd.atoms.context import Context


def share_of(cx: Context, weight: float) -> Callable[[float], None]:
    """Where a backend tells its 0..1; the task is told a twentieth at a time."""
    return _Progress(cx, weight)


class _Progress:
    """Turns a backend's 0..1 into steps of the task's own progress, a twentieth at a time."""

    def __init__(self, cx: Context, weight: float) -> None:
        self._cx, self._weight, self._told = cx, weight, 0.0

    def __call__(self, done: float) -> None:
        if done - self._told >= 0.05 and done < 1.0:
            self._cx.task.advance(self._weight * (done - self._told))
            self._told = done

# SPDX-License-Identifier: Apache-2.0
"""How long tasks are remembered that nobody destroys."""

from xenops.types.task import Completed
from xenopsd.engine.tasks import Task, Tasks


def some(count: int) -> tuple[Tasks, list[Task], list[str]]:
    removed: list[str] = []
    tasks = Tasks(started_ms=1, changed=lambda task: None, removed=lambda task: removed.append(task.id))
    return tasks, [tasks.new("VM.start", vm="vm-1") for _ in range(count)], removed


def test_the_newest_that_ended_are_remembered() -> None:
    tasks, (one, two, three, waits), removed = some(4)
    for task in (three, one, two):
        task.finish(Completed(duration_s=1.0))
    assert tasks.expire(older_than_s=3600.0, newest=2) == [three]
    assert removed == [three.id]
    assert list(tasks) == [one, two, waits]


def test_what_ended_too_long_ago_is_forgotten_and_what_goes_on_is_not() -> None:
    tasks, (ended, waits), _ = some(2)
    ended.finish(Completed(duration_s=1.0))
    assert tasks.expire(older_than_s=-1.0, newest=10) == [ended]
    assert tasks.expire(older_than_s=-1.0, newest=0) == []
    assert list(tasks) == [waits]

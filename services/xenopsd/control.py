# SPDX-License-Identifier: Apache-2.0
"""Carries out operations: from a request to a task, from a task to a plan, and to the check after a failure.

The only room that knows engine, operations and backend together. It never touches a domain whose machine is not
registered.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from xenops.errors import (
    BadPowerState,
    BadRequest,
    DoesNotExist,
    Fault,
    Interrupted,
    Migrated,
)
from xenops.events import Change, Kind
from xenops.rpc import calling, outcome
from xenops.types.process import Ended, Program
from xenops.types.task import Pending
from xenops.types.vm import PowerState, VmState
from xenopsd.announcements import Announcements
from xenopsd.atoms.context import Context, Limits
from xenopsd.backends.port import Backend
from xenopsd.engine.perform import perform
from xenopsd.engine.plan import NOTHING
from xenopsd.engine.tasks import Task, Tasks, failed
from xenopsd.engine.turns import Turns, decide, refuse_if_late
from xenopsd.engine.workers import Job, Workers
from xenopsd.facts import look
from xenopsd.migration.station import Station
from xenopsd.operations import catalog
from xenopsd.operations import check as checking
from xenopsd.operations.operation import Operation
from xenopsd.store.journal import Entry, Journal
from xenopsd.store.machine import Machine
from xenopsd.store.machines import Machines
from xenopsd.store.migrations import Phase
from xenopsd.store.outcomes import Outcomes
from xenopsd.store.transaction import Transaction

log = logging.getLogger(__name__)

CHECK = "VM.check_state"
Announce = Callable[[Kind, str, Change], None]
_STOPS = ("VM.shutdown", "VM.destroy")  # for which a migration gives way


class Control:
    """What the API asks for, done."""

    def __init__(
        self,
        *,
        backend: Backend,
        machines: Machines,
        journal: Journal,
        outcomes: Outcomes,
        tasks: Tasks,
        workers: Workers,
        announce: Announcements,
        migration: Station,
        limits: Limits,
        run_program: Callable[[Program], Awaitable[Ended]],
        observe: Callable[[str, float], None],
    ) -> None:
        self.backend, self.machines, self.tasks, self.workers, self.announce = (
            backend,
            machines,
            tasks,
            workers,
            announce,
        )
        self.migration = migration
        self._journal, self._outcomes = journal, outcomes
        self._limits, self._run_program, self._observe = limits, run_program, observe
        self._counts_as: dict[str, PowerState] = {}  # whatever its domain is just now
        self._migrating: dict[str, Task] = {}
        self.turns = Turns(tasks, workers)
        self._owed: dict[str, Task] = {}  # by machine, whose migration was decided when an earlier life ended
        # The task, and what was asked; as long as the task is remembered: its outcome is for longer.
        self._by_message: dict[str, tuple[str, bytes]] = {}

    async def begin(self, operation: Operation) -> str:
        """Accept an operation; answers with its task's id once that is in the journal.

        Raises `DoesNotExist`, `Busy`, `BadRequest` where the message id is another request's, and, when nothing is queued
        before it, `BadPowerState`.
        """
        envelope = calling.get()
        if envelope.message_id and (known := self._by_message.get(envelope.message_id)):
            return _same(*known, operation)  # whatever has become of the machine since
        machine = self.machines.find(operation.vm)
        self._refuse_if_barred(machine.id)
        if operation.needs and self.workers.is_idle(machine.id):
            await self._verify(operation, machine)
        if operation.name in _STOPS and (migrating := self._migrating.get(machine.id)) is not None:
            log.info("VM %s is to stop: its migration gives way, if it still can", machine.id)
            await self.workers.cancel(migrating)
        task = self.tasks.new(operation.name, vm=machine.id, dbg=envelope.debug_info)
        job = self._job(operation, task, envelope.message_id, envelope.deadline)
        self._note_message(task, envelope.message_id, job.payload or b"")
        await self.workers.submit(job)
        return task.id

    async def commit(self, transaction: Transaction, result: object) -> None:
        """Make a change so, and `result` the answer to the request under way: a crash leaves both behind, or neither."""
        decide()
        if (known := outcome(result)) is not None:
            self._outcomes.join(transaction, *known)
        await transaction.commit()

    def check(self, vm: str) -> None:
        """Have a machine looked at, after what is queued; one look is enough for many reasons to look."""
        if vm not in self.machines or self.workers.waits(vm, CHECK):
            return
        task = self.tasks.new(CHECK, vm=vm, private=True)
        self.workers.submit_soon(Job(tag=vm, task=task, run=lambda task: self._check(vm, task), key=CHECK))

    def happened(self, kind: Kind, id: str) -> None:
        """The backend says that something may have changed by itself."""
        vm = id.partition(".")[0]
        if vm in self.machines:
            self.announce(kind, id)
            self.check(vm)

    async def states(self, machines: list[Machine]) -> list[VmState]:
        """What each machine is; one that reboots is Running all the while, one that changes its domain what it was."""
        states = await self.backend.vm.states([machine.vm for machine in machines])
        if not self._counts_as:
            return states
        return [_as(state, self._counts_as.get(machine.id)) for machine, state in zip(machines, states, strict=True)]

    async def power_state(self, machine: Machine) -> PowerState:
        """What one machine is."""
        return self._counts_as.get(machine.id) or await self.backend.vm.power_state(machine.vm)

    async def recover(self, entries: list[Entry]) -> None:
        """Give tasks of an earlier life their true end, begin again what had not begun, and check every machine."""
        for machine in self.machines:  # queued first: nothing begins again on what an interrupted task left half done
            self.check(machine.id)
        for entry in entries:
            await self._recover(entry)

    async def _recover(self, entry: Entry) -> None:
        task = self.tasks.restore(entry.record)
        self._note_message(task, entry.message_id, entry.payload)
        if task.ended:
            return
        crossing = self.migration.crossings.of_task(self.migration.queue, task.id)
        if crossing is not None and crossing.phase is not Phase.BESIDE:
            task.pass_pivot()
            self._owed[crossing.vm] = task
            await self.conclude(crossing.vm)
            return
        if entry.begun:
            step = entry.record.subtasks[-1].name if entry.record.subtasks else "its first step"
            state = failed(Interrupted(task.id, step))
        else:
            try:
                operation = catalog.decode(entry.payload)
                self.machines.find(operation.vm)
                log.info("task %s (%s) had been accepted and not begun: it is queued again", task.id, task.operation)
                job = self._job(operation, task, entry.message_id, catalog.deadline(entry.payload))
                job.payload, job.accepted, job.begun = entry.payload, _done(), False
                self.workers.requeue(job)
                return
            except Fault as fault:
                state = failed(fault)
        await self._journal.finish(task, state)
        task.finish(state)

    async def conclude(self, vm: str, fault: Fault | None = None) -> None:
        """Say what became of the migration that an earlier life had decided, once that is known: it moved, or an operator's `fault`."""
        task = self._owed.get(vm)
        crossing = None if task is None else self.migration.crossings.of_task(self.migration.queue, task.id)
        if task is None or (fault is None and (crossing is None or crossing.phase in (Phase.GIVEN, Phase.REPLACING))):
            return
        del self._owed[vm]
        if crossing is not None:
            task.result = {"destination": crossing.peer}  # what was measured has died with who measured it
        state = task.completed(time.time() - task.ctime / 1000) if fault is None else failed(fault)
        await self._journal.finish(task, state)
        task.finish(state)

    def has_task(self, message_id: str) -> bool:
        """Whether the request of that message id became a task that is remembered."""
        return message_id in self._by_message

    def _note_message(self, task: Task, message_id: str | None, payload: bytes) -> None:
        """A repetition of the request finds this task."""
        if message_id:
            task.message_id = message_id
            self._by_message[message_id] = task.id, payload

    def _job(self, operation: Operation, task: Task, message_id: str | None, deadline: int | None) -> Job:
        async def run(task: Task) -> None:
            refuse_if_late(deadline)
            try:
                if operation.name == "VM.migrate":
                    self._migrating[operation.vm] = task
                await self._carry_out(operation, task)
            finally:
                self._migrating.pop(operation.vm, None)

        task.stepped = self._journal.step  # so that after a crash it can be said where it was
        return Job(operation.vm, task, run, payload=catalog.encode(operation, deadline), message_id=message_id)

    async def _carry_out(self, operation: Operation, task: Task) -> None:
        machine = self.machines.find(operation.vm)
        self._refuse_if_barred(machine.id)
        await self._verify(operation, machine)
        if operation.reboots or operation.lasts:
            self._counts_as[machine.id] = PowerState.RUNNING if operation.reboots else await self.power_state(machine)
        try:
            await perform(operation.plan(machine), self.context(task))
        except Exception as error:
            self._counts_as.pop(machine.id, None)
            await self._look_after(machine.id)
            if not self._has_moved(task):
                raise
            log.warning("VM %s has moved, after something went wrong: %s", machine.id, error)
        finally:
            self._counts_as.pop(machine.id, None)
            if machine.id in self.machines:
                self.announce(Kind.VM, machine.id)

    def _has_moved(self, task: Task) -> bool:
        """Whether its migration has come to its end, by the check that follows a failure."""
        crossing = self.migration.crossings.of_task(self.migration.queue, task.id)
        if crossing is None or crossing.phase not in (Phase.GONE, Phase.SETTLED):
            return False
        task.result = task.result or {"destination": crossing.peer}
        return True

    def _refuse_if_barred(self, vm: str) -> None:
        if vm in self.machines.barred:
            raise self.machines.barred[vm]()

    async def _verify(self, operation: Operation, machine: Machine) -> None:
        if operation.needs:
            actual = await self.power_state(machine)
            if actual not in operation.needs:
                raise BadPowerState(actual.value, operation.needs[0].value)

    async def _look_after(self, vm: str) -> None:
        """The check that follows a failure, before the machine's next turn; its own failure is only logged."""
        task = self.tasks.new(CHECK, vm=vm, private=True)
        try:
            await self._check(vm, task)
        except Exception as error:
            log.warning("the check of VM %s failed: %s", vm, error, exc_info=not isinstance(error, Fault))
        finally:
            self.tasks.drop(task)

    async def _check(self, vm: str, task: Task) -> None:
        try:
            machine = self.machines.find(vm)
        except (DoesNotExist, Migrated):
            return
        facts = await look(machine, self.backend, self.migration, loop_delay_s=self._limits.reboot_loop_delay_s)
        plan = checking.plan(machine, facts)
        if plan == NOTHING:
            return
        log.info("VM %s needs %s", vm, facts.action.value if facts.action else "some of its devices mended")
        if (meanwhile := checking.counts_as(machine, facts)) is not None:
            self._counts_as[vm] = meanwhile
        try:
            await perform(plan, self.context(task))
        finally:
            self._counts_as.pop(vm, None)
            if vm in self.machines:
                self.announce(Kind.VM, vm)
        await self.conclude(vm)
        if facts.doubled is not None:
            self.check(vm)  # now that it has one domain

    def context(self, task: Task, announce: Announce | None = None) -> Context:
        """What the steps of a task are given; with another way to `announce`, where nobody may know yet."""
        return Context(
            task=task,
            backend=self.backend,
            machines=self.machines,
            limits=self._limits,
            migration=self.migration,
            announce=announce or self._tell,
            run_program=self._run_program,
            observe=self._observe,
        )

    def _tell(self, kind: Kind, id: str, change: Change) -> None:
        """Nobody is told of a domain that is no machine's yet."""
        if not self.machines.is_expected(id.partition(".")[0]):
            self.announce(kind, id, change)

    async def describe(self, kind: Kind, id: str) -> dict[str, Any]:
        """What an event says of an object beside its id. Raises `DoesNotExist`."""
        if kind is Kind.VM:
            machine = self.machines.find(id)
            return {"power_state": (await self.power_state(machine)).value, "name": machine.vm.name}
        if kind is Kind.TASK:
            state = self.tasks.find(id).state
            progress = state.progress if isinstance(state, Pending) else 1.0
            return {"state": type(state).__name__, "progress": progress}
        return {}

    def task_removed(self, task: Task) -> None:
        """A task was forgotten."""
        if task.message_id:
            self._by_message.pop(task.message_id, None)
        self.announce(Kind.TASK, task.id, Change.REMOVED)

    def task_changed(self, task: Task) -> None:
        """A task moved."""
        self.announce(Kind.TASK, task.id)


def _same(task: str, payload: bytes, operation: Operation) -> str:
    """That task, if this operation is what it was accepted for: a crash may have taken what the dispatcher knew of it."""
    if catalog.decode(payload) != operation:
        raise BadRequest("message_id", "was used for another request; give each request an id of its own")
    return task


def _as(state: VmState, power_state: PowerState | None) -> VmState:
    return state if power_state is None else msgspec.structs.replace(state, power_state=power_state)


def _done() -> "asyncio.Future[None]":
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done

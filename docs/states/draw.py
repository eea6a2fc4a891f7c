# SPDX-License-Identifier: Apache-2.0
"""`python docs/states/draw.py [DIRECTORY]`: draw the state machines from the tables that the code itself goes by.

Outside every package, as it reads two services that must not know each other; `make docs` runs it.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from message_switch.conversation.session import TURNS, State
from tests.xenopsd.steps.samples import Sample, samples
from xenops.types.disk import Local
from xenops.types.vm import Action, Hvm, PowerState, Vm
from xenopsd.engine.plan import cancellable
from xenopsd.migration.handshake import DESTINATION, MAY_RUN, SOURCE, Destination, Source
from xenopsd.operations.check import ANSWERS
from xenopsd.operations.life import MOVES

_MADE = "<!-- Made by docs/states/draw.py (`make docs`): edit the table in the code, not this page. -->\n"
_SESSION = "services/message_switch/conversation/session.py"


def pages() -> dict[str, str]:
    """Every drawing, by its path in a checkout."""
    return {
        "docs/states/machine.md": machine(),
        "docs/states/connection.md": connection(),
        "docs/states/cancel.md": cancel(),
        "docs/states/migration.md": migration(),
    }


def machine() -> str:
    """The power states, and what happens when the guest acts by itself."""
    arrows: dict[tuple[PowerState, PowerState], list[str]] = {}
    for operation, move in MOVES.items():
        for origin in move.origins:
            for end in move.ends:
                arrows.setdefault((origin, end), []).append(operation.removeprefix("VM."))
    drawn = [f"    {a.value} --> {b.value}: {', '.join(names)}" for (a, b), names in arrows.items()]
    rows = [
        f"| `{operation}` | {_states(move.origins)} | {_states(move.ends)} | {move.elsewhere or 'refused: `BadPowerState`'} |"
        for operation, move in MOVES.items()
    ]
    return "\n".join(
        (
            _MADE + "# A machine's power states",
            "",
            "The table is [`services/xenopsd/operations/life.py`](../../services/xenopsd/operations/life.py). A machine",
            "is Halted when it is registered, and only a Halted or Suspended one can be removed. An operation with two",
            "ends has an argument `paused` that chooses. While a reboot is under way the machine counts as Running.",
            "",
            *_mermaid([f"    [*] --> {PowerState.HALTED.value}: add", *drawn]),
            "",
            "| Operation | From | To | In any other state |",
            "|---|---|---|---|",
            *rows,
            "",
            "## What a guest does by itself",
            "",
            "The machine's record says what follows; the table is in",
            "[`services/xenopsd/operations/check.py`](../../services/xenopsd/operations/check.py). A guest that reboots or",
            "crashes too soon after its start is held back: a reboot waits, a crash does not start it again.",
            "",
            "| The guest asked for | The record's field | Its default |",
            "|---|---|---|",
            *(f"| {asked.value} | `{name}` | {_default(name)} |" for asked, name in ANSWERS.items()),
            "",
        )
    )


def connection() -> str:
    """What the switch expects of a peer, turn by turn."""
    turns = [f"    {state.name} --> {turn.then.name}: {_method(turn.expected)}" for state, turn in TURNS.items()]
    drawn = [
        f"    [*] --> {State.GREETING.name}",
        f"    {State.GREETING.name} --> {State.START.name}: protocol header",
        *turns,
        f"    {State.CHECKING.name} --> {State.TUNE.name}: who it is is known",
        f"    {State.CHECKING.name} --> {State.CLOSING.name}: login refused",
        f"    {State.RUNNING.name} --> {State.CLOSING.name}: we close",
        f"    {State.CLOSING.name} --> {State.CLOSED.name}: connection.close-ok",
        f"    {State.CLOSED.name} --> [*]",
    ]
    return "\n".join(
        (
            _MADE + "# A connection to the message switch",
            "",
            f"The table is `TURNS` in [`{_SESSION}`](../../{_SESSION}).",
            "In every state a peer's connection.close is answered and leads to CLOSED; any other method than the expected",
            "one makes the switch close the connection; a peer that is not RUNNING in time is dropped.",
            "",
            *_mermaid(drawn),
            "",
            "| State | Expected | Then |",
            "|---|---|---|",
            *(f"| {state.name} | {_method(turn.expected)} | {turn.then.name} |" for state, turn in TURNS.items()),
            "",
        )
    )


def cancel() -> str:
    """Until when each operation may be cancelled, and how long the answer takes."""
    return "\n".join(
        (
            _MADE + "# Cancelling an operation",
            "",
            "Read off the plans of a machine with a device of every kind. `Task.cancel` takes effect as long as the task says",
            "`cancellable`. Between two steps it does at once. A step that waits for a guest or a program is cut at once; any other",
            "has its `patience_s` to end by itself, and is cut then. The steps before are undone, and the machine is looked after:",
            "on the simulator that takes no time to speak of; on a real host as long as it takes to take away what was there.",
            "",
            "| Operation | Answered within | May be cancelled |",
            "|---|---|---|",
            *dict.fromkeys(_bound(sample) for sample in samples("machine", Local(path="/image"))),
            "",
        )
    )


def migration() -> str:
    """Whose a machine is while it migrates."""
    ends = [("The source", SOURCE, Source.KEPT), ("The destination", DESTINATION, Destination.NONE)]
    drawn: list[str] = []
    for title, table, first in ends:
        arrows: dict[tuple[str, str], list[str]] = {}
        for (state, what), turn in table.items():
            if turn.then is not state:
                arrows.setdefault((state.name, turn.then.name), []).append(what.value)
        lines = [f"    {a} --> {b}: {', '.join(sorted(set(words)))}" for (a, b), words in arrows.items()]
        drawn += [f"## {title}", "", *_mermaid([f"    [*] --> {first.name}", *lines]), ""]
        drawn += ["| State | What happens | Then | It says |", "|---|---|---|---|"]
        drawn += [
            f"| {state.name} | {what.value} | {turn.then.name} | {', '.join(it.value for it in turn.sends) or '-'} |"
            for (state, what), turn in table.items()
        ]
        drawn.append("")
    return "\n".join(
        (
            _MADE + "# A machine on its way from one host to another",
            "",
            "The tables are [`services/xenopsd/migration/handshake.py`](../../services/xenopsd/migration/handshake.py); why they",
            "are so is [a decision of its own](../decisions/0011-migration.md). The guest may run at the source in "
            + f"{_names(Source)}, at the destination in {_names(Destination)}.",
            "What a state does not name changes nothing in it. A state that a restart leads back to is durable before anything",
            "is said. `reclaim` is an operator's word that the destination is dead.",
            "",
            *drawn,
        )
    )


def _bound(sample: Sample) -> str:
    steps, why = cancellable(sample.plan)
    until = f"until {why}" if why else "to its end"
    name = sample.operation.name + (", with a delay" if getattr(sample.operation, "delay", None) is not None else "")
    if not steps:
        return f"| `{name}` | | never: {why} |"
    patience_s = max(step.patience_s for step in steps)
    return f"| `{name}` | {f'{patience_s:g} s' if patience_s else 'at once'} | {until} |"


def _names(states: type[Source] | type[Destination]) -> str:
    return ", ".join(state.name for state in states if state in MAY_RUN)


def _mermaid(lines: list[str]) -> list[str]:
    return ["```mermaid", "stateDiagram-v2", *lines, "```"]


def _states(states: tuple[PowerState, ...]) -> str:
    return " or ".join(state.value for state in states)


def _method(method: type) -> str:
    name = method.__qualname__.rpartition(".")[2]
    return f"connection.{re.sub('(?<!^)(?=[A-Z])', '-', name).lower()}"


def _default(field: str) -> str:
    actions: list[Action] = getattr(Vm(id="machine", ty=Hvm()), field)
    return ", then ".join(action.value for action in actions) or "nothing"


def main(arguments: list[str]) -> int:
    """Write the pages whose text has changed, and say which."""
    root = Path(arguments[0] if arguments else ".")
    for path, text in pages().items():
        target = root / path
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

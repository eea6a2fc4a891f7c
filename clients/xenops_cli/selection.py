# SPDX-License-Identifier: Apache-2.0
"""Which machine is meant: an id, a name, or the unique beginning of one.

An exact match wins over a beginning, and an id over a name. Several matches are never resolved by guessing.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from xenops.types.vm import VmStat
from xenops_cli.exits import Complaint, Exit
from xenops_cli.render.tables import clean

CANDIDATES = 10  # how many are listed


def pick(machines: Sequence[VmStat], text: str) -> VmStat:
    """The one machine that `text` means."""
    found = matches(machines, text)
    if len(found) == 1:
        return found[0]
    if not found:
        raise Complaint(f"there is no machine {clean(text)!r}; {_nearest(machines, text)}", Exit.NOT_FOUND)
    lines = [f"  {m.vm.id}  {clean(m.vm.name)}  ({m.state.power_state.value})" for m in found[:CANDIDATES]]
    if len(found) > CANDIDATES:
        lines.append(f"  and {len(found) - CANDIDATES} more")
    listed = "\n".join(lines)
    raise Complaint(
        f"{clean(text)!r} may be any of these, so give more of the name, or the id:\n{listed}", Exit.NOT_FOUND
    )


def matches(machines: Sequence[VmStat], text: str) -> list[VmStat]:
    """All machines that `text` may mean, by the strongest kind of match that there is."""
    for kind in (
        [m for m in machines if m.vm.id == text],
        [m for m in machines if m.vm.name == text],
        [m for m in machines if text and (m.vm.id.startswith(text) or m.vm.name.startswith(text))],
    ):
        if kind:
            return kind
    return []


def split_device(machines: Sequence[VmStat], words: Sequence[str]) -> tuple[VmStat, str]:
    """Machine and device name from `VM DEV` or `VM.DEV`; names of both may hold dots, so the machine decides."""
    if len(words) == 2:
        return pick(machines, words[0]), words[1]
    if len(words) != 1:
        raise Complaint("write the device as VM.DEV, or as VM DEV", Exit.USAGE)
    word = words[0]
    splits = [(word[:i], word[i + 1 :]) for i in range(len(word) - 1, 0, -1) if word[i] == "." and word[i + 1 :]]
    if not splits:
        raise Complaint(f"{clean(word)!r} names no device; write VM.DEV, or VM DEV", Exit.USAGE)
    for machine, device in splits:
        if matches(machines, machine):
            return pick(machines, machine), device
    return pick(machines, splits[-1][0]), splits[-1][1]


def _nearest(machines: Sequence[VmStat], text: str) -> str:
    near = get_close_matches(text, [m.vm.name for m in machines], 1)
    if near:
        return f"did you mean {clean(near[0])!r}?"
    if not machines:
        return "no machine is registered yet: `xenops-cli add FILE` registers one"
    return "`xenops-cli list` shows them all"


def nearest_word(word: str, known: Iterable[str], listing: str) -> str:
    """What somebody may have meant, or which command lists what there is."""
    near = get_close_matches(word, list(known), 1)
    return f"did you mean {near[0]}?" if near else f"`xenops-cli {listing}` lists them all"

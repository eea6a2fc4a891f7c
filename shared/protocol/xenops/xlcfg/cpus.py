# SPDX-License-Identifier: Apache-2.0
"""Which physical CPUs the vCPUs may run on: `cpus = "0-3,^1"`, or one such string for each vCPU.

The host's number of CPUs and NUMA nodes is not known here: what needs it (`all,^7`, `nodes:0`) pins nothing, and a
warning says so.
"""

import re

from xenops.xlcfg.document import Document
from xenops.xlcfg.errors import Place
from xenops.xlcfg.parser import Text

MAX_CPU = 4095
_RANGE = re.compile(r"(\^?)([0-9]{1,5})(?:-([0-9]{1,5}))?")


def affinity(doc: Document, vcpus: int) -> list[list[int]]:
    """One list of CPUs for each vCPU that has its own; the first serves the others; none at all: no pinning."""
    if not doc.is_list("cpus"):
        text = doc.text("cpus")
        pinned = None if text is None else _cpus(doc, text)
        return [] if pinned is None else [pinned]
    entries = doc.texts("cpus")
    if len(entries) > vcpus:
        doc.warn("cpus", f"there are only {vcpus} vCPUs; the further entries have no effect", entries[vcpus])
    lists = [_cpus(doc, text) for text in entries][:vcpus]
    if not lists or any(pinned is None for pinned in lists):
        if any(lists):
            doc.warn("cpus", "'all' can be said of every vCPU or of none; nothing is pinned")
        return []
    if len(lists) < vcpus:
        doc.warn("cpus", f"vCPUs from {len(lists)} on have no entry; they are pinned like vCPU 0")
    return [pinned for pinned in lists if pinned is not None]


def _cpus(doc: Document, text: Text) -> list[int] | None:
    """The CPUs of one string in rising order, or None for all of them."""
    chosen: set[int] = set()
    offset = 0
    words = [part.strip() for part in text.value.split(",")]
    if "all" in words or any("node" in word for word in words):
        if set(words) != {"all"}:
            doc.warn("cpus", "this depends on the host's CPUs and pins nothing; list the CPUs by number", text)
        return None
    for part, word in zip(text.value.split(","), words, strict=True):
        place = text.at(offset)
        offset += len(part) + 1
        if word.startswith("^"):
            chosen -= set(_range(doc, place, word))
        elif word:
            chosen |= set(_range(doc, place, word))
    if not chosen:
        doc.fail(text, "this leaves no CPU to run on")
    return sorted(chosen)


def _range(doc: Document, place: Place, word: str) -> range:
    match = _RANGE.fullmatch(word)
    if match is None:
        doc.fail(place, f"{word!r:.40} is neither a CPU nor a range of CPUs such as 0-3")
    low, high = int(match[2]), int(match[3] or match[2])
    if not low <= high <= MAX_CPU:
        doc.fail(place, f"{word} is not a range of CPUs from 0 to {MAX_CPU}")
    return range(low, high + 1)


def spell(cpus: list[int]) -> str:
    """The shortest string that means those CPUs."""
    runs: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)

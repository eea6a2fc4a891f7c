# SPDX-License-Identifier: Apache-2.0
"""A sequence chart for the terminal. Pure."""

from message_cli.chart.conversation import Arrow, Kind, lifelines
from message_cli.render import clean

_CLOCK, _GAP = 10, 30
_OWN = "(o) "


def draw(arrows: list[Arrow]) -> str:
    """Time goes down, in seconds; a lifeline is a column, in which a message to itself is marked with a loop."""
    names = lifelines(arrows)
    places = {name: _CLOCK + at * _GAP for at, name in enumerate(names)}
    head = "seconds".rjust(_CLOCK - 2).ljust(_CLOCK) + "".join(
        _cut(clean(name), _GAP - 2).ljust(_GAP) for name in names
    )
    return "\n".join([head.rstrip(), *(_line(arrow, places) for arrow in arrows)])


def _line(arrow: Arrow, places: dict[str, int]) -> str:
    row = list(f"{arrow.at_s:8.3f}".ljust(_CLOCK + _GAP * len(places)))
    for place in places.values():
        row[place] = "|"
    source, target, label = places[arrow.source], places[arrow.target], clean(arrow.label)
    if source == target:
        text = _OWN + _cut(label, _GAP - len(_OWN) - 3)
        row[source + 2 : source + 2 + len(text)] = text
        return "".join(row).rstrip()
    left, right = sorted((source, target))
    shaft = "." if arrow.kind is Kind.REPLY else "-"
    room = right - left - 1
    body = _cut(f" {label} ", room - 4).center(room, shaft)
    body = body[:-1] + ">" if source < target else "<" + body[1:]
    row[left + 1 : right] = body
    return "".join(row).rstrip()


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"

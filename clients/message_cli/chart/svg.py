# SPDX-License-Identifier: Apache-2.0
"""A sequence chart as SVG 1.1: lines and text alone, no scripts, no links, nothing fetched. Pure.

Every text goes through `_text`, which makes it printable and escapes it; everything else in the document is ours or a number.
"""

from xml.sax.saxutils import escape

from message_cli.chart.conversation import Arrow, Kind, lifelines
from message_cli.render import clean

_GAP, _ROW, _TOP, _LEFT, _EDGE = 240, 24, 40, 130, 20
_CHARACTERS = 34  # that fit between two lifelines
_NAMESPACE = "http://www.w3.org/2000/svg"


def draw(arrows: list[Arrow], summary: str) -> str:
    """A document of its own."""
    names = lifelines(arrows)
    across = {name: _LEFT + at * _GAP for at, name in enumerate(names)}
    bottom = _TOP + _ROW * (len(arrows) + 1)
    notes = summary.split("\n")
    longest = max(map(len, notes))
    width = max(_LEFT + _GAP * max(1, len(names)), 2 * _EDGE + 8 * longest)
    height = bottom + 18 * (len(notes) + 1) + _EDGE
    parts = [
        f'<svg xmlns="{_NAMESPACE}" width="{width}" height="{height}" font-family="monospace" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for name, x in across.items():
        parts += [_text(x, _TOP - 16, name, "middle"), _line(x, _TOP - 8, x, bottom, "stroke-dasharray='2 3'")]
    for at, arrow in enumerate(arrows, 1):
        parts += _arrow(arrow, across, _TOP + at * _ROW)
    parts += [_text(_EDGE, bottom + 18 * at, line, "start", cut=False) for at, line in enumerate(notes, 1)]
    return "\n".join([*parts, "</svg>"])


def _arrow(arrow: Arrow, across: dict[str, int], y: int) -> list[str]:
    source, target = across[arrow.source], across[arrow.target]
    clock = _text(_EDGE, y + 4, f"{arrow.at_s:.3f} s", "start")
    if source == target:
        loop = f'<circle cx="{source}" cy="{y}" r="5" fill="none" stroke="black"/>'
        return [clock, loop, _text(source + 10, y + 4, arrow.label, "start")]
    back = -7 if source < target else 7
    dashes = "stroke-dasharray='6 3'" if arrow.kind is Kind.REPLY else ""
    tip = f'<polygon points="{target},{y} {target + back},{y - 4} {target + back},{y + 4}"/>'
    return [
        clock,
        _line(source, y, target, y, dashes),
        tip,
        _text((source + target) // 2, y - 4, arrow.label, "middle"),
    ]


def _line(x1: int, y1: int, x2: int, y2: int, more: str) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="black" {more}/>'


def _text(x: int, y: int, untrusted: str, anchor: str, *, cut: bool = True) -> str:
    shown = clean(untrusted)
    if cut and len(shown) > _CHARACTERS:
        shown = shown[: _CHARACTERS - 1] + "…"
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" xml:space="preserve">{escape(shown)}</text>'

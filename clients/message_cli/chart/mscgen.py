# SPDX-License-Identifier: Apache-2.0
"""The source of a sequence chart for mscgen(1); what follows the chart is a comment. Pure.

Its strings know escapes, so that a quote becomes an apostrophe and a backslash a slash. A comment ends with its line,
and so must the file. Source: mscgen 0.20, README.
"""

from message_cli.chart.conversation import Arrow, Kind, lifelines
from message_cli.render import clean

_SIGNS = {Kind.REQUEST: "=>", Kind.REPLY: ">>", Kind.MESSAGE: "->", Kind.AGAIN: "->"}
_LOST = "-x"


def draw(arrows: list[Arrow], summary: str) -> str:
    """A document; mscgen wants a lifeline and a row even where nothing passed."""
    ids = {name: f"e{at}" for at, name in enumerate(lifelines(arrows))}
    entities = ", ".join(f"{id} [label={_quoted(name)}]" for name, id in ids.items()) or 'e0 [label="nothing passed"]'
    lines = [
        f"  {ids[arrow.source]} {_sign(arrow)} {ids[arrow.target]} [label={_quoted(arrow.label)}];" for arrow in arrows
    ] or ["  |||;"]
    comments = [f"# {clean(line)}" for line in summary.split("\n")]
    return "\n".join(["msc {", '  hscale = "auto";', f"  {entities};", *lines, "}", *comments])


def _sign(arrow: Arrow) -> str:
    return _LOST if arrow.kind is Kind.REQUEST and arrow.took_s is None else _SIGNS[arrow.kind]


def _quoted(text: str) -> str:
    return '"' + clean(text).replace("\\", "/").replace('"', "'") + '"'

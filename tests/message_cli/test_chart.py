# SPDX-License-Identifier: Apache-2.0
"""Sequence charts: what answers what, and that nothing anybody sends breaks a drawing."""

import shutil
import subprocess
import xml.etree.ElementTree as ET
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from message_cli.chart import mscgen, svg, text
from message_cli.chart.conversation import LIFELINES_MAX, OTHERS, Arrow, Conversation, Kind, lifelines
from message_cli.chart.record import Seen, parse
from message_cli.exits import Complaint

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = st.text() | st.sampled_from(['"];', "<script>", "]]>", "&x;", "\\", "\n", "\x00", "\ud800", "\ufffe"])
NAMES = st.sampled_from(["a", "b", "amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to.x", ""]) | HOSTILE
SEEN = st.builds(
    Seen, way=st.sampled_from(["publish", "deliver", "x"]), where=NAMES, to=st.lists(NAMES, max_size=2), connection=NAMES,
    redelivered=st.booleans(), correlation_id=st.sampled_from(["1", "2", ""]), reply_to=NAMES, method=HOSTILE, fault=HOSTILE,
    bytes=st.integers(0, 2**40), seen_s=st.floats(0, 1e9),
)  # fmt: skip


def seen(
    at: float, to: str, *, asks: str = "", id: str = "1", method: str = "", fault: str = "", by: str = "c"
) -> Seen:
    return Seen(
        way="publish", where="", to=[to], connection=f"{by} -> broker", redelivered=False, correlation_id=id, reply_to=asks,
        method=method, fault=fault, bytes=7, seen_s=at,
    )  # fmt: skip


def talk_of(*messages: Seen) -> Conversation:
    talk = Conversation()
    for message in messages:
        talk.see(message)
    return talk


def test_replies_find_their_requests_by_place_and_id() -> None:
    talk = talk_of(
        seen(1.0, "q", asks="r1", method="VM.list"),
        seen(1.1, "q", asks="r2", method="VM.list", by="d"),
        seen(1.2, "r2", by="s"),
        seen(1.5, "r1", fault="Busy", by="s"),
        seen(1.6, "q", asks="r1", method="VM.start"),
    )
    drawn = [(a.kind, a.source, a.target, a.label) for a in talk.arrows]
    assert drawn == [
        (Kind.REQUEST, "c", "q", "VM.list"),
        (Kind.REQUEST, "d", "q", "VM.list"),
        (Kind.REPLY, "q", "d", "100.0 ms"),
        (Kind.REPLY, "q", "c", "Busy 500.0 ms"),
        (Kind.REQUEST, "c", "q", "VM.start (no reply)"),
    ]
    rows = {row["method"]: row for row in talk.latency()}
    assert rows["VM.list"] == {
        "method": "VM.list",
        "count": 2,
        "no_reply": 0,
        "faults": 1,
        "p50_ms": 100,
        "p99_ms": 500,
    }
    assert (rows["VM.start"]["count"], rows["VM.start"]["no_reply"]) == (1, 1)


def test_a_direct_reply_is_known_by_its_id_where_the_request_names_the_pseudo_queue() -> None:
    asked = seen(1.0, "q", asks="amq.rabbitmq.reply-to")
    assert talk_of(asked, seen(2.0, "amq.rabbitmq.reply-to.g1h2", id="2")).answered == 0
    assert talk_of(asked, seen(2.0, "amq.rabbitmq.reply-to.g1h2")).answered == 1


def test_what_is_of_no_interest_is_not_drawn_nor_are_its_replies() -> None:
    talk = Conversation(lambda queue: queue == "q")
    for message in (seen(1, "q", asks="r"), seen(1, "p", asks="r", id="2"), seen(2, "r", id="2"), seen(2, "r")):
        talk.see(message)
    assert [arrow.kind for arrow in talk.arrows] == [Kind.REQUEST, Kind.REPLY]


def test_many_peers_share_a_lifeline() -> None:
    talk = talk_of(*(seen(1, "q", by=f"c{number}") for number in range(100)))
    assert len(names := lifelines(talk.arrows)) == LIFELINES_MAX + 1
    assert names[-1] == OTHERS


@given(st.lists(SEEN, max_size=30))
def test_every_request_is_answered_once_at_most_and_all_is_drawn(messages: list[Seen]) -> None:
    talk = talk_of(*messages)
    replies = [arrow for arrow in talk.arrows if arrow.kind is Kind.REPLY]
    assert talk.answered == len(replies)
    assert sum(arrow.took_s is not None for arrow in talk.arrows if arrow.kind is Kind.REQUEST) == len(replies)
    lines = text.draw(talk.arrows).split("\n")
    assert len(lines) == len(talk.arrows) + 1
    assert all(line.isprintable() for line in lines)
    well_formed(svg.draw(talk.arrows, "summary"), talk.arrows)


def well_formed(document: str, arrows: list[Arrow]) -> None:
    """One tree of the few elements that we draw, whose attributes are ours."""
    document.encode()
    root = ET.fromstring(document)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg",
        "rect",
        "line",
        "text",
        "polygon",
        "circle",
    }
    assert len(root.findall(f"{SVG}polygon")) + len(root.findall(f"{SVG}circle")) == len(arrows)
    allowed = {"x", "y", "text-anchor", "{http://www.w3.org/XML/1998/namespace}space"}
    assert all(set(element.attrib) == allowed for element in root.findall(f"{SVG}text"))


@given(st.lists(SEEN, max_size=10), HOSTILE)
def test_a_string_of_mscgen_ends_where_it_should(messages: list[Seen], summary: str) -> None:
    talk = talk_of(*messages)
    lines = mscgen.draw(talk.arrows, summary).split("\n")
    end = lines.index("}")
    assert end == 3 + max(1, len(talk.arrows))
    for line in lines[3 : 3 + len(talk.arrows)]:
        assert line.endswith('"];')
        assert line.count('"') == 2
        assert "\\" not in line
    assert all(line.startswith("# ") and line.isprintable() for line in lines[end + 1 :])


@pytest.mark.skipif(shutil.which("mscgen") is None, reason="mscgen is not installed")
def test_mscgen_itself_draws_it(tmp_path: Path) -> None:
    again = msgspec.structs.replace(seen(3, "q", method='a"b\\n'), way="deliver", where="q", redelivered=True)
    talk = talk_of(seen(1, "q", asks="r"), seen(2, "r"), again, seen(4, "q", asks="r"), seen(5, "c"))
    for name, arrows in (("some", talk.arrows), ("none", [])):
        source = tmp_path / f"{name}.msc"
        source.write_text(mscgen.draw(arrows, "summary") + "\n")
        target = source.with_suffix(".svg")
        subprocess.run(["mscgen", "-T", "svg", "-i", source, "-o", target], check=True, timeout=60)
        assert target.stat().st_size > 0


@given(st.lists(st.binary()))
def test_any_file_is_records_or_a_complaint(untrusted: list[bytes]) -> None:
    with suppress(Complaint):
        assert len(list(parse(untrusted))) <= len(untrusted)


@given(SEEN)
def test_what_is_recorded_is_read_again(message: Seen) -> None:
    try:
        recorded = msgspec.json.encode(message)
    except UnicodeEncodeError:  # no JSON holds half a character
        return
    assert list(parse([b"\n", recorded])) == [message]


def test_what_is_no_record_is_told_by_its_line() -> None:
    with pytest.raises(Complaint, match="line 2"):
        list(parse([b"\n", b"{}"]))

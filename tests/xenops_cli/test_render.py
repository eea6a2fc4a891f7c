# SPDX-License-Identifier: Apache-2.0
"""What a person sees, letter by letter."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from xenops_cli.progress import line
from xenops_cli.render import values
from xenops_cli.render.tables import Column, View, clean, clean_text, facts, table

PLAIN = View()
NARROW = View(width=20)
COLOUR = View(colour=True)


def test_the_list_of_machines(fake: Any) -> None:
    assert values.machines(fake.MACHINES, PLAIN).splitlines() == [
        "Name       ID  Mem  VCPUs  State",
        "myfirstvm   7  200      1  Running",
        "other       -  256      1  Halted",
    ]


def test_chosen_columns_without_headers(fake: Any) -> None:
    view = View(columns=("uuid", "name", "type", "started"), headers=False)
    assert values.machines(fake.MACHINES, view).splitlines() == [
        "11111111-1111-4111-8111-111111111111  myfirstvm  HVM  2023-11-14T22:13:20Z",
        "22222222-2222-4222-8222-222222222222  other      HVM  -",
    ]


def test_ids_only(fake: Any) -> None:
    assert values.machines(fake.MACHINES, View(quiet=True)) == f"{fake.FIRST}\n{fake.SECOND}"
    assert values.machines([], View(quiet=True)) == ""


def test_no_machines_is_a_line_of_headers() -> None:
    assert values.machines([], PLAIN) == "Name  ID  Mem  VCPUs  State"


def test_colour_does_not_shift_the_columns(fake: Any) -> None:
    lines = values.machines(fake.MACHINES, COLOUR).splitlines()
    assert "\x1b[32mRunning\x1b[0m" in lines[1]
    bare = [text.replace("\x1b[32m", "").replace("\x1b[1m", "").replace("\x1b[0m", "") for text in lines]
    assert bare == values.machines(fake.MACHINES, PLAIN).splitlines()


def test_one_machine_is_one_fact_a_line(fake: Any) -> None:
    shown = values.machine(fake.MACHINES[0], PLAIN).splitlines()
    assert shown[:3] == [
        f"                            id: {fake.FIRST}",
        "                          name: myfirstvm",
        "                   power_state: Running",
    ]
    assert "                 memory_actual: 209715200 (200 MiB)" in shown
    assert "                      consoles: Vt100 5901" in shown
    assert "                guest_agent.os: linux" in shown


def test_the_tasks_and_their_steps(fake: Any) -> None:
    assert values.tasks(fake.ANSWERS["Task.list"], PLAIN).splitlines() == [
        "ID      Created               Operation    VM                                    State      Cancel  Outcome",
        f"task-1  2023-11-14T22:13:20Z  VM.start     {fake.FIRST}  Completed  -       0.4 s",
        "  |_ vm.Create                      Completed 0.1 s",
        "task-2  1970-01-01T00:00:00Z  VM.shutdown  -                                     Pending    yes     50%",
        "task-3  1970-01-01T00:00:00Z  VM.x         -                                     Failed     -       is busy",
    ]


def test_the_drives(cli: Any) -> None:
    assert cli("vbd-list", "myfirstvm").out.splitlines() == [
        "ID   Position  Mode       Type   Plugged  Disk",
        "hda  xvda      ReadWrite  Disk   yes      phy:/dev/loop0",
        "hdb  -         ReadWrite  CDROM  no       -",
    ]


def test_the_other_devices(cli: Any) -> None:
    assert cli("vif-list", "myfirstvm").out.splitlines()[1].split() == [
        "0",
        "0",
        "00:16:3e:74:3d:77",
        "xenbr0",
        "yes",
        "-",
    ]
    assert cli("pci-list", "myfirstvm").out.splitlines()[1].split() == ["0", "0", "0000:03:00.0", "no"]
    assert cli("vusb-list", "myfirstvm", "--no-headers").out.split() == ["u", "1", "2", "2.0", "no"]
    assert cli("vgpu-list", "myfirstvm", "-o", "type").out == "Type\nEmpty\n"


def test_an_event_is_a_line(cli: Any) -> None:
    first = cli("events", "--count", "1").out
    assert first == "22:13:20 changed  vm      11111111-1111-4111-8111-111111111111  myfirstvm Running\n"


def test_the_console_ring_is_safe_to_print(cli: Any) -> None:
    assert cli("dmesg").out == "(XEN) hello\n(XEN) �[31mworld\n"


def test_a_long_name_is_cut_on_a_terminal_only() -> None:
    rows = [("a very long name indeed", "x")]
    columns = (Column("name", "Name", lambda r: r[0]), Column("x", "X", lambda r: r[1]))
    assert table(rows, columns, PLAIN).splitlines()[1] == "a very long name indeed  x"
    assert table(rows, columns, NARROW).splitlines()[1] == "a very long name…  x"


def test_wide_letters_keep_the_columns_straight() -> None:
    rows = [("日本", "x"), ("ab", "y")]
    columns = (Column("name", "N", lambda r: r[0]), Column("x", "X", lambda r: r[1]))
    assert table(rows, columns, PLAIN).splitlines() == ["N     X", "日本  x", "ab    y"]


def test_the_bar() -> None:
    assert line("start vm", 0.5) == "start vm  [############------------]  50%"
    assert line("x", -1).endswith("0%")
    assert line("x", 7).endswith("100%")


@given(st.lists(st.tuples(st.text(), st.text())), st.integers(1, 60), st.booleans(), st.booleans())
def test_no_text_breaks_a_table(rows: list[tuple[str, str]], width: int, headers: bool, colour: bool) -> None:
    columns = (Column("a", "A", lambda r: r[0]), Column("b", "B", lambda r: r[1], right=True))
    shown = table(rows, columns, View(width=width, headers=headers))
    assert len(shown.split("\n")) == max(1, len(rows) + headers)
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert table(rows, columns, View(colour=colour)).count("\n") == len(rows)


@given(st.text())
def test_cleaned_text_is_printable(untrusted: str) -> None:
    assert clean(untrusted).isprintable()
    assert all(c.isprintable() or c in "\n\t" for c in clean_text(untrusted))
    assert "\n" not in facts([(untrusted, untrusted)])

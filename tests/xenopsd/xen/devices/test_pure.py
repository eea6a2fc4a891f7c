# SPDX-License-Identifier: Apache-2.0
"""What is read back from xenstore and what is written there, without one."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenops.errors import BadRequest, IoError
from xenops.types.disk import Local
from xenops.types.record import UNSET
from xenops.types.vbd import IoniceClass, Qos
from xenops.types.vif import Rate
from xenopsd.backends.xen.devices import bridge, drive, hotplug, medium, nic, priority, xenbus
from xenopsd.backends.xen.devices.xenbus import State


@given(st.none() | st.text(max_size=3))
def test_every_state_is_a_state(untrusted: str | None) -> None:
    state = xenbus.parse(untrusted)
    assert state is State.UNKNOWN or str(int(state)) == untrusted


def test_the_handshake() -> None:
    for table in (xenbus.BACK_END, xenbus.FRONT_END):
        assert set(table) == set(State)
        reached, ahead = {State.UNKNOWN}, [State.UNKNOWN]
        while ahead:
            new = table[ahead.pop()] - reached
            reached |= new
            ahead += new
        assert {State.CONNECTED, State.CLOSING, State.CLOSED} <= reached
        assert all(State.CLOSED in table[state] for state in reached - {State.UNKNOWN, State.CLOSED})
    for back in State:
        assert xenbus.is_ready(back) + xenbus.is_ending(back) + (back in (State.UNKNOWN, State.INITIALISING)) == 1
    assert [state for state in State if not xenbus.in_use(state)] == [0, 1, 2, 6]
    assert "CONNECTED      -> CLOSED, CLOSING, RECONFIGURING" in xenbus.drawing()


def test_media_in_drives() -> None:
    noted = msgspec.json.encode(Local(path="/a", format="qcow2")).decode()
    assert drive.medium_present(noted, "qcow2:/a", "qcow2:/a") == Local(path="/a", format="qcow2")
    assert drive.medium_present(noted, "qcow2:/a", "aio:/b") == Local(path="/b")
    assert drive.medium_present(noted, "qcow2:/a", "/dev/c:d") == Local(path="/dev/c:d")
    assert drive.medium_present(noted, "qcow2:/a", "") is UNSET
    assert drive.medium_present(noted, "qcow2:/a", None) is UNSET
    assert drive.medium_present(None, None, "aio:") is UNSET


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_params_surprise(noted_params: str, params: str) -> None:
    found = drive.medium_present(None, noted_params, params)
    assert found is UNSET or isinstance(found, Local)


def test_numbers_of_drives() -> None:
    assert drive.next_number([], hvm=True).name == "hda"
    assert drive.next_number([768, 832, 5632, 5696], hvm=True).name == "xvde"
    assert drive.next_number([51712, 268442112], hvm=False).name == "xvdab"


@given(st.text(max_size=12))
def test_no_physical_device_surprises(untrusted: str) -> None:
    found = medium.identity_of(untrusted)
    assert found is None or found[0] in ("block", "file")


def test_rates() -> None:
    assert nic.rate(Rate(kbytes_per_s=1000, timeslice_us=20000)) == "20480,20000"
    for kbytes, slice_us in ((1, 1), (0xFFFFFFFF, 50000)):
        with pytest.raises(BadRequest):
            nic.rate(Rate(kbytes_per_s=kbytes, timeslice_us=slice_us))


def test_priorities() -> None:
    assert priority.words(Qos(ionice=IoniceClass.BEST_EFFORT, level=6)) == ["-c", "2", "-n", "6"]
    assert priority.words(Qos(ionice=IoniceClass.IDLE)) == ["-c", "3"]
    assert priority.words(None) == ["-c", "0"]


def test_names_that_become_paths() -> None:
    assert hotplug.located("vif-route") == "/etc/xen/scripts/vif-route"
    assert hotplug.located("/opt/script") == "/opt/script"
    for bad in ("../x", "a/b", "..", "."):
        with pytest.raises(BadRequest):
            hotplug.located(bad)
    for bad in ("", "..", "a/b", "sixteencharacters", "a\n"):
        with pytest.raises(IoError):
            bridge.check(bad)
    with pytest.raises(IoError, match="ip link add xenbr99 type bridge"):
        bridge.check("xenbr99")
    with pytest.raises(IoError, match="no Linux bridge"):
        bridge.check("lo")

# SPDX-License-Identifier: Apache-2.0
"""The monitor's protocol: any split of the bytes is the same conversation, and no bytes do harm."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenopsd.backends.xen.devicemodel.qmp import (
    LINE_LIMIT,
    Conversation,
    Event,
    Greeting,
    Message,
    NoMonitor,
    Refused,
    Reply,
    command,
)

HELLO = b'{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}'
SAID = [
    HELLO,
    b'{"return": {}, "id": 1}',
    b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RTC_CHANGE", "data": {"offset": -3600}}',
    b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}',
    b'{"id": 2, "error": {"class": "DeviceNotFound", "desc": "Device \'x\' not found"}}',
    b'{"return": [{"label": "serial0", "filename": "pty:/dev/pts/3"}], "id": 3}',
    b'{"return": null, "id": 4}',
]
MEANT: list[Message] = [
    Greeting((7, 2, 22)),
    Reply(1, {}),
    Event("RTC_CHANGE", {"offset": -3600}),
    Event("STOP", {}),
    Refused(2, "DeviceNotFound", "Device 'x' not found"),
    Reply(3, [{"label": "serial0", "filename": "pty:/dev/pts/3"}]),
    Reply(4, None),
]
CONVERSATION = b"\r\n".join(SAID) + b"\r\n"


@given(st.lists(st.integers(0, len(CONVERSATION))))
def test_any_split_is_the_same_conversation(cuts: list[int]) -> None:
    conversation, heard = Conversation(), []
    ends = [0, *sorted(cuts), len(CONVERSATION)]
    for start, end in pairwise(ends):
        heard += conversation.feed(CONVERSATION[start:end])
    assert heard == MEANT


@pytest.mark.parametrize(
    "untrusted",
    [
        b"HTTP/1.1 200 OK\n",
        b'{"return": {}, "id": 1}\n',  # before the greeting
        HELLO + b"\n" + HELLO + b"\n",
        HELLO + b'\n{"return": {}}\n',
        HELLO + b'\n{"id": 1}\n',
        HELLO + b'\n{"event": 7}\n',
        HELLO + b'\n{"error": {}, "id": 1}\n',
        HELLO + b"\n" + b"[" * 100_000 + b"\n",
        HELLO + b'\n{"event": "\xff"}\n',
        b" " * (LINE_LIMIT + 1),
    ],
)
def test_what_is_no_conversation_ends_it_for_good(untrusted: bytes) -> None:
    conversation = Conversation()
    with pytest.raises(NoMonitor):
        conversation.feed(untrusted)
    with pytest.raises(NoMonitor):
        conversation.feed(HELLO + b"\n")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["QMP", "id", "return", "error", "event", "data"]), inner)
    ),
)


@given(st.one_of(st.binary(), _JSON.map(lambda value: HELLO + b"\n" + json.dumps(value).encode() + b"\n")))
def test_no_bytes_do_harm(untrusted: bytes) -> None:
    try:
        heard = Conversation().feed(untrusted)
    except NoMonitor:
        return
    assert all(isinstance(message, Greeting | Reply | Refused | Event) for message in heard)


def test_commands_are_a_line_each() -> None:
    said = command(5, "eject", {"device": "ide-5632", "note": "a\nb"})
    assert said.endswith(b"}\n")
    assert said.count(b"\n") == 1
    assert json.loads(said) == {"execute": "eject", "arguments": {"device": "ide-5632", "note": "a\nb"}, "id": 5}

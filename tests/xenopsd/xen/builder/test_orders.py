# SPDX-License-Identifier: Apache-2.0
"""What daemon and builder say: any cut of the bytes is the same conversation, and nonsense is told as such."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenopsd.backends.xen.builder import orders
from xenopsd.backends.xen.builder.orders import (
    AskLogDirty,
    AskSuspend,
    Build,
    Built,
    DumpCore,
    Failed,
    Free,
    GuestKind,
    Hello,
    Inbox,
    LogDirty,
    Malformed,
    Message,
    Progress,
    Restore,
    Restored,
    Save,
    Suspended,
    Unpack,
)

TO_BUILDER: list[Message] = [
    Build(
        domid=1,
        kind=GuestKind.PVH,
        kernel="/boot/vmlinuz",
        memory_max_mib=256,
        memory_target_mib=128,
        vcpus=2,
        store_port=1,
        console_port=2,
        cmdline="console=hvc0",
    ),
    Unpack("/boot/vmlinuz"),
    Save(domid=7, path="/img", metadata=b"\0\xff", hvm=True, live=True),
    Restore(domid=7, path="/img", hvm=True, store_port=1, console_port=2, qemu_state_path="/q"),
    DumpCore(3, "/core"),
    Suspended(ok=True, qemu_state_path="/run/q"),
    LogDirty(ok=False),
]
FROM_BUILDER: list[Message] = [
    Hello("4.17"),
    Built(4711, 4712),
    Restored(1, 2, b"who", has_qemu_state=True),
    Failed({"name": "IoError", "fields": {}, "message": ""}, ["xc: no"]),
    Free(),
    Progress(0.5),
    AskSuspend(),
    AskLogDirty(enable=True),
]


@pytest.mark.parametrize(
    ("messages", "decoder"), [(TO_BUILDER, orders.to_builder), (FROM_BUILDER, orders.from_builder)]
)
@given(data=st.data())
def test_any_cut_is_the_same_conversation(
    messages: list[Message], decoder: "msgspec.msgpack.Decoder[Message]", data: st.DataObject
) -> None:
    said = data.draw(st.lists(st.sampled_from(messages), max_size=8))
    stream = b"".join(map(orders.pack, said))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    inbox = Inbox()
    heard = [
        decoder.decode(body)
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for body in inbox.receive(stream[start:end])
    ]
    assert heard == said


@given(st.binary(max_size=200))
def test_nonsense_is_malformed_or_waited_for(untrusted: bytes) -> None:
    with contextlib.suppress(Malformed):
        for body in Inbox().receive(untrusted):
            with contextlib.suppress(msgspec.MsgspecError):
                orders.to_builder.decode(body)


def test_a_length_beyond_reason_is_refused() -> None:
    with pytest.raises(Malformed, match="bytes"):
        list(Inbox().receive((orders.LIMIT + 1).to_bytes(4)))

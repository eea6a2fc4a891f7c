# SPDX-License-Identifier: Apache-2.0
"""All operations, as the journal reads them back: add a new one to the union, and nothing else knows of it."""

import msgspec

from xenops.errors import BadRequest
from xenopsd.operations.devices import Eject, Insert, Plug, Unplug
from xenopsd.operations.migrate import Migrate
from xenopsd.operations.operation import Operation
from xenopsd.operations.reboot import Reboot
from xenopsd.operations.settings import (
    Move,
    SetCarrier,
    SetIpv4Configuration,
    SetIpv6Configuration,
    SetLockingMode,
    SetMemoryDynamicRange,
    SetPvsProxy,
    SetShadowMultiplier,
    SetTrunks,
    SetVcpus,
    SetXsdata,
)
from xenopsd.operations.shutdown import Shutdown
from xenopsd.operations.start import Start
from xenopsd.operations.steps import (
    Build,
    Create,
    CreateDeviceModel,
    Delay,
    Destroy,
    Pause,
    RunScript,
    S3Resume,
    S3Suspend,
    Unpause,
)
from xenopsd.operations.suspend import Checkpoint, FastResume, Resume, Suspend

_Life = Start | Shutdown | Reboot | Suspend | Resume | Checkpoint | FastResume | Destroy | Migrate
_Steps = Create | Build | CreateDeviceModel | Pause | Unpause | S3Suspend | S3Resume | Delay | RunScript
_Settings = SetVcpus | SetShadowMultiplier | SetMemoryDynamicRange | SetXsdata
_VifSettings = (
    Move | SetCarrier | SetLockingMode | SetIpv4Configuration | SetIpv6Configuration | SetPvsProxy | SetTrunks
)
_Devices = Plug | Unplug | Insert | Eject
AnyOperation = _Life | _Steps | _Settings | _VifSettings | _Devices

_decoder = msgspec.msgpack.Decoder(AnyOperation)


class _Until(msgspec.Struct):
    """What is kept beside an operation's own fields."""

    deadline: int | None = None


_until = msgspec.msgpack.Decoder(_Until)


def encode(operation: Operation, deadline: int | None = None) -> bytes:
    """An operation as the journal keeps it, and the Unix milliseconds after which it must not begin any more."""
    if deadline is None:
        return msgspec.msgpack.encode(operation)
    fields = msgspec.to_builtins(operation, builtin_types=(bytes,))
    return msgspec.msgpack.encode({**fields, "deadline": deadline})


def deadline(untrusted: bytes) -> int | None:
    """The deadline of what `decode` reads."""
    return _until.decode(untrusted).deadline


def decode(untrusted: bytes) -> Operation:
    """An operation as the journal kept it; one that this version does not know is a `BadRequest`."""
    try:
        decoded: Operation = _decoder.decode(untrusted)
        return decoded
    except msgspec.DecodeError as error:
        raise BadRequest("journal", f"holds an operation that this version does not know: {error}") from None

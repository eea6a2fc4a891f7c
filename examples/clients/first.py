# SPDX-License-Identifier: Apache-2.0
"""A first client: register a machine, start it, look at it, and take it away again."""

from xenops.blocking import connect_blocking
from xenops.types.vm import Hvm, Vm

with connect_blocking() as xenops:
    info = xenops.query()
    print(f"{info.name} on {info.host}, queue {info.queue}")
    xenops.VM.add(Vm(id="first", name="first", ty=Hvm()))
    xenops.finished(xenops.VM.start("first", paused=False))
    print("first is", xenops.VM.stat("first").state.power_state.value)
    xenops.finished(xenops.VM.shutdown("first"))
    xenops.VM.remove("first")

# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.xenopsd.store.schema_1`: make tests/golden/store/schema-1.db, a store as the first version left it.

The statements are that version's own and never change; the committed file is what the tests open.
"""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import msgspec

from tests.xenopsd.machines import full_machine, plain_vm
from xenops.types.task import Completed, Task
from xenopsd.operations.catalog import encode
from xenopsd.operations.start import Start

GOLDEN = Path(__file__).parents[2] / "golden" / "store" / "schema-1.db"
_SCHEMA = """
CREATE TABLE machines (id TEXT PRIMARY KEY, seq INTEGER NOT NULL, body BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE devices (vm TEXT NOT NULL, kind TEXT NOT NULL, dev TEXT NOT NULL, seq INTEGER NOT NULL,
    active INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (vm, kind, dev)) STRICT, WITHOUT ROWID;
CREATE TABLE tasks (id TEXT PRIMARY KEY, message_id TEXT, begun INTEGER NOT NULL, payload BLOB NOT NULL,
    record BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE outcomes (message_id TEXT PRIMARY KEY, at INTEGER NOT NULL, reply BLOB NOT NULL) STRICT, WITHOUT ROWID;
PRAGMA user_version = 1;
"""
TASK = Task(id="18c-1", operation="VM.start", vm="vm-1", ctime=1, state=Completed(duration_s=0.5))


def main() -> int:
    """Write it anew."""
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.unlink(missing_ok=True)
    machine, pack = full_machine("vm-1"), msgspec.msgpack.encode
    with closing(sqlite3.connect(GOLDEN)) as store:
        store.executescript(_SCHEMA)
        store.execute("INSERT INTO machines VALUES (?, ?, ?)", ("vm-1", 1, pack(machine.vm)))
        store.execute("INSERT INTO machines VALUES (?, ?, ?)", ("vm-2", 2, pack(plain_vm("vm-2"))))
        seq = 2
        for kind, devices in machine.devices.items():
            for dev, device in devices.items():
                seq += 1
                row = ("vm-1", kind.value, dev, seq, int(dev == "xvda"), pack(device.record))
                store.execute("INSERT INTO devices VALUES (?, ?, ?, ?, ?, ?)", row)
        row = (TASK.id, "m-1", 1, encode(Start(vm="vm-1")), pack(TASK))
        store.execute("INSERT INTO tasks VALUES (?, ?, ?, ?, ?)", row)
        store.execute("INSERT INTO outcomes VALUES (?, ?, ?)", ("m-1", 4102444800, b"reply"))
        store.commit()
    return 0


if __name__ == "__main__":
    sys.exit(main())

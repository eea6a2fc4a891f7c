# SPDX-License-Identifier: Apache-2.0
"""Makes the modules that hold the declarations ready to use, so that no C is parsed at run time.

python -m xenopsd.backends.xen.declarations [FOLDER]
"""

import sys
from pathlib import Path

import cffi

HERE = Path(__file__).parent
_TITLE = '''# SPDX-License-Identifier: Apache-2.0
"""The declarations of {}, ready to use: made by `python -m xenopsd.backends.xen.declarations`, not to be edited."""

# ruff: noqa
# fmt: off
# mypy: ignore-errors
'''


def generate(folder: Path) -> list[Path]:
    """Write one module for each `.h` beside this file; which ones."""
    made = []
    for header in sorted(HERE.glob("v*.h")):
        builder = cffi.FFI()
        builder.cdef(header.read_text(encoding="utf-8"))
        builder.set_source(f"xenopsd.backends.xen.declarations.{header.stem}", None)
        module = folder / f"{header.stem}.py"
        builder.emit_python_code(str(module))
        module.write_text(_TITLE.format(header.name) + module.read_text(encoding="utf-8"), encoding="utf-8")
        made.append(module)
    return made


if __name__ == "__main__":
    for path in generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE):
        print(path)

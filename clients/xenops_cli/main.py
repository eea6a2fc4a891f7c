# SPDX-License-Identifier: Apache-2.0
"""The console script: a process that lives for one command, most of whose time goes into reading code.

It says so to the interpreter: nothing is worth collecting, and nothing needs to be taken apart at the end.
"""

import gc
import io
import os
import sys
from importlib import import_module
from typing import NoReturn


def main() -> NoReturn:
    """Run the command of this command line, and end with its exit code."""
    gc.disable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name that the terminal cannot show must not stop a command
    code = import_module("xenops_cli.run").run(sys.argv[1:], import_module("xenops_cli.bus").connected)
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has had enough, as `head` does
        code = 1
    sys.stderr.flush()
    os._exit(code)

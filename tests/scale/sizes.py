# SPDX-License-Identifier: Apache-2.0
"""How many of everything: a few for `make test`, with SCALE=all what one host must carry (`make test-scale`). Pure."""

import os

ALL = os.environ.get("SCALE") == "all"

REGISTERED = 10_000 if ALL else 300
RUNNING = 2_000 if ALL else 60
ORCHESTRATORS = 64
LIVES = 20 if ALL else 1  # that each orchestrator lives through
PATIENCE_S = 900 if ALL else 50  # for one test; on an emulated host too

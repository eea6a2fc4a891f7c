# SPDX-License-Identifier: Apache-2.0
"""The benchmark inside the control domain: one measurement after the other, all results as JSON at the end.

Usage: python -m bench.xen.inside RESULTS.json [--runs N] [MEASUREMENT …]
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from bench.xen import devices, images, many, starts
from bench.xen.desk import Row, desk

MEASUREMENTS = {"devices": devices.measure, "many": many.measure, "images": images.measure}


async def main(target: Path, runs: int, chosen: list[str]) -> int:
    """Measure, print, write."""
    Path("/rig/tmp").mkdir(exist_ok=True)
    began = time.monotonic()
    rows: list[Row] = []
    steps: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/rig/tmp") as folder:  # /tmp is memory
        async with desk(Path(folder)) as at_hand:
            if "starts" in chosen:
                found, steps = await starts.measure(at_hand, runs)
                rows += found
            for name in chosen:
                if name in MEASUREMENTS:
                    rows += await MEASUREMENTS[name](at_hand, runs)
                    print(f"{name}: {time.monotonic() - began:.0f} s since the beginning", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(
        json.dumps({"runs": runs, "rows": [row._asdict() for row in rows], "steps": steps}, indent=2) + "\n"
    )
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("measurements", nargs="*", help="starts, devices, many, images; all by default")
    options = parser.parse_intermixed_args()
    sys.exit(asyncio.run(main(options.results, options.runs, options.measurements or ["starts", *MEASUREMENTS])))

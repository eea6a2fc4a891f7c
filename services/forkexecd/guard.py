# SPDX-License-Identifier: Apache-2.0
"""The process that outlives forkexecd by a moment, to kill the programs of one that died without ending them.

It must never import more than it needs: it is started with every forkexecd and stays in memory.
"""

import sys

from forkexecd import posix


def main() -> None:
    """Follow `+pgid` and `-pgid` lines on standard input; at their end, kill the groups that are left."""
    posix.outlive_signals()
    groups: set[int] = set()
    for line in sys.stdin.buffer:
        change, group = line[:1], int(line[1:])
        if change == b"+":
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        posix.kill_group(group)


if __name__ == "__main__":
    main()

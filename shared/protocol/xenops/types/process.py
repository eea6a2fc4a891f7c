# SPDX-License-Identifier: Apache-2.0
"""A program to run and how it ended."""

from typing import Annotated

from msgspec import Meta, field

from xenops.types.record import UNSET, Maybe, Record


class Ended(Record, frozen=True, kw_only=True):
    """How a program ended: an exit `code`, or the number of the `signal` that killed it; output beyond the limit is cut."""

    code: Maybe[int] = UNSET
    signal: Maybe[int] = UNSET
    timed_out: bool = False
    stdout: bytes = b""
    stderr: bytes = b""
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    duration_s: float = 0.0


class Program(Record, frozen=True, kw_only=True):
    """A program by absolute path with its arguments; nothing of the service's own environment is inherited."""

    argv: Annotated[list[str], Meta(min_length=1, max_length=4096)]
    env: dict[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    cwd: str = "/"
    timeout_s: Annotated[float, Meta(gt=0, le=86400)] = 60.0
    output_limit: Annotated[int, Meta(ge=0, le=16 << 20, description="bytes kept of each output")] = 1 << 16

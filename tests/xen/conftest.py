# SPDX-License-Identifier: Apache-2.0
"""Keeps the acceptance suite out of an ordinary test run: it needs a dom0, and `make test-xen` brings one."""

from pathlib import Path


def _in_dom0() -> bool:
    try:
        return "control_d" in Path("/proc/xen/capabilities").read_text()
    except OSError:
        return False


collect_ignore = [] if _in_dom0() else ["acceptance"]


def pytest_report_header() -> str | None:
    return None if _in_dom0() else "tests/xen/acceptance: left out, this is no dom0 (make test-xen runs it in one)"

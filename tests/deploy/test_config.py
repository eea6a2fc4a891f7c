# SPDX-License-Identifier: Apache-2.0
"""What deploy/ holds for operators is what the programs understand: sample files, units, alerts."""

import asyncio
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import msgspec
import pytest

from deploy.local.stack import Stack
from forkexecd.config import ForkexecdSettings
from message_switch.config import SwitchSettings
from vncproxy.config import VncproxySettings
from xenops.service.settings import Settings, parse_file
from xenopsd.config import XenopsdSettings

DEPLOY = Path(__file__).parents[2] / "deploy"
SETTINGS: dict[str, type[Settings]] = {
    "message-switch": SwitchSettings,
    "forkexecd": ForkexecdSettings,
    "vncproxy": VncproxySettings,
    "xenopsd": XenopsdSettings,
}


@pytest.mark.parametrize("program", SETTINGS)
def test_sample_files_hold_known_keys(program: str) -> None:
    path = DEPLOY / "config" / f"{program}.conf"
    keys = parse_file(path.read_text(), filename=str(path))
    known = {field.name.replace("_", "-") for field in msgspec.structs.fields(SETTINGS[program])}
    assert keys
    assert set(keys) <= known


@pytest.mark.parametrize("program", SETTINGS)
def test_units_are_accepted_by_systemd(program: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / f"{program}.service"
    unit.write_text((DEPLOY / "systemd" / unit.name).read_text().replace("/usr/bin/", "/bin/true #"))
    ended = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False, timeout=50)
    complaints = [line for line in ended.stderr.splitlines() if unit.name in line]
    assert complaints == []
    if program in ("message-switch", "vncproxy"):
        security = [analyze, "security", "--offline=true", "--threshold=30", str(unit)]
        ended = subprocess.run(security, capture_output=True, text=True, check=False, timeout=50)
        assert ended.returncode == 0, ended.stdout[-400:]


def promtool(*arguments: str) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed")
    ended = subprocess.run(
        [program, *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False, timeout=50
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


CHECKS = [("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")]


@pytest.mark.parametrize("what", CHECKS)
def test_prometheus_accepts_its_configuration(what: tuple[str, ...]) -> None:
    promtool(*what)


def test_alerts_speak_of_metrics_that_there_are(tmp_path: Path) -> None:
    text = (DEPLOY / "prometheus" / "alerts.yml").read_text()
    named = set(
        re.findall(
            r"\b((?:xenopsd|bus|forkexecd|vncproxy|message_switch)_[a-z_]+)\b",
            " ".join(re.findall(r"expr: (.*)", text)),
        )
    )
    assert len(named) >= 3

    async def scrape() -> str:
        stack = Stack(tmp_path, log_to=tmp_path / "log")
        try:
            found = await stack.start()
            return await asyncio.to_thread(_get, found.metrics["xenopsd"])
        finally:
            await stack.stop()

    exported = asyncio.run(scrape())
    assert {
        name for name in named if f"\n# TYPE {name.removesuffix('_total')}" not in exported and name not in exported
    } == set()


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as reply:
        text: str = reply.read().decode()
        return text

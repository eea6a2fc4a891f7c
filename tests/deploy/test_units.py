# SPDX-License-Identifier: Apache-2.0
"""The units together: who owns what, who waits for whom, and how closed each is."""

import configparser
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from xenops.service.settings import parse_file
from xenops.where import FILE, RUN_DIRECTORY

TOP = Path(__file__).parents[2]
UNITS = TOP / "deploy/systemd"
SCRIPTS = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["scripts"]
SERVICES = sorted(set(SCRIPTS) - {"message-cli", "xenops-cli"})
# systemd's exposure, in tenths. The programs that forkexecd runs inherit its restrictions, so it has few.
EXPOSURE = {"forkexecd": 42, "message-switch": 14, "vncproxy": 15, "xenopsd": 15}


class _Unit(configparser.RawConfigParser):
    """A unit; of a key that is there several times, the last."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def unit(service: str) -> configparser.RawConfigParser:
    found = _Unit(strict=False)
    found.read(UNITS / f"{service}.service")
    return found


def test_every_service_has_a_unit() -> None:
    assert sorted(path.stem for path in UNITS.glob("*.service")) == SERVICES == sorted(EXPOSURE)


@pytest.mark.parametrize("service", SERVICES)
def test_it_runs_its_program_as_a_user_of_ours_and_says_when_it_is_ready(service: str) -> None:
    users = [line.split()[1] for line in (UNITS / "sysusers.conf").read_text().splitlines() if line.startswith("u ")]
    section = unit(service)["Service"]
    assert section["Type"] == "notify"
    assert section["ExecStart"] == f"/usr/bin/{service}"
    assert section["User"] in users


@pytest.mark.parametrize("service", SERVICES)
def test_it_is_started_again_for_ever_unless_its_settings_are_wrong(service: str) -> None:
    loaded = unit(service)
    assert loaded["Unit"]["StartLimitIntervalSec"] == "0"
    assert loaded["Service"]["Restart"] == "on-failure"
    assert loaded["Service"]["RestartPreventExitStatus"] == "2"


def test_the_file_for_clients_lies_where_they_look_and_where_xenopsd_may_write() -> None:
    keys = parse_file((TOP / "deploy/config/xenopsd.conf").read_text(), filename="xenopsd.conf")
    assert keys["where-file"] == str(RUN_DIRECTORY / FILE)
    section = unit("xenopsd")["Service"]
    assert f"/run/{section['RuntimeDirectory']}" == str(RUN_DIRECTORY)
    assert section["RuntimeDirectoryMode"] == "0700"


def test_no_two_users_share_a_directory() -> None:
    """systemd gives all that is in a state directory to the user of the unit that starts last."""
    owners: dict[str, set[str]] = {}
    for section in (unit(service)["Service"] for service in SERVICES):
        for key in ("StateDirectory", "RuntimeDirectory"):
            for directory in section.get(key, "").split():
                owners.setdefault(f"{key} {directory}", set()).add(section.get("User", "root"))
    assert {directory: users for directory, users in owners.items() if len(users) > 1} == {}


def test_consoles_are_reached_as_the_user_who_made_them() -> None:
    assert unit("vncproxy")["Service"]["User"] == unit("xenopsd")["Service"]["User"]


@pytest.mark.parametrize("service", ["forkexecd", "vncproxy", "xenopsd"])
def test_it_waits_for_the_switch_and_for_no_other_service(service: str) -> None:
    loaded = unit(service)
    assert loaded["Service"]["TimeoutStartSec"] == "infinity"
    assert set(loaded["Unit"]["After"].split()) == {
        "network.target",
        "message-switch.service",
        "rabbitmq-server.service",
    }


@pytest.mark.parametrize("service", SERVICES)
def test_it_is_closed_as_far_as_its_service_allows(service: str) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    security = [analyze, "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE[service]}"]
    ended = subprocess.run(
        [*security, str(UNITS / f"{service}.service")], capture_output=True, text=True, timeout=50, check=False
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr

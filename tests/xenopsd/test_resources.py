# SPDX-License-Identifier: Apache-2.0
"""The scan for helper programs reports all that is missing at once, with key, places and package."""

from pathlib import Path

import pytest

from xenopsd.config import Settings, XenopsdSettings
from xenopsd.main import check_resources
from xenopsd.resources import RESOURCES, complain, scan, search_path


def test_all_that_is_missing_is_reported_at_once(tmp_path: Path) -> None:
    chosen = {resource.key: f"no-such-{resource.key}" for resource in RESOURCES}
    found, missing = scan("xen", chosen, [tmp_path])
    assert found == {}
    text = complain(missing, program="xenopsd", file="/etc/xenopsd/xenopsd.conf")
    assert f"{len(RESOURCES)} helper(s) missing" in text
    for resource in RESOURCES:
        assert f"{tmp_path}/no-such-{resource.key}" in text
        assert f"apt install {resource.package}" in text
        assert f"{resource.key} = PATH in /etc/xenopsd/xenopsd.conf, or --{resource.key}=PATH" in text


def test_what_is_found_needs_the_right_permission(tmp_path: Path) -> None:
    program, firmware = tmp_path / "pygrub", tmp_path / "hvmloader"
    for path in (program, firmware):
        path.write_text("x")
        path.chmod(0o644)
    found, _ = scan("xen", {}, [tmp_path])
    assert found["hvmloader"] == firmware
    assert "pygrub" not in found
    program.chmod(0o755)
    found, missing = scan("xen", {"pygrub": str(program), "qemu": "/none"}, [])
    assert found["pygrub"] == program
    assert next(it for it in missing if it.resource.key == "qemu").searched == ("/none",)


def test_the_simulator_needs_nothing() -> None:
    assert scan("simulator", {}, []) == ({}, [])
    settings: Settings = XenopsdSettings()
    check_resources(settings)


@pytest.mark.parametrize("environ", [{"PATH": "/a:/b"}, {}])
def test_the_search_path_holds_what_is_configured(environ: dict[str, str]) -> None:
    places = search_path(environ, ["/mine"])
    assert Path("/mine") in places
    assert ("PATH" not in environ) or places[:2] == [Path("/a"), Path("/b")]

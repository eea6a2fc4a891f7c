# SPDX-License-Identifier: Apache-2.0
"""A host as deploy/systemd sets it up, below a folder: passwords are made once, and xenops-cli needs no options."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

from tests.message_switch.conftest import SwitchProcess
from xenops.service.bus import BusSettings

SCRIPT = Path(__file__).parents[2] / "deploy/systemd/secrets.sh"
BIN = Path(sys.executable).parent
PASSWORD, URL = "var/lib/message-switch/password", "etc/xenopsd/amqp-url"


def make(root: Path) -> tuple[str, str]:
    """The password and the URL, and nothing said of them."""
    ended = subprocess.run([SCRIPT, root], check=True, capture_output=True, text=True, timeout=20)
    assert ended.stdout + ended.stderr == ""
    assert {stat.S_IMODE((root / path).stat().st_mode) for path in (PASSWORD, URL)} == {0o600}
    return (root / PASSWORD).read_text().strip(), BusSettings(amqp_url_file=str(root / URL)).url()


def test_passwords_are_made_once_and_kept(tmp_path: Path) -> None:
    first = make(tmp_path / "a")
    assert make(tmp_path / "a") == first
    assert len(first[0]) == 32
    assert first[1] == f"amqp://xenops:{first[0]}@127.0.0.1:5672/%2F"
    assert make(tmp_path / "b")[0] != first[0]


def test_a_password_that_was_there_is_kept_and_quoted(tmp_path: Path) -> None:
    (tmp_path / PASSWORD).parent.mkdir(parents=True)
    (tmp_path / PASSWORD).touch(mode=0o600)
    (tmp_path / PASSWORD).write_text("p/w@ä\n")
    assert make(tmp_path) == ("p/w@ä", "amqp://xenops:p%2Fw%40%C3%A4@127.0.0.1:5672/%2F")


def test_the_client_finds_a_service_that_was_told_to_say_where_it_is(tmp_path: Path) -> None:
    make(tmp_path)
    switch = SwitchProcess((tmp_path / PASSWORD).parent)
    switch.start()
    url = tmp_path / URL
    url.write_text(url.read_text().replace(":5672", f":{(switch.data / 'port').read_text().strip()}"))
    where = tmp_path / "run/where.json"
    where.parent.mkdir()
    flags = (f"--amqp-url-file={url}", f"--state-dir={tmp_path / 'state'}", f"--where-file={where}", "--host=h")
    environ = {**os.environ, "XENOPS_WHERE": str(where)}
    cli = [str(BIN / "xenops-cli"), "list", "--json"]
    try:
        with subprocess.Popen([BIN / "xenopsd", *flags], stderr=subprocess.PIPE, text=True) as service:
            assert service.stderr is not None
            try:
                assert any("serving the queue" in line for line in service.stderr), "it ended before it served"
                assert stat.S_IMODE(where.stat().st_mode) == 0o600
                assert subprocess.run(cli, env=environ, check=True, capture_output=True, timeout=20).stdout == b"[]\n"
            finally:
                service.send_signal(signal.SIGTERM)
                service.stderr.read()
        assert service.returncode == 0
        assert not where.exists()
        ended = subprocess.run(cli, env=environ, check=False, capture_output=True, text=True, timeout=20)
        assert "no running stack was found" in ended.stderr
    finally:
        switch.stop()

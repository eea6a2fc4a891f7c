# SPDX-License-Identifier: Apache-2.0
"""Real brokers as processes of their own, on private ports and in private directories, killed without mercy."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.stack import listener

# The script behind Debian's /usr/sbin/rabbitmq-server, which itself insists on being root.
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
READY_S = 60.0


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with listener() as probe:
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Broker:
    """One broker that can be killed and started again on the same port with the same data."""

    argv: list[str]
    port: int
    log: Path
    environ: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """Where a client finds it."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    def start(self) -> None:
        """Start it and return once it accepts connections."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv, env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + READY_S
        while not _accepts(self.port):
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"{self.argv[0]} did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it and its children at once."""
        if self.process is not None:
            kill_group(self.process.pid)
            self.process.wait()
            self.process = None


def kill_group(pid: int) -> None:
    """End a process that we started as the first of its session."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def message_switch(directory: Path) -> Broker:
    """The embedded switch."""
    port, password = free_port(), directory / "password"
    password.write_text("guest\n")
    password.chmod(0o600)
    options = {"port": port, "data": directory, "user": "guest", "password-file": password, "log-level": "warning"}
    flags = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    start = "import sys; from message_switch.main import main; sys.exit(main())"  # as its console script does
    return Broker([sys.executable, "-c", start, *flags], port, directory / "switch.log")


def rabbitmq(directory: Path) -> Broker:
    """A RabbitMQ node that shares nothing with any other on this machine."""
    port, distribution, mapper = free_port(), free_port(), free_port()
    enabled = directory / "enabled_plugins"
    enabled.write_text("[].\n")
    (directory / "rabbitmq.conf").write_text("disk_free_limit.absolute = 1MB\nlog.file.level = warning\n")
    environ = {
        "HOME": str(directory),
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "RABBITMQ_NODENAME": f"t{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_PID_FILE": str(directory / "pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(enabled),
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }
    return Broker([str(RABBITMQ)], port, directory / "rabbitmq.log", environ)


def trace(broker: Broker, *, on: bool) -> None:
    """Turn RabbitMQ's firehose on or off, as its operator would, once the node answers."""
    rabbitmqctl(broker, "trace_on" if on else "trace_off")


def rabbitmqctl(broker: Broker, *words: str) -> None:
    """What an operator tells a RabbitMQ node, once it answers."""
    argv = [str(RABBITMQ.with_name("rabbitmqctl")), "--node", broker.environ["RABBITMQ_NODENAME"]]
    for each in (("await_startup", "--timeout", str(int(READY_S))), words):
        subprocess.run([*argv, *each], env=broker.environ, capture_output=True, check=True, timeout=2 * READY_S)


def stop_port_mapper(broker: Broker) -> None:
    """RabbitMQ leaves Erlang's port mapper behind: a daemon that outlives the node."""
    epmd = shutil.which("epmd")
    for _ in range(50 if epmd else 0):  # it refuses while it has not noticed the end of its node
        ended = subprocess.run(
            [str(epmd), "-kill"], env=broker.environ, capture_output=True, check=False, text=True, timeout=10
        )
        if "Killed" in ended.stdout + ended.stderr or "Cannot connect" in ended.stdout + ended.stderr:
            return
        time.sleep(0.1)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0

# SPDX-License-Identifier: Apache-2.0
"""Three RabbitMQ nodes, each in a network namespace of its own on one bridge; they can be killed and cut off.

All of this happens in a namespace of networks, mounts and processes that `make test-cluster` makes around pytest:
nothing reaches the machine's own networks, and nothing outlives it.
"""

import os
import re
import secrets
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from deploy.rabbitmq import definitions

TOP = Path(__file__).parents[2]
PROGRAMS = Path("/usr/lib/rabbitmq/bin")  # Debian's wrappers in /usr/sbin want to become another user
BRIDGE, NETWORK = "nodes", "10.77.0"
COUNT = 3
READY_S = 120.0
TICK_S = 8  # after which Erlang takes a silent node for gone; its default is 60
HEARTBEAT_S = 4


def run(*words: str, env: dict[str, str] | None = None, timeout_s: float = 30.0) -> str:
    """What a command prints. Raises with its words when it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env, timeout=timeout_s)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


@dataclass
class Node:
    """One node."""

    number: int
    folder: Path
    cookie: str
    authority: Path
    process: "subprocess.Popen[bytes] | None" = None
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Where it is on the bridge."""
        return f"{NETWORK}.{self.number}"

    @property
    def name(self) -> str:
        """What Erlang calls it."""
        return f"rabbit@{self.address}"

    @property
    def namespace(self) -> str:
        """Its own network's name."""
        return f"node{self.number}"

    def prepare(self, conf: str) -> None:
        """Its network, certificate and files."""
        port = f"port{self.number}"
        run("ip", "netns", "add", self.namespace)
        run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        run("ip", "link", "set", port, "master", BRIDGE, "up")
        run("ip", "-n", self.namespace, "addr", "add", f"{self.address}/24", "dev", "eth0")
        run("ip", "-n", self.namespace, "link", "set", "eth0", "up")
        run("ip", "-n", self.namespace, "link", "set", "lo", "up")
        self.folder.mkdir()
        cookie = self.folder / ".erlang.cookie"
        cookie.touch(mode=0o600)
        cookie.write_text(self.cookie)
        cookie.chmod(0o400)
        certify(self.folder, self.authority, "node", self.address)
        (self.folder / "rabbitmq.conf").write_text(conf.replace("/etc/rabbitmq/node", f"{self.folder}/node"))
        (self.folder / "enabled_plugins").write_text("[].\n")
        self.environ = {
            "HOME": str(self.folder),
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_USE_LONGNAME": "true",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S 1:1 +sbwt none -kernel net_ticktime {TICK_S}",
            "RABBITMQ_CTL_ERL_ARGS": "+S 1:1",
        }

    def start(self) -> None:
        """Start it; `Cluster.complete` waits for it."""
        with (self.folder / "node.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, str(PROGRAMS / "rabbitmq-server")],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL to the node and all its children; Erlang's port mapper, a daemon of its own, stays."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        (self.folder / "pid").unlink()  # who waits for the next one must not find this one's

    def cut(self) -> None:
        """Nobody hears it any more, and it hears nobody; no connection is closed."""
        run("ip", "link", "set", f"port{self.number}", "down")

    def heal(self) -> None:
        """The cable is back."""
        run("ip", "link", "set", f"port{self.number}", "up")

    def ctl(self, *words: str, timeout_s: float = 60.0) -> str:
        """What rabbitmqctl says of it."""
        into = ("ip", "netns", "exec", self.namespace)
        return run(
            *into,
            str(PROGRAMS / "rabbitmqctl"),
            "--longnames",
            "-n",
            self.name,
            *words,
            env=self.environ,
            timeout_s=timeout_s,
        )

    def says(self, pattern: str, since: int) -> None:
        """Wait until its log has that, behind the first `since` characters."""
        until = time.monotonic() + READY_S
        while not re.search(pattern, self.log()[since:]):
            if time.monotonic() > until:
                raise RuntimeError(f"{self.name} never said {pattern!r}:\n{self.log()[-4000:]}")
            time.sleep(0.1)

    def log(self) -> str:
        """All that it said."""
        return (self.folder / "node.log").read_text(errors="replace")


class Cluster:
    """All of them, and the users of these hosts."""

    def __init__(self, folder: Path, hosts: list[str]) -> None:
        self.folder = folder
        authority(folder)
        cookie = secrets.token_hex(16)
        self.nodes = [Node(n, folder / f"node{n}", cookie, folder / "authority") for n in range(1, COUNT + 1)]
        addresses = [f"{node.address}:5671" for node in self.nodes]
        definitions.write(folder, addresses, hosts, str(folder / "authority.pem"))

    def start(self) -> None:
        """The bridge, then the nodes side by side; returns once they are one cluster."""
        Path("/run/netns").mkdir(exist_ok=True)
        run("mount", "-t", "tmpfs", "netns", "/run/netns")  # seen by us alone, as all mounts made here
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "addr", "add", f"{NETWORK}.254/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        for node in self.nodes:
            node.prepare(self._conf())
            node.start()
        self.complete()

    def _conf(self) -> str:
        """The one that is shipped, with these nodes' names and shorter waits."""
        conf = (TOP / "deploy/rabbitmq/cluster.conf").read_text()
        for node in self.nodes:
            conf = conf.replace(f"rabbit@node{node.number}.example", node.name)
        conf = conf.replace("heartbeat = 10", f"heartbeat = {HEARTBEAT_S}").replace(
            "console.level = info", "console.level = notice"
        )
        for name in ("authority.pem", "definitions.json"):
            conf = conf.replace(f"/etc/rabbitmq/{name}", str(self.folder / name))
        return conf + "disk_free_limit.absolute = 1MB\n"

    def complete(self) -> None:
        """Return once every node serves and sees all others."""
        for node in self.nodes:
            node.ctl("wait", str(node.folder / "pid"), "--timeout", str(int(READY_S)), timeout_s=READY_S + 30)
        self.nodes[0].ctl("await_online_nodes", str(COUNT), "--timeout", str(int(READY_S)), timeout_s=READY_S + 30)

    def url_file(self, user: str) -> Path:
        """Where its URLs are."""
        return self.folder / f"{user}.url"

    def stop(self) -> None:
        """End what runs."""
        for node in self.nodes:
            if node.process is not None:
                node.kill()


def authority(folder: Path) -> None:
    """An authority of our own."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    out = ("-keyout", str(folder / "authority.key"), "-out", str(folder / "authority.pem"))
    run("openssl", "req", "-x509", *key, "-subj", "/CN=cluster", *out)


def certify(folder: Path, by: Path, name: str, address: str) -> None:
    """A key and a certificate for who is at that address."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    out = ("-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem"))
    signed = ("-CA", f"{by}.pem", "-CAkey", f"{by}.key", "-addext", f"subjectAltName=IP:{address}")
    run("openssl", "req", "-x509", *key, "-subj", f"/CN={address}", *signed, *out)

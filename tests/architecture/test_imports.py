# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, beyond what .importlinter says: pure rooms, closed rooms, and backends that nobody imports."""

import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("xenops", "xenopsd", "message_switch", "forkexecd", "vncproxy", "xenops_cli", "message_cli")

# No I/O, no clock, no event loop: time comes in as `now: float`. A pattern covers everything below it.
PURE = (
    "xenops.errors",
    "xenops.events",
    "xenops.idl",
    "xenops.wire",
    "xenops.bus.port",
    "xenops.types*",
    "xenops.interfaces*",
    "xenops.xlcfg*",
    "xenops.derive*",
    "xenopsd.operations*",
    "xenopsd.engine.plan",
    "xenopsd.engine.queues",
    "message_switch.model*",
    "message_switch.conversation*",
    "message_switch.frames",
    "message_switch.properties",
    "forkexecd.output",
    "xenopsd.backends.xen.builder.acpi",
    "xenopsd.backends.xen.builder.e820",
    "xenopsd.backends.xen.builder.image",
    "xenopsd.backends.xen.builder.orders",
    "xenopsd.backends.xen.domain.handles",
    "xenopsd.backends.xen.domain.layout",
    "xenopsd.backends.xen.domain.memory",
    "xenopsd.backends.xen.xenstore.changes",
    "xenopsd.backends.xen.xenstore.wire",
    "vncproxy.rfb*",
    "vncproxy.terminal*",
    "vncproxy.tickets",
)
IMPURE_ROOMS = ("xenops.derive.__main__",)  # the rim that writes what the pure rooms made
IMPURE = {"asyncio", "socket", "os", "time", "subprocess", "threading", "signal", "select", "selectors"}

# Who alone may import these.
CLOSED = {
    "cffi": ("xenopsd.backends.xen*",),
    "pyxs": (),
    "pika": ("xenops.bus.*", "message_switch.frames"),  # the switch uses its codec of methods
    "kombu": ("xenops.bus.blocking",),
    "amqp": ("xenops.bus.blocking",),
    "subprocess": ("forkexecd.posix",),
    "sqlite3": ("xenopsd.store.*", "xenopsd.backends.simulator.world.*"),
    "pickle": (),
}

# What a backend needs of xenopsd beside the port: rooms that know nothing of those above them.
BACKENDS_MAY_USE = ("xenopsd.backends.port", "xenopsd.backends.skeleton", "xenopsd.config", "xenopsd.resources")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


def test_the_contracts_of_importlinter_are_kept() -> None:
    # In a process of its own: it sets up logging anew, and other tests look at logs.
    command = [str(Path(sys.executable).parent / "lint-imports"), "--config", str(ROOT / ".importlinter"), "--no-cache"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout


def test_pure_rooms_have_no_clock_no_loop_and_no_operating_system(graph: grimp.ImportGraph) -> None:
    pure = [module for module in _ours(graph) if _is_one_of(module, PURE) and module not in IMPURE_ROOMS]
    assert len(pure) > len(PURE)
    broken = {m: found for m in pure if (found := graph.find_modules_directly_imported_by(m) & IMPURE)}
    assert broken == {}


@pytest.mark.parametrize("package", CLOSED)
def test_only_its_own_room_imports(package: str, graph: grimp.ImportGraph) -> None:
    importers = graph.find_modules_that_directly_import(package) if package in graph.modules else set()
    assert {module for module in importers if not _is_one_of(module, CLOSED[package])} == set()


def test_nobody_imports_a_backend(graph: grimp.ImportGraph) -> None:
    for backend in _backends(graph):
        inside = {backend} | graph.find_descendants(backend)
        outside = {(m, into) for into in inside for m in graph.find_modules_that_directly_import(into)}
        assert {(m, into) for m, into in outside if m not in inside} == set()


def test_a_backend_imports_the_port_and_nothing_above_it(graph: grimp.ImportGraph) -> None:
    for backend in _backends(graph):
        inside = {backend} | graph.find_descendants(backend)
        imported = {(m, into) for m in inside for into in graph.find_modules_directly_imported_by(m)}
        of_xenopsd = {(m, into) for m, into in imported if into.startswith("xenopsd.") and into not in inside}
        assert {(m, into) for m, into in of_xenopsd if not into.startswith(BACKENDS_MAY_USE)} == set()


def test_the_daemon_with_the_simulator_loads_no_foreign_code() -> None:
    program = (
        "import importlib, sys; import xenopsd.main; from xenopsd.config import BACKENDS;"
        " importlib.import_module(BACKENDS['simulator']);"
        " print(sorted({'cffi', '_cffi_backend', 'pyxs', 'kombu'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def _ours(graph: grimp.ImportGraph) -> list[str]:
    return sorted(module for module in graph.modules if module.partition(".")[0] in PACKAGES)


def _backends(graph: grimp.ImportGraph) -> list[str]:
    leaves = ("xenopsd.backends.port", "xenopsd.backends.skeleton")
    found = [child for child in graph.find_children("xenopsd.backends") if child not in leaves]
    assert found, "there is at least the simulator"
    return found


def _is_one_of(module: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(module, pattern) for pattern in patterns)

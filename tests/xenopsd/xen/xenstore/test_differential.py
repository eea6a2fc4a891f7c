# SPDX-License-Identifier: Apache-2.0
"""The same commands to the model, to xenstored and to oxenstored have the same answers and leave the same tree.

pyxs, a client that we did not write, reads what ours wrote, and the other way round.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.xenopsd.xen.xenstore.model import Model
from xenops.errors import IoError
from xenopsd.backends.xen.xenstore.client import Change, Mkdir, Remove, SetPerms, Transaction, Write, XenStore
from xenopsd.backends.xen.xenstore.wire import raw

Answer = object
_roots = count()


class Abort(Exception):
    """A transaction is not to be."""


@dataclass
class Ask:
    """A question or a change, by the name of the client's method."""

    method: str
    path: str
    value: bytes = b""

    async def perform(self, nodes: "XenStore | Transaction | Model", root: str) -> Answer:
        arguments = (self.value,) if self.method == "write" else ()
        answer = await getattr(nodes, self.method)(root + self.path, *arguments)
        return sorted(answer) if isinstance(answer, list) else answer


@dataclass
class Commit:
    """A list of changes."""

    changes: list[tuple[type[Change], str, bytes]]

    async def perform(self, nodes: "XenStore | Model", root: str) -> Answer:
        try:
            return await nodes.commit([self._change(root, *each) for each in self.changes])
        except IoError as error:
            return error.reason.rpartition(" ")[2]

    def _change(self, root: str, kind: type[Change], path: str, value: bytes) -> Change:
        if kind is Write:
            return Write(root + path, value, ("n0", "r3"))
        return SetPerms(root + path, ("n0", "r4")) if kind is SetPerms else kind(root + path)  # type: ignore[call-arg]


@dataclass
class InTransaction:
    """Several in one transaction, which is kept or not."""

    asks: list[Ask]
    keep: bool

    async def perform(self, nodes: "XenStore | Model", root: str) -> Answer:
        answers: list[Answer] = []
        try:
            async with nodes.transaction() as transaction:
                answers += [await ask.perform(transaction, root) for ask in self.asks]
                if not self.keep:
                    raise Abort
        except Abort:
            answers.append("aborted")
        return answers


PATHS = st.lists(st.sampled_from(["a", "b", "long-Name_1@x"]), min_size=1, max_size=3).map(lambda p: "/" + "/".join(p))
VALUES = st.one_of(st.sampled_from([b"", b"1", b"\0", b"\xff\xfe"]), st.binary(max_size=50))
ASKS = st.builds(Ask, st.sampled_from(["read", "ls", "tree", "write", "write", "mkdir", "rm"]), PATHS, VALUES)
CHANGES = st.tuples(st.sampled_from([Write, Write, Mkdir, Remove, SetPerms]), PATHS, VALUES)
COMMANDS = st.one_of(
    ASKS,
    st.builds(Commit, st.lists(CHANGES, max_size=6)),
    st.builds(InTransaction, st.lists(ASKS, max_size=5), st.booleans()),
)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def stores(loop: asyncio.Runner, xenstored: Path, oxenstored: Path) -> Iterator[dict[str, XenStore]]:
    found = {path.parent.parent.name: loop.run(XenStore.connect(str(path))) for path in (xenstored, oxenstored)}
    yield found
    for xs in found.values():
        loop.run(xs.close())


@settings(max_examples=60, deadline=None)
@given(commands=st.lists(COMMANDS, min_size=1, max_size=12))
def test_the_daemons_do_what_the_model_does(
    loop: asyncio.Runner, stores: dict[str, XenStore], commands: list[Ask | Commit | InTransaction]
) -> None:
    async def run(nodes: XenStore | Model) -> tuple[list[Answer], dict[str, str]]:
        root = "/differential"
        await nodes.rm(root)
        await nodes.mkdir(root)
        answers = [await command.perform(nodes, root) for command in commands]
        return answers, await nodes.tree(root)

    expected = loop.run(run(Model()))
    for name, xs in stores.items():
        assert loop.run(run(xs)) == expected, name


@settings(max_examples=25, deadline=None)
@given(asks=st.lists(ASKS, min_size=1, max_size=8))
def test_whatever_changes_is_told_to_who_watches(
    loop: asyncio.Runner, stores: dict[str, XenStore], asks: list[Ask]
) -> None:
    async def run(xs: XenStore) -> None:
        root = f"/watched/{next(_roots)}"
        await xs.mkdir(root)
        async with xs.watch(root) as events:
            await anext(events)
            for ask in asks:
                before = await xs.tree(root)
                events.drain()
                await ask.perform(xs, root)
                if await xs.tree(root) != before:
                    async with asyncio.timeout(5):
                        fired = await anext(events)
                    assert fired.startswith(root)

    for xs in stores.values():
        loop.run(run(xs))


WORDS = st.text("abcdefgh 0123456789", min_size=1, max_size=20)  # an empty value is one that pyxs cannot write


@settings(max_examples=20, deadline=None)
@given(tree=st.dictionaries(PATHS, WORDS, min_size=1, max_size=5))
def test_what_pyxs_reads_and_writes(
    loop: asyncio.Runner, stores: dict[str, XenStore], xenstored: Path, oxenstored: Path, tree: dict[str, str]
) -> None:
    pyxs = pytest.importorskip("pyxs")
    root = "/foreign"
    for xs, socket in zip(stores.values(), (xenstored, oxenstored), strict=True):
        loop.run(xs.commit([Remove(root), *[Write(root + path, value) for path, value in tree.items()]]))
        with pyxs.Client(unix_socket_path=str(socket)) as foreign:
            walked = {path: value for path, value, _ in foreign.walk(root.encode())}
            assert walked == {raw(path): raw(value) for path, value in loop.run(xs.tree(root)).items()}
            foreign.delete(root.encode())
            for path, value in tree.items():
                foreign.write(raw(root + path), raw(value))
        for path, value in tree.items():
            assert loop.run(xs.read(root + path)) == value

# SPDX-License-Identifier: Apache-2.0
"""Who may log in, how, and what each user may do then."""

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import BasicProperties, exceptions
from pika.adapters.blocking_connection import BlockingChannel

from message_switch.access.encryption import server_context
from message_switch.access.users import Guess, User, Users, hashed
from message_switch.model.broker import Broker
from message_switch.model.faults import ChannelFault
from message_switch.server import Server
from message_switch.switch import Limits, Switch
from tests import brokers
from tests.message_switch.conftest import START

WEB = hashed(b"guess me")
FILE = f"""
[web]
password = "{WEB}"
uids = [1234]
configure = 'web\\..*'
write = 'web\\..*|amq\\.default'
read = 'web\\..*|amq\\.topic'

[reader]
read = '.*'
"""


def users() -> Users:
    some = Users("own", "secret", uid=1)
    some.read(FILE)
    return some


def enter(some: Users, name: bytes, password: bytes) -> User | None:
    found = some.by_password(name, password)
    if isinstance(found, Guess):
        return some.let_in(found) if found.holds() else None
    return found


def allowed(some: Users, name: str, act: str, what: str) -> bool:
    user = some.by_certificate(name)
    assert user is not None
    try:
        user.may(act, "queue", what)
    except ChannelFault:
        return False
    return True


def test_who_is_let_in() -> None:
    some = users()
    for _ in range(2):  # the second time by what the first has left
        web = enter(some, b"web", b"guess me")
        assert web is not None
        assert web.name == "web"
        assert enter(some, b"web", b"guess you") is None
    assert enter(some, b"reader", b"") is None
    assert enter(some, b"nobody", b"secret") is None
    assert enter(some, b"own", b"guess me") is None
    found = enter(some, b"own", b"secret"), some.by_uid(1), some.by_uid(1234), some.by_uid(0)
    assert [user and user.name for user in found] == ["own", "own", "web", None]
    assert some.by_certificate("nobody") is None


def test_who_was_let_in_once_need_not_be_checked_again_until_the_password_changes() -> None:
    some = users()
    guess = some.by_password(b"web", b"guess me")
    assert isinstance(guess, Guess)
    assert "guess me" not in repr(guess)
    assert guess.holds()
    assert some.let_in(guess) is some.by_password(b"web", b"guess me") is some.known_with(guess)
    some.read(FILE.replace(WEB, hashed(b"another")))
    assert some.let_in(guess) is None
    assert isinstance(some.by_password(b"web", b"guess me"), Guess)


def test_patterns_cover_the_whole_name() -> None:
    some = users()
    assert allowed(some, "web", "configure", "web.q")
    assert not allowed(some, "web", "configure", "my.web.q")
    assert allowed(some, "web", "write", "")  # the default exchange, by its other name
    assert not allowed(some, "web", "write", "amq.topic")
    assert not allowed(some, "reader", "configure", "q")
    assert all(allowed(some, "own", act, "q") for act in ("configure", "write", "read"))


def test_read_again_while_somebody_is_connected() -> None:
    some = users()
    web, reader = enter(some, b"web", b"guess me"), some.by_certificate("reader")
    assert web is not None
    assert reader is not None
    reader.may("read", "queue", "q")
    some.read(FILE[: FILE.index("[reader]")].replace("guess me", "").replace("write = ", "write = '(?!)' # "))
    web.may("read", "queue", "web.q")
    for user, act in ((web, "write"), (reader, "read")):
        with pytest.raises(ChannelFault):
            user.may(act, "queue", "web.q")
    assert some.by_certificate("reader") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[web", "end of a table"),
        ("web = 1", "Expected `object`"),
        ("[web]\nconfigur = ''", "configur"),
        ("[web]\nread = '('", "web: '\\(' is no pattern"),
        ("[web]\npassword = 'guess me'", "message-switch password"),
        ("[web]\npassword = 'scrypt$1073741824$8$1$AAAA$AAAA'", "message-switch password"),
        ("[own]", "own user"),
    ],
)
def test_a_mistake_changes_nothing(text: str, says: str) -> None:
    some = users()
    with pytest.raises(ValueError, match=says):
        some.read(text)
    assert enter(some, b"web", b"guess me") is not None


@given(st.text())
def test_no_file_crashes_it(untrusted: str) -> None:
    with contextlib.suppress(ValueError):
        users_of_nobody.read(untrusted)


users_of_nobody = Users("own", "secret")


# -- the process ------------------------------------------------------------------------------------------------------


def connection(process: Any, user: str, password: str) -> pika.BlockingConnection:
    parameters = pika.URLParameters(process.url)
    parameters.credentials = pika.PlainCredentials(user, password)
    return pika.BlockingConnection(parameters)


REFUSED: dict[str, Callable[[BlockingChannel], Any]] = {
    "declare a queue": lambda c: c.queue_declare("other", durable=True),
    "declare a queue that has a dead-letter exchange": lambda c: c.queue_declare(
        "web.dead", durable=True, arguments={"x-dead-letter-exchange": "amq.topic"}
    ),
    "declare a queue without a name": lambda c: c.queue_declare("", exclusive=True),
    "declare an exchange": lambda c: c.exchange_declare("other"),
    "delete a queue": lambda c: c.queue_delete("other"),
    "delete an exchange": lambda c: c.exchange_delete("other"),
    "bind its queue to another's exchange": lambda c: c.queue_bind("web.q", "amq.fanout"),
    "bind another's exchange": lambda c: c.exchange_bind("amq.fanout", "amq.topic"),
    "bind to another's exchange": lambda c: c.exchange_bind("web.exchange", "amq.fanout"),
    "unbind another's exchange": lambda c: c.exchange_unbind("amq.fanout", "amq.topic"),
    "declare an exchange that has an alternate": lambda c: c.exchange_declare(
        "web.exchange", arguments={"alternate-exchange": "amq.topic"}
    ),
    "unbind another's queue": lambda c: c.queue_unbind("other", "amq.topic"),
    "publish": lambda c: (c.basic_publish("amq.topic", "x", b""), c.basic_qos()),
    "get": lambda c: c.basic_get("other"),
    "consume": lambda c: c.basic_consume("other", print),
    "purge": lambda c: c.queue_purge("other"),
}


def test_permissions(process: Any) -> None:
    file = process.data / "users.toml"
    file.write_text(FILE)
    process.start("--users-file", str(file))
    with connection(process, "web", "guess me") as web:
        channel = web.channel()
        channel.queue_declare("web.q", durable=True)
        channel.queue_bind("web.q", "amq.topic", "#")
        channel.basic_publish("", "web.q", b"hello", BasicProperties(user_id="web"))
        assert channel.basic_get("web.q", auto_ack=True)[2] == b"hello"
        for attempt in REFUSED.values():
            with pytest.raises(exceptions.ChannelClosedByBroker, match="web") as refused:
                attempt(channel)
            assert refused.value.reply_code == 403
            channel = web.channel()
        file.write_text("[[")  # a mistake changes nothing
        process.child.send_signal(signal.SIGHUP)
        file.write_text(FILE.replace("web\\..*", ".*"))
        process.child.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 20
        while True:
            try:
                channel.queue_declare("other", durable=True)
                break
            except exceptions.ChannelClosedByBroker:
                assert time.monotonic() < deadline
                channel = web.channel()


def test_a_password_is_hashed() -> None:
    made = subprocess.run(
        [sys.executable, "-c", START, "password"], input="guess\n", text=True, capture_output=True, check=True
    )
    some = Users("own", "secret")
    some.read(f'[web]\npassword = "{made.stdout.strip()}"\n')
    assert enter(some, b"web", b"guess") is not None


def certificate(folder: Path, name: str, *signer: str) -> None:
    """A key and a certificate for `name`; without a signer one of its own, which may sign others."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        + ["-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem"]
        + (["-CA", f"{signer[0]}.pem", "-CAkey", f"{signer[0]}.key"] if signer else [])
        + ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def over_tls(process: Any, *, trusts: str, shows: str = "") -> pika.ConnectionParameters:
    context = ssl.create_default_context(cafile=str(process.data / f"{trusts}.pem"))
    if shows:
        context.load_cert_chain(process.data / f"{shows}.pem", process.data / f"{shows}.key")
    return pika.ConnectionParameters(
        host="127.0.0.1",
        port=int((process.data / "tls-port").read_text()),
        ssl_options=pika.SSLOptions(context),
        credentials=pika.credentials.ExternalCredentials()
        if shows
        else pika.PlainCredentials("xenops", process.password),
        connection_attempts=1,
    )


def test_who_does_not_begin_to_encrypt_is_not_waited_for(tmp_path: Path) -> None:
    certificate(tmp_path, "host")

    async def run() -> None:
        switch = Switch(Broker(), Users("own", "secret"), Limits(handshake_s=0.2))
        server = Server(switch, version="0")
        context = server_context(tmp_path / "host.pem", tmp_path / "host.key", None)
        await server.listen_tls("127.0.0.1", 0, context)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.tls_port)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await server.close()

    asyncio.run(run())


def test_tls(process: Any) -> None:
    certificate(process.data, "authority")
    certificate(process.data, "stranger")
    certificate(process.data, "host", "authority")
    certificate(process.data, "web", "authority")
    certificate(process.data, "nobody", "authority")
    file = process.data / "users.toml"
    file.write_text(FILE)
    flags = {"tls-host": "127.0.0.1", "tls-port": "0", "users-file": str(file)}
    flags |= {
        f"tls-{key}": str(process.data / name) for key, name in (("certificate", "host.pem"), ("key", "host.key"))
    }
    flags["tls-client-ca"] = str(process.data / "authority.pem")
    process.start(*[word for key, value in flags.items() for word in (f"--{key}", value)])
    with pika.BlockingConnection(over_tls(process, trusts="authority")) as plain:
        plain.channel().queue_declare("other", durable=True)
    with pika.BlockingConnection(over_tls(process, trusts="authority", shows="web")) as web:
        channel = web.channel()
        channel.queue_declare("web.q", durable=True)
        with pytest.raises(exceptions.ChannelClosedByBroker, match="refused for user 'web'"):
            channel.queue_delete("other")
    for trusts, shows in (("stranger", ""), ("authority", "stranger"), ("authority", "nobody")):
        with pytest.raises((exceptions.AMQPError, ssl.SSLError, OSError)):
            pika.BlockingConnection(over_tls(process, trusts=trusts, shows=shows))


# Says hello over the Unix socket as whoever runs it, and prints how that ended.
VISITOR = """
import os, socket, sys
from pika import frame, spec
from message_switch.frames import GREETING
os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as peer:
    peer.connect(sys.argv[1])
    peer.sendall(GREETING + frame.Method(0, spec.Connection.StartOk({}, "EXTERNAL", b"")).marshal())
    said = b""
    while data := peer.recv(65536):
        said += data
        if frame.Method(0, spec.Connection.Tune(2047, 131072, 60)).marshal() in said:
            sys.exit("let in")
    sys.exit("refused")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(("uid", "outcome"), [(0, "let in"), (1234, "let in"), (1235, "refused")])
def test_the_system_says_who_comes(process: Any, uid: int, outcome: str) -> None:
    """A process of another system user, over the Unix socket, without a password."""
    file = process.data / "users.toml"
    file.write_text(FILE)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = f"{folder}/bus"
        process.start("--users-file", str(file), "--socket", path)
        ended = subprocess.run(
            [sys.executable, "-c", VISITOR, path, str(uid)], capture_output=True, text=True, check=False, timeout=30
        )
        assert ended.stderr.strip() == outcome


def test_sighup_without_a_file_of_users_ends_nothing(tmp_path: Path) -> None:
    broker = brokers.message_switch(tmp_path)
    broker.start()
    try:
        assert broker.process is not None
        broker.process.send_signal(signal.SIGHUP)
        with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
            connection.channel().queue_declare("q", exclusive=True)
        assert broker.process.poll() is None
    finally:
        broker.kill()

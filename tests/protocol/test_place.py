# SPDX-License-Identifier: Apache-2.0
"""URLs of switches: nodes in their order, certificates, and mistakes that are named without a secret."""

import ssl
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenops.bus.place import address_of, place, places
from xenops.errors import BadRequest

SECRET = "s3cr3t"


def test_the_parts_of_a_url() -> None:
    its = place("amqp://me:pa%2Fss@[::1]:5000/%2Fhosts?heartbeat=5")
    assert (its.host, its.port, its.user, its.password, its.virtual_host) == ("[::1]", 5000, "me", "pa/ss", "/hosts")
    assert its.address == "amqp://[::1]:5000"
    assert "heartbeat=5" in its.bare
    assert its.tls() is None


def test_the_nodes_of_a_cluster_are_tried_in_their_order() -> None:
    its = places("amqp://a/\n amqp://b:1/;amqp://c/\n")
    assert [node.host for node in its] == ["a", "b", "c"]
    assert address_of(its) == "amqp://a:5672 or amqp://b:1 or amqp://c:5672"


def test_certificates_are_named_in_the_url_and_kept_from_the_broker(tmp_path: Path) -> None:
    made = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=n", "-days", "1")
    files = ("-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "pem"))
    subprocess.run(["openssl", "req", "-x509", *made, *files], check=True, capture_output=True)
    its = place(f"amqps://h/%2F?cacertfile={tmp_path}/pem&certfile={tmp_path}/pem&keyfile={tmp_path}/key&heartbeat=3")
    context = its.tls()
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(context.get_ca_certs()) == 1
    assert its.bare == "amqps://h/%2F?heartbeat=3"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "is empty"),
        ("http://h/", "begins with 'http'"),
        (f"amqp://u:{SECRET}/x@h/", "host or its port"),
        ("amqp://h/?cacertfile=/x", "cacertfile is for amqps"),
        ("amqps://h/?keyfile=/x", "belongs to a certfile"),
        ("amqps://h/?cacertfile=/nowhere", "/nowhere: No such file"),
        ("amqps://h/?cacertfile=/etc/hostname", "/etc/hostname: "),
    ],
)
def test_a_mistake_is_named_and_no_secret_is(url: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words) as caught:
        [node.tls() for node in places(url)]
    assert SECRET not in str(caught.value)


@given(st.text() | st.text(alphabet="amqps:/@[]?=&%;0123456789.").map(lambda text: f"amqp://{text}"))
def test_whatever_it_is_it_is_read_or_refused(untrusted: str) -> None:
    try:
        assert places(untrusted)
    except BadRequest:
        return

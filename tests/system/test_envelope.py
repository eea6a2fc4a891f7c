# SPDX-License-Identifier: Apache-2.0
"""Headers, properties and message ids as another client may fill them: each mistake is named, none does harm."""

import json
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from pika.exceptions import ConnectionClosedByBroker

from tests.system.foreigner import JSON, MSGPACK, Foreigner, on_stack
from tests.system.test_malformed import METHODS, fault_of
from tests.xenopsd.machines import plain_vm
from xenops import wire


def test_headers(tmp_path: Path) -> None:
    start = {"id": "vm-1"}

    def attack(foreigner: Foreigner) -> None:
        for headers, path in (
            ({"deadline": "soon"}, "headers.deadline"),
            ({"deadline": True}, "headers.deadline"),
            ({"deadline": {}}, "headers.deadline"),
            ({"version": "garbage"}, "headers.version"),
            ({"version": ""}, "headers.version"),
            ({"version": "-1"}, "headers.version"),
            ({"version": "1e5"}, "headers.version"),
            ({"deadline": Decimal("1.5")}, "headers.deadline"),
            ({"version": "9" * 600}, "headers.version"),
            ({"version": 2}, "headers.version"),
            ({"traceparent": 7}, "headers.traceparent"),
            ({"debug_info": "x" * 60000}, "headers.debug_info"),
            ({"debug_info": ["a"]}, "headers.debug_info"),
        ):
            _, fault = foreigner.ask("VM.start", start, headers=headers)
            assert fault is not None, headers
            assert (fault["name"], fault["fields"]["path"]) == ("BadRequest", path)
        for deadline in (0, -(1 << 63), 1):
            _, fault = foreigner.ask("VM.start", start, headers={"deadline": deadline})
            assert fault is not None
            assert fault["name"] == "DeadlineExceeded"
        for headers in (
            {"deadline": (1 << 63) - 1},
            {"version": "0.1"},
            {"version": "99.0"},
            {"traceparent": "garbage"},
            {"debug_info": "{not} %s \n a line"},
            {"unknown": {"a": [1, None]}},
            {"deadline": None, "version": None, "traceparent": None, "debug_info": None},
        ):
            result, fault = foreigner.ask("VM.delay", {**start, "seconds": 0.0}, headers=headers)
            assert fault is None, headers
            assert isinstance(result, str)
        _, fault = foreigner.ask("VM.delay", {**start, "seconds": 0.0, "new": 1}, headers={"version": "99.0"})
        assert fault is None, "a newer caller may say more than we know"
        _, fault = foreigner.ask("VM.delay", {**start, "seconds": 0.0, "new": 1}, headers={"version": "1.0.9"})
        assert fault is not None, "no newer interface than ours"
        _, fault = foreigner.ask("VM.delay", {**start, "new": 1}, headers={"version": "99.0"})
        assert fault is not None
        assert fault["fields"]["path"] == "params.seconds"

    on_stack(tmp_path, attack)


def test_properties(tmp_path: Path) -> None:
    query = msgspec.msgpack.encode({"method": "query"})

    def attack(foreigner: Foreigner) -> None:
        for wrong in ("text/xml", "application/x-msgpack", "", None):
            _, fault = foreigner.ask_bytes(query, content_type=wrong)
            assert fault is not None, wrong
            assert fault["fields"]["path"] == "content_type"
        foreigner.replies.clear()
        foreigner.send(query, correlation_id="unanswered", reply_to=None)
        foreigner.send(query, correlation_id="nowhere", reply_to="no-such-queue")
        foreigner.send(json.dumps({"jsonrpc": "2.0", "method": "query"}).encode(), JSON, correlation_id="notified")
        foreigner.send(query)
        foreigner.wait(1)
        assert list(foreigner.replies) == [None], "only who asked is answered"
        foreigner.replies.clear()
        foreigner.send(json.dumps({"jsonrpc": "2.0", "method": "nope", "id": None}).encode(), JSON)
        foreigner.wait(1)
        assert json.loads(foreigner.replies[None][0])["id"] is None

    on_stack(tmp_path, attack)


def test_a_message_id_belongs_to_one_request(tmp_path: Path) -> None:
    def attack(foreigner: Foreigner) -> None:
        first, fault = foreigner.ask("VM.delay", {"id": "vm-1", "seconds": 0.0}, message_id="m")
        assert fault is None
        again, fault = foreigner.ask("VM.delay", {"id": "vm-1", "seconds": 0.0}, message_id="m")
        assert (again, fault) == (first, None)
        for method, params in (("VM.start", {"id": "vm-1"}), ("VM.delay", {"id": "vm-1", "seconds": 0.5})):
            _, fault = foreigner.ask(method, params, message_id="m")
            assert fault is not None, "another request must not be taken for done"
            assert (fault["name"], fault["fields"]["path"]) == ("BadRequest", "message_id")
        _, fault = foreigner.ask("VM.start", {"id": "nobody"}, message_id="n")
        assert fault is not None
        assert fault["name"] == "DoesNotExist"
        foreigner.replies.clear()
        body = msgspec.msgpack.encode({"method": "VM.delay", "params": {"id": "vm-1", "seconds": 0.01}})
        other = msgspec.msgpack.encode({"method": "VM.start", "params": {"id": "vm-1"}})
        for n in range(20):
            foreigner.send(other if n == 10 else body, correlation_id=str(n), message_id="together")
        foreigner.wait(20)
        assert len({foreigner.replies[str(n)][0] for n in range(20)}) == 2
        assert fault_of(foreigner.replies["10"][0], MSGPACK) is not None

    on_stack(tmp_path, attack)


def test_a_huge_message_and_a_truncated_one(tmp_path: Path) -> None:
    def attack(foreigner: Foreigner) -> None:
        whole_call = wire.encode_call("VM.stat", METHODS["VM.stat"].params(id="vm-1"))
        for cut in range(len(whole_call)):
            _, fault = foreigner.ask_bytes(whole_call[:cut])
            assert fault is not None
            assert fault["name"] == "BadRequest"
        _, fault = foreigner.ask("VM.rename", {"id": "vm-1", "name": "x" * 10_000_000})
        assert fault is not None
        assert fault["fields"]["path"] == "params.name"
        _, fault = foreigner.ask("x" * 1_000_000)
        assert fault is not None
        assert fault["name"] == "UnknownMethod"
        assert len(fault["message"]) < 300

    on_stack(tmp_path, attack)


def test_an_answer_beyond_what_the_bus_carries_is_a_fault_and_ends_no_connection(tmp_path: Path) -> None:
    def attack(foreigner: Foreigner) -> None:
        vm = msgspec.to_builtins(plain_vm("big"))
        vm["xsdata"] = {f"vm-data/{n}": "x" * 2000 for n in range(4000)}
        for n in range(3):
            assert foreigner.ask("VM.add", {"vm": {**vm, "id": f"big-{n}"}})[1] is None
        _, fault = foreigner.ask("VM.list")
        assert fault is not None
        assert fault["name"] == "AnswerTooLong"
        assert foreigner.ask("VM.stat", {"id": "big-0"})[1] is None
        for n in range(3):
            assert foreigner.ask("VM.remove", {"id": f"big-{n}"})[1] is None

    on_stack(tmp_path, attack)


def test_a_header_beyond_a_frame_ends_its_own_connection_only(tmp_path: Path) -> None:
    def attack(foreigner: Foreigner) -> None:
        other = Foreigner(foreigner.found)
        with pytest.raises(ConnectionClosedByBroker, match="FRAME_ERROR"):
            other.ask("query", headers={"debug_info": "x" * 10_000_000})
        result, fault = foreigner.ask("VM.exists", {"id": "vm-1"})
        assert (result, fault) == (True, None)

    on_stack(tmp_path, attack)

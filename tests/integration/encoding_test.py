"""msgpack and compression: what is said is the same, made once for all who want it so."""

import contextlib
import json

import msgpack
import pytest

from fault_engine import big_status, ticking_system_status
from ws_client import BINARY, DEFLATE, MSGPACK, TEXT, V1, Client, deflated

POLL = "system.status"
HERE = ("timestamp", "age_ms")  # Of the moment in which a message was made.
ADDED = ("timestamp", "stale", "error_code", "last_update")  # To the data of a value, in JSON.


def without(members, names):
    return {name: value for name, value in members.items() if name not in names}


def is_value(message):
    return message.type == POLL and not message.get("replay")


def publish(cluster, data, times=1):
    cluster.publish([{"type": "alert", "data": data}] * times, "--origin", "script")


def count(cluster, name):
    return cluster.edge.metrics()[f"sigmacast_edge_{name}_total"]


@pytest.fixture
def cluster(make_cluster, engine):
    engine.set(POLL, ticking_system_status())
    return make_cluster(engine, polls=[POLL, "agents.list"])


@pytest.mark.parametrize("headers", [None, DEFLATE], ids=["plain", "compressed"])
def test_msgpack_says_what_json_says(cluster, headers):
    with cluster.v1(POLL, "agent.status") as text, cluster.v1(POLL, "agent.status", protocol=MSGPACK, headers=headers) as packed:
        assert packed.subprotocol == MSGPACK and packed.hello.data["epoch"] == text.hello.data["epoch"]
        assert set(packed.subscribed.data["topics"]) == {POLL, "agent.status"}
        for wanted in (is_value, "tick"):
            packed.wait(wanted)
        assert {m.opcode for m in packed.messages} == {BINARY}
        for m in packed.of(POLL)[:5]:
            same = text.wait(lambda o: o.type == POLL and o.seq == m.seq)
            assert without(m, (*HERE, "data", "replay")) == without(same, (*HERE, "data", "replay"))
            assert without(m.data, ADDED) == without(same.data, ADDED)
        mark = packed.mark
        packed.send({"type": "ping", "id": 1})  # As text, too.
        packed.send_binary(msgpack.packb({"type": "ping", "id": "two"}))
        assert [packed.wait(lambda m, i=i: m.type == "pong" and m["id"] == i, after=mark) for i in (1, "two")]


def test_what_is_no_msgpack_is_an_error_and_the_connection_stays(cluster):
    with cluster.v1(protocol=MSGPACK) as client:
        for payload in (b"", b"\xc1", b"\x81\xa4type", msgpack.packb([1]), b"\xdd\xff\xff\xff\xff"):
            mark = client.mark
            client.send_binary(payload)
            assert client.wait("error", after=mark).data["name"] == "bad_request"
        assert client.request({"type": "ping", "id": 7}, "pong")


def test_an_event_is_the_same_in_each_encoding_live_and_resumed(cluster):
    said = {"big": 2**53 + 1, "small": -2**63, "half": 0.5, "text": "\u00e9\U0001f600\n", "list": [None, True, {"deep": [1.0]}]}
    ways = ((V1, None), (V1, DEFLATE), (MSGPACK, None), (MSGPACK, DEFLATE))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(cluster.v1("alert", protocol=protocol, headers=headers)) for protocol, headers in ways]
        publish(cluster, said)
        live = [client.wait("alert") for client in clients]
        assert len({(m.seq, m.pos) for m in live}) == 1
        for m in live:
            assert without(m.data, ("timestamp",)) == said, m
        cursor = {"epoch": live[0]["epoch"], "pos": live[0].pos - 1}
        for protocol, headers in ways:
            back = stack.enter_context(cluster.v1(protocol=protocol, headers=headers))
            back.send({"type": "subscribe", "id": 2, "data": {"types": ["alert"], "resume": cursor}})
            assert back.wait("subscribed").data["topics"]["alert"]["result"] == "resumed"
            missed = back.wait("alert")
            assert missed["replay"] is True and without(missed.data, ("timestamp",)) == said


def test_compression_is_agreed_on_and_makes_messages_smaller(cluster):
    with cluster.v1("agent.status") as plain, cluster.v1("agent.status", headers=DEFLATE) as small:
        assert "sec-websocket-extensions" not in plain.handshake
        assert small.handshake["sec-websocket-extensions"] == \
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        big, little = plain.wait("agent.status"), small.wait("agent.status")
        assert big.data["agents"] == little.data["agents"]
        assert little.compressed and not big.compressed and little.bytes < big.bytes / 3
        assert not small.request({"type": "ping", "id": 1}, "pong").compressed, "it would not be worth it"


def test_a_plain_client_and_an_edge_that_is_told_so_do_not_compress(make_cluster, engine):
    cluster = make_cluster(engine, polls=["agents.list"])
    with cluster.client(headers=DEFLATE) as old:
        assert "sec-websocket-extensions" not in old.handshake
        assert not old.wait("agent.status").compressed
    without_it = make_cluster(engine, polls=["agents.list"], edge_options={"compression": False})
    with without_it.v1("agent.status", headers=DEFLATE) as client:
        assert "sec-websocket-extensions" not in client.handshake
        assert not client.wait("agent.status").compressed


def test_each_encoding_is_made_once_however_many_want_it(cluster):
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            for protocol, headers in ((V1, DEFLATE), (MSGPACK, None), (MSGPACK, DEFLATE)):
                last = stack.enter_context(cluster.v1("alert", protocol=protocol, headers=headers))
        names = ("msgpack_encodes", "deflated", "encodes")
        said = {"text": "x" * 2_000}
        before = {name: count(cluster, name) for name in names}
        publish(cluster, said, times=20)
        last.wait(lambda m: len(last.of("alert")) == 20)
        made = {name: count(cluster, name) - before[name] for name in names}
    # Twenty events; and a heartbeat or two, which is short.
    assert 40 <= made["msgpack_encodes"] < 60 and 40 <= made["deflated"] < 50 and 20 <= made["encodes"] < 30, made
    counted = (count(cluster, "deflate_in_bytes"), count(cluster, "deflate_out_bytes"))
    assert counted[1] < counted[0] / 10


def test_a_client_may_compress_what_it_sends(cluster):
    with cluster.v1(headers=DEFLATE) as client:
        client.send_compressed(deflated(json.dumps({"type": "ping", "id": 3}).encode()))
        assert client.wait("pong")["id"] == 3
        client.send({"type": "ping", "id": 4})
        client.wait(lambda m: m.type == "pong" and m["id"] == 4)
    with cluster.v1(protocol=MSGPACK, headers=DEFLATE) as client:
        client.send_compressed(deflated(msgpack.packb({"type": "ping", "id": 5})), BINARY)
        assert client.wait("pong")["id"] == 5


@pytest.mark.parametrize("payload, code", [
    (b"\xff\xff\xff\xff", 1007),
    (deflated(b"\xc3\x28"), 1007),
    (deflated(b" " * 50_000_000), 1009),
], ids=["garbage", "no UTF-8", "a bomb"])
def test_compressed_nonsense_ends_that_client_alone(cluster, payload, code):
    with cluster.v1(POLL) as other, cluster.v1(headers=DEFLATE) as client:
        client.send_compressed(payload)
        assert client.wait_closed()[0] == code
        other.wait_next(is_value)


def test_what_was_not_agreed_on_is_a_protocol_error(cluster):
    with cluster.v1() as client:
        client.send_compressed(deflated(b"{}"), TEXT)
        assert client.wait_closed()[0] == 1002


def test_the_first_of_our_subprotocols_that_is_offered_counts(cluster):
    for offered, chosen in ((f"{MSGPACK}, {V1}", MSGPACK), (f"other, {V1}, {MSGPACK}", V1), ("other", None)):
        with Client(cluster.edge.port, offered) as client:
            assert client.subprotocol == chosen


def test_what_is_too_large_for_a_queue_is_so_in_each_encoding(make_cluster, engine):
    engine.set(POLL, big_status(300_000))
    cluster = make_cluster(engine, polls=[POLL], edge_options={"client_queue_bytes_max": 131_072})
    with cluster.v1(protocol=MSGPACK, headers=DEFLATE) as client:
        client.subscribe(POLL)
        assert client.wait("skipped").data["why"] == "too_large"

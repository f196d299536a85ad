"""No one spoils it for another: slow clients, two producers, one name for two, the edges of what is allowed."""

import contextlib
import os
import socket
import struct
import time

import pytest

from fault_engine import FaultEngine, big_status, captured, ok, status, ticking_system_status
from harness import PATIENCE, TOO_SLOW, get, parse_time, until, waits_in_the_kernel
from seccomp import forbid, io_uring_allowed
from ws_client import V1, rising

POLL = "system.status"
where_allowed = pytest.mark.skipif(not io_uring_allowed(), reason="io_uring is forbidden here")
either_way = pytest.mark.parametrize("io_uring", [pytest.param("on", marks=where_allowed), "off"])


def every_hole_is_told(client):
    # What a snapshot holds stands for all before it.
    covered = {m.seq for m in client.of(POLL, "transition") if not m.get("replay")}
    for note in client.of("skipped"):
        assert note.data["topic"] == POLL and note.data["from"] <= note.data["to"]
        covered |= set(range(note.data["from"], note.data["to"] + 1))
    holes = set(range(min(covered), max(covered) + 1)) - covered
    assert not holes, (holes, [m.data for m in client.of("skipped")])
    return True


@either_way
def test_a_client_that_stops_reading_delays_no_other(make_cluster, engine, io_uring):
    engine.set(POLL, big_status())
    cluster = make_cluster(engine, polls={POLL: {"interval": 0.02, "deadline": 0.5}}, edge_options={"io_uring": io_uring})
    with cluster.v1(POLL) as good:
        good.wait(POLL)
        slow = cluster.v1(POLL, receive_buffer=4096)
        slow.stop_reading()
        legacy = cluster.client(receive_buffer=4096, reading=False)
        mark = good.mark
        good.wait(lambda m: len(good.of(POLL, after=mark)) >= 200, timeout=20)
        values = good.of(POLL, after=mark)
        assert every_hole_is_told(good)
        gaps = [b.at - a.at for a, b in zip(values, values[1:])]
        assert sorted(gaps)[int(len(gaps) * 0.95)] < 0.3 * PATIENCE
        rss = cluster.edge.stat()[1]
        assert rss < (300 << 20) * PATIENCE, f"{rss >> 20} MiB"

        # The slow one is told what it missed, and is then up to date, or was closed with the code that says why.
        slow.go_on_reading()
        try:
            newest = good.wait_next(POLL)
            slow.wait(lambda m: m.type == POLL and m.pos >= newest.pos, timeout=15)
            assert slow.of("skipped"), "more than the kernel's buffers hold was left out"
            assert every_hole_is_told(slow)
            assert rising(slow.messages)
        except AssertionError:
            if not slow.closed:
                raise
            assert slow.closed[0] in TOO_SLOW
        legacy.cut()
        slow.cut()


@either_way
def test_what_a_slow_client_has_yet_to_be_sent_waits_where_newer_values_replace_it(make_cluster, engine, io_uring):
    engine.set(POLL, big_status(20_000))
    cluster = make_cluster(engine, polls={POLL: {"interval": 0.02, "deadline": 0.5}}, edge_options={"io_uring": io_uring})
    with cluster.v1(POLL) as good, cluster.v1(POLL, receive_buffer=4096) as slow:
        good.wait(POLL)
        slow.wait(POLL)
        slow.stop_reading()
        good.wait(lambda m: len(good.of(POLL)) >= 300, timeout=30)  # 6 MB.
        held = waits_in_the_kernel(cluster.edge.port)[slow._socket.getsockname()[1]]
        assert held < 200_000, "beside one message, 64 KiB that are not on their way"
        mark, newest = slow.mark, good.of(POLL)[-1]
        slow.go_on_reading()
        slow.wait(lambda m: m.type == POLL and m.pos >= newest.pos, timeout=15)
        old = [m for m in slow.of(POLL, after=mark) if m.pos < newest.pos]
        assert sum(m.bytes for m in old) < 1_000_000, "of 6 MB: what waited for it before newer values took its place"
        assert slow.of("skipped", after=mark) and every_hole_is_told(slow) and rising(slow.messages)


def test_a_client_that_pings_without_reading_kills_nothing(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL])
    hostile = cluster.client(receive_buffer=4096, reading=False)
    hostile._socket.settimeout(1)
    with cluster.v1(POLL) as good:
        good.wait(POLL)
        for _ in range(20_000):
            hostile.send_text('{"type":"ping"}')
            if hostile.closed:
                break
        mark = good.mark
        good.wait(lambda m: len(good.of(POLL, after=mark)) >= 5)
        assert cluster.edge.stat()[1] < (200 << 20) * PATIENCE
        hostile.cut()
        until(lambda: get(cluster.edge.port, "/api/v1/health")[2]["clients"] == 1)


@either_way
def test_clients_that_are_cut_off_amid_events_take_nothing_from_the_others(make_cluster, engine, io_uring):
    engine.set(POLL, ticking_system_status())
    cluster = make_cluster(engine, polls={POLL: {"interval": 0.02, "deadline": 0.5}}, edge_options={"io_uring": io_uring})
    with cluster.v1(POLL) as good:
        good.wait(POLL)
        for _ in range(20):
            # A reset, while the next value is on its way to it.
            lost = [cluster.v1(POLL) for _ in range(5)]
            seen = len(good.of(POLL))
            good.wait(lambda m: len(good.of(POLL)) > seen)
            for client in lost:
                client._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.cut()
        until(lambda: get(cluster.edge.port, "/api/v1/health")[2]["clients"] == 1)
        assert every_hole_is_told(good) and not good.of("skipped")
        assert rising(good.messages)
        figures = cluster.edge.metrics()
        assert (figures["sigmacast_edge_batched_flushes_total"] > 0) == (io_uring == "on")


@pytest.mark.parametrize("call", ["io_uring_setup", pytest.param("io_uring_enter", marks=where_allowed)])
def test_where_io_uring_is_forbidden_an_edge_serves_without_and_says_so(make_cluster, engine, call):
    cluster = make_cluster(engine, polls=[POLL], start=False, edge_options={"io_uring": "auto"})
    cluster.edge.before_exec = forbid(call)
    cluster.start()
    with contextlib.ExitStack() as stack:
        for client in [stack.enter_context(cluster.v1(POLL)) for _ in range(6)]:
            client.wait(POLL)
        figures = cluster.edge.metrics()
        assert figures["sigmacast_edge_io_uring"] == 0
        assert figures["sigmacast_edge_batches_total"] == 0 < figures["sigmacast_edge_flushes_total"]
    told = [line for line in cluster.edge.log().splitlines() if "no io_uring" in line]
    assert len(told) == 1 and f"{call}: Operation not permitted" in told[0], told


def test_where_io_uring_is_forbidden_and_demanded_an_edge_says_why_it_does_not_start(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], start=False, edge_options={"io_uring": "on"})
    cluster.edge.before_exec = forbid("io_uring_setup")
    cluster.edge.start(ready=False)
    assert cluster.edge.process.wait(10 * PATIENCE) == 1
    assert 'edge.io_uring is "on": io_uring_setup: Operation not permitted' in cluster.edge.log()


def test_two_producers_with_two_engines_do_not_spoil_one_another(make_cluster):
    first, second = FaultEngine().start(), FaultEngine().start()
    second.set(POLL, ok(dict(captured("system_status")["result"], hostname="second")))
    cluster = make_cluster(engines=[first, second], origins=("one", "two"), polls=[POLL, "agents.list"])
    with cluster.v1(POLL, "agent.status") as client, cluster.client() as old:
        for origin, host in (("one", "vm"), ("two", "second")):
            value = client.wait(lambda m: m.type == POLL and m["origin"] == origin)
            assert value.data["hostname"] == host
        old.wait(POLL)
        mark = client.mark
        first.set(POLL, status(500))
        stale = client.wait(lambda m: m.type == "transition" and m["quality"] == "stale")
        assert stale["origin"] == "one"
        ticks = lambda: [m for m in client.of("tick", after=mark) if m["origin"] == "two" and m.data["topic"] == POLL]
        client.wait(lambda m: len(ticks()) >= 3)
        killed = time.time()
        cluster.producers[0].kill()
        client.wait(lambda m: m.type == "transition" and m["origin"] == "one" and m.get("source") == "producer")
        ticks_before = len(ticks())
        client.wait(lambda m: len(ticks()) >= ticks_before + 3)
        assert [m for m in client.of("transition") if m["origin"] == "two" and m["quality"] != "live"] == []
        state = {s["origin"]: s["quality"] for s in cluster.v1().hello.data["sources"] if s["poll"] == POLL}
        assert state == {"one": "stale", "two": "live"}
        assert rising(client.messages)
        breakers = until(lambda: (b := get(cluster.edge.port, "/api/v1/status/circuit-breaker")[2])["stale"] and b,
                         what="the breakers of the dead producer are stale")
        assert {breaker["origin"] for breaker in breakers["breakers"]} == {"one", "two"}
        assert parse_time(breakers["as_of"]) < killed + 0.1, "none of them is older than that"
        # An old client knows of one engine only.
        assert len({m["origin"] for m in old.of(POLL)}) == 1
    first.stop()
    second.stop()


def test_the_second_producer_under_one_name_takes_over_and_the_first_is_fenced(make_cluster, engine):
    other = FaultEngine().start()
    other.set(POLL, ok(dict(captured("system_status")["result"], hostname="intruder")))
    cluster = make_cluster(engine, polls=[POLL])
    with cluster.v1(POLL) as client:
        client.wait(POLL)
        intruder = cluster.add_producer(other, "nas")
        intruder.start(ready=False)
        # One of the two owns the name, the other shows the conflict; the feed is of one engine.
        def fenced():
            return [p for p in cluster.producers if "origin_conflict" in str(p.readiness()[1])]
        loser = until(fenced, 15, "one producer shows origin_conflict")
        assert len(loser) == 1
        assert loser[0].readiness()[0] == 503
        mark = client.mark
        winner = [p for p in cluster.producers if p is not loser[0]][0]
        name = "intruder" if winner is intruder else "vm"
        kinds = lambda: client.of(POLL, "tick", after=mark)
        client.wait(lambda m: len(kinds()) >= 4)
        hosts = {m.data["hostname"] for m in client.of(POLL, after=mark)}
        assert hosts <= {name}
        assert rising(client.messages)
        assert [p for p in fenced()] == loser, "it stays fenced"
    other.stop()


@pytest.mark.parametrize("member", ["feed", "ingest", "repair"])
def test_noise_on_a_bus_socket_hurts_nothing(shared, member):
    host, port = getattr(shared, member)[len("tcp://"):].split(":")
    for noise in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(5000), b"\xff" + b"\0" * 8 + b"\x01\x7f" + b"\0" * 53):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            try:
                connection.sendall(noise)
            except OSError:
                pass
    with shared.v1(POLL) as client:
        client.wait(lambda m: len(client.of(POLL)) >= 4)
        assert all(m["quality"] == "live" for m in client.of(POLL))


def test_a_client_message_over_the_limit_closes_that_client_alone(shared):
    with shared.v1(POLL) as good:
        bad = shared.client()
        bad.wait("notification")
        bad.send_text(b'{"type":"' + b"x" * 200_000 + b'"}')
        assert bad.wait_closed()[0] in (1009, 4000, 1006)
        mark = good.mark
        good.wait(POLL, after=mark)


def test_protocol_errors_close_with_1002(shared):
    client = shared.client()
    client.wait("notification")
    client._send_frame(1, b'{"type":"ping"}', masked=False)  # RFC 6455 5.1: a client must mask.
    assert client.wait_closed()[0] in (1002, 1006)
    client = shared.client()
    client.wait("notification")
    client._send_frame(3, b"")  # A reserved opcode.
    assert client.wait_closed()[0] in (1002, 1006)


def test_a_client_beyond_the_maximum_is_turned_away_and_the_others_stay(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], edge_options={"clients_max": 3})
    clients = [cluster.client() for _ in range(3)]
    for client in clients:
        client.wait(POLL)
    try:
        fourth = cluster.client()
        assert fourth.wait_closed()[0] == 4100
    except Exception as refused:  # Or not even upgraded.
        assert getattr(refused, "status", 503) == 503, refused
    for client in clients:
        mark = client.mark
        client.wait(POLL, after=mark)
        client.close()
    until(lambda: try_client(cluster), what="there is room again")


def test_a_client_that_stops_answering_pings_is_closed_and_one_that_never_did_is_kept(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], edge_options={"ping_interval": "100ms", "pong_timeout": "100ms"})
    with cluster.client(answer_pings=False) as never, cluster.client() as good:
        gone = cluster.client()
        until(lambda: gone.control, what="a ping, and its answer")
        gone.request({"type": "ping"}, "pong")
        gone._answer_pings = False
        assert gone.wait_closed(timeout=10) == (4104, "no_pong")
        assert cluster.edge.metrics()["sigmacast_edge_no_pong_total"] == 1
        assert good.closed is None and never.closed is None


def test_a_connection_that_was_cut_leaves_nothing_behind(make_cluster, engine):
    engine.set(POLL, big_status())
    cluster = make_cluster(engine, polls={POLL: {"interval": 0.02, "deadline": 0.5}})
    descriptors = lambda: len(os.listdir(f"/proc/{cluster.edge.process.pid}/fd"))
    clients = lambda: cluster.edge.metrics()["sigmacast_edge_clients"]
    with cluster.client() as good:
        good.wait(POLL)
        assert clients() == 1  # The metrics' own connection ends before the descriptors are counted.
        before = until(lambda: (n := descriptors()) == descriptors() and n)
        for _ in range(3):
            silent = [cluster.client(receive_buffer=4096, reading=False) for _ in range(20)]
            for client in silent:
                for _ in range(50):
                    client.send({"type": "ping"})
            until(lambda: clients() == 21)
            mark = good.mark
            good.wait(lambda m: len(good.of(POLL, after=mark)) >= 20, timeout=15)
            for client in silent:
                client.reset()
            until(lambda: clients() == 1, what="those that were cut are gone")
        until(lambda: descriptors() <= before, what="and their descriptors")


def try_client(cluster):
    client = cluster.client()
    try:
        client.wait("notification", timeout=2)
        return True
    finally:
        client.cut()


def test_a_message_larger_than_a_clients_queue_closes_nobody(make_cluster, engine):
    count = [0]

    def newlines(_params):  # Twice as large in JSON.
        count[0] = min(count[0] + 1, 2)  # Then unchanged: megabytes a second are slow under sanitizers.
        return {"n": count[0], "pad": "\n" * 2_500_000}
    engine.set("agents.scheduler.metrics", ok(newlines))
    cluster = make_cluster(engine, polls={POLL: {}, "agents.scheduler.metrics": {"interval": PATIENCE, "deadline": PATIENCE}})
    with cluster.v1("*") as everything, cluster.v1("scheduler.metrics") as one, cluster.client() as old:
        old.send({"type": "subscribe", "data": {"types": ["scheduler.metrics"]}})
        for client in (everything, one):
            note = client.wait(lambda m: m.type == "skipped" and m.data["topic"] == "scheduler.metrics", timeout=15)
            assert note.data["why"] == "too_large"
        cluster.publish('{"type":"note","data":{"pad":"%s"}}\n' % ("p" * (4_194_290 - 33)))
        note = everything.wait(lambda m: m.type == "skipped" and m.data["topic"] == "note", timeout=15)
        assert note.data["why"] == "too_large"
        assert old.request({"type": "ping"}, "pong")
        assert [client.closed for client in (everything, one, old)] == [None] * 3
        metrics = cluster.edge.metrics()
        assert metrics["sigmacast_edge_dropped_clients_total"] == 0
        assert metrics["sigmacast_edge_too_large_total"] >= 2
        assert "too large for clients" in cluster.edge.log()
        # The count of an answer is of what follows it.
        late = cluster.v1("scheduler.metrics")
        assert late.subscribed.data["topics"]["scheduler.metrics"]["count"] == 0
        assert late.wait("skipped").data["why"] == "too_large"
        late.close()


def test_however_much_state_is_published_an_edge_that_starts_gets_a_snapshot(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL])
    cluster.publish({"type": "big", "kind": "state", "key": f"k{i}", "data": {"pad": "p" * 1_000_000}} for i in range(80))
    metrics = until(lambda: (m := cluster.broker.metrics())["sigmacast_broker_refused_values_total"] >= 20 and m)
    assert metrics["sigmacast_broker_state_bytes"] <= 48 << 20
    assert "too many bytes of state" in cluster.broker.log()
    cluster.edge.kill()
    cluster.edge.start()
    with cluster.v1("big", POLL) as client:
        assert client.subscribed.data["topics"]["big"]["count"] == 80 - metrics["sigmacast_broker_refused_values_total"]
        assert client.wait(POLL)["quality"] == "live"


def test_it_refuses_to_listen_beyond_loopback_without_the_explicit_exception(make_cluster, engine):
    cluster = make_cluster(engine, start=False, edge_options={"host": "0.0.0.0"})
    cluster.edge.start(ready=False)
    assert cluster.edge.process.wait(10 * PATIENCE) != 0
    assert "allow_anonymous_lan" in cluster.edge.log()


def test_health_of_the_edge_tells_of_clients(shared):
    with shared.client(V1) as client:
        client.wait("hello")
        code, _, body = get(shared.edge.port, "/api/v1/health")
        assert code == 200 and isinstance(body, dict)

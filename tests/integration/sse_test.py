"""Server-Sent Events: the feed for whoever has only HTTP, and what it does for who comes back."""

import base64
import contextlib
import json
import socket
import subprocess
import threading
import time

import pytest

from certificates import Authority
from fault_engine import big_status
from harness import PATIENCE, TOO_SLOW, Cluster, get, until
from sse_client import PATH, Events
from tokens import SECRET, token
from ws_client import Refused, rising

POLL = "system.status"


@pytest.fixture(scope="module")
def port(shared):
    with shared.v1(POLL, "agent.status", "compression.update") as client:
        for topic in (POLL, "agent.status", "compression.update"):
            client.wait(topic)
    return shared.edge.port


def live(count, topic=POLL):
    """Of a stream: so many values of the topic."""
    return lambda events: len([m for m in events.messages if m.type == topic]) >= count


def wait_for(events, condition, timeout=8):
    return until(lambda: condition(events), timeout, "what the stream was to bring")


# The stream -------------------------------------------------------------------------------------------------------------

def test_a_stream_is_hello_the_answer_the_state_and_then_live(port):
    with Events(port, POLL, "agent.status") as events:
        wait_for(events, live(5))
        types = [m.type for m in events.messages]
        assert types[:2] == ["hello", "subscribed"]
        assert events.messages[1].data["topics"][POLL] == {"result": "snapshot", "count": 1}
        assert set(types[2:4]) == {POLL, "agent.status"}
        assert events.messages[2]["replay"] is True
        assert set(types) <= {"hello", "subscribed", POLL, "agent.status", "tick", "transition", "heartbeat"}
        assert rising([m for m in events.messages if not m.get("replay")])
        uptimes = [m.data["uptime"] for m in events.of(POLL)]
        assert len(set(uptimes)) >= 3 and uptimes == sorted(uptimes)


def test_the_head_of_a_stream(port):
    with Events(port, POLL) as events:
        assert events.headers["content-type"] == "text/event-stream"
        assert events.headers["cache-control"] == "no-store"
        assert events.headers["x-accel-buffering"] == "no"
        assert events.headers["connection"] == "close"
        assert "content-length" not in events.headers and "transfer-encoding" not in events.headers
        assert events.headers["date"].endswith(" GMT") and events.headers["vary"] == "Origin"
        assert events.headers["x-content-type-options"] == "nosniff"
        events.wait("hello")
        assert 1000 <= events.retry <= 3000
    with Events(port, POLL, version="1.0") as old:
        wait_for(old, live(2))


def test_without_types_everything_comes(port):
    for query in ({}, {"types": ""}, {"types": ",,"}):
        with Events(port, query=query) as events:
            assert list(events.wait("subscribed").data["topics"]) == ["*"]
            for topic in (POLL, "agent.status", "compression.update"):
                events.wait(topic)


def test_types_are_a_list_with_commas_or_repeated(port):
    for target in (f"types={POLL},agent.status", f"types={POLL}&types=agent.status",
                   f"types={POLL}%2Cagent.status", "types=system_status,agent_status"):
        with Events(port, path=f"{PATH}?{target}") as events:
            assert set(events.wait("subscribed").data["topics"]) == {POLL, "agent.status"}, target
    with Events(port, path=f"{PATH}/?types={POLL}") as events:
        events.wait(POLL)


def test_types_that_cannot_be_are_400(port):
    for types in ("x" * 129, ",".join(f"t{i}" for i in range(257))):
        code, _, body = get(port, f"{PATH}?types={types}")
        assert code == 400 and body["code"] == 400 and "types" in body["error"] or "type" in body["error"]


def test_curl_is_enough(port):
    done = subprocess.run(["curl", "-sSN", "--noproxy", "*", "--max-time", "3", f"http://127.0.0.1:{port}{PATH}?types={POLL}"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 28, "it goes on until it is ended: " + done.stderr
    messages = [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("data: ")]
    assert [m["type"] for m in messages[:3]] == ["hello", "subscribed", POLL]
    assert len([m for m in messages if m["type"] == POLL]) >= 3
    assert [line for line in done.stdout.splitlines() if line.startswith("id: ")]


def test_head_is_answered_and_other_methods_are_not(port):
    before = get(port, "/api/v1/health")[2]["clients"]
    code, headers, body = get(port, PATH, "HEAD")
    assert (code, headers["content-type"], body) == (200, "text/event-stream", b"")
    code, headers, _ = get(port, PATH, "OPTIONS")
    assert code == 204 and "GET" in headers["allow"] and "Last-Event-ID" in headers["access-control-allow-headers"]
    code, headers, body = get(port, PATH, "POST", body=b"{}")
    assert code == 405 and body["code"] == 405
    until(lambda: get(port, "/api/v1/health")[2]["clients"] == before)


def test_something_comes_within_ping_ms_however_quiet_it_is(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], edge_options={"heartbeat_interval": "500ms"})
    with Events(cluster.edge.port, "no.such.topic") as events:
        assert events.wait("subscribed").data["topics"]["no.such.topic"]["result"] == "unknown"
        events.wait(lambda m: len(events.of("heartbeat")) >= 4)
        assert events.wait("hello").data["ping_ms"] == 500
        beats = events.of("heartbeat")
        assert beats[-1].at - beats[-2].at < 1.2 * PATIENCE
        # Each carries the bookmark, and so does its id: a quiet topic's cursor rises.
        first = events.last_id
        until(lambda: events.last_id != first, what="a newer id")


def test_what_a_client_sends_after_its_request_is_passed_over_and_bounded(port):
    with Events(port, POLL, after=b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10) as events:
        wait_for(events, live(3))
    with Events(port, POLL, after=b"x" * 100) as events:
        events.wait(POLL)

        def given_up():
            with contextlib.suppress(OSError):
                events._socket.sendall(b"x" * 4096)
            return events.closed
        until(given_up, what="who sends on and on is let go")


def test_streams_are_counted_among_the_clients_and_on_their_own(shared, port):
    def counted():
        metrics = shared.edge.metrics()
        return metrics["sigmacast_edge_event_streams"], metrics["sigmacast_edge_clients"]
    until(lambda: counted() == (0, 0))
    with Events(port, POLL) as events, shared.v1(POLL):
        events.wait(POLL)
        assert counted() == (1, 2)
        assert get(port, "/api/v1/health")[2]["clients"] == 2
    until(lambda: counted() == (0, 0))
    assert shared.edge.metrics()["sigmacast_edge_event_streams_total"] >= 1


# Who comes back ---------------------------------------------------------------------------------------------------------

def publisher(cluster):
    """publish(3): three more events of `note`, numbered; returns the numbers of all so far."""
    count = [0]

    def publish(number, topic="note"):
        numbers = range(count[0] + 1, count[0] + number + 1)
        cluster.publish(({"type": topic, "data": {"n": n}} for n in numbers), "--origin", "script")
        count[0] += number
        return list(range(1, count[0] + 1))
    return publish


def notes(events):
    """Without the first one: it makes the topic known, and may be younger than the first bookmark."""
    return [m.data["n"] for m in events.of("note") if m.data["n"] > 1]


def test_who_comes_back_with_an_id_gets_what_it_missed_and_nothing_twice(make_cluster, engine):
    """Cut at any event, however the ids were spread: complete, in order, without a duplicate."""
    cluster = make_cluster(engine, polls=[POLL], edges=2)
    publish = publisher(cluster)
    publish(1)
    got, last_id = [], None
    for round_, edge in enumerate((0, 0, 1, 0, 1, 1)):
        with Events(cluster.edges[edge].port, "note", POLL, last_event_id=last_id) as events:
            answer = events.wait("subscribed").data["topics"]["note"]
            if round_ == 0:
                assert answer["result"] == "live"
                until(lambda: events.last_id)
            else:
                assert answer["result"] == "resumed", answer
                # What was published while it was away; of it only a part is read before the next cut.
                wait_for(events, lambda e: len(notes(e)) >= 3)
            numbers = publish(2)
            if round_ % 2 == 0:
                wait_for(events, lambda e: numbers[-1] in notes(e))
            events.cut()
            got += notes(events)
            last_id = events.last_id
        publish(4)
    with Events(cluster.edge.port, "note", last_event_id=last_id) as events:
        numbers = publish(1)
        wait_for(events, lambda e: numbers[-1] in notes(e))
        got += notes(events)
    assert got == numbers[1:], "all but the one before its first connection, each once"


def test_eventsource_comes_back_by_itself_and_has_every_event_once(make_cluster, engine, npm_folder):
    cluster = make_cluster(engine, polls=[POLL])
    publish = publisher(cluster)
    publish(1)
    process = subprocess.Popen(["node", "events.js", f"http://127.0.0.1:{cluster.edge.port}{PATH}?types=note,{POLL}"],
                               cwd=npm_folder, stdout=subprocess.PIPE, text=True)
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")))
    reader.start()

    def told(kind):
        return [line for line in map(json.loads, list(lines)) if kind in line]

    def seen():
        return [line["message"]["data"]["n"] for line in told("message") if line["message"]["type"] == "note"
                and line["message"]["data"]["n"] > 1]
    try:
        until(lambda: any(line["id"] for line in told("message")))
        publish(2)
        until(lambda: seen() == [2, 3])
        cluster.edge.terminate()
        publish(2)
        cluster.edge.start()
        until(lambda: len(told("open")) == 2 and 5 in seen(), timeout=20)
        cluster.edge.kill()
        publish(1)
        cluster.edge.start()
        until(lambda: len(told("open")) == 3 and 6 in seen(), timeout=20)
        assert seen() == [2, 3, 4, 5, 6]
        assert {"hello", "subscribed", POLL} <= {line["message"]["type"] for line in told("message")}
    finally:
        process.kill()
        process.wait()
        reader.join()


def test_eventsource_that_meets_a_full_edge_comes_back_by_itself(make_cluster, engine, npm_folder):
    cluster = make_cluster(engine, polls=[POLL], edge_options={"clients_max": 1})
    holder = cluster.v1(POLL)
    process = subprocess.Popen(["node", "events.js", f"http://127.0.0.1:{cluster.edge.port}{PATH}?types={POLL}"],
                               cwd=npm_folder, stdout=subprocess.PIPE, text=True)
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")))
    reader.start()

    def told(kind):
        return [line["message"] for line in map(json.loads, list(lines)) if line.get("message", {}).get("type") == kind]
    try:
        until(lambda: told("goodbye"))
        assert told("goodbye")[0]["data"]["code"] == 4100 and not told("hello")
        holder.close()
        until(lambda: told(POLL), timeout=25)
        assert not any(line.get("ended") for line in map(json.loads, list(lines)))
    finally:
        holder.cut()
        process.kill()
        process.wait()
        reader.join()


def test_an_id_in_the_query_counts_where_there_is_no_header(cluster):
    publish = publisher(cluster)
    publish(1)
    with Events(cluster.edge.port, "note") as events:
        until(lambda: events.last_id)
        old = events.last_id
        publish(3)
        wait_for(events, lambda e: notes(e) == [2, 3, 4])
        until(lambda: events.last_id != old)
        new = events.last_id
    with Events(cluster.edge.port, "note", query={"last_event_id": old}) as events:
        wait_for(events, lambda e: notes(e) == [2, 3, 4])
    with Events(cluster.edge.port, "note", query={"last_event_id": old}, last_event_id=new) as events:
        assert events.wait("subscribed").data["topics"]["note"]["result"] == "resumed"
        publish(1)
        wait_for(events, lambda e: notes(e) == [5])


def test_every_event_that_is_cut_off_after_itself_is_resumed_after_itself(cluster):
    """The id of each single event is a cursor that neither misses nor repeats."""
    publish = publisher(cluster)
    publish(1)
    with Events(cluster.edge.port, "note") as events:
        until(lambda: events.last_id)
        publish(12)
        wait_for(events, lambda e: len(notes(e)) == 12)
        seen = [(m.data["n"], m.id) for m in events.of("note") if m.data["n"] > 1]
    for n, identifier in seen:
        with Events(cluster.edge.port, "note", last_event_id=identifier) as again:
            assert again.wait("subscribed").data["topics"]["note"]["result"] == "resumed"
            wait_for(again, lambda e: 13 in notes(e) or n == 13)
            assert notes(again) == list(range(n + 1, 14))


def forged(good, pos):
    """The id of another position, with everything right about it that can be."""
    decoded = base64.urlsafe_b64decode(good + "=" * (-len(good) % 4))
    body = decoded[:17]  # Version and epoch.
    while pos >= 0x80:
        body, pos = body + bytes([pos & 0x7F | 0x80]), pos >> 7
    body += bytes([pos])
    check = 2166136261
    for byte in body:
        check = (check ^ byte) * 16777619 & 0xFFFFFFFF
    return base64.urlsafe_b64encode(body + check.to_bytes(4, "little")).decode().rstrip("=")


def test_an_id_that_is_none_is_answered_and_the_stream_goes_on(cluster):
    publish = publisher(cluster)
    publish(1)
    with Events(cluster.edge.port, "note") as events:
        until(lambda: events.last_id)
        good = events.last_id
    for bad in ("garbage", "1", good[:-3], "A" * 3000, good + "%00", "\u00e9".encode().decode("latin-1"), "' OR 1=1",
                forged(good, 2 ** 63), forged(good, 2 ** 64 - 1)):
        with Events(cluster.edge.port, "note", last_event_id=bad) as events:
            answer = events.wait("subscribed").data["topics"]["note"]
            assert (answer["result"], answer["cause"]) == ("snapshot", "bad_cursor"), bad
            until(lambda: events.last_id != bad, what="an id that is one")
    with Events(cluster.edge.port, "note", last_event_id=forged(good, 2 ** 63 - 1)) as events:
        assert events.wait("subscribed").data["topics"]["note"]["cause"] == "future"


def test_a_quiet_topics_cursor_rises_with_the_log(make_cluster, engine):
    """Its ids follow the bookmark, so that a long silence costs nothing when it comes back."""
    cluster = make_cluster(engine, polls={POLL: {"interval": 0.05, "deadline": 0.5}},
                           edge_options={"heartbeat_interval": "300ms"})
    publish = publisher(cluster)
    publish(1)
    with Events(cluster.edge.port, "note") as events:
        until(lambda: events.last_id)
        first = cluster.state()["pos"]
        until(lambda: cluster.state()["pos"] > first + 40, what="the log has gone on")
        until(lambda: events.of("heartbeat") and events.of("heartbeat")[-1].pos > first + 40)
        events.cut()
    publish(2)
    with Events(cluster.edge.port, "note", last_event_id=events.last_id) as again:
        answer = again.wait("subscribed").data["topics"]["note"]
        assert answer["result"] == "resumed" and answer["from"] > first + 40
        wait_for(again, lambda e: notes(e) == [2, 3])


def test_an_id_ahead_of_the_edge_waits_for_it_and_nothing_comes_twice(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], edges=2)
    publish = publisher(cluster)
    publish(1)
    with Events(cluster.edges[0].port, "note") as events:
        until(lambda: events.last_id)
        cluster.edges[1].freeze()
        publish(3)
        wait_for(events, lambda e: notes(e) == [2, 3, 4])
    publish(2)
    behind = []
    thread = threading.Thread(target=lambda: behind.append(
        Events(cluster.edges[1].port, "note", last_event_id=events.last_id, timeout=20 * PATIENCE)))
    thread.start()
    cluster.edges[1].thaw()
    thread.join()
    with behind[0] as again:
        numbers = publish(1)
        wait_for(again, lambda e: numbers[-1] in notes(e))
        assert notes(again) == [5, 6, 7]


def test_an_id_of_a_log_that_was_restored_is_told_so(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL])
    publish = publisher(cluster)
    publish(1)
    with Events(cluster.edge.port, "note") as events:
        until(lambda: events.last_id)
        publish(2)
        wait_for(events, lambda e: notes(e) == [2, 3])
    cluster.broker.kill()
    for path in cluster.database.parent.glob("sigmacast.db*"):
        path.unlink()
    cluster.broker.start()
    epoch = until(lambda: get(cluster.broker.port, "/metrics") and cluster.state()["epoch"] != events.messages[0].data["epoch"]
                  and cluster.state()["epoch"], timeout=15)
    with Events(cluster.edge.port, "note", last_event_id=events.last_id) as again:
        answer = again.wait("subscribed", timeout=12).data["topics"]["note"]
        assert (answer["result"], answer["cause"]) == ("snapshot", "new_epoch")
        until(lambda: again.last_id != events.last_id)
        publish(1)
        wait_for(again, lambda e: notes(e) == [4])
        assert again.of("note")[0]["epoch"] == epoch
    with Events(cluster.edge.port, "note", last_event_id=again.last_id) as once_more:
        assert once_more.wait("subscribed").data["topics"]["note"]["result"] == "resumed"


def test_while_the_broker_is_away_it_waits_and_then_gets_everything(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL])
    publish = publisher(cluster)
    publish(1)
    with Events(cluster.edge.port, "note") as events:
        until(lambda: events.last_id)
    publish(3)
    # An edge that has just started has no events of its own: only the log has.
    young = cluster.add_edge().start()
    cluster.broker.kill()
    with Events(young.port, "note", POLL, last_event_id=events.last_id) as again:
        answer = again.wait("subscribed", timeout=12).data["topics"]
        assert answer["note"]["result"] == "pending" and answer[POLL]["result"] == "snapshot"
        again.wait("heartbeat", timeout=12)
        meanwhile = again.last_id
        cluster.broker.start()
        wait_for(again, lambda e: notes(e) == [2, 3, 4], timeout=15)
        publish(1)
        wait_for(again, lambda e: notes(e) == [2, 3, 4, 5])
    with Events(young.port, "note", last_event_id=meanwhile) as early:
        wait_for(early, lambda e: notes(e) == [2, 3, 4, 5])  # What was pending is not taken for sent.
    with Events(young.port, "note", last_event_id=again.last_id) as done:
        done.wait("subscribed")
        numbers = publish(1)
        wait_for(done, lambda e: numbers[-1] in notes(e))
        assert notes(done) == [6]


# Limits -----------------------------------------------------------------------------------------------------------------

def turned_away(events, code, reason, least, most):
    """A stream that ends at once, in a way that EventSource comes back from: any status but 200 ends it for good."""
    goodbye = events.wait("goodbye")
    events.wait_closed()
    assert (events.status, events.headers["content-type"]) == (200, "text/event-stream")
    assert [m.type for m in events.messages] == ["goodbye"] and not events.ids
    assert (goodbye.data["code"], goodbye.data["reason"]) == (code, reason)
    return least <= events.retry == goodbye.data["reconnect_in_ms"] <= most


def test_a_stream_beyond_a_limit_is_told_when_to_come_back_and_ends(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], edge_options={"clients_max": 2})
    port = cluster.edge.port
    with Events(port, POLL) as events, cluster.v1(POLL):
        events.wait(POLL)
        before = cluster.edge.metrics()
        with Events(port, POLL) as full:
            assert turned_away(full, 4100, "over_capacity", 5_000, 15_000)
        with pytest.raises(Refused) as refused:
            cluster.v1(POLL)
        assert refused.value.status == 503
        after = cluster.edge.metrics()
        assert after["sigmacast_edge_clients"] == 2
        for name in ("sigmacast_edge_refused_total", 'sigmacast_edge_limited_total{limit="clients_max"}'):
            assert after[name] - before[name] == 2, name
        code, headers, body = get(port, PATH, "HEAD")
        assert (code, headers["content-type"], body) == (200, "text/event-stream", b"")
    until(lambda: get(port, "/api/v1/health")[2]["clients"] == 0)
    with Events(port, POLL) as events:
        events.wait(POLL)


def test_a_stream_that_is_not_read_delays_no_other_and_is_told_or_ended(make_cluster, engine):
    engine.set(POLL, big_status())
    cluster = make_cluster(engine, polls={POLL: {"interval": 0.02, "deadline": 0.5}},
                           edge_options={"write_timeout": "2s"})
    port = cluster.edge.port
    with Events(port, POLL) as good:
        good.wait(POLL)
        slow = Events(port, POLL, receive_buffer=4096)
        slow.wait("hello")
        slow.stop_reading()
        stuck = Events(port, POLL, receive_buffer=4096, reading=False)
        mark = good.mark
        good.wait(lambda m: len(good.of(POLL, after=mark)) >= 100, timeout=20)
        values = good.of(POLL, after=mark)
        gaps = [b.at - a.at for a, b in zip(values, values[1:])]
        assert sorted(gaps)[int(len(gaps) * 0.95)] < 0.3 * PATIENCE
        slow.go_on_reading()
        newest = good.wait_next(POLL)
        try:
            slow.wait(lambda m: m.type == POLL and m.pos >= newest.pos, timeout=15)
            assert slow.of("skipped"), "more than the kernel's buffers hold was left out"
            assert rising([m for m in slow.messages if not m.get("replay")])
        except AssertionError:
            assert slow.closed
            assert [m.data["code"] for m in slow.of("goodbye")] == [4102] or 1006 in TOO_SLOW
        # Who takes nothing at all is let go.
        until(lambda: cluster.edge.metrics()['sigmacast_edge_limited_total{limit="write_timeout"}'] >= 1, timeout=20)
        assert cluster.edge.stat()[1] < (300 << 20) * PATIENCE
        stuck.go_on_reading()
        stuck.wait_closed(timeout=10)
        slow.cut()


def test_five_hundred_streams_get_everything(make_cluster, engine):
    cluster = make_cluster(engine, polls={POLL: {"interval": 0.5, "deadline": 0.5}})
    port = cluster.edge.port
    request = f"GET {PATH}?types={POLL} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    before = cluster.edge.stat()[1]
    sockets = []
    try:
        for _ in range(500):
            sockets.append(socket.create_connection(("127.0.0.1", port), timeout=10 * PATIENCE))
            sockets[-1].sendall(request)
        until(lambda: cluster.edge.metrics()["sigmacast_edge_event_streams"] == 500, timeout=20)
        texts = [b""] * 500
        end = time.monotonic() + 30 * PATIENCE

        def live(i):
            """The positions that stream i has got whole. What a snapshot holds stands for all before it."""
            lines = texts[i][:texts[i].rfind(b"\n\n")].split(b"\n")
            messages = [json.loads(line[6:]) for line in lines if line.startswith(b"data: ")]
            return [m["seq"] for m in messages if m.get("seq") and not m.get("replay")]

        def read_until(i, enough):
            while not enough(live(i)):
                assert time.monotonic() < end
                chunk = sockets[i].recv(65536)
                assert chunk, "it goes on"
                texts[i] += chunk

        for i in range(500):
            read_until(i, bool)
        newest = max(live(i)[-1] for i in range(500))
        for i in range(500):
            read_until(i, lambda seqs: seqs[-1] >= newest + 5)
            assert live(i) == list(range(live(i)[0], live(i)[-1] + 1))
        assert (cluster.edge.stat()[1] - before) / 500 < (64 << 10) * PATIENCE, "bytes for each"
    finally:
        for each in sockets:
            each.close()
    until(lambda: cluster.edge.metrics()["sigmacast_edge_event_streams"] == 0)


# Who may ------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def guarded(tmp_path_factory, shared_engine):
    auth = {"required": True, "secret": SECRET, "cookie": "sid", "query_token": True}
    with Cluster(tmp_path_factory.mktemp("guarded"), shared_engine, auth_options=auth,
                 roles={"viewer": [POLL, "agent.*"], "admin": ["*"]}, log_level="debug",
                 edge_options={"cors_origins": ["https://nas.example"], "clients_per_user_max": 2}) as cluster:
        with cluster.client("sigmacast.v1.json", headers=bearer(token("admin"))) as client:
            client.subscribe("*")
            client.wait(POLL)
            client.wait("compression.update")
        yield cluster


def bearer(text):
    return {"Authorization": f"Bearer {text}"}


def test_a_stream_without_a_good_token_is_401(guarded):
    for headers in ({}, bearer("x"), bearer(token("admin", lasts=-60))):
        code, answered, body = get(guarded.edge.port, PATH, headers=headers)
        assert code == 401 and body["code"] == 401 and answered["www-authenticate"].startswith("Bearer")


def test_a_token_comes_as_header_cookie_or_where_allowed_in_the_query(guarded):
    text = token("viewer")
    for more in ({"headers": bearer(text)}, {"headers": {"Cookie": f"a=b; sid={text}"}}, {"query": {"token": text}}):
        with Events(guarded.edge.port, POLL, **more) as events:
            events.wait(POLL)
            assert events.wait("hello").data["expires"]
    with Cluster(guarded.folder / "no_query", start=False, auth_options={"required": True, "secret": SECRET}) as other:
        other.edge.start(ready=False)
        until(lambda: get(other.edge.port, PATH)[0] == 401)
        assert get(other.edge.port, f"{PATH}?token={text}")[0] == 401


def test_of_what_is_asked_for_only_what_the_token_allows_comes(guarded):
    with Events(guarded.edge.port, POLL, "compression.update", headers=bearer(token("viewer"))) as events:
        topics = events.wait("subscribed").data["topics"]
        assert topics["compression.update"] == {"result": "denied"} and topics[POLL]["result"] == "snapshot"
    with Events(guarded.edge.port, headers=bearer(token("viewer"))) as events:
        wait_for(events, live(3))
        assert not events.of("compression.update")
    for denied in ("compression.update", "compression_update", "rpc_error", "circuit_breaker.open", "no_such"):
        code, _, body = get(guarded.edge.port, f"{PATH}?types={denied}", headers=bearer(token("viewer")))
        assert code == 403 and body["code"] == 403, denied


def test_when_its_token_expires_a_stream_says_so_and_ends(guarded):
    with Events(guarded.edge.port, POLL, headers=bearer(token("viewer", lasts=1))) as events:
        goodbye = events.wait("goodbye", timeout=12)
        assert goodbye.data["code"] == 4301 and goodbye.data["reason"] == "token_expired"
        assert events.retry == goodbye.data["reconnect_in_ms"]
        events.wait_closed()


def test_a_users_streams_are_counted_with_its_websockets(guarded):
    text = token("viewer", subject="bob")
    with Events(guarded.edge.port, POLL, headers=bearer(text)) as events:
        events.wait(POLL)
        with guarded.client("sigmacast.v1.json", headers=bearer(text)):
            with Events(guarded.edge.port, POLL, headers=bearer(text)) as full:
                assert turned_away(full, 4100, "over_capacity", 5_000, 15_000)


def test_pages_of_listed_origins_may_read_a_stream(guarded):
    def allowed(origin):
        with Events(guarded.edge.port, POLL, headers={**bearer(token("admin")), "Origin": origin}) as events:
            return events.headers.get("access-control-allow-origin")
    assert allowed("https://nas.example") == "https://nas.example"
    assert allowed("https://evil.example") is None
    code, headers, _ = get(guarded.edge.port, PATH, headers={"Origin": "https://nas.example"})
    assert code == 401 and headers["access-control-allow-origin"] == "https://nas.example"


def test_a_rebound_name_gets_no_stream(port):
    assert get(port, PATH, headers={"Host": "evil.example"})[0] == 421


# TLS and the end ------------------------------------------------------------------------------------------------------------

def test_a_stream_goes_through_tls(make_cluster, engine, tmp_path_factory):
    engine.set(POLL, big_status(size=100_000))
    authority = Authority(tmp_path_factory.mktemp("authority"))
    cluster = make_cluster(engine, polls=[POLL], tls=authority)
    with Events(cluster.edge.port, POLL, tls=authority.context()) as events:
        wait_for(events, live(5))
        assert rising([m for m in events.messages if not m.get("replay")])
    done = subprocess.run(["curl", "-sSN", "--noproxy", "*", "--max-time", "3", "--cacert", str(authority.certificate),
                           f"https://127.0.0.1:{cluster.edge.port}{PATH}?types={POLL}"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 28 and 'data: {"type":"system.status"' in done.stdout


def test_an_edge_that_ends_says_goodbye_and_when_to_come_back(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL])
    with Events(cluster.edge.port, POLL) as events:
        events.wait(POLL)
        cluster.edge.process.terminate()
        goodbye = events.wait("goodbye")
        assert goodbye.data["code"] in (1001, 4200) and events.retry == goodbye.data["reconnect_in_ms"]
        events.wait_closed()
    until(lambda: cluster.edge.process.poll() == 0, what="the edge ended with 0")

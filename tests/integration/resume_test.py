"""Clients that were away: every event since, from any edge, or word of what is lost."""

import shutil

import pytest

from harness import PATIENCE, until
from ws_client import V1, rising

OTHER = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def quiet(make_cluster):
    """Broker and edge; events come from the command line."""
    def make(**options):
        return make_cluster(None, origins=(), **options)
    return make


def publish(cluster, numbers, topic="note"):
    cluster.publish(({"type": topic, "data": {"n": n}} for n in numbers), "--origin", "script")


def committed(cluster):
    return int(cluster.broker.metrics()["sigmacast_broker_pos"])


def bookmark(cluster, edge=0, at_least=None):
    """A bookmark of this edge, once it has reached all that is committed."""
    at_least = committed(cluster) if at_least is None else at_least

    def reached():
        with cluster.client(V1, edge) as client:
            data = client.wait("hello").data
            return {"epoch": data["epoch"], "pos": data["pos"]} if data["pos"] >= at_least else None
    return until(reached, what="the edge has reached the log")


def back(cluster, cursor, *topics, edge=0, **options):
    client = cluster.client(V1, edge, **options)
    client.hello = client.wait("hello")
    client.answer = client.subscribe(*(topics or ("note",)), resume=cursor, timeout=15)
    client.part = client.answer.data["topics"][(topics or ("note",))[0]]
    return client


def notes(client, count, topic="note", timeout=15):
    until(lambda: len(client.of(topic)) >= count, timeout, f"{count} events", every=0.1)
    assert rising(client.of(topic))
    return [m.data["n"] for m in client.of(topic)]


def test_every_event_since_comes_from_the_ring_of_its_edge(quiet):
    cluster = quiet()
    publish(cluster, range(3))
    cursor = bookmark(cluster)
    publish(cluster, range(3, 8))
    with cluster.v1() as witness:
        assert "resume" in witness.hello.data["features"]
    with back(cluster, cursor) as client:
        assert client.part["result"] == "resumed" and client.part["from"] == cursor["pos"]
        assert notes(client, 5) == [3, 4, 5, 6, 7]
        assert all(m["replay"] and m["pos"] > cursor["pos"] for m in client.of("note"))
        publish(cluster, [8])
        assert notes(client, 6)[-1] == 8 and "replay" not in client.of("note")[-1]
        assert cluster.edge.metrics()["sigmacast_edge_history_requests_total"] == 0


def test_an_edge_that_was_just_started_asks_the_broker(quiet):
    cluster = quiet()
    publish(cluster, range(3))
    cursor = bookmark(cluster)
    publish(cluster, range(3, 8))
    cluster.add_edge().start()
    with back(cluster, cursor, edge=1) as client:
        assert client.part["result"] == "resumed"
        assert notes(client, 5) == [3, 4, 5, 6, 7]
    assert cluster.broker.metrics()["sigmacast_broker_history_total"] >= 1


def test_twenty_thousand_events_come_whole_and_a_client_that_stops_reading_holds_nobody_up(quiet):
    cluster = quiet()
    publish(cluster, [-1])
    cursor = bookmark(cluster)
    publish(cluster, range(20_000))
    cluster.add_edge().start()
    slow = cluster.client(V1, 1, receive_buffer=4096)
    slow.wait("hello")
    slow.stop_reading()
    slow.send({"type": "subscribe", "id": 1, "data": {"types": ["note"], "resume": cursor}})
    with back(cluster, cursor, edge=1) as client:
        assert notes(client, 20_000, timeout=60) == list(range(20_000))
    until(lambda: cluster.edges[1].metrics()["sigmacast_edge_resuming"] == 1, what="the slow one alone is left")
    slow.go_on_reading()
    assert notes(slow, 20_000, timeout=60) == list(range(20_000))
    assert slow.closed is None
    slow.close()
    assert cluster.edges[1].metrics()["sigmacast_edge_dropped_clients_total"] == 0


def test_three_hundred_clients_at_once_cost_the_broker_the_pages_of_its_log_twice(quiet):
    cluster = quiet()
    publish(cluster, [-1])
    cursor = bookmark(cluster)
    publish(cluster, range(1_500))
    cluster.add_edge().start()
    clients = [cluster.client(V1, 1) for _ in range(300)]
    for client in clients:
        client.wait("hello")
    for i, client in enumerate(clients):
        client.send({"type": "subscribe", "id": 1, "data": {"types": ["note"],
                                                            "resume": {**cursor, "pos": cursor["pos"] + i % 7}}})
    for i, client in enumerate(clients):
        assert notes(client, 1_500 - i % 7, timeout=90) == list(range(i % 7, 1_500))
        client.close()
    pages = -(-1_501 // 1_024)
    # A page that a slow machine does not bring in time is asked for again.
    assert cluster.broker.metrics()["sigmacast_broker_history_total"] <= 2 * pages * PATIENCE


def test_a_cursor_that_is_wrong_is_answered_and_live_events_follow(quiet):
    cluster = quiet()
    publish(cluster, range(3))
    cursor = bookmark(cluster)
    for wrong, cause in (({**cursor, "pos": 1 << 40}, "future"), ({**cursor, "epoch": OTHER}, "new_epoch"),
                         ("garbage", "bad_cursor"), ({**cursor, "pos": "1"}, "bad_cursor")):
        with back(cluster, wrong) as client:
            assert client.part == {"result": "snapshot", "count": 0, "cause": cause}
            publish(cluster, [99])
            assert notes(client, 1) == [99]


def test_what_retention_has_taken_is_told_and_a_quiet_topic_is_not_concerned(quiet):
    cluster = quiet(broker_options={"retain_events": "3s"})
    publish(cluster, [-1])
    cursor = bookmark(cluster)
    publish(cluster, range(5))
    until(lambda: cluster.broker.metrics()["sigmacast_broker_trimmed_total"] >= 6, 60, "retention has taken them")
    publish(cluster, [5])
    publish(cluster, [0], topic="seldom")
    cluster.add_edge().start()
    with back(cluster, cursor, "note", "seldom", edge=1) as client:
        assert client.part["result"] == "snapshot" and client.part["cause"] == "too_old"
        assert client.part["lost"]["from"] == cursor["pos"]
        assert cursor["pos"] + 5 <= client.part["lost"]["to"] < committed(cluster)
        assert client.answer.data["topics"]["seldom"]["result"] == "resumed"
        assert notes(client, 1, "seldom") == [0]


def test_while_the_broker_is_dead_the_ring_answers_and_older_events_follow_when_it_is_back(quiet):
    cluster = quiet()
    publish(cluster, range(3))
    old = bookmark(cluster)
    publish(cluster, range(3, 6))
    cluster.add_edge().start()
    recent = bookmark(cluster, 1)
    publish(cluster, range(6, 9))
    bookmark(cluster, 1)
    cluster.broker.kill()
    with back(cluster, recent, edge=1) as client:
        assert client.part["result"] == "resumed"
        assert notes(client, 3) == [6, 7, 8]
    with back(cluster, old, edge=1) as client:
        assert client.part == {"result": "pending", "count": 0}
        assert client.of("note") == []
        cluster.broker.start()
        told = client.wait(lambda m: m.type == "subscribed" and "id" not in m, timeout=20)
        assert told.data["topics"]["note"]["result"] == "resumed"
        assert notes(client, 6) == [3, 4, 5, 6, 7, 8]


def test_an_edge_that_has_not_reached_the_cursor_sends_the_client_on(quiet):
    cluster = quiet()
    publish(cluster, range(3))
    cursor = bookmark(cluster)
    cluster.broker.kill()
    cluster.add_edge().start(ready=False)
    client = until(lambda: cluster.client(V1, 1), what="the young edge listens")
    client.wait("hello")
    client.send({"type": "subscribe", "id": 1, "data": {"types": ["note"], "resume": cursor}})
    error = client.wait("error")
    assert error.data["code"] == 4201 and error.data["temporary"] is True and error["id"] == 1
    goodbye = client.wait("goodbye")
    assert goodbye.data["code"] == 4201 and goodbye.data["reconnect_in_ms"] > 0
    assert client.wait_closed()[0] == 4201
    cluster.broker.start()
    cluster.edges[1].wait_ready()
    with back(cluster, cursor, edge=1) as again:
        assert again.part["result"] == "resumed"


def test_a_client_of_a_log_that_was_put_back_starts_anew(quiet):
    cluster = quiet()
    publish(cluster, range(3))
    assert cluster.broker.terminate() == 0
    copy = cluster.folder / "copy.db"
    shutil.copy(cluster.database, copy)
    cluster.broker.start()
    publish(cluster, range(3, 6))
    cursor = bookmark(cluster)
    assert cluster.broker.terminate() == 0
    for file in cluster.database.parent.glob("sigmacast.db*"):
        if not file.name.endswith(".lock"):
            file.unlink()
    shutil.copy(copy, cluster.database)
    cluster.broker.start()
    until(lambda: cluster.state()["epoch"] != cursor["epoch"], what="the edge knows the new epoch")
    with back(cluster, cursor) as client:
        assert client.part["cause"] == "new_epoch"
        publish(cluster, [7])
        assert notes(client, 1) == [7]


def test_a_client_of_a_quiet_topic_goes_on_from_heartbeats(quiet):
    cluster = quiet(edge_options={"heartbeat_interval": "500ms"})
    with cluster.v1("seldom") as client:
        publish(cluster, range(50))
        pos = committed(cluster)
        beat = client.wait(lambda m: m.type == "heartbeat" and m["pos"] >= pos)
        cursor = {"epoch": beat["epoch"], "pos": beat["pos"]}
    publish(cluster, [1], topic="seldom")
    with back(cluster, cursor, "seldom") as client:
        assert client.part["result"] == "resumed"
        assert notes(client, 1, "seldom") == [1]

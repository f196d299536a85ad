"""Each process killed, frozen and restarted: the feed goes on, positions never go back, age stays true."""

import concurrent.futures
import http.client
import itertools
import json
import os
import shutil
import threading
import time

import pytest

from fault_engine import FaultEngine, ok, status
from harness import INTERVAL, PATIENCE, get, parse_time, until
from ws_client import rising

POLL = "system.status"


def live(m):
    return m.type == POLL and m["quality"] == "live"


def transition(quality, reason=None, source=None):
    return lambda m: (m.type == "transition" and m["quality"] == quality and (reason is None or m["reason"] == reason)
                      and (source is None or m["source"] == source))


def comparable(data):
    return {k: v for k, v in data.items() if k not in ("timestamp", "stale", "error_code", "last_update")}


def test_a_killed_producer_is_noticed_and_a_restarted_one_goes_on_above(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL, "agents.list"])
    with cluster.v1(POLL, "agent.status") as client:
        client.wait(live)
        cluster.producer.kill()
        killed = time.monotonic()
        stale = client.wait(lambda m: transition("stale")(m) and m.data["topic"] == POLL)
        values = [m for m in client.of(POLL) if m.pos < stale.pos]
        assert stale["source"] == "producer" and stale["reason"] in ("PRODUCER_SILENT", "POLL_SILENT")
        assert stale.at - killed < 2 * INTERVAL + 2 + 0.6 * PATIENCE, "2 x interval + 2 s from the last report"
        # The last one's; it may have died between a value and the report that all keys were looked at: then the one's before.
        assert any(abs(parse_time(stale["as_of"]) - parse_time(m["as_of"])) < 0.001 for m in values[-2:])
        cluster.producer.start()
        client.wait(lambda m: transition("live")(m) and m.data["topic"] == POLL, after=client.messages.index(stale))
        fresh = client.wait(live, after=client.messages.index(stale))
        assert fresh.seq > stale.seq and fresh.pos > stale.pos
        client.wait(lambda m: transition("live")(m) and m.data["topic"] == "agent.status",
                    after=client.messages.index(stale))
        assert rising(client.messages)
        assert len({m["epoch"] for m in client.messages if m.get("epoch")}) == 1


def test_a_frozen_producer_is_stale_within_its_bound_and_comes_back(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL])
    with cluster.v1(POLL) as client:
        client.wait(live)
        cluster.producer.freeze()
        frozen = time.monotonic()
        stale = client.wait(transition("stale", source="producer"))
        assert stale.at - frozen < 2 * INTERVAL + 2 + 0.6 * PATIENCE
        cluster.producer.thaw()
        client.wait(transition("live"), after=client.messages.index(stale))
        client.wait(live, after=client.messages.index(stale))
        assert rising(client.messages)


def test_a_killed_broker_is_told_by_the_edge_which_goes_on_serving(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL, "agents.list"])
    with cluster.v1(POLL, "agent.status") as client, cluster.client() as old:
        client.wait(live)
        client.wait("agent.status")
        old.wait("agent.status")
        cluster.broker.kill()
        killed = time.monotonic()
        stale = client.wait(lambda m: transition("stale", "BROKER_UNREACHABLE", "uplink")(m) and m.data["topic"] == POLL)
        last = client.of(POLL)[-1]
        assert stale.at - killed < 3.5 + 0.5 * (PATIENCE - 1), "three missed heads"
        client.wait(lambda m: transition("stale", "BROKER_UNREACHABLE")(m) and m.data["topic"] == "agent.status")
        rendered = old.wait(lambda m: m.type == POLL and m.data.get("error_code") == "BROKER_UNREACHABLE")
        assert rendered.data["last_update"] == last["as_of"]
        assert comparable(rendered.data) == comparable(last.data)
        # And go on at the cadence, with the age growing.
        old.wait(lambda m: len([s for s in old.of(POLL) if s.data["stale"]]) >= 3, what="three stale renderings")
        # A newcomer is served from what the edge has, marked.
        with cluster.v1(POLL) as late:
            value = late.wait(POLL)
            assert value["quality"] == "stale" and value["reason"] == "BROKER_UNREACHABLE"
            assert comparable(value.data) == comparable(last.data) and value["pos"] == last["pos"]
            assert late.hello.data["sources"][0]["quality"] == "stale"
        assert [m["reason"] for m in client.all(transition("stale")) if m.data["topic"] == POLL] == \
            ["BROKER_UNREACHABLE"], "told once"


def test_a_restarted_broker_keeps_state_positions_and_epoch(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL, "agents.list"])
    with cluster.v1(POLL, "agent.status") as client:
        client.wait(live)
        client.wait("agent.status")
        for _ in range(2):
            mark = client.mark
            cluster.broker.kill()
            last = client.wait(POLL) and client.of(POLL)[-1]
            cluster.broker.start()
            fresh = client.wait(live, after=mark + 1, timeout=15)
            fresh = client.wait(lambda m: live(m) and m.pos > last.pos, after=mark, timeout=15)
            assert fresh["epoch"] == client.hello.data["epoch"], "the same log"
            until(lambda: all(s["quality"] == "live" for s in sources(cluster).values()), 15, "every source is live")
        assert rising(client.messages)


def sources(cluster, edge=0):
    with cluster.v1(edge=edge) as client:
        return {s["poll"]: s for s in client.hello.data["sources"] if s["poll"]}


def test_a_broker_that_starts_alone_calls_everything_stale_with_the_true_as_of(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL, "agents.list"])
    with cluster.v1(POLL, "agent.status") as client:
        client.wait(live)
        client.wait("agent.status")
        engine.set_all(status(500))  # The last good answers are known now, exactly.
        client.wait(lambda m: transition("stale")(m) and m.data["topic"] == POLL)
        agents = client.wait(lambda m: transition("stale")(m) and m.data["topic"] == "agent.status")
        last_value, last_agents = client.of(POLL)[-1], client.of("agent.status")[-1]
        newest = client.of(POLL, "transition")[-1]
    cluster.kill_all()
    cluster.broker.start(ready=False)
    cluster.edge.start(ready=False)
    until(lambda: get(cluster.edge.port, "/api/v1/health")[0] and True, 10, "the edge serves")
    until(lambda: "system.status" in sources(cluster), 10, "the edge has the broker's snapshot")
    with cluster.v1(POLL, "agent.status") as late, cluster.client() as old:
        value = late.wait(POLL)
        assert value["quality"] == "stale" and value["reason"], value.text
        assert value["as_of"] == last_value["as_of"], "exact, through the death of every process"
        assert value.pos == last_value.pos and value.seq == last_value.seq
        assert comparable(value.data) == comparable(last_value.data)
        value = late.wait("agent.status")
        assert value["as_of"] == agents["as_of"], "the last confirmation, not the last change"
        assert comparable(value.data) == comparable(last_agents.data)
        rendered = old.wait(POLL)
        assert rendered.data["stale"] is True and rendered.data["last_update"] == last_value["as_of"]
        assert comparable(rendered.data) == comparable(last_value.data)
        assert rendered.data["error_code"]
        assert late.hello.data["pos"] >= newest.pos, "positions never go back"


@pytest.mark.parametrize("seen", [0, 1000], ids=["before", "in the middle"])
def test_a_broker_that_was_away_misses_none_of_twelve_thousand_events(make_cluster, engine, seen):
    """More than a publisher has under way at once: it keeps what is not durable, and waits with the rest."""
    cluster, count = make_cluster(engine, polls=[POLL]), 12_000
    lines = "".join(f'{{"type": "note", "data": {{"n": {n}}}}}\n' for n in range(count))
    with cluster.v1("note", "heartbeat") as client, concurrent.futures.ThreadPoolExecutor() as background:
        client.wait(lambda m: m.type == "subscribed")
        if seen == 0:
            cluster.broker.kill()
        publishing = background.submit(cluster.command, "publish", "--config", cluster.command_config(), "--origin", "script",
                                       "--timeout", "60s", input=lines, timeout=90)
        if seen:
            client.wait(lambda m: m.type == "note" and m.data["n"] == seen, timeout=20)
            cluster.broker.kill()
        client.wait(lambda m: m.type == "heartbeat" and m.data["uplink"] == "down", timeout=15)
        assert not publishing.done(), "there was more to come"
        cluster.broker.start()
        done = publishing.result()
        assert done.returncode == 0, done.stderr
        client.wait(lambda m: m.type == "note" and m.data["n"] == count - 1, timeout=20)
        assert [m.data["n"] for m in client.of("note")] == list(range(count)), "each once, in order"
        assert not client.of("skipped")


def test_the_last_known_good_serves_live_again_after_everything_was_killed(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL])
    with cluster.v1(POLL) as client:
        last = client.wait(live)
    cluster.kill_all()
    cluster.start()
    with cluster.v1(POLL) as client:
        fresh = client.wait(lambda m: live(m) and m.pos > last.pos)
        assert fresh.seq > last.seq and fresh["epoch"] == last["epoch"]


def test_a_killed_edge_is_ready_within_a_second_of_its_restart(make_cluster, engine):
    cluster = make_cluster(engine, edges=2)
    with cluster.v1(POLL, edge=1) as other:
        other.wait(live)
        cluster.edge.kill()
        mark = other.mark
        cluster.edge.start(ready=False)
        took = cluster.edge.wait_ready()
        assert took < 1.0 * PATIENCE, f"{took:.2f} s"
        with cluster.v1(POLL) as client:
            value = client.wait(live)
            assert value["epoch"] == other.hello.data["epoch"]
        gaps = [b.at - a.at for a, b in zip(other.of(POLL, after=mark), other.of(POLL, after=mark)[1:])]
        assert not gaps or max(gaps) < 1.0 * PATIENCE, "the other edge's clients notice nothing"


def test_two_edges_serve_the_same_events_with_the_same_positions(make_cluster, engine):
    cluster = make_cluster(engine, edges=2)
    with cluster.v1(POLL, "rpc_error", edge=0) as one, cluster.v1(POLL, "rpc_error", edge=1) as two:
        one.wait(live), two.wait(live)
        engine.set(POLL, status(500))
        for client in (one, two):
            client.stale = client.wait(transition("stale"))
            client.wait("rpc_error")
        engine.heal()
        for client in (one, two):
            back = client.wait(transition("live"), after=client.messages.index(client.stale))
            client.wait(lambda m: len([v for v in client.of(POLL) if v.pos and v.pos > (back.pos or 0)]) >= 5)
        # What came before may have come in a snapshot; from the event on both were there.
        begin, = {c.of("rpc_error")[0].pos for c in (one, two)}
        end = min(max(m.pos for m in c.messages if m.pos and m.type not in ("hello", "heartbeat")) for c in (one, two))
        got = [[(m.type, m.pos, m.seq, m.get("key"), comparable(m.data)) for m in c.messages
                if m.pos and begin <= m.pos <= end and m.type in (POLL, "rpc_error", "transition")] for c in (one, two)]
        assert got[0] == got[1] and len(got[0]) >= 5
        assert one.hello.data["epoch"] == two.hello.data["epoch"]


def test_an_edge_that_is_added_serves_the_same_while_the_others_go_on(make_cluster, engine):
    cluster = make_cluster(engine)
    with cluster.v1(POLL) as client:
        client.wait(live)
        cluster.add_edge().start()
        with cluster.v1(POLL, edge=1) as new:
            value = new.wait(live)
            same = client.wait(lambda m: m.pos == value.pos)
            assert comparable(same.data) == comparable(value.data)
        assert client.all(transition("stale")) == []


def test_an_edge_without_a_broker_says_so(make_cluster):
    engine = FaultEngine()
    cluster = make_cluster(engine, start=False)
    cluster.edge.start(ready=False)
    until(lambda: get(cluster.edge.port, "/api/v1/health")[0] in (200, 503), 10, "the edge listens")
    assert get(cluster.edge.port, "/api/v1/ready")[0] == 503
    with cluster.client() as old:
        old.wait("notification")


def test_a_frozen_broker_is_told_and_taken_back(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL])
    with cluster.v1(POLL) as client:
        client.wait(live)
        cluster.broker.freeze()
        frozen = time.monotonic()
        stale = client.wait(transition("stale", "BROKER_UNREACHABLE"))
        assert stale.at - frozen < 3.5 + 0.5 * (PATIENCE - 1)
        cluster.broker.thaw()
        client.wait(transition("live"), after=client.messages.index(stale))
        client.wait(live, after=client.messages.index(stale))
        assert rising([m for m in client.messages if m.type != "transition" or m.pos])


def test_a_database_that_comes_back_older_is_a_new_log_and_nothing_that_follows_is_lost(make_cluster, engine):
    numbers, answered = itertools.count(), {}

    def count(_):
        number = next(numbers)
        answered[number] = time.time()
        return {"n": number}
    engine.set("agents.scheduler.metrics", ok(count))
    cluster = make_cluster(engine, polls=["agents.scheduler.metrics"])
    database = str(cluster.database)

    def publish(*events):
        cluster.publish({"type": "ev", "data": {"n": n}} for n in events)

    with cluster.v1("*") as client, cluster.add_edge().start() and cluster.v1("*", edge=1) as other:
        publish(*range(5))
        cluster.broker.terminate()
        shutil.copy(database, database + ".older")
        cluster.broker.start()
        publish(*range(100, 150))
        shown = client.wait(lambda m: m.type == "ev" and m.data["n"] == 149, timeout=15)
        other.wait(lambda m: m.type == "ev" and m.data["n"] == 149, timeout=15)
        marks = {client: client.mark, other: other.mark}
        cluster.broker.kill()
        for suffix in ("-wal", "-shm"):
            if os.path.exists(database + suffix):
                os.unlink(database + suffix)
        shutil.copy(database + ".older", database)
        cluster.broker.start()
        restarted = time.time()
        publish(*range(200, 220))

        for number, each in enumerate((client, other)):
            last = each.wait(lambda m: m.type == "ev" and m.data["n"] == 219, after=marks[each], timeout=15)
            assert last["epoch"] != shown["epoch"], "positions were used again under the epoch that clients know"
            got = [m.data["n"] for m in each.of("ev", after=marks[each]) if m["epoch"] == last["epoch"]]
            assert got == list(range(200, 220)), "each once, in order, in the new log"
            until(lambda: told_live(cluster, number) and parse_time(told_live(cluster, number)["as_of"]) > restarted, 15,
                  "the poll's value is live again")
            for _ in range(10):
                value = told_live(cluster, number)
                assert value is None or abs(parse_time(value["as_of"]) - answered[value["data"]["n"]]) < INTERVAL, \
                    f"an old value was vouched for: {value}"
        assert "new epoch" in cluster.broker.log()


def told_live(cluster, edge):
    """The value of the counting poll where this edge calls it live."""
    values = [v for v in cluster.state("scheduler.metrics", edge=edge)["values"] if v["quality"] == "live"]
    return values[0] if values else None


def test_a_thawed_edge_judges_its_uplink_before_it_answers_what_waited_meanwhile(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL])
    for _ in range(3):  # What the thawed process turns to first is a race.
        until(lambda: all(s["quality"] == "live" for s in sources(cluster).values()), 15, "every source is live")
        with cluster.v1(POLL) as client:
            client.wait(live)
            cluster.edge.freeze()
            frozen = time.monotonic()
            until(lambda: time.monotonic() - frozen > 1.2, 3, "a head waits in front of the frozen edge")
            cluster.broker.kill()
            frozen = time.monotonic()
            until(lambda: time.monotonic() - frozen > 3.5, 5, "the broker is silent for longer than an edge believes it")
            waiting = [http.client.HTTPConnection("127.0.0.1", cluster.edge.port, timeout=10 * PATIENCE) for _ in "12"]
            for connection, path in zip(waiting, ("/api/v1/state/" + POLL, "/api/v1/health")):
                connection.request("GET", path)
            opened = []
            opening = threading.Thread(target=lambda: opened.append(cluster.v1(POLL, timeout=10 * PATIENCE)))
            opening.start()
            mark = client.mark
            client.send({"type": "subscribe", "id": 9, "data": {"types": [POLL]}})
            cluster.edge.thaw()
            state, health = [json.loads(connection.getresponse().read()) for connection in waiting]
            opening.join()
            with opened[0] as late:
                told = [late.wait(POLL), client.wait(lambda m: m.type == POLL and m.get("replay"), after=mark)]
                assert late.hello.data["uplink"] == "down"
                after = late.request({"type": "ping", "id": 2}, "pong") and get(cluster.edge.port, "/api/v1/health")[2]
                assert after["uplink"] == "down", "by the head that had waited"
        assert state["uplink"] == health["uplink"] == "down", (state, health)
        for value in (*state["values"], *told):
            assert (value["quality"], value.get("reason")) == ("stale", "BROKER_UNREACHABLE"), value
        cluster.broker.start()


def test_a_thawed_edge_judges_its_uplink_before_it_tells_what_waited_on_the_feed(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL])
    with cluster.v1(POLL) as client:
        client.wait(live)
        cluster.edge.freeze()
        frozen = time.monotonic()
        until(lambda: time.monotonic() - frozen > 1.2, 3, "answers and a head wait in front of the frozen edge")
        cluster.broker.kill()
        killed = time.monotonic()
        until(lambda: time.monotonic() - killed > 3.5, 5, "the broker is silent for longer than an edge believes it")
        before = client.mark  # What it had sent itself before it was frozen.
        cluster.edge.thaw()
        stale = client.wait(transition("stale", "BROKER_UNREACHABLE", "uplink"), after=before)
        told = client.messages[before:client.messages.index(stale)]
        assert not [m for m in told if m.get("quality") == "live"], "older than an edge believes its broker"

"""The contract with the clients of the original hub: recorded sessions (data/go-api-captures) against ours, message by
message; clients that only listen; and every message type of common/EVENTS.md, each from a real cause.

A recorded message is matched by one of ours of the same kind: type, stale or fresh, error code, a job or the summary.
Ours has every member that theirs has, of the same JSON type; a number that was whole in every recording is whole.
"""

import http.server
import json
import re
import threading
import time

import pytest

from fault_engine import FaultEngine, capture, captured, hang, ok, rpc_error, status, ticking_system_status
from harness import ERROR_CODES, PATIENCE, POLLS, Cluster, until
from named_tests import ROOT, problem
from ws_client import TEXT

RECORDINGS = {path.stem.split("-")[0]: [json.loads(line) for line in path.read_text().splitlines()]
              for path in sorted((ROOT / "tests/data/go-api-captures").glob("session*.jsonl"))}
QUEUE = "compression.queue.running"
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")

# Shapes ---------------------------------------------------------------------------------------------------------------

STATE = {"system.status", "compression.update", "agent.status"}
# Whole by chance in some messages; the contract calls them numbers.
NUMBERS = {"uptime", "cpu_usage", "memory_pct", "load1", "load5", "load15", "progress", "compression_ratio",
           "elapsed_seconds", "eta_seconds"}


def kind(message):
    data = message.get("data") or {}
    role = ""
    if message["type"] == "compression.update":
        role = "job" if "job_id" in data else "summary" if not data.get("jobs") else "summary with jobs"
    return message["type"], role, data.get("stale", False), data.get("error_code")


def name_of(value):
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def differences(theirs, ours, path=""):
    """What a client of theirs would miss in ours; empty where it finds everything."""
    wanted, found = name_of(theirs), name_of(ours)
    if wanted == "integer" and path.rsplit(".", 1)[-1] in NUMBERS:
        wanted = "number"
    if not (wanted == found or (wanted == "number" and found == "integer")):
        return [f"{path}: {found} instead of {wanted}"]
    if wanted == "string" and RFC3339.fullmatch(theirs) and not RFC3339.fullmatch(ours):
        return [f"{path}: {ours!r} is no RFC 3339 time in UTC with fractions"]
    if path.endswith(".agents"):  # By id; theirs were all one, with an empty id.
        entry = next(iter(theirs.values()))
        return [d for id, agent in ours.items() for d in differences(entry, agent, f"{path}[{id}]")]
    if wanted == "object":
        return [d for member, value in theirs.items() for d in
                (differences(value, ours[member], f"{path}.{member}") if member in ours else [f"{path}.{member}: missing"])]
    if wanted == "array" and theirs:
        return ([f"{path}: empty"] if not ours else
                [d for item in ours for d in differences(theirs[0], item, f"{path}[]")])
    return []


@pytest.mark.parametrize("theirs, ours, wanted", [
    ({"a": 1}, {"a": 2, "new": 1}, []),
    ({"a": {"b": 1}}, {"a": {}}, [".a.b: missing"]),
    ({"a": 1}, {"a": 1.0}, [".a: number instead of integer"]),
    ({"a": 1}, {"a": True}, [".a: boolean instead of integer"]),
    ({"a": 1.5}, {"a": 1}, []),
    ({"progress": 0}, {"progress": 0.5}, []),
    ({"a": "x"}, {"a": None}, [".a: null instead of string"]),
    ({"a": [{"b": 1}]}, {"a": []}, [".a: empty"]),
    ({"a": [{"b": 1}]}, {"a": [{"b": 1}, {}]}, [".a[].b: missing"]),
    ({"a": []}, {"a": [1]}, []),
    ({"d": {"agents": {"": {"id": ""}}}}, {"d": {"agents": {"x": {"id": "x"}, "y": {}}}}, [".d.agents[y].id: missing"]),
    ({"t": "2026-11-20T23:58:24.912317475Z"}, {"t": "2026-11-20T23:58:24Z"},
     [".t: '2026-11-20T23:58:24Z' is no RFC 3339 time in UTC with fractions"]),
])
def test_the_comparison_finds_what_a_client_would_miss(theirs, ours, wanted):
    assert differences(theirs, ours) == wanted


# Recorded sessions ----------------------------------------------------------------------------------------------------

class Play:
    """Ours in the place of the original: the client is there first, as in the recordings, then the engine is asked."""

    def __init__(self, cluster, engine):
        self.cluster, self.engine, self.old, self.mark = cluster, engine, None, 0
        cluster.broker.start()
        cluster.edge.start()

    def open(self, record):
        self.old = self.cluster.client()  # 101, or it raises.
        assert record["status"] == 101
        self.cluster.producer.start(ready=False)

    def text(self, record):
        theirs = json.loads(record["text"])
        fresh = theirs["type"] in STATE and not kind(theirs)[2]
        after = self.mark if theirs["type"] == "pong" or (fresh and self.healed) else 0
        ours = self.old.wait(lambda m: kind(m) == kind(theirs), after=after, what=kind(theirs))
        assert list(ours)[:len(theirs)] == list(theirs), "the envelope, in its order"
        assert ours.opcode == TEXT
        problems = differences(theirs, dict(ours))
        assert not problems, f"{problems} in {ours.text[:600]}"

    def sent(self, record):
        self.mark = self.old.mark
        self.old.send_text(record["text"])

    def marker(self, record):
        self.mark = self.old.mark
        action = next(act for note, act in MARKERS.items() if record["note"].startswith(note))
        action(self)

    def closed_by_client(self, record):
        assert self.old.closed is None, "ours never closes"
        self.old.close(record["code"])

    def eof_without_close_frame(self, _):
        # Where the original is wrong: SIGTERM cut the connection without a close frame.
        assert self.cluster.edge.terminate() == 0
        assert self.old.wait_closed()[0] == 1001

    healed = False

    def heal(self):
        self.engine.heal()
        self.healed = True

    def unknown_method_then_outage(self):
        # Where the original is wrong: -32601 counted as a failure, and the feed of a healthy engine went stale.
        calls = self.engine.count("system.status")
        until(lambda: self.engine.count("system.status") >= calls + 5, what="five polls")
        assert self.engine.count("storage.pools.list") >= 1
        assert not [m for m in self.old.messages if m.data.get("stale")], "a healthy engine's feed is fresh"
        self.engine.refuse()  # What a stale message looks like is the same in a real outage.


MARKERS = {
    "jobs submitted": lambda play: play.engine.set(QUEUE, capture("queue_running_live_05")),
    "engine stopping": lambda play: play.engine.refuse(),
    "engine killed": lambda play: None,
    "engine stopped": lambda play: None,
    "engine started again": Play.heal,
    "engine process started": lambda play: play.engine.listen(),
    "five REST": Play.unknown_method_then_outage,
    "engine process frozen": lambda play: play.engine.set_all(hang()),
    "engine process thawed": Play.heal,
}
BEFORE = {
    "session5": lambda engine: engine.set(QUEUE, capture("queue_running_unstarted_t4s")),
    "session6": lambda engine: engine.refuse(),
    "session8": lambda engine: engine.set(QUEUE, rpc_error(-32603, data="boom")),
}


@pytest.mark.parametrize("session", RECORDINGS)
def test_a_recorded_session_against_ours_message_by_message(session, make_cluster, engine):
    BEFORE.get(session, lambda _: None)(engine)
    play = Play(make_cluster(engine, start=False), engine)
    for record in RECORDINGS[session]:
        getattr(play, record["kind"])(record)
    assert play.old.messages[0].type == "notification", "the welcome comes first"
    if play.old.closed is None or play.old.closed[0] != 1001:
        assert not play.old.fragments


def test_every_recorded_type_is_among_those_that_were_compared():
    types = {json.loads(r["text"])["type"] for rows in RECORDINGS.values() for r in rows if r["kind"] == "text"}
    assert len(RECORDINGS) == 8
    assert types == {"notification", "system.status", "compression.update", "agent.status", "rpc_error", "pong"}


# Old clients ----------------------------------------------------------------------------------------------------------

def test_a_client_that_looks_for_words_finds_them_through_an_outage(make_cluster, engine):
    """As the original's test programs do it: text searched in what arrives, one word after the other."""
    cluster = make_cluster(engine)
    with cluster.client() as old:
        def next_with(*words):
            found = old.wait(lambda m: all(word in m.text for word in words), after=next_with.after, what=words)
            next_with.after = old.messages.index(found) + 1
            return found
        next_with.after = 0
        next_with('"system.status"', '"stale":false')
        engine.refuse()
        first = next_with('"RPC_DISCONNECT"', '"stale":true', '"last_update":"')
        next_with('"CIRCUIT_BREAKER_OPEN"', '"stale":true', '"last_update":"')
        errors = [m for m in old.messages if '{"type":"rpc_error"' in m.text]
        assert errors and all('"error_code":"' in m.text and '"consecutive_failures":' in m.text for m in errors)
        engine.listen()
        for topic in ("system.status", "compression.update", "agent.status"):
            back = old.wait(lambda m: m.type == topic and m.data["stale"] is False, after=next_with.after)
            assert "error_code" not in back.data and "last_update" not in back.data
        assert first.data["last_update"] < back["timestamp"]


def test_a_large_message_is_one_frame_for_a_client_that_ignores_fin(make_cluster, engine):
    job = captured("queue_running_live_05")["result"]["jobs"][0]
    jobs = [dict(job, job_id=f"{i:08d}-0000-4000-8000-000000000000") for i in range(300)]
    engine.set(QUEUE, ok({"jobs": jobs, "total_running": 300, "total_pending": 0, "total_jobs": 300}))
    cluster = make_cluster(engine, polls=[QUEUE])
    with cluster.client() as old:
        summary = old.wait(lambda m: m.type == "compression.update" and len(m.data.get("jobs", [])) == 300)
        assert len(summary.text) > 65536, "its length is written in 8 bytes"
        before = [m for m in old.messages[:old.messages.index(summary)] if "job_id" in m.data]
        assert {m.data["job_id"] for m in before} == {job["job_id"] for job in jobs}, "jobs first, then their summary"
        assert old.fragments == 0


def test_something_arrives_where_nothing_was_ever_polled(make_cluster, engine):
    cluster = make_cluster(engine, start=False, edge_options={"heartbeat_interval": "300ms"})
    cluster.broker.start()
    cluster.edge.start()
    with cluster.client() as old:
        old.wait(lambda m: len(old.of("heartbeat")) >= 3, what="three heartbeats")
        assert {m.type for m in old.messages} == {"notification", "heartbeat"}


def test_ten_clients_that_only_listen_for_thirty_seconds_at_the_real_times(make_cluster, engine):
    """Slow: the contract's own 5 s cadence, 10 s of patience and 30 s of listening, with an engine that hangs between."""
    cluster = make_cluster(engine, interval=5, deadline=3, reset=300, health=10)
    desktop = {"key": "MTIzNDU2Nzg5MDEyMzQ1Njc4", "answer_pings": False}
    began = time.monotonic()
    clients = [cluster.client(**(desktop if i % 2 else {})) for i in range(10)]
    try:
        def all_see(wanted, seconds):
            until(lambda: all(any(wanted(m) for m in list(c.messages)) for c in clients), seconds, wanted.__name__)

        def fresh(m):
            return m.type == "system.status" and m.data["stale"] is False

        def stale(m):
            return m.type == "system.status" and m.data["stale"] is True and m.data["error_code"] == "RPC_DISCONNECT"

        def fresh_again(m):
            return fresh(m) and m.at > healed
        all_see(fresh, 1)
        engine.set_all(hang())
        all_see(stale, 5 + 3 + 1)
        engine.heal()
        healed = time.monotonic()
        all_see(fresh_again, 5 + 3 + 1)
        until(lambda: time.monotonic() - began > 30, 31, "thirty seconds of listening", every=0.1)
        ended = time.monotonic()
        for client in clients:
            assert client.closed is None and client.fragments == 0
            times = [client.began] + [m.at for m in client.messages] + [ended]
            assert max(b - a for a, b in zip(times, times[1:])) < 10, "two clients give up after 10 s of silence"
            for topic in ("system.status", "agent.status", "compression.update"):
                assert len(client.of(topic)) >= 6, "every 5 s, unchanged or stale, too"
    finally:
        for client in clients:
            client.close()


# The engine's side ----------------------------------------------------------------------------------------------------

class Listening(http.server.BaseHTTPRequestHandler):
    """An engine that knows system.status alone, and keeps how it was asked."""
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        call = json.loads(body)
        self.server.asked.append((time.monotonic(), self.path, dict(self.headers), call, self.client_address))
        known = call["method"] == "system.status"
        answer = json.dumps({"jsonrpc": "2.0", "result": captured("system_status")["result"] if known else None,
                             "error": None if known else {"code": -32601, "message": "Method not found"},
                             "id": call["id"]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def test_the_engine_is_asked_as_the_contract_says_without_any_configuration(make_cluster):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listening)
    server.daemon_threads, server.asked, server.url = True, [], f"http://127.0.0.1:{server.server_port}/api/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    make_cluster(server, polls=[])  # No row of polls: the defaults.
    asked = until(lambda: len(server.asked) >= 9 and list(server.asked), 8, "the eight polls, and one again")
    for _, path, headers, call, _ in asked:
        assert path == "/api/v1/rpc" and headers["Content-Type"] == "application/json" and call["jsonrpc"] == "2.0"
    assert {call["method"]: call.get("params", "none") for _, _, _, call, _ in asked[:8]} == {
        "system.status": {}, "compression.queue.running": {"include_pending": True, "limit": 50}, "agents.list": {},
        "agents.scheduler.metrics": "none", "agents.recovery.status": "none", "agents.tuning.status": "none",
        "storage.pools.list": "none", "storage.disks.list": "none"}
    first, again = [entry for entry in asked if entry[3]["method"] == "system.status"][:2]
    assert 4 < again[0] - first[0] < 5 + 0.5 * PATIENCE, "every 5 s"
    assert again[4] in [entry[4] for entry in asked[:8]], "over a connection that was kept"
    server.shutdown()


def test_each_poll_that_fails_is_told_with_its_own_error_code(make_cluster, engine):
    engine.set_all(status(500))
    cluster = make_cluster(engine, start=False)
    cluster.broker.start()
    cluster.edge.start()
    with cluster.client() as old:
        cluster.producer.start()
        old.wait(lambda m: len({e.data["poll"] for e in old.of("rpc_error")}) == len(POLLS), what="each poll's failure")
        told = {m.data["poll"]: m.data for m in old.of("rpc_error")}
        assert {poll: data["error_code"] for poll, data in told.items()} == ERROR_CODES
        assert all(data["reason"] == "rpc_disconnect" and data["consecutive_failures"] == 1 for data in told.values())


# Every message type, from its cause -----------------------------------------------------------------------------------

def expanded(cell):
    """`circuit_breaker.open, .closed` -> both in full."""
    names = [name.strip() for name in cell.split(",")]
    return [names[0].rsplit(".", 1)[0] + name if name.startswith(".") else name for name in names]


def members(cell):
    """(always there, where known) of a data cell; what is nested or a remark is left out."""
    while True:
        shorter = re.sub(r"\{[^{}]*\}|\([^()]*\)|\[[^\[\]]*\]", "", cell)
        if shorter == cell:
            break
        cell = shorter
    names = [name.strip() for name in re.split("[,;]", cell) if name.strip() not in ("", "-")]
    return {n for n in names if not n.endswith("?")}, {n[:-1] for n in names if n.endswith("?")}


def table():
    """Rows of the table of common/EVENTS.md: (type, key, cause, members, members where known)."""
    text = (ROOT / "common/EVENTS.md").read_text().split("## Topics")[1].split("\n## ")[0]
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and cells[0] != "type" and cells[0] != "anything else":
            assert len(cells) == 5, line
            for each in expanded(cells[0]):
                yield each, cells[2], cells[3], *(([], []) if "PROTOCOL.md" in cells[4] else members(cells[4]))


ROWS = list(table())
TYPES = {row[0] for row in ROWS}
OF_V1 = {"transition", "hello", "subscribed", "tick", "skipped", "error", "goodbye"}
CAUSED = [row for row in ROWS if row[0] not in OF_V1 and not row[2].startswith("none here")]
COMMON = {"timestamp", "stale", "error_code", "last_update"}

POOL = {"name": "tank", "state": "ONLINE", "size": 4000, "allocated": 1000, "free": 3000, "capacity": 25, "health": "ONLINE"}
DISK = {"name": "sda", "path": "/dev/sda", "model": "X", "serial": "1", "size": 4000, "type": "hdd", "rotational": True,
        "removable": False, "in_use": True, "temperature": 31}
SCHEDULER = {"queue_size": 0, "tasks_scheduled": 5, "tasks_dispatched": 5, "tasks_completed": 5, "tasks_failed": 0,
             "avg_wait_time_ms": 1.5, "workers_active": 2, "is_running": True}
RECOVERY = {"is_monitoring": True, "agents_healthy": 2, "agents_degraded": 0, "agents_failed": 0, "total_restarts": 1,
            "circuit_breakers_open": 0, "dead_letter_queue_size": 0, "health_scores": {"a": 1.0, "b": 1.0}}
TUNING = {"strategy": "bayes", "is_running": False, "parameters_count": 3, "best_score": 0.9, "current_score": 0.8,
          "sessions_completed": 4, "current_session": "s1", "exploration_rate": 0.1}


def agent(id, state, **more):
    return {"agent_id": id, "name": id.upper(), "tier": "core", "specialty": "x", "status": state, "tasks_completed": 0,
            "success_rate": 1.0, "avg_response_time_ms": 0.0, "memory_usage_mb": 1.0,
            "last_active": "2026-11-20T23:56:37.923839+00:00", **more}


class Causes:
    """One engine to which everything happens; what two old clients heard of it."""

    def __init__(self, cluster, engine):
        self.cluster, self.engine = cluster, engine
        self.old, self.quiet = cluster.client(), cluster.client()
        self.old.send({"type": "subscribe", "types": sorted(TYPES - OF_V1)})
        self.quiet.send({"type": "unsubscribe", "types": sorted(TYPES - {"heartbeat"})})
        for step in (self.state, self.jobs, self.agents, self.counters, self.breaker, self.drop, self.small_talk):
            step()

    def state(self):
        for topic in ("system.status", "compression.update", "agent.status", "storage.update", "scheduler.metrics",
                      "recovery.status", "tuning.status", "breaker.status", "notification"):
            self.old.wait(topic)
        for key in ("pools", "disks"):
            self.old.wait(lambda m: m.type == "storage.update" and key in m.data)

    def jobs(self):
        self.engine.set(QUEUE, capture("queue_running_live_05"))
        self.old.wait(lambda m: "job_id" in m.data)
        self.engine.set("compression.queue.status", capture("queue_status_completed"))
        self.engine.set(QUEUE, capture("compression_queue_running_empty"))
        self.old.wait(lambda m: m.get("final"))

    def agents(self):
        steps = [
            ([agent("a", "idle"), agent("b", "idle")], "agent.started", "b"),
            ([agent("a", "busy", current_task_id="t1", task_type="compress", task_status="running"), agent("b", "idle")],
             "agent.task_assigned", "a"),
            ([agent("a", "idle", tasks_completed=1), agent("b", "idle")], "agent.task_completed", "a"),
            ([agent("a", "busy", tasks_completed=1, current_task_id="t2", task_type="compress", task_status="failed"),
              agent("b", "idle")], "agent.task_failed", "a"),
            ([agent("a", "idle", tasks_completed=1), agent("b", "recovering")], "agent.recovery_started", "b"),
            ([agent("a", "idle", tasks_completed=1), agent("b", "idle")], "agent.recovery_success", "b"),
            ([agent("a", "restarting", tasks_completed=1), agent("b", "idle")], "agent.recovery_started", "a"),
            ([agent("a", "error", tasks_completed=1), agent("b", "idle")], "agent.recovery_failed", "a"),
            ([agent("b", "idle")], "agent.stopped", "a"),
        ]
        for answer, topic, who in steps:
            mark = self.old.mark
            self.engine.set("agents.list", ok(answer))
            assert self.old.wait(topic, after=mark).data["agent_id"] == who

    def counters(self):
        self.engine.set("agents.scheduler.metrics", ok(dict(SCHEDULER, tasks_scheduled=7, tasks_dispatched=6)))
        assert self.old.wait("task.queued").data["tasks"] == 2
        assert self.old.wait("task.dispatched").data["tasks"] == 1
        self.engine.set("agents.recovery.status", ok(dict(RECOVERY, total_restarts=2, dead_letter_queue_size=1,
                                                          agents_healthy=1, agents_degraded=1,
                                                          health_scores={"a": 1.0, "b": 0.5})))
        assert self.old.wait("agent.restarted").data["restarts"] == 1
        assert self.old.wait("dead_letter.queued").data["tasks"] == 1
        assert self.old.wait("agent.health_check").data["health_scores"] == {"b": 0.5}

    def breaker(self):
        self.engine.set("system.status", status(500))
        self.old.wait("rpc_error")
        self.old.wait("circuit_breaker.half_open")
        self.engine.set("system.status", ticking_system_status())
        self.old.wait("circuit_breaker.closed")

    def drop(self):
        deaf = self.cluster.client(receive_buffer=4096, reading=False)
        deaf.send({"type": "subscribe", "types": ["flood"]})
        self.cluster.publish(({"type": "flood", "data": {"n": n, "x": "x" * 60_000}} for n in range(200)), "--origin", "script")
        self.old.wait("connection_error", timeout=15)
        deaf.cut()

    def small_talk(self):
        self.old.send({"type": "ping"})
        self.old.wait("pong")
        self.quiet.wait("heartbeat")

    def messages(self, type, key):
        found = [m for client in (self.old, self.quiet) for m in client.of(type)]
        if type == "compression.update":
            return [m for m in found if ("job_id" in m.data) == (key == "job_id")]
        return [m for m in found if key.strip("`") in m.data] if type == "storage.update" else found


@pytest.fixture(scope="module")
def causes(tmp_path_factory):
    engine = FaultEngine().start()
    for method, answer in {"agents.list": [agent("a", "idle")], "agents.scheduler.metrics": SCHEDULER,
                           "agents.recovery.status": RECOVERY, "agents.tuning.status": TUNING,
                           "storage.pools.list": [POOL], "storage.disks.list": [DISK]}.items():
        engine.set(method, ok(answer))
    with Cluster(tmp_path_factory.mktemp("causes"), engine, reset=1, start=False,
                 edge_options={"heartbeat_interval": "500ms", "client_queue_bytes_max": 65536}) as cluster:
        yield Causes(cluster.start(), engine)
    engine.stop()


@pytest.mark.parametrize("row", CAUSED, ids=[f"{row[0]}-{row[1].strip('`')}" for row in CAUSED])
def test_each_type_of_the_table_comes_from_its_cause_with_the_members_named(causes, row):
    type, key, _, always, sometimes = row
    found = causes.messages(type, key)
    assert found, f"no {type} was sent"
    for message in found:
        has = set(message.data)
        assert always <= has, f"{always - has} missing in {message.text[:400]}"
        if not message.get("final"):  # An end has what the engine says of it, too.
            assert has <= always | sometimes | COMMON, f"the table does not name {has - always - sometimes - COMMON}"
    never = sometimes - set().union(*(message.data for message in found))
    assert never <= MAY_BE_MISSING.get(type, set()), f"no message had {never}"


def test_a_restarted_producer_tells_what_happened_meanwhile_and_nothing_else(make_cluster, engine):
    engine.set("agents.list", ok([agent("a", "idle", tasks_completed=3), agent("b", "idle")]))
    cluster = make_cluster(engine, polls=["agents.list"])
    with cluster.v1("agent.status", "agent.started", "agent.stopped", "agent.task_completed") as client:
        client.wait("agent.status")
        for answer, topic in (([agent("a", "idle", tasks_completed=5), agent("b", "idle")], "agent.task_completed"),
                              ([agent("a", "idle", tasks_completed=5)], "agent.stopped")):
            cluster.producer.kill()
            mark = client.mark
            engine.set("agents.list", ok(answer))
            cluster.producer.start()
            client.wait(topic, after=mark)
            client.wait("tick", after=mark)  # The broker has all of that answer, and the next producer begins with it.
        cluster.producer.kill()
        mark = client.mark
        cluster.producer.start()  # The same agents: nothing happened.
        client.wait(lambda m: m.type == "agent.status" and m["quality"] == "live", after=mark)
        engine.set("agents.list", ok([*answer, agent("c", "idle")]))
        client.wait("agent.started", after=mark)
        told = [(m.type, m.data["agent_id"], m.data.get("tasks")) for m in client.messages
                if m.type.startswith("agent.") and m.type != "agent.status"]
        assert told == [("agent.task_completed", "a", 2), ("agent.stopped", "b", None), ("agent.started", "c", None)]


# The causes above, or the recorded engine's answers, do not have these.
MAY_BE_MISSING = {"system.status": {"disks"}, "agent.task_failed": {"tasks_failed"}}


def test_the_table_names_every_type_that_the_programs_know():
    strings = re.compile(r'"([a-z0-9_.]+)"')
    edge = re.search(r"kKnownTopics\s*=\s*\{(.*?)\}", (ROOT / "edge/hub.cc").read_text(), re.S)
    lifecycle = re.search(r"kLifecycleTopics\s*\{(.*?)\}", (ROOT / "producer/lifecycle.h").read_text(), re.S)
    published = re.findall(r'publish_event\("([a-z_.]*[a-z])"', (ROOT / "producer/core_publish.cc").read_text())
    assert edge and lifecycle and published
    states = re.search(r"enum class BreakerState[^{]*\{(.*?)\}", (ROOT / "producer/breaker.h").read_text(), re.S)
    breakers = ["circuit_breaker." + re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
                for name in re.findall(r"\bk(\w+)", states[1])]
    edge = set(strings.findall(edge[1]))
    producer = set(strings.findall(lifecycle[1])) | set(published) | set(breakers) | {poll[2] for poll in POLLS.values()}
    assert TYPES == edge | producer | {"breaker.status", "pong"} | OF_V1
    assert producer <= edge, "a client may ask for it before it was ever sent"


def test_an_edge_knows_every_type_of_the_table_and_every_error_code_is_documented(causes):
    with causes.cluster.v1(*sorted(TYPES - OF_V1 - {"pong"})) as client:
        topics = client.subscribed.data["topics"]
        assert {name for name, answer in topics.items() if answer["result"] == "unknown"} == set()
        assert {source["topic"] for source in client.hello.data["sources"]} <= TYPES
    codes = (ROOT / "common/EVENTS.md").read_text().split("## Error codes")[1]
    for code in [*ERROR_CODES.values(), "RPC_DISCONNECT", "CIRCUIT_BREAKER_OPEN", "CONNECTION_DROP"]:
        assert re.search(rf"\b{code}\b", codes), code


def test_each_test_that_the_table_of_the_contract_names_is_there():
    text = (ROOT / "tests/README.md").read_text().split("## The contract, line by line")[1].split("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| contract")]
    assert len(rows) > 40
    assert [found for row in rows if (found := problem(row))] == []

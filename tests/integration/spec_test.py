"""edge/asyncapi.yaml, edge/openapi.yaml and the examples of edge/PROTOCOL.md against one another, and against what an edge
really sends: one recording (`traffic`) of normal operation, failures, refusals and ends, and tests that look at it."""

import contextlib
import copy
import http.client
import json
import pathlib
import re
import socket
import subprocess
import tempfile

import pytest

import auth_test
import sse_client
from fault_engine import FaultEngine, captured, ok, status
from harness import PATIENCE, TOO_SLOW, Cluster, get, until
from ws_client import V1, Client, Refused

EDGE = pathlib.Path(__file__).resolve().parent.parent.parent / "edge"
POLL, JOBS = "system.status", "compression.queue.running"
PUBLISHED = ["weather", "room.lamp", "room.door", "bulk"]  # Topics of no meaning of their own.
PATHS = ["/", "/index.html", "/api/v1/state", "/api/v1/state/", "/api/v1/state/system.status",
         "/api/v1/state/no.such.topic", "/api/v1/status/circuit-breaker", "/api/v1/health", "/api/v1/ready", "/metrics",
         sse_client.PATH, "/ws", "/ws/", "/nope"]
SLOW_POLL, FAST_POLL = 0.2, 0.05
CHANNELS = ("plain", "v1")


@pytest.fixture(scope="session")
def validate(npm_folder):
    """Hands messages and answers to npm/validate.js; returns what it found."""
    def run(messages=(), answers=(), asyncapi=EDGE / "asyncapi.yaml", openapi=EDGE / "openapi.yaml"):
        with tempfile.TemporaryFile("w+") as given:  # Of a pipe Node's readFileSync() may get EAGAIN.
            json.dump({"messages": list(messages), "answers": list(answers), "topics": PUBLISHED}, given)
            given.seek(0)
            done = subprocess.run(["node", "validate.js", str(asyncapi), str(openapi)], cwd=npm_folder, text=True,
                                  stdin=given, capture_output=True, timeout=60 * PATIENCE)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
    return run


# --- What an edge sends -------------------------------------------------------------------------------------------------

class Recorder:
    """Every message that clients received and sent, and every HTTP answer."""

    def __init__(self):
        self.clients, self.answers, self.sent = [], [], []

    def client(self, port, protocol=None, **options):
        client = Client(port, protocol, **options)
        self.clients.append((protocol, client))
        return client

    def send(self, client, message):
        self.sent.append({"channel": "v1" if client.protocol else "plain", "action": "receive", "value": message})
        client.send(message)

    def get(self, port, path, method="GET", **options):
        stream = path.startswith(sse_client.PATH) and method == "GET"
        code, headers, body = self.stream(port, path, **options) if stream else get(port, path, method, **options)
        self.answers.append({"method": method, "path": path.split("?")[0], "status": code, "headers": headers,
                             "body": body.decode() if isinstance(body, bytes) else body})
        return code, body

    def stream(self, port, path, headers=None):
        """What has no end: as far as its first message, which is looked at with those of the others."""
        try:
            with sse_client.Events(port, path=path, headers=headers) as events:
                events.wait(lambda m: m.type in ("subscribed", "goodbye"))
                self.clients.append((V1, events))
                return events.status, events.headers, events.begin
        except Refused as refused:
            return refused.status, refused.headers, json.loads(refused.body)

    def raw(self, port, path, request):
        """For what http.client would not send."""
        with socket.create_connection(("127.0.0.1", port), timeout=5 * PATIENCE) as connection:
            connection.sendall(request)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            body = answer.read()
            headers = {name.lower(): value for name, value in answer.getheaders()}
        self.answers.append({"method": "GET", "path": path, "status": answer.status, "headers": headers,
                             "body": json.loads(body)})
        return answer.status

    def messages(self):
        return [{"channel": "v1" if protocol else "plain", "action": "send", "value": message}
                for protocol, client in self.clients for message in client.all(lambda m: True)] + self.sent


def scripted_engine():
    """The recorded engine, with storage, scheduler, recovery and tuning, which the recorded one did not have."""
    engine = FaultEngine()
    counting = iter(range(1, 1 << 30))
    base, uptime = captured("system_status")["result"], iter(range(1, 1 << 30))
    engine.set(POLL, ok(lambda _: dict(base, uptime=next(uptime), disk_usage=[{"mount": "/", "used_percent": 3.5}])))
    engine.set("storage.pools.list", ok([{"name": "tank", "state": "ONLINE", "size": 4_000, "allocated": 1_000,
                                          "free": 3_000, "capacity": 25, "health": "ONLINE"}]))
    engine.set("storage.disks.list", ok({"disks": [{"name": "sda", "path": "/dev/sda", "size": 4_000, "type": "hdd"}]}))
    engine.set("agents.scheduler.metrics", ok(lambda _: {"queue_size": next(counting), "is_running": True}))
    engine.set("agents.recovery.status", ok({"is_monitoring": True, "agents_healthy": 40, "health_scores": {}}))
    engine.set("agents.tuning.status", ok({"strategy": "random", "is_running": False, "best_score": 0.5}))
    engine.set("weather.read", ok({"temp": 21.5}))
    return engine


def publish(cluster, *lines, kind="event"):
    cluster.publish(lines, "--origin", "script", "--kind", kind)


def big_status(size):
    """Every answer is new, and large: fills a socket that nobody reads."""
    base, count = captured("system_status")["result"], iter(range(1, 1 << 30))
    return ok(lambda _: dict(base, uptime=next(count), hostname="h" * size))


BAD_MESSAGES = ["nonsense", "[]", "7", "{}", '{"type":7}', '{"type":"no such"}', '{"type":"subscribe","id":3}',
                '{"type":"subscribe","id":"q","data":{"types":"system.status"}}',
                '{"type":"subscribe","types":[7]}', '{"type":"subscribe","types":[""]}',
                json.dumps({"type": "subscribe", "types": ["x" * 129]}),
                json.dumps({"type": "unsubscribe", "types": ["t"] * 257}),
                '{"type":"subscribe","types":' + "[" * 40 + "]" * 40 + "}"]


def normal_operation(recorder, cluster, plain, v1):
    recorder.send(v1, {"type": "subscribe", "id": 1, "data": {"types": ["*"]}})
    v1.wait("subscribed")
    recorder.send(plain, {"type": "subscribe", "data": {"types": [
        "scheduler.metrics", "recovery_status", "tuning.status", "breaker.status", "circuit_breaker.open",
        "circuit_breaker.half_open", "circuit_breaker.closed", "weather", "room.door"]}})
    for topic in ("system.status", "agent.status", "compression.update", "scheduler.metrics", "recovery.status",
                  "tuning.status", "breaker.status", "weather"):
        v1.wait(topic)
        plain.wait(topic)
    for client in (plain, v1):
        for key in ("pools", "disks"):
            client.wait(lambda m: m.type == "storage.update" and m["key"] == key)
        recorder.send(client, {"type": "ping"})
        client.wait("pong")
    v1.wait("tick")
    # What is there now, for one who comes later; shapes of old clients.
    with recorder.client(cluster.edge.port, V1) as late:
        for identifier, shape in enumerate((
                {"data": {"types": ["system.status", "agent.status", "rpc_error", "no.such.topic"]}},
                {"types": ["storage.update"]}, {"data": {"events": ["compression.update"]}},
                {"subscriptions": ["system_status"]}, {"data": {"types": ["breaker.status"]}, "resume": {}},
                {"data": {"types": ["tuning.status"], "resume": {"epoch": "", "pos": 1}}}), 10):
            recorder.send(late, {"type": "subscribe", "id": identifier, **shape})
            late.wait(lambda m: m.type == "subscribed" and m["id"] == identifier)
        recorder.send(late, {"type": "unsubscribe", "data": {"types": ["system.status"]}})
        recorder.send(late, {"type": "ping", "id": "a"})
        late.wait("pong")
        recorder.send(late, {"type": "subscribe", "id": 99, "data": {"types": [f"t{i}" for i in range(256)]}})
        late.wait(lambda m: m.type == "error" and m.data["name"] == "limit_policy")
    publish(cluster, {"type": "room.lamp", "key": "hall", "data": {"on": True}}, kind="state")
    publish(cluster, {"type": "room.door", "data": {"open": True}}, {"type": "room.door", "key": "k", "data": {}},
            {"type": "notification", "data": {"message": "hello"}})
    for client in (plain, v1):
        client.wait(lambda m: m.type == "room.door" and m.get("key") == "k")
        client.wait(lambda m: m.type == "notification" and "origin" in m)
    v1.wait("room.lamp")
    v1.wait(lambda m: m.type == "transition" and m.data["topic"] == "room.lamp" and m["quality"] == "stale", timeout=15)


def jobs_come_and_end(engine, plain, v1):
    live = captured("queue_running_live_05")["result"]
    failed = live["jobs"][0]["job_id"]
    engine.set("compression.queue.status", ok(lambda params: dict(
        captured("queue_status_failed" if params["job_id"] == failed else "queue_status_completed")["result"],
        job_id=params["job_id"])))
    engine.set(JOBS, ok(live))
    for client in (plain, v1):
        client.wait(lambda m: m.type == "compression.update" and "job_id" in m.data)
    engine.set(JOBS, ok(dict(live, jobs=[], total_running=0, total_pending=0, total_jobs=0)))
    for client in (plain, v1):
        client.wait(lambda m: m.type == "compression.update" and m.get("final"))


def agents_come_and_go(engine, plain, v1):
    """Each lifecycle event: what happened between two answers."""
    def agent(name, state, **more):
        return {"agent_id": name, "name": name.upper(), "status": state, "tasks_completed": 0, **more}
    scheduler = {"tasks_scheduled": 5, "tasks_dispatched": 5, "tasks_completed": 5, "tasks_failed": 0, "is_running": True}
    recovery = {"agents_healthy": 2, "agents_degraded": 0, "total_restarts": 1, "dead_letter_queue_size": 0,
                "health_scores": {"a": 1.0}}
    task = {"task_type": "compress", "current_task_id": "t1", "task_progress": 0.5}
    steps = [
        ("agents.list", [agent("a", "idle")], "agent.stopped"),  # The recorded ones.
        ("agents.list", [agent("a", "idle"), agent("b", "idle")], "agent.started"),
        ("agents.list", [agent("a", "busy", **task), agent("b", "idle")], "agent.task_assigned"),
        ("agents.list", [agent("a", "idle", tasks_completed=1), agent("b", "idle")], "agent.task_completed"),
        ("agents.list", [agent("a", "busy", tasks_completed=1, task_status="failed", **task), agent("b", "idle")],
         "agent.task_failed"),
        ("agents.list", [agent("a", "recovering", tasks_completed=1), agent("b", "recovering")], "agent.recovery_started"),
        ("agents.list", [agent("a", "idle", tasks_completed=1), agent("b", "recovering")], "agent.recovery_success"),
        ("agents.list", [agent("a", "idle", tasks_completed=1), agent("b", "error")], "agent.recovery_failed"),
        ("agents.scheduler.metrics", scheduler, "scheduler.metrics"),
        ("agents.scheduler.metrics", dict(scheduler, tasks_scheduled=7), "task.queued"),
        ("agents.scheduler.metrics", dict(scheduler, tasks_scheduled=7, tasks_dispatched=6), "task.dispatched"),
        ("agents.recovery.status", recovery, "recovery.status"),
        ("agents.recovery.status", dict(recovery, total_restarts=2), "agent.restarted"),
        ("agents.recovery.status", dict(recovery, total_restarts=2, dead_letter_queue_size=1), "dead_letter.queued"),
        ("agents.recovery.status", dict(recovery, total_restarts=2, dead_letter_queue_size=1, agents_healthy=1,
                                        health_scores={"a": 0.5}), "agent.health_check"),
    ]
    plain.send({"type": "subscribe", "types": [topic for _, _, topic in steps]})
    plain.request({"type": "ping"}, "pong")
    for method, answer, topic in steps:
        marks = [(client, client.mark) for client in (plain, v1)]
        engine.set(method, ok(answer))
        # A state topic comes all the time: it is this answer's once its counts are.
        counts = {k: v for k, v in answer.items() if k.startswith("t")} if topic.endswith((".metrics", ".status")) else {}
        for client, mark in marks:
            client.wait(lambda m: m.type == topic and counts.items() <= (m.data or {}).items(), after=mark)


def the_engine_fails(engine, plain, v1):
    good = engine.behaviour(POLL)
    engine.set(POLL, status(500))
    for client in (plain, v1):
        client.wait("rpc_error")
        client.wait("circuit_breaker.open")
        client.wait("circuit_breaker.half_open")
    v1.wait(lambda m: m.type == "transition" and m.get("reason") == "CIRCUIT_BREAKER_OPEN" and "retry_at" in m)
    plain.wait(lambda m: m.type == POLL and m.data["stale"] is True)
    return good


def the_engine_is_back(engine, good, plain, v1):
    engine.set(POLL, good)
    for client in (plain, v1):
        client.wait("circuit_breaker.closed", timeout=15)
    v1.wait_next(lambda m: m.type == POLL and m["quality"] == "live")
    plain.wait_next(lambda m: m.type == POLL and m.data["stale"] is False)


def refusals(recorder, cluster):
    for protocol in (None, V1):
        with recorder.client(cluster.edge.port, protocol) as client:
            for text in BAD_MESSAGES:
                count = len(client.of("error"))
                client.send_text(text)
                client.wait(lambda m: len(client.of("error")) > count, what=f"an error for {text[:50]}")
            assert client.closed is None


def breaches(cluster):
    """How one is closed who breaks RFC 6455, or the limit of a message."""
    def close_of(send):
        client = cluster.client(V1)
        client.wait("hello")
        send(client)
        return client.wait_closed()[0]
    return {"unmasked": close_of(lambda client: client._send_frame(1, b"{}", masked=False)),
            "not UTF-8": close_of(lambda client: client.send_text(b"\xff\xfe")),
            "too large": close_of(lambda client: client.send_text(b" " * 65_537))}


def silence(recorder, cluster):
    """Only heartbeats."""
    with recorder.client(cluster.edge.port, V1) as v1, recorder.client(cluster.edge.port) as plain:
        welcome = plain.wait("notification")
        recorder.send(plain, {"type": "unsubscribe", "types": [t for t in welcome.data["subscriptions"] if t != "heartbeat"]})
        v1.wait("heartbeat")
        plain.wait("heartbeat")


def the_broker_is_away(recorder, cluster, plain, v1):
    """And an edge starts meanwhile, which has nothing to serve yet."""
    cluster.broker.kill()
    v1.wait(lambda m: m.type == "transition" and m.get("reason") == "BROKER_UNREACHABLE", timeout=15)
    plain.wait(lambda m: m.type == POLL and m.data.get("error_code") == "BROKER_UNREACHABLE", timeout=15)
    with recorder.client(cluster.edge.port, V1) as silent:
        silent.wait(lambda m: m.type == "heartbeat" and m.data["uplink"] == "down")
        rest(recorder, cluster.edge.port)
    young = cluster.add_edge().start(ready=False)
    until(lambda: get(young.port, "/api/v1/health")[0] == 200, what="the second edge answers")
    client = recorder.client(young.port, V1)
    recorder.send(client, {"type": "subscribe", "id": 1, "data": {"types": ["*"]}})
    client.wait("subscribed")
    client.wait("heartbeat")
    rest(recorder, young.port)
    mark = v1.mark
    cluster.broker.start()
    client.wait(lambda m: m.type == "subscribed" and m.data["topics"]["*"].get("cause") == "joined", timeout=15)
    v1.wait(lambda m: m.type == POLL and m["quality"] == "live", timeout=15, after=mark)
    client.close()
    young.terminate()


def a_slow_client(recorder, cluster, engine, plain, v1):
    """Is conflated and told, and is closed in the end; the others hear of it."""
    recorder.send(v1, {"type": "unsubscribe", "types": ["*"]})  # It has no need of what follows.
    recorder.send(v1, {"type": "subscribe", "id": 2, "data": {"types": ["connection_error"]}})
    good = engine.behaviour(POLL)
    engine.set(POLL, big_status(200_000))
    conflated = lambda: cluster.edge.metrics().get("sigmacast_edge_conflated_total", 0)
    slow = recorder.client(cluster.edge.port, V1, receive_buffer=4096)
    recorder.send(slow, {"type": "subscribe", "id": 1, "data": {"types": [POLL, "bulk"]}})
    slow.wait(POLL)
    slow.stop_reading()
    before = conflated()
    until(lambda: conflated() > before, 30, "state was conflated")
    slow.go_on_reading()
    slow.wait("skipped", timeout=15)
    slow.stop_reading()
    before = conflated()
    until(lambda: conflated() > before, 30, "state was conflated again")
    engine.set(POLL, good)
    publish(cluster, *({"type": "bulk", "data": {"text": "x" * 100_000}} for _ in range(70)))
    until(lambda: cluster.edge.metrics().get("sigmacast_edge_dropped_clients_total"), 15, "it is told to go")
    slow.go_on_reading()  # At once: it has only so long to take the close frame.
    code = slow.wait_closed()[0]
    assert code in TOO_SLOW
    if code == 4102:
        slow.wait("goodbye", timeout=1)
    for client in (plain, v1):
        client.wait("connection_error", timeout=15)


def rest(recorder, port):
    for path in PATHS:
        for method in ("GET", "HEAD", "OPTIONS", "POST"):
            recorder.get(port, path, method)


def refused_requests(recorder, cluster):
    port = cluster.edge.port
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    recorder.get(port, "/ws", headers=upgrade)
    recorder.get(port, "/ws", headers={**upgrade, **key, "Sec-WebSocket-Version": "8"})
    recorder.get(port, "/ws", headers={**upgrade, "Sec-WebSocket-Key": "short"})
    recorder.get(port, "/ws", headers={**upgrade, **key, "Sec-WebSocket-Extensions": ";"})
    recorder.get(port, "/ws", headers={**upgrade, **key, "Origin": "http://evil.example"})
    for path in PATHS:
        recorder.get(port, path, headers={"Host": "evil.example"})
    many = [recorder.client(port) for _ in range(cluster.options["edge"]["clients_max"]
                                                 - get(port, "/api/v1/health")[2]["clients"])]
    recorder.get(port, "/ws", headers={**upgrade, **key})
    recorder.get(port, sse_client.PATH)
    for client in many:
        client.wait("notification")
        client.close()
    for path in PATHS:
        begin = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n".encode()
        assert recorder.raw(port, path, begin + b"Content-Length: 5000\r\n\r\n" + b"x" * 5000) == 413
        assert recorder.raw(port, path, begin + b"A: " + b"x" * 9000 + b"\r\n\r\n") == 431
        assert recorder.raw(port, path, f"GET {path} HTTP/9.9\r\n\r\n".encode()) == 400


def tokens(recorder, folder, engine):
    """An edge that requires them: each way to be turned away, a session that gets more, less and no topics, and its end."""
    viewer, admin = auth_test.token("viewer"), auth_test.token("admin")

    def send_token(client, token):
        recorder.send(client, {"type": "auth", "id": 9, "data": {"token": token}})

    with Cluster(folder, engine, polls=[POLL, "agents.list"], roles=auth_test.ROLES,
                 auth_options={"required": True, "secret": auth_test.SECRET, "first_message_timeout": "800ms"}) as cluster:
        port = cluster.edge.port
        for path in PATHS:
            for headers in ({}, auth_test.bearer("x"), auth_test.bearer(viewer), auth_test.bearer(admin)):
                recorder.get(port, path, headers=headers)
        recorder.get(port, sse_client.PATH + "?types=compression.update", headers=auth_test.bearer(viewer))
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
                   "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
        recorder.get(port, "/ws", headers={**upgrade, **auth_test.bearer("x")})

        plain, v1 = recorder.client(port), recorder.client(port, V1)
        for client in (plain, v1):
            send_token(client, viewer)
        v1.wait("authenticated")
        recorder.send(plain, {"type": "subscribe", "types": ["compression.update"]})
        plain.wait(lambda m: m.type == "error" and m.data["name"] == "denied")
        recorder.send(v1, {"type": "subscribe", "id": 1, "data": {"types": [POLL, "compression.update", "*"]}})
        v1.wait("subscribed")
        send_token(v1, auth_test.token("admin", subject="eve"))
        v1.wait(lambda m: m.type == "error" and m.data["name"] == "bad_token")
        send_token(v1, admin)
        v1.wait(lambda m: m.type == "subscribed" and m.data["topics"]["*"].get("cause") == "access")
        send_token(v1, auth_test.token(lasts=0.5))  # No role at all, and not for long.
        v1.wait(lambda m: m.type == "error" and m.data["name"] == "denied")
        ends = {"no token": recorder.client(port, V1), "no token, plain": recorder.client(port),
                "bad": recorder.client(port, V1), "expired": recorder.client(port), "another message": recorder.client(port)}
        send_token(ends["bad"], "x")
        send_token(ends["expired"], auth_test.token("admin", lasts=-60))
        recorder.send(ends["another message"], {"type": "ping"})
        recorder.token_ends = {name: client.wait_closed() for name, client in {**ends, "over": v1}.items()}
        plain.close()


@pytest.fixture(scope="module")
def traffic(tmp_path_factory):
    engine, recorder = scripted_engine().start(), Recorder()
    polls = {name: {"interval": FAST_POLL if name == POLL else SLOW_POLL} for name in (
        POLL, JOBS, "agents.list", "agents.scheduler.metrics", "agents.recovery.status", "agents.tuning.status",
        "storage.pools.list", "storage.disks.list")}
    polls["weather"] = {"method": "weather.read", "topic": "weather", "mapper": "as_is"}
    with contextlib.ExitStack() as at_end:
        at_end.callback(engine.stop)
        cluster = at_end.enter_context(Cluster(
            tmp_path_factory.mktemp("traffic"), engine, polls=polls, reset=0.3, failures=3, transport_failures=50,
            edge_options={"heartbeat_interval": "300ms", "clients_max": 20, "client_queue_bytes_max": 1 << 20}))
        plain, v1 = recorder.client(cluster.edge.port), recorder.client(cluster.edge.port, V1)
        plain.wait("notification")
        normal_operation(recorder, cluster, plain, v1)
        jobs_come_and_end(engine, plain, v1)
        agents_come_and_go(engine, plain, v1)
        rest(recorder, cluster.edge.port)
        good = the_engine_fails(engine, plain, v1)
        rest(recorder, cluster.edge.port)
        the_engine_is_back(engine, good, plain, v1)
        refusals(recorder, cluster)
        recorder.breaches = breaches(cluster)
        refused_requests(recorder, cluster)
        silence(recorder, cluster)
        the_broker_is_away(recorder, cluster, plain, v1)
        a_slow_client(recorder, cluster, engine, plain, v1)
        assert cluster.edge.terminate() == 0
        recorder.ends = [plain.wait_closed(), v1.wait_closed()]
        v1.wait("goodbye", timeout=1)
        tokens(recorder, tmp_path_factory.mktemp("tokens"), engine)
    return recorder


def of_each_kind(messages, found):
    """The first message of each documented kind and channel."""
    kinds = {}
    for message, result in zip(messages, found):
        kinds.setdefault((message["channel"], message["action"], result["id"]), message)
    return kinds


@pytest.fixture(scope="module")
def checked(traffic, validate):
    messages = traffic.messages()
    return messages, validate(messages, traffic.answers)


def complaints(inputs, results):
    return [f"{json.dumps(given)[:400]}\n   is not as documented ({result['id']}): {'; '.join(result['problem'])}"
            for given, result in zip(inputs, results) if result["problem"]]


def test_both_documents_are_valid(validate):
    found = validate()
    assert found["asyncapi"] == [] and found["openapi"] == []


def test_every_message_that_was_sent_or_received_is_as_documented(checked):
    messages, found = checked
    assert len(messages) > 300
    wrong = complaints(messages, found["messages"])
    assert not wrong, f"{len(wrong)} of {len(messages)}:\n" + "\n".join(wrong[:8])


def test_every_message_that_is_documented_was_sent_or_received(checked):
    messages, found = checked
    seen = set(of_each_kind(messages, found["messages"]))
    documented = {(channel, action, identifier) for channel in CHANNELS
                  for action, identifiers in found["known"][channel].items() for identifier in identifiers}
    assert documented - seen == set()


def test_every_http_answer_is_as_documented(checked, traffic):
    _, found = checked
    wrong = complaints(traffic.answers, found["answers"])
    assert not wrong, f"{len(wrong)} of {len(traffic.answers)}:\n" + "\n".join(wrong[:8])


def test_every_http_answer_that_is_documented_was_given(checked):
    _, found = checked
    seen = {re.sub("^(HEAD|POST) ", "GET ", result["id"]) for result in found["answers"]} | {"GET /ws 101"}
    assert set(found["knownAnswers"]) - seen == set()


def test_clients_are_told_why_they_are_closed(traffic):
    assert traffic.ends == [(1001, "shutting_down"), (4200, "draining")]
    assert traffic.breaches == {"unmasked": 1002, "not UTF-8": 1007, "too large": 1009}
    late = (4300, "authenticate and reconnect")
    assert traffic.token_ends == {"no token": late, "no token, plain": late, "another message": late,
                                  "bad": (4001, "bad_token"), "expired": (4301, "token_expired"),
                                  "over": (4301, "token_expired")}


def test_a_member_that_is_not_documented_is_found_in_every_message(checked, validate):
    messages, found = checked
    kinds = {kind: message for kind, message in of_each_kind(messages, found["messages"]).items() if kind[1] == "send"}
    changed = []
    for message in kinds.values():
        changed.append(copy.deepcopy(message))
        changed[-1]["value"]["surprise"] = True
    results = validate(changed)["messages"]
    assert [kind for kind, result in zip(kinds, results) if not result["problem"]] == []


def test_a_member_that_is_missing_is_found_in_every_message(checked, validate):
    messages, found = checked
    kinds = of_each_kind(messages, found["messages"])
    changed = []
    for (_, action, _), message in kinds.items():
        changed.append(copy.deepcopy(message))
        del changed[-1]["value"]["timestamp" if action == "send" else "type"]
    results = validate(changed)["messages"]
    assert [kind for kind, result in zip(kinds, results) if not result["problem"]] == []


# --- The examples of PROTOCOL.md ----------------------------------------------------------------------------------------

def examples():
    """Each line of a block ```json WHAT, where WHAT is a channel and `sent` or `received` by the client, or a request."""
    blocks = re.findall(r"^```json ([^\n]+)\n(.*?)^```", (EDGE / "PROTOCOL.md").read_text(), re.M | re.S)
    messages, answers = [], []
    for what, block in blocks:
        for line in block.splitlines():
            words = what.split()
            if words[0] in CHANNELS:
                action = {"sent": "receive", "received": "send"}[words[1]]
                messages.append({"channel": words[0], "action": action, "value": json.loads(line)})
            else:
                method, path, code = words
                answers.append({"method": method, "path": path, "status": int(code),
                                "headers": ANY_HEADERS, "body": json.loads(line)})
    return messages, answers


# An example shows a body; what headers there are, the recording has shown.
ANY_HEADERS = {"content-type": "application/json", "cache-control": "no-store", "upgrade": "websocket",
               "sec-websocket-version": "13", "retry-after": "5", "allow": "GET", "www-authenticate": "Bearer"}


def test_every_example_of_the_protocol_is_as_documented(validate):
    messages, answers = examples()
    found = validate(messages, answers)
    wrong = complaints(messages + answers, found["messages"] + found["answers"])
    assert not wrong, "\n".join(wrong)


def test_no_example_of_the_protocol_escapes_the_check():
    text = (EDGE / "PROTOCOL.md").read_text()
    assert re.findall(r"^```(?!json (?:plain|v1) (?:sent|received)$|json GET /\S+ \d+$|text$|$).*", text, re.M) == []


def test_the_protocol_has_an_example_of_every_message(validate):
    messages, _ = examples()
    found = validate(messages)
    shown = {result["id"] for result in found["messages"]}
    documented = {identifier for actions in found["known"].values() for ids in actions.values() for identifier in ids}
    assert documented - shown == set()


def test_every_code_that_is_documented_for_machines_is_in_the_protocol():
    """Errors and closes: `4005 limit_policy` in the one is a line of the other."""
    text = (EDGE / "PROTOCOL.md").read_text()
    codes = re.findall(r"code: \{const: (\d+)\}, (?:name|reason): \{const: (\w+)\}", (EDGE / "asyncapi.yaml").read_text())
    assert len(codes) >= 4
    assert [code for code in codes if not re.search(rf"\| {code[0]} \| `?{code[1]}`? \|", text)] == []

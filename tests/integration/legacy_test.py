"""What the clients of the original hub rely on: no subprotocol, and every message as it has always been."""

import re
import time

from fault_engine import captured, status, ticking_system_status
from harness import INTERVAL, PATIENCE, parse_time, until
from ws_client import TEXT

DEFAULTS = ["system.status", "storage.update", "agent.status", "compression.update", "notification", "rpc_error",
            "connection_error", "heartbeat"]


def test_the_welcome_comes_first_with_a_client_id_and_the_eight_defaults(shared):
    with shared.client() as old:
        welcome = old.wait(lambda m: True)
        assert old.subprotocol is None
        assert welcome.type == "notification"
        assert list(welcome)[:3] == ["type", "timestamp", "data"]
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", welcome.data["client_id"])
        assert welcome.data["message"]
        assert sorted(welcome.data["subscriptions"]) == sorted(DEFAULTS)


def test_the_state_follows_the_welcome_at_once_and_then_comes_live_at_the_cadence(shared):
    with shared.v1("system.status", "agent.status", "compression.update") as ready:
        for topic in ("system.status", "agent.status", "compression.update"):
            ready.wait(topic)
    with shared.client() as old:
        welcome = old.wait("notification")
        for topic in ("system.status", "agent.status", "compression.update"):
            first = old.wait(topic)
            assert first.at - welcome.at < 0.15 * PATIENCE, f"{topic} is sent at once, not at the next poll"
            assert first.data["stale"] is False
        old.wait(lambda m: len(old.of("agent.status")) >= 8, what="eight agent.status")
        # Unchanged values too: an old client knows a topic by its cadence.
        times = [m.at for m in old.of("agent.status")[1:]]
        cadence = (times[-1] - times[0]) / (len(times) - 1)
        assert abs(cadence - INTERVAL) < 0.1 * PATIENCE


def test_every_message_has_type_timestamp_and_data_in_this_order_in_one_text_frame(shared):
    with shared.client() as old:
        old.wait(lambda m: len(old.messages) > 10)
        for message in old.messages:
            assert list(message)[:3] == ["type", "timestamp", "data"], message.text
            assert parse_time(message["timestamp"])
            assert "." in message["timestamp"]
            assert message.opcode == TEXT
            if message.type not in ("notification", "heartbeat"):
                assert isinstance(message.data["timestamp"], int)
        assert old.fragments == 0


def test_system_status_has_the_fields_of_the_contract_with_their_types(shared):
    with shared.client() as old:
        data = old.wait("system.status").data
    raw = captured("system_status")["result"]
    assert data["hostname"] == raw["hostname"]
    assert raw["uptime"] < data["uptime"] < raw["uptime"] + 100_000, "seconds, as the engine tells"
    assert data["cpu_usage"] == raw["cpu_usage"]
    assert data["memory_pct"] == raw["memory_usage"]["used_percent"]
    assert data["memory_used"] == raw["memory_usage"]["used"] and isinstance(data["memory_used"], int)
    assert data["memory_total"] == raw["memory_usage"]["total"]
    assert data["load_average"] == raw["load_average"]


def test_forty_agents_are_forty_entries(shared):
    with shared.client() as old:
        data = old.wait("agent.status").data
    raw = captured("agents_list")["result"]
    assert len(raw) == 40
    assert len(data["agents"]) == data["total_agents"] == 40
    assert data["active_agents"] + data["idle_agents"] + data["error_agents"] <= 40
    assert data["idle_agents"] == sum(agent["status"] == "idle" for agent in raw)
    for agent in raw:
        entry = data["agents"][agent["agent_id"]]
        assert entry["id"] == agent["agent_id"]
        assert entry["codename"] == agent["name"]
        assert entry["specialization"] == agent["specialty"]
        assert entry["tier"] == agent["tier"] and entry["status"] == agent["status"]
        assert entry["success_rate"] == agent["success_rate"]
        assert entry["tasks_completed"] == agent["tasks_completed"]
        assert entry["memory_usage"] == agent["memory_usage_mb"]
        assert isinstance(entry["last_active"], int) and isinstance(entry["timestamp"], int)


def test_the_empty_summary_is_sent_too(shared):
    with shared.client() as old:
        data = old.wait("compression.update").data
    assert data["jobs"] == []
    assert data["total_running"] == data["total_pending"] == data["total_jobs"] == 0


def test_a_stale_rendering_keeps_all_fields_and_tells_why_and_since_when(cluster, engine):
    with cluster.client() as old:
        fresh = old.wait("system.status")
        engine.set("system.status", status(500))
        stale = old.wait(lambda m: m.type == "system.status" and m.data["stale"] is True)
        last = [m for m in old.of("system.status") if m.data["stale"] is False][-1]
        assert set(fresh.data) | {"error_code", "last_update"} == set(stale.data)
        assert stale.data["error_code"] == "SYSTEM_STATUS_FAILED"
        assert stale.data["last_update"] == last["as_of"] == stale["as_of"]
        assert stale["seq"] == last["seq"] and stale["pos"] == last["pos"], "the same value, rendered again"
        mark = old.mark
        old.wait(lambda m: len(old.of("system.status", after=mark)) >= 4, what="four stale renderings")
        renderings = old.of("system.status", after=mark)
        assert {m.data["last_update"] for m in renderings} == {stale.data["last_update"]}
        assert parse_time(renderings[-1]["timestamp"]) > parse_time(stale["timestamp"])
        ages = [m["age_ms"] for m in renderings]
        assert ages == sorted(ages) and ages[-1] > ages[0], "it grows older"
        assert old.wait("rpc_error").data["error_code"] == "SYSTEM_STATUS_FAILED"
        assert len(old.of("rpc_error")) == 1, "at the first failure, then at most every 30 s"
        engine.set("system.status", ticking_system_status())
        old.wait(lambda m: m.type == "system.status" and m.data["stale"] is False, after=mark)


def test_something_arrives_within_every_ten_seconds_even_if_nothing_is_subscribed(make_cluster, engine):
    cluster = make_cluster(engine, edge_options={"heartbeat_interval": "500ms"})
    with cluster.client() as old:
        old.wait("system.status")
        old.send({"type": "unsubscribe", "data": {"types": DEFAULTS[:4]}})
        mark = old.mark
        beat = old.wait("heartbeat", after=mark)
        assert abs(beat.data["server_time"] - time.time()) < 5
        again = old.wait("heartbeat", after=old.messages.index(beat) + 1)
        assert 0.3 < again.at - beat.at < 1.2 * PATIENCE


def test_an_old_client_that_sends_nothing_and_answers_no_ping_is_kept(make_cluster, engine):
    cluster = make_cluster(engine, edge_options={"ping_interval": "1s", "pong_timeout": "1s"})
    # The desktop client: an 18-byte key, no pongs, never a word.
    with cluster.client(key="MTIzNDU2Nzg5MDEyMzQ1Njc4", answer_pings=False) as old:
        until(lambda: len(old.control) >= 3, 10, "three pings")
        mark = old.mark
        old.wait("system.status", after=mark)
        assert old.closed is None


def test_transitions_and_other_new_messages_are_not_sent_to_old_clients(cluster, engine):
    with cluster.client() as old:
        old.wait("system.status")
        engine.set("system.status", status(500))
        old.wait(lambda m: m.type == "system.status" and m.data["stale"])
        known = set(DEFAULTS)
        assert {m.type for m in old.messages} <= known


def test_subscribe_takes_every_shape_and_acknowledges_nothing(shared):
    shapes = [{"data": {"types": ["breaker.status"]}}, {"types": ["breaker.status"]},
              {"data": {"events": ["breaker.status"]}}, {"subscriptions": ["breaker_status"]}]
    for shape in shapes:
        with shared.client() as old:
            old.wait("system.status")
            assert old.of("breaker.status") == []
            old.send({"type": "subscribe", **shape})
            old.wait("breaker.status", what=f"breaker.status after {shape}")
            assert old.of("subscribed", "error") == []


def test_unsubscribe_takes_every_shape_and_ends_the_topic(shared):
    shapes = [{"data": {"types": ["system.status"]}}, {"types": ["system.status"]},
              {"data": {"events": ["system.status"]}}, {"subscriptions": ["system_status"]}]
    for shape in shapes:
        with shared.client() as old:
            old.wait("system.status")
            old.send({"type": "unsubscribe", **shape})
            old.send({"type": "ping"})
            pong = old.wait("pong")
            mark = old.messages.index(pong)
            old.wait(lambda m: len(old.of("agent.status", after=mark)) >= 3)
            assert old.of("system.status", after=mark) == [], shape


def test_a_name_with_an_underscore_of_its_own_stays_what_it_is(shared):
    with shared.client() as old:
        old.wait("system.status")
        old.send({"type": "unsubscribe", "subscriptions": ["rpc_error", "system_status"]})
        old.send({"type": "subscribe", "subscriptions": ["rpc_error"]})
        old.send({"type": "ping"})
        old.wait("pong")
        assert old.of("error") == []


def test_a_ping_is_answered_as_text_as_binary_and_in_fragments(shared):
    with shared.client() as old:
        old.wait("notification")
        for send in (lambda: old.send({"type": "ping"}), lambda: old.send_binary(b'{"type":"ping"}'),
                     lambda: old.send_fragmented('{"type":"ping"}')):
            mark = old.mark
            send()
            pong = old.wait("pong", after=mark)
            assert "data" not in pong or pong["data"] in ({}, None)


def test_malformed_and_unknown_messages_get_an_error_and_never_close(shared):
    bad = ["", "x", "{", "[]", "42", "null", '"text"', "{}", '{"type":42}', '{"type":"no.such"}', '{"type":"subscribe"}',
           '{"type":"subscribe","data":42}', '{"type":"subscribe","data":{"types":"all"}}',
           '{"type":"subscribe","data":{"types":[1,null]}}', '{"type":"ping"', "\u0000", "[" * 5000,
           '{"type":"subscribe","types":[' + ",".join(['"t"'] * 5000) + "]}"]
    with shared.client() as old:
        old.wait("notification")
        for text in bad:
            mark = old.mark
            old.send_text(text)
            error = old.wait("error", after=mark, what=f"error for {text[:40]!r}")
            assert error.data["message"] and isinstance(error.data["code"], int)
            assert error.data["temporary"] is False
        old.send_binary(b"\x00\x01\x02")
        old.wait(lambda m: len(old.of("error")) == len(bad) + 1)
        mark = old.mark
        old.send({"type": "ping"})
        old.wait("pong", after=mark)
        assert old.closed is None


def test_both_paths_are_served(shared):
    for path in ("/ws", "/ws/"):
        with shared.client(path=path) as old:
            old.wait("notification")


def test_a_terminated_edge_closes_with_a_close_frame_and_ends_with_0(make_cluster, engine):
    cluster = make_cluster(engine)
    with cluster.client() as old, cluster.v1("system.status") as client:
        old.wait("system.status")
        assert cluster.edge.terminate() == 0
        assert old.wait_closed()[0] == 1001
        assert client.wait_closed()[0] == 4200
        assert client.of("goodbye")
    for program in (cluster.producer, cluster.broker):
        assert program.terminate() == 0, program.log()

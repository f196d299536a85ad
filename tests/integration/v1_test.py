"""Clients with the subprotocol sigmacast.v1.json: hello, subscribed, values, ticks, transitions."""


from fault_engine import ok, captured, status, ticking_system_status
from harness import PATIENCE, parse_time, until
from ws_client import V1, rising


def test_hello_comes_first_and_tells_of_every_source(shared):
    shared.v1("agent.status").wait("agent.status")
    # The bookmark is the newest head that was reached; the first head comes within a second.
    def bookmark():
        with shared.client(V1) as client:
            return client.wait("hello").data["pos"]
    until(bookmark, what="the edge has a bookmark")
    with shared.client(V1) as client:
        hello = client.wait(lambda m: True)
        assert client.subprotocol == V1
        assert hello.type == "hello"
        data = hello.data
        assert data["protocol"] == 1
        assert len(data["epoch"]) == 32 and int(data["epoch"], 16) >= 0
        assert data["pos"] > 0
        assert parse_time(data["server_time"])
        assert data["ping_ms"] > 0
        assert isinstance(data["features"], list)
        sources = {source["poll"]: source for source in data["sources"]}
        assert sources["agents.list"]["quality"] == "live"
        assert sources["agents.list"]["origin"] == "nas"
        assert sources["agents.list"]["topic"] == "agent.status"
        assert all(source["poll"] and source["topic"] for source in data["sources"])


def test_nothing_is_sent_before_it_is_asked_for(shared):
    with shared.client(V1) as client:
        client.wait("hello")
        client.send({"type": "ping", "id": 5})
        pong = client.wait("pong")
        assert pong.get("id") == 5
        assert {m.type for m in client.messages} <= {"hello", "pong", "heartbeat"}


def test_subscribed_names_each_topic_and_exactly_so_many_values_follow(shared):
    with shared.v1("agent.status") as warm:
        warm.wait("agent.status")
    with shared.v1() as client:
        answer = client.subscribe("agent.status", "compression.update", "no.such.topic", identifier="a-7")
        assert answer["id"] == "a-7"
        topics = answer.data["topics"]
        assert topics["agent.status"]["result"] == "snapshot"
        assert topics["agent.status"]["count"] == 1
        assert topics["no.such.topic"]["result"] in ("unknown", "live")
        at = client.messages.index(answer)
        value = client.wait("agent.status", after=at)
        assert len(value.data["agents"]) == 40
        assert value["quality"] == "live" and value["origin"] == "nas" and value["poll"] == "agents.list"
        assert value["seq"] > 0 and value["pos"] > 0 and value["epoch"] == client.hello.data["epoch"]
        assert value["age_ms"] >= 0 and parse_time(value["as_of"])


def test_an_unchanged_answer_is_a_tick_and_nothing_else(shared):
    with shared.v1("agent.status") as client:
        client.wait("agent.status")
        first = client.wait(lambda m: m.type == "tick" and m.data["poll"] == "agents.list")
        after = client.messages.index(first) + 1
        second = client.wait(lambda m: m.type == "tick" and m.data["poll"] == "agents.list", after=after)
        assert len(client.of("agent.status")) == 1
        assert parse_time(second["as_of"]) > parse_time(first["as_of"])
        assert second["quality"] == "live"


def test_values_arrive_in_order_without_a_hole(shared):
    with shared.v1("system.status") as client:
        client.wait(lambda m: len(client.of("system.status")) >= 8)
        values = client.of("system.status")
        assert [m.seq for m in values] == list(range(values[0].seq, values[0].seq + len(values)))
        assert rising(client.messages)


def test_a_transition_is_told_once_with_reason_source_and_as_of(cluster, engine):
    with cluster.v1("system.status") as client:
        client.wait(lambda m: m.type == "system.status" and m["quality"] == "live")
        engine.set("system.status", status(500))
        stale = client.wait(lambda m: m.type == "transition" and m["quality"] == "stale")
        last = client.of("system.status")[-1]
        assert stale.data["poll"] == "system.status" and stale["origin"] == "nas"
        assert stale["reason"] == "SYSTEM_STATUS_FAILED" and stale["source"] == "engine"
        assert stale["as_of"] == last["as_of"]
        assert stale.seq > last.seq, "a place in the stream of its topic"
        calls = engine.count("system.status")
        until(lambda: engine.count("system.status") >= calls + 2, what="two more failures")
        engine.set("system.status", ticking_system_status())
        live = client.wait(lambda m: m.type == "transition" and m["quality"] == "live",
                           after=client.messages.index(stale))
        transitions = client.of("transition", after=client.messages.index(stale))
        assert [m["quality"] for m in transitions] == ["stale", "live"], "once per transition"
        assert live.get("reason") is None
        answered = [c for c in engine.calls("system.status") if c.at > stale.at][-1].answered
        assert live.at - answered < 0.25 * PATIENCE or len(engine.calls("system.status")) > calls + 3
        assert rising(client.messages)


def test_a_newcomer_during_an_outage_gets_the_value_marked_stale(cluster, engine):
    with cluster.v1("system.status") as client:
        client.wait("system.status")
        engine.set("system.status", status(500))
        client.wait(lambda m: m.type == "transition" and m["quality"] == "stale")
        last = client.of("system.status")[-1]
    with cluster.v1("system.status") as late:
        source = {s["poll"]: s for s in late.hello.data["sources"]}["system.status"]
        assert source["quality"] == "stale" and source["reason"] == "SYSTEM_STATUS_FAILED"
        value = late.wait("system.status")
        assert value["quality"] == "stale" and value["reason"] == "SYSTEM_STATUS_FAILED"
        assert value["as_of"] == last["as_of"] and value["pos"] == last["pos"]
        assert value.data["uptime"] == last.data["uptime"]


def test_unsubscribe_ends_a_topic_and_subscribing_again_brings_its_state(shared):
    with shared.v1("system.status") as client:
        client.wait("system.status")
        client.send({"type": "unsubscribe", "id": 2, "data": {"types": ["system.status"]}})
        client.request({"type": "ping"}, "pong")
        mark = client.mark
        client.subscribe("agent.status", identifier=3)
        client.wait(lambda m: len(client.of("tick", after=mark)) >= 3)
        assert client.of("system.status", after=mark) == []
        client.subscribe("system.status", identifier=4)
        client.wait("system.status", after=mark)


def test_subscribing_twice_changes_nothing(shared):
    with shared.v1("system.status") as client:
        client.wait("system.status")
        client.subscribe("system.status", identifier=2)
        client.wait(lambda m: len(client.of("system.status")) >= 6)
        live = [m for m in client.of("system.status") if not m.get("replay")]
        seqs = [m.seq for m in live]
        assert len(seqs) - len(set(seqs)) <= 1, "each value once, but for the second answer's snapshot"


def test_a_bad_message_is_answered_with_its_id_and_the_session_goes_on(shared):
    with shared.v1() as client:
        error = client.request({"type": "subscribe", "id": "q1", "data": {"types": 7}}, "error")
        assert error["id"] == "q1"
        assert error.data["temporary"] is False and error.data["name"] and error.data["message"]
        client.subscribe("system.status", identifier=9)
        client.wait("system.status")


def test_an_unknown_subprotocol_is_not_echoed_and_the_session_is_an_old_one(shared):
    with shared.client("graphql-ws") as client:
        assert client.subprotocol is None
        client.wait("notification")


def test_the_known_subprotocol_is_chosen_from_a_list(shared):
    with shared.client(f"other, {V1}") as client:
        assert client.subprotocol == V1
        client.wait("hello")


def test_breaker_state_is_published_as_state(shared):
    with shared.v1("breaker.status") as client:
        value = client.wait(lambda m: m.type == "breaker.status" and m["key"] == "system.status")
        assert value.data["state"] == "closed" and value.data["name"] == "system.status"
        assert value["quality"] == "live"
        assert "poll" not in value, "none feeds it"
        tick = client.wait(lambda m: m.type == "tick" and m.data["topic"] == "breaker.status", timeout=15)
        assert tick.data["poll"] == "" and tick["age_ms"] < 1500 * PATIENCE, "its producer vouches for it each second"


def test_publishing_again_does_not_call_live_what_an_earlier_publish_left(cluster):
    def publish(topic, key):
        cluster.publish([{"type": topic, "key": key, "data": {"on": True}}], "--origin", "script", "--kind", "state")

    def qualities(topic):
        return {value["key"]: value["quality"] for value in cluster.state(topic)["values"]}

    publish("lamp", "hall")
    until(lambda: qualities("lamp") == {"hall": "stale"}, timeout=12, what="the publisher is gone")
    with cluster.v1("*") as client:
        publish("lamp", "attic")
        publish("door", "front")
        client.wait(lambda m: m.type == "transition" and m.data["topic"] == "door" and m["quality"] == "stale", timeout=12)
        assert [m for m in client.messages if m.type == "transition" and m["quality"] == "live"
                and m.data["topic"] == "lamp" and m.data["keys"] in ([], ["hall"])] == []
        assert qualities("lamp")["hall"] == "stale"
        late = [m for m in client.of("lamp") if m["key"] == "hall"]
        assert {m["quality"] for m in late} == {"stale"}


def test_an_engine_of_another_kind_needs_configuration_only(make_cluster, engine):
    engine.set("weather.read", ok({"temp": 21.5, "when": 1, "ignored": 1}))
    poll = {"method": "weather.read", "topic": "weather", "mapper": "as_is"}
    cluster = make_cluster(engine, polls={"weather": poll})
    with cluster.v1("weather") as client:
        value = client.wait("weather")
        assert value.data["temp"] == 21.5
        assert value["quality"] == "live"
    assert captured("health_check")["result"] == {"status": "healthy"}

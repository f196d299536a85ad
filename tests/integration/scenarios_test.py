"""The five scenarios of the original plan, end to end, with short times (the simulation has them in virtual time)."""

import time

import pytest

from fault_engine import FaultEngine, empty_reply, sequence, status, ticking_system_status
from harness import PATIENCE, RESET, parse_time, until

POLL = "system.status"


@pytest.fixture
def feed(make_cluster, engine):
    """One poll; no health checks, so that the reset time alone decides."""
    cluster = make_cluster(engine, polls=[POLL], health=0)
    client = cluster.v1("system.status", "rpc_error", "breaker.status", "circuit_breaker.open",
                        "circuit_breaker.half_open", "circuit_breaker.closed")
    client.wait(lambda m: m.type == POLL and m.get("quality") == "live")
    yield cluster, client
    client.close()


def quality(wanted, reason=None):
    return lambda m: (m.type == "transition" and m.data["topic"] == POLL and m["quality"] == wanted and
                      (reason is None or m.get("reason") == reason))


def test_one_failure_and_a_quick_recovery_do_not_open_the_breaker(feed, engine):
    cluster, client = feed
    engine.set(POLL, sequence(status(500), ticking_system_status()))
    stale = client.wait(quality("stale", "SYSTEM_STATUS_FAILED"))
    back = client.wait(quality("live"), after=client.messages.index(stale))
    client.wait(lambda m: m.type == POLL and m.pos > back.pos)
    assert client.of("circuit_breaker.open", "circuit_breaker.half_open") == []
    failure = client.wait("rpc_error")
    assert failure.data["reason"] == "rpc_disconnect"
    assert failure.data["error_code"] == "SYSTEM_STATUS_FAILED"
    assert failure.data["consecutive_failures"] == 1
    breaker = until(lambda: cluster.breakers().get(POLL), what="the poll's breaker")
    assert breaker["state"] == "closed" and breaker["consecutive_failures"] == 0


def test_five_failures_in_a_row_open_the_breaker_and_the_fifth_is_the_last_call(feed, engine):
    _, client = feed
    before = engine.count(POLL)
    engine.set(POLL, status(500))
    opened = client.wait("circuit_breaker.open")
    assert opened.data["breaker"] == POLL
    assert opened.data["failures"] == 5
    failing = [call for call in engine.calls(POLL)[before:]]
    client.wait(quality("stale", "CIRCUIT_BREAKER_OPEN"))
    assert len(failing) in (5, 6), "a call in flight when the engine changed may have been answered well"
    retry = parse_time(opened.data["retry_at"]) - parse_time(opened["timestamp"])
    assert retry == pytest.approx(RESET, abs=0.3)


def test_while_the_breaker_is_open_cached_data_is_served_stale_with_every_field(feed, engine):
    cluster, client = feed
    engine.set(POLL, status(500))
    client.wait(quality("stale", "CIRCUIT_BREAKER_OPEN"))
    last = client.of(POLL)[-1]
    calls = engine.count(POLL)
    with cluster.client() as old:
        stale = old.wait(POLL)
        again = old.wait(POLL, after=old.messages.index(stale) + 1)
    for message in (stale, again):
        assert message.data["stale"] is True
        assert message.data["error_code"] == "CIRCUIT_BREAKER_OPEN"
        assert message.data["last_update"] == last["as_of"]
        for field, value in last.data.items():
            if field not in ("stale", "timestamp"):
                assert message.data[field] == value, field
    assert engine.count(POLL) == calls, "an open breaker makes no calls"


def test_after_the_reset_time_exactly_one_probe_goes_out_and_its_failure_opens_again(feed, engine):
    _, client = feed
    engine.set(POLL, status(500))
    opened = client.wait("circuit_breaker.open")
    calls = engine.count(POLL)
    half_open = client.wait("circuit_breaker.half_open")
    assert half_open.at - opened.at == pytest.approx(RESET, abs=0.5 * PATIENCE)
    again = client.wait("circuit_breaker.open", after=client.messages.index(half_open))
    assert engine.count(POLL) == calls + 1
    client.wait("circuit_breaker.half_open", after=client.messages.index(again))
    client.wait("circuit_breaker.open", after=client.messages.index(again) + 1)
    assert engine.count(POLL) == calls + 2
    assert client.all(quality("live"), after=client.messages.index(opened)) == []


def test_when_the_engine_is_back_the_breaker_closes_and_the_data_is_fresh(feed, engine):
    cluster, client = feed
    engine.set(POLL, status(500))
    opened = client.wait("circuit_breaker.open")
    stale_value = client.of(POLL)[-1]
    engine.set(POLL, ticking_system_status())
    closed = client.wait("circuit_breaker.closed")
    live = client.wait(quality("live"), after=client.messages.index(opened))
    fresh = client.wait(lambda m: m.type == POLL and m["quality"] == "live", after=client.messages.index(opened))
    assert closed.data["breaker"] == POLL
    assert parse_time(fresh["as_of"]) > parse_time(stale_value["as_of"])
    assert fresh.data["stale"] is False
    answered = next(call.answered for call in engine.calls(POLL) if call.at > opened.at)
    disk_hung = "a commit is slow" in cluster.broker.log()  # For more than a second: it is not told before it is durable.
    assert disk_hung or live.at - answered < 0.25 * PATIENCE, "P4: live within 250 ms of the first good answer"
    until(lambda: cluster.breakers()[POLL]["state"] == "closed", what="the breaker is shown closed")


def test_a_dead_transport_opens_one_breaker_for_all_polls_and_one_probe_closes_it(make_cluster, engine):
    polls = ["system.status", "agents.list", "compression.queue.running"]
    cluster = make_cluster(engine, polls=polls, health=0)
    with cluster.v1("system.status", "agent.status", "compression.update", "circuit_breaker.open",
                    "circuit_breaker.closed", "circuit_breaker.half_open") as client:
        for topic in ("system.status", "agent.status", "compression.update"):
            client.wait(topic)
        engine.set_all(empty_reply())
        opened = client.wait("circuit_breaker.open")
        assert opened.data["breaker"] not in polls, "a transport failure is not the poll's own"
        for topic in ("system.status", "agent.status", "compression.update"):
            client.wait(lambda m: m.type == "transition" and m.data["topic"] == topic and m["quality"] == "stale" and
                        m["reason"] == "CIRCUIT_BREAKER_OPEN", what=f"{topic} stale")
        calls = engine.count()
        again = client.wait("circuit_breaker.open", after=client.messages.index(opened) + 1)
        assert engine.count() == calls + 1, "one probe for all polls"
        engine.heal()
        client.wait("circuit_breaker.closed", after=client.messages.index(again))
        for topic in ("system.status", "agent.status", "compression.update"):
            client.wait(lambda m: m.type == "transition" and m.data["topic"] == topic and m["quality"] == "live",
                        after=client.messages.index(again), what=f"{topic} live")
        assert {m.data["breaker"] for m in client.of("circuit_breaker.open")} == {opened.data["breaker"]}


def test_a_health_check_lets_the_probe_of_a_returned_engine_go_at_once(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], health=0.3, reset=120)
    with cluster.v1(POLL, "circuit_breaker.open") as client:
        client.wait(POLL)
        engine.refuse()
        opened = client.wait("circuit_breaker.open")
        engine.listen()
        began = time.monotonic()
        client.wait(quality("live"), after=client.messages.index(opened))
        assert time.monotonic() - began < 5 * PATIENCE, "long before the reset time of two minutes"
        assert engine.count("health.check") >= 1


def test_a_producer_that_starts_without_an_engine_says_down_and_becomes_live_with_it(make_cluster):
    engine = FaultEngine().start()
    engine.refuse()
    cluster = make_cluster(engine, polls=[POLL], health=0.3, start=False)
    cluster.broker.start()
    cluster.edge.start()
    with cluster.client() as old, cluster.v1(POLL) as client:
        old.wait("notification")
        cluster.producer.start()
        down = client.wait(lambda m: m.type == "transition" and m["quality"] == "down")
        assert down["reason"] == "RPC_DISCONNECT" and down["source"] == "engine" and "as_of" not in down
        assert old.wait("rpc_error").data["reason"] == "rpc_disconnect"
        assert old.of(POLL) == [], "no state message before there was a value"
        engine.listen()
        value = client.wait(POLL, timeout=10)
        assert value["quality"] == "live"
        assert old.wait(POLL).data["stale"] is False
    engine.stop()

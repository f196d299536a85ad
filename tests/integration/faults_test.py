"""Every way in which an engine can fail leaves the last-known-good in force, marked stale with the right reason."""

import time

import pytest

import fault_engine as fault
from harness import DEADLINE, PATIENCE, Cluster, until

POLL = "system.status"
OWN, TRANSPORT = "SYSTEM_STATUS_FAILED", "RPC_DISCONNECT"

FAULTS = {
    "status 500": (fault.status(500), OWN),
    "status 503": (fault.status(503), OWN),
    "status 422": (fault.status(422), OWN),
    "status 404": (fault.status(404), OWN),
    "a redirect": (fault.redirect(), OWN),
    "garbage": (fault.garbage(), OWN),
    "JSON that stops in the middle": (fault.truncated_json(), OWN),
    "a wrong id": (fault.wrong_id(), OWN),
    "neither result nor error": (fault.no_result(), OWN),
    "a result of the wrong shape": (fault.ok([1, 2, 3]), OWN),
    "a member of the wrong type": (fault.ok(dict(fault.captured("system_status")["result"], uptime="soon")), OWN),
    "an empty body": (fault.empty_body(), OWN),
    "-32603": (fault.rpc_error(-32603, data="boom"), OWN),
    "-32600": (fault.rpc_error(-32600, "Invalid Request"), OWN),
    "a huge body": (fault.huge(), OWN),
    "a huge chunked body": (fault.huge_chunked(), OWN),
    "no HTTP": (fault.not_http(), OWN),
    "a truncated body": (fault.truncated(), TRANSPORT),
    "an empty reply": (fault.empty_reply(), TRANSPORT),
    "a reset": (fault.reset(), TRANSPORT),
    "a hang": (fault.hang(), TRANSPORT),
    "a slow drip": (fault.slow_drip(), TRANSPORT),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Breakers that do not open, so that each fault is seen under its own name."""
    engine = fault.FaultEngine().start()
    with Cluster(tmp_path_factory.mktemp("faults"), engine, polls=[POLL, "agents.list"], failures=1000,
                 producer_options={"reply_bytes_max": 1 << 20}) as cluster:
        yield cluster, engine
    engine.stop()


def transition(wanted, reason=None):
    return lambda m: m.type == "transition" and m["quality"] == wanted and (reason is None or m["reason"] == reason)


@pytest.mark.parametrize("name", FAULTS)
def test_the_last_known_good_stays_and_says_why_it_is_old(place, name):
    cluster, engine = place
    behaviour, reason = FAULTS[name]
    engine.heal()
    with cluster.v1(POLL, "agent.status") as client, cluster.client() as old:
        client.wait(lambda m: m.type == POLL and m["quality"] == "live")
        fresh = old.messages.index(old.wait(lambda m: m.type == POLL and m.data["stale"] is False))
        mark, began = client.mark, time.monotonic()
        engine.set(POLL, behaviour)
        stale = client.wait(lambda m: transition("stale")(m) and m.data["topic"] == POLL, after=mark)
        last = [m for m in client.of(POLL) if m.pos < stale.pos][-1]
        assert stale["reason"] == reason
        assert stale["source"] == "engine"
        assert stale["as_of"] == last["as_of"], "a failure does not touch the time of the value"
        assert stale.at - began < (DEADLINE + 0.25 + 0.2 + 0.25) * PATIENCE, "P4: deadline + 250 ms, and one interval"

        after = old.mark
        rendered = old.wait(lambda m: m.type == POLL and m.data["stale"] is True, after=fresh)
        old.wait(POLL, after=max(after, old.messages.index(rendered) + 1))
        for message in (rendered, old.of(POLL)[-1]):
            assert message.data["error_code"] == reason
            assert message.data["last_update"] == last["as_of"]
            assert {k: v for k, v in message.data.items() if k not in LABELS} == \
                {k: v for k, v in last.data.items() if k not in LABELS}
        assert all(m["quality"] == "live" for m in client.of("agent.status")), "the other poll is not touched"
        assert [m for m in client.of("transition") if m.data["topic"] == "agent.status" and m["quality"] != "live"] == []

        engine.set(POLL, fault.ticking_system_status())
        live = client.wait(lambda m: transition("live")(m) and m.data["topic"] == POLL,
                           after=client.messages.index(stale))
        assert live.pos > stale.pos
        assert old.wait(lambda m: m.type == POLL and m.data["stale"] is False,
                        after=old.messages.index(rendered)).data["stale"] is False


LABELS = ("timestamp", "stale", "error_code", "last_update")


def test_a_refused_connection_marks_every_poll_and_each_returns(place):
    cluster, engine = place
    engine.heal()
    with cluster.v1(POLL, "agent.status") as client:
        client.wait(lambda m: m.type == POLL and m["quality"] == "live")
        engine.refuse()
        for topic in (POLL, "agent.status"):
            stale = client.wait(lambda m: transition("stale")(m) and m.data["topic"] == topic)
            assert stale["reason"] == TRANSPORT and stale["source"] == "engine"
        after = client.mark
        engine.listen()
        for topic in (POLL, "agent.status"):
            client.wait(lambda m: transition("live")(m) and m.data["topic"] == topic, after=after)


def test_an_http_1_0_engine_that_closes_after_each_answer_is_a_good_engine(place):
    cluster, engine = place
    engine.heal()
    base = fault.captured("system_status")["result"]
    with cluster.v1(POLL) as client:
        client.wait(POLL)
        engine.set(POLL, fault.http10(dict(base, uptime=7_654_321)))
        value = client.wait(lambda m: m.type == POLL and m.data["uptime"] == 7_654_321)
        assert value["quality"] == "live"
        calls = engine.count(POLL)
        until(lambda: engine.count(POLL) >= calls + 3, what="three more polls")
        assert client.all(transition("stale")) == []


def test_one_hung_method_never_delays_the_others(place):
    cluster, engine = place
    engine.heal()
    with cluster.v1(POLL) as client:
        client.wait(POLL)
        engine.set("agents.list", fault.hang())
        before = engine.count("agents.list")
        until(lambda: engine.count("agents.list") >= before + 3, what="three hung polls")
        times = [call.at for call in engine.calls(POLL)][-10:]
        gaps = [later - earlier for earlier, later in zip(times, times[1:])]
        assert max(gaps) < 0.4 * PATIENCE, f"polls at every 0.2 s: {gaps}"
        assert client.all(transition("stale")) == []
    engine.heal()


def test_a_poll_that_the_engine_does_not_have_is_no_failure_and_is_said_once(make_cluster):
    engine = fault.FaultEngine().start()
    cluster = make_cluster(engine)
    unsupported = ["agents.scheduler.metrics", "agents.recovery.status", "agents.tuning.status", "storage.pools.list",
                   "storage.disks.list"]
    with cluster.v1("*") as client:
        until(lambda: engine.count(POLL) >= 10, what="ten rounds")
        assert client.of("rpc_error", "circuit_breaker.open") == []
        for method in unsupported:
            assert engine.count(method) == 1, f"{method} is retried every 5 minutes"
        def known():
            return {s["poll"]: s for s in cluster.v1("system.status").hello.data["sources"]}
        until(lambda: {*unsupported, POLL} <= set(known()), what="the edge knows all polls")
        sources = known()
        for method in unsupported:
            assert sources[method]["quality"] == "down"
            assert sources[method]["reason"] == "METHOD_NOT_FOUND"
        assert sources[POLL]["quality"] == "live"
        breakers = cluster.breakers()
        assert {breaker["state"] for breaker in breakers.values()} == {"closed"}
        said = [line for line in cluster.producer.log().splitlines() if "agents.tuning.status" in line]
        assert len(said) <= 2, said
    engine.stop()

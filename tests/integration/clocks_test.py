"""The wall clock jumps by an hour and by ten years, and back, under the real programs (libfaketime moves CLOCK_REALTIME of each
process alone, and nothing else): no order, timeout, breaker or age depends on it."""

import contextlib
import glob
import json
import os
import time

import pytest

from fault_engine import hang, ticking_system_status
from harness import INTERVAL, RESET, parse_time, until
from tokens import SECRET, token
from ws_client import V1

LIBRARIES = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
pytestmark = pytest.mark.skipif(not LIBRARIES, reason="libfaketime is missing (ops/setup check installs it)")

POLL = "system.status"
HOUR, TEN_YEARS = 3600, 10 * 365 * 24 * 3600
JUMPS = {"an hour ahead": HOUR, "an hour back": -HOUR, "ten years ahead": TEN_YEARS, "ten years back": -TEN_YEARS}
LATE = 2  # Seconds that a busy machine may add to an age; a clock would add an hour.
PATIENT = {"polls": [POLL], "deadline": 1.2}  # A poll of a busy machine is not to fail by itself.


class Clocks:
    """Of the programs of a cluster: each can be set by itself."""

    def __init__(self, cluster):
        self.cluster = cluster

    def file(self, program):
        return program.folder / "clock"

    def start(self, program):
        if not self.file(program).exists():
            self.file(program).write_text("+0\n")
        with pytest.MonkeyPatch.context() as environment:
            for name, value in {"LD_PRELOAD": LIBRARIES[0], "FAKETIME_TIMESTAMP_FILE": str(self.file(program)),
                                "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
                                "NO_FAKE_STAT": "1", "FAKETIME_DISABLE_SHM": "1",
                                # The address sanitizer refuses to run behind another library unless told.
                                "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"}.items():
                environment.setenv(name, value)
            program.start(ready=False)

    def set(self, seconds, *programs):
        for program in programs or self.cluster.programs:
            changed = self.file(program).with_suffix(".new")
            changed.write_text(f"{seconds:+d}\n")
            changed.rename(self.file(program))


@pytest.fixture
def make_timed(make_cluster):
    """A cluster whose programs' wall clocks can be set: .clocks."""
    made = []

    def make(*arguments, **options):
        cluster = make_cluster(*arguments, start=False, **options)
        made.append(cluster)
        cluster.clocks = Clocks(cluster)
        for program in cluster.programs:
            cluster.clocks.start(program)
        for program in cluster.programs:
            program.wait_ready(20)
        return cluster
    yield make
    for cluster in made:
        cluster.stop()
    # libfaketime leaves two files for each process that was killed.
    for path in glob.glob("/dev/shm/*faketime_s*_*"):
        pid = path.rpartition("_")[2]
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            with contextlib.suppress(OSError):
                os.unlink(path)


def is_value(message):
    return message.type == POLL


def is_live(message):
    return message.type == POLL and message["quality"] == "live"


def nothing_happened(client, after, seconds, jump, away=0):
    """For so long: values as before, in order, live, young (or as old as a program was away: what the producer kept for it
    comes late), stamped by the clock that jumped."""
    end = time.monotonic() + seconds
    last = client.wait(is_value, after=after)
    while time.monotonic() < end:
        last = client.wait(lambda m: is_value(m) and m.at > last.at, timeout=2, after=after)
    values = client.all(is_value, after)
    assert client.closed is None
    seqs = [m.seq for m in client.of(POLL, "transition", after=client.messages.index(values[0])) if m.seq]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs))), "no hole, no repetition"
    wrong = [m for m in values if m["quality"] != "live" or m["age_ms"] > 1000 * (away + LATE)]
    assert not wrong, wrong
    assert not [m for m in client.of("transition", after=after) if m["quality"] != "live"]
    assert max(b.at - a.at for a, b in zip(values, values[1:])) < INTERVAL + 2
    if jump is not None:
        assert abs(parse_time(values[-1]["timestamp"]) - (time.time() + jump)) < 5, "the clock did jump"


@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)
def test_a_jump_of_every_clock_changes_nothing_but_what_the_messages_say_of_the_time(make_timed, engine, jump):
    engine.set(POLL, ticking_system_status())
    cluster = make_timed(engine, **PATIENT, edge_options={"heartbeat_interval": "500ms"})
    with cluster.v1(POLL) as client, cluster.client() as old, cluster.v1("notification") as quiet:
        client.wait(is_live)
        for offset in (jump, 0):
            mark, old_mark, quiet_mark = client.mark, old.mark, quiet.mark
            cluster.clocks.set(offset)
            nothing_happened(client, mark + 1, 2.5, offset)
            rendered = old.of(POLL, after=old_mark)
            assert len(rendered) > 5 and not any(m.data["stale"] for m in rendered)
            assert len(quiet.of("heartbeat", after=quiet_mark)) >= 2, "heartbeats go on"
            assert cluster.state(POLL)["values"][0]["age_ms"] <= 1000 * (LATE + INTERVAL)
            assert all(b["state"] == "closed" for b in cluster.breakers().values())
        seqs = [m.seq for m in client.all(is_value)]
        assert seqs == sorted(set(seqs))


@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)
@pytest.mark.parametrize("which", ["producer", "broker", "edge"])
def test_clocks_that_differ_between_the_programs_change_no_age(make_timed, engine, which, jump):
    engine.set(POLL, ticking_system_status())
    cluster = make_timed(engine, **PATIENT)
    with cluster.v1(POLL) as client:
        client.wait(is_live)
        mark = client.mark
        cluster.clocks.set(jump, getattr(cluster, which))
        nothing_happened(client, mark + 1, 1.5, jump if which == "edge" else None)


@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)
def test_what_is_stale_ages_by_the_seconds_that_passed_and_the_breaker_keeps_its_time(make_timed, engine, jump):
    engine.set(POLL, ticking_system_status())
    cluster = make_timed(engine, polls=[POLL], health=0, failures=2)
    with cluster.v1(POLL, "circuit_breaker.open", "circuit_breaker.half_open", "circuit_breaker.closed") as client:
        client.wait(is_live)
        engine.set_all(hang())
        opened = client.wait("circuit_breaker.open")
        cluster.clocks.set(jump)
        calls = engine.count(POLL)
        value = cluster.state(POLL)["values"][0]
        asked = time.monotonic()
        began = asked - value["age_ms"] / 1000
        assert value["quality"] == "stale" and began < opened.at
        half = client.wait("circuit_breaker.half_open")
        assert RESET - 0.3 < half.at - opened.at < RESET + 1, "neither at once nor never"
        until(lambda: engine.count(POLL) > calls, what="the probe")
        assert engine.count(POLL) == calls + 1, "one probe"
        again = client.wait("circuit_breaker.open", after=client.messages.index(half))
        cluster.clocks.set(0)
        later = cluster.state(POLL)["values"][0]
        assert abs((time.monotonic() - later["age_ms"] / 1000) - began) < LATE, "as old as it is"
        assert later["as_of"] == value["as_of"], "no hop and no clock changes when the engine answered"
        engine.heal()
        engine.set(POLL, ticking_system_status())
        closed = client.wait("circuit_breaker.closed", after=client.messages.index(again))
        assert RESET - 0.3 < closed.at - again.at < RESET + 1
        client.wait(is_live, after=client.messages.index(again))


@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)
def test_each_program_killed_and_started_again_while_the_clock_is_wrong(make_timed, engine, jump):
    engine.set(POLL, ticking_system_status())
    cluster = make_timed(engine, **PATIENT)
    with cluster.v1(POLL) as client:
        last = client.wait(is_live)
    seq = last.seq
    for offset in (jump, 0):
        cluster.clocks.set(offset)
        for program in (cluster.producer, cluster.broker, cluster.edge):
            program.kill()
            killed = time.monotonic()
            cluster.clocks.start(program)
            program.wait_ready(20)
            away = time.monotonic() - killed
            with cluster.v1(POLL) as client:
                first = client.wait(is_value)
                assert first.seq >= seq, "state never goes back"
                assert first["age_ms"] <= 1000 * (away + 1 + LATE), "its age is that of the fault"
                live = client.wait(lambda m: is_live(m) and not m.get("replay"))
                nothing_happened(client, client.messages.index(live), 1, offset, away)
                seq = client.all(is_value)[-1].seq


@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)
def test_retention_neither_empties_the_log_nor_stops(make_timed, engine, jump):
    """The broker trims at its start, and every ten seconds."""
    engine.set(POLL, ticking_system_status())
    cluster = make_timed(engine, **PATIENT)
    trimmed = "sigmacast_broker_trimmed_total"
    with cluster.v1(POLL) as client:
        client.wait(lambda m: is_value(m) and m.seq >= 10)
    cluster.clocks.set(jump)
    cluster.broker.kill()
    cluster.clocks.start(cluster.broker)
    cluster.broker.wait_ready(20)
    until(lambda: cluster.broker.metrics()["sigmacast_broker_batches_total"] > 3, what="it goes on")
    logged = cluster.command("log", cluster.database, "--topic", POLL, "--limit", "100000", "--json").stdout.splitlines()
    assert {json.loads(line)["seq"] for line in logged} >= set(range(1, 11)), "all is there"
    assert cluster.broker.metrics().get(trimmed, 0) == 0
    cluster.broker.kill()
    cluster.options["broker"]["retain_values"] = "1s"
    cluster.clocks.start(cluster.broker)
    cluster.broker.wait_ready(20)
    until(lambda: cluster.broker.metrics()[trimmed] >= 8, what="what is too old goes")


@pytest.mark.parametrize("jump, lasts, ends", [(HOUR, 600, True), (-HOUR, 600, False), (-HOUR, 4, True),
                                               (-TEN_YEARS, 4, True)],
                         ids=["the clock passes exp", "set back", "set back, but its time is over",
                              "ten years back, but its time is over"])
def test_a_session_ends_by_the_edges_clock_or_when_its_tokens_time_is_over(make_timed, engine, jump, lasts, ends):
    cluster = make_timed(engine, polls=[POLL], auth_options={"required": True, "secret": SECRET})
    bearer = {"Authorization": f"Bearer {token(lasts=lasts)}"}
    with cluster.client(V1, headers=bearer) as client:
        client.wait("hello")
        client.subscribe(POLL)
        cluster.clocks.set(jump, cluster.edge)
        if ends:
            assert client.wait_closed(10) == (4301, "token_expired")
            assert time.monotonic() - client.began < max(lasts if jump < 0 else 0, 0) + 5 + LATE
        else:
            client.wait_next(POLL)
            assert client.closed is None

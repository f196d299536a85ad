"""Each way in which an engine can fail, a hundred times over, and none of it leaves a mark.

One poll for each, all at the same time. Under the address sanitizer (`ops/test --preset asan --name pathologies`) a bad
access ends a program, and freed memory is kept back to be watched: of that at most 1 MiB here, so that resident memory is
what a program holds. It is measured, on every build, from when all polls are well to the end.
"""

import os
import re
import time

import pytest

import fault_engine as fault
from faults_test import FAULTS, TRANSPORT
from harness import PATIENCE, Cluster, parse_time, until

TIMES = 100
GROWTH_MAX = 16 << 20 if PATIENCE < 10 else 64 << 20  # The thread sanitizer remembers what was touched.
INTERVAL = 0.05
GOOD = fault.captured("system_status")["result"]
SANITIZER = re.compile(r"(?:Address|Leak|Thread|UndefinedBehavior)Sanitizer|runtime error:")
WATCHED = "quarantine_size_mb=1:thread_local_quarantine_size_kb=16:allocator_release_to_os_interval_ms=100"


def sends(data):
    """These bytes in the place of an answer, then the end."""
    def behave(_call, connection):
        connection.sendall(data)
        return False
    return behave


def deep(call, connection):
    result = b"[" * 1000 + b"]" * 1000
    return sends(b"HTTP/1.0 200 OK\r\n\r\n" + b'{"jsonrpc":"2.0","id":%d,"error":null,"result":%s}' % (call.id, result))(
        call, connection)


# name: (behaviour, the reason that clients are told; None: the poll's own error code)
PATHOLOGIES = {name: (behaviour, reason if reason == TRANSPORT else None) for name, (behaviour, reason) in FAULTS.items()}
PATHOLOGIES |= {
    "no such method": (fault.unsupported(), "METHOD_NOT_FOUND"),
    "a length that is no number": (sends(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n{}"), None),
    "a header without an end": (sends(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 65_536), None),
    "arrays in a thousand layers": (deep, None),
}
METHODS = {name: f"fault.{number}" for number, name in enumerate(PATHOLOGIES)}
NEVER_ANSWERED = ("a hang", "a slow drip")
LABELS = ("timestamp", "stale", "error_code", "last_update")  # In the data, and not the engine's.


@pytest.fixture
def engine():
    engine = fault.FaultEngine({method: fault.ok(GOOD) for method in METHODS.values()}).start()
    yield engine
    engine.stop()


@pytest.fixture
def cluster(tmp_path, engine, monkeypatch):
    monkeypatch.setenv("ASAN_OPTIONS", f"{os.environ.get('ASAN_OPTIONS', '')}:{WATCHED}".lstrip(":"))
    polls = {method: {"mapper": "system", "interval": INTERVAL, "deadline": 1.0} for method in METHODS.values()}
    for name in NEVER_ANSWERED:
        polls[METHODS[name]]["deadline"] = 3 * INTERVAL
    with Cluster(tmp_path, engine, polls=polls, failures=1000, health=0,
                 producer_options={"reply_bytes_max": 1 << 16, "unsupported_retry": "50ms"}) as cluster:
        yield cluster


def values(cluster):
    """What the edge serves, by method."""
    served = {value["type"]: value for value in cluster.state()["values"]}
    return {method: served[method] for method in METHODS.values()}


def known(value):
    return {name: member for name, member in value["data"].items() if name not in LABELS}


def all_are(cluster, quality, since=None):
    served = values(cluster)
    good = all(value["quality"] == quality and (since is None or parse_time(value["as_of"]) > since)
               for value in served.values())
    return served if good else None


def resident(cluster):
    return {program.name: program.stat()[1] for program in cluster.programs}


def check_programs(cluster, before):
    """None has ended, none has grown, none has said that it did what it must not."""
    after = resident(cluster)  # Of the same processes: the harness starts none again.
    for program in cluster.programs:
        assert program.process.poll() is None, f"{program.name} ended with {program.process.returncode}"
        grown = after[program.name] - before[program.name]
        print(f"{program.name}: {before[program.name] >> 20} MiB, grown by {grown / (1 << 20):.1f} MiB")
        assert grown <= GROWTH_MAX, f"{program.name} has grown by {grown >> 20} MiB"
        assert not SANITIZER.search(program.log()), program.log()


def check_kept(cluster, client, marks, good, reasons):
    """The last-known-good, with its own time, and why it is old; nobody was told anything else meanwhile."""
    served = values(cluster)
    for method, value in served.items():
        assert value["quality"] == "stale" and known(value) == known(good[method]), method
        assert value["as_of"] == good[method]["as_of"], method
    before, since = marks  # Before the first failure, and when all values were stale.
    told, later = client.messages[before:], client.messages[since:]
    for method, reason in reasons.items():
        stale = [m for m in told if m.type == "transition" and m.data["topic"] == method and m["quality"] == "stale"]
        assert reason in {m["reason"] for m in stale}, (method, stale)  # On a busy machine it was a timeout, too.
    assert [m for m in later if m.type in reasons] == [], "a value in the place of the last good one"
    assert [m for m in later if m.type == "transition" and m["quality"] != "stale"] == []


def test_a_hundred_of_each_pathology_leave_the_programs_as_they_were_and_the_last_good_state_in_force(cluster, engine):
    live = until(lambda: all_are(cluster, "live"), 20, "every poll is well")
    with cluster.v1(*METHODS.values()) as client:
        before = resident(cluster)
        mark, began = client.mark, time.time()
        counts = {method: engine.count(method) for method in METHODS.values()}
        for name, (behaviour, _) in PATHOLOGIES.items():
            engine.set(METHODS[name], behaviour)
        first = until(lambda: all_are(cluster, "stale"), 20, "every value is called stale")
        marks = (mark, client.mark)
        for method, value in first.items():
            assert known(value) == known(live[method]), method
            assert parse_time(live[method]["as_of"]) <= parse_time(value["as_of"]) <= began + PATIENCE, "its own time"
        until(lambda: all(engine.count(method) - counts[method] >= TIMES for method in METHODS.values()), 60,
              f"{TIMES} calls of each", every=0.2)
        check_kept(cluster, client, marks, first, {
            METHODS[name]: reason or METHODS[name].replace(".", "_").upper() + "_FAILED"
            for name, (_, reason) in PATHOLOGIES.items()})
        check_programs(cluster, before)

        for method in METHODS.values():
            engine.set(method, fault.ok(GOOD))
        healed = time.time()
        until(lambda: all_are(cluster, "live", since=healed), 20, "every poll is well again")

        mark = client.mark
        engine.refuse()
        first = until(lambda: all_are(cluster, "stale"), 20, "every value is called stale")
        marks = (mark, client.mark)
        failed = transport_failures(cluster)
        until(lambda: all(now >= failed[method] + TIMES for method, now in transport_failures(cluster).items()), 60,
              f"{TIMES} refused connections of each", every=0.2)
        check_kept(cluster, client, marks, first, dict.fromkeys(METHODS.values(), TRANSPORT))
        engine.listen()
        back = time.time()
        until(lambda: all_are(cluster, "live", since=back), 20, "every poll is well again")
        check_programs(cluster, before)

    for program in reversed(cluster.programs):
        assert program.terminate() == 0, program.name
        assert not SANITIZER.search(program.log()), "a leak is told at the end:\n" + program.log()


def transport_failures(cluster):
    metrics = cluster.producer.metrics()
    return {method: metrics[f'sigmacast_polls_total{{poll="{method}",result="transport"}}'] for method in METHODS.values()}

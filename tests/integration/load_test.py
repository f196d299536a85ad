"""tests/load in its quick form, clients that fail, and what the verdict says of doctored samples."""

import copy
import fcntl
import json
import os
import pathlib
import pty
import subprocess
import sys
import termios
import xml.etree.ElementTree

import pytest

from harness import BIN, PATIENCE, clean_environment, until

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS / "bench"))

from verdict import LIMITS, MIB, judge  # noqa: E402


def run(command, folder, *arguments):
    done = subprocess.run([str(TESTS / command), "--bin", str(BIN), "--out", str(folder), *arguments], text=True,
                          capture_output=True, timeout=60 * PATIENCE, env=clean_environment())
    found = json.loads((folder / "result.json").read_text()) if (folder / "result.json").exists() else None
    return done, found


def problems_of(found):
    return [problem for row in found["rows"] for problem in row["problems"]]


# --- the commands -----------------------------------------------------------------------------------------------------

@pytest.mark.skipif(PATIENCE > 1, reason="memory and latency are not a sanitizer's")
def test_the_load_test_in_its_quick_form_holds_and_writes_tables_samples_and_a_plot(tmp_path):
    done, found = run("load", tmp_path, "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["name"] for row in found["rows"]] == ["10", "200", "1000", "pings"]
    for row in found["rows"]:
        assert row["checked"]["received"] == row["checked"]["offered"] > 100 * row["clients"] / 10
    report = (tmp_path / "report.md").read_text()
    assert "everything held" in report and "| 1000 | 1,000 |" in report
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert {sample["phase"] for sample in samples} == {"before", "load", "after", "again"}
    plot = xml.etree.ElementTree.parse(tmp_path / "report.svg").getroot()
    lines = [points for points in plot.iter("{http://www.w3.org/2000/svg}polyline") if points.get("points")]
    assert len(lines) == 4 * 13, "thirteen lines in each of four rows"


@pytest.mark.skipif(PATIENCE > 1, reason="memory and latency are not a sanitizer's")
def test_a_soak_of_seconds_has_clients_that_come_and_go_and_holds(tmp_path):
    done, found = run("soak", tmp_path, "--hours", "0.002", "--clients", "20", "--churn", "5", "--every", "0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    result = found["rows"][0]["result"]
    assert result["churned"] >= 20 and result["tried"] >= 35 and result["failed"] == 0


FAULTS = {
    "drop": ["delivery: ", "holes in the positions"],
    "repeat": ["order: ", "positions came twice"],
    "younger": ["ages: ", "younger than they were"],
    "deaf": ["delivery: ", "clients have not got all of it"],
    "quit": ["connections: 1 were closed by the edge"],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_client_that_fails_is_named_and_the_command_fails(tmp_path, fault):
    done, found = run("load", tmp_path, "--quick", "--rows", "10", "--fault", fault)
    assert done.returncode == 1, done.stdout + done.stderr
    assert any(all(words in problem for words in FAULTS[fault]) for problem in problems_of(found)), problems_of(found)
    assert all(problem in (tmp_path / "report.md").read_text() for problem in problems_of(found))


def test_the_command_outlives_its_terminal(tmp_path):
    controller, terminal = pty.openpty()
    process = subprocess.Popen([str(TESTS / "load"), "--quick", "--rows", "10", "--bin", str(BIN), "--out", str(tmp_path)],
                               stdin=terminal, stdout=terminal, stderr=terminal, env=clean_environment(),
                               start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    os.close(terminal)
    until(lambda: "10 clients" in (tmp_path / "progress.log").read_text(), what="it has begun")
    os.close(controller)  # Which hangs up on everything that runs there.
    process.wait(60 * PATIENCE)
    assert (tmp_path / "report.md").exists(), process.returncode
    assert "2 of 2 s" in (tmp_path / "progress.log").read_text()
    assert PATIENCE > 1 or process.returncode == 0, (tmp_path / "report.md").read_text()


def test_a_soak_that_is_told_to_end_judges_what_there_is(tmp_path):
    process = subprocess.Popen([str(TESTS / "soak"), "--bin", str(BIN), "--out", str(tmp_path), "--clients", "10", "--every",
                                "0.2"], stdout=subprocess.DEVNULL, env=clean_environment())
    until(lambda: '"phase": "load"' in (tmp_path / "samples.jsonl").read_text(), 20, "it is under way")
    process.terminate()
    assert process.wait(60 * PATIENCE) == 1
    row = json.loads((tmp_path / "result.json").read_text())["rows"][0]
    assert "ended early by SIGTERM" in row["problems"] and row["checked"]["received"] == row["checked"]["offered"] > 0


def test_a_program_that_cannot_start_fails_the_row_and_not_the_report(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in BIN.iterdir():
        if program.name != "sigmacast-broker":
            (folder / program.name).symlink_to(program)
    (folder / "sigmacast-broker").write_text("#!/bin/sh\nexit 3\n")
    (folder / "sigmacast-broker").chmod(0o755)
    done = subprocess.run([str(TESTS / "load"), "--quick", "--rows", "10", "--bin", str(folder), "--out",
                           str(tmp_path / "out")], text=True, capture_output=True, timeout=60 * PATIENCE,
                          env=clean_environment())
    assert done.returncode == 1 and "broker ended with 3" in done.stdout, done.stdout + done.stderr
    assert "failed: 1" in (tmp_path / "out" / "report.md").read_text()


# --- the verdict ------------------------------------------------------------------------------------------------------

def good():
    """A row of ten minutes in which everything held, with the noise that real samples have."""
    def sample(t, phase, clients, rss):
        return {"t": t, "phase": phase, "clients": clients, "database": 8 * MIB, "younger_ms": 2, "late": "",
                "counters": {"sigmacast_edge_lost_total": 0},
                "programs": {"edge0": {"rss": rss + (t * 7919 % 13) * 4096, "fds": 20 + clients + t % 3, "threads": 4},
                             "broker": {"rss": 11 * MIB, "fds": 31, "threads": 5}}}
    samples = [sample(t, "before", 0, 13 * MIB) for t in range(5)]
    samples += [sample(t, "load", 1000, 22 * MIB) for t in range(10, 610, 5)]
    samples += [sample(t, "after", 0, 21 * MIB) for t in range(610, 614)]
    samples += [sample(t, "again", 1000, 22 * MIB) for t in range(614, 624)]
    samples += [sample(t, "after", 0, 21 * MIB) for t in range(624, 628)]
    return {"limits": {**LIMITS, "pings_min": 19}, "samples": samples, "logged": [], "ended": [], "problems": [],
            "result": {"tried": 2000, "connected": 2000, "failed": 0, "closed": 0, "holes": 0, "skipped": 0, "repeated": 0,
                       "back": 0, "resubscribed": 0, "errors": 0, "younger": 0, "younger_ms_max": 3, "silence_s_max": 5.1,
                       "pings_min": 20, "asked": 100, "answered": 100,
                       "latency_ms": {"samples": 9, "p50": 1.0, "p99": 20.0, "max": 30.0}},
            "checked": {"behind": 0, "offered": 100, "received": 100}, "again": {"behind": 0}}


def on(phase, program, member, change):
    def doctor(row):
        for number, sample in enumerate([sample for sample in row["samples"] if sample["phase"] == phase]):
            sample["programs"][program][member] = change(sample["programs"][program][member], number)
    return doctor


def put(*path, value):
    def doctor(row):
        for name in path[:-1]:
            row = row[name]
        row[path[-1]] = value
    return doctor


DOCTORED = {
    "a connection failed": (put("result", "failed", value=1), "connections: 1 of 2,000 failed"),
    "a connection was closed": (put("result", "closed", value=1), "connections: 1 were closed by the edge"),
    "nobody connected": (put("result", "connected", value=0), "connections: there was none"),
    "a hole": (put("result", "holes", value=1), "delivery: 1 holes"),
    "a position left out": (put("result", "skipped", value=1), "delivery: 1 positions were left out"),
    "a client that is behind": (put("checked", "behind", value=1), "delivery: 1 clients have not got all"),
    "nothing to deliver": (put("checked", value={"behind": 0, "offered": 0, "received": 0}), "delivery: nothing was"),
    "one that did not come": (put("checked", "received", value=99), "delivery: 99 of 100 came"),
    "a second wave that is behind": (put("again", "behind", value=1), "delivery: 1 clients of the second wave"),
    "a repetition": (put("result", "repeated", value=1), "order: 1 positions came twice"),
    "a step back": (put("result", "back", value=1), "order: 1 positions went back"),
    "a new start": (put("result", "resubscribed", value=1), "order: 1 clients were started anew"),
    "an error message": (put("result", "errors", value=1), "order: 1 error messages"),
    "a value that claims to be younger": (put("result", "younger", value=1), "ages: 1 values claimed"),
    "the same over REST": (put("samples", 30, "younger_ms", value=300), "ages: over REST"),
    "eleven seconds of silence": (put("result", "silence_s_max", value=11), "silence: a client heard nothing for 11.0 s"),
    "a client without pings": (put("result", "pings_min", value=18), "pings: a client got 18"),
    "an unanswered ping": (put("result", "answered", value=99), "pings: 99 of 100"),
    "no latency": (put("result", "latency_ms", "samples", value=0), "latency: nothing was measured"),
    "a slow answer": (put("result", "latency_ms", "p99", value=251), "latency: p99 is 251.0 ms"),
    "a leak of 256 KiB a minute": (on("load", "edge0", "rss", lambda rss, i: rss + i * 5 * (256 << 10) // 60),
                                   "memory: edge0 grew by 1.2 MiB"),
    "a leak of a client's memory": (on("again", "edge0", "rss", lambda rss, _: rss + 5 * MIB), "memory: edge0 has 27.0 MiB"),
    "no sample": (put("samples", value=[]), "memory: there is no sample"),
    "nothing to compare with": (lambda row: row.update(samples=[s for s in row["samples"] if s["phase"] != "before"]),
                                "descriptors: there is no sample of edge0 before the load"),
    "a descriptor of each client that left": (on("after", "edge0", "fds", lambda fds, _: fds + 1000),
                                              "descriptors: edge0 had 1,0"),
    "descriptors that stay open": (on("after", "edge0", "fds", lambda fds, _: fds + 12), "descriptors: edge0 has"),
    "descriptors of a broker": (on("load", "broker", "fds", lambda fds, i: fds + i), "descriptors: broker had"),
    "a thread more": (on("load", "broker", "threads", lambda n, i: n + (i > 50)), "threads: broker had between 5 and 6"),
    "a database beyond its bound": (put("samples", 30, "database", value=700 * MIB), "database: 700 MiB"),
    "a counter": (put("samples", 30, "counters", "sigmacast_edge_lost_total", value=2), "counters: sigmacast_edge_lost_total"),
    "no answer to a request for figures": (put("samples", 30, "late", value="timed out"), "answers: 1 of 143"),
    "a program that ended": (put("ended", value=["broker (status -6)"]), "programs: broker (status -6) ended"),
    "a line in a log": (put("logged", value=["edge0: warn x"]), "logs: 1 lines at warn or worse, the first: edge0: warn x"),
}


def test_samples_with_noise_and_nothing_wrong_are_passed():
    assert judge(good()) == []


@pytest.mark.parametrize("what", DOCTORED)
def test_each_thing_that_is_wrong_is_named(what):
    row = good()
    doctor, expected = DOCTORED[what]
    doctor(row)
    assert any(problem.startswith(expected) for problem in judge(row)), judge(row)
    if row["samples"]:
        assert len({problem.split(":")[0] for problem in judge(row)}) == 1, "and nothing else is"


def test_memory_that_stepped_up_once_or_is_full_after_a_while_is_no_growth():
    row = good()
    on("load", "edge0", "rss", lambda rss, i: rss + min(i, 50) * MIB // 10)(row)
    on("load", "broker", "rss", lambda rss, i: rss + (i > 100) * 2 * MIB)(row)
    on("again", "edge0", "rss", lambda rss, _: rss + 5 * MIB)(row)
    assert judge(row) == []


def test_a_day_of_samples_with_a_slow_leak_is_found():
    row = good()
    load = next(sample for sample in row["samples"] if sample["phase"] == "load")
    row["samples"] = [sample for sample in row["samples"] if sample["phase"] == "before"]
    for i in range(24 * 120):
        sample = copy.deepcopy(load)
        sample["t"] = 100 + 30 * i
        sample["programs"]["edge0"]["rss"] += i * 30 * (100 << 10) // 3600 + i * 7919 % 1000 * 1024
        row["samples"].append(sample)
    assert any(problem.startswith("memory: edge0 grew by 1.2 MiB") for problem in judge(row)), judge(row)

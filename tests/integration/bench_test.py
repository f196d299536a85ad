"""tests/bench/run in small, what its clients say of a server that fails, and what is made of the figures."""

import base64
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import xml.etree.ElementTree

import pytest

from harness import BIN, PATIENCE, clean_environment

BENCH = pathlib.Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))

import compare_report  # noqa: E402

TWO_CORES = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="server and clients have a core each")


def bench(folder, *arguments):
    cores = sorted(os.sched_getaffinity(0))
    return subprocess.run(
        [str(BENCH / "run"), "--bin", str(BIN), "--out", str(folder), "--server-core", str(cores[0]), "--client-core",
         str(cores[-1]), "--pairs", "1", "--seconds", "0.3", "--clients", "20", "--idle-clients", "50", *arguments],
        text=True, capture_output=True, timeout=100 * PATIENCE, env=clean_environment())


# --- the command ------------------------------------------------------------------------------------------------------

@TWO_CORES
def test_edge_and_floor_deliver_everything_in_each_scenario_and_are_reported(tmp_path):
    done = bench(tmp_path, "--only", "edge,floor-coalesce")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "result.json").read_text())
    assert list(found["summary"]) == ["A", "A5", "B", "memory", "handshake", "return"]
    back = found["summary"].pop("return")
    assert list(back) == ["edge"] and back["edge"]["delivered"] == back["edge"]["expected"] == 50 * 100, back
    assert not back["edge"]["problems"] and 1 <= back["edge"]["requests"] <= 3, back
    for scenario, servers in found["summary"].items():
        assert list(servers) == ["floor", "edge", "floor-coalesce"], scenario
        for name, of in servers.items():
            assert of["runs"] >= 1 and of["us"] > 0 and not of["problems"], (scenario, name, of)
            if scenario in ("A", "A5", "B"):
                assert of["delivered"] == of["expected"] >= 20 * 10, (scenario, name, of)
                assert 270 <= of["bytes"] <= 300, f"messages of about the same size: {scenario}, {name}: {of['bytes']}"
    report = (tmp_path / "report.md").read_text()
    assert re.search(r"^\| edge +\|", report, re.M) and "- goal A5:" in report
    plot = xml.etree.ElementTree.parse(tmp_path / "report.svg").getroot()
    assert len([bar for bar in plot.iter("{http://www.w3.org/2000/svg}rect") if bar.get("fill")]) == 3 * 3


@TWO_CORES
def test_a_setting_that_the_edge_does_not_know_is_a_row_that_says_so(tmp_path):
    done = bench(tmp_path, "--only", "edge", "--scenario", "A", "--edge-set", "no_such_setting=1")
    assert done.returncode == 1 and "no_such_setting" in (tmp_path / "report.md").read_text(), done.stdout + done.stderr


# --- the clients ------------------------------------------------------------------------------------------------------

class Faulty:
    """Greets one client, and passes on what `pick` makes of each line of the feed."""

    def __init__(self, pick):
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.feed, self.fed = socket.socketpair()
        self.pick = pick
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        client, _ = self.listening.accept()
        request = b""
        while b"\r\n\r\n" not in request:
            request += client.recv(4096)
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", request)[1]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        client.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        with client, self.fed.makefile("rb") as lines:
            for line in lines:
                for event in self.pick(json.loads(line)["bench_n"], line.rstrip(b"\n")):
                    client.sendall(b"\x81\x7e" + len(event).to_bytes(2, "big") + event)

    def told(self, *commands):
        done = subprocess.run([str(BIN / "sigmacast-bench-fanout"), "--port", str(self.port), "--clients", "1", "--feed-fd",
                               str(self.feed.fileno()), "--quiet", "2"], input="connect\n" + "\n".join(commands) + "\n", text=True,
                              capture_output=True, timeout=60 * PATIENCE, pass_fds=[self.feed.fileno()])
        self.feed.close()
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_every_client_has_once_and_in_order_is_all_that_was_expected():
    _, run = Faulty(lambda n, line: [line]).told("run 0.2 100 5")
    assert run["delivered"] == run["expected"] == run["events"] and run["events"] % 5 == 0 and run["gaps"] == 0


def test_a_message_that_did_not_come_is_missed():
    _, run = Faulty(lambda n, line: [] if n == 3 else [line]).told("run 0.1 100 1")
    assert run["delivered"] == run["expected"] - 1 and run["gaps"] == 1


def test_a_message_that_came_twice_is_noticed():
    _, run = Faulty(lambda n, line: [line] * (2 if n == 3 else 1)).told("run 0.1 100 1")
    assert run["gaps"] == 1


def test_no_more_is_in_flight_than_the_window_allows():
    held = []

    def pick(n, line):  # Passes on three at a time: it never sees a fourth before.
        held.append(line)
        if len(held) < 3:
            return []
        passed = list(held)
        held.clear()
        return passed
    _, run = Faulty(pick).told("run 0.1 0 3")
    # The last of them are held, where the time was over before they were three.
    assert run["events"] >= 3 and run["expected"] - run["delivered"] < 3


# --- what is made of the figures --------------------------------------------------------------------------------------

def measured(server, us, pair, number=0, scenario="A", **more):
    return {"scenario": scenario, "server": server, "us": us, "pair": pair, "round": number, "delivered": 10, "expected": 10,
            "latency_ms": {"p50": us, "p99": 2 * us, "max": 3 * us}, "others_core": 0, "kernel": 0.9, "bytes": 288,
            "deliveries_s": 1000, "server_core": 0.5, "client_core": 0.5, **more}


def result(*runs):
    return {"servers": ["floor", "edge"], "runs": list(runs)}


def test_a_ratio_is_the_median_of_the_pairs_and_not_of_all_runs():
    found = compare_report.summary(result(
        measured("floor", 4, "0"), measured("edge", 2, "0"),
        measured("floor", 10, "1", 1), measured("edge", 5, "1", 1),
        measured("edge", 9, "2", 2), measured("floor", 6, "2", 2)))
    assert found["A"]["edge"]["ratio"] == 0.5 and found["A"]["edge"]["us"] == 5
    assert found["A"]["edge"]["ratio_max"] == 1.5


def test_goals_of_bursts_are_parts_of_what_floor_takes_for_single_events():
    runs = result(measured("floor", 5, "a"), measured("edge", 4, "a"),
                  measured("floor", 4, "b", scenario="A5"), measured("edge", 1, "b", scenario="A5"))
    assert compare_report.summary(runs)["A5"]["edge"]["of_floor_a"] == 0.2
    notes = compare_report.notes(compare_report.summary(runs))
    assert "- goal A5: 0.2 of FLOOR's A, at most 0.2: reached" in notes
    assert "- goal A: 0.8 of FLOOR's p99, at most 1: reached" in notes


def test_a_goal_is_not_judged_where_others_had_the_core():
    runs = result(measured("floor", 5, "a"), measured("edge", 1, "a", others_core=0.2))
    notes = compare_report.notes(compare_report.summary(runs))
    assert any(note.startswith("- goal A: 0.2 of FLOOR's A") and "not judged" in note for note in notes)


# --- instruction counts -----------------------------------------------------------------------------------------------

def instructions():
    loader = importlib.machinery.SourceFileLoader("instructions", str(BENCH / "instructions"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("instructions", loader))
    loader.exec_module(module)
    return module


def test_a_count_that_rose_by_more_than_the_tolerance_fails_and_is_named(capsys):
    judge = instructions().judge
    assert judge({"encode": 104.9, "resume": 50}, {"encode": 100, "resume": 100}, "g++", 0.05) == 0
    assert judge({"encode": 105.1, "resume": 100}, {"encode": 100, "resume": 100}, "g++", 0.05) == 1
    assert "encode takes +5.1% instructions" in capsys.readouterr().err
    assert judge({"new": 1}, {"encode": 100}, "g++", 0.05) == 1, "a case without a count is not passed over"
    assert judge({"encode": 105.1}, {}, "another compiler", 0.05) == 0
    assert "No counts are kept for another compiler: nothing is judged" in capsys.readouterr().out


@pytest.mark.skipif(not shutil.which("valgrind") or PATIENCE >= 4, reason="valgrind is not there, or under a sanitizer")
def test_the_same_work_takes_the_same_number_of_instructions_each_time(tmp_path):
    count = instructions().count
    shutil.copy(BIN / "sigmacast-bench-instructions", tmp_path)
    assert count(BIN / "sigmacast-bench-instructions", "resume", None) == \
        count(tmp_path / "sigmacast-bench-instructions", "resume", None) > 1000

#!/usr/bin/python3
"""What clients that do not read cost the others, and an edge: /usr/bin/python3 tests/bench/slow.py [BIN] [--pairs N]

others   9,000 clients that read, 5 events a second: their p99 alone, and beside 1,000 that never read, in pairs.
memory   1,000 clients that never read, 2,000 events of 1,000 bytes: what the edge holds for each client and event beside
         one copy of the backlog. Then the rest of 4 MiB: each is closed, with the reason, and the memory is free again.
trickle  One client that takes 1 kB/s of 200 keys, of which each is new 10 times a second, for --trickle seconds, and then
         reads all it can: whether it stays connected, how old its newest values are a second later, and what it was told.
"""

import json
import os
import select
import statistics
import subprocess
import threading
import time

import script

parser = script.parser(__doc__, ("others", "memory", "trickle"))
parser.add_argument("--pairs", type=int, default=3)
parser.add_argument("--readers", type=int, default=9000)
parser.add_argument("--stuck", type=int, default=1000)
parser.add_argument("--trickle", type=float, default=20)
options = script.options(parser)

import peers  # noqa: E402  (the folder of the programs has to be known first)
from compare import Clients, memory  # noqa: E402
from harness import BIN, clean_environment, until, waits_in_the_kernel  # noqa: E402
from ws_client import TEXT, Raw, frame  # noqa: E402

SETTINGS = {"clients_max": 20_000}
EVENTS, EVENT_BYTES = 2000, 1000
KEYS, HERTZ = 200, 10


def subscribed(port, topic, **more):
    client = Raw(port, **more)
    client.send(frame(TEXT, json.dumps({"type": "subscribe", "id": 1, "data": {"types": [topic]}}).encode()))
    client.message("subscribed")
    return client


def stuck(port, count):
    """So many that will never read."""
    return [subscribed(port, "bench", receive_buffer=4096) for _ in range(count)]


def p99_of_others(with_stuck):
    with peers.an_edge(**SETTINGS) as edge, Clients(peers, edge, options.readers, 60, bytes=1000) as readers:
        readers.ask("connect")
        those = stuck(edge.port, options.stuck) if with_stuck else []
        readers.ask("run 4 5 1")  # The kernel's room for those is full by then.
        told = readers.ask("run 8 5 1")
        assert told["delivered"] == told["expected"] and not told["gaps"], told
        for client in those:
            client.socket.close()
        return told["latency_ms"]["p99"]


def others():
    ratios = []
    for number in range(options.pairs):
        order = (False, True) if number % 2 == 0 else (True, False)
        p99 = {which: p99_of_others(which) for which in order}
        ratios.append(p99[True] / p99[False])
        print(f"  others, pair {number + 1}: p99 alone {p99[False]:.1f} ms, beside {options.stuck} that never read "
              f"{p99[True]:.1f} ms, ratio {ratios[-1]:.2f}", flush=True)
    print(f"others: p99 {statistics.median(ratios):.2f} of what it is alone ({min(ratios):.2f} to {max(ratios):.2f}; goal 1.10)")


def feed(edge, clients, events):
    before = edge.broker_counts("committed")
    clients.ask(f"feed {events}")
    until(lambda: edge.broker_counts("committed") >= before + events, 30, "they are in the log")


def backlog():
    with peers.an_edge(**SETTINGS) as edge, Clients(peers, edge, 1, 60, bytes=EVENT_BYTES - edge.envelope) as reader:
        reader.ask("connect")
        those = stuck(edge.port, options.stuck)
        before = memory(edge.pids)
        feed(edge, reader, EVENTS)
        time.sleep(2)
        in_kernel = sum(waits_in_the_kernel(edge.port).values()) / len(those)
        events = EVENTS - in_kernel / EVENT_BYTES
        held = memory(edge.pids) - before
        copy = EVENTS * EVENT_BYTES
        print(f"memory: {options.stuck} that never read, {EVENTS} events: the kernel holds {in_kernel / 1024:.0f} KiB for each, the "
              f"edge {held / 2**20:.1f} MiB for all: beside one copy of the backlog {(held - copy) / len(those) / events:.1f} bytes a "
              f"client and event (goal 64)", flush=True)
        began = time.monotonic()
        feed(edge, reader, 4 * 2**20 // EVENT_BYTES - EVENTS + 200)
        until(lambda: edge.cluster.edge.metrics()["sigmacast_edge_dropped_clients_total"] >= len(those), 30, "all are closed")
        closed = time.monotonic() - began
        until(lambda: edge.cluster.edge.metrics()["sigmacast_edge_clients"] <= 1, 30, "all have left")
        gone = time.monotonic() - began
        time.sleep(2)
        print(f"memory: over 4 MiB each was closed as too slow; all {closed:.1f} s, their sockets {gone:.1f} s from the first event on; "
              f"{(memory(edge.pids) - before) / 2**20:.1f} MiB more than before they came to wait", flush=True)
        for client in those:
            client.socket.close()


def publish_state(edge, stop):
    with subprocess.Popen([str(BIN / "sigmacast"), "publish", "--config", str(edge.cluster.command_config("state")),
                           "--origin", "state"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, text=True, env=clean_environment()) as process:
        due = time.monotonic()
        while not stop.is_set():
            for key in range(KEYS):
                process.stdin.write(json.dumps({"type": "state", "kind": "state", "key": f"k{key}",
                                                "data": {"t": time.monotonic()}}) + "\n")
            process.stdin.flush()
            due += 1 / HERTZ
            time.sleep(max(0, due - time.monotonic()))
        process.stdin.close()


def trickle():
    stop = threading.Event()
    with peers.an_edge(**SETTINGS) as edge:
        feed = threading.Thread(target=publish_state, args=(edge, stop))
        feed.start()
        client = subscribed(edge.port, "state", receive_buffer=4096)
        end = time.monotonic() + options.trickle
        while time.monotonic() < end:
            time.sleep(0.1)
            if select.select([client.socket], [], [], 0)[0]:
                client._buffer += client.socket.recv(100)
        began = time.monotonic()
        newest, skipped, caught_up = {}, 0, None
        while time.monotonic() < began + 4:
            came = client.read()
            assert came is not None and came.opcode != 8, "it was closed"
            if came.opcode != TEXT:
                continue
            message = json.loads(came.payload)
            skipped += message["type"] == "skipped"
            if message["type"] == "state":
                newest[message["key"]] = message["data"]["t"]
                if caught_up is None and len(newest) == KEYS and time.monotonic() - min(newest.values()) <= 1:
                    caught_up = time.monotonic() - began
        oldest = time.monotonic() - min(newest.values())
        stop.set()
        feed.join()
        assert caught_up is not None, f"the oldest of {len(newest)} values is {oldest:.1f} s old"
        print(f"trickle: after {options.trickle:.0f} s at 1 kB/s still connected; {caught_up:.2f} s after it began to read all {KEYS} keys "
              f"were at most 1 s old, 4 s after it {oldest:.2f} s; told {skipped} times what was left out", flush=True)


def main():
    print(f"load average {os.getloadavg()[0]:.1f}")
    os.sched_setaffinity(0, {1})  # Clients, too: the edge is on core 0.
    for name, measure in (("others", others), ("memory", backlog), ("trickle", trickle)):
        if name in options.only:
            measure()


main()

#!/usr/bin/python3
"""What a second io thread costs and brings: /usr/bin/python3 tests/bench/threads.py [BIN] [--pairs N] [--seconds S]

Runs come in pairs, an edge with one io thread and one with two right after each other, in turns first and second; told is
the median of the pairs' ratios. Everything is real: broker, `sigmacast publish`, sockets.

cost    1,000 clients, 100 events a second, on both cores. CPU of the edge for each delivery: two threads by one.
yield   The same machine with one core and with two. One: an edge with one thread, its broker, its feed and a process with
        1,000 clients, all on one core, 64 events in flight. Two: an edge with two threads and two such feeds and processes,
        each with a topic of its own, on both cores. Deliveries a second: two cores by one.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import threading

import script

parser = script.parser(__doc__)
parser.add_argument("--pairs", type=int, default=5)
parser.add_argument("--seconds", type=float, default=4)
parser.add_argument("--clients", type=int, default=1000)
options = script.options(parser)

import peers  # noqa: E402  (the folder of the programs has to be known first)
from compare import MESSAGE_BYTES, Clients, cpu_ns  # noqa: E402
from harness import BIN, clean_environment  # noqa: E402

CORES = sorted(os.sched_getaffinity(0))[:2]


class Feed:
    """Another `sigmacast publish`, and what its clients have to know."""

    def __init__(self, edge, topic):
        self.port, self.client, self.feed = edge.port, {**edge.client, "topic": topic}, edge.feed
        with open(edge.cluster.folder / f"{topic}.log", "wb") as log:
            self.process = subprocess.Popen(
                [str(BIN / "sigmacast"), "publish", "--config", str(edge.cluster.command_config(topic)), "--origin", topic],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log, env=clean_environment())
        self.feed_fd = self.process.stdin.fileno()

    def stop(self):
        self.process.kill()
        self.process.communicate()


def run(threads, cores, processes, command):
    """(deliveries a second, us of the edge a delivery) of so many processes of clients at once."""
    with peers.pinned(*cores), peers.an_edge(cores, cores, io_threads=threads) as edge, contextlib.ExitStack() as stack:
        feeds = [Feed(edge, f"bench{number}") for number in range(processes)]
        those = []
        for feed in feeds:
            stack.callback(feed.stop)
            those.append(stack.enter_context(
                Clients(peers, feed, options.clients, options.seconds, bytes=MESSAGE_BYTES - edge.envelope)))
        for clients in those:
            told = clients.ask("connect")
            assert not told["failed"], f"{told['failed']} clients could not connect"
        together(those, f"run 0.4 {command}")
        before = cpu_ns(edge.pids)
        told = together(those, f"run {options.seconds} {command}")
        used = cpu_ns(edge.pids) - before
        for each in told:
            assert each["delivered"] == each["expected"] and not each["gaps"] and not each["closed"], each
        return (sum(each["delivered"] / each["seconds"] for each in told),
                used / 1000 / sum(each["delivered"] for each in told))


def together(those, command):
    told = [None] * len(those)

    def ask(number):
        told[number] = those[number].ask(command)
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(those))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def pairs(name, one, two, ratio, unit):
    found = []
    for number in range(options.pairs):
        order = [one, two] if number % 2 == 0 else [two, one]
        first, second = (run(*which) for which in order)
        first, second = (first, second) if number % 2 == 0 else (second, first)
        found.append((ratio(first), ratio(second)))
        print(f"  {name}, pair {number + 1}: one {found[-1][0]:.2f}, two {found[-1][1]:.2f} {unit}, "
              f"ratio {found[-1][1] / found[-1][0]:.2f}", flush=True)
    ratios = sorted(second / first for first, second in found)
    print(f"{name}: one {statistics.median(f for f, _ in found):.2f}, two {statistics.median(s for _, s in found):.2f} {unit}; "
          f"two by one {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})", flush=True)


def main():
    if len(CORES) < 2:
        sys.exit("This takes two cores.")
    print(f"load average {os.getloadavg()[0]:.1f}")
    pairs("cost", (1, CORES, 1, "100 1"), (2, CORES, 1, "100 1"), lambda result: result[1], "us a delivery")
    pairs("yield", (1, CORES[:1], 1, "0 64"), (2, CORES, 2, "0 64"), lambda result: result[0] / 1e3, "thousand deliveries/s")


main()

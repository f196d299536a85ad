#!/usr/bin/python3
"""Whether a delivery costs the same however many clients and topics there are: /usr/bin/python3 tests/bench/scale.py [BIN]

clients    50,000 deliveries a second to 100, 1,000, 5,000 and 15,000 clients.
topics     1,000 clients, 100 events a second, which take turns over 1, 10, 100 and 1,000 topics that everybody watches (the
           last by "*").
unwatched  20,000 events as fast as they go, over 1, 100 and 1,000 topics that nobody watches: CPU of the edge for each event.

Told is the edge's CPU (user and system), the median of --runs runs, in turns; of the first of each row by ratio.
"""

import json
import os
import statistics

import script

parser = script.parser(__doc__, ("clients", "topics", "unwatched"))
parser.add_argument("--runs", type=int, default=3)
parser.add_argument("--seconds", type=float, default=4)
options = script.options(parser)

import peers  # noqa: E402  (the folder of the programs has to be known first)
from compare import MESSAGE_BYTES, Clients, cpu_ns  # noqa: E402
from harness import until  # noqa: E402

UNWATCHED = 20_000
SETTINGS = {"clients_max": 20_000, "client_subscriptions_max": 1000}


def delivery(clients, rate, topics):
    with peers.an_edge(**SETTINGS) as edge, Clients(peers, edge, clients, options.seconds, bytes=MESSAGE_BYTES - edge.envelope,
                                                    topics=topics) as those:
        told = those.ask("connect")
        assert not told["failed"], told
        those.ask(f"run 0.6 {rate} 1")
        used = cpu_ns(edge.pids)
        told = those.ask(f"run {options.seconds} {rate} 1")
        used = cpu_ns(edge.pids) - used
        assert told["delivered"] == told["expected"] and not told["gaps"], told
        return used / 1000 / told["delivered"]


def unwatched(topics):
    lines = "".join(json.dumps({"type": f"quiet.{n % topics}", "data": {"n": n, "padding": "x" * 150}}) + "\n"
                    for n in range(UNWATCHED))
    with peers.an_edge(**SETTINGS) as edge:
        used = cpu_ns(edge.pids)
        done = edge.cluster.command("publish", "--config", edge.cluster.command_config("quiet"), "--origin", "quiet", input=lines)
        assert done.returncode == 0, done.stderr
        until(lambda: edge.cluster.edge.metrics()["sigmacast_edge_pos"] >= UNWATCHED, 30, "the edge has them all")
        return (cpu_ns(edge.pids) - used) / 1000 / UNWATCHED


def row(name, unit, cases):
    """cases: [(what, function)]"""
    found = {what: [] for what, _ in cases}
    for _ in range(options.runs):
        for what, measure in cases:
            found[what].append(measure())
    first = statistics.median(found[cases[0][0]])
    for what, values in found.items():
        median = statistics.median(values)
        print(f"{name}: {what}: {median:.2f} us {unit} ({min(values):.2f} to {max(values):.2f}), {median / first:.2f} of the first",
              flush=True)


def main():
    print(f"load average {os.getloadavg()[0]:.1f}")
    os.sched_setaffinity(0, {1})  # Clients, too: the edge is on core 0.
    rows = {
        "clients": ("a delivery", [(f"{count:,} clients", lambda count=count: delivery(count, 50_000 / count, 1))
                                   for count in (100, 1000, 5000, 15_000)]),
        "topics": ("a delivery", [(f"{count:,} topics", lambda count=count: delivery(1000, 100, count)) for count in (1, 10, 100, 1000)]),
        "unwatched": ("an event", [(f"{count:,} topics", lambda count=count: unwatched(count)) for count in (1, 100, 1000)]),
    }
    for name, (unit, cases) in rows.items():
        if name in options.only:
            row(name, unit, cases)


main()

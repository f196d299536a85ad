#!/usr/bin/python3
"""The first baseline: /usr/bin/python3 tests/bench/baseline.py [BIN] [--clients N] [--seconds S]

Starts one engine (scripted), one producer, one broker and one edge from BIN (default build/release/bin), connects
sigmacast-bench-load with N WebSocket clients (default 1,000), and prints a table:

  steady    5 polls at every 50 ms, each answer a new value: 100 events a second to every client. Latency is from the
            moment before the engine's answer is written to the moment the client has read the frame.
  burst     `sigmacast publish` of 2,000 events as fast as they go: deliveries a second until the last client has them.
  start-up  from the start of each process to ready, with the others running.

CPU is user and system time of the process, from /proc/<pid>/stat. The load client shares the machine; its cost is not
in the figures, but it takes cores away from what is measured.
"""

import datetime
import json
import os
import pathlib
import platform
import tempfile
import time

import script

parser = script.parser(__doc__)
parser.add_argument("--clients", type=int, default=1000)
parser.add_argument("--seconds", type=float, default=10)
parser.add_argument("--events", type=int, default=2000)
options = script.options(parser)

from clients import PADDING, Clients, Feed  # noqa: E402  (the folder of the programs has to be known first)
from harness import Cluster, until  # noqa: E402

POLLS, INTERVAL = 5, 0.05


def usage(cluster):
    return {program.name: program.stat() for program in cluster.programs}


def cpu_between(before, after):
    return {name: after[name][0] - before[name][0] for name in before}


def show(title, rows):
    print(f"\n{title}")
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"  {name.ljust(width)}  {value}")


def steady(cluster, feed):
    with Clients(cluster.edge.port, options.clients) as clients:
        connecting = clients.ask("connect")
        clients.ask("start")
        before, began = usage(cluster), time.monotonic()
        feed.start(cluster)
        time.sleep(options.seconds)
        result, took, after = clients.ask("result"), time.monotonic() - began, usage(cluster)
        feed.stop()
    cpu = cpu_between(before, after)
    assert result["holes"] == 0 and result["closed"] == 0, result
    latency = result["latency_ms"]
    show(f"steady, {options.clients} clients, {took:.1f} s", [
        ("deliveries", f"{result['deliveries']:,} ({result['deliveries'] / took:,.0f}/s), "
                       f"{result['bytes'] / max(result['deliveries'], 1):.0f} bytes each, no holes"),
        ("latency, answer to client", f"p50 {latency['p50']:.2f} ms, p99 {latency['p99']:.2f} ms, "
                                      f"max {latency['max']:.2f} ms"),
        ("edge CPU", f"{cpu['edge0'] / max(result['deliveries'], 1) * 1e6:.2f} us a delivery, "
                     f"{cpu['edge0'] / took:.0%} of a core"),
        ("broker, producer CPU", f"{cpu['broker'] / took:.1%}, {cpu['producer0'] / took:.1%} of a core"),
        ("resident memory", ", ".join(f"{name} {rss / 2**20:.1f} MiB" for name, (_, rss) in after.items())),
        ("connecting", f"{options.clients} clients in {connecting['seconds']:.2f} s"),
    ])


def burst(cluster):
    lines = "".join(json.dumps({"type": "burst", "data": {"n": n, "padding": PADDING}}) + "\n"
                    for n in range(options.events))
    with Clients(cluster.edge.port, options.clients) as clients:
        clients.ask("connect")
        clients.ask("start")
        before, began = usage(cluster), time.monotonic()
        done = cluster.command("publish", "--config", cluster.command_config(), "--origin", "bench", input=lines,
                               timeout=120)
        published = time.monotonic() - began
        assert done.returncode == 0, done.stderr
        result = clients.ask("wait", burst=options.events)
    cpu = cpu_between(before, usage(cluster))
    assert result["holes"] == 0 and result["closed"] == 0, result
    show(f"burst, {options.events:,} events to {options.clients} clients", [
        ("deliveries", f"{result['deliveries']:,} in {result['seconds']:.2f} s: "
                       f"{result['deliveries'] / result['seconds']:,.0f}/s, no holes"),
        ("edge CPU", f"{cpu['edge0'] / result['deliveries'] * 1e6:.2f} us a delivery"),
        ("publish, to durable", f"{published:.2f} s with start and end of the process"),
        ("resident memory", f"edge {cluster.edge.stat()[1] / 2**20:.1f} MiB afterwards"),
    ])


def start_up(cluster):
    rows = []
    for program in cluster.programs:
        times = []
        for _ in range(5):
            program.kill()
            program.start(ready=False)
            times.append(program.wait_ready())
            until(lambda: all(other.is_ready() for other in cluster.programs), 20, "all are ready again")
        rows.append((program.name, f"median {sorted(times)[2] * 1000:.0f} ms of 5 "
                                   f"({min(times) * 1000:.0f} to {max(times) * 1000:.0f})"))
    show("start-up to ready, polled every 10 ms", rows)


def idle_memory(cluster):
    show("resident memory without clients", [(program.name, f"{program.stat()[1] / 2**20:.1f} MiB")
                                             for program in cluster.programs])


def main():
    processor = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    print(f"{datetime.date.today()}, {os.cpu_count()} cores {processor}, {platform.system()} {platform.release()}, "
          f"load {os.getloadavg()[0]:.1f}; programs in {pathlib.Path(options.bin).parent.name}")
    feed = Feed(POLLS / INTERVAL, 0, polls=POLLS)
    with tempfile.TemporaryDirectory() as folder, Cluster(folder, feed.engine, polls=feed.polls()) as cluster:
        idle_memory(cluster)
        steady(cluster, feed)
        burst(cluster)
        start_up(cluster)
    feed.engine.stop()


if __name__ == "__main__":
    main()

#!/usr/bin/python3
"""What the way from an engine to a client takes: /usr/bin/python3 tests/bench/pipeline.py [BIN] [--only PARTS]

rest      producer, broker and two edges, the default polls (eight, each 5 s), ten clients: CPU and memory (PSS) of all four.
start     from the start of each process to ready, with the others running; 5 times each.
latency   two polls each 20 ms, each answer a new value, to 1, 100 and 1,000 clients: from the moment before the engine writes its
          answer until a client has read the frame, with the time that a commit (fsync) takes beside it.
polls     50 polls each 50 ms: how many a second the producer makes of an engine that answers at once, and its CPU for each.
burst     200,000 events by `sigmacast publish` as fast as they go: how many a second are durable, and the broker's CPU for each.
replay    10,000 events that a client missed, from an edge that has none of them: from `subscribe` until the last one is there.
"""

import contextlib
import json
import os
import statistics
import tempfile
import time

import script

parser = script.parser(__doc__, ("rest", "start", "latency", "polls", "burst", "replay"))
parser.add_argument("--seconds", type=float, default=60, help="of rest; a sixth of it of latency and polls")
options = script.options(parser)

import peers  # noqa: E402  (the folder of the programs has to be known first)
from clients import Clients as LoadClients  # noqa: E402
from clients import Feed  # noqa: E402
from compare import MESSAGE_BYTES, Clients, cpu_ns, memory  # noqa: E402
from fault_engine import FaultEngine, ok  # noqa: E402
from harness import Cluster, until  # noqa: E402
from ws_client import V1  # noqa: E402


@contextlib.contextmanager
def a_cluster(engine, **more):
    with tempfile.TemporaryDirectory(prefix="sigmacast-bench-") as folder:
        with Cluster(folder, engine, log_level="warn", **more) as cluster:
            yield cluster


def rest():
    engine = FaultEngine().start()
    with a_cluster(engine, edges=2, interval=5, deadline=3, health=5) as cluster, contextlib.ExitStack() as stack:
        for number in range(10):
            stack.enter_context(cluster.client(V1 if number < 5 else None, edge=number % 2))
        time.sleep(6)  # A round of polls.
        before = {program.name: cpu_ns([program.process.pid]) for program in cluster.programs}
        time.sleep(options.seconds)
        used = {program.name: (cpu_ns([program.process.pid]) - before[program.name]) / 1e7 / options.seconds
                for program in cluster.programs}
        held = {program.name: memory([program.process.pid], ["Pss"]) / 2**20 for program in cluster.programs}
    engine.stop()
    print(f"rest: {sum(used.values()):.2f} % of a core (goal 1), {sum(held.values()):.1f} MiB (goal 60): "
          + ", ".join(f"{name} {used[name]:.2f} %, {held[name]:.1f} MiB" for name in used), flush=True)


def start():
    engine = FaultEngine().start()
    with a_cluster(engine) as cluster:
        for program in cluster.programs:
            times = []
            for _ in range(5):
                program.kill()
                program.start(ready=False)
                times.append(program.wait_ready() * 1000)
                until(lambda: all(other.is_ready() for other in cluster.programs), 20, "all are ready again")
            print(f"start: {program.name} {statistics.median(times):.0f} ms ({min(times):.0f} to {max(times):.0f}; goal 300)", flush=True)
    engine.stop()


def latency():
    for count in (1, 100, 1000):
        feed = Feed(100, 0, polls=2)
        with a_cluster(feed.engine, polls=feed.polls()) as cluster, LoadClients(cluster.edge.port, count) as clients:
            clients.ask("connect")
            clients.ask("start")
            before = commits(cluster)
            feed.start(cluster)
            time.sleep(options.seconds / 6)
            result = clients.ask("result")
            after = commits(cluster)
            feed.stop()
        feed.engine.stop()
        assert not result["holes"] and not result["closed"], result
        told = result["latency_ms"]
        print(f"latency: {count} clients: p50 {told['p50']:.2f}, p99 {told['p99']:.2f}, at most {told['max']:.2f} ms (goal for p99 5); "
              f"a commit {(after[0] - before[0]) / max(after[1] - before[1], 1) * 1000:.2f} ms, "
              f"{result['deliveries']:,} deliveries", flush=True)


def commits(cluster):
    metrics = cluster.broker.metrics()
    return metrics.get("sigmacast_broker_commit_seconds_total", 0), metrics["sigmacast_broker_batches_total"]


def polls():
    topics = [f"poll.{number}" for number in range(50)]
    engine = FaultEngine({topic: ok({"n": 1}) for topic in topics}).start()
    with a_cluster(engine, polls={topic: {"interval": 0.05, "deadline": 1.0} for topic in topics}) as cluster:
        time.sleep(2)
        before, began, used = calls(engine, topics), time.monotonic(), cpu_ns([cluster.producer.process.pid])
        time.sleep(options.seconds / 6)
        made, took = calls(engine, topics) - before, time.monotonic() - began
        used = cpu_ns([cluster.producer.process.pid]) - used
        closed = all(breaker["state"] == "closed" for breaker in cluster.breakers().values())
    engine.stop()
    print(f"polls: {made / took:,.0f} a second of 1,000 that were due, {used / 1000 / made:.0f} us of the producer's CPU each, "
          f"breakers {'closed' if closed else 'OPEN'}", flush=True)


def calls(engine, topics):
    return sum(engine.count(topic) for topic in topics)


def burst():
    count = 200_000
    line = json.dumps({"type": "note", "data": {"padding": "x" * 150}}) + "\n"
    with a_cluster(None, origins=()) as cluster:
        config = cluster.command_config()
        cluster.command("publish", "--config", config, input=line)
        used, before, began = cpu_ns([cluster.broker.process.pid]), commits(cluster), time.monotonic()
        done = cluster.command("publish", "--config", config, input=line * count, timeout=120)
        took = time.monotonic() - began
        assert done.returncode == 0, done.stderr
        used, after = cpu_ns([cluster.broker.process.pid]) - used, commits(cluster)
        edge = until(lambda: cluster.edge.metrics()["sigmacast_edge_pos"] >= count + 1, 30, "the edge has them")
        print(f"burst: {count / took:,.0f} durable events a second (goal 200,000) of {len(line)} bytes, publisher and broker on the "
              f"machine's cores; {used / 1000 / count:.1f} us of the broker's CPU each; {after[1] - before[1]:.0f} commits, "
              f"{after[0] - before[0]:.2f} s in them; the edge followed: {edge}", flush=True)


def replay():
    count, seconds, broker = 10_000, [], []
    cores = os.sched_getaffinity(0)
    with peers.an_edge(cores, (min(cores),)) as edge:
        for _ in range(5):
            with Clients(peers, edge, 1, 60, bytes=MESSAGE_BYTES - edge.envelope) as client:
                client.ask("connect")
                client.ask("run 0.2 50 1")
                client.ask("leave")
                before = edge.broker_counts("committed")
                client.ask(f"feed {count}")
                until(lambda: edge.broker_counts("committed") >= before + count, 30, "they are in the log")
                edge.restart(before + count)
                pid = edge.cluster.broker.process.pid
                used = cpu_ns([pid])
                told = client.ask("return 1")
                broker.append((cpu_ns([pid]) - used) / 1e6)
                assert told["delivered"] == told["expected"] and not told["gaps"], told
                seconds.append(told["seconds"] * 1000)
    print(f"replay: {count:,} events of {MESSAGE_BYTES} bytes by an edge that was started anew to its client: "
          f"{statistics.median(seconds):.0f} ms ({min(seconds):.0f} to {max(seconds):.0f}; goal 20 to the edge), of which the broker takes "
          f"{statistics.median(broker):.0f} ms of CPU", flush=True)


def main():
    print(f"load average {os.getloadavg()[0]:.1f}")
    for name in options.only:
        globals()[name]()


main()

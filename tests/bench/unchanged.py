#!/usr/bin/python3
"""What an hour of unchanged state costs a client in bytes: /usr/bin/python3 tests/bench/unchanged.py [BIN] [--seconds S]

Starts one engine (scripted, each answer as the last), one producer with the default cadence, one broker and one edge from
BIN (default build/release/bin), connects a client of each kind, all subscribed to the same topics, and counts the payload of
what comes once the state is there, pings left out. Shown are bytes scaled to an hour, and how much less than for a plain client that is.
"""

import contextlib
import pathlib
import tempfile
import time

import script

parser = script.parser(__doc__)
parser.add_argument("--seconds", type=float, default=120)
options = script.options(parser)

from fault_engine import FaultEngine, captured, ok  # noqa: E402  (the folder of the programs has to be known first)
from harness import Cluster, until  # noqa: E402
from ws_client import DEFLATE, MSGPACK, V1  # noqa: E402

KINDS = {"plain": (None, None), "v1.json": (V1, None), "v1.json, compressed": (V1, DEFLATE), "v1.msgpack": (MSGPACK, None),
         "v1.msgpack, compressed": (MSGPACK, DEFLATE)}
SETS = {"system.status alone": ["system.status"],
        "all state": ["system.status", "storage.update", "agent.status", "compression.update", "scheduler.metrics",
                      "recovery.status", "tuning.status", "breaker.status"]}


def connect(cluster, kind, topics):
    protocol, headers = KINDS[kind]
    client = cluster.client(protocol, headers=headers)
    if protocol is None:
        client.wait("notification")
        client.send({"type": "unsubscribe", "data": {"types": ["storage.update", "agent.status", "compression.update"]}})
    client.send({"type": "subscribe", "data": {"types": topics}})
    return client


def main():
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        engine = FaultEngine().start()
        engine.set("system.status", ok(captured("system_status")["result"]))  # Which counts its uptime otherwise.
        stack.callback(engine.stop)
        cluster = Cluster(pathlib.Path(folder), engine, interval=5, deadline=5)
        stack.callback(cluster.stop)
        clients = {(name, kind): stack.enter_context(connect(cluster, kind, topics))
                   for name, topics in SETS.items() for kind in KINDS}
        for client in clients.values():
            until(lambda c=client: c.of("system.status", "tick"), what="the first state")
        time.sleep(6)  # A round of polls.
        marks = {key: client.mark for key, client in clients.items()}
        time.sleep(options.seconds)
        for name in SETS:
            print(f"\n{name}")
            plain = None
            for kind in KINDS:
                got = clients[name, kind].messages[marks[name, kind]:]
                hourly = sum(m.bytes for m in got) * 3600 / options.seconds
                plain = plain or hourly
                print(f"  {kind:24} {hourly / 1e6:8.3f} MB/h   {len(got) * 3600 / options.seconds:8.0f} messages/h   "
                      f"{100 * (1 - hourly / plain):6.1f} % less")


main()

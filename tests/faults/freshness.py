"""How soon clients hear that values are old, and that they are new again: each hop broken in each way, and each two of them.

    tests/freshness                                  the whole matrix at 1,000 clients, about 15 minutes
    tests/freshness --only 'engine killed' --clients 100
    tests/freshness --only 'broker frozen + uplink garbage'

One producer asks an engine of our own, whose every answer is new and stamped; its poll is due every 0.2 s with a deadline of
0.5 s; the breakers are set so that they stay closed, since what they add is their own reset time. Every link goes through
proxy.py. For each cell: all clients are live; the fault; all clients have been told; 0.5 s; it heals; all clients are live.
The times are those of the first and the last client. common/PROMISES.md (P4) has the bounds; beyond one the command ends with 1.

Throughout, each twentieth client reads every message, and REST is asked: as_of is when the engine answered with that very
value, to 0.25 s and the slack, the same in every message of it; what is not live says why (reason, source); nothing is called live that is
older than the bound.
"""

import argparse
import asyncio
import base64
import itertools
import json
import logging
import os
import pathlib
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "integration")]

INTERVAL, DEADLINE = 0.2, 0.5
METHOD = TOPIC = "fresh.value"
SILENT = 3.0        # P4: three missed heads.
TOLD = 0.25         # P4: from then to the client.
EXACT = 0.25        # Between the engine's stamp and as_of: the answer's way to the producer; and the slack.
HOPS = ["engine", "producer", "broker", "uplink"]
KINDS = ["killed", "frozen", "partitioned", "garbage"]
# Until the last client knows, and from healing until the last client is live again.
STALE = {"engine": INTERVAL + DEADLINE + TOLD, "producer": SILENT + TOLD, "broker": SILENT + TOLD, "uplink": SILENT + TOLD}
LIVE = {"engine": INTERVAL + DEADLINE + TOLD, "producer": 2.0, "broker": 3.0, "uplink": 2.0}
SAMPLE = 20


def cells():
    single = [(f"{hop} {kind}",) for hop in HOPS for kind in KINDS]
    pairs = [(a, b) for (a,), (b,) in itertools.combinations(single, 2) if a.split()[0] != b.split()[0]]
    return single + pairs


def name_of(cell):
    return " + ".join(cell)


def bounds_of(cell):
    """The hop that is nearest to the clients decides when they hear; the slowest to return, when all is well again."""
    hops = [part.split()[0] for part in cell]
    return STALE[max(hops, key=HOPS.index)], max(LIVE[hop] for hop in hops)


class Watcher(asyncio.Protocol):
    """A v1 client of the one topic. Most look for the quality alone: a thousand of them have to fit into one process."""

    def __init__(self, world, sampled):
        self.world, self.sampled = world, sampled
        self.buffer, self.open, self.quality = b"", False, None

    def connection_made(self, transport):
        self.transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(("GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
                         "Sec-WebSocket-Protocol: sigmacast.v1.json\r\n\r\n").encode())

    def send(self, opcode, payload):
        self.transport.write(bytes([0x80 | opcode, 0x80 | len(payload)]) + b"\0\0\0\0" + payload)

    def data_received(self, data):
        self.buffer += data
        if not self.open:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self.open, self.buffer = True, rest
            self.send(1, json.dumps({"type": "subscribe", "data": {"types": [TOPIC]}}).encode())
        at = 0
        while len(self.buffer) - at >= 2:
            length, begin = self.buffer[at + 1], at + 2
            if length == 126:
                length, begin = int.from_bytes(self.buffer[at + 2:at + 4], "big"), at + 4
            if len(self.buffer) < begin + length:
                break
            self.frame(self.buffer[at] & 15, self.buffer[begin:begin + length])
            at = begin + length
        self.buffer = self.buffer[at:]

    def frame(self, opcode, payload):
        if opcode == 9:
            self.send(10, payload)
        if opcode != 1 or payload.startswith(b'{"type":"hello"'):
            return
        found = payload.find(b'"quality":"')
        if found < 0:
            return
        live = payload.startswith(b"live", found + 11)
        if live is not self.quality:
            self.quality = live
            self.world.changed(live)
        if self.sampled:
            self.world.judge(json.loads(payload), "a client")

    def connection_lost(self, _):
        self.world.wrong("a client was disconnected")


class World:
    def __init__(self, folder, clients, slack):
        from fault_engine import FaultEngine, ok
        from harness import Cluster
        from ports import free_port
        from proxy import Proxy
        self.stamps, self.as_of, self.problems, self.oldest_live = {}, {}, [], 0.0
        self.clients, self.turned, self.exact = clients, [], EXACT + slack
        self.watchers, self.asking = [], None
        self.good = ok(self.answer)
        self.engine = FaultEngine({METHOD: self.good, "health.check": ok({"status": "ok"})}).start()
        self.links, self.shown = {}, {}
        world = self

        class Proxied(Cluster):
            def _text(self, kind, program, *more):
                text = super()._text(kind, program, *more)
                for real, shown in world.shown.get(program.name, {}).items():
                    text = text.replace(real, shown)
                return text

        self.cluster = Proxied(folder, self.engine, polls={METHOD: {}}, interval=INTERVAL, deadline=DEADLINE,
                               failures=1000, start=False, edge_options={"clients_per_address_max": 0})
        producer, edge = self.cluster.producer.name, self.cluster.edge.name
        for hop, program, address in [("engine", producer, f"127.0.0.1:{self.engine.port}"),
                                      ("ingest", producer, self.cluster.ingest), ("hello", producer, self.cluster.repair),
                                      ("feed", edge, self.cluster.feed), ("repair", edge, self.cluster.repair)]:
            to = int(address.rsplit(":", 1)[1])
            self.links[hop] = Proxy(hop, to, free_port())
            self.shown.setdefault(program, {})[f"127.0.0.1:{to}"] = f"127.0.0.1:{self.links[hop].port}"

    # Truth ------------------------------------------------------------------------------------------------------------
    def answer(self, _params):
        number = len(self.stamps) + 1
        self.stamps[number] = time.time()
        return {"n": number}

    def wrong(self, what):
        if what not in self.problems:
            self.problems.append(what)

    def changed(self, live):
        self.turned.append((time.monotonic(), live))

    def judge(self, message, where):
        """A message of a client's, or a value of REST's."""
        from harness import parse_time
        quality = message["quality"]
        said = f"{where} was told {json.dumps(message)[:400]}"
        if quality != "live" and not (message.get("reason") and message.get("source")):
            self.wrong("not live, and no reason or source: " + said)
        if message.get("source") == "engine" and not message.get("retry_at"):
            self.wrong("the engine fails, and no retry_at: " + said)
        if message["type"] != TOPIC:
            return
        number, as_of = message["data"]["n"], parse_time(message["as_of"])
        if not -0.002 <= as_of - self.stamps[number] <= self.exact:
            self.wrong(f"as_of is {as_of - self.stamps[number]:+.3f} s from the engine's answer: {said}")
        if self.as_of.setdefault(number, message["as_of"]) != message["as_of"]:
            self.wrong(f"as_of of one value changed from {self.as_of[number]}: {said}")
        aged = parse_time(message["timestamp"]) - as_of
        if abs(aged - message["age_ms"] / 1000) > self.exact:
            self.wrong(f"age_ms is {message['age_ms'] / 1000 - aged:+.3f} s from as_of: {said}")
        if quality == "live":
            self.oldest_live = max(self.oldest_live, time.time() - self.stamps[number])

    # Faults -----------------------------------------------------------------------------------------------------------
    def links_of(self, hop):
        return {"engine": ["engine"], "producer": ["ingest", "hello"], "uplink": ["feed", "repair"],
                "broker": ["ingest", "hello", "feed", "repair"]}[hop]

    def set_links(self, cell):
        from proxy import DOWN, UP
        settings = {name: {} for name in self.links}
        for hop, kind in (part.split() for part in cell):
            speaks = {"producer": {UP}, "broker": {DOWN}, "uplink": {UP, DOWN}}.get(hop)
            for name in self.links_of(hop):
                if kind == "partitioned":
                    settings[name]["holes"] = {UP, DOWN}
                elif kind == "garbage" and speaks:
                    settings[name]["garbage"] = settings[name].get("garbage", set()) | speaks
                elif hop == "uplink" and kind == "killed":
                    settings[name]["refuse"] = True
                elif hop == "uplink" and kind == "frozen":
                    settings[name]["rate"] = 1
        for name, proxy in self.links.items():
            changed = bool(proxy.garbage) and not settings[name].get("garbage")
            proxy.set(**settings[name])
            if settings[name].get("refuse") or changed:
                proxy.cut()  # Who talked garbage comes back with a new connection.

    def apply(self, cell):
        from fault_engine import garbage, hang
        self.set_links(cell)
        for hop, kind in (part.split() for part in cell):
            program = {"producer": self.cluster.producer, "broker": self.cluster.broker}.get(hop)
            if program and kind in ("killed", "frozen"):
                {"killed": program.kill, "frozen": program.freeze}[kind]()
            elif hop == "engine" and kind == "killed":
                self.engine.refuse()
            elif hop == "engine" and kind != "partitioned":
                self.engine.set(METHOD, {"frozen": hang, "garbage": garbage}[kind]())

    def heal(self, cell):
        self.set_links(())
        for hop, kind in (part.split() for part in cell):
            program = {"producer": self.cluster.producer, "broker": self.cluster.broker}.get(hop)
            if program and kind == "killed":
                program.start(ready=False)
            elif program and kind == "frozen":
                program.thaw()
            elif hop == "engine":
                self.engine.set(METHOD, self.good)
                self.engine.listen()

    # The run ----------------------------------------------------------------------------------------------------------
    async def start(self):
        from harness import PATIENCE
        self.patience = PATIENCE
        loop = asyncio.get_running_loop()
        for proxy in self.links.values():
            await proxy.start()
        await loop.run_in_executor(None, self.cluster.start)
        self.watchers = [Watcher(self, number % SAMPLE == 0) for number in range(self.clients)]
        for watcher in self.watchers:
            await loop.create_connection(lambda watcher=watcher: watcher, "127.0.0.1", self.cluster.edge.port)
        self.asking = loop.create_task(self.ask())
        assert await self.until(lambda: self.all(True), 30), "not all clients became live"

    def all(self, live):
        return all(watcher.quality is live for watcher in self.watchers)

    async def until(self, condition, seconds):
        end = time.monotonic() + seconds * self.patience
        while not condition():
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0.02)
        return True

    async def ask(self):
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0.3)
            state = await loop.run_in_executor(None, self.cluster.state)
            for value in state["values"]:
                if value["type"] == TOPIC:
                    self.judge(value, "REST")
            for source in state["sources"]:
                if source["quality"] != "live" and not (source.get("reason") and source.get("source")):
                    self.wrong(f"a source is not live and says not why: {source}")

    async def run(self, cell):
        """{first, last, back_first, back_last}: seconds; what is missing did not happen in time."""
        await asyncio.sleep(1.2)  # A head has passed: the last one was at most a second ago.
        self.turned, self.oldest_live = [], 0.0
        began = time.monotonic()
        self.apply(cell)
        told = await self.until(lambda: self.all(False), 12)
        stale = [at - began for at, live in self.turned if not live]
        found = {"cell": name_of(cell), "oldest_live": round(self.oldest_live, 2)}
        if told:
            found.update(first=round(min(stale), 2), last=round(max(stale), 2))
        await asyncio.sleep(0.5)
        self.turned = []
        began = time.monotonic()
        self.heal(cell)
        if await self.until(lambda: self.all(True), 25):
            live = [at - began for at, live in self.turned if live]
            found.update(back_first=round(min(live), 2), back_last=round(max(live), 2))
        return found

    async def stop(self):
        if self.asking:
            self.asking.cancel()
        for watcher in self.watchers:
            watcher.connection_lost = lambda _: None
            watcher.transport.abort()
        self.cluster.stop()
        for proxy in self.links.values():
            await proxy.stop()
        self.engine.stop()


def faults_of(found, slack):
    stale, live = bounds_of(found["cell"].split(" + "))
    wrong = []
    if found.get("last", 99) > stale + slack:
        wrong.append(f"the last client was told after {found.get('last', 'more than 12')} s, {stale:.2f} are promised")
    if found.get("back_last", 99) > live + slack:
        wrong.append(f"the last client was live after {found.get('back_last', 'more than 25')} s, {live:.2f} are promised")
    if found["oldest_live"] > stale + slack:
        wrong.append(f"a value was called live at {found['oldest_live']} s, {stale:.2f} are promised")
    return wrong


async def measure(folder, chosen, clients, slack, show=print):
    """The rows, and what is wrong."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # That a connection is gone is the point of it.
    world = World(folder, clients, slack)
    rows, wrong = [], []
    try:
        await world.start()
        for cell in chosen:
            found = await world.run(cell)
            rows.append(found)
            late = faults_of(found, slack)
            wrong += [f"{found['cell']}: {what}" for what in late]
            wrong += [f"{found['cell']}: {what}" for what in world.problems]
            world.problems.clear()
            show(json.dumps({**found, "late": late} if late else found))
            if "back_last" not in found:
                break
    finally:
        await world.stop()
    return rows, wrong


def table(rows):
    """One row a pair of hops, worst of its cells; and each single fault."""
    lines = ["| fault | cells | told: first client | told: last client | promised | live again: last client | promised |",
             "|---|---|---|---|---|---|---|"]
    groups = {}
    for row in rows:
        parts = row["cell"].split(" + ")
        label = row["cell"] if len(parts) == 1 else " and ".join(part.split()[0] for part in parts) + ", each way"
        groups.setdefault(label, []).append(row)

    def span(name, members):
        numbers = [member[name] for member in members if name in member]
        low, high = min(numbers, default=0), max(numbers, default=0)
        return f"{low:.2f} s" if low == high else f"{low:.2f} - {high:.2f} s"
    for label, members in groups.items():
        stale, live = (max(bound) for bound in zip(*(bounds_of(m["cell"].split(" + ")) for m in members)))
        lines.append(f"| {label} | {len(members)} | {span('first', members)} | {span('last', members)} | {stale:.2f} s | "
                     f"{span('back_last', members)} | {live:.2f} s |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(prog="tests/freshness", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--only", action="append", help="a cell, or a part of its name; may come several times")
    parser.add_argument("--single", action="store_true", help="without the pairs")
    parser.add_argument("--bin", default="build/release/bin", help="folder of the programs")
    parser.add_argument("--slack", type=float, default=0.25, help="seconds that this machine may add to each bound")
    parser.add_argument("--out", type=pathlib.Path, help="file for the rows, as JSON lines")
    arguments = parser.parse_args()
    os.environ.setdefault("SIGMACAST_BIN", arguments.bin)
    chosen = [cell for cell in cells() if (len(cell) == 1 or not arguments.single) and
              (not arguments.only or any(part in name_of(cell) for part in arguments.only))]

    def show(line):
        print(line, flush=True)
        if arguments.out:
            with open(arguments.out, "a") as file:
                file.write(line + "\n")
    with tempfile.TemporaryDirectory() as folder:
        rows, wrong = asyncio.run(measure(folder, chosen, arguments.clients, arguments.slack, show))
    print("\n" + table(rows) + "\n")
    for line in wrong:
        print("WRONG", line)
    raise SystemExit(1 if wrong or len(rows) < len(chosen) else 0)

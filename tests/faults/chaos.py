"""Chaos: the real programs under faults at random from a seed, and an independent checker. README.md says what is held.

Two engines, two producers, a broker, three edges, `sigmacast publish`, and a hundred clients, with a proxy in every hop. In
rounds: faults that overlap, then healing, then every client must have all that it was promised: the engines' last answers,
live; each event of the broker's log. Written to --out: report.md, result.json, faults.jsonl, and of a failure the last
messages of the client, the programs' logs and the database.
"""

import argparse
import asyncio
import collections
import datetime
import json
import logging
import math
import os
import pathlib
import random
import shutil
import signal
import sys
import time

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
INTERVAL, DEADLINE, RESET, PING = 0.1, 0.4, 1.0, 1.0
ORIGINS = ("nas", "lab")
NOTES = "note.made"
ROUND = 40            # Faults between two healings.
BETWEEN = 0.2         # Seconds from fault to fault, on average; they last up to LONGEST.
SHORTEST, LONGEST = 0.05, 6.0
CONVERGE = 15.0       # Seconds from healing until every client has everything, live.
BATCH, BATCH_EVERY = 10, 0.5  # Notes that one `sigmacast publish` makes, and the pause after it.

WEIGHTS = {"kill": 16, "freeze": 16, "terminate": 4, "cut": 14, "refuse": 5, "delay": 10, "hole": 16, "slow": 6,
           "engine": 12, "engine_gone": 3}


class Unlucky(Exception):
    """The target of a fault is not there to be hurt."""


def options_of(arguments=None):
    parser = argparse.ArgumentParser(description="Kills, freezes, cuts and delays every part at random, and checks what each "
                                     "client was told.", epilog="Ends with 0 when everything held, 1 when something did not.")
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None, help="of the faults (default: of the clock; printed)")
    parser.add_argument("--clients", type=int, default=102)
    parser.add_argument("--edges", type=int, default=3)
    parser.add_argument("--only", help="kinds of faults, with commas: " + ", ".join(WEIGHTS))
    parser.add_argument("--strict", action="store_true", help="events that were lost and told count as failures, too")
    parser.add_argument("--out", help="folder of the results (default: build/chaos/DATE-SEED)")
    parser.add_argument("--bin", default=os.environ.get("SIGMACAST_BIN") or str(PROJECT / "build" / "release" / "bin"),
                        help="folder of the programs")
    parser.add_argument("--keep", action="store_true", help="keep logs and database of a run without failure, too")
    options = parser.parse_args(arguments)
    options.seed = options.seed if options.seed is not None else int(time.time()) % 1_000_000
    options.out = pathlib.Path(options.out or PROJECT / "build" / "chaos" / (
        datetime.datetime.now().strftime("%Y%m%d-%H%M%S") + f"-{options.seed}")).resolve()
    options.bin = str(pathlib.Path(options.bin).resolve())
    if not (pathlib.Path(options.bin) / "sigmacast-broker").exists():
        parser.error(f"no sigmacast-broker in {options.bin}: build first, or say --bin")
    unknown = set((options.only or "kill").split(",")) - set(WEIGHTS)
    if unknown:
        parser.error(f"no such faults: {', '.join(sorted(unknown))}")
    return options


def main(arguments=None):
    options = options_of(arguments)
    os.environ["SIGMACAST_BIN"] = options.bin
    sys.path.insert(0, str(PROJECT / "tests" / "integration"))
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
    options.out.mkdir(parents=True, exist_ok=True)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # A write to a connection that was cut is no news here.
    chaos = Chaos(options)
    try:
        asyncio.run(chaos.run())
    except KeyboardInterrupt:
        chaos.judge.wrong("interrupted", "the run", f"after {sum(chaos.done.values())} faults")
    finally:
        chaos.cluster.stop()
    return chaos.report()


class Chaos:
    def __init__(self, options):
        import checker
        import chaos_engine
        from harness import PATIENCE
        self.options, self.patience = options, PATIENCE
        self.rng = random.Random(options.seed)
        # Where nothing but the engine fails, the broker alone judges, and no second bound is added to its own.
        uplink = 0.0 if options.only and set(options.only.split(",")) <= {"engine", "engine_gone"} else 3.0
        self.rules = checker.Rules(interval=INTERVAL, uplink=uplink, ping=PING, slack=1.0 * PATIENCE)
        self.engines = {origin: chaos_engine.ChaosEngine(origin, DEADLINE, 0.05 * PATIENCE, jobs=origin == ORIGINS[0])
                        for origin in ORIGINS}
        self.judge = checker.Judge(self.engines, self.rules)
        self.judge.on_problem = lambda what: print(f"{datetime.datetime.now():%H:%M:%S} {what[:600]}", flush=True)
        self.methods = list(chaos_engine.KINDS)
        self.down, self.frozen = set(), {}
        self.active = collections.defaultdict(list)  # proxy: settings of the faults that are on
        self.done = collections.Counter()
        self.faults = open(options.out / "faults.jsonl", "w", encoding="utf-8")
        self.converged = []
        self.published = self.acknowledged = 0
        self.acked, self.noted = set(), set()
        self.publishing, self.publisher, self.busy = True, None, False
        self.lag = 0.0
        self.cluster, self.links = self._make_cluster()
        self.began = time.time()

    # The system -------------------------------------------------------------------------------------------------------
    def _make_cluster(self):
        from chaos_engine import FAST, JOBS, SLOW
        from harness import Cluster
        from ports import free_port
        from proxy import Proxy
        links = {}    # program's name: {address it would use: address of the proxy}
        self.proxies = {}

        class Proxied(Cluster):
            def _text(self, kind, program, *more):
                text = super()._text(kind, program, *more)
                for real, shown in links.get(program.name, {}).items():
                    text = text.replace(real, shown)
                return text

            def command_config(self, name="command"):
                path = super().command_config(name)
                text = path.read_text()
                for real, shown in links.get(name, {}).items():
                    text = text.replace(real, shown)
                path.write_text(text)
                return path

        servers = [engine.server for engine in self.engines.values()]
        cluster = Proxied(self.options.out / "cluster", engines=servers, origins=ORIGINS, edges=self.options.edges,
                          polls={FAST: {}, SLOW: {}, JOBS: {}}, interval=INTERVAL, deadline=DEADLINE, reset=RESET,
                          failures=3, health=0.3, start=False,
                          edge_options={"heartbeat_interval": f"{round(PING * 1000)}ms", "client_queue_bytes_max": 262144})

        def hop(program, what, address):
            to = int(address.rsplit(":", 1)[1].split("/")[0])
            proxy = Proxy(f"{program} {what}", to, free_port())
            self.proxies[proxy.name] = proxy
            links.setdefault(program, {})[f"127.0.0.1:{to}"] = f"127.0.0.1:{proxy.port}"
            return proxy

        for program, server in zip(cluster.producers, servers):
            hop(program.name, "engine", f"127.0.0.1:{server.port}")
            hop(program.name, "ingest", cluster.ingest)
            hop(program.name, "repair", cluster.repair)
        for edge in cluster.edges:
            hop(edge.name, "feed", cluster.feed)
            hop(edge.name, "repair", cluster.repair)
            edge.proxy = Proxy(f"{edge.name} clients", edge.port, free_port())
            self.proxies[edge.proxy.name] = edge.proxy
        hop("publish", "ingest", cluster.ingest)
        hop("publish", "repair", cluster.repair)
        return cluster, links

    async def run(self):
        from clients import Crowd
        self.loop = asyncio.get_running_loop()
        for proxy in self.proxies.values():
            await proxy.start()
        await self.loop.run_in_executor(None, self.cluster.start)
        # Of three clients one goes through the edge's proxy, the others straight to it.
        addresses = [[edge.proxy.port, edge.port, edge.port] for edge in self.cluster.edges]
        self.crowd = Crowd(self.judge, addresses, self.options.clients, random.Random(self.options.seed + 1), [NOTES])
        self.crowd.start()
        background = [self.loop.create_task(task) for task in (self._keep(), self._publish(), self._measure_lag())]
        try:
            await self._heal(first=True)
            while (count := sum(self.done.values())) < self.options.faults:
                await self._round(min(ROUND, self.options.faults - count))
                if not await self._heal():
                    break
        finally:
            self.crowd.stop()
            if self.publisher is not None and self.publisher.returncode is None:
                self.publisher.kill()
            for task in background:
                task.cancel()
            for proxy in self.proxies.values():
                await proxy.stop()
            for engine in self.engines.values():
                engine.server.stop()

    async def _measure_lag(self):
        while True:
            before = self.loop.time()
            await asyncio.sleep(0.05)
            self.lag = max(self.lag, self.loop.time() - before - 0.05)

    async def _keep(self):
        """The supervisor: what ended by itself is a failure, and started again."""
        while True:
            await asyncio.sleep(0.05)
            for program in self.cluster.programs:
                if program not in self.down and program.process.poll() is not None:
                    self.judge.wrong("ended", program.name, f"it ended by itself with {program.process.returncode}",
                                     program.log().splitlines()[-40:])
                    program.start(ready=False)

    # Events -----------------------------------------------------------------------------------------------------------
    async def _publish(self):
        from harness import BIN, clean_environment
        config = self.cluster.command_config("publish")
        while True:
            if not self.publishing:
                await asyncio.sleep(0.05)
                continue
            self.busy = True
            numbers = range(self.published + 1, self.published + BATCH + 1)
            self.published += BATCH
            lines = "".join(json.dumps({"type": NOTES, "data": {"n": number}}) + "\n" for number in numbers)
            self.publisher = await asyncio.create_subprocess_exec(
                str(BIN / "sigmacast"), "publish", "--config", str(config), "--origin", "notes",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
                env=clean_environment(), cwd=self.cluster.folder)
            _, said = await self.publisher.communicate(lines.encode())
            if self.publisher.returncode == 0:
                self.acked.update(numbers)
            else:
                self.judge.ended("notes")
            if self.publisher.returncode not in (0, -signal.SIGKILL):
                self.judge.counts["publish: not durable in its time"] += 1
                self.judge.counts["publish said: " + said.decode().strip().splitlines()[-1][:150]] += 1
            self.publisher, self.busy = None, False
            await asyncio.sleep(BATCH_EVERY if not self.crowd.calm else 0)

    # Faults -----------------------------------------------------------------------------------------------------------
    def _plan(self):
        """The next fault: all that is random about it comes from the seed, whatever the programs do."""
        rng = self.rng
        kinds = self.options.only.split(",") if self.options.only else list(WEIGHTS)
        kind = rng.choices(kinds, [WEIGHTS[each] for each in kinds])[0]
        length = math.exp(rng.uniform(math.log(SHORTEST), math.log(LONGEST)))
        programs = [*self.cluster.programs, "publish"]
        return {"kind": kind, "wait": rng.expovariate(1 / BETWEEN), "seconds": round(length, 3),
                "program": rng.choices(programs, [2] + [1] * (len(programs) - 1))[0],
                "proxy": rng.choice(list(self.proxies.values())), "way": rng.choice([("up",), ("down",), ("up", "down")]),
                "delay": rng.uniform(0.01, 0.6), "rate": math.exp(rng.uniform(math.log(2_000), math.log(60_000))),
                "cut": rng.random() < 0.5, "engine": rng.choice(ORIGINS), "how": rng.choice(self.methods),
                "method": rng.choice(["*", "*", "chaos.fast", "chaos.slow", "compression.queue.running"])}

    async def _round(self, count):
        self.crowd.calm, self.publishing = False, True
        for engine in self.engines.values():
            engine.hold(False)
        target = sum(self.done.values()) + count
        under_way = set()
        while sum(self.done.values()) < target:
            fault = self._plan()
            await asyncio.sleep(fault["wait"] * self.patience)
            try:
                ending, told = getattr(self, "_" + fault["kind"])(fault)
            except Unlucky:
                continue
            self.done[fault["kind"]] += 1
            self.faults.write(json.dumps({"at": round(time.time(), 3), "number": sum(self.done.values()),
                                          "kind": fault["kind"], "seconds": fault["seconds"], **told}) + "\n")
            task = self.loop.create_task(self._later(fault["seconds"], ending))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        if under_way:
            await asyncio.wait(under_way)

    @staticmethod
    async def _later(wait, ending):
        await asyncio.sleep(wait)
        ending()

    def _victim(self, fault):
        """(a process that runs, its name, its program or None)."""
        program = fault["program"]
        if program == "publish":
            if self.publisher is None or self.publisher.returncode is not None:
                raise Unlucky
            return self.publisher, "publish", None
        if program in self.down:
            raise Unlucky
        return program.process, program.name, program

    def _kill(self, fault):
        process, name, program = self._victim(fault)
        process.send_signal(signal.SIGKILL)
        return self._gone(process, program, fault, {"program": name})

    def _terminate(self, fault):
        process, name, program = self._victim(fault)
        if program is None or process.pid in self.frozen:
            raise Unlucky
        process.terminate()
        return self._gone(process, program, fault, {"program": name})

    def _gone(self, process, program, fault, told):
        if program is None:
            return (lambda: None), told
        if hasattr(program, "origin"):
            self.judge.ended(program.origin)
        self.down.add(program)

        def again():
            if process.poll() is None:  # Told to end, and not there yet.
                if time.monotonic() > patience:
                    self.judge.wrong("ended", program.name, "it did not end within 15 s of SIGTERM")
                    process.kill()
                self.loop.call_later(0.02, again)
                return
            if process.returncode not in (0, -signal.SIGKILL, -signal.SIGTERM):  # The last: before it heeds signals.
                self.judge.wrong("ended", program.name, f"told to end, it ended with {process.returncode}",
                                 program.log().splitlines()[-40:])
            program.start(ready=False)
            self.down.discard(program)
        patience = time.monotonic() + 15 * self.patience
        fault["seconds"] = min(fault["seconds"], 3.0)
        return again, told

    def _freeze(self, fault):
        process, name, _ = self._victim(fault)
        if process.pid in self.frozen:
            raise Unlucky
        self.frozen[process.pid] = process
        process.send_signal(signal.SIGSTOP)

        def thaw():
            self.frozen.pop(process.pid)
            if process.returncode is None:
                try:
                    process.send_signal(signal.SIGCONT)
                except ProcessLookupError:
                    pass
        return thaw, {"program": name}

    def _link(self, fault, settings):
        proxy = fault["proxy"]
        self.active[proxy].append(settings)
        self._apply(proxy)

        def heal():
            self.active[proxy].remove(settings)
            if fault["cut"] and settings.get("holes"):
                proxy.cut()  # What was held back is lost, instead of late.
            self._apply(proxy)
        return heal, {"proxy": proxy.name, **{name: list(value) if name == "holes" else value
                                              for name, value in settings.items()}}

    def _apply(self, proxy):
        on = self.active[proxy]
        proxy.set(delay=max([each.get("delay", 0) for each in on], default=0),
                  rate=min([each["rate"] for each in on if "rate" in each], default=None),
                  holes={way for each in on for way in each.get("holes", ())},
                  refuse=any("refuse" in each for each in on))

    def _cut(self, fault):
        fault["proxy"].cut()
        fault["seconds"] = 0.0
        return (lambda: None), {"proxy": fault["proxy"].name}

    def _refuse(self, fault):
        fault["proxy"].cut()
        return self._link(fault, {"refuse": True})

    def _delay(self, fault):
        return self._link(fault, {"delay": fault["delay"]})

    def _hole(self, fault):
        return self._link(fault, {"holes": fault["way"]})

    def _slow(self, fault):
        return self._link(fault, {"rate": fault["rate"]})

    def _engine(self, fault):
        engine, method = self.engines[fault["engine"]], fault["method"]
        if method != "*" and method not in engine.good:
            raise Unlucky
        engine.misbehave(fault["how"], method)
        return (lambda: engine.behave(method)), {"engine": engine.origin, "method": method, "how": fault["how"]}

    def _engine_gone(self, fault):
        server = self.engines[fault["engine"]].server
        server.refuse()
        return server.listen, {"engine": fault["engine"]}

    # Healing ----------------------------------------------------------------------------------------------------------
    async def _heal(self, first=False):
        """All faults are over: true when every client has everything within its time."""
        self.crowd.calm = True
        for engine in self.engines.values():
            engine.hold()
        while self.down:
            await asyncio.sleep(0.02)
        while first and not all(watch.answered for watch in self.crowd.watches):
            await asyncio.sleep(0.02)
        healed = time.monotonic()
        limit = (30 if first else CONVERGE) * self.patience
        self.publishing = False
        while self.busy and time.monotonic() - healed < limit:
            await asyncio.sleep(0.02)
        last = await self._sentinel(limit)
        final = {(origin, *key): number for origin, engine in self.engines.items()
                 for key, number in engine.final().items()}
        lacking = {}
        while True:
            lacking = {watch.name: lack for watch in self.crowd.watches if (lack := watch.lacks(final, {NOTES: last}))}
            if not lacking or time.monotonic() - healed > limit:
                break
            await asyncio.sleep(0.02)
        took = time.monotonic() - healed
        if lacking:
            name, lack = sorted(lacking.items())[0]
            watch = next(each for each in self.crowd.watches if each.name == name)
            self.judge.wrong("converge", name, f"{len(lacking)} clients do not have everything {limit:.0f} s after all was "
                             f"healed; {name} lacks {lack}; others: {dict(list(lacking.items())[1:4])}",
                             [f"{at:.3f} {raw[:400]}" for at, raw in watch.trace])
        elif not first:
            self.converged.append(took)
        await self._compare(last)
        print(f"{datetime.datetime.now():%H:%M:%S} {sum(self.done.values())} faults, healed in {took:.1f} s, "
              f"{sum(watch.messages for watch in self.crowd.watches)} messages, {self.judge.problem_count} problems", flush=True)
        return not lacking and self.judge.problem_count < 10_000

    async def _sentinel(self, limit):
        """One more batch, after all that was published: whoever has its last note has them all."""
        first = self.published
        self.publishing = True
        end = time.monotonic() + limit
        while time.monotonic() < end and not (self.published > first and not self.busy):
            await asyncio.sleep(0.02)
            if self.published > first:
                self.publishing = False
        self.publishing = False
        if self.published not in self.acked:
            self.judge.wrong("converge", "publish", "nothing becomes durable, though all is healed")
        return self.published

    async def _compare(self, last):
        judge = self.judge
        process = await asyncio.create_subprocess_exec(
            str(pathlib.Path(self.options.bin) / "sigmacast"), "log", str(self.cluster.database), "--json", "--from",
            str(judge.last_pos + 1), "--limit", "1000000", stdout=asyncio.subprocess.PIPE, limit=1 << 26)
        text, _ = await process.communicate()
        rows = [json.loads(line) for line in text.splitlines()]
        judge.rows(rows)
        horizon = 0
        for row in rows:
            if row["type"] != NOTES or row["kind"] != "event":
                continue
            number = row["data"]["n"]
            if number in self.noted:
                judge.wrong("log", "the log", f"note {number} is in it twice")
            if self.noted and number < max(self.noted):
                judge.wrong("log", "the log", f"note {number} after {max(self.noted)}")
            self.noted.add(number)
            if number == last:
                horizon = row["pos"]
        if missing := self.acked - self.noted:
            judge.wrong("durable", "the log", f"notes were acknowledged and are not in it: {sorted(missing)[:20]}")
        if horizon:
            await self._bookmarked(horizon)
            for watch in self.crowd.watches:
                watch.settled(horizon)

    async def _bookmarked(self, horizon):
        """Each client that asks was told that it has all up to there: streams that an edge repairs come after the last note."""
        end = time.monotonic() + CONVERGE * self.patience
        asking = [client.watch for client in self.crowd.clients if client.pings]
        while (behind := [watch for watch in asking if watch.bookmark() < horizon]) and time.monotonic() < end:
            await asyncio.sleep(0.02)
        for watch in behind:
            watch.wrong("converge", f"its bookmark is {watch.bookmark()}, and the log has {horizon}")

    # The report -------------------------------------------------------------------------------------------------------
    def report(self):
        judge, out, options = self.judge, self.options.out, self.options
        self.faults.close()
        counts = judge.counts
        if options.strict and (counts["events lost, told"] or counts["gap rows"]):
            judge.wrong("strict", "clients", f"{counts['events lost, told']} events were lost, and told")
        times = sorted(self.converged)
        result = {
            "seed": options.seed, "faults": sum(self.done.values()), "kinds": dict(self.done), "clients": options.clients,
            "seconds": round(time.time() - self.began), "rounds": len(times), "problems": judge.problem_count,
            "healed_median_s": round(times[len(times) // 2], 2) if times else None,
            "healed_worst_s": round(times[-1], 2) if times else None,
            "messages": sum(watch.messages for watch in self.crowd.watches),
            "connections": sum(client.connections for client in self.crowd.clients),
            "notes_acknowledged": len(self.acked), "oldest_live_s": round(judge.oldest_live, 3),
            "live_bound_s": self.rules.live, "age_error_ms": round(judge.age_error * 1000, 1),
            "driver_lag_s": round(self.lag, 3), "counts": dict(sorted(counts.items())),
        }
        (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
        lines = [f"# Chaos, seed {options.seed}: {'nothing wrong' if not judge.problem_count else 'FAILED'}", "",
                 *[f"- {name}: {value}" for name, value in result.items() if name != "counts"], "", "## Counted", "",
                 *[f"- {name}: {value}" for name, value in result["counts"].items()]]
        for number, problem in enumerate(judge.problems):
            lines += ["", f"## Problem {number}: {problem['rule']}, {problem['who']}, at {problem['at']:.3f}", "",
                      problem["what"]]
            if problem["trace"]:
                (out / f"problem{number}.txt").write_text(problem["what"] + "\n\n" + "\n".join(problem["trace"]) + "\n")
        (out / "report.md").write_text("\n".join(lines) + "\n")
        if not judge.problem_count and not options.keep:
            shutil.rmtree(out / "cluster", ignore_errors=True)
        print("\n".join(lines[:60]))
        print(f"\n{result['faults']} faults, seed {options.seed}: {judge.problem_count} problems; {out}")
        return 1 if judge.problem_count else 0

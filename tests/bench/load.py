"""The load test and the soak: tests/load and tests/soak are this with different rows. See README.md.

Each row starts the programs anew with a scripted engine, and then: samples before any client; all clients connect, and are
told new values and events for the row's minutes; the feed stops, and each client must have got all of it; all leave; as many
come again. verdict.py says what was wrong. Written to the folder of --out: samples.jsonl as it goes, result.json and
report.md and report.svg after each row, the programs' logs.
"""

import argparse
import datetime
import http.client
import json
import os
import pathlib
import platform
import queue
import resource
import shutil
import signal
import sys
import time

import report
from verdict import LIMITS, judge

HERE = pathlib.Path(__file__).resolve().parent
PROJECT = HERE.parent.parent

ROWS = {  # name: clients, minutes, new values and events a second
    "10": {"clients": 10, "minutes": 5, "values": 0.4, "events": 1},
    "1000": {"clients": 1000, "minutes": 5, "values": 50, "events": 50},
    "10000": {"clients": 10_000, "minutes": 5, "values": 2.5, "events": 2.5, "limits": {"p99_ms": 1000}},
    "pings": {"clients": 100, "minutes": 25, "values": 0.4, "events": 1},
}
# Memory is not held to a megabyte within seconds: the first messages of each kind are in them.
QUICK_LIMITS = {"growth_mib": 8, "again_mib": 8, "p99_ms": 2000, "younger_ms": 1000}
QUICK = {
    "10": {"clients": 10, "minutes": 2 / 60, "values": 10, "events": 10, "limits": QUICK_LIMITS},
    "200": {"clients": 200, "minutes": 2 / 60, "values": 20, "events": 20, "limits": QUICK_LIMITS},
    "1000": {"clients": 1000, "minutes": 2 / 60, "values": 10, "events": 10, "limits": QUICK_LIMITS},
    "pings": {"clients": 40, "minutes": 4 / 60, "values": 10, "events": 10, "churn": 5, "ping": "1s",
              "limits": QUICK_LIMITS},
}
DATABASE_MIB = 24  # Empty: its journal, and the room that it keeps for a full disk.
MESSAGE_BYTES = 1024  # In the database, at most, with its place in the indexes.

# What a run without a failure never counts.
ZERO = [f"sigmacast_{program}_{name}_total" for program, names in {
    "edge": "no_pong dropped_clients conflated client_errors not_encodable too_large not_kept gaps lost unreadable "
            "upstream_overflow refused unauthorized",
    "broker": "unreadable dropped refused_batches refused_values left_out gaps lost conflicts bus_dropped",
}.items() for name in names.split()]


class Interrupted(Exception):
    pass


class Watch:
    """Samples of a cluster's processes, as verdict.py reads them."""

    def __init__(self, cluster, feed, out, name, began):
        self.cluster, self.feed, self.out, self.name, self.began = cluster, feed, out, name, began
        self.samples = []
        self.clients = None
        self._last = {"clients": 0, "counters": {}, "younger_ms": 0}

    def take(self, phase):
        intervals = self.clients.intervals if self.clients else []
        newest = intervals[-1] if intervals else {}
        self.samples.append({
            "row": self.name, "t": round(time.monotonic() - self.began, 3), "phase": phase, **self._answers(),
            "latency_ms": newest.get("latency_ms", {}), "deliveries": newest.get("deliveries", 0),
            "programs": {program.name: self._process(program.process.pid) for program in self.cluster.programs},
            "database": sum(path.stat().st_size for path in self.cluster.database.parent.glob("sigmacast.db*"))})
        self.out.write(json.dumps(self.samples[-1]) + "\n")
        self.out.flush()
        return self.samples[-1]

    def ended(self):
        return [f"{program.name} (status {program.process.returncode})" for program in self.cluster.programs
                if program.process.poll() is not None]

    def logged(self):
        found = []
        for program in self.cluster.programs:
            for line in program.log().splitlines():
                words = line.split(" ", 2)
                if len(words) > 2 and words[1] not in ("debug", "info") and words[0] != "---":
                    found.append(f"{program.name}: {line}")
        return found

    def _answers(self):
        """What the programs say over HTTP; `late` where one of them took too long, with what was said last."""
        try:
            metrics = {**self.cluster.edge.metrics(), **self.cluster.broker.metrics()}
            self._last = {"clients": int(metrics["sigmacast_edge_clients"]),
                          "counters": {name: metrics[name] for name in ZERO},
                          "younger_ms": self._younger()}
            return {**self._last, "late": ""}
        except (OSError, http.client.HTTPException) as problem:
            return {**self._last, "late": repr(problem)}

    def _younger(self):
        """By how much a value's as_of over REST is later than its engine's last answer."""
        from harness import parse_time
        values = [value for value in self.cluster.state()["values"] if value.get("poll") in self.feed.answered]
        return max((round(1000 * (parse_time(value["as_of"]) - self.feed.answered[value["poll"]])) for value in values),
                   default=0)

    @staticmethod
    def _process(pid):
        folder = pathlib.Path(f"/proc/{pid}")
        rollup = dict(line.split()[:2] for line in (folder / "smaps_rollup").read_text().splitlines()[1:])
        fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        return {"rss": int(rollup["Rss:"]) << 10, "pss": int(rollup["Pss:"]) << 10,
                "anonymous": int(rollup["Anonymous:"]) << 10, "fds": len(os.listdir(folder / "fd")),
                "threads": int(fields[17]), "cpu": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")}


class Run:
    def __init__(self, options, rows):
        self.options, self.rows = options, rows
        self.folder = pathlib.Path(options.out).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.began = time.monotonic()
        self.date = datetime.datetime.now().isoformat(timespec="seconds")
        self.done = []

    def all(self):
        """True where every row held."""
        self.say(f"results: {self.folder}")
        interrupted = None
        with open(self.folder / "samples.jsonl", "w", encoding="utf-8") as samples:
            for name, row in self.rows.items():
                try:
                    self.done.append(self.row(name, row, samples))
                except Interrupted as signal_:
                    interrupted = f"interrupted by {signal_} in row {name}"
                report.write(self.folder, self.title(), self.done, interrupted)
                if interrupted:
                    break
        self.say("", (self.folder / "report.md").read_text(encoding="utf-8"))
        return not interrupted and all(not row["problems"] for row in self.done)

    def row(self, name, row, samples):
        from clients import EVENT, Clients, Feed
        from harness import POLLS, Cluster
        seconds = row["minutes"] * 60
        retain = row.get("retain", 60)
        feed = Feed(row["values"], row["events"])
        folder = self.folder / f"row-{name}"
        shutil.rmtree(folder, ignore_errors=True)  # Another run's, where --out names its folder.
        result = {"name": name, **row, "limits": self.limits(row, seconds, retain), "problems": [], "samples": []}
        self.say(f"{name}: {row['clients']:,} clients, {duration(seconds)}, {row['values']:g} values/s and "
                 f"{row['events']:g} events/s")
        edge_options = {"ping_interval": row["ping"]} if "ping" in row else {}
        polls = {**{poll: {} for poll in POLLS}, **feed.polls()}  # The product's own, at its own pace.
        with Cluster(folder, feed.engine, polls=polls, interval=5.0, deadline=3.0, reset=300, health=10,
                     edge_options=edge_options, producer_options={"jitter": "250ms"},
                     broker_options={"retain_values": f"{retain}s", "retain_events": f"{retain}s"}) as cluster:
            watch = Watch(cluster, feed, samples, name, self.began)
            quick = self.options.quick
            try:
                self.hold(watch, "before", 1 if quick else 5, 0.25 if quick else 1)
                with Clients(cluster.edge.port, row["clients"], mixed=1, topics=",".join([*feed.topics, EVENT]),
                             every=self.options.every, churn=row.get("churn", 0), slack_ms=result["limits"]["younger_ms"],
                             **self.fault()) as clients:
                    watch.clients = clients
                    result["connecting"] = clients.ask("connect")
                    clients.ask("start")
                    feed.start(cluster)
                    self.hold(watch, "load", seconds, self.options.every, tell=True)
                    clients.ask("settle")
                    feed.stop()
                    result["checked"] = clients.ask("check", **feed.sent())
                    result["result"] = clients.ask("result")
                    self.leave(watch, clients, "after")
                    if not row.get("churn"):
                        clients.ask("connect")
                        self.hold(watch, "again", 1 if quick else 10, 0.25 if quick else 1)
                        state = {topic: n for topic, n in feed.sent().items() if topic != EVENT}
                        result["again"] = clients.ask("check", **state)
                        # Whoever was there from the start is gone, and with them what they had of pings.
                        pings_min = result["result"]["pings_min"]
                        result["result"] = {**clients.ask("result"), "pings_min": pings_min}
                        self.leave(watch, clients, "after")
            except (AssertionError, OSError, RuntimeError, ValueError, queue.Empty) as problem:
                result["problems"] = [f"programs: {problem!r}"]
            finally:
                feed.engine.stop()
                result.update(samples=watch.samples, ended=watch.ended(), logged=watch.logged())
                shutil.rmtree(cluster.broker.folder / "data", ignore_errors=True)
        result["problems"] = result["problems"] or judge(result)
        self.say(*[f"  FAILED {problem}" for problem in result["problems"]] or ["  all of it held"])
        return result

    def hold(self, watch, phase, seconds, every, tell=False):
        """Samples for so long; says each minute how it goes."""
        began = told = time.monotonic()
        end = began + seconds
        due = began
        while True:
            due += every
            time.sleep(max(0, min(due, end) - time.monotonic()))
            if watch.ended():
                raise RuntimeError(f"ended: {', '.join(watch.ended())}")
            sample = watch.take(phase)
            now = time.monotonic()
            if tell and (now - told >= 60 or now >= end):
                told = now
                memory = ", ".join(f"{name} {of['rss'] / 2**20:.1f}" for name, of in sample["programs"].items())
                self.say(f"  {now - began:.0f} of {seconds:.0f} s: {sample['clients']:,} clients, "
                         f"{sample['deliveries'] / self.options.every:,.0f} deliveries/s, "
                         f"p99 {sample['latency_ms'].get('p99', 0):.1f} ms, MiB: {memory}")
            if now >= end:
                return

    def leave(self, watch, clients, phase):
        """All close; the edge gets a moment to let them go."""
        clients.ask("leave")
        end = time.monotonic() + 20
        while watch.cluster.edge.metrics()["sigmacast_edge_clients"] > 0 and time.monotonic() < end:
            time.sleep(0.1)
        self.hold(watch, phase, 0.5 if self.options.quick else 4, 0.25 if self.options.quick else 1)

    def limits(self, row, seconds, retain):
        kept = retain * (row["values"] + row["events"] + 4) * MESSAGE_BYTES
        ping = 30 if "ping" not in row else float(row["ping"].rstrip("s"))
        return {**LIMITS, "database_mib": DATABASE_MIB + 2 * kept / 2**20, "pings_min": max(0, int(seconds / ping) - 1), **row.get("limits", {})}

    def fault(self):
        return {"fault": self.options.fault} if self.options.fault else {}

    def title(self):
        processor = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo", encoding="ascii")
                          if line.startswith("model name")), platform.machine())
        return (f"{self.date}, {os.cpu_count()} cores {processor}, {platform.system()} {platform.release()}, load average "
                f"now {os.getloadavg()[0]:.1f}; programs in {self.options.bin}")

    def say(self, *lines):
        """To the terminal while there is one, and to progress.log."""
        with open(self.folder / "progress.log", "a", encoding="utf-8") as log:
            for line in lines:
                log.write(f"{datetime.datetime.now():%H:%M:%S} {line}\n")
        try:
            print(*lines, sep="\n", flush=True)
        except OSError:
            pass


def duration(seconds):
    return f"{seconds / 3600:g} h" if seconds >= 7200 else f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"


def interrupt(number, _):
    raise Interrupted(signal.Signals(number).name)


def main(soak=False):
    parser = argparse.ArgumentParser(
        description="Soaks the programs under mixed load, with clients that come and go." if soak else
        "Loads the programs with 10, 1,000 and 10,000 clients, and for 25 minutes with pings: about 43 minutes.",
        epilog="Ends with 0 when everything held, 1 when something did not (the report names it). Goes on when its terminal "
               "dies.")
    if soak:
        parser.add_argument("--hours", type=float, default=24)
        parser.add_argument("--churn", type=float, default=2, help="clients that leave, and others that come, each second")
        parser.add_argument("--values", type=float, default=10, help="new values a second, beside the product's own polls")
        parser.add_argument("--events", type=float, default=10, help="events a second")
    else:
        parser.add_argument("--rows", default=",".join(ROWS), help="which of these, with commas (default: all)")
        parser.add_argument("--minutes", type=float, help="of each row, instead of its own")
        parser.add_argument("--values", type=float, help="new values a second in each row, instead of its own")
        parser.add_argument("--events", type=float, help="events a second in each row, instead of its own")
        parser.add_argument("--quick", action="store_true", help="seconds instead of minutes, and at most 1,000 clients")
    parser.add_argument("--clients", type=int, help="a soak's (default 500)" if soak else "one row with so many")
    parser.add_argument("--out", default=str(PROJECT / "build" / ("soak" if soak else "load") /
                                             datetime.datetime.now().strftime("%Y%m%d-%H%M%S")),
                        help="folder of the results (default: %(default)s)")
    parser.add_argument("--bin", default=str(PROJECT / "build" / "release" / "bin"), help="folder of the programs")
    parser.add_argument("--every", type=float, help="seconds between samples")
    parser.add_argument("--fault", help=argparse.SUPPRESS)  # Of the clients, for tests of the command.
    options = parser.parse_args()
    options.quick = not soak and options.quick
    options.every = options.every or (0.5 if options.quick else 30 if soak and options.hours > 6 else 5)
    options.bin = str(pathlib.Path(options.bin).resolve())
    if not (pathlib.Path(options.bin) / "sigmacast-bench-load").exists():
        parser.error(f"no sigmacast-bench-load in {options.bin}: build first (cmake --preset release && cmake --build "
                     "build/release -j2), or say --bin")
    if soak:
        rows = {"soak": {"clients": options.clients or 500, "minutes": options.hours * 60, "churn": options.churn,
                         "values": options.values, "events": options.events, "retain": 600}}
    else:
        chosen = QUICK if options.quick else ROWS
        names = list(chosen) if options.rows == ",".join(ROWS) else options.rows.split(",")
        if unknown := [name for name in names if name not in chosen]:
            parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(chosen)}")
        rows = {name: dict(chosen[name]) for name in names}
        if options.clients:
            nearest = min((row for row in chosen.values()), key=lambda row: abs(row["clients"] - options.clients))
            rows = {str(options.clients): {**nearest, "clients": options.clients}}
        for row in rows.values():
            row.update({name: given for name in ("minutes", "values", "events") if (given := getattr(options, name))})
    os.environ["SIGMACAST_BIN"] = options.bin
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # Which the programs inherit.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    sys.setswitchinterval(0.001)  # The engine's answers wait less for the samples.
    sys.exit(0 if Run(options, rows).all() else 1)

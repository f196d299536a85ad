"""Runs the rows of the load test: starts the programs, drives clients and feed, samples, asks verdict.py, writes the report.

SIGMACAST_BIN has to be set before this is imported.
"""

import datetime
import http.client
import json
import os
import pathlib
import platform
import queue
import shutil
import time

import report
from clients import EVENT, Clients, Feed
from harness import POLLS, Cluster, Ended, parse_time
from harness import duration as duration_text
from verdict import LIMITS, judge

DATABASE_MIB = 24  # Empty: its journal, and the room that it keeps for a full disk.
PING = 30  # The product's own interval, in seconds.
MESSAGE_BYTES = 1024  # In the database, at most, with its place in the indexes.

# What a run without a failure never counts.
ZERO = [f"sigmacast_{program}_{name}_total" for program, names in {
    "edge": "no_pong dropped_clients conflated client_errors not_encodable too_large not_kept gaps lost unreadable "
            "upstream_overflow refused unauthorized",
    # Not dropped and gaps: what an origin sends before it is welcomed is asked for again.
    "broker": "unreadable refused_batches refused_values left_out lost conflicts bus_dropped",
}.items() for name in names.split()]


class Interrupted(Exception):
    """A signal asked for the end."""


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
        except (AssertionError, OSError, http.client.HTTPException) as problem:
            return {**self._last, "late": repr(problem)}

    def _younger(self):
        """By how much a value's as_of over REST is later than its engine's last answer."""
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
        with open(self.folder / "samples.jsonl", "w", encoding="utf-8") as samples:
            for name, row in self.rows.items():
                self.done.append(self.row(name, row, samples))
                report.write(self.folder, self.title(), self.done)
                if "interrupted" in self.done[-1]:
                    break
        self.say("", (self.folder / "report.md").read_text(encoding="utf-8"))
        return all(not row["problems"] for row in self.done)

    def row(self, name, row, samples):
        seconds, retain = row["minutes"] * 60, row.get("retain", 60)
        folder = self.folder / f"row-{name}"
        shutil.rmtree(folder, ignore_errors=True)  # Another run's, where --out names its folder.
        self.say(f"{name}: {row['clients']:,} clients, {duration(seconds)}, {row['values']:g} values/s and "
                 f"{row['events']:g} events/s")
        feed = Feed(row["values"], row["events"])
        cluster = Cluster(folder, feed.engine, start=False, interval=5.0, deadline=3.0, reset=300, health=10,
                          polls={**{poll: {} for poll in POLLS}, **feed.polls()},  # The product's own, at its own pace.
                          edge_options={"ping_interval": duration_text(row["ping"])} if "ping" in row else {},
                          producer_options={"jitter": "250ms"},
                          broker_options={"retain_values": f"{retain}s", "retain_events": f"{retain}s"})
        watch = Watch(cluster, feed, samples, name, self.began)
        found = {"name": name, **row, "limits": self.limits(row, retain), "samples": watch.samples}
        try:
            cluster.start()
            self.play(found, watch, seconds)
            found.update(ended=watch.ended(), logged=watch.logged())
            found["problems"] = [found["interrupted"]] if "interrupted" in found else []
            found["problems"] += judge(found)
        except (AssertionError, OSError, RuntimeError, ValueError, queue.Empty, Ended, Interrupted) as problem:
            found.update(problems=[f"programs: {type(problem).__name__}: {problem}"], logged=watch.logged())
            if isinstance(problem, Interrupted):
                found["interrupted"] = str(problem)
        finally:
            cluster.stop()
            feed.engine.stop()
            shutil.rmtree(cluster.database.parent, ignore_errors=True)
        self.say(*[f"  FAILED {problem}" for problem in found["problems"]] or ["  all of it held"])
        return found

    def play(self, row, watch, seconds):
        """What happens in a row; adds to it what the clients said."""
        short, shortly = (1, 0.25) if self.options.quick else (5, 1)  # How long, and how often there is a sample.
        feed = watch.feed
        self.hold(watch, "before", short, shortly)
        with Clients(watch.cluster.edge.port, row["clients"], mixed=1, topics=",".join([*feed.topics, EVENT]),
                     every=self.options.every, churn=row.get("churn", 0), slack_ms=row["limits"]["younger_ms"],
                     **self.fault()) as clients:
            watch.clients = clients
            row["connecting"] = clients.ask("connect")
            clients.ask("start")
            feed.start(watch.cluster)
            began = time.monotonic()
            try:
                self.hold(watch, "load", seconds, self.options.every, tell=True)
            except Interrupted as signal_:  # What there is, is judged.
                row["interrupted"] = f"ended early by {signal_}"
                self.say(f"  {row['interrupted']}")
            loaded = time.monotonic() - began
            row["limits"]["pings_min"] = max(0, int(loaded / row.get("ping", PING)) - 1)
            clients.ask("settle")
            feed.stop()
            row["checked"] = clients.ask("check", **feed.sent())
            row["result"] = clients.ask("result")
            self.leave(watch, clients, short, shortly)
            if row.get("churn") or row.get("interrupted"):
                return
            clients.ask("connect")
            self.hold(watch, "again", 2 * short, shortly)
            row["again"] = clients.ask("check", **{topic: n for topic, n in feed.sent().items() if topic != EVENT})
            # Whoever was there from the start is gone, and with them what they had of pings.
            row["result"] = {**clients.ask("result"), "pings_min": row["result"]["pings_min"]}
            self.leave(watch, clients, short, shortly)

    def hold(self, watch, phase, seconds, every, tell=False):
        """Samples for so long; says each minute how it goes."""
        began = told = time.monotonic()
        end = began + seconds
        due = began
        while True:
            due += every
            time.sleep(max(0, min(due, end) - time.monotonic()))
            if watch.ended():
                raise Ended(f"{', '.join(watch.ended())} ended")
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

    def leave(self, watch, clients, seconds, every):
        """All close; the edge gets a moment to let them go."""
        clients.ask("leave")
        end = time.monotonic() + 20
        while watch.cluster.edge.metrics()["sigmacast_edge_clients"] > 0 and time.monotonic() < end:
            time.sleep(0.1)
        self.hold(watch, "after", seconds / 2, every)

    def limits(self, row, retain):
        kept = retain * (row["values"] + row["events"] + 4) * MESSAGE_BYTES
        return {**LIMITS, "database_mib": DATABASE_MIB + 2 * kept / 2**20, **row.get("limits", {})}

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

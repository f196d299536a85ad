"""What a measurement needs beside the programs: clients (sigmacast-bench-load) and something to tell them.

    feed = Feed(values_per_second=50, events_per_second=50)
    with Cluster(folder, feed.engine, polls=feed.polls()) as cluster, Clients(cluster.edge.port, 1000) as clients:
        clients.ask("connect"); clients.ask("start")
        feed.start(cluster); ...; clients.ask("settle"); feed.stop()
        clients.ask("check", **feed.sent()); clients.ask("result")

SIGMACAST_BIN has to be set before this is imported.
"""

import json
import pathlib
import queue
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "integration"))

from fault_engine import FaultEngine, ok, recorded  # noqa: E402
from harness import BIN, clean_environment  # noqa: E402

PADDING = "x" * 150  # About 500 bytes a message.
EVENT = "load.event"


class Clients:
    """sigmacast-bench-load; load_client.cc says what it can be asked."""

    def __init__(self, port, count, **options):
        arguments = {"port": port, "clients": count, **options}
        self.intervals = []  # What it told of each, newest last.
        self._answers = queue.Queue()
        self.process = subprocess.Popen(
            [str(BIN / "sigmacast-bench-load"),
             *[str(part) for name, value in arguments.items() for part in (f"--{name.replace('_', '-')}", value)]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            said = json.loads(line)
            if said["event"] == "interval":
                self.intervals.append(said)
            else:
                self._answers.put(said)
        self._answers.put(None)

    def ask(self, command, timeout=180, **targets):
        """Sends a command and returns its answer; targets: {topic: n}."""
        words = [command, *[f"{topic}={n}" for topic, n in targets.items()]]
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        answer = self._answers.get(timeout=timeout)
        if answer is None:
            raise RuntimeError(f"sigmacast-bench-load ended at {command} with {self.process.wait()}")
        return answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(20)


class Feed:
    """An engine that answers as the recorded one does and, while the feed runs, with stamped new values (load.0, load.1, ..);
    and stamped events by `sigmacast publish` (load.event). A stamp has n, counted from 1, and the times t_ns (monotonic)
    and t_ms (wall)."""

    def __init__(self, values_per_second, events_per_second, polls=2):
        self.values_per_second, self.events_per_second = values_per_second, events_per_second
        self.topics = [f"load.{i}" for i in range(polls)]
        self.answered = {}  # method: when its last good answer began, seconds since 1970.
        self._moving = False
        self._last = {topic: {"n": 0} for topic in self.topics}
        self._events = 0
        self._lock = threading.Lock()
        self._pacer = None
        self._publish = None
        self.engine = FaultEngine({name: self._noting(name, behaviour) for name, behaviour in {
            **recorded(), "agents.scheduler.metrics": ok({"queue_size": 3, "is_running": True}),
            "agents.recovery.status": ok({"is_monitoring": True, "agents_healthy": 40}),
            "agents.tuning.status": ok({"strategy": "random", "is_running": False}),
            "storage.pools.list": ok([{"name": "tank", "state": "ONLINE", "size": 4000, "allocated": 1000}]),
            "storage.disks.list": ok([{"name": "sda", "path": "/dev/sda", "size": 4000, "type": "hdd"}]),
            **{topic: self._stamped(topic) for topic in self.topics}}.items()}).start()

    def polls(self):
        """For Cluster: those of this feed at their pace, all due at the same time."""
        interval = len(self.topics) / self.values_per_second
        return {topic: {"interval": interval, "deadline": min(3.0, interval + 1)} for topic in self.topics}

    def start(self, cluster):
        """Values and events begin; all who must see the first one are connected by now."""
        with self._lock:
            self._moving = True
        if self.events_per_second:
            self._publish = subprocess.Popen(
                [str(BIN / "sigmacast"), "publish", "--config", str(cluster.command_config("publish")), "--origin", "load"],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                env=clean_environment(), cwd=cluster.folder)
            self._pacer = threading.Thread(target=self._pace, daemon=True)
            self._pacer.start()

    def stop(self):
        """From here on each answer repeats the last one; returns when the events are in the log."""
        with self._lock:
            self._moving = False
        if self._pacer:
            self._pacer.join()
            self._pacer = None
            _, problem = self._publish.communicate(timeout=60)
            if self._publish.returncode:
                raise RuntimeError(f"sigmacast publish ended with {self._publish.returncode}: {problem}")

    def sent(self):
        """{topic: last n}"""
        with self._lock:
            return {**{topic: last["n"] for topic, last in self._last.items()},
                    **({EVENT: self._events} if self.events_per_second else {})}

    def _stamped(self, topic):
        def behave(call, connection):
            with self._lock:
                if self._moving:
                    self._last[topic] = stamp(self._last[topic]["n"] + 1)
                answer = self._last[topic]
            return ok(answer)(call, connection)
        return behave

    def _noting(self, name, behaviour):
        def behave(call, connection):
            self.answered[name] = time.time()
            return behaviour(call, connection)
        return behave

    def _pace(self):
        due = time.monotonic()
        while self._moving:
            with self._lock:
                self._events += 1
                line = json.dumps({"type": EVENT, "data": stamp(self._events)})
            self._publish.stdin.write(line + "\n")
            self._publish.stdin.flush()
            due += 1 / self.events_per_second
            time.sleep(max(0, due - time.monotonic()))


def stamp(n):
    return {"n": n, "t_ns": time.monotonic_ns(), "t_ms": time.time_ns() // 1_000_000, "padding": PADDING}

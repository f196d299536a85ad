"""Starts the real programs on free ports, with short intervals, and ends, freezes and restarts them.

    with Cluster(tmp_path, engine) as cluster:
        with cluster.client() as old, cluster.client(V1) as new: ...
        cluster.broker.kill(); cluster.broker.start()

SIGMACAST_BIN names the folder of the programs. Nothing here sleeps to let something happen: until() polls a condition
with a deadline. The log of each program is in its folder, and is shown when a test fails (conftest.py).
"""

import calendar
import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import time

import tokens
from ports import free_port
from ws_client import V1, Client

BIN = pathlib.Path(os.environ.get("SIGMACAST_BIN", "build/dev/bin")).resolve()

# Programs under a sanitizer, on a loaded machine, are slower; deadlines are multiplied, what is measured is not.
PATIENCE = float(os.environ.get("SIGMACAST_PATIENCE", "1"))
# What a client that was too slow is closed with. The thread sanitizer's may not get to the close frame in its 2 s.
TOO_SLOW = (4102, 1006) if PATIENCE >= 10 else (4102,)
# "on" or "off": by which system calls the edges send, in every test that does not say it.
IO_URING = os.environ.get("SIGMACAST_IO_URING")
# A number: of the io threads of every edge whose test does not say it.
IO_THREADS = os.environ.get("SIGMACAST_IO_THREADS")

INTERVAL = 0.2  # Of every poll, in seconds.
DEADLINE = 0.5
RESET = 2.0

POLLS = {
    # name: (method, params, topic, key, mapper)
    "system.status": ("system.status", "{}", "system.status", "", "system"),
    "compression.queue.running": ("compression.queue.running", '{"include_pending":true,"limit":50}',
                                  "compression.update", "", "jobs"),
    "agents.list": ("agents.list", "{}", "agent.status", "", "agents"),
    "agents.scheduler.metrics": ("agents.scheduler.metrics", "", "scheduler.metrics", "", "as_is"),
    "agents.recovery.status": ("agents.recovery.status", "", "recovery.status", "", "as_is"),
    "agents.tuning.status": ("agents.tuning.status", "", "tuning.status", "", "as_is"),
    "storage.pools.list": ("storage.pools.list", "", "storage.update", "pools", "storage"),
    "storage.disks.list": ("storage.disks.list", "", "storage.update", "disks", "storage"),
}
ERROR_CODES = {
    "system.status": "SYSTEM_STATUS_FAILED", "compression.queue.running": "COMPRESSION_JOBS_FAILED",
    "agents.list": "AGENT_STATUS_FAILED", "agents.scheduler.metrics": "SCHEDULER_METRICS_FAILED",
    "agents.recovery.status": "RECOVERY_STATUS_FAILED", "agents.tuning.status": "TUNING_STATUS_FAILED",
    "storage.pools.list": "STORAGE_POOLS_FAILED", "storage.disks.list": "STORAGE_DISKS_FAILED",
}

clusters = []  # Those of the running test, for conftest.py to show their logs.


def until(condition, timeout=8, what="the condition", every=0.01):
    """Returns the first true value of condition(); an exception in it counts as not yet."""
    end = time.monotonic() + timeout * PATIENCE
    problem = None
    while True:
        try:
            value = condition()
            if value:
                return value
            problem = None
        except (OSError, http.client.HTTPException, ValueError, KeyError, AssertionError) as raised:
            problem = raised
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {timeout} s" + (f" ({problem!r})" if problem else ""))
        time.sleep(every)


def get(port, path, method="GET", headers=None, body=None, timeout=5, tls=None):
    """(status, headers, body); the body is parsed where it is JSON. `tls`: an ssl.SSLContext."""
    made = {"timeout": timeout * PATIENCE}
    connection = (http.client.HTTPSConnection("127.0.0.1", port, context=tls, **made) if tls else
                  http.client.HTTPConnection("127.0.0.1", port, **made))
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        content = answer.read()
        names = {name.lower(): value for name, value in answer.getheaders()}
        if names.get("content-type", "").startswith("application/json") and content:
            content = json.loads(content)
        return answer.status, names, content
    finally:
        connection.close()


def waits_in_the_kernel(port):
    """{client's port: bytes that the server's socket holds for it, sent or not} (/proc/net/tcp)."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table]
    return {int(row[2].split(":")[1], 16): int(row[4].split(":")[0], 16)
            for row in rows if row[1] == f"0100007F:{port:04X}" and row[3] == "01"}


def parse_time(text):
    """Seconds since 1970 of an RFC 3339 time in UTC."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?Z", text)
    assert found, f"{text!r} is no RFC 3339 time in UTC"
    return calendar.timegm(time.strptime(found[1], "%Y-%m-%dT%H:%M:%S")) + float(found[2] or 0)


def parse_metrics(text):
    """The Prometheus text format, strictly: {name{labels}: value}; every sample belongs to a declared TYPE."""
    sample = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\.)*",?)*\})? (\S+)( \d+)?')
    types, found = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in types, f"{name} is declared twice"
            types[name] = kind
        elif line and not line.startswith("#"):
            parts = sample.fullmatch(line)
            assert parts, f"no sample: {line!r}"
            base = re.sub(r"_(bucket|sum|count)$", "", parts[1])
            assert parts[1] in types or base in types, f"{parts[1]} has no TYPE"
            found[parts[1] + (parts[2] or "")] = float(parts[3])
    assert found, "no samples at all"
    return found


class Program:
    """One process, which may end and be started again with the same configuration, ports and data."""

    def __init__(self, cluster, name, binary, port, ready_path, **config):
        self.cluster, self.name, self.binary, self.port, self.ready_path = cluster, name, binary, port, ready_path
        self.folder = cluster.folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config_path = self.folder / "sigmacast.toml"
        self.log_path = self.folder / "log"
        tokens.logs.add(self.log_path)
        self.config = config
        self.process = None
        self.started_at = None
        self.tls = None  # An ssl.SSLContext: it is asked through TLS.
        self.before_exec = None  # Called in the process that becomes the program.

    def start(self, ready=True, timeout=10):
        assert not self.alive, f"{self.name} is running"
        self.config_path.write_text(self.config["text"]())
        with open(self.log_path, "ab") as log:
            log.write(f"--- start {time.strftime('%H:%M:%S')}\n".encode())
            log.flush()
            self.started_at = time.monotonic()
            self.process = subprocess.Popen(
                [str(BIN / self.binary), "--config", str(self.config_path)], stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, cwd=self.folder, env=clean_environment(), preexec_fn=self.before_exec)
        if ready:
            self.wait_ready(timeout)
        return self

    @property
    def alive(self):
        return self.process is not None and self.process.poll() is None

    def wait_ready(self, timeout=10):
        def ready():
            if self.process.poll() is not None:
                raise Ended(f"{self.name} ended with {self.process.returncode}:\n{self.log()[-3000:]}")
            return self.readiness()[0] == 200
        until(ready, timeout, f"{self.name} is ready")
        return time.monotonic() - self.started_at

    def readiness(self):
        status, _, body = get(self.port, self.ready_path, timeout=2, tls=self.tls)
        return status, body

    def is_ready(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.readiness()[0] == 200
        return False

    def metrics(self):
        """Those of several threads together: the sum of what is counted, else the least."""
        status, _, body = get(self.port, "/metrics", tls=self.tls)
        assert status == 200
        together = {}
        for name, value in parse_metrics(body.decode()).items():
            one = re.sub(r',?thread="\d+"', "", name).replace("{}", "").replace("{,", "{")
            counted = re.match(r"\w+_(total|clients|event_streams|resuming)(\{|$)", one)
            known = together.get(one)
            together[one] = value if known is None else known + value if counted else min(known, value)
        return together

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        """kill -9; returns when the process is gone."""
        if self.alive:
            self.process.kill()
            self.process.wait()

    def freeze(self):
        self.signal(signal.SIGSTOP)

    def thaw(self):
        self.signal(signal.SIGCONT)

    def terminate(self, timeout=10):
        """SIGTERM; returns the exit status."""
        if self.process is None:
            return None
        if self.alive:
            self.thaw()
            self.process.terminate()
        return self.process.wait(timeout * PATIENCE)

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def stat(self):
        """CPU seconds (user and system) and resident bytes."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks = int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


class Ended(Exception):
    """A program ended that should not have."""


def clean_environment():
    return {name: value for name, value in os.environ.items() if not name.startswith(("SIGMAVAULT_", "SIGMACAST_"))}


def toml(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return json.dumps(value)


def duration(seconds):
    return f"{round(seconds * 1000)}ms"


class Cluster:
    """A broker, its producers (one for each engine) and edges. Options:

    polls         names of POLLS to make, or {name: {interval, deadline, ...}}
    interval, deadline, reset, failures, health   of every poll and breaker
    origins       names of the producers
    broker_options, edge_options, producer_options, auth_options   more members of their tables
    tls           an Authority (certificates.py): the edges get a certificate of it, and are asked through TLS
    """

    def __init__(self, folder, engine=None, *, engines=None, edges=1, origins=("nas",), polls=None, interval=INTERVAL,
                 deadline=DEADLINE, reset=RESET, failures=5, transport_failures=None, health=0.5, start=True,
                 producer_options=None, broker_options=None, edge_options=None, auth_options=None, roles=None,
                 log_level="info", tls=None):
        self.folder = pathlib.Path(folder)
        self.tls = tls and tls.context()
        edge_options = {**(tls.issue("edge").options if tls else {}), **(edge_options or {})}
        self.engines = engines or ([engine] if engine else [])
        self.engine = self.engines[0] if self.engines else None
        self.origins = origins
        self.polls = polls if polls is not None else list(POLLS)
        self.interval, self.deadline, self.reset, self.health = interval, deadline, reset, health
        self.failures, self.transport_failures = failures, transport_failures or failures
        self.options = {"producer": producer_options or {}, "broker": broker_options or {}, "edge": edge_options or {}}
        self.auth_options, self.roles = auth_options, roles or {}  # Of the edges; roles: {name: topics}
        self.log_level = log_level
        self.ingest, self.feed, self.repair = (f"tcp://127.0.0.1:{free_port()}" for _ in range(3))
        self.broker = Program(self, "broker", "sigmacast-broker", free_port(), "/readyz",
                              text=lambda: self._text("broker", self.broker))
        self.producers = [self.add_producer(engine_, origin, register=False)
                          for engine_, origin in zip(self.engines, origins)]
        self.edges = [self._edge(i) for i in range(edges)]
        clusters.append(self)
        if start:
            self.start()

    @property
    def producer(self):
        return self.producers[0]

    @property
    def edge(self):
        return self.edges[0]

    @property
    def programs(self):
        return [self.broker, *self.producers, *self.edges]

    # Life -------------------------------------------------------------------------------------------------------------
    def start(self):
        for program in self.programs:
            program.start(ready=False)
        for program in self.programs:
            program.wait_ready(15)
        return self

    def stop(self):
        for program in reversed(self.programs):
            program.kill()
        if self in clusters:
            clusters.remove(self)

    def kill_all(self):
        for program in self.programs:
            program.kill()

    def add_producer(self, engine, origin, register=True, folder=None):
        number = len(getattr(self, "producers", [])) if register else self.engines.index(engine)
        program = Program(self, folder or f"producer{number}", "sigmacast-producer", free_port(), "/readyz",
                          text=lambda: self._text("producer", program, engine, origin))
        program.origin = origin
        if register:
            self.producers.append(program)
        return program

    def add_edge(self):
        self.edges.append(self._edge(len(self.edges)))
        return self.edges[-1]

    def _edge(self, number):
        program = Program(self, f"edge{number}", "sigmacast-edge", free_port(), "/api/v1/ready",
                          text=lambda: self._text("edge", program))
        program.tls = self.tls
        return program

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    # Configuration ----------------------------------------------------------------------------------------------------
    @property
    def database(self):
        return self.broker.folder / "data" / "sigmacast.db"

    def _text(self, kind, program, engine=None, origin=None):
        broker = {"ingest": self.ingest, "feed": self.feed, "repair": self.repair}
        tables = {"": {"data_dir": str(program.folder / "data")}, "log": {"level": self.log_level}, "broker": broker}
        arrays = []
        if kind == "broker":
            broker.update({"admin_port": program.port, **self.options["broker"]})
        elif kind == "edge":
            sending = {"io_uring": IO_URING} if IO_URING else {}
            threads = {"io_threads": int(IO_THREADS)} if IO_THREADS else {}
            tables["edge"] = {"port": program.port, **sending, **threads, **self.options["edge"]}
            tables["auth"] = self.auth_options or {}
        else:
            tables["producer"] = {"origin": origin, "engine_url": engine.url, "admin_port": program.port,
                                  "health_interval": duration(self.health), "jitter": "0ms",
                                  **self.options["producer"]}
            tables["producer.poll_breaker"] = {"failures": self.failures, "reset": duration(self.reset)}
            tables["producer.transport_breaker"] = {"failures": self.transport_failures, "reset": duration(self.reset)}
            arrays = [self._poll(name) for name in self.polls]
        lines = []
        roles = self.roles if kind == "edge" else {}
        for name, members in tables.items():
            lines += [f"[{name}]"] * bool(name) + [f"{key} = {toml(value)}" for key, value in members.items()] + [""]
        for role, topics in roles.items():
            lines += ["[[auth.role]]", f"name = {toml(role)}", f"topics = {toml(topics)}", ""]
        for members in arrays:
            lines += ["[[producer.poll]]"] + [f"{key} = {toml(value)}" for key, value in members.items()] + [""]
        return "\n".join(lines)

    def _poll(self, name):
        more = self.polls[name] if isinstance(self.polls, dict) else {}
        method, params, topic, key, mapper = POLLS.get(name, (name, "", name, "", "as_is"))
        row = {"name": name, "method": method, "params": params, "topic": topic, "key": key, "mapper": mapper,
               "interval": duration(self.interval), "deadline": duration(self.deadline),
               "error_code": ERROR_CODES.get(name, "")}
        row.update({key: duration(value) if key in ("interval", "deadline") else value for key, value in more.items()})
        return {key: value for key, value in row.items() if value != ""}

    # Clients ----------------------------------------------------------------------------------------------------------
    def client(self, protocol=None, edge=0, **options):
        return Client(self.edges[edge].port, protocol, **{"tls": self.tls, **options})

    def v1(self, *topics, edge=0, protocol=V1, **options):
        """A v1 client that is subscribed, and has its answer in `subscribed`."""
        client = self.client(protocol, edge, **options)
        client.hello = client.wait("hello")
        client.subscribed = client.subscribe(*topics) if topics else None
        return client

    def settle(self, timeout=1):
        """Until each edge that runs has what the broker has committed: it may come a moment after its publisher was told. One that
        is cut off, or tells nothing without a token, is waited for in vain."""
        committed = self.broker.metrics()["sigmacast_broker_pos"]
        for edge in [edge for edge in self.edges if edge.alive]:
            with contextlib.suppress(AssertionError):
                until(lambda edge=edge: get(edge.port, "/api/v1/health", tls=self.tls)[2]["pos"] >= committed, timeout / PATIENCE)

    def state(self, topic=None, edge=0):
        status, _, body = get(self.edges[edge].port, "/api/v1/state" + (f"/{topic}" if topic else ""), tls=self.tls)
        assert status == 200, f"HTTP {status}: {body}"
        return body

    def breakers(self, edge=0):
        status, _, body = get(self.edges[edge].port, "/api/v1/status/circuit-breaker", tls=self.tls)
        assert status == 200, f"HTTP {status}: {body}"
        return {breaker["name"]: breaker for breaker in body["breakers"]}

    # The command line -------------------------------------------------------------------------------------------------
    def command_config(self, name="command"):
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        path = folder / "sigmacast.toml"
        tables = {"": {"data_dir": str(folder / "data")},
                  "broker": {"ingest": self.ingest, "feed": self.feed, "repair": self.repair,
                             "admin_port": self.broker.port},
                  "edge": {"port": self.edges[0].port if self.edges else 1}}
        if self.producers:
            tables["producer"] = {"admin_port": self.producer.port}
        lines = []
        for table, members in tables.items():
            lines += [f"[{table}]"] * bool(table) + [f"{key} = {toml(value)}" for key, value in members.items()]
        path.write_text("\n".join(lines) + "\n")
        return path

    def command(self, *arguments, input=None, timeout=30, environment=None):
        """Runs `sigmacast ARGUMENTS` to its end."""
        return subprocess.run([str(BIN / "sigmacast"), *map(str, arguments)], input=input, capture_output=True,
                              text=True, timeout=timeout * PATIENCE, cwd=self.folder,
                              env={**clean_environment(), **(environment or {})})

    def publish(self, events, *options):
        """`sigmacast publish OPTIONS` of events, or of lines as they are: durable when it returns, and known to the edges that can
        be asked (settle)."""
        lines = events if isinstance(events, str) else "".join(json.dumps(event) + "\n" for event in events)
        done = self.command("publish", "--config", self.command_config(), *options, input=lines, timeout=60)
        assert done.returncode == 0, done.stderr
        self.settle()
        return done

    def command_start(self, *arguments):
        return subprocess.Popen([str(BIN / "sigmacast"), *map(str, arguments)], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment(),
                                cwd=self.folder)


def show_logs():
    """What the programs of the running test logged, for a failure's report."""
    parts = []
    for cluster in clusters:
        for program in cluster.programs:
            lines = program.log().splitlines()
            parts.append(f"--- {program.name} ({'running' if program.alive else 'ended'}, port {program.port}), the last of "
                         f"{len(lines)} lines\n" + "\n".join(lines[-40:]))
    return "\n".join(parts)

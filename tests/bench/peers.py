"""The servers that tests/bench/run measures: how each is started, fed and subscribed to.

    with pinned(0):
        server = SERVERS["nchan"](folder)
    server.pids    whose CPU and memory are counted
    server.client  options of sigmacast-bench-fanout for its clients, server.feed for its feed (server.feed_fd)
    server.stop()

    with an_edge(io_threads=2) as edge: ...  # One without a peer, in a folder of its own.

Each server is one process on one core, as it is by default but for what a note at its class names. What feeds it (for the
edge: `sigmacast publish` and the broker) is not counted.
"""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "integration"))

from harness import BIN, Cluster, clean_environment, until  # noqa: E402
from ports import free_port  # noqa: E402

START_S = 20  # Until a server answers.


class Missing(Exception):
    """What a server needs is not on this machine; says what."""


@contextlib.contextmanager
def pinned(*cores):
    """What is started meanwhile stays on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def find(program, package):
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise Missing(f"{program} is not installed (Debian's package {package}: ops/setup bench)")
    return found


def connect(port):
    """A connection to 127.0.0.1:port, once something listens there."""
    end = time.monotonic() + START_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=START_S)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def expect(connection, end):
    """Reads until the bytes that have come hold `end`."""
    got = b""
    while end not in got:
        more = connection.recv(4096)
        if not more:
            raise RuntimeError(f"the server closed the feed after {got!r}")
        got += more
    return got


class Server:
    """One that speaks on `port`; `start` returns the arguments of its command."""

    client = {"speak": "raw"}
    feed = {"feed": "lines"}
    envelope = 0  # Bytes that the server puts around the data of an event: taken off the padding.

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = None
        self.connection = None
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(self.command(), cwd=self.folder, stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE if self.tells_ports else log, stderr=log,
                                            env=clean_environment(), text=True)
        try:
            if self.tells_ports:
                said = self.process.stdout.readline().split()
                if len(said) != 2:
                    raise RuntimeError(f"{self.process.args[0]} did not start; see {self.folder}/log")
                self.port, self.feed_port = map(int, said)
            self.connection = self.open_feed()
            connect(self.port).close()
        except Exception:
            self.stop()
            raise

    tells_ports = False  # Prints `CLIENT_PORT FEED_PORT`, and ends with its standard input.

    def command(self):
        raise NotImplementedError

    def open_feed(self):
        return connect(self.feed_port)

    @property
    def feed_fd(self):
        return self.connection.fileno()

    @property
    def pids(self):
        return family(self.process.pid)

    def stop(self):
        if self.connection:
            self.connection.close()
        if self.process:
            self.process.stdin.close()
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def family(pid):
    """A process and those that it started."""
    try:
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except FileNotFoundError:
        return [pid]
    return [pid] + [found for child in children for found in family(int(child))]


class Floor(Server):
    """floor.cc: one send() a client and event."""

    tells_ports = True

    def command(self):
        return [str(BIN / "sigmacast-bench-floor")]


class FloorCoalesce(Floor):
    """The same, all that one read of the feed has brought in one send()."""

    def command(self):
        return super().command() + ["--coalesce"]


class Edge:
    """The real edge, fed by `sigmacast publish` through the real broker: both on the clients' core, and not counted."""

    client = {"speak": "v1", "path": "/ws"}
    feed = {"feed": "publish"}
    envelope = 165
    options = {}  # Of the table [edge], from --edge-set.
    binary = "sigmacast-edge"
    feeders_cores = ()  # Set by compare.py and an_edge().

    def __init__(self, folder):
        self.cluster = Cluster(folder, None, start=False, edge_options=self.options, log_level="warn")
        self.publisher = None
        edge = self.cluster.edge
        edge.binary = self.binary
        try:
            edge.start(ready=False)
            with pinned(*self.feeders_cores):
                self.cluster.broker.start()
                with open(self.cluster.folder / "publish.log", "wb") as log:
                    self.publisher = subprocess.Popen(
                        [str(BIN / "sigmacast"), "publish", "--config", str(self.cluster.command_config("publish")),
                         "--origin", "bench"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log,
                        env=clean_environment(), cwd=self.cluster.folder)
            edge.wait_ready(START_S)
        except Exception:
            self.stop()
            raise
        self.port, self.pids = edge.port, [edge.process.pid]
        self.feed_fd = self.publisher.stdin.fileno()

    def restart(self, events):
        """Once the broker has that many, the edge is killed, and another one starts with nothing."""
        until(lambda: self.broker_counts("committed") >= events, START_S, f"the broker has {events} events")
        cores = os.sched_getaffinity(self.pids[0])
        self.cluster.edge.kill()
        with pinned(min(cores)):
            self.cluster.edge.start(ready=False)
        self.pids = [self.cluster.edge.process.pid]
        self.cluster.edge.wait_ready(START_S)

    def broker_requests(self):
        """Snapshots, ranges and pages of the log that edges have asked for."""
        return self.broker_counts("history", "ranges", "snapshots")

    def broker_counts(self, *names):
        metrics = self.cluster.broker.metrics()
        return int(sum(metrics[f"sigmacast_broker_{name}_total"] for name in names))

    def stop(self):
        if self.publisher:
            self.publisher.kill()
            self.publisher.wait()
            self.publisher.stdin.close()
        self.cluster.stop()


@contextlib.contextmanager
def an_edge(cores=(0,), feeders_cores=(1,), **settings):
    """An edge with these settings on `cores`, what feeds it on others; both end with the block."""
    Edge.options, Edge.feeders_cores = settings, feeders_cores
    with tempfile.TemporaryDirectory(prefix="sigmacast-bench-") as folder:
        with pinned(*cores):
            edge = Edge(folder)
        try:
            yield edge
        finally:
            edge.stop()


def edge_of(folder):
    """The edge of another build, with the broker of this one."""
    binary = pathlib.Path(folder).resolve() / "sigmacast-edge"
    if not os.access(binary, os.X_OK):
        raise SystemExit(f"there is no program {binary}")
    return type("OtherEdge", (Edge,), {"binary": str(binary)})


class Nchan(Server):
    """One worker; no access log, and a buffer that holds more than is in flight (10 messages by default)."""

    client = {"speak": "raw", "path": "/sub"}
    feed = {"feed": "post", "feed_path": "/pub"}

    def command(self):
        nginx = find("nginx", "libnginx-mod-nchan")
        module = pathlib.Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
        if not module.exists():
            raise Missing(f"{module} is not installed (Debian's package libnginx-mod-nchan: ops/setup bench)")
        self.port = self.feed_port = free_port()
        config = self.folder / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        paths = " ".join(f"{name}_temp_path {self.folder}/{name};"
                         for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        config.write_text(f"""
load_module {module}; daemon off; {user} worker_processes 1; worker_rlimit_nofile {files_max()};
pid {self.folder}/pid; error_log {self.folder}/error.log warn;
events {{ worker_connections {min(files_max() - 64, 60_000)}; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; {paths}
  nchan_shared_memory_size 256M;
  server {{
    listen 127.0.0.1:{self.port} backlog=4096;
    location = /sub {{ nchan_subscriber websocket; nchan_channel_id bench; nchan_subscriber_first_message newest; }}
    location = /pub {{ nchan_publisher; nchan_channel_id bench; nchan_message_buffer_length 1000; }}
  }}
}}
""", encoding="ascii")
        return [nginx, "-p", str(self.folder), "-c", str(config)]


class Nats(Server):
    """With a WebSocket listener and no TLS."""

    client = {"speak": "nats"}
    feed = {"feed": "nats"}

    def command(self):
        server = find("nats-server", "nats-server")
        self.port, self.feed_port = free_port(), free_port()
        config = self.folder / "nats.conf"
        config.write_text(f"""
listen: "127.0.0.1:{self.feed_port}"
ping_interval: "10m"
websocket {{ listen: "127.0.0.1:{self.port}", no_tls: true }}
""", encoding="ascii")
        return [server, "-c", str(config)]

    def open_feed(self):
        connection = connect(self.feed_port)
        expect(connection, b"INFO ")
        connection.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\nPING\r\n')
        expect(connection, b"PONG\r\n")
        return connection


class Mosquitto(Server):
    """With a WebSocket listener; Nagle off, and its queues raised from 1,000 messages. QoS 0."""

    client = {"speak": "mqtt"}
    feed = {"feed": "mqtt"}

    def command(self):
        server = find("mosquitto", "mosquitto")
        self.port, self.feed_port = free_port(), free_port()
        config = self.folder / "mosquitto.conf"
        config.write_text(f"""
user {"root" if os.geteuid() == 0 else os.environ.get("USER", "nobody")}
allow_anonymous true
set_tcp_nodelay true
max_queued_messages 10000
log_type error
listener {self.feed_port} 127.0.0.1
listener {self.port} 127.0.0.1
protocol websockets
""", encoding="ascii")
        return [server, "-c", str(config)]

    def open_feed(self):
        connection = connect(self.feed_port)
        identity = b"\x00\x04feed"
        body = b"\x00\x04MQTT\x04\x02\x00\x00" + identity
        connection.sendall(b"\x10" + bytes([len(body)]) + body)
        expect(connection, b"\x20\x02\x00\x00")
        return connection


class NodeWs(Server):
    """npm/server.js: ws, one send() of a Buffer a client."""

    tells_ports = True
    modules = None  # Where npm has installed what npm/package-lock.json names.

    def command(self):
        node = find("node", "nodejs")
        if not self.modules:
            raise Missing("ws is not installed (npm ci failed)")
        return [node, str(self.modules / "server.js")]


def files_max():
    import resource
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


SERVERS = {"floor": Floor, "edge": Edge, "floor-coalesce": FloorCoalesce, "nchan": Nchan, "ws": NodeWs, "nats": Nats,
           "mosquitto": Mosquitto}

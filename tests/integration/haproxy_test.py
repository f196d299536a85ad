"""Edges behind HAProxy with ops/proxy/haproxy.cfg, which is run as it stands, but for the ports."""

import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time

import pytest

from harness import get, until
from ports import free_port
from ws_client import V1, Client

pytestmark = pytest.mark.skipif(not shutil.which("haproxy") and not pathlib.Path("/usr/sbin/haproxy").exists(),
                                reason="haproxy is missing (ops/setup dev installs it)")
HAPROXY = shutil.which("haproxy") or "/usr/sbin/haproxy"
CONFIG = pathlib.Path(__file__).resolve().parents[2] / "ops" / "proxy" / "haproxy.cfg"
POLL = "system.status"
SLOT = re.compile(r"^    server edge-(\d+) 127\.0\.0\.1:\1$", re.M)


class Proxy:
    def __init__(self, folder, ports, changes=()):
        """`ports`: of edges, in place of those of the file; the slots that are left get ports where nothing listens."""
        self.port = free_port()
        self.short = tempfile.TemporaryDirectory()  # A socket's path must be.
        self.stats = pathlib.Path(self.short.name) / "s"
        text = CONFIG.read_text()
        for old, new in [("bind 127.0.0.1:12079", f"bind 127.0.0.1:{self.port}"), *dict(changes).items()]:
            assert old in text
            text = text.replace(old, new)
        slots = iter([*ports, *(free_port() for _ in range(len(SLOT.findall(text)) - len(ports)))])
        text = SLOT.sub(lambda _: (lambda port: f"    server edge-{port} 127.0.0.1:{port}")(next(slots)), text)
        text = text.replace("global\n", f"global\n    stats socket {self.stats} level admin\n")
        path = folder / "haproxy.cfg"
        path.write_text(text)
        self.log = open(folder / "haproxy.log", "w+")
        self.process = subprocess.Popen([HAPROXY, "-db", "-f", str(path)], stdout=self.log, stderr=self.log,
                                        stdin=subprocess.DEVNULL)

    def up(self):
        """The ports of the edges that get clients."""
        with socket.socket(socket.AF_UNIX) as asked:
            asked.connect(str(self.stats))
            asked.sendall(b"show stat\n")
            rows = b"".join(iter(lambda: asked.recv(65536), b"")).decode().splitlines()
        columns = rows[0].lstrip("# ").split(",")
        found = [dict(zip(columns, row.split(","))) for row in rows[1:]]
        return {int(row["svname"][5:]) for row in found
                if row.get("svname", "").startswith("edge-") and row["status"].startswith("UP")}

    def client(self, protocol=V1):
        client = Client(self.port, protocol)
        if protocol:
            client.wait("hello")
            client.subscribed = client.subscribe(POLL)
        return client

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.log.close()
        self.short.cleanup()


@pytest.fixture
def proxied(make_cluster, engine, tmp_path):
    """Three edges, and a proxy that knows them all."""
    cluster = make_cluster(engine, polls=[POLL], edges=3)
    proxy = Proxy(tmp_path, [edge.port for edge in cluster.edges])
    cluster.proxy = proxy
    try:
        until(lambda: proxy.up() == {edge.port for edge in cluster.edges}, what="HAProxy has found the three edges")
        yield cluster
    finally:
        proxy.stop()


def clients_of(edge):
    return edge.metrics()["sigmacast_edge_clients"]


def come_back(proxy, client):
    """As PROTOCOL.md says: waits the hint, and begins anew."""
    code, _ = client.wait_closed()
    hints = [m.data["reconnect_in_ms"] for m in client.of("goodbye")]
    time.sleep(hints[0] / 1000 if hints else 0)
    return code, proxy.client()


def test_websocket_and_rest_pass_and_clients_are_spread_over_the_edges(proxied):
    clients = [proxied.proxy.client() for _ in range(9)]
    try:
        assert [clients_of(edge) for edge in proxied.edges] == [3, 3, 3]
        for client in clients:
            client.wait(lambda m: m.type == POLL and m["quality"] == "live")
        with proxied.proxy.client(None) as old:
            assert old.wait("notification").data["client_id"]
        status, _, body = get(proxied.proxy.port, f"/api/v1/state/{POLL}")
        assert status == 200 and body["values"][0]["quality"] == "live"
        status, _, body = get(proxied.proxy.port, "/ws")
        assert status == 426
    finally:
        for client in clients:
            client.close()


def test_a_killed_edges_clients_land_on_the_others_at_once(proxied):
    clients = [proxied.proxy.client() for _ in range(6)]
    proxied.edges[0].kill()
    until(lambda: sum(1 for client in clients if client.closed) == 2, what="the two of the killed edge are closed")
    gone = [client for client in clients if client.closed]
    began = time.monotonic()
    back = [proxied.proxy.client() for _ in gone]
    assert time.monotonic() - began < 2, "a connection that is refused is tried elsewhere"
    for client in back:
        client.wait(lambda m: m.type == POLL and m["quality"] == "live")
    assert sum(clients_of(edge) for edge in proxied.edges[1:]) == 6
    until(lambda: proxied.proxy.up() == {edge.port for edge in proxied.edges[1:]}, 2, "HAProxy has noticed")
    proxied.edges[0].start()
    until(lambda: len(proxied.proxy.up()) == 3, what="it is used again")
    for client in [*clients, *back]:
        client.close()


def test_a_draining_edge_is_left_out_within_a_second_and_nobody_is_refused(proxied):
    clients = [proxied.proxy.client() for _ in range(6)]
    edge = proxied.edges[1]
    edge.process.terminate()
    began = time.monotonic()
    late, noticed = [], None
    while edge.process.poll() is None:
        late.append(proxied.proxy.client())  # It raises where it is refused.
        if noticed is None and edge.port not in proxied.proxy.up():
            noticed = time.monotonic() - began
    assert edge.process.returncode == 0
    assert noticed is not None and noticed < 1, "HAProxy left it out in time"
    ended = [client for client in clients if client.closed]
    assert len(ended) >= 2 and all(client.closed == (4200, "draining") for client in ended)
    for client in ended:
        code, again = come_back(proxied.proxy, client)
        again.wait(lambda m: m.type == POLL and m["quality"] == "live")
        again.close()
    for client in [*clients, *late]:
        client.close()


def test_an_edge_that_was_added_gets_clients(make_cluster, engine, tmp_path):
    cluster = make_cluster(engine, polls=[POLL], edges=1)
    second = cluster.add_edge()
    proxy = Proxy(tmp_path, [edge.port for edge in cluster.edges])
    try:
        until(lambda: proxy.up() == {cluster.edge.port}, what="one of the two is there")
        second.start()
        until(lambda: proxy.up() == {cluster.edge.port, second.port}, what="the second is found")
        clients = [proxy.client() for _ in range(4)]
        assert clients_of(second) == 2
        for client in clients:
            client.close()
    finally:
        proxy.stop()


def test_beyond_a_thousand_connections_of_an_address_the_proxy_refuses(make_cluster, engine, tmp_path):
    cluster = make_cluster(engine, polls=[POLL])
    proxy = Proxy(tmp_path, [cluster.edge.port], {"sc0_conn_cur gt 1000": "sc0_conn_cur gt 3"})
    try:
        until(lambda: proxy.up() == {cluster.edge.port}, what="it has found the edge")
        held = [proxy.client() for _ in range(3)]
        with pytest.raises(OSError):
            proxy.client()
        held.pop().close()
        held.append(until(proxy.client, what="another one is let in"))
        for client in held:
            client.close()
    finally:
        proxy.stop()


def test_the_example_is_a_valid_configuration_as_it_stands():
    checked = subprocess.run([HAPROXY, "-c", "-f", str(CONFIG)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr

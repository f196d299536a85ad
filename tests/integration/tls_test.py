"""TLS on the edge, with real keys: foreign clients, what is refused, renewal by SIGHUP, and peers that mean no good."""

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import time

import pytest
import websockets

from certificates import Authority
from fault_engine import FaultEngine, big_status, ticking_system_status
from harness import BIN, PATIENCE, Cluster, clean_environment, get, until
from ws_client import BINARY, PING, V1, Raw, Refused, frame, rising

POLL = "system.status"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """An authority that nobody here believes."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def secure(tmp_path_factory, authority):
    """One cluster behind TLS for all tests that leave it as they found it."""
    engine = FaultEngine().start()
    engine.set(POLL, ticking_system_status())
    with Cluster(tmp_path_factory.mktemp("secure"), engine, tls=authority) as cluster:
        with cluster.v1(POLL, "agent.status") as client:
            client.wait(POLL)
            client.wait("agent.status")
        yield cluster
    engine.stop()


def https(cluster, path="/"):
    return f"https://127.0.0.1:{cluster.edge.port}{path}"


def wss(cluster):
    return f"wss://127.0.0.1:{cluster.edge.port}/ws"


def run(command, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60 * PATIENCE,
                          **options)


def serial_of(tls):
    return tls.getpeercert()["serialNumber"]


@contextlib.contextmanager
def connected(cluster, context, **options):
    with socket.create_connection(("127.0.0.1", cluster.edge.port), timeout=5 * PATIENCE) as plain:
        with context.wrap_socket(plain, server_hostname="127.0.0.1", **options) as tls:
            yield tls


# Clients that no one here wrote -----------------------------------------------------------------------------------------

def test_curl_gets_state_page_and_metrics(secure, authority):
    for path, part in (("/api/v1/state", '"system.status"'), ("/", "<html"), ("/metrics", "sigmacast_edge_clients")):
        done = run(["curl", "-sS", "--fail", "--noproxy", "*", "--cacert", authority.certificate, https(secure, path)])
        assert done.returncode == 0, done.stderr
        assert part in done.stdout
    metrics = secure.edge.metrics()
    assert metrics["sigmacast_edge_tls_handshakes_total"] >= 3
    expires = metrics["sigmacast_edge_certificate_expires_timestamp_seconds"]
    assert 9 * 86_400 < expires - time.time() < 11 * 86_400


def test_npm_ws_follows_the_feed(secure, authority, npm_folder):
    told = run(["node", "client.js", wss(secure), V1], cwd=npm_folder,
               env={**os.environ, "NODE_EXTRA_CA_CERTS": str(authority.certificate)})
    assert told.returncode == 0, told.stderr
    told = json.loads(told.stdout)
    assert told["protocol"] == V1 and told["close"] == 1000 and told["pong"]
    assert all(m["quality"] == "live" for m in told["messages"] if m["type"] == POLL)


def test_python_websockets_follows_the_feed_and_closes_cleanly(secure, authority):
    async def follow():
        async with websockets.connect(wss(secure), ssl=authority.context(), subprotocols=[V1]) as client:
            await client.send('{"type":"subscribe","id":1,"data":{"types":["system.status"]}}')
            values = []
            while len(values) < 3:
                message = json.loads(await asyncio.wait_for(client.recv(), 10 * PATIENCE))
                values += [message] if message["type"] == POLL else []
        assert client.close_code == 1000
        return values
    assert [value["quality"] for value in asyncio.run(follow())] == ["live"] * 3


def test_clients_that_do_not_know_the_authority_refuse(secure, stranger, npm_folder):
    assert run(["curl", "-sS", "--noproxy", "*", https(secure)]).returncode == 60
    done = run(["curl", "-sS", "--noproxy", "*", "--cacert", stranger.certificate, https(secure)])
    assert done.returncode == 60, done.stderr
    done = run(["node", "client.js", wss(secure), V1], cwd=npm_folder)
    assert done.returncode != 0 and "certificate" in done.stderr

    async def connect():
        async with websockets.connect(wss(secure), ssl=stranger.context()):
            pass
    with pytest.raises(ssl.SSLCertVerificationError):
        asyncio.run(connect())


# The command line ---------------------------------------------------------------------------------------------------------

def test_the_command_line_verifies_and_says_what_it_does_not_believe(secure, authority, stranger):
    for command in (["state"], ["tail", POLL, "--count", "1", "--for", "20s"]):
        name, *rest = command
        url = https(secure) if name == "state" else wss(secure)
        for trust in (["--ca", authority.certificate], ["--pin", secure.options["edge"]["tls_certificate"]]):
            done = secure.command(name, url, *trust, *rest)
            assert done.returncode == 0, done.stderr
            assert "system.status" in done.stdout
        for trust in ([], ["--ca", stranger.certificate], ["--pin", stranger.certificate]):
            done = secure.command(name, url, *trust, *(["--for", "2s"] if name == "tail" else []))
            assert done.returncode == 1
            assert "certificate is not believed" in done.stderr and "--ca FILE" in done.stderr, done.stderr
        done = secure.command(name, url, "--insecure", *rest)
        assert done.returncode == 0
        assert "not looked at (--insecure)" in done.stderr
    done = secure.command("state", f"https://localhost:{secure.edge.port}", "--ca", authority.certificate)
    assert done.returncode == 0, done.stderr


def test_the_name_counts_for_an_authority_and_not_for_a_pinned_certificate(make_cluster, engine, authority):
    other = authority.issue("nas", names="DNS:nas.example")
    cluster = make_cluster(engine, polls=[POLL], tls=authority, edge_options=other.options, start=False)
    cluster.tls.check_hostname = False
    cluster.start()
    done = cluster.command("state", https(cluster), "--ca", authority.certificate)
    assert done.returncode == 1 and "IP address mismatch" in done.stderr, done.stderr
    done = cluster.command("state", https(cluster), "--pin", other.certificate)
    assert done.returncode == 0, done.stderr


def test_status_believes_the_configured_certificate_alone(secure, stranger):
    config = secure.command_config()
    edge = secure.options["edge"]
    plain = config.read_text()

    def status(certificate):
        config.write_text(plain.replace("[edge]", f"[edge]\ntls_certificate = {json.dumps(str(certificate))}\n"
                                        f"tls_key = {json.dumps(edge['tls_key'])}"))
        return secure.command("status", "--edges", "1", "--json", "--config", config)
    done = status(edge["tls_certificate"])
    assert done.returncode == 0, done.stdout + done.stderr
    process = json.loads(done.stdout)["processes"][2]
    assert process["ready"] and process["address"].startswith("https://")
    done = status(stranger.certificate)
    assert done.returncode == 1
    assert "certificate is not believed" in json.loads(done.stdout)["processes"][2]["problem"]


# Configuration --------------------------------------------------------------------------------------------------------------

def check(cluster):
    cluster.edge.config_path.write_text(cluster.edge.config["text"]())
    return run([BIN / "sigmacast-edge", "--check", "--config", cluster.edge.config_path], env=clean_environment())


@pytest.mark.parametrize("missing", ["tls_certificate", "tls_key"])
def test_half_a_configuration_is_refused_by_name(make_cluster, authority, missing):
    options = {name: value for name, value in authority.issue("half").options.items() if name != missing}
    cluster = make_cluster(start=False, edge_options=options)
    done = check(cluster)
    assert done.returncode == 2
    assert f"edge.{missing} is missing" in done.stderr and "sigmacast.toml:" in done.stderr
    cluster.edge.start(ready=False)
    assert cluster.edge.process.wait(10 * PATIENCE) == 2
    assert f"edge.{missing} is missing" in cluster.edge.log()


def test_files_that_cannot_be_used_are_refused_by_name(make_cluster, authority, tmp_path):
    good = authority.issue("good")
    other = authority.issue("other")
    none = tmp_path / "none.pem"
    for options, words in (({"tls_certificate": str(none)}, ["edge.tls_certificate", str(none), "No such file"]),
                           ({"tls_key": str(none)}, ["edge.tls_key", str(none), "No such file"]),
                           ({"tls_key": str(other.key)}, ["edge.tls_key", str(other.key), "is not the key"]),
                           ({"tls_certificate": str(good.key)}, ["edge.tls_certificate", "holds no certificate"])):
        cluster = make_cluster(start=False, edge_options={**good.options, **options})
        done = check(cluster)
        assert done.returncode == 2
        assert all(word in done.stderr for word in words), done.stderr
    assert check(make_cluster(start=False, edge_options=good.options)).returncode == 0


def test_an_expired_certificate_is_a_warning(make_cluster, engine, authority):
    expired = authority.issue("expired", begins="20200101000000Z", ends="20200201000000Z")
    cluster = make_cluster(engine, polls=[POLL], edge_options=expired.options, start=False)
    done = check(cluster)
    assert done.returncode == 0
    assert "has expired at 2020-02-01T00:00:00" in done.stdout
    lenient = ssl.create_default_context()
    lenient.check_hostname, lenient.verify_mode = False, ssl.CERT_NONE
    cluster.edge.tls = lenient
    cluster.start()
    assert "has expired at 2020-02-01T00:00:00" in cluster.edge.log()


def test_tls_does_not_replace_authentication(make_cluster, authority):
    cluster = make_cluster(start=False, edge_options={**authority.issue("open").options, "host": "0.0.0.0"})
    done = check(cluster)
    assert done.returncode == 2 and "clients are not authenticated" in done.stderr


# Renewal --------------------------------------------------------------------------------------------------------------------

@pytest.fixture
def renewable(make_cluster, engine, authority):
    engine.set(POLL, ticking_system_status())
    issued = authority.issue("renewable")
    cluster = make_cluster(engine, polls=[POLL], tls=authority, edge_options=issued.options)
    cluster.issued = issued
    return cluster


def test_sighup_has_a_renewed_certificate_served_while_old_connections_go_on(renewable, authority):
    first = renewable.issued.serial
    with renewable.v1(POLL) as old:
        assert serial_of(old._socket) == first
        renewed = authority.issue("renewed", begins="20260101000000Z", ends="20400101000000Z")
        renewed.copy_over(renewable.issued)
        renewable.edge.signal(signal.SIGHUP)
        until(lambda: "certificate reloaded" in renewable.edge.log())
        with renewable.v1(POLL) as new:
            assert serial_of(new._socket) == renewed.serial != first
            new.wait(POLL)
        seen = len(old.of(POLL))
        old.wait(lambda m: len(old.of(POLL)) >= seen + 3, what="events on the old connection")
        assert old.request({"type": "ping"}, "pong")
        assert serial_of(old._socket) == first
    metrics = renewable.edge.metrics()
    assert metrics["sigmacast_edge_certificate_expires_timestamp_seconds"] == 2_208_988_800  # 2040.
    assert metrics["sigmacast_edge_certificate_reload_failures_total"] == 0


def test_a_renewal_that_cannot_be_used_is_refused_and_the_old_certificate_goes_on_serving(renewable, authority):
    first = renewable.issued.serial
    key = renewable.issued.key.read_bytes()
    other = authority.issue("another")
    for times, (spoil, why) in enumerate((
            (lambda: renewable.issued.key.write_bytes(other.key.read_bytes()), "is not the key"),
            (lambda: renewable.issued.key.unlink(), "cannot be read"),
            (lambda: renewable.issued.key.write_bytes(b"garbage"), "holds no private key")), start=1):
        spoil()
        renewable.edge.signal(signal.SIGHUP)
        until(lambda: renewable.edge.log().count("certificate not reloaded") == times)
        assert why in renewable.edge.log().splitlines()[-1] and "edge.tls_key" in renewable.edge.log().splitlines()[-1]
        with renewable.v1(POLL) as client:
            assert serial_of(client._socket) == first
            client.wait(POLL)
        assert renewable.edge.metrics()["sigmacast_edge_certificate_reload_failures_total"] == times
    renewable.issued.key.write_bytes(key)
    renewable.edge.signal(signal.SIGHUP)
    until(lambda: "certificate reloaded" in renewable.edge.log())


def test_sighup_without_tls_ends_nothing(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL])
    with cluster.v1(POLL) as client:
        cluster.edge.signal(signal.SIGHUP)
        until(lambda: "no certificate is configured" in cluster.edge.log())
        assert client.request({"type": "ping"}, "pong")


# What is spoken ---------------------------------------------------------------------------------------------------------------

def test_tls_1_2_and_1_3_are_spoken_and_1_1_and_old_ciphers_are_refused(secure, authority):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = authority.context()
        context.minimum_version = context.maximum_version = version
        with connected(secure, context) as tls:
            assert tls.version() == {771: "TLSv1.2", 772: "TLSv1.3"}[version]
    old = authority.context()
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="(?i)protocol.version"):
        with connected(secure, old):
            pass
    for cipher in ("AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA"):  # No forward secrecy; CBC.
        weak = authority.context()
        weak.maximum_version = ssl.TLSVersion.TLSv1_2
        weak.set_ciphers(cipher)
        with pytest.raises(ssl.SSLError, match="(?i)handshake.failure"):
            with connected(secure, weak):
                pass


@pytest.mark.parametrize("size", [100, 1_000, 20_000])
def test_what_is_sent_together_with_the_handshake_is_not_lost(secure, authority, size):
    """In one record, of which the request's reader takes the first 512 bytes; in several."""
    with connected(secure, authority.context()) as tls:
        tls.sendall("\r\n".join(["GET /ws HTTP/1.1", *Raw.lines(), "", ""]).encode()
                    + frame(PING, b"first") + frame(BINARY, b"x" * size) + frame(PING, b"last"))
        received = b""
        while b"\x8a\x04last" not in received:
            received += (came := tls.recv(65_536))
            assert came, "it ended"
        assert b"\x8a\x05first" in received


def test_alpn_is_http_1_1_or_nothing_else(secure, authority):
    context = authority.context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with connected(secure, context) as tls:
        assert tls.selected_alpn_protocol() == "http/1.1"
    context = authority.context()
    context.set_alpn_protocols(["h2"])
    with pytest.raises(ssl.SSLError, match="(?i)application.protocol"):
        with connected(secure, context):
            pass


def test_a_session_is_resumed_and_renegotiation_is_refused(secure, authority):
    context = authority.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with connected(secure, context) as tls:
        session = tls.session
    with connected(secure, context, session=session) as tls:
        assert tls.session_reused
    done = run(["openssl", "s_client", "-connect", f"127.0.0.1:{secure.edge.port}", "-tls1_2", "-CAfile",
                authority.certificate], input="R\n")
    assert "no renegotiation" in done.stderr or "no_renegotiation" in done.stderr, done.stderr[-500:]


def test_a_request_in_the_plain_is_told_that_the_port_speaks_tls(secure):
    status, _, body = get(secure.edge.port, "/api/v1/state")
    assert status == 400 and "speaks TLS: use https://" in body["error"]
    with pytest.raises(Refused, match="speaks TLS"):
        secure.client(tls=None)


def test_tls_to_a_plain_port_is_refused_and_hurts_nobody(shared, authority):
    with pytest.raises((ssl.SSLError, ConnectionError)):
        with connected(shared, authority.context()):
            pass
    assert shared.edge.readiness()[0] == 200


def test_a_page_of_the_same_host_may_connect_if_it_came_through_tls(secure):
    here = f"127.0.0.1:{secure.edge.port}"
    secure.client(headers={"Origin": f"https://{here}"}).close()
    for origin in (f"http://{here}", "https://evil.example"):
        with pytest.raises(Refused) as refused:
            secure.client(headers={"Origin": origin})
        assert refused.value.status == 403
    headers = get(secure.edge.port, "/api/v1/state", headers={"Origin": f"https://{here}"}, tls=secure.tls)[1]
    assert headers["access-control-allow-origin"] == f"https://{here}"
    assert "strict-transport-security" not in headers


# Peers that mean no good ---------------------------------------------------------------------------------------------------------

def test_peers_that_stop_in_the_middle_of_the_handshake_delay_nobody(secure):
    hello = client_hello()
    half = []
    for size in (0, 1, 5, 6, 100, len(hello), len(hello)) * 10:
        peer = socket.create_connection(("127.0.0.1", secure.edge.port), timeout=30 * PATIENCE)
        peer.sendall(hello[:size])
        half.append(peer)
    began = time.monotonic()
    with secure.v1(POLL) as client:
        mark = client.mark
        client.wait(lambda m: len(client.of(POLL, after=mark)) >= 3)
    assert time.monotonic() - began < 5 * PATIENCE
    # They are closed by themselves, 10 s after they came.
    for peer in half:
        while peer.recv(65_536):
            pass
        peer.close()
    assert secure.edge.metrics()["sigmacast_edge_tls_handshakes_failed_total"] >= len(half)


def client_hello():
    """The bytes of a good one."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_garbage_hurts_nobody(secure, authority):
    chance = random.Random(20261121)
    hello = client_hello()
    descriptors = lambda: len(os.listdir(f"/proc/{secure.edge.process.pid}/fd"))
    with secure.v1(POLL) as client:
        client.wait(POLL)
        until(lambda: get(secure.edge.port, "/api/v1/health", tls=secure.tls)[2]["clients"] == 1)
        before = descriptors()
        rss = secure.edge.stat()[1]
        for turn in range(200):
            spoiled = bytearray(hello)
            for _ in range(chance.randrange(1, 8)):
                spoiled[chance.randrange(len(spoiled))] = chance.randrange(256)
            noise = (chance.randbytes(chance.randrange(1, 5_000)), bytes(spoiled), hello + chance.randbytes(500),
                     b"\x16\x03\x01" + chance.randbytes(2) + hello[5:], b"\x15\x03\x01\x00\x02\x02\x28")[turn % 5]
            with socket.create_connection(("127.0.0.1", secure.edge.port), timeout=5 * PATIENCE) as peer:
                with contextlib.suppress(OSError):
                    peer.sendall(noise)
                if turn % 3 == 0:
                    with contextlib.suppress(OSError):
                        peer.shutdown(socket.SHUT_WR)
                        while peer.recv(65_536):
                            pass
        for turn in range(50):  # After a good handshake: records that nobody has encrypted, a cut in the middle.
            with socket.create_connection(("127.0.0.1", secure.edge.port), timeout=5 * PATIENCE) as plain:
                with authority.context().wrap_socket(plain, server_hostname="127.0.0.1") as tls:
                    tls.sendall(b"GET /api/v1/state HTTP/1.1\r\nHost: localhost\r\n")
                    descriptor = socket.socket(fileno=os.dup(tls.fileno()))
                    with descriptor, contextlib.suppress(OSError):
                        descriptor.sendall(b"\x17\x03\x03" + chance.randbytes(chance.randrange(2, 3_000)))
        mark = client.mark
        client.wait(lambda m: len(client.of(POLL, after=mark)) >= 3)
        until(lambda: descriptors() <= before + 1, timeout=15, what="their descriptors are free again")
        assert secure.edge.stat()[1] - rss < (64 << 20) * PATIENCE
    assert secure.edge.process.poll() is None
    assert secure.edge.log().count("\n") < 100, "a peer that is gone is nothing to log"


def test_a_reader_that_stalls_delays_no_other(make_cluster, engine, authority):
    engine.set(POLL, big_status())
    cluster = make_cluster(engine, tls=authority, polls={POLL: {"interval": 0.02, "deadline": 0.5}})
    with cluster.v1(POLL) as good:
        good.wait(POLL)
        slow = cluster.v1(POLL, receive_buffer=4096)
        slow.stop_reading()
        legacy = cluster.client(receive_buffer=4096)
        legacy.stop_reading()
        mark = good.mark
        good.wait(lambda m: len(good.of(POLL, after=mark)) >= 200, timeout=30)
        values = good.of(POLL, after=mark)
        gaps = [b.at - a.at for a, b in zip(values, values[1:])]
        assert sorted(gaps)[int(len(gaps) * 0.95)] < 0.3 * PATIENCE
        assert cluster.edge.stat()[1] < (300 << 20) * PATIENCE
        # It is told what it missed, and is then up to date, or was closed with the code that says why.
        slow.go_on_reading()
        try:
            newest = good.wait_next(POLL)
            slow.wait(lambda m: m.type == POLL and m.pos >= newest.pos, timeout=15)
            assert slow.of("skipped")
            assert rising(slow.messages)
        except AssertionError:
            if not slow.closed:
                raise
            assert slow.closed[0] == 4102
        legacy.cut()
        slow.cut()


def test_five_megabytes_of_state_arrive_whole(make_cluster, engine, authority):
    cluster = make_cluster(engine, polls=[POLL], tls=authority)
    cluster.publish({"type": "big", "kind": "state", "key": f"k{i}", "data": {"pad": f"{i}" * 500_000}} for i in range(10))
    with cluster.v1("big") as client:
        client.wait(lambda m: len(client.of("big")) >= 10, timeout=15)
        assert {m["key"]: m.data["pad"] for m in client.of("big")} == {f"k{i}": f"{i}" * 500_000 for i in range(10)}
    pads = {value["key"]: value["data"]["pad"] for value in cluster.state("big")["values"]}
    assert pads == {f"k{i}": f"{i}" * 500_000 for i in range(10)}
    # Through a window that is read a little at a time.
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(10 * PATIENCE)
        plain.connect(("127.0.0.1", cluster.edge.port))
        with cluster.tls.wrap_socket(plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False) as tls:
            tls.sendall(b"GET /api/v1/state/big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            received = b""
            while chunk := tls.recv(1_000):
                received += chunk  # The end is a close_notify: a cut would raise.
    body = json.loads(received.split(b"\r\n\r\n", 1)[1])
    assert {value["key"]: value["data"]["pad"] for value in body["values"]} == pads


def test_a_terminated_edge_says_goodbye_through_tls(make_cluster, engine, authority):
    cluster = make_cluster(engine, polls=[POLL], tls=authority)

    async def until_closed():
        async with websockets.connect(wss(cluster), ssl=authority.context()) as client:
            await client.recv()
            cluster.edge.process.terminate()
            with pytest.raises(websockets.ConnectionClosed):
                while True:
                    await client.recv()
            return client.close_code
    assert asyncio.run(until_closed()) in (1001, 4200)
    until(lambda: cluster.edge.process.poll() == 0, what="the edge ended with 0")


def test_connections_that_are_cut_leave_nothing_behind(make_cluster, engine, authority):
    engine.set(POLL, big_status())
    cluster = make_cluster(engine, tls=authority, polls={POLL: {"interval": 0.02, "deadline": 0.5}})
    descriptors = lambda: len(os.listdir(f"/proc/{cluster.edge.process.pid}/fd"))
    clients = lambda: cluster.edge.metrics()["sigmacast_edge_clients"]
    with cluster.client() as good:
        good.wait(POLL)
        assert clients() == 1
        before = until(lambda: (n := descriptors()) == descriptors() and n)
        silent = [cluster.client(receive_buffer=4096) for _ in range(20)]
        for client in silent:
            client.stop_reading()
        until(lambda: clients() == 21)
        mark = good.mark
        good.wait(lambda m: len(good.of(POLL, after=mark)) >= 20, timeout=15)
        for client in silent:
            client.reset()
        until(lambda: clients() == 1, what="those that were cut are gone")
        until(lambda: descriptors() <= before, what="and their descriptors")
    errors = [line for line in cluster.edge.log().splitlines() if " error " in line or " warn " in line]
    assert not errors, errors


def test_ops_run_starts_asks_and_shows_edges_with_tls(authority):
    from ops_run_test import Instance
    if not (BIN / "sigmacast-engine").exists():
        pytest.skip(f"no engine in {BIN}")
    one = Instance()
    try:
        issued = authority.issue("instance", names="DNS:nas.example")
        lines = ["[edge]", 'cors_origins = ["https://nas.example"]']  # On loopback it answers to no other name.
        for name, file in (("tls_certificate", issued.certificate), ("tls_key", issued.key)):
            copy = one.folder / f"{name}.pem"
            copy.write_bytes(file.read_bytes())
            copy.chmod(0o644)  # The user to whom root hands over must read it.
            lines.append(f"{name} = {json.dumps(str(copy))}")
        one.config.write_text(one.config.read_text() + "\n".join(lines) + "\n")
        started = one.run("--detach")
        assert started.returncode == 0, started.stdout + started.stderr
        pages = re.findall(r"page +(https://\S+)", started.stdout)
        assert len(pages) == 2 and "ws://" not in started.stdout.replace("wss://", "")
        done = run(["curl", "-sS", "--fail", "--noproxy", "*", "--cacert", authority.certificate, "--connect-to",
                    f"nas.example:443:127.0.0.1:{one.edges[0]}", "https://nas.example/"])
        assert "<html" in done.stdout, done.stderr
        follow = re.search(r"terminal +(\S+ tail .*)", started.stdout)[1]
        live = run(["bash", "-c", follow + " --count 1"], env=one.environment)
        assert live.returncode == 0 and "connected" in live.stdout, live.stderr
        status = one.run("--status")
        assert status.returncode == 0 and f"edge-{one.edges[0]}: ready" in status.stdout, status.stdout
        for command in (["status"], ["state"]):
            told = run([BIN / "sigmacast", *command, "--data", one.data], env=clean_environment())
            assert told.returncode == 0 and (command == ["state"] or "https://" in told.stdout), told.stdout + told.stderr
        added = one.run("--add-edge")
        assert added.returncode == 0 and "https://" in added.stdout, added.stdout + added.stderr
    finally:
        one.remove()

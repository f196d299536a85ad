"""An edge with several io threads: one port, one set of limits, and whichever thread a client meets tells it the same."""

import contextlib
import http.client
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import tempfile

import pytest

import tokens
from certificates import Authority
from harness import BIN, PATIENCE, clean_environment, get, parse_metrics, until
from ws_client import V1, Client, Refused

POLL = "system.status"
TWO = {"io_threads": 2}
MANY = 24  # So many clients on one of two threads alone: one time in eight million.


def is_live(message):
    return message.type == POLL and message["quality"] == "live"


def clients(cluster, count, *topics, **options):
    """So many v1 clients, whose answers have come."""
    stack = contextlib.ExitStack()
    stack.all = [stack.enter_context(cluster.v1(*topics, **options)) for _ in range(count)]
    return stack


def of_threads(cluster, name):
    """A metric of each thread, as any of them tells it."""
    status, _, body = get(cluster.edge.port, "/metrics", tls=cluster.edge.tls)
    assert status == 200
    found = parse_metrics(body.decode())
    return [found[f'{name}{{thread="{thread}"}}'] for thread in range(2)]


def publish(cluster, count, first=1):
    cluster.publish({"type": "note", "data": {"n": n}} for n in range(first, first + count))


def notes(client):
    return [m.data["n"] for m in client.of("note")]


def test_every_client_of_every_thread_sees_all_and_the_metrics_are_of_all(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], edge_options=TWO)
    with clients(cluster, MANY, POLL, "note") as those:
        publish(cluster, 50)
        for client in those.all:
            client.wait(is_live)
            until(lambda client=client: len(notes(client)) >= 50, what="every event")
            assert notes(client) == list(range(1, 51))
        until(lambda: sum(of_threads(cluster, "sigmacast_edge_clients")) == MANY, what="all are counted")
        each = of_threads(cluster, "sigmacast_edge_clients")
        assert min(each) > 0, "the system spreads them"
        assert min(of_threads(cluster, "sigmacast_edge_messages_sent_total")) > 50
        assert get(cluster.edge.port, "/api/v1/health")[2]["clients"] == MANY, "whichever is asked"


def test_limits_are_those_of_the_edge_and_not_of_a_thread(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], edge_options={**TWO, "clients_max": 8})
    with clients(cluster, 8, POLL):
        for _ in range(MANY):
            with pytest.raises(Refused) as refused:
                Client(cluster.edge.port, V1)
            assert refused.value.status == 503
    until(lambda: cluster.edge.metrics()["sigmacast_edge_clients"] == 0)
    with cluster.v1(POLL) as client:
        client.wait(is_live)


def test_a_users_connections_are_counted_over_all_threads(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], edge_options={**TWO, "clients_per_user_max": 6, "clients_waiting_max": 5},
                           auth_options={"required": True, "secret": tokens.SECRET})
    ann = {"Authorization": "Bearer " + tokens.token()}
    with clients(cluster, 6, POLL, headers=ann):
        for _ in range(MANY):
            with pytest.raises(Refused) as refused:
                Client(cluster.edge.port, V1, headers=ann)
            assert refused.value.status == 503
        with contextlib.ExitStack() as waiting:
            for _ in range(5):
                waiting.enter_context(Client(cluster.edge.port, V1))  # Without a token yet.
            for _ in range(MANY):
                with pytest.raises(Refused) as refused:
                    Client(cluster.edge.port, V1)
                assert refused.value.status == 503


def test_who_comes_back_to_another_thread_misses_nothing(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], edge_options=TWO)
    seen, cursor = [], None
    for turn in range(12):
        publish(cluster, 10, first=1 + 10 * turn)
        with cluster.v1() as client:
            client.subscribe("note", resume=cursor) if cursor else client.subscribe("note")
            publish(cluster, 1, first=1000 + turn)
            until(lambda client=client, turn=turn: 1000 + turn in notes(client))
            if turn:
                seen += [n for n in notes(client) if n < 1000]
            last = client.of("note")[-1]
            cursor = {"epoch": last["epoch"], "pos": last.pos}
    assert seen == list(range(11, 121)), "what was told while nobody was there, once and in order"


def test_each_thread_says_when_the_feed_is_gone_and_when_it_is_back(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], edge_options=TWO)
    with clients(cluster, MANY, POLL) as those:
        for client in those.all:
            client.wait(is_live)
        marks = [client.mark for client in those.all]
        cluster.broker.kill()
        for client, mark in zip(those.all, marks):
            client.wait(lambda m: m.get("quality") == "stale" and m.get("reason") == "BROKER_UNREACHABLE", after=mark)
        marks = [client.mark for client in those.all]
        cluster.broker.start()
        for client, mark in zip(those.all, marks):
            client.wait(is_live, after=mark)


def test_on_sigterm_every_thread_drains(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], edge_options=TWO)
    with clients(cluster, MANY, POLL) as those:
        assert cluster.edge.terminate() == 0
        for client in those.all:
            assert client.wait("goodbye").data["code"] == 4200
            assert client.wait_closed() == (4200, "draining")
    assert cluster.edge.log().count("edge stopped") == 1


def test_a_thread_without_clients_goes_on_until_all_end(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], edge_options={**TWO, "drain_notice": f"{2 * PATIENCE}s"})
    with clients(cluster, 1, POLL), contextlib.ExitStack() as stack:
        connections = [http.client.HTTPConnection("127.0.0.1", cluster.edge.port, timeout=5 * PATIENCE) for _ in range(MANY)]
        for connection in connections:
            stack.callback(connection.close)
            connection.request("GET", "/api/v1/ready")
            assert connection.getresponse().read()
        cluster.edge.process.terminate()
        until(lambda: "draining" in cluster.edge.log())
        until(lambda: get(cluster.edge.port, "/api/v1/ready")[0] == 503)
        for connection in connections:
            connection.request("GET", "/api/v1/ready")
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())["status"]) == (503, "draining")
    assert cluster.edge.process.wait(10 * PATIENCE) == 0


def test_a_renewed_certificate_is_served_by_every_thread(make_cluster, engine, tmp_path):
    authority = Authority(tmp_path / "authority")
    issued = authority.issue("renewable")
    cluster = make_cluster(engine, polls=[POLL], edge_options={**TWO, **issued.options}, tls=authority)
    renewed = authority.issue("renewed")
    renewed.copy_over(issued)
    cluster.edge.signal(signal.SIGHUP)
    until(lambda: "certificate reloaded" in cluster.edge.log())
    serials = set()
    for _ in range(MANY):
        with cluster.v1(POLL) as client:
            serials.add(client._socket.getpeercert()["serialNumber"])
    assert serials == {renewed.serial}


def test_a_port_of_another_edge_is_refused_though_both_would_share_theirs(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], edge_options=TWO)
    again = subprocess.run([BIN / "sigmacast-edge", "--config", cluster.edge.config_path, "--data-dir", cluster.folder / "other"],
                           capture_output=True, text=True, timeout=20, env=clean_environment())
    assert again.returncode == 1 and "is in use by another program" in again.stdout + again.stderr
    with cluster.v1(POLL) as client:
        client.wait(is_live)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a user of its own, whose processes and threads are counted: root")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_start_without_room_for_its_threads_ends_with_the_reason(make_cluster, threads):
    """Each io thread needs four: its own, its bus's, and two of ZeroMQ's. The thread sanitizer has one of its own."""
    config = make_cluster(None, start=False, edge_options={"io_threads": threads}).edge.config["text"]()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        program = shutil.copy(BIN / "sigmacast-edge", folder)
        path = pathlib.Path(folder, "sigmacast.toml")
        path.write_text(config)
        path.chmod(0o644)

        def as_nobody_with(most, user):
            resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
            os.setgid(user)
            os.setuid(user)
        user = 1_000_000 + 2 * os.getpid() + threads  # Nobody else's.
        most = 4 * threads - 1 + (1 if PATIENCE >= 10 else 0)
        ended = subprocess.run([program, "--config", path], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10 * PATIENCE,
                               cwd=folder, env=clean_environment(), preexec_fn=lambda: as_nobody_with(most, user))
    assert ended.returncode == 1
    assert ("no thread for the bus" if threads == 1 else "no io thread") in ended.stderr
    assert "ulimit -u" in ended.stderr


def test_of_two_that_are_started_at_once_on_one_port_one_has_it(make_cluster, engine):
    """Or none: where both begin to listen at the very same moment the system may refuse both."""
    cluster = make_cluster(engine, polls=[POLL], edge_options=TWO)
    cluster.edge.kill()
    refused = 0
    for _ in range(20):
        both = [subprocess.Popen([BIN / "sigmacast-edge", "--config", cluster.edge.config_path], stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE, env=clean_environment(), cwd=cluster.folder) for _ in range(2)]
        try:
            until(lambda both=both: any(each.poll() is not None for each in both), what="one has ended")
            for loser in (each for each in both if each.poll() is not None):
                assert loser.returncode == 1 and b"is in use by another program" in loser.stderr.read()
                refused += 1
        finally:
            for each in both:
                each.kill()
                each.communicate()
    assert 20 <= refused < 40, "else nobody ever has it"

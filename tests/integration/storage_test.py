"""The broker and its database, with real processes: a disk that refuses and recovers, and files that are damaged."""

import glob
import os
import random
import resource
import sqlite3
import stat
import subprocess

from harness import BIN, clean_environment, until
from resume_test import back, bookmark, notes, publish
from ws_client import V1

POLL = "system.status"
PAGE = 4096


def value(durable):
    return lambda m: m.type == POLL and m["quality"] == "live" and m.get("durable", True) is durable


def test_while_the_disk_refuses_values_flow_undurable_and_then_it_recovers_by_itself(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL])
    # As a full disk: no file grows any more. The log is a file too: it must not stand in the way.
    cluster.broker.kill()
    cluster.broker.process = subprocess.Popen([BIN / cluster.broker.binary, "--config", cluster.broker.config_path],
                                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                              cwd=cluster.broker.folder, env=clean_environment())
    cluster.broker.started_at = 0
    cluster.broker.wait_ready()
    pid = cluster.broker.process.pid
    with cluster.v1(POLL) as client:
        before = client.wait(value(True))
        soft, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, most))
        flowing = client.wait_next(value(False), timeout=20)
        assert flowing.pos is None and flowing.seq is None, "nothing that is not in the log has a position"
        assert client.wait_next(value(False)).data["uptime"] > flowing.data["uptime"]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, most))
        again = client.wait_next(value(True), timeout=20)
        assert again.pos > before.pos and again.data["uptime"] > flowing.data["uptime"]
        until(lambda: cluster.broker.readiness()[1]["durable"], what="the broker is durable again")
    assert cluster.broker.process.poll() is None


def test_a_broker_that_is_started_on_a_full_disk_waits_for_room(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL])
    with cluster.v1(POLL) as client:
        client.wait(value(True))
        assert cluster.broker.terminate() == 0
        os.unlink(f"{cluster.database}.reserve")
        full = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        cluster.broker.process = subprocess.Popen([BIN / cluster.broker.binary, "--config", cluster.broker.config_path],
                                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                                  cwd=cluster.broker.folder, env=clean_environment(), preexec_fn=full)
        cluster.broker.started_at = 0
        assert "no room for the database" in cluster.broker.process.stderr.readline()
        stale = client.wait(lambda m: m.type == "transition" and m.get("reason") == "BROKER_UNREACHABLE")
        assert cluster.broker.process.poll() is None
        resource.prlimit(cluster.broker.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        cluster.broker.wait_ready()
        client.wait(value(True), after=client.messages.index(stale))


def test_a_damaged_database_is_put_aside_and_the_last_known_good_goes_on_in_a_new_epoch(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL, "agents.list"])
    with cluster.v1(POLL, "agent.status") as client:
        old = client.wait(value(True))
        client.wait("agent.status")
    engine.refuse()  # From here on, only the database knows.
    assert cluster.broker.terminate() == 0
    path = str(cluster.database)
    rotten = bytearray(open(path, "rb").read())
    rotten[0:8] = b"rotten!!"  # SQLite will have nothing to do with it.
    with open(path, "wb") as file:
        file.write(rotten)
    cluster.broker.start()
    aside = [name for name in glob.glob(path + ".damaged-*") if not name.endswith("-wal")]
    assert len(aside) == 1 and open(aside[0], "rb").read() == bytes(rotten), "kept as it was"
    log = cluster.broker.log()
    assert "repaired at start" in log and "the database was damaged" in log and aside[0] in log
    with cluster.v1(POLL, "agent.status") as client:
        # The edge may not have heard of it yet, and show what it had.
        kept = client.wait(lambda m: m.type == POLL and m["quality"] == "stale" and m["epoch"] != old["epoch"])
        assert kept.data["hostname"] == old.data["hostname"]
        client.wait(lambda m: m.type == "agent.status" and m["quality"] == "stale")
        engine.listen()
        assert client.wait_next(value(True), timeout=20).pos > old.pos


def test_a_database_with_random_damage_always_starts_and_serves(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL, "agents.list"])
    with cluster.v1(POLL) as client:
        client.wait(value(True))
    dice = random.Random(4)
    path = str(cluster.database)
    for _ in range(5):
        cluster.broker.kill()
        with open(path, "r+b") as file:
            pages = os.path.getsize(path) // PAGE
            for _ in range(10):
                file.seek(dice.randrange(pages) * PAGE + dice.randrange(PAGE))
                file.write(bytes([dice.randrange(256)]))
        cluster.broker.start()
        with cluster.v1(POLL) as client:
            client.wait(value(True), timeout=20)


def find_page(path, content):
    """The only page of the file that has this, as the broker wrote it."""
    file = open(path, "rb").read()
    pages = [at for at in range(0, len(file), PAGE) if content in file[at:at + PAGE]]
    assert len(pages) == 1, pages
    return pages[0]


def test_a_row_that_rots_under_the_broker_is_told_as_a_gap_and_to_the_operator_until_a_restart(make_cluster):
    cluster = make_cluster(None, origins=())
    publish(cluster, [0])
    cursor = bookmark(cluster)
    publish(cluster, [1, 2, 3])
    assert cluster.command("status", "--config", cluster.command_config(), "--edges", "1").stdout.count("damage") == 0
    with sqlite3.connect(cluster.database) as database:
        database.execute("UPDATE log SET body = x'81a16e2a' WHERE pos = 3")  # {"n": 42}
    database.close()
    for again in (False, True):
        cluster.add_edge().start()  # It remembers nothing, so it asks the broker.
        with back(cluster, cursor, edge=-1) as client:
            lost = client.wait("skipped").data
            assert (lost["topic"], lost["from"], lost["to"], lost["why"]) == ("note", 3, 3, "lost")
            assert notes(client, 2)[:2] == [1, 3]
        damage = cluster.broker.readiness()[1].get("damage", "")
        status = cluster.command("status", "--config", cluster.command_config(), "--edges", "1")
        assert ("position 3 is damaged" in damage) != again
        assert cluster.broker.metrics()["sigmacast_broker_damaged"] == (0 if again else 1)
        assert ("damaged database" in status.stdout) != again
        if not again:
            assert status.returncode == 1
            assert "the database is damaged: readers get gaps" in cluster.broker.log()
            publish(cluster, [4])  # All else goes on.
            assert cluster.broker.terminate() == 0
            cluster.broker.start()
            assert "repaired at start" in cluster.broker.log() and "1 are damaged" in cluster.broker.log()


def test_a_page_that_rots_under_the_broker_ends_it_and_the_next_start_saves_the_rest(make_cluster):
    cluster = make_cluster(None, origins=())
    publish(cluster, [0])
    cursor = bookmark(cluster)
    publish(cluster, range(1, 200))
    assert cluster.broker.terminate() == 0  # So that the pages are in the file.
    cluster.broker.start()
    publish(cluster, range(200, 205))
    with sqlite3.connect(f"file:{cluster.database}?mode=ro", uri=True) as database:
        header = database.execute("SELECT header FROM log WHERE pos = 100").fetchone()[0]
    database.close()
    page = find_page(cluster.database, header)
    with open(cluster.database, "r+b") as file:
        file.seek(page)
        file.write(b"\xee" * 8)
    cluster.add_edge().start()
    with cluster.client(V1, -1) as client:
        client.wait("hello")
        client.send({"type": "subscribe", "id": 1, "data": {"types": ["note"], "resume": cursor}})
        until(lambda: cluster.broker.process.poll() is not None, 20, "the broker has ended")
    assert cluster.broker.process.returncode == 1
    assert "the database is damaged: ending" in cluster.broker.log()
    cluster.broker.start()
    assert "repaired at start" in cluster.broker.log() and glob.glob(f"{cluster.database}.damaged-*")
    publish(cluster, [300])
    fresh = bookmark(cluster, -1)
    assert fresh["epoch"] != cursor["epoch"]
    with back(cluster, cursor, edge=-1) as client:
        assert client.part["result"] == "snapshot"


def test_what_the_broker_makes_is_its_owners_alone(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], start=False)
    before = os.umask(0)
    try:
        cluster.start()
    finally:
        os.umask(before)
    for name in glob.glob(str(cluster.database) + "*"):
        assert stat.S_IMODE(os.stat(name).st_mode) == 0o600, name

"""The broker and its database, with real processes: a disk that refuses and recovers, and files that are damaged."""

import glob
import os
import random
import resource
import stat
import subprocess

from harness import BIN, clean_environment, until

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


def test_what_the_broker_makes_is_its_owners_alone(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], start=False)
    before = os.umask(0)
    try:
        cluster.start()
    finally:
        os.umask(before)
    for name in glob.glob(str(cluster.database) + "*"):
        assert stat.S_IMODE(os.stat(name).st_mode) == 0o600, name

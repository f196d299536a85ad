"""The command line `sigmacast` against running programs: publish, tail, state, status, log; and --check of each program."""

import json
import resource
import subprocess
import threading

import pytest

from fault_engine import status
from harness import BIN, PATIENCE, clean_environment, until
from ws_client import rising

POLL = "system.status"


def test_a_thousand_published_lines_are_durable_and_arrive_in_order(cluster):
    with cluster.v1("note") as client:
        done = cluster.publish(({"type": "note", "data": {"n": n}} for n in range(1000)), "--origin", "script")
        assert "1000" in done.stdout + done.stderr
        assert "durable" in done.stdout + done.stderr
        client.wait(lambda m: m.type == "note" and m.data["n"] == 999, timeout=15)
        notes = client.of("note")
        assert [m.data["n"] for m in notes] == list(range(1000)), "each one, once, in order"
        assert [m.seq for m in notes] == list(range(1, 1001))
        assert all(m["origin"] == "script" for m in notes)
        assert rising(client.messages)


def test_publishing_again_goes_on_above(cluster):
    with cluster.v1("note") as client:
        for n in range(2):
            cluster.publish([{"type": "note", "data": {"n": n}}], "--origin", "script")
        client.wait(lambda m: m.type == "note" and m.data["n"] == 1)
        assert [(m.data["n"], m.seq) for m in client.of("note")] == [(0, 1), (1, 2)]


def test_published_state_has_a_key_and_is_stale_once_the_publisher_is_gone(cluster):
    with cluster.v1("lamp") as client:
        cluster.publish([{"type": "lamp", "key": "hall", "data": {"on": True}}, {"type": "lamp", "key": "attic", "data": {"on": False}}],
                        "--origin", "script", "--kind", "state")
        value = client.wait(lambda m: m.type == "lamp" and m["key"] == "attic")
        assert value.data["on"] is False
        stale = client.wait(lambda m: m.type == "transition" and m.data["topic"] == "lamp" and m["quality"] == "stale",
                            timeout=12)
        assert stale["source"] == "producer"
    with cluster.v1("lamp") as late:
        assert late.subscribed.data["topics"]["lamp"]["count"] == 2
        late.wait(lambda m: len(late.of("lamp")) == 2)
        assert {m["key"]: (m.data["on"], m["quality"]) for m in late.of("lamp")} == \
            {"hall": (True, "stale"), "attic": (False, "stale")}


def test_a_bad_line_is_named_and_the_good_ones_are_published(cluster):
    config = cluster.command_config()
    done = cluster.command("publish", "--config", config, "--origin", "script",
                           input='{"type":"note","data":{"n":1}}\nnot json\n{"data":{}}\n{"type":"note","data":{"n":2}}\n')
    assert done.returncode == 1
    assert "2" in done.stderr and "3" in done.stderr, "the numbers of the bad lines"
    with cluster.v1() as client:
        until(lambda: "note" in json.dumps(cluster.state()) or True)
        assert client.hello
    rows = log_rows(cluster, "--topic", "note")
    assert [row["data"]["n"] for row in rows] == [1, 2]


def test_publish_without_a_broker_says_so_and_fails(make_cluster, engine):
    cluster = make_cluster(engine, start=False)
    done = cluster.command("publish", "--config", cluster.command_config(), "--timeout", "1s", input='{"type":"note","data":{}}\n')
    assert done.returncode == 1
    assert done.stderr.strip()


def test_publish_leaves_the_folder_alone_from_which_it_is_called(make_cluster, tmp_path):
    cluster = make_cluster(start=False)
    here, state, home = tmp_path / "here", tmp_path / "state", tmp_path / "home"
    here.mkdir()

    def published(*options, **environment):
        done = subprocess.run([BIN / "sigmacast", "publish", "--timeout", "100ms", *map(str, options)], input="",
                              capture_output=True, text=True, timeout=30, cwd=here,
                              env={**clean_environment(), "HOME": str(home), "XDG_STATE_HOME": "", **environment})
        assert list(here.iterdir()) == [], done.stderr
        return done

    published(XDG_STATE_HOME=str(state))
    assert list((state / "sigmacast").glob("*.epoch"))
    published()
    assert list((home / ".local/state/sigmacast").glob("*.epoch"))
    config = cluster.command_config()
    published("--config", config)
    assert list((config.parent / "data").glob("*.epoch"))
    published("--config", config, "--data-dir", tmp_path / "named")
    assert list((tmp_path / "named").glob("*.epoch"))
    assert published(HOME="").returncode == 2


def log_rows(cluster, *options):
    done = cluster.command("log", cluster.database, "--json", *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_log_is_read_by_topic_and_range_while_the_broker_runs(cluster):
    cluster.publish(({"type": "note", "data": {"n": n}} for n in range(20)), "--origin", "script")
    rows = log_rows(cluster, "--topic", "note")
    assert [row["data"]["n"] for row in rows] == list(range(20))
    positions = [row["pos"] for row in rows]
    assert positions == sorted(positions)
    some = log_rows(cluster, "--topic", "note", "--from", positions[5], "--to", positions[9])
    assert [row["data"]["n"] for row in some] == [5, 6, 7, 8, 9]
    assert len(log_rows(cluster, "--topic", "note", "--limit", 3)) == 3
    assert log_rows(cluster, "--topic", "note", "--origin", "nobody") == []
    assert len(log_rows(cluster, "--topic", "note", "--since", "1h")) == 20
    readable = cluster.command("log", cluster.database, "--topic", "note")
    assert readable.returncode == 0 and len(readable.stdout.splitlines()) >= 20


def test_tail_json_prints_each_message_as_a_line(shared):
    done = shared.command("tail", f"ws://127.0.0.1:{shared.edge.port}/ws", POLL, "--json", "--count", 5)
    assert done.returncode == 0, done.stderr
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    values = [m for m in messages if m["type"] == POLL]
    counted = values + [m for m in messages if m["type"] == "transition"]
    assert len(counted) == 5, "values, events and transitions count"
    assert values
    assert [m["pos"] for m in values] == sorted(m["pos"] for m in values)
    assert all(m["quality"] == "live" for m in values)


def test_tail_is_readable_and_tells_of_an_outage(cluster, engine):
    with cluster.v1(POLL) as client:
        client.wait(POLL)
        process = cluster.command_start("tail", f"ws://127.0.0.1:{cluster.edge.port}/ws", POLL, "--for", "4s")
        until(lambda: cluster.edge.metrics(), what="metrics")
        calls = engine.count(POLL)
        until(lambda: engine.count(POLL) > calls + 3, what="some values")
        engine.set(POLL, status(500))
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert POLL in out and "SYSTEM_STATUS_FAILED" in out, out


def test_tail_reconnects_when_its_edge_comes_back(cluster, engine):
    process = cluster.command_start("tail", f"ws://127.0.0.1:{cluster.edge.port}/ws", POLL, "--json", "--for", "8s")
    until(lambda: any("client" in name and value >= 1 for name, value in cluster.edge.metrics().items()),
          what="tail is connected")
    calls = engine.count(POLL)
    until(lambda: engine.count(POLL) > calls + 3, what="some values")
    cluster.edge.kill()
    cluster.edge.start()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    messages = [json.loads(line) for line in out.splitlines()]
    assert len([m for m in messages if m["type"] == "hello"]) >= 2, "it came back"
    # What was there before is printed again where it is a newer value, positions rise.
    positions = [m["pos"] for m in messages if m["type"] == POLL]
    assert positions == sorted(positions) and len(positions) > 5


def test_tail_goes_on_where_it_was_when_its_edge_was_away(make_cluster, engine):
    """Each event once: those before, those while the edge was away, those after."""
    cluster = make_cluster(engine, polls={POLL: {"interval": 0.05, "deadline": 0.5}})

    def note(*numbers):
        cluster.publish(({"type": "note", "data": {"n": n}} for n in numbers), "--origin", "script")
    process = cluster.command_start("tail", f"ws://127.0.0.1:{cluster.edge.port}/ws", "--json", "--for",
                                    f"{int(20 * PATIENCE)}s")
    lines, read = [], threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")))
    read.start()

    def notes():
        return [m["data"]["n"] for m in map(json.loads, list(lines)) if m["type"] == "note"]
    until(lambda: any('"subscribed"' in line for line in lines), what="tail is connected")
    note(1, 2)
    until(lambda: notes() == [1, 2])
    for n in (3, 5):
        cluster.edge.kill()
        note(n)
        cluster.edge.start()
        note(n + 1)
        until(lambda: n + 1 in notes(), timeout=15)
    process.terminate()
    read.join()
    assert notes() == [1, 2, 3, 4, 5, 6]
    assert not any('"pong"' in line for line in lines), "what was not asked for with --json"
    assert process.wait(10 * PATIENCE) == 0


def test_tail_without_an_edge_fails_in_the_time_it_was_given(make_cluster, engine):
    cluster = make_cluster(engine, start=False)
    done = cluster.command("tail", f"ws://127.0.0.1:{cluster.edge.port}/ws", "--for", "1s")
    assert done.returncode == 1 and done.stderr.strip()


def test_tail_with_a_count_gives_up_where_no_edge_answers(make_cluster, engine):
    cluster = make_cluster(engine, start=False)
    done = cluster.command("tail", f"ws://127.0.0.1:{cluster.edge.port}/ws", "--count", 1)
    assert done.returncode == 1 and "Is it running?" in done.stderr


def test_tail_says_why_an_edge_refuses_it_and_comes_back_when_it_was_asked_to(make_cluster, engine):
    cluster = make_cluster(engine, edge_options={"clients_max": 1})
    with cluster.v1(POLL):
        done = cluster.command("tail", f"ws://127.0.0.1:{cluster.edge.port}/ws", "--for", "3s")
    assert done.returncode == 1
    tries = [line for line in done.stderr.splitlines() if "next try in 5" in line]
    assert len(tries) == 1, done.stderr
    for line in (tries[0], done.stderr.splitlines()[-1]):
        assert "edge.clients_max connections are open" in line and "HTTP 503" in line
    assert "Is it running?" not in done.stderr


def test_state_shows_every_topic_with_its_quality(shared):
    with shared.v1("agent.status") as client:
        client.wait("agent.status")
    url = f"http://127.0.0.1:{shared.edge.port}"
    done = shared.command("state", url)
    assert done.returncode == 0, done.stderr
    for topic in (POLL, "agent.status", "compression.update"):
        assert topic in done.stdout
    assert "live" in done.stdout
    done = shared.command("state", url, "--json")
    assert POLL in json.dumps(json.loads(done.stdout))


def test_state_takes_topics_as_tail_does(shared):
    with shared.v1("agent.status") as client:
        client.wait("agent.status")
    url = f"127.0.0.1:{shared.edge.port}"
    done = shared.command("state", url, "agent.status", POLL)
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()[1:]} == {"agent.status", POLL}
    done = shared.command("state", url, POLL, "agent.status", "--json")
    assert [json.loads(line)["topic"] for line in done.stdout.splitlines()] == [POLL, "agent.status"]
    done = shared.command("state", url, "nas.local")
    assert done.returncode == 1 and "knows no topic 'nas.local'" in done.stderr
    done = shared.command("tail", url, "nas.local", "--for", "1s")
    assert done.returncode == 0 and "nas.local: nobody has published this topic yet" in done.stdout


def test_status_names_each_process_and_breaker(shared):
    done = shared.command("status", "--config", shared.command_config(), "--edges", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("producer", "broker", "edge", POLL):
        assert word in done.stdout, done.stdout


def test_status_fails_when_a_process_is_gone(cluster):
    cluster.producer.kill()
    done = cluster.command("status", "--config", cluster.command_config(), "--edges", 1)
    assert done.returncode == 1
    assert "producer" in done.stdout + done.stderr


def test_a_disk_that_refuses_shows_in_status_and_in_publish(cluster):
    # As a full disk: no file grows any more. The kernel's signal for that (SIGXFSZ) would end a program that does not
    # ignore it. The log is a file too: it must not stand in the way.
    cluster.broker.kill()
    cluster.broker.process = subprocess.Popen([BIN / cluster.broker.binary, "--config", cluster.broker.config_path],
                                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                              cwd=cluster.broker.folder, env=clean_environment())
    cluster.broker.started_at = 0
    cluster.broker.wait_ready()
    until(cluster.producer.is_ready, what="the producer is ready")
    _, most = resource.prlimit(cluster.broker.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(cluster.broker.process.pid, resource.RLIMIT_FSIZE, (1, most))
    until(lambda: cluster.broker.readiness()[1]["durable"] is False, what="the broker notices")
    seen = cluster.command("status", "--config", cluster.command_config(), "--edges", 1)
    assert seen.returncode == 1
    broker = next(line for line in seen.stdout.splitlines() if line.startswith("broker"))
    assert "not durable: the disk refuses, see the log" in broker
    done = cluster.command("publish", "--config", cluster.command_config(), "--timeout", "1s", input='{"type":"note","data":{}}\n')
    assert done.returncode == 1
    assert "has not made everything durable" in done.stderr and "sigmacast status" in done.stderr
    assert "Is it running?" not in done.stderr


def test_topics_beyond_what_a_broker_takes_are_told(make_cluster):
    """broker/ingest.h: kStreamsMax, all producers together."""
    most = 4096
    cluster = make_cluster(None, origins=())
    events = "".join(json.dumps({"type": f"topic.{n}", "data": {}}) + "\n" for n in range(most + 10))
    done = cluster.command("publish", "--config", cluster.command_config(), "--timeout", f"{2 * PATIENCE}s", input=events, timeout=60)
    assert done.returncode == 1
    assert f"published {most + 10}, durable {most}" in done.stderr and "the broker's log" in done.stderr
    assert cluster.broker.log().count("no more topics are taken") == 1
    assert f"topics={most} origin=publish" in cluster.broker.log()


PROGRAMS = ["sigmacast-engine", "sigmacast-producer", "sigmacast-broker", "sigmacast-edge"]


def run(*command, **environment):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=20,
                          env={**clean_environment(), **environment})


@pytest.mark.parametrize("program", PROGRAMS)
def test_check_names_every_mistake_by_file_line_and_key(program, tmp_path):
    config = tmp_path / "bad.toml"
    config.write_text('[broker]\nfed = "tcp://127.0.0.1:1"\n\n[edge]\nport = "many"\n')
    done = run(BIN / program, "--config", config, "--check")
    assert done.returncode != 0
    assert "bad.toml:2" in done.stderr and "broker.fed" in done.stderr and "broker.feed" in done.stderr, done.stderr
    assert "bad.toml:5" in done.stderr and "edge.port" in done.stderr, "every mistake at once"


@pytest.mark.parametrize("program", PROGRAMS)
def test_check_accepts_the_defaults_and_help_and_version_work(program, tmp_path):
    config = tmp_path / "empty.toml"
    config.write_text("")
    assert run(BIN / program, "--config", config, "--check").returncode == 0
    assert program in run(BIN / program, "--version").stdout
    assert "--config" in run(BIN / program, "--help").stdout
    missing = run(BIN / program, "--config", tmp_path / "missing.toml", "--check")
    assert missing.returncode != 0 and "missing.toml" in missing.stderr


def test_the_names_of_the_original_deployment_override(make_cluster, engine, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("")
    done = run(BIN / "sigmacast-producer", "--config", config, "--check", SIGMAVAULT_RPC_TIMEOUT="30s")
    assert done.returncode == 0, done.stderr
    assert "note" in done.stdout, "a timeout beyond what P4 allows is capped, and said"
    done = run(BIN / "sigmacast-edge", "--config", config, "--check", SIGMAVAULT_PORT="no port")
    assert done.returncode != 0 and "SIGMAVAULT_PORT" in done.stderr


@pytest.mark.parametrize("kind", ["broker", "producer", "edge"])
def test_a_busy_port_is_one_clear_sentence_and_a_failure(cluster, kind):
    running = getattr(cluster, kind)
    again = run(BIN / running.binary, "--config", running.config_path, "--data-dir", cluster.folder / "other")
    assert again.returncode != 0
    assert "in use" in again.stdout + again.stderr

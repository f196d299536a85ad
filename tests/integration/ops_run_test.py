"""ops/run as a newcomer uses it: start, kill, add, stop; and what it says when it cannot start.

Works as root (everything then runs as the user nobody) and without root. Uses the programs of the build under test, free
ports and a folder of its own, and ends every process that it started.
"""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

import pytest

import tokens
from ports import free_ports

PROJECT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("SIGMACAST_BIN", PROJECT / "build/release/bin"))
PATIENCE = float(os.environ.get("SIGMACAST_PATIENCE", "1"))
PROGRAMS = ("engine", "broker", "producer", "edge")

pytestmark = pytest.mark.skipif(
    not all((BIN / f"sigmacast-{name}").exists() for name in PROGRAMS), reason=f"no programs in {BIN}"
)


def wait_for(what, condition, seconds=20):
    end = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.05)
    raise AssertionError(f"after {seconds * PATIENCE:.0f} s still not: {what}")


class Instance:
    """A data folder, a configuration with free ports, and ops/run for both."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sigmacast-ops-"))
        self.folder.chmod(0o755)  # The user to whom root hands over must reach it.
        self.data = self.folder / "data"
        self.config = self.folder / "test.toml"
        self.engine, self.producer, self.broker, *bus = free_ports(6)
        self.edges = free_ports(4)
        self.config.write_text(
            f"""
[engine]
port = {self.engine}
[producer]
engine_url = "http://127.0.0.1:{self.engine}/api/v1"
admin_port = {self.producer}
[broker]
ingest = "tcp://127.0.0.1:{bus[0]}"
feed = "tcp://127.0.0.1:{bus[1]}"
repair = "tcp://127.0.0.1:{bus[2]}"
admin_port = {self.broker}
"""
        )
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("SIGMAVAULT_")}
        self.environment["SIGMAVAULT_PORT"] = str(self.edges[0])

    def command(self, *arguments):
        line = [str(PROJECT / "ops/run"), "--data", str(self.data), "--config", str(self.config)]
        line += ["--bin", str(BIN)]
        if os.geteuid() == 0:
            line += ["--user", "nobody"]
        return line + list(arguments)

    def run(self, *arguments):
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )

    def pids(self):
        """Process ids by program, from the kernel: nothing that ops/run says of itself."""
        found = {}
        for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if str(self.data) in words and "--data-dir" in words:
                name = next(word for word in words if "/sigmacast-" in word).rsplit("sigmacast-", 1)[1]
                if "--port" in words:
                    name += "-" + words[words.index("--port") + 1]
                found[name] = int(entry.parent.name)
            elif str(self.data / "supervisor/supervisord.conf") in words and "supervisord" in " ".join(words):
                found["supervisord"] = int(entry.parent.name)
        return found

    def ready(self, name):
        path = {"producer": f"{self.producer}/readyz", "broker": f"{self.broker}/readyz"}.get(name)
        if name.startswith("edge-"):
            path = f"{name[5:]}/api/v1/ready"
        if path is None:
            return True
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{path}", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def remove(self):
        self.run("--stop")
        for pid in self.pids().values():
            os.kill(pid, signal.SIGKILL)
        found = [hit for log in self.data.glob("log/*") for hit in tokens.found_in(log)]
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not found, f"secrets in the logs: {found}"


@pytest.fixture
def instance():
    one = Instance()
    yield one
    one.remove()


@pytest.fixture(scope="module")
def running():
    one = Instance()
    started = one.run("--detach")
    if started.returncode:
        logs = "\n".join(f"== {log}\n{log.read_text()[-2000:]}" for log in one.data.glob("log/*.log"))
        one.remove()
        pytest.fail(f"ops/run did not start: {started.stdout}{started.stderr}{logs}")
    one.said = started.stdout
    yield one
    one.remove()


def test_detach_returns_when_all_five_processes_are_ready(running):
    names = {"engine", "producer", "broker", f"edge-{running.edges[0]}", f"edge-{running.edges[1]}"}
    assert set(running.pids()) == names | {"supervisord"}
    assert all(running.ready(name) for name in names)


def test_the_addresses_that_it_prints_are_served(running):
    pages = re.findall(r"page +(http://\S+)", running.said)
    assert len(pages) == 2
    for page in pages:
        with urllib.request.urlopen(page, timeout=5) as answer:
            assert b"<html" in answer.read()


def pasted(one, said, option):
    """Runs the command with that option that ops/run has printed, as it stands there, without what the test knows."""
    line = re.search(rf"(\S*ops/run {option}(?: --data \S+)?)", said)
    assert line, f"no command with {option} in: {said}"
    clean = {key: value for key, value in one.environment.items() if key != "SIGMAVAULT_PORT"}
    return subprocess.run(["bash", "-c", line[1]], env=clean, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=90, check=False)


def test_the_commands_that_it_prints_work_as_they_stand(running):
    status = pasted(running, running.said, "--status")
    assert status.returncode == 0 and str(running.data) in status.stdout, status.stdout + status.stderr
    follow = re.search(r"terminal +(\S+ tail \S+)", running.said)[1]
    live = subprocess.run(["bash", "-c", follow + " --count 1"], env=running.environment, capture_output=True, text=True,
                          timeout=60, check=False)
    assert live.returncode == 0 and "connected" in live.stdout, live.stderr
    second = running.run("--detach")
    assert f"--stop --data {running.data}" in second.stderr, "a pasted --stop ends this one, and no other"


def test_as_root_everything_runs_as_another_user(running):
    if os.geteuid() != 0:
        pytest.skip("not root")
    owners = {os.stat(f"/proc/{pid}").st_uid for pid in running.pids().values()}
    assert 0 not in owners
    assert os.stat(running.data).st_uid in owners


def test_status_names_each_process_and_succeeds(running):
    status = running.run("--status")
    assert status.returncode == 0, status.stdout
    for name in running.pids():
        if name not in ("supervisord", "engine"):
            assert f"{name}: ready" in status.stdout


def test_a_second_start_is_refused_with_one_sentence_and_changes_nothing(running):
    before = running.pids()
    second = running.run("--detach")
    assert second.returncode == 1
    assert second.stdout == ""
    assert "already runs" in second.stderr and len(second.stderr.splitlines()) == 1
    assert running.pids() == before


@pytest.mark.parametrize("which", ["engine", "producer", "broker", "edge"])
def test_a_killed_process_comes_back_and_gets_ready(running, which):
    name = f"edge-{running.edges[0]}" if which == "edge" else which
    before = running.pids()
    os.kill(before[name], signal.SIGKILL)
    wait_for(f"a new {name}", lambda: running.pids().get(name, before[name]) != before[name])
    wait_for(f"{name} ready", lambda: running.ready(name))
    others = {key: pid for key, pid in running.pids().items() if key != name}
    assert others == {key: pid for key, pid in before.items() if key != name}


def clone_of_ops(folder, system_data):
    """Another clone, in which the system's data folder is `system_data`."""
    (folder / "ops").mkdir(parents=True)
    for name in ("run", "instance.sh", "lib.sh"):
        text = (PROJECT / "ops" / name).read_text()
        if name == "run":
            assert "=/var/lib/sigmacast" in text
            text = text.replace("/var/lib/sigmacast", str(system_data))
        (folder / "ops" / name).write_text(text)
    return ["bash", str(folder / "ops/run")]


def asked(line, environment):
    clean = {key: value for key, value in environment.items() if key != "SIGMAVAULT_PORT"}
    return subprocess.run(line, env=clean, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)


def test_another_clone_neither_sees_nor_stops_what_runs_in_the_systems_folder(running):
    before = running.pids()
    other = clone_of_ops(running.folder / "clone", running.data)
    status = asked(other + ["--status"], running.environment)
    assert status.returncode == 3 and str(running.folder / "clone/data") in status.stdout
    stop = asked(other + ["--stop"], running.environment)
    assert stop.returncode == 0 and "does not run" in stop.stdout
    if os.geteuid() == 0:
        as_nobody = ["setpriv", "--reuid", "nobody", "--clear-groups", *other]
        assert asked(as_nobody + ["--status"], running.environment).returncode == 3
    assert running.pids() == before


def test_a_clone_that_the_owner_cannot_reach_finds_what_runs_in_the_systems_folder(running):
    if os.geteuid() != 0:
        pytest.skip("not root")
    closed = running.folder / "closed"
    closed.mkdir(mode=0o700)
    status = asked(clone_of_ops(closed / "clone", running.data) + ["--status"], running.environment)
    assert status.returncode == 0, status.stdout + status.stderr


def test_an_edge_is_added_while_the_others_serve_on(running):
    before = running.pids()
    added = running.run("--add-edge")
    assert added.returncode == 0, added.stderr
    port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", added.stdout).group(1))
    assert running.ready(f"edge-{port}")
    after = running.pids()
    assert after.pop(f"edge-{port}")
    assert after == before


def sigmacast(one, *arguments):
    if not (BIN / "sigmacast").exists():
        pytest.skip("no sigmacast")
    clean = {key: value for key, value in one.environment.items() if not key.startswith("SIGMA")}
    return subprocess.run([BIN / "sigmacast", *arguments], env=clean, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=60, check=False)


def test_sigmacast_finds_every_port_of_what_runs_from_its_data_folder(running):
    edges = sorted(name for name in running.pids() if name.startswith("edge-"))
    status = sigmacast(running, "status", "--data", running.data)
    assert status.returncode == 0, status.stdout + status.stderr
    assert f"Sigmacast in {running.data}\n" in status.stdout
    rows = [line.split("  ")[0] for line in status.stdout.split("\nbreaker")[0].splitlines() if "http://" in line]
    assert rows[:2] == ["producer", "broker"] and rows[2:] == [name.replace("-", " ") for name in edges]
    assert sigmacast(running, "tail", "--data", running.data, "system.status", "--count", "1").returncode == 0
    state = sigmacast(running, "state", "--data", running.data, "system.status")
    assert state.returncode == 0 and len(state.stdout.splitlines()) == 2


def test_what_our_engine_does_not_offer_is_no_fault_in_status(running):
    status = sigmacast(running, "status", "--data", running.data)
    assert status.returncode == 0
    rows = [line for line in status.stdout.splitlines() if "not offered by this engine" in line]
    assert len(rows) == 4 and all("agents." in row and "down" not in row for row in rows), status.stdout
    alone = sigmacast(running, "state", "--data", running.data, "agent.status")
    assert alone.returncode == 0 and "not offered by this engine" in alone.stderr


def test_sigmacast_says_of_an_instance_that_it_does_not_run(instance):
    assert "has not started" in sigmacast(instance, "status", "--data", instance.data).stderr
    assert instance.run("--detach", "--edges", "1").returncode == 0
    assert instance.run("--stop").returncode == 0
    stopped = sigmacast(instance, "status", "--data", instance.data)
    assert stopped.returncode == 1 and "does not run now" in stopped.stdout


def test_stop_leaves_no_process_and_no_run_folder(instance):
    assert instance.run("--detach", "--edges", "1").returncode == 0
    run_folder = os.readlink(instance.data / "run")
    stopped = instance.run("--stop")
    assert stopped.returncode == 0, stopped.stderr
    assert instance.pids() == {}
    assert not os.path.exists(run_folder)
    assert instance.run("--status").returncode == 3


def test_stop_also_ends_what_a_killed_supervisor_left_behind(instance):
    assert instance.run("--detach", "--edges", "1").returncode == 0
    os.kill(instance.pids()["supervisord"], signal.SIGKILL)
    wait_for("the supervisor's end", lambda: "supervisord" not in instance.pids())
    assert "broker" in instance.pids()
    status = instance.run("--status")
    assert status.returncode == 1 and len(status.stdout.splitlines()) == 1
    assert "still run without supervisor" in status.stdout and "ends them" in status.stdout
    again = instance.run("--detach")
    assert again.returncode == 1 and "ends them" in again.stderr
    assert pasted(instance, again.stderr, "--stop").returncode == 0
    assert instance.pids() == {}


def test_an_interrupt_ends_the_foreground_run_and_all_processes(instance):
    process = subprocess.Popen(
        instance.command("--edges", "1"),
        env=instance.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        shown = []
        for line in process.stdout:
            shown.append(line)
            if line.startswith("Live"):
                break
        assert "broker" in instance.pids(), "".join(shown)
        os.killpg(process.pid, signal.SIGINT)  # As a terminal does.
        process.communicate(timeout=90)
        assert process.returncode == 130
    finally:
        process.terminate()
    assert instance.pids() == {}


def test_an_engine_that_does_not_answer_is_said_and_no_obstacle(instance):
    nobody = free_ports(1)[0]
    started = instance.run("--detach", "--edges", "1", "--engine", f"http://127.0.0.1:{nobody}/api/v1")
    assert started.returncode == 0, started.stderr
    assert "does not answer" in started.stdout
    assert "engine" not in instance.pids()


def test_a_busy_port_is_named_and_nothing_is_started(instance):
    with socket.create_server(("127.0.0.1", instance.edges[1])):
        refused = instance.run("--detach")
        assert refused.returncode == 1
        assert f"port {instance.edges[1]}" in refused.stderr and f"process {os.getpid()}" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    assert instance.pids() == {}


def test_a_busy_port_is_found_before_anything_is_built(instance):
    line = clone_of_ops(instance.folder / "clone", "/nonexistent/data")  # Whoever builds here fails: there are no sources.
    (instance.folder / "clone/ops/setup").write_text("#!/bin/sh\n")
    (instance.folder / "clone/ops/setup").chmod(0o755)
    with socket.create_server(("127.0.0.1", instance.edges[0])):
        options = ["--user", "nobody"] if os.geteuid() == 0 else []
        refused = subprocess.run(line + ["--config", str(instance.config), "--data", str(instance.data), *options],
                                 env=instance.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                 timeout=60, check=False)
    assert refused.returncode == 1 and f"port {instance.edges[0]}" in refused.stderr, refused.stderr
    assert refused.stdout == "", "it did not come to building"
    assert not instance.data.exists()


def files_below(folder):
    return sorted((str(path), path.lstat().st_uid) for path in [folder, *folder.rglob("*")])


@pytest.mark.parametrize("mistake", ["busy port", "no such user", "no programs", "no configuration", "bad configuration"])
@pytest.mark.parametrize("there", ["nothing", "an empty folder"])
def test_a_start_that_is_refused_leaves_nothing_behind(instance, mistake, there):
    instance.data = instance.folder / "new/data"
    if there == "an empty folder":
        instance.data.mkdir(parents=True)
    before = files_below(instance.folder)
    runs = {folder for folder in pathlib.Path("/run").glob("sigmacast-*")}
    options = {"no such user": ["--user", "no-such-user"], "no programs": ["--bin", "/nonexistent"],
               "no configuration": ["--config", "/nonexistent.toml"]}.get(mistake, [])
    if mistake == "no such user" and os.geteuid() != 0:
        pytest.skip("not root")
    if mistake == "bad configuration":
        instance.config.write_text(instance.config.read_text() + "fed = 1\n")
    with socket.create_server(("127.0.0.1", instance.edges[1] if mistake == "busy port" else 0)):
        refused = instance.run("--detach", *options)
    assert refused.returncode == 1 and refused.stderr, refused.stdout
    assert files_below(instance.folder) == before
    assert {folder for folder in pathlib.Path("/run").glob("sigmacast-*")} <= runs


def test_a_start_that_is_refused_harms_nothing_that_was_there(instance):
    assert instance.run("--detach", "--edges", "1").returncode == 0
    assert instance.run("--stop").returncode == 0
    before = files_below(instance.data)
    with socket.create_server(("127.0.0.1", instance.edges[0])):
        assert instance.run("--detach").returncode == 1
    assert files_below(instance.data) == before


def test_a_wrong_configuration_is_refused_by_line_and_nothing_is_started(instance):
    instance.config.write_text(instance.config.read_text() + "fed = 1\n")
    line = len(instance.config.read_text().splitlines())
    refused = instance.run("--detach")
    assert refused.returncode == 1
    assert f"test.toml:{line}" in refused.stderr
    assert instance.pids() == {}


def test_a_folder_of_somebody_else_is_not_taken_over(instance):
    if os.geteuid() != 0:
        pytest.skip("not root")
    instance.data.mkdir()
    (instance.data / "letter.txt").write_text("mine")
    refused = instance.run("--detach")
    assert refused.returncode == 1 and "holds other things" in refused.stderr
    assert os.stat(instance.data / "letter.txt").st_uid == 0


def test_status_and_stop_of_a_folder_where_a_start_was_refused_say_that_nothing_runs(instance):
    (instance.data / "supervisor").mkdir(parents=True)
    status = instance.run("--status")
    assert status.returncode == 3 and "does not run" in status.stdout
    stop = instance.run("--stop")
    assert stop.returncode == 0 and "does not run" in stop.stdout

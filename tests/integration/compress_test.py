"""Our engine's compression: over its JSON-RPC, on the feed, and from the command line, with the real programs."""

import contextlib
import functools
import json
import os
import pty
import random
import select
import signal
import subprocess
import time
import types

import pytest

from harness import BIN, PATIENCE, Program, clean_environment, get, toml, until
from ports import free_port

RUNNING = "compression.queue.running"


class Engine(Program):
    """sigmacast-engine with a folder of its own. Its level is the slowest, so that a job can be watched."""

    def __init__(self, folder, level=19, **options):
        self.media = folder / "media"
        self.media.mkdir(parents=True)
        super().__init__(types.SimpleNamespace(folder=folder), "engine", "sigmacast-engine", free_port(), None, text=self._text)
        self.options = {"compress_folders": [str(self.media)], "compress_workers": 1, "compress_level": level,
                        **options}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/api/v1"

    def _text(self):
        lines = [f"data_dir = {toml(str(self.folder / 'data'))}", "[engine]", f"port = {self.port}"]
        return "\n".join(lines + [f"{key} = {toml(value)}" for key, value in self.options.items()]) + "\n"

    def readiness(self):
        return (200 if self.call("health.check") == {"status": "healthy"} else 503), None

    def answer(self, method, **params):
        body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
        status, _, answer = get(self.port, "/api/v1/rpc", "POST", {"Content-Type": "application/json"}, body)
        assert status == 200, answer
        return answer

    def call(self, method, **params):
        answer = self.answer(method, **params)
        assert answer["error"] is None, answer
        return answer["result"]

    def submit(self, path):
        return self.call("compression.queue.submit", type="compress_file", source_path=str(path))["job_id"]

    def status(self, job):
        return self.call("compression.queue.status", job_id=job)

    def ended(self, job, timeout=30):
        return until(lambda: (s := self.status(job))["completed_at"] and s, timeout, "the job has ended")

    def running(self, job):
        """Waits until it is under way."""
        return until(lambda: (s := self.status(job))["bytes_processed"] > 0 and s, 10, "the job runs")

    def file(self, name, megabytes):
        """Text that takes the slowest level about a second for each 3 MB."""
        path = self.media / name
        with open(path, "wb") as file:
            for number in range(megabytes):
                file.write(text_block(number % 12))  # Farther apart than zstd looks back.
        return path

    def names(self):
        return sorted(entry.name for entry in self.media.iterdir())


@functools.cache
def text_block(number):
    dice = random.Random(number)
    words = ["".join(dice.choices("etaoinshrdlu", k=dice.randint(2, 9))) for _ in range(20_000)]
    return " ".join(dice.choices(words, k=180_000)).encode()[:1_000_000]


@pytest.fixture
def make_engine(tmp_path):
    made = []

    def make(start=True, **options):
        engine = Engine(tmp_path / f"own{len(made)}", **options)
        made.append(engine)
        return engine.start() if start else engine
    yield make
    for engine in made:
        engine.kill()


def compress(engine, *arguments, **options):
    return subprocess.run([str(BIN / "sigmacast"), "compress", *map(str, arguments), "--engine", engine.url],
                          capture_output=True, text=True, timeout=60 * PATIENCE, env=clean_environment(), **options)


def test_a_jobs_progress_moves_on_the_feed_and_its_end_is_told_once(make_engine, make_cluster):
    engine = make_engine()
    path = engine.file("film", 6)
    cluster = make_cluster(engine, polls=[RUNNING])
    with cluster.v1("compression.update") as client:
        job = engine.submit(path)
        final = client.wait(lambda m: m.get("key") == job and m.get("final") is True, timeout=240)
        told = client.all(lambda m: m.get("key") == job)
        progress = [m.data["progress"] for m in told]
        assert len(set(progress)) >= 4 and progress == sorted(progress), progress
        assert any(0 < p < 100 for p in progress)
        moving = [m.data for m in told if 0 < m.data["progress"] < 100]
        assert all(d["status"] == "running" and d["phase"] == "compressing" for d in moving)
        assert all(d["bytes_total"] == 6_000_000 and d["input_path"] == str(path) for d in moving)
        assert all(d["eta_seconds"] > 0 for d in moving)
        assert final.data["status"] == "completed" and final.data["progress"] == 100
        assert final.data["bytes_processed"] == 6_000_000
        size = path.with_name("film.zst").stat().st_size
        assert final.data["compression_ratio"] == pytest.approx(6_000_000 / size)
        # Until another job has come and gone, the list without the first one was asked for many times.
        other = engine.submit(engine.file("small", 1))
        client.wait(lambda m: m.get("key") == other and m.get("final") is True, timeout=240)
        assert len(client.all(lambda m: m.get("key") == job and m.get("final") is True)) == 1
    assert engine.names() == ["film", "film.zst", "small", "small.zst"]


def test_a_cancelled_job_is_told_and_leaves_nothing(make_engine, make_cluster):
    engine = make_engine()
    path = engine.file("film", 40)
    cluster = make_cluster(engine, polls=[RUNNING])
    with cluster.v1("compression.update") as client:
        job = engine.submit(path)
        client.wait(lambda m: m.get("key") == job and m.data["progress"] > 0, timeout=20)
        assert engine.call("compression.queue.cancel", job_id=job) == {"job_id": job, "cancelled": True}
        final = client.wait(lambda m: m.get("key") == job and m.get("final") is True)
        assert final.data["status"] == "cancelled" and 0 < final.data["progress"] < 100
    # The worker is free again, so it has let go of the file.
    assert engine.ended(engine.submit(engine.file("next", 1)))["status"] == "completed"
    assert engine.names() == ["film", "next", "next.zst"]


def test_an_engine_that_is_killed_leaves_nothing_and_the_end_is_unknown(make_engine, make_cluster):
    engine = make_engine()
    path = engine.file("film", 40)
    cluster = make_cluster(engine, polls=[RUNNING])
    with cluster.v1("compression.update") as client:
        job = engine.submit(path)
        client.wait(lambda m: m.get("key") == job and m.data["progress"] > 0, timeout=20)
        engine.kill()
        assert engine.names() == ["film"]
        engine.start()
        final = client.wait(lambda m: m.get("key") == job and m.get("final") is True, timeout=20)
        assert final.data["status"] == "unknown"
    assert engine.names() == ["film"]


def test_the_engine_answers_at_once_while_it_compresses(make_engine):
    engine = make_engine(compress_workers=4)
    jobs = [engine.submit(engine.file(f"film{n}", 20)) for n in range(4)]
    for job in jobs:
        engine.running(job)
    slowest = 0
    for _ in range(50):
        start = time.monotonic()
        engine.call("health.check")
        engine.call(RUNNING, include_pending=True, limit=50)
        slowest = max(slowest, time.monotonic() - start)
    assert engine.call("compression.queue.status")["running"] == 4, "all of this was under load"
    assert slowest < 0.5 * PATIENCE
    assert engine.terminate() == 0
    assert engine.names() == [f"film{n}" for n in range(4)]


def test_without_configuration_there_is_a_sample_to_try(make_engine):
    engine = make_engine(start=False, compress_folders=[])
    engine.start()
    sample = engine.folder / "data" / "samples" / "sample.txt"
    assert engine.ended(engine.submit(sample))["status"] == "completed"
    assert sample.with_name("sample.txt.zst").stat().st_size < sample.stat().st_size / 5
    refused = engine.answer("compression.queue.submit", source_path="/etc/passwd")["error"]
    assert refused["code"] == -32602 and str(sample.parent) in refused["message"]
    sample.unlink()
    engine.terminate()
    engine.start()
    assert not sample.exists(), "who deletes it, wants it gone"


def test_a_second_engine_does_not_use_the_same_data_folder(make_engine):
    engine = make_engine()
    text = engine._text().replace(f"port = {engine.port}", "port = 0")
    config = engine.folder / "second.toml"
    config.write_text(text)
    second = subprocess.run([str(BIN / "sigmacast-engine"), "--config", str(config)], capture_output=True, text=True,
                            timeout=20 * PATIENCE, env=clean_environment())
    assert second.returncode == 1
    assert "another engine uses the data folder" in second.stderr


def test_the_command_shows_the_way_and_ends_with_zero(make_engine):
    engine = make_engine()
    engine.file("film", 3)
    done = compress(engine, "film", cwd=engine.media)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("submitted as job ")
    assert any(" % " in line and " MiB of 2.9 MiB" in line for line in lines), lines
    assert lines[-1].startswith(f"completed: {engine.media}/film.zst"), lines
    assert "\x1b" not in done.stdout and "\r" not in done.stdout, "no terminal, no bar"
    assert engine.names() == ["film", "film.zst"]


def test_the_command_finds_the_file_behind_a_link_on_the_way(make_engine, tmp_path):
    engine = make_engine()
    engine.file("film", 1)
    (tmp_path / "short").symlink_to(engine.media)
    done = compress(engine, tmp_path / "short" / "film")
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_done_is_said(make_engine, tmp_path):
    engine = make_engine()
    (tmp_path / "elsewhere").write_text("x")
    for name, words in [(engine.media / "missing", "Input file not found"), (tmp_path / "elsewhere", "compress_folders"),
                        (engine.media, "compress_folders")]:
        done = compress(engine, name)
        assert done.returncode == 1
        assert done.stderr.startswith("sigmacast: ") and words in done.stderr, done.stderr
    engine.file("film", 1)
    assert compress(engine, engine.media / "film").returncode == 0
    again = compress(engine, engine.media / "film")
    assert again.returncode == 1 and "is there already" in again.stderr
    engine.terminate()
    gone = compress(engine, engine.media / "film")
    assert gone.returncode == 1 and engine.url in gone.stderr


def test_the_command_notices_that_the_engine_has_forgotten_the_job(make_engine):
    engine = make_engine()
    with command(engine, engine.file("film", 60)) as running:
        job = running.stdout.readline().split()[-1]
        engine.running(job)
        engine.kill()
        engine.start()
        assert running.wait(15 * PATIENCE) == 1
        assert "does not know job" in running.stderr.read()


@contextlib.contextmanager
def command(engine, path, stdout=subprocess.PIPE):
    with subprocess.Popen([str(BIN / "sigmacast"), "compress", str(path), "--engine", engine.url],
                          stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True,
                          env=dict(clean_environment(), TERM="xterm")) as running:
        try:
            yield running
        finally:
            running.kill()


def test_ctrl_c_cancels_the_job(make_engine):
    engine = make_engine()
    with command(engine, engine.file("film", 60)) as running:
        job = running.stdout.readline().split()[-1]
        engine.running(job)
        running.send_signal(signal.SIGINT)
        assert running.wait(10 * PATIENCE) == 1
        assert "cancelled" in running.stderr.read()
    assert engine.status(job)["status"] == "cancelled"
    assert engine.names() == ["film"]


def test_on_a_terminal_a_bar_moves(make_engine):
    engine = make_engine()
    ours, its = pty.openpty()
    with command(engine, engine.file("film", 3), stdout=its) as running:
        os.close(its)
        shown = b""
        end = time.monotonic() + 60 * PATIENCE
        while time.monotonic() < end and select.select([ours], [], [], 10 * PATIENCE)[0]:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # The other end is closed.
                break
        assert running.wait(10 * PATIENCE) == 0, running.stderr.read()
    os.close(ours)
    text = shown.decode()
    bars = [part for part in text.split("\r") if part.startswith("[")]
    assert len({bar[:40] for bar in bars}) >= 3, text
    assert "completed: " in text.split("\r")[-2] + text.split("\r")[-1]

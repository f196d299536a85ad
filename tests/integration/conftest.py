"""Fixtures, and the programs' logs beside a failure."""

import fcntl
import os
import pathlib
import shutil
import subprocess

import pytest

import harness
import tokens
from fault_engine import FaultEngine
from harness import Cluster

# Databases of tests lie in memory: whose disk hangs for a second has late answers, which is what tests of faults look for.
# Kills take nothing from either. Power cuts and hanging disks have tests of their own, and tests/chaos writes
# to the disk where it is not called from here.
MEMORY = "/dev/shm"
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 1 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        logs = harness.show_logs()
        if logs:
            report.sections.append(("logs of the programs", logs))


@pytest.fixture(scope="session", autouse=True)
def no_log_of_the_run_holds_a_secret():
    """Of every program of every test of the run: no token, no key, nothing that has a token's form."""
    yield
    found = tokens.found_in_logs()
    assert not found, "secrets in the logs of the programs: " + "; ".join(f"{what} in {log}" for log, what in found)


@pytest.fixture
def engine():
    engine = FaultEngine().start()
    yield engine
    engine.stop()


@pytest.fixture
def make_cluster(tmp_path):
    """Makes clusters that end with the test: make_cluster(engine, edges=2)."""
    made = []

    def make(*arguments, start=True, **options):
        cluster = Cluster(tmp_path / f"cluster{len(made)}", *arguments, start=False, **options)
        made.append(cluster)
        return cluster.start() if start else cluster
    yield make
    for cluster in made:
        cluster.stop()


@pytest.fixture
def cluster(make_cluster, engine):
    """Engine, producer, broker, one edge; all there, nothing broken yet."""
    return make_cluster(engine)


@pytest.fixture(scope="module")
def shared_engine():
    engine = FaultEngine().start()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory, shared_engine):
    """One cluster for all tests of a file that leave it as they found it."""
    with Cluster(tmp_path_factory.mktemp("shared"), shared_engine) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def npm_folder(tmp_path_factory):
    """Where `npm ci` has installed what npm/package-lock.json names, beside npm/*.js: in the build folder, once."""
    here = pathlib.Path(__file__).resolve().parent / "npm"
    build = os.environ.get("SIGMACAST_BUILD")
    folder = pathlib.Path(build) / "tests" / "npm" if build else tmp_path_factory.mktemp("npm")
    folder.mkdir(parents=True, exist_ok=True)
    lock = (here / "package-lock.json").read_bytes()
    installed = folder / "installed-package-lock.json"
    with open(folder / "lock", "w") as one_at_a_time:  # Files of tests run side by side.
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        if not (installed.exists() and installed.read_bytes() == lock and (folder / "node_modules").is_dir()):
            for name in ("package.json", "package-lock.json"):
                shutil.copy(here / name, folder)
            done = subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder, text=True,
                                  capture_output=True, timeout=150)
            assert done.returncode == 0, f"npm ci failed (is there a network?):\n{done.stdout}{done.stderr}"
            installed.write_bytes(lock)
        for script in here.glob("*.js"):
            shutil.copy(script, folder)
    return folder

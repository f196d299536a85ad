"""Fixtures, and the programs' logs beside a failure."""

import pytest

import harness
from fault_engine import FaultEngine
from harness import Cluster


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        logs = harness.show_logs()
        if logs:
            report.sections.append(("logs of the programs", logs))


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

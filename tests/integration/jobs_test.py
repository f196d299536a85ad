"""Compression jobs: one value a job, the summary after them, and an end that is told."""

import pytest

from fault_engine import capture, captured, ok, rpc_error, sequence
from harness import until

RUNNING = "compression.queue.running"
STATUS = "compression.queue.status"
LIVE = captured("queue_running_live_05")["result"]
IDS = [job["job_id"] for job in LIVE["jobs"]]


def without(*ids):
    jobs = [job for job in LIVE["jobs"] if job["job_id"] not in ids]
    running = sum(job["status"] == "running" for job in jobs)
    return ok(dict(LIVE, jobs=jobs, total_running=running, total_pending=len(jobs) - running, total_jobs=len(jobs)))


def ended(name):
    """The recorded end of some job, told of the one that is asked for."""
    result = captured(name)["result"]
    return ok(lambda params: dict(result, job_id=params["job_id"]))


@pytest.fixture
def feed(make_cluster, engine):
    engine.set(RUNNING, capture("queue_running_live_05"))
    cluster = make_cluster(engine, polls=[RUNNING])
    client = cluster.v1("compression.update", "rpc_error")
    client.wait(lambda m: m.type == "compression.update" and not m.get("key") and len(m.data["jobs"]) == len(IDS))
    yield cluster, client
    client.close()


def final(job):
    return lambda m: m.type == "compression.update" and m.get("key") == job and m.get("final") is True


def test_each_job_is_a_value_of_its_own_and_the_summary_comes_after_them(feed):
    cluster, _ = feed
    with cluster.client() as old:
        summary = old.wait(lambda m: m.type == "compression.update" and "jobs" in m.data)
        before = [m for m in old.of("compression.update")[:len(IDS) + 1] if "job_id" in m.data]
        assert {m.data["job_id"] for m in before} == set(IDS)
        assert old.messages.index(summary) > max(old.messages.index(m) for m in before)
        raw = {job["job_id"]: job for job in LIVE["jobs"]}
        for message in before:
            job, data = raw[message.data["job_id"]], message.data
            for field in ("status", "job_type", "priority", "phase", "progress", "elapsed_seconds", "eta_seconds",
                          "bytes_processed", "bytes_total", "input_path", "output_path"):
                # Boost.JSON 1.81 reads a number to the last but one of its 53 bits.
                assert data[field] == (pytest.approx(job[field], rel=1e-15) if isinstance(job[field], float)
                                       else job[field]), field
            assert data["compression_ratio"] == pytest.approx(job["current_ratio"], rel=1e-15)
            assert data["stale"] is False and isinstance(data["timestamp"], int)
        assert summary.data["total_running"] == LIVE["total_running"]
        assert summary.data["total_pending"] == LIVE["total_pending"]
        assert summary.data["total_jobs"] == LIVE["total_jobs"]
        assert {job["job_id"] for job in summary.data["jobs"]} == set(IDS)
        assert summary.data["jobs"][0]["compression_ratio"] == pytest.approx(LIVE["jobs"][0]["current_ratio"])


def test_progress_is_told_as_it_was_recorded(feed, engine):
    _, client = feed
    engine.set(RUNNING, sequence(*[capture(f"queue_running_live_{i:02d}") for i in range(6, 16)]))
    first = captured("queue_running_live_05")["result"]["jobs"]
    last = {job["job_id"]: job for job in captured("queue_running_live_15")["result"]["jobs"]}
    job = next(job["job_id"] for job in first if job["status"] == "running" and job["job_id"] in last)
    client.wait(lambda m: m.get("key") == job and m.data["progress"] == pytest.approx(last[job]["progress"]), timeout=12)
    progress = [m.data["progress"] for m in client.all(lambda m: m.get("key") == job)]
    assert len(progress) >= 5 and progress == sorted(progress)


@pytest.mark.parametrize("name,told", [("queue_status_completed", "completed"), ("queue_status_failed", "failed"),
                                       ("queue_status_cancelled", "cancelled")])
def test_a_job_that_leaves_the_list_is_asked_for_and_its_end_is_told(feed, engine, name, told):
    cluster, client = feed
    engine.set(STATUS, ended(name))
    engine.set(RUNNING, without(IDS[0]))
    end = client.wait(final(IDS[0]))
    assert end.data["status"] == told
    assert end.data["input_path"] == LIVE["jobs"][0]["input_path"], "what was last known stays"
    assert end.data["job_id"] == IDS[0]
    assert end.data["progress"] == pytest.approx(captured(name)["result"]["progress"])
    if told == "failed":
        assert "not found" in end.data["error"]
    calls = engine.count(RUNNING)
    until(lambda: engine.count(RUNNING) >= calls + 3, what="three more polls")
    assert len(client.all(final(IDS[0]))) == 1, "once"
    assert [call.params for call in engine.calls(STATUS)] == [{"job_id": IDS[0]}]
    with cluster.v1("compression.update") as late:
        assert late.subscribed.data["topics"]["compression.update"]["count"] == len(IDS), "five jobs and the summary"
        late.wait(lambda m: len(late.of("compression.update")) >= len(IDS))
        assert IDS[0] not in {m.get("key") for m in late.of("compression.update")}


def test_old_clients_see_the_end_too(feed, engine):
    cluster, _ = feed
    with cluster.client() as old:
        old.wait("compression.update")
        engine.set(STATUS, ended("queue_status_completed"))
        engine.set(RUNNING, without(IDS[1]))
        end = old.wait(lambda m: m.data.get("job_id") == IDS[1] and m.data.get("status") == "completed")
        old.wait(lambda m: "jobs" in m.data and m.data["total_jobs"] == len(IDS) - 1)
        mark = old.mark
        old.wait(lambda m: len([s for s in old.of("compression.update", after=mark) if "jobs" in s.data]) >= 2)
        assert [m for m in old.messages[mark:] if m.data.get("job_id") == IDS[1]] == []
        assert end.data["progress"] == 100


def test_a_job_that_nobody_knows_any_more_ends_as_unknown(feed, engine):
    _, client = feed
    engine.set(STATUS, rpc_error(-32603, data=f"Job not found: {IDS[0]}"))
    engine.set(RUNNING, without(IDS[0]))
    end = client.wait(final(IDS[0]))
    assert end.data["status"] == "unknown"
    assert end.data["input_path"] == LIVE["jobs"][0]["input_path"]
    assert client.of("rpc_error") == [], "not found on a follow-up is no failure"


def test_three_failed_tries_to_ask_for_a_job_end_it_as_unknown(feed, engine):
    _, client = feed
    engine.set(STATUS, rpc_error(-32603, data="database is locked"))
    engine.set(RUNNING, without(IDS[0]))
    end = client.wait(final(IDS[0]), timeout=20)
    assert end.data["status"] == "unknown"
    assert len([call for call in engine.calls(STATUS) if call.params == {"job_id": IDS[0]}]) == 3


def test_a_list_that_the_engine_cut_off_ends_nothing(feed, engine):
    _, client = feed
    cut = dict(LIVE, jobs=LIVE["jobs"][1:])  # The totals still count the one that is missing.
    engine.set(RUNNING, ok(cut))
    calls = engine.count(RUNNING)
    until(lambda: engine.count(RUNNING) >= calls + 4, what="four polls")
    assert engine.count(STATUS) == 0
    assert client.all(lambda m: m.get("final")) == []


def test_a_failed_poll_ends_no_job(feed, engine):
    _, client = feed
    engine.set(RUNNING, rpc_error(-32603, data="boom"))
    stale = client.wait(lambda m: m.type == "transition" and m["quality"] == "stale")
    assert stale["reason"] == "COMPRESSION_JOBS_FAILED"
    assert client.all(lambda m: m.get("final")) == []
    assert engine.count(STATUS) == 0


def test_what_ended_while_the_producer_was_dead_ends_when_it_is_back(feed, engine):
    cluster, client = feed
    cluster.producer.kill()
    engine.set(STATUS, ended("queue_status_completed"))
    engine.set(RUNNING, without(IDS[0], IDS[2]))
    cluster.producer.start()
    for job in (IDS[0], IDS[2]):
        end = client.wait(final(job), timeout=10)
        assert end.data["status"] == "completed"
        assert end.data["output_path"] == next(j["output_path"] for j in LIVE["jobs"] if j["job_id"] == job)


def test_the_recorded_pending_jobs_are_jobs_too(feed, engine):
    _, client = feed
    engine.set(STATUS, ended("queue_status_completed"))
    engine.set(RUNNING, capture("queue_running_unstarted_t0"))
    pending = captured("queue_running_unstarted_t0")["result"]["jobs"]
    for job in pending:
        value = client.wait(lambda m: m.get("key") == job["job_id"])
        assert value.data["status"] == "pending"
    for job in IDS:
        client.wait(final(job))

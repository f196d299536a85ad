"""A hundred faults at random against the real programs (tests/chaos does thousands); and the checker that judges them sees
each thing that it is there to see."""

import json
import pathlib
import subprocess
import sys
import time

import pytest

from harness import BIN, PATIENCE

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS / "faults"))

import checker  # noqa: E402

NOW = 1_795_262_957.0
EPOCH = "17c8afaef21ad7dfea1f08df5cb88651"


def test_a_hundred_faults_that_overlap_lose_repeat_reorder_and_age_nothing(tmp_path):
    done = subprocess.run([str(TESTS / "chaos"), "--faults", "100", "--seed", "1", "--clients", "48", "--bin", str(BIN),
                           "--out", str(tmp_path / "chaos")], capture_output=True, text=True, timeout=170 * PATIENCE)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    result = json.loads((tmp_path / "chaos" / "result.json").read_text())
    assert result["faults"] == 100 and result["problems"] == 0
    assert result["notes_acknowledged"] >= 50 and result["connections"] > 48 and result["messages"] > 10_000
    assert len(result["kinds"]) >= 8, "all kinds of faults were at work"


# The checker ------------------------------------------------------------------------------------------------------------

class Engine:
    """It answered chaos.fast with n at NOW + n / 10."""
    answers = {"chaos.fast"}

    @staticmethod
    def check(number):
        return f"c{number}"

    @staticmethod
    def judge(_poll, number, as_of):
        return None if abs(as_of - (NOW + number / 10)) < 0.05 else f"{number} was not answered at {as_of}"

    @staticmethod
    def judge_confirmation(_poll, as_of):
        return None if as_of < NOW + 100 else "never answered"


def rfc(moment):
    whole, milliseconds = divmod(round(moment * 1000), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{milliseconds:03}Z"


def value(n, at=None, **members):
    at = NOW + n / 10 + 0.01 if at is None else at
    as_of = members.pop("as_of", NOW + n / 10)
    return {"type": "chaos.fast", "timestamp": rfc(at), "data": {"n": n, "check": members.pop("check", f"c{n}")},
            "origin": "nas", "poll": "chaos.fast", "seq": n, "pos": 10 * n, "epoch": EPOCH, "quality": "live",
            "as_of": rfc(as_of), "age_ms": round((at - as_of) * 1000), **members}


def note(n, seq=None, **members):
    seq = seq or n
    return {"type": "note.made", "timestamp": rfc(NOW + n / 10 + 0.02), "data": {"n": n}, "origin": "notes", "seq": seq,
            "pos": 10 * seq + 5, "epoch": EPOCH, **members}


def row(message):
    kind = "event" if message["type"] == "note.made" else "value"
    return {"pos": message["pos"], "kind": kind, "type": message["type"], "origin": message["origin"],
            "seq": message["seq"], "data": message["data"]}


def hello(pos=0, features=("resume",)):
    return {"type": "hello", "timestamp": rfc(NOW), "data": {"epoch": EPOCH, "pos": pos, "features": list(features)}}


def subscribed(**answer):
    return {"type": "subscribed", "timestamp": rfc(NOW), "data": {"topics": {"*": answer or {"result": "live"}}}, "id": 1}


def good(count=20):
    """Messages, and the log that they are of."""
    told = [message for n in range(1, count + 1) for message in (value(n), note(n))]
    return [hello(), subscribed(), *told], [row(message) for message in told]


def judged(sessions, rows, horizon=10_000, ended=None):
    """The rules that one client's sessions break, in order."""
    judge = checker.Judge({"nas": Engine()}, checker.Rules(interval=0.1, slack=0.2))
    watch = checker.Watch(judge, "it", ["*"])
    for messages in sessions:
        watch.connected()
        for message in messages:
            watch.message(json.dumps(message).encode(), NOW + 60)
    if ended:
        judge.ended(ended)
    judge.rows(rows)
    watch.settled(horizon)
    return [problem["rule"] for problem in judge.problems]


def changed(messages, at, *others):
    return [*messages[:at], *others, *messages[at + 1:]]


def test_the_checker_finds_nothing_wrong_where_nothing_is():
    messages, rows = good()
    assert judged([messages], rows) == []


FAST, NOTE = 2 + 2 * 9, 2 + 2 * 9 + 1  # Of number 10.


@pytest.mark.parametrize("rule, others", [
    ("lost", []),                                             # left out
    ("order", [note(10), note(10)]),                          # twice
    ("order", [note(11), note(10)]),                          # the wrong way round
    ("epoch", [note(10, epoch="0" * 32)]),                    # of another log
    ("same", [note(12, seq=10)]),                             # another event under its position
], ids=["lost", "repeated", "reordered", "another_log", "exchanged"])
def test_the_checker_sees_an_event_that_is(rule, others):
    messages, rows = good()
    assert rule in judged([changed(messages, NOTE, *others)], rows)


@pytest.mark.parametrize("rule, other", [
    ("lost", None),
    ("as_of", value(10, as_of=NOW + 0.8)),                    # as the answer before
    ("as_of", value(10, data={"n": 9, "check": "c9"})),       # an older answer, called new
    ("future", value(10, at=NOW + 1, as_of=NOW + 1.01)),
    ("future", value(10, at=NOW + 61)),
    ("age", value(10, age_ms=500)),
    ("live", value(10, at=NOW + 7)),                          # live, six seconds after its answer
    ("content", value(10, check="c9")),
    ("regress", value(10, data={"n": 8, "check": "c8"})),
    ("form", {"type": "chaos.fast"}),
], ids=["missing", "older_as_of", "older_answer", "as_of_ahead", "made_ahead", "age", "live_too_long", "mixed", "regressed",
        "shapeless"])
def test_the_checker_sees_a_value_that_is(rule, other):
    messages, rows = good()
    assert rule in judged([changed(messages, FAST, *([other] if other else []))], rows)


def test_the_checker_sees_a_value_that_nobody_calls_stale():
    messages, rows = good(1)
    beats = [note(n) for n in range(2, 90)]
    assert "live" in judged([[*messages, *beats]], [*rows, *map(row, beats)])


def test_the_checker_sees_what_the_log_lacks_has_twice_or_lost():
    messages, rows = good()
    assert "durable" in judged([messages], [each for each in rows if each["pos"] != 105])
    assert "log" in judged([messages], [*rows, rows[-1]])
    gap = {"pos": 500, "kind": "gap", "type": "note.made", "origin": "notes", "seq": 21, "lost_to": 25}
    assert "gap" in judged([messages], [*rows, gap])
    of_the_ended = {**gap, "why": "5 events were lost before the broker"}
    assert "gap" in judged([messages], [*rows, of_the_ended]), "none has"
    assert judged([messages], [*rows, of_the_ended], ended="notes") == []


def test_the_checker_sees_a_tail_and_a_beginning_that_never_came():
    messages, rows = good()
    assert judged([messages[:-4]], rows) == ["lost"]
    assert judged([[*messages[:2], *messages[6:]]], rows) == ["lost"]
    assert judged([messages[:2]], rows) == ["lost"]


def resumed(at, rest, answer):
    """A second session after `at` messages of the first."""
    messages, rows = good()
    return judged([messages[:at], [hello(200), subscribed(**answer), *rest(messages)]], rows)


def test_the_checker_holds_a_resume_to_what_it_answers():
    at = FAST
    assert resumed(at, lambda messages: messages[at:], {"result": "resumed"}) == []
    assert "lost" in resumed(at, lambda messages: messages[at + 4:], {"result": "resumed"})
    assert "order" in resumed(at, lambda messages: messages[at - 2:], {"result": "resumed"})


def test_the_checker_takes_a_loss_that_was_told_and_no_more_than_that():
    at, snapshot = FAST, [value(15, replay=True)]
    left_out = {"result": "snapshot", "count": 1, "cause": "too_old", "lost": {"from": 100, "to": 155}}

    def rest(messages):
        return [*snapshot, *messages[2 + 2 * 15:]]
    assert resumed(at, rest, left_out) == []
    assert "lost" in resumed(at, rest, {**left_out, "lost": {"from": 100, "to": 125}})
    assert "lost" in resumed(at, rest, {"result": "snapshot", "count": 1, "cause": "too_old"})


def test_the_checker_sees_a_snapshot_that_goes_back():
    old = [value(5, replay=True)]
    assert "regress" in resumed(FAST, lambda messages: [*old, *messages[FAST:]], {"result": "snapshot", "count": 1})


def test_the_checker_sees_a_bookmark_that_goes_back_and_resumes_from_the_newest():
    judge = checker.Judge({}, checker.Rules(interval=0.1))
    watch = checker.Watch(judge, "it", ["*"])

    def pong(pos):
        return {"type": "pong", "timestamp": rfc(NOW), "pos": pos, "epoch": EPOCH}
    for message in (hello(3), subscribed(), note(1), note(2), pong(15), note(3)):
        watch.message(json.dumps(message).encode(), NOW + 60)
    assert watch.subscription()["data"]["resume"] == {"epoch": EPOCH, "pos": 15,
                                                      "topics": {"note.made": {"notes": 35}}}
    watch.message(json.dumps(pong(14)).encode(), NOW + 60)
    assert [problem["rule"] for problem in judge.problems] == ["bookmark"]

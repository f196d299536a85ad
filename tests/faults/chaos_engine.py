"""The engine of a chaos run, and the truth about it: every good answer that it ever gave.

    engine = ChaosEngine("nas", jobs=True)       # listens
    engine.misbehave(kind, method, seconds)      # by the names in KINDS; heals by itself
    engine.hold(); engine.final()                # answers repeat from here on, and what they are
    engine.judge(poll, number, as_of)            # why this cannot be what was answered then, or None

Each answer has a number, counted up for each poll, which travels in the value: `n` of the data, total_jobs of the jobs'
summary, elapsed_seconds of a job. `chaos.fast` is new in every answer, `chaos.slow` in every tenth, the jobs in every fifth;
between them a value is confirmed, not changed. as_of is when an answer was complete at the producer: not before the
engine began to write it, and not after the deadline that runs from the call.
"""

import bisect
import hashlib
import threading
import time

import fault_engine
from fault_engine import FaultEngine, ok

FAST, SLOW, JOBS, JOB_STATUS = "chaos.fast", "chaos.slow", "compression.queue.running", "compression.queue.status"
PADDING = "x" * 100
ANSWERS_MAX = 200_000  # Of one poll: more than a run of 20,000 faults makes.

KINDS = {
    "garbage": fault_engine.garbage, "not_http": fault_engine.not_http, "wrong_id": fault_engine.wrong_id,
    "no_result": fault_engine.no_result, "truncated": fault_engine.truncated,
    "truncated_json": fault_engine.truncated_json, "empty_reply": fault_engine.empty_reply,
    "empty_body": fault_engine.empty_body, "reset": fault_engine.reset, "hang": fault_engine.hang,
    "drip": fault_engine.slow_drip, "http_500": lambda: fault_engine.status(500),
    "redirect": fault_engine.redirect, "rpc_error": lambda: fault_engine.rpc_error(-32000, "out of order"),
}


def check_of(origin, n):
    """Travels with a value, so that a value put together from two is seen."""
    return hashlib.sha1(f"{origin}/{n}".encode()).hexdigest()[:12]


class Answers:
    """Of one poll: the good ones, in order."""

    def __init__(self):
        self.lock = threading.Lock()
        self.numbers, self.asked, self.began = [], [], []

    def add(self, number, asked, began):
        with self.lock:
            assert len(self.numbers) < ANSWERS_MAX, "a longer run needs a larger bound"
            self.numbers.append(number)
            self.asked.append(asked)
            self.began.append(began)

    def of(self, number):
        """[(asked, began)] of every answer that had this number."""
        with self.lock:
            first = bisect.bisect_left(self.numbers, number)
            last = bisect.bisect_right(self.numbers, number)
            return list(zip(self.asked[first:last], self.began[first:last]))

    def until(self, moment, deadline, slack):
        """Whether an answer could have been complete at this moment."""
        with self.lock:
            last = bisect.bisect_right(self.began, moment + slack)
            return any(moment <= asked + deadline + slack for asked in self.asked[max(0, last - 20):last])


class ChaosEngine:
    def __init__(self, origin, deadline, slack, jobs=False):
        self.origin, self.deadline, self.slack = origin, deadline, slack
        self.answers = {name: Answers() for name in ((FAST, SLOW, JOBS) if jobs else (FAST, SLOW))}
        self.lock = threading.Lock()
        self.moving = True
        self.calls = {name: 0 for name in self.answers}
        self.numbers = {name: 1 for name in self.answers}
        self.running = []   # Ids of the jobs that run, oldest first.
        self.started = 0
        self.good = {FAST: self._behaviour(FAST, 1), SLOW: self._behaviour(SLOW, 10),
                     "health.check": fault_engine.capture("health_check"), JOB_STATUS: ok(self._ended)}
        if jobs:
            self.good[JOBS] = self._behaviour(JOBS, 5)
            self._new_jobs()
        self.server = FaultEngine(dict(self.good)).start()

    # Being the engine -------------------------------------------------------------------------------------------------
    def _behaviour(self, name, every):
        def behave(call, connection):
            asked = time.time()
            with self.lock:
                self.calls[name] += 1
                if self.moving and self.calls[name] % every == 0:
                    self.numbers[name] += 1
                    if name == JOBS and self.numbers[name] % 4 == 0:
                        self._new_jobs()
                number = self.numbers[name]
                result = self._jobs(number) if name == JOBS else {"n": number, "check": check_of(self.origin, number),
                                                                  "padding": PADDING}
                self.answers[name].add(number, asked, time.time())
            return ok(result)(call, connection)
        return behave

    def _new_jobs(self):
        """The oldest ends, another begins; three at most."""
        self.started += 1
        self.running = [*self.running[-2:], f"job{self.started}"]

    def _jobs(self, number):
        jobs = [{"job_id": job, "status": "running", "job_type": "compress_file", "priority": "normal", "progress": 50.0,
                 "elapsed_seconds": number, "phase": "compressing"} for job in self.running]
        return {"jobs": jobs, "total_running": len(jobs), "total_pending": 0, "total_jobs": number}

    @staticmethod
    def _ended(params):
        return {"job_id": params["job_id"], "status": "completed", "progress": 100.0, "error": None}

    # Being told -------------------------------------------------------------------------------------------------------
    def misbehave(self, kind, method):
        for name in self.good if method == "*" else [method]:
            self.server.set(name, KINDS[kind]())

    def behave(self, method):
        for name in self.good if method == "*" else [method]:
            self.server.set(name, self.good[name])

    def hold(self, held=True):
        with self.lock:
            self.moving = not held

    # Being asked ------------------------------------------------------------------------------------------------------
    def final(self):
        """{(topic, key): number} of what it answers while it is held."""
        with self.lock:
            values = {(name, ""): number for name, number in self.numbers.items() if name != JOBS}
            if JOBS in self.numbers:
                values[("compression.update", "")] = self.numbers[JOBS]
                values.update({("compression.update", job): self.numbers[JOBS] for job in self.running})
            return values

    def check(self, number):
        return check_of(self.origin, number)

    def judge(self, poll, number, as_of):
        """Why this value cannot have been the answer at `as_of`; None where it can."""
        answers = self.answers.get(poll)
        if answers is None:
            return None
        given = answers.of(number)
        if not given:
            return f"{self.origin} never answered {poll} with {number}"
        if any(began - self.slack <= as_of <= asked + self.deadline + self.slack for asked, began in given):
            return None
        nearest = min(given, key=lambda each: abs(each[1] - as_of))
        return (f"{poll} {number} of {self.origin} has as_of {as_of:.3f}; its {len(given)} answers were given from "
                f"{given[0][1]:.3f} to {given[-1][1]:.3f}, the nearest {nearest[1]:.3f}")

    def judge_confirmation(self, poll, as_of):
        answers = self.answers.get(poll)
        if answers is None or answers.until(as_of, self.deadline, self.slack):
            return None
        return f"{poll} of {self.origin} was not answered at {as_of:.3f}"

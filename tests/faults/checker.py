"""What clients saw, held against what was: the broker's log and the engines' answers. It shares no code with the product.

    judge = Judge(engines, rules)
    watch = Watch(judge, "client 7", ["*"])           # one a client; lives on through its reconnects
    watch.connected(); watch.subscription(); watch.message(raw, now)
    judge.rows(rows)                                  # of `sigmacast log --json`, from where the last ones ended
    watch.settled(); judge.problems                   # once the run is healed: what is missing, and all that was wrong

Judged as a message comes: that positions of a stream rise by one, each step beyond that told before; that no number goes
back; that as_of is the moment of an answer with this very number; that age_ms is its age; that nothing is called live
longer than P4's bounds allow. Judged when the log has been read: that what was seen is in it, as it was seen, and that no
client lacks an event which nobody told it that it lost. A message that many clients get is parsed and judged once.

No clock, no socket: times come in as seconds since 1970. Rules of an edge that cannot resume (`hello` names no `resume`)
are weaker: what was missed while away then counts as told by the cause `not_kept`, and is counted.
"""

import collections
import dataclasses
import json
import re
import calendar
import time

STATE = {"chaos.fast", "chaos.slow", "compression.update", "breaker.status"}
NO_STREAM = {"hello", "subscribed", "tick", "heartbeat", "skipped", "connection_error", "error", "pong", "goodbye", "welcome"}
PARSED_MAX = 20_000   # Messages kept parsed, twice.
TRACE = 300           # Messages kept of each client, for a failure.
PROBLEMS_MAX = 200    # Told; more are counted.
ENDED_MAX = 60        # Seconds; a broker that is away hears of the next one later.


@dataclasses.dataclass
class Rules:
    """In seconds, as the programs are configured. `slack` is what a busy machine may add."""
    interval: float
    uplink: float = 3.0
    ping: float = 1.0
    slack: float = 1.0

    @property
    def live(self):
        """How old a value may be that is called live: a poll that fell silent, and then the broker that would tell."""
        return 2 * self.interval + 2 + self.uplink + self.slack

    @property
    def vouched(self):
        """The same of state that no poll feeds: its producer's heads vouch for it, and ticks tell that once a ping."""
        return 3 + self.ping + self.uplink + self.slack

    def bound(self, poll):
        return self.live if poll else self.vouched


def seconds(text, cache={}):
    """Of an RFC 3339 time in UTC with milliseconds."""
    day = cache.get(text[:16])
    if day is None:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d", text[:16]), text
        if len(cache) > 1000:
            cache.clear()
        day = cache[text[:16]] = calendar.timegm(time.strptime(text[:16], "%Y-%m-%dT%H:%M"))
    assert text[-1] == "Z", text
    return day + float(text[17:-1])


def number_of(topic, key, data):
    """The engine's number in a value; None where there is none."""
    if topic.startswith("chaos.") or topic.startswith("note."):
        return data.get("n")
    if topic == "compression.update":
        return data.get("elapsed_seconds") if key else data.get("total_jobs")
    return None


class Parsed:
    """A message, parsed and judged by itself, once for all who got it."""
    __slots__ = ("type", "value", "data", "origin", "key", "seq", "pos", "stamp", "as_of", "quality", "poll", "number",
                 "replay")

    def __init__(self, value):
        self.value = value
        self.type, self.data = value["type"], value.get("data") or {}
        self.origin, self.key = value.get("origin"), value.get("key", "")
        self.seq, self.pos = value.get("seq"), value.get("pos")
        self.stamp = seconds(value["timestamp"])
        self.as_of = seconds(value["as_of"]) if "as_of" in value else None
        self.quality, self.poll, self.replay = value.get("quality"), value.get("poll", ""), value.get("replay", False)
        self.number = number_of(self.type, self.key, self.data) if self.origin else None


class Judge:
    def __init__(self, engines, rules):
        self.engines, self.rules = engines, rules
        self.problems = []
        self.problem_count = 0
        self.on_problem = None  # Told of each, as it is found.
        self.counts = collections.Counter()
        self.oldest_live = 0.0
        self.age_error = 0.0
        self.epoch = None
        self.seen = {}       # (origin, topic, seq): (pos, kind, number); until the log has been read that far
        self.logged = {}     # (origin, topic) of events: {seq: pos}
        self.last_seq = {}   # (origin, topic): newest in the log
        self.numbers = {}    # (origin, topic, key): newest in the log
        self.last_pos = 0
        self.known = {}      # (origin, topic, seq): as in seen, of all rows: a snapshot may repeat an old one
        self.ends = {}       # origin: when a program of it ended last, killed or told to
        self._new, self._old = {}, {}

    def ended(self, origin):
        """What that program alone had is lost with it; the log may say so, within ENDED_MAX."""
        self.ends[origin] = time.time()

    def wrong(self, rule, who, what, trace=None):
        self.problem_count += 1
        if self.on_problem and self.problem_count <= PROBLEMS_MAX:
            self.on_problem(f"{rule}, {who}: {what}")
        self.counts["wrong: " + rule] += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append({"rule": rule, "who": who, "what": what, "at": time.time(),
                                  "trace": list(trace or [])})

    # A message by itself ----------------------------------------------------------------------------------------------
    def parse(self, raw, who, now):
        parsed = self._new.get(raw)
        if parsed is None:
            parsed = self._old.get(raw)
            if parsed is None:
                try:
                    parsed = Parsed(json.loads(raw))
                except (ValueError, KeyError, AssertionError) as problem:
                    self.wrong("form", who, f"{problem!r}: {raw[:300]!r}")
                    return None
                self._alone(parsed, who, now)
            if len(self._new) > PARSED_MAX:
                self._old, self._new = self._new, {}
            self._new[raw] = parsed
        return parsed

    def _alone(self, m, who, now):
        text = json.dumps(m.value)[:400]
        if m.stamp > now + 0.002:
            self.wrong("future", who, f"made {m.stamp - now:.3f} s after it came: {text}")
        if m.as_of is not None:
            if m.as_of > m.stamp + 0.002:
                self.wrong("future", who, f"as_of is {m.as_of - m.stamp:.3f} s after the message was made: {text}")
            age = m.value.get("age_ms")
            if age is not None:
                error = abs((m.stamp - m.as_of) - age / 1000)
                self.age_error = max(self.age_error, error)
                if error > self.rules.slack / 5:
                    self.wrong("age", who, f"age_ms is {age}, it was {(m.stamp - m.as_of) * 1000:.0f}: {text}")
            # Without a poll: a value that its producer sends again keeps its as_of until the next head; _still_live looks.
            if m.quality == "live" and m.origin in self.engines and (m.poll or m.data.get("poll")):
                self.oldest_live = max(self.oldest_live, m.stamp - m.as_of)
                if m.stamp - m.as_of <= self.rules.bound(m.poll or m.data.get("poll")):
                    pass
                elif self.has_ended(m.origin, m.type, m.key):
                    self.counts["live too long: jobs whose end is still asked for"] += 1
                else:
                    self.wrong("live", who, f"called live {m.stamp - m.as_of:.3f} s after the answer: {text}")
        engine = self.engines.get(m.origin)
        if engine is not None and m.as_of is not None and m.poll + m.data.get("poll", "") in engine.answers:
            if m.type in ("tick", "transition"):
                said = engine.judge_confirmation(m.data["poll"], m.as_of)
            else:
                said = None if m.value.get("final") else engine.judge(m.poll, m.number, m.as_of)
            if said:
                self.wrong("as_of", who, f"{said}: {text}")
        if engine is not None and m.type.startswith("chaos."):
            if m.data.get("check") != engine.check(m.number):
                self.wrong("content", who, f"this was never answered: {text}")
        epoch = m.value.get("epoch") or (m.data.get("epoch") if m.type == "hello" else None)
        if epoch:
            if self.epoch is None:
                self.epoch = epoch
            elif epoch != self.epoch:
                self.wrong("epoch", who, f"another log than {self.epoch}, though none was lost: {text}")
        if m.origin and m.seq and m.type not in NO_STREAM:
            self._same(m, who)

    def has_ended(self, origin, topic, key):
        """A job that no list has any more, and whose end the producer does not know yet, is called live until it does:
        what is known to fall short, and counted."""
        return topic == "compression.update" and key and key not in self.engines[origin].running

    def _same(self, m, who):
        """All clients are told the same under one position, and it is what the log has."""
        stream = (m.origin, m.data.get("topic") if m.type == "transition" else m.type, m.seq)
        told = (m.pos, "transition" if m.type == "transition" else "value", m.number)
        before = self.seen.get(stream) or self.known.get(stream)
        if before is None:
            self.seen[stream] = told
        elif before != told:
            self.wrong("same", who, f"{stream} was {before} and is {told}")

    # The log ----------------------------------------------------------------------------------------------------------
    def rows(self, rows):
        """New rows of the log, in its order."""
        for row in rows:
            stream = (row["origin"], row["type"])
            seq, kind = row["seq"], row["kind"]
            if row["pos"] <= self.last_pos:
                self.wrong("log", "the log", f"{row['pos']} after {self.last_pos}")
            self.last_pos = row["pos"]
            if seq != self.last_seq.get(stream, 0) + 1:
                self.wrong("log", "the log", f"{stream}: {seq} after {self.last_seq.get(stream, 0)}")
            self.last_seq[stream] = row.get("lost_to", seq) if kind == "gap" else seq
            if kind == "gap":
                if row.get("why", "").endswith("were lost before the broker") and \
                        time.time() - self.ends.get(row["origin"], 0) < ENDED_MAX:
                    self.counts["gap rows, of producers that ended with what they had"] += 1
                    continue
                self.counts["gap rows"] += 1
                self.wrong("gap", "the log", f"{stream} lost {seq} to {row['lost_to']}: {row.get('why')}")
                continue
            number = number_of(row["type"], row.get("key", ""), row.get("data") or {}) if kind != "transition" else None
            told = (row["pos"], "transition" if kind == "transition" else "value", number)
            seen = self.seen.pop((*stream, seq), None)
            if seen is not None and seen != told:
                self.wrong("same", "the log", f"{stream} {seq} is {told}; clients were told {seen}")
            self.known[(*stream, seq)] = told
            if kind == "event":
                self.logged.setdefault(stream, {})[seq] = row["pos"]
                self.counts["events logged"] += 1
            elif kind == "value":
                self.counts["values logged"] += 1
                key = (*stream, row.get("key", ""))
                if number is not None and number < self.numbers.get(key, number):
                    self.wrong("regress", "the log", f"{key}: {number} at {row['pos']} after {self.numbers[key]}")
                if number is not None:
                    self.numbers[key] = number
        for stream, told in list(self.seen.items()):
            if told[0] is not None and told[0] <= self.last_pos:
                self.wrong("durable", "the log", f"clients were told {stream} {told}, which is not in it")
                del self.seen[stream]


class Stream:
    """Of one client: how far it has come in (origin, topic)."""
    __slots__ = ("last", "pos", "expected", "told", "base")

    def __init__(self):
        self.last = self.pos = 0
        self.expected = 0   # The next position, those that were skipped left out; 0: any.
        self.told = None    # Why a jump may come: (from, to) positions of the log, or () for whatever was missed.
        self.base = None    # First position that it got: (seq, pos).


class Watch:
    def __init__(self, judge, name, topics):
        self.judge, self.name, self.topics = judge, name, topics
        self.cursor = None           # (epoch, pos): where to resume
        self.beyond = {}             # topic: {origin: pos} of what came beyond it
        self.start = None            # Position from which nothing may be missing
        self.streams = collections.defaultdict(Stream)
        self.values = {}             # (origin, topic, key): [number, seq, quality, as_of, poll]
        self.missing = []            # (stream, from, to, told): what it was told that it lost
        self.trace = collections.deque(maxlen=TRACE)
        self.notes = {}              # topic: last number of note.*
        self.conflated = False       # It reads slowly, and is told late.
        self.last_stamp = 0.0
        self.checked_live = 0.0
        self.suspected = set()       # Of values that were live for too long at the last look
        self.messages = 0
        self.resumes = False
        self.connected()

    def wrong(self, rule, what):
        self.judge.wrong(rule, self.name, what, [f"{at:.3f} {raw[:400]}" for at, raw in self.trace])

    # A connection -----------------------------------------------------------------------------------------------------
    def connected(self):
        self.answered = False
        self.replaying = {}          # topic of the subscription: [how many more, keys, last pos of each origin]
        self.session_pos = 0
        self.weak = False            # Of this connection: an answer `not_kept`, so that it may begin behind
        self.ended_by = None
        self.hint = None

    def subscription(self, identifier=1):
        data = {"types": self.topics}
        if self.cursor:
            data["resume"] = {"epoch": self.cursor[0], "pos": self.cursor[1],
                              "topics": {topic: dict(origins) for topic, origins in self.beyond.items()}}
        return {"type": "subscribe", "id": identifier, "data": data}

    # Messages ---------------------------------------------------------------------------------------------------------
    def message(self, raw, now):
        self.messages += 1
        self.trace.append((now, raw))
        m = self.judge.parse(raw, self.name, now)
        if m is None:
            return None
        if m.type not in ("pong", "error", "heartbeat", "goodbye"):
            self.last_stamp = max(self.last_stamp, m.stamp)
        handler = self.HANDLERS.get(m.type)
        if handler:
            handler(self, m)
        elif m.origin is not None:
            self._value(m)
        if m.stamp - self.checked_live > 1.0:
            self.checked_live = m.stamp
            self._still_live()
        return m

    def _hello(self, m):
        self.resumes = "resume" in m.data.get("features", [])
        if self.cursor is None and m.data.get("epoch"):
            self.cursor = (m.data["epoch"], m.data["pos"])
            self.start = m.data["pos"]

    def _subscribed(self, m):
        for topic, answer in m.data["topics"].items():
            result, cause = answer["result"], answer.get("cause")
            self.judge.counts[f"answer {result}" + (f" {cause}" if cause else "")] += 1
            if result == "denied":
                self.wrong("answer", f"{topic} is denied")
            elif result in ("snapshot", "pending"):
                self._snapshot(topic, answer, cause)
            elif result == "resumed":
                self.replaying.pop(topic, None)
        self.answered = True

    def _snapshot(self, topic, answer, cause):
        lost = answer.get("lost")
        if not self.resumes or cause == "not_kept":
            told, self.weak = (), True
            self.start = None
        else:
            told = (lost["from"], lost["to"]) if lost else None
            if lost:
                self.judge.counts["losses told"] += 1
        for (origin, name), stream in self.streams.items():
            if topic in ("*", name):
                if name in STATE:
                    stream.expected = 0
                elif told is not None:
                    stream.told = told
        self.replaying[topic] = [answer.get("count", 0), set(), {}]
        self._replayed(topic)

    def _replayed(self, topic):
        """A snapshot is complete: keys that it did not have are gone."""
        left, keys, positions = self.replaying[topic]
        if left > 0:
            return
        del self.replaying[topic]
        for key in [key for key in self.values if topic in ("*", key[1]) and key not in keys]:
            del self.values[key]
        for (origin, name), pos in positions.items():
            self._came_to(name, origin, pos)

    def _came_to(self, topic, origin, pos):
        if self.cursor and pos > self.cursor[1]:
            origins = self.beyond.setdefault(topic, {})
            origins[origin] = max(pos, origins.get(origin, 0))

    def _bookmark(self, m):
        if m.pos and m.value.get("epoch") and self.answered and not self.replaying:
            if self.cursor and m.pos < self.cursor[1] and not self.weak:
                self.wrong("bookmark", f"it went back from {self.cursor[1]} to {m.pos}")
            self.cursor = (m.value["epoch"], m.pos)
            self.beyond = {topic: rest for topic, origins in self.beyond.items()
                           if (rest := {origin: pos for origin, pos in origins.items() if pos > m.pos})}

    def _value(self, m):
        stream = self.streams[(m.origin, m.type)]
        if m.type.startswith("note.") and m.number is not None and not m.replay:
            self.notes[m.type] = max(self.notes.get(m.type, 0), m.number)
        if not m.seq:
            return  # Not durable: without a position.
        subscription = m.type if m.type in self.replaying else "*"
        if m.replay and subscription in self.replaying and m.type in STATE:
            self._of_snapshot(m, stream, self.replaying[subscription])
            self._replayed(subscription)
            return
        if not self._step(m, stream, m.type):
            return
        if m.type in STATE:
            self._keep(m)
        elif m.type.startswith("note.") and m.number is not None:
            self.notes[m.type] = max(self.notes.get(m.type, 0), m.number)

    def _of_snapshot(self, m, stream, replaying):
        key = (m.origin, m.type, m.key)
        replaying[0] -= 1
        replaying[1].add(key)
        replaying[2][(m.origin, m.type)] = max(m.pos, replaying[2].get((m.origin, m.type), 0))
        before = self.values.get(key)
        if before and m.seq < before[1]:
            if self.weak:
                self.judge.counts["snapshots behind what was seen (not_kept)"] += 1
            else:
                self.wrong("regress", f"{key} goes back from {before[1]} to {m.seq} in a snapshot")
        self._keep(m)
        if self.weak:
            stream.last = stream.pos = 0
        stream.last = max(stream.last, m.seq)

    def _keep(self, m):
        key = (m.origin, m.type, m.key)
        before = self.values.get(key)
        if before and m.number is not None and before[0] is not None and m.number < before[0] and not self.weak:
            self.wrong("regress", f"{key} goes back from number {before[0]} to {m.number}")
        if m.value.get("final"):
            self.values.pop(key, None)
        else:
            self.values[key] = [m.number, m.seq, m.quality, m.as_of, m.poll]

    def _step(self, m, stream, topic):
        """One position further in a stream; false where it is not to be looked at."""
        if m.seq <= stream.last:
            if self.weak:
                self.judge.counts["repeated by an edge behind (not_kept)"] += 1
            else:
                self.wrong("order", f"{m.origin} {topic}: {m.seq} after {stream.last}")
            return False
        if m.pos <= stream.pos:
            self.wrong("order", f"{m.origin} {topic} {m.seq}: position {m.pos} after {stream.pos}")
        elif not m.replay and m.pos < self.session_pos:  # Another stream waited for a repair.
            self.judge.counts["positions out of order between streams"] += 1
        if stream.base is None:
            stream.base = (m.seq, m.pos) if self.start is not None else (0, 0)
        elif stream.expected and m.seq != stream.expected:
            if stream.told is None or topic in STATE:
                self.wrong("lost", f"{m.origin} {topic}: {stream.expected} to {m.seq - 1} never came, and nobody told")
            else:
                self.missing.append(((m.origin, topic), stream.expected, m.seq - 1, stream.told))
        stream.told = None
        stream.last, stream.pos, stream.expected = m.seq, m.pos, m.seq + 1
        if not m.replay:
            self.session_pos = max(m.pos, self.session_pos)
        self._came_to(topic, m.origin, m.pos)
        return True

    def _transition(self, m):
        topic = m.data["topic"]
        if m.seq and not self._step(m, self.streams[(m.origin, topic)], topic):
            return
        keys = m.data.get("keys") or None
        for (origin, name, key), value in self.values.items():
            if origin == m.origin and name == topic and (value[4] or "") == m.data.get("poll", "") and \
                    (keys is None or key in keys):
                value[2] = m.quality
                if m.as_of is not None:
                    value[3] = m.as_of

    def _tick(self, m):
        keys = m.data.get("keys")
        for (origin, name, key), value in self.values.items():
            if origin == m.origin and name == m.data["topic"] and (value[4] or "") == m.data.get("poll", "") and \
                    (keys is None or key in keys):
                value[2], value[3] = m.quality, m.as_of

    def _skipped(self, m):
        topic, why = m.data["topic"], m.data["why"]
        if "from" not in m.data:
            return
        stream = self.streams[(m.origin, topic)]
        self.judge.counts[f"skipped {why}"] += 1
        if topic not in STATE:
            if why == "slow":
                self.wrong("lost", f"{m.origin} {topic}: events {m.data['from']} to {m.data['to']} were left out")
            else:
                self.judge.counts["losses told"] += 1
                self.missing.append(((m.origin, topic), m.data["from"], m.data["to"], ()))
        if stream.expected and m.data["from"] <= stream.expected <= m.data["to"]:
            stream.expected = m.data["to"] + 1

    def _goodbye(self, m):
        self.hint = m.data.get("reconnect_in_ms", 0) / 1000
        self.judge.counts[f"goodbye {m.data.get('code')}"] += 1

    def _error(self, m):
        self.judge.counts[f"error {m.data.get('code')} {m.data.get('name')}"] += 1

    def _nothing(self, m):
        pass

    def _still_live(self):
        """What it takes for live has been confirmed lately: the edge told otherwise if not. Looked at once a second, and wrong
        the second time: an edge that was frozen tells what it missed value by value."""
        before, self.suspected = self.suspected, set()
        if self.conflated or not self.answered or self.replaying:
            return
        for key, (_, _, quality, as_of, poll) in self.values.items():
            if quality != "live" or as_of is None or self.last_stamp - as_of <= self.judge.rules.bound(poll):
                continue
            self.suspected.add((key, as_of))
            if self.judge.has_ended(*key):
                self.judge.counts["live too long: jobs whose end is still asked for"] += 1
            elif (key, as_of) in before:
                self.wrong("live", f"{key} was never told stale, {self.last_stamp - as_of:.3f} s after its last answer")

    HANDLERS = {"hello": _hello, "subscribed": _subscribed, "heartbeat": _bookmark, "pong": _bookmark,
                "transition": _transition, "tick": _tick, "skipped": _skipped, "goodbye": _goodbye, "error": _error,
                "connection_error": _nothing}

    # Once all is healed -----------------------------------------------------------------------------------------------
    def lacks(self, final, notes):
        """What it does not have yet of {(origin, topic, key): number}, live, and of {topic: number}; None: nothing."""
        if not self.answered or self.replaying:
            return "an answer"
        for key, number in final.items():
            value = self.values.get(key)
            if value is None:
                return f"{key}"
            if value[0] != number:
                return f"{key} {number} (it has {value[0]})"
            if value[2] != "live":
                return f"{key} live (it is {value[2]})"
        jobs = {key for key in self.values if key[1] == "compression.update"}
        if more := jobs - set(final):
            return f"the end of {sorted(more)}"
        for topic, number in notes.items():
            if self.notes.get(topic, 0) < number and not self.weak:
                return f"{topic} {number} (it has {self.notes.get(topic, 0)})"
        return None

    def bookmark(self):
        """The position up to which it was told that it has everything."""
        return self.cursor[1] if self.cursor else 0

    def settled(self, horizon):
        """Every event of the log up to `horizon` came, or was told as lost where it was."""
        logged = self.judge.logged
        for stream, rows in logged.items():
            if "*" not in self.topics and stream[1] not in self.topics:
                continue
            mine = self.streams.get(stream)
            if mine is None or mine.base is None:
                first = min(rows.values())
                if self.start is not None and self.start < first <= horizon:
                    self.wrong("lost", f"{stream}: nothing came of {len(rows)} events")
                continue
            due = [seq for seq, pos in rows.items() if pos <= horizon]
            if due and max(due) >= mine.expected and mine.told != () and not self.weak:
                self.wrong("lost", f"{stream}: the last one that came is {mine.expected - 1}, the log has {max(due)}")
            if mine.base[0]:
                before = [seq for seq, pos in rows.items() if seq < mine.base[0] and self.start is not None and
                          pos > self.start]
                if before:
                    self.wrong("lost", f"{stream}: it began with {mine.base[0]}, without {before}")
                mine.base = (0, 0)
        for stream, first, last, told in self.missing:
            there = {seq: pos for seq, pos in logged.get(stream, {}).items() if first <= seq <= last}
            self.judge.counts["events lost, told"] += len(there)
            if told:
                untold = [seq for seq, pos in there.items() if not told[0] <= pos <= told[1]]
                if untold:
                    self.wrong("lost", f"{stream}: {untold} are outside of what was told as lost, {told}")
        self.missing.clear()

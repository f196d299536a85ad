"""Says what is wrong with a row of the load test. Pure: a row goes in, sentences come out; load.py makes the rows.

    problems = judge(row)        # [] where everything holds

A row is what samples.jsonl and result.json hold of it:

    limits   the bounds that it is held to, as LIMITS has them
    samples  [{"t": seconds, "phase": "before" | "load" | "after" | "again", "clients": open ones,
               "programs": {name: {"rss": bytes, "fds": count, "threads": count}}, "database": bytes,
               "counters": {name: value}, "younger_ms": ms, "late": "" or why the programs did not answer}]
    result   what sigmacast-bench-load counted, `checked` what it found missing at the end
    again    the same of the second wave of clients, where there was one
    logged   lines of the programs at warn or worse
    ended    programs that ended by themselves
"""

import itertools
import statistics

MIB = 1 << 20

LIMITS = {
    "p99_ms": 250,          # From the engine's answer to the client, over the whole row.
    "silence_s": 10,        # The contract: something arrives every 10 s.
    "younger_ms": 250,      # as_of is when the producer had the answer; the stamp is when the engine began to write it.
    "growth_mib": 1.0,      # What the line that is fitted to the second half may rise within that half, or ...
    "growth_part": 0.02,    # ... this part of the memory, whichever is more.
    "again_mib": 4.0,       # The second wave of as many clients over the first, or ...
    "again_part": 0.05,     # ... this part.
    "files_slack": 8,       # Descriptors beside those of the clients: requests for /metrics, a database's journal.
    "database_mib": 640,    # File and journal together.
    "pings_min": 0,         # Control pings that each client must have got.
}


def judge(row):
    checks = (connections, delivery, order, ages, silence, pings, latency, memory, descriptors, threads, database,
              counters, answers, logs)
    return [problem for check in checks for problem in check(row, row["limits"])]


def of(row, *phases):
    return [sample for sample in row["samples"] if sample["phase"] in phases]


def programs(row):
    return list(row["samples"][0]["programs"]) if row["samples"] else []


def series(row, program, member, *phases):
    return [(sample["t"], sample["programs"][program][member]) for sample in of(row, *phases)
            if program in sample["programs"]]


def values(points):
    return [value for _, value in points]


# --- clients ----------------------------------------------------------------------------------------------------------

def connections(row, _):
    result = row["result"]
    if result["failed"]:
        yield f"connections: {result['failed']:,} of {result['tried']:,} failed"
    if result["closed"]:
        yield f"connections: {result['closed']:,} were closed by the edge"
    if not result["connected"]:
        yield "connections: there was none"


def delivery(row, _):
    result, checked = row["result"], row["checked"]
    if result["holes"]:
        yield f"delivery: {result['holes']:,} holes in the positions"
    if result["skipped"]:
        yield f"delivery: {result['skipped']:,} positions were left out for slow clients"
    if checked["behind"]:
        yield f"delivery: {checked['behind']:,} clients have not got all of it"
    if not checked["offered"]:
        yield "delivery: nothing was offered"
    elif checked["received"] != checked["offered"]:
        yield f"delivery: {checked['received']:,} of {checked['offered']:,} came"
    if row.get("again") and row["again"]["behind"]:
        yield f"delivery: {row['again']['behind']:,} clients of the second wave have not the newest values"


def order(row, _):
    result = row["result"]
    if result["repeated"]:
        yield f"order: {result['repeated']:,} positions came twice"
    if result["back"]:
        yield f"order: {result['back']:,} positions went back"
    if result["resubscribed"]:
        yield f"order: {result['resubscribed']:,} clients were started anew"
    if result["errors"]:
        yield f"order: {result['errors']:,} error messages to clients"


def ages(row, limits):
    result = row["result"]
    if result["younger"]:
        yield f"ages: {result['younger']:,} values claimed to be up to {result['younger_ms_max']} ms younger than they were"
    worst = max((sample.get("younger_ms", 0) for sample in row["samples"]), default=0)
    if worst > limits["younger_ms"]:
        yield f"ages: over REST a value claimed to be {worst} ms younger than its engine's last answer"


def silence(row, limits):
    longest = row["result"]["silence_s_max"]
    if longest > limits["silence_s"]:
        yield f"silence: a client heard nothing for {longest:.1f} s; {limits['silence_s']} s are promised"


def pings(row, limits):
    result = row["result"]
    if result["pings_min"] < limits["pings_min"]:
        yield f"pings: a client got {result['pings_min']} control pings, fewer than {limits['pings_min']}"
    if result["answered"] != result["asked"]:
        yield f"pings: {result['answered']:,} of {result['asked']:,} pings of clients were answered"


def latency(row, limits):
    found = row["result"]["latency_ms"]
    if not found["samples"]:
        yield "latency: nothing was measured"
    if found["p99"] > limits["p99_ms"]:
        yield f"latency: p99 is {found['p99']:.1f} ms, over {limits['p99_ms']} ms"


# --- programs ---------------------------------------------------------------------------------------------------------

def slope(points, bins=100):
    """Of the line through (t, value), a second: the median of the slopes between all pairs (Theil-Sen), which a step or
    a few wild samples do not move. Long series are first put into bins, each its median."""
    size = max(1, len(points) // bins)
    chunks = [points[i:i + size] for i in range(0, len(points), size)]
    means = [(statistics.median(t for t, _ in chunk), statistics.median(v for _, v in chunk)) for chunk in chunks]
    slopes = [(v2 - v1) / (t2 - t1) for (t1, v1), (t2, v2) in itertools.combinations(means, 2) if t2 > t1]
    return statistics.median(slopes) if slopes else 0.0


def growth(row, program):
    """Bytes that the fitted line rises within the second half of the load, and bytes an hour."""
    points = series(row, program, "rss", "load")
    points = points[len(points) // 2:]
    if len(points) < 2:
        return 0.0, 0.0
    rate = slope(points)
    return rate * (points[-1][0] - points[0][0]), rate * 3600


def median_of(row, program, phase, member="rss"):
    """Of the second half of a phase; None where it has no sample."""
    found = values(series(row, program, member, phase))
    return statistics.median(found[len(found) // 2:]) if found else None


def memory(row, limits):
    if not of(row, "load"):
        yield "memory: there is no sample under load"
    for program in programs(row):
        rise, an_hour = growth(row, program)
        during = median_of(row, program, "load") or 0
        bound = max(limits["growth_mib"] * MIB, limits["growth_part"] * during)
        if rise > bound:
            yield (f"memory: {program} grew by {rise / MIB:.1f} MiB in the second half of the load ({an_hour / MIB:.1f} "
                   f"MiB/h), over {bound / MIB:.1f} MiB")
        again = median_of(row, program, "again")
        bound = max(limits["again_mib"] * MIB, limits["again_part"] * during)
        if again is not None and again > during + bound:
            yield (f"memory: {program} has {again / MIB:.1f} MiB with as many clients again, over {during / MIB:.1f} + "
                   f"{bound / MIB:.1f} MiB")


def descriptors(row, limits):
    slack = limits["files_slack"]
    for program in programs(row):
        before = values(series(row, program, "fds", "before"))
        if not before:
            yield f"descriptors: there is no sample of {program} before the load"
            continue
        before = max(before)
        for sample in row["samples"]:
            fds = sample["programs"].get(program, {}).get("fds", 0)
            clients = sample["clients"] if program.startswith("edge") else 0
            if fds > before + clients + slack:
                yield (f"descriptors: {program} had {fds:,} with {clients:,} clients, at {sample['t']:.0f} s; before the "
                       f"load it had {before}")
                break
        after = values(series(row, program, "fds", "after"))
        if after and after[-1] > before + slack:
            yield f"descriptors: {program} has {after[-1]:,} after the load, and had {before} before it"


def threads(row, _):
    for program in programs(row):
        found = set(values(series(row, program, "threads", "before", "load", "after", "again")))
        if len(found) > 1:
            yield f"threads: {program} had between {min(found)} and {max(found)}"


def database(row, limits):
    largest = max((sample["database"] for sample in row["samples"]), default=0)
    if largest > limits["database_mib"] * MIB:
        yield f"database: {largest / MIB:.0f} MiB with its journal, over {limits['database_mib']} MiB"


def counters(row, _):
    worst = {}
    for sample in row["samples"]:
        for name, value in sample["counters"].items():
            worst[name] = max(worst.get(name, 0), value)
    for name, value in sorted(worst.items()):
        if value:
            yield f"counters: {name} is {value:.0f}, and should be 0"


def answers(row, _):
    late = [sample for sample in row["samples"] if sample.get("late")]
    if late:
        yield f"answers: {len(late)} of {len(row['samples'])} requests for figures were not answered: {late[0]['late']}"


def logs(row, _):
    for program in row["ended"]:
        yield f"programs: {program} ended"
    lines = row["logged"]
    if lines:
        yield f"logs: {len(lines)} lines at warn or worse, the first: {lines[0]}"

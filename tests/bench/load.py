"""The load test and the soak: tests/load and tests/soak are this with different rows. See README.md.

Each row starts the programs anew with a scripted engine, and then: samples before any client; all clients connect, and are
told new values and events for the row's minutes; the feed stops, and each client must have got all of it; all leave; as many
come again. verdict.py says what was wrong. Written to the folder of --out: samples.jsonl as it goes, result.json and
report.md and report.svg after each row, the programs' logs.
"""

import argparse
import datetime
import os
import pathlib
import resource
import signal
import sys

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent

ROWS = {  # name: clients, minutes, new values and events a second
    "10": {"clients": 10, "minutes": 5, "values": 0.4, "events": 1},
    "1000": {"clients": 1000, "minutes": 5, "values": 50, "events": 50},
    "10000": {"clients": 10_000, "minutes": 5, "values": 2.5, "events": 2.5, "limits": {"p99_ms": 1000}},
    "pings": {"clients": 100, "minutes": 25, "values": 0.4, "events": 1},
}
# Memory is not held to a megabyte within seconds: the first messages of each kind are in them.
QUICK_LIMITS = {"growth_mib": 8, "again_mib": 8, "p99_ms": 2000, "younger_ms": 1000}
QUICK = {
    "10": {"clients": 10, "minutes": 2 / 60, "values": 10, "events": 10, "limits": QUICK_LIMITS},
    "200": {"clients": 200, "minutes": 2 / 60, "values": 20, "events": 20, "limits": QUICK_LIMITS},
    "1000": {"clients": 1000, "minutes": 2 / 60, "values": 10, "events": 10, "limits": QUICK_LIMITS},
    "pings": {"clients": 40, "minutes": 4 / 60, "values": 10, "events": 10, "churn": 5, "ping": 1,
              "limits": QUICK_LIMITS},
}


def main(soak=False):
    parser = argparse.ArgumentParser(
        description="Soaks the programs under mixed load, with clients that come and go." if soak else
        "Loads the programs with 10, 1,000 and 10,000 clients, and for 25 minutes with pings: about 43 minutes.",
        epilog="Ends with 0 when everything held, 1 when something did not (the report names it). Goes on when its terminal "
               "dies.")
    if soak:
        parser.add_argument("--hours", type=float, default=24)
        parser.add_argument("--churn", type=float, default=2, help="clients that leave, and others that come, each second")
        parser.add_argument("--values", type=float, default=10, help="new values a second, beside the product's own polls")
        parser.add_argument("--events", type=float, default=30, help="events a second; with fewer an edge's ring of recent "
                            "ones (8 MiB) still fills when growth is judged, unless it goes on for hours")
    else:
        parser.add_argument("--rows", default=",".join(ROWS), help="which of these, with commas (default: all)")
        parser.add_argument("--minutes", type=float, help="of each row, instead of its own")
        parser.add_argument("--values", type=float, help="new values a second in each row, instead of its own")
        parser.add_argument("--events", type=float, help="events a second in each row, instead of its own")
        parser.add_argument("--quick", action="store_true", help="seconds instead of minutes, and at most 1,000 clients")
    parser.add_argument("--clients", type=int, help="a soak's (default 500)" if soak else "one row with so many")
    parser.add_argument("--out", default=str(PROJECT / "build" / ("soak" if soak else "load") /
                                             datetime.datetime.now().strftime("%Y%m%d-%H%M%S")),
                        help="folder of the results (default: %(default)s)")
    parser.add_argument("--bin", default=str(PROJECT / "build" / "release" / "bin"), help="folder of the programs")
    parser.add_argument("--every", type=float, help="seconds between samples")
    parser.add_argument("--fault", help=argparse.SUPPRESS)  # Of the clients, for tests of the command.
    options = parser.parse_args()
    options.quick = not soak and options.quick
    options.every = options.every or (0.5 if options.quick else 30 if soak and options.hours > 6 else 5)
    options.bin = str(pathlib.Path(options.bin).resolve())
    if not (pathlib.Path(options.bin) / "sigmacast-bench-load").exists():
        parser.error(f"no sigmacast-bench-load in {options.bin}: build first (cmake --preset release && cmake --build "
                     "build/release -j2), or say --bin")
    if soak:
        rows = {"soak": {"clients": options.clients or 500, "minutes": options.hours * 60, "churn": options.churn,
                         "values": options.values, "events": options.events, "retain": 600}}
    else:
        chosen = QUICK if options.quick else ROWS
        names = list(chosen) if options.rows == ",".join(ROWS) else options.rows.split(",")
        if unknown := [name for name in names if name not in chosen]:
            parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(chosen)}")
        rows = {name: dict(chosen[name]) for name in names}
        if options.clients:
            nearest = min((row for row in chosen.values()), key=lambda row: abs(row["clients"] - options.clients))
            rows = {str(options.clients): {**nearest, "clients": options.clients}}
        for row in rows.values():
            row.update({name: given for name in ("minutes", "values", "events") if (given := getattr(options, name))})
    os.environ["SIGMACAST_BIN"] = options.bin
    from rows import Interrupted, Run  # Which looks for the programs there.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # Which the programs inherit.

    def interrupt(number, _):
        raise Interrupted(signal.Signals(number).name)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    sys.setswitchinterval(0.001)  # The engine's answers wait less for the samples.
    held = Run(options, rows).all()
    try:
        sys.stdout.flush()
    except OSError:  # The terminal is gone: what is left for it would make the exit status 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0 if held else 1)

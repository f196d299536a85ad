"""tests/bench/run: what one delivery costs, the edge side by side with FLOOR (floor.cc) and with other servers.

Each run starts one server anew on one core, the clients and whatever feeds it on another, and counts the server's CPU (user
and system, from the clock of the process: nanoseconds) from the first event to the last delivery. Runs come in pairs, FLOOR
and another right after each other, first and second in turns, so that what else happens to the machine happens to both;
what is told is the median of the pairs' ratios. README.md says what each figure means.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
HERE = PROJECT / "tests" / "bench"

SCENARIOS = {  # name: events a second (0: as fast as they go), burst or window
    "A": (100, 1),
    "A5": (100, 5),
    "B": (0, 64),
}
FIELDS = ("memory", "handshake", "return")
TARGETS = ("sigmacast-broker", "sigmacast-edge", "sigmacast", "sigmacast-bench-fanout", "sigmacast-bench-floor")
MESSAGE_BYTES = 288
WARM_SECONDS = 0.4
PROBLEM_MAX = 500  # Characters.
RETURN_EVENTS = 100  # That each missed.
RETURN_CONNECTING = 2_000  # Unanswered at one time: half of a listening socket's queue.
IDLE_SECONDS = 5  # Until memory is taken as it is, though it still moves.


def arguments():
    parser = argparse.ArgumentParser(
        prog="tests/bench/run", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measures what one delivery, one idle client and one handshake cost, side by side with FLOOR and others.",
        epilog="""A: 1,000 clients x 100 events a second. A5: the same in bursts of 5. B: 64 events in flight, as fast as they go.

examples:
  tests/bench/run                                   everything: about half an hour
  tests/bench/run --quick                           about two minutes
  tests/bench/run --quick --only floor,edge --scenario A     half a minute: is this change any good?
  tests/bench/run --only floor,edge,edge@/tmp/before/bin     with the edge of another build
  tests/bench/run --only floor,edge --scenario A --edge-set 'heartbeat_interval="4s"'
""")
    parser.add_argument("--quick", action="store_true", help="short runs: one of each peer, three pairs of the edge")
    parser.add_argument("--only", help="servers: floor,floor-coalesce,edge,edge@BIN,nchan,ws,nats,mosquitto (default: all)")
    parser.add_argument("--scenario", help="of A,A5,B,memory,handshake,return (default: all)")
    parser.add_argument("--pairs", type=int, help="pairs of runs of each server (default 5; quick: 3, of peers 1)")
    parser.add_argument("--seconds", type=float, help="of each run of A, A5 and B (default 5; quick: 1.5)")
    parser.add_argument("--clients", type=int, default=1000, help="of A, A5 and B (default 1,000)")
    parser.add_argument("--rate", type=float, default=100, help="events a second of A and A5 (default 100)")
    parser.add_argument("--window", type=int, default=SCENARIOS["B"][1], help="events in flight in B (default 64)")
    parser.add_argument("--idle-clients", type=int, help="of memory, handshake and return (default 10,000; quick: 2,000)")
    parser.add_argument("--edge-set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the edge, in TOML")
    parser.add_argument("--bin", help="folder of the programs (default: build/release/bin, built first)")
    parser.add_argument("--out", help="folder of the results (default: build/bench/DATE-TIME)")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    options = parser.parse_args()
    options.peer_pairs = options.pairs or (1 if options.quick else 5)
    options.pairs = options.pairs or (3 if options.quick else 5)
    options.seconds = options.seconds or (1.5 if options.quick else 5)
    options.idle_clients = options.idle_clients or (2000 if options.quick else 10_000)
    known = [*SCENARIOS, *FIELDS]
    options.scenarios = options.scenario.split(",") if options.scenario else known
    if wrong := [name for name in options.scenarios if name not in known]:
        parser.error(f"there is no scenario {', '.join(wrong)}; there are {', '.join(known)}")
    if min(options.pairs, options.clients, options.rate, options.window, options.seconds, options.idle_clients) <= 0:
        parser.error("numbers are above 0")
    for core in (options.server_core, options.client_core):
        if core not in os.sched_getaffinity(0):
            parser.error(f"there is no core {core} for this process; there are {sorted(os.sched_getaffinity(0))}")
    if options.server_core == options.client_core:
        parser.error("server and clients need a core each")
    return parser, options


def main():
    parser, options = arguments()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < max(options.clients, options.idle_clients) + 200:
        parser.error(f"{max(options.clients, options.idle_clients):,} clients need more than the {hard:,} descriptors "
                     "that this shell allows: ulimit -n")
    os.environ["SIGMACAST_BIN"] = options.bin or str(PROJECT / "build" / "release" / "bin")
    if not options.bin:
        build()
    import peers
    servers = chosen(options, peers, parser)
    folder = pathlib.Path(options.out or PROJECT / "build" / "bench" / f"{datetime.datetime.now():%Y%m%d-%H%M%S}")
    folder.mkdir(parents=True, exist_ok=True)
    os.sched_setaffinity(0, {options.client_core})
    Bench(options, servers, folder, peers).run()


def build():
    os.environ.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count()))
    for command in (["cmake", "--preset", "release"], ["cmake", "--build", "build/release", "--target", *TARGETS]):
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-4000:]}")


def chosen(options, peers, parser):
    """{name: class}, FLOOR first: everything is held against it. Installs what the peers among them need."""
    servers = {"floor": peers.SERVERS["floor"]}
    for name in options.only.split(",") if options.only else peers.SERVERS:
        kind, _, other = name.partition("@")
        if kind not in peers.SERVERS or (other and kind != "edge"):
            parser.error(f"there is no server {name}; there are {', '.join(peers.SERVERS)}, edge@BIN")
        servers[name] = peers.edge_of(other) if other else peers.SERVERS[kind]
    peers.Edge.options = dict(setting(text, parser) for text in options.edge_set)
    peers.Edge.feeders_cores = (options.client_core,)
    if {"nchan", "ws", "nats", "mosquitto"} & set(servers):
        done = subprocess.run([PROJECT / "ops" / "setup", "bench"], check=False)
        if done.returncode:
            print("Not all packages could be installed; rows without a server say so.", file=sys.stderr)
    if "ws" in servers:
        peers.NodeWs.modules = npm_folder()
    return servers


def setting(text, parser):
    import tomllib
    try:
        (pair,) = tomllib.loads(text).items()
        return pair
    except (ValueError, tomllib.TOMLDecodeError):
        parser.error(f"--edge-set {text} is not KEY=VALUE as TOML has it")


def npm_folder():
    """Where `npm ci` has installed what npm/package-lock.json names; None where it cannot."""
    folder = PROJECT / "build" / "bench" / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    installed = folder / "installed-package-lock.json"
    lock = (HERE / "npm" / "package-lock.json").read_bytes()
    for file in (HERE / "npm").iterdir():
        shutil.copy(file, folder)
    if not (installed.exists() and installed.read_bytes() == lock):
        try:
            done = subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder, text=True,
                                  capture_output=True, timeout=150, check=False)
        except (OSError, subprocess.TimeoutExpired) as problem:
            print(f"npm ci: {problem}", file=sys.stderr)
            return None
        if done.returncode:
            print(f"npm ci failed:\n{done.stdout}{done.stderr}", file=sys.stderr)
            return None
        installed.write_bytes(lock)
    return folder


# --- what is read of a process ----------------------------------------------------------------------------------------

def cpu_ns(pids):
    """User and system time of processes, threads that have ended included: CPUCLOCK_SCHED of clock_getcpuclockid(3)."""
    return sum(time.clock_gettime_ns(((~pid) << 3) | 2) for pid in pids)


def ticks(pids):
    """User and system time apart, in the kernel's ticks: for their share only."""
    fields = [pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rsplit(")", 1)[1].split()
              for pid in pids]
    return sum(int(field[11]) for field in fields), sum(int(field[12]) for field in fields)


def memory(pids, names=("Anonymous", "Pss_Shmem")):
    """What is the processes' own: anonymous memory and shared memory, without files and without the kernel's buffers. Or other
    rows of smaps_rollup."""
    total = 0
    for pid in pids:
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name in names:
                total += int(value.split()[0]) * 1024
    return total


def core_seconds(core):
    """(busy, stolen) of a core since the machine started."""
    for line in pathlib.Path("/proc/stat").read_text(encoding="ascii").splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _, _, irq, softirq, steal = map(int, line.split()[1:9])
            hertz = os.sysconf("SC_CLK_TCK")
            return (user + nice + system + irq + softirq) / hertz, steal / hertz
    return 0, 0


class Clients:
    """sigmacast-bench-fanout; fanout.cc says what it can be told."""

    def __init__(self, peers, server, count, seconds_max, **more):
        options = {"port": server.port, "clients": count, "feed_fd": server.feed_fd, **server.client, **server.feed, **more}
        self.seconds_max = seconds_max
        self.process = subprocess.Popen(
            [str(peers.BIN / "sigmacast-bench-fanout"),
             *[str(part) for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=[server.feed_fd])

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()  # Its own limits end it: connecting 60 s, silence 10 s.
        if not line:
            raise RuntimeError(self.process.stderr.read().strip() or f"the clients ended at {command}")
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


# --- runs -------------------------------------------------------------------------------------------------------------

class Bench:
    def __init__(self, options, servers, folder, peers):
        self.options, self.servers, self.folder, self.peers = options, servers, folder, peers
        self.runs, self.missing = [], {}
        self.began = time.monotonic()

    def run(self):
        import compare_report
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        self.title_ = self.title()
        self.say(self.title_)
        busy = os.getloadavg()[0]
        if busy > 0.7:
            self.say(f"This machine is busy (load average {busy:.1f}): ratios may hold, microseconds do not.")
        try:
            for number in range(self.options.pairs):
                self.round(number)
                self.write(compare_report)
        except KeyboardInterrupt:
            self.say("ended early; the report is of what there is")
        self.write(compare_report)
        self.say("", *compare_report.tables(self.result()), "", f"{self.folder}/report.md, result.json, report.svg")
        # Of the others it is a finding.
        if any("problem" in run for run in self.runs if self.is_ours(run["server"])):
            sys.exit(1)

    def round(self, number):
        """Each chosen scenario: pairs of FLOOR and one of the others."""
        last = {}
        for scenario in self.options.scenarios:
            if scenario == "memory" and number > 0:  # It is the same each time.
                continue
            others = [name for name in self.servers if name != "floor"
                      and (name.startswith("edge") or number < self.options.peer_pairs)]
            if scenario == "return":  # Nobody else has a log from which a client could resume.
                others = [name for name in others if name.startswith("edge")]
                last[scenario] = f"{number}.return"
            for index, name in enumerate(others or ["floor"] * (scenario != "return")):
                pair = f"{number}.{scenario}.{name}"
                # Short of time, peers share the FLOOR that was measured before them.
                shared = self.options.quick and not name.startswith("edge") and last.get(scenario)
                order = [name] if shared or scenario == "return" or name == "floor" else ["floor", name] if (number + index) % 2 == 0 \
                    else [name, "floor"]
                for server in order:
                    run = self.measure(scenario, server)
                    run.update(pair=shared or pair, round=number, scenario=scenario, server=server)
                    self.runs.append(run)
                    self.tell(run)
                last[scenario] = shared or pair

    @staticmethod
    def is_ours(name):
        return name.startswith(("edge", "floor"))

    def measure(self, scenario, name):
        if name in self.missing:
            return {"missing": self.missing[name]}
        with tempfile.TemporaryDirectory(prefix="sigmacast-bench-") as folder:
            server = None
            try:
                with self.peers.pinned(self.options.server_core):
                    server = self.servers[name](folder)
                if scenario in SCENARIOS:
                    return self.fan_out(scenario, server)
                return self.come_back(server) if scenario == "return" else self.hold_idle(scenario, server)
            except self.peers.Missing as problem:
                self.missing[name] = str(problem)
                return {"missing": str(problem)}
            except Exception as problem:  # One server's trouble is a row of the report, and no end of the others.
                return {"problem": " ".join(f"{type(problem).__name__}: {problem}".split())[:PROBLEM_MAX]}
            finally:
                if server:
                    server.stop()

    def fan_out(self, scenario, server):
        rate, burst = SCENARIOS[scenario]
        rate, burst = (self.options.rate, burst) if rate else (0, self.options.window)
        size = MESSAGE_BYTES - getattr(server, "envelope", 0)
        with Clients(self.peers, server, self.options.clients, self.options.seconds, bytes=size) as clients:
            connected = clients.ask("connect")
            warm = clients.ask(f"run {WARM_SECONDS} {rate} {burst}")
            before, began = self.note(server, clients), time.monotonic()
            told = clients.ask(f"run {self.options.seconds} {rate} {burst}")
            took, after = time.monotonic() - began, self.note(server, clients)
        used = {name: after[name] - before[name] for name in before}
        delivered = told["delivered"]
        run = {"us": used["server"] / 1000 / max(delivered, 1), "deliveries_s": delivered / max(told["seconds"], 1e-9),
               "delivered": delivered, "expected": told["expected"], "gaps": told["gaps"] + warm["gaps"],
               "closed": told["closed"], "clients": told["clients"], "events": told["events"],
               "bytes": told["bytes"] / max(delivered, 1), "latency_ms": told["latency_ms"], "late_ms": told["late_ms"],
               "kernel": used["kernel"] / max(used["kernel"] + used["user"], 1), "seconds": took,
               "server_core": used["server"] / 1e9 / took, "client_core": used["clients"] / 1e9 / took,
               "others_core": max(0, used["busy"] - used["server"] / 1e9) / took, "stolen": used["stolen"] / took,
               "load": os.getloadavg()[0]}
        self.judge(run, connected["failed"], warm["expected"] - warm["delivered"])
        return run

    @staticmethod
    def judge(run, failed, lost_before):
        """Every client must have got everything, once and in order."""
        wrong = []
        if failed:
            wrong.append(f"{failed} clients could not connect")
        if lost_before:
            wrong.append(f"{lost_before:,} messages of the warm-up did not come")
        if run["delivered"] < run["expected"]:
            wrong.append(f"{run['expected'] - run['delivered']:,} of {run['expected']:,} messages did not come")
        if run["gaps"]:
            wrong.append(f"{run['gaps']:,} messages out of order, repeated or missing between others")
        if run["closed"]:
            wrong.append(f"{run['closed']} clients were closed")
        if wrong:
            run["problem"] = "; ".join(wrong)

    def note(self, server, clients):
        user, kernel = ticks(server.pids)
        busy, stolen = core_seconds(self.options.server_core)
        return {"server": cpu_ns(server.pids), "clients": cpu_ns([clients.process.pid]), "user": user, "kernel": kernel,
                "busy": busy, "stolen": stolen}

    def hold_idle(self, scenario, server):
        """Many clients connect and hear nothing; memory: subscribed, and once more after all have left."""
        count = self.options.idle_clients
        subscribe = int(scenario == "memory")
        with Clients(self.peers, server, count, 60, subscribe=subscribe) as clients:
            empty = self.settled(server)
            before = cpu_ns(server.pids)
            told = clients.ask("connect")
            used = cpu_ns(server.pids) - before
            run = {"clients": told["connected"], "us": used / 1000 / max(told["connected"], 1), "load": os.getloadavg()[0],
                   "handshakes_s": told["connected"] / max(told["seconds"], 1e-9)}
            if told["failed"]:
                run["problem"] = f"{told['failed']:,} of {count:,} clients could not connect"
            if scenario == "memory":
                run["kib"] = (self.settled(server) - empty) / 1024 / max(told["connected"], 1)
                clients.ask("leave")
                run["left_mib"] = (self.settled(server) - empty) / 2**20
                clients.ask("connect")
                run["again_kib"] = (self.settled(server) - empty) / 1024 / max(told["connected"], 1)
            return run

    def come_back(self, server):
        """All hear events and leave; the edge is killed and started anew; more events; all come back at once and resume."""
        count = self.options.idle_clients
        size = MESSAGE_BYTES - server.envelope
        with Clients(self.peers, server, count, 60, bytes=size) as clients:
            connected = clients.ask("connect")
            warm = clients.ask("run 0.2 50 1")
            clients.ask("leave")
            clients.ask(f"feed {RETURN_EVENTS}")
            server.restart(RETURN_EVENTS + warm["events"])
            used = cpu_ns(server.pids)
            asked = server.broker_requests()
            told = clients.ask(f"return {RETURN_CONNECTING}")
            used = cpu_ns(server.pids) - used
            run = {"us": used / 1000 / count, "seconds": told["seconds"], "answered_ms": told["answered_ms"],
                   "served_ms": told["served_ms"], "requests": server.broker_requests() - asked, "clients": told["clients"],
                   **{name: told[name] for name in ("delivered", "expected", "gaps", "closed")}, "load": os.getloadavg()[0]}
            self.judge(run, connected["failed"] + count - told["clients"], warm["expected"] - warm["delivered"])
            return run

    @staticmethod
    def settled(server):
        """Memory once it has not moved for 1.5 s: the edge gives back what is free each half second."""
        end, same, last = time.monotonic() + IDLE_SECONDS, 0, -1
        while same < 15 and time.monotonic() < end:
            time.sleep(0.1)
            now = memory(server.pids)
            same = same + 1 if now == last else 0
            last = now
        return last

    # What is told -----------------------------------------------------------------------------------------------------
    def title(self):
        processor = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo", encoding="ascii")
                          if line.startswith("model name")), platform.machine())
        commit = ""
        with contextlib.suppress(FileNotFoundError):  # Nothing else needs git.
            commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=PROJECT, capture_output=True, text=True,
                                    check=False).stdout.strip()
        return (f"{datetime.datetime.now():%Y-%m-%d %H:%M}, {os.cpu_count()} cores {processor}, {platform.system()} "
                f"{platform.release()}, load average {os.getloadavg()[0]:.1f}"
                f"{', at ' + commit if commit else ''}; tests/bench/run {' '.join(sys.argv[1:])}".rstrip())

    def tell(self, run):
        head = f"{time.monotonic() - self.began:5.0f} s  {run['scenario']:9}  {run['server'][:24]:24}"
        if "missing" in run:
            self.say(f"{head}  {run['missing']}")
        elif "us" not in run:
            self.say(f"{head}  {run['problem']}")
        elif run["scenario"] in SCENARIOS:
            self.say(f"{head}  {run['us']:7.3f} us  {run['deliveries_s'] / 1e3:8.1f} k/s  p50 {run['latency_ms']['p50']:8.2f}  "
                     f"p99 {run['latency_ms']['p99']:8.2f} ms  {run.get('problem', '')}")
        elif run["scenario"] == "return":
            self.say(f"{head}  {run['us']:7.1f} us  all served in {run['seconds']:.2f} s, answered p99 "
                     f"{run['answered_ms']['p99']:.0f} ms  {run['requests']} requests to the broker  {run.get('problem', '')}")
        else:
            self.say(f"{head}  {run['us']:7.1f} us  {run['handshakes_s']:8,.0f}/s  "
                     + (f"{run['kib']:.2f} KiB a client  " if "kib" in run else "") + run.get("problem", ""))

    def result(self):
        options = {name: value for name, value in vars(self.options).items() if name not in ("scenario", "only")}
        return {"title": self.title_, "options": options, "servers": list(self.servers), "runs": self.runs}

    def write(self, report):
        report.write(self.folder, self.result())

    def say(self, *lines):
        print(*lines, sep="\n", flush=True)

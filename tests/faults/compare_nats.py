"""Sigmacast's broker and NATS JetStream (Debian's nats-server, file storage) under the same kill -9 and the same power cut.

    tests/compare_nats [--kills N] [--images N] [--seed N] [--bin FOLDER]

Messages are published, and what was acknowledged is noted with its time. *Kill*: kill -9 in the middle of it, start again, and
read everything back. *Power cut*: the server runs under strace; from its recorded writes and fsyncs the files are put together
as they are on a disk that has what was synced, and of the rest nothing, or each write with one half's chance, or all of it
(a control of the method: nothing may be missing then); the server is started on them and read. What was there before the recorded part began counts as synced, and so does a rename, a new file and
an end of a file: that favours both alike. In the end a table: acknowledged, and of those missing.

Needs strace, and nats-server (`ops/setup dev`); installs nothing. Exit status 1 where Sigmacast lost something; what NATS
does is told, and no failure of ours.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
SECONDS = 3.0        # Of publishing before a kill; a power cut is somewhere in the second half of it.
PADDING = "x" * 200
PUBLISHERS = 4       # Of `sigmacast publish`, each with batches of BATCH.
BATCH = 20
WINDOW = 64          # Messages to NATS that are not acknowledged yet.
STREAM = "notes"


def wait_until(condition, seconds, what):
    end = time.monotonic() + seconds
    while True:
        try:
            value = condition()
            if value:
                return value
        except (OSError, ValueError, KeyError):
            pass
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not within {seconds} s")
        time.sleep(0.02)


class Server:
    """A process that keeps messages in `data`; started again on the same folder, or on another."""

    def __init__(self, folder):
        self.folder, self.data = folder, folder / "data"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process, self.trace = None, None

    def launch(self, command, trace=None):
        if trace:
            command = ["strace", "-f", "-y", "-xx", "-ttt", "-T", "-s", "9000000", "-o", str(trace), "-e",
                       "trace=openat,write,pwrite64,writev,pwritev,lseek,fsync,fdatasync,sync_file_range,ftruncate,unlink,"
                       "unlinkat,rename,renameat,renameat2", *command]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                            start_new_session=True)

    def kill(self):
        """kill -9, of what strace runs, too."""
        if self.process and self.process.poll() is None:
            children = subprocess.run(["ps", "--no-headers", "-o", "pid", "--ppid", str(self.process.pid)],
                                      capture_output=True, text=True, check=False).stdout.split()
            traced = (pathlib.Path("/proc") / str(self.process.pid) / "exe").resolve().name == "strace"
            for pid in (map(int, children) if traced else [self.process.pid]):
                os.kill(pid, signal.SIGKILL)
            self.process.wait(20)


class Sigmacast(Server):
    name = "Sigmacast"

    def __init__(self, folder, binaries):
        super().__init__(folder)
        self.binaries = binaries
        self.ports = free_ports(4)

    def start(self, trace=None):
        ingest, feed, repair, admin = self.ports
        self.config = self.folder / "sigmacast.toml"
        self.config.write_text(
            f'data_dir = "{self.data}"\n[broker]\ningest = "tcp://127.0.0.1:{ingest}"\nfeed = "tcp://127.0.0.1:{feed}"\n'
            f'repair = "tcp://127.0.0.1:{repair}"\nadmin_port = {admin}\n')
        self.launch([str(self.binaries / "sigmacast-broker"), "--config", str(self.config)], trace)
        wait_until(lambda: b"200" in http(admin, "/readyz"), 30, "the broker is ready")

    def publish(self, acknowledged, stop):
        """Batches; a message is acknowledged when `sigmacast publish` ends with 0."""
        def one(number):
            at = 0
            while not stop.is_set():
                ids = [f"p{number}-{at + i}" for i in range(BATCH)]
                at += BATCH
                lines = "".join(json.dumps({"type": "note.made", "data": {"id": each, "padding": PADDING}}) + "\n" for each in ids)
                process = subprocess.Popen(
                    [str(self.binaries / "sigmacast"), "publish", "--config", str(self.config), "--origin", f"p{number}",
                     "--data-dir", str(self.folder / f"publisher{number}"), "--timeout", "5s"],
                    stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
                process.stdin.write(lines)
                process.stdin.close()
                while process.poll() is None:
                    if stop.is_set():
                        process.kill()
                    time.sleep(0.002)
                if process.wait() == 0:
                    now = time.time()
                    acknowledged.extend((now, each) for each in ids)
        threads = [threading.Thread(target=one, args=(number,)) for number in range(PUBLISHERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def stored(self):
        done = subprocess.run([str(self.binaries / "sigmacast"), "log", str(self.data / "sigmacast.db"), "--json", "--topic",
                               "note.made", "--from", "1", "--limit", "1000000"], capture_output=True, text=True, check=True)
        return [json.loads(line)["data"]["id"] for line in done.stdout.splitlines() if '"kind":"event"' in line]


class Nats(Server):
    name = "NATS JetStream"

    def __init__(self, folder, _binaries):
        super().__init__(folder)
        self.port, = free_ports(1)

    def start(self, trace=None):
        self.launch([shutil.which("nats-server") or "/usr/sbin/nats-server", "-a", "127.0.0.1", "-p", str(self.port), "-js",
                     "-sd", str(self.data)], trace)
        wait_until(lambda: Connection(self.port).close() or True, 30, "nats-server listens")
        connection = Connection(self.port)
        wait_until(lambda: "error" not in connection.request("$JS.API.INFO", {}) or None, 10, "JetStream is there")
        made = connection.request(f"$JS.API.STREAM.CREATE.{STREAM}",
                                  {"name": STREAM, "subjects": ["note.made"], "storage": "file", "num_replicas": 1})
        # 10058: it is there already.
        if "error" in made and made["error"].get("err_code") != 10058:
            raise RuntimeError(f"the stream cannot be made: {made['error']}")
        connection.close()

    def publish(self, acknowledged, stop):
        """A message is acknowledged when its PubAck comes."""
        connection = Connection(self.port)
        waiting, number = {}, 0
        try:
            while not stop.is_set():
                while len(waiting) < WINDOW:
                    waiting[str(number)] = f"n-{number}"
                    connection.publish("note.made", {"id": f"n-{number}", "padding": PADDING}, f"{connection.inbox}.{number}")
                    number += 1
                subject, payload = connection.message()
                answer = json.loads(payload)
                each = waiting.pop(subject.rsplit(".", 1)[1])
                if "error" not in answer:
                    acknowledged.append((time.time(), each))
        except (OSError, EOFError):
            pass  # Killed.

    def stored(self):
        connection = Connection(self.port)
        state = connection.request(f"$JS.API.STREAM.INFO.{STREAM}", {}).get("state", {})
        ids = []
        for seq in range(state.get("first_seq", 1), state.get("last_seq", 0) + 1):
            answer = connection.request(f"$JS.API.STREAM.MSG.GET.{STREAM}", {"seq": seq})
            if "message" in answer:
                import base64
                ids.append(json.loads(base64.b64decode(answer["message"]["data"]))["id"])
        connection.close()
        return ids


class Connection:
    """As much of NATS's text protocol as this needs."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.inbox = f"_INBOX.{os.getpid()}{id(self)}"
        self.requests = 0
        self.line()  # INFO
        self.socket.sendall(b'CONNECT {"verbose":false,"pedantic":false,"lang":"python","version":"0","protocol":1}\r\n'
                            + f"SUB {self.inbox}.* 1\r\nPING\r\n".encode())
        while self.line() != b"PONG":
            pass

    def more(self):
        chunk = self.socket.recv(65536)
        if not chunk:
            raise EOFError
        self.buffer += chunk

    def line(self):
        while b"\r\n" not in self.buffer:
            self.more()
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    def message(self):
        while True:
            line = self.line()
            if line == b"PING":
                self.socket.sendall(b"PONG\r\n")
            elif line.startswith(b"MSG "):
                words = line.decode().split(" ")
                size = int(words[-1])
                while len(self.buffer) < size + 2:
                    self.more()
                payload, self.buffer = self.buffer[:size], self.buffer[size + 2:]
                return words[1], payload

    def publish(self, subject, value, reply):
        payload = json.dumps(value).encode() if value else b""
        self.socket.sendall(f"PUB {subject} {reply} {len(payload)}\r\n".encode() + payload + b"\r\n")

    def request(self, subject, value):
        self.requests += 1
        reply = f"{self.inbox}.r{self.requests}"
        self.publish(subject, value, reply)
        while True:
            came, payload = self.message()
            if came == reply:
                return json.loads(payload)

    def close(self):
        self.socket.close()


def free_ports(count):
    sys.path.insert(0, str(PROJECT / "tests" / "integration"))
    from ports import free_ports as chosen
    return chosen(count)


def http(port, path):
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        return connection.recv(100)


# kill -9 --------------------------------------------------------------------------------------------------------------

def publish_for(server, seconds):
    """Publishes for so long, kills the server in the middle of it; [(time, id)] of what was acknowledged."""
    acknowledged, stop = [], threading.Event()
    thread = threading.Thread(target=server.publish, args=(acknowledged, stop))
    thread.start()
    time.sleep(seconds)
    server.kill()
    killed = time.time()
    stop.set()
    thread.join()
    return [each for each in acknowledged if each[0] <= killed]


def kill_once(kind, folder, binaries, rng):
    server = kind(folder, binaries)
    server.start()
    acknowledged = publish_for(server, rng.uniform(0.5, 1.0) * SECONDS)
    server.start()
    try:
        return judge(acknowledged, server.stored())
    finally:
        server.kill()


def judge(acknowledged, stored):
    counted = collections.Counter(stored)
    missing = [each for _, each in acknowledged if each not in counted]
    return {"acknowledged": len(acknowledged), "missing": len(missing),
            "twice": sum(count > 1 for count in counted.values())}


# Power cut ------------------------------------------------------------------------------------------------------------

def unescape(text):
    return bytes.fromhex(text.replace("\\x", ""))


CALL = re.compile(r"(\d+) +(\d+\.\d+) (?:<\.\.\. (\w+) resumed>(.*)|(\w+)\((.*))$")
FD = r"(\d+)<((?:\\x[0-9a-f]{2})*)>"
DATA = r'"((?:\\x[0-9a-f]{2})*)"'


def operations(trace, data):
    """[(time, what, file, ...)] of the files in `data`, in the order of their completion."""
    found, unfinished, offsets = [], {}, {}
    root = str(data) + "/"

    def inside(path):
        path = path.decode("utf-8", "replace") if isinstance(path, bytes) else path
        return path[len(root):] if path.startswith(root) else None

    with open(trace, encoding="latin-1") as lines:
        for line in lines:
            match = CALL.match(line.rstrip("\n"))
            if not match:
                continue
            pid, at, resumed, tail, call, rest = match.groups()
            at = float(at)
            if resumed:
                call, rest = resumed, unfinished.pop(pid, "") + tail
            elif rest.endswith("<unfinished ...>"):
                unfinished[pid] = rest[:-len("<unfinished ...>")]
                continue
            result = re.search(r"\) += (-?\d+)(.*)$", rest)
            if not result or int(result[1]) < 0:
                continue
            value = int(result[1])
            took = re.search(r"<(\d+\.\d+)>$", result[2])
            done = at if resumed else at + (float(took[1]) if took else 0)
            fd = re.match(FD, rest)
            path = inside(unescape(fd[2])) if fd else None
            if call == "openat":
                opened = re.search(r"= \d+<((?:\\x[0-9a-f]{2})*)>", rest)
                path = inside(unescape(opened[1])) if opened else None
                if path is not None:
                    offsets[value] = None if "O_APPEND" in rest else 0
                    if "O_TRUNC" in rest:
                        found.append((done, "truncate", path, 0))
            elif path is not None and call == "pwrite64":
                parts = re.search(DATA + r", \d+, (\d+) *\)", rest)
                found.append((done, "write", path, int(parts[2]), unescape(parts[1])[:value]))
            elif path is not None and call == "write":
                parts = re.search(DATA + r", \d+ *\)", rest)
                if not parts:
                    raise RuntimeError(f"a write that is not understood: {line[:300]} ... {line[-100:]}")
                content = unescape(parts[1])[:value]
                number = int(fd[1])
                found.append((done, "write", path, offsets.get(number), content))
                if offsets.get(number) is not None:
                    offsets[number] += len(content)
            elif path is not None and call == "lseek":
                offsets[int(fd[1])] = value
            elif path is not None and call in ("fsync", "fdatasync"):
                found.append((done, "sync", path))
            elif path is not None and call == "ftruncate":
                found.append((done, "truncate", path, int(re.search(r", (\d+) *\)", rest)[1])))
            elif path is not None and call in ("writev", "pwritev", "sync_file_range"):
                raise RuntimeError(f"{call} on {path} is not modelled")
            elif call in ("unlink", "unlinkat"):
                path = inside(unescape(re.findall(DATA, rest)[-1]))
                if path is not None:
                    found.append((done, "unlink", path))
            elif call.startswith("rename"):
                names = [inside(unescape(each)) for each in re.findall(DATA, rest)]
                if len(names) == 2 and names[1] is not None:
                    found.append((done, "rename", names[0], names[1]))
    found.sort(key=lambda operation: operation[0])
    return found


def apply(content, operation):
    if operation[1] == "truncate":
        size = operation[3]
        del content[size:]
        content.extend(bytes(size - len(content)))
        return
    at = len(content) if operation[3] is None else operation[3]
    if at > len(content):
        content.extend(bytes(at - len(content)))
    content[at:at + len(operation[4])] = operation[4]


def image(found, begin, cut, folder, chance, rng):
    """The files as they are after a power cut at `cut`: all up to `begin`, then what was synced, and of the rest each write
    with this chance."""
    disk, pending = {}, collections.defaultdict(list)
    for operation in found:
        at, what, path = operation[:3]
        if at > cut:
            break
        if what in ("write", "truncate"):
            if at <= begin:
                apply(disk.setdefault(path, bytearray()), operation)
            else:
                disk.setdefault(path, bytearray())
                pending[path].append(operation)
        elif what == "sync":
            for each in pending.pop(path, []):
                apply(disk[path], each)
        elif what == "unlink":
            disk.pop(path, None)
            pending.pop(path, None)
        elif what == "rename":
            disk[operation[3]] = disk.pop(path, bytearray())
            pending[operation[3]] = pending.pop(path, [])
    unsynced = 0
    for path, operations_left in pending.items():
        for operation in operations_left:
            unsynced += len(operation[4]) if operation[1] == "write" else 0
            if rng.random() < chance:
                apply(disk[path], operation)
    shutil.rmtree(folder, ignore_errors=True)
    for path, content in disk.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return unsynced


def power_cuts(kind, folder, binaries, images, rng):
    """One recorded run, cut at `images` moments; judged after a start of the server on each."""
    server = kind(folder, binaries)
    trace = folder / "trace"
    server.start(trace=trace)
    begin = time.time()
    acknowledged = publish_for(server, 2 * SECONDS)
    found = operations(trace, server.data)
    end = acknowledged[-1][0]
    results = []
    for number in range(images):
        cut = begin + (end - begin) * rng.uniform(0.5, 1.0)
        chance = (0.0, 0.5, 1.0)[number % 3]
        server.data = folder / f"image{number}"
        unsynced = image(found, begin, cut, server.data, chance, rng)
        before = [each for each in acknowledged if each[0] <= cut]
        refused = None
        try:
            server.start()
            stored = server.stored()
        except (RuntimeError, OSError, EOFError, subprocess.CalledProcessError) as problem:
            stored, refused = [], str(problem)
        finally:
            server.kill()
        results.append({**judge(before, stored), "kept": chance, "unsynced_bytes": unsynced, "refused": refused})
        shutil.rmtree(server.data, ignore_errors=True)
    return results, len(acknowledged) / (2 * SECONDS)


# The table ------------------------------------------------------------------------------------------------------------

def row(fault, kind, results):
    missing = [each["missing"] for each in results]
    return [fault, kind.name, str(len(results)), str(sum(each["acknowledged"] for each in results)), str(sum(missing)),
            f"{sum(count > 0 for count in missing)}", str(sum(each["twice"] for each in results)),
            str(sum(each.get("refused") is not None for each in results))]


def main():
    parser = argparse.ArgumentParser(description="Sigmacast and NATS JetStream under the same kill -9 and power cut.")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--images", type=int, default=60, help="of each server's power cut")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", help="keep the table here, too")
    parser.add_argument("--bin", default=os.environ.get("SIGMACAST_BIN") or str(PROJECT / "build" / "release" / "bin"))
    options = parser.parse_args()
    binaries = pathlib.Path(options.bin).resolve()
    if not (binaries / "sigmacast-broker").exists():
        parser.error(f"no sigmacast-broker in {binaries}: build first, or say --bin")
    if not shutil.which("strace"):
        parser.error("strace is needed: ops/setup dev")
    kinds = [Sigmacast]
    if shutil.which("nats-server") or os.path.exists("/usr/sbin/nats-server"):
        kinds.append(Nats)
    else:
        print("no nats-server (Debian's; ops/setup dev): Sigmacast alone")
    rows, lost = [], 0
    with tempfile.TemporaryDirectory(prefix="compare") as folder:
        for kind in kinds:
            where = pathlib.Path(folder) / kind.__name__.lower()
            kills = [kill_once(kind, where / f"kill{number}", binaries, random.Random(options.seed + number))
                     for number in range(options.kills)]
            rows.append(row("kill -9", kind, kills))
            cuts, rate = power_cuts(kind, where / "cut", binaries, options.images, random.Random(options.seed))
            for kept, text in ((0.0, "power cut, nothing unsynced kept"), (0.5, "power cut, half of the unsynced kept"),
                               (1.0, "control: all that was written kept")):
                rows.append(row(text, kind, [each for each in cuts if each["kept"] == kept]))
            print(f"{kind.name}: {rate:.0f} acknowledged a second under strace", flush=True)
            if kind is Sigmacast:
                lost = sum(each["missing"] + (each.get("refused") is not None) for each in [*kills, *cuts])
    heads = ["fault", "server", "runs", "acknowledged", "of those missing", "runs with a loss", "twice", "did not start"]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in [heads, ["---"] * len(heads), *sorted(rows)])
    print(table)
    if options.out:
        pathlib.Path(options.out).write_text(table + "\n", encoding="utf-8")
    return 1 if lost else 0

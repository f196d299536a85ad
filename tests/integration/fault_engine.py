"""A scripted JSON-RPC engine over raw sockets: what the producer polls, misbehaving exactly as a test asks.

    engine = FaultEngine().start()            # serves the recorded captures on a free port
    engine.set("system.status", hang())       # one method hangs, the others answer
    engine.set_all(status(503))               # every method
    engine.refuse(); engine.listen()          # the port closed, and open again
    engine.calls("system.status")             # when each call came in, by the monotonic clock

A behaviour is a function of (Call, socket): it writes whatever it likes to the socket, and returns True to keep the
connection. Threads: one to accept, one for each connection; the methods here may be called from any thread.
"""

import collections
import itertools
import json
import pathlib
import socket
import struct
import threading
import time

from ports import free_port

CALLS_MAX = 100_000  # Older ones are forgotten.
DATA = pathlib.Path(__file__).resolve().parent.parent / "data" / "engine-captures"


def captured(name):
    """The body of a recorded exchange, as JSON."""
    return json.loads(json.loads((DATA / f"{name}.json").read_text())["body"])


class Call:
    def __init__(self, engine, method, params, request_id, at):
        self.engine, self.method, self.params, self.id, self.at = engine, method, params, request_id, at
        self.answered = None  # When the last byte of the answer was handed to the kernel.


def _http(body, status="200 OK", extra="", version="HTTP/1.1"):
    body = body if isinstance(body, bytes) else body.encode()
    return (f"{version} {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
            ).encode() + body


def _reply(call, result=None, error=None, request_id=None):
    return json.dumps({"jsonrpc": "2.0", "result": result, "error": error,
                       "id": call.id if request_id is None else request_id}).encode()


# --- behaviours -------------------------------------------------------------------------------------------------------

def ok(result):
    """A good answer; `result` may be a function of the call's parameters."""
    def behave(call, connection):
        value = result(call.params) if callable(result) else result
        connection.sendall(_http(_reply(call, value)))
        return True
    return behave


def capture(name):
    """The recorded answer, result or error, with this call's id."""
    body = captured(name)

    def behave(call, connection):
        connection.sendall(_http(_reply(call, body.get("result"), body.get("error"))))
        return True
    return behave


def rpc_error(code, message="Internal error", data=None):
    def behave(call, connection):
        error = {"code": code, "message": message}
        if data is not None:
            error["data"] = data
        connection.sendall(_http(_reply(call, None, error)))
        return True
    return behave


def unsupported():
    return lambda call, connection: rpc_error(-32601, f"Method not found: {call.method}")(call, connection)


def status(code, reason="Error", extra=""):
    """A complete HTTP answer with this status; its body would be a good result."""
    def behave(call, connection):
        good = _reply(call, captured("system_status")["result"])
        connection.sendall(_http(good, f"{code} {reason}", extra))
        return True
    return behave


def redirect():
    return status(302, "Found", "Location: http://127.0.0.1:9/api/v1/rpc\r\n")


def hang():
    """Takes the call and never answers, until the engine stops or the method behaves otherwise."""
    def behave(call, connection):
        connection.settimeout(0.05)
        while not call.engine.stopping and call.engine.behaviour(call.method) is behave:
            try:
                if not connection.recv(1):
                    return False
            except socket.timeout:
                continue
            except OSError:
                return False
        return False
    return behave


def slow_drip(pause=0.15):
    """A good answer, one byte at a time: never complete within a deadline."""
    def behave(call, connection):
        try:
            for byte in _http(_reply(call, captured("system_status")["result"])):
                if call.engine.stopping or call.engine.behaviour(call.method) is not behave:
                    return False
                connection.sendall(bytes([byte]))
                time.sleep(pause)
        except OSError:
            pass
        return False
    return behave


def garbage():
    """HTTP, but a body that is no JSON."""
    def behave(call, connection):
        connection.sendall(_http(b"<html>\x00\xff{{{ not json"))
        return True
    return behave


def not_http():
    def behave(call, connection):
        connection.sendall(b"\x16\x03\x01 this is not HTTP at all\r\n\r\n")
        return False
    return behave


def wrong_id():
    def behave(call, connection):
        connection.sendall(_http(_reply(call, captured("system_status")["result"], request_id=987654321)))
        return True
    return behave


def no_result():
    """Valid JSON-RPC with neither a result nor an error."""
    def behave(call, connection):
        connection.sendall(_http(_reply(call, None, None)))
        return True
    return behave


def truncated():
    """Half of the body, then the end of the connection."""
    def behave(call, connection):
        whole = _http(_reply(call, captured("system_status")["result"]))
        connection.sendall(whole[:len(whole) // 2])
        return False
    return behave


def truncated_json():
    """A complete HTTP answer whose JSON stops in the middle."""
    def behave(call, connection):
        body = _reply(call, captured("system_status")["result"])
        connection.sendall(_http(body[:len(body) // 2]))
        return True
    return behave


def huge(megabytes=64):
    def behave(call, connection):
        total = megabytes << 20
        try:
            connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {total}\r\n\r\n"
                               .encode())
            block = b" " * 65536
            for _ in range(total // len(block)):
                connection.sendall(block)
        except OSError:
            pass  # The producer hung up, as it should.
        return False
    return behave


def huge_chunked(megabytes=64):
    def behave(call, connection):
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                               b"Transfer-Encoding: chunked\r\n\r\n")
            block = b"10000\r\n" + b" " * 65536 + b"\r\n"
            for _ in range((megabytes << 20) // 65536):
                connection.sendall(block)
        except OSError:
            pass
        return False
    return behave


def http10(result):
    """A good answer of an HTTP/1.0 server: no length, ended by closing."""
    def behave(call, connection):
        value = result(call.params) if callable(result) else result
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + _reply(call, value))
        return False
    return behave


def empty_reply():
    """Closes without a byte."""
    return lambda call, connection: False


def empty_body():
    def behave(call, connection):
        connection.sendall(_http(b""))
        return True
    return behave


def reset():
    """RST in the place of an answer."""
    def behave(call, connection):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False
    return behave


def sequence(*behaviours):
    """One behaviour a call; the last one stays."""
    lock, count = threading.Lock(), [0]

    def behave(call, connection):
        with lock:
            chosen = behaviours[min(count[0], len(behaviours) - 1)]
            count[0] += 1
        return chosen(call, connection)
    return behave


# --- the engine -------------------------------------------------------------------------------------------------------

def big_status(size=60_000):
    """A status whose every answer is new, and large: fills a socket that nobody reads."""
    base, count = captured("system_status")["result"], [0]

    def result(_params):
        count[0] += 1
        return dict(base, uptime=count[0], hostname="h" * size)
    return ok(result)


def ticking_system_status():
    """The captured system.status with an uptime that moves, so that every answer is a new value."""
    base = captured("system_status")["result"]
    return ok(lambda _params: dict(base, uptime=base["uptime"] + next(_ticks)))


_ticks = itertools.count(1)  # One for all, so that a healed engine never repeats an answer.


def recorded():
    """What the recorded engine answered, by method."""
    return {
        "system.status": ticking_system_status(),
        "health.check": capture("health_check"),
        "agents.list": capture("agents_list"),
        "compression.queue.running": capture("compression_queue_running_empty"),
        "compression.queue.status": capture("queue_status_unknown_job"),
    }


class FaultEngine:
    def __init__(self, behaviours=None):
        self.stopping = False
        self._lock = threading.Lock()
        self._behaviours = dict(recorded() if behaviours is None else behaviours)
        self._calls = collections.deque(maxlen=CALLS_MAX)
        self._listener = None
        self._connections = set()
        self.port = free_port()

    # Control ----------------------------------------------------------------------------------------------------------
    def start(self):
        self.listen()
        return self

    def listen(self):
        """Opens the port, the same one as before."""
        if self._listener is not None:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(256)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def refuse(self):
        """Closes the port and cuts every connection, as a killed engine does."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def stop(self):
        self.stopping = True
        self.refuse()

    def set(self, method, behaviour):
        with self._lock:
            self._behaviours[method] = behaviour

    def set_all(self, behaviour):
        """Every method, health.check too."""
        with self._lock:
            for method in self._behaviours:
                self._behaviours[method] = behaviour
            self._behaviours["*"] = behaviour

    def heal(self):
        with self._lock:
            self._behaviours = dict(recorded())
        self.listen()

    def behaviour(self, method):
        with self._lock:
            return self._behaviours.get(method) or self._behaviours.get("*") or _method_not_found

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/api/v1"

    # What was asked ---------------------------------------------------------------------------------------------------
    def calls(self, method=None):
        with self._lock:
            return [call for call in self._calls if method is None or call.method == method]

    def count(self, method=None):
        return len(self.calls(method))

    # Threads ----------------------------------------------------------------------------------------------------------
    def _accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            buffered = b""
            while True:
                request, buffered = self._read(connection, buffered)
                if request is None:
                    return
                if not self._answer(request, connection):
                    return
        except OSError:
            pass
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    def _answer(self, request, connection):
        path, body = request
        if path != "/api/v1/rpc":
            connection.sendall(_http(b'{"detail":"Not Found"}', "404 Not Found"))
            return True
        try:
            call = json.loads(body)
            call = Call(self, call["method"], call.get("params"), call["id"], time.monotonic())
        except (ValueError, KeyError):
            connection.sendall(_http(b'{"detail":[]}', "422 Unprocessable Entity"))
            return True
        with self._lock:
            self._calls.append(call)
        keep = self.behaviour(call.method)(call, connection)
        call.answered = time.monotonic()
        connection.settimeout(None)
        return keep

    @staticmethod
    def _read(connection, buffered):
        while b"\r\n\r\n" not in buffered:
            chunk = connection.recv(65536)
            if not chunk:
                return None, b""
            buffered += chunk
        head, buffered = buffered.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        length = 0
        for line in lines[1:]:
            name, _, value = line.partition(":")
            if name.strip().lower() == "content-length":
                length = int(value)
        while len(buffered) < length:
            chunk = connection.recv(65536)
            if not chunk:
                return None, b""
            buffered += chunk
        return (lines[0].split(" ")[1], buffered[:length]), buffered[length:]


def _method_not_found(call, connection):
    return unsupported()(call, connection)

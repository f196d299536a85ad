"""A client of Server-Sent Events over a raw socket, as the HTML standard reads the stream: fields, lines, ids.

    with Events(port, "system.status") as events:
        value = events.wait("system.status")
    with Events(port, "system.status", last_event_id=events.last_id) as again: ...

Waiting, cutting and not reading are as of ws_client.Client. Each message has `id`: the last that had come with it or before.
"""

import socket
import threading
import time
import urllib.parse

from certificates import TlsSocket
from ws_client import PATIENCE, Client, Message, Refused

PATH = "/api/v1/events"


class Events(Client):
    def __init__(self, port, *types, last_event_id=None, query=None, headers=None, method="GET", version="1.1",
                 receive_buffer=None, reading=True, timeout=5 * PATIENCE, tls=None, after=b"", path=PATH):
        parameters = ([("types", ",".join(types))] if types else []) + list((query or {}).items())
        target = path + ("?" + urllib.parse.urlencode(parameters) if parameters else "")
        self.messages, self.closed = [], None
        self.last_id, self.retry, self.ids = last_event_id, None, []
        self.received = 0
        self._changed = threading.Condition()
        self._may_read = threading.Event()
        if reading:
            self._may_read.set()
        self._send_lock = threading.Lock()
        self._socket = socket.socket()
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(timeout)
        self._socket.connect(("127.0.0.1", port))
        if tls:
            self._socket = TlsSocket(self._socket, tls)
        headers = {"Host": f"127.0.0.1:{port}", **(headers or {})}
        lines = [f"{method} {target} HTTP/{version}", "Accept: text/event-stream"]
        lines += [f"Last-Event-ID: {last_event_id}"] if last_event_id else []
        lines += [f"{name}: {value}" for name, value in headers.items()]
        try:
            self._socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + after)
            received = b""
            while b"\r\n\r\n" not in received:
                chunk = self._socket.recv(65536)
                if not chunk:
                    raise ConnectionError(f"closed before an answer, after {received!r}")
                received += chunk
        except BaseException:
            self._socket.close()
            raise
        head, self._buffer = received.split(b"\r\n\r\n", 1)
        first, *rest = head.decode("latin-1").split("\r\n")
        self.status = int(first.split(" ")[1])
        self.headers = {name.strip().lower(): value.strip()
                        for name, _, value in (line.partition(":") for line in rest)}
        if self.status != 200:
            while len(self._buffer) < int(self.headers.get("content-length", 0)):
                self._buffer += self._socket.recv(65536) or b" "
            self._socket.close()
            raise Refused(self.status, self.headers, self._buffer)
        self.begin = ""  # The stream's first bytes, as they came.
        length = self.headers.get("content-length")  # Of a stream that turns its client away.
        self._left = None if length is None else int(length) - len(self._buffer)
        self._socket.settimeout(None)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        try:
            while True:
                while b"\n\n" in self._buffer:
                    event, self._buffer = self._buffer.split(b"\n\n", 1)
                    self._take_event(event.decode())
                self._may_read.wait()
                chunk = b"" if self._left == 0 else self._socket.recv(65536)
                if not chunk:
                    break
                self._left = None if self._left is None else self._left - len(chunk)
                self._buffer += chunk
                self.received += len(chunk)
        except (ConnectionError, OSError):
            pass
        with self._changed:
            self.closed = ("end", "")
            self._changed.notify_all()
        self._socket.close()

    def _take_event(self, event):
        self.begin += event + "\n\n" if len(self.begin) < 2048 else ""
        data = []
        for line in event.split("\n"):
            name, _, value = line.partition(":")
            value = value[1:] if value.startswith(" ") else value
            assert name in ("", "id", "data", "retry"), f"an unexpected field: {line[:200]!r}"
            if name == "id":
                assert value and len(value) <= 2048 and all(c.isalnum() or c in "-_" for c in value), value
                self.last_id = value
                self.ids.append(value)
            elif name == "retry":
                self.retry = int(value)
            elif name == "data":
                data.append(value)
        if data:
            message = Message("\n".join(data).encode(), time.monotonic())
            message.id = self.last_id
            with self._changed:
                self.messages.append(message)
                self._changed.notify_all()

    def close(self):
        self.cut()

    def __exit__(self, *_):
        self.cut()

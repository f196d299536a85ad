"""A WebSocket client over a raw socket, which does what a browser's would not: stop reading, send fragments, leave pings
unanswered, use an 18-byte key. It records every message with its time of arrival, by the monotonic clock.

    with Client(port) as old, Client(port, "sigmacast.v1.json") as new:
        new.send({"type": "subscribe", "id": 1, "data": {"types": ["system.status"]}})
        value = new.wait(lambda m: m.type == "system.status")

One reading thread a client; every method may be called from any thread. `Raw` has none: it sends bytes as they are, and
takes frames as they come, for what RFC 6455 says of the wire.
"""

import base64
import collections
import hashlib
import json
import os
import socket
import struct
import threading
import time
import zlib

import msgpack

from certificates import TlsSocket

V1 = "sigmacast.v1.json"
MSGPACK = "sigmacast.v1.msgpack"
DEFLATE = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}  # As browsers offer it.
PATIENCE = float(os.environ.get("SIGMACAST_PATIENCE", "1"))  # As in harness.py.
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Refused(Exception):
    """The handshake was answered with something else than 101."""

    def __init__(self, status, headers, body):
        super().__init__(f"HTTP {status}: {body[:200]!r}")
        self.status, self.headers, self.body = status, headers, body


class Message(dict):
    """A message as it came; unknown members are None."""

    def __init__(self, payload, at, opcode=TEXT, compressed=False):
        content = inflated(payload) if compressed else payload
        super().__init__(json.loads(content) if opcode == TEXT else msgpack.unpackb(content))
        self.text = content.decode() if opcode == TEXT else str(dict(self))
        self.at, self.opcode, self.compressed, self.bytes = at, opcode, compressed, len(payload)

    @property
    def type(self):
        return self.get("type")

    @property
    def data(self):
        return self.get("data") or {}

    @property
    def pos(self):
        return self.get("pos")

    @property
    def seq(self):
        return self.get("seq")


def inflated(payload):
    """RFC 7692, without context takeover."""
    return zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")


def deflated(payload):
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def brief(message):
    return f"  {message.at:.3f} {message.text[:300]}"


class Client:
    def __init__(self, port, protocol=None, path="/ws", key=None, reading=True, answer_pings=True, headers=None,
                 receive_buffer=None, timeout=5 * PATIENCE, host=None, tls=None):
        self.protocol = protocol
        self._host = host           # What it says in Host; this address otherwise
        self.messages = []
        self.control = []           # (time, opcode, payload) of every ping and pong
        self.fragments = 0          # Frames that were not a whole message.
        self.closed = None          # (code, reason); code 1006 where no close frame came
        self.subprotocol = None
        self._answer_pings = answer_pings
        self._changed = threading.Condition()
        self._may_read = threading.Event()
        if reading:
            self._may_read.set()
        self._send_lock = threading.Lock()
        self._socket = socket.socket()
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(timeout)
        self.began = time.monotonic()
        self._socket.connect(("127.0.0.1", port))
        if tls:
            self._socket = TlsSocket(self._socket, tls)
        try:
            rest = self._shake_hands(port, path, key or base64.b64encode(os.urandom(16)).decode(), headers or {})
        except BaseException:
            self._socket.close()
            raise
        self._socket.settimeout(None)
        self._buffer = rest
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    # Handshake --------------------------------------------------------------------------------------------------------
    def _shake_hands(self, port, path, key, headers):
        lines = [f"GET {path} HTTP/1.1", f"Host: {self._host or f'127.0.0.1:{port}'}", "Upgrade: websocket", "Connection: Upgrade",
                 f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
        if self.protocol:
            lines.append(f"Sec-WebSocket-Protocol: {self.protocol}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        received = b""
        while b"\r\n\r\n" not in received:
            chunk = self._socket.recv(65536)
            if not chunk:
                raise ConnectionError(f"closed during the handshake, after {received!r}")
            received += chunk
        head, rest = received.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        self.handshake = {name.strip().lower(): value.strip()
                          for name, _, value in (line.partition(":") for line in lines[1:])}
        if status != 101:
            raise Refused(status, self.handshake, rest)
        accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
        assert self.handshake.get("sec-websocket-accept") == accept.decode()
        self.subprotocol = self.handshake.get("sec-websocket-protocol")
        return rest

    # Reading ----------------------------------------------------------------------------------------------------------
    def _take(self, count):
        while len(self._buffer) < count:
            self._may_read.wait()
            chunk = self._socket.recv(65536)
            if not chunk:
                raise ConnectionError
            self._buffer += chunk
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _read(self):
        code, reason = 1006, ""
        try:
            while True:
                first, second = self._take(2)
                length = second & 0x7f
                if length == 126:
                    length, = struct.unpack("!H", self._take(2))
                elif length == 127:
                    length, = struct.unpack("!Q", self._take(8))
                payload = self._take(length)
                opcode, whole = first & 0x0f, bool(first & 0x80)
                if opcode == CLOSE:
                    if len(payload) >= 2:
                        code, reason = struct.unpack("!H", payload[:2])[0], payload[2:].decode()
                    else:
                        code = 1005
                    self._send_frame(CLOSE, payload[:2])
                    break
                with self._changed:
                    if opcode in (PING, PONG):
                        self.control.append((time.monotonic(), opcode, payload))
                    elif not whole or opcode == 0:
                        self.fragments += 1
                    else:
                        self.messages.append(Message(payload, time.monotonic(), opcode, bool(first & 0x40)))
                    self._changed.notify_all()
                if opcode == PING and self._answer_pings:
                    self._send_frame(PONG, payload)
        except (ConnectionError, OSError):
            pass
        with self._changed:
            self.closed = (code, reason)
            self._changed.notify_all()
        self._socket.close()

    def stop_reading(self):
        self._may_read.clear()

    def go_on_reading(self):
        self._may_read.set()

    # Sending ----------------------------------------------------------------------------------------------------------
    def _send_frame(self, opcode, payload, final=True, masked=True, compressed=False):
        head = bytes([(0x80 if final else 0) | (0x40 if compressed else 0) | opcode])
        mask_bit = 0x80 if masked else 0
        if len(payload) < 126:
            head += bytes([mask_bit | len(payload)])
        elif len(payload) < 65536:
            head += bytes([mask_bit | 126]) + struct.pack("!H", len(payload))
        else:
            head += bytes([mask_bit | 127]) + struct.pack("!Q", len(payload))
        if masked:
            mask = os.urandom(4)
            payload = mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        with self._send_lock:
            try:
                self._socket.sendall(head + payload)
            except OSError:
                pass  # The reading thread tells of the end.

    def send(self, value):
        self._send_frame(TEXT, json.dumps(value).encode())

    def send_text(self, text):
        self._send_frame(TEXT, text.encode() if isinstance(text, str) else text)

    def send_binary(self, payload):
        self._send_frame(BINARY, payload)

    def send_compressed(self, payload, opcode=TEXT):
        """`payload`: what is compressed already."""
        self._send_frame(opcode, payload, compressed=True)

    def send_fragmented(self, text):
        middle = len(text) // 2
        self._send_frame(TEXT, text[:middle].encode(), final=False)
        self._send_frame(0, text[middle:].encode())

    def ping(self, payload=b""):
        self._send_frame(PING, payload)

    # Waiting ----------------------------------------------------------------------------------------------------------
    @property
    def mark(self):
        """A place in `messages`: what has arrived until now lies before it."""
        with self._changed:
            return len(self.messages)

    def wait(self, wanted, timeout=8, after=0, what=None):
        """The first message, from `after` on, that is as wanted (a type, or a predicate)."""
        predicate = wanted if callable(wanted) else (lambda message: message.type == wanted)
        until = time.monotonic() + timeout * PATIENCE
        at = after
        with self._changed:
            while True:
                while at < len(self.messages):
                    if predicate(self.messages[at]):
                        return self.messages[at]
                    at += 1
                left = until - time.monotonic()
                if left <= 0 or self.closed:
                    break
                self._changed.wait(left)
            state = f"closed with {self.closed}" if self.closed else "open"
            tail = "\n".join(brief(message) for message in self.messages[after:][-25:])
            counts = dict(collections.Counter(message.type for message in self.messages[after:]))
        raise AssertionError(f"no {what or (wanted if isinstance(wanted, str) else 'such message')} within {timeout} s"
                             f" (connection {state}); came: {counts}; the last ones:\n{tail}")

    def wait_next(self, wanted, timeout=8, what=None):
        """As wait(), of messages that arrive from now on."""
        return self.wait(wanted, timeout, self.mark, what)

    def of(self, *types, after=0):
        with self._changed:
            return [message for message in self.messages[after:] if message.type in types]

    def all(self, predicate, after=0):
        with self._changed:
            return [message for message in self.messages[after:] if predicate(message)]

    def wait_closed(self, timeout=8):
        until = time.monotonic() + timeout * PATIENCE
        with self._changed:
            while self.closed is None:
                left = until - time.monotonic()
                assert left > 0, f"still open after {timeout} s"
                self._changed.wait(left)
        return self.closed

    def request(self, message, wanted, timeout=8):
        """Sends, and returns the first message thereafter that is as wanted."""
        after = self.mark
        self.send(message)
        return self.wait(wanted, timeout, after)

    def subscribe(self, *types, identifier=1, timeout=8, **data):
        """v1: subscribes and returns the answer."""
        return self.request({"type": "subscribe", "id": identifier, "data": {"types": list(types), **data}},
                            lambda m: m.type == "subscribed" and m.get("id") == identifier, timeout)

    def close(self, code=1000):
        self._may_read.set()
        self._send_frame(CLOSE, struct.pack("!H", code))
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._thread.join(5)

    def cut(self):
        """The connection ends without a close frame."""
        self._may_read.set()
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._thread.join(5)

    def reset(self):
        """The connection ends with a reset, whatever is unread."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.cut()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# The wire itself ------------------------------------------------------------------------------------------------------

Frame = collections.namedtuple("Frame", "opcode payload final reserved masked")


def frame(opcode, payload=b"", final=True, reserved=0, masked=True, length=None, form=None, mask=None):
    """The bytes of one frame. `length` and `form` (7, 16, 64 bits) say something else than the payload's own."""
    length = len(payload) if length is None else length
    form = form or (7 if length < 126 else 16 if length < 65_536 else 64)
    head = bytes([(0x80 if final else 0) | reserved << 4 | opcode])
    bit = 0x80 if masked else 0
    head += {7: lambda: bytes([bit | length]), 16: lambda: bytes([bit | 126]) + struct.pack("!H", length),
             64: lambda: bytes([bit | 127]) + struct.pack("!Q", length)}[form]()
    if not masked:
        return head + payload
    mask = os.urandom(4) if mask is None else mask
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def close_payload(code, reason=b""):
    return struct.pack("!H", code) + reason


class Raw:
    """A blocking connection. `lines`: the header lines of the request after the first, as they are to be sent."""

    KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 1.3, with the accept value that belongs to it.
    ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

    def __init__(self, port, lines=None, first="GET /ws HTTP/1.1", protocol=V1, early=b"", timeout=5 * PATIENCE,
                 address="127.0.0.1", receive_buffer=None):
        self.socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect((address, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self.send("\r\n".join([first, *(self.lines(protocol) if lines is None else lines), "", ""]).encode(), early)
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        first, *rest = head.decode("latin-1").split("\r\n")
        self.status = int(first.split(" ")[1])
        self.headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in rest)]

    @classmethod
    def lines(cls, protocol=V1, **other):
        """Of a good handshake; `Name_Of=None` leaves one out, `Name_Of=["a", "b"]` sends it twice."""
        values = {"Host": "127.0.0.1", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": cls.KEY,
                  "Sec-WebSocket-Version": "13", "Sec-WebSocket-Protocol": protocol,
                  **{name.replace("_", "-"): value for name, value in other.items()}}
        return [f"{name}: {each}" for name, value in values.items() if value is not None
                for each in (value if isinstance(value, list) else [value])]

    def header(self, name):
        """Of the answer; a list, since one may come twice."""
        return [value for each, value in self.headers if each == name]

    def _receive(self):
        chunk = self.socket.recv(65_536)
        if not chunk:
            raise EOFError
        self._buffer += chunk

    def send(self, *parts):
        self.socket.sendall(b"".join(parts))

    def read(self):
        """The next frame; None where the connection ended."""
        try:
            while True:
                taken = self._parse()
                if taken:
                    return taken
                self._receive()
        except (EOFError, ConnectionError):
            assert not self._buffer, f"it ended within a frame: {self._buffer!r}"
            return None

    def _parse(self):
        data = self._buffer
        if len(data) < 2:
            return None
        length, at = data[1] & 0x7f, 2
        if length >= 126:
            size = 2 if length == 126 else 8
            if len(data) < at + size:
                return None
            length, at = int.from_bytes(data[at:at + size], "big"), at + size
        if len(data) < at + length:
            return None
        self._buffer = data[at + length:]
        return Frame(data[0] & 15, data[at:at + length], bool(data[0] & 0x80), data[0] >> 4 & 7, bool(data[1] & 0x80))

    def expect(self, opcode, predicate=lambda frame: True):
        """The next frame of this opcode; text before it, and the edge's pings, are passed over."""
        while True:
            came = self.read()
            assert came is not None, f"the connection ended before a frame {opcode:#x} came"
            if came.opcode == opcode and predicate(came):
                return came
            assert came.opcode in (TEXT, PING), f"a frame {opcode:#x} was awaited, {came} came"

    def message(self, kind):
        """The next message of this type."""
        def content(one):
            return json.loads(inflated(one.payload) if one.reserved == 4 else one.payload)
        return content(self.expect(TEXT, lambda one: content(one)["type"] == kind))

    def rest(self):
        """All that comes until the connection ends."""
        return list(iter(self.read, None))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


# What tests ask of messages again and again -----------------------------------------------------------------------------

def rising(messages):
    """Positions per stream rise, and the log's positions rise over all: P1."""
    last = {}
    for message in messages:
        if message.pos is None or message.type in ("hello", "heartbeat", "subscribed"):
            continue
        stream = (message.get("origin"), topic_of(message))
        assert message.seq > last.get(stream, 0), f"{stream}: {message.seq} after {last.get(stream)}"
        last[stream] = message.seq
    return True


def topic_of(message):
    return message.data.get("topic") if message.type == "transition" else message.type

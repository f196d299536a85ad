"""Clients of a chaos run: v1 sessions on one asyncio loop that reconnect, to any edge, and resume where they were.

    crowd = Crowd(judge, addresses, count, rng)   # addresses: of each edge, a list of ports that lead to it
    crowd.start(); ...; crowd.calm = True         # calm: nobody leaves or dawdles by itself
    crowd.watches                                 # what each saw (checker.py)

Of six clients one dawdles (it stops reading for a while, with a small receive buffer), two leave now and then for another
edge, by a close frame or a reset; every other one names its topics, the rest take `*`; every other one asks for bookmarks
by pings. They do what edge/PROTOCOL.md asks of a client, and nothing more: a connection that is silent for two of the
edge's pings is given up; a close is followed by the hint of its goodbye, or by a growing wait.
"""

import asyncio
import base64
import json
import os
import socket
import struct
import time

import checker

TOPICS = ["chaos.fast", "chaos.slow", "compression.update", "breaker.status", "rpc_error", "circuit_breaker.open",
          "circuit_breaker.half_open", "circuit_breaker.closed"]
WAIT_FIRST, WAIT_MAX = 0.1, 2.0
OPEN_WITHIN = 3.0   # A handshake that takes longer is given up.


class Session(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, client):
        self.client, self.transport, self.buffer, self.open = client, None, bytearray(), False
        self.last = time.monotonic()

    def connection_made(self, transport):
        self.transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write((f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{self.client.port}\r\nUpgrade: websocket\r\n"
                         f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
                         "Sec-WebSocket-Protocol: sigmacast.v1.json\r\n\r\n").encode())

    def data_received(self, data):
        self.last = time.monotonic()
        self.buffer += data
        if not self.open:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            if not self.buffer.startswith(b"HTTP/1.1 101"):
                self.transport.abort()
                return
            del self.buffer[:end + 4]
            self.open = True
            self.client.watch.connected()
        self._frames()

    def _frames(self):
        buffer, at, now = self.buffer, 0, time.time()
        while len(buffer) - at >= 2:
            opcode, length, start = buffer[at] & 15, buffer[at + 1] & 127, at + 2
            if length == 126:
                if len(buffer) < at + 4:
                    break
                length, start = int.from_bytes(buffer[at + 2:at + 4], "big"), at + 4
            elif length == 127:
                if len(buffer) < at + 10:
                    break
                length, start = int.from_bytes(buffer[at + 2:at + 10], "big"), at + 10
            if len(buffer) < start + length:
                break
            payload, at = bytes(buffer[start:start + length]), start + length
            if opcode == 1:
                self.client.came(payload, now)
            elif opcode == 9:
                self.send(10, payload)
            elif opcode == 8:
                code = int.from_bytes(payload[:2], "big")
                self.client.crowd.judge.counts[f"close {code}"] += 1
                self.transport.close()
        del buffer[:at]

    def send(self, opcode, payload):
        """The mask is zeros: allowed, and nothing to do."""
        length = len(payload)
        head = bytes([0x80 | opcode, 0x80 | length]) if length < 126 else \
            bytes([0x80 | opcode, 0xfe]) + struct.pack("!H", length)
        self.transport.write(head + b"\0\0\0\0" + payload)

    def say(self, message):
        if self.transport and not self.transport.is_closing():
            self.send(1, json.dumps(message).encode())

    def connection_lost(self, _problem):
        self.client.ended(self)


class Client:
    def __init__(self, crowd, number):
        self.crowd, self.number = crowd, number
        self.dawdles, self.leaves = number % 6 == 5, number % 6 in (1, 4)
        topics = ["*"] if number % 2 else TOPICS + crowd.notes
        self.watch = checker.Watch(crowd.judge, f"client {number}", topics)
        self.watch.conflated = self.dawdles
        self.pings = number % 4 < 2
        self.session, self.port, self.wait = None, None, WAIT_FIRST
        self.paused = False
        self.next_ping = 0.0
        self.connections = 0

    def connect(self):
        self.crowd.spawn(self._connect())

    async def _connect(self):
        crowd = self.crowd
        self.port = crowd.rng.choice(crowd.rng.choice(crowd.addresses))
        plain = socket.socket()
        plain.setblocking(False)
        if self.dawdles:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        session = self.session = Session(self)
        self.connections += 1
        try:
            await asyncio.wait_for(crowd.loop.sock_connect(plain, ("127.0.0.1", self.port)), OPEN_WITHIN)
            await crowd.loop.create_connection(lambda: session, sock=plain)
        except (OSError, asyncio.TimeoutError):
            plain.close()
            if self.session is session:
                self.ended(session)

    def came(self, payload, now):
        message = self.watch.message(payload, now)
        if message is not None and message.type == "hello":
            self.session.say(self.watch.subscription(self.connections))
        elif message is not None and message.type == "subscribed":
            self.wait = WAIT_FIRST

    def ended(self, session):
        if session is not self.session:
            return
        self.session, self.paused = None, False
        wait = self.watch.hint if self.watch.hint is not None else self.wait * (0.5 + self.crowd.rng.random())
        self.watch.hint = None
        self.wait = min(WAIT_MAX, 2 * self.wait)
        if not self.crowd.stopped:
            self.crowd.loop.call_later(wait, self.connect)

    def leave(self, politely):
        session = self.session
        if session is None or session.transport is None:
            return
        if politely:
            session.send(8, struct.pack("!H", 1000))
            session.transport.close()
        else:
            session.transport.abort()

    def tick(self, now, rng):
        """Several times a second."""
        session = self.session
        if session is None:
            return
        silent = now - session.last
        if not self.paused and silent > (2 * self.crowd.judge.rules.ping if session.open else OPEN_WITHIN):
            self.crowd.judge.counts["connections given up as silent"] += 1
            if session.transport is not None:
                session.transport.abort()
            return
        if not session.open or not session.transport:
            return
        if self.pings and now > self.next_ping:
            self.next_ping = now + 1 + rng.random()
            session.say({"type": "ping"})
        if self.paused and (self.crowd.calm or rng.random() < 0.05):
            self.paused = False
            session.last = now
            session.transport.resume_reading()
        elif not self.crowd.calm and self.dawdles and not self.paused and rng.random() < 0.02:
            self.paused = True
            self.crowd.judge.counts["pauses of clients that dawdle"] += 1
            session.transport.pause_reading()
        elif not self.crowd.calm and self.leaves and rng.random() < 0.01:
            self.crowd.judge.counts["reconnects of their own"] += 1
            self.leave(rng.random() < 0.5)


class Crowd:
    TICK = 0.2

    def __init__(self, judge, addresses, count, rng, notes):
        self.judge, self.addresses, self.rng, self.notes = judge, addresses, rng, notes
        self.calm, self.stopped = False, False
        self.tasks = set()
        self.loop = asyncio.get_running_loop()
        self.clients = [Client(self, number) for number in range(count)]

    @property
    def watches(self):
        return [client.watch for client in self.clients]

    def spawn(self, coroutine):
        task = self.loop.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def start(self):
        for number, client in enumerate(self.clients):
            self.loop.call_later(number * 0.005, client.connect)
        self.spawn(self._ticks())

    async def _ticks(self):
        while not self.stopped:
            await asyncio.sleep(self.TICK)
            now = time.monotonic()
            for client in self.clients:
                client.tick(now, self.rng)

    def stop(self):
        self.stopped = True
        for client in self.clients:
            if client.session and client.session.transport:
                client.session.transport.abort()

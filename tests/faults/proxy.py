"""A TCP proxy that misbehaves on command: one for each hop of the system under test.

    proxy = await Proxy("feed of edge0", to_port, own_port).start()    # listens on 127.0.0.1:own_port
    proxy.set(delay=0.3)                 # seconds, each way, order kept
    proxy.set(rate=20_000)               # bytes a second, each way
    proxy.set(holes={UP, DOWN})          # half-open: nothing passes, nobody is told, not even of a close
    proxy.set(garbage={DOWN})            # other bytes, as many
    proxy.set(refuse=True); proxy.cut()  # new connections are reset; every open one is, once
    proxy.set()                          # as if nothing had been

What was held back arrives then, late but whole, as on a real link. Runs on: one asyncio loop. It knows nothing of the
protocols that pass.
"""

import asyncio
import collections
import os
import socket
import struct

HELD_BYTES_MAX = 1 << 20  # Of one direction of a connection, before the sender is no longer read.
UP, DOWN = "up", "down"   # Towards the server, and back.


class Half(asyncio.Protocol):
    """One end of a connection through the proxy: takes bytes, and hands them to the other end when they are due."""

    def __init__(self, pair, way):
        self.pair, self.way = pair, way  # The way that what arrives here goes.
        self.transport = None
        self.queue = collections.deque()  # (due, bytes) of what arrived here; None for the end
        self.held = 0
        self.last_due = 0.0
        self.timer = None
        self.ended = False
        self.other_is_full = False

    # From asyncio -----------------------------------------------------------------------------------------------------
    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pair.made(self)

    def data_received(self, data):
        proxy = self.pair.proxy
        now = proxy.loop.time()
        if self.way in proxy.garbage:
            data = os.urandom(len(data))
        if not (self.queue or proxy.delay or proxy.rate or self.way in proxy.holes or self.other_is_full or
                self.pair.peer(self).transport is None):
            self.pair.peer(self).transport.write(data)
            return
        due = max(now + proxy.delay, self.last_due)
        if proxy.rate:
            due += len(data) / proxy.rate
        self.last_due = due
        self.queue.append((due, data))
        self.held += len(data)
        if self.held > HELD_BYTES_MAX:
            self.transport.pause_reading()
        self.pump()

    def eof_received(self):
        self.queue.append((self.last_due, None))
        self.pump()
        return True  # Closed when the other side is told, not before.

    def connection_lost(self, _problem):
        if not self.ended:
            self.ended = True
            self.queue.append((self.last_due, None))
            self.pump()

    def pause_writing(self):
        self.pair.peer(self).other_is_full = True

    def resume_writing(self):
        peer = self.pair.peer(self)
        peer.other_is_full = False
        peer.pump()

    # Onwards ----------------------------------------------------------------------------------------------------------
    def pump(self):
        """Hands over what is due."""
        proxy, peer = self.pair.proxy, self.pair.peer(self)
        if self.timer:
            self.timer.cancel()
            self.timer = None
        while self.queue and self.way not in proxy.holes and not self.other_is_full and peer.transport is not None:
            due, data = self.queue[0]
            wait = due - proxy.loop.time()
            if wait > 0.0005:
                self.timer = proxy.loop.call_later(wait, self.pump)
                return
            self.queue.popleft()
            if data is None:
                self.pair.close()
                return
            self.held -= len(data)
            peer.transport.write(data)
            if self.held <= HELD_BYTES_MAX // 2 and not self.transport.is_closing():
                self.transport.resume_reading()


class Pair:
    def __init__(self, proxy):
        self.proxy = proxy
        self.client, self.server = Half(self, UP), Half(self, DOWN)

    def peer(self, half):
        return self.server if half is self.client else self.client

    def made(self, half):
        if half is self.client:
            if self.proxy.refuse:
                self.reset()
                return
            self.proxy.pairs.add(self)
            task = self.proxy.loop.create_task(self._connect())
            self.proxy.tasks.add(task)
            task.add_done_callback(self.proxy.tasks.discard)
        self.client.pump()

    async def _connect(self):
        try:
            await self.proxy.loop.create_connection(lambda: self.server, "127.0.0.1", self.proxy.to_port)
        except OSError:
            self.reset()
            return
        if self not in self.proxy.pairs:  # Cut meanwhile.
            self.reset()

    def close(self):
        """Politely: what was written is flushed."""
        self._end(lambda transport: transport.close())

    def reset(self):
        def abort(transport):
            plain = transport.get_extra_info("socket")
            try:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except OSError:
                pass
            transport.abort()
        self._end(abort)

    def _end(self, how):
        self.proxy.pairs.discard(self)
        for half in (self.client, self.server):
            half.ended = True
            half.queue.clear()
            if half.timer:
                half.timer.cancel()
            if half.transport is not None:
                how(half.transport)


class Proxy:
    def __init__(self, name, to_port, port):
        self.name, self.to_port, self.port = name, to_port, port
        self.delay, self.rate, self.refuse = 0.0, None, False
        self.holes, self.garbage = set(), set()
        self.pairs, self.tasks = set(), set()
        self.loop = self.server = None

    async def start(self):
        self.loop = asyncio.get_running_loop()
        self.server = await self.loop.create_server(lambda: Pair(self).client, "127.0.0.1", self.port, backlog=512)
        return self

    def set(self, delay=0.0, rate=None, holes=(), refuse=False, garbage=()):
        """What is not named heals."""
        self.delay, self.rate, self.refuse = delay, rate, refuse
        self.holes, self.garbage = set(holes), set(garbage)
        for pair in list(self.pairs):
            for half in (pair.client, pair.server):
                if not delay and not rate:
                    half.last_due = 0.0
                    half.queue = collections.deque((0.0, data) for _, data in half.queue)
                half.pump()

    def cut(self):
        for pair in list(self.pairs):
            pair.reset()

    async def stop(self):
        self.server.close()
        self.cut()
        await asyncio.sleep(0)

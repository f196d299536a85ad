"""An edge that is told to end: not ready, then closed, then empty; nothing is lost by clients that come back elsewhere.

    tests/integration/drain_test.py --clients 2000      a rolling restart of three edges under so many clients
"""

import argparse
import asyncio
import contextlib
import json
import signal
import tempfile
import time

import pytest
import websockets

from fault_engine import FaultEngine
from harness import BIN, PATIENCE, Cluster, clean_environment, get, until
from sse_client import Events
from ws_client import V1, Client, Refused

POLL = "system.status"
NOTICE = 1.0 * PATIENCE


def ready(edge):
    status, _, body = get(edge.port, "/api/v1/ready")
    return status, body["status"], body["ready"]


def test_it_is_not_ready_first_and_lets_clients_in_until_the_notice_is_over(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], edge_options={"drain_notice": f"{NOTICE}s"})
    with cluster.v1(POLL) as client:
        mark, began = client.mark, time.monotonic()
        cluster.edge.process.terminate()
        until(lambda: ready(cluster.edge) == (503, "draining", False), 0.5, "it says so")
        with cluster.v1(POLL) as late:
            assert late.wait(POLL)["quality"] == "live"
            client.wait(POLL, after=mark)
            assert time.monotonic() - began < NOTICE, "this machine is too busy to tell"
            goodbye = client.wait("goodbye")
            assert goodbye.at - began > NOTICE - 0.1
            assert goodbye.data["code"] == 4200 and goodbye.data["reason"] == "draining"
            assert 200 <= goodbye.data["reconnect_in_ms"] <= 2200
            assert client.wait_closed() == late.wait_closed() == (4200, "draining")
    assert cluster.edge.process.wait(5) == 0


def test_who_comes_when_it_is_closed_is_told_to_come_back_and_rest_goes_on(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], edge_options={"drain_notice": "0s"})
    with cluster.v1(POLL, receive_buffer=4096) as stuck:
        stuck.wait(lambda m: m.type == POLL and m["quality"] == "live")
        stuck.stop_reading()  # It holds the edge for as long as any client can.
        stuck.ping()          # What it still waited for.
        with contextlib.suppress(AssertionError):  # Or it had stopped before it could.
            until(lambda: stuck.control, 1)
        cluster.edge.process.terminate()
        until(lambda: ready(cluster.edge)[1] == "draining", 1, "it says so")
        with pytest.raises(Refused) as refused:
            Client(cluster.edge.port, V1)
        assert refused.value.status == 503 and refused.value.headers["retry-after"] == "5"
        assert b"this edge ends" in refused.value.body
        with Events(cluster.edge.port, POLL) as stream:  # EventSource gives up at a 503.
            assert stream.wait("goodbye").data["code"] == 4200 and 1_000 <= stream.retry <= 3_000
            stream.wait_closed()
        assert cluster.state(POLL)["values"][0]["quality"] == "live"
        assert cluster.edge.process.wait(5) == 0


def test_a_plain_client_is_closed_with_1001_as_it_knows_it(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL])
    with cluster.client() as old:
        old.wait(POLL)
        assert cluster.edge.terminate() == 0
        assert old.wait_closed() == (1001, "shutting_down")
        assert not old.of("goodbye")


def test_it_ends_in_time_for_the_supervisor_though_no_client_answers(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL])
    clients = [cluster.v1(POLL, receive_buffer=4096) for _ in range(20)]
    for client in clients:
        client.stop_reading()
    began = time.monotonic()
    cluster.edge.process.terminate()
    assert cluster.edge.process.wait(9) == 0
    assert 0.5 < time.monotonic() - began < 8  # supervisor's stopwaitsecs is 10.
    for client in clients:
        client.cut()


def test_without_clients_it_ends_at_once(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], edge_options={"drain_notice": "20s", "drain_time": "60s"})
    began = time.monotonic()
    assert cluster.edge.terminate() == 0
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(make_cluster, engine, second):
    cluster = make_cluster(engine, polls=[POLL], edge_options={"drain_notice": "30s", "drain_time": "60s"})
    with cluster.v1(POLL) as client:
        cluster.edge.process.terminate()
        until(lambda: ready(cluster.edge)[1] == "draining", what="the first was heard")
        cluster.edge.signal(second)
        assert cluster.edge.process.wait(2) == -second
        assert client.wait_closed()[0] == 1006


# The rolling restart ---------------------------------------------------------------------------------------------------

class Watcher:
    """A client as PROTOCOL.md wants it: after a close it waits the hint, goes on to the next edge, and resumes."""

    def __init__(self, ports, number):
        self.ports, self.at = ports, number % len(ports)
        self.events, self.repeated, self.holes = [], 0, []
        self.closes, self.refused, self.quality, self.cursor, self.resumed = [], 0, None, None, []
        self.pos = 0  # Of the newest event.
        self.open, self.can_resume = False, False

    async def run(self):
        while True:
            hint = 0.2
            try:
                async with websockets.connect(f"ws://127.0.0.1:{self.ports[self.at]}/ws", subprotocols=[V1],
                                              compression=None, ping_interval=None, open_timeout=30) as socket:
                    hint = await self.watch(socket)
                    self.closes.append(socket.close_code)
            except (OSError, websockets.InvalidHandshake, asyncio.TimeoutError, EOFError):
                self.refused += 1
            self.at = (self.at + 1) % len(self.ports)
            await asyncio.sleep(hint)

    async def watch(self, socket):
        hint = 0.2
        data = {"types": [POLL, "drill"]}
        if self.cursor:
            data["resume"] = {**self.cursor, "topics": {"drill": {"script": self.pos}}}
        await socket.send(json.dumps({"type": "subscribe", "id": 1, "data": data}))
        self.open = True
        try:
            async for text in socket:
                message = json.loads(text)
                kind = message["type"]
                if kind == "hello":
                    self.can_resume = "resume" in message["data"]["features"]
                if kind == "drill":
                    number = message["data"]["n"]
                    if message["pos"] <= self.pos:
                        self.repeated += 1
                    self.pos = max(self.pos, message["pos"])
                    self.events.append(number)
                elif kind in (POLL, "transition"):
                    self.quality = message["quality"]
                elif kind == "subscribed":
                    self.resumed.append({topic: answer["result"]
                                         for topic, answer in message["data"]["topics"].items()})
                elif kind == "skipped":
                    self.holes.append(message)
                elif kind == "goodbye":
                    hint = message["data"]["reconnect_in_ms"] / 1000
                if kind in ("hello", "heartbeat", "pong"):
                    pos = message.get("pos", message["data"].get("pos"))
                    epoch = message.get("epoch", message["data"].get("epoch"))
                    if kind != "hello" or self.cursor is None:
                        self.cursor = {"epoch": epoch, "pos": pos}
        except websockets.ConnectionClosed:
            pass
        finally:
            self.open = False
        return hint


async def publish(cluster, period, end):
    """Events with rising numbers until `end` is set; returns how many."""
    sender = await asyncio.create_subprocess_exec(
        str(BIN / "sigmacast"), "publish", "--origin", "script", "--config", str(cluster.command_config()),
        stdin=asyncio.subprocess.PIPE, env=clean_environment())
    count = 0
    while not end.is_set():
        count += 1
        sender.stdin.write(json.dumps({"type": "drill", "data": {"n": count}}).encode() + b"\n")
        await sender.stdin.drain()
        await asyncio.sleep(period)
    sender.stdin.close()
    assert await sender.wait() == 0
    return count


async def settled(condition, what, timeout=30):
    end = time.monotonic() + timeout * PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {timeout} s"
        await asyncio.sleep(0.05)


async def rolling_restart(cluster, count, period):
    """Restarts each edge in turn while `count` clients watch and events are published; what they saw."""
    ports = [edge.port for edge in cluster.edges]
    watchers = [Watcher(ports, number) for number in range(count)]
    tasks = []
    for watcher in watchers:
        tasks.append(asyncio.create_task(watcher.run()))
        if len(tasks) % 50 == 0:
            await asyncio.sleep(0.05)
    end = asyncio.Event()
    await settled(lambda: all(w.quality == "live" for w in watchers), "everybody has the state", 60)
    publishing = asyncio.create_task(publish(cluster, period, end))
    await settled(lambda: all(w.events for w in watchers), "everybody gets events")
    first = [w.events[0] for w in watchers]
    took = []
    for edge in cluster.edges:
        began = time.monotonic()
        edge.process.terminate()
        await settled(lambda: edge.process.poll() is not None, "the edge has ended")
        took.append(time.monotonic() - began)
        assert edge.process.returncode == 0
        edge.start(ready=False)
        await settled(edge.is_ready, "it is ready again")
        await settled(lambda: all(w.open for w in watchers), "everybody is connected again")
    end.set()
    sent = await publishing
    try:
        await settled(lambda: all(w.events[-1] == sent for w in watchers), "everybody has the last event")
    except AssertionError as late:
        print(late)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    missed = [n for w, began in zip(watchers, first) for n in sorted(set(range(began, sent + 1)) - set(w.events))]
    return {"clients": count, "events": sent, "seconds to end": [round(seconds, 1) for seconds in took],
            "closes": sorted({code for w in watchers for code in w.closes}),
            "reconnects": sum(len(w.closes) for w in watchers), "refused": sum(w.refused for w in watchers),
            "missed": len(missed), "twice": sum(w.repeated for w in watchers),
            "out of order": sum(w.events != sorted(w.events) for w in watchers),
            "resumed": sum(answer.get("drill") == "resumed" for w in watchers for answer in w.resumed[1:]),
            "not resumed": sum(answer.get("drill") != "resumed" for w in watchers for answer in w.resumed[1:]),
            "can resume": all(w.can_resume for w in watchers), "not live": sum(w.quality != "live" for w in watchers)}


def judge(found):
    """What is wrong with what rolling_restart() saw."""
    faults = ["twice", "out of order", "not live", *(["missed", "not resumed"] if found["can resume"] else [])]
    wrong = {name: found[name] for name in faults if found[name]}
    if not set(found["closes"]) <= {4200, 4201}:  # 4201: the next edge is not as far yet; the client comes again.
        wrong["closes"] = found["closes"]
    return wrong


def test_a_rolling_restart_of_three_edges_loses_and_repeats_no_event(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], edges=3)
    found = asyncio.run(rolling_restart(cluster, 100, 0.05))
    assert not judge(found), found
    assert found["reconnects"] >= 100


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--period", type=float, default=0.5, help="seconds between two events")
    arguments = parser.parse_args()
    engine = FaultEngine().start()
    with tempfile.TemporaryDirectory() as folder, Cluster(folder, engine, polls=[POLL], interval=2, edges=3) as cluster:
        found = asyncio.run(rolling_restart(cluster, arguments.clients, arguments.period))
    engine.stop()
    print(json.dumps(found))
    raise SystemExit(1 if judge(found) else 0)


if __name__ == "__main__":
    main()

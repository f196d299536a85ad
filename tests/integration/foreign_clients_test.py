"""Clients that no one here wrote: npm `ws`, and Debian's python3-websockets (10.4 and 15: the API common to both)."""

import asyncio
import json
import subprocess

import pytest
import websockets

from harness import until
from ws_client import V1

POLL = "system.status"


@pytest.fixture(scope="module")
def url(shared):
    with shared.v1(POLL, "agent.status") as client:
        client.wait(POLL)
        client.wait("agent.status")
    return f"ws://127.0.0.1:{shared.edge.port}/ws"


def node(folder, url, *arguments):
    done = subprocess.run(["node", "client.js", url, *arguments], cwd=folder, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def is_live(messages):
    values = [m for m in messages if m["type"] == POLL]
    uptimes = [m["data"]["uptime"] for m in values]
    return len(set(uptimes)) >= 3 and uptimes == sorted(uptimes)


def test_npm_ws_without_a_subprotocol_gets_welcome_state_and_live(url, npm_folder):
    told = node(npm_folder, url)
    messages = told["messages"]
    assert told["protocol"] == ""
    assert messages[0]["type"] == "notification" and messages[0]["data"]["client_id"]
    assert POLL in [m["type"] for m in messages[1:6]], "the state follows the welcome"
    assert is_live(messages)
    assert "pong" in [m["type"] for m in messages]
    assert told["pong"] is True, "a control ping is answered"
    assert told["close"] == 1000


def test_npm_ws_with_the_subprotocol_gets_hello_state_and_live(url, npm_folder):
    told = node(npm_folder, url, V1)
    messages = told["messages"]
    assert told["protocol"] == V1
    assert messages[0]["type"] == "hello" and messages[0]["data"]["protocol"] == 1
    types = [m["type"] for m in messages]
    assert types.index("subscribed") < types.index(POLL)
    assert is_live(messages)
    assert told["close"] == 1000


def test_npm_ws_offering_compression_is_served(url, npm_folder):
    told = node(npm_folder, url, "", "deflate")
    assert is_live(told["messages"])


async def converse(url, subprotocol):
    messages = []
    async with websockets.connect(url, subprotocols=[subprotocol] if subprotocol else None) as socket:
        chosen = socket.subprotocol
        if subprotocol:
            messages.append(json.loads(await socket.recv()))
            await socket.send(json.dumps({"type": "subscribe", "id": 1, "data": {"types": [POLL]}}))
        while not is_live(messages):
            text = await socket.recv()
            assert isinstance(text, str)
            messages.append(json.loads(text))
        await socket.send('{"type":"ping"}')
        while messages[-1]["type"] != "pong":
            messages.append(json.loads(await socket.recv()))
        await (await socket.ping())
    return chosen, messages


def run(coroutine):
    async def bounded():
        return await asyncio.wait_for(coroutine, 30)
    return asyncio.run(bounded())


def test_python_websockets_without_a_subprotocol_gets_welcome_state_and_live(url):
    chosen, messages = run(converse(url, None))
    assert chosen is None
    assert messages[0]["type"] == "notification"
    assert POLL in [m["type"] for m in messages[1:6]]
    assert is_live(messages)


def test_python_websockets_with_the_subprotocol_gets_hello_state_and_live(url):
    chosen, messages = run(converse(url, V1))
    assert chosen == V1
    assert messages[0]["type"] == "hello"
    assert messages[1]["type"] == "subscribed"
    assert messages[2]["type"] == POLL


def test_python_websockets_sees_an_orderly_close(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL])

    async def until_closed():
        async with websockets.connect(f"ws://127.0.0.1:{cluster.edge.port}/ws") as socket:
            await socket.recv()
            cluster.edge.process.terminate()
            try:
                while True:
                    await socket.recv()
            except websockets.ConnectionClosed:
                return socket.close_code
    assert run(until_closed()) in (1001, 4200)
    until(lambda: cluster.edge.process.poll() == 0, what="the edge ended with 0")

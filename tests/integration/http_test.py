"""REST, metrics and the answers to what is no WebSocket."""

import socket

import pytest

from fault_engine import status
from harness import get, parse_time, until
from ws_client import Refused

POLL = "system.status"


@pytest.fixture(scope="module")
def port(shared):
    with shared.v1(POLL, "agent.status", "compression.update") as client:
        for topic in (POLL, "agent.status", "compression.update"):
            client.wait(topic)
    return shared.edge.port


def test_a_plain_request_for_the_websocket_is_426(port):
    for path in ("/ws", "/ws/"):
        code, headers, body = get(port, path)
        assert code == 426
        assert body == {"code": 426, "error": "Upgrade Required"}


def test_an_upgrade_without_a_key_or_of_another_version_is_426(shared, port):
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
    code, _, body = get(port, "/ws", headers={**upgrade, "Sec-WebSocket-Version": "13"})
    assert (code, body) == (426, {"code": 426, "error": "Upgrade Required"})
    for version in ("8", "12", "14", "x"):
        code, _, body = get(port, "/ws", headers={**upgrade, "Sec-WebSocket-Version": version,
                                                  "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="})
        assert (code, body) == (426, {"code": 426, "error": "Upgrade Required"}), version
    code, _, _ = get(port, "/ws", headers={**upgrade, "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="})
    assert code == 426


def test_post_is_405(port):
    code, _, body = get(port, "/ws", "POST", body=b"{}")
    assert code == 405 and body["code"] == 405 and body["error"]


def test_an_unknown_path_is_404(port):
    for path in ("/nope", "/api/v1/nope", "/ws/more", "/api/v2/state"):
        code, _, body = get(port, path)
        assert code == 404, path
        assert body["code"] == 404 and body["error"]


def test_a_websocket_on_another_path_is_refused(shared, port):
    with pytest.raises(Refused) as refused:
        shared.client(path="/other")
    assert refused.value.status == 404


def test_a_foreign_web_page_may_not_open_a_websocket(shared, port):
    with pytest.raises(Refused) as refused:
        shared.client(headers={"Origin": "http://evil.example"})
    assert refused.value.status == 403
    with shared.client(headers={"Origin": f"http://127.0.0.1:{port}"}) as own:
        own.wait("notification")


def test_a_page_whose_name_was_pointed_at_this_machine_is_turned_away(shared, port):
    rebound = {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"}
    for path in ("/", "/api/v1/state", "/metrics", "/ws"):
        code, headers, body = get(port, path, headers=rebound)
        assert code == 421 and "edge.cors_origins" in str(body), path
        assert "access-control-allow-origin" not in headers
    with pytest.raises(Refused) as refused:
        shared.client(host=rebound["Host"], headers={"Origin": rebound["Origin"]})
    assert refused.value.status == 421
    assert get(port, "/api/v1/ready", headers={"Host": f"localhost:{port}"})[0] == 200
    for program in (shared.producer, shared.broker):
        assert get(program.port, "/metrics", headers=rebound)[0] == 421


def test_a_proxy_that_passes_the_public_host_on_is_served_once_it_is_configured(make_cluster, engine):
    cluster = make_cluster(engine, polls=[POLL], edge_options={"cors_origins": ["https://nas.example:8443"]})
    public = {"Host": "nas.example:8443", "Origin": "https://nas.example:8443"}
    code, headers, _ = get(cluster.edge.port, "/api/v1/state", headers=public)
    assert code == 200 and headers["access-control-allow-origin"] == public["Origin"]
    with cluster.client(host=public["Host"], headers={"Origin": public["Origin"]}) as page:
        page.wait("notification")


def test_the_circuit_breaker_status_has_the_shape_of_the_contract(shared, port):
    until(lambda: not get(port, "/api/v1/status/circuit-breaker")[2]["stale"], what="the breakers' first state")
    code, headers, body = get(port, "/api/v1/status/circuit-breaker")
    assert code == 200 and headers["content-type"].startswith("application/json")
    assert set(body) >= {"breakers", "stale", "as_of"}
    assert body["stale"] is False and parse_time(body["as_of"])
    names = {breaker["name"] for breaker in body["breakers"]}
    assert {"system.status", "agents.list", "compression.queue.running"} <= names
    assert len(names) == len(body["breakers"]) >= 4, "one a poll, and the transport's"
    for breaker in body["breakers"]:
        assert set(breaker) >= {"name", "state", "consecutive_failures", "opened_at", "retry_at", "last_error"}
        assert breaker["state"] == "closed" and breaker["consecutive_failures"] == 0
        assert breaker["opened_at"] is None and breaker["retry_at"] is None


def test_an_open_breaker_is_shown_with_its_times_and_its_error(cluster, engine):
    engine.set(POLL, status(500))
    with cluster.v1("circuit_breaker.open") as client:
        client.wait("circuit_breaker.open")
    breaker = until(lambda: (b := cluster.breakers()[POLL])["state"] != "closed" and b, what="the breaker is open")
    assert breaker["consecutive_failures"] >= 5
    assert parse_time(breaker["retry_at"] or breaker["opened_at"]) >= parse_time(breaker["opened_at"])
    assert "500" in breaker["last_error"]


def test_state_has_every_topic_with_its_age(shared, port):
    code, headers, body = get(port, "/api/v1/state")
    assert code == 200
    text = str(body)
    for topic in (POLL, "agent.status", "compression.update", "breaker.status"):
        assert topic in text
    code, _, body = get(port, "/api/v1/state/agent.status")
    assert code == 200
    value = body["values"][0]
    assert len(value["data"]["agents"]) == 40
    assert value["quality"] == "live" and value["origin"] == "nas" and parse_time(value["as_of"])
    assert value["seq"] > 0 and value["pos"] > 0
    assert get(port, "/api/v1/state/no.such.topic")[0] == 404


def test_ready_and_health_are_200_on_a_ready_edge(shared, port):
    assert get(port, "/api/v1/ready")[0] == 200
    assert get(port, "/api/v1/health")[0] == 200


def test_the_metrics_of_each_program_parse(shared, port):
    with shared.client() as old:
        old.wait(POLL)
        for program in shared.programs:
            found = program.metrics()
            assert any(name.startswith("sigmacast_") for name in found), program.name
            assert any(value > 0 for value in found.values())


def test_livez_and_readyz_are_200(shared, port):
    for program in (shared.producer, shared.broker):
        assert get(program.port, "/livez")[0] == 200
        code, _, body = get(program.port, "/readyz")
        assert code == 200 and isinstance(body, dict)
        assert get(program.port, "/nope")[0] == 404


def test_the_page_is_served_and_loads_nothing_from_elsewhere(port):
    code, headers, body = get(port, "/")
    assert code == 200 and headers["content-type"].startswith("text/html")
    page = body.decode()
    assert "<html" in page
    for foreign in ('src="http', "src='http", 'href="http', "url(http", "@import"):
        assert foreign not in page
    assert "content-security-policy" in headers


def test_malformed_http_hurts_nothing(shared, port):
    for noise in (b"\r\n\r\n", b"GET\r\n\r\n", b"\x00" * 100, b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5000,
                  b"POST /ws HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
                  b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: " + b";" * 500 + b"\r\n\r\n",
                  b"GET /" + b"%" * 3000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            try:
                connection.sendall(noise)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(65536)
            except OSError:
                pass
    assert get(port, "/api/v1/ready")[0] == 200


def test_head_and_keep_alive_work(port):
    import http.client
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    for _ in range(3):
        connection.request("GET", "/api/v1/health")
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read()
    connection.request("HEAD", "/api/v1/health")
    answer = connection.getresponse()
    assert answer.status in (200, 405) and answer.read() == b""
    connection.close()

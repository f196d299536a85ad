"""Who may connect and see what: tokens over each way that they can come, and what their roles allow."""

import json
import subprocess
import time

import pytest

from harness import BIN, PATIENCE, Cluster, clean_environment, get, parse_metrics, until
from tokens import SECRET, found_in_logs, token
from ws_client import V1, Refused

ROLES = {"viewer": ["system.status", "agent.*"], "admin": ["*"]}
ALLOWED = {"system.status", "agent.status"}
ABOUT_CONNECTION = {"hello", "subscribed", "heartbeat", "authenticated", "pong"}

def bearer(text):
    return {"Authorization": f"Bearer {text}"}


def auth(text):
    return {"type": "auth", "id": 9, "data": {"token": text}}


def options(**more):
    return {"required": True, "secret": SECRET, "cookie": "sid", "query_token": True,
            "first_message_timeout": "1500ms", **more}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, shared_engine):
    with Cluster(tmp_path_factory.mktemp("guarded"), shared_engine, auth_options=options(), roles=ROLES,
                 edge_options={"cors_origins": ["https://nas.example"]}, log_level="debug") as cluster:
        with cluster.client(V1, headers=bearer(token("admin"))) as client:
            client.subscribe("*")
            for topic in ("system.status", "agent.status", "compression.update"):
                client.wait(topic)
        yield cluster


@pytest.fixture
def port(guarded):
    return guarded.edge.port


# REST -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", ["/api/v1/state", "/api/v1/state/system.status", "/api/v1/state/no.such",
                                  "/api/v1/status/circuit-breaker", "/metrics"])
def test_without_a_good_token_an_answer_is_401(port, path):
    code, headers, body = get(port, path)
    assert (code, headers["www-authenticate"]) == (401, "Bearer")
    assert body["code"] == 401 and "token" in body["error"]
    for bad in ("x", token("admin", secret="another" * 8), token("admin", lasts=-60)):
        code, headers, body = get(port, path, headers=bearer(bad))
        assert code == 401 and headers["www-authenticate"].startswith("Bearer") and body["code"] == 401
        assert bad not in json.dumps(body)


def test_the_page_is_open_and_has_a_field_for_a_token(port):
    code, _, body = get(port, "/")
    assert code == 200 and b'id="token"' in body


def test_without_a_token_health_and_readiness_are_a_word(port):
    for path in ("/api/v1/health", "/api/v1/ready"):
        code, _, body = get(port, path)
        assert (code, body) == (200, {"status": "ok", "ready": True, "uplink": "up"})
        assert get(port, path, headers=bearer("x"))[0] == 401
        code, _, body = get(port, path, headers=bearer(token("viewer")))
        assert code == 200 and {source["topic"] for source in body["sources"]} == ALLOWED


def test_state_is_what_the_roles_allow(port):
    for roles, expected in ((("viewer",), ALLOWED), ((), set()), (("stranger",), set())):
        code, _, body = get(port, "/api/v1/state", headers=bearer(token(*roles)))
        assert code == 200
        assert {value["type"] for value in body["values"]} == expected
        assert {source["topic"] for source in body["sources"]} == expected
    _, _, body = get(port, "/api/v1/state", headers=bearer(token("viewer", "admin")))
    assert {value["type"] for value in body["values"]} > ALLOWED


def test_a_denied_topic_is_403_whether_it_is_there_or_not(port):
    viewer, admin = bearer(token("viewer")), bearer(token("admin"))
    assert get(port, "/api/v1/state/system.status", headers=viewer)[0] == 200
    for path in ("state/compression.update", "state/no.such.topic", "status/circuit-breaker"):
        code, _, body = get(port, "/api/v1/" + path, headers=viewer)
        assert code == 403 and body["code"] == 403, path
    assert get(port, "/api/v1/state/no.such.topic", headers=admin)[0] == 404
    assert get(port, "/api/v1/status/circuit-breaker", headers=admin)[0] == 200


def test_metrics_name_every_source_so_they_need_a_token_for_everything(port):
    assert get(port, "/metrics", headers=bearer(token("viewer")))[0] == 403
    code, _, body = get(port, "/metrics", headers=bearer(token("admin")))
    assert code == 200
    assert parse_metrics(body.decode())["sigmacast_edge_unauthorized_total"] > 0


def test_a_page_of_a_listed_origin_may_ask_whether_it_may_send_a_token(port):
    origin = {"Origin": "https://nas.example"}
    code, headers, _ = get(port, "/api/v1/state", method="OPTIONS", headers=origin)
    assert code == 204 and "Authorization" in headers["access-control-allow-headers"]
    code, headers, _ = get(port, "/api/v1/state", headers=origin)
    assert code == 401 and headers["access-control-allow-origin"] == "https://nas.example"


# Ways for a token to come ---------------------------------------------------------------------------------------------

def ways(text, protocols=V1):
    return {
        "header": dict(protocol=protocols, headers=bearer(text)),
        "subprotocol": dict(protocol=f"{protocols}, sigmacast.token.{text}"),
        "cookie": dict(protocol=protocols, headers={"Cookie": f"theme=dark; sid={text}"}),
        "query": dict(protocol=protocols, path=f"/ws?token={text}"),
    }


@pytest.mark.parametrize("way", ["header", "subprotocol", "cookie", "query"])
def test_a_token_counts_and_is_never_echoed(guarded, way):
    good = token("viewer")
    with guarded.client(**ways(good)[way]) as client:
        hello = client.wait("hello")
        assert {source["topic"] for source in hello.data["sources"]} == ALLOWED
        assert "expires" in hello.data
        assert client.subprotocol == V1
        assert good not in json.dumps(client.handshake) and good not in hello.text


@pytest.mark.parametrize("way", ["header", "subprotocol", "cookie", "query"])
def test_a_bad_token_is_401_before_the_upgrade(guarded, way):
    for bad in (token("admin", secret="another" * 8), token("admin", lasts=-60), "x"):
        with pytest.raises(Refused) as refused:
            guarded.client(**ways(bad)[way])
        assert refused.value.status == 401
        assert refused.value.headers["www-authenticate"].startswith("Bearer")


def test_where_they_are_not_switched_on_cookie_and_query_count_for_nothing(make_cluster):
    cluster = make_cluster(auth_options={"required": True, "secret": SECRET}, start=False)
    cluster.broker.start()
    cluster.edge.start()
    good = token("admin")
    assert get(cluster.edge.port, f"/api/v1/state?token={good}")[0] == 401
    assert get(cluster.edge.port, "/api/v1/state", headers={"Cookie": f"sid={good}"})[0] == 401
    assert get(cluster.edge.port, "/api/v1/state", headers=bearer(good))[0] == 200


# The first message ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("protocol", [V1, None])
def test_without_a_token_nothing_is_sent_until_one_has_come(guarded, protocol):
    with guarded.client(protocol) as client:
        with guarded.client(V1, headers=bearer(token("admin"))) as other:
            other.subscribe("*")
            other.wait_next("tick")  # The feed runs.
        assert client.messages == [] and client.closed is None
        client.send(auth(token("viewer")))
        assert client.wait(lambda m: True).type == ("hello" if protocol else "notification")
        if protocol:
            answer = client.wait("authenticated")
            assert answer.get("id") == 9 and "expires" in answer.data
            assert client.subscribe("*").data["topics"]["*"]["result"] == "snapshot"
        client.wait("system.status")


@pytest.mark.parametrize("protocol", [V1, None])
def test_who_sends_no_token_in_time_is_closed_with_4300(guarded, protocol):
    with guarded.client(protocol) as client:
        code, reason = client.wait_closed()
        assert (code, reason) == (4300, "authenticate and reconnect")
        assert [(m.type, m.data["code"]) for m in client.messages] == [("error", 4300)]
        assert 1.3 < time.monotonic() - client.began < 1.5 + 2.5 * PATIENCE


def test_another_first_message_than_a_token_is_closed_with_4300(guarded):
    with guarded.client(V1) as client:
        client.send({"type": "subscribe", "data": {"types": ["*"]}})
        assert client.wait_closed(timeout=1)[0] == 4300
        assert [m.type for m in client.messages] == ["error"]


def test_a_wrong_first_token_is_closed_with_4001_and_an_expired_one_with_4301(guarded):
    for bad, expected in ((token("admin", secret="another" * 8), 4001), ("x", 4001), (token(lasts=-60), 4301)):
        with guarded.client(V1) as client:
            client.send(auth(bad))
            assert client.wait_closed()[0] == expected
            assert [(m.type, m.data["code"]) for m in client.messages] == [("error", expected)]
            assert bad not in client.messages[0].text


# Expiry ---------------------------------------------------------------------------------------------------------------

def test_a_live_session_ends_with_its_token_unless_a_fresh_one_comes(guarded):
    expires = time.time() + 2
    with guarded.client(V1, headers=bearer(token("admin", exp=expires))) as left, \
            guarded.client(headers=bearer(token("admin", exp=expires))) as old, \
            guarded.client(V1, headers=bearer(token("admin", exp=expires))) as renewed, \
            guarded.client(V1, headers=bearer(token("admin", exp=expires))) as other:
        for client in (left, renewed, other):
            client.wait("hello")
            client.subscribe("*")
        answer = renewed.request(auth(token("admin", lasts=60)), "authenticated")
        assert answer.get("id") == 9 and "expires" in answer.data
        refused = other.request(auth(token("admin", subject="eve", lasts=60)), "error")
        assert refused.data["code"] == 4001 and other.closed is None
        for client in (left, old, other):
            assert client.wait_closed()[0] == 4301
        assert expires < time.time() < expires + 5
        assert left.of("goodbye")[0].data["code"] == 4301
        renewed.wait_next("tick")
        assert renewed.closed is None


# Topics ---------------------------------------------------------------------------------------------------------------

def test_an_old_client_sees_what_is_allowed_and_is_told_what_is_not(guarded):
    with guarded.client(headers=bearer(token("viewer"))) as client:
        welcome = client.wait("notification")
        assert set(welcome.data["subscriptions"]) == ALLOWED | {"heartbeat"}
        error = client.request({"type": "subscribe", "types": ["compression.update", "agent.started"]}, "error")
        assert (error.data["code"], error.data["name"], error.data["topic"]) == (4003, "denied", "compression.update")
        for _ in range(2):
            client.wait_next("agent.status")
        assert {m.type for m in client.messages} == ALLOWED | {"notification", "error"}


def test_a_denied_topic_is_answered_and_a_star_gives_what_is_allowed(guarded):
    with guarded.client(V1, headers=bearer(token("viewer"))) as client:
        client.wait("hello")
        answer = client.subscribe("system.status", "compression.update", "no.such")
        results = {topic: of["result"] for topic, of in answer.data["topics"].items()}
        assert results == {"system.status": "snapshot", "compression.update": "denied", "no.such": "denied"}
        assert client.subscribe("*", identifier=2).data["topics"]["*"]["count"] == 2
        for topic in ALLOWED:
            client.wait_next(lambda m, topic=topic: topic in (m.type, m.data.get("topic")))
        for message in client.messages:
            if message.type not in ABOUT_CONNECTION:
                assert message.data.get("topic", message.type) in ALLOWED, message.text


def test_nothing_of_a_denied_topic_is_told_when_its_quality_changes(make_cluster, engine):
    cluster = make_cluster(engine, auth_options=options(), roles={"viewer": ["storage.*"]})
    viewer = bearer(token("viewer"))
    until(lambda: {source["quality"] for source in get(cluster.edge.port, "/api/v1/state", headers=viewer)[2]["sources"]}
          == {"down"}, what="a report of each poll")  # This engine has no storage.
    with cluster.client(V1, headers=viewer) as client, cluster.client(V1, headers=viewer) as all_but:
        client.wait("hello")
        client.subscribe("*")
        all_but.subscribe("storage.update")
        cluster.producer.kill()
        client.wait(lambda m: m.type == "transition" and m.get("reason") == "PRODUCER_SILENT")
        cluster.broker.kill()
        client.wait(lambda m: m.type == "transition" and m.get("reason") == "BROKER_UNREACHABLE")
        assert {m.data["topic"] for m in client.of("transition")} == {"storage.update"}


# What is refused at start ---------------------------------------------------------------------------------------------

def check_config(folder, text, environment=None):
    path = folder / "c.toml"
    path.write_text(text)
    done = subprocess.run([BIN / "sigmacast-edge", "--check", "--config", path], capture_output=True, text=True,
                          timeout=20, env={**clean_environment(), **(environment or {})})
    return done.returncode, done.stdout + done.stderr


def test_what_is_there_by_half_is_refused_at_start_and_the_secret_is_not_shown(tmp_path):
    short, known = "kR7-short-Wq2", "please-CHANGE-ME-0123456789-abcdefgh"
    for lines, said in ((["required = true"], "auth.secret"),
                        (["required = true", f'secret = "{short}"'], "shorter than 32"),
                        (["required = true", f'secret = "{known}"'], "placeholder"),
                        (["required = true", 'algorithm = "RS256"'], "auth.public_key_file"),
                        (["required = true", 'algorithm = "RS256"', f'public_key_file = "{tmp_path}/no.pem"'],
                         "no.pem cannot be read"),
                        (['algorithm = "none"'], "none of HS256, RS256")):
        code, output = check_config(tmp_path, "\n".join(["[auth]", *lines]))
        assert code == 2 and said in output, lines
        assert short not in output and known not in output
    code, output = check_config(tmp_path, '[auth]\nrequired = true\n', {"SIGMAVAULT_JWT_SECRET": SECRET})
    assert code == 0 and SECRET not in output
    code, output = check_config(tmp_path, '[[auth.role]]\nname = "a"\ntopics = ["*"]\n')
    assert code == 0 and "no effect without required" in output


def test_beyond_loopback_tokens_are_required_or_the_exception_is(tmp_path):
    host = '[edge]\nhost = "0.0.0.0"\n[auth]\n'
    assert check_config(tmp_path, host)[0] == 2
    assert check_config(tmp_path, host, {"SIGMAVAULT_JWT_SECRET": SECRET})[0] == 2, "the secret switches nothing on"
    assert check_config(tmp_path, host + "required = true\n", {"SIGMAVAULT_JWT_SECRET": SECRET})[0] == 0
    assert check_config(tmp_path, host + "allow_anonymous_lan = true\n")[0] == 0


def test_printed_defaults_do_not_hold_the_secret():
    done = subprocess.run([BIN / "sigmacast-edge", "--print-config"], capture_output=True, text=True, timeout=20,
                          env={**clean_environment(), "SIGMAVAULT_JWT_SECRET": SECRET})
    assert done.returncode == 0 and "[auth]" in done.stdout and SECRET not in done.stdout + done.stderr


# The command line -----------------------------------------------------------------------------------------------------

def test_the_command_line_brings_a_token_from_a_file_or_the_environment(guarded, port, tmp_path):
    file = tmp_path / "token"
    file.write_text(token("admin") + "\n")
    base, socket = f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}/ws"
    without = guarded.command("state", base)
    assert without.returncode == 1 and "--token-file" in without.stderr
    assert "system.status" in guarded.command("state", base, "--token-file", file).stdout
    assert "system.status" in guarded.command("state", base, environment={"SIGMACAST_TOKEN": token("admin")}).stdout
    wrong = guarded.command("state", base, environment={"SIGMACAST_TOKEN": token("admin", lasts=-60)})
    assert wrong.returncode == 1 and "does not accept this token" in wrong.stderr

    tail = guarded.command("tail", socket, "system.status", "--count", "1", "--token-file", file)
    assert tail.returncode == 0 and "system.status" in tail.stdout
    without = guarded.command("tail", socket)
    assert without.returncode == 1 and "asks for a token" in without.stderr
    wrong = guarded.command("tail", socket, environment={"SIGMACAST_TOKEN": token("admin", secret="another" * 8)})
    assert wrong.returncode == 1 and "does not accept this token" in wrong.stderr

    config = guarded.command_config()
    status = guarded.command("status", "--config", config, "--edges", "1", "--token-file", file)
    assert status.returncode == 0 and "compression.update" in status.stdout and "closed" in status.stdout
    without = guarded.command("status", "--config", config, "--edges", "1")
    assert without.returncode == 0 and "compression.update" not in without.stdout
    wrong = guarded.command("status", "--config", config, "--edges", "1", environment={"SIGMACAST_TOKEN": "x"})
    assert wrong.returncode == 1 and "does not accept this token" in wrong.stdout


# Logs -----------------------------------------------------------------------------------------------------------------

def test_no_log_of_the_whole_run_holds_a_token_or_the_secret(guarded, port):
    for text in (token("admin"), token("admin", secret="another" * 8), token("admin", lasts=-60)):
        for way in ways(text).values():
            try:
                guarded.client(**way).close()
            except Refused:
                pass
        with guarded.client(V1) as client:
            client.send(auth(text))
            client.wait(lambda m: True)
        get(port, f"/api/v1/state?token={text}")
        get(port, f"/no/such/path?token={text}", headers=bearer(text))
        guarded.command("tail", f"ws://127.0.0.1:{port}/ws?token={text}", "--for", "300ms")
    guarded.edge.terminate()
    logs = {program.name: program.log() for program in guarded.programs}
    guarded.edge.start()
    assert all(" info " in log for log in logs.values())
    assert found_in_logs() == []

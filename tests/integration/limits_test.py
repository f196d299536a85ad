"""Each row of the table of limits in edge/PROTOCOL.md: who exceeds it sees its code, the metric counts it, and who keeps to it
is untouched."""

import contextlib
import json
import pathlib
import re
import socket
import struct
import subprocess

import pytest

from auth_test import ROLES, SECRET, bearer, token
from harness import BIN, PATIENCE, Cluster, get, parse_metrics, until
from ws_client import CLOSE, PING, PONG, TEXT, V1, Client, Raw, Refused, frame

EDGE = pathlib.Path(__file__).resolve().parent.parent.parent / "edge"
PING_TEXT = b'{"type":"ping","id":1}'


@pytest.fixture
def edge(tmp_path):
    """Makes a broker and an edge with these settings; nothing is published."""
    made = []

    def make(auth=None, roles=None, **options):
        made.append(Cluster(tmp_path / f"cluster{len(made)}", edge_options=options, auth_options=auth, roles=roles))
        return made[-1].edge
    yield make
    for cluster in made:
        cluster.stop()


def met(edge, limit):
    return edge.metrics()[f'sigmacast_edge_limited_total{{limit="{limit}"}}']


def counts(edge, limit, least=1):
    until(lambda: met(edge, limit) >= least, what=f"{limit} is counted")


def served(edge, **options):
    """A client below every limit is."""
    with Raw(edge.port, **options) as raw:
        raw.message("hello")
        raw.send(frame(TEXT, PING_TEXT))
        return raw.message("pong")["id"] == 1


def answer_of(connection):
    received = b""
    while chunk := connection.recv(65_536):
        received += chunk
    return received


# --- Before the upgrade -------------------------------------------------------------------------------------------------

def test_a_handshake_that_does_not_come_in_time_is_408(edge):
    edge = edge(handshake_timeout="200ms")
    with socket.create_connection(("127.0.0.1", edge.port), timeout=5 * PATIENCE) as slow:
        slow.sendall("\r\n".join(["GET /ws HTTP/1.1", *Raw.lines()]).encode())
        assert answer_of(slow).startswith(b"HTTP/1.1 408 ")
    counts(edge, "handshake_timeout")
    with socket.create_connection(("127.0.0.1", edge.port), timeout=5 * PATIENCE) as silent:
        assert answer_of(silent) == b"", "nobody has asked anything"
    assert met(edge, "handshake_timeout") == 1
    assert served(edge)


def test_a_session_outlives_the_time_for_its_handshake(edge):
    edge = edge(handshake_timeout="200ms", heartbeat_interval="400ms")
    with Raw(edge.port) as raw:
        raw.message("hello")
        raw.message("heartbeat")  # Twice that time has passed.
        raw.send(frame(TEXT, PING_TEXT))
        raw.message("pong")


def test_a_header_that_is_too_large_is_431(edge):
    edge = edge(header_bytes_max=2_048)
    with Raw(edge.port, Raw.lines(X_Large="x" * 2_048)) as large:
        assert large.status == 431
    counts(edge, "header_bytes_max")
    assert served(edge, lines=Raw.lines(X_Large="x" * 1_500))


def test_more_clients_than_an_edge_takes_are_503(edge):
    edge = edge(clients_max=2)
    with Raw(edge.port) as first, Raw(edge.port):
        with Raw(edge.port) as third:
            assert third.status == 503 and third.header("retry-after") == ["5"]
        counts(edge, "clients_max")
        first.send(frame(TEXT, PING_TEXT))
        first.message("pong")
    until(lambda: served(edge), what="there is room again")


def own_address():
    """An address of this machine that is not loopback; None where it has none. Nothing is sent."""
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((far, 9))
                return probe.getsockname()[0]
        except OSError:
            continue
    return None


def test_more_clients_of_one_address_are_503_but_for_loopback(edge):
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    edge = edge(host="::" if ":" in address else "0.0.0.0", clients_per_address_max=2,
                auth={"allow_anonymous_lan": True})
    with Raw(edge.port, address=address) as first, Raw(edge.port, address=address) as second:
        for client in (first, second):
            client.message("hello")
        with Raw(edge.port, address=address) as third:
            assert third.status == 503 and third.header("retry-after") == ["5"]
        counts(edge, "clients_per_address_max")
        many = [Raw(edge.port, address="::1" if ":" in address else "127.0.0.1") for _ in range(5)]
        assert [raw.status for raw in many] == [101] * 5
        for raw in many:
            raw.socket.close()
        first.send(frame(TEXT, PING_TEXT))
        first.message("pong")
    until(lambda: served(edge, address=address), what="there is room again")


def test_more_silent_connections_of_one_address_are_closed_unheard(edge):
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    edge = edge(host="::" if ":" in address else "0.0.0.0", clients_per_address_max=2,
                auth={"allow_anonymous_lan": True})
    silent = [socket.create_connection((address, edge.port), timeout=5 * PATIENCE) for _ in range(3)]
    assert silent[2].recv(1) == b""
    counts(edge, "clients_per_address_max")
    assert served(edge), "on loopback"
    for connection in silent:
        connection.close()


def test_more_connections_of_one_user_are_503_or_4100_where_a_message_brings_the_token(edge):
    edge = edge(clients_per_user_max=2, auth={"required": True, "secret": SECRET}, roles=ROLES)
    ann, bob = token("admin", subject="ann"), token("admin", subject="bob")
    admitted = lambda who: Client(edge.port, V1, headers=bearer(who))
    count = lambda: edge_metrics(edge, ann)['sigmacast_edge_limited_total{limit="clients_per_user_max"}']
    with admitted(ann) as first, Client(edge.port, V1) as second, admitted(bob) as other:
        second.send({"type": "auth", "id": 1, "data": {"token": ann}})
        second.wait("authenticated")
        with pytest.raises(Refused) as refused:
            admitted(ann)
        assert refused.value.status == 503 and refused.value.headers["retry-after"] == "5"
        until(lambda: count() == 1)
        third = Client(edge.port, V1)
        third.send({"type": "auth", "id": 7, "data": {"token": ann}})
        error = third.wait("error")
        assert (error["id"], error.data["code"], error.data["name"]) == (7, 4100, "over_capacity")
        assert error.data["temporary"] is True
        assert third.wait_closed() == (4100, "over_capacity")
        until(lambda: count() == 2)
        for client in (first, second, other):
            client.request({"type": "ping"}, "pong")
        second.close()

        def has_room():
            with contextlib.suppress(Refused):
                admitted(ann).close()
                return True

        until(has_room, what="there is room again")


def edge_metrics(edge, who):
    status, _, body = get(edge.port, "/metrics", headers=bearer(who))
    assert status == 200
    return parse_metrics(body.decode())


def test_more_who_have_to_send_a_token_yet_are_503(edge):
    edge = edge(clients_waiting_max=1, auth={"required": True, "secret": SECRET}, roles=ROLES)
    admin = token("admin")
    with Raw(edge.port):
        with Raw(edge.port) as second:
            assert second.status == 503
        assert edge_metrics(edge, admin)['sigmacast_edge_limited_total{limit="clients_waiting_max"}'] == 1
        assert served(edge, lines=Raw.lines(Authorization=f"Bearer {admin}"))


# --- What a client sends ------------------------------------------------------------------------------------------------

def test_a_message_that_is_too_large_is_1009(edge):
    edge = edge(client_message_bytes_max=2_000)
    with Raw(edge.port) as large:
        large.message("hello")
        large.send(frame(TEXT, PING_TEXT.ljust(2_000)))
        large.message("pong")
        large.send(frame(TEXT, PING_TEXT.ljust(2_001)))
        assert large.expect(CLOSE).payload[:2] == struct.pack("!H", 1009)
    counts(edge, "client_message_bytes_max")


def test_the_default_is_65_536_bytes(edge):
    edge = edge()
    with Raw(edge.port) as large:
        large.message("hello")
        large.send(frame(TEXT, PING_TEXT.ljust(65_536)))
        large.message("pong")
        large.send(frame(TEXT, PING_TEXT.ljust(65_537)))
        assert large.expect(CLOSE).payload[:2] == struct.pack("!H", 1009)


def close_of(client, answered=()):
    """Code and reason of the close frame; the types of messages before it."""
    kinds = list(answered)
    while True:
        came = client.read()
        assert came is not None, f"the connection ended after {kinds}"
        if came.opcode == CLOSE:
            return struct.unpack("!H", came.payload[:2])[0], came.payload[2:].decode(), kinds
        if came.opcode == TEXT:
            message = json.loads(came.payload)
            kinds.append(message["data"]["name"] if message["type"] == "error" else message["type"])


def test_messages_over_the_rate_are_refused_and_a_flood_is_4103(edge):
    edge = edge(client_messages_per_second=10)
    with Raw(edge.port) as good, Raw(edge.port) as eager, Raw(edge.port) as hostile:
        for client in (good, eager, hostile):
            client.message("hello")
        eager.send(*[frame(TEXT, PING_TEXT)] * 25)  # 20 may come at once.
        errors = [eager.message("error") for _ in range(4)]
        assert {(e["id"], e["data"]["code"], e["data"]["name"], e["data"]["temporary"]) for e in errors} == {
            (1, 4103, "rate_limited", True)}
        counts(edge, "client_messages_per_second", 4)
        assert met(edge, "client_messages_per_second_flood") == 0
        hostile.send(*[frame(TEXT, PING_TEXT)] * 100)
        code, reason, kinds = close_of(hostile)
        assert (code, reason) == (4103, "rate_limited")
        assert kinds[:20] == ["pong"] * 20 and "rate_limited" in kinds and kinds[-1] == "goodbye"
        counts(edge, "client_messages_per_second_flood")
        good.send(frame(TEXT, PING_TEXT))
        good.message("pong")

        def pong_again():
            eager.send(frame(TEXT, PING_TEXT))
            while (came := json.loads(eager.expect(TEXT).payload))["type"] == "heartbeat":
                pass
            return came["type"] == "pong"
        until(pong_again, every=0.3, what="who stops is served again")


FLOODS = {
    "control pings": frame(PING, b"x"),
    "pongs that nobody asked for": frame(PONG, b"x"),
    "empty fragments": frame(0, b"", final=False),
    "fragments": frame(0, b" ", final=False),
}


@pytest.mark.parametrize("case", FLOODS)
def test_a_flood_of_other_frames_is_4103_too(edge, case):
    edge = edge(client_messages_per_second=10)
    with Raw(edge.port) as hostile:
        hostile.message("hello")
        if "fragments" in case:
            hostile.send(frame(TEXT, b" ", final=False))
        hostile.send(*[FLOODS[case]] * 15)
        hostile.send(*[frame(PING, b"still here")])
        hostile.expect(PONG, lambda came: came.payload in (b"x", b"still here"))
        assert met(edge, "client_messages_per_second_flood") == 0
        hostile.send(*[FLOODS[case]] * 100)
        while (came := hostile.read()).opcode != CLOSE:
            assert came.opcode in (TEXT, PONG)
        assert came.payload == struct.pack("!H", 4103) + b"rate_limited"
    counts(edge, "client_messages_per_second_flood")


def test_without_a_limit_any_number_of_messages_is_answered(edge):
    edge = edge(client_messages_per_second=0)
    with Raw(edge.port) as raw:
        raw.message("hello")
        raw.send(*[frame(TEXT, PING_TEXT)] * 500)
        for _ in range(500):
            raw.message("pong")


def test_more_subscriptions_are_refused_by_name(edge):
    edge = edge(client_subscriptions_max=2)
    with Raw(edge.port) as raw:
        raw.message("hello")
        raw.send(frame(TEXT, b'{"type":"subscribe","id":5,"data":{"types":["a","b","c"]}}'))
        error = raw.message("error")
        assert (error["id"], error["data"]["code"], error["data"]["name"]) == (5, 4005, "limit_policy")
        assert "; c was not added" in error["data"]["message"]
        assert set(raw.message("subscribed")["data"]["topics"]) == {"a", "b"}
        counts(edge, "client_subscriptions_max")
        raw.send(frame(TEXT, b'{"type":"unsubscribe","types":["a"]}'),
                 frame(TEXT, b'{"type":"subscribe","id":6,"data":{"types":["c"]}}'))
        assert set(raw.message("subscribed")["data"]["topics"]) == {"c"}


# --- What waits for a client --------------------------------------------------------------------------------------------

class Flood:
    """Sends whole frames, as many as the edge takes, each time that it is called; True."""

    def __init__(self, client, one):
        self.client, self.frames, self.rest = client, one * 1_000, b""
        client.socket.settimeout(0.05)

    def __call__(self):
        with contextlib.suppress(OSError):
            while True:
                self.rest = self.rest or self.frames
                self.rest = self.rest[self.client.socket.send(self.rest):]
        return True


def test_who_does_not_take_its_pongs_is_not_read_from_and_then_closed(edge):
    """A pong is owed for each ping: they may wait up to a bound, and for a time."""
    edge = edge(client_messages_per_second=0, client_answer_bytes_max=4_096, write_timeout="300ms")
    with Raw(edge.port, receive_buffer=4_096) as hostile, Raw(edge.port) as good:
        hostile.message("hello")
        good.message("hello")
        flood = Flood(hostile, frame(TEXT, PING_TEXT))
        until(lambda: flood() and met(edge, "write_timeout"), timeout=30, what="it is closed")
        assert met(edge, "client_answer_bytes_max") >= 1
        until(lambda: edge.metrics()["sigmacast_edge_clients"] == 1, what="it is gone")
        good.send(frame(TEXT, PING_TEXT))
        good.message("pong")


def test_control_pings_that_nobody_reads_the_pongs_of_stop_the_reading(edge):
    edge = edge(client_messages_per_second=0, write_timeout="300ms")
    with Raw(edge.port, receive_buffer=4_096) as hostile:
        hostile.message("hello")
        before = edge.stat()[1]
        flood = Flood(hostile, frame(PING, b"x" * 125))
        until(lambda: flood() and met(edge, "write_timeout"), timeout=30, what="it is closed")
        # (A sanitizer keeps what is freed for a while.)
        assert edge.stat()[1] - before < (8 << 20) * PATIENCE ** 2, "one pong waits"
    assert served(edge)


@pytest.mark.skipif(PATIENCE >= 4, reason="a sanitizer keeps what is freed")
def test_what_many_clients_had_goes_back_to_the_system(edge):
    """A page goes back only as a whole: nothing that stays may lie among what they had."""
    edge = edge()
    with contextlib.ExitStack() as clients:
        before = edge.stat()[1]
        for _ in range(2_000):
            clients.enter_context(Raw(edge.port)).message("hello")
        grown = edge.stat()[1] - before
    until(lambda: edge.metrics()["sigmacast_edge_clients"] == 0, what="they are gone")
    until(lambda: edge.stat()[1] - before < grown / 2, what=f"half of {grown >> 10} KiB is back")


def test_a_silent_client_is_not_closed_for_taking_nothing_where_nothing_waits(edge):
    edge = edge(write_timeout="100ms", heartbeat_interval="1s")
    with Raw(edge.port) as idle:
        idle.message("hello")
        for _ in range(2):
            idle.message("heartbeat")
    assert met(edge, "write_timeout") == 0


def test_who_lets_too_much_wait_is_4102(edge):
    """Events, of which none may be left out."""
    edge = edge(client_queue_bytes_max=4 << 20)
    cluster = edge.cluster
    with cluster.v1("bulk") as good, cluster.client(V1, receive_buffer=4_096) as slow:
        slow.subscribe("bulk")
        slow.stop_reading()
        published = 0
        while met_slow(edge) == 0:
            assert published < 1_200, "36 MB, and nobody is too slow"
            cluster.publish([{"type": "bulk", "data": {"text": "x" * 30_000}}] * 60, "--kind", "event")
            published += 60
            until(lambda: len(good.of("bulk")) == published, what="who reads gets them all")
        assert met_slow(edge) == 1
        slow.go_on_reading()
        assert slow.wait_closed()[0] in (4102, 1006)  # 1006: it has read too late.
        assert good.closed is None


def met_slow(edge):
    return edge.metrics()["sigmacast_edge_dropped_clients_total"]


# --- The table ----------------------------------------------------------------------------------------------------------

def rows():
    text = (EDGE / "PROTOCOL.md").read_text()
    table = text[text.index("## Limits and closing"):text.index("0 turns off the limits")]
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_limit_has_its_line_in_the_protocol_and_its_metric_from_the_start(edge):
    metrics = edge().metrics()
    labels = {found[1] for name in metrics if (found := re.fullmatch(r'sigmacast_edge_limited_total\{limit="(\w+)"\}', name))}
    documented = set()
    for what, setting, _, metric in rows():
        if metric.startswith("`sigmacast_"):
            assert metric.strip("`") in metrics, what
        else:
            documented.add((re.search(r'limit="(\w+)"', metric) or re.search(r"`(\w+)`", setting))[1])
    assert documented == labels
    assert {metrics[f'sigmacast_edge_limited_total{{limit="{label}"}}'] for label in labels} == {0}


def test_every_default_of_the_table_is_that_of_its_setting():
    shown = subprocess.run([str(BIN / "sigmacast-edge"), "--print-config"], capture_output=True, text=True, check=True).stdout
    settings = dict(re.findall(r"^#? ?(\w+) = ([^\s#]+)", shown[shown.index("[edge]"):shown.index("[auth]")], re.M))
    units = {"KiB": 1_024, "MiB": 1 << 20, "s": 1, "m": 60}
    number_of = lambda number, unit: int(number.replace(",", "")) * units.get(unit, 1)
    checked = 0
    for what, setting, *_ in rows():
        if found := re.match(r"([\d,]+) ?(s\b|KiB|MiB)?[\w ]*, `(\w+)`", setting):
            number, unit, name = found.groups()
            assert number_of(*re.fullmatch(r'"?(\d+)([a-z]*)"?', settings[name]).groups()) == number_of(number, unit), what
            checked += 1
    assert checked >= 13

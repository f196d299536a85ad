"""Keys between the programs ([curve], sigmacast keygen), with real keys over a real address of this machine.

A cluster on which every program has a key of its own; then programs with a wrong key, none, or another's rights, which
must get nothing, be told why on both sides, and leave those that are in alone.
"""

import contextlib
import json
import os
import pathlib
import re
import socket
import stat
import subprocess

import pytest

from harness import BIN, PATIENCE, clean_environment, get, toml, until
from ports import free_port

TOPICS = ["system.status"]
COMMAND = str(BIN / "sigmacast")


def address():
    """An address that other hosts could use; without one, loopback does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # Sends nothing.
        return probe.getsockname()[0]
    return "127.0.0.1"


def keygen(path, *, umask=None):
    """The public key; the secret one is in `path`."""
    made = subprocess.run([COMMAND, "keygen", "--out", str(path)], capture_output=True, text=True, timeout=10 * PATIENCE,
                          preexec_fn=None if umask is None else lambda: os.umask(umask), env=clean_environment())
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def secret_in(path):
    return pathlib.Path(path).read_text().splitlines()[-1]


class Keys:
    """A key pair for each name, made on demand; the secret in folder/NAME.key."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.made = {}

    def path(self, name):
        self.public(name)
        return self.folder / f"{name}.key"

    def public(self, name):
        if name not in self.made:
            self.made[name] = keygen(self.folder / f"{name}.key")
        return self.made[name]

    def secrets(self):
        return [secret_in(self.folder / f"{name}.key") for name in self.made]


class Secured:
    """Gives each program of a cluster that has not been started the [curve] that it needs."""

    def __init__(self, cluster, host=None):
        self.cluster = cluster
        self.keys = Keys(cluster.folder / "keys")
        self.clients = [("nas", ["nas"], ["publish"], ["nas"]), ("edge", ["edge"], ["read"], []),
                        ("tool", ["tool"], ["publish"], [])]
        host = host or address()
        for name in ("ingest", "feed", "repair"):
            setattr(cluster, name, f"tcp://{host}:{free_port()}")
        self.wrap(cluster.broker, self.broker_text)
        self.wrap(cluster.producer, lambda: self.client_text("producer_key_file", "nas"))
        for edge in cluster.edges:
            self.wrap(edge, lambda: self.client_text("edge_key_file", "edge"))

    def wrap(self, program, curve):
        text = program.config.get("plain", program.config["text"])
        program.config["plain"] = text
        program.config["text"] = lambda: text() + "\n" + curve()

    def broker_text(self):
        rows = "".join(f"[[curve.client]]\nname = {toml(name)}\npublic_keys = {toml([self.keys.public(k) for k in keys])}\n"
                       f"may = {toml(may)}\norigins = {toml(origins)}\n" for name, keys, may, origins in self.clients)
        return f"[curve]\nbroker_key_file = {toml(str(self.keys.path('broker')))}\n{rows}"

    def client_text(self, setting, name, broker="broker"):
        return (f"[curve]\n{setting} = {toml(str(self.keys.path(name)))}\n"
                f"broker_public_key = {toml(self.keys.public(broker))}\n")

    def edge(self, curve):
        """One edge more, with a [curve] of its own; it is not waited for."""
        edge = self.cluster.add_edge()
        self.wrap(edge, curve)
        edge.start(ready=False)
        return edge

    def publish(self, name, *arguments, line='{"type":"note","data":{"text":"hello"}}', broker="broker", timeout="2s",
                plain=False):
        config = self.cluster.command_config(f"publish-{name}")
        if not plain:
            config.write_text(config.read_text() + "\n" + self.client_text("publish_key_file", name, broker))
        return self.cluster.command("publish", "--config", config, "--timeout", timeout, *arguments, input=line + "\n")


@pytest.fixture
def secured(make_cluster, engine):
    """All with keys, over an address that is not loopback where there is one; nothing runs yet."""
    made = Secured(make_cluster(engine, polls=TOPICS, start=False))
    yield made
    programs = made.cluster.programs
    for secret in made.keys.secrets():
        for program in programs:
            if program.log_path.exists():
                assert secret not in program.log(), f"{program.name} logged a secret key"


def logged(program, *words):
    """The line of a program's log that has all the words, once there is one."""
    return until(lambda: [line for line in program.log().splitlines() if all(word in line for word in words)],
                 what=f"{program.name} logs {words}")[0]


def broker_metric(cluster, name):
    return cluster.broker.metrics()[f"sigmacast_broker_{name}_total"]


def live(cluster, edge=0):
    """The edge has a live value."""
    return until(lambda: [value for value in cluster.state("system.status", edge)["values"]
                          if value["quality"] == "live"], what="a live value")


def test_the_whole_way_from_the_engine_to_a_client_goes_over_an_address_of_the_network(secured):
    cluster = secured.cluster.start()
    assert live(cluster)
    with cluster.v1("system.status") as client:
        assert client.wait("system.status")
    published = secured.publish("tool")
    assert published.returncode == 0, published.stderr
    assert "published 1, durable 1" in published.stderr
    assert broker_metric(cluster, "denied") == 0
    assert broker_metric(cluster, "forbidden") == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "[::1]"])
def test_one_configuration_serves_the_broker_and_those_beside_it(make_cluster, engine, host):
    if host.startswith("["):
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
    secured = Secured(make_cluster(engine, polls=TOPICS, start=False), host)
    cluster = secured.cluster.start()
    assert live(cluster)
    if host != "[::1]":  # Others use a name, or the address; these do too.
        other = address() if host == "0.0.0.0" else "localhost"
        cluster.feed, cluster.repair = (endpoint.replace(host, other) for endpoint in (cluster.feed, cluster.repair))
        secured.edge(lambda: secured.client_text("edge_key_file", "edge")).wait_ready(10)
        assert live(cluster, edge=1)


def test_a_key_that_nobody_listed_gets_nothing_and_is_told_so_on_both_sides(secured):
    cluster = secured.cluster.start()
    stranger = secured.edge(lambda: secured.client_text("edge_key_file", "stranger"))
    line = logged(stranger, "refuses this program's key", cluster.feed)
    assert secured.keys.public("stranger") in line and "[[curve.client]]" in line
    logged(stranger, "refuses this program's key", cluster.repair)
    denied = logged(cluster.broker, "turned away", secured.keys.public("stranger"), cluster.feed)
    assert "in no [[curve.client]]" in denied and f"address={address()}" in denied
    assert broker_metric(cluster, "denied") >= 2
    assert not stranger.is_ready()
    refused = secured.publish("stranger")
    assert refused.returncode == 1 and "refuses this program's key" in refused.stderr
    # Those that are in do not notice.
    assert live(cluster)
    assert secured.publish("tool").returncode == 0


def test_the_denials_of_a_stranger_that_tries_on_and_on_are_few_lines_and_all_counted(secured):
    cluster = secured.cluster.start()
    for _ in range(4):
        secured.edge(lambda: secured.client_text("edge_key_file", "stranger"))
    until(lambda: broker_metric(cluster, "denied") > 20, timeout=20, what="many denials")
    assert cluster.broker.log().count("turned away") <= 10
    for stranger in cluster.edges[1:]:
        assert stranger.log().count("refuses this program's key") <= 2, "one line a socket"


def test_the_key_of_an_edge_publishes_nothing(secured):
    cluster = secured.cluster.start()
    live(cluster)
    before = cluster.broker.metrics()
    # Its way in through ingest is closed; on repair, where it may ask, it may not speak as a producer.
    stolen = secured.publish("edge", "--origin", "nas")
    assert stolen.returncode == 1
    assert "refuses this program's key" in stolen.stderr and cluster.ingest in stolen.stderr
    assert "may not do this" in logged(cluster.broker, "turned away", secured.keys.public("edge"), cluster.ingest)
    logged(cluster.broker, "wants what", "client=edge", "publish")
    after = cluster.broker.metrics()
    assert after["sigmacast_broker_forbidden_total"] > before["sigmacast_broker_forbidden_total"]
    assert after["sigmacast_broker_conflicts_total"] == before["sigmacast_broker_conflicts_total"]
    assert cluster.producer.readiness()[1]["state"] == "joined", "the producer keeps its name"


def test_the_key_of_a_producer_reads_nothing(secured):
    cluster = secured.cluster.start()
    live(cluster)
    curious = secured.edge(lambda: secured.client_text("edge_key_file", "nas"))
    logged(curious, "refuses this program's key", cluster.feed)
    logged(cluster.broker, "wants what", "client=nas", "wants_to=read")
    assert "may not read" in logged(curious, "the broker refuses what this edge asks")
    assert not curious.is_ready()
    assert "usage" not in json.dumps(get(curious.port, "/api/v1/state")[2]), "no value of the engine's"


def test_a_producer_that_is_bound_to_its_origin_publishes_as_no_other(secured):
    cluster = secured.cluster.start()
    until(lambda: cluster.producer.readiness()[1]["state"] == "joined")
    spoofed = secured.publish("nas", "--origin", "other")
    assert spoofed.returncode == 1 and "durable 0" in spoofed.stderr
    assert "the broker refuses this: [[curve.client]] nas may not publish as other" in spoofed.stderr
    logged(cluster.broker, "wants what", "client=nas", "publish as other")
    assert [origin["name"] for origin in cluster.broker.readiness()[1]["origins"]] == ["nas"]


def test_a_client_that_expects_another_broker_tells_it_nothing(secured):
    cluster = secured.cluster.start()
    misled = secured.edge(lambda: secured.client_text("edge_key_file", "edge", broker="impostor"))
    line = logged(misled, "breaks off each handshake")
    assert "curve.broker_public_key" in line
    assert "curve.broker_public_key" in logged(cluster.broker, "turned away", "expects another broker", f"{address()}:")
    assert not misled.is_ready()
    assert live(cluster)


def test_a_program_without_a_key_is_told_that_the_broker_asks_for_one(secured):
    cluster = secured.cluster
    secured.cluster.folder.mkdir(exist_ok=True)
    for name in ("ingest", "feed", "repair"):  # Without a key only loopback is open.
        setattr(cluster, name, getattr(cluster, name).replace(address(), "127.0.0.1"))
    cluster.start()
    plain = secured.edge(lambda: "")
    # Which of two lines, depends on whether this end reads the broker's greeting before it is cut off.
    assert "set [curve]" in logged(plain, "the broker", "set [curve]")
    assert "set [curve] there" in logged(cluster.broker, "turned away", "it has no key", "address=127.0.0.1:")
    refused = secured.publish("plain", plain=True)
    assert refused.returncode == 1 and "set [curve]" in refused.stderr
    assert not plain.is_ready()
    assert live(cluster)


def test_a_program_with_a_key_does_not_talk_to_a_broker_without_one(make_cluster, engine):
    cluster = make_cluster(engine, polls=TOPICS)
    keys = Keys(cluster.folder / "keys")
    edge = cluster.add_edge()
    text = edge.config["text"]
    edge.config["text"] = lambda: (f"{text()}\n[curve]\nedge_key_file = {toml(str(keys.path('edge')))}\n"
                                   f"broker_public_key = {toml(keys.public('broker'))}\n")
    edge.start(ready=False)
    assert "curve.broker_key_file" in logged(edge, "the broker has no key")
    assert "it has a key" in logged(cluster.broker, "turned away", "address=127.0.0.1:")
    assert not edge.is_ready()
    assert live(cluster)


def test_who_was_turned_away_is_in_within_seconds_of_being_listed(secured):
    cluster = secured.cluster.start()
    late = secured.edge(lambda: secured.client_text("edge_key_file", "late"))
    logged(late, "refuses this program's key", cluster.feed)
    logged(late, "refuses this program's key", cluster.repair)
    secured.clients.append(("late", ["late"], ["read"], []))
    cluster.broker.kill()
    cluster.broker.start()
    late.wait_ready(10)
    logged(late, "lets this program in", cluster.feed)
    assert live(cluster, edge=1)


def test_a_key_is_replaced_while_both_are_listed_and_the_old_one_is_out_when_it_is_not(secured):
    cluster = secured.cluster
    secured.clients[1] = ("edge", ["edge", "edge-new"], ["read"], [])
    cluster.start()
    new = secured.edge(lambda: secured.client_text("edge_key_file", "edge-new"))
    new.wait_ready(10)
    assert live(cluster, 0) and live(cluster, 1)
    secured.clients[1] = ("edge", ["edge-new"], ["read"], [])
    cluster.broker.kill()
    cluster.broker.start()
    logged(cluster.edges[0], "refuses this program's key")
    new.wait_ready(10)
    assert live(cluster, 1)


def test_a_broker_that_was_killed_is_found_again_by_all(secured):
    cluster = secured.cluster.start()
    with cluster.v1("system.status") as client:
        client.wait("system.status")
        cluster.broker.kill()
        client.wait("transition", timeout=8)
        cluster.broker.start()
        until(lambda: cluster.producer.readiness()[1]["state"] == "joined" and cluster.producer.is_ready(), timeout=10)
        client.wait("transition", timeout=10)
        assert live(cluster)
    assert broker_metric(cluster, "denied") == 0
    assert "turned away" not in cluster.broker.log()


def test_garbage_on_the_sockets_is_turned_away_and_nobody_notices(secured):
    cluster = secured.cluster.start()
    greeting = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
    subscribe = b"\0\x01\x01"  # To everything.
    old = b"\xff" + bytes(8) + b"\x7f\x01\x02\0\0" + subscribe  # ZMTP 2.0 and 1.0 know no keys.
    before = broker_metric(cluster, "handshakes_failed")
    for endpoint in (cluster.ingest, cluster.feed, cluster.repair):
        host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
        for sent in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), greeting, greeting + b"\x04\xc8\x05HELLO" + bytes(194),
                     greeting + b"\x06" + b"\xff" * 8 + os.urandom(64), b"", old, b"\x01\0" + b"\x02\0\x01"):
            received = b""
            with socket.create_connection((host, int(port)), timeout=5) as peer:
                peer.settimeout(5 * PATIENCE)
                with contextlib.suppress(OSError):  # It may hang up on us at any point.
                    peer.sendall(sent)
                    if sent is old:  # Stays, for what a subscriber gets, until it is hung up on.
                        while (more := peer.recv(4096)):
                            received += more
                    peer.shutdown(socket.SHUT_WR)
                    while (more := peer.recv(4096)):
                        received += more
            assert len(received) < 512 and b"system.status" not in received, received
    # Old protocols are hung up on without a word; those with a greeting of today are counted.
    until(lambda: broker_metric(cluster, "handshakes_failed") >= before + 9, what="they are counted")
    assert live(cluster)
    assert cluster.broker.log().count("turned away") <= 30
    assert secured.publish("tool").returncode == 0


# Configuration --------------------------------------------------------------------------------------------------------
def check(program, text, folder):
    path = folder / "check.toml"
    path.write_text(text)
    done = subprocess.run([str(BIN / program), "--config", str(path), "--check"], capture_output=True, text=True,
                          timeout=10 * PATIENCE, env=clean_environment())
    return done.returncode, done.stdout + done.stderr


def test_each_program_refuses_a_configuration_that_is_half_there_and_says_what_is_missing(tmp_path):
    keys = Keys(tmp_path / "keys")
    broker_key, edge_key = f"broker_key_file = {toml(str(keys.path('broker')))}", f"edge_key_file = {toml(str(keys.path('edge')))}"
    server = f"broker_public_key = {toml(keys.public('broker'))}"
    client = f"[[curve.client]]\nname = 'edge'\npublic_keys = {toml([keys.public('edge')])}\nmay = ['read']"
    whole = f"[broker]\nfeed = 'tcp://0.0.0.0:12071'\n[curve]\n{broker_key}\n{server}\n{edge_key}\n{client}\n"
    for program in ("sigmacast-broker", "sigmacast-edge"):
        assert check(program, whole, tmp_path) == (0, f"{program}: the configuration is good\n")

    def refused(program, text, *words):
        code, said = check(program, text, tmp_path)
        assert code == 2 and all(word in said for word in words), said
        for secret in keys.secrets():
            assert secret not in said

    refused("sigmacast-producer", whole, "curve.producer_key_file: is missing", "sigmacast keygen")
    refused("sigmacast-broker", f"[curve]\n{server}\n{edge_key}\n", "curve.broker_key_file: is missing")
    refused("sigmacast-edge", f"[curve]\n{broker_key}\n{client}\n", "curve.edge_key_file: is missing")
    refused("sigmacast-edge", f"[curve]\n{edge_key}\n", "curve.edge_key_file", "curve.broker_public_key")
    refused("sigmacast-edge", f"[curve]\n{server}\n", "check.toml:2: curve.broker_public_key")
    refused("sigmacast-broker", f"[curve]\n{broker_key}\n", "check.toml:2: curve.broker_key_file", "[[curve.client]]")
    refused("sigmacast-broker", f"[curve]\n{client}\n", "curve.client", "curve.broker_key_file")
    refused("sigmacast-broker", "[broker]\nfeed = 'tcp://192.0.2.7:12071'\n", "check.toml:2: broker.feed", "[curve]")
    wrong = whole.replace(keys.public("broker"), keys.public("other"))
    refused("sigmacast-broker", wrong, "curve.broker_public_key: is not the one of", keys.public("broker"))
    own = f"[curve]\n{edge_key}\nbroker_public_key = {toml(keys.public('edge'))}\n"
    refused("sigmacast-edge", own, "curve.broker_public_key: is this program's own")
    refused("sigmacast-edge", own.replace(keys.public("edge"), secret_in(keys.path("edge"))),
            "curve.broker_public_key: is the secret key of")
    refused("sigmacast-broker", whole.replace(keys.public("edge"), secret_in(keys.path("broker"))),
            "curve.client.public_keys: that of edge is the broker's secret key")


def test_a_secret_key_that_others_may_read_is_not_used(tmp_path):
    keys = Keys(tmp_path / "keys")
    path = keys.path("edge")
    text = f"[curve]\nedge_key_file = {toml(str(path))}\nbroker_public_key = {toml(keys.public('broker'))}\n"
    assert check("sigmacast-edge", text, tmp_path)[0] == 0
    for mode in (0o644, 0o640, 0o604, 0o620, 0o601):
        path.chmod(mode)
        code, said = check("sigmacast-edge", text, tmp_path)
        assert code == 2 and f"chmod 600 {path}" in said, f"{mode:o}: {said}"
    path.chmod(0o600)
    assert check("sigmacast-edge", text, tmp_path)[0] == 0
    for content, words in (("", "holds no secret key"), (secret_in(path), "holds no secret key"),
                           ("# sigmacast secret key\nshort\n", "holds no key"),
                           (pathlib.Path(f"{path}.pub").read_text(), "holds a public key"),
                           ("x" * 5000, "longer than 4 KiB")):
        other = tmp_path / "other.key"
        other.write_text(content)
        other.chmod(0o600)
        code, said = check("sigmacast-edge", text.replace(str(path), str(other)), tmp_path)
        assert code == 2 and words in said and "curve.edge_key_file" in said, said
    code, said = check("sigmacast-edge", text.replace(str(path), str(tmp_path / "none")), tmp_path)
    assert code == 2 and "No such file" in said
    code, said = check("sigmacast-edge", text.replace(str(path), str(tmp_path)), tmp_path)
    assert code == 2 and "is not a file" in said


def test_a_secret_key_in_the_brokers_list_is_told_when_its_owner_comes(secured):
    cluster = secured.cluster.start()
    secured.keys.public("careless")
    text = cluster.broker.config["text"]
    cluster.broker.config["text"] = lambda: text().replace(
        secured.keys.public("tool"), secret_in(secured.keys.path("careless")))
    cluster.broker.kill()
    cluster.broker.start()
    assert secured.publish("careless").returncode == 1
    logged(cluster.broker, "turned away", "[[curve.client]] tool holds its secret key")


# keygen ---------------------------------------------------------------------------------------------------------------
def run_keygen(*arguments, cwd=None):
    return subprocess.run([COMMAND, "keygen", *map(str, arguments)], capture_output=True, text=True, cwd=cwd,
                          timeout=10 * PATIENCE, env=clean_environment())


def test_keygen_makes_a_pair_for_its_owner_alone_and_never_overwrites_one(tmp_path):
    path = tmp_path / "edge.key"
    public = keygen(path, umask=0)
    assert re.fullmatch(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}", public)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "edge.key.pub").stat().st_mode) == 0o644
    secret_text, public_text = path.read_text(), (tmp_path / "edge.key.pub").read_text()
    assert secret_text.startswith("# sigmacast secret key") and public not in secret_text
    assert public_text.startswith("# sigmacast public key") and public_text.splitlines()[1] == public
    again = run_keygen("--out", path)
    assert again.returncode == 1 and "is there already" in again.stderr and not again.stdout
    path.unlink()
    again = run_keygen("--out", path)
    assert again.returncode == 1 and "edge.key.pub is there already" in again.stderr
    assert not path.exists(), "half a pair is none"
    assert (tmp_path / "edge.key.pub").read_text() == public_text
    shown = run_keygen("--show", path)
    assert shown.returncode == 1 and "No such file" in shown.stderr


def test_keygen_says_the_public_key_alone_and_knows_it_again(tmp_path):
    made = run_keygen(cwd=tmp_path)
    assert made.returncode == 0 and (tmp_path / "sigmacast.key").exists()
    public, secret = made.stdout.strip(), secret_in(tmp_path / "sigmacast.key")
    assert secret not in made.stdout + made.stderr and "sigmacast.key.pub" in made.stderr
    shown = run_keygen("--show", tmp_path / "sigmacast.key")
    assert (shown.returncode, shown.stdout) == (0, public + "\n")
    assert run_keygen("--show", tmp_path / "sigmacast.key.pub").returncode == 1
    (tmp_path / "folder").mkdir()
    other = run_keygen("--out", tmp_path / "folder")
    assert other.returncode == 0 and (tmp_path / "folder" / "sigmacast.key").exists() and other.stdout.strip() != public
    assert "--show" in run_keygen("--help").stdout
    assert run_keygen("--out", tmp_path / "none" / "x.key").returncode == 1
    assert run_keygen("--out", "a", "--show", "b").returncode == 2


# Documents ------------------------------------------------------------------------------------------------------------
def test_the_configurations_of_the_readme_are_good(tmp_path):
    readme = (pathlib.Path(__file__).resolve().parents[2] / "README.md").read_text()
    section = readme.split("### Several hosts")[1].split("\n## ")[0]
    paths = re.findall(r"sigmacast keygen --out (\S+)", section)
    keys = {path: (keygen(tmp_path / pathlib.Path(path).name), tmp_path / pathlib.Path(path).name) for path in paths}
    samples = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    assert len(samples) == 2 and len(keys) == 4

    def filled(sample):
        for path, (public, file) in keys.items():
            sample = sample.replace(path, str(file)).replace(f"PUBLIC KEY OF {pathlib.Path(path).name}", public)
        assert "PUBLIC KEY" not in sample and "/etc/" not in sample
        return sample
    for sample, programs in zip(samples, (("broker", "producer", "edge"), ("edge",))):
        for program in programs:
            assert check(f"sigmacast-{program}", filled(sample), tmp_path) == (0, f"sigmacast-{program}: the configuration is good\n")

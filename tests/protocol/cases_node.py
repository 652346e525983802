"""What needs a node of its own: crashes, restarts, limits, TLS, users. Each case starts one."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from wire import (
    CONNACK, LATE, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, WAIT, Peer, Wrong, ack, connect, publish, topic,
    will_of,
)

ROOT = Path(__file__).resolve().parent.parent.parent
# Nobody acknowledges a DISCONNECT: what it changes is on disk a moment after the connection has ended.
LETTING_GO_SECONDS = 2


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Node:
    """A node that a case may kill and start again over the same data."""

    def __init__(self, **settings):
        self.folder = Path(tempfile.mkdtemp(prefix="busbar-conformance-"))
        self.http, self.mqtt = free_port(), free_port()
        self.env = dict(
            os.environ, BUSBAR_DATA_DIR=str(self.folder / "data"), BUSBAR_HTTP_LISTEN=f"127.0.0.1:{self.http}",
            BUSBAR_MQTT_LISTEN=f"127.0.0.1:{self.mqtt}", BUSBAR_AMQP_LISTEN="off", **settings,
        )
        self.start()

    def start(self):
        self.log = open(self.folder / "node.out", "a+")
        self.process = subprocess.Popen(
            [os.environ["CONFORMANCE_BUSBAR"], "run", str(ROOT / "examples" / "minimal")], env=self.env,
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + WAIT
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/readyz", timeout=1) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.02)
        self.log.seek(0)
        raise RuntimeError(f"the node did not start:\n{self.log.read()}")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(WAIT)

    def command(self, *args, **how):
        return subprocess.run([os.environ["CONFORMANCE_BUSBAR"], *args], env=self.env, capture_output=True,
                              text=True, timeout=WAIT, **how)

    def client(self, client_id=None, version=5, **how):
        return Peer(version, self.mqtt).connect(client_id, **how)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Receiver:
    """A subscriber that keeps its side of QoS 2 over lost connections, as the standard asks."""

    def __init__(self, node, client_id, name):
        self.node, self.client_id, self.name = node, client_id, name
        self.seen, self.held = [], set()
        self.connect(clean=True)
        self.peer.subscribe(name, qos=2)

    def connect(self, clean=False):
        self.peer = self.node.client(self.client_id, clean=clean, session_expiry=3600, receive_maximum=20)
        assert self.peer.connack.present != clean

    def take(self, steps, wait=WAIT):
        """Deals with up to `steps` packets; whether so many came."""
        for _ in range(steps):
            try:
                got = self.peer.read(wait)
            except TimeoutError:
                return False
            if got is None:
                return False
            if got.kind == PUBLISH:
                if got.pid not in self.held:
                    self.seen.append(got.payload.decode())
                    self.held.add(got.pid)
                self.peer.send(ack(PUBREC, got.pid))
            elif got.kind == PUBREL:
                self.held.discard(got.pid)
                self.peer.send(ack(PUBCOMP, got.pid))
            else:
                raise Wrong(f"unexpected {got}")
        return True


def case_qos_2_out_is_exactly_once_over_crashes():
    """The node is killed while a subscriber of a session that stays is in the midst of QoS 2."""
    name, total = topic(), 0
    with Node() as node:
        receiver = Receiver(node, "exactly", name)
        for steps in (1, 2, 3, 7, 20, 41, 64, 0):
            sender = node.client()
            for _ in range(30):
                sender.publish(name, str(total), 2)
                total += 1
            receiver.take(steps)
            node.kill()
            node.start()
            receiver.peer.drop()
            receiver.connect()
        while receiver.take(1, 1.0):
            pass
        assert receiver.seen == [str(n) for n in range(total)], \
            f"{len(receiver.seen)} of {total}: {[s for n, s in enumerate(receiver.seen) if s != str(n)][:9]}"


def case_qos_2_in_is_exactly_once_over_crashes():
    """A sender repeats what it did not hear about, and releases what it did, over crashes."""
    name, total = topic(), 0
    with Node() as node:
        reader = Receiver(node, "reader", name)
        who = "sender"
        peer = node.client(who, session_expiry=3600)
        for round_ in range(6):
            # Ten at once; the node is killed somewhere in between.
            pids = list(range(1, 11))
            texts = {pid: str(total + pid - 1) for pid in pids}
            total += 10
            peer.send(*[publish(5, name, texts[pid], 2, pid=pid) for pid in pids])
            received, heard = set(), 0
            while heard < round_ * 3:
                got = peer.read()
                heard += 1
                if got.kind == PUBREC:
                    received.add(got.pid)
                    if got.pid % 2:
                        peer.send(ack(PUBREL, got.pid))
                else:
                    received.discard(got.pid)
                    pids.remove(got.pid)
            node.kill()
            node.start()
            peer.drop()
            peer = node.client(who, clean=False, session_expiry=3600)
            assert peer.connack.present
            for pid in pids:
                if pid in received:
                    peer.send(ack(PUBREL, pid))
                else:
                    peer.send(publish(5, name, texts[pid], 2, dup=True, pid=pid))
            while pids:
                got = peer.read()
                if got.kind == PUBREC:
                    peer.send(ack(PUBREL, got.pid))
                elif got.kind == PUBCOMP:
                    pids.remove(got.pid)
            reader.peer.drop()
            reader.connect()
        while reader.take(1, 1.0):
            pass
        assert sorted(map(int, reader.seen)) == list(range(total)), reader.seen


def case_sessions_survive_a_crash():
    """Subscriptions, messages that wait, what is in flight, retained values; 3.1.1 and 5.0."""
    with Node() as node:
        for version in (4, 5):
            keep = {"session_expiry": 3600} if version == 5 else {"clean": False}
            name = topic()
            away = node.client("away", version, **keep).subscribe(f"{name}/+", qos=1)
            here = node.client("here", version, **keep).subscribe(f"{name}/+", qos=1)
            away.close()
            sender = node.client(None, version)
            for n in range(40):
                sender.publish(f"{name}/{n % 4}", str(n), 1, retain=n > 35)
            # Half of it is acknowledged before the crash.
            for _ in range(20):
                here.message()
            node.kill()
            node.start()
            again = node.client("away", version, **dict(keep, clean=False))
            assert again.connack.present
            assert again.payloads(40) == [str(n) for n in range(40)]
            again.nothing().close()
            there = node.client("here", version, **dict(keep, clean=False))
            assert there.connack.present
            got = [there.message()]
            while got[-1].payload != b"39":
                got.append(there.message())
            numbers = [int(g.payload) for g in got]
            assert numbers == list(range(numbers[0], 40)) and numbers[0] <= 20, numbers
            there.close()
            late = node.client(None, version).subscribe(f"{name}/#", qos=1)
            assert sorted(late.payloads(4)) == ["36", "37", "38", "39"]
            late.close()
            node.client("away", version).close()
            node.client("here", version).close()


def case_a_subscription_is_kept_once_it_is_acknowledged():
    with Node() as node:
        name = topic()
        peer = node.client("who", session_expiry=3600)
        for n in range(5):
            peer.subscribe(f"{name}/{n}", qos=1)
        peer.unsubscribe(f"{name}/0")
        node.kill()
        node.start()
        sender = node.client()
        for n in range(5):
            sender.publish(f"{name}/{n}", str(n), 1)
        peer = node.client("who", clean=False, session_expiry=3600)
        assert peer.payloads(4) == ["1", "2", "3", "4"]
        peer.nothing()


def case_the_clock_of_a_session_goes_on_while_the_node_is_down():
    with Node() as node:
        for how in (node.stop, node.kill):
            name = topic()
            short = node.client("short", session_expiry=2)
            long = node.client("long", session_expiry=60)
            short.close(), long.close()
            time.sleep(LETTING_GO_SECONDS)
            how()
            time.sleep(2.2)
            node.start()
            assert not node.client("short", clean=False).connack.present
            assert node.client("long", clean=False).connack.present


def case_wills_survive_a_crash():
    """A node that fails may send wills when it is back: those of all connections that were lost."""
    with Node() as node:
        name = topic()
        for version in (4, 5):
            node.client(f"clean{version}", version, will=will_of(f"{name}/clean{version}", b"w", 1, retain=True))
        node.client("stays", session_expiry=3600, will=will_of(f"{name}/stays", b"w", 1, retain=True))
        node.client("waits", session_expiry=3600,
                    will=will_of(f"{name}/waits", b"w", 1, retain=True, will_delay=3600))
        node.client("polite", will=will_of(f"{name}/polite", b"w", 1, retain=True)).close()
        replaced = node.client("again", will=will_of(f"{name}/again", b"old", 1, retain=True))
        replaced.close()
        node.client("again", will=will_of(f"{name}/again", b"new", 1, retain=True))
        time.sleep(LETTING_GO_SECONDS)
        node.kill()
        node.start()
        reader = node.client()
        reader.subscribe(f"{name}/#", qos=1)
        want = {f"{name}/{n}": b"w" for n in ("clean4", "clean5", "stays")}
        want[f"{name}/again"] = b"new"
        got = {}
        while len(got) < len(want):
            message = reader.message()
            got[message.topic] = message.payload
        assert got == want, got
        reader.nothing()
        # Once: another crash does not send them again.
        node.kill()
        node.start()
        reader = node.client().subscribe(f"{name}/#", qos=1, handling=2)
        reader.nothing(1)
        assert not node.client("clean5", clean=False).connack.present
        assert node.client("stays", clean=False).connack.present


def case_a_node_that_stops_says_goodbye_and_sends_the_wills():
    with Node() as node:
        name = topic()
        five = node.client(will=will_of(f"{name}/five", b"w", 1, retain=True))
        four = node.client(None, 4, will=will_of(f"{name}/four", b"w", 1, retain=True))
        stays = node.client("stays", session_expiry=3600,
                            will=will_of(f"{name}/stays", b"w", 1, retain=True, will_delay=3600))
        node.stop()
        five.refused(0x8B), four.refused(), stays.refused(0x8B)
        node.start()
        reader = node.client().subscribe(f"{name}/#", qos=1)
        assert sorted(reader.message().topic for _ in range(2)) == [f"{name}/five", f"{name}/four"]
        reader.nothing()
        assert node.client("stays", clean=False).connack.present


def case_too_many_connections_are_told_so():
    with Node(BUSBAR_LIMITS_CONNECTIONS="4") as node:
        held = [node.client() for _ in range(4)]
        for version, reason in ((5, 0x97), (4, 3)):
            peer = Peer(version, node.mqtt).send(connect(version, "one-too-many"))
            got = peer.expect(CONNACK)
            assert got.reason == reason, got
            peer.gone()
        held.pop().close()
        deadline = time.monotonic() + WAIT
        while True:
            peer = Peer(5, node.mqtt).send(connect(5, "fits"))
            if peer.expect(CONNACK).reason == 0:
                break
            assert time.monotonic() < deadline
        for other in held:
            other.sync()


def case_a_client_that_publishes_too_fast_waits():
    """It is not read, so it loses nothing; its neighbours do not notice, and its keep-alive holds."""
    with Node(BUSBAR_LIMITS_PUBLISH_RATE="100") as node:
        name = topic()
        reader = node.client().subscribe(name, qos=1)
        sender = node.client(keep_alive=1)
        begun = time.monotonic()
        for n in range(500):
            sender.send(publish(5, name, str(n), 1, pid=n + 1))
        other = node.client()
        other.publish(f"{name}/other", b"x", 1)
        for n in range(500):
            assert sender.expect(PUBACK).pid == n + 1
            assert reader.message().payload == b"%d" % n
        # All of it may have come in one read; the next one then waits for as long as they should have taken.
        sender.send(publish(5, name, b"next", 1, pid=501))
        assert sender.expect(PUBACK).pid == 501
        took = time.monotonic() - begun
        assert 3 < took < 4 + LATE, took


def case_a_rush_of_connections_waits():
    """More than may come in a second wait in the listener's queue; none is refused."""
    with Node(BUSBAR_LIMITS_CONNECTION_RATE="200") as node:
        begun = time.monotonic()
        peers = [Peer(4, node.mqtt).send(connect(4, f"rush{n}")) for n in range(700)]
        for peer in peers:
            assert peer.expect(CONNACK).reason == 0
        assert 2 < time.monotonic() - begun < 3 + LATE
        for peer in peers:
            peer.sync()


def case_two_thousand_connections():
    """Idle ones cost little, and those that talk among them are served."""
    with Node() as node:
        name = topic()
        resident = lambda: int(next(  # noqa: E731
            line for line in open(f"/proc/{node.process.pid}/status") if line.startswith("VmRSS")).split()[1])
        before = resident()
        peers = []
        for _ in range(2000):
            peer = Peer(5, node.mqtt)
            peer.send(connect(5, "", keep_alive=0))
            peers.append(peer)
        for peer in peers:
            assert peer.expect(CONNACK).reason == 0
        per_connection = (resident() - before) * 1024 / len(peers)
        assert per_connection < 16 * 1024, f"{per_connection:.0f} bytes a connection"
        readers = peers[::100]
        for peer in readers:
            peer.subscribe(name, qos=1)
        for n in range(20):
            peers[50].publish(name, str(n), 1)
        for peer in readers:
            assert peer.payloads(20) == [str(n) for n in range(20)]
        for peer in peers:
            peer.sync()
            peer.drop()


def case_tls():
    with tempfile.TemporaryDirectory() as folder:
        cert, key = f"{folder}/cert.pem", f"{folder}/key.pem"
        made = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"], capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        port = free_port()
        settings = {"BUSBAR_MQTT_TLS_LISTEN": f"127.0.0.1:{port}", "BUSBAR_MQTT_TLS_CERT": cert,
                    "BUSBAR_MQTT_TLS_KEY": key}
        with Node(**settings) as node:
            name = topic()
            reader = node.client().subscribe(name, qos=2)
            for version in ("mqttv311", "mqttv5"):
                for qos in range(3):
                    sent = subprocess.run(
                        ["mosquitto_pub", "-h", "localhost", "-p", str(port), "--cafile", cert, "-V", version,
                         "-t", name, "-q", str(qos), "-m", f"{version} {qos}"],
                        capture_output=True, text=True, timeout=WAIT)
                    assert sent.returncode == 0, sent.stderr
                    assert reader.message().payload.decode() == f"{version} {qos}"
            # Who does not know the certificate does not send; what is no TLS hurts nobody.
            sent = subprocess.run(
                ["mosquitto_pub", "-h", "localhost", "-p", str(port), "--capath", "/etc/ssl/certs", "-t", name,
                 "-q", "1", "-m", "no"], capture_output=True, text=True, timeout=WAIT)
            assert sent.returncode != 0
            with socket.create_connection(("127.0.0.1", port), 10) as plain:
                plain.sendall(connect(4, "plain"))
                while plain.recv(4096):
                    pass
            # A large message takes many records.
            big = Path(folder) / "big"
            big.write_bytes(bytes(range(256)) * 3000)
            sent = subprocess.run(
                ["mosquitto_pub", "-h", "localhost", "-p", str(port), "--cafile", cert, "-t", name, "-q", "1",
                 "-f", str(big)], capture_output=True, text=True, timeout=WAIT)
            assert sent.returncode == 0, sent.stderr
            assert reader.message().payload == big.read_bytes()
            reader.nothing()


def add_user(node, login=None, **user):
    headers = {"Content-Type": "application/json"}
    if login:
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{node.http}/api/v1/users", json.dumps(user).encode(), headers)
    with urllib.request.urlopen(request, timeout=WAIT) as answer:
        assert answer.status == 201, answer.status


def case_users_and_what_they_may():
    with Node() as node:
        mark = topic()
        # A login that is no longer needed for anything ends: there are users now.
        early = node.client(session_expiry=60)
        add_user(node, name="boss", password="boss-password", role="admin")
        early.refused(0x87)
        login = "boss:boss-password"
        rules = {"publish": [f"{mark}/out/+"], "subscribe": [f"{mark}/in/#"]}
        add_user(node, login, name="meter", password="meter-password", role="operator", rules=rules)
        add_user(node, login, name="looker", password="looker-password", role="viewer")

        for version in (4, 5):
            def refusal(**how):
                peer = Peer(version, node.mqtt).send(connect(version, "who", **how))
                got = peer.expect(CONNACK)
                peer.gone()
                return got.reason

            bad, none = (0x86, 0x87) if version == 5 else (4, 5)
            assert refusal() == none
            assert refusal(username="meter") in (bad, none)
            assert refusal(username="meter", password=b"wrong-password") == bad
            assert refusal(username="nobody", password=b"meter-password") == bad
            assert refusal(username="meter", password=b"\xff\xfe") == bad
            who = {"username": "meter", "password": b"meter-password"}
            # A will is a publish: it needs the right to it.
            assert refusal(will=will_of(f"{mark}/in/x", b"w"), **who) == none
            boss = node.client(None, version, username="boss", password=b"boss-password")
            boss.subscribe(f"{mark}/#", qos=1)
            meter = node.client(None, version, will=will_of(f"{mark}/out/will", b"w", 1), **who)
            refused = 0x87 if version == 5 else 0x80
            meter.subscribe(f"{mark}/in/a", f"{mark}/out/a", "#", f"{mark}/in/#", f"$share/g/{mark}/x", qos=1,
                            codes=[1, refused, 1, 1, refused])
            boss.publish(f"{mark}/in/a", b"for the meter", 1)
            boss.publish(f"{mark}/other", b"not for the meter", 1)
            boss.payloads(2)
            assert meter.message().payload == b"for the meter"
            meter.nothing()
            meter.publish(f"{mark}/out/a", b"allowed", 1)
            assert boss.message().payload == b"allowed"
            meter.publish(f"{mark}/in/a", b"dropped", 0).sync()
            if version == 5:
                meter.publish(f"{mark}/in/a", b"no", 1, reason=0x87)
                meter.publish(f"{mark}/in/a", b"no", 2, reason=0x87)
                meter.publish(f"{mark}/out/b", b"still here", 1)
                assert boss.message().payload == b"still here"
                meter.drop()
            else:
                # 3.1.1 has no word for it: the connection ends.
                meter.send(publish(4, f"{mark}/in/a", b"no", 1)).refused()
            assert boss.message().payload == b"w"
            looker = node.client(None, version, username="looker", password=b"looker-password")
            looker.subscribe(f"{mark}/#", qos=1)
            boss.publish(f"{mark}/x", b"seen", 1)
            assert looker.message().payload == b"seen"
            looker.send(publish(version, f"{mark}/x", b"no", 1))
            if version == 5:
                assert looker.expect(PUBACK).reason == 0x87
            else:
                looker.refused()
            boss.message()
            boss.nothing().close()
        sent = subprocess.run(
            ["mosquitto_pub", "-p", str(node.mqtt), "-u", "meter", "-P", "wrong", "-t", f"{mark}/out/a", "-m", "x"],
            capture_output=True, text=True, timeout=WAIT)
        assert sent.returncode != 0, sent
        sent = subprocess.run(
            ["mosquitto_pub", "-p", str(node.mqtt), "-u", "meter", "-P", "meter-password", "-q", "1", "-t",
             f"{mark}/out/a", "-m", "x"], capture_output=True, text=True, timeout=WAIT)
        assert sent.returncode == 0, sent.stderr

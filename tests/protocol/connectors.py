#!/usr/bin/env python3
"""Runs examples/bridge-and-files with real peers: mosquitto, a small HTTP server, files. Kills the node,
takes the peers away, and compares what was sent with what is there.

    connectors.py BUSBAR [PROJECT]

The cases run in their order, on one node. The last line counts them.
"""

import csv
import http.server
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
from collections import Counter
from pathlib import Path

BUSBAR = sys.argv[1]
ROOT = Path(__file__).resolve().parents[2]
PROJECT = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "examples" / "bridge-and-files"
# Seconds for what has to come. Nothing takes as long; a machine may be slow or busy.
WAIT = 120


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def eventually(what, look, wait=WAIT):
    """Waits until `look` answers something true; says what it answered instead."""
    deadline = time.monotonic() + wait
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} does not come: {found!r}\n{node.state()}")
        time.sleep(0.05)


class Broker:
    """A mosquitto on a port and in a folder of its own."""

    def __init__(self, folder):
        self.port, self.folder, self.process = free_port(), folder, None
        (folder / "conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\n"
            f"persistence_location {folder}/\nmax_queued_messages 0\nlog_dest file {folder}/log\n"
        )
        self.start()

    def start(self):
        mosquitto = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
        self.process = subprocess.Popen([mosquitto, "-c", self.folder / "conf"], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + WAIT
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def stop(self):
        self.process.terminate()
        self.process.wait(WAIT)

    def publish(self, topic, lines, port=None):
        sent = subprocess.run(
            ["mosquitto_pub", "-p", str(port or self.port), "-t", topic, "-q", "1", "-l"],
            input="".join(line + "\n" for line in lines), text=True, capture_output=True, timeout=WAIT,
        )
        assert sent.returncode == 0, sent.stderr


class HeadOffice:
    """A subscriber in a session that the broker keeps; its lines are topic and payload."""

    def __init__(self, port):
        self.lines, subscribed = [], threading.Event()
        self.process = subprocess.Popen(
            ["stdbuf", "-oL", "mosquitto_sub", "-p", str(port), "-t", "site-7/#", "-q", "1", "-v", "-d",
             "-i", "head-office", "-c"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )

        def read():
            for line in self.process.stdout:
                if line.startswith("Subscribed"):
                    subscribed.set()
                elif line.startswith("site-7/"):
                    self.lines.append(line.rstrip("\n").split(" ", 1))

        threading.Thread(target=read, daemon=True).start()
        assert subscribed.wait(WAIT), "mosquitto_sub was not subscribed"

    def kilowatts(self):
        return [json.loads(payload)["kw"] for _, payload in list(self.lines)]


class Service:
    """The web service; it can be away, refuse a row, or refuse everybody."""

    def __init__(self):
        self.port, self.taken, self.keys = free_port(), [], Counter()
        self.refused_word, self.status, self.server = None, 200, None
        self.start()

    def start(self):
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                status = service.status
                if status == 200 and service.refused_word and service.refused_word in body:
                    status = 400
                if status == 200:
                    service.keys[self.headers["Idempotency-Key"]] += 1
                    service.taken += json.loads(body)
                said = b"that is no article" if status == 400 else b"said"
                self.send_response(status)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            allow_reuse_address = True
            daemon_threads = True

            def process_request(self, request, address):
                service.sockets.append(request)
                super().process_request(request, address)

            def handle_error(self, *_):
                pass

        self.sockets = []
        self.server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        for each in self.sockets:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def articles(self):
        return [row["article"] for row in list(self.taken) if "article" in row]

    def alarms(self):
        return [row["kw"] for row in list(self.taken) if "kw" in row]


class Node:
    """The node under test, on ports and a data folder of its own."""

    def __init__(self, folder, project):
        self.folder, self.project = folder, project
        self.http, self.mqtt = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http}"
        self.log = open(folder / "node.out", "a+")
        self.process = None

    def start(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith("BUSBAR_")}
        env |= {
            "BUSBAR_DATA_DIR": str(self.folder / "data"),
            "BUSBAR_HTTP_LISTEN": f"127.0.0.1:{self.http}",
            "BUSBAR_MQTT_LISTEN": f"127.0.0.1:{self.mqtt}",
            "BUSBAR_AMQP_LISTEN": "off",
        }
        self.process = subprocess.Popen(
            [BUSBAR, "run", str(self.project)], env=env, stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=1) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.02)
        self.log.seek(0)
        raise RuntimeError(f"the node did not become ready:\n{self.log.read()[-3000:]}")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(WAIT)

    def stop(self):
        self.process.terminate()
        try:
            return self.process.wait(WAIT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("the node does not end") from None

    def api(self, path, method="GET", body=None):
        request = urllib.request.Request(
            f"{self.url}/api/v1/{path}", method=method, data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            return json.load(answer)

    def connection(self, name):
        return next(c for c in self.api("connections")["connections"] if c["name"] == name)

    def flow(self, name):
        return self.api(f"flows/{name}")

    def state(self):
        try:
            return json.dumps(self.api("connections"), indent=1)[-4000:]
        except OSError as why:
            return f"the node does not answer: {why}"


def archive():
    """The archive's rows; every line must be whole."""
    text = (project / "out" / "readings.csv").read_text()
    assert text.endswith("\n"), "a torn line"
    rows = list(csv.reader(text.splitlines()))
    assert rows[0] == ["meter", "time", "kw"], rows[0]
    assert all(len(row) == 3 for row in rows), [row for row in rows if len(row) != 3][:3]
    return rows[1:]


def journal():
    text = (project / "out" / "deliveries.ndjson").read_text()
    assert text == "" or text.endswith("\n"), "a torn line"
    return [json.loads(line) for line in text.splitlines()]


def drop(name, rows, header=True):
    """Appends to a file of the inbox folder, as its owner does: line by line."""
    path = project / "in" / name
    with open(path, "a") as file:
        if header and file.tell() == 0:
            file.write("article,pieces\n")
        for article, pieces in rows:
            file.write(f"{article},{pieces}\n")


def case_what_is_there_at_the_start_is_read():
    eventually("two deliveries", lambda: exists("deliveries.ndjson") and len(journal()) == 2)
    assert journal() == [{"article": "bolt", "pieces": 40}, {"article": "nut, large", "pieces": 12}]
    eventually("the service's", lambda: service.articles() == ["bolt", "nut, large"])


def exists(name):
    return (project / "out" / name).exists()


def case_a_reading_goes_everywhere_it_should():
    broker.publish("meter/m1/reading", ['{"kw":3.2}', '{"kw":6.5}'])
    eventually("both in the archive", lambda: exists("readings.csv") and len(archive()) == 2)
    assert [(row[0], row[2]) for row in archive()] == [("m1", "3.2"), ("m1", "6.5")]
    eventually("both at head office", lambda: len(office.lines) == 2)
    topic, payload = office.lines[1]
    assert topic == "site-7/plant/meter/m1/reading" and json.loads(payload)["kw"] == 6.5, office.lines
    eventually("the alarm", lambda: service.alarms() == [6.5])


def case_the_api_tells_how_connections_are():
    expected = {
        "plant": ("mqtt", "source", None),
        "inbox-folder": ("file", "source", None),
        "archive": ("file", "sink", "exactly-once"),
        "journal": ("file", "sink", "exactly-once"),
        "head-office": ("mqtt", "sink", "at-least-once"),
        "service": ("http", "sink", "at-least-once"),
    }
    there = {c["name"]: (c["kind"], c["direction"], c["guarantee"]) for c in node.api("connections")["connections"]}
    assert there == expected, there
    assert all(c["state"] == "running" and not c["error"] for c in node.api("connections")["connections"]), node.state()
    # A rate is that of the last second, so look while readings come.
    wanted, seen = {"plant", "archive", "head-office"}, set()
    bursts = [threading.Thread(target=broker.publish, args=("meter/m1/reading", ['{"kw":1}'] * 20)) for _ in range(10)]
    for burst in bursts:
        burst.start()
        for _ in range(5):
            seen |= {c["name"] for c in node.api("connections")["connections"] if c["rate"] > 0}
            time.sleep(0.08)
        burst.join()
    assert wanted <= seen, f"no rate of {wanted - seen}"
    eventually("all", lambda: node.connection("plant")["in"] == 202)
    eventually("out", lambda: node.connection("archive")["out"] == 202)
    eventually("rest", lambda: node.connection("plant")["rate"] == 0, 10)


def case_a_row_that_is_refused_becomes_a_dead_letter():
    service.refused_word = "counterfeit"
    drop("second.csv", [("screw", 1), ("counterfeit", 2), ("washer", 3)])
    eventually("the neighbours", lambda: "washer" in service.articles())
    assert "counterfeit" not in service.articles()
    eventually("all in the journal", lambda: [r["pieces"] for r in journal()][2:] == [1, 2, 3])
    letters = eventually("the dead letter", lambda: node.api("dead-letters")["letters"])
    assert len(letters) == 1 and "no article" in json.dumps(letters[0]), letters
    service.refused_word = None
    sent = node.api("dead-letters/redrive", "POST", {})
    eventually("the row after all", lambda: service.articles().count("counterfeit") == 1)
    assert len(journal()) == 5, f"the journal had it before: {sent}"


def case_a_service_that_is_away_holds_nobody_else_up():
    before = len(archive())
    service.stop()
    broker.publish("meter/m2/reading", [json.dumps({"kw": 100 + n}) for n in range(50)])
    eventually("the archive", lambda: len(archive()) == before + 50)
    eventually("retrying", lambda: node.connection("service")["state"] == "retrying")
    why = node.connection("service")["error"]
    assert why["class"] == "transient", why
    service.start()
    eventually("all alarms, in order", lambda: service.alarms()[1:] == [100 + n for n in range(50)])
    eventually("running", lambda: node.connection("service")["state"] == "running")


def case_a_service_that_lets_nobody_in_stops_the_flow():
    service.status = 401
    broker.publish("meter/m2/reading", ['{"kw":200}'])
    flow = eventually("stopping", lambda: (f := node.flow("alarms"))["state"] == "stopped" and f)
    assert "401" in json.dumps(flow["error"]), flow["error"]
    service.status = 200
    node.api("flows/alarms/resume", "POST", {})
    eventually("the alarm", lambda: service.alarms()[-1:] == [200])


def case_a_broker_that_is_away_gets_everything_when_it_is_back():
    before = len(office.lines)
    broker.stop()
    for name in ("plant", "head-office"):
        # A reading that is published here makes the bridge notice.
        broker.publish("plant/meter/m3/reading", [json.dumps({"kw": n / 100}) for n in range(50)], node.mqtt)
        eventually(f"{name} is retrying", lambda: node.connection(name)["state"] == "retrying")
    time.sleep(1)
    broker.start()
    eventually("100 readings at head office", lambda: len(office.lines) - before >= 100)
    there = Counter(office.kilowatts()[before:])
    assert set(there) == {n / 100 for n in range(50)}, there
    broker.publish("meter/m1/reading", ['{"kw":4.5}'])
    eventually("the source goes on", lambda: archive()[-1][2] == "4.5")
    eventually("all running", lambda: all(c["state"] == "running" for c in node.api("connections")["connections"]))


ROUNDS, READINGS, DELIVERIES = 6, 400, 300


def case_kills_lose_nothing_and_tear_nothing():
    chance = random.Random(7)
    archived, delivered = len(archive()), len(journal())
    sent = []
    for turn in range(ROUNDS):
        readings = [1000 + turn * READINGS + n for n in range(READINGS)]
        sent += readings
        rows = [(f"part-{turn}-{n}", n) for n in range(DELIVERIES)]
        dropping = threading.Thread(target=drop, args=(f"killed-{turn % 2}.csv", rows))
        publishing = threading.Thread(
            target=broker.publish, args=("meter/m4/reading", [json.dumps({"kw": n}) for n in readings]),
        )
        publishing.start()
        dropping.start()
        time.sleep(chance.uniform(0.0, 0.4))
        node.kill()
        publishing.join()
        dropping.join()
        node.start()
        # Torn lines may stand there until the sink is opened again; it is, once rows come.
        if turn % 2:
            time.sleep(chance.uniform(0.0, 0.3))
    wanted = {float(n) for n in sent}
    eventually("all in the archive", lambda: wanted <= {float(row[2]) for row in tolerant(archive)})
    eventually("all at head office", lambda: wanted <= set(office.kilowatts()))
    eventually("all alarms", lambda: wanted <= set(service.alarms()))
    parts = [f"part-{turn}-{n}" for turn in range(ROUNDS) for n in range(DELIVERIES)]
    eventually("all deliveries", lambda: len(tolerant(journal)) >= delivered + len(parts))
    eventually("all deliveries at the service", lambda: set(parts) <= set(service.articles()))
    time.sleep(1)
    # From a file through the log to a file: each once, and those of one file in order.
    there = [row["article"] for row in journal()[delivered:]]
    assert Counter(there) == Counter(parts), (Counter(there) - Counter(parts)).most_common(3)
    for file in range(2):
        own = [p for p in parts if int(p.split("-")[1]) % 2 == file]
        assert [p for p in there if p in set(own)] == own, "out of order"
    # The bridge may bring a reading again, never too few; what it brought, the archive has once.
    events = int(sql("select count(*) as n from reading")[0][0])
    eventually("as many as there are events", lambda: len(archive()) == events)
    assert events >= archived + len(sent)


def tolerant(read):
    """While a killed writer's file has not been opened again its last line may be torn."""
    try:
        return read()
    except (AssertionError, ValueError):
        return []


def sql(text):
    return node.api("sql", "POST", {"sql": text})["rows"]


def case_a_rotated_archive_is_begun_anew():
    path = project / "out" / "readings.csv"
    old = len(archive())
    path.rename(path.with_suffix(".csv.1"))
    broker.publish("meter/m5/reading", ['{"kw":0.5}'])
    eventually("a new file", lambda: exists("readings.csv") and [r[2] for r in archive()] == ["0.5"])
    assert len(path.with_suffix(".csv.1").read_text().splitlines()) == old + 1


def case_the_node_ends_in_good_order_and_goes_on():
    assert node.stop() == 0
    broker.publish("meter/m6/reading", ['{"kw":0.25}'])
    drop("third.csv", [("rivet", 9)])
    node.start()
    eventually("what came meanwhile", lambda: archive()[-1][2] == "0.25" and journal()[-1]["article"] == "rivet")
    counted = [row["article"] for row in journal()]
    assert counted.count("rivet") == 1 and counted.count("bolt") == 1, Counter(counted).most_common(3)


def prepare(folder):
    """A copy of the project whose peers are ours."""
    target = folder / "project"
    shutil.copytree(PROJECT, target, ignore=shutil.ignore_patterns("out"))
    for path in (target / "connections").glob("*.yaml"):
        text = path.read_text()
        text = text.replace("127.0.0.1:1884", f"127.0.0.1:{broker.port}")
        path.write_text(text.replace("127.0.0.1:8090", f"127.0.0.1:{service.port}"))
    return target


def main():
    passed = failed = 0
    for name, case in [(n, f) for n, f in globals().items() if n.startswith("case_")]:
        try:
            case()
        except Exception as why:  # noqa: BLE001 - one broken case must not hide the others
            failed += 1
            print(f"FAILED {name[5:]}: {why.__class__.__name__}: {why}")
            traceback.print_exc()
        else:
            passed += 1
            print(f"ok {name[5:]}", flush=True)
    if failed:
        node.log.seek(0)
        print(re.sub(r"\x1b\[[0-9;]*m", "", node.log.read())[-4000:])
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    home = Path(tempfile.mkdtemp(prefix="busbar-connectors-"))
    (home / "broker").mkdir()
    broker, service = Broker(home / "broker"), Service()
    project = prepare(home)
    node, office = Node(home, project), HeadOffice(broker.port)
    try:
        node.start()
        code = main()
    finally:
        for process in (node.process, office.process, broker.process):
            if process and process.poll() is None:
                process.kill()
                process.wait()
        shutil.rmtree(home, ignore_errors=True)
    sys.exit(code)

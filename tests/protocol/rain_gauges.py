#!/usr/bin/env python3
"""Runs examples/rain-gauges with real clients: gauges on MQTT (paho) and HTTP (curl), in every spelling of topics, on AMQP
(pika), TCP and UDP; plug-ins judge, store and name their readings.

    rain_gauges.py BUSBAR
"""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import paho.mqtt.client as mqtt
import pika

BUSBAR = sys.argv[1]
ROOT = Path(__file__).resolve().parents[2]
# Seconds for what has to come. Nothing takes as long; a machine may be slow or busy.
WAIT = 120


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def eventually(what, look):
    deadline = time.monotonic() + WAIT
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} does not come"
        time.sleep(0.05)


class Client:
    """A paho client, connected."""

    def __init__(self, name, port):
        self.messages, self.ready = [], threading.Event()
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5
        )
        self.client.on_connect = lambda *_: self.ready.set()
        self.client.on_message = self.received
        # The tag `quality` of messages, by topic and level.
        self.tags = {}
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self.ready.wait(WAIT), f"{name} is not let in"

    def received(self, _client, _user, message):
        payload = json.loads(message.payload)
        for name, value in getattr(message.properties, "UserProperty", []):
            if name == "quality":
                self.tags[(message.topic, payload.get("level_mm"))] = value
        self.messages.append((message.topic, payload))

    def subscribe(self, *filters):
        done = threading.Event()
        self.client.on_subscribe = lambda *_: done.set()
        self.client.subscribe([(f, mqtt.SubscribeOptions(qos=1)) for f in filters])
        assert done.wait(WAIT)

    def publish(self, topic, payload):
        text = payload if isinstance(payload, str) else json.dumps(payload)
        self.client.publish(topic, text, qos=1).wait_for_publish(WAIT)

    def has(self, topic, level):
        return [m for m in self.messages if m[0] == topic and m[1].get("level_mm") == level]


def main():
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        shutil.copytree(ROOT / "examples" / "rain-gauges", project)
        http, port, amqp = free_port(), free_port(), free_port()
        tcp, udp = free_port(), free_port(socket.SOCK_DGRAM)
        for name, given, own in [("loggers", 9471, tcp), ("pulses", 9472, udp)]:
            file = project / "gateways" / f"{name}.yaml"
            file.write_text(file.read_text().replace(f":{given}", f":{own}"))
        environment = {
            "PATH": "/usr/bin:/bin",
            "BUSBAR_HTTP_LISTEN": f"127.0.0.1:{http}",
            "BUSBAR_MQTT_LISTEN": f"127.0.0.1:{port}",
            "BUSBAR_AMQP_LISTEN": f"127.0.0.1:{amqp}",
            "BUSBAR_DATA_DIR": f"{folder}/data",
        }
        node = subprocess.Popen([BUSBAR, "run", str(project)], env=environment)
        try:
            run(http, port, amqp, tcp, udp)
        finally:
            node.terminate()
            node.wait(WAIT)
    print("rain gauges: ok")


def send_line(tcp, reading):
    """A data logger: one line, and the answer to it."""
    with socket.create_connection(("127.0.0.1", tcp), WAIT) as logger:
        logger.sendall(json.dumps(reading).encode() + b"\n")
        with logger.makefile() as answers:
            answer = answers.readline().strip()
    assert answer == "ok", answer


def send_confirmed(amqp, key, reading):
    """A gauge on AMQP: the node confirms what is on disk."""
    connection = pika.BlockingConnection(
        pika.ConnectionParameters("127.0.0.1", amqp, socket_timeout=WAIT, blocked_connection_timeout=WAIT)
    )
    channel = connection.channel()
    channel.confirm_delivery()
    channel.basic_publish("amq.topic", key, json.dumps(reading))
    connection.close()


def run(http, port, amqp, tcp, udp):
    def is_ready():
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{http}/readyz").status == 200
        except OSError:
            return False

    def rows(query):
        request = urllib.request.Request(
            f"http://127.0.0.1:{http}/api/v1/sql",
            data=json.dumps({"sql": query}).encode(),
            headers={"Content-Type": "application/json"},
        )
        return json.load(urllib.request.urlopen(request))["rows"]

    eventually("the node", is_ready)
    watcher = Client("watcher", port)
    watcher.subscribe("alarm/#", "copy/#", "checked/#", "intensity/#")
    legacy = Client("legacy", port)
    legacy.subscribe("$as/_/alarm/+/rain")
    gauge = Client("g7", port)
    gauge.publish(
        "register/g7/station",
        '<station><name>East dam</name><limits rain_mm="50"/></station>',
    )
    eventually("the register", lambda: rows("select client from stations"))

    # Every spelling is the same topic; the alarm comes within a second.
    for level, topic in [(61, "gauge/g7/rain"), (62, "gauge_g7_rain"), (63, "gauge*g7*rain"), (64, "rain"), (65, "//rain")]:
        began = time.monotonic()
        gauge.publish(topic, {"level_mm": level})
        eventually(f"the alarm of {topic}", lambda: watcher.has("alarm/g7/rain", level))
        print(f"{topic}: alarm after {(time.monotonic() - began) * 1000:.0f} ms")
        eventually("the alarm in another spelling", lambda: legacy.has("alarm_g7_rain", level))
    binary = "BWdhdWdlAmc3BHJhaW4="  # 5 gauge 2 g7 4 rain
    for level, header in [(71, "Busbar-Topic: gauge#g7#rain"), (72, f"Busbar-Topic-Binary: {binary}")]:
        subprocess.run(
            ["curl", "-sf", "-H", header, "-H", "Content-Type: application/json",
             "-d", json.dumps({"level_mm": level}), f"http://127.0.0.1:{http}/api/v1/events"],
            check=True, stdout=subprocess.DEVNULL,
        )
        eventually(f"the alarm of {header}", lambda: watcher.has("alarm/g7/rain", level))
    # Gauges on TCP, UDP and AMQP.
    send_line(tcp, {"gauge": "g7", "level_mm": 81})
    eventually("the alarm of a gauge on TCP", lambda: watcher.has("alarm/g7/rain", 81))
    send_confirmed(amqp, "gauge.g7.rain", {"level_mm": 83})
    eventually("the alarm of a gauge on AMQP", lambda: watcher.has("alarm/g7/rain", 83))

    def datagram():
        # One may be lost, so it is sent until it has come.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as pulse:
            pulse.sendto(json.dumps({"gauge": "g7", "level_mm": 82}).encode(), ("127.0.0.1", udp))
        return watcher.has("alarm/g7/rain", 82)

    eventually("the alarm of a gauge on UDP", datagram)

    # Plug-ins: JavaScript judges and reads the register, Java names the intensity, Python stores by the hour.
    def judged(level, quality, station):
        found = watcher.has("checked/g7/rain", level)
        return found and found[0][1]["station"] == station and watcher.tags[("checked/g7/rain", level)] == quality

    gauge.publish("gauge/g7/rain", {"level_mm": -3})
    gauge.publish("gauge/g7/rain", {"level_mm": 34})
    eventually("a good reading", lambda: judged(34, "good", "East dam"))
    eventually("a bad reading", lambda: judged(-3, "bad", "East dam"))
    eventually("the intensity", lambda: [
        m for m in watcher.has("intensity/g7/rain", 34) if m[1]["intensity"] == "heavy"
    ])
    eventually("the reading of the hour", lambda: [
        row for row in rows("select level_mm from hours where gauge = 'g7'") if 34 in (row if isinstance(row, list) else row.values())
    ])
    log = json.load(urllib.request.urlopen(f"http://127.0.0.1:{http}/api/v1/plugins/quality/log"))["lines"]
    assert any(line["level"] == "warning" and "g7 measures -3 mm" in line["text"] for line in log), log

    gauge.publish("gauge/g7/rain", {"level_mm": 12})
    gauge.publish("gauge/g7/rain", {"level_mm": 99, "status": "test"})

    # Tags relay and store.
    gauge.publish("rain", {"level_mm": 1, "TAG": ["DB", "relay_to_copy/g7", "relay_to_copy/all"]})
    for topic in ("copy/g7", "copy/all"):
        eventually(f"the copy on {topic}", lambda: watcher.has(topic, 1))
    stored = eventually("the stored reading", lambda: rows("select level_mm from readings"))
    assert len(stored) == 1, stored
    gauge.publish("rain", {"level_mm": 2, "TAG": {"DB": {"nested": 1}}})
    eventually("the dead letter", lambda: [
        d for d in json.load(urllib.request.urlopen(f"http://127.0.0.1:{http}/api/v1/dead-letters"))["letters"]
        if d["code"] == "event.tags-shape"
    ])
    gauge.publish("gauge/g8/rain", {"level_mm": 3, "status": "fault"})
    eventually("the fault", lambda: rows("select client from faults where client = 'g8'"))
    assert not watcher.has("alarm/g7/rain", 12) and not watcher.has("alarm/g7/rain", 99)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Drives a running node with other people's clients: mosquitto's commands, the Paho library, curl.

    run.py HTTP_URL MQTT_PORT BUSBAR

Each function whose name begins with `case_` is one case; a new case is a new function.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
import uuid

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

HTTP, PORT, BUSBAR = sys.argv[1], int(sys.argv[2]), sys.argv[3]
# Seconds for what has to come. Nothing takes as long; a machine may be slow or busy.
WAIT = 60


def topic(name):
    """A topic that no other case uses."""
    return f"case/{uuid.uuid4().hex[:8]}/{name}"


def mosquitto_pub(*args, stdin=None):
    return subprocess.run(
        ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(PORT), *args],
        input=stdin, capture_output=True, text=True, timeout=WAIT,
    )


class Subscriber:
    """A mosquitto_sub whose lines are read as they come."""

    def __init__(self, *args):
        self.lines, self.subscribed = [], threading.Event()
        self.process = subprocess.Popen(
            ["stdbuf", "-oL", "mosquitto_sub", "-h", "127.0.0.1", "-p", str(PORT), "-d", *args],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            if line.startswith("Subscribed"):
                self.subscribed.set()
            elif not line.startswith("Client "):
                self.lines.append(line.rstrip("\n"))


def mosquitto_sub(*args):
    """Starts a subscriber and returns it once its subscription is acknowledged."""
    subscriber = Subscriber(*args)
    if not subscriber.subscribed.wait(WAIT):
        subscriber.process.kill()
        raise AssertionError(f"mosquitto_sub was not subscribed: {subscriber.lines}")
    return subscriber


def printed(subscriber):
    """What a subscriber printed until it ended by itself, without its debug lines."""
    try:
        subscriber.process.wait(WAIT)
    except subprocess.TimeoutExpired:
        subscriber.process.kill()
        raise AssertionError(f"mosquitto_sub still waits; it has {subscriber.lines}") from None
    subscriber.reader.join(WAIT)
    return subscriber.lines


class Client:
    """A Paho client whose callbacks end up in a queue."""

    def __init__(self, version=paho.MQTTv5, client_id=None, clean=True, expiry=None, will=None, **connect):
        self.messages, self.events = queue.Queue(), queue.Queue()
        how = {} if version == paho.MQTTv5 else {"clean_session": clean}
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id or uuid.uuid4().hex, protocol=version,
            transport=connect.pop("transport", "tcp"), **how,
        )
        self.client.on_message = lambda c, u, m: self.messages.put(m)
        self.client.on_connect = lambda c, u, f, r, p: self.events.put(("connect", f, r, p))
        self.client.on_subscribe = lambda c, u, i, r, p: self.events.put(("subscribe", r, p))
        self.client.on_publish = lambda c, u, i, r, p: self.events.put(("publish", i, r, p))
        self.client.on_disconnect = lambda c, u, f, r, p: self.events.put(("disconnect", r, p))
        if will:
            self.client.will_set(**will)
        if version == paho.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            if expiry is not None:
                properties.SessionExpiryInterval = expiry
            connect["properties"] = properties
            connect["clean_start"] = clean
        self.client.connect("127.0.0.1", connect.pop("port", PORT), keepalive=30, **connect)
        self.client.loop_start()
        self.connack = self.expect("connect")
        assert not self.connack[2].is_failure, self.connack

    def expect(self, kind):
        while True:
            event = self.events.get(timeout=WAIT)
            if event[0] == kind:
                return event

    def subscribe(self, *args, **kwargs):
        self.client.subscribe(*args, **kwargs)
        return self.expect("subscribe")

    def publish(self, *args, **kwargs):
        self.client.publish(*args, **kwargs)
        return self.expect("publish")

    def message(self, wait=WAIT):
        return self.messages.get(timeout=wait)

    def nothing(self, wait=0.3):
        try:
            message = self.messages.get(timeout=wait)
        except queue.Empty:
            return
        raise AssertionError(f"unexpected message on {message.topic}: {message.payload!r}")

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()

    def break_off(self):
        """Ends the connection as a lost network does."""
        self.client._sock.close()
        self.client.loop_stop()


def sql(text):
    request = urllib.request.Request(
        f"{HTTP}/api/v1/sql", json.dumps({"sql": text}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=WAIT) as answer:
        return json.load(answer)["rows"]


def case_mosquitto_publishes_and_subscribes_at_every_qos():
    for version in ("mqttv311", "mqttv5"):
        for qos in "012":
            name = topic("q" + qos)
            reader = mosquitto_sub("-V", version, "-t", name, "-q", qos, "-C", "1")
            sent = mosquitto_pub("-V", version, "-t", name, "-q", qos, "-m", f"at {qos}")
            assert sent.returncode == 0, sent.stderr
            assert printed(reader) == [f"at {qos}"]


def case_mosquitto_lines_arrive_in_order():
    name = topic("lines")
    reader = mosquitto_sub("-t", name, "-q", "1", "-C", "500")
    lines = [f"line {n}" for n in range(500)]
    sent = mosquitto_pub("-t", name, "-q", "1", "-l", stdin="\n".join(lines) + "\n")
    assert sent.returncode == 0, sent.stderr
    assert printed(reader) == lines


def case_mosquitto_retained_value_is_replaced_and_removed():
    name = topic("retained")
    for text in ("old", "new"):
        assert mosquitto_pub("-t", name, "-q", "1", "-r", "-m", text).returncode == 0
    assert printed(mosquitto_sub("-t", name, "-C", "1")) == ["new"]
    assert mosquitto_pub("-t", name, "-q", "1", "-r", "-n").returncode == 0
    reader = Client()
    reader.subscribe(name, qos=1)
    reader.nothing()
    reader.close()


def case_an_acknowledged_event_is_in_the_table_of_its_stream():
    name = topic("sql")
    assert mosquitto_pub("-t", name, "-q", "1", "-m", '{"kw":3.2}').returncode == 0
    rows = sql(f"select topic, payload from inbox where topic = '{name}'")
    assert rows == [[name, '{"kw":3.2}']], rows
    asked = subprocess.run(
        [BUSBAR, "sql", "--json", f"select count(*) as n from inbox where topic = '{name}'"],
        env=dict(os.environ, BUSBAR_HTTP_LISTEN=HTTP.removeprefix("http://")),
        capture_output=True, text=True, timeout=WAIT,
    )
    assert asked.returncode == 0, asked.stderr
    assert '1' in asked.stdout, asked.stdout


def case_user_properties_become_tags_and_come_out_again():
    name = topic("tags")
    reader = mosquitto_sub("-V", "mqttv5", "-t", name, "-C", "1", "-F", "%P")
    sent = mosquitto_pub("-V", "mqttv5", "-t", name, "-q", "1", "-m", "x",
                         "-D", "publish", "user-property", "site", "north")
    assert sent.returncode == 0, sent.stderr
    assert printed(reader) == ["site:north"]
    assert sql(f"select tags['site'] from inbox where topic = '{name}'") == [["north"]]


def case_shared_subscription_spreads_without_repeating():
    name = topic("shared")
    members = [Client() for _ in range(3)]
    for member in members:
        member.subscribe(f"$share/g/{name}", qos=1)
    sender = Client()
    for n in range(90):
        sender.publish(name, str(n), qos=1)
    got, deadline = [], time.monotonic() + WAIT
    while len(got) < 90 and time.monotonic() < deadline:
        for index, member in enumerate(members):
            while not member.messages.empty():
                got.append((int(member.message().payload), index))
        time.sleep(0.02)
    assert sorted(n for n, _ in got) == list(range(90)), sorted(got)
    assert len({index for _, index in got}) > 1, "one member got everything"
    for client in (*members, sender):
        client.close()


def case_persistent_session_receives_what_it_missed():
    for version in (paho.MQTTv311, paho.MQTTv5):
        name, who = topic("offline"), uuid.uuid4().hex
        how = {"version": version, "client_id": who, "expiry": 3600 if version == paho.MQTTv5 else None}
        first = Client(clean=True if version == paho.MQTTv5 else False, **how)
        first.subscribe(name, qos=2)
        first.close()
        sender = Client()
        for qos in (1, 2):
            sender.publish(name, f"missed {qos}", qos=qos)
        again = Client(clean=False, **how)
        assert again.connack[1].session_present
        assert {again.message().payload for _ in range(2)} == {b"missed 1", b"missed 2"}
        again.nothing()
        again.close()
        sender.close()


def case_will_is_sent_when_the_connection_breaks_and_not_when_it_ends():
    name = topic("will")
    reader = Client()
    reader.subscribe(name, qos=1)
    broken = Client(will={"topic": name, "payload": "gone", "qos": 1})
    broken.break_off()
    assert reader.message().payload == b"gone"
    polite = Client(will={"topic": name, "payload": "gone", "qos": 1})
    polite.close()
    reader.nothing()
    reader.close()


def case_will_delay_is_cancelled_by_coming_back():
    name, who = topic("delay"), uuid.uuid4().hex
    reader = Client()
    reader.subscribe(name, qos=1)
    delay = Properties(PacketTypes.WILLMESSAGE)
    delay.WillDelayInterval = 2
    will = {"topic": name, "payload": "late", "qos": 1, "properties": delay}
    Client(client_id=who, expiry=60, will=will).break_off()
    back = Client(client_id=who, expiry=60, clean=False, will=will)
    reader.nothing(2.5)
    back.break_off()
    begun = time.monotonic()
    assert reader.message().payload == b"late"
    assert time.monotonic() - begun > 1
    reader.close()


def case_subscription_options():
    name = topic("options")
    client = Client()
    client.subscribe(name, options=SubscribeOptions(qos=1, noLocal=True))
    client.publish(name, "own", qos=1)
    client.nothing()
    client.publish(name, "kept", qos=1, retain=True)
    client.nothing()
    other = Client()
    for handling, expected in ((0, True), (2, False), (1, False)):
        other.subscribe(name, options=SubscribeOptions(qos=1, retainHandling=handling, retainAsPublished=True))
        if expected:
            message = other.message()
            assert message.payload == b"kept" and message.retain
        else:
            other.nothing()
    client.publish(name, "again", qos=1, retain=True)
    assert other.message().retain, "retain-as-published was not honoured"
    client.publish(name, b"", qos=1, retain=True)
    client.close()
    other.close()


def case_subscription_identifier_and_message_expiry_arrive():
    name = topic("properties")
    client = Client()
    properties = Properties(PacketTypes.SUBSCRIBE)
    properties.SubscriptionIdentifier = 77
    client.subscribe(name, qos=1, properties=properties)
    sent = Properties(PacketTypes.PUBLISH)
    sent.MessageExpiryInterval = 60
    sent.ContentType, sent.ResponseTopic, sent.CorrelationData = "text/plain", "answer/here", b"\x00\xff"
    client.publish(name, "x", qos=1, properties=sent)
    got = client.message().properties
    assert got.SubscriptionIdentifier == [77]
    assert 0 < got.MessageExpiryInterval <= 60
    assert (got.ContentType, got.ResponseTopic, got.CorrelationData) == ("text/plain", "answer/here", b"\x00\xff")
    client.close()


def case_take_over_disconnects_the_older_connection():
    who = uuid.uuid4().hex
    first = Client(client_id=who)
    first.client.reconnect_delay_set(60, 60)
    second = Client(client_id=who)
    reason = first.expect("disconnect")[1]
    assert "taken over" in str(reason).lower(), reason
    first.client.loop_stop()
    second.close()


def case_websocket_speaks_the_same():
    name = topic("websocket")
    port = int(HTTP.rsplit(":", 1)[1])
    client = Client.__new__(Client)
    client.messages, client.events = queue.Queue(), queue.Queue()
    client.client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, transport="websockets")
    client.client.ws_set_options(path="/mqtt")
    client.client.on_message = lambda c, u, m: client.messages.put(m)
    client.client.on_connect = lambda c, u, f, r, p: client.events.put(("connect", f, r, p))
    client.client.on_subscribe = lambda c, u, i, r, p: client.events.put(("subscribe", r, p))
    client.client.on_publish = lambda c, u, i, r, p: client.events.put(("publish", i, r, p))
    client.client.connect("127.0.0.1", port)
    client.client.loop_start()
    client.expect("connect")
    client.subscribe(name, qos=1)
    client.publish(name, "over the web", qos=1)
    assert client.message().payload == b"over the web"
    client.close()


def case_http_publish_reaches_mqtt_and_back():
    name = topic("http")
    reader = Client()
    reader.subscribe(name, qos=1)
    lines = "\n".join(json.dumps({"topic": name, "payload": {"n": n}}) for n in range(3))
    sent = subprocess.run(
        ["curl", "-sS", "-H", "Content-Type: application/x-ndjson", "--data-binary", lines,
         f"{HTTP}/api/v1/events"], capture_output=True, text=True, timeout=WAIT,
    )
    answer = json.loads(sent.stdout)
    assert answer["accepted"] == 3 and answer["durability"] == "fsync", answer
    assert [json.loads(reader.message().payload)["n"] for _ in range(3)] == [0, 1, 2]

    stream = subprocess.Popen(
        ["curl", "-sSN", f"{HTTP}/api/v1/events?filter={name}"], stdout=subprocess.PIPE, text=True,
    )
    lines = queue.Queue()
    threading.Thread(target=lambda: [lines.put(l) for l in stream.stdout], daemon=True).start()
    time.sleep(0.3)
    reader.publish(name, '{"n": 9}', qos=1)
    deadline = time.monotonic() + WAIT
    while True:
        line = lines.get(timeout=max(0.1, deadline - time.monotonic()))
        if line.startswith("data:") and name in line:
            break
    stream.kill()
    stream.wait()
    reader.close()


def main():
    cases = [(n, f) for n, f in globals().items() if n.startswith("case_")]
    passed = failed = 0
    for name, case in cases:
        try:
            case()
        except BaseException as why:  # noqa: BLE001 - one broken case must not hide the others
            if isinstance(why, KeyboardInterrupt):
                raise
            failed += 1
            print(f"FAILED {name[5:]}: {why.__class__.__name__}: {why}")
            traceback.print_exc()
        else:
            passed += 1
            print(f"ok {name[5:]}")
    print(f"{passed} passed, {failed} failed", flush=True)
    os._exit(1 if failed else 0)  # Paho's threads may still wait for something


main()

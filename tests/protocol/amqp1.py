#!/usr/bin/env python3
"""Drives nodes over AMQP 1.0 with Qpid Proton, and with Qpid JMS where it is given.

    amqp1.py BUSBAR [QPID_JMS_CLASSPATH]

Each function whose name begins with `case_` is one case, with nodes of its own.
"""

import json
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import paho.mqtt.client as paho
import pika
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from proton import SSL, ConnectionException, Delivery, Message, SSLDomain
from proton.reactor import AtMostOnce, Container, DurableSubscription, Selector
from proton.utils import BlockingConnection, LinkDetached, SendException

import harness
from harness import CannotRun, free_port, wait_for

HERE = Path(__file__).resolve().parent
CLASSPATH = sys.argv[2] if len(sys.argv) > 2 else None
WAIT = 60


def start(world, port=None, project=None, **env):
    """A node that speaks AMQP, at `node.amqp`."""
    port = port or free_port()
    node = world.start(project or world.project(), BUSBAR_AMQP_LISTEN=f"127.0.0.1:{port}", **env)
    node.amqp = port
    return node


def connect(node, user=None, password=None, **more):
    return BlockingConnection(
        f"amqp://127.0.0.1:{node.amqp}", timeout=WAIT, user=user, password=password,
        allowed_mechs="PLAIN" if user else "ANONYMOUS", allow_insecure_mechs=True, **more)


def rabbit(node):
    """A channel of AMQP 0-9-1, with confirms."""
    ch = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", node.amqp, socket_timeout=WAIT)).channel()
    ch.confirm_delivery()
    return ch


def get(ch, queue):
    def asked():
        method, properties, body = ch.basic_get(queue, auto_ack=True)
        return (method, properties, body) if method else None
    return wait_for(f"a message in {queue}", asked)


class Mqtt:
    """A Paho client that remembers what it got."""

    def __init__(self, node, *filters):
        self.got = []
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        ready = threading.Event()
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.on_message = lambda c, u, m: self.got.append(m)
        self.client.on_connect = lambda *_: filters and self.client.subscribe([(f, 1) for f in filters])
        self.client.connect("127.0.0.1", node.mqtt)
        self.client.loop_start()
        if filters:
            assert ready.wait(WAIT)

    def publish(self, topic, payload, properties=None):
        self.client.publish(topic, payload, qos=1, properties=properties).wait_for_publish(WAIT)


def receive(receiver, count=1, accept=True):
    got = []
    for _ in range(count):
        got.append(receiver.receive(timeout=WAIT))
        if accept:
            receiver.accept()
    return got


def nothing(receiver):
    """A receiver that has used up its credit in vain. (A queue has said that it is empty by then.)"""
    receiver.drain(1)
    with_timeout = time.monotonic() + WAIT
    while receiver.credit and time.monotonic() < with_timeout:
        receiver.connection.container.process()
    assert not receiver.fetcher.has_message, "there is a message"


def detached(condition, action, *args, **more):
    """An action for which a link is closed with this condition."""
    try:
        action(*args, **more)
    except LinkDetached as why:
        assert why.condition == condition, (why.condition, str(why))
        return str(why)
    raise AssertionError(f"{condition} was not given")


def case_a_message_comes_out_with_all_its_properties(world):
    conn = connect(start(world))
    sent = Message(
        body="hello", id="m-1", subject="about", reply_to="answers", correlation_id="c-1", content_type="text/plain",
        content_encoding="utf-8", creation_time=1_700_000_000.125, group_id="g", group_sequence=7, reply_to_group_id="r",
        durable=True, priority=3, ttl=60, address="q",
        properties={"text": "t", "on": True, "ratio": 0.5, "nothing": None},
    )
    conn.create_sender("q").send(sent, timeout=WAIT)
    got, = receive(conn.create_receiver("q"))
    for name in ("body", "id", "subject", "reply_to", "correlation_id", "content_type", "content_encoding",
                 "creation_time", "group_id", "group_sequence", "reply_to_group_id", "durable", "priority", "address",
                 "properties"):
        assert getattr(got, name) == getattr(sent, name), (name, getattr(got, name), getattr(sent, name))
    assert 0 < got.ttl <= 60 and got.first_acquirer and got.delivery_count == 0, got


def case_bodies_of_every_kind_come_out_as_they_went_in(world):
    node = start(world)
    conn = connect(node)
    sender, receiver = conn.create_sender("q"), conn.create_receiver("q", credit=10)
    for body in (b"bytes", "text", "", 7, -1.5, True, None, [1, "two", [3]], {"a": 1, "b": {"c": b"\xff"}}):
        sender.send(Message(body=body), timeout=WAIT)
        got, = receive(receiver)
        body_got = bytes(got.body) if isinstance(got.body, memoryview) else got.body
        assert body_got == body and type(body_got) is type(body), (got.body, body)


def case_a_large_message_goes_in_parts(world):
    conn = connect(start(world), max_frame_size=4096)
    body = bytes(range(256)) * 8192
    sender = conn.create_sender("q")
    sender.send(Message(body=body), timeout=WAIT)
    assert bytes(receive(conn.create_receiver("q"))[0].body) == body
    assert "bytes" in detached("amqp:link:message-size-exceeded", sender.send, Message(body=bytes(6 << 20)), timeout=WAIT)


def case_other_protocols_see_the_same_message(world):
    node = start(world)
    mqtt = Mqtt(node, "gauge/#", "amqp/q/q")
    conn = connect(node)
    ch = rabbit(node)
    ch.queue_declare("mine")
    ch.queue_bind("mine", "amq.topic", "gauge.*.rain")
    all_rain = conn.create_receiver("topic://gauge/+/rain", credit=10)
    conn.create_sender("/topics/gauge/g1/rain").send(
        Message(body={"mm": 4}, correlation_id="c", properties={"site": "north", "n": 5}), timeout=WAIT)
    _, properties, body = get(ch, "mine")
    assert json.loads(body) == {"mm": 4} and properties.headers == {"site": "north", "n": 5}, (body, properties)
    assert properties.correlation_id == "c"
    wait_for("the event over MQTT", lambda: mqtt.got)
    assert json.loads(mqtt.got[0].payload) == {"mm": 4} and dict(mqtt.got[0].properties.UserProperty)["site"] == "north"
    assert receive(all_rain)[0].body == {"mm": 4}
    # And the other way round.
    user = Properties(PacketTypes.PUBLISH)
    user.UserProperty = [("site", "south")]
    user.ContentType = "text/plain"
    mqtt.publish("gauge/g2/rain", "12", user)
    got, = receive(all_rain)
    assert (bytes(got.body), got.properties, got.content_type) == (b"12", {"site": "south"}, "text/plain"), got
    ch.basic_publish("amq.topic", "gauge.g3.rain", b"7", pika.BasicProperties(type="t", headers={"n": 1}))
    got, = receive(all_rain)
    assert (bytes(got.body), got.subject, got.properties) == (b"7", "t", {"n": 1}), got
    ch.queue_declare("q", durable=True)
    conn.create_sender("/queues/q").send(Message(body="to a queue"), timeout=WAIT)
    assert get(ch, "q")[2] == b"to a queue"
    wait_for("the queue's event over MQTT", lambda: any(m.topic == "amqp/q/q" for m in mqtt.got))
    ch.exchange_declare("logs", "topic")
    logs = conn.create_receiver("/exchanges/logs/kern.%2A", credit=10)
    conn.create_sender("/exchanges/logs").send(Message(body="x", subject="kern.info"), timeout=WAIT)
    assert receive(logs)[0].body == "x"


def case_what_becomes_of_a_delivery(world):
    node = start(world)
    ch = rabbit(node)
    ch.queue_declare("dead", durable=True)
    ch.queue_declare("q", durable=True, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
    conn = connect(node)
    sender, receiver = conn.create_sender("q"), conn.create_receiver("q", credit=1)
    sender.send(Message(body="m"), timeout=WAIT)
    got = receiver.receive(timeout=WAIT)
    assert (got.delivery_count, got.first_acquirer) == (0, True)
    receiver.release(delivered=False)
    got = receiver.receive(timeout=WAIT)
    assert (got.delivery_count, got.first_acquirer) == (0, False), "a released message was not tried"
    receiver.fetcher.unsettled[0].local.failed = True
    receiver.release(delivered=True)
    got = receiver.receive(timeout=WAIT)
    assert got.delivery_count == 1, "a modified message was tried"
    receiver.reject()
    # Proton sends it with what it sends next.
    nothing(receiver)
    method, properties, body = get(ch, "dead")
    assert body == b"m" and properties.headers["x-death"][0]["reason"] == "rejected", properties


def case_credit_and_drain(world):
    conn = connect(start(world))
    sender = conn.create_sender("q")
    for n in range(5):
        sender.send(Message(body=n), timeout=WAIT)
    # Without credit at first, Proton does not give credit by itself, nor take back what a drain was given.
    receiver = conn.create_receiver("q", credit=0)
    receiver.link.flow(2)
    wait_for("two", lambda: conn.container.process() and len(receiver.fetcher.incoming) == 2)
    receiver.link.drain(10)
    wait_for("the drain", lambda: conn.container.process() and receiver.link.credit == 0)
    assert [m.body for m in receive(receiver, 5)] == [0, 1, 2, 3, 4]


def case_settled_messages_and_settled_deliveries(world):
    conn = connect(start(world))
    sender = conn.create_sender("q", options=AtMostOnce())
    for n in range(50):
        sender.send(Message(body=n), timeout=WAIT)
    receiver = conn.create_receiver("q", options=AtMostOnce(), credit=50)
    assert [m.body for m in receive(receiver, 50, accept=False)] == list(range(50))
    conn.close()


def case_an_unsettled_delivery_comes_again_when_its_client_is_gone(world):
    node = start(world)
    first, second = connect(node), connect(node)
    first.create_sender("q").send(Message(body="m"), timeout=WAIT)
    first.create_receiver("q").receive(timeout=WAIT)
    first.close()
    got = second.create_receiver("q").receive(timeout=WAIT)
    assert got.body == "m" and got.delivery_count == 1 and not got.first_acquirer, got


def case_errors_have_the_conditions_of_the_standard(world):
    node = start(world)
    rabbit(node).queue_declare("own", exclusive=True)
    conn = connect(node)
    for condition, address, options in [
        ("amqp:not-found", "/queues/none", None),
        ("amqp:not-found", "/exchanges/none/key", None),
        ("amqp:resource-locked", "own", None),
        ("amqp:not-implemented", "q", Selector("n > 3")),
        ("amqp:invalid-field", "/topics/a/#/b", None),
        ("amqp:invalid-field", "amq.mine", None),
    ]:
        detached(condition, conn.create_receiver, address, options=options)
    for condition, address in [("amqp:not-found", "/queues/none"), ("amqp:invalid-field", "/topics/a/+"),
                               ("amqp:unauthorized-access", "/topics/$SYS/x")]:
        detached(condition, conn.create_sender, address)
    # The connection goes on.
    conn.create_sender("q").send(Message(body="m"), timeout=WAIT)


def durable(node, container, address="/topics/gauge/#", name="rain"):
    """A connection of this container, and its receiver from a durable subscription."""
    reactor = Container()
    reactor.container_id = container
    conn = BlockingConnection(f"amqp://127.0.0.1:{node.amqp}", timeout=WAIT, container=reactor, allowed_mechs="ANONYMOUS")
    return conn, conn.create_receiver(address, name=name, options=DurableSubscription(), credit=10)


def case_durable_subscriptions_outlive_clients_and_nodes(world):
    project, port = world.project(), free_port()
    node = start(world, port, project)
    conn, receiver = durable(node, "client")
    sender = connect(node).create_sender("/topics/gauge/g1")
    sender.send(Message(body=1), timeout=WAIT)
    assert receive(receiver)[0].body == 1
    receiver.link.detach()
    conn.close()
    sender.send(Message(body=2), timeout=WAIT)
    # An acknowledgement has no answer. It is on the disk with what is declared after it.
    rabbit(node).queue_declare("mark", durable=True)
    node.kill()
    node = start(world, port, project)
    connect(node).create_sender("/topics/gauge/g1").send(Message(body=3), timeout=WAIT)
    conn, receiver = durable(node, "client")
    assert [m.body for m in receive(receiver, 2)] == [2, 3]
    # Another container has a subscription of its own.
    other, others = durable(node, "other")
    nothing(others)
    # Closing it ends it.
    receiver.close()
    conn.close()
    connect(node).create_sender("/topics/gauge/g1").send(Message(body=4), timeout=WAIT)
    conn, receiver = durable(node, "client")
    nothing(receiver)
    assert receive(others)[0].body == 4


def case_a_request_is_answered_over_mqtt_and_over_0_9_1(world):
    node = start(world)
    conn = connect(node)
    answers = conn.create_receiver(None, dynamic=True, credit=10)
    address = answers.link.remote_source.address
    assert address, "a temporary queue has a name"
    # An MQTT responder.
    mqtt = Mqtt(node, "ask/+")

    def respond(client, _, message):
        properties = Properties(PacketTypes.PUBLISH)
        properties.CorrelationData = message.properties.CorrelationData
        client.publish(message.properties.ResponseTopic, b"pong " + message.payload, 1, properties=properties)
    mqtt.client.on_message = respond
    asking = conn.create_sender("/topics/ask/a")
    for correlation in ("c-1", 77, b"\xff\x00", b"text"):
        asking.send(Message(body=b"ping", reply_to=address, correlation_id=correlation), timeout=WAIT)
        got, = receive(answers)
        assert (bytes(got.body), got.correlation_id) == (b"pong ping", correlation), got
    # A responder over 0-9-1.
    ch = rabbit(node)
    ch.queue_declare("work", durable=True)
    conn.create_sender("work").send(Message(body="7", reply_to=address, correlation_id="c-2"), timeout=WAIT)
    _, properties, body = get(ch, "work")
    ch.basic_publish("", properties.reply_to, b"14", pika.BasicProperties(correlation_id=properties.correlation_id))
    got, = receive(answers)
    assert (bytes(got.body), got.correlation_id) == (b"14", "c-2"), got
    # An MQTT client asks, and AMQP 1.0 answers.
    asker = Mqtt(node, "answers/mine")
    asks = conn.create_receiver("/topics/question/#")
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic, properties.CorrelationData = "answers/mine", b"\x01\x02"
    asker.publish("question/1", "?", properties)
    got, = receive(asks)
    conn.create_sender(got.reply_to).send(Message(body=b"!", correlation_id=got.correlation_id), timeout=WAIT)
    wait_for("the answer", lambda: asker.got)
    assert asker.got[0].payload == b"!" and asker.got[0].properties.CorrelationData == b"\x01\x02"
    # The queue ends with its link.
    answers.close()
    detached("amqp:not-found", conn.create_sender, f"/queues/{address}")


def case_logins_are_needed_once_there_is_a_user(world):
    node = start(world)
    code, out, err = world.run("user", "add", "ada", "--role", "admin", stdin="correct-horse-battery\n",
                               BUSBAR_DATA_DIR=node.data, BUSBAR_HTTP_LISTEN=f"127.0.0.1:{node.http}")
    if code != 0:
        raise CannotRun(f"users cannot be made: {err.strip()}")
    for user, password in [(None, None), ("ada", "wrong"), ("nobody", "x")]:
        try:
            connect(node, user, password)
        except ConnectionException as why:
            assert "amqp:unauthorized-access" in str(why) or "auth" in str(why).lower(), why
        else:
            raise AssertionError(f"{user} came in")
    conn = connect(node, "ada", "correct-horse-battery")
    sender = conn.create_sender("q")
    sender.send(Message(body="m", user_id=b"ada"), timeout=WAIT)
    try:
        sender.send(Message(body="m", user_id=b"bob"), timeout=WAIT)
        raise AssertionError("another user's name was taken")
    except SendException as why:
        assert why.state == Delivery.REJECTED, why


def certificate(world, name, extension):
    """A certificate and its key, of the authority in ca.pem, which is made if it is not there."""
    folder = world.folder
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    commands = [
        ["req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}", "-addext", extension],
        ["x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
         "-copy_extensions", "copy", "-out", f"{name}.pem"],
    ]
    if not (folder / "ca.pem").exists():
        commands.insert(0, ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=ca"])
    for command in commands:
        done = subprocess.run(["openssl", *command], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise CannotRun(f"openssl makes no certificate here: {done.stderr.strip()[-200:]}")
    return str(folder / f"{name}.pem"), str(folder / f"{name}.key")


def case_a_certificate_is_a_login_over_tls(world):
    if not SSL.present():
        raise CannotRun("Proton was built without TLS")
    cert, key = certificate(world, "localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    mine, my_key = certificate(world, "ada", "extendedKeyUsage=clientAuth")
    port = free_port()
    node = start(world, BUSBAR_AMQP_TLS_LISTEN=f"127.0.0.1:{port}", BUSBAR_AMQP_TLS_CERT=cert, BUSBAR_AMQP_TLS_KEY=key,
                 BUSBAR_AMQP_TLS_CLIENT_CA=world.folder / "ca.pem")
    code, out, err = world.run("user", "add", "ada", "--role", "admin", stdin="correct-horse-battery\n",
                               BUSBAR_DATA_DIR=node.data, BUSBAR_HTTP_LISTEN=f"127.0.0.1:{node.http}")
    if code != 0:
        raise CannotRun(f"users cannot be made: {err.strip()}")

    def over_tls(mechanism, **login):
        domain = SSLDomain(SSLDomain.MODE_CLIENT)
        domain.set_trusted_ca_db(str(world.folder / "ca.pem"))
        domain.set_peer_authentication(SSLDomain.VERIFY_PEER)
        if login.pop("certificate", False):
            domain.set_credentials(mine, my_key, None)
        return BlockingConnection(f"amqps://localhost:{port}", timeout=WAIT, ssl_domain=domain, allowed_mechs=mechanism, **login)

    over_tls("EXTERNAL", certificate=True).create_sender("q").send(Message(body="m"), timeout=WAIT)
    conn = over_tls("PLAIN", user="ada", password="correct-horse-battery")
    assert receive(conn.create_receiver("q"))[0].body == "m"
    for mechanism, login in [("ANONYMOUS", {"certificate": True}), ("EXTERNAL", {})]:
        try:
            over_tls(mechanism, **login)
        except ConnectionException:
            continue
        raise AssertionError(f"{mechanism} {login} came in")
    # The same certificate over 0-9-1.
    context = ssl.create_default_context(cafile=str(world.folder / "ca.pem"))
    context.load_cert_chain(mine, my_key)
    ch = pika.BlockingConnection(pika.ConnectionParameters(
        "localhost", port, credentials=pika.credentials.ExternalCredentials(), socket_timeout=WAIT,
        ssl_options=pika.SSLOptions(context, "localhost"))).channel()
    ch.confirm_delivery()
    ch.basic_publish("", "q", b"over TLS")
    assert get(ch, "q")[2] == b"over TLS"


def case_nothing_accepted_is_lost_when_the_node_is_killed(world):
    project, port = world.project(), free_port()
    node = start(world, port, project)
    sender = connect(node).create_sender("q")
    accepted = []
    killer = threading.Timer(1.0, node.kill)
    killer.start()
    try:
        for n in range(1_000_000):
            sender.send(Message(body=n), timeout=WAIT)
            accepted.append(n)
    except Exception:
        pass
    killer.join()
    assert accepted, "nothing was accepted before"
    node = start(world, port, project)
    receiver = connect(node).create_receiver("q", credit=100)
    got = [receiver.receive(timeout=WAIT).body for _ in accepted]
    assert got == accepted, (len(got), len(accepted))


def case_qpid_jms(world):
    if CLASSPATH is None:
        raise CannotRun("no class path with Qpid JMS is given")
    node = start(world)
    done = subprocess.run(["java", "-cp", CLASSPATH, HERE / "amqpjms" / "Cases.java", str(node.amqp)],
                          text=True, capture_output=True, timeout=WAIT * 5)
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(harness.main(globals(), sys.argv[1]))

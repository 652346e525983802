#!/usr/bin/env python3
"""Drives nodes over AMQP 0-9-1 with pika and RabbitMQ's tutorials, and with amqplib, lapin and the Java client where
they are given.

    amqp.py BUSBAR [NODE_FOLDER [LAPIN [JAVA_CLASSPATH]]]

Each function whose name begins with `case_` is one case, with nodes of its own.
"""

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import paho.mqtt.client as paho
import pika
from pika.exceptions import (
    AMQPConnectionError, ChannelClosedByBroker, ConnectionClosedByBroker, NackError, ProbableAuthenticationError,
    UnroutableError,
)

import harness
from harness import CannotRun, free_port, wait_for

HERE = Path(__file__).resolve().parent
NODE_FOLDER = Path(sys.argv[2]) if len(sys.argv) > 2 else None
LAPIN = Path(sys.argv[3]) if len(sys.argv) > 3 else None
CLASSPATH = sys.argv[4] if len(sys.argv) > 4 else None
WAIT = 60


def start(world, port=None, project=None, **env):
    """A node that speaks AMQP, at `node.amqp`."""
    port = port or free_port()
    node = world.start(project or world.project(), BUSBAR_AMQP_LISTEN=f"127.0.0.1:{port}", **env)
    node.amqp = port
    return node


def connect(node, vhost="/", user="guest", password="guest", **more):
    return pika.BlockingConnection(pika.ConnectionParameters(
        "127.0.0.1", node.amqp, vhost, pika.PlainCredentials(user, password),
        socket_timeout=WAIT, blocked_connection_timeout=WAIT, **more))


def channel(node, confirms=False, **how):
    opened = connect(node, **how).channel()
    if confirms:
        opened.confirm_delivery()
    return opened


def get(ch, queue, auto_ack=True):
    """The next message of a queue, waiting for it."""
    def asked():
        method, properties, body = ch.basic_get(queue, auto_ack=auto_ack)
        return (method, properties, body) if method else None
    return wait_for(f"a message in {queue}", asked)


def nothing(ch, queue):
    assert ch.basic_get(queue)[0] is None, "there is a message"


def collect(ch, queue, count, auto_ack=True, seconds=WAIT):
    """`count` messages of a queue by a consumer."""
    got = []
    for method, properties, body in ch.consume(queue, auto_ack=auto_ack, inactivity_timeout=1):
        if method:
            got.append((method, properties, body))
        if len(got) == count:
            break
        seconds -= method is None
        assert seconds > 0, (len(got), count)
    ch.cancel()
    return got


def closed(code, words, action, *args, kind=ChannelClosedByBroker, **more):
    """An action for which the channel, or the connection, is closed with this code and text."""
    try:
        action(*args, **more)
    except kind as why:
        assert why.reply_code == code and words in why.reply_text, (why.reply_code, why.reply_text)
        return
    raise AssertionError(f"{code} was not given")


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

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def case_a_confirmed_message_comes_out_with_all_its_properties(world):
    ch = channel(start(world), confirms=True)
    ch.queue_declare("q", durable=True)
    sent = pika.BasicProperties(
        content_type="text/plain", content_encoding="utf-8", delivery_mode=2, priority=3, correlation_id="c-1",
        reply_to="q", expiration="60000", message_id="m-1", timestamp=1_700_000_000, type="t", app_id="a",
        headers={"text": "t", "n": 7, "on": True, "list": [1, "two", None], "deep": {"x": 2}, "nothing": None},
    )
    ch.basic_publish("", "q", b"hello", sent)
    method, got, body = get(ch, "q")
    assert body == b"hello" and method.routing_key == "q" and method.exchange == "" and not method.redelivered
    assert got == sent, (got, sent)


def case_a_large_message_is_split_and_put_together(world):
    ch = channel(start(world), confirms=True)
    ch.queue_declare("q", durable=True)
    body = bytes(range(256)) * 4096
    ch.basic_publish("", "q", body)
    assert get(ch, "q")[2] == body
    closed(406, "is larger than configured max size", ch.basic_publish, "", "q", bytes(5 << 20))


def case_exchanges_choose_their_queues(world):
    ch = channel(start(world), confirms=True)
    for kind, key, hit, miss in [("direct", "a", "a", "b"), ("fanout", "", "x", None), ("topic", "a.*.#", "a.b", "b.a")]:
        ch.exchange_declare(kind, kind, durable=True)
        queue = ch.queue_declare("", exclusive=True).method.queue
        ch.queue_bind(queue, kind, key)
        ch.basic_publish(kind, hit, b"hit")
        if miss:
            ch.basic_publish(kind, miss, b"miss")
        method, _, body = get(ch, queue)
        assert (body, method.exchange, method.routing_key) == (b"hit", kind, hit)
        nothing(ch, queue)
    ch.exchange_declare("h", "headers")
    both, one = (ch.queue_declare("", exclusive=True).method.queue for _ in range(2))
    ch.queue_bind(both, "h", arguments={"x-match": "all", "site": "north", "level": 3})
    ch.queue_bind(one, "h", arguments={"x-match": "any", "site": "north", "level": 3})
    ch.basic_publish("h", "", b"1", pika.BasicProperties(headers={"site": "north", "level": 3}))
    ch.basic_publish("h", "", b"2", pika.BasicProperties(headers={"level": 3}))
    assert get(ch, both)[2] == b"1"
    nothing(ch, both)
    assert [get(ch, one)[2], get(ch, one)[2]] == [b"1", b"2"]


def case_exchanges_are_bound_to_exchanges(world):
    ch = channel(start(world), confirms=True)
    ch.exchange_declare("in", "topic")
    ch.exchange_declare("out", "direct", internal=True)
    ch.exchange_bind("out", "in", "*.alarm")
    ch.queue_declare("q")
    ch.queue_bind("q", "out", "a.alarm")
    for key in ("a.alarm", "b.alarm", "a.calm"):
        ch.basic_publish("in", key, key.encode())
    assert get(ch, "q")[2] == b"a.alarm"
    nothing(ch, "q")
    ch.exchange_unbind("out", "in", "*.alarm")
    ch.basic_publish("in", "a.alarm", b"late")
    nothing(ch, "q")


def case_mandatory_messages_without_a_queue_come_back(world):
    ch = channel(start(world), confirms=True)
    try:
        ch.basic_publish("amq.direct", "nowhere", b"x", mandatory=True)
        raise AssertionError("it was taken")
    except UnroutableError as why:
        returned = why.messages[0]
        assert returned.method.reply_code == 312 and returned.body == b"x", returned.method
    ch.queue_declare("q")
    ch.queue_bind("q", "amq.direct", "somewhere")
    ch.basic_publish("amq.direct", "somewhere", b"x", mandatory=True)


def case_errors_have_the_codes_and_texts_of_rabbitmq(world):
    node = start(world)
    ch = channel(node)
    ch.queue_declare("q", durable=True, arguments={"x-message-ttl": 1000})
    ch.exchange_declare("x", "fanout")
    own = channel(node)
    own.queue_declare("own", exclusive=True)
    for code, words, method, args in [
        (404, "NOT_FOUND - no queue 'none' in vhost '/'", "queue_declare", {"queue": "none", "passive": True}),
        (404, "NOT_FOUND - no exchange 'none' in vhost '/'", "exchange_declare", {"exchange": "none", "passive": True}),
        (404, "NOT_FOUND - no queue 'none' in vhost '/'", "basic_consume", {"queue": "none", "on_message_callback": print}),
        (404, "no exchange 'none'", "queue_bind", {"queue": "q", "exchange": "none", "routing_key": "a"}),
        (406, "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'",
         "queue_declare", {"queue": "q"}),
        (406, "inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/'", "queue_declare", {"queue": "q", "durable": True}),
        (406, "inequivalent arg 'type' for exchange 'x' in vhost '/': received 'direct' but current is 'fanout'",
         "exchange_declare", {"exchange": "x", "exchange_type": "direct"}),
        (405, "cannot obtain exclusive access to locked queue 'own' in vhost '/'", "queue_declare", {"queue": "own"}),
        (403, "ACCESS_REFUSED - queue name 'amq.q' contains reserved prefix 'amq.*'", "queue_declare", {"queue": "amq.q"}),
        (403, "exchange name 'amq.x' contains reserved prefix", "exchange_declare", {"exchange": "amq.x"}),
        (403, "operation not permitted on the default exchange", "queue_bind", {"queue": "q", "exchange": ""}),
        (406, "PRECONDITION_FAILED - unknown delivery tag 9", "basic_ack", {"delivery_tag": 9}),
        (406, "priority queues are not supported", "queue_declare", {"queue": "p", "arguments": {"x-max-priority": 5}}),
        (406, "invalid arg 'x-max-length'", "queue_declare", {"queue": "p", "arguments": {"x-max-length": -5}}),
    ]:
        ch = channel(node)
        def attempt():
            getattr(ch, method)(**args)
            why = []
            ch._impl.add_on_close_callback(lambda _, reason: why.append(reason))
            wait_for("the refusal", lambda: ch.connection.process_data_events(0.05) or why)
            raise why[0]
        closed(code, words, attempt)
    for code, words, method, args in [
        (503, "unknown exchange type 'round'", "exchange_declare", {"exchange": "r", "exchange_type": "round"}),
        (540, "NOT_IMPLEMENTED - prefetch_size!=0", "basic_qos", {"prefetch_size": 5}),
    ]:
        closed(code, words, getattr(channel(node), method), kind=ConnectionClosedByBroker, **args)
    closed(404, "no exchange 'none'", channel(node, confirms=True).basic_publish, "none", "k", b"x")
    try:
        connect(node, vhost="$sys")
        raise AssertionError("the virtual host was opened")
    except AMQPConnectionError as why:
        assert "530" in repr(why) and "vhost $sys not found" in repr(why), repr(why)


def case_prefetch_ack_nack_and_reject(world):
    ch = channel(start(world), confirms=True)
    ch.queue_declare("q")
    for n in range(10):
        ch.basic_publish("", "q", str(n).encode())
    got = []
    ch.basic_qos(prefetch_count=3)
    tag = ch.basic_consume("q", lambda c, m, p, b: got.append((m.delivery_tag, b, m.redelivered)))
    wait_for("three", lambda: ch.connection.process_data_events(0.05) or len(got) == 3)
    ch.connection.process_data_events(0.3)
    assert [b for _, b, _ in got] == [b"0", b"1", b"2"], got
    ch.basic_ack(got[1][0], multiple=True)
    wait_for("five", lambda: ch.connection.process_data_events(0.05) or len(got) == 5)
    ch.basic_nack(got[2][0], requeue=True)
    wait_for("it again", lambda: ch.connection.process_data_events(0.05) or len(got) == 6)
    assert got[5][1:] == (b"2", True), got
    ch.basic_reject(got[5][0], requeue=False)
    wait_for("the next", lambda: ch.connection.process_data_events(0.05) or len(got) == 7)
    assert [b for _, b, _ in got[3:5]] == [b"3", b"4"] and got[6][1] == b"5", got
    ch.basic_cancel(tag)
    # What the consumer had stays with the channel until it is closed.
    assert ch.queue_declare("q", passive=True).method.message_count == 4
    ch.close()
    other = ch.connection.channel()
    assert other.queue_declare("q", passive=True).method.message_count == 7
    rest = [get(other, "q") for _ in range(7)]
    assert [(b, m.redelivered) for m, _, b in rest] == [
        (str(n).encode(), n < 6) for n in range(3, 10)], rest


def case_recover_and_unacknowledged_messages_of_a_lost_connection(world):
    node = start(world)
    ch = channel(node, confirms=True)
    ch.queue_declare("q")
    ch.basic_publish("", "q", b"x")
    got = []
    ch.basic_consume("q", lambda c, m, p, b: got.append(m.redelivered))
    wait_for("it", lambda: ch.connection.process_data_events(0.05) or got)
    ch.basic_recover(requeue=True)
    wait_for("it again", lambda: ch.connection.process_data_events(0.05) or len(got) == 2)
    ch.connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)
    other = channel(node)
    method, _, body = get(other, "q")
    assert body == b"x" and method.redelivered and got == [False, True]


def case_purge_delete_and_their_conditions(world):
    node = start(world)
    ch = channel(node, confirms=True)
    ch.queue_declare("q", durable=True)
    for _ in range(3):
        ch.basic_publish("", "q", b"x")
    closed(406, "queue 'q' in vhost '/' not empty", channel(node).queue_delete, "q", if_empty=True)
    assert ch.queue_purge("q").method.message_count == 3
    nothing(ch, "q")
    ch.basic_publish("", "q", b"new")
    user = channel(node)
    user.basic_consume("q", lambda *_: None)
    closed(406, "queue 'q' in vhost '/' in use", channel(node).queue_delete, "q", if_unused=True)
    cancelled = []
    user.add_on_cancel_callback(cancelled.append)
    ch.queue_delete("q")
    wait_for("the notice", lambda: user.connection.process_data_events(0.05) or cancelled)
    ch.queue_delete("q")
    ch.exchange_declare("x", "fanout")
    ch.queue_declare("q2")
    ch.queue_bind("q2", "x")
    closed(406, "exchange 'x' in vhost '/' in use", channel(node).exchange_delete, "x", if_unused=True)
    ch.exchange_delete("x")


def case_queues_end_with_their_owner_and_their_last_consumer(world):
    node = start(world)
    ch = channel(node)
    queue = ch.queue_declare("", exclusive=True).method.queue
    assert queue.startswith("amq.gen-")
    ch.queue_declare("auto", auto_delete=True)
    tag = ch.basic_consume("auto", lambda *_: None)
    ch.basic_cancel(tag)
    closed(404, "no queue 'auto'", channel(node).queue_declare, "auto", passive=True)
    ch.connection.close()
    closed(404, f"no queue '{queue}'", channel(node).queue_declare, queue, passive=True)
    ch = channel(node)
    ch.queue_declare("unused", arguments={"x-expires": 200})
    def gone():
        try:
            channel(node).queue_declare("unused", passive=True)
        except ChannelClosedByBroker:
            return True
    time.sleep(0.5)
    wait_for("its end", gone)


def case_time_to_live_and_dead_letters(world):
    ch = channel(start(world), confirms=True)
    ch.exchange_declare("dlx", "direct")
    ch.queue_declare("dead")
    ch.queue_bind("dead", "dlx", "over")
    ch.queue_declare("q", arguments={
        "x-message-ttl": 200, "x-dead-letter-exchange": "dlx", "x-dead-letter-routing-key": "over"})
    ch.basic_publish("", "q", b"by the queue", pika.BasicProperties(headers={"site": "n"}))
    method, properties, body = get(ch, "dead")
    assert body == b"by the queue" and properties.headers["site"] == "n"
    death = properties.headers["x-death"][0]
    assert (death["count"], death["reason"], death["queue"], death["exchange"], death["routing-keys"]) == (
        1, "expired", "q", "", ["q"]), death
    assert properties.headers["x-first-death-reason"] == "expired"
    ch.queue_declare("q2", arguments={"x-dead-letter-exchange": "dlx", "x-dead-letter-routing-key": "over"})
    ch.basic_publish("", "q2", b"by itself", pika.BasicProperties(expiration="100"))
    time.sleep(0.3)
    nothing(ch, "q2")
    method, properties, body = get(ch, "dead")
    assert body == b"by itself" and properties.expiration is None
    assert properties.headers["x-death"][0]["original-expiration"] == "100"
    ch.basic_publish("", "q2", b"refused")
    ch.basic_reject(get(ch, "q2", auto_ack=False)[0].delivery_tag, requeue=False)
    assert get(ch, "dead")[1].headers["x-death"][0]["reason"] == "rejected"


def case_a_full_queue_drops_its_oldest_or_refuses(world):
    ch = channel(start(world), confirms=True)
    ch.queue_declare("dead")
    ch.queue_declare("drops", arguments={
        "x-max-length": 3, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
    for n in range(5):
        ch.basic_publish("", "drops", str(n).encode())
    assert [get(ch, "dead")[2], get(ch, "dead")[2]] == [b"0", b"1"]
    assert [get(ch, "drops")[2] for _ in range(3)] == [b"2", b"3", b"4"]
    ch.queue_declare("refuses", arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    ch.basic_publish("", "refuses", b"0")
    ch.basic_publish("", "refuses", b"1")
    try:
        ch.basic_publish("", "refuses", b"2")
        raise AssertionError("it was taken")
    except NackError:
        pass
    assert get(ch, "refuses")[2] == b"0"
    ch.basic_publish("", "refuses", b"3")
    ch.queue_declare("bytes", arguments={"x-max-length-bytes": 100})
    for _ in range(5):
        ch.basic_publish("", "bytes", bytes(40))
    assert ch.queue_declare("bytes", passive=True).method.message_count == 2


def case_a_single_active_consumer_and_an_exclusive_one(world):
    node = start(world)
    ch = channel(node, confirms=True)
    ch.queue_declare("q", arguments={"x-single-active-consumer": True})
    got = []
    users = [channel(node) for _ in range(2)]
    for n, user in enumerate(users):
        user.basic_consume("q", lambda c, m, p, b, n=n: got.append(n), auto_ack=True)
    poll = lambda: [u.connection.process_data_events(0.05) for u in users if u.is_open]
    for _ in range(4):
        ch.basic_publish("", "q", b"x")
    wait_for("four", lambda: poll() and len(got) == 4)
    assert got == [0] * 4, got
    users[0].close()
    ch.basic_publish("", "q", b"x")
    wait_for("the other", lambda: poll() and len(got) == 5)
    assert got[4] == 1
    ch.queue_declare("e")
    ch.basic_consume("e", lambda *_: None, exclusive=True)
    closed(403, "queue 'e' in vhost '/' in exclusive use", channel(node).basic_consume, "e", lambda *_: None)


def case_direct_reply_to(world):
    node = start(world)
    asks, serves = channel(node), channel(node)
    serves.queue_declare("work")
    closed(406, "reply consumer cannot acknowledge", channel(node).basic_consume, "amq.rabbitmq.reply-to", print)
    closed(406, "fast reply consumer does not exist", lambda ch: ch.basic_publish(
        "", "work", b"x", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to")), channel(node, confirms=True))
    got = []
    asks.basic_consume("amq.rabbitmq.reply-to", lambda c, m, p, b: got.append((p.correlation_id, b)), auto_ack=True)
    for n in ("1", "2"):
        asks.basic_publish("", "work", n.encode(), pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id=n))
        _, properties, body = get(serves, "work")
        assert properties.reply_to.startswith("amq.rabbitmq.reply-to."), properties
        serves.basic_publish("", properties.reply_to, b"to " + body, pika.BasicProperties(correlation_id=properties.correlation_id))
    wait_for("two answers", lambda: asks.connection.process_data_events(0.05) or len(got) == 2)
    assert got == [("1", b"to 1"), ("2", b"to 2")], got


def case_a_message_goes_back_to_its_queue_only_so_often(world):
    ch = channel(start(world), confirms=True)
    ch.queue_declare("dead", durable=True)
    ch.queue_declare("q", durable=True, arguments={
        "x-delivery-limit": 2, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
    ch.basic_publish("", "q", b"m")
    for attempt in range(3):
        method, _, _ = get(ch, "q", auto_ack=False)
        assert method.redelivered == (attempt > 0)
        ch.basic_nack(method.delivery_tag, requeue=True)
    _, properties, body = get(ch, "dead")
    assert body == b"m" and properties.headers["x-death"][0]["reason"] == "delivery_limit", properties
    nothing(ch, "q")


def case_transactions(world):
    node = start(world)
    ch = channel(node)
    ch.queue_declare("q")
    ch.tx_select()
    ch.basic_publish("", "q", b"undone")
    ch.tx_rollback()
    ch.basic_publish("", "q", b"1")
    ch.basic_publish("", "q", b"2")
    other = channel(node)
    nothing(other, "q")
    ch.tx_commit()
    assert [get(other, "q")[2], get(other, "q")[2]] == [b"1", b"2"]
    closed(406, "cannot switch from tx to confirm mode", ch.confirm_delivery)


def case_publish_and_get_in_one_go(world):
    ch = channel(start(world))
    ch.queue_declare("q")
    for n in range(50):
        ch.basic_publish("", "q", str(n).encode())
    assert ch.queue_declare("q", passive=True).method.message_count == 50
    assert ch.basic_get("q", auto_ack=True)[2] == b"0"
    assert ch.queue_purge("q").method.message_count == 49


def case_mqtt_and_http_reach_queues_and_the_other_way_round(world):
    node = start(world)
    ch = channel(node, confirms=True)
    ch.queue_declare("rain", durable=True)
    ch.queue_bind("rain", "amq.topic", "gauge.*.rain")
    mqtt = Mqtt(node, "gauge/#", "amqp/x/logs/#")
    properties = paho.Properties(paho.PacketTypes.PUBLISH)
    properties.UserProperty = ("site", "north")
    properties.ContentType, properties.ResponseTopic, properties.CorrelationData = "text/plain", "answers/7", b"c7"
    mqtt.publish("gauge/g1/rain", "3 mm", properties)
    method, got, body = get(ch, "rain")
    assert (body, method.exchange, method.routing_key) == (b"3 mm", "amq.topic", "gauge.g1.rain")
    assert (got.content_type, got.reply_to, got.correlation_id) == ("text/plain", "/topic/answers/7", "c7")
    assert got.headers == {"site": "north"} and got.delivery_mode == 2
    assert node.publish([{"topic": "gauge/g2/rain", "payload": "4 mm"}]).status == 200
    assert get(ch, "rain")[0].routing_key == "gauge.g2.rain"
    ch.basic_publish("amq.topic", "gauge.g3.rain", b"5 mm", pika.BasicProperties(headers={"site": "s", "n": 5}))
    ch.exchange_declare("logs", "topic")
    ch.basic_publish("logs", "kern.critical", b"hot")
    wait_for("both over MQTT", lambda: {m.topic for m in mqtt.got} >= {"gauge/g3/rain", "amqp/x/logs/kern/critical"})
    message = next(m for m in mqtt.got if m.topic == "gauge/g3/rain")
    assert message.payload == b"5 mm" and sorted(message.properties.UserProperty) == [("n", "5"), ("site", "s")]
    mqtt.publish("amqp/q/rain", "straight")
    assert [get(ch, "rain")[2], get(ch, "rain")[2]] == [b"5 mm", b"straight"]
    mqtt.close()


def case_a_request_over_amqp_is_answered_over_mqtt_and_the_other_way_round(world):
    node = start(world)
    ch = channel(node, confirms=True)
    answers = ch.queue_declare("", exclusive=True).method.queue
    mqtt = Mqtt(node, "ask/#", "answers/#")
    ch.basic_publish("amq.topic", "ask.time", b"?", pika.BasicProperties(reply_to=answers, correlation_id="7"))
    wait_for("the question", lambda: mqtt.got)
    asked = mqtt.got[0].properties
    reply = paho.Properties(paho.PacketTypes.PUBLISH)
    reply.CorrelationData = asked.CorrelationData
    mqtt.publish(asked.ResponseTopic, "noon", reply)
    _, got, body = get(ch, answers)
    assert (body, got.correlation_id) == (b"noon", "7")
    ch.queue_declare("ask")
    ch.queue_bind("ask", "amq.topic", "ask.place")
    question = paho.Properties(paho.PacketTypes.PUBLISH)
    question.ResponseTopic, question.CorrelationData = "answers/me", b"8"
    mqtt.publish("ask/place", "?", question)
    _, got, _ = get(ch, "ask")
    ch.basic_publish("", got.reply_to, b"here", pika.BasicProperties(correlation_id=got.correlation_id))
    wait_for("the answer", lambda: [m for m in mqtt.got if m.topic == "answers/me"])
    answer = next(m for m in mqtt.got if m.topic == "answers/me")
    assert answer.payload == b"here" and answer.properties.CorrelationData == b"8"
    mqtt.close()


def case_virtual_hosts_are_prefixes_and_do_not_see_each_other(world):
    node = start(world)
    root, plant = channel(node, confirms=True), channel(node, confirms=True, vhost="plant")
    for ch in (root, plant):
        ch.queue_declare("q")
        ch.queue_bind("q", "amq.topic", "a.b")
    plant.basic_publish("amq.topic", "a.b", b"plant")
    root.basic_publish("amq.topic", "a.b", b"root")
    plant.basic_publish("", "q", b"q")
    mqtt = Mqtt(node)
    mqtt.publish("plant/a/b", "mqtt")
    assert [get(plant, "q")[2] for _ in range(3)] == [b"plant", b"q", b"mqtt"]
    assert get(root, "q")[2] == b"root"
    nothing(root, "q")
    mqtt.close()


def case_queues_and_what_is_in_them_outlive_the_node(world):
    node = start(world)
    ch = channel(node, confirms=True)
    ch.exchange_declare("x", "topic", durable=True)
    ch.queue_declare("q", durable=True)
    ch.queue_declare("passing")
    ch.queue_bind("q", "x", "k.#")
    for n in range(6):
        ch.basic_publish("x", "k.n", str(n).encode(), pika.BasicProperties(delivery_mode=2))
    first = get(ch, "q", auto_ack=False)[0]
    get(ch, "q", auto_ack=False)
    ch.basic_ack(first.delivery_tag)
    ch.queue_unbind("q", "x", "k.#")
    ch.basic_publish("x", "k.n", b"too late")
    ch.queue_declare("q", durable=True)
    node.stop()
    node = start(world, port=node.amqp)
    ch = channel(node, confirms=True)
    assert ch.queue_declare("q", durable=True).method.message_count == 5
    got = [get(ch, "q") for _ in range(5)]
    assert [b for *_, b in got] == [b"1", b"2", b"3", b"4", b"5"], got
    assert [m.redelivered for m, *_ in got] == [True, False, False, False, False]
    nothing(ch, "q")
    ch.queue_bind("q", "x", "k.#")
    ch.basic_publish("x", "k.n", b"new")
    assert get(ch, "q")[2] == b"new"
    closed(404, "no queue 'passing'", ch.queue_declare, "passing", passive=True)


def case_a_deep_queue_without_consumers_stays_in_the_log(world):
    node = start(world)
    ch = channel(node)
    ch.queue_declare("deep", durable=True)
    ch.queue_declare("other", durable=True)
    ch.confirm_delivery()
    count = 30_000
    lines = "\n".join(json.dumps({"topic": "amqp/q/deep" if n % 2 else "amqp/q/other", "payload": f"{n:0200}"})
                      for n in range(count))
    answer = node.ask("POST", "/api/v1/events", lines.encode(), {"content-type": "application/x-ndjson"})
    assert answer.status == 200, answer
    wait_for("all of them", lambda: ch.queue_declare("deep", passive=True).method.message_count == count // 2)
    ch.basic_qos(prefetch_count=500)
    got = collect(ch, "deep", count // 2)
    assert [int(body) for *_, body in got] == list(range(1, count, 2))


def case_kill_9_loses_nothing_that_was_confirmed_and_repeats_nothing_that_was_acknowledged(world):
    port = free_port()
    confirmed, acknowledged, seen = [], set(), set()
    number = 0
    for round_ in range(6):
        node = start(world, port=port)
        ch = channel(node, confirms=True)
        ch.queue_declare("q", durable=True)
        reader = channel(node)
        reader.basic_qos(prefetch_count=20)
        repeated = []

        def take(c, method, properties, body):
            n = int(body)
            if n in acknowledged:
                repeated.append(n)
            if n in seen:
                assert method.redelivered, n
            seen.add(n)
            if n % 3:
                c.basic_ack(method.delivery_tag)
                pending.append(n)

        pending = []
        reader.basic_consume("q", take)
        until = time.monotonic() + 0.6
        try:
            while time.monotonic() < until:
                ch.basic_publish("", "q", str(number).encode(), pika.BasicProperties(delivery_mode=2))
                confirmed.append(number)
                number += 1
                reader.connection.process_data_events(0)
                if number % 40 == 0:
                    # An acknowledgement has no answer. It is on the disk with what is declared after it.
                    settled, pending = pending, []
                    reader.queue_declare("mark", durable=True)
                    reader.queue_delete("mark")
                    acknowledged.update(settled)
        finally:
            node.kill()
        assert not repeated, repeated[:10]
    node = start(world, port=port)
    ch = channel(node)
    left = []
    while True:
        method, _, body = ch.basic_get("q", auto_ack=True)
        if method is None:
            break
        left.append(int(body))
    assert not set(left) & acknowledged, sorted(set(left) & acknowledged)[:10]
    lost = set(confirmed) - set(left) - seen
    assert not lost, sorted(lost)[:10]
    assert len(confirmed) > 50


def case_logins_and_permissions(world):
    node = start(world)
    code, out, err = world.run("user", "add", "root", "--role", "admin", stdin="correct-horse-battery\n",
                               BUSBAR_DATA_DIR=node.data, BUSBAR_HTTP_LISTEN=f"127.0.0.1:{node.http}")
    if code != 0:
        raise CannotRun(f"users cannot be made: {err.strip()}")
    try:
        connect(node, user="root", password="wrong")
        raise AssertionError("the login was taken")
    except ProbableAuthenticationError as why:
        assert "403" in repr(why) and "Login was refused using authentication mechanism PLAIN" in repr(why), repr(why)
    ch = channel(node, user="root", password="correct-horse-battery", confirms=True)
    ch.queue_declare("q")
    closed(406, "user_id property set to 'other' but authenticated user was 'root'",
           ch.basic_publish, "", "q", b"x", pika.BasicProperties(user_id="other"))


def tutorial(world, name, node, *args):
    env = world.environment(AMQP_PORT=node.amqp, PYTHONUNBUFFERED=1)
    return subprocess.Popen([sys.executable, HERE / "tutorials" / name, *args], env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def case_the_six_tutorials(world):
    node = start(world)
    lines = {}

    def watch(process):
        lines[process] = []
        threading.Thread(target=lambda: [lines[process].append(l.strip()) for l in process.stdout], daemon=True).start()
        wait_for("its first line", lambda: lines[process])
        return process

    def run(name, *args):
        process = tutorial(world, name, node, *args)
        out, _ = process.communicate(timeout=WAIT)
        assert process.returncode == 0, (name, out)
        return out.splitlines()

    started = []
    try:
        # 1: hello
        run("send.py")
        started.append(receive := watch(tutorial(world, "receive.py", node)))
        wait_for("hello", lambda: any("Hello World!" in l for l in lines[receive]))
        # 2: work queues
        started += [a := watch(tutorial(world, "worker.py", node)), b := watch(tutorial(world, "worker.py", node))]
        for text in ("one.", "two.", "three.", "four."):
            run("new_task.py", text)
        wait_for("four tasks", lambda: sum(l == "[x] Done" for w in (a, b) for l in lines[w]) == 4)
        assert all(any("Received" in l for l in lines[w]) for w in (a, b)), lines
        # 3: publish and subscribe
        started += [c := watch(tutorial(world, "receive_logs.py", node)), d := watch(tutorial(world, "receive_logs.py", node))]
        run("emit_log.py", "to all")
        wait_for("both", lambda: all(any("to all" in l for l in lines[w]) for w in (c, d)))
        # 4: routing
        started.append(e := watch(tutorial(world, "receive_logs_direct.py", node, "error", "warning")))
        run("emit_log_direct.py", "info", "quiet")
        run("emit_log_direct.py", "error", "loud")
        wait_for("the error", lambda: any("error" in l and "loud" in l for l in lines[e]))
        assert not any("quiet" in l for l in lines[e])
        # 5: topics
        started.append(f := watch(tutorial(world, "receive_logs_topic.py", node, "kern.*", "*.critical")))
        run("emit_log_topic.py", "cron.info", "quiet")
        run("emit_log_topic.py", "kern.critical", "loud")
        wait_for("the critical one", lambda: any("kern.critical" in l for l in lines[f]))
        assert not any("quiet" in l for l in lines[f]) and sum("loud" in l for l in lines[f]) == 1
        # 6: RPC
        started.append(watch(tutorial(world, "rpc_server.py", node)))
        assert any("832040" in l for l in run("rpc_client.py"))
    finally:
        for process in started:
            process.kill()
            process.wait()


def case_amqplib_for_node(world):
    if NODE_FOLDER is None:
        raise CannotRun("no folder with amqplib is given")
    node = start(world)
    done = subprocess.run(["node", NODE_FOLDER / "cases.mjs", str(node.amqp)], text=True, capture_output=True, timeout=WAIT * 3)
    assert done.returncode == 0, done.stdout + done.stderr


def case_lapin(world):
    if LAPIN is None:
        raise CannotRun("no program with lapin is given")
    node = start(world)
    done = subprocess.run([LAPIN, str(node.amqp)], text=True, capture_output=True, timeout=WAIT * 3)
    assert done.returncode == 0, done.stdout + done.stderr


def case_the_java_client(world):
    if CLASSPATH is None:
        raise CannotRun("no class path with the Java client is given")
    node = start(world)
    done = subprocess.run(["java", "-cp", CLASSPATH, HERE / "amqpjava" / "Cases.java", str(node.amqp)],
                          text=True, capture_output=True, timeout=WAIT * 3)
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(harness.main(globals(), sys.argv[1]))

"""PUBLISH and the exchanges of the three qualities of service."""

import time

from wire import (
    PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Peer, Wrong, ack, both, client, packet, publish, topic,
    variable,
)


@both
def case_every_qos_to_every_qos(version):
    for granted in range(3):
        name = topic()
        peer = client(None, version).subscribe(name, qos=granted)
        for qos in range(3):
            peer.publish(name, f"{qos}", qos)
            got = peer.message()
            assert (got.qos, got.payload) == (min(qos, granted), b"%d" % qos), got
            assert not got.dup and not got.retain
        peer.nothing().close()


@both
def case_empty_and_large_payloads(version):
    name = topic()
    peer = client(None, version).subscribe(name, qos=1)
    for size in (0, 1, 127, 128, 16383, 16384, 65536, 1 << 20):
        peer.publish(name, b"p" * size, 1)
        assert len(peer.message().payload) == size
    peer.close()


@both
def case_flags_that_contradict(version):
    client(None, version).send(publish(version, "t", qos=3)).refused(0x81)
    client(None, version).send(publish(version, "t", qos=0, dup=True)).refused(0x81)
    for qos in (1, 2):
        client(None, version).send(publish(version, "t", qos=qos, pid=0)).refused(0x81, 0x82)


@both
def case_topic_names(version):
    for bad in ("a/#", "#", "+", "a/+/b", "a+", "b#"):
        for qos in range(3):
            client(None, version).send(publish(version, bad, qos=qos)).refused(0x81, 0x82, 0x90)
    client(None, version).send(publish(version, "")).refused(0x82, 0x90)
    peer = client(None, version)
    mark = topic()
    for name in (f"/{mark}", f"{mark}/", f"{mark}//x", f"/{mark}//", f"{mark} with space", f"{mark}/" + "l" * 2000,
                 mark + "/" + "/".join("d" * 60)):
        peer.subscribe(name, qos=1).publish(name, name[-9:], 1)
        got = peer.message()
        assert got.topic == name and got.payload == name[-9:].encode()
    peer.publish("/", qos=1)
    peer.nothing().close()


def case_topic_alias_from_the_client():
    one, other = topic("one"), topic("other")
    reader = client(None).subscribe(one, other, qos=1)
    peer = client(None)
    assert peer.connack.props.get("alias_maximum", 0) >= 2
    top = peer.connack.props["alias_maximum"]
    peer.publish(one, b"1", 1, alias=1)
    peer.publish("", b"2", 1, alias=1)
    peer.publish(other, b"3", 1, alias=top)
    peer.publish("", b"4", 0, alias=1)
    peer.publish("", b"5", 2, alias=top)
    peer.publish(other, b"6", 1, alias=1)  # It means something else from now on.
    peer.publish("", b"7", 1, alias=1)
    got = [reader.message() for _ in range(7)]
    assert [(g.topic, g.payload) for g in got] == [
        (one, b"1"), (one, b"2"), (other, b"3"), (one, b"4"), (other, b"5"), (other, b"6"), (other, b"7")], got
    assert all("alias" not in g.props for g in got), "an alias that this client does not take"
    reader.close()
    # Aliases belong to a connection.
    again = Peer().connect(peer.client_id)
    again.send(publish(5, "", b"x", alias=1)).refused(0x82, 0x94)
    client(None).send(publish(5, one, alias=0)).refused(0x94)
    client(None).send(publish(5, one, alias=min(65535, top + 1))).refused(0x94)
    client(None).send(publish(5, "", alias=2)).refused(0x82, 0x94)
    client(None).send(publish(5, one, alias=[1, 2])).refused(0x82)


def case_topic_alias_from_the_server():
    names = [topic(str(n)) for n in range(5)]
    peer = client(None, alias_maximum=3)
    for name in names:
        peer.subscribe(name, qos=1)
    for _ in range(3):
        for name in names:
            peer.publish(name, b"x", 1)
    for n in range(15):
        got = peer.message()
        assert got.topic == names[n % 5] and 0 < got.props.get("alias", 1) <= 3
    peer.close()
    peer = client(None, alias_maximum=1).subscribe(names[0], qos=2)
    for qos in range(3):
        peer.publish(names[0], b"y", qos)
        assert peer.message().topic == names[0]
    peer.close()


def case_properties_are_handed_on_unchanged_and_in_order():
    name = topic()
    user = [("b", "1"), ("a", "2"), ("b", "1"), ("", ""), ("$reply-to", "me"), ("$", "$"), ("b", "0"), ("键", "值")]
    given = {
        "payload_format": 1, "content_type": "application/json", "response_topic": "answer/to/me",
        "correlation": bytes(range(256)), "user": user,
    }
    peer = client(None).subscribe(name, qos=2)
    for qos in range(3):
        for retain in (False, True):
            peer.publish(name, "text", qos, retain=retain, **given)
            got = peer.message()
            assert got.props == given, got.props
    late = client(None).subscribe(name, qos=1)
    assert late.message().props == given
    peer.publish(name, b"", retain=True, qos=1)
    peer.message()
    # Empty values are values.
    empty = {"content_type": "", "correlation": b"", "response_topic": "r"}
    peer.publish(name, b"x", 1, **empty)
    assert peer.message().props == empty
    peer.close()
    # A 3.1.1 subscriber gets the payload alone.
    old = client(None, 4).subscribe(name)
    client(None).publish(name, "text", 1, **given).close()
    assert old.message().payload == b"text"
    old.close()


def case_properties_that_a_client_may_not_send():
    for bad in ({"subscription_id": 1}, {"response_topic": "a/#"}, {"response_topic": "a/+/b"},
                {"content_type": ["a", "b"]}, {"payload_format": 2}, {"payload_format": [1, 1]},
                {"session_expiry": 4}, {"message_expiry": [1, 2]}, {"reason_string": "x"}):
        client(None).send(publish(5, "t", b"x", 1, **bad)).refused(0x81, 0x82, 0x90)
    for section in (b"\x02\x7f\0", b"\x03\x26\0\0", b"\x80\x80\x80\x80\x01", b"\x05\x01"):
        client(None).send(publish(5, "t", b"", 1, section=section)).refused(0x81)


def case_payload_that_is_not_the_text_it_says():
    name = topic()
    peer = client(None).subscribe(name)
    peer.publish(name, b"\xff\xfe", 1, reason=0x99, payload_format=1)
    peer.publish(name, b"\xff\xfe", 2, reason=0x99, payload_format=1)
    peer.publish(name, b"\xff\xfe", 1, payload_format=0)
    peer.publish(name, b"a\0b", 1, payload_format=1)
    assert peer.message().payload == b"\xff\xfe"
    assert peer.message().payload == b"a\0b"
    peer.nothing().close()


def case_message_expiry():
    name = topic()
    away = client(None, session_expiry=60).subscribe(name, qos=1)
    away.close()
    sender = client(None)
    sender.publish(name, b"short", 1, message_expiry=1)
    sender.publish(name, b"long", 1, message_expiry=100)
    sender.publish(name, b"never", 1)
    sender.publish(name, b"at once", 1, retain=True, message_expiry=1)
    here = client(None).subscribe(name, qos=1)
    got = here.message()
    assert got.payload == b"at once" and got.props["message_expiry"] == 1
    here.close()
    time.sleep(2.1)
    away = client(away.client_id, clean=False)
    got = [away.message(), away.message()]
    assert [g.payload for g in got] == [b"long", b"never"], got
    assert 96 <= got[0].props["message_expiry"] <= 98, got[0].props
    assert "message_expiry" not in got[1].props
    away.nothing()
    late = client(None).subscribe(name, qos=1)
    late.nothing().close()
    sender.publish(name, b"", 1, retain=True)
    away.close()


@both
def case_qos_1_may_repeat_what_is_sent_again(version):
    name = topic()
    peer = client(None, version).subscribe(name, qos=1)
    for dup in (False, True):
        peer.send(publish(version, name, b"x", 1, dup=dup, pid=7))
        assert peer.expect(PUBACK).pid == 7
        assert not peer.message().dup, "DUP was handed on"
    peer.close()


@both
def case_qos_2_takes_a_publish_once(version):
    name = topic()
    peer = client(None, version).subscribe(name, qos=2)
    peer.send(publish(version, name, b"x", 2, pid=7))
    assert peer.expect(PUBREC).pid == 7
    for _ in range(3):
        peer.send(publish(version, name, b"x", 2, dup=True, pid=7))
        got = peer.expect(PUBREC)
        assert got.pid == 7 and got.reason in (0, 0x10)
    assert peer.message().payload == b"x"
    peer.release(7)
    peer.nothing()
    # The identifier is free again and means a new message.
    peer.publish(name, b"y", 2, pid=7)
    assert peer.message().payload == b"y"
    peer.nothing().close()


@both
def case_qos_2_over_a_lost_connection_is_taken_once(version):
    name = topic()
    reader = client(None, version).subscribe(name, qos=2)
    keep = {"session_expiry": 60} if version == 5 else {"clean": False}
    peer = client(None, version, **keep)
    peer.send(publish(version, name, b"x", 2, pid=40))
    peer.expect(PUBREC)
    peer.drop()
    for _ in range(2):
        again = client(peer.client_id, version, **dict(keep, clean=False))
        assert again.connack.present
        again.send(publish(version, name, b"x", 2, dup=True, pid=40))
        assert again.expect(PUBREC).pid == 40
        again.drop()
    again = client(peer.client_id, version, **dict(keep, clean=False))
    again.release(40)
    again.publish(name, b"y", 2, pid=40)
    again.close()
    assert reader.payloads(2) == ["x", "y"]
    reader.nothing().close()
    client(peer.client_id, version).close()


@both
def case_pubrel_of_nothing(version):
    peer = client(None, version).send(ack(PUBREL, 4321))
    got = peer.expect(PUBCOMP)
    assert got.pid == 4321 and got.reason == (0x92 if version == 5 else 0), got
    peer.sync().close()


@both
def case_acknowledgements_of_nothing(version):
    peer = client(None, version)
    peer.send(ack(PUBACK, 999), ack(PUBCOMP, 999)).sync()
    peer.send(ack(PUBREC, 998))
    got = peer.expect(PUBREL)
    assert got.pid == 998 and got.reason == (0x92 if version == 5 else 0)
    peer.sync().close()


def case_acknowledgements_with_wrong_reasons():
    for kind in (PUBACK, PUBREC, PUBREL, PUBCOMP):
        client(None).send(ack(kind, 5, 0x01)).refused(0x81, 0x82)
        client(None).send(ack(kind, 5, 0, receive_maximum=5)).refused(0x81, 0x82)
        client(None).send(ack(kind, 0)).refused(0x81, 0x82)
        client(None, 4).send(packet(kind << 4 | (2 if kind == PUBREL else 0), b"\0\5\0")).refused()


def case_pubrec_with_an_error_ends_the_exchange():
    name = topic()
    peer = client(None, receive_maximum=1).subscribe(name, qos=2)
    peer.publish(name, b"refused", 2)
    peer.publish(name, b"taken", 2)
    got = peer.receive()
    peer.send(ack(PUBREC, got.pid, 0x83, reason_string="no", user=("a", "b")))
    second = peer.receive()  # There is room again, and no PUBREL came before.
    assert second.payload == b"taken" and not peer.queue
    peer.send(ack(PUBREC, second.pid))
    peer.expect(PUBREL)
    peer.send(ack(PUBCOMP, second.pid))
    peer.nothing().close()
    again = client(None, receive_maximum=1).subscribe(name, qos=1)
    again.publish(name, b"refused", 1).publish(name, b"taken", 1)
    got = again.receive()
    again.send(ack(PUBACK, got.pid, 0x87))
    assert again.message().payload == b"taken"
    again.nothing().close()


@both
def case_pubrec_does_not_release_qos_1(version):
    """PUBREC for a QoS 1 message changes nothing about it."""
    name = topic()
    keep = {"session_expiry": 60} if version == 5 else {"clean": False}
    peer = client(None, version, **keep).subscribe(name, qos=1)
    peer.publish(name, b"x", 1)
    got = peer.receive()
    peer.send(ack(PUBREC, got.pid))
    peer.expect(PUBREL)
    peer.drop()
    again = client(peer.client_id, version, **dict(keep, clean=False))
    back = again.message()
    assert back.payload == b"x" and back.dup and back.pid == got.pid, back
    again.close()
    client(peer.client_id, version).close()


@both
def case_redelivery_in_order(version):
    """QoS 1 and 2 not acknowledged come again with DUP, the same identifiers, in the same order."""
    name = topic()
    keep = {"session_expiry": 60} if version == 5 else {"clean": False}
    peer = client(None, version, **keep).subscribe(name, qos=2)
    sender = client(None, version)
    for n in range(20):
        sender.publish(name, str(n), 1 + n % 2)
    first = [peer.receive() for _ in range(20)]
    # Three are done, two are half done, one is done in the middle.
    peer.send(ack(PUBACK, first[0].pid), ack(PUBREC, first[1].pid), ack(PUBACK, first[6].pid))
    assert peer.expect(PUBREL).pid == first[1].pid
    peer.send(ack(PUBCOMP, first[1].pid), ack(PUBREC, first[3].pid), ack(PUBREC, first[5].pid))
    assert [peer.expect(PUBREL).pid, peer.expect(PUBREL).pid] == [first[3].pid, first[5].pid]
    peer.sync().drop()
    sender.publish(name, "new", 1)
    again = client(peer.client_id, version, **dict(keep, clean=False))
    assert again.connack.present
    released, seen = [], []
    while len(released) + len(seen) < 17 + 1:
        got = again.read()
        if got.kind == PUBREL:
            released.append(got.pid)
        else:
            assert got.kind == PUBLISH, got
            seen.append(got)
    assert released == [first[3].pid, first[5].pid], released
    want = [f for n, f in enumerate(first) if n not in (0, 1, 3, 5, 6)]
    assert [(g.pid, g.payload, g.qos) for g in seen[:-1]] == [(f.pid, f.payload, f.qos) for f in want], seen
    assert all(g.dup for g in seen[:-1]) and not seen[-1].dup and seen[-1].payload == b"new"
    for got in seen:
        again.send(ack(PUBACK if got.qos == 1 else PUBREC, got.pid))
    for pid in released:
        again.send(ack(PUBCOMP, pid))
    for got in seen:
        if got.qos == 2:
            assert again.expect(PUBREL).pid == got.pid
            again.send(ack(PUBCOMP, got.pid))
    again.sync()
    again.drop()
    third = client(peer.client_id, version, **dict(keep, clean=False))
    third.nothing().close()
    sender.close()
    client(peer.client_id, version).close()


@both
def case_no_redelivery_on_a_connection_that_lives(version):
    name = topic()
    peer = client(None, version).subscribe(name, qos=1)
    peer.publish(name, b"x", 1)
    peer.receive()
    peer.nothing(2).close()


@both
def case_order_of_one_publisher(version):
    name = topic()
    reader = client(None, version).subscribe(name, qos=2)
    sender = client(None, version)
    for qos in range(3):
        sender.send(*[publish(version, name, f"{qos} {n}", qos, pid=n + 1) for n in range(300)])
        for n in range(300):
            if qos:
                assert sender.expect(PUBACK if qos == 1 else PUBREC).pid == n + 1
            if qos == 2:
                sender.send(ack(PUBREL, n + 1))
        for n in range(300):
            if qos == 2:
                assert sender.expect(PUBCOMP).pid == n + 1
        got = [reader.message().payload.decode() for _ in range(300)]
        assert got == [f"{qos} {n}" for n in range(300)], f"qos {qos}: {got[:5]}"
    reader.close(), sender.close()


def case_receive_maximum_of_the_client():
    name = topic()
    peer = client(None, receive_maximum=3).subscribe(name, qos=2)
    sender = client(None)
    for n in range(10):
        sender.publish(name, str(n), 1 + n % 2)
        sender.publish(name, f"free {n}", 0)
    flying, free = [], 0
    while True:
        try:
            got = peer.receive(1)
        except Wrong:
            break
        if got.qos:
            flying.append(got)
        else:
            free += 1
    assert len(flying) == 3, f"{len(flying)} at a time, {free} of QoS 0"
    # A QoS 2 message counts until PUBCOMP.
    assert flying[1].qos == 2
    peer.send(ack(PUBREC, flying[1].pid))
    peer.expect(PUBREL)
    peer.queue = []
    peer.nothing(0.5)
    peer.send(ack(PUBCOMP, flying[1].pid))
    order = [f.payload for f in flying]
    flying = [flying[0], flying[2]]
    while len(order) < 10:
        got = peer.receive()
        if not got.qos:
            continue
        order.append(got.payload)
        flying.append(got)
        assert len(flying) <= 3
        done = flying.pop(0)
        if done.qos == 1:
            peer.send(ack(PUBACK, done.pid))
        else:
            peer.send(ack(PUBREC, done.pid))
            peer.expect(PUBREL)
            peer.send(ack(PUBCOMP, done.pid))
    assert order == [b"%d" % n for n in range(10)], order
    peer.close(), sender.close()


def case_receive_maximum_of_the_server():
    peer = client(None)
    top = peer.connack.props.get("receive_maximum", 65535)
    assert top < 65535, "a client could never exceed it"
    name = topic()
    for begin in range(1, top + 1, 500):
        last = min(begin + 500, top + 1)
        peer.send(*[publish(5, name, b"", 2, pid=n) for n in range(begin, last)])
        for n in range(begin, last):
            assert peer.expect(PUBREC).pid == n
    # One is finished: there is room for one. A repetition needs no room.
    peer.release(1)
    peer.send(publish(5, name, b"", 2, pid=1), publish(5, name, b"", 2, pid=2, dup=True), publish(5, name, b""))
    assert peer.expect(PUBREC).pid == 1 and peer.expect(PUBREC).pid == 2
    peer.send(publish(5, name, b"", 1, pid=top + 1)).refused(0x93)


def case_maximum_packet_of_the_client():
    name = topic()
    size = 100
    peer = client(None, maximum_packet=size).subscribe(name, qos=1)
    sender = client(None)
    for qos in (0, 1):
        whole = len(publish(5, name, b"", qos))
        sender.publish(name, b"a" * (size - whole + 1), qos)
        sender.publish(name, b"b" * (size - whole), qos)
        sender.publish(name, b"c" * (size - whole), qos, user=("too", "much"))
        sender.publish(name, b"d", qos)
        got = [peer.message(), peer.message()]
        assert [g.payload[:1] for g in got] == [b"b", b"d"], got
        peer.nothing()
    peer.close()
    # What was too large counts as delivered: nothing waits for the next connection, nor blocks it.
    away = client(None, maximum_packet=size, session_expiry=60, receive_maximum=1).subscribe(name, qos=1)
    away.close()
    sender.publish(name, b"e" * 200, 1)
    sender.publish(name, b"f", 1)
    away = client(away.client_id, clean=False, maximum_packet=size, receive_maximum=1)
    assert away.message().payload == b"f"
    away.nothing().close()
    # With aliases every message that fits without them still fits.
    sized = client(None, maximum_packet=size, alias_maximum=5).subscribe(name, qos=1)
    for _ in range(2):
        sender.publish(name, b"g" * (size - len(publish(5, name, b"", 1))), 1)
        got = sized.message()
        assert got.payload[:1] == b"g"
    sized.close(), sender.close()


def case_maximum_packet_of_the_server():
    peer = client(None)
    top = peer.connack.props["maximum_packet"]
    peer.send(b"\x30" + wire_length(top + 1) + b"\0" * 10).refused(0x95)
    # What is announced can be sent to the last byte, at every QoS, kept, and received.
    name = topic()
    peer = client(None)
    reader = client(None).subscribe(name, qos=2)
    late = client(None)
    for qos in range(3):
        shell = len(publish(5, name, b"", qos))
        room = top - shell - 3
        whole = publish(5, name, b"z" * room, qos, pid=9, retain=True)
        assert len(whole) == top
        peer.send(whole)
        if qos:
            assert peer.expect(PUBACK if qos == 1 else PUBREC).reason == 0
        if qos == 2:
            peer.release(9)
        peer.sync()
        assert reader.message().payload == b"z" * room
    late.subscribe(name, qos=1)
    got = late.message()
    assert got.retain and len(got.payload) == room
    peer.publish(name, b"", 1, retain=True)
    for other in (peer, reader, late):
        other.close()


def wire_length(total):
    from wire import variable
    for width in range(1, 5):
        if len(variable(total - 1 - width)) == width:
            return variable(total - 1 - width)
    raise Wrong("no such length")


@both
def case_slow_reader_is_bounded_and_loses_no_qos_1(version):
    """A subscriber that does not read costs the server no memory and its neighbours nothing."""
    name = topic()
    keep = {"session_expiry": 60} if version == 5 else {"clean": False}
    slow = client(None, version, **keep)
    slow.subscribe(name, qos=1)
    quick = client(None, version).subscribe(name, qos=1)
    sender = client(None, version)
    count, payload = 3000, b"s" * 4000
    for begin in range(0, count, 100):
        sender.send(*[publish(version, name, b"%07d" % n + payload, 1, pid=n % 65535 + 1)
                      for n in range(begin, begin + 100)])
        for n in range(begin, begin + 100):
            sender.expect(PUBACK)
        for n in range(begin, begin + 100):
            assert int(quick.message().payload[:7]) == n
    for n in range(count):
        got = slow.message()
        assert int(got.payload[:7]) == n, f"{got.payload[:7]} instead of {n}"
    slow.nothing()
    for peer in (slow, quick, sender):
        peer.close()
    client(slow.client_id, version).close()


def case_sender_that_does_not_read_its_acknowledgements():
    name = topic()
    peer = client(None, 4)
    peer.sock.settimeout(2)
    block = b"".join(publish(4, name, b"", 1, pid=n + 1) for n in range(1000))
    try:
        for _ in range(200):
            peer.sock.sendall(block)
    except TimeoutError:
        pass  # The server stopped reading: that is a bound, too.
    peer.drop()
    client(None).sync().close()

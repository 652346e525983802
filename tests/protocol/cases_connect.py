"""CONNECT, CONNACK, PINGREQ, DISCONNECT, AUTH, and what is no packet at all."""

import random
import socket
import time

from wire import (
    AUTH, CONNACK, LATE, PINGRESP, Peer, Wrong, ack, both, client, connect, disconnect, packet, properties, publish,
    subscribe, topic, unsubscribe, will_of,
)


@both
def case_connect_and_session_present(version):
    peer = client("present" + str(version), version)
    assert not peer.connack.present
    peer.close()
    keep = {"session_expiry": 60} if version == 5 else {}
    first = client("kept" + str(version), version, clean=True, **keep) if version == 5 else \
        client("kept4", 4, clean=False)
    assert not first.connack.present
    first.close()
    second = client("kept" + str(version), version, clean=False, **keep)
    assert second.connack.present, "the session was not there"
    second.close()
    third = client("kept" + str(version), version, clean=True)
    assert not third.connack.present
    third.close()
    fourth = client("kept" + str(version), version, clean=False)
    assert not fourth.connack.present, "a clean start left the old session behind"
    fourth.close()
    client("kept" + str(version), version, clean=True).close()


def case_protocol_name_and_level():
    for name in ("MQTX", "mqtt", "", "MQTTT"):
        peer = Peer(4).send(connect(4, "n", name=name))
        said = peer.refused()
        assert said is None or said.reason == 1, said
    for level in (3, 0, 7, 255):
        peer = Peer(4).send(connect(4, "n", level=level))
        answer = peer.expect(CONNACK)
        assert (answer.present, answer.reason) == (False, 1), answer
        peer.gone()
    peer = Peer(4).send(connect(4, "n", name="MQIsdp", level=3))
    assert peer.expect(CONNACK).reason == 1
    peer.gone()
    for level in (6, 200):
        peer = Peer(5).send(connect(5, "n", level=level, receive_maximum=9))
        assert peer.expect(CONNACK).reason == 0x84
        peer.gone()


@both
def case_reserved_connect_flag(version):
    Peer(version).send(connect(version, "n", flags=3)).refused(0x81, None)


@both
def case_will_flags(version):
    for flags in (0x08 | 2, 0x10 | 2, 0x20 | 2):
        Peer(version).send(connect(version, "n", flags=flags)).refused(0x81, None)
    will = will_of("w", b"x")
    Peer(version).send(connect(version, "n", will=will, flags=0x1C | 2)).refused(0x81, None)
    # The flag without the fields, and the fields without the flag.
    Peer(version).send(connect(version, "n", flags=6)).refused(0x81, None)
    Peer(version).send(connect(version, "n", will=will, flags=2)).refused(0x81, None)


@both
def case_will_topic_is_a_topic_name(version):
    for bad in ("", "a/#", "+/b", "a\0b"):
        Peer(version).send(connect(version, "n", will=will_of(bad))).refused(0x81, 0x82, 0x90, None)


@both
def case_empty_client_id(version):
    first, second = Peer(version).connect("", clean=True), Peer(version).connect("", clean=True)
    assert first.connack.props.get("assigned_id") != second.connack.props.get("assigned_id") or version == 4
    first.sync(), second.sync()
    first.close(), second.close()
    if version == 4:
        peer = Peer(4).send(connect(4, "", clean=False))
        assert peer.expect(CONNACK).reason == 2
        peer.gone()


def case_assigned_client_id_names_the_session():
    first = Peer().connect("", clean=False, session_expiry=60)
    name = first.connack.props["assigned_id"]
    assert name and not first.connack.present
    first.close()
    second = client(name, clean=False)
    assert second.connack.present and "assigned_id" not in second.connack.props
    second.close()


@both
def case_client_ids_that_must_be_allowed(version):
    for name in ("0123456789abcdefghijklm", "ABCDEFGHIJKLMNOPQRSTUVW", "nopqrstuvwxyzXYZ", "电表-7", "a/b+c#d $"):
        client(name + str(version), version).sync().close()
    client("n" * 1024, version).sync().close()
    peer = Peer(version).send(connect(version, "n" * 1025))
    assert peer.expect(CONNACK).reason == (0x85 if version == 5 else 2)
    peer.gone()


@both
def case_user_name_and_password_fields(version):
    client(None, version, username="u", password=b"\0\xff").close()
    client(None, version, username="").close()
    if version == 4:
        Peer(4).send(connect(4, "n", password=b"x")).refused()
    else:
        client(None, 5, password=b"x").close()
    # The flags say there is a user name; there is none.
    Peer(version).send(connect(version, "n", flags=0x82)).refused(0x81, None)


@both
def case_second_connect(version):
    peer = client(None, version)
    peer.send(connect(version, "other")).refused(0x82)


@both
def case_bytes_after_the_payload(version):
    Peer(version).send(connect(version, "n", tail=b"\0")).refused(0x81, None)


@both
def case_text_that_is_not_utf8(version):
    bad = (b"\xff", b"a\0b", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82")
    for text in bad:
        Peer(version).send(connect(version, text)).refused(0x81, 0x85, None)
        Peer(version).send(connect(version, "n", username=text)).refused(0x81, None)
        Peer(version).send(connect(version, "n", will=will_of(text))).refused(0x81, 0x90, None)
        client(None, version).send(publish(version, text)).refused(0x81, 0x90)
        client(None, version).send(subscribe(version, [(text, 0)])).refused(0x81, 0x8F)
        client(None, version).send(unsubscribe(version, [text])).refused(0x81, 0x8F)


@both
def case_text_that_is_utf8(version):
    """U+FEFF is not stripped, whatever the plane of a character."""
    name = topic("\ufeff电\U0001f600 x")
    peer = client(None, version).subscribe(name).publish(name, "\ufeff")
    got = peer.message()
    assert (got.topic, got.payload) == (name, b"\xef\xbb\xbf")
    peer.close()


def case_connect_properties():
    peer = client(None, session_expiry=5, receive_maximum=1, maximum_packet=1000, alias_maximum=0,
                  request_response=1, request_problem=1, user=[("a", "b"), ("a", "b")])
    peer.sync().close()
    wrong = {
        0x82: [
            properties(session_expiry=[1, 1]), properties(receive_maximum=0), properties(maximum_packet=0),
            properties(request_problem=2), properties(request_response=2), properties(auth_data=b"x"),
            properties(receive_maximum=[1, 2]), properties(alias_maximum=[1, 2]),
        ],
        0x81: [
            properties(alias=1), properties(content_type="x"), b"\x02\x7f\x00", b"\x7f", b"\x05\x11\0\0",
            b"\xff\xff\xff\xff\x7f", properties(subscription_id=1), properties(will_delay=1),
        ],
    }
    for reason, sections in wrong.items():
        for section in sections:
            peer = Peer().send(connect(5, "n", section=section))
            said = peer.refused(0x81, 0x82, None)
            assert said is None or said.reason == reason or reason == 0x81, (section, said)


def case_will_properties_are_checked():
    for bad in ({"payload_format": 2}, {"content_type": ["a", "b"]}, {"alias": 1}, {"response_topic": "a/+"},
                {"session_expiry": 1}, {"will_delay": [1, 2]}):
        Peer().send(connect(5, "n", will=will_of("w", **bad))).refused(0x81, 0x82, 0x90, None)
    Peer().send(connect(5, "n", will=will_of("w", b"\xff", payload_format=1))).refused(0x81, 0x82, 0x99, None)


def case_unknown_authentication_method():
    peer = Peer().send(connect(5, "n", auth_method="SCRAM-SHA-1", auth_data=b"n,,n=user"))
    assert peer.expect(CONNACK).reason in (0x8C, 0x87)
    peer.gone()


def case_connack_properties_are_within_bounds():
    peer = client("short", session_expiry=7, keep_alive=17)
    props = peer.connack.props
    assert props.get("receive_maximum", 65535) > 0
    assert props.get("maximum_packet", 1 << 20) > 1 << 16
    assert props.get("session_expiry", 7) == 7 and "assigned_id" not in props
    for name in ("retain_available", "wildcard_available", "ids_available", "shared_available"):
        assert props.get(name, 1) == 1, f"{name} is {props[name]}"
    assert "maximum_qos" not in props
    assert 0 < props.get("server_keep_alive", 17) <= 17
    client("short", clean=True).close()


def case_problem_information_can_be_switched_off():
    """Without it, only PUBLISH, CONNACK and DISCONNECT may explain themselves."""
    peer = client(None, request_problem=0)
    peer.send(ack(6, 77))
    answer = peer.expect(7)
    assert answer.reason == 0x92 and not answer.props, answer
    peer.publish("$SYS/x", qos=1, reason=0x87)
    peer.unsubscribe("never/was", codes=[0x11])
    peer.close()


@both
def case_everything_in_one_segment(version):
    name = topic()
    peer = Peer(version)
    peer.send(
        connect(version, "one-segment" + str(version)), subscribe(version, [(name, 1)]),
        publish(version, name, b"a", 1, pid=2), b"\xc0\0", publish(version, name, b"b", 2, pid=3), ack(6, 3),
        publish(version, name, b"c"), b"\xc0\0",
    )
    assert peer.expect(CONNACK).reason == 0
    assert sorted(peer.payloads(3)) == ["a", "b", "c"]
    peer.expect(PINGRESP), peer.expect(PINGRESP)
    assert peer.expect(4).pid == 2 and peer.expect(5).pid == 3 and peer.expect(7).pid == 3
    peer.close()


@both
def case_byte_by_byte(version):
    name = topic()
    peer = Peer(version)
    whole = connect(version, "by-byte" + str(version), will=will_of("never", b"x")) + \
        subscribe(version, [(name, 2)]) + publish(version, name, b"y" * 300, 1, pid=9) + b"\xc0\0"
    for at in range(len(whole)):
        peer.send(whole[at:at + 1])
    assert peer.expect(CONNACK).reason == 0
    assert peer.message().payload == b"y" * 300
    peer.expect(PINGRESP)
    peer.close()


@both
def case_what_comes_before_connect_ends_the_connection(version):
    for first in (publish(version, "t"), subscribe(version, [("t", 0)]), b"\xc0\0", b"\xe0\0", ack(4, 1),
                  b"\x20\x02\0\0", b"\xf0\0", b"\0\0", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0"):
        Peer(version).send(first, connect(version, "n")).gone()


@both
def case_the_reason_is_heard_by_a_client_that_still_sends(version):
    """A socket that is closed over unread bytes is reset, and its last packet is lost."""
    for _ in range(5):
        peer = client(None, version)
        peer.send(b"\x30\xff\xff\xff\x7f", b"\0" * 4_000_000)
        peer.send(b"\0" * 1_000_000)
        time.sleep(0.05)
        peer.refused(0x95)


@both
def case_packets_that_only_servers_send(version):
    for wrong in (b"\x20\x02\0\0", b"\x20\x03\0\0\0", b"\x90\x03\0\1\0", b"\x90\x04\0\1\0\0", b"\xb0\x02\0\1",
                  b"\xb0\x04\0\1\0\0", b"\xd0\0"):
        client(None, version).send(wrong).refused(0x81, 0x82)


@both
def case_reserved_flags_of_the_fixed_header(version):
    wrong = [0x11, 0x41, 0x51, 0x60, 0x63, 0x71, 0x80, 0x83, 0x8F, 0xA0, 0xC1, 0xE1, 0x00, 0x0F]
    for header in wrong:
        body = {6: b"\0\1", 4: b"\0\1", 5: b"\0\1", 7: b"\0\1"}.get(header >> 4, b"")
        if header >> 4 == 8:
            body = subscribe(version, [("t", 0)])[2:]
        if header >> 4 == 10:
            body = unsubscribe(version, ["t"])[2:]
        client(None, version).send(packet(header, body)).refused(0x81, 0x82)


@both
def case_remaining_length(version):
    Peer(version).send(b"\x10\xff\xff\xff\xff\x7f" + b"\0" * 9).gone()
    client(None, version).send(b"\x30\xff\xff\xff\xff\x01").refused(0x81)
    client(None, version).send(b"\x30\x80\x80\x80\x80\x01").refused(0x81)
    # As long as a packet may say it is; the server need not wait for its bytes.
    client(None, version).send(b"\x30\xff\xff\xff\x7f" + b"\0" * 64).refused(0x95)
    Peer(version).send(b"\x10\xff\xff\xff\x7f" + b"\0" * 64).refused(0x95, None)


def case_packets_cut_short():
    """A remaining length that ends inside a field."""
    for version in (4, 5):
        for whole in (publish(version, "topic", b"x", 1), subscribe(version, [("topic", 1)]),
                      unsubscribe(version, ["topic"]), ack(6, 5)):
            for size in range(len(whole) - 2):
                if whole[0] >> 4 == 3 and size >= (10 if version == 5 else 9):
                    continue  # Only payload is missing: a valid packet.
                peer = client(None, version)
                peer.send(bytes([whole[0], size]) + whole[2:2 + size])
                peer.send(b"")
                peer.refused(0x81, 0x82, 0x8F, 0x90)


@both
def case_ping(version):
    peer = client(None, version)
    for _ in range(3):
        peer.sync()
    peer.send(b"\xc0\1\0").refused(0x81)


@both
def case_keep_alive(version):
    name = topic()
    reader = client(None, version).subscribe(name, qos=1)
    begun = time.monotonic()
    silent = client(None, version, keep_alive=1, will=will_of(name, b"silent", 1))
    held = client(None, version, keep_alive=1, will=will_of(name, b"held", 1))
    forever = client(None, version, keep_alive=0)
    while time.monotonic() - begun < 1.2:
        held.sync()
        time.sleep(0.1)
    silent.refused(0x8D)
    took = time.monotonic() - begun
    assert 1.4 <= took < 1.5 + LATE, took
    assert reader.message().payload == b"silent"
    held.refused(0x8D)
    assert 2.4 < time.monotonic() - begun < 3 + LATE
    assert reader.message().payload == b"held"
    time.sleep(1)
    forever.sync().close()
    reader.close()


def case_connect_does_not_come():
    begun = time.monotonic()
    peers = [Peer(version) for version in (4, 5)]
    peers += [Peer(version).send(connect(version, "n")[:9]) for version in (4, 5)]
    for peer in peers:
        peer.gone()
    assert time.monotonic() - begun > 1


@both
def case_disconnect(version):
    name = topic()
    reader = client(None, version).subscribe(name)
    client(None, version, will=will_of(name, b"will")).close()
    # Nothing counts that comes behind it.
    peer = client(None, version)
    peer.send(disconnect(), publish(version, name, b"late"))
    peer.gone()
    reader.nothing().close()


def case_disconnect_reason_codes():
    for reason in (0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99):
        client(None).close(reason, reason_string="so", user=("a", "b"))
    for reason in (0x01, 0x8B, 0x8D, 0x8E, 0x9C, 0xA2, 0x7F):
        client(None).send(disconnect(reason)).refused(0x81, 0x82)
    client(None).send(disconnect(0, server_reference="elsewhere")).refused(0x81, 0x82)
    client(None).send(disconnect(0, receive_maximum=4)).refused(0x81, 0x82)
    client(None, 4).send(b"\xe0\1\0").refused()


def case_auth_without_a_method():
    client(None).send(packet(AUTH << 4, b"\x19" + properties(auth_method="x"))).refused(0x82)
    client(None).send(packet(AUTH << 4)).refused(0x82)
    client(None, 4).send(packet(AUTH << 4)).refused()


def case_reason_strings_fit_the_client():
    """A packet that would not fit the client's maximum goes without its reason string."""
    peer = client(None, maximum_packet=30)
    peer.send(publish(5, "a/#", b"x"))
    assert peer.refused(0x90, 0x81, 0x82) is not None
    peer = Peer().send(connect(5, "n", maximum_packet=24, auth_method="none"))
    got = peer.expect(CONNACK)
    assert got.size + 2 <= 24, f"CONNACK of {got.size + 2} bytes"
    # A client that cannot even take its CONNACK, or the answer to what it asks.
    peer = Peer().send(connect(5, "", maximum_packet=6))
    assert peer.expect(CONNACK).reason == 0x95
    peer.gone()
    client(None, maximum_packet=100).send(subscribe(5, [("t", 0)] * 200)).refused(0x95)


@both
def case_many_connections_come_and_go(version):
    for _ in range(50):
        client("same" + str(version), version).close()
    peers = [client(None, version) for _ in range(200)]
    for peer in peers:
        peer.sync()
    for peer in peers:
        peer.drop()
    client(None, version).sync().close()


def case_damaged_bytes_harm_nobody_else():
    """Whatever comes, each answer is well formed and the others are served."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    watch = client(None)
    try:
        for _ in range(400):
            version = chance.choice((4, 5))
            name = topic()
            props = {"user": [("a", "b")]} if version == 5 else {}
            parts = [
                connect(version, "damaged", will=will_of(name, b"w", 1, **props), username="u", password=b"p"),
                subscribe(version, [(name, 1), (f"{name}/#", 2)], 2), publish(version, name, b"x" * 40, 1, pid=3, **props),
                publish(version, name, b"y", 2, pid=4), ack(6, 4), unsubscribe(version, [name], 5), b"\xc0\0",
            ]
            data = bytearray(b"".join(parts))
            for _ in range(chance.randrange(1, 4)):
                at = chance.randrange(len(data))
                if chance.random() < 0.2:
                    del data[at:at + chance.randrange(1, 9)]
                else:
                    data[at] = chance.choice((0, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            peer = Peer(version).send(bytes(data))
            peer.sock.shutdown(socket.SHUT_WR)
            if bytes(data[:16]) != parts[0][:16]:
                peer.sock.close()  # Its version may be another one now.
                continue
            while peer.read() is not None:
                pass
        watch.sync()
    except Exception as why:
        raise Wrong(f"seed {seed}: {why}") from why


def case_refusals_fit_the_client():
    """A CONNACK that is larger than the client takes is not sent; the connection just ends."""
    for largest in (1, 2, 4):
        peer = Peer(5).send(connect(5, "tiny", maximum_packet=largest))
        peer.gone()
    peer = Peer(5).send(connect(5, "tiny", maximum_packet=5))
    assert peer.expect(CONNACK).reason == 0x95
    peer.gone()

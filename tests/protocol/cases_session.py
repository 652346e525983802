"""Sessions, their end, take-over, wills, and WebSocket."""

import base64
import os
import socket
import struct
import time

from wire import (
    CONNACK, PUBACK, WAIT, Peer, Wrong, both, client, connect, disconnect, publish, subscribe, topic, will_of,
)

# Seconds that a will which nobody waits for is delayed: so many that a slow machine is not taken for it.
WILL_DELAY_FAR = 600


def kept(version, client_id=None, seconds=60, clean=True, **how):
    """A client whose session outlives its connection."""
    if version == 4:
        return client(client_id, 4, clean=False, **how)
    return client(client_id, 5, clean=clean, session_expiry=seconds, **how)


def forget(peer, version):
    client(peer.client_id, version).close()


@both
def case_messages_wait_for_a_session(version):
    name = topic()
    away = kept(version).subscribe(f"{name}/#", qos=1)
    away.close()
    sender = client(None, version)
    for n in range(50):
        sender.publish(f"{name}/{n % 3}", str(n), 1 + n % 2)
    again = kept(version, away.client_id, clean=False)
    assert again.connack.present
    got = [again.message() for _ in range(50)]
    assert [g.payload for g in got] == [b"%d" % n for n in range(50)], got
    assert all(g.qos == 1 and not g.dup and not g.retain for g in got)
    # The subscription is still there.
    sender.publish(f"{name}/9", b"live", 1)
    assert again.message().payload == b"live"
    again.nothing().close(), sender.close()
    forget(away, version)


@both
def case_a_clean_start_forgets(version):
    name = topic()
    away = kept(version).subscribe(name, qos=1)
    away.close()
    client(None, version).publish(name, b"lost", 1).close()
    fresh = client(away.client_id, version, clean=True)
    assert not fresh.connack.present
    fresh.publish(name, b"x", 1)
    fresh.nothing().close()


@both
def case_retained_is_not_sent_for_a_session_that_resumes(version):
    name = topic()
    sender = client(None, version).publish(name, b"kept", 1, retain=True)
    away = kept(version).subscribe(name, qos=1)
    assert away.message().retain
    away.close()
    again = kept(version, away.client_id, clean=False)
    again.nothing().close()
    sender.publish(name, b"", 1, retain=True).close()
    forget(away, version)


def case_session_expiry():
    name = topic()
    for first, last, stays in ((0, None, False), (None, None, False), (1, None, False), (60, None, True),
                               (0xFFFFFFFF, None, True), (60, 1, False), (60, 0, False), (1, 60, True)):
        given = {} if first is None else {"session_expiry": first}
        peer = client(None, **given).subscribe(name, qos=1)
        peer.close(0, **({} if last is None else {"session_expiry": last}))
        if 1 in (first, last):
            time.sleep(1.7)
        again = client(peer.client_id, clean=False)
        assert again.connack.present == stays, (first, last)
        again.close()


def case_session_expiry_cannot_be_raised_from_zero():
    peer = client(None)
    peer.send(disconnect(0, session_expiry=10)).refused(0x82)


def case_session_expiry_is_set_anew_by_each_connect():
    peer = client(None, session_expiry=60)
    peer.close()
    again = client(peer.client_id, clean=False)  # Absent: it ends with this connection.
    assert again.connack.present
    again.close()
    third = client(peer.client_id, clean=False)
    assert not third.connack.present
    third.close()


def case_sessions_are_shared_by_the_versions():
    name = topic()
    old = client(None, 4, clean=False).subscribe(name, qos=1)
    old.close()
    client(None).publish(name, b"x", 1, content_type="t").close()
    new = client(old.client_id, 5, clean=False, session_expiry=60)
    assert new.connack.present
    assert new.message().props == {"content_type": "t"}
    new.close()
    back = client(old.client_id, 4, clean=True)
    back.close()


@both
def case_take_over(version):
    name = topic()
    reader = client(None, version).subscribe(name, qos=1)
    first = kept(version, will=will_of(name, b"will", 1)).subscribe(f"{name}/own", qos=1)
    second = kept(version, first.client_id, clean=False)
    assert second.connack.present
    first.refused(0x8E)
    assert reader.message().payload == b"will", "the old connection was closed without DISCONNECT"
    second.publish(f"{name}/own", b"x", 1)
    assert second.message().payload == b"x"
    third = client(first.client_id, version, clean=True)
    assert not third.connack.present
    second.refused(0x8E)
    third.publish(f"{name}/own", b"x", 1)
    third.nothing().close(), reader.close()


@both
def case_take_over_again_and_again(version):
    name = topic()
    who = kept(version).subscribe(name, qos=1).client_id
    sender = client(None, version)
    seen = []
    for n in range(20):
        sender.publish(name, str(n), 1)
        peer = kept(version, who, clean=False)
        assert peer.connack.present
        got = peer.message()
        seen.append(int(got.payload))
    while seen[-1] != 19:
        seen.append(int(peer.message().payload))
    assert sorted(set(seen)) == list(range(20)), seen
    peer.close(), sender.close()
    client(who, version).close()


@both
def case_take_over_keeps_what_is_in_flight(version):
    name = topic()
    first = kept(version).subscribe(name, qos=2)
    sender = client(None, version)
    for n in range(6):
        sender.publish(name, str(n), 1 + n % 2)
    old = [first.receive() for _ in range(6)]
    second = kept(version, first.client_id, clean=False)
    new = [second.receive() for _ in range(6)]
    assert [(g.pid, g.payload, g.dup) for g in new] == [(g.pid, g.payload, True) for g in old], new
    second.close(), sender.close()
    forget(first, version)


@both
def case_will_when_the_connection_is_lost(version):
    name = topic()
    reader = client(None, version).subscribe(name, qos=2)
    for qos in range(3):
        client(None, version, will=will_of(name, b"gone %d" % qos, qos)).drop()
        got = reader.message()
        assert (got.payload, got.qos, got.retain) == (b"gone %d" % qos, qos, False), got
    # A half close is an end, too; so is a fault of the client.
    half = client(None, version, will=will_of(name, b"half", 1))
    half.sock.shutdown(socket.SHUT_WR)
    assert reader.message().payload == b"half"
    client(None, version, will=will_of(name, b"fault", 1)).send(b"\0\0").refused()
    assert reader.message().payload == b"fault"
    # An empty will is a will.
    client(None, version, will=will_of(name, b"", 1)).drop()
    assert reader.message().payload == b""
    reader.nothing().close()


@both
def case_will_that_is_retained(version):
    name = topic()
    watch = client(None, version).subscribe(name, qos=1)
    client(None, version, will=will_of(name, b"kept", 1, retain=True)).drop()
    assert not watch.message().retain
    watch.close()
    late = client(None, version).subscribe(name, qos=1)
    got = late.message()
    assert got.retain and got.payload == b"kept"
    late.close()
    client(None, version).publish(name, b"", 1, retain=True).close()


def case_will_and_the_reason_of_disconnect():
    name = topic()
    reader = client(None).subscribe(name, qos=1)
    for reason, sent in ((0x00, False), (0x04, True), (0x80, True), (0x98, True)):
        client(None, will=will_of(name, b"will", 1)).close(reason)
        if sent:
            assert reader.message().payload == b"will"
        reader.nothing()
    reader.close()


def case_will_properties_are_handed_on():
    name = topic()
    given = {"payload_format": 1, "message_expiry": 100, "content_type": "text/plain", "response_topic": "a/b",
             "correlation": b"\0\1", "user": [("z", "1"), ("a", "2"), ("z", "1")]}
    reader = client(None).subscribe(name, qos=1)
    client(None, will=will_of(name, b"will", 1, **given)).drop()
    got = reader.message().props
    assert got.pop("message_expiry") in (99, 100)
    given.pop("message_expiry")
    assert got == given, got
    # An expiry of zero is over at once; nobody is told.
    client(None, will=will_of(name, b"will", 1, message_expiry=0)).drop()
    reader.nothing().close()


def case_will_delay():
    name = topic()
    reader = client(None).subscribe(name, qos=1)
    begun = time.monotonic()
    client(None, session_expiry=60, will=will_of(name, b"delayed", 1, will_delay=1)).drop()
    assert reader.message().payload == b"delayed"
    assert 0.9 < time.monotonic() - begun < 1 + WILL_DELAY_FAR / 2
    # The end of the session does not wait for the delay.
    begun = time.monotonic()
    client(None, session_expiry=1, will=will_of(name, b"session", 1, will_delay=WILL_DELAY_FAR)).drop()
    assert reader.message().payload == b"session"
    assert 0.9 < time.monotonic() - begun < 1 + WILL_DELAY_FAR / 2
    begun = time.monotonic()
    client(None, will=will_of(name, b"none", 1, will_delay=WILL_DELAY_FAR)).drop()
    assert reader.message().payload == b"none"
    assert time.monotonic() - begun < WILL_DELAY_FAR / 2
    # Whoever is back in time takes it along; its new will is another one.
    peer = client(None, session_expiry=60, will=will_of(name, b"first", 1, will_delay=1))
    peer.drop()
    back = client(peer.client_id, clean=False, session_expiry=60)
    reader.nothing(1.8)
    back.close()
    # A take-over is such a return; a clean start is the end of the session.
    peer = client(None, session_expiry=60, will=will_of(name, b"taken", 1, will_delay=WILL_DELAY_FAR))
    will = will_of(name, b"ended", 1, will_delay=WILL_DELAY_FAR)
    back = client(peer.client_id, clean=False, session_expiry=60, will=will)
    reader.nothing()
    last = client(peer.client_id, clean=True)
    assert reader.message().payload == b"ended"
    # A session that is asked to end while its will waits.
    peer = client(None, session_expiry=60, will=will_of(name, b"asked", 1, will_delay=WILL_DELAY_FAR))
    peer.drop()
    client(peer.client_id, clean=True).close()
    assert reader.message().payload == b"asked"
    reader.nothing().close(), last.close()


@both
def case_will_is_not_sent_to_its_sender_by_another_name(version):
    """Wills obey the same rules as publishes: subscriptions, retain, `$`."""
    name = topic()
    reader = client(None, version).subscribe(f"{name}/+", qos=0)
    client(None, version, will=will_of(f"{name}/a/b", b"deep", 1)).drop()
    client(None, version, will=will_of(f"{name}/a", b"near", 1)).drop()
    assert reader.message().payload == b"near"
    reader.nothing().close()


@both
def case_will_changes_with_each_connection(version):
    name = topic()
    reader = client(None, version).subscribe(name, qos=1)
    peer = kept(version, will=will_of(name, b"first", 1))
    peer.close()
    peer = kept(version, peer.client_id, clean=False)
    peer.drop()
    reader.nothing()
    peer = kept(version, peer.client_id, clean=False, will=will_of(name, b"second", 1))
    peer.drop()
    assert reader.message().payload == b"second"
    reader.nothing().close()
    forget(peer, version)


# WebSocket


class WebPeer(Peer):
    """A peer whose bytes travel in WebSocket frames."""

    def __init__(self, version=5, protocol="mqtt", path="/mqtt", wait_for=101):
        host, port = os.environ["CONFORMANCE_HTTP"].removeprefix("http://").split(":")
        sock = socket.create_connection((host, int(port)), 10)
        super().__init__(version, sock=sock)
        key = base64.b64encode(os.urandom(16)).decode()
        offer = f"Sec-WebSocket-Protocol: {protocol}\r\n" if protocol else ""
        sock.sendall((f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                      f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{offer}\r\n").encode())
        head = b""
        while b"\r\n\r\n" not in head:
            data = sock.recv(4096)
            assert data, f"no answer to the upgrade: {head!r}"
            head += data
        head, self.raw = head.split(b"\r\n\r\n", 1)
        self.status = int(head.split()[1])
        self.head = head.decode().lower()
        self.code = None
        assert self.status == wait_for, head

    def frame(self, data, opcode=2, fin=True, mask=True):
        head = bytes([fin << 7 | opcode])
        n = len(data)
        bit = 0x80 if mask else 0
        if n < 126:
            head += bytes([bit | n])
        elif n < 65536:
            head += bytes([bit | 126]) + struct.pack(">H", n)
        else:
            head += bytes([bit | 127]) + struct.pack(">Q", n)
        if mask:
            key = os.urandom(4)
            data = bytes(b ^ key[at % 4] for at, b in enumerate(data))
            head += key
        try:
            self.sock.sendall(head + data)
        except ConnectionError:
            pass
        return self

    def send(self, *packets):
        return self.frame(b"".join(packets))

    def read(self, wait=WAIT):
        deadline = time.monotonic() + wait
        while True:
            found = self.split()
            if found is not None:
                return found
            if self.eof:
                return None
            if not self.unframe():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self.sock.settimeout(left)
                try:
                    data = self.sock.recv(1 << 16)
                except TimeoutError:
                    raise TimeoutError from None
                except ConnectionError:
                    data = b""
                self.eof |= not data
                self.raw += data

    def unframe(self):
        if len(self.raw) < 2:
            return False
        opcode, n, at = self.raw[0] & 15, self.raw[1] & 127, 2
        assert not self.raw[1] & 0x80, "servers do not mask"
        if n >= 126:
            width = 2 if n == 126 else 8
            n, at = int.from_bytes(self.raw[2:2 + width], "big"), 2 + width
        if len(self.raw) < at + n:
            return False
        data, self.raw = self.raw[at:at + n], self.raw[at + n:]
        if opcode in (0, 2):
            self.buffer += data
        elif opcode == 8:
            self.eof = True
            self.code = struct.unpack(">H", data[:2])[0] if data else None
        elif opcode == 10:
            self.pong = data
        else:
            raise Wrong(f"frame with opcode {opcode}")
        return True


@both
def case_websocket(version):
    name = topic()
    peer = WebPeer(version)
    assert "sec-websocket-protocol: mqtt" in peer.head
    peer.connect().subscribe(name, qos=2)
    for qos in range(3):
        peer.publish(name, "w" * 70000, qos)
        assert len(peer.message().payload) == 70000
    peer.close()


@both
def case_websocket_frames_are_no_packets(version):
    name = topic()
    peer = WebPeer(version)
    whole = connect(version, "frames" + str(version)) + subscribe(version, [(name, 1)]) + \
        publish(version, name, b"x", 1, pid=2) + b"\xc0\0"
    for at in range(0, len(whole), 3):  # Packets over several frames, a message over several fragments.
        peer.frame(whole[at:at + 1], fin=False)
        peer.frame(b"hello", opcode=9)
        peer.frame(whole[at + 1:at + 3], opcode=0)
    assert peer.expect(CONNACK).reason == 0
    assert peer.message().payload == b"x"
    assert peer.pong == b"hello"
    peer.frame(b"")
    peer.sync().close()


@both
def case_websocket_text_is_refused(version):
    name = topic()
    reader = client(None, version).subscribe(name, qos=1)
    peer = WebPeer(version).connect(will=will_of(name, b"text", 1))
    peer.frame(b"\xc0\0", opcode=1).refused()
    assert peer.code == 1003, peer.code
    assert reader.message().payload == b"text"
    peer = WebPeer(version)
    peer.frame(connect(version, "n"), opcode=1).refused()
    assert peer.code == 1003, peer.code
    reader.close()


@both
def case_websocket_rules_that_are_broken_are_named(version):
    """1009 for what is too long, in one frame or in fragments; 1002 for what is no WebSocket."""
    top = client(None).connack.props["maximum_packet"]
    too_long = struct.pack(">BBQ", 0x82, 0xFF, top + (1 << 20)) + b"key!" + b"x" * 100_000
    peer = WebPeer(version).connect()
    peer.sock.sendall(too_long)
    peer.refused()
    assert peer.code == 1009, peer.code
    peer = WebPeer(version).connect()
    peer.frame(b"\0" * (top // 2), fin=False)
    peer.frame(b"\0" * (top // 2), fin=False, opcode=0)
    peer.frame(b"\0" * 200_000, opcode=0).refused()
    assert peer.code == 1009, peer.code
    peer = WebPeer(version).connect()
    peer.frame(b"\xc0\0", mask=False).refused()
    assert peer.code == 1002, peer.code
    peer = WebPeer(version).connect()
    peer.frame(b"\xc0\0", opcode=0).refused()
    assert peer.code == 1002, peer.code


@both
def case_websocket_carries_the_largest_packet(version):
    top = client(None).connack.props["maximum_packet"]
    name = topic()
    peer = WebPeer(version).connect()
    reader = client(None, version).subscribe(name, qos=0)
    shell = len(publish(version, name, b"", 1))
    whole = publish(version, name, bytes(top - shell - 3), 1, pid=3)
    assert len(whole) == top
    peer.frame(whole)
    assert peer.expect(PUBACK).reason == 0
    assert len(reader.message().payload) == top - shell - 3
    # The same in fragments, with a frame of its own between them.
    peer.frame(whole[:1_000_000], fin=False)
    peer.frame(b"still there?", opcode=9)
    peer.frame(whole[1_000_000:3_000_000], fin=False, opcode=0)
    peer.frame(whole[3_000_000:], opcode=0)
    assert peer.expect(PUBACK).reason == 0
    assert peer.pong == b"still there?"
    assert len(reader.message().payload) == top - shell - 3
    peer.close(), reader.close()


def case_websocket_needs_the_subprotocol():
    peer = WebPeer(protocol="mqttv3.1, mqtt")
    assert "sec-websocket-protocol: mqtt\r\n" in peer.head + "\r\n"
    peer.connect().close()
    for protocol in (None, "soap"):
        WebPeer(protocol=protocol, wait_for=400)


@both
def case_websocket_that_is_lost_sends_the_will(version):
    name = topic()
    reader = client(None, version).subscribe(name, qos=1)
    WebPeer(version).connect(will=will_of(name, b"gone", 1)).drop()
    assert reader.message().payload == b"gone"
    closed = WebPeer(version).connect(will=will_of(name, b"closed", 1))
    closed.frame(struct.pack(">H", 1000), opcode=8)
    assert reader.message().payload == b"closed"
    WebPeer(version).connect(will=will_of(name, b"no", 1)).close()
    reader.nothing().close()

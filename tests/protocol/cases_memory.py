"""What many clients, or one, may make a node hold in memory."""

import os
import socket
import struct
import threading
import time

from cases_node import Node
from wire import LATE, PUBACK, SUBACK, Peer, client, options, publish, subscribe, topic

MIB = 1 << 20


def resident(node):
    with open(f"/proc/{node.process.pid}/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) * 1024


def grown(node, before, most, what):
    grew = resident(node) - before
    assert grew < most, f"{what} cost {grew / MIB:.0f} MiB"


def filled(node, name, count, size, retain=False):
    sender = node.client()
    payload = os.urandom(size)
    for n in range(count):
        sender.publish(f"{name}/{n}" if retain else name, payload, 1, retain=retain)
    sender.close()


def case_memory_of_packets_that_do_not_end():
    with Node() as node:
        whole = publish(5, "large", bytes(4 * MIB), 1)
        before = resident(node)
        peers = [node.client(keep_alive=0) for _ in range(200)]

        def most(peer):
            peer.sock.settimeout(2)
            try:
                peer.sock.sendall(whole[:-1])
            except TimeoutError:
                pass

        threads = [threading.Thread(target=most, args=(peer,)) for peer in peers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # 800 MiB were offered; small packets still pass.
        grown(node, before, 450 * MIB, "packets that do not end")
        other = node.client()
        other.publish("small", b"x", 1).close()
        for peer in peers:
            peer.drop()
        # There is room again for those that do.
        last = node.client()
        last.publish("large", bytes(4 * MIB), 1).close()


def case_memory_of_many_readers_that_do_not_read():
    with Node() as node:
        def deaf(name, count):
            peers = []
            for _ in range(count):
                peer = Peer(5, node.mqtt)
                peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                peers.append(peer.connect(keep_alive=0).subscribe(name, qos=0))
            return peers

        first, second = topic(), topic()
        patient = node.client(keep_alive=0).subscribe(first, second, qos=0)
        before = resident(node)
        # Of the 8 GiB that wait for these, the first get much beforehand and those that come later little.
        readers = deaf(first, 700)
        filled(node, first, 60, 100_000)
        time.sleep(1)
        readers += deaf(second, 700)
        filled(node, second, 60, 100_000)
        time.sleep(1)
        grown(node, before, 1100 * MIB, "readers that do not read")
        # Who reads late has lost nothing.
        assert [len(patient.message().payload) for _ in range(120)] == [100_000] * 120
        for peer in readers:
            peer.drop()


def case_memory_of_retained_messages_that_nobody_acknowledges():
    with Node() as node:
        name = topic()
        filled(node, name, 200, MIB, retain=True)
        readers = [node.client(f"lazy-{n}", session_expiry=600, receive_maximum=65535) for n in range(8)]
        before = resident(node)
        for reader in readers:
            reader.subscribe(f"{name}/#", qos=1)
        held = [received(reader) for reader in readers]
        # A message on its way is kept until it is acknowledged, so each reader is sent only some; the others follow.
        assert all(1 <= len(some) < 16 for some in held), [len(some) for some in held]
        # 1,600 MiB wait to be sent. What filling the node left to be given back differs by 200 MiB between runs.
        grown(node, before, 600 * MIB, "retained messages")
        for reader in readers[1:]:
            reader.drop()
        reader, some = readers[0], held[0]
        for got in some:
            reader.send(struct.pack(">BBH", PUBACK << 4, 2, got.pid))
        rest = [reader.message() for _ in range(200 - len(some))]
        assert sorted(got.topic for got in some + rest) == sorted(f"{name}/{n}" for n in range(200))
        reader.nothing().close()


def received(reader):
    """What comes until nothing has come for a second: at least one packet."""
    got = [reader.receive()]
    while True:
        try:
            got.append(reader.receive(1))
        except AssertionError:
            return got


def case_memory_of_a_client_that_subscribes_for_ever():
    """Each SUBSCRIBE asks for retained messages again; who does not read them is read no more."""
    with Node() as node:
        name = topic()
        filled(node, name, 8, 50_000, retain=True)
        before = resident(node)
        peer = node.client(keep_alive=0)
        packet = subscribe(5, [(f"{name}/#", options(0))] * 4000)
        peer.sock.settimeout(3)
        try:
            for _ in range(300):
                peer.sock.sendall(packet)
        except TimeoutError:
            pass
        grown(node, before, 150 * MIB, "subscribing for ever")
        node.client().sync().close()
        peer.drop()


def case_deep_topics():
    deep = "/".join("abcdefghij"[n % 10] for n in range(256))
    peer = client(None).subscribe(deep, "+/" * 255 + "#", qos=1)
    peer.publish(deep, b"deep", 1)
    assert peer.message().topic == deep
    peer.close()
    peer = client(None)
    peer.send(publish(5, f"{deep}/k", b"", 1)).refused(0x90)
    peer = client(None)
    peer.send(subscribe(5, [(f"{deep}/k", 0)])).refused(0x8F)
    peer = client(None)
    peer.send(subscribe(5, [("/" * 65_535, 0)])).refused(0x8F)


def case_thousands_of_subscriptions_of_one_session():
    """One by one, kept over a crash, and no slower at the end than at the beginning."""
    with Node() as node:
        name = topic()
        peer = node.client("many", session_expiry=600)
        begun = time.monotonic()
        for begin in range(0, 4000, 100):
            peer.send(*[subscribe(5, [(f"{name}/{n}/+", 1)], pid=n + 1) for n in range(begin, begin + 100)])
            for n in range(begin, begin + 100):
                assert peer.expect(SUBACK).codes == [1]
        assert time.monotonic() - begun < 10 + LATE
        node.kill()
        node.start()
        peer = node.client("many", clean=False, session_expiry=600)
        assert peer.connack.present
        sender = node.client()
        for n in (0, 1999, 3999):
            sender.publish(f"{name}/{n}/x", str(n), 1)
        assert peer.payloads(3) == ["0", "1999", "3999"]

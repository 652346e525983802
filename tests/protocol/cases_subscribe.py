"""SUBSCRIBE, UNSUBSCRIBE, wildcards, options, retained messages and shared subscriptions."""

import time

from wire import (
    PINGRESP, PUBLISH, PUBREC, SUBACK, WAIT, Wrong, ack, both, client, options, packet, properties, publish, subscribe,
    topic, unsubscribe,
)


@both
def case_suback_answers_each_filter(version):
    name = topic()
    peer = client(None, version)
    peer.send(subscribe(version, [(f"{name}/0", 0), (f"{name}/1", 1), (f"{name}/2", 2), (f"{name}/0", 1)], 17))
    got = peer.expect(SUBACK)
    assert (got.pid, got.codes) == (17, [0, 1, 2, 1])
    peer.publish(f"{name}/0", b"x", 2)
    assert peer.message().qos == 1, "the last of two equal filters holds"
    peer.nothing().close()


@both
def case_many_filters_in_one_packet(version):
    name = topic()
    peer = client(None, version)
    filters = [f"{name}/{n}" for n in range(4096)]
    peer.subscribe(*filters, qos=1)
    for n in (0, 2048, 4095):
        peer.publish(filters[n], str(n), 1)
        assert peer.message().payload == str(n).encode()
    peer.unsubscribe(*filters)
    peer.publish(filters[0], b"x", 1)
    peer.nothing().close()


@both
def case_packets_without_filters(version):
    section = b"\0" if version == 5 else b""
    client(None, version).send(packet(0x82, b"\0\1" + section)).refused(0x81, 0x82)
    client(None, version).send(packet(0xA2, b"\0\1" + section)).refused(0x81, 0x82)
    client(None, version).send(subscribe(version, [("t", 0)], 0)).refused(0x81, 0x82)
    client(None, version).send(unsubscribe(version, ["t"], 0)).refused(0x81, 0x82)
    # A filter without its options.
    client(None, version).send(packet(0x82, b"\0\1" + section + b"\0\1t")).refused(0x81, 0x82)


@both
def case_reserved_subscription_options(version):
    wrong = (3, 0x40, 0x80) if version == 5 else (3, 4, 8, 0x10, 0x40, 0x80)
    for option in wrong:
        client(None, version).send(subscribe(version, [("t", option)])).refused(0x81, 0x82)
    if version == 5:
        client(None).send(subscribe(5, [("t", 0x30)])).refused(0x81, 0x82)


@both
def case_filters_that_are_none(version):
    for bad in ("", "a/#/b", "a#", "#a", "a/b+", "+a", "a/+b/c", "##", "#/", "a/#b", "++"):
        client(None, version).send(subscribe(version, [(bad, 0)])).refused(0x81, 0x82, 0x8F)


MATCHES = [
    ("#", "a"), ("#", "a/b"), ("#", "/"), ("+", "a"), ("+/+", "/a"), ("/+", "/a"), ("a/#", "a"), ("a/#", "a/"),
    ("a/#", "a/b/c"), ("a/+", "a/b"), ("a/+", "a/"), ("a/+/c", "a//c"), ("+/b/#", "a/b"), ("+/+/+", "a//"),
    ("a//b", "a//b"), ("//", "//"), ("a/b/", "a/b/"), ("+/", "a/"), ("a/+/#", "a/b"), ("A", "A"),
]
MISSES = [
    ("+", "a/b"), ("+", "/a"), ("a/+", "a"), ("a/+", "a/b/c"), ("a/b", "a/b/"), ("/a", "a"), ("a", "A"),
    ("a/#", "ab"), ("a/#", "b/a"), ("+/#", "$a/b"), ("#", "$a"), ("+", "$a"), ("+/b", "$a/b"), ("a/+/#", "a"),
    ("a/b", "a/b/c"), ("//", "/"), ("a", " a"), ("a", "a "),
]


@both
def case_wildcards(version):
    mark = topic()

    def under(text, hidden):
        return text.replace("$a", "$" + mark.replace("/", "-")) if hidden else text

    for want, pairs in ((True, MATCHES), (False, MISSES)):
        for filter_, name in pairs:
            hidden = "$" in name
            # Below a level of their own the first level is no special case, so `$` is tried at the top.
            f = filter_ if hidden else f"{mark}/{filter_}"
            t = under(name, True) if hidden else f"{mark}/{name}"
            peer = client(None, version).subscribe(f, qos=0)
            peer.queue = []
            sender = client(None, version).publish(t, b"probe", 1)
            peer.sync()
            deadline = time.monotonic() + (WAIT if want else 0.05)
            seen = False
            while not seen and time.monotonic() < deadline:
                try:
                    got = peer.expect(PUBLISH, 0.05)
                    seen = got.topic == t
                except Wrong:
                    pass
            assert seen == want, f"{f} and {t}: {'no ' if want else ''}match"
            peer.close(), sender.close()


@both
def case_dollar_topics(version):
    name = "$" + topic().replace("/", "-")
    wild = client(None, version).subscribe("#", "+/x", qos=0)
    exact = client(None, version).subscribe(f"{name}/x", f"{name}/#", qos=0)
    plain = client(None, version).publish(f"{name}/x", b"d", 1)
    assert exact.message().topic == f"{name}/x"
    exact.nothing()
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        try:
            got = wild.expect(PUBLISH, 0.1)
        except Wrong:
            continue
        assert not got.topic.startswith("$"), got
    for peer in (wild, exact, plain):
        peer.close()


@both
def case_overlapping_subscriptions(version):
    """One copy with the highest QoS, or one for each: in 5.0 the identifiers tell."""
    name = topic()
    peer = client(None, version)
    wide, exact = ({"props": {"subscription_id": n}} if version == 5 else {} for n in (7, 8))
    peer.subscribe(f"{name}/#", qos=2, **wide).subscribe(f"{name}/+", qos=1, **exact)
    peer.publish(f"{name}/x", b"x", 2)
    got = [peer.message()]
    try:
        got.append(peer.message(0.3))
    except Wrong:
        pass
    assert max(g.qos for g in got) == 2
    if version == 5:
        assert sorted(n for g in got for n in g.props["subscription_id"]) == [7, 8], got
    peer.nothing().close()


def case_subscription_identifiers():
    name = topic()
    peer = client(None)
    peer.subscribe(f"{name}/a", qos=1, props={"subscription_id": 1})
    peer.subscribe(f"{name}/b", qos=1, props={"subscription_id": 268435455})
    peer.subscribe(f"{name}/c", qos=1)
    peer.publish(f"{name}/a", qos=1).publish(f"{name}/b", qos=1).publish(f"{name}/c", qos=1)
    ids = [peer.message().props.get("subscription_id") for _ in range(3)]
    assert ids == [[1], [268435455], None], ids
    # A new SUBSCRIBE replaces the identifier, or takes it away.
    peer.subscribe(f"{name}/a", qos=1, props={"subscription_id": 128})
    peer.subscribe(f"{name}/b", qos=1)
    peer.publish(f"{name}/a", qos=1).publish(f"{name}/b", qos=1)
    ids = [peer.message().props.get("subscription_id") for _ in range(2)]
    assert ids == [[128], None], ids
    peer.close()
    # They belong to the session.
    kept = client(None, session_expiry=60).subscribe(name, qos=1, props={"subscription_id": 5})
    kept.close()
    client(None).publish(name, b"x", 1, retain=True).close()
    again = client(kept.client_id, clean=False)
    assert again.message().props["subscription_id"] == [5]
    # Retained messages bear them too.
    again.subscribe(name, qos=1, props={"subscription_id": 6})
    got = again.message()
    assert got.retain and got.props["subscription_id"] == [6]
    again.publish(name, b"", 1, retain=True)
    again.message()
    again.close()
    for bad in (subscribe(5, [("t", 0)], subscription_id=0), subscribe(5, [("t", 0)], subscription_id=[1, 2])):
        client(None).send(bad).refused(0x82)
    client(None).send(packet(0x82, b"\0\1\x06\x0b\xff\xff\xff\xff\x7f\0\1t\0")).refused(0x81)
    client(None).send(subscribe(5, [("t", 0)], content_type="x")).refused(0x81, 0x82)


def case_no_local():
    name = topic()
    peer, other = client(None), client(None)
    peer.subscribe(name, qos=1, no_local=True)
    peer.publish(name, b"own", 1)
    other.publish(name, b"other", 1)
    assert peer.message().payload == b"other"
    peer.nothing()
    # Another subscription of the same client may still want it.
    peer.subscribe(f"{name}/#", qos=1)
    peer.publish(name, b"both", 1)
    assert peer.message().payload == b"both"
    peer.nothing().close(), other.close()


def case_retain_as_published():
    name = topic()
    plain = client(None).subscribe(name, qos=1)
    faithful = client(None).subscribe(name, qos=1, as_published=True)
    sender = client(None)
    for retain in (True, False):
        sender.publish(name, b"x", 1, retain=retain)
        assert faithful.message().retain == retain
        assert not plain.message().retain
    sender.publish(name, b"", 1, retain=True)
    assert faithful.message().retain and not plain.message().retain
    for peer in (plain, faithful, sender):
        peer.close()


def case_retain_handling():
    name = topic()
    sender = client(None).publish(name, b"kept", 1, retain=True)
    peer = client(None)
    for handling, sent in ((2, False), (1, False), (0, True), (0, True), (1, False)):
        peer.subscribe(name, qos=1, handling=handling)
        if sent:
            got = peer.message()
            assert got.retain and got.payload == b"kept"
        peer.nothing(0.2)
    peer.unsubscribe(name)
    peer.subscribe(name, qos=1, handling=1)
    assert peer.message().retain, "handling 1 sends to a subscription that is new"
    sender.publish(name, b"", 1, retain=True)
    peer.message()
    peer.close(), sender.close()


@both
def case_retained(version):
    name = topic()
    sender = client(None, version)
    live = client(None, version).subscribe(f"{name}/#", qos=2)
    for qos in range(3):
        sender.publish(f"{name}/{qos}", f"old {qos}", qos, retain=True)
        sender.publish(f"{name}/{qos}", f"new {qos}", qos, retain=True)
        for _ in range(2):
            assert not live.message().retain, "a subscription that was there sees it without the flag"
    sender.publish(f"{name}/plain", b"not kept", 1)
    live.message()
    late = client(None, version).subscribe(f"{name}/#", qos=1)
    got = sorted((late.message() for _ in range(3)), key=lambda g: g.topic)
    assert [g.payload for g in got] == [b"new 0", b"new 1", b"new 2"], got
    assert all(g.retain for g in got) and [g.qos for g in got] == [0, 1, 1], got
    late.nothing()
    # Publishing without the flag does not touch what is kept.
    sender.publish(f"{name}/1", b"passing", 1)
    assert not late.message().retain
    again = client(None, version).subscribe(f"{name}/1", qos=1)
    assert again.message().payload == b"new 1"
    # Subscribing once more brings it once more.
    again.subscribe(f"{name}/1", qos=0)
    assert again.message().retain
    for qos in range(3):
        sender.publish(f"{name}/{qos}", b"", 2 - qos, retain=True)
        live_got = late.message()
        assert live_got.payload == b"" and not live_got.retain
    empty = client(None, version).subscribe(f"{name}/#", qos=1)
    empty.nothing()
    for peer in (sender, live, late, again, empty):
        peer.drop()


@both
def case_retained_by_every_subscription_of_one_packet(version):
    name = topic()
    sender = client(None, version)
    for n in range(300):
        sender.publish(f"{name}/{n:03}", b"x", 1, retain=True)
    reader = client(None, version).subscribe(f"{name}/+", qos=1)
    assert sorted(reader.message().topic for _ in range(300)) == [f"{name}/{n:03}" for n in range(300)]
    reader.nothing().close()
    for n in range(300):
        sender.publish(f"{name}/{n:03}", b"", 1, retain=True)
    sender.close()


@both
def case_unsubscribe(version):
    name = topic()
    peer = client(None, version).subscribe(f"{name}/a", f"{name}/b", f"{name}/#", qos=1)
    peer.unsubscribe(f"{name}/a", f"{name}/#", "no/such", codes=[0, 0, 0x11])
    peer.publish(f"{name}/a", b"x", 1)
    peer.publish(f"{name}/b", b"y", 1)
    assert peer.message().payload == b"y"
    # Filters are compared letter by letter.
    peer.unsubscribe(f"{name}/+", codes=[0x11])
    peer.publish(f"{name}/b", b"z", 1)
    assert peer.message().payload == b"z"
    peer.nothing().close()


@both
def case_unsubscribe_completes_what_was_begun(version):
    name = topic()
    peer = client(None, version).subscribe(name, qos=2)
    peer.publish(name, b"x", 2)
    got = peer.receive()
    peer.unsubscribe(name)
    peer.send(ack(PUBREC, got.pid))
    assert peer.expect(6).pid == got.pid
    peer.send(ack(7, got.pid))
    peer.publish(name, b"y", 1)
    peer.nothing().close()


def case_unsubscribe_takes_user_properties_only():
    peer = client(None)
    peer.send(packet(0xA2, b"\0\1" + properties(user=[("a", "b")]) + b"\0\1t"))
    assert peer.expect(11).codes == [0x11]
    peer.send(packet(0xA2, b"\0\2" + properties(subscription_id=1) + b"\0\1t")).refused(0x81, 0x82)


@both
def case_shared_balances_without_repeating(version):
    name = topic()
    members = [client(None, version).subscribe(f"$share/g/{name}/#", qos=1) for _ in range(3)]
    other = client(None, version).subscribe(f"$share/h/{name}/#", qos=0)
    own = client(None, version).subscribe(f"{name}/#", qos=0)
    sender = client(None, version)
    for n in range(60):
        sender.publish(f"{name}/{n % 4}", str(n), 1)
    counts, seen = [], []
    for member in members:
        mine = []
        while True:
            try:
                mine.append(int(member.message(0.4).payload))
            except Wrong:
                break
        counts.append(len(mine))
        seen += mine
        assert mine == sorted(mine), "the order of one publisher"
    assert sorted(seen) == list(range(60)), sorted(seen)
    assert min(counts) > 0, counts
    assert other.payloads(60) == own.payloads(60) == [str(n) for n in range(60)]
    for peer in (*members, other, own, sender):
        peer.close()


@both
def case_shared_filters_that_are_none(version):
    for bad in ("$share", "$share/", "$share/g", "$share/g/", "$share//t", "$share/g+/t", "$share/#/t",
                "$share/g/a#", "$share/g/#/b", "$share/+/t"):
        client(None, version).send(subscribe(version, [(bad, 0)])).refused(0x81, 0x82, 0x8F)


def case_shared_with_no_local():
    client(None).send(subscribe(5, [("$share/g/t", options(no_local=True))])).refused(0x82)


@both
def case_shared_brings_no_retained(version):
    name = topic()
    sender = client(None, version).publish(name, b"kept", 1, retain=True)
    peer = client(None, version).subscribe(f"$share/g/{name}", qos=1)
    peer.nothing()
    sender.publish(name, b"live", 1)
    assert peer.message().payload == b"live"
    sender.publish(name, b"", 1, retain=True)
    peer.message()
    peer.close(), sender.close()


@both
def case_shared_unsubscribe(version):
    name = topic()
    stays = client(None, version).subscribe(f"$share/g/{name}", qos=1)
    goes = client(None, version).subscribe(f"$share/g/{name}", qos=1)
    goes.unsubscribe(f"$share/g/{name}")
    goes.unsubscribe(f"$share/g/{name}", name, codes=[0x11, 0x11])
    sender = client(None, version)
    for n in range(10):
        sender.publish(name, str(n), 1)
    assert stays.payloads(10) == [str(n) for n in range(10)]
    goes.nothing().close()
    stays.close(), sender.close()


@both
def case_shared_goes_to_another_when_a_member_ends(version):
    """What a member of a session that ends did not acknowledge is for the others."""
    name = topic()
    one = client(None, version).subscribe(f"$share/g/{name}", qos=1)
    other = client(None, version).subscribe(f"$share/g/{name}", qos=1)
    sender = client(None, version)
    for n in range(20):
        sender.publish(name, str(n), 1)
    unacked = [one.receive().payload.decode()]
    while True:
        try:
            unacked.append(one.receive(0.3).payload.decode())
        except Wrong:
            break
    mine = []
    while True:
        try:
            mine.append(other.message(0.3).payload.decode())
        except Wrong:
            break
    one.drop()
    while len(mine) < 20:
        mine.append(other.message().payload.decode())
    assert sorted(mine, key=int) == [str(n) for n in range(20)], mine
    other.nothing().close(), sender.close()


@both
def case_shared_waits_for_a_session_that_stays(version):
    name = topic()
    keep = {"session_expiry": 60} if version == 5 else {"clean": False}
    only = client(None, version, **keep).subscribe(f"$share/g/{name}", qos=1)
    only.close()
    sender = client(None, version)
    for n in range(5):
        sender.publish(name, str(n), 1)
    again = client(only.client_id, version, **dict(keep, clean=False))
    assert again.payloads(5) == [str(n) for n in range(5)]
    again.nothing().close(), sender.close()
    client(only.client_id, version).close()


def case_shared_identifiers_and_options():
    name = topic()
    peer = client(None).subscribe(f"$share/g/{name}", qos=1, as_published=True, props={"subscription_id": 9})
    peer.publish(name, b"x", 2, retain=True)
    got = peer.message()
    assert got.qos == 1 and got.retain and got.props["subscription_id"] == [9], got
    peer.publish(name, b"", 0, retain=True)
    peer.message()
    peer.close()


@both
def case_subscribing_behind_a_publish_of_ones_own(version):
    """What was published before on the same connection is retained by then, and is not news."""
    for qos in range(3):
        name = topic()
        peer = client(None, version)
        peer.send(publish(version, f"{name}/kept", b"kept", qos, pid=1, retain=True),
                  publish(version, f"{name}/passed", b"passed", qos, pid=2),
                  subscribe(version, [(f"{name}/#", qos)], pid=3), b"\xc0\0")
        peer.expect(PINGRESP)
        got = peer.receive()
        assert got.retain and got.payload == b"kept", got
        peer.queue.clear()
        peer.nothing()
        peer.close()
        client(None, version).publish(f"{name}/kept", b"", 1, retain=True).close()

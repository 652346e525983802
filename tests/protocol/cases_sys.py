"""The topics under $SYS: what stock tools and dashboards look for, and where they must not turn up."""

import re
import subprocess
import time

from cases_node import Node, add_user
from wire import PUBLISH, WAIT, Wrong, both, client, topic

# What mosquitto's own tools, its exporters and dashboards ask for.
EXPECTED = {
    "version": r"busbar \d+\.\d+\.\d+", "uptime": r"\d+ seconds",
    **dict.fromkeys([
        "clients/connected", "clients/disconnected", "clients/maximum", "clients/total",
        "messages/received", "messages/sent", "bytes/received", "bytes/sent",
        "publish/messages/received", "publish/messages/sent", "publish/messages/dropped",
        "publish/bytes/received", "publish/bytes/sent",
        "subscriptions/count", "shared_subscriptions/count", "retained messages/count",
    ], r"\d+"),
}


def board(peer, wait=WAIT):
    """One whole round of values: name and packet."""
    found = {}
    deadline = time.monotonic() + wait
    while len(found) < len(EXPECTED) and time.monotonic() < deadline:
        try:
            got = peer.receive(0.2)
        except Wrong:
            continue
        found[got.topic.removeprefix("$SYS/broker/")] = got
    return found


@both
def case_sys_is_told_at_once(version):
    peer = client(None, version).subscribe("$SYS/#", qos=1)
    found = board(peer)
    assert found.keys() == EXPECTED.keys(), found.keys() ^ EXPECTED.keys()
    for name, got in found.items():
        assert re.fullmatch(EXPECTED[name], got.payload.decode()), (name, got)
        assert got.retain and got.qos == 0, got
    one = client(None, version).subscribe("$SYS/broker/version", qos=0)
    assert one.message().payload == found["version"].payload
    one.close(), peer.close()


@both
def case_sys_is_not_for_wildcards_in_the_first_level(version):
    wild = client(None, version).subscribe("#", "+/broker/version", "+/#", qos=0)
    exact = client(None, version).subscribe("$SYS/broker/version", qos=0)
    exact.message()
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        try:
            assert not wild.receive(0.1).topic.startswith("$SYS")
        except Wrong:
            continue
    wild.close(), exact.close()


def case_sys_counts_what_happens_and_comes_again():
    with Node(BUSBAR_MQTT_SYS_INTERVAL="200ms") as node:
        peer = node.client()
        name = topic()
        stays = node.client("stays", session_expiry=60)
        stays.subscribe(f"{name}/1", f"$share/g/{name}/2", qos=1).close()
        for n in range(5):
            peer.publish(f"{name}/1", b"0123456789", 1, retain=n == 0)
        peer.subscribe("$SYS/#", qos=2)
        assert board(peer).keys() == EXPECTED.keys()
        # What comes later, once an interval, has no retain flag.
        last, rounds, begun = {}, 0, time.monotonic()
        while rounds < 5:
            got = peer.receive()
            assert not got.retain, got
            last[got.topic.removeprefix("$SYS/broker/")] = int(re.match(r"\d*", got.payload.decode())[0] or 0)
            rounds += got.topic.endswith("/version")
        assert time.monotonic() - begun > 0.7
        assert last.keys() == EXPECTED.keys()
        assert last["clients/connected"] == 1 and last["clients/disconnected"] == 1, last
        assert last["clients/total"] == 2 and last["clients/maximum"] == 2, last
        assert last["subscriptions/count"] == 3 and last["shared_subscriptions/count"] == 1, last
        assert last["retained messages/count"] == 1, last
        assert last["publish/messages/received"] == 5 and last["publish/bytes/received"] == 50, last
        assert last["messages/received"] >= 5 + 5, last
        assert last["messages/sent"] > last["publish/messages/sent"] > 0, last
        assert last["bytes/received"] > 50 and last["bytes/sent"] > last["publish/bytes/sent"] > 0, last
        # None of it is in a stream.
        rows = node.command("sql", "--json", "select count(*) as n from inbox where topic like '$SYS%'")
        assert rows.returncode == 0 and "0" in rows.stdout, rows
        peer.close()
        rows = node.command("sql", "--json", "select count(*) as n from inbox")
        assert "5" in rows.stdout, rows


def case_sys_can_be_switched_off():
    with Node(BUSBAR_MQTT_SYS_INTERVAL="0") as node:
        node.client().subscribe("$SYS/#", qos=1).nothing(1)


def case_sys_needs_a_permission_like_any_topic():
    with Node(BUSBAR_MQTT_SYS_INTERVAL="200ms") as node:
        add_user(node, name="root", password="a long password", role="admin")
        admin = "root:a long password"
        for name, rules in (("all", {"subscribe": ["#"]}), ("sys", {"subscribe": ["$SYS/broker/clients/#"]})):
            add_user(node, admin, name=name, password="a long password", role="viewer", rules=rules)
        for who, codes in (("root", [0]), ("all", [0x87]), ("sys", [0])):
            peer = node.client(username=who, password="a long password")
            peer.subscribe("$SYS/#", qos=0, codes=codes)
            time.sleep(0.5)
            peer.sync()
            topics = {got.topic for got in peer.queue if got.kind == PUBLISH}
            want = {"root": EXPECTED.keys(), "all": (), "sys": (n for n in EXPECTED if n.startswith("clients/"))}[who]
            assert topics == {f"$SYS/broker/{name}" for name in want}, (who, topics)
            peer.close()


def case_sys_by_stock_tools():
    with Node(BUSBAR_MQTT_SYS_INTERVAL="1s") as node:
        heard = subprocess.run(
            ["mosquitto_sub", "-p", str(node.mqtt), "-t", "$SYS/broker/uptime", "-C", "3", "-W", "10"],
            capture_output=True, text=True, timeout=WAIT,
        )
        assert heard.returncode == 0 and len(heard.stdout.split()) == 6, heard

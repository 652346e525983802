#!/usr/bin/env python3
"""Holds the documents to the program: docs_test.py BUSBAR

The reference pages must be what the program writes today, and the commands of the README must work:
they run in a shell of their own, beside a node on the example that the README starts. Those of the how-to start nodes
of their own.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import test as suite  # noqa: E402
from ports import free_port  # noqa: E402

BUSBAR = suite.BUSBAR = Path(sys.argv[1]).resolve()
WAIT = 90

# The README speaks of the usual ports; the node of this test has others.
PRELUDE = """
set -eu
mosquitto_pub() { command mosquitto_pub -p "$MQTT_PORT" "$@"; }
mosquitto_sub() { command timeout 20 mosquitto_sub -p "$MQTT_PORT" "$@"; }
busbar() { command "$BUSBAR" "$@"; }
"""


def reference_pages():
    with tempfile.TemporaryDirectory() as fresh:
        subprocess.run([BUSBAR, "reference", fresh], check=True, timeout=WAIT)
        made = {p.name: p.read_text() for p in Path(fresh).iterdir()}
    kept = {p.name: p.read_text() for p in (ROOT / "docs" / "reference").iterdir()}
    stale = sorted(n for n in made.keys() | kept.keys() if made.get(n) != kept.get(n))
    assert not stale, f"run `busbar reference docs/reference`: {', '.join(stale)} changed"


def readme_commands(name):
    """Every shell block but the first, which builds everything and is what got us here."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / name).read_text(), re.S)
    assert len(blocks) >= 3, "the README has lost its commands"
    node = suite.Node(ROOT / "examples" / "host-watch")
    try:
        with tempfile.TemporaryDirectory() as folder:
            for block in blocks[1:]:
                # A person types slowly enough for the subscription to be there first.
                typed = re.sub(r" &$", " &\nsleep 1", block, flags=re.M)
                script = PRELUDE + typed.replace("http://127.0.0.1:8080", node.url)
                env = dict(
                    os.environ, BUSBAR=str(BUSBAR), BUSBAR_NODE=node.url, MQTT_PORT=str(node.mqtt), LANG="C.UTF-8",
                )
                done = subprocess.run(
                    ["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=WAIT,
                )
                assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
                if "busbar sql" in block:
                    assert "m1" in done.stdout and "alarm/m1/power" in done.stdout, done.stdout + done.stderr
    finally:
        node.stop()


def howto_commands(name):
    """All shell blocks of a page, from top to bottom in one shell, which starts its nodes itself."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / name).read_text(), re.S)
    assert len(blocks) >= 10, f"{name} has lost its commands"
    http, mqtt, tls, tcp = (free_port() for _ in range(4))
    script = "\n".join(blocks).replace("127.0.0.1:8080", f"127.0.0.1:{http}").replace("8883", str(tls)).replace("9471", str(tcp))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "busbar").symlink_to(BUSBAR)
        env = {k: v for k, v in os.environ.items() if not k.startswith("BUSBAR_")}
        env.update(
            PATH=f"{folder}:{os.environ['PATH']}", HOME=folder, XDG_CONFIG_HOME=f"{folder}/settings", LC_ALL="C.UTF-8",
            BUSBAR_HTTP_LISTEN=f"127.0.0.1:{http}", BUSBAR_MQTT_LISTEN=f"127.0.0.1:{mqtt}", MQTT_PORT=str(mqtt),
            BUSBAR_AMQP_LISTEN="off",
        )
        # What runs in the background ends with the shell, however that ends.
        prelude = PRELUDE.replace('busbar() { command "$BUSBAR" "$@"; }', "") + "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"
        done = subprocess.run(
            ["bash", "-c", prelude + "set -x\n" + script], cwd=folder, env=env, capture_output=True, text=True,
            timeout=WAIT,
        )
    told = f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert done.returncode == 0, told
    for word in ("alarm/m1/power", "Read: ", "Everything is as it was written", "busbar_dead_letters", "has read all its input",
                 "Events sent again: 1", "guest"):
        assert word in done.stdout, f"no {word!r} in\n{told}"


def project_commands(name):
    """All shell blocks of a page that writes a project and tests it, without a node."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / name).read_text(), re.S)
    assert len(blocks) >= 5, f"{name} has lost its commands"
    with tempfile.TemporaryDirectory() as folder:
        env = dict(os.environ, BUSBAR=str(BUSBAR), LC_ALL="C.UTF-8")
        script = 'set -e\nbusbar() { command "$BUSBAR" "$@"; }\n' + "\n".join(blocks)
        done = subprocess.run(["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 0 and " 0 failed" in done.stdout, f"{done.stdout}\n{done.stderr}"


# Their commands start servers of their own; tests under tests/ run them.
EXAMPLES_ELSEWHERE = {"bridge-and-files", "hospital", "order-saga"}


def example_commands(page):
    """Every shell block of an example's page, beside a node on the example."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.S)
    blocks = [b for b in blocks if "busbar" in b]
    if not blocks:
        return
    node = suite.Node(page.parent)
    try:
        with tempfile.TemporaryDirectory() as there:
            (Path(there) / "examples").symlink_to(ROOT / "examples")
            script = "\n".join(blocks)
            started = re.sub(r"^busbar run .*&$", "true", script, flags=re.M)
            assert started != script, f"{page}: it starts no node"
            typed = re.sub(r" &$", " &\nsleep 1", started, flags=re.M).replace("http://127.0.0.1:8080", node.url)
            typed = typed.replace("127.0.0.1:1883", f"127.0.0.1:{node.mqtt}").replace("--nexmark 1000000", "--nexmark 100000")
            # What was published reaches a table a moment later.
            typed = re.sub(r"^(busbar sql .*)$", r'for n in $(seq 60); do out=$(\1); [ "$(wc -l <<< "$out")" -gt 1 ] && break; sleep 0.5; done; echo "$out"; [ "$(wc -l <<< "$out")" -gt 1 ]', typed, flags=re.M)
            typed = typed.replace("curl ", "curl --fail-with-body ")
            prelude = PRELUDE + "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"
            env = dict(os.environ, BUSBAR=str(BUSBAR), BUSBAR_NODE=node.url, MQTT_PORT=str(node.mqtt), LANG="C.UTF-8")
            done = subprocess.run(
                ["bash", "-c", prelude + typed], cwd=there, env=env, capture_output=True, text=True, timeout=WAIT,
            )
            assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    finally:
        node.stop()


def main():
    checks = [
        ("the reference pages are what the program writes", reference_pages),
        ("the commands of README.md work", lambda: readme_commands("README.md")),
        ("the commands of README.zh-CN.md work", lambda: readme_commands("README.zh-CN.md")),
        ("the commands of docs/HOWTO.md work", lambda: howto_commands("docs/HOWTO.md")),
        ("the commands of docs/PATTERNS.md work", lambda: project_commands("docs/PATTERNS.md")),
        ("the commands of docs/PATTERNS.zh-CN.md work", lambda: project_commands("docs/PATTERNS.zh-CN.md")),
    ]
    for page in sorted((ROOT / "examples").glob("*/README*.md")):
        if page.parent.name not in EXAMPLES_ELSEWHERE:
            name = page.relative_to(ROOT)
            checks.append((f"the commands of {name} work", lambda page=page: example_commands(page)))
    passed = failed = 0
    for name, check in checks:
        try:
            check()
        except Exception as why:  # noqa: BLE001 - every check is told of
            failed += 1
            print(f"FAILED {name}: {why}")
        else:
            passed += 1
            print(f"ok {name}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

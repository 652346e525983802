#!/usr/bin/env python3
"""Measures one job with Busbar's plug-ins and with peers, on one machine in one run: an event of 200 B of JSON, one number of
which is multiplied.

    scripts/bench_peers.py setup                  installs Node-RED (npm) and Benthos (Go) into ~/.cache/busbar/peers
    scripts/bench_peers.py BUSBAR [--events N]    measures; peers that are not there are left out, and said so

Busbar reads the events from a stream and writes them to one, durably; Node-RED hands them from node to node in memory (json,
function, json); Benthos reads lines of a file and drops what it has made. Each has one core for the job where it can be told so.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PEERS = Path.home() / ".cache" / "busbar" / "peers"
BENTHOS = "v4.60.0"
NODE_RED = "4"
PAYLOAD_BYTES = 200
CHUNK = 1000
WAIT = 600

GO_MAIN = """package main

import (
	"context"

	_ "github.com/redpanda-data/benthos/v4/public/components/io"
	_ "github.com/redpanda-data/benthos/v4/public/components/pure"
	"github.com/redpanda-data/benthos/v4/public/service"
)

func main() { service.RunCLI(context.Background()) }
"""


def setup():
    red, go = PEERS / "node-red", PEERS / "benthos"
    for folder in (red, go):
        folder.mkdir(parents=True, exist_ok=True)
    (red / "package.json").write_text('{"private": true}\n')
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", f"node-red@{NODE_RED}"], cwd=red, check=True)
    if not shutil.which("go"):
        print("benthos: left out, there is no Go here")
        return
    (go / "main.go").write_text(GO_MAIN)
    (go / "go.mod").write_text(f"module peer\n\ngo 1.24\n\nrequire github.com/redpanda-data/benthos/v4 {BENTHOS}\n")
    subprocess.run(["go", "mod", "tidy"], cwd=go, check=True)
    subprocess.run(["go", "build", "-o", "benthos", "."], cwd=go, check=True)


def payload(number):
    event = {"site": f"north-{number % 997:04}", "kw": number / 8, "meter": number, "phase": ["a", "b", "c"], "pad": ""}
    event["pad"] = "x" * (PAYLOAD_BYTES - len(json.dumps(event, separators=(",", ":"))))
    return json.dumps(event, separators=(",", ":"))


def busbar(program, row):
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        command = [program, "bench", "--no-peers", "--only", row, "--json-file", figures]
        subprocess.run(command, check=True, timeout=WAIT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for found in json.loads(figures.read_text())["rows"]:
            if found["job"] == row and found["events_per_second"]:
                return found["events_per_second"]
    return None


def node_red(events):
    program = PEERS / "node-red" / "node_modules" / "node-red" / "red.js"
    if not program.is_file():
        return None
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        answer = folder / "answer.json"
        text = json.dumps(payload(1))
        source = f"""
const sent = context.get("sent") || 0;
if (sent === 0) context.set("began", Date.now());
if (sent >= {events}) {{
    global.get("fs").writeFileSync({json.dumps(str(answer))}, JSON.stringify(Date.now() - context.get("began")));
    return null;
}}
const count = Math.min({CHUNK}, {events} - sent);
context.set("sent", sent + count);
for (let at = 0; at < count; at++) node.send({{ payload: {text}, last: at === count - 1 }});
return null;
"""
        change = "msg.payload.kw *= 1000;\nreturn msg;"
        sink = "return msg.last ? { payload: 0 } : null;"

        def node(name, kind, to, **more):
            return {"id": name, "type": kind, "z": "tab", "name": name, "x": 0, "y": 0, "wires": [[to]], **more}

        flow = [
            {"id": "tab", "type": "tab", "label": "bench"},
            node("begin", "inject", "source", once=True, onceDelay=0.5, props=[], repeat=""),
            node("source", "function", "parse", func=source, outputs=1),
            node("parse", "json", "change", property="payload", action="obj"),
            node("change", "function", "text", func=change, outputs=1),
            node("text", "json", "sink", property="payload", action="str"),
            node("sink", "function", "source", func=sink, outputs=1),
        ]
        (folder / "flow.json").write_text(json.dumps(flow))
        settings = 'module.exports = { uiPort: 0, httpAdminRoot: false, httpNodeRoot: false, functionGlobalContext: { fs: require("fs") }, logging: { console: { level: "error" } } };\n'
        (folder / "settings.js").write_text(settings)
        command = ["node", program, "-s", folder / "settings.js", "-u", folder, folder / "flow.json"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + WAIT
        try:
            while not answer.is_file() or not answer.read_text():
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("Node-RED did not come to the end")
                time.sleep(0.05)
            return events / (json.loads(answer.read_text()) / 1000)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def benthos(events):
    program = PEERS / "benthos" / "benthos"
    if not program.is_file():
        return None
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)

        def run(count):
            lines = folder / "lines.ndjson"
            with lines.open("w") as out:
                out.writelines(payload(number) + "\n" for number in range(count))
            config = {
                "http": {"enabled": False},
                "logger": {"level": "ERROR"},
                "input": {"file": {"paths": [str(lines)], "scanner": {"lines": {}}}},
                "pipeline": {"threads": 1, "processors": [{"mapping": "root = this\nroot.kw = this.kw * 1000"}]},
                "output": {"drop": {}},
            }
            (folder / "config.json").write_text(json.dumps(config))
            environment = dict(os.environ, GOMAXPROCS="1")
            began = time.monotonic()
            subprocess.run([program, "run", folder / "config.json"], check=True, timeout=WAIT, env=environment)
            return time.monotonic() - began

        # What starting and ending take is in both.
        few = max(events // 10, 1)
        return (events - few) / (run(events) - run(few))


def main():
    if sys.argv[1:] == ["setup"]:
        return setup()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("busbar", help="the program")
    parser.add_argument("--events", type=int, default=500_000)
    args = parser.parse_args()
    jobs = [
        ("Busbar, JavaScript", lambda: busbar(args.busbar, "script, JavaScript")),
        ("Busbar, Python", lambda: busbar(args.busbar, "script, Python")),
        ("Busbar, Java", lambda: busbar(args.busbar, "script, Java")),
        ("Node-RED, function", lambda: node_red(args.events)),
        ("Benthos, mapping", lambda: benthos(args.events)),
    ]
    for name, measure in jobs:
        rate = measure()
        print(f"{name:<20}", "left out: not installed (see `setup`)" if rate is None else f"{rate:>10,.0f} events/s", flush=True)


if __name__ == "__main__":
    main()

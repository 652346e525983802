#!/usr/bin/env python3
"""How many rows a second go from a table of PostgreSQL through a JDBC and an ODBC driver, and back into one.

    driver_rates.py BUSBAR [ROWS]

Starts a PostgreSQL of its own (`scripts/servers`) and fills a table of five columns: a number as the key, two texts, a time and
a decimal number. A `query` reads all of it into a stream; then a flow writes the stream's events into an empty table
of the same columns. Both are timed, as the node counts them, from the last look that finds no row to the one that finds all,
three times each.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from jdbc_acceptance import WAIT
from ports import free_port

SERVERS = Path(__file__).with_name("servers")
COLUMNS = "id bigint primary key, name varchar(40), seen timestamp(6), amount numeric(12, 2), note text"
ROW = "select n, 'patient ' || n, timestamp '2026-01-01' + n * interval '1 second', n / 100.0, repeat('x', 60)"
STREAM = "topics: in/#\nformat: json\nschema: { id: int, name: text, seen: text, amount: text, note: text }\n"
ROUNDS = 3


class Database:
    """A PostgreSQL that ends with this process."""

    def __init__(self, folder):
        self.port, folder = free_port(), folder / "postgres"
        folder.mkdir()
        self.process = subprocess.Popen([SERVERS, "postgres", folder, str(self.port), str(os.getpid())])
        deadline = time.monotonic() + WAIT
        while subprocess.run(self.psql("select 1"), capture_output=True, env=self.env()).returncode:
            assert time.monotonic() < deadline, "PostgreSQL does not start"
            time.sleep(0.2)

    def env(self):
        return os.environ | {"PGPASSWORD": "secret"}

    def psql(self, sql):
        return ["psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-qAtc", sql]

    def run(self, sql):
        return subprocess.run(self.psql(sql), check=True, capture_output=True, text=True, env=self.env()).stdout.strip()


def login(kind, database, drivers):
    if kind == "odbc":
        way = {"connection": f"Driver=PostgreSQL Unicode;Server=127.0.0.1;Port={database.port};Database=postgres;UseDeclareFetch=1"}
    else:
        driver = next(Path(drivers).glob("postgresql-*.jar"))
        way = {"driver": ["drivers/postgresql.jar"], "url": f"jdbc:postgresql://127.0.0.1:{database.port}/postgres"}
        way["_jar"] = str(driver)
    return way | {"user": "postgres", "password": "secret", "timeout": "5m"}


class Node:
    """A node with a project of its own, for the time of a `with`."""

    def __init__(self, busbar, folder, files):
        project = folder / "project"
        for path, text in files.items():
            (project / path).parent.mkdir(parents=True, exist_ok=True)
            (project / path).write_bytes(text if isinstance(text, bytes) else text.encode())
        self.port, self.project = free_port(), project
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("BUSBAR_")} | {
            "BUSBAR_DATA_DIR": str(folder / "data"), "BUSBAR_HTTP_LISTEN": f"127.0.0.1:{self.port}",
            "BUSBAR_MQTT_LISTEN": f"127.0.0.1:{free_port()}", "BUSBAR_AMQP_LISTEN": "off",
        }
        self.busbar, self.log = busbar, folder / "node.log"

    def __enter__(self):
        self.process = subprocess.Popen([self.busbar, "run", self.project], env=self.env, stdin=subprocess.DEVNULL,
                                        stdout=open(self.log, "a"), stderr=subprocess.STDOUT)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(WAIT)

    def api(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout=WAIT) as answer:
            return json.load(answer)


def rate(node, count, rows):
    """Rows a second from the last look that finds none to the one that finds all."""
    begun = time.monotonic()
    deadline = begun + WAIT
    while True:
        assert time.monotonic() < deadline and node.process.poll() is None, f"it does not come: see {node.log}"
        try:
            found = count(node)
        except OSError:
            found = 0
        now = time.monotonic()
        if not found:
            begun = now
        if found >= rows:
            return rows / (now - begun)
        time.sleep(0.02)


def events(node):
    streams = node.api("streams")["streams"]
    return next((stream["events"] for stream in streams if stream["name"] == "rows"), 0)


def written(node):
    flows = node.api("flows")["flows"]
    return next((flow["out"] for flow in flows if flow["name"] == "copy"), 0)


def measure(busbar, kind, database, drivers, rows, folder):
    way = login(kind, database, drivers)
    files = {"busbar.toml": "", "streams/rows.yaml": STREAM}
    if jar := way.pop("_jar", None):
        files["drivers/postgresql.jar"] = Path(jar).read_bytes()
    source = {kind: way | {"query": {"statement": "select * from source", "every": "1h"}}, "topic": "in/x"}
    sink = {kind: way | {"write": {"table": "target"}}}
    database.run(f"drop table if exists target, busbar_position, busbar_refused; create table target ({COLUMNS})")
    with Node(busbar, folder, files | {"connections/there.yaml": json.dumps(source)}) as node:
        read = rate(node, events, rows)
    flow = "from: rows\nsteps:\n  - select: id, name, seen, amount, note\nto:\n  - connection: there\n"
    with Node(busbar, folder, {"connections/there.yaml": json.dumps(sink), "flows/copy.yaml": flow}) as node:
        wrote = rate(node, written, rows)
    found = database.run("select count(*) = (select count(*) from source), sum(amount) = (select sum(amount) from source) from target")
    assert found == "t|t", found
    return read, wrote


def main():
    busbar, rows = str(Path(sys.argv[1]).resolve()), int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    drivers = subprocess.run([SERVERS, "drivers"], check=True, capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        # The server has a user of its own.
        folder.chmod(0o755)
        database = Database(folder)
        database.run(f"create table source ({COLUMNS}); insert into source {ROW} from generate_series(1, {rows}) n; analyze source")
        for kind in ("jdbc", "odbc"):
            rounds = []
            for number in range(ROUNDS):
                place = folder / f"{kind}{number}"
                place.mkdir()
                rounds.append(measure(busbar, kind, database, drivers, rows, place))
            for what, rates in zip(("read", "written"), zip(*rounds)):
                shown = ", ".join(f"{rate:,.0f}" for rate in sorted(rates))
                print(f"{kind} {what}: {statistics.median(rates):,.0f} rows/s ({shown})", flush=True)
        database.process.terminate()
        database.process.wait(WAIT)


if __name__ == "__main__":
    main()

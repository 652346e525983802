#!/usr/bin/env python3
"""Measures change capture beside Debezium's embedded engine, on one machine in one run, with the database on the same machine:

    scripts/bench_capture.py BUSBAR [--rows N] [--changes N] [postgres] [mysql8]

A table of N rows is read first (snapshot), then N changes in transactions of 1,000 rows are followed (stream): three in four are
updates, the others inserts. Debezium counts the changes and keeps nothing; Busbar keeps them in a stream on the disk. Processor
time is that of the capturing process alone, from its start on; the first event is counted from its start, too. Debezium knows
MySQL; its connector for MariaDB is not among the packages that the build fetches.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from ports import free_port

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "busbar"
DEBEZIUM = CACHE / "debezium-3.6.1"
IN_TRANSACTION = 1_000
WAIT = 900
POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>bench</groupId><artifactId>debezium</artifactId><version>1</version><dependencies>
<dependency><groupId>io.debezium</groupId><artifactId>debezium-embedded</artifactId><version>3.6.1.Final</version></dependency>
<dependency><groupId>io.debezium</groupId><artifactId>debezium-connector-postgres</artifactId><version>3.6.1.Final</version></dependency>
<dependency><groupId>io.debezium</groupId><artifactId>debezium-connector-mysql</artifactId><version>3.6.1.Final</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>2.0.17</version></dependency>
</dependencies></project>
"""
COLUMNS = "id, site, kw, total, note, at"
TABLES = {
    "postgres": "create table meter (id bigint primary key, site varchar(40) not null, kw double precision, total numeric(14,3), note text, at timestamp)",
    "mysql8": "create table meter (id bigint primary key, site varchar(40) not null, kw double, total decimal(14,3), note text, at datetime(6))",
}
ROW = "({0}, 'north-{1:04}', {2}, {0}.125, 'feeder {1} of the northern grid, read at the substation', '2026-01-02 03:04:05.678901')"


def until(what, look, process=None):
    """Waits until something is so, and returns it."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if found := look():
            return found
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{what}: the process has ended")
        time.sleep(0.01)
    raise TimeoutError(what)


def processor_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Database:
    """A server with a table of rows."""

    def __init__(self, what, folder, rows):
        self.what, self.port, self.rows = what, free_port(), rows
        if what == "mysql8":
            subprocess.run([HERE / "servers", "install-mysql8"], check=True)
        else:
            subprocess.run([HERE / "servers", "install"], check=True)
        subprocess.Popen([HERE / "servers", what, folder, str(self.port), str(os.getpid())], stdin=subprocess.DEVNULL)
        until(what, lambda: self.run("select 1;", "", quiet=True))
        self.run("create database bench;", "")
        self.run(TABLES[what] + ";")
        self.insert(1, rows)

    def run(self, sql, database="bench", quiet=False):
        if self.what == "postgres":
            command = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres",
                       "-d", database or "postgres"]
        else:
            command = ["mariadb", "--no-defaults", "-h", "127.0.0.1", "-P", str(self.port), "-u", "root", database]
        ran = subprocess.run(command, input=sql.encode(), env={**os.environ, "PGPASSWORD": "secret"}, capture_output=True)
        if ran.returncode and not quiet:
            raise RuntimeError(ran.stderr.decode()[-2_000:])
        return ran.returncode == 0

    def insert(self, first, count):
        statements = []
        for start in range(first, first + count, IN_TRANSACTION):
            ids = range(start, min(start + IN_TRANSACTION, first + count))
            statements.append(f"insert into meter ({COLUMNS}) values " + ",".join(ROW.format(i, i % 997, i / 8) for i in ids) + ";")
        self.run("".join(statements))

    def change(self, count, turn):
        """So many changes: each transaction updates 750 rows and inserts 250."""
        statements, new = [], self.rows + 1
        for at in range(0, count, IN_TRANSACTION):
            first = 1 + at % (self.rows - IN_TRANSACTION)
            statements.append(f"begin; update meter set kw = kw + 1, note = 'turn {turn}, {at}' where id between {first} and {first + 749};")
            values = ",".join(ROW.format(i, i % 997, i / 8) for i in range(new, new + 250))
            statements.append(f"insert into meter ({COLUMNS}) values {values}; commit;")
            new += 250
        self.rows = new - 1
        self.run("".join(statements))


def row(who, job, events, seconds, processor, first=None):
    first = "" if first is None else f"{first:.1f} s"
    print(f"| {who} | {job} | {events / seconds:,.0f} | {events / processor:,.0f} | {first} |", flush=True)


def measure(who, what, pid, began, first, wait, database, changes, turn):
    """A row of the snapshot and one of the stream; `wait(n)` waits until n events have come."""
    rows = database.rows
    first_at = first() - began
    wait(rows)
    processor = processor_seconds(pid)
    row(who, f"{what}, snapshot", rows, time.monotonic() - began, processor, first_at)
    began = time.monotonic()
    writer = threading.Thread(target=database.change, args=(changes, turn))
    writer.start()
    wait(rows + changes)
    row(who, f"{what}, stream", changes, time.monotonic() - began, processor_seconds(pid) - processor)
    writer.join()


def debezium(what, database, folder, changes):
    if not (DEBEZIUM / "lib").exists():
        DEBEZIUM.mkdir(parents=True, exist_ok=True)
        (DEBEZIUM / "pom.xml").write_text(POM)
        subprocess.run(["mvn", "-q", "-B", "-f", DEBEZIUM / "pom.xml", "dependency:copy-dependencies", "-DincludeScope=runtime",
                        f"-DoutputDirectory={DEBEZIUM / 'part'}"], check=True)
        (DEBEZIUM / "part").rename(DEBEZIUM / "lib")
    # Compiled before it is measured.
    subprocess.run(["javac", "-cp", f"{DEBEZIUM / 'lib'}/*", "-d", folder, HERE / "Capture.java"], check=True)
    properties = {
        "name": "bench", "topic.prefix": "bench", "tasks.max": "1", "database.hostname": "127.0.0.1", "database.port": str(database.port),
        "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore", "offset.storage.file.filename": str(folder / "offsets"),
        "offset.flush.interval.ms": "1000", "max.batch.size": "8192", "max.queue.size": "32768", "snapshot.mode": "initial",
    }
    if what == "postgres":
        properties |= {"connector.class": "io.debezium.connector.postgresql.PostgresConnector", "plugin.name": "pgoutput", "database.user": "postgres",
                       "database.password": "secret", "database.dbname": "bench", "table.include.list": "public.meter", "slot.name": "debezium"}
    else:
        properties |= {"connector.class": "io.debezium.connector.mysql.MySqlConnector", "database.user": "root", "database.password": "", "database.server.id": "4711",
                       "database.include.list": "bench", "table.include.list": "bench.meter",
                       "schema.history.internal": "io.debezium.relational.history.MemorySchemaHistory"}
    (folder / "properties").write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    counts = [str(database.rows), str(database.rows + changes)]
    came = {}
    began = time.monotonic()
    process = subprocess.Popen(["java", "-Xmx1g", "-cp", f"{folder}:{DEBEZIUM / 'lib'}/*", "Capture", folder / "properties", *counts],
                               stdout=subprocess.PIPE, stderr=open(folder / "debezium.log", "wb"), text=True)

    def listen():
        for line in process.stdout:
            came[line.strip()] = time.monotonic()

    threading.Thread(target=listen, daemon=True).start()
    try:
        # The last count ends the process, whose processor time is read while it is there.
        measure("Debezium", what, process.pid, began, lambda: until("an event", lambda: came.get("first"), process),
                lambda count: until(f"{count} events", lambda: came.get(str(count)), process), database, changes, 1)
    finally:
        process.kill()
        process.wait()


def busbar(program, what, database, folder, changes):
    project, port = folder / "project", free_port()
    for name in ("streams", "connections"):
        (project / name).mkdir(parents=True)
    (project / "streams" / "changes.yaml").write_text("topics: changes/#\nformat: json\n")
    user = "user: postgres, password: secret" if what == "postgres" else "user: root"
    kind = "postgres" if what == "postgres" else "mysql"
    table = "public.meter" if what == "postgres" else "meter"
    (project / "connections" / "db.yaml").write_text(
        f"{kind}: {{ address: '127.0.0.1:{database.port}', database: bench, {user}, follow: {{ tables: [{table}] }} }}\ntopic: changes/meter\n")
    command = [program, "run", project, "--data-dir", folder / "data", "--http-listen", f"127.0.0.1:{port}", "--mqtt-listen", "off",
               "--amqp-listen", "off"]
    began = time.monotonic()
    with open(folder / "node.log", "wb") as log:
        node = subprocess.Popen(command, stdout=log, stderr=log)

    def events():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/streams/changes") as answer:
                return json.load(answer)["events"]
        except OSError:
            return 0

    def first():
        until("an event", events, node)
        return time.monotonic()

    try:
        measure("Busbar", what, node.pid, began, first, lambda count: until(f"{count} events", lambda: events() >= count, node),
                database, changes, 2)
    except RuntimeError as why:
        raise RuntimeError((folder / "node.log").read_text()[-2_000:]) from why
    finally:
        node.send_signal(signal.SIGTERM)
        node.wait(WAIT)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("busbar", type=Path)
    options.add_argument("databases", nargs="*", default=["postgres", "mysql8"])
    options.add_argument("--rows", type=int, default=500_000)
    options.add_argument("--changes", type=int, default=500_000)
    given = options.parse_args()
    print("| who | job | events/s | events per CPU-second | first event after |\n| --- | --- | ---: | ---: | ---: |", flush=True)
    for what in given.databases:
        if what not in TABLES:
            sys.exit(f"there is no {what}; say {', '.join(TABLES)}")
        for who in ("debezium", "busbar"):
            with tempfile.TemporaryDirectory() as folder:
                folder = Path(folder)
                folder.chmod(0o755)  # the server's user goes through it
                database = Database(what, folder / "database", given.rows)
                (folder / who).mkdir()
                if who == "debezium":
                    debezium(what, database, folder / who, given.changes)
                else:
                    busbar(given.busbar.resolve(), what, database, folder / who, given.changes)
                os.kill(int((folder / "database" / "server.pid").read_text()), signal.SIGTERM)
                until("the server's end", lambda: not Path(f"/proc/{(folder / 'database' / 'server.pid').read_text().strip()}").exists())


if __name__ == "__main__":
    main()

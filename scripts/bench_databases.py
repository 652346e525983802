#!/usr/bin/env python3
"""Measures what flows do with databases, on one machine with the databases on it:

    scripts/bench_databases.py BUSBAR JOB [--count N]

JOB is one of

    step         N changes of a table of MariaDB, through a flow, into a table of PostgreSQL, exactly once; beside what each server
                 does alone with the same rows in transactions of the same size
    latency      single changes at a pace: from before the statement in MariaDB to the commit in PostgreSQL
    lookup       a join with a table of PostgreSQL and of MariaDB: keys that are there, keys that are not, and the answer of one
                 second before used again
    hot          N events of 100,000 keys into a hot table, each a row: in the node's memory, in Redis, and in Redis with a table that rows
                 move to; beside what Redis does alone
    transaction  one transaction of N MB is followed, from PostgreSQL and from MariaDB; the node's memory at its highest

`make bench` does not run it.
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

from bench_capture import HERE, processor_seconds, until
from ports import free_port

WAIT = 3_600
IN_TRANSACTION = 1_000
COUNTS = {"step": 400_000, "latency": 10_000, "lookup": 400_000, "hot": 1_000_000, "transaction": 1_024}


class Server:
    """PostgreSQL, MariaDB or Redis."""

    def __init__(self, what, folder):
        self.what, self.port, self.folder = what, free_port(), folder
        subprocess.run([HERE / "servers", "install"], check=True)
        self.start()
        if what != "redis":
            self.run("create database bench;", "")

    def start(self):
        subprocess.Popen([HERE / "servers", self.what, self.folder, str(self.port), str(os.getpid())], stdin=subprocess.DEVNULL)
        alive = ("PING", [["PONG"]]) if self.what == "redis" else ("select 1;", [["1"]])
        until(self.what, lambda: self.run(alive[0], "", quiet=True) == alive[1])

    def command(self, database):
        if self.what == "redis":
            return ["redis-cli", "-e", "--raw", "-p", str(self.port)]
        if self.what == "postgres":
            return ["psql", "-X", "-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(self.port), "-U",
                    "postgres", "-d", database or "postgres"]
        return ["mariadb", "--no-defaults", "-N", "-B", "-h", "127.0.0.1", "-P", str(self.port), "-u", "root", database]

    def run(self, sql, database="bench", quiet=False):
        ran = subprocess.run(self.command(database), input=sql, env={**os.environ, "PGPASSWORD": "secret"}, capture_output=True, text=True)
        if ran.returncode and not quiet:
            raise RuntimeError(ran.stderr[-2_000:])
        return None if ran.returncode else [line.split("\t") for line in ran.stdout.splitlines()]

    def settings(self, *settings):
        """Settings that take a restart."""
        for setting in settings:
            self.run(f"alter system set {setting};", "")
        self.stop()
        self.start()

    def pid(self):
        return int((self.folder / "server.pid").read_text())

    def processor(self):
        """Processor time of the server and of the processes that it has started, those that have ended, too."""
        listed = subprocess.run(["pgrep", "-P", str(self.pid())], capture_output=True, text=True).stdout.split()
        ended = Path(f"/proc/{self.pid()}/stat").read_text().rpartition(")")[2].split()[13:15]
        total = processor_seconds(self.pid()) + sum(map(int, ended)) / os.sysconf("SC_CLK_TCK")
        for pid in listed:
            try:
                total += processor_seconds(pid)
            except OSError:
                pass
        return total

    def stop(self):
        pid = self.pid()
        os.kill(pid, signal.SIGINT if self.what == "postgres" else signal.SIGTERM)
        until("the server's end", lambda: not Path(f"/proc/{pid}").exists())
        # Its script sees it, too.
        time.sleep(1)

    def connection(self, rest):
        kind, user = ("postgres", "user: postgres, password: secret") if self.what == "postgres" else ("mysql", "user: root")
        return f"{kind}: {{ address: '127.0.0.1:{self.port}', database: bench, {user}, {rest} }}\n"


class Node:
    """Busbar with files of a project."""

    def __init__(self, program, folder, files):
        self.program, self.folder, self.port, self.log = program, folder, free_port(), folder / "node.log"
        self.project = folder / "project"
        self.write(files)
        command = [program, "run", self.project, "--data-dir", folder / "data", "--http-listen", f"127.0.0.1:{self.port}", "--mqtt-listen", "off",
                   "--amqp-listen", "off"]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.until("the node", lambda: self.get("streams") is not None)

    def write(self, files):
        for path, text in files.items():
            path = self.project / path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout=60) as answer:
                return json.load(answer)
        except OSError:
            return None

    def post(self, path, body, kind="application/json"):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/v1/{path}", data=body, headers={"content-type": kind})
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            return answer.read()

    def named(self, what, name):
        listed = (self.get(what) or {}).get(what, [])
        return next((one for one in listed if one["name"] == name), {})

    def until(self, what, look):
        try:
            return until(what, look, self.process)
        except (RuntimeError, TimeoutError) as why:
            raise RuntimeError(f"{what}: {self.get('connections')} {self.log.read_text()[-3_000:]}") from why

    def memory_most(self):
        """Bytes of resident memory at the highest, and of that what belongs to no file."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(WAIT)


TABLE = {
    "mariadb": "create table meter (id bigint primary key, site varchar(40) not null, kw double, total decimal(14,3), note text, at datetime(6));",
    "postgres": "create table meter (id bigint primary key, site text not null, kw double precision, total numeric(14,3), note text, at timestamp);",
}
COLUMNS = "id, site, kw, total, note, at"


def values(first, last):
    row = "({0}, 'north-{1:04}', {2}, {0}.125, 'feeder {1} of the northern grid, read at the substation', '2026-01-02 03:04:05.678901')"
    return ",".join(row.format(i, i % 997, i / 8) for i in range(first, last))


def changes(count):
    """Statements that change a table: three in four changes are updates, the others inserts, 1,000 a transaction."""
    statements, new = [], 1
    for at in range(0, count, IN_TRANSACTION):
        statements.append(f"begin; insert into meter ({COLUMNS}) values {values(new, new + 250)};")
        for _ in range(3):
            statements.append(f"update meter set kw = kw + 1, note = 'changed {at}' where id between {new} and {new + 249};")
        statements.append("commit;")
        new += 250
    return "".join(statements)


FLOW = {
    "streams/changes.yaml": "topics: changes/#\nformat: json\n"
                            "schema: { change: text, id: int, site: text, kw: float, total: text, note: text, at: text }\n",
    "flows/copy.yaml": "from: changes\nsteps:\n  - select: change, id, site, kw, total, note, at\nto:\n  - connection: there\n",
}


def copying(mariadb, postgres):
    return FLOW | {
        "connections/here.yaml": mariadb.connection("follow: { tables: [meter] }") + "topic: changes/meter\n",
        "connections/there.yaml": postgres.connection("write: { table: meter, key: [id], change: change }"),
    }


def step(program, folder, count):
    mariadb, postgres = Server("mariadb", folder / "mariadb"), Server("postgres", folder / "postgres")
    sql = changes(count)
    print("| what | changes/s | processor seconds |\n| --- | ---: | ---: |", flush=True)

    def row(what, began, *used):
        seconds = time.monotonic() - began
        print(f"| {what} | {count / seconds:,.0f} | {', '.join(f'{who} {of:.1f}' for who, of in used)} |", flush=True)

    # Each server alone: MariaDB with the changes, PostgreSQL with the rows that come of them, as many in a transaction, by COPY into
    # a table beside and one statement, which is the fastest that was found.
    mariadb.run(TABLE["mariadb"])
    before, began = mariadb.processor(), time.monotonic()
    mariadb.run(sql)
    row("MariaDB alone", began, ("MariaDB", mariadb.processor() - before))
    wanted = mariadb.run("select count(*), sum(kw), sum(total) from meter;")
    mariadb.run("drop table meter;" + TABLE["mariadb"])
    postgres.run(TABLE["postgres"] + "create unlogged table beside (like meter);")
    script, new = [], 1
    for at in range(0, count, IN_TRANSACTION):
        script.append("begin; copy beside from stdin;\n")
        for turn in range(4):
            note = f"changed {at}" if turn else "feeder of the northern grid, read at the substation"
            script.extend(f"{i}\tnorth-{i % 997:04}\t{i / 8 + turn}\t{i}.125\t{note}\t2026-01-02 03:04:05.678901\n" for i in range(new, new + 250))
        script.append("\\.\ninsert into meter select distinct on (id) * from beside order by id, kw desc on conflict (id) do update set site = excluded.site, "
                      "kw = excluded.kw, total = excluded.total, note = excluded.note, at = excluded.at; truncate beside; commit;\n")
        new += 250
    script = "".join(script)
    began, before = time.monotonic(), postgres.processor()
    postgres.run(script)
    row("PostgreSQL alone", began, ("PostgreSQL", postgres.processor() - before))
    postgres.run("truncate meter;")
    node = Node(program, folder, copying(mariadb, postgres))
    try:
        node.until("the connection", lambda: node.named("connections", "here").get("state") == "running")
        used = [("MariaDB", mariadb.processor), ("PostgreSQL", postgres.processor), ("Busbar", lambda: processor_seconds(node.process.pid))]
        before = [look() for _, look in used]
        began = time.monotonic()
        writer = threading.Thread(target=mariadb.run, args=(sql,))
        writer.start()
        node.until("the changes", lambda: node.named("connections", "there").get("out", 0) >= count)
        row("MariaDB → flow → PostgreSQL", began, *((who, look() - was) for (who, look), was in zip(used, before)))
        writer.join()
        found = postgres.run("select count(*), sum(kw), sum(total) from meter;")
        same = [float(a) == float(b) for a, b in zip(wanted[0], found[0])]
        if not all(same):
            raise RuntimeError(f"{found} is not {wanted}")
    finally:
        node.stop()
        mariadb.stop()
        postgres.stop()


def latency(program, folder, count):
    mariadb, postgres = Server("mariadb", folder / "mariadb"), Server("postgres", folder / "postgres")
    postgres.settings("track_commit_timestamp = on")
    mariadb.run(TABLE["mariadb"])
    postgres.run(TABLE["postgres"])
    node = Node(program, folder, copying(mariadb, postgres))
    try:
        node.until("the connection", lambda: node.named("connections", "here").get("state") == "running")
        print("| changes/s | p50 ms | p99 ms | p99.9 ms | most ms |\n| ---: | ---: | ---: | ---: | ---: |", flush=True)
        first = 1
        for pace in (100, 1_000):
            # Statements of their own, each one a transaction, as an application sends them.
            client = subprocess.Popen(mariadb.command("bench"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
            client.stdin.write("set time_zone = '+00:00';\n")
            began = time.monotonic()
            number = min(count, pace * 30)
            for i in range(first, first + number):
                client.stdin.write(f"insert into meter ({COLUMNS}) values ({i}, 'north', 1, 1, 'feeder', sysdate(6));\n")
                client.stdin.flush()
                time.sleep(max(0, began + (i - first + 1) / pace - time.monotonic()))
            took = time.monotonic() - began
            client.stdin.close()
            client.wait()
            until("the rows", lambda: postgres.run(f"select count(*) from meter where id >= {first};") == [[str(number)]])
            of = f"select 1000 * extract(epoch from pg_xact_commit_timestamp(xmin) at time zone 'utc' - at) as ms from meter where id >= {first}"
            parts = ", ".join(f"percentile_cont({at}) within group (order by ms)" for at in (0.5, 0.99, 0.999))
            figures = postgres.run(f"select {parts}, max(ms) from ({of}) of;")[0]
            print(f"| {number / took:,.0f} | " + " | ".join(f"{float(figure):.1f}" for figure in figures) + " |", flush=True)
            first += number
    finally:
        node.stop()
        mariadb.stop()
        postgres.stop()


def lookup(program, folder, count):
    print("| database | keys | rows/s | asked | found | from the cache | Busbar's processor seconds |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for what in ("postgres", "mariadb"):
        server = Server(what, folder / what)
        server.run(TABLE[what])
        for at in range(1, count + 1, 5_000):
            server.run(f"insert into meter ({COLUMNS}) values {values(at, min(at + 5_000, count + 1))};")
        schema = "public" if what == "postgres" else "bench"
        server.run("vacuum analyze meter;" if what == "postgres" else "analyze table meter;")
        jobs = {
            "each one once, all there": (lambda i: i * 7_919 % count + 1, "0s"),
            "each one once, none there": (lambda i: count + 1 + i, "0s"),
            "1,000 keys again and again": (lambda i: i % 1_000 + 1, "10s"),
        }
        home = folder / f"{what}-node"
        home.mkdir()
        node = Node(program, home, {"streams/in.yaml": "topics: in/#\nformat: json\nschema: { number: int }\n",
                                    "connections/db.yaml": server.connection("timeout: 30s")})
        try:
            for number, (name, (key, cache)) in enumerate(jobs.items()):
                files = {f"streams/in{number}.yaml": f"topics: in{number}/#\nformat: json\nschema: {{ number: int }}\n"}
                node.write(files)
                node.until("the stream", lambda: node.named("streams", f"in{number}"))
                for at in range(0, count, 20_000):
                    event = '{{"topic":"in{}/a","payload":{{"number":{}}}}}\n'
                    lines = "".join(event.format(number, key(i)) for i in range(at, min(at + 20_000, count)))
                    node.post("events", lines.encode(), "application/x-ndjson")
                before = node.named("connections", "db").get("database") or {}
                processor, began = processor_seconds(node.process.pid), time.monotonic()
                node.write({f"flows/look{number}.yaml": f"from: in{number}\nsteps:\n  - join: {{ table: db.{schema}.meter, on: number = id, columns: [site, kw], "
                                                        f"type: left, cache: {cache} }}\nto:\n  - topic: out{number}/a\n"})
                node.until("the rows", lambda: node.named("flows", f"look{number}").get("out", 0) >= count)
                seconds = time.monotonic() - began
                after = node.named("connections", "db")["database"]
                asked, found, cached = (after[of] - before.get(of, 0) for of in ("keys", "found", "cached"))
                used = processor_seconds(node.process.pid) - processor
                print(f"| {what} | {name} | {count / seconds:,.0f} | {asked:,} | {found:,} | {cached:,} | {used:.1f} |", flush=True)
        finally:
            node.stop()
            server.stop()


def hot(program, folder, count):
    redis = Server("redis", folder / "redis")
    keys = 100_000
    print("| rows | rows/s | processor seconds |\n| --- | ---: | --- |", flush=True)

    def row(what, rate, *used):
        print(f"| {what} | {rate:,.0f} | {', '.join(f'{who} {of:.1f}' for who, of in used)} |", flush=True)

    # The same hashes as a table's, without an index and positions.
    before = processor_seconds(redis.pid())
    alone = subprocess.run(["redis-benchmark", "-p", str(redis.port), "-n", str(count), "-r", str(keys), "-c", "4", "-P", "500", "--csv", "HSET",
                            "alone:__rand_int__", "id", "__rand_int__", "site", "north-0123", "kw", "1234.5"], capture_output=True, text=True, check=True)
    rate = float(alone.stdout.splitlines()[-1].split(",")[1].strip('"'))
    row("`HSET` of redis-benchmark, 4 × 500 at a time", rate, ("Redis", processor_seconds(redis.pid()) - before))
    fields = "format: json\nschema: { id: int, site: text, kw: float }\n"
    where = {
        "memory": ("in the node's memory", "hot: { ttl: 1h }"),
        "redis": ("in Redis", "hot: { connection: cache, ttl: 1h }"),
        "moving": ("in Redis, with `moves_to`", "hot: { connection: cache, ttl: 1h, moves_to: past }"),
    }
    files = {"streams/in.yaml": f"topics: in/#\n{fields}", "tables/past.yaml": "relational: {}\nkey: [id]\n",
             "connections/cache.yaml": f"redis: {{ address: '127.0.0.1:{redis.port}' }}\n"}
    files |= {f"tables/{name}.yaml": f"{engine}\nkey: [id]\n" for name, (_, engine) in where.items()}
    node = Node(program, folder, files)
    try:
        for at in range(0, count, 20_000):
            event = '{{"topic":"in/a","payload":{{"id":{},"site":"north-{:04}","kw":{}}}}}\n'
            lines = "".join(event.format(i * 7_919 % keys, i % 997, i / 8) for i in range(at, min(at + 20_000, count)))
            node.post("events", lines.encode(), "application/x-ndjson")
        for name, (what, _) in where.items():
            used = [("Redis", lambda: processor_seconds(redis.pid())), ("Busbar", lambda: processor_seconds(node.process.pid))]
            before, began = [look() for _, look in used], time.monotonic()
            node.write({f"flows/{name}.yaml": f"from: in\nto:\n  - table: {name}\n"})
            node.until("the rows", lambda: node.named("flows", name).get("out", 0) >= count)
            row(what, count / (time.monotonic() - began), *((who, look() - was) for (who, look), was in zip(used, before)))
            found = node.named("tables", name).get("rows")
            if found != min(keys, count):
                raise RuntimeError(f"{name}: {found} rows")
    finally:
        node.stop()
        redis.stop()


def transaction(program, folder, megabytes):
    print("| database | MB | rows | rows/s | MB/s | memory at rest, MB | at its highest, MB |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    rows = megabytes * 1_024
    for what in ("postgres", "mariadb"):
        server = Server(what, folder / what)
        body = "repeat('0123456789abcdef', 63)"
        if what == "postgres":
            # The test server's own bound on the log that it keeps for a reader is 1 GB.
            server.settings("max_slot_wal_keep_size = -1")
            server.run("create table large (id bigint primary key, body text); alter table large alter column body set storage external;")
            insert = f"insert into large select i, {body} from generate_series(1, {rows}) i;"
        else:
            server.run("create table large (id bigint primary key, body text);")
            insert = f"insert into large select seq, {body} from seq_1_to_{rows};"
        home = folder / f"{what}-node"
        home.mkdir()
        table = "public.large" if what == "postgres" else "large"
        node = Node(program, home, {"streams/in.yaml": "topics: in/#\nformat: json\n",
                                    "connections/c.yaml": server.connection(f"follow: {{ tables: [{table}] }}, timeout: 1h") + "topic: in/large\n"})
        try:
            node.until("the connection", lambda: node.named("connections", "c").get("state") == "running")
            rest = node.memory_most()
            server.run(insert)
            began = time.monotonic()
            node.until("the rows", lambda: node.named("streams", "in").get("events", 0) >= rows)
            seconds = time.monotonic() - began
            most = node.memory_most()
            print(f"| {what} | {megabytes:,} | {rows:,} | {rows / seconds:,.0f} | {megabytes / seconds:,.0f} | {rest / 1e6:,.0f} | {most / 1e6:,.0f} |", flush=True)
            if node.named("streams", "in")["events"] != rows:
                raise RuntimeError(f"{node.named('streams', 'in')['events']} of {rows} rows")
        finally:
            node.stop()
            server.stop()
            subprocess.run(["rm", "-rf", home, server.folder], check=True)


JOBS = {"step": step, "latency": latency, "lookup": lookup, "hot": hot, "transaction": transaction}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("busbar", type=Path)
    options.add_argument("job", choices=JOBS)
    options.add_argument("--count", type=int)
    options.add_argument("--folder", type=Path, help="where data goes; a temporary folder by default")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        folder = Path(folder)
        folder.chmod(0o755)  # the servers' users go through it
        JOBS[given.job](given.busbar.resolve(), folder, given.count or COUNTS[given.job])


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Whether Busbar works with a database through its JDBC driver: what a site runs on its first day.

    JDBC_PASSWORD=… jdbc_acceptance.py BUSBAR --driver ojdbc11.jar --url jdbc:oracle:thin:@//db:1521/HIS --user busbar

Writes the table BUSBAR_ACCEPTANCE, and what keeps positions, BUSBAR_POSITION, in the schema that the database takes by
itself; both are dropped by hand afterwards. The node runs in a folder of its own. Each case is said; the last line counts
them.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from ports import free_port

# Seconds for what has to come. Nothing takes as long; a machine or a database may be slow or busy.
WAIT = 300
TABLE = "busbar_acceptance"


def is_running(pid):
    """A process that has ended and that nobody has waited for has no command line."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


class Site:
    """A node with a project of its own, and the database behind it."""

    def __init__(self, options, folder):
        self.busbar, self.options, self.folder = str(Path(options.busbar).resolve()), options, folder
        self.project, self.process, self.port = folder / "project", None, free_port()
        self.log = open(folder / "node.log", "a")
        for part in ("connections", "streams", "flows", "drivers", "in"):
            (self.project / part).mkdir(parents=True)
        self.drivers = []
        for jar in options.driver:
            shutil.copy(jar, self.project / "drivers")
            self.drivers.append(f"drivers/{Path(jar).name}")
        (self.project / "busbar.toml").write_text("")

    def connection(self, name, **what):
        """Writes a connection's file; JSON is YAML."""
        login = {"driver": self.drivers, "url": self.options.url, "timeout": "60s"}
        if self.options.user:
            login["user"] = self.options.user
        if "JDBC_PASSWORD" in os.environ:
            login["password"] = {"env": "JDBC_PASSWORD"}
        if self.options.driver_class:
            login["class"] = self.options.driver_class
        if self.options.dialect:
            login["dialect"] = self.options.dialect
        topic = what.pop("topic", None)
        file = {"jdbc": login | what} | ({"topic": topic} if topic else {})
        (self.project / "connections" / f"{name}.yaml").write_text(json.dumps(file))

    def start(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith("BUSBAR_")} | {
            "BUSBAR_DATA_DIR": str(self.folder / "data"), "BUSBAR_HTTP_LISTEN": f"127.0.0.1:{self.port}",
            "BUSBAR_MQTT_LISTEN": f"127.0.0.1:{free_port()}", "BUSBAR_AMQP_LISTEN": "off",
        }
        self.process = subprocess.Popen([self.busbar, "run", str(self.project)], env=env, stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
        raise AssertionError(f"the node does not start: see {self.folder / 'node.log'}")

    def kill(self):
        self.process.kill()
        self.process.wait(WAIT)

    def end(self):
        """Ends the node, and waits for its workers: they write to databases in the folder until they notice."""
        workers = self.workers()
        self.kill()
        deadline = time.monotonic() + WAIT
        while any(is_running(pid) for pid in workers):
            assert time.monotonic() < deadline, f"the workers {workers} do not end"
            time.sleep(0.05)

    def workers(self):
        """The Java processes of the node."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                status = (entry / "status").read_text()
                if re.search(rf"^PPid:\t{self.process.pid}$", status, re.M) and b"JdbcWorker" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except (OSError, ValueError):
                continue
        return found

    def api(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/v1/{path}", data=data,
                                         headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            return json.load(answer)

    def payloads(self, sql):
        """The payloads that a query finds, with the names of columns in small letters."""
        rows = self.api("sql", {"sql": sql, "limit": 100_000})["rows"]
        return [{name.lower(): value for name, value in json.loads(row[0]).items()} for row in rows]

    def command(self, *words):
        ran = subprocess.run([self.busbar, *words, "--node", f"http://127.0.0.1:{self.port}"], capture_output=True,
                             text=True, timeout=WAIT, stdin=subprocess.DEVNULL)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def state(self):
        """What the connections and flows say of themselves."""
        try:
            return json.dumps(self.api("connections"))[:4000]
        except OSError as why:
            return str(why)

    def eventually(self, what, look):
        deadline = time.monotonic() + WAIT
        while True:
            try:
                found = look()
            except (urllib.error.URLError, ConnectionError) as why:
                found = why
            if found is True:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} does not come: {found!r}\n{self.state()}")
            time.sleep(0.2)

    def feed(self, lines):
        with open(self.project / "in" / "rows.ndjson", "a") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def row(number, change="upsert", name="张三 it's \"x\" \\"):
    return {"change": change, "id": number, "ver": number // 700, "name": name, "amount": number / 8, "yes": number % 2 == 0}


class Cases:
    """The cases, in their order."""

    def __init__(self, site):
        self.site, self.there = site, {}

    def the_database_answers(self):
        said = self.site.command("connections", "test", "write")
        print("   ", said.strip().splitlines()[0])

    def rows_are_written_into_a_table_that_is_made(self):
        lines = [row(number) for number in range(2000)]
        self.site.feed(lines)
        self.there = {line["id"]: line for line in lines}
        # What reads the table needs it to be there.
        made = lambda: TABLE in self.site.command("connections", "tables", "write").lower() or "no table"
        self.site.eventually("the table", made)
        sources = {
            "back": {"poll": {"tables": [{"table": TABLE, "version": "ver"}], "every": "500ms"}, "topic": "back/x"},
            "counted": {"query": {"statement": f"select count(*) as n, sum(id) as s from {TABLE}", "every": "500ms"},
                        "topic": "counted/x"},
        }
        for name, what in sources.items():
            self.site.connection(name, **what)
        self.site.command("apply", str(self.site.project))
        self.counted()

    def values_come_back_as_they_were(self):
        self.site.eventually("the rows", lambda: self.back())

    def changes_and_deletes_are_followed(self):
        lines = [row(number, name="changed") for number in range(0, 2000, 3)]
        lines += [row(number, change="delete") for number in range(1, 2000, 3)]
        self.site.feed(lines)
        for line in lines:
            if line["change"] == "delete":
                del self.there[line["id"]]
            else:
                self.there[line["id"]] = line
        self.counted()

    def a_row_that_is_refused_holds_no_other_up(self):
        # A key cannot be without a value.
        lines = [row(5000), row(5001) | {"id": None}, row(5002)]
        self.site.feed(lines)
        self.there |= {5000: lines[0], 5002: lines[2]}
        self.counted()
        groups = self.site.command("dead-letters", "groups")
        assert "id" in groups, groups

    def changes_are_polled(self):
        wanted = {5000, 5002}
        self.site.eventually("the rows", lambda: wanted <= {int(found["id"]) for found in self.polled()} or "not yet")

    def the_table_is_listed(self):
        said = self.site.command("connections", "tables", "write", "--columns")
        assert TABLE in said.lower(), said[:2000]

    def rows_are_there_once_although_node_and_worker_are_killed(self):
        chance, number = random.Random(7), 10_000
        for turn in range(self.site.options.rounds):
            lines = [row(number + at) for at in range(500)]
            number += 500
            self.site.feed(lines)
            self.there |= {line["id"]: line for line in lines}
            time.sleep(chance.random() * 1.5)
            if turn % 2:
                self.site.kill()
                self.site.start()
            else:
                for pid in self.site.workers():
                    os.kill(pid, signal.SIGKILL)
        self.counted()

    def counted(self):
        """Waits until the database has what it should have."""
        wanted = (len(self.there), sum(self.there))

        def look():
            last = self.site.payloads("select payload from counted order by time desc limit 1")
            return bool(last) and (int(last[0]["n"]), int(last[0]["s"] or 0)) == wanted or f"{last}, not {wanted}"

        self.site.eventually(f"{wanted[0]} rows", look)

    def polled(self):
        return self.site.payloads("select payload from back order by time")

    def back(self):
        got = {int(found["id"]): found for found in self.polled()}
        for number, line in self.there.items():
            found = got.get(number)
            if found is None:
                return f"{number} is missing, {len(got)} of {len(self.there)} are there"
            same = (int(found["ver"]) == line["ver"] and found["name"] == line["name"] and float(found["amount"]) == line["amount"]
                    and str(found["yes"]).lower() in (str(line["yes"]).lower(), str(int(line["yes"]))))
            assert same, f"{found}, not {line}"
        return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("busbar", help="the program")
    parser.add_argument("--driver", action="append", required=True, help="a jar; may be given several times")
    parser.add_argument("--url", required=True)
    parser.add_argument("--user", default="")
    parser.add_argument("--class", dest="driver_class")
    parser.add_argument("--dialect")
    parser.add_argument("--rounds", type=int, default=6, help="how often something is killed")
    options = parser.parse_args()
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="busbar-acceptance-") as folder:
        site = Site(options, Path(folder))
        (site.project / "connections" / "files.yaml").write_text("file: { read: in/rows.ndjson }\ntopic: rows/x\n")
        schema = "{ change: text, id: int, ver: int, name: text, amount: float, yes: bool }"
        (site.project / "streams" / "rows.yaml").write_text(f"topics: rows/#\nformat: json\nschema: {schema}\n")
        (site.project / "flows" / "write.yaml").write_text("from: rows\nsteps:\n  - select: change, id, ver, name, amount, yes\nto:\n  - connection: write\n")
        site.connection("write", write={"table": TABLE, "key": ["id"], "change": "change", "create": True})
        for stream in ("back", "counted"):
            (site.project / "streams" / f"{stream}.yaml").write_text(f"topics: {stream}/#\n")
        cases = Cases(site)
        names = [name for name in vars(Cases) if not name.startswith("_") and name not in ("counted", "polled", "back")]
        try:
            site.start()
            for name in names:
                try:
                    getattr(cases, name)()
                    passed += 1
                    print(f"ok {name}")
                except (AssertionError, OSError, KeyError, ValueError, subprocess.TimeoutExpired) as why:
                    failed += 1
                    print(f"FAILED {name}: {why}")
        finally:
            if site.process is not None:
                site.end()
    print(f"Not needed any more: drop table {TABLE}; and busbar_position, unless other flows use it.")
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())

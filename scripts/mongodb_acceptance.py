#!/usr/bin/env python3
"""Whether Busbar works with a MongoDB replica set: what a site runs on its first day.

    MONGODB_PASSWORD=… mongodb_acceptance.py BUSBAR --address db1:27017,db2:27017 --database test --user busbar

Writes the collection busbar_acceptance, and what keeps positions, busbar_position, in that database; both are dropped by hand
afterwards. The node runs in a folder of its own and is killed several times. Each case is said; the last line counts them.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from jdbc_acceptance import Site

COLLECTION = "busbar_acceptance"


class MongoSite(Site):
    """A node with a project of its own, and the replica set behind it."""

    def connection(self, name, **what):
        """Writes a connection's file; JSON is YAML."""
        options = self.options.mongodb
        login = {"address": options.address, "database": options.database, "timeout": "60s"}
        if options.user:
            login |= {"user": options.user, "password": {"env": "MONGODB_PASSWORD"}, "auth_database": options.auth_database}
        if options.tls is not None:
            login["tls"] = {"ca": options.tls} if options.tls else {}
        topic = what.pop("topic", None)
        file = {"mongodb": login | what} | ({"topic": topic} if topic else {})
        (self.project / "connections" / f"{name}.yaml").write_text(json.dumps(file))


def row(number, change="upsert", name="张三 it's \"x\" \\"):
    return {"change": change, "id": number, "ver": number // 700, "name": name, "amount": number / 8, "yes": number % 2 == 0}


class MongoCases:
    """The cases, in their order."""

    def __init__(self, site):
        self.site, self.there = site, {}

    def the_server_answers(self):
        print("   ", self.site.command("connections", "test", "write").strip().splitlines()[0])

    def documents_are_written_and_their_changes_come_back(self):
        self.send([row(number) for number in range(2000)])
        self.come_back()

    def changes_and_deletes_are_followed(self):
        lines = [row(number, name="changed") for number in range(0, 2000, 3)]
        self.send(lines + [row(number, change="delete") for number in range(1, 2000, 3)])
        self.come_back()

    def a_row_that_is_refused_holds_no_other_up(self):
        # A key cannot be without a value.
        self.send([row(5000)])
        self.site.feed([row(5001) | {"id": None}])
        self.send([row(5002)])
        self.come_back()
        groups = self.site.command("dead-letters", "groups")
        assert "_id" in groups, groups

    def documents_are_looked_up(self):
        rows = self.site.api("sql", {"sql": "select count(*) from write.doc", "limit": 1})["rows"]
        assert int(rows[0][0]) == len(self.there), rows

    def collections_are_listed(self):
        said = self.site.command("connections", "tables", "write", "--columns")
        assert COLLECTION in said, said[:2000]

    def rows_are_there_once_although_the_node_is_killed(self):
        chance, number = random.Random(7), 10_000
        for _ in range(self.site.options.rounds):
            self.send([row(number + at) for at in range(500)])
            number += 500
            time.sleep(chance.random() * 1.5)
            self.site.kill()
            self.site.start()
        self.come_back()
        # Each change came once: a document that was inserted and never changed has one event behind the snapshot.
        events = self.site.payloads("select payload from back")
        seen = [event["_id"] for event in events if event["change"] in ("insert", "update") and event["_id"] >= 10_000]
        assert len(seen) == len(set(seen)), f"{len(seen)} changes of {len(set(seen))} documents"

    def send(self, lines):
        self.site.feed(lines)
        for line in lines:
            if line["change"] == "delete":
                self.there.pop(line["id"], None)
            else:
                self.there[line["id"]] = line

    def come_back(self):
        """Waits until the events of the change source come to what was written."""

        def look():
            got = {}
            for event in self.site.payloads("select payload from back order by time"):
                if event["change"] == "delete":
                    got.pop(event["_id"], None)
                elif event["change"] == "truncate":
                    got.clear()
                else:
                    got[event["_id"]] = event
            for number, line in self.there.items():
                found = got.get(number)
                if found is None or any(found.get(name) != line[name] for name in ("ver", "name", "amount", "yes")):
                    return f"{found}, not {line}"
            return len(got) == len(self.there) or f"{len(got)}, not {len(self.there)}"

        self.site.eventually("what was written", look)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("busbar", help="the program")
    parser.add_argument("--address", required=True, help="members of the set, with commas between them")
    parser.add_argument("--database", required=True)
    parser.add_argument("--user", default="")
    parser.add_argument("--auth-database", default="admin")
    parser.add_argument("--tls", metavar="CA", nargs="?", const="", help="with TLS; a PEM file in the project's folder or none")
    parser.add_argument("--rounds", type=int, default=6, help="how often the node is killed")
    given = parser.parse_args()
    options = SimpleNamespace(busbar=given.busbar, driver=[], rounds=given.rounds, mongodb=given)
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="busbar-acceptance-") as folder:
        site = MongoSite(options, Path(folder))
        (site.project / "connections" / "files.yaml").write_text("file: { read: in/rows.ndjson }\ntopic: rows/x\n")
        schema = "{ change: text, id: int, ver: int, name: text, amount: float, yes: bool }"
        (site.project / "streams" / "rows.yaml").write_text(f"topics: rows/#\nformat: json\nschema: {schema}\n")
        (site.project / "streams" / "back.yaml").write_text("topics: back/#\n")
        flow = 'from: rows\nsteps:\n  - select: change, id as "_id", ver, name, amount, yes\nto:\n  - connection: write\n'
        (site.project / "flows" / "write.yaml").write_text(flow)
        columns = [{"name": name, "type": of} for name, of in (("_id", "int"), ("ver", "int"), ("name", "text"))]
        tables = {"doc": {"collection": COLLECTION, "key": ["_id"], "columns": columns}}
        site.connection("write", write={"collection": COLLECTION, "key": ["_id"], "change": "change"}, tables=tables)
        site.connection("back", follow={"collections": [COLLECTION]}, topic="back/x")
        cases = MongoCases(site)
        names = [name for name in vars(MongoCases) if not name.startswith("_") and name not in ("send", "come_back")]
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
                site.kill()
    print(f"Not needed any more: db.{COLLECTION}.drop(), and busbar_position, unless other flows use it.")
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())

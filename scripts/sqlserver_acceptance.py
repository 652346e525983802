#!/usr/bin/env python3
"""Whether Busbar works with a SQL Server: what a site runs on its first day.

    SQLSERVER_PASSWORD=… sqlserver_acceptance.py BUSBAR --address db.example:1433 --database nis --user busbar --follow cdc

Writes the table dbo.busbar_acceptance, and what keeps positions, dbo.busbar_position and dbo.busbar_refused; they are dropped
by hand afterwards. With `--follow cdc` the table is put under change data capture, and with `--follow tracking` under change
tracking, for which the user needs the rights; the database itself has to have it already. The node runs in a folder of its
own. Each case is said; the last line counts them.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jdbc_acceptance
from jdbc_acceptance import row

TABLE = "busbar_acceptance"
FOLLOWED = {
    "cdc": f"EXEC sys.sp_cdc_enable_table @source_schema = N'dbo', @source_name = N'{TABLE}', @role_name = NULL",
    "tracking": f"ALTER TABLE dbo.{TABLE} ENABLE CHANGE_TRACKING",
}


class Site(jdbc_acceptance.Site):
    """A node with a project of its own, and the server behind it."""

    def __init__(self, options, folder):
        options.driver = []
        super().__init__(options, folder)

    def connection(self, name, **what):
        login = {"address": self.options.address, "database": self.options.database, "user": self.options.user, "timeout": "60s"}
        if "SQLSERVER_PASSWORD" in os.environ:
            login["password"] = {"env": "SQLSERVER_PASSWORD"}
        if self.options.trust_certificate:
            login["trust_certificate"] = True
        elif self.options.tls:
            login["tls"] = {}
        topic = what.pop("topic", None)
        file = {"sqlserver": login | what} | ({"topic": topic} if topic else {})
        (self.project / "connections" / f"{name}.yaml").write_text(json.dumps(file))

    def apply(self):
        self.command("apply", str(self.project))


class Cases:
    """The cases, in their order."""

    def __init__(self, site):
        self.site, self.there = site, {}

    def the_server_answers(self):
        print("   ", self.site.command("connections", "test", "write").strip().splitlines()[0])

    def rows_are_written_into_a_table_that_is_made(self):
        lines = [row(number) for number in range(2000)]
        self.site.feed(lines)
        self.there = {line["id"]: line for line in lines}
        made = lambda: TABLE in self.site.command("connections", "tables", "write").lower() or "no table"
        self.site.eventually("the table", made)
        self.site.connection("counted", query={"statement": f"select count(*) as n, sum(id) as s from dbo.{TABLE}", "every": "500ms"}, topic="counted/x")
        self.site.connection("back", query={"statement": f"select id, ver, name, amount, yes from dbo.{TABLE} where id > @position order by id",
                                            "position": "id", "start": "-1", "every": "500ms"}, topic="back/x")
        self.site.apply()
        self.counted()

    def values_come_back_as_they_were(self):
        def look():
            got = {found["id"]: found for found in self.site.payloads("select payload from back")}
            for number, line in self.there.items():
                found = got.get(number)
                if found is None:
                    return f"{number} is missing, {len(got)} of {len(self.there)} are there"
                wanted = {name: line[name] for name in ("id", "ver", "name", "amount", "yes")}
                assert found == wanted, f"{found}, not {wanted}"
            return True

        self.site.eventually("the rows", look)

    def changes_of_the_table_are_followed(self):
        by = self.site.options.follow
        if by is None:
            print("    left out: say --follow cdc or --follow tracking")
            return
        # Anything that the server runs may stand in a query; this one is run once.
        self.site.connection("enable", query={"statement": f"{FOLLOWED[by]}; select 1 as done", "every": "24h"}, topic="enabled/x")
        self.site.apply()
        self.site.eventually("the table's changes", lambda: bool(self.site.payloads("select payload from enabled")) or "not yet")
        self.site.connection("changes", follow={"tables": [f"dbo.{TABLE}"], "by": by}, topic="changes/x")
        self.site.apply()
        self.followed()

    def changes_and_deletes_are_written(self):
        lines = [row(number, name="changed") for number in range(0, 2000, 3)]
        lines += [row(number, change="delete") for number in range(1, 2000, 3)]
        self.site.feed(lines)
        for line in lines:
            if line["change"] == "delete":
                del self.there[line["id"]]
            else:
                self.there[line["id"]] = line
        self.counted()
        self.followed()

    def a_row_that_is_refused_holds_no_other_up(self):
        # A key cannot be without a value.
        lines = [row(5000), row(5001) | {"id": None}, row(5002)]
        self.site.feed(lines)
        self.there |= {5000: lines[0], 5002: lines[2]}
        self.counted()
        groups = self.site.command("dead-letters", "groups")
        assert "id" in groups, groups

    def rows_are_there_once_although_the_node_is_killed(self):
        chance, number = random.Random(7), 10_000
        for _ in range(self.site.options.rounds):
            lines = [row(number + at) for at in range(500)]
            number += 500
            self.site.feed(lines)
            self.there |= {line["id"]: line for line in lines}
            time.sleep(chance.random() * 1.5)
            self.site.kill()
            self.site.start()
        self.counted()
        self.followed()

    def counted(self):
        """Waits until the database has what it should have."""
        wanted = (len(self.there), sum(self.there))

        def look():
            last = self.site.payloads("select payload from counted order by time desc limit 1")
            return bool(last) and (int(last[0]["n"]), int(last[0]["s"] or 0)) == wanted or f"{last}, not {wanted}"

        self.site.eventually(f"{wanted[0]} rows", look)

    def followed(self):
        """Waits until the changes say what the database has."""
        if self.site.options.follow is None:
            return

        def look():
            rows = {}
            for change in self.site.payloads("select payload from changes"):
                if change["change"] == "delete":
                    rows.pop(change["id"], None)
                elif change["change"] != "schema":
                    rows[change["id"]] = change["name"]
            wanted = {number: line["name"] for number, line in self.there.items()}
            return rows == wanted or f"{len(rows)} of {len(wanted)} rows, {list(rows.items() ^ wanted.items())[:3]}"

        self.site.eventually("the changes", look)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("busbar", help="the program")
    parser.add_argument("--address", required=True, help="host:port")
    parser.add_argument("--database", required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--tls", action="store_true", help="encrypt, with a certificate of the usual authorities")
    parser.add_argument("--trust-certificate", action="store_true", help="encrypt, with any certificate")
    parser.add_argument("--follow", choices=sorted(FOLLOWED))
    parser.add_argument("--rounds", type=int, default=6, help="how often the node is killed")
    options = parser.parse_args()
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="busbar-acceptance-") as folder:
        site = Site(options, Path(folder))
        (site.project / "connections" / "files.yaml").write_text("file: { read: in/rows.ndjson }\ntopic: rows/x\n")
        schema = "{ change: text, id: int, ver: int, name: text, amount: float, yes: bool }"
        (site.project / "streams" / "rows.yaml").write_text(f"topics: rows/#\nformat: json\nschema: {schema}\n")
        (site.project / "flows" / "write.yaml").write_text("from: rows\nsteps:\n  - select: change, id, ver, name, amount, yes\nto:\n  - connection: write\n")
        site.connection("write", write={"table": f"dbo.{TABLE}", "key": ["id"], "change": "change", "create": True})
        for stream in ("back", "counted", "enabled", "changes"):
            (site.project / "streams" / f"{stream}.yaml").write_text(f"topics: {stream}/#\n")
        cases = Cases(site)
        names = [name for name in vars(Cases) if not name.startswith("_") and name not in ("counted", "followed")]
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
    print(f"Not needed any more: DROP TABLE dbo.{TABLE}; and dbo.busbar_position and dbo.busbar_refused, unless other flows use them.")
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())

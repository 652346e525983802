#!/usr/bin/env python3
"""Measures the four flows of examples/hospital at once, on one machine with all databases, and counts messages at every node:

    scripts/bench_hospital.py BUSBAR [--messages N] [--perf FOLDER]

The HIS (MariaDB) gets new patients, orders and charges in bulk while the node runs: 2, 8 and 16 of each 26 messages, 1,000
patients with what is theirs in one transaction. A message is done when its row is in the NIS (PostgreSQL), and a patient's when
the table of summaries has what the HIS says of it now. Then the same steps work the same streams off once more, with streams in
the place of the databases. It fails when a node has not counted what the one before it has, or when a row differs.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from ports import free_port

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "hospital"
WAIT = 3_600
PATIENTS_AT_ONCE = 1_000
PATIENTS, ORDERS, CHARGES = 2, 8, 16
FLOWS = {"patient": PATIENTS, "order": ORDERS, "charge": CHARGES}
# What sql/his.sql has of each.
THERE = {"patient": 3, "order": 2, "charge": 1}
FIRST_PATIENT = 10_000
PARTS = ("connections", "streams", "flows", "tables")


def until(what, look, node):
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if look():
            return time.monotonic()
        if node.process.poll() is not None:
            raise RuntimeError(f"the node has ended: {node.log.read_text()[-2_000:]}")
        time.sleep(0.1)
    raise TimeoutError(f"{what}\n{node.counts()}\n{node.log.read_text()[-2_000:]}")


def cpu(pid):
    """Seconds of processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def process_of(name, port):
    """The process of a server, by its port."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            except OSError:
                continue
            if line.split(" ")[0].endswith(name) and re.search(rf"[ =]{port}\b", line):
                return int(entry.name)
    raise RuntimeError(f"{name} does not run")


def children(pid):
    """A process and those that it has started."""
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    return [pid] + [int(child) for child in listed]


class Node:
    """Busbar with a project."""

    def __init__(self, program, project, data, environment):
        self.port, self.log = free_port(), data.parent / "node.log"
        command = [program, "run", project, "--data-dir", data, "--http-listen", f"127.0.0.1:{self.port}",
                   "--mqtt-listen", "off", "--amqp-listen", "off"]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def get(self, path, body=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/v1/{path}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            return json.load(answer)

    def sql(self, query):
        return self.get("sql", {"sql": query})["rows"]

    def is_ready(self):
        try:
            return all(flow["state"] == "running" for flow in self.get("flows")["flows"])
        except OSError:
            return False

    def counts(self):
        """What each flow, stream and connection has counted."""
        try:
            flows = {f["name"]: {k: f[k] for k in ("in", "out", "dead", "held")} for f in self.get("flows")["flows"]}
            streams = {s["name"]: s["events"] for s in self.get("streams")["streams"]}
            sinks = {c["name"]: c["out"] for c in self.get("connections")["connections"]}
        except OSError as cause:
            return {"unreachable": str(cause)}
        return {"flows": flows, "streams": streams, "connections": sinks}

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(WAIT)


class Servers:
    """The HIS and the NIS."""

    def __init__(self, folder):
        self.his, self.nis = free_port(), free_port()
        subprocess.run([EXAMPLE / "start", "servers", folder / "servers", str(self.his), str(self.nis), str(os.getpid())],
                       check=True, stdin=subprocess.DEVNULL)
        self.pids = {"MariaDB": process_of("mariadbd", self.his), "PostgreSQL": process_of("postgres", self.nis)}

    def mariadb(self, sql):
        done = subprocess.run(["mariadb", "--no-defaults", "--default-character-set=utf8mb4", "-N", "-B", "-h", "127.0.0.1",
                               "-P", str(self.his), "-u", "root", "his"], input=sql, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return [line.split("\t") for line in done.stdout.splitlines()]

    def postgres(self, sql):
        done = subprocess.run(["psql", "-X", "-q", "-A", "-t", "-F", "\t", "-h", "127.0.0.1", "-p", str(self.nis), "-U", "postgres",
                               "-d", "nis", "-c", sql], env={**os.environ, "PGPASSWORD": "secret"}, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return [line.split("\t") for line in done.stdout.splitlines()]


def bulk(patients):
    """Statements that bring new patients with their orders and charges."""
    script, orders, charges = [], ORDERS // PATIENTS, CHARGES // PATIENTS
    for first in range(0, patients, PATIENTS_AT_ONCE):
        last = min(first + PATIENTS_AT_ONCE, patients) - 1
        script.append(f"""BEGIN;
INSERT INTO Patient SELECT {FIRST_PATIENT} + seq, concat('病人 ', seq), seq % 3, date_add('1950-01-01', interval seq % 20000 day),
  concat('138', lpad(seq, 8, '0')), concat('W', seq % 40), seq % 100, '2026-11-20 08:30:00' FROM seq_{first}_to_{last};
INSERT INTO Orders SELECT 1000 + seq, {FIRST_PATIENT} + seq DIV {orders}, concat('item ', seq % 1000), '1 g', 'qd',
  if(seq % 2, 'N', 'D'), '2026-11-20 09:00:00' FROM seq_{first * orders}_to_{(last + 1) * orders - 1};
INSERT INTO Charge SELECT 1000 + seq, {FIRST_PATIENT} + seq DIV {charges}, concat('item ', seq % 1000), 1 + seq % 5, 80.10,
  80.10 * (1 + seq % 5), '2026-11-23 23:59:59' FROM seq_{first * charges}_to_{(last + 1) * charges - 1};
COMMIT;
""")
    return "".join(script)


def project_of(folder, servers, lis):
    """The example with other ports."""
    for part in PARTS:
        if (EXAMPLE / part).is_dir():
            shutil.copytree(EXAMPLE / part, folder / part)
    shutil.copy(EXAMPLE / "busbar.toml", folder)
    # Four flows are measured; pages for screens and answers to questions are others.
    for flow in ("card", "answer"):
        (folder / "flows" / f"{flow}.yaml").unlink()
    for file in (folder / "connections").iterdir():
        text = file.read_text()
        for there, here in ((13306, servers.his), (15432, servers.nis), (12575, lis)):
            text = text.replace(f"127.0.0.1:{there}", f"127.0.0.1:{here}")
        file.write_text(text)


def between_streams(folder):
    """The same steps as flows between streams: what went to the NIS goes to a stream, and summaries are not asked of the HIS."""
    for part in ("connections", "flows", "streams"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name in FLOWS:
        shutil.copy(EXAMPLE / "streams" / f"{name}.yaml", folder / "streams")
        text = (EXAMPLE / "flows" / f"{name}.yaml").read_text()
        text = re.sub(r"connection: nis_\w+", f"topic: again/{name}", text.split("\ntests:")[0])
        text = text.replace("topic: touched/", "topic: again_touched/")
        (folder / "flows" / f"again_{name}.yaml").write_text(text + "\n")
        (folder / "streams" / f"again_{name}.yaml").write_text(f"topics: again/{name}\nformat: json\n")
    (folder / "streams" / "again_touched.yaml").write_text("topics: again_touched/+\nformat: json\nschema: { pid: int }\n")
    (folder / "streams" / "again_summary.yaml").write_text("topics: again/summary\nformat: json\n")
    text = (EXAMPLE / "flows" / "summary.yaml").read_text()
    aggregate = next(line for line in text.splitlines() if "aggregate:" in line)
    (folder / "flows" / "again_summary.yaml").write_text(
        f"from: again_touched\nsteps:\n{aggregate}\nto:\n  - topic: again/summary\n")


def told(file):
    """What the LIS was told last of each patient, and how many messages it took."""
    last, messages, pid = {}, 0, None
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            fields = line.rstrip("\n").split("|")
            if fields[0] == "MSH":
                messages += 1
            elif fields[0] == "PID":
                pid = int(fields[3])
            elif fields[0] == "ZSU":
                last[pid] = (fields[1], fields[2])
    return last, messages


def equal(what, *counts):
    """Counts at one node and the next."""
    print(f"  {what}: {' = '.join(f'{count:,}' for count in counts)}", flush=True)
    if len(set(counts)) != 1:
        raise RuntimeError(f"{what} differ: {counts}")


class Measured:
    def __init__(self, node, servers, lis):
        self.of = {"Busbar": [node.process.pid], **{name: [pid] for name, pid in servers.pids.items()}, "LIS": [lis]}
        self.before, self.begun = self.used(), time.monotonic()

    def used(self):
        return {name: sum(cpu(one) for pid in pids for one in children(pid) if Path(f"/proc/{one}").exists())
                for name, pids in self.of.items()}

    def told(self):
        after = self.used()
        return ", ".join(f"{name} {after[name] - self.before[name]:.1f} s" for name in self.of)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("busbar", type=Path)
    options.add_argument("--messages", type=int, default=1_300_000)
    options.add_argument("--perf", type=Path, help="where perf's recordings of the node are kept")
    given = options.parse_args()
    unit = max(given.messages // (PATIENTS + ORDERS + CHARGES), 1)
    messages = unit * (PATIENTS + ORDERS + CHARGES)
    with tempfile.TemporaryDirectory(prefix="busbar-hospital-bench-") as folder:
        folder = Path(folder)
        folder.chmod(0o755)  # the servers' own user works below it
        run(given, folder, unit, messages)


def run(given, folder, unit, messages):
    servers, lis_port = Servers(folder), free_port()
    lis = subprocess.Popen([sys.executable, EXAMPLE / "lis.py", str(lis_port), folder / "lis.hl7", str(os.getpid())],
                           stdin=subprocess.DEVNULL)
    project_of(folder / "project", servers, lis_port)
    environment = {**os.environ, "HIS_PASSWORD": "his", "NIS_PASSWORD": "nis"}
    node = Node(given.busbar.resolve(), folder / "project", folder / "data", environment)
    perf = None
    try:
        until("the node", node.is_ready, node)
        until("the first patients", lambda: node.get("tables/summary").get("rows") == THERE["patient"], node)
        if given.perf:
            given.perf.mkdir(parents=True, exist_ok=True)
            perf = subprocess.Popen(["perf", "record", "-q", "-F", "199", "-g", "-p", str(node.process.pid), "-o", given.perf / "databases.data"])
        load = os.getloadavg()[0]
        measured = Measured(node, servers, lis.pid)
        begun = measured.begun
        script = subprocess.Popen(["mariadb", "--no-defaults", "--default-character-set=utf8mb4", "-h", "127.0.0.1", "-P",
                                   str(servers.his), "-u", "root", "his"], stdin=subprocess.PIPE, text=True)
        script.stdin.write(bulk(unit * PATIENTS))
        script.stdin.close()
        done = {}

        def arrived():
            if script.poll() not in (None, 0):
                raise RuntimeError("the changes in MariaDB failed")
            if script.poll() == 0:
                done.setdefault("changed", time.monotonic())
            counts = {c["name"]: c["out"] for c in node.get("connections")["connections"]}
            return all(counts[f"nis_{name}"] >= unit * part + THERE[name] for name, part in FLOWS.items())

        in_nis = until("the rows in the NIS", arrived, node)
        truth = servers.mariadb("SELECT count(*), sum(n), sum(a) FROM (SELECT (SELECT count(*) FROM Orders o WHERE o.PatientID = p.ID AND "
                                "o.State = 'N') AS n, (SELECT coalesce(sum(c.Amount), 0) FROM Charge c WHERE c.PatientID = p.ID) AS a "
                                "FROM Patient p) AS s")[0]

        def summarised():
            count, opened, charged = node.sql("select count(*), sum(open_orders), sum(cast(charged as decimal(20, 2))) from summary")[0]
            return [int(count), int(opened), float(charged)] == [int(truth[0]), int(truth[1]), float(truth[2])]

        in_summary = until("the summaries", summarised, node)
        used = measured.told()
        if perf:
            perf.send_signal(signal.SIGINT)
            perf.wait(WAIT)

        def quiet():
            flow = node.get("flows/summary")
            sinks = {c["name"]: c["out"] for c in node.get("connections")["connections"]}
            return flow["in"] == messages + sum(THERE.values()) and flow["held"] == 0 and sinks["lis"] == told(folder / "lis.hl7")[1]

        until("the LIS", quiet, node)
        print(f"Load of the machine before: {load:.1f}. Processor time: {used}")
        row = lambda what, count, end: print(f"| {what} | {count:,} | {end - begun:.1f} | {count / (end - begun):,.0f} |", flush=True)
        print("| what | messages | s | messages/s |\n| --- | ---: | ---: | ---: |")
        row("changed in the HIS", messages, done["changed"])
        row("from the HIS into the NIS, three flows", messages, in_nis)
        row("and into the summaries, four flows", messages, in_summary)
        check(node, servers, folder, unit, messages)
    finally:
        node.stop()
    again(given, folder, unit, messages, environment)


def check(node, servers, folder, unit, messages):
    """Compares what every node counted, and what the NIS and the LIS have with what the HIS has."""
    counts = node.counts()
    for name, part in FLOWS.items():
        of = counts["flows"][name]
        table = {"patient": "patient_hl7", "order": "order_hl7", "charge": "charge_hl7"}[name]
        his = {"patient": "Patient", "order": "Orders", "charge": "Charge"}[name]
        equal(f"{name}: expected, HIS, stream, flow in, NIS sink, NIS table", unit * part + THERE[name],
              int(servers.mariadb(f"SELECT count(*) FROM {his}")[0][0]), counts["streams"][name], of["in"],
              counts["connections"][f"nis_{name}"], int(servers.postgres(f"SELECT count(*) FROM {table}")[0][0]))
        equal(f"{name}: dead, held", 0, of["dead"], of["held"])
    summary, total = counts["flows"]["summary"], messages + sum(THERE.values())
    last, heard = told(folder / "lis.hl7")
    equal("touched: expected, stream, flow summary in", total, counts["streams"]["touched"], summary["in"])
    equal("summaries: sink of the LIS, messages at the LIS", counts["connections"]["lis"], heard)
    equal("patients: expected, summaries, known to the LIS", unit * PATIENTS + THERE["patient"],
          node.sql("select count(*) from summary")[0][0], len(last))
    equal("summary: dead", 0, summary["dead"])
    sums = {
        "charges": ("SELECT sum(ChargeNo), sum(Quantity), sum(Amount) FROM Charge",
                    "SELECT sum(charge_id), sum(quantity), sum(amount) FROM charge_hl7"),
        "orders": ("SELECT sum(OrderNo), sum(PatientID), sum(State = 'D') FROM Orders",
                   "SELECT sum(order_id), sum(pid), sum((state = 'done')::int) FROM order_hl7"),
        "patients": ("SELECT sum(ID), sum(Sex = '1'), sum(to_days(Birthday) - to_days('1950-01-01')) FROM Patient",
                     "SELECT sum(pid), sum((gender = 'M')::int), sum(birthday - date '1950-01-01') FROM patient_hl7"),
    }
    for what, (there, here) in sums.items():
        there, here = servers.mariadb(there)[0], servers.postgres(here)[0]
        if [float(value) for value in there] != [float(value) for value in here]:
            raise RuntimeError(f"{what} differ: {there} {here}")
    patients = servers.mariadb("SELECT p.ID, (SELECT count(*) FROM Orders o WHERE o.PatientID = p.ID AND o.State = 'N'), "
                               "(SELECT coalesce(sum(c.Amount), 0) FROM Charge c WHERE c.PatientID = p.ID) FROM Patient p")
    wrong = [(pid, last.get(int(pid))) for pid, opened, charged in patients if last.get(int(pid)) != (opened, f"{float(charged):.2f}")]
    if wrong:
        raise RuntimeError(f"the LIS was told something else last of {len(wrong)} patients: {wrong[:5]}")


def again(given, folder, unit, messages, environment):
    """The same steps between streams, over what the node keeps."""
    between_streams(folder / "again")
    flows = folder / "again" / "flows"
    flows.rename(folder / "again" / "later")
    node = Node(given.busbar.resolve(), folder / "again", folder / "data", environment)
    perf = None
    try:
        until("the node", node.is_ready, node)
        if given.perf:
            perf = subprocess.Popen(["perf", "record", "-q", "-F", "199", "-g", "-p", str(node.process.pid), "-o", given.perf / "streams.data"])
        before, begun = cpu(node.process.pid), time.monotonic()
        (folder / "again" / "later").rename(flows)
        expected = {name: unit * part + THERE[name] for name, part in FLOWS.items()}
        total = sum(expected.values())

        def worked():
            streams = {s["name"]: s["events"] for s in node.get("streams")["streams"]}
            if any(streams.get(f"again_{name}", 0) < count for name, count in expected.items()):
                return False
            flow = [f for f in node.get("flows")["flows"] if f["name"] == "again_summary"]
            return bool(flow) and flow[0]["in"] >= total

        seconds = until("the streams", worked, node) - begun
        used = cpu(node.process.pid) - before
        if perf:
            perf.send_signal(signal.SIGINT)
            perf.wait(WAIT)
        print(f"| the same steps between streams, four flows, deployment included | {total:,} | {seconds:.1f} | {total / seconds:,.0f} |")
        print(f"  Processor time of Busbar: {used:.1f} s")
        counts = node.counts()
        for name, count in expected.items():
            equal(f"again_{name}: expected, flow in, stream", count, counts["flows"][f"again_{name}"]["in"],
                  counts["streams"][f"again_{name}"])
        equal("again_touched: expected, stream, flow in", total, counts["streams"]["again_touched"], counts["flows"]["again_summary"]["in"])
    finally:
        node.stop()


if __name__ == "__main__":
    main()

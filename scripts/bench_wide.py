#!/usr/bin/env python3
"""Measures wide tables with the workloads of YCSB, beside HBase on the same machine in the same run:

    scripts/bench_wide.py YCSB [--rows N] [--threads N] [--seconds N] [--cache MB] [--folder DIR] [WHAT ...]

YCSB is the example of that name (cargo build --release -p busbar-table --example ycsb). WHAT is load, a to f (each also at half the
rate that it reached, for latencies) and hbase (the same on HBase with its own client, without latencies at half its rate); all when
absent. Rows have 10 fields of 100 bytes. Busbar's writes are on the disk when they return; HBase, on a local file system, leaves that
to the system. Its server gets 4 GB of memory, of which it keeps 40 percent for blocks that were read lately, and the optimising
compiler; Busbar keeps as much (--cache), and its allocator is set as in a node. A folder is kept: what is loaded once can be measured in several runs. Seconds of the
processor are those of clients and servers together.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from ports import free_port

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "busbar"
HBASE = CACHE / "hbase-2.6.1"
WORKLOADS = "abcdef"
# As a node sets its allocator while it works and does not lack processors: see crates/busbar/src/memory.rs.
NODE = {"MIMALLOC_ALLOW_THP": "0", "MIMALLOC_PURGE_DELAY": "10000"}
START = 120
REST = 600


def processor_seconds(group):
    """Seconds of the processor that the processes of a group have used."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def shown(who, report):
    times = {kind: report[kind] for kind in ("read_ms", "write_ms", "scan_ms") if kind in report}
    times = "; ".join(f"{kind[:-3]} p50 {t[0]:.2f} p99 {t[1]:.2f} p99.9 {t[2]:.2f} longest {t[3]:.1f} ms" for kind, t in times.items())
    cpu = report["operations"] / report["processor_seconds"]
    lost = f", {report['missing']} MISSING" if report["missing"] else ""
    half = " at half load" if report.get("at_half_load") else ""
    print(f"{who} {report['what']}{half}: {report['per_second']:,.0f}/s in {report['seconds']:.1f} s, {cpu:,.0f} per second of processor; {times}{lost}", flush=True)


def run(*command):
    env = {**os.environ, **NODE}
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, env=env)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


class HbaseServer:
    """HBase with its Thrift 2 server; ended with its data."""

    def __init__(self, folder):
        subprocess.run([HERE / "servers", "install-hbase"], check=True)
        self.folder, self.port = folder, free_port()
        env = {**os.environ, "BUSBAR_HBASE_JAVA": "-Xmx4g", "BUSBAR_HBASE_TIER": "4"}
        command = [HERE / "servers", "hbase", folder, str(self.port), str(os.getpid())]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=env, start_new_session=True)
        end = time.monotonic() + START
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def native(self, *args):
        classes = f"{self.folder}/conf:{HBASE}/lib/*"
        opens = [f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in ("java.nio", "java.lang", "sun.nio.ch", "jdk.internal.misc")]
        quiet = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-Djava.net.preferIPv4Stack=true"]
        before = processor_seconds(self.process.pid)
        [report] = run("java", *opens, *quiet, "-cp", classes, HERE / "Ycsb.java", *args)
        report["processor_seconds"] += processor_seconds(self.process.pid) - before
        return report

    def rest(self):
        """Waits until nothing is merged any more of what was loaded."""
        end, used = time.monotonic() + REST, processor_seconds(self.process.pid)
        while time.monotonic() < end:
            time.sleep(5)
            before, used = used, processor_seconds(self.process.pid)
            if used - before < 0.5:
                return

    def end(self):
        os.killpg(self.process.pid, 15)
        self.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ycsb", type=Path)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--cache", type=int, default=1_600)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("what", nargs="*")
    args = parser.parse_intermixed_args()
    what = args.what or ["load", *WORKLOADS, "hbase"]
    with tempfile.TemporaryDirectory() as made:
        folder = args.folder or Path(made)
        folder.mkdir(exist_ok=True)
        for workload in ["load", *WORKLOADS]:
            if workload in what:
                threads = 2 if workload == "load" else args.threads
                for report in run(args.ycsb, folder / "tables", args.rows, workload, threads, args.seconds, args.cache):
                    shown("busbar", report)
        if not args.folder:
            # HBase keeps several copies of what was loaded for some minutes.
            shutil.rmtree(folder / "tables", ignore_errors=True)
        if "hbase" in what:
            server = HbaseServer(f"{made}/hbase")
            try:
                shown("hbase", server.native(args.rows, "load", 4, 0))
                server.rest()
                for workload in WORKLOADS:
                    shown("hbase", server.native(args.rows, workload, args.threads, args.seconds))
            finally:
                server.end()


main()

#!/usr/bin/env python3
"""Measures Kafka connections beside librdkafka, on one machine in one run, with one Kafka broker on the same machine:

    scripts/bench_kafka.py BUSBAR [--events N]

Records of 200 B of JSON in 4 partitions. librdkafka (as confluent-kafka uses it) writes them in transactions of 10,000 records
and reads what is committed, keeping nothing. Busbar reads them into a stream on the disk, exactly once, and a flow writes that
stream to another topic, exactly once; both topics are counted at the end. CPU time is that of the client alone.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from ports import free_port

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "busbar"
PYTHON = CACHE / "kafka-4.4.0" / "python" / "bin" / "python"
PARTITIONS = 4
IN_TRANSACTION = 10_000
PAYLOAD_BYTES = 200
WAIT = 600


def until(what, look):
    """Waits until something is so, and returns it."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise TimeoutError(what)


def payload(number):
    event = {"site": f"north-{number % 997:04}", "kw": number / 8, "meter": number, "pad": ""}
    event["pad"] = "x" * (PAYLOAD_BYTES - len(json.dumps(event, separators=(",", ":"))))
    return json.dumps(event, separators=(",", ":")).encode()


class Measured:
    """Seconds of the clock and of the processor, of this process or of another one."""

    def __init__(self, pid=None):
        self.pid = pid
        self.began, self.cpu_began = time.monotonic(), self.cpu()

    def cpu(self):
        if self.pid is None:
            used = resource.getrusage(resource.RUSAGE_SELF)
            return used.ru_utime + used.ru_stime
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def row(self, job, events):
        seconds, cpu = time.monotonic() - self.began, self.cpu() - self.cpu_began
        print(f"| {job} | {events / seconds:,.0f} | {events / cpu:,.0f} |", flush=True)


def fill(address, topic, events):
    from confluent_kafka import Producer

    payloads = [payload(number) for number in range(1_000)]
    producer = Producer({"bootstrap.servers": address, "transactional.id": "bench", "linger.ms": 5,
                         "queue.buffering.max.messages": 2 * IN_TRANSACTION})
    producer.init_transactions(WAIT)
    measured = Measured()
    for first in range(0, events, IN_TRANSACTION):
        producer.begin_transaction()
        for number in range(first, min(first + IN_TRANSACTION, events)):
            producer.produce(topic, payloads[number % len(payloads)], partition=number % PARTITIONS)
        producer.commit_transaction(WAIT)
    measured.row("librdkafka, out", events)


def count(address, topic, events):
    """Reads what is committed until there is no more; says how many records there are."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": address, "group.id": "bench", "enable.auto.commit": False,
                         "isolation.level": "read_committed", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    measured, found, left = Measured(), 0, set(range(PARTITIONS))
    while left:
        for message in consumer.consume(10_000, 1):
            if message.error() is None:
                found += 1
            elif message.error().name() == "_PARTITION_EOF":
                left.discard(message.partition())
            else:
                raise RuntimeError(str(message.error()))
    if topic == "in":
        measured.row("librdkafka, in", events)
    consumer.close()
    return found


def busbar(program, address, folder, events):
    project = folder / "project"
    for name in ("streams", "connections", "flows"):
        (project / name).mkdir(parents=True)
    (project / "streams" / "rows.yaml").write_text("topics: rows/#\n")
    read = f"kafka: {{ brokers: ['{address}'], read: {{ topics: [in] }} }}\ntopic: rows/${{partition}}\n"
    (project / "connections" / "source.yaml").write_text(read)
    port = free_port()
    command = [program, "run", project, "--data-dir", folder / "data", "--http-listen", f"127.0.0.1:{port}",
               "--mqtt-listen", "off", "--amqp-listen", "off"]
    with open(folder / "node.log", "wb") as log:
        node = subprocess.Popen(command, stdout=log, stderr=log)
    measured = Measured(node.pid)

    def come():
        if node.poll() is not None:
            raise RuntimeError((folder / "node.log").read_text()[-2_000:])
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/streams/rows") as answer:
                return json.load(answer)["events"] >= events
        except OSError:
            return False

    def written():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/connections") as answer:
            sinks = [one for one in json.load(answer)["connections"] if one["name"] == "sink"]
        return sinks and sinks[0]["out"] >= events

    try:
        until("the records in Busbar", come)
        measured.row("Busbar, in (start of the node included)", events)
        write = f"kafka: {{ brokers: ['{address}'], write: {{ topic: out }} }}\n"
        (project / "connections" / "sink.yaml").write_text(write)
        measured = Measured(node.pid)
        (project / "flows" / "copy.yaml").write_text("from: rows\nto:\n  - connection: sink\n")
        until("the rows in Kafka", written)
        measured.row("Busbar, out (deployment of the flow included)", events)
    finally:
        node.send_signal(signal.SIGTERM)
        node.wait(WAIT)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("busbar", type=Path)
    options.add_argument("--events", type=int, default=2_000_000)
    given = options.parse_args()
    if Path(sys.executable).resolve() != PYTHON.resolve() or Path(sys.prefix) != PYTHON.parent.parent:
        subprocess.run([HERE / "servers", "install-kafka"], check=True)
        os.execv(PYTHON, [PYTHON, *sys.argv])
    from confluent_kafka.admin import AdminClient, NewTopic

    with tempfile.TemporaryDirectory() as folder:
        folder, port = Path(folder), free_port()
        address = f"127.0.0.1:{port}"
        subprocess.Popen([HERE / "servers", "kafka", folder / "kafka", str(port), str(os.getpid())])
        admin = AdminClient({"bootstrap.servers": address, "log_level": 0})

        def ready():
            try:
                return admin.list_topics(timeout=2)
            except Exception:  # it starts
                return None

        until("Kafka", ready)
        for topic, made in admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in ("in", "out")]).items():
            made.result(WAIT)
        print("| job | events/s | events per CPU-second of the client |\n| --- | ---: | ---: |", flush=True)
        fill(address, "in", given.events)
        for topic in ("in", "out"):
            if topic == "out":
                busbar(given.busbar.resolve(), address, folder, given.events)
            found = count(address, topic, given.events)
            if found != given.events:
                sys.exit(f"{topic} has {found} records, not {given.events}")


if __name__ == "__main__":
    main()

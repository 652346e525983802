#!/usr/bin/env python3
"""Runs examples/remote-services against services that are slow, busy, wrong or away, and kills the node in between.

    calls.py BUSBAR

The services are those of Python's standard library and of gRPC for Python; what they are sent is read by their XML, JSON and
protocol buffers.
"""

import concurrent.futures
import http.server
import json
import re
import shutil
import socket
import sys
import threading
import urllib.parse
from collections import Counter
from xml.etree import ElementTree

from harness import ROOT, free_port, main, wait_for

SOAP = "{http://schemas.xmlsoap.org/soap/envelope/}"
FORECAST = "{urn:forecast}"


class Services:
    """A REST service under /api and a SOAP service under /forecast, on one port."""

    def __init__(self):
        self.port, self.server, self.lock = free_port(), None, threading.Lock()
        # What each station was asked with, the stations that were forecast, and what is still to go wrong.
        self.keys, self.forecast, self.faults = {}, Counter(), {}
        self.held, self.release = threading.Event(), threading.Event()
        self.release.set()
        self.most = self.busy = 0

    def start(self):
        services = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                with services.lock:
                    services.busy += 1
                    services.most = max(services.most, services.busy)
                try:
                    self.station(urllib.parse.unquote(self.path.removeprefix("/api/stations/")))
                finally:
                    with services.lock:
                        services.busy -= 1

            def station(self, name):
                with services.lock:
                    services.keys.setdefault(name, []).append(self.headers["Idempotency-Key"])
                    faults = services.faults.get(name)
                    fault = faults.pop(0) if faults else None
                if fault == "held":
                    services.held.set()
                    services.release.wait(120)
                elif fault == "cut":
                    return self.cut()
                elif fault == "half":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"region\":")
                    return self.cut()
                elif fault == "rubbish":
                    self.wfile.write(b"SSH-2.0-OpenSSH\r\n")
                    return self.cut()
                elif isinstance(fault, tuple):
                    return self.answer(*fault)
                self.answer(200, {"region": f"region of {name}", "limits": {"level": len(name)}})

            def cut(self):
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["SOAPAction"] == '"urn:forecast/GetLevel"', self.headers
                envelope = ElementTree.fromstring(body)
                asked = envelope.find(f"{SOAP}Body/{FORECAST}GetLevel")
                station, now = asked.find(f"{FORECAST}station").text, float(asked.find(f"{FORECAST}now").text)
                with services.lock:
                    services.forecast[station] += 1
                    faults = services.faults.get(f"soap {station}")
                    fault = faults.pop(0) if faults else None
                if fault:
                    said = f"<s:Fault><faultcode>s:{fault}</faultcode><faultstring>as told</faultstring></s:Fault>"
                else:
                    said = f'<r xmlns="urn:forecast"><level hours="1">0</level><level hours="6">{now + 1}</level></r>'
                said = f'<?xml version="1.0"?><s:Envelope xmlns:s="{SOAP[1:-1]}"><s:Body>{said}</s:Body></s:Envelope>'
                self.answer(500 if fault else 200, said.encode(), kind="text/xml")

            def answer(self, status, body, kind="application/json", headers=()):
                body = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                for name, value in headers:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256
            allow_reuse_address = True

            def handle_error(self, *_):
                """Connections that a test cuts."""

        self.server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Levels:
    """The gRPC service of the example, with the runtime of gRPC for Python and messages that its protobuf makes."""

    def __init__(self):
        import grpc
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

        kinds = descriptor_pb2.FieldDescriptorProto
        file = descriptor_pb2.FileDescriptorProto(name="levels.proto", package="levels", syntax="proto3")

        def message(name, *fields):
            made = file.message_type.add(name=name)
            for number, (field, kind, more) in enumerate(fields, 1):
                made.field.add(name=field, number=number, type=kind, label=kinds.LABEL_OPTIONAL, **more)

        message("Ask", ("station", kinds.TYPE_STRING, {}), ("level_mm", kinds.TYPE_DOUBLE, {}))
        message("Rule", ("limit_mm", kinds.TYPE_SINT32, {}), ("name", kinds.TYPE_STRING, {}))
        message("Verdict", ("exceeds", kinds.TYPE_BOOL, {}),
                ("rule", kinds.TYPE_MESSAGE, {"type_name": ".levels.Rule"}), ("checked", kinds.TYPE_INT64, {}))
        pool = descriptor_pool.DescriptorPool()
        pool.Add(file)
        ask, verdict = (
            message_factory.GetMessageClass(pool.FindMessageTypeByName(f"levels.{name}")) for name in ("Ask", "Verdict")
        )
        self.asked, self.faults, self.lock = {}, {}, threading.Lock()
        self.deadlines = []

        def judge(asked, context):
            metadata = dict(context.invocation_metadata())
            with self.lock:
                self.asked.setdefault(asked.station, []).append(metadata.get("idempotency-key"))
                self.deadlines.append(context.time_remaining())
                faults = self.faults.get(asked.station)
                fault = faults.pop(0) if faults else None
            if fault:
                context.abort(getattr(grpc.StatusCode, fault), f"as told: {asked.station}")
            made = verdict(exceeds=asked.level_mm > 100, checked=2**40 + int(asked.level_mm))
            made.rule.limit_mm, made.rule.name = -100, f"rule of {asked.station}"
            return made

        handler = grpc.unary_unary_rpc_method_handler(
            judge, request_deserializer=ask.FromString, response_serializer=verdict.SerializeToString)
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(16))
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("levels.Levels", {"Judge": handler}),))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()


def project(world, services, flows):
    """The example with these of its flows, and with the services' port."""
    project = world.folder / "project"
    shutil.copytree(ROOT / "examples" / "remote-services", project)
    for flow in project.glob("flows/*.yaml"):
        if flow.stem not in flows:
            flow.unlink()
    for file in project.glob("connections/*.yaml"):
        file.write_text(file.read_text().replace("9000", str(services.port)))
    return project


def publish(node, stations):
    events = [{"topic": f"gauge/{n}/level", "payload": {"station": station, "level_mm": n}}
              for n, station in enumerate(stations)]
    answer = node.publish(events)
    assert answer.status == 200, answer


def stations(node, stream):
    return [row[0] if isinstance(row, list) else row["station"]
            for row in node.sql(f"select station from {stream}")]



def letters(node):
    answer = node.ask("GET", "/api/v1/dead-letters")
    assert answer.status == 200, answer
    return answer.body.decode()


def letters_say(node, *words):
    """Waits for them: an event that fails is told of after others have been written."""
    wait_for(f"dead letters that say {words}", lambda: all(word in letters(node) for word in words))


def connection(node, name):
    connections = node.ask("GET", "/api/v1/connections").json()["connections"]
    return next(c for c in connections if c["name"] == name)


def case_rest_answers_of_all_kinds(world):
    services = Services()
    services.start()
    services.faults = {
        "cut": ["cut"], "half": ["half", "half"], "rubbish": ["rubbish"], "busy": [(503, {"why": "busy"})],
        "later": [(429, {}, "application/json", [("Retry-After", "1")])],
        "none": [(404, {"why": "no such station"})], "text": [(200, "not an object")],
        "redirect": [(302, {}, "application/json", [("Location", "/elsewhere")])],
        "wrong": [(200, {"region": "x", "limits": {"level": "high"}})],
    }
    names = [f"s {n}?ü&" for n in range(200)] + sorted(services.faults) + [f"t{n}" for n in range(200)]
    node = world.start(project(world, services, {"levels"}))
    publish(node, names)
    bad = {"none", "text", "wrong", "redirect"}
    wait_for("all that have an answer", lambda: len(stations(node, "complete")) == len(names) - len(bad))
    assert sorted(stations(node, "complete")) == sorted(set(names) - bad)
    rows = node.sql("select station, region, limit_mm from complete where station like 't1%'")
    for row in rows:
        name, region, limit = row if isinstance(row, list) else row.values()
        assert (region, limit) == (f"region of {name}", len(name)), row
    letters_say(node, "no such station", "404")
    # Nobody is asked again but those that failed for the moment, and each time with the same key.
    asked = {name: len(keys) for name, keys in services.keys.items()}
    again = {"cut": 2, "half": 3, "rubbish": 2, "busy": 2, "later": 2}
    assert asked == {name: again.get(name, 1) for name in names}, asked
    assert all(len(set(keys)) == 1 and keys[0] for keys in services.keys.values()), services.keys
    assert len({keys[0] for keys in services.keys.values()}) == len(names)
    assert 1 < services.most <= 64, services.most
    view = connection(node, "stations")
    assert view["service"]["circuit"] == "closed" and view["service"]["calls"] == sum(asked.values()), view
    node.stop()
    services.stop()


def case_soap_answers_and_faults(world):
    services = Services()
    services.start()
    services.faults = {"soap busy": ["Server", "Server"], "soap none": ["Client"]}
    names = ["a<b>&'c\"", "busy", "none", *(f"g{n}" for n in range(100))]
    node = world.start(project(world, services, {"forecast"}))
    publish(node, names)
    wait_for("all that have an answer", lambda: len(stations(node, "expected")) == len(names) - 1)
    assert sorted(stations(node, "expected")) == sorted(set(names) - {"none"})
    for row in node.sql("select level_mm, expected_mm from expected"):
        now, then = row if isinstance(row, list) else row.values()
        assert then == now + 1, row
    assert services.forecast == Counter({**{name: 1 for name in names}, "busy": 3}), services.forecast
    letters_say(node, "as told")
    node.stop()
    services.stop()


def case_a_kill_in_the_middle_loses_nothing(world):
    services = Services()
    services.start()
    names = [f"s{n}" for n in range(300)]
    files = project(world, services, {"levels"})
    data = world.folder / "data"
    # Its batch is not written before it is answered, so that it comes again after each kill.
    services.faults["s150"] = ["held", "held"]
    services.release.clear()
    node = world.start(files, data=data)
    publish(node, names)
    for _ in range(2):
        assert services.held.wait(120), "nobody asks about s150"
        node.kill()
        services.release.set()
        services.held.clear()
        services.release.clear()
        node = world.start(files, data=data)
    services.release.set()
    wait_for("all", lambda: set(stations(node, "complete")) == set(names))
    # What was asked again was asked with the same key.
    assert len(services.keys["s150"]) == 3, services.keys["s150"]
    assert all(len(set(keys)) == 1 for keys in services.keys.values()), services.keys
    assert len({keys[0] for keys in services.keys.values()}) == len(names)
    node.stop()
    services.stop()


def case_events_wait_while_a_service_is_away(world):
    services = Services()
    names = [f"s{n}" for n in range(100)]
    node = world.start(project(world, services, {"levels"}))
    publish(node, names)
    wait_for("an open circuit", lambda: connection(node, "stations")["service"]["circuit"] != "closed")

    def metric():
        page = node.ask("GET", "/metrics").body.decode()
        found = re.search(r'busbar_service_circuit_open\{connection="stations"\} (\d)', page)
        return found and found[1] == "1"

    wait_for("the metric", metric)
    assert stations(node, "complete") == []
    services.start()
    wait_for("all", lambda: len(stations(node, "complete")) == len(names))
    assert sorted(stations(node, "complete")) == sorted(names)
    wait_for("a closed circuit", lambda: connection(node, "stations")["service"]["circuit"] == "closed")
    assert json.loads(letters(node))["letters"] == [], letters(node)
    node.stop()
    services.stop()


def case_grpc_answers_and_codes(world):
    levels = Levels()
    levels.faults = {"busy": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"], "none": ["NOT_FOUND"], "bad": ["INVALID_ARGUMENT"]}
    names = ["s 1?ü", "busy", "none", "bad", *(f"g{n}" for n in range(500))]
    node = world.start(project(world, levels, {"judged"}))
    publish(node, names)
    good = set(names) - {"none", "bad"}
    wait_for("all that have an answer", lambda: len(stations(node, "judged")) == len(good))
    assert sorted(stations(node, "judged")) == sorted(good)
    for row in node.sql("select station, level_mm, exceeds, limit_mm, rule, checked from judged"):
        name, level, exceeds, limit, rule, checked = row if isinstance(row, list) else row.values()
        assert (exceeds, limit, rule) == (level > 100, -100, f"rule of {name}"), row
        assert checked == 2**40 + int(level), row
    assert {name: len(keys) for name, keys in levels.asked.items()} == {name: 3 if name == "busy" else 1 for name in names}
    assert all(len(set(keys)) == 1 and keys[0] for keys in levels.asked.values())
    # The service is told how long it may take.
    assert all(0 < seconds <= 10 for seconds in levels.deadlines), levels.deadlines[:3]
    letters_say(node, "NOT_FOUND", "as told: none")
    node.stop()
    levels.server.stop(None)


if __name__ == "__main__":
    sys.exit(main(dict(globals()), sys.argv[1]))

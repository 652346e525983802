#!/usr/bin/env python3
"""Calls web services of a node with Apache CXF, by the classes that its wsdl2java makes, and services of CXF with a node.

    soap_cxf.py BUSBAR CLASSPATH
"""

import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import harness
from harness import PATIENCE_SECONDS, free_port, wait_for

HERE = Path(__file__).resolve().parent / "cxf"
CLASSPATH = sys.argv[2]
WAIT = 600

ASKED = """\
topics: level/ask
format: json
schema: { site: text, mm: float, count: int, since: time, session: text }
"""
FLOW = """\
from: asked
steps:
  - select: >
      case when session is null then site else site || ' ' || session end as place,
      mm * 2 as twice, count + 1 as next, since as at
to:
  - topic: level/told
"""
LEVELS = """\
parameters:
  site: { type: text, required: true }
  mm: { type: float, required: true }
  count: int
  since: time
  session: text
request: { topic: level/ask, reply: told, key: site }
within: 2min
soap:
  namespace: "urn:example:levels"
  operation: CheckLevel
  headers: [session]
  answer: { place: { type: text, required: true }, twice: float, next: int, at: time }
"""
PARTS = """\
parameters: { site: { type: text, required: true }, mm: { type: float, required: true } }
request: { topic: level/ask, reply: told }
within: 2min
soap:
  style: rpc
  operation: Parts
  namespace: "urn:example:parts"
  answer: { place: { type: text, required: true }, twice: { type: float, required: true } }
"""


def java(there, *command):
    done = subprocess.run([str(word) for word in command], text=True, capture_output=True, timeout=WAIT, cwd=there)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def case_classes_of_wsdl2java_call_a_flow(world):
    project = world.project(streams__asked=ASKED, streams__told="topics: level/told\n", flows__levels=FLOW,
                            apis__levels=LEVELS, apis__parts=PARTS)
    node = world.start(project)
    wsdls = {name: f"{node.url}/services/{name}?wsdl" for name in ("parts", "levels")}
    with tempfile.TemporaryDirectory() as there:
        for name, url in wsdls.items():
            java(there, "java", "-cp", CLASSPATH, "org.apache.cxf.tools.wsdlto.WSDLToJava", "-d", "made", "-exsh", "true",
                 "-p", f"busbar.{name}", url)
        sources = [str(file) for file in Path(there, "made").rglob("*.java")]
        java(there, "javac", "-encoding", "UTF-8", "-cp", CLASSPATH, "-d", "classes", *sources, HERE / "Client.java")
        told = java(there, "java", "-cp", f"classes:{CLASSPATH}", "Client", *wsdls.values())
    assert told.strip().endswith("done"), told
    rows = node.sql("select site, session from asked where session is not null order by time")
    assert rows == [['G7 <水位> & "x"', "night"], ["a", "day"]] * 2, rows


class Services:
    """Services of CXF in a process of their own."""

    def __init__(self):
        self.port = free_port()
        command = ["java", "-cp", CLASSPATH, str(HERE / "Server.java"), str(self.port)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        text=True)
        assert self.process.stdout.readline().strip() == "ready", "the services do not start"

    def wsdl(self, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{name}?wsdl", timeout=PATIENCE_SECONDS) as answer:
            return answer.read().decode()

    def stop(self):
        self.process.stdin.close()
        self.process.wait(PATIENCE_SECONDS)


NUMBERS = "topics: ask/+\nformat: json\nschema: { n: int }\n"
CALLS = {
    "ward": ("""\
from: numbers
steps:
  - call:
      connection: ward
      method: getPatient
      send: >
        n as pid, case when n < 3 then n * 10 end as "header.session.id",
        case when n < 3 then 'li & wu' end as "header.session.user"
      answer:
        name: { type: text, path: patient/name }
        charges: { type: json, path: patient/charges }
      fault:
        code: { type: text, path: faultcode }
        why: { type: text, path: faultstring }
        detail: json
  - select: n, name, charges, why, detail
to:
  - topic: told/ward
""", "topics: told/ward\nformat: json\nschema: { n: int, name: text, charges: json, why: text, detail: json }\n"),
    "parts": ("""\
from: numbers
steps:
  - call:
      connection: parts
      method: put
      send: n as "patient.@id", 'p' || n as "patient.name", n > 2 as final
      answer:
        name: { type: text, path: patient/name }
        id: { type: int, path: patient/@id }
  - select: id as n, name
to:
  - topic: told/parts
""", "topics: told/parts\nformat: json\nschema: { n: int, name: text }\n"),
    "two": ("""\
from: numbers
steps:
  - call:
      connection: two
      method: twice
      send: n
      answer: { twice: int }
      fault: { why: { type: text, path: Reason/Text } }
  - select: n, twice, why
to:
  - topic: told/two
""", "topics: told/two\nformat: json\nschema: { n: int, twice: int, why: text }\n"),
    "scan": ("""\
from: numbers
steps:
  - call: { connection: scan, method: image, send: n, answer: { image: text } }
to:
  - topic: told/scan
""", "topics: told/scan\nformat: json\nschema: { n: int }\n"),
}


def case_services_of_cxf_are_called(world):
    services = Services()
    files = {"streams__numbers": NUMBERS}
    for name, (flow, stream) in CALLS.items():
        files |= {f"flows__{name}": flow, f"streams__{name}": stream, f"connections__{name}": f"soap: {{ wsdl: {name}.wsdl }}\n"}
    project = world.project(**files)
    for name in CALLS:
        folder = project / "connections" / name
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.wsdl").write_text(services.wsdl(name))
    node = world.start(project)
    numbers = range(1, 8)
    answer = node.publish([{"topic": "ask/a", "payload": {"n": n}} for n in numbers])
    assert answer.status in (200, 202), answer

    def rows(stream, columns, count):
        def all_there():
            found = node.sql(f"select {columns} from {stream} order by n")
            return found if len(found) == count else None
        return wait_for(f"what {stream} answers", all_there)

    # With a header where the row has one; a fault with its detail where there is nobody.
    ward = rows("ward", "n, name, charges, why, detail", 7)
    assert [row[1] for row in ward] == [f"li & wu {n * 10} <王> {n}" if n < 3 else f"nobody <王> {n}" if n < 6 else None
                                        for n in numbers], ward
    read = [json.loads(cell) if isinstance(cell, str) else cell for cell in ward[0][2:3] + ward[6][4:5]]
    assert read == [[{"@code": "c1", "amount": 1.5}, {"@code": "c2", "amount": 2.5}], {"number": 7}], read
    assert [row[3] for row in ward[4:]] == [None, "nobody has the number 6", "nobody has the number 7"], ward
    # Parts with types.
    parts = rows("parts", "n, name", 7)
    assert parts == [[n, f"p{n}{'!' if n > 2 else '?'}"] for n in numbers], parts
    two = rows("two", "n, twice, why", 7)
    assert two == [[n, 2 * n, None] if n < 6 else [n, None, f"nobody has the number {n}"] for n in numbers], two
    # Attachments are refused for good, and told.
    def dead():
        letters = node.ask("GET", "/api/v1/dead-letters").json()["letters"]
        return letters if len(letters) == 7 else None
    letters = wait_for("dead letters", dead)
    assert all("attachments" in str(letter) and letter["flow"] == "scan" for letter in letters), letters
    assert node.sql("select count(*) from scan") == [[0]]
    node.stop()
    services.stop()


if __name__ == "__main__":
    sys.exit(harness.main(dict(globals()), sys.argv[1]))

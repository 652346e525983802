#!/usr/bin/env python3
"""Calls services of Spyne with the WSDL that Spyne makes of them, by steps and by a sink, and what is wrong with them.

    soap_spyne.py BUSBAR
"""

import base64
import datetime
import hashlib
import io
import json
import logging
import socketserver
import sys
import threading
import urllib.request
import wsgiref.simple_server
from collections import Counter

from lxml import etree
from spyne import (Application, Array, Boolean, ComplexModel, Date, DateTime, Decimal, Double, Fault, Integer, ServiceBase,
                   Unicode, rpc)
from spyne.protocol.soap import Soap11, Soap12
from spyne.server.wsgi import WsgiApplication

import harness
from harness import PATIENCE_SECONDS, wait_for

logging.getLogger("spyne").setLevel(logging.CRITICAL)
SECURITY = "{http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd}"
UTILITY = "{http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd}"


class Charge(ComplexModel):
    __namespace__ = "urn:his:types"
    code = Unicode(min_occurs=1, nillable=False)
    amount = Decimal
    day = Date


class Patient(ComplexModel):
    __namespace__ = "urn:his:types"
    id = Integer(min_occurs=1, nillable=False)
    name = Unicode
    born = DateTime
    weight = Double
    charges = Array(Charge)


class His:
    """A hospital's service of SOAP 1.1 or 1.2 that wants a user name token, and what it was asked."""

    def __init__(self, protocol=Soap11, user=None):
        self.lock, self.asked, self.stored, self.faults, self.user = threading.Lock(), Counter(), [], {}, user
        self.held, self.release = threading.Event(), threading.Event()
        self.release.set()
        his = self

        class HisService(ServiceBase):
            @rpc(Integer(min_occurs=1, nillable=False), Unicode, _returns=Patient)
            def get_patient(ctx, pid, ward):
                with his.lock:
                    his.asked[pid] += 1
                    fault = his.faults[pid].pop(0) if his.faults.get(pid) else None
                if fault == "held":
                    his.held.set()
                    his.release.wait(PATIENCE_SECONDS)
                elif fault:
                    raise Fault(*fault)
                charges = [Charge(code=f"c{n}", amount=n + 0.5, day=datetime.date(2026, 3, n)) for n in range(1, 3)]
                born = datetime.datetime(1960, 2, 29, 8, tzinfo=datetime.timezone.utc)
                return Patient(id=pid, name=f"{ward} <{pid}> 王", born=born, weight=70.25, charges=charges)

            @rpc(Patient.customize(min_occurs=1, nillable=False), Boolean, _returns=Unicode)
            def put(ctx, patient, final):
                with his.lock:
                    fault = his.faults[patient.id].pop(0) if his.faults.get(patient.id) else None
                    if not fault:
                        his.stored.append(patient)
                if fault:
                    raise Fault(*fault)
                return f"{patient.id} {final}"

        application = Application([HisService], "urn:his", name="his", in_protocol=protocol(validator="lxml"),
                                  out_protocol=protocol())
        spyne = WsgiApplication(application)

        def guarded(environ, start_response):
            if environ["REQUEST_METHOD"] == "POST":
                body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
                environ["wsgi.input"] = io.BytesIO(body)
                if his.user and not his.knows(body):
                    said = (b'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault>'
                            b"<faultcode>wsse:FailedAuthentication</faultcode><faultstring>who is that</faultstring>"
                            b"</s:Fault></s:Body></s:Envelope>")
                    start_response("500 Error", [("Content-Type", "text/xml"), ("Content-Length", str(len(said)))])
                    return [said]
            return spyne(environ, start_response)

        class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
            daemon_threads = True

            def handle_error(self, *_):
                """Connections that the node cuts when it is patient no longer."""

        class Handler(wsgiref.simple_server.WSGIRequestHandler):
            def log_message(self, *_):
                """Nobody reads it."""

        self.server = wsgiref.simple_server.make_server("127.0.0.1", 0, guarded, Server, Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        with urllib.request.urlopen(f"{self.url}?wsdl", timeout=PATIENCE_SECONDS) as answer:
            self.wsdl = answer.read().decode()

    def knows(self, body):
        """Whether the user name token is that of the user, as its profile has it."""
        name, password, is_digest = self.user
        token = etree.fromstring(body).find(f".//{SECURITY}UsernameToken")
        if token is None or token.findtext(f"{SECURITY}Username") != name:
            return False
        sent = token.find(f"{SECURITY}Password")
        if not is_digest:
            return sent.get("Type").endswith("#PasswordText") and sent.text == password
        nonce = base64.b64decode(token.findtext(f"{SECURITY}Nonce"))
        created = token.findtext(f"{UTILITY}Created")
        digest = hashlib.sha1(nonce + created.encode() + password.encode()).digest()
        return sent.get("Type").endswith("#PasswordDigest") and base64.b64decode(sent.text) == digest

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


ASKED = "topics: ask/+\nformat: json\nschema: { pid: int, ward: text }\n"
TOLD = """\
topics: told/+
format: json
schema: { pid: int, name: text, born: time, weight: float, first: text, charges: json }
"""
CALL = """\
from: asked
steps:
  - call:
      connection: his
      method: get_patient
      send: pid, ward
      answer:
        name: { type: text, path: get_patientResult/name }
        born: { type: time, path: get_patientResult/born }
        weight: { type: float, path: get_patientResult/weight }
        first: { type: text, path: "get_patientResult/charges/Charge[1]/code" }
        charges: { type: json, path: get_patientResult/charges/Charge }
  - select: pid, name, born, weight, first, charges
to:
  - topic: told/a
"""
WRITE = """\
from: asked
steps:
  - select: >
      pid as "patient.id", ward as patient_name, pid > 5 as final, pid / 2.0 as "patient.weight"
to:
  - connection: his
"""


def project(world, his, connection="soap: { wsdl: his.wsdl }\n", flow=CALL):
    made = world.project(streams__asked=ASKED, streams__told=TOLD, connections__his=connection, flows__f=flow)
    (made / "connections" / "his").mkdir(exist_ok=True)
    (made / "connections" / "his" / "his.wsdl").write_text(his.wsdl)
    return made


def publish(node, pids):
    events = [{"topic": "ask/a", "payload": {"pid": pid, "ward": "w"}} for pid in pids]
    answer = node.publish(events)
    assert answer.status in (200, 202), answer


def told(node):
    return node.sql("select pid, name, born, weight, first, charges from told order by pid")


def letters(node):
    return node.ask("GET", "/api/v1/dead-letters").body.decode()


def case_operations_of_both_versions_are_called(world):
    for protocol in (Soap11, Soap12):
        his = His(protocol)
        inner = harness.World(world.busbar)
        try:
            node = inner.start(project(inner, his))
            publish(node, range(1, 51))
            wait_for("all answers", lambda: len(told(node)) == 50)
            pid, name, born, weight, first, charges = told(node)[6]
            assert (pid, name, weight, first) == (7, "w <7> 王", 70.25, "c1"), told(node)[6]
            assert born.startswith("1960-02-29T08:00:00"), born
            charges = json.loads(charges) if isinstance(charges, str) else charges
            assert charges == [{"code": "c1", "amount": 1.5, "day": "2026-03-01"},
                               {"code": "c2", "amount": 2.5, "day": "2026-03-02"}], charges
            assert set(his.asked.values()) == {1}, his.asked
            node.stop()
        finally:
            inner.close()
            his.stop()


def case_faults_and_slow_answers(world):
    his = His()
    his.faults = {1: [("Client.NoSuchPatient", "nobody has this number")], 2: [("Server", "out of order")] * 2,
                  3: [("Server", "out of order")] * 99, 4: ["held"]}
    node = world.start(project(world, his, "soap: { wsdl: his.wsdl, timeout: 3s }\n"))
    his.release.clear()
    publish(node, range(1, 11))
    assert his.held.wait(PATIENCE_SECONDS), "nobody asks for 4"
    wait_for("all that have an answer", lambda: [row[0] for row in told(node)] == [2, *range(4, 11)])
    wait_for("two dead letters", lambda: all(word in letters(node) for word in ("nobody has this number", "out of order")))
    assert "Client.NoSuchPatient" in letters(node)
    # The one that is slow is asked again, one that the service fails on five times and no more.
    assert his.asked[1] == 1 and his.asked[2] == 3 and his.asked[3] == 5 and his.asked[4] >= 2, his.asked
    his.release.set()
    node.stop()
    his.stop()


def case_mistakes_in_columns_are_found_before_anything_runs(world):
    his = His()
    for number, (was, now, words) in enumerate((
        ("send: pid, ward", "send: pid, ward, 1 as bed", ("get_patient", "bed", "send: pid, ward, 1 as bed")),
        ("send: pid, ward", "send: ward as pid", ("pid", "text", "xs:integer")),
        ("send: pid, ward", "send: ward", ("must have", "pid")),
        ("method: get_patient", "method: get_patients", ("get_patients", "did you mean get_patient?")),
        ("get_patientResult/name", "get_patientResult/nam", ("has no nam in", "get_patientResult", "did you mean name?")),
        ("type: float", "type: bool", ("weight", "xs:double")),
    )):
        assert was in CALL
        made = project(world, his, flow=CALL.replace(was, now))
        code, out, err = world.run("check", made)
        said = out + err
        assert code == 1 and "flows/f.yaml" in said and all(word in said for word in words), (number, said)
    for write, words in ((WRITE.replace("final", "finale"), ("finale",)), (WRITE.replace('pid as "patient.id", ', ""), ("patient.id",))):
        made = project(world, his, "soap: { wsdl: his.wsdl, write: { method: put } }\n", write)
        code, out, err = world.run("check", made)
        assert code == 1 and all(word in out + err for word in words), out + err
    made = project(world, his)
    assert world.run("check", made)[0] == 0
    # The node refuses them as well, and takes the files of the connection with the others.
    node = world.start(made)
    bundle = {str(file.relative_to(made)): file.read_text() for file in made.rglob("*") if file.suffix in (".yaml", ".wsdl")}
    (made / "flows" / "f.yaml").write_text(CALL.replace("send: pid, ward", "send: ward"))
    code, out, err = world.run("apply", made, BUSBAR_NODE=node.url)
    assert code != 0 and "pid" in out + err, (code, out, err)
    running = node.ask("GET", "/api/v1/project").json()["files"]
    assert running["connections/his/his.wsdl"] == bundle["connections/his/his.wsdl"]
    node.stop()
    his.stop()


def case_rows_of_a_flow_are_sent_to_an_operation(world):
    his = His(user=("bus", "s3cr<t & more", False))
    his.faults = {4: [("Client", "not this one")], 5: [("Server", "out of order")] * 3}
    connection = """\
soap: { wsdl: his.wsdl, write: { method: put }, user: { name: bus, password: { env: HIS_PASSWORD } } }
"""
    node = world.start(project(world, his, connection, WRITE), HIS_PASSWORD="s3cr<t & more")
    publish(node, range(1, 21))
    expected = [pid for pid in range(1, 21) if pid != 4]
    wait_for("all rows", lambda: [patient.id for patient in his.stored] == expected)
    assert [(patient.name, patient.weight) for patient in his.stored[:2]] == [("w", 0.5), ("w", 1.0)], his.stored[0]
    wait_for("a dead letter", lambda: "not this one" in letters(node))
    assert "s3cr" not in letters(node) + node.said()
    node.stop()
    his.stop()


def case_a_digest_of_the_password_is_enough(world):
    his = His(Soap11, ("bus", "open sesame", True))
    connection = "soap: { wsdl: his.wsdl, user: { name: bus, password: open sesame, digest: true } }\n"
    node = world.start(project(world, his, connection))
    publish(node, [1, 2])
    wait_for("all answers", lambda: len(told(node)) == 2)
    his.user = ("bus", "another password", True)
    publish(node, [3])
    wait_for("a dead letter", lambda: "who is that" in letters(node))
    shown = node.ask("GET", "/api/v1/project").json()["files"]["connections/his.yaml"]
    # The node's own terminal points at the password in the file, which whoever reads it sees as well.
    assert "sesame" not in shown + letters(node), shown
    node.stop()
    his.stop()


if __name__ == "__main__":
    sys.exit(harness.main(dict(globals()), sys.argv[1]))

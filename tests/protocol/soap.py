#!/usr/bin/env python3
"""Calls a flow as a web service with zeep, which knows of it what the WSDL says.

    soap.py BUSBAR
"""

import datetime
import sys

import harness
import requests
import zeep
from zeep.transports import Transport

from harness import PATIENCE_SECONDS

ASKED = """\
topics: level/ask
format: json
schema: { site: text, mm: float, count: int, wet: bool, since: time }
"""
FLOW = """\
from: asked
steps:
  - select: site, mm * 2 as twice, count + 1 as next, not wet as dry, since
to:
  - topic: level/told
"""
API = """\
parameters:
  site: { type: text, required: true }
  mm: { type: float, required: true }
  count: int
  wet: bool
  since: time
request: { topic: level/ask, reply: told, key: site }
within: 2min
in_flight: 8
soap:
  namespace: "urn:example:levels?a=1&b=2"
  operation: CheckLevel
  answer: { site: { type: text, required: true }, twice: float, next: int, dry: bool, since: time }
"""
SILENT = """\
request: { topic: silent/ask, reply: told }
within: 1s
soap: { answer: { site: text } }
"""


def started(world):
    project = world.project(streams__asked=ASKED, streams__told="topics: level/told\n",
                            flows__levels=FLOW, apis__levels=API, apis__silent=SILENT)
    return world.start(project)


def client(node, name, session=None):
    transport = Transport(timeout=PATIENCE_SECONDS, operation_timeout=PATIENCE_SECONDS, session=session)
    return zeep.Client(f"{node.url}/services/{name}?wsdl", transport=transport)


def services(of, operation):
    """The service by SOAP 1.1 and by SOAP 1.2."""
    return [of.bind(f"{operation}Service", f"{operation}{version}") for version in ("Soap11", "Soap12")]


def case_both_versions_answer_with_types(world):
    node = started(world)
    since = datetime.datetime(2026, 3, 1, 8, 0, 0, 123456, tzinfo=datetime.timezone.utc)
    for service in services(client(node, "levels"), "CheckLevel"):
        site = 'G7 <水位> & "x"'
        told = service.CheckLevel(site=site, mm=1.25, count=2**53, wet=True, since=since)
        got = (told.site, told.twice, told.next, told.dry, told.since)
        assert got == (site, 2.5, 2**53 + 1, False, since), told
        # What is left out or nil is null, and comes back as nothing.
        told = service.CheckLevel(site="a", mm=-1e-3, count=zeep.xsd.Nil)
        assert (told.site, told.twice, told.next, told.dry, told.since) == ("a", -2e-3, None, None, None), told
    rows = node.sql("select key from asked")
    assert len(rows) == 4, rows


def case_faults_reach_the_caller(world):
    node = started(world)
    for service, (ours, theirs) in zip(services(client(node, "levels"), "CheckLevel"),
                                       (("Server", "Client"), ("Receiver", "Sender"))):
        try:
            # Without an offset nobody knows when it is.
            service.CheckLevel(site="a", mm=1, since=datetime.datetime(2026, 3, 1))
            raise AssertionError("no fault")
        except zeep.exceptions.Fault as fault:
            assert fault.code.split(":")[-1] == theirs, fault.code
            assert fault.message == "The parameter since is not of type time", fault.message
            assert "server.api-parameter" in zeep.helpers.etree.tostring(fault.detail).decode()
    for service, code in zip(services(client(node, "silent"), "silent"), ("Server", "Receiver")):
        try:
            service.silent()
            raise AssertionError("no fault")
        except zeep.exceptions.Fault as fault:
            assert fault.code.split(":")[-1] == code, fault.code
            request = fault.detail.find(".//{urn:busbar:error}request").text
            assert request in fault.message, fault.message
            stored = node.sql(f"select topic from inbox where tags['busbar-request'] = '{request}'")
            assert stored == [["silent/ask"]], stored


def case_a_login_may_call_what_its_rules_name(world):
    node = started(world)
    admin = {"name": "ann", "password": "correct horse", "role": "admin"}
    assert node.ask("POST", "/api/v1/users", admin).status == 201
    session = requests.Session()
    session.auth = ("ann", "correct horse")
    partner = {"name": "partner", "password": "battery staple", "role": "device", "rules": {"call": ["api:levels"]}}
    made = session.post(f"{node.url}/api/v1/users", json=partner, timeout=PATIENCE_SECONDS)
    assert made.status_code == 201, made.text
    session = requests.Session()
    session.auth = ("partner", "battery staple")
    told = client(node, "levels", session).service.CheckLevel(site="a", mm=1)
    assert told.twice == 2, told
    for name, login in (("silent", session), ("levels", requests.Session())):
        try:
            client(node, name, login)
            raise AssertionError("the WSDL was shown")
        except requests.exceptions.HTTPError as refused:
            assert refused.response.status_code == (403 if login is session else 401), refused


if __name__ == "__main__":
    sys.exit(harness.main(globals(), sys.argv[1]))

#!/usr/bin/env python3
"""Drives a node over MLLP with HAPI, the HL7 library of Java, as sender and as receiver.

    hl7.py BUSBAR CLASSPATH

Each function whose name begins with `case_` is one case, with nodes of its own.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import harness
from harness import free_port, wait_for

HERE = Path(__file__).resolve().parent
CLASSPATH = sys.argv[2]
WAIT = 600

STREAM = """\
topics: hl7/adt/+
format: hl7
schema:
  patient: { type: text, path: PID.3.1, required: true }
  family: { type: text, path: PID.5.1 }
  born: { type: time, path: PID.7 }
"""
FLOW = """\
from: adt
steps:
  - select: patient, family, born
to:
  - connection: lab
"""
LAB = """\
mllp:
  address: 127.0.0.1:{port}
  timeout: 100s
  message:
    MSH.9.1: ADT
    MSH.9.2: A01
    MSH.9.3: ADT_A01
    EVN.1: A01
    PID.3.1: ${{patient}}
    PID.5.1: ${{family}}
    PID.7: ${{born}}
    PV1.2: I
"""


def case_hapi_sends_and_receives(world):
    gateway, lab = free_port(), free_port()
    project = world.project(
        gateways__his=f"protocol: tcp\nlisten: 127.0.0.1:{gateway}\nframe: mllp\ntopic: hl7/adt/${{PID.3.1}}\n",
        streams__adt=STREAM, flows__admit=FLOW, connections__lab=LAB.format(port=lab),
    )
    node = world.start(project)
    # HAPI writes a file of numbers where it runs.
    with tempfile.TemporaryDirectory() as there:
        done = subprocess.run(["java", "-cp", CLASSPATH, HERE / "hapi" / "Cases.java", str(gateway), str(lab)],
                              text=True, capture_output=True, timeout=WAIT, cwd=there)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = node.sql("select patient, family from adt order by cast(patient as bigint)")
    assert rows == [[str(n), "O'Neil|&^~\\ 王丽"] for n in range(200)], rows[:3]
    # What the receiver refused is a dead letter with the receiver's reason.
    def dead():
        return [d for d in node.ask("GET", "/api/v1/dead-letters").json()["letters"]
                if "no such patient" in str(d)]
    assert len(wait_for("the dead letter", dead)) == 1


if __name__ == "__main__":
    sys.exit(harness.main(globals(), sys.argv[1]))

#!/usr/bin/env python3
"""Says whether the documents of the cases in this folder are valid by libxml2 (lxml) and by xmlschema, and whether
documents that the step xml writes are valid by the schema that is derived from the columns.

    pip install lxml xmlschema && python3 crates/busbar-catalog/tests/xsd/oracle.py
"""
import pathlib
import sys

import xmlschema
from lxml import etree

HERE = pathlib.Path(__file__).parent
wrong = 0
for file in sorted(HERE.glob("*.xml")):
    schemas = [HERE / f"{file.stem}.xsd"]
    native = etree.XMLSchema(etree.parse(schemas[0]))
    python = xmlschema.XMLSchema(str(schemas[0]), defuse="never")
    for number, line in enumerate(file.read_text().splitlines(), 1):
        document = etree.fromstring(line)
        says = [native.validate(document), python.is_valid(line)]
        if says != [True, True]:
            wrong += 1
            print(f"{file.name}:{number}: {says} {native.error_log}", *[e.reason for e in python.iter_errors(line)], sep="\n  ")
sys.exit(wrong)

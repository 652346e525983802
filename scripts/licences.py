#!/usr/bin/env python3
"""Checks every crate of the build against deny.toml: its licence, its source, and the list of crates
that must not be used.

    python3 scripts/licences.py

Reads `cargo metadata`, so it needs no tool besides cargo. It knows the keys of deny.toml that this tree
uses and refuses others. Advisories need a database from the network: see `make advisories`.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CARGO = os.environ.get("CARGO", "cargo")
REGISTRY = ("registry+", "sparse+")
# What this script checks. A setting of another name or value would be ignored without a word.
KNOWN = {
    "graph": {"targets": None},
    "licenses": {"version": [2], "allow": None, "exceptions": None},
    "bans": {
        "multiple-versions": ["allow"],
        "wildcards": ["deny"],
        "allow-wildcard-paths": [True],
        "deny": None,
    },
    "sources": {"unknown-registry": ["deny"], "unknown-git": ["deny"]},
}


def unknown_settings(rules):
    """The settings of deny.toml that this script does not know."""
    for section, settings in rules.items():
        for name, value in settings.items():
            known = KNOWN.get(section, {})
            if name not in known or known[name] is not None and value not in known[name]:
                yield f"deny.toml: [{section}] {name} = {value!r} is not known to scripts/licences.py"


def satisfied(expression, allowed):
    """Whether an SPDX expression can be met with the allowed licences.

    `allowed` holds ids, and ids with an exception such as "Apache-2.0 WITH LLVM-exception". A slash
    between ids, as in older crates, means OR. Raises ValueError where it is no expression.
    """
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    place = 0

    def peek():
        return tokens[place] if place < len(tokens) else None

    def take():
        nonlocal place
        token = peek()
        place += 1
        return token

    def single():
        token = take()
        if token == "(":
            value = any_of()
            if take() != ")":
                raise ValueError(expression)
            return value
        if token is None or token in ("AND", "OR", "WITH", ")"):
            raise ValueError(expression)
        if peek() == "WITH":
            take()
            token = f"{token} WITH {take()}"
        return token in allowed

    def all_of():
        value = single()
        while peek() == "AND":
            take()
            value = single() and value
        return value

    def any_of():
        value = all_of()
        while peek() == "OR":
            take()
            value = all_of() or value
        return value

    value = any_of()
    if peek() is not None:
        raise ValueError(expression)
    return value


def problems(packages, rules):
    """A line for each rule that a package breaks."""
    allowed = set(rules["licenses"]["allow"])
    exceptions = {e["crate"]: set(e["allow"]) for e in rules["licenses"].get("exceptions", [])}
    banned = {b["crate"]: b["reason"] for b in rules["bans"]["deny"]}
    # All come from one registry: what most come from is the one that cargo is set to.
    registries = Counter(p["source"] for p in packages if str(p["source"]).startswith(REGISTRY))
    registry = registries.most_common(1)[0][0] if registries else None
    for package in packages:
        name = f"{package['name']} {package['version']}"
        if package["name"] in banned:
            yield f"{name} must not be used: {banned[package['name']]}"
        if package["source"] not in (None, registry):
            yield f"{name} comes from {package['source']}, and only one registry is allowed"
        licence = package["license"]
        try:
            if not licence:
                yield f"{name} names no licence"
            elif not satisfied(licence, allowed | exceptions.get(package["name"], set())):
                yield f"{name} has the licence {licence!r}, which deny.toml does not allow"
        except ValueError:
            yield f"{name} has the licence {licence!r}, which is no SPDX expression"
        # A package of this workspace names versions; that of crates.io had to.
        for dependency in package["dependencies"] if package["source"] is None else []:
            if dependency["req"] == "*" and "path" not in dependency:
                yield f"{name} takes any version of {dependency['name']}"


def packages_for(target):
    """What is built for a target, tests included."""
    command = [CARGO, "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    used = {node["id"] for node in metadata["resolve"]["nodes"]}
    return [package for package in metadata["packages"] if package["id"] in used]


def main():
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    wrong = list(unknown_settings(rules))
    if not wrong:
        packages = {}
        for target in rules["graph"]["targets"]:
            packages |= {package["id"]: package for package in packages_for(target)}
        wrong = sorted(problems(packages.values(), rules))
        print(f"{len(packages)} crates checked against deny.toml")
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

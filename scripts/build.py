#!/usr/bin/env python3
"""Builds the program and says how far it is: crates done, crates in all, and about how long it takes.

    python3 scripts/build.py [more arguments for cargo build]

On a terminal one line is kept up to date; elsewhere a line is printed every PLAIN_SECONDS. What the
compiler has to say, errors above all, comes through as it is. Exits with cargo's exit code.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CARGO = os.environ.get("CARGO", "cargo")
PACKAGE = "busbar"
PLAIN_SECONDS = 20
# Seconds that the slowest crates take, as `cargo build --timings` has them; others take about OTHERS_SECONDS.
# The shares are what counts, so they hold on other machines too.
SECONDS = ROOT / "scripts" / "build_seconds.txt"
OTHERS_SECONDS = 1.0
# Below this share of the work, how long the rest takes is a guess that nobody should be told.
SHARE_KNOWN = 0.03


class Progress:
    """What is done of a build. Crates differ by a factor of a hundred, so each counts by its work."""

    def __init__(self, work):
        self.work = dict(work)
        self.crates = len(self.work)
        self.done = 0
        self.fresh = 0
        self.work_done = 0
        self.work_all = sum(self.work.values())

    def finished(self, package, fresh):
        """Counts a crate; one that was compiled before takes no time and does not tell how long others do."""
        work = self.work.pop(package, None)
        if work is None:
            return
        self.done += 1
        if fresh:
            self.fresh += 1
            self.work_all -= work
        else:
            self.work_done += work

    def seconds_left(self, elapsed):
        """About how long the rest takes, or None where too little is done to tell."""
        if not self.work_all or self.work_done < SHARE_KNOWN * self.work_all:
            return None
        return elapsed * (self.work_all - self.work_done) / self.work_done

    def line(self, elapsed):
        left = self.seconds_left(elapsed)
        rest = "" if left is None else f", {about(left)} left"
        return f"{self.done} of {self.crates} crates compiled in {spoken(elapsed)}{rest}"


def spoken(seconds):
    """A time as people say it: 48 s, 9 min 05 s."""
    seconds = round(seconds)
    return f"{seconds} s" if seconds < 60 else f"{seconds // 60} min {seconds % 60:02} s"


def about(seconds):
    """A time that is only roughly known: less than a minute, about 7 min."""
    return "less than a minute" if seconds < 60 else f"about {round(seconds / 60)} min"


def work_of_packages():
    """The crates that the program is built of, and about how much work each is."""
    rustc = subprocess.run(["rustc", "-vV"], check=True, stdout=subprocess.PIPE, text=True).stdout
    host = next(line.split()[1] for line in rustc.splitlines() if line.startswith("host:"))
    command = [CARGO, "metadata", "--format-version", "1", "--locked", "--filter-platform", host]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    uses = {node["id"]: node["deps"] for node in metadata["resolve"]["nodes"]}
    waiting = [i for i, p in packages.items() if p["name"] == PACKAGE and p["source"] is None]
    seconds = dict(line.split() for line in SECONDS.read_text().splitlines())
    found = {}
    while waiting:
        package = waiting.pop()
        if package in found:
            continue
        found[package] = float(seconds.get(packages[package]["name"], OTHERS_SECONDS))
        for used in uses[package]:
            if any(kind["kind"] != "dev" for kind in used["dep_kinds"]):
                waiting.append(used["pkg"])
    return found


def build(arguments):
    # Says itself what it downloads; where all is there it says nothing.
    code = subprocess.call([CARGO, "fetch", "--locked"], cwd=ROOT)
    if code != 0:
        return code
    progress = Progress(work_of_packages())
    command = [
        CARGO, "build", "--release", "--locked", "--quiet", "-p", PACKAGE,
        "--message-format", "json-render-diagnostics", *arguments,
    ]
    terminal = sys.stderr.isatty()
    begun = said = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for text in process.stdout:
        message = json.loads(text)
        # A build script is a step of its crate, not a crate.
        if message["reason"] != "compiler-artifact" or "custom-build" in message["target"]["kind"]:
            continue
        # The library of the program's package comes before the program.
        if message["target"]["name"] == PACKAGE and "bin" not in message["target"]["kind"]:
            continue
        progress.finished(message["package_id"], message["fresh"])
        now = time.monotonic()
        line = progress.line(now - begun)
        if terminal:
            print(f"\r\x1b[K  {line}", end="", file=sys.stderr, flush=True)
        elif now - said >= PLAIN_SECONDS:
            said = now
            print(f"  {line}", file=sys.stderr, flush=True)
    code = process.wait()
    if terminal:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if code == 0:
        compiled = progress.done - progress.fresh
        seconds = spoken(time.monotonic() - begun)
        print(f"  built: {compiled} crates compiled in {seconds}, {progress.fresh} were there", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(build(sys.argv[1:]))

#!/usr/bin/env python3
"""Holds a running node to the two MQTT standards, byte by byte.

    conformance.py HTTP_URL MQTT_PORT BUSBAR [WORD...]

Each function whose name begins with `case_` in a `cases_*.py` beside this file is one case; WORDs
choose the cases whose names contain one of them. Cases run several at a time: each keeps to topics
and client identifiers of its own.
"""

import importlib
import os
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import wire

AT_ONCE = 6
MESSAGE_CHARS_MAX = 600


def cases(words):
    for path in sorted(Path(__file__).parent.glob("cases_*.py")):
        module = importlib.import_module(path.stem)
        for name, case in list(vars(module).items()):
            if name.startswith("case_") and (not words or any(word in name for word in words)):
                yield f"{path.stem[6:]}.{name[5:]}", case


def timed(case):
    begun = time.monotonic()
    case()
    return time.monotonic() - begun


def main():
    os.environ["CONFORMANCE_HTTP"], os.environ["CONFORMANCE_BUSBAR"] = sys.argv[1], sys.argv[3]
    wire.Peer.port = int(sys.argv[2])
    passed = failed = 0
    chosen = list(cases(sys.argv[4:]))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = {pool.submit(timed, case): name for name, case in chosen}
        for done in as_completed(running):
            try:
                seconds = done.result()
            except Exception as why:  # noqa: BLE001 - one broken case must not hide the others
                failed += 1
                print(f"FAILED {running[done]}: {why.__class__.__name__}: {str(why)[:MESSAGE_CHARS_MAX]}")
                where = traceback.extract_tb((why.__cause__ or why).__traceback__)
                print("".join(traceback.format_list([w for w in where if "protocol" in w.filename])), flush=True)
            else:
                passed += 1
                print(f"ok {running[done]} ({seconds:.1f} s)", flush=True)
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())

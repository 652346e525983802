"""What stock tools say of the HTTP API: Schemathesis, which makes requests out of the OpenAPI description
and holds the answers to it; and Prometheus' own parser, which reads /metrics.

    python tests/protocol/api.py URL

The node at URL must be fresh: the first user is made here.
"""

import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

# Whether a request that fits the description also makes sense (a topic that exists, SQL that parses) is
# not for the description to say, so a refusal of such a request is no failure.
CHECKS = [
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_headers_conformance", "response_schema_conformance", "negative_data_rejection",
    "missing_required_header", "unsupported_method", "allow_header_conformance", "ignored_auth",
]
# What does not end by itself or ends being HTTP, and what could end the login with which all is asked.
LEFT_OUT = [
    "get_live", "get_ws", "get_mqtt", "get_events", "get_tail",
    "post_users_name", "delete_users_name", "delete_tokens_id",
]
OPERATIONS_MIN = 36
EXAMPLES_MAX = 20
PASSWORD = "a-good-password"


def ask(url, body=None, token=None):
    request = urllib.request.Request(url, data=None if body is None else json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.headers, answer.read()


def login(url):
    """A token of the only user."""
    ask(f"{url}/api/v1/users", {"name": "ann", "password": PASSWORD, "role": "admin"})
    session = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    body = json.dumps({"user": "ann", "password": PASSWORD}).encode()
    kind = {"Content-Type": "application/json"}
    session.open(urllib.request.Request(f"{url}/api/v1/session", body, kind), timeout=60).read()
    body = json.dumps({"name": "schemathesis"}).encode()
    answer = session.open(urllib.request.Request(f"{url}/api/v1/tokens", body, kind), timeout=60)
    return json.load(answer)["token"]


def metrics(url, token):
    """Faults of /metrics."""
    headers, text = ask(f"{url}/metrics", token=token)
    faults = []
    if not headers["Content-Type"].startswith("text/plain; version=0.0.4"):
        faults.append(f"its type is {headers['Content-Type']}")
    families = list(text_string_to_metric_families(text.decode()))
    names = [family.name for family in families]
    faults += [f"{name} comes twice" for name in set(names) if names.count(name) > 1]
    for family in families:
        if family.type == "unknown" or not family.documentation.endswith("."):
            faults.append(f"{family.name} is not described")
        for sample in family.samples:
            if (family.type == "counter") != sample.name.endswith("_total"):
                faults.append(f"{sample.name} is a {family.type}")
            if re.search(r"_(ms|us|kb|mb|gb|percent|minutes)(_|$)", sample.name):
                faults.append(f"{sample.name} is not in a base unit")
    if len(families) < 40:
        faults.append(f"only {len(families)} metrics")
    return faults


def schemathesis(url, token):
    """How many operations were tried, and what is wrong with them."""
    command = [
        Path(sys.executable).with_name("schemathesis"), "run", f"{url}/api/openapi.json", "--seed", "1",
        "--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES_MAX), "--checks", ",".join(CHECKS),
        "--request-timeout", "5", "--continue-on-failure", "--generation-database", "none", "--no-color",
        "--warnings", "off", "-H", f"Authorization: Bearer {token}",
    ]
    for operation in LEFT_OUT:
        command += ["--exclude-operation-id", operation]
    # It leaves notes where it runs.
    with tempfile.TemporaryDirectory(prefix="busbar-api-") as notes:
        ran = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=notes)
    tested = re.search(r"Tested: (\d+)", ran.stdout)
    unique = re.search(r"(\d+) unique failures?", ran.stdout)
    failures = int(unique[1]) if unique else int(ran.returncode != 0)
    if failures:
        print(ran.stdout, ran.stderr)
    return int(tested[1]) if tested else 0, failures


def main(url):
    token = login(url)
    tested, failures = schemathesis(url, token)
    faults = metrics(url, token)
    for fault in faults:
        print(f"FAILED /metrics: {fault}")
    if tested < OPERATIONS_MIN:
        print(f"FAILED only {tested} operations were tried")
        failures += 1
    failed = failures + len(faults)
    print(f"{max(tested + 1 - failed, 0)} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

#!/usr/bin/env python3
"""Runs every kind of test of this tree and closes with one plain line.

    python3 scripts/test.py                     all phases
    python3 scripts/test.py format lints        only these
    python3 scripts/test.py fuzz --seconds 600  longer fuzzing
    python3 scripts/test.py servers             tests with servers that start slowly, which are no part of all

A phase that lacks a tool is skipped and says which; with CI=true that is a failure. Where all phases
run, compilers work behind those that mostly wait for a node, and leave them the processor.
"""

import argparse
import base64
import filecmp
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from ports import free_port

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "busbar"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BUSBAR = TARGET / "release" / "busbar"
CI = os.environ.get("CI") == "true"
START_SECONDS_MAX = 120


class Missing(Exception):
    """A tool that this machine does not have."""


class Tally:
    """What passed, failed and was skipped, and a line for each that did not pass."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.notes = []

    def ok(self, count=1):
        self.passed += count

    def fail(self, what, count=1):
        self.failed += count
        self.notes.append(f"failed: {what}")

    def skip(self, what, why):
        self.skipped += 1
        self.notes.append(f"skipped: {what}: {why}")


def tool(name):
    """The path of a command, or Missing."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if not found:
        raise Missing(f"{name} is not installed (run scripts/setup test)")
    return found


def environment(**more):
    return dict(os.environ, **more)


class Behind(threading.local):
    """Set on the thread whose phases run behind others: what they say waits, and their commands give way."""

    said = None


BEHIND = Behind()


def say(*words, end="\n"):
    line = " ".join(str(word) for word in words) + end
    if BEHIND.said is None:
        print(line, end="", flush=True)
    else:
        BEHIND.said.append(line)


def run(args, cwd=ROOT, env=None, quiet=False):
    """Runs a command, passes its output on and returns (exit code, output)."""
    if not quiet:
        say("  $", *args)
    way = [] if BEHIND.said is None else ["nice", "-n", "19"]
    process = subprocess.Popen(
        way + [str(a) for a in args], cwd=cwd, env=env or environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if not quiet:
            say("   ", line, end="")
    return process.wait(), "".join(lines)


def command(tally, name, args, **how):
    """One command that counts as one test."""
    code, _ = run(args, **how)
    tally.ok() if code == 0 else tally.fail(f"{name} (exit code {code})")
    return code == 0


class Node:
    """A busbar on ports and a data folder of its own, ended with `stop`."""

    def __init__(self, project, **settings):
        self.data = tempfile.mkdtemp(prefix="busbar-test-")
        self.log = open(Path(self.data) / "node.out", "w+")
        self.http, self.mqtt = free_port(), free_port()
        env = environment(
            BUSBAR_DATA_DIR=str(Path(self.data) / "data"),
            BUSBAR_HTTP_LISTEN=f"127.0.0.1:{self.http}",
            BUSBAR_MQTT_LISTEN=f"127.0.0.1:{self.mqtt}",
            BUSBAR_AMQP_LISTEN="off",
            **settings,
        )
        self.process = subprocess.Popen(
            [str(BUSBAR), "run", str(project)], env=env, stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=subprocess.STDOUT,
        )
        self.url = f"http://127.0.0.1:{self.http}"
        self.wait_ready()

    def wait_ready(self):
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=1) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.05)
        self.log.seek(0)
        output = self.log.read()
        self.stop()
        raise RuntimeError(f"the node did not become ready:\n{output}")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        shutil.rmtree(self.data, ignore_errors=True)


# The phases, in the order in which they run.


def phase_format(tally, _):
    command(tally, "cargo fmt", ["cargo", "fmt", "--all", "--check"])


def phase_licences(tally, _):
    command(tally, "licences", [sys.executable, "scripts/licences.py"])
    code, output = run([sys.executable, "scripts/build_test.py"])
    ran = re.search(r"^Ran (\d+) tests?", output, re.M)
    if code == 0 and ran:
        tally.ok(int(ran[1]))
    else:
        tally.fail(f"scripts/build_test.py (exit code {code})")


def phase_web(tally, _):
    web = ROOT / "web"
    if not command(tally, "npm ci", ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=web):
        return
    command(tally, "console types", ["npm", "run", "check", "--silent"], cwd=web)
    command(tally, "console lint", ["npm", "run", "lint", "--silent"], cwd=web)
    code, output = run(["npm", "test", "--silent"], cwd=web)
    counted = re.search(r"Tests\s+(?:(\d+) failed \| )?(\d+) passed", plain(output))
    if counted:
        tally.ok(int(counted[2]))
        if counted[1]:
            names = re.findall(r"^\s*FAIL\s+(.*)$", plain(output), re.M)
            tally.fail(f"console unit tests: {'; '.join(dict.fromkeys(names))}", int(counted[1]))
    elif code == 0:
        tally.fail("console unit tests: no count in the output")
    if code != 0 and not (counted and counted[1]):
        tally.fail(f"console unit tests (exit code {code})")
    command(tally, "console build", ["npm", "run", "build", "--silent"], cwd=web)


def phase_lints(tally, _):
    """Clippy on the crates of this workspace; their dependencies are used as `make run` has compiled them."""
    env = environment(RUSTC_WORKSPACE_WRAPPER=str(ROOT / "scripts" / "rustc-clippy"))
    command(tally, "clippy", [
        "cargo", "build", "--release", "--locked", "--workspace", "--all-targets",
    ], env=env)


def phase_build(tally, _):
    command(tally, "cargo build", ["cargo", "build", "--release", "--locked", "-p", "busbar"])


def phase_programs(tally, _):
    """Compiles the tests and the fuzz targets, which run later."""
    command(tally, "cargo test --no-run", ["cargo", "test", "--release", "--locked", "--workspace", "--no-run"])
    command(tally, "fuzz targets", FUZZ_BUILD, env=fuzz_environment())


def phase_unit(tally, _):
    # scripts/setup has installed what plug-ins of all languages need.
    env = environment(BUSBAR_ALL_LANGUAGES="1")
    env.setdefault("SCALA_HOME", str(Path(os.environ.get("BUSBAR_TOOLS", CACHE / "tools")) / "scala"))
    # Plug-ins run with the first Python on the path.
    env["PATH"] = f"{tools_of_python('arrow', 'pyarrow==26.0.1').parent}:{env['PATH']}"
    code, output = run(["cargo", "test", "--release", "--locked", "--workspace", "--no-fail-fast"], env=env)
    cargo_counts(tally, "cargo test", code, output)


def cargo_counts(tally, name, code, output):
    counts = re.findall(r"test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", output)
    failed = sum(int(c[1]) for c in counts)
    tally.ok(sum(int(c[0]) for c in counts))
    names = re.findall(r"^\s*test (\S+) \.\.\. FAILED", output, re.M)
    if failed:
        tally.fail(f"{name}: {', '.join(names[:20]) or failed}", failed)
    # Those of `make test-servers` are not left out by mistake.
    elsewhere = len(re.findall(r"^\s*test \S+ \.\.\. ignored, make test-servers$", output, re.M))
    for _ in range(sum(int(c[2]) for c in counts) - elsewhere):
        tally.skip(name, "a test is marked ignored")
    if code != 0 and not failed:
        tally.fail(f"{name} (exit code {code})")


def phase_servers(tally, _):
    """Tests with servers that take long to start or much memory."""
    code, output = run(["cargo", "test", "--release", "--locked", "-p", "busbar-connect", "--test", "conformance", "--", "--ignored"])
    cargo_counts(tally, "cargo test --ignored", code, output)
    # What is tested with MariaDB, once more with MySQL 8. The numbers of transactions that another server goes on with are MariaDB's.
    only = ["mysql_", "--skip", "another_server_goes_on_where_the_first_one_was", "--test-threads", "3"]
    code, output = run(["cargo", "test", "--release", "--locked", "-p", "busbar-connect", "--test", "conformance", "--", *only],
                       env=environment(BUSBAR_MYSQL="mysql8"))
    cargo_counts(tally, "cargo test with MySQL 8", code, output)


def phase_examples(tally, _):
    for project in sorted(p for p in (ROOT / "examples").iterdir() if (p / "busbar.toml").exists()):
        command(tally, f"busbar check {project.name}", [BUSBAR, "check", project])
        command(tally, f"busbar test {project.name}", [BUSBAR, "test", project])


def phase_protocol(tally, _):
    for needed in ("mosquitto", "mosquitto_pub", "mosquitto_sub", "curl", "openssl"):
        tool(needed)
    python = paho()
    for runner in ("run.py", "conformance.py"):
        node = Node(ROOT / "examples" / "minimal")
        try:
            ran = run([python, f"tests/protocol/{runner}", node.url, str(node.mqtt), BUSBAR])
        finally:
            node.stop()
        counted(tally, f"protocol tests: {runner}", ran)
    node = Node(ROOT / "examples" / "minimal")
    try:
        ran = run([tool("node"), of_npm("mqttjs") / "cases.mjs", node.url, str(node.mqtt)])
    finally:
        node.stop()
    counted(tally, "protocol tests: MQTT.js", ran)
    counted(tally, "protocol tests: connectors.py", run([python, "tests/protocol/connectors.py", BUSBAR]))
    command(tally, "protocol tests: rain_gauges.py", [python, "tests/protocol/rain_gauges.py", BUSBAR])
    grpc = tools_of_python("grpc", "grpcio==1.85.3", "protobuf==7.36.2")
    counted(tally, "protocol tests: calls.py", run([grpc, "tests/protocol/calls.py", BUSBAR]))
    zeep = tools_of_python("zeep", "zeep==4.3.3")
    counted(tally, "protocol tests: soap.py", run([zeep, "tests/protocol/soap.py", BUSBAR]))
    spyne = tools_of_python("spyne", "spyne==2.14.0", "lxml==6.1.3")
    counted(tally, "protocol tests: soap_spyne.py", run([spyne, "tests/protocol/soap_spyne.py", BUSBAR]))
    if classpath := of_pom("cxf", "cxf-rt-frontend-jaxws-4.1.3.jar"):
        counted(tally, "protocol tests: soap_cxf.py", run([python, "tests/protocol/soap_cxf.py", BUSBAR, classpath]))
    else:
        tally.skip("Apache CXF", "java and mvn are needed")
    clients = [of_npm("amqpjs"), lapin()]
    if classpath := of_maven("amqpjava", "com.rabbitmq:amqp-client:5.37.1", "org.slf4j:slf4j-api:2.0.17"):
        clients.append(classpath)
    else:
        tally.skip("RabbitMQ's Java client", "java and mvn are needed")
    python = tools_of_python("pika", "pika==1.4.4", "paho-mqtt==2.1.0")
    counted(tally, "protocol tests: amqp.py", run([python, "tests/protocol/amqp.py", BUSBAR, *clients]))
    clients = []
    if classpath := of_pom("amqpjms", "qpid-jms-client-1.12.1.jar"):
        clients.append(classpath)
    else:
        tally.skip("Qpid JMS", "java and mvn are needed")
    python = tools_of_python("proton", "python-qpid-proton==0.40.0", "pika==1.4.4", "paho-mqtt==2.1.0")
    counted(tally, "protocol tests: amqp1.py", run([python, "tests/protocol/amqp1.py", BUSBAR, *clients]))
    hapi = ("ca.uhn.hapi:hapi-base:2.5.1", "ca.uhn.hapi:hapi-structures-v25:2.5.1", "org.slf4j:slf4j-api:1.7.36")
    if classpath := of_maven("hapi", *hapi):
        counted(tally, "protocol tests: hl7.py", run([python, "tests/protocol/hl7.py", BUSBAR, classpath]))
    else:
        tally.skip("HAPI", "java and mvn are needed")
    jdbc_acceptance(tally)


def jdbc_acceptance(tally):
    """What a site runs on its first day, with H2."""
    if not (shutil.which("javac") and shutil.which("mvn")):
        tally.skip("JDBC acceptance", "javac and mvn are needed")
        return
    code, output = run([ROOT / "scripts" / "servers", "drivers"], quiet=True)
    if code != 0:
        raise Missing(f"JDBC drivers could not be fetched: {output.strip()[-300:]}")
    jar = next(Path(output.strip().splitlines()[-1]).glob("h2-*.jar"))
    site = ["--driver", jar, "--url", "jdbc:h2:./data;WRITE_DELAY=0", "--user", "sa", "--rounds", "2"]
    counted(tally, "JDBC acceptance", run([sys.executable, "scripts/jdbc_acceptance.py", BUSBAR, *site]))


def counted(tally, name, ran):
    """A script whose last line counts its cases. What it runs may print counts of its own before."""
    code, output = ran
    counts = re.findall(r"^(\d+) passed, (\d+) failed$", output, re.M)
    if not counts:
        tally.fail(f"{name} gave no count (exit code {code})")
        return
    passed, failed = map(int, counts[-1])
    tally.ok(passed)
    for case, why in re.findall(r"^skipped (\w+): (.*)$", output, re.M):
        tally.skip(f"{name} {case}", why)
    if failed:
        tally.fail(f"{name}: {', '.join(re.findall(r'^FAILED (.*)$', output, re.M))}", failed)
    elif code != 0:
        tally.fail(f"{name} (exit code {code})")


def phase_api(tally, _):
    python = tools_of_python("api", "schemathesis==4.32.5", "prometheus_client==0.26.0")
    node = Node(ROOT / "examples" / "minimal")
    try:
        ran = run([python, "tests/protocol/api.py", node.url])
    finally:
        node.stop()
    counted(tally, "stock tools against the HTTP API", ran)


def phase_faults(tally, _):
    for needed in ("mosquitto_pub", "curl", "openssl"):
        tool(needed)
    for runner in ("commands.py", "faults.py"):
        counted(tally, runner, run([sys.executable, f"tests/protocol/{runner}", BUSBAR]))


def paho():
    """A Python of our own with the Paho client, kept in the cache."""
    return tools_of_python("paho", "paho-mqtt==2.1.0", "pika==1.4.4")


def tools_of_python(name, *packages):
    """A Python of our own with these packages, kept in the cache."""
    home = CACHE / name
    python, done = home / "bin" / "python", home / "packages.txt"
    if done.exists() and done.read_text().split() == list(packages):
        return python
    code, output = run([sys.executable, "-m", "venv", home], quiet=True)
    if code != 0:
        raise Missing(f"python3-venv: {output.strip()}")
    code, output = run([python, "-m", "pip", "install", "-q", *packages], quiet=True)
    if code != 0:
        raise Missing(f"{', '.join(packages)} could not be installed: {output.strip()[-300:]}")
    done.write_text("\n".join(packages))
    return python


def of_npm(name):
    """A folder in the cache with our cases for a client of npm and the packages of their lock file."""
    source, home = ROOT / "tests" / "protocol" / name, CACHE / name
    lock = home / "package-lock.json"
    home.mkdir(parents=True, exist_ok=True)
    fresh = (home / "node_modules").exists() and lock.exists() and filecmp.cmp(lock, source / lock.name, False)
    for file in ("package.json", lock.name, "cases.mjs"):
        shutil.copyfile(source / file, home / file)
    if not fresh:
        code, output = run([tool("npm"), "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=home, quiet=True)
        if code != 0:
            lock.unlink()
            raise Missing(f"{name} could not be installed: {output.strip()[-300:]}")
    return home


def lapin():
    """Our cases for lapin. They stand outside the workspace and are compiled once, into the cache."""
    home = CACHE / "lapin"
    manifest = ROOT / "tests" / "protocol" / "lapin" / "Cargo.toml"
    build = ["cargo", "build", "-q", "--locked", "--manifest-path", manifest, "--target-dir", home]
    code, output = run(build, quiet=True, env=environment(CARGO_PROFILE_DEV_DEBUG="0"))
    if code != 0:
        raise Missing(f"lapin could not be built: {output.strip()[-300:]}")
    return home / "debug" / "busbar-tests-lapin"


def of_maven(name, *artifacts):
    """The class path of some Java libraries, kept in the cache; none without Java and Maven."""
    if not (shutil.which("java") and shutil.which("mvn")):
        return None
    home = CACHE / name
    for artifact in artifacts:
        _, jar, version = artifact.split(":")
        if not (home / f"{jar}-{version}.jar").exists():
            get = ["mvn", "-q", "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={home}"]
            code, output = run(get, quiet=True)
            if code != 0:
                raise Missing(f"{artifact} could not be fetched: {output.strip()[-300:]}")
    return f"{home}/*"


def of_pom(name, jar):
    """The class path of a Java library and all that it needs, by tests/protocol/NAME/pom.xml, kept in the cache; none without
    Java and Maven."""
    if not (shutil.which("javac") and shutil.which("mvn")):
        return None
    home = CACHE / name
    if not (home / "lib" / jar).exists():
        home.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / "tests" / "protocol" / name / "pom.xml", home / "pom.xml")
        get = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={home / 'lib'}"]
        code, output = run(get, cwd=home, quiet=True)
        if code != 0:
            raise Missing(f"{jar} could not be fetched: {output.strip()[-300:]}")
    return f"{home / 'lib'}/*"


def phase_docs(tally, _):
    counted(tally, "documentation", run([sys.executable, "scripts/docs_test.py", BUSBAR]))


# Named beside them, the package that queries decides the features of what both are built of.
FUZZ_BUILD = ["cargo", "build", "--release", "--locked", "--bins", "-p", "busbar-fuzz", "-p", "busbar-sql"]


def fuzz_environment():
    """Only the crates of this workspace are compiled anew; what they are built of is there."""
    return environment(RUSTC_WORKSPACE_WRAPPER=str(ROOT / "scripts" / "fuzz-rustc"))


def phase_fuzz(tally, options):
    if not command(tally, "fuzz targets", FUZZ_BUILD, env=fuzz_environment()):
        return
    for source in sorted((ROOT / "fuzz" / "fuzz_targets").glob("*.rs")):
        target = source.stem
        corpus = Path(tempfile.mkdtemp(prefix="busbar-fuzz-"))
        found = ROOT / "fuzz" / "artifacts" / target
        found.mkdir(parents=True, exist_ok=True)
        seeds = ROOT / "fuzz" / "seeds" / target
        folders = [corpus] + ([seeds] if seeds.exists() else [])
        known = set(found.iterdir())
        code, output = run([
            TARGET / "release" / target, *folders, f"-artifact_prefix={found}/",
            f"-max_total_time={options.seconds}", "-rss_limit_mb=2048", "-max_len=65536", "-verbosity=0",
        ])
        if code == 0:
            tally.ok()
        else:
            # The input may be found once in many runs, so that the last lines keep it.
            why = re.search(r"panicked at .*\n.*", output)
            inputs = [base64.b64encode(file.read_bytes()[:4096]).decode() for file in set(found.iterdir()) - known]
            tally.fail(f"fuzz {target} (exit code {code}) {why[0] if why else ''} {' '.join(inputs)}")
        shutil.rmtree(corpus, ignore_errors=True)


def phase_browser(tally, _):
    # The tests start the real program themselves, which shows the console that is built into it.
    tool("mosquitto_pub")
    if not BUSBAR.exists():
        raise Missing(f"{BUSBAR} is not built (run make release)")
    env = environment(CHROMIUM=tool("chromium"), BUSBAR=str(BUSBAR))
    env.pop("CONSOLE", None)
    code, output = run(["npm", "run", "e2e", "--silent"], cwd=ROOT / "web", env=env)
    passed = re.search(r"^\s*(\d+) passed", plain(output), re.M)
    failed = re.search(r"^\s*(\d+) failed", plain(output), re.M)
    skipped = re.search(r"^\s*(\d+) skipped", plain(output), re.M)
    if passed:
        tally.ok(int(passed[1]))
    if failed and int(failed[1]):
        names = re.findall(r"^    (tests/e2e/\S+ › .*?)\s*─*$", plain(output), re.M)
        tally.fail(f"browser tests: {'; '.join(dict.fromkeys(names))}", int(failed[1]))
    if skipped and int(skipped[1]):
        tally.skip("browser tests", f"{skipped[1]} skipped themselves")
    if code != 0 and not (failed and int(failed[1])) or (code == 0 and not passed):
        tally.fail(f"browser tests (exit code {code})")


def plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


PHASES = {
    "format": phase_format,
    "licences": phase_licences,
    "web": phase_web,
    "build": phase_build,
    "lints": phase_lints,
    "programs": phase_programs,
    "examples": phase_examples,
    "protocol": phase_protocol,
    "api": phase_api,
    "faults": phase_faults,
    "docs": phase_docs,
    "browser": phase_browser,
    "unit": phase_unit,
    "fuzz": phase_fuzz,
}

# Phases that run only where they are named.
ALONE = {"servers": phase_servers}

# Phases that run behind others, from the one that is named on.
BESIDE = {
    "examples": ["lints", "programs"],
    "unit": ["fuzz"],
}


def one(name, options, table):
    """Runs a phase and adds what became of it to the table."""
    say(f"\n== {name}")
    tally, begun = Tally(), time.monotonic()
    try:
        {**PHASES, **ALONE}[name](tally, options)
    except Missing as why:
        tally.fail(f"{name}: {why}") if CI else tally.skip(name, str(why))
    except Exception as why:  # noqa: BLE001 - a broken phase must not hide the others
        tally.fail(f"{name}: {why.__class__.__name__}: {why}")
    table.append((name, tally, time.monotonic() - begun))


def behind(names, options, table):
    """Runs phases on a thread of their own; the function that is returned waits, and says what they said."""
    said = []

    def work():
        BEHIND.said = said
        for name in names:
            one(name, options, table)

    thread = threading.Thread(target=work)
    thread.start()

    def wait():
        thread.join()
        print("".join(said), end="", flush=True)

    return wait


def everything(options, table):
    """All phases. What is left behind is waited for where the next of that kind begins."""
    hidden = [name for names in BESIDE.values() for name in names]
    wait = None
    for name in (name for name in PHASES if name not in hidden):
        if name in BESIDE:
            if wait:
                wait()
            wait = behind(BESIDE[name], options, table)
        one(name, options, table)
    wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("phases", nargs="*", metavar="phase", help=", ".join([*PHASES, *ALONE]))
    parser.add_argument("--seconds", type=int, default=8, help="fuzzing time for each target")
    options = parser.parse_args()
    unknown = [p for p in options.phases if p not in PHASES and p not in ALONE]
    if unknown:
        parser.error(f"no phase called {', '.join(unknown)}; there are {', '.join([*PHASES, *ALONE])}")

    total, table = Tally(), []
    begun = time.monotonic()
    if options.phases:
        for name in options.phases:
            one(name, options, table)
    else:
        everything(options, table)
    for _, tally, _ in table:
        total.passed += tally.passed
        total.failed += tally.failed
        total.skipped += tally.skipped
        total.notes += tally.notes

    print(f"\n{'phase':<10} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}")
    for name, tally, seconds in table:
        print(f"{name:<10} {tally.passed:>7} {tally.failed:>7} {tally.skipped:>8} {seconds:>8.0f}")
    print(f"{'in all':<35} {time.monotonic() - begun:>8.0f}")
    for note in total.notes:
        print(note)
    print(f"{total.passed} passed, {total.failed} failed, {total.skipped} skipped")
    return 1 if total.failed or not total.passed else 0


if __name__ == "__main__":
    sys.exit(main())

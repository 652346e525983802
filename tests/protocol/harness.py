"""Nodes that cases start, hurt and stop by themselves, and a runner for functions named `case_`."""

import contextlib
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import termios
import time
import traceback
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# How long a case waits for what has to come before it fails. Nothing takes as long; a machine may be slow
# or busy.
PATIENCE_SECONDS = 120


class CannotRun(Exception):
    """This machine lacks what a case needs."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, test, seconds=PATIENCE_SECONDS):
    """The first true answer of `test`, or a failure that says what was waited for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = test()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} s for {what}")


class Answer:
    """What HTTP said."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {self.body[:300]!r}"


class World:
    """A folder for one case, and everything that runs in it."""

    def __init__(self, busbar):
        self.busbar = str(busbar)
        self.folder = Path(tempfile.mkdtemp(prefix="busbar-case-"))
        self.nodes = []

    def close(self):
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def project(self, name="project", **files):
        """A project's files: `flows__rain="…"` becomes flows/rain.yaml."""
        project = self.folder / name
        project.mkdir(parents=True, exist_ok=True)
        (project / "busbar.toml").touch()
        for path, text in files.items():
            if path == "config":
                (project / "busbar.toml").write_text(text)
                continue
            kind, _, name = path.partition("__")
            file = project / kind / f"{name.replace('_', '-')}.yaml"
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        return project

    def environment(self, **more):
        env = {k: v for k, v in os.environ.items() if not k.startswith("BUSBAR_")}
        env.update(HOME=str(self.folder), XDG_CONFIG_HOME=str(self.folder / "settings"), LC_ALL="C.UTF-8")
        env.update({k: str(v) for k, v in more.items()})
        return env

    def run(self, *args, stdin="", timeout=PATIENCE_SECONDS, **env):
        """A command to its end: exit code, standard output, standard error."""
        done = subprocess.run(
            [self.busbar, *map(str, args)], input=stdin, capture_output=True, text=True,
            timeout=timeout, env=self.environment(**env),
        )
        return done.returncode, done.stdout, done.stderr

    def type(self, args, typed, wait=0.5, **env):
        """What a terminal of 80 columns and 24 lines shows of a command to whom a person types."""
        inside, outside = pty.openpty()
        fcntl.ioctl(outside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        process = subprocess.Popen(
            [self.busbar, *map(str, args)], stdin=outside, stdout=outside, stderr=outside, start_new_session=True,
            env=self.environment(**env), preexec_fn=lambda: fcntl.ioctl(outside, termios.TIOCSCTTY, 0),
        )
        os.close(outside)
        shown, typed = b"", list(typed)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if select.select([inside], [], [], wait)[0]:
                try:
                    shown += os.read(inside, 65_536)
                except OSError:
                    break
            elif typed:
                # Nothing came for a while: the person's turn.
                os.write(inside, typed.pop(0).encode())
            elif process.poll() is not None:
                break
        process.kill() if process.poll() is None else None
        process.wait()
        os.close(inside)
        return shown.decode(errors="replace")

    def start(self, project, ready=True, before=(), **env):
        node = Node(self, project, before, env)
        self.nodes.append(node)
        if ready:
            node.wait_ready()
        return node

    def refused(self, project, code, *words, **env):
        """A start that must fail with one clear line."""
        env = {"BUSBAR_DATA_DIR": self.folder / "data", "BUSBAR_HTTP_LISTEN": "127.0.0.1:0",
               "BUSBAR_MQTT_LISTEN": "127.0.0.1:0", "BUSBAR_AMQP_LISTEN": "off", **env}
        got, out, err = self.run("run", project, **env)
        assert got == code, (got, out, err)
        lines = [line for line in err.splitlines() if line.startswith("busbar: ")]
        assert len(lines) == 1, err
        assert "panic" not in err, err
        for word in words:
            assert str(word) in lines[0], (word, lines[0])
        return lines[0]


class Node:
    """A running node."""

    def __init__(self, world, project, before, env):
        self.world, self.project = world, project
        self.http, self.mqtt = free_port(), free_port()
        self.data = Path(env.pop("data", world.folder / "data"))
        self.log = world.folder / f"node-{len(world.nodes)}.out"
        # A shell that makes a place for the data may stand before the node; it becomes the node.
        self.process = subprocess.Popen(
            [*before, world.busbar, "run", str(project)], stdin=subprocess.DEVNULL,
            stdout=self.log.open("w"), stderr=subprocess.STDOUT,
            env=world.environment(**{
                "BUSBAR_DATA_DIR": self.data, "BUSBAR_HTTP_LISTEN": f"127.0.0.1:{self.http}",
                "BUSBAR_MQTT_LISTEN": f"127.0.0.1:{self.mqtt}", "BUSBAR_AMQP_LISTEN": "off", **env,
            }),
        )
        self.scheme = "http"
        self.login = None

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.http}"

    def wait_ready(self):
        def answers():
            assert self.process.poll() is None, f"the node ended:\n{self.said()}"
            with contextlib.suppress(OSError):
                return self.ask("GET", "/readyz").status == 200
        wait_for("a ready node", answers)

    def said(self):
        return self.log.read_text(errors="replace")

    def ask(self, method, path, body=None, headers=None, timeout=PATIENCE_SECONDS):
        """One request; refusals are answers, not exceptions."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json", **(headers or {})}
        if self.login:
            headers["authorization"] = self.login
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as refused:
            return Answer(refused.code, refused.headers, refused.read())

    def publish(self, events):
        return self.ask("POST", "/api/v1/events", events)

    def sql(self, query):
        answer = self.ask("POST", "/api/v1/sql", {"sql": query, "limit": 10_000})
        assert answer.status == 200, (query, answer)
        return answer.json()["rows"]

    def stop(self):
        """SIGTERM; the seconds it took."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE_SECONDS)
        assert code == 0, (code, self.said())
        assert "panicked" not in self.said(), self.said()
        return time.monotonic() - begun

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def main(cases, busbar):
    """Runs every case in a world of its own and closes with one plain line."""
    passed = failed = 0
    for name, case in sorted(cases.items()):
        if not name.startswith("case_"):
            continue
        world = World(busbar)
        try:
            case(world)
        except CannotRun as why:
            print(f"skipped {name}: {why}", flush=True)
            continue
        except Exception:
            failed += 1
            print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
            for node in world.nodes:
                print(f"--- {node.log.name}\n{node.said()[-3000:]}", flush=True)
        else:
            passed += 1
            print(f"ok {name}", flush=True)
        finally:
            world.close()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0

#!/usr/bin/env python3
"""Ports for what a test or a benchmark starts; as a program, prints one."""

import random
import socket

# Below the ports that Linux gives to outgoing connections and to whoever asks for port 0, 32768 and up; above those
# that browsers refuse.
PORTS = range(12_000, 32_000)

_claimed = []


def free_port():
    """A port on loopback where nothing listens, for TCP and UDP. It stays this process's until the process ends: the
    kernel gives it to nobody by itself, and the other tests, also those in Rust, see it claimed."""
    for _ in range(1_000):
        port = random.choice(PORTS)
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind(f"\0busbar-test-port-{port}")
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(type=kind) as probe:
                    if kind == socket.SOCK_STREAM:
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _claimed.append(claim)
        return port
    raise OSError(f"no free port in {PORTS}")


if __name__ == "__main__":
    print(free_port())

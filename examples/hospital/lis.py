#!/usr/bin/env python3
"""A laboratory information system that takes every HL7 message over MLLP, appends it to a file, and acknowledges it.

    lis.py PORT FILE PID     listens on 127.0.0.1 until the process PID has ended
"""

import os
import socketserver
import sys
import threading
import time

BEGIN, END = b"\x0b", b"\x1c\r"


class Sender(socketserver.StreamRequestHandler):
    def handle(self):
        pending = b""
        while piece := self.request.recv(65536):
            pending += piece
            while END in pending:
                block, pending = pending.split(END, 1)
                message = block.lstrip(BEGIN)
                with self.server.lock, open(self.server.file, "ab") as file:
                    file.write(message.replace(b"\r", b"\n") + b"\n")
                header = message.split(b"\r", 1)[0].split(b"|")
                answer = b"\r".join([
                    b"MSH|^~\\&|LIS||%s||%s||ACK^A08^ACK|%s|P|2.5" % (header[2], header[6], header[9]),
                    b"MSA|AA|%s" % header[9], b""])
                self.request.sendall(BEGIN + answer + END)


class Lis(socketserver.ThreadingTCPServer):
    daemon_threads = allow_reuse_address = True


def main():
    port, file, pid = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with Lis(("127.0.0.1", port), Sender) as server:
        server.file, server.lock = file, threading.Lock()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        while os.path.exists(f"/proc/{pid}"):
            time.sleep(0.5)


main()

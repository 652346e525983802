"""The engine of ClickHouse behind the part of its HTTP interface that tests use: clickhouse.py FOLDER PORT."""

import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from chdb import session

SESSION = session.Session(sys.argv[1])
TURN = threading.Lock()
SETTINGS = ["date_time_output_format", "max_query_size"]


def text_of(body):
    """The engine takes texts only: other bytes as TabSeparated writes them."""
    text = body.decode("utf-8", "surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, b"Ok.\n")

    def do_POST(self):
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if "query" in query:
            body = query["query"].encode() + b"\n" + body
        for name, value in query.items():
            if name.startswith("param_"):
                text = value.replace("\\", "\\\\").replace("'", "\\'").encode()
                kind = rb"\{" + name[6:].encode() + rb":([^}]*)\}"
                body = re.sub(kind, lambda found: b"CAST('" + text + b"' AS " + found[1] + b")", body)
        try:
            with TURN:
                SESSION.query(f"USE {query.get('database', 'default')}")
                for name in SETTINGS:
                    value = f"'{query[name]}'" if name in query else "DEFAULT"
                    SESSION.query(f"SET {name} = {value}")
                said = SESSION.query(text_of(body), query.get("default_format", "TabSeparated"))
                written = said.rows_written() if said is not None else 0
                said = said.bytes() if said is not None else b""
            self.answer(200, said, written)
        except Exception as why:  # noqa: BLE001 - the client is told
            self.answer(500, str(why).encode())

    def answer(self, status, body, written=0):
        self.send_response(status)
        self.send_header("X-ClickHouse-Summary", json.dumps({"written_rows": str(written)}))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()

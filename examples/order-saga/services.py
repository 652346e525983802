#!/usr/bin/env python3
"""The five services of the example: order, stock, user, project and finance, each on a port of its own.

    ./services.py [FIRST_PORT]        the first of five ports, 9101 without it

They keep their state in memory. A request with an `Idempotency-Key` that has come before gets the answer of before and does
nothing. What undoes something answers 200 also when there is nothing to undo. `GET /state` shows what a service holds,
`POST /fault` {"path": "/refunds", "status": 500, "times": 3} lets it refuse what begins with the path.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USERS = {"anna": {"level": "vip", "limit": 100000.0}, "ben": {"level": "normal", "limit": 20000.0}}


class Service:
    def __init__(self):
        self.lock = threading.Lock()
        self.answers = {}
        self.faults = []
        self.state = self.begin()

    def begin(self):
        return {}

    def handle(self, method, path, key, body):
        with self.lock:
            if path == "/state":
                return 200, self.state
            if path == "/fault":
                self.faults = [body] if body.get("times", 0) > 0 else []
                return 200, {}
            for fault in self.faults:
                if path.startswith(fault["path"]) and fault["times"] > 0:
                    fault["times"] -= 1
                    return fault["status"], {"error": "fault"}
            if key in self.answers:
                return self.answers[key]
            answer = self.serve(method, path.strip("/").split("/"), body)
            if key:
                self.answers[key] = answer
            return answer

    def serve(self, method, path, body):
        raise NotImplementedError


class Orders(Service):
    def serve(self, method, path, body):
        match (method, path):
            case ("POST", ["orders"]):
                if self.state.get(body["order_id"]) != "rejected":
                    self.state[body["order_id"]] = "open"
                return 200, {}
            case ("POST", ["orders", order, "confirm"]):
                self.state[order] = "confirmed"
                return 200, {}
            case ("POST", ["orders", order, "reject"]):
                self.state[order] = "rejected"
                return 200, {}
        return 404, {}


class Stock(Service):
    def begin(self):
        return {"free": {"lamp": 1000, "desk": 1000, "chair": 1000}, "reserved": {}, "gone": []}

    def serve(self, method, path, body):
        free, reserved, gone = self.state["free"], self.state["reserved"], self.state["gone"]
        match (method, path):
            case ("POST", ["reservations"]):
                name = f"{body['order_id']}.{body['sku']}"
                if name in gone:
                    return 409, {"error": "released already"}
                if name not in reserved:
                    if free.get(body["sku"], 0) < body["quantity"]:
                        return 409, {"error": f"there are too few of {body['sku']}"}
                    free[body["sku"]] -= body["quantity"]
                    reserved[name] = body["quantity"]
                return 200, {"reservation": name}
            case ("DELETE", ["reservations", order, sku]):
                free[sku] = free.get(sku, 0) + reserved.pop(f"{order}.{sku}", 0)
                gone.append(f"{order}.{sku}")
                return 200, {}
        return 404, {}


class Users(Service):
    def serve(self, method, path, body):
        match (method, path):
            case ("GET", ["users", user]) if user in USERS:
                return 200, USERS[user]
        return 404, {"error": "there is no such user"}


class Projects(Service):
    def serve(self, method, path, body):
        match (method, path):
            case ("POST", ["projects"]):
                self.state[body["order_id"]] = body["user_id"]
                return 200, {"project": f"P-{body['order_id']}"}
            case ("DELETE", ["projects", order]):
                self.state.pop(order, None)
                return 200, {}
        return 404, {}


class Finance(Service):
    def begin(self):
        return {"balance": {"anna": 1000000.0, "ben": 5000.0}, "paid": {}}

    def serve(self, method, path, body):
        balance, paid = self.state["balance"], self.state["paid"]
        match (method, path):
            case ("POST", ["payments"]):
                order, user, amount = body["order_id"], body["user_id"], body["amount"]
                if order not in paid:
                    if balance.get(user, 0) < amount:
                        return 402, {"error": "the balance is too low"}
                    balance[user] -= amount
                    paid[order] = [user, amount]
                return 200, {"payment": f"F-{order}"}
            case ("POST", ["refunds", order]):
                if order in paid:
                    user, amount = paid.pop(order)
                    balance[user] += amount
                return 200, {}
        return 404, {}


def handler(service):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # An answer is one packet.
        wbufsize = 1 << 16

        def handle(self):
            try:
                super().handle()
            except ConnectionError:
                pass  # the node was stopped

        def respond(self):
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            key = self.headers.get("idempotency-key")
            status, answer = service.handle(self.command, self.path, key, body)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_DELETE = respond

        def log_message(self, *_):
            pass

    return Handler


def main():
    ports = [int(word) for word in sys.argv[1:] if word.isdigit()]
    first = ports[0] if ports else 9101
    for place, kind in enumerate([Orders, Stock, Users, Projects, Finance]):
        server = ThreadingHTTPServer(("127.0.0.1", first + place), handler(kind()))
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"services on 127.0.0.1:{first} to {first + 4}", flush=True)
    if "--until-input-ends" in sys.argv:
        sys.stdin.read()
    else:
        threading.Event().wait()


if __name__ == "__main__":
    main()

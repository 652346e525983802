"""MQTT 3.1.1 and 5.0 by the byte: an encoder that may be told to do wrong, a decoder that forgives
nothing, and a peer on a socket. No library stands between a case and the wire."""

import socket
import struct
import time
import uuid

# Seconds that a peer waits for what has to come. Nothing takes as long; a machine may be slow or busy.
WAIT = 60.0
# Seconds for which nothing may come.
QUIET = 0.3
# Seconds by which what has a time may be late, for the same reason.
LATE = 30.0

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE = range(1, 9)
SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = range(9, 16)
NAMES = ("reserved CONNECT CONNACK PUBLISH PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK "
         "UNSUBSCRIBE UNSUBACK PINGREQ PINGRESP DISCONNECT AUTH").split()

# Property: identifier, type, packets that may carry it on their way to a client.
PROPERTIES = {
    "payload_format": (1, "byte", (PUBLISH,)),
    "message_expiry": (2, "four", (PUBLISH,)),
    "content_type": (3, "text", (PUBLISH,)),
    "response_topic": (8, "text", (PUBLISH,)),
    "correlation": (9, "binary", (PUBLISH,)),
    "subscription_id": (11, "variable", (PUBLISH,)),
    "session_expiry": (17, "four", (CONNACK,)),
    "assigned_id": (18, "text", (CONNACK,)),
    "server_keep_alive": (19, "two", (CONNACK,)),
    "auth_method": (21, "text", (CONNACK, AUTH)),
    "auth_data": (22, "binary", (CONNACK, AUTH)),
    "request_problem": (23, "byte", ()),
    "will_delay": (24, "four", ()),
    "request_response": (25, "byte", ()),
    "response_info": (26, "text", (CONNACK,)),
    "server_reference": (28, "text", (CONNACK, DISCONNECT)),
    "reason_string": (31, "text", (CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, DISCONNECT, AUTH)),
    "receive_maximum": (33, "two", (CONNACK,)),
    "alias_maximum": (34, "two", (CONNACK,)),
    "alias": (35, "two", (PUBLISH,)),
    "maximum_qos": (36, "byte", (CONNACK,)),
    "retain_available": (37, "byte", (CONNACK,)),
    "user": (38, "pair", (CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, DISCONNECT, AUTH)),
    "maximum_packet": (39, "four", (CONNACK,)),
    "wildcard_available": (40, "byte", (CONNACK,)),
    "ids_available": (41, "byte", (CONNACK,)),
    "shared_available": (42, "byte", (CONNACK,)),
}
BY_ID = {key: (name, kind, where) for name, (key, kind, where) in PROPERTIES.items()}


def variable(n):
    out = bytearray()
    while True:
        n, digit = divmod(n, 128)
        out.append(digit | (0x80 if n else 0))
        if not n:
            return bytes(out)


def binary(data):
    data = data.encode() if isinstance(data, str) else data
    return struct.pack(">H", len(data)) + data


def one_property(name, value):
    key, kind, _ = PROPERTIES[name]
    coded = {
        "byte": lambda: bytes([value]),
        "two": lambda: struct.pack(">H", value),
        "four": lambda: struct.pack(">I", value),
        "variable": lambda: variable(value),
        "text": lambda: binary(value),
        "binary": lambda: binary(value),
        "pair": lambda: binary(value[0]) + binary(value[1]),
    }[kind]()
    return bytes([key]) + coded


def properties(**given):
    """A property section; a list stands for a property that is repeated."""
    section = b"".join(
        one_property(name, value)
        for name, values in given.items()
        for value in (values if isinstance(values, list) else [values])
    )
    return variable(len(section)) + section


def packet(header, body=b""):
    return bytes([header]) + variable(len(body)) + body


def will_of(topic, payload=b"", qos=0, retain=False, **props):
    return {"topic": topic, "payload": payload, "qos": qos, "retain": retain, "props": props}


def connect(version=5, client_id="", clean=True, keep_alive=30, will=None, username=None, password=None,
            flags=None, name="MQTT", level=None, section=None, tail=b"", **props):
    """A CONNECT; `flags`, `section` and `tail` let a case say what no client should."""
    bits = 2 * clean
    payload = binary(client_id)
    if will:
        bits |= 4 | will["qos"] << 3 | will["retain"] << 5
        if version == 5:
            payload += properties(**will["props"])
        payload += binary(will["topic"]) + binary(will["payload"])
    if username is not None:
        bits |= 0x80
        payload += binary(username)
    if password is not None:
        bits |= 0x40
        payload += binary(password)
    body = binary(name) + bytes([version if level is None else level, bits if flags is None else flags])
    body += struct.pack(">H", keep_alive)
    if version == 5:
        body += properties(**props) if section is None else section
    return packet(0x10, body + payload + tail)


def publish(version, topic, payload=b"", qos=0, retain=False, dup=False, pid=1, section=None, **props):
    payload = payload.encode() if isinstance(payload, str) else payload
    body = binary(topic)
    if qos:
        body += struct.pack(">H", pid)
    if version == 5:
        body += properties(**props) if section is None else section
    return packet(0x30 | dup << 3 | qos << 1 | retain, body + payload)


def ack(kind, pid, reason=None, version=5, **props):
    body = struct.pack(">H", pid)
    if version == 5 and (reason is not None or props):
        body += bytes([reason or 0])
        if props:
            body += properties(**props)
    return packet(kind << 4 | (2 if kind == PUBREL else 0), body)


def options(qos=0, no_local=False, as_published=False, handling=0):
    return qos | no_local << 2 | as_published << 3 | handling << 4


def subscribe(version, filters, pid=1, header=0x82, **props):
    """`filters`: a list of (filter, options byte)."""
    body = struct.pack(">H", pid)
    if version == 5:
        body += properties(**props)
    return packet(header, body + b"".join(binary(f) + bytes([o]) for f, o in filters))


def unsubscribe(version, filters, pid=1, header=0xA2):
    body = struct.pack(">H", pid) + (b"\0" if version == 5 else b"")
    return packet(header, body + b"".join(binary(f) for f in filters))


def disconnect(reason=None, **props):
    if reason is None:
        return b"\xe0\0"
    return packet(0xE0, bytes([reason]) + (properties(**props) if props else b""))


class Wrong(AssertionError):
    """What came breaks the standard, or is not what the case wants."""


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        if self.at + n > len(self.data):
            raise Wrong(f"field runs over the end of the packet {self.data!r}")
        self.at += n
        return self.data[self.at - n:self.at]

    def byte(self):
        return self.take(1)[0]

    def two(self):
        return struct.unpack(">H", self.take(2))[0]

    def four(self):
        return struct.unpack(">I", self.take(4))[0]

    def variable(self):
        value = 0
        for shift in (0, 7, 14, 21):
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise Wrong("variable byte integer of more than four bytes")

    def binary(self):
        return self.take(self.two())

    def text(self):
        text = self.binary().decode("utf-8")
        if "\0" in text:
            raise Wrong("text with U+0000")
        return text

    def pair(self):
        return self.text(), self.text()

    def rest(self):
        return self.take(len(self.data) - self.at)

    def properties(self, packet_type):
        inner, found = Reader(self.take(self.variable())), {}
        while inner.at < len(inner.data):
            key = inner.variable()
            if key not in BY_ID:
                raise Wrong(f"unknown property {key}")
            name, kind, where = BY_ID[key]
            if packet_type not in where:
                raise Wrong(f"property {name} in {NAMES[packet_type]}")
            value = getattr(inner, kind)()
            if name in ("user", "subscription_id"):
                found.setdefault(name, []).append(value)
            elif name in found:
                raise Wrong(f"property {name} twice")
            else:
                found[name] = value
        return found


class Packet:
    """A packet from the server, decoded to the letter."""

    def __init__(self, version, header, body):
        self.kind, self.flags, self.size = header >> 4, header & 15, len(body)
        self.name, self.props, self.reason, self.pid = NAMES[self.kind], {}, 0, None
        r = Reader(body)
        if self.kind != PUBLISH and self.flags != (2 if self.kind == PUBREL else 0):
            raise Wrong(f"{self.name} with flags {self.flags}")
        if self.kind == CONNACK:
            acknowledge = r.byte()
            if acknowledge > 1:
                raise Wrong(f"CONNACK flags {acknowledge}")
            self.present, self.reason = bool(acknowledge), r.byte()
            if self.present and self.reason:
                raise Wrong("session present on a refusal")
            if version == 5:
                self.props = r.properties(self.kind)
        elif self.kind == PUBLISH:
            self.dup, self.qos, self.retain = bool(self.flags & 8), self.flags >> 1 & 3, bool(self.flags & 1)
            self.topic = r.text()
            if self.qos == 3 or (self.dup and not self.qos) or set("+#") & set(self.topic):
                raise Wrong(f"PUBLISH with flags {self.flags} on {self.topic}")
            if self.qos:
                self.pid = r.two()
            if version == 5:
                self.props = r.properties(self.kind)
            self.payload = r.rest()
        elif self.kind in (PUBACK, PUBREC, PUBREL, PUBCOMP):
            self.pid = r.two()
            if version == 5 and r.at < len(body):
                self.reason = r.byte()
                if r.at < len(body):
                    self.props = r.properties(self.kind)
        elif self.kind in (SUBACK, UNSUBACK):
            self.pid = r.two()
            if version == 5:
                self.props = r.properties(self.kind)
            self.codes = list(r.rest())
        elif self.kind == PINGRESP:
            pass
        elif self.kind in (DISCONNECT, AUTH):
            if version != 5:
                raise Wrong(f"{self.name} from a 3.1.1 server")
            if r.at < len(body):
                self.reason = r.byte()
                if r.at < len(body):
                    self.props = r.properties(self.kind)
        else:
            raise Wrong(f"{self.name} from a server")
        if r.at != len(body):
            raise Wrong(f"{self.name} has bytes left over: {body!r}")
        if self.pid == 0:
            raise Wrong(f"{self.name} with packet identifier 0")

    def __repr__(self):
        more = f" {self.topic} {self.payload[:40]!r} qos {self.qos}" if self.kind == PUBLISH else ""
        return f"<{self.name}{more} reason 0x{self.reason:02x} pid {self.pid} {self.props}>"


class Peer:
    """One connection, as raw as a case wants it."""

    port = 0

    def __init__(self, version=5, port=None, sock=None):
        self.version, self.buffer, self.queue, self.eof = version, b"", [], False
        self.next_pid, self.aliases = 1, {}
        self.sock = sock or socket.create_connection(("127.0.0.1", port or Peer.port), WAIT)
        self.sock.settimeout(WAIT)
        if sock is None:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, *packets):
        try:
            self.sock.sendall(b"".join(packets))
        except (ConnectionError, BrokenPipeError):
            pass  # The case sees the end of the connection when it reads.
        return self

    def read(self, wait=WAIT):
        """The next packet; None at the end of the connection. Raises TimeoutError in silence."""
        deadline = time.monotonic() + wait
        while True:
            found = self.split()
            if found is not None:
                return found
            if self.eof:
                return None
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(1 << 16)
            except (socket.timeout, TimeoutError):
                raise TimeoutError from None
            except ConnectionError:
                data = b""
            self.eof |= not data
            self.buffer += data

    def split(self):
        length, shift = 0, 0
        for at, byte in enumerate(self.buffer[1:5], 1):
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        else:
            return None
        end = at + 1 + length
        if len(self.buffer) < end:
            return None
        header, body = self.buffer[0], self.buffer[at + 1:end]
        self.buffer = self.buffer[end:]
        return Packet(self.version, header, body)

    def expect(self, kind, wait=WAIT):
        """The next packet of a kind; others that come before it wait for their turn."""
        for at, known in enumerate(self.queue):
            if known.kind == kind:
                return self.queue.pop(at)
        deadline = time.monotonic() + wait
        while True:
            try:
                got = self.read(deadline - time.monotonic())
            except TimeoutError:
                raise Wrong(f"no {NAMES[kind]} came; waiting: {self.queue}") from None
            if got is None:
                raise Wrong(f"the connection ended before {NAMES[kind]}; waiting: {self.queue}")
            if got.kind == kind:
                return got
            self.queue.append(got)

    def connect(self, client_id=None, reason=0, **how):
        """CONNECT and its answer."""
        self.client_id = uuid.uuid4().hex[:20] if client_id is None else client_id
        self.send(connect(self.version, self.client_id, **how))
        self.connack = self.expect(CONNACK)
        if self.connack.reason != reason:
            raise Wrong(f"CONNACK {self.connack}, wanted 0x{reason:02x}")
        return self

    def pid(self):
        self.next_pid = self.next_pid % 65535 + 1
        return self.next_pid

    def subscribe(self, *filters, qos=0, codes=None, props=None, **option):
        """Subscribes to filters with the same options; checks what was granted."""
        pid = self.pid()
        self.send(subscribe(self.version, [(f, options(qos, **option)) for f in filters], pid, **(props or {})))
        suback = self.expect(SUBACK)
        want = [qos] * len(filters) if codes is None else codes
        if suback.pid != pid or suback.codes != want:
            raise Wrong(f"SUBACK {suback.codes} for {suback.pid}, wanted {want} for {pid}")
        return self

    def unsubscribe(self, *filters, codes=None):
        pid = self.pid()
        self.send(unsubscribe(self.version, filters, pid))
        unsuback = self.expect(UNSUBACK)
        want = [] if self.version == 4 else codes or [0] * len(filters)
        if unsuback.pid != pid or unsuback.codes != want:
            raise Wrong(f"UNSUBACK {unsuback.codes} for {unsuback.pid}, wanted {want} for {pid}")
        return self

    def publish(self, topic, payload=b"x", qos=0, reason=0, **how):
        """Publishes and goes through the whole exchange of the QoS."""
        pid = how.pop("pid", None) or self.pid()
        self.send(publish(self.version, topic, payload, qos, pid=pid, **how))
        if qos:
            answer = self.expect(PUBACK if qos == 1 else PUBREC)
            if answer.pid != pid or answer.reason != reason:
                raise Wrong(f"{answer} for {pid}, wanted reason 0x{reason:02x}")
            if qos == 2 and reason < 0x80:
                self.release(pid)
        return self

    def release(self, pid):
        self.send(ack(PUBREL, pid))
        answer = self.expect(PUBCOMP)
        if answer.pid != pid or answer.reason:
            raise Wrong(f"{answer}, wanted PUBCOMP for {pid}")

    def receive(self, wait=WAIT):
        """The next PUBLISH, not acknowledged; its topic resolved if it comes by an alias."""
        got = self.expect(PUBLISH, wait)
        alias = got.props.get("alias")
        if alias is not None:
            if got.topic:
                self.aliases[alias] = got.topic
            elif alias not in self.aliases:
                raise Wrong(f"alias {alias} was never set")
            got.topic = got.topic or self.aliases[alias]
        elif not got.topic:
            raise Wrong("PUBLISH without topic or alias")
        return got

    def message(self, wait=WAIT):
        """The next PUBLISH, acknowledged to the end."""
        got = self.receive(wait)
        if got.qos == 1:
            self.send(ack(PUBACK, got.pid))
        elif got.qos == 2:
            self.send(ack(PUBREC, got.pid))
            answer = self.expect(PUBREL)
            if answer.pid != got.pid or answer.reason:
                raise Wrong(f"{answer}, wanted PUBREL for {got.pid}")
            self.send(ack(PUBCOMP, got.pid))
        return got

    def payloads(self, count):
        return [self.message().payload.decode() for _ in range(count)]

    def nothing(self, wait=QUIET):
        """No packet waits and none comes."""
        if self.queue:
            raise Wrong(f"unexpected: {self.queue}")
        try:
            got = self.read(wait)
        except TimeoutError:
            return self
        raise Wrong(f"unexpected: {got if got else 'end of the connection'}")

    def sync(self):
        """All that was sent before has been dealt with when this returns."""
        self.send(b"\xc0\0")
        self.expect(PINGRESP)
        return self

    def refused(self, *reasons, wait=WAIT):
        """The server ends the connection; a 5.0 client hears one of `reasons` before, unless None is
        among them."""
        said = None
        while True:
            try:
                got = self.read(wait)
            except TimeoutError:
                raise Wrong("the connection was kept") from None
            if got is None:
                break
            if got.kind == DISCONNECT or got.kind == CONNACK and got.reason:
                said = got
        if self.version == 5 and reasons and (said.reason if said else None) not in reasons:
            raise Wrong(f"{said}, wanted {[r if r is None else hex(r) for r in reasons]}")
        return said

    def gone(self, wait=WAIT):
        """The connection ends without a word."""
        got = self.read(wait)
        if got is not None:
            raise Wrong(f"unexpected {got}")

    def close(self, reason=None, **props):
        """Says goodbye and waits until the server has heard it."""
        self.send(disconnect(reason, **props))
        try:
            while self.read() is not None:
                pass
        except TimeoutError:
            raise Wrong("the server keeps a connection after DISCONNECT") from None
        finally:
            self.sock.close()

    def drop(self):
        """Ends the connection as a lost network does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def client(client_id=None, version=5, **how):
    return Peer(version).connect(client_id, **how)


def both(case):
    """Runs a case for each version."""
    def run():
        for version in (4, 5):
            try:
                case(version)
            except Exception as why:
                raise Wrong(f"{'3.1.1' if version == 4 else '5.0'}: {why.__class__.__name__}: {why}") from why
    run.__name__ = case.__name__
    return run


def topic(name="t"):
    """A topic that no other case uses."""
    return f"conf/{uuid.uuid4().hex[:8]}/{name}"

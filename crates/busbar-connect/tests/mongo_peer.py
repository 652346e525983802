"""A replica set of one member, in memory, for tests: what MongoDB's documents say of transactions, change streams and snapshot
reads, in the parts that the connector uses. The documents are read and written by PyMongo's own BSON.

    mongo_peer.py PORT [USER PASSWORD]

The command {busbarPeer: 1, ...} sets what a test needs: writable, forgetOplog, failNext: {command, code, labels, after},
churn: a collection whose documents are changed before and after each snapshot read of it, loseChanges: the next answer with changes
is sent to nobody, failConcern: the next write is done and not replicated, and sharded: it is a mongos whose sets are slow, so that
changes of one time come one by one with empty answers between them. The text "<no utf-8>" leaves it as bytes that are none.
"""

import base64
import bisect
import copy
import hashlib
import hmac
import os
import random
import re
import socketserver
import struct
import sys
import threading
import time
from datetime import datetime

import bson
from bson import Binary, Decimal128, Int64, ObjectId, Timestamp
from bson.codec_options import CodecOptions

OPTIONS = CodecOptions(tz_aware=True, uuid_representation=0)
PORT = int(sys.argv[1])
USER, PASSWORD = (sys.argv[2], sys.argv[3]) if len(sys.argv) > 3 else (None, None)

lock = threading.Condition()
state = {"writable": True, "fail": None, "churn": None, "loseChanges": False, "failConcern": False, "sharded": False}
NO_UTF8, NO_UTF8_BYTES = b"<no utf-8>", b"\xff" * 10
chance = random.Random(7)
databases = {}  # name -> collection -> {"docs": {key: doc}, "written": {key: ts}, "indexes": [...], "validator": None}
oplog = []  # (ts, event)
oldest = 0
clock = [int(time.time()) << 32]
transactions = {}  # session -> transaction
cursors = {}
next_cursor = [1]


class Refused(Exception):
    def __init__(self, code, said, labels=(), **more):
        super().__init__(said)
        self.answer = {"ok": 0.0, "code": code, "errmsg": said, "codeName": "Code%d" % code, **more}
        if labels:
            self.answer["errorLabels"] = list(labels)


def tick():
    now = int(time.time()) << 32
    clock[0] = max(clock[0] + 1, now)
    return clock[0]


def stamp(ts):
    return Timestamp(ts >> 32, ts & 0xFFFFFFFF)


ORDER = [(type(None),), (int, float, Decimal128), (str,), (dict,), (list,), (bytes, Binary), (ObjectId,), (bool,), (datetime,), (Timestamp,)]


def bracket(value):
    if isinstance(value, bool):
        return 7
    for at, types in enumerate(ORDER):
        if isinstance(value, types):
            return at
    return 99


def rank(value, fold=False):
    at = bracket(value)
    if at == 1:
        value = value.to_decimal() if isinstance(value, Decimal128) else value
        return (at, value)
    if at == 0:
        return (at, 0)
    if at == 2:
        return (at, (value.lower() if fold else value).encode())
    if at == 3:
        return (at, [(k, rank(v)) for k, v in value.items()])
    if at == 4:
        return (at, [rank(v) for v in value])
    if at == 5:
        return (at, len(value), bytes(value))
    return (at, value)


def keyed(value):
    """The key of a dictionary for a value."""
    if isinstance(value, (dict, list)):
        return bson.encode({"v": value})
    if bracket(value) == 1 and not isinstance(value, Decimal128):
        return (1, value)
    return (bracket(value), value)


MISSING = object()


def at_path(doc, path):
    if isinstance(doc, dict) and path in doc:
        return doc[path]
    for part in path.split("."):
        if not isinstance(doc, dict) or part not in doc:
            return MISSING
        doc = doc[part]
    return doc


def same(a, b):
    if b is None:
        return a is None or a is MISSING
    if a is MISSING:
        return False
    return bracket(a) == bracket(b) and rank(a) == rank(b)


def holds(value, condition):
    if isinstance(condition, dict) and condition and all(k.startswith("$") for k in condition):
        return all(operator(value, op, arg) for op, arg in condition.items())
    return same(value, condition)


def operator(value, op, arg):
    if op == "$ne":
        return not same(value, arg)
    if op == "$in":
        return any(same(value, one) for one in arg)
    if op == "$not":
        return not holds(value, arg)
    if op == "$regex":
        return isinstance(value, str) and re.search(arg, value) is not None
    if value is MISSING or bracket(value) != bracket(arg):
        return False
    a, b = rank(value), rank(arg)
    return {"$gt": a > b, "$gte": a >= b, "$lt": a < b, "$lte": a <= b, "$eq": a == b}[op]


def matches(doc, query):
    for name, condition in query.items():
        if name == "$and":
            if not all(matches(doc, one) for one in condition):
                return False
        elif name == "$or":
            if not any(matches(doc, one) for one in condition):
                return False
        elif not holds(at_path(doc, name), condition):
            return False
    return True


def collection(db, name, make=False):
    collections = databases.setdefault(db, {})
    if name not in collections and make:
        index = {"v": 2, "key": {"_id": 1}, "name": "_id_"}
        collections[name] = {"docs": {}, "written": {}, "indexes": [index], "validator": None, "collation": None}
    return collections.get(name)


class Writes:
    """Changes of one command or one transaction: kept apart until they are committed."""

    def __init__(self):
        self.since = clock[0]
        self.changed = {}  # (db, collection) -> {key: (doc or None, kind, before)}
        self.order = []
        self.seen = {}

    def docs(self, db, name):
        place = (db, name)
        if place not in self.seen:
            # What was written since the begin is not seen.
            self.seen[place] = dict((collection(db, name) or {"docs": {}})["docs"])
        return self.seen[place]

    def put(self, db, name, key, doc, kind):
        held = collection(db, name, True)
        if held["written"].get(key, 0) > self.since:
            raise Refused(112, "WriteConflict error", ["TransientTransactionError"])
        for other in transactions.values():
            if other["writes"] is not self and key in other["writes"].changed.get((db, name), {}):
                raise Refused(112, "WriteConflict error", ["TransientTransactionError"])
        docs = self.docs(db, name)
        before = docs.get(key)
        if doc is None:
            docs.pop(key, None)
        else:
            if held["validator"] and not matches(doc, held["validator"]):
                raise Refused(121, "Document failed validation")
            for index in held["indexes"]:
                if not index.get("unique"):
                    continue
                fields = list(index["key"])
                mine = [at_path(doc, field) for field in fields]
                for known, other in docs.items():
                    if known != key and all(same(at_path(other, f), None if m is MISSING else m) for f, m in zip(fields, mine)):
                        raise Refused(11000, "E11000 duplicate key error collection: %s.%s" % (db, name))
            docs[key] = doc
        self.changed.setdefault((db, name), {})[key] = doc
        self.order.append((db, name, key, doc, kind, before))

    def commit(self, session=None):
        if not self.order:
            return
        ts = tick()
        for db, name, key, doc, kind, before in self.order:
            held = collection(db, name, True)
            held["written"][key] = ts
            if doc is None:
                held["docs"].pop(key, None)
            else:
                held["docs"][key] = doc
            old = before if before is not None else {}
            event = {
                "operationType": kind,
                "clusterTime": stamp(ts),
                "wallTime": datetime.fromtimestamp(ts >> 32),
                "ns": {"db": db, "coll": name},
                "documentKey": {"_id": (doc or old).get("_id")},
            }
            if doc is not None:
                event["fullDocument"] = doc
            if before is not None:
                event["fullDocumentBeforeChange"] = before
            if session:
                event["lsid"], event["txnNumber"] = {"id": session[0]}, Int64(session[1])
            oplog.append((ts, event))
        lock.notify_all()


def insert(writes, db, name, doc):
    doc = {"_id": doc.get("_id", ObjectId()), **doc}
    key = keyed(doc["_id"])
    if key in writes.docs(db, name):
        raise Refused(11000, "E11000 duplicate key error collection: %s.%s index: _id_" % (db, name))
    writes.put(db, name, key, doc, "insert")


def update(writes, db, name, one):
    query, change = one["q"], one["u"]
    found = [doc for doc in writes.docs(db, name).values() if matches(doc, query)][:1]
    if not found and not one.get("upsert"):
        return 0
    if found:
        doc = copy.deepcopy(found[0])
    else:
        doc = {k: v for k, v in query.items() if not k.startswith("$") and not isinstance(v, dict)}
    if change and not next(iter(change)).startswith("$"):
        doc = {**({"_id": doc["_id"]} if "_id" in doc else {}), **change}
    for op, fields in change.items():
        if op == "$set":
            if not found and "_id" in doc and same(fields.get("_id", doc["_id"]), doc["_id"]) is False:
                raise Refused(66, "the (immutable) field '_id' was altered")
            doc.update(fields)
        elif op == "$unset":
            for field in fields:
                doc.pop(field, None)
    if not found:
        return insert(writes, db, name, doc)
    if not same(doc.get("_id"), found[0]["_id"]):
        raise Refused(66, "the (immutable) field '_id' was altered")
    kind = "update" if change and next(iter(change)).startswith("$") else "replace"
    if bson.encode(doc) != bson.encode(found[0]):
        writes.put(db, name, keyed(found[0]["_id"]), doc, kind)


def delete(writes, db, name, one):
    for key, doc in list(writes.docs(db, name).items()):
        if matches(doc, one["q"]):
            writes.put(db, name, key, None, "delete")
            if one["limit"] == 1:
                return


def transaction(command):
    """The transaction that a command is a part of, or none."""
    if "autocommit" not in command:
        return None
    session, number = bytes(command["lsid"]["id"]), command["txnNumber"]
    known = transactions.get(session)
    if known and known["number"] > number:
        raise Refused(225, "Cannot start transaction %d on session because a newer transaction %d has already started" % (number, known["number"]))
    if command.get("startTransaction"):
        # A newer one ends what was open.
        transactions[session] = {"number": number, "writes": Writes(), "open": True}
    known = transactions.get(session)
    if not known or known["number"] != number or not known["open"]:
        raise Refused(251, "Given transaction number does not match any in-progress transactions", ["TransientTransactionError"])
    return known


def ended(known):
    known["open"] = False
    known["writes"] = Writes()


def write(command, db, word, work, items):
    known = transaction(command)
    errors = []
    for at, item in enumerate(items):
        writes = known["writes"] if known else Writes()
        try:
            work(writes, db, command[word], item)
            if not known:
                writes.commit()
        except Refused as refused:
            if known:
                ended(known)
                if "errorLabels" in refused.answer:
                    raise
            errors.append({"index": at, "code": refused.answer["code"], "errmsg": refused.answer["errmsg"]})
            if command.get("ordered", True):
                break
    answer = {"n": len(items) - len(errors), **({"writeErrors": errors} if errors else {})}
    if state["failConcern"]:
        state["failConcern"] = False
        answer["writeConcernError"] = {"code": 64, "errmsg": "waiting for replication timed out"}
    return answer


def page(ns, docs, size, more):
    first, rest = docs[:size], docs[size:]
    answer = {"cursor": {"firstBatch": first, "id": Int64(0), "ns": ns, **more}}
    if rest:
        answer["cursor"]["id"] = Int64(keep({"docs": rest, "ns": ns}))
    return answer


def keep(cursor):
    next_cursor[0] += 1
    cursors[next_cursor[0]] = cursor
    return next_cursor[0]


def churn(db, name):
    """Changes, deletes and adds documents at random."""
    for turn in range(40):
        writes = Writes()
        key = chance.choice(list(writes.docs(db, name)))
        query = {"_id": writes.docs(db, name)[key]["_id"]}
        if turn % 9 == 0:
            delete(writes, db, name, {"q": query, "limit": 1})
        elif turn % 5 == 0:
            insert(writes, db, name, {"_id": "n%d" % tick(), "v": 1})
        else:
            update(writes, db, name, {"q": query, "u": {"$set": {"v": tick() & 0xFFFFFFF}}})
        writes.commit()


def find(command, db):
    known = transaction(command)
    name = command["find"]
    snapshot = command.get("readConcern", {}).get("level") == "snapshot" and not known
    if snapshot and state["churn"] == name:
        churn(db, name)
    docs = known["writes"].docs(db, name) if known else (collection(db, name) or {"docs": {}})["docs"]
    found = [doc for doc in docs.values() if matches(doc, command.get("filter", {}))]
    # A collation here tells no capital letters from small ones.
    fold = bool((collection(db, name) or {"collation": None})["collation"])
    for field, way in reversed(list(command.get("sort", {}).items())):
        found.sort(key=lambda doc: rank(None if at_path(doc, field) is MISSING else at_path(doc, field), fold), reverse=way < 0)
    if "min" in command:
        assert command["hint"] == {"_id": 1} == command["sort"]
        found = [doc for doc in found if rank(doc["_id"], fold) >= rank(command["min"]["_id"], fold)]
    if command.get("limit"):
        found = found[: command["limit"]]
    wanted = {field for field, way in command.get("projection", {}).items() if way}
    if wanted:
        tops = {field.split(".")[0] for field in wanted}
        found = [{k: v for k, v in doc.items() if k in tops} for doc in found]
    more = {}
    if snapshot:
        more["atClusterTime"] = stamp(clock[0])
        if state["churn"] == name:
            churn(db, name)
    size = len(found) if command.get("singleBatch") else command.get("batchSize", 101)
    return page("%s.%s" % (db, name), found, size, more)


def token(ts, at):
    return {"_data": "82%016X%08X" % (ts, at)}


def place_of(given):
    data = given["_data"]
    return int(data[2:18], 16), int(data[18:26], 16)


def begin_at(place):
    """The index of the first event behind a place, and how many of its time are before it."""
    at = bisect.bisect_left(oplog, place[0], key=lambda entry: entry[0])
    number = 0
    while at < len(oplog) and oplog[at][0] == place[0] and number < place[1]:
        at, number = at + 1, number + 1
    return at, number


def stream(command, db):
    stages = command["pipeline"]
    options, match = stages[0]["$changeStream"], stages[1]["$match"] if len(stages) > 1 else {}
    place = (clock[0], 0xFFFFFFFF)
    if "startAfter" in options:
        place = place_of(options["startAfter"])
        if place[0] < oldest:
            raise Refused(286, "Resume of change stream was not possible, as the resume point may no longer be in the oplog.", ["NonResumableChangeStreamError"])
    cursor = {"stream": True, "place": place, "match": match, "db": db, "before": "fullDocumentBeforeChange" in options}
    identity = keep(cursor)
    batch = changes(cursor, 0)
    return {"cursor": {"firstBatch": batch, "id": Int64(identity), "ns": db + ".$cmd.aggregate", "postBatchResumeToken": token(*cursor["place"])}}


def changes(cursor, most):
    batch = []
    at, number = begin_at(cursor["place"])
    last = cursor["place"][0]
    while at < len(oplog):
        if len(batch) >= most:
            return batch
        ts, event = oplog[at]
        number = number + 1 if ts == last else 1
        last, place, at = ts, (ts, number), at + 1
        cursor["place"] = place
        if event["ns"]["db"] != cursor["db"] or not matches(event, cursor["match"]):
            continue
        event = {"_id": token(*place), **event}
        if not cursor["before"]:
            event.pop("fullDocumentBeforeChange", None)
        if event["operationType"] == "update":
            # What is there now, as "updateLookup" has it.
            held = collection(cursor["db"], event["ns"]["coll"])
            event["fullDocument"] = held and held["docs"].get(keyed(event["documentKey"]["_id"]))
        batch.append(event)
    cursor["place"] = (clock[0], 0xFFFFFFFF)
    return batch


def get_more(command):
    identity = command["getMore"]
    cursor = cursors.get(identity)
    if cursor is None:
        raise Refused(43, "cursor id %d not found" % identity)
    if cursor.get("stream") and state["sharded"] and cursor.pop("pause", False):
        place = token(*cursor["place"])
        return {"cursor": {"nextBatch": [], "id": Int64(identity), "ns": cursor["db"] + ".$cmd.aggregate", "postBatchResumeToken": place}}
    if cursor.get("stream"):
        until = time.time() + command.get("maxTimeMS", 1000) / 1000
        while True:
            batch = changes(cursor, 1 if state["sharded"] else command.get("batchSize", 101))
            left = until - time.time()
            if batch or left <= 0:
                break
            lock.wait(left)
        if batch and state["loseChanges"]:
            state["loseChanges"] = False
            raise ConnectionError
        cursor["pause"] = bool(batch)
        place = batch[-1]["_id"] if batch else token(*cursor["place"])
        return {"cursor": {"nextBatch": batch, "id": Int64(identity), "ns": cursor["db"] + ".$cmd.aggregate", "postBatchResumeToken": place}}
    size = command.get("batchSize", 101)
    batch, cursor["docs"] = cursor["docs"][:size], cursor["docs"][size:]
    if not cursor["docs"]:
        del cursors[identity]
        identity = 0
    return {"cursor": {"nextBatch": batch, "id": Int64(identity), "ns": cursor["ns"]}}


def hello():
    me = "127.0.0.1:%d" % PORT
    answer = {"isWritablePrimary": state["writable"], "secondary": not state["writable"], "setName": "rs0", "setVersion": 1, "hosts": [me], "me": me}
    if state["writable"]:
        answer["primary"] = me
    if state["sharded"]:
        answer = {"isWritablePrimary": True, "msg": "isdbgrid"}
    if USER:
        answer["saslSupportedMechs"] = ["SCRAM-SHA-256"]
    return {**answer, "maxBsonObjectSize": 16777216, "maxMessageSizeBytes": 48000000, "maxWriteBatchSize": 100000, "logicalSessionTimeoutMinutes": 30, "minWireVersion": 0, "maxWireVersion": 21, "localTime": datetime.now()}


def scram(link, command, word):
    text = bytes(command["payload"]).decode()
    sign = lambda key, said: hmac.new(key, said.encode(), hashlib.sha256).digest()
    if word == "saslStart":
        if command["mechanism"] != "SCRAM-SHA-256":
            raise Refused(334, "mechanism unavailable")
        link["first"] = text.split(",", 2)[2]
        escaped = str(USER).replace("=", "=3D").replace(",", "=2C")
        link["known"] = link["first"].startswith("n=%s,r=" % escaped)
        salt, nonce = os.urandom(16), link["first"].split("r=")[1] + base64.b64encode(os.urandom(9)).decode()
        link["salted"] = hashlib.pbkdf2_hmac("sha256", str(PASSWORD).encode(), salt, 15000)
        link["challenge"] = "r=%s,s=%s,i=15000" % (nonce, base64.b64encode(salt).decode())
        return {"conversationId": 1, "done": False, "payload": link["challenge"].encode()}
    bare, proof = text.rsplit(",p=", 1)
    said = ",".join([link["first"], link["challenge"], bare])
    client = sign(link["salted"], "Client Key")
    expected = bytes(a ^ b for a, b in zip(client, sign(hashlib.sha256(client).digest(), said)))
    if not link["known"] or base64.b64decode(proof) != expected:
        raise Refused(18, "Authentication failed.")
    link["in"] = True
    last = "v=" + base64.b64encode(sign(sign(link["salted"], "Server Key"), said)).decode()
    return {"conversationId": 1, "done": True, "payload": last.encode()}


def run(link, command):
    word, db = next(iter(command)), command.get("$db", "admin")
    if word in ("hello", "isMaster", "ismaster"):
        return hello()
    if word in ("saslStart", "saslContinue"):
        return scram(link, command, word)
    if word == "ping":
        return {}
    if USER and not link.get("in"):
        raise Refused(13, "command %s requires authentication" % word)
    fail = state["fail"]
    if fail and fail["command"] == word:
        state["fail"] = None
        if fail.get("after"):
            dispatch(command, word, db)
        if fail["code"] == 0:
            raise ConnectionError
        raise Refused(fail["code"], "as the test wishes", fail.get("labels", ()))
    if not state["writable"] and word in ("insert", "update", "delete", "find", "commitTransaction", "getMore", "aggregate"):
        raise Refused(10107, "not primary", ["RetryableWriteError"])
    return dispatch(command, word, db)


def dispatch(command, word, db):
    global oldest
    if word == "busbarPeer":
        state["writable"] = command.get("writable", state["writable"])
        state["fail"] = command.get("failNext", state["fail"])
        for name in ("churn", "loseChanges", "failConcern", "sharded"):
            state[name] = command.get(name, state[name])
        if command.get("forgetOplog"):
            oplog.clear()
            oldest = tick()
        return {"waiting": [name for name in ("loseChanges", "failConcern") if state[name]]}
    if word == "buildInfo":
        return {"version": "7.0.0", "versionArray": [7, 0, 0, 0]}
    if word == "endSessions":
        return {}
    if word == "insert":
        return write(command, db, word, insert, command["documents"])
    if word == "update":
        return write(command, db, word, update, command["updates"])
    if word == "delete":
        return write(command, db, word, delete, command["deletes"])
    if word == "find":
        return find(command, db)
    if word == "count":
        return {"n": len((collection(db, command["count"]) or {"docs": {}})["docs"])}
    if word == "aggregate":
        return stream(command, db)
    if word == "getMore":
        return get_more(command)
    if word == "killCursors":
        for identity in command["cursors"]:
            cursors.pop(identity, None)
        return {"cursorsKilled": command["cursors"]}
    if word == "commitTransaction":
        known = transaction(command)
        known["writes"].commit((command["lsid"]["id"], command["txnNumber"]))
        ended(known)
        return {}
    if word == "abortTransaction":
        ended(transaction(command))
        return {}
    if word == "drop":
        if collection(db, command["drop"]) is None:
            raise Refused(26, "ns not found")
        del databases[db][command["drop"]]
        ts = tick()
        oplog.append((ts, {"operationType": "drop", "clusterTime": stamp(ts), "ns": {"db": db, "coll": command["drop"]}}))
        lock.notify_all()
        return {}
    if word in ("create", "collMod"):
        held = collection(db, command[word], True)
        held["validator"], held["collation"] = command.get("validator"), command.get("collation")
        return {}
    if word == "createIndexes":
        collection(db, command[word], True)["indexes"].extend(command["indexes"])
        return {}
    if word == "listIndexes":
        held = collection(db, command[word])
        if held is None:
            raise Refused(26, "ns does not exist: %s.%s" % (db, command[word]))
        return page(db, held["indexes"], 100, {})
    if word == "listDatabases":
        return {"databases": [{"name": name} for name in databases]}
    if word == "listCollections":
        listed = []
        for name, held in databases.get(db, {}).items():
            options = {"collation": held["collation"]} if held["collation"] else {}
            listed.append({"name": name, "type": "collection", "options": options})
        return page(db, listed, 1000, {})
    raise Refused(59, "no such command: '%s'" % word)


class Link(socketserver.StreamRequestHandler):
    def handle(self):
        link = {}
        try:
            while True:
                head = self.rfile.read(16)
                if len(head) < 16:
                    return
                length, number, _, opcode = struct.unpack("<iiii", head)
                body = self.rfile.read(length - 16)
                if opcode == 2004:  # PyMongo's first question
                    name_end = body.index(0, 4)
                    command = bson.decode(body[name_end + 9 :], OPTIONS)
                    answer = bson.encode({**hello(), "ok": 1.0})
                    reply = struct.pack("<iqii", 8, 0, 0, 1) + answer
                    self.wfile.write(struct.pack("<iiii", 16 + len(reply), 1, number, 1) + reply)
                    continue
                command, at = {}, 4
                while at < len(body):
                    kind, size = body[at], struct.unpack_from("<i", body, at + 1)[0]
                    part = body[at + 1 : at + 1 + size]
                    if kind == 0:
                        command = {**bson.decode(part, OPTIONS), **command}
                    else:
                        end = part.index(0, 4)
                        command[part[4:end].decode()] = bson.decode_all(part[end + 1 :], OPTIONS)
                    at += 1 + size
                with lock:
                    try:
                        answer = {**run(link, command), "ok": 1.0}
                    except Refused as refused:
                        answer = refused.answer
                    answer["operationTime"] = stamp(clock[0])
                    reply = struct.pack("<ib", 0, 0) + bson.encode(answer, codec_options=OPTIONS)
                    reply = reply.replace(NO_UTF8, NO_UTF8_BYTES)
                self.wfile.write(struct.pack("<iiii", 16 + len(reply), 1, number, 2013) + reply)
        except ConnectionError:
            return


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


Server(("127.0.0.1", PORT), Link).serve_forever()

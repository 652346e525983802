"""librdkafka, asked by lines of JSON: the other side of the tests of Kafka connections. Each line is answered by one."""

import json
import sys
import threading
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

PATIENCE = 120


def text(value):
    return None if value is None else value.decode("utf-8", "backslashreplace")


class Peer:
    def __init__(self, address):
        self.config = {"bootstrap.servers": address, "log_level": 0}
        self.admin = AdminClient(self.config)

    def create(self, topic, partitions=1, config=None, replicas=1):
        new = NewTopic(topic, num_partitions=partitions, replication_factor=replicas, config=config or {})
        self.admin.create_topics([new])[topic].result(PATIENCE)
        # Where a client sees it and it has leaders.
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            found = self.admin.list_topics(topic, timeout=PATIENCE).topics[topic]
            if not found.error and len(found.partitions) == partitions and all(p.leader >= 0 for p in found.partitions.values()):
                return None
            time.sleep(0.02)
        raise TimeoutError(topic)

    def grow(self, topic, partitions):
        from confluent_kafka.admin import NewPartitions

        self.admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(PATIENCE)

    def leaders(self, topic):
        """The broker that leads each partition."""
        found = self.admin.list_topics(topic, timeout=PATIENCE).topics[topic].partitions
        return [found[number].leader for number in sorted(found)]

    def delete(self, topic):
        self.admin.delete_topics([topic])[topic].result(PATIENCE)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and topic in self.admin.list_topics(timeout=PATIENCE).topics:
            time.sleep(0.02)

    def produce(self, topic, rows, codec="none", transaction=None, end="commit", partitioner="consistent_random"):
        """Rows are value, key, partition, headers and time; all but the value may be left out or null."""
        config = {**self.config, "compression.type": codec, "linger.ms": 50, "partitioner": partitioner}
        if transaction:
            config["transactional.id"] = transaction
        producer = Producer(config)
        if transaction:
            producer.init_transactions(PATIENCE)
            producer.begin_transaction()
        failed = []
        for row in rows:
            value, key, partition, headers, when = (row + [None] * 5)[:5]
            how = {"on_delivery": lambda why, _: failed.append(str(why)) if why else None}
            if partition is not None:
                how["partition"] = partition
            if when is not None:
                how["timestamp"] = when
            if headers is not None:
                how["headers"] = [(n, v.encode() if v is not None else None) for n, v in headers]
            producer.produce(topic, value=value, key=key, **how)
            producer.poll(0)
        producer.flush(PATIENCE)
        if transaction and end == "commit":
            producer.commit_transaction(PATIENCE)
        elif transaction and end == "abort":
            producer.abort_transaction(PATIENCE)
        elif transaction:
            # Goes on being open while the process lives.
            self.open = producer
        if failed:
            raise RuntimeError(failed[0])

    def rows(self, topic, isolation="read_committed"):
        """Every record that is there: partition, offset, key, value, headers, time."""
        consumer = Consumer({**self.config, "group.id": "peer", "enable.auto.commit": False,
                             "isolation.level": isolation, "enable.partition.eof": True})
        partitions = self.admin.list_topics(topic, timeout=PATIENCE).topics[topic].partitions
        assigned = [TopicPartition(topic, number, 0) for number in partitions]
        for partition in assigned:
            partition.offset = consumer.get_watermark_offsets(partition, timeout=PATIENCE)[0]
        consumer.assign(assigned)
        left, rows, until = set(partitions), [], time.monotonic() + PATIENCE
        while left and time.monotonic() < until:
            message = consumer.poll(1)
            if message is None:
                continue
            if message.error():
                if message.error().name() == "_PARTITION_EOF":
                    left.discard(message.partition())
                    continue
                raise RuntimeError(str(message.error()))
            headers = [[n, text(v)] for n, v in message.headers() or []]
            rows.append([message.partition(), message.offset(), text(message.key()), text(message.value()),
                         headers, message.timestamp()[1]])
        consumer.close()
        return rows

    def trim(self, topic, before, partition=0):
        place = TopicPartition(topic, partition, before)
        for done in self.admin.delete_records([place]).values():
            done.result(PATIENCE)

    def group(self, group, topic, partition=0):
        consumer = Consumer({**self.config, "group.id": group, "enable.auto.commit": False})
        place = consumer.committed([TopicPartition(topic, partition)], timeout=PATIENCE)[0]
        consumer.close()
        return place.offset

    def join(self, topic, group):
        """Becomes a member of a group, with what this client does unless it is told otherwise; polled by a thread."""
        self.member = Consumer({**self.config, "group.id": group, "auto.offset.reset": "earliest", "session.timeout.ms": 6000})
        self.member.subscribe([topic])
        self.taken, self.partitions, self.leaves = [], [], False

        def poll():
            # Only this thread asks the client, whose calls wait for each other.
            while not self.leaves:
                message = self.member.poll(0.1)
                self.partitions = sorted(place.partition for place in self.member.assignment())
                if message is not None and not message.error():
                    self.taken.append(text(message.value()))
            # Tells the group how far it is, and leaves it.
            self.member.close()

        self.polling = threading.Thread(target=poll)
        self.polling.start()

    def joined(self):
        """What the member has taken, and its partitions."""
        return {"taken": self.taken, "partitions": [] if self.leaves else self.partitions}

    def leave(self):
        self.leaves = True
        self.polling.join()
        return self.joined()

    def members(self, group):
        """How many members a group has, as administrators see it."""
        return len(self.admin.describe_consumer_groups([group])[group].result(PATIENCE).members)

    def end(self, topic, partition=0):
        consumer = Consumer({**self.config, "group.id": "peer", "enable.auto.commit": False})
        first, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=PATIENCE)
        consumer.close()
        return [first, end]


peer = Peer(sys.argv[1])
for line in sys.stdin:
    asked = json.loads(line)
    try:
        answer = {"ok": getattr(peer, asked.pop("do"))(**asked)}
    except Exception as why:
        answer = {"wrong": f"{type(why).__name__}: {why}"}
    print(json.dumps(answer), flush=True)

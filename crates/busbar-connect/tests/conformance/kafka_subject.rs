//! The row of `kafka`, and what its other side is in the suite.

use serde_json::json;

use crate::kafka_server::{KafkaPeer, kafka};
use crate::servers::Cut;
use crate::subjects::{Subject, Supply, Taker, numbered};

pub fn subject() -> Subject {
    Subject {
        kind: "kafka",
        good: vec![
            "kafka: { brokers: ['127.0.0.1:1'], read: { topics: [a] } }\n",
            "kafka: { brokers: ['127.0.0.1:1', 'b:2'], tls: { ca: ca.pem, certificate: c.pem, key: k.pem }, sasl: { mechanism: scram-sha-512, user: u, password: { env: P } }, timeout: 5s, read: { topics: [a, 'b-*'], partitions: [0, 1], start: latest, lost: earliest, group: g, offset_tags: true, generation: 2 } }\ntopic: a/${topic}/${partition}/${key}\n",
            "kafka: { brokers: ['127.0.0.1:1'], read: { topics: [a], start: '2026-01-31T00:00:00Z' } }\n",
            "kafka: { brokers: ['127.0.0.1:1'], read: { topics: [a], group: g, join: true, session: 30s } }\n",
            "kafka: { brokers: ['127.0.0.1:1'], write: { topic: a } }\n",
            "kafka: { brokers: ['127.0.0.1:1'], sasl: { mechanism: plain, user: u, password: { file: p } }, write: { topic: 'a-${id}', positions: b, key: '${id}', compression: lz4, change: c, producer: n } }\n",
        ],
        wrong: vec![
            ("kafka: { read: { topics: [a] } }\n", "brokers"),
            ("kafka: { brokers: [], read: { topics: [a] } }\n", "brokers"),
            (
                "kafka: { brokers: [here], read: { topics: [a] } }\n",
                "here",
            ),
            ("kafka: { brokers: ['a:1'] }\n", "write"),
            (
                "kafka: { brokers: ['a:1'], read: { topics: [a] }, write: { topic: b } }\n",
                "topic",
            ),
            (
                "kafka: { brokers: ['a:1'], read: { topics: [] } }\n",
                "topics",
            ),
            (
                "kafka: { brokers: ['a:1'], read: { topics: [a, a] } }\n",
                "topics",
            ),
            (
                "kafka: { brokers: ['a:1'], read: { topics: [a/b] } }\n",
                "a/b",
            ),
            (
                "kafka: { brokers: ['a:1'], read: { topics: [a], start: soon } }\n",
                "soon",
            ),
            (
                "kafka: { brokers: ['a:1'], read: { topics: [a], partitions: [-1] } }\n",
                "partitions",
            ),
            (
                "kafka: { brokers: ['a:1'], read: { topics: [a], lost: latest } }\n",
                "latest",
            ),
            (
                "kafka: { brokers: ['a:1'], read: { topics: [a], group: '' } }\n",
                "''",
            ),
            (
                "kafka: { brokers: ['a:1'], read: { topics: [a], join: true } }\n",
                "true",
            ),
            (
                "kafka: { brokers: ['a:1'], read: { topics: [a], group: g, join: true, partitions: [0] } }\n",
                "true",
            ),
            (
                "kafka: { brokers: ['a:1'], read: { topics: [a], group: g, join: true, session: 1h } }\n",
                "1h",
            ),
            (
                "kafka: { brokers: ['a:1'], read: { topics: [a] } }\ntopic: a/${tpic}\n",
                "tpic",
            ),
            (
                "kafka: { brokers: ['a:1'], write: { topic: 'a-${id}' } }\n",
                "a-${id}",
            ),
            (
                "kafka: { brokers: ['a:1'], write: { topic: 'a b' } }\n",
                "a b",
            ),
            (
                "kafka: { brokers: ['a:1'], write: { topic: a, key: '${id' } }\n",
                "${id",
            ),
            (
                "kafka: { brokers: ['a:1'], write: { topic: a, compression: snappy } }\n",
                "snappy",
            ),
            (
                "kafka: { brokers: ['a:1'], write: { topic: a, positions: b/c } }\n",
                "b/c",
            ),
            (
                "kafka: { brokers: ['a:1'], timeout: 0s, write: { topic: a } }\n",
                "0s",
            ),
            (
                "kafka: { brokers: ['a:1'], sasl: { mechanism: md5, user: u, password: p }, write: { topic: a } }\n",
                "md5",
            ),
            (
                "kafka: { brokers: ['a:1'], sasl: { mechanism: plain, user: u, password: '${P}' }, write: { topic: a } }\n",
                "${P}",
            ),
            (
                "kafka: { brokers: ['a:1'], sasl: { mechanism: plain, user: u, password: { file: /etc/x } }, write: { topic: a } }\n",
                "/etc/x",
            ),
            (
                "kafka: { brokers: ['a:1'], tls: { ca: /etc/x }, write: { topic: a } }\n",
                "/etc/x",
            ),
            (
                "kafka: { brokers: ['a:1'], tls: { certificate: c.pem }, write: { topic: a } }\n",
                "c.pem",
            ),
        ],
        secret: vec![
            "kafka: { brokers: ['127.0.0.1:PORT'], sasl: { mechanism: plain, user: u, password: SECRET }, write: { topic: a } }\n",
        ],
        supply: Some(|| Box::new(Produced::new())),
        taker: Some(|| Box::new(Taken::new())),
    }
}

/// A topic whose batches are small, so that a row can be too large for it.
struct Taken {
    peer: KafkaPeer,
    topic: String,
    cut: Cut,
}

impl Taken {
    fn new() -> Taken {
        let peer = kafka().peer();
        Taken {
            topic: kafka().topic(&peer, 1, &json!({"max.message.bytes": "20000"})),
            peer,
            cut: kafka().cut(),
        }
    }
}

impl Taker for Taken {
    fn connection(&self, _: &std::path::Path) -> String {
        format!(
            "kafka: {{ brokers: ['127.0.0.1:{}'], timeout: 20s, write: {{ topic: {1}, producer: {1} }} }}\n",
            self.cut.port, self.topic
        )
    }
    fn rows(&mut self) -> Vec<String> {
        self.peer.values(&self.topic)
    }
    fn go_away(&mut self) {
        self.cut.cut();
    }
    fn come_back(&mut self) {
        self.cut.join();
    }
    fn refuse(&mut self, word: &'static str) -> Vec<u8> {
        word.repeat(5_000).into_bytes()
    }
}

struct Produced {
    peer: KafkaPeer,
    topic: String,
    cut: Cut,
}

impl Produced {
    fn new() -> Produced {
        let peer = kafka().peer();
        Produced {
            topic: kafka().topic(&peer, 1, &json!({})),
            peer,
            cut: kafka().cut(),
        }
    }
}

impl Supply for Produced {
    fn connection(&self, _: &std::path::Path) -> String {
        format!(
            "kafka: {{ brokers: ['127.0.0.1:{}'], timeout: 20s, read: {{ topics: [{}] }} }}\ntopic: in/rows\n",
            self.cut.port, self.topic
        )
    }
    fn produce(&mut self, numbers: std::ops::Range<u64>) {
        let rows: Vec<_> = numbered(numbers).into_iter().map(|row| [row]).collect();
        self.peer
            .ask(json!({"do": "produce", "topic": self.topic, "rows": rows}));
    }
    fn topic(&self) -> &'static str {
        "in/rows"
    }
    fn exactly_once(&self) -> bool {
        true
    }
    fn go_away(&mut self) {
        self.cut.cut();
    }
    fn come_back(&mut self) {
        self.cut.join();
    }
}

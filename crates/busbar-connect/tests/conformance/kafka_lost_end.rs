//! Transactions whose end the cluster has lost: open in partitions, and unknown to their coordinator. They are made by hand, by
//! writing into partitions that the coordinator was not told of.

use std::io::{Read, Write};
use std::net::TcpStream;

use busbar_connector::Written;
use busbar_event::{Class, Error};
use busbar_kafka::batch::{BatchStamp, BatchWriter, KafkaCodec, RecordParts};
use busbar_kafka::message::{
    AddOffsetsRequest, AddPartitionsRequest, EndRequest, InitProducerRequest, KeptOffset,
    ProduceBatch, ProduceRequest, ProducerIdentity, TxnCommitRequest, read_code,
    read_partition_codes, read_produced,
};
use busbar_kafka::{Api, KafkaCode, KafkaReader, KafkaWriter, response_body};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::kafka_server::{KafkaPeer, kafka};
use crate::sink_context;
use crate::sinks::delivery;
use crate::subjects::numbered;
use crate::world::{eventually, spec};

/// A producer without care.
struct RawProducer {
    socket: TcpStream,
    id: String,
    identity: ProducerIdentity,
}

impl RawProducer {
    fn new(id: String) -> RawProducer {
        let socket = TcpStream::connect(kafka().address()).expect("it listens");
        let identity = ProducerIdentity { id: -1, epoch: -1 };
        let mut producer = RawProducer {
            socket,
            id,
            identity,
        };
        let id = producer.id.clone();
        producer.identity = eventually("an identity", || {
            let request = InitProducerRequest {
                transactional_id: &id,
                timeout_millis: 60_000,
            };
            producer.ask(
                Api::InitProducerId,
                2,
                |w| request.write(w, 2),
                |r| {
                    let given = ProducerIdentity::read(r).expect("an answer");
                    given.map_err(|code| code.to_string())
                },
            )
        });
        producer
    }

    fn ask<T>(
        &mut self,
        api: Api,
        version: i16,
        write: impl FnOnce(&mut KafkaWriter<'_>),
        read: impl FnOnce(&mut KafkaReader<'_>) -> T,
    ) -> T {
        let mut out = Vec::new();
        api.request(version, 7, "test", &mut out, write);
        self.socket.write_all(&out).expect("sent");
        let mut length = [0; 4];
        self.socket.read_exact(&mut length).expect("answered");
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.socket.read_exact(&mut frame).expect("answered");
        let (_, mut body) = response_body(api, version, &frame).expect("a head");
        read(&mut body)
    }

    fn done(&mut self, what: &str, mut ask: impl FnMut(&mut RawProducer) -> KafkaCode) {
        eventually(what, || match ask(self) {
            KafkaCode::NONE => Ok(()),
            code => Err(code.to_string()),
        });
    }

    /// Writes records into partition 0 and returns the offset of the first one.
    fn produce(&mut self, topic: &str, values: &[String], sequence: i32) -> i64 {
        let mut writer = BatchWriter::default();
        for value in values {
            writer.push(&RecordParts {
                time: 1_700_000_000_000,
                key: None,
                value: Some(value.as_bytes()),
                headers: &[],
            });
        }
        let stamp = BatchStamp {
            producer_id: self.identity.id,
            producer_epoch: self.identity.epoch,
            base_sequence: sequence,
            transactional: true,
        };
        let mut records = Vec::new();
        writer.finish(stamp, KafkaCodec::None, &mut records);
        let batches = [ProduceBatch {
            topic: topic.into(),
            partition: 0,
            records,
        }];
        let id = self.id.clone();
        let request = ProduceRequest {
            transactional_id: Some(&id),
            wait_millis: 60_000,
            batches: &batches,
        };
        self.ask(
            Api::Produce,
            9,
            |w| request.write(w, 9),
            |r| {
                let produced = read_produced(r, 9).expect("an answer");
                assert_eq!(produced[0].code, KafkaCode::NONE);
                produced[0].offset
            },
        )
    }

    /// Keeps the position with the transaction.
    fn keep(&mut self, topic: &str, position: i64, note: &str) {
        let offsets = [KeptOffset {
            topic: topic.into(),
            partition: 0,
            offset: position,
            note: note.to_owned(),
        }];
        self.done("the position", |raw| {
            let id = raw.id.clone();
            let request = TxnCommitRequest {
                transactional_id: &id,
                group: &id,
                identity: raw.identity,
                offsets: &offsets,
            };
            raw.ask(
                Api::TxnOffsetCommit,
                3,
                |w| request.write(w, 3),
                |r| read_partition_codes(r).expect("an answer"),
            )
        });
    }

    /// Lets the coordinator end the transaction in the topic's partition, or in the group's, and in no other one.
    fn end(&mut self, topic: Option<&str>, commit: bool) {
        let id = self.id.clone();
        match topic {
            Some(topic) => self.done("a partition in the transaction", |raw| {
                let request = AddPartitionsRequest {
                    transactional_id: &id,
                    identity: raw.identity,
                    partitions: &[(topic.into(), 0)],
                };
                raw.ask(
                    Api::AddPartitionsToTxn,
                    3,
                    |w| request.write(w, 3),
                    |r| read_partition_codes(r).expect("an answer"),
                )
            }),
            None => self.done("a position in the transaction", |raw| {
                let request = AddOffsetsRequest {
                    transactional_id: &id,
                    identity: raw.identity,
                    group: &id,
                };
                raw.ask(
                    Api::AddOffsetsToTxn,
                    3,
                    |w| request.write(w, 3),
                    |r| read_code(r).expect("an answer"),
                )
            }),
        }
        self.done("the end", |raw| {
            let request = EndRequest {
                transactional_id: &id,
                identity: raw.identity,
                commit,
            };
            raw.ask(
                Api::EndTxn,
                3,
                |w| request.write(w, 3),
                |r| read_code(r).expect("an answer"),
            )
        });
    }
}

/// Delivers these rows by a sink of its own, as after a restart.
fn write(runtime: &Runtime, topic: &str, numbers: std::ops::Range<u64>) -> Result<Written, Error> {
    let text = format!(
        "kafka: {{ brokers: ['{}'], write: {{ topic: {topic}, producer: {topic} }} }}\n",
        kafka().address()
    );
    let registry = busbar_connect::registry();
    let connector = registry.get("kafka").expect("registered");
    let (spec, folder) = (spec(&text), std::path::Path::new("/"));
    let end = numbers.end;
    let rows = delivery("rows", &numbered(numbers), end);
    runtime.block_on(async {
        let mut sink = connector.sink(&spec, sink_context(folder)).await?;
        sink.write(&rows).await
    })
}

/// A sink that has written five rows, and a writer of the same name that has then lost the end of a transaction.
struct LostEnd {
    topic: String,
    peer: KafkaPeer,
    runtime: Runtime,
    raw: RawProducer,
}

impl LostEnd {
    fn new() -> LostEnd {
        let peer = kafka().peer();
        let topic = kafka().topic(&peer, 1, &json!({}));
        let runtime = Runtime::new().expect("a runtime");
        // The first transaction makes the topics that coordinators need.
        let written = write(&runtime, &topic, 0..5);
        written.expect("written");
        let raw = RawProducer::new(format!("busbar/{topic}/flow:f:in:0:0:to"));
        LostEnd {
            topic,
            peer,
            runtime,
            raw,
        }
    }

    fn write(&self, numbers: std::ops::Range<u64>) -> Result<Written, Error> {
        write(&self.runtime, &self.topic, numbers)
    }

    /// Writes the next five rows as a sink does, and returns the note that is kept with them.
    fn produce(&mut self) -> String {
        let topic = self.topic.clone();
        let offset = self.raw.produce(&topic, &numbered(5..10), 0);
        format!("rows=5 refused= in={topic}:0@{offset}")
    }

    fn keep(&mut self, note: &str) {
        let topic = self.topic.clone();
        self.raw.keep(&topic, 10, note);
    }

    fn end(&mut self, records: bool, commit: bool) {
        let topic = self.topic.clone();
        self.raw.end(records.then_some(&*topic), commit);
    }

    /// The rows are there once, whether the delivery comes again or the next one does.
    fn ends_well(&self, again: bool) {
        let next = if again { 5..10 } else { 10..15 };
        let all = next.end;
        self.write(next).expect("written");
        assert_eq!(self.peer.values(&self.topic), numbered(0..all));
        self.write(all..all + 5).expect("written");
        assert_eq!(self.peer.values(&self.topic), numbered(0..all + 5));
    }
}

/// The brokers may have answered that it counts: what comes next may be the delivery behind it.
#[test]
fn a_transaction_that_is_open_everywhere_counts() {
    for again in [true, false] {
        let mut lost = LostEnd::new();
        let note = lost.produce();
        lost.keep(&note);
        lost.ends_well(again);
    }
}

/// Its rows would count together with those of the next transaction.
#[test]
fn a_transaction_without_its_position_is_given_up() {
    let mut lost = LostEnd::new();
    lost.produce();
    lost.ends_well(true);
}

#[test]
fn what_was_ended_in_one_partition_is_ended_so_in_the_other() {
    for (records, commit) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut lost = LostEnd::new();
        let note = lost.produce();
        lost.keep(&note);
        lost.end(records, commit);
        lost.ends_well(!commit);
    }
}

#[test]
fn what_nobody_can_tell_is_said_with_the_way_out() {
    let mut lost = LostEnd::new();
    lost.produce();
    // Too many partitions, or the note of an older node.
    lost.keep("rows=5 refused=");
    let why = lost.write(5..10).expect_err("it cannot be told");
    let told = (why.class(), why.code());
    assert_eq!(told, (Class::Configuration, "kafka.half-ended"), "{why}");
    let way = "abort --topic __consumer_offsets --partition ";
    assert!(why.to_string().contains(way), "{why}");
}

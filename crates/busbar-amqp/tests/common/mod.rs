//! A node in memory: a log that commits and forgets its cache when it is told to, a store, a clock that stands
//! still, and a broker over them.

#![allow(dead_code)]

pub mod v1;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use busbar_amqp::AmqpLimits;
use busbar_amqp::codec::frame::PROTOCOL_HEADER;
use busbar_amqp::codec::method::id;
use busbar_amqp::codec::table::put_short;
use busbar_amqp::codec::{BasicProperties, Framed, TableWriter, encode, split};
use busbar_amqp::core::{Broker, BrokerRead};
use busbar_amqp::counters::AmqpCounters;
use busbar_bus::{Chunk, Event, Failure, Refused, Status};
use busbar_event::topic::Filter;
use busbar_event::{Batch, BatchBuilder, Flags, Micros, Row};
use busbar_gateway::event_log::{PartitionInfo, RetainedPage};
use busbar_gateway::{Admissions, ConnId, Effect, EventLog, Open};
use busbar_log::Change;
use bytes::Bytes;

#[derive(Default)]
pub struct MemoryLog {
    chunks: Vec<Chunk>,
    end: u64,
    /// Rows before this one were removed by retention.
    pub start: u64,
    /// Rows before this one are not in memory.
    pub cached_from: u64,
    store: BTreeMap<Bytes, Bytes>,
    waiting: Vec<(u64, Batch)>,
    settled: BTreeMap<u64, bool>,
    tickets: u64,
    /// Commits fail.
    pub broken: bool,
    /// Commits and journal batches wait.
    pub held: bool,
    /// So much waits for the disk that sockets are not read.
    pub full: bool,
    /// The users who wanted to log in: by password, and by certificate.
    pub logins: Vec<(Option<String>, Option<Arc<str>>)>,
    journal: Vec<(u64, Vec<Change>)>,
    pub reads: usize,
}

pub struct View(Rc<RefCell<MemoryLog>>);

impl EventLog for View {
    type Ticket = u64;

    fn publish(&mut self, event: &Event<'_>, _: Option<(&Arc<str>, u64)>) -> Result<u64, Refused> {
        busbar_event::topic::check(event.topic).map_err(|_| Refused::Topic)?;
        let mut log = self.0.borrow_mut();
        log.tickets += 1;
        let ticket = log.tickets;
        let batch = one(event.topic, event.flags, event.tags, event.payload, 0);
        log.waiting.push((ticket, batch));
        Ok(ticket)
    }

    fn flush(&mut self) {}

    fn status(&self, ticket: u64) -> Status {
        match self.0.borrow().settled.get(&ticket) {
            None => Status::Pending,
            Some(true) => Status::Committed,
            Some(false) => Status::Failed(Failure::DiskFull),
        }
    }

    fn writable(&mut self) -> bool {
        !self.0.borrow().full
    }

    fn topology(&self) -> u64 {
        1
    }

    fn partitions(&self) -> Vec<PartitionInfo> {
        vec![PartitionInfo {
            number: 0,
            name: "inbox/0".into(),
            stream: "inbox".into(),
            captures: Vec::new(),
        }]
    }

    fn start(&self, _: u32) -> u64 {
        self.0.borrow().start
    }

    fn end(&self, _: u32) -> u64 {
        self.0.borrow().end
    }

    fn read_cached(&self, _: u32, offset: u64, _: usize) -> Option<Vec<Chunk>> {
        let log = self.0.borrow();
        (offset >= log.cached_from && offset >= log.start).then(|| log.read(offset))
    }

    fn place(&self, _: &Event<'_>) -> Arc<str> {
        "inbox/0".into()
    }

    fn producer_position(&self, _: &str, _: &str) -> Option<u64> {
        None
    }

    fn stream_of(&self, _: &str) -> Arc<str> {
        "inbox".into()
    }

    fn retained_count(&self) -> usize {
        0
    }

    fn retained(&self, _: &Filter, _: Option<&str>, _: usize) -> RetainedPage {
        RetainedPage::default()
    }
}

fn one(topic: &str, flags: Flags, tags: &[(&str, &str)], payload: &[u8], time: Micros) -> Batch {
    let mut builder = BatchBuilder::new();
    let topic = builder.topic_id(topic);
    builder.push(Row {
        topic,
        key: None,
        time,
        client: None,
        flags,
        tags,
        payload,
    });
    builder.finish()
}

impl MemoryLog {
    fn read(&self, offset: u64) -> Vec<Chunk> {
        let all = self.chunks.iter().filter(|chunk| chunk.end() > offset);
        all.take(100).cloned().collect()
    }

    fn append(&mut self, batch: Batch) {
        let base = self.end;
        self.end = base + batch.rows() as u64;
        self.chunks.push(Chunk {
            base,
            batch,
            producers: Arc::new([]),
        });
    }
}

/// The node.
pub struct Node {
    pub now: Micros,
    pub log: Rc<RefCell<MemoryLog>>,
    pub broker: Broker<View>,
}

const START: Micros = 1_700_000_000_000_000;

impl Node {
    pub fn new() -> Node {
        Node::over(Rc::default(), START)
    }

    fn over(log: Rc<RefCell<MemoryLog>>, now: Micros) -> Node {
        let records: Vec<(Bytes, Bytes)> = log
            .borrow()
            .store
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let broker = Broker::new(
            View(Rc::clone(&log)),
            AmqpLimits::default(),
            Arc::new(Admissions::new(1000, 1000)),
            Arc::new(AmqpCounters::default()),
            records,
            now,
        );
        Node { now, log, broker }
    }

    /// As after `kill -9`: what is not on the disk is gone.
    pub fn crash(self) -> Node {
        let Node { now, log, .. } = self;
        {
            let mut log = log.borrow_mut();
            log.waiting.clear();
            log.journal.clear();
            log.settled.clear();
        }
        Node::over(log, now)
    }

    /// Another protocol stores an event.
    pub fn store(&mut self, topic: &str, payload: &str) {
        let batch = one(topic, Flags::default(), &[], payload.as_bytes(), self.now);
        self.log.borrow_mut().append(batch);
        self.run();
    }

    /// Turns the broker and carries out what it asks for until there is nothing more to do.
    pub fn run(&mut self) {
        for _ in 0..10_000 {
            let more = self.broker.turn(self.now);
            let did = self.carry_out();
            let committed = self.commit();
            if !(more || did || committed) {
                return;
            }
        }
        panic!("the broker never rests");
    }

    fn carry_out(&mut self) -> bool {
        let effects = self.broker.take_effects();
        let did = !effects.is_empty();
        for effect in effects {
            match effect {
                Effect::Authenticate(conn, credentials) => {
                    let by = (credentials.username, credentials.origin.user);
                    self.log.borrow_mut().logins.push(by);
                    let result = match credentials.password.as_deref() {
                        Some(b"wrong") => Err(busbar_gateway::Denied::BadCredentials),
                        _ => Ok(Arc::new(Open) as Arc<dyn busbar_gateway::Identity>),
                    };
                    self.broker.authenticated(conn, result, self.now);
                }
                Effect::Journal(seq, changes) => self.log.borrow_mut().journal.push((seq, changes)),
                Effect::ReadDisk(reader, partition, offset) => self.read(reader, partition, offset),
                Effect::Post(..) => unreachable!("there is one thread"),
            }
        }
        did
    }

    fn read(&mut self, reader: BrokerRead, partition: u32, offset: u64) {
        let result = {
            let mut log = self.log.borrow_mut();
            log.reads += 1;
            match offset < log.start {
                true => Err(log.start),
                false => Ok(log.read(offset)),
            }
        };
        self.broker.rows_read(reader, partition, offset, result);
    }

    /// Makes durable what waits, unless that is held back.
    fn commit(&mut self) -> bool {
        let (journal, any) = {
            let mut log = self.log.borrow_mut();
            if log.held {
                return false;
            }
            let broken = log.broken;
            let waiting = std::mem::take(&mut log.waiting);
            let any = !waiting.is_empty();
            for (ticket, batch) in waiting {
                log.settled.insert(ticket, !broken);
                if !broken {
                    log.append(batch);
                }
            }
            let journal = std::mem::take(&mut log.journal);
            for (_, changes) in &journal {
                for change in changes {
                    match change.clone() {
                        Change::Put(key, value) => drop(log.store.insert(key, value)),
                        Change::Delete(key) => drop(log.store.remove(&key)),
                    }
                }
            }
            (journal, any)
        };
        let did = any || !journal.is_empty();
        for (seq, _) in journal {
            self.broker.journalled(seq, true, self.now);
        }
        did
    }

    pub fn records(&self) -> usize {
        self.log.borrow().store.len()
    }

    pub fn open(&mut self) -> ConnId {
        self.broker
            .open(None.into(), true, self.now)
            .expect("a connection")
    }

    pub fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        self.broker.input(conn, bytes, self.now);
        self.run();
    }

    /// What the server wrote since the last time.
    pub fn output(&mut self, conn: ConnId) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let out = self.broker.output(conn).to_vec();
            if out.is_empty() {
                return all;
            }
            self.broker.wrote(conn, out.len());
            all.extend(out);
            self.run();
        }
    }

    /// A connection with channel 1 open.
    pub fn connect(&mut self) -> ConnId {
        let conn = self.open();
        self.send(conn, &hello());
        self.send(conn, &method(id::CHANNEL_OPEN, 1, |out| out.push(0)));
        self.output(conn);
        conn
    }

    /// The methods and contents that the server wrote, in words.
    pub fn said(&mut self, conn: ConnId) -> Vec<String> {
        said(&self.output(conn))
    }
}

pub fn method(id: (u16, u16), channel: u16, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode::method(id, channel, &mut out, write);
    out
}

pub fn table(write: impl FnOnce(&mut TableWriter<'_>)) -> Vec<u8> {
    let mut out = Vec::new();
    let mut table = TableWriter::begin(&mut out);
    write(&mut table);
    table.end();
    out
}

/// From the protocol header to `open`.
pub fn hello() -> Vec<u8> {
    let mut out = PROTOCOL_HEADER.to_vec();
    out.extend(start_ok(b"\0guest\0guest"));
    out.extend(tune_ok_and_open(131_072, "/"));
    out
}

pub fn start_ok(response: &[u8]) -> Vec<u8> {
    method(id::CONNECTION_START_OK, 0, |out| {
        out.extend(table(|t| {
            t.table("capabilities", |t| {
                t.flag("consumer_cancel_notify", true);
                t.flag("connection.blocked", true);
                t.flag("authentication_failure_close", true);
            });
        }));
        put_short(out, "PLAIN");
        out.extend_from_slice(&(response.len() as u32).to_be_bytes());
        out.extend_from_slice(response);
        put_short(out, "en_US");
    })
}

pub fn tune_ok_and_open(frame_max: u32, vhost: &str) -> Vec<u8> {
    let mut out = method(id::CONNECTION_TUNE_OK, 0, |out| {
        out.extend_from_slice(&0u16.to_be_bytes());
        out.extend_from_slice(&frame_max.to_be_bytes());
        out.extend_from_slice(&0u16.to_be_bytes());
    });
    out.extend(method(id::CONNECTION_OPEN, 0, |out| {
        put_short(out, vhost);
        out.extend_from_slice(&[0, 0]);
    }));
    out
}

pub fn declare(queue: &str, bits: u8, arguments: &[u8]) -> Vec<u8> {
    method(id::QUEUE_DECLARE, 1, |out| {
        out.extend_from_slice(&[0, 0]);
        put_short(out, queue);
        out.push(bits);
        match arguments.is_empty() {
            true => out.extend_from_slice(&[0; 4]),
            false => out.extend_from_slice(arguments),
        }
    })
}

pub fn bind(id: (u16, u16), queue: &str, exchange: &str, key: &str) -> Vec<u8> {
    method(id, 1, |out| {
        out.extend_from_slice(&[0, 0]);
        for text in [queue, exchange, key] {
            put_short(out, text);
        }
        if id != id::QUEUE_UNBIND {
            out.push(0);
        }
        out.extend_from_slice(&[0; 4]);
    })
}

use busbar_amqp::codec::method::id as ids;

pub fn publish(exchange: &str, key: &str, body: &str) -> Vec<u8> {
    let mut out = method(ids::BASIC_PUBLISH, 1, |out| {
        out.extend_from_slice(&[0, 0]);
        put_short(out, exchange);
        put_short(out, key);
        out.push(0);
    });
    let mut properties = Vec::new();
    BasicProperties {
        delivery_mode: Some(2),
        ..Default::default()
    }
    .write(&mut properties);
    encode::content(1, &properties, body.as_bytes(), 4096, &mut out);
    out
}

pub fn get(queue: &str, no_ack: bool) -> Vec<u8> {
    method(ids::BASIC_GET, 1, |out| {
        out.extend_from_slice(&[0, 0]);
        put_short(out, queue);
        out.push(u8::from(no_ack));
    })
}

pub fn consume(queue: &str, no_ack: bool) -> Vec<u8> {
    method(ids::BASIC_CONSUME, 1, |out| {
        out.extend_from_slice(&[0, 0]);
        put_short(out, queue);
        put_short(out, "c");
        out.push(u8::from(no_ack) << 1);
        out.extend_from_slice(&[0; 4]);
    })
}

pub fn ack(tag: u64, multiple: bool) -> Vec<u8> {
    method(ids::BASIC_ACK, 1, |out| {
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(u8::from(multiple));
    })
}

pub fn qos(count: u16) -> Vec<u8> {
    method(ids::BASIC_QOS, 1, |out| {
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&count.to_be_bytes());
        out.push(0);
    })
}

pub fn confirm() -> Vec<u8> {
    method(ids::CONFIRM_SELECT, 1, |out| out.push(0))
}

/// Frames in words: methods by their numbers, with what matters of them; bodies as text.
pub fn said(mut bytes: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    while let Ok(Framed::Whole(frame, len)) = split(bytes, 1 << 20) {
        bytes = &bytes[len..];
        match frame.kind {
            1 => {
                let p = frame.payload;
                let id = (
                    u16::from_be_bytes([p[0], p[1]]),
                    u16::from_be_bytes([p[2], p[3]]),
                );
                let rest = &p[4..];
                all.push(match id {
                    ids::CHANNEL_CLOSE | ids::CONNECTION_CLOSE => {
                        let code = u16::from_be_bytes([rest[0], rest[1]]);
                        let text = &rest[3..3 + usize::from(rest[2])];
                        format!("close {code} {}", String::from_utf8_lossy(text))
                    }
                    ids::BASIC_ACK => format!(
                        "ack {}{}",
                        u64::from_be_bytes(rest[..8].try_into().expect("8")),
                        if rest[8] == 1 { "*" } else { "" }
                    ),
                    ids::BASIC_NACK => {
                        format!(
                            "nack {}",
                            u64::from_be_bytes(rest[..8].try_into().expect("8"))
                        )
                    }
                    ids::BASIC_DELIVER => {
                        let at = 1 + usize::from(rest[0]);
                        let tag = u64::from_be_bytes(rest[at..at + 8].try_into().expect("8"));
                        format!(
                            "deliver {tag}{}",
                            if rest[at + 8] == 1 { " again" } else { "" }
                        )
                    }
                    ids::BASIC_GET_OK => {
                        let tag = u64::from_be_bytes(rest[..8].try_into().expect("8"));
                        format!("got {tag}{}", if rest[8] == 1 { " again" } else { "" })
                    }
                    ids::BASIC_GET_EMPTY => "empty".to_owned(),
                    ids::QUEUE_DECLARE_OK => {
                        let at = 1 + usize::from(rest[0]);
                        let count = u32::from_be_bytes(rest[at..at + 4].try_into().expect("4"));
                        format!("declared with {count}")
                    }
                    (class, method) => format!("{class}.{method}"),
                });
            }
            3 => all.push(String::from_utf8_lossy(frame.payload).into_owned()),
            _ => {}
        }
    }
    assert!(bytes.is_empty(), "half a frame was written");
    all
}

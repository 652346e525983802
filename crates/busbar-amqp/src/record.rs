//! What is kept of exchanges, bindings and queues: the records in the store, and their keys.
//!
//! | key | value |
//! | --- | --- |
//! | `x`, virtual host, NUL, name | kind, flags, arguments |
//! | `b`, virtual host, NUL, number | source, destination, key, arguments, positions |
//! | `q`, virtual host, NUL, name | flags, arguments, positions, counts, rows that are not done |
//!
//! Positions are named by partition, since numbers do not outlive the process.

use std::sync::Arc;

use bytes::Bytes;

use crate::codec::WireReader;
use crate::codec::table::put_short;
use crate::graph::{Binding, Destination, Exchange, ExchangeKind};
use crate::marks::Marks;
use crate::queue::{AmqpQueue, RowId};

/// Numbers and names of the partitions.
#[derive(Clone, Debug, Default)]
pub struct PartitionNames(Vec<(u32, Arc<str>)>);

impl PartitionNames {
    /// From numbers and names.
    pub fn new(names: Vec<(u32, Arc<str>)>) -> PartitionNames {
        PartitionNames(names)
    }

    /// All numbers.
    pub fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().map(|(number, _)| *number)
    }

    fn name(&self, number: u32) -> Option<&Arc<str>> {
        self.0
            .iter()
            .find(|(n, _)| *n == number)
            .map(|(_, name)| name)
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.0
            .iter()
            .find(|(_, n)| **n == *name)
            .map(|(number, _)| *number)
    }
}

/// What a record's key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordKey {
    /// An exchange of a virtual host.
    Exchange(String, String),
    /// A binding of a virtual host, by its number.
    Binding(String, u64),
    /// A queue of a virtual host.
    Queue(String, String),
}

impl RecordKey {
    /// As it is stored.
    pub fn to_bytes(&self) -> Bytes {
        let text = match self {
            RecordKey::Exchange(vhost, name) => format!("x{vhost}\0{name}"),
            RecordKey::Binding(vhost, number) => format!("b{vhost}\0{number:016x}"),
            RecordKey::Queue(vhost, name) => format!("q{vhost}\0{name}"),
        };
        text.into_bytes().into()
    }

    /// Reads a key; `None` when it is none of these.
    pub fn parse(key: &[u8]) -> Option<RecordKey> {
        let text = std::str::from_utf8(key).ok()?;
        let (kind, rest) = text.split_at_checked(1)?;
        let (vhost, name) = rest.split_once('\0')?;
        let (vhost, name) = (vhost.to_owned(), name.to_owned());
        Some(match kind {
            "x" => RecordKey::Exchange(vhost, name),
            "b" => RecordKey::Binding(vhost, u64::from_str_radix(&name, 16).ok()?),
            "q" => RecordKey::Queue(vhost, name),
            _ => return None,
        })
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn put_marks(out: &mut Vec<u8>, marks: &Marks, names: &PartitionNames) {
    let known: Vec<_> = marks
        .iter()
        .filter_map(|(p, at)| Some((names.name(p)?, at)))
        .collect();
    out.extend_from_slice(&(known.len() as u32).to_be_bytes());
    for (name, at) in known {
        put_bytes(out, name.as_bytes());
        out.extend_from_slice(&at.to_be_bytes());
    }
}

fn read_text<'a>(r: &mut WireReader<'a>) -> Option<&'a str> {
    std::str::from_utf8(r.long().ok()?).ok()
}

fn read_marks(r: &mut WireReader<'_>, names: &PartitionNames) -> Option<Marks> {
    let mut marks = Marks::default();
    for _ in 0..r.u32().ok()? {
        let (name, at) = (read_text(r)?, r.u64().ok()?);
        // A stream that is gone has no messages any more.
        if let Some(number) = names.number(name) {
            marks.set(number, at);
        }
    }
    Some(marks)
}

/// The record of an exchange.
pub fn encode_exchange(exchange: &Exchange) -> Bytes {
    let mut out = Vec::new();
    put_short(&mut out, exchange.kind.as_str());
    out.push(u8::from(exchange.auto_delete) | u8::from(exchange.internal) << 1);
    put_bytes(&mut out, &exchange.arguments);
    out.into()
}

/// Reads the record of an exchange.
pub fn decode_exchange(name: &str, record: &[u8]) -> Option<Exchange> {
    let mut r = WireReader::new(record);
    let kind = ExchangeKind::parse(r.short().ok()?)?;
    let flags = r.u8().ok()?;
    let arguments: Box<[u8]> = r.long().ok()?.into();
    let alternate = crate::codec::FieldTable::check(&arguments)
        .ok()?
        .get("alternate-exchange")
        .and_then(|v| v.as_text().map(Arc::from));
    Some(Exchange {
        name: name.into(),
        kind,
        durable: true,
        auto_delete: flags & 1 != 0,
        internal: flags & 2 != 0,
        arguments,
        alternate,
    })
}

/// The record of a binding; `queue` is the name of the queue it leads to, if it leads to one.
pub fn encode_binding(
    source: &str,
    queue: Option<&str>,
    binding: &Binding,
    names: &PartitionNames,
) -> Bytes {
    let mut out = Vec::new();
    put_short(&mut out, source);
    match (&binding.to, queue) {
        (Destination::Exchange(to), _) => {
            out.push(b'x');
            put_short(&mut out, to);
        }
        (Destination::Queue(_), name) => {
            out.push(b'q');
            put_short(&mut out, name.unwrap_or_default());
        }
    }
    put_short(&mut out, &binding.key);
    put_bytes(&mut out, &binding.arguments);
    put_marks(&mut out, &binding.from, names);
    out.push(u8::from(binding.until.is_some()));
    if let Some(until) = &binding.until {
        put_marks(&mut out, until, names);
    }
    out.into()
}

/// A binding as it was kept.
#[derive(Clone, Debug)]
pub struct BindingRecord {
    /// The exchange it comes from.
    pub source: Arc<str>,
    /// Whether it leads to a queue.
    pub to_queue: bool,
    /// Where it leads.
    pub to: String,
    /// Its key.
    pub key: String,
    /// Its arguments.
    pub arguments: Box<[u8]>,
    /// From where on it holds.
    pub from: Marks,
    /// Up to where.
    pub until: Option<Marks>,
}

/// Reads the record of a binding.
pub fn decode_binding(record: &[u8], names: &PartitionNames) -> Option<BindingRecord> {
    let mut r = WireReader::new(record);
    Some(BindingRecord {
        source: r.short().ok()?.into(),
        to_queue: r.u8().ok()? == b'q',
        to: r.short().ok()?.to_owned(),
        key: r.short().ok()?.to_owned(),
        arguments: r.long().ok()?.into(),
        from: read_marks(&mut r, names)?,
        until: match r.u8().ok()? {
            0 => None,
            _ => Some(read_marks(&mut r, names)?),
        },
    })
}

/// The record of a queue. `live` are the positions up to which its messages were counted.
pub fn encode_queue(
    queue: &AmqpQueue,
    born: &Marks,
    live: &Marks,
    names: &PartitionNames,
) -> Bytes {
    let mut out = Vec::with_capacity(128);
    out.push(u8::from(queue.auto_delete));
    put_bytes(&mut out, &queue.arguments);
    put_marks(&mut out, born, names);
    let (mut cursors, mut counted) = (Marks::default(), queue.counted.clone());
    counted.raise(live);
    for partition in names.numbers() {
        cursors.set(partition, queue.cursor(partition, counted.get(partition)));
    }
    put_marks(&mut out, &cursors, names);
    put_marks(&mut out, &counted, names);
    out.extend_from_slice(&queue.ready.to_be_bytes());
    out.extend_from_slice(&queue.ready_bytes.to_be_bytes());
    let rejected = queue.rejected.keys();
    put_rows(
        &mut out,
        queue.taken.keys().chain(&queue.requeued).chain(rejected),
        names,
    );
    out.into()
}

fn put_rows<'a>(out: &mut Vec<u8>, rows: impl Iterator<Item = &'a RowId>, names: &PartitionNames) {
    let mut rows: Vec<RowId> = rows.copied().collect();
    rows.sort_unstable();
    let mut at = 0;
    while let Some(&(partition, first)) = rows.get(at) {
        let len = rows[at..]
            .iter()
            .take_while(|(p, _)| *p == partition)
            .count();
        if let Some(name) = names.name(partition) {
            put_bytes(out, name.as_bytes());
            out.extend_from_slice(&(len as u32).to_be_bytes());
            let mut before = first;
            out.extend_from_slice(&first.to_be_bytes());
            for (_, offset) in &rows[at + 1..at + len] {
                // Neighbours differ by little.
                put_varint(out, offset - before);
                before = *offset;
            }
        }
        at += len;
    }
}

fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn read_varint(r: &mut WireReader<'_>) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = r.u8().ok()?;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

/// A queue as it was kept.
#[derive(Clone, Debug, Default)]
pub struct QueueRecord {
    /// Whether it goes with its last consumer.
    pub auto_delete: bool,
    /// Its arguments.
    pub arguments: Box<[u8]>,
    /// From where on the default exchange leads to it.
    pub born: Marks,
    /// Where it goes on in each partition.
    pub cursors: Marks,
    /// Up to where its messages were counted.
    pub counted: Marks,
    /// Messages counted.
    pub ready: u64,
    /// Their payload bytes.
    pub ready_bytes: u64,
    /// Rows that were taken out and are not done.
    pub open: Vec<RowId>,
}

/// Reads the record of a queue.
pub fn decode_queue(record: &[u8], names: &PartitionNames) -> Option<QueueRecord> {
    let mut r = WireReader::new(record);
    let mut queue = QueueRecord {
        auto_delete: r.u8().ok()? & 1 != 0,
        arguments: r.long().ok()?.into(),
        born: read_marks(&mut r, names)?,
        cursors: read_marks(&mut r, names)?,
        counted: read_marks(&mut r, names)?,
        ready: r.u64().ok()?,
        ready_bytes: r.u64().ok()?,
        open: Vec::new(),
    };
    while !r.is_empty() {
        let number = names.number(read_text(&mut r)?);
        let len = r.u32().ok()?;
        let mut offset = r.u64().ok()?;
        for n in 0..len {
            if n > 0 {
                offset = offset.checked_add(read_varint(&mut r)?)?;
            }
            queue.open.extend(number.map(|number| (number, offset)));
        }
    }
    Some(queue)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::QueueRules;

    #[test]
    fn a_queue_comes_back_by_the_names_of_partitions() {
        let names = PartitionNames::new(vec![(0, "inbox/0".into()), (3, "rain/1".into())]);
        let mut queue = AmqpQueue::new(1, 0, "q".into(), QueueRules::default(), 0);
        queue.auto_delete = true;
        queue.lag = vec![(3, 70)];
        (queue.ready, queue.ready_bytes) = (30, 600);
        queue.taken.extend([((0, 5), ()), ((0, 900), ())]);
        queue.requeued.insert((3, 12));
        let (mut born, mut live) = (Marks::default(), Marks::default());
        born.set(0, 4);
        live.set(0, 1000);
        live.set(3, 100);
        let record = encode_queue(&queue, &born, &live, &names);
        let other = PartitionNames::new(vec![(7, "rain/1".into()), (1, "inbox/0".into())]);
        let back = decode_queue(&record, &other).expect("a record");
        assert!(back.auto_delete);
        assert_eq!((back.ready, back.ready_bytes), (30, 600));
        assert_eq!((back.cursors.get(1), back.cursors.get(7)), (1000, 70));
        assert_eq!((back.counted.get(1), back.counted.get(7)), (1000, 100));
        assert_eq!(back.born.get(1), 4);
        assert_eq!(back.open, [(1, 5), (1, 900), (7, 12)]);
        for len in 0..record.len() {
            let _ = decode_queue(&record[..len], &other);
        }
        // Rows behind the last offset that there can be.
        let at = record.len() - (4 + "rain/1".len() + 4 + 8) - 2 - 8;
        assert_eq!(record[at..at + 8], 5_u64.to_be_bytes());
        let mut beyond = record.to_vec();
        beyond[at..at + 8].copy_from_slice(&u64::MAX.to_be_bytes());
        assert!(decode_queue(&beyond, &other).is_none());
    }

    #[test]
    fn keys_say_what_they_are_of() {
        for key in [
            RecordKey::Exchange("/".into(), "logs".into()),
            RecordKey::Binding("plant".into(), 17),
            RecordKey::Queue("/".into(), "a\nb".into()),
        ] {
            assert_eq!(RecordKey::parse(&key.to_bytes()), Some(key));
        }
        assert_eq!(RecordKey::parse(b"z/\0a"), None);
    }
}

//! Fills streams: publishes with QoS 1 and returns once all events are acknowledged. What is measured comes afterwards.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use busbar_log::{Clock as _, SystemClock};

use super::load::{self, Acks};
use super::nexmark::{self, Kind, Nexmark};
use super::percentiles::Latencies;

/// Publishes in flight.
const WINDOW: u64 = 4_000;
/// Publishes in one write.
const WRITE: u64 = 500;

/// Publishes so many events; `next` writes the payload of the event of a number and answers its topic.
///
/// # Errors
/// When the node cannot be reached or stays silent.
pub fn fill(
    address: SocketAddr,
    events: u64,
    next: &mut dyn FnMut(u64, &mut String) -> String,
) -> io::Result<()> {
    let mut socket = load::connect(address, "bench-fill")?;
    let mut acks = Acks::of(load::PUBACK_BYTES);
    let (mut writes, mut latencies) = (VecDeque::new(), Latencies::default());
    let (mut packets, mut payload) = (Vec::new(), String::new());
    let mut sent = 0;
    while acks.count < events {
        let count = WRITE.min(events - sent);
        if count == 0 || sent + count - acks.count > WINDOW {
            acks.read(&mut socket, &mut writes, &mut latencies, false)?;
            continue;
        }
        packets.clear();
        for number in sent..sent + count {
            payload.clear();
            let topic = next(number, &mut payload);
            let id = (number % u64::from(u16::MAX)) as u16 + 1;
            load::publish_packet(&mut packets, &topic, id, payload.as_bytes());
        }
        socket.write_all(&packets)?;
        sent += count;
    }
    Ok(())
}

/// Readings of seven fields, about 200 bytes each.
pub fn readings(address: SocketAddr, events: u64) -> io::Result<()> {
    fill(address, events, &mut reading)
}

/// The same, so many a second.
pub fn paced_readings(address: SocketAddr, events: u64, each_second: u64) -> io::Result<()> {
    let begun = Instant::now();
    fill(address, events, &mut |number, payload| {
        if number.is_multiple_of(WRITE) {
            let due = Duration::from_secs_f64(number as f64 / each_second as f64);
            std::thread::park_timeout(due.saturating_sub(begun.elapsed()));
        }
        reading(number, payload)
    })
}

fn reading(number: u64, payload: &mut String) -> String {
    use std::fmt::Write as _;
    let id = number % WINDOW + 1;
    let _ = write!(
        payload,
        r#"{{"site":"s{:02}","kw":{:.2},"volt":{:.1},"phase":{},"status":"{}","serial":"SN-{:08}-{:08}","note":"regular reading of the feeder at the substation, nothing to report {:04}"}}"#,
        id % 40,
        (id % 100) as f64 / 10.0,
        230.0 + (id % 7) as f64 / 10.0,
        id % 3 + 1,
        if id.is_multiple_of(20) { "test" } else { "ok" },
        id,
        id * 7919 % 99_999_999,
        id,
    );
    format!("meter/m{}/reading", id % 50)
}

/// Documents in XML, see [`summary`].
pub fn summaries(address: SocketAddr, events: u64) -> io::Result<()> {
    fill(address, events, &mut |number, payload| {
        summary(number, payload);
        "his/summary".to_owned()
    })
}

/// The summary of a patient with fourteen orders, about 2,000 bytes.
pub fn summary(number: u64, document: &mut String) {
    use std::fmt::Write as _;
    const ITEMS: [&str; 7] = [
        "阿莫西林胶囊",
        "0.9% 氯化钠注射液",
        "阿司匹林肠溶片",
        "Insulin glargine 100 IU/ml",
        "Metoprolol 47.5 mg",
        "二甲双胍",
        "Heparin 5000 IU",
    ];
    let _ = write!(
        document,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<summary pid=\"{number}\">\n  <name>王小明</name>\n  <sex>{}</sex>\n  <place><ward>内科三病区</ward><bed>{}</bed></place>\n",
        if number.is_multiple_of(2) { "M" } else { "F" },
        number % 60,
    );
    for order in 0..14 {
        let item = ITEMS[(number + order) as usize % ITEMS.len()];
        let _ = writeln!(
            document,
            "  <order id=\"o{order}\"><item>{item}</item><dose>{} mg</dose><often>{}</often><placed>2026-11-29T08:{order:02}:00</placed></order>",
            (number + order) % 500,
            if order % 2 == 0 { "bid" } else { "qd" },
        );
    }
    let _ = write!(document, "  <charged>{number}.50</charged>\n</summary>\n");
}

/// Readings with these numbers, of so many keys, one of ten of which repeats one before; 100,000 to a second of their own
/// time. As many readings as there are keys are of as many keys, if 7,919 does not divide them.
pub fn keyed(address: SocketAddr, numbers: Range<u64>, keys: u64) -> io::Result<()> {
    use std::fmt::Write as _;
    let clock = Nexmark {
        events_per_second: 100_000,
        ..Nexmark::default()
    };
    let count = numbers.end.saturating_sub(numbers.start);
    fill(address, count, &mut |sent, payload| {
        let number = numbers.start + sent;
        let id = if number.is_multiple_of(10) {
            number.saturating_sub(5)
        } else {
            number
        };
        let _ = write!(
            payload,
            r#"{{"site":"k{:07}","v":{},"id":{id},"at":"{}"}}"#,
            // Neighbours have keys that are far from each other.
            number.wrapping_mul(7_919) % keys,
            number % 1000,
            nexmark::Time(clock.time_micros(number)),
        );
        "keyed/reading".to_owned()
    })
}

/// The events of NEXMark.
pub fn nexmark(address: SocketAddr, events: u64) -> io::Result<()> {
    let nexmark = Nexmark::default();
    fill(address, events, &mut |number, payload| {
        nexmark.payload(number, payload);
        nexmark::kind(number).topic().to_owned()
    })
}

/// The events of NEXMark from now on, for a node that runs `examples/nexmark`. Bids also arrive where q12 reads them.
pub fn nexmark_from_now(address: SocketAddr, events: u64) -> io::Result<()> {
    let now = SystemClock.now_micros();
    let length = i64::try_from(events / Nexmark::default().events_per_second).unwrap_or(i64::MAX);
    let nexmark = Nexmark {
        // The last event is as old as the moment.
        begin_micros: now.saturating_sub(length.saturating_mul(1_000_000)),
        ..Nexmark::default()
    };
    let bids = (0..events)
        .filter(|number| nexmark::kind(*number) == Kind::Bid)
        .count() as u64;
    let (mut at, mut again) = (0, false);
    fill(address, events + bids, &mut |_, payload| {
        nexmark.payload(at, payload);
        let kind = nexmark::kind(at);
        if kind == Kind::Bid && !again {
            again = true;
            return "nexmark/arrival/bid".to_owned();
        }
        (at, again) = (at + 1, false);
        kind.topic().to_owned()
    })
}

#![no_main]
//! What servers of MySQL and PostgreSQL send: packets, events of a binary log with the rows in them, messages of logical
//! replication. The first byte says which. Events are behind their lengths, of 2 bytes, so that rows follow the description of
//! their table. Whatever a log has, the events of rows are JSON.
#![allow(missing_docs)]

use busbar_change::mysql::binlog::{self, LogEvent, TableMap};
use busbar_change::mysql::{DescribedColumn, ZeroDates, row, wire as packets};
use busbar_change::postgres::pgoutput::{self, FollowEvent, Frame, Relation};
use busbar_change::postgres::{row as tuples, wire as messages};
use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [which, rest @ ..] = bytes else {
        return;
    };
    match which % 4 {
        0 => binary_log(rest),
        1 => replication(rest),
        2 => {
            let mut buffer = BytesMut::from(rest);
            while let Ok(Some((_, body))) = packets::next(&mut buffer) {
                packets::greeting(&body);
                packets::server_error(&body);
                packets::text_row(&body, 3);
            }
        }
        _ => {
            let mut buffer = BytesMut::from(rest);
            while let Ok(Some(message)) = messages::next(&mut buffer) {
                messages::columns(&message.body);
                messages::values(&message.body);
                messages::server_error(&message.body);
            }
        }
    }
});

/// Each event, without its length before it.
fn events(mut bytes: &[u8]) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let event = Bytes::copy_from_slice(&rest[..length]);
        bytes = &rest[length..];
        Some(event)
    })
}

fn binary_log(bytes: &[u8]) {
    let mut known: Option<(TableMap, Vec<DescribedColumn>)> = None;
    for event in events(bytes) {
        let Some(entry) = binlog::entry(&event, false) else {
            continue;
        };
        match entry.event {
            LogEvent::Table(raw) => {
                known = binlog::table(&raw).map(|map| {
                    let columns = map.columns.iter().map(|column| column.described());
                    let columns = columns.collect();
                    (map, columns)
                });
            }
            LogEvent::Rows(rows) => {
                let Some((map, columns)) = &known else {
                    continue;
                };
                for (first, second) in rows.images(&map.columns).unwrap_or_default() {
                    let (image, before) = match &second {
                        Some(second) => (second, Some(&*first)),
                        None => (&first, None),
                    };
                    row::key_text(&row::key(&map.key, image));
                    let mut out = Vec::new();
                    row::write_change("update", columns, image, before, ZeroDates::Null, &mut out);
                    is_json(&out);
                }
            }
            _ => {}
        }
    }
}

fn replication(bytes: &[u8]) {
    let mut known: Option<Relation> = None;
    for event in events(bytes) {
        let Some(Frame::Data(data)) = pgoutput::frame(&event) else {
            continue;
        };
        match pgoutput::event(&data) {
            Some(FollowEvent::Relation(relation)) => {
                let mut out = Vec::new();
                tuples::write_schema(&relation, &mut out);
                is_json(&out);
                known = Some(relation);
            }
            Some(FollowEvent::Update { before, after, .. }) => {
                if let Some(relation) = &known {
                    let (mut key, mut out) = (String::new(), Vec::new());
                    let before = before.as_ref();
                    tuples::write_change("update", relation, &after, before, &mut key, &mut out);
                }
            }
            _ => {}
        }
    }
}

fn is_json(event: &[u8]) {
    let read = serde_json::from_slice::<serde::de::IgnoredAny>(event);
    assert!(read.is_ok(), "{}", String::from_utf8_lossy(event));
}

//! What `cassandra` does beside what all sinks and sources do, with the stand-in.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Float64Array, Int64Array, TimestampMicrosecondArray,
};
use busbar_connector::{Delivery, Resume, Sink};
use busbar_event::Class;
use tokio::runtime::Runtime;

use crate::cassandra_peer::CassandraPeer;
use crate::postgres_sink::{ints, open, rows, texts, write};
use crate::sinks::by;
use crate::world::{next_batch, source_of};

const PRODUCER: &str = "flow:f:in:0:0:to";
const WRITE: &str = "write: { table: t }";

async fn sink(text: &str, like: &Delivery) -> Box<dyn Sink> {
    open(text, like).await.expect("it opens")
}

/// Rows of keys `k0`, `k1`, … with one number.
fn numbers(keys: usize, number: i64, position: u64) -> Delivery {
    let notes: Vec<_> = (0..keys).map(|key| format!("k{key}")).collect();
    let notes: Vec<&str> = notes.iter().map(String::as_str).collect();
    let columns = vec![("n", ints(&vec![number; keys])), ("note", texts(&notes))];
    by(rows(position, columns), PRODUCER)
}

fn changes(all: &[(&str, &str, i64)], position: u64) -> Delivery {
    let words: Vec<_> = all.iter().map(|row| row.0).collect();
    let notes: Vec<_> = all.iter().map(|row| row.1).collect();
    let numbers: Vec<_> = all.iter().map(|row| row.2).collect();
    let columns = vec![
        ("change", texts(&words)),
        ("note", texts(&notes)),
        ("n", ints(&numbers)),
    ];
    by(rows(position, columns), PRODUCER)
}

/// Key, time and number of each row.
fn there(peer: &CassandraPeer) -> Vec<(String, i64, i64)> {
    let store = peer.store.lock();
    let rows = store.rows.iter().filter_map(|(note, (time, row))| {
        let number: [u8; 8] = row.as_ref()?[..].try_into().expect("a number");
        let note = String::from_utf8_lossy(note).into_owned();
        Some((note, *time, i64::from_be_bytes(number)))
    });
    rows.collect()
}

/// The process was killed when its last request was on its way, and the request is carried out late. The next process cuts its
/// input where that one did, and writes the same rows at the same times.
#[test]
fn a_request_that_is_carried_out_late_changes_nothing() {
    for arrives in 0..3 {
        let peer = CassandraPeer::new();
        let text = peer.connection(WRITE);
        Runtime::new().expect("a runtime").block_on(async {
            let mut first = sink(&text, &numbers(3, 1, 10)).await;
            first.write(&numbers(3, 1, 10)).await.expect("written");
            peer.store.lock().slow = true;
            let failed = first
                .write(&numbers(3, 2, 20))
                .await
                .expect_err("no answer");
            assert_eq!(failed.class(), Class::Transient);
            assert!(peer.held() > 0);
            drop(first);
            peer.store.lock().slow = false;
            let mut second = sink(&text, &numbers(3, 1, 10)).await;
            assert_eq!(second.cuts(PRODUCER).await.expect("it answers"), [10, 20]);
            if arrives == 0 {
                peer.let_through();
            }
            let before = there(&peer);
            // Known, although the flow had not noted it.
            second.write(&numbers(3, 1, 10)).await.expect("known");
            assert_eq!(there(&peer), before);
            second.write(&numbers(3, 2, 20)).await.expect("written");
            let once = there(&peer);
            if arrives == 0 {
                let arrived: Vec<_> = before
                    .iter()
                    .filter(|(_, _, number)| *number == 2)
                    .collect();
                assert!(!arrived.is_empty());
                // The same rows at the same times.
                assert!(
                    arrived.iter().all(|row| once.contains(row)),
                    "{before:?} {once:?}"
                );
            }
            if arrives == 1 {
                peer.let_through();
                assert_eq!(there(&peer), once);
            }
            second.write(&numbers(3, 3, 30)).await.expect("written");
            let last = there(&peer);
            peer.let_through();
            assert_eq!(there(&peer), last);
            assert_eq!(second.position(PRODUCER).await.unwrap(), Some(30));
        });
        let found = there(&peer).into_iter().map(|(_, _, number)| number);
        assert_eq!(found.collect::<Vec<_>>(), [3, 3, 3], "{arrives}");
    }
}

/// Another output did not take the batch, or the flow was changed: it comes again in parts, or with other rows.
#[test]
fn a_delivery_that_comes_again_in_another_way_counts_as_it_comes_last() {
    let peer = CassandraPeer::new();
    let text = peer.connection("write: { table: t, change: change }");
    let whole = [("insert", "a", 1), ("update", "a", 2), ("insert", "b", 3)];
    Runtime::new().expect("a runtime").block_on(async {
        let mut first = sink(&text, &changes(&whole, 30)).await;
        first.write(&changes(&whole, 30)).await.expect("written");
        drop(first);
        let mut second = sink(&text, &changes(&whole, 30)).await;
        for (at, part) in whole.chunks(1).enumerate() {
            let position = 10 * (at as u64 + 1);
            second
                .write(&changes(part, position))
                .await
                .expect("written");
        }
        second
            .write(&changes(&[("delete", "b", 0)], 40))
            .await
            .expect("written");
    });
    let found: Vec<_> = there(&peer)
        .into_iter()
        .map(|(note, _, n)| (note, n))
        .collect();
    assert_eq!(found, [("a".to_owned(), 2)]);
}

#[test]
fn changes_count_in_their_order() {
    let peer = CassandraPeer::new();
    let text = peer.connection("write: { table: t, change: change }");
    let all = [
        ("insert", "gone", 1),
        ("insert", "a", 1),
        ("truncate", "", 0),
        ("schema", "", 0),
        ("insert", "a", 2),
        ("update", "b", 3),
        ("delete", "a", 0),
        ("insert", "a", 4),
        ("mend", "c", 5),
        ("delete", "b", 0),
    ];
    assert_eq!(
        write(&text, &changes(&[("insert", "old", 9)], 10)).unwrap(),
        [0; 0]
    );
    assert_eq!(write(&text, &changes(&all, 20)).unwrap(), [8]);
    let found: Vec<_> = there(&peer)
        .into_iter()
        .map(|(note, _, n)| (note, n))
        .collect();
    assert_eq!(found, [("a".to_owned(), 4)]);
}

/// Rounded, they would be other values, and the server would not say so.
#[test]
fn values_that_a_column_does_not_keep_are_dead_letters() {
    let peer = CassandraPeer::new();
    let text = peer.connection(WRITE);
    let int = |values: &[Option<i64>]| Arc::new(Int64Array::from(values.to_vec())) as ArrayRef;
    let time =
        |values: &[i64]| Arc::new(TimestampMicrosecondArray::from(values.to_vec())) as ArrayRef;
    for (at, (kind, column, rejected)) in [
        ("tinyint", int(&[Some(-128), None, Some(128)]), vec![2]),
        ("int", int(&[Some(1 << 31), Some(-(1 << 31))]), vec![0]),
        (
            "double",
            int(&[Some(1 << 53), Some((1 << 53) + 1)]),
            vec![1],
        ),
        ("timestamp", time(&[1_000, 1_001]), vec![1]),
        (
            "uuid",
            texts(&["61f0c404-5cb3-11e7-907b-a6006ad3dba0", "no"]),
            vec![1],
        ),
        ("ascii", texts(&["a", "ü"]), vec![1]),
        ("date", Arc::new(Date32Array::from(vec![0, -1])), vec![]),
        ("date", texts(&["2024-02-30", "2024-02-29"]), vec![0]),
    ]
    .into_iter()
    .enumerate()
    {
        peer.store.lock().columns[0] = ("n", kind, "regular");
        let notes: Vec<_> = (0..column.len()).map(|row| row.to_string()).collect();
        let notes: Vec<_> = notes.iter().map(String::as_str).collect();
        let all = rows(1, vec![("n", column), ("note", texts(&notes))]);
        let all = by(all, &format!("p{at}"));
        assert_eq!(write(&text, &all).unwrap(), rejected, "{kind}");
    }
    // A row without its key, and one whose key is too long.
    peer.store.lock().columns[0] = ("n", "bigint", "regular");
    let long = "x".repeat(70_000);
    let keys: ArrayRef = Arc::new(arrow::array::StringArray::from(vec![
        Some("a"),
        None,
        Some(&long),
    ]));
    let all = by(
        rows(1, vec![("n", ints(&[1, 2, 3])), ("note", keys)]),
        "keys",
    );
    assert_eq!(write(&text, &all).unwrap(), [1, 2]);
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let peer = CassandraPeer::new();
    let text = peer.connection(WRITE);
    let refused = |text: &str, columns: Vec<(&str, ArrayRef)>| {
        let refused = write(text, &rows(1, columns)).expect_err("it does not fit");
        assert_eq!(refused.class(), Class::Configuration);
        refused.code()
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("bigint", Arc::new(Float64Array::from(vec![1.5]))),
        ("float", Arc::new(Float64Array::from(vec![1.5]))),
        ("boolean", ints(&[1])),
        ("int", Arc::new(BooleanArray::from(vec![true]))),
        ("timestamp", texts(&["2026-01-01T00:00:00Z"])),
        ("counter", ints(&[1])),
        ("list<int>", ints(&[1])),
        ("blob", texts(&["a"])),
    ];
    for (kind, column) in columns {
        peer.store.lock().columns[0] = ("n", kind, "regular");
        let code = refused(&text, vec![("n", column), ("note", texts(&["a"]))]);
        assert_eq!(code, "cassandra.type", "{kind}");
    }
    peer.store.lock().columns[0] = ("n", "bigint", "regular");
    let note = || ("note", texts(&["a"]));
    assert_eq!(refused(&text, vec![("n", ints(&[1]))]), "cassandra.no-key");
    assert_eq!(
        refused(&text, vec![("m", ints(&[1])), note()]),
        "cassandra.no-column"
    );
    let other = peer.connection("write: { table: u }");
    assert_eq!(refused(&other, vec![note()]), "cassandra.no-table");
    let other = text.replace("password: secret", "password: guess");
    assert_eq!(refused(&other, vec![note()]), "cassandra.credentials");
    let other = text.replace("keyspace: k", "keyspace: kk");
    assert_eq!(refused(&other, vec![note()]), "cassandra.no-keyspace");
    assert!(there(&peer).is_empty());
}

/// Each loses the session and nothing else: the next one is a new one.
#[test]
fn answers_that_cannot_be_read_lose_no_rows() {
    let peer = CassandraPeer::new();
    let text = peer.connection(WRITE);
    let frame = |version: u8, number: u16, kind: u8, length: u32, body: &[u8]| {
        let head = [
            &[version, 0][..],
            &number.to_be_bytes(),
            &[kind],
            &length.to_be_bytes(),
        ];
        [&head.concat()[..], body].concat()
    };
    let many = [2_i32, 0, i32::MAX].map(i32::to_be_bytes).concat();
    for (says, class, code) in [
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            Class::Transient,
            "cassandra.strange",
        ),
        (
            frame(0x85, 0, 8, 4, &[0, 0, 0, 1]),
            Class::Transient,
            "cassandra.strange",
        ),
        (
            frame(0x84, 999, 8, 4, &[0, 0, 0, 1]),
            Class::Transient,
            "cassandra.strange",
        ),
        (
            frame(0x84, 0, 0x55, 0, b""),
            Class::Transient,
            "cassandra.strange",
        ),
        (
            frame(0x84, 0, 8, many.len() as u32, &many),
            Class::Transient,
            "cassandra.strange",
        ),
        (
            frame(0x84, 0, 8, 4, &[0, 0, 0, 9]),
            Class::Transient,
            "cassandra.strange",
        ),
        (
            frame(0x84, 0, 8, u32::MAX, b""),
            Class::Configuration,
            "cassandra.too-large",
        ),
        (Vec::new(), Class::Transient, "cassandra.silent"),
    ] {
        // Somebody who says nothing is not waited for long.
        let text = match says.is_empty() {
            true => text.replace("timeout: 20s", "timeout: 100ms"),
            false => text.clone(),
        };
        peer.store.lock().says = Some(says);
        let failed = write(&text, &numbers(2, 7, 10)).expect_err("it cannot be read");
        assert_eq!((failed.class(), failed.code()), (class, code), "{failed:?}");
    }
    peer.store.lock().says = None;
    assert_eq!(write(&text, &numbers(2, 7, 10)).unwrap(), [0; 0]);
    assert_eq!(there(&peer).len(), 2);
}

/// The same page would be asked for again and again.
#[test]
fn a_page_that_goes_on_where_it_began_is_refused() {
    let peer = CassandraPeer::new();
    peer.store.lock().numbers.extend(0..9);
    peer.store.lock().stuck = true;
    let query = "query: { statement: 'select n from t where n > :position', position: n, start: '-1', rows: 3 }";
    Runtime::new().expect("a runtime").block_on(async {
        let mut source = source_of(&peer.connection(query), Resume::default()).await;
        let first = next_batch(source.as_mut()).await.unwrap();
        assert_eq!(first.expect("a batch").batch.rows(), 3);
        let refused = next_batch(source.as_mut()).await.expect_err("stuck");
        assert_eq!(
            (refused.class(), refused.code()),
            (Class::Transient, "cassandra.strange")
        );
        let message = refused.message(busbar_event::Language::En);
        assert!(message.contains("goes on where it began"), "{message}");
    });
}

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::ipc::reader::StreamReader;
use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::*;
use crate::testing::{Owned, batch, events, owned, typed};
use crate::{Batch, Body};

fn columns(batch: &Batch) -> RecordBatch {
    match batch.body() {
        Body::Columns(columns) => RecordBatch::from(columns.clone()),
        Body::Payload(_) => panic!("not typed"),
    }
}

/// Reads everything of a batch, as whoever received it would.
fn walk(batch: &Batch) -> usize {
    let mut sum = batch.bytes() + batch.record().num_columns();
    for row in 0..batch.rows() {
        let tags: usize = batch
            .tags(row)
            .map(|(name, value)| name.len() + value.len())
            .sum();
        sum += tags + batch.topic(row).len() + batch.key(row).map_or(0, str::len);
        sum += batch.client(row).map_or(0, str::len);
        if let Body::Payload(payload) = batch.body() {
            sum += payload.value(row).len();
        }
    }
    sum + batch
        .record()
        .columns()
        .iter()
        .map(|column| column.to_data().len())
        .sum::<usize>()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_written_is_read(events in events(40)) {
        let read = decode(encode(&batch(&events))).unwrap();
        prop_assert_eq!(owned(&read), events);
    }

    #[test]
    fn slices_and_choices_are_written_alone(
        events in events(40),
        cut in any::<(prop::sample::Index, prop::sample::Index)>(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let whole = batch(&events);
        let (a, b) = (cut.0.index(events.len() + 1), cut.1.index(events.len() + 1));
        let (from, to) = (a.min(b), a.max(b));
        let read = decode(encode(&whole.slice(from, to - from))).unwrap();
        prop_assert_eq!(owned(&read), &events[from..to]);

        let whole = typed(&events);
        let read = decode(encode(&whole.slice(from, to - from))).unwrap();
        prop_assert_eq!(columns(&read), columns(&whole).slice(from, to - from));

        if !events.is_empty() {
            let rows: Vec<u32> = picks.iter().map(|pick| pick.index(events.len()) as u32).collect();
            let read = decode(encode(&batch(&events).take(&UInt32Array::from(rows.clone())))).unwrap();
            let expected: Vec<Owned> = rows.iter().map(|row| events[*row as usize].clone()).collect();
            prop_assert_eq!(owned(&read), expected);
        }
    }

    #[test]
    fn typed_columns_come_back(events in events(40)) {
        let written = typed(&events);
        let read = decode(encode(&written)).unwrap();
        prop_assert_eq!(columns(&read), columns(&written));
        prop_assert_eq!(read.times(), written.times());
        prop_assert_eq!(walk(&read), walk(&written));
    }

    #[test]
    fn an_unaligned_body_reads_the_same(events in events(20), shift in 0usize..17) {
        let body = encode(&typed(&events));
        let mut shifted = vec![0; shift];
        shifted.extend_from_slice(&body);
        let read = decode(Bytes::from(shifted).slice(shift..)).unwrap();
        prop_assert_eq!(columns(&read), columns(&typed(&events)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn a_damaged_body_is_refused_or_read_but_never_crashes(
        events in events(6),
        with_columns in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let body = encode(&if with_columns { typed(&events) } else { batch(&events) });
        let mut bytes = body.to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(read) = decode(bytes.into()) {
            walk(&read);
        }
    }

    #[test]
    fn bytes_of_any_sort_are_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..300), head in any::<bool>()) {
        if head && bytes.len() > 8 {
            let header = [VERSION, bytes[1] & 1, bytes[2] & 7, 0, 0, 0, 0, 0];
            bytes[..8].copy_from_slice(&header);
        }
        prop_assert!(decode(bytes.into()).is_err());
    }
}

#[test]
fn every_truncation_is_refused() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let events = events(8).new_tree(&mut runner).unwrap().current();
    for body in [encode(&batch(&events)), encode(&typed(&events))] {
        for length in 0..body.len() {
            assert!(decode(body.slice(..length)).is_err(), "cut at {length}");
        }
    }
}

#[test]
fn reading_shares_the_memory_of_an_aligned_body() {
    let events: Vec<Owned> = (0..600)
        .map(|row| Owned {
            topic: format!("a/{}", row % 3),
            key: None,
            time: row,
            client: None,
            flags: 0,
            tags: vec![],
            payload: vec![7; 50],
        })
        .collect();
    let body = encode(&batch(&events));
    assert_eq!(body.as_ptr().align_offset(64), 0);
    let range = body.as_ptr_range();
    let read = decode(body.clone()).unwrap();
    let Body::Payload(payload) = read.body() else {
        panic!("not payloads")
    };
    for pointer in [
        payload.value_data().as_ptr(),
        read.flags().as_ptr(),
        read.times().as_ptr().cast(),
    ] {
        assert!(range.contains(&pointer));
        assert_eq!(pointer.align_offset(64), 0);
    }
    // What the layout costs beside payloads: topic key, time, flags, offset, and the rest.
    assert!(
        body.len() < 600 * (50 + 4 + 8 + 1 + 4) + 2048,
        "{}",
        body.len()
    );
}

#[test]
fn one_row_is_small() {
    let event = Owned {
        topic: "meter/m1/reading".into(),
        key: None,
        time: 1,
        client: None,
        flags: 1,
        tags: vec![],
        payload: b"{\"kw\":3.2}".to_vec(),
    };
    let body = encode(&batch(&[event]));
    assert!(body.len() <= 720, "{}", body.len());
}

#[test]
fn other_arrow_readers_understand_the_messages() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let events = events(30).new_tree(&mut runner).unwrap().current();
    let written = typed(&events);
    let body = encode(&written);
    let mut reader = StreamReader::try_new(&body[HEADER_BYTES..], None).unwrap();
    let record = reader.next().unwrap().unwrap();
    assert_eq!(
        &RecordBatch::from(record["value"].as_struct().clone()),
        &columns(&written)
    );
    assert_eq!(
        record["time"]
            .as_primitive::<arrow::datatypes::TimestampMicrosecondType>()
            .values(),
        written.times()
    );
    assert_eq!(
        Batch::from_record(record).unwrap().record(),
        written.record()
    );
}

#[test]
fn a_newer_version_says_so() {
    let mut body = encode(&batch(&[])).to_vec();
    body[0] = VERSION + 1;
    assert_eq!(
        decode(body.into()).unwrap_err().code(),
        "event.body-version"
    );
    assert_eq!(
        decode(Bytes::new()).unwrap_err().code(),
        "event.body-damaged"
    );
}

#[test]
fn a_row_that_is_null_is_refused() {
    let body = include_bytes!("../../../../fuzz/seeds/batch_decode/null-row.body");
    let error = decode(Bytes::from_static(body)).unwrap_err();
    assert_eq!(error.code(), "event.body-damaged");
    assert!(error.to_string().contains("nulls"), "{error}");
}

/// The bodies of the first version, which every later one must read.
///
/// After a change of the layout, which needs a new version, `BUSBAR_UPDATE=1 cargo test golden`
/// writes them anew; the old ones are then kept under another name.
#[test]
fn golden_bodies_are_read_and_written_the_same() {
    let events: Vec<Owned> = (0..3)
        .map(|row| Owned {
            topic: ["meter/m1/reading", "门/东/状态"][row % 2].to_string(),
            key: (row != 1).then(|| format!("k{row}")),
            time: 1_795_312_984_000_000 + row as i64,
            client: (row == 2).then(|| "m1".to_string()),
            flags: row as u8,
            tags: vec![("site".to_string(), "a".to_string()); row],
            payload: format!("{{\"kw\":{row}.5}}").into_bytes(),
        })
        .collect();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    for (name, batch) in [
        ("payload-1.body", batch(&events)),
        ("columns-1.body", typed(&events)),
    ] {
        let written = encode(&batch);
        if std::env::var_os("BUSBAR_UPDATE").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(name), &written).unwrap();
        }
        let golden = std::fs::read(folder.join(name)).unwrap();
        assert!(written[..] == golden[..], "{name} is written differently");
        assert_eq!(
            decode(golden.into()).unwrap().record(),
            batch.record(),
            "{name}"
        );
    }
}

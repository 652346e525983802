//! How fast events are built into batches, written, read and decoded, on one core and in
//! comparison with the general tools in the same run.
//!
//! `cargo run --release -p busbar-event --example batches`

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::StructArray;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::json::LineDelimitedWriter;
use arrow::json::ReaderBuilder;
use busbar_event::format::{Decoder, FormatSpec, JsonOptions, SchemaSpec, encode_json};
use busbar_event::{Batch, BatchBuilder, Body, Flags, Row, decode, encode};

const ROWS: usize = 16_384;

fn main() {
    let payloads: Vec<Vec<u8>> = (0..ROWS).map(reading).collect();
    let bytes = payloads.iter().map(Vec::len).sum::<usize>() / ROWS;
    println!("{ROWS} events of {bytes} bytes in 100 topics; best of several rounds, one core\n");

    let topics: Vec<String> = (0..100).map(|n| format!("meter/m{n:05}/reading")).collect();
    let fill = |builder: &mut BatchBuilder, with_key: bool, run: usize| {
        for (row, payload) in payloads.iter().enumerate() {
            let name = &topics[row / run % 100];
            let topic = builder.topic_id(name);
            builder.push(Row {
                topic,
                key: with_key.then_some(name),
                time: row as i64,
                client: None,
                flags: Flags(1),
                tags: &[],
                payload,
            });
        }
        builder.finish()
    };
    let mut builder = BatchBuilder::new();
    measure("build, topics in runs of 64", ROWS, || {
        drop(fill(&mut builder, false, 64))
    });
    measure("build, another topic each time", ROWS, || {
        drop(fill(&mut builder, false, 1))
    });
    measure("build, with keys", ROWS, || {
        drop(fill(&mut builder, true, 64))
    });

    let batch = fill(&mut builder, false, 64);
    let body = encode(&batch);
    println!();
    measure("encode", ROWS, || drop(black_box(encode(&batch))));
    measure("decode", ROWS, || drop(black_box(decode(body.clone()))));
    let one = batch.slice(0, 1);
    let one_body = encode(&one);
    measure("encode, one row a body", 1, || {
        drop(black_box(encode(&one)))
    });
    measure("decode, one row a body", 1, || {
        drop(black_box(decode(one_body.clone())))
    });
    measure("one row by arrow's stream writer", 1, || {
        drop(black_box(by_stream_writer(&one)))
    });
    println!(
        "  {} bytes a body of one row, {} of {ROWS}",
        one_body.len(),
        body.len()
    );

    let Body::Payload(column) = batch.body() else {
        return;
    };
    println!();
    for (name, projection) in [
        ("2 of 7", &[1, 4][..]),
        ("all 7", &[0, 1, 2, 3, 4, 5, 6]),
        ("0 of 7", &[]),
    ] {
        let schema = serde_json::from_str::<SchemaSpec>(SCHEMA)
            .expect("a schema")
            .schema()
            .expect("good");
        let format = FormatSpec::Json(JsonOptions::default());
        let mut decoder = Decoder::new(&format, &schema, projection).expect("a decoder");
        assert!(decoder.decode(column).rejected.is_empty());
        measure(&format!("JSON, {name} columns"), ROWS, || {
            drop(black_box(decoder.decode(column)))
        });
        if !projection.is_empty() {
            let theirs = arrow_schema(projection);
            let mut reader = ReaderBuilder::new(Arc::new(theirs))
                .with_batch_size(ROWS)
                .build_decoder()
                .expect("a decoder");
            measure(&format!("  by arrow-json, {name}"), ROWS, || {
                for payload in column.iter().flatten() {
                    reader.decode(payload).expect("JSON");
                }
                drop(black_box(reader.flush().expect("JSON")));
            });
        }
    }
    measure("  by serde_json::Value", ROWS, || {
        for payload in column.iter().flatten() {
            let value: serde_json::Value = serde_json::from_slice(payload).expect("JSON");
            black_box(value);
        }
    });

    let schema = serde_json::from_str::<SchemaSpec>(SCHEMA)
        .expect("a schema")
        .schema()
        .expect("good");
    let mut decoder = Decoder::new(
        &FormatSpec::Json(JsonOptions::default()),
        &schema,
        &[0, 1, 2, 3, 4, 5, 6],
    )
    .expect("a decoder");
    let columns = StructArray::from(decoder.decode(column).columns);
    println!();
    measure("write as JSON, 7 columns", ROWS, || {
        drop(black_box(encode_json(&columns)))
    });
    measure("  by arrow-json", ROWS, || {
        let mut writer = LineDelimitedWriter::new(Vec::new());
        writer.write(&columns.clone().into()).expect("JSON");
        drop(black_box(writer.into_inner()));
    });
    let typed = batch
        .with_body(Body::Columns(columns))
        .expect("columns fit");
    let typed_body = encode(&typed);
    measure("encode typed", ROWS, || drop(black_box(encode(&typed))));
    measure("decode typed", ROWS, || {
        drop(black_box(decode(typed_body.clone())))
    });
    let one = typed.slice(0, 1);
    let one_body = encode(&one);
    measure("encode typed, one row", 1, || drop(black_box(encode(&one))));
    measure("decode typed, one row", 1, || {
        drop(black_box(decode(one_body.clone())))
    });
}

const SCHEMA: &str = r#"{"device":"text","site":"text","seq":"int","voltage":"float","level_mm":"float","status":"text","at":"int"}"#;

fn arrow_schema(projection: &[usize]) -> Schema {
    let fields = [
        Field::new("device", DataType::Utf8, true),
        Field::new("site", DataType::Utf8, true),
        Field::new("seq", DataType::Int64, true),
        Field::new("voltage", DataType::Float64, true),
        Field::new("level_mm", DataType::Float64, true),
        Field::new("status", DataType::Utf8, true),
        Field::new("at", DataType::Int64, true),
    ];
    Schema::new(
        projection
            .iter()
            .map(|index| fields[*index].clone())
            .collect::<Vec<_>>(),
    )
}

fn reading(row: usize) -> Vec<u8> {
    format!(
        concat!(
            r#"{{"device":"gauge-{:06}-north-bank","site":"reservoir-{:03}","seq":{},"#,
            r#""voltage":{:.3},"level_mm":{:.2},"status":"measured and transmitted","at":{},"#,
            r#""note":"no remark on this one; ok"}}"#
        ),
        row % 1000,
        row % 37,
        row,
        3.3 + row as f64 / 1e6,
        (row * 7919 % 100_000) as f64 / 100.0,
        1_795_312_984_000usize + row,
    )
    .into_bytes()
}

fn by_stream_writer(batch: &Batch) -> Vec<u8> {
    let record = batch.record();
    let mut writer =
        arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &record.schema()).expect("a writer");
    writer.write(record).expect("written");
    writer.into_inner().expect("written")
}

/// The best of many rounds: other work on the machine only ever makes a round slower.
fn measure(what: &str, rows: usize, mut round: impl FnMut()) {
    let repeat = if rows == 1 { 1000 } else { 1 };
    let mut best = f64::MAX;
    let begin = Instant::now();
    while begin.elapsed().as_millis() < 400 {
        let start = Instant::now();
        for _ in 0..repeat {
            round();
        }
        best = best.min(start.elapsed().as_secs_f64() / (rows * repeat) as f64);
    }
    println!(
        "{what:36} {:8.1} ns/event {:8.2} M/s",
        best * 1e9,
        1e-6 / best
    );
}

//! How fast one core takes JSON payloads through `where` and `select`.
//!
//! ```text
//! cargo run --release -p busbar-sql --example where_select
//! ```

use std::hint::black_box;
use std::time::{Duration, Instant};

use busbar_event::format::{Decoder, FieldSpec, FieldType, FormatSpec, JsonOptions, SchemaSpec};
use busbar_event::{Batch, BatchBuilder, Flags, Row};
use busbar_sql::{BatchQuery, Predicate, Projection, Template};

const ROWS: usize = 8192;
const LAST: Duration = Duration::from_secs(2);

fn main() {
    let batch = events();
    let bytes = batch.payloads().value_data().len() / ROWS;
    println!("{ROWS} events a batch, {bytes} bytes of JSON each, 7 fields, one core");
    let schema = SchemaSpec(vec![
        FieldSpec::new("site", FieldType::Text),
        FieldSpec::new("level_mm", FieldType::Int),
        FieldSpec::new("status", FieldType::Text),
        FieldSpec::new("battery", FieldType::Float),
        FieldSpec::new("rain", FieldType::Float),
        FieldSpec::new("wind", FieldType::Float),
        FieldSpec::new("serial", FieldType::Text),
    ])
    .schema()
    .expect("the schema is in order");
    let format = FormatSpec::Json(JsonOptions::default());
    let predicate = Predicate::compile(&schema, "level_mm >= 50 and status <> 'test'");
    let predicate = predicate.expect("the condition compiles");
    let list = Projection::compile(&schema, "site, level_mm / 10.0 as level_cm");
    let list = list.expect("the list compiles");
    let mut columns = [predicate.columns(), list.columns()].concat();
    columns.sort_unstable();
    columns.dedup();
    let mut decoder = Decoder::new(&format, &schema, &columns).expect("the format decodes");
    let narrow = decoder.schema().clone();
    let predicate = predicate.bind(&narrow).expect("columns are there");
    let list = list.bind(&narrow).expect("columns are there");
    let payloads = batch.payloads().into_owned();
    let decoded = decoder.decode(&payloads).columns;

    time("decode, where, select", || {
        let rows = decoder.decode(&payloads).columns;
        let kept = predicate.filter(&rows).expect("no row fails");
        black_box(list.evaluate(&kept).expect("no row fails"));
    });
    time("where", || {
        black_box(predicate.evaluate(&decoded).expect("no row fails"));
    });
    time("where, keep, select", || {
        let kept = predicate.filter(&decoded).expect("no row fails");
        black_box(list.evaluate(&kept).expect("no row fails"));
    });
    let record = batch.record();
    let topics = Predicate::compile(&record.schema(), "topic like 'gauge/1%/rain'");
    let topics = topics.expect("the condition compiles");
    time("where topic like", || {
        black_box(topics.evaluate(record).expect("no row fails"));
    });
    let template = Template::compile(&narrow, "alarm/${site}/rain").expect("it compiles");
    time("topic template", || {
        black_box(
            template
                .evaluate_dictionary(&decoded)
                .expect("no row fails"),
        );
    });
    let text = "select site, level_mm / 10.0 as level_cm from input \
                where level_mm >= 50 and status <> 'test'";
    let mut query = BatchQuery::compile(&narrow, text).expect("the query compiles");
    time("sql: where, select", || {
        black_box(query.execute(&decoded).expect("no row fails"));
    });
    let text = "select site, max(level_mm) as peak, count(*) as n from input group by site";
    let mut query = BatchQuery::compile(&narrow, text).expect("the query compiles");
    time("sql: group by", || {
        black_box(query.execute(&decoded).expect("no row fails"));
    });
    let one = decoded.slice(0, 1);
    let begun = Instant::now();
    let mut asked = 0u32;
    while begun.elapsed() < LAST {
        black_box(query.execute(&one).expect("no row fails"));
        asked += 1;
    }
    println!(
        "{:<24} {:>9.1} µs a batch of one",
        "sql: group by",
        begun.elapsed().as_secs_f64() * 1e6 / f64::from(asked)
    );
}

fn time(what: &str, mut run: impl FnMut()) {
    run();
    let begun = Instant::now();
    let mut batches = 0u32;
    while begun.elapsed() < LAST {
        run();
        batches += 1;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let rate = f64::from(batches) * ROWS as f64 / seconds;
    println!(
        "{what:<24} {:>9.2} M events/s {:>8.1} ns each",
        rate / 1e6,
        1e9 / rate
    );
}

fn events() -> Batch {
    let mut builder = BatchBuilder::new();
    for row in 0..ROWS {
        let topic = builder.topic_id(&format!("gauge/{}/rain", row % 20));
        let payload = format!(
            r#"{{"site":"site-{}","level_mm":{},"status":"{}","battery":{}.5,"rain":0.{},"wind":{}.25,"serial":"SN-{row:010}"}}"#,
            row % 50,
            row % 100,
            if row % 10 == 0 { "test" } else { "ok" },
            row % 12,
            row % 9,
            row % 30,
        );
        builder.push(Row {
            topic,
            key: None,
            time: row as i64,
            client: None,
            flags: Flags(0),
            tags: &[],
            payload: payload.as_bytes(),
        });
    }
    builder.finish()
}

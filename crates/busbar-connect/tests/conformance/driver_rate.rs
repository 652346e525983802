//! How many rows a second go through drivers of either kind, beside each other on the same table. Prints what it finds:
//!
//! `cargo test --release -p busbar-connect --test conformance -- --ignored --nocapture driver_rate`

use std::sync::Arc;
use std::time::Instant;

use arrow::array::TimestampMicrosecondArray;

use crate::driver_engine::Engine;
use crate::postgres_sink::{ints, rows, texts};

const DELIVERIES: i64 = 40;
const ROWS: i64 = 5_000;

#[test]
#[ignore = "measures, which other tests would disturb"]
fn rows_go_both_ways() {
    for name in [
        "postgres",
        "postgres-odbc",
        "mariadb",
        "mariadb-odbc",
        "sqlite-odbc",
    ] {
        let engine = Engine::start(name);
        let table = engine.table();
        let time = if engine.database == "mariadb" {
            "datetime(6)"
        } else {
            "timestamp"
        };
        engine.run(&format!(
            "create table {table} (id bigint not null primary key, name varchar(40), amount decimal(12, 2), seen {time}, note varchar(100))"
        ));
        let delivery = |number: i64| {
            let ids: Vec<i64> = (number * ROWS..(number + 1) * ROWS).collect();
            let amounts: Vec<String> = ids
                .iter()
                .map(|id| format!("{}.{:02}", id, id % 100))
                .collect();
            let amounts: Vec<&str> = amounts.iter().map(String::as_str).collect();
            let seen = ids.iter().map(|id| 1_715_000_000_000_000 + id * 1_001);
            rows(
                number as u64 + 1,
                vec![
                    ("id", ints(&ids)),
                    ("name", texts(&vec!["张三 of the ward"; ids.len()])),
                    ("amount", texts(&amounts)),
                    (
                        "seen",
                        Arc::new(TimestampMicrosecondArray::from_iter_values(seen)),
                    ),
                    (
                        "note",
                        texts(&vec![
                            "a text of some length, as people write them";
                            ids.len()
                        ]),
                    ),
                ],
            )
        };
        let deliveries: Vec<_> = (0..DELIVERIES).map(delivery).collect();
        let began = Instant::now();
        engine.runtime.block_on(async {
            let sink = engine
                .sink(&format!("table: {table}"), &deliveries[0])
                .await;
            let mut sink = sink.expect(name);
            for delivery in &deliveries {
                let written = sink.write(delivery).await.expect(name);
                assert!(written.rejected.is_empty(), "{name}");
            }
        });
        let written = began.elapsed();
        let began = Instant::now();
        let there = engine.run(&format!("select * from {table}"));
        let read = began.elapsed();
        let total = DELIVERIES * ROWS;
        assert_eq!(there.len() as i64, total, "{name}");
        let rate = |took: std::time::Duration| (total as f64 / took.as_secs_f64()) as u64;
        println!(
            "{name}: {} rows/s written, {} rows/s read",
            rate(written),
            rate(read)
        );
    }
}

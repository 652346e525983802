//! `s3` with a service that others wrote.

use std::path::Path;
use std::sync::Arc;

use busbar_connector::{Polled, Resume, Sink, SourceContext};
use tokio::runtime::Runtime;

use crate::servers::{DatabaseServer, moto};
use crate::sink_context;
use crate::sinks::{by, delivery};
use crate::subjects::numbered;
use crate::world::spec;

const PRODUCER: &str = "flow:f ü+&:in:0:0:to";

fn connection(server: &DatabaseServer, more: &str) -> String {
    format!(
        "s3: {{ url: 'http://127.0.0.1:{}', bucket: events, access_key: me, secret_key: secret, {more} }}\n",
        server.port
    )
}

async fn sink(server: &DatabaseServer, compression: &str) -> Box<dyn Sink> {
    let write = format!("write: {{ prefix: 'a b/ü+&=/', compression: {compression} }}");
    let spec = spec(&connection(server, &write));
    let registry = busbar_connect::registry();
    let connector = registry.get("s3").expect("registered");
    let sink = connector.sink(&spec, sink_context(Path::new("/"))).await;
    sink.expect("it opens")
}

/// Each row once over new starts, and read back in order.
#[test]
fn rows_are_written_once_and_read_back() {
    for compression in ["none", "gzip"] {
        written_and_read_back(compression);
    }
}

fn written_and_read_back(compression: &str) {
    let server = moto();
    server.request("PUT", "/events", "").expect("a bucket");
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut known = 0;
        for end in [700, 1_400, 1_500] {
            let mut sink = sink(&server, compression).await;
            let position = sink.position(PRODUCER).await.expect("it answers");
            assert_eq!(position.unwrap_or(0), known);
            for (from, position) in [(known, known + 50), (known + 50, end)] {
                let rows = by(delivery("t", &numbered(from..position), position), PRODUCER);
                for _ in 0..2 {
                    sink.write(&rows).await.expect("written");
                }
            }
            known = end;
        }
        let read = "read: { prefix: 'a b/ü+&=/', every: 1s }";
        let spec = spec(&connection(&server, read));
        let registry = busbar_connect::registry();
        let connector = registry.get("s3").expect("registered");
        let context = SourceContext {
            name: "x".into(),
            project_dir: Path::new("/").into(),
            clock: Arc::new(busbar_log::SystemClock),
            resume: Resume::default(),
            tables: crate::world::no_tables(),
        };
        let mut source = connector.source(&spec, context).await.expect("it opens");
        let mut lines = Vec::new();
        while let Polled::Batch(polling) = source.poll().await.expect("it is read") {
            let payloads = polling.batch.payloads();
            for row in 0..polling.batch.rows() {
                lines.push(String::from_utf8_lossy(payloads.value(row)).into_owned());
            }
        }
        assert_eq!(lines, numbered(0..1_500));
        let survey = connector.survey(&spec, Path::new("/").into(), true).await;
        assert_eq!(survey.expect("it answers").server, "S3");
    });
}

/// Its refusals in its own words have the code of what mends them.
#[test]
fn a_bucket_that_is_not_there_is_told() {
    let server = moto();
    let refused = Runtime::new().expect("a runtime").block_on(async {
        let rows = delivery("t", &numbered(0..1), 1);
        let mut sink = sink(&server, "none").await;
        sink.write(&rows).await.expect_err("no bucket")
    });
    assert_eq!(refused.code(), "s3.no-bucket");
}

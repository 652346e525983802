//! Rows as calls of an operation: which columns are refused, and what ends when a service fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use busbar_connector::deliver;
use busbar_event::Class;
use tokio::runtime::Runtime;

use crate::peers::Web;
use crate::sink_context;
use crate::sinks::{delivery, schema};
use crate::soap_subject::{TAKEN, fault};
use crate::world::spec;

#[test]
fn rows_of_a_sink_are_checked_and_faults_of_the_service_end() {
    let web = Web::new();
    let text = format!(
        "soap: {{ url: 'http://127.0.0.1:{}', wsdl: rows.wsdl, write: {{ method: PutRow }} }}\n",
        web.port
    );
    let connection = spec(&text);
    let registry = busbar_connect::registry();
    let connector = registry.get("soap").expect("it is registered");
    // What a flow gives beside the payload is left out, and what the operation has no place for is refused.
    let with = |name: &str, kind: DataType| {
        let mut fields: Vec<Field> = schema()
            .fields()
            .iter()
            .map(|f| f.as_ref().clone())
            .collect();
        fields.retain(|field| field.name() != name);
        fields.push(Field::new(name, kind, true));
        connector.check_rows(&connection, &Schema::new(fields))
    };
    assert!(with("topic", DataType::Utf8).is_ok());
    for (name, kind, code) in [
        ("level", DataType::Utf8, "connect.soap-no-column"),
        ("n", DataType::Utf8, "connect.soap-column-type"),
    ] {
        assert_eq!(with(name, kind).unwrap_err().code(), code);
    }
    let only = Schema::new(vec![Field::new("note", DataType::Utf8, true)]);
    let missing = connector.check_rows(&connection, &only).unwrap_err();
    assert_eq!(missing.code(), "connect.soap-column-missing");

    let runtime = Runtime::new().expect("a runtime");
    let context = sink_context(std::path::Path::new("."));
    let sink = runtime.block_on(connector.sink(&connection, context));
    let mut sink = sink.expect("it opens");
    // The second row is one that the service always fails on: it is sent five times.
    let failing = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&failing);
    web.answer(move |request| match request.text().contains("<n>1</n>") {
        true => {
            counted.fetch_add(1, Ordering::SeqCst);
            Some((500, "", fault("s:Server", "division by zero")))
        }
        false => Some((200, "", TAKEN.into())),
    });
    let rows = delivery("rows", &["a", "b", "c"], 3);
    let outcome = runtime.block_on(deliver(sink.as_mut(), &rows, |_| {
        std::future::ready(Ok(()))
    }));
    let rejected = outcome.expect("the others are written").rejected;
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].0, 1);
    assert!(rejected[0].1.to_string().contains("division by zero"));
    assert_eq!(failing.load(Ordering::SeqCst), 5);
    // A proxy's login page: the row is sent five times, and then the flow stops with all rows there.
    let before = web.requests().len();
    web.answer(|_| Some((200, "", b"<!DOCTYPE html><title>Log in</title>".to_vec())));
    let rows = delivery("rows", &["a", "b"], 6);
    for attempt in 1..=5 {
        let error = runtime.block_on(sink.write(&rows)).expect_err("a page");
        let class = match attempt {
            5 => Class::Configuration,
            _ => Class::Transient,
        };
        assert_eq!((error.class(), error.code()), (class, "connect.soap-page"));
    }
    assert_eq!(web.requests().len() - before, 5);
    // Nobody is let in: no row is thrown away.
    for (status, body) in [
        (401, Vec::new()),
        (500, fault("wsse:FailedAuthentication", "who is that")),
    ] {
        web.answer(move |_| Some((status, "", body.clone())));
        let error = runtime.block_on(sink.write(&delivery("rows", &["a"], 4)));
        assert_eq!(error.expect_err("refused").class(), Class::Configuration);
    }
    // A null where the operation needs a value.
    web.answer(|_| Some((200, "", TAKEN.into())));
    let mut nulls = delivery("rows", &["a", "b"], 5);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![None, Some(2)])),
        Arc::new(StringArray::from(vec!["a", "b"])),
    ];
    let nullable = Schema::new(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("note", DataType::Utf8, true),
    ]);
    nulls.rows = RecordBatch::try_new(Arc::new(nullable), columns).expect("rows");
    let written = runtime.block_on(sink.write(&nulls)).expect("written");
    let refused: Vec<_> = written
        .rejected
        .iter()
        .map(|(row, error)| (*row, error.code()))
        .collect();
    assert_eq!(refused, [(0, "connect.soap-value-missing")]);
}

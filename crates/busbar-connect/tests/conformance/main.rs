//! What every connector must do, checked for each one of the registry, and what each one does beside.
//!
//! A connector without a row in [`subjects`] fails the suite.

mod both_ways;
mod calls;
mod captured_peer;
mod cassandra;
mod cassandra_peer;
mod cassandra_server;
mod clickhouse;
mod clickhouse_database;
mod clickhouse_peer;
mod database_calls;
mod database_lookups;
mod database_queries;
mod driver_database;
mod driver_engine;
mod driver_sink;
mod driver_source;
mod driver_types;
mod driver_worker;
mod elastic;
mod elastic_peer;
mod elastic_server;
mod elastic_tables;
mod fhir;
mod fhir_peer;
mod fhir_server;
mod fhir_source;
mod file_sink;
mod file_source;
mod hbase_peer;
mod hbase_server;
mod http;
mod jdbc_subject;
mod jdbc_worker;
mod kafka_cluster;
mod kafka_kills;
mod kafka_lost_end;
mod kafka_members;
mod kafka_server;
mod kafka_sink;
mod kafka_source;
mod kafka_subject;
mod kafka_takeover;
mod kept_tables;
mod mllp;
mod mllp_subject;
mod mongo_changes;
mod mongo_sink;
mod mongo_subject;
mod mongo_tables;
mod mqtt;
mod mysql_changes;
mod mysql_sink;
mod mysql_snapshots;
mod mysql_subject;
mod odbc_host;
mod odbc_lies;
mod odbc_subject;
mod odbc_worker;
mod peers;
#[allow(dead_code)] // several ports in a row are for the example of orders
#[path = "../../../busbar/tests/support/ports.rs"]
mod ports;
mod postgres_changes;
mod postgres_query;
mod postgres_sink;
mod postgres_snapshots;
mod postgres_subject;
mod query_runs;
mod redis_hot;
mod redis_hot_moves;
mod redis_losing;
mod redis_sink;
mod redis_source;
mod redis_subject;
mod redis_tables;
mod s3;
mod s3_peer;
mod s3_server;
mod servers;
mod session_state;
mod sink_keys;
mod sinks;
mod soap;
mod soap_headers;
mod soap_sink;
mod soap_subject;
mod sources;
mod sqlserver;
mod sqlserver_columns;
mod sqlserver_server;
mod sqlserver_sink;
mod subjects;
mod surveys;
mod table_source;
mod table_subject;
mod tds_peer;
mod tls;
mod world;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;

use busbar_connector::{Guarantee, Roles, ServiceContext, SinkContext, SourceContext};
use busbar_event::Class;
use subjects::subjects;
use world::spec;

#[test]
fn every_connector_has_a_row() {
    let registered: BTreeSet<_> = busbar_connect::registry().kinds().collect();
    let rows: BTreeSet<_> = subjects().iter().map(|row| row.kind).collect();
    assert_eq!(registered, rows);
    let kinds: Vec<_> = busbar_connect::registry().kinds().collect();
    assert!(kinds.is_sorted(), "{kinds:?}");
}

#[test]
fn options_are_documented_and_no_others_are_taken() {
    for row in subjects() {
        let schema = row.connector().schema();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let about = text(&schema["description"]);
        assert!(
            about.contains("once") || about.contains("lost"),
            "{}: {about}",
            row.kind
        );
        // What a sink promises is said by its docs as it is by the program.
        if row.taker.is_some() {
            let promise = match row.connector().guarantee() {
                Guarantee::AtLeastOnce => "at least once",
                Guarantee::ExactlyOnce => "exactly once",
            };
            let about = about.to_lowercase();
            assert!(about.contains(promise), "{}: {about}", row.kind);
        }
        assert_eq!(schema["additionalProperties"], false, "{}", row.kind);
        let properties = schema["properties"].as_object().expect("properties");
        assert!(!properties.is_empty(), "{}", row.kind);
        for (name, property) in properties {
            let about = text(&property["description"]);
            assert!(!about.is_empty(), "{}: {name} is not described", row.kind);
        }
        for good in &row.good {
            let options = spec(good).options.to_json();
            for name in options
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| name)
            {
                assert!(properties.contains_key(name), "{}: {name}", row.kind);
            }
        }
    }
}

#[test]
fn what_is_wrong_is_refused_where_it_stands() {
    let registry = busbar_connect::registry();
    for row in subjects() {
        for good in &row.good {
            let roles = registry
                .check(&spec(good))
                .unwrap_or_else(|bad| panic!("{bad}: {good}"));
            let any = roles.source || roles.sink || roles.service;
            // One whose rows or cells are only looked up has no other part in flows.
            let connector = row.connector();
            let asked = connector.keeps_rows(&spec(good))
                || connector.keeps_cells()
                || connector.keeps_hot();
            assert!(any || asked, "{good}");
        }
        let unknown = format!("{}: {{ no_such_option: 1 }}\n", row.kind);
        let wrong = row.wrong.iter().copied();
        for (text, word) in wrong.chain([(unknown.as_str(), "no_such_option")]) {
            let refused = registry.check(&spec(text)).expect_err(text);
            assert_eq!(refused.error().class(), Class::Configuration, "{text}");
            // What is missing has no place of its own; it is named.
            let named = refused
                .error()
                .args()
                .iter()
                .any(|(_, value)| value.contains(word));
            let told = refused
                .error()
                .message(busbar_event::Language::En)
                .contains(word);
            let shown = refused.word().contains(word) || named || told;
            assert!(
                shown,
                "{text}: {:?} {:?}, not {word}",
                refused.word(),
                refused.error()
            );
            for language in [busbar_event::Language::En, busbar_event::Language::Zh] {
                assert!(
                    !refused
                        .error()
                        .message(language)
                        .contains(refused.error().code()),
                    "{text}"
                );
            }
        }
    }
}

#[test]
fn a_check_touches_nothing() {
    let outside = TcpListener::bind("127.0.0.1:0").expect("a port");
    outside.set_nonblocking(true).expect("it can");
    let address = outside.local_addr().expect("an address");
    let before: Vec<_> = std::fs::read_dir(".")
        .expect("here")
        .flatten()
        .map(|e| e.path())
        .collect();
    for row in subjects() {
        for good in &row.good {
            let text = good.replace("127.0.0.1:1", &address.to_string());
            row.connector()
                .check(&spec(&text))
                .unwrap_or_else(|bad| panic!("{bad}: {text}"));
        }
    }
    assert!(outside.accept().is_err(), "a check connected");
    let after: Vec<_> = std::fs::read_dir(".")
        .expect("here")
        .flatten()
        .map(|e| e.path())
        .collect();
    assert_eq!(before, after);
}

/// Opening for what the options do not offer is refused, not guessed.
#[test]
fn a_role_that_is_not_there_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for row in subjects() {
        for good in &row.good {
            let connection = spec(good);
            let Roles { source, sink, .. } = row.connector().check(&connection).expect("it checks");
            let connector = row.connector();
            runtime.block_on(async {
                if !source {
                    let context = source_context(folder.path());
                    let refused = connector
                        .source(&connection, context)
                        .await
                        .err()
                        .expect(good);
                    assert_eq!(refused.class(), Class::Configuration, "{good}");
                }
                if !sink {
                    let context = sink_context(folder.path());
                    let refused = connector
                        .sink(&connection, context)
                        .await
                        .err()
                        .expect(good);
                    assert_eq!(refused.class(), Class::Configuration, "{good}");
                }
            });
        }
    }
}

#[test]
fn secrets_are_in_no_error() {
    const SECRET: &str = "hunter2-very-secret";
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // A server that refuses everything and repeats what it was sent.
    let repeats = peers::Web::new();
    repeats.answer(|request| {
        let said = format!("{} {:?} ", request.path, request.headers);
        Some((400, "", [said.as_bytes(), &request.body[..]].concat()))
    });
    let silent = ports::free_port();
    let mut repeated = BTreeSet::new();
    for row in subjects() {
        for (text, port) in row.secret.iter().flat_map(|text| {
            let is_http = text.contains("http://127.0.0.1:PORT");
            let repeating = is_http.then_some((text, repeats.port));
            std::iter::once((text, silent)).chain(repeating)
        }) {
            let text = text
                .replace("SECRET", SECRET)
                .replace("PORT", &port.to_string());
            let connection = spec(&text);
            row.connector()
                .check(&connection)
                .unwrap_or_else(|bad| panic!("{bad}: {text}"));
            let roles = row.connector().check(&connection).expect("it checks");
            let answered = port == repeats.port;
            if roles.service {
                let request = busbar_connector::ServiceRequest {
                    method: "POST".into(),
                    path: "/".into(),
                    ..Default::default()
                };
                let answer = runtime.block_on(async {
                    let context = service_context(folder.path());
                    let service = row.connector().service(&connection, context).await?;
                    service.exchange(&request).await
                });
                match answer {
                    Err(error) => hides(&error, SECRET),
                    Ok(answer) => {
                        assert!(answered, "nobody listens there");
                        let said = String::from_utf8_lossy(&answer.body);
                        assert!(!said.contains(SECRET), "{said}");
                    }
                }
            }
            if !roles.sink {
                continue;
            }
            let written = runtime.block_on(async {
                let context = sink_context(folder.path());
                let mut sink = row.connector().sink(&connection, context).await?;
                sink.write(&sinks::delivery("t", &["{}".to_owned()], 1))
                    .await
            });
            match written {
                Err(error) => hides(&error, SECRET),
                Ok(written) => {
                    assert!(answered, "nobody listens there");
                    for (_, error) in &written.rejected {
                        hides(error, SECRET);
                        repeated.insert(row.kind);
                    }
                }
            }
        }
    }
    let sent = repeats.requests().iter().any(|request| {
        let said = format!("{} {:?}", request.path, request.headers);
        said.contains(SECRET)
    });
    assert!(sent && repeated.contains("http"), "{repeated:?}");
}

fn hides(error: &busbar_event::Error, secret: &str) {
    let shown = format!("{error} {error:?} {:?}", std::error::Error::source(error));
    assert!(!shown.contains(secret), "{shown}");
    let told = serde_json::to_string(error).expect("JSON");
    assert!(!told.contains(secret), "{told}");
}

fn service_context(folder: &std::path::Path) -> ServiceContext {
    ServiceContext {
        name: "x".into(),
        project_dir: folder.into(),
        clock: Arc::new(busbar_log::SystemClock),
    }
}

fn source_context(folder: &std::path::Path) -> SourceContext {
    SourceContext {
        name: "x".into(),
        project_dir: folder.into(),
        clock: Arc::new(busbar_log::SystemClock),
        resume: busbar_connector::Resume::default(),
        tables: crate::world::no_tables(),
    }
}

fn sink_context(folder: &std::path::Path) -> SinkContext {
    SinkContext {
        name: "x".into(),
        project_dir: folder.into(),
        clock: Arc::new(busbar_log::SystemClock),
        schema: sinks::schema(),
    }
}

//! Connectors to other systems: one folder for each, listed by hand in [`registry_with`].
//!
//! A connector reads its options, opens a source or a sink, and classifies each failure: transient, permanent or
//! configuration. Connectors do not retry, batch, count, or know who uses them; `busbar-flow` does that around them.

mod cassandra;
mod cells;
mod change;
mod clickhouse;
mod driver;
mod elastic;
mod fhir;
mod file;
mod grpc;
mod hbase;
mod host;
mod http;
mod jdbc;
mod json;
mod kafka;
pub mod limits;
mod mllp;
mod mongo;
mod mqtt;
mod mysql;
mod odbc;
mod places;
mod postgres;
mod reason;
mod redis;
mod relational;
mod run_place;
mod s3;
mod schedule;
mod scram;
mod secret;
mod soap;
mod sqlserver;
mod table;
mod tls;
mod topic;

use std::sync::Arc;

use busbar_connector::{Connector, Connectors};
use busbar_event::{Class, Error};

pub use odbc::{ODBC_HOST, run_odbc_host};
pub use places::Places;
pub use postgres::default_name as postgres_publication;

/// Every connector there is, in alphabetical order. Connections use files of the project's folder only.
pub fn registry() -> Connectors {
    registry_with(&Places::default())
}

/// The same, with folders outside the project whose files connections may use.
pub fn registry_with(places: &Places) -> Connectors {
    Connectors::new([
        Arc::new(cassandra::Cassandra::new(places.clone())) as Arc<dyn Connector>,
        Arc::new(clickhouse::ClickHouse::new(places.clone())),
        Arc::new(elastic::Elastic::new(places.clone())),
        Arc::new(fhir::Fhir::new(places.clone())),
        Arc::new(file::File::new(places.clone())),
        Arc::new(grpc::Grpc::new(places.clone())),
        Arc::new(hbase::Hbase::new(places.clone())),
        Arc::new(host::Host),
        Arc::new(http::Http::new(places.clone())),
        Arc::new(jdbc::Jdbc::new(places.clone())),
        Arc::new(kafka::Kafka::new(places.clone())),
        Arc::new(mllp::Mllp::new(places.clone())),
        Arc::new(mongo::Mongo::new(places.clone())),
        Arc::new(mqtt::Mqtt::new(places.clone())),
        Arc::new(mysql::Mysql::new(places.clone())),
        Arc::new(odbc::Odbc::new(places.clone())),
        Arc::new(postgres::Postgres::new(places.clone())),
        Arc::new(redis::Redis::new(places.clone())),
        Arc::new(s3::S3::new(places.clone())),
        Arc::new(soap::Soap::new(places.clone())),
        Arc::new(sqlserver::Sqlserver::new(places.clone())),
        Arc::new(table::NodeTable),
    ])
}

/// A connection of this kind is no source with the options that it has.
fn lacks_source(kind: &str) -> Error {
    Error::new(Class::Configuration, "connect.no-source").with("kind", kind)
}

/// A connection of this kind is no sink with the options that it has.
fn lacks_sink(kind: &str) -> Error {
    Error::new(Class::Configuration, "connect.no-sink").with("kind", kind)
}

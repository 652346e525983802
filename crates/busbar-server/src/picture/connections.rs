//! Connections as the API shows them.

use std::collections::BTreeMap;

use busbar_access::Principal;
use busbar_connector::{BreakerState, SnapshotState, SnapshotStatus};
use busbar_event::Error;
use busbar_flow::{ConnectionStatus, FlowStatus};
use serde::Serialize;

use super::flows::{FlowSummary, guarantee as guarantee_text};

/// A connection.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct ConnectionView {
    /// Its name.
    name: String,
    /// `host`, `file`, `http`, `mqtt`, `mysql`, `postgres`.
    kind: String,
    /// `source`, `sink`, `both`, or `service` for one that `call` steps ask and nobody writes to.
    direction: &'static str,
    /// `starting`, `running`, `retrying`, `ended`, `stopped`, `disabled`, or `idle` (nobody writes to it).
    state: &'static str,
    /// Events it brought.
    #[serde(rename = "in")]
    input: u64,
    /// Rows written to it.
    out: u64,
    /// Events it brought, or rows written to it, in the last second.
    rate: f64,
    /// What is promised across a crash to those who write to it.
    guarantee: Option<&'static str>,
    /// Bytes that a source has yet to bring, if the other side says so.
    lag_bytes: Option<u64>,
    /// Events of each part that a source has yet to bring, if the other side counts them: of each partition of Kafka.
    lag_events: BTreeMap<String, u64>,
    /// Snapshots of tables that a source takes or has taken, by table.
    snapshots: Vec<SnapshotView>,
    /// What somebody should look at although it runs: it stands still while the other side goes on, changes may be missing.
    #[schema(value_type = Vec<crate::problem::Problem>)]
    alarms: Vec<Error>,
    /// Flows that write to it or ask it.
    flows: Vec<String>,
    /// The service behind it, where `call` steps ask one.
    service: Option<CalledView>,
    /// The database behind it, where there is one that flows and queries ask.
    database: Option<AskedView>,
    /// Why it does not get on.
    #[schema(value_type = Option<crate::problem::Problem>)]
    error: Option<Error>,
}

/// The snapshot of a table.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct SnapshotView {
    /// The table.
    table: String,
    /// `reading`; `counting`: all rows were read, and the other side counts them; `equal` and `different`: as many rows as it
    /// counted are there by what was sent, or not; `uncompared`: that is not known.
    state: &'static str,
    /// Rows that were read and sent.
    rows: u64,
    /// Rows that are there by what was sent, at the moment when the other side counted.
    expected: Option<i64>,
    /// Rows that the other side counted.
    counted: Option<u64>,
}

impl From<SnapshotStatus> for SnapshotView {
    fn from(status: SnapshotStatus) -> SnapshotView {
        SnapshotView {
            table: status.table,
            state: match status.state {
                SnapshotState::Reading => "reading",
                SnapshotState::Counting => "counting",
                SnapshotState::Equal => "equal",
                SnapshotState::Different => "different",
                SnapshotState::Uncompared => "uncompared",
            },
            rows: status.rows,
            expected: status.expected,
            counted: status.counted,
        }
    }
}

/// A service that `call` steps ask.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct CalledView {
    /// `closed` while calls pass, `open` while they wait because the service has failed several times in a row, `half-open`
    /// while one call is on trial.
    circuit: &'static str,
    /// Calls since the process began.
    calls: u64,
    /// Those of them that failed for the moment and are tried again.
    failures: u64,
    /// Calls under way.
    in_flight: u32,
}

/// A database that joins look rows up in, `call` steps ask and queries read. Numbers are since the process began.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct AskedView {
    /// The most sessions that may be open at a time.
    sessions: usize,
    /// Sessions in use.
    used: usize,
    /// Open sessions that nobody uses.
    idle: usize,
    /// Sessions that could not be opened.
    not_opened: u64,
    /// Statements that were sent.
    statements: u64,
    /// Those of them that failed.
    failures: u64,
    /// Keys that joins have asked for.
    keys: u64,
    /// Those of them that there was a row for.
    found: u64,
    /// Keys that joins knew the answer for and did not ask.
    cached: u64,
}

/// The connections that flows write to which the caller may read; all for a caller that may read everything.
pub(crate) fn readable_connections(
    connections: Vec<ConnectionView>,
    caller: &Principal,
    flows: &[FlowSummary],
) -> Vec<ConnectionView> {
    if caller.may_read_all() {
        return connections;
    }
    let may_read = |name: &String| {
        let flow = flows.iter().find(|flow| flow.name() == name);
        flow.is_some_and(|flow| flow.may_be_read_by(caller))
    };
    connections
        .into_iter()
        .filter_map(|mut connection| {
            connection.flows.retain(may_read);
            (!connection.flows.is_empty()).then_some(connection)
        })
        .collect()
}

/// A connection at this moment. `source_rate` is the events a second that it brings.
pub(crate) fn connection_view(
    connection: ConnectionStatus,
    flows: &[FlowStatus],
    source_rate: f64,
) -> ConnectionView {
    let outputs = flows.iter().flat_map(|flow| &flow.nodes).filter(|node| {
        node.role == "to" && node.kind == "connection" && node.label == connection.name
    });
    let (mut out, mut rate, mut error, mut guarantee) = (0, source_rate, None, None);
    for node in outputs {
        out += node.counters.out;
        rate += node.rate_out;
        error = error.or_else(|| node.error.clone());
        guarantee = guarantee.or(node.guarantee.map(guarantee_text));
    }
    let service = connection.service.map(|service| CalledView {
        circuit: match service.circuit {
            BreakerState::Closed => "closed",
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half-open",
        },
        calls: service.calls,
        failures: service.failures,
        in_flight: service.in_flight,
    });
    let is_open = service
        .as_ref()
        .is_some_and(|service| service.circuit != "closed");
    let source = connection.source;
    let state = match &source {
        _ if !connection.enabled => "disabled",
        Some(source) => source.state,
        None if connection.flows.is_empty() => "idle",
        None if error.is_some() || is_open => "retrying",
        None => "running",
    };
    let (alarms, snapshots) = source.as_ref().map_or_else(Default::default, |source| {
        (source.alarms.clone(), source.snapshots.clone())
    });
    ConnectionView {
        alarms,
        snapshots: snapshots.into_iter().map(SnapshotView::from).collect(),
        direction: match (connection.roles.source, connection.roles.sink) {
            (true, true) => "both",
            (true, false) => "source",
            (false, true) => "sink",
            (false, false) => "service",
        },
        service,
        database: connection.database.map(|database| AskedView {
            sessions: database.pool.size,
            used: database.pool.used,
            idle: database.pool.idle,
            not_opened: database.pool.failed,
            statements: database.statements,
            failures: database.failures,
            keys: database.keys,
            found: database.found,
            cached: database.cached,
        }),
        state,
        input: source.as_ref().map_or(0, |source| source.events),
        out,
        rate,
        guarantee,
        lag_bytes: source.as_ref().and_then(|source| source.lag_bytes),
        lag_events: source
            .as_ref()
            .map(|source| source.lag_events.clone())
            .unwrap_or_default(),
        error: source.and_then(|source| source.error).or(error),
        name: connection.name,
        kind: connection.kind,
        flows: connection.flows,
    }
}

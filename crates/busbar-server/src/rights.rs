//! What a caller may see of the node: the streams and tables it may read, and the flows that read only these.
//! The API describes nothing that SQL would refuse to read.

use axum::http::StatusCode;
use busbar_access::Principal;
use busbar_catalog::{Bundle, Kind, Project};
use busbar_event::{Class, Error};
use busbar_flow::{FlowStatus, Runtime};

use crate::answer::{Answer, Refusal};

/// Refuses a stream that the caller may not read, whether it exists or not.
pub(crate) fn check_stream(caller: &Principal, name: &str) -> Answer<()> {
    allowed(caller.may_read_stream(name), name)
}

/// Refuses a table that the caller may not read, whether it exists or not.
pub(crate) fn check_table(caller: &Principal, name: &str) -> Answer<()> {
    allowed(caller.may_read_table(name), name)
}

/// Refuses a flow that reads a stream or a table the caller may not read, or that does not exist.
pub(crate) fn check_flow(flows: &Runtime, caller: &Principal, name: &str) -> Answer<()> {
    if caller.may_read_all() {
        return Ok(());
    }
    let status = flows.status_of(name);
    let readable = status.is_some_and(|status| may_read_status(caller, &status));
    allowed(readable, name)
}

/// The same in a version of the project, where the flow may read others than now.
pub(crate) fn check_flow_of(caller: &Principal, project: &Project, name: &str) -> Answer<()> {
    allowed(may_read_flow_of(caller, project, name), name)
}

/// Refuses callers that may not read everything, for what cannot be shown in part.
pub(crate) fn check_all(caller: &Principal, what: &str) -> Answer<()> {
    allowed(caller.may_read_all(), what)
}

/// Whether the caller may read every stream and every table that a flow reads.
pub(crate) fn may_read_flow<'a>(
    caller: &Principal,
    streams: impl IntoIterator<Item = &'a str>,
    tables: &[String],
) -> bool {
    if caller.may_read_all() {
        return true;
    }
    let mut streams = streams.into_iter().peekable();
    streams.peek().is_some()
        && streams.all(|stream| caller.may_read_stream(stream))
        && tables.iter().all(|table| caller.may_read_table(table))
}

/// The same of a flow as it runs.
pub(crate) fn may_read_status(caller: &Principal, flow: &FlowStatus) -> bool {
    let nodes = flow.nodes.iter().filter(|node| node.role == "from");
    let streams = nodes.map(|node| node.label.as_str());
    may_read_flow(caller, streams, &flow.tables)
}

/// Whether the caller may see a file of the project: that of a stream, table or flow it may read. All other
/// files, such as connections, are for callers that may read everything.
pub(crate) fn may_read_file(caller: &Principal, project: &Project, path: &str) -> bool {
    if caller.may_read_all() {
        return true;
    }
    match Bundle::classify(path) {
        Ok((Kind::Stream, name)) => caller.may_read_stream(name),
        Ok((Kind::Table, name)) => caller.may_read_table(name),
        Ok((Kind::Flow, name)) => may_read_flow_of(caller, project, name),
        _ => false,
    }
}

/// Whether the caller may read every stream and every table that a flow reads in a version of the project.
fn may_read_flow_of(caller: &Principal, project: &Project, name: &str) -> bool {
    project.flows.get(name).is_some_and(|flow| {
        let tables: Vec<String> = flow.spec.read_tables().cloned().collect();
        may_read_flow(caller, flow.spec.streams().map(String::as_str), &tables)
    })
}

fn allowed(may: bool, name: &str) -> Answer<()> {
    if may {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::FORBIDDEN,
        Error::new(Class::Permanent, "access.read-denied").with("name", busbar_event::quote(name)),
    ))
}

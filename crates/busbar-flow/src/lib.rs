//! Flows: from a stream, through steps, to streams, tables and connections, exactly once where the other
//! side can.
//!
//! A flow on one partition is a *task*, a cursor that reads, computes and appends; nothing but logs connects
//! tasks. Authors of connectors need [`connector`] and nothing else.

pub mod connector;
pub mod limits;

//! Flows: from a stream, through steps, to streams, tables and connections, exactly once where the other
//! side can.
//!
//! A flow on one partition is a *task*, a cursor that reads, computes and appends; nothing but logs connects
//! tasks. Steps are a pure function from a batch of events to rows, so that the same code runs live, in a
//! flow's tests and when dead letters are sent again. What a task wrote carries the position of its input;
//! when a crash makes it write again, logs and tables recognise it.
//!
//! Authors of connectors need [`connector`] and nothing else.
//!
//! What is absent: this crate opens no socket, knows no connector and does not parse SQL.

mod chain;
mod checkpoint;
mod compile;
pub mod connector;
mod counters;
mod dead;
pub mod limits;
#[allow(dead_code, reason = "the engine for stateful operators follows")]
mod operator;
mod output;
mod reader;
mod render;
mod runtime;
mod shape;
mod status;
mod task;
mod testing;
mod world;

pub use compile::{StreamInfo, World};
pub use connector::{
    Connector, Connectors, Delivery, Guarantee, LiteralSecret, Polled, Polling, Position, Resume,
    Roles, Sink, SinkContext, Source, SourceContext, Work, Written,
};
pub use counters::Counters;
pub use dead::DEAD_LETTERS;
pub use reader::Input;
pub use runtime::{Runtime, RuntimeOptions};
pub use status::{
    Applied, Closed, Closing, ConnectionStatus, Conservation, DeadFilter, DeadGroup, DeadLetter,
    Edge, FlowState, FlowStatus, NodeStatus, Redriven, ReplayFrom, TaskStatus,
};
pub use testing::{Difference, Report, TestReport, run_tests};
pub use world::check;

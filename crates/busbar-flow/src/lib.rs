//! Flows: from a stream, through steps, to streams, tables and connections, exactly once where the other
//! side can.
//!
//! A flow is a chain of *stages*; a stage on one partition is a *task*, a cursor that reads, computes and appends; nothing
//! but logs connects tasks. A stage ends where rows must be regrouped by another key: it writes them to a stream of the
//! flow's own, which the next stage reads. Within a stage rows go through [`operator`]s, some of which keep state. What a
//! task wrote carries the position of its input; when a crash makes it write again, logs and tables recognise it.
//!
//! What is absent: this crate opens no socket, knows no connector and does not parse SQL.

mod api;
mod blocking;
mod bounded;
mod chain;
mod checkpoint;
mod compare;
mod compile;
mod counters;
mod dead;
mod drive;
mod event_time;
mod exchange;
pub mod limits;
mod operator;
mod orchestration;
mod outgoing;
mod output;
mod panicked;
mod reader;
mod received;
mod render;
mod runtime;
mod services;
mod shape;
mod shown;
mod state;
mod status;
mod task;
mod testing;
mod world;

pub use busbar_plugin::{LogLevel, LogLine};
pub use chain::StepFate;
pub use compare::{
    ComparePlan, CompareReport, DifferingKey, RepairTarget, RowRange, ValueClass, compare,
};
pub use compile::{StreamInfo, World};
pub use counters::Counters;
pub use dead::DEAD_LETTERS;
pub use drive::SourceStatus;
pub use orchestration::{
    OrchestrationCompiler, OrchestrationPlan, OrchestrationReader, ReadEvent, ReadEvents, ReadFor,
};
pub use reader::Input;
pub use runtime::explain;
pub use runtime::{
    EventAt, FlowTrace, LetterTaker, Lineage, LineageResult, PluginReport, PluginTrial, ResendFrom,
    Resent, Runtime, RuntimeOptions, TracedOutput, TracedStep, TrialRow, TriedEvent, TriedResult,
    UnfitEvent, UnfitLetter,
};
pub use services::ServiceStatus;
pub use status::{
    Applied, BoundedRange, BoundedState, BoundedStatus, Closed, Closing, ConnectionStatus,
    Conservation, DeadFilter, DeadGroup, DeadLetter, DeadRetention, Edge, FlowState, FlowStatus,
    NodeStatus, OperatorStatus, Redriven, ReplayFrom, TaskStatus,
};
pub use testing::{
    Difference, Report, TestReport, run_tests, run_tests_over_history, run_tests_restored,
    test_plugins,
};
pub use world::check;

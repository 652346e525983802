//! Orchestrations: several services called in order, with a way back when one fails.
//!
//! An *orchestration* is a list of *parts*; an *instance* is one run of it, known by its business key. [`machine`] decides: a
//! definition, an instance and what happens to it give the next instance. [`engine`] gathers what several commands change
//! into one commit. [`executor`] is a thread that commits and then, never before, issues what the instances wait for: calls,
//! timers, events, persons. Since that follows from the state alone, a restart is the same code as a step.
//!
//! What is absent: this crate does not know SQL, HTTP, or what a stream is. Expressions and calls are behind [`PartRules`].

mod command;
mod definition;
mod disk;
mod engine;
mod executor;
mod instance;
pub mod limits;
mod machine;
mod rules;
mod store;

pub use command::{CommandReply, InstanceCommand, Issue, RulesCompiler, Started};
pub use definition::{Definition, Part, PartAction, Retry};
pub use disk::DiskStore;
pub use engine::InstanceEngine;
pub use executor::{Executor, ExecutorOptions, Notices};
pub use instance::{
    Attempt, Happened, HistoryRecord, Instance, InstanceStatus, Loop, PartDoing, PartFailure,
    Place, Undoable, Undoing, ValueMap, Waiting,
};
pub use machine::{Happening, PersonOrder};
pub use rules::{CallOutcome, PartRules, check_key};
pub use store::{HeapStore, InstanceFilter, InstanceStore, Look, StoreChange};

//! Plug-ins: programs that users write, which work on events while they pass through a flow.
//!
//! A plug-in is a folder with a [`PluginSpec`] and the program's files, together a [`Package`]. [`Plugin::start`] makes a
//! running plug-in of it: one or more *workers*, each an interpreter within the process (JavaScript) or a process of
//! its own. A worker is given batches of events and answers for each event none, one or many ([`PluginAnswers`]).
//!
//! The protocol between node and worker is a line of JSON for each frame ([`WorkerFrame`], `docs/PLUGINS.md`). Batches and their
//! answers may be Arrow IPC streams behind such a line, for a plug-in that asks for it.
//! [`WorkerMachine`] decides what is done with a worker, without doing it; `process` does it.
//!
//! What is absent: this crate knows no stream, flow, table or SQL. Requests of plug-ins for rows of tables go to a
//! [`PluginHost`].

mod answers;
mod build;
mod columns;
mod columns_answer;
mod events;
mod frame;
mod host;
#[cfg(feature = "javascript")]
mod javascript;
mod language;
pub mod limits;
mod log;
mod machine;
mod package;
mod plugin;
mod process;
mod spec;
mod template;
mod testing;
mod worker;
mod xml_worker;

pub use answers::{AnswerRow, PluginAnswers};
pub use build::{build_plugin, with_main};
pub use columns_answer::ColumnsAnswer;
pub use events::{EventForm, GivenEvent, GivenEvents};
pub use frame::{FrameDecoder, ScriptFailure, WorkerFrame};
pub use host::{NoTables, PluginHost, TableRequest};
pub use language::PluginLanguage;
pub use log::{LogLevel, LogLine};
pub use machine::{WorkerDeath, WorkerEffect, WorkerMachine};
pub use package::Package;
pub use plugin::{PendingWork, Plugin, PluginStatus};
pub use spec::{ExpectedEvent, PluginSpec, PluginTest, TestEvent};
pub use template::template;
pub use testing::{PluginTestReport, run_plugin_tests};
pub use worker::{Worked, WorkerStatus};
pub use xml_worker::{INVALID_TAG, XML_WORKER, run_xml_worker};

//! What a flow, a connection and the dead letters look like from outside.

use std::collections::{BTreeMap, BTreeSet};

use busbar_event::{Class, Error, Language};
use serde::{Deserialize, Serialize};

use crate::counters::Counters;
use crate::drive::SourceStatus;
use crate::services::ServiceStatus;
use busbar_connector::{DatabaseStatus, Guarantee, Roles};

/// A flow at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct FlowStatus {
    /// Its name.
    pub name: String,
    /// The version of the project that it came with.
    pub version: u64,
    /// What it does.
    pub state: FlowState,
    /// Why it does not run, or does not get on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
    /// The tables that its joins look rows up in.
    pub tables: Vec<String>,
    /// What people should know although the flow runs, such as that it went on from an older state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notice: Option<Error>,
    /// Its inputs, steps and outputs.
    pub nodes: Vec<NodeStatus>,
    /// How they hang together.
    pub edges: Vec<Edge>,
    /// What became of every event.
    pub conservation: Conservation,
    /// Committed events it has not read yet.
    pub lag: u64,
    /// The least watermark of its tasks, microseconds since 1970; none before the first event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watermark_micros: Option<i64>,
    /// Events that retention or damage took before it could read them.
    pub missed: u64,
    /// When this version began to run, microseconds since 1970.
    pub started_micros: i64,
    /// The positions of its tasks.
    pub tasks: Vec<TaskStatus>,
}

/// What a flow does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowState {
    /// It reads and writes.
    Running,
    /// An output fails for the moment; it tries again.
    Retrying,
    /// An input has no columns before its first event.
    Waiting,
    /// Somebody paused it.
    Paused,
    /// Its file says `enabled: false`.
    Disabled,
    /// It cannot go on; the error says why.
    Stopped,
}

/// A node of a flow's graph.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// Unique in the flow: `from:rain`, `step:0`, `to:1`.
    pub id: String,
    /// `stream`, `where`, `select`, `sql`, `topic`, `table` or `connection`.
    pub kind: &'static str,
    /// `from`, `step` or `to`.
    pub role: &'static str,
    /// The stream, the SQL, the topic's template, the table or the connection.
    pub label: String,
    /// Its name as an endpoint or mediation of a process, where the flow gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Counts since the process began; a new version goes on where the one before was.
    pub counters: Counters,
    /// Events that came in the last second.
    pub rate_in: f64,
    /// Events that went on in the last second.
    pub rate_out: f64,
    /// For inputs, relational tables and connections: committed events not read yet.
    pub lag: u64,
    /// For inputs and outputs: the least watermark of the tasks behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watermark_micros: Option<i64>,
    /// Why it does not get on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
    /// Tries since it last worked.
    pub tries: u32,
    /// For outputs: what is promised across a crash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guarantee: Option<Guarantee>,
}

/// From one node to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Edge {
    /// The node it leaves.
    pub from: String,
    /// The node it enters.
    pub to: String,
    /// Behind a `route`: the cases whose events go this way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub case: Option<String>,
}

/// The equation `in + added = out + filtered + taken + late + dead + held + overwritten + conflicts`.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Conservation {
    /// Its terms for the flow as a whole.
    #[serde(flatten)]
    pub counters: Counters,
    /// What it is off by, or any node's own, or what the cursors moved over against what was counted. Anything
    /// but 0 is an alarm: the flow's error tells it.
    pub difference: i64,
}

/// One task of a flow: a cursor.
#[derive(Clone, Debug, Serialize)]
pub struct TaskStatus {
    /// The input stream.
    pub stream: String,
    /// Its partition.
    pub partition: u16,
    /// `main`, or `to-` and the relational table or connection whose own cursor this is.
    pub lane: String,
    /// Every event before this offset is done with.
    pub position: u64,
    /// Committed events behind it.
    pub lag: u64,
    /// The greatest time of the events before the position, less the lateness of the stream, in microseconds
    /// since 1970: an event that is older comes late. It never goes back but by a replay, is kept with the
    /// position, and depends on the events alone, not on a clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watermark_micros: Option<i64>,
    /// The stage of the flow that it runs: 0 reads the streams of the file, each next one the rows of the one before.
    pub stage: usize,
    /// Behind a stage: the task of the stage before (stream and partition) whose watermark is the least, so that this one
    /// waits for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_back_by: Option<String>,
    /// Its operators that keep state.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub operators: Vec<OperatorStatus>,
}

/// An operator that keeps state, in one task.
#[derive(Clone, Debug, Serialize)]
pub struct OperatorStatus {
    /// Its name, under which the state is kept.
    pub name: String,
    /// Bytes of state in memory.
    pub memory_bytes: usize,
}

/// What [`crate::Runtime::apply`] did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Applied {
    /// Flows that run in their new version.
    pub deployed: Vec<String>,
    /// Flows that are gone.
    pub removed: Vec<String>,
    /// Flows whose meaning is as it was.
    pub unchanged: Vec<String>,
    /// Flows that could not start: the version before goes on, if there was one.
    pub failed: BTreeMap<String, Error>,
    /// What people should know of how flows have begun: state that could not be taken up.
    pub notices: BTreeMap<String, Error>,
    /// Connections that were opened or opened anew.
    pub connections: Vec<String>,
}

/// From where a flow is to read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplayFrom {
    /// The oldest event that is kept.
    Earliest,
    /// The end: skip what is there.
    Latest,
    /// The first event at or after this time, microseconds since 1970.
    Time(i64),
}

/// A connection at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionStatus {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Whether its file says `enabled`.
    pub enabled: bool,
    /// What it can be used for.
    pub roles: Roles,
    /// The source, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceStatus>,
    /// The flows that write to it or ask it.
    pub flows: Vec<String>,
    /// The service behind it, once a flow has asked it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceStatus>,
    /// What was asked of the database behind it, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseStatus>,
}

/// An event that could not be processed, with its cause.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetter {
    /// Its number among the dead letters.
    pub id: u64,
    /// The flow it died in.
    pub flow: String,
    /// Where: `decode`, `step:0`, `to:1`.
    pub place: String,
    /// The class of the cause.
    pub class: String,
    /// The code of the cause.
    pub code: String,
    /// The cause in words.
    pub message: String,
    /// The cause in Chinese words.
    pub message_zh: String,
    /// The arguments of the message.
    pub args: Vec<(String, String)>,
    /// The stream it was read from.
    pub stream: String,
    /// The partition of the stream.
    pub partition: u16,
    /// Its offset in the partition.
    pub offset: u64,
    /// When it died, microseconds since 1970.
    pub died_micros: i64,
    /// The event's topic.
    pub topic: String,
    /// The event's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The event's time, microseconds since 1970.
    pub time_micros: i64,
    /// The event's tags.
    pub tags: Vec<(String, String)>,
    /// The event's payload.
    #[serde(serialize_with = "payload_text")]
    pub payload: Vec<u8>,
    /// What was done about it; `None` while it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed: Option<Closed>,
    /// Other flows that have an open letter of the same event.
    pub also_in: Vec<String>,
    /// It is no event but a result that was made behind the one there.
    #[serde(skip)]
    pub is_result: bool,
}

/// What was done about a dead letter, by whom and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// How it was closed.
    pub how: Closing,
    /// The user; empty when a flow read the event again and processed it.
    #[serde(default)]
    pub by: String,
    /// Microseconds since 1970; 0 for letters closed by an older version.
    #[serde(default)]
    pub at_micros: i64,
}

/// How a dead letter was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Closing {
    /// It was sent through its flow again.
    Redriven,
    /// It was sent through its flow again with another payload.
    Edited,
    /// Somebody decided that it is not needed.
    Discarded,
}

impl Closing {
    /// The word for it on the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Closing::Redriven => "redriven",
            Closing::Edited => "edited",
            Closing::Discarded => "discarded",
        }
    }
}

fn payload_text<S: serde::Serializer>(payload: &[u8], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&String::from_utf8_lossy(payload))
}

/// Dead letters with one cause.
#[derive(Clone, Debug, Serialize)]
pub struct DeadGroup {
    /// The flow.
    pub flow: String,
    /// Where in the flow.
    pub place: String,
    /// The class of the cause.
    pub class: String,
    /// The code of the cause.
    pub code: String,
    /// The newest one's cause in words.
    pub message: String,
    /// The same in Chinese.
    pub message_zh: String,
    /// Whether others name something else, such as another value.
    pub varies: bool,
    /// How many there are.
    pub count: u64,
    /// How many of them are open.
    pub open: u64,
    /// When the first one died, microseconds since 1970.
    pub first_micros: i64,
    /// When the last one died.
    pub last_micros: i64,
    /// The number of the newest one.
    pub newest: u64,
}

/// How long dead letters are kept, and whether open ones will be deleted soon.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DeadRetention {
    /// Bytes the letters take on the disk.
    pub bytes: u64,
    /// Bytes beyond which the oldest are deleted; `None` for no bound.
    pub bytes_max: Option<u64>,
    /// Age in microseconds at which letters are deleted; `None` for no bound.
    pub age_max_micros: Option<i64>,
    /// When the oldest open letter died, microseconds since 1970.
    pub oldest_open_micros: Option<i64>,
    /// Whether open letters will be deleted soon: one of the two bounds is nearly reached.
    pub expires_soon: bool,
    /// Open letters that retention has deleted since the node started.
    pub expired: u64,
}

/// Which dead letters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeadFilter {
    /// Those of one flow.
    pub flow: Option<String>,
    /// Those with one code.
    #[serde(alias = "cause")]
    pub code: Option<String>,
    /// Those of one place in a flow.
    pub place: Option<String>,
    /// Those with these numbers.
    pub ids: Option<Vec<u64>>,
    /// Those of events of these streams.
    pub streams: Option<BTreeSet<String>>,
    /// Closed ones too; ignored where letters are to be changed.
    pub closed: bool,
}

/// What a re-drive did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Redriven {
    /// Events sent through their flows again.
    pub sent: u64,
    /// Of these, events that died again.
    pub died: u64,
    /// Dead letters whose flow is gone.
    pub orphaned: u64,
    /// Dead letters that stay open: sending them again could not give right results.
    pub refused: u64,
    /// Why the first of them stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Error>,
}

/// The words of a cause that was kept by code and arguments.
pub(crate) fn words(code: &str, args: &[(String, String)], language: Language) -> String {
    busbar_event::messages::text(language, code, args)
}

/// How a class is written.
pub(crate) fn class_word(class: Class) -> &'static str {
    class.as_str()
}

/// A range of time: from a time on and before another, in microseconds since 1970. What is not given has no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BoundedRange {
    /// The least time of an event.
    pub from: Option<i64>,
    /// Times of events are before it.
    pub to: Option<i64>,
}

/// What a run over a range of time does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BoundedState {
    /// It is under way.
    Running,
    /// It has read everything.
    Done,
    /// It could not go on.
    Failed,
    /// Somebody has ended it, or the node was shut down.
    Cancelled,
}

/// A run of a flow over a range of time, at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct BoundedStatus {
    /// Its number.
    pub id: u64,
    /// The flow.
    pub flow: String,
    /// The table that gets the results.
    pub into: String,
    /// The range of time.
    #[serde(flatten)]
    pub range: BoundedRange,
    /// Who began it.
    pub by: String,
    /// What it does.
    pub state: BoundedState,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
    /// Number of offsets that it has to read.
    pub offsets: u64,
    /// Number of offsets that it has read.
    pub read: u64,
    /// Events of the range.
    pub events: u64,
    /// Rows that were written.
    pub rows: u64,
    /// Events that came too late; they are kept nowhere.
    pub late: u64,
    /// Events and rows that could not be processed; they are kept nowhere.
    pub dead: u64,
    /// Why the first of them could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Error>,
    /// Events that retention or damage took before they could be read.
    pub missed: u64,
    /// In microseconds since 1970.
    pub started_micros: i64,
    /// In microseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_micros: Option<i64>,
}

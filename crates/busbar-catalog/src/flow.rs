//! `flows/<name>.yaml`: inputs, steps and outputs of a flow.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use busbar_bus::Span;

use crate::step::collect_steps;
use crate::{CallSpec, JoinSpec, PathItem, StepAt, StepSpec, TestAnswer};

/// A flow as its file says it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowSpec {
    /// What the flow is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The stream, or streams, whose events the flow reads.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(with = "OneOrMany")]
    pub from: Vec<String>,
    /// Where a flow that has never run begins. A flow is identified by the name of its file; a renamed flow of the same
    /// meaning continues where it was.
    #[serde(default)]
    pub start: Start,
    /// What is done with the events, in order.
    #[serde(default)]
    pub steps: Vec<StepSpec>,
    /// Where the results go; each result goes to every one of them.
    pub to: Vec<OutputSpec>,
    /// Examples that `busbar test` runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<TestSpec>,
    /// The names of its endpoints and mediations, where it is written as a process, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessNames>,
    /// `false`: the flow is kept but does not run.
    #[serde(default = "yes")]
    pub enabled: bool,
}

impl FlowSpec {
    /// The streams that the flow reads, each once: those under `from`, then those that only its joins name, in the order of
    /// the steps.
    pub fn streams(&self) -> impl Iterator<Item = &String> {
        let joined = self.joins().filter_map(|(.., join)| join.stream.as_ref());
        let others = joined.filter(|stream| !self.from.contains(stream));
        self.from.iter().chain(others)
    }

    /// The tables that the flow reads.
    pub fn read_tables(&self) -> impl Iterator<Item = &String> {
        self.joins().filter_map(|(.., join)| join.table.as_ref())
    }

    /// Its calls, each with the way to it in the file.
    pub fn calls(&self) -> impl Iterator<Item = (Vec<PathItem<'static>>, &CallSpec)> {
        let steps = self.all_steps().into_iter();
        steps.filter_map(|at| match at.spec {
            StepSpec::Call(call) => Some((at.path, &**call)),
            _ => None,
        })
    }

    /// The names of all that it reads, one behind the other.
    pub fn reads(&self) -> String {
        let names: Vec<&str> = self
            .streams()
            .chain(self.read_tables())
            .map(String::as_str)
            .collect();
        names.join(", ")
    }

    /// Its joins, each with the number of its step and the way to it in the file.
    pub fn joins(&self) -> impl Iterator<Item = (usize, Vec<PathItem<'static>>, &JoinSpec)> {
        let steps = self.all_steps().into_iter().enumerate();
        steps.filter_map(|(number, at)| match at.spec {
            StepSpec::Join(join) => Some((number, at.path, join)),
            _ => None,
        })
    }
}

/// The names of a flow's endpoints and mediations, as a process in XML gives them. Pictures of the flow show them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessNames {
    /// A name for each stream under `from`.
    #[serde(rename = "in")]
    pub ins: Vec<String>,
    /// A name for each step; those of a case come behind their `route` where it is the last step, and have none elsewhere.
    #[serde(default)]
    pub mediations: Vec<String>,
    /// A name for each output under `to`.
    #[serde(rename = "out")]
    pub outs: Vec<String>,
}

/// Where a flow that has never run begins: `earliest`, `latest`, or a time such as `2026-11-28T08:00:00Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub enum Start {
    /// With the oldest event that is kept.
    #[default]
    Earliest,
    /// With the first event that arrives after it was deployed.
    Latest,
    /// With the first event that is not older than this, in microseconds since 1970.
    At(i64),
}

impl Serialize for Start {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Start::Earliest => s.serialize_str("earliest"),
            Start::Latest => s.serialize_str("latest"),
            Start::At(micros) => s.serialize_str(&busbar_event::time::text(*micros)),
        }
    }
}

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        match text.as_str() {
            "earliest" => Ok(Start::Earliest),
            "latest" => Ok(Start::Latest),
            time => busbar_event::time::parse(time)
                .map(Start::At)
                .ok_or_else(|| {
                    serde::de::Error::invalid_value(
                        serde::de::Unexpected::Str(time),
                        &"earliest, latest, or a time such as 2026-11-28T08:00:00Z",
                    )
                }),
        }
    }
}

/// Where results go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "OutputFile", into = "OutputFile")]
#[schemars(with = "OutputFile")]
pub struct OutputSpec {
    /// The name by which the output is known when the file changes; without one, its kind and target.
    pub name: Option<String>,
    /// The one target.
    pub target: OutputTarget,
    /// For streams and topics: the event's key, a template.
    pub key: Option<String>,
    /// For topics: retain the last event of each topic for later subscribers.
    pub retain: bool,
    /// For tables: the columns that say what is done with each row.
    pub change: Option<OutputChange>,
}

/// The columns of results that say what is done with each row of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputChange {
    /// What is done: `insert`, `update`, `delete` and so on.
    pub change: String,
    /// Which columns keep their value.
    pub unchanged: Option<String>,
    /// The column whose greater value says which of two rows stays, and whether a row with an equal one does, too.
    pub newer: Option<(String, bool)>,
}

/// The target of an [`OutputSpec`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputTarget {
    /// A stream. Where its topic pattern has `+` or `#`, the event's own topic fills in, unless a
    /// template for the topic is given.
    Stream {
        /// The stream's name.
        stream: String,
        /// The topic's template.
        topic: Option<String>,
    },
    /// Events with this topic, a template such as `alarm/${site}/rain`; the stream that captures the
    /// topic keeps them.
    Topic(String),
    /// Rows of a table.
    Table(String),
    /// Another system.
    Connection(String),
    /// The topics that tags of the event name: `relay_to_alarm/g1`.
    Relay(RelayBy),
}

/// What says where an event is relayed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RelayBy {
    /// Its tags that begin with `relay_to_`; the rest of each name is a topic.
    Tags,
}

/// An output as it is written: one of `stream`, `topic`, `table` and `connection`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OutputFile {
    /// The name of a stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    /// A topic; `${column}` stands for a column's value, `${topic}`, `${key}`, `${kind}`, `${client}` and
    /// `${subject}` for the event's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    /// The name of a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    /// The name of a connection. Results without a topic of their own have the flow's name as topic there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connection: Option<String>,
    /// `tags`: each event is published on the topics that its tags `relay_to_<topic>` name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    relay: Option<RelayBy>,
    /// The event's key, a template as for `topic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// Retain the last event of each topic for later subscribers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retain: Option<bool>,
    /// For tables: a column that says for each row what is done, as change sources write it. `insert`, `read`, `update` and
    /// `upsert` put the row, `delete` deletes the one with its key, `truncate` empties the table, `schema` is ignored. The
    /// column is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    change: Option<String>,
    /// With `change`: a column that names the columns of a row that keep their value, as a JSON list or with commas. It is not
    /// written either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unchanged: Option<String>,
    /// With `change`: a column that grows with each change of a row: a number, a time or a text. A row takes the place of the
    /// one there only where its value is greater, and deletes it only where the one there is not greater than that of the deleted
    /// row; one that gives way is counted. A row without a value, and `truncate`, become dead letters. For tables that are kept by
    /// the node itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    newer: Option<String>,
    /// With `newer`: a row with an equal value takes the place of the one there, too. On exactly one of two sides.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    or_equal: bool,
    /// The name by which the output is known when the file changes: with another name it begins anew. Without one it is
    /// known by its kind and target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

impl TryFrom<OutputFile> for OutputSpec {
    type Error = &'static str;
    fn try_from(file: OutputFile) -> Result<Self, &'static str> {
        let retain = file.retain;
        let places = (file.stream, file.topic, file.table, file.connection);
        let target = match (places, file.relay) {
            ((None, None, None, None), Some(by)) => OutputTarget::Relay(by),
            ((Some(stream), topic, None, None), None) => OutputTarget::Stream { stream, topic },
            ((None, Some(topic), None, None), None) => OutputTarget::Topic(topic),
            ((None, None, Some(table), None), None) => OutputTarget::Table(table),
            ((None, None, None, Some(connection)), None) => OutputTarget::Connection(connection),
            ((None, None, None, None), None) => {
                return Err("an output needs one of stream, topic, table, connection, relay");
            }
            _ => {
                return Err(
                    "an output goes to one place: stream, topic, table, connection or relay",
                );
            }
        };
        let events = matches!(target, OutputTarget::Stream { .. } | OutputTarget::Topic(_));
        if !events && (file.key.is_some() || retain.is_some()) {
            return Err("`key` and `retain` belong to outputs to a stream or topic");
        }
        if !matches!(target, OutputTarget::Table(_)) && file.change.is_some() {
            return Err(
                "`change` belongs to outputs to a table; a connection has its own in `write`",
            );
        }
        if file.change.is_none() && file.unchanged.is_some() {
            return Err("`unchanged` needs `change`");
        }
        if file.change.is_none() && file.newer.is_some() || file.newer.is_none() && file.or_equal {
            return Err("`newer` needs `change`, and `or_equal` needs `newer`");
        }
        let unchanged = file.unchanged;
        let newer = file.newer.map(|column| (column, file.or_equal));
        let change = file.change;
        Ok(OutputSpec {
            name: file.name,
            target,
            key: file.key,
            retain: retain.unwrap_or(false),
            change: change.map(|change| OutputChange {
                change,
                unchanged,
                newer,
            }),
        })
    }
}

impl From<OutputSpec> for OutputFile {
    fn from(spec: OutputSpec) -> Self {
        let (change, unchanged, newer) = spec.change.map_or((None, None, None), |of| {
            (Some(of.change), of.unchanged, of.newer)
        });
        let (newer, or_equal) =
            newer.map_or((None, false), |(column, equal)| (Some(column), equal));
        let mut file = OutputFile {
            change,
            unchanged,
            newer,
            or_equal,
            key: spec.key,
            retain: spec.retain.then_some(true),
            name: spec.name,
            ..Default::default()
        };
        match spec.target {
            OutputTarget::Stream { stream, topic } => {
                file.stream = Some(stream);
                file.topic = topic;
            }
            OutputTarget::Topic(topic) => file.topic = Some(topic),
            OutputTarget::Table(table) => file.table = Some(table),
            OutputTarget::Connection(connection) => file.connection = Some(connection),
            OutputTarget::Relay(by) => file.relay = Some(by),
        }
        file
    }
}

impl OutputSpec {
    /// What cases of a `route` call it: its name, or else its target.
    pub fn reference(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| self.target_name())
    }
}

impl FlowSpec {
    /// All steps, those of cases behind their `route`. A step is known by its number in this list.
    pub fn all_steps(&self) -> Vec<StepAt<'_>> {
        let mut all = Vec::new();
        collect_steps(&self.steps, &[], None, &mut all);
        all
    }

    /// Lets cases that lead to some outputs lead to all of them.
    pub fn lead_everywhere(&mut self) {
        self.steps.iter_mut().for_each(StepSpec::lead_everywhere);
    }

    /// The number of the output that a case of a `route` names: by its name, or by its target.
    pub fn output_named(&self, name: &str) -> Option<usize> {
        let named = |output: &OutputSpec| output.name.as_deref() == Some(name);
        let target = |output: &OutputSpec| output.name.is_none() && output.target_name() == name;
        let mut outputs = self.to.iter();
        let place = outputs.position(named);
        place.or_else(|| self.to.iter().position(target))
    }
}

impl OutputSpec {
    /// The key in the file: `stream`, `topic`, `table` or `connection`.
    pub fn kind(&self) -> &'static str {
        match self.target {
            OutputTarget::Stream { .. } => "stream",
            OutputTarget::Topic(_) => "topic",
            OutputTarget::Table(_) => "table",
            OutputTarget::Connection(_) => "connection",
            OutputTarget::Relay(_) => "relay",
        }
    }

    /// The stream's, table's or connection's name, or the topic's template.
    pub fn target_name(&self) -> &str {
        match &self.target {
            OutputTarget::Stream { stream, .. } => stream,
            OutputTarget::Topic(name)
            | OutputTarget::Table(name)
            | OutputTarget::Connection(name) => name,
            OutputTarget::Relay(RelayBy::Tags) => "tags",
        }
    }
}

/// One example: these events in, those rows out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestSpec {
    /// What the example shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The inputs, in order.
    pub given: Vec<Given>,
    /// The expected rows, or events, in order.
    #[serde(default)]
    pub expect: Vec<Expect>,
    /// In place of `expect`: the expected rows, or events, of each output, by its name or target. One that is not named here
    /// must get nothing.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub outputs: std::collections::BTreeMap<String, Vec<Expect>>,
    /// The expected number of dead letters, or a list of them; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead: Option<ExpectDead>,
    /// What `call` steps get for an answer, by the name of the connection: a test calls nobody.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub answers: std::collections::BTreeMap<String, Vec<TestAnswer>>,
}

/// The dead letters that a test expects, in any order.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ExpectDead {
    /// Number of dead letters, of any cause.
    Count(usize),
    /// Exactly these dead letters.
    Each(Vec<ExpectLetter>),
}

/// An expected dead letter: the keys that are given must match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpectLetter {
    /// Where the event failed: `decode`, `step:0`, `to:1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// The code of the cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Text that the message must contain, in English or Chinese.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl<'de> Deserialize<'de> for ExpectDead {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> serde::de::Visitor<'de> for Any {
            type Value = ExpectDead;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of dead letters or a list of them")
            }
            fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<ExpectDead, E> {
                usize::try_from(count)
                    .map(ExpectDead::Count)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(count), &self))
            }
            fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<ExpectDead, E> {
                usize::try_from(count)
                    .map(ExpectDead::Count)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(count), &self))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> Result<ExpectDead, A::Error> {
                let mut letters = Vec::new();
                while let Some(letter) = seq.next_element()? {
                    letters.push(letter);
                }
                Ok(ExpectDead::Each(letters))
            }
        }
        d.deserialize_any(Any)
    }
}

/// One input of a test.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Given {
    /// The stream that the event belongs to; without it the one that captures its topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// Instead of an event: the table that `payload` is a row of, for a flow that looks it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The event's topic. Without it a topic of its stream, or of the flow's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The payload: text goes as it is, anything else as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<serde_json::Value>,
    /// The event's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The event's time, RFC 3339. Without it the test's clock, which is never behind an event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The event's tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<std::collections::BTreeMap<String, String>>,
    /// Instead of an event: advances the test's clock by this span.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advance: Option<Span>,
}

/// An expected row: the columns named here must have these values, other columns are ignored. Fractions are compared to
/// nine places. With `topic` and `payload` as the only keys, it is an expected event of the first output with a topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Expect(pub serde_json::Map<String, serde_json::Value>);

/// An expected row seen as an event.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpectEvent<'a> {
    /// The topic it must have.
    pub topic: &'a str,
    /// The payload it must have, when one is given.
    pub payload: Option<&'a serde_json::Value>,
}

impl Expect {
    /// The row as an event, when it names a topic and nothing but `topic` and `payload`.
    pub fn event(&self) -> Option<ExpectEvent<'_>> {
        let topic = self.0.get("topic")?.as_str()?;
        let rest = self.0.keys().all(|k| k == "topic" || k == "payload");
        rest.then(|| ExpectEvent {
            topic,
            payload: self.0.get("payload"),
        })
    }
}

/// A name, or a list of names.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes the shape for the JSON Schema")]
enum OneOrMany {
    /// One stream.
    One(String),
    /// Several streams.
    Many(Vec<String>),
}

fn one_or_many<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    one_or_many_of(d, "a stream's name or a list of them")
}

/// Reads a text or a list of texts; `expected` says what they are.
pub(crate) fn one_or_many_of<'de, D: Deserializer<'de>>(
    d: D,
    expected: &'static str,
) -> Result<Vec<String>, D::Error> {
    struct Names(&'static str);
    impl<'de> serde::de::Visitor<'de> for Names {
        type Value = Vec<String>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
        fn visit_str<E>(self, name: &str) -> Result<Vec<String>, E> {
            Ok(vec![name.to_owned()])
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(
            self,
            mut seq: A,
        ) -> Result<Vec<String>, A::Error> {
            let mut names = Vec::new();
            while let Some(name) = seq.next_element()? {
                names.push(name);
            }
            Ok(names)
        }
    }
    d.deserialize_any(Names(expected))
}

fn yes() -> bool {
    true
}

//! `kafka`: a Kafka cluster, or one that speaks its protocol. Topics are read, or rows are written to them.
//!
//! ```yaml
//! kafka:
//!   brokers: ["kafka-1.example:9092", "kafka-2.example:9092"]
//!   read: { topics: [orders, "meter-*"] }
//! ```

mod failure;
mod group;
mod kept;
mod limits;
mod link;
mod lost_end;
mod member;
mod producer;
mod publish;
mod reader;
mod rows;
mod server;
mod sink;
mod source;
mod start;
mod survey;

use std::sync::Arc;

use busbar_bus::Span;
use busbar_catalog::{ConnectionSpec, Diagnostic, Project, Template};
use busbar_connector::{
    Connector, Guarantee, LiteralSecret, Roles, Sink, SinkContext, Source, SourceContext, Survey,
    Work,
};
use busbar_event::{Class, Error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::places::Places;
use crate::secret::{self, Secret, refuse_placeholder};
use crate::topic::TopicTemplate;
use crate::{lacks_sink, lacks_source};
use server::{KafkaProof, KafkaServer, KafkaTls, Mechanism};
use sink::KafkaSink;
use source::KafkaSource;
use start::{ReadStart, TopicPattern};

/// The connector.
pub struct Kafka {
    places: Places,
}

/// A Kafka cluster of version 2.1 and newer, or one that speaks its protocol.
///
/// As a source: each record once, in the order of its partition; how far each partition has been read is kept here. Records of
/// transactions come when the transaction is committed; those of one that is given up do not come. One node reads all
/// partitions, or those of `partitions`; or several share them as members of a consumer group (`join`). A partition that goes to
/// another member in good order goes on where this one has stopped; after a crash of this node the records of its last half
/// second come at the other member again. The event's key, time and payload are those of the record, and its headers are tags.
/// New topics and partitions are noticed while it runs. Records that the cluster removed before they were read stop the
/// connection, unless `lost` says that it goes on.
///
/// As a sink: exactly once, for readers that read committed records only (`isolation.level=read_committed`). Each delivery is
/// a transaction that also keeps how far its producer has come, as an offset of a group that is named like the transaction.
/// Without a key the rows of one topic of Busbar go to one partition; with a key, those of the key, where Kafka's own clients
/// put it. A row that is too large becomes a dead letter and the others of its delivery are written.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KafkaOptions {
    /// Hosts and ports of some brokers; the others are found by them.
    brokers: Vec<String>,
    /// TLS; `{}` trusts the usual authorities.
    tls: Option<KafkaTls>,
    /// Who asks, where the brokers want to know it.
    sasl: Option<Sasl>,
    /// How long a request may take.
    #[serde(default = "half_a_minute")]
    timeout: Span,
    /// Topics to read; makes the connection a source.
    read: Option<KafkaRead>,
    /// Where rows are written; makes the connection a sink.
    write: Option<KafkaWrite>,
}

/// Who asks.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Sasl {
    /// How it is proved.
    mechanism: Mechanism,
    /// User name.
    user: String,
    /// Password: a text, `{ env: NAME }` or `{ file: PATH }`.
    password: Secret,
}

/// What is read. The connection's `topic` may use `${topic}`, `${partition}`, `${key}` and `${connection}`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KafkaRead {
    /// Names of topics, with `*` for any text: `meter-*`. Kafka's own topics are read only by their whole name.
    topics: Vec<String>,
    /// The partitions that are read; all of them without it. Two nodes that share a topic read different ones.
    partitions: Option<Vec<i32>>,
    /// Where a partition begins that was never read: `earliest`, `latest`, or a time such as `2026-01-31T00:00:00Z`.
    #[serde(default)]
    start: String,
    /// What becomes of a partition whose records the cluster removed before they were read.
    #[serde(default)]
    lost: Lost,
    /// A consumer group that is told how far each partition has been read, so that other tools show it. It has no members unless
    /// `join` is on.
    group: Option<String>,
    /// Joins the group: its members, which may be nodes and any other consumers, share the partitions of its topics. Needs Kafka 2.3
    /// or newer.
    #[serde(default)]
    join: bool,
    /// After which time without a word the others take over the partitions of a member, with `join`. Brokers bound it, from
    /// 6 s to 30 min unless they are told otherwise.
    #[serde(default = "fifteen_seconds")]
    session: Span,
    /// Adds the tags `kafka-partition` and `kafka-offset` to each event.
    #[serde(default)]
    offset_tags: bool,
    /// A higher number reads everything again, as `start` says: after a topic was deleted and made anew, for example.
    #[serde(default)]
    generation: u32,
}

/// What becomes of a partition whose next records are not there any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Lost {
    /// The connection stops and says how many records are lost.
    #[default]
    Stop,
    /// It says so, and goes on with the oldest record that is there.
    Earliest,
}

/// How rows are written.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KafkaWrite {
    /// The topic, with values of the row in it if need be: `alarm-${site}`. `/` becomes `.`, and what Kafka's names cannot
    /// have becomes `_`. It must exist.
    topic: String,
    /// The record's key, with values of the row in it: `${id}`. Without it the event's own key, if it has one.
    key: Option<String>,
    /// How records are compressed.
    #[serde(default)]
    compression: Compression,
    /// A column that says for each row what is done: `delete` writes a record without a value, which a compacted topic
    /// deletes the key by; `truncate` and `schema` are left out; the others are written. Change sources write it.
    change: Option<String>,
    /// Under which name positions and transactions are kept, by default the connection's. Two nodes that write to one cluster
    /// from flows of the same name need different ones.
    producer: Option<String>,
    /// The topic in whose name the positions are kept; needed where `topic` has values of the row in it. It must exist, and
    /// nothing is written to it.
    positions: Option<String>,
}

/// How records are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Compression {
    /// Not at all.
    #[default]
    None,
    /// LZ4: fast.
    Lz4,
    /// Zstandard: smaller.
    Zstd,
    /// gzip, which the oldest clients read.
    Gzip,
}

const DEFAULT_TOPIC: &str = "${connection}/${topic}";
const OFFERED: [&str; 4] = ["connection", "key", "partition", "topic"];

fn fifteen_seconds() -> Span {
    Span::from_micros(15_000_000)
}

fn half_a_minute() -> Span {
    Span::from_micros(30_000_000)
}

impl KafkaRead {
    /// What is wrong with it: the option, and why.
    fn refusal(&self) -> Option<(&'static str, Error)> {
        let refuse = |option, error| Some((option, error));
        let wrong = |code| Error::new(Class::Configuration, code);
        let count = self.topics.len();
        let mut names: Vec<_> = self.topics.iter().collect();
        names.sort();
        names.dedup();
        if !(1..=limits::TOPICS_MAX).contains(&count) || names.len() != count {
            let error = wrong("kafka.topics").with("most", limits::TOPICS_MAX);
            return refuse("topics", error);
        }
        let bad = self
            .topics
            .iter()
            .find(|topic| TopicPattern::new(topic).is_none());
        if let Some(bad) = bad {
            let error = wrong("kafka.topic-name").with("topic", busbar_event::quote(bad));
            return refuse("topics", error);
        }
        if let Some(partitions) = &self.partitions
            && (partitions.is_empty() || partitions.iter().any(|number| *number < 0))
        {
            return refuse("partitions", wrong("kafka.partitions"));
        }
        if self.join && (self.group.is_none() || self.partitions.is_some()) {
            return refuse("join", wrong("kafka.join"));
        }
        let session = self.session.as_duration();
        if !(limits::SESSION_MIN..=limits::SESSION_MAX).contains(&session) {
            let error = wrong("kafka.session").with("least_s", limits::SESSION_MIN.as_secs());
            let error = error.with("most_s", limits::SESSION_MAX.as_secs());
            return refuse("session", error);
        }
        if ReadStart::parse(&self.start).is_none() {
            return refuse("start", wrong("kafka.start"));
        }
        match &self.group {
            Some(group) if !is_name(group) => refuse("group", wrong("kafka.group-name")),
            _ => None,
        }
    }
}

impl KafkaWrite {
    /// What is wrong with it: the option, and why.
    fn refusal(&self) -> Option<(&'static str, Error)> {
        let wrong = |code| Error::new(Class::Configuration, code);
        let named =
            |topic: &str| wrong("kafka.topic-name").with("topic", busbar_event::quote(topic));
        let topic = match Template::parse(&self.topic) {
            Ok(topic) => topic,
            Err((_, error)) => return Some(("topic", error)),
        };
        match (topic.literal(), &self.positions) {
            (Some(topic), _) if !start::is_topic(topic) => return Some(("topic", named(topic))),
            (None, None) => return Some(("topic", wrong("kafka.positions-needed"))),
            (_, Some(positions)) if !start::is_topic(positions) => {
                return Some(("positions", named(positions)));
            }
            _ => {}
        }
        if let Some(Err((_, error))) = self.key.as_deref().map(Template::parse) {
            return Some(("key", error));
        }
        match &self.producer {
            Some(producer) if !is_name(producer) => Some(("producer", wrong("kafka.group-name"))),
            _ => None,
        }
    }
}

/// Whether a group or a transaction may have this name.
fn is_name(name: &str) -> bool {
    (1..=limits::NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
}

impl Kafka {
    pub(crate) fn new(places: Places) -> Kafka {
        Kafka { places }
    }

    fn options(&self, spec: &ConnectionSpec) -> Result<KafkaOptions, Diagnostic> {
        for path in [&["sasl", "user"][..], &["sasl", "password"]] {
            refuse_placeholder(spec, path)?;
        }
        let options: KafkaOptions = spec.options.read()?;
        let wrong = |code| Error::new(Class::Configuration, code);
        let refuse = |key: &str, error| spec.options.diagnostic(key, error);
        let inner = |path: [&str; 2], error| match spec.options.at(&path.map(str::to_owned)) {
            Some(node) => spec.options.diagnostic_at(node, error),
            None => spec.options.diagnostic(path[0], error),
        };
        let address = |address: &String| {
            let (host, port) = address.rsplit_once(':')?;
            let port = port.parse::<u16>().ok().filter(|port| *port > 0);
            (!host.is_empty()).then_some(())?;
            port.map(drop)
        };
        let count = options.brokers.len();
        if !(1..=limits::BROKERS_MAX).contains(&count)
            || !options
                .brokers
                .iter()
                .all(|broker| address(broker).is_some())
        {
            return Err(refuse("brokers", wrong("kafka.brokers")));
        }
        let timeout = options.timeout.as_duration();
        if timeout.is_zero() || timeout > limits::TIMEOUT_MAX {
            let error = wrong("kafka.timeout").with("most_s", limits::TIMEOUT_MAX.as_secs());
            return Err(refuse("timeout", error));
        }
        if let Some(tls) = &options.tls {
            for file in [&tls.ca, &tls.certificate, &tls.key].into_iter().flatten() {
                let checked = self.places.check(file);
                checked.map_err(|code| refuse("tls", wrong(code)))?;
            }
            if tls.certificate.is_some() != tls.key.is_some() {
                return Err(refuse("tls", wrong("kafka.tls-pair")));
            }
        }
        if let Some(file) = options.sasl.as_ref().and_then(|sasl| sasl.password.file()) {
            let checked = self.places.check(file);
            checked.map_err(|code| refuse("sasl", wrong(code)))?;
        }
        match (&options.read, &options.write) {
            (None, None) | (Some(_), Some(_)) => {
                return Err(refuse("write", wrong("kafka.no-role")));
            }
            (Some(read), None) => {
                if let Some((option, error)) = read.refusal() {
                    return Err(inner(["read", option], error));
                }
                self.topic(spec)?;
            }
            (None, Some(write)) => {
                if let Some((option, error)) = write.refusal() {
                    return Err(inner(["write", option], error));
                }
            }
        }
        Ok(options)
    }

    fn topic(&self, spec: &ConnectionSpec) -> Result<TopicTemplate, Diagnostic> {
        TopicTemplate::read(spec, DEFAULT_TOPIC, &OFFERED)
    }

    /// Where the cluster is. Blocks on the disk when the password stands in a file.
    fn server(
        &self,
        options: &KafkaOptions,
        project: &Arc<std::path::Path>,
    ) -> Result<Arc<KafkaServer>, Error> {
        let proof = options.sasl.as_ref().map(|sasl| {
            let password = sasl.password.read(project, &self.places)?;
            Ok::<_, Error>(KafkaProof {
                mechanism: sasl.mechanism,
                user: sasl.user.clone(),
                password,
            })
        });
        Ok(Arc::new(KafkaServer {
            brokers: options.brokers.iter().map(|b| b.as_str().into()).collect(),
            tls: options.tls.clone(),
            proof: proof.transpose()?,
            timeout: options.timeout.as_duration(),
            project: Arc::clone(project),
            places: self.places.clone(),
            encryption: OnceCell::new(),
        }))
    }
}

impl Connector for Kafka {
    fn kind(&self) -> &'static str {
        "kafka"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        let options = self.options(spec)?;
        Ok(Roles {
            source: options.read.is_some(),
            sink: options.write.is_some(),
            service: false,
        })
    }

    fn schema(&self) -> serde_json::Value {
        schemars::schema_for!(KafkaOptions).to_value()
    }

    fn warnings(&self, spec: &ConnectionSpec, _: &Project) -> Vec<Diagnostic> {
        secret::warnings(spec, &self.secrets(spec))
    }

    fn secrets(&self, spec: &ConnectionSpec) -> Vec<LiteralSecret> {
        secret::literals(spec, &[&["sasl", "password"]])
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn survey<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        project_dir: Arc<std::path::Path>,
        tables: bool,
    ) -> Work<'a, Result<Survey, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let server = self.server(&options, &project_dir)?;
            survey::survey(&server, tables).await
        })
    }

    fn source<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SourceContext,
    ) -> Work<'a, Result<Box<dyn Source>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let server = self.server(&options, &context.project_dir)?;
            let read = options.read.ok_or_else(|| lacks_source(self.kind()))?;
            let topic = self.topic(spec)?;
            let source = KafkaSource::new(server, read, topic, context);
            Ok(Box::new(source) as Box<dyn Source>)
        })
    }

    fn sink<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SinkContext,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let server = self.server(&options, &context.project_dir)?;
            let write = options.write.ok_or_else(|| lacks_sink(self.kind()))?;
            let sink = KafkaSink::new(server, write, context)?;
            Ok(Box::new(sink) as Box<dyn Sink>)
        })
    }
}

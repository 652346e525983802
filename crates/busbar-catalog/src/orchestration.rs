//! `orchestrations/<name>.yaml`: several services called in order, with a way back when one fails.

use busbar_bus::Span;
use busbar_event::format::SchemaSpec;
use busbar_event::{Class, Error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::{
    EXPRESSION_BYTES_MAX, ORCHESTRATION_DEPTH_MAX, ORCHESTRATION_PARTS_MAX,
    ORCHESTRATION_STARTS_MAX,
};
use crate::{CallSpec, Diagnostic, PathItem, Source, check_name};

/// Calls services part by part. What has happened is on the disk before the next part begins, so that an instance goes on
/// after a crash where it was. When a part fails for good, what the parts before it did is undone in reverse order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrchestrationSpec {
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The values that an instance begins with, with their types.
    #[serde(default, skip_serializing_if = "no_columns")]
    pub input: SchemaSpec,
    /// The business key, a text with SQL expressions over the input such as `${order_id}`. There is one instance for each key.
    pub key: String,
    /// What starts instances besides the API.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub start: Vec<OrchestrationStart>,
    /// What is done, in order.
    pub parts: Vec<PartSpec>,
    /// What callers get as the answer, a list as after SQL's `SELECT`; without it, all values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// What happens when a part fails for good.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// How long an instance that has ended, and its key, are kept. Without it 30 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Span>,
    /// `false`: no instance starts; those that run go on.
    #[serde(default = "yes")]
    pub enabled: bool,
}

/// What happens when a part fails for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// What was done is undone at once.
    #[default]
    Compensate,
    /// The instance waits for a person, who lets the part be tried again or cancels the instance.
    Wait,
}

/// What starts instances: the events of a stream, or the clock. One of `stream` and `every`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrchestrationStart {
    /// The stream whose events start instances. Its columns are declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// Only events for which this condition is true.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// The input made of an event, a list as after SQL's `SELECT`; without it, the columns that have the input's names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<String>,
    /// By the clock: this often since 1970-01-01T00:00Z. The input `scheduled_at`, where it is declared, is the time that was due.
    /// Times that passed while the node was down start one instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
    /// How far the times of `every` are behind its multiples: with `every: 1d` and `offset: 16h`, midnight in China.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<Span>,
    /// With `every`: the values of the input.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub input: serde_json::Map<String, serde_json::Value>,
}

/// One part. Besides its name it has one of `call`, `branch`, `parallel`, `each`, `wait`, `event`, `person`, `set` and `fail`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PartSpec {
    /// Its name, which no other part of the orchestration has.
    pub name: String,
    /// Asks a service. The columns of its answer are values for the parts behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<Box<CallSpec>>,
    /// With `call`: what undoes it. It must be harmless when there is nothing to undo, since it is also sent when nobody knows
    /// whether the call has reached the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensate: Option<Box<CallSpec>>,
    /// With `call`: when it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    /// The parts of the first case whose condition is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<Vec<BranchCase>>,
    /// Lists of parts that run at the same time; the next part begins when all have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel: Option<Vec<Vec<PartSpec>>>,
    /// The same parts for each element of a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each: Option<Box<EachSpec>>,
    /// Waits so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Span>,
    /// Waits for an event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Box<AwaitSpec>>,
    /// Waits for a person who fills in a form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<Box<PersonSpec>>,
    /// Makes values, a list as after SQL's `SELECT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// Fails with this text, in which expressions may stand: what was done is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail: Option<String>,
}

/// A case of a `branch`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BranchCase {
    /// Its condition. Null counts as false. Without one it is the case for all others, and the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// What is done then; nothing is allowed.
    #[serde(default)]
    pub parts: Vec<PartSpec>,
}

/// A loop over a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EachSpec {
    /// The list: an expression of type json, or a text with a list in JSON.
    pub list: String,
    /// The values of an element, with their types. Elements that are no objects have the value `value`.
    pub columns: SchemaSpec,
    /// What is done for each element. What its parts give is known within the loop only.
    pub parts: Vec<PartSpec>,
    /// The value, of type json, that holds what the parts gave for each element, in the order of the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gather: Option<String>,
    /// Elements under way at a time; without it one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub at_once: Option<u16>,
}

/// Waits for an event of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AwaitSpec {
    /// The stream. Its columns are declared.
    pub stream: String,
    /// The expression over an event that says whom it is for.
    pub by: String,
    /// What `by` must be equal to, a text with expressions over the instance's values; without it the business key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<String>,
    /// Only events for which this condition is true.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// The values that are taken from the event, a list as after SQL's `SELECT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<String>,
    /// How long to wait at most; without it for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
    /// What happens when the time is over.
    #[serde(default)]
    pub late: Late,
}

/// What happens when the time of a part is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Late {
    /// The part fails.
    #[default]
    Fail,
    /// The next part begins; the values of this one are null.
    Continue,
}

/// Waits for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PersonSpec {
    /// What the person is asked, a text in which expressions may stand.
    pub title: String,
    /// The fields of the form, with their types.
    #[serde(default, skip_serializing_if = "no_columns")]
    pub form: SchemaSpec,
    /// How long to wait at most; without it for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
    /// What happens when the time is over.
    #[serde(default)]
    pub late: Late,
}

/// When a call that has failed is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetrySpec {
    /// How often it is tried in all. Without it 5 times, and 10 times to undo it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tries: Option<u32>,
    /// The wait before the second try; each further wait is twice as long. Without it 1 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<Span>,
    /// The longest wait. Without it 1 min.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<Span>,
    /// Which failures are tried again; without it those that may pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Vec<RetryClass>>,
}

/// A kind of failure of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RetryClass {
    /// No answer, or one that says "later": 408, 425, 429, 5xx.
    Transient,
    /// An answer that refuses the request.
    Permanent,
}

/// What a part does.
#[derive(Clone, Copy, Debug)]
pub enum PartKind<'a> {
    /// `call`.
    Call(&'a CallSpec),
    /// `branch`.
    Branch(&'a [BranchCase]),
    /// `parallel`.
    Parallel(&'a [Vec<PartSpec>]),
    /// `each`.
    Each(&'a EachSpec),
    /// `wait`.
    Wait(Span),
    /// `event`.
    Event(&'a AwaitSpec),
    /// `person`.
    Person(&'a PersonSpec),
    /// `set`.
    Set(&'a str),
    /// `fail`.
    Fail(&'a str),
}

impl PartSpec {
    /// What it does, and the key in the file; none where it is not exactly one thing.
    pub fn kind(&self) -> Option<(PartKind<'_>, &'static str)> {
        let kinds = [
            self.call.as_deref().map(|c| (PartKind::Call(c), "call")),
            self.branch
                .as_deref()
                .map(|c| (PartKind::Branch(c), "branch")),
            self.parallel
                .as_deref()
                .map(|p| (PartKind::Parallel(p), "parallel")),
            self.each.as_deref().map(|e| (PartKind::Each(e), "each")),
            self.wait.map(|span| (PartKind::Wait(span), "wait")),
            self.event.as_deref().map(|e| (PartKind::Event(e), "event")),
            self.person
                .as_deref()
                .map(|p| (PartKind::Person(p), "person")),
            self.set.as_deref().map(|s| (PartKind::Set(s), "set")),
            self.fail.as_deref().map(|f| (PartKind::Fail(f), "fail")),
        ];
        let mut kinds = kinds.into_iter().flatten();
        match (kinds.next(), kinds.next()) {
            (Some(kind), None) => Some(kind),
            _ => None,
        }
    }

    /// The lists of parts within it, each with the way to it.
    pub fn bodies(&self) -> Vec<(Vec<PathItem<'static>>, &[PartSpec])> {
        match self.kind() {
            Some((PartKind::Branch(cases), _)) => {
                let cases = cases.iter().enumerate();
                cases
                    .map(|(i, case)| {
                        let way = vec!["branch".into(), i.into(), "parts".into()];
                        (way, &case.parts[..])
                    })
                    .collect()
            }
            Some((PartKind::Parallel(lists), _)) => {
                let lists = lists.iter().enumerate();
                lists
                    .map(|(i, parts)| (vec!["parallel".into(), i.into()], &parts[..]))
                    .collect()
            }
            Some((PartKind::Each(each), _)) => {
                vec![(vec!["each".into(), "parts".into()], &each.parts[..])]
            }
            _ => Vec::new(),
        }
    }
}

impl OrchestrationSpec {
    /// All parts, each with the way to it in the file; those within a part behind it.
    pub fn all_parts(&self) -> Vec<(Vec<PathItem<'static>>, &PartSpec)> {
        fn collect<'a>(
            parts: &'a [PartSpec],
            path: &[PathItem<'static>],
            all: &mut Vec<(Vec<PathItem<'static>>, &'a PartSpec)>,
        ) {
            for (i, part) in parts.iter().enumerate() {
                let mut own = path.to_vec();
                own.push(i.into());
                all.push((own.clone(), part));
                for (below, parts) in part.bodies() {
                    collect(parts, &[&own[..], &below[..]].concat(), all);
                }
            }
        }
        let mut all = Vec::new();
        collect(&self.parts, &["parts".into()], &mut all);
        all
    }

    /// The connections that it calls, each with the way to the name in the file.
    pub fn connections(&self) -> Vec<(Vec<PathItem<'static>>, &str)> {
        let mut all = Vec::new();
        for (path, part) in self.all_parts() {
            for (key, call) in [("call", &part.call), ("compensate", &part.compensate)] {
                if let Some(call) = call {
                    let way = [&path[..], &[key.into(), "connection".into()]].concat();
                    all.push((way, call.connection.as_str()));
                }
            }
        }
        all
    }

    /// The streams that it reads, each with the way to the name in the file.
    pub fn streams(&self) -> Vec<(Vec<PathItem<'static>>, &str)> {
        let starts = self.start.iter().enumerate().filter_map(|(i, start)| {
            let way = vec!["start".into(), i.into(), "stream".into()];
            Some((way, start.stream.as_deref()?))
        });
        let mut all: Vec<_> = starts.collect();
        for (path, part) in self.all_parts() {
            if let Some(event) = &part.event {
                let way = [&path[..], &["event".into(), "stream".into()]].concat();
                all.push((way, event.stream.as_str()));
            }
        }
        all
    }

    /// Checks what the types of the fields do not say.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self, source: &Source) -> Result<(), Diagnostic> {
        let new = |code| Error::new(Class::Configuration, code);
        let at = |path: &[PathItem<'static>], error| source.diagnostic(path, None, error);
        if self.parts.is_empty() {
            return Err(at(&["parts".into()], new("catalog.parts-none")));
        }
        if self.start.len() > ORCHESTRATION_STARTS_MAX {
            let error = new("catalog.starts-many").with("most", ORCHESTRATION_STARTS_MAX);
            return Err(at(&["start".into()], error));
        }
        for (i, start) in self.start.iter().enumerate() {
            let fits = match (&start.stream, &start.every) {
                (Some(_), None) => start.offset.is_none() && start.input.is_empty(),
                (None, Some(every)) => {
                    every.as_micros() >= 1_000_000
                        && start.condition.is_none()
                        && start.select.is_none()
                }
                _ => false,
            };
            if !fits {
                return Err(at(&["start".into(), i.into()], new("catalog.start-one")));
            }
        }
        let parts = self.all_parts();
        if parts.len() > ORCHESTRATION_PARTS_MAX {
            let error = new("catalog.parts-many").with("most", ORCHESTRATION_PARTS_MAX);
            return Err(at(&["parts".into()], error));
        }
        let mut names = std::collections::BTreeSet::new();
        for (path, part) in parts {
            if path.iter().filter(|item| **item == "parts".into()).count() > ORCHESTRATION_DEPTH_MAX
            {
                let error = new("catalog.parts-deep").with("most", ORCHESTRATION_DEPTH_MAX);
                return Err(at(&path, error));
            }
            let below = |key: &'static str| [&path[..], &[key.into()]].concat();
            if let Err(error) = check_name(&part.name) {
                return Err(at(&below("name"), error));
            }
            if !names.insert(&part.name) {
                let error = new("catalog.part-twice").with("name", &part.name);
                return Err(at(&below("name"), error));
            }
            let Some((kind, key)) = part.kind() else {
                return Err(at(&path, new("catalog.part-kind").with("name", &part.name)));
            };
            let of_call = [
                ("compensate", part.compensate.is_some()),
                ("retry", part.retry.is_some()),
            ];
            let is_call = matches!(kind, PartKind::Call(_));
            if let Some((key, _)) = of_call.iter().find(|(_, given)| *given && !is_call) {
                let error = new("catalog.part-call").with("key", key);
                return Err(source.diagnostic_at_key(&path, key, error));
            }
            for (key, call) in [("call", &part.call), ("compensate", &part.compensate)] {
                let Some(call) = call else { continue };
                let extra = [
                    ("tries", call.tries.is_some()),
                    ("in_flight", call.in_flight.is_some()),
                ];
                if let Some((extra, _)) = extra.iter().find(|(_, given)| *given) {
                    let error = new("catalog.part-flow").with("key", extra);
                    return Err(source.diagnostic_at_key(&below(key), extra, error));
                }
            }
            if let Some(retry) = &part.retry
                && (retry.tries == Some(0) || retry.on.as_ref().is_some_and(Vec::is_empty))
            {
                return Err(at(&below("retry"), new("catalog.part-retry")));
            }
            let fits = match kind {
                PartKind::Branch(cases) => {
                    let others = cases.iter().position(|case| case.when.is_none());
                    !cases.is_empty() && others.is_none_or(|i| i + 1 == cases.len())
                }
                PartKind::Parallel(lists) => {
                    !lists.is_empty() && lists.iter().all(|list| !list.is_empty())
                }
                PartKind::Each(each) => {
                    !each.parts.is_empty()
                        && !each.columns.0.is_empty()
                        && each.at_once.is_none_or(|n| (1..=64).contains(&n))
                }
                _ => true,
            };
            if !fits {
                let code = match kind {
                    PartKind::Branch(_) => "catalog.part-branch",
                    PartKind::Parallel(_) => "catalog.part-parallel",
                    _ => "catalog.part-each",
                };
                return Err(at(&below(key), new(code)));
            }
        }
        self.check_texts(source)
    }

    fn check_texts(&self, source: &Source) -> Result<(), Diagnostic> {
        let mut texts: Vec<(Vec<PathItem<'static>>, &str)> = vec![(vec!["key".into()], &self.key)];
        texts.extend(self.answer.as_deref().map(|t| (vec!["answer".into()], t)));
        for (path, part) in self.all_parts() {
            let below = |key: &'static str| [&path[..], &[key.into()]].concat();
            match part.kind() {
                Some((PartKind::Set(text), key)) | Some((PartKind::Fail(text), key)) => {
                    texts.push((below(key), text));
                }
                Some((PartKind::Each(each), _)) => {
                    let way = [&path[..], &["each".into(), "list".into()]].concat();
                    texts.push((way, &each.list));
                }
                _ => {}
            }
        }
        for (path, text) in texts {
            let code = match text {
                _ if text.len() > EXPRESSION_BYTES_MAX => "catalog.expression-too-long",
                _ if text.trim().is_empty() => "catalog.expression-empty",
                _ => continue,
            };
            let error = Error::new(Class::Configuration, code)
                .with("kind", "orchestration")
                .with("bytes_max", EXPRESSION_BYTES_MAX);
            return Err(source.diagnostic(&path, None, error));
        }
        Ok(())
    }
}

fn no_columns(columns: &SchemaSpec) -> bool {
    columns.0.is_empty()
}

fn yes() -> bool {
    true
}

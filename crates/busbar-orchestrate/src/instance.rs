//! One run of an orchestration: all that is known of it, as it is kept on the disk.

use busbar_event::{Class, Error, Language};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::definition::Definition;

/// Values by their names.
pub type ValueMap = serde_json::Map<String, Json>;

/// The state of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// The orchestration.
    pub name: String,
    /// The business key.
    pub key: String,
    /// The version of the orchestration that it runs, and finishes on.
    pub version: u64,
    /// How often it has begun; more than once after it has ended and was started again by hand.
    pub run: u32,
    /// What it is at.
    pub status: InstanceStatus,
    /// It was stopped by hand: nothing new begins.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// When it began, in microseconds since 1970.
    pub started: i64,
    /// When something last happened to it.
    pub changed: i64,
    /// What it began with.
    pub input: ValueMap,
    /// The input and what parts have given.
    pub values: ValueMap,
    /// Where it is.
    pub root: Place,
    /// What can be undone, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<Undoable>,
    /// Why it goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<PartFailure>,
    /// What is being undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoing: Option<Undoing>,
    /// What was not undone, because a person said so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
    /// What callers get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Json>,
    /// Records in its history.
    pub records: u64,
    /// How many there were when a person last let it go on; those since then count against the bound.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub records_before: u64,
    /// The bound that it has outgrown: nothing new begins before a person has decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outgrown: Option<PartFailure>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What an instance is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceStatus {
    /// Parts run or wait.
    Running,
    /// A part has failed; calls under way are waited for.
    Failing,
    /// What was done is being undone.
    Undoing,
    /// It cannot go on before a person has decided.
    Stuck,
    /// All parts are done.
    Done,
    /// A part has failed, and what was done is undone.
    Failed,
    /// It was cancelled, and what was done is undone.
    Cancelled,
}

impl InstanceStatus {
    /// All of them, in their usual order.
    pub const ALL: [InstanceStatus; 7] = [
        InstanceStatus::Running,
        InstanceStatus::Failing,
        InstanceStatus::Undoing,
        InstanceStatus::Stuck,
        InstanceStatus::Done,
        InstanceStatus::Failed,
        InstanceStatus::Cancelled,
    ];

    /// Nothing more happens by itself, nor by a person but another run.
    pub fn has_ended(self) -> bool {
        matches!(
            self,
            InstanceStatus::Done | InstanceStatus::Failed | InstanceStatus::Cancelled
        )
    }

    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            InstanceStatus::Running => "running",
            InstanceStatus::Failing => "failing",
            InstanceStatus::Undoing => "undoing",
            InstanceStatus::Stuck => "stuck",
            InstanceStatus::Done => "done",
            InstanceStatus::Failed => "failed",
            InstanceStatus::Cancelled => "cancelled",
        }
    }
}

/// A position in a list of parts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// The number of the list.
    pub body: usize,
    /// The part within it that is next, or under way.
    pub at: usize,
    /// What stands before the names of its parts: the loops it is in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// In a loop: the values that are known there only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locals: Option<ValueMap>,
    /// What the part is doing; none before it has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doing: Option<PartDoing>,
    /// A part has failed: nothing more happens here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
}

/// What a part that has begun and not ended is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartDoing {
    /// A call.
    Call(Attempt),
    /// Waiting until a time.
    Wait(i64),
    /// Waiting for an event with this value of `by`, at most until a time.
    Event(String, Option<i64>),
    /// Waiting for a person who is asked this, at most until a time.
    Person(String, Option<i64>),
    /// The lists of parts within it.
    Inside(Vec<Place>),
    /// A loop.
    Each(Loop),
}

/// A loop under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loop {
    /// The elements.
    pub items: Vec<ValueMap>,
    /// The next element to begin with.
    pub next: usize,
    /// The elements under way, by their numbers.
    pub running: Vec<(usize, Place)>,
    /// What came of each; null before.
    pub gathered: Vec<Json>,
}

/// A call and its tries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Grows when a person lets a refused call be made again: part of the idempotency key.
    pub number: u32,
    /// Tries so far, the one under way included.
    pub tries: u32,
    /// When it is tried again; none while a call is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// How the last try failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<PartFailure>,
    /// A person must decide.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stuck: bool,
    /// Nobody knows whether a try has reached the service.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
}

impl Attempt {
    /// The first try of a call.
    pub fn first(number: u32) -> Attempt {
        Attempt {
            number,
            tries: 1,
            ..Attempt::default()
        }
    }

    /// A call is under way.
    pub fn is_under_way(&self) -> bool {
        self.until.is_none() && !self.stuck
    }
}

/// What can be undone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Undoable {
    /// Where it was done.
    pub place: String,
    /// The part.
    pub part: usize,
    /// In a loop: the values that were known there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locals: Option<ValueMap>,
}

/// What is being undone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Undoing {
    /// What.
    pub what: Undoable,
    /// The call that undoes it.
    pub attempt: Attempt,
}

/// Why a part has failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartFailure {
    /// Where.
    #[serde(default)]
    pub place: String,
    /// `transient`, `permanent` or `configuration`.
    pub class: String,
    /// The name for programs.
    pub code: String,
    /// The sentence.
    pub message: String,
    /// The sentence in Chinese; empty in records that were written without it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message_zh: String,
    /// The service has answered, so that it is known that it did not do what was asked.
    #[serde(default)]
    pub answered: bool,
}

impl PartFailure {
    /// The failure that an error is.
    pub fn new(error: &Error, answered: bool) -> PartFailure {
        PartFailure {
            place: String::new(),
            class: error.class().as_str().to_owned(),
            code: error.code().to_owned(),
            message: error.to_string(),
            message_zh: error.explained(Language::Zh),
            answered,
        }
    }

    /// What to do about it.
    pub fn class(&self) -> Class {
        match self.class.as_str() {
            "transient" => Class::Transient,
            "configuration" => Class::Configuration,
            _ => Class::Permanent,
        }
    }
}

/// What an instance waits for. Each is issued once it is on the disk, and again after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Waiting {
    /// The answer to a call.
    Call {
        /// Where.
        place: String,
        /// The part.
        part: usize,
        /// The call that undoes it.
        undo: bool,
        /// See [`Attempt::number`].
        number: u32,
        /// See [`Attempt::tries`].
        tries: u32,
    },
    /// A time.
    Timer(i64),
    /// An event.
    Event {
        /// Where.
        place: String,
        /// The part.
        part: usize,
        /// What the event's `by` must be.
        value: String,
    },
    /// A person who fills in a form.
    Person {
        /// Where.
        place: String,
        /// The part.
        part: usize,
    },
    /// A person who decides what becomes of a call that cannot go on, or of an instance that has outgrown a bound.
    Decision {
        /// Where; empty for the instance as a whole.
        place: String,
        /// It is the call that undoes the part.
        undo: bool,
        /// See [`Attempt::number`].
        number: u32,
    },
}

impl Instance {
    /// All that it waits for.
    pub fn waiting(&self, definition: &Definition) -> Vec<Waiting> {
        let mut all = Vec::new();
        self.waits_of(definition, &self.root, &mut all);
        if let Some(Undoing { what, attempt }) = &self.undoing {
            attempt_waits(&what.place, what.part, true, attempt, self.paused, &mut all);
        }
        if self.outgrown.is_some() {
            all.push(Waiting::Decision {
                place: String::new(),
                undo: false,
                number: self.run,
            });
        }
        all
    }

    fn waits_of(&self, definition: &Definition, place: &Place, all: &mut Vec<Waiting>) {
        let Some((part, name)) = place.current(definition) else {
            return;
        };
        let mut timer = |until: &Option<i64>| {
            if let Some(until) = until
                && !self.paused
            {
                all.push(Waiting::Timer(*until));
            }
        };
        match &place.doing {
            None => {}
            Some(PartDoing::Call(attempt)) => {
                attempt_waits(&name, part, false, attempt, self.paused, all);
            }
            Some(PartDoing::Wait(until)) => timer(&Some(*until)),
            Some(PartDoing::Event(value, until)) => {
                timer(until);
                let value = value.clone();
                all.push(Waiting::Event {
                    place: name,
                    part,
                    value,
                });
            }
            Some(PartDoing::Person(_, until)) => {
                timer(until);
                all.push(Waiting::Person { place: name, part });
            }
            Some(PartDoing::Inside(places)) => {
                for place in places {
                    self.waits_of(definition, place, all);
                }
            }
            Some(PartDoing::Each(each)) => {
                for (_, place) in &each.running {
                    self.waits_of(definition, place, all);
                }
            }
        }
    }

    /// Notes of the calls under way that nobody knows whether they have reached their services.
    pub(crate) fn lose_calls(&mut self) {
        self.root.lose_calls();
        if let Some(Undoing { attempt, .. }) = &mut self.undoing {
            attempt.unknown |= attempt.is_under_way();
        }
    }

    /// The record of a bound that it has outgrown; none if it waits for a person for such a reason already, goes back, or has
    /// ended.
    pub(crate) fn outgrow(&mut self, error: &Error, now: i64) -> Option<HistoryRecord> {
        if self.outgrown.is_some() || self.failure.is_some() || self.status.has_ended() {
            return None;
        }
        let failure = PartFailure::new(error, true);
        let number = self.records;
        self.records += 1;
        self.changed = now;
        self.status = InstanceStatus::Stuck;
        self.outgrown = Some(failure.clone());
        Some(HistoryRecord {
            number,
            time: now,
            place: String::new(),
            what: Happened::Stuck,
            before: None,
            after: None,
            by: None,
            failure: Some(failure),
        })
    }

    /// Why a call at a place cannot go on; at no place why the instance cannot.
    pub fn stuck_at(&self, definition: &Definition, wanted: &str) -> Option<PartFailure> {
        if wanted.is_empty() {
            return self.outgrown.clone();
        }
        let mut place = &self.root;
        for at in self.root.way(definition, wanted)? {
            place = place.inner().into_iter().nth(at)?;
        }
        match &place.doing {
            Some(PartDoing::Call(attempt)) => attempt.failure.clone(),
            _ => None,
        }
    }

    /// The values that the call of a part sees.
    pub fn call_values(&self, definition: &Definition, place: &str, undo: bool) -> ValueMap {
        let mut values = self.values.clone();
        let locals = match (&self.undoing, undo) {
            (Some(undoing), true) => undoing.what.locals.clone(),
            _ => self
                .root
                .locals_at(definition, place, None)
                .flatten()
                .cloned(),
        };
        values.extend(locals.unwrap_or_default());
        values
    }

    /// What tells a call from all others, so that a service recognises one that comes again: orchestration, key, part and
    /// attempt. Tries of one attempt have the same.
    pub fn idempotency_key(&self, place: &str, number: u32, undo: bool) -> String {
        let way = if undo { "/undo" } else { "" };
        let whole = format!(
            "{}/{}/{}/{place}{way}/{number}",
            self.name, self.key, self.run
        );
        let mut key = String::with_capacity(whole.len());
        busbar_connector::Escape::Percent.write(&whole, &mut key);
        key.replace("%2F", "/")
    }
}

fn attempt_waits(
    place: &str,
    part: usize,
    undo: bool,
    attempt: &Attempt,
    paused: bool,
    all: &mut Vec<Waiting>,
) {
    let place = place.to_owned();
    let number = attempt.number;
    match (attempt.stuck, attempt.until) {
        (true, _) => all.push(Waiting::Decision {
            place,
            undo,
            number,
        }),
        (false, Some(until)) if !paused => all.push(Waiting::Timer(until)),
        (false, Some(_)) => {}
        (false, None) => all.push(Waiting::Call {
            place,
            part,
            undo,
            number,
            tries: attempt.tries,
        }),
    }
}

impl Place {
    /// The beginning of a list of parts.
    pub fn new(body: usize, prefix: &str, locals: Option<ValueMap>) -> Place {
        Place {
            body,
            prefix: prefix.to_owned(),
            locals,
            ..Place::default()
        }
    }

    /// The part that it is at, and what that place is called; none at the end.
    pub fn current(&self, definition: &Definition) -> Option<(usize, String)> {
        let part = *definition.bodies.get(self.body)?.get(self.at)?;
        let name = &definition.parts.get(part)?.name;
        Some((part, format!("{}{name}", self.prefix)))
    }

    /// The places within its part.
    pub fn inner(&self) -> Vec<&Place> {
        match &self.doing {
            Some(PartDoing::Inside(places)) => places.iter().collect(),
            Some(PartDoing::Each(each)) => each.running.iter().map(|(_, place)| place).collect(),
            _ => Vec::new(),
        }
    }

    /// The same, to change one.
    pub fn inner_mut(doing: &mut Option<PartDoing>, at: usize) -> Option<&mut Place> {
        match doing {
            Some(PartDoing::Inside(places)) => places.get_mut(at),
            Some(PartDoing::Each(each)) => each.running.get_mut(at).map(|(_, place)| place),
            _ => None,
        }
    }

    fn lose_calls(&mut self) {
        match &mut self.doing {
            Some(PartDoing::Call(attempt)) => attempt.unknown |= attempt.is_under_way(),
            Some(PartDoing::Inside(places)) => places.iter_mut().for_each(Place::lose_calls),
            Some(PartDoing::Each(each)) => {
                let places = each.running.iter_mut();
                places.for_each(|(_, place)| place.lose_calls());
            }
            _ => {}
        }
    }

    /// The way to a place by the numbers of [`Place::inner`].
    pub fn way(&self, definition: &Definition, wanted: &str) -> Option<Vec<usize>> {
        let (_, name) = self.current(definition)?;
        if name == wanted && self.doing.is_some() {
            return Some(Vec::new());
        }
        self.inner()
            .into_iter()
            .enumerate()
            .find_map(|(at, inner)| {
                let mut way = inner.way(definition, wanted)?;
                way.insert(0, at);
                Some(way)
            })
    }

    fn locals_at<'a>(
        &'a self,
        definition: &Definition,
        wanted: &str,
        outer: Option<&'a ValueMap>,
    ) -> Option<Option<&'a ValueMap>> {
        let locals = self.locals.as_ref().or(outer);
        let (_, name) = self.current(definition)?;
        if name == wanted {
            return Some(locals);
        }
        let mut inner = self.inner().into_iter();
        inner.find_map(|inner| inner.locals_at(definition, wanted, locals))
    }
}

/// One thing that has happened to an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryRecord {
    /// Its number, from 0.
    pub number: u64,
    /// When, in microseconds since 1970.
    pub time: i64,
    /// The place, of what happened to a part.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub place: String,
    /// What happened.
    pub what: Happened,
    /// What went out, or what there was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Json>,
    /// What came back, or what there was afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Json>,
    /// The person who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<PartFailure>,
}

/// What can happen to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Happened {
    /// It began.
    Started,
    /// A service is called.
    Calling,
    /// The service has answered.
    Answered,
    /// A call has failed and is tried again.
    Retrying,
    /// A part has failed.
    Failed,
    /// A case was chosen, a loop has begun, or values were made.
    Went,
    /// It waits for a time, an event or a person.
    Waits,
    /// The time has come.
    Woken,
    /// The event has come.
    Event,
    /// The person has answered.
    Person,
    /// A service is called to undo something.
    Undoing,
    /// It is undone.
    Undone,
    /// A person must decide.
    Stuck,
    /// A person has said that it is not to be undone.
    Skipped,
    /// It was stopped by hand.
    Paused,
    /// It goes on.
    Resumed,
    /// A person has let it be tried again.
    Retried,
    /// A person has cancelled it.
    Cancelled,
    /// It has ended.
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_in_both_languages_and_one_recorded_in_english_alone_is_read() {
        let error = Error::new(Class::Permanent, "orchestrate.unknown").with("name", "o");
        let failure = PartFailure::new(&error, true);
        let record = serde_json::to_value(&failure).unwrap();
        assert_eq!(record["message"], "there is no orchestration o");
        assert_eq!(record["message_zh"], "没有名为 o 的编排");
        let before = serde_json::json!({"class": "permanent", "code": "c", "message": "m"});
        let before: PartFailure = serde_json::from_value(before).unwrap();
        assert_eq!(before.message_zh, "");
        let again = serde_json::to_value(&before).unwrap();
        assert!(again.get("message_zh").is_none(), "{again}");
    }
}

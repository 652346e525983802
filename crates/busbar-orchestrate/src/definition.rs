//! An orchestration's parts by number: what the machine walks along.

use busbar_catalog::{
    Late, OnFailure, OrchestrationSpec, PartKind, PartSpec, PathItem, RetryClass,
};
use busbar_event::Class;

use crate::limits::{
    KEEP_MICROS_DEFAULT, RETRY_FIRST_MICROS, RETRY_MOST_MICROS, TRIES_DEFAULT, UNDO_TRIES_DEFAULT,
};

/// One version of an orchestration.
#[derive(Clone, Debug)]
pub struct Definition {
    /// What the file says.
    pub spec: OrchestrationSpec,
    /// All parts; those within a part behind it.
    pub parts: Vec<Part>,
    /// Lists of parts by their numbers; the first one is the whole.
    pub bodies: Vec<Vec<usize>>,
}

/// One part.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its name, unique in the orchestration.
    pub name: String,
    /// The way to it in the file.
    pub path: Vec<PathItem<'static>>,
    /// What it does.
    pub action: PartAction,
    /// When a call is tried again.
    pub retry: Retry,
    /// When what undoes it is tried again.
    pub undo_retry: Retry,
    /// There is something that undoes it.
    pub compensates: bool,
}

/// What a part does. Bodies are numbers of [`Definition::bodies`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartAction {
    /// Asks a service.
    Call,
    /// One of the bodies.
    Branch(Vec<usize>),
    /// All bodies at the same time.
    Parallel(Vec<usize>),
    /// A body for each element of a list.
    Each {
        /// What is done for each.
        body: usize,
        /// Elements under way at a time.
        at_once: usize,
        /// The value that holds what came of each.
        gather: Option<String>,
    },
    /// Waits, in microseconds.
    Wait(i64),
    /// Waits for an event, so many microseconds at most.
    Event(Option<i64>, Late),
    /// Waits for a person, so many microseconds at most.
    Person(Option<i64>, Late),
    /// Makes values.
    Set,
    /// Fails.
    Fail,
}

/// When a call is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often in all.
    pub tries: u32,
    /// The first wait, in microseconds; each further one is twice as long.
    pub first: i64,
    /// The longest wait, in microseconds.
    pub most: i64,
    /// Refusals are tried again, too.
    pub permanent: bool,
    /// What may pass is tried again.
    pub transient: bool,
}

impl Retry {
    /// How long to wait after so many tries, in microseconds; none if it is not tried again.
    pub fn wait(&self, tries: u32, class: Class) -> Option<i64> {
        let wanted = match class {
            Class::Transient => self.transient,
            Class::Permanent => self.permanent,
            Class::Configuration => false,
        };
        if !wanted || tries >= self.tries {
            return None;
        }
        let doubled = 1i64
            .checked_shl(tries.saturating_sub(1))
            .unwrap_or(i64::MAX);
        Some(self.first.saturating_mul(doubled.max(1)).min(self.most))
    }
}

impl Definition {
    /// Numbers the parts of an orchestration that was checked.
    pub fn new(spec: OrchestrationSpec) -> Definition {
        let mut made = Definition {
            parts: Vec::new(),
            bodies: Vec::new(),
            spec: spec.clone(),
        };
        made.body(&spec.parts, &["parts".into()]);
        made
    }

    fn body(&mut self, parts: &[PartSpec], path: &[PathItem<'static>]) -> usize {
        let body = self.bodies.len();
        self.bodies.push(Vec::new());
        for (i, spec) in parts.iter().enumerate() {
            let number = self.parts.len();
            self.bodies[body].push(number);
            let path = [path, &[i.into()]].concat();
            self.parts.push(Part {
                name: spec.name.clone(),
                path: path.clone(),
                action: PartAction::Fail,
                retry: retry(spec, TRIES_DEFAULT),
                undo_retry: retry(spec, UNDO_TRIES_DEFAULT),
                compensates: spec.compensate.is_some(),
            });
            let below = spec.bodies().into_iter();
            let below: Vec<usize> = below
                .map(|(way, parts)| self.body(parts, &[&path[..], &way[..]].concat()))
                .collect();
            let action = match spec.kind().map(|(kind, _)| kind) {
                Some(PartKind::Call(_)) => PartAction::Call,
                Some(PartKind::Branch(_)) => PartAction::Branch(below),
                Some(PartKind::Parallel(_)) => PartAction::Parallel(below),
                Some(PartKind::Each(each)) => PartAction::Each {
                    body: below.first().copied().unwrap_or_default(),
                    at_once: usize::from(each.at_once.unwrap_or(1)),
                    gather: each.gather.clone(),
                },
                Some(PartKind::Wait(span)) => PartAction::Wait(span.as_micros()),
                Some(PartKind::Event(event)) => {
                    PartAction::Event(event.within.map(|span| span.as_micros()), event.late)
                }
                Some(PartKind::Person(person)) => {
                    PartAction::Person(person.within.map(|span| span.as_micros()), person.late)
                }
                Some(PartKind::Set(_)) => PartAction::Set,
                Some(PartKind::Fail(_)) | None => PartAction::Fail,
            };
            self.parts[number].action = action;
        }
        body
    }

    /// What the file says of a part.
    pub fn spec_of(&self, part: usize) -> Option<&PartSpec> {
        let (_, spec) = self.spec.all_parts().into_iter().nth(part)?;
        Some(spec)
    }

    /// Whether an instance waits for a person when a part has failed for good.
    pub fn waits_on_failure(&self) -> bool {
        self.spec.on_failure == OnFailure::Wait
    }

    /// How long an instance that has ended is kept, in microseconds.
    pub fn keep_micros(&self) -> i64 {
        self.spec
            .keep
            .map_or(KEEP_MICROS_DEFAULT, |span| span.as_micros())
    }
}

fn retry(spec: &PartSpec, tries: u32) -> Retry {
    let given = spec.retry.as_ref();
    let micros = |span: Option<busbar_catalog::Span>, or| span.map_or(or, |span| span.as_micros());
    let on = given.and_then(|retry| retry.on.as_deref());
    let on = on.unwrap_or(&[RetryClass::Transient]);
    Retry {
        tries: given.and_then(|retry| retry.tries).unwrap_or(tries),
        first: micros(given.and_then(|retry| retry.first), RETRY_FIRST_MICROS),
        most: micros(given.and_then(|retry| retry.most), RETRY_MOST_MICROS),
        permanent: on.contains(&RetryClass::Permanent),
        transient: on.contains(&RetryClass::Transient),
    }
}

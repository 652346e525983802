//! The decisions: a definition, an instance and what happens to it give the instance that is next, and records of its
//! history. No clock, no disk and no service is asked.

mod orders;

use std::borrow::Cow;

use busbar_catalog::Late;
use busbar_event::{Class, Error};
use serde_json::{Value as Json, json};

use crate::definition::{Definition, PartAction};
use crate::instance::{
    Attempt, Happened, HistoryRecord, Instance, InstanceStatus, Loop, PartDoing, PartFailure,
    Place, Undoable, Undoing, ValueMap,
};
use crate::limits::{HISTORY_RECORDS_MAX, ITEMS_MAX};
use crate::rules::{CallOutcome, PartRules};

/// What happens to an instance.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// A call has come to an end.
    Called {
        /// Where.
        place: String,
        /// It is the call that undoes the part.
        undo: bool,
        /// The attempt's number.
        number: u32,
        /// The try.
        tries: u32,
        /// What it brought.
        outcome: CallOutcome,
    },
    /// A time that it waits for may have come.
    Time,
    /// An event for a part that waits for it.
    Event {
        /// Where.
        place: String,
        /// What is taken from it.
        values: ValueMap,
    },
    /// A person has filled in a form, or says what an event would have said.
    Form {
        /// Where.
        place: String,
        /// What was filled in.
        values: ValueMap,
        /// Who.
        by: String,
    },
    /// A person wants something of it.
    Order(PersonOrder, String),
}

/// What a person can want of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PersonOrder {
    /// Undo what was done, and end.
    Cancel,
    /// Try again what cannot go on; begin again what has failed or was cancelled.
    Retry,
    /// Do not undo what cannot be undone, and go on with the rest.
    Skip,
    /// Begin nothing new.
    Pause,
    /// Go on.
    Resume,
}

impl Instance {
    /// An instance that has just begun, and the first records of its history.
    pub fn start(
        definition: &Definition,
        rules: &dyn PartRules,
        (name, version): (&str, u64),
        (key, input): (String, ValueMap),
        now: i64,
    ) -> (Instance, Vec<HistoryRecord>) {
        let mut instance = Instance {
            name: name.to_owned(),
            version,
            run: 1,
            status: InstanceStatus::Running,
            paused: false,
            started: now,
            changed: now,
            values: with_key(&input, &key),
            input,
            key,
            root: Place::new(0, "", None),
            done: Vec::new(),
            failure: None,
            undoing: None,
            skipped: Vec::new(),
            answer: None,
            records: 0,
            records_before: 0,
            outgrown: None,
        };
        let mut machine = InstanceStep::new(definition, rules, &mut instance, now);
        let input = Json::Object(machine.instance.input.clone());
        machine.record("", Happened::Started).after = Some(input);
        machine.go();
        let records = machine.records;
        (instance, records)
    }

    /// Lets something happen to it. What comes too late, such as an answer that nobody waits for, changes nothing.
    ///
    /// # Errors
    /// Orders and forms that do not fit what it is at.
    pub fn step(
        &mut self,
        definition: &Definition,
        rules: &dyn PartRules,
        happening: Happening,
        now: i64,
    ) -> Result<Vec<HistoryRecord>, Error> {
        let mut machine = InstanceStep::new(definition, rules, self, now);
        match happening {
            Happening::Called {
                place,
                undo,
                number,
                tries,
                outcome,
            } => machine.called(&place, undo, (number, tries), outcome),
            Happening::Time => machine.time(),
            Happening::Event { place, values } => machine.event(&place, values),
            Happening::Form { place, values, by } => machine.form(&place, &values, &by)?,
            Happening::Order(order, by) => machine.order(order, &by)?,
        }
        machine.go();
        Ok(machine.records)
    }
}

/// One step.
struct InstanceStep<'a> {
    definition: &'a Definition,
    rules: &'a dyn PartRules,
    instance: &'a mut Instance,
    now: i64,
    records: Vec<HistoryRecord>,
}

impl<'a> InstanceStep<'a> {
    fn new(
        definition: &'a Definition,
        rules: &'a dyn PartRules,
        instance: &'a mut Instance,
        now: i64,
    ) -> InstanceStep<'a> {
        InstanceStep {
            definition,
            rules,
            instance,
            now,
            records: Vec::new(),
        }
    }

    fn record(&mut self, place: &str, what: Happened) -> &mut HistoryRecord {
        let number = self.instance.records;
        self.instance.records += 1;
        self.instance.changed = self.now;
        self.records.push(HistoryRecord {
            number,
            time: self.now,
            place: place.to_owned(),
            what,
            before: None,
            after: None,
            by: None,
            failure: None,
        });
        let last = self.records.len() - 1;
        &mut self.records[last]
    }

    fn may_begin(&self) -> bool {
        self.instance.status == InstanceStatus::Running
            && self.instance.failure.is_none()
            && self.instance.outgrown.is_none()
            && !self.instance.paused
    }

    /// Goes on as far as it gets without anybody else.
    fn go(&mut self) {
        let Instance {
            records,
            records_before,
            ..
        } = *self.instance;
        if records.saturating_sub(records_before) > HISTORY_RECORDS_MAX {
            let error = Error::new(Class::Permanent, "orchestrate.history-long");
            let error = error.with("most", HISTORY_RECORDS_MAX);
            self.records.extend(self.instance.outgrow(&error, self.now));
        }
        // What a person decides lets it go on as if it had never stood.
        if self.instance.status == InstanceStatus::Stuck {
            self.instance.status = match (&self.instance.undoing, &self.instance.failure) {
                (Some(_), _) => InstanceStatus::Undoing,
                (None, Some(_)) => InstanceStatus::Failing,
                (None, None) => InstanceStatus::Running,
            };
        }
        if self.instance.status == InstanceStatus::Running {
            let mut root = std::mem::take(&mut self.instance.root);
            let finished = self.advance(&mut root, None);
            self.instance.root = root;
            if self.instance.failure.is_some() {
                self.instance.status = InstanceStatus::Failing;
            } else if finished {
                self.end(InstanceStatus::Done);
            }
        }
        if self.instance.status == InstanceStatus::Failing {
            let mut root = std::mem::take(&mut self.instance.root);
            let waits = self.settle(&mut root, None);
            self.instance.root = root;
            if !waits {
                self.instance.root = Place::default();
                self.instance.status = InstanceStatus::Undoing;
            }
        }
        if self.instance.status == InstanceStatus::Undoing && self.instance.undoing.is_none() {
            self.undo_next();
        }
        // One that goes back, or has ended, needs nobody for that.
        if self.instance.failure.is_some() || self.instance.status.has_ended() {
            self.instance.outgrown = None;
        }
        let is_stuck = self
            .instance
            .undoing
            .as_ref()
            .is_some_and(|u| u.attempt.stuck)
            || any_stuck(&self.instance.root)
            || self.instance.outgrown.is_some();
        if is_stuck && !self.instance.status.has_ended() {
            self.instance.status = InstanceStatus::Stuck;
        }
    }

    /// Undoes what was done last, or ends.
    fn undo_next(&mut self) {
        if self.instance.paused {
            return;
        }
        match self.instance.done.pop() {
            Some(what) => {
                let attempt = Attempt::first(1);
                self.instance.undoing = Some(Undoing { what, attempt });
            }
            None => {
                let failure = self.instance.failure.as_ref();
                let cancelled = failure.is_some_and(|f| f.code == CANCELLED);
                self.end(match cancelled {
                    true => InstanceStatus::Cancelled,
                    false => InstanceStatus::Failed,
                });
            }
        }
    }

    fn end(&mut self, status: InstanceStatus) {
        self.instance.status = status;
        if status == InstanceStatus::Done {
            match self.rules.answer(&self.instance.values) {
                Ok(answer) => self.instance.answer = Some(Json::Object(answer)),
                // All has been done: an answer that cannot be made does not undo it.
                Err(error) => self.instance.failure = Some(PartFailure::new(&error, true)),
            }
        }
        let (answer, failure) = (self.instance.answer.clone(), self.instance.failure.clone());
        let record = self.record("", Happened::Ended);
        record.after = Some(json!({ "status": status.as_str(), "answer": answer }));
        record.failure = failure;
    }

    /// Begins parts until all that have begun wait. Answers whether the list of parts is at its end.
    fn advance(&mut self, place: &mut Place, mut outer: Option<&mut ValueMap>) -> bool {
        loop {
            let Some((part, name)) = place.current(self.definition) else {
                return true;
            };
            let Place {
                locals,
                doing,
                at,
                stopped,
                prefix,
                ..
            } = place;
            if *stopped {
                return false;
            }
            // A part within a part of a loop writes to the values of the loop.
            let mut scope = match locals {
                Some(locals) => Some(locals),
                None => outer.as_deref_mut(),
            };
            if doing.is_none() {
                if !self.may_begin() {
                    return false;
                }
                match self.begin(part, &name, prefix, scope.as_deref_mut()) {
                    Ok(begun) => *doing = begun,
                    Err(error) => {
                        self.fail(&name, &error);
                        *stopped = true;
                        return false;
                    }
                }
            }
            let is_over = match doing {
                None => true,
                Some(PartDoing::Inside(places)) => {
                    let mut is_over = true;
                    for inner in places {
                        is_over &= self.advance(inner, scope.as_deref_mut());
                    }
                    is_over
                }
                Some(PartDoing::Each(each)) => self.advance_loop(part, &name, each, scope),
                Some(_) => false,
            };
            if !is_over {
                return false;
            }
            *doing = None;
            *at += 1;
        }
    }

    fn advance_loop(
        &mut self,
        part: usize,
        name: &str,
        each: &mut Loop,
        scope: Option<&mut ValueMap>,
    ) -> bool {
        let PartAction::Each {
            body,
            at_once,
            gather,
        } = &self.definition.parts[part].action
        else {
            return true;
        };
        loop {
            let mut has_moved = false;
            let mut at = 0;
            while let Some((index, place)) = each.running.get_mut(at) {
                if !self.advance(place, None) {
                    at += 1;
                    continue;
                }
                let mut own = place.locals.take().unwrap_or_default();
                if let Some(outer) = &scope {
                    own.retain(|name, _| !outer.contains_key(name));
                }
                each.gathered[*index] = Json::Object(own);
                each.running.remove(at);
                has_moved = true;
            }
            while self.may_begin() && each.running.len() < *at_once && each.next < each.items.len()
            {
                let mut locals = scope.as_deref().cloned().unwrap_or_default();
                locals.extend(each.items[each.next].clone());
                let prefix = format!("{name}[{}].", each.next);
                let place = Place::new(*body, &prefix, Some(locals));
                each.running.push((each.next, place));
                each.next += 1;
                has_moved = true;
            }
            if !has_moved {
                break;
            }
        }
        if !each.running.is_empty() || each.next < each.items.len() {
            return false;
        }
        if let Some(gather) = gather {
            let gathered = Json::Array(std::mem::take(&mut each.gathered));
            let values = [(gather.clone(), gathered)].into_iter().collect();
            self.write(scope, values);
        }
        true
    }

    /// What a part that begins is doing; none if that is all.
    fn begin(
        &mut self,
        part: usize,
        name: &str,
        prefix: &str,
        scope: Option<&mut ValueMap>,
    ) -> Result<Option<PartDoing>, Error> {
        let definition = self.definition;
        let rules = self.rules;
        let until =
            |within: &Option<i64>, now: i64| within.map(|within| now.saturating_add(within));
        let view = match &scope {
            None => Cow::Borrowed(&self.instance.values),
            Some(locals) => {
                let mut whole = self.instance.values.clone();
                whole.extend(
                    locals
                        .iter()
                        .map(|(name, value)| (name.clone(), value.clone())),
                );
                Cow::Owned(whole)
            }
        };
        Ok(Some(match &definition.parts[part].action {
            PartAction::Call => PartDoing::Call(Attempt::first(1)),
            PartAction::Branch(bodies) => {
                let case = rules.choose(part, &view)?;
                self.record(name, Happened::Went).after = Some(json!({ "case": case }));
                match case.and_then(|case| bodies.get(case)) {
                    Some(body) => PartDoing::Inside(vec![Place::new(*body, prefix, None)]),
                    None => return Ok(None),
                }
            }
            PartAction::Parallel(bodies) => {
                self.record(name, Happened::Went);
                let places = bodies.iter().map(|body| Place::new(*body, prefix, None));
                PartDoing::Inside(places.collect())
            }
            PartAction::Each { .. } => {
                let items = rules.list(part, &view)?;
                if items.len() > ITEMS_MAX {
                    let error = Error::new(Class::Permanent, "orchestrate.list-long");
                    return Err(error.with("found", items.len()).with("most", ITEMS_MAX));
                }
                self.record(name, Happened::Went).after = Some(json!({ "items": items.len() }));
                PartDoing::Each(Loop {
                    gathered: vec![Json::Null; items.len()],
                    items,
                    next: 0,
                    running: Vec::new(),
                })
            }
            PartAction::Wait(micros) => {
                let until = self.now.saturating_add(*micros);
                let record = self.record(name, Happened::Waits);
                record.after = Some(json!({ "until": busbar_event::time::text(until) }));
                PartDoing::Wait(until)
            }
            PartAction::Event(within, _) => {
                let value = rules.text(part, &view)?;
                let until = until(within, self.now);
                let shown = json!({ "for": value, "until": until.map(busbar_event::time::text) });
                self.record(name, Happened::Waits).after = Some(shown);
                PartDoing::Event(value, until)
            }
            PartAction::Person(within, _) => {
                let title = rules.text(part, &view)?;
                let until = until(within, self.now);
                let shown = json!({ "title": title, "until": until.map(busbar_event::time::text) });
                self.record(name, Happened::Waits).after = Some(shown);
                PartDoing::Person(title, until)
            }
            PartAction::Set => {
                let made = rules.set(part, &view)?;
                drop(view);
                self.record(name, Happened::Went).after = Some(Json::Object(made.clone()));
                self.write(scope, made);
                return Ok(None);
            }
            PartAction::Fail => {
                let text = rules.text(part, &view)?;
                let error = Error::new(Class::Permanent, "orchestrate.fail");
                return Err(error.with("text", text));
            }
        }))
    }

    fn write(&mut self, scope: Option<&mut ValueMap>, values: ValueMap) {
        match scope {
            Some(locals) => locals.extend(values),
            None => self.instance.values.extend(values),
        }
    }

    fn fail(&mut self, name: &str, error: &Error) {
        let failure = PartFailure::new(error, true);
        self.fail_with(name, failure);
    }

    fn fail_with(&mut self, name: &str, mut failure: PartFailure) {
        name.clone_into(&mut failure.place);
        self.record(name, Happened::Failed).failure = Some(failure.clone());
        self.instance.failure.get_or_insert(failure);
    }

    /// Gives up all that waits, except calls under way. Answers whether there are any.
    fn settle(&mut self, place: &mut Place, outer: Option<&ValueMap>) -> bool {
        let Some((part, name)) = place.current(self.definition) else {
            return false;
        };
        let locals = place.locals.as_ref().or(outer);
        match &mut place.doing {
            Some(PartDoing::Call(attempt)) if attempt.is_under_way() => return true,
            Some(PartDoing::Call(attempt)) if attempt.unknown => {
                self.keep_undoable(part, &name, locals);
            }
            Some(PartDoing::Inside(places)) => {
                let mut waits = false;
                for inner in places {
                    waits |= self.settle(inner, locals);
                }
                return waits;
            }
            Some(PartDoing::Each(each)) => {
                let mut waits = false;
                for (_, inner) in &mut each.running {
                    waits |= self.settle(inner, locals);
                }
                return waits;
            }
            _ => {}
        }
        place.doing = None;
        place.stopped = true;
        false
    }

    fn keep_undoable(&mut self, part: usize, name: &str, locals: Option<&ValueMap>) {
        if self.definition.parts[part].compensates {
            self.instance.done.push(Undoable {
                place: name.to_owned(),
                part,
                locals: locals.cloned(),
            });
        }
    }

    /// Gives the part at a place, what it is doing and the values of its loop to `change`, which answers whether the part is
    /// over. Nothing happens if nothing is under way there.
    fn at<T>(
        &mut self,
        wanted: &str,
        change: impl FnOnce(&mut Self, usize, &mut PartDoing, Option<&mut ValueMap>) -> (bool, T),
    ) -> Option<T> {
        let mut root = std::mem::take(&mut self.instance.root);
        let found = root.way(self.definition, wanted).and_then(|way| {
            let mut place = &mut root;
            let mut scope: Option<&mut ValueMap> = None;
            for at in way {
                let Place { locals, doing, .. } = place;
                if let Some(locals) = locals {
                    scope = Some(locals);
                }
                place = Place::inner_mut(doing, at)?;
            }
            let (part, _) = place.current(self.definition)?;
            let Place {
                locals, doing, at, ..
            } = place;
            if let Some(locals) = locals {
                scope = Some(locals);
            }
            let (is_over, answer) = change(self, part, doing.as_mut()?, scope);
            if is_over {
                *doing = None;
                *at += 1;
            }
            Some(answer)
        });
        self.instance.root = root;
        found
    }

    fn called(
        &mut self,
        place: &str,
        undo: bool,
        (number, tries): (u32, u32),
        outcome: CallOutcome,
    ) {
        let is_it = |attempt: &Attempt| {
            (attempt.number, attempt.tries) == (number, tries) && attempt.is_under_way()
        };
        if undo {
            let Some(mut undoing) = self.instance.undoing.take() else {
                return;
            };
            if undoing.what.place != place || !is_it(&undoing.attempt) {
                self.instance.undoing = Some(undoing);
                return;
            }
            if let CallOutcome::Answered(values) = outcome {
                self.record(place, Happened::Undone).after = Some(Json::Object(values));
                return;
            }
            let retry = &self.definition.parts[undoing.what.part].undo_retry;
            let is_stuck = self.failed_try(place, &mut undoing.attempt, retry, outcome);
            if let Some(failure) = is_stuck {
                undoing.attempt.stuck = true;
                self.record(place, Happened::Stuck).failure = Some(failure);
            }
            self.instance.undoing = Some(undoing);
            return;
        }
        let goes_on = self.instance.failure.is_none();
        let failed = self.at(place, |machine, part, doing, scope| {
            let PartDoing::Call(attempt) = doing else {
                return (false, None);
            };
            if !is_it(attempt) {
                return (false, None);
            }
            if let CallOutcome::Answered(values) = outcome {
                let shown = Json::Object(values.clone());
                machine.record(place, Happened::Answered).after = Some(shown);
                let mut scope = scope;
                machine.write(scope.as_deref_mut(), values);
                machine.keep_undoable(part, place, scope.as_deref());
                return (true, None);
            }
            let definition = machine.definition;
            let retry = &definition.parts[part].retry;
            let Some(failure) = machine.failed_try(place, attempt, retry, outcome) else {
                return (false, None);
            };
            let must_wait =
                failure.class() == Class::Configuration || definition.waits_on_failure();
            if must_wait && goes_on {
                attempt.stuck = true;
                machine.record(place, Happened::Stuck).failure = Some(failure);
                return (false, None);
            }
            // Not under way any more; what nobody knows the outcome of is undone.
            attempt.until = Some(machine.now);
            (false, Some(failure))
        });
        if let Some(Some(failure)) = failed {
            self.fail_with(place, failure);
        }
    }

    /// Notes how a try has failed. Answers the failure if there is no further try.
    fn failed_try(
        &mut self,
        place: &str,
        attempt: &mut Attempt,
        retry: &crate::definition::Retry,
        outcome: CallOutcome,
    ) -> Option<PartFailure> {
        let mut failure = match outcome {
            CallOutcome::Failed(failure) => failure,
            CallOutcome::Later(micros) => {
                attempt.until = Some(self.now.saturating_add(micros.max(1)));
                attempt.tries = attempt.tries.saturating_sub(1);
                return None;
            }
            CallOutcome::Answered(_) => return None,
        };
        place.clone_into(&mut failure.place);
        attempt.unknown |= !failure.answered;
        attempt.failure = Some(failure.clone());
        let Some(wait) = retry.wait(attempt.tries, failure.class()) else {
            return Some(failure);
        };
        attempt.until = Some(self.now.saturating_add(wait));
        self.record(place, Happened::Retrying).failure = Some(failure);
        None
    }

    fn time(&mut self) {
        if self.instance.paused {
            return;
        }
        if let Some(Undoing { attempt, .. }) = &mut self.instance.undoing {
            try_again(attempt, self.now);
        }
        if self.instance.status != InstanceStatus::Undoing {
            let mut root = std::mem::take(&mut self.instance.root);
            self.time_at(&mut root);
            self.instance.root = root;
        }
    }

    fn time_at(&mut self, place: &mut Place) {
        let Some((part, name)) = place.current(self.definition) else {
            return;
        };
        let is_due = |until: &Option<i64>, now: i64| until.is_some_and(|until| until <= now);
        let is_over = match &mut place.doing {
            Some(PartDoing::Call(attempt)) => {
                try_again(attempt, self.now);
                false
            }
            Some(PartDoing::Wait(until)) => *until <= self.now,
            Some(PartDoing::Event(_, until) | PartDoing::Person(_, until)) => {
                let late = match self.definition.parts[part].action {
                    PartAction::Event(_, late) | PartAction::Person(_, late) => late,
                    _ => Late::Fail,
                };
                match (is_due(until, self.now), late) {
                    (true, Late::Continue) => true,
                    (true, Late::Fail) => {
                        place.doing = None;
                        place.stopped = true;
                        let error = Error::new(Class::Permanent, "orchestrate.late");
                        self.fail(&name, &error.with("part", &name));
                        return;
                    }
                    _ => false,
                }
            }
            Some(PartDoing::Inside(places)) => {
                for inner in places {
                    self.time_at(inner);
                }
                false
            }
            Some(PartDoing::Each(each)) => {
                for (_, inner) in &mut each.running {
                    self.time_at(inner);
                }
                false
            }
            None => false,
        };
        if is_over {
            self.record(&name, Happened::Woken);
            place.doing = None;
            place.at += 1;
        }
    }

    fn event(&mut self, place: &str, values: ValueMap) {
        if self.instance.failure.is_some() {
            return;
        }
        self.at(place, |machine, _, doing, scope| {
            let is_it = matches!(doing, PartDoing::Event(..));
            if is_it {
                machine.record(place, Happened::Event).after = Some(Json::Object(values.clone()));
                machine.write(scope, values);
            }
            (is_it, ())
        });
    }

    fn form(&mut self, place: &str, given: &ValueMap, by: &str) -> Result<(), Error> {
        let is_open = self.instance.failure.is_none();
        let taken = self.at(place, |machine, part, doing, scope| {
            if !matches!(doing, PartDoing::Person(..) | PartDoing::Event(..)) || !is_open {
                return (false, None);
            }
            let values = match machine.rules.form(part, given) {
                Ok(values) => values,
                Err(error) => return (false, Some(Err(error))),
            };
            let record = machine.record(place, Happened::Person);
            record.after = Some(Json::Object(values.clone()));
            record.by = Some(by.to_owned());
            machine.write(scope, values);
            (true, Some(Ok(())))
        });
        let nobody = || {
            let error = Error::new(Class::Permanent, "orchestrate.no-form");
            Err(error.with("part", busbar_event::quote(place)))
        };
        taken.flatten().unwrap_or_else(nobody)
    }
}

/// The business key is a value like any other.
fn with_key(input: &ValueMap, key: &str) -> ValueMap {
    let mut values = input.clone();
    values.insert("key".to_owned(), key.into());
    values
}

const CANCELLED: &str = "orchestrate.cancelled";

fn try_again(attempt: &mut Attempt, now: i64) {
    if !attempt.stuck && attempt.until.is_some_and(|until| until <= now) {
        attempt.until = None;
        attempt.tries += 1;
    }
}

fn any_stuck(place: &Place) -> bool {
    match &place.doing {
        Some(PartDoing::Call(attempt)) => attempt.stuck,
        _ => place.inner().into_iter().any(any_stuck),
    }
}

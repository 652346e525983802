//! Carries out commands on instances: gathers what they change into one commit, and what is to be issued after it.

mod early;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use busbar_catalog::OrchestrationSpec;
use busbar_connector::ServiceRequest;
use busbar_event::{Class, Error};
use serde_json::{Value as Json, json};

use crate::command::{CommandReply, InstanceCommand, Issue, RulesCompiler, Started};
use crate::definition::Definition;
use crate::instance::{
    Happened, HistoryRecord, Instance, InstanceStatus, PartFailure, ValueMap, Waiting,
};
use crate::limits::{EARLY_EVENT_MICROS, FORGET_MAX, HISTORY_PAYLOAD_BYTES_MAX};
use crate::machine::{Happening, PersonOrder};
use crate::rules::{CallOutcome, PartRules, check_key};
use crate::store::{self, InstanceStore, StoreChange};

use early::EarlyEvent;

type Compiled = (Arc<Definition>, Arc<dyn PartRules>);

/// See the module.
pub struct InstanceEngine {
    store: Arc<dyn InstanceStore>,
    compiler: Arc<dyn RulesCompiler>,
    /// The version that new instances run; none for an orchestration that starts none.
    current: BTreeMap<String, Option<u64>>,
    compiled: HashMap<(String, u64), Compiled>,
    /// Instances that something has happened to since the last commit, with the status that is on the disk.
    touched: BTreeMap<(String, String), (Option<InstanceStatus>, Instance)>,
    changes: Vec<StoreChange>,
    issues: Vec<Issue>,
    /// Who waits for an event, by orchestration, part and value.
    awaiting: HashMap<(String, String, String), Vec<(String, String)>>,
    /// Events that came early, changed since the last commit.
    early: HashMap<Vec<u8>, Option<EarlyEvent>>,
    early_count: usize,
    /// Instances whose version could not be compiled.
    blocked: BTreeSet<(String, String)>,
    /// Instances that have not ended, by orchestration and version.
    in_use: BTreeMap<(String, u64), u64>,
    /// Instances by orchestration and status; those that have ended since the process began.
    counts: BTreeMap<(String, InstanceStatus), u64>,
    /// Instances that had not ended when the process began have gone on.
    is_recovered: bool,
    /// What has happened to instances that could not be read for the moment: answers of calls, and times that have come. No more
    /// than calls under way and timers, which nobody else keeps.
    postponed: Vec<InstanceCommand>,
}

impl InstanceEngine {
    /// An engine over a store. Nothing runs before [`InstanceEngine::deploy`].
    pub fn new(store: Arc<dyn InstanceStore>, compiler: Arc<dyn RulesCompiler>) -> InstanceEngine {
        InstanceEngine {
            store,
            compiler,
            current: BTreeMap::new(),
            compiled: HashMap::new(),
            touched: BTreeMap::new(),
            changes: Vec::new(),
            issues: Vec::new(),
            awaiting: HashMap::new(),
            early: HashMap::new(),
            early_count: 0,
            blocked: BTreeSet::new(),
            in_use: BTreeMap::new(),
            counts: BTreeMap::new(),
            is_recovered: false,
            postponed: Vec::new(),
        }
    }

    /// Takes over the orchestrations of a project. A changed one is a new version; instances that run finish on theirs.
    /// The changes of a deployment before must have been committed: the number of the newest version comes from the store.
    ///
    /// # Errors
    /// What the disk says, and what does not fit; then those before go on.
    pub fn deploy(
        &mut self,
        specs: &BTreeMap<String, OrchestrationSpec>,
        compiler: Arc<dyn RulesCompiler>,
        now: i64,
    ) -> Result<(), Error> {
        let (mut current, mut all_compiled) = (BTreeMap::new(), HashMap::new());
        for (name, spec) in specs {
            let meaning = busbar_catalog::canonical(busbar_catalog::Kind::Orchestration, spec);
            let mut newest: Option<(u64, OrchestrationSpec)> = None;
            let mut damaged = None;
            let prefix = store::version_prefix(name);
            self.store.scan(&prefix, None, &mut |key, value| {
                let number = key[prefix.len()..].try_into().map(u64::from_be_bytes);
                match (number, store::parse(value)) {
                    (Ok(number), Ok(spec)) => newest = Some((number, spec)),
                    (_, Err(error)) => damaged = Some(error),
                    (Err(_), _) => {}
                }
                true
            })?;
            if let Some(error) = damaged {
                return Err(error);
            }
            let same = newest.as_ref().filter(|(_, old)| {
                busbar_catalog::canonical(busbar_catalog::Kind::Orchestration, old) == meaning
            });
            let version = match (same, &newest) {
                (Some((number, _)), _) => *number,
                (None, newest) => {
                    let number = newest.as_ref().map_or(1, |(number, _)| number + 1);
                    let key = store::version_key(name, number);
                    self.changes
                        .push(StoreChange::Put(key, store::write(spec)?));
                    number
                }
            };
            let definition = Arc::new(Definition::new(spec.clone()));
            let rules = compiler.compile(name, &definition)?;
            let compiled = (definition, rules);
            all_compiled.insert((name.clone(), version), compiled);
            let starts = spec.enabled.then_some(version);
            current.insert(name.clone(), starts);
        }
        (self.current, self.compiled) = (current, all_compiled);
        self.compiler = compiler;
        let blocked = std::mem::take(&mut self.blocked);
        // Versions that instances still run read events, too.
        for (name, number) in self.in_use.keys().cloned().collect::<Vec<_>>() {
            if let Err(error) = self.version(&name, number) {
                tracing::error!(orchestration = name, number, %error, "instances cannot go on with their version");
            }
        }
        if self.is_recovered {
            return self.resume_all(blocked, now);
        }
        let issued = self.issues.len();
        let recovered = self.recover(now);
        self.is_recovered = recovered.is_ok();
        if recovered.is_err() {
            // All of it is issued when this is tried again.
            self.issues.truncate(issued);
        }
        recovered
    }

    /// Lets instances go on whose version could not be compiled. What is left when the disk fails is tried again.
    fn resume_all(&mut self, blocked: BTreeSet<(String, String)>, now: i64) -> Result<(), Error> {
        let mut failed = None;
        for (name, key) in blocked {
            if let Err(error) = self.resume(&name, &key, now) {
                self.blocked.insert((name, key));
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Lets all instances that have not ended go on.
    fn recover(&mut self, now: i64) -> Result<(), Error> {
        self.in_use.clear();
        self.counts.clear();
        let mut open = Vec::new();
        self.store.scan(store::OPEN, None, &mut |key, _| {
            open.extend(store::name_and_key(key));
            true
        })?;
        let mut early = 0;
        self.store.scan(store::EARLY, None, &mut |_, _| {
            early += 1;
            true
        })?;
        self.early_count = early;
        for (name, key) in open {
            if let Some(instance) = self.load(&name, &key)? {
                self.count(None, &instance);
            }
            self.resume(&name, &key, now)?;
        }
        Ok(())
    }

    fn resume(&mut self, name: &str, key: &str, now: i64) -> Result<(), Error> {
        let Some(mut instance) = self.load(name, key)? else {
            return Ok(());
        };
        match self.version(name, instance.version) {
            Ok(compiled) => {
                let before = instance.status;
                // Whoever made them is gone, and they are made again.
                instance.lose_calls();
                if self.issue(&compiled, &mut instance, &[], now) {
                    self.count(Some(before), &instance);
                    self.put(Some(before), instance);
                }
            }
            Err(error) => self.block(name, key, &error),
        }
        Ok(())
    }

    fn block(&mut self, name: &str, key: &str, error: &Error) {
        tracing::error!(orchestration = name, key, %error, "an instance cannot go on with its version");
        self.blocked.insert((name.to_owned(), key.to_owned()));
    }

    /// The compiled version of an orchestration.
    fn version(&mut self, name: &str, number: u64) -> Result<Compiled, Error> {
        let at = (name.to_owned(), number);
        if let Some(compiled) = self.compiled.get(&at) {
            return Ok(compiled.clone());
        }
        let spec = store::read(&*self.store, &store::version_key(name, number))?;
        let missing = || Error::new(Class::Configuration, "orchestrate.no-version");
        let spec: OrchestrationSpec =
            spec.ok_or_else(|| missing().with("name", name).with("version", number))?;
        let definition = Arc::new(Definition::new(spec));
        let rules = self.compiler.compile(name, &definition)?;
        let compiled = (definition, rules);
        self.compiled.insert(at, compiled.clone());
        Ok(compiled)
    }

    /// The instance as it is after all commands so far.
    fn load(&self, name: &str, key: &str) -> Result<Option<Instance>, Error> {
        let touched = self.touched.get(&(name.to_owned(), key.to_owned()));
        match touched {
            Some((_, instance)) => Ok(Some(instance.clone())),
            None => store::read(&*self.store, &store::instance_key(name, key)),
        }
    }

    /// Carries out a command. Its changes are part of the next commit.
    pub fn apply(&mut self, command: InstanceCommand, now: i64) -> CommandReply {
        let applied = match command {
            InstanceCommand::Start { name, input } => {
                self.start(&name, &input, now).map(CommandReply::Started)
            }
            InstanceCommand::Happens { name, key, what } => self
                .happens(&name, &key, what, now)
                .map(|()| CommandReply::Done),
            InstanceCommand::Event {
                name,
                part,
                value,
                values,
            } => self
                .event(name, part, value, values, now)
                .map(|()| CommandReply::Done),
            InstanceCommand::Position { reader, at } => {
                let key = store::position_key(&reader);
                self.changes
                    .push(StoreChange::Put(key, at.to_be_bytes().to_vec()));
                Ok(CommandReply::Done)
            }
        };
        applied.unwrap_or_else(CommandReply::Refused)
    }

    fn start(&mut self, name: &str, input: &ValueMap, now: i64) -> Result<Started, Error> {
        let version = match self.current.get(name) {
            Some(Some(version)) => *version,
            Some(None) => {
                let error = Error::new(Class::Permanent, "orchestrate.disabled");
                return Err(error.with("name", name));
            }
            None => {
                let error = Error::new(Class::Permanent, "orchestrate.unknown");
                return Err(error.with("name", busbar_event::quote(name)));
            }
        };
        let compiled = self.version(name, version)?;
        let (key, input) = compiled.1.start(input)?;
        check_key(&key)?;
        let started = |existed, status| Started {
            name: name.to_owned(),
            key: key.clone(),
            existed,
            status,
        };
        if let Some(there) = self.load(name, &key)? {
            return Ok(started(true, there.status));
        }
        let first = (key.clone(), input);
        let (mut instance, records) =
            Instance::start(&compiled.0, &*compiled.1, (name, version), first, now);
        self.records(&instance, records)?;
        self.changes
            .push(StoreChange::Put(store::open_key(name, &key), Vec::new()));
        self.changes.push(StoreChange::Put(
            store::begun_key(name, &key, now),
            Vec::new(),
        ));
        self.issue(&compiled, &mut instance, &[], now);
        let status = instance.status;
        self.count(None, &instance);
        self.put(Some(InstanceStatus::Running), instance);
        Ok(started(false, status))
    }

    /// Carries out what was postponed. What still cannot be is postponed again.
    pub fn take_postponed(&mut self, now: i64) {
        for command in std::mem::take(&mut self.postponed) {
            self.apply(command, now);
        }
    }

    /// An instance, and the version that it runs.
    fn load_compiled(&mut self, name: &str, key: &str) -> Result<(Instance, Compiled), Error> {
        let Some(instance) = self.load(name, key)? else {
            let error = Error::new(Class::Permanent, "orchestrate.no-instance");
            return Err(error
                .with("name", busbar_event::quote(name))
                .with("key", busbar_event::quote(key)));
        };
        match self.version(name, instance.version) {
            Ok(compiled) => Ok((instance, compiled)),
            Err(error) => {
                if error.class() != Class::Transient {
                    // It is asked again when the orchestration fits again; then nothing of it is lost.
                    self.block(name, key, &error);
                }
                Err(error)
            }
        }
    }

    fn happens(&mut self, name: &str, key: &str, what: Happening, now: i64) -> Result<(), Error> {
        let (mut instance, compiled) = match self.load_compiled(name, key) {
            Ok(found) => found,
            Err(error) => {
                // Nobody says these again: not the service that has answered, nor the timer that is gone.
                let is_said_once = matches!(what, Happening::Called { .. } | Happening::Time);
                if error.class() == Class::Transient && is_said_once {
                    let (name, key) = (name.to_owned(), key.to_owned());
                    let command = InstanceCommand::Happens { name, key, what };
                    self.postponed.push(command);
                }
                return Err(error);
            }
        };
        let before = instance.status;
        let waited = instance.waiting(&compiled.0);
        let begins_again =
            matches!(what, Happening::Order(PersonOrder::Retry, _)) && before.has_ended();
        let records = instance.step(&compiled.0, &*compiled.1, what, now)?;
        if records.is_empty()
            && instance.waiting(&compiled.0) == waited
            && before == instance.status
        {
            return Ok(());
        }
        if begins_again {
            self.forget_end(&instance, &compiled.0)?;
        }
        self.records(&instance, records)?;
        self.issue(&compiled, &mut instance, &waited, now);
        self.count(Some(before), &instance);
        let now_waits: BTreeSet<Waiting> = instance.waiting(&compiled.0).into_iter().collect();
        for gone in waited.iter().filter(|wait| !now_waits.contains(wait)) {
            self.awaits_no_more(&compiled.0, &instance, gone);
        }
        if begins_again {
            self.touched.remove(&(name.to_owned(), key.to_owned()));
            self.put(Some(InstanceStatus::Running), instance);
        } else {
            self.put(Some(before), instance);
        }
        Ok(())
    }

    fn awaits_no_more(&mut self, definition: &Definition, instance: &Instance, wait: &Waiting) {
        let Waiting::Event { place, part, value } = wait else {
            return;
        };
        let part = definition.parts[*part].name.clone();
        let at = (instance.name.clone(), part, value.clone());
        if let Some(waiters) = self.awaiting.get_mut(&at) {
            waiters.retain(|(key, at)| (key, at) != (&instance.key, place));
            if waiters.is_empty() {
                self.awaiting.remove(&at);
            }
        }
    }

    /// An instance that has ended goes on: what says that it has is removed.
    fn forget_end(&mut self, instance: &Instance, definition: &Definition) -> Result<(), Error> {
        let (name, key) = (&instance.name, &instance.key);
        let ended: Option<Instance> = store::read(&*self.store, &store::instance_key(name, key))?;
        if let Some(ended) = ended {
            let at = ended.changed.saturating_add(definition.keep_micros());
            self.changes
                .push(StoreChange::Remove(store::forget_key(at, name, key)));
        }
        self.changes
            .push(StoreChange::Put(store::open_key(name, key), Vec::new()));
        Ok(())
    }

    fn records(&mut self, instance: &Instance, records: Vec<HistoryRecord>) -> Result<(), Error> {
        for mut record in records {
            record.before = record.before.map(cut);
            record.after = record.after.map(cut);
            let key = store::history_key(&instance.name, &instance.key, record.number);
            self.changes
                .push(StoreChange::Put(key, store::write(&record)?));
        }
        Ok(())
    }

    /// Prepares what the instance waits for now and did not before. Answers whether that has changed the instance.
    fn issue(
        &mut self,
        (definition, rules): &Compiled,
        instance: &mut Instance,
        before: &[Waiting],
        now: i64,
    ) -> bool {
        let mut known: BTreeSet<Waiting> = before.iter().cloned().collect();
        let mut has_changed = false;
        loop {
            let waiting = instance.waiting(definition);
            let mut next = None;
            for wait in waiting {
                if !known.insert(wait.clone()) {
                    continue;
                }
                next = self.issue_one(definition, rules, instance, wait, now);
                if next.is_some() {
                    break;
                }
                has_changed = true;
            }
            let Some(happening) = next else { break };
            has_changed = true;
            match instance.step(definition, &**rules, happening, now) {
                Ok(records) => {
                    if let Err(error) = self.records(instance, records) {
                        tracing::error!(%error, "a record of a history is lost");
                    }
                }
                Err(error) => tracing::error!(%error, "a step of an instance was refused"),
            }
        }
        if instance.status.has_ended() {
            self.issues.push(Issue::Ended(Box::new(instance.clone())));
        }
        has_changed
    }

    /// Issues one thing, or answers what happens at once.
    fn issue_one(
        &mut self,
        definition: &Definition,
        rules: &Arc<dyn PartRules>,
        instance: &mut Instance,
        wait: Waiting,
        now: i64,
    ) -> Option<Happening> {
        let own = (instance.name.clone(), instance.key.clone());
        match wait {
            Waiting::Timer(at) => {
                self.issues.push(Issue::Timer(at, own.0, own.1));
                None
            }
            // The API shows it.
            Waiting::Person { .. } => None,
            Waiting::Decision { place, undo, .. } => {
                let failure = match (&instance.undoing, undo) {
                    (Some(undoing), true) => undoing.attempt.failure.clone(),
                    _ => instance.stuck_at(definition, &place),
                };
                self.issues.push(Issue::Alarm {
                    instance: own,
                    place,
                    undo,
                    failure,
                });
                None
            }
            Waiting::Event { place, part, value } => {
                let part = definition.parts[part].name.clone();
                let early = store::early_key(&instance.name, &part, &value);
                if let Some(event) = self.early_event(&early, now) {
                    self.early.insert(early.clone(), None);
                    self.early_count = self.early_count.saturating_sub(1);
                    self.changes.push(StoreChange::Remove(early));
                    return Some(Happening::Event {
                        place,
                        values: event.values,
                    });
                }
                let at = (instance.name.clone(), part, value);
                let waiters = self.awaiting.entry(at).or_default();
                let waiter = (instance.key.clone(), place);
                if !waiters.contains(&waiter) {
                    waiters.push(waiter);
                }
                None
            }
            Waiting::Call {
                place,
                part,
                undo,
                number,
                tries,
            } => {
                let values = instance.call_values(definition, &place, undo);
                let mut request = match rules.request(part, undo, &values) {
                    Ok(request) => request,
                    Err(error) => {
                        let failure = PartFailure::new(&error, true);
                        return Some(Happening::Called {
                            place,
                            undo,
                            number,
                            tries,
                            outcome: CallOutcome::Failed(failure),
                        });
                    }
                };
                let key = instance.idempotency_key(&place, number, undo);
                request.headers.push((IDEMPOTENCY_KEY.to_owned(), key));
                let what = match undo {
                    true => Happened::Undoing,
                    false => Happened::Calling,
                };
                let record = HistoryRecord {
                    number: instance.records,
                    time: now,
                    place: place.clone(),
                    what,
                    before: Some(shown(&request, number, tries)),
                    after: None,
                    by: None,
                    failure: None,
                };
                instance.records += 1;
                if let Err(error) = self.records(instance, vec![record]) {
                    tracing::error!(%error, "a record of a history is lost");
                }
                self.issues.push(Issue::Call {
                    instance: own,
                    place,
                    part,
                    undo,
                    number: (number, tries),
                    request,
                    rules: Arc::clone(rules),
                });
                None
            }
        }
    }

    fn count(&mut self, before: Option<InstanceStatus>, instance: &Instance) {
        let name = &instance.name;
        let was_open = before.is_some_and(|before| !before.has_ended());
        let is_open = !instance.status.has_ended();
        let version = (name.clone(), instance.version);
        match (was_open, is_open) {
            (false, true) => *self.in_use.entry(version).or_default() += 1,
            (true, false) => {
                let left = self
                    .in_use
                    .get(&version)
                    .map_or(0, |count| count.saturating_sub(1));
                match left {
                    0 => drop(self.in_use.remove(&version)),
                    left => drop(self.in_use.insert(version, left)),
                }
            }
            _ => {}
        }
        if let Some(before) = before.filter(|before| *before != instance.status) {
            let counted = self.counts.entry((name.clone(), before)).or_default();
            *counted = counted.saturating_sub(u64::from(!before.has_ended()));
        }
        if before != Some(instance.status) {
            *self
                .counts
                .entry((name.clone(), instance.status))
                .or_default() += 1;
        }
    }

    fn put(&mut self, before: Option<InstanceStatus>, instance: Instance) {
        let at = (instance.name.clone(), instance.key.clone());
        match self.touched.get_mut(&at) {
            Some((_, there)) => *there = instance,
            None => drop(self.touched.insert(at, (before, instance))),
        }
    }

    /// What is to be written, all of it in one commit.
    pub fn take_changes(&mut self) -> Vec<StoreChange> {
        let mut changes = std::mem::take(&mut self.changes);
        for ((name, key), (before, mut instance)) in std::mem::take(&mut self.touched) {
            let mut bytes = store::write(&instance).unwrap_or_default();
            if let Some(error) = store::too_large(bytes.len())
                && self.outgrow(&mut instance, &error)
            {
                changes.append(&mut self.changes);
                bytes = store::write(&instance).unwrap_or_default();
            }
            if instance.status.has_ended() && !before.is_some_and(InstanceStatus::has_ended) {
                let keep = self.version(&name, instance.version);
                let keep = keep.map_or(crate::limits::KEEP_MICROS_DEFAULT, |(definition, _)| {
                    definition.keep_micros()
                });
                let at = instance.changed.saturating_add(keep);
                changes.push(StoreChange::Remove(store::open_key(&name, &key)));
                changes.push(StoreChange::Put(
                    store::forget_key(at, &name, &key),
                    Vec::new(),
                ));
            }
            changes.push(StoreChange::Put(store::instance_key(&name, &key), bytes));
        }
        self.early.clear();
        changes
    }

    /// Lets an instance wait for a person that has outgrown a bound. False if it cannot: it goes back, or has ended.
    fn outgrow(&mut self, instance: &mut Instance, error: &Error) -> bool {
        let (before, now) = (instance.status, instance.changed);
        let Some(record) = instance.outgrow(error, now) else {
            return false;
        };
        if let Some(failure) = record.failure.clone() {
            self.issues.push(Issue::Alarm {
                instance: (instance.name.clone(), instance.key.clone()),
                place: String::new(),
                undo: false,
                failure: Some(failure),
            });
        }
        if let Err(error) = self.records(instance, vec![record]) {
            tracing::error!(%error, "a record of a history is lost");
        }
        self.count(Some(before), instance);
        true
    }

    /// What is to be issued once the changes are on the disk.
    pub fn take_issues(&mut self) -> Vec<Issue> {
        std::mem::take(&mut self.issues)
    }

    /// Removes instances that ended long ago, some of them. Answers whether there may be more.
    ///
    /// # Errors
    /// What the disk says.
    pub fn forget(&mut self, now: i64) -> Result<bool, Error> {
        let mut over = Vec::new();
        self.store.scan(store::FORGET, None, &mut |key, _| {
            let found = store::forgotten(key).filter(|(at, ..)| *at <= now);
            let goes_on = found.is_some() && over.len() < FORGET_MAX;
            if goes_on {
                over.extend(found.map(|(_, name, own)| (key.to_vec(), name, own)));
            }
            goes_on
        })?;
        let is_more = over.len() >= FORGET_MAX;
        for (forget, name, key) in over {
            self.changes.push(StoreChange::Remove(forget));
            let Some(instance) = self.load(&name, &key)? else {
                continue;
            };
            if !instance.status.has_ended() {
                continue;
            }
            let remove = [
                store::instance_key(&name, &key),
                store::begun_key(&name, &key, instance.started),
            ];
            self.changes.extend(remove.map(StoreChange::Remove));
            for number in 0..instance.records {
                let record = store::history_key(&name, &key, number);
                self.changes.push(StoreChange::Remove(record));
            }
        }
        let mut early = Vec::new();
        let changed = &self.early;
        self.store.scan(store::EARLY, None, &mut |key, value| {
            let event: Option<EarlyEvent> = store::parse(value).ok();
            // What this commit puts in its place is not over.
            if changed.contains_key(key) {
                return true;
            }
            if event.is_none_or(|event| event.time.saturating_add(EARLY_EVENT_MICROS) <= now) {
                early.push(key.to_vec());
            }
            early.len() < FORGET_MAX
        })?;
        self.early_count = self.early_count.saturating_sub(early.len());
        self.changes
            .extend(early.into_iter().map(StoreChange::Remove));
        Ok(is_more)
    }

    /// Instances by orchestration and status: those that have not ended, and those that have since the process began.
    pub fn counts(&self) -> BTreeMap<(String, InstanceStatus), u64> {
        self.counts.clone()
    }

    /// Whether the orchestration is there.
    pub fn has(&self, name: &str) -> bool {
        self.current.contains_key(name)
    }

    /// The rules of all versions that instances run, or new ones will.
    pub fn versions(&self) -> Vec<(String, u64, Compiled)> {
        let all = self.compiled.iter();
        all.map(|((name, number), compiled)| (name.clone(), *number, compiled.clone()))
            .collect()
    }
}

/// By this header a service recognises a request that comes again.
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// A payload as the history keeps it.
fn cut(payload: Json) -> Json {
    let text = payload.to_string();
    if text.len() <= HISTORY_PAYLOAD_BYTES_MAX {
        return payload;
    }
    let mut end = HISTORY_PAYLOAD_BYTES_MAX;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    json!({ "beginning": &text[..end], "bytes": text.len() })
}

/// A request for people.
fn shown(request: &ServiceRequest, number: u32, tries: u32) -> Json {
    let body = String::from_utf8_lossy(&request.body);
    let body = serde_json::from_str(&body).unwrap_or_else(|_| Json::String(body.into_owned()));
    json!({
        "method": request.method,
        "path": request.path,
        "body": body,
        "statement": request.statement.as_ref().map(|statement| statement.shown()),
        "attempt": number,
        "try": tries,
    })
}

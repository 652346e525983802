//! PartRules without SQL, and a world of services that remembers what was done.

#![allow(dead_code, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use busbar_catalog::{OrchestrationSpec, PartKind};
use busbar_connector::ServiceRequest;
use busbar_event::{Class, Error};
use busbar_orchestrate::{
    CallOutcome, Definition, HeapStore, InstanceStore, Look, PartFailure, PartRules, RulesCompiler,
    StoreChange, ValueMap,
};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

pub fn spec(yaml: &str) -> OrchestrationSpec {
    serde_saphyr::from_str(yaml).expect("an orchestration")
}

pub fn values(json: Json) -> ValueMap {
    json.as_object().expect("an object").clone()
}

/// Decides what a call brings.
pub type Answerer = dyn Fn(&Call) -> CallOutcome + Send + Sync;

/// A call as the services see it.
#[derive(Clone, Debug)]
pub struct Call {
    pub part: String,
    pub undo: bool,
    pub key: String,
    pub values: Json,
}

/// Expressions are names of values, texts stand for themselves.
pub struct TestRules {
    pub definition: Arc<Definition>,
    pub answer: Arc<Answerer>,
}

impl TestRules {
    fn spec(&self, part: usize) -> busbar_catalog::PartSpec {
        self.definition.spec_of(part).expect("a part").clone()
    }
}

impl PartRules for TestRules {
    fn start(&self, input: &ValueMap) -> Result<(String, ValueMap), Error> {
        let key = input.get("id").and_then(Json::as_str);
        let key = key.ok_or_else(|| Error::new(Class::Permanent, "orchestrate.no-input"))?;
        Ok((key.to_owned(), input.clone()))
    }

    fn choose(&self, part: usize, values: &ValueMap) -> Result<Option<usize>, Error> {
        let spec = self.spec(part);
        let Some((PartKind::Branch(cases), _)) = spec.kind() else {
            panic!("no branch")
        };
        let holds = |when: &Option<String>| match when {
            None => true,
            Some(name) => values.get(name) == Some(&Json::Bool(true)),
        };
        Ok(cases.iter().position(|case| holds(&case.when)))
    }

    fn set(&self, part: usize, _: &ValueMap) -> Result<ValueMap, Error> {
        let name = self.spec(part).set.expect("a set");
        Ok(values(json!({ name: true })))
    }

    fn list(&self, part: usize, values: &ValueMap) -> Result<Vec<ValueMap>, Error> {
        let name = self.spec(part).each.expect("a loop").list;
        let items = values.get(&name).and_then(Json::as_array);
        let items = items.into_iter().flatten();
        Ok(items
            .map(|item| self::values(json!({ "item": item })))
            .collect())
    }

    fn text(&self, part: usize, values: &ValueMap) -> Result<String, Error> {
        let spec = self.spec(part);
        Ok(match spec.kind() {
            Some((PartKind::Fail(text), _)) => text.to_owned(),
            Some((PartKind::Event(_), _)) => {
                let value = values.get("for").unwrap_or(&values["key"]);
                value.as_str().expect("a text").to_owned()
            }
            _ => "title".to_owned(),
        })
    }

    fn form(&self, _: usize, given: &ValueMap) -> Result<ValueMap, Error> {
        match given.contains_key("wrong") {
            true => Err(Error::new(Class::Permanent, "orchestrate.value")),
            false => Ok(given.clone()),
        }
    }

    fn request(&self, part: usize, undo: bool, values: &ValueMap) -> Result<ServiceRequest, Error> {
        let name = self.spec(part).name;
        let body = json!({ "part": name, "undo": undo, "values": values });
        Ok(ServiceRequest {
            method: "POST".to_owned(),
            path: format!("/{name}"),
            body: body.to_string().into(),
            ..ServiceRequest::default()
        })
    }

    fn answer(&self, values: &ValueMap) -> Result<ValueMap, Error> {
        Ok(values.clone())
    }

    fn call<'a>(
        &'a self,
        _: usize,
        _: bool,
        request: &'a ServiceRequest,
    ) -> BoxFuture<'a, CallOutcome> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            (self.answer)(&call_of(request))
        })
    }
}

pub fn call_of(request: &ServiceRequest) -> Call {
    let body: Json = serde_json::from_slice(&request.body).expect("a body");
    let key = request
        .headers
        .iter()
        .find(|(name, _)| name == "Idempotency-Key");
    Call {
        part: body["part"].as_str().expect("a part").to_owned(),
        undo: body["undo"].as_bool().expect("a way"),
        key: key.expect("a key").1.clone(),
        values: body["values"].clone(),
    }
}

pub struct TestCompiler(pub Arc<Answerer>);

impl RulesCompiler for TestCompiler {
    fn compile(&self, _: &str, definition: &Arc<Definition>) -> Result<Arc<dyn PartRules>, Error> {
        Ok(Arc::new(TestRules {
            definition: Arc::clone(definition),
            answer: Arc::clone(&self.0),
        }))
    }
}

pub fn refused(code: &'static str) -> CallOutcome {
    CallOutcome::Failed(PartFailure::new(&Error::new(Class::Permanent, code), true))
}

pub fn lost() -> CallOutcome {
    let error = Error::new(Class::Transient, "orchestrate.stopped");
    CallOutcome::Failed(PartFailure::new(&error, false))
}

/// What the services have done, by idempotency key: a key is done once, and what was undone stays so.
#[derive(Default)]
pub struct Ledger {
    pub done: BTreeSet<String>,
    pub undone: BTreeSet<String>,
    /// How often each key was asked for.
    pub asked: BTreeMap<String, u32>,
}

impl Ledger {
    pub fn take(&mut self, call: &Call) {
        *self.asked.entry(call.key.clone()).or_default() += 1;
        if call.undo {
            // `…/PART/undo/1` undoes `…/PART/…`.
            let (stem, _) = call.key.rsplit_once("/undo/").expect("a way back");
            let before = format!("{stem}/");
            self.undone.insert(before.clone());
            self.done.retain(|key| !key.starts_with(&before));
        } else if !self.undone.iter().any(|stem| call.key.starts_with(stem)) {
            self.done.insert(call.key.clone());
        }
    }
}

/// A store that can be cut off, as by the end of its process: what is written afterwards is not there.
#[derive(Clone, Default)]
pub struct CutStore {
    pub kept: Arc<HeapStore>,
    pub is_cut: Arc<AtomicBool>,
}

impl CutStore {
    /// What the next process finds.
    pub fn after_end(&self) -> CutStore {
        self.is_cut.store(true, Ordering::SeqCst);
        let next = CutStore::default();
        let mut all = Vec::new();
        let seen = self.kept.scan(b"", None, &mut |key, value| {
            all.push(StoreChange::Put(key.to_vec(), value.to_vec()));
            true
        });
        seen.and_then(|()| next.kept.commit(&all))
            .expect("in memory");
        next
    }
}

impl InstanceStore for CutStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.kept.get(key)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, look: &mut Look<'_>) -> Result<(), Error> {
        self.kept.scan(prefix, after, look)
    }

    fn commit(&self, changes: &[StoreChange]) -> Result<(), Error> {
        match self.is_cut.load(Ordering::SeqCst) {
            true => Ok(()),
            false => self.kept.commit(changes),
        }
    }
}

/// Numbers that are the same for the same seed.
pub struct Dice(AtomicU64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(AtomicU64::new(seed))
    }

    pub fn roll(&self, sides: u64) -> u64 {
        let mut x = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % sides
    }
}

pub type Shared<T> = Arc<Mutex<T>>;

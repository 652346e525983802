//! The rules of orchestrations: their expressions over the values of one instance, and the calls of their parts.

mod compile;
mod events;
mod row;

use std::sync::Arc;

use busbar_catalog::OrchestrationSpec;
use busbar_connector::ServiceRequest;
use busbar_event::format::Decoder;
use busbar_event::{Class, Error};
use busbar_orchestrate::{
    CallOutcome, Definition, PartFailure, PartRules, RulesCompiler, ValueMap,
};
use busbar_sql::{Predicate, Projection};
use futures::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use serde_json::Value as Json;

use crate::compile::World;
use crate::operator::call::{CallMaker, CallText};
use crate::services::CallFailure;
use row::{OneRow, TypedValues, decode, object};

pub(crate) use compile::check_orchestrations;
pub use events::{OrchestrationReader, ReadEvent, ReadEvents, ReadFor};

/// A compiled version of an orchestration.
pub struct OrchestrationPlan {
    spec: OrchestrationSpec,
    input: TypedValues,
    key: OneRow<CallText>,
    /// By the numbers of the parts.
    parts: Vec<PartPlan>,
    answer: Option<OneRow<Projection>>,
    readers: Vec<events::EventPlan>,
}

enum PartPlan {
    Call(Box<CallPlan>, Option<Box<CallPlan>>),
    Branch(Vec<Option<OneRow<Predicate>>>),
    Each(OneRow<Projection>, TypedValues),
    Text(OneRow<CallText>),
    Person(OneRow<CallText>, TypedValues),
    Set(OneRow<Projection>),
    /// `wait` and `parallel`.
    Nothing,
}

struct CallPlan {
    maker: OneRow<CallMaker>,
    answer: Option<Mutex<Decoder>>,
}

impl CallPlan {
    async fn call(&self, request: &ServiceRequest) -> CallOutcome {
        let failed =
            |error: &Error, answered| CallOutcome::Failed(PartFailure::new(error, answered));
        let line = match self.maker.compiled.line() {
            Ok(line) => line,
            Err(error) => return failed(&error, true),
        };
        // While a trial is under way, nobody else is admitted.
        let _admitted = match line.admit() {
            Ok(admitted) => admitted,
            Err(error) => {
                let wait = error.retry_after().unwrap_or_default().as_micros();
                return CallOutcome::Later(
                    i64::try_from(wait).unwrap_or(i64::MAX).max(LATER_MICROS),
                );
            }
        };
        match line.call(&*self.maker.compiled.form, request).await {
            Err(CallFailure {
                error, is_answered, ..
            }) => failed(&error, is_answered),
            Ok(body) => {
                let Some(decoder) = &self.answer else {
                    return CallOutcome::Answered(ValueMap::new());
                };
                let decoded = {
                    let bodies = arrow::array::BinaryArray::from_iter_values([&body]);
                    let decoded = decoder.lock().decode(&bodies);
                    match decoded.rejected.into_iter().next() {
                        Some(bad) => {
                            let error = Error::new(Class::Permanent, "flow.call-answer");
                            Err(error.caused_by(bad.cause))
                        }
                        None => object(&decoded.columns),
                    }
                };
                match decoded {
                    Ok(values) => CallOutcome::Answered(values),
                    // The service has done what it was asked, so it is undone.
                    Err(error) => failed(&error, false),
                }
            }
        }
    }
}

/// The shortest time to leave a service alone that has failed several times in a row, in microseconds.
const LATER_MICROS: i64 = 50_000;

impl OrchestrationPlan {
    /// What the file says.
    pub fn spec(&self) -> &OrchestrationSpec {
        &self.spec
    }

    /// The streams that it reads.
    pub fn streams(&self) -> Vec<String> {
        self.readers
            .iter()
            .map(|reader| reader.stream.clone())
            .collect()
    }

    fn part(&self, part: usize) -> &PartPlan {
        self.parts.get(part).unwrap_or(&PartPlan::Nothing)
    }
}

fn misplaced() -> Error {
    Error::new(Class::Permanent, "orchestrate.value")
}

impl PartRules for OrchestrationPlan {
    fn start(&self, input: &ValueMap) -> Result<(String, ValueMap), Error> {
        let input = self.input.read(input)?;
        let key = self.key.text(&input)?;
        Ok((key, input))
    }

    fn choose(&self, part: usize, values: &ValueMap) -> Result<Option<usize>, Error> {
        let PartPlan::Branch(cases) = self.part(part) else {
            return Err(misplaced());
        };
        for (number, case) in cases.iter().enumerate() {
            match case {
                None => return Ok(Some(number)),
                Some(when) if when.holds(values)? => return Ok(Some(number)),
                Some(_) => {}
            }
        }
        Ok(None)
    }

    fn set(&self, part: usize, values: &ValueMap) -> Result<ValueMap, Error> {
        match self.part(part) {
            PartPlan::Set(set) => set.values(values),
            _ => Err(misplaced()),
        }
    }

    fn list(&self, part: usize, values: &ValueMap) -> Result<Vec<ValueMap>, Error> {
        let PartPlan::Each(list, columns) = self.part(part) else {
            return Err(misplaced());
        };
        let made = list.values(values)?;
        let Some((name, made)) = made.into_iter().next() else {
            // Null: no elements.
            return Ok(Vec::new());
        };
        let made = match made {
            Json::String(text) => serde_json::from_str(&text).unwrap_or(Json::Null),
            other => other,
        };
        let Json::Array(items) = made else {
            let error = Error::new(Class::Permanent, "orchestrate.json-list");
            return Err(error.with("column", name));
        };
        let items = items.into_iter().map(|item| match item {
            Json::Object(item) => columns.read_some(&item),
            other => columns.read_some(&[("value".to_owned(), other)].into_iter().collect()),
        });
        items.collect()
    }

    fn text(&self, part: usize, values: &ValueMap) -> Result<String, Error> {
        match self.part(part) {
            PartPlan::Text(text) | PartPlan::Person(text, _) => text.text(values),
            _ => Err(misplaced()),
        }
    }

    fn form(&self, part: usize, given: &ValueMap) -> Result<ValueMap, Error> {
        match self.part(part) {
            PartPlan::Person(_, form) => form.read(given),
            _ => Err(misplaced()),
        }
    }

    fn request(&self, part: usize, undo: bool, values: &ValueMap) -> Result<ServiceRequest, Error> {
        match (self.part(part), undo) {
            (PartPlan::Call(call, _), false) | (PartPlan::Call(_, Some(call)), true) => {
                let row = call.maker.row(values)?;
                call.maker.compiled.fill(&row)?.request(0)
            }
            _ => Err(misplaced()),
        }
    }

    fn answer(&self, values: &ValueMap) -> Result<ValueMap, Error> {
        match &self.answer {
            Some(answer) => answer.values(values),
            None => Ok(values.clone()),
        }
    }

    fn call<'a>(
        &'a self,
        part: usize,
        undo: bool,
        request: &'a ServiceRequest,
    ) -> BoxFuture<'a, CallOutcome> {
        async move {
            match (self.part(part), undo) {
                (PartPlan::Call(call, _), false) | (PartPlan::Call(_, Some(call)), true) => {
                    call.call(request).await
                }
                _ => CallOutcome::Failed(PartFailure::new(&misplaced(), true)),
            }
        }
        .boxed()
    }
}

impl TypedValues {
    /// The declared values of an object, which may have others.
    fn read_some(&self, given: &ValueMap) -> Result<ValueMap, Error> {
        match &self.decoder {
            Some(decoder) => object(&decode(&mut decoder.lock(), given.clone())?),
            None => Ok(ValueMap::new()),
        }
    }
}

/// Compiles orchestrations against the node as it runs, and knows what it has compiled.
pub struct OrchestrationCompiler {
    world: World,
    plans: Mutex<Vec<(String, Arc<OrchestrationPlan>)>>,
}

impl OrchestrationCompiler {
    pub(crate) fn new(world: World) -> OrchestrationCompiler {
        OrchestrationCompiler {
            world,
            plans: Mutex::default(),
        }
    }

    /// What has been compiled so far, with the names of the orchestrations.
    pub fn plans(&self) -> Vec<(String, Arc<OrchestrationPlan>)> {
        self.plans.lock().clone()
    }
}

impl RulesCompiler for OrchestrationCompiler {
    fn compile(
        &self,
        name: &str,
        definition: &Arc<Definition>,
    ) -> Result<Arc<dyn PartRules>, Error> {
        match compile::compile(definition, &self.world) {
            Ok(plan) => {
                let plan = Arc::new(plan);
                self.plans.lock().push((name.to_owned(), Arc::clone(&plan)));
                Ok(plan)
            }
            Err(wrong) => {
                let error = Error::new(Class::Configuration, "orchestrate.no-plan");
                Err(error.with("name", name).caused_by(wrong.error))
            }
        }
    }
}

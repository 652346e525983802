//! From a definition to its rules: names looked up, expressions typed. A value is set once, so that what undoes a part sees
//! what the part saw.

use arrow::datatypes::{Field, SchemaRef};
use busbar_catalog::{CallSpec, Diagnostic, PartKind, PathItem, Project};
use busbar_connector::Escape;
use busbar_event::format::{FieldSpec, FieldType, SchemaSpec};
use busbar_event::{Class, Error};
use busbar_orchestrate::{Definition, PartAction};
use busbar_sql::{Predicate, Projection};
use parking_lot::Mutex;

use super::events::EventPlan;
use super::row::{OneRow, TypedValues, schema_of, value_field, value_type};
use super::{CallPlan, OrchestrationPlan, PartPlan};
use crate::compile::World;
use crate::operator::Wrong;
use crate::operator::call::{CallMaker, CallText};

/// The value that every instance has: its business key.
pub(super) const KEY: &str = "key";

/// Checks all orchestrations of a project against its files.
pub(crate) fn check_orchestrations(project: &Project, world: &World) -> Vec<Diagnostic> {
    let mut bad = Vec::new();
    for parsed in project.orchestrations.values() {
        let definition = Definition::new(parsed.spec.clone());
        let Err(wrong) = compile(&definition, world) else {
            continue;
        };
        // Names were checked before.
        if !matches!(
            wrong.error.code(),
            "catalog.unknown-stream" | "catalog.unknown-connection"
        ) {
            let found = parsed
                .source
                .diagnostic(&wrong.path, wrong.span, wrong.error);
            bad.push(found.with_help(wrong.help));
        }
    }
    bad
}

/// Compiles a version of an orchestration.
///
/// # Errors
/// What is wrong first, with the way to it in the file.
pub(super) fn compile(definition: &Definition, world: &World) -> Result<OrchestrationPlan, Wrong> {
    let spec = &definition.spec;
    let input = typed(&spec.input).map_err(|wrong| wrong.at("input"))?;
    let mut scope: Vec<Field> = Vec::new();
    add_declared(&mut scope, &spec.input).map_err(|wrong| wrong.at("input"))?;
    let of_input = schema_of(&scope);
    let key = text(&of_input, &spec.key).map_err(|wrong| wrong.at("key"))?;
    let mut compiler = PlanCompiler {
        definition,
        world,
        parts: Vec::new(),
        readers: Vec::new(),
    };
    compiler
        .parts
        .resize_with(definition.parts.len(), || PartPlan::Nothing);
    for (number, start) in spec.start.iter().enumerate() {
        if start.stream.is_some() {
            let reader = EventPlan::start(start, &spec.input, world).map_err(|wrong| {
                let mut path: Vec<PathItem<'static>> = vec!["start".into(), number.into()];
                path.extend(wrong.path.clone());
                Wrong { path, ..wrong }
            })?;
            compiler.readers.push(reader);
        }
    }
    scope.push(value_field(KEY, FieldType::Text));
    compiler.body(0, &mut scope)?;
    let all = schema_of(&scope);
    let answer = spec.answer.as_deref().map(|text| {
        let compiled = projection(&all, text)?;
        row(&compiled, &all)
    });
    Ok(OrchestrationPlan {
        spec: spec.clone(),
        answer: answer.transpose().map_err(|wrong| wrong.at("answer"))?,
        input,
        key,
        parts: compiler.parts,
        readers: compiler.readers,
    })
}

struct PlanCompiler<'a> {
    definition: &'a Definition,
    world: &'a World,
    parts: Vec<PartPlan>,
    readers: Vec<EventPlan>,
}

impl PlanCompiler<'_> {
    /// Compiles a list of parts, and adds to the scope the values that they set.
    fn body(&mut self, body: usize, scope: &mut Vec<Field>) -> Result<(), Wrong> {
        for part in &self.definition.bodies[body] {
            let path = &self.definition.parts[*part].path;
            self.part(*part, scope).map_err(|wrong| match wrong {
                Within::Here(wrong) => Wrong {
                    path: [&path[..], &wrong.path[..]].concat(),
                    ..wrong
                },
                Within::Below(wrong) => wrong,
            })?;
        }
        Ok(())
    }

    fn part(&mut self, number: usize, scope: &mut Vec<Field>) -> Result<(), Within> {
        let definition = self.definition;
        let Some(spec) = definition.spec_of(number) else {
            return Ok(());
        };
        let before = schema_of(scope);
        let action = &definition.parts[number].action;
        let plan = match (spec.kind().map(|(kind, _)| kind), action) {
            (Some(PartKind::Call(call)), _) => {
                let plan = self.call(call, &before).map_err(|w| w.at("call"))?;
                add_declared(scope, &call.columns()).map_err(|w| w.at("answer").at("call"))?;
                let after = schema_of(scope);
                let undo = spec
                    .compensate
                    .as_deref()
                    .map(|undo| self.call(undo, &after));
                let undo = undo.transpose().map_err(|w| w.at("compensate"))?;
                PartPlan::Call(Box::new(plan), undo.map(Box::new))
            }
            (Some(PartKind::Branch(cases)), PartAction::Branch(bodies)) => {
                let mut plans = Vec::new();
                for (i, case) in cases.iter().enumerate() {
                    let when = case.when.as_deref().map(|text| {
                        let compiled = Predicate::compile(&before, text).map_err(Wrong::from)?;
                        row(&compiled, &before)
                    });
                    let at = |w: Wrong| w.at("when").at(i).at("branch");
                    plans.push(when.transpose().map_err(at)?);
                }
                let mut made = Vec::new();
                for body in bodies {
                    let mut own = before.fields().iter().map(|f| f.as_ref().clone()).collect();
                    self.body(*body, &mut own).map_err(Within::Below)?;
                    for field in own.into_iter().skip(before.fields().len()) {
                        // Cases exclude each other, so that they may set the same value.
                        if !made.contains(&field) {
                            made.push(field);
                        }
                    }
                }
                for field in made {
                    add(scope, field)?;
                }
                PartPlan::Branch(plans)
            }
            (Some(PartKind::Parallel(_)), PartAction::Parallel(bodies)) => {
                let mut made = Vec::new();
                for body in bodies {
                    let mut own = before.fields().iter().map(|f| f.as_ref().clone()).collect();
                    self.body(*body, &mut own).map_err(Within::Below)?;
                    made.extend(own.into_iter().skip(before.fields().len()));
                }
                for field in made {
                    add(scope, field)?;
                }
                PartPlan::Nothing
            }
            (Some(PartKind::Each(each)), PartAction::Each { body, gather, .. }) => {
                let at = |key: &'static str| move |w: Wrong| w.at(key).at("each");
                let list = projection(&before, &each.list).map_err(at("list"))?;
                let fields = list.schema();
                let kind = match fields.fields().len() {
                    1 => value_type(fields.field(0)),
                    _ => return Err(at("list")(new("orchestrate.one-column")).into()),
                };
                if !matches!(kind, Some(FieldType::Json | FieldType::Text)) {
                    let found = busbar_sql::type_word(fields.field(0).data_type());
                    let error = Error::new(Class::Configuration, "orchestrate.list-type");
                    return Err(at("list")(Wrong::new(error.with("found", found))).into());
                }
                let list = row(&list, &before).map_err(at("list"))?;
                let columns = typed(&each.columns).map_err(at("columns"))?;
                let mut own = scope.clone();
                add_declared(&mut own, &each.columns).map_err(at("columns"))?;
                self.body(*body, &mut own).map_err(Within::Below)?;
                if let Some(gather) = gather {
                    add(scope, value_field(gather, FieldType::Json)).map_err(at("gather"))?;
                }
                PartPlan::Each(list, columns)
            }
            (Some(PartKind::Event(event)), _) => {
                let at = |key: &'static str| move |w: Wrong| w.at(key).at("event");
                let equals = event.equals.as_deref().unwrap_or("${key}");
                let equals = text(&before, equals).map_err(at("equals"))?;
                let name = &definition.parts[number].name;
                let plan = EventPlan::wait(name, event, self.world);
                let plan = plan.map_err(|wrong| wrong.at("event"))?;
                for (name, field_type) in &plan.values {
                    add(scope, value_field(name, *field_type)).map_err(at("select"))?;
                }
                // A person can say in its place what the event would have said.
                let fields = plan.values.iter();
                let fields = fields.map(|(name, kind)| FieldSpec::new(name, *kind));
                let form = typed(&SchemaSpec(fields.collect())).map_err(at("select"))?;
                self.readers.push(plan);
                PartPlan::Person(equals, form)
            }
            (Some(PartKind::Person(person)), _) => {
                let at = |key: &'static str| move |w: Wrong| w.at(key).at("person");
                let title = text(&before, &person.title).map_err(at("title"))?;
                let form = typed(&person.form).map_err(at("form"))?;
                add_declared(scope, &person.form).map_err(at("form"))?;
                PartPlan::Person(title, form)
            }
            (Some(PartKind::Set(list)), _) => {
                let compiled = projection(&before, list).map_err(|w| w.at("set"))?;
                for (name, field_type) in
                    value_types(&compiled.schema()).map_err(|w| w.at("set"))?
                {
                    add(scope, value_field(&name, field_type)).map_err(|w| w.at("set"))?;
                }
                PartPlan::Set(row(&compiled, &before).map_err(|w| w.at("set"))?)
            }
            (Some(PartKind::Fail(message)), _) => {
                PartPlan::Text(text(&before, message).map_err(|w| w.at("fail"))?)
            }
            _ => PartPlan::Nothing,
        };
        self.parts[number] = plan;
        Ok(())
    }

    fn call(&self, spec: &CallSpec, scope: &SchemaRef) -> Result<CallPlan, Wrong> {
        let maker = CallMaker::compile(spec, scope, &self.world.services)?;
        Ok(CallPlan {
            answer: maker.decoder().map_err(Wrong::new)?.map(Mutex::new),
            maker: row(&maker, scope)?,
        })
    }
}

/// Where a fault lies: in the part's own values, or in a part within it, whose way is whole.
enum Within {
    Here(Wrong),
    Below(Wrong),
}

impl From<Wrong> for Within {
    fn from(wrong: Wrong) -> Within {
        Within::Here(wrong)
    }
}

fn new(code: &'static str) -> Wrong {
    Wrong::new(Error::new(Class::Configuration, code))
}

fn add(scope: &mut Vec<Field>, field: Field) -> Result<(), Wrong> {
    let same = |known: &Field| known.name().eq_ignore_ascii_case(field.name());
    if scope.iter().any(same) {
        let error = Error::new(Class::Configuration, "orchestrate.name-twice");
        return Err(Wrong::new(error.with("name", field.name())));
    }
    scope.push(field);
    Ok(())
}

fn add_declared(scope: &mut Vec<Field>, declared: &SchemaSpec) -> Result<(), Wrong> {
    declared.schema().map_err(Wrong::new)?;
    for field in &declared.0 {
        if field.name.eq_ignore_ascii_case(KEY) {
            let error = Error::new(Class::Configuration, "orchestrate.name-reserved");
            return Err(Wrong::new(error.with("name", &field.name)));
        }
        add(scope, value_field(&field.name, field.field_type))?;
    }
    Ok(())
}

fn typed(declared: &SchemaSpec) -> Result<TypedValues, Wrong> {
    TypedValues::new(declared).map_err(Wrong::new)
}

fn text(scope: &SchemaRef, text: &str) -> Result<OneRow<CallText>, Wrong> {
    let compiled = CallText::compile(scope, text, Escape::Plain)?;
    row(&compiled, scope)
}

pub(super) fn projection(scope: &SchemaRef, text: &str) -> Result<Projection, Wrong> {
    Projection::compile(scope, text).map_err(Wrong::from)
}

fn row<T: super::row::OverColumns>(compiled: &T, scope: &SchemaRef) -> Result<OneRow<T>, Wrong> {
    OneRow::new(compiled, scope).map_err(Wrong::new)
}

/// The names and types of the values that columns are.
pub(super) fn value_types(schema: &SchemaRef) -> Result<Vec<(String, FieldType)>, Wrong> {
    let fields = schema.fields().iter().map(|field| match value_type(field) {
        Some(field_type) => Ok((field.name().clone(), field_type)),
        None => {
            let error = Error::new(Class::Configuration, "orchestrate.value-type");
            Err(Wrong::new(
                error
                    .with("column", field.name())
                    .with("found", busbar_sql::type_word(field.data_type())),
            ))
        }
    });
    fields.collect()
}

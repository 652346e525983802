//! `join`: adds columns of a table or of another stream.
//!
//! | with | kept | a row comes out |
//! | --- | --- | --- |
//! | a table | nothing | at once, with what the table has at that moment |
//! | a table, `as_of` | nothing | at once, with what the table had at the time of the row |
//! | a stream, `within` | the rows of both sides as long as rows to them may come | with the second row of a pair; a left row without one when none can come any more |
//! | a stream, `as_of` | versions, and rows whose time has not been reached | when the watermark has passed its time |
//!
//! Rows of the two streams come together in the stream before the step's stage, in one form: see [`sides`].

mod as_of;
mod buffer;
mod cache;
mod interval;
mod sides;
mod table;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use busbar_catalog::{JoinKind, JoinSpec};
use busbar_event::{Class, Error};

use super::rows::misfit;
use super::{Step, StepContext, Wrong, column_place};
use crate::reader::is_envelope;

/// Compiles a join.
pub(super) fn compile(spec: &JoinSpec, context: &StepContext<'_>) -> Result<Arc<dyn Step>, Wrong> {
    let wrong = |code: &'static str| Wrong::new(Error::new(Class::Configuration, code));
    match (&spec.table, &spec.stream) {
        (Some(name), None) => {
            if spec.within.is_some() || spec.name.is_some() {
                return Err(wrong("flow.join-table-options"));
            }
            table::compile(spec, name, context)
        }
        (None, Some(name)) => {
            if spec.cache.is_some() {
                return Err(wrong("flow.join-cache").at("cache"));
            }
            match (spec.within, spec.as_of) {
                (Some(within), false) if within.as_micros() <= 0 => {
                    Err(wrong("flow.span-positive").at("within"))
                }
                (Some(within), false) => interval::compile(spec, name, within.as_micros(), context),
                (None, true) => as_of::compile(spec, name, context),
                _ => Err(wrong("flow.join-how")),
            }
        }
        _ => Err(wrong("flow.join-source")),
    }
}

/// How rows of the one side are joined with those of the other.
#[derive(Clone, Debug)]
struct Match {
    /// The columns of the rows, and of the other side, that must be equal.
    on: Vec<(usize, usize)>,
    /// The other side's columns that are added.
    added: Vec<usize>,
    /// The added columns as the result has them: nullable, without encodings.
    fields: Vec<FieldRef>,
    kind: JoinKind,
}

impl Match {
    /// Finds the columns that a spec names, given those that must be equal. `offered` are those of the other side that are
    /// added if none are named.
    fn compile(
        spec: &JoinSpec,
        on: Vec<(usize, usize)>,
        own: &SchemaRef,
        other: &SchemaRef,
        offered: impl Fn(&Field) -> bool,
    ) -> Result<Match, Wrong> {
        let mut added = Vec::new();
        let mut fields: Vec<FieldRef> = Vec::new();
        let mut add = |place: usize, name: &str| -> Result<(), Wrong> {
            let mut taken = own.fields().iter().chain(&fields);
            if name.is_empty() || taken.any(|field| field.name() == name) {
                let error = Error::new(Class::Configuration, "flow.join-column-twice")
                    .with("column", name)
                    .with("other", spec.other());
                return Err(Wrong::new(error));
            }
            let field = other.field(place).clone().with_name(name);
            let plain = plain_type(field.data_type());
            fields.push(Arc::new(field.with_data_type(plain).with_nullable(true)));
            added.push(place);
            Ok(())
        };
        for (i, pair) in spec.columns().enumerate() {
            let at = |wrong, span| within(wrong, span).at(i).at("columns");
            let place =
                other_place(spec, other, pair.first).map_err(|wrong| at(wrong, pair.first_span))?;
            add(place, pair.second).map_err(|wrong| at(wrong, pair.second_span))?;
        }
        if spec.columns.is_empty() {
            for (place, field) in other.fields().iter().enumerate() {
                let is_key = on.iter().any(|(_, right)| *right == place);
                if !is_key && offered(field) {
                    add(place, field.name())?;
                }
            }
        }
        Ok(Match {
            on,
            added,
            fields,
            kind: spec.kind,
        })
    }

    /// Leaves out the added columns that nobody reads.
    fn prune(&mut self, context: &StepContext<'_>) {
        let added = self.added.drain(..).zip(self.fields.drain(..));
        let kept: Vec<_> = added
            .filter(|(_, field)| context.needs(field.name()))
            .collect();
        (self.added, self.fields) = kept.into_iter().unzip();
    }

    /// Own columns with those added behind them.
    fn result(&self, own: &SchemaRef) -> SchemaRef {
        let fields = own.fields().iter().chain(&self.fields).cloned();
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }
}

/// The columns that must be equal: of the rows, and of the other side.
fn equal_columns(
    spec: &JoinSpec,
    own: &SchemaRef,
    other: &SchemaRef,
) -> Result<Vec<(usize, usize)>, Wrong> {
    let mut on = Vec::new();
    for (i, pair) in spec.on().enumerate() {
        let at = |wrong, span| within(wrong, span).at(i).at("on");
        let left =
            column_place(own, pair.first).map_err(|wrong| at(wrong, pair.first_span.clone()))?;
        let right = other_place(spec, other, pair.second)
            .map_err(|wrong| at(wrong, pair.second_span.clone()))?;
        let found = comparable(own.field(left).data_type());
        let expected = comparable(other.field(right).data_type());
        if found != expected {
            let error = Error::new(Class::Configuration, "flow.join-type")
                .with("column", pair.first)
                .with("found", found)
                .with("other", pair.second)
                .with("expected", expected);
            return Err(at(Wrong::new(error), pair.first_span));
        }
        on.push((left, right));
    }
    Ok(on)
}

/// The place of a column of the other side.
fn other_place(spec: &JoinSpec, other: &SchemaRef, name: &str) -> Result<usize, Wrong> {
    column_place(other, name).map_err(|wrong| {
        let error = Error::new(Class::Configuration, "flow.join-unknown-column")
            .with("column", name)
            .with("other", spec.other());
        let names = other.fields().iter().map(|field| field.name().as_str());
        Wrong {
            help: wrong.help.or_else(|| known_names(names)),
            ..Wrong::new(error)
        }
    })
}

/// The same fault at a place within a text.
fn within(wrong: Wrong, span: Range<usize>) -> Wrong {
    Wrong {
        span: Some(span),
        ..wrong
    }
}

/// Names that there are, for a name that is near to none of them.
fn known_names<'a>(names: impl Iterator<Item = &'a str>) -> Option<Error> {
    let names: Vec<&str> = names.take(10).collect();
    let error = || Error::new(Class::Configuration, "catalog.known-names");
    (!names.is_empty()).then(|| error().with("names", names.join(", ")))
}

/// Whether a column of a stream is added unless the spec says otherwise: those of its payload are.
fn of_payload(field: &Field) -> bool {
    !is_envelope(field.name(), field.data_type())
}

/// The type without encodings.
fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, value) => plain_type(value),
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        other => other.clone(),
    }
}

/// The type as which values are compared: those of equal ones are equal.
fn comparable(data_type: &DataType) -> DataType {
    match plain_type(data_type) {
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32 => DataType::Int64,
        DataType::Float16 | DataType::Float32 => DataType::Float64,
        DataType::Timestamp(..) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        other => other,
    }
}

/// A column with this type.
fn as_type(column: &ArrayRef, data_type: &DataType) -> Result<ArrayRef, Error> {
    match column.data_type() == data_type {
        true => Ok(Arc::clone(column)),
        false => cast(column, data_type).map_err(misfit),
    }
}

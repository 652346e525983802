//! The rows of two streams in one form, in which they come together in the stream before the step's stage: the columns of
//! the left side, those that the right side adds, and the column [`SIDE`]. A right row has null in the columns of the left
//! side but for those that must be equal, which have its own values of them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array, new_null_array};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use busbar_catalog::{JoinKind, JoinSpec};
use busbar_event::{Class, Error};
use futures::future::{BoxFuture, FutureExt, ready};

use super::{Match, as_type, equal_columns, of_payload, plain_type};
use crate::operator::rows::misfit;
use crate::operator::{
    Divided, Joined, Operator, Output, Rows, Stateful, Step, StepContext, Wrong, misses_times,
};

/// Whether a row is of the right side.
pub(super) const SIDE: &str = "$right";

/// Two streams that are joined.
pub(super) struct Sides {
    stream: String,
    /// Its places of the left side are those among [`Sides::own`].
    rule: Match,
    /// The columns of both sides as they come.
    left: SchemaRef,
    right: SchemaRef,
    /// The places in `left` of the columns that are compared or read behind the join.
    kept: Vec<usize>,
    /// These columns, without encodings.
    pub own: SchemaRef,
    /// Both together.
    pub both: SchemaRef,
    /// The columns of the results.
    pub result: SchemaRef,
}

impl Sides {
    /// Compiles what a spec says of columns.
    pub fn compile(
        spec: &JoinSpec,
        stream: &str,
        context: &StepContext<'_>,
    ) -> Result<Sides, Wrong> {
        let Some(right) = (context.streams)(stream) else {
            let error = Error::new(Class::Configuration, "catalog.unknown-stream");
            return Err(Wrong::new(error.with("name", stream)).at("stream"));
        };
        let on = equal_columns(spec, context.schema, &right)?;
        let mut rule = Match::compile(spec, on, context.schema, &right, of_payload)?;
        rule.prune(context);
        let is_compared = |place: usize| rule.on.iter().any(|(left, _)| *left == place);
        let fields = context.schema.fields();
        let kept: Vec<usize> = (0..fields.len())
            .filter(|place| is_compared(*place) || context.needs(fields[*place].name()))
            .collect();
        for (left, _) in &mut rule.on {
            *left = kept.partition_point(|place| place < left);
        }
        let plain = |field: &FieldRef| {
            let plain = plain_type(field.data_type());
            let field = field.as_ref().clone().with_data_type(plain);
            Arc::new(field.with_nullable(true))
        };
        let own = kept.iter().map(|place| plain(&fields[*place]));
        let own = Arc::new(Schema::new(own.collect::<Vec<_>>()));
        let result = rule.result(&own);
        let mut both: Vec<FieldRef> = result.fields().iter().cloned().collect();
        both.push(Arc::new(Field::new(SIDE, DataType::Boolean, true)));
        Ok(Sides {
            stream: stream.to_owned(),
            left: Arc::clone(context.schema),
            right,
            kept,
            own,
            both: Arc::new(Schema::new(both)),
            result,
            rule,
        })
    }

    /// Places of the columns that must be equal, among those of the left side.
    pub fn keys(&self) -> Vec<usize> {
        self.rule.on.iter().map(|(left, _)| *left).collect()
    }

    /// A left row without one of the right side comes out.
    pub fn keeps_unmatched(&self) -> bool {
        self.rule.kind == JoinKind::Left
    }

    /// The columns that are kept of right rows: those that must be equal, then those added.
    pub fn right_kept(&self) -> SchemaRef {
        let keys = self.rule.on.iter();
        let keys = keys.map(|(left, _)| Arc::clone(&self.own.fields()[*left]));
        // A name may be there twice; columns are found by place.
        let named = keys.enumerate().map(|(i, field)| {
            let field = field.as_ref().clone().with_name(format!("$key{i}"));
            Arc::new(field)
        });
        let added = self.rule.fields.iter().cloned();
        Arc::new(Schema::new(named.chain(added).collect::<Vec<_>>()))
    }

    /// What the step says of itself, given what it does behind the regrouping.
    pub fn stateful(
        self: &Arc<Self>,
        spec: &JoinSpec,
        how: &str,
        after: Arc<dyn Step>,
    ) -> Stateful {
        let keys: Vec<String> = self
            .keys()
            .iter()
            .map(|place| self.own.field(*place).name().clone())
            .collect();
        Stateful {
            name: spec.name.clone(),
            meaning: format!("join {how} {} {:?} {:?}", self.stream, spec.on, spec.kind),
            divided: Some(Divided {
                before: self.entering(false, true),
                keys: keys.clone(),
                after,
            }),
            keys,
        }
    }

    /// The other input of the step.
    pub fn joined(self: &Arc<Self>, versions: bool) -> Joined {
        Joined {
            versions,
            stream: self.stream.clone(),
            before: self.entering(true, true),
            before_own: self.entering(false, false),
        }
    }

    fn entering(self: &Arc<Self>, is_right: bool, tells_late: bool) -> Arc<dyn Step> {
        Arc::new(SideStep {
            sides: Arc::clone(self),
            is_right,
            tells_late,
        })
    }

    /// Takes rows of both sides apart.
    pub fn split(&self, rows: &Rows) -> Result<SplitRows, Error> {
        let times = rows.times.as_ref().ok_or_else(misses_times)?;
        let side = rows.batch.column(rows.batch.num_columns() - 1);
        let side = arrow::array::AsArray::as_boolean(side);
        let own = self.own.fields().len();
        let part = |is_right: bool, columns: &[usize], schema: &SchemaRef| {
            let places = (0..rows.len()).filter(|row| side.value(*row) == is_right);
            let places: Vec<u32> = places.map(|row| row as u32).collect();
            let picked = rows.batch.project(columns).map_err(misfit)?;
            let columns = match places.len() == rows.len() {
                true => picked.columns().to_vec(),
                false => {
                    let places = UInt32Array::from(places.clone());
                    let picked = arrow::compute::take_record_batch(&picked, &places);
                    picked.map_err(misfit)?.columns().to_vec()
                }
            };
            let times = places
                .iter()
                .map(|row| times.times[*row as usize])
                .collect();
            let batch = RecordBatch::try_new(Arc::clone(schema), columns).map_err(misfit)?;
            Ok::<_, Error>((batch, times))
        };
        let kept: Vec<usize> = self
            .keys()
            .into_iter()
            .chain(own..own + self.rule.fields.len())
            .collect();
        Ok(SplitRows {
            left: part(false, &(0..own).collect::<Vec<_>>(), &self.own)?,
            right: part(true, &kept, &self.right_kept())?,
        })
    }

    /// Results: left columns, and added ones.
    pub fn results(
        &self,
        left: Vec<ArrayRef>,
        added: Vec<ArrayRef>,
        times: Vec<i64>,
    ) -> Result<Rows, Error> {
        let columns = left.into_iter().chain(added).collect();
        let batch = RecordBatch::try_new(Arc::clone(&self.result), columns).map_err(misfit)?;
        Ok(Rows::results(batch, times))
    }

    /// Left rows without right ones.
    pub fn unmatched(&self, left: Vec<ArrayRef>, times: Vec<i64>) -> Result<Rows, Error> {
        let fields = self.rule.fields.iter();
        let added = fields.map(|field| new_null_array(field.data_type(), times.len()));
        self.results(left, added.collect(), times)
    }
}

/// Rows of the two sides, each with their times.
pub(super) struct SplitRows {
    pub left: (RecordBatch, Vec<i64>),
    /// The columns of [`Sides::right_kept`].
    pub right: (RecordBatch, Vec<i64>),
}

/// Whether a row has null in one of these columns: it is equal to none.
pub(super) fn null_in(columns: &[&ArrayRef], row: usize) -> bool {
    columns.iter().any(|column| column.is_null(row))
}

/// Where the rows of a side are read: brings them into the form of both, and sorts out those that come late.
struct SideStep {
    sides: Arc<Sides>,
    is_right: bool,
    /// Late events come out as such, and are not only dropped.
    tells_late: bool,
}

impl SideStep {
    fn sees(&self) -> &SchemaRef {
        match self.is_right {
            false => &self.sides.left,
            true => &self.sides.right,
        }
    }

    /// Places of the columns that are read, in the order in which they are used.
    fn reads(&self) -> Vec<usize> {
        let rule = &self.sides.rule;
        match self.is_right {
            false => self.sides.kept.clone(),
            true => {
                let keys = rule.on.iter().map(|(_, right)| *right);
                keys.chain(rule.added.iter().copied()).collect()
            }
        }
    }
}

impl Step for SideStep {
    fn schema(&self) -> Option<SchemaRef> {
        Some(Arc::clone(&self.sides.both))
    }

    fn columns(&self) -> Vec<usize> {
        self.reads()
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let reads = self.reads().into_iter();
        let reads = reads.map(|place| {
            let name = self.sees().field(place).name();
            schema.index_of(name).map_err(misfit)
        });
        Ok(Box::new(Entering {
            sides: Arc::clone(&self.sides),
            is_right: self.is_right,
            tells_late: self.tells_late,
            reads: reads.collect::<Result<_, _>>()?,
        }))
    }
}

struct Entering {
    sides: Arc<Sides>,
    is_right: bool,
    tells_late: bool,
    reads: Vec<usize>,
}

impl Entering {
    fn enter(&self, rows: Rows, out: &mut Output) -> Result<(), Error> {
        let times = rows.times.as_ref().ok_or_else(misses_times)?;
        let keys: Vec<&ArrayRef> = match self.is_right {
            false => {
                let keys = self.sides.keys().into_iter();
                keys.map(|key| rows.batch.column(self.reads[key])).collect()
            }
            true => {
                let keys = self.reads[..self.sides.rule.on.len()].iter();
                keys.map(|place| rows.batch.column(*place)).collect()
            }
        };
        // Rows that are equal to none are of no use, unless they come out without another.
        let needs_key = self.is_right || !self.sides.keeps_unmatched();
        let (mut kept, mut late): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        for row in 0..rows.len() {
            if times.times[row] < times.marks[row] {
                late.push(row as u32);
            } else if !needs_key || !null_in(&keys, row) {
                kept.push(row as u32);
            }
        }
        let entering = match kept.len() == rows.len() {
            true => rows.clone(),
            false => rows.take(&kept.into())?,
        };
        let columns = self.columns(&entering.batch)?;
        let batch = RecordBatch::try_new(Arc::clone(&self.sides.both), columns).map_err(misfit)?;
        if self.tells_late && !late.is_empty() {
            out.late.push(rows.take(&late.into())?);
        }
        out.push(entering.with_columns(batch));
        Ok(())
    }

    fn columns(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, Error> {
        let (rule, own) = (&self.sides.rule, &self.sides.own);
        let read =
            |at: usize, field: &Field| as_type(batch.column(self.reads[at]), field.data_type());
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.sides.both.fields().len());
        for (place, field) in own.fields().iter().enumerate() {
            let of_right = rule.on.iter().position(|(left, _)| *left == place);
            columns.push(match (self.is_right, of_right) {
                (false, _) => read(place, field)?,
                (true, Some(key)) => read(key, field)?,
                (true, None) => new_null_array(field.data_type(), batch.num_rows()),
            });
        }
        for (i, field) in rule.fields.iter().enumerate() {
            columns.push(match self.is_right {
                true => read(rule.on.len() + i, field)?,
                false => new_null_array(field.data_type(), batch.num_rows()),
            });
        }
        let side = BooleanArray::from(vec![self.is_right; batch.num_rows()]);
        columns.push(Arc::new(side));
        Ok(columns)
    }
}

impl Operator for Entering {
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        ready(self.enter(rows, out)).boxed()
    }
}

//! A join with a table: each row gets what the table has for its key at that moment.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{is_not_null, take};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, Rows as KeyRows, SortField};
use busbar_catalog::{JoinKind, JoinSpec};
use busbar_event::{Class, Error};
use busbar_table::{Found, Lookup, Table};
use futures::future::{BoxFuture, FutureExt};

use super::cache::Cache;
use super::{Match, as_type, equal_columns};
use crate::limits::JOIN_CACHE_FOR;
use crate::operator::rows::misfit;
use crate::operator::{Operator, Output, Rows, Step, StepContext, Wrong};
use crate::output::blocking;

/// Compiles a join with a table.
pub(super) fn compile(
    spec: &JoinSpec,
    name: &str,
    context: &StepContext<'_>,
) -> Result<Arc<dyn Step>, Wrong> {
    let Some(table) = context.tables.get(name) else {
        let error = Error::new(Class::Configuration, "catalog.unknown-table").with("name", name);
        return Err(Wrong::new(error).at("table"));
    };
    let (rule, key) = match_table(spec, table, context)?;
    let types = key.iter().map(|(_, right)| *right);
    let schema = table.schema();
    let types = types.map(|place| schema.field(place).data_type().clone());
    Ok(Arc::new(TableJoin {
        table: Arc::clone(table),
        own: Arc::clone(context.schema),
        schema: rule.result(context.schema),
        key: key.iter().map(|(left, _)| *left).collect(),
        types: types.collect(),
        cache: spec.cache.map_or(JOIN_CACHE_FOR, |span| {
            Duration::from_micros(span.as_micros().unsigned_abs())
        }),
        rule,
    }))
}

/// The columns, and those of the key in the table's order.
fn match_table(
    spec: &JoinSpec,
    table: &Arc<dyn Table>,
    context: &StepContext<'_>,
) -> Result<(Match, Vec<(usize, usize)>), Wrong> {
    let schema = table.schema();
    let on = equal_columns(spec, context.schema, &schema)?;
    let key = table.key().iter().map(|name| {
        let mut on = on.iter().copied();
        on.find(|(_, right)| schema.field(*right).name() == name)
    });
    let key: Option<Vec<(usize, usize)>> = key.collect();
    let Some(key) = key.filter(|key| !key.is_empty() && key.len() == on.len()) else {
        let error = match table.key().is_empty() {
            true => Error::new(Class::Configuration, "flow.join-no-key"),
            false => Error::new(Class::Configuration, "flow.join-key")
                .with("key", table.key().join(", ")),
        };
        return Err(Wrong::new(error.with("table", table.name())).at("on"));
    };
    let rule = Match::compile(spec, on, context.schema, &schema, |_| true)?;
    Ok((rule, key))
}

struct TableJoin {
    table: Arc<dyn Table>,
    own: SchemaRef,
    schema: SchemaRef,
    /// Places of the columns that are the table's key, in its order, and the types that the table has them in.
    key: Vec<usize>,
    types: Vec<DataType>,
    rule: Match,
    cache: Duration,
}

impl Step for TableJoin {
    fn schema(&self) -> Option<SchemaRef> {
        Some(Arc::clone(&self.schema))
    }

    fn columns(&self) -> Vec<usize> {
        (0..self.own.fields().len()).collect()
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let place = |name: &String| schema.index_of(name).map_err(misfit);
        let own = self.own.fields().iter();
        let own = own
            .map(|field| place(field.name()))
            .collect::<Result<_, _>>()?;
        let key = self.key.iter().map(|column| self.own.field(*column).name());
        let fields = self.types.iter().cloned().map(SortField::new).collect();
        let waits = self.table.capabilities().lookup_waits;
        let added: Vec<_> = self.rule.fields.clone();
        Ok(Box::new(LookingUp {
            table: Arc::clone(&self.table),
            own,
            key: key.map(place).collect::<Result<_, _>>()?,
            types: self.types.clone(),
            columns: self.rule.added.clone(),
            added: added
                .iter()
                .map(|field| field.data_type().clone())
                .collect(),
            schema: Arc::clone(&self.schema),
            converter: RowConverter::new(fields).map_err(misfit)?,
            keeps_unmatched: self.rule.kind == JoinKind::Left,
            waits,
            cache: (waits && !self.cache.is_zero()).then(|| Cache::new(self.cache)),
        }))
    }
}

struct LookingUp {
    table: Arc<dyn Table>,
    /// Places of the columns that go through.
    own: Vec<usize>,
    key: Vec<usize>,
    types: Vec<DataType>,
    /// Places of the table's columns that are added, and their types.
    columns: Vec<usize>,
    added: Vec<DataType>,
    schema: SchemaRef,
    converter: RowConverter,
    keeps_unmatched: bool,
    waits: bool,
    cache: Option<Cache>,
}

/// The different keys of a batch.
struct DistinctKeys {
    /// The number of each row's key; null where a part of it is null.
    of_row: UInt32Array,
    /// The columns of the different keys, and their bytes.
    columns: Vec<ArrayRef>,
    bytes: KeyRows,
    /// For each the row it is in first.
    first: Vec<u32>,
}

impl LookingUp {
    async fn look_up(&mut self, rows: Rows, out: &mut Output) -> Result<(), Error> {
        let keys = self.keys(&rows.batch)?;
        let found = self.answers(&keys).await?;
        // Row to key, key to row of the table.
        let places = take(&found.places, &keys.of_row, None).map_err(misfit)?;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for place in &self.own {
            columns.push(Arc::clone(rows.batch.column(*place)));
        }
        let places: &UInt32Array = arrow::array::AsArray::as_primitive(&places);
        for (column, data_type) in found.rows.columns().iter().zip(&self.added) {
            let column = take(column, places, None).map_err(misfit)?;
            // The table's column may have become wider since the flow was compiled.
            columns.push(as_type(&column, data_type).map_err(|cause| {
                Error::new(Class::Configuration, "flow.join-table-changed")
                    .with("table", self.table.name())
                    .caused_by(cause)
            })?);
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(misfit)?;
        let all = rows.with_columns(batch);
        match self.keeps_unmatched || places.null_count() == 0 {
            true => out.push(all),
            false => out.push(all.filter(&is_not_null(places).map_err(misfit)?)?),
        }
        Ok(())
    }

    fn keys(&self, batch: &RecordBatch) -> Result<DistinctKeys, Error> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.key.len());
        for (place, data_type) in self.key.iter().zip(&self.types) {
            columns.push(as_type(batch.column(*place), data_type)?);
        }
        let encoded = self.converter.convert_columns(&columns).map_err(misfit)?;
        let is_null = |row: usize| columns.iter().any(|column| column.is_null(row));
        let nulls = columns.iter().any(|column| column.null_count() > 0);
        let hasher = foldhash::fast::RandomState::default();
        let mut known: HashMap<&[u8], u32, _> = HashMap::with_hasher(hasher);
        let mut first: Vec<u32> = Vec::new();
        let mut of_row: Vec<Option<u32>> = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            if nulls && is_null(row) {
                of_row.push(None);
                continue;
            }
            let number = *known.entry(encoded.row(row).data()).or_insert_with(|| {
                first.push(row as u32);
                first.len() as u32 - 1
            });
            of_row.push(Some(number));
        }
        drop(known);
        let places = UInt32Array::from(first.clone());
        for column in &mut columns {
            *column = take(column, &places, None).map_err(misfit)?;
        }
        Ok(DistinctKeys {
            of_row: of_row.into(),
            columns,
            bytes: encoded,
            first,
        })
    }

    async fn answers(&mut self, keys: &DistinctKeys) -> Result<Found, Error> {
        let some = !keys.first.is_empty();
        let Some(mut cache) = self.cache.take_if(|_| some) else {
            return self.ask(keys.columns.clone()).await;
        };
        let answered = self.answers_with(&mut cache, keys).await;
        self.cache = Some(cache);
        answered
    }

    async fn answers_with(&self, cache: &mut Cache, keys: &DistinctKeys) -> Result<Found, Error> {
        let bytes = |key: usize| keys.bytes.row(keys.first[key] as usize);
        cache.begin();
        let unknown: Vec<u32> = (0..keys.first.len())
            .filter(|key| !cache.knows(bytes(*key).data()))
            .map(|key| key as u32)
            .collect();
        if !unknown.is_empty() {
            let places = UInt32Array::from(unknown.clone());
            let asked = keys.columns.iter();
            let asked = asked.map(|column| take(column, &places, None).map_err(misfit));
            let found = self.ask(asked.collect::<Result<_, _>>()?).await?;
            let asked = unknown.iter().map(|key| bytes(*key as usize));
            cache.learn(asked, found)?;
        }
        cache.answer((0..keys.first.len()).map(bytes))
    }

    async fn ask(&self, keys: Vec<ArrayRef>) -> Result<Found, Error> {
        let columns = &self.columns;
        if !self.waits {
            let keys = &keys;
            return self.table.lookup(&Lookup { keys, columns });
        }
        let (table, columns) = (Arc::clone(&self.table), columns.clone());
        blocking(move || {
            let (keys, columns) = (&keys, &columns);
            table.lookup(&Lookup { keys, columns })
        })
        .await
    }
}

impl Operator for LookingUp {
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        self.look_up(rows, out).boxed()
    }

    fn memory(&self) -> usize {
        self.cache.as_ref().map_or(0, Cache::bytes)
    }
}

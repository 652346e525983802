//! A join with a table: each row gets what the table has for its key at that moment, or had at the time of the row.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{is_not_null, take};
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::row::{RowConverter, Rows as KeyRows, SortField};
use busbar_catalog::{JoinKind, JoinSpec};
use busbar_event::{Class, Error};
use busbar_table::{Found, LooksBack, Lookup, Table};
use futures::future::{BoxFuture, FutureExt};

use super::cache::Cache;
use super::{Match, as_type, equal_columns};
use crate::blocking::blocking;
use crate::limits::JOIN_CACHE_FOR;
use crate::operator::rows::misfit;
use crate::operator::{Operator, Output, Rows, Step, StepContext, Wrong, misses_times};

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
    if spec.as_of && spec.cache.is_some() {
        let error = Error::new(Class::Configuration, "flow.join-cache-as-of");
        return Err(Wrong::new(error).at("cache"));
    }
    let (table, mut rule, key) = match_table(spec, table, context)?;
    rule.prune(context);
    let fields = context.schema.fields().iter().enumerate();
    // With the key there is always a column, also where nothing else is read.
    let is_key = |place: &usize| key.iter().any(|(left, _)| left == place);
    let kept: Vec<usize> = fields
        .filter(|(place, field)| is_key(place) || context.needs(field.name()))
        .map(|(place, _)| place)
        .collect();
    let own = context
        .schema
        .project(&kept)
        .map_err(misfit)
        .map_err(Wrong::new)?;
    let types = key.iter().map(|(_, right)| *right);
    let schema = table.schema();
    let types = types.map(|place| schema.field(place).data_type().clone());
    Ok(Arc::new(TableJoin {
        table,
        sees: Arc::clone(context.schema),
        schema: rule.result(&Arc::new(own)),
        kept,
        key: key.iter().map(|(left, _)| *left).collect(),
        types: types.collect(),
        cache: spec.cache.map_or(JOIN_CACHE_FOR, |span| {
            Duration::from_micros(span.as_micros().unsigned_abs())
        }),
        as_of: spec.as_of,
        rule,
    }))
}

/// The columns of the table's key that a look-up gives: all, or as of event time those that [`LooksBack`] says.
fn given_key<'a>(spec: &JoinSpec, table: &'a Arc<dyn Table>) -> Result<&'a [String], Wrong> {
    let key = table.key();
    match (spec.as_of, table.looks_back(), key.split_last()) {
        (true, LooksBack::No, _) => {
            let error = Error::new(Class::Configuration, "flow.join-table-as-of")
                .with("table", table.name());
            Err(Wrong::new(error).at("as_of"))
        }
        (true, LooksBack::LastKeyColumn, Some((_, given))) => Ok(given),
        _ => Ok(key),
    }
}

/// Refuses columns of which a wide table keeps one version only: it would have nothing to say of the past.
fn check_versions(rule: &Match, table: &Arc<dyn Table>) -> Result<(), Wrong> {
    let mut added = rule.added.iter();
    match added.find(|column| table.versions(**column) < 2) {
        None => Ok(()),
        Some(column) => {
            let schema = table.schema();
            let error = Error::new(Class::Configuration, "flow.join-as-of-versions")
                .with("table", table.name())
                .with("column", schema.field(*column).name());
            Err(Wrong::new(error).at("as_of"))
        }
    }
}

/// The table as it is looked up, the columns, and those of the key: each one of the rows and one of the table.
type MatchedTable = (Arc<dyn Table>, Match, Vec<(usize, usize)>);

/// The table as it is looked up, the columns, and those of the key in the table's order.
fn match_table(
    spec: &JoinSpec,
    table: &Arc<dyn Table>,
    context: &StepContext<'_>,
) -> Result<MatchedTable, Wrong> {
    let schema = table.schema();
    let on = equal_columns(spec, context.schema, &schema)?;
    let names = on
        .iter()
        .map(|(_, right)| schema.field(*right).name().clone());
    let table = match table.keyed_by(&names.collect::<Vec<_>>()) {
        Some(keyed) if !on.is_empty() => keyed,
        _ => Arc::clone(table),
    };
    let given = given_key(spec, &table)?;
    let key = given.iter().map(|name| {
        let mut on = on.iter().copied();
        on.find(|(_, right)| schema.field(*right).name() == name)
    });
    let key: Option<Vec<(usize, usize)>> = key.collect();
    let Some(key) = key.filter(|key| !key.is_empty() && key.len() == on.len()) else {
        let error = match (given.is_empty(), given.len() == table.key().len()) {
            (true, _) => Error::new(Class::Configuration, "flow.join-no-key"),
            (_, true) => {
                Error::new(Class::Configuration, "flow.join-key").with("key", given.join(", "))
            }
            (_, false) => Error::new(Class::Configuration, "flow.join-key-as-of")
                .with("key", given.join(", ")),
        };
        return Err(Wrong::new(error.with("table", table.name())).at("on"));
    };
    let is_key = |field: &Field| table.key().contains(field.name());
    let rule = Match::compile(spec, on, context.schema, &schema, |field| {
        !spec.as_of || !is_key(field)
    })?;
    if spec.as_of && table.looks_back() == LooksBack::Versions {
        check_versions(&rule, &table)?;
    }
    Ok((table, rule, key))
}

struct TableJoin {
    table: Arc<dyn Table>,
    sees: SchemaRef,
    schema: SchemaRef,
    /// Places of the columns that go on: those of the key among them.
    kept: Vec<usize>,
    /// Places of the columns that are the table's key, in its order, and the types that the table has them in.
    key: Vec<usize>,
    types: Vec<DataType>,
    rule: Match,
    cache: Duration,
    /// Rows are looked up as of their own time.
    as_of: bool,
}

impl Step for TableJoin {
    fn schema(&self) -> Option<SchemaRef> {
        Some(Arc::clone(&self.schema))
    }

    fn columns(&self) -> Vec<usize> {
        self.kept.clone()
    }

    fn event_time(&self) -> bool {
        self.as_of
    }

    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        let place = |seen: &usize| {
            let name = self.sees.field(*seen).name();
            schema.index_of(name).map_err(misfit)
        };
        let own = self.kept.iter().map(place).collect::<Result<_, _>>()?;
        let fields = self.types.iter().cloned().map(SortField::new).collect();
        let waits = self.table.capabilities().lookup_waits;
        let added: Vec<_> = self.rule.fields.clone();
        Ok(Box::new(LookingUp {
            table: Arc::clone(&self.table),
            own,
            key: self.key.iter().map(place).collect::<Result<_, _>>()?,
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
            cache: (waits && !self.as_of && !self.cache.is_zero()).then(|| Cache::new(self.cache)),
            as_of: self.as_of,
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
    as_of: bool,
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
        let found = match self.as_of {
            true => self.ask_as_of(&rows).await?,
            false => {
                let keys = self.keys(&rows.batch)?;
                let found = self.answers(&keys).await?;
                // Row to key, key to row of the table.
                let places = take(&found.places, &keys.of_row, None).map_err(misfit)?;
                Found {
                    places: arrow::array::AsArray::as_primitive(&places).clone(),
                    rows: found.rows,
                }
            }
        };
        let places = &found.places;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for place in &self.own {
            columns.push(Arc::clone(rows.batch.column(*place)));
        }
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

    /// The columns of the rows' keys, of the types that the table has.
    fn key_columns(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, Error> {
        let key = self.key.iter().zip(&self.types);
        key.map(|(place, data_type)| as_type(batch.column(*place), data_type))
            .collect()
    }

    /// What the table had for each row at its time. Each key is read once for all its times, and nothing is kept: another
    /// batch asks for other times.
    async fn ask_as_of(&self, rows: &Rows) -> Result<Found, Error> {
        let keys = self.key_columns(&rows.batch)?;
        let times = rows.times.as_ref().ok_or_else(misses_times)?.times.clone();
        self.ask(keys, move |table, lookup| {
            table.lookup_as_of(lookup, &times)
        })
        .await
    }

    fn keys(&self, batch: &RecordBatch) -> Result<DistinctKeys, Error> {
        let mut columns = self.key_columns(batch)?;
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
            return self.ask(keys.columns.clone(), latest).await;
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
        if unknown.len() < keys.first.len() {
            self.table.cached(keys.first.len() - unknown.len());
        }
        if !unknown.is_empty() {
            let places = UInt32Array::from(unknown.clone());
            let asked = keys.columns.iter();
            let asked = asked.map(|column| take(column, &places, None).map_err(misfit));
            let found = self.ask(asked.collect::<Result<_, _>>()?, latest).await?;
            let asked = unknown.iter().map(|key| bytes(*key as usize));
            cache.learn(asked, found)?;
        }
        cache.answer((0..keys.first.len()).map(bytes))
    }

    /// Calls `find` with a look-up of these keys, where it may wait.
    async fn ask(
        &self,
        keys: Vec<ArrayRef>,
        find: impl FnOnce(&dyn Table, &Lookup<'_>) -> Result<Found, Error> + Send + 'static,
    ) -> Result<Found, Error> {
        let columns = &self.columns;
        if !self.waits {
            let keys = &keys;
            return find(&*self.table, &Lookup { keys, columns });
        }
        let (table, columns) = (Arc::clone(&self.table), columns.clone());
        blocking(move || {
            let (keys, columns) = (&keys, &columns);
            find(&*table, &Lookup { keys, columns })
        })
        .await
    }
}

/// What a table has now.
fn latest(table: &dyn Table, lookup: &Lookup<'_>) -> Result<Found, Error> {
    table.lookup(lookup)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use arrow::array::{AsArray, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use busbar_catalog::StepSpec;
    use busbar_log::SystemClock;
    use busbar_table::{Applied, Capabilities, Scan, Stats, TableSpec, Tables, Write};

    use super::*;
    use crate::operator::{Made, registry};

    /// A table that fails some times, counts the keys it is asked for, and may take long.
    #[derive(Debug)]
    struct Watched {
        table: Arc<dyn Table>,
        failures: AtomicUsize,
        asked: AtomicUsize,
        waits: bool,
    }

    impl Table for Watched {
        fn name(&self) -> &str {
            self.table.name()
        }
        fn engine(&self) -> &'static str {
            self.table.engine()
        }
        fn capabilities(&self) -> Capabilities {
            Capabilities {
                lookup_waits: self.waits,
                ..self.table.capabilities()
            }
        }
        fn schema(&self) -> SchemaRef {
            self.table.schema()
        }
        fn key(&self) -> &[String] {
            self.table.key()
        }
        fn evolve(&self, schema: &Schema) -> Result<(), Error> {
            self.table.evolve(schema)
        }
        fn check(&self, schema: &Schema) -> Result<(), Error> {
            self.table.check(schema)
        }
        fn write(&self, write: &Write<'_>) -> Result<Applied, Error> {
            self.table.write(write)
        }
        fn scan(&self, scan: &Scan) -> Result<busbar_table::Rows, Error> {
            self.table.scan(scan)
        }
        fn lookup(&self, lookup: &Lookup<'_>) -> Result<Found, Error> {
            let failed = self
                .failures
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                });
            if failed.is_ok() {
                return Err(Error::new(Class::Transient, "table.file-busy"));
            }
            self.asked
                .fetch_add(lookup.keys[0].len(), Ordering::Relaxed);
            self.table.lookup(lookup)
        }
        fn rows(&self) -> Result<u64, Error> {
            self.table.rows()
        }
        fn position(&self, producer: &str) -> Result<Option<u64>, Error> {
            self.table.position(producer)
        }
        fn stats(&self) -> Result<Stats, Error> {
            self.table.stats()
        }
    }

    const TABLE: &str = r#"{"key": ["site"], "hot": {},
        "columns": [{"name": "site", "type": "text"}, {"name": "height", "type": "int"}]}"#;

    fn watched(waits: bool) -> Arc<Watched> {
        let tables = Tables::open("", Arc::new(SystemClock)).unwrap();
        let spec: TableSpec = serde_json::from_str(TABLE).unwrap();
        tables
            .apply(&BTreeMap::from([("sites".to_owned(), spec)]))
            .unwrap();
        let table = tables.table("sites").unwrap();
        put(&*table, &[("a", 10), ("b", 20)]);
        Arc::new(Watched {
            table,
            failures: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
            waits,
        })
    }

    fn put(table: &dyn Table, rows: &[(&str, i64)]) {
        let sites: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0)));
        let heights: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1)));
        let batch = RecordBatch::try_from_iter([("site", sites), ("height", heights)]).unwrap();
        table.apply(&batch, None).unwrap();
    }

    fn operator(table: &Arc<Watched>, join: &str) -> Box<dyn Operator> {
        let spec: StepSpec = serde_saphyr::from_str(&format!("join: {{ {join} }}")).unwrap();
        let fields = ["id", "at"]
            .into_iter()
            .zip([DataType::Int64, DataType::Utf8]);
        let fields = fields.map(|(name, data_type)| Field::new(name, data_type, true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let table = Arc::clone(table) as Arc<dyn Table>;
        let context = StepContext {
            schema: &schema,
            tables: &BTreeMap::from([("sites".to_owned(), table)]),
            streams: &|_| None,
            plugins: &BTreeMap::new(),
            services: &BTreeMap::new(),
            has_payloads: false,
            needed: None,
        };
        let step = registry::compile(&spec, &context).unwrap();
        step.operator(&schema).unwrap()
    }

    fn rows(sites: &[Option<&str>]) -> Rows {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..sites.len() as i64));
        let sites: ArrayRef = Arc::new(StringArray::from(sites.to_vec()));
        Rows {
            batch: RecordBatch::try_from_iter_with_nullable([
                ("id", ids, true),
                ("at", sites, true),
            ])
            .unwrap(),
            made: Made::Same,
            times: None,
        }
    }

    /// Row by row: the event it was made from, and what was added.
    fn came(out: &mut Output) -> Vec<(usize, Option<i64>)> {
        let rows = std::mem::take(&mut out.rows).into_iter();
        let all = rows.flat_map(|rows| {
            let added = rows.batch.column(2).as_primitive::<Int64Type>().clone();
            let ids = rows.batch.column(0).as_primitive::<Int64Type>().clone();
            (0..rows.len()).map(move |row| {
                assert_eq!(rows.made.event(row) as i64, ids.value(row));
                (
                    rows.made.event(row),
                    added.is_valid(row).then(|| added.value(row)),
                )
            })
        });
        all.collect()
    }

    const SITES: [Option<&str>; 6] = [Some("b"), None, Some("a"), Some("x"), Some("b"), Some("b")];

    #[tokio::test]
    async fn a_table_that_fails_holds_the_rows() {
        for waits in [false, true] {
            let table = watched(waits);
            table.failures.store(2, Ordering::Relaxed);
            for (join, expected) in [
                (
                    "table: sites, on: at = site",
                    vec![(0, Some(20)), (2, Some(10)), (4, Some(20)), (5, Some(20))],
                ),
                (
                    "table: sites, on: at = site, type: left",
                    vec![
                        (0, Some(20)),
                        (1, None),
                        (2, Some(10)),
                        (3, None),
                        (4, Some(20)),
                        (5, Some(20)),
                    ],
                ),
            ] {
                table.failures.store(2, Ordering::Relaxed);
                let mut operator = operator(&table, join);
                let mut out = Output::default();
                for _ in 0..2 {
                    let failed = operator.process(rows(&SITES), &mut out).await.unwrap_err();
                    assert_eq!(failed.class(), Class::Transient);
                    assert!(out.rows.is_empty() && out.dead.is_empty());
                }
                operator.process(rows(&SITES), &mut out).await.unwrap();
                assert_eq!(came(&mut out), expected, "{join}");
            }
        }
    }

    #[tokio::test]
    async fn each_key_of_a_batch_is_asked_for_once_and_answers_are_kept_where_asking_takes_long() {
        for (join, waits, asked) in [
            ("table: sites, on: at = site", false, [3, 6]),
            ("table: sites, on: at = site, cache: 1h", true, [3, 3]),
            ("table: sites, on: at = site, cache: 0s", true, [3, 6]),
        ] {
            let table = watched(waits);
            let mut operator = operator(&table, join);
            for asked in asked {
                let mut out = Output::default();
                operator.process(rows(&SITES), &mut out).await.unwrap();
                assert_eq!(came(&mut out).len(), 4, "{join}");
                assert_eq!(table.asked.load(Ordering::Relaxed), asked, "{join}");
            }
            // A new key is asked for beside those that are known; without rows nothing is.
            let mut out = Output::default();
            operator
                .process(rows(&[Some("b"), Some("new")]), &mut out)
                .await
                .unwrap();
            operator.process(rows(&[None]), &mut out).await.unwrap();
            assert_eq!(came(&mut out), [(0, Some(20))]);
        }
    }

    #[tokio::test]
    async fn an_answer_is_used_for_its_time_only() {
        let table = watched(true);
        let mut operator = operator(&table, "table: sites, on: at = site, cache: 1ms");
        let mut out = Output::default();
        operator
            .process(rows(&[Some("a")]), &mut out)
            .await
            .unwrap();
        put(&*table.table, &[("a", 11)]);
        tokio::time::sleep(Duration::from_millis(5)).await;
        operator
            .process(rows(&[Some("a")]), &mut out)
            .await
            .unwrap();
        assert_eq!(came(&mut out), [(0, Some(10)), (0, Some(11))]);
    }
}

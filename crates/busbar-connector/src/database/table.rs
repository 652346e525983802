//! A table of a database as Busbar's own tables are: looked up by keys, and read with conditions that the database tests.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use busbar_event::{Class, Error};
use busbar_table::{
    Applied, Capabilities, ColumnType, Compare, Condition, Constant, Found, Lookup, Rows, Scan,
    Stats, Table, Write,
};

use super::open::{AskedDatabase, pieces, send_rows};
use super::{SqlCompares, SqlDatabase, SqlPart, SqlStatement, SqlTable, SqlValue};
use crate::limits::LOOKUP_KEYS_MAX;

/// A table of a database. It is read and never written.
pub struct RemoteTable {
    name: String,
    open: Arc<AskedDatabase>,
    database: Arc<dyn SqlDatabase>,
    table: Arc<SqlTable>,
    schema: SchemaRef,
    key: Vec<String>,
}

impl RemoteTable {
    /// The table as it is now; none where there is no such table. Waits for the database.
    ///
    /// # Errors
    /// As [`SqlDatabase::describe`].
    pub(super) fn open(
        name: &str,
        open: &Arc<AskedDatabase>,
        path: Vec<String>,
    ) -> Result<Option<Arc<dyn Table>>, Error> {
        let opening = Arc::clone(open);
        let found = open.wait(async move {
            let database = opening.database().await?;
            let table = database.describe(&path).await?;
            Ok(table.map(|table| (database, table)))
        })?;
        Ok(found.map(|(database, table)| {
            Arc::new(RemoteTable {
                name: name.to_owned(),
                open: Arc::clone(open),
                database,
                schema: table.schema(),
                table: Arc::new(table),
                key: Vec::new(),
            }) as Arc<dyn Table>
        }))
    }

    /// A table that is known already.
    pub(super) fn of(
        name: &str,
        open: &Arc<AskedDatabase>,
        database: &Arc<dyn SqlDatabase>,
        table: SqlTable,
        key: &[String],
    ) -> RemoteTable {
        RemoteTable {
            name: name.to_owned(),
            open: Arc::clone(open),
            database: Arc::clone(database),
            schema: table.schema(),
            table: Arc::new(table),
            key: key.to_vec(),
        }
    }

    /// The table as SQL writes it.
    fn written(&self) -> String {
        let parts = self
            .table
            .path
            .iter()
            .map(|part| self.database.quoted(part));
        parts.collect::<Vec<_>>().join(".")
    }

    /// `SELECT` of some columns; 1 where there are none.
    fn select(&self, columns: &[usize]) -> String {
        let name = |column: &usize| self.database.quoted(self.schema.field(*column).name());
        let names = match columns.is_empty() {
            true => "1".to_owned(),
            false => columns.iter().map(name).collect::<Vec<_>>().join(", "),
        };
        format!("SELECT {names} FROM {}", self.written())
    }

    fn statement(&self, parts: Vec<SqlPart>, columns: Schema) -> SqlStatement {
        SqlStatement {
            parts,
            columns: Some(Arc::new(columns)),
            table: self.written(),
            reads: true,
            ..SqlStatement::default()
        }
    }

    /// The statement of a scan.
    fn scan_statement(&self, scan: &Scan) -> Result<SqlStatement, Error> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let columns = scan.projection.as_ref().unwrap_or(&all);
        let mut text = self.select(columns);
        let mut parts = Vec::new();
        let usable = scan.conditions.iter().filter(|one| self.narrows(one));
        let mut word = " WHERE ";
        for condition in usable {
            let column = &self.table.columns[condition.column];
            let compare = match condition.compare {
                Compare::Equal => "=",
                Compare::Less => "<",
                Compare::LessOrEqual => "<=",
                Compare::Greater => ">",
                Compare::GreaterOrEqual => ">=",
            };
            text.push_str(word);
            text.push_str(&format!(
                "{} {compare} ",
                self.database.quoted(&column.name)
            ));
            parts.push(SqlPart::Text(std::mem::take(&mut text)));
            parts.push(SqlPart::Value(
                constant(&condition.constant),
                column.bound.clone(),
            ));
            word = " AND ";
        }
        let all_followed = scan.conditions.iter().all(|one| self.follows(one));
        if let Some(limit) = scan.limit.filter(|_| all_followed) {
            text.push_str(&self.database.limited(limit));
        }
        parts.push(SqlPart::Text(text));
        // Without columns the rows are still counted.
        let schema = self.schema.project(columns).map_err(of_arrow)?;
        Ok(self.statement(parts, schema))
    }

    /// Whether the database may leave out rows by a condition.
    fn narrows(&self, condition: &Condition) -> bool {
        let Some(column) = self.table.columns.get(condition.column) else {
            return false;
        };
        match condition.compare {
            Compare::Equal => column.compares >= SqlCompares::AtLeastEqual,
            _ => column.compares == SqlCompares::All,
        }
    }

    /// The statement for keys: a column of keys each, none of them null.
    fn lookup_statement(
        &self,
        key: &[usize],
        columns: &[usize],
        values: &[Vec<SqlValue>],
    ) -> Result<SqlStatement, Error> {
        let mut text = self.select(columns);
        text.push_str(" WHERE ");
        let mut parts = vec![SqlPart::Text(text)];
        let name = |column: usize| self.database.quoted(&self.table.columns[column].name);
        let bound = |column: usize| self.table.columns[column].bound.clone();
        match (key, values) {
            ([column], [values]) => {
                parts.push(SqlPart::OneOf(
                    name(*column),
                    values.clone(),
                    bound(*column),
                ));
            }
            _ => {
                for row in 0..values[0].len() {
                    for (at, (column, values)) in key.iter().zip(values).enumerate() {
                        let before = match (row, at) {
                            (0, 0) => "(",
                            (_, 0) => ") OR (",
                            _ => " AND ",
                        };
                        parts.push(SqlPart::Text(format!("{before}{} = ", name(*column))));
                        parts.push(SqlPart::Value(values[row].clone(), bound(*column)));
                    }
                }
                parts.push(SqlPart::Text(")".into()));
            }
        }
        let schema = self.schema.project(columns).map_err(of_arrow)?;
        Ok(self.statement(parts, schema))
    }

    /// The rows of keys: a column of keys each, none of them null.
    fn find(
        &self,
        key: &[usize],
        columns: &[usize],
        values: Vec<Vec<SqlValue>>,
    ) -> Result<Vec<RecordBatch>, Error> {
        let statement = self.lookup_statement(key, columns, &values)?;
        let (database, table) = (Arc::clone(&self.database), Arc::clone(&self.table));
        let (key, columns) = (key.to_vec(), columns.to_vec());
        let found = self.open.wait(async move {
            match database.find(&table, &key, &values, &columns) {
                Some(found) => found.await.map(Some),
                None => Ok(None),
            }
        })?;
        found.map_or_else(|| self.all(statement), Ok)
    }

    /// All rows of a statement.
    pub(super) fn all(&self, statement: SqlStatement) -> Result<Vec<RecordBatch>, Error> {
        let database = Arc::clone(&self.database);
        self.open.wait(async move {
            let mut rows = database.run(&statement).await?;
            let mut batches = Vec::new();
            while let Some(batch) = rows.next().await? {
                batches.push(batch);
            }
            Ok(batches)
        })
    }

    /// Its name, as errors say it.
    pub(super) fn label(&self) -> &str {
        &self.name
    }

    /// What ends a query so that it answers with at most so many rows.
    pub(super) fn at_most(&self, rows: usize) -> String {
        self.database.limited(rows)
    }

    fn read_only(&self) -> Error {
        Error::new(Class::Configuration, "database.read-only").with("table", &self.name)
    }
}

impl Table for RemoteTable {
    fn name(&self) -> &str {
        &self.name
    }

    fn engine(&self) -> &'static str {
        "database"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            is_durable: true,
            waits_for_disk: true,
            lookup_waits: true,
            can_be_held_up: true,
        }
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn key(&self) -> &[String] {
        &self.key
    }

    fn keyed_by(&self, key: &[String]) -> Option<Arc<dyn Table>> {
        Some(Arc::new(RemoteTable {
            name: self.name.clone(),
            open: Arc::clone(&self.open),
            database: Arc::clone(&self.database),
            table: Arc::clone(&self.table),
            schema: Arc::clone(&self.schema),
            key: key.to_vec(),
        }))
    }

    fn cached(&self, keys: usize) {
        self.open
            .counts
            .cached
            .fetch_add(keys as u64, Ordering::Relaxed);
    }

    fn evolve(&self, _schema: &Schema) -> Result<(), Error> {
        Err(self.read_only())
    }

    fn check(&self, _schema: &Schema) -> Result<(), Error> {
        Err(self.read_only())
    }

    fn write(&self, _write: &Write<'_>) -> Result<Applied, Error> {
        Err(self.read_only())
    }

    fn follows(&self, condition: &Condition) -> bool {
        let column = self.table.columns.get(condition.column);
        column.is_some_and(|column| match condition.compare {
            Compare::Equal => column.compares >= SqlCompares::Equal,
            _ => column.compares == SqlCompares::All,
        })
    }

    fn shown(&self, scan: &Scan) -> Option<String> {
        let statement = self.scan_statement(scan).ok()?;
        Some(format!("{}: {}", self.open.name(), statement.shown()))
    }

    fn scan(&self, scan: &Scan) -> Result<Rows, Error> {
        let statement = self.scan_statement(scan)?;
        let schema = statement
            .columns
            .clone()
            .unwrap_or_else(|| Arc::new(Schema::empty()));
        let database = Arc::clone(&self.database);
        let batches = pieces(&self.open, move |sender| async move {
            let rows = database.run(&statement).await?;
            send_rows(rows, usize::MAX, sender).await
        });
        Ok(Rows::new(schema, batches))
    }

    fn lookup(&self, lookup: &Lookup<'_>) -> Result<Found, Error> {
        let key: Option<Vec<usize>> = self
            .key
            .iter()
            .map(|name| self.schema.index_of(name).ok())
            .collect();
        let fits = |key: &Vec<usize>| {
            let types = key
                .iter()
                .map(|place| self.schema.field(*place).data_type());
            key.len() == lookup.keys.len()
                && !key.is_empty()
                && types.eq(lookup.keys.iter().map(|column| column.data_type()))
        };
        let key = key.filter(fits).ok_or_else(|| {
            Error::new(Class::Configuration, "table.lookup-keys").with("table", &self.name)
        })?;
        // The key comes first, so that rows are recognised; then the other columns that are wanted.
        let mut columns = key.clone();
        for column in lookup.columns {
            if !columns.contains(column) {
                columns.push(*column);
            }
        }
        let fields = lookup
            .keys
            .iter()
            .map(|column| SortField::new(column.data_type().clone()));
        let converter = RowConverter::new(fields.collect()).map_err(of_arrow)?;
        let asked = converter.convert_columns(lookup.keys).map_err(of_arrow)?;
        let has_null = |row: usize| lookup.keys.iter().any(|column| column.is_null(row));
        let rows: Vec<u32> = (0..asked.num_rows())
            .filter(|row| !has_null(*row))
            .map(|row| row as u32)
            .collect();
        let mut found: HashMap<&[u8], Option<u32>> = rows
            .iter()
            .map(|row| (asked.row(*row as usize).data(), None))
            .collect();
        let schema = Arc::new(self.schema.project(&columns).map_err(of_arrow)?);
        let mut batches = Vec::new();
        let mut count = 0_u32;
        for some in rows.chunks((LOOKUP_KEYS_MAX / key.len()).max(1)) {
            let some = UInt32Array::from(some.to_vec());
            let values = lookup.keys.iter().zip(&key).map(|(column, place)| {
                let column = take(column, &some, None).map_err(of_arrow)?;
                SqlValue::of_column(&column, self.schema.field(*place).name())
            });
            let values = values.collect::<Result<Vec<_>, Error>>()?;
            for batch in self.find(&key, &columns, values)? {
                let own: Vec<ArrayRef> = batch.columns()[..key.len()].to_vec();
                let own = converter.convert_columns(&own).map_err(of_arrow)?;
                for (row, key) in own.iter().enumerate() {
                    // A database may find keys in other cases equal, which they are not here.
                    let Some(place) = found.get_mut(key.data()) else {
                        continue;
                    };
                    if place.replace(count + row as u32).is_some() {
                        return Err(self.many_rows(&batch, row));
                    }
                }
                count += batch.num_rows() as u32;
                batches.push(batch);
            }
        }
        let counts = &self.open.counts;
        counts
            .keys
            .fetch_add(asked.num_rows() as u64, Ordering::Relaxed);
        let hits = found.values().filter(|place| place.is_some()).count();
        counts.found.fetch_add(hits as u64, Ordering::Relaxed);
        let all = concat_batches(&schema, &batches).map_err(of_arrow)?;
        let place = |column: &usize| columns.iter().position(|known| known == column);
        let wanted: Vec<usize> = lookup.columns.iter().filter_map(place).collect();
        let places = (0..asked.num_rows()).map(|row| match has_null(row) {
            true => None,
            false => found.get(asked.row(row).data()).copied().flatten(),
        });
        let places: UInt32Array = places.collect();
        let options = RecordBatchOptions::new().with_row_count(Some(all.num_rows()));
        let of_wanted = Arc::new(all.schema().project(&wanted).map_err(of_arrow)?);
        let arrays = wanted.iter().map(|column| Arc::clone(all.column(*column)));
        let rows = RecordBatch::try_new_with_options(of_wanted, arrays.collect(), &options);
        Ok(Found {
            rows: rows.map_err(of_arrow)?,
            places,
        })
    }

    fn rows(&self) -> Result<u64, Error> {
        let text = format!("SELECT COUNT(*) FROM {}", self.written());
        let columns = Schema::new(vec![ColumnType::Int.field("rows")]);
        let batches = self.all(self.statement(vec![SqlPart::Text(text)], columns))?;
        let first = batches.first().filter(|batch| batch.num_rows() > 0);
        let count = first.and_then(|batch| {
            let counts = batch.column(0).as_primitive_opt::<Int64Type>();
            counts.map(|counts| counts.value(0).unsigned_abs())
        });
        Ok(count.unwrap_or(0))
    }

    fn position(&self, _producer: &str) -> Result<Option<u64>, Error> {
        Ok(None)
    }

    fn stats(&self) -> Result<Stats, Error> {
        Ok(Stats::default())
    }
}

impl RemoteTable {
    /// The refusal of a key that several rows have; the row is one of them.
    fn many_rows(&self, batch: &RecordBatch, row: usize) -> Error {
        let shown = self.key.iter().zip(batch.columns()).map(|(name, column)| {
            let value = SqlValue::of_column(&column.slice(row, 1), name);
            let value = value
                .ok()
                .and_then(|values| values.first().and_then(SqlValue::text));
            format!("{name} = {}", value.unwrap_or_default())
        });
        Error::new(Class::Permanent, "database.many-rows")
            .with("table", &self.name)
            .with("key", shown.collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Debug for RemoteTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RemoteTable").field(&self.name).finish()
    }
}

fn constant(constant: &Constant) -> SqlValue {
    match constant {
        Constant::Bool(value) => SqlValue::Bool(*value),
        Constant::Int(value) => SqlValue::Int(*value),
        Constant::Float(value) => SqlValue::Float(*value),
        Constant::Text(value) => SqlValue::Text(value.clone()),
        Constant::Time(value) => SqlValue::Time(*value),
    }
}

pub(super) fn of_arrow(cause: arrow::error::ArrowError) -> Error {
    Error::new(Class::Permanent, "database.rows").caused_by(cause)
}

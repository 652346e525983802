//! Rows that a store keeps under keys, as a table: looked up by their whole key, and read one after another.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{Schema, SchemaRef};
use busbar_event::{Class, Error};
use busbar_table::{Applied, Capabilities, Found, Lookup, Rows, Scan, Stats, Table, Write};

use super::open::{AskedDatabase, pieces, send_rows};
use super::{PoolUse, SqlRows};
use crate::Work;

/// A store that keeps rows under keys and answers no SQL. Any number of calls may be under way at a time.
pub trait KeyedStore: Send + Sync {
    /// The columns of the rows that the connection's file names so; none if it names none.
    fn layout(&self, rows: &str) -> Option<KeyedLayout>;

    /// Finds rows by their keys, a column of keys for each column of [`KeyedLayout::key`], of its type.
    ///
    /// # Errors
    /// *Transient*: the store does not answer, or cannot do it now. *Permanent*: a value is no value of its column.
    /// *Configuration*: somebody must change something first.
    fn find<'a>(
        &'a self,
        rows: &'a str,
        keys: &'a [ArrayRef],
        columns: &'a [usize],
    ) -> Work<'a, Result<Found, Error>>;

    /// All rows, in pieces, in no order, with these columns. A row that is written or deleted meanwhile may be there or not.
    ///
    /// # Errors
    /// As [`KeyedStore::find`].
    fn all<'a>(
        &'a self,
        rows: &'a str,
        columns: &'a [usize],
    ) -> Work<'a, Result<Box<dyn SqlRows + 'a>, Error>>;

    /// What is used of the pool of sessions.
    fn pool(&self) -> PoolUse;
}

/// The columns of rows that a store keeps under keys.
#[derive(Clone, Debug)]
pub struct KeyedLayout {
    /// All columns, those of the key among them.
    pub schema: SchemaRef,
    /// The columns that make the key, in its order.
    pub key: Vec<String>,
}

/// Rows that a store keeps under keys. They are read and never written.
pub(super) struct KeyedTable {
    name: String,
    /// What the connection's file calls them.
    rows: Arc<str>,
    open: Arc<AskedDatabase>,
    store: Arc<dyn KeyedStore>,
    layout: KeyedLayout,
}

impl KeyedTable {
    /// The rows of that name; none where the connection's file names none so. Opens no session.
    ///
    /// # Errors
    /// *Configuration*: what the connection's file says cannot be used.
    pub fn open(
        name: &str,
        open: &Arc<AskedDatabase>,
        path: &[String],
    ) -> Result<Option<Arc<dyn Table>>, Error> {
        let [rows] = path else {
            return Ok(None);
        };
        let opening = Arc::clone(open);
        let store = open.wait(async move { opening.store().await })?;
        Ok(store.layout(rows).map(|layout| {
            Arc::new(KeyedTable {
                name: name.to_owned(),
                rows: rows.as_str().into(),
                open: Arc::clone(open),
                store,
                layout,
            }) as Arc<dyn Table>
        }))
    }

    fn read_only(&self) -> Error {
        Error::new(Class::Configuration, "database.read-only").with("table", &self.name)
    }
}

impl Table for KeyedTable {
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
        Arc::clone(&self.layout.schema)
    }

    fn key(&self) -> &[String] {
        &self.layout.key
    }

    fn cached(&self, keys: usize) {
        let cached = &self.open.counts.cached;
        cached.fetch_add(keys as u64, Ordering::Relaxed);
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

    fn shown(&self, _scan: &Scan) -> Option<String> {
        Some(format!("{}: all rows of {}", self.open.name(), self.rows))
    }

    fn scan(&self, scan: &Scan) -> Result<Rows, Error> {
        let every = || (0..self.layout.schema.fields().len()).collect();
        let columns: Vec<usize> = scan.projection.clone().unwrap_or_else(every);
        let schema = self.layout.schema.project(&columns);
        let schema = schema.map_err(super::table::of_arrow)?;
        // Without conditions a limit can be followed.
        let most = match scan.limit {
            Some(limit) if scan.conditions.is_empty() => limit,
            _ => usize::MAX,
        };
        let (store, name) = (Arc::clone(&self.store), Arc::clone(&self.rows));
        let batches = pieces(&self.open, move |sender| async move {
            let rows = store.all(&name, &columns).await?;
            send_rows(rows, most, sender).await
        });
        Ok(Rows::new(Arc::new(schema), batches))
    }

    fn lookup(&self, lookup: &Lookup<'_>) -> Result<Found, Error> {
        let schema = &self.layout.schema;
        let types = self.layout.key.iter().map(|name| {
            let field = schema.field_with_name(name).ok();
            field.map(|field| field.data_type())
        });
        if !types.eq(lookup.keys.iter().map(|column| Some(column.data_type()))) {
            let error = Error::new(Class::Configuration, "table.lookup-keys");
            return Err(error.with("table", &self.name));
        }
        let (store, name) = (Arc::clone(&self.store), Arc::clone(&self.rows));
        let (keys, columns) = (lookup.keys.to_vec(), lookup.columns.to_vec());
        let found = self
            .open
            .wait(async move { store.find(&name, &keys, &columns).await })?;
        let counts = &self.open.counts;
        let asked = lookup.keys.first().map_or(0, |column| column.len()) as u64;
        counts.keys.fetch_add(asked, Ordering::Relaxed);
        let hits = found.places.len() - found.places.null_count();
        counts.found.fetch_add(hits as u64, Ordering::Relaxed);
        Ok(found)
    }

    fn rows(&self) -> Result<u64, Error> {
        let scan = Scan {
            projection: Some(Vec::new()),
            ..Scan::default()
        };
        let mut rows = 0;
        for batch in self.scan(&scan)? {
            rows += batch?.num_rows() as u64;
        }
        Ok(rows)
    }

    fn position(&self, _producer: &str) -> Result<Option<u64>, Error> {
        Ok(None)
    }

    fn stats(&self) -> Result<Stats, Error> {
        Ok(Stats {
            rows: self.rows()?,
            ..Stats::default()
        })
    }
}

impl fmt::Debug for KeyedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedTable")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

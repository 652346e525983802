//! What the author of a connector needs, and nothing else.
//!
//! A connector is a [`Source`] (events come in), a [`Sink`] (rows go out), a [`Service`] (it is asked) or several of them, and
//! a [`Connector`] that makes them from the options in a connection's file. Each trait has one method that must be written;
//! waiting, repeating with back-off, batching, dead letters, positions and counters are wrapped around it by
//! the runtime.

mod breaker;
mod database;
mod health;
pub mod limits;
mod retry;
mod rows;
mod service;
mod sql_call;

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use busbar_catalog::{CallSpec, ConnectionSpec, Diagnostic, Project};
use busbar_event::{Batch, Class, Error};
use busbar_log::Clock;
use serde::Serialize;

pub use breaker::{Admitted, Breaker, BreakerState, CallTrial};
pub use busbar_table::wide::{CellBytes, CellFamily, CellGuard, CellMutation, CellRead, CellRow};
pub use busbar_table::{
    ChangeLog, ChangesClaim, ColumnSpec, Compare, Condition, Constant, Found, HotPlace,
    ReadChanges, Rows as TableRows, Scan, Table, TableChange, Tables,
};
pub use database::{
    AskedDatabase, CellDatabase, CellScanner, ColumnType, DatabaseStatus, Databases, HotCount,
    HotDatabase, HotLayout, KeptTable, KeyedLayout, KeyedStore, LeavingRows, PoolUse, Pooled,
    RemoteTable, SessionEffect, SessionPool, SqlColumn, SqlCompares, SqlDatabase, SqlPart, SqlRows,
    SqlStatement, SqlTable, SqlValue, TextColumns, number_kind,
};
pub use health::{SnapshotState, SnapshotStatus};
pub use retry::{Backoff, Outcome, deliver};
pub use rows::{KeyOrder, OrderedRows, ReadColumn, TableRead, TextRow};
pub use service::{
    CallEscapes, CallFault, CallForm, CallParts, Escape, Service, ServiceAnswer, ServiceContext,
    ServiceRequest,
};
pub use sql_call::{SqlForm, SqlService};

/// A future that a trait object can answer with.
pub type Work<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Brings events in.
pub trait Source: Send {
    /// What has arrived since the last call. May wait; may be dropped while it waits, after which it is called
    /// again and must have lost nothing.
    ///
    /// # Errors
    /// *Transient*: called again after a back-off. *Configuration*: the connection stops and says why.
    /// *Permanent*: counted and shown, then called again; what cannot be read should rather be published
    /// as it came, so that a flow's dead letter keeps it.
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>>;

    /// Everything up to this position of a part is committed: acknowledge it upstream.
    fn committed(&mut self, part: &str, position: u64) {
        let _ = (part, position);
    }

    /// This position of a part is on the disk: whatever happens, the source goes on behind it or behind a later one, so that what
    /// lies before it may be forgotten where it came from. Some time after it was said to be committed; of several positions
    /// perhaps only the last one.
    fn kept(&mut self, part: &str, position: u64) {
        let _ = (part, position);
    }

    /// Parts that are over for good, each named once: their positions are kept no longer. Asked when the
    /// source rests.
    fn forgotten(&mut self) -> Vec<Arc<str>> {
        Vec::new()
    }

    /// How much there is on the other side that has not come, in bytes, if the other side says so.
    fn lag_bytes(&self) -> Option<u64> {
        None
    }

    /// How many events of each part there are on the other side that have not come, if the other side counts them.
    fn lag_events(&self) -> BTreeMap<Arc<str>, u64> {
        BTreeMap::new()
    }

    /// What somebody should look at although the source runs: it stands still while the other side goes on, something was
    /// missed. Each is there for as long as it is so.
    fn alarms(&self) -> Vec<Error> {
        Vec::new()
    }

    /// How far snapshots of tables have come, by table.
    fn snapshots(&self) -> Vec<SnapshotStatus> {
        Vec::new()
    }

    /// Takes the snapshot of a table anew, behind an event that empties it, while changes of the other tables go on.
    ///
    /// # Errors
    /// *Configuration*: the source takes no snapshots, or does not follow this table.
    fn take_anew(&mut self, table: &str) -> Result<(), Error> {
        Err(Error::new(Class::Configuration, "connect.no-snapshot").with("table", table))
    }

    /// Called once, before the source is dropped in good order.
    fn close(&mut self) -> Work<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }
}

/// What [`Source::poll`] brought.
#[derive(Debug)]
pub enum Polled {
    /// Events.
    Batch(Polling),
    /// Nothing for now; ask again after this long.
    Idle(Duration),
    /// There will never be more.
    End,
}

/// Events and how far they reach.
#[derive(Debug)]
pub struct Polling {
    /// The events, with their topics. Without any, only the position and the note are kept, and the source is polled again once
    /// they are on the disk.
    pub batch: Batch,
    /// Which of several things the source reads (one file of many); empty when it reads one.
    pub part: Arc<str>,
    /// The position behind each row or behind the last one; none for a source that cannot say where it is,
    /// whose events are then delivered at most as often as it reads them.
    pub position: Position,
    /// Kept with the position, and handed back with it by [`Resume::note`]: what the source needs to recognise the place
    /// where it goes on. At most some hundred bytes.
    pub note: Vec<u8>,
}

/// How far a source has read. Positions of a part only grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// The source cannot be resumed.
    None,
    /// Behind the last row. After a crash the source may publish the batch that was under way once more
    /// in part, if its rows went to several partitions.
    End(u64),
    /// Behind each row: exactly once, for the wrapper can cut.
    Rows(Vec<u64>),
    /// A number of the source's own, handed to [`Source::committed`] and kept nowhere: the other side
    /// remembers what it has been told, and sends the rest again. At least once.
    Receipt(u64),
}

impl Position {
    /// The position behind the last row, where the source can be resumed at one.
    pub fn last(&self) -> Option<u64> {
        match self {
            Position::None | Position::Receipt(_) => None,
            Position::End(position) => Some(*position),
            Position::Rows(positions) => positions.last().copied(),
        }
    }
}

/// Takes rows out.
pub trait Sink: Send {
    /// Writes rows, all of them or those not named in the answer. The rows are written when this returns.
    /// May be dropped while it waits, after which it may be called again with the same rows or others.
    ///
    /// # Errors
    /// *Transient*: called again with the same rows after a back-off, for ever, and not before
    /// [`Error::retry_after`] has passed. *Permanent*: the batch is
    /// split until the rows at fault are found; each becomes a dead letter. *Configuration*: the
    /// sink stops and says why.
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>>;

    /// For sinks that keep the position with the rows: how far a producer has come.
    fn position<'a>(&'a mut self, producer: &'a str) -> Work<'a, Result<Option<u64>, Error>> {
        let _ = producer;
        Box::pin(async { Ok(None) })
    }

    /// Where a producer's input is to be cut after a start: at its position, and at the end of a delivery that may be there, for a
    /// sink that recognises a delivery only as a whole.
    fn cuts<'a>(&'a mut self, producer: &'a str) -> Work<'a, Result<Vec<u64>, Error>> {
        let position = self.position(producer);
        Box::pin(async move { Ok(position.await?.into_iter().collect()) })
    }

    /// Called once, before the sink is dropped in good order.
    fn close(&mut self) -> Work<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }
}

/// Rows for a [`Sink`]: as events, and as columns where the flow made columns.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The rows as events: topic, key, time, tags and payload.
    pub events: Batch,
    /// The rows as columns: what the flow's last step made, or the events' own.
    pub rows: RecordBatch,
    /// Who writes, for sinks that keep positions. Empty for rows that need not be recognised when they come again: no position
    /// is kept with them.
    pub producer: Arc<str>,
    /// The position behind the last row of the whole delivery, of which this may be a part.
    pub position: u64,
    /// The number of the first row in the whole delivery. With the position it tells parts apart.
    pub first: usize,
    /// For each row of the whole delivery the event that it was made from; none where rows stand for no single event.
    pub sources: Option<Arc<[RowSource]>>,
}

/// The event that a row was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowSource {
    /// Its offset in what the producer reads.
    pub offset: u64,
    /// How many rows before this one were made from it.
    pub before: u32,
}

impl Delivery {
    /// What tells a row from all others of its producer. A row that was made from one event has the same name whenever it comes,
    /// also after a crash in another delivery; others have it within this delivery.
    pub fn row_name(&self, row: usize) -> String {
        let number = self.first + row;
        let source = self.sources.as_ref().and_then(|all| all.get(number));
        match source {
            Some(RowSource { offset, before }) => format!("{offset}.{before}"),
            None => format!("{}-{number}", self.position),
        }
    }

    /// Some of the rows.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Delivery {
        Delivery {
            events: self.events.slice(range.start, range.len()),
            rows: self.rows.slice(range.start, range.len()),
            producer: Arc::clone(&self.producer),
            position: self.position,
            first: self.first + range.start,
            sources: self.sources.clone(),
        }
    }
}

/// What became of a [`Delivery`].
#[derive(Debug, Default)]
pub struct Written {
    /// Rows that will never be taken, and why.
    pub rejected: Vec<(usize, Error)>,
    /// Rows that were not written because the other side has changed the same row, and its change counts.
    pub conflicts: u64,
}

impl Written {
    /// All rows but these are written.
    pub fn of(rejected: Vec<(usize, Error)>) -> Written {
        Written {
            rejected,
            conflicts: 0,
        }
    }
}

/// What a sink promises across a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guarantee {
    /// No row is missing; rows may be there twice.
    AtLeastOnce,
    /// Each row is there once.
    ExactlyOnce,
}

/// What a connection may be used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Roles {
    /// It brings events in as soon as it is there.
    pub source: bool,
    /// Flows may name it in `to`.
    pub sink: bool,
    /// `call` steps may ask it.
    pub service: bool,
}

/// What is on the other side of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// What the other side calls itself: `PostgreSQL 15.20`.
    pub server: String,
    /// Its tables, by schema and name.
    pub tables: Vec<SurveyedTable>,
}

/// A table on the other side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SurveyedTable {
    /// The schema or database that it is in.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// About how many rows it has, as the other side estimates it.
    pub rows: Option<u64>,
    /// Its columns, in order.
    pub columns: Vec<SurveyedColumn>,
}

/// A column on the other side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SurveyedColumn {
    /// Its name.
    pub name: String,
    /// Its type, as the other side writes it.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it is one of the primary key.
    pub key: bool,
    /// Whether it is declared to hold no null; false where the other side does not say.
    pub required: bool,
}

impl Survey {
    /// A survey from rows of schema, table, estimated rows, column, type, `1` for one of the key and `1` for one that holds no
    /// null, in order.
    pub fn from_rows<'a>(server: String, rows: impl Iterator<Item = [&'a str; 7]>) -> Survey {
        let mut survey = Survey {
            server,
            tables: Vec::new(),
        };
        for [schema, name, estimate, column, kind, key, required] in rows {
            let last = survey.tables.last_mut();
            let table = match last.filter(|table| table.schema == schema && table.name == name) {
                Some(table) => table,
                None => {
                    survey.tables.push(SurveyedTable {
                        schema: schema.to_owned(),
                        name: name.to_owned(),
                        rows: estimate.parse().ok(),
                        columns: Vec::new(),
                    });
                    let Some(table) = survey.tables.last_mut() else {
                        break;
                    };
                    table
                }
            };
            table.columns.push(SurveyedColumn {
                name: column.to_owned(),
                kind: kind.to_owned(),
                key: key == "1",
                required: required == "1",
            });
        }
        survey
    }
}

/// What is shown in the place of a secret.
pub const HIDDEN: &str = "(hidden)";

/// A secret that stands in a connection's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiteralSecret {
    /// The keys that lead to its value among the connection's options.
    pub path: Vec<String>,
    /// What may be shown in its place.
    pub shown: String,
}

/// One kind of connection.
pub trait Connector: Send + Sync {
    /// The key in the connection's file: `host`, `file`, `http`, `mqtt`.
    fn kind(&self) -> &'static str;

    /// Reads the options without opening anything.
    ///
    /// # Errors
    /// A diagnostic that points into the file.
    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic>;

    /// What somebody should look at before the connection is used in this project: its options and streams that do not
    /// fit together, secrets that stand in the file.
    fn warnings(&self, spec: &ConnectionSpec, project: &Project) -> Vec<Diagnostic> {
        let _ = (spec, project);
        Vec::new()
    }

    /// Checks the columns of rows that a flow writes to the connection. Opens nothing.
    ///
    /// # Errors
    /// *Configuration*: a column that the other side does not know, whose type does not fit, or that is missing.
    fn check_rows(&self, spec: &ConnectionSpec, columns: &Schema) -> Result<(), Error> {
        let _ = (spec, columns);
        Ok(())
    }

    /// The secrets that stand in the connection's file.
    fn secrets(&self, spec: &ConnectionSpec) -> Vec<LiteralSecret> {
        let _ = spec;
        Vec::new()
    }

    /// The JSON Schema of the options.
    fn schema(&self) -> serde_json::Value;

    /// What [`Sink::write`] promises when the process dies in the middle.
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    /// Looks at the other side without reading or writing rows: that it answers, what it is, and its tables where they are
    /// asked for.
    ///
    /// # Errors
    /// As [`Source::poll`]; *configuration* for a kind that cannot be looked at.
    fn survey<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        project_dir: Arc<std::path::Path>,
        tables: bool,
    ) -> Work<'a, Result<Survey, Error>> {
        let _ = (project_dir, tables);
        lacks(spec, "connect.no-survey")
    }

    /// Whether connections of this kind lead to a database that answers SQL: see [`Connector::database`].
    fn is_database(&self) -> bool {
        false
    }

    /// Whether relational tables can be kept in such a database.
    fn keeps_tables(&self) -> bool {
        self.is_database()
    }

    /// The database of a connection. Opens no session yet.
    ///
    /// # Errors
    /// *Configuration*, for a kind that is none, or options that cannot be used.
    fn database<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: ServiceContext,
    ) -> Work<'a, Result<Arc<dyn SqlDatabase>, Error>> {
        let _ = context;
        lacks(spec, "connect.no-database")
    }

    /// Whether this connection leads to rows that are looked up by their keys, and to no database that answers SQL: see
    /// [`Connector::store`].
    fn keeps_rows(&self, spec: &ConnectionSpec) -> bool {
        let _ = spec;
        false
    }

    /// The store of a connection. Opens no session yet.
    ///
    /// # Errors
    /// *Configuration*, for a kind that is none, or options that cannot be used.
    fn store<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: ServiceContext,
    ) -> Work<'a, Result<Arc<dyn KeyedStore>, Error>> {
        let _ = context;
        lacks(spec, "connect.no-database")
    }

    /// Whether connections of this kind lead to a system that keeps cells: see [`Connector::cells`].
    fn keeps_cells(&self) -> bool {
        false
    }

    /// The system of a connection that keeps the cells of wide tables. Opens no session yet.
    ///
    /// # Errors
    /// *Configuration*, for a kind that is none, or options that cannot be used.
    fn cells<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: ServiceContext,
    ) -> Work<'a, Result<Arc<dyn CellDatabase>, Error>> {
        let _ = context;
        lacks(spec, "connect.no-cells")
    }

    /// Whether connections of this kind lead to a system that keeps the rows of hot tables: see [`Connector::hot`].
    fn keeps_hot(&self) -> bool {
        false
    }

    /// The system of a connection that keeps the rows of hot tables. Opens no session yet.
    ///
    /// # Errors
    /// *Configuration*, for a kind that is none, or options that cannot be used.
    fn hot<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: ServiceContext,
    ) -> Work<'a, Result<Arc<dyn HotDatabase>, Error>> {
        let _ = context;
        lacks(spec, "connect.no-hot")
    }

    /// How a `call` step speaks to the service. Opens nothing.
    ///
    /// # Errors
    /// What is wrong with the step, for a connection of this kind.
    fn call_form(
        &self,
        spec: &ConnectionSpec,
        call: &CallSpec,
    ) -> Result<Arc<dyn CallForm>, CallFault> {
        let _ = call;
        let error = Error::new(busbar_event::Class::Configuration, "connect.no-service");
        Err(CallFault::at("connection", error.with("kind", &spec.kind)))
    }

    /// Opens the service.
    ///
    /// # Errors
    /// As [`Service::exchange`].
    fn service<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: ServiceContext,
    ) -> Work<'a, Result<Arc<dyn Service>, Error>> {
        let _ = context;
        lacks(spec, "connect.no-service")
    }

    /// Reads a table in the order of its key.
    ///
    /// # Errors
    /// As [`Source::poll`]; *configuration* for a kind whose tables cannot be read so.
    fn read_table<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        project_dir: Arc<std::path::Path>,
        read: TableRead,
    ) -> Work<'a, Result<Box<dyn OrderedRows>, Error>> {
        let _ = (project_dir, read);
        lacks(spec, "connect.no-rows")
    }

    /// Opens the source.
    ///
    /// # Errors
    /// As [`Source::poll`]; *configuration* for a kind that is none.
    fn source<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SourceContext,
    ) -> Work<'a, Result<Box<dyn Source>, Error>> {
        let _ = context;
        lacks(spec, "connect.no-source")
    }

    /// Opens the sink.
    ///
    /// # Errors
    /// As [`Sink::write`]; *configuration* for a kind that is none.
    fn sink<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SinkContext,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>> {
        let _ = context;
        lacks(spec, "connect.no-sink")
    }
}

/// What connections of this kind are not for.
fn lacks<'a, T>(spec: &'a ConnectionSpec, code: &'static str) -> Work<'a, Result<T, Error>> {
    Box::pin(async move {
        let error = Error::new(busbar_event::Class::Configuration, code);
        Err(error.with("kind", &spec.kind))
    })
}

/// The connectors there are, by kind. `busbar-connect` fills one; tests make their own.
#[derive(Clone, Default)]
pub struct Connectors {
    kinds: BTreeMap<&'static str, Arc<dyn Connector>>,
}

impl Connectors {
    /// A registry of these.
    pub fn new(connectors: impl IntoIterator<Item = Arc<dyn Connector>>) -> Connectors {
        Connectors {
            kinds: connectors.into_iter().map(|c| (c.kind(), c)).collect(),
        }
    }

    /// The connector of a kind.
    pub fn get(&self, kind: &str) -> Option<&Arc<dyn Connector>> {
        self.kinds.get(kind)
    }

    /// The kinds, in order.
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.kinds.keys().copied()
    }

    /// Reads the options of a connection.
    ///
    /// # Errors
    /// An unknown kind with a suggestion, or what the connector says.
    pub fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        match self.get(&spec.kind) {
            Some(connector) => connector.check(spec),
            None => {
                let error =
                    Error::new(busbar_event::Class::Configuration, "flow.unknown-connector")
                        .with("kind", &spec.kind)
                        .with("known", self.kinds().collect::<Vec<_>>().join(", "));
                let help = busbar_catalog::suggest(&spec.kind, self.kinds());
                Err(spec.diagnostic_at_kind(error).with_help(help))
            }
        }
    }
}

impl std::fmt::Debug for Connectors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.kinds()).finish()
    }
}

/// What a source is opened with.
#[derive(Clone)]
pub struct SourceContext {
    /// The connection's name.
    pub name: Arc<str>,
    /// The folder relative paths start at.
    pub project_dir: Arc<std::path::Path>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// How far each part was committed the last time.
    pub resume: Resume,
    /// The tables of the node.
    pub tables: Arc<Tables>,
}

/// The committed positions of a source's parts.
#[derive(Clone, Debug, Default)]
pub struct Resume {
    /// The position behind the last committed row of each part.
    pub positions: BTreeMap<String, u64>,
    /// The note that was kept with it, for parts that have one.
    pub notes: BTreeMap<String, Vec<u8>>,
    /// How far streams hold rows of parts.
    pub farthest: ReachedPositions,
}

/// How far streams hold rows of a source's parts: farther than the committed position where the process ended after an append
/// and before its position was kept. Rows that come with such a position are taken for those that are there, and left out.
#[derive(Clone, Default)]
pub struct ReachedPositions(Option<Arc<ReachedOf>>);

type ReachedOf = dyn Fn(&str) -> u64 + Send + Sync;

impl ReachedPositions {
    /// The position of a part is what this finds, 0 for none.
    pub fn new(of: impl Fn(&str) -> u64 + Send + Sync + 'static) -> ReachedPositions {
        ReachedPositions(Some(Arc::new(of)))
    }
}

impl std::fmt::Debug for ReachedPositions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReachedPositions")
    }
}

impl Resume {
    /// The position behind the last committed row of a part; 0 for a part never read.
    pub fn position(&self, part: &str) -> u64 {
        self.positions.get(part).copied().unwrap_or(0)
    }

    /// The highest position that a row of a part has had, committed or not. A source whose positions are numbers of its own,
    /// given anew to what it reads again, begins above it.
    pub fn reached(&self, part: &str) -> u64 {
        let appended = self.farthest.0.as_ref().map_or(0, |of| of(part));
        self.position(part).max(appended)
    }

    /// The [`Polling::note`] that was kept with the position of a part; empty without one.
    pub fn note(&self, part: &str) -> &[u8] {
        self.notes.get(part).map_or(&[], Vec::as_slice)
    }
}

/// What a sink is opened with.
#[derive(Clone)]
pub struct SinkContext {
    /// The connection's name.
    pub name: Arc<str>,
    /// The folder relative paths start at.
    pub project_dir: Arc<std::path::Path>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// The columns of [`Delivery::rows`].
    pub schema: SchemaRef,
}

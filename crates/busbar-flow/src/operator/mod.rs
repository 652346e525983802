//! Operators: what the steps of a flow become when it runs.
//!
//! A step goes through three forms. Its *spec* is what the flow file says. [`registry::compile`] checks the spec
//! against the columns it sees and answers a [`Step`]. Each task then gets an [`Operator`] of its own from the step.
//! A stateless step implements [`Operator::process`] only.
//!
//! Adding a kind of step: its file in this folder, its spec in the catalog, and one line in [`registry`].

mod aggregate;
mod alarm;
mod aside;
pub(crate) mod call;
mod dedupe;
mod delay;
mod filter;
mod held;
mod ipc;
mod join;
mod keyed;
mod latest;
mod map;
mod output;
mod pattern;
mod previous;
pub(crate) mod registry;
mod resequence;
pub(crate) mod route;
pub(crate) mod rows;
mod script;
mod select;
#[cfg(test)]
mod snapshot_tests;
mod split;
mod sql;
mod state;
#[cfg(test)]
mod tests;
mod throttle;
mod top;
mod window;
mod xml;
mod xml_plugin;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use busbar_catalog::PathItem;
use busbar_event::{Class, Error};
use busbar_sql::Failed;
use busbar_table::Table;
use futures::future::BoxFuture;

use crate::services::KnownService;
pub(crate) use keyed::{ROWS_HELD, rows_held};
pub(crate) use output::{LostRows, Output};
pub(crate) use rows::{Made, Rows, Times};
pub(crate) use script::KnownPlugin;
pub(crate) use state::{Changes, StateChange, StateReader, Visit};

/// A step at work in one task. One call at a time; calls come in the order of the task's input.
///
/// The same calls with the same rows must give the same output, whatever the batches are that the rows come in: a task
/// that goes on from its checkpoint reads its input again in other batches.
pub(crate) trait Operator: Send {
    /// Takes rows and writes what comes of them to `out`.
    ///
    /// # Errors
    /// When it fails, neither the operator's state nor `out` has changed. After a permanent error the caller looks for
    /// the rows at fault by [`Operator::failing`], then by halves; after a transient one it calls again with the same
    /// rows.
    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// A batch begins. `place` says where its events come from, the same for a task after a restart, and which step this is;
    /// `base` is the offset of the batch's first event there, if its events are in the log.
    fn begin(&mut self, _place: &str, _base: Option<u64>) {}

    /// What comes from now on is only tried: nobody is to count it, and nothing of it is kept.
    fn on_trial(&mut self) {}

    /// The rows that fail alone, each with its cause, if that can be found faster than by halves. Changes no state.
    fn failing(&mut self, _rows: &Rows) -> Vec<Failed> {
        Vec::new()
    }

    /// Event time has reached `watermark`, in microseconds since 1970: rows whose time is before it are late from now
    /// on. Called after the rows of a batch, and never with a smaller watermark than before.
    ///
    /// # Errors
    /// An error stops the flow.
    fn on_time(&mut self, _watermark: i64, _out: &mut Output) -> Result<(), Error> {
        Ok(())
    }

    /// The least watermark at which [`Operator::on_time`] would do something, in microseconds since 1970. The task writes
    /// a tick for an idle partition when the clock has passed it.
    fn next_time(&self) -> Option<i64> {
        None
    }

    /// The input has ended: writes what is still open to `out`.
    ///
    /// # Errors
    /// An error stops the flow.
    fn flush(&mut self, _out: &mut Output) -> Result<(), Error> {
        Ok(())
    }

    /// Writes what has changed since the last snapshot.
    ///
    /// # Errors
    /// An error stops the flow.
    fn snapshot(&mut self, _changes: &mut Changes) -> Result<(), Error> {
        Ok(())
    }

    /// Takes up the state that snapshots have written. Called once, before anything else; without any state at the first
    /// start. The operator may keep the reader: it always shows the state as of the last snapshot.
    ///
    /// # Errors
    /// State that cannot be read stops the flow.
    fn restore(&mut self, _state: Arc<dyn StateReader>) -> Result<(), Error> {
        Ok(())
    }

    /// Bytes of state held in memory.
    fn memory(&self) -> usize {
        0
    }

    /// How many rows it holds that come out later, themselves or in a result with each of them.
    fn rows_held(&self) -> u64 {
        0
    }

    /// Gives up about so many bytes of memory that the last snapshot holds as well. Called right after a snapshot.
    fn shrink(&mut self, _bytes: usize) {}
}

/// A compiled step of a flow.
pub(crate) trait Step: Send + Sync {
    /// The columns that come out; none if they are those that go in.
    fn schema(&self) -> Option<SchemaRef>;

    /// Places of the columns it reads, in the schema it was compiled for. A step without columns of its own passes the
    /// other columns on.
    fn columns(&self) -> Vec<usize>;

    /// Whether it reads the events' own payloads, as the column [`crate::reader::PAYLOAD`].
    fn payloads(&self) -> bool {
        false
    }

    /// Whether each row that comes out stands for one event that came in.
    fn row_by_row(&self) -> bool {
        true
    }

    /// Whether others notice that it works: it asks services. It works on events that count, and not to try something.
    fn calls_out(&self) -> bool {
        false
    }

    /// Whether a program or service outside sees the rows, so that the step must not work on them once more for each
    /// cursor of the flow.
    fn computes_once(&self) -> bool {
        self.calls_out()
    }

    /// By how much rows may come out later than their time, in microseconds: the watermark behind the step is so much
    /// smaller than the one before it.
    fn delay(&self) -> i64 {
        0
    }

    /// Whether a step without state needs the event times of the rows.
    fn event_time(&self) -> bool {
        false
    }

    /// The other input, of a step that joins the flow's rows with another stream.
    fn joined(&self) -> Option<Joined> {
        None
    }

    /// What it keeps from one batch to the next; none for a stateless step.
    fn stateful(&self) -> Option<Stateful> {
        None
    }

    /// An operator for one task. `schema` has the columns that the step reads, perhaps at other places.
    ///
    /// # Errors
    /// When the columns do not fit.
    fn operator(&self, schema: &SchemaRef) -> Result<Box<dyn Operator>, Error>;
}

/// What a stateful step says of itself.
pub(crate) struct Stateful {
    /// The name under which its state is kept, where the flow file gives one.
    pub name: Option<String>,
    /// Names of the columns whose equal values must meet in one task. Empty: all rows must.
    pub keys: Vec<String>,
    /// What its state depends on besides the columns it sees. State of another meaning cannot be taken up.
    pub meaning: String,
    /// How the step is divided when rows are regrouped in between; none: the rows themselves are regrouped.
    pub divided: Option<Divided>,
}

/// A step in two parts, with regrouping by key in between.
pub(crate) struct Divided {
    /// Runs where the rows are read, without state of its own: a partial aggregation within each batch.
    pub before: Arc<dyn Step>,
    /// Names of the columns that come out of `before` whose equal values must meet.
    pub keys: Vec<String>,
    /// Runs where the regrouped rows are read.
    pub after: Arc<dyn Step>,
}

/// The other input of a step. Its rows meet those of the flow by the keys of the step, which is divided.
pub(crate) struct Joined {
    /// The stream.
    pub stream: String,
    /// Runs where its events are read; what comes out has the columns of [`Divided::before`].
    pub before: Arc<dyn Step>,
    /// In place of [`Divided::before`] where the stream is one of the flow's own: it leaves late events to `before`, which
    /// sees all of them.
    pub before_own: Arc<dyn Step>,
    /// An event counts for all later rows until another comes: a run over a range of time needs those before it, too.
    pub versions: bool,
}

/// What a step is compiled against.
pub(crate) struct StepContext<'a> {
    /// The columns it sees.
    pub schema: &'a SchemaRef,
    /// The tables there are, by name.
    pub tables: &'a BTreeMap<String, Arc<dyn Table>>,
    /// The columns of a stream's events.
    pub streams: &'a dyn Fn(&str) -> Option<SchemaRef>,
    /// The plug-ins there are, by name.
    pub plugins: &'a BTreeMap<String, KnownPlugin>,
    /// The connections there are, by name.
    pub services: &'a BTreeMap<String, KnownService>,
    /// The rows still are events, so that their own payloads can be read.
    pub has_payloads: bool,
    /// The names of the columns that are read behind the step; none: all. A join leaves the others out.
    pub needed: Option<&'a BTreeSet<String>>,
}

impl StepContext<'_> {
    /// Whether a column is read behind the step.
    fn needs(&self, column: &str) -> bool {
        self.needed.is_none_or(|needed| needed.contains(column))
    }
}

/// What is wrong with a step.
#[derive(Debug)]
pub(crate) struct Wrong {
    /// The way from the value of the step's kind to the value that is wrong; empty for that value itself.
    pub path: Vec<PathItem<'static>>,
    /// The place within the text of that value.
    pub span: Option<std::ops::Range<usize>>,
    pub error: Error,
    /// What was probably meant.
    pub help: Option<Error>,
}

impl Wrong {
    /// A fault of the step as a whole.
    pub fn new(error: Error) -> Wrong {
        Wrong {
            path: Vec::new(),
            span: None,
            error,
            help: None,
        }
    }

    /// The same fault at a value within the step.
    pub fn at(mut self, item: impl Into<PathItem<'static>>) -> Wrong {
        self.path.insert(0, item.into());
        self
    }
}

impl From<busbar_sql::Diagnostic> for Wrong {
    fn from(wrong: busbar_sql::Diagnostic) -> Wrong {
        let help = wrong.suggestion().map(|name| {
            Error::new(Class::Configuration, "catalog.did-you-mean").with("name", name)
        });
        Wrong {
            path: Vec::new(),
            span: Some(wrong.span()),
            error: wrong.into_error(),
            help,
        }
    }
}

/// The place of a column that a step names, without quotes and in any case as in SQL.
pub(crate) fn column_place(schema: &SchemaRef, name: &str) -> Result<usize, Wrong> {
    let same = |known: &&arrow::datatypes::FieldRef| known.name().eq_ignore_ascii_case(name);
    let exact = schema.index_of(name).ok();
    let place = exact.or_else(|| {
        let mut found = schema
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, field)| same(field));
        match (found.next(), found.next()) {
            (Some((place, _)), None) => Some(place),
            _ => None,
        }
    });
    place.ok_or_else(|| {
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let error = Error::new(Class::Configuration, "flow.unknown-column").with("column", name);
        Wrong {
            help: busbar_catalog::suggest(name, names),
            ..Wrong::new(error)
        }
    })
}

/// A stateful operator was given rows without times, which the plan rules out.
fn misses_times() -> Error {
    Error::new(Class::Configuration, "flow.misses-times")
}

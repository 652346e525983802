//! The databases of a project, each opened when it is asked first, on threads of their own.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use busbar_catalog::{ConnectionOptions, ConnectionSpec};
use busbar_event::{Class, Error};
use busbar_log::Clock;
use busbar_table::Table;
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::OnceCell;

use super::keyed::KeyedTable;
use super::{CellDatabase, HotDatabase, KeyedStore, PoolUse, RemoteTable, SqlDatabase, SqlRows};
use crate::limits::{DATABASE_THREADS, ROWS_AHEAD_MAX};
use crate::{Connector, Connectors, ServiceContext, Sink, SinkContext};

/// The databases among a project's connections. Cheap to clone.
#[derive(Clone)]
pub struct Databases {
    inner: Arc<Inner>,
}

struct Inner {
    connectors: Connectors,
    project_dir: Arc<Path>,
    clock: Arc<dyn Clock>,
    open: RwLock<BTreeMap<String, Arc<AskedDatabase>>>,
    handle: Handle,
    /// None once it is stopped.
    runtime: Mutex<Option<Runtime>>,
}

/// A database among the connections.
pub struct AskedDatabase {
    spec: ConnectionSpec,
    connector: Arc<dyn Connector>,
    context: ServiceContext,
    handle: Handle,
    database: OnceCell<Arc<dyn SqlDatabase>>,
    store: OnceCell<Arc<dyn KeyedStore>>,
    cells: OnceCell<Arc<dyn CellDatabase>>,
    hot: OnceCell<Arc<dyn HotDatabase>>,
    pub(super) counts: DatabaseCounts,
}

/// What was asked, since the start.
#[derive(Default)]
pub(super) struct DatabaseCounts {
    pub statements: AtomicU64,
    pub failures: AtomicU64,
    pub keys: AtomicU64,
    pub found: AtomicU64,
    pub cached: AtomicU64,
}

/// What a database is at. Numbers are since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DatabaseStatus {
    /// The pool of sessions.
    pub pool: PoolUse,
    /// Statements that were sent.
    pub statements: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// Keys that joins have asked for.
    pub keys: u64,
    /// Those of them that there was a row for.
    pub found: u64,
    /// Keys that joins knew the answer for and did not ask.
    pub cached: u64,
}

impl Databases {
    /// Without databases; [`Databases::apply`] brings them.
    ///
    /// # Errors
    /// `database.threads` if its thread cannot be created.
    pub fn new(
        connectors: Connectors,
        project_dir: Arc<Path>,
        clock: Arc<dyn Clock>,
    ) -> Result<Databases, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(DATABASE_THREADS)
            .thread_name("databases")
            .enable_all()
            .build()
            .map_err(|cause| Error::new(Class::Transient, "database.threads").caused_by(cause))?;
        Ok(Databases {
            inner: Arc::new(Inner {
                connectors,
                project_dir,
                clock,
                open: RwLock::default(),
                handle: runtime.handle().clone(),
                runtime: Mutex::new(Some(runtime)),
            }),
        })
    }

    /// Takes the databases among connections. One whose options are the same keeps its sessions.
    pub fn apply<'a>(
        &self,
        connections: impl IntoIterator<Item = (&'a String, &'a ConnectionSpec)>,
    ) {
        let mut open = self.inner.open.write();
        let mut before = std::mem::take(&mut *open);
        for (name, spec) in connections {
            let connector = self.inner.connectors.get(&spec.kind);
            let is_asked = |known: &&Arc<dyn Connector>| {
                let keeps = known.keeps_cells() || known.keeps_hot() || known.keeps_rows(spec);
                known.is_database() || keeps
            };
            let Some(connector) = connector.filter(is_asked).filter(|_| spec.enabled) else {
                continue;
            };
            let same = before.remove(name).filter(|known| known.leads_to(spec));
            let database = same.unwrap_or_else(|| {
                Arc::new(AskedDatabase {
                    spec: spec.clone(),
                    connector: Arc::clone(connector),
                    context: ServiceContext {
                        name: name.as_str().into(),
                        project_dir: Arc::clone(&self.inner.project_dir),
                        clock: Arc::clone(&self.inner.clock),
                    },
                    handle: self.inner.handle.clone(),
                    database: OnceCell::new(),
                    store: OnceCell::new(),
                    cells: OnceCell::new(),
                    hot: OnceCell::new(),
                    counts: DatabaseCounts::default(),
                })
            });
            open.insert(name.clone(), database);
        }
    }

    /// Gives up all statements, so that those who wait for a database that does not answer wait no longer. There are no others
    /// after it.
    pub fn stop(&self) {
        self.inner.stop();
    }

    /// The database of a connection.
    pub fn get(&self, connection: &str) -> Option<Arc<AskedDatabase>> {
        self.inner.open.read().get(connection).cloned()
    }

    /// The same for a table of this node that is kept there.
    ///
    /// # Errors
    /// `table.no-connection`.
    pub(super) fn of_table(
        &self,
        table: &str,
        connection: &str,
    ) -> Result<Arc<AskedDatabase>, Error> {
        self.get(connection).ok_or_else(|| {
            Error::new(Class::Configuration, "table.no-connection")
                .with("table", table)
                .with("connection", connection)
        })
    }

    /// The database that a name such as `pg.public.patient` begins with, and the path behind it; none where there is no such
    /// database.
    pub fn find(&self, name: &str) -> Option<(Arc<AskedDatabase>, Vec<String>)> {
        let (connection, path) = name.split_once('.')?;
        let database = self.get(connection)?;
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        let is_path = path.len() <= 2 && path.iter().all(|part| !part.is_empty());
        is_path.then_some((database, path))
    }

    /// The table of a name such as `pg.public.patient`, with its columns as they are now; none where there is no such database
    /// or table. Waits for the database: call it on a thread that may block.
    ///
    /// # Errors
    /// As [`SqlDatabase::describe`].
    pub fn table(&self, name: &str) -> Result<Option<Arc<dyn Table>>, Error> {
        match self.find(name) {
            Some((database, path)) if database.connector.is_database() => {
                RemoteTable::open(name, &database, path)
            }
            // Its tables are read as wide tables only.
            Some((database, _)) if database.connector.keeps_cells() => Ok(None),
            Some((database, path)) => KeyedTable::open(name, &database, &path),
            None => Ok(None),
        }
    }
}

impl fmt::Debug for Databases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.inner.open.read().keys())
            .finish()
    }
}

impl Inner {
    fn stop(&self) {
        if let Some(runtime) = self.runtime.lock().take() {
            // Also on a thread that must not block.
            runtime.shutdown_background();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

impl AskedDatabase {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.context.name
    }

    /// What it is at.
    pub fn status(&self) -> DatabaseStatus {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &self.counts;
        DatabaseStatus {
            pool: self.pool(),
            statements: count(&counts.statements),
            failures: count(&counts.failures),
            keys: count(&counts.keys),
            found: count(&counts.found),
            cached: count(&counts.cached),
        }
    }

    fn pool(&self) -> PoolUse {
        let pools = [
            self.database.get().map(|open| open.pool()),
            self.cells.get().map(|open| open.pool()),
            self.store.get().map(|open| open.pool()),
            self.hot.get().map(|open| open.pool()),
        ];
        let pools = pools.into_iter().flatten();
        pools.fold(PoolUse::default(), |all, one| PoolUse {
            size: all.size + one.size,
            used: all.used + one.used,
            idle: all.idle + one.idle,
            opened: all.opened + one.opened,
            failed: all.failed + one.failed,
        })
    }

    /// Its other side. Opens no session.
    ///
    /// # Errors
    /// *Configuration*: what the connection's file says cannot be used, such as a password in a file that is not there.
    pub async fn database(&self) -> Result<Arc<dyn SqlDatabase>, Error> {
        let open = || self.connector.database(&self.spec, self.context.clone());
        self.database.get_or_try_init(open).await.cloned()
    }

    /// A sink that writes rows with these columns as `write` says, in the words of the connection's own option.
    ///
    /// # Errors
    /// As [`Connector::sink`].
    pub(super) async fn sink(
        &self,
        write: serde_json::Value,
        schema: arrow::datatypes::SchemaRef,
    ) -> Result<Box<dyn Sink>, Error> {
        let mut options = self.spec.options.to_json();
        if let Some(options) = options.as_object_mut() {
            // What the connection does besides is none of the table's.
            options.retain(|name, _| !matches!(name.as_str(), "follow" | "query"));
            options.insert("write".to_owned(), write);
        }
        let options = ConnectionOptions::from_text(&options.to_string());
        let spec = ConnectionSpec {
            options: options.map_err(|refused| refused.error().clone())?,
            topic: None,
            ..self.spec.clone()
        };
        let context = SinkContext {
            name: Arc::clone(&self.context.name),
            project_dir: Arc::clone(&self.context.project_dir),
            clock: Arc::clone(&self.context.clock),
            schema,
        };
        self.connector.sink(&spec, context).await
    }

    /// Its other side, for one that answers no SQL. Opens no session.
    ///
    /// # Errors
    /// As [`AskedDatabase::database`].
    pub async fn store(&self) -> Result<Arc<dyn KeyedStore>, Error> {
        let open = || self.connector.store(&self.spec, self.context.clone());
        self.store.get_or_try_init(open).await.cloned()
    }

    /// Its other side, for one that keeps cells. Opens no session.
    ///
    /// # Errors
    /// As [`AskedDatabase::database`].
    pub async fn cells(&self) -> Result<Arc<dyn CellDatabase>, Error> {
        let open = || self.connector.cells(&self.spec, self.context.clone());
        self.cells.get_or_try_init(open).await.cloned()
    }

    /// Its other side, for one that keeps the rows of hot tables. Opens no session.
    ///
    /// # Errors
    /// As [`AskedDatabase::database`].
    pub async fn hot(&self) -> Result<Arc<dyn HotDatabase>, Error> {
        let open = || self.connector.hot(&self.spec, self.context.clone());
        self.hot.get_or_try_init(open).await.cloned()
    }

    /// Does work with it on the threads of the databases. Dropped, it is given up.
    ///
    /// # Errors
    /// Those of the work.
    pub async fn work<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        struct AbandonedWork<T>(tokio::task::JoinHandle<T>);
        impl<T> Drop for AbandonedWork<T> {
            fn drop(&mut self) {
                self.0.abort();
            }
        }
        let mut task = AbandonedWork(self.handle.spawn(work));
        match (&mut task.0).await {
            Ok(done) => self.counted(done),
            Err(cause) => Err(over().caused_by(cause)),
        }
    }

    /// The same, for a thread that may block.
    ///
    /// # Errors
    /// Those of the work.
    pub(super) fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.handle.spawn(async move {
            // Nobody waits any more where this fails.
            let _ = sender.send(work.await);
        });
        match receiver.recv() {
            Ok(done) => self.counted(done),
            Err(cause) => Err(over().caused_by(cause)),
        }
    }

    pub(super) fn counted<T>(&self, done: Result<T, Error>) -> Result<T, Error> {
        self.counts.statements.fetch_add(1, Ordering::Relaxed);
        if done.is_err() {
            self.counts.failures.fetch_add(1, Ordering::Relaxed);
        }
        done
    }

    /// Whether it leads to what a connection says now.
    fn leads_to(&self, spec: &ConnectionSpec) -> bool {
        self.spec.kind == spec.kind && self.spec.options.to_json() == spec.options.to_json()
    }
}

impl fmt::Debug for AskedDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AskedDatabase")
            .field(&self.context.name)
            .finish()
    }
}

/// What `read` sends into the channel, read on the threads of the databases while what came before is used.
pub(super) fn pieces<T: Send + 'static, R, F>(
    open: &Arc<AskedDatabase>,
    read: R,
) -> impl Iterator<Item = Result<T, Error>> + Send + use<T, R, F>
where
    R: FnOnce(PieceSender<T>) -> F,
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let (sender, receiver) = tokio::sync::mpsc::channel(ROWS_AHEAD_MAX);
    let (asked, reading) = (Arc::clone(open), read(sender.clone()));
    open.handle.spawn(async move {
        // Whoever reads may stop before the other side has answered.
        let ended = tokio::select! {
            ended = reading => ended,
            () = sender.closed() => Ok(()),
        };
        let ended = asked.counted(ended);
        let _ = sender.send(ended.map(|()| None)).await;
    });
    until_end(receiver)
}

/// Sends rows, no more pieces once there are `most` of them.
pub(super) async fn send_rows(
    mut rows: Box<dyn SqlRows + '_>,
    most: usize,
    sender: PieceSender<RecordBatch>,
) -> Result<(), Error> {
    let mut left = most;
    while let Some(batch) = rows.next().await? {
        let enough = batch.num_rows() >= left;
        left -= batch.num_rows().min(left);
        if sender.send(Ok(Some(batch))).await.is_err() || enough {
            break;
        }
    }
    Ok(())
}

/// Where pieces of an answer go.
pub(super) type PieceSender<T> = tokio::sync::mpsc::Sender<Result<Option<T>, Error>>;

/// What comes over the channel up to the word that it is the end, `Ok(None)`. Without that word the reading was given up, and
/// rows are missing: a transient error.
fn until_end<T>(
    mut receiver: tokio::sync::mpsc::Receiver<Result<Option<T>, Error>>,
) -> impl Iterator<Item = Result<T, Error>> {
    let mut is_over = false;
    std::iter::from_fn(move || {
        if is_over {
            return None;
        }
        let next = receiver.blocking_recv().unwrap_or_else(|| Err(over()));
        let next = next.transpose();
        is_over = !matches!(next, Some(Ok(_)));
        next
    })
}

/// The node is being stopped.
fn over() -> Error {
    Error::new(Class::Transient, "database.stopped")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_end_without_a_word_are_an_error() {
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        sender.try_send(Ok(Some(1))).expect("room");
        sender.try_send(Ok(None)).expect("room");
        drop(sender);
        let rows: Result<Vec<i32>, Error> = until_end(receiver).collect();
        assert_eq!(rows.expect("whole"), [1]);
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        sender.try_send(Ok(Some(1))).expect("room");
        drop(sender);
        let rows: Result<Vec<i32>, Error> = until_end(receiver).collect();
        assert_eq!(rows.expect_err("cut").code(), "database.stopped");
    }
}

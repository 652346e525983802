//! Sessions that run statements.

use std::future::Future;

use busbar_connector::ColumnType;
use busbar_event::Error;
use bytes::Bytes;

use super::{Doing, Failed, ServerSaid};

/// A row as it came: a value for each column, none for NULL.
pub type SessionRow = Vec<Option<Bytes>>;

/// A server that sessions are opened with.
pub trait SessionServer: Send + Sync + 'static {
    type Session: SqlSession;

    /// Opens a session.
    ///
    /// # Errors
    /// *Transient* or *configuration*: it cannot be opened.
    fn open(&self) -> impl Future<Output = Result<Self::Session, Error>> + Send;

    /// What errors of this server name.
    fn doing<'a>(&'a self, table: &'a str, rights: &'a str) -> Doing<'a>;
}

/// A session with a server.
pub trait SqlSession: Send + Sync {
    type Said: ServerSaid + Send;
    type Answer: SqlAnswer;

    /// Whether it may be used: no statement was left in the middle.
    fn usable(&self) -> bool;

    /// Whether the next statement would be, or may be, in a transaction that the last one has left open.
    fn in_transaction(&self) -> bool;

    /// Runs statements; their answers.
    ///
    /// # Errors
    /// The first that fails ends them.
    fn run(
        &mut self,
        sql: &str,
    ) -> impl Future<Output = Result<Vec<Self::Answer>, Failed<Self::Said>>> + Send;

    /// Makes the changes of the open transaction permanent.
    ///
    /// # Errors
    /// They are not there, or not known to be.
    fn commit(&mut self) -> impl Future<Output = Result<(), Failed<Self::Said>>> + Send {
        async { self.run("COMMIT").await.map(drop) }
    }

    /// Ends the open transaction without its changes.
    ///
    /// # Errors
    /// The session is lost.
    fn roll_back(&mut self) -> impl Future<Output = Result<(), Failed<Self::Said>>> + Send {
        async { self.run("ROLLBACK").await.map(drop) }
    }

    /// Ends the session in good order.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// What a statement answered.
pub trait SqlAnswer: Send + Sync {
    fn rows(&self) -> &[SessionRow];

    /// The same, to be kept.
    fn into_rows(self) -> Vec<SessionRow>;

    /// A value as text; `None` for NULL and where there is no such value.
    fn text(&self, row: usize, column: usize) -> Option<&str> {
        let value = self.rows().get(row)?.get(column)?.as_ref()?;
        std::str::from_utf8(value).ok()
    }
}

/// A session whose rows may be read piece by piece.
pub trait StreamedSession: SqlSession {
    /// Sends a statement and reads its answer up to its first rows, or to its end.
    ///
    /// # Errors
    /// Why it failed.
    fn select(
        &mut self,
        sql: &str,
    ) -> impl Future<Output = Result<Selecting, Failed<Self::Said>>> + Send;

    /// Reads rows with so many columns until there are so many bytes of them; whether those were all. Behind the last one, what
    /// else the statement answers is read and let go of.
    ///
    /// # Errors
    /// Why the statement failed.
    fn rows(
        &mut self,
        columns: usize,
        bytes: usize,
        rows: &mut Vec<SessionRow>,
    ) -> impl Future<Output = Result<bool, Failed<Self::Said>>> + Send;

    /// Makes the session what it was when it was opened, behind a statement that may have left something in it.
    ///
    /// # Errors
    /// It is not: nobody else may use it.
    fn reset(
        &mut self,
        statement: &str,
    ) -> impl Future<Output = Result<(), Failed<Self::Said>>> + Send;
}

/// What a statement begins to answer.
pub enum Selecting {
    /// Columns, behind which rows come: names and what they hold.
    Rows(Vec<(String, ColumnType)>),
    /// None: how many rows were changed.
    Done(u64),
}

//! One connection to the database, through the worker.

use std::sync::Arc;

use busbar_event::Error;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;

use super::failure::DriverFailed;
use super::limits::{FETCH_ROWS, PAGE_CHARS, PAGE_ROWS};
use super::worker::{DriverProcess, DriverWorker};

/// A connection. It is closed, and what is under way rolled back, when it is dropped.
pub struct DriverSession {
    pub worker: Arc<DriverWorker>,
    process: Arc<DriverProcess>,
    number: u64,
    /// Something was asked whose answer was not waited for, or which failed.
    spent: bool,
    /// A statement may have set something in the connection, which no driver takes back: it serves no other session.
    pub sets: bool,
    pub about: DriverAbout,
    _place: OwnedSemaphorePermit,
}

/// What the database says of itself.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct DriverAbout {
    /// A word for the kind of database.
    pub product: String,
    /// Its name and version.
    pub server: String,
    /// It has transactions.
    pub transactions: bool,
}

/// A parameter of a statement.
#[derive(Clone, Debug, Serialize)]
pub struct DriverParameter<'a> {
    /// Of `java.sql.Types`.
    #[serde(rename = "type")]
    pub kind: i32,
    pub value: &'a RawValue,
    /// So much before the value: microseconds of times, or a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub less: Option<u64>,
}

/// A column of an answer.
#[derive(Clone, Debug, Deserialize)]
pub struct DriverColumn {
    pub name: String,
    /// Of `java.sql.Types`.
    #[serde(rename = "type")]
    pub kind: i32,
}

/// Rows of an answer.
#[derive(Debug, Deserialize)]
pub struct DriverPage<'a> {
    /// Of the first page.
    #[serde(default)]
    pub columns: Vec<DriverColumn>,
    #[serde(borrow)]
    pub rows: Vec<Vec<&'a RawValue>>,
    /// There may be more rows.
    pub more: bool,
    /// Rows that a statement without an answer has changed.
    pub count: Option<u64>,
}

impl DriverSession {
    /// Opens a connection.
    ///
    /// # Errors
    /// *Transient*: the database cannot be reached now. *Configuration*: it does not let us in, or the driver is not there.
    pub async fn open(worker: &Arc<DriverWorker>) -> Result<DriverSession, Error> {
        let (place, process) = worker.place().await?;
        let mut session = DriverSession {
            number: process.number(),
            process,
            worker: Arc::clone(worker),
            spent: false,
            sets: false,
            about: DriverAbout::default(),
            _place: place,
        };
        let answer = session.ask(br#"{"do":"open"}"#).await;
        let answer = answer.map_err(|failed| failed.told(worker.doing("", "")))?;
        session.about = session.read(&answer)?;
        Ok(session)
    }

    /// Whether more can be asked.
    pub fn usable(&self) -> bool {
        !self.spent && !self.process.is_over()
    }

    /// Asks for something: an object of JSON with `do`.
    ///
    /// # Errors
    /// The session is of no use afterwards.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Box<RawValue>, DriverFailed> {
        // Where this is dropped before the answer is there, nobody knows what the session is doing.
        self.spent = true;
        let timeout = self.worker.login.timeout;
        let answer = self.process.ask(self.number, request, timeout).await?;
        self.spent = false;
        Ok(answer)
    }

    /// What an answer says. A worker that says something else is killed.
    pub fn read<'a, T: Deserialize<'a>>(&self, answer: &'a RawValue) -> Result<T, Error> {
        serde_json::from_str(answer.get()).map_err(|_| self.process.rubbish())
    }

    /// Begins to read the rows of a statement, `most` at most; the answer is a [`DriverPage`].
    ///
    /// # Errors
    /// As [`DriverSession::ask`].
    pub async fn query(
        &mut self,
        sql: &str,
        parameters: &[DriverParameter<'_>],
        most: Option<usize>,
    ) -> Result<Box<RawValue>, DriverFailed> {
        let request = json!({
            "do": "query", "sql": sql, "rows": PAGE_ROWS, "bytes": PAGE_CHARS, "fetch": most.unwrap_or(FETCH_ROWS).min(FETCH_ROWS),
            "most": most,
        });
        let mut request = request.to_string().into_bytes();
        request.pop();
        request.extend_from_slice(b",\"parameters\":");
        // Numbers and texts have no failure as JSON.
        let _ = serde_json::to_writer(&mut request, parameters);
        request.push(b'}');
        self.ask(&request).await
    }

    /// The next page of the statement whose rows are being read.
    ///
    /// # Errors
    /// As [`DriverSession::ask`].
    pub async fn more(&mut self) -> Result<Box<RawValue>, DriverFailed> {
        let request = json!({ "do": "next", "rows": PAGE_ROWS, "bytes": PAGE_CHARS });
        self.ask(request.to_string().as_bytes()).await
    }

    /// A page of rows, each of which has a value for each column.
    ///
    /// # Errors
    /// *Transient*: the worker sent something else.
    pub fn page<'a>(
        &self,
        answer: &'a RawValue,
        columns: &mut Vec<DriverColumn>,
    ) -> Result<DriverPage<'a>, Error> {
        let page: DriverPage<'a> = self.read(answer)?;
        if !page.columns.is_empty() {
            columns.clone_from(&page.columns);
        }
        match page.rows.iter().all(|row| row.len() == columns.len()) {
            true => Ok(page),
            false => Err(self.process.rubbish()),
        }
    }

    /// Runs statements without rows, each on its own.
    ///
    /// # Errors
    /// As [`DriverSession::ask`].
    pub async fn run(&mut self, statements: &[&str]) -> Result<(), DriverFailed> {
        let request = json!({ "do": "run", "statements": statements });
        self.ask(request.to_string().as_bytes()).await.map(drop)
    }

    /// A request's failure as people see it.
    pub fn told(&self, failed: DriverFailed, table: &str, rights: &str) -> Error {
        failed.told(self.worker.doing(table, rights))
    }
}

impl Drop for DriverSession {
    fn drop(&mut self) {
        self.process.close(self.number, !self.sets);
    }
}

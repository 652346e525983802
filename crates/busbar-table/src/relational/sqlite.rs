//! Connections to SQLite, and its errors.

use std::path::PathBuf;

use busbar_event::{Class, Error};
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::limits::{BUSY_WAIT, READERS_IDLE_MAX, STATEMENTS_CACHED_MAX};

/// Connections that can only read.
pub(super) struct Readers {
    pub table: String,
    pub path: PathBuf,
    pub idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub fn take(&self) -> Result<Connection, Error> {
        if let Some(connection) = self.idle.lock().pop() {
            return Ok(connection);
        }
        let fault = |cause| sqlite_error(&self.table, cause);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).map_err(fault)?;
        configure(&connection).map_err(fault)?;
        connection
            .execute_batch("PRAGMA query_only = ON")
            .map_err(fault)?;
        Ok(connection)
    }

    pub fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock();
        if idle.len() < READERS_IDLE_MAX {
            idle.push(connection);
        }
    }
}

/// Settings of every connection.
pub(super) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_WAIT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED_MAX);
    connection.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY;",
    )
}

/// SQLite's errors, sorted by what to do about them.
pub(super) fn sqlite_error(table: &str, cause: rusqlite::Error) -> Error {
    let (class, code) = match cause.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => (Class::Transient, "table.disk-full"),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (Class::Transient, "table.file-busy")
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            (Class::Configuration, "table.file-damaged")
        }
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            (Class::Configuration, "table.file-open")
        }
        Some(ErrorCode::TooBig) => (Class::Permanent, "table.rows-large"),
        _ => (Class::Transient, "table.sqlite"),
    };
    let error = Error::new(class, code).with("table", table);
    match code {
        "table.file-damaged" => error.with("detail", cause),
        _ => error.caused_by(cause),
    }
}

//! Failures by class, with the way out of each.

use busbar_event::{Class, Error};

use super::frame::JdbcSaid;

/// Why a request did not succeed.
#[derive(Debug)]
pub enum JdbcFailed {
    /// The database or its driver said so.
    Said(JdbcSaid),
    /// The worker is lost, or does not follow the protocol.
    Lost(Error),
}

/// What was being done, for the errors that name it.
#[derive(Clone, Copy, Debug)]
pub struct JdbcDoing<'a> {
    pub url: &'a str,
    pub user: &'a str,
    /// The table, as it is written in SQL; empty without one.
    pub table: &'a str,
    /// The rights that it takes: `SELECT`, `INSERT, UPDATE`.
    pub rights: &'a str,
}

impl From<Error> for JdbcFailed {
    fn from(error: Error) -> JdbcFailed {
        JdbcFailed::Lost(error)
    }
}

impl JdbcFailed {
    /// The failure as people see it.
    pub fn told(self, doing: JdbcDoing<'_>) -> Error {
        match self {
            JdbcFailed::Lost(error) => error,
            JdbcFailed::Said(said) => told(&said, doing),
        }
    }
}

/// What the worker says, as people see it.
pub fn told(said: &JdbcSaid, doing: JdbcDoing<'_>) -> Error {
    let class = match said.group.as_str() {
        "transient" => Class::Transient,
        "permanent" => Class::Permanent,
        _ => Class::Configuration,
    };
    let state = match (said.state.as_str(), said.code) {
        ("", 0) => "-".to_owned(),
        ("", code) => code.to_string(),
        (state, 0) => state.to_owned(),
        (state, code) => format!("{state}, {code}"),
    };
    let words = said.said.lines().next().unwrap_or_default().trim();
    let new = |code| {
        Error::new(class, code)
            .with("url", doing.url)
            .with("said", if words.is_empty() { "-" } else { words })
            .with("state", &state)
    };
    match said.kind.as_str() {
        "driver" => new("jdbc.driver"),
        "credentials" => new("jdbc.credentials").with("user", doing.user),
        "rights" if !doing.table.is_empty() => new("jdbc.rights-table")
            .with("user", doing.user)
            .with("table", doing.table)
            .with("rights", doing.rights),
        "rights" => new("jdbc.rights").with("user", doing.user),
        "table" if !doing.table.is_empty() => new("jdbc.no-table").with("table", doing.table),
        "column" if !doing.table.is_empty() => new("jdbc.no-column").with("table", doing.table),
        "unreachable" => new("jdbc.unreachable"),
        "timeout" => new("jdbc.timeout-passed"),
        "large" => new("jdbc.value-large"),
        "worker" => new("jdbc.worker"),
        _ => match class {
            Class::Transient => new("jdbc.for-now"),
            Class::Permanent => new("jdbc.value"),
            Class::Configuration => new("jdbc.refused"),
        },
    }
}

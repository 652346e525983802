//! Failures by class, with the way out of each.

use busbar_event::{Class, Error};

use super::frame::DriverSaid;

/// Why a request did not succeed.
#[derive(Debug)]
pub enum DriverFailed {
    /// The database or its driver said so.
    Said(DriverSaid),
    /// The worker is lost, or does not follow the protocol.
    Lost(Error),
}

/// What was being done, for the errors that name it.
#[derive(Clone, Copy, Debug)]
pub struct DriverDoing<'a> {
    pub url: &'a str,
    pub user: &'a str,
    /// The table, as it is written in SQL; empty without one.
    pub table: &'a str,
    /// The rights that it takes: `SELECT`, `INSERT, UPDATE`.
    pub rights: &'a str,
    /// The code of the error where there is no driver.
    pub none: &'static str,
}

impl From<Error> for DriverFailed {
    fn from(error: Error) -> DriverFailed {
        DriverFailed::Lost(error)
    }
}

impl DriverFailed {
    /// The failure as people see it.
    pub fn told(self, doing: DriverDoing<'_>) -> Error {
        match self {
            DriverFailed::Lost(error) => error,
            DriverFailed::Said(said) => told(&said, doing),
        }
    }
}

/// What the worker says, as people see it.
pub fn told(said: &DriverSaid, doing: DriverDoing<'_>) -> Error {
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
        "driver" => new(doing.none),
        "library" => new("driver.no-manager"),
        "credentials" => new("driver.credentials").with("user", doing.user),
        "rights" if !doing.table.is_empty() => new("driver.rights-table")
            .with("user", doing.user)
            .with("table", doing.table)
            .with("rights", doing.rights),
        "rights" => new("driver.rights").with("user", doing.user),
        "table" if !doing.table.is_empty() => new("driver.no-table").with("table", doing.table),
        "column" if !doing.table.is_empty() => new("driver.no-column").with("table", doing.table),
        "unreachable" => new("driver.unreachable"),
        "timeout" => new("driver.timeout-passed"),
        "large" => new("driver.value-large"),
        "worker" => new("driver.worker"),
        _ => match class {
            Class::Transient => new("driver.for-now"),
            Class::Permanent => new("driver.value"),
            Class::Configuration => new("driver.refused"),
        },
    }
}

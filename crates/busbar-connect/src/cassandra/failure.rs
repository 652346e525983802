//! Failures by class, with what mends each.

use busbar_event::{Class, Error};

use super::frame::CqlRefusal;
use crate::reason::reason;

const SERVER_ERROR: i32 = 0x0000;
const PROTOCOL_ERROR: i32 = 0x000a;
const BAD_CREDENTIALS: i32 = 0x0100;
const UNAVAILABLE: i32 = 0x1000;
const FUNCTION_FAILURE: i32 = 0x1400;
const SYNTAX_ERROR: i32 = 0x2000;
const UNAUTHORIZED: i32 = 0x2100;
const INVALID: i32 = 0x2200;
const UNPREPARED: i32 = 0x2500;

/// What was being done, for what errors name.
#[derive(Clone, Copy, Debug)]
pub struct CassandraDoing<'a> {
    pub address: &'a str,
    pub user: &'a str,
    /// The table as CQL writes it; empty without one.
    pub table: &'a str,
    /// The right that it takes: `SELECT`, `MODIFY`.
    pub right: &'a str,
    /// Values were sent, which may be at fault.
    pub values: bool,
}

impl CqlRefusal {
    /// What it says: the data, the moment, or how things are set up.
    fn class(&self, values: bool) -> Class {
        match self.code {
            // Of the values, which the server found too large together.
            SERVER_ERROR if values && self.said.contains("oversized mutation") => Class::Permanent,
            INVALID | FUNCTION_FAILURE if values => Class::Permanent,
            SERVER_ERROR | UNPREPARED | 0x1000..=0x13ff | 0x1500..=0x1fff => Class::Transient,
            _ => Class::Configuration,
        }
    }

    /// Whether the server has forgotten the statement.
    pub fn is_unprepared(&self) -> bool {
        self.code == UNPREPARED
    }

    /// Whether the statement or its values are refused, and not who sends them or when.
    pub fn is_invalid(&self) -> bool {
        matches!(
            self.code,
            INVALID | SYNTAX_ERROR | PROTOCOL_ERROR | SERVER_ERROR
        )
    }

    /// The refusal as people see it.
    pub fn told(&self, doing: CassandraDoing<'_>) -> Error {
        let class = self.class(doing.values);
        let new = |code| {
            Error::new(class, code)
                .with("address", doing.address)
                .with("said", reason(&self.said))
        };
        match (self.code, class) {
            (BAD_CREDENTIALS, _) => new("cassandra.credentials").with("user", doing.user),
            (UNAUTHORIZED, _) if !doing.table.is_empty() => new("cassandra.rights-table")
                .with("user", doing.user)
                .with("table", doing.table)
                .with("right", doing.right),
            (UNAUTHORIZED, _) => new("cassandra.rights").with("user", doing.user),
            (PROTOCOL_ERROR, _) => new("cassandra.protocol"),
            (UNAVAILABLE, _) => new("cassandra.unavailable"),
            (_, Class::Transient) => new("cassandra.for-now"),
            (_, Class::Permanent) => new("cassandra.value"),
            (_, Class::Configuration) => new("cassandra.refused"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_class() {
        use Class::{Configuration, Permanent, Transient};
        for (code, said, values, class, told) in [
            (0x0100, "", false, Configuration, "cassandra.credentials"),
            (0x2100, "", true, Configuration, "cassandra.rights-table"),
            (0x2200, "", true, Permanent, "cassandra.value"),
            (0x2200, "", false, Configuration, "cassandra.refused"),
            (0x2000, "", false, Configuration, "cassandra.refused"),
            (0x000a, "", false, Configuration, "cassandra.protocol"),
            (0x1000, "", true, Transient, "cassandra.unavailable"),
            (0x1001, "", true, Transient, "cassandra.for-now"),
            (0x1100, "", true, Transient, "cassandra.for-now"),
            (0x1500, "", true, Transient, "cassandra.for-now"),
            (0x2500, "", true, Transient, "cassandra.for-now"),
            (
                0x0000,
                "a null pointer",
                true,
                Transient,
                "cassandra.for-now",
            ),
            (
                0x0000,
                "Encountered an oversized mutation (9/8)",
                true,
                Permanent,
                "cassandra.value",
            ),
        ] {
            let refusal = CqlRefusal {
                code,
                said: said.to_owned(),
            };
            let error = refusal.told(CassandraDoing {
                address: "a:9042",
                user: "u",
                table: "\"k\".\"t\"",
                right: "MODIFY",
                values,
            });
            assert_eq!((error.class(), error.code()), (class, told), "{code:x}");
        }
    }
}

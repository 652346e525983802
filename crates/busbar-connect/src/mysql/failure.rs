//! Failures by class, with the statement that mends each.

use busbar_change::mysql::wire::MysqlError;
use busbar_event::{Class, Error};

use crate::relational::{self, Doing, ServerSaid};

/// Why a statement did not succeed.
pub type Failed = relational::Failed<MysqlError>;

impl Failed {
    /// The number of the server's error; 0 when the session was lost.
    pub fn number(&self) -> u16 {
        match self {
            Failed::Server(server) => server.number,
            Failed::Lost(_) => 0,
        }
    }
}

impl ServerSaid for MysqlError {
    fn class(&self) -> Class {
        class_of(self.number)
    }

    fn told(&self, doing: Doing<'_>) -> Error {
        told(self, doing)
    }
}

/// What an error's number says: the data, the moment, or how things are set up.
pub fn class_of(number: u16) -> Class {
    match number {
        // Too many connections, shutdown, locks, deadlocks, limits of time, read-only during a fail-over, no room,
        // interrupted, killed.
        1021
        | 1030
        | 1037
        | 1038
        | 1040
        | 1041
        | 1053
        | 1077
        | 1114
        | 1158..=1161
        | 1180
        | 1203
        | 1205
        | 1206
        | 1213
        | 1226
        | 1290
        | 1317
        | 1836
        | 1927
        | 1969
        | 3024
        | 3572 => Class::Transient,
        // NULL, duplicates, foreign keys, ranges, lengths, texts, times, checks.
        1048 | 1062 | 1118 | 1153 | 1169 | 1216 | 1217 | 1242 | 1264 | 1265 | 1292 | 1299
        | 1366 | 1367 | 1406 | 1411 | 1416 | 1451 | 1452 | 1525 | 1586 | 1644 | 1690 | 3140
        | 3156 | 3819 | 3854 | 4025 => Class::Permanent,
        _ => Class::Configuration,
    }
}

fn told(server: &MysqlError, doing: Doing<'_>) -> Error {
    let class = class_of(server.number);
    let new = |code| {
        Error::new(class, code)
            .with("address", doing.address)
            .with("said", &server.message)
    };
    match server.number {
        1045 | 1698 => new("mysql.credentials").with("user", doing.user),
        1044 => new("mysql.rights-database")
            .with("user", doing.user)
            .with("database", doing.database),
        1049 => new("mysql.no-database").with("database", doing.database),
        1142 | 1143 if !doing.table.is_empty() => new("mysql.rights-table")
            .with("user", doing.user)
            .with("table", doing.table)
            .with("rights", doing.rights),
        1142 | 1143 | 1227 => new("mysql.rights").with("user", doing.user),
        1146 if !doing.table.is_empty() => new("mysql.no-table").with("table", doing.table),
        1054 if !doing.table.is_empty() => new("mysql.no-column").with("table", doing.table),
        _ => match class {
            Class::Transient => new("mysql.for-now"),
            Class::Permanent => new("mysql.value"),
            Class::Configuration => new("mysql.refused"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_its_class() {
        let doing = Doing {
            address: "a:3306",
            user: "u",
            database: "d",
            table: "`t`",
            rights: "INSERT",
        };
        for (number, class, code) in [
            (1045, Class::Configuration, "mysql.credentials"),
            (1049, Class::Configuration, "mysql.no-database"),
            (1142, Class::Configuration, "mysql.rights-table"),
            (1146, Class::Configuration, "mysql.no-table"),
            (1054, Class::Configuration, "mysql.no-column"),
            (1064, Class::Configuration, "mysql.refused"),
            (1062, Class::Permanent, "mysql.value"),
            (1264, Class::Permanent, "mysql.value"),
            (1213, Class::Transient, "mysql.for-now"),
        ] {
            let error = told(
                &MysqlError {
                    number,
                    message: "m".into(),
                },
                doing,
            );
            assert_eq!((error.class(), error.code()), (class, code), "{number}");
        }
    }
}

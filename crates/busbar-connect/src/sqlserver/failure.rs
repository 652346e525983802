//! Failures by class, with the statement that mends each.

use busbar_event::{Class, Error};

use super::token::MssqlError;
use crate::relational::{Doing, Failed, ServerSaid};

/// Why a statement did not succeed.
pub type MssqlFailed = Failed<MssqlError>;

impl MssqlFailed {
    /// A login that failed, as people see it: no row is at fault, whatever the number says.
    pub fn told_of_login(self, doing: Doing<'_>) -> Error {
        match self {
            Failed::Server(server) if server.class() == Class::Permanent => {
                Error::new(Class::Configuration, "sqlserver.credentials")
                    .with("address", doing.address)
                    .with("user", doing.user)
                    .with("number", server.number)
                    .with("said", &server.message)
            }
            failed => failed.told(doing),
        }
    }

    /// The number of the server's error; 0 when the session was lost.
    pub fn number(&self) -> i32 {
        match self {
            Failed::Server(server) => server.number,
            Failed::Lost(_) => 0,
        }
    }
}

impl ServerSaid for MssqlError {
    fn class(&self) -> Class {
        class_of(self.number)
    }

    fn told(&self, doing: Doing<'_>) -> Error {
        told(self, doing)
    }
}

/// What an error's number says: the data, the moment, or how things are set up.
pub fn class_of(number: i32) -> Class {
    match number {
        // Deadlocks, locks, time, memory, space, log full, sessions, shutdown, recovery, fail-over, read-only for now, and what
        // Azure SQL says while it is busy or moves a database.
        601
        | 701
        | 802
        | 845
        | 846
        | 847
        | 921
        | 922
        | 923
        | 926
        | 927
        | 976
        | 978
        | 979
        | 983
        | 1105
        | 1203..=1205
        | 1211
        | 1221
        | 1222
        | 1807
        | 3906
        | 3908
        | 3935
        | 3957..=3961
        | 3966
        | 3980
        | 4060
        | 4221
        | 5030
        | 5061
        | 6001..=6006
        | 8628
        | 8645
        | 8651
        | 9001
        | 9002
        | 10_053
        | 10_054
        | 10_060
        | 10_928
        | 10_929
        | 14_355
        | 17_142
        | 17_197
        | 17_830
        | 18_401
        | 40_143
        | 40_197
        | 40_501
        | 40_540
        | 40_613
        | 41_301
        | 41_302
        | 41_305
        | 41_325
        | 41_839
        | 42_108
        | 42_109
        | 49_918..=49_920 => match number {
            // The database is not there, or this user may not open it.
            4060 => Class::Configuration,
            _ => Class::Transient,
        },
        // NULL, conversions, ranges, lengths, duplicates, foreign keys and checks, division, texts, XML, triggers.
        220
        | 232
        | 235
        | 237
        | 241
        | 242
        | 244
        | 245
        | 248
        | 293
        | 295
        | 296
        | 298
        | 515
        | 517
        | 529
        | 530
        | 535
        | 547
        | 550
        | 1509
        | 2601
        | 2627
        | 2628
        | 3609
        | 3616
        | 3621
        | 3989
        | 6522
        | 7139
        | 8114..=8116
        | 8134
        | 8152
        | 8169
        | 8170
        | 9241
        | 9242
        | 9400..=9460
        | 9802..=9836
        | 13_608
        | 13_609
        | 16_905
        | 50_000.. => Class::Permanent,
        _ => Class::Configuration,
    }
}

fn told(server: &MssqlError, doing: Doing<'_>) -> Error {
    let class = class_of(server.number);
    let new = |code| {
        Error::new(class, code)
            .with("address", doing.address)
            .with("number", server.number)
            .with("said", &server.message)
    };
    match server.number {
        18_452 | 18_456 | 18_486 | 18_487 | 18_488 => {
            new("sqlserver.credentials").with("user", doing.user)
        }
        911 | 4060 => new("sqlserver.no-database")
            .with("database", doing.database)
            .with("user", doing.user),
        229 | 230 if !doing.table.is_empty() => new("sqlserver.rights-table")
            .with("user", doing.user)
            .with("table", doing.table)
            .with("rights", doing.rights),
        229 | 230 | 262 | 297 | 300 | 916 => new("sqlserver.rights").with("user", doing.user),
        208 if !doing.table.is_empty() => new("sqlserver.no-table").with("table", doing.table),
        207 if !doing.table.is_empty() => new("sqlserver.no-column").with("table", doing.table),
        _ => match class {
            Class::Transient => new("sqlserver.for-now"),
            Class::Permanent => new("sqlserver.value"),
            Class::Configuration => new("sqlserver.refused"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_its_class() {
        let doing = Doing {
            address: "a:1433",
            user: "u",
            database: "d",
            table: "[dbo].[t]",
            rights: "INSERT",
        };
        for (number, class, code) in [
            (18_456, Class::Configuration, "sqlserver.credentials"),
            (4060, Class::Configuration, "sqlserver.no-database"),
            (229, Class::Configuration, "sqlserver.rights-table"),
            (208, Class::Configuration, "sqlserver.no-table"),
            (207, Class::Configuration, "sqlserver.no-column"),
            (102, Class::Configuration, "sqlserver.refused"),
            (2627, Class::Permanent, "sqlserver.value"),
            (8152, Class::Permanent, "sqlserver.value"),
            (51_000, Class::Permanent, "sqlserver.value"),
            (1205, Class::Transient, "sqlserver.for-now"),
            (9002, Class::Transient, "sqlserver.for-now"),
        ] {
            let server = MssqlError {
                number,
                message: "m".into(),
            };
            let error = told(&server, doing);
            assert_eq!((error.class(), error.code()), (class, code), "{number}");
        }
    }
}

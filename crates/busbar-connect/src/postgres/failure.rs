//! Failures by class, with the statement that mends each.

use busbar_change::postgres::wire::ServerError;
use busbar_event::{Class, Error};

use crate::relational::{self, Doing, ServerSaid};

/// Why a statement did not succeed.
pub type Failed = relational::Failed<Box<ServerError>>;

impl Failed {
    /// The code of the server's error; empty when the session was lost.
    pub fn code(&self) -> &str {
        match self {
            Failed::Server(server) => &server.code,
            Failed::Lost(_) => "",
        }
    }
}

impl ServerSaid for Box<ServerError> {
    fn class(&self) -> Class {
        class_of(&self.code)
    }

    fn told(&self, doing: Doing<'_>) -> Error {
        told(self, doing)
    }
}

/// What the class of an error's code says: the data, the moment, or how things are set up.
pub fn class_of(code: &str) -> Class {
    match code {
        // Of these, waiting helps: the connection, resources, restarts, deadlocks, locks, time, a standby that is
        // promoted, and what is wrong within the server.
        "55006" | "55P03" | "57014" | "25006" | "57P01" | "57P02" | "57P03" | "57P05" | "25P02"
        | "25P03" => Class::Transient,
        _ if ["08", "40", "53", "58", "XX"]
            .iter()
            .any(|class| code.starts_with(class)) =>
        {
            Class::Transient
        }
        _ if ["22", "23", "44", "54"]
            .iter()
            .any(|class| code.starts_with(class)) =>
        {
            Class::Permanent
        }
        _ => Class::Configuration,
    }
}

/// The server's message, with what it adds.
pub fn said(server: &ServerError) -> String {
    let mut said = server.message.clone();
    for more in [&server.detail, &server.hint] {
        if !more.is_empty() {
            said.push_str(". ");
            said.push_str(more.trim_end_matches('.'));
        }
    }
    said
}

fn told(server: &ServerError, doing: Doing<'_>) -> Error {
    let class = class_of(&server.code);
    let new = |code| {
        Error::new(class, code)
            .with("address", doing.address)
            .with("said", said(server))
    };
    match server.code.as_str() {
        "28P01" | "28000" => new("postgres.credentials").with("user", doing.user),
        "3D000" => new("postgres.no-database").with("database", doing.database),
        "42501" if doing.table.is_empty() => new("postgres.rights").with("user", doing.user),
        "42501" => new("postgres.rights-table")
            .with("user", doing.user)
            .with("table", doing.table)
            .with("rights", doing.rights),
        "42P01" | "3F000" if !doing.table.is_empty() => {
            new("postgres.no-table").with("table", doing.table)
        }
        "42703" if !doing.table.is_empty() => new("postgres.no-column").with("table", doing.table),
        "42P10" if !doing.table.is_empty() => new("postgres.no-key").with("table", doing.table),
        _ => match class {
            Class::Transient => new("postgres.for-now"),
            Class::Permanent => new("postgres.value"),
            Class::Configuration => new("postgres.refused"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_class_and_its_way_out() {
        let doing = Doing {
            address: "a:5432",
            user: "u",
            database: "d",
            table: "public.t",
            rights: "INSERT",
        };
        for (code, class, expected) in [
            ("28P01", Class::Configuration, "postgres.credentials"),
            ("3D000", Class::Configuration, "postgres.no-database"),
            ("42501", Class::Configuration, "postgres.rights-table"),
            ("42P01", Class::Configuration, "postgres.no-table"),
            ("42703", Class::Configuration, "postgres.no-column"),
            ("42P10", Class::Configuration, "postgres.no-key"),
            ("42601", Class::Configuration, "postgres.refused"),
            ("22003", Class::Permanent, "postgres.value"),
            ("23505", Class::Permanent, "postgres.value"),
            ("40P01", Class::Transient, "postgres.for-now"),
            ("53300", Class::Transient, "postgres.for-now"),
            ("57P03", Class::Transient, "postgres.for-now"),
            ("08006", Class::Transient, "postgres.for-now"),
        ] {
            let server = ServerError {
                code: code.into(),
                message: "m".into(),
                hint: "h.".into(),
                ..ServerError::default()
            };
            let error = told(&server, doing);
            assert_eq!((error.class(), error.code()), (class, expected), "{code}");
            assert!(
                error.message(busbar_event::Language::En).contains("m. h"),
                "{error}"
            );
        }
    }
}

//! Failures by class, with what mends each.

use busbar_event::{Class, Error};

use super::bson::BsonDocument;
use crate::reason::reason;

/// Why a server refused a command or a row of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MongoRefusal {
    pub code: i64,
    said: String,
    /// The server says that the whole transaction may be tried again.
    passes: bool,
}

/// Why a command has no answer.
#[derive(Debug)]
pub enum MongoFailure {
    /// The session is lost.
    Lost(Error),
    /// The server refused it; the session goes on.
    Refused(MongoRefusal),
}

impl From<Error> for MongoFailure {
    fn from(error: Error) -> MongoFailure {
        MongoFailure::Lost(error)
    }
}

/// What was being done, for what errors name.
#[derive(Clone, Copy, Debug)]
pub struct MongoDoing<'a> {
    pub address: &'a str,
    pub user: &'a str,
    pub collection: &'a str,
    /// The actions that it takes, as roles name them.
    pub rights: &'a str,
}

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MongoPart {
    Command,
    /// One row of a command.
    Row,
}

/// There is a row with the same unique value.
pub const DUPLICATE: i64 = 11_000;
/// There is no such collection.
pub const NO_COLLECTION: i64 = 26;
/// There is no such command.
pub const NO_COMMAND: i64 = 59;
/// Another process has begun a newer transaction of this session.
pub const NEWER_TRANSACTION: i64 = 225;

impl MongoRefusal {
    /// From an answer, an entry of `writeErrors` or `writeConcernError`.
    pub fn of(answer: BsonDocument<'_>) -> MongoRefusal {
        let said = answer.text("errmsg").unwrap_or_default();
        let passes = answer
            .texts("errorLabels")
            .any(|label| matches!(label, "TransientTransactionError" | "RetryableWriteError"));
        MongoRefusal {
            code: answer.number("code").unwrap_or(0),
            said: reason(said),
            passes,
        }
    }

    /// The place in the log that a change stream has to go on at is not there any more.
    pub fn lost_history(&self) -> bool {
        matches!(self.code, 286 | 280 | 260)
    }

    /// The data, the moment, or how things are set up.
    pub fn class(&self, part: MongoPart) -> Class {
        match self.code {
            _ if self.passes => Class::Transient,
            // Servers that go away, are not the primary any more, or took too long.
            6 | 7 | 24 | 43 | 46 | 50 | 63 | 64 | 89 | 91 | 112 | 133 | 134 | 146 | 150 | 189
            | 202 | 225 | 234 | 244 | 251 | 262 | 317 | 358 | 384 | 9001 | 10_058 | 10_107
            | 11_600 | 11_602 | 13_388 | 13_435 | 13_436 | 14_031 => Class::Transient,
            11 | 13 | 18 | 20 | 26 | 33 | 59 | 73 | 115 | 166 | 263 | 334 => Class::Configuration,
            _ if part == MongoPart::Row => Class::Permanent,
            _ => Class::Configuration,
        }
    }

    /// The error that people see.
    pub fn told(&self, part: MongoPart, doing: MongoDoing<'_>) -> Error {
        let class = self.class(part);
        let new = |code| {
            Error::new(class, code)
                .with("address", doing.address)
                .with("said", format!("{} ({})", self.said, self.code))
        };
        match (self.code, class) {
            (_, Class::Transient) => new("mongodb.for-now"),
            (11 | 18 | 33 | 334, _) => new("mongodb.credentials").with("user", doing.user),
            (13, _) => new("mongodb.rights")
                .with("user", doing.user)
                .with("collection", doing.collection)
                .with("rights", doing.rights),
            (_, Class::Permanent) => new("mongodb.row").with("collection", doing.collection),
            _ => new("mongodb.refused").with("collection", doing.collection),
        }
    }
}

impl MongoFailure {
    /// The error that people see.
    pub fn told(self, doing: MongoDoing<'_>) -> Error {
        match self {
            MongoFailure::Lost(error) => error,
            MongoFailure::Refused(refusal) => refusal.told(MongoPart::Command, doing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_refusal_is_decides_what_is_done() {
        use Class::{Configuration, Permanent, Transient};
        for (code, part, class) in [
            (11_000, MongoPart::Row, Permanent),
            (121, MongoPart::Row, Permanent),
            (2, MongoPart::Row, Permanent),
            (2, MongoPart::Command, Configuration),
            (112, MongoPart::Row, Transient),
            (10_107, MongoPart::Command, Transient),
            (91, MongoPart::Command, Transient),
            (13, MongoPart::Row, Configuration),
            (18, MongoPart::Command, Configuration),
            (286, MongoPart::Command, Configuration),
        ] {
            let refusal = MongoRefusal {
                code,
                ..MongoRefusal::default()
            };
            assert_eq!(refusal.class(part), class, "{code}");
        }
    }
}

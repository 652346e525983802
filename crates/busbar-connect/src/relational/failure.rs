//! Why a statement did not succeed.

use busbar_event::{Class, Error};

/// Why a statement did not succeed.
#[derive(Debug)]
pub enum Failed<E> {
    /// The server said so; the session goes on.
    Server(E),
    /// The session is lost, or the server does not follow the protocol.
    Lost(Error),
}

/// What a server says of a failure.
pub trait ServerSaid {
    /// The data, the moment, or how things are set up.
    fn class(&self) -> Class;

    /// The failure as people see it, with the statement that mends it.
    fn told(&self, doing: Doing<'_>) -> Error;
}

/// What was being done, for the statements that errors name.
#[derive(Clone, Copy, Debug)]
pub struct Doing<'a> {
    pub address: &'a str,
    pub user: &'a str,
    pub database: &'a str,
    /// The table, as it is written in SQL; empty without one.
    pub table: &'a str,
    /// The rights that it takes: `SELECT`, `INSERT, UPDATE`.
    pub rights: &'a str,
}

impl<E> From<Error> for Failed<E> {
    fn from(error: Error) -> Failed<E> {
        Failed::Lost(error)
    }
}

impl<E: ServerSaid> Failed<E> {
    /// The failure as people see it.
    pub fn told(self, doing: Doing<'_>) -> Error {
        match self {
            Failed::Lost(error) => error,
            Failed::Server(server) => server.told(doing),
        }
    }

    /// Whether only the rows at hand are at fault.
    pub fn is_about_rows(&self) -> bool {
        matches!(self, Failed::Server(server) if server.class() == Class::Permanent)
    }
}

//! Change logs of databases, without any input or output.
//!
//! - [`mysql`] reads the packets of MySQL and MariaDB and the events of their binary log.
//! - [`postgres`] reads the messages of PostgreSQL and those of its logical replication.
//! - [`event`] writes the JSON of a change, and [`ColumnsMark`] tells whether a table still has the columns that it had.
//! - Nothing here panics on hostile bytes. Every length is compared with what is there before anything is allocated.
//!
//! This crate knows neither sockets nor how far a reader has come.

mod columns;
pub mod event;
pub mod limits;
pub mod mysql;
pub mod postgres;
mod time;

pub use columns::{ColumnsMark, identity};
pub use time::write_time;

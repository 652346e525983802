//! The protocol and the logical replication of PostgreSQL.

pub mod pgoutput;
pub mod row;
mod value;
pub mod wire;

pub use value::{oid, write_json};

//! The protocol and the binary log of MySQL and MariaDB.

pub mod binlog;
pub mod cell;
mod column;
mod json;
pub mod row;
pub mod wire;

pub use column::{DescribedColumn, ValueShape, ZeroDates};

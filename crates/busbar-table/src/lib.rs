//! Tables: state that flows keep, queries read and people look at.
//!
//! A table is rows of typed columns, with or without a key. Its *engine* says where it lives:
//!
//! | engine | lives in | keeps | after a restart |
//! | --- | --- | --- | --- |
//! | [`Hot`] | memory, and a journal in the log | rows until their time to live is over, bounded in rows and bytes | as it was at the last write |
//! | [`HotElsewhere`] | Redis | rows until their time to live is over | as Redis keeps it |
//! | [`Relational`] | one SQLite file | everything | as it was at the last commit |
//! | [`DatabaseTables`] | a table of PostgreSQL, MySQL or another database | everything | as the database keeps it |
//! | [`Wide`] | one log-structured merge tree, or a table of HBase | versions of cells until their time to live is over | as it was at the last commit |
//!
//! All sit behind [`Table`] and pass the same conformance suite (`tests/conformance.rs`). Rows move
//! in and out as Arrow record batches; there is no call for a single row.
//!
//! **Exactly once.** A [`Write`] may carry the [`ProducerPosition`] it stands for. An engine keeps
//! the last position of every producer together with the rows, in the same transaction, and ignores
//! a write whose position it already has.
//!
//! **Calls block.** [`Relational`] waits for the disk inside [`Table::write`] and for SQLite inside
//! a scan or a look-up. Callers on an async thread hand these calls to a thread that may block
//! (`tokio::task::spawn_blocking`). A [`Hot`] table waits for the log in [`Table::write`] and for nothing else.
//!
//! This crate knows no stream, no topic, no flow and no SQL beyond what SQLite is asked.

mod change_log;
mod changes;
mod columns;
mod compared;
mod database;
mod hot;
mod journals;
pub mod limits;
mod position;
mod registry;
mod relational;
mod spec;
mod stand_in;
mod table;
pub mod wide;

pub use changes::ChangeColumns;
pub use columns::{
    ColumnType, TypedRows, canonical_schema, check_lookup, merge_columns, typed_rows, widen,
};
pub use database::DatabaseTables;
pub use hot::{DueBatch, Hot, HotElsewhere, HotTable};
pub use position::ProducerPosition;
pub use registry::{ChangesClaim, Staged, Tables};
pub use relational::Relational;
pub use spec::{
    CellPlace, ColumnSpec, DatabasePlace, FamilySpec, HotPlace, HotSpec, RelationalSpec, TableSpec,
    WhenFull, WideSpec,
};
pub use stand_in::StandIn;
pub use table::{
    Applied, Capabilities, ChangeLog, Compare, Condition, Constant, Found, LooksBack, Lookup,
    Newer, ReadChanges, Rejected, Rows, Scan, Stats, Table, TableChange, Write,
};
pub use wide::Wide;

//! One SQL over events that move, events that are kept, and tables.
//!
//! | for | take | works on |
//! | --- | --- | --- |
//! | a flow's `where` | [`Predicate`] | one batch |
//! | a flow's `select` | [`Projection`] | one batch |
//! | a flow's `sql` | [`BatchQuery`] | one batch |
//! | a window's `select` | [`Aggregation`] | many batches |
//! | a topic such as `alarm/${site}` | [`Template`] | one batch |
//! | a person's question | [`Engine`] | streams and tables, as they are at that moment |
//!
//! Everything is parsed, type-checked and compiled once, against an Arrow schema; what runs for each
//! batch are Arrow kernels. An error in the text is a [`Diagnostic`]: where, what, and what was
//! probably meant.
//!
//! This is the only crate that knows DataFusion, and nothing of DataFusion shows in its interface:
//! callers see Arrow's types and Busbar's. It does not know flows, users or connections.
//!
//! Names: a word without quotes means the column of that name as it is written, or else the one that
//! differs only in case. So `levelMm` finds a JSON field of that name, and `Site` finds `site`.

mod aggregate;
mod across;
mod batch_query;
mod bounds;
mod budget;
mod check;
mod diagnostic;
mod dictionary;
mod engine;
mod expression;
mod functions;
mod information_schema;
pub mod limits;
mod names;
mod operators;
mod parse;
mod partial;
mod physical;
mod planner;
mod predicate;
mod projection;
mod relation;
mod scan_stream;
mod scan_table;
mod session;
mod source;
mod statement;
mod template;
mod text;
mod unbound;
mod wait;
mod walk;

pub use aggregate::{Aggregation, AggregationPart, AggregationText, Groups, Inputs};
pub use batch_query::BatchQuery;
pub use diagnostic::Diagnostic;
pub use engine::{Engine, QueryLimits, QueryOptions, QueryResult};
pub use predicate::Predicate;
pub use projection::Projection;
pub use relation::{Events, Piece, Relation, Relations, StreamRelation};
pub use template::Template;
pub use unbound::{check_columns, check_condition, check_query};

/// A type in the words of flow and table files: `int`, `text`, `time` and so on.
pub fn type_word(data_type: &arrow::datatypes::DataType) -> String {
    check::word(data_type)
}

/// A row for which an expression has no value, such as a division by zero.
#[derive(Debug)]
pub struct Failed {
    /// The row's place in the batch.
    pub row: usize,
    /// Why.
    pub cause: busbar_event::Error,
}

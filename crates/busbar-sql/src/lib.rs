//! SQL over events in motion, stored events, and tables.
//!
//! | for | use | input |
//! | --- | --- | --- |
//! | a flow's `where` | [`Predicate`] | one batch |
//! | a flow's `select` | [`Projection`] | one batch |
//! | a flow's `sql` | [`BatchQuery`] | one batch |
//! | a window's `select` | [`Aggregation`] | many batches |
//! | a flow's `sql` that groups by a window of time | [`WindowQuery`] | many batches |
//! | a topic such as `alarm/${site}` | [`Template`] | one batch |
//! | a query by a user | [`Engine`] | the streams and tables as they are when it starts |
//!
//! A text is parsed, type-checked and compiled once, against an Arrow schema; Arrow kernels do the work for each
//! batch. An error in a text is a [`Diagnostic`]: the place, the message and, where there is one, a suggestion.
//!
//! This is the only crate that depends on DataFusion, and its interface shows nothing of it: callers see Arrow's
//! types and Busbar's. It does not know flows, users or connections.
//!
//! An unquoted name means the column of exactly that name, or else the one that differs from it only in case. So
//! `levelMm` finds a JSON field of that name, and `Site` finds `site`.

mod across;
mod aggregate;
mod batch_query;
mod bounds;
mod budget;
mod check;
mod condition;
mod diagnostic;
mod dictionary;
mod engine;
mod explain;
mod expression;
mod families;
mod functions;
mod information_schema;
pub mod limits;
mod names;
mod operators;
mod order;
mod parameters;
mod parse;
mod partial;
mod physical;
mod planner;
mod predicate;
mod projection;
mod relation;
mod rewrite;
mod scan_stream;
mod scan_table;
mod session;
mod source;
mod stack;
mod statement;
mod template;
mod text;
mod unbound;
mod wait;
mod walk;
mod windows;

pub use aggregate::{
    Aggregation, AggregationPart, AggregationText, FailedGroups, GroupResults, Groups, Inputs,
};
pub use batch_query::{BatchLimits, BatchQuery};
pub use condition::{ConditionConstants, ConditionParser, ConditionPart, ConditionValue};
pub use diagnostic::Diagnostic;
pub use engine::{Engine, QueryLimits, QueryOptions, QueryResult};
pub use parameters::{BoundParameter, check_query_with, check_relations};
pub use predicate::Predicate;
pub use projection::Projection;
pub use relation::{Events, Piece, Relation, Relations, StreamRelation};
pub use template::Template;
pub use unbound::{check_columns, check_condition, check_query};
pub use windows::{TimeWindow, WindowQuery};

/// The name of a type as flow and table files write it: `int`, `text`, `time` and so on.
pub fn type_word(data_type: &arrow::datatypes::DataType) -> String {
    check::word(data_type)
}

/// A row for which an expression fails, for example because it divides by zero.
#[derive(Debug)]
pub struct Failed {
    /// Index of the row in the batch.
    pub row: usize,
    /// The error.
    pub cause: busbar_event::Error,
}

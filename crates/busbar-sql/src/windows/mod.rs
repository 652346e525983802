//! Windows of time in `group by`: `tumble(interval '1 minute')`, `hop(interval '10 minutes', interval '1 minute')` and
//! `session(interval '30 seconds')`.
//!
//! In a flow such a query is a [`WindowQuery`], whose parts a window operator computes as events arrive. Over stored
//! events it is rewritten by [`history::rewrite`] to a query without them. Both give the same rows.

mod call;
mod clauses;
pub(crate) mod history;
mod query;

pub use call::TimeWindow;
pub use query::WindowQuery;

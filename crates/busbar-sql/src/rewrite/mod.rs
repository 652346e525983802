//! Rules that change a logical plan before DataFusion optimises it.
//!
//! They put right what DataFusion gets wrong silently. [`NegatedMembership`] runs before types are coerced,
//! [`CheckedIntegers`] after.

mod aggregate_order;
mod integers;
mod subqueries;

pub(crate) use aggregate_order::lowered_aggregate;
pub(crate) use integers::CheckedIntegers;
pub(crate) use subqueries::NegatedMembership;

//! Functions that Busbar adds to DataFusion's or puts in their place: one file each, listed here.

mod bounded;
mod checked_arithmetic;
mod checked_sum;
mod concat_texts;
mod hop_starts;
mod json_get;
mod list_element;
mod local_time;
mod topic_part;
mod usage;
mod xpath;

use std::sync::Arc;

use datafusion_expr::{AggregateUDF, ScalarUDF};

pub(crate) use bounded::bounded;
pub(crate) use checked_arithmetic::{checked_binary, checked_negation};
pub(crate) use topic_part::text_or_dictionary;
pub(crate) use usage::usage;

/// `list[n]`.
pub(crate) fn list_element() -> Arc<ScalarUDF> {
    Arc::new(list_element::function())
}

/// `||` between texts.
pub(crate) fn concat_texts() -> Arc<ScalarUDF> {
    Arc::new(concat_texts::function())
}

/// The aggregate functions, with those that would wrap around replaced.
pub(crate) fn aggregates(known: Vec<Arc<AggregateUDF>>) -> Vec<Arc<AggregateUDF>> {
    let replaced = known.into_iter().map(|function| match function.name() {
        "sum" => Arc::new(checked_sum::function(function)),
        _ => function,
    });
    replaced.collect()
}

/// Every scalar function that is added, in alphabetical order.
pub(crate) fn all() -> Vec<Arc<ScalarUDF>> {
    vec![
        Arc::new(hop_starts::function()),
        Arc::new(json_get::function("json_get", json_get::Wanted::Text)),
        Arc::new(json_get::function("json_get_bool", json_get::Wanted::Bool)),
        Arc::new(json_get::function(
            "json_get_float",
            json_get::Wanted::Float,
        )),
        Arc::new(json_get::function("json_get_int", json_get::Wanted::Int)),
        Arc::new(local_time::function()),
        Arc::new(topic_part::function()),
        Arc::new(xpath::function(
            "xml_is_well_formed",
            xpath::XPathWanted::WellFormed,
        )),
        Arc::new(xpath::function("xpath", xpath::XPathWanted::Text)),
        Arc::new(xpath::function("xpath_bool", xpath::XPathWanted::Truth)),
        Arc::new(xpath::function("xpath_list", xpath::XPathWanted::List)),
        Arc::new(xpath::function("xpath_number", xpath::XPathWanted::Number)),
    ]
}

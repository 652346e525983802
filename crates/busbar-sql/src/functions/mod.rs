//! Functions of Busbar's own: one file each, listed here.

mod bounded;
mod concat_texts;
mod json_get;
mod topic_part;

use std::sync::Arc;

use datafusion_expr::ScalarUDF;

pub(crate) use bounded::bounded;
pub(crate) use topic_part::text_or_dictionary;

/// `||` between texts.
pub(crate) fn concat_texts() -> Arc<ScalarUDF> {
    Arc::new(concat_texts::function())
}

/// Every function, in the order of the alphabet.
pub(crate) fn all() -> Vec<Arc<ScalarUDF>> {
    vec![
        Arc::new(json_get::function("json_get", json_get::Wanted::Text)),
        Arc::new(json_get::function("json_get_bool", json_get::Wanted::Bool)),
        Arc::new(json_get::function(
            "json_get_float",
            json_get::Wanted::Float,
        )),
        Arc::new(json_get::function("json_get_int", json_get::Wanted::Int)),
        Arc::new(topic_part::function()),
    ]
}

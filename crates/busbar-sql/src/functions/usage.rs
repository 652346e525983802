//! How the functions that Busbar adds are called.

use busbar_event::{Class, Error};
use datafusion_common::DataFusionError;

use crate::budget::told;

/// How a function that Busbar adds is called; none for the others.
pub(crate) fn usage(name: &str) -> Option<&'static str> {
    Some(match name {
        "||" => "text || text",
        "hop_starts" => "hop_starts(time, 600000000, 60000000)",
        "json_get" => "json_get(document, 'path')",
        "json_get_bool" => "json_get_bool(document, 'path')",
        "json_get_float" => "json_get_float(document, 'path')",
        "json_get_int" => "json_get_int(document, 'path')",
        "list_element" => "list[1]",
        "local_time" => "local_time(time, 'Asia/Shanghai')",
        "topic_part" => "topic_part(topic, 2)",
        "xml_is_well_formed" => "xml_is_well_formed(document)",
        "xpath" => "xpath(document, 'path', 'prefix=namespace …')",
        "xpath_bool" => "xpath_bool(document, 'path', 'prefix=namespace …')",
        "xpath_list" => "xpath_list(document, 'path', 'prefix=namespace …')",
        "xpath_number" => "xpath_number(document, 'path', 'prefix=namespace …')",
        _ => return None,
    })
}

/// The error of a call with arguments that a function does not take.
pub(super) fn misused(name: &'static str) -> DataFusionError {
    told(
        Error::new(Class::Configuration, "sql.usage")
            .with("function", name)
            .with("usage", usage(name).unwrap_or(name)),
    )
}

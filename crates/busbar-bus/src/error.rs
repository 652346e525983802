//! What the log reports, as people see it.

use busbar_event::{Class, Error};
use busbar_log::LogError;

/// The same error with the log's class, code and arguments.
pub fn from_log(error: LogError) -> Error {
    let class = match error.class() {
        busbar_log::Class::Transient => Class::Transient,
        busbar_log::Class::Permanent => Class::Permanent,
        busbar_log::Class::Configuration => Class::Configuration,
    };
    error
        .args()
        .into_iter()
        .fold(Error::new(class, error.code()), |made, (name, value)| {
            made.with(name, value)
        })
}

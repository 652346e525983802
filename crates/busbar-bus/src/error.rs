//! What the log reports, as people see it.

use busbar_event::messages::{self, words_of};
use busbar_event::{Class, Error};
use busbar_log::LogError;

/// The same error with the log's class, code and arguments.
pub fn from_log(error: LogError) -> Error {
    let class = match error.class() {
        busbar_log::Class::Transient => Class::Transient,
        busbar_log::Class::Permanent => Class::Permanent,
        busbar_log::Class::Configuration => Class::Configuration,
    };
    let cause = match &error {
        LogError::Io { source, .. } | LogError::Failed { source, .. } => words_of(source),
        _ => None,
    };
    error
        .args()
        .into_iter()
        .fold(Error::new(class, error.code()), |made, (name, value)| {
            let code = match name {
                "operation" | "why" => messages::code_of(&value),
                "cause" => cause,
                _ => None,
            };
            match code {
                Some(code) => made.with_text(name, code),
                None => made.with(name, value),
            }
        })
}

#[cfg(test)]
mod tests {
    use busbar_event::Language;

    use super::*;

    #[test]
    fn an_error_of_the_disk_is_in_one_language() {
        let error = from_log(LogError::Io {
            operation: "cannot open",
            path: "/data".into(),
            source: std::sync::Arc::new(std::io::ErrorKind::PermissionDenied.into()),
        });
        let said = error.message(Language::Zh).replace("/data", "");
        assert!(!said.contains(|c: char| c.is_ascii_alphabetic()), "{said}");
        let refused = from_log(LogError::Refused {
            why: "it has no rows",
        });
        let said = refused.message(Language::Zh);
        assert!(!said.contains(|c: char| c.is_ascii_alphabetic()), "{said}");
    }
}

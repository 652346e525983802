//! What is wrong with the JSON or the query of a request, in the API's own words: clients are shown neither the
//! words of a library nor types of Rust.

use busbar_event::{Class, Error, Language, messages};

use crate::answer::bounded;

/// The error for a body that could not be read.
pub(super) fn body(cause: &serde_json::Error) -> Error {
    let text = cause.to_string();
    let placed = |code| {
        Error::new(Class::Permanent, code)
            .with("line", cause.line())
            .with("column", cause.column())
    };
    match cause.classify() {
        serde_json::error::Category::Data => {}
        serde_json::error::Category::Eof => return placed("server.json-ends"),
        _ => return placed("server.bad-json"),
    }
    if let Some(error) = named(&text, "server.unknown-body-field") {
        return error;
    }
    if text.starts_with("invalid ") {
        return placed("server.wrong-type");
    }
    // A text of our own, such as that of a rule that does not parse; the library adds the place.
    let own = text.rsplit_once(" at line ").map_or(&*text, |(own, _)| own);
    match own_error(own) {
        Some(error) => placed("server.bad-body").with_error("why", &error),
        None => placed("server.bad-body").with("why", bounded(own)),
    }
}

/// Errors of types that read themselves. The library keeps their English texts only.
const OWN: [&str; 4] = [
    "access.bad-rule",
    "event.filter-wildcard",
    "event.size",
    "event.span",
];

/// The error whose text this is.
fn own_error(text: &str) -> Option<Error> {
    OWN.into_iter().find_map(|code| {
        let (before, rest) = messages::template(Language::En, code)?.split_once('{')?;
        let (name, behind) = rest.split_once('}')?;
        // What led to it stands behind.
        let (value, _) = text.strip_prefix(before)?.split_once(behind)?;
        Some(Error::new(Class::Permanent, code).with(name, bounded(value)))
    })
}

/// The error for a query string that could not be read.
pub(super) fn query(text: &str) -> Error {
    if let Some(error) = named(text, "server.unknown-parameter") {
        return error;
    }
    // `Failed to deserialize query string: limit: invalid digit found in string`
    let mut parts = text.split(": ");
    let field = parts.nth(1).filter(|_| parts.next().is_some());
    match field {
        Some(field) => {
            Error::new(Class::Permanent, "server.bad-field").with("field", bounded(field))
        }
        None => Error::new(Class::Permanent, "server.bad-query"),
    }
}

/// The error for a text that names a field or a word; `unknown` is the code for a field that is not known.
fn named(text: &str, unknown: &'static str) -> Option<Error> {
    let error = |code, name: &'static str, value: String| {
        Error::new(Class::Permanent, code).with(name, value)
    };
    if let Some(rest) = after(text, "unknown field `") {
        let (field, known) = names(rest);
        return Some(match known.is_empty() {
            true => error("server.no-fields", "field", field),
            false => error(unknown, "field", field).with("known", known),
        });
    }
    if let Some(rest) = after(text, "unknown variant `") {
        let (value, known) = names(rest);
        return Some(error("server.unknown-word", "value", value).with("known", known));
    }
    for (start, code) in [
        ("missing field `", "server.missing-field"),
        ("duplicate field `", "server.field-twice"),
    ] {
        if let Some(rest) = after(text, start) {
            return Some(error(code, "field", names(rest).0));
        }
    }
    None
}

fn after<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.split_once(start).map(|(_, rest)| rest)
}

/// The first name, which ends at a backtick, and those in backticks after it.
fn names(rest: &str) -> (String, String) {
    let (first, rest) = rest.split_once('`').unwrap_or((rest, ""));
    let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    (bounded(first), known.join(", "))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Body {
        limit: u16,
        #[serde(default)]
        kind: Option<Kind>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Hot,
        Cold,
    }

    #[test]
    fn no_word_of_a_library_and_no_type_is_shown() {
        for (text, code, said) in [
            (r#"{"limit":"b"}"#, "server.wrong-type", "line 1"),
            (r#"{"limit":70000}"#, "server.wrong-type", "line 1"),
            (r#"{"limit":1,}"#, "server.bad-json", "column 12"),
            (r#"{"limit":1"#, "server.json-ends", "line 1"),
            (r#"{}"#, "server.missing-field", "limit"),
            (
                r#"{"limit":1,"lmit":2}"#,
                "server.unknown-body-field",
                "limit, kind",
            ),
            (r#"{"limit":1,"limit":2}"#, "server.field-twice", "limit"),
            (
                r#"{"limit":1,"kind":"warm"}"#,
                "server.unknown-word",
                "hot, cold",
            ),
        ] {
            let error = body(&serde_json::from_str::<Body>(text).unwrap_err());
            let shown = error.to_string();
            assert_eq!(error.code(), code, "{text}: {shown}");
            assert!(shown.contains(said), "{text}: {shown}");
            for foreign in ["u16", "expected", "invalid", "variant", "trailing"] {
                assert!(!shown.contains(foreign), "{text}: {shown}");
            }
        }
    }

    #[test]
    fn a_rule_of_ours_is_refused_in_both_languages() {
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "only parsed")]
        struct Spanned {
            age: busbar_event::Span,
        }
        let bad = serde_json::from_str::<Spanned>("{\"age\": \"5 parsec\"}").unwrap_err();
        let error = body(&bad);
        let span = Error::new(Class::Permanent, "event.span").with("text", "5 parsec");
        for language in Language::ALL {
            let said = error.message(language);
            assert!(said.contains(&span.message(language)), "{said}");
        }
    }

    #[test]
    fn a_query_names_its_parameter() {
        let start = "Failed to deserialize query string: ";
        let error = query(&format!(
            "{start}tpoic: unknown field `tpoic`, expected one of `topic`, `key`"
        ));
        assert_eq!(error.code(), "server.unknown-parameter");
        assert!(error.to_string().contains("topic, key"), "{error}");
        let error = query(&format!("{start}limit: invalid digit found in string"));
        assert_eq!(error.code(), "server.bad-field");
        assert!(error.to_string().contains("limit"), "{error}");
    }
}

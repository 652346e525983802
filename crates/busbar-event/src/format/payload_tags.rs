//! Tags that payloads carry: [`PayloadTags`].

use std::sync::Arc;

use arrow::array::{Array, AsArray, StringArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{Schema, SchemaRef};
use serde_json::Value;

use super::{Decoder, FieldSpec, FieldType, FormatSpec, JsonOptions};
use crate::envelope::Tags;
use crate::limits::{TAG_BYTES_MAX, TAGS_MAX};
use crate::{Batch, Body, Class, Error, Result, tags};

/// Reads tags from a place in JSON or XML payloads and adds them to those of the events.
///
/// A text, a number or a truth value there is the name of a tag; a list is one of such names, or of objects; the members of
/// an object are tags with values. An event's own tag goes before one of its payload with the same name.
#[derive(Debug)]
pub struct PayloadTags {
    decoder: Decoder,
    /// For events that hold columns: they are read as the JSON that they would be.
    typed: Decoder,
    path: String,
}

/// Events with the tags of their payloads.
#[derive(Debug)]
pub struct Tagged {
    /// The events, all of them.
    pub events: Batch,
    /// Those whose payload has something else in the tags' place, and why.
    pub rejected: Vec<(usize, Error)>,
}

/// What a path of tags begins with.
const PREFIX: &str = "payload.";

impl PayloadTags {
    /// Checks a path such as `payload.TAG`.
    ///
    /// # Errors
    /// `event.tags-path`, `event.tags-format`
    pub fn check(format: &FormatSpec, path: &str) -> Result<()> {
        let fits = path
            .strip_prefix(PREFIX)
            .is_some_and(|rest| !rest.is_empty() && !rest.split('.').any(str::is_empty));
        let code = match (fits, format) {
            (false, _) => "event.tags-path",
            (_, FormatSpec::Json(_) | FormatSpec::Xml(_)) => return Ok(()),
            _ => "event.tags-format",
        };
        Err(Error::new(Class::Configuration, code)
            .with("path", crate::quote(path))
            .with("format", format.name()))
    }

    /// For payloads in this format. `path` is where the tags are, such as `payload.TAG`.
    ///
    /// # Errors
    /// As of [`PayloadTags::check`].
    pub fn new(format: &FormatSpec, path: &str) -> Result<PayloadTags> {
        PayloadTags::check(format, path)?;
        let field = FieldSpec {
            path: path.strip_prefix(PREFIX).map(str::to_owned),
            ..FieldSpec::new("tags", FieldType::Json)
        };
        let schema: SchemaRef = Arc::new(Schema::new(vec![field.field()]));
        let json = FormatSpec::Json(JsonOptions::default());
        Ok(PayloadTags {
            decoder: Decoder::new(format, &schema, &[0])?,
            typed: Decoder::new(&json, &schema, &[0])?,
            path: path.to_owned(),
        })
    }

    /// Adds the tags of their payloads to events. Payloads that cannot be read have none: whoever reads their columns tells
    /// what is wrong with them.
    pub fn apply(&mut self, events: &Batch) -> Tagged {
        let payloads = events.payloads();
        let decoded = match events.body() {
            Body::Payload(_) => self.decoder.decode(&payloads),
            Body::Columns(_) => self.typed.decode(&payloads),
        };
        let found = decoded.columns.column(0).as_string::<i32>().clone();
        let mut rejected = Vec::new();
        let mut more: Vec<Vec<(String, String)>> = vec![Vec::new(); events.rows()];
        for at in (0..found.len()).filter(|at| found.is_valid(*at)) {
            let row = decoded
                .rows
                .as_ref()
                .map_or(at, |rows| rows.value(at) as usize);
            let text = found.value(at);
            let value = serde_json::from_str(text).unwrap_or(Value::Null);
            match read(&value) {
                Some(read) => more[row] = read,
                None => {
                    let error = Error::new(Class::Permanent, "event.tags-shape")
                        .with("path", &self.path)
                        .with("value", crate::quote(text))
                        .with("max", TAGS_MAX);
                    rejected.push((row, error));
                }
            }
        }
        let events = match more.iter().all(Vec::is_empty) {
            true => events.clone(),
            false => with_tags(events, &more, &self.path, &mut rejected),
        };
        rejected.sort_by_key(|(row, _)| *row);
        Tagged { events, rejected }
    }
}

/// The tags of a value, or none if it has another shape.
fn read(value: &Value) -> Option<Vec<(String, String)>> {
    let mut tags = Vec::new();
    let mut add = |name: String, value: String| {
        let fits = !name.is_empty()
            && name.len() <= TAG_BYTES_MAX
            && value.len() <= TAG_BYTES_MAX
            && tags.len() < TAGS_MAX;
        fits.then(|| tags.push((name, value)))
    };
    let list = match value {
        Value::Null => return Some(tags),
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    for item in list {
        match item {
            Value::Object(members) => {
                for (name, value) in members {
                    let value = match value {
                        Value::Null => String::new(),
                        one => plain(one)?,
                    };
                    add(name.clone(), value)?;
                }
            }
            name => add(plain(name)?, String::new())?,
        }
    }
    Some(tags)
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

/// The same events with more tags. Those that would have too many are rejected and keep their own.
fn with_tags(
    events: &Batch,
    more: &[Vec<(String, String)>],
    path: &str,
    rejected: &mut Vec<(usize, Error)>,
) -> Batch {
    let mut ends: Vec<i32> = vec![0];
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for (row, more) in more.iter().enumerate() {
        let own: Vec<(String, String)> = events
            .tags(row)
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let known = |name: &str| own.iter().any(|(own, _)| own == name);
        let mut added: Vec<(String, String)> = more
            .iter()
            .map(|(name, value)| (tags::escape(name).into_owned(), value.clone()))
            .filter(|(name, _)| !known(name))
            .collect();
        if own.len() + added.len() > TAGS_MAX {
            let error = Error::new(Class::Permanent, "event.tags-shape")
                .with("path", path)
                .with("value", own.len() + added.len())
                .with("max", TAGS_MAX);
            rejected.push((row, error));
            added.clear();
        }
        for (name, value) in own.into_iter().chain(added) {
            names.push(name);
            values.push(value);
        }
        ends.push(names.len() as i32);
    }
    events.with_tags(Tags {
        offsets: OffsetBuffer::new(ScalarBuffer::from(ends)),
        nulls: None,
        names: StringArray::from(names),
        values: StringArray::from(values),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::XmlOptions;
    use crate::{BatchBuilder, Flags, Row};

    fn batch(payloads: &[&str], own: &[(&str, &str)]) -> Batch {
        let mut builder = BatchBuilder::new();
        for payload in payloads {
            let topic = builder.topic_id("a/b/c");
            builder.push(Row {
                topic,
                key: None,
                time: 1,
                client: None,
                flags: Flags(0),
                tags: own,
                payload: payload.as_bytes(),
            });
        }
        builder.finish()
    }

    fn tags(tagged: &Tagged, row: usize) -> Vec<(String, String)> {
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        tagged.events.tags(row).map(own).collect()
    }

    #[test]
    fn every_shape_is_read() {
        let json = FormatSpec::Json(JsonOptions::default());
        let mut reader = PayloadTags::new(&json, "payload.head.TAG").unwrap();
        let own = [("site", "a")];
        for (value, expected) in [
            (r#""DB""#, vec![("DB", "")]),
            ("7", vec![("7", "")]),
            (
                r#"["DB",1,{"unit":"mm"}]"#,
                vec![("DB", ""), ("1", ""), ("unit", "mm")],
            ),
            (
                r#"{"n":1.5,"ok":true,"none":null,"site":"b"}"#,
                vec![("n", "1.5"), ("none", ""), ("ok", "true")],
            ),
            (r#"{"$reply-to":"x"}"#, vec![("$$reply-to", "x")]),
            ("null", vec![]),
            ("[]", vec![]),
        ] {
            let payload = format!(r#"{{"head":{{"TAG":{value}}}}}"#);
            let tagged = reader.apply(&batch(&[&payload, "no json", "{}"], &own));
            assert!(tagged.rejected.is_empty(), "{value}: {:?}", tagged.rejected);
            let mut all = vec![("site".to_owned(), "a".to_owned())];
            all.extend(
                expected
                    .into_iter()
                    .map(|(n, v)| (n.to_owned(), v.to_owned())),
            );
            assert_eq!(tags(&tagged, 0), all, "{value}");
            assert_eq!(tags(&tagged, 2).len(), 1);
        }
        let many: Vec<String> = (0..TAGS_MAX).map(|n| n.to_string()).collect();
        let many = format!("[{}]", many.join(","));
        for value in [r#"{"a":{"b":1}}"#, r#"{"a":[1]}"#, "[[1]]", r#""""#, &many] {
            let payload = format!(r#"{{"head":{{"TAG":{value}}}}}"#);
            let tagged = reader.apply(&batch(&["{}", &payload], &own));
            assert_eq!(tagged.rejected.len(), 1, "{value}");
            assert_eq!(tagged.rejected[0].0, 1);
            assert_eq!(tagged.rejected[0].1.code(), "event.tags-shape");
        }
    }

    #[test]
    fn tags_of_xml_are_elements() {
        let xml = FormatSpec::Xml(XmlOptions::default());
        let mut reader = PayloadTags::new(&xml, "payload.TAG").unwrap();
        let tagged = reader.apply(&batch(&["<r><TAG>DB</TAG><TAG unit='mm'/></r>"], &[]));
        let expected = [("DB", ""), ("@unit", "mm")];
        let expected = expected.map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(tags(&tagged, 0), expected);
    }

    #[test]
    fn a_path_that_leads_nowhere_is_refused() {
        let json = FormatSpec::Json(JsonOptions::default());
        for (format, path, code) in [
            (&json, "TAG", "event.tags-path"),
            (&json, "payload.", "event.tags-path"),
            (&json, "payload.a..b", "event.tags-path"),
            (&FormatSpec::Raw, "payload.TAG", "event.tags-format"),
        ] {
            assert_eq!(PayloadTags::new(format, path).unwrap_err().code(), code);
        }
    }
}

//! Values within payloads: `PID.3.1=10023` in a message of HL7, `patient.id=7` in JSON.

use std::collections::BTreeSet;

use arrow::array::{Array as _, AsArray as _, UInt32Array};
use arrow::compute::take;
use busbar_event::format::{Decoder, FieldSpec, FieldType, FormatSpec, SchemaSpec, json_unquote};
use busbar_event::{Batch, Class, Error, quote};
use serde_json::value::RawValue;

use crate::limits::CONDITION_BYTES_MAX;

/// A value that payloads must have at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldWanted {
    pub(crate) path: String,
    value: String,
}

/// Finds the payloads of one format that have the value.
pub(crate) struct FieldFinder {
    /// Reads what is at the path, as JSON.
    decoder: Decoder,
    value: String,
}

impl FieldWanted {
    /// Reads `PATH=VALUE`. The path may have `=` in it where that stands within brackets or parentheses, as those of FHIR do.
    ///
    /// # Errors
    /// `server.bad-search-field`; `server.condition-too-long`.
    pub(crate) fn parse(text: &str) -> Result<FieldWanted, Error> {
        if text.len() > CONDITION_BYTES_MAX {
            return Err(Error::new(Class::Permanent, "server.condition-too-long")
                .with("name", "field")
                .with("max", CONDITION_BYTES_MAX));
        }
        let mut depth = 0_usize;
        let equals = text.char_indices().find_map(|(at, letter)| {
            match letter {
                '(' | '[' => depth += 1,
                ')' | ']' => depth = depth.saturating_sub(1),
                '=' if depth == 0 => return Some(at),
                _ => {}
            }
            None
        });
        match equals.map(|at| (text[..at].trim(), &text[at + 1..])) {
            Some((path, value)) if !path.is_empty() => Ok(FieldWanted {
                path: path.to_owned(),
                value: value.to_owned(),
            }),
            _ => {
                Err(Error::new(Class::Permanent, "server.bad-search-field")
                    .with("field", quote(text)))
            }
        }
    }

    /// For payloads of a format.
    ///
    /// # Errors
    /// *Configuration*: the format has no such paths.
    pub(crate) fn finder(&self, format: &FormatSpec) -> Result<FieldFinder, Error> {
        if *format == FormatSpec::Raw {
            return Err(Error::new(Class::Configuration, "server.search-raw"));
        }
        let field = FieldSpec {
            path: Some(self.path.clone()),
            ..FieldSpec::new("value", FieldType::Json)
        };
        let schema = SchemaSpec(vec![field]).schema()?;
        Ok(FieldFinder {
            decoder: Decoder::new(format, &schema, &[0])?,
            value: self.value.clone(),
        })
    }
}

impl FieldFinder {
    /// Removes the rows whose payloads do not have the value. Payloads that cannot be read have none.
    pub(crate) fn retain(&mut self, batch: &Batch, rows: &mut Vec<u32>) {
        if rows.is_empty() {
            return;
        }
        let payloads = batch.payloads();
        let Ok(picked) = take(&*payloads, &UInt32Array::from(rows.clone()), None) else {
            rows.clear();
            return;
        };
        let decoded = self.decoder.decode(picked.as_binary::<i32>());
        let texts = decoded.columns.column(0);
        let Some(texts) = texts.as_string_opt::<i32>() else {
            rows.clear();
            return;
        };
        let place = |at: usize| match &decoded.rows {
            Some(read) => read.value(at) as usize,
            None => at,
        };
        let found = (0..texts.len())
            .filter(|at| texts.is_valid(*at) && says(texts.value(*at), &self.value));
        let found: BTreeSet<usize> = found.map(place).collect();
        let mut at = 0;
        rows.retain(|_| {
            at += 1;
            found.contains(&(at - 1))
        });
    }
}

/// Whether JSON is this text, number or truth value, or a list with it: repetitions of a field of HL7 are such a list.
fn says(json: &str, wanted: &str) -> bool {
    let json = json.trim();
    if let Some(text) = json_unquote(json) {
        return text == wanted;
    }
    if json.starts_with('[') {
        let all = serde_json::from_str::<Vec<&RawValue>>(json);
        return all.is_ok_and(|all| all.iter().any(|one| says(one.get(), wanted)));
    }
    json == wanted && !json.starts_with('{')
}

#[cfg(test)]
mod tests {
    use busbar_event::format::{Hl7Options, JsonOptions};
    use busbar_event::{BatchBuilder, Flags, Row};

    use super::*;

    fn found(format: &FormatSpec, field: &str, payloads: &[&str]) -> Vec<u32> {
        let mut builder = BatchBuilder::new();
        let topic = builder.topic_id("t");
        for payload in payloads {
            builder.push(Row {
                topic,
                key: None,
                time: 0,
                client: None,
                flags: Flags::default(),
                tags: &[],
                payload: payload.as_bytes(),
            });
        }
        let wanted = FieldWanted::parse(field).unwrap();
        let mut rows: Vec<u32> = (0..payloads.len() as u32).collect();
        wanted
            .finder(format)
            .unwrap()
            .retain(&builder.finish(), &mut rows);
        rows
    }

    #[test]
    fn a_value_is_found_by_its_path() {
        let hl7 = FormatSpec::Hl7(Hl7Options::default());
        let messages = [
            "MSH|^~\\&|A||||||ADT^A01|M1|P|2.5\rPID|1||7^^^H~10023^^^N\r",
            "no message",
            "MSH|^~\\&|A||||||ADT^A01|M2|P|2.5\rPID|1||10023\rOBX|1||A\rOBX|2||B\r",
            "MSH|^~\\&|A||||||ADT^A01|10023|P|2.5\rPID|1||100\r",
        ];
        for (field, rows) in [
            ("PID.3.1=10023", &[0, 2][..]),
            ("PID.3.1=7", &[0]),
            ("PID.3[2].1=10023", &[0]),
            ("MSH.10=10023", &[3]),
            ("OBX.3=B", &[2]),
            ("PID.3.1=1002", &[]),
            ("ZZZ.1=", &[]),
        ] {
            assert_eq!(found(&hl7, field, &messages), rows, "{field}");
        }
        let json = FormatSpec::Json(JsonOptions::default());
        let objects = [
            r#"{"a":{"b":7},"s":"x\"y"}"#,
            r#"{"a":{"b":"7"}}"#,
            r#"{"a":{"b":[1,7.0,"q"]}}"#,
            r#"{"a":{"b":{"c":7}}}"#,
            "{",
        ];
        for (field, rows) in [
            ("a.b=7", &[0, 1][..]),
            ("a.b=7.0", &[2]),
            ("a.b=q", &[2]),
            ("s=x\"y", &[0]),
            ("a.b={\"c\":7}", &[]),
        ] {
            assert_eq!(found(&json, field, &objects), rows, "{field}");
        }
    }

    #[test]
    fn what_is_no_path_and_value_is_refused() {
        for wrong in ["", "a", "=7", " =7", "a(b=c)", "a[b=c"] {
            let refused = FieldWanted::parse(wrong).unwrap_err();
            assert_eq!(refused.code(), "server.bad-search-field", "{wrong}");
        }
        let long = "x".repeat(CONDITION_BYTES_MAX + 1);
        let refused = FieldWanted::parse(&long).unwrap_err();
        assert_eq!(refused.code(), "server.condition-too-long");
        let fhir = FieldWanted::parse("identifier(system=urn:his).value=7=8").unwrap();
        assert_eq!(fhir.path, "identifier(system=urn:his).value");
        assert_eq!(fhir.value, "7=8");
        let hl7 = FormatSpec::Hl7(Hl7Options::default());
        let path = FieldWanted::parse("patient=1").unwrap();
        assert_eq!(path.finder(&hl7).err().unwrap().code(), "event.hl7-path");
        assert!(path.finder(&FormatSpec::Raw).is_err());
    }
}

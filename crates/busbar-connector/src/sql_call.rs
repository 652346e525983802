//! `call` of a statement: its rows as the answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, StructArray};
use busbar_catalog::{CallRows, CallSpec};
use busbar_event::format::{FieldType, encode_json};
use busbar_event::{Class, Error};
use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::Work;
use crate::database::{AskedDatabase, ColumnType};
use crate::limits::{CALL_BYTES_MAX, CALL_ROWS_MAX};
use crate::service::{
    CallEscapes, CallFault, CallForm, CallParts, Escape, Service, ServiceAnswer, ServiceRequest,
};

/// What goes to a database and what comes back.
pub struct SqlForm {
    rows: CallRows,
    /// The columns that are read from the answer, as the database names them.
    declared: Vec<(String, ColumnType)>,
    /// Those of them that are JSON.
    documents: Vec<String>,
}

impl SqlForm {
    /// Checks a step that asks a database.
    ///
    /// # Errors
    /// What is wrong with the step.
    pub fn new(call: &CallSpec) -> Result<SqlForm, CallFault> {
        let fault = |key, code| CallFault::at(key, Error::new(Class::Configuration, code));
        if call
            .statement
            .as_ref()
            .is_none_or(|text| text.trim().is_empty())
        {
            return Err(fault("statement", "flow.call-statement"));
        }
        let others = [
            ("method", call.method.is_some()),
            ("path", call.path.is_some()),
            ("action", call.action.is_some()),
            ("headers", !call.headers.is_empty()),
            ("send", call.send.is_some()),
            ("body", call.body.is_some()),
        ];
        if let Some((key, _)) = others.into_iter().find(|(_, given)| *given) {
            let error = Error::new(Class::Configuration, "flow.call-statement-only");
            return Err(CallFault::at(key, error.with("key", key)));
        }
        let columns = call
            .answer
            .schema()
            .map_err(|error| CallFault::at("answer", error))?;
        let documents = call.answer.0.iter();
        let documents = documents.filter(|spec| spec.field_type == FieldType::Json);
        let documents = documents.map(|spec| spec.path.as_ref().unwrap_or(&spec.name).clone());
        let documents = documents.collect();
        let columns = columns.fields().iter().zip(&call.answer.0);
        let declared = columns.filter_map(|(field, spec)| {
            let name = spec.path.as_ref().unwrap_or(&spec.name);
            Some((name.clone(), ColumnType::of(field)?))
        });
        Ok(SqlForm {
            rows: call.rows.unwrap_or_default(),
            declared: declared.collect(),
            documents,
        })
    }

    /// A row with objects and lists in the place of texts that hold them: databases give JSON as text. All other values stay as
    /// they are, digit by digit.
    fn with_documents(&self, row: &str) -> Result<String, serde_json::Error> {
        let mut row: BTreeMap<String, Box<RawValue>> = serde_json::from_str(row)?;
        for name in &self.documents {
            let Some(value) = row.get_mut(name) else {
                continue;
            };
            let Ok(text) = serde_json::from_str::<String>(value.get()) else {
                continue;
            };
            if text.trim_start().starts_with(['{', '['])
                && let Ok(document) = RawValue::from_string(text)
            {
                *value = document;
            }
        }
        serde_json::to_string(&row)
    }
}

impl CallForm for SqlForm {
    fn escapes(&self) -> CallEscapes {
        CallEscapes {
            path: Escape::Plain,
            body: Escape::Plain,
        }
    }

    fn request(&self, parts: CallParts) -> Result<ServiceRequest, Error> {
        let mut statement = parts
            .statement
            .ok_or_else(|| Error::new(Class::Configuration, "flow.call-statement"))?;
        statement.declared.clone_from(&self.declared);
        let mut values = Vec::new();
        let text = statement.written(|value, _| {
            values.push(value.json());
            "?".to_owned()
        });
        Ok(ServiceRequest {
            path: text,
            body: Json::Array(values).to_string().into(),
            statement: Some(Box::new(statement)),
            ..ServiceRequest::default()
        })
    }

    fn answer(&self, answer: ServiceAnswer) -> Result<Bytes, Error> {
        let wrong = |code| Error::new(Class::Permanent, code);
        let unreadable = |cause| wrong("flow.call-answer").caused_by(cause);
        let body: &RawValue = serde_json::from_slice(&answer.body).map_err(unreadable)?;
        if !body.get().starts_with('[') {
            // Not rows, but how many were changed.
            return Ok(answer.body);
        }
        let rows: Vec<&RawValue> = serde_json::from_str(body.get()).map_err(unreadable)?;
        match self.rows {
            CallRows::Many => Ok(format!("{{\"rows\":{body}}}").into()),
            CallRows::One if rows.len() > 1 => {
                Err(wrong("flow.call-many-rows").with("rows", rows.len()))
            }
            CallRows::One => match rows.first() {
                Some(row) => Ok(self.with_documents(row.get()).map_err(unreadable)?.into()),
                None => Ok(Bytes::from_static(b"{}")),
            },
        }
    }
}

/// Sends statements to a database.
pub struct SqlService {
    open: Arc<AskedDatabase>,
}

impl SqlService {
    /// Over the sessions of a connection.
    pub fn new(open: Arc<AskedDatabase>) -> SqlService {
        SqlService { open }
    }
}

impl Service for SqlService {
    fn exchange<'a>(
        &'a self,
        request: &'a ServiceRequest,
    ) -> Work<'a, Result<ServiceAnswer, Error>> {
        Box::pin(async move {
            let statement = request
                .statement
                .clone()
                .ok_or_else(|| Error::new(Class::Configuration, "flow.call-statement"))?;
            let open = Arc::clone(&self.open);
            let body = self.open.work(async move {
                let database = open.database().await?;
                let mut rows = database.run(&statement).await?;
                let (mut body, mut count) = (vec![b'['], 0);
                while let Some(batch) = rows.next().await? {
                    count += batch.num_rows();
                    add_objects(&batch, &mut body);
                    if count > CALL_ROWS_MAX || body.len() > CALL_BYTES_MAX {
                        return Err(Error::new(Class::Permanent, "database.call-large")
                            .with("rows", CALL_ROWS_MAX)
                            .with("bytes", CALL_BYTES_MAX));
                    }
                }
                if let Some(affected) = rows.affected() {
                    return Ok(serde_json::json!({ "affected": affected })
                        .to_string()
                        .into_bytes());
                }
                body.push(b']');
                Ok(body)
            });
            Ok(ServiceAnswer {
                status: 200,
                headers: HeaderMap::new(),
                body: body.await?.into(),
            })
        })
    }
}

/// Appends rows as JSON objects with commas between them.
fn add_objects(batch: &RecordBatch, out: &mut Vec<u8>) {
    let objects = match batch.num_columns() {
        0 => encode_json(&StructArray::new_empty_fields(batch.num_rows(), None)),
        _ => encode_json(&StructArray::from(batch.clone())),
    };
    for row in 0..objects.len() {
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(objects.value(row));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{SqlPart, SqlStatement, SqlValue};

    fn form(more: &str) -> Result<SqlForm, CallFault> {
        let step = format!("{{\"connection\": \"pg\"{more}}}");
        SqlForm::new(&serde_json::from_str(&step).unwrap())
    }

    fn answer(form: &SqlForm, body: &'static str) -> Result<String, Error> {
        let answer = ServiceAnswer {
            body: Bytes::from_static(body.as_bytes()),
            ..ServiceAnswer::default()
        };
        form.answer(answer)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    #[test]
    fn a_step_says_a_statement_and_nothing_of_other_services() {
        assert!(form(", \"statement\": \"select 1\"").is_ok());
        for (more, key, code) in [
            ("", "statement", "flow.call-statement"),
            (", \"statement\": \" \"", "statement", "flow.call-statement"),
            (
                ", \"statement\": \"x\", \"path\": \"/\"",
                "path",
                "flow.call-statement-only",
            ),
            (
                ", \"statement\": \"x\", \"send\": \"a\"",
                "send",
                "flow.call-statement-only",
            ),
        ] {
            let fault = form(more).err().expect(more);
            assert_eq!(fault.path, [key.into()]);
            assert_eq!(fault.error.code(), code);
        }
    }

    #[test]
    fn rows_are_none_one_or_many() {
        let one = form(", \"statement\": \"x\"").unwrap();
        assert_eq!(answer(&one, "[]").unwrap(), "{}");
        assert_eq!(answer(&one, r#"[{"a":1}]"#).unwrap(), r#"{"a":1}"#);
        assert_eq!(
            answer(&one, r#"{"affected":3}"#).unwrap(),
            r#"{"affected":3}"#
        );
        let refused = answer(&one, r#"[{"a":1},{"a":2}]"#).unwrap_err();
        assert_eq!(
            (refused.code(), refused.class()),
            ("flow.call-many-rows", Class::Permanent)
        );
        let many = form(", \"statement\": \"x\", \"rows\": \"many\"").unwrap();
        assert_eq!(answer(&many, "[]").unwrap(), r#"{"rows":[]}"#);
        assert_eq!(
            answer(&many, r#"[{"a":1},{"a":2}]"#).unwrap(),
            r#"{"rows":[{"a":1},{"a":2}]}"#
        );
    }

    #[test]
    fn a_column_that_is_json_takes_the_document_in_a_text() {
        let documents =
            form(", \"statement\": \"x\", \"answer\": {\"a\": \"json\", \"b\": \"text\"}");
        let documents = documents.unwrap();
        for (given, read) in [
            (r#"[{"a":"[{\"n\": 1.10}]"}]"#, r#"{"a":[{"n": 1.10}]}"#),
            (r#"[{"a":{"n":1},"b":"{}"}]"#, r#"{"a":{"n":1},"b":"{}"}"#),
            // What is no object and no list stays the text that it is.
            (r#"[{"a":"12"}]"#, r#"{"a":"12"}"#),
            (r#"[{"a":"[1"}]"#, r#"{"a":"[1"}"#),
            (r#"[{"a":null}]"#, r#"{"a":null}"#),
        ] {
            assert_eq!(answer(&documents, given).unwrap(), read);
        }
    }

    #[test]
    fn a_request_shows_the_statement_and_its_values() {
        let one = form(", \"statement\": \"x\"").unwrap();
        let statement = SqlStatement {
            parts: vec![
                SqlPart::Text("select a from t where id = ".into()),
                SqlPart::Value(SqlValue::Int(7), None),
            ],
            ..SqlStatement::default()
        };
        let parts = CallParts {
            statement: Some(statement),
            ..CallParts::default()
        };
        let request = one.request(parts).unwrap();
        assert_eq!(
            (request.path.as_str(), &request.body[..]),
            ("select a from t where id = ?", &b"[7]"[..])
        );
    }
}

//! A call as it is compiled: what makes a request of each row, and what reads an answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{BinaryArray, RecordBatch, StructArray};
use arrow::datatypes::{Fields, Schema, SchemaRef};
use busbar_catalog::CallSpec;
use busbar_connector::{
    CallFault, CallForm, CallParts, Escape, ServiceRequest, SqlForm, SqlStatement,
};
use busbar_event::format::{Decoder, FormatSpec, encode_json};
use busbar_event::{Class, Error};
use busbar_sql::{Failed, Projection};
use bytes::Bytes;

use super::text::{CallText, FilledText};
use crate::operator::Wrong;
use crate::operator::rows::misfit;
use crate::reader::plain;
use crate::services::{KnownService, ServiceLine};

/// A compiled call.
pub(crate) struct CallMaker {
    line: Option<Arc<ServiceLine>>,
    connection: Arc<str>,
    pub form: Arc<dyn CallForm>,
    path: CallText,
    headers: Vec<(String, CallText)>,
    body: CallBody,
    statement: Option<CallText>,
    /// The columns of an answer as the form gives it.
    pub answer: SchemaRef,
    /// The same as the file declares them.
    pub declared: SchemaRef,
}

/// Where the body of a request comes from.
enum CallBody {
    None,
    Columns(Projection),
    Text(CallText),
}

/// A call with the values of a batch.
pub(crate) struct FilledCall<'a> {
    form: &'a dyn CallForm,
    path: FilledText<'a>,
    headers: Vec<(&'a String, FilledText<'a>)>,
    objects: Option<BinaryArray>,
    texts: Option<FilledText<'a>>,
    statements: Option<Vec<SqlStatement>>,
}

impl CallMaker {
    /// Looks the connection up, and checks the call against it.
    ///
    /// # Errors
    /// What is wrong, and where below `call`.
    pub fn compile(
        spec: &CallSpec,
        schema: &SchemaRef,
        services: &BTreeMap<String, KnownService>,
    ) -> Result<CallMaker, Wrong> {
        let name = &spec.connection;
        let Some(known) = services.get(name) else {
            let error = Error::new(Class::Configuration, "catalog.unknown-connection");
            return Err(Wrong {
                help: busbar_catalog::suggest(name, services.keys().map(String::as_str)),
                ..Wrong::new(error.with("name", name)).at("connection")
            });
        };
        let no_statement = |key: &'static str| {
            let error = Error::new(Class::Configuration, "flow.call-no-statement");
            Err(Wrong::new(error).at(key))
        };
        let form = match known.connector.is_database() {
            true => SqlForm::new(spec).map(|form| Arc::new(form) as Arc<dyn CallForm>),
            false if spec.statement.is_some() => return no_statement("statement"),
            false if spec.rows.is_some() => return no_statement("rows"),
            false => known.connector.call_form(&known.spec, spec),
        };
        let form = form.map_err(of_form)?;
        let escapes = form.escapes();
        if spec.send.is_some() && spec.body.is_some() {
            let error = Error::new(Class::Configuration, "flow.call-send-or-body");
            return Err(Wrong::new(error).at("body"));
        }
        let text = |text: &str, escape: Escape| CallText::compile(schema, text, escape);
        let path = spec.path.as_deref().unwrap_or_default();
        let path = text(path, escapes.path).map_err(|wrong| wrong.at("path"))?;
        let mut headers = Vec::new();
        for (header, value) in &spec.headers {
            let value = text(value, Escape::Plain).map_err(|wrong| Wrong {
                path: vec!["headers".into()],
                ..wrong
            })?;
            headers.push((header.clone(), value));
        }
        let statement = spec.statement.as_deref();
        let statement = statement.map(|statement| text(statement, Escape::Plain));
        let statement = statement
            .transpose()
            .map_err(|wrong| wrong.at("statement"))?;
        let body = match (&spec.send, &spec.body) {
            (Some(columns), _) => {
                let columns = Projection::compile(schema, columns);
                CallBody::Columns(columns.map_err(|bad| Wrong::from(bad).at("send"))?)
            }
            (None, Some(body)) => {
                CallBody::Text(text(body, escapes.body).map_err(|wrong| wrong.at("body"))?)
            }
            (None, None) => CallBody::None,
        };
        if spec.body.is_none() && !known.connector.is_database() {
            let sent = match &body {
                CallBody::Columns(columns) => columns.schema(),
                _ => Arc::new(Schema::empty()),
            };
            form.check_sent(&sent).map_err(of_form)?;
        }
        let wrong = |error| Wrong::new(error).at("answer");
        let columns = spec.columns();
        if !spec.fault.0.is_empty() {
            let refused = |code| Wrong::new(Error::new(Class::Configuration, code));
            if !form.reads_faults() {
                return Err(refused("flow.call-no-faults").at("fault"));
            }
            if columns.0.iter().any(|column| column.required) {
                return Err(refused("flow.call-fault-required").at("fault"));
            }
        }
        Ok(CallMaker {
            declared: columns.schema().map_err(wrong)?,
            answer: form.columns(&columns).schema().map_err(wrong)?,
            line: known.line.clone(),
            connection: name.as_str().into(),
            form,
            path,
            headers,
            body,
            statement,
        })
    }

    /// The way to the service.
    ///
    /// # Errors
    /// *Configuration*, where a project is only checked.
    pub fn line(&self) -> Result<&Arc<ServiceLine>, Error> {
        self.line.as_ref().ok_or_else(|| {
            let error = Error::new(Class::Configuration, "flow.no-connection");
            error.with("connection", &self.connection)
        })
    }

    /// What reads answers; none where nothing of them is read.
    ///
    /// # Errors
    /// Columns that JSON cannot be read into.
    pub fn decoder(&self) -> Result<Option<Decoder>, Error> {
        let all: Vec<usize> = (0..self.answer.fields().len()).collect();
        let json = FormatSpec::Json(Default::default());
        match all.is_empty() {
            true => Ok(None),
            false => Decoder::new(&json, &self.answer, &all).map(Some),
        }
    }

    /// The same call for batches of another schema that has its columns.
    pub fn bind(&self, schema: &SchemaRef) -> Result<CallMaker, Error> {
        let headers = self.headers.iter();
        let headers = headers.map(|(name, value)| Ok((name.clone(), value.bind(schema)?)));
        Ok(CallMaker {
            line: self.line.clone(),
            connection: Arc::clone(&self.connection),
            form: Arc::clone(&self.form),
            path: self.path.bind(schema)?,
            headers: headers.collect::<Result<_, Error>>()?,
            body: match &self.body {
                CallBody::None => CallBody::None,
                CallBody::Columns(columns) => CallBody::Columns(columns.bind(schema)?),
                CallBody::Text(text) => CallBody::Text(text.bind(schema)?),
            },
            statement: match &self.statement {
                None => None,
                Some(text) => Some(text.bind(schema)?),
            },
            answer: Arc::clone(&self.answer),
            declared: Arc::clone(&self.declared),
        })
    }

    /// Indexes in the schema of the columns that requests are made of, sorted.
    pub fn columns(&self) -> Vec<usize> {
        let texts = self
            .headers
            .iter()
            .map(|(_, text)| text)
            .chain([&self.path])
            .chain(&self.statement);
        let mut columns: Vec<usize> = texts.flat_map(CallText::columns).collect();
        match &self.body {
            CallBody::None => {}
            CallBody::Columns(own) => columns.extend(own.columns()),
            CallBody::Text(text) => columns.extend(text.columns()),
        }
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// Computes the values of a batch.
    ///
    /// # Errors
    /// Expressions that fail for a row.
    pub fn fill<'a>(&'a self, batch: &RecordBatch) -> Result<FilledCall<'a>, Error> {
        let headers = self.headers.iter();
        let headers = headers.map(|(name, value)| Ok((name, value.fill(batch)?)));
        let (mut objects, mut texts) = (None, None);
        match &self.body {
            CallBody::None => {}
            CallBody::Columns(columns) => objects = Some(json_objects(&columns.evaluate(batch)?)?),
            CallBody::Text(text) => texts = Some(text.fill(batch)?),
        }
        Ok(FilledCall {
            form: &*self.form,
            path: self.path.fill(batch)?,
            headers: headers.collect::<Result<_, Error>>()?,
            objects,
            texts,
            statements: match &self.statement {
                None => None,
                Some(text) => Some(text.statements(batch)?),
            },
        })
    }

    /// The rows for which values cannot be computed.
    pub fn failing(&self, batch: &RecordBatch) -> Vec<Failed> {
        let texts = self
            .headers
            .iter()
            .map(|(_, text)| text)
            .chain([&self.path])
            .chain(&self.statement);
        let mut failing: Vec<Failed> = texts.flat_map(|text| text.failing(batch)).collect();
        failing.extend(match &self.body {
            CallBody::None => Vec::new(),
            CallBody::Columns(columns) => columns.failing(batch),
            CallBody::Text(text) => text.failing(batch),
        });
        failing.sort_by_key(|failed| failed.row);
        failing.dedup_by_key(|failed| failed.row);
        failing
    }
}

impl FilledCall<'_> {
    /// The request of a row.
    ///
    /// # Errors
    /// *Permanent*, for values that make none.
    pub fn request(&self, row: usize) -> Result<ServiceRequest, Error> {
        let header =
            |(name, value): &(&String, FilledText<'_>)| Ok(((*name).clone(), value.row(row)?));
        let body = match (&self.objects, &self.texts) {
            (Some(objects), _) => Some(Bytes::copy_from_slice(objects.value(row))),
            (None, Some(texts)) => Some(texts.row(row)?.into()),
            (None, None) => None,
        };
        self.form.request(CallParts {
            path: self.path.row(row)?,
            headers: self
                .headers
                .iter()
                .map(header)
                .collect::<Result<_, Error>>()?,
            body,
            statement: self.statements.as_ref().map(|all| all[row].clone()),
        })
    }
}

fn of_form(fault: CallFault) -> Wrong {
    Wrong {
        path: fault.path,
        span: fault.span,
        error: fault.error,
        help: fault.help,
    }
}

/// Each row as a JSON object.
pub(crate) fn json_objects(batch: &RecordBatch) -> Result<BinaryArray, Error> {
    let arrays = batch.columns().iter().map(plain);
    let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
    let fields = batch.schema_ref().fields().iter().zip(&arrays);
    let fields: Fields = fields
        .map(|(field, array)| {
            field
                .as_ref()
                .clone()
                .with_data_type(array.data_type().clone())
        })
        .collect();
    let columns = match arrays.is_empty() {
        true => StructArray::new_empty_fields(batch.num_rows(), None),
        false => StructArray::try_new(fields, arrays, None).map_err(misfit)?,
    };
    Ok(encode_json(&columns))
}

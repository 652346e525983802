//! `xslt` and `validate`: a plug-in that is a style sheet or an XML Schema works on the payload or on a column.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{cast, take, take_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use busbar_catalog::{ValidateSpec, XsltSpec};
use busbar_event::{Class, Error};
use busbar_plugin::{INVALID_TAG, Plugin, PluginLanguage, Worked};
use futures::future::{BoxFuture, FutureExt};

use super::rows::misfit;
use super::script::{GivenRows, known, payloads, running};
use super::{Operator, Output, Rows, Step, StepContext, Wrong, column_place, script};
use crate::reader::{ENVELOPE, is_envelope, plain};

/// Checks the columns of `xslt`.
pub(super) fn xslt(spec: &XsltSpec, context: &StepContext<'_>) -> Result<Arc<dyn Step>, Wrong> {
    let language = PluginLanguage::Xslt;
    if spec.column.is_none() && spec.result.is_none() {
        check_language(&spec.plugin, language, context)?;
        return script::compile(&spec.plugin, context).map_err(|wrong| wrong.at("plugin"));
    }
    let result = match &spec.result {
        Some(result) => Some(("as", result.clone())),
        None => spec.column.clone().map(|column| ("column", column)),
    };
    compile(
        &spec.plugin,
        language,
        spec.column.as_deref(),
        result,
        context,
    )
}

/// Checks the columns of `validate`.
pub(super) fn validate(
    spec: &ValidateSpec,
    context: &StepContext<'_>,
) -> Result<Arc<dyn Step>, Wrong> {
    let flag = spec.flag.clone().map(|flag| ("flag", flag));
    let language = PluginLanguage::Xsd;
    compile(
        &spec.plugin,
        language,
        spec.column.as_deref(),
        flag,
        context,
    )
}

fn check_language(
    name: &str,
    language: PluginLanguage,
    context: &StepContext<'_>,
) -> Result<(), Wrong> {
    let known = known(name, context).map_err(|wrong| wrong.at("plugin"))?;
    if known.package.spec.language == language {
        return Ok(());
    }
    let error = Error::new(Class::Configuration, "flow.xml-plugin-language")
        .with("plugin", name)
        .with("language", language.as_str());
    Err(Wrong::new(error).at("plugin"))
}

/// `result` is the key in the file and the name of the column that is made.
fn compile(
    name: &str,
    language: PluginLanguage,
    column: Option<&str>,
    result: Option<(&'static str, String)>,
    context: &StepContext<'_>,
) -> Result<Arc<dyn Step>, Wrong> {
    check_language(name, language, context)?;
    let known = known(name, context)?;
    let schema = context.schema;
    let fault = |key: &'static str, code, column: &str| {
        let error = Error::new(Class::Configuration, code).with("column", column);
        Wrong::new(error).at(key)
    };
    let source = match column {
        None => None,
        Some(column) => {
            let place = column_place(schema, column).map_err(|wrong| wrong.at("column"))?;
            let field = schema.field(place);
            let is_text = match field.data_type() {
                DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => true,
                DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
                DataType::Dictionary(_, values) => **values == DataType::Utf8,
                _ => false,
            };
            if !is_text {
                return Err(fault("column", "flow.xml-plugin-column", column));
            }
            Some(field.name().clone())
        }
    };
    let mut made = None;
    if let Some((key, name)) = result {
        if name.is_empty() || ENVELOPE.contains(&name.as_str()) {
            return Err(fault(key, "flow.xml-as", &name));
        }
        let others = schema.fields().iter().filter(|field| *field.name() != name);
        let mut fields: Vec<FieldRef> = others.cloned().collect();
        fields.push(Arc::new(Field::new(name, DataType::Utf8, true)));
        let metadata = schema.metadata().clone();
        made = Some(Arc::new(Schema::new_with_metadata(fields, metadata)));
    }
    Ok(Arc::new(XmlPluginStep {
        name: name.to_owned(),
        plugin: known.running.clone(),
        failed: known.failed.clone(),
        validates: language == PluginLanguage::Xsd,
        reads_payloads: source.is_none() && context.has_payloads,
        has_payloads: context.has_payloads,
        source,
        made,
        input: Arc::clone(schema),
    }))
}

struct XmlPluginStep {
    name: String,
    plugin: Option<Arc<Plugin>>,
    failed: Option<Error>,
    validates: bool,
    /// The column of the documents; none: the payload.
    source: Option<String>,
    /// The columns that come out, if there is one that is made: it is the last of them.
    made: Option<SchemaRef>,
    reads_payloads: bool,
    has_payloads: bool,
    input: SchemaRef,
}

impl Step for XmlPluginStep {
    fn schema(&self) -> Option<SchemaRef> {
        self.made.clone()
    }

    fn columns(&self) -> Vec<usize> {
        let fields = self.input.fields().iter().enumerate();
        let read = fields.filter(|(_, field)| {
            // All go on beside the one that is made; those of the envelope are parameters.
            self.made.is_some()
                || is_envelope(field.name(), field.data_type())
                || self.source.as_ref() == Some(field.name())
                // The payload is made of them.
                || (self.source.is_none() && !self.has_payloads)
        });
        read.map(|(place, _)| place).collect()
    }

    fn payloads(&self) -> bool {
        self.reads_payloads
    }

    fn computes_once(&self) -> bool {
        true
    }

    fn operator(&self, _schema: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        Ok(Box::new(XmlPlugin {
            plugin: running(&self.name, self.plugin.as_ref(), self.failed.as_ref())?,
            validates: self.validates,
            source: self.source.clone(),
            made: self.made.clone(),
            is_on_trial: false,
        }))
    }
}

struct XmlPlugin {
    plugin: Arc<Plugin>,
    validates: bool,
    source: Option<String>,
    made: Option<SchemaRef>,
    is_on_trial: bool,
}

/// What came of a row's document.
enum DocumentMade {
    /// It fits, or there is none.
    Nothing,
    /// The result of the style sheet, or what is wrong with the document.
    Text(String),
    Dead(Error),
}

impl Operator for XmlPlugin {
    fn on_trial(&mut self) {
        self.is_on_trial = true;
    }

    fn process<'a>(
        &'a mut self,
        rows: Rows,
        out: &'a mut Output,
    ) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            if rows.len() == 0 {
                return Ok(());
            }
            let documents = self.documents(&rows.batch)?;
            let present: Vec<u32> = (0..rows.len() as u32)
                .filter(|row| documents.is_valid(*row as usize))
                .collect();
            let mut made: Vec<DocumentMade> = Vec::new();
            made.resize_with(rows.len(), || DocumentMade::Nothing);
            if !present.is_empty() {
                let present: UInt32Array = present.into();
                let batch = take_record_batch(&rows.batch, &present).map_err(misfit)?;
                let documents = take(&documents, &present, None).map_err(misfit)?;
                let given = GivenRows::new(&batch, documents.as_binary::<i32>().clone())?;
                let (pending, places) = given.give(&self.plugin, self.is_on_trial);
                for (pending, places) in pending.into_iter().zip(places) {
                    let worked = pending.worked().await?;
                    let row = |event: usize| present.value(places[event]) as usize;
                    self.take(&worked, row, &mut made);
                }
            }
            self.gather(&rows, made, out)
        }
        .boxed()
    }
}

impl XmlPlugin {
    fn documents(&self, batch: &RecordBatch) -> Result<BinaryArray, Error> {
        let Some(source) = &self.source else {
            return payloads(batch);
        };
        let place = batch.schema_ref().index_of(source).map_err(misfit)?;
        let column = plain(batch.column(place))?;
        let column = cast(&column, &DataType::Binary).map_err(misfit)?;
        Ok(column.as_binary::<i32>().clone())
    }

    /// Takes down what a worker has answered; `row` is the row of an event that it was given.
    fn take(&self, worked: &Worked, row: impl Fn(usize) -> usize, made: &mut [DocumentMade]) {
        let wrong = |message: &str, error: Error| match (self.validates, &self.made) {
            (true, Some(_)) => DocumentMade::Text(message.to_owned()),
            _ => DocumentMade::Dead(error),
        };
        let answers = &worked.answers;
        for (at, answer) in answers.rows().enumerate() {
            let made = &mut made[row(answer.event)];
            if self.validates {
                let mut tags = answers.tags(at).filter(|_| answer.own_tags);
                if let Some((_, message)) = tags.find(|(name, _)| *name == INVALID_TAG) {
                    let error = Error::new(Class::Permanent, "flow.xml-invalid");
                    let error = error.with("plugin", self.plugin.name());
                    *made = wrong(message, error.with("message", message));
                }
            } else if let Some(payload) = answer.payload {
                *made = match std::str::from_utf8(payload) {
                    Ok(text) => DocumentMade::Text(text.to_owned()),
                    Err(_) => {
                        let error = Error::new(Class::Permanent, "flow.xml-plugin-text");
                        DocumentMade::Dead(error.with("plugin", self.plugin.name()))
                    }
                };
            }
        }
        for (event, failure) in answers.failed() {
            let error = failure.error(Class::Permanent, self.plugin.name());
            made[row(event)] = wrong(&failure.message, error);
        }
        for (first, count, error) in &worked.lost {
            for event in *first..first + count {
                made[row(event)] = DocumentMade::Dead(error.clone());
            }
        }
    }

    fn gather(&self, rows: &Rows, made: Vec<DocumentMade>, out: &mut Output) -> Result<(), Error> {
        let mut good: Vec<u32> = Vec::with_capacity(made.len());
        let mut texts: Vec<Option<String>> = Vec::with_capacity(made.len());
        for (row, made) in made.into_iter().enumerate() {
            match made {
                DocumentMade::Dead(error) => {
                    out.fail(rows, row, error);
                    continue;
                }
                DocumentMade::Nothing => texts.push(None),
                DocumentMade::Text(text) => texts.push(Some(text)),
            }
            good.push(row as u32);
        }
        let rows = match good.len() == rows.len() {
            true => rows.clone(),
            false => rows.take(&good.into())?,
        };
        let Some(schema) = &self.made else {
            out.push(rows);
            return Ok(());
        };
        let (last, others) = schema.fields().split_last().ok_or_else(|| {
            Error::new(Class::Permanent, "flow.misfit").with("column", self.plugin.name())
        })?;
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(others.len() + 1);
        for field in others {
            let place = rows
                .batch
                .schema_ref()
                .index_of(field.name())
                .map_err(misfit)?;
            arrays.push(Arc::clone(rows.batch.column(place)));
        }
        debug_assert_eq!(*last.data_type(), DataType::Utf8);
        arrays.push(Arc::new(texts.into_iter().collect::<StringArray>()));
        let batch = RecordBatch::try_new(Arc::clone(schema), arrays).map_err(misfit)?;
        out.push(rows.with_columns(batch));
        Ok(())
    }
}

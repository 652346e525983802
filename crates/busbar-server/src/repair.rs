//! Puts the second table of a comparison right: through the connection's own sink, or in the node's table.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Float64Array, RecordBatch, StringArray,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use busbar_catalog::{ConnectionOptions, ConnectionSpec};
use busbar_connector::{Connector, Delivery, Sink, SinkContext, TextRow, Work, deliver};
use busbar_event::{Batch, Body, Class, Envelope, Error};
use busbar_flow::{RepairTarget, ValueClass};
use busbar_log::Clock;
use busbar_table::{Table, Write};
use serde_json::{Value, json};

use crate::app::App;
use crate::compare::{ComparedPlace, ComparedTable};

/// A column that is written: its name, and what it holds.
type WrittenColumn = (String, ValueClass);

/// What puts a table right; its columns by their names there, those of the key first.
///
/// # Errors
/// No such connection or table.
pub(crate) fn target(
    app: &App,
    table: &ComparedTable,
    columns: Vec<WrittenColumn>,
    key: usize,
) -> Result<Box<dyn RepairTarget>, Error> {
    match &table.place {
        ComparedPlace::Here(name) => {
            let table = app.tables.table(name).ok_or_else(|| {
                Error::new(Class::Configuration, "server.compare-no-table").with("table", name)
            })?;
            Ok(Box::new(TableRepair { table, columns }))
        }
        ComparedPlace::There {
            connection,
            schema,
            table,
        } => {
            let (connector, spec) = app.runtime.connector_of(connection)?;
            Ok(Box::new(SinkRepair {
                connector,
                spec,
                table: format!("{schema}.{table}"),
                name: connection.as_str().into(),
                project: Arc::clone(app.runtime.project_dir()),
                clock: Arc::clone(app.bus.clock()),
                columns,
                key,
                position: 0,
                put: None,
                delete: None,
            }))
        }
    }
}

/// Through sinks of the connection that write to the table.
struct SinkRepair {
    connector: Arc<dyn Connector>,
    spec: ConnectionSpec,
    table: String,
    name: Arc<str>,
    project: Arc<std::path::Path>,
    clock: Arc<dyn Clock>,
    columns: Vec<WrittenColumn>,
    key: usize,
    /// Above those of every repair before.
    position: u64,
    put: Option<Box<dyn Sink>>,
    delete: Option<Box<dyn Sink>>,
}

impl SinkRepair {
    /// The sink for a mode.
    async fn sink(&mut self, mode: &str, schema: &SchemaRef) -> Result<Box<dyn Sink>, Error> {
        let mut options = self.spec.options.to_json();
        if let Value::Object(options) = &mut options {
            for role in ["follow", "query", "read"] {
                options.remove(role);
            }
            let key = self.columns[..self.key].iter().map(|(name, _)| name);
            let write = json!({
                "table": self.table, "mode": mode, "key": key.collect::<Vec<_>>(), "producer": format!("compare-{mode}"),
            });
            options.insert("write".to_owned(), write);
        }
        let told = |refused: busbar_catalog::Diagnostic| refused.error().clone();
        let spec = ConnectionSpec {
            options: ConnectionOptions::from_text(&options.to_string()).map_err(told)?,
            ..self.spec.clone()
        };
        let context = SinkContext {
            name: Arc::clone(&self.name),
            project_dir: Arc::clone(&self.project),
            clock: Arc::clone(&self.clock),
            schema: Arc::clone(schema),
        };
        self.connector.sink(&spec, context).await
    }

    async fn send(&mut self, rows: Vec<TextRow>, deletes: bool) -> Result<Vec<Error>, Error> {
        let width = if deletes {
            self.key
        } else {
            self.columns.len()
        };
        let rows = columns_of(&self.columns[..width], &rows)?;
        let schema = rows.schema();
        let (mode, open) = match deletes {
            true => ("delete", self.delete.take()),
            false => ("upsert", self.put.take()),
        };
        let mut sink = match open {
            Some(sink) => sink,
            None => self.sink(mode, &schema).await?,
        };
        let now = self.clock.now_micros();
        self.position = u64::try_from(now).unwrap_or(0).max(self.position + 1);
        let topics = StringArray::from(vec!["compare"; rows.num_rows()]);
        let payloads = BinaryArray::from_iter_values(std::iter::repeat_n("{}", rows.num_rows()));
        let envelope = Envelope::new(&topics, vec![now; rows.num_rows()]);
        let delivery = Delivery {
            events: Batch::from_columns(envelope, Body::Payload(payloads))?,
            rows,
            producer: "repair".into(),
            position: self.position,
            first: 0,
            sources: None,
        };
        // Who compares is there and asks again.
        let wait = |error| std::future::ready(Err(error));
        let outcome = deliver(sink.as_mut(), &delivery, wait).await?;
        match deletes {
            true => self.delete = Some(sink),
            false => self.put = Some(sink),
        }
        Ok(outcome.rejected.into_iter().map(|(_, why)| why).collect())
    }
}

impl RepairTarget for SinkRepair {
    fn put(&mut self, rows: Vec<TextRow>) -> Work<'_, Result<Vec<Error>, Error>> {
        Box::pin(self.send(rows, false))
    }

    fn delete(&mut self, keys: Vec<TextRow>) -> Work<'_, Result<Vec<Error>, Error>> {
        Box::pin(self.send(keys, true))
    }
}

/// In a table of the node.
struct TableRepair {
    table: Arc<dyn Table>,
    columns: Vec<WrittenColumn>,
}

impl TableRepair {
    async fn send(&mut self, rows: Vec<TextRow>, deletes: bool) -> Result<Vec<Error>, Error> {
        let width = rows.first().map_or(0, Vec::len);
        let given = columns_of(&self.columns[..width], &rows)?;
        let table = Arc::clone(&self.table);
        let written = tokio::task::spawn_blocking(move || {
            let schema = table.schema();
            let mut fields = Vec::new();
            let mut columns: Vec<ArrayRef> = Vec::new();
            for (field, column) in given.schema().fields().iter().zip(given.columns()) {
                let wanted = schema.field_with_name(field.name());
                let kind = wanted.map_or(&DataType::Utf8, |field| field.data_type());
                let options = CastOptions {
                    safe: false,
                    ..CastOptions::default()
                };
                let column = cast_with_options(column, kind, &options).map_err(|why| {
                    Error::new(Class::Permanent, "server.compare-value")
                        .with("column", field.name())
                        .with("table", table.name())
                        .caused_by(why)
                })?;
                fields.push(Field::new(field.name(), kind.clone(), true));
                columns.push(column);
            }
            let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns);
            let rows = rows.map_err(|why| {
                Error::new(Class::Permanent, "server.failed-within").caused_by(why)
            })?;
            let all = deletes.then(|| BooleanArray::from(vec![true; rows.num_rows()]));
            table.write(&Write {
                rows: &rows,
                deletes: all.as_ref(),
                position: None,
            })
        });
        let written = written
            .await
            .map_err(|why| Error::new(Class::Transient, "server.failed-within").caused_by(why))??;
        Ok(written.rejected.into_iter().map(|row| row.cause).collect())
    }
}

impl RepairTarget for TableRepair {
    fn put(&mut self, rows: Vec<TextRow>) -> Work<'_, Result<Vec<Error>, Error>> {
        Box::pin(self.send(rows, false))
    }

    fn delete(&mut self, keys: Vec<TextRow>) -> Work<'_, Result<Vec<Error>, Error>> {
        Box::pin(self.send(keys, true))
    }
}

/// Rows as columns: floating-point numbers as such, for their text would be rounded; everything else as text.
///
/// # Errors
/// *Permanent*: a text that is no number.
fn columns_of(columns: &[WrittenColumn], rows: &[TextRow]) -> Result<RecordBatch, Error> {
    let mut fields = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for (at, (name, class)) in columns.iter().enumerate() {
        let values = rows
            .iter()
            .map(|row| row.get(at).and_then(Option::as_deref));
        let array: ArrayRef = match class {
            ValueClass::Float => {
                let number = |text: Option<&str>| text.map(str::parse).transpose();
                let numbers = values.map(number).collect::<Result<Float64Array, _>>();
                Arc::new(numbers.map_err(|why: std::num::ParseFloatError| {
                    Error::new(Class::Permanent, "server.compare-number")
                        .with("column", name)
                        .caused_by(why)
                })?)
            }
            _ => Arc::new(values.collect::<StringArray>()),
        };
        fields.push(Field::new(name, array.data_type().clone(), true));
        arrays.push(array);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
        .map_err(|why| Error::new(Class::Permanent, "server.failed-within").caused_by(why))
}

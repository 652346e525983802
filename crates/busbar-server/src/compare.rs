//! The two sides of a comparison: tables of the node, and tables on the other side of connections.

use std::sync::Arc;

use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use busbar_connector::{KeyOrder, OrderedRows, ReadColumn, TableRead, TextRow, Work};
use busbar_event::{Class, Error};
use busbar_flow::ValueClass;
use busbar_sql::{QueryOptions, QueryResult, Relations};

use crate::app::App;

/// A table that is compared.
pub(crate) struct ComparedTable {
    /// As it was asked for: `his:public.patient`, or `patient`.
    pub named: String,
    pub place: ComparedPlace,
    pub columns: Vec<ComparedColumn>,
}

/// Where it is.
pub(crate) enum ComparedPlace {
    /// On this node.
    Here(String),
    /// On the other side of a connection.
    There {
        connection: String,
        schema: String,
        table: String,
    },
}

/// A column of it.
#[derive(Clone)]
pub(crate) struct ComparedColumn {
    pub name: String,
    pub class: ValueClass,
    pub key: bool,
}

impl ComparedTable {
    /// Looks for a table by how it is written: `CONNECTION:TABLE`, `CONNECTION:SCHEMA.TABLE`, or the name of one of the
    /// node's.
    ///
    /// # Errors
    /// There is none, or there are several; what the other side says.
    pub async fn find(app: &App, named: &str) -> Result<ComparedTable, Error> {
        match named.split_once(':') {
            Some((connection, table)) => there(app, named, connection, table).await,
            None => here(app, named),
        }
    }

    /// A column by its name, in whatever case.
    pub fn column(&self, name: &str) -> Option<&ComparedColumn> {
        let mut columns = self.columns.iter();
        columns.find(|column| column.name == name).or_else(|| {
            let mut columns = self.columns.iter();
            columns.find(|column| column.name.eq_ignore_ascii_case(name))
        })
    }

    /// Its rows, in the order of their key: the first columns.
    ///
    /// # Errors
    /// What the node or the other side says.
    pub async fn rows(
        &self,
        app: &App,
        columns: &[&ComparedColumn],
        key: &[KeyOrder],
        relations: Option<Arc<dyn Relations>>,
    ) -> Result<Box<dyn OrderedRows>, Error> {
        match &self.place {
            ComparedPlace::There {
                connection,
                schema,
                table,
            } => {
                let (connector, spec) = app.runtime.connector_of(connection)?;
                let columns = columns.iter().map(|column| ReadColumn {
                    name: column.name.clone(),
                    bytes: column.class == ValueClass::Bytes,
                });
                let read = TableRead {
                    schema: schema.clone(),
                    table: table.clone(),
                    columns: columns.collect(),
                    key: key.to_vec(),
                };
                let project = Arc::clone(app.runtime.project_dir());
                connector.read_table(&spec, project, read).await
            }
            ComparedPlace::Here(table) => {
                let names: Vec<_> = columns.iter().map(|c| quoted(&c.name)).collect();
                let order = key.iter().zip(&names).map(|(order, name)| match order {
                    KeyOrder::Number => name.clone(),
                    KeyOrder::Text => format!("cast({name} as varchar)"),
                });
                let sql = format!(
                    "select {} from {} order by {}",
                    names.join(", "),
                    quoted(table),
                    order.collect::<Vec<_>>().join(", ")
                );
                let options = QueryOptions {
                    rows_max: None,
                    all_rows: true,
                    relations,
                    parameters: Vec::new(),
                };
                let result = app.sql.query_with(&sql, options).await;
                let result = result.map_err(busbar_sql::Diagnostic::into_error)?;
                Ok(Box::new(QueriedRows { result }))
            }
        }
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn here(app: &App, named: &str) -> Result<ComparedTable, Error> {
    let Some(table) = app.tables.table(named) else {
        return Err(
            Error::new(Class::Configuration, "server.compare-no-table").with("table", named)
        );
    };
    let schema = table.schema();
    let columns = schema.fields().iter().map(|field| ComparedColumn {
        name: field.name().clone(),
        class: class_of(field.data_type()),
        key: table.key().contains(field.name()),
    });
    Ok(ComparedTable {
        named: named.to_owned(),
        place: ComparedPlace::Here(named.to_owned()),
        columns: columns.collect(),
    })
}

fn class_of(kind: &DataType) -> ValueClass {
    match kind {
        DataType::Boolean => ValueClass::Bool,
        kind if kind.is_integer() => ValueClass::Whole,
        kind if kind.is_floating() => ValueClass::Float,
        DataType::Decimal128(..) | DataType::Decimal256(..) => ValueClass::Number,
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => ValueClass::Time,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => ValueClass::Bytes,
        _ => ValueClass::Text,
    }
}

async fn there(
    app: &App,
    named: &str,
    connection: &str,
    wanted: &str,
) -> Result<ComparedTable, Error> {
    let survey = app.runtime.survey(connection, true).await?;
    let (schema, name) = match wanted.split_once('.') {
        Some((schema, name)) => (Some(schema), name),
        None => (None, wanted),
    };
    let mut found: Vec<_> = survey
        .tables
        .into_iter()
        .filter(|table| table.name == name && schema.is_none_or(|schema| table.schema == schema))
        .collect();
    if found.len() > 1 {
        // The schema that the database takes by itself.
        let (_, spec) = app.runtime.connector_of(connection)?;
        let options = spec.options.to_json();
        let own = [options["database"].as_str(), Some("public")];
        if let Some(at) = found
            .iter()
            .position(|table| own.contains(&Some(&*table.schema)))
        {
            found = vec![found.swap_remove(at)];
        }
    }
    if found.len() > 1 {
        let names = found
            .iter()
            .map(|t| format!("{connection}:{}.{}", t.schema, t.name));
        return Err(Error::new(Class::Configuration, "server.compare-which")
            .with("table", named)
            .with("names", names.collect::<Vec<_>>().join(", ")));
    }
    let Some(table) = found.pop() else {
        return Err(
            Error::new(Class::Configuration, "server.compare-no-table").with("table", named)
        );
    };
    let columns = table.columns.into_iter().map(|column| ComparedColumn {
        class: ValueClass::of(&column.kind),
        name: column.name,
        key: column.key,
    });
    Ok(ComparedTable {
        named: named.to_owned(),
        place: ComparedPlace::There {
            connection: connection.to_owned(),
            schema: table.schema,
            table: table.name,
        },
        columns: columns.collect(),
    })
}

/// Rows of a query over the node's own tables.
struct QueriedRows {
    result: QueryResult,
}

impl OrderedRows for QueriedRows {
    fn next(&mut self) -> Work<'_, Result<Vec<TextRow>, Error>> {
        Box::pin(async {
            loop {
                let Some(batch) = self.result.next().await else {
                    return Ok(Vec::new());
                };
                let batch = batch?;
                if batch.num_rows() == 0 {
                    continue;
                }
                // Rendering a batch takes about a millisecond; other tasks of this thread run in between.
                tokio::task::yield_now().await;
                let unreadable = |why: arrow::error::ArrowError| {
                    Error::new(Class::Permanent, "server.failed-within").caused_by(why)
                };
                let options = FormatOptions::default();
                let mut rows = vec![Vec::with_capacity(batch.num_columns()); batch.num_rows()];
                for column in batch.columns() {
                    let texts =
                        ArrayFormatter::try_new(column.as_ref(), &options).map_err(unreadable)?;
                    for (at, row) in rows.iter_mut().enumerate() {
                        row.push(match column.is_null(at) {
                            true => None,
                            false => Some(texts.value(at).try_to_string().map_err(unreadable)?),
                        });
                    }
                }
                return Ok(rows);
            }
        })
    }
}

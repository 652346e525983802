//! Rows as changes of documents.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use busbar_connector::Delivery;
use busbar_event::{Class, Error};

use super::bson::BsonWriter;
use super::cell::{BsonColumn, CellOptions};
use super::{MongoMode, MongoWrite};
use crate::change::{Op, kept};

/// How rows become changes.
pub struct ChangePlan {
    mode: MongoMode,
    /// Places of the columns that tell documents apart.
    key: Vec<usize>,
    /// Places of the columns that are fields.
    fields: Vec<usize>,
    change: Option<usize>,
    unchanged: Option<usize>,
    object_ids: Vec<String>,
    cut: bool,
}

/// How a command changes documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeVerb {
    Insert,
    /// Also what adds a document that is not there.
    Update,
    Delete,
}

/// What is done with one row.
#[derive(Debug)]
pub struct MongoChange {
    pub row: usize,
    pub op: Op,
    pub verb: ChangeVerb,
    /// A document of the command's list.
    pub bytes: Vec<u8>,
    /// What tells its document apart; empty for rows that are added.
    pub key: Vec<u8>,
}

/// A delivery as changes.
#[derive(Debug, Default)]
pub struct MongoChanges {
    pub all: Vec<MongoChange>,
    /// The documents that there are go first.
    pub truncate: bool,
    pub rejected: Vec<(usize, Error)>,
}

impl ChangeVerb {
    /// The command, and the name of its list.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            ChangeVerb::Insert => ("insert", "documents"),
            ChangeVerb::Update => ("update", "updates"),
            ChangeVerb::Delete => ("delete", "deletes"),
        }
    }
}

impl ChangePlan {
    /// # Errors
    /// *Configuration*: a column that the flow does not make, or that no field can be named after.
    pub fn new(options: &MongoWrite, schema: &SchemaRef) -> Result<ChangePlan, Error> {
        let place = |option: &'static str, column: &str| {
            schema.index_of(column).map_err(|_| {
                let there: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                Error::new(Class::Configuration, "mongodb.flow-column")
                    .with("option", option)
                    .with("column", column)
                    .with("there", there.join(", "))
            })
        };
        let special = |option, column: &Option<String>| {
            let column = column.as_deref();
            column.map(|column| place(option, column)).transpose()
        };
        let change = special("change", &options.change)?;
        let unchanged = special("unchanged", &options.unchanged)?;
        let key = options.key.iter().map(|column| place("key", column));
        for column in &options.object_ids {
            place("object_ids", column)?;
        }
        let fields: Vec<usize> = (0..schema.fields().len())
            .filter(|at| Some(*at) != change && Some(*at) != unchanged)
            .collect();
        for at in &fields {
            let name = schema.field(*at).name();
            if name.is_empty() || name.starts_with('$') || name.contains(['.', '\0']) {
                let error = Error::new(Class::Configuration, "mongodb.field-name");
                return Err(error.with("column", busbar_event::quote(name)));
            }
        }
        Ok(ChangePlan {
            mode: options.mode(),
            key: key.collect::<Result<_, _>>()?,
            fields,
            change,
            unchanged,
            object_ids: options.object_ids.clone(),
            cut: options.cut_times,
        })
    }

    /// The changes of a delivery, and the rows of which none can be made. `most` bytes fit into a document.
    ///
    /// # Errors
    /// *Configuration*: columns whose type does not fit.
    pub fn changes(&self, delivery: &Delivery, most: usize) -> Result<MongoChanges, Error> {
        let rows = &delivery.rows;
        let schema = rows.schema();
        let options = CellOptions {
            object_ids: &self.object_ids,
            cut: self.cut,
        };
        let columns = schema.fields().iter().zip(rows.columns());
        let columns = columns.map(|(field, array)| BsonColumn::new(field, array, options));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let texts = |place: Option<usize>| {
            let column = place.map(|at| cast(rows.column(at), &DataType::Utf8));
            column.transpose().map_err(|why| {
                Error::new(Class::Configuration, "connect.change-type").caused_by(why)
            })
        };
        let (change, unchanged) = (texts(self.change)?, texts(self.unchanged)?);
        let mut changes = MongoChanges::default();
        for row in 0..rows.num_rows() {
            let op = match &change {
                None => Ok(match self.mode {
                    MongoMode::Insert => Op::Insert,
                    MongoMode::Replace | MongoMode::Merge => Op::Upsert,
                    MongoMode::Update => Op::Update,
                    MongoMode::Delete => Op::Delete,
                }),
                Some(change) => Op::of(text(change, row).unwrap_or_default()),
            };
            let made = op.and_then(|op| match op {
                Op::Nothing => Ok(None),
                Op::Truncate => {
                    // What came before it would go with it.
                    changes.all.clear();
                    changes.truncate = true;
                    Ok(None)
                }
                op => {
                    let names = unchanged.as_ref().and_then(|column| text(column, row));
                    let kept: Vec<String> = names.map(kept).unwrap_or_default();
                    self.change(&columns, row, op, &kept, most).map(Some)
                }
            });
            match made {
                Ok(change) => changes.all.extend(change),
                Err(error) => changes.rejected.push((row, error)),
            }
        }
        Ok(changes)
    }

    fn change(
        &self,
        columns: &[BsonColumn],
        row: usize,
        op: Op,
        kept: &[String],
        most: usize,
    ) -> Result<MongoChange, Error> {
        let mut key = BsonWriter::new();
        for at in &self.key {
            let column = &columns[*at];
            if column.is_null(row) {
                let error = Error::new(Class::Permanent, "connect.key-null");
                return Err(error.with("column", &column.name));
            }
            column.write(row, &column.name, &mut key)?;
        }
        let key = key.finish();
        let there = || {
            let columns = self.fields.iter().map(|at| &columns[*at]);
            columns.filter(|column| !column.is_null(row) && !kept.contains(&column.name))
        };
        let document = |out: &mut BsonWriter| -> Result<(), Error> {
            there().try_for_each(|column| column.write(row, &column.name, out))
        };
        let merges = self.mode == MongoMode::Merge || op == Op::Update || !kept.is_empty();
        let mut out = BsonWriter::new();
        let verb = match op {
            Op::Insert => {
                document(&mut out)?;
                ChangeVerb::Insert
            }
            Op::Delete => {
                out.document("q", &key);
                out.int("limit", 1);
                ChangeVerb::Delete
            }
            _ => {
                out.document("q", &key);
                out.open("u");
                if merges {
                    out.open("$set");
                    document(&mut out)?;
                    out.close();
                    let gone: Vec<_> = self
                        .fields
                        .iter()
                        .map(|at| &columns[*at])
                        .filter(|column| column.is_null(row) && !kept.contains(&column.name))
                        .collect();
                    if !gone.is_empty() {
                        out.open("$unset");
                        for column in gone {
                            out.bool(&column.name, true);
                        }
                        out.close();
                    }
                } else {
                    document(&mut out)?;
                }
                out.close();
                out.bool("upsert", op != Op::Update);
                ChangeVerb::Update
            }
        };
        if out.len() > most {
            return Err(Error::new(Class::Permanent, "mongodb.document-large")
                .with("bytes", out.len())
                .with("most", most));
        }
        Ok(MongoChange {
            row,
            op,
            verb,
            bytes: out.finish(),
            key: if verb == ChangeVerb::Insert {
                Vec::new()
            } else {
                key
            },
        })
    }
}

fn text(column: &ArrayRef, row: usize) -> Option<&str> {
    (!column.is_null(row)).then(|| column.as_string::<i32>().value(row))
}

//! Families of a wide table as structures: the columns `m.temp` and `m.level` of a table are the fields of the column `m`.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StructArray};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use busbar_table::Table;

/// The field of a free family's structure that holds the cells without a column of their own.
const OTHERS: &str = "others";

/// How the columns of a table are seen by queries.
#[derive(Clone, Debug)]
pub(crate) struct TableShape {
    /// What queries see.
    pub schema: SchemaRef,
    columns: Vec<ShapedColumn>,
}

#[derive(Clone, Debug)]
enum ShapedColumn {
    /// The column of the table with this place.
    Same(usize),
    /// A structure of the columns with these places.
    Family(Fields, Vec<usize>),
}

impl TableShape {
    /// The shape of a table as it is now.
    pub fn of(table: &dyn Table) -> TableShape {
        Self::new(&table.schema(), &table.families())
    }

    fn new(schema: &SchemaRef, families: &[String]) -> TableShape {
        let mut fields: Vec<FieldRef> = Vec::new();
        let mut columns = Vec::new();
        let mut members: Vec<(usize, Vec<FieldRef>, Vec<usize>)> = Vec::new();
        for (place, field) in schema.fields().iter().enumerate() {
            let in_family = families.iter().find_map(|family| {
                let rest = field.name().strip_prefix(family.as_str())?;
                let member = match rest.strip_prefix('.') {
                    Some(qualifier) => qualifier,
                    None if rest.is_empty() => OTHERS,
                    None => return None,
                };
                Some((family, member))
            });
            let Some((family, member)) = in_family else {
                fields.push(Arc::clone(field));
                columns.push(ShapedColumn::Same(place));
                continue;
            };
            let member = Arc::new(field.as_ref().clone().with_name(member));
            let known = members
                .iter_mut()
                .find(|(at, _, _)| fields[*at].name() == family);
            match known {
                Some((_, fields, places)) => {
                    fields.push(member);
                    places.push(place);
                }
                None => {
                    members.push((fields.len(), vec![member], vec![place]));
                    fields.push(Arc::new(Field::new(family, DataType::Null, true)));
                    columns.push(ShapedColumn::Same(place));
                }
            }
        }
        for (at, inner, places) in members {
            let inner = Fields::from(inner);
            let name = fields[at].name().clone();
            fields[at] = Arc::new(Field::new(name, DataType::Struct(inner.clone()), false));
            columns[at] = ShapedColumn::Family(inner, places);
        }
        TableShape {
            schema: Arc::new(Schema::new(fields)),
            columns,
        }
    }

    /// The shape with some of the columns.
    pub fn project(&self, columns: &[usize]) -> Result<TableShape, ArrowError> {
        Ok(TableShape {
            schema: Arc::new(self.schema.project(columns)?),
            columns: columns.iter().map(|at| self.columns[*at].clone()).collect(),
        })
    }

    /// The place in the table of a column that is seen as it is.
    pub fn place(&self, column: &str) -> Option<usize> {
        match self.columns.get(self.schema.index_of(column).ok()?)? {
            ShapedColumn::Same(place) => Some(*place),
            ShapedColumn::Family(..) => None,
        }
    }

    /// The places of the columns that have to be read, in the order in which [`TableShape::shape`] takes them.
    pub fn places(&self) -> Vec<usize> {
        let places = self.columns.iter().flat_map(|column| match column {
            ShapedColumn::Same(place) => std::slice::from_ref(place),
            ShapedColumn::Family(_, places) => places.as_slice(),
        });
        places.copied().collect()
    }

    /// Rows of the columns that were read, as queries see them.
    ///
    /// # Errors
    /// Columns that are not those of [`TableShape::places`].
    pub fn shape(&self, rows: RecordBatch) -> Result<RecordBatch, ArrowError> {
        let is_plain = |column: &ShapedColumn| matches!(column, ShapedColumn::Same(_));
        if self.columns.iter().all(is_plain) {
            return Ok(rows);
        }
        let mut read = rows.columns().iter().cloned();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            columns.push(match column {
                ShapedColumn::Same(_) => read.by_ref().take(1).collect::<Vec<_>>().swap_remove(0),
                ShapedColumn::Family(fields, places) => {
                    let members = read.by_ref().take(places.len()).collect();
                    Arc::new(StructArray::try_new(fields.clone(), members, None)?)
                }
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn columns_of_a_family_become_fields_and_others_stay() {
        let names = ["m.a", "k", "n.b", "m", "m.c", "mx.y", "v"];
        let fields = names.map(|name| Field::new(name, DataType::Int64, true));
        let schema: SchemaRef = Arc::new(Schema::new(fields.to_vec()));
        let shape = TableShape::new(&schema, &["m".to_owned(), "n".to_owned()]);
        let seen: Vec<_> = shape
            .schema
            .fields()
            .iter()
            .map(|f| f.name().as_str())
            .collect();
        assert_eq!(seen, ["m", "k", "n", "mx.y", "v"]);
        assert_eq!(
            (shape.place("k"), shape.place("m"), shape.place("v")),
            (Some(1), None, Some(6))
        );
        let some = shape.project(&[4, 0]).unwrap();
        assert_eq!(some.places(), [6, 0, 3, 4]);
        let read = schema.project(&some.places()).unwrap();
        let arrays = [6, 0, 3, 4].map(|n| Arc::new(Int64Array::from(vec![n])) as ArrayRef);
        let rows = RecordBatch::try_new(Arc::new(read), arrays.to_vec()).unwrap();
        let shaped = some.shape(rows).unwrap();
        let DataType::Struct(fields) = shaped.schema().field(1).data_type().clone() else {
            panic!("{shaped:?}")
        };
        let inner: Vec<_> = fields.iter().map(|f| f.name().as_str()).collect();
        assert_eq!(inner, ["a", "others", "c"]);
        assert_eq!(shaped.num_columns(), 2);
    }
}

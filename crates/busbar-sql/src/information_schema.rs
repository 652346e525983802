//! `information_schema.tables` and `information_schema.columns`, where tools look for relations.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use busbar_event::Error;

use crate::check;
use crate::explain::kernel_error;
use crate::relation::Relations;

/// The prefix of the names of these tables.
pub(crate) const PREFIX: &str = "information_schema.";

const CATALOG: &str = "busbar";
const SCHEMA: &str = "public";

/// The rows of `tables` or `columns`; none for another name. May block on the disk.
pub(crate) fn rows(
    table: &str,
    relations: &Arc<dyn Relations>,
) -> Result<Option<RecordBatch>, Error> {
    if !matches!(table, "tables" | "columns") {
        return Ok(None);
    }
    let mut tables: [Vec<String>; 2] = Default::default();
    let mut columns: [Vec<String>; 4] = Default::default();
    let mut places: Vec<i64> = Vec::new();
    for name in relations.names() {
        let Some(relation) = relations.relation(&name)? else {
            continue;
        };
        for (place, field) in (1..).zip(relation.schema().fields()) {
            columns[0].push(name.clone());
            columns[1].push(field.name().clone());
            columns[2].push(check::word(field.data_type()));
            columns[3].push(if field.is_nullable() { "YES" } else { "NO" }.to_owned());
            places.push(place);
        }
        tables[0].push(name);
        // The standard has no type for streams.
        tables[1].push("BASE TABLE".to_owned());
    }
    let same = |value: &str, rows: usize| texts(&vec![value; rows]);
    let batch = match table {
        "tables" => RecordBatch::try_from_iter([
            ("table_catalog", same(CATALOG, tables[0].len())),
            ("table_schema", same(SCHEMA, tables[0].len())),
            ("table_name", texts(&tables[0])),
            ("table_type", texts(&tables[1])),
        ]),
        _ => RecordBatch::try_from_iter([
            ("table_catalog", same(CATALOG, places.len())),
            ("table_schema", same(SCHEMA, places.len())),
            ("table_name", texts(&columns[0])),
            ("column_name", texts(&columns[1])),
            (
                "ordinal_position",
                Arc::new(Int64Array::from(places)) as ArrayRef,
            ),
            ("data_type", texts(&columns[2])),
            ("is_nullable", texts(&columns[3])),
        ]),
    };
    batch.map(Some).map_err(kernel_error)
}

fn texts(values: &[impl AsRef<str>]) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

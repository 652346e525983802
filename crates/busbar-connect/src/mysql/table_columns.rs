//! The columns of a table, as the server lists them.

use busbar_change::mysql::wire::literal;

use super::failure::Failed;
use super::link::Link;
use super::values::Target;
use crate::change::keys::KeyTexts;

/// The engine of a table and its columns that can be written; `None` when there is no such table.
pub(super) async fn table_columns(
    link: &mut Link,
    schema: &str,
    table: &str,
) -> Result<Option<(String, Vec<Target>)>, Failed> {
    let there = format!(
        "table_schema = {} AND table_name = {}",
        literal(schema),
        literal(table)
    );
    let sql = format!(
        "SELECT engine FROM information_schema.tables WHERE {there}; \
         SELECT column_name, data_type, column_type, COALESCE(datetime_precision, numeric_scale), \
         collation_name FROM information_schema.columns \
         WHERE {there} AND extra NOT LIKE '%GENERATED%' ORDER BY ordinal_position"
    );
    let answers = link.run(&sql).await?;
    let (Some(tables), Some(columns)) = (answers.first(), answers.get(1)) else {
        return Ok(None);
    };
    let Some(engine) = tables.text(0, 0) else {
        return Ok(None);
    };
    let columns = (0..columns.rows.len()).map(|row| {
        let text = |column| columns.text(row, column).unwrap_or_default();
        Target {
            name: text(0).to_owned(),
            kind: text(1).to_lowercase(),
            shown: text(2).to_owned(),
            scale: text(3).parse().ok(),
            texts: texts(text(4)),
            lossy: false,
        }
    });
    Ok(Some((engine.to_owned(), columns.collect())))
}

/// How a collation tells texts apart; empty for values that are none.
fn texts(collation: &str) -> KeyTexts {
    match collation {
        "" | "binary" => KeyTexts::Exact,
        of if of.ends_with("_nopad_bin") || of.ends_with("_0900_bin") => KeyTexts::Exact,
        of if of.ends_with("_bin") => KeyTexts::Padded,
        _ => KeyTexts::Collated,
    }
}

//! Rows that the server refused, kept beside the position that came with the others.

use super::*;
use crate::change::refusal::{RefusedRecord, insertions};

/// Keeps the refused rows within the transaction that is open.
pub(super) async fn keep_refused(
    link: &mut Link,
    plan: &Plan,
    from: &WriteOrigin,
    ready: &[Ready],
    refused: &[Refused],
) -> Result<(), Failed> {
    let WriteOrigin { producer, position } = from;
    let table = &plan.refusals;
    link.run(&format!("DELETE FROM {table} WHERE producer = {producer}"))
        .await?;
    let content = |row: usize| {
        let at = ready.binary_search_by_key(&row, |ready| ready.row);
        at.map_or_else(|_| String::new(), |at| ready[at].content())
    };
    let records = RefusedRecord::of(refused, content);
    let rows = records.iter().map(|record| {
        format!(
            "({producer}, {position}, {}, {}, {})",
            record.row,
            literal(&record.content),
            literal(&record.cause)
        )
    });
    let head =
        format!("INSERT INTO {table} (producer, position, refused_row, content, cause) VALUES");
    for statement in insertions(&head, rows, STATEMENT_BYTES) {
        link.run(&statement).await?;
    }
    Ok(())
}

/// The rows of a delivery that comes again that were refused the last time.
pub(super) async fn recall(
    link: &mut Link,
    plan: &Plan,
    from: &WriteOrigin,
    ready: &[Ready],
) -> Result<Vec<Refused>, Failed> {
    let sql = format!(
        "SELECT r.refused_row, r.content, r.cause FROM {} r JOIN {} p ON p.producer = r.producer AND p.position = r.position \
         WHERE r.producer = {} ORDER BY r.refused_row",
        plan.refusals, plan.positions, from.producer
    );
    let answers = link.run(&sql).await?;
    let records = answers.first().map_or_else(Vec::new, |answer| {
        let text = |row, column| answer.text(row, column).unwrap_or_default().to_owned();
        let records = (0..answer.rows.len()).map(|row| RefusedRecord {
            row: text(row, 0).parse().unwrap_or_default(),
            content: text(row, 1),
            cause: text(row, 2),
        });
        records.collect()
    });
    let rows = ready.iter().map(|row| (row.row, row.content()));
    Ok(RefusedRecord::recalled(records, rows))
}

//! Rows of the stage where one of two sides wins. What is done with each is [`PreferredRow::verdict`], for all of them at once.

use super::*;
use crate::change::PreferredRow;
use crate::change::plan::PreferColumns;
use crate::change::prefer::NOBODY;

/// The column of the stage with the version before the change.
pub(super) const WAS: &str = "busbar_was";

impl Plan {
    /// Takes the rows over from the stage, and answers how many gave way to rows there.
    pub(super) async fn compared(
        &self,
        link: &mut Link,
        prefer: PreferColumns,
        (op, kept): (Op, &[String]),
        producer: &str,
    ) -> Result<u64, Failed> {
        let table = &self.tables.written;
        let name = |at: usize| identifier(&self.written.columns[at].1.name);
        let version = name(prefer.version);
        let key = self.written.key.iter();
        let same: Vec<_> = key.map(|at| format!("t.{0} = s.{0}", name(*at))).collect();
        let same = same.join(" AND ");
        let (all, set) = (self.list(|_| true), self.set(kept, "s"));
        let is_made_on = format!("t.{version} IS NOT DISTINCT FROM s.{WAS}");
        let add = format!("INSERT INTO {table} ({all}) SELECT {all} FROM {STAGE} s");
        let write = match op {
            Op::Delete => format!("DELETE FROM {table} t USING {STAGE} s WHERE {same}"),
            _ => format!("UPDATE {table} t SET {set} FROM {STAGE} s WHERE {same}"),
        };
        let key = self.list(|at| self.written.key.contains(&at));
        if op == Op::Read {
            link.run(&format!("{add} ON CONFLICT ({key}) DO NOTHING"))
                .await?;
            return Ok(0);
        }
        if prefer.row == PreferredRow::Coming {
            let both = format!(
                "{add} WHERE s.{WAS} IS NULL ON CONFLICT ({key}) DO NOTHING; {write} AND t.{version} = s.{WAS}"
            );
            link.run(&both).await?;
            return Ok(0);
        }
        // With the rows locked, all statements see the same ones. One that is added meanwhile makes the insertion fail, and the
        // rows are taken up one by one.
        let counted = format!(
            "SELECT count(*) FROM (SELECT 1 FROM {table} t JOIN {STAGE} s ON {same} FOR UPDATE OF t) locked; \
             SELECT count(*) FILTER (WHERE t.ctid IS NOT NULL AND NOT ({is_made_on})), \
             count(*) FILTER (WHERE t.ctid IS NULL AND s.{WAS} IS NOT NULL) \
             FROM {STAGE} s LEFT JOIN {table} t ON {same}"
        );
        let counted = link.run(&counted).await?;
        let count = |column| {
            let count = counted.last().and_then(|answer| answer.text(0, column));
            count.and_then(|count| count.parse::<u64>().ok())
        };
        let (others, missing) = (count(0).unwrap_or(0), count(1).unwrap_or(0));
        if others > 0 {
            // Whoever follows the table takes the rows for changes of this side.
            let told = |producer: &str| match producer.is_empty() {
                true => String::new(),
                false => {
                    format!("SELECT pg_logical_emit_message(true, '{MESSAGE_PREFIX}', {producer})")
                }
            };
            let anew = format!(
                "{}; UPDATE {table} t SET {version} = t.{version} FROM {STAGE} s WHERE {same} AND NOT ({is_made_on}); {}",
                told(&literal(NOBODY)),
                told(producer)
            );
            link.run(&anew).await?;
        }
        let mut sql = format!("{write} AND {is_made_on}");
        if op == Op::Upsert && kept.is_empty() {
            sql.push_str(&format!(
                "; {add} WHERE s.{WAS} IS NULL AND NOT EXISTS (SELECT 1 FROM {table} t WHERE {same})"
            ));
        }
        link.run(&sql).await?;
        // A row that is gone on both sides is the same.
        Ok(others + if op == Op::Delete { 0 } else { missing })
    }
}

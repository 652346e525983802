//! Rows where one of two sides wins: those there are locked and looked at, and each is written as
//! [`PreferredRow::verdict`](crate::change::PreferredRow::verdict) says.

use super::*;
use crate::change::plan::PreferColumns;
use crate::change::prefer::{NOBODY, RowThere, RowVerdict};

impl Plan {
    /// Writes rows of different keys. Which rows there are to be written anew is added to `anew`.
    pub(super) async fn compared(
        &self,
        link: &mut Link,
        prefer: PreferColumns,
        op: Op,
        rows: &[&LiteralRow],
        anew: &mut Vec<String>,
    ) -> Result<(), Failed> {
        let found = self.there(link, prefer, rows).await?;
        let (mut added, mut written) = (Vec::new(), Vec::new());
        for (row, there) in rows.iter().zip(found) {
            match prefer.row.verdict(op, row.is_new, there) {
                RowVerdict::Add => added.push(*row),
                RowVerdict::Write => written.push(*row),
                RowVerdict::Leave => {}
                RowVerdict::GivesWay => anew.push(self.same(row)),
            }
        }
        self.send(link, Op::Insert, &added).await?;
        if op == Op::Delete {
            return self.send(link, op, &written).await;
        }
        let (parts, whole): (Vec<_>, Vec<_>) =
            written.into_iter().partition(|row| !row.kept.is_empty());
        self.send(link, Op::Update, &parts).await?;
        self.send(link, Op::Upsert, &whole).await
    }

    /// The rows there, which are locked.
    async fn there(
        &self,
        link: &mut Link,
        prefer: PreferColumns,
        rows: &[&LiteralRow],
    ) -> Result<Vec<RowThere>, Failed> {
        let version = identifier(&self.written.columns[prefer.version].1.name);
        let statements = rows.iter().map(|row| {
            format!(
                "SELECT {version} <=> {} FROM {} WHERE {} FOR UPDATE",
                row.was,
                self.tables.written,
                self.same(row)
            )
        });
        let mut found = Vec::with_capacity(rows.len());
        for sql in in_parts(statements) {
            let answers = link.run(&sql).await?;
            found.extend(answers.iter().map(|answer| match answer.text(0, 0) {
                None => RowThere::Missing,
                Some("1") => RowThere::SameVersion,
                Some(_) => RowThere::OtherVersion,
            }));
        }
        Ok(found)
    }

    /// Writes rows once more as they are, so that whoever follows the table takes them for changes of this side. The log has
    /// only what differs, so that the version becomes another one and comes back.
    pub(super) async fn again(
        &self,
        link: &mut Link,
        prefer: PreferColumns,
        anew: &[String],
        is_told: bool,
    ) -> Result<(), Failed> {
        if anew.is_empty() {
            return Ok(());
        }
        if is_told {
            let nobody = format!(
                "INSERT INTO {} VALUES ({}, 1) ON DUPLICATE KEY UPDATE position = position + 1",
                self.tables.positions,
                literal(NOBODY)
            );
            link.run(&nobody).await?;
        }
        let column = &self.written.columns[prefer.version].1;
        let (table, version) = (&self.tables.written, identifier(&column.name));
        let other = match column.kind.as_str() {
            "date" | "datetime" | "timestamp" => {
                format!("IF({version} = '2000-01-01', '2000-01-02', '2000-01-01')")
            }
            _ => format!("IF({version} = '0', '1', '0')"),
        };
        let statements = anew.iter().map(|same| {
            format!(
                "SET @busbar_version = (SELECT {version} FROM {table} WHERE {same}); \
                 UPDATE {table} SET {version} = {other} WHERE {same}; \
                 UPDATE {table} SET {version} = @busbar_version WHERE {same}"
            )
        });
        for sql in in_parts(statements) {
            link.run(&sql).await?;
        }
        Ok(())
    }
}

/// Statements joined up to the bound of one.
fn in_parts(statements: impl Iterator<Item = String>) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for statement in statements {
        match parts.last_mut() {
            Some(part) if part.len() + statement.len() < STATEMENT_BYTES => {
                part.push_str("; ");
                part.push_str(&statement);
            }
            _ => parts.push(statement),
        }
    }
    parts
}

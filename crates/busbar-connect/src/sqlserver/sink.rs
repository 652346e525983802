//! Writes rows to a table: how SQL Server does it.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;
use busbar_connector::Delivery;
use busbar_event::{Class, Error};

use super::failure::MssqlFailed;
use super::limits::{PRODUCER_CHARS_MAX, REFUSALS_BYTES, STATEMENT_BYTES, STATEMENT_ROWS};
use super::link::{MssqlLink, MssqlServer};
use super::target::{self, MssqlTarget, encoding, made_for, shown};
use super::wire::{identifier, literal, qualified};
use crate::change::plan::{Dialect, Refused, WriteColumns};
use crate::change::refusal::REFUSED_TABLE;
use crate::change::{Op, Write};
use crate::relational::literal::{LiteralRow, WriteStep};
use crate::relational::sink::{
    BesideTable, RelationalSink, WriteOrigin, WritePlan, WriteServer, WriteTables,
};

/// Writes to one table.
pub type MssqlSink = RelationalSink<MssqlServer>;

/// How rows become statements.
pub struct MssqlPlan {
    tables: WriteTables,
    written: WriteColumns<MssqlTarget>,
}

/// Where a name stands alone.
pub const DEFAULT_SCHEMA: &str = "dbo";

const DIALECT: Dialect = Dialect {
    identifier,
    made_for,
    same: str::eq_ignore_ascii_case,
};

impl WriteServer for MssqlServer {
    type Plan = MssqlPlan;

    const PRODUCER_CHARS_MAX: Option<(usize, &'static str)> =
        Some((PRODUCER_CHARS_MAX, "sqlserver.producer-long"));

    async fn plan(
        &self,
        link: &mut MssqlLink,
        options: &Write,
        schema: &SchemaRef,
    ) -> Result<MssqlPlan, Error> {
        // What is looked for before it is added stays missing until it is.
        let isolated = link
            .run("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            .await;
        isolated.map_err(|failed| failed.told(self.doing("", "")))?;
        let (place, name) = options.table_name(DEFAULT_SCHEMA);
        let table = qualified(place, name);
        let doing = self.doing(&table, options.rights());
        if options.create {
            let columns = DIALECT.definitions(options, schema);
            let made = unless_there(&table, &format!("({columns})"));
            link.run(&made).await.map_err(|failed| failed.told(doing))?;
        }
        let found = table_columns(link, place, name)
            .await
            .map_err(|failed| failed.told(doing))?;
        let Some(found) = found else {
            return Err(Error::new(Class::Configuration, "sqlserver.no-table")
                .with("address", &self.address)
                .with("said", "-")
                .with("number", 208)
                .with("table", &table));
        };
        let written = WriteColumns::plan(&DIALECT, options, schema, &table, &found)?;
        let plan = MssqlPlan {
            tables: WriteTables {
                written: table,
                positions: qualified(place, "busbar_position"),
                refusals: qualified(place, REFUSED_TABLE),
            },
            written,
        };
        self.check_key(link, &plan, options).await?;
        let producer =
            format!("producer nvarchar({PRODUCER_CHARS_MAX}) COLLATE Latin1_General_BIN2 NOT NULL");
        let beside = [
            BesideTable {
                name: plan.tables.positions.clone(),
                columns: format!("({producer} PRIMARY KEY, position decimal(20,0) NOT NULL)"),
                rights: "SELECT, INSERT, UPDATE",
            },
            BesideTable {
                name: plan.tables.refusals.clone(),
                columns: format!(
                    "({producer}, position decimal(20,0) NOT NULL, refused_row bigint NOT NULL, content char(16) NOT NULL, \
                     cause nvarchar(max) NOT NULL, PRIMARY KEY (producer, refused_row))"
                ),
                rights: "SELECT, INSERT, DELETE",
            },
        ];
        for table in beside {
            self.ensure_beside(link, place, &table).await?;
        }
        Ok(plan)
    }
}

impl MssqlServer {
    /// Sees that the server tells rows apart by the key, and by nothing less.
    async fn check_key(
        &self,
        link: &mut MssqlLink,
        plan: &MssqlPlan,
        options: &Write,
    ) -> Result<(), Error> {
        if plan.written.key.is_empty() {
            return Ok(());
        }
        let table = &plan.tables.written;
        // One with a filter tells some rows apart, and one that is disabled none.
        let sql = format!(
            "SELECT i.index_id, c.name FROM sys.indexes i \
             JOIN sys.index_columns x ON x.object_id = i.object_id AND x.index_id = i.index_id \
             JOIN sys.columns c ON c.object_id = x.object_id AND c.column_id = x.column_id \
             WHERE i.object_id = OBJECT_ID({}) AND i.is_unique = 1 AND i.has_filter = 0 AND i.is_disabled = 0 \
             AND x.is_included_column = 0 ORDER BY i.index_id",
            literal(table)
        );
        let doing = self.doing(table, options.rights());
        let answers = link.run(&sql).await.map_err(|failed| failed.told(doing))?;
        let mut indexes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        if let Some(answer) = answers.first() {
            for row in 0..answer.rows.len() {
                let text = |column| answer.text(row, column).unwrap_or_default().to_owned();
                indexes.entry(text(0)).or_default().push(text(1));
            }
        }
        let unique = plan.written.is_key_among(indexes.into_values());
        match unique {
            true => Ok(()),
            false => Err(Error::new(Class::Configuration, "sqlserver.no-key")
                .with("address", &self.address)
                .with("table", table)
                .with("key", plan.list(|at| plan.written.key.contains(&at)))),
        }
    }

    /// Makes the table where it is missing.
    async fn ensure_beside(
        &self,
        link: &mut MssqlLink,
        schema: &str,
        beside: &BesideTable,
    ) -> Result<(), Error> {
        let (table, columns, rights) = (&beside.name, &beside.columns, beside.rights);
        let look = format!("SELECT TOP 0 position FROM {table}");
        let doing = self.doing(table, rights);
        match link.run(&look).await {
            Ok(_) => return Ok(()),
            Err(failed) if failed.number() == 208 => {}
            Err(failed) => return Err(failed.told(doing)),
        }
        match link.run(&unless_there(table, columns)).await {
            Ok(_) => Ok(()),
            // 2760: the schema may not be altered.
            Err(failed) if matches!(failed.number(), 262 | 2760 | 229) => {
                let grant = format!("GRANT {rights} ON {table} TO {}", identifier(&self.user));
                Err(Error::new(Class::Configuration, "sqlserver.no-positions")
                    .with("table", table)
                    .with("database", schema)
                    .with("user", &self.user)
                    .with(
                        "statement",
                        format!("CREATE TABLE {table} {columns}; {grant}"),
                    ))
            }
            Err(failed) => Err(failed.told(doing)),
        }
    }
}

impl WritePlan for MssqlPlan {
    type Session = MssqlLink;
    type Row = LiteralRow;

    // A failure ends the whole transaction, of which some failures leave nothing to go back to.
    const SAVEPOINTS: bool = false;
    const REFUSALS_BYTES: usize = REFUSALS_BYTES;

    fn tables(&self) -> &WriteTables {
        &self.tables
    }

    fn literal(text: &str) -> String {
        literal(text)
    }

    fn known(&self, producer: &str) -> String {
        let positions = &self.tables.positions;
        format!(
            "SELECT position FROM {positions} WITH (UPDLOCK, HOLDLOCK) WHERE producer = {producer}"
        )
    }

    fn ready(
        &self,
        delivery: &Delivery,
        mode: Op,
    ) -> Result<(Vec<LiteralRow>, Vec<Refused>), Error> {
        LiteralRow::ready(&self.written, delivery, mode, target::write)
    }

    async fn begin(&self, link: &mut MssqlLink, from: &WriteOrigin) -> Result<bool, MssqlFailed> {
        let WriteOrigin { producer, position } = from;
        if producer.is_empty() {
            link.run("BEGIN TRANSACTION").await?;
            return Ok(true);
        }
        let table = &self.tables.positions;
        let begun = format!(
            "BEGIN TRANSACTION; SELECT position FROM {table} WITH (UPDLOCK, HOLDLOCK) WHERE producer = {producer}"
        );
        let begun = link.run(&begun).await?;
        let rows = begun.iter().find(|answer| !answer.columns.is_empty());
        let known = rows
            .and_then(|answer| answer.text(0, 0))
            .map(str::parse::<u64>);
        let note = match known {
            Some(Ok(known)) if known >= *position => return Ok(false),
            Some(_) => {
                format!("UPDATE {table} SET position = {position} WHERE producer = {producer}")
            }
            None => {
                format!("INSERT INTO {table} (producer, position) VALUES ({producer}, {position})")
            }
        };
        link.run(&note).await?;
        Ok(true)
    }

    async fn apply(
        &self,
        link: &mut MssqlLink,
        rows: &[LiteralRow],
        _: &WriteOrigin,
        _: &mut Vec<String>,
    ) -> Result<u64, MssqlFailed> {
        for step in LiteralRow::steps(rows, &self.written) {
            match step {
                // TRUNCATE would end the transaction.
                WriteStep::Empty => {
                    let table = &self.tables.written;
                    link.run(&format!("DELETE FROM {table}")).await?;
                }
                WriteStep::Rows(op, rows) => self.send(link, op, &rows).await?,
            }
        }
        Ok(0)
    }
}

impl MssqlPlan {
    /// Names of columns with commas between them.
    fn list(&self, which: impl Fn(usize) -> bool) -> String {
        self.written.list(&DIALECT, which)
    }

    async fn send(
        &self,
        link: &mut MssqlLink,
        op: Op,
        rows: &[&LiteralRow],
    ) -> Result<(), MssqlFailed> {
        let mut parts: Vec<String> = Vec::new();
        let mut bytes = 0;
        for row in rows {
            let one = match op {
                Op::Delete if self.written.key.len() == 1 => row.key.clone(),
                Op::Delete => format!("({})", row.key),
                Op::Update => self.update(row),
                _ => format!("({})", row.values.join(", ")),
            };
            // All values are the old ones.
            if one.is_empty() {
                continue;
            }
            let full = bytes + one.len() > STATEMENT_BYTES || parts.len() >= STATEMENT_ROWS;
            if full && !parts.is_empty() {
                link.run(&self.statement(op, &parts)).await?;
                parts.clear();
                bytes = 0;
            }
            bytes += one.len();
            parts.push(one);
        }
        if !parts.is_empty() {
            link.run(&self.statement(op, &parts)).await?;
        }
        Ok(())
    }

    /// The statement for rows that are written in SQL.
    fn statement(&self, op: Op, parts: &[String]) -> String {
        let table = &self.tables.written;
        let columns = self.list(|_| true);
        match op {
            Op::Delete => {
                let key = self.key_list();
                let rows = parts.join(", ");
                match self.written.key.len() {
                    1 => format!("DELETE FROM {table} WHERE {key} IN ({rows})"),
                    _ => format!(
                        "DELETE t FROM {table} AS t JOIN (VALUES {rows}) AS s ({}) ON {}",
                        key,
                        self.pairs(|at| self.written.key.contains(&at), "t", " AND ")
                    ),
                }
            }
            Op::Update => parts.join("; "),
            Op::Upsert => {
                let rows = format!("(VALUES {}) AS s ({columns})", parts.join(", "));
                let same = self.pairs(|at| self.written.key.contains(&at), "t", " AND ");
                let set = self.pairs(|at| !self.written.key.contains(&at), "t", ", ");
                let mut sql = String::new();
                // Where the key is all there is, nothing changes.
                if !set.is_empty() {
                    sql = format!("UPDATE t SET {set} FROM {table} AS t JOIN {rows} ON {same}; ");
                }
                let given: Vec<_> = self
                    .written
                    .columns
                    .iter()
                    .map(|(_, target)| format!("s.{}", identifier(&target.name)))
                    .collect();
                sql.push_str(&format!(
                    "INSERT INTO {table} ({columns}) SELECT {} FROM {rows} WHERE NOT EXISTS (SELECT 1 FROM {table} AS t WHERE {same})",
                    given.join(", ")
                ));
                sql
            }
            _ => format!(
                "INSERT INTO {table} ({columns}) VALUES {}",
                parts.join(", ")
            ),
        }
    }

    /// `t.a = s.a` for columns.
    fn pairs(&self, which: impl Fn(usize) -> bool, of: &str, between: &str) -> String {
        let columns = self
            .written
            .columns
            .iter()
            .enumerate()
            .filter(|(at, _)| which(*at));
        let pairs = columns.map(|(_, (_, target))| {
            let name = identifier(&target.name);
            format!("{of}.{name} = s.{name}")
        });
        pairs.collect::<Vec<_>>().join(between)
    }

    /// The columns of the key in its own order, which is that of [`LiteralRow::key`].
    fn key_list(&self) -> String {
        let key = self.written.key.iter();
        let key: Vec<_> = key
            .map(|at| identifier(&self.written.columns[*at].1.name))
            .collect();
        key.join(", ")
    }

    /// The condition that is true for the row with this key.
    fn same(&self, row: &LiteralRow) -> String {
        let key = self.written.key.iter();
        let key = key.map(|at| {
            format!(
                "{} = {}",
                identifier(&self.written.columns[*at].1.name),
                row.values[*at]
            )
        });
        key.collect::<Vec<_>>().join(" AND ")
    }

    /// The statement that changes a row; empty where nothing is changed.
    fn update(&self, row: &LiteralRow) -> String {
        let columns = self.written.columns.iter().enumerate();
        let set = columns.filter(|(at, (_, target))| {
            !self.written.key.contains(at) && !row.kept.contains(&target.name)
        });
        let set: Vec<_> = set
            .map(|(at, (_, target))| format!("{} = {}", identifier(&target.name), row.values[at]))
            .collect();
        match set.is_empty() {
            true => String::new(),
            false => format!(
                "UPDATE {} SET {} WHERE {}",
                self.tables.written,
                set.join(", "),
                self.same(row)
            ),
        }
    }
}

/// The statement that makes a table where it is missing.
fn unless_there(table: &str, columns: &str) -> String {
    format!(
        "IF OBJECT_ID({}) IS NULL CREATE TABLE {table} {columns}",
        literal(table)
    )
}

/// The columns of a table that can be written; `None` when there is no such table.
async fn table_columns(
    link: &mut MssqlLink,
    schema: &str,
    table: &str,
) -> Result<Option<Vec<MssqlTarget>>, MssqlFailed> {
    let sql = format!(
        "SELECT COLUMN_NAME, DATA_TYPE, CHARACTER_MAXIMUM_LENGTH, NUMERIC_PRECISION, NUMERIC_SCALE, DATETIME_PRECISION, \
         CHARACTER_SET_NAME FROM INFORMATION_SCHEMA.COLUMNS \
         WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} ORDER BY ORDINAL_POSITION",
        literal(schema),
        literal(table)
    );
    let answers = link.run(&sql).await?;
    let columns = answers.first().map_or_else(Vec::new, |answer| {
        let columns = (0..answer.rows.len()).map(|row| {
            let text = |column| answer.text(row, column).unwrap_or_default();
            let kind = text(1).to_lowercase();
            MssqlTarget {
                name: text(0).to_owned(),
                shown: shown(&kind, [text(2), text(3), text(4), text(5)]),
                scale: if text(5).is_empty() { text(4) } else { text(5) }
                    .parse()
                    .ok(),
                encoding: encoding(&kind, text(6)),
                kind,
                lossy: false,
            }
        });
        // The server counts versions of rows itself.
        columns
            .filter(|column| !matches!(column.kind.as_str(), "timestamp" | "rowversion"))
            .collect()
    });
    Ok((!columns.is_empty()).then_some(columns))
}

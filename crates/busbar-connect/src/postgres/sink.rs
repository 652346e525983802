//! Writes rows to a table: how PostgreSQL does it.

mod prefer;

use arrow::datatypes::SchemaRef;
use busbar_change::postgres::pgoutput::MESSAGE_PREFIX;
use busbar_change::postgres::wire::{identifier, literal};
use busbar_connector::Delivery;
use busbar_event::{Class, Error};

use super::copy::{Cells, Target};
use super::failure::Failed;
use super::limits::STATEMENT_BYTES;
use super::link::{Link, Server};
use super::types::made_for;
use crate::change::keys::{AlikeKey, KeysTogether};
use crate::change::plan::{Dialect, Refused, RowRequests, WriteColumns, takes_over};
use crate::change::refusal::{REFUSED_TABLE, content_of};
use crate::change::{Op, Write};
use crate::relational::sink::{
    BesideTable, RelationalSink, WriteOrigin, WritePlan, WriteRow, WriteServer, WriteTables,
};

/// Writes to one table.
pub type PostgresSink = RelationalSink<Server>;

/// How rows become statements.
pub struct Plan {
    tables: WriteTables,
    written: WriteColumns<Target>,
    /// `there OPERATOR new`: whether a row gives way to one that comes.
    gives_way: &'static str,
    /// Whoever follows the table is told which changes are this sink's.
    is_told: bool,
}

const DIALECT: Dialect = Dialect {
    identifier,
    made_for: |of, _| made_for(of),
    same: |a, b| a == b,
};

/// A row, ready to be sent.
pub struct Ready {
    row: usize,
    op: Op,
    /// The line of COPY with all columns.
    line: Vec<u8>,
    /// The values of the key as they stand in the line.
    key: Vec<u8>,
    /// What the key may be to the database.
    alike: Option<AlikeKey>,
    /// Columns that keep the value they have.
    kept: Vec<String>,
    /// What it is compared by, where the order is known here.
    newer: Option<i64>,
}

impl WriteRow for Ready {
    fn row(&self) -> usize {
        self.row
    }

    fn content(&self) -> String {
        content_of(self.op, &self.line)
    }
}

const STAGE: &str = "pg_temp.busbar_rows";

impl WriteServer for Server {
    type Plan = Plan;

    const PRODUCER_CHARS_MAX: Option<(usize, &'static str)> = None;

    async fn plan(
        &self,
        link: &mut Link,
        options: &Write,
        schema: &SchemaRef,
    ) -> Result<Plan, Error> {
        let (place, name) = options.table_name("public");
        let table = format!("{}.{}", identifier(place), identifier(name));
        let doing = self.doing(&table, options.rights());
        if options.create {
            let columns = DIALECT.definitions(options, schema);
            let made = format!("CREATE TABLE IF NOT EXISTS {table} ({columns})");
            link.run(&made).await.map_err(|failed| failed.told(doing))?;
        }
        let found = table_columns(link, &table)
            .await
            .map_err(|failed| failed.told(doing))?;
        let written = WriteColumns::plan(&DIALECT, options, schema, &table, &found)?;
        let positions = format!("{}.busbar_position", identifier(place));
        let refusals = format!("{}.{REFUSED_TABLE}", identifier(place));
        let beside = [
            BesideTable {
                name: positions.clone(),
                columns: "producer text PRIMARY KEY, position bigint NOT NULL".into(),
                rights: "SELECT, INSERT, UPDATE",
            },
            BesideTable {
                name: refusals.clone(),
                columns: "producer text, position bigint NOT NULL, refused_row bigint, content text NOT NULL, \
                          cause text NOT NULL, PRIMARY KEY (producer, refused_row)"
                    .into(),
                rights: "SELECT, INSERT, DELETE",
            },
        ];
        for table in beside {
            self.ensure_beside(link, &table).await?;
        }
        let plan = Plan {
            tables: WriteTables {
                written: table,
                positions,
                refusals,
            },
            written,
            gives_way: options.gives_way(),
            is_told: options.is_told(),
        };
        if !plan.written.key.is_empty() {
            let was = plan.written.prefer.map_or_else(String::new, |prefer| {
                let version = &plan.written.columns[prefer.version].1.name;
                format!(", {} AS {}", identifier(version), prefer::WAS)
            });
            let stage = format!(
                "CREATE TEMP TABLE busbar_rows ON COMMIT DELETE ROWS AS SELECT {}{was} FROM {} WITH NO DATA",
                plan.list(|_| true),
                plan.tables.written
            );
            let doing = self.doing(&plan.tables.written, options.rights());
            link.run(&stage)
                .await
                .map_err(|failed| failed.told(doing))?;
        }
        Ok(plan)
    }
}

impl Server {
    /// Makes the table where it is missing, and sees that it may be used.
    async fn ensure_beside(&self, link: &mut Link, beside: &BesideTable) -> Result<(), Error> {
        let (table, rights) = (&beside.name, beside.rights);
        let name = literal(table);
        let may = rights.split(", ");
        let may = may.map(|right| format!("has_table_privilege({name}, '{right}')"));
        let exists = format!(
            "SELECT to_regclass({name}) IS NOT NULL, CASE WHEN to_regclass({name}) IS NOT NULL THEN {} END",
            may.collect::<Vec<_>>().join(" AND ")
        );
        let doing = self.doing(table, rights);
        let there = link
            .run(&exists)
            .await
            .map_err(|failed| failed.told(doing))?;
        let is = |column| there.first().and_then(|answer| answer.text(0, column)) == Some("t");
        if is(0) {
            return match is(1) {
                true => Ok(()),
                false => Err(
                    Error::new(Class::Configuration, "postgres.rights-positions")
                        .with("user", &self.user)
                        .with("table", table)
                        .with("rights", rights),
                ),
            };
        }
        let made = format!("CREATE TABLE IF NOT EXISTS {table} ({})", beside.columns);
        match link.run(&made).await {
            Ok(_) => Ok(()),
            // Two sinks make it at the same time, and one of them fails in the catalogue.
            Err(failed) if matches!(failed.code(), "23505" | "42P07") => Ok(()),
            Err(failed) if failed.code() == "42501" => {
                let grant = format!("GRANT {rights} ON {table} TO {}", identifier(&self.user));
                Err(Error::new(Class::Configuration, "postgres.no-positions")
                    .with("table", table)
                    .with("user", &self.user)
                    .with(
                        "statement",
                        format!("{}; {grant}", made.replace("IF NOT EXISTS ", "")),
                    ))
            }
            Err(failed) => Err(failed.told(doing)),
        }
    }
}

impl WritePlan for Plan {
    type Session = Link;
    type Row = Ready;

    const SAVEPOINTS: bool = true;
    const REFUSALS_BYTES: usize = STATEMENT_BYTES;

    fn tables(&self) -> &WriteTables {
        &self.tables
    }

    fn literal(text: &str) -> String {
        literal(text)
    }

    fn known(&self, producer: &str) -> String {
        let positions = &self.tables.positions;
        format!("SELECT position FROM {positions} WHERE producer = {producer} FOR UPDATE")
    }

    fn ready(&self, delivery: &Delivery, mode: Op) -> Result<(Vec<Ready>, Vec<Refused>), Error> {
        let rows = &delivery.rows;
        let columns = self.written.columns.iter();
        let cells = columns.map(|(at, target)| Cells::new(rows.column(*at), target));
        let cells = cells.collect::<Result<Vec<_>, _>>()?;
        let was = self.written.prefer.map(|prefer| {
            let version = &self.written.columns[prefer.version].1;
            Cells::new(rows.column(prefer.was), version)
        });
        let was = was.transpose()?;
        let asked = self.written.asked(rows, mode)?;
        Ok(RowRequests::ready(rows.num_rows(), |row| {
            self.row(row, &cells, was.as_ref(), &asked)
        }))
    }

    async fn begin(&self, link: &mut Link, from: &WriteOrigin) -> Result<bool, Failed> {
        let WriteOrigin { producer, position } = from;
        if producer.is_empty() {
            link.run("BEGIN").await?;
            return Ok(true);
        }
        // Whoever follows the changes sees in the log who has written them; the table of positions is not followed.
        let told = match self.is_told {
            false => String::new(),
            true => {
                format!("SELECT pg_logical_emit_message(true, '{MESSAGE_PREFIX}', {producer}); ")
            }
        };
        let begun = format!(
            "BEGIN; {told}INSERT INTO {positions} AS p VALUES ({producer}, {position}) ON CONFLICT (producer) \
             DO UPDATE SET position = excluded.position WHERE p.position < excluded.position",
            positions = self.tables.positions,
        );
        let begun = link.run(&begun).await?;
        Ok(begun.last().is_some_and(|answer| answer.count() == 1))
    }

    async fn apply(
        &self,
        link: &mut Link,
        rows: &[Ready],
        from: &WriteOrigin,
        _: &mut Vec<String>,
    ) -> Result<u64, Failed> {
        // Whom whoever follows the table is told to have written; empty for nobody.
        let producer = if self.is_told { &*from.producer } else { "" };
        if self.written.key.is_empty() {
            for rows in rows.split_inclusive(|row| row.op == Op::Truncate) {
                self.copy(
                    link,
                    &self.tables.written,
                    rows.iter().filter(|row| row.op != Op::Truncate),
                )
                .await?;
                if rows.last().is_some_and(|row| row.op == Op::Truncate) {
                    link.run(&format!("TRUNCATE {}", self.tables.written))
                        .await?;
                }
            }
            return Ok(0);
        }
        let mut conflicts = 0;
        // Of several rows with one key the last one counts, unless it waits for the one before it.
        let mut keys = KeysTogether::default();
        let mut begin = 0;
        for (at, row) in rows.iter().enumerate() {
            let differs = row.op == Op::Insert || rows[begin].op == Op::Insert;
            let before = keys.last(&row.key).map(|before| &rows[before]);
            let cut = match row.op {
                Op::Truncate => true,
                _ => {
                    before.is_some_and(|before| self.waits(before, row))
                        || keys.may_be_other(&row.key, row.alike.as_ref())
                        || differs && row.op != rows[begin].op
                }
            };
            if cut {
                let rows = &rows[begin..at];
                conflicts += self.flush(link, rows, &keys, begin, producer).await?;
                keys.clear();
                begin = at;
            }
            if row.op == Op::Truncate {
                link.run(&format!("TRUNCATE {}", self.tables.written))
                    .await?;
                begin = at + 1;
                continue;
            }
            keys.note(&row.key, row.alike.as_ref(), at);
        }
        let rest = rows.get(begin..).unwrap_or_default();
        Ok(conflicts + self.flush(link, rest, &keys, begin, producer).await?)
    }
}

impl Plan {
    /// Names of columns with commas between them.
    fn list(&self, which: impl Fn(usize) -> bool) -> String {
        self.written.list(&DIALECT, which)
    }

    fn row(
        &self,
        row: usize,
        cells: &[Cells],
        was: Option<&Cells>,
        asked: &RowRequests,
    ) -> Result<Option<Ready>, Error> {
        let op = asked.op(row)?;
        if op == Op::Nothing {
            return Ok(None);
        }
        let mut line = Vec::new();
        let mut ends = Vec::with_capacity(cells.len());
        for (at, (cells, (_, target))) in cells.iter().zip(&self.written.columns).enumerate() {
            if at > 0 {
                line.push(b'\t');
            }
            let begin = line.len();
            cells.write(row, target, &mut line)?;
            ends.push(begin..line.len());
        }
        if let (Some(prefer), Some(was)) = (self.written.prefer, was) {
            let version = &self.written.columns[prefer.version].1;
            line.push(b'\t');
            match op {
                // The deleted row is the one that the change was made on.
                Op::Delete => cells[prefer.version].write(row, version, &mut line)?,
                _ => was.write(row, version, &mut line)?,
            }
        }
        line.push(b'\n');
        self.written.check_key(op, |at| cells[at].is_null(row))?;
        let mut key = Vec::new();
        for at in &self.written.key {
            key.extend_from_slice(&line[ends[*at].clone()]);
            key.push(b'\t');
        }
        Ok(Some(Ready {
            row,
            op,
            alike: self.written.alike(|at| &line[ends[at].clone()]),
            line,
            key,
            kept: asked.kept(row),
            newer: asked.newer(row),
        }))
    }

    /// Whether a row waits until the one before it with its key is written: it keeps values of it, or is compared with it.
    fn waits(&self, before: &Ready, row: &Ready) -> bool {
        let is_compared = self.written.newer.is_some();
        !row.kept.is_empty()
            || self.written.compares(row.op)
            || is_compared && !takes_over((before.op, before.newer), (row.op, row.newer))
    }

    /// Writes the last row of each key, and answers how many gave way to rows there.
    async fn flush(
        &self,
        link: &mut Link,
        rows: &[Ready],
        keys: &KeysTogether<'_>,
        begin: usize,
        producer: &str,
    ) -> Result<u64, Failed> {
        if rows.first().is_some_and(|row| row.op == Op::Insert) {
            return self
                .copy(link, &self.tables.written, rows.iter())
                .await
                .map(|()| 0);
        }
        let mut conflicts = 0;
        let mut groups: Vec<(Op, &[String], Vec<&Ready>)> = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            // A row that takes the place of a deleted one keeps none of its values.
            if row.op != Op::Delete && keys.last(&row.key) != Some(begin + at) {
                continue;
            }
            match groups
                .iter_mut()
                .find(|(op, kept, _)| *op == row.op && *kept == &row.kept[..])
            {
                Some((_, _, rows)) => rows.push(row),
                None => groups.push((row.op, &row.kept, vec![row])),
            }
        }
        // What is deleted first makes room for what takes its place.
        groups.sort_by_key(|(op, ..)| *op != Op::Delete);
        for (op, kept, mut rows) in groups {
            // Locks are taken in one order, so that two writers do not wait for each other.
            rows.sort_by(|a, b| a.key.cmp(&b.key));
            self.copy(link, STAGE, rows.iter().copied()).await?;
            if let Some(prefer) = self.written.prefer.filter(|prefer| prefer.row.compares(op)) {
                conflicts += self.compared(link, prefer, (op, kept), producer).await?;
                link.run(&format!("TRUNCATE {STAGE}")).await?;
                continue;
            }
            let statement = self.statement(op, kept);
            if self.written.newer.is_none() {
                link.run(&format!("{statement}; TRUNCATE {STAGE}")).await?;
                continue;
            }
            let done = link.run(&statement).await?;
            if done.last().map_or(0, |done| done.count()) < rows.len() as u64 {
                let different = link.run(&self.different(op, kept)).await?;
                let count = different.first().and_then(|answer| answer.text(0, 0));
                conflicts += count.and_then(|count| count.parse().ok()).unwrap_or(0);
            }
            link.run(&format!("TRUNCATE {STAGE}")).await?;
        }
        Ok(conflicts)
    }

    /// The statement that counts the rows of the stage that are not in the table as they came, after they were written: those
    /// that gave way. A deleted row is not to be there at all.
    fn different(&self, op: Op, kept: &[String]) -> String {
        let table = &self.tables.written;
        let name = |at: usize| identifier(&self.written.columns[at].1.name);
        let is_key = |at: &usize| self.written.key.contains(at);
        let key = self.written.key.iter();
        let same: Vec<_> = key.map(|at| format!("t.{0} = s.{0}", name(*at))).collect();
        // Not every type can be compared, but each has a text.
        let columns = (0..self.written.columns.len())
            .filter(|at| !is_key(at) && !kept.contains(&self.written.columns[*at].1.name));
        let differs: Vec<_> = columns
            .map(|at| format!("t.{0}::text IS DISTINCT FROM s.{0}::text", name(at)))
            .collect();
        let there = match op {
            Op::Delete => String::new(),
            _ => format!(" AND ({})", differs.join(" OR ")),
        };
        format!(
            "SELECT count(*) FROM {STAGE} s JOIN {table} t ON {}{there}",
            same.join(" AND ")
        )
    }

    /// The statement that takes the rows over from the stage.
    fn statement(&self, op: Op, kept: &[String]) -> String {
        let table = &self.tables.written;
        let is_key = |at: usize| self.written.key.contains(&at);
        let name = |at: usize| identifier(&self.written.columns[at].1.name);
        let same: Vec<_> = self
            .written
            .key
            .iter()
            .map(|at| format!("t.{0} = s.{0}", name(*at)))
            .collect();
        let same = same.join(" AND ");
        let set = |from: &str| self.set(kept, from);
        // Only a row that is not newer is changed or deleted.
        let unless_newer = |begin: &str, than: &str, from: &str| match self.written.newer {
            None => String::new(),
            Some(at) => format!(
                "{begin} (t.{0} IS NULL OR t.{0} {than} {from}.{0})",
                name(at)
            ),
        };
        match op {
            Op::Delete => format!(
                "DELETE FROM {table} t USING {STAGE} s WHERE {same}{}",
                unless_newer(" AND", "<=", "s")
            ),
            // A row of which not all values are known is no whole row.
            _ if op == Op::Update || !kept.is_empty() => match set("s") {
                set if set.is_empty() => "SELECT 0".into(),
                set => format!(
                    "UPDATE {table} t SET {set} FROM {STAGE} s WHERE {same}{}",
                    unless_newer(" AND", self.gives_way, "s")
                ),
            },
            _ => {
                let all = self.list(|_| true);
                let key = self.list(is_key);
                let what = match set("excluded") {
                    set if set.is_empty() => "NOTHING".into(),
                    set => format!(
                        "UPDATE SET {set}{}",
                        unless_newer(" WHERE", self.gives_way, "excluded")
                    ),
                };
                format!(
                    "INSERT INTO {table} AS t ({all}) SELECT {all} FROM {STAGE} ON CONFLICT ({key}) DO {what}"
                )
            }
        }
    }

    /// The assignments of all columns that are not of the key and not kept, from the columns of a relation.
    fn set(&self, kept: &[String], from: &str) -> String {
        let columns = self.written.columns.iter().enumerate();
        let set = columns
            .filter(|(at, (_, target))| {
                !self.written.key.contains(at) && !kept.contains(&target.name)
            })
            .map(|(_, (_, target))| format!("{0} = {from}.{0}", identifier(&target.name)));
        set.collect::<Vec<_>>().join(", ")
    }

    async fn copy(
        &self,
        link: &mut Link,
        to: &str,
        rows: impl Iterator<Item = &Ready>,
    ) -> Result<(), Failed> {
        let data: Vec<u8> = rows.flat_map(|row| &row.line).copied().collect();
        if data.is_empty() {
            return Ok(());
        }
        let was = match self.written.prefer {
            Some(_) => format!(", {}", prefer::WAS),
            None => String::new(),
        };
        let sql = format!("COPY {to} ({}{was}) FROM STDIN", self.list(|_| true));
        link.copy_in(&sql, &data).await.map(drop)
    }
}

/// The columns of a table that can be written.
pub(super) async fn table_columns(link: &mut Link, table: &str) -> Result<Vec<Target>, Failed> {
    // A domain is its base type.
    let sql = format!(
        "SELECT a.attname, CASE WHEN t.typbasetype <> 0 THEN t.typbasetype ELSE a.atttypid END::int8, \
         CASE WHEN t.typbasetype <> 0 THEN t.typtypmod ELSE a.atttypmod END, format_type(a.atttypid, a.atttypmod), \
         COALESCE((SELECT to_jsonb(l) ->> 'collisdeterministic' = 'false' FROM pg_collation l WHERE l.oid = a.attcollation), false) \
         OR EXISTS (SELECT 1 FROM pg_type c WHERE c.typname = 'citext' AND c.oid IN (t.oid, t.typbasetype)) \
         FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
         WHERE a.attrelid = {}::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' \
         ORDER BY a.attnum",
        literal(table)
    );
    let answers = link.run(&sql).await?;
    let Some(answer) = answers.first() else {
        return Ok(Vec::new());
    };
    Ok((0..answer.rows.len())
        .map(|row| {
            let text = |column| answer.text(row, column).unwrap_or_default();
            Target {
                name: text(0).to_owned(),
                oid: text(1).parse().unwrap_or(0),
                modifier: text(2).parse().unwrap_or(-1),
                shown: text(3).to_owned(),
                is_collated: text(4) == "t",
                lossy: false,
            }
        })
        .collect())
}

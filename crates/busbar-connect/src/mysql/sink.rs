//! Writes rows to a table, each delivery in one transaction together with the producer's position.

mod prefer;
mod refused;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use busbar_connector::{Delivery, Sink, SinkContext, Work, Written};
use busbar_event::{Class, Error};

use super::failure::Failed;
use super::limits::{PRODUCER_CHARS_MAX, STATEMENT_BYTES};
use super::link::{Link, MysqlServer, closed};
use super::table_columns::table_columns;
use super::values::{MysqlCells, Target, made_for};
use super::wire::{identifier, literal};
use crate::change::plan::{Dialect, Halving, Refused, RowRequests, WriteColumns, takes_over};
use crate::change::refusal::{REFUSED_TABLE, content_of};
use crate::change::{Op, Write};
use refused::{keep_refused, recall};

/// The table that keeps how far producers have come.
pub(super) const POSITIONS_TABLE: &str = "busbar_position";

/// The variable of a session that counts rows that gave way to those there.
const CONFLICTS: &str = "@busbar_conflicts";

/// Writes to one table.
pub struct MysqlSink {
    server: MysqlServer,
    /// The connection's name, before the names of producers.
    name: Arc<str>,
    options: Write,
    schema: SchemaRef,
    link: Option<Link>,
    plan: Option<Arc<Plan>>,
}

/// How rows become statements; made once a session, from the table as it is.
struct Plan {
    /// The table, as it is written in SQL.
    table: String,
    positions: String,
    refusals: String,
    written: WriteColumns<Target>,
    /// `there OPERATOR new`: whether a row gives way to one that comes.
    gives_way: &'static str,
}

const DIALECT: Dialect = Dialect {
    identifier,
    made_for,
    same: str::eq_ignore_ascii_case,
};

/// A row, ready to be sent.
struct Ready {
    row: usize,
    op: Op,
    /// The literals of all columns.
    values: Vec<String>,
    /// Those of the key, with commas between them.
    key: String,
    /// Columns that keep the value they have.
    kept: Vec<String>,
    /// What it is compared by, where the order is known here.
    newer: Option<i64>,
    /// The version that the change was made on, and whether there was no row before it.
    was: String,
    is_new: bool,
}

impl Ready {
    fn content(&self) -> String {
        content_of(self.op, self.values.join(","))
    }
}

/// The producer of a delivery and its position, as they are written in SQL.
struct WriteOrigin {
    /// Empty for none.
    producer: String,
    position: u64,
}

/// A table that is kept beside those that are written to.
struct MysqlBeside {
    name: String,
    columns: String,
    rights: &'static str,
}

impl MysqlSink {
    /// Opens a session and looks at the table, which is made where that is asked for.
    pub(super) async fn open(
        server: MysqlServer,
        options: Write,
        context: SinkContext,
    ) -> Result<MysqlSink, Error> {
        let mut sink = MysqlSink {
            server,
            name: context.name,
            options,
            schema: context.schema,
            link: None,
            plan: None,
        };
        sink.session().await?;
        Ok(sink)
    }

    /// The session, opened anew unless the one there is can be used.
    async fn session(&mut self) -> Result<(), Error> {
        if self.link.as_ref().is_some_and(Link::usable) && self.plan.is_some() {
            return Ok(());
        }
        self.link = None;
        let mut link = self.server.open().await?;
        self.plan = Some(Arc::new(self.plan(&mut link).await?));
        self.link = Some(link);
        Ok(())
    }

    async fn plan(&self, link: &mut Link) -> Result<Plan, Error> {
        let options = &self.options;
        let (schema, name) = options.table_name(&self.server.database);
        let table = format!("{}.{}", identifier(schema), identifier(name));
        let doing = self.server.doing(&table, options.rights());
        if options.create {
            let made = self.made(&table);
            link.run(&made).await.map_err(|failed| failed.told(doing))?;
        }
        let found = table_columns(link, schema, name)
            .await
            .map_err(|failed| failed.told(doing))?;
        let Some((engine, found)) = found else {
            return Err(Error::new(Class::Configuration, "mysql.no-table")
                .with("address", &self.server.address)
                .with("said", "-")
                .with("table", &table));
        };
        if engine != "InnoDB" {
            return Err(Error::new(Class::Configuration, "mysql.engine")
                .with("table", &table)
                .with("engine", engine));
        }
        let written = WriteColumns::plan(&DIALECT, options, &self.schema, &table, &found)?;
        let plan = Plan {
            table,
            positions: format!("{}.`{POSITIONS_TABLE}`", identifier(schema)),
            refusals: format!("{}.`{REFUSED_TABLE}`", identifier(schema)),
            written,
            gives_way: options.gives_way(),
        };
        self.check_key(link, &plan, schema, name).await?;
        let producer = format!(
            "producer varchar({PRODUCER_CHARS_MAX}) character set utf8mb4 collate utf8mb4_bin"
        );
        let beside = [
            MysqlBeside {
                name: plan.positions.clone(),
                columns: format!(
                    "({producer} PRIMARY KEY, position bigint unsigned NOT NULL) ENGINE=InnoDB"
                ),
                rights: "SELECT, INSERT, UPDATE",
            },
            MysqlBeside {
                name: plan.refusals.clone(),
                columns: format!(
                    "({producer} NOT NULL, position bigint unsigned NOT NULL, refused_row bigint unsigned NOT NULL, \
                     content char(16) NOT NULL, cause longtext character set utf8mb4 NOT NULL, \
                     PRIMARY KEY (producer, refused_row)) ENGINE=InnoDB"
                ),
                rights: "SELECT, INSERT, DELETE",
            },
        ];
        for table in beside {
            self.ensure_beside(link, schema, &table).await?;
        }
        Ok(plan)
    }

    /// Sees that the server tells rows apart by the key, and by nothing less.
    async fn check_key(
        &self,
        link: &mut Link,
        plan: &Plan,
        schema: &str,
        name: &str,
    ) -> Result<(), Error> {
        if plan.written.key.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "SELECT index_name, GROUP_CONCAT(column_name ORDER BY column_name SEPARATOR '\\t') FROM information_schema.statistics \
             WHERE table_schema = {} AND table_name = {} AND non_unique = 0 AND sub_part IS NULL GROUP BY index_name",
            literal(schema),
            literal(name)
        )
        .replace("\\t", "\t");
        let doing = self.server.doing(&plan.table, self.options.rights());
        let answers = link.run(&sql).await.map_err(|failed| failed.told(doing))?;
        let mut wanted: Vec<_> = plan
            .written
            .key
            .iter()
            .map(|at| plan.written.columns[*at].1.name.to_lowercase())
            .collect();
        wanted.sort();
        let unique = answers.first().is_some_and(|answer| {
            (0..answer.rows.len()).any(|row| {
                let mut there: Vec<_> = answer
                    .text(row, 1)
                    .unwrap_or_default()
                    .split('\t')
                    .map(str::to_lowercase)
                    .collect();
                there.sort();
                there == wanted
            })
        });
        match unique {
            true => Ok(()),
            false => Err(Error::new(Class::Configuration, "mysql.no-key")
                .with("address", &self.server.address)
                .with("table", &plan.table)
                .with("key", plan.list(|at| plan.written.key.contains(&at)))),
        }
    }

    /// The statement that makes the table.
    fn made(&self, table: &str) -> String {
        let columns = DIALECT.definitions(&self.options, &self.schema);
        format!("CREATE TABLE IF NOT EXISTS {table} ({columns}) ENGINE=InnoDB")
    }

    /// Makes the table where it is missing.
    async fn ensure_beside(
        &self,
        link: &mut Link,
        schema: &str,
        beside: &MysqlBeside,
    ) -> Result<(), Error> {
        let (table, columns, rights) = (&beside.name, &beside.columns, beside.rights);
        let look = format!("SELECT position FROM {table} LIMIT 0");
        let doing = self.server.doing(table, rights);
        match link.run(&look).await {
            Ok(_) => return Ok(()),
            Err(failed) if failed.number() == 1146 => {}
            Err(failed) if failed.number() == 1142 => {}
            Err(failed) => return Err(failed.told(doing)),
        }
        match link
            .run(&format!("CREATE TABLE IF NOT EXISTS {table} {columns}"))
            .await
        {
            Ok(_) => Ok(()),
            Err(failed) if matches!(failed.number(), 1142 | 1044) => {
                let grant = format!("GRANT {rights} ON {table} TO '{}'", self.server.user);
                Err(Error::new(Class::Configuration, "mysql.no-positions")
                    .with("table", table)
                    .with("database", schema)
                    .with("user", &self.server.user)
                    .with(
                        "statement",
                        format!("CREATE TABLE {table} {columns}; {grant}"),
                    ))
            }
            Err(failed) => Err(failed.told(doing)),
        }
    }

    /// The name that the position is kept under; empty for none.
    fn producer(&self, producer: &str) -> Result<String, Error> {
        if producer.is_empty() {
            return Ok(String::new());
        }
        let producer = format!(
            "{}/{producer}",
            self.options.producer.as_deref().unwrap_or(&self.name)
        );
        match producer.chars().count() > PRODUCER_CHARS_MAX {
            false => Ok(literal(&producer)),
            true => {
                Err(Error::new(Class::Configuration, "mysql.producer-long")
                    .with("producer", producer))
            }
        }
    }

    async fn deliver(&mut self, delivery: &Delivery) -> Result<Written, Error> {
        self.session().await?;
        let (Some(mut link), Some(plan)) = (self.link.take(), self.plan.clone()) else {
            return Err(closed(&self.server.address));
        };
        let from = WriteOrigin {
            producer: self.producer(&delivery.producer)?,
            position: delivery.position,
        };
        let (ready, mut rejected) = plan.ready(delivery, self.options.mode.into())?;
        let written = match transaction(&mut link, &plan, &from, &ready).await {
            Err(failed) if failed.is_about_rows() => match link.run("ROLLBACK").await {
                Ok(_) => {
                    let told = |failed: Failed| {
                        failed.told(self.server.doing(&plan.table, self.options.rights()))
                    };
                    in_pieces(&mut link, &plan, &from, &ready, &mut rejected, told).await
                }
                Err(failed) => Err(failed),
            },
            other => other,
        };
        let written = match written {
            Ok(None) => {
                let recalled = recall(&mut link, &plan, &from, &ready).await;
                recalled.map(|refused| {
                    rejected.extend(refused);
                    0
                })
            }
            Ok(Some(conflicts)) => Ok(conflicts),
            Err(failed) => Err(failed),
        };
        match written {
            Ok(conflicts) => {
                self.link = Some(link);
                rejected.sort_by_key(|(row, _)| *row);
                Ok(Written {
                    rejected,
                    conflicts,
                })
            }
            Err(failed) => {
                let error = failed.told(self.server.doing(&plan.table, self.options.rights()));
                // The table may have changed; the next session looks at it anew. What this one began ends with it.
                link.close().await;
                Err(error)
            }
        }
    }

    async fn known(&mut self, producer: &str) -> Result<Option<u64>, Error> {
        self.session().await?;
        let (Some(mut link), Some(plan)) = (self.link.take(), self.plan.clone()) else {
            return Ok(None);
        };
        // Waits for a transaction of a session before that may still be under way.
        let producer = self.producer(producer)?;
        let sql = format!(
            "SELECT position FROM {} WHERE producer = {producer} FOR UPDATE",
            plan.positions
        );
        let answers = link.run(&sql).await;
        let answers = answers
            .map_err(|failed| failed.told(self.server.doing(&plan.positions, "SELECT, UPDATE")))?;
        self.link = Some(link);
        let position = answers.first().and_then(|answer| answer.text(0, 0));
        Ok(position.and_then(|position| position.parse().ok()))
    }
}

impl Sink for MysqlSink {
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>> {
        Box::pin(self.deliver(delivery))
    }

    fn position<'a>(&'a mut self, producer: &'a str) -> Work<'a, Result<Option<u64>, Error>> {
        Box::pin(self.known(producer))
    }

    fn close(&mut self) -> Work<'_, Result<(), Error>> {
        Box::pin(async {
            if let Some(link) = self.link.take() {
                link.close().await;
            }
            Ok(())
        })
    }
}

/// Begins a transaction and notes the position; false when it is known already.
async fn begin(link: &mut Link, plan: &Plan, from: &WriteOrigin) -> Result<bool, Failed> {
    let WriteOrigin { producer, position } = from;
    if producer.is_empty() {
        link.run("BEGIN").await?;
        return Ok(true);
    }
    let begun = format!(
        "BEGIN; INSERT INTO {} VALUES ({producer}, {position}) ON DUPLICATE KEY UPDATE position = GREATEST(position, {position})",
        plan.positions
    );
    let begun = link.run(&begun).await?;
    // 1 for a new row, 2 for one that is changed.
    Ok(begun.last().is_some_and(|answer| answer.affected > 0))
}

/// Writes rows and position, and answers how many rows gave way; `None` when the position was known already.
async fn transaction(
    link: &mut Link,
    plan: &Plan,
    from: &WriteOrigin,
    ready: &[Ready],
) -> Result<Option<u64>, Failed> {
    if !begin(link, plan, from).await? {
        return link.run("ROLLBACK").await.map(|_| None);
    }
    let mut anew = Vec::new();
    let conflicts = plan.counted(link, ready, &mut anew).await?;
    plan.end(link, from, &anew).await?;
    link.run("COMMIT").await.map(|_| Some(conflicts))
}

/// The same, where some rows are at fault: they are found by halving, and all others are written with the position.
async fn in_pieces(
    link: &mut Link,
    plan: &Plan,
    from: &WriteOrigin,
    ready: &[Ready],
    rejected: &mut Vec<Refused>,
    told: impl Fn(Failed) -> Error,
) -> Result<Option<u64>, Failed> {
    if !begin(link, plan, from).await? {
        return link.run("ROLLBACK").await.map(|_| None);
    }
    let mut conflicts = 0;
    let (mut refused, mut anew) = (Vec::new(), Vec::new());
    let mut halving = Halving::new(ready);
    while let Some(rows) = halving.part() {
        link.run("SAVEPOINT busbar").await?;
        let known = anew.len();
        match plan.counted(link, rows, &mut anew).await {
            Ok(more) => conflicts += more,
            Err(failed) if failed.is_about_rows() => {
                anew.truncate(known);
                link.run("ROLLBACK TO SAVEPOINT busbar").await?;
                if let Some(one) = halving.refused(rows) {
                    refused.push((one.row, told(failed)));
                }
            }
            Err(failed) => return Err(failed),
        }
    }
    if !from.producer.is_empty() {
        keep_refused(link, plan, from, ready, &refused).await?;
    }
    plan.end(link, from, &anew).await?;
    link.run("COMMIT").await?;
    rejected.append(&mut refused);
    Ok(Some(conflicts))
}

impl Plan {
    /// Names of columns with commas between them.
    fn list(&self, which: impl Fn(usize) -> bool) -> String {
        self.written.list(&DIALECT, which)
    }

    /// Rows as they are sent, and those that cannot be.
    fn ready(&self, delivery: &Delivery, mode: Op) -> Result<(Vec<Ready>, Vec<Refused>), Error> {
        let rows = &delivery.rows;
        let cells = self
            .written
            .columns
            .iter()
            .map(|(at, target)| MysqlCells::new(rows.column(*at), target));
        let cells = cells.collect::<Result<Vec<_>, _>>()?;
        let was = self.written.prefer.map(|prefer| {
            let version = &self.written.columns[prefer.version].1;
            MysqlCells::new(rows.column(prefer.was), version)
        });
        let was = was.transpose()?;
        let asked = self.written.asked(rows, mode)?;
        Ok(RowRequests::ready(rows.num_rows(), |row| {
            self.row(row, &cells, was.as_ref(), &asked)
        }))
    }

    fn row(
        &self,
        row: usize,
        cells: &[MysqlCells],
        was: Option<&MysqlCells>,
        asked: &RowRequests,
    ) -> Result<Option<Ready>, Error> {
        let op = asked.op(row)?;
        if op == Op::Nothing {
            return Ok(None);
        }
        let mut values = Vec::with_capacity(cells.len());
        for (cells, (_, target)) in cells.iter().zip(&self.written.columns) {
            let mut value = String::new();
            cells.write(row, target, &mut value)?;
            values.push(value);
        }
        self.written.check_key(op, |at| cells[at].is_null(row))?;
        let mut version_was = String::new();
        if let (Some(prefer), Some(was)) = (self.written.prefer, was) {
            match op {
                // The deleted row is the one that the change was made on.
                Op::Delete => version_was.clone_from(&values[prefer.version]),
                _ => {
                    let version = &self.written.columns[prefer.version].1;
                    was.write(row, version, &mut version_was)?;
                }
            }
        }
        let key = self.written.key.iter().map(|at| values[*at].as_str());
        let key = key.collect::<Vec<_>>().join(", ");
        Ok(Some(Ready {
            row,
            op,
            values,
            key,
            kept: asked.kept(row),
            newer: asked.newer(row),
            was: version_was,
            is_new: asked.is_new(row),
        }))
    }

    /// Writes rows within the transaction that is open, and answers how many gave way to rows there. Which of these are to be
    /// written anew before its end is added to `anew`.
    async fn counted(
        &self,
        link: &mut Link,
        rows: &[Ready],
        anew: &mut Vec<String>,
    ) -> Result<u64, Failed> {
        if self.written.newer.is_none() {
            let known = anew.len();
            self.apply(link, rows, anew).await?;
            return Ok((anew.len() - known) as u64);
        }
        link.run(&format!("SET {CONFLICTS} = 0")).await?;
        self.apply(link, rows, anew).await?;
        let counted = link.run(&format!("SELECT {CONFLICTS}")).await?;
        let counted = counted.first().and_then(|answer| answer.text(0, 0));
        Ok(counted.and_then(|count| count.parse().ok()).unwrap_or(0))
    }

    /// What comes before the end of a transaction.
    async fn end(
        &self,
        link: &mut Link,
        from: &WriteOrigin,
        anew: &[String],
    ) -> Result<(), Failed> {
        match self.written.prefer {
            None => Ok(()),
            Some(prefer) => {
                let is_told = !from.producer.is_empty();
                self.write_anew(link, prefer, anew, is_told).await
            }
        }
    }

    async fn apply(
        &self,
        link: &mut Link,
        rows: &[Ready],
        anew: &mut Vec<String>,
    ) -> Result<(), Failed> {
        // Of several rows with one key the last one counts, unless it waits for the one before it.
        let mut last: HashMap<&str, usize> = HashMap::new();
        let mut begin = 0;
        for (at, row) in rows.iter().enumerate() {
            let before = last.get(row.key.as_str()).map(|before| &rows[*before]);
            if row.op == Op::Truncate || before.is_some_and(|before| self.waits(before, row)) {
                self.flush(link, &rows[begin..at], &last, begin, anew)
                    .await?;
                last.clear();
                begin = at;
            }
            if row.op == Op::Truncate {
                // TRUNCATE would end the transaction.
                link.run(&format!("DELETE FROM {}", self.table)).await?;
                begin = at + 1;
                continue;
            }
            last.insert(&row.key, at);
        }
        let rest = rows.get(begin..).unwrap_or_default();
        self.flush(link, rest, &last, begin, anew).await
    }

    /// Whether a row waits until the one before it with its key is written: it keeps values of it, or is compared with it.
    fn waits(&self, before: &Ready, row: &Ready) -> bool {
        let is_compared = self.written.newer.is_some();
        !row.kept.is_empty()
            || self.written.compares(row.op)
            || is_compared && !takes_over((before.op, before.newer), (row.op, row.newer))
    }

    /// Writes the last row of each key.
    async fn flush(
        &self,
        link: &mut Link,
        rows: &[Ready],
        last: &HashMap<&str, usize>,
        begin: usize,
        anew: &mut Vec<String>,
    ) -> Result<(), Failed> {
        let mut groups: Vec<(Op, Vec<&Ready>)> = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            // A row that takes the place of a deleted one keeps none of its values.
            let counts = matches!(row.op, Op::Insert | Op::Delete);
            if !counts && last.get(row.key.as_str()) != Some(&(begin + at)) {
                continue;
            }
            // A row of which not all values are known is no whole row.
            let is_part = row.op == Op::Upsert && !row.kept.is_empty();
            let op = if is_part && !self.written.compares(row.op) {
                Op::Update
            } else {
                row.op
            };
            match groups.iter_mut().find(|(known, _)| *known == op) {
                Some((_, rows)) => rows.push(row),
                None => groups.push((op, vec![row])),
            }
        }
        // What is deleted first makes room for what takes its place.
        groups.sort_by_key(|(op, _)| *op != Op::Delete);
        for (op, mut rows) in groups {
            if op != Op::Insert {
                // Locks are taken in one order, so that two writers do not wait for each other.
                rows.sort_by(|a, b| a.key.cmp(&b.key));
            }
            match self.written.prefer.filter(|prefer| prefer.row.compares(op)) {
                Some(prefer) => self.compared(link, prefer, op, &rows, anew).await?,
                None => self.send(link, op, &rows).await?,
            }
        }
        Ok(())
    }

    /// What is set where a row with the key is there. Each column is assigned in turn, so that the one that is compared
    /// comes last. There rows that give way and are not the same are counted: only here the values that came have the types
    /// of the columns.
    fn assignments(&self, mut columns: Vec<usize>) -> String {
        let name = |at: usize| identifier(&self.written.columns[at].1.name);
        let new = self.written.newer.map(|at| {
            columns.retain(|column| *column != at);
            columns.push(at);
            format!(
                "{0} IS NULL OR {0} {1} VALUES({0})",
                name(at),
                self.gives_way
            )
        });
        let same: Vec<_> = columns
            .iter()
            .map(|at| format!("{0} <=> VALUES({0})", name(*at)))
            .collect();
        let set: Vec<_> = columns
            .into_iter()
            .map(|at| match &new {
                None => format!("{0} = VALUES({0})", name(at)),
                Some(new) if Some(at) == self.written.newer => {
                    let same = format!("({})", same.join(" AND "));
                    format!(
                        "{0} = IF({new}, VALUES({0}), IF({same}, {0}, IF(({CONFLICTS} := {CONFLICTS} + 1) IS NULL, NULL, {0})))",
                        name(at)
                    )
                }
                Some(new) => format!("{0} = IF({new}, VALUES({0}), {0})", name(at)),
            })
            .collect();
        set.join(", ")
    }

    /// The condition for the row with the key of one that comes.
    fn same(&self, row: &Ready) -> String {
        let key = self.written.key.iter().map(|at| {
            let name = identifier(&self.written.columns[*at].1.name);
            format!("{name} = {}", row.values[*at])
        });
        key.collect::<Vec<_>>().join(" AND ")
    }

    async fn send(&self, link: &mut Link, op: Op, rows: &[&Ready]) -> Result<(), Failed> {
        let table = &self.table;
        let is_key = |at: usize| self.written.key.contains(&at);
        let name = |at: usize| identifier(&self.written.columns[at].1.name);
        let same = |row: &Ready| self.same(row);
        // Only a row that is not newer is changed or deleted.
        let unless_newer = |row: &Ready, than: &str| match self.written.newer {
            None => String::new(),
            Some(at) => format!(
                " AND ({0} IS NULL OR {0} {than} {1})",
                name(at),
                row.values[at]
            ),
        };
        let (head, tail, between) = match op {
            Op::Delete if self.written.newer.is_some() => (String::new(), String::new(), "; "),
            Op::Delete => (
                format!(
                    "DELETE FROM {table} WHERE ({}) IN (",
                    self.written
                        .key
                        .iter()
                        .map(|at| name(*at))
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
                ")".to_owned(),
                ", ",
            ),
            Op::Update => (String::new(), String::new(), "; "),
            _ => {
                let rest: Vec<_> = (0..self.written.columns.len())
                    .filter(|at| !is_key(*at))
                    .collect();
                // Where the key is all there is, nothing changes.
                let set = if rest.is_empty() {
                    self.written.key.clone()
                } else {
                    rest
                };
                let tail = match op {
                    Op::Upsert => format!(" ON DUPLICATE KEY UPDATE {}", self.assignments(set)),
                    _ => String::new(),
                };
                (
                    format!("INSERT INTO {table} ({}) VALUES ", self.list(|_| true)),
                    tail,
                    ", ",
                )
            }
        };
        let mut sql = head.clone();
        for row in rows {
            let one = match op {
                Op::Delete if self.written.newer.is_some() => format!(
                    "DELETE FROM {table} WHERE {0}{1}; SET {CONFLICTS} = {CONFLICTS} + (SELECT COUNT(*) FROM {table} WHERE {0})",
                    same(row),
                    unless_newer(row, "<=")
                ),
                Op::Delete => format!("({})", row.key),
                Op::Update => {
                    let set = (0..self.written.columns.len()).filter(|at| {
                        !is_key(*at) && !row.kept.contains(&self.written.columns[*at].1.name)
                    });
                    let set: Vec<_> = set
                        .map(|at| format!("{} = {}", name(at), row.values[at]))
                        .collect();
                    if set.is_empty() {
                        continue;
                    }
                    // A row that is as new as the one that came is the same, or was written just now.
                    let newer = match self.written.newer {
                        None => String::new(),
                        Some(at) => format!(
                            "; SET {CONFLICTS} = {CONFLICTS} + (SELECT COUNT(*) FROM {table} WHERE {} AND {} > {})",
                            same(row),
                            name(at),
                            row.values[at]
                        ),
                    };
                    format!(
                        "UPDATE {table} SET {} WHERE {}{}{newer}",
                        set.join(", "),
                        same(row),
                        unless_newer(row, self.gives_way)
                    )
                }
                _ => format!("({})", row.values.join(", ")),
            };
            if sql.len() > head.len() {
                if sql.len() + one.len() + tail.len() > STATEMENT_BYTES {
                    sql.push_str(&tail);
                    link.run(&sql).await?;
                    sql.clone_from(&head);
                } else {
                    sql.push_str(between);
                }
            }
            sql.push_str(&one);
        }
        if sql.len() > head.len() {
            sql.push_str(&tail);
            link.run(&sql).await?;
        }
        Ok(())
    }
}

//! Writes rows to a table: how MySQL and MariaDB do it.

mod prefer;

use arrow::datatypes::SchemaRef;
use busbar_change::mysql::wire::{identifier, literal};
use busbar_connector::Delivery;
use busbar_event::{Class, Error};

use super::failure::Failed;
use super::limits::{PRODUCER_CHARS_MAX, STATEMENT_BYTES};
use super::link::{Link, MysqlServer};
use super::table_columns::table_columns;
use super::values::{self, Target, made_for};
use crate::change::plan::{Dialect, Refused, WriteColumns};
use crate::change::refusal::REFUSED_TABLE;
use crate::change::{Op, Write};
use crate::relational::literal::{LiteralRow, WriteStep};
use crate::relational::sink::{
    BesideTable, RelationalSink, WriteOrigin, WritePlan, WriteServer, WriteTables,
};

/// Writes to one table.
pub type MysqlSink = RelationalSink<MysqlServer>;

/// The table that keeps how far producers have come.
pub(super) const POSITIONS_TABLE: &str = "busbar_position";

/// The variable of a session that counts rows that gave way to those there.
const CONFLICTS: &str = "@busbar_conflicts";

/// How rows become statements.
pub struct Plan {
    tables: WriteTables,
    written: WriteColumns<Target>,
    /// `there OPERATOR new`: whether a row gives way to one that comes.
    gives_way: &'static str,
    /// Rows may be in the way of others by other columns than those of the key.
    has_other_keys: bool,
}

const DIALECT: Dialect = Dialect {
    identifier,
    made_for,
    same: str::eq_ignore_ascii_case,
};

impl WriteServer for MysqlServer {
    type Plan = Plan;

    const PRODUCER_CHARS_MAX: Option<(usize, &'static str)> =
        Some((PRODUCER_CHARS_MAX, "mysql.producer-long"));

    async fn plan(
        &self,
        link: &mut Link,
        options: &Write,
        schema: &SchemaRef,
    ) -> Result<Plan, Error> {
        let (place, name) = options.table_name(&self.database);
        let table = format!("{}.{}", identifier(place), identifier(name));
        let doing = self.doing(&table, options.rights());
        if options.create {
            let columns = DIALECT.definitions(options, schema);
            let made = format!("CREATE TABLE IF NOT EXISTS {table} ({columns}) ENGINE=InnoDB");
            link.run(&made).await.map_err(|failed| failed.told(doing))?;
        }
        let found = table_columns(link, place, name)
            .await
            .map_err(|failed| failed.told(doing))?;
        let Some((engine, found)) = found else {
            return Err(Error::new(Class::Configuration, "mysql.no-table")
                .with("address", &self.address)
                .with("said", "-")
                .with("table", &table));
        };
        if engine != "InnoDB" {
            return Err(Error::new(Class::Configuration, "mysql.engine")
                .with("table", &table)
                .with("engine", engine));
        }
        let written = WriteColumns::plan(&DIALECT, options, schema, &table, &found)?;
        let mut plan = Plan {
            tables: WriteTables {
                written: table,
                positions: format!("{}.`{POSITIONS_TABLE}`", identifier(place)),
                refusals: format!("{}.`{REFUSED_TABLE}`", identifier(place)),
            },
            written,
            gives_way: options.gives_way(),
            has_other_keys: false,
        };
        plan.has_other_keys = self.check_key(link, &plan, options, [place, name]).await?;
        let producer = format!(
            "producer varchar({PRODUCER_CHARS_MAX}) character set utf8mb4 collate utf8mb4_bin"
        );
        let beside = [
            BesideTable {
                name: plan.tables.positions.clone(),
                columns: format!(
                    "({producer} PRIMARY KEY, position bigint unsigned NOT NULL) ENGINE=InnoDB"
                ),
                rights: "SELECT, INSERT, UPDATE",
            },
            BesideTable {
                name: plan.tables.refusals.clone(),
                columns: format!(
                    "({producer} NOT NULL, position bigint unsigned NOT NULL, refused_row bigint unsigned NOT NULL, \
                     content char(16) NOT NULL, cause longtext character set utf8mb4 NOT NULL, \
                     PRIMARY KEY (producer, refused_row)) ENGINE=InnoDB"
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

impl MysqlServer {
    /// Sees that the server tells rows apart by the key, and by nothing less; whether it does so by other columns, too.
    async fn check_key(
        &self,
        link: &mut Link,
        plan: &Plan,
        options: &Write,
        [schema, name]: [&str; 2],
    ) -> Result<bool, Error> {
        if plan.written.key.is_empty() {
            return Ok(false);
        }
        // Columns of an index of which it takes a part only, or an expression, say nothing of it.
        let sql = format!(
            "SELECT GROUP_CONCAT(column_name ORDER BY column_name SEPARATOR '\t'), \
             SUM(sub_part IS NOT NULL OR column_name IS NULL) = 0 FROM information_schema.statistics \
             WHERE table_schema = {} AND table_name = {} AND non_unique = 0 GROUP BY index_name",
            literal(schema),
            literal(name)
        );
        let doing = self.doing(&plan.tables.written, options.rights());
        let answers = link.run(&sql).await.map_err(|failed| failed.told(doing))?;
        // Whether one index has the columns of the key and no others, and whether there are others.
        let (mut is_key, mut others) = (false, false);
        if let Some(answer) = answers.first() {
            for row in 0..answer.rows.len() {
                let columns = answer.text(row, 0).unwrap_or_default().split('\t');
                let columns = columns.map(str::to_owned).collect();
                let is_whole = answer.text(row, 1) == Some("1");
                match is_whole && plan.written.is_key_among([columns]) {
                    true => is_key = true,
                    false => others = true,
                }
            }
        }
        match is_key {
            true => Ok(others),
            false => Err(Error::new(Class::Configuration, "mysql.no-key")
                .with("address", &self.address)
                .with("table", &plan.tables.written)
                .with("key", plan.list(|at| plan.written.key.contains(&at)))),
        }
    }

    /// Makes the table where it is missing.
    async fn ensure_beside(
        &self,
        link: &mut Link,
        schema: &str,
        beside: &BesideTable,
    ) -> Result<(), Error> {
        let (table, columns, rights) = (&beside.name, &beside.columns, beside.rights);
        let look = format!("SELECT position FROM {table} LIMIT 0");
        let doing = self.doing(table, rights);
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
                let grant = format!("GRANT {rights} ON {table} TO '{}'", self.user);
                Err(Error::new(Class::Configuration, "mysql.no-positions")
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

impl WritePlan for Plan {
    type Session = Link;
    type Row = LiteralRow;

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

    fn ready(
        &self,
        delivery: &Delivery,
        mode: Op,
    ) -> Result<(Vec<LiteralRow>, Vec<Refused>), Error> {
        LiteralRow::ready(&self.written, delivery, mode, values::write)
    }

    async fn begin(&self, link: &mut Link, from: &WriteOrigin) -> Result<bool, Failed> {
        let WriteOrigin { producer, position } = from;
        if producer.is_empty() {
            link.run("BEGIN").await?;
            return Ok(true);
        }
        let begun = format!(
            "BEGIN; INSERT INTO {} VALUES ({producer}, {position}) ON DUPLICATE KEY UPDATE position = GREATEST(position, {position})",
            self.tables.positions
        );
        let begun = link.run(&begun).await?;
        // 1 for a new row, 2 for one that is changed.
        Ok(begun.last().is_some_and(|answer| answer.affected > 0))
    }

    async fn apply(
        &self,
        link: &mut Link,
        rows: &[LiteralRow],
        _: &WriteOrigin,
        anew: &mut Vec<String>,
    ) -> Result<u64, Failed> {
        if self.written.newer.is_none() {
            let known = anew.len();
            self.write(link, rows, anew).await?;
            return Ok((anew.len() - known) as u64);
        }
        link.run(&format!("SET {CONFLICTS} = 0")).await?;
        self.write(link, rows, anew).await?;
        let counted = link.run(&format!("SELECT {CONFLICTS}")).await?;
        let counted = counted.first().and_then(|answer| answer.text(0, 0));
        Ok(counted.and_then(|count| count.parse().ok()).unwrap_or(0))
    }

    async fn write_anew(
        &self,
        link: &mut Link,
        from: &WriteOrigin,
        anew: &[String],
    ) -> Result<(), Failed> {
        match self.written.prefer {
            None => Ok(()),
            Some(prefer) => {
                let is_told = !from.producer.is_empty();
                self.again(link, prefer, anew, is_told).await
            }
        }
    }
}

impl Plan {
    /// Names of columns with commas between them.
    fn list(&self, which: impl Fn(usize) -> bool) -> String {
        self.written.list(&DIALECT, which)
    }

    async fn write(
        &self,
        link: &mut Link,
        rows: &[LiteralRow],
        anew: &mut Vec<String>,
    ) -> Result<(), Failed> {
        for step in LiteralRow::steps(rows, &self.written) {
            let (op, rows) = match step {
                // TRUNCATE would end the transaction.
                WriteStep::Empty => {
                    let table = &self.tables.written;
                    link.run(&format!("DELETE FROM {table}")).await?;
                    continue;
                }
                WriteStep::Rows(op, rows) => (op, rows),
            };
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
    fn same(&self, row: &LiteralRow) -> String {
        let key = self.written.key.iter().map(|at| {
            let name = identifier(&self.written.columns[*at].1.name);
            format!("{name} = {}", row.values[*at])
        });
        key.collect::<Vec<_>>().join(" AND ")
    }

    /// The condition that the row there is not newer than one that comes, behind other conditions: only such a row is changed or
    /// deleted.
    fn unless_newer(&self, row: &LiteralRow, than: &str) -> String {
        match self.written.newer {
            None => String::new(),
            Some(at) => format!(
                " AND ({0} IS NULL OR {0} {than} {1})",
                identifier(&self.written.columns[at].1.name),
                row.values[at]
            ),
        }
    }

    /// The statements that change the row with the key of one that comes, and add it where there is none and it is to be added;
    /// empty where nothing is to be done.
    fn by_key(&self, op: Op, row: &LiteralRow) -> String {
        let (table, same) = (&self.tables.written, self.same(row));
        let name = |at: usize| identifier(&self.written.columns[at].1.name);
        let set = (0..self.written.columns.len()).filter(|at| {
            !self.written.key.contains(at) && !row.kept.contains(&self.written.columns[*at].1.name)
        });
        let set: Vec<_> = set
            .map(|at| format!("{} = {}", name(at), row.values[at]))
            .collect();
        let mut statements = Vec::new();
        if !set.is_empty() {
            statements.push(format!(
                "UPDATE {table} SET {} WHERE {same}{}",
                set.join(", "),
                self.unless_newer(row, self.gives_way)
            ));
            // A row that is as new as the one that came is the same, or was written just now.
            statements.extend(self.written.newer.map(|at| {
                format!(
                    "SET {CONFLICTS} = {CONFLICTS} + (SELECT COUNT(*) FROM {table} WHERE {same} AND {} > {})",
                    name(at),
                    row.values[at]
                )
            }));
        }
        if op == Op::Upsert {
            statements.push(format!(
                "INSERT INTO {table} ({}) SELECT {} FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE {same})",
                self.list(|_| true),
                row.values.join(", ")
            ));
        }
        statements.join("; ")
    }

    async fn send(&self, link: &mut Link, op: Op, rows: &[&LiteralRow]) -> Result<(), Failed> {
        let table = &self.tables.written;
        let is_key = |at: usize| self.written.key.contains(&at);
        let name = |at: usize| identifier(&self.written.columns[at].1.name);
        // Else the server would put a row in the place of one that has another key and is in the way.
        let by_key = op == Op::Update || op == Op::Upsert && self.has_other_keys;
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
            Op::Update | Op::Upsert if by_key => (String::new(), String::new(), "; "),
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
                    self.same(row),
                    self.unless_newer(row, "<=")
                ),
                Op::Delete => format!("({})", row.key),
                Op::Update | Op::Upsert if by_key => match self.by_key(op, row) {
                    statements if statements.is_empty() => continue,
                    statements => statements,
                },
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

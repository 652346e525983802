//! Writes rows to a table, each delivery in one transaction together with the producer's position.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use busbar_connector::{Delivery, Sink, SinkContext, Work, Written};
use busbar_event::{Class, Error};

use super::failure::MssqlFailed;
use super::limits::{PRODUCER_CHARS_MAX, REFUSALS_BYTES, STATEMENT_BYTES, STATEMENT_ROWS};
use super::link::{MssqlLink, MssqlServer, closed};
use super::target::{MssqlCells, MssqlTarget, encoding, made_for, shown};
use super::wire::{identifier, literal, qualified};
use crate::change::plan::{Dialect, Halving, Refused, RowRequests, WriteColumns};
use crate::change::refusal::{REFUSED_TABLE, RefusedRecord, content_of, insertions};
use crate::change::{Op, Write};

/// Writes to one table.
pub struct MssqlSink {
    server: MssqlServer,
    /// The connection's name, before the names of producers.
    name: Arc<str>,
    options: Write,
    schema: SchemaRef,
    link: Option<MssqlLink>,
    plan: Option<Arc<MssqlPlan>>,
}

/// How rows become statements; made once a session, from the table as it is.
struct MssqlPlan {
    /// The table, as it is written in SQL.
    table: String,
    positions: String,
    refusals: String,
    written: WriteColumns<MssqlTarget>,
}

/// Where a name stands alone.
pub const DEFAULT_SCHEMA: &str = "dbo";

const DIALECT: Dialect = Dialect {
    identifier,
    made_for,
    same: str::eq_ignore_ascii_case,
};

/// A row, ready to be sent.
struct MssqlReady {
    row: usize,
    op: Op,
    /// The literals of all columns.
    values: Vec<String>,
    /// Those of the key, with commas between them.
    key: String,
    /// Columns that keep the value they have.
    kept: Vec<String>,
}

impl MssqlReady {
    fn content(&self) -> String {
        content_of(self.op, self.values.join(","))
    }
}

/// The producer of a delivery and its position, as they are written in SQL.
struct MssqlOrigin {
    /// Empty for none.
    producer: String,
    position: u64,
}

/// A table that is kept beside those that are written to.
struct MssqlBeside {
    name: String,
    columns: String,
    rights: &'static str,
}

impl MssqlSink {
    /// Opens a session and looks at the table, which is made where that is asked for.
    pub(super) async fn open(
        server: MssqlServer,
        options: Write,
        context: SinkContext,
    ) -> Result<MssqlSink, Error> {
        let mut sink = MssqlSink {
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
        if self.link.as_ref().is_some_and(MssqlLink::usable) && self.plan.is_some() {
            return Ok(());
        }
        self.link = None;
        let mut link = self.server.open().await?;
        // What is looked for before it is added stays missing until it is.
        let isolated = link
            .run("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            .await;
        isolated.map_err(|failed| failed.told(self.server.doing("", "")))?;
        self.plan = Some(Arc::new(self.plan(&mut link).await?));
        self.link = Some(link);
        Ok(())
    }

    async fn plan(&self, link: &mut MssqlLink) -> Result<MssqlPlan, Error> {
        let options = &self.options;
        let (schema, name) = options.table_name(DEFAULT_SCHEMA);
        let table = qualified(schema, name);
        let doing = self.server.doing(&table, options.rights());
        if options.create {
            let made = self.made(&table);
            link.run(&made).await.map_err(|failed| failed.told(doing))?;
        }
        let found = table_columns(link, schema, name)
            .await
            .map_err(|failed| failed.told(doing))?;
        let Some(found) = found else {
            return Err(Error::new(Class::Configuration, "sqlserver.no-table")
                .with("address", &self.server.address)
                .with("said", "-")
                .with("number", 208)
                .with("table", &table));
        };
        let written = WriteColumns::plan(&DIALECT, options, &self.schema, &table, &found)?;
        let plan = MssqlPlan {
            table,
            positions: qualified(schema, "busbar_position"),
            refusals: qualified(schema, REFUSED_TABLE),
            written,
        };
        self.check_key(link, &plan).await?;
        let producer =
            format!("producer nvarchar({PRODUCER_CHARS_MAX}) COLLATE Latin1_General_BIN2 NOT NULL");
        let beside = [
            MssqlBeside {
                name: plan.positions.clone(),
                columns: format!("({producer} PRIMARY KEY, position decimal(20,0) NOT NULL)"),
                rights: "SELECT, INSERT, UPDATE",
            },
            MssqlBeside {
                name: plan.refusals.clone(),
                columns: format!(
                    "({producer}, position decimal(20,0) NOT NULL, refused_row bigint NOT NULL, content char(16) NOT NULL, \
                     cause nvarchar(max) NOT NULL, PRIMARY KEY (producer, refused_row))"
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
    async fn check_key(&self, link: &mut MssqlLink, plan: &MssqlPlan) -> Result<(), Error> {
        if plan.written.key.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "SELECT i.index_id, c.name FROM sys.indexes i \
             JOIN sys.index_columns x ON x.object_id = i.object_id AND x.index_id = i.index_id \
             JOIN sys.columns c ON c.object_id = x.object_id AND c.column_id = x.column_id \
             WHERE i.object_id = OBJECT_ID({}) AND i.is_unique = 1 AND x.is_included_column = 0 ORDER BY i.index_id",
            literal(&plan.table)
        );
        let doing = self.server.doing(&plan.table, self.options.rights());
        let answers = link.run(&sql).await.map_err(|failed| failed.told(doing))?;
        let mut wanted: Vec<_> = plan
            .written
            .key
            .iter()
            .map(|at| plan.written.columns[*at].1.name.to_lowercase())
            .collect();
        wanted.sort();
        let mut indexes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        if let Some(answer) = answers.first() {
            for row in 0..answer.rows.len() {
                let text = |column| answer.text(row, column).unwrap_or_default();
                let columns = indexes.entry(text(0).to_owned()).or_default();
                columns.push(text(1).to_lowercase());
            }
        }
        let unique = indexes.values_mut().any(|there| {
            there.sort();
            *there == wanted
        });
        match unique {
            true => Ok(()),
            false => Err(Error::new(Class::Configuration, "sqlserver.no-key")
                .with("address", &self.server.address)
                .with("table", &plan.table)
                .with("key", plan.list(|at| plan.written.key.contains(&at)))),
        }
    }

    /// The statement that makes the table.
    fn made(&self, table: &str) -> String {
        let columns = DIALECT.definitions(&self.options, &self.schema);
        unless_there(table, &format!("({columns})"))
    }

    /// Makes the table where it is missing.
    async fn ensure_beside(
        &self,
        link: &mut MssqlLink,
        schema: &str,
        beside: &MssqlBeside,
    ) -> Result<(), Error> {
        let (table, columns, rights) = (&beside.name, &beside.columns, beside.rights);
        let look = format!("SELECT TOP 0 position FROM {table}");
        let doing = self.server.doing(table, rights);
        match link.run(&look).await {
            Ok(_) => return Ok(()),
            Err(failed) if failed.number() == 208 => {}
            Err(failed) => return Err(failed.told(doing)),
        }
        match link.run(&unless_there(table, columns)).await {
            Ok(_) => Ok(()),
            // 2760: the schema may not be altered.
            Err(failed) if matches!(failed.number(), 262 | 2760 | 229) => {
                let grant = format!(
                    "GRANT {rights} ON {table} TO {}",
                    identifier(&self.server.user)
                );
                Err(Error::new(Class::Configuration, "sqlserver.no-positions")
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
            true => Err(Error::new(Class::Configuration, "sqlserver.producer-long")
                .with("producer", producer)),
        }
    }

    async fn deliver(&mut self, delivery: &Delivery) -> Result<Written, Error> {
        self.session().await?;
        let (Some(mut link), Some(plan)) = (self.link.take(), self.plan.clone()) else {
            return Err(closed(&self.server.address));
        };
        let from = MssqlOrigin {
            producer: self.producer(&delivery.producer)?,
            position: delivery.position,
        };
        let (ready, mut rejected) = plan.ready(delivery, self.options.mode.into())?;
        let written = match transaction(&mut link, &plan, &from, &ready).await {
            Err(failed) if failed.is_about_rows() => match link.roll_back().await {
                Ok(()) => {
                    let told = |failed: MssqlFailed| {
                        failed.told(self.server.doing(&plan.table, self.options.rights()))
                    };
                    in_pieces(&mut link, &plan, &from, &ready, &mut rejected, told).await
                }
                Err(failed) => Err(failed),
            },
            other => other,
        };
        let written = match written {
            Ok(false) => {
                let recalled = recall(&mut link, &plan, &from, &ready).await;
                recalled.map(|refused| rejected.extend(refused))
            }
            other => other.map(drop),
        };
        match written {
            Ok(()) => {
                self.link = Some(link);
                rejected.sort_by_key(|(row, _)| *row);
                Ok(Written::of(rejected))
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
            "SELECT position FROM {} WITH (UPDLOCK, HOLDLOCK) WHERE producer = {producer}",
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

impl Sink for MssqlSink {
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
async fn begin(
    link: &mut MssqlLink,
    plan: &MssqlPlan,
    from: &MssqlOrigin,
) -> Result<bool, MssqlFailed> {
    let MssqlOrigin { producer, position } = from;
    if producer.is_empty() {
        link.run("BEGIN TRANSACTION").await?;
        return Ok(true);
    }
    let table = &plan.positions;
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
        Some(_) => format!("UPDATE {table} SET position = {position} WHERE producer = {producer}"),
        None => format!("INSERT INTO {table} (producer, position) VALUES ({producer}, {position})"),
    };
    link.run(&note).await?;
    Ok(true)
}

/// Writes rows and position; false when the position was known already.
async fn transaction(
    link: &mut MssqlLink,
    plan: &MssqlPlan,
    from: &MssqlOrigin,
    ready: &[MssqlReady],
) -> Result<bool, MssqlFailed> {
    if !begin(link, plan, from).await? {
        return link.roll_back().await.map(|()| false);
    }
    plan.apply(link, ready).await?;
    link.run("COMMIT TRANSACTION").await.map(|_| true)
}

/// The same, where some rows are at fault: they are found by halving, and all others are written with the position. A failure
/// ends the whole transaction, of which some failures leave nothing to go back to; what was written before is written again.
async fn in_pieces(
    link: &mut MssqlLink,
    plan: &MssqlPlan,
    from: &MssqlOrigin,
    ready: &[MssqlReady],
    rejected: &mut Vec<Refused>,
    told: impl Fn(MssqlFailed) -> Error,
) -> Result<bool, MssqlFailed> {
    let mut refused = Vec::new();
    let mut written: Vec<&[MssqlReady]> = Vec::new();
    let mut open = false;
    let mut halving = Halving::new(ready);
    while let Some(rows) = halving.part() {
        if !open {
            if !begin(link, plan, from).await? {
                return link.roll_back().await.map(|()| false);
            }
            for rows in &written {
                plan.apply(link, rows).await?;
            }
            open = true;
        }
        match plan.apply(link, rows).await {
            Ok(()) => written.push(rows),
            Err(failed) if failed.is_about_rows() => {
                link.roll_back().await?;
                open = false;
                if let Some(one) = halving.refused(rows) {
                    refused.push((one.row, told(failed)));
                }
            }
            Err(failed) => return Err(failed),
        }
    }
    if !open {
        if !begin(link, plan, from).await? {
            return link.roll_back().await.map(|()| false);
        }
        for rows in &written {
            plan.apply(link, rows).await?;
        }
    }
    if !from.producer.is_empty() {
        keep_refused(link, plan, from, ready, &refused).await?;
    }
    link.run("COMMIT TRANSACTION").await?;
    rejected.append(&mut refused);
    Ok(true)
}

/// Keeps the refused rows within the transaction that is open.
async fn keep_refused(
    link: &mut MssqlLink,
    plan: &MssqlPlan,
    from: &MssqlOrigin,
    ready: &[MssqlReady],
    refused: &[Refused],
) -> Result<(), MssqlFailed> {
    let MssqlOrigin { producer, position } = from;
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
    for statement in insertions(&head, rows, REFUSALS_BYTES) {
        link.run(&statement).await?;
    }
    Ok(())
}

/// The rows of a delivery that comes again that were refused the last time.
async fn recall(
    link: &mut MssqlLink,
    plan: &MssqlPlan,
    from: &MssqlOrigin,
    ready: &[MssqlReady],
) -> Result<Vec<Refused>, MssqlFailed> {
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

impl MssqlPlan {
    /// Names of columns with commas between them.
    fn list(&self, which: impl Fn(usize) -> bool) -> String {
        self.written.list(&DIALECT, which)
    }

    /// Rows as they are sent, and those that cannot be.
    fn ready(
        &self,
        delivery: &Delivery,
        mode: Op,
    ) -> Result<(Vec<MssqlReady>, Vec<Refused>), Error> {
        let rows = &delivery.rows;
        let cells = self
            .written
            .columns
            .iter()
            .map(|(at, target)| MssqlCells::new(rows.column(*at), target));
        let cells = cells.collect::<Result<Vec<_>, _>>()?;
        let asked = self.written.asked(rows, mode)?;
        Ok(RowRequests::ready(rows.num_rows(), |row| {
            self.row(row, &cells, &asked)
        }))
    }

    fn row(
        &self,
        row: usize,
        cells: &[MssqlCells],
        asked: &RowRequests,
    ) -> Result<Option<MssqlReady>, Error> {
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
        let key = self.written.key.iter().map(|at| values[*at].as_str());
        let key = key.collect::<Vec<_>>().join(", ");
        Ok(Some(MssqlReady {
            row,
            op,
            values,
            key,
            kept: asked.kept(row),
        }))
    }

    /// Writes rows within the transaction that is open.
    async fn apply(&self, link: &mut MssqlLink, rows: &[MssqlReady]) -> Result<(), MssqlFailed> {
        // Of several rows with one key the last one counts. A row that keeps values of the one before it waits for it.
        let mut last: HashMap<&str, usize> = HashMap::new();
        let mut begin = 0;
        for (at, row) in rows.iter().enumerate() {
            if row.op == Op::Truncate || !row.kept.is_empty() && last.contains_key(row.key.as_str())
            {
                self.flush(link, &rows[begin..at], &last, begin).await?;
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
        self.flush(link, rows.get(begin..).unwrap_or_default(), &last, begin)
            .await
    }

    /// Writes the last row of each key.
    async fn flush(
        &self,
        link: &mut MssqlLink,
        rows: &[MssqlReady],
        last: &HashMap<&str, usize>,
        begin: usize,
    ) -> Result<(), MssqlFailed> {
        let mut groups: Vec<(Op, Vec<&MssqlReady>)> = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            // A row that takes the place of a deleted one keeps none of its values.
            let counts = matches!(row.op, Op::Insert | Op::Delete);
            if !counts && last.get(row.key.as_str()) != Some(&(begin + at)) {
                continue;
            }
            // A row of which not all values are known is no whole row.
            let op = if row.op == Op::Upsert && !row.kept.is_empty() {
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
            self.send(link, op, &rows).await?;
        }
        Ok(())
    }

    async fn send(
        &self,
        link: &mut MssqlLink,
        op: Op,
        rows: &[&MssqlReady],
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
        let table = &self.table;
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

    /// The columns of the key in its own order, which is that of [`MssqlReady::key`].
    fn key_list(&self) -> String {
        let key = self.written.key.iter();
        let key: Vec<_> = key
            .map(|at| identifier(&self.written.columns[*at].1.name))
            .collect();
        key.join(", ")
    }

    /// The condition that is true for the row with this key.
    fn same(&self, row: &MssqlReady) -> String {
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
    fn update(&self, row: &MssqlReady) -> String {
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
                self.table,
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

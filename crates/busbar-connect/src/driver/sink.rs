//! Writes rows to a table, each delivery in one transaction together with the producer's position.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use busbar_connector::{Delivery, Sink, SinkContext, Work, Written};
use busbar_event::{Class, Error};
use serde::Deserialize;
use serde_json::json;

use super::cells::DriverCells;
use super::dialect::{DriverDialect, DriverDialectName, DriverStatement};
use super::failure::told;
use super::frame::DriverSaid;
use super::limits::PRODUCER_CHARS_MAX;
use super::session::DriverSession;
use super::types::{DriverTable, DriverTarget};
use super::worker::DriverWorker;
use crate::change::keys::{AlikeKey, KeyTexts, KeysTogether};
use crate::change::plan::{Refused, RowRequests, TargetColumn, WriteColumns, names};
use crate::change::refusal::{REFUSED_TABLE, RefusedRecord, content_of};
use crate::change::{Op, Write};

/// Writes to one table.
pub struct DriverSink {
    worker: Arc<DriverWorker>,
    dialect: Option<DriverDialectName>,
    /// The connection's name, before the names of producers.
    name: Arc<str>,
    options: Write,
    schema: SchemaRef,
    open: Option<(DriverSession, Arc<Plan>)>,
}

/// How rows become statements; made once a session, from the table as it is.
struct Plan {
    dialect: &'static DriverDialect,
    /// The table, as it is written in SQL.
    table: String,
    positions: PositionTable,
    written: WriteColumns<DriverTarget>,
    /// Rows may be in the way of others by other columns than those of the key.
    has_other_keys: bool,
}

/// The statements for positions, and for the rows that were refused with the last one.
struct PositionTable {
    advance: String,
    lock: String,
    insert: String,
    select: String,
    forget: String,
    keep: String,
    recall: String,
}

/// A row, ready to be sent.
struct Ready {
    row: usize,
    op: Op,
    /// The values of all columns, as a list in JSON.
    values: String,
    /// Those of the key.
    key: String,
    /// What the key may be to the database.
    alike: Option<AlikeKey>,
    /// Columns that keep the value they have.
    kept: Vec<String>,
}

impl Ready {
    fn content(&self) -> String {
        content_of(self.op, &self.values)
    }
}

#[derive(Deserialize)]
struct WrittenAnswer {
    /// Rows that the database refuses. The transaction is open still if there are any.
    rejected: Vec<(usize, DriverSaid)>,
    /// Whether the position was known already, and nothing was written.
    known: bool,
}

#[derive(Deserialize)]
struct RecalledAnswer {
    rows: Vec<(usize, String, String)>,
}

/// What takes part in keeping refused rows.
const REFUSED_RIGHTS: &str = "SELECT, INSERT, DELETE";

#[derive(Deserialize)]
struct KnownAnswer {
    position: Option<u64>,
}

impl DriverSink {
    /// Opens a session and looks at the table, which is made where that is asked for.
    pub(super) async fn open(
        worker: Arc<DriverWorker>,
        dialect: Option<DriverDialectName>,
        options: Write,
        context: SinkContext,
    ) -> Result<DriverSink, Error> {
        let mut sink = DriverSink {
            worker,
            dialect,
            name: context.name,
            options,
            schema: context.schema,
            open: None,
        };
        sink.session().await?;
        Ok(sink)
    }

    /// The session, opened anew unless the one there is can be used.
    async fn session(&mut self) -> Result<(DriverSession, Arc<Plan>), Error> {
        if let Some((session, plan)) = self.open.take()
            && session.usable()
        {
            return Ok((session, plan));
        }
        let mut session = DriverSession::open(&self.worker).await?;
        let plan = self.plan(&mut session).await?;
        Ok((session, Arc::new(plan)))
    }

    async fn plan(&self, session: &mut DriverSession) -> Result<Plan, Error> {
        let options = &self.options;
        if !session.about.transactions {
            let error = Error::new(Class::Configuration, "driver.no-transactions");
            return Err(error.with("server", &session.about.server));
        }
        let dialect = DriverDialect::of(self.dialect, &session.about.product);
        let (schema, name) = options.table_name("");
        let mut found = table(session, schema, name).await?;
        if found.columns.is_none() && options.create {
            let within = match schema {
                "" => String::new(),
                schema => format!("{}.", dialect.exact(schema)),
            };
            let made = format!(
                "CREATE TABLE {within}{} ({})",
                (dialect.plan.identifier)(name),
                dialect.plan.definitions(options, &self.schema)
            );
            let made = session.run(&[&made]).await;
            let made = made.map_err(|failed| session.told(failed, name, "CREATE"));
            if made.is_err() {
                // Another may have been quicker.
                *session = DriverSession::open(&self.worker).await?;
            }
            found = table(session, schema, name).await?;
            if found.columns.is_none() {
                made?;
            }
        }
        let Some(columns) = found.columns.take() else {
            return Err(Error::new(Class::Configuration, "driver.no-table")
                .with("url", &self.worker.login.url)
                .with("said", "-")
                .with("state", "-")
                .with("table", &options.table));
        };
        let columns: Vec<_> = columns.into_iter().filter(|column| !column.given).collect();
        let table = dialect.table(&found.schema, &found.table);
        let mut written =
            WriteColumns::plan(&dialect.plan, options, &self.schema, &table, &columns)?;
        if dialect.collates() {
            let texts = written.texts.iter_mut();
            for texts in texts.filter(|texts| **texts == KeyTexts::Padded) {
                *texts = KeyTexts::Collated;
            }
        }
        let has_other_keys = check_key(&written, &found, &table)?;
        let positions = self.positions(session, dialect, &found.schema).await?;
        Ok(Plan {
            dialect,
            table,
            positions,
            written,
            has_other_keys,
        })
    }

    /// The tables with the positions of producers and the rows that were refused, made where they are missing.
    async fn positions(
        &self,
        session: &mut DriverSession,
        dialect: &'static DriverDialect,
        schema: &str,
    ) -> Result<PositionTable, Error> {
        let name = dialect.plan.identifier;
        let text = |key| (dialect.plan.made_for)(&DataType::Utf8, key);
        let (producer, row) = (name("producer"), name("refused_row"));
        let columns = format!(
            "{producer} {}, {} DECIMAL(20) NOT NULL, PRIMARY KEY ({producer})",
            text(true),
            name("place")
        );
        let positions = self.beside(session, dialect, schema, "busbar_position", &columns);
        let positions = positions.await?;
        let columns = format!(
            "{producer} {}, {} DECIMAL(20) NOT NULL, {row} DECIMAL(20) NOT NULL, {} {}, {} {}, PRIMARY KEY ({producer}, {row})",
            text(true),
            name("place"),
            name("content"),
            text(true),
            name("cause"),
            text(false),
        );
        let refusals = self.beside(session, dialect, schema, REFUSED_TABLE, &columns);
        let refusals = refusals.await?;
        let named = |found: &DriverTable, wanted: &str| {
            let mut columns = found.columns.iter().flatten();
            let found = columns.find(|column| column.name.eq_ignore_ascii_case(wanted));
            found.map_or_else(|| name(wanted), |column| dialect.exact(&column.name))
        };
        let (producer, place) = (named(&positions, "producer"), named(&positions, "place"));
        let table = dialect.table(&positions.schema, &positions.table);
        let [of, at, row, content, cause] =
            ["producer", "place", "refused_row", "content", "cause"].map(|of| named(&refusals, of));
        let refused = dialect.table(&refusals.schema, &refusals.table);
        Ok(PositionTable {
            advance: format!("UPDATE {table} SET {place} = ? WHERE {producer} = ? AND {place} < ?"),
            lock: format!("UPDATE {table} SET {place} = {place} WHERE {producer} = ?"),
            insert: format!("INSERT INTO {table} ({producer}, {place}) VALUES (?, ?)"),
            select: format!("SELECT {place} FROM {table} WHERE {producer} = ?"),
            forget: format!("DELETE FROM {refused} WHERE {of} = ?"),
            keep: format!(
                "INSERT INTO {refused} ({of}, {at}, {row}, {content}, {cause}) VALUES (?, ?, ?, ?, ?)"
            ),
            recall: format!(
                "SELECT r.{row}, r.{content}, r.{cause} FROM {refused} r JOIN {table} p ON p.{producer} = r.{of} AND p.{place} = r.{at} \
                 WHERE r.{of} = ? ORDER BY r.{row}"
            ),
        })
    }

    /// A table beside those that are written to, made where it is missing.
    async fn beside(
        &self,
        session: &mut DriverSession,
        dialect: &'static DriverDialect,
        schema: &str,
        name: &str,
        columns: &str,
    ) -> Result<DriverTable, Error> {
        let found = table(session, schema, name).await?;
        if found.columns.is_some() {
            return Ok(found);
        }
        let made = (dialect.plan.identifier)(name);
        let place = match schema {
            "" => made,
            schema => format!("{}.{made}", dialect.exact(schema)),
        };
        let statement = format!("CREATE TABLE {place} ({columns})");
        let made = session.run(&[&statement]).await;
        let Err(failed) = made else {
            return table(session, schema, name).await;
        };
        // Another may have been quicker.
        let why = session.told(failed, &place, "CREATE");
        *session = DriverSession::open(&self.worker).await?;
        let found = table(session, schema, name).await?;
        match (found.columns.is_some(), why.class()) {
            (true, _) => Ok(found),
            (false, Class::Transient) => Err(why),
            (false, _) => Err(Error::new(Class::Configuration, "driver.no-positions")
                .with("table", &place)
                .with("user", &self.worker.login.user)
                .with("statement", statement)
                .caused_by(why)),
        }
    }

    /// The name that the position is kept under; empty for none.
    fn producer(&self, producer: &str) -> Result<String, Error> {
        if producer.is_empty() {
            return Ok(String::new());
        }
        let name = self.options.producer.as_deref().unwrap_or(&self.name);
        let producer = format!("{name}/{producer}");
        match producer.chars().count() > PRODUCER_CHARS_MAX {
            false => Ok(producer),
            true => {
                Err(Error::new(Class::Configuration, "driver.producer-long")
                    .with("producer", producer))
            }
        }
    }

    async fn deliver(&mut self, delivery: &Delivery) -> Result<Written, Error> {
        let (mut session, plan) = self.session().await?;
        let producer = self.producer(&delivery.producer)?;
        let (ready, mut rejected) = plan.ready(delivery, self.options.mode.into())?;
        let request = plan.request(&producer, delivery.position, &ready);
        let (table, rights) = (&plan.table, self.options.rights());
        // A session that failed is of no use, and the table may have changed: the next one looks at it anew.
        let answer = session.ask(request.as_bytes()).await;
        let answer = answer.map_err(|failed| session.told(failed, table, rights))?;
        let answer: WrittenAnswer = session.read(&answer)?;
        let doing = self.worker.doing(table, rights);
        let said = answer.rejected.iter();
        let refused: Vec<Refused> = said.map(|(row, said)| (*row, told(said, doing))).collect();
        if !refused.is_empty() {
            let request = plan.keep_refused(&producer, delivery.position, &ready, &refused);
            let kept = session.ask(request.to_string().as_bytes()).await;
            kept.map_err(|failed| session.told(failed, REFUSED_TABLE, REFUSED_RIGHTS))?;
            rejected.extend(refused);
        }
        if answer.known {
            let request = json!({
                "do": "recalled", "producer": producer, "select": plan.positions.recall,
            });
            let recalled = session.ask(request.to_string().as_bytes()).await;
            let recalled =
                recalled.map_err(|failed| session.told(failed, REFUSED_TABLE, REFUSED_RIGHTS))?;
            let recalled: RecalledAnswer = session.read(&recalled)?;
            let records = recalled
                .rows
                .into_iter()
                .map(|(row, content, cause)| RefusedRecord {
                    row,
                    content,
                    cause,
                });
            let rows = ready.iter().map(|row| (row.row, row.content()));
            rejected.extend(RefusedRecord::recalled(records.collect(), rows));
        }
        rejected.sort_by_key(|(row, _)| *row);
        self.open = Some((session, plan));
        Ok(Written::of(rejected))
    }

    async fn known(&mut self, producer: &str) -> Result<Option<u64>, Error> {
        let (mut session, plan) = self.session().await?;
        let positions = &plan.positions;
        let request = json!({
            "do": "known", "producer": self.producer(producer)?, "lock": positions.lock, "insert": positions.insert,
            "select": positions.select,
        });
        let answer = session.ask(request.to_string().as_bytes()).await;
        let answer = answer
            .map_err(|failed| session.told(failed, "busbar_position", "SELECT, INSERT, UPDATE"))?;
        let answer: KnownAnswer = session.read(&answer)?;
        self.open = Some((session, plan));
        Ok(answer.position)
    }
}

impl Sink for DriverSink {
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>> {
        Box::pin(self.deliver(delivery))
    }

    fn position<'a>(&'a mut self, producer: &'a str) -> Work<'a, Result<Option<u64>, Error>> {
        Box::pin(self.known(producer))
    }
}

/// Looks at a table.
pub async fn table(
    session: &mut DriverSession,
    schema: &str,
    name: &str,
) -> Result<DriverTable, Error> {
    let request = json!({ "do": "columns", "schema": schema, "table": name });
    let answer = session.ask(request.to_string().as_bytes()).await;
    let answer = answer.map_err(|failed| session.told(failed, name, "SELECT"))?;
    session.read(&answer)
}

/// Sees that the database tells rows apart by the key, and by nothing less; whether it does so by other columns, too.
fn check_key(
    written: &WriteColumns<DriverTarget>,
    found: &DriverTable,
    table: &str,
) -> Result<bool, Error> {
    if written.key.is_empty() {
        return Ok(false);
    }
    let mut wanted: Vec<&str> = Vec::new();
    wanted.extend(
        written
            .key
            .iter()
            .map(|at| written.columns[*at].1.name.as_str()),
    );
    wanted.sort_unstable();
    let is_wanted = |key: &Vec<String>| {
        let mut key: Vec<&str> = key.iter().map(String::as_str).collect();
        key.sort_unstable();
        key == wanted
    };
    let (same, others): (Vec<_>, Vec<_>) = found.keys.iter().partition(|key| is_wanted(key));
    match !same.is_empty() {
        true => Ok(!others.is_empty()),
        false => Err(Error::new(Class::Configuration, "driver.no-key")
            .with("table", table)
            .with("key", names(wanted.into_iter()))),
    }
}

impl Plan {
    /// Rows as they are sent, and those that cannot be.
    fn ready(&self, delivery: &Delivery, mode: Op) -> Result<(Vec<Ready>, Vec<Refused>), Error> {
        let rows = &delivery.rows;
        let cells = self.written.columns.iter();
        let cells = cells.map(|(at, target)| DriverCells::new(rows.column(*at), target));
        let cells = cells.collect::<Result<Vec<_>, _>>()?;
        let asked = self.written.asked(rows, mode)?;
        Ok(RowRequests::ready(rows.num_rows(), |row| {
            self.row(row, &cells, &asked)
        }))
    }

    fn row(
        &self,
        row: usize,
        cells: &[DriverCells],
        asked: &RowRequests,
    ) -> Result<Option<Ready>, Error> {
        let op = asked.op(row)?;
        if op == Op::Nothing {
            return Ok(None);
        }
        let (mut values, mut key) = (String::from("["), String::new());
        let mut ends = Vec::with_capacity(cells.len());
        for (at, (cells, (_, target))) in cells.iter().zip(&self.written.columns).enumerate() {
            if at > 0 {
                values.push(',');
            }
            let from = values.len();
            cells.write(row, target, &mut values)?;
            ends.push(from..values.len());
            if self.written.key.contains(&at) {
                key.push(',');
                key.push_str(&values[from..]);
            }
        }
        values.push(']');
        self.written.check_key(op, |at| cells[at].is_null(row))?;
        Ok(Some(Ready {
            row,
            op,
            alike: self.written.alike(|at| values[ends[at].clone()].as_bytes()),
            values,
            key,
            kept: asked.kept(row),
        }))
    }

    /// The request that keeps the refused rows and ends the transaction.
    fn keep_refused(
        &self,
        producer: &str,
        position: u64,
        ready: &[Ready],
        refused: &[Refused],
    ) -> serde_json::Value {
        let content = |row: usize| {
            let at = ready.binary_search_by_key(&row, |ready| ready.row);
            at.map_or_else(|_| String::new(), |at| ready[at].content())
        };
        // Rows that need not be recognised when they come again are not kept.
        let records = match producer.is_empty() {
            true => Vec::new(),
            false => RefusedRecord::of(refused, content),
        };
        let rows = records
            .into_iter()
            .map(|record| json!([record.row, record.content, record.cause]));
        json!({
            "do": "keep", "producer": producer, "position": position.to_string(), "forget": self.positions.forget,
            "insert": self.positions.keep, "rows": rows.collect::<Vec<_>>(),
        })
    }

    /// The request that writes rows and their position.
    fn request(&self, producer: &str, position: u64, rows: &[Ready]) -> String {
        let head = json!({
            "do": "write", "producer": producer, "position": position.to_string(), "advance": self.positions.advance,
            "lock": self.positions.lock, "insert": self.positions.insert,
        });
        let mut out = head.to_string();
        out.pop();
        out.push_str(",\"parts\":[");
        // Of several rows with one key the last one counts. A row that keeps values of the one before it waits for it.
        let mut keys = KeysTogether::default();
        let mut begin = 0;
        for (at, row) in rows.iter().enumerate() {
            let key = row.key.as_bytes();
            let waits = !row.kept.is_empty() && keys.last(key).is_some();
            if row.op == Op::Truncate || waits || keys.may_be_other(key, row.alike.as_ref()) {
                self.group(&rows[begin..at], &keys, begin, &mut out);
                keys.clear();
                begin = at;
            }
            if row.op == Op::Truncate {
                let statement = DriverStatement {
                    // TRUNCATE would end the transaction of some.
                    sql: format!("DELETE FROM {}", self.table),
                    parameters: Vec::new(),
                    other: None,
                };
                self.part(&statement, &[row], &mut out);
                begin = at + 1;
                continue;
            }
            keys.note(key, row.alike.as_ref(), at);
        }
        self.group(
            rows.get(begin..).unwrap_or_default(),
            &keys,
            begin,
            &mut out,
        );
        out.push_str("]}");
        out
    }

    /// Appends the statements for the last row of each key.
    fn group(&self, rows: &[Ready], keys: &KeysTogether<'_>, begin: usize, out: &mut String) {
        let mut groups: Vec<(Op, &[String], Vec<&Ready>)> = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            // A row that takes the place of a deleted one keeps none of its values.
            let counts = matches!(row.op, Op::Insert | Op::Delete);
            if !counts && keys.last(row.key.as_bytes()) != Some(begin + at) {
                continue;
            }
            // A row of which not all values are known is no whole row.
            let op = match row.op {
                Op::Upsert if !row.kept.is_empty() => Op::Update,
                op => op,
            };
            let same = |group: &&mut (Op, &[String], Vec<&Ready>)| {
                group.0 == op && (op != Op::Update || group.1 == row.kept)
            };
            match groups.iter_mut().find(same) {
                Some((_, _, rows)) => rows.push(row),
                None => groups.push((op, &row.kept, vec![row])),
            }
        }
        // What is deleted first makes room for what takes its place.
        groups.sort_by_key(|(op, _, _)| *op != Op::Delete);
        for (op, kept, mut rows) in groups {
            if op != Op::Insert {
                // Locks are taken in one order, so that two writers do not wait for each other.
                rows.sort_by(|a, b| a.key.cmp(&b.key));
            }
            if let Some(statement) = self.statement(op, kept) {
                self.part(&statement, &rows, out);
            }
        }
    }

    fn statement(&self, op: Op, kept: &[String]) -> Option<DriverStatement> {
        let columns: Vec<&DriverTarget> = self
            .written
            .columns
            .iter()
            .map(|(_, target)| target)
            .collect();
        let key = &self.written.key;
        Some(match op {
            Op::Insert => self.dialect.insert(&self.table, &columns),
            Op::Upsert => self
                .dialect
                .upsert(&self.table, &columns, key, self.has_other_keys),
            Op::Delete => self.dialect.delete(&self.table, &columns, key),
            Op::Update => {
                let set = (0..columns.len()).filter(|at| {
                    let name = columns[*at].name();
                    !key.contains(at) && !kept.iter().any(|kept| kept == name)
                });
                let set: Vec<usize> = set.collect();
                self.dialect.update(&self.table, &columns, key, &set)?
            }
            // Without `prefer` there are no rows that are compared.
            Op::Truncate | Op::Nothing | Op::Read | Op::Returned => return None,
        })
    }

    fn part(&self, statement: &DriverStatement, rows: &[&Ready], out: &mut String) {
        if !out.ends_with('[') {
            out.push(',');
        }
        let slots: Vec<_> = self
            .written
            .columns
            .iter()
            .map(|(_, target)| target.slot())
            .collect();
        let numbers: Vec<usize> = rows.iter().map(|row| row.row).collect();
        let other = statement.other.as_ref();
        let head = json!({
            "sql": statement.sql, "parameters": statement.parameters, "other": other.map(|(sql, _)| sql),
            "other_parameters": other.map(|(_, parameters)| parameters), "columns": slots, "numbers": numbers,
        });
        let mut head = head.to_string();
        head.pop();
        let _ = write!(out, "{head},\"rows\":");
        for (at, row) in rows.iter().enumerate() {
            out.push(if at == 0 { '[' } else { ',' });
            out.push_str(&row.values);
        }
        out.push_str("]}");
    }
}

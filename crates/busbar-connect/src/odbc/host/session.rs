//! One connection to the database, and what is done with it.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::fault::OdbcFault;
use super::handle::{OdbcConnection, OdbcEnvironment, OdbcRunning, OdbcStatement};
use super::library as odbc;
use super::parameters::{OdbcBound, OdbcParameter, OdbcTaking, OdbcValues};
use super::rows::{OdbcAbilities, OdbcRows, json as put};
use super::tables;
use super::write::{OdbcPart, OdbcPartRequest, OdbcSavepoints};

/// What connections are made to.
pub struct OdbcTarget {
    /// The connection string.
    pub string: Vec<u16>,
    /// What the database is called, where the string says so.
    pub product: String,
}

/// A session: nothing before `open`, and of no use after a failure.
pub struct OdbcSession {
    environment: Arc<OdbcEnvironment>,
    target: Arc<OdbcTarget>,
    running: Arc<OdbcRunning>,
    // Before the connection, which has to outlive its statements.
    reading: Option<OdbcRows>,
    /// Rows that may still come of it; not every driver keeps to the number that it is told.
    left: usize,
    open: Option<OdbcOpen>,
}

struct OdbcOpen {
    connection: Rc<OdbcConnection>,
    abilities: OdbcAbilities,
    taking: OdbcTaking,
}

#[derive(Deserialize)]
struct OdbcQuery<'a> {
    #[serde(borrow)]
    sql: Cow<'a, str>,
    rows: usize,
    bytes: usize,
    fetch: usize,
    most: Option<usize>,
    #[serde(borrow)]
    parameters: Vec<OdbcParameter<'a>>,
}

#[derive(Deserialize)]
struct OdbcNext {
    rows: usize,
    bytes: usize,
}

#[derive(Deserialize)]
struct OdbcRun {
    statements: Vec<String>,
}

#[derive(Deserialize)]
struct OdbcTables {
    most: usize,
}

#[derive(Deserialize)]
struct OdbcColumns {
    schema: String,
    table: String,
}

#[derive(Deserialize)]
struct OdbcKnown {
    producer: String,
    lock: String,
    insert: String,
    select: String,
}

#[derive(Deserialize)]
struct OdbcWrite<'a> {
    producer: String,
    position: String,
    advance: String,
    lock: String,
    insert: String,
    #[serde(borrow)]
    parts: Vec<OdbcPartRequest<'a>>,
}

#[derive(Deserialize)]
struct OdbcKeep {
    producer: String,
    position: String,
    forget: String,
    insert: String,
    rows: Vec<(u64, String, String)>,
}

#[derive(Deserialize)]
struct OdbcRecalled {
    producer: String,
    select: String,
}

/// Reads a request.
fn of<'a, T: Deserialize<'a>>(request: &'a [u8]) -> Result<T, OdbcFault> {
    serde_json::from_slice(request).map_err(|why| OdbcFault::new("worker", why.to_string()))
}

impl OdbcSession {
    pub fn new(
        environment: Arc<OdbcEnvironment>,
        target: Arc<OdbcTarget>,
        running: Arc<OdbcRunning>,
    ) -> OdbcSession {
        OdbcSession {
            environment,
            target,
            running,
            reading: None,
            left: 0,
            open: None,
        }
    }

    /// Does what is asked for; the answer is appended as JSON.
    ///
    /// # Errors
    /// What the driver says. The session is of no use afterwards.
    pub fn answer(
        &mut self,
        what: &str,
        request: &[u8],
        seconds: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), OdbcFault> {
        if what == "open" {
            let about = self.open(seconds)?;
            put(&about, out);
            return Ok(());
        }
        if self.open.is_none() {
            return Err(OdbcFault::new("for-now", "no connection"));
        }
        match what {
            "query" => self.query(&of(request)?, out),
            "next" => {
                let next: OdbcNext = of(request)?;
                self.page(next.rows, next.bytes, false, out)
            }
            "run" => self.run(&of(request)?, out),
            "tables" => {
                let request: OdbcTables = of(request)?;
                self.end_reading()?;
                put(
                    &tables::tables(&self.opened()?.connection, request.most)?,
                    out,
                );
                self.opened()?.connection.commit()
            }
            "columns" => {
                let request: OdbcColumns = of(request)?;
                self.end_reading()?;
                let connection = &self.opened()?.connection;
                put(
                    &tables::columns(connection, &request.schema, &request.table)?,
                    out,
                );
                connection.commit()
            }
            "known" => self.known(&of(request)?, out),
            "write" => self.write(&of(request)?, out),
            "keep" => self.keep(&of(request)?, out),
            "recalled" => self.recalled(&of(request)?, out),
            other => Err(OdbcFault::new("worker", other)),
        }
    }

    fn opened(&self) -> Result<&OdbcOpen, OdbcFault> {
        self.open
            .as_ref()
            .ok_or_else(|| OdbcFault::new("for-now", "no connection"))
    }

    fn open(&mut self, seconds: usize) -> Result<serde_json::Value, OdbcFault> {
        let running = Arc::clone(&self.running);
        let mut connection = OdbcConnection::open(
            &self.environment,
            &self.target.string,
            seconds,
            &self.target.product,
            running,
        )?;
        connection.product = tables::product(&connection.info(odbc::INFO_DBMS_NAME)?);
        let extensions = connection.info_number(odbc::INFO_GETDATA).unwrap_or(0);
        let rereads = odbc::GETDATA_ANY_COLUMN | odbc::GETDATA_BLOCK | odbc::GETDATA_BOUND;
        let product = connection.product.clone();
        let connection = Rc::new(connection);
        // Times with a zone are read and written in the zone of the session.
        let zone = match product.as_str() {
            "mysql" => Some("SET time_zone = '+00:00'"),
            "postgres" => Some("SET TIME ZONE 'UTC'"),
            _ => None,
        };
        if let Some(zone) = zone {
            OdbcStatement::new(&connection)?.direct(zone)?;
        }
        let about = tables::about(&connection)?;
        // Where there are transactions, each request ends its own.
        if about["transactions"] == true {
            connection.set_autocommit(false)?;
        }
        self.open = Some(OdbcOpen {
            abilities: OdbcAbilities {
                // MariaDB's driver says that it can do so, too, and reads those of the first row.
                rereads: product == "postgres" && extensions & rereads == rereads,
                keeps_sizes: !matches!(product.as_str(), "postgres" | "sqlite"),
                text_times: product == "sqlite",
                utc_times: matches!(product.as_str(), "postgres" | "mysql"),
            },
            taking: match product.as_str() {
                "postgres" => OdbcTaking::Postgres,
                "sqlite" => OdbcTaking::Sqlite,
                _ => OdbcTaking::Plain,
            },
            connection,
        });
        Ok(about)
    }

    // What is read.

    fn query(&mut self, query: &OdbcQuery<'_>, out: &mut Vec<u8>) -> Result<(), OdbcFault> {
        self.end_reading()?;
        let open = self.opened()?;
        let word = query.sql.trim_start().get(..6).unwrap_or_default();
        if open.connection.product == "sqlite" && word.eq_ignore_ascii_case("select") {
            // Else its driver takes the columns of a table for those that it had before another connection changed it, and gives
            // values to the wrong ones. Nobody changes it again until the transaction ends.
            let look = OdbcStatement::new(&open.connection)?;
            look.direct("SELECT 1 FROM sqlite_master LIMIT 1")?;
        }
        let statement = OdbcStatement::new(&open.connection)?;
        // MariaDB's driver writes it behind the statement, which has a limit of its own.
        if let Some(most) = query.most
            && open.connection.product != "mysql"
        {
            statement.set(odbc::ATTR_MAX_ROWS, most);
        }
        let values = query.parameters.iter();
        let values = values.map(|parameter| OdbcValues::one(parameter, open.taking));
        let values: Vec<OdbcValues> = values.collect::<Result<_, _>>()?;
        let mut bound = OdbcBound::default();
        match values.is_empty() {
            true => statement.direct(&query.sql)?,
            false => {
                statement.prepare(&query.sql)?;
                bound.bind(&statement, &values.iter().collect::<Vec<_>>(), 0, 1)?;
                statement.execute()?;
            }
        }
        if statement.column_count()? == 0 {
            let count = statement.row_count()?;
            drop(statement);
            open.connection.commit()?;
            put(
                &json!({ "columns": [], "rows": [], "more": false, "count": count }),
                out,
            );
            return Ok(());
        }
        self.reading = Some(OdbcRows::of(statement, open.abilities, query.fetch, bound)?);
        self.left = query.most.unwrap_or(usize::MAX);
        self.page(query.rows, query.bytes, true, out)
    }

    fn page(
        &mut self,
        rows_max: usize,
        bytes_max: usize,
        named: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), OdbcFault> {
        let Some(rows) = &mut self.reading else {
            return Err(OdbcFault::new("for-now", "no rows are being read"));
        };
        out.push(b'{');
        if named {
            let columns = rows.columns.iter();
            let columns = columns.map(|column| json!({ "name": column.name, "type": column.kind }));
            out.extend_from_slice(b"\"columns\":");
            put(&columns.collect::<Vec<_>>(), out);
            out.push(b',');
        }
        out.extend_from_slice(b"\"rows\":[");
        let begin = out.len();
        let (mut count, mut more) = (0, true);
        while count < rows_max && out.len() - begin < bytes_max {
            if count > 0 {
                out.push(b',');
            }
            if self.left == 0 || !rows.next(out)? {
                more = false;
                out.truncate(out.len() - usize::from(count > 0));
                break;
            }
            count += 1;
            self.left -= 1;
        }
        // A reader that wants no more rows keeps no transaction open.
        more &= self.left > 0;
        out.extend_from_slice(b"],\"more\":");
        put(&more, out);
        out.push(b'}');
        match more {
            true => Ok(()),
            false => self.end_reading(),
        }
    }

    fn end_reading(&mut self) -> Result<(), OdbcFault> {
        match self.reading.take() {
            None => Ok(()),
            Some(rows) => {
                drop(rows);
                self.opened()?.connection.commit()
            }
        }
    }

    // What is written.

    fn run(&mut self, run: &OdbcRun, out: &mut Vec<u8>) -> Result<(), OdbcFault> {
        self.end_reading()?;
        let connection = &self.opened()?.connection;
        for sql in &run.statements {
            OdbcStatement::new(connection)?.direct(sql)?;
            connection.commit()?;
        }
        out.extend_from_slice(b"{}");
        Ok(())
    }

    /// Executes a statement with parameters; the rows that it changed.
    fn update(&self, sql: &str, values: &[OdbcValues]) -> Result<usize, OdbcFault> {
        let statement = OdbcStatement::new(&self.opened()?.connection)?;
        statement.prepare(sql)?;
        let mut bound = OdbcBound::default();
        bound.bind(&statement, &values.iter().collect::<Vec<_>>(), 0, 1)?;
        statement.execute()?;
        statement.row_count()
    }

    /// The rows of a statement with one text as its parameter, as JSON.
    fn select(&self, sql: &str, parameter: &str) -> Result<Vec<Vec<serde_json::Value>>, OdbcFault> {
        let open = self.opened()?;
        let statement = OdbcStatement::new(&open.connection)?;
        statement.prepare(sql)?;
        let values = OdbcValues::text(parameter);
        let mut bound = OdbcBound::default();
        bound.bind(&statement, &[&values], 0, 1)?;
        statement.execute()?;
        let mut rows = OdbcRows::of(statement, open.abilities, 1, bound)?;
        let (mut all, mut row) = (Vec::new(), Vec::new());
        while rows.next(&mut row)? {
            all.push(of(&row)?);
            row.clear();
        }
        Ok(all)
    }

    /// How far a producer has come. Waits for a transaction of a session before that is still under way.
    fn known(&mut self, known: &OdbcKnown, out: &mut Vec<u8>) -> Result<(), OdbcFault> {
        self.end_reading()?;
        let producer = || OdbcValues::text(&known.producer);
        let connection = Rc::clone(&self.opened()?.connection);
        if self.update(&known.lock, &[producer()])? == 0 {
            connection.rollback()?;
            // Where another has made the row meanwhile, it is there to be locked.
            match self.update(&known.insert, &[producer(), OdbcValues::number("0")]) {
                Ok(_) => connection.commit()?,
                Err(fault) if fault.is_about_rows() => connection.rollback()?,
                Err(fault) => return Err(fault),
            }
            self.update(&known.lock, &[producer()])?;
        }
        let rows = self.select(&known.select, &known.producer)?;
        connection.commit()?;
        let position = rows
            .first()
            .and_then(|row| row.first())
            .map(whole)
            .transpose()?;
        put(
            &json!({ "position": position.filter(|position| *position > 0) }),
            out,
        );
        Ok(())
    }

    /// Writes rows and how far their producer has come, all in one transaction; answers which rows were refused. If there
    /// are any the transaction stays open: [`OdbcSession::keep`] ends it.
    fn write(&mut self, write: &OdbcWrite<'_>, out: &mut Vec<u8>) -> Result<(), OdbcFault> {
        self.end_reading()?;
        let open = self.opened()?;
        let connection = Rc::clone(&open.connection);
        let savepoints = OdbcSavepoints::of(&connection.product);
        let parts = write.parts.iter();
        let mut parts: Vec<OdbcPart> = parts
            .map(|part| OdbcPart::of(part, open.taking, &connection))
            .collect::<Result<_, _>>()?;
        let mut rejected = Vec::new();
        let mut whole = || -> Result<bool, OdbcFault> {
            let begun = self.begin(write)?;
            if begun {
                for part in &mut parts {
                    part.execute_all()?;
                }
                connection.commit()?;
            }
            Ok(begun)
        };
        let begun = match whole() {
            Ok(begun) => begun,
            Err(fault) => {
                parts.iter_mut().for_each(OdbcPart::forget);
                connection.rollback()?;
                if !fault.is_about_rows() || self.running.is_late() {
                    return Err(fault);
                }
                // Some rows are at fault: they are found by halving, and all others are written with the position.
                let begun = self.begin(write)?;
                if begun {
                    for part in &mut parts {
                        part.halve_all(savepoints, &self.running, &mut rejected)?;
                    }
                    if rejected.is_empty() {
                        connection.commit()?;
                    }
                }
                begun
            }
        };
        put(&json!({ "known": !begun, "rejected": rejected }), out);
        Ok(())
    }

    /// Notes the position; false when it is known already, with the rows before it.
    fn begin(&self, write: &OdbcWrite<'_>) -> Result<bool, OdbcFault> {
        // Rows that need not be recognised when they come again.
        if write.producer.is_empty() {
            return Ok(true);
        }
        let producer = || OdbcValues::text(&write.producer);
        let position = || OdbcValues::number(&write.position);
        if self.update(&write.advance, &[position(), producer(), position()])? > 0 {
            return Ok(true);
        }
        if self.update(&write.lock, &[producer()])? > 0 {
            self.opened()?.connection.rollback()?;
            return Ok(false);
        }
        match self.update(&write.insert, &[producer(), position()]) {
            Ok(_) => Ok(true),
            // It is there: another has made it meanwhile, or the driver counts rows that it did not have to change as none.
            Err(fault) if fault.is_about_rows() => Err(OdbcFault::new("for-now", fault.said)),
            Err(fault) => Err(fault),
        }
    }

    /// Keeps the rows that were refused in the transaction that [`OdbcSession::write`] has left open, and commits it.
    fn keep(&mut self, keep: &OdbcKeep, out: &mut Vec<u8>) -> Result<(), OdbcFault> {
        if !keep.rows.is_empty() {
            self.update(&keep.forget, &[OdbcValues::text(&keep.producer)])?;
            for (row, content, cause) in &keep.rows {
                let values = [
                    OdbcValues::text(&keep.producer),
                    OdbcValues::number(&keep.position),
                    OdbcValues::number(&row.to_string()),
                    OdbcValues::text(content),
                    OdbcValues::text(cause),
                ];
                self.update(&keep.insert, &values)?;
            }
        }
        self.opened()?.connection.commit()?;
        out.extend_from_slice(b"{}");
        Ok(())
    }

    /// The rows that were refused with the last position of a producer.
    fn recalled(&mut self, recalled: &OdbcRecalled, out: &mut Vec<u8>) -> Result<(), OdbcFault> {
        let rows = self.select(&recalled.select, &recalled.producer)?;
        self.opened()?.connection.commit()?;
        let mut answer = Vec::with_capacity(rows.len());
        for row in &rows {
            let text = |at: usize| {
                row.get(at)
                    .and_then(|value| value.as_str())
                    .unwrap_or_default()
            };
            let number = row.first().map(whole).transpose()?;
            answer.push(json!([number.unwrap_or(0), text(1), text(2)]));
        }
        put(&json!({ "rows": answer }), out);
        Ok(())
    }
}

/// A whole number of a decimal type, which is a text where it may be longer than numbers of JSON.
fn whole(value: &serde_json::Value) -> Result<u64, OdbcFault> {
    let text = match value {
        serde_json::Value::String(text) => Cow::from(text.as_str()),
        other => Cow::from(other.to_string()),
    };
    let plain = super::moment::decimal(&text, Some(0), false)?;
    plain
        .parse()
        .map_err(|_| OdbcFault::new("refused", format!("a position is {text}")))
}

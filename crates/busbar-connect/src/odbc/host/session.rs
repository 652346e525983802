//! One connection to the database, and what is done with it.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::fault::Fault;
use super::handle::{Connection, Environment, Running, Statement};
use super::library as odbc;
use super::parameters::{Bound, Parameter, Taking, Values};
use super::rows::{Abilities, Rows, json as put};
use super::tables;
use super::write::{Part, PartRequest, Savepoints};

/// What connections are made to.
pub struct Target {
    /// The connection string.
    pub string: Vec<u16>,
    /// What the database is called, where the string says so.
    pub product: String,
}

/// A session: nothing before `open`, and of no use after a failure.
pub struct Session {
    environment: Arc<Environment>,
    target: Arc<Target>,
    running: Arc<Running>,
    // Before the connection, which has to outlive its statements.
    reading: Option<Rows>,
    /// Rows that may still come of it; not every driver keeps to the number that it is told.
    left: usize,
    open: Option<Open>,
}

struct Open {
    connection: Rc<Connection>,
    abilities: Abilities,
    taking: Taking,
}

#[derive(Deserialize)]
struct Query<'a> {
    #[serde(borrow)]
    sql: Cow<'a, str>,
    rows: usize,
    bytes: usize,
    fetch: usize,
    most: Option<usize>,
    #[serde(borrow)]
    parameters: Vec<Parameter<'a>>,
}

#[derive(Deserialize)]
struct Next {
    rows: usize,
    bytes: usize,
}

#[derive(Deserialize)]
struct Run {
    statements: Vec<String>,
}

#[derive(Deserialize)]
struct Tables {
    most: usize,
}

#[derive(Deserialize)]
struct Columns {
    schema: String,
    table: String,
}

#[derive(Deserialize)]
struct Known {
    producer: String,
    lock: String,
    insert: String,
    select: String,
}

#[derive(Deserialize)]
struct Write<'a> {
    producer: String,
    position: String,
    advance: String,
    lock: String,
    insert: String,
    #[serde(borrow)]
    parts: Vec<PartRequest<'a>>,
}

#[derive(Deserialize)]
struct Keep {
    producer: String,
    position: String,
    forget: String,
    insert: String,
    rows: Vec<(u64, String, String)>,
}

#[derive(Deserialize)]
struct Recalled {
    producer: String,
    select: String,
}

/// Reads a request.
fn of<'a, T: Deserialize<'a>>(request: &'a [u8]) -> Result<T, Fault> {
    serde_json::from_slice(request).map_err(|why| Fault::new("worker", why.to_string()))
}

impl Session {
    pub fn new(
        environment: Arc<Environment>,
        target: Arc<Target>,
        running: Arc<Running>,
    ) -> Session {
        Session {
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
    ) -> Result<(), Fault> {
        if what == "open" {
            let about = self.open(seconds)?;
            put(&about, out);
            return Ok(());
        }
        if self.open.is_none() {
            return Err(Fault::new("for-now", "no connection"));
        }
        match what {
            "query" => self.query(&of(request)?, out),
            "next" => {
                let next: Next = of(request)?;
                self.page(next.rows, next.bytes, false, out)
            }
            "run" => self.run(&of(request)?, out),
            "tables" => {
                let request: Tables = of(request)?;
                self.end_reading()?;
                put(
                    &tables::tables(&self.opened()?.connection, request.most)?,
                    out,
                );
                self.opened()?.connection.commit()
            }
            "columns" => {
                let request: Columns = of(request)?;
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
            other => Err(Fault::new("worker", other)),
        }
    }

    fn opened(&self) -> Result<&Open, Fault> {
        self.open
            .as_ref()
            .ok_or_else(|| Fault::new("for-now", "no connection"))
    }

    fn open(&mut self, seconds: usize) -> Result<serde_json::Value, Fault> {
        let running = Arc::clone(&self.running);
        let mut connection = Connection::open(
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
            Statement::new(&connection)?.direct(zone)?;
        }
        let about = tables::about(&connection)?;
        // Where there are transactions, each request ends its own.
        if about["transactions"] == true {
            connection.set_autocommit(false)?;
        }
        self.open = Some(Open {
            abilities: Abilities {
                // MariaDB's driver says that it can do so, too, and reads those of the first row.
                rereads: product == "postgres" && extensions & rereads == rereads,
                keeps_sizes: !matches!(product.as_str(), "postgres" | "sqlite"),
                text_times: product == "sqlite",
                utc_times: matches!(product.as_str(), "postgres" | "mysql"),
            },
            taking: match product.as_str() {
                "postgres" => Taking::Postgres,
                "sqlite" => Taking::Sqlite,
                _ => Taking::Plain,
            },
            connection,
        });
        Ok(about)
    }

    // What is read.

    fn query(&mut self, query: &Query<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.end_reading()?;
        let open = self.opened()?;
        let statement = Statement::new(&open.connection)?;
        if let Some(most) = query.most {
            statement.set(odbc::ATTR_MAX_ROWS, most);
        }
        let values = query.parameters.iter();
        let values = values.map(|parameter| Values::one(parameter, open.taking));
        let values: Vec<Values> = values.collect::<Result<_, _>>()?;
        let mut bound = Bound::default();
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
        self.reading = Some(Rows::of(statement, open.abilities, query.fetch, bound)?);
        self.left = query.most.unwrap_or(usize::MAX);
        self.page(query.rows, query.bytes, true, out)
    }

    fn page(
        &mut self,
        rows_max: usize,
        bytes_max: usize,
        named: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let Some(rows) = &mut self.reading else {
            return Err(Fault::new("for-now", "no rows are being read"));
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
        out.extend_from_slice(b"],\"more\":");
        put(&more, out);
        out.push(b'}');
        match more {
            true => Ok(()),
            false => self.end_reading(),
        }
    }

    fn end_reading(&mut self) -> Result<(), Fault> {
        match self.reading.take() {
            None => Ok(()),
            Some(rows) => {
                drop(rows);
                self.opened()?.connection.commit()
            }
        }
    }

    // What is written.

    fn run(&mut self, run: &Run, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.end_reading()?;
        let connection = &self.opened()?.connection;
        for sql in &run.statements {
            Statement::new(connection)?.direct(sql)?;
            connection.commit()?;
        }
        out.extend_from_slice(b"{}");
        Ok(())
    }

    /// Executes a statement with parameters; the rows that it changed.
    fn update(&self, sql: &str, values: &[Values]) -> Result<usize, Fault> {
        let statement = Statement::new(&self.opened()?.connection)?;
        statement.prepare(sql)?;
        let mut bound = Bound::default();
        bound.bind(&statement, &values.iter().collect::<Vec<_>>(), 0, 1)?;
        statement.execute()?;
        statement.row_count()
    }

    /// The rows of a statement with one text as its parameter, as JSON.
    fn select(&self, sql: &str, parameter: &str) -> Result<Vec<Vec<serde_json::Value>>, Fault> {
        let open = self.opened()?;
        let statement = Statement::new(&open.connection)?;
        statement.prepare(sql)?;
        let values = Values::text(parameter);
        let mut bound = Bound::default();
        bound.bind(&statement, &[&values], 0, 1)?;
        statement.execute()?;
        let mut rows = Rows::of(statement, open.abilities, 1, bound)?;
        let (mut all, mut row) = (Vec::new(), Vec::new());
        while rows.next(&mut row)? {
            all.push(of(&row)?);
            row.clear();
        }
        Ok(all)
    }

    /// How far a producer has come. Waits for a transaction of a session before that is still under way.
    fn known(&mut self, known: &Known, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.end_reading()?;
        let producer = || Values::text(&known.producer);
        let connection = Rc::clone(&self.opened()?.connection);
        if self.update(&known.lock, &[producer()])? == 0 {
            connection.rollback()?;
            // Where another has made the row meanwhile, it is there to be locked.
            match self.update(&known.insert, &[producer(), Values::number("0")]) {
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
    /// are any the transaction stays open: [`Session::keep`] ends it.
    fn write(&mut self, write: &Write<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.end_reading()?;
        let open = self.opened()?;
        let connection = Rc::clone(&open.connection);
        let savepoints = Savepoints::of(&connection.product);
        let parts = write.parts.iter();
        let mut parts: Vec<Part> = parts
            .map(|part| Part::of(part, open.taking, &connection))
            .collect::<Result<_, _>>()?;
        let mut rejected = Vec::new();
        let mut whole = || -> Result<bool, Fault> {
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
                parts.iter_mut().for_each(Part::forget);
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
    fn begin(&self, write: &Write<'_>) -> Result<bool, Fault> {
        // Rows that need not be recognised when they come again.
        if write.producer.is_empty() {
            return Ok(true);
        }
        let producer = || Values::text(&write.producer);
        let position = || Values::number(&write.position);
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
            Err(fault) if fault.is_about_rows() => Err(Fault::new("for-now", fault.said)),
            Err(fault) => Err(fault),
        }
    }

    /// Keeps the rows that were refused in the transaction that [`Session::write`] has left open, and commits it.
    fn keep(&mut self, keep: &Keep, out: &mut Vec<u8>) -> Result<(), Fault> {
        if !keep.rows.is_empty() {
            self.update(&keep.forget, &[Values::text(&keep.producer)])?;
            for (row, content, cause) in &keep.rows {
                let values = [
                    Values::text(&keep.producer),
                    Values::number(&keep.position),
                    Values::number(&row.to_string()),
                    Values::text(content),
                    Values::text(cause),
                ];
                self.update(&keep.insert, &values)?;
            }
        }
        self.opened()?.connection.commit()?;
        out.extend_from_slice(b"{}");
        Ok(())
    }

    /// The rows that were refused with the last position of a producer.
    fn recalled(&mut self, recalled: &Recalled, out: &mut Vec<u8>) -> Result<(), Fault> {
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
fn whole(value: &serde_json::Value) -> Result<u64, Fault> {
    let text = match value {
        serde_json::Value::String(text) => Cow::from(text.as_str()),
        other => Cow::from(other.to_string()),
    };
    let plain = super::moment::decimal(&text, Some(0), false)?;
    plain
        .parse()
        .map_err(|_| Fault::new("refused", format!("a position is {text}")))
}

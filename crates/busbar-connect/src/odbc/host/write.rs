//! Rows for one statement, written an array at a time; those that the database refuses are found by halving.

use std::borrow::Cow;
use std::rc::Rc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::fault::Fault;
use super::handle::{Connection, Running, Statement};
use super::library as odbc;
use super::parameters::{Bound, Slot, Taking, Values};

/// Rows for one statement, or for two of which the second takes the rows that the first does not find.
#[derive(Deserialize)]
pub struct PartRequest<'a> {
    #[serde(borrow)]
    sql: Cow<'a, str>,
    /// The columns that are the statement's parameters.
    parameters: Vec<usize>,
    #[serde(borrow)]
    other: Option<Cow<'a, str>>,
    other_parameters: Option<Vec<usize>>,
    columns: Vec<Slot>,
    /// The numbers of the rows, by which those that are refused are named.
    numbers: Vec<usize>,
    #[serde(borrow)]
    rows: Vec<Vec<&'a RawValue>>,
}

/// How a place within a transaction is marked and gone back to.
#[derive(Clone, Copy)]
pub struct Savepoints {
    set: &'static str,
    back: &'static str,
}

impl Savepoints {
    pub fn of(product: &str) -> Savepoints {
        let (set, back) = match product {
            "microsoft" => (
                "SAVE TRANSACTION busbar_row",
                "ROLLBACK TRANSACTION busbar_row",
            ),
            "db2" => (
                "SAVEPOINT busbar_row ON ROLLBACK RETAIN CURSORS",
                "ROLLBACK TO SAVEPOINT busbar_row",
            ),
            _ => ("SAVEPOINT busbar_row", "ROLLBACK TO SAVEPOINT busbar_row"),
        };
        Savepoints { set, back }
    }
}

/// Rows, ready to be written.
pub struct Part {
    connection: Rc<Connection>,
    first: Prepared,
    other: Option<Prepared>,
    columns: Vec<Values>,
    numbers: Vec<usize>,
}

/// A statement that is prepared when it is first needed.
struct Prepared {
    sql: String,
    parameters: Vec<usize>,
    // Before what is bound to it.
    statement: Option<Statement>,
    bound: Bound,
    /// The driver takes arrays of parameters.
    arrays: bool,
}

impl Part {
    /// The rows of a request.
    ///
    /// # Errors
    /// The request names columns that it does not have.
    pub fn of(
        part: &PartRequest<'_>,
        taking: Taking,
        connection: &Rc<Connection>,
    ) -> Result<Part, Fault> {
        let columns = part.columns.len();
        let other_parameters = part.other_parameters.as_deref().unwrap_or_default();
        let within = |places: &[usize]| places.iter().all(|at| *at < columns);
        // Statements without parameters have rows without values.
        let is_whole = part.rows.iter().all(|row| row.len() == columns)
            && part.rows.len() == part.numbers.len()
            && within(&part.parameters)
            && within(other_parameters);
        if !is_whole {
            return Err(Fault::new("worker", "rows and columns do not fit"));
        }
        let prepared = |sql: &str, parameters: &[usize]| Prepared {
            sql: sql.to_owned(),
            parameters: parameters.to_vec(),
            statement: None,
            bound: Bound::default(),
            // SQLite's driver takes arrays, and loses bytes of all rows but the last.
            arrays: taking != Taking::Sqlite,
        };
        let values = part.columns.iter().enumerate();
        let values =
            values.map(|(at, slot)| Values::of(*slot, taking, part.rows.iter().map(|row| row[at])));
        Ok(Part {
            connection: Rc::clone(connection),
            first: prepared(&part.sql, &part.parameters),
            other: part
                .other
                .as_ref()
                .map(|sql| prepared(sql, other_parameters)),
            columns: values.collect(),
            numbers: part.numbers.clone(),
        })
    }

    /// Writes all rows.
    pub fn execute_all(&mut self) -> Result<(), Fault> {
        self.execute(0, self.numbers.len())
    }

    /// Has statements prepared anew: some drivers keep what one that failed was given.
    pub fn forget(&mut self) {
        self.first.statement = None;
        if let Some(other) = &mut self.other {
            other.statement = None;
        }
    }

    fn execute(&mut self, from: usize, to: usize) -> Result<(), Fault> {
        if let Some(fault) = self
            .columns
            .iter()
            .find_map(|values| values.fault(from, to))
        {
            return Err(fault.clone());
        }
        let (columns, connection) = (&self.columns, &self.connection);
        let Some(other) = &mut self.other else {
            return self.first.write(connection, columns, from, to);
        };
        // Drivers differ in whether they say for an array how many rows each set has found.
        for row in from..to {
            if self.first.write_row(connection, columns, row)? == 0 {
                other.write(connection, columns, row, row + 1)?;
            }
        }
        Ok(())
    }

    /// Writes what can be written, and names the rows that cannot.
    pub fn halve_all(
        &mut self,
        savepoints: Savepoints,
        running: &Running,
        rejected: &mut Vec<(usize, Fault)>,
    ) -> Result<(), Fault> {
        let mut ranges = vec![(0, self.numbers.len())];
        while let Some((from, to)) = ranges.pop() {
            if from == to {
                continue;
            }
            Statement::new(&self.connection)?.direct(savepoints.set)?;
            let Err(fault) = self.execute(from, to) else {
                continue;
            };
            if !fault.is_about_rows() || running.is_late() {
                return Err(fault);
            }
            self.forget();
            Statement::new(&self.connection)?.direct(savepoints.back)?;
            match to - from {
                1 => rejected.push((self.numbers[from], fault)),
                rows => {
                    let middle = from + rows / 2;
                    ranges.push((middle, to));
                    ranges.push((from, middle));
                }
            }
        }
        Ok(())
    }
}

impl Prepared {
    fn statement(&mut self, connection: &Rc<Connection>) -> Result<&Statement, Fault> {
        if self.statement.is_none() {
            let statement = Statement::new(connection)?;
            statement.prepare(&self.sql)?;
            self.statement = Some(statement);
        }
        self.statement
            .as_ref()
            .ok_or_else(|| Fault::new("worker", "no statement"))
    }

    /// Writes one row; how many rows of the table it found.
    fn write_row(
        &mut self,
        connection: &Rc<Connection>,
        columns: &[Values],
        row: usize,
    ) -> Result<usize, Fault> {
        self.statement(connection)?.set(odbc::ATTR_PARAMSET_SIZE, 1);
        let statement = self.execute(columns, row, row + 1)?;
        let count = statement.row_count();
        statement.close();
        count
    }

    /// Writes rows, as many at a time as fit.
    fn write(
        &mut self,
        connection: &Rc<Connection>,
        columns: &[Values],
        from: usize,
        to: usize,
    ) -> Result<(), Fault> {
        let mut at = from;
        while at < to {
            let values: Vec<&Values> = self.parameters.iter().map(|at| &columns[*at]).collect();
            let mut rows = match self.arrays && !values.is_empty() {
                true => Bound::fitting(&values, at, to),
                false => 1,
            };
            if !self
                .statement(connection)?
                .set(odbc::ATTR_PARAMSET_SIZE, rows)
                && rows > 1
            {
                self.arrays = false;
                rows = 1;
                self.statement(connection)?
                    .set(odbc::ATTR_PARAMSET_SIZE, rows);
            }
            // Answers of each set, where the driver has them.
            self.execute(columns, at, at + rows)?.close();
            at += rows;
        }
        Ok(())
    }

    fn execute(&mut self, columns: &[Values], from: usize, to: usize) -> Result<&Statement, Fault> {
        let values: Vec<&Values> = self.parameters.iter().map(|at| &columns[*at]).collect();
        let statement = self.statement.as_ref();
        let statement = statement.ok_or_else(|| Fault::new("worker", "no statement"))?;
        self.bound.bind(statement, &values, from, to)?;
        statement.execute()?;
        match self.bound.has_errors() {
            false => Ok(statement),
            true => Err(statement.fault()),
        }
    }
}

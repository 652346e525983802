//! Rows for one statement, written an array at a time; those that the database refuses are found by halving.

use std::borrow::Cow;
use std::rc::Rc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::fault::OdbcFault;
use super::handle::{OdbcConnection, OdbcRunning, OdbcStatement};
use super::library as odbc;
use super::parameters::{OdbcBound, OdbcSlot, OdbcTaking, OdbcValues};

/// Rows for one statement, or for two of which the second takes the rows that the first does not find.
#[derive(Deserialize)]
pub struct OdbcPartRequest<'a> {
    #[serde(borrow)]
    sql: Cow<'a, str>,
    /// The columns that are the statement's parameters.
    parameters: Vec<usize>,
    #[serde(borrow)]
    other: Option<Cow<'a, str>>,
    other_parameters: Option<Vec<usize>>,
    columns: Vec<OdbcSlot>,
    /// The numbers of the rows, by which those that are refused are named.
    numbers: Vec<usize>,
    #[serde(borrow)]
    rows: Vec<Vec<&'a RawValue>>,
}

/// How a place within a transaction is marked and gone back to.
#[derive(Clone, Copy)]
pub struct OdbcSavepoints {
    set: &'static str,
    back: &'static str,
}

impl OdbcSavepoints {
    pub fn of(product: &str) -> OdbcSavepoints {
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
        OdbcSavepoints { set, back }
    }
}

/// Rows, ready to be written.
pub struct OdbcPart {
    connection: Rc<OdbcConnection>,
    first: OdbcPrepared,
    other: Option<OdbcPrepared>,
    columns: Vec<OdbcValues>,
    numbers: Vec<usize>,
}

/// A statement that is prepared when it is first needed.
struct OdbcPrepared {
    sql: String,
    parameters: Vec<usize>,
    // Before what is bound to it.
    statement: Option<OdbcStatement>,
    bound: OdbcBound,
    /// The driver takes arrays of parameters.
    arrays: bool,
}

impl OdbcPart {
    /// The rows of a request.
    ///
    /// # Errors
    /// The request names columns that it does not have.
    pub fn of(
        part: &OdbcPartRequest<'_>,
        taking: OdbcTaking,
        connection: &Rc<OdbcConnection>,
    ) -> Result<OdbcPart, OdbcFault> {
        let columns = part.columns.len();
        let other_parameters = part.other_parameters.as_deref().unwrap_or_default();
        let within = |places: &[usize]| places.iter().all(|at| *at < columns);
        // Statements without parameters have rows without values.
        let is_whole = part.rows.iter().all(|row| row.len() == columns)
            && part.rows.len() == part.numbers.len()
            && within(&part.parameters)
            && within(other_parameters);
        if !is_whole {
            return Err(OdbcFault::new("worker", "rows and columns do not fit"));
        }
        let prepared = |sql: &str, parameters: &[usize]| OdbcPrepared {
            sql: sql.to_owned(),
            parameters: parameters.to_vec(),
            statement: None,
            bound: OdbcBound::default(),
            // SQLite's driver takes arrays, and loses bytes of all rows but the last.
            arrays: taking != OdbcTaking::Sqlite,
        };
        let values = part.columns.iter().enumerate();
        let values = values
            .map(|(at, slot)| OdbcValues::of(*slot, taking, part.rows.iter().map(|row| row[at])));
        Ok(OdbcPart {
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
    pub fn execute_all(&mut self) -> Result<(), OdbcFault> {
        self.execute(0, self.numbers.len())
    }

    /// Has statements prepared anew: some drivers keep what one that failed was given.
    pub fn forget(&mut self) {
        self.first.statement = None;
        if let Some(other) = &mut self.other {
            other.statement = None;
        }
    }

    fn execute(&mut self, from: usize, to: usize) -> Result<(), OdbcFault> {
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
        savepoints: OdbcSavepoints,
        running: &OdbcRunning,
        rejected: &mut Vec<(usize, OdbcFault)>,
    ) -> Result<(), OdbcFault> {
        let mut ranges = vec![(0, self.numbers.len())];
        while let Some((from, to)) = ranges.pop() {
            if from == to {
                continue;
            }
            OdbcStatement::new(&self.connection)?.direct(savepoints.set)?;
            let Err(fault) = self.execute(from, to) else {
                continue;
            };
            if !fault.is_about_rows() || running.is_late() {
                return Err(fault);
            }
            self.forget();
            OdbcStatement::new(&self.connection)?.direct(savepoints.back)?;
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

impl OdbcPrepared {
    fn statement(&mut self, connection: &Rc<OdbcConnection>) -> Result<&OdbcStatement, OdbcFault> {
        if self.statement.is_none() {
            let statement = OdbcStatement::new(connection)?;
            statement.prepare(&self.sql)?;
            self.statement = Some(statement);
        }
        self.statement
            .as_ref()
            .ok_or_else(|| OdbcFault::new("worker", "no statement"))
    }

    /// Writes one row; how many rows of the table it found.
    fn write_row(
        &mut self,
        connection: &Rc<OdbcConnection>,
        columns: &[OdbcValues],
        row: usize,
    ) -> Result<usize, OdbcFault> {
        self.statement(connection)?.set(odbc::ATTR_PARAMSET_SIZE, 1);
        let statement = self.execute(columns, row, row + 1)?;
        let count = statement.row_count();
        statement.close();
        count
    }

    /// Writes rows, as many at a time as fit.
    fn write(
        &mut self,
        connection: &Rc<OdbcConnection>,
        columns: &[OdbcValues],
        from: usize,
        to: usize,
    ) -> Result<(), OdbcFault> {
        let mut at = from;
        while at < to {
            let values: Vec<&OdbcValues> = self.parameters.iter().map(|at| &columns[*at]).collect();
            let mut rows = match self.arrays && !values.is_empty() {
                true => OdbcBound::fitting(&values, at, to),
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

    fn execute(
        &mut self,
        columns: &[OdbcValues],
        from: usize,
        to: usize,
    ) -> Result<&OdbcStatement, OdbcFault> {
        let values: Vec<&OdbcValues> = self.parameters.iter().map(|at| &columns[*at]).collect();
        let statement = self.statement.as_ref();
        let statement = statement.ok_or_else(|| OdbcFault::new("worker", "no statement"))?;
        self.bound.bind(statement, &values, from, to)?;
        statement.execute()?;
        match self.bound.has_errors() {
            false => Ok(statement),
            true => Err(statement.fault()),
        }
    }
}

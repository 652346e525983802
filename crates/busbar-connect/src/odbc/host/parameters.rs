//! Values of JSON as parameters of statements, an array of rows at a time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::fault::OdbcFault;
use super::handle::OdbcStatement;
use super::library as odbc;
use super::limits::{ARRAY_BYTES_MAX, ARRAY_ROWS_MAX};
use super::moment::{OdbcMoment, decimal, minus};
use crate::driver::sql;

/// A column that is written.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct OdbcSlot {
    #[serde(rename = "type")]
    pub kind: i32,
    /// Digits behind the point, of numbers or of seconds; none where that is not known.
    #[serde(default)]
    pub digits: Option<i32>,
    #[serde(default)]
    pub lossy: bool,
}

/// A parameter of a statement.
#[derive(Debug, Deserialize)]
pub struct OdbcParameter<'a> {
    #[serde(rename = "type")]
    pub kind: i32,
    #[serde(borrow)]
    pub value: &'a RawValue,
    /// So much before the value: microseconds of times, or a number.
    #[serde(default)]
    pub less: Option<u64>,
}

/// How a database takes parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OdbcTaking {
    /// As the interface has them.
    Plain,
    /// PostgreSQL: numbers with all digits as texts, and times of day with their fractions.
    Postgres,
    /// SQLite: times as texts.
    Sqlite,
}

/// The values of one parameter for several rows.
#[derive(Debug)]
pub struct OdbcValues {
    c_type: i16,
    sql_type: i16,
    /// Digits behind the point, the most of all rows.
    digits: i16,
    /// All values, one behind the other.
    bytes: Vec<u8>,
    /// Where each one ends, and whether there is one.
    ends: Vec<(usize, bool)>,
    /// What is wrong with the values of some rows.
    faults: Vec<(usize, OdbcFault)>,
}

impl OdbcValues {
    /// The values of a column, as JSON has them.
    pub fn of<'a>(
        slot: OdbcSlot,
        taking: OdbcTaking,
        cells: impl Iterator<Item = &'a RawValue>,
    ) -> OdbcValues {
        let (c_type, sql_type) = types(slot.kind, taking);
        let mut values = OdbcValues {
            c_type,
            sql_type,
            digits: 0,
            bytes: Vec::new(),
            ends: Vec::new(),
            faults: Vec::new(),
        };
        for (row, cell) in cells.enumerate() {
            let has = match cell.get() {
                "null" => false,
                json => match values.push(&plain(json), slot) {
                    Ok(()) => true,
                    Err(fault) => {
                        values.faults.push((row, fault));
                        false
                    }
                },
            };
            values.ends.push((values.bytes.len(), has));
        }
        values
    }

    /// The value of a parameter that stands alone.
    pub fn one(parameter: &OdbcParameter<'_>, taking: OdbcTaking) -> Result<OdbcValues, OdbcFault> {
        let mut kind = parameter.kind;
        let mut text = plain(parameter.value.get()).into_owned();
        let is_null = parameter.value.get() == "null";
        if !is_null {
            // Bytes come back as they were read.
            if kind == sql::VARBINARY {
                text = STANDARD.encode(unhex(&text)?);
            }
            if let Some(by) = parameter.less {
                text = less(&text, kind, by)?;
            }
            // Where a column says nothing of the type, a text is never equal to a number.
            if taking == OdbcTaking::Sqlite && kind == sql::NUMERIC && text.parse::<i64>().is_ok() {
                kind = sql::BIGINT;
            }
        }
        let json = match is_null {
            true => "null".to_owned(),
            false => serde_json::Value::from(text).to_string(),
        };
        let raw =
            RawValue::from_string(json).map_err(|why| OdbcFault::new("worker", why.to_string()))?;
        let slot = OdbcSlot {
            kind,
            digits: None,
            lossy: false,
        };
        let values = OdbcValues::of(slot, taking, std::iter::once(&*raw));
        match values.faults.first() {
            Some((_, fault)) => Err(fault.clone()),
            None => Ok(values),
        }
    }

    /// A text that stands alone.
    pub fn text(text: &str) -> OdbcValues {
        let mut values =
            OdbcValues::of(slot_of(sql::VARCHAR), OdbcTaking::Plain, std::iter::empty());
        values.wide(text);
        values.ends.push((values.bytes.len(), true));
        values
    }

    /// A whole number of any length that stands alone.
    pub fn number(digits: &str) -> OdbcValues {
        let mut values =
            OdbcValues::of(slot_of(sql::NUMERIC), OdbcTaking::Plain, std::iter::empty());
        values.wide(digits);
        values.ends.push((values.bytes.len(), true));
        values
    }

    /// What is wrong with a value of these rows, if anything is.
    pub fn fault(&self, from: usize, to: usize) -> Option<&OdbcFault> {
        let mut faults = self.faults.iter();
        let found = faults.find(|(row, _)| (from..to).contains(row));
        found.map(|(_, fault)| fault)
    }

    fn value(&self, row: usize) -> Option<&[u8]> {
        let (end, has) = *self.ends.get(row)?;
        let begin = row.checked_sub(1).map_or(0, |before| self.ends[before].0);
        has.then(|| &self.bytes[begin..end])
    }

    /// Bytes of the longest value of some rows.
    fn longest(&self, from: usize, to: usize) -> usize {
        let lengths = (from..to).filter_map(|row| self.value(row).map(<[u8]>::len));
        lengths.max().unwrap_or(0)
    }

    fn wide(&mut self, text: &str) {
        for unit in text.encode_utf16() {
            self.bytes.extend_from_slice(&unit.to_ne_bytes());
        }
    }

    fn push(&mut self, text: &str, slot: OdbcSlot) -> Result<(), OdbcFault> {
        let wrong = || OdbcFault::new("value", text.chars().take(100).collect::<String>());
        let moment = || {
            let moment = OdbcMoment::parse(text).ok_or_else(wrong)?;
            match slot.digits {
                Some(digits) if moment.digits() > digits => match slot.lossy {
                    true => Ok(moment.cut(digits)),
                    false => Err(wrong()),
                },
                _ => Ok(moment),
            }
        };
        match (slot.kind, self.c_type) {
            (sql::BOOLEAN, _) => {
                let small = text.trim().to_lowercase();
                self.bytes.push(match small.as_str() {
                    "true" | "t" | "1" => 1,
                    "false" | "f" | "0" => 0,
                    _ => return Err(wrong()),
                });
            }
            (sql::TINYINT | sql::SMALLINT | sql::INTEGER | sql::BIGINT, _) => {
                let text = match text {
                    "true" => "1",
                    "false" => "0",
                    other => other,
                };
                let number: i64 = decimal(text, Some(0), slot.lossy)?
                    .parse()
                    .map_err(|_| wrong())?;
                let most = match slot.kind {
                    sql::TINYINT => 255,
                    sql::SMALLINT => 65_535,
                    sql::INTEGER => i64::from(i32::MAX),
                    _ => i64::MAX,
                };
                if number > most || number < -most - 1 {
                    return Err(wrong());
                }
                self.bytes.extend_from_slice(&number.to_ne_bytes());
            }
            (sql::NUMERIC, _) => {
                let text = match text {
                    "true" => "1",
                    "false" => "0",
                    other => other,
                };
                let number = decimal(text, slot.digits, slot.lossy)?;
                let digits = number.split_once('.').map_or(0, |(_, digits)| digits.len());
                self.digits = self.digits.max(digits as i16);
                self.wide(&number);
            }
            (sql::REAL, odbc::C_FLOAT) => {
                let number: f32 = text.parse().map_err(|_| wrong())?;
                self.bytes.extend_from_slice(&number.to_ne_bytes());
            }
            (sql::DOUBLE, odbc::C_DOUBLE) => {
                let number: f64 = text.parse().map_err(|_| wrong())?;
                self.bytes.extend_from_slice(&number.to_ne_bytes());
            }
            (sql::REAL | sql::DOUBLE, _) => {
                let _: f64 = text.parse().map_err(|_| wrong())?;
                self.wide(text);
            }
            (sql::DATE, c_type) => {
                let moment = OdbcMoment::parse(text).ok_or_else(wrong)?;
                let parts = moment.parts();
                let midnight =
                    (parts.hour, parts.minute, parts.second, parts.fraction) == (0, 0, 0, 0);
                if !slot.lossy && !midnight {
                    return Err(wrong());
                }
                match c_type {
                    odbc::C_DATE => {
                        let date = parts.date;
                        let parts = [date.year.cast_unsigned(), date.month, date.day];
                        parts
                            .iter()
                            .for_each(|part| self.bytes.extend_from_slice(&part.to_ne_bytes()));
                    }
                    _ => self.wide(&parts.date.shown()),
                }
            }
            (sql::TIMESTAMP | sql::TIMESTAMP_WITH_TIMEZONE, odbc::C_TIMESTAMP) => {
                let moment = moment()?;
                self.digits = self.digits.max(moment.digits() as i16);
                let (date, parts) = (moment.parts().date, moment.parts());
                let words = [
                    date.year.cast_unsigned(),
                    date.month,
                    date.day,
                    parts.hour,
                    parts.minute,
                    parts.second,
                ];
                words
                    .iter()
                    .for_each(|part| self.bytes.extend_from_slice(&part.to_ne_bytes()));
                self.bytes.extend_from_slice(&parts.fraction.to_ne_bytes());
            }
            (sql::TIMESTAMP, _) => {
                let shown = moment()?.shown();
                self.wide(&shown.replacen('T', " ", 1));
            }
            (sql::TIMESTAMP_WITH_TIMEZONE, _) => {
                let shown = moment()?.shown();
                self.wide(&format!("{} +00:00", shown.replacen('T', " ", 1)));
            }
            (sql::TIME, _) => {
                let time =
                    OdbcMoment::parse(&format!("1970-01-01T{}", text.trim())).ok_or_else(wrong)?;
                let digits = slot.digits.unwrap_or(9);
                if time.digits() > digits && !slot.lossy {
                    return Err(wrong());
                }
                let shown = time.cut(digits).shown();
                self.digits = self.digits.max(time.cut(digits).digits() as i16);
                self.wide(shown.get(11..).unwrap_or_default());
            }
            (sql::VARBINARY | sql::BLOB, _) => {
                let bytes = STANDARD.decode(text).map_err(|_| wrong())?;
                self.bytes.extend_from_slice(&bytes);
            }
            _ => self.wide(text),
        }
        Ok(())
    }
}

fn slot_of(kind: i32) -> OdbcSlot {
    OdbcSlot {
        kind,
        digits: None,
        lossy: false,
    }
}

/// The types of C and of SQL for values of a type.
fn types(kind: i32, taking: OdbcTaking) -> (i16, i16) {
    let narrow = kind as i16;
    match (kind, taking) {
        (sql::BOOLEAN, _) => (odbc::C_BIT, -7),
        (sql::TINYINT | sql::SMALLINT | sql::INTEGER | sql::BIGINT, _) => {
            (odbc::C_SBIGINT, sql::BIGINT as i16)
        }
        (sql::NUMERIC, _) => (odbc::C_WCHAR, 3),
        (sql::REAL | sql::DOUBLE, OdbcTaking::Postgres) => (odbc::C_WCHAR, narrow),
        (sql::REAL, _) => (odbc::C_FLOAT, narrow),
        (sql::DOUBLE, _) => (odbc::C_DOUBLE, narrow),
        (sql::DATE, OdbcTaking::Sqlite) => (odbc::C_WCHAR, -9),
        (sql::DATE, _) => (odbc::C_DATE, narrow),
        (sql::TIMESTAMP | sql::TIMESTAMP_WITH_TIMEZONE, OdbcTaking::Sqlite) => (odbc::C_WCHAR, -9),
        (sql::TIMESTAMP, _) | (sql::TIMESTAMP_WITH_TIMEZONE, OdbcTaking::Postgres) => {
            (odbc::C_TIMESTAMP, sql::TIMESTAMP as i16)
        }
        (sql::TIME, OdbcTaking::Postgres) => (odbc::C_WCHAR, narrow),
        (sql::VARBINARY | sql::BLOB, _) => (odbc::C_BINARY, -3),
        _ => (odbc::C_WCHAR, -9),
    }
}

/// A value as plain text: a JSON text without its quotes.
fn plain(json: &str) -> std::borrow::Cow<'_, str> {
    if !json.starts_with('"') {
        return json.into();
    }
    let inner = &json[1..json.len() - 1];
    match inner.contains('\\') {
        false => inner.into(),
        true => serde_json::from_str::<String>(json).map_or_else(|_| json.into(), Into::into),
    }
}

fn unhex(digits: &str) -> Result<Vec<u8>, OdbcFault> {
    let pairs = (0..digits.len()).step_by(2);
    let bytes = pairs.map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok());
    let bytes: Option<Vec<u8>> = bytes.collect();
    bytes.ok_or_else(|| OdbcFault::new("value", digits.chars().take(100).collect::<String>()))
}

/// So much before a value: microseconds of times, or a number.
fn less(text: &str, kind: i32, by: u64) -> Result<String, OdbcFault> {
    let time = || {
        OdbcMoment::parse(text)
            .ok_or_else(|| OdbcFault::new("value", text.chars().take(100).collect::<String>()))
    };
    match kind {
        sql::TIMESTAMP | sql::TIMESTAMP_WITH_TIMEZONE => {
            Ok(format!("{}Z", time()?.less(by).shown()))
        }
        // A whole day is the least that a date can be less.
        sql::DATE => {
            let days = by.div_ceil(86_400_000_000).saturating_mul(86_400_000_000);
            Ok(time()?.less(days).parts().date.shown())
        }
        _ => minus(text, by),
    }
}

/// Arrays that are bound to the parameters of a statement.
#[derive(Default)]
pub struct OdbcBound {
    arrays: Vec<(Vec<u64>, Vec<isize>)>,
    states: Vec<u16>,
    processed: Box<usize>,
}

impl OdbcBound {
    /// How many of these rows fit into an array: at least one.
    pub fn fitting(values: &[&OdbcValues], from: usize, to: usize) -> usize {
        let most = to.min(from + ARRAY_ROWS_MAX);
        let mut longest = vec![0; values.len()];
        for row in from..most {
            for (longest, values) in longest.iter_mut().zip(values) {
                *longest = values.value(row).map_or(0, <[u8]>::len).max(*longest);
            }
            let bytes: usize = longest.iter().map(|bytes| bytes + 16).sum();
            if row > from && bytes * (row + 1 - from) > ARRAY_BYTES_MAX {
                return row - from;
            }
        }
        most - from
    }

    /// Binds the values of some rows, in the place of those that were bound.
    pub fn bind(
        &mut self,
        statement: &OdbcStatement,
        values: &[&OdbcValues],
        from: usize,
        to: usize,
    ) -> Result<(), OdbcFault> {
        let rows = to - from;
        self.arrays.clear();
        self.states.clear();
        self.states.resize(rows, odbc::PARAM_UNUSED);
        // SAFETY: the arrays keep their size, and stay until others are bound in their place or the statement ends, since a
        // statement is dropped before what is bound to it.
        unsafe {
            statement.set_place(odbc::ATTR_PARAM_STATUS, self.states.as_mut_ptr());
            statement.set_place(odbc::ATTR_PARAMS_PROCESSED, &raw mut *self.processed);
        }
        for (at, values) in values.iter().enumerate() {
            let longest = values.longest(from, to);
            // A text of no length has a place, too; and each one lies where a number may.
            let room = longest.max(1).next_multiple_of(8);
            let mut data = vec![0_u64; (room * rows).div_ceil(8)];
            let mut lengths = Vec::with_capacity(rows);
            {
                // SAFETY: bytes have no alignment, and these are the array's own.
                let bytes = unsafe {
                    std::slice::from_raw_parts_mut(data.as_mut_ptr().cast::<u8>(), data.len() * 8)
                };
                for row in from..to {
                    let place = (row - from) * room;
                    match values.value(row) {
                        None => lengths.push(odbc::NULL_DATA),
                        Some(value) => {
                            bytes[place..place + value.len()].copy_from_slice(value);
                            lengths.push(value.len() as isize);
                        }
                    }
                }
            }
            let (sql_type, size, digits) = values.described(longest);
            // SAFETY: as above.
            unsafe {
                statement.bind_parameter(
                    at as u16 + 1,
                    values.c_type,
                    sql_type,
                    size,
                    digits,
                    data.as_mut_ptr().cast(),
                    room,
                    lengths.as_mut_ptr(),
                )?;
            }
            self.arrays.push((data, lengths));
        }
        Ok(())
    }

    /// Whether the driver says of a row that it was not taken.
    pub fn has_errors(&self) -> bool {
        self.states.contains(&odbc::PARAM_ERROR)
    }
}

impl OdbcValues {
    /// Type, size and digits, as the driver is told them.
    fn described(&self, longest: usize) -> (i16, usize, i16) {
        let chars = (longest / 2).max(1);
        match (self.sql_type, self.c_type) {
            // WVARCHAR and WLONGVARCHAR, VARBINARY and LONGVARBINARY.
            (-9, _) if chars > 4_000 => (-10, chars, 0),
            (-9, _) => (-9, chars, 0),
            (-3, _) if longest > 8_000 => (-4, longest, 0),
            (-3, _) => (-3, longest.max(1), 0),
            // All digits, without sign and point.
            (3, _) => (3, chars.max(self.digits as usize + 1), self.digits),
            (93, _) if self.digits > 0 => (93, 20 + self.digits as usize, self.digits),
            (93, _) => (93, 19, 0),
            (92, _) => (
                92,
                8 + self.digits as usize + usize::from(self.digits > 0),
                self.digits,
            ),
            (91, _) => (91, 10, 0),
            (other, _) => (other, 0, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).expect("JSON")
    }

    fn pushed(kind: i32, digits: Option<i32>, json: &str) -> Result<Vec<u8>, OdbcFault> {
        let slot = OdbcSlot {
            kind,
            digits,
            lossy: false,
        };
        let cell = raw(json);
        let values = OdbcValues::of(slot, OdbcTaking::Plain, std::iter::once(&*cell));
        match values.fault(0, 1) {
            Some(fault) => Err(fault.clone()),
            None => Ok(values.value(0).unwrap_or(b"-").to_vec()),
        }
    }

    #[test]
    fn what_a_column_cannot_hold_is_refused() {
        for (kind, digits, json, fits) in [
            (sql::INTEGER, None, "2147483647", true),
            (sql::INTEGER, None, "2147483648", false),
            (sql::SMALLINT, None, "\"5.0\"", true),
            (sql::SMALLINT, None, "\"5.5\"", false),
            (sql::BIGINT, None, "9223372036854775808", false),
            (sql::NUMERIC, Some(2), "\"1.505\"", false),
            (sql::BOOLEAN, None, "\"maybe\"", false),
            (sql::BOOLEAN, None, "true", true),
            (sql::DATE, None, "\"2024-05-06T00:00:00Z\"", true),
            (sql::DATE, None, "\"2024-05-06T00:00:01Z\"", false),
            (
                sql::TIMESTAMP,
                Some(3),
                "\"2024-05-06T07:08:09.123Z\"",
                true,
            ),
            (
                sql::TIMESTAMP,
                Some(3),
                "\"2024-05-06T07:08:09.1234Z\"",
                false,
            ),
            (sql::TIME, Some(0), "\"07:08:09\"", true),
            (sql::TIME, Some(0), "\"07:08:09.5\"", false),
            (sql::VARBINARY, None, "\"*\"", false),
            (sql::DOUBLE, None, "\"x\"", false),
        ] {
            let found = pushed(kind, digits, json);
            assert_eq!(found.is_ok(), fits, "{kind} {json}: {found:?}");
            if let Err(fault) = found {
                assert!(fault.is_about_rows(), "{fault:?}");
            }
        }
        assert_eq!(pushed(sql::INTEGER, None, "null").expect("null"), b"-");
    }

    #[test]
    fn long_values_go_in_smaller_arrays() {
        let slot = slot_of(sql::VARCHAR);
        let long = raw(&format!("\"{}\"", "x".repeat(ARRAY_BYTES_MAX / 4)));
        let short = raw("\"x\"");
        let short_rows: Vec<&RawValue> = vec![&short; 5_000];
        let values = OdbcValues::of(slot, OdbcTaking::Plain, short_rows.into_iter());
        assert_eq!(OdbcBound::fitting(&[&values], 0, 5_000), ARRAY_ROWS_MAX);
        let rows: Vec<&RawValue> = vec![&short, &short, &long, &long];
        let values = OdbcValues::of(slot, OdbcTaking::Plain, rows.into_iter());
        assert_eq!(OdbcBound::fitting(&[&values], 0, 4), 2);
        assert_eq!(OdbcBound::fitting(&[&values], 2, 4), 1);
        assert_eq!(OdbcBound::fitting(&[&values], 3, 4), 1);
    }

    #[test]
    fn an_overlap_begins_before_a_value() {
        let of = |kind, json: &str, by| {
            let value = raw(json);
            let text = plain(value.get()).into_owned();
            less(&text, kind, by).expect("a value")
        };
        assert_eq!(of(sql::BIGINT, "10", 3), "7");
        assert_eq!(
            of(sql::TIMESTAMP, "\"2024-05-06T07:08:09\"", 9_000_000),
            "2024-05-06T07:08:00Z"
        );
        assert_eq!(of(sql::DATE, "\"2024-03-01\"", 1), "2024-02-29");
    }
}

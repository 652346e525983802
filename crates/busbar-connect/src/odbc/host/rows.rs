//! The rows of an answer as JSON: bound to buffers a rowset at a time, or read value by value.
//!
//! What the driver calls the size of a column decides how much room its values get. A value that is longer than that is read
//! again in pieces, where the driver can do so within a rowset. Where it cannot, an answer is read a rowset at a time only if
//! each of its columns has a size that the driver keeps to, and else value by value.

use super::fault::OdbcFault;
use super::handle::{OdbcPiece, OdbcStatement};
use super::kind::kind_of;
use super::library as odbc;
use super::limits::{
    BOUND_BYTES_MAX, PIECE_BYTES, ROW_BYTES_MAX, ROWSET_BYTES_MAX, VALUE_BYTES_MAX,
};
use super::moment::{OdbcDateStruct, OdbcMoment, OdbcTimestampStruct};
use super::parameters::OdbcBound;
use crate::driver::sql;

/// What drivers do differently.
#[derive(Clone, Copy, Debug, Default)]
pub struct OdbcAbilities {
    /// Values of any row of a rowset can be read again, also those that are bound.
    pub rereads: bool,
    /// No value is longer than the driver says of its column.
    pub keeps_sizes: bool,
    /// Times are kept as texts.
    pub text_times: bool,
    /// Times with a zone come in UTC, as the session's zone is.
    pub utc_times: bool,
}

/// The rows of a statement that was executed.
pub struct OdbcRows {
    statement: OdbcStatement,
    /// The statement's parameters.
    _bound: OdbcBound,
    pub columns: Vec<OdbcColumn>,
    rowset: Option<OdbcRowset>,
    rereads: bool,
}

/// A column of an answer.
pub struct OdbcColumn {
    pub name: String,
    /// Of [`sql`].
    pub kind: i32,
    form: OdbcForm,
    /// Bytes that a value takes in a buffer; none where it may take any number of them.
    room: Option<usize>,
}

/// How values of a column are read, and written as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OdbcForm {
    Bit,
    Whole,
    Float,
    Double,
    Date,
    Timestamp,
    /// The same, with the zone.
    Instant,
    /// A text that is a number; bare in JSON where that holds it for certain.
    Decimal {
        bare: bool,
    },
    /// A text that is a time, with a zone or without.
    TextTime {
        zone: bool,
    },
    Text,
    /// A text of letters that count as small ones.
    Uuid,
    Bytes,
}

impl OdbcForm {
    fn c_type(self) -> i16 {
        match self {
            OdbcForm::Bit => odbc::C_BIT,
            OdbcForm::Whole => odbc::C_SBIGINT,
            OdbcForm::Float => odbc::C_FLOAT,
            OdbcForm::Double => odbc::C_DOUBLE,
            OdbcForm::Date => odbc::C_DATE,
            OdbcForm::Timestamp | OdbcForm::Instant => odbc::C_TIMESTAMP,
            OdbcForm::Decimal { .. }
            | OdbcForm::TextTime { .. }
            | OdbcForm::Text
            | OdbcForm::Uuid => odbc::C_WCHAR,
            OdbcForm::Bytes => odbc::C_BINARY,
        }
    }

    /// Bytes of a value that always has as many.
    fn fixed(self) -> Option<usize> {
        match self {
            OdbcForm::Bit => Some(1),
            OdbcForm::Float => Some(4),
            OdbcForm::Whole | OdbcForm::Double => Some(8),
            OdbcForm::Date => Some(size_of::<OdbcDateStruct>()),
            OdbcForm::Timestamp | OdbcForm::Instant => Some(size_of::<OdbcTimestampStruct>()),
            OdbcForm::Decimal { .. }
            | OdbcForm::TextTime { .. }
            | OdbcForm::Text
            | OdbcForm::Uuid
            | OdbcForm::Bytes => None,
        }
    }
}

/// Buffers for several rows.
struct OdbcRowset {
    buffers: Vec<Option<OdbcBuffer>>,
    /// How many rows the driver has written.
    fetched: Box<usize>,
    /// The row that is next.
    at: usize,
}

struct OdbcBuffer {
    /// Of words, so that numbers lie where they have to.
    values: Vec<u64>,
    lengths: Vec<isize>,
    /// Bytes of a value.
    room: usize,
}

impl OdbcBuffer {
    fn value(&self, row: usize) -> &[u8] {
        // SAFETY: bytes have no alignment, and all of them have been written, at first with zeros.
        let all = unsafe {
            std::slice::from_raw_parts(self.values.as_ptr().cast::<u8>(), self.values.len() * 8)
        };
        &all[row * self.room..(row + 1) * self.room]
    }
}

impl OdbcRows {
    /// The rows of a statement that was executed; `fetch` of them at a time at most.
    ///
    /// # Errors
    /// What the driver says.
    pub fn of(
        statement: OdbcStatement,
        abilities: OdbcAbilities,
        fetch: usize,
        bound: OdbcBound,
    ) -> Result<OdbcRows, OdbcFault> {
        let count = statement.column_count()?;
        let columns = (1..=count).map(|at| column(&statement, at, abilities));
        let mut rows = OdbcRows {
            columns: columns.collect::<Result<_, _>>()?,
            statement,
            _bound: bound,
            rowset: None,
            rereads: false,
        };
        let columns = rows.columns.iter();
        let safe = abilities.rereads
            || columns.clone().all(|column| column.form.fixed().is_some())
            || abilities.keeps_sizes && columns.clone().all(|column| column.room.is_some());
        if safe && fetch > 1 {
            rows.bind(fetch, abilities)?;
        }
        Ok(rows)
    }

    fn bind(&mut self, fetch: usize, abilities: OdbcAbilities) -> Result<(), OdbcFault> {
        let row: usize = self.columns.iter().filter_map(|column| column.room).sum();
        let most = (ROWSET_BYTES_MAX / row.max(1)).clamp(1, fetch);
        if !self.statement.set(odbc::ATTR_ROW_ARRAY_SIZE, most) {
            return Ok(());
        }
        let buffers = self.columns.iter().map(|column| {
            column.room.map(|room| OdbcBuffer {
                values: vec![0; (room * most).div_ceil(8)],
                lengths: vec![0; most],
                room,
            })
        });
        let mut rowset = OdbcRowset {
            buffers: buffers.collect(),
            fetched: Box::new(0),
            at: 0,
        };
        // SAFETY: the number is in a box and the buffers keep their size, so that all stay where they are until the statement
        // is unbound, which is when this is dropped.
        unsafe {
            self.statement
                .set_place(odbc::ATTR_ROWS_FETCHED, &raw mut *rowset.fetched);
            for (at, (column, buffer)) in self.columns.iter().zip(&mut rowset.buffers).enumerate() {
                let Some(buffer) = buffer else { continue };
                self.statement.bind_column(
                    at as u16 + 1,
                    column.form.c_type(),
                    buffer.values.as_mut_ptr().cast(),
                    buffer.room,
                    buffer.lengths.as_mut_ptr(),
                )?;
            }
        }
        self.rowset = Some(rowset);
        self.rereads = abilities.rereads;
        Ok(())
    }

    /// Appends the next row as a list of JSON; whether there was one.
    ///
    /// # Errors
    /// What the driver says, or that a value is too large.
    pub fn next(&mut self, out: &mut Vec<u8>) -> Result<bool, OdbcFault> {
        let begin = out.len();
        let fits = |column: &OdbcColumn, out: &[u8]| match out.len() - begin > ROW_BYTES_MAX {
            true => Err(OdbcFault::new(
                "large",
                format!("a row, at {}", column.name),
            )),
            false => Ok(()),
        };
        let Some(rowset) = &mut self.rowset else {
            if !self.statement.fetch()? {
                return Ok(false);
            }
            for (at, column) in self.columns.iter().enumerate() {
                out.push(if at == 0 { b'[' } else { b',' });
                column.read(&self.statement, at as u16 + 1, out)?;
                fits(column, out)?;
            }
            out.push(b']');
            return Ok(true);
        };
        if rowset.at >= *rowset.fetched {
            rowset.at = 0;
            *rowset.fetched = 0;
            if !self.statement.fetch()? || *rowset.fetched == 0 {
                return Ok(false);
            }
        }
        let row = rowset.at;
        rowset.at += 1;
        let mut positioned = false;
        for (at, (column, buffer)) in self.columns.iter().zip(&rowset.buffers).enumerate() {
            out.push(if at == 0 { b'[' } else { b',' });
            let bound = buffer.as_ref().and_then(|buffer| {
                let length = *buffer.lengths.get(row)?;
                let whole = buffer.value(row);
                match usize::try_from(length) {
                    _ if length == odbc::NULL_DATA => Some(None),
                    Ok(_) if column.form.fixed().is_some() => Some(Some(whole)),
                    Ok(length) => {
                        let end = if column.form == OdbcForm::Bytes { 0 } else { 2 };
                        (length + end <= whole.len()).then(|| Some(&whole[..length]))
                    }
                    Err(_) => None,
                }
            });
            match bound {
                Some(None) => out.extend_from_slice(b"null"),
                Some(Some(value)) => column.write(value, out),
                // It is longer than the driver said, or of no length that is known before.
                None if !self.rereads => {
                    let said = format!("{} is longer than the driver says", column.name);
                    return Err(OdbcFault::new("worker", said));
                }
                None => {
                    if !positioned {
                        self.statement.position(row + 1)?;
                        positioned = true;
                    }
                    column.read(&self.statement, at as u16 + 1, out)?;
                }
            }
            fits(column, out)?;
        }
        out.push(b']');
        Ok(true)
    }
}

impl Drop for OdbcRows {
    fn drop(&mut self) {
        self.statement.close();
        self.statement.unbind();
    }
}

fn column(
    statement: &OdbcStatement,
    at: u16,
    abilities: OdbcAbilities,
) -> Result<OdbcColumn, OdbcFault> {
    let described = statement.describe(at)?;
    let mut kind = kind_of(described.raw, &described.type_name, described.size);
    if described.unsigned && kind == sql::BIGINT {
        kind = sql::NUMERIC;
    }
    let time = |zone| match (abilities.text_times, zone && !abilities.utc_times) {
        (false, false) if zone => OdbcForm::Instant,
        (false, false) => OdbcForm::Timestamp,
        _ => OdbcForm::TextTime { zone },
    };
    let form = match kind {
        sql::BOOLEAN => OdbcForm::Bit,
        sql::TINYINT | sql::SMALLINT | sql::INTEGER | sql::BIGINT => OdbcForm::Whole,
        sql::REAL => OdbcForm::Float,
        sql::DOUBLE => OdbcForm::Double,
        sql::NUMERIC => OdbcForm::Decimal {
            // What is a text to the driver may have digits behind the point whatever the driver says.
            bare: described.raw != 12
                && described.digits == 0
                && (1..=18).contains(&described.size),
        },
        sql::DATE if !abilities.text_times => OdbcForm::Date,
        sql::TIMESTAMP => time(false),
        sql::TIMESTAMP_WITH_TIMEZONE => time(true),
        sql::VARBINARY | sql::BLOB => OdbcForm::Bytes,
        _ if described.type_name == "uuid" => OdbcForm::Uuid,
        _ => OdbcForm::Text,
    };
    let bounded =
        |room: usize| Some(room.next_multiple_of(8)).filter(|room| *room <= BOUND_BYTES_MAX);
    // Long types say of their size what they like.
    let long = matches!(described.raw, -1 | -4 | -10 | -98 | -99 | -350) || described.size == 0;
    let room = form.fixed().or(match form {
        // Sign, point, a zero before it, and the end.
        OdbcForm::Decimal { .. } => bounded((described.size.min(1_000) + 4) * 2),
        OdbcForm::TextTime { .. } => bounded(128),
        _ if long => None,
        OdbcForm::Bytes => bounded(described.size.min(BOUND_BYTES_MAX + 1)),
        // A character may take two units.
        _ => bounded((described.size.min(BOUND_BYTES_MAX) * 2 + 1) * 2),
    });
    Ok(OdbcColumn {
        name: described.name,
        kind,
        form,
        room,
    })
}

impl OdbcColumn {
    /// Reads a value of the current row.
    fn read(&self, statement: &OdbcStatement, at: u16, out: &mut Vec<u8>) -> Result<(), OdbcFault> {
        let c_type = self.form.c_type();
        if let Some(bytes) = self.form.fixed() {
            let mut words = [0_u64; 4];
            // SAFETY: bytes have no alignment, and the words are longer than any value of a fixed length.
            let buffer =
                unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), bytes) };
            match statement.get(at, c_type, buffer)? {
                OdbcPiece::Null => out.extend_from_slice(b"null"),
                _ => self.write(buffer, out),
            }
            return Ok(());
        }
        let mut value = Vec::new();
        let mut buffer = vec![0_u8; PIECE_BYTES];
        let room = buffer.len() - if c_type == odbc::C_WCHAR { 2 } else { 0 };
        loop {
            match statement.get(at, c_type, &mut buffer)? {
                OdbcPiece::Null => {
                    out.extend_from_slice(b"null");
                    return Ok(());
                }
                OdbcPiece::Last(bytes) => {
                    value.extend_from_slice(&buffer[..bytes]);
                    break;
                }
                OdbcPiece::More => value.extend_from_slice(&buffer[..room]),
                OdbcPiece::End => break,
            }
            if value.len() > VALUE_BYTES_MAX {
                return Err(OdbcFault::new("large", self.name.as_str()));
            }
        }
        self.write(&value, out);
        Ok(())
    }

    /// Appends a value as JSON.
    fn write(&self, value: &[u8], out: &mut Vec<u8>) {
        match self.form {
            OdbcForm::Bit => out.extend_from_slice(if value[0] == 0 { b"false" } else { b"true" }),
            OdbcForm::Whole => json(&i64::from_ne_bytes(first(value)), out),
            OdbcForm::Float => {
                let number = f32::from_ne_bytes(first(value));
                match number.is_finite() {
                    true => json(&number, out),
                    false => json(&word(f64::from(number)), out),
                }
            }
            OdbcForm::Double => {
                let number = f64::from_ne_bytes(first(value));
                match number.is_finite() {
                    true => json(&number, out),
                    false => json(&word(number), out),
                }
            }
            OdbcForm::Date => json(&date(value).shown(), out),
            OdbcForm::Timestamp => json(&timestamp(value).shown(), out),
            OdbcForm::Instant => json(&format!("{}Z", timestamp(value).shown()), out),
            OdbcForm::Bytes => {
                out.push(b'"');
                for byte in value {
                    out.extend(
                        [byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]),
                    );
                }
                out.push(b'"');
            }
            OdbcForm::Decimal { bare } => {
                let text = pointed(text(value));
                let digits = text.strip_prefix('-').unwrap_or(&text);
                let is_bare = bare
                    && digits.bytes().all(|byte| byte.is_ascii_digit())
                    && (digits == "0"
                        || digits
                            .as_bytes()
                            .first()
                            .is_some_and(|first| (b'1'..=b'9').contains(first)));
                match is_bare {
                    true => out.extend_from_slice(text.as_bytes()),
                    false => json(&text, out),
                }
            }
            OdbcForm::TextTime { zone } => {
                let text = text(value);
                match OdbcMoment::parse(&text) {
                    Some(moment) if zone => json(&format!("{}Z", moment.shown()), out),
                    Some(moment) => json(&moment.shown(), out),
                    None => json(&text, out),
                }
            }
            OdbcForm::Text => json(&text(value), out),
            OdbcForm::Uuid => json(&text(value).to_lowercase(), out),
        }
    }
}

fn first<const N: usize>(value: &[u8]) -> [u8; N] {
    value.first_chunk().copied().unwrap_or([0; N])
}

fn date(value: &[u8]) -> OdbcDateStruct {
    let part = |at: usize| u16::from_ne_bytes(first(&value[at..]));
    OdbcDateStruct {
        year: part(0).cast_signed(),
        month: part(2),
        day: part(4),
    }
}

fn timestamp(value: &[u8]) -> OdbcTimestampStruct {
    let part = |at: usize| u16::from_ne_bytes(first(&value[at..]));
    OdbcTimestampStruct {
        date: date(value),
        hour: part(6),
        minute: part(8),
        second: part(10),
        fraction: u32::from_ne_bytes(first(&value[12..])),
    }
}

fn text(value: &[u8]) -> String {
    let units = value
        .chunks_exact(2)
        .map(|unit| u16::from_ne_bytes([unit[0], unit[1]]));
    char::decode_utf16(units)
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

/// A number with a digit before its point, which some drivers leave out.
fn pointed(text: String) -> String {
    match text.strip_prefix('-').unwrap_or(&text).starts_with('.') {
        true => text.replacen('.', "0.", 1),
        false => text,
    }
}

fn word(number: f64) -> &'static str {
    match (number.is_nan(), number > 0.0) {
        (true, _) => "NaN",
        (false, true) => "Infinity",
        (false, false) => "-Infinity",
    }
}

/// Appends a number or a text, which have no failure as JSON.
pub fn json<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    let _ = serde_json::to_writer(out, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(form: OdbcForm, value: &[u8]) -> String {
        let column = OdbcColumn {
            name: "c".into(),
            kind: 0,
            form,
            room: None,
        };
        let mut out = Vec::new();
        column.write(value, &mut out);
        String::from_utf8(out).expect("JSON")
    }

    fn wide(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_ne_bytes).collect()
    }

    #[test]
    fn values_become_json() {
        assert_eq!(
            written(OdbcForm::Text, &wide("雨😀\"\n")),
            "\"雨😀\\\"\\n\""
        );
        assert_eq!(written(OdbcForm::Text, &[0x00, 0xd8]), "\"\u{fffd}\"");
        assert_eq!(written(OdbcForm::Bytes, b"\x00\xff"), "\"00ff\"");
        assert_eq!(
            written(OdbcForm::Double, &f64::NAN.to_ne_bytes()),
            "\"NaN\""
        );
        assert_eq!(written(OdbcForm::Double, &0.1_f64.to_ne_bytes()), "0.1");
        assert_eq!(written(OdbcForm::Whole, &(-7_i64).to_ne_bytes()), "-7");
        for (text, bare, expected) in [
            ("12", true, "12"),
            ("-12", true, "-12"),
            ("0", true, "0"),
            ("012", true, "\"012\""),
            ("1.50", true, "\"1.50\""),
            ("12", false, "\"12\""),
            (".50", false, "\"0.50\""),
            ("-.50", false, "\"-0.50\""),
            ("NaN", true, "\"NaN\""),
            ("", true, "\"\""),
        ] {
            assert_eq!(
                written(OdbcForm::Decimal { bare }, &wide(text)),
                expected,
                "{text}"
            );
        }
        let time = wide("2024-05-06 07:08:09.5+02:00");
        assert_eq!(
            written(OdbcForm::TextTime { zone: true }, &time),
            "\"2024-05-06T05:08:09.500Z\""
        );
        assert_eq!(
            written(OdbcForm::TextTime { zone: false }, &wide("never")),
            "\"never\""
        );
    }
}

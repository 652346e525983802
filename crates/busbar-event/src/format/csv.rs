//! CSV: payloads of one row each as typed columns, and the cells of a row.
//!
//! Rows are as RFC 4180 has them. A cell that begins with a quote ends with one, and a quote inside it is
//! doubled; a quote inside any other cell is a letter like others. An empty cell is null, and an empty cell
//! in quotes is an empty text. Column names are trimmed and compared exactly, their case included.

use super::column::Column;
use super::json::Problem;
use super::scan::is_json;
use super::{CsvOptions, FieldType, cell, natural_type};
use crate::{Class, Error, Result};

/// Which value of a row is for which column.
#[derive(Debug)]
pub(super) struct CsvDecoder {
    delimiter: u8,
    quote: u8,
    header: bool,
    /// For each column the name that the header has for it, or its place if there is no header.
    names: Vec<String>,
    places: Vec<Option<usize>>,
    /// How many values a row has if there is no header.
    width: usize,
    /// The header that `places` is for: payloads of one source have the same.
    last_header: Vec<u8>,
    header_width: usize,
    values: Vec<Value>,
    scratch: Vec<u8>,
}

/// A value of a row: where it is, without its quotes.
#[derive(Debug, Clone, Copy)]
struct Value {
    from: usize,
    to: usize,
    quoted: bool,
    /// It has a doubled quote in it.
    doubled: bool,
}

/// A cell of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvCell {
    /// What it says, without the quotes around it.
    pub text: String,
    /// Whether there are quotes around it.
    pub quoted: bool,
}

/// The cells of one row, with the default delimiter and quote.
///
/// # Errors
/// The byte of a quote that never closes, of what follows a closing quote and is no delimiter, or of a second
/// row; if the row is not UTF-8, the byte where that is so.
pub fn csv_cells(row: &[u8]) -> Result<Vec<CsvCell>, usize> {
    std::str::from_utf8(row).map_err(|error| error.valid_up_to())?;
    let mut splitter = CsvDecoder::of(b',', b'"', false);
    match splitter.split(row, 0) {
        Ok(end) if end == row.len() => Ok(splitter.cells(row)),
        Ok(end) => Err(end),
        Err(CsvFault::Quote(at)) => Err(at),
        Err(_) => Err(0),
    }
}

/// Writes a cell of a row: nothing for a null, and an empty text in quotes, so that the two stay apart.
pub fn write_csv_cell(text: Option<&str>, out: &mut Vec<u8>) {
    let Some(text) = text else {
        return;
    };
    if !text.is_empty() && !text.contains([',', '"', '\n', '\r']) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    for (place, piece) in text.split('"').enumerate() {
        if place > 0 {
            out.extend_from_slice(b"\"\"");
        }
        out.extend_from_slice(piece.as_bytes());
    }
    out.push(b'"');
}

/// The names that a header gives to columns: without white space around them, and with a number behind
/// one that comes again.
pub fn csv_names(header: &[CsvCell]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(header.len());
    for cell in header {
        let given = cell.text.trim();
        let mut name = given.to_owned();
        let mut number = 1;
        while names.contains(&name) {
            number += 1;
            name = format!("{given}_{number}");
        }
        names.push(name);
    }
    names
}

/// The names that a header gives, if there is one, and the values.
pub(super) type Texts = (Option<Vec<String>>, Vec<CsvCell>);

/// Why a payload is not a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CsvFault {
    /// A quote that does not close, or is followed by something else than a delimiter.
    Quote(usize),
    /// No row.
    Empty,
    /// More than one row.
    Rows(usize),
    /// The number of values found, and the number expected.
    Width(usize, usize),
    /// The value of a column, at a byte, does not fit.
    Field(usize, Problem, usize),
}

impl CsvDecoder {
    /// A decoder of columns that have these names in a header, or these places in a row of
    /// `width` values.
    pub fn new(
        options: &CsvOptions,
        names: Vec<String>,
        places: Vec<usize>,
        width: usize,
    ) -> Result<Self> {
        let ascii = |name: &'static str, c: char| {
            u8::try_from(c)
                .ok()
                .filter(|byte| byte.is_ascii() && !matches!(byte, b'\r' | b'\n' | 0))
                .ok_or_else(|| {
                    Error::new(Class::Configuration, "event.csv-option")
                        .with("option", name)
                        .with("value", c.escape_default())
                })
        };
        let (delimiter, quote) = (
            ascii("delimiter", options.delimiter)?,
            ascii("quote", options.quote)?,
        );
        if delimiter == quote {
            return Err(Error::new(Class::Configuration, "event.csv-option")
                .with("option", "quote")
                .with("value", options.quote.escape_default()));
        }
        Ok(CsvDecoder {
            names,
            places: places.into_iter().map(Some).collect(),
            width,
            ..CsvDecoder::of(delimiter, quote, options.header)
        })
    }

    /// A decoder of no columns.
    fn of(delimiter: u8, quote: u8, header: bool) -> CsvDecoder {
        CsvDecoder {
            delimiter,
            quote,
            header,
            names: Vec::new(),
            places: Vec::new(),
            width: 0,
            last_header: Vec::new(),
            header_width: 0,
            values: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Appends the values of a row to the columns, or nothing if it is bad. The caller has checked
    /// that it is UTF-8.
    pub fn row(&mut self, payload: &[u8], columns: &mut [Column]) -> Result<(), CsvFault> {
        let mut at = beginning(payload);
        let mut width = self.width;
        if self.header {
            at = self.split(payload, at)?;
            if payload[..at] != self.last_header[..] || at == 0 {
                self.take_header(payload, at);
            }
            width = self.header_width;
        }
        if at >= payload.len() {
            return Err(CsvFault::Empty);
        }
        let end = self.split(payload, at)?;
        if payload[end..]
            .iter()
            .any(|byte| !matches!(byte, b'\r' | b'\n'))
        {
            return Err(CsvFault::Rows(end));
        }
        if self.values.len() != width {
            return Err(CsvFault::Width(self.values.len(), width));
        }
        // All are tried before any is appended, so that the columns stay of one length.
        for (index, column) in columns.iter().enumerate() {
            self.parse(payload, index, column).map(|_| ())?;
        }
        for (index, column) in columns.iter_mut().enumerate() {
            match self.parse(payload, index, column)? {
                Parsed::Null => column.push_null(),
                Parsed::Bool(value) => column.push_bool(value),
                Parsed::Int(value) => column.push_int(value),
                Parsed::Float(value) => column.push_float(value),
                Parsed::Text => column.push_text(|bytes| bytes.extend_from_slice(&self.scratch)),
            }
        }
        Ok(())
    }

    /// The first row as text: for inference.
    pub fn texts(&mut self, payload: &[u8]) -> Result<Texts, CsvFault> {
        let mut at = beginning(payload);
        let mut names = None;
        if self.header {
            at = self.split(payload, at)?;
            names = Some(csv_names(&self.cells(payload)));
        }
        if at >= payload.len() {
            return Err(CsvFault::Empty);
        }
        self.split(payload, at)?;
        Ok((names, self.cells(payload)))
    }

    /// The values of the row that was split last.
    fn cells(&self, payload: &[u8]) -> Vec<CsvCell> {
        let cell = |value: &Value| {
            let mut bytes = Vec::new();
            self.unquote(payload, *value, &mut bytes);
            CsvCell {
                text: String::from_utf8_lossy(&bytes).into_owned(),
                quoted: value.quoted,
            }
        };
        self.values.iter().map(cell).collect()
    }

    fn unquote(&self, payload: &[u8], value: Value, out: &mut Vec<u8>) {
        let text = &payload[value.from..value.to];
        if !value.doubled {
            out.extend_from_slice(text);
            return;
        }
        let mut quoted = false;
        for byte in text {
            quoted = *byte == self.quote && !quoted;
            if !quoted {
                out.push(*byte);
            }
        }
    }

    fn take_header(&mut self, payload: &[u8], end: usize) {
        let names = csv_names(&self.cells(payload));
        self.header_width = names.len();
        self.places = self
            .names
            .iter()
            .map(|name| names.iter().position(|known| known == name))
            .collect();
        self.last_header.clear();
        self.last_header.extend_from_slice(&payload[..end]);
    }

    /// Splits the line at `at` into values; the beginning of the next line.
    fn split(&mut self, payload: &[u8], mut at: usize) -> Result<usize, CsvFault> {
        self.values.clear();
        loop {
            let mut value = Value {
                from: at,
                to: at,
                quoted: false,
                doubled: false,
            };
            if payload.get(at) == Some(&self.quote) {
                value = Value {
                    from: at + 1,
                    quoted: true,
                    ..value
                };
                let open = at;
                at += 1;
                loop {
                    let Some(offset) =
                        memchr::memchr(self.quote, payload.get(at..).unwrap_or_default())
                    else {
                        return Err(CsvFault::Quote(open));
                    };
                    at += offset + 1;
                    if payload.get(at) != Some(&self.quote) {
                        break;
                    }
                    value.doubled = true;
                    at += 1;
                }
                value.to = at - 1;
                match payload.get(at) {
                    None => {}
                    Some(_) if line_break(payload, at).is_some() => {}
                    Some(byte) if *byte == self.delimiter => {}
                    Some(_) => return Err(CsvFault::Quote(at)),
                }
            } else {
                loop {
                    let rest = &payload[at..];
                    at += memchr::memchr3(self.delimiter, b'\r', b'\n', rest).unwrap_or(rest.len());
                    if payload.get(at) != Some(&b'\r') || line_break(payload, at).is_some() {
                        break;
                    }
                    at += 1;
                }
                value.to = at;
            }
            self.values.push(value);
            match payload.get(at) {
                Some(byte) if *byte == self.delimiter => at += 1,
                _ => return Ok(line_break(payload, at).unwrap_or(at)),
            }
        }
    }

    /// The value for a column; text is left in the scratch buffer.
    fn parse(&mut self, payload: &[u8], index: usize, column: &Column) -> Result<Parsed, CsvFault> {
        let value = self.places[index]
            .and_then(|place| self.values.get(place))
            .copied();
        let Some(value) = value.filter(|value| value.quoted || value.from < value.to) else {
            return match column.required {
                true => Err(CsvFault::Field(index, Problem::Missing, 0)),
                false => Ok(Parsed::Null),
            };
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        self.unquote(payload, value, &mut scratch);
        self.scratch = scratch;
        let bad = |problem| Err(CsvFault::Field(index, problem, value.from));
        let text = std::str::from_utf8(&self.scratch).unwrap_or_default();
        if column.exact && !prints_again(text, column.field_type) {
            return bad(Problem::Type("text"));
        }
        let parsed = match column.field_type {
            FieldType::Text => Some(Parsed::Text),
            FieldType::Json => is_json(&self.scratch).then_some(Parsed::Text),
            FieldType::Bool => cell::bool(text).map(Parsed::Bool),
            FieldType::Int => cell::int(text).map(Parsed::Int),
            FieldType::Float => cell::float(text).map(Parsed::Float),
            FieldType::Time => match cell::time(text, column.unit) {
                Some(micros) => Some(Parsed::Int(micros)),
                None => return bad(Problem::Time),
            },
        };
        parsed.map_or_else(|| bad(Problem::Type("text")), Ok)
    }
}

/// Whether an inferred column of this type prints a cell as it came.
fn prints_again(text: &str, field_type: FieldType) -> bool {
    match field_type {
        FieldType::Bool | FieldType::Int => natural_type(text) == field_type,
        // A whole number prints with a fraction of zero, which is the same number.
        FieldType::Float => match natural_type(text) {
            FieldType::Float => true,
            FieldType::Int => {
                cell::int(text).is_some_and(|value| value.unsigned_abs() <= cell::EXACT_INT_MAX)
            }
            _ => false,
        },
        FieldType::Text | FieldType::Time | FieldType::Json => true,
    }
}

/// Where the next line begins, if there is a line break here: a carriage return is part of one before a line
/// feed or at the end, and a letter like others elsewhere.
fn line_break(payload: &[u8], at: usize) -> Option<usize> {
    match (payload.get(at)?, payload.get(at + 1)) {
        (b'\n', _) => Some(at + 1),
        (b'\r', Some(b'\n')) => Some(at + 2),
        (b'\r', None) => Some(at + 1),
        _ => None,
    }
}

/// Where the text begins: behind a byte order mark, which spreadsheets put in front and which would otherwise
/// be part of the first name or value.
fn beginning(payload: &[u8]) -> usize {
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    match payload.starts_with(BYTE_ORDER_MARK) {
        true => BYTE_ORDER_MARK.len(),
        false => 0,
    }
}

enum Parsed {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text,
}

//! CSV payloads, one row in each, as typed columns.

use super::column::Column;
use super::json::Problem;
use super::scan::is_json;
use super::{CsvOptions, FieldType, time};
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

/// The names that a header gives, if there is one, and the values, `None` for an empty one.
pub(super) type Texts = (Option<Vec<String>>, Vec<Option<String>>);

/// Why a payload is not a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CsvFault {
    /// A quote that does not close, or is followed by something else than a delimiter.
    Quote(usize),
    /// No row.
    Empty,
    /// More than one row.
    Rows(usize),
    /// So many values, where so many should be.
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
            delimiter,
            quote,
            header: options.header,
            names,
            places: places.into_iter().map(Some).collect(),
            width,
            last_header: Vec::new(),
            header_width: 0,
            values: Vec::new(),
            scratch: Vec::new(),
        })
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
            names = Some(
                (0..self.values.len())
                    .map(|index| self.text(payload, index))
                    .collect(),
            );
        }
        if at >= payload.len() {
            return Err(CsvFault::Empty);
        }
        self.split(payload, at)?;
        let texts = (0..self.values.len()).map(|index| {
            let value = self.values[index];
            (value.quoted || value.from < value.to).then(|| self.text(payload, index))
        });
        Ok((names, texts.collect()))
    }

    fn text(&self, payload: &[u8], index: usize) -> String {
        let mut bytes = Vec::new();
        self.unquote(payload, self.values[index], &mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
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
        let names: Vec<String> = (0..self.values.len())
            .map(|index| self.text(payload, index))
            .collect();
        self.header_width = names.len();
        self.places = self
            .names
            .iter()
            .map(|name| names.iter().position(|known| known.trim() == name))
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
                    None | Some(b'\r' | b'\n') => {}
                    Some(byte) if *byte == self.delimiter => {}
                    Some(_) => return Err(CsvFault::Quote(at)),
                }
            } else {
                let rest = &payload[at..];
                at += memchr::memchr3(self.delimiter, b'\r', b'\n', rest).unwrap_or(rest.len());
                value.to = at;
            }
            self.values.push(value);
            match payload.get(at) {
                Some(byte) if *byte == self.delimiter => at += 1,
                Some(b'\r') if payload.get(at + 1) == Some(&b'\n') => return Ok(at + 2),
                Some(_) => return Ok(at + 1),
                None => return Ok(at),
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
        let number = text.trim();
        Ok(match column.field_type {
            FieldType::Text => Parsed::Text,
            FieldType::Json if is_json(&self.scratch) => Parsed::Text,
            FieldType::Json => return bad(Problem::Type("text")),
            FieldType::Bool => match number {
                "true" | "TRUE" | "True" | "1" => Parsed::Bool(true),
                "false" | "FALSE" | "False" | "0" => Parsed::Bool(false),
                _ => return bad(Problem::Type("text")),
            },
            FieldType::Int => match number.parse() {
                Ok(value) => Parsed::Int(value),
                Err(_) => return bad(Problem::Type("text")),
            },
            FieldType::Float => match number.parse::<f64>() {
                Ok(value) if value.is_finite() => Parsed::Float(value),
                _ => return bad(Problem::Type("text")),
            },
            FieldType::Time => {
                let micros = match (number.parse::<i64>(), number.parse::<f64>()) {
                    (Ok(value), _) => time::from_int(value, column.unit),
                    (_, Ok(value)) => time::from_float(value, column.unit),
                    _ => time::parse(number.as_bytes()),
                };
                match micros {
                    Some(micros) => Parsed::Int(micros),
                    None => return bad(Problem::Time),
                }
            }
        })
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

//! Records of a file: lines, or rows of CSV whose quoted cells may hold line breaks.

use crate::limits::FILE_LINE_BYTES_MAX;

/// What a file may begin with that is no content.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One record.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Without its line break.
    pub bytes: &'a [u8],
    /// Where the next one begins.
    pub end: usize,
    /// Longer than is taken; what follows up to the line break belongs to it.
    pub cut: bool,
}

/// How records are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Each line is one.
    Line,
    /// Rows of CSV, whose quoted cells may hold line breaks.
    Row,
    /// Rows of CSV, of which one whose quote nobody will close ends with its first line.
    LastRow,
}

/// The whole records at the front of `bytes`, which begin at a record. What is still being written is
/// left; what has grown too long is cut off.
pub fn records(bytes: &[u8], kind: Kind) -> impl Iterator<Item = Record<'_>> {
    let csv = kind != Kind::Line;
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
        let end = match csv {
            true => row_end(rest),
            false => memchr::memchr(b'\n', rest),
        };
        let (length, next, cut) = match end {
            Some(end) if end <= FILE_LINE_BYTES_MAX => (end, end + 1, false),
            None if kind == Kind::LastRow && memchr::memchr(b'\n', rest).is_some() => {
                let end = memchr::memchr(b'\n', rest)?.min(FILE_LINE_BYTES_MAX);
                (end, end + 1, false)
            }
            None if rest.len() <= FILE_LINE_BYTES_MAX => return None,
            // Too long. A quote that is never closed must not take the lines behind it along, so a
            // row of CSV then ends with its first line.
            _ => match memchr::memchr(b'\n', &rest[..FILE_LINE_BYTES_MAX]) {
                Some(end) if csv => (end, end + 1, false),
                _ => (FILE_LINE_BYTES_MAX, FILE_LINE_BYTES_MAX, true),
            },
        };
        at += next;
        let bytes = &rest[..length];
        Some(Record {
            bytes: bytes.strip_suffix(b"\r").unwrap_or(bytes),
            end: at,
            cut,
        })
    })
}

/// Where the first row ends: at the first line break that is not inside quotes.
fn row_end(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    let mut quoted = false;
    // Behind the quote that closed a cell; one that follows at once is the second of a doubled one.
    let mut closed = None;
    loop {
        let rest = bytes.get(from..)?;
        let found = match quoted {
            true => memchr::memchr(b'"', rest),
            false => memchr::memchr2(b'"', b'\n', rest),
        };
        let at = from + found?;
        from = at + 1;
        if bytes[at] == b'\n' {
            return Some(at);
        }
        if quoted {
            (quoted, closed) = (false, Some(from));
        } else {
            quoted = at == 0 || bytes[at - 1] == b',' || closed == Some(at);
        }
    }
}

/// Cells of one row, with quotes as RFC 4180 has them, and whether all quotes close. A quote inside a cell
/// that does not begin with one is a letter like others.
pub fn cells(row: &str) -> (Vec<String>, bool) {
    let mut cells = Vec::new();
    let mut whole = true;
    let mut rest = row;
    loop {
        let mut cell = String::new();
        if let Some(mut quoted) = rest.strip_prefix('"') {
            loop {
                let Some(end) = quoted.find('"') else {
                    cell.push_str(quoted);
                    rest = "";
                    whole = false;
                    break;
                };
                cell.push_str(&quoted[..end]);
                quoted = &quoted[end + 1..];
                match quoted.strip_prefix('"') {
                    Some(more) => {
                        cell.push('"');
                        quoted = more;
                    }
                    None => {
                        rest = quoted;
                        break;
                    }
                }
            }
        }
        match rest.split_once(',') {
            Some((text, more)) => {
                cell.push_str(text);
                rest = more;
                cells.push(cell);
            }
            None => {
                cell.push_str(rest);
                cells.push(cell);
                return (cells, whole);
            }
        }
    }
}

/// Names of the columns from a file's first row; one that comes again gets its number.
pub fn columns(row: &str) -> Vec<String> {
    let mut columns: Vec<String> = Vec::new();
    for cell in cells(row).0 {
        let mut name = cell.trim().to_owned();
        let mut number = 1;
        while columns.contains(&name) {
            number += 1;
            name = format!("{}_{number}", cell.trim());
        }
        columns.push(name);
    }
    columns
}

/// Why a row does not become an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit {
    /// It is not UTF-8.
    Text,
    /// A quote is never closed.
    Quote,
    /// So many values, where the header has so many.
    Width(usize, usize),
}

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Misfit::Text => f.write_str("not UTF-8"),
            Misfit::Quote => f.write_str("quote never closed"),
            Misfit::Width(found, expected) => {
                write!(f, "{found} values, {expected} columns")
            }
        }
    }
}

/// A row of CSV as a JSON object of texts, numbers and nulls.
///
/// # Errors
/// What is wrong with it. It then goes on as it is, so that a flow's dead letter keeps it.
pub fn object(columns: &[String], row: &[u8]) -> Result<Vec<u8>, Misfit> {
    let (cells, whole) = cells(std::str::from_utf8(row).map_err(|_| Misfit::Text)?);
    if !whole {
        return Err(Misfit::Quote);
    }
    if cells.len() != columns.len() {
        return Err(Misfit::Width(cells.len(), columns.len()));
    }
    let object: serde_json::Map<_, _> = columns
        .iter()
        .zip(cells)
        .map(|(column, cell)| (column.clone(), value(cell)))
        .collect();
    // A map of texts and numbers is always JSON.
    Ok(serde_json::Value::Object(object).to_string().into_bytes())
}

/// Digits that a 64-bit float keeps.
const DIGITS_MAX: usize = 15;

/// A cell as a value. A number that JSON's readers would not keep as it is stays text, as a long serial
/// number or one with leading zeros does.
fn value(cell: String) -> serde_json::Value {
    use serde_json::{Number, Value};
    if cell.is_empty() {
        return Value::Null;
    }
    match cell.parse::<Number>() {
        Ok(number)
            if number.is_i64() || cell.bytes().filter(u8::is_ascii_digit).count() <= DIGITS_MAX =>
        {
            Value::Number(number)
        }
        _ => Value::String(cell),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bytes: &[u8], kind: Kind) -> Vec<(String, usize, bool)> {
        records(bytes, kind)
            .map(|r| (String::from_utf8_lossy(r.bytes).into_owned(), r.end, r.cut))
            .collect()
    }

    #[test]
    fn only_whole_lines_are_taken() {
        let expected = [("one", 5), ("", 6), ("two", 10)];
        let expected = expected.map(|(line, end)| (line.to_owned(), end, false));
        assert_eq!(taken(b"one\r\n\ntwo\nthr", Kind::Line), expected);
    }

    #[test]
    fn a_line_break_inside_quotes_ends_no_row() {
        let rows = taken(b"a,\"b\nc\"\n\"x\"\"\n\",5\"\" pipe\nlast", Kind::Row);
        let rows: Vec<_> = rows.iter().map(|(row, ..)| row.as_str()).collect();
        assert_eq!(rows, ["a,\"b\nc\"", "\"x\"\"\n\",5\"\" pipe"]);
    }

    #[test]
    fn what_is_too_long_is_cut_and_an_open_quote_takes_one_line_only() {
        let mut long = vec![b'x'; FILE_LINE_BYTES_MAX + 2];
        let cut = taken(&long, Kind::Line);
        assert_eq!(
            (cut.len(), cut[0].1, cut[0].2),
            (1, FILE_LINE_BYTES_MAX, true)
        );
        // As long as is taken, and its line break: whole.
        long[FILE_LINE_BYTES_MAX] = b'\n';
        assert!(!taken(&long, Kind::Line)[0].2);
        let mut open = b"a,\"never closed\nb,2\n".to_vec();
        assert_eq!(taken(&open, Kind::Row), [], "it may still be closed");
        open.extend(vec![b'y'; FILE_LINE_BYTES_MAX]);
        let rows = taken(&open, Kind::Row);
        assert_eq!(rows[0], ("a,\"never closed".to_owned(), 16, false));
        assert_eq!(rows[1], ("b,2".to_owned(), 20, false));
    }

    #[test]
    fn rows_become_objects() {
        let columns = columns("site,kw, kw ,note");
        assert_eq!(columns, ["site", "kw", "kw_2", "note"]);
        let read = |row: &[u8]| {
            let object = object(&columns, row).ok()?;
            serde_json::from_slice::<serde_json::Value>(&object).ok()
        };
        assert_eq!(
            read(br#"north,3.20,,"a ""b"", c""#),
            Some(serde_json::json!({"site":"north","kw":3.2,"kw_2":null,"note":"a \"b\", c"}))
        );
        assert_eq!(
            read(b"007,12345678901234567890,-4,\"two\nlines\""),
            Some(serde_json::json!(
                {"site":"007","kw":"12345678901234567890","kw_2":-4,"note":"two\nlines"}
            ))
        );
        assert_eq!(object(&columns, b"too,few"), Err(Misfit::Width(2, 4)));
        assert_eq!(object(&columns, b"\xff,1,2,3"), Err(Misfit::Text));
        assert_eq!(object(&columns, b"a,1,2,\"open"), Err(Misfit::Quote));
    }

    #[test]
    fn a_quote_that_nobody_will_close_takes_one_line_only() {
        let rows = taken(b"a,\"open\nb,2\nc,\"x\ny\"\nd", Kind::LastRow);
        let rows: Vec<_> = rows.iter().map(|(row, ..)| row.as_str()).collect();
        // The first quote is closed by the next one that could; no row is left out.
        assert_eq!(rows, ["a,\"open\nb,2\nc,\"x", "y\""]);
        let rows = taken(b"a,\"open\nb,2\nc,3", Kind::LastRow);
        let rows: Vec<_> = rows.iter().map(|(row, ..)| row.as_str()).collect();
        assert_eq!(rows, ["a,\"open", "b,2"], "what has no line break is left");
    }
}

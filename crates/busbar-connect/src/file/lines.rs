//! Records of a file: lines, or rows of CSV whose quoted cells may hold line breaks.

use busbar_event::format::{
    CsvCell, FieldType, csv_cells, csv_names, is_json, natural_type, write_json_text,
};

use super::messages;
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
    /// Messages of HL7 and the segments around batches of them.
    Message,
    /// The same, where the last message ends with the file.
    LastMessage,
}

impl Kind {
    /// Whether a byte ends a line.
    pub fn is_break(self, byte: u8) -> bool {
        match self {
            Kind::Message | Kind::LastMessage => matches!(byte, b'\r' | b'\n'),
            _ => byte == b'\n',
        }
    }
}

/// The whole records at the front of `bytes`, which begin at a record. What is still being written is
/// left; what has grown too long is cut off.
pub fn records(bytes: &[u8], kind: Kind) -> impl Iterator<Item = Record<'_>> {
    let csv = matches!(kind, Kind::Row | Kind::LastRow);
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
        if matches!(kind, Kind::Message | Kind::LastMessage) {
            let (length, next, cut) = messages::next(rest, kind == Kind::LastMessage)?;
            at += next;
            return Some(Record {
                bytes: &rest[..length],
                end: at,
                cut,
            });
        }
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

/// Names of the columns from a file's first row; one that comes again gets its number.
pub fn columns(row: &str) -> Vec<String> {
    match csv_cells(row.as_bytes()) {
        Ok(cells) => csv_names(&cells),
        // A quote never closes: the line as a whole is the name, which no row will fit.
        Err(_) => vec![row.trim().to_owned()],
    }
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

/// A row of CSV as a JSON object. Text columns of the stream get each cell byte for byte, however they are
/// declared; see [`busbar_event::format::csv_cells`] for the rules that rows of files and payloads share.
///
/// # Errors
/// What is wrong with it. It then goes on as it is, so that a flow's dead letter keeps it.
pub fn object(columns: &[String], row: &[u8]) -> Result<Vec<u8>, Misfit> {
    std::str::from_utf8(row).map_err(|_| Misfit::Text)?;
    let cells = csv_cells(row).map_err(|_| Misfit::Quote)?;
    if cells.len() != columns.len() {
        return Err(Misfit::Width(cells.len(), columns.len()));
    }
    let mut object = Vec::with_capacity(row.len() * 2);
    for (column, cell) in columns.iter().zip(&cells) {
        object.push(if object.is_empty() { b'{' } else { b',' });
        write_json_text(column, &mut object);
        object.push(b':');
        write_value(cell, &mut object);
    }
    object.push(b'}');
    Ok(object)
}

/// A cell as JSON: a number or truth value only if it prints just so, and a document only if it is an object
/// or an array; anything else as a text.
fn write_value(cell: &CsvCell, out: &mut Vec<u8>) {
    let text = cell.text.as_str();
    match natural_type(text) {
        _ if cell.text.is_empty() && !cell.quoted => out.extend_from_slice(b"null"),
        FieldType::Bool | FieldType::Int | FieldType::Float if !cell.quoted => {
            out.extend_from_slice(text.as_bytes());
        }
        _ if text.starts_with(['{', '[']) && is_json(text.as_bytes()) => {
            out.extend_from_slice(text.as_bytes());
        }
        _ => write_json_text(text, out),
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
            Some(serde_json::json!({"site":"north","kw":"3.20","kw_2":null,"note":"a \"b\", c"}))
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
        assert_eq!(object(&columns, b"a,1,2,\"b\"c"), Err(Misfit::Quote));
    }

    #[test]
    fn a_cell_is_a_number_only_if_the_number_prints_just_so() {
        let columns = columns("a,b,c,d");
        for (row, expected) in [
            (
                "1E5,1.10,-0,3.0000",
                r#"{"a":"1E5","b":"1.10","c":"-0","d":"3.0000"}"#,
            ),
            (
                "00501,+4912345, 7,.5",
                r#"{"a":"00501","b":"+4912345","c":" 7","d":".5"}"#,
            ),
            ("1,-2.5,true,\"3\"", r#"{"a":1,"b":-2.5,"c":true,"d":"3"}"#),
            (
                ",\"\",null,nan",
                r#"{"a":null,"b":"","c":"null","d":"nan"}"#,
            ),
            (
                "9223372036854775808,9223372036854775807,\"{\"\"x\"\": 1}\",[",
                r#"{"a":"9223372036854775808","b":9223372036854775807,"c":{"x": 1},"d":"["}"#,
            ),
        ] {
            let object = object(&columns, row.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(object).unwrap(), expected, "{row}");
        }
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

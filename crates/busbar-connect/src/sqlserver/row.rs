//! Rows as JSON.

use busbar_change::event;
use bytes::Bytes;

use super::token::TdsColumn;

/// Writes a row as an object.
pub fn write_object(columns: &[TdsColumn], values: &[Option<Bytes>], out: &mut Vec<u8>) {
    out.push(b'{');
    for (at, (column, value)) in columns.iter().zip(values).enumerate() {
        if at > 0 {
            out.push(b',');
        }
        event::text(&column.name, out);
        out.push(b':');
        write_value(column, value.as_ref(), out);
    }
    out.push(b'}');
}

/// Writes the event of a change. `before` is the row as it was.
pub fn write_change(
    change: &str,
    columns: &[TdsColumn],
    row: &[Option<Bytes>],
    before: Option<&[Option<Bytes>]>,
    out: &mut Vec<u8>,
) {
    event::open(change, out);
    for (column, value) in columns.iter().zip(row) {
        event::member(&column.name, out, |out| {
            write_value(column, value.as_ref(), out)
        });
    }
    if let Some(before) = before {
        event::open_before(out);
        let mut first = true;
        for (column, value) in columns.iter().zip(before) {
            event::pair(&column.name, &mut first, out, |out| {
                write_value(column, value.as_ref(), out)
            });
        }
        out.push(b'}');
    }
    out.push(b'}');
}

fn write_value(column: &TdsColumn, value: Option<&Bytes>, out: &mut Vec<u8>) {
    match value {
        Some(value) => column.of.json(value, out),
        None => event::null(out),
    }
}

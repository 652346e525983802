//! Rows of the database as events.

use busbar_change::event;
use serde_json::value::RawValue;

use super::session::DriverColumn;

/// Writes a row as an object of JSON.
pub fn write_object(columns: &[DriverColumn], values: &[&RawValue], out: &mut Vec<u8>) {
    out.push(b'{');
    for (at, (column, value)) in columns.iter().zip(values).enumerate() {
        if at > 0 {
            out.push(b',');
        }
        event::text(&column.name, out);
        out.push(b':');
        out.extend_from_slice(value.get().as_bytes());
    }
    out.push(b'}');
}

/// Writes a row as the event of a change.
pub fn write_change(
    change: &str,
    columns: &[DriverColumn],
    values: &[&RawValue],
    out: &mut Vec<u8>,
) {
    event::open(change, out);
    for (column, value) in columns.iter().zip(values) {
        event::member(&column.name, out, |out| {
            out.extend_from_slice(value.get().as_bytes());
        });
    }
    out.push(b'}');
}

/// A value as plain text: a JSON text without its quotes.
pub fn plain(value: &RawValue) -> String {
    serde_json::from_str(value.get()).unwrap_or_else(|_| value.get().to_owned())
}

/// Whether a row has no value here.
pub fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

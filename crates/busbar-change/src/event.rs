//! The JSON of a change's event: `{"change":"update","id":1,"before":{"id":1},"unchanged":["bio"]}`.

use std::borrow::Cow;

/// Names beside those of the columns. A column that is called so gets `column_` before its name.
const OWN: [&str; 3] = ["change", "before", "unchanged"];

/// Begins an event.
pub fn open(change: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"change\":\"");
    out.extend_from_slice(change.as_bytes());
    out.push(b'"');
}

/// Begins the row as it was.
pub fn open_before(out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"before\":{");
}

/// Adds a column.
pub fn member(name: &str, out: &mut Vec<u8>, value: impl FnOnce(&mut Vec<u8>)) {
    out.push(b',');
    text(&column_name(name), out);
    out.push(b':');
    value(out);
}

/// What a column is called in an event.
pub fn column_name(name: &str) -> Cow<'_, str> {
    match OWN.contains(&name) {
        true => Cow::Owned(format!("column_{name}")),
        false => Cow::Borrowed(name),
    }
}

/// Adds a column of the row as it was.
pub fn pair(name: &str, first: &mut bool, out: &mut Vec<u8>, value: impl FnOnce(&mut Vec<u8>)) {
    if !std::mem::take(first) {
        out.push(b',');
    }
    text(name, out);
    out.push(b':');
    value(out);
}

/// Adds the columns that the database did not repeat.
pub fn unchanged<'a>(names: impl Iterator<Item = &'a str>, out: &mut Vec<u8>) {
    let mut first = true;
    for name in names {
        out.extend_from_slice(if first { b",\"unchanged\":[" } else { b"," });
        first = false;
        text(name, out);
    }
    if !first {
        out.push(b']');
    }
}

/// Writes the whole event of a table that was emptied.
pub fn truncate(out: &mut Vec<u8>) {
    open("truncate", out);
    out.push(b'}');
}

/// Writes the whole event of a table whose columns have changed: name, type, and whether it is one of the key.
pub fn schema(columns: impl Iterator<Item = (String, String, bool)>, out: &mut Vec<u8>) {
    open("schema", out);
    out.extend_from_slice(b",\"columns\":[");
    for (at, (name, of, key)) in columns.enumerate() {
        out.extend_from_slice(if at > 0 {
            b",{\"name\":"
        } else {
            b"{\"name\":"
        });
        text(&name, out);
        out.extend_from_slice(format!(",\"type\":{of},\"key\":{key}}}").as_bytes());
    }
    out.extend_from_slice(b"]}");
}

/// Writes what has no value.
pub fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(b"null");
}

/// Writes a text.
pub fn text(text: &str, out: &mut Vec<u8>) {
    // A text has no failure as JSON.
    let _ = serde_json::to_writer(out, text);
}

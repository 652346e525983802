//! A change as an event: the row's columns with what happened beside them, as JSON.
//!
//! ```json
//! {"change":"update","id":1,"name":"B","before":{"id":1,"name":"A"},"unchanged":["bio"]}
//! ```

use bytes::Bytes;

use super::pgoutput::{Relation, Tuple, Value};
use super::types::{write_json, write_text};
use super::wire::Column;

/// Names beside those of the columns. A column that is called so gets `column_` before its name.
const OWN: [&str; 3] = ["change", "before", "unchanged"];

/// Writes the event of a change; its key is appended to `key`.
pub fn write_change(
    change: &str,
    relation: &Relation,
    row: &Tuple,
    before: Option<&Tuple>,
    key: &mut String,
    out: &mut Vec<u8>,
) {
    open(change, out);
    let mut unchanged = Vec::new();
    for ((column, value), is_key) in relation.columns.iter().zip(&row.values).zip(&relation.key) {
        match value {
            // Of a row that is gone only the key is known.
            Value::Null if row.only_key && !*is_key => {}
            Value::Null => member(column, None, out),
            Value::Text(text) => member(column, Some(text), out),
            Value::Unchanged => unchanged.push(column.name.as_str()),
        }
    }
    if let Some(before) = before {
        out.extend_from_slice(b",\"before\":{");
        let mut first = true;
        for ((column, value), is_key) in relation
            .columns
            .iter()
            .zip(&before.values)
            .zip(&relation.key)
        {
            let value = match value {
                Value::Null if before.only_key && !*is_key => continue,
                Value::Unchanged => continue,
                Value::Null => None,
                Value::Text(text) => Some(text),
            };
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            pair(&column.name, column.oid, value, out);
        }
        out.push(b'}');
    }
    if !unchanged.is_empty() {
        out.extend_from_slice(b",\"unchanged\":[");
        for (at, name) in unchanged.into_iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            write_text(name, out);
        }
        out.push(b']');
    }
    out.push(b'}');
    write_key(key_values(relation, row), key);
}

/// Writes the event of a row that a snapshot found.
pub fn write_read(columns: &[Column], values: &[Option<Bytes>], out: &mut Vec<u8>) {
    open("read", out);
    for (column, value) in columns.iter().zip(values) {
        member(column, value.as_ref(), out);
    }
    out.push(b'}');
}

/// Writes the event of a table that was emptied.
pub fn write_truncate(out: &mut Vec<u8>) {
    open("truncate", out);
    out.push(b'}');
}

/// Writes the event of a table whose columns have changed.
pub fn write_schema(relation: &Relation, out: &mut Vec<u8>) {
    open("schema", out);
    out.extend_from_slice(b",\"columns\":[");
    for (at, (column, key)) in relation.columns.iter().zip(&relation.key).enumerate() {
        out.extend_from_slice(if at > 0 {
            b",{\"name\":"
        } else {
            b"{\"name\":"
        });
        write_text(&column.name, out);
        out.extend_from_slice(format!(",\"type\":{},\"key\":{key}}}", column.oid).as_bytes());
    }
    out.extend_from_slice(b"]}");
}

/// The values of the columns that tell rows apart.
pub fn key_values<'a>(
    relation: &'a Relation,
    row: &'a Tuple,
) -> impl Iterator<Item = Option<&'a Bytes>> {
    let values = row.values.iter().zip(&relation.key);
    values
        .filter(|(_, is_key)| **is_key)
        .map(|(value, _)| match value {
            Value::Text(text) => Some(text),
            Value::Null | Value::Unchanged => None,
        })
}

/// Writes a key: one value as it is, several with commas between them.
pub fn write_key<'a>(values: impl Iterator<Item = Option<&'a Bytes>>, key: &mut String) {
    for (at, value) in values.enumerate() {
        if at > 0 {
            key.push(',');
        }
        if let Some(value) = value {
            key.push_str(&String::from_utf8_lossy(value));
        }
    }
}

fn open(change: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"change\":\"");
    out.extend_from_slice(change.as_bytes());
    out.push(b'"');
}

fn member(column: &Column, value: Option<&Bytes>, out: &mut Vec<u8>) {
    out.push(b',');
    match OWN.contains(&column.name.as_str()) {
        true => pair(&format!("column_{}", column.name), column.oid, value, out),
        false => pair(&column.name, column.oid, value, out),
    }
}

fn pair(name: &str, oid: u32, value: Option<&Bytes>, out: &mut Vec<u8>) {
    write_text(name, out);
    out.push(b':');
    match value {
        Some(value) => write_json(value, oid, out),
        None => out.extend_from_slice(b"null"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation() -> Relation {
        let column = |name: &str, oid| Column {
            name: name.into(),
            oid,
        };
        Relation {
            id: 1,
            schema: "public".into(),
            name: "t".into(),
            columns: vec![column("id", 20), column("change", 25), column("bio", 25)],
            key: vec![true, false, false],
            full: false,
        }
    }

    fn tuple(values: [Value; 3], only_key: bool) -> Tuple {
        Tuple {
            values: values.into(),
            only_key,
        }
    }

    fn text(text: &'static str) -> Value {
        Value::Text(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_change_says_what_was_what_is_and_what_stays() {
        let after = tuple([text("7"), text("b"), Value::Unchanged], false);
        let before = tuple([text("7"), Value::Null, text("x\"")], false);
        let (mut key, mut out) = (String::new(), Vec::new());
        write_change(
            "update",
            &relation(),
            &after,
            Some(&before),
            &mut key,
            &mut out,
        );
        assert_eq!(
            String::from_utf8_lossy(&out),
            r#"{"change":"update","id":7,"column_change":"b","before":{"id":7,"change":null,"bio":"x\""},"unchanged":["bio"]}"#
        );
        assert_eq!(key, "7");
        let gone = tuple([text("7"), Value::Null, Value::Null], true);
        out.clear();
        write_change("delete", &relation(), &gone, None, &mut key, &mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            r#"{"change":"delete","id":7}"#
        );
    }
}

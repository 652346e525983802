//! A change as an event: the row's columns with what happened beside them, as JSON.
//!
//! ```json
//! {"change":"update","id":1,"name":"B","before":{"id":1,"name":"A"},"unchanged":["bio"]}
//! ```

use bytes::Bytes;

use super::pgoutput::{Relation, Tuple, Value};
use super::value::write_json;
use super::wire::Column;
use crate::ColumnsMark;
use crate::event;

/// Writes the event of a change; its key is appended to `key`.
pub fn write_change(
    change: &str,
    relation: &Relation,
    row: &Tuple,
    before: Option<&Tuple>,
    key: &mut String,
    out: &mut Vec<u8>,
) {
    event::open(change, out);
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
        event::open_before(out);
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
            event::pair(&column.name, &mut first, out, |out| {
                written(column, value, out)
            });
        }
        out.push(b'}');
    }
    event::unchanged(unchanged.into_iter(), out);
    out.push(b'}');
    write_key(key_values(relation, row), key);
}

/// Writes the event of a row that a snapshot found.
pub fn write_read(columns: &[Column], values: &[Option<Bytes>], out: &mut Vec<u8>) {
    event::open("read", out);
    for (column, value) in columns.iter().zip(values) {
        member(column, value.as_ref(), out);
    }
    out.push(b'}');
}

/// Writes the event of a table whose columns have changed.
pub fn write_schema(relation: &Relation, out: &mut Vec<u8>) {
    let columns = relation.columns.iter().zip(&relation.key);
    event::schema(
        columns.map(|(column, key)| (column.name.clone(), column.oid.to_string(), *key)),
        out,
    );
}

/// What identifies columns with their types.
pub fn columns_mark(columns: &[Column]) -> ColumnsMark {
    ColumnsMark::of(columns.iter().map(|column| {
        let of = format!("{} {}", column.oid, column.modifier);
        (column.name.clone(), of)
    }))
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

fn member(column: &Column, value: Option<&Bytes>, out: &mut Vec<u8>) {
    event::member(&column.name, out, |out| written(column, value, out));
}

fn written(column: &Column, value: Option<&Bytes>, out: &mut Vec<u8>) {
    match value {
        Some(value) => write_json(value, column.oid, out),
        None => event::null(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation() -> Relation {
        let column = |name: &str, oid| Column {
            name: name.into(),
            oid,
            modifier: -1,
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

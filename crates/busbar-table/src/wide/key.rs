//! Row keys: the values of a table's key columns as bytes that sort as the values do.

use std::ops::Bound;

use busbar_event::{Class, Error, hash::fnv1a};

use super::cell::CellValue;
use crate::columns::ColumnType;
use crate::table::{Compare, Condition, Constant};

/// Bytes of the hash that a salted row key begins with.
const SALT_BYTES: usize = 2;
/// What a zero byte within text or bytes is followed by, and what ends them: the end sorts first.
const ESCAPED: u8 = 0xff;
const END: u8 = 0x01;
const SIGN: u64 = 1 << 63;

/// The form of a table's row keys.
///
/// | column | bytes |
/// | --- | --- |
/// | `bool` | 0 or 1 |
/// | `int`, `time` | 8, big-endian, the sign bit inverted |
/// | `text`, `binary` | as they are, 0 as `00 ff`, ended by `00 01` |
///
/// No key is the beginning of another one. A salted key begins with 2 bytes of a hash of its first columns, which spreads
/// keys that grow, such as times, over the whole range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyLayout {
    types: Vec<ColumnType>,
    /// Number of leading columns that the salt is a hash of; 0 for keys without salt.
    salted: usize,
}

impl KeyLayout {
    pub fn new(types: Vec<ColumnType>, salted: usize) -> Self {
        Self { types, salted }
    }

    pub fn types(&self) -> &[ColumnType] {
        &self.types
    }

    /// Appends the key of these values, one for each column of the key.
    ///
    /// # Errors
    /// A value of another type than its column, or too few values.
    pub fn encode(&self, values: &[CellValue], out: &mut Vec<u8>) -> Result<(), Error> {
        if values.len() != self.types.len() {
            return Err(Error::new(Class::Permanent, "table.wide-key-values")
                .with("given", values.len())
                .with("needed", self.types.len()));
        }
        self.begin(values, out)
    }

    /// The same for the first columns of the key: the beginning of every key that has these values.
    fn begin(&self, values: &[CellValue], out: &mut Vec<u8>) -> Result<(), Error> {
        let start = out.len();
        if self.salted > 0 {
            out.extend_from_slice(&[0; SALT_BYTES]);
        }
        for (place, (kind, value)) in self.types.iter().zip(values).enumerate() {
            if !value.is_of(*kind) {
                return Err(Error::new(Class::Permanent, "table.wide-key-type")
                    .with("place", place + 1)
                    .with("type", kind.word()));
            }
            push(value, out);
            if place + 1 == self.salted {
                let hash = fnv1a(&out[start + SALT_BYTES..]).to_be_bytes();
                out[start..start + SALT_BYTES].copy_from_slice(&hash[..SALT_BYTES]);
            }
        }
        Ok(())
    }

    /// The values of a key; none for bytes that are no key of this form.
    pub fn decode(&self, mut key: &[u8]) -> Option<Vec<CellValue>> {
        if self.salted > 0 {
            key = key.get(SALT_BYTES..)?;
        }
        let mut values = Vec::with_capacity(self.types.len());
        for kind in &self.types {
            let (value, rest) = pull(*kind, key)?;
            values.push(value);
            key = rest;
        }
        key.is_empty().then_some(values)
    }

    /// The range of the fragments of one row.
    ///
    /// # Errors
    /// As [`KeyLayout::encode`].
    pub fn row(&self, values: &[CellValue]) -> Result<KeyRange, Error> {
        let mut row = Vec::new();
        self.encode(values, &mut row)?;
        Ok(KeyRange::of_row(row))
    }

    /// The range of keys that begin with these values.
    ///
    /// # Errors
    /// As [`KeyLayout::encode`]; or too few values for a key with a salt.
    pub fn prefix(&self, values: &[CellValue]) -> Result<KeyRange, Error> {
        if values.is_empty() {
            return Ok(KeyRange::default());
        }
        if values.len() < self.salted {
            return Err(Error::new(Class::Permanent, "table.wide-salted")
                .with("given", values.len())
                .with("needed", self.salted));
        }
        let mut start = Vec::new();
        self.begin(values, &mut start)?;
        Ok(KeyRange {
            end: after(&start),
            start: Bound::Included(start),
            is_row: false,
        })
    }

    /// The range that holds every key that fits the conditions: an equality for each of the first columns and then bounds
    /// of one more. `columns` are the places of the key's columns in the conditions.
    pub fn range(&self, columns: &[usize], conditions: &[Condition]) -> KeyRange {
        let mut fixed = Vec::new();
        let mut bounds = (None, None);
        for (kind, column) in self.types.iter().zip(columns) {
            let here = || conditions.iter().filter(|c| c.column == *column);
            let equal = here()
                .filter(|c| c.compare == Compare::Equal)
                .find_map(|c| constant(*kind, &c.constant));
            if let Some(value) = equal {
                fixed.push(value);
                continue;
            }
            for condition in here() {
                let Some(value) = constant(*kind, &condition.constant) else {
                    continue;
                };
                match condition.compare {
                    Compare::Greater | Compare::GreaterOrEqual => bounds.0 = Some(value),
                    Compare::Less | Compare::LessOrEqual => bounds.1 = Some(value),
                    Compare::Equal => {}
                }
            }
            break;
        }
        let Ok(mut range) = self.prefix(&fixed) else {
            return KeyRange::default();
        };
        let encode = |value: CellValue| {
            let mut key = Vec::new();
            let values: Vec<CellValue> = fixed.iter().cloned().chain([value]).collect();
            let fits = values.len() >= self.salted && self.begin(&values, &mut key).is_ok();
            fits.then_some(key)
        };
        // A bound in a column that the salt is made of says nothing about the order of keys.
        if fixed.len() >= self.salted {
            if let Some(start) = bounds.0.and_then(encode) {
                range.start = Bound::Included(start);
            }
            if let Some(end) = bounds.1.and_then(encode) {
                // Keys that are equal up to here are within the range, whatever follows.
                range.end = after(&end);
            }
        }
        range
    }
}

/// A range of row keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyRange {
    pub start: Bound<Vec<u8>>,
    pub end: Bound<Vec<u8>>,
    /// It is that of one row, whose key is the start.
    is_row: bool,
}

impl KeyRange {
    /// That of the fragments of one row.
    pub fn of_row(row: Vec<u8>) -> Self {
        let mut end = row.clone();
        // What follows the row in a fragment's key begins with the number of a family.
        end.push(u8::MAX);
        Self {
            start: Bound::Included(row),
            end: Bound::Excluded(end),
            is_row: true,
        }
    }

    /// What is behind it, up to that end.
    pub fn behind(&self, end: &Bound<Vec<u8>>) -> Self {
        Self {
            start: match &self.end {
                Bound::Included(key) => Bound::Excluded(key.clone()),
                Bound::Excluded(key) => Bound::Included(key.clone()),
                Bound::Unbounded => Bound::Unbounded,
            },
            end: end.clone(),
            is_row: false,
        }
    }

    /// The key of the one row that it is the range of.
    pub fn row(&self) -> Option<&[u8]> {
        match &self.start {
            Bound::Included(key) => self.is_row.then_some(key),
            _ => None,
        }
    }

    /// The first key, and the one behind the last; empty where there is no bound.
    pub fn bytes(&self) -> (Vec<u8>, Vec<u8>) {
        let of = |bound: &Bound<Vec<u8>>| match bound {
            Bound::Included(key) | Bound::Excluded(key) => key.clone(),
            Bound::Unbounded => Vec::new(),
        };
        (of(&self.start), of(&self.end))
    }
}

impl Default for KeyRange {
    fn default() -> Self {
        Self {
            start: Bound::Unbounded,
            end: Bound::Unbounded,
            is_row: false,
        }
    }
}

/// The end of the range of byte strings that begin with `prefix`.
fn after(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            return Bound::Excluded(end);
        }
        end.pop();
    }
    Bound::Unbounded
}

fn constant(kind: ColumnType, constant: &Constant) -> Option<CellValue> {
    let value = match constant {
        Constant::Bool(value) => CellValue::Bool(*value),
        Constant::Int(value) => CellValue::Int(*value),
        Constant::Float(value) => CellValue::Float(*value),
        Constant::Text(value) => CellValue::Text(value.clone()),
        Constant::Time(value) => CellValue::Time(*value),
    };
    value.is_of(kind).then_some(value)
}

fn push(value: &CellValue, out: &mut Vec<u8>) {
    match value {
        CellValue::Bool(value) => out.push(u8::from(*value)),
        CellValue::Int(value) | CellValue::Time(value) => {
            out.extend_from_slice(&((*value as u64) ^ SIGN).to_be_bytes());
        }
        CellValue::Text(text) => push_bytes(text.as_bytes(), out),
        CellValue::Binary(bytes) => push_bytes(bytes, out),
        // `is_of` has refused them: no key column has these types.
        CellValue::Float(_) | CellValue::Json(_) => {}
    }
}

pub(super) fn push_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        out.push(*byte);
        if *byte == 0 {
            out.push(ESCAPED);
        }
    }
    out.extend_from_slice(&[0, END]);
}

fn pull(kind: ColumnType, key: &[u8]) -> Option<(CellValue, &[u8])> {
    let number = |key: &[u8]| {
        let bytes = key.first_chunk::<8>()?;
        Some((u64::from_be_bytes(*bytes) ^ SIGN) as i64)
    };
    Some(match kind {
        ColumnType::Bool => (CellValue::Bool(*key.first()? == 1), &key[1..]),
        ColumnType::Int => (CellValue::Int(number(key)?), &key[8..]),
        ColumnType::Time => (CellValue::Time(number(key)?), &key[8..]),
        ColumnType::Text => {
            let (bytes, rest) = pull_bytes(key)?;
            (CellValue::Text(String::from_utf8(bytes).ok()?), rest)
        }
        ColumnType::Binary => {
            let (bytes, rest) = pull_bytes(key)?;
            (CellValue::Binary(bytes), rest)
        }
        ColumnType::Float | ColumnType::Json => return None,
    })
}

fn pull_bytes(key: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut bytes = Vec::new();
    let mut rest = key;
    loop {
        let zero = rest.iter().position(|byte| *byte == 0)?;
        bytes.extend_from_slice(&rest[..zero]);
        match *rest.get(zero + 1)? {
            END => return Some((bytes, &rest[zero + 2..])),
            ESCAPED => bytes.push(0),
            _ => return None,
        }
        rest = &rest[zero + 2..];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout(salted: usize) -> KeyLayout {
        KeyLayout::new(vec![ColumnType::Text, ColumnType::Int], salted)
    }

    fn key(salted: usize, text: &str, int: i64) -> Vec<u8> {
        let mut key = Vec::new();
        let values = [CellValue::Text(text.to_owned()), CellValue::Int(int)];
        layout(salted).encode(&values, &mut key).unwrap();
        key
    }

    proptest! {
        #[test]
        fn keys_sort_as_their_values_and_come_back(
            a in "[a\\x00\\xff]{0,4}", b in "[a\\x00\\xff]{0,4}", m: i64, n: i64, salted in 0usize..3,
        ) {
            let (one, other) = (key(0, &a, m), key(0, &b, n));
            prop_assert_eq!(one.cmp(&other), (&a, m).cmp(&(&b, n)));
            let values = layout(salted).decode(&key(salted, &a, m)).unwrap();
            prop_assert_eq!(values, [CellValue::Text(a), CellValue::Int(m)]);
        }
    }

    fn holds(range: &KeyRange, key: &[u8]) -> bool {
        let start = match &range.start {
            Bound::Included(start) => key >= start.as_slice(),
            _ => true,
        };
        let end = match &range.end {
            Bound::Excluded(end) => key < end.as_slice(),
            _ => true,
        };
        start && end
    }

    #[test]
    fn ranges_hold_what_fits_and_leave_out_the_rest() {
        let condition = |column, compare, constant| Condition {
            column,
            compare,
            constant,
        };
        let text = |text: &str| Constant::Text(text.to_owned());
        for salted in [0, 1, 2] {
            let of = |conditions: &[Condition]| layout(salted).range(&[7, 3], conditions);
            let all = of(&[condition(3, Compare::Greater, Constant::Int(5))]);
            assert_eq!(all, KeyRange::default());
            let rig = of(&[condition(7, Compare::Equal, text("rig"))]);
            assert!(holds(&rig, &key(salted, "rig", i64::MIN)));
            assert!(holds(&rig, &key(salted, "rig", i64::MAX)));
            // A salt of both columns is known only when both are.
            assert_eq!(holds(&rig, &key(salted, "rih", 0)), salted == 2);
            let some = of(&[
                condition(7, Compare::Equal, text("rig")),
                condition(3, Compare::GreaterOrEqual, Constant::Int(-5)),
                condition(3, Compare::Less, Constant::Int(5)),
            ]);
            assert!(holds(&some, &key(salted, "rig", -5)) && holds(&some, &key(salted, "rig", 4)));
            assert_eq!(holds(&some, &key(salted, "rig", -6)), salted == 2);
            assert_eq!(holds(&some, &key(salted, "rig", 6)), salted == 2);
        }
        let short = layout(2).prefix(&[CellValue::Text("rig".into())]);
        assert_eq!(short.unwrap_err().code(), "table.wide-salted");
    }

    #[test]
    fn only_the_range_of_a_row_is_that_of_a_row() {
        let values = [CellValue::Text("rig".into()), CellValue::Int(1)];
        let row = layout(0).row(&values).unwrap();
        assert_eq!(row.row(), Some(key(0, "rig", 1).as_slice()));
        // The same bounds, as a range that somebody asks for may have them.
        let mut range = layout(0).prefix(&values).unwrap();
        range.start.clone_from(&row.start);
        range.end.clone_from(&row.end);
        assert_eq!(range.row(), None);
    }

    #[test]
    fn bytes_that_are_no_key_are_not_read() {
        for bad in [&b""[..], b"a", b"a\0", b"a\0\x02", b"a\0\x01\0\0"] {
            assert_eq!(layout(0).decode(bad), None, "{bad:?}");
        }
        let mut longer = key(0, "a", 1);
        longer.push(0);
        assert_eq!(layout(0).decode(&longer), None);
    }
}

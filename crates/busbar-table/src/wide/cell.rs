//! Cells, and the fragments in which they are stored.

use std::borrow::Cow;

use busbar_event::{Class, Error};

use crate::columns::ColumnType;

/// The value of a cell.
#[derive(Clone, Debug, PartialEq)]
pub enum CellValue {
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number. Never NaN.
    Float(f64),
    /// Text.
    Text(String),
    /// A moment: microseconds since 1970, UTC.
    Time(i64),
    /// Bytes.
    Binary(Vec<u8>),
    /// A JSON document.
    Json(String),
}

impl CellValue {
    /// What a column has to hold to keep the value as it is.
    pub fn kind(&self) -> ColumnType {
        match self {
            Self::Bool(_) => ColumnType::Bool,
            Self::Int(_) => ColumnType::Int,
            Self::Float(_) => ColumnType::Float,
            Self::Text(_) => ColumnType::Text,
            Self::Time(_) => ColumnType::Time,
            Self::Binary(_) => ColumnType::Binary,
            Self::Json(_) => ColumnType::Json,
        }
    }

    pub(super) fn is_of(&self, kind: ColumnType) -> bool {
        self.kind() == kind
    }

    /// The bytes of [`StoredCell::to_bytes`].
    pub(super) fn to_stored(&self) -> Vec<u8> {
        let mut fragment = Vec::new();
        FragmentWriter::new(&mut fragment).value(&[], self);
        let cell = match Fragment::read(&fragment) {
            Ok(Fragment::Put(mut cells)) => cells.next().and_then(Result::ok),
            _ => None,
        };
        cell.map(|(_, stored)| stored.to_bytes())
            .unwrap_or_default()
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Bool(_) => 1,
            Self::Int(_) | Self::Float(_) | Self::Time(_) => 8,
            Self::Text(text) | Self::Json(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// A value that lies in a fragment; none for a cell that was deleted or set to null.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StoredCell<'a> {
    pub tag: u8,
    pub bytes: &'a [u8],
}

const NULL: u8 = 0;
const BOOL: u8 = 1;
const INT: u8 = 2;
const FLOAT: u8 = 3;
const TEXT: u8 = 4;
const TIME: u8 = 5;
const BINARY: u8 = 6;
const JSON: u8 = 7;

impl<'a> StoredCell<'a> {
    /// The cell of [`StoredCell::to_bytes`]; none for bytes that are not of this form.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (tag, bytes) = bytes.split_first()?;
        let fits = match *tag {
            NULL => bytes.is_empty(),
            BOOL => bytes.len() == 1,
            INT | FLOAT | TIME => bytes.len() == 8,
            TEXT | JSON => std::str::from_utf8(bytes).is_ok(),
            BINARY => true,
            _ => false,
        };
        fits.then_some(Self { tag: *tag, bytes })
    }

    /// The tag and the bytes of the value.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + self.bytes.len());
        bytes.push(self.tag);
        bytes.extend_from_slice(self.bytes);
        bytes
    }

    /// What a cell that was deleted or set to null is stored as.
    pub fn null() -> StoredCell<'static> {
        StoredCell {
            tag: NULL,
            bytes: &[],
        }
    }

    pub fn is_null(self) -> bool {
        self.tag == NULL
    }

    fn number(self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes.try_into().ok()?))
    }

    pub fn int(self) -> Option<i64> {
        (self.tag == INT).then(|| self.number())?.map(|n| n as i64)
    }

    /// A number as float: whole numbers that were written before the column held floats are exact.
    pub fn float(self) -> Option<f64> {
        match self.tag {
            FLOAT => self.number().map(f64::from_bits),
            INT => self.int().map(|int| int as f64),
            _ => None,
        }
    }

    pub fn time(self) -> Option<i64> {
        (self.tag == TIME).then(|| self.number())?.map(|n| n as i64)
    }

    pub fn bool(self) -> Option<bool> {
        (self.tag == BOOL).then(|| self.bytes == [1])
    }

    /// Text, or the text of what was written before the column held text.
    pub fn text(self) -> Option<Cow<'a, str>> {
        match self.tag {
            TEXT | JSON => std::str::from_utf8(self.bytes).ok().map(Cow::Borrowed),
            INT => self.int().map(|int| Cow::Owned(int.to_string())),
            BOOL => self.bool().map(|is| Cow::Owned(is.to_string())),
            _ => None,
        }
    }

    pub fn binary(self) -> Option<&'a [u8]> {
        (self.tag == BINARY).then_some(self.bytes)
    }

    /// The value by itself; none for null.
    pub fn value(self) -> Option<CellValue> {
        Some(match self.tag {
            BOOL => CellValue::Bool(self.bool()?),
            INT => CellValue::Int(self.int()?),
            FLOAT => CellValue::Float(self.float()?),
            TEXT => CellValue::Text(self.text()?.into_owned()),
            TIME => CellValue::Time(self.time()?),
            BINARY => CellValue::Binary(self.bytes.to_vec()),
            JSON => CellValue::Json(self.text()?.into_owned()),
            _ => return None,
        })
    }
}

/// What a fragment does to its family of its row.
const PUT: u8 = 0;
const DELETE: u8 = 1;

/// Cells that were written together into one family of one row, or the deletion of that family.
///
/// `PUT`, then for each cell: length of the qualifier (varint), qualifier, tag, and for a tag other than null the length
/// (varint) and bytes of the value. A deletion is `DELETE` alone.
#[derive(Debug)]
pub(super) struct FragmentWriter<'a>(&'a mut Vec<u8>);

impl<'a> FragmentWriter<'a> {
    /// Begins a fragment of cells in an empty buffer.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        out.clear();
        out.push(PUT);
        Self(out)
    }

    fn head(&mut self, qualifier: &[u8], tag: u8, bytes: usize) {
        push_varint(qualifier.len(), self.0);
        self.0.extend_from_slice(qualifier);
        self.0.push(tag);
        if tag != NULL {
            push_varint(bytes, self.0);
        }
    }

    fn cell(&mut self, qualifier: &[u8], tag: u8, bytes: &[u8]) {
        self.head(qualifier, tag, bytes.len());
        self.0.extend_from_slice(bytes);
    }

    pub fn null(&mut self, qualifier: &[u8]) {
        self.head(qualifier, NULL, 0);
    }

    pub fn bool(&mut self, qualifier: &[u8], value: bool) {
        self.cell(qualifier, BOOL, &[u8::from(value)]);
    }

    pub fn int(&mut self, qualifier: &[u8], value: i64) {
        self.cell(qualifier, INT, &value.to_le_bytes());
    }

    pub fn float(&mut self, qualifier: &[u8], value: f64) {
        self.cell(qualifier, FLOAT, &value.to_bits().to_le_bytes());
    }

    pub fn time(&mut self, qualifier: &[u8], value: i64) {
        self.cell(qualifier, TIME, &value.to_le_bytes());
    }

    pub fn text(&mut self, qualifier: &[u8], value: &str) {
        self.cell(qualifier, TEXT, value.as_bytes());
    }

    pub fn json(&mut self, qualifier: &[u8], value: &str) {
        self.cell(qualifier, JSON, value.as_bytes());
    }

    pub fn binary(&mut self, qualifier: &[u8], value: &[u8]) {
        self.cell(qualifier, BINARY, value);
    }

    pub fn stored(&mut self, qualifier: &[u8], cell: StoredCell<'_>) {
        self.cell(qualifier, cell.tag, cell.bytes);
    }

    pub fn value(&mut self, qualifier: &[u8], value: &CellValue) {
        match value {
            CellValue::Bool(value) => self.bool(qualifier, *value),
            CellValue::Int(value) => self.int(qualifier, *value),
            CellValue::Float(value) => self.float(qualifier, *value),
            CellValue::Text(value) => self.text(qualifier, value),
            CellValue::Time(value) => self.time(qualifier, *value),
            CellValue::Binary(value) => self.binary(qualifier, value),
            CellValue::Json(value) => self.json(qualifier, value),
        }
    }
}

/// Bytes of a fragment that deletes. Those that put may be as long.
pub(super) const DELETION_BYTES: u32 = 1;

/// The fragment that deletes everything older in its family of its row.
pub(super) fn write_deletion(out: &mut Vec<u8>) {
    out.clear();
    out.push(DELETE);
}

/// A fragment as it lies in the store.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fragment<'a> {
    /// Cells.
    Put(FragmentCells<'a>),
    /// Everything older in the family is deleted.
    Delete,
}

impl<'a> Fragment<'a> {
    /// # Errors
    /// Bytes that no fragment begins with.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        match bytes.split_first() {
            Some((&PUT, rest)) => Ok(Self::Put(FragmentCells(rest))),
            Some((&DELETE, [])) => Ok(Self::Delete),
            _ => Err(damaged()),
        }
    }
}

/// The cells of a fragment: qualifier and value.
#[derive(Clone, Copy, Debug)]
pub(super) struct FragmentCells<'a>(&'a [u8]);

impl FragmentCells<'_> {
    /// Whether each qualifier is greater than the one before. False also for cells that cannot be read.
    pub fn are_in_order(self) -> bool {
        let mut before = None;
        for cell in self {
            let Ok((qualifier, _)) = cell else {
                return false;
            };
            if before.replace(qualifier) >= Some(qualifier) {
                return false;
            }
        }
        true
    }
}

impl<'a> Iterator for FragmentCells<'a> {
    type Item = Result<(&'a [u8], StoredCell<'a>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let cell = pull_cell(&mut self.0);
        if cell.is_none() {
            self.0 = &[];
        }
        Some(cell.ok_or_else(damaged))
    }
}

fn pull_cell<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], StoredCell<'a>)> {
    let qualifier = pull_bytes(rest)?;
    let (tag, after) = rest.split_first()?;
    *rest = after;
    let bytes = match *tag {
        NULL => &[][..],
        BOOL..=JSON => pull_bytes(rest)?,
        _ => return None,
    };
    Some((qualifier, StoredCell { tag: *tag, bytes }))
}

fn pull_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = pull_varint(rest)?;
    let (bytes, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(bytes)
}

fn push_varint(mut n: usize, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn pull_varint(rest: &mut &[u8]) -> Option<usize> {
    let mut n = 0usize;
    for shift in (0..u32::BITS).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        n |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

fn damaged() -> Error {
    Error::new(Class::Permanent, "table.wide-damaged")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Option<CellValue>> {
        prop_oneof![
            Just(None),
            any::<bool>().prop_map(|v| Some(CellValue::Bool(v))),
            any::<i64>().prop_map(|v| Some(CellValue::Int(v))),
            any::<f64>().prop_map(|v| Some(CellValue::Float(if v.is_nan() { 0.0 } else { v }))),
            ".{0,200}".prop_map(|v| Some(CellValue::Text(v))),
            any::<i64>().prop_map(|v| Some(CellValue::Time(v))),
            any::<Vec<u8>>().prop_map(|v| Some(CellValue::Binary(v))),
        ]
    }

    #[test]
    fn a_fragment_with_a_cell_twice_is_not_in_order() {
        let order = |qualifiers: &[&str]| {
            let mut bytes = Vec::new();
            let mut writer = FragmentWriter::new(&mut bytes);
            qualifiers
                .iter()
                .for_each(|it| writer.int(it.as_bytes(), 1));
            match Fragment::read(&bytes) {
                Ok(Fragment::Put(cells)) => cells.are_in_order(),
                other => panic!("{other:?}"),
            }
        };
        assert!(order(&[]) && order(&["b"]) && order(&["a", "b", "bc"]));
        assert!(!order(&["a", "a"]) && !order(&["a", "b", "a"]));
    }

    proptest! {
        #[test]
        fn cells_come_back_as_they_went(cells in prop::collection::vec((any::<Vec<u8>>(), value()), 0..8)) {
            let mut bytes = Vec::new();
            let mut writer = FragmentWriter::new(&mut bytes);
            for (qualifier, value) in &cells {
                match value {
                    Some(value) => writer.value(qualifier, value),
                    None => writer.null(qualifier),
                }
            }
            let Fragment::Put(read) = Fragment::read(&bytes).unwrap() else { panic!() };
            let read: Vec<_> = read.map(|cell| cell.unwrap()).collect();
            let read: Vec<_> = read.into_iter().map(|(q, v)| (q.to_vec(), v.value())).collect();
            prop_assert_eq!(read, cells);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            if let Ok(Fragment::Put(cells)) = Fragment::read(&bytes) {
                for cell in cells {
                    let _ = cell.map(|(_, stored)| stored.value());
                }
            }
        }
    }
}

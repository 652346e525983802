//! The bytes in which changes that are committed wait until they are made.

use std::sync::Arc;

use super::outside::{CellBytes, CellMutation};

/// How far a producer has come, and whether its last changes have been made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct JournalHead {
    pub position: u64,
    /// The latest time of its last changes, in milliseconds since 1970.
    pub time_ms: i64,
    /// Pieces of the changes that may not have been made; 0 when they have.
    pub chunks: u32,
}

/// The form of a head and of changes.
const FORM: u8 = 1;

impl JournalHead {
    /// The form (1 byte), position, time (8 bytes each) and number of pieces (4 bytes), big-endian.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = vec![FORM];
        bytes.extend_from_slice(&self.position.to_be_bytes());
        bytes.extend_from_slice(&self.time_ms.to_be_bytes());
        bytes.extend_from_slice(&self.chunks.to_be_bytes());
        bytes
    }

    /// None for bytes of another form.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&[FORM])?;
        let (position, rest) = rest.split_first_chunk()?;
        let (time, rest) = rest.split_first_chunk()?;
        Some(Self {
            position: u64::from_be_bytes(*position),
            time_ms: i64::from_be_bytes(*time),
            chunks: u32::from_be_bytes(rest.try_into().ok()?),
        })
    }
}

/// Changes of rows as bytes: the form, then for each row its key, the number of deletions and each, the number of cells and
/// each. Numbers have 4 bytes and times 8, big-endian; before texts and bytes stands their length.
pub(super) fn write_redo(rows: &[CellMutation]) -> Vec<u8> {
    let mut out = vec![FORM];
    for row in rows {
        push_bytes(&row.key, &mut out);
        push_count(row.deleted.len(), &mut out);
        for (family, time_ms) in &row.deleted {
            push_bytes(family.as_bytes(), &mut out);
            out.extend_from_slice(&time_ms.to_be_bytes());
        }
        push_count(row.cells.len(), &mut out);
        for cell in &row.cells {
            push_bytes(cell.family.as_bytes(), &mut out);
            push_bytes(&cell.qualifier, &mut out);
            out.extend_from_slice(&cell.time_ms.to_be_bytes());
            push_bytes(&cell.value, &mut out);
        }
    }
    out
}

/// The changes of [`write_redo`]; none for bytes of another form.
pub(super) fn read_redo(bytes: &[u8]) -> Option<Vec<CellMutation>> {
    let mut rest = bytes.strip_prefix(&[FORM])?;
    let mut rows = Vec::new();
    while !rest.is_empty() {
        let mut row = CellMutation {
            key: pull_bytes(&mut rest)?.to_vec(),
            ..CellMutation::default()
        };
        for _ in 0..pull_count(&mut rest)? {
            let family = pull_family(&mut rest)?;
            row.deleted.push((family, pull_time(&mut rest)?));
        }
        for _ in 0..pull_count(&mut rest)? {
            row.cells.push(CellBytes {
                family: pull_family(&mut rest)?,
                qualifier: pull_bytes(&mut rest)?.to_vec(),
                time_ms: pull_time(&mut rest)?,
                value: pull_bytes(&mut rest)?.to_vec(),
            });
        }
        rows.push(row);
    }
    Some(rows)
}

fn push_count(count: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&(count as u32).to_be_bytes());
}

fn push_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    push_count(bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn pull_count(rest: &mut &[u8]) -> Option<usize> {
    let (count, after) = rest.split_first_chunk()?;
    *rest = after;
    usize::try_from(u32::from_be_bytes(*count)).ok()
}

fn pull_time(rest: &mut &[u8]) -> Option<i64> {
    let (time, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(i64::from_be_bytes(*time))
}

fn pull_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let count = pull_count(rest)?;
    let (bytes, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(bytes)
}

fn pull_family(rest: &mut &[u8]) -> Option<Arc<str>> {
    let name = std::str::from_utf8(pull_bytes(rest)?).ok()?;
    Some(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_back_and_pieces_of_them_do_not() {
        let cell = |family: &str, value: &[u8]| CellBytes {
            family: family.into(),
            qualifier: b"q\0".to_vec(),
            time_ms: 7,
            value: value.to_vec(),
        };
        let rows = vec![
            CellMutation {
                key: b"a".to_vec(),
                deleted: vec![("m".into(), 5), ("n".into(), i64::MAX)],
                cells: Vec::new(),
            },
            CellMutation {
                key: vec![0xff; 300],
                deleted: Vec::new(),
                cells: vec![cell("m", b""), cell("n", "雨".as_bytes())],
            },
        ];
        let bytes = write_redo(&rows);
        assert_eq!(read_redo(&bytes), Some(rows));
        let whole = (0..bytes.len()).filter(|end| read_redo(&bytes[..*end]).is_some());
        // Nothing, and the first row.
        assert_eq!(whole.count(), 2);
        let head = JournalHead {
            position: u64::MAX,
            time_ms: -1,
            chunks: 3,
        };
        assert_eq!(JournalHead::read(&head.to_bytes()), Some(head));
        assert_eq!(JournalHead::read(&head.to_bytes()[..20]), None);
    }
}

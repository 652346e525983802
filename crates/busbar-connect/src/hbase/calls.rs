//! The calls of Thrift 2 that are made, as bytes, and their answers.

use std::sync::Arc;

use busbar_connector::{CellBytes, CellFamily, CellGuard, CellMutation, CellRead, CellRow};

use super::wire::{ThriftFault, ThriftReader, ThriftWriter, kind};

/// `TDeleteType.DELETE_FAMILY`.
const DELETE_FAMILY: i32 = 2;
/// `TCompareOp.EQUAL`.
const EQUAL: i32 = 2;
/// `TBloomFilterType.ROW`.
const BLOOM_ROW: i32 = 1;
/// `TDataBlockEncoding.FAST_DIFF`.
const FAST_DIFF: i32 = 4;
/// `TThriftServerType.TWO`.
pub const THRIFT_2: i32 = 2;
/// The time to live of a family that keeps cells for ever.
pub const FOREVER_S: i32 = i32::MAX;

/// A family as the server describes it.
#[derive(Clone, Debug, Default)]
pub struct DescribedFamily {
    pub name: Vec<u8>,
    pub versions: i32,
    pub ttl_s: i32,
    /// Its other settings, as they came: type, number and value.
    others: Vec<(u8, i16, Vec<u8>)>,
}

/// A table as the server describes it.
#[derive(Clone, Debug, Default)]
pub struct DescribedTable {
    pub namespace: String,
    pub name: String,
    pub families: Vec<DescribedFamily>,
}

/// What the families of a table are to be: versions, and seconds to live.
pub fn family_settings(family: &CellFamily) -> (i32, i32) {
    let versions = i32::try_from(family.versions).unwrap_or(i32::MAX);
    let ttl_s = family.ttl.map_or(FOREVER_S, |ttl| {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        i32::try_from(seconds).unwrap_or(FOREVER_S)
    });
    (versions, ttl_s)
}

/// `ns:table` in its parts.
pub fn split_name(table: &str) -> (&str, &str) {
    table.split_once(':').unwrap_or(("default", table))
}

fn write_name(call: &mut ThriftWriter, table: &str) {
    let (namespace, name) = split_name(table);
    call.bytes(1, namespace.as_bytes());
    call.bytes(2, name.as_bytes());
    call.end();
}

/// A call whose first argument is a table's name.
fn of_table(method: &str, table: &str) -> ThriftWriter {
    let mut call = ThriftWriter::call(method);
    call.field(kind::STRUCT, 1);
    write_name(&mut call, table);
    call
}

pub fn server_type() -> Vec<u8> {
    ThriftWriter::call("getThriftServerType").finish()
}

pub fn table_exists(table: &str) -> Vec<u8> {
    of_table("tableExists", table).finish()
}

pub fn describe(table: &str) -> Vec<u8> {
    of_table("getTableDescriptor", table).finish()
}

pub fn describe_all() -> Vec<u8> {
    let mut call = ThriftWriter::call("getTableDescriptorsByPattern");
    call.bytes(1, b".*");
    call.bool(2, false);
    call.finish()
}

pub fn table_names() -> Vec<u8> {
    let mut call = ThriftWriter::call("getTableNamesByPattern");
    call.bytes(1, b".*");
    call.bool(2, false);
    call.finish()
}

pub fn create_table(table: &str, families: &[CellFamily]) -> Vec<u8> {
    let mut call = ThriftWriter::call("createTable");
    call.field(kind::STRUCT, 1);
    call.field(kind::STRUCT, 1);
    write_name(&mut call, table);
    call.list(2, kind::STRUCT, families.len());
    for family in families {
        write_family(&mut call, family);
    }
    call.end();
    call.finish()
}

pub fn add_family(table: &str, family: &CellFamily) -> Vec<u8> {
    let mut call = of_table("addColumnFamily", table);
    call.field(kind::STRUCT, 2);
    write_family(&mut call, family);
    call.finish()
}

fn write_family(call: &mut ThriftWriter, family: &CellFamily) {
    let (versions, ttl_s) = family_settings(family);
    call.bytes(1, family.name.as_bytes());
    call.i32(5, BLOOM_ROW);
    call.i32(8, FAST_DIFF);
    call.i32(10, versions);
    call.i32(13, ttl_s);
    call.end();
}

/// Gives a family other versions and another time to live; its other settings stay.
pub fn modify_family(table: &str, before: &DescribedFamily, family: &CellFamily) -> Vec<u8> {
    let (versions, ttl_s) = family_settings(family);
    let mut call = of_table("modifyColumnFamily", table);
    call.field(kind::STRUCT, 2);
    call.bytes(1, &before.name);
    call.i32(10, versions);
    call.i32(13, ttl_s);
    for (of, id, value) in &before.others {
        call.raw(*of, *id, value);
    }
    call.end();
    call.finish()
}

/// `TGet` and `TScan` have their columns under different numbers.
fn write_columns(call: &mut ThriftWriter, id: i16, read: &CellRead) {
    let count = |family: &Option<Vec<Box<[u8]>>>| family.as_ref().map_or(1, Vec::len);
    let columns = read.families.iter().map(|family| count(&family.qualifiers));
    call.list(id, kind::STRUCT, columns.sum());
    for family in &read.families {
        let name = family.name.as_bytes();
        match &family.qualifiers {
            None => {
                call.bytes(1, name);
                call.end();
            }
            Some(qualifiers) => {
                for qualifier in qualifiers {
                    call.bytes(1, name);
                    call.bytes(2, qualifier);
                    call.end();
                }
            }
        }
    }
}

fn versions(read: &CellRead) -> i32 {
    i32::try_from(read.versions).unwrap_or(i32::MAX)
}

pub fn get_multiple(table: &str, keys: &[Vec<u8>], read: &CellRead) -> Vec<u8> {
    let mut call = ThriftWriter::call("getMultiple");
    call.bytes(1, table.as_bytes());
    call.list(2, kind::STRUCT, keys.len());
    for key in keys {
        call.bytes(1, key);
        write_columns(&mut call, 2, read);
        call.i32(5, versions(read));
        call.end();
    }
    call.finish()
}

/// At most so many rows from a key on, and before another one; to the end where that is empty.
pub fn scan(table: &str, from: &[u8], to: &[u8], rows: usize, read: &CellRead) -> Vec<u8> {
    let rows = i32::try_from(rows).unwrap_or(i32::MAX);
    let mut call = ThriftWriter::call("getScannerResults");
    call.bytes(1, table.as_bytes());
    call.field(kind::STRUCT, 2);
    call.bytes(1, from);
    if !to.is_empty() {
        call.bytes(2, to);
    }
    write_columns(&mut call, 3, read);
    call.i32(4, rows);
    call.i32(5, versions(read));
    call.i32(15, rows);
    call.end();
    call.i32(3, rows);
    call.finish()
}

/// The fields of a `TPut`, but for its end.
fn write_put(call: &mut ThriftWriter, row: &CellMutation) {
    call.bytes(1, &row.key);
    call.list(2, kind::STRUCT, row.cells.len());
    for cell in &row.cells {
        call.bytes(1, cell.family.as_bytes());
        call.bytes(2, &cell.qualifier);
        call.bytes(3, &cell.value);
        call.i64(4, cell.time_ms);
        call.end();
    }
    call.end();
}

/// The fields of a `TDelete`, and its end.
fn write_delete(call: &mut ThriftWriter, row: &CellMutation) {
    call.bytes(1, &row.key);
    call.list(2, kind::STRUCT, row.deleted.len());
    for (family, time_ms) in &row.deleted {
        call.bytes(1, family.as_bytes());
        call.i64(3, *time_ms);
        call.end();
    }
    call.i32(4, DELETE_FAMILY);
    call.end();
}

/// A `TRowMutations`, and its end.
fn write_mutations(call: &mut ThriftWriter, row: &CellMutation) {
    call.bytes(1, &row.key);
    let parts = [!row.cells.is_empty(), !row.deleted.is_empty()];
    call.list(
        2,
        kind::STRUCT,
        parts.iter().filter(|there| **there).count(),
    );
    if !row.cells.is_empty() {
        call.field(kind::STRUCT, 1);
        write_put(call, row);
        call.end();
    }
    if !row.deleted.is_empty() {
        call.field(kind::STRUCT, 2);
        write_delete(call, row);
        call.end();
    }
    call.end();
}

pub fn mutate_row(table: &str, row: &CellMutation) -> Vec<u8> {
    let mut call = ThriftWriter::call("mutateRow");
    call.bytes(1, table.as_bytes());
    call.field(kind::STRUCT, 2);
    write_mutations(&mut call, row);
    call.finish()
}

pub fn check_and_mutate(table: &str, guard: &CellGuard, row: &CellMutation) -> Vec<u8> {
    let mut call = ThriftWriter::call("checkAndMutate");
    call.bytes(1, table.as_bytes());
    call.bytes(2, &row.key);
    call.bytes(3, guard.family.as_bytes());
    call.bytes(4, &guard.qualifier);
    call.i32(5, EQUAL);
    // HBase takes an empty value for a cell that does not exist; the server fails without one.
    call.bytes(6, guard.value.as_deref().unwrap_or_default());
    call.field(kind::STRUCT, 7);
    write_mutations(&mut call, row);
    call.finish()
}

/// Puts the cells of rows.
pub fn put_multiple(table: &str, rows: &[&CellMutation]) -> Vec<u8> {
    let mut call = ThriftWriter::call("putMultiple");
    call.bytes(1, table.as_bytes());
    call.list(2, kind::STRUCT, rows.len());
    rows.iter().for_each(|row| write_put(&mut call, row));
    call.finish()
}

/// Makes the deletions of rows.
pub fn delete_multiple(table: &str, rows: &[&CellMutation]) -> Vec<u8> {
    let mut call = ThriftWriter::call("deleteMultiple");
    call.bytes(1, table.as_bytes());
    call.list(2, kind::STRUCT, rows.len());
    rows.iter().for_each(|row| write_delete(&mut call, row));
    call.finish()
}

/// An answer without a value.
///
/// # Errors
/// What the other side says.
pub fn read_nothing(message: &[u8]) -> Result<(), ThriftFault> {
    ThriftReader::answer(message, |reader, of| reader.skip(of)).map(drop)
}

/// # Errors
/// What the other side says.
pub fn read_bool(message: &[u8]) -> Result<bool, ThriftFault> {
    let answer = ThriftReader::answer(message, |reader, of| match of {
        kind::BOOL => Some(reader.bool()),
        _ => None,
    });
    answer?.flatten().ok_or(ThriftFault::Strange)
}

/// # Errors
/// What the other side says.
pub fn read_i32(message: &[u8]) -> Result<i32, ThriftFault> {
    let answer = ThriftReader::answer(message, |reader, of| match of {
        kind::I32 => Some(reader.i32()),
        _ => None,
    });
    answer?.flatten().ok_or(ThriftFault::Strange)
}

/// The number of values of a list.
///
/// # Errors
/// What the other side says.
pub fn read_count(message: &[u8]) -> Result<usize, ThriftFault> {
    let values = read_list(message, kind::STRUCT, |reader| reader.skip(kind::STRUCT))?;
    Ok(values.len())
}

fn read_list<'a, T>(
    message: &'a [u8],
    wanted: u8,
    mut read: impl FnMut(&mut ThriftReader<'a>) -> T,
) -> Result<Vec<T>, ThriftFault> {
    let answer = ThriftReader::answer(message, |reader, of| {
        if of != kind::LIST {
            return None;
        }
        let (of, count) = reader.list();
        (of == wanted || count == 0).then(|| (0..count).map(|_| read(reader)).collect())
    });
    answer?.flatten().ok_or(ThriftFault::Strange)
}

/// Rows of cells of the families that were asked for.
///
/// # Errors
/// What the other side says.
pub fn read_rows(message: &[u8], read: &CellRead) -> Result<Vec<CellRow>, ThriftFault> {
    let names: Vec<Arc<str>> = read
        .families
        .iter()
        .map(|family| Arc::clone(&family.name))
        .collect();
    read_list(message, kind::STRUCT, |reader| {
        let mut row = CellRow::default();
        while let Some((of, id)) = reader.field() {
            match (of, id) {
                (kind::BYTES, 1) => row.key = reader.take_bytes().to_vec(),
                (kind::LIST, 2) => {
                    let (of, count) = reader.list();
                    for _ in 0..count {
                        match of {
                            kind::STRUCT => row.cells.extend(read_cell(reader, &names)),
                            _ => reader.skip(of),
                        }
                    }
                }
                _ => reader.skip(of),
            }
        }
        row
    })
}

fn read_cell(reader: &mut ThriftReader<'_>, names: &[Arc<str>]) -> Option<CellBytes> {
    let (mut family, mut qualifier, mut value) = (None, &[][..], &[][..]);
    let mut time_ms = 0;
    while let Some((of, id)) = reader.field() {
        match (of, id) {
            (kind::BYTES, 1) => {
                let name = reader.take_bytes();
                family = names.iter().find(|known| known.as_bytes() == name);
            }
            (kind::BYTES, 2) => qualifier = reader.take_bytes(),
            (kind::BYTES, 3) => value = reader.take_bytes(),
            (kind::I64, 4) => time_ms = reader.i64(),
            _ => reader.skip(of),
        }
    }
    Some(CellBytes {
        family: Arc::clone(family?),
        qualifier: qualifier.to_vec(),
        time_ms,
        value: value.to_vec(),
    })
}

/// # Errors
/// What the other side says.
pub fn read_described(message: &[u8]) -> Result<DescribedTable, ThriftFault> {
    let answer = ThriftReader::answer(message, |reader, of| match of {
        kind::STRUCT => Some(read_table(reader)),
        _ => None,
    });
    answer?.flatten().ok_or(ThriftFault::Strange)
}

/// # Errors
/// What the other side says.
pub fn read_all_described(message: &[u8]) -> Result<Vec<DescribedTable>, ThriftFault> {
    read_list(message, kind::STRUCT, read_table)
}

fn read_table(reader: &mut ThriftReader<'_>) -> DescribedTable {
    let mut table = DescribedTable::default();
    while let Some((of, id)) = reader.field() {
        match (of, id) {
            (kind::STRUCT, 1) => {
                while let Some((of, id)) = reader.field() {
                    match (of, id) {
                        (kind::BYTES, 1) => table.namespace = reader.text(),
                        (kind::BYTES, 2) => table.name = reader.text(),
                        _ => reader.skip(of),
                    }
                }
            }
            (kind::LIST, 2) => {
                let (of, count) = reader.list();
                for _ in 0..count {
                    match of {
                        kind::STRUCT => table.families.push(read_family(reader)),
                        _ => reader.skip(of),
                    }
                }
            }
            _ => reader.skip(of),
        }
    }
    table
}

fn read_family(reader: &mut ThriftReader<'_>) -> DescribedFamily {
    let mut family = DescribedFamily::default();
    while let Some((of, id)) = reader.field() {
        match (of, id) {
            (kind::BYTES, 1) => family.name = reader.take_bytes().to_vec(),
            (kind::I32, 10) => family.versions = reader.i32(),
            (kind::I32, 13) => family.ttl_s = reader.i32(),
            _ => family.others.push((of, id, reader.raw(of).to_vec())),
        }
    }
    family
}

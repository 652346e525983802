//! Reading rows as columns.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, BinaryBuilder, BooleanBuilder, Float64Builder, Int64Builder, RecordBatch,
    RecordBatchOptions, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{Schema, SchemaRef};
use busbar_event::Error;
use hashbrown::HashMap;
use serde_json::Map;

use super::Wide;
use super::cell::{CellValue, StoredCell};
use super::keeper::Fragments;
use super::key::KeyRange;
use super::layout::{WideColumn, WideLayout};
use super::read::{Paused, TakeCells, WantedCells, WantedFamily, damaged};
use super::write::Typed;
use crate::columns::{
    ColumnType, EXACT_INT_MAX, arrow_error, check_lookup, column_type_error, rows_without_columns,
    type_of,
};
use crate::limits::{SCAN_BYTES_MAX, SCAN_ROWS_MAX};
use crate::table::{Found, Lookup, Rows, Scan};

/// Reads the newest version of the cells that the projected columns hold.
pub(super) fn rows(table: &Wide, scan: &Scan) -> Result<Rows, Error> {
    let layout = table.layout();
    let all = || (0..layout.schema.fields().len()).collect();
    let columns: Vec<usize> = scan.projection.clone().unwrap_or_else(all);
    let projected = Arc::new(layout.schema.project(&columns).map_err(arrow_error)?);
    let Some(key) = &layout.key else {
        return Ok(Rows::new(projected, std::iter::empty()));
    };
    let range = key.range(&layout.key_places, &scan.conditions);
    let is_limited = scan.conditions.is_empty();
    let wanted = wanted(&layout, &columns);
    let reading = RowScan {
        paused: Some(Paused::new(open(table, range, &layout, &wanted)?)),
        wanted,
        columns,
        schema: Arc::clone(&projected),
        now: table.keeper.clock().now_micros(),
        left: scan.limit.filter(|_| is_limited).unwrap_or(usize::MAX),
        layout,
    };
    Ok(Rows::new(projected, reading))
}

/// Finds rows by their keys, all as they were at one moment.
pub(super) fn find(table: &Wide, lookup: &Lookup<'_>) -> Result<Found, Error> {
    let layout = table.layout();
    check_lookup(&table.name, &layout.schema, &layout.key_places, lookup.keys)?;
    let form = layout.key.as_ref().ok_or_else(damaged)?;
    let schema = layout.schema.project(lookup.columns).map_err(arrow_error)?;
    let wanted = wanted(&layout, lookup.columns);
    let mut cells = RowOfCells::new(&layout, lookup.columns);
    let mut builders = builders(&schema);
    let key = lookup.keys.iter().zip(form.types());
    let key: Vec<Typed<'_>> = key.map(|(array, kind)| Typed::new(*kind, array)).collect();
    let count = lookup.keys[0].len();
    let is_whole = |at: usize| lookup.keys.iter().all(|column| column.is_valid(at));
    let values =
        |at: usize| -> Vec<CellValue> { key.iter().map(|column| column.value(at)).collect() };
    let mut picture = table.keeper.picture(&table.name, count)?;
    picture.expect(|| {
        let whole = (0..count).filter(|at| is_whole(*at));
        let keys = whole.map(|at| {
            let mut key = Vec::new();
            form.encode(&values(at), &mut key).map(|()| key)
        });
        keys.collect()
    })?;
    let now = table.keeper.clock().now_micros();
    let (mut found, mut rows) = (Vec::with_capacity(count), 0_u32);
    let mut row = Vec::new();
    for at in 0..count {
        if !is_whole(at) {
            found.push(None);
            continue;
        }
        let values = values(at);
        let paused = Paused::new(picture.row(form.row(&values)?, &layout, &wanted)?);
        cells.begin();
        if paused
            .resume(&layout, &wanted, now)
            .row(&mut row, &mut cells)?
        {
            cells.append(&values, &mut builders);
            found.push(Some(rows));
            rows += 1;
        } else {
            found.push(None);
        }
    }
    let arrays = builders.into_iter().map(CellBuilder::finish).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows as usize));
    let rows = RecordBatch::try_new_with_options(Arc::new(schema), arrays, &options);
    Ok(Found {
        rows: rows.map_err(arrow_error)?,
        places: found.into(),
    })
}

/// Rows that are there.
pub(super) fn count(table: &Wide) -> Result<u64, Error> {
    struct NoCells;
    impl TakeCells for NoCells {
        fn take(&mut self, _: usize, _: Option<usize>, _: &[u8], _: i64, _: StoredCell<'_>) {}
    }
    let layout = table.layout();
    let wanted = wanted(&layout, &[]);
    let now = table.keeper.clock().now_micros();
    let paused = Paused::new(open(table, KeyRange::default(), &layout, &wanted)?);
    let mut reader = paused.resume(&layout, &wanted, now);
    let (mut rows, mut key) = (0, Vec::new());
    while reader.row(&mut key, &mut NoCells)? {
        rows += 1;
    }
    Ok(rows)
}

/// Whether columns of whole numbers can become columns of floats.
///
/// # Errors
/// `table.column-type` where a cell holds a number that no float holds.
pub(super) fn check_widened(
    table: &Wide,
    layout: &Arc<WideLayout>,
    next: &Schema,
) -> Result<(), Error> {
    /// Slots of the columns that hold a number that is too large.
    struct TooLarge(BTreeSet<usize>);
    impl TakeCells for TooLarge {
        fn take(&mut self, _: usize, slot: Option<usize>, _: &[u8], _: i64, value: StoredCell<'_>) {
            if let (Some(slot), Some(int)) = (slot, value.int())
                && int.unsigned_abs() > EXACT_INT_MAX
            {
                self.0.insert(slot);
            }
        }
    }
    let becomes_float = |place: &usize| {
        let field = layout.schema.field(*place);
        let after = next.column_with_name(field.name());
        type_of(field) == ColumnType::Int
            && after.is_some_and(|(_, after)| type_of(after) == ColumnType::Float)
    };
    let columns: Vec<usize> = (0..layout.base().fields().len())
        .filter(becomes_float)
        .collect();
    if columns.is_empty() {
        return Ok(());
    }
    let mut wanted = wanted(layout, &columns);
    wanted.versions = u32::MAX;
    let now = table.keeper.clock().now_micros();
    let paused = Paused::new(open(table, KeyRange::default(), layout, &wanted)?);
    let mut reader = paused.resume(layout, &wanted, now);
    let (mut key, mut found) = (Vec::new(), TooLarge(BTreeSet::new()));
    while reader.row(&mut key, &mut found)? {}
    match found.0.first() {
        None => Ok(()),
        Some(slot) => {
            let column = layout.schema.field(columns[*slot]).name();
            let (kept, given) = (ColumnType::Int, ColumnType::Float);
            Err(column_type_error(&table.name, column, kept, given))
        }
    }
}

/// The fragments of the rows in a range.
pub(super) fn open(
    table: &Wide,
    range: KeyRange,
    layout: &Arc<WideLayout>,
    wanted: &WantedCells,
) -> Result<Fragments, Error> {
    // A range is several reads: which rows in memory are those of the picture has to be known.
    let picture = table.keeper.picture(&table.name, 2)?;
    picture.range(range, layout, wanted)
}

/// The newest version of the cells that these columns hold.
pub(super) fn wanted(layout: &WideLayout, columns: &[usize]) -> WantedCells {
    let mut families: Vec<WantedFamily> = vec![WantedFamily::None; layout.families.len()];
    for (slot, column) in columns.iter().enumerate() {
        match &layout.columns[*column] {
            WideColumn::Key(_) => {}
            WideColumn::Free { family } => families[*family] = WantedFamily::All,
            WideColumn::Cell { family, qualifier } => {
                let qualifier: Box<[u8]> = qualifier.as_bytes().into();
                match &mut families[*family] {
                    WantedFamily::All => {}
                    WantedFamily::Some(known) => {
                        known.insert(qualifier, slot);
                    }
                    none => *none = WantedFamily::Some(HashMap::from([(qualifier, slot)])),
                }
            }
        }
    }
    WantedCells {
        families,
        versions: 1,
        until: i64::MIN,
    }
}

/// A scan that goes on.
struct RowScan {
    paused: Option<Paused>,
    layout: Arc<WideLayout>,
    wanted: WantedCells,
    /// Places in the table's schema of the projected columns.
    columns: Vec<usize>,
    schema: SchemaRef,
    now: i64,
    /// Rows that may still be given.
    left: usize,
}

impl Iterator for RowScan {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let paused = self.paused.take()?;
        self.batch(paused).transpose()
    }
}

impl RowScan {
    fn batch(&mut self, paused: Paused) -> Result<Option<RecordBatch>, Error> {
        let mut reader = paused.resume(&self.layout, &self.wanted, self.now);
        let mut row = RowOfCells::new(&self.layout, &self.columns);
        let mut builders = builders(&self.schema);
        let (mut key, mut rows, mut bytes) = (Vec::new(), 0, 0);
        let mut is_over = false;
        while rows < SCAN_ROWS_MAX.min(self.left) && bytes < SCAN_BYTES_MAX {
            row.begin();
            if !reader.row(&mut key, &mut row)? {
                is_over = true;
                break;
            }
            bytes += key.len() + row.bytes.len();
            let form = self.layout.key.as_ref();
            let key = form
                .and_then(|form| form.decode(&key))
                .ok_or_else(damaged)?;
            row.append(&key, &mut builders);
            rows += 1;
        }
        self.left -= rows;
        if !is_over && self.left > 0 {
            self.paused = Some(reader.pause());
        }
        if rows == 0 {
            return Ok(None);
        }
        if builders.is_empty() {
            return rows_without_columns(&self.schema, rows).map(Some);
        }
        let arrays = builders.into_iter().map(CellBuilder::finish).collect();
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays);
        batch.map(Some).map_err(arrow_error)
    }
}

/// The cells of one row, by the projected columns.
pub(super) struct RowOfCells<'a> {
    layout: &'a WideLayout,
    /// What each projected column shows.
    shows: Vec<Shows>,
    /// The slot of each column of the schema that is projected, once more for families that are read whole.
    slots: HashMap<usize, usize>,
    /// The slot of the JSON column of each family.
    free: Vec<Option<usize>>,
    found: Vec<Option<(u8, usize, usize)>>,
    objects: Vec<Map<String, serde_json::Value>>,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Shows {
    Key(usize),
    Cell,
    /// The object with this number.
    Object(usize),
}

impl<'a> RowOfCells<'a> {
    pub fn new(layout: &'a WideLayout, columns: &[usize]) -> Self {
        let mut free = vec![None; layout.families.len()];
        let mut objects = 0;
        let shows = columns.iter().map(|column| match &layout.columns[*column] {
            WideColumn::Key(place) => Shows::Key(*place),
            WideColumn::Cell { .. } => Shows::Cell,
            WideColumn::Free { family } => {
                free[*family] = Some(objects);
                objects += 1;
                Shows::Object(objects - 1)
            }
        });
        let shows: Vec<Shows> = shows.collect();
        Self {
            layout,
            slots: columns.iter().enumerate().map(|(s, c)| (*c, s)).collect(),
            found: vec![None; shows.len()],
            objects: vec![Map::new(); objects],
            bytes: Vec::new(),
            free,
            shows,
        }
    }

    pub fn begin(&mut self) {
        self.bytes.clear();
        self.found.fill(None);
        self.objects.iter_mut().for_each(Map::clear);
    }

    pub fn append(&self, key: &[CellValue], builders: &mut [CellBuilder]) {
        for (slot, builder) in builders.iter_mut().enumerate() {
            match self.shows[slot] {
                Shows::Key(place) => builder.value(&key[place]),
                Shows::Cell => {
                    let stored = self.found[slot].map(|(tag, from, to)| StoredCell {
                        tag,
                        bytes: &self.bytes[from..to],
                    });
                    builder.stored(stored);
                }
                Shows::Object(object) if self.objects[object].is_empty() => builder.stored(None),
                Shows::Object(object) => {
                    let text = serde_json::Value::Object(self.objects[object].clone());
                    builder.value(&CellValue::Json(text.to_string()));
                }
            }
        }
    }
}

impl TakeCells for RowOfCells<'_> {
    fn take(
        &mut self,
        family: usize,
        place: Option<usize>,
        qualifier: &[u8],
        _: i64,
        value: StoredCell<'_>,
    ) {
        let slot = match place {
            Some(slot) => Some(slot),
            None => match self.layout.families[family].known.get(qualifier) {
                Some(column) => match self.slots.get(column) {
                    Some(slot) => Some(*slot),
                    None => return,
                },
                None => None,
            },
        };
        match slot {
            Some(slot) => {
                let from = self.bytes.len();
                self.bytes.extend_from_slice(value.bytes);
                self.found[slot] = Some((value.tag, from, self.bytes.len()));
            }
            None => {
                if let Some(object) = self.free[family]
                    && let Some(value) = value.value()
                {
                    let qualifier = String::from_utf8_lossy(qualifier).into_owned();
                    self.objects[object].insert(qualifier, value.to_json());
                }
            }
        }
    }
}

pub(super) fn builders(schema: &Schema) -> Vec<CellBuilder> {
    let fields = schema.fields().iter();
    fields
        .map(|field| CellBuilder::new(type_of(field)))
        .collect()
}

/// Builds a column.
pub(super) enum CellBuilder {
    Bool(BooleanBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Text(StringBuilder),
    Time(TimestampMicrosecondBuilder),
    Binary(BinaryBuilder),
}

impl CellBuilder {
    fn new(kind: ColumnType) -> Self {
        match kind {
            ColumnType::Bool => Self::Bool(BooleanBuilder::new()),
            ColumnType::Int => Self::Int(Int64Builder::new()),
            ColumnType::Float => Self::Float(Float64Builder::new()),
            ColumnType::Text | ColumnType::Json => Self::Text(StringBuilder::new()),
            ColumnType::Time => Self::Time(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            ColumnType::Binary => Self::Binary(BinaryBuilder::new()),
        }
    }

    /// A cell; null if there is none, or one of another type than the column's.
    fn stored(&mut self, stored: Option<StoredCell<'_>>) {
        match self {
            Self::Bool(builder) => builder.append_option(stored.and_then(StoredCell::bool)),
            Self::Int(builder) => builder.append_option(stored.and_then(StoredCell::int)),
            Self::Float(builder) => builder.append_option(stored.and_then(StoredCell::float)),
            Self::Text(builder) => builder.append_option(stored.and_then(StoredCell::text)),
            Self::Time(builder) => builder.append_option(stored.and_then(StoredCell::time)),
            Self::Binary(builder) => builder.append_option(stored.and_then(StoredCell::binary)),
        }
    }

    fn value(&mut self, value: &CellValue) {
        match (self, value) {
            (Self::Bool(builder), CellValue::Bool(value)) => builder.append_value(*value),
            (Self::Int(builder), CellValue::Int(value)) => builder.append_value(*value),
            (Self::Float(builder), CellValue::Float(value)) => builder.append_value(*value),
            (Self::Text(builder), CellValue::Text(value) | CellValue::Json(value)) => {
                builder.append_value(value);
            }
            (Self::Time(builder), CellValue::Time(value)) => builder.append_value(*value),
            (Self::Binary(builder), CellValue::Binary(value)) => builder.append_value(value),
            (builder, _) => builder.stored(None),
        }
    }

    pub fn finish(self) -> ArrayRef {
        match self {
            Self::Bool(mut builder) => Arc::new(builder.finish()),
            Self::Int(mut builder) => Arc::new(builder.finish()),
            Self::Float(mut builder) => Arc::new(builder.finish()),
            Self::Text(mut builder) => Arc::new(builder.finish()),
            Self::Time(mut builder) => Arc::new(builder.finish()),
            Self::Binary(mut builder) => Arc::new(builder.finish()),
        }
    }
}

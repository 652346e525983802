//! What a table's cells mean: its key, families and columns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::datatypes::{Field, Schema, SchemaRef};
use busbar_event::{Class, Error};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::key::KeyLayout;
use crate::columns::{ColumnType, type_of};
use crate::limits::WIDE_FAMILIES_EVER_MAX;
use crate::spec::WideOptions;

/// What is kept beside the cells, so that the table means the same when it is opened again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredLayout {
    /// Names and types of the key's columns. Empty until the types are known.
    pub key: Vec<(String, ColumnType)>,
    /// Number of leading columns that the salt is a hash of.
    pub salted: usize,
    /// Families by their number in keys, including those that the table's file names no longer.
    pub families: Vec<String>,
    /// The family of columns that name none.
    pub first: String,
    /// Names and types of all columns, those of the key included.
    pub columns: Vec<(String, ColumnType)>,
}

/// How many layouts were made.
static MADE: AtomicU64 = AtomicU64::new(0);

/// The same, ready for use.
#[derive(Debug)]
pub(super) struct WideLayout {
    /// Another one for each layout of this process.
    pub number: u64,
    pub stored: StoredLayout,
    /// The columns in the order in which they were declared or came, then one JSON column for each free family.
    pub schema: SchemaRef,
    /// None until the types of the key's columns are known.
    pub key: Option<KeyLayout>,
    pub families: Vec<FamilyLayout>,
    /// Place in [`WideLayout::families`] by the number in keys.
    by_number: [Option<usize>; WIDE_FAMILIES_EVER_MAX],
    /// What each column of the schema holds.
    pub columns: Vec<WideColumn>,
    /// Places in the schema of the key's columns; fewer than those of the key until their types are known.
    pub key_places: Vec<usize>,
    /// The column that stamps cells.
    pub time: Option<usize>,
}

/// A family, with its number in keys.
#[derive(Clone, Debug)]
pub(super) struct FamilyLayout {
    pub name: String,
    pub number: u8,
    pub versions: u32,
    pub ttl_us: Option<i64>,
    /// The place in the schema of the JSON column that holds the cells without a column of their own.
    pub free: Option<usize>,
    /// The place in the schema of the column that holds a qualifier.
    pub known: HashMap<Box<[u8]>, usize>,
}

/// What a column of the schema holds.
#[derive(Clone, Debug)]
pub(super) enum WideColumn {
    /// The values of the key with this place in it.
    Key(usize),
    /// The cells of one qualifier.
    Cell { family: usize, qualifier: Box<str> },
    /// The cells of a family that have no column of their own, as an object.
    Free { family: usize },
}

impl WideLayout {
    pub fn new(name: &str, stored: StoredLayout, options: &WideOptions) -> Result<Self, Error> {
        let mut families: Vec<FamilyLayout> = Vec::with_capacity(options.families.len());
        let mut by_number = [None; WIDE_FAMILIES_EVER_MAX];
        let mut stored = stored;
        for (place, family) in options.families.iter().enumerate() {
            let known = stored.families.iter().position(|old| *old == family.name);
            let number = match known {
                Some(number) => number,
                None => {
                    stored.families.push(family.name.clone());
                    stored.families.len() - 1
                }
            };
            if number >= WIDE_FAMILIES_EVER_MAX {
                return Err(Error::new(Class::Configuration, "table.wide-families-ever")
                    .with("table", name)
                    .with("most", WIDE_FAMILIES_EVER_MAX));
            }
            by_number[number] = Some(place);
            families.push(FamilyLayout {
                name: family.name.clone(),
                number: number as u8,
                versions: family.versions,
                ttl_us: family.ttl_us,
                free: None,
                known: HashMap::new(),
            });
        }
        let of = |(name, kind): &(String, ColumnType)| kind.field(name);
        let mut fields: Vec<Field> = stored.columns.iter().map(of).collect();
        let mut columns = Vec::with_capacity(fields.len());
        for (place, (column, _)) in stored.columns.iter().enumerate() {
            if let Some(key) = stored.key.iter().position(|(key, _)| key == column) {
                columns.push(WideColumn::Key(key));
                continue;
            }
            let (family, qualifier) = cell_of(&families, column);
            let qualifier: Box<str> = qualifier.into();
            let name = qualifier.as_bytes().into();
            families[family].known.insert(name, place);
            columns.push(WideColumn::Cell { family, qualifier });
        }
        for (place, family) in options.families.iter().enumerate() {
            if family.free {
                families[place].free = Some(fields.len());
                fields.push(ColumnType::Json.field(&family.name));
                columns.push(WideColumn::Free { family: place });
            }
        }
        let types: Vec<ColumnType> = stored.key.iter().map(|(_, kind)| *kind).collect();
        let key = (!types.is_empty()).then(|| KeyLayout::new(types, stored.salted));
        let place = |name: &String| stored.columns.iter().position(|(known, _)| known == name);
        let time = options.time.as_ref().and_then(place);
        let key_places = stored.key.iter().filter_map(|(name, _)| place(name));
        let key_places = key_places.collect();
        Ok(Self {
            number: MADE.fetch_add(1, Ordering::Relaxed),
            schema: Arc::new(Schema::new(fields)),
            stored,
            key,
            families,
            by_number,
            columns,
            key_places,
            time,
        })
    }

    /// The columns without those of free families: what grows with the rows that come.
    pub fn base(&self) -> SchemaRef {
        let count = self.stored.columns.len();
        let fields = self.schema.fields().iter().take(count).cloned();
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// What is kept when the base schema has become `base`.
    pub fn widened(&self, key: &[String], base: &Schema) -> StoredLayout {
        let mut stored = self.stored.clone();
        let of = |name: &String| {
            let field = base.column_with_name(name).map(|(_, field)| field);
            field.map(|field| (name.clone(), type_of(field)))
        };
        stored.key = key.iter().map_while(of).collect();
        if stored.key.len() < key.len() {
            stored.key.clear();
        }
        let columns = base.fields().iter();
        stored.columns = columns
            .map(|field| (field.name().clone(), type_of(field)))
            .collect();
        stored
    }

    /// The family with this number in keys; none for one that the table's file names no longer.
    pub fn family(&self, number: u8) -> Option<usize> {
        *self.by_number.get(usize::from(number))?
    }

    /// The family and qualifier of `family.qualifier`, or of a qualifier of the first family.
    pub fn cell<'a>(&self, column: &'a str) -> (usize, &'a str) {
        cell_of(&self.families, column)
    }

    /// The family of that name.
    pub fn family_named(&self, name: &str) -> Option<usize> {
        self.families.iter().position(|family| family.name == name)
    }

    /// How many versions are kept of what a column of the schema holds; of a key there is one for ever.
    pub fn versions(&self, column: usize) -> u32 {
        match self.columns.get(column) {
            Some(WideColumn::Cell { family, .. } | WideColumn::Free { family }) => {
                self.families[*family].versions
            }
            Some(WideColumn::Key(_)) | None => u32::MAX,
        }
    }

    /// The type of the column that holds a cell, where there is one.
    pub fn column_type(&self, family: usize, qualifier: &[u8]) -> Option<ColumnType> {
        let place = *self.families[family].known.get(qualifier)?;
        Some(type_of(self.schema.field(place)))
    }
}

fn cell_of<'a>(families: &[FamilyLayout], column: &'a str) -> (usize, &'a str) {
    let named = column.split_once('.').and_then(|(family, qualifier)| {
        let place = families.iter().position(|known| known.name == family)?;
        (!qualifier.is_empty()).then_some((place, qualifier))
    });
    named.unwrap_or((0, column))
}

#[cfg(test)]
impl WideLayout {
    /// That of a table with one family, which keeps one version.
    pub fn plain() -> Self {
        let family = crate::spec::FamilyOptions {
            name: "m".into(),
            versions: 1,
            ttl_us: None,
            free: false,
        };
        let options = WideOptions {
            families: vec![family],
            salted: 0,
            time: None,
            place: None,
        };
        Self::new("t", StoredLayout::default(), &options).unwrap()
    }
}

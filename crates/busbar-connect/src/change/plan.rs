//! Which columns of a flow are written to which columns of a table, and what each row asks for.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use busbar_event::{Class, Error, time};

use super::keys::{AlikeKey, KeyTexts};
use super::{Op, PreferredRow, Write, kept};

/// How a column's values fit a column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Each value is kept, or refused by the server because it is out of range.
    Whole,
    /// Some values would be rounded or cut without a word.
    Lossy,
    /// No value fits.
    Never,
}

/// A column of a table that is written to.
pub trait TargetColumn: Clone {
    fn name(&self) -> &str;
    /// Its type as it is written in SQL.
    fn shown(&self) -> &str;
    /// How values of an Arrow type fit it.
    fn fit(&self, from: &DataType) -> Fit;
    /// The column as it is written to, under the flow's name for it.
    fn taken(&self, name: &str, lossy: bool) -> Self;
    /// How the database tells its values apart, where texts are written to it.
    fn texts(&self) -> KeyTexts;
}

/// How a database writes SQL.
pub struct Dialect {
    /// A name as an identifier.
    pub identifier: fn(&str) -> String,
    /// The type of a column that is made for values of an Arrow type, in the key or not.
    pub made_for: fn(&DataType, bool) -> String,
    /// Whether two names are those of one column.
    pub same: fn(&str, &str) -> bool,
}

/// Columns that are written.
pub struct WriteColumns<T> {
    /// The columns, with their place in the rows.
    pub columns: Vec<(usize, T)>,
    /// Places of the key among `columns`.
    pub key: Vec<usize>,
    /// How the database tells the values of the columns of the key apart, as they are sent.
    pub texts: Vec<KeyTexts>,
    /// The place among `columns` of the one that grows with each change of a row.
    pub newer: Option<usize>,
    /// Which rows win, by which column among `columns`, and the place in the rows of what it was before.
    pub prefer: Option<PreferColumns>,
    change: Option<usize>,
    unchanged: Option<usize>,
}

/// By what rows are compared where one side wins.
#[derive(Clone, Copy)]
pub struct PreferColumns {
    pub row: PreferredRow,
    pub version: usize,
    pub was: usize,
}

/// Refuses values that do not fit a column.
fn check_fit<T: TargetColumn>(field: &Field, target: &T, lossy: bool) -> Result<(), Error> {
    let code = match target.fit(field.data_type()) {
        Fit::Never => "connect.type-never",
        Fit::Lossy if !lossy => "connect.type-lossy",
        _ => return Ok(()),
    };
    Err(Error::new(Class::Configuration, code)
        .with("column", field.name())
        .with("from", field.data_type())
        .with("to", target.shown()))
}

/// How a database tells values of a type apart in a column that tells its texts apart so.
fn key_texts(from: &DataType, texts: KeyTexts, lossy: bool) -> KeyTexts {
    use DataType as D;
    use KeyTexts as K;
    let is_text = |kind: &DataType| matches!(kind, D::Utf8 | D::LargeUtf8 | D::Utf8View);
    match (texts, from) {
        (K::Number | K::Time | K::Uuid | K::Unknown, D::Dictionary(_, values)) => {
            key_texts(values, texts, lossy)
        }
        // What is rounded or cut may become what another one is.
        (K::Number | K::Time, from) if lossy && !from.is_integer() => K::Unknown,
        // Of its own type each value is sent in one way only, but for zero and minus zero.
        (K::Number, from) if from.is_floating() || is_text(from) => K::Number,
        (K::Number | K::Time | K::Uuid | K::Unknown, from) if !is_text(from) => K::Exact,
        _ => texts,
    }
}

/// What the rows of a delivery ask for.
pub struct RowRequests {
    change: Option<ArrayRef>,
    unchanged: Option<ArrayRef>,
    /// The values of the column that grows with each change of a row, as whole numbers in the same order.
    newer: Option<ArrayRef>,
    prefer: Option<(PreferredRow, ArrayRef)>,
    mode: Op,
}

/// A row that is refused, and why.
pub type Refused = (usize, Error);

/// Rows that are tried together, until those at fault are found by halving.
pub struct Halving<'a, R> {
    open: Vec<&'a [R]>,
}

impl Dialect {
    /// The columns of a table that is made for a flow, as they stand in its statement.
    pub fn definitions(&self, options: &Write, schema: &Schema) -> String {
        let special = |name: &String| {
            let was = options.prefer.as_ref().map(|prefer| &prefer.was);
            [options.change.as_ref(), options.unchanged.as_ref(), was].contains(&Some(name))
        };
        let fields = schema.fields().iter();
        let mut columns: Vec<_> = fields
            .filter(|field| !special(field.name()))
            .map(|field| self.definition(options, field, options.key.contains(field.name())))
            .collect();
        if !options.key.is_empty() {
            let key: Vec<_> = options
                .key
                .iter()
                .map(|key| (self.identifier)(key))
                .collect();
            columns.push(format!("PRIMARY KEY ({})", key.join(", ")));
        }
        columns.join(", ")
    }

    fn definition(&self, options: &Write, field: &Field, key: bool) -> String {
        let name = (self.identifier)(field.name());
        match options.types.get(field.name()) {
            Some(declared) => format!("{name} {declared}"),
            None => format!("{name} {}", (self.made_for)(field.data_type(), key)),
        }
    }
}

impl<T: TargetColumn> WriteColumns<T> {
    /// Compares the columns of a flow with those of a table, which is named as it is written in SQL.
    ///
    /// # Errors
    /// *Configuration*: a column is missing here or there, or its values do not fit.
    pub fn plan(
        dialect: &Dialect,
        options: &Write,
        schema: &Schema,
        table: &str,
        found: &[T],
    ) -> Result<WriteColumns<T>, Error> {
        let flow_column = |option: &'static str, column: &str| {
            let there = schema.fields().iter().map(|field| field.name().as_str());
            Error::new(Class::Configuration, "connect.flow-column")
                .with("option", option)
                .with("column", column)
                .with("there", names(there))
        };
        let place = |column: &Option<String>, option: &'static str| match column {
            None => Ok(None),
            Some(column) => schema
                .index_of(column)
                .map(Some)
                .map_err(|_| flow_column(option, column)),
        };
        let change = place(&options.change, "change")?;
        let unchanged = place(&options.unchanged, "unchanged")?;
        let was = options.prefer.as_ref().map(|prefer| prefer.was.clone());
        let was = place(&was, "was")?;
        let mut declared = options.types.keys();
        if let Some(column) = declared.find(|column| schema.index_of(column).is_err()) {
            return Err(flow_column("types", column));
        }
        let mut columns: Vec<(usize, T)> = Vec::new();
        for (at, field) in schema.fields().iter().enumerate() {
            if [change, unchanged, was].contains(&Some(at)) {
                continue;
            }
            let mut targets = found.iter();
            let Some(target) = targets.find(|target| (dialect.same)(target.name(), field.name()))
            else {
                let statement = dialect.definition(options, field, false);
                return Err(Error::new(Class::Configuration, "connect.table-column")
                    .with("column", field.name())
                    .with("table", table)
                    .with("there", names(found.iter().map(T::name)))
                    .with(
                        "statement",
                        format!("ALTER TABLE {table} ADD COLUMN {statement}"),
                    ));
            };
            check_fit(field, target, options.lossy)?;
            columns.push((at, target.taken(field.name(), options.lossy)));
        }
        let key = options.key.iter().map(|key| {
            let place = columns.iter().position(|(_, target)| target.name() == key);
            place.ok_or_else(|| flow_column("key", key))
        });
        let newer = options.newer.iter().map(|newer| {
            let place = columns
                .iter()
                .position(|(_, target)| target.name() == newer);
            place.ok_or_else(|| flow_column("newer", newer))
        });
        let prefer = match (&options.prefer, was) {
            (Some(prefer), Some(was)) => {
                let version = columns
                    .iter()
                    .position(|(_, target)| target.name() == prefer.version)
                    .ok_or_else(|| flow_column("version", &prefer.version))?;
                check_fit(schema.field(was), &columns[version].1, false)?;
                Some(PreferColumns {
                    row: prefer.row,
                    version,
                    was,
                })
            }
            _ => None,
        };
        let key = key.collect::<Result<Vec<usize>, _>>()?;
        let texts = key.iter().map(|at| {
            let (place, target) = &columns[*at];
            key_texts(
                schema.field(*place).data_type(),
                target.texts(),
                options.lossy,
            )
        });
        Ok(WriteColumns {
            prefer,
            texts: texts.collect(),
            key,
            newer: newer.collect::<Result<Vec<_>, _>>()?.pop(),
            columns,
            change,
            unchanged,
        })
    }

    /// What a row's key may be to the database, of its values as they are sent; none where keys are told apart by their bytes.
    pub fn alike<'v>(&self, value: impl Fn(usize) -> &'v [u8]) -> Option<AlikeKey> {
        let key = self.texts.iter().zip(&self.key);
        let values = key.map(|(texts, at)| (*texts, value(*at)));
        let is_exact = |texts: &KeyTexts| *texts == KeyTexts::Exact;
        (!self.texts.iter().all(is_exact)).then(|| AlikeKey::of(values))
    }

    /// Whether rows of one key are written one by one, the second one compared with what the first one comes to.
    pub fn compares(&self, op: Op) -> bool {
        self.prefer.is_some_and(|prefer| prefer.row.compares(op))
    }

    /// Names of columns, as they are written in SQL, with commas between them.
    pub fn list(&self, dialect: &Dialect, which: impl Fn(usize) -> bool) -> String {
        let columns = self.columns.iter().enumerate().filter(|(at, _)| which(*at));
        let columns: Vec<_> = columns
            .map(|(_, (_, target))| (dialect.identifier)(target.name()))
            .collect();
        columns.join(", ")
    }

    /// Whether the key is that of one of these unique indexes, given by names of columns: whether the database tells rows apart by
    /// it, and by nothing less.
    pub fn is_key_among(&self, indexes: impl IntoIterator<Item = Vec<String>>) -> bool {
        let sorted = |names: Vec<String>| {
            let mut names: Vec<_> = names.iter().map(|name| name.to_lowercase()).collect();
            names.sort();
            names
        };
        let key = self.key.iter();
        let key = key.map(|at| self.columns[*at].1.name().to_owned());
        let key = sorted(key.collect());
        indexes.into_iter().any(|index| sorted(index) == key)
    }

    /// What rows ask for; `mode` where no column says it.
    ///
    /// # Errors
    /// *Configuration*: the columns that say it are no texts.
    pub fn asked(&self, rows: &RecordBatch, mode: Op) -> Result<RowRequests, Error> {
        let text = |place: Option<usize>| {
            let column = place.map(|place| cast(rows.column(place), &DataType::Utf8));
            column.transpose().map_err(|why| {
                Error::new(Class::Configuration, "connect.change-type").caused_by(why)
            })
        };
        Ok(RowRequests {
            change: text(self.change)?,
            unchanged: text(self.unchanged)?,
            newer: self
                .newer
                .and_then(|at| ordered(rows.column(self.columns[at].0))),
            prefer: self
                .prefer
                .map(|prefer| (prefer.row, Arc::clone(rows.column(prefer.was)))),
            mode,
        })
    }

    /// Refuses a row whose key has no value in one of its columns, and what cannot be compared by `newer` or `prefer`.
    ///
    /// # Errors
    /// *Permanent*.
    pub fn check_key(&self, op: Op, is_null: impl Fn(usize) -> bool) -> Result<(), Error> {
        match (op, self.newer) {
            (Op::Nothing, _) => return Ok(()),
            (Op::Truncate, None) if self.prefer.is_none_or(|prefer| !prefer.row.compares(op)) => {
                return Ok(());
            }
            (Op::Truncate, Some(_)) => {
                return Err(Error::new(Class::Permanent, "connect.newer-truncate"));
            }
            (_, Some(newer)) if is_null(newer) => {
                return Err(Error::new(Class::Permanent, "connect.newer-null")
                    .with("column", self.columns[newer].1.name()));
            }
            _ => {}
        }
        if let Some(prefer) = self.prefer.filter(|prefer| prefer.row.compares(op)) {
            if op == Op::Truncate {
                return Err(Error::new(Class::Permanent, "connect.newer-truncate"));
            }
            if is_null(prefer.version) {
                return Err(Error::new(Class::Permanent, "connect.prefer-null")
                    .with("column", self.columns[prefer.version].1.name()));
            }
        }
        match self.key.iter().find(|at| is_null(**at)) {
            None => Ok(()),
            Some(at) => Err(Error::new(Class::Permanent, "connect.key-null")
                .with("column", self.columns[*at].1.name())),
        }
    }
}

impl RowRequests {
    /// What is done with a row.
    ///
    /// # Errors
    /// *Permanent*: the row says something that is not known.
    pub fn op(&self, row: usize) -> Result<Op, Error> {
        let Some(change) = &self.change else {
            return Ok(self.mode);
        };
        let change = text(change, row).unwrap_or_default();
        let Some((preferred, was)) = &self.prefer else {
            return Op::of(change);
        };
        match (preferred, change) {
            (PreferredRow::There, "read") => Ok(Op::Read),
            (PreferredRow::There, "update") if was.is_null(row) => {
                Err(Error::new(Class::Permanent, "connect.prefer-was"))
            }
            (PreferredRow::Coming, "returned") => Ok(Op::Returned),
            _ => Op::of(change),
        }
    }

    /// Whether there was no row before this one.
    pub fn is_new(&self, row: usize) -> bool {
        let was = self.prefer.as_ref();
        was.is_none_or(|(_, was)| was.is_null(row))
    }

    /// What a row is compared by, where its order is known here.
    pub fn newer(&self, row: usize) -> Option<i64> {
        let newer = self.newer.as_ref().filter(|newer| !newer.is_null(row))?;
        Some(newer.as_primitive::<Int64Type>().value(row))
    }

    /// Columns of a row that keep their value.
    pub fn kept(&self, row: usize) -> Vec<String> {
        let unchanged = self.unchanged.as_ref();
        let names = unchanged.and_then(|unchanged| text(unchanged, row));
        names.map(kept).unwrap_or_default()
    }

    /// Rows as they are sent, and those that cannot be. `make` answers `None` for a row that asks for nothing.
    pub fn ready<R>(
        rows: usize,
        mut make: impl FnMut(usize) -> Result<Option<R>, Error>,
    ) -> (Vec<R>, Vec<Refused>) {
        let (mut ready, mut refused) = (Vec::with_capacity(rows), Vec::new());
        for row in 0..rows {
            match make(row) {
                Ok(one) => ready.extend(one),
                Err(error) => refused.push((row, error)),
            }
        }
        (ready, refused)
    }
}

/// Whether of two rows with one key, each with what is done with it and what it is compared by, the second one alone comes to
/// the same as both. Otherwise the first one may be the newer and is written before the second one is compared with it.
pub fn takes_over(before: (Op, Option<i64>), row: (Op, Option<i64>)) -> bool {
    match (before, row) {
        // Deletes are made in any case, before what takes the place of the row.
        ((Op::Delete, _), _) => true,
        ((_, Some(before)), (Op::Delete, Some(deleted))) => before <= deleted,
        ((_, Some(before)), (_, Some(new))) => before < new,
        _ => false,
    }
}

/// A column as whole numbers in the order of its values; none for a type, and null for a value, whose order the database may see
/// otherwise.
fn ordered(column: &ArrayRef) -> Option<ArrayRef> {
    match column.data_type() {
        DataType::Timestamp(..) | DataType::Date32 => cast(column, &DataType::Int64).ok(),
        of if of.is_integer() => cast(column, &DataType::Int64).ok(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let texts = cast(column, &DataType::Utf8).ok()?;
            let times = texts.as_string::<i32>().iter();
            let times = times.map(|text| text.and_then(time_of));
            Some(Arc::new(times.collect::<Int64Array>()))
        }
        _ => None,
    }
}

/// The time that a text says with `Z` or without, in microseconds. Those with an offset have another order as texts.
fn time_of(text: &str) -> Option<i64> {
    match text.get(19..)?.contains(['+', '-']) {
        true => None,
        false => time::parse(text).or_else(|| time::parse(&format!("{text}Z"))),
    }
}

fn text(column: &ArrayRef, row: usize) -> Option<&str> {
    (!column.is_null(row)).then(|| column.as_string::<i32>().value(row))
}

impl<'a, R> Halving<'a, R> {
    pub fn new(rows: &'a [R]) -> Halving<'a, R> {
        Halving { open: vec![rows] }
    }

    /// The rows to be tried next.
    pub fn part(&mut self) -> Option<&'a [R]> {
        self.open.pop()
    }

    /// These rows were refused: the one at fault, or `None` where its half is to be looked for.
    pub fn refused(&mut self, rows: &'a [R]) -> Option<&'a R> {
        if let [one] = rows {
            return Some(one);
        }
        let (first, second) = rows.split_at(rows.len() / 2);
        self.open.push(second);
        self.open.push(first);
        None
    }
}

/// Names with commas between them.
pub fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    match names.is_empty() {
        true => "-".into(),
        false => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_at_fault_are_found_and_the_others_tried_in_order() {
        let rows: Vec<u32> = (0..21).collect();
        let bad = [0, 7, 8, 20];
        let (mut written, mut refused) = (Vec::new(), Vec::new());
        let mut halving = Halving::new(&rows);
        while let Some(part) = halving.part() {
            match part.iter().any(|row| bad.contains(row)) {
                true => refused.extend(halving.refused(part)),
                false => written.extend_from_slice(part),
            }
        }
        let good: Vec<u32> = (0..21).filter(|row| !bad.contains(row)).collect();
        assert_eq!((written, refused), (good, bad.to_vec()));
    }

    #[test]
    fn a_row_takes_over_only_where_it_is_known_to_be_newer() {
        use Op::{Delete, Upsert};
        for (before, row, expected) in [
            ((Upsert, Some(1)), (Upsert, Some(2)), true),
            ((Upsert, Some(2)), (Upsert, Some(2)), false),
            ((Upsert, Some(3)), (Upsert, Some(2)), false),
            ((Upsert, Some(2)), (Delete, Some(2)), true),
            ((Upsert, Some(3)), (Delete, Some(2)), false),
            ((Upsert, None), (Upsert, Some(2)), false),
            ((Upsert, Some(1)), (Upsert, None), false),
            ((Delete, Some(9)), (Upsert, Some(2)), true),
        ] {
            assert_eq!(takes_over(before, row), expected, "{before:?} {row:?}");
        }
    }

    #[test]
    fn the_order_of_numbers_and_times_is_known() {
        let texts = [
            "2024-02-29T23:59:59Z",
            "2024-03-01 00:00:00.5",
            "2024-03-01T00:00:00+01:00",
            "9",
        ];
        let texts: ArrayRef = Arc::new(arrow::array::StringArray::from(texts.to_vec()));
        let times = ordered(&texts).expect("texts");
        let times: Vec<_> = times.as_primitive::<Int64Type>().iter().collect();
        assert!(times[0].is_some() && times[0] < times[1], "{times:?}");
        assert_eq!(times[2..], [None, None]);
        let numbers: ArrayRef = Arc::new(arrow::array::UInt64Array::from(vec![7, u64::MAX]));
        let numbers = ordered(&numbers).expect("numbers");
        let numbers: Vec<_> = numbers.as_primitive::<Int64Type>().iter().collect();
        assert_eq!(numbers, [Some(7), None]);
        let decimals: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![1.0]));
        assert!(ordered(&decimals).is_none());
    }
}

//! Generated queries, run by the engine and by SQLite over the same rows: both must return the same.
//!
//! The rows are few, with nulls and duplicates. Queries use joins, subqueries (`in`, `not in`, `exists`, scalar),
//! grouping, `distinct`, set operations, `case`, window functions, `order by` and `limit`. What the two define
//! differently is not generated: division, `like`, comparisons between types, the default place of nulls, the order
//! of rows that are equal.
//!
//! A query may be refused where the catalogue has a message for it, but only a few are.
//!
//! `BUSBAR_SEED` chooses another sequence, `BUSBAR_QUERIES` its length.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Float64Type};
use busbar_event::format::{FieldSpec, FieldType, SchemaSpec};
use busbar_log::SystemClock;
use busbar_sql::{Engine, QueryLimits, Relation};
use busbar_table::Tables;
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::common::{Event, Known, NOON, batch, stream};
use crate::engine::run;

const SEED: u64 = 20_260_301;
const QUERIES: u64 = 600;

/// Queries between two sets of rows.
const QUERIES_PER_DATA: u64 = 30;

/// Number of wrong queries that a failure shows.
const SHOWN: usize = 12;

/// Codes with which the engine may refuse a generated query.
const REFUSALS: [&str; 1] = ["sql.subquery-correlated"];

#[test]
fn generated_queries_return_what_sqlite_returns() {
    let number = |name: &str, otherwise: u64| {
        let given = std::env::var(name).ok();
        given.map_or(otherwise, |text| text.parse().expect("a number"))
    };
    let (seed, queries) = (
        number("BUSBAR_SEED", SEED),
        number("BUSBAR_QUERIES", QUERIES),
    );
    let mut random = Random(seed);
    let mut refused = 0;
    let mut rows_seen = 0;
    let mut wrong = Vec::new();
    let mut data = Data::generate(&mut random);
    for number in 0..queries {
        if number > 0 && number % QUERIES_PER_DATA == 0 {
            data = Data::generate(&mut random);
        }
        let (text, ordered) = Generator::new(&mut random).query();
        let describe = |found: &str| {
            format!(
                "seed {seed}, query {number}\n{}\n{text}\n{found}",
                data.described
            )
        };
        let mut wanted = match data.sqlite(&text) {
            Ok(rows) => rows,
            Err(error) => panic!("{}", describe(&format!("SQLite refuses it: {error}"))),
        };
        let mut found = match run(data.engine(&text)) {
            Ok(rows) => rows,
            Err(error) if REFUSALS.contains(&error.code()) => {
                refused += 1;
                continue;
            }
            Err(error) => {
                wrong.push(describe(&format!("the engine fails: {error}")));
                continue;
            }
        };
        if !ordered {
            wanted.sort();
            found.sort();
        }
        rows_seen += wanted.len();
        if wanted != found {
            let plan = run(data.engine(&format!("explain {text}"))).expect("it ran");
            let both = format!(
                "-- SQLite\n{}\n-- engine\n{}\n-- plan\n{}",
                wanted.join("\n"),
                found.join("\n"),
                plan.join("\n")
            );
            wrong.push(describe(&both));
        }
    }
    let first = &wrong[..wrong.len().min(SHOWN)];
    assert!(
        wrong.is_empty(),
        "{} of {queries} queries are wrong, {refused} were refused\n{}",
        wrong.len(),
        first.join("\n\n")
    );
    assert!(
        refused * 10 <= queries,
        "{refused} of {queries} queries were refused"
    );
    assert!(
        rows_seen as u64 > queries,
        "{rows_seen} rows: the queries select too little"
    );
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    /// True in so many of a hundred cases.
    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Int,
    Text,
}

/// Name and columns of every relation. `r` is a table with the key `id`, the others are streams.
const RELATIONS: [(&str, &[(&str, Kind)]); 3] = [
    (
        "t",
        &[("a", Kind::Int), ("b", Kind::Int), ("s", Kind::Text)],
    ),
    (
        "u",
        &[("k", Kind::Int), ("v", Kind::Int), ("s", Kind::Text)],
    ),
    (
        "r",
        &[("id", Kind::Int), ("n", Kind::Int), ("s", Kind::Text)],
    ),
];

/// The same rows in both databases.
struct Data {
    engine: Engine,
    sqlite: Connection,
    described: String,
    _folder: tempfile::TempDir,
}

type Row = (Option<i64>, Option<i64>, Option<String>);

impl Data {
    fn generate(random: &mut Random) -> Self {
        let sqlite = Connection::open_in_memory().expect("memory");
        let folder = tempfile::tempdir().expect("a folder");
        let mut known = Known::default();
        let mut described = String::new();
        for (name, columns) in RELATIONS {
            let count = random.below(9);
            let nulls = *random.pick(&[0, 10, 30]);
            let int = |random: &mut Random| match random.percent(nulls) {
                true => None,
                false => Some(random.below(5) as i64),
            };
            let rows: Vec<Row> = (0..count)
                .map(|number| {
                    let first = match name {
                        "r" => Some(number as i64),
                        _ => int(random),
                    };
                    let text = match random.percent(nulls) {
                        true => None,
                        false => Some((*random.pick(&["", "x", "y", "xy"])).to_owned()),
                    };
                    (first, int(random), text)
                })
                .collect();
            let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
            let [first, second, third] = names[..] else {
                panic!("three columns");
            };
            let create =
                format!("create table {name} ({first} integer, {second} integer, {third} text)");
            sqlite.execute(&create, []).expect("a table");
            let insert = format!("insert into {name} values (?, ?, ?)");
            for row in &rows {
                sqlite
                    .execute(&insert, rusqlite::params![row.0, row.1, row.2])
                    .expect("a row");
            }
            let _ = writeln!(described, "{name}({first}, {second}, {third}) = {rows:?}");
            let relation = match name {
                "r" => table(folder.path(), &names, &rows),
                _ => events(&names, &rows),
            };
            known.0.insert(name.to_owned(), relation);
        }
        Self {
            engine: Engine::new(Arc::new(known), QueryLimits::default()).expect("threads"),
            sqlite,
            described,
            _folder: folder,
        }
    }

    fn sqlite(&self, text: &str) -> rusqlite::Result<Vec<String>> {
        let mut statement = self.sqlite.prepare(text)?;
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        let mut lines = Vec::new();
        while let Some(row) = rows.next()? {
            let cells = (0..columns).map(|column| {
                Ok(match row.get_ref(column)? {
                    ValueRef::Null => "null".to_owned(),
                    ValueRef::Integer(value) => value.to_string(),
                    ValueRef::Real(value) => format!("{value:.6}"),
                    ValueRef::Text(value) => format!("'{}'", String::from_utf8_lossy(value)),
                    ValueRef::Blob(_) => "blob".to_owned(),
                })
            });
            lines.push(cells.collect::<rusqlite::Result<Vec<_>>>()?.join(" | "));
        }
        Ok(lines)
    }

    async fn engine(&self, text: &str) -> Result<Vec<String>, busbar_event::Error> {
        let mut answer = match self.engine.query(text).await {
            Ok(answer) => answer,
            Err(wrong) => return Err(wrong.into_error()),
        };
        let batches = answer.collect().await?;
        let rows = batches.iter().flat_map(|batch| {
            (0..batch.num_rows()).map(|row| {
                let cells = batch.columns().iter().map(|column| cell(column, row));
                cells.collect::<Vec<_>>().join(" | ")
            })
        });
        Ok(rows.collect())
    }
}

fn cell(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "null".to_owned();
    }
    match column.data_type() {
        DataType::Null => "null".to_owned(),
        DataType::Boolean => u8::from(column.as_boolean().value(row)).to_string(),
        DataType::Int32 | DataType::Int64 | DataType::UInt64 | DataType::Decimal128(_, 0) => {
            arrow::util::display::array_value_to_string(column, row).expect("a number")
        }
        DataType::Float64 => format!("{:.6}", column.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => format!("'{}'", column.as_string::<i32>().value(row)),
        DataType::Utf8View => format!("'{}'", column.as_string_view().value(row)),
        other => panic!("a column of type {other}"),
    }
}

fn events(names: &[&str], rows: &[Row]) -> Relation {
    let payloads: Vec<String> = rows
        .iter()
        .map(|row| {
            serde_json::json!({ names[0]: row.0, names[1]: row.1, names[2]: row.2 }).to_string()
        })
        .collect();
    let events: Vec<Event<'_>> = payloads
        .iter()
        .enumerate()
        .map(|(number, payload)| Event {
            topic: "t/x",
            time: NOON + number as i64,
            tags: &[],
            payload,
        })
        .collect();
    let columns = SchemaSpec(vec![
        FieldSpec::new(names[0], FieldType::Int),
        FieldSpec::new(names[1], FieldType::Int),
        FieldSpec::new(names[2], FieldType::Text),
    ]);
    // Several batches: operators must not depend on how rows are cut.
    let batches = events.chunks(3).map(batch).collect();
    stream(vec![batches], Some(columns))
}

fn table(folder: &std::path::Path, names: &[&str], rows: &[Row]) -> Relation {
    let tables = Tables::open(folder, Arc::new(SystemClock)).expect("a folder");
    let column = |name: &str, kind: &str| serde_json::json!({ "name": name, "type": kind });
    let spec = serde_json::json!({
        "hot": {}, "key": [names[0]],
        "columns": [column(names[0], "int"), column(names[1], "int"), column(names[2], "text")],
    });
    let spec = serde_json::from_value(spec).expect("a table");
    tables
        .apply(&BTreeMap::from([("r".to_owned(), spec)]))
        .expect("a table");
    let table = tables.table("r").expect("it was made");
    let ints = |values: Vec<Option<i64>>| Arc::new(Int64Array::from(values)) as ArrayRef;
    let texts: Vec<Option<&str>> = rows.iter().map(|row| row.2.as_deref()).collect();
    let rows = RecordBatch::try_from_iter([
        (names[0], ints(rows.iter().map(|row| row.0).collect())),
        (names[1], ints(rows.iter().map(|row| row.1).collect())),
        (names[2], Arc::new(StringArray::from(texts)) as ArrayRef),
    ])
    .expect("columns of one length");
    table.apply(&rows, None).expect("rows");
    Relation::Table(table)
}

/// Columns that an expression may name, as `alias.column`.
type Scope = Vec<(String, Kind)>;

struct Generator<'a> {
    random: &'a mut Random,
    aliases: usize,
}

/// How many subqueries may still nest.
const DEPTH: u32 = 2;

impl<'a> Generator<'a> {
    fn new(random: &'a mut Random) -> Self {
        Self { random, aliases: 0 }
    }

    /// A query, and whether its rows come in a defined order.
    fn query(&mut self) -> (String, bool) {
        let kinds: Vec<Kind> = (0..1 + self.random.below(3)).map(|_| self.kind()).collect();
        let mut text = self.select(&kinds, DEPTH);
        if self.random.percent(20) {
            let operation = *self
                .random
                .pick(&["union", "union all", "intersect", "except"]);
            let other = self.select(&kinds, 1);
            text = format!("{text} {operation} {other}");
        }
        if self.random.percent(50) {
            return (text, false);
        }
        // By every column: rows that are equal cannot be told apart.
        let columns: Vec<String> = (1..=kinds.len())
            .map(|column| {
                let direction = *self.random.pick(&["asc", "desc"]);
                let nulls = *self.random.pick(&["first", "last"]);
                format!("c{column} {direction} nulls {nulls}")
            })
            .collect();
        text = format!(
            "select * from ({text}) as o order by {}",
            columns.join(", ")
        );
        if self.random.percent(60) {
            let _ = write!(text, " limit {}", self.random.below(6));
            if self.random.percent(30) {
                let _ = write!(text, " offset {}", self.random.below(3));
            }
        }
        (text, true)
    }

    fn kind(&mut self) -> Kind {
        match self.random.percent(70) {
            true => Kind::Int,
            false => Kind::Text,
        }
    }

    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("x{}", self.aliases)
    }

    /// A `select` with columns `c1`, `c2`, … of the given kinds.
    fn select(&mut self, kinds: &[Kind], depth: u32) -> String {
        let (from, inner) = self.from(depth);
        let condition = match self.random.percent(70) {
            true => format!(" where {}", self.condition(&inner, depth)),
            false => String::new(),
        };
        match self.random.below(10) {
            0..=2 => self.grouped(kinds, &from, &condition, &inner, depth),
            3..=4 => self.windowed(kinds, &from, &condition, &inner),
            _ => {
                let distinct = if self.random.percent(30) {
                    "distinct "
                } else {
                    ""
                };
                let columns = self.columns(kinds, |this, kind| this.value(kind, &inner, depth));
                format!("select {distinct}{columns} from {from}{condition}")
            }
        }
    }

    fn columns(
        &mut self,
        kinds: &[Kind],
        mut each: impl FnMut(&mut Self, Kind) -> String,
    ) -> String {
        let mut columns = Vec::new();
        for (number, kind) in kinds.iter().enumerate() {
            columns.push(format!("{} as c{}", each(self, *kind), number + 1));
        }
        columns.join(", ")
    }

    fn grouped(
        &mut self,
        kinds: &[Kind],
        from: &str,
        condition: &str,
        inner: &Scope,
        depth: u32,
    ) -> String {
        let keys: Vec<(String, Kind)> = (0..self.random.below(3))
            .map(|_| self.random.pick(inner).clone())
            .collect();
        let columns = self.columns(kinds, |this, kind| match this.random.percent(40) {
            true => this.key_or_aggregate(kind, &keys, inner),
            false => this.aggregate(kind, inner),
        });
        let mut text = format!("select {columns} from {from}{condition}");
        if !keys.is_empty() {
            let names: Vec<&str> = keys.iter().map(|(name, _)| name.as_str()).collect();
            let _ = write!(text, " group by {}", names.join(", "));
        }
        if self.random.percent(30) && !keys.is_empty() {
            let aggregate = self.aggregate(Kind::Int, inner);
            let limit = self.random.below(4);
            let mut having = format!("{aggregate} {} {limit}", self.comparison());
            if depth > 0 && self.random.percent(30) {
                let (subquery, not) = (self.subquery(Kind::Int, &[], depth), self.maybe_not());
                having = format!("{aggregate} {not}in ({subquery})");
            }
            let _ = write!(text, " having {having}");
        }
        text
    }

    fn key_or_aggregate(&mut self, kind: Kind, keys: &[(String, Kind)], inner: &Scope) -> String {
        let fitting: Vec<_> = keys.iter().filter(|(_, key)| *key == kind).collect();
        match fitting.is_empty() {
            true => self.aggregate(kind, inner),
            false => self.random.pick(&fitting).0.clone(),
        }
    }

    fn aggregate(&mut self, kind: Kind, inner: &Scope) -> String {
        if kind == Kind::Text {
            let function = *self.random.pick(&["min", "max"]);
            return format!("{function}({})", self.plain(Kind::Text, inner));
        }
        let of = self.plain(Kind::Int, inner);
        match self.random.below(8) {
            0 => "count(*)".to_owned(),
            1 => format!("count({of})"),
            2 => format!("count(distinct {of})"),
            3 => format!("sum({of})"),
            4 => format!("sum(distinct {of})"),
            5 => format!("min({of})"),
            6 => format!("coalesce(sum({of}), 0) + count(*)"),
            _ => format!("max({of})"),
        }
    }

    fn windowed(&mut self, kinds: &[Kind], from: &str, condition: &str, inner: &Scope) -> String {
        let distinct = if self.random.percent(40) {
            "distinct "
        } else {
            ""
        };
        let columns = self.columns(kinds, |this, kind| {
            if kind == Kind::Text || this.random.percent(30) {
                return this.plain(kind, inner);
            }
            this.window(inner)
        });
        format!("select {distinct}{columns} from {from}{condition}")
    }

    fn window(&mut self, inner: &Scope) -> String {
        let partition = match self.random.percent(50) {
            true => format!("partition by {} ", self.random.pick(inner).0),
            false => String::new(),
        };
        let of = self.plain(Kind::Int, inner);
        let one = format!("order by {} nulls first", self.random.pick(inner).0);
        // A function that counts rows needs an order in which no two rows differ unnoticed.
        let names: Vec<String> = inner
            .iter()
            .map(|(name, _)| format!("{name} nulls last"))
            .collect();
        let all = format!("order by {}", names.join(", "));
        match self.random.below(9) {
            0 => format!("rank() over ({partition}{one})"),
            1 => format!("dense_rank() over ({partition}{one})"),
            2 => format!("row_number() over ({partition}{all})"),
            3 => format!("sum({of}) over ({partition}{one})"),
            4 => format!("count({of}) over ({partition})"),
            5 => format!("lag({of}) over ({partition}{all})"),
            6 => format!("max({of}) over ({partition}{one})"),
            7 => {
                let (before, after) = (self.random.below(3), self.random.below(3));
                format!(
                    "sum({of}) over ({partition}{all} rows between {before} preceding and {after} following)"
                )
            }
            _ => format!("count(*) over ({partition}{one})"),
        }
    }

    /// What stands after `from`, and its columns.
    fn from(&mut self, depth: u32) -> (String, Scope) {
        let (mut text, mut scope) = self.source(depth);
        for _ in 0..*self.random.pick(&[0, 0, 0, 1, 1, 2]) {
            let (other, columns) = self.source(depth);
            let kind = *self.random.pick(&[
                "join",
                "join",
                "left join",
                "right join",
                "full join",
                "cross join",
            ]);
            let mut both = scope.clone();
            both.extend(columns.iter().cloned());
            let left = self.of_kind(Kind::Int, &scope);
            let right = self.of_kind(Kind::Int, &columns);
            let on = match kind {
                "cross join" => String::new(),
                _ => match self.random.percent(30) {
                    true => {
                        let also = self.comparison_of(&both);
                        format!(" on {left} = {right} and {also}")
                    }
                    false => format!(" on {left} = {right}"),
                },
            };
            text = format!("{text} {kind} {other}{on}");
            scope = both;
        }
        (text, scope)
    }

    fn source(&mut self, depth: u32) -> (String, Scope) {
        let alias = self.alias();
        if depth > 0 && self.random.percent(15) {
            let kinds = [Kind::Int, self.kind()];
            let inner = self.select(&kinds, depth - 1);
            let scope = vec![
                (format!("{alias}.c1"), kinds[0]),
                (format!("{alias}.c2"), kinds[1]),
            ];
            return (format!("({inner}) as {alias}"), scope);
        }
        let (name, columns) = *self.random.pick(&RELATIONS);
        let scope = columns
            .iter()
            .map(|(column, kind)| (format!("{alias}.{column}"), *kind));
        (format!("{name} as {alias}"), scope.collect())
    }

    fn of_kind(&mut self, kind: Kind, scope: &[(String, Kind)]) -> String {
        let fitting: Vec<_> = scope.iter().filter(|(_, found)| *found == kind).collect();
        match fitting.is_empty() {
            true => self.constant(kind),
            false => self.random.pick(&fitting).0.clone(),
        }
    }

    fn constant(&mut self, kind: Kind) -> String {
        match kind {
            Kind::Int => self.random.below(5).to_string(),
            Kind::Text => format!("'{}'", self.random.pick(&["", "x", "y", "xy"])),
        }
    }

    /// A value without subqueries.
    fn plain(&mut self, kind: Kind, scope: &[(String, Kind)]) -> String {
        let one = self.of_kind(kind, scope);
        match (self.random.below(8), kind) {
            (0, Kind::Int) => format!("({one} + {})", self.of_kind(kind, scope)),
            (1, Kind::Int) => format!("({one} - {})", self.constant(kind)),
            (2, Kind::Int) => format!("({one} * {})", self.of_kind(kind, scope)),
            (3, Kind::Int) => format!("length({})", self.of_kind(Kind::Text, scope)),
            (0, Kind::Text) => format!("({one} || {})", self.of_kind(kind, scope)),
            (1, Kind::Text) => format!("upper({one})"),
            (4, _) => format!("coalesce({one}, {})", self.constant(kind)),
            (5, _) => {
                let condition = self.comparison_of(scope);
                format!(
                    "case when {condition} then {one} else {} end",
                    self.of_kind(kind, scope)
                )
            }
            _ => one,
        }
    }

    /// A value, which may be a scalar subquery.
    fn value(&mut self, kind: Kind, inner: &Scope, depth: u32) -> String {
        if depth > 0 && self.random.percent(12) {
            return format!("({})", self.scalar(kind, inner, depth));
        }
        self.plain(kind, inner)
    }

    /// A subquery that returns one row.
    fn scalar(&mut self, kind: Kind, around: &Scope, depth: u32) -> String {
        let (from, inner) = self.from(depth - 1);
        let aggregate = self.aggregate(kind, &inner);
        let condition = match self.random.below(3) {
            0 => String::new(),
            1 => format!(" where {}", self.condition(&inner, depth - 1)),
            _ => format!(" where {}", self.link(&inner, around)),
        };
        format!("select {aggregate} from {from}{condition}")
    }

    /// A condition between the columns of a subquery and those of the query around it.
    fn link(&mut self, inner: &Scope, around: &[(String, Kind)]) -> String {
        let kind = self.kind();
        let (left, right) = (self.of_kind(kind, inner), self.of_kind(kind, around));
        match self.random.percent(80) {
            true => format!("{left} = {right}"),
            false => format!("{left} {} {right}", self.comparison()),
        }
    }

    /// A subquery of one column.
    fn subquery(&mut self, kind: Kind, around: &[(String, Kind)], depth: u32) -> String {
        if !around.is_empty() && self.random.percent(40) {
            let (from, inner) = self.from(0);
            let value = self.plain(kind, &inner);
            let link = self.link(&inner, around);
            let distinct = if self.random.percent(20) {
                "distinct "
            } else {
                ""
            };
            let more = match self.random.percent(30) {
                true => format!(" and {}", self.comparison_of(&inner)),
                false => String::new(),
            };
            return format!("select {distinct}{value} from {from} where {link}{more}");
        }
        self.select(&[kind], depth - 1)
    }

    fn maybe_not(&mut self) -> &'static str {
        match self.random.percent(50) {
            true => "not ",
            false => "",
        }
    }

    fn comparison(&mut self) -> &'static str {
        self.random.pick::<&str>(&["=", "<>", "<", "<=", ">", ">="])
    }

    /// A condition without subqueries.
    fn comparison_of(&mut self, scope: &[(String, Kind)]) -> String {
        let kind = self.kind();
        let one = self.of_kind(kind, scope);
        match self.random.below(7) {
            0 => format!("{one} is {}null", self.maybe_not()),
            1 => format!(
                "{one} between {} and {}",
                self.constant(kind),
                self.constant(kind)
            ),
            2 => {
                let not = self.maybe_not();
                let null = if self.random.percent(30) {
                    ", null"
                } else {
                    ""
                };
                format!(
                    "{one} {not}in ({}, {}{null})",
                    self.constant(kind),
                    self.constant(kind)
                )
            }
            3 => format!(
                "{one} is {}distinct from {}",
                self.maybe_not(),
                self.of_kind(kind, scope)
            ),
            _ => {
                let other = match self.random.percent(50) {
                    true => self.of_kind(kind, scope),
                    false => self.constant(kind),
                };
                format!("{one} {} {other}", self.comparison())
            }
        }
    }

    fn condition(&mut self, inner: &Scope, depth: u32) -> String {
        match self.random.below(12) {
            0 | 1 => {
                let (a, b) = (self.condition(inner, depth), self.condition(inner, depth));
                let operator = *self.random.pick(&["and", "or"]);
                format!("({a} {operator} {b})")
            }
            2 => format!("not ({})", self.condition(inner, depth)),
            3 if depth > 0 => {
                let inside = self.membership(inner, depth);
                let is = *self.random.pick(&["is null", "is not null"]);
                format!("({inside}) {is}")
            }
            4 if depth > 0 => {
                let inside = self.membership(inner, depth);
                format!(
                    "case when {inside} then 1 when {} then 2 else 3 end < {}",
                    self.comparison_of(inner),
                    self.random.below(4)
                )
            }
            5..=7 if depth > 0 => self.membership(inner, depth),
            8 if depth > 0 => {
                let around: &[(String, Kind)] = if self.random.percent(70) { inner } else { &[] };
                let kind = self.kind();
                let subquery = self.subquery(kind, around, depth);
                format!("{}exists ({subquery})", self.maybe_not())
            }
            9 if depth > 0 => {
                let kind = self.kind();
                let one = self.plain(kind, inner);
                let comparison = self.comparison();
                format!("{one} {comparison} ({})", self.scalar(kind, inner, depth))
            }
            _ => self.comparison_of(inner),
        }
    }

    /// `x in (select ...)` or its negation.
    fn membership(&mut self, inner: &Scope, depth: u32) -> String {
        let kind = self.kind();
        let sought = match self.random.percent(20) {
            true => self.constant(kind),
            false => self.plain(kind, inner),
        };
        let around: &[(String, Kind)] = if self.random.percent(50) { inner } else { &[] };
        let subquery = self.subquery(kind, around, depth);
        format!("{sought} {}in ({subquery})", self.maybe_not())
    }
}

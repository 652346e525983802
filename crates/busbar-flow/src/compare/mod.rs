//! Two tables of unlike systems compared row by row, and the second one put right by the first.
//!
//! Both are read in the order of their key and met row by row, so that memory stays small however long they are.

mod value;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use busbar_connector::{KeyOrder, OrderedRows, TextRow, Work};
use busbar_event::{Class, Error};

use crate::limits::{COMPARE_RANGE_ROWS, COMPARE_RANGES_MAX, COMPARE_REPAIR_ROWS};
pub use value::ValueClass;

/// What is compared.
#[derive(Clone, Debug)]
pub struct ComparePlan {
    /// The names of the columns in the first table, and how their values are compared. Those of the key come first.
    pub columns: Vec<(String, ValueClass)>,
    /// How the columns of the key are ordered.
    pub key: Vec<KeyOrder>,
    /// Keys that are listed at most.
    pub listed: usize,
    /// Whether rows that only the second table has are deleted when it is put right.
    pub delete: bool,
}

/// What a comparison found. A is the first table, B the second.
#[derive(Clone, Debug, Default)]
pub struct CompareReport {
    /// Rows of A.
    pub rows_a: u64,
    /// Rows of B.
    pub rows_b: u64,
    /// Rows that are the same in both.
    pub equal: u64,
    /// Keys that are in both, with other values.
    pub different: u64,
    /// Keys that only A has.
    pub only_a: u64,
    /// Keys that only B has.
    pub only_b: u64,
    /// Rows of A that were written to B.
    pub repaired: u64,
    /// Rows that were deleted from B.
    pub deleted: u64,
    /// Rows that B refused.
    pub refused: u64,
    /// Why it refused the first one of them.
    pub refusal: Option<Error>,
    /// Counts and checksums by ranges of keys.
    pub ranges: Vec<RowRange>,
    /// The first keys whose rows are not the same.
    pub keys: Vec<DifferingKey>,
}

/// A range of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowRange {
    /// The first key.
    pub from: String,
    /// The last key.
    pub to: String,
    /// Rows of A.
    pub rows_a: u64,
    /// Rows of B.
    pub rows_b: u64,
    /// The sum of the hashes of the rows of A, whatever their order.
    pub checksum_a: u64,
    /// The same of B.
    pub checksum_b: u64,
}

/// A key whose rows are not the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DifferingKey {
    /// The values of the key.
    pub key: String,
    /// `different`, `only-a` or `only-b`.
    pub state: &'static str,
    /// Columns with other values, by their names in A.
    pub columns: Vec<String>,
}

/// Puts the second table right.
pub trait RepairTarget: Send {
    /// Writes whole rows; why some were refused.
    ///
    /// # Errors
    /// None can be written.
    fn put(&mut self, rows: Vec<TextRow>) -> Work<'_, Result<Vec<Error>, Error>>;

    /// Deletes the rows of keys; why some were refused.
    ///
    /// # Errors
    /// None can be deleted.
    fn delete(&mut self, keys: Vec<TextRow>) -> Work<'_, Result<Vec<Error>, Error>>;
}

/// Compares two tables.
///
/// # Errors
/// What a side says; *configuration* for keys that are not unique or not in their order.
pub async fn compare(
    plan: &ComparePlan,
    a: &mut dyn OrderedRows,
    b: &mut dyn OrderedRows,
    mut repair: Option<&mut dyn RepairTarget>,
) -> Result<CompareReport, Error> {
    let mut run = Comparison {
        plan,
        report: CompareReport::default(),
        range: RowRange::default(),
        range_rows: COMPARE_RANGE_ROWS,
        put: Vec::new(),
        gone: Vec::new(),
        repairs: repair.is_some(),
    };
    let (mut a, mut b) = (Side::new("A", a), Side::new("B", b));
    loop {
        a.fill(plan).await?;
        b.fill(plan).await?;
        let order = match (a.rows.front(), b.rows.front()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => plan.order(one, other),
        };
        let one = (order != Ordering::Greater).then(|| a.rows.pop_front());
        let other = (order != Ordering::Less).then(|| b.rows.pop_front());
        run.meet(one.flatten(), other.flatten());
        if let Some(repair) = repair.as_deref_mut() {
            run.repair(repair, COMPARE_REPAIR_ROWS).await?;
        }
    }
    if let Some(repair) = repair {
        run.repair(repair, 1).await?;
    }
    run.close_range();
    Ok(run.report)
}

struct Comparison<'a> {
    plan: &'a ComparePlan,
    report: CompareReport,
    range: RowRange,
    /// Keys of one range.
    range_rows: u64,
    /// Rows that B is to have.
    put: Vec<TextRow>,
    /// Keys of the rows that B is not to have.
    gone: Vec<TextRow>,
    repairs: bool,
}

impl Comparison<'_> {
    fn meet(&mut self, a: Option<TextRow>, b: Option<TextRow>) {
        let plan = self.plan;
        let Some(row) = a.as_ref().or(b.as_ref()) else {
            return;
        };
        if self.range.rows_a.max(self.range.rows_b) >= self.range_rows {
            self.close_range();
        }
        if self.range.rows_a + self.range.rows_b == 0 {
            self.range.from = plan.key_text(row);
        }
        self.range.to = plan.key_text(row);
        if let Some(row) = &a {
            self.report.rows_a += 1;
            self.range.rows_a += 1;
            self.range.checksum_a = self.range.checksum_a.wrapping_add(plan.hash(row));
        }
        if let Some(row) = &b {
            self.report.rows_b += 1;
            self.range.rows_b += 1;
            self.range.checksum_b = self.range.checksum_b.wrapping_add(plan.hash(row));
        }
        let (state, columns) = match (&a, &b) {
            (Some(one), Some(other)) => {
                let columns = plan.differing(one, other);
                if columns.is_empty() {
                    self.report.equal += 1;
                    return;
                }
                self.report.different += 1;
                ("different", columns)
            }
            (Some(_), None) => {
                self.report.only_a += 1;
                ("only-a", Vec::new())
            }
            _ => {
                self.report.only_b += 1;
                ("only-b", Vec::new())
            }
        };
        if self.report.keys.len() < plan.listed {
            self.report.keys.push(DifferingKey {
                key: plan.key_text(row),
                state,
                columns,
            });
        }
        match (a, b) {
            _ if !self.repairs => {}
            (Some(row), _) => self.put.push(plan.normal(row)),
            (None, Some(row)) if plan.delete => {
                let mut row = plan.normal(row);
                row.truncate(plan.key.len());
                self.gone.push(row);
            }
            _ => {}
        }
    }

    /// Ends a range. Where there are too many, each two become one.
    fn close_range(&mut self) {
        let range = std::mem::take(&mut self.range);
        if range.rows_a + range.rows_b == 0 {
            return;
        }
        let ranges = &mut self.report.ranges;
        ranges.push(range);
        if ranges.len() < COMPARE_RANGES_MAX {
            return;
        }
        let halved = ranges.chunks(2).map(|pair| {
            let mut whole = pair[0].clone();
            for next in &pair[1..] {
                whole.to.clone_from(&next.to);
                whole.rows_a += next.rows_a;
                whole.rows_b += next.rows_b;
                whole.checksum_a = whole.checksum_a.wrapping_add(next.checksum_a);
                whole.checksum_b = whole.checksum_b.wrapping_add(next.checksum_b);
            }
            whole
        });
        *ranges = halved.collect();
        self.range_rows *= 2;
    }

    /// Writes what is to be written where there are so many rows.
    async fn repair(&mut self, to: &mut dyn RepairTarget, at_least: usize) -> Result<(), Error> {
        // What is deleted first makes room for what takes its place.
        if self.gone.len() >= at_least || (self.put.len() >= at_least && !self.gone.is_empty()) {
            let gone = std::mem::take(&mut self.gone);
            let count = gone.len() as u64;
            let refused = to.delete(gone).await?;
            self.report.deleted += count - self.refused(refused);
        }
        if self.put.len() >= at_least {
            let put = std::mem::take(&mut self.put);
            let count = put.len() as u64;
            let refused = to.put(put).await?;
            self.report.repaired += count - self.refused(refused);
        }
        Ok(())
    }

    /// Notes rows that were refused; how many.
    fn refused(&mut self, refused: Vec<Error>) -> u64 {
        let count = refused.len() as u64;
        self.report.refused += count;
        if self.report.refusal.is_none() {
            self.report.refusal = refused.into_iter().next();
        }
        count
    }
}

impl ComparePlan {
    fn value<'a>(&self, row: &'a TextRow, at: usize) -> Option<Cow<'a, str>> {
        let text = row.get(at)?.as_deref()?;
        Some(self.columns[at].1.normal(text))
    }

    /// Which of two keys comes first.
    fn order(&self, a: &TextRow, b: &TextRow) -> Ordering {
        let each = self.key.iter().enumerate().map(|(at, order)| {
            let (a, b) = (self.value(a, at), self.value(b, at));
            match order {
                KeyOrder::Text => a.cmp(&b),
                KeyOrder::Number => {
                    let number =
                        |text: Option<Cow<'_, str>>| text.and_then(|t| t.parse::<i128>().ok());
                    number(a).cmp(&number(b))
                }
            }
        });
        each.fold(Ordering::Equal, Ordering::then)
    }

    fn key_text(&self, row: &TextRow) -> String {
        let values = row.iter().take(self.key.len());
        let values = values.map(|value| value.as_deref().unwrap_or("NULL"));
        values.collect::<Vec<_>>().join(", ")
    }

    fn differing(&self, a: &TextRow, b: &TextRow) -> Vec<String> {
        let places = (self.key.len()..self.columns.len())
            .filter(|at| self.value(a, *at) != self.value(b, *at));
        places.map(|at| self.columns[at].0.clone()).collect()
    }

    fn hash(&self, row: &TextRow) -> u64 {
        let mut hasher = DefaultHasher::new();
        for at in 0..self.columns.len() {
            self.value(row, at).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// The row as it is written to the other table.
    fn normal(&self, row: TextRow) -> TextRow {
        let values = row.into_iter().zip(&self.columns);
        let normal = |(value, (_, class)): (Option<String>, &(String, ValueClass))| {
            value.map(|value| class.normal(&value).into_owned())
        };
        values.map(normal).collect()
    }
}

/// One table: rows that have come, and the last one that was taken.
struct Side<'a> {
    name: &'static str,
    from: &'a mut dyn OrderedRows,
    rows: VecDeque<TextRow>,
    last: Option<TextRow>,
    done: bool,
}

impl<'a> Side<'a> {
    fn new(name: &'static str, from: &'a mut dyn OrderedRows) -> Side<'a> {
        Side {
            name,
            from,
            rows: VecDeque::new(),
            last: None,
            done: false,
        }
    }

    /// Reads more rows where there are none, and checks that they are in order.
    async fn fill(&mut self, plan: &ComparePlan) -> Result<(), Error> {
        if !self.rows.is_empty() || self.done {
            return Ok(());
        }
        let rows = self.from.next().await?;
        self.done = rows.is_empty();
        for row in rows {
            let behind = self.last.as_ref();
            if behind.is_some_and(|last| plan.order(last, &row) != Ordering::Less) {
                return Err(Error::new(Class::Configuration, "flow.compare-order")
                    .with("side", self.name)
                    .with("key", plan.key_text(&row)));
            }
            self.last = Some(row.clone());
            self.rows.push_back(row);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows in pages of three.
    struct Paged(Vec<TextRow>);

    impl OrderedRows for Paged {
        fn next(&mut self) -> Work<'_, Result<Vec<TextRow>, Error>> {
            let count = self.0.len().min(3);
            let page = self.0.drain(..count).collect();
            Box::pin(async { Ok(page) })
        }
    }

    #[derive(Default)]
    struct Noted(Vec<TextRow>, Vec<TextRow>);

    impl RepairTarget for Noted {
        fn put(&mut self, rows: Vec<TextRow>) -> Work<'_, Result<Vec<Error>, Error>> {
            self.0.extend(rows);
            Box::pin(async { Ok(Vec::new()) })
        }
        fn delete(&mut self, keys: Vec<TextRow>) -> Work<'_, Result<Vec<Error>, Error>> {
            self.1.extend(keys);
            Box::pin(async { Ok(Vec::new()) })
        }
    }

    fn rows(text: &str) -> Vec<TextRow> {
        let row = |line: &str| {
            line.split(' ')
                .map(|v| (v != "-").then(|| v.to_owned()))
                .collect()
        };
        text.split(';')
            .filter(|line| !line.is_empty())
            .map(row)
            .collect()
    }

    fn plan(order: KeyOrder) -> ComparePlan {
        ComparePlan {
            columns: vec![
                ("id".into(), ValueClass::Whole),
                ("v".into(), ValueClass::Number),
            ],
            key: vec![order],
            listed: 10,
            delete: true,
        }
    }

    fn run(order: KeyOrder, a: &str, b: &str) -> (Result<CompareReport, Error>, Noted) {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let (mut a, mut b, mut noted) = (Paged(rows(a)), Paged(rows(b)), Noted::default());
        let plan = plan(order);
        let compared = compare(&plan, &mut a, &mut b, Some(&mut noted));
        let report = runtime.expect("a runtime").block_on(compared);
        (report, noted)
    }

    #[test]
    fn rows_meet_by_their_keys() {
        let (report, noted) = run(
            KeyOrder::Number,
            "1 1.50;2 2;3 -;5 5;9 9;10 10",
            "1 1.5;2 2.1;3 -;4 4;10 10;11 11",
        );
        let report = report.expect("compared");
        assert_eq!(
            (
                report.rows_a,
                report.rows_b,
                report.equal,
                report.different,
                report.only_a,
                report.only_b
            ),
            (6, 6, 3, 1, 2, 2)
        );
        let keys: Vec<_> = report
            .keys
            .iter()
            .map(|k| format!("{} {} {}", k.key, k.state, k.columns.join(",")))
            .collect();
        assert_eq!(
            keys,
            [
                "2 different v",
                "4 only-b ",
                "5 only-a ",
                "9 only-a ",
                "11 only-b "
            ]
        );
        assert_eq!(noted.0, rows("2 2;5 5;9 9"));
        assert_eq!(noted.1, rows("4;11"));
        assert_eq!((report.repaired, report.deleted, report.refused), (3, 2, 0));
        assert_eq!(report.ranges.len(), 1);
        assert_ne!(report.ranges[0].checksum_a, report.ranges[0].checksum_b);
        // By their text 10 comes before 9.
        let (report, _) = run(KeyOrder::Text, "1 1;10 10;9 9", "1 1;10 10.0;9 9");
        let report = report.expect("compared");
        assert_eq!((report.equal, report.keys.len()), (3, 0));
        assert_eq!(report.ranges[0].checksum_a, report.ranges[0].checksum_b);
    }

    #[test]
    fn keys_out_of_order_or_twice_are_refused() {
        for (order, a) in [
            (KeyOrder::Number, "1 1;3 3;2 2"),
            (KeyOrder::Number, "1 1;1 2"),
            (KeyOrder::Text, "9 9;10 10"),
        ] {
            let (report, _) = run(order, a, "");
            assert_eq!(report.expect_err(a).code(), "flow.compare-order", "{a}");
        }
    }

    #[test]
    fn ranges_stay_few() {
        let all: String = (0..COMPARE_RANGE_ROWS * 3)
            .map(|n| format!("{n} {n};"))
            .collect();
        let (report, _) = run(KeyOrder::Number, &all, &all);
        let report = report.expect("compared");
        assert!(report.ranges.len() <= COMPARE_RANGES_MAX);
        assert_eq!(
            report.ranges.iter().map(|range| range.rows_b).sum::<u64>(),
            COMPARE_RANGE_ROWS * 3
        );
        assert_eq!(report.ranges[0].from, "0");
    }
}

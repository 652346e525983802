//! An aggregation over many batches, in one piece or in many, gives what a query over all rows gives.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, TimeUnit};
use busbar_sql::{Aggregation, AggregationPart, AggregationText, BatchQuery};

use crate::common::lines;

/// Readings of three meters at two sites; some have no site or no power.
fn readings(rows: std::ops::Range<i64>) -> RecordBatch {
    let site = |i: i64| match i % 7 {
        0 => None,
        n if n % 2 == 0 => Some("north"),
        _ => Some("south"),
    };
    let sites: ArrayRef = Arc::new(rows.clone().map(site).collect::<StringArray>());
    let meters: ArrayRef = Arc::new(rows.clone().map(|i| Some(i % 3)).collect::<Int64Array>());
    let power = |i: i64| (i % 5 != 0).then_some((i * 37 % 101) as f64);
    let powers: ArrayRef = Arc::new(rows.clone().map(power).collect::<Float64Array>());
    let times = rows
        .map(|i| Some(i * 1_000_000))
        .collect::<TimestampMicrosecondArray>();
    let times: ArrayRef = Arc::new(times.with_timezone("UTC"));
    RecordBatch::try_from_iter_with_nullable([
        ("site", sites, true),
        ("meter", meters, true),
        ("kw", powers, true),
        ("time", times, false),
    ])
    .unwrap()
}

const LISTS: &[&str] = &[
    "count(*) as n, count(kw) as m, sum(kw) as total, avg(kw) as mean, min(kw) as low, max(kw) as high",
    "stddev(kw) as s, stddev_pop(kw) as sp, var(kw) as v, covar_samp(kw, meter) as c, corr(kw, meter) as r",
    "regr_slope(kw, meter) as slope, median(kw) as mid",
    "approx_distinct(meter) as about, count(distinct kw) as exactly, sum(distinct meter) as meters",
    "array_agg(kw) as list",
    "array_agg(kw order by time desc) as back",
    "first_value(kw) as first, last_value(kw) as last",
    "first_value(kw order by time) as first, last_value(kw order by time) as last",
    "first_value(kw order by kw desc) as top, last_value(meter order by kw, time) as at",
    "string_agg(meter::text, ',') as text",
    "string_agg(meter::text, ',' order by time) as text",
    "array_agg(kw order by kw desc, time) filter (where kw is not null) as down",
    "bool_and(kw > 0) as all_positive, bool_or(kw > 99) as any_high",
    "count(*) filter (where kw > 50) as above, sum(kw) filter (where meter = 1) as first_meter",
    "max(time) - min(time) as span, max(kw) * 2 + 1 as scaled, min(meter) as m",
];

#[test]
fn parts_give_what_the_whole_gives() {
    let whole = readings(0..200);
    let schema = whole.schema();
    for keys in [
        vec![],
        vec!["site"],
        vec!["site", "meter"],
        vec!["meter % 2"],
    ] {
        for list in LISTS {
            let by: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            let mut select: Vec<String> = Vec::new();
            select.extend(
                by.iter()
                    .enumerate()
                    .map(|(i, key)| format!("{key} as k{i}")),
            );
            select.push((*list).to_owned());
            let select = select.join(", ");
            let text = AggregationText {
                select: &select,
                by: &by,
                having: None,
                group_columns: &[],
            };
            let group = match by.is_empty() {
                true => String::new(),
                false => format!(" group by {}", by.join(", ")),
            };
            let query = format!("select {select} from input{group}");
            let mut query = BatchQuery::compile(&schema, &query).unwrap();
            let expected = sorted(&query.execute(&whole).unwrap());

            let aggregation = Aggregation::compile(&schema, &text).unwrap();
            assert_eq!(aggregation.schema(), query.schema(), "{select}");
            let mut at_once = aggregation.groups().unwrap();
            at_once
                .update(&aggregation.inputs(&whole).unwrap())
                .unwrap();
            assert_eq!(
                sorted(&at_once.finish(&[]).unwrap().rows),
                expected,
                "at once: {select}"
            );

            // In batches; after each second one the state is set aside, and all states are merged.
            let mut groups = aggregation.groups().unwrap();
            let mut states = Vec::new();
            for (i, start) in (0..200).step_by(17).enumerate() {
                let rows = 17.min(200 - start);
                let batch = whole.slice(start, rows);
                groups.update(&aggregation.inputs(&batch).unwrap()).unwrap();
                if i % 2 == 1 {
                    states.push(groups.take_state().unwrap());
                    assert!(groups.is_empty());
                }
            }
            states.push(groups.take_state().unwrap());
            let mut merged = aggregation.groups().unwrap();
            for state in &states {
                assert_eq!(state.schema(), aggregation.state_schema());
                merged.merge(state).unwrap();
            }
            // Where the columns stand at other places, the same states are made and merged.
            let turned = whole.project(&[3, 2, 1, 0]).unwrap();
            let bound = aggregation.bind(&turned.schema()).unwrap();
            let mut elsewhere = bound.groups().unwrap();
            let half = elsewhere.update(&bound.inputs(&turned.slice(0, 100)).unwrap());
            half.unwrap();
            let state = elsewhere.take_state().unwrap();
            let mut both = aggregation.groups().unwrap();
            both.merge(&state).unwrap();
            both.update(&aggregation.inputs(&whole.slice(100, 100)).unwrap())
                .unwrap();
            assert_eq!(
                sorted(&both.finish(&[]).unwrap().rows),
                expected,
                "at other places: {select}"
            );
            // Once more through a state of everything.
            let state = merged.take_state().unwrap();
            merged.merge(&state).unwrap();
            assert_eq!(
                sorted(&merged.finish(&[]).unwrap().rows),
                expected,
                "in parts: {select}"
            );
        }
    }
}

#[test]
fn group_columns_stand_beside_the_keys() {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let columns = [
        Field::new("window_start", time.clone(), false),
        Field::new("window_end", time, false),
    ];
    let batch = readings(0..20);
    let by = ["site".to_owned()];
    let text = AggregationText {
        select: "site, count(*) as n, window_end, window_end - window_start as width",
        by: &by,
        having: Some("count(*) > 3 and site is not null"),
        group_columns: &columns,
    };
    let aggregation = Aggregation::compile(&batch.schema(), &text).unwrap();
    let mut groups = aggregation.groups().unwrap();
    groups.update(&aggregation.inputs(&batch).unwrap()).unwrap();
    let at = |micros: i64| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(vec![micros]).with_timezone("UTC"))
    };
    let result = groups.finish(&[at(0), at(60_000_000)]).unwrap();
    assert_eq!(result.groups, [1, 2]);
    assert!(result.failed.is_none());
    assert_eq!(
        sorted(&result.rows),
        [
            "north|8|1970-01-01T00:01:00Z|PT60S",
            "south|9|1970-01-01T00:01:00Z|PT60S",
        ]
    );
}

/// A result that cannot be computed leaves the others as they are, and says which group it was: at once, and from states.
#[test]
fn a_group_without_a_result_leaves_the_others() {
    let sites: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c", "b", "b"]));
    let large = 9_000_000_000_000_000_000;
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, large, 5, large - 1, large - 2]));
    let digits = |zeros: &str| format!("'9{zeros}'::decimal(38, 0)");
    let huge = digits(&"0".repeat(37));
    let batch = RecordBatch::try_from_iter([("site", sites), ("n", numbers)]).unwrap();
    let end = Field::new("window_end", DataType::Int64, false);
    for (select, having, code, described) in [
        (
            "site, 12 / (count(*) - 3) as share",
            None,
            "sql.divide-by-zero",
            "b|7|3",
        ),
        (
            "site, count(*) as share",
            Some("1 / (count(*) - 3) < 1"),
            "sql.divide-by-zero",
            "b|7|3",
        ),
        (
            "site, sum(n) as share",
            None,
            "sql.out-of-range",
            "b|7|null",
        ),
        (
            "site, sum(distinct n) as share",
            None,
            "sql.out-of-range",
            "b|7|null",
        ),
        // Three of these are more than 128 bits, in which they would be a number that fits.
        (
            &*format!("site, sum(case when n > 5 then {huge} else 1 end) as share"),
            None,
            "sql.out-of-range",
            "b|7|null",
        ),
        (
            &*format!("site, avg(case when n > 5 then {huge} else 1 end) as share"),
            None,
            "sql.overflow",
            "b|7|null",
        ),
    ] {
        let by = ["site".to_owned()];
        let text = AggregationText {
            select,
            by: &by,
            having,
            group_columns: std::slice::from_ref(&end),
        };
        let aggregation = Aggregation::compile(&batch.schema(), &text).unwrap();
        let inputs = aggregation.inputs(&batch).unwrap();
        for in_parts in [false, true] {
            let mut groups = aggregation.groups().unwrap();
            match in_parts {
                false => groups.update(&inputs).unwrap(),
                true => {
                    for from in 0..5 {
                        let mut part = aggregation.groups().unwrap();
                        part.update(&inputs.slice(from..from + 1)).unwrap();
                        groups.merge(&part.take_state().unwrap()).unwrap();
                    }
                }
            }
            let end: ArrayRef = Arc::new(Int64Array::from(vec![7]));
            let result = groups.finish(&[end]).unwrap();
            let shown = format!("{select} {having:?} {in_parts}");
            assert_eq!(result.groups, [0, 2], "{shown}");
            let sites = sorted(&result.rows);
            assert!(sites[0].starts_with("a|") && sites[1].starts_with("c|"));
            let failed = result.failed.unwrap();
            assert_eq!(failed.groups.len(), 1, "{shown}");
            assert_eq!(failed.groups[0].row, 1, "{shown}");
            assert_eq!(failed.groups[0].cause.code(), code, "{shown}");
            let counts = failed.rows.column_by_name("count(*)").is_some();
            assert_eq!(counts, code == "sql.divide-by-zero", "{shown}");
            let described_as = sorted(&failed.rows);
            assert_eq!(described_as, [described], "{shown}");
        }
    }
}

#[test]
fn what_is_wrong_is_told_of_its_part() {
    let schema = readings(0..1).schema();
    let refused = |select: &str, by: &[&str], having: Option<&str>| {
        let by: Vec<String> = by.iter().map(|key| (*key).to_owned()).collect();
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let text = AggregationText {
            select,
            by: &by,
            having,
            group_columns: &[Field::new("window_end", time, false)],
        };
        let (part, wrong) = Aggregation::compile(&schema, &text).unwrap_err();
        (part, wrong.code())
    };
    assert_eq!(
        refused("sit, count(*)", &["site"], None),
        (AggregationPart::Select, "sql.unknown-column")
    );
    assert_eq!(
        refused("site, count(*)", &["site", "metre"], None),
        (AggregationPart::By(1), "sql.unknown-column")
    );
    assert_eq!(
        refused("count(*)", &["site"], Some("n >")).0,
        AggregationPart::Having
    );
    assert_eq!(
        refused("max(window_end)", &[], None).1,
        "sql.window-column-inside"
    );
    assert_eq!(
        refused("count(*) over ()", &[], None).1,
        "sql.aggregation-shape"
    );
    assert_eq!(
        refused("now(), count(*)", &[], None).1,
        "sql.not-repeatable"
    );
}

/// Rows as text, in the order of their text; floats to nine digits, since sums in parts round otherwise.
fn sorted(batch: &RecordBatch) -> Vec<String> {
    let digits = |cell: &str| match cell.parse::<f64>() {
        Ok(number) if cell.contains('.') => format!("{number:.8e}"),
        _ => cell.to_owned(),
    };
    let mut rows: Vec<String> = lines(&[], std::slice::from_ref(batch))
        .into_iter()
        .skip(1)
        .map(|row| row.split(" | ").map(digits).collect::<Vec<_>>().join("|"))
        .collect();
    rows.sort_unstable();
    rows
}

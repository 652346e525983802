//! What is compiled once, beyond single cases: columns, binding, rows to blame, depth.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::datatypes::{Int32Type, Int64Type};
use busbar_sql::{BatchQuery, Predicate, Projection, Template};

fn rows(values: Vec<Option<i64>>) -> RecordBatch {
    let topics = values
        .iter()
        .enumerate()
        .map(|(row, _)| (row % 3 != 1).then_some(row as i32 % 2));
    let topics = DictionaryArray::<Int32Type>::new(
        topics.collect::<Int32Array>(),
        Arc::new(StringArray::from(vec!["gauge/1/rain", "gauge/x/wind"])),
    );
    RecordBatch::try_from_iter_with_nullable([
        (
            "other",
            Arc::new(StringArray::from(vec!["o"; values.len()])) as ArrayRef,
            true,
        ),
        ("topic", Arc::new(topics), true),
        ("v", Arc::new(Int64Array::from(values)), true),
    ])
    .unwrap()
}

#[test]
fn columns_are_named_and_can_be_bound() {
    let full = rows(vec![Some(1), Some(5), None, Some(9)]);
    let predicate = Predicate::compile(&full.schema(), "v > 1 and topic like '%rain'").unwrap();
    assert_eq!(predicate.columns(), [1, 2]);
    let narrow = full.project(&[2, 1]).unwrap();
    let bound = predicate.bind(&narrow.schema()).unwrap();
    assert_eq!(
        bound.evaluate(&narrow).unwrap(),
        predicate.evaluate(&full).unwrap()
    );
    assert_eq!(bound.columns(), [0, 1]);
    assert!(
        predicate
            .bind(&full.project(&[0, 1]).unwrap().schema())
            .is_err()
    );

    let list = Projection::compile(&full.schema(), "v + 1 as w, topic").unwrap();
    assert_eq!(list.columns(), [1, 2]);
    let bound = list.bind(&narrow.schema()).unwrap();
    assert_eq!(
        bound.evaluate(&narrow).unwrap(),
        list.evaluate(&full).unwrap()
    );

    let template = Template::compile(&full.schema(), "a/${v}").unwrap();
    assert_eq!(template.columns(), [2]);
    let bound = template.bind(&narrow.schema()).unwrap();
    assert_eq!(bound.evaluate(&narrow).unwrap().value(1), "a/5");
    assert!(bound.evaluate(&narrow).unwrap().is_null(2));
    assert_eq!(
        Template::compile(&full.schema(), "a$$").unwrap().constant(),
        Some("a$")
    );

    let query = BatchQuery::compile(&full.schema(), "select sum(v) as s from input").unwrap();
    assert_eq!(query.columns(), [2]);
    let mut bound = query.bind(&narrow.schema()).unwrap();
    let sum = bound.execute(&narrow).unwrap();
    assert_eq!(sum.column(0).as_primitive::<Int64Type>().value(0), 15);
    assert!(bound.execute(&full).is_err());
}

#[test]
fn rows_to_blame_are_found() {
    let batch = rows((0..1000).map(|n| Some(n % 250)).collect());
    let list = Projection::compile(&batch.schema(), "1000 / v as d").unwrap();
    assert!(list.evaluate(&batch).is_err());
    let failing: Vec<usize> = list.failing(&batch).iter().map(|f| f.row).collect();
    assert_eq!(failing, [0, 250, 500, 750]);
    let predicate = Predicate::compile(&batch.schema(), "1000 / v > 5").unwrap();
    let failing = predicate.failing(&batch);
    assert_eq!(failing.len(), 4);
    assert_eq!(failing[0].cause.code(), "sql.divide-by-zero");
    let fine = Predicate::compile(&batch.schema(), "v > 5").unwrap();
    assert!(fine.failing(&batch).is_empty());
}

#[test]
fn a_dictionary_answers_as_its_texts_would() {
    let batch = rows((0..300).map(Some).collect());
    let texts = arrow::compute::cast(batch.column(1), &arrow::datatypes::DataType::Utf8).unwrap();
    let plain = RecordBatch::try_from_iter([("topic", texts)]).unwrap();
    for text in [
        "topic = 'gauge/1/rain'",
        "topic like '%wind'",
        "topic is null",
        "topic is not null and topic_part(topic, 2) = '1'",
        "coalesce(topic, 'none') = 'none'",
        "topic in ('a', 'gauge/x/wind')",
        "length(topic) > 3 or topic is null",
        "starts_with(topic, 'gauge')",
    ] {
        let dictionary = Predicate::compile(&batch.schema(), text).unwrap();
        let expected = Predicate::compile(&plain.schema(), text).unwrap();
        let (found, expected) = (
            dictionary.evaluate(&batch).unwrap(),
            expected.evaluate(&plain).unwrap(),
        );
        assert_eq!(found, expected, "{text}");
    }
    // A value that no row has makes no trouble.
    let only = batch.slice(0, 1);
    let many = arrow::compute::concat_batches(&batch.schema(), &vec![only; 10]).unwrap();
    let cast = Predicate::compile(&many.schema(), "cast(topic_part(topic, 2) as int) = 1").unwrap();
    assert_eq!(cast.evaluate(&many).unwrap().true_count(), 10);
}

#[test]
fn the_deepest_text_fits_a_small_stack() {
    let batch = rows(vec![Some(1)]);
    let chain = |n: usize| vec!["v"; n].join(" + ") + " > 0";
    let most = busbar_sql::limits::OPERATORS_MAX;
    let deep = chain(most);
    let ors = vec!["v = 1"; most / 2].join(" or ");
    let brackets = "(".repeat(10) + "v > 0" + &")".repeat(10);
    let worker = std::thread::Builder::new().stack_size(2 << 20);
    let inner = batch.clone();
    let works = worker.spawn(move || {
        for text in [deep, ors, brackets] {
            let compiled = Predicate::compile(&inner.schema(), &text).unwrap();
            assert_eq!(compiled.evaluate(&inner).unwrap().true_count(), 1);
        }
    });
    works.unwrap().join().unwrap();
    let refused = |text: &str| {
        Predicate::compile(&batch.schema(), text)
            .unwrap_err()
            .code()
    };
    assert_eq!(refused(&chain(most + 1)), "sql.too-many-operators");
    assert_eq!(refused(&"(".repeat(60)), "sql.too-nested");
    assert_eq!(refused(&"not ".repeat(60)), "sql.too-nested");
    assert_eq!(refused(&" ".repeat(100_000)), "sql.too-long");
    assert_eq!(refused("  \n"), "sql.empty");
}

#[test]
fn a_query_is_asked_again_and_again() {
    let batches: Vec<RecordBatch> = (0..20)
        .map(|n| rows((0..n).map(|v| Some(v * n)).collect()))
        .collect();
    let schema = batches[0].schema();
    for text in [
        "select count(*) as n, max(v) as m from input",
        "select v from input order by v desc limit 3",
        "select a.v from input a join input b on a.v = b.v where b.v > 10 order by a.v",
        "select v % 3 as k, count(*) as n from input group by k order by k",
        "select distinct topic from input order by topic",
        "select v from input where v = (select max(v) from input)",
        "select v, sum(v) over (order by v) as s from input order by v",
    ] {
        let mut again = BatchQuery::compile(&schema, text).unwrap();
        for batch in &batches {
            let fresh = BatchQuery::compile(&schema, text)
                .unwrap()
                .execute(batch)
                .unwrap();
            assert_eq!(again.execute(batch).unwrap(), fresh, "{text}");
        }
    }
}

/// In a flow each of these rows becomes a dead letter, and its neighbours go on.
#[test]
fn rows_whose_numbers_leave_their_range_fail_alone() {
    let batch = rows(vec![Some(1), Some(i64::MAX), None, Some(i64::MIN), Some(2)]);
    for (list, wanted) in [
        ("v + 1 as n", vec![1]),
        ("v - 1 as n", vec![3]),
        ("v * 2 as n", vec![1, 3]),
        ("-v as n", vec![3]),
        ("abs(v) as n", vec![3]),
        ("v / -1 as n", vec![3]),
        ("cast(v as int) as n", vec![1, 3]),
        ("v % -1 as n", vec![]),
    ] {
        let list = Projection::compile(&batch.schema(), list).unwrap();
        let failing = list.failing(&batch);
        let found: Vec<usize> = failing.iter().map(|failed| failed.row).collect();
        assert_eq!(found, wanted, "{:?}", list.schema());
        for failed in failing {
            assert_eq!(failed.cause.class(), busbar_event::Class::Permanent);
        }
    }
    let predicate = Predicate::compile(&batch.schema(), "v + 1 > 0").unwrap();
    assert_eq!(predicate.failing(&batch).len(), 1);
}

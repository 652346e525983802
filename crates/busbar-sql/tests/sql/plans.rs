//! Queries about plans; what plans answer is in `cases/plans.slt`.

use arrow::array::AsArray;
use busbar_sql::QueryLimits;

use crate::engine::{engine_of, many, run};

/// The kinds of plan that an answer has, and all their text.
fn explained(query: &str) -> (Vec<String>, String) {
    let (engine, _) = engine_of(vec![many(2, 10)], QueryLimits::default());
    run(async {
        let batches = engine.query(query).await.unwrap().collect().await.unwrap();
        let column = |place: usize| -> Vec<String> {
            let texts = batches.iter().flat_map(|batch| {
                let texts = batch.column(place).as_string::<i32>();
                texts.iter().map(|text| text.unwrap().to_owned())
            });
            texts.collect()
        };
        (column(0), column(1).join("\n"))
    })
}

const QUERY: &str =
    "select site, count(*) as n from s where level_mm > 5 group by site order by n limit 2";

#[test]
fn explain_shows_the_plan_that_would_run() {
    let (kinds, text) = explained(&format!("explain {QUERY}"));
    assert_eq!(kinds, ["logical_plan", "physical_plan"]);
    for step in [
        "Aggregate: groupBy=[[s.site]]",
        "TopK(fetch=2)",
        "mode=Single",
        "StreamScan",
    ] {
        assert!(text.contains(step), "{step} is missing in {text}");
    }
}

#[test]
fn explain_verbose_shows_what_each_rule_makes_of_it() {
    let (kinds, text) = explained(&format!("explain verbose {QUERY}"));
    for kind in [
        "initial_logical_plan",
        "analyzed_logical_plan",
        "logical_plan",
        "initial_physical_plan",
        "physical_plan",
    ] {
        assert!(
            kinds.iter().any(|k| k == kind),
            "{kind} is missing in {kinds:?}"
        );
    }
    let of_rules = |begin: &str| kinds.iter().filter(|kind| kind.starts_with(begin)).count();
    assert!(of_rules("logical_plan after ") > 10 && of_rules("physical_plan after ") > 10);
    // Planned as two steps, and made one.
    assert!(
        text.contains("mode=Partial") && text.contains("mode=Single"),
        "{text}"
    );
}

#[test]
fn explain_analyze_runs_the_query_and_shows_its_rows() {
    let (kinds, text) = explained(&format!("explain analyze {QUERY}"));
    assert_eq!(kinds, ["Plan with Metrics"]);
    assert!(text.contains("output_rows=2"), "{text}");
}

#[test]
fn explain_draws_a_tree_where_asked() {
    let (kinds, text) = explained("explain format tree select 1 as one");
    assert_eq!(kinds, ["physical_plan"]);
    assert!(text.contains('┌') && text.contains("one: 1"), "{text}");
}

//! What shows of the rows that leave tables in memory.

use serde_json::json;

use crate::support::World;

const KEEP: &str = "from: meter\nsteps:\n  - select: topic_part(topic, 2) as meter, kw\nto:\n  - table: moved\n  - table: dropped\n  - table: small\n";

#[test]
fn rows_that_leave_a_hot_table_are_counted() {
    let world = World::new(&[
        (
            "streams/meter.yaml",
            "topics: meter/+/reading\nformat: json\nschema:\n  kw: float\n",
        ),
        (
            "tables/moved.yaml",
            "hot: { ttl: 10ms, moves_to: kept }\nkey: [meter]\n",
        ),
        ("tables/dropped.yaml", "hot: { ttl: 10ms }\nkey: [meter]\n"),
        (
            "tables/small.yaml",
            "hot: { rows_max: 1, when_full: evict }\nkey: [meter]\n",
        ),
        ("tables/kept.yaml", "relational: {}\nkey: [meter]\n"),
        ("flows/keep.yaml", KEEP),
    ]);
    for meter in ["m1", "m2"] {
        world.publish(&format!("meter/{meter}/reading"), json!({ "kw": 1 }));
    }
    let moved = world.until("/api/v1/tables/moved", |table| {
        table["hot"]["moves"]["moved"] == 2
    });
    assert_eq!(moved["rows"], 0);
    let moves = &moved["hot"]["moves"];
    assert_eq!(
        (
            &moves["to"],
            &moves["rejected"],
            &moves["lag_s"],
            &moves["error"]
        ),
        (&json!("kept"), &json!(0), &json!(0.0), &json!(null))
    );
    assert_eq!(
        world.sql("select meter from kept order by meter"),
        json!([["m1"], ["m2"]])
    );
    world.until("/api/v1/tables/dropped", |table| {
        table["hot"]["expired"] == 2
    });
    world.until("/api/v1/tables/small", |table| table["hot"]["evicted"] == 1);
    let kept = world.get_json("/api/v1/tables/kept");
    assert!(kept["hot"].is_null(), "{kept}");
    let metrics = world.get("/metrics").body;
    for line in [
        "busbar_table_rows{table=\"small\"} 1\n",
        "busbar_table_expired_rows_total{table=\"dropped\"} 2\n",
        "busbar_table_evicted_rows_total{table=\"small\"} 1\n",
        "busbar_table_moved_rows_total{table=\"moved\"} 2\n",
        "busbar_table_move_rejected_rows{table=\"moved\"} 0\n",
        "busbar_table_move_lag_seconds{table=\"moved\"} 0\n",
    ] {
        assert!(metrics.contains(line), "{line} {metrics}");
    }
    assert!(!metrics.contains("busbar_table_moved_rows_total{table=\"small\"}"));
}

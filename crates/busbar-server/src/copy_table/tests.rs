//! The files of a way between two databases.

use serde_json::Map;

use super::files::{CopiedColumn, CopyEnd, CopyInput, CopyRule, CopyTo, CopyWay, PreferredEnd};
use super::value::{CopiedValue, CopyDatabase, CopyFit};

fn end(database: CopyDatabase, kind: &str) -> CopyEnd {
    CopyEnd {
        database,
        kind: kind.into(),
        connection: kind.into(),
        options: Map::new(),
        schema: "s".into(),
        table: "t".into(),
        driven: None,
    }
}

/// What the connections of a way say of its tables.
fn used(rule: CopyRule, create: bool) -> [String; 2] {
    let columns = [("id", "int", true), ("at", "datetime(6)", false)];
    let columns = columns.map(|(name, made, key)| CopiedColumn {
        name: name.into(),
        to: name.into(),
        value: CopiedValue::Whole,
        fit: CopyFit::Whole,
        key,
        made: made.into(),
        required: key,
    });
    let (from, to) = (
        end(CopyDatabase::Postgres, "postgres"),
        end(CopyDatabase::MySql, "mysql"),
    );
    let files = CopyWay {
        name: "t",
        from: &from,
        input: &CopyInput::Followed,
        to: CopyTo::Database(&to),
        columns: &columns,
        rule: Some(rule),
        without: Some("t_back_rows"),
        create,
        lossy: false,
        shared: None,
    }
    .files();
    ["changes", "rows"].map(|used| {
        let file = &files[&format!("connections/t_{used}.yaml")];
        let line = file.lines().find(|line| line.starts_with("  "));
        line.unwrap_or_default().trim().to_owned()
    })
}

#[test]
fn a_way_leaves_out_what_the_other_one_writes_and_says_which_row_stays() {
    for (rule, follow, write) in [
        (CopyRule::Newer("at", true), "", "newer: at, or_equal: true"),
        (
            CopyRule::Newer("at", false),
            "",
            "newer: at, or_equal: false",
        ),
        (
            CopyRule::Prefer("at", PreferredEnd::From),
            "echo: returned, ",
            "prefer: { row: coming, version: at, was: at_was }",
        ),
        (
            CopyRule::Prefer("at", PreferredEnd::To),
            "echo: none, ",
            "prefer: { row: there, version: at, was: at_was }",
        ),
    ] {
        let [changes, rows] = used(rule, false);
        assert_eq!(
            changes,
            format!("follow: {{ {follow}tables: [s.t], without: [t_back_rows] }}")
        );
        assert_eq!(
            rows,
            format!(
                "write: {{ change: change, key: [id], {write}, table: s.t, unchanged: unchanged }}"
            )
        );
    }
}

#[test]
fn a_table_that_is_made_says_how_its_columns_are_declared() {
    let [_, rows] = used(CopyRule::Newer("at", false), true);
    assert!(
        rows.contains("types: { at: \"datetime(6)\", id: \"int not null\" }"),
        "{rows}"
    );
}

//! Values stay what they were: inferred columns print them as they came, and declared ones take them however
//! they are written.

use super::*;

/// The types that are inferred from JSON values of one field.
fn inferred(values: &[&str]) -> FieldType {
    let documents: Vec<String> = values.iter().map(|v| format!(r#"{{"v":{v}}}"#)).collect();
    let schema = infer(&json_format(), &payloads(&documents)).unwrap();
    SchemaSpec::of(&schema).0[0].field_type
}

#[test]
fn a_type_is_inferred_only_if_it_prints_every_value_again() {
    use FieldType::{Bool, Float, Int, Text};
    for (values, expected) in [
        (&["9007199254740993", "9007199254740992", "5"][..], Int),
        (&["9223372036854775807", "-9223372036854775808"], Int),
        (&["18446744073709551615"], Text),
        (&["1", "18446744073709551615"], Text),
        (&["1", "1.5"], Float),
        (&["9007199254740992", "1.5"], Float),
        (&["9007199254740993", "1.5"], Text),
        (&["0.1", "1e300", "12.50", "0.30000000000000004"], Float),
        (&["0.1234567890123456789"], Text),
        (&["1e400"], Text),
        (&["-0"], Float),
        (&["\"00501\"", "\"+4912345\""], Text),
        (&["1", "true"], Text),
        (&["true", "null"], Bool),
    ] {
        assert_eq!(inferred(values), expected, "{values:?}");
    }
}

#[test]
fn an_inferred_column_takes_no_value_that_it_would_change() {
    let schema = exact(&spec(r#"{"i":"int","f":"float","b":"bool","t":"text"}"#));
    let rows = payloads(&[
        r#"{"i":9007199254740993,"f":0.1,"b":true,"t":1.10}"#,
        r#"{"i":1.5}"#,
        r#"{"i":"7"}"#,
        r#"{"i":-0}"#,
        r#"{"f":9007199254740993}"#,
        r#"{"f":0.12345678901234567890}"#,
        r#"{"f":"1.5"}"#,
        r#"{"b":1}"#,
        r#"{"i":1.000,"f":9007199254740992}"#,
    ]);
    let decoded = decode(&json_format(), &schema, &rows);
    let misfits: Vec<usize> = decoded
        .rejected
        .iter()
        .map(|rejected| rejected.row)
        .collect();
    assert_eq!(misfits, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(
        values(&decoded.columns),
        [
            json!({"i":9_007_199_254_740_993_i64,"f":0.1,"b":true,"t":"1.10"}),
            json!({"i":1,"f":9_007_199_254_740_992.0}),
        ]
    );
    // Each of them fits once the columns are widened for it.
    let misfits = misfits.iter().map(|row| Some(rows.value(*row)));
    let wide = widen_for(&schema, &json_format(), &misfits.collect()).unwrap();
    let types: Vec<_> = SchemaSpec::of(&wide)
        .0
        .iter()
        .map(|field| field.field_type)
        .collect();
    assert_eq!(types, [FieldType::Text; 4]);
    assert!(
        decode(&json_format(), &exact(&wide), &rows)
            .rejected
            .is_empty()
    );
}

#[test]
fn cells_of_csv_are_numbers_only_if_the_number_prints_just_so() {
    let rows = payloads(&[
        "code,zip,kw,n,note\n1E5,00501,1.5,7,plain",
        "code,zip,kw,n,note\n1.10,10115,2,-3,\"two, three\"",
        "code,zip,kw,n,note\n-0,7,3.25,0, 6",
    ]);
    let schema = infer(&csv(true), &rows).unwrap();
    let types: Vec<_> = SchemaSpec::of(&schema)
        .0
        .iter()
        .map(|field| field.field_type)
        .collect();
    use FieldType::{Float, Int, Text};
    assert_eq!(types, [Text, Text, Float, Int, Text]);
    let decoded = decode(&csv(true), &exact(&schema), &rows);
    assert!(decoded.rejected.is_empty());
    let texts = |column: usize| -> Vec<String> {
        let column = decoded.columns.column(column).as_string::<i32>();
        column.iter().flatten().map(str::to_owned).collect()
    };
    assert_eq!(texts(0), ["1E5", "1.10", "-0"]);
    assert_eq!(texts(1), ["00501", "10115", "7"]);
    assert_eq!(texts(4), ["plain", "two, three", " 6"]);
}

/// The same cells in a CSV payload and as the texts that a row of a CSV file becomes.
#[test]
fn declared_columns_take_a_cell_the_same_in_csv_and_in_json() {
    let schema = spec(r#"{"i":"int","f":"float","b":"bool"}"#);
    for cells in [
        [" 7", ".5", "true"],
        ["+5", "+5", " 1"],
        ["00501", "1E5", "FALSE"],
        ["1.000", "-0", "0"],
        ["9223372036854775807", "3.0000", "True"],
        ["1.5", "1", "true"],
        ["1", "inf", "true"],
        ["1", "1", "yes"],
        ["x", "1", "true"],
    ] {
        let row = decode(&csv(false), &schema, &payloads(&[cells.join(",")]));
        let [i, f, b] = cells;
        let document = format!(r#"{{"i":"{i}","f":"{f}","b":"{b}"}}"#);
        let document = decode(&json_format(), &schema, &payloads(&[document]));
        assert_eq!(values(&row.columns), values(&document.columns), "{cells:?}");
        assert_eq!(row.rejected.len(), document.rejected.len(), "{cells:?}");
    }
    let null_and_empty = decode(
        &csv(false),
        &spec(r#"{"a":"text","b":"text"}"#),
        &payloads(&[",\"\""]),
    );
    assert_eq!(values(&null_and_empty.columns), [json!({"b":""})]);
}

#[test]
fn a_row_is_split_and_written_by_one_set_of_rules() {
    let texts = |row: &str| -> Option<Vec<String>> {
        let cells = csv_cells(row.as_bytes()).ok()?;
        Some(cells.into_iter().map(|cell| cell.text).collect())
    };
    let owned = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect());
    assert_eq!(
        texts("a, 7 ,\"b \"\"c\"\"\n\",5\" pipe"),
        owned(&["a", " 7 ", "b \"c\"\n", "5\" pipe"])
    );
    assert_eq!(texts("a\rb,c"), owned(&["a\rb", "c"]), "no line break");
    for bad in ["\"open", "\"a\"b", "two\nrows"] {
        assert_eq!(texts(bad), None, "{bad}");
    }
    let names = csv_names(&csv_cells(b" kw ,KW,kw").unwrap());
    assert_eq!(names, ["kw", "KW", "kw_2"]);
    for cell in [
        None,
        Some(""),
        Some("a"),
        Some("a \"b\", c"),
        Some("line\nbreak"),
        Some(" "),
    ] {
        let mut row = Vec::new();
        write_csv_cell(cell, &mut row);
        let read = &csv_cells(&row).unwrap()[0];
        let is_null = read.text.is_empty() && !read.quoted;
        assert_eq!((!is_null).then_some(read.text.as_str()), cell);
    }
}

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, SchemaRef};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::{Body, testing};

mod csv;
mod exact;
mod fhir;
mod hl7;
mod xml;

fn json_format() -> FormatSpec {
    FormatSpec::Json(JsonOptions::default())
}

fn csv(header: bool) -> FormatSpec {
    FormatSpec::Csv(CsvOptions {
        header,
        ..CsvOptions::default()
    })
}

fn spec(text: &str) -> SchemaRef {
    serde_json::from_str::<SchemaSpec>(text)
        .unwrap()
        .schema()
        .unwrap()
}

fn payloads<T: AsRef<[u8]>>(payloads: &[T]) -> BinaryArray {
    payloads
        .iter()
        .map(|payload| Some(payload.as_ref()))
        .collect()
}

fn decode(format: &FormatSpec, schema: &SchemaRef, rows: &BinaryArray) -> Decoded {
    let all: Vec<usize> = (0..schema.fields().len()).collect();
    Decoder::new(format, schema, &all).unwrap().decode(rows)
}

/// Rows of JSON as columns, with the path of each column.
pub(super) fn rows_of(schema: &str, rows: &[&str]) -> (StructArray, Vec<String>) {
    let mut fields = serde_json::from_str::<SchemaSpec>(schema).unwrap();
    let paths = fields.0.iter_mut();
    let paths = paths.map(|field| field.path.take().unwrap_or(field.name.clone()));
    let paths = paths.collect();
    let decoded = decode(&json_format(), &fields.schema().unwrap(), &payloads(rows));
    assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
    (StructArray::from(decoded.columns), paths)
}

/// Payloads as columns, whose fields say nothing of paths.
pub(super) fn decode_rows(format: &FormatSpec, schema: &str, rows: &BinaryArray) -> RecordBatch {
    let decoded = decode(format, &spec(schema), rows);
    assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
    let fields = decoded.columns.schema_ref().fields().iter();
    let fields = fields.map(|field| {
        let mut metadata = field.metadata().clone();
        metadata.remove("busbar.path");
        field.as_ref().clone().with_metadata(metadata)
    });
    let schema = arrow::datatypes::Schema::new(fields.collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), decoded.columns.columns().to_vec()).unwrap()
}

/// The rows of a record as JSON values, nulls included.
fn values(record: &RecordBatch) -> Vec<Value> {
    let encoded = encode_json(&StructArray::from(record.clone()));
    encoded
        .iter()
        .flatten()
        .map(|row| serde_json::from_slice(row).unwrap())
        .collect()
}

fn causes(decoded: &Decoded) -> Vec<(usize, &'static str)> {
    decoded
        .rejected
        .iter()
        .map(|rejected| (rejected.row, rejected.cause.code()))
        .collect()
}

const READING: &str =
    r#"{"site":"text","level":"float","count":"int","ok":"bool","at":"time","more":"json"}"#;

#[test]
fn reads_each_type() {
    let rows = payloads(&[
        r#"{"site":"a","level":3.25,"count":-7,"ok":true,"at":"2026-11-22T02:03:04Z","more":{"x":[1, 2]}}"#,
        r#" { "more" : "s" , "at":1795312984000,"other":[{"site":"no"}],"count":1e3,"level":4,"ok":false,"site":"\u00e9\ud83d\ude00\n/" } "#,
        r#"{}"#,
        r#"{"site":null,"level":null,"more":null,"site2":1}"#,
        r#"{"site":12.50,"more":-0.0,"at":1795312984.25}"#,
        r#"{"site":{"a" :1},"more":true,"site\u0032":"x"}"#,
    ]);
    let decoded = decode(&json_format(), &spec(READING), &rows);
    assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
    assert!(decoded.rows.is_none());
    assert_eq!(
        values(&decoded.columns),
        [
            json!({"site":"a","level":3.25,"count":-7,"ok":true,"at":"2026-11-22T02:03:04.000000Z","more":{"x":[1,2]}}),
            json!({"site":"é😀\n/","level":4.0,"count":1000,"ok":false,"at":"2026-11-22T02:03:04.000000Z","more":"s"}),
            json!({}),
            json!({}),
            json!({"site":"12.50","at":"2026-11-22T02:03:04.250000Z","more":-0.0}),
            json!({"site":"{\"a\" :1}","more":true}),
        ]
    );
}

#[test]
fn a_bad_row_is_named_and_its_neighbours_are_read() {
    let rows: Vec<&[u8]> = vec![
        br#"{"site":"a","count":1}"#,
        br#"{"site":"b","count":"x"}"#,
        br#"{"site":"c""#,
        br#"{"site":"d"} x"#,
        br#"[{"site":"e"}]"#,
        br#"{"site":"f","x":01}"#,
        b"{\"site\":\"g\xff\"}",
        b"{\"site\":\"h\n\"}",
        br#"{"site":"i","x":"\ud800"}"#,
        br#"{"site":"j","count":9223372036854775808}"#,
        br#"{"site":"k","count":1.5}"#,
        br#"{"site":"l","at":"yesterday"}"#,
        br#"{"site":"m",}"#,
        b"",
        br#"{"site":"n","level":1e999}"#,
        br#"{"site":"o","ok":2}"#,
        br#"{"site":"p","level":[1]}"#,
        br#"{"site":"q","x":tru}"#,
        br#"{"site":"r"}"#,
    ];
    let decoded = decode(&json_format(), &spec(READING), &payloads(&rows));
    assert_eq!(
        values(&decoded.columns),
        [json!({"site":"a","count":1}), json!({"site":"r"})]
    );
    assert_eq!(decoded.rows, Some(UInt32Array::from(vec![0, 18])));
    assert_eq!(
        causes(&decoded),
        [
            (1, "event.field-type"),
            (2, "event.json-end"),
            (3, "event.json-trailing"),
            (4, "event.json-object"),
            (5, "event.json-number"),
            (6, "event.payload-utf8"),
            (7, "event.json-text"),
            (8, "event.json-text"),
            (9, "event.field-range"),
            (10, "event.field-range"),
            (11, "event.field-time"),
            (12, "event.json-syntax"),
            (13, "event.json-end"),
            (14, "event.field-range"),
            (15, "event.field-type"),
            (16, "event.field-type"),
            (17, "event.json-syntax"),
        ]
    );
    let first = &decoded.rejected[0].cause;
    let args: Vec<_> = first
        .args()
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    assert_eq!(
        args,
        [
            ("field", "count"),
            ("position", "20"),
            ("type", "int"),
            ("found", "text")
        ]
    );
    for rejected in &decoded.rejected {
        for language in crate::Language::ALL {
            let message = rejected.cause.message(language);
            assert!(!message.contains(['{', '}']), "{message}");
        }
    }
}

#[test]
fn whether_a_row_is_good_does_not_depend_on_who_reads_it() {
    let rows = payloads(&[
        r#"{"a":1,"b":{"c":[1,{"d":01}]}}"#,
        r#"{"a":1,"b":{"c":"\x"}}"#,
        r#"{"a":1,"b":{"c":1}}"#,
    ]);
    let schema = spec(r#"{"a":"int","b":"json"}"#);
    for projection in [&[][..], &[0], &[1], &[1, 0]] {
        let decoded = Decoder::new(&json_format(), &schema, projection)
            .unwrap()
            .decode(&rows);
        assert_eq!(
            causes(&decoded),
            [(0, "event.json-number"), (1, "event.json-text")]
        );
        assert_eq!(decoded.columns.num_rows(), 1);
        assert_eq!(decoded.columns.num_columns(), projection.len());
    }
}

#[test]
fn the_last_of_repeated_members_counts() {
    let schema = spec(
        r#"{"a":"int","x":{"type":"int","path":"m.x"},"y":{"type":"int","path":"m.y"},"m":"json"}"#,
    );
    let rows = payloads(&[
        r#"{"a":1,"a":2}"#,
        r#"{"a":"bad","a":2}"#,
        r#"{"m":{"x":1,"y":2},"m":{"y":3}}"#,
        r#"{"m":{"x":1},"m":4}"#,
        r#"{"a":1,"a":null}"#,
    ]);
    let decoded = decode(&json_format(), &schema, &rows);
    assert_eq!(
        values(&decoded.columns),
        [
            json!({"a":2}),
            json!({"a":2}),
            json!({"y":3,"m":{"y":3}}),
            json!({"m":4}),
            json!({})
        ]
    );
}

#[test]
fn fields_are_found_by_path_and_under_a_root() {
    let format = FormatSpec::Json(JsonOptions {
        root: Some("data.values".into()),
    });
    let schema = spec(
        r#"{"t":{"type":"float","path":"outside.t"},"a.b":"int","again":{"type":"text","path":"outside.t"}}"#,
    );
    let rows = payloads(&[
        r#"{"outside":{"t":9},"data":{"values":{"outside":{"t":1.5,"u":2},"a.b":3,"a":{"b":4}}}}"#,
        r#"{"data":[1]}"#,
    ]);
    let decoded = decode(&format, &schema, &rows);
    assert_eq!(
        values(&decoded.columns),
        [json!({"t":1.5,"a.b":3,"again":"1.5"}), json!({})]
    );
}

#[test]
fn a_required_field_must_be_there() {
    let schema = spec(r#"{"a":{"type":"int","required":true}}"#);
    let rows = payloads(&[r#"{"a":1}"#, r#"{"a":null}"#, r#"{}"#]);
    let decoded = decode(&json_format(), &schema, &rows);
    assert_eq!(
        causes(&decoded),
        [(1, "event.field-missing"), (2, "event.field-missing")]
    );
    assert_eq!(decoded.columns.num_rows(), 1);
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    let max = crate::limits::JSON_DEPTH_MAX;
    let rows = payloads(&[
        nested(max),
        nested(max + 1),
        nested(100_000),
        "{\"a\":".repeat(100_000),
    ]);
    for schema in [
        r#"{"a":"json"}"#,
        r#"{"b":"json"}"#,
        r#"{"b":{"type":"int","path":"a.a.a.a"}}"#,
    ] {
        let decoded = decode(&json_format(), &spec(schema), &rows);
        let deep = "event.json-depth";
        assert_eq!(
            causes(&decoded),
            [(1, deep), (2, deep), (3, deep)],
            "{schema}"
        );
    }
}

#[test]
fn nothing_stays_from_one_batch_to_the_next() {
    let schema = spec(READING);
    let mut decoder = Decoder::new(&json_format(), &schema, &[2, 0]).unwrap();
    let first = payloads(&[r#"{"site":"a","count":1}"#, r#"{"count":null,"site":"bb"}"#]);
    let second = payloads(&[r#"{"count":5}"#]);
    for _ in 0..3 {
        assert_eq!(
            values(&decoder.decode(&first).columns),
            [json!({"count":1,"site":"a"}), json!({"site":"bb"})]
        );
        assert_eq!(
            values(&decoder.decode(&second).columns),
            [json!({"count":5})]
        );
        assert_eq!(decoder.decode(&payloads::<&str>(&[])).columns.num_rows(), 0);
    }
    let sliced = decoder.decode(&first.slice(1, 1));
    assert_eq!(values(&sliced.columns), [json!({"site":"bb"})]);
}

#[test]
fn a_character_split_between_payloads_is_in_neither() {
    let rows = payloads(&[&b"{\"a\":\"\xc3"[..], b"\xa9\"}", b"{}"]);
    let decoded = decode(&json_format(), &spec(r#"{"a":"text"}"#), &rows);
    assert_eq!(
        causes(&decoded),
        [(0, "event.payload-utf8"), (1, "event.payload-utf8")]
    );
}

#[test]
fn raw_payloads_are_one_column() {
    let rows = payloads(&["a", "b"]);
    let schema = infer(&FormatSpec::Raw, &rows).unwrap();
    let decoded = decode(&FormatSpec::Raw, &schema, &rows);
    assert_eq!(decoded.columns.column(0).as_binary::<i32>(), &rows);
    assert!(Decoder::new(&FormatSpec::Raw, &spec(READING), &[0]).is_err());
    assert!(Decoder::new(&json_format(), &schema, &[0]).is_err());
    assert!(Decoder::new(&json_format(), &spec(READING), &[6]).is_err());
}

#[test]
fn numbers_that_no_column_holds_are_named_and_their_neighbours_stay() {
    let rows = payloads(&[
        r#"{"count":9223372036854775807,"level":1.7976931348623157e308}"#,
        r#"{"count":9223372036854775808}"#,
        r#"{"count":-9223372036854775808,"level":-5e-324}"#,
        r#"{"count":-9223372036854775809}"#,
        r#"{"count":1e19}"#,
        r#"{"level":1.8e308}"#,
        r#"{"level":NaN}"#,
        r#"{"level":-Infinity}"#,
        r#"{"level":+1}"#,
        r#"{"level":.5}"#,
        r#"{"level":1.}"#,
        r#"{"level":0x10}"#,
        r#"{"count":-0,"level":1e-999}"#,
        r#"{"count":1e999999999999999999999}"#,
    ]);
    let decoded = decode(&json_format(), &spec(READING), &rows);
    let found = causes(&decoded);
    assert_eq!(
        found,
        [
            (1, "event.field-range"),
            (3, "event.field-range"),
            (4, "event.field-range"),
            (5, "event.field-range"),
            (6, "event.json-syntax"),
            (7, "event.json-number"),
            (8, "event.json-syntax"),
            (9, "event.json-syntax"),
            (10, "event.json-number"),
            (11, "event.json-syntax"),
            (13, "event.field-range"),
        ]
    );
    for rejected in &decoded.rejected {
        let mut args = rejected.cause.args().iter();
        assert!(
            args.any(|(name, _)| *name == "position"),
            "{}",
            rejected.cause
        );
    }
    let values = values(&decoded.columns);
    assert_eq!(values[0]["count"], 9_223_372_036_854_775_807_i64);
    assert_eq!(values[1]["count"], i64::MIN);
    assert_eq!(values[2], json!({"count":0,"level":0.0}));
}

#[test]
fn infers_the_narrowest_types_in_order() {
    let rows = payloads(&[
        r#"{"z":1,"a":1,"n":null,"o":{"x":1},"big":99999999999999999999}"#,
        r#"broken {"q":1}"#,
        r#"{"a":1.5,"b":true,"z":2,"s":"x","l":[1]}"#,
        r#"{"b":3,"z":-5,"s":"y","o":"text","n":null,"late":"x"}"#,
    ]);
    let schema = infer(&json_format(), &rows).unwrap();
    let shown = serde_json::to_value(SchemaSpec::of(&schema)).unwrap();
    let shown: Vec<(String, String)> = shown
        .as_array()
        .unwrap()
        .iter()
        .map(|field| {
            (
                field["name"].as_str().unwrap().into(),
                field["type"].as_str().unwrap().into(),
            )
        })
        .collect();
    let expected = [
        ("z", "int"),
        ("a", "float"),
        ("n", "text"),
        ("o", "json"),
        ("big", "text"),
        ("b", "text"),
        ("s", "text"),
        ("l", "json"),
        ("late", "text"),
    ];
    assert_eq!(
        shown,
        expected.map(|(name, t)| (name.to_string(), t.to_string()))
    );
    // What it was inferred from can be read by it.
    let decoded = decode(&json_format(), &schema, &rows);
    assert_eq!(causes(&decoded), [(1, "event.json-syntax")]);

    assert_eq!(
        infer(&json_format(), &payloads(&["x", "[1]"]))
            .unwrap_err()
            .code(),
        "event.infer-empty"
    );
    let root = FormatSpec::Json(JsonOptions {
        root: Some("d.e".into()),
    });
    let schema = infer(&root, &payloads(&[r#"{"d":{"f":1,"e":{"a":1}},"g":2}"#])).unwrap();
    assert_eq!(
        SchemaSpec::of(&schema).0,
        [FieldSpec::new("a", FieldType::Int)]
    );

    let schema = infer(&csv(true), &payloads(&["a,b,c\n1,x,\n", "a,b,c\n1.5,2,\n"])).unwrap();
    let types: Vec<_> = SchemaSpec::of(&schema)
        .0
        .iter()
        .map(|field| field.field_type)
        .collect();
    assert_eq!(types, [FieldType::Float, FieldType::Text, FieldType::Text]);
    let schema = infer(&csv(false), &payloads(&["1,true"])).unwrap();
    assert_eq!(schema.field(1).name(), "column2");
}

#[test]
fn widening_keeps_places() {
    let wide = widen(
        &spec(r#"{"a":{"type":"int","required":true},"b":"bool"}"#),
        &spec(r#"{"c":{"type":"text","required":true},"b":"int","a":"float"}"#),
    );
    let expected = spec(r#"{"a":"float","b":"text","c":"text"}"#);
    assert_eq!(wide.unwrap(), expected);
}

#[test]
fn a_schema_is_a_map_or_a_list() {
    let map = r#"{"a":"int","at":{"type":"time","path":"m.at","unit":"ms","required":true}}"#;
    let list = r#"[{"name":"a","type":"int"},{"name":"at","type":"time","path":"m.at","unit":"ms","required":true}]"#;
    let from_map: SchemaSpec = serde_json::from_str(map).unwrap();
    assert_eq!(from_map, serde_json::from_str(list).unwrap());
    assert_eq!(serde_json::to_string(&from_map).unwrap(), list);
    assert_eq!(SchemaSpec::of(&from_map.schema().unwrap()), from_map);
    for (wrong, code) in [
        (r#"{"":"int"}"#, "event.schema-name"),
        (
            r#"[{"name":"a","type":"int"},{"name":"a","type":"int"}]"#,
            "event.schema-twice",
        ),
        (r#"{"a":{"type":"int","path":"b..c"}}"#, "event.schema-path"),
        (r#"{"a":{"type":"int","unit":"s"}}"#, "event.schema-unit"),
    ] {
        let spec: SchemaSpec = serde_json::from_str(wrong).unwrap();
        assert_eq!(spec.schema().unwrap_err().code(), code);
    }
    for wrong in [
        r#"{"a":"integer"}"#,
        r#"{"a":{"type":"int","pth":"b"}}"#,
        r#"[{"type":"int"}]"#,
        "3",
    ] {
        assert!(
            serde_json::from_str::<SchemaSpec>(wrong).is_err(),
            "{wrong}"
        );
    }
}

#[test]
fn writes_every_type_as_json() {
    let events: Vec<testing::Owned> = (0..6)
        .map(|row| testing::Owned {
            topic: "a".into(),
            key: (row % 2 == 0).then(|| "\u{1}\"\\\u{7f}é\t".to_string()),
            time: 1_795_312_984_500_000 + row,
            client: None,
            flags: 0,
            tags: vec![("n".into(), "v".into())],
            payload: vec![row as u8; row as usize],
        })
        .collect();
    let batch = testing::typed(&events);
    let Body::Columns(columns) = batch.body() else {
        panic!("typed")
    };
    let rows: Vec<Value> = encode_json(columns)
        .iter()
        .flatten()
        .map(|row| serde_json::from_slice(row).unwrap())
        .collect();
    assert_eq!(
        rows[4],
        json!({
            "bool": true, "u16": 4, "time": "2026-11-22T02:03:04.500004Z",
            "decimal": 0.004, "text": "\u{1}\"\\\u{7f}é\t", "bytes": "BAQEBA==",
            "list": [4, 4, 4, 4], "map": {"n": null}, "inner": {"a": "\u{1}\"\\\u{7f}é\t"},
        })
    );
    assert_eq!(batch.payloads().value(4), &*batch.event(4).payload);
    assert_eq!(rows[1].get("inner"), None);
}

#[test]
fn text_that_only_claims_to_be_json_is_written_as_text() {
    let schema = spec(r#"{"j":"json"}"#);
    let column = Arc::new(StringArray::from(vec!["{\"a\":\n 1}", "{oops", "1 2"]));
    let record = RecordBatch::try_new(schema, vec![column]).unwrap();
    let encoded = encode_json(&StructArray::from(record));
    let rows: Vec<&str> = encoded
        .iter()
        .flatten()
        .map(|row| std::str::from_utf8(row).unwrap())
        .collect();
    assert_eq!(
        rows,
        [r#"{"j":{"a": 1}}"#, r#"{"j":"{oops"}"#, r#"{"j":"1 2"}"#]
    );
}

/// Documents of any sort, numbers kept as they are.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1000i64..1000).prop_map(Value::from),
        any::<f64>()
            .prop_filter("finite", |value| value.is_finite())
            .prop_map(Value::from),
        (-10_000i32..10_000).prop_map(|value| Value::from(f64::from(value) / 100.0)),
        testing::text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key(), inner), 0..5)
                .prop_map(|members| Value::from(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-d]", 1 => testing::text()]
}

fn document() -> impl Strategy<Value = Value> {
    prop::collection::vec((key(), any_json()), 0..6)
        .prop_map(|members| Value::from(members.into_iter().collect::<Map<_, _>>()))
}

/// What a value is as this type, by plain means: `None` if it does not fit.
fn expected(value: &Value, field_type: FieldType) -> Option<Value> {
    Some(match (value, field_type) {
        (Value::Null, _) => Value::Null,
        (value, FieldType::Json) => value.clone(),
        (Value::String(text), FieldType::Text) => Value::from(text.as_str()),
        (value, FieldType::Text) => Value::from(value.to_string()),
        (Value::Bool(value), FieldType::Bool) => Value::from(*value),
        (Value::Number(number), FieldType::Bool) => match number.as_u64() {
            Some(digit @ (0 | 1)) => Value::from(digit == 1),
            _ => return None,
        },
        (Value::Number(number), FieldType::Float) => Value::from(number.as_f64()?),
        (Value::Number(number), FieldType::Int) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => Value::from(value),
            (None, Some(value)) if value.fract() == 0.0 && value.abs() < 9e15 => {
                Value::from(value as i64)
            }
            _ => return None,
        },
        _ => return None,
    })
}

fn field_type() -> impl Strategy<Value = FieldType> {
    prop::sample::select(vec![
        FieldType::Bool,
        FieldType::Int,
        FieldType::Float,
        FieldType::Text,
        FieldType::Json,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn reads_what_serde_json_reads(
        documents in prop::collection::vec((document(), any::<bool>()), 0..6),
        types in prop::collection::vec(field_type(), 4),
    ) {
        let names = ["a", "b", "c", "d"];
        let fields = names.iter().zip(&types).map(|(name, t)| FieldSpec::new(*name, *t)).collect();
        let schema = SchemaSpec(fields).schema().unwrap();
        let texts: Vec<String> = documents
            .iter()
            .map(|(document, pretty)| match pretty {
                true => serde_json::to_string_pretty(document).unwrap(),
                false => document.to_string(),
            })
            .collect();
        let decoded = decode(&json_format(), &schema, &payloads(&texts));
        let mut good = values(&decoded.columns).into_iter();
        let mut bad = decoded.rejected.iter();
        for (row, (document, pretty)) in documents.iter().enumerate() {
            let fields: Option<Vec<Value>> = names
                .iter()
                .zip(&types)
                .map(|(name, t)| expected(document.get(name).unwrap_or(&Value::Null), *t))
                .collect();
            // Whole floats beyond 2^53 are judged by their digits, which the oracle does not see.
            let unsure = names.iter().zip(&types).any(|(name, t)| {
                *t == FieldType::Int && document[name].as_f64().is_some_and(|value| value.abs() >= 9e15)
            });
            if unsure {
                if decoded.rejected.iter().any(|rejected| rejected.row == row) {
                    bad.next();
                } else {
                    good.next();
                }
                continue;
            }
            match fields {
                Some(fields) => {
                    let read = good.next().unwrap();
                    for ((name, t), field) in names.iter().zip(&types).zip(fields) {
                        let value = read.get(name).cloned().unwrap_or(Value::Null);
                        let nested = *t == FieldType::Text && (document[name].is_object() || document[name].is_array());
                        if nested && *pretty {
                            let text: Value = serde_json::from_str(value.as_str().unwrap()).unwrap();
                            let field: Value = serde_json::from_str(&document[name].to_string()).unwrap();
                            prop_assert_eq!(text, field);
                        } else {
                            // Their reading of floats is not exact, so both are read by it.
                            let field: Value = serde_json::from_str(&field.to_string()).unwrap();
                            prop_assert_eq!(value, field);
                        }
                    }
                }
                None => prop_assert_eq!(bad.next().unwrap().row, row),
            }
        }
        prop_assert!(good.next().is_none() && bad.next().is_none());
    }

    #[test]
    fn accepts_what_serde_json_accepts_and_nothing_else(
        document in document(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            any::<u8>(),
            prop::sample::select(b"{}[]\",:\\u0d8-+.eE tfn1 \n".to_vec()),
        ]), 0..3),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = document.to_string().into_bytes();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let theirs = serde_json::from_slice::<Value>(&bytes);
        for schema in [r#"{"a":"json"}"#, r#"{"zz":"json"}"#, r#"{"a":{"type":"json","path":"a.b"},"b":"text"}"#] {
            let ours = decode(&json_format(), &spec(schema), &payloads(&[&bytes]));
            match &theirs {
                Ok(value) => prop_assert_eq!(ours.rejected.is_empty(), value.is_object(), "{:?}", ours.rejected),
                // They refuse numbers beyond a float, which we do only where a float is asked for.
                Err(error) if error.to_string().contains("out of range") => {}
                Err(error) => prop_assert_eq!(ours.rejected.len(), 1, "{}", error),
            }
        }
    }

    #[test]
    fn floats_are_read_to_the_last_bit(text in "-?(0|[1-9][0-9]{0,22})(\\.[0-9]{1,22})?([eE][+-]?[0-9]{1,3})?") {
        let rows = payloads(&[format!("{{\"f\":{text}}}")]);
        let decoded = decode(&json_format(), &spec(r#"{"f":"float"}"#), &rows);
        let value: f64 = text.parse().unwrap();
        if value.is_finite() {
            let read = decoded.columns.column(0).as_primitive::<arrow::datatypes::Float64Type>().value(0);
            prop_assert_eq!(read.to_bits(), value.to_bits());
        } else {
            prop_assert_eq!(causes(&decoded), [(0, "event.field-range")]);
        }
    }

    #[test]
    fn what_is_written_as_json_is_read_back(rows in prop::collection::vec((
        prop::option::of(testing::text()),
        prop::option::of(any::<i64>()),
        prop::option::of(any::<f64>().prop_filter("finite", |value| value.is_finite())),
        prop::option::of(any::<bool>()),
        prop::option::of(-62_167_219_200_000_000i64..=253_402_300_799_999_999),
    ), 0..20)) {
        let schema = spec(r#"{"s\"\n":"text","i":"int","f":"float","b":"bool","t":"time"}"#);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| row.0.clone()).collect::<StringArray>()),
            Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>()),
            Arc::new(rows.iter().map(|row| row.3).collect::<BooleanArray>()),
            Arc::new(rows.iter().map(|row| row.4).collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
        ];
        let written = RecordBatch::try_new(schema.clone(), columns).unwrap();
        let decoded = decode(&json_format(), &schema, &encode_json(&StructArray::from(written.clone())));
        prop_assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
        prop_assert_eq!(decoded.columns, written);
    }

    #[test]
    fn csv_values_come_back(values in prop::collection::vec(testing::text(), 3), header in any::<bool>()) {
        let quoted: Vec<String> =
            values.iter().map(|value| format!("\"{}\"", value.replace('"', "\"\""))).collect();
        let mut payload = quoted.join(",");
        if header {
            payload = format!("a,b,c\n{payload}\n");
        }
        let schema = spec(r#"{"a":"text","b":"text","c":"text"}"#);
        let decoded = decode(&csv(header), &schema, &payloads(&[payload]));
        prop_assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
        for (column, value) in values.iter().enumerate() {
            prop_assert_eq!(decoded.columns.column(column).as_string::<i32>().value(0), value);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60), text in "[\\[\\]{}\",:0-9a-e\\\\ \n.-]{0,40}") {
        for payload in [&bytes[..], text.as_bytes()] {
            for format in [json_format(), csv(false), csv(true)] {
                let rows = payloads(&[payload]);
                let decoded = decode(&format, &spec(READING), &rows);
                prop_assert_eq!(decoded.columns.num_rows() + decoded.rejected.len(), 1);
                if let Ok(schema) = infer(&format, &rows)
                    && format != csv(false)
                {
                    prop_assert!(!schema.fields().iter().any(|field| *field.data_type() == DataType::Null));
                }
            }
        }
    }
}

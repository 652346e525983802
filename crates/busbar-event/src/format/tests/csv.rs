use super::*;

#[test]
fn reads_csv_rows() {
    let rows = payloads(&[
        "a,3.25,-7,true,2026-11-22T02:03:04Z,\"{\"\"x\"\":1}\"",
        "\"b,\"\"c\"\"\n\",4, 8 ,0,1795312984,\r\n",
        "\"\",,,,,",
        "d,x,1,true,,",
        "e",
        "f,1,1,1,,\ng,1,1,1,,",
        "\"h,1,1,1,,",
        "\"i\"x,1,1,1,,",
        "",
        "j,1,1,maybe,,",
        "k,1,1,1,soon,",
        "l,1,1,1,,{",
        "m,1,1.5,1,,",
        "n,inf,1,1,,",
    ]);
    let decoded = decode(&csv(false), &spec(READING), &rows);
    assert_eq!(
        values(&decoded.columns),
        [
            json!({"site":"a","level":3.25,"count":-7,"ok":true,"at":"2026-11-22T02:03:04.000000Z","more":{"x":1}}),
            json!({"site":"b,\"c\"\n","level":4.0,"count":8,"ok":false,"at":"2026-11-22T02:03:04.000000Z"}),
            json!({"site":""}),
        ]
    );
    assert_eq!(
        causes(&decoded),
        [
            (3, "event.field-type"),
            (4, "event.csv-width"),
            (5, "event.csv-rows"),
            (6, "event.csv-quote"),
            (7, "event.csv-quote"),
            (8, "event.csv-empty"),
            (9, "event.field-type"),
            (10, "event.field-time"),
            (11, "event.field-type"),
            (12, "event.field-type"),
            (13, "event.field-type"),
        ]
    );
}

#[test]
fn a_csv_header_says_which_is_which() {
    let rows = payloads(&[
        "count,site\n1,a\n",
        "site , count\r\nb,2",
        "site,x\n\"c\",9\n",
        "count,site\n3",
        "site\n",
    ]);
    let mut decoder = Decoder::new(
        &csv(true),
        &spec(r#"{"site":"text","count":"int"}"#),
        &[1, 0],
    )
    .unwrap();
    let decoded = decoder.decode(&rows);
    assert_eq!(
        values(&decoded.columns),
        [
            json!({"site":"a","count":1}),
            json!({"site":"b","count":2}),
            json!({"site":"c"})
        ]
    );
    assert_eq!(
        causes(&decoded),
        [(3, "event.csv-width"), (4, "event.csv-empty")]
    );
    for (delimiter, quote) in [('é', '"'), ('\n', '"'), (',', ','), (',', '”')] {
        let format = FormatSpec::Csv(CsvOptions {
            header: false,
            delimiter,
            quote,
        });
        let error = Decoder::new(&format, &spec(READING), &[0]).unwrap_err();
        assert_eq!(error.code(), "event.csv-option");
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_csv_name_or_value() {
    let schema = spec(r#"{"site":"text","count":"int"}"#);
    let decoded = decode(
        &csv(true),
        &schema,
        &payloads(&["\u{feff}site,count\na,1", "\u{feff}\"site\",count\nb,2"]),
    );
    let expected = [json!({"site":"a","count":1}), json!({"site":"b","count":2})];
    assert_eq!(values(&decoded.columns), expected);
    let rows = ["\u{feff}a,1", "b,2"];
    let decoded = decode(&csv(false), &schema, &payloads(&rows));
    assert_eq!(values(&decoded.columns), expected);
    let inferred = infer(&csv(true), &payloads(&["\u{feff}site,count\na,1"])).unwrap();
    assert_eq!(inferred, schema);
    // A mark and nothing else is no row; JSON does not allow one, and says where.
    assert_eq!(
        causes(&decode(&csv(false), &schema, &payloads(&["\u{feff}"]))),
        [(0, "event.csv-empty")]
    );
    let decoded = decode(&json_format(), &schema, &payloads(&["\u{feff}{}", "{}"]));
    assert_eq!(causes(&decoded), [(0, "event.json-syntax")]);
    assert_eq!(decoded.rejected[0].cause.args()[0].1, "0");
}

#[test]
fn other_delimiters_quotes_and_rows_that_do_not_fit() {
    let format = |delimiter, quote| {
        FormatSpec::Csv(CsvOptions {
            header: false,
            delimiter,
            quote,
        })
    };
    let schema = spec(r#"{"a":"text","b":"float"}"#);
    for (format, good, bad) in [
        (format(';', '"'), "\"x;y\";1.5", "x,1.5"),
        (format('\t', '\''), "'it''s\ttwo\nlines'\t-0.5e1", "a\tb\tc"),
        (format('|', '"'), "x|\"2\"", "x|\"2"),
    ] {
        let decoded = decode(&format, &schema, &payloads(&[good, bad, good]));
        assert_eq!(decoded.columns.num_rows(), 2, "{:?}", decoded.rejected);
        assert_eq!(decoded.rows, Some(UInt32Array::from(vec![0, 2])));
        assert_eq!(decoded.rejected[0].row, 1);
        let code = decoded.rejected[0].cause.code();
        assert!(code.starts_with("event.csv-"), "{code}");
    }
}

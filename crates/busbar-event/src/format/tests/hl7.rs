use super::*;
use crate::format::{Hl7Charset, Hl7Options, Hl7Path, Hl7Reader, Hl7Writer, infer, widen_for};

fn hl7() -> FormatSpec {
    FormatSpec::Hl7(Hl7Options::default())
}

const ADT: &str = "MSH|^~\\&|HIS|WARD 1|LIS|LAB|20261122030405+0800||ADT^A01^ADT_A01|M0001|P|2.5\r\
    EVN|A01|20261122030405\r\
    PID|1||12345^^^HOSP^MR~998^^^CITY^SS||Smith&van^John^^^Dr.||19700102|M|||\"\"||555\\T\\6||||||\r\
    OBX|1|NM|WBC^Leukocytes^LN||6.20|10*9/L||||Y\r\
    OBX|2|ST|NOTE||fine \\.br\\ really||||||\r\
    OBX|3|NM|HGB||~7~|||\r";

#[test]
fn paths_lead_to_typed_columns() {
    let spec = spec(
        r#"{"id":{"type":"text","path":"PID.3"},"id2":{"type":"int","path":"PID.3[2].1"},
            "family":{"type":"text","path":"PID.5.1"},"prefix":{"type":"text","path":"PID.5.1.2"},
            "given":{"type":"text","path":"PID.5.2"},"born":{"type":"time","path":"PID.7"},
            "address":{"type":"text","path":"PID.11"},"alias":{"type":"text","path":"PID.9"},
            "phone":{"type":"text","path":"PID.13"},"wbc":{"type":"float","path":"OBX[1].5"},
            "final":{"type":"bool","path":"OBX.10"},"none":{"type":"text","path":"OBX[9].5"},
            "sent":{"type":"time","path":"MSH.7"},"fs":{"type":"text","path":"MSH.1"},
            "chars":{"type":"text","path":"MSH.2"},"event":{"type":"text","path":"MSH.9.2"},
            "value":{"type":"text","path":"OBX[3].5[2]"}}"#,
    );
    let decoded = decode(&hl7(), &spec, &payloads(&[ADT]));
    assert_eq!(causes(&decoded), []);
    assert_eq!(
        values(&decoded.columns),
        [
            json!({"id":"12345","id2":998,"family":"Smith","prefix":"van","given":"John",
               "born":"1970-01-02T00:00:00.000000Z","address":"","phone":"555&6","wbc":6.2,
               "final":true,"sent":"2026-11-21T19:04:05.000000Z","fs":"|","chars":"^~\\&",
               "event":"A01","value":"7"})
        ]
    );
}

#[test]
fn json_columns_hold_all_there_is() {
    let spec = spec(
        r#"{"PID.5":"json","PID.3":"json","PID.3[*].1":"json","PID.11":"json","PID.9":"json",
            "OBX[*].5":"json","OBX.3.1":"json","OBX[2]":"json","OBX[*].5[*]":"json","NTE[*]":"json","EVN":"json",
            "MSH.2":"json"}"#,
    );
    let decoded = decode(&hl7(), &spec, &payloads(&[ADT]));
    assert_eq!(
        values(&decoded.columns),
        [json!({
            "PID.5":{"1":{"1":"Smith","2":"van"},"2":"John","5":"Dr."},
            "PID.3":[{"1":"12345","4":"HOSP","5":"MR"},{"1":"998","4":"CITY","5":"SS"}],
            "PID.3[*].1":["12345","998"],"PID.11":"",
            "OBX[*].5":["6.20","fine \n really",[null,"7",null]],
            "OBX.3.1":["WBC","NOTE","HGB"],
            "OBX[2]":{"1":"2","2":"ST","3":"NOTE","5":"fine \n really"},
            "OBX[*].5[*]":[["6.20"],["fine \n really"],[null,"7",null]],
            "EVN":{"1":"A01","2":"20261122030405"},
            "MSH.2":"^~\\&"
        })]
    );
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let spec = spec(
        r#"{"born":{"type":"time","path":"PID.7"},"n":{"type":"int","path":"PID.1"},
            "id":{"type":"text","path":"PID.3","required":true}}"#,
    );
    let rows: Vec<Vec<u8>> = [
        &b"MSH|^~\\&|A\rPID|1||7||||20260230"[..],
        b"MSH|^~\\&|A\rPID|one||7",
        b"MSH|^~\\&|A\rPID|1||",
        b"",
        b"PID|1",
        b"MSH",
        b"MSH|^^\\&|A",
        b"FHS|^~\\&|A\rMSH|^~\\&|A",
        b"MSH|^~\\&|A\rMSH|^~\\&|A",
        b"MSH|^~\\&|A\rpid|1",
        b"MSH|^~\\&|A\rPID^1",
        b"MSH|^~\\&|A\r\xff\xfe",
        b"MSH|^~\\&||||||||||||||||UNICODE UTF-16\rPID|\xd6\xd0",
        b"MSH|^~\\&|A\r\n\nPID|1||7||||\n",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    let decoded = decode(&hl7(), &spec, &payloads(&rows));
    assert_eq!(
        causes(&decoded),
        [
            (0, "event.hl7-time"),
            (1, "event.hl7-value"),
            (2, "event.field-missing"),
            (3, "event.hl7-start"),
            (4, "event.hl7-start"),
            (5, "event.hl7-separators"),
            (6, "event.hl7-separators"),
            (7, "event.hl7-batch"),
            (8, "event.hl7-batch"),
            (9, "event.hl7-segment"),
            (10, "event.hl7-segment"),
            (11, "event.hl7-charset-bytes"),
            (12, "event.hl7-charset"),
        ]
    );
    assert_eq!(
        values(&decoded.columns),
        [json!({"n":1,"id":"7"})],
        "segments may end with line feeds"
    );
    let cause = &decoded.rejected[0].cause;
    assert!(cause.to_string().contains("PID.7"), "{cause}");
}

#[test]
fn paths_that_lead_nowhere_are_refused() {
    for (text, code) in [
        (r#"{"patient":"text"}"#, "event.hl7-path"),
        (r#"{"a":{"type":"text","path":"PID.x"}}"#, "event.hl7-path"),
        (r#"{"PID":"text"}"#, "event.hl7-list"),
        (r#"{"PID.3[*]":"text"}"#, "event.hl7-list"),
    ] {
        let refused = Decoder::new(&hl7(), &spec(text), &[0]).unwrap_err();
        assert_eq!(refused.code(), code, "{text}");
    }
    for options in [r#"{"charset":"EBCDIC"}"#, r#"{"zone":"Asia/Shanghai"}"#] {
        let format = FormatSpec::Hl7(serde_json::from_str(options).unwrap());
        let refused = Decoder::new(&format, &spec("{}"), &[]).unwrap_err();
        assert_eq!(refused.code(), "event.hl7-option", "{options}");
    }
}

#[test]
fn character_sets_are_what_the_header_says() {
    let spec = spec(r#"{"name":{"type":"text","path":"PID.5.1"}}"#);
    let gb = Hl7Charset::of("GB18030").unwrap();
    let message =
        |charset: &str| format!("MSH|^~\\&||||||||||||||||{charset}\rPID|||||王丽^x\\XCDF5\\");
    let rows = [
        gb.encode(&message("GB18030")).unwrap().into_owned(),
        gb.encode(&message("GB 18030-2000~X")).unwrap().into_owned(),
        message("UNICODE UTF-8").into_bytes(),
        message("").into_bytes(),
        message("ASCII").into_bytes(),
        message("~X").into_bytes(),
        b"MSH|^~\\&||||||||||||||||8859/1\rPID|||||\xe9".to_vec(),
        b"\r\nMSH|^~\\&||||||||||||||||8859/1\rPID|||||\xe9".to_vec(),
    ];
    let decoded = decode(&hl7(), &spec, &payloads(&rows));
    let name = |name: &str| json!({ "name": name });
    let wang = name("王丽");
    assert_eq!(
        values(&decoded.columns),
        [
            &wang,
            &wang,
            &wang,
            &wang,
            &wang,
            &wang,
            &name("é"),
            &name("é")
        ]
        .map(Clone::clone)
    );
    // Those that declare none, or ASCII wrongly, are in what the format says.
    let format = FormatSpec::Hl7(serde_json::from_str(r#"{"charset":"GB18030"}"#).unwrap());
    let rows = ["", "ASCII"].map(|name| gb.encode(&message(name)).unwrap().into_owned());
    let decoded = decode(&format, &spec, &payloads(&rows));
    assert_eq!(values(&decoded.columns), [wang.clone(), wang]);
    // The second byte of 亅 is a `|`: it hides where MSH-18 is.
    let hidden = "MSH|^~\\&|亅亅|||||||||||||||GB18030\rPID|||||亅^";
    let bytes = gb.encode(hidden).unwrap().into_owned();
    assert!(bytes.windows(2).any(|two| two == b"\x81|"));
    let decoded = decode(&hl7(), &spec, &payloads(&[bytes]));
    assert_eq!(causes(&decoded), []);
    assert_eq!(values(&decoded.columns), [name("亅")]);
}

#[test]
fn escape_sequences_switch_between_the_character_sets_of_the_header() {
    let spec = spec(
        r#"{"name":{"type":"text","path":"PID.5.1"},"given":{"type":"text","path":"PID.5.2"}}"#,
    );
    let message = |charset: &str, name: &[u8]| {
        let mut message = format!("MSH|^~\\&||||||||||||||||{charset}|JPN\rPID|||||").into_bytes();
        message.extend_from_slice(name);
        message
    };
    let yamada = b"\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B^^^^^L^I\rOBX|1";
    let rows = [
        "~ISO IR87",
        "ISO IR87",
        "ISO IR6~ISO IR87",
        "ISO IR14~ISO IR87^x",
    ]
    .map(|charset| message(charset, yamada));
    let decoded = decode(&hl7(), &spec, &payloads(&rows));
    assert_eq!(causes(&decoded), []);
    let yamada = json!({"name":"山田","given":"太郎"});
    assert_eq!(values(&decoded.columns), vec![yamada; 4]);
    // The default of the format, for messages that declare none.
    let format =
        FormatSpec::Hl7(serde_json::from_str(r#"{"charset":"ISO IR6~ISO IR87"}"#).unwrap());
    let rows = [message("", b"\x1b$B;3\x1b(J^plain")];
    let decoded = decode(&format, &spec, &payloads(&rows));
    assert_eq!(
        values(&decoded.columns),
        [json!({"name":"山","given":"plain"})]
    );
    let rows = [
        message("~ISO IR87", b"\x1b$B;3ED\rOBX|1"),
        message("~ISO IR87", b"\x1b(I1\x1b(B"),
        message("~ISO IR87", "山".as_bytes()),
    ];
    let decoded = decode(&hl7(), &spec, &payloads(&rows));
    let codes: Vec<&str> = causes(&decoded).into_iter().map(|(_, code)| code).collect();
    assert_eq!(codes, ["event.hl7-charset-switch"; 3]);
    let said = decoded.rejected[1].cause.to_string();
    assert!(
        said.contains("ISO IR87") && said.contains("byte 46"),
        "{said}"
    );
}

#[test]
fn each_segment_is_an_inferred_column() {
    let rows = payloads(&[ADT, "MSH|^~\\&|A\rPV1|1", "no message"]);
    let schema = infer(&hl7(), &rows).unwrap();
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["MSH", "EVN", "PID", "OBX", "PV1"]);
    let decoded = decode(&hl7(), &schema, &rows);
    assert_eq!(decoded.rejected.len(), 1);
    let wider = widen_for(&schema, &hl7(), &payloads(&["MSH|^~\\&\rZZZ|1"])).unwrap();
    assert_eq!(wider.fields().len(), 6);
}

/// A message's value at a path as JSON, read as a column is.
fn read(message: &str, path: &str) -> Value {
    let spec = spec(&json!({ path: "json" }).to_string());
    let decoded = decode(&hl7(), &spec, &payloads(&[message]));
    assert_eq!(causes(&decoded), [], "{message:?}");
    values(&decoded.columns)[0][path].clone()
}

#[test]
fn values_become_a_message() {
    let mut writer = Hl7Writer::default();
    for (path, value) in [
        ("PID.5", json!({"1":{"1":"Smith","2":"v|n"},"2":"J"})),
        ("PID.3[*].1", json!(["1", null, 3])),
        ("PID.7", json!(null)),
        ("PID.11", json!("")),
        ("PID.30", json!(true)),
        ("MSH.9.2", json!("A01")),
        ("MSH.9.1", json!("ADT")),
        ("OBX[*].3", json!(["WBC", "HGB"])),
        ("NTE.3", json!("a\nb")),
        ("OBX[*].5", json!([6.2, null, "x"])),
    ] {
        writer.set(&Hl7Path::parse(path).unwrap(), &value).unwrap();
    }
    assert!(writer.has(*b"PID", 5) && !writer.has(*b"PID", 7));
    let message = writer.finish().unwrap();
    assert_eq!(
        message,
        "MSH|^~\\&|||||||ADT^A01\r\
         PID|||1~~3||Smith&v\\F\\n^J||||||\"\"|||||||||||||||||||Y\r\
         OBX|||WBC||6.2\rOBX|||HGB\rOBX|||||x\rNTE|||a\\.br\\b\r"
    );
    assert_eq!(read(&message, "OBX[*].5"), json!(["6.2", null, "x"]));
    assert_eq!(writer.finish().unwrap(), "MSH|^~\\&\r", "it is empty again");
    for (path, value) in [
        ("PID", json!("x")),
        ("PID.5.1.1", json!({"1":"x"})),
        ("PID.5.1", json!({"1":{"1":"x"}})),
        ("PID.5", json!({"x":"y"})),
        ("PID.5", json!([["x"]])),
        ("*", json!([{"1":"x"}])),
        ("*", json!([{"segment":"BHS"}])),
        ("MSH[2].3", json!("x")),
    ] {
        let refused = writer.set(&Hl7Path::parse(path).unwrap(), &value);
        assert_eq!(refused.unwrap_err().code(), "event.hl7-shape", "{path}");
    }
    let mut wide = Hl7Writer::default();
    let fields: Map<String, Value> = (1..=999)
        .map(|n| (n.to_string(), json!({"9999":{"9999":"x"}})))
        .collect();
    let refused = wide.set(&Hl7Path::parse("PID").unwrap(), &Value::Object(fields));
    assert_eq!(refused.unwrap_err().code(), "event.hl7-large");
}

fn segment() -> impl Strategy<Value = Value> {
    let text = prop_oneof!["[ -~\r\n中]{0,6}", Just("\"\"".to_owned())];
    let part = text.prop_map(Value::String);
    let object = |inner: BoxedStrategy<Value>| {
        proptest::collection::btree_map(1_usize..4, inner, 1..3)
            .prop_filter("one part needs no object", |parts| {
                !parts.keys().all(|n| *n == 1)
            })
            .prop_map(|parts| {
                let members = parts.into_iter().map(|(n, part)| (n.to_string(), part));
                Value::Object(members.collect())
            })
            .boxed()
    };
    let component = prop_oneof![part.clone(), object(part.boxed())].boxed();
    let repetition = prop_oneof![component.clone(), object(component)];
    let field = prop_oneof![
        repetition.clone(),
        proptest::collection::vec(repetition, 2..4).prop_map(Value::Array),
    ];
    let fields = proptest::collection::btree_map(1_usize..9, field, 0..4);
    ("[A-EG-LN-Z][A-Z0-9]{2}", fields).prop_map(|(name, fields)| {
        let mut object = Map::new();
        object.insert("segment".into(), Value::String(name));
        for (number, field) in fields {
            object.insert(number.to_string(), field);
        }
        Value::Object(object)
    })
}

proptest! {
    /// What a writer wrote is read again as what it was.
    #[test]
    fn written_messages_are_read_again(
        segments in proptest::collection::vec(segment(), 0..5)
            .prop_filter("segments around messages", |all| {
                all.iter().all(|s| !["BHS", "BTS"].contains(&s["segment"].as_str().unwrap()))
            })
    ) {
        let all = Hl7Path::parse("*").unwrap();
        let mut writer = Hl7Writer::default();
        writer.set(&all, &Value::Array(segments)).unwrap();
        let message = writer.finish().unwrap();
        let read_once = read(&message, "*");
        let again = Value::Array(read_once.as_array().unwrap().clone());
        writer.set(&all, &again).unwrap();
        let second = writer.finish().unwrap();
        prop_assert_eq!(&second, &message);
        prop_assert_eq!(read(&second, "*"), again);
    }

    /// Any bytes are a message or are refused, and nothing else.
    #[test]
    fn no_bytes_do_harm(bytes in "MSH[|^~\\\\&\r\n A-Z0-9\"#.X中]{0,80}") {
        let mut reader = Hl7Reader::new(&Hl7Options::default()).unwrap();
        let good = reader.read(bytes.as_bytes()).is_ok();
        let spec = spec(r#"{"*":"json","PID":"json","PID.1.1.1":"text","MSH.2":"text"}"#);
        let decoded = decode(&hl7(), &spec, &payloads(&[&bytes]));
        prop_assert_eq!(decoded.rejected.is_empty(), good);
    }
}

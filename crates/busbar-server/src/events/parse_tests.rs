use super::*;
use proptest::prelude::*;

fn parse(body: &str) -> Result<Parsed, Error> {
    Parsed::new(
        Bytes::copy_from_slice(body.as_bytes()),
        Layout::Json,
        Common::default(),
    )
}

fn to_topic(topic: &str) -> Common {
    Common {
        topic: Some(topic.into()),
        ..Common::default()
    }
}

fn shown(parsed: &Parsed) -> Vec<String> {
    parsed
        .events()
        .map(|(view, tags)| {
            let tags: Vec<_> = parsed.tags(tags).map(|(n, v)| format!("{n}={v}")).collect();
            format!(
                "{} {} {:?} [{}] {}",
                view.index,
                view.topic,
                view.key,
                tags.join(","),
                String::from_utf8_lossy(view.payload)
            )
        })
        .collect()
}

#[test]
fn topics_of_the_node_itself_are_not_for_others() {
    for topic in ["$SYS", "$SYS/broker/uptime", "$share/g/t"] {
        let body = format!(r#"[{{"topic":"a","payload":1}},{{"topic":"{topic}","payload":1}}]"#);
        let parsed = parse(&body).unwrap();
        let (at, error) = &parsed.rejected[0];
        assert_eq!((*at, error.code()), (1, "server.topic-reserved"), "{topic}");
        let whole = Parsed::new(Bytes::from_static(b"1"), Layout::Raw, to_topic(topic));
        assert_eq!(whole.unwrap_err().code(), "server.topic-reserved");
    }
    assert!(
        parse(r#"{"topic":"$SYSTEM","payload":1}"#)
            .unwrap()
            .rejected
            .is_empty()
    );
}

#[test]
fn one_document_an_array_and_lines_mean_the_same() {
    let (a, b) = (
        r#"{"topic":"m/1","payload":{"kw": 3.20},"key":"k","tags":{"site":"a"}}"#,
        r#"{"payload":"text","topic":"m\/2","time":"2026-11-22T00:00:00Z"}"#,
    );
    let expected = [
        r#"0 m/1 Some("k") [site=a] {"kw": 3.20}"#,
        r#"1 m/2 None [] text"#,
    ];
    for body in [
        format!("[{a},\n {b}]"),
        format!("{a}\n{b}\n"),
        format!("\r\n{a}\r\n\n{b}"),
    ] {
        let parsed = parse(&body).unwrap();
        assert_eq!(shown(&parsed), expected, "{body}");
        assert!(parsed.rejected.is_empty());
    }
    assert_eq!(shown(&parse(a).unwrap()), expected[..1]);
    let pretty = "{\n  \"topic\": \"m/1\",\n  \"payload\": [1,\n 2]\n}";
    assert_eq!(shown(&parse(pretty).unwrap()), ["0 m/1 None [] [1,\n 2]"]);
}

#[test]
fn a_bad_event_does_not_harm_its_neighbours() {
    let body = [
        r#"{"topic":"a","payload":1}"#,
        r#"{"topic":"a","payload":"#,
        r#"{"topic":"a/+","payload":1}"#,
        r#"{"payload":1}"#,
        r#"{"topic":"a"}"#,
        r#"{"topic":"a","payload":1,"tpoic":2}"#,
        r#"{"topic":"a","payload":1,"time":"yesterday"}"#,
        r#"{"topic":"a","payload":1,"tags":{"x":1}}"#,
        r#"{"topic":"a","payload":1,"payload_base64":"AA=="}"#,
        r#"{"topic":"a","payload_base64":"?"}"#,
        r#"7"#,
        r#"{"topic":"b","payload_base64":"AAE="}"#,
    ]
    .join("\n");
    let parsed = parse(&body).unwrap();
    assert_eq!(shown(&parsed), ["0 a None [] 1", "11 b None [] \u{0}\u{1}"]);
    let codes: Vec<_> = parsed
        .rejected
        .iter()
        .map(|(index, error)| (*index, error.code()))
        .collect();
    assert_eq!(
        codes,
        [
            (1, "server.not-json"),
            (2, "event.topic-wildcard"),
            (3, "server.no-topic"),
            (4, "server.no-payload"),
            (5, "server.unknown-field"),
            (6, "server.bad-field"),
            (7, "server.bad-field"),
            (8, "server.bad-field"),
            (9, "server.bad-field"),
            (10, "server.not-object"),
        ]
    );
}

#[test]
fn with_a_topic_each_document_is_a_payload() {
    let new = |body: &'static str, layout| {
        let common = Common {
            retain: true,
            ..to_topic("t/1")
        };
        Parsed::new(Bytes::from_static(body.as_bytes()), layout, common)
    };
    let lines = new("{\"a\":1}\n\"text\"\nnot json\n3", Layout::Json).unwrap();
    assert_eq!(
        shown(&lines),
        [
            "0 t/1 None [] {\"a\":1}",
            "1 t/1 None [] \"text\"",
            "3 t/1 None [] 3"
        ]
    );
    assert_eq!(lines.rejected.len(), 1);
    assert!(lines.events().all(|(view, _)| view.retain));
    let raw = new("anything\nat all", Layout::Raw).unwrap();
    assert_eq!(shown(&raw), ["0 t/1 None [] anything\nat all"]);
    let arrays = new("[1]\n[2]", Layout::Lines).unwrap();
    assert_eq!(shown(&arrays).len(), 2);
}

#[test]
fn what_the_request_says_holds_for_events_that_do_not() {
    let common = || Common {
        key: Some("k".into()),
        time: Some(7),
        tags: vec![("site".into(), "a".into())],
        qos: 0,
        ..Common::default()
    };
    let body = br#"[{"topic":"a","payload":1},{"topic":"b","payload":2,"key":"own","time":8,"qos":2,"tags":{"x":"y"}}]"#;
    let parsed = Parsed::new(Bytes::from_static(body), Layout::Json, common()).unwrap();
    assert_eq!(
        shown(&parsed),
        [
            r#"0 a Some("k") [site=a] 1"#,
            r#"1 b Some("own") [x=y,site=a] 2"#
        ]
    );
    let rest: Vec<_> = parsed
        .events()
        .map(|(view, _)| (view.time, view.qos))
        .collect();
    assert_eq!(rest, [(Some(7), 0), (Some(8), 2)]);
    let many = Common {
        tags: vec![("x".into(), "y".into()); TAGS_MAX],
        ..common()
    };
    let parsed = Parsed::new(Bytes::from_static(body), Layout::Json, many).unwrap();
    assert_eq!(shown(&parsed).len(), 1);
    assert_eq!(parsed.rejected[0].1.code(), "server.too-many-tags");
    let wrong = Common { qos: 3, ..common() };
    let wrong = Parsed::new(Bytes::from_static(body), Layout::Json, wrong);
    assert_eq!(wrong.unwrap_err().code(), "server.bad-field");
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_text() {
    let event = r#"{"topic":"a","payload":"é"}"#;
    for body in [
        format!("\u{feff}{event}"),
        format!("\u{feff}[{event}]"),
        format!("\u{feff}{event}\r\n\r\n"),
    ] {
        assert_eq!(shown(&parse(&body).unwrap()), ["0 a None [] é"], "{body:?}");
    }
    let raw = Parsed::new("\u{feff}x".into(), Layout::Raw, to_topic("a")).unwrap();
    assert_eq!(shown(&raw), ["0 a None [] \u{feff}x"]);
    assert_eq!(parse("\u{feff}").unwrap_err().code(), "server.no-body");
}

#[test]
fn times_that_nobody_could_be_shown_are_refused() {
    for (time, good) in [
        ("0", true),
        ("-62167219200000000", true),
        ("253402300799999999", true),
        ("253402300800000000", false),
        ("9223372036854775807", false),
        ("9223372036854775808", false),
        ("1.5", false),
        ("1e15", false),
        ("\"9999-12-31T23:59:59-01:00\"", false),
    ] {
        let body = format!("{{\"topic\":\"a\",\"payload\":1,\"time\":{time}}}");
        let parsed = parse(&body).unwrap();
        assert_eq!(parsed.count() == 1, good, "{time}");
    }
}

#[test]
fn bodies_that_are_nothing_are_refused_as_a_whole() {
    for (body, code) in [
        ("", "server.no-body"),
        (" \n ", "server.no-body"),
        ("[1,", "server.not-json"),
        ("[] []", "server.not-json"),
    ] {
        let error = parse(body).unwrap_err();
        assert_eq!(error.code(), code, "{body}");
        let chinese = error
            .message(busbar_event::Language::Zh)
            .replace("JSON", "");
        let english = |letter: char| letter.is_ascii_alphabetic();
        assert!(!chinese.contains(english), "{body}: {chinese}");
    }
    let many = format!("[{}]", vec!["1"; REQUEST_EVENTS_MAX + 1].join(","));
    assert_eq!(parse(&many).unwrap_err().code(), "server.too-many-events");
    let bytes = Bytes::from_static(b"{\"topic\":\"\xff\"}");
    let bad = Parsed::new(bytes, Layout::Json, Common::default()).unwrap_err();
    assert_eq!(bad.code(), "server.not-utf8");
    let raw = Parsed::new(Bytes::from_static(b"x"), Layout::Raw, Common::default());
    assert_eq!(raw.unwrap_err().code(), "server.raw-needs-topic");
    let bad = Parsed::new(Bytes::from_static(b"1"), Layout::Json, to_topic("a/#"));
    assert_eq!(bad.unwrap_err().code(), "event.topic-wildcard");
}

#[test]
fn refused_events_are_taken_out_by_index() {
    let body = "[{\"topic\":\"a\",\"payload\":1},{\"topic\":\"b\",\"payload\":2},{\"topic\":\"a\",\"payload\":3}]";
    let mut parsed = parse(body).unwrap();
    parsed.retain(|view| match view.topic {
        "b" => Err(Error::new(Class::Permanent, "access.publish-denied")),
        _ => Ok(()),
    });
    assert_eq!(shown(&parsed), ["0 a None [] 1", "2 a None [] 3"]);
    assert_eq!(parsed.rejected[0].0, 1);
}

proptest! {
    #[test]
    fn never_panics_and_counts_every_document(body in r#"[\[\]{}",:\\ a-z0-9\n]{0,80}"#, topic: bool) {
        let common = if topic { to_topic("t") } else { Common::default() };
        if let Ok(parsed) = Parsed::new(Bytes::from(body), Layout::Json, common) {
            prop_assert_eq!(parsed.count, parsed.items.len() + parsed.rejected.len());
            let _ = shown(&parsed);
        }
    }

    #[test]
    fn any_text_arrives_as_it_was(text in ".*", key in ".*", tag in ".{0,8}", value in ".*") {
        let body = serde_json::json!({"topic":"t","payload":text,"key":key,"tags":{tag.clone():value}});
        let parsed = parse(&body.to_string()).unwrap();
        let (view, tags) = parsed.events().next().unwrap();
        prop_assert_eq!(view.payload, text.as_bytes());
        prop_assert_eq!(view.key, Some(&*key));
        prop_assert_eq!(parsed.tags(tags).next(), Some((&*tag, &*value)));
    }
}

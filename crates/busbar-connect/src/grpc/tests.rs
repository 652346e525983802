//! `.proto` files, messages by the byte, and statuses.

use busbar_catalog::CallSpec;
use busbar_connector::{CallFault, CallForm, CallParts, ServiceAnswer};
use busbar_event::{Class, Error};
use bytes::Bytes;
use http::HeaderValue;
use serde_json::{Value, json};

use super::codec::{decode, encode};
use super::form::GrpcForm;
use super::proto::ProtoFile;
use super::{GrpcOptions, read_proto};

const PROTO: &str = r#"
// Levels.
syntax = "proto3";
package levels.v1; /* of
gauges */
option java_package = "example.levels";
import_none;
"#;

const LEVELS: &str = r#"
syntax = "proto3";
package levels.v1;
option java_package = "example; levels";
service Levels {
  option deprecated = true;
  rpc Get (Station) returns (.levels.v1.Level);
  rpc Watch (Station) returns (stream Level) { option idempotency_level = NO_SIDE_EFFECTS; }
}
message Station {
  string name = 1 [json_name = "n", deprecated = true];
  repeated sint32 history = 2;
  map<string, Place> places = 3;
  oneof by { int64 number = 4; bytes raw = 5; }
  enum Kind { option allow_alias = true; UNKNOWN = 0; RIVER = 1; SEA = -2; }
  Kind kind = 6;
  message Place { double lat = 1; optional float lon_deg = 2; Place within = 3; }
  Place place = 7;
  reserved 8, 10 to 12; reserved "old";
  repeated string notes = 13;
  fixed64 f64 = 14; sfixed32 s32 = 15; uint32 u32 = 16; bool on = 17; uint64 u64 = 18; int32 i32 = 19;
  repeated int32 loose = 20 [packed = false];
  map<int32, bool> flags = 21;
}
message Level { double mm = 1; string note = 2; Station station = 3; optional int32 age_s = 4; }
"#;

fn message(file: &ProtoFile, name: &str) -> usize {
    let found = file
        .messages
        .iter()
        .position(|message| message.name == name);
    found.unwrap_or_else(|| panic!("{name}: {file:?}"))
}

#[test]
fn messages_go_both_ways() {
    let file = ProtoFile::parse(LEVELS).expect("a file");
    let station = message(&file, "levels.v1.Station");
    let object = json!({
        "name": "雨", "history": [1, -1, 300], "places": { "a": { "lat": 1.5 }, "b": { "within": { "lat": -2.0 } } },
        "number": -5, "kind": "SEA", "place": { "lat": 0.0, "lon_deg": 0.1 }, "notes": ["x", ""],
        "f64": 7, "s32": -7, "u32": 4294967295u32, "on": true, "u64": u64::MAX, "i32": -1, "loose": [1, 2],
        "flags": { "-3": true }
    });
    let bytes = encode(&file, station, &object).expect("a message");
    let mut expected = object.clone();
    // What is not there has its default, where it has one.
    expected["places"]["b"]["lat"] = json!(0.0);
    expected["places"]["b"]["within"]["lat"] = json!(-2.0);
    expected["places"]["b"]["lat"] = json!(0.0);
    expected["places"]["b"]["within"] = json!({ "lat": -2.0 });
    assert_eq!(decode(&file, station, &bytes).expect("an object"), expected);
    let level = message(&file, "levels.v1.Level");
    let empty = decode(&file, level, &[]).expect("an object");
    assert_eq!(empty, json!({ "mm": 0.0, "note": "" }));
}

#[test]
fn bytes_are_those_of_the_format() {
    let file = ProtoFile::parse(LEVELS).expect("a file");
    let station = message(&file, "levels.v1.Station");
    for (object, bytes) in [
        (json!({ "name": "ab" }), &b"\x0a\x02ab"[..]),
        (json!({ "history": [1, -1] }), b"\x12\x02\x02\x01"),
        (json!({ "loose": [1, 2] }), b"\xa0\x01\x01\xa0\x01\x02"),
        (
            json!({ "i32": -1 }),
            b"\x98\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ),
        (json!({ "raw": "AQI=" }), b"\x2a\x02\x01\x02"),
        (
            json!({ "place": { "lonDeg": 1 } }),
            b"\x3a\x05\x15\x00\x00\x80\x3f",
        ),
        (
            json!({ "places": { "k": {} } }),
            b"\x1a\x05\x0a\x01k\x12\x00",
        ),
        (json!({ "kind": 1 }), b"\x30\x01"),
        (json!({ "number": null, "name": "" }), b"\x0a\x00"),
        (json!({ "number": "12" }), b"\x20\x0c"),
    ] {
        assert_eq!(
            encode(&file, station, &object).expect("a message"),
            bytes,
            "{object}"
        );
    }
    // Packed or not, both are read; what is unknown is passed over.
    let read = |bytes: &[u8]| decode(&file, station, bytes).expect("an object");
    assert_eq!(read(b"\xa2\x01\x02\x01\x02")["loose"], json!([1, 2]));
    assert_eq!(read(b"\x10\x02\x10\x01")["history"], json!([1, -1]));
    assert_eq!(read(b"\xfa\x07\x01x\x0a\x01y")["name"], json!("y"));
    assert_eq!(read(b"\x30\x63")["kind"], json!(99));
}

#[test]
fn what_does_not_fit_is_named() {
    let file = ProtoFile::parse(LEVELS).expect("a file");
    let station = message(&file, "levels.v1.Station");
    for (object, field) in [
        (json!({ "nam": 1 }), "nam"),
        (json!({ "name": 1 }), "name"),
        (json!({ "i32": 2147483648u32 }), "i32"),
        (json!({ "u32": -1 }), "u32"),
        (json!({ "i32": 1.5 }), "i32"),
        (json!({ "place": { "lat": "x" } }), "place.lat"),
        (json!({ "places": { "k": { "x": 1 } } }), "places.k.value.x"),
        (json!({ "kind": "LAKE" }), "kind"),
        (json!({ "raw": "?" }), "raw"),
        (json!({ "history": 1 }), "history"),
        (json!([]), ""),
    ] {
        let fault = encode(&file, station, &object).expect_err("unfit");
        assert_eq!(fault.field, field, "{object}");
    }
    for bytes in [
        &b"\x0a\x05ab"[..],
        b"\x0a",
        b"\x0b",
        b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0a\x01\xff",
        b"\x30",
    ] {
        assert!(decode(&file, station, bytes).is_err(), "{bytes:?}");
    }
    // Nested without end.
    let mut deep = Vec::new();
    for _ in 0..1000 {
        let mut outer = vec![0x1a];
        let mut length = deep.len();
        while length >= 0x80 {
            outer.push(length as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.extend_from_slice(&deep);
        deep = outer;
    }
    let place = message(&file, "levels.v1.Station.Place");
    let fault = decode(&file, place, &deep).expect_err("too deep");
    assert_eq!(fault.code, "connect.grpc-deep");
}

#[test]
fn files_that_are_not_understood_are_pointed_at() {
    for (text, line, word) in [
        (PROTO, 7, "import_none"),
        ("syntax = \"proto4\";", 1, "\"proto4\""),
        ("import \"a.proto\";", 1, "\"a.proto\""),
        ("message A {\n  Missing a = 1;\n}", 2, "Missing"),
        ("message A { string a = 0; }", 1, "0"),
        ("message A { string a = 1;\n string a = 2; }", 2, "a"),
        ("message A { string a = 1;\n string b = 1; }", 2, "b"),
        ("message A {\n", 1, ""),
        ("service S { rpc A (B) returns (B); }", 1, "B"),
        ("message A { repeated group G = 1 {} }", 1, "group"),
        ("message A { string a = 'b", 1, "'"),
    ] {
        let fault = ProtoFile::parse(text).expect_err(text);
        assert_eq!((fault.line, fault.word.as_str()), (line, word), "{text}");
    }
    let old = "message A { required int32 a = 1 [default = 3]; optional B b = 2; repeated int32 c = 3; } message B {}";
    let file = ProtoFile::parse(old).expect("a file");
    assert!(file.messages[0].fields[0].has_presence && !file.messages[0].fields[2].is_packed);
    assert!(read_proto(LEVELS).is_ok());
}

fn form(step: Value) -> Result<GrpcForm, CallFault> {
    let options = json!({ "url": "http://localhost:1", "proto": LEVELS, "timeout": "5s" });
    let options: GrpcOptions = serde_json::from_value(options).expect("options");
    let call: CallSpec = serde_json::from_value(step).expect("a step");
    GrpcForm::new(&options, &call)
}

fn step() -> Value {
    json!({ "connection": "a", "method": "levels.v1.Levels/Get", "send": "*", "answer": { "mm": "float" } })
}

#[test]
fn a_request_is_a_frame_and_an_answer_an_object() {
    let form = form(step()).expect("it fits");
    let parts = CallParts {
        body: Some(r#"{"name":"ab"}"#.into()),
        ..CallParts::default()
    };
    let request = form.request(parts).expect("a request");
    assert_eq!(
        (request.path.as_str(), &request.body[..]),
        ("/levels.v1.Levels/Get", &b"\0\0\0\0\x04\x0a\x02ab"[..])
    );
    let header = |name: &str| {
        request
            .headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, v)| v.as_str())
    };
    assert_eq!(
        (header("te"), header("grpc-timeout")),
        (Some("trailers"), Some("5000m"))
    );
    let shown: Value = serde_json::from_slice(&form.shown(&request)).expect("JSON");
    assert_eq!(shown["name"], "ab");
    let canned = form
        .canned(None, r#"{"mm":1.5}"#.into())
        .expect("an answer");
    let object: Value = serde_json::from_slice(&form.answer(canned).expect("taken")).expect("JSON");
    assert_eq!(object["mm"], 1.5);
}

#[test]
fn codes_have_classes() {
    let form = form(step()).expect("it fits");
    for (code, class, name) in [
        (1, Class::Transient, "CANCELLED"),
        (2, Class::Permanent, "UNKNOWN"),
        (3, Class::Permanent, "INVALID_ARGUMENT"),
        (4, Class::Transient, "DEADLINE_EXCEEDED"),
        (5, Class::Permanent, "NOT_FOUND"),
        (8, Class::Transient, "RESOURCE_EXHAUSTED"),
        (10, Class::Transient, "ABORTED"),
        (13, Class::Permanent, "INTERNAL"),
        (14, Class::Transient, "UNAVAILABLE"),
        (99, Class::Permanent, "?"),
    ] {
        let answer = form
            .canned(Some(code), Bytes::from_static(b"no%20such station"))
            .expect("an answer");
        let error = form.answer(answer).expect_err("refused");
        assert_eq!(
            (error.class(), error.code()),
            (class, "connect.grpc-refused"),
            "{code}"
        );
        let told = error.to_string();
        assert!(
            told.contains(name) && told.contains("no such station"),
            "{told}"
        );
    }
    let bare = |status: u16, code: Option<u16>, body: &'static [u8]| {
        let mut answer = ServiceAnswer {
            status,
            body: Bytes::from_static(body),
            ..ServiceAnswer::default()
        };
        if let Some(code) = code {
            answer
                .headers
                .insert("grpc-status", HeaderValue::from(code));
        }
        form.answer(answer)
            .map_err(|error: Error| (error.class(), error.code()))
    };
    for (answer, error) in [
        (
            bare(200, None, b""),
            (Class::Transient, "connect.grpc-no-status"),
        ),
        (
            bare(503, None, b""),
            (Class::Transient, "connect.http-refused-silently"),
        ),
        (
            bare(404, None, b"x"),
            (Class::Permanent, "connect.http-refused"),
        ),
        (
            bare(200, Some(0), b""),
            (Class::Permanent, "connect.grpc-broken"),
        ),
        (
            bare(200, Some(0), b"\0\0\0\0\x05ab"),
            (Class::Permanent, "connect.grpc-broken"),
        ),
        (
            bare(200, Some(0), b"\x01\0\0\0\0"),
            (Class::Permanent, "connect.grpc-broken"),
        ),
        (
            bare(200, Some(0), b"\0\0\0\0\x02\x09a"),
            (Class::Permanent, "connect.grpc-broken"),
        ),
    ] {
        assert_eq!(answer, Err(error));
    }
}

#[test]
fn what_is_wrong_with_a_step_is_said() {
    for (change, code) in [
        (json!({ "method": null }), "connect.grpc-method"),
        (
            json!({ "method": "levels.v1.Levels/Gett" }),
            "connect.grpc-unknown-method",
        ),
        (
            json!({ "method": "levels.v1.Levels/Watch" }),
            "connect.grpc-streams",
        ),
        (json!({ "path": "/a" }), "connect.grpc-not-rest"),
        (
            json!({ "answer": { "m": "float" } }),
            "connect.grpc-no-field",
        ),
    ] {
        let mut step = step();
        for (key, value) in change.as_object().expect("an object") {
            step[key] = value.clone();
        }
        assert_eq!(
            form(step.clone()).err().expect("wrong").error.code(),
            code,
            "{step}"
        );
    }
}

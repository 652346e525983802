//! The worker of style sheets and schemas: the node's own program, started anew, which loads libxslt and libxml2.
//!
//! It speaks the protocol of every worker process, so that its bounds, its restarts and its errors are those of plug-ins.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{BufRead, Write};
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use busbar_event::Error;
use busbar_event::format::write_json_text;
use busbar_xml::{
    DocumentFault, NativeFault, NativeLibraries, StyleSheet, XmlSchema, document_text,
};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::limits::PROTOCOL_VERSION;

/// The argument by which the program becomes this worker.
pub const XML_WORKER: &str = "xml-worker";

/// A frame of the node, as far as it is read.
#[derive(Deserialize)]
struct NodeFrame<'a> {
    r#type: String,
    #[serde(default)]
    id: u64,
    #[serde(default)]
    main: String,
    #[serde(default)]
    settings: BTreeMap<String, Value>,
    #[serde(borrow)]
    columns: Option<XmlColumns<'a>>,
}

#[derive(Deserialize)]
struct XmlColumns<'a> {
    topic: Vec<String>,
    key: Option<Vec<Option<String>>>,
    time: Vec<i64>,
    tags: Option<Vec<BTreeMap<String, String>>>,
    #[serde(borrow)]
    payload: Vec<&'a RawValue>,
    #[serde(default)]
    others: BTreeMap<usize, OtherPayload>,
}

/// A payload that is no JSON.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum OtherPayload {
    Text(String),
    Base64(String),
}

/// What is done with each document.
enum XmlWork<'l> {
    Transform(StyleSheet<'l>, BTreeMap<String, Value>),
    Validate(XmlSchema<'l>, Invalid),
}

/// What becomes of a document that does not fit its schema.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Invalid {
    /// It is a dead letter.
    Dead,
    /// It passes, and says why in this tag.
    Tag,
}

/// The tag that says why a document does not fit its schema.
pub const INVALID_TAG: &str = "xml-error";

/// Runs the worker on standard input and output, until the node ends it.
pub fn run_xml_worker(kind: &str) -> ExitCode {
    let mut input = std::io::stdin().lock();
    let mut line = String::new();
    if input.read_line(&mut line).is_err() {
        return ExitCode::FAILURE;
    }
    let Ok(start) = serde_json::from_str::<NodeFrame<'_>>(&line) else {
        return ExitCode::FAILURE;
    };
    let (main, settings) = (start.main, start.settings);
    let libraries = match NativeLibraries::load(kind == "xslt") {
        Ok(libraries) => libraries,
        Err(error) => return failed(&said(&error)),
    };
    let work = match kind {
        "xslt" => {
            StyleSheet::compile(&libraries, &main).map(|style| XmlWork::Transform(style, settings))
        }
        _ => match invalid(&settings) {
            None => return failed(&fault("settings: on_invalid is dead or tag")),
            Some(invalid) => XmlSchema::compile(&libraries, &main)
                .map(|schema| XmlWork::Validate(schema, invalid)),
        },
    };
    let work = match work {
        Ok(work) => work,
        Err(fault) => return failed(&fault),
    };
    let ready =
        format!(r#"{{"type":"ready","protocol":{PROTOCOL_VERSION},"credit":2,"columns":true}}"#);
    if write_line(ready.as_bytes()).is_err() {
        return ExitCode::FAILURE;
    }
    let mut out = Vec::new();
    loop {
        line.clear();
        match input.read_line(&mut line) {
            Ok(1..) => {}
            _ => return ExitCode::SUCCESS,
        }
        let Ok(frame) = serde_json::from_str::<NodeFrame<'_>>(&line) else {
            return ExitCode::FAILURE;
        };
        out.clear();
        match (frame.r#type.as_str(), &frame.columns) {
            ("batch", Some(columns)) => batch(frame.id, columns, &work, &mut out),
            ("ping", _) => out.extend_from_slice(br#"{"type":"pong"}"#),
            ("stop", _) => return ExitCode::SUCCESS,
            _ => continue,
        }
        if write_line(&out).is_err() {
            return ExitCode::FAILURE;
        }
    }
}

fn invalid(settings: &BTreeMap<String, Value>) -> Option<Invalid> {
    match settings.get("on_invalid") {
        None => Some(Invalid::Dead),
        Some(Value::String(text)) if text == "dead" => Some(Invalid::Dead),
        Some(Value::String(text)) if text == "tag" => Some(Invalid::Tag),
        Some(_) => None,
    }
}

fn write_line(frame: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(frame)?;
    out.write_all(b"\n")?;
    out.flush()
}

fn failed(fault: &NativeFault) -> ExitCode {
    let mut out = br#"{"type":"failed","#.to_vec();
    write_fault(fault, &mut out);
    out.push(b'}');
    let _ = write_line(&out);
    ExitCode::FAILURE
}

fn said(error: &Error) -> NativeFault {
    fault(&error.to_string())
}

fn fault(message: &str) -> NativeFault {
    NativeFault {
        message: message.to_owned(),
        ..NativeFault::default()
    }
}

/// `"error":{…}`.
fn write_fault(fault: &NativeFault, out: &mut Vec<u8>) {
    out.extend_from_slice(br#""error":{"message":"#);
    write_json_text(&fault.message, out);
    if let Some(file) = &fault.file {
        out.extend_from_slice(br#","file":"#);
        write_json_text(file, out);
    }
    if let Some(line) = fault.line {
        out.extend_from_slice(format!(r#","line":{line}"#).as_bytes());
    }
    out.push(b'}');
}

fn batch(id: u64, columns: &XmlColumns<'_>, work: &XmlWork<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(format!(r#"{{"type":"result","id":{id},"events":["#).as_bytes());
    for row in 0..columns.topic.len() {
        if row > 0 {
            out.push(b',');
        }
        match answer(columns, row, work) {
            Ok(XmlAnswer::Same) => out.extend_from_slice(b"true"),
            Ok(XmlAnswer::Document(bytes)) => match std::str::from_utf8(&bytes) {
                Ok(text) => {
                    out.extend_from_slice(br#"{"text":"#);
                    write_json_text(text, out);
                    out.push(b'}');
                }
                Err(_) => {
                    out.extend_from_slice(br#"{"base64":"#);
                    write_json_text(&STANDARD.encode(&bytes), out);
                    out.push(b'}');
                }
            },
            Ok(XmlAnswer::Invalid(why)) => {
                out.extend_from_slice(br#"{"tags":{"#);
                for (name, value) in columns.tags.iter().flat_map(|tags| &tags[row]) {
                    if name != INVALID_TAG {
                        write_json_text(name, out);
                        out.push(b':');
                        write_json_text(value, out);
                        out.push(b',');
                    }
                }
                write_json_text(INVALID_TAG, out);
                out.push(b':');
                write_json_text(&why, out);
                out.extend_from_slice(b"}}");
            }
            Err(fault) => {
                out.push(b'{');
                write_fault(&fault, out);
                out.push(b'}');
            }
        }
    }
    out.extend_from_slice(b"]}");
}

enum XmlAnswer {
    /// The event as it came.
    Same,
    Document(Vec<u8>),
    /// The event as it came, with a tag that says what is wrong.
    Invalid(String),
}

fn answer(
    columns: &XmlColumns<'_>,
    row: usize,
    work: &XmlWork<'_>,
) -> Result<XmlAnswer, NativeFault> {
    let refused = |fault: DocumentFault| said(&fault.error());
    let bytes;
    let text = match columns.others.get(&row) {
        // A text has been decoded already.
        Some(OtherPayload::Text(text)) if !declares_encoding(text) => text.as_str().into(),
        Some(OtherPayload::Text(text)) => document_text(text.as_bytes()).map_err(refused)?,
        Some(OtherPayload::Base64(encoded)) => {
            bytes = STANDARD
                .decode(encoded)
                .map_err(|_| fault("the payload is no base64"))?;
            document_text(&bytes).map_err(refused)?
        }
        None => columns
            .payload
            .get(row)
            .map_or("", |payload| payload.get())
            .into(),
    };
    match work {
        XmlWork::Transform(style, settings) => {
            let parameters = style.parameters().iter().filter_map(|name| {
                let value = parameter(columns, row, settings, name)?;
                Some((CString::new(name.as_str()).ok()?, CString::new(value).ok()?))
            });
            let parameters: Vec<_> = parameters.collect();
            let (result, messages) = style.apply(&text, &parameters)?;
            for message in messages.lines() {
                eprintln!("{message}");
            }
            Ok(XmlAnswer::Document(result))
        }
        XmlWork::Validate(schema, invalid) => {
            let faults = match schema.validate(&text) {
                Ok(faults) if faults.is_empty() => return Ok(XmlAnswer::Same),
                Ok(faults) => faults,
                Err(fault) => vec![fault],
            };
            let lines = faults.iter().map(|fault| match fault.line {
                Some(line) => format!("line {line}, {}", fault.message),
                None => fault.message.clone(),
            });
            let why = lines.collect::<Vec<_>>().join("; ");
            match invalid {
                Invalid::Tag => Ok(XmlAnswer::Invalid(why)),
                Invalid::Dead => Err(fault(&why)),
            }
        }
    }
}

/// Whether a text begins with a declaration, whose encoding may be another one than that of its bytes.
fn declares_encoding(text: &str) -> bool {
    text.starts_with("<?xml")
}

/// The value of a style sheet's parameter: a setting, a part of the event, or a tag.
fn parameter(
    columns: &XmlColumns<'_>,
    row: usize,
    settings: &BTreeMap<String, Value>,
    name: &str,
) -> Option<String> {
    match (settings.get(name), name) {
        (Some(Value::String(text)), _) => Some(text.clone()),
        (Some(value), _) => Some(value.to_string()),
        (None, "topic") => columns.topic.get(row).cloned(),
        (None, "key") => columns.key.as_ref()?.get(row)?.clone(),
        (None, "time") => columns.time.get(row).map(i64::to_string),
        (None, _) => columns.tags.as_ref()?.get(row)?.get(name).cloned(),
    }
}

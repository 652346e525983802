//! Values as JSON, for those who read a message by another protocol.

use std::borrow::Cow;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::value::{TypedItems, TypedReader, TypedValue};

/// The payload for a body that is this value, which was checked: bytes as they are, everything else as JSON.
pub fn payload<'a>(value: &TypedValue<'a>) -> Cow<'a, [u8]> {
    match *value {
        TypedValue::Binary(bytes) => Cow::Borrowed(bytes),
        TypedValue::Text(text) | TypedValue::Symbol(text) => Cow::Borrowed(text.as_bytes()),
        TypedValue::Null => Cow::Borrowed(&[]),
        ref value => {
            let mut out = String::new();
            write(value, &mut out);
            Cow::Owned(out.into_bytes())
        }
    }
}

/// Appends a value that was checked as JSON. Bytes are written in base64, numbers that are none as `null`.
pub fn write(value: &TypedValue<'_>, out: &mut String) {
    let _ = match *value {
        TypedValue::Null => write!(out, "null"),
        TypedValue::Bool(on) => write!(out, "{on}"),
        TypedValue::Ubyte(n) => write!(out, "{n}"),
        TypedValue::Ushort(n) => write!(out, "{n}"),
        TypedValue::Uint(n) => write!(out, "{n}"),
        TypedValue::Ulong(n) => write!(out, "{n}"),
        TypedValue::Byte(n) => write!(out, "{n}"),
        TypedValue::Short(n) => write!(out, "{n}"),
        TypedValue::Int(n) => write!(out, "{n}"),
        TypedValue::Long(n) | TypedValue::Timestamp(n) => write!(out, "{n}"),
        TypedValue::Float(n) if n.is_finite() => write!(out, "{n}"),
        TypedValue::Double(n) if n.is_finite() => write!(out, "{n}"),
        TypedValue::Float(_) | TypedValue::Double(_) => write!(out, "null"),
        TypedValue::Char(c) => {
            let mut text = [0; 4];
            write_text(
                char::from_u32(c)
                    .unwrap_or('\u{fffd}')
                    .encode_utf8(&mut text),
                out,
            );
            Ok(())
        }
        TypedValue::Uuid(bytes) => write!(out, "\"{}\"", uuid(bytes)),
        TypedValue::Binary(bytes) | TypedValue::Decimal(bytes) => {
            write!(out, "\"{}\"", BASE64.encode(bytes))
        }
        TypedValue::Text(text) | TypedValue::Symbol(text) => {
            write_text(text, out);
            Ok(())
        }
        TypedValue::List(items) | TypedValue::Array(items) => {
            write_list(items, out);
            Ok(())
        }
        TypedValue::Map(items) => {
            write_map(items, out);
            Ok(())
        }
        TypedValue::Described(_, bytes) => {
            if let Ok(value) = TypedReader::new(bytes).value() {
                write(&value, out);
            }
            Ok(())
        }
    };
}

/// A UUID in its usual form.
pub fn uuid(bytes: [u8; 16]) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

fn write_list(items: TypedItems<'_>, out: &mut String) {
    out.push('[');
    let mut r = items.reader();
    let mut first = true;
    while !r.is_empty() {
        let Ok(value) = r.value() else { break };
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        write(&value, out);
    }
    out.push(']');
}

fn write_map(items: TypedItems<'_>, out: &mut String) {
    out.push('{');
    let mut r = items.reader();
    let mut first = true;
    while !r.is_empty() {
        let (Ok(name), Ok(value)) = (r.value(), r.value()) else {
            break;
        };
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        match name.as_text() {
            Some(name) => write_text(name, out),
            None => {
                let mut text = String::new();
                write(&name, &mut text);
                write_text(&text, out);
            }
        }
        out.push(':');
        write(&value, out);
    }
    out.push('}');
}

fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

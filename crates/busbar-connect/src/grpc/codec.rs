//! Messages of protocol buffers from JSON objects and back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use super::proto::{FieldKind, ProtoField, ProtoFile};
use crate::limits::GRPC_DEPTH_MAX;

/// Why there is no message: the field at fault, by its way in the object, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CodecFault {
    pub field: String,
    pub code: &'static str,
}

impl CodecFault {
    fn of(code: &'static str) -> CodecFault {
        CodecFault {
            field: String::new(),
            code,
        }
    }

    fn within(mut self, name: &str) -> CodecFault {
        self.field = match self.field.is_empty() {
            true => name.to_owned(),
            false => format!("{name}.{}", self.field),
        };
        self
    }
}

const UNFIT: &str = "connect.grpc-unfit";
const UNKNOWN: &str = "connect.grpc-unknown-field";
const BROKEN: &str = "connect.grpc-broken";
const DEEP: &str = "connect.grpc-deep";

/// Writes an object as a message.
pub(super) fn encode(
    file: &ProtoFile,
    message: usize,
    object: &Value,
) -> Result<Vec<u8>, CodecFault> {
    let mut out = Vec::new();
    write_message(file, message, object, &mut out, 0)?;
    Ok(out)
}

/// Reads a message as an object. Fields that are not there have the value 0, empty or false, but for those that know that they
/// are not there: these are left out.
pub(super) fn decode(file: &ProtoFile, message: usize, bytes: &[u8]) -> Result<Value, CodecFault> {
    read_message(file, message, bytes, 0).map(Value::Object)
}

fn write_message(
    file: &ProtoFile,
    message: usize,
    object: &Value,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), CodecFault> {
    let Value::Object(object) = object else {
        return Err(CodecFault::of(UNFIT));
    };
    if depth == GRPC_DEPTH_MAX {
        return Err(CodecFault::of(DEEP));
    }
    let fields = &file.messages[message].fields;
    for (name, value) in object {
        let field = fields.iter().find(|field| is_called(field, name));
        let field = field.ok_or_else(|| CodecFault::of(UNKNOWN).within(name))?;
        write_field(file, field, value, out, depth).map_err(|fault| fault.within(name))?;
    }
    Ok(())
}

/// `limit_mm` may be written `limitMm`, too.
fn is_called(field: &ProtoField, name: &str) -> bool {
    if field.name == name {
        return true;
    }
    let mut wanted = name.chars();
    let mut upper = false;
    for c in field.name.chars() {
        if c == '_' {
            upper = true;
            continue;
        }
        let c = if std::mem::take(&mut upper) {
            c.to_ascii_uppercase()
        } else {
            c
        };
        if wanted.next() != Some(c) {
            return false;
        }
    }
    wanted.next().is_none()
}

fn write_field(
    file: &ProtoFile,
    field: &ProtoField,
    value: &Value,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), CodecFault> {
    let one = |value: &Value, out: &mut Vec<u8>| {
        tag(field.number, wire_type(field.kind), out);
        write_value(file, field.kind, value, out, depth)
    };
    match (value, field.kind) {
        (Value::Null, _) => Ok(()),
        (Value::Array(values), _) if field.is_repeated => {
            if !field.is_packed {
                return values.iter().try_for_each(|value| one(value, out));
            }
            let mut packed = Vec::new();
            for value in values {
                write_value(file, field.kind, value, &mut packed, depth)?;
            }
            tag(field.number, BYTES, out);
            length_delimited(&packed, out);
            Ok(())
        }
        (Value::Object(entries), FieldKind::Message(entry)) if file.messages[entry].is_entry => {
            for (key, value) in entries {
                let mut pair = Map::new();
                pair.insert("key".into(), Value::String(key.clone()));
                pair.insert("value".into(), value.clone());
                one(&Value::Object(pair), out).map_err(|fault| fault.within(key))?;
            }
            Ok(())
        }
        _ if field.is_repeated => Err(CodecFault::of(UNFIT)),
        _ => one(value, out),
    }
}

fn write_value(
    file: &ProtoFile,
    kind: FieldKind,
    value: &Value,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), CodecFault> {
    let unfit = || CodecFault::of(UNFIT);
    let whole = || whole_number(value).ok_or_else(unfit);
    fn fits<T: TryFrom<i128>>(number: i128) -> Result<T, CodecFault> {
        T::try_from(number).map_err(|_| CodecFault::of(UNFIT))
    }
    match kind {
        FieldKind::Double => out.extend(real(value).ok_or_else(unfit)?.to_le_bytes()),
        FieldKind::Float => out.extend((real(value).ok_or_else(unfit)? as f32).to_le_bytes()),
        // Negative numbers of 32 bits are written as 64.
        FieldKind::Int32 => varint(i64::from(fits::<i32>(whole()?)?) as u64, out),
        FieldKind::Int64 => varint(fits::<i64>(whole()?)? as u64, out),
        FieldKind::Uint32 => varint(fits::<u32>(whole()?)?.into(), out),
        FieldKind::Uint64 => varint(fits::<u64>(whole()?)?, out),
        FieldKind::Sint32 => varint(zigzag(fits::<i32>(whole()?)?.into()), out),
        FieldKind::Sint64 => varint(zigzag(fits::<i64>(whole()?)?), out),
        FieldKind::Fixed32 => out.extend(fits::<u32>(whole()?)?.to_le_bytes()),
        FieldKind::Fixed64 => out.extend(fits::<u64>(whole()?)?.to_le_bytes()),
        FieldKind::Sfixed32 => out.extend(fits::<i32>(whole()?)?.to_le_bytes()),
        FieldKind::Sfixed64 => out.extend(fits::<i64>(whole()?)?.to_le_bytes()),
        FieldKind::Bool => {
            let truth = match value {
                Value::Bool(truth) => *truth,
                // Keys of maps are texts in JSON.
                Value::String(text) => text.parse().map_err(|_| unfit())?,
                _ => return Err(unfit()),
            };
            out.push(u8::from(truth));
        }
        FieldKind::Text => match value {
            Value::String(text) => length_delimited(text.as_bytes(), out),
            _ => return Err(unfit()),
        },
        FieldKind::Bytes => match value {
            Value::String(text) => {
                let bytes = STANDARD.decode(text).map_err(|_| unfit())?;
                length_delimited(&bytes, out);
            }
            _ => return Err(unfit()),
        },
        FieldKind::Enum(place) => {
            let known = &file.enums[place].values;
            let number = match value {
                Value::String(text) => {
                    let found = known.iter().find(|(name, _)| name == text);
                    found.map(|(_, number)| *number).ok_or_else(unfit)?
                }
                _ => fits::<i32>(whole()?)?,
            };
            varint(i64::from(number) as u64, out);
        }
        FieldKind::Message(place) => {
            let mut inner = Vec::new();
            write_message(file, place, value, &mut inner, depth + 1)?;
            length_delimited(&inner, out);
        }
    }
    Ok(())
}

fn whole_number(value: &Value) -> Option<i128> {
    match value {
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), ..) => Some(number.into()),
            (_, Some(number), _) => Some(number.into()),
            // 12.0 is a whole number; beyond 2^53 a fraction is none any more.
            (.., Some(real)) if real.fract() == 0.0 && real.abs() < 9.0e15 => Some(real as i128),
            _ => None,
        },
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn real(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

fn wire_type(kind: FieldKind) -> u8 {
    match kind {
        FieldKind::Double | FieldKind::Fixed64 | FieldKind::Sfixed64 => FIXED64,
        FieldKind::Float | FieldKind::Fixed32 | FieldKind::Sfixed32 => FIXED32,
        FieldKind::Text | FieldKind::Bytes | FieldKind::Message(_) => BYTES,
        _ => VARINT,
    }
}

fn tag(number: u32, wire: u8, out: &mut Vec<u8>) {
    varint(u64::from(number) << 3 | u64::from(wire), out);
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn length_delimited(bytes: &[u8], out: &mut Vec<u8>) {
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// A value as it stands in a message.
enum Wire<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
}

fn read_message(
    file: &ProtoFile,
    message: usize,
    mut bytes: &[u8],
    depth: usize,
) -> Result<Map<String, Value>, CodecFault> {
    if depth == GRPC_DEPTH_MAX {
        return Err(CodecFault::of(DEEP));
    }
    let fields = &file.messages[message].fields;
    let mut object = Map::new();
    for field in fields.iter().filter(|field| !field.has_presence) {
        object.insert(field.name.clone(), absent(file, field));
    }
    while !bytes.is_empty() {
        let key = read_varint(&mut bytes)?;
        let wire = read_wire((key & 7) as u8, &mut bytes)?;
        let Some(field) = fields
            .iter()
            .find(|field| u64::from(field.number) == key >> 3)
        else {
            continue;
        };
        let within = |fault: CodecFault| fault.within(&field.name);
        let values = match (&wire, wire_type(field.kind)) {
            // Numbers may come packed whatever the file says.
            (Wire::Bytes(packed), kind) if field.is_repeated && kind != BYTES => {
                let mut packed: &[u8] = packed;
                let mut values = Vec::new();
                while !packed.is_empty() {
                    let wire = read_wire(kind, &mut packed).map_err(within)?;
                    values.push(read_value(file, field.kind, &wire, depth).map_err(within)?);
                }
                values
            }
            _ => vec![read_value(file, field.kind, &wire, depth).map_err(within)?],
        };
        match object.get_mut(&field.name) {
            Some(Value::Array(list)) if field.is_repeated => list.extend(values),
            Some(Value::Object(map)) if field.is_repeated => {
                for entry in values {
                    let value = entry.get("value").cloned().unwrap_or_default();
                    let key = match entry.get("key") {
                        Some(Value::String(key)) => key.clone(),
                        Some(other) => other.to_string(),
                        None => String::new(),
                    };
                    map.insert(key, value);
                }
            }
            _ => {
                // The last one counts.
                if let Some(value) = values.into_iter().last() {
                    object.insert(field.name.clone(), value);
                }
            }
        }
    }
    Ok(object)
}

/// The value of a field that is not there.
fn absent(file: &ProtoFile, field: &ProtoField) -> Value {
    if field.is_repeated {
        return match field.kind {
            FieldKind::Message(place) if file.messages[place].is_entry => Value::Object(Map::new()),
            _ => Value::Array(Vec::new()),
        };
    }
    match field.kind {
        FieldKind::Double | FieldKind::Float => {
            Number::from_f64(0.0).map_or(Value::Null, Value::Number)
        }
        FieldKind::Text | FieldKind::Bytes => Value::String(String::new()),
        FieldKind::Bool => Value::Bool(false),
        FieldKind::Message(_) => Value::Null,
        FieldKind::Enum(place) => enum_value(file, place, 0),
        _ => Value::Number(0.into()),
    }
}

fn enum_value(file: &ProtoFile, place: usize, number: i64) -> Value {
    let known = file.enums[place].values.iter();
    let mut known = known.filter(|(_, known)| i64::from(*known) == number);
    match known.next() {
        Some((name, _)) => Value::String(name.clone()),
        None => Value::Number(number.into()),
    }
}

fn read_value(
    file: &ProtoFile,
    kind: FieldKind,
    wire: &Wire<'_>,
    depth: usize,
) -> Result<Value, CodecFault> {
    // What JSON has no number for is null.
    let real = |real: f64| Number::from_f64(real).map_or(Value::Null, Value::Number);
    Ok(match (kind, wire) {
        (FieldKind::Double, Wire::Fixed64(bytes)) => real(f64::from_le_bytes(*bytes)),
        (FieldKind::Float, Wire::Fixed32(bytes)) => {
            // As many digits as it has: 0.1 and not 0.10000000149.
            let single = f32::from_le_bytes(*bytes);
            real(single.to_string().parse().unwrap_or(f64::from(single)))
        }
        (FieldKind::Int32, Wire::Varint(number)) => Value::from(*number as i32),
        (FieldKind::Int64, Wire::Varint(number)) => Value::from(*number as i64),
        (FieldKind::Uint32, Wire::Varint(number)) => Value::from(*number as u32),
        (FieldKind::Uint64, Wire::Varint(number)) => Value::from(*number),
        (FieldKind::Sint32 | FieldKind::Sint64, Wire::Varint(number)) => {
            Value::from(unzigzag(*number))
        }
        (FieldKind::Fixed32, Wire::Fixed32(bytes)) => Value::from(u32::from_le_bytes(*bytes)),
        (FieldKind::Fixed64, Wire::Fixed64(bytes)) => Value::from(u64::from_le_bytes(*bytes)),
        (FieldKind::Sfixed32, Wire::Fixed32(bytes)) => Value::from(i32::from_le_bytes(*bytes)),
        (FieldKind::Sfixed64, Wire::Fixed64(bytes)) => Value::from(i64::from_le_bytes(*bytes)),
        (FieldKind::Bool, Wire::Varint(number)) => Value::Bool(*number != 0),
        (FieldKind::Text, Wire::Bytes(bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::String(text.to_owned()),
            Err(_) => return Err(CodecFault::of(BROKEN)),
        },
        (FieldKind::Bytes, Wire::Bytes(bytes)) => Value::String(STANDARD.encode(bytes)),
        (FieldKind::Enum(place), Wire::Varint(number)) => {
            enum_value(file, place, i64::from(*number as i32))
        }
        (FieldKind::Message(place), Wire::Bytes(bytes)) => {
            Value::Object(read_message(file, place, bytes, depth + 1)?)
        }
        _ => return Err(CodecFault::of(BROKEN)),
    })
}

fn read_wire<'a>(wire: u8, bytes: &mut &'a [u8]) -> Result<Wire<'a>, CodecFault> {
    let broken = || CodecFault::of(BROKEN);
    Ok(match wire {
        VARINT => Wire::Varint(read_varint(bytes)?),
        FIXED64 => {
            let (value, rest) = bytes.split_first_chunk::<8>().ok_or_else(broken)?;
            *bytes = rest;
            Wire::Fixed64(*value)
        }
        FIXED32 => {
            let (value, rest) = bytes.split_first_chunk::<4>().ok_or_else(broken)?;
            *bytes = rest;
            Wire::Fixed32(*value)
        }
        BYTES => {
            let length = usize::try_from(read_varint(bytes)?).map_err(|_| broken())?;
            let (value, rest) = bytes.split_at_checked(length).ok_or_else(broken)?;
            *bytes = rest;
            Wire::Bytes(value)
        }
        _ => return Err(broken()),
    })
}

fn read_varint(bytes: &mut &[u8]) -> Result<u64, CodecFault> {
    let mut number = 0u64;
    for place in 0..10 {
        let (byte, rest) = bytes.split_first().ok_or_else(|| CodecFault::of(BROKEN))?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(CodecFault::of(BROKEN))
}

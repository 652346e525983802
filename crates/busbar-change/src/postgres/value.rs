//! Values of PostgreSQL as JSON.

use crate::event::text;

/// Numbers of types in the server's catalogue, named as there.
#[allow(missing_docs, reason = "names of the catalogue")]
pub mod oid {
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const JSON: u32 = 114;
    pub const FLOAT4: u32 = 700;
    pub const FLOAT8: u32 = 701;
    pub const BPCHAR: u32 = 1042;
    pub const VARCHAR: u32 = 1043;
    pub const DATE: u32 = 1082;
    pub const TIME: u32 = 1083;
    pub const TIMESTAMP: u32 = 1114;
    pub const TIMESTAMPTZ: u32 = 1184;
    pub const NUMERIC: u32 = 1700;
    pub const UUID: u32 = 2950;
    pub const JSONB: u32 = 3802;
}

/// Appends a value, which the server has written as text, as JSON. Numbers that 64 bits hold are numbers; what JSON
/// cannot hold without loss is a text as the server writes it.
pub fn write_json(value: &[u8], of: u32, out: &mut Vec<u8>) {
    match of {
        oid::BOOL => out.extend_from_slice(if value == b"t" { b"true" } else { b"false" }),
        oid::INT2 | oid::INT4 | oid::INT8 => out.extend_from_slice(value),
        // Not NaN and Infinity.
        oid::FLOAT4 | oid::FLOAT8 if value.last().is_some_and(u8::is_ascii_digit) => {
            out.extend_from_slice(value)
        }
        oid::JSON | oid::JSONB => out.extend_from_slice(value),
        // `2024-05-06 07:08:09.5+00`, in the session's zone; other eras and infinity stay as they are.
        oid::TIMESTAMPTZ if value.ends_with(b"+00") => {
            out.push(b'"');
            let at = out.len();
            out.extend_from_slice(&value[..value.len() - 3]);
            if let Some(space) = memchr::memchr(b' ', &out[at..]) {
                out[at + space] = b'T';
            }
            out.extend_from_slice(b"Z\"");
        }
        oid::TIMESTAMP if value.last().is_some_and(u8::is_ascii_digit) => {
            out.push(b'"');
            let at = out.len();
            out.extend_from_slice(value);
            if let Some(space) = memchr::memchr(b' ', &out[at..]) {
                out[at + space] = b'T';
            }
            out.push(b'"');
        }
        _ => text(&String::from_utf8_lossy(value), out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_json_without_loss() {
        for (value, of, expected) in [
            ("t", oid::BOOL, "true"),
            ("-9223372036854775808", oid::INT8, "-9223372036854775808"),
            ("1.5e+300", oid::FLOAT8, "1.5e+300"),
            ("NaN", oid::FLOAT8, "\"NaN\""),
            ("-Infinity", oid::FLOAT4, "\"-Infinity\""),
            (
                "12.340000000000000000001",
                oid::NUMERIC,
                "\"12.340000000000000000001\"",
            ),
            (
                "2024-05-06 07:08:09.5+00",
                oid::TIMESTAMPTZ,
                "\"2024-05-06T07:08:09.5Z\"",
            ),
            (
                "2024-05-06 07:08:09",
                oid::TIMESTAMP,
                "\"2024-05-06T07:08:09\"",
            ),
            ("infinity", oid::TIMESTAMP, "\"infinity\""),
            (
                "0044-03-15 12:00:00 BC",
                oid::TIMESTAMP,
                "\"0044-03-15 12:00:00 BC\"",
            ),
            ("{\"a\": [1]}", oid::JSONB, "{\"a\": [1]}"),
            ("\\x00ff", oid::BYTEA, "\"\\\\x00ff\""),
            ("张三\n", oid::TEXT, "\"张三\\n\""),
        ] {
            let mut out = Vec::new();
            write_json(value.as_bytes(), of, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }
}

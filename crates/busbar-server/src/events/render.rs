//! An event as the API writes it.

use base64::Engine as _;
use busbar_event::{Batch, tags};

use busbar_event::format::{is_json, write_json_text};
use busbar_event::time;

/// Where an event lies.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) stream: &'a str,
    pub(crate) partition: u16,
    pub(crate) offset: u64,
}

/// Appends the members of an event's object, without braces.
pub(crate) fn members(
    out: &mut Vec<u8>,
    batch: &Batch,
    row: usize,
    payload: &[u8],
    place: Place<'_>,
) {
    members_spelled(out, batch.topic(row), batch, row, payload, place);
}

/// The same with the topic in another spelling.
pub(crate) fn members_spelled(
    out: &mut Vec<u8>,
    topic: &str,
    batch: &Batch,
    row: usize,
    payload: &[u8],
    place: Place<'_>,
) {
    out.extend_from_slice(b"\"topic\":");
    write_json_text(topic, out);
    if let Some(key) = batch.key(row) {
        out.extend_from_slice(b",\"key\":");
        write_json_text(key, out);
    }
    out.extend_from_slice(b",\"time\":\"");
    time::write(batch.times()[row], out);
    out.push(b'"');
    if batch.has_tags() {
        let mut first = true;
        for (name, value) in batch.tags(row) {
            let Some(name) = tags::unescape(name) else {
                continue;
            };
            out.extend_from_slice(if first { b",\"tags\":{" } else { b"," });
            first = false;
            write_json_text(name, out);
            out.push(b':');
            write_json_text(value, out);
        }
        if !first {
            out.push(b'}');
        }
    }
    if let Some(client) = batch.client(row) {
        out.extend_from_slice(b",\"client\":");
        write_json_text(client, out);
    }
    out.push(b',');
    self::payload(out, payload);
    out.extend_from_slice(b",\"stream\":");
    write_json_text(place.stream, out);
    // Writing to a vector cannot fail.
    let _ = std::io::Write::write_fmt(
        out,
        format_args!(
            ",\"partition\":{},\"offset\":{}",
            place.partition, place.offset
        ),
    );
}

/// Appends a payload's member: JSON as it is, other text as a string, bytes in base64.
pub(crate) fn payload(out: &mut Vec<u8>, payload: &[u8]) {
    match std::str::from_utf8(payload) {
        Ok(text) => {
            out.extend_from_slice(b"\"payload\":");
            if is_json(text.as_bytes()) {
                // A line break in JSON stands between tokens only, where a space does as well;
                // in a server-sent event it would end the line.
                out.extend(text.trim_ascii().bytes().map(|byte| match byte {
                    b'\n' | b'\r' => b' ',
                    other => other,
                }));
            } else {
                write_json_text(text, out);
            }
        }
        Err(_) => {
            out.extend_from_slice(b"\"payload_base64\":\"");
            let encoded = base64::engine::general_purpose::STANDARD.encode(payload);
            out.extend_from_slice(encoded.as_bytes());
            out.push(b'"');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use busbar_event::{BatchBuilder, Flags, Row};

    #[test]
    fn payloads_are_json_text_or_base64() {
        for (bytes, expected) in [
            (&b"{\"kw\": 3.20}\n"[..], r#""payload":{"kw": 3.20}"#),
            (b"[1,\r\n2]", "\"payload\":[1,  2]"),
            (b"plain \"text\"\n", r#""payload":"plain \"text\"\n""#),
            (b"", r#""payload":"""#),
            (b"\xff\x00", r#""payload_base64":"/wA=""#),
        ] {
            let mut out = Vec::new();
            payload(&mut out, bytes);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn an_event_shows_its_envelope() {
        let mut builder = BatchBuilder::new();
        let topic = builder.topic_id("m/\"1\"");
        let client = builder.client_id("c");
        builder.push(Row {
            topic,
            key: Some("k"),
            time: 1,
            client: Some(client),
            flags: Flags::default().with_reserved_tags(true),
            tags: &[("site", "a"), ("$content-type", "x"), ("$$mine", "b")],
            payload: b"1",
        });
        let batch = builder.finish();
        let mut out = b"{".to_vec();
        let place = Place {
            stream: "meter",
            partition: 2,
            offset: 7,
        };
        members(&mut out, &batch, 0, b"1", place);
        out.push(b'}');
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "topic": "m/\"1\"", "key": "k", "time": "1970-01-01T00:00:00.000001Z",
                "tags": {"site": "a", "$mine": "b"}, "client": "c", "payload": 1,
                "stream": "meter", "partition": 2, "offset": 7
            })
        );
    }
}

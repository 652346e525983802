//! Events as plug-ins are given them: JSON objects.

use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use busbar_event::Micros;
use busbar_event::format::{is_json, write_json_text};

use crate::limits::{BATCH_EVENTS_MAX, BATCH_JSON_BYTES};

/// An event for a plug-in.
#[derive(Clone, Copy, Debug)]
pub struct GivenEvent<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Its key.
    pub key: Option<&'a str>,
    /// Its time, in microseconds since 1970.
    pub time: Micros,
    /// Its payload.
    pub payload: &'a [u8],
}

/// Events as JSON objects, one behind the other, with a comma behind each.
#[derive(Debug, Default)]
pub struct EventsJson {
    json: Vec<u8>,
    /// Topics and keys, as they are.
    texts: String,
    heads: Vec<EventHead>,
    trial: bool,
}

/// Where the parts of an event are: where each ends in [`EventsJson::json`] and in [`EventsJson::texts`].
#[derive(Debug)]
struct EventHead {
    time: Micros,
    topic_end: usize,
    /// None where it has no key.
    key_end: Option<usize>,
    tags: Range<usize>,
    body: EventBody,
    /// Where the value of the body begins.
    body_start: usize,
    /// Behind the comma that follows the event.
    end: usize,
}

/// How the payload of an event is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventBody {
    /// A value.
    Payload,
    Text,
    Base64,
}

/// The parts of an event that is given.
#[derive(Debug)]
pub(crate) struct EventParts<'a> {
    pub topic: &'a str,
    pub key: Option<&'a str>,
    pub time: Micros,
    /// A JSON object.
    pub tags: &'a [u8],
    pub body: EventBody,
    /// A JSON value.
    pub value: &'a [u8],
}

impl EventsJson {
    /// Number of events.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Marks them as given to try something: they do not count, and what the program says of them is not kept.
    pub fn mark_trial(&mut self) {
        self.trial = true;
    }

    /// Whether they are given to try something.
    pub fn is_trial(&self) -> bool {
        self.trial
    }

    /// Whether a worker should be given these before more are added.
    pub fn is_full(&self) -> bool {
        self.heads.len() >= BATCH_EVENTS_MAX || self.json.len() >= BATCH_JSON_BYTES
    }

    /// Some of the events, separated by commas.
    pub fn range(&self, first: usize, count: usize) -> &[u8] {
        if count == 0 {
            return &[];
        }
        let start = match first {
            0 => 0,
            first => self.heads[first - 1].end,
        };
        &self.json[start..self.heads[first + count - 1].end - 1]
    }

    /// Some of the events in columns: an object with a list for each part. `key` and `tags` are left out where no event
    /// has any, and `others` where all payloads are JSON.
    pub(crate) fn write_columns(&self, first: usize, count: usize, out: &mut Vec<u8>) {
        let events = || (first..first + count).map(|event| self.parts_of(event));
        let mut list = |name: &str, write: &dyn Fn(EventParts<'_>, &mut Vec<u8>)| {
            out.push(if name == "topic" { b'{' } else { b',' });
            write_json_text(name, out);
            out.extend_from_slice(b":[");
            for (at, event) in events().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write(event, out);
            }
            out.push(b']');
        };
        list("topic", &|event, out| write_json_text(event.topic, out));
        if events().any(|event| event.key.is_some()) {
            list("key", &|event, out| match event.key {
                Some(key) => write_json_text(key, out),
                None => out.extend_from_slice(b"null"),
            });
        }
        list("time", &|event, out| {
            out.extend_from_slice(event.time.to_string().as_bytes());
        });
        if events().any(|event| event.tags != b"{}") {
            list("tags", &|event, out| out.extend_from_slice(event.tags));
        }
        list("payload", &|event, out| match event.body {
            EventBody::Payload => out.extend_from_slice(event.value),
            _ => out.extend_from_slice(b"null"),
        });
        let mut before = "";
        for (at, event) in events().enumerate() {
            let member = match event.body {
                EventBody::Payload => continue,
                EventBody::Text => "text",
                EventBody::Base64 => "base64",
            };
            if before.is_empty() {
                out.extend_from_slice(b",\"others\":{");
            }
            out.extend_from_slice(format!("{before}\"{at}\":{{\"{member}\":").as_bytes());
            out.extend_from_slice(event.value);
            out.push(b'}');
            before = ",";
        }
        if !before.is_empty() {
            out.push(b'}');
        }
        out.push(b'}');
    }

    /// The parts of an event.
    pub(crate) fn parts_of(&self, event: usize) -> EventParts<'_> {
        let head = &self.heads[event];
        let before = event.checked_sub(1).map(|before| &self.heads[before]);
        let start = before.map_or(0, |before| before.key_end.unwrap_or(before.topic_end));
        EventParts {
            topic: &self.texts[start..head.topic_end],
            key: head.key_end.map(|end| &self.texts[head.topic_end..end]),
            time: head.time,
            tags: &self.json[head.tags.clone()],
            body: head.body,
            // Behind the value are a brace and a comma.
            value: &self.json[head.body_start..head.end - 2],
        }
    }

    /// The events in parts that a worker takes at once: the first event and the number of events of each.
    pub fn parts(&self) -> Vec<(usize, usize)> {
        let mut parts = Vec::new();
        let (mut first, mut start) = (0, 0);
        for (at, end) in self.heads.iter().map(|head| &head.end).enumerate() {
            let last = at + 1 == self.heads.len();
            if last || at + 1 - first >= BATCH_EVENTS_MAX || end - start >= BATCH_JSON_BYTES {
                parts.push((first, at + 1 - first));
                (first, start) = (at + 1, *end);
            }
        }
        parts
    }

    /// Adds an event. A payload that is JSON is given as a value, other text as `text` and anything else as `base64`.
    pub fn push<'a>(
        &mut self,
        event: &GivenEvent<'_>,
        tags: impl Iterator<Item = (&'a str, &'a str)>,
    ) {
        let out = &mut self.json;
        self.texts.push_str(event.topic);
        let topic_end = self.texts.len();
        out.extend_from_slice(b"{\"topic\":");
        write_json_text(event.topic, out);
        let mut key_end = None;
        if let Some(key) = event.key {
            self.texts.push_str(key);
            key_end = Some(self.texts.len());
            out.extend_from_slice(b",\"key\":");
            write_json_text(key, out);
        }
        out.extend_from_slice(b",\"time\":");
        out.extend_from_slice(event.time.to_string().as_bytes());
        out.extend_from_slice(b",\"tags\":");
        let tags_start = out.len();
        out.push(b'{');
        for (at, (name, value)) in tags.enumerate() {
            if at > 0 {
                out.push(b',');
            }
            write_json_text(name, out);
            out.push(b':');
            write_json_text(value, out);
        }
        out.push(b'}');
        let tags = tags_start..out.len();
        let (body, body_start) = payload(event.payload, out);
        out.extend_from_slice(b"},");
        self.heads.push(EventHead {
            time: event.time,
            topic_end,
            key_end,
            tags,
            body,
            body_start,
            end: out.len(),
        });
    }
}

/// Writes the payload; answers how it is given, and where its value begins.
fn payload(payload: &[u8], out: &mut Vec<u8>) -> (EventBody, usize) {
    if is_json(payload) {
        out.extend_from_slice(b",\"payload\":");
        let from = out.len();
        out.extend_from_slice(payload);
        // In valid JSON the end of a line is white space, and here it would end the frame.
        for byte in &mut out[from..] {
            if *byte == b'\n' || *byte == b'\r' {
                *byte = b' ';
            }
        }
        return (EventBody::Payload, from);
    }
    match std::str::from_utf8(payload) {
        Ok(text) => {
            out.extend_from_slice(b",\"text\":");
            let from = out.len();
            write_json_text(text, out);
            (EventBody::Text, from)
        }
        Err(_) => {
            out.extend_from_slice(b",\"base64\":");
            let from = out.len();
            out.push(b'"');
            out.extend_from_slice(STANDARD.encode(payload).as_bytes());
            out.push(b'"');
            (EventBody::Base64, from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_payload_fits_into_a_line() {
        let mut events = EventsJson::default();
        for (payload, expected) in [
            (&b"{\"a\":\r\n 1}"[..], r#""payload":{"a":   1}"#),
            (b"3", r#""payload":3"#),
            (b"a\n\"b\"", r#""text":"a\n\"b\"""#),
            (b"", r#""text":"""#),
            (b"\xff\x00", r#""base64":"/wA=""#),
            (b"{\"a\":\xff}", r#""base64":"eyJhIjr/fQ==""#),
        ] {
            let event = GivenEvent {
                topic: "a/\u{1}b",
                key: Some("k"),
                time: -5,
                payload,
            };
            events.push(&event, [("site", "x\"y")].into_iter());
            let json = String::from_utf8(events.range(events.len() - 1, 1).to_vec()).unwrap();
            let expected = format!(
                r#"{{"topic":"a/\u0001b","key":"k","time":-5,"tags":{{"site":"x\"y"}},{expected}}}"#
            );
            assert_eq!(json, expected);
        }
        {
            let parts = events.parts_of(4);
            assert_eq!((parts.topic, parts.key), ("a/\u{1}b", Some("k")));
            assert_eq!(
                (parts.body, parts.value),
                (EventBody::Base64, &b"\"/wA=\""[..])
            );
            assert_eq!((parts.time, parts.tags), (-5, &br#"{"site":"x\"y"}"#[..]));
            assert_eq!(events.parts_of(1).value, b"3");
        }
        let all = format!("[{}]", String::from_utf8_lossy(events.range(0, 6)));
        assert!(!all.contains('\n'));
        let all: Vec<serde_json::Value> = serde_json::from_str(&all).unwrap();
        assert_eq!(all.len(), 6);
        assert_eq!(events.range(2, 0), b"");
    }

    #[test]
    fn columns_leave_out_what_no_event_has() {
        let mut events = EventsJson::default();
        for (key, payload) in [
            (None, &b"{\"a\":1}"[..]),
            (Some("k"), b"x"),
            (None, b"\xff"),
        ] {
            let event = GivenEvent {
                topic: "a/b",
                key,
                time: 7,
                payload,
            };
            let tag = key.map(|key| ("t", key));
            events.push(&event, tag.into_iter());
        }
        let written = |first, count| {
            let mut out = Vec::new();
            events.write_columns(first, count, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            written(0, 1),
            r#"{"topic":["a/b"],"time":[7],"payload":[{"a":1}]}"#
        );
        assert_eq!(
            written(0, 3),
            r#"{"topic":["a/b","a/b","a/b"],"key":[null,"k",null],"time":[7,7,7],"tags":[{},{"t":"k"},{}],"payload":[{"a":1},null,null],"others":{"1":{"text":"x"},"2":{"base64":"/w=="}}}"#
        );
        assert_eq!(
            written(2, 1),
            r#"{"topic":["a/b"],"time":[7],"payload":[null],"others":{"0":{"base64":"/w=="}}}"#
        );
    }

    #[test]
    fn parts_are_bounded_in_events_and_bytes() {
        let add = |events: &mut EventsJson, bytes: usize| {
            let event = GivenEvent {
                topic: "a",
                key: None,
                time: 0,
                payload: &vec![b'1'; bytes],
            };
            events.push(&event, std::iter::empty());
        };
        let mut events = EventsJson::default();
        assert_eq!(events.parts(), []);
        for _ in 0..BATCH_EVENTS_MAX + 1 {
            add(&mut events, 1);
        }
        add(&mut events, BATCH_JSON_BYTES);
        add(&mut events, BATCH_JSON_BYTES);
        assert_eq!(
            events.parts(),
            [
                (0, BATCH_EVENTS_MAX),
                (BATCH_EVENTS_MAX, 2),
                (BATCH_EVENTS_MAX + 2, 1)
            ]
        );
    }
}

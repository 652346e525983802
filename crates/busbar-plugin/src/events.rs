//! Events as they are given to the workers of a plug-in, and the JSON in which most workers take them.

use std::io::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use busbar_event::Micros;
use busbar_event::format::{is_json, write_json_text};

use crate::limits::{ARROW_BATCH_EVENTS_MAX, BATCH_BYTES, BATCH_EVENTS_MAX};

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

/// The form in which a plug-in takes events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventForm {
    /// Text or objects made of it.
    Json,
    /// Columns.
    Arrow,
}

/// Events for one worker.
#[derive(Debug)]
pub struct GivenEvents {
    form: EventForm,
    /// Of each event the topic, the key, and name and value of each tag.
    texts: String,
    /// Where name and value of each tag end in the texts.
    tags: Vec<(usize, usize)>,
    payloads: Vec<u8>,
    heads: Vec<EventHead>,
    trial: bool,
}

/// Where the parts of an event end; each begins where the one before ends.
#[derive(Clone, Copy, Debug, Default)]
struct EventHead {
    time: Micros,
    topic: usize,
    /// None where it has no key.
    key: Option<usize>,
    /// Number of tags of this event and of those before.
    tags: usize,
    texts: usize,
    payload: usize,
    is_json: bool,
}

/// How the payload of an event is given in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EventBody {
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
    pub payload: &'a [u8],
}

impl EventBody {
    fn member(self) -> &'static str {
        match self {
            EventBody::Payload => "payload",
            EventBody::Text => "text",
            EventBody::Base64 => "base64",
        }
    }
}

impl GivenEvents {
    /// No events yet, for a plug-in that takes them in this form.
    pub fn new(form: EventForm) -> GivenEvents {
        GivenEvents {
            form,
            texts: String::new(),
            tags: Vec::new(),
            payloads: Vec::new(),
            heads: Vec::new(),
            trial: false,
        }
    }

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
        self.heads.len() >= self.batch_events_max()
            || self.texts.len() + self.payloads.len() >= BATCH_BYTES
    }

    fn batch_events_max(&self) -> usize {
        match self.form {
            EventForm::Json => BATCH_EVENTS_MAX,
            EventForm::Arrow => ARROW_BATCH_EVENTS_MAX,
        }
    }

    /// Adds an event.
    pub fn push<'a>(
        &mut self,
        event: &GivenEvent<'_>,
        tags: impl Iterator<Item = (&'a str, &'a str)>,
    ) {
        self.texts.push_str(event.topic);
        let topic = self.texts.len();
        let key = event.key.map(|key| {
            self.texts.push_str(key);
            self.texts.len()
        });
        for (name, value) in tags {
            self.texts.push_str(name);
            let name_end = self.texts.len();
            self.texts.push_str(value);
            self.tags.push((name_end, self.texts.len()));
        }
        self.payloads.extend_from_slice(event.payload);
        self.heads.push(EventHead {
            time: event.time,
            topic,
            key,
            tags: self.tags.len(),
            texts: self.texts.len(),
            payload: self.payloads.len(),
            // Columns are read by a parser that finds it out itself.
            is_json: self.form == EventForm::Json && is_json(event.payload),
        });
    }

    /// The events in parts that a worker takes at once: the first event and the number of events of each.
    pub fn parts(&self) -> Vec<(usize, usize)> {
        let (mut parts, max) = (Vec::new(), self.batch_events_max());
        let (mut first, mut start) = (0, 0);
        for (at, head) in self.heads.iter().enumerate() {
            let (end, count) = (head.texts + head.payload, at + 1 - first);
            let last = at + 1 == self.heads.len();
            if last || count >= max || end - start >= BATCH_BYTES {
                parts.push((first, count));
                (first, start) = (at + 1, end);
            }
        }
        parts
    }

    /// Where the event begins.
    fn before(&self, event: usize) -> EventHead {
        event
            .checked_sub(1)
            .map_or_else(EventHead::default, |before| self.heads[before])
    }

    /// The parts of an event.
    pub(crate) fn parts_of(&self, event: usize) -> EventParts<'_> {
        let (before, head) = (self.before(event), &self.heads[event]);
        EventParts {
            topic: &self.texts[before.texts..head.topic],
            key: head.key.map(|end| &self.texts[head.topic..end]),
            time: head.time,
            payload: &self.payloads[before.payload..head.payload],
        }
    }

    /// Name and value of each tag of an event.
    pub(crate) fn tags_of(&self, event: usize) -> impl Iterator<Item = (&str, &str)> {
        let (before, head) = (self.before(event), &self.heads[event]);
        let mut start = head.key.unwrap_or(head.topic);
        let tags = self.tags[before.tags..head.tags].iter();
        tags.map(move |(name, value)| {
            let begin = std::mem::replace(&mut start, *value);
            (&self.texts[begin..*name], &self.texts[*name..*value])
        })
    }

    /// Whether any of these events has tags.
    pub(crate) fn has_tags(&self, first: usize, count: usize) -> bool {
        count > 0 && self.before(first).tags < self.heads[first + count - 1].tags
    }

    /// Writes some of the events as JSON objects, separated by commas. A payload that is JSON is given as a value, other text
    /// as `text` and anything else as `base64`.
    pub(crate) fn write_objects(&self, first: usize, count: usize, out: &mut Vec<u8>) {
        for event in first..first + count {
            if event > first {
                out.push(b',');
            }
            let parts = self.parts_of(event);
            out.extend_from_slice(b"{\"topic\":");
            write_json_text(parts.topic, out);
            if let Some(key) = parts.key {
                out.extend_from_slice(b",\"key\":");
                write_json_text(key, out);
            }
            out.extend_from_slice(b",\"time\":");
            // A vector takes whatever is written.
            let _ = write!(out, "{}", parts.time);
            out.extend_from_slice(b",\"tags\":");
            self.write_tags(event, out);
            let body = self.body_of(event);
            out.extend_from_slice(format!(",\"{}\":", body.member()).as_bytes());
            self.write_value(event, body, out);
            out.push(b'}');
        }
    }

    /// Writes some of the events in columns: an object with a list for each part. `key` and `tags` are left out where no event
    /// has any, and `others` where all payloads are JSON.
    pub(crate) fn write_columns(&self, first: usize, count: usize, out: &mut Vec<u8>) {
        let mut list = |name: &str, write: &dyn Fn(usize, &mut Vec<u8>)| {
            out.push(if name == "topic" { b'{' } else { b',' });
            write_json_text(name, out);
            out.extend_from_slice(b":[");
            for event in first..first + count {
                if event > first {
                    out.push(b',');
                }
                write(event, out);
            }
            out.push(b']');
        };
        list("topic", &|event, out| {
            write_json_text(self.parts_of(event).topic, out);
        });
        let mut heads = self.heads[first..first + count].iter();
        if heads.any(|head| head.key.is_some()) {
            list("key", &|event, out| match self.parts_of(event).key {
                Some(key) => write_json_text(key, out),
                None => out.extend_from_slice(b"null"),
            });
        }
        list("time", &|event, out| {
            out.extend_from_slice(self.heads[event].time.to_string().as_bytes());
        });
        if self.has_tags(first, count) {
            list("tags", &|event, out| self.write_tags(event, out));
        }
        out.extend_from_slice(b",\"payload\":");
        if let Some(others) = self.write_payloads(first, count, out) {
            out.extend_from_slice(b",\"others\":");
            out.extend_from_slice(&others);
        }
        out.push(b'}');
    }

    /// Writes the payloads of some of the events as a list of values, with null for each that is no JSON. Answers these as an
    /// object with a member for each, by its place among the events; none if there are none.
    pub(crate) fn write_payloads(
        &self,
        first: usize,
        count: usize,
        out: &mut Vec<u8>,
    ) -> Option<Vec<u8>> {
        let mut others = Vec::new();
        out.push(b'[');
        for event in first..first + count {
            if event > first {
                out.push(b',');
            }
            let body = self.body_of(event);
            if body == EventBody::Payload {
                self.write_value(event, body, out);
                continue;
            }
            out.extend_from_slice(b"null");
            others.push(if others.is_empty() { b'{' } else { b',' });
            let (at, member) = (event - first, body.member());
            others.extend_from_slice(format!("\"{at}\":{{\"{member}\":").as_bytes());
            self.write_value(event, body, &mut others);
            others.push(b'}');
        }
        out.push(b']');
        if others.is_empty() {
            return None;
        }
        others.push(b'}');
        Some(others)
    }

    /// Writes the tags of an event as an object.
    pub(crate) fn write_tags(&self, event: usize, out: &mut Vec<u8>) {
        out.push(b'{');
        for (at, (name, value)) in self.tags_of(event).enumerate() {
            if at > 0 {
                out.push(b',');
            }
            write_json_text(name, out);
            out.push(b':');
            write_json_text(value, out);
        }
        out.push(b'}');
    }

    fn body_of(&self, event: usize) -> EventBody {
        match self.heads[event].is_json {
            true => EventBody::Payload,
            false if std::str::from_utf8(self.parts_of(event).payload).is_ok() => EventBody::Text,
            false => EventBody::Base64,
        }
    }

    /// Writes the payload of an event as a JSON value without ends of lines.
    fn write_value(&self, event: usize, body: EventBody, out: &mut Vec<u8>) {
        let payload = self.parts_of(event).payload;
        match body {
            EventBody::Payload => {
                let from = out.len();
                out.extend_from_slice(payload);
                // In valid JSON the end of a line is white space, and here it would end the frame.
                for byte in &mut out[from..] {
                    if *byte == b'\n' || *byte == b'\r' {
                        *byte = b' ';
                    }
                }
            }
            EventBody::Text => write_json_text(&String::from_utf8_lossy(payload), out),
            EventBody::Base64 => {
                out.push(b'"');
                out.extend_from_slice(STANDARD.encode(payload).as_bytes());
                out.push(b'"');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_payload_fits_into_a_line() {
        let mut events = GivenEvents::new(EventForm::Json);
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
            let mut json = Vec::new();
            events.write_objects(events.len() - 1, 1, &mut json);
            let json = String::from_utf8(json).unwrap();
            let expected = format!(
                r#"{{"topic":"a/\u0001b","key":"k","time":-5,"tags":{{"site":"x\"y"}},{expected}}}"#
            );
            assert_eq!(json, expected);
        }
        let parts = events.parts_of(4);
        assert_eq!((parts.topic, parts.key), ("a/\u{1}b", Some("k")));
        assert_eq!((parts.time, parts.payload), (-5, &b"\xff\x00"[..]));
        assert_eq!(events.tags_of(4).collect::<Vec<_>>(), [("site", "x\"y")]);
        let mut all = vec![b'['];
        events.write_objects(0, 6, &mut all);
        all.push(b']');
        assert!(!all.contains(&b'\n'));
        let all: Vec<serde_json::Value> = serde_json::from_slice(&all).unwrap();
        assert_eq!(all.len(), 6);
    }

    #[test]
    fn columns_leave_out_what_no_event_has() {
        let mut events = GivenEvents::new(EventForm::Json);
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
        let add = |events: &mut GivenEvents, bytes: usize| {
            let event = GivenEvent {
                topic: "a",
                key: None,
                time: 0,
                payload: &vec![b'1'; bytes],
            };
            events.push(&event, std::iter::empty());
        };
        let mut events = GivenEvents::new(EventForm::Json);
        assert_eq!(events.parts(), []);
        for _ in 0..BATCH_EVENTS_MAX + 1 {
            add(&mut events, 1);
        }
        add(&mut events, BATCH_BYTES);
        add(&mut events, BATCH_BYTES);
        assert_eq!(
            events.parts(),
            [
                (0, BATCH_EVENTS_MAX),
                (BATCH_EVENTS_MAX, 2),
                (BATCH_EVENTS_MAX + 2, 1)
            ]
        );
        let mut events = GivenEvents::new(EventForm::Arrow);
        for _ in 0..ARROW_BATCH_EVENTS_MAX {
            assert!(!events.is_full());
            add(&mut events, 1);
        }
        assert!(events.is_full());
        assert_eq!(events.parts(), [(0, ARROW_BATCH_EVENTS_MAX)]);
    }
}

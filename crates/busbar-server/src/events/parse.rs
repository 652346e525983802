//! A request's body as events. The body is looked at once and kept as it is: an event is a handful
//! of ranges into it, so nothing is allocated for each of them unless a string has escapes.

use std::ops::Range;

use base64::Engine as _;
use busbar_event::format::{JsonParts, NotJson, json_unquote};
use busbar_event::limits::TAGS_MAX;
use busbar_event::{Class, Error, topic};
use busbar_gateway::reserved;
use bytes::Bytes;

use crate::limits::REQUEST_EVENTS_MAX;
use busbar_event::time;

/// The events of one request.
#[derive(Debug)]
pub(crate) struct Parsed {
    body: Bytes,
    items: Vec<Item>,
    tags: Vec<(Text, Text)>,
    common: Common,
    layout: Layout,
    /// Events that are refused one by one, by their place in the request.
    pub(crate) rejected: Vec<(usize, Error)>,
    /// Events in the request, the rejected ones too.
    pub(crate) count: usize,
}

/// What a request says of all its events; what one says of itself goes before it.
#[derive(Debug)]
pub(crate) struct Common {
    /// With a topic each document is a payload; without it each says where it goes.
    pub(crate) topic: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) time: Option<i64>,
    pub(crate) tags: Vec<(String, String)>,
    /// The media type of raw payloads.
    pub(crate) content_type: Option<String>,
    /// Tags of Busbar's own, by their names in [`busbar_event::tags::reserved`].
    pub(crate) reserved: Vec<(&'static str, String)>,
    pub(crate) retain: bool,
    pub(crate) qos: u8,
}

impl Default for Common {
    fn default() -> Self {
        Common {
            topic: None,
            key: None,
            time: None,
            tags: Vec::new(),
            content_type: None,
            reserved: Vec::new(),
            retain: false,
            qos: 1,
        }
    }
}

/// One event, as ranges into the body.
#[derive(Debug)]
struct Item {
    index: usize,
    topic: Option<Text>,
    key: Option<Text>,
    time: Option<i64>,
    tags: Range<usize>,
    payload: Payload,
    retain: bool,
    qos: u8,
}

/// A text of the body, or one that had escapes.
#[derive(Debug)]
enum Text {
    In(Range<usize>),
    Own(Box<str>),
}

#[derive(Debug)]
enum Payload {
    In(Range<usize>),
    Own(Box<[u8]>),
}

/// One event, borrowed from its request.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) index: usize,
    pub(crate) topic: &'a str,
    pub(crate) key: Option<&'a str>,
    pub(crate) time: Option<i64>,
    pub(crate) payload: &'a [u8],
    pub(crate) retain: bool,
    pub(crate) qos: u8,
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How the documents of a body stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One JSON document, an array of them, or one a line.
    Json,
    /// One JSON document a line, whatever a line begins with.
    Lines,
    /// One event with `op` and `id` beside its own fields: a WebSocket frame.
    Frame,
    /// The body is one payload; needs a topic.
    Raw,
}

/// What MQTT clients may not publish to, nobody may.
fn check_topic(topic: &str) -> Result<(), Error> {
    topic::check(topic)?;
    if reserved::is_reserved(topic) {
        return Err(Error::new(Class::Permanent, "server.topic-reserved").with("topic", topic));
    }
    Ok(())
}

impl Parsed {
    /// Reads a body.
    ///
    /// # Errors
    /// When the body as a whole is not what it should be. What is wrong with one event is in
    /// [`Parsed::rejected`].
    pub(crate) fn new(mut body: Bytes, layout: Layout, common: Common) -> Result<Parsed, Error> {
        if let Some(topic) = &common.topic {
            check_topic(topic)?;
        }
        if common.qos > 2 {
            return Err(Error::new(Class::Permanent, "server.bad-field").with("field", "qos"));
        }
        if common.tags.len() > TAGS_MAX {
            return Err(too_many_tags());
        }
        // Some systems begin every text with a mark that says nothing about UTF-8.
        if layout != Layout::Raw && body.starts_with(BYTE_ORDER_MARK) {
            body = body.slice(BYTE_ORDER_MARK.len()..);
        }
        let mut parsed = Parsed {
            body: body.clone(),
            items: Vec::new(),
            tags: Vec::new(),
            common,
            layout,
            rejected: Vec::new(),
            count: 0,
        };
        if layout == Layout::Raw {
            if parsed.common.topic.is_none() {
                return Err(Error::new(Class::Permanent, "server.raw-needs-topic"));
            }
            parsed.payload(0..body.len())?;
            return Ok(parsed);
        }
        let text = std::str::from_utf8(&body).map_err(|cause| {
            Error::new(Class::Permanent, "server.not-utf8").with("byte", cause.valid_up_to())
        })?;
        let mut scanner = JsonParts::new(text);
        match scanner.peek() {
            None => return Err(Error::new(Class::Permanent, "server.no-body")),
            Some(b'[') if layout == Layout::Json => parsed.array(text)?,
            _ => {
                let whole = scanner.value();
                if layout != Layout::Lines && whole.is_ok() && scanner.at_end() {
                    parsed.document(text, 0..text.len())?;
                } else {
                    parsed.lines(text)?;
                }
            }
        }
        Ok(parsed)
    }

    /// The events that may be published, in order.
    pub(crate) fn events(&self) -> impl Iterator<Item = (View<'_>, Range<usize>)> {
        self.items.iter().map(|item| {
            let view = View {
                index: item.index,
                topic: match &item.topic {
                    Some(topic) => self.text(topic),
                    None => self.common.topic.as_deref().unwrap_or_default(),
                },
                key: match &item.key {
                    Some(key) => Some(self.text(key)),
                    None => self.common.key.as_deref(),
                },
                time: item.time.or(self.common.time),
                payload: match &item.payload {
                    Payload::In(range) => &self.body[range.clone()],
                    Payload::Own(bytes) => bytes,
                },
                retain: item.retain,
                qos: item.qos,
            };
            (view, item.tags.clone())
        })
    }

    /// The tags of an event: its own, and those of all.
    pub(crate) fn tags(&self, range: Range<usize>) -> impl Iterator<Item = (&str, &str)> {
        let own = self.tags[range]
            .iter()
            .map(|(name, value)| (self.text(name), self.text(value)));
        let common = self.common.tags.iter();
        own.chain(common.map(|(name, value)| (&**name, &**value)))
    }

    /// The media type of the payloads, where they are neither JSON nor of an unknown kind.
    pub(crate) fn content_type(&self) -> Option<&str> {
        self.common.content_type.as_deref()
    }

    /// Tags of Busbar's own, which all events have.
    pub(crate) fn reserved(&self) -> &[(&'static str, String)] {
        &self.common.reserved
    }

    /// Takes out the events that `allowed` refuses.
    pub(crate) fn retain(&mut self, mut allowed: impl FnMut(&View<'_>) -> Result<(), Error>) {
        let mut refused = Vec::new();
        for (view, _) in self.events() {
            if let Err(error) = allowed(&view) {
                refused.push((view.index, error));
            }
        }
        if refused.is_empty() {
            return;
        }
        let mut next = refused.iter().map(|(index, _)| *index).peekable();
        self.items
            .retain(|item| next.next_if_eq(&item.index).is_none());
        self.rejected.extend(refused);
    }

    /// How many events there are, those that are refused already left out.
    pub(crate) fn count(&self) -> usize {
        self.items.len()
    }

    /// Bytes of the body.
    pub(crate) fn bytes(&self) -> usize {
        self.body.len()
    }

    fn text<'a>(&'a self, text: &'a Text) -> &'a str {
        match text {
            // The range was taken from this body after it was found to be UTF-8.
            Text::In(range) => std::str::from_utf8(&self.body[range.clone()]).unwrap_or_default(),
            Text::Own(text) => text,
        }
    }

    fn array(&mut self, text: &str) -> Result<(), Error> {
        let mut scanner = JsonParts::new(text);
        let mut places = Vec::new();
        let mut many = false;
        scanner
            .array(|place| {
                if places.len() < REQUEST_EVENTS_MAX {
                    places.push(place);
                } else {
                    many = true;
                }
            })
            .map_err(|bad| not_json(text, bad))?;
        if !scanner.at_end() {
            let bad = NotJson {
                at: scanner.position(),
                why: "event.json-more",
            };
            return Err(not_json(text, bad));
        }
        if many {
            return Err(too_many());
        }
        places
            .into_iter()
            .try_for_each(|place| self.document(text, place))
    }

    fn lines(&mut self, text: &str) -> Result<(), Error> {
        let mut start = 0;
        while start < text.len() {
            let end = memchr::memchr(b'\n', &text.as_bytes()[start..])
                .map_or(text.len(), |len| start + len);
            let line = &text[start..end];
            if !line.trim_ascii().is_empty() {
                let mut scanner = JsonParts::new(line);
                let bad = match scanner.value() {
                    Ok(_) if scanner.at_end() => None,
                    Ok(_) => Some(NotJson {
                        at: scanner.position(),
                        why: "event.json-more",
                    }),
                    Err(bad) => Some(bad),
                };
                match bad {
                    None => self.document(text, start..end)?,
                    Some(bad) => self.reject(not_json(line, bad))?,
                }
            }
            start = end + 1;
        }
        if self.count == 0 {
            return Err(Error::new(Class::Permanent, "server.no-body"));
        }
        Ok(())
    }

    /// Takes the JSON document at `place`, which was checked.
    fn document(&mut self, text: &str, place: Range<usize>) -> Result<(), Error> {
        let document = text[place.clone()].trim_ascii();
        let at = document.as_ptr() as usize - text.as_ptr() as usize;
        if self.common.topic.is_some() {
            return self.payload(at..at + document.len());
        }
        let index = self.next()?;
        let tags = self.tags.len();
        match self.event(index, document, at) {
            Ok(item) => self.items.push(item),
            Err(error) => {
                self.tags.truncate(tags);
                self.rejected.push((index, error));
            }
        }
        Ok(())
    }

    fn payload(&mut self, range: Range<usize>) -> Result<(), Error> {
        let index = self.next()?;
        self.items.push(Item {
            index,
            topic: None,
            key: None,
            time: None,
            tags: 0..0,
            payload: Payload::In(range),
            retain: self.common.retain,
            qos: self.common.qos,
        });
        Ok(())
    }

    fn event(&mut self, index: usize, document: &str, at: usize) -> Result<Item, Error> {
        let first = self.tags.len();
        let mut item = Item {
            index,
            topic: None,
            key: None,
            time: None,
            tags: first..first,
            payload: Payload::In(0..0),
            retain: self.common.retain,
            qos: self.common.qos,
        };
        let mut has_payload = false;
        let mut wrong = None;
        let in_frame = self.layout == Layout::Frame;
        let tags = &mut self.tags;
        let mut scanner = JsonParts::new(document);
        let walked = scanner.object(|key, place| {
            let value = &document[place.clone()];
            let place = at + place.start..at + place.end;
            let name = json_unquote(key).unwrap_or_default();
            let taken = match &*name {
                "topic" => string(value, place).map(|topic| item.topic = Some(topic)),
                "key" if value == "null" => Some(()),
                "key" => string(value, place).map(|key| item.key = Some(key)),
                "time" if value == "null" => Some(()),
                "time" => moment(value).map(|time| item.time = Some(time)),
                "tags" => pairs(value, place, tags),
                "payload" if !has_payload => {
                    has_payload = true;
                    // A JSON string stands for its text; everything else for its JSON.
                    match value.starts_with('"') {
                        false => Some(Payload::In(place)),
                        true => string(value, place).map(|text| match text {
                            Text::In(range) => Payload::In(range),
                            Text::Own(text) => Payload::Own(text.into_boxed_bytes()),
                        }),
                    }
                    .map(|payload| item.payload = payload)
                }
                "payload_base64" if !has_payload => {
                    has_payload = true;
                    json_unquote(value)
                        .and_then(|text| {
                            base64::engine::general_purpose::STANDARD
                                .decode(text.as_bytes())
                                .ok()
                        })
                        .map(|bytes| item.payload = Payload::Own(bytes.into()))
                }
                "payload" | "payload_base64" => None,
                "retain" => boolean(value).map(|retain| item.retain = retain),
                "qos" => ["0", "1", "2"]
                    .iter()
                    .position(|qos| *qos == value)
                    .map(|qos| item.qos = qos as u8),
                // What a subscription's frame carries beside these, so that one can be sent back.
                "client" | "stream" | "partition" | "offset" => Some(()),
                "op" | "id" if in_frame => Some(()),
                _ => {
                    wrong.get_or_insert_with(|| {
                        Error::new(Class::Permanent, "server.unknown-field")
                            .with("field", busbar_event::quote(&name))
                    });
                    Some(())
                }
            };
            if taken.is_none() {
                wrong.get_or_insert_with(|| {
                    Error::new(Class::Permanent, "server.bad-field")
                        .with("field", busbar_event::quote(&name))
                });
            }
        });
        if walked.is_err() {
            return Err(Error::new(Class::Permanent, "server.not-object"));
        }
        if let Some(error) = wrong {
            return Err(error);
        }
        item.tags.end = self.tags.len();
        if item.tags.len() + self.common.tags.len() > TAGS_MAX {
            return Err(too_many_tags());
        }
        match &item.topic {
            Some(topic) => check_topic(self.text(topic))?,
            None => return Err(Error::new(Class::Permanent, "server.no-topic")),
        }
        if !has_payload {
            return Err(Error::new(Class::Permanent, "server.no-payload"));
        }
        Ok(item)
    }

    fn next(&mut self) -> Result<usize, Error> {
        if self.count >= REQUEST_EVENTS_MAX {
            return Err(too_many());
        }
        self.count += 1;
        Ok(self.count - 1)
    }

    fn reject(&mut self, error: Error) -> Result<(), Error> {
        let index = self.next()?;
        self.rejected.push((index, error));
        Ok(())
    }
}

fn string(value: &str, place: Range<usize>) -> Option<Text> {
    Some(match json_unquote(value)? {
        std::borrow::Cow::Borrowed(_) => Text::In(place.start + 1..place.end - 1),
        std::borrow::Cow::Owned(text) => Text::Own(text.into()),
    })
}

/// RFC 3339, or microseconds since 1970 within the years that RFC 3339 can write: no other time could
/// be shown to anybody.
fn moment(value: &str) -> Option<i64> {
    match json_unquote(value) {
        Some(text) => time::parse(&text),
        None => value.parse().ok(),
    }
    .filter(|micros| time::is_written(*micros))
}

fn boolean(value: &str) -> Option<bool> {
    value.parse().ok()
}

fn pairs(value: &str, place: Range<usize>, tags: &mut Vec<(Text, Text)>) -> Option<()> {
    if value == "null" {
        return Some(());
    }
    let mut good = Some(());
    JsonParts::new(value)
        .object(|key, at| {
            let text = &value[at.clone()];
            let key_at = place.start + (key.as_ptr() as usize - value.as_ptr() as usize);
            let pair = string(key, key_at..key_at + key.len())
                .zip(string(text, place.start + at.start..place.start + at.end));
            match pair {
                Some(pair) if tags.len() < REQUEST_EVENTS_MAX * TAGS_MAX => tags.push(pair),
                _ => good = None,
            }
        })
        .ok()?;
    good
}

fn too_many_tags() -> Error {
    Error::new(Class::Permanent, "server.too-many-tags").with("max", TAGS_MAX)
}

fn too_many() -> Error {
    Error::new(Class::Permanent, "server.too-many-events").with("max", REQUEST_EVENTS_MAX)
}

/// The error for a text that is not JSON.
pub(crate) fn not_json(text: &str, bad: NotJson) -> Error {
    let (line, column) = bad.place(text);
    Error::new(Class::Permanent, "server.not-json")
        .with("line", line)
        .with("column", column)
        .with_text("why", bad.why)
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;

use std::borrow::Cow;

use super::escape::unescape;
use super::path::is_segment_name;
use super::separators::{piece, pieces};
use super::{Hl7Charset, Hl7Options, Hl7Path, Hl7Separators};
use crate::limits::{HL7_BYTES_MAX, HL7_SEGMENTS_MAX};
use crate::{Class, Error, Result};

const ESC: u8 = 0x1b;

/// Reads messages; keeps its buffers from one to the next.
#[derive(Debug)]
pub struct Hl7Reader {
    /// For messages that declare no character set, or ASCII.
    charset: Hl7Charset,
    /// Messages that declare no character set, and are not in that one, are read as ISO 8859-1.
    any_bytes: bool,
    segments: Vec<Hl7Segment>,
}

/// A message that was read.
#[derive(Debug)]
pub struct Hl7Message<'a> {
    pub(super) text: Cow<'a, str>,
    pub(super) segments: &'a [Hl7Segment],
    pub(super) separators: Hl7Separators,
    pub(super) charset: Hl7Charset,
}

/// Where a segment is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hl7Segment {
    pub name: [u8; 3],
    from: usize,
    to: usize,
}

/// One value of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hl7Value {
    /// Nothing is there.
    Missing,
    /// `""`: the receiver is to delete what it has.
    Deleted,
    /// A text.
    Text,
}

impl Hl7Reader {
    /// With the options of a format.
    ///
    /// # Errors
    /// *Configuration*: `event.hl7-option`.
    pub fn new(options: &Hl7Options) -> Result<Hl7Reader> {
        Ok(Hl7Reader {
            charset: options.charset()?,
            any_bytes: false,
            segments: Vec::new(),
        })
    }

    /// For those who need only what is ASCII in a message: one that declares no character set, or ASCII, may be in any.
    pub fn of_any_bytes() -> Hl7Reader {
        Hl7Reader {
            charset: Hl7Charset::UTF_8,
            any_bytes: true,
            segments: Vec::new(),
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    /// *Permanent*: it is none, it is a batch of them, or it is not in its character set; with the place.
    pub fn read<'a>(&'a mut self, payload: &'a [u8]) -> Result<Hl7Message<'a>> {
        if payload.len() > HL7_BYTES_MAX {
            return Err(too_large());
        }
        let (text, charset) = self.text(payload)?;
        self.segments.clear();
        let separators = index(text.as_bytes(), &mut self.segments)?;
        Ok(Hl7Message {
            text,
            segments: &self.segments,
            separators,
            charset,
        })
    }

    /// The text of a payload, and its character set.
    fn text<'a>(&self, payload: &'a [u8]) -> Result<(Cow<'a, str>, Hl7Charset)> {
        let declared = declared(payload);
        let first = declared.split('~').next().unwrap_or_default();
        let says_nothing = matches!(first, "" | "ASCII" | "US-ASCII" | "ISO IR6");
        let named = match says_nothing && first.len() == declared.len() {
            true => None,
            false => Hl7Charset::of(&declared),
        };
        let is_open = says_nothing && !named.is_some_and(Hl7Charset::switches);
        let (charset, name) = match is_open {
            true => (Some(self.charset), self.charset.name()),
            false => (named, declared),
        };
        if let Some(charset) = charset
            && payload.is_ascii()
            && !(charset.switches() && payload.contains(&ESC))
        {
            let text = std::str::from_utf8(payload).unwrap_or_default();
            return Ok((Cow::Borrowed(text), charset));
        }
        if let Some(charset) = charset
            && let Some(text) = charset.decode(payload)
        {
            return Ok((text, charset));
        }
        // The second byte of a character before MSH-18 can look like a separator.
        let hidden = Hl7Charset::OF_SEVERAL_BYTES
            .into_iter()
            .find_map(|charset| {
                let text = charset.decode(payload)?;
                let is_declared = Hl7Charset::of(&self::declared(text.as_bytes())) == Some(charset);
                is_declared.then_some((text, charset))
            });
        if let Some((text, charset)) = hidden {
            return Ok((text, charset));
        }
        if is_open && self.any_bytes {
            let text = Hl7Charset::LATIN_1.decode(payload).unwrap_or_default();
            return Ok((text, Hl7Charset::LATIN_1));
        }
        let code = match charset {
            None => "event.hl7-charset",
            Some(charset) => match charset.switch_fault(payload) {
                Some(position) => {
                    return Err(Error::new(Class::Permanent, "event.hl7-charset-switch")
                        .with("charset", crate::quote(&name))
                        .with("position", position));
                }
                None => "event.hl7-charset-bytes",
            },
        };
        Err(Error::new(Class::Permanent, code).with("charset", crate::quote(&name)))
    }
}

impl<'a> Hl7Message<'a> {
    /// The character set that it is in.
    pub fn charset(&self) -> Hl7Charset {
        self.charset
    }

    /// Appends the text at a path, without escape sequences. Of several values the first counts, of a value with parts
    /// its first part.
    pub fn value(&self, path: &Hl7Path, out: &mut Vec<u8>) -> Hl7Value {
        let Some(raw) = self.raw(path) else {
            return Hl7Value::Missing;
        };
        match raw {
            "" => Hl7Value::Missing,
            "\"\"" => Hl7Value::Deleted,
            raw if path.names_separators() => {
                out.extend_from_slice(raw.as_bytes());
                Hl7Value::Text
            }
            raw => {
                unescape(raw, &self.separators, self.charset, out);
                Hl7Value::Text
            }
        }
    }

    /// The text at a path with its escape sequences; `None` where the message has no such place.
    pub fn raw(&self, path: &Hl7Path) -> Option<&str> {
        let segment = self
            .named(path.segment?)
            .nth(path.occurrence.number() - 1)?;
        let field = self.field(segment, path.field?)?;
        if path.names_separators() {
            return Some(field);
        }
        let of = &self.separators;
        let repetition = piece(field, of.repetition, path.repetition.number() - 1)?;
        let component = path.component.unwrap_or(1);
        let component = piece(repetition, Some(of.component), component - 1)?;
        piece(
            component,
            of.subcomponent,
            path.subcomponent.unwrap_or(1) - 1,
        )
    }

    /// The segments of a name.
    pub(super) fn named(&self, name: [u8; 3]) -> impl Iterator<Item = &Hl7Segment> {
        self.segments
            .iter()
            .filter(move |segment| segment.name == name)
    }

    /// A field of a segment, as it is written.
    pub(super) fn field(&self, segment: &Hl7Segment, number: usize) -> Option<&str> {
        let text = &self.text[segment.from..segment.to];
        // The separator behind the name is the first field itself.
        match (is_header(segment.name), number) {
            (true, 1) => text.get(3..4),
            (true, number) => piece(text, Some(self.separators.field), number - 1),
            (false, number) => piece(text, Some(self.separators.field), number),
        }
    }

    /// The fields of a segment with their numbers, as they are written.
    pub(super) fn fields(&self, segment: &Hl7Segment) -> impl Iterator<Item = (usize, &str)> {
        let text = &self.text[segment.from..segment.to];
        let is_header = is_header(segment.name);
        let first = is_header.then(|| (1, text.get(3..4).unwrap_or_default()));
        let fields = pieces(text, Some(self.separators.field))
            .enumerate()
            .skip(1);
        let fields = fields.map(move |(number, field)| (number + usize::from(is_header), field));
        first.into_iter().chain(fields)
    }

    /// The names of its segments, in order.
    pub(in crate::format) fn segment_names(&self) -> impl Iterator<Item = &str> {
        let name = |segment: &'a Hl7Segment| std::str::from_utf8(&segment.name).unwrap_or_default();
        self.segments.iter().map(name)
    }
}

impl Hl7Path {
    /// Whether it is MSH-1 or MSH-2, which hold separators that separate nothing.
    pub(super) fn names_separators(&self) -> bool {
        self.segment.is_some_and(is_header) && matches!(self.field, Some(1 | 2))
    }
}

/// Whether a segment of this name declares separators.
pub(super) fn is_header(name: [u8; 3]) -> bool {
    matches!(&name, b"MSH" | b"FHS" | b"BHS")
}

/// The names in MSH-18 with `~` between them; empty if there is none.
fn declared(payload: &[u8]) -> Cow<'_, str> {
    // Empty lines before the header are none of it.
    let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let begin = payload.iter().position(|byte| !is_end(byte));
    let payload = &payload[begin.unwrap_or(payload.len())..];
    let end = memchr::memchr2(b'\r', b'\n', payload).unwrap_or(payload.len());
    let header = &payload[..end];
    let Ok(of) = Hl7Separators::of(header) else {
        return Cow::Borrowed("");
    };
    let Some(field) = header.split(|byte| *byte == of.field).nth(17) else {
        return Cow::Borrowed("");
    };
    let mut names = field
        .split(|byte| Some(*byte) == of.repetition)
        .map(|repetition| {
            let component = memchr::memchr(of.component, repetition);
            let name = &repetition[..component.unwrap_or(repetition.len())];
            String::from_utf8_lossy(name.trim_ascii())
        });
    let mut all = names.next().unwrap_or_default();
    for name in names {
        let all = all.to_mut();
        all.push('~');
        all.push_str(&name);
    }
    all
}

/// Finds the segments of a text. They end with a carriage return, a line feed, or both.
fn index(text: &[u8], segments: &mut Vec<Hl7Segment>) -> Result<Hl7Separators> {
    let mut separators: Option<Hl7Separators> = None;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let length = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
        let (line, from) = (&rest[..length], at);
        at += length + 1;
        if line.is_empty() {
            continue;
        }
        let wrong =
            |code, position| Err(Error::new(Class::Permanent, code).with("position", position));
        let name: Option<[u8; 3]> = line.get(..3).and_then(|name| name.try_into().ok());
        let Some(of) = separators else {
            match name.as_ref() {
                Some(b"MSH") => {}
                Some(b"FHS" | b"BHS") => return wrong("event.hl7-batch", from),
                _ => return wrong("event.hl7-start", from),
            }
            match Hl7Separators::of(line) {
                Ok(of) => separators = Some(of),
                Err(place) => return wrong("event.hl7-separators", from + place),
            }
            segments.push(Hl7Segment {
                name: *b"MSH",
                from,
                to: from + length,
            });
            continue;
        };
        let name = match name {
            Some(name) if is_header(name) || matches!(&name, b"BTS" | b"FTS") => {
                return wrong("event.hl7-batch", from);
            }
            Some(name) if is_segment_name(name) => name,
            _ => return wrong("event.hl7-segment", from),
        };
        if line.get(3).is_some_and(|byte| *byte != of.field) {
            return wrong("event.hl7-segment", from);
        }
        if segments.len() == HL7_SEGMENTS_MAX {
            return Err(too_large());
        }
        segments.push(Hl7Segment {
            name,
            from,
            to: from + length,
        });
    }
    separators.ok_or_else(|| Error::new(Class::Permanent, "event.hl7-start").with("position", 0))
}

fn too_large() -> Error {
    Error::new(Class::Permanent, "event.hl7-large")
        .with("segments_max", HL7_SEGMENTS_MAX)
        .with("bytes_max", HL7_BYTES_MAX)
}

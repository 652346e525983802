use serde_json::Value;

use super::escape::escape;
use super::path::{Hl7Which, is_segment_name};
use super::{Hl7Path, Hl7Separators};
use crate::limits::{HL7_BYTES_MAX, HL7_PLACE_MAX, HL7_PLACES_MAX, HL7_SEGMENTS_MAX};
use crate::{Class, Error, Result};

/// Makes a message of values and their paths, with the usual separators. Segments come in the order in which they were named
/// first, MSH before all; another one of a name comes behind the last of that name.
#[derive(Debug, Default)]
pub struct Hl7Writer {
    segments: Vec<SegmentOut>,
    /// Places of segments, fields and parts that were made.
    places: usize,
}

#[derive(Debug)]
struct SegmentOut {
    name: [u8; 3],
    fields: Vec<Vec<RepetitionOut>>,
}

/// Components of subcomponents, escaped.
type RepetitionOut = Vec<Vec<String>>;

/// Where below a segment a value goes.
#[derive(Debug, Clone, Copy)]
struct Hl7Slot {
    segment: usize,
    field: usize,
    repetition: usize,
    component: usize,
    subcomponent: usize,
}

impl Hl7Writer {
    /// Puts a value where a path leads. Texts, numbers and truth values (`Y`, `N`) are values; an empty text is `""`, which
    /// tells the receiver to delete what it has; null is nothing. An object has parts by number, a list has repetitions,
    /// or segments where the path has no field or `[*]` behind its segment. MSH-1 and MSH-2 are the writer's own.
    ///
    /// # Errors
    /// *Permanent*: the value has another shape than its place, or the message is too large.
    pub fn set(&mut self, path: &Hl7Path, value: &Value) -> Result<()> {
        let fits = match path.segment {
            None => self.all(value),
            Some(name) => self.segment_value(name, path, value),
        };
        match fits {
            _ if self.places > HL7_PLACES_MAX || self.segments.len() > HL7_SEGMENTS_MAX => {
                Err(too_large())
            }
            Some(()) => Ok(()),
            None => {
                Err(Error::new(Class::Permanent, "event.hl7-shape").with("path", path.to_string()))
            }
        }
    }

    /// Whether something is at a place already.
    pub fn has(&self, segment: [u8; 3], field: usize) -> bool {
        self.segments.iter().any(|out| {
            out.name == segment && out.fields.get(field).is_some_and(|field| !field.is_empty())
        })
    }

    /// The message; its segments end with a carriage return. The writer is empty again.
    ///
    /// # Errors
    /// *Permanent*: `event.hl7-large`.
    pub fn finish(&mut self) -> Result<String> {
        let of = Hl7Separators::default();
        self.places = 0;
        let header = self.segments.iter().position(|out| &out.name == b"MSH");
        let header = header.map(|at| self.segments.remove(at));
        let mut text = String::from("MSH|");
        text.extend(of.encoding_characters());
        if let Some(header) = header {
            let fields = header.fields.get(3..).unwrap_or_default();
            write_fields(fields, &mut text)?;
        }
        text.push('\r');
        for segment in self.segments.drain(..) {
            text.extend(segment.name.map(char::from));
            write_fields(segment.fields.get(1..).unwrap_or_default(), &mut text)?;
            text.push('\r');
            if text.len() > HL7_BYTES_MAX {
                return Err(too_large());
            }
        }
        Ok(text)
    }

    /// All segments: a list of objects with their names.
    fn all(&mut self, value: &Value) -> Option<()> {
        for item in value.as_array()? {
            let object = item.as_object()?;
            let name = object.get("segment")?.as_str()?;
            let name: [u8; 3] = name.as_bytes().try_into().ok()?;
            let is_header = &name == b"MSH" && self.segments.iter().any(|out| out.name == name);
            if !is_within(name) || is_header || self.segments.len() > HL7_SEGMENTS_MAX {
                return None;
            }
            self.segments.push(SegmentOut {
                name,
                fields: Vec::new(),
            });
            let segment = self.segments.len() - 1;
            for (key, value) in object.iter().filter(|(key, _)| *key != "segment") {
                self.field_value(segment, number(key)?, None, value)?;
            }
        }
        Some(())
    }

    fn segment_value(&mut self, name: [u8; 3], path: &Hl7Path, value: &Value) -> Option<()> {
        let list = match (value, path.occurrence) {
            (Value::Array(list), Hl7Which::All) => Some(list),
            (Value::Array(list), Hl7Which::Unsaid) if path.field.is_none() => Some(list),
            _ => None,
        };
        let Some(list) = list else {
            return self.one_segment(name, path.occurrence.number(), path, value);
        };
        for (at, item) in list.iter().enumerate() {
            self.one_segment(name, at + 1, path, item)?;
        }
        Some(())
    }

    fn one_segment(
        &mut self,
        name: [u8; 3],
        number: usize,
        path: &Hl7Path,
        value: &Value,
    ) -> Option<()> {
        if value.is_null() && path.occurrence != Hl7Which::All {
            return Some(());
        }
        if !is_within(name) || (&name == b"MSH" && number > 1) {
            return None;
        }
        let segment = self.segment(name, number);
        match path.field {
            Some(field) => self.field_value(segment, field, Some(path), value),
            None if value.is_null() => Some(()),
            None => {
                for (key, value) in value.as_object()? {
                    self.field_value(segment, self::number(key)?, None, value)?;
                }
                Some(())
            }
        }
    }

    /// The place of a segment, which is added if it is not there.
    fn segment(&mut self, name: [u8; 3], number: usize) -> usize {
        let mut last = None;
        let mut seen = 0;
        for (at, out) in self.segments.iter().enumerate() {
            if out.name == name {
                (last, seen) = (Some(at), seen + 1);
                if seen == number {
                    return at;
                }
            }
        }
        let mut at = last.map_or(self.segments.len(), |at| at + 1);
        while seen < number && self.segments.len() <= HL7_SEGMENTS_MAX {
            let fields = Vec::new();
            self.segments.insert(at, SegmentOut { name, fields });
            (at, seen) = (at + 1, seen + 1);
        }
        at - 1
    }

    fn field_value(
        &mut self,
        segment: usize,
        field: usize,
        path: Option<&Hl7Path>,
        value: &Value,
    ) -> Option<()> {
        let (repetition, component, subcomponent) = match path {
            Some(path) => (path.repetition, path.component, path.subcomponent),
            None => (Hl7Which::Unsaid, None, None),
        };
        let mut slot = Hl7Slot {
            segment,
            field,
            repetition: repetition.number(),
            component: component.unwrap_or(1),
            subcomponent: subcomponent.unwrap_or(1),
        };
        let parts = match (component, subcomponent) {
            (None, _) => 2,
            (Some(_), None) => 1,
            (Some(_), Some(_)) => 0,
        };
        match (value, repetition) {
            (Value::Array(list), Hl7Which::Unsaid | Hl7Which::All) => {
                for item in list {
                    self.parts(slot, parts, item)?;
                    slot.repetition += 1;
                }
                // An empty repetition at the end counts too.
                if let Some(last) = list.len().checked_sub(1).filter(|last| *last > 0) {
                    slot.repetition = last + 1;
                    self.repetition(slot)?;
                }
                Some(())
            }
            _ => self.parts(slot, parts, value),
        }
    }

    /// A value that may be an object of parts: of components if `levels` is two, of subcomponents if it is one.
    fn parts(&mut self, mut slot: Hl7Slot, levels: usize, value: &Value) -> Option<()> {
        let text = match value {
            Value::Null => return Some(()),
            Value::String(text) => text.as_str(),
            Value::Bool(true) => "Y",
            Value::Bool(false) => "N",
            Value::Number(number) => return self.put(slot, &number.to_string()),
            Value::Array(_) => return None,
            Value::Object(_) if levels == 0 => return None,
            Value::Object(members) => {
                for (key, value) in members {
                    match levels {
                        2 => slot.component = number(key)?,
                        _ => slot.subcomponent = number(key)?,
                    }
                    self.parts(slot, levels - 1, value)?;
                }
                return Some(());
            }
        };
        self.put(slot, text)
    }

    fn put(&mut self, slot: Hl7Slot, text: &str) -> Option<()> {
        self.repetition(slot)?;
        let Hl7Writer { segments, places } = self;
        let field = segments[slot.segment].fields.get_mut(slot.field)?;
        let components = field.get_mut(slot.repetition - 1)?;
        let subcomponents = grown(components, slot.component, places)?;
        let place = grown(subcomponents, slot.subcomponent, places)?;
        place.clear();
        match text {
            "" => place.push_str("\"\""),
            text => escape(text, place),
        }
        Some(())
    }

    /// Makes the place of a repetition.
    fn repetition(&mut self, slot: Hl7Slot) -> Option<()> {
        let Hl7Writer { segments, places } = self;
        let fields = &mut segments.get_mut(slot.segment)?.fields;
        // Fields are counted from one; the first place stays empty.
        let field = grown(fields, slot.field + 1, places)?;
        grown(field, slot.repetition, places).map(drop)
    }
}

/// The place of this number, counted from one, of a list that grows up to it.
fn grown<'l, T: Default>(
    list: &'l mut Vec<T>,
    number: usize,
    places: &mut usize,
) -> Option<&'l mut T> {
    if list.len() < number {
        *places += number - list.len();
        if *places > HL7_PLACES_MAX {
            return None;
        }
        list.resize_with(number, T::default);
    }
    list.get_mut(number - 1)
}

/// Whether a segment can be within a message.
fn is_within(name: [u8; 3]) -> bool {
    is_segment_name(name) && !matches!(&name, b"FHS" | b"BHS" | b"BTS" | b"FTS")
}

fn number(key: &str) -> Option<usize> {
    let number: usize = key.parse().ok()?;
    (1..=HL7_PLACE_MAX).contains(&number).then_some(number)
}

fn write_fields(fields: &[Vec<RepetitionOut>], out: &mut String) -> Result<()> {
    for field in fields {
        out.push('|');
        joined(field, '~', out, |repetition, out| {
            joined(repetition, '^', out, |component, out| {
                joined(component, '&', out, |text: &String, out| out.push_str(text));
            });
        });
        if out.len() > HL7_BYTES_MAX {
            return Err(too_large());
        }
    }
    Ok(())
}

fn joined<T>(
    items: &[T],
    separator: char,
    out: &mut String,
    mut write: impl FnMut(&T, &mut String),
) {
    for (number, item) in items.iter().enumerate() {
        if number > 0 {
            out.push(separator);
        }
        write(item, out);
    }
}

fn too_large() -> Error {
    Error::new(Class::Permanent, "event.hl7-large")
        .with("segments_max", HL7_SEGMENTS_MAX)
        .with("bytes_max", HL7_BYTES_MAX)
}

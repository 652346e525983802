//! What is at a path, as JSON.
//!
//! | message | JSON |
//! | --- | --- |
//! | a segment | an object of its fields by number: `{"1":"1","3":…}` |
//! | all segments (`*`) | a list of them, each with its name as `segment` |
//! | a field with several repetitions | a list; null for an empty one |
//! | a value of several components or subcomponents | an object of them by number |
//! | any other value | its text |
//! | `""` | an empty text |
//! | nothing | null; within an object it is left out |

use super::escape::unescape;
use super::message::{Hl7Segment, is_header};
use super::path::Hl7Which;
use super::separators::{has, piece, pieces};
use super::{Hl7Message, Hl7Path};
use crate::format::write_json_text;

/// Where to write, and a buffer for texts.
pub(super) struct JsonOut<'o> {
    pub json: &'o mut Vec<u8>,
    pub text: &'o mut Vec<u8>,
}

impl Hl7Message<'_> {
    /// Appends what is at a path; false, and nothing, if nothing is there.
    pub(super) fn json(&self, path: &Hl7Path, out: &mut JsonOut<'_>) -> bool {
        let Some(name) = path.segment else {
            out.json.push(b'[');
            for (number, segment) in self.segments.iter().enumerate() {
                if number > 0 {
                    out.json.push(b',');
                }
                self.segment(segment, true, out);
            }
            out.json.push(b']');
            return true;
        };
        let number = match path.occurrence {
            Hl7Which::Number(number) => {
                let segment = self.named(name).nth(number - 1);
                return segment.is_some_and(|segment| self.in_segment(segment, path, out));
            }
            Hl7Which::Unsaid => self.named(name).take(2).count(),
            Hl7Which::All => 2 * self.named(name).take(1).count(),
        };
        match number {
            0 => false,
            1 => self
                .named(name)
                .next()
                .is_some_and(|segment| self.in_segment(segment, path, out)),
            _ => list(self.named(name), out, |segment, out| {
                self.in_segment(segment, path, out)
            }),
        }
    }

    fn in_segment(&self, segment: &Hl7Segment, path: &Hl7Path, out: &mut JsonOut<'_>) -> bool {
        let Some(number) = path.field else {
            return self.segment(segment, false, out);
        };
        let Some(field) = self.field(segment, number) else {
            return false;
        };
        if path.names_separators() {
            write_json_text(field, out.json);
            return true;
        }
        self.in_field(field, path, out)
    }

    /// A whole segment.
    fn segment(&self, segment: &Hl7Segment, named: bool, out: &mut JsonOut<'_>) -> bool {
        out.json.push(b'{');
        let mut is_first = true;
        if named {
            out.json.extend_from_slice(b"\"segment\":");
            // Names are checked to be letters and digits.
            write_json_text(
                std::str::from_utf8(&segment.name).unwrap_or_default(),
                out.json,
            );
            is_first = false;
        }
        let whole = Hl7Path::field(segment.name, 3);
        for (number, field) in self.fields(segment) {
            member(number, &mut is_first, out, |out| {
                if is_header(segment.name) && number <= 2 {
                    write_json_text(field, out.json);
                    return true;
                }
                self.in_field(field, &whole, out)
            });
        }
        out.json.push(b'}');
        true
    }

    fn in_field(&self, field: &str, path: &Hl7Path, out: &mut JsonOut<'_>) -> bool {
        let of = &self.separators;
        if of.is_blank(field) {
            return false;
        }
        match path.repetition {
            Hl7Which::Number(number) => piece(field, of.repetition, number - 1)
                .is_some_and(|repetition| self.in_repetition(repetition, path, out)),
            Hl7Which::Unsaid if !has(field, of.repetition) => self.in_repetition(field, path, out),
            Hl7Which::Unsaid | Hl7Which::All => {
                list(pieces(field, of.repetition), out, |repetition, out| {
                    self.in_repetition(repetition, path, out)
                })
            }
        }
    }

    fn in_repetition(&self, text: &str, path: &Hl7Path, out: &mut JsonOut<'_>) -> bool {
        let of = &self.separators;
        match path.component {
            Some(number) => piece(text, Some(of.component), number - 1)
                .is_some_and(|component| self.in_component(component, path, out)),
            // Below it is one component, which needs no object around it.
            None if !has(text, Some(of.component)) && !has(text, of.subcomponent) => {
                self.text(text, out)
            }
            None => self.object(text, Some(of.component), out, |component, out| {
                self.in_component(component, path, out)
            }),
        }
    }

    fn in_component(&self, text: &str, path: &Hl7Path, out: &mut JsonOut<'_>) -> bool {
        let of = &self.separators;
        match path.subcomponent {
            Some(number) => {
                piece(text, of.subcomponent, number - 1).is_some_and(|text| self.text(text, out))
            }
            None if !has(text, of.subcomponent) => self.text(text, out),
            None => self.object(text, of.subcomponent, out, |text, out| self.text(text, out)),
        }
    }

    fn object(
        &self,
        text: &str,
        separator: Option<u8>,
        out: &mut JsonOut<'_>,
        mut write: impl FnMut(&str, &mut JsonOut<'_>) -> bool,
    ) -> bool {
        if self.separators.is_blank(text) {
            return false;
        }
        out.json.push(b'{');
        let mut is_first = true;
        for (number, part) in pieces(text, separator).enumerate() {
            member(number + 1, &mut is_first, out, |out| write(part, out));
        }
        out.json.push(b'}');
        true
    }

    fn text(&self, text: &str, out: &mut JsonOut<'_>) -> bool {
        match text {
            "" => false,
            "\"\"" => {
                out.json.extend_from_slice(b"\"\"");
                true
            }
            text => {
                out.text.clear();
                unescape(text, &self.separators, self.charset, out.text);
                let text = std::str::from_utf8(out.text).unwrap_or_default();
                write_json_text(text, out.json);
                true
            }
        }
    }
}

/// Appends a member, unless it is null.
fn member(
    number: usize,
    is_first: &mut bool,
    out: &mut JsonOut<'_>,
    write: impl FnOnce(&mut JsonOut<'_>) -> bool,
) {
    let before = out.json.len();
    if !*is_first {
        out.json.push(b',');
    }
    out.json.push(b'"');
    out.json
        .extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.json.extend_from_slice(b"\":");
    match write(out) {
        true => *is_first = false,
        false => out.json.truncate(before),
    }
}

fn list<T>(
    items: impl Iterator<Item = T>,
    out: &mut JsonOut<'_>,
    mut write: impl FnMut(T, &mut JsonOut<'_>) -> bool,
) -> bool {
    out.json.push(b'[');
    for (number, item) in items.enumerate() {
        if number > 0 {
            out.json.push(b',');
        }
        if !write(item, out) {
            out.json.extend_from_slice(b"null");
        }
    }
    out.json.push(b']');
    true
}

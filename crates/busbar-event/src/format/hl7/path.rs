use std::fmt;

use crate::limits::HL7_PLACE_MAX;

/// Where in a message a value is: `PID.5.1`, `OBX[2].5`, `PID.3[*].1`, `PID`, or `*` for all segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hl7Path {
    /// Name of the segment; `None` for all segments of the message.
    pub(super) segment: Option<[u8; 3]>,
    pub(super) occurrence: Hl7Which,
    pub(super) field: Option<usize>,
    pub(super) repetition: Hl7Which,
    pub(super) component: Option<usize>,
    pub(super) subcomponent: Option<usize>,
}

/// Hl7Which of several segments or repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hl7Which {
    /// Not said: the first for one value, whatever there is for `json`.
    Unsaid,
    /// This one, counted from one.
    Number(usize),
    /// All, as a list.
    All,
}

impl Hl7Which {
    /// The one that one value is of.
    pub fn number(self) -> usize {
        match self {
            Hl7Which::Unsaid | Hl7Which::All => 1,
            Hl7Which::Number(number) => number,
        }
    }
}

impl Hl7Path {
    /// Reads a path; `None` if it is none.
    pub fn parse(text: &str) -> Option<Hl7Path> {
        let all = Hl7Path {
            segment: None,
            occurrence: Hl7Which::Unsaid,
            field: None,
            repetition: Hl7Which::Unsaid,
            component: None,
            subcomponent: None,
        };
        if text == "*" {
            return Some(all);
        }
        let mut parts = text.split('.');
        let (name, occurrence) = indexed(parts.next()?)?;
        let segment: [u8; 3] = name.as_bytes().try_into().ok()?;
        if !is_segment_name(segment) {
            return None;
        }
        let (field, repetition) = match parts.next() {
            None => (None, Hl7Which::Unsaid),
            Some(part) => {
                let (number, which) = indexed(part)?;
                (Some(place(number)?), which)
            }
        };
        let component = parts.next().map(|part| place(part).ok_or(())).transpose();
        let subcomponent = parts.next().map(|part| place(part).ok_or(())).transpose();
        match parts.next() {
            Some(_) => None,
            None => Some(Hl7Path {
                segment: Some(segment),
                occurrence,
                field,
                repetition,
                component: component.ok()?,
                subcomponent: subcomponent.ok()?,
            }),
        }
    }

    /// Whether one value is there, which a column of another type than `json` can hold.
    pub fn is_scalar(&self) -> bool {
        self.field.is_some() && self.occurrence != Hl7Which::All && self.repetition != Hl7Which::All
    }

    /// The first of a field, as `MSH.10` of it; for what programs look up themselves.
    pub fn field(segment: [u8; 3], field: usize) -> Hl7Path {
        Hl7Path {
            segment: Some(segment),
            occurrence: Hl7Which::Unsaid,
            field: Some(field),
            repetition: Hl7Which::Unsaid,
            component: None,
            subcomponent: None,
        }
    }
}

impl fmt::Display for Hl7Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(name) = &self.segment else {
            return f.write_str("*");
        };
        for byte in name {
            write!(f, "{}", char::from(*byte))?;
        }
        write!(f, "{}", self.occurrence)?;
        if let Some(field) = self.field {
            write!(f, ".{field}{}", self.repetition)?;
        }
        for part in [self.component, self.subcomponent].into_iter().flatten() {
            write!(f, ".{part}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Hl7Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hl7Which::Unsaid => Ok(()),
            Hl7Which::Number(number) => write!(f, "[{number}]"),
            Hl7Which::All => f.write_str("[*]"),
        }
    }
}

/// Whether a segment can be called so: an upper-case letter, then letters and digits.
pub(super) fn is_segment_name(name: [u8; 3]) -> bool {
    let fits = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
    name[0].is_ascii_uppercase() && name.iter().all(fits)
}

/// A part of a path and the index behind it.
fn indexed(part: &str) -> Option<(&str, Hl7Which)> {
    let Some((name, index)) = part.split_once('[') else {
        return Some((part, Hl7Which::Unsaid));
    };
    let which = match index.strip_suffix(']')? {
        "*" => Hl7Which::All,
        number => Hl7Which::Number(place(number)?),
    };
    Some((name, which))
}

fn place(text: &str) -> Option<usize> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number: usize = text.parse().ok()?;
    (digits && (1..=HL7_PLACE_MAX).contains(&number)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_they_are_read() {
        for (text, is_scalar) in [
            ("*", false),
            ("PID", false),
            ("ZX1[2]", false),
            ("PID.5", true),
            ("PID.5.1", true),
            ("PID.5.1.2", true),
            ("PID.3[2].4", true),
            ("OBX[*].5", false),
            ("OBX[3].5[*].1.2", false),
        ] {
            let path = Hl7Path::parse(text).unwrap();
            assert_eq!(path.to_string(), text);
            assert_eq!(path.is_scalar(), is_scalar, "{text}");
        }
        for wrong in [
            "",
            "PI",
            "PIDX",
            "pid.5",
            "1ID.5",
            "PID.0",
            "PID.x",
            "PID.+5",
            "PID.5.",
            "PID.5.1.1.1",
            "PID.5[0]",
            "PID.5[",
            "PID.5[]",
            "PID[1]x.5",
            "PID.5.1[2]",
            "PID.100000",
            "*.5",
            "名.5",
        ] {
            assert_eq!(Hl7Path::parse(wrong), None, "{wrong}");
        }
    }
}

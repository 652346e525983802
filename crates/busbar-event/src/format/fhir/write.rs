//! Resources of values and their paths: [`FhirWriter`].

use super::FhirPath;
use super::path::{FhirStep, FhirWhich};
use crate::format::write_json_text;
use crate::{Class, Error, Result};

/// Makes resources of one type.
#[derive(Debug, Clone)]
pub struct FhirWriter {
    resource_type: String,
    paths: Vec<FhirPath>,
}

#[derive(Debug)]
enum FhirBranch {
    /// Nothing is here yet.
    Empty,
    /// A JSON text.
    Value(String),
    Object(Vec<(String, FhirBranch)>),
    List(Vec<FhirBranch>),
}

impl FhirWriter {
    /// For values at these paths. An element that is found by its members is made with them.
    ///
    /// # Errors
    /// *Configuration*: `event.fhir-path` for what is no path, `event.fhir-path-list` for one with `[*]`,
    /// `event.fhir-path-clash` for two of which one is within the other's value, or that say it is a list and that it is none.
    pub fn new<'p>(
        resource_type: &str,
        paths: impl IntoIterator<Item = &'p str>,
    ) -> Result<FhirWriter> {
        let mut parsed = Vec::new();
        let mut tried = FhirBranch::Empty;
        for text in paths {
            let wrong = |code| {
                Error::new(Class::Configuration, code)
                    .with("path", crate::quote(text))
                    .with("field", crate::quote(text))
            };
            let path = FhirPath::parse(text).ok_or_else(|| wrong("event.fhir-path"))?;
            if !path.is_scalar() {
                return Err(wrong("event.fhir-path-list"));
            }
            if path.steps[0].name == "resourceType" || !tried.put(&path.steps, "0") {
                return Err(wrong("event.fhir-path-clash"));
            }
            parsed.push(path);
        }
        Ok(FhirWriter {
            resource_type: resource_type.to_owned(),
            paths: parsed,
        })
    }

    /// A resource with these values, each as its JSON text, in the order of the paths. What has none is left out.
    pub fn resource<'v>(&self, values: impl IntoIterator<Item = Option<&'v str>>) -> Vec<u8> {
        let mut root = FhirBranch::Empty;
        for (path, value) in self.paths.iter().zip(values) {
            if let Some(value) = value {
                root.put(&path.steps, value);
            }
        }
        let mut out = b"{\"resourceType\":".to_vec();
        write_json_text(&self.resource_type, &mut out);
        if let FhirBranch::Object(members) = &root {
            for (name, member) in members {
                out.push(b',');
                write_json_text(name, &mut out);
                out.push(b':');
                member.write(&mut out);
            }
        }
        out.push(b'}');
        out
    }
}

impl FhirBranch {
    /// Puts a value; false where something else is in its way.
    fn put(&mut self, steps: &[FhirStep], value: &str) -> bool {
        let Some((step, rest)) = steps.split_first() else {
            let is_free = matches!(self, FhirBranch::Empty);
            *self = FhirBranch::Value(value.to_owned());
            return is_free;
        };
        let Some(inner) = self.member(&step.name) else {
            return false;
        };
        if let FhirWhich::Unsaid | FhirWhich::All = step.which {
            return inner.put(rest, value);
        }
        if let FhirBranch::Empty = inner {
            *inner = FhirBranch::List(Vec::new());
        }
        let FhirBranch::List(list) = inner else {
            return false;
        };
        let at = match &step.which {
            FhirWhich::Where(members) => {
                let place = list.iter().position(|element| element.has(members));
                place.unwrap_or_else(|| {
                    list.push(FhirBranch::of(members));
                    list.len() - 1
                })
            }
            FhirWhich::Number(number) => {
                while list.len() <= *number {
                    list.push(FhirBranch::Empty);
                }
                *number
            }
            FhirWhich::Unsaid | FhirWhich::All => return false,
        };
        list[at].put(rest, value)
    }

    fn member(&mut self, name: &str) -> Option<&mut FhirBranch> {
        if let FhirBranch::Empty = self {
            *self = FhirBranch::Object(Vec::new());
        }
        let FhirBranch::Object(members) = self else {
            return None;
        };
        let place = members.iter().position(|(known, _)| known == name);
        let place = place.unwrap_or_else(|| {
            members.push((name.to_owned(), FhirBranch::Empty));
            members.len() - 1
        });
        members.get_mut(place).map(|(_, node)| node)
    }

    fn of(members: &[(String, String)]) -> FhirBranch {
        let members = members.iter().map(|(name, text)| {
            let mut value = Vec::new();
            write_json_text(text, &mut value);
            let value = String::from_utf8(value).unwrap_or_default();
            (name.clone(), FhirBranch::Value(value))
        });
        FhirBranch::Object(members.collect())
    }

    fn has(&self, wanted: &[(String, String)]) -> bool {
        let (FhirBranch::Object(members), FhirBranch::Object(wanted)) =
            (self, FhirBranch::of(wanted))
        else {
            return false;
        };
        wanted.iter().all(|(name, wanted)| {
            members.iter().any(|(known, value)| {
                matches!((value, wanted), (FhirBranch::Value(value), FhirBranch::Value(wanted)) if known == name && value == wanted)
            })
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            FhirBranch::Empty => out.extend_from_slice(b"null"),
            FhirBranch::Value(value) => out.extend_from_slice(value.as_bytes()),
            FhirBranch::Object(members) => {
                for (at, (name, member)) in members.iter().enumerate() {
                    out.push(if at == 0 { b'{' } else { b',' });
                    write_json_text(name, out);
                    out.push(b':');
                    member.write(out);
                }
                out.push(b'}');
            }
            FhirBranch::List(list) => {
                // Elements that were passed over because they have no value.
                let there = list
                    .iter()
                    .filter(|node| !matches!(node, FhirBranch::Empty));
                for (at, element) in there.enumerate() {
                    out.push(if at == 0 { b'[' } else { b',' });
                    element.write(out);
                }
                out.push(b']');
            }
        }
    }
}

//! Where in a resource a value is: [`FhirPath`].

use std::fmt;

use crate::format::{JsonParts, json_unquote};
use crate::limits::{FHIR_ITEM_MAX, JSON_DEPTH_MAX};

/// Where in a resource a value is: `birthDate`, `name[0].family`, `identifier(system=urn:his).value`, `name[*].given`.
///
/// Elements are counted from zero, as in FHIRPath. A list without a number stands for its first element, and for the whole
/// list in a `json` column that it ends the path of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FhirPath {
    pub(super) steps: Vec<FhirStep>,
}

/// One member, and which of its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FhirStep {
    pub name: String,
    pub which: FhirWhich,
}

/// Which elements of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FhirWhich {
    /// Not said.
    Unsaid,
    /// This one, counted from zero.
    Number(usize),
    /// All of them.
    All,
    /// The first whose members have these texts.
    Where(Vec<(String, String)>),
}

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FhirFound<'t> {
    /// Nothing.
    Nothing,
    /// One value, as its JSON text.
    One(&'t str),
    /// Several, each as its JSON text, of a path with `[*]`.
    Many(Vec<&'t str>),
}

impl FhirPath {
    /// Reads a path; `None` if it is none.
    pub fn parse(text: &str) -> Option<FhirPath> {
        let mut steps = Vec::new();
        let mut rest = text;
        loop {
            if steps.len() == JSON_DEPTH_MAX {
                return None;
            }
            let length = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            let (name, behind) = rest.split_at(length);
            if name.is_empty() {
                return None;
            }
            let (which, behind) = which(behind)?;
            steps.push(FhirStep {
                name: name.to_owned(),
                which,
            });
            rest = match behind.strip_prefix('.') {
                Some(rest) => rest,
                None if behind.is_empty() => return Some(FhirPath { steps }),
                None => return None,
            };
        }
    }

    /// Whether it leads to one value at most, which a column of another type than `json` can hold.
    pub fn is_scalar(&self) -> bool {
        self.steps.iter().all(|step| step.which != FhirWhich::All)
    }

    /// What is there in a text that has been checked to be JSON. `whole` keeps a list whole that the path ends with.
    pub fn find<'t>(&self, resource: &'t str, whole: bool) -> FhirFound<'t> {
        let mut found = Vec::new();
        collect(resource, &self.steps, whole, &mut found);
        match self.is_scalar() {
            false if found.is_empty() => FhirFound::Nothing,
            false => FhirFound::Many(found),
            true => found
                .first()
                .map_or(FhirFound::Nothing, |first| FhirFound::One(first)),
        }
    }
}

/// What stands behind a name in brackets, and the rest.
fn which(text: &str) -> Option<(FhirWhich, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (number, rest) = rest.split_once(']')?;
        let which = match number {
            "*" => FhirWhich::All,
            digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                let number = digits.parse().ok().filter(|n| *n <= FHIR_ITEM_MAX)?;
                FhirWhich::Number(number)
            }
            _ => return None,
        };
        return Some((which, rest));
    }
    let Some(rest) = text.strip_prefix('(') else {
        return Some((FhirWhich::Unsaid, text));
    };
    let (inner, rest) = rest.split_once(')')?;
    let mut members = Vec::new();
    for member in inner.split(',') {
        let (name, value) = member.split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_name || value.is_empty() {
            return None;
        }
        members.push((name.to_owned(), value.to_owned()));
    }
    Some((FhirWhich::Where(members), rest))
}

fn collect<'t>(value: &'t str, steps: &[FhirStep], whole: bool, found: &mut Vec<&'t str>) {
    let Some((step, rest)) = steps.split_first() else {
        if value != "null" {
            found.push(value);
        }
        return;
    };
    let Some(inner) = member(value, &step.name) else {
        return;
    };
    if !inner.starts_with('[') {
        let fits = match &step.which {
            FhirWhich::Number(number) => *number == 0,
            FhirWhich::Where(members) => has_members(inner, members),
            FhirWhich::Unsaid | FhirWhich::All => true,
        };
        if fits {
            collect(inner, rest, whole, found);
        }
        return;
    }
    if whole && rest.is_empty() && step.which == FhirWhich::Unsaid {
        found.push(inner);
        return;
    }
    let mut elements = Vec::new();
    // The text was checked, so that nothing is amiss here.
    let _ = JsonParts::new(inner).array(|place| elements.push(&inner[place]));
    match &step.which {
        FhirWhich::Unsaid => elements.truncate(1),
        FhirWhich::Number(number) => {
            elements = elements.get(*number).copied().into_iter().collect()
        }
        FhirWhich::All => {}
        FhirWhich::Where(members) => {
            let first = elements
                .iter()
                .find(|element| has_members(element, members));
            elements = first.copied().into_iter().collect();
        }
    }
    for element in elements {
        collect(element, rest, whole, found);
    }
}

/// The value of a member of an object, as its JSON text.
pub(super) fn member<'t>(object: &'t str, name: &str) -> Option<&'t str> {
    let mut found = None;
    let read = JsonParts::new(object).object(|key, place| {
        if found.is_none() && key.get(1..key.len() - 1) == Some(name) {
            found = Some(&object[place]);
        }
    });
    read.ok().and(found)
}

fn has_members(object: &str, members: &[(String, String)]) -> bool {
    members.iter().all(|(name, wanted)| {
        member(object, name).is_some_and(|value| match json_unquote(value) {
            Some(text) => text == wanted.as_str(),
            None => value == wanted,
        })
    })
}

impl fmt::Display for FhirPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.steps.iter().enumerate() {
            if at > 0 {
                f.write_str(".")?;
            }
            f.write_str(&step.name)?;
            match &step.which {
                FhirWhich::Unsaid => {}
                FhirWhich::Number(number) => write!(f, "[{number}]")?,
                FhirWhich::All => f.write_str("[*]")?,
                FhirWhich::Where(members) => {
                    for (at, (name, value)) in members.iter().enumerate() {
                        f.write_str(if at == 0 { "(" } else { "," })?;
                        write!(f, "{name}={value}")?;
                    }
                    f.write_str(")")?;
                }
            }
        }
        Ok(())
    }
}

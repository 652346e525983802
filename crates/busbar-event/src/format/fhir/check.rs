//! The form that all resources share: [`check_resource`].

use std::borrow::Cow;
use std::collections::HashSet;

use super::{is_fhir_id, is_resource_type};
use crate::format::{JsonParts, NotJson, json_unquote};
use crate::limits::{FHIR_NAME_BYTES_MAX, PAYLOAD_BYTES_MAX};

/// What every resource says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FhirHead<'t> {
    /// `Patient`, `Bundle` and so on.
    pub resource_type: Cow<'t, str>,
    /// The id, of a resource that has one.
    pub id: Option<Cow<'t, str>>,
}

/// What is wrong with a resource, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FhirFault {
    /// The place as FHIR writes it: `Patient.name[0].family`.
    pub path: String,
    /// The code of the message that says what is wrong.
    pub code: &'static str,
    /// What is there or was expected, for the message.
    pub detail: String,
}

/// Checks the form of a resource: that it is JSON with a known `resourceType`, that the elements of all resources (`id`,
/// `meta`, `implicitRules`, `language`, `text`, `contained`, `extension`, `modifierExtension`) have their types, and what
/// FHIR says of JSON: no member twice, nothing empty, no null outside of lists.
///
/// # Errors
/// The first fault.
pub fn check_resource(text: &str) -> Result<FhirHead<'_>, FhirFault> {
    let fault = |path: &str, code, detail: String| FhirFault {
        path: path.to_owned(),
        code,
        detail,
    };
    if text.len() > PAYLOAD_BYTES_MAX {
        return Err(fault("", "event.fhir-large", PAYLOAD_BYTES_MAX.to_string()));
    }
    let mut whole = JsonParts::new(text);
    let read = whole.value().and_then(|place| match whole.at_end() {
        true => Ok(place),
        false => Err(NotJson {
            at: whole.position(),
            why: "event.json-more",
        }),
    });
    let place = read.map_err(|bad| {
        let (line, column) = bad.place(text);
        fault("", "event.fhir-json", format!("{line}:{column}"))
    })?;
    check_at(&text[place], "")
}

fn check_at<'t>(text: &'t str, within: &str) -> Result<FhirHead<'t>, FhirFault> {
    let wrong = |path: &str, code, detail: &str| FhirFault {
        path: path.to_owned(),
        code,
        detail: crate::quote(detail),
    };
    if !text.starts_with('{') {
        return Err(wrong(within, "event.fhir-object", kind(text)));
    }
    let kind = super::path::member(text, "resourceType");
    let Some(kind) = kind.and_then(json_unquote) else {
        return Err(wrong(within, "event.fhir-no-type", ""));
    };
    if !is_resource_type(&kind) {
        return Err(wrong(within, "event.fhir-unknown-type", &kind));
    }
    let at = match within {
        "" => kind.to_string(),
        within => within.to_owned(),
    };
    check_value(text, &at, false)?;
    let mut id = None;
    let mut fault = None;
    let _ = JsonParts::new(text).object(|key, place| {
        if fault.is_some() {
            return;
        }
        let (name, value) = (json_unquote(key).unwrap_or_default(), &text[place]);
        let path = format!("{at}.{name}");
        let checked = match &*name {
            "id" => match json_unquote(value) {
                Some(text) if is_fhir_id(&text) => {
                    id = Some(text);
                    Ok(())
                }
                _ => Err(wrong(&path, "event.fhir-id", value)),
            },
            "implicitRules" | "language" => text_at(value, &path),
            "meta" => meta(value, &path),
            "text" if has_narrative(&kind) => narrative(value, &path),
            "contained" => elements(value, &path, &mut |element, path| {
                check_at(element, path).map(|_| ())
            }),
            "extension" | "modifierExtension" => elements(value, &path, &mut extension),
            _ => Ok(()),
        };
        fault = checked.err();
    });
    match fault {
        Some(fault) => Err(fault),
        None => Ok(FhirHead {
            resource_type: kind,
            id,
        }),
    }
}

/// Resources with a narrative: all but these are DomainResources.
fn has_narrative(kind: &str) -> bool {
    !matches!(kind, "Bundle" | "Binary" | "Parameters")
}

fn kind(value: &str) -> &'static str {
    match value.as_bytes().first() {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "boolean",
        Some(b'n') => "null",
        _ => "number",
    }
}

fn expected(path: &str, code: &'static str, value: &str) -> FhirFault {
    FhirFault {
        path: path.to_owned(),
        code,
        detail: kind(value).to_owned(),
    }
}

fn text_at(value: &str, path: &str) -> Result<(), FhirFault> {
    match value.starts_with('"') {
        true => Ok(()),
        false => Err(expected(path, "event.fhir-text", value)),
    }
}

type ElementCheck<'c> = &'c mut dyn FnMut(&str, &str) -> Result<(), FhirFault>;

/// Checks each element of a list.
fn elements(value: &str, path: &str, check: ElementCheck<'_>) -> Result<(), FhirFault> {
    if !value.starts_with('[') {
        return Err(expected(path, "event.fhir-list-wanted", value));
    }
    let mut result = Ok(());
    let mut number = 0;
    let _ = JsonParts::new(value).array(|place| {
        if result.is_ok() {
            result = check(&value[place], &format!("{path}[{number}]"));
        }
        number += 1;
    });
    result
}

/// Checks each member of an object.
fn members(
    value: &str,
    path: &str,
    check: &mut dyn FnMut(&str, &str, &str) -> Result<(), FhirFault>,
) -> Result<(), FhirFault> {
    if !value.starts_with('{') {
        return Err(expected(path, "event.fhir-object", value));
    }
    let mut result = Ok(());
    let _ = JsonParts::new(value).object(|key, place| {
        if result.is_err() {
            return;
        }
        // Longer ones are none of FHIR's, and would be repeated in the path of each member within.
        if key.len() > FHIR_NAME_BYTES_MAX {
            result = Err(FhirFault {
                path: path.to_owned(),
                code: "event.fhir-name",
                detail: FHIR_NAME_BYTES_MAX.to_string(),
            });
            return;
        }
        let name = json_unquote(key).unwrap_or_default();
        result = check(&name, &value[place], &format!("{path}.{name}"));
    });
    result
}

fn meta(value: &str, path: &str) -> Result<(), FhirFault> {
    members(value, path, &mut |name, value, path| match name {
        "versionId" | "source" => text_at(value, path),
        "lastUpdated" => {
            let text = json_unquote(value).unwrap_or_default();
            match crate::time::parse(&text) {
                Some(_) => Ok(()),
                None => Err(FhirFault {
                    path: path.to_owned(),
                    code: "event.fhir-instant",
                    detail: crate::quote(value),
                }),
            }
        }
        "profile" => elements(value, path, &mut text_at),
        "security" | "tag" => elements(value, path, &mut |value, path| {
            members(value, path, &mut |_, _, _| Ok(()))
        }),
        _ => Ok(()),
    })
}

fn narrative(value: &str, path: &str) -> Result<(), FhirFault> {
    members(value, path, &mut |name, value, path| match name {
        "status" | "div" => text_at(value, path),
        _ => Ok(()),
    })
}

fn extension(value: &str, path: &str) -> Result<(), FhirFault> {
    let mut has_url = false;
    members(value, path, &mut |name, value, path| {
        has_url |= name == "url";
        match name {
            "url" => text_at(value, path),
            "extension" => elements(value, path, &mut extension),
            _ => Ok(()),
        }
    })?;
    match has_url {
        true => Ok(()),
        false => Err(FhirFault {
            path: path.to_owned(),
            code: "event.fhir-extension-url",
            detail: String::new(),
        }),
    }
}

/// Checks what FHIR says of JSON, at any depth; the depth itself was bounded when the text was read.
fn check_value(value: &str, path: &str, in_list: bool) -> Result<(), FhirFault> {
    let wrong = |path: &str, code| {
        Err(FhirFault {
            path: path.to_owned(),
            code,
            detail: String::new(),
        })
    };
    match value.as_bytes() {
        // In a list it holds the place of a primitive value without one.
        b"null" if !in_list => wrong(path, "event.fhir-null"),
        b"\"\"" => wrong(path, "event.fhir-empty"),
        [b'{', ..] => {
            let mut names = HashSet::new();
            let mut twice = None;
            let mut is_empty = true;
            members(value, path, &mut |name, value, path| {
                is_empty = false;
                if !names.insert(name.to_owned()) {
                    twice.get_or_insert_with(|| path.to_owned());
                }
                check_value(value, path, false)
            })?;
            match twice {
                Some(path) => wrong(&path, "event.fhir-twice"),
                None if is_empty => wrong(path, "event.fhir-empty"),
                None => Ok(()),
            }
        }
        [b'[', ..] => {
            let mut is_empty = true;
            elements(value, path, &mut |value, path| {
                is_empty = false;
                check_value(value, path, true)
            })?;
            match is_empty {
                true => wrong(path, "event.fhir-empty"),
                false => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

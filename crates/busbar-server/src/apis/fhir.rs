//! Resources of FHIR R4 as an API takes them: what a request asks for, what is refused where, and what is said of it.

use axum::http::StatusCode;
use busbar_catalog::FhirSpec;
use busbar_event::format::{
    FhirFault, JsonParts, RESOURCE_TYPES, check_resource, is_fhir_id, is_resource_type,
    json_unquote, write_json_text,
};
use busbar_event::{Class, Error, quote, time};
use serde_json::{Value, json};

use super::random;
use crate::answer::status_of;

/// The media type of FHIR's JSON.
pub(crate) const FHIR_JSON: &str = "application/fhir+json";

/// The resources that an API takes.
pub(crate) struct FhirResources<'a>(pub(crate) &'a FhirSpec);

impl FhirResources<'_> {
    /// What an entry of a Bundle asks for.
    pub(crate) fn entry(&self, entry: &str) -> Result<TakenResource, Refused> {
        let wrong = || Refused::permanent(StatusCode::BAD_REQUEST, "server.fhir-entry");
        let request = member(entry, "request").ok_or_else(wrong)?;
        let (method, url) = (member_text(request, "method"), member_text(request, "url"));
        let (method, url) = method.zip(url).ok_or_else(wrong)?;
        let is_conditional = ["ifMatch", "ifNoneMatch", "ifNoneExist", "ifModifiedSince"]
            .iter()
            .any(|name| member(request, name).is_some());
        if is_conditional || url.contains('?') {
            return Err(Refused::permanent(
                StatusCode::NOT_IMPLEMENTED,
                "server.fhir-condition",
            ));
        }
        let resource = member(entry, "resource");
        let parts: Vec<&str> = url.trim_start_matches('/').split('/').collect();
        match (method.as_str(), parts.as_slice(), resource) {
            ("POST", [kind], Some(resource)) => self.resource(resource, kind, None),
            ("PUT", [kind, id], Some(resource)) => self.resource(resource, kind, Some(id)),
            ("DELETE", [kind, id], _) => self.deleted(kind, id),
            _ => Err(wrong()),
        }
    }

    /// Refuses types that are not taken.
    fn check_kind(&self, kind: &str) -> Result<(), Refused> {
        let types = &self.0.types;
        let is_taken = types.is_empty() || types.iter().any(|known| known == kind);
        match is_resource_type(kind) && is_taken {
            true => Ok(()),
            false => Err(Refused::new(
                StatusCode::NOT_FOUND,
                Error::new(Class::Permanent, "server.fhir-type").with("type", quote(kind)),
            )),
        }
    }

    pub(crate) fn resource(
        &self,
        text: &str,
        kind: &str,
        id: Option<&str>,
    ) -> Result<TakenResource, Refused> {
        self.check_kind(kind)?;
        let head = check_resource(text)?;
        if head.resource_type != kind {
            let error = Error::new(Class::Permanent, "server.fhir-other-type")
                .with("type", &head.resource_type)
                .with("wanted", kind);
            return Err(Refused::new(StatusCode::BAD_REQUEST, error));
        }
        let (id, change) = match id {
            Some(id) if head.id.as_deref() == Some(id) => (id.to_owned(), TakenChange::Update),
            Some(id) => {
                let error = Error::new(Class::Permanent, "server.fhir-id").with("id", quote(id));
                let mut refused = Refused::new(StatusCode::BAD_REQUEST, error);
                refused.expression = format!("{kind}.id");
                return Err(refused);
            }
            None => (random::<16>().map_err(Refused::of)?, TakenChange::Create),
        };
        Ok(TakenResource {
            text: match change {
                TakenChange::Create => with_id(text, &id),
                _ => text.to_owned(),
            },
            kind: kind.to_owned(),
            id,
            change,
        })
    }

    pub(crate) fn deleted(&self, kind: &str, id: &str) -> Result<TakenResource, Refused> {
        self.check_kind(kind)?;
        if !is_fhir_id(id) {
            let error = Error::new(Class::Permanent, "event.fhir-id").with("detail", quote(id));
            return Err(Refused::new(StatusCode::BAD_REQUEST, error));
        }
        Ok(TakenResource {
            kind: kind.to_owned(),
            id: id.to_owned(),
            change: TakenChange::Delete,
            text: json!({ "resourceType": kind, "id": id }).to_string(),
        })
    }

    /// What the node takes.
    /// `about` says what the API is for, `address` where it is, and `now` is in microseconds since 1970.
    pub(crate) fn capabilities(&self, about: &str, address: &str, now: i64) -> Value {
        let types: Vec<&str> = match self.0.types.as_slice() {
            [] => RESOURCE_TYPES.to_vec(),
            types => types.iter().map(String::as_str).collect(),
        };
        let resources: Vec<Value> = types
            .iter()
            .map(|kind| {
                json!({
                    "type": kind,
                    "interaction": [{ "code": "create" }, { "code": "update" }, { "code": "delete" }],
                    "versioning": "no-version",
                    "updateCreate": true,
                    "conditionalCreate": false,
                    "conditionalUpdate": false,
                    "conditionalDelete": "not-supported",
                })
            })
            .collect();
        json!({
            "resourceType": "CapabilityStatement",
            "status": "active",
            "date": time::text(now),
            "kind": "instance",
            "software": { "name": "Busbar", "version": env!("CARGO_PKG_VERSION") },
            "implementation": { "description": about, "url": address },
            "fhirVersion": "4.0.1",
            "format": ["json", FHIR_JSON],
            "rest": [{
                "mode": "server",
                "resource": resources,
                "interaction": [{ "code": "batch" }, { "code": "transaction" }],
            }],
        })
    }
}

/// Why a resource is not taken.
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) error: Error,
    /// The place in the resource, as FHIR writes it.
    expression: String,
}

/// A resource that is taken, or deleted.
pub(crate) struct TakenResource {
    pub(crate) kind: String,
    pub(crate) id: String,
    pub(crate) change: TakenChange,
    /// The resource with its id; of one that is deleted type and id only.
    pub(crate) text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum TakenChange {
    Create,
    Update,
    Delete,
}

impl TakenChange {
    /// As change sources write it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            TakenChange::Create => "insert",
            TakenChange::Update => "upsert",
            TakenChange::Delete => "delete",
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        match self {
            TakenChange::Create => StatusCode::CREATED,
            TakenChange::Update => StatusCode::OK,
            TakenChange::Delete => StatusCode::NO_CONTENT,
        }
    }
}

impl Refused {
    pub(crate) fn new(status: StatusCode, error: Error) -> Refused {
        Refused {
            status,
            error,
            expression: String::new(),
        }
    }

    pub(crate) fn permanent(status: StatusCode, code: &'static str) -> Refused {
        Refused::new(status, Error::new(Class::Permanent, code))
    }

    pub(crate) fn of(error: Error) -> Refused {
        Refused::new(status_of(&error), error)
    }

    pub(crate) fn within(mut self, entry: usize) -> Refused {
        let inner = self.expression.split_once('.').map(|(_, rest)| rest);
        self.expression = match inner {
            Some(rest) => format!("Bundle.entry[{entry}].resource.{rest}"),
            None => format!("Bundle.entry[{entry}]"),
        };
        self
    }

    /// FHIR's word for the kind of fault.
    fn issue_type(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "login",
            StatusCode::FORBIDDEN => "forbidden",
            StatusCode::NOT_FOUND => "not-found",
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => "not-supported",
            StatusCode::PAYLOAD_TOO_LARGE => "too-long",
            StatusCode::TOO_MANY_REQUESTS => "throttled",
            status if status.is_server_error() => "transient",
            _ => "structure",
        }
    }

    pub(crate) fn outcome(&self) -> Value {
        let mut issue = json!({
            "severity": "error",
            "code": self.issue_type(),
            "details": { "coding": [{ "system": "urn:busbar:error", "code": self.error.code() }] },
            "diagnostics": self.error.to_string(),
        });
        if !self.expression.is_empty() {
            issue["expression"] = json!([self.expression]);
        }
        json!({ "resourceType": "OperationOutcome", "issue": [issue] })
    }
}

impl From<FhirFault> for Refused {
    fn from(fault: FhirFault) -> Refused {
        let error = Error::new(Class::Permanent, fault.code).with("detail", fault.detail);
        Refused {
            status: StatusCode::BAD_REQUEST,
            error,
            expression: fault.path,
        }
    }
}

/// What became of an entry, as FHIR says it.
pub(crate) fn entry_answer(answer: &Result<(StatusCode, String), Refused>) -> Value {
    let status = |status: StatusCode| {
        format!(
            "{} {}",
            status.as_u16(),
            status.canonical_reason().unwrap_or_default()
        )
    };
    match answer {
        Ok((code, place)) if *code == StatusCode::CREATED => {
            json!({ "response": { "status": status(*code), "location": place } })
        }
        Ok((code, _)) => json!({ "response": { "status": status(*code) } }),
        Err(refused) => {
            json!({ "response": { "status": status(refused.status), "outcome": refused.outcome() } })
        }
    }
}

/// Changes references to resources that a transaction creates, which are known by a `urn:uuid:`, to their ids.
pub(crate) fn refer(entries: &[&str], results: &mut [Result<TakenResource, Refused>]) {
    let mut known = std::collections::HashMap::new();
    for (entry, result) in entries.iter().zip(results.iter()) {
        let url = member_text(entry, "fullUrl").filter(|url| url.starts_with("urn:uuid:"));
        if let (Some(url), Ok(taken)) = (url, result)
            && taken.change == TakenChange::Create
        {
            known.insert(url, format!("{}/{}", taken.kind, taken.id));
        }
    }
    if known.is_empty() {
        return;
    }
    for taken in results.iter_mut().flatten() {
        let mut out = String::with_capacity(taken.text.len());
        let mut rest = taken.text.as_str();
        // A text in quotes that begins so has no escapes in front of its end.
        while let Some(at) = rest.find("\"urn:uuid:") {
            let (before, from) = rest.split_at(at);
            let Some(length) = from[1..].find('"') else {
                break;
            };
            out.push_str(before);
            match known.get(&from[1..=length]) {
                Some(place) => {
                    out.push('"');
                    out.push_str(place);
                    out.push('"');
                }
                None => out.push_str(&from[..length + 2]),
            }
            rest = &from[length + 2..];
        }
        out.push_str(rest);
        taken.text = out;
    }
}

/// The value of a member of an object, as its JSON text.
pub(crate) fn member<'t>(object: &'t str, name: &str) -> Option<&'t str> {
    let mut found = None;
    let read = JsonParts::new(object).object(|key, place| {
        if found.is_none() && key.get(1..key.len() - 1) == Some(name) {
            found = Some(&object[place]);
        }
    });
    read.ok().and(found)
}

pub(crate) fn member_text(object: &str, name: &str) -> Option<String> {
    json_unquote(member(object, name)?).map(|text| text.into_owned())
}

/// A resource under an id that the node gives.
fn with_id(resource: &str, id: &str) -> String {
    let mut out = Vec::with_capacity(resource.len() + 48);
    let mut separator = b'{';
    // The resource was checked, so that nothing is amiss here.
    let _ = JsonParts::new(resource).object(|key, place| {
        if key == "\"id\"" {
            return;
        }
        out.push(std::mem::replace(&mut separator, b','));
        out.extend_from_slice(key.as_bytes());
        out.push(b':');
        out.extend_from_slice(resource[place].as_bytes());
        if key == "\"resourceType\"" {
            out.extend_from_slice(b",\"id\":");
            write_json_text(id, &mut out);
        }
    });
    out.push(b'}');
    String::from_utf8(out).unwrap_or_default()
}

//! What a `call` step asks a FHIR server, and what it reads of the answer.

use busbar_catalog::CallSpec;
use busbar_connector::{
    CallEscapes, CallFault, CallForm, CallParts, ServiceAnswer, ServiceRequest,
};
use busbar_event::format::{
    FhirFound, FhirPath, FieldSpec, FieldType, SchemaSpec, is_json, write_json_text,
};
use busbar_event::{Class, Error, quote};
use bytes::Bytes;

use super::JSON_TYPE;
use super::outcome::{Refused, refused};
use crate::http::{RestForm, shown_url};

/// The form of a step: that of REST, with paths of FHIR into the answer and refusals as FHIR tells them.
pub struct FhirForm {
    rest: RestForm,
    url: String,
    /// The columns of the answer and where each is.
    columns: Vec<(FieldSpec, FhirPath)>,
}

impl FhirForm {
    /// Checks a step.
    ///
    /// # Errors
    /// What does not fit, and where.
    pub fn new(url: &str, call: &CallSpec) -> Result<FhirForm, CallFault> {
        let mut columns = Vec::new();
        for field in &call.answer.0 {
            let path = field.path.as_deref().unwrap_or(&field.name);
            let wrong = |code| {
                let error = Error::new(Class::Configuration, code)
                    .with("field", quote(&field.name))
                    .with("path", quote(path));
                CallFault::at("answer", error)
            };
            let parsed = FhirPath::parse(path).ok_or_else(|| wrong("event.fhir-path"))?;
            if field.field_type != FieldType::Json && !parsed.is_scalar() {
                return Err(wrong("event.fhir-list"));
            }
            columns.push((field.clone(), parsed));
        }
        Ok(FhirForm {
            rest: RestForm::new(url, call)?,
            url: shown_url(url),
            columns,
        })
    }
}

impl CallForm for FhirForm {
    fn escapes(&self) -> CallEscapes {
        self.rest.escapes()
    }

    fn columns(&self, declared: &SchemaSpec) -> SchemaSpec {
        let flat = declared.0.iter().map(|field| FieldSpec {
            path: None,
            ..field.clone()
        });
        SchemaSpec(flat.collect())
    }

    fn request(&self, mut parts: CallParts) -> Result<ServiceRequest, Error> {
        let has_type = |wanted: &str| {
            let mut headers = parts.headers.iter();
            headers.any(|(name, _)| name.eq_ignore_ascii_case(wanted))
        };
        let (has_accept, has_content) = (has_type("accept"), has_type("content-type"));
        if !has_accept {
            parts
                .headers
                .push(("accept".to_owned(), JSON_TYPE.to_owned()));
        }
        if !has_content && parts.body.is_some() {
            parts
                .headers
                .push(("content-type".to_owned(), JSON_TYPE.to_owned()));
        }
        self.rest.request(parts)
    }

    fn answer(&self, answer: ServiceAnswer) -> Result<Bytes, Error> {
        if !(200..=299).contains(&answer.status) {
            return Err(refused(&answer, Refused::Resource, &self.url));
        }
        if self.columns.is_empty() {
            return Ok(answer.body);
        }
        let text = std::str::from_utf8(&answer.body).unwrap_or_default();
        if !is_json(text.as_bytes()) || !text.trim_start().starts_with('{') {
            let start = &answer.body[..answer.body.len().min(100)];
            return Err(Error::new(Class::Permanent, "fhir.strange")
                .with("url", &self.url)
                .with("said", quote(&String::from_utf8_lossy(start))));
        }
        let mut out = vec![b'{'];
        for (field, path) in &self.columns {
            let found = path.find(text, field.field_type == FieldType::Json);
            if found == FhirFound::Nothing {
                continue;
            }
            if out.len() > 1 {
                out.push(b',');
            }
            write_json_text(&field.name, &mut out);
            out.push(b':');
            match found {
                FhirFound::One(value) => out.extend_from_slice(value.as_bytes()),
                FhirFound::Many(values) => {
                    out.push(b'[');
                    out.extend_from_slice(values.join(",").as_bytes());
                    out.push(b']');
                }
                FhirFound::Nothing => {}
            }
        }
        out.push(b'}');
        Ok(out.into())
    }
}

//! Requests to the server.

use busbar_connector::{
    Service as _, ServiceAnswer, ServiceContext, ServiceRequest, Survey, SurveyedColumn,
    SurveyedTable,
};
use busbar_event::{Class, Error, quote};
use bytes::Bytes;
use http::header;
use serde::Deserialize;

use super::limits::{ANSWER_BYTES_MAX, LINK_BYTES_MAX};
use super::outcome::{Refused, refused};
use super::{JSON_TYPE, Options};
use crate::http::{HttpClient, Remote, shown_url};
use crate::places::Places;

/// A server that is asked.
pub struct FhirLink {
    http: HttpClient,
    /// Its base address, for messages and for links.
    pub url: String,
}

/// A request, as the connector makes it.
#[derive(Debug, Default)]
pub struct FhirRequest {
    pub method: &'static str,
    /// Behind the base address.
    pub path: String,
    /// `If-Match` and `If-None-Exist`, where they are sent.
    pub condition: Option<(&'static str, String)>,
    pub body: Bytes,
}

/// What a server says of itself, as far as it is read.
#[derive(Debug, Deserialize)]
pub struct FhirCapabilities {
    #[serde(rename = "resourceType")]
    resource_type: String,
    #[serde(rename = "fhirVersion")]
    fhir_version: String,
    #[serde(default)]
    software: Software,
    #[serde(default)]
    rest: Vec<CapabilitiesRest>,
}

#[derive(Debug, Default, Deserialize)]
struct Software {
    #[serde(default)]
    name: String,
    #[serde(default)]
    version: String,
}

#[derive(Debug, Deserialize)]
struct CapabilitiesRest {
    #[serde(default)]
    resource: Vec<RestResource>,
}

#[derive(Debug, Deserialize)]
struct RestResource {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "searchParam", default)]
    search: Vec<SearchParameter>,
}

#[derive(Debug, Deserialize)]
struct SearchParameter {
    name: String,
    #[serde(rename = "type", default)]
    kind: String,
}

impl FhirCapabilities {
    /// None where the answer is none.
    pub fn of(answer: &ServiceAnswer) -> Option<FhirCapabilities> {
        let said: FhirCapabilities = serde_json::from_slice(&answer.body).ok()?;
        (said.resource_type == "CapabilityStatement").then_some(said)
    }

    /// The server, and its types of resources with the parameters that they are searched by.
    pub fn survey(self, tables: bool) -> Survey {
        let name = match self.software.name.as_str() {
            "" => "FHIR",
            name => name,
        };
        let server = format!("{name} {}", self.software.version);
        let resources = self.rest.into_iter().flat_map(|rest| rest.resource);
        let tables = resources.filter(|_| tables).map(|resource| SurveyedTable {
            schema: String::new(),
            name: resource.kind,
            rows: None,
            columns: resource
                .search
                .into_iter()
                .map(|parameter| SurveyedColumn {
                    key: parameter.name == "_id",
                    name: parameter.name,
                    kind: parameter.kind,
                    required: false,
                })
                .collect(),
        });
        Survey {
            server: format!("{} (FHIR {})", server.trim(), self.fhir_version),
            tables: tables.collect(),
        }
    }
}

impl FhirLink {
    /// Reads secrets and authorities. Connects to nobody.
    ///
    /// # Errors
    /// *Configuration*.
    pub async fn open(
        options: &Options,
        context: &ServiceContext,
        places: &Places,
    ) -> Result<FhirLink, Error> {
        let remote = Remote::of(&options.remote(), ANSWER_BYTES_MAX);
        Ok(FhirLink {
            http: HttpClient::open(remote, context, places).await?,
            url: shown_url(&options.url).trim_end_matches('/').to_owned(),
        })
    }

    /// Asks, whatever the status of the answer.
    ///
    /// # Errors
    /// *Transient* without an answer, *permanent* (`connect.call-answer-large`) when it is too large.
    pub async fn ask(&self, request: FhirRequest) -> Result<ServiceAnswer, Error> {
        let mut headers = vec![("Accept".to_owned(), JSON_TYPE.to_owned())];
        if !request.body.is_empty() {
            headers.push(("Content-Type".to_owned(), JSON_TYPE.to_owned()));
            headers.push(("Prefer".to_owned(), "return=minimal".to_owned()));
        }
        let condition = request.condition;
        headers.extend(condition.map(|(name, value)| (name.to_owned(), value)));
        let request = ServiceRequest {
            method: request.method.to_owned(),
            path: request.path,
            headers,
            body: request.body,
            statement: None,
        };
        self.http.exchange(&request).await
    }

    /// Reads something.
    ///
    /// # Errors
    /// As [`FhirLink::ask`].
    pub async fn get(&self, path: String) -> Result<ServiceAnswer, Error> {
        let request = FhirRequest {
            method: "GET",
            path,
            ..FhirRequest::default()
        };
        self.ask(request).await
    }

    /// What the server says of itself, which is of FHIR R4.
    ///
    /// # Errors
    /// As [`FhirLink::ask`]; *configuration* for a server of another version.
    pub async fn capabilities(&self) -> Result<ServiceAnswer, Error> {
        let answer = self.get("/metadata".to_owned()).await?;
        if !(200..=299).contains(&answer.status) {
            return Err(refused(&answer, Refused::Request, &self.url));
        }
        let said = FhirCapabilities::of(&answer).ok_or_else(|| self.strange(&answer))?;
        match said.fhir_version.starts_with("4.") {
            true => Ok(answer),
            false => Err(Error::new(Class::Configuration, "fhir.version")
                .with("url", &self.url)
                .with("version", quote(&said.fhir_version))),
        }
    }

    /// The path of a link to a further page. Credentials go to the server of the connection only.
    ///
    /// # Errors
    /// *Configuration*: it leads elsewhere, or is too long.
    pub fn path_of(&self, link: &str) -> Result<String, Error> {
        match path_within(&self.url, link) {
            Some(path) => Ok(path.to_owned()),
            None => Err(Error::new(Class::Configuration, "fhir.next-elsewhere")
                .with("url", &self.url)
                .with("link", quote(&link[..link.floor_char_boundary(200)]))),
        }
    }

    /// When the server answered, by its own clock, in microseconds since 1970.
    pub fn answered_at(answer: &ServiceAnswer) -> Option<i64> {
        let date = answer.headers.get(header::DATE)?.to_str().ok()?;
        let date = httpdate::parse_http_date(date).ok()?;
        let since = date
            .duration_since(std::time::SystemTime::UNIX_EPOCH)
            .ok()?;
        i64::try_from(since.as_micros()).ok()
    }

    /// An answer that is none of this kind of server.
    pub fn strange(&self, answer: &ServiceAnswer) -> Error {
        let start = &answer.body[..answer.body.len().min(100)];
        Error::new(Class::Configuration, "fhir.strange")
            .with("url", &self.url)
            .with("said", quote(&String::from_utf8_lossy(start)))
    }
}

/// The path of a link behind a base address; none where it leads elsewhere, or is too long.
fn path_within<'l>(base: &str, link: &'l str) -> Option<&'l str> {
    let path = match link.strip_prefix(base) {
        Some(rest) if rest.is_empty() || rest.starts_with(['/', '?']) => rest,
        Some(_) => return None,
        // Relative to the base address.
        None if link.contains("://") || link.starts_with("//") => return None,
        None => link,
    };
    (link.len() <= LINK_BYTES_MAX && !path.contains("..")).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_below_the_base_address() {
        let long = format!("?page={}", "x".repeat(LINK_BYTES_MAX));
        for (link, path) in [
            ("http://a/fhir?page=2", Some("?page=2")),
            ("http://a/fhir/Patient?page=2", Some("/Patient?page=2")),
            ("http://a/fhir", Some("")),
            ("Patient?page=2", Some("Patient?page=2")),
            ("/Patient?page=2", Some("/Patient?page=2")),
            ("http://a/fhirs?page=2", None),
            ("http://a/fhir/../admin", None),
            ("Patient/../../admin", None),
            ("http://a/other", None),
            ("https://a/fhir?page=2", None),
            ("http://b/fhir?page=2", None),
            ("//b/fhir?page=2", None),
            (long.as_str(), None),
            (&long[..LINK_BYTES_MAX], Some(&long[..LINK_BYTES_MAX])),
        ] {
            assert_eq!(path_within("http://a/fhir", link), path, "{link:.60}");
        }
    }
}

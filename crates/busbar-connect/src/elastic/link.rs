//! Requests to the server.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use busbar_connector::{Escape, Service as _, ServiceAnswer, ServiceContext, ServiceRequest};
use busbar_event::{Class, Error};
use bytes::Bytes;

use super::Options;
use super::failure::{ElasticRefusal, RefusedPart};
use super::limits::ANSWER_BYTES_MAX;
use crate::http::{HttpClient, Remote, shown_url};
use crate::places::Places;
use crate::secret::Secret;

/// A server that is asked.
pub struct ElasticLink {
    http: HttpClient,
    /// Its address, for messages.
    pub url: String,
}

/// What a request carries.
#[derive(Clone, Copy, Debug)]
pub enum Carries {
    Nothing,
    Json,
    /// A JSON document on each line.
    Lines,
}

impl ElasticLink {
    /// Reads secrets and authorities. Connects to nobody.
    ///
    /// # Errors
    /// *Configuration*.
    pub async fn open(
        options: &Options,
        context: &ServiceContext,
        places: &Places,
    ) -> Result<ElasticLink, Error> {
        let mut headers = BTreeMap::new();
        let (given, project) = (options.clone(), Arc::clone(&context.project_dir));
        let allowed = places.clone();
        // Some secrets stand in files.
        let read = tokio::task::spawn_blocking(move || authorization(&given, &project, &allowed));
        let authorization = read.await.map_err(|why| {
            Error::new(Class::Transient, "connect.failed-within").caused_by(why)
        })??;
        if let Some(authorization) = authorization {
            headers.insert("Authorization".to_owned(), Secret::Text(authorization));
        }
        let remote = Remote {
            url: &options.url,
            headers: &headers,
            tls: options.tls.as_ref(),
            timeout: options.timeout.as_duration(),
            alpn: b"http/1.1",
            answer_most: ANSWER_BYTES_MAX,
        };
        Ok(ElasticLink {
            http: HttpClient::open(remote, context, places).await?,
            url: shown_url(&options.url),
        })
    }

    /// Asks, whatever the status of the answer.
    ///
    /// # Errors
    /// *Transient* without an answer, *permanent* (`connect.call-answer-large`) when it is too large.
    pub async fn ask(
        &self,
        method: &str,
        path: String,
        carries: Carries,
        body: Bytes,
    ) -> Result<ServiceAnswer, Error> {
        let kind = match carries {
            Carries::Nothing => None,
            Carries::Json => Some("application/json"),
            Carries::Lines => Some("application/x-ndjson"),
        };
        let headers = kind.map(|kind| ("Content-Type".to_owned(), kind.to_owned()));
        let request = ServiceRequest {
            method: method.to_owned(),
            path,
            headers: headers.into_iter().collect(),
            body,
            statement: None,
        };
        self.http.exchange(&request).await
    }

    /// The error of an answer that refuses a request.
    pub fn refused(&self, answer: &ServiceAnswer, index: &str) -> Error {
        ElasticRefusal::of(answer).error(answer.status, RefusedPart::Request, &self.url, index)
    }

    /// Some shards did not answer, and documents are missing.
    pub fn partial(&self, index: &str) -> Error {
        Error::new(Class::Transient, "elastic.partial")
            .with("url", &self.url)
            .with("index", index)
    }

    /// Documents have come again, such as this one.
    pub fn again(&self, index: &str, id: &str) -> Error {
        Error::new(Class::Configuration, "elastic.page-again")
            .with("url", &self.url)
            .with("index", index)
            .with("id", busbar_event::quote(id))
    }

    /// An answer that is none of this kind of server.
    pub fn strange(&self, answer: &ServiceAnswer) -> Error {
        let start = &answer.body[..answer.body.len().min(100)];
        Error::new(Class::Configuration, "elastic.strange")
            .with("url", &self.url)
            .with("said", busbar_event::quote(&String::from_utf8_lossy(start)))
    }
}

/// An index, or several with commas, as a part of a path.
pub fn index_path(index: &str) -> String {
    let mut path = String::new();
    for (at, part) in index.split(',').enumerate() {
        path.push_str(if at > 0 { "," } else { "" });
        Escape::Percent.write(part, &mut path);
    }
    // Percent-encoded stars are no pattern for every proxy on the way.
    path.replace("%2A", "*")
}

/// The value of the header that says who asks. Blocks on the disk.
fn authorization(
    options: &Options,
    project: &std::path::Path,
    places: &Places,
) -> Result<Option<String>, Error> {
    if let Some(key) = &options.api_key {
        return Ok(Some(format!("ApiKey {}", key.read(project, places)?)));
    }
    let Some(user) = &options.user else {
        return Ok(None);
    };
    let password = match &options.password {
        Some(password) => password.read(project, places)?,
        None => String::new(),
    };
    Ok(Some(format!(
        "Basic {}",
        STANDARD.encode(format!("{user}:{password}"))
    )))
}

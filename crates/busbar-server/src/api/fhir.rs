//! Takes resources of FHIR R4 for APIs with `fhir`, and answers when they are stored.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use busbar_access::Principal;
use busbar_catalog::FhirSpec;
use busbar_event::format::{JsonParts, check_resource, is_json, write_json_text};
use busbar_event::{Class, Error, quote};
use serde_json::{Value, json};

use super::call::{find, turn};
use super::read;
use crate::answer::{Answer, Refusal, retry_after};
use crate::apis::{
    FHIR_JSON, FhirResources, Refused, RunningApi, TakenChange, TakenResource, entry_answer,
    member, member_text, refer,
};
use crate::app::App;
use crate::events::parse::{Common, Layout, Parsed};
use crate::guard::Caller;
use crate::limits::REQUEST_EVENTS_MAX;
use crate::peer::Link;

/// The routes below the address of an API that takes resources.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/apis/{name}/{kind}", any(of_type))
        .route("/apis/{name}/{kind}/{id}", any(of_resource))
}

async fn of_type(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    link: Link,
    Path((name, kind)): Path<(String, String)>,
    request: Request,
) -> Answer<Response> {
    serve(&app, (&caller, &link), &name, (&kind, None), request).await
}

async fn of_resource(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    link: Link,
    Path((name, kind, id)): Path<(String, String, String)>,
    request: Request,
) -> Answer<Response> {
    serve(&app, (&caller, &link), &name, (&kind, Some(&id)), request).await
}

async fn serve(
    app: &App,
    (caller, link): (&Principal, &Link),
    name: &str,
    (kind, id): (&str, Option<&str>),
    request: Request,
) -> Answer<Response> {
    let api = find(app, caller, name)?;
    let Some(fhir) = api.spec.fhir.as_deref() else {
        return Err(Refusal::unknown(
            "server.unknown-route",
            request.uri().path(),
        ));
    };
    let node = FhirNode {
        app,
        api: &api,
        fhir,
        name,
        caller,
        link,
    };
    let (parts, body) = request.into_parts();
    let body = read(body).await?;
    let (response, refused) = match node.one(kind, id, &parts, &body).await {
        Ok(response) => (response, None),
        Err(refused) => (refusal(&refused), Some(refused.error)),
    };
    let now = app.bus.clock().now_micros();
    api.counts.count(now, (response.status(), false), refused);
    Ok(response)
}

/// An API that takes resources, on this node.
pub(super) struct FhirNode<'a> {
    pub(super) app: &'a App,
    pub(super) api: &'a RunningApi,
    pub(super) fhir: &'a FhirSpec,
    pub(super) name: &'a str,
    pub(super) caller: &'a Principal,
    pub(super) link: &'a Link,
}

/// The answer of a refusal.
fn refusal(refused: &Refused) -> Response {
    let mut response = answered(refused.status, &refused.outcome());
    if let Some(seconds) = retry_after(&refused.error) {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if refused.status == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = HeaderValue::from_static("POST, PUT, DELETE");
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

fn answered(status: StatusCode, body: &Value) -> Response {
    let kind = [(header::CONTENT_TYPE, FHIR_JSON)];
    (status, kind, body.to_string()).into_response()
}

impl FhirNode<'_> {
    /// Answers a request to the address of the API itself: a Bundle.
    pub(super) async fn base(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let answer = match read(body).await {
            Ok(body) => self.bundle(&parts, &body).await,
            Err(refusal) => Err(Refused::new(refusal.status(), refusal.error().clone())),
        };
        answer.unwrap_or_else(|refused| refusal(&refused))
    }

    /// Answers a request for one resource, and for what the node takes.
    async fn one(
        &self,
        kind: &str,
        id: Option<&str>,
        parts: &Parts,
        body: &Bytes,
    ) -> Result<Response, Refused> {
        let is_read = matches!(parts.method, Method::GET | Method::HEAD);
        if (kind, id, is_read) == ("metadata", None, true) {
            let about = self.api.spec.description.as_deref().unwrap_or(self.name);
            let now = self.app.bus.clock().now_micros();
            let said = FhirResources(self.fhir).capabilities(about, &self.address(parts), now);
            return Ok(answered(StatusCode::OK, &said));
        }
        if parts.uri.query().is_some_and(is_search) || has_condition(&parts.headers) {
            return Err(Refused::permanent(
                StatusCode::NOT_IMPLEMENTED,
                "server.fhir-condition",
            ));
        }
        let taken = match (&parts.method, id) {
            (&Method::POST, None) => {
                check_type(&parts.headers)?;
                FhirResources(self.fhir).resource(text_of(body)?, kind, None)?
            }
            (&Method::PUT, Some(id)) => {
                check_type(&parts.headers)?;
                FhirResources(self.fhir).resource(text_of(body)?, kind, Some(id))?
            }
            (&Method::DELETE, Some(id)) => FhirResources(self.fhir).deleted(kind, id)?,
            _ => {
                return Err(Refused::permanent(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "server.fhir-method",
                ));
            }
        };
        let _call = turn(self.api, self.name).map_err(Refused::of)?;
        let mut refused = self.publish(std::slice::from_ref(&taken)).await?;
        if let Some((_, error)) = refused.pop() {
            return Err(Refused::of(error));
        }
        let status = taken.change.status();
        let mut response = match wants_body(&parts.headers) && status != StatusCode::NO_CONTENT {
            true => (status, [(header::CONTENT_TYPE, FHIR_JSON)], taken.text).into_response(),
            false => status.into_response(),
        };
        if taken.change == TakenChange::Create {
            let place = format!("{}/{}/{}", self.address(parts), taken.kind, taken.id);
            if let Ok(place) = HeaderValue::from_str(&place) {
                response.headers_mut().insert(header::LOCATION, place);
            }
        }
        Ok(response)
    }

    /// Takes the entries of a Bundle.
    async fn bundle(&self, parts: &Parts, body: &Bytes) -> Result<Response, Refused> {
        if parts.method != Method::POST {
            return Err(Refused::permanent(
                StatusCode::METHOD_NOT_ALLOWED,
                "server.fhir-method",
            ));
        }
        check_type(&parts.headers)?;
        let text = text_of(body)?;
        if !is_json(body) {
            // It says where.
            check_resource(text)?;
        }
        // Each entry is checked by itself.
        let is_bundle = member_text(text, "resourceType").as_deref() == Some("Bundle");
        let kind = is_bundle.then(|| member_text(text, "type")).flatten();
        let is_transaction = match kind.as_deref() {
            Some("transaction") => true,
            Some("batch") => false,
            _ => {
                return Err(Refused::permanent(
                    StatusCode::BAD_REQUEST,
                    "server.fhir-bundle",
                ));
            }
        };
        let mut entries = Vec::new();
        if let Some(list) = member(text, "entry") {
            let read = JsonParts::new(list).array(|place| entries.push(&list[place]));
            if read.is_err() || entries.len() > REQUEST_EVENTS_MAX {
                return Err(Refused::permanent(
                    StatusCode::BAD_REQUEST,
                    "server.fhir-bundle",
                ));
            }
        }
        let taken = entries.iter().enumerate().map(|(number, entry)| {
            let taken = FhirResources(self.fhir).entry(entry);
            taken.map_err(|refused| refused.within(number))
        });
        let mut results: Vec<Result<TakenResource, Refused>> = taken.collect();
        if is_transaction {
            if let Some(place) = results.iter().position(Result::is_err) {
                return match results.swap_remove(place) {
                    Err(refused) => Err(refused),
                    Ok(_) => Err(Refused::permanent(
                        StatusCode::BAD_REQUEST,
                        "server.fhir-bundle",
                    )),
                };
            }
            refer(&entries, &mut results);
        }
        let _call = turn(self.api, self.name).map_err(Refused::of)?;
        let (mut places, mut good) = (Vec::new(), Vec::new());
        let mut answers: Vec<Result<(StatusCode, String), Refused>> = Vec::new();
        for (place, result) in results.into_iter().enumerate() {
            answers.push(result.map(|taken| {
                let location = format!("{}/{}", taken.kind, taken.id);
                let status = taken.change.status();
                places.push(place);
                good.push(taken);
                (status, location)
            }));
        }
        for (index, error) in self.publish(&good).await? {
            if is_transaction {
                return Err(Refused::of(error));
            }
            answers[places[index]] = Err(Refused::of(error).within(places[index]));
        }
        let entries: Vec<Value> = answers.iter().map(entry_answer).collect();
        let kind = match is_transaction {
            true => "transaction-response",
            false => "batch-response",
        };
        let bundle = json!({ "resourceType": "Bundle", "type": kind, "entry": entries });
        Ok(answered(StatusCode::OK, &bundle))
    }

    /// Stores resources; those that are not, by their places.
    async fn publish(&self, taken: &[TakenResource]) -> Result<Vec<(usize, Error)>, Refused> {
        if taken.is_empty() {
            return Ok(Vec::new());
        }
        let rate = self.app.config.limits.publish_rate;
        self.link
            .admit_events(taken.len(), rate)
            .map_err(|seconds| {
                let error = Error::new(Class::Transient, "server.publish-rate");
                Refused::of(error.with("rate", rate).with("seconds", seconds))
            })?;
        let mut body = Vec::new();
        for (at, one) in taken.iter().enumerate() {
            body.push(if at == 0 { b'[' } else { b',' });
            body.extend_from_slice(b"{\"topic\":");
            write_json_text(&format!("{}/{}", self.fhir.topic, one.kind), &mut body);
            body.extend_from_slice(b",\"key\":");
            write_json_text(&one.id, &mut body);
            body.extend_from_slice(b",\"tags\":{\"change\":");
            write_json_text(one.change.as_str(), &mut body);
            body.extend_from_slice(b"},\"payload\":");
            body.extend_from_slice(one.text.as_bytes());
            body.push(b'}');
        }
        body.push(b']');
        let parsed = Parsed::new(body.into(), Layout::Json, Common::default());
        let parsed = parsed.map_err(Refused::of)?;
        let client: Arc<str> = format!("http:{}", self.caller.name()).into();
        let outcome = self.app.inlet.publish(parsed, client).await;
        Ok(outcome.map_err(Refused::of)?.rejected)
    }

    /// The address of the API, as the caller sees it; without a host where none was said.
    fn address(&self, parts: &Parts) -> String {
        let said = parts.headers.get(header::HOST);
        let said = said.and_then(|host| host.to_str().ok());
        let host = said.or(parts.uri.authority().map(|authority| authority.as_str()));
        let scheme = match self.link.is_tls() {
            true => "https",
            false => "http",
        };
        match host {
            Some(host) => format!("{scheme}://{host}/apis/{}", self.name),
            None => format!("/apis/{}", self.name),
        }
    }
}

fn text_of(body: &Bytes) -> Result<&str, Refused> {
    std::str::from_utf8(body).map_err(|error| {
        let error = Error::new(Class::Permanent, "event.payload-utf8")
            .with("position", error.valid_up_to());
        Refused::new(StatusCode::BAD_REQUEST, error)
    })
}

/// Whether a query asks for more than a form of the answer.
fn is_search(query: &str) -> bool {
    let mut pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.any(|pair| !pair.starts_with("_format=") && !pair.starts_with("_pretty="))
}

fn has_condition(headers: &HeaderMap) -> bool {
    let exists = HeaderName::from_static("if-none-exist");
    let conditions = [
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        exists,
    ];
    conditions.iter().any(|name| headers.contains_key(name))
}

fn wants_body(headers: &HeaderMap) -> bool {
    let prefer = headers.get_all(HeaderName::from_static("prefer")).iter();
    let mut prefer = prefer.filter_map(|value| value.to_str().ok());
    prefer.any(|value| value.contains("return=representation"))
}

fn check_type(headers: &HeaderMap) -> Result<(), Refused> {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or(FHIR_JSON);
    let media_type = kind.split(';').next().unwrap_or_default().trim();
    let known = [
        FHIR_JSON,
        "application/json",
        "text/json",
        "application/json+fhir",
    ];
    match known
        .iter()
        .any(|known| media_type.eq_ignore_ascii_case(known))
    {
        true => Ok(()),
        false => {
            let error = Error::new(Class::Permanent, "server.fhir-media-type");
            let error = error.with("type", quote(media_type));
            Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error))
        }
    }
}

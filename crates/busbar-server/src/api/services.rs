//! Answers the calls of the project's web services, and shows their WSDL.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use busbar_access::Principal;
use busbar_event::{Class, Error, quote};
use busbar_xml::document_text_in;

use super::call::{ask, find, refused_method, turn};
use super::{Path, read};
use crate::answer::{Answer, Refusal, retry_after};
use crate::apis::{EnvelopeVersion, GivenParameters, RunningApi, SoapCall, WebFault, WebService};
use crate::app::App;
use crate::guard::Caller;
use crate::peer::Link;

/// The routes of all web services.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/services/{name}", any(serve))
}

async fn serve(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    link: Link,
    Path(name): Path,
    request: Request,
) -> Answer<Response> {
    let api = find(&app, &caller, &name)?;
    let service = WebService::of(&name, &api.spec)
        .ok_or_else(|| Refusal::unknown("server.unknown-service", &name))?;
    let (parts, body) = request.into_parts();
    match parts.method {
        Method::GET | Method::HEAD => {
            let wsdl = service.wsdl(&address(&service, &name, &parts, &link)?);
            Ok(([(header::CONTENT_TYPE, "text/xml; charset=utf-8")], wsdl).into_response())
        }
        Method::POST => {
            let node = ServiceNode {
                app: &app,
                api: &api,
                name: &name,
                service: &service,
            };
            let body = read(body).await?;
            Ok(node.call(&parts.headers, &body, (&caller, &link)).await)
        }
        method => Err(refused_method((method, parts.uri), "GET, POST").await),
    }
}

/// The URL that the WSDL tells callers.
fn address(
    service: &WebService<'_>,
    name: &str,
    parts: &Parts,
    link: &Link,
) -> Result<String, Error> {
    if let Some(address) = service.address() {
        return Ok(address.to_owned());
    }
    let said = parts.headers.get(header::HOST);
    let host = match said.and_then(|host| host.to_str().ok()) {
        Some(host) => Some(host),
        None => parts.uri.authority().map(|authority| authority.as_str()),
    };
    let missing = || Error::new(Class::Permanent, "server.soap-address");
    let host = host.ok_or_else(missing)?;
    let scheme = match link.is_tls() {
        true => "https",
        false => "http",
    };
    Ok(format!("{scheme}://{host}/services/{name}"))
}

/// A web service on this node.
struct ServiceNode<'a> {
    app: &'a App,
    api: &'a RunningApi,
    name: &'a str,
    service: &'a WebService<'a>,
}

impl ServiceNode<'_> {
    /// Answers a call, and counts it.
    async fn call(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
        caller: (&Principal, &Link),
    ) -> Response {
        // Who sends no envelope is answered in the older version.
        let (version, answer) = match self.read(headers, body) {
            Ok(call) => match call.given {
                Ok(given) => (call.version, self.answer(given, caller).await),
                Err(fault) => (call.version, Err(fault)),
            },
            Err(fault) => (EnvelopeVersion::One, Err(fault)),
        };
        let counted = answer
            .as_ref()
            .map_or_else(WebFault::counted, |_| (StatusCode::OK, false));
        let refused = answer.as_ref().err().map(|fault| fault.error().clone());
        let now = self.app.bus.clock().now_micros();
        self.api.counts.count(now, counted, refused);
        let (status, header, content, retry) = match answer {
            Ok(content) => (StatusCode::OK, String::new(), content, None),
            Err(fault) => (
                fault.status(version),
                fault.header_written(version),
                fault.written(version),
                fault.passing().and_then(retry_after),
            ),
        };
        let mut response = (status, version.envelope(&header, &content)).into_response();
        let kind = HeaderValue::from_static(version.media_type());
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        if let Some(seconds) = retry {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }

    fn read(&self, headers: &HeaderMap, body: &[u8]) -> Result<SoapCall, WebFault> {
        let kind = headers.get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let mut parts = kind.split(';');
        let media_type = parts.next().unwrap_or_default().trim();
        let known = ["text/xml", "application/soap+xml"];
        if !known
            .iter()
            .any(|known| media_type.eq_ignore_ascii_case(known))
        {
            let error = Error::new(Class::Permanent, "server.soap-content-type");
            return Err(WebFault::client(error.with("type", quote(media_type))));
        }
        let charset = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            let is_charset = name.trim().eq_ignore_ascii_case("charset");
            is_charset.then(|| value.trim().trim_matches(['"', '\'']))
        });
        let text =
            document_text_in(body, charset).map_err(|fault| WebFault::client(fault.error()))?;
        SoapCall::read(self.service, &text)
    }

    /// Publishes the request and waits for the reply.
    async fn answer(
        &self,
        given: GivenParameters,
        caller: (&Principal, &Link),
    ) -> Result<String, WebFault> {
        let _call = turn(self.api, self.name)?;
        let request = self.service.request;
        let stored = ask(self.app, (self.name, self.api), request, given, caller).await?;
        let Some(reply) = stored.reply else {
            let error = Error::new(Class::Transient, "server.soap-late")
                .with("seconds", self.api.spec.wait().as_secs_f64())
                .with("request", &stored.id)
                .with("stream", &request.reply);
            return Err(WebFault::late(error, stored.id));
        };
        match reply.status(request) {
            Ok(status) if status.is_client_error() || status.is_server_error() => {
                let reason = reply.field(request.reason.as_deref());
                return Err(WebFault::refused(status, reason, stored.id));
            }
            Ok(_) => {}
            Err(cause) => return Err(WebFault::reply(cause, stored.id)),
        }
        let answer = self.service.answer(&reply);
        answer.map_err(|cause| WebFault::reply(cause, stored.id))
    }
}

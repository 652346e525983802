//! The REST API, one file for each resource. Every route is described: routes are added through the OpenAPI
//! router only.

mod apis;
mod audit;
mod bounded;
mod call;
mod cells;
mod compare;
mod connections;
mod copy_table;
mod dead_letters;
mod events;
mod fhir;
mod flows;
mod gateways;
mod handshake;
mod health;
mod live;
mod messages;
mod metrics;
mod mqtt;
mod orchestrations;
mod overview;
mod plugin_trial;
mod plugins;
mod processes;
mod project;
mod search;
mod services;
mod session;
mod socket;
mod sql;
mod streams;
mod tables;
mod tail;
mod tokens;
mod topics;
mod trace;
mod users;
mod views;
mod words;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use busbar_event::{Class, Error};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::OpenApi;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{OpenApi as Document, Ref, RefOr};
use utoipa_axum::router::OpenApiRouter;

pub(crate) use connections::views as connection_views;
pub(crate) use flows::views as flow_views;
pub(crate) use streams::summaries as stream_summaries;

use crate::answer::{Answer, Refusal, bounded};
use crate::app::App;
use crate::limits::BODY_BYTES_MAX;
use crate::problem::{Problem, Refused};

/// The general part of the OpenAPI document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Busbar",
        description = "Everything the console and the command line do, they do through this API. \
            Times are RFC 3339 in UTC with microseconds; sizes are bytes, rates are events a second. \
            Without users the node answers this machine alone and asks for no login.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(Refused, Problem))
)]
struct Described;

/// All routes, and the OpenAPI document that describes them.
pub(crate) fn routes() -> (Router<Arc<App>>, Document) {
    let (router, mut document) = OpenApiRouter::with_openapi(Described::openapi())
        .merge(apis::routes())
        .merge(audit::routes())
        .merge(bounded::routes())
        .merge(compare::routes())
        .merge(connections::routes())
        .merge(copy_table::routes())
        .merge(dead_letters::routes())
        .merge(events::routes())
        .merge(flows::routes())
        .merge(gateways::routes())
        .merge(health::routes())
        .merge(live::routes())
        .merge(messages::routes())
        .merge(metrics::routes())
        .merge(mqtt::routes())
        .merge(orchestrations::routes())
        .merge(overview::routes())
        .merge(plugins::routes())
        .merge(plugin_trial::routes())
        .merge(processes::routes())
        .merge(project::routes())
        .merge(search::routes())
        .merge(session::routes())
        .merge(socket::routes())
        .merge(sql::routes())
        .merge(streams::routes())
        .merge(tables::routes())
        .merge(cells::routes())
        .merge(tail::routes())
        .merge(tokens::routes())
        .merge(topics::routes())
        .merge(trace::routes())
        .merge(users::routes())
        .split_for_parts();
    complete(&mut document);
    // Each of the project's APIs describes itself.
    let router = router
        .merge(call::routes())
        .merge(fhir::routes())
        .merge(services::routes());
    (
        router.method_not_allowed_fallback(method_not_allowed),
        document,
    )
}

/// Adds what all operations have in common: authentication, and the shape of a refusal.
fn complete(document: &mut Document) {
    document.info.version = env!("CARGO_PKG_VERSION").into();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(
        "token",
        SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some("An API token."))
                .build(),
        ),
    );
    components.add_security_scheme(
        "session",
        SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::with_description(
            crate::guard::SESSION_COOKIE,
            "The cookie of POST /api/v1/session.",
        ))),
    );
    document.security = Some(vec![
        SecurityRequirement::new::<_, [&str; 0], &str>("token", []),
        SecurityRequirement::new::<_, [&str; 0], &str>("session", []),
        // Nothing is needed while there are no users.
        SecurityRequirement::default(),
    ]);
    let refused = utoipa::openapi::ResponseBuilder::new()
        .description("It was refused, or failed; the body says why.")
        .content(
            "application/json",
            utoipa::openapi::ContentBuilder::new()
                .schema(Some(RefOr::Ref(Ref::from_schema_name("Refused"))))
                .build(),
        )
        .build();
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in [
            ("get", &mut item.get),
            ("post", &mut item.post),
            ("put", &mut item.put),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
        ] {
            let Some(operation) = operation else { continue };
            operation.operation_id = Some(operation_id(method, path));
            operation
                .responses
                .responses
                .entry("default".into())
                .or_insert_with(|| RefOr::T(refused.clone()));
        }
    }
}

/// The id of an operation, from its method and path: functions of several files have the same name.
fn operation_id(method: &str, path: &str) -> String {
    let words = path
        .trim_start_matches("/api/v1")
        .split(['/', '-', '.', '{', '}'])
        .filter(|word| !word.is_empty());
    words.fold(method.to_owned(), |id, word| format!("{id}_{word}"))
}

/// Answers a method that a path does not accept, in the shape of all refusals.
pub(crate) async fn method_not_allowed(method: Method, uri: Uri) -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        Error::new(Class::Permanent, "server.method-not-allowed")
            .with("method", method)
            .with("path", bounded(uri.path())),
    )
}

/// The JSON body of a request.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for JsonBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &Arc<App>) -> Answer<Self> {
        check_json(request.headers())?;
        let bytes = read(request.into_body()).await?;
        let mut reader = serde_json::Deserializer::from_slice(&bytes);
        object(&mut reader)
            .and_then(|value| reader.end().map(|()| JsonBody(value)))
            .map_err(|cause| Refusal::from(words::body(&cause)))
    }
}

/// Reads a structure from an object only: serde would accept its fields in a list, by their order.
pub(crate) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    reader: D,
) -> Result<T, D::Error> {
    struct Members<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(members))
        }
    }
    reader.deserialize_map(Members(PhantomData))
}

/// The same where the structure may be absent.
pub(crate) fn optional_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    reader: D,
) -> Result<Option<T>, D::Error> {
    struct Inner<T>(T);
    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Inner<T> {
        fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
            object(reader).map(Inner)
        }
    }
    Option::<Inner<T>>::deserialize(reader).map(|inner| inner.map(|Inner(value)| value))
}

/// The JSON body of a request; the default when there is none.
pub(crate) struct OptionalBody<T>(pub(crate) T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<App>> for OptionalBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &Arc<App>) -> Answer<Self> {
        use axum::body::HttpBody as _;
        if request.body().is_end_stream() {
            return Ok(OptionalBody(T::default()));
        }
        JsonBody::from_request(request, app)
            .await
            .map(|JsonBody(value)| OptionalBody(value))
    }
}

/// The query of a request.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned> axum::extract::FromRequestParts<Arc<App>> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        _: &Arc<App>,
    ) -> Answer<Self> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|axum::extract::Query(value)| Query(value))
            .map_err(|cause| Refusal::from(words::query(&cause.body_text())))
    }
}

/// The variable part of a path.
pub(crate) struct Path(pub(crate) String);

impl axum::extract::FromRequestParts<Arc<App>> for Path {
    type Rejection = Refusal;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        app: &Arc<App>,
    ) -> Answer<Self> {
        axum::extract::Path::from_request_parts(parts, app)
            .await
            .map(|axum::extract::Path(part)| Path(part))
            .map_err(|_| Refusal::from(Error::new(Class::Permanent, "server.bad-path")))
    }
}

/// The two variable parts of a path.
pub(crate) struct PathPair(pub(crate) String, pub(crate) String);

impl axum::extract::FromRequestParts<Arc<App>> for PathPair {
    type Rejection = Refusal;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        app: &Arc<App>,
    ) -> Answer<Self> {
        axum::extract::Path::from_request_parts(parts, app)
            .await
            .map(|axum::extract::Path((one, other))| PathPair(one, other))
            .map_err(|_| Refusal::from(Error::new(Class::Permanent, "server.bad-path")))
    }
}

/// A JSON answer.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => json_bytes(body),
            Err(cause) => Refusal::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                Error::new(Class::Permanent, "server.unwritable-answer").with("why", cause),
            )
            .into_response(),
        }
    }
}

/// Tells proxies not to buffer the answer.
pub(crate) const UNBUFFERED: (header::HeaderName, &str) =
    (header::HeaderName::from_static("x-accel-buffering"), "no");

/// A JSON answer that is serialised already.
pub(crate) fn json_bytes(body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}

/// The body of a request.
pub(crate) async fn read(body: Body) -> Answer<Bytes> {
    // The guard has read the body within its bounds, so it is in memory.
    axum::body::to_bytes(body, BODY_BYTES_MAX)
        .await
        .map_err(|cause| {
            tracing::debug!(%cause, "the body of a request broke off");
            Refusal::from(Error::new(Class::Permanent, "server.body-broken"))
        })
}

/// Runs what waits for a disk or computes for long, outside the threads that serve requests.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Answer<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            Error::new(Class::Transient, "server.failed-within"),
        )),
    }
}

fn check_json(headers: &HeaderMap) -> Answer<()> {
    let kind = content_type(headers);
    if matches!(&*kind, "" | "application/json") || kind.ends_with("+json") {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Error::new(Class::Permanent, "server.content-type").with("type", bounded(&kind)),
    ))
}

/// The media type of a body, without parameters, in lower case.
pub(crate) fn content_type(headers: &HeaderMap) -> String {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

const _: () = assert!(BODY_BYTES_MAX <= u32::MAX as usize);

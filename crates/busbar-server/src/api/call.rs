//! Answers the calls of the project's APIs.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use busbar_access::{Principal, Role};
use busbar_catalog::{ApiRequest, ApiWork};
use busbar_connector::Escape;
use busbar_event::tags::{REQUEST, reserved};
use busbar_event::{Class, Error};
use busbar_orchestrate::InstanceStatus;
use busbar_sql::{QueryOptions, Relations};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::fhir::FhirNode;
use super::sql::objects;
use super::{Json, Path, PathPair, blocking, json_bytes, method_not_allowed, read};
use crate::answer::{Answer, Refusal};
use crate::apis::{ApiReply, GivenParameters, RunningApi, asked_at, document, find_reply};
use crate::app::App;
use crate::events::parse::{Common, Layout, Parsed};
use crate::guard::Caller;
use crate::limits::{API_ANSWERS_MAX, SQL_ROWS_DEFAULT};
use crate::peer::Link;

/// The routes of all APIs. Each describes itself, so that they are absent from the document of the node's own API.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/apis/{name}", any(call))
        .route("/apis/{name}/openapi.json", any(describe))
        .route("/apis/{name}/answers/{id}", any(later))
}

/// An answer, and whether what was asked for had not come in time.
struct CallAnswer {
    response: Response,
    is_late: bool,
}

/// The API of this name, if the caller may call it.
pub(super) fn find(app: &App, caller: &Principal, name: &str) -> Answer<Arc<RunningApi>> {
    let api = app.apis.find(name);
    let role = api.as_ref().map_or(Role::Operator, |api| api.role());
    // Whether there is one of this name is nobody's business, so it is asked first.
    if !caller.may_call(name, role) {
        let error = Error::new(Class::Permanent, "access.call-denied");
        return Err(error.with("name", busbar_event::quote(name)).into());
    }
    api.ok_or_else(|| Refusal::unknown("server.unknown-api", name))
}

async fn describe(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
    method: Method,
    uri: Uri,
) -> Answer<Response> {
    let api = find(&app, &caller, &name)?;
    if !matches!(method, Method::GET | Method::HEAD) {
        return Err(refused_method((method, uri), "GET").await);
    }
    Ok(Json(document(&name, &api.spec)).into_response())
}

pub(super) async fn refused_method((method, uri): (Method, Uri), allowed: &'static str) -> Refusal {
    let refusal = method_not_allowed(method, uri).await;
    refusal.with_header(header::ALLOW, HeaderValue::from_static(allowed))
}

async fn call(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    link: Link,
    Path(name): Path,
    request: Request,
) -> Answer<Response> {
    let api = find(&app, &caller, &name)?;
    let answer = answer(&app, &api, &name, (&caller, &link), request).await;
    let refused = answer.as_ref().err().map(|refusal| refusal.error().clone());
    let CallAnswer { response, is_late } = answer.unwrap_or_else(|refusal| CallAnswer {
        response: refusal.into_response(),
        is_late: false,
    });
    let now = app.bus.clock().now_micros();
    api.counts.count(now, (response.status(), is_late), refused);
    Ok(response)
}

/// The searches for replies that may be under way now.
static ANSWERS: Semaphore = Semaphore::const_new(API_ANSWERS_MAX);

/// What a caller who did not wait for it asks for afterwards: the reply to a request, or what an instance has come to.
async fn later(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    PathPair(name, id): PathPair,
    method: Method,
    uri: Uri,
) -> Answer<Response> {
    let api = find(&app, &caller, &name)?;
    if !matches!(method, Method::GET | Method::HEAD) {
        return Err(refused_method((method, uri), "GET").await);
    }
    let unknown = || Refusal::unknown("server.unknown-answer", &id);
    match api.spec.work() {
        Some(ApiWork::Request(request)) => {
            let since = asked_at(&name, &id).ok_or_else(unknown)?;
            let stream = app.bus.stream(&request.reply).ok_or_else(unknown)?;
            // It is never closed.
            let _turn = ANSWERS.acquire().await;
            let (of, wanted) = (request.clone(), id.clone());
            let find = move || find_reply(&stream, &of, (&wanted, since));
            let reply = blocking(find).await?;
            let stored = StoredRequest { id, reply };
            Ok(answered(&name, request, stored)?.response)
        }
        Some(ApiWork::Orchestration(of)) => {
            let executor = app.orchestrations.executor(of)?.clone();
            let (of, key) = (of.to_owned(), id.clone());
            let instance = blocking(move || executor.instance(&of, &key)).await?;
            let instance = instance.ok_or_else(unknown)?;
            let mut answer =
                json!({ "key": id, "existed": true, "status": instance.status.as_str() });
            if instance.status.has_ended() {
                answer["answer"] = instance.answer.unwrap_or_default();
                answer["failure"] = json!(instance.failure);
            }
            Ok(instance_answer(&name, &id, instance.status, answer).response)
        }
        Some(ApiWork::Query(_) | ApiWork::Fhir(_)) | None => Err(unknown()),
    }
}

async fn answer(
    app: &App,
    api: &RunningApi,
    name: &str,
    (caller, link): (&Principal, &Link),
    request: Request,
) -> Answer<CallAnswer> {
    let Some(work) = api.spec.work() else {
        return Err(Refusal::unknown("server.unknown-api", name));
    };
    if let ApiWork::Fhir(fhir) = work {
        let node = FhirNode {
            app,
            api,
            fhir,
            name,
            caller,
            link,
        };
        return Ok(CallAnswer {
            response: node.base(request).await,
            is_late: false,
        });
    }
    let fields = &api.spec.parameters.0;
    let is_query = matches!(work, ApiWork::Query(_));
    let (parts, body) = request.into_parts();
    let given = match parts.method {
        Method::GET | Method::HEAD if is_query => {
            let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
            let pairs = pairs.map_err(|_| Error::new(Class::Permanent, "server.bad-path"))?;
            GivenParameters::from_url(fields, pairs.0)?
        }
        Method::POST => GivenParameters::from_body(fields, &read(body).await?)?,
        method => {
            let allowed = if is_query { "GET, POST" } else { "POST" };
            return Err(refused_method((method, parts.uri), allowed).await);
        }
    };
    let _call = turn(api, name)?;
    match work {
        ApiWork::Query(text) => Ok(CallAnswer {
            response: query(app, api, text, &given).await?,
            is_late: false,
        }),
        ApiWork::Request(request) => {
            let stored = ask(app, (name, api), request, given, (caller, link)).await?;
            Ok(answered(name, request, stored)?)
        }
        ApiWork::Orchestration(of) => begin(app, (name, api), of, given).await,
        // Answered above.
        ApiWork::Fhir(_) => Err(Refusal::unknown("server.unknown-api", name)),
    }
}

/// One of the calls that may be under way at the same time.
pub(super) fn turn(api: &RunningApi, name: &str) -> Result<OwnedSemaphorePermit, Error> {
    let turn = Arc::clone(&api.calls).try_acquire_owned();
    turn.map_err(|_| {
        Error::new(Class::Transient, "server.api-busy")
            .with("name", name)
            .with("most", api.spec.calls_max())
    })
}

/// The rows of a query, each as an object.
async fn query(
    app: &App,
    api: &RunningApi,
    text: &str,
    given: &GivenParameters,
) -> Answer<Response> {
    let rows = api.spec.rows.map_or(SQL_ROWS_DEFAULT, |rows| rows as usize);
    let options = QueryOptions {
        rows_max: Some(rows),
        // What the query reads was decided by whoever wrote the file.
        relations: Some(Arc::new(app.relations.clone()) as Arc<dyn Relations>),
        parameters: given.bound(&api.spec.parameters.0),
        ..QueryOptions::default()
    };
    let result = app.sql.query_with(text, options).await;
    let mut result = result.map_err(|wrong| wrong.into_error())?;
    let mut out = b"{\"rows\":[".to_vec();
    let mut first = true;
    while let Some(batch) = result.next().await {
        let batch = batch?;
        tokio::task::yield_now().await;
        objects(&mut out, &batch, &mut first)?;
    }
    out.extend_from_slice(format!("],\"truncated\":{}}}", result.truncated()).as_bytes());
    Ok(json_bytes(out))
}

/// A request that is stored.
pub(super) struct StoredRequest {
    /// What identifies it.
    pub(super) id: String,
    /// None where no reply has come in time.
    pub(super) reply: Option<ApiReply>,
}

/// Publishes a request and waits for the reply.
pub(super) async fn ask(
    app: &App,
    (name, api): (&str, &RunningApi),
    request: &ApiRequest,
    given: GivenParameters,
    (caller, link): (&Principal, &Link),
) -> Answer<StoredRequest> {
    let rate = app.config.limits.publish_rate;
    link.admit_events(1, rate).map_err(|seconds| {
        Error::new(Class::Transient, "server.publish-rate")
            .with("rate", rate)
            .with("seconds", seconds)
    })?;
    // Before the request is published, so that no reply is missed however fast it comes.
    let mut wait = app.apis.waits.begin(name, app.bus.clock().now_micros())?;
    let GivenParameters(mut payload) = given;
    let key = request.key.as_ref().and_then(|key| payload.get(key));
    let key = key.filter(|key| !key.is_null()).map(|key| match key {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    if let Some(field) = &request.id {
        payload.insert(field.clone(), wait.id.clone().into());
    }
    let mut tags = vec![(reserved::CORRELATION_DATA, STANDARD.encode(&wait.id))];
    if let Some(topic) = &api.reply_to {
        tags.push((reserved::REPLY_TO, topic.clone()));
    }
    let common = Common {
        topic: Some(request.topic.clone()),
        key,
        tags: vec![(REQUEST.to_owned(), wait.id.clone())],
        content_type: Some("application/json".to_owned()),
        reserved: tags,
        ..Common::default()
    };
    let body = Bytes::from(serde_json::Value::Object(payload).to_string());
    let parsed = Parsed::new(body, Layout::Raw, common)?;
    let client: Arc<str> = format!("http:{}", caller.name()).into();
    let outcome = app.inlet.publish(parsed, client).await?;
    if let Some((_, error)) = outcome.rejected.into_iter().next() {
        return Err(error.into());
    }
    let reply = wait.reply(api.spec.wait()).await;
    Ok(StoredRequest {
        id: wait.id.clone(),
        reply,
    })
}

/// The reply in the form that its sender gave it.
fn answered(name: &str, request: &ApiRequest, stored: StoredRequest) -> Result<CallAnswer, Error> {
    let Some(reply) = stored.reply else {
        return Ok(accepted(name, &stored.id, json!({ "request": stored.id })));
    };
    let status = reply.status(request)?;
    let is_json = || serde_json::from_slice::<serde::de::IgnoredAny>(&reply.payload).is_ok();
    let said = reply.content_type.as_deref();
    let kind = said.and_then(|kind| HeaderValue::from_str(kind).ok());
    let kind = kind.unwrap_or_else(|| {
        HeaderValue::from_static(match is_json() {
            true => "application/json",
            false => "application/octet-stream",
        })
    });
    Ok(CallAnswer {
        response: (status, [(header::CONTENT_TYPE, kind)], reply.payload).into_response(),
        is_late: false,
    })
}

/// The answer to a caller for whom there is nothing yet, with the place where it will be.
fn accepted(name: &str, id: &str, body: serde_json::Value) -> CallAnswer {
    let mut place = format!("/apis/{name}/answers/");
    Escape::Percent.write(id, &mut place);
    let mut response = (StatusCode::ACCEPTED, Json(body)).into_response();
    if let Ok(place) = HeaderValue::from_str(&place) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    CallAnswer {
        response,
        is_late: true,
    }
}

/// The answer of an instance, by what it is at.
fn instance_answer(
    name: &str,
    key: &str,
    status: InstanceStatus,
    body: serde_json::Value,
) -> CallAnswer {
    let code = match status {
        InstanceStatus::Done => StatusCode::OK,
        status if status.has_ended() => StatusCode::CONFLICT,
        _ => return accepted(name, key, body),
    };
    CallAnswer {
        response: (code, Json(body)).into_response(),
        is_late: false,
    }
}

/// Starts an instance, or finds the one that has the key already, and waits for its end.
async fn begin(
    app: &App,
    (name, api): (&str, &RunningApi),
    of: &str,
    given: GivenParameters,
) -> Answer<CallAnswer> {
    let executor = app.orchestrations.executor(of)?.clone();
    let given = given.0.into_iter().filter(|(_, value)| !value.is_null());
    let started = executor.begin(of, given.collect()).await?;
    let mut answer = json!({
        "key": started.key,
        "existed": started.existed,
        "status": started.status.as_str(),
    });
    let ended = executor.ended(of, &started.key);
    let Ok(ended) = tokio::time::timeout(api.spec.wait(), ended).await else {
        return Ok(accepted(name, &started.key, answer));
    };
    let ended = ended?;
    answer["status"] = ended.status.as_str().into();
    answer["answer"] = ended.answer.unwrap_or_default();
    answer["failure"] = json!(ended.failure);
    Ok(instance_answer(name, &started.key, ended.status, answer))
}

//! The project's APIs in short.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::StatusCode;
use busbar_access::Principal;
use busbar_catalog::ApiWork;
use busbar_event::format::FieldSpec;
use busbar_event::{Error, time};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Json;
use crate::apis::{RunningApi, type_name};
use crate::app::App;
use crate::guard::Caller;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list))
}

/// The project's APIs.
#[derive(Serialize, utoipa::ToSchema)]
struct ApiList {
    /// By name.
    apis: Vec<ApiView>,
}

/// An API of the project in short. Counts are since the node started.
#[derive(Serialize, utoipa::ToSchema)]
struct ApiView {
    /// Its name.
    name: String,
    /// Where it is called: `/apis/NAME`. Its OpenAPI document is below, at `openapi.json`.
    path: String,
    /// Where it is called as a web service: `/services/NAME`, with its WSDL at `?wsdl`. Absent where its file has no `soap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    /// What it is for.
    description: Option<String>,
    /// What it does: `query`, `request`, `orchestration` or `fhir`.
    work: &'static str,
    /// The orchestration that it starts instances of; for those who may read everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    orchestration: Option<String>,
    /// The topic of the events that it publishes; for those who may read everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    /// The stream with the replies to them; for those who may read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<String>,
    /// The methods that it answers.
    methods: &'static [&'static str],
    /// The role that may call it where no rules of a user or token say so: `viewer` or `operator`.
    role: &'static str,
    /// What callers give.
    parameters: Vec<ApiParameter>,
    /// How long a caller waits for a reply or for the end of an instance, in seconds; absent where it waits for neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    within_s: Option<f64>,
    /// Calls under way.
    in_flight: usize,
    /// Calls at the same time at most.
    in_flight_max: usize,
    /// Calls answered with what was asked for.
    answered_total: u64,
    /// Calls answered with 202: the reply or the end had not come in time.
    late_total: u64,
    /// Calls refused.
    refused_total: u64,
    /// Calls that failed within the node.
    failed_total: u64,
    /// The last call that has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_call: Option<LastCall>,
    /// The last call that was refused or failed, which may have been another caller's; for those who may read everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure: Option<LastCall>,
}

/// A parameter of an API.
#[derive(Serialize, utoipa::ToSchema)]
struct ApiParameter {
    /// Its name.
    name: String,
    /// Its type.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Whether each call must give it.
    required: bool,
}

/// A call of an API that has ended.
#[derive(Serialize, utoipa::ToSchema)]
struct LastCall {
    /// When.
    time: String,
    /// The HTTP status of the answer.
    status: u16,
    /// Why it was refused or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<super::Problem>)]
    error: Option<Error>,
}

/// List the project's APIs that the caller may call.
#[utoipa::path(get, path = "/api/v1/apis", tag = "apis",
    responses((status = 200, description = "The APIs.", body = ApiList)))]
async fn list(State(app): State<Arc<App>>, Caller(caller): Caller) -> Json<ApiList> {
    let running = app.apis.running().into_iter();
    let mine = running.filter(|(name, api)| caller.may_call(name, api.role()));
    Json(ApiList {
        apis: mine.map(|(name, api)| view(name, &api, &caller)).collect(),
    })
}

fn view(name: String, api: &RunningApi, caller: &Principal) -> ApiView {
    let sees_all = caller.may_read_all();
    let (spec, counts) = (&api.spec, &api.counts);
    let work = spec.work();
    let waits = !matches!(work, Some(ApiWork::Query(_) | ApiWork::Fhir(_)));
    let last = counts.last();
    let call = |(micros, status, error): (i64, StatusCode, Option<Error>)| LastCall {
        time: time::text(micros),
        status: status.as_u16(),
        error,
    };
    let mut view = ApiView {
        path: format!("/apis/{name}"),
        service: spec.soap.as_ref().map(|_| format!("/services/{name}")),
        name,
        description: spec.description.clone(),
        work: "query",
        orchestration: None,
        topic: None,
        reply: None,
        methods: match work {
            Some(ApiWork::Query(_)) => &["GET", "POST"],
            Some(ApiWork::Fhir(_)) => &["POST", "PUT", "DELETE"],
            _ => &["POST"],
        },
        role: api.role().as_str(),
        parameters: spec.parameters.0.iter().map(ApiParameter::new).collect(),
        within_s: waits.then(|| spec.wait().as_secs_f64()),
        in_flight: api.in_flight(),
        in_flight_max: spec.calls_max(),
        answered_total: counts.answered.load(Ordering::Relaxed),
        late_total: counts.late.load(Ordering::Relaxed),
        refused_total: counts.refused.load(Ordering::Relaxed),
        failed_total: counts.failed.load(Ordering::Relaxed),
        last_call: last
            .call
            .map(|(micros, status)| call((micros, status, None))),
        last_failure: last
            .failure
            .filter(|_| sees_all)
            .map(|(micros, status, error)| call((micros, status, Some(error)))),
    };
    match work {
        Some(ApiWork::Request(request)) => {
            view.work = "request";
            view.topic = sees_all.then(|| request.topic.clone());
            let reply = caller.may_read_stream(&request.reply);
            view.reply = reply.then(|| request.reply.clone());
        }
        Some(ApiWork::Orchestration(name)) => {
            view.work = "orchestration";
            view.orchestration = sees_all.then(|| name.to_owned());
        }
        Some(ApiWork::Fhir(fhir)) => {
            view.work = "fhir";
            view.topic = Some(format!("{}/+", fhir.topic));
        }
        Some(ApiWork::Query(_)) | None => {}
    }
    view
}

impl ApiParameter {
    fn new(field: &FieldSpec) -> ApiParameter {
        ApiParameter {
            name: field.name.clone(),
            kind: type_name(field.field_type),
            required: field.required,
        }
    }
}

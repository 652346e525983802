//! One event's way: what each flow that reads its stream makes of it, step by step, and where the log has the results.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use busbar_access::Principal;
use busbar_bus::StreamPartition;
use busbar_catalog::{Bundle, Project, Version, VersionInfo};
use busbar_event::{Batch, Class, Error, time};
use busbar_flow::{
    DeadLetter, EventAt, FlowTrace, Lineage, LineageResult, ResendFrom, TracedOutput, TracedStep,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::dead_letters::edited_payload;
use super::views::EventView;
use super::{Json, JsonBody, Query, blocking};
use crate::actor::Actor;
use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::audit::Action;
use crate::events::render::{self, Place};
use crate::guard::Caller;
use crate::limits::{SUBSCRIPTION_READ_BYTES, TRACE_FLOWS_MAX, TRACE_LINEAGES_MAX, TRACES_MAX};
use crate::orchestrations::TracedStart;
use crate::rights;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(trace))
        .routes(routes!(resend))
}

/// Those who may trace now.
static TRACES: Semaphore = Semaphore::const_new(TRACES_MAX);

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct TraceQuery {
    /// The stream that holds the event.
    stream: String,
    /// The partition.
    partition: u16,
    /// The offset.
    offset: u64,
    /// Only this flow.
    flow: Option<String>,
    /// The version of the project to compute with; for each flow the one that ran at the time of the event when absent.
    version: Option<u64>,
}

/// The way of an event through the flows that read its stream.
#[derive(Serialize, utoipa::ToSchema)]
struct TraceView {
    /// The event.
    #[schema(value_type = EventView)]
    event: Box<RawValue>,
    /// What each flow makes of it, by name.
    flows: Vec<FlowTraceView>,
    /// What the orchestrations make of it that read its stream, as they run now; for those who may read everything.
    orchestrations: Vec<TracedStartView>,
    /// Why nothing could be said of orchestrations.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<super::Problem>)]
    orchestrations_error: Option<Error>,
    /// Flows beyond the first 32; ask for each of them by its name.
    flows_left: Vec<String>,
    /// Events of other streams that were read to find results, at most 262144 for each flow.
    searched: u64,
}

/// What an orchestration makes of an event.
#[derive(Serialize, utoipa::ToSchema)]
struct TracedStartView {
    /// The orchestration.
    orchestration: String,
    /// The part in which instances wait for it; absent where it starts an instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<String>,
    /// The business key of the instance that it starts, or that was there before.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// What says which instances it is for, where they wait for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    /// What the instance is at; absent where it is not kept any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    /// Why the event does not fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<super::Problem>)]
    error: Option<Error>,
}

/// What a flow makes of an event.
#[derive(Serialize, utoipa::ToSchema)]
struct FlowTraceView {
    /// The flow.
    flow: String,
    /// The version of the project that it was computed with.
    version: u64,
    /// When that was applied.
    version_time: String,
    /// The version of the project that runs.
    present: u64,
    /// Why nothing could be computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<super::Problem>)]
    error: Option<Error>,
    /// Why the event could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<super::Problem>)]
    unread: Option<Error>,
    /// The steps, in their order in the flow.
    steps: Vec<TracedStepView>,
    /// The outputs, in their order in the flow.
    outputs: Vec<TracedOutputView>,
    /// For a flow with state the results that the event is part of. Absent where the flow cannot be run again (it keeps no
    /// state, asks a service, or a plug-in has changed) and behind four such flows: ask for each of those by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    lineage: Option<LineageView>,
    /// Why those could not be computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<super::Problem>)]
    lineage_error: Option<Error>,
    /// Its dead letters of the event.
    letters: Vec<TracedLetter>,
}

/// What a step made of an event.
#[derive(Serialize, utoipa::ToSchema)]
struct TracedStepView {
    /// Its id in the flow's graph.
    id: String,
    /// Its name as a mediation, where the flow gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Its kind.
    kind: &'static str,
    /// What it does, in short.
    label: String,
    /// `passed`, `filtered`, `dead`, `not-reached`; or why it was not computed: `state`, `service`, `plugin`, or `unknown`
    /// behind such a step.
    fate: &'static str,
    /// The rows it was given, the first hundred of them: the columns that the flow reads.
    before: Vec<serde_json::Value>,
    /// How many it was given.
    before_rows: usize,
    /// The rows that came out, the first hundred of them.
    after: Vec<serde_json::Value>,
    /// How many came out.
    after_rows: usize,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<super::Problem>)]
    cause: Option<Error>,
}

/// What an output takes of an event.
#[derive(Serialize, utoipa::ToSchema)]
struct TracedOutputView {
    /// Its id in the flow's graph.
    id: String,
    /// Its name as an out-endpoint, where the flow gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Its kind.
    kind: &'static str,
    /// Its target.
    label: String,
    /// Whether what it takes was computed; else only `recorded` is known.
    computed: bool,
    /// Events that it takes. Those that the log has say where.
    #[schema(value_type = Vec<MadeEventView>)]
    events: Vec<Box<RawValue>>,
    /// Rows that it takes, for a table or a connection.
    rows: Vec<serde_json::Value>,
    /// What the log has of the batch that the event was in, where nothing could be computed.
    #[schema(value_type = Vec<EventView>)]
    recorded: Vec<Box<RawValue>>,
    /// Why something could not be made into what it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<super::Problem>)]
    cause: Option<Error>,
}

/// An event that a flow makes.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is rendered by hand")]
struct MadeEventView {
    /// The event; of one that the log does not have, `stream` is empty, and `partition` and `offset` mean nothing.
    #[schema(value_type = EventView)]
    event: serde_json::Value,
    /// Whether the log has it.
    found: bool,
}

/// The results of a flow with state that an event is part of, from running the flow again over at most 4096 events around it.
#[derive(Serialize, utoipa::ToSchema)]
struct LineageView {
    /// The results, the first 16 of them.
    results: Vec<LineageResultView>,
    /// How many more there may be.
    more: usize,
    /// Events that the flow was run over again.
    events: u64,
    /// Whether these were all events before it. Else what the flow's state held of older ones is missing, and a result that the
    /// log does not have is not to be relied on.
    whole: bool,
}

/// A result, and the events that it was made of.
#[derive(Serialize, utoipa::ToSchema)]
struct LineageResultView {
    /// The id of the output in the flow's graph.
    output: String,
    /// The event that the output takes. Of one that the log does not have, `stream` is empty, and `partition` and `offset` mean
    /// nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<EventView>)]
    event: Option<Box<RawValue>>,
    /// Whether the log has it.
    found: bool,
    /// The row that it takes, for a table.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    row: Option<serde_json::Value>,
    /// It has not come out: the flow's state held it behind the last event that was read.
    open: bool,
    /// The events that it was made of, a hundred at most: they alone give it, unless there are more.
    #[schema(value_type = Vec<EventView>)]
    inputs: Vec<Box<RawValue>>,
    /// Events that are part of it, or may be, and are not shown: there are too many.
    more: u64,
}

/// A dead letter of an event.
#[derive(Serialize, utoipa::ToSchema)]
struct TracedLetter {
    /// Its id.
    id: String,
    /// The place in the flow.
    step: String,
    /// The code of the cause.
    code: String,
    /// The cause in English.
    cause: String,
    /// The cause in Chinese.
    cause_zh: String,
    /// Whether it is open.
    open: bool,
}

/// Trace an event.
///
/// Computes again what each flow that reads the event's stream makes of it, with the version that ran at the event's time, and
/// says where the log has the results. Nothing is written, and no service is asked: behind steps with state, and behind calls,
/// only what the log has is shown. For flows with state `lineage` has the results that the event is part of and the events
/// that each of them was made of. To follow the event further, trace the results.
#[utoipa::path(get, path = "/api/v1/trace", tag = "events", params(TraceQuery),
    responses((status = 200, description = "Its way.", body = TraceView)))]
async fn trace(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Query(query): Query<TraceQuery>,
) -> Answer<Json<TraceView>> {
    let event = event_at(&app, &caller, &query.stream, query.partition, query.offset).await?;
    // It is never closed.
    let _turn = TRACES.acquire().await;
    let present = app.runtime.project().await;
    let (mut names, mut left) = (Vec::new(), Vec::new());
    for (name, flow) in &present.flows {
        let reads = flow.spec.from.contains(&query.stream);
        let wanted = query.flow.as_ref().is_none_or(|only| only == name);
        if !reads || !wanted || rights::check_flow(&app.runtime, &caller, name).is_err() {
            continue;
        }
        match names.len() < TRACE_FLOWS_MAX {
            true => names.push(name.clone()),
            false => left.push(name.clone()),
        }
    }
    let mut letters = app.runtime.dead_letters_of(&event).await?;
    let mut then = Then::default();
    let (mut flows, mut searched, mut lineages) = (Vec::new(), 0, 0);
    for name in names {
        let (own, others) = letters.into_iter().partition(|letter| letter.flow == name);
        letters = others;
        let found = then
            .version_of(&app, &name, event.event.times()[0], query.version)
            .await?;
        let (info, project) = found;
        let mut view = FlowTraceView::new(name, &info, then.present, own);
        let traced = match rights::check_flow_of(&caller, &project, &view.flow) {
            Ok(()) => app.runtime.trace(&project, &view.flow, &event).await,
            Err(refusal) => Err(refusal.error().clone()),
        };
        match traced {
            Ok(traced) => {
                searched += traced.searched;
                view.add(traced, &caller);
            }
            Err(error) => view.error = Some(error),
        }
        if view.error.is_none() && lineages < TRACE_LINEAGES_MAX {
            match app.runtime.lineage(&project, &view.flow, &event).await {
                Ok(Some(lineage)) => {
                    lineages += 1;
                    searched += lineage.searched;
                    view.lineage = Some(lineage_view(lineage, &caller));
                }
                Ok(None) => {}
                // The way through the other steps is known all the same.
                Err(error) => view.lineage_error = Some(error),
            }
        }
        flows.push(view);
    }
    let (mut orchestrations, mut orchestrations_error) = (Vec::new(), None);
    if query.flow.is_none() && rights::check_all(&caller, "orchestrations").is_ok() {
        let (of, event) = (Arc::clone(&app), event.clone());
        let traced = blocking(move || of.orchestrations.trace(&event.stream, &event.event));
        // What flows make of it is known all the same.
        match traced.await {
            Ok(traced) => orchestrations.extend(traced.into_iter().map(TracedStartView::new)),
            Err(refusal) => orchestrations_error = Some(refusal.error().clone()),
        }
    }
    Ok(Json(TraceView {
        event: shown(&event),
        orchestrations,
        orchestrations_error,
        flows,
        flows_left: left,
        searched,
    }))
}

/// An event of a stream that the caller may read.
async fn event_at(
    app: &App,
    caller: &Principal,
    stream: &str,
    partition: u16,
    offset: u64,
) -> Answer<EventAt> {
    rights::check_stream(caller, stream)?;
    let known = app.bus.stream(stream);
    let known = known.ok_or_else(|| Refusal::unknown("server.unknown-stream", stream))?;
    let unknown = || {
        Refusal::unknown(
            "server.unknown-event",
            &format!("{stream}/{partition}/{offset}"),
        )
    };
    let partitions = known.partitions();
    let found = partitions.iter().find(|known| known.number() == partition);
    let found = Arc::clone(found.ok_or_else(unknown)?);
    if !(found.start()..found.end()).contains(&offset) {
        return Err(unknown());
    }
    let event = blocking(move || read_event(&found, offset)).await?;
    Ok(EventAt {
        stream: stream.to_owned(),
        partition,
        offset,
        event: event.ok_or_else(unknown)?,
    })
}

fn read_event(partition: &StreamPartition, offset: u64) -> Result<Option<Batch>, Error> {
    let chunks = partition.read(offset, SUBSCRIPTION_READ_BYTES)?;
    let mut chunks = chunks.into_iter();
    let chunk = chunks.find(|chunk| (chunk.base..chunk.end()).contains(&offset));
    Ok(chunk.map(|chunk| chunk.batch.slice((offset - chunk.base) as usize, 1)))
}

/// Versions of the project, as far as they were needed.
#[derive(Default)]
struct Then {
    projects: BTreeMap<u64, (VersionInfo, Arc<Project>)>,
    versions: Option<Vec<VersionInfo>>,
    /// The version that runs.
    present: u64,
}

impl Then {
    /// The version that a flow ran in at a time, or was first deployed in after it.
    async fn version_of(
        &mut self,
        app: &Arc<App>,
        flow: &str,
        micros: i64,
        wanted: Option<u64>,
    ) -> Answer<(VersionInfo, Arc<Project>)> {
        if self.versions.is_none() {
            let of = Arc::clone(app);
            self.versions = Some(blocking(move || of.deployer.history().list()).await?);
        }
        let versions = self.versions.iter().flatten();
        self.present = versions.clone().map(|info| info.version).max().unwrap_or(0);
        // Newest first.
        let before = versions.clone().find(|info| info.time_micros <= micros);
        let after = versions.rev().filter(|info| info.time_micros > micros);
        let candidates: Vec<u64> = match wanted {
            Some(version) => vec![version],
            None => before
                .into_iter()
                .chain(after)
                .map(|info| info.version)
                .collect(),
        };
        for version in candidates {
            let (info, project) = self.project(app, version).await?;
            if project.flows.contains_key(flow) {
                return Ok((info, project));
            }
        }
        Err(Refusal::unknown("server.unknown-flow", flow))
    }

    async fn project(
        &mut self,
        app: &Arc<App>,
        version: u64,
    ) -> Answer<(VersionInfo, Arc<Project>)> {
        if let Some(known) = self.projects.get(&version) {
            return Ok(known.clone());
        }
        let of = Arc::clone(app);
        let read = blocking(move || {
            let Version { info, files } = of.deployer.history().version(version)?;
            let (project, _) = Project::parse(Bundle { files });
            Ok((info, Arc::new(project)))
        })
        .await?;
        self.projects.insert(version, read.clone());
        Ok(read)
    }
}

impl TracedStartView {
    fn new(traced: TracedStart) -> TracedStartView {
        TracedStartView {
            orchestration: traced.orchestration,
            part: traced.part,
            key: traced.key,
            by: traced.by,
            status: traced.status.map(|status| status.as_str()),
            error: traced.error,
        }
    }
}

impl FlowTraceView {
    fn new(flow: String, info: &VersionInfo, present: u64, letters: Vec<DeadLetter>) -> Self {
        FlowTraceView {
            flow,
            version: info.version,
            version_time: time::text(info.time_micros),
            present,
            error: None,
            unread: None,
            steps: Vec::new(),
            outputs: Vec::new(),
            lineage: None,
            lineage_error: None,
            letters: letters.into_iter().map(TracedLetter::new).collect(),
        }
    }

    /// Of results the log has, those in streams that the caller may read.
    fn add(&mut self, traced: FlowTrace, caller: &Principal) {
        self.unread = traced.unread;
        self.steps = traced.steps.into_iter().map(step_view).collect();
        let outputs = traced.outputs.into_iter();
        self.outputs = outputs.map(|output| output_view(output, caller)).collect();
    }
}

impl TracedLetter {
    fn new(letter: DeadLetter) -> TracedLetter {
        TracedLetter {
            id: letter.id.to_string(),
            step: letter.place,
            code: letter.code,
            cause: letter.message,
            cause_zh: letter.message_zh,
            open: letter.closed.is_none(),
        }
    }
}

fn step_view(step: TracedStep) -> TracedStepView {
    TracedStepView {
        id: step.id,
        name: step.name,
        kind: step.kind,
        label: step.label,
        fate: step.fate.as_str(),
        before: step.before,
        before_rows: step.before_rows,
        after: step.after,
        after_rows: step.after_rows,
        cause: step.cause,
    }
}

fn lineage_view(lineage: Lineage, caller: &Principal) -> LineageView {
    let view = |result: LineageResult| {
        let made = result.event.as_ref();
        let made = made.map(|(event, place)| made_event(event, place.as_ref(), caller));
        let (event, found) = made.map_or((None, false), |(event, found)| (Some(event), found));
        LineageResultView {
            output: result.output,
            event,
            found,
            row: result.row,
            open: result.open,
            more: result.more,
            inputs: result.inputs.iter().map(shown).collect(),
        }
    };
    LineageView {
        results: lineage.results.into_iter().map(view).collect(),
        more: lineage.more,
        events: lineage.events,
        whole: lineage.whole,
    }
}

/// An event that a flow makes, and whether the log has it where the caller may read it.
fn made_event(event: &Batch, place: Option<&EventAt>, caller: &Principal) -> (Box<RawValue>, bool) {
    let nowhere = EventAt {
        stream: String::new(),
        partition: 0,
        offset: 0,
        event: event.clone(),
    };
    let place = place.filter(|at| caller.may_read_stream(&at.stream));
    (shown(place.unwrap_or(&nowhere)), place.is_some())
}

fn output_view(output: TracedOutput, caller: &Principal) -> TracedOutputView {
    let may_read = |at: &&EventAt| caller.may_read_stream(&at.stream);
    let made = output.events.iter().map(|(event, place)| {
        let (event, found) = made_event(event, place.as_ref(), caller);
        raw(format!("{{\"event\":{},\"found\":{found}}}", event.get()))
    });
    TracedOutputView {
        events: made.collect(),
        id: output.id,
        name: output.name,
        kind: output.kind,
        label: output.label,
        computed: output.computed,
        rows: output.rows,
        recorded: output.recorded.iter().filter(may_read).map(shown).collect(),
        cause: output.cause,
    }
}

/// An event as the API shows it.
fn shown(at: &EventAt) -> Box<RawValue> {
    let place = Place {
        stream: &at.stream,
        partition: at.partition,
        offset: at.offset,
    };
    let mut out = vec![b'{'];
    render::members(&mut out, &at.event, 0, at.event.payloads().value(0), place);
    out.push(b'}');
    raw(String::from_utf8(out).unwrap_or_default())
}

/// What was rendered, which is JSON.
fn raw(json: String) -> Box<RawValue> {
    RawValue::from_string(json).unwrap_or_default()
}

/// From where an event goes through a flow again.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Resend {
    /// The stream that holds the event.
    stream: String,
    /// The partition.
    partition: u16,
    /// The offset.
    offset: u64,
    /// The flow.
    flow: String,
    /// `event`: through the whole flow; `step:1`: the rows that this step was given go through it and those behind it;
    /// `to:0`: what this output took goes to it.
    from: String,
    /// The version of the project that computes what comes before; the one that ran at the time of the event when absent. What
    /// is behind is the flow as it runs.
    version: Option<u64>,
    /// With `event`: a payload in place of the event's own, as text.
    payload_text: Option<String>,
    /// The same in base64.
    payload_base64: Option<String>,
}

/// What was sent again.
#[derive(Serialize, utoipa::ToSchema)]
struct ResentView {
    /// Rows that went to outputs.
    sent: u64,
    /// Events that failed again and are dead letters.
    died: u64,
}

/// Resend an event from a step of a flow.
///
/// The flow as it runs works on the event, or on the rows that came to a step, once more, and its outputs get the results. A
/// flow with state takes whole events only. A whole event may have another payload; the stream keeps the event's own.
#[utoipa::path(post, path = "/api/v1/trace/resend", tag = "events", request_body = Resend,
    responses((status = 200, description = "What was sent.", body = ResentView)))]
async fn resend(
    State(app): State<Arc<App>>,
    actor: Actor,
    JsonBody(body): JsonBody<Resend>,
) -> Answer<Json<ResentView>> {
    super::flows::check_operate(&app, &actor.caller, &body.flow)?;
    let from = ResendFrom::parse(&body.from).ok_or_else(|| {
        Error::new(Class::Permanent, "server.bad-resend")
            .with("from", busbar_event::quote(&body.from))
    })?;
    let payload = edited_payload(body.payload_text, body.payload_base64)?;
    if payload.is_some() && from != ResendFrom::Event {
        return Err(Error::new(Class::Permanent, "server.resend-payload").into());
    }
    let mut event = event_at(
        &app,
        &actor.caller,
        &body.stream,
        body.partition,
        body.offset,
    )
    .await?;
    let edited = payload.is_some();
    if let Some(payload) = payload {
        event = event.with_payload(&payload)?;
    }
    let micros = event.event.times()[0];
    let (_, then) = Then::default()
        .version_of(&app, &body.flow, micros, body.version)
        .await?;
    let resent = app.runtime.resend(&then, &body.flow, &event, from).await?;
    let detail = [
        ("from", body.from),
        ("stream", body.stream),
        ("partition", body.partition.to_string()),
        ("offset", body.offset.to_string()),
        ("count", resent.sent.to_string()),
        ("edited", edited.to_string()),
    ];
    actor
        .record(&app, Action::EventResend, body.flow, &detail)
        .await;
    Ok(Json(ResentView {
        sent: resent.sent,
        died: resent.died,
    }))
}

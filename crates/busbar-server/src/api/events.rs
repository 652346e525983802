//! Publishing by POST, subscribing by server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use busbar_access::{Principal, Reach};
use busbar_event::topic::{self, Filter, Separator, TopicSpelling};
use busbar_event::{Class, Error};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Json, Query, blocking, content_type, read};
use crate::answer::{Answer, Refusal, retry_after, status_of};
use crate::app::App;
use crate::events::condition::Condition;
use crate::events::inlet::Outcome;
use crate::events::parse::{Common, Layout, Parsed, View};
use crate::events::position::Start;
use crate::events::render::{self, Place};
use crate::events::subscription::{Found, Subscription, Wanted};
use crate::guard::Caller;
use crate::lifecycle::stopped;
use crate::limits::{
    INLINE_BYTES_MAX, KEEP_ALIVE_SECONDS, POSITION_EACH_MAX, REJECTS_NAMED_MAX,
    SUBSCRIPTION_CHUNK_BYTES,
};
use crate::peer::Link;
use busbar_event::time;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(publish, subscribe))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Publish {
    /// Each document is a payload for this topic.
    topic: Option<String>,
    /// Keep the last event of each topic for those who subscribe later.
    #[serde(default)]
    retain: bool,
    /// The key of events that have none of their own.
    key: Option<String>,
    /// The time of events that have none of their own: RFC 3339, or microseconds since 1970.
    time: Option<String>,
    /// The quality of service of events that do not say theirs: 0, 1 (as when absent) or 2.
    #[param(value_type = Option<i32>, minimum = 0, maximum = 2)]
    qos: Option<u8>,
}

/// What became of the events of a request.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Published {
    /// Events that are stored, as durable as `durability` says.
    accepted: usize,
    /// Events that are not, the first thousand of them.
    rejected: Vec<Rejected>,
    /// How many are not.
    rejected_count: usize,
    /// What "stored" means: `fsync` (on disk) or `memory` (a power cut may take them).
    durability: &'static str,
}

/// No event was stored.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is put together by hand")]
struct NotPublished {
    /// Why the first one was not, or the whole request.
    error: crate::problem::Problem,
    /// None; absent when the request was not read as far as its events.
    accepted: Option<usize>,
    /// All events, the first thousand of them.
    rejected: Option<Vec<Rejected>>,
    /// How many there are.
    rejected_count: Option<usize>,
    /// What "stored" would have meant.
    durability: Option<String>,
}

/// An event that was not stored.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Rejected {
    /// Its place in the request, from 0.
    index: usize,
    /// The name of the reason.
    code: &'static str,
    /// The reason in English.
    message: String,
    /// The reason in Chinese.
    message_zh: String,
    /// True when the same event may be accepted later.
    retry: bool,
}

/// An event to publish.
#[derive(Deserialize, utoipa::ToSchema)]
#[expect(dead_code, reason = "describes a body that is scanned by hand")]
struct EventIn {
    /// Where it belongs, such as `meter/m1/reading`.
    topic: String,
    /// What keeps it in order with others of the same key.
    key: Option<String>,
    /// When it happened: RFC 3339, or microseconds since 1970. Now, when absent.
    time: Option<Moment>,
    /// Names and values.
    tags: Option<std::collections::BTreeMap<String, String>>,
    /// Any JSON. A string stands for its text, everything else for its JSON, digit by digit.
    #[schema(value_type = serde_json::Value, required = false)]
    payload: Option<serde_json::Value>,
    /// Bytes, instead of `payload`.
    payload_base64: Option<String>,
    /// Keep it as the last event of its topic.
    retain: Option<bool>,
    /// Quality of service at which MQTT subscribers get it: 0, 1 (as when absent) or 2.
    qos: Option<u8>,
}

/// A time: RFC 3339, or microseconds since 1970.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes what is scanned by hand")]
enum Moment {
    Micros(i64),
    Text(String),
}

/// Publish events.
///
/// The body is one event, an array of them, or one a line (NDJSON); of any other content type it is one
/// payload for the topic in the query. It may be compressed (`Content-Encoding: gzip`). A header
/// `Busbar-Tag-NAME` sets the tag `name` of all its events. The answer comes when they are committed.
/// What is wrong with one event does not harm the others: it is named by its index.
#[utoipa::path(
    post, path = "/api/v1/events", tag = "events", params(Publish),
    request_body(content(
        (EventIn = "application/json"),
        (String = "application/x-ndjson"),
        (Vec<u8> = "application/octet-stream"),
    )),
    responses(
        (status = 200, description = "At least one event is stored.", body = Published),
        (status = 400, description = "None is; `rejected` says why.", body = NotPublished),
        (status = 429, description = "None is: too fast; see Retry-After.", body = NotPublished),
        (status = 503, description = "None is, for now; see Retry-After.", body = NotPublished),
        (status = 507, description = "None is; the disk is full.", body = NotPublished),
    )
)]
async fn publish(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    link: Link,
    Query(query): Query<Publish>,
    request: Request,
) -> Answer<Response> {
    let kind = content_type(request.headers());
    let layout = match &*kind {
        "" | "application/json" => Layout::Json,
        "application/x-ndjson"
        | "application/ndjson"
        | "application/jsonl"
        | "application/x-jsonlines" => Layout::Lines,
        kind if kind.ends_with("+json") => Layout::Json,
        _ => Layout::Raw,
    };
    let raw = layout == Layout::Raw && kind != "application/octet-stream";
    let common = Common {
        topic: topic_of(query.topic, request.headers(), &app, caller.name())?,
        key: query.key,
        time: moment("time", query.time.as_deref())?,
        tags: header_tags(request.headers())?,
        content_type: raw.then_some(kind),
        reserved: Vec::new(),
        retain: query.retain,
        qos: query.qos.unwrap_or(1),
    };
    let body = read(request.into_body()).await?;
    // Parsing a large body takes milliseconds and must not block this thread.
    let parsed = if body.len() > INLINE_BYTES_MAX {
        blocking(move || Parsed::new(body, layout, common)).await?
    } else {
        Parsed::new(body, layout, common)?
    };
    let outcome = take(&app, &caller, &link, parsed).await?;
    Ok(answer(outcome))
}

/// The topic of a request: in the query, in the header `Busbar-Topic`, or in `Busbar-Topic-Binary`, which is base64 of levels
/// that each carry their length. It may be spelled as the node's settings allow.
fn topic_of(
    query: Option<String>,
    headers: &HeaderMap,
    app: &App,
    user: &str,
) -> Result<Option<String>, Error> {
    const TEXT: &str = "busbar-topic";
    const BINARY: &str = "busbar-topic-binary";
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(bytes) = header(BINARY) {
        let wrong = || Error::new(Class::Permanent, "server.topic-header").with("header", BINARY);
        let bytes = STANDARD.decode(bytes).map_err(|_| wrong())?;
        return topic::from_binary(&bytes)
            .map(Some)
            .map_err(|e| wrong().caused_by(e));
    }
    let Some(given) = query.or_else(|| header(TEXT).map(str::to_owned)) else {
        return Ok(None);
    };
    let http = &app.config.http;
    let spelling = TopicSpelling::new(&http.topic_separators, &http.topic_template)?;
    if spelling == TopicSpelling::default() {
        return Ok(Some(given));
    }
    Ok(Some(spelling.inward(&given, user, user)?.into_owned()))
}

/// Reads a time of the query, RFC 3339 or microseconds since 1970, into microseconds since 1970.
pub(super) fn moment(name: &str, text: Option<&str>) -> Result<Option<i64>, Error> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    time::parse(text)
        .or_else(|| text.parse().ok())
        .filter(|micros| time::is_written(*micros))
        .map(Some)
        .ok_or_else(|| bad_field(name))
}

/// Tags that come as headers. Names of headers have no capitals.
fn header_tags(headers: &HeaderMap) -> Result<Vec<(String, String)>, Error> {
    let mut tags = Vec::new();
    for (name, value) in headers {
        let Some(tag) = name.as_str().strip_prefix("busbar-tag-") else {
            continue;
        };
        let value = std::str::from_utf8(value.as_bytes()).map_err(|_| bad_field(name.as_str()))?;
        tags.push((tag.to_owned(), value.to_owned()));
    }
    Ok(tags)
}

fn bad_field(name: &str) -> Error {
    Error::new(Class::Permanent, "server.bad-field").with("field", name)
}

/// Publishes the events that the caller may publish and waits for the commit.
pub(crate) async fn take(
    app: &App,
    caller: &Principal,
    link: &Link,
    mut parsed: Parsed,
) -> Answer<Outcome> {
    let rate = app.config.limits.publish_rate;
    link.admit_events(parsed.count(), rate).map_err(|seconds| {
        Error::new(Class::Transient, "server.publish-rate")
            .with("rate", rate)
            .with("seconds", seconds)
    })?;
    if !caller.is_unrestricted() {
        caller.require_publish()?;
        let mut last: Option<(String, bool)> = None;
        parsed.retain(|view: &View<'_>| {
            let allowed = match &last {
                Some((topic, allowed)) if topic == view.topic => *allowed,
                _ => {
                    let allowed = caller.may_publish(view.topic, app.bus.home(view.topic).name());
                    last = Some((view.topic.to_owned(), allowed));
                    allowed
                }
            };
            if allowed {
                return Ok(());
            }
            Err(Error::new(Class::Permanent, "access.publish-denied")
                .with("topic", busbar_event::quote(view.topic)))
        });
    }
    let client: Arc<str> = format!("http:{}", caller.name()).into();
    Ok(app.inlet.publish(parsed, client).await?)
}

/// The outcome in the form of the API.
pub(crate) fn published(outcome: Outcome) -> Published {
    let rejected_count = outcome.rejected.len();
    Published {
        accepted: outcome.accepted,
        rejected: outcome
            .rejected
            .into_iter()
            .take(REJECTS_NAMED_MAX)
            .map(|(index, error)| Rejected {
                index,
                code: error.code(),
                message: error.message(busbar_event::Language::En),
                message_zh: error.message(busbar_event::Language::Zh),
                retry: error.class() == Class::Transient,
            })
            .collect(),
        rejected_count,
        durability: if outcome.memory { "memory" } else { "fsync" },
    }
}

/// The response to a publish: an error with the status of the first rejection when nothing was stored,
/// else a success that lists the rejected events.
fn answer(outcome: Outcome) -> Response {
    let failed = match outcome.rejected.first() {
        Some((_, error)) if outcome.accepted == 0 => {
            Some((status_of(error), retry_after(error), error.clone()))
        }
        _ => None,
    };
    let published = published(outcome);
    let Some((status, retry, error)) = failed else {
        return Json(published).into_response();
    };
    #[derive(Serialize)]
    struct Failed {
        error: Error,
        #[serde(flatten)]
        published: Published,
    }
    let status = match error.code() {
        "access.publish-denied" => StatusCode::FORBIDDEN,
        _ => status,
    };
    let mut response = (status, Json(Failed { error, published })).into_response();
    if let Some(seconds) = retry {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subscribe {
    /// Topic filter with MQTT wildcards; all topics when absent.
    filter: Option<String>,
    /// Only this stream.
    stream: Option<String>,
    /// Only events with this text in topic, key, tags or payload. ASCII letters match in either case.
    text: Option<String>,
    /// Only events with this key.
    key: Option<String>,
    /// Only events with this tag: `name` or `name=value`.
    tag: Option<String>,
    /// Where to start: `now`, `earliest`, `last:N`, an RFC 3339 time, an offset, or the id of an event
    /// received earlier. The header `Last-Event-ID` takes precedence.
    from: Option<String>,
    /// Only events before this time; the subscription ends when the log has been read up to a later time.
    until: Option<String>,
}

/// Subscribe to events.
///
/// Server-sent events of kind `event` with one event as JSON in `data`. An event of kind `gap` reports
/// events that retention or damage took. The `id` is the position to resume from. A slow reader lags
/// behind; no event is dropped. A filter behind `$as/_/` or `$as/*/` asks for topics with this separator.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "events", params(Subscribe),
    responses((status = 200, description = "The events, for as long as the connection lasts.",
        body = super::views::EventView, content_type = "text/event-stream"))
)]
async fn subscribe(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Query(query): Query<Subscribe>,
    headers: HeaderMap,
) -> Answer<Response> {
    // A position contains stream names, which need not be ASCII; browsers send an id as UTF-8.
    let resumed = headers
        .get("last-event-id")
        .map(|id| std::str::from_utf8(id.as_bytes()).unwrap_or("?"));
    let from = resumed.or(query.from.as_deref()).unwrap_or("now");
    let start = Start::parse(from, app.bus.clock().now_micros())?;
    let wake = Arc::new(Notify::new());
    let until = moment("until", query.until.as_deref())?;
    let condition = Condition::new(
        query.text.as_deref(),
        query.key.as_deref(),
        query.tag.as_deref(),
    )?;
    let (separator, filter) = query.filter.as_deref().map(topic::spelled).unzip();
    let wanted = Wanted {
        filter: filter.map(Filter::parse).transpose()?,
        stream: query.stream,
        condition: condition.between(None, until),
    };
    let (subscription, permit) = open_wanted(&app, &caller, wanted, start, wake.clone()).await?;
    let feed = Feed {
        app,
        caller,
        subscription,
        wake,
        epoch: 0,
        _permit: permit,
        until,
        separator: separator.flatten(),
        told: None,
        quiet: Instant::now(),
        over: false,
    };
    let stream = futures::stream::unfold(feed, |mut feed| async {
        let chunk = feed.next().await?;
        Some((Ok::<_, Infallible>(chunk), feed))
    });
    Ok((
        [
            (header::CONTENT_TYPE, "text/event-stream"),
            (header::CACHE_CONTROL, "no-store"),
            super::UNBUFFERED,
        ],
        Body::from_stream(stream),
    )
        .into_response())
}

/// Opens a subscription for a caller; fails when the node has too many.
pub(crate) async fn open(
    app: &App,
    caller: &Principal,
    filter: Option<&str>,
    stream: Option<String>,
    start: Start,
    wake: Arc<Notify>,
) -> Answer<(Subscription, OwnedSemaphorePermit)> {
    let wanted = Wanted {
        filter: filter.map(Filter::parse).transpose()?,
        stream,
        condition: Condition::default(),
    };
    open_wanted(app, caller, wanted, start, wake).await
}

/// The same for any condition on events.
pub(super) async fn open_wanted(
    app: &App,
    caller: &Principal,
    wanted: Wanted,
    start: Start,
    wake: Arc<Notify>,
) -> Answer<(Subscription, OwnedSemaphorePermit)> {
    check_reach(caller, wanted.filter.as_ref())?;
    let permit = app
        .http
        .subscriptions
        .clone()
        .try_acquire_owned()
        .map_err(|_| {
            Refusal::from(Error::new(
                Class::Transient,
                "server.too-many-subscriptions",
            ))
        })?;
    let subscription = Subscription::open(&app.bus, caller.clone(), wanted, start, wake).await?;
    Ok((subscription, permit))
}

/// Refuses a topic filter of which the caller may receive nothing.
pub(super) fn check_reach(caller: &Principal, filter: Option<&Filter>) -> Answer<()> {
    if let Some(filter) = filter
        && caller.may_subscribe(filter) == Reach::None
    {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            Error::new(Class::Permanent, "access.subscribe-denied").with("filter", filter),
        ));
    }
    Ok(())
}

/// A subscription that is written to one connection.
struct Feed {
    app: Arc<App>,
    caller: Principal,
    subscription: Subscription,
    wake: Arc<Notify>,
    /// Version of the access rules that were checked last.
    epoch: u64,
    _permit: OwnedSemaphorePermit,
    /// Time before which events match, in microseconds since 1970.
    until: Option<i64>,
    /// What separates the levels of topics that are sent.
    separator: Option<Separator>,
    /// The position sent last, from which the reader would resume; `None` before the first message.
    told: Option<String>,
    /// When the next keep-alive is due.
    quiet: Instant,
    /// Set after an error, which is the last message.
    over: bool,
}

impl Feed {
    /// The next bytes of the response; `None` ends it. Called when the connection has sent the
    /// bytes before.
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let mut out = Vec::new();
        if self.told.is_none() {
            // Sent first, so that a reader that is cut off before its first event can resume.
            out.extend_from_slice(b": busbar\nretry: 1000\n");
            self.tell_position(&mut out);
            return Some(self.done(out));
        }
        let stop = self.app.lifecycle.stop.clone();
        loop {
            if !self.still_allowed() || *stop.borrow() {
                return None;
            }
            match self.subscription.poll().await {
                Ok(Some(found)) => {
                    self.write(&mut out, found);
                    if out.len() < SUBSCRIPTION_CHUNK_BYTES && Instant::now() < self.quiet {
                        continue;
                    }
                    if out.is_empty() {
                        // Much is read and nothing matches.
                        return Some(self.keep_alive());
                    }
                }
                Ok(None) => {
                    let now = self.app.bus.clock().now_micros();
                    if out.is_empty() && self.until.is_some_and(|until| now >= until) {
                        return None;
                    }
                }
                Err(error) => {
                    // The reader reconnects and resumes from its position.
                    self.over = true;
                    let json = serde_json::to_vec(&error).unwrap_or_default();
                    write_message(&mut out, "error", ("", None, ""), &json);
                    return Some(self.done(out));
                }
            }
            if !out.is_empty() {
                return Some(self.done(out));
            }
            tokio::select! {
                () = self.wake.notified() => {}
                // A fixed time: events of other topics must not postpone it.
                () = tokio::time::sleep_until(self.quiet) => return Some(self.keep_alive()),
                () = stopped(stop.clone()) => return None,
            }
        }
    }

    /// A comment, which keeps proxies and browsers from closing the connection.
    fn keep_alive(&mut self) -> Bytes {
        let mut out = b": \n".to_vec();
        self.tell_position(&mut out);
        // An open connection counts as use of its session, which is renewed by the next check.
        self.epoch = 0;
        self.done(out)
    }

    fn done(&mut self, out: Vec<u8>) -> Bytes {
        self.quiet = Instant::now() + Duration::from_secs(KEEP_ALIVE_SECONDS);
        out.into()
    }

    /// Appends the position when it has changed since it was sent last: many events that do not
    /// match may have been read since.
    fn tell_position(&mut self, out: &mut Vec<u8>) {
        let position = self.subscription.position();
        if !position.is_empty() && self.told.as_ref() != Some(&position) {
            out.extend_from_slice(b"id: ");
            out.extend_from_slice(position.as_bytes());
            out.push(b'\n');
        }
        out.push(b'\n');
        self.told = Some(position);
    }

    fn still_allowed(&mut self) -> bool {
        let epoch = self.app.access.epoch();
        if self.epoch != epoch {
            self.epoch = epoch;
            let Some(caller) = self.app.access.current(&self.caller) else {
                return false;
            };
            self.subscription.set_principal(caller.clone());
            self.caller = caller;
        }
        true
    }

    fn write(&mut self, out: &mut Vec<u8>, found: Found) {
        let mut json = Vec::new();
        match found {
            Found::Gap {
                stream,
                partition,
                gap,
            } => {
                json.extend_from_slice(&gap_json(stream.name(), partition, &gap));
                let position = self.subscription.position();
                write_message(out, "gap", (&*position, None, ""), &json);
                self.told = Some(position);
            }
            Found::Events {
                stream,
                partition,
                base,
                batch,
                rows,
            } => {
                let payloads = batch.payloads();
                let each = self.subscription.partitions() <= POSITION_EACH_MAX;
                let position = self.subscription.position();
                let here = format!("{}/{partition}@", stream.name());
                let (before, after) = around(&position, &here);
                let last = rows.last().copied();
                self.app.http.delivered.add(rows.len());
                for row in rows {
                    let place = Place {
                        stream: stream.name(),
                        partition,
                        offset: base + u64::from(row),
                    };
                    json.clear();
                    json.push(b'{');
                    let topic = batch.topic(row as usize);
                    let spelled = self.separator.map(|separator| separator.outward(topic));
                    // A topic that cannot be written so is sent as it is.
                    let spelled = spelled.and_then(Result::ok);
                    render::members_spelled(
                        &mut json,
                        spelled.as_deref().unwrap_or(topic),
                        &batch,
                        row as usize,
                        payloads.value(row as usize),
                        place,
                    );
                    json.push(b'}');
                    let id = if Some(row) == last {
                        (&*position, None, "")
                    } else if each {
                        (before, Some(place.offset + 1), after)
                    } else {
                        ("", None, "")
                    };
                    write_message(out, "event", id, &json);
                }
                self.told = Some(position);
            }
        }
    }
}

/// The parts before and after the offset of the partition `here` in the text of all positions.
fn around<'a>(position: &'a str, here: &str) -> (&'a str, &'a str) {
    let mut start = 0;
    for part in position.split(',') {
        let end = start + part.len();
        if part.starts_with(here) {
            return (&position[..start + here.len()], &position[end..]);
        }
        start = end + 1;
    }
    (position, "")
}

/// A gap as JSON.
pub(crate) fn gap_json(stream: &str, partition: u16, gap: &busbar_bus::Gap) -> Vec<u8> {
    #[derive(Serialize)]
    struct View<'a> {
        stream: &'a str,
        partition: u16,
        from: u64,
        resume: u64,
        error: &'a Error,
    }
    let view = View {
        stream,
        partition,
        from: gap.from,
        resume: gap.resume,
        error: &gap.cause,
    };
    serde_json::to_vec(&view).unwrap_or_default()
}

/// Appends a message. Its id is given in three parts, so that no text is built for each event.
pub(super) fn write_message(
    out: &mut Vec<u8>,
    kind: &str,
    (before, offset, after): (&str, Option<u64>, &str),
    json: &[u8],
) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(kind.as_bytes());
    if !before.is_empty() {
        out.extend_from_slice(b"\nid: ");
        out.extend_from_slice(before.as_bytes());
        if let Some(offset) = offset {
            // Writing to a vector cannot fail.
            let _ = std::io::Write::write_fmt(out, format_args!("{offset}"));
        }
        out.extend_from_slice(after.as_bytes());
    }
    out.extend_from_slice(b"\ndata: ");
    out.extend_from_slice(json);
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_position_with_the_offset_of_one_partition() {
        let position = "a/0@7,ab/0@1,ab/10@3";
        for (here, expected) in [
            ("a/0@", "a/0@9,ab/0@1,ab/10@3"),
            ("ab/0@", "a/0@7,ab/0@9,ab/10@3"),
            ("ab/10@", "a/0@7,ab/0@1,ab/10@9"),
        ] {
            let (before, after) = around(position, here);
            let mut out = Vec::new();
            write_message(&mut out, "event", (before, Some(9), after), b"{}");
            let text = String::from_utf8(out).unwrap();
            assert_eq!(
                text,
                format!("event: event\nid: {expected}\ndata: {{}}\n\n")
            );
        }
    }
}

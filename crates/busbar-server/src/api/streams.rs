//! Streams: their settings, state and events.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use busbar_access::Principal;
use busbar_bus::Stream;
use busbar_event::topic::Filter;
use busbar_event::{Class, Error};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::views::{EventView, Field, fields};
use super::{Json, Path, Query, blocking, json_bytes};
use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::events::position::{self, Start};
use crate::events::render::{self, Place};
use crate::events::subscription::{Wanted, last, matching};
use crate::guard::Caller;
use crate::limits::{
    PAGE_BYTES_MAX, PAGE_EVENTS_MAX, PAGE_SCAN_EVENTS_MAX, SUBSCRIPTION_READ_BYTES,
};
use crate::picture::{StreamSummary, stream_summary};
use crate::rights;
use busbar_event::format::write_json_text;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(one))
        .routes(routes!(events))
}

/// Streams.
#[derive(Serialize, utoipa::ToSchema)]
struct Streams {
    /// By name.
    streams: Vec<StreamSummary>,
}

/// A stream.
#[derive(Serialize, utoipa::ToSchema)]
struct StreamDetail {
    #[serde(flatten)]
    summary: StreamSummary,
    /// Its settings, as in its file.
    #[schema(value_type = Object)]
    spec: serde_json::Value,
    /// Oldest offset, of the first partition.
    start: u64,
    /// Next offset, of the first partition.
    end: u64,
    /// Each partition.
    #[serde(rename = "partition_list")]
    partition_list: Vec<PartitionView>,
    /// Columns that queries see.
    schema: Vec<Field>,
    /// Places that cannot be read.
    damage: Vec<DamageView>,
    /// Bytes that came in during the last second.
    bytes_rate: u64,
}

/// A partition.
#[derive(Serialize, utoipa::ToSchema)]
struct PartitionView {
    /// Its number.
    index: u16,
    /// Oldest offset that is kept.
    start: u64,
    /// Next offset.
    end: u64,
    /// Bytes on disk.
    bytes: u64,
}

/// A place in a file that cannot be read.
#[derive(Serialize, utoipa::ToSchema)]
struct DamageView {
    /// Partition it belongs to.
    partition: u16,
    /// The file.
    file: String,
    /// Byte at which it begins.
    offset: u64,
    /// How long it is.
    bytes: u64,
    /// What is wrong.
    why: String,
}

/// List the streams.
#[utoipa::path(get, path = "/api/v1/streams", tag = "streams",
    responses((status = 200, description = "The streams.", body = Streams)))]
async fn list(State(app): State<Arc<App>>, Caller(caller): Caller) -> Json<Streams> {
    let mut streams = summaries(&app);
    streams.retain(|stream| caller.may_read_stream(&stream.name));
    Json(Streams { streams })
}

/// The state of all streams.
pub(crate) fn summaries(app: &App) -> Vec<StreamSummary> {
    app.bus
        .streams()
        .iter()
        .map(|stream| stream_summary(stream))
        .collect()
}

/// One stream.
#[utoipa::path(get, path = "/api/v1/streams/{name}", tag = "streams",
    params(("name" = String, Path, description = "The stream's name.")),
    responses((status = 200, description = "The stream.", body = StreamDetail)))]
async fn one(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
) -> Answer<Json<StreamDetail>> {
    rights::check_stream(&caller, &name)?;
    let stream = find(&app, &name)?;
    blocking(move || {
        let partitions = stream.partitions();
        let spec = serde_json::to_value(&*stream.spec()).map_err(|cause| {
            Error::new(Class::Permanent, "server.unwritable-answer").with("why", cause)
        })?;
        let mut damage = Vec::new();
        for partition in partitions.iter() {
            damage.extend(partition.damage().into_iter().map(|place| DamageView {
                partition: partition.number(),
                file: place.file.display().to_string(),
                offset: place.position,
                bytes: place.bytes,
                why: place.why.to_owned(),
            }));
        }
        Ok(StreamDetail {
            summary: stream_summary(&stream),
            spec,
            start: partitions.first().map_or(0, |partition| partition.start()),
            end: partitions.first().map_or(0, |partition| partition.end()),
            partition_list: partitions
                .iter()
                .map(|partition| PartitionView {
                    index: partition.number(),
                    start: partition.start(),
                    end: partition.end(),
                    bytes: partition.bytes(),
                })
                .collect(),
            schema: fields(&*stream.relation_schema()?),
            damage,
            bytes_rate: stream.counters().bytes_per_second,
        })
    })
    .await
    .map(Json)
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Page {
    /// Where to begin: `earliest` (as when absent), `last:N`, an RFC 3339 time, an offset, or `next` of
    /// the page before.
    from: Option<String>,
    /// Most events to return; at most 1000, 100 when absent.
    limit: Option<usize>,
    /// Only topics that match.
    filter: Option<String>,
    /// Only this partition.
    partition: Option<u16>,
}

/// A page of events.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is rendered by hand")]
struct Events {
    /// In order, partition by partition.
    events: Vec<EventView>,
    /// Where the next page begins.
    next: String,
    /// Whether this page reached the end of the stream.
    end: bool,
}

const PAGE_EVENTS_DEFAULT: usize = 100;

/// Read a page of a stream's events.
#[utoipa::path(get, path = "/api/v1/streams/{name}/events", tag = "streams",
    params(("name" = String, Path, description = "The stream's name."), Page),
    responses((status = 200, description = "The events.", body = Events)))]
async fn events(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path,
    Query(query): Query<Page>,
) -> Answer<Response> {
    rights::check_stream(&caller, &name)?;
    let stream = find(&app, &name)?;
    let from = query.from.as_deref().unwrap_or("earliest");
    let start = Start::parse(from, app.bus.clock().now_micros())?;
    let filter = match &query.filter {
        Some(text) => Some(Filter::parse(text)?),
        None => None,
    };
    let limit = query
        .limit
        .unwrap_or(PAGE_EVENTS_DEFAULT)
        .clamp(1, PAGE_EVENTS_MAX);
    let wanted = Wanted {
        filter,
        stream: Some(name),
        ..Wanted::default()
    };
    let body = blocking(move || page(&stream, &wanted, &start, limit, query.partition)).await?;
    Ok(json_bytes(body))
}

fn page(
    stream: &Stream,
    wanted: &Wanted,
    start: &Start,
    limit: usize,
    only: Option<u16>,
) -> Result<Vec<u8>, Error> {
    let partitions = stream.partitions();
    let mut out = b"{\"events\":[".to_vec();
    let (mut found, mut scanned) = (0, 0);
    let mut positions = Vec::new();
    let mut all = true;
    // The right to read the stream was checked before; the rules for live events do not apply.
    let reader = Principal::local();
    let rows_of = |batch: &busbar_event::Batch| matching(batch, wanted, &reader, stream.name());
    for partition in partitions.iter() {
        if only.is_some_and(|only| only != partition.number()) {
            continue;
        }
        let mut at = match start {
            Start::Now => partition.end(),
            Start::Earliest => partition.start(),
            Start::Last(count) => last(partition, (*count).min(limit), rows_of)?
                .first()
                .map_or(partition.end(), |(_, offset)| *offset),
            Start::Time(micros) => partition.first_at_time(*micros)?,
            Start::Offset(offset) => (*offset).max(partition.start()),
            Start::Positions(positions) => positions
                .iter()
                .find(|(name, number, _)| name == stream.name() && *number == partition.number())
                .map_or(partition.start(), |(_, _, offset)| *offset),
        };
        let end = partition.end();
        'partition: while at < end {
            if found >= limit || scanned >= PAGE_SCAN_EVENTS_MAX || out.len() >= PAGE_BYTES_MAX {
                all = false;
                break;
            }
            let chunks = partition.read(at, SUBSCRIPTION_READ_BYTES)?;
            if chunks.is_empty() {
                break;
            }
            for chunk in chunks {
                let payloads = chunk.batch.payloads();
                for row in rows_of(&chunk.batch) {
                    let offset = chunk.base + u64::from(row);
                    if offset < at {
                        continue;
                    }
                    if found >= limit || out.len() >= PAGE_BYTES_MAX {
                        at = offset;
                        continue 'partition;
                    }
                    out.extend_from_slice(if found == 0 { b"{" } else { b",{" });
                    found += 1;
                    let place = Place {
                        stream: stream.name(),
                        partition: partition.number(),
                        offset,
                    };
                    render::members(
                        &mut out,
                        &chunk.batch,
                        row as usize,
                        payloads.value(row as usize),
                        place,
                    );
                    out.push(b'}');
                }
                scanned += chunk.end() - at.max(chunk.base);
                at = chunk.end();
            }
        }
        positions.push((stream.name(), partition.number(), at));
    }
    out.extend_from_slice(b"],\"next\":");
    write_json_text(&position::write(positions.into_iter()), &mut out);
    out.extend_from_slice(if all {
        b",\"end\":true}"
    } else {
        b",\"end\":false}"
    });
    Ok(out)
}

fn find(app: &App, name: &str) -> Answer<Arc<Stream>> {
    app.bus
        .stream(name)
        .ok_or_else(|| Refusal::unknown("server.unknown-stream", name))
}

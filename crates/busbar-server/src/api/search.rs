//! Searching streams for events: a bounded part of the log per request, so that a client can show how
//! far the search is and stop it at any time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::Response;
use busbar_access::Principal;
use busbar_bus::{Cursor, Item, Stream, StreamPartition};
use busbar_event::topic::Filter;
use busbar_event::{Batch, Class, Error};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::events::{check_reach, moment};
use super::views::EventView;
use super::{Query, json_bytes};
use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::events::condition::Condition;
use crate::events::field::{FieldFinder, FieldWanted};
use crate::events::position::{self, Start};
use crate::events::render::{self, Place};
use crate::events::subscription::{Wanted, matching};
use crate::guard::Caller;
use crate::limits::{
    SEARCH_BYTES_MAX, SEARCH_EVENTS_DEFAULT, SEARCH_EVENTS_MAX, SEARCH_MILLISECONDS_MAX,
    SEARCH_SCAN_EVENTS_MAX, SEARCH_WINDOW_EVENTS_MAX, SUBSCRIPTION_READ_BYTES,
};
use crate::rights;
use busbar_event::format::write_json_text;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(search))
}

/// The order of the events found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
enum Order {
    /// Newest first.
    #[default]
    Newest,
    /// Oldest first.
    Oldest,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct SearchQuery {
    /// Only this stream; all streams but internal ones when absent.
    stream: Option<String>,
    /// Topic filter with MQTT wildcards; all topics when absent.
    filter: Option<String>,
    /// A text in topic, key, tags or payload. ASCII letters match in either case.
    text: Option<String>,
    /// The exact key.
    key: Option<String>,
    /// A tag: `name` or `name=value`.
    tag: Option<String>,
    /// A value within the payload: a path as columns have it, `=`, and the value, such as `PID.3.1=10023` for messages of HL7 or
    /// `patient.id=7` for JSON. Of a list one element is enough. Streams whose format has no such path have no such events.
    field: Option<String>,
    /// Earliest time: RFC 3339, or microseconds since 1970.
    since: Option<String>,
    /// First time that is not searched: RFC 3339, or microseconds since 1970.
    until: Option<String>,
    /// `newest` first (the default) or `oldest` first.
    #[serde(default)]
    #[param(inline)]
    order: Order,
    /// Where to go on: `next` of the answer before; or, with `oldest`, an offset of each partition.
    from: Option<String>,
    /// Number of events to return at most: 100 by default, 1000 at the most.
    limit: Option<usize>,
}

/// What one step of a search found.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is rendered by hand")]
struct SearchResult {
    /// The events found, in the order asked for within each partition.
    events: Vec<EventView>,
    /// Where to go on.
    next: String,
    /// True when everything has been searched.
    end: bool,
    /// Events read in this step.
    scanned: u64,
    /// Events that are still to be read.
    remaining: u64,
    /// Events in the searched part that retention or damage took.
    unreadable: u64,
}

/// Search events.
///
/// Each request reads a part of the log, bounded in events, bytes and time, and returns what matches in it.
/// To go on, repeat the request with `from` set to `next` until `end` is true. To stop, do not repeat it.
#[utoipa::path(get, path = "/api/v1/search", tag = "events", params(SearchQuery),
    responses((status = 200, description = "The events found in this step.", body = SearchResult)))]
async fn search(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Query(query): Query<SearchQuery>,
) -> Answer<Response> {
    let since = moment("since", query.since.as_deref())?;
    let until = moment("until", query.until.as_deref())?;
    let condition = Condition::new(
        query.text.as_deref(),
        query.key.as_deref(),
        query.tag.as_deref(),
    )?;
    let wanted = Wanted {
        filter: query.filter.as_deref().map(Filter::parse).transpose()?,
        stream: query.stream,
        condition: condition.between(since, until),
    };
    check_reach(&caller, wanted.filter.as_ref())?;
    if let Some(name) = &wanted.stream {
        rights::check_stream(&caller, name)?;
    }
    let streams = match &wanted.stream {
        Some(name) => vec![
            app.bus
                .stream(name)
                .ok_or_else(|| Refusal::unknown("server.unknown-stream", name))?,
        ],
        None => app
            .bus
            .streams()
            .iter()
            .filter(|stream| !stream.is_internal() && caller.may_read_stream(stream.name()))
            .cloned()
            .collect(),
    };
    let from = match &query.from {
        Some(text) => match Start::parse(text, 0)? {
            start @ (Start::Positions(_) | Start::Offset(_)) => Some(start),
            _ => {
                return Err(Error::new(Class::Permanent, "server.bad-search-from")
                    .with("from", busbar_event::quote(text))
                    .into());
            }
        },
        None => None,
    };
    let order = query.order;
    let field = query.field.as_deref().filter(|field| !field.is_empty());
    let field = field.map(FieldWanted::parse).transpose()?;
    let is_one = wanted.stream.is_some();
    let parts = super::blocking(move || {
        let mut parts = Vec::new();
        for stream in streams {
            for partition in stream.partitions().iter() {
                let finder = match field.as_ref().map(|field| finder(field, &stream)) {
                    Some(Err(error)) if is_one => return Err(error),
                    Some(Err(_)) => continue,
                    Some(Ok(finder)) => Some(finder),
                    None => None,
                };
                let mut part = Part::new(&stream, partition, order, since, from.as_ref())?;
                part.finder = finder;
                parts.push(part);
            }
        }
        Ok(parts)
    })
    .await?;
    let limit = query
        .limit
        .unwrap_or(SEARCH_EVENTS_DEFAULT)
        .clamp(1, SEARCH_EVENTS_MAX);
    let mut step = Step {
        wanted,
        caller: caller.clone(),
        order,
        limit,
        parts,
        events: Vec::new(),
        bytes: 0,
        scanned: 0,
        unreadable: 0,
    };
    step.run().await?;
    Ok(json_bytes(step.answer()))
}

/// Finds a value in the payloads of a stream.
///
/// # Errors
/// `server.search-path`: they have no such path.
fn finder(field: &FieldWanted, stream: &Stream) -> Result<FieldFinder, Error> {
    field.finder(&stream.spec().format).map_err(|cause| {
        Error::new(Class::Permanent, "server.search-path")
            .with("stream", stream.name())
            .with("path", busbar_event::quote(&field.path))
            .with("cause", cause.to_string())
            .caused_by(cause)
    })
}

/// The part of a partition that is still to be read.
struct Part {
    stream: Arc<Stream>,
    partition: Arc<StreamPartition>,
    /// Finds the value that payloads must have.
    finder: Option<FieldFinder>,
    low: u64,
    high: u64,
    /// Time of the last event read; decides which partition is read next.
    reached: Option<i64>,
}

impl Part {
    fn new(
        stream: &Arc<Stream>,
        partition: &Arc<StreamPartition>,
        order: Order,
        since: Option<i64>,
        from: Option<&Start>,
    ) -> Result<Part, Error> {
        let (start, end) = (partition.start(), partition.end());
        // Every event before this offset is older than `since`.
        let mut low = match since {
            Some(since) => partition.offset_at_time(since)?.max(start),
            None => start,
        };
        let mut high = end;
        let at = match from {
            Some(Start::Positions(positions)) => Some(
                positions
                    .iter()
                    .find(|(name, number, _)| {
                        name == partition.stream() && *number == partition.number()
                    })
                    .map(|(_, _, offset)| *offset),
            ),
            Some(Start::Offset(offset)) => Some(Some(*offset)),
            _ => None,
        };
        match (order, at) {
            (Order::Oldest, Some(Some(offset))) => low = low.max(offset),
            (Order::Newest, Some(Some(offset))) => high = high.min(offset),
            // A partition created since the search began is newer than all that is left.
            (Order::Newest, Some(None)) => high = low,
            _ => {}
        }
        Ok(Part {
            stream: stream.clone(),
            partition: partition.clone(),
            finder: None,
            low,
            high: high.max(low),
            reached: None,
        })
    }

    fn left(&self) -> u64 {
        self.high - self.low
    }

    /// The next offsets to read, first and end.
    fn window(&self, order: Order, events: u64) -> (u64, u64) {
        match order {
            Order::Oldest => (self.low, self.high.min(self.low + events)),
            Order::Newest => (self.low.max(self.high.saturating_sub(events)), self.high),
        }
    }
}

/// One step of a search.
struct Step {
    wanted: Wanted,
    caller: Principal,
    order: Order,
    limit: usize,
    parts: Vec<Part>,
    /// The events found, as JSON.
    events: Vec<Vec<u8>>,
    bytes: usize,
    scanned: u64,
    unreadable: u64,
}

/// A matching event: its offset, and itself as JSON.
type Hit = (u64, Vec<u8>);

impl Step {
    /// Reads until the step's bounds are reached or everything is read.
    async fn run(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + Duration::from_millis(SEARCH_MILLISECONDS_MAX);
        let mut window = SEARCH_WINDOW_EVENTS_MAX;
        while self.events.len() < self.limit
            && self.bytes < SEARCH_BYTES_MAX
            && self.scanned < SEARCH_SCAN_EVENTS_MAX
            && Instant::now() < deadline
        {
            let Some(at) = self.turn() else { break };
            let (first, end) = self.parts[at].window(self.order, window);
            let Some(mut hits) = self.read(at, first, end).await? else {
                // The matches are too large to be held at once.
                window = (window / 8).max(1);
                continue;
            };
            if self.order == Order::Newest {
                hits.reverse();
            }
            let left = self.limit - self.events.len();
            let cut = hits.get(left).map(|(offset, _)| *offset);
            let part = &mut self.parts[at];
            let before = part.left();
            match self.order {
                Order::Oldest => part.low = cut.unwrap_or(end),
                // The event at the cut is the next one to return, so it stays in the range.
                Order::Newest => part.high = cut.map_or(first, |offset| offset + 1),
            }
            self.scanned += before - part.left();
            for (_, json) in hits.into_iter().take(left) {
                self.bytes += json.len();
                self.events.push(json);
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// The partition to read next: the one that has been read least far in time.
    fn turn(&self) -> Option<usize> {
        let open = || {
            let parts = self.parts.iter().enumerate();
            parts.filter(|(_, part)| part.left() > 0)
        };
        let next = match self.order {
            Order::Newest => open().max_by_key(|(_, part)| part.reached.unwrap_or(i64::MAX)),
            Order::Oldest => open().min_by_key(|(_, part)| part.reached.unwrap_or(i64::MIN)),
        };
        next.map(|(at, _)| at)
    }

    /// The matches in a range of offsets; `None` when they are larger than an answer and the range
    /// can be divided.
    async fn read(&mut self, at: usize, first: u64, end: u64) -> Result<Option<Vec<Hit>>, Error> {
        let part = &mut self.parts[at];
        let mut cursor =
            Cursor::new(part.partition.clone(), first).with_read_bytes(SUBSCRIPTION_READ_BYTES);
        let (mut hits, mut bytes, mut unreadable) = (Vec::new(), 0, 0);
        let mut reached = None;
        while cursor.position() < end {
            match cursor.next().await? {
                Item::Gap(gap) => unreadable += gap.resume.min(end).saturating_sub(gap.from),
                Item::Chunk(chunk) => {
                    let batch: &Batch = &chunk.batch;
                    let payloads = batch.payloads();
                    let name = part.stream.name();
                    let mut rows = matching(batch, &self.wanted, &self.caller, name);
                    if let Some(finder) = &mut part.finder {
                        finder.retain(batch, &mut rows);
                    }
                    for row in rows {
                        let offset = chunk.base + u64::from(row);
                        if !(first..end).contains(&offset) {
                            continue;
                        }
                        let mut json = b"{".to_vec();
                        let place = Place {
                            stream: name,
                            partition: part.partition.number(),
                            offset,
                        };
                        let payload = payloads.value(row as usize);
                        render::members(&mut json, batch, row as usize, payload, place);
                        json.push(b'}');
                        bytes += json.len();
                        hits.push((offset, json));
                    }
                    let times = batch.times();
                    let time = match self.order {
                        Order::Oldest => times.last().copied(),
                        Order::Newest => reached.or(times.first().copied()),
                    };
                    reached = time;
                    if bytes > SEARCH_BYTES_MAX && end - first > 1 {
                        return Ok(None);
                    }
                    tokio::task::yield_now().await;
                }
            }
        }
        part.reached = reached.or(part.reached);
        self.unreadable += unreadable;
        Ok(Some(hits))
    }

    fn answer(&self) -> Vec<u8> {
        let mut out = b"{\"events\":[".to_vec();
        out.extend_from_slice(&self.events.join(&b','));
        out.extend_from_slice(b"],\"next\":");
        let next = self.parts.iter().map(|part| {
            let offset = match self.order {
                Order::Oldest => part.low,
                Order::Newest => part.high,
            };
            (part.partition.stream(), part.partition.number(), offset)
        });
        write_json_text(&position::write(next), &mut out);
        let remaining: u64 = self.parts.iter().map(Part::left).sum();
        let rest = format!(
            ",\"end\":{},\"scanned\":{},\"remaining\":{remaining},\"unreadable\":{}}}",
            remaining == 0,
            self.scanned,
            self.unreadable
        );
        out.extend_from_slice(rest.as_bytes());
        out
    }
}

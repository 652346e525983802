//! A sampled tail for people to look at: a few messages a second with the newest events, however many
//! events match.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::BinaryArray;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use busbar_access::Principal;
use busbar_event::Batch;
use busbar_event::topic::Filter;
use serde::Deserialize;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Query;
use super::events::{gap_json, open_wanted, write_message};
use super::views::EventView;
use crate::answer::Answer;
use crate::app::App;
use crate::events::condition::Condition;
use crate::events::position::Start;
use crate::events::render::{self, Place};
use crate::events::subscription::{Found, Subscription, Wanted};
use crate::guard::Caller;
use crate::lifecycle::stopped;
use crate::limits::{
    KEEP_ALIVE_SECONDS, TAIL_BYTES_MAX, TAIL_EVENTS_MAX, TAIL_MILLISECONDS, TAIL_WHOLE_BYTES_MAX,
    TAIL_WHOLE_EVENTS_MAX,
};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(tail))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct TailQuery {
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
    /// Where to start: `now`, `earliest`, `last:N`, an RFC 3339 time, an offset, or the id of an earlier
    /// message. The header `Last-Event-ID` takes precedence.
    from: Option<String>,
}

/// A message of the tail.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what is rendered by hand")]
struct TailMessage {
    /// The newest matching events since the message before, oldest first.
    events: Vec<EventView>,
    /// Matching events since the message before, with those that are not in `events`.
    matched: u64,
    /// Matching events a second, over the last second.
    rate: f64,
    /// Events in the log that have not been read yet; more than a moment's worth while the tail catches
    /// up from an earlier start.
    behind: u64,
}

/// Watch events, sampled.
///
/// Server-sent events of kind `tail`, at most seven a second. The first 1000 events after the start are
/// all delivered unless they are large (4 MiB together); later messages hold the newest 100 events at most
/// and count the rest. An event of kind `gap` reports events that retention or damage took. The `id` is the
/// position to resume from.
#[utoipa::path(get, path = "/api/v1/tail", tag = "events", params(TailQuery),
    responses((status = 200, description = "Messages, for as long as the connection lasts.",
        body = TailMessage, content_type = "text/event-stream")))]
async fn tail(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Query(query): Query<TailQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    let resumed = headers
        .get("last-event-id")
        .map(|id| std::str::from_utf8(id.as_bytes()).unwrap_or("?"));
    let from = resumed.or(query.from.as_deref()).unwrap_or("now");
    let start = Start::parse(from, app.bus.clock().now_micros())?;
    let wanted = Wanted {
        filter: query.filter.as_deref().map(Filter::parse).transpose()?,
        stream: query.stream,
        condition: Condition::new(
            query.text.as_deref(),
            query.key.as_deref(),
            query.tag.as_deref(),
        )?,
    };
    let wake = Arc::new(Notify::new());
    let (subscription, permit) = open_wanted(&app, &caller, wanted, start, wake.clone()).await?;
    let now = Instant::now();
    let tail = Tail {
        app,
        caller,
        subscription,
        wake,
        epoch: 0,
        _permit: permit,
        first: true,
        whole_left: TAIL_WHOLE_EVENTS_MAX,
        whole_bytes_left: TAIL_WHOLE_BYTES_MAX,
        due: now,
        alive: now + Duration::from_secs(1),
        rate: Rate::new(now),
    };
    let stream = futures::stream::unfold(tail, |mut tail| async {
        let chunk = tail.next().await?;
        Some((Ok::<_, Infallible>(chunk), tail))
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

/// A subscription whose newest events are written to one connection.
struct Tail {
    app: Arc<App>,
    caller: Principal,
    subscription: Subscription,
    wake: Arc<Notify>,
    /// Version of the access rules that were checked last.
    epoch: u64,
    _permit: OwnedSemaphorePermit,
    /// True before the first message.
    first: bool,
    /// Events and bytes of batches that are still delivered without sampling.
    whole_left: usize,
    whole_bytes_left: usize,
    /// When the next message may be sent.
    due: Instant,
    /// When a message must be sent although nothing matches.
    alive: Instant,
    rate: Rate,
}

/// Events for the next message.
#[derive(Default)]
struct Sample {
    /// The first events after the start, which are all delivered.
    whole: Vec<Part>,
    /// The newest events after those.
    newest: VecDeque<Part>,
    newest_rows: usize,
    newest_bytes: usize,
    matched: u64,
    gaps: Vec<Vec<u8>>,
}

/// Matching rows of one batch.
struct Part {
    stream: Arc<busbar_bus::Stream>,
    partition: u16,
    base: u64,
    batch: Batch,
    rows: Vec<u32>,
}

impl Sample {
    fn is_empty(&self) -> bool {
        self.matched == 0 && self.gaps.is_empty()
    }

    /// Adds rows to the newest ones, and drops the oldest parts that a message has no room for.
    fn add(&mut self, part: Part) {
        self.newest_rows += part.rows.len();
        self.newest_bytes += part.batch.bytes();
        self.newest.push_back(part);
        while self.newest.len() > 1
            && let Some(first) = self.newest.front()
        {
            let rows = self.newest_rows - first.rows.len();
            let bytes = self.newest_bytes - first.batch.bytes();
            if rows < TAIL_EVENTS_MAX && bytes < TAIL_BYTES_MAX {
                break;
            }
            (self.newest_rows, self.newest_bytes) = (rows, bytes);
            self.newest.pop_front();
        }
    }
}

impl Tail {
    /// The next bytes of the response; `None` ends it.
    async fn next(&mut self) -> Option<Bytes> {
        if self.first {
            self.first = false;
            let position = self.subscription.position();
            return Some(format!(": busbar\nretry: 1000\nid: {position}\n\n").into());
        }
        let stop = self.app.lifecycle.stop.clone();
        let mut sample = Sample::default();
        loop {
            if !self.still_allowed() || *stop.borrow() {
                return None;
            }
            let now = Instant::now();
            if now >= self.alive {
                // An open connection counts as use of its session, which is renewed by the next check.
                self.epoch = 0;
            }
            if now >= self.alive || (now >= self.due && !sample.is_empty()) {
                return Some(self.message(&sample));
            }
            match self.subscription.poll().await {
                Ok(Some(found)) => {
                    self.take(&mut sample, found);
                    continue;
                }
                Ok(None) => {}
                Err(error) => {
                    // The reader reconnects and resumes from its position.
                    tracing::warn!(%error, "a tail ended");
                    return None;
                }
            }
            let next = if sample.is_empty() {
                self.alive
            } else {
                self.due
            };
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(next) => {}
                () = stopped(stop.clone()) => return None,
            }
        }
    }

    fn take(&mut self, sample: &mut Sample, found: Found) {
        let (stream, partition, base, batch, mut rows) = match found {
            Found::Gap {
                stream,
                partition,
                gap,
            } => {
                sample.gaps.push(gap_json(stream.name(), partition, &gap));
                return;
            }
            Found::Events {
                stream,
                partition,
                base,
                batch,
                rows,
            } => (stream, partition, base, batch, rows),
        };
        sample.matched += rows.len() as u64;
        let part = |rows| Part {
            stream: stream.clone(),
            partition,
            base,
            batch: batch.clone(),
            rows,
        };
        if self.whole_left > 0 && !rows.is_empty() {
            let later = rows.split_off(rows.len().min(self.whole_left));
            self.whole_left -= rows.len();
            self.whole_bytes_left = self.whole_bytes_left.saturating_sub(batch.bytes());
            if self.whole_bytes_left == 0 {
                self.whole_left = 0;
            }
            sample.whole.push(part(rows));
            rows = later;
        }
        if !rows.is_empty() {
            sample.add(part(rows));
        }
    }

    /// Writes a message with the events of the sample.
    fn message(&mut self, sample: &Sample) -> Bytes {
        let now = Instant::now();
        self.due = now + Duration::from_millis(TAIL_MILLISECONDS);
        // What was there when the tail began has not come in the last second.
        let whole: usize = sample.whole.iter().map(|part| part.rows.len()).sum();
        self.rate
            .count(now, sample.matched.saturating_sub(whole as u64));
        let rate = self.rate.per_second(now);
        // The reader must hear that the rate has fallen to zero.
        let seconds = if rate > 0.0 { 1 } else { KEEP_ALIVE_SECONDS };
        self.alive = now + Duration::from_secs(seconds);
        let mut events: Vec<Vec<u8>> = Vec::new();
        let mut bytes = 0;
        'newest: for part in sample.newest.iter().rev() {
            let payloads = part.batch.payloads();
            for row in part.rows.iter().rev() {
                if events.len() >= TAIL_EVENTS_MAX || bytes >= TAIL_BYTES_MAX {
                    break 'newest;
                }
                let json = part.event(*row, &payloads);
                bytes += json.len();
                events.push(json);
            }
        }
        events.reverse();
        let mut whole: Vec<Vec<u8>> = Vec::new();
        for part in &sample.whole {
            let payloads = part.batch.payloads();
            whole.extend(part.rows.iter().map(|row| part.event(*row, &payloads)));
        }
        whole.append(&mut events);
        self.app.http.delivered.add(whole.len());
        let mut out = Vec::with_capacity(bytes + 256);
        for gap in &sample.gaps {
            write_message(&mut out, "gap", ("", None, ""), gap);
        }
        let mut json = b"{\"events\":[".to_vec();
        json.extend_from_slice(&whole.join(&b','));
        let rest = format!(
            "],\"matched\":{},\"rate\":{rate:.1},\"behind\":{}}}",
            sample.matched,
            self.subscription.lag()
        );
        json.extend_from_slice(rest.as_bytes());
        let position = self.subscription.position();
        write_message(&mut out, "tail", (&position, None, ""), &json);
        out.into()
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
}

impl Part {
    /// An event as JSON.
    fn event(&self, row: u32, payloads: &BinaryArray) -> Vec<u8> {
        let mut json = b"{".to_vec();
        let place = Place {
            stream: self.stream.name(),
            partition: self.partition,
            offset: self.base + u64::from(row),
        };
        let row = row as usize;
        render::members(&mut json, &self.batch, row, payloads.value(row), place);
        json.push(b'}');
        json
    }
}

/// Events a second, over the last second.
struct Rate {
    /// When messages were sent and how many events they stand for, oldest first.
    counts: VecDeque<(Instant, u64)>,
    begun: Instant,
}

const RATE_WINDOW: Duration = Duration::from_secs(1);

impl Rate {
    fn new(now: Instant) -> Rate {
        Rate {
            counts: VecDeque::new(),
            begun: now,
        }
    }

    fn count(&mut self, now: Instant, events: u64) {
        if events > 0 {
            self.counts.push_back((now, events));
        }
        while let Some((at, _)) = self.counts.front()
            && now.duration_since(*at) > RATE_WINDOW
        {
            self.counts.pop_front();
        }
    }

    fn per_second(&self, now: Instant) -> f64 {
        let events: u64 = self.counts.iter().map(|(_, events)| events).sum();
        // Before a second has passed the rate is that of the time since the start.
        let seconds = now
            .duration_since(self.begun)
            .min(RATE_WINDOW)
            .as_secs_f64();
        events as f64 / seconds.max(TAIL_MILLISECONDS as f64 / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_second() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let mut rate = Rate::new(begun);
        for n in 1..=10 {
            rate.count(at(n * 150), 1_500);
        }
        let shown = rate.per_second(at(1_500));
        assert!((9_000.0..=10_500.0).contains(&shown), "{shown}");
        rate.count(at(3_000), 0);
        assert_eq!(rate.per_second(at(3_000)), 0.0);
    }
}

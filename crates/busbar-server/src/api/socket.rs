//! Publishing and subscribing over one WebSocket, in JSON frames.
//!
//! ```text
//! → {"op":"publish","id":1,"topic":"meter/m1/reading","payload":{"kw":3.2}}
//! → {"op":"publish","id":2,"events":[{"topic":…,"payload":…}, …]}
//! → {"op":"subscribe","id":"a","filter":"alarm/#","from":"now"}
//! → {"op":"unsubscribe","id":"a"}
//! ← {"op":"ack","id":1,"accepted":1,"rejected":[],"durability":"fsync"}
//! ← {"op":"event","id":"a","topic":…,"payload":…,"stream":…,"partition":0,"offset":7}
//! ← {"op":"gap","id":"a","gap":{…}}     ← {"op":"error","id":2,"error":{…}}
//! ```
//!
//! `id` is whatever JSON the client chose; answers to publishing come in the order of the commits.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use busbar_access::Principal;
use busbar_event::{Class, Error};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::events::{gap_json, open, published, take};
use crate::answer::{Answer, Refusal};
use crate::app::{App, stopped};
use crate::events::parse::{Layout, Parsed, not_json};
use crate::events::position::Start;
use crate::events::render::{self, Place};
use crate::events::subscription::{Found, Subscription};
use crate::guard::Caller;
use crate::json::{Scanner, unquote};
use crate::limits::{
    KEEP_ALIVE_SECONDS, SOCKET_FRAME_BYTES_MAX, SOCKET_PUBLISHES_MAX, SOCKET_SEND_SECONDS_MAX,
    SOCKET_SUBSCRIPTIONS_MAX,
};
use crate::peer::Link;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(upgrade))
}

/// Publish and subscribe over a WebSocket.
///
/// Frames are JSON: `{"op":"publish","id":…,"topic":…,"payload":…}` (or `"events":[…]`),
/// `{"op":"subscribe","id":…,"filter":…,"from":…,"stream":…}`, `{"op":"unsubscribe","id":…}`; the node
/// answers `ack`, `event`, `gap` and `error`.
#[utoipa::path(get, path = "/api/v1/ws", tag = "events",
    responses((status = 101, description = "The connection is a WebSocket from here on.")))]
async fn upgrade(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    link: Link,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Answer<Response> {
    let upgrade = upgrade.map_err(|cause| {
        Refusal::from(
            Error::new(Class::Permanent, "server.not-websocket")
                .with("why", super::bounded(&cause.body_text())),
        )
    })?;
    let permit = app.subscriptions.clone().try_acquire_owned().map_err(|_| {
        Refusal::from(Error::new(
            Class::Transient,
            "server.too-many-subscriptions",
        ))
    })?;
    Ok(upgrade
        .max_message_size(SOCKET_FRAME_BYTES_MAX)
        .max_frame_size(SOCKET_FRAME_BYTES_MAX)
        .on_upgrade(move |socket| async move {
            let _held = permit;
            Session::new(app, caller, link).run(socket).await;
        }))
}

struct Session {
    app: Arc<App>,
    caller: Principal,
    link: Link,
    epoch: u64,
    wake: Arc<Notify>,
    subscriptions: Vec<Live>,
}

struct Live {
    id: String,
    subscription: Subscription,
    _permit: OwnedSemaphorePermit,
}

/// Why a session ends.
struct Over(Option<(u16, &'static str)>);

impl From<axum::Error> for Over {
    fn from(_: axum::Error) -> Self {
        Over(None)
    }
}

impl From<tokio::time::error::Elapsed> for Over {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Over(None)
    }
}

impl Session {
    fn new(app: Arc<App>, caller: Principal, link: Link) -> Session {
        Session {
            epoch: app.access.epoch(),
            app,
            caller,
            link,
            wake: Arc::new(Notify::new()),
            subscriptions: Vec::new(),
        }
    }

    async fn run(mut self, mut socket: WebSocket) {
        if let Err(Over(Some((code, reason)))) = self.work(&mut socket).await {
            let close = Message::Close(Some(CloseFrame {
                code,
                reason: reason.into(),
            }));
            let limit = Duration::from_secs(SOCKET_SEND_SECONDS_MAX);
            let _ = tokio::time::timeout(limit, socket.send(close)).await;
        }
    }

    async fn work(&mut self, socket: &mut WebSocket) -> Result<(), Over> {
        let stop = self.app.stop.clone();
        let mut publishing = FuturesUnordered::new();
        let alive = Duration::from_secs(KEEP_ALIVE_SECONDS);
        let mut silent = 0;
        loop {
            self.check_allowed()?;
            let more = self.deliver(socket).await?;
            // With more to deliver, look whether something came in, and go on.
            let pause = if more { Duration::ZERO } else { alive };
            tokio::select! {
                biased;
                () = stopped(stop.clone()) => return Err(Over(Some((close_code::AWAY, "stopping")))),
                Some(frame) = publishing.next(), if !publishing.is_empty() => {
                    send(socket, frame).await?;
                    while let Some(Some(frame)) = publishing.next().now_or_never() {
                        send(socket, frame).await?;
                    }
                }
                message = socket.recv(), if publishing.len() < SOCKET_PUBLISHES_MAX => {
                    silent = 0;
                    let text = match message {
                        Some(Ok(Message::Text(text))) => Bytes::from(text),
                        Some(Ok(Message::Binary(bytes))) => bytes,
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                        Some(Ok(Message::Close(_))) | None => return Ok(()),
                        Some(Err(_)) => return Err(Over(Some((close_code::PROTOCOL, "protocol")))),
                    };
                    if let Some(job) = self.take(text, socket).await? {
                        publishing.push(job);
                    }
                }
                () = self.wake.notified(), if !more => {}
                () = tokio::time::sleep(pause) => {
                    if !more {
                        // A peer that answers none of three pings is gone.
                        silent += 1;
                        if silent > 3 {
                            return Err(Over(None));
                        }
                        send(socket, Message::Ping(Bytes::new())).await?;
                    }
                }
            }
        }
    }

    fn check_allowed(&mut self) -> Result<(), Over> {
        let epoch = self.app.access.epoch();
        if epoch != self.epoch {
            self.epoch = epoch;
            let Some(caller) = self.app.access.current(&self.caller) else {
                return Err(Over(Some((close_code::POLICY, "login"))));
            };
            for live in &mut self.subscriptions {
                live.subscription.set_principal(caller.clone());
            }
            self.caller = caller;
        }
        Ok(())
    }

    /// Sends what one poll of each subscription finds; true when there may be more.
    async fn deliver(&mut self, socket: &mut WebSocket) -> Result<bool, Over> {
        let mut more = false;
        let mut failed = Vec::new();
        let limit = Duration::from_secs(SOCKET_SEND_SECONDS_MAX);
        for (at, live) in self.subscriptions.iter_mut().enumerate() {
            match live.subscription.poll().await {
                Ok(None) => {}
                Ok(Some(found)) => {
                    more = true;
                    tokio::time::timeout(limit, feed(socket, &self.app, live, found)).await??;
                }
                Err(error) => {
                    let frame = error_frame(&live.id, &Refusal::from(error));
                    send(socket, frame).await?;
                    failed.push(at);
                }
            }
        }
        for at in failed.into_iter().rev() {
            self.subscriptions.remove(at);
        }
        if more {
            tokio::time::timeout(limit, socket.flush()).await??;
        }
        Ok(more)
    }

    /// Takes a frame: answers it, or gives back what will.
    async fn take(
        &mut self,
        bytes: Bytes,
        socket: &mut WebSocket,
    ) -> Result<Option<futures::future::BoxFuture<'static, Message>>, Over> {
        let frame = match Frame::read(&bytes) {
            Ok(frame) => frame,
            Err(error) => {
                send(socket, error_frame("null", &error.into())).await?;
                return Ok(None);
            }
        };
        let id = frame.id.to_owned();
        let answer = match &*frame.op {
            "publish" => {
                let (body, layout) = match frame.events {
                    Some(events) => (bytes.slice(events), Layout::Json),
                    None => (bytes.clone(), Layout::Frame),
                };
                match Parsed::new(body, layout, None, false) {
                    Ok(parsed) => {
                        let (app, caller) = (self.app.clone(), self.caller.clone());
                        let link = self.link.clone();
                        let job = async move {
                            match take(&app, &caller, &link, parsed).await {
                                Ok(outcome) => {
                                    let body = serde_json::to_string(&published(outcome))
                                        .unwrap_or_default();
                                    let rest = body.strip_prefix('{').unwrap_or("}");
                                    Message::Text(
                                        format!("{{\"op\":\"ack\",\"id\":{id},{rest}").into(),
                                    )
                                }
                                Err(refusal) => error_frame(&id, &refusal),
                            }
                        };
                        return Ok(Some(job.boxed()));
                    }
                    Err(error) => Err(error.into()),
                }
            }
            "subscribe" => self.subscribe(&frame).await,
            "unsubscribe" => {
                let before = self.subscriptions.len();
                self.subscriptions.retain(|live| live.id != id);
                if self.subscriptions.len() < before {
                    Ok(())
                } else {
                    Err(Error::new(Class::Permanent, "server.unknown-subscription").into())
                }
            }
            _ => Err(Error::new(Class::Permanent, "server.unknown-op")
                .with("op", busbar_event::quote(&frame.op))
                .into()),
        };
        let frame = match answer {
            Ok(()) => Message::Text(format!("{{\"op\":\"ack\",\"id\":{id}}}").into()),
            Err(refusal) => error_frame(&id, &refusal),
        };
        send(socket, frame).await?;
        Ok(None)
    }

    async fn subscribe(&mut self, frame: &Frame<'_>) -> Answer<()> {
        if self.subscriptions.iter().any(|live| live.id == frame.id) {
            return Err(Error::new(Class::Permanent, "server.subscribed-already").into());
        }
        if self.subscriptions.len() >= SOCKET_SUBSCRIPTIONS_MAX {
            return Err(Error::new(Class::Permanent, "server.too-many-of-socket")
                .with("max", SOCKET_SUBSCRIPTIONS_MAX)
                .into());
        }
        let start = Start::parse(frame.from.as_deref().unwrap_or("now"))?;
        let (subscription, permit) = open(
            &self.app,
            &self.caller,
            frame.filter.as_deref(),
            frame.stream.as_deref().map(str::to_owned),
            start,
            self.wake.clone(),
        )
        .await?;
        self.subscriptions.push(Live {
            id: frame.id.to_owned(),
            subscription,
            _permit: permit,
        });
        Ok(())
    }
}

/// A client's frame.
struct Frame<'a> {
    op: std::borrow::Cow<'a, str>,
    /// As the client wrote it.
    id: &'a str,
    events: Option<std::ops::Range<usize>>,
    filter: Option<std::borrow::Cow<'a, str>>,
    from: Option<std::borrow::Cow<'a, str>>,
    stream: Option<std::borrow::Cow<'a, str>>,
}

/// Longest id, in bytes.
const ID_BYTES_MAX: usize = 256;

impl<'a> Frame<'a> {
    fn read(bytes: &'a [u8]) -> Result<Frame<'a>, Error> {
        let text = std::str::from_utf8(bytes).map_err(|cause| {
            Error::new(Class::Permanent, "server.not-utf8").with("byte", cause.valid_up_to())
        })?;
        let mut frame = Frame {
            op: "".into(),
            id: "null",
            events: None,
            filter: None,
            from: None,
            stream: None,
        };
        let mut bad = None;
        let mut scanner = Scanner::new(text);
        scanner
            .object(|key, place| {
                let value = &text[place.clone()];
                let name = unquote(key).unwrap_or_default();
                let slot = match &*name {
                    "id" if value.len() <= ID_BYTES_MAX && !value.contains(['\n', '\r']) => {
                        frame.id = value;
                        return;
                    }
                    "events" => {
                        frame.events = Some(place);
                        return;
                    }
                    "from" if value.bytes().all(|b| b.is_ascii_digit()) => {
                        frame.from = Some(value.into());
                        return;
                    }
                    "op" => match unquote(value) {
                        Some(op) => {
                            frame.op = op;
                            return;
                        }
                        None => None,
                    },
                    "filter" => Some(&mut frame.filter),
                    "from" => Some(&mut frame.from),
                    "stream" => Some(&mut frame.stream),
                    "id" => None,
                    // The fields of an event are read where the event is.
                    _ => return,
                };
                match (slot, unquote(value)) {
                    (Some(slot), Some(text)) => *slot = Some(text),
                    _ => bad = Some(name.into_owned()),
                }
            })
            .map_err(|bad| not_json(text, bad))?;
        if !scanner.at_end() {
            return Err(Error::new(Class::Permanent, "server.not-object"));
        }
        match bad {
            // In what is published, `stream` may be a number of somebody's own frame.
            Some(field) if frame.op != "publish" || field == "id" => {
                Err(Error::new(Class::Permanent, "server.bad-field")
                    .with("field", busbar_event::quote(&field)))
            }
            _ => Ok(frame),
        }
    }
}

async fn feed(
    socket: &mut WebSocket,
    app: &App,
    live: &Live,
    found: Found,
) -> Result<(), axum::Error> {
    match found {
        Found::Gap {
            stream,
            partition,
            gap,
        } => {
            let gap = gap_json(stream.name(), partition, &gap);
            let text = String::from_utf8(gap).unwrap_or_default();
            let frame = format!("{{\"op\":\"gap\",\"id\":{},\"gap\":{text}}}", live.id);
            socket.feed(Message::Text(frame.into())).await
        }
        Found::Events {
            stream,
            partition,
            base,
            batch,
            rows,
        } => {
            let payloads = batch.payloads();
            app.delivered.add(rows.len());
            for row in rows {
                let mut json = Vec::with_capacity(256);
                json.extend_from_slice(b"{\"op\":\"event\",\"id\":");
                json.extend_from_slice(live.id.as_bytes());
                json.push(b',');
                let place = Place {
                    stream: stream.name(),
                    partition,
                    offset: base + u64::from(row),
                };
                render::members(
                    &mut json,
                    &batch,
                    row as usize,
                    payloads.value(row as usize),
                    place,
                );
                json.push(b'}');
                // Everything that was written is UTF-8.
                let text = String::from_utf8(json).unwrap_or_default();
                socket.feed(Message::Text(text.into())).await?;
            }
            Ok(())
        }
    }
}

async fn send(socket: &mut WebSocket, message: Message) -> Result<(), Over> {
    let limit = Duration::from_secs(SOCKET_SEND_SECONDS_MAX);
    Ok(tokio::time::timeout(limit, socket.send(message)).await??)
}

fn error_frame(id: &str, refusal: &Refusal) -> Message {
    let error = serde_json::to_string(refusal.error()).unwrap_or_default();
    Message::Text(format!("{{\"op\":\"error\",\"id\":{id},\"error\":{error}}}").into())
}

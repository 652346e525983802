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
//! A connection that breaks the rules of WebSocket is closed with 1002, 1007 (not UTF-8) or 1009 (too
//! large), one whose login has ended with 1008, and with 1001 when the node stops.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use busbar_access::Principal;
use busbar_event::format::{JsonParts, json_unquote};
use busbar_event::{Class, Error};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::events::{gap_json, open, published, take};
use super::handshake;
use crate::answer::{Answer, Refusal};
use crate::app::App;
use crate::events::parse::{Common, Layout, Parsed, not_json};
use crate::events::position::Start;
use crate::events::render::{self, Place};
use crate::events::subscription::{Found, Subscription};
use crate::guard::Caller;
use crate::lifecycle::stopped;
use crate::limits::{
    DRAIN_SECONDS_MAX, KEEP_ALIVE_SECONDS, REFUSED_BODY_BYTES_MAX, SOCKET_CLOSE_SECONDS_MAX,
    SOCKET_FRAME_BYTES_MAX, SOCKET_PUBLISHES_MAX, SOCKET_READ_BYTES, SOCKET_SEND_SECONDS_MAX,
    SOCKET_SILENCES_MAX, SOCKET_SUBSCRIPTIONS_MAX, SOCKET_WRITE_BYTES,
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
    mut request: Request,
) -> Answer<Response> {
    let key = handshake::check(request.headers())?;
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
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let _held = permit;
        // A client that goes away between question and answer is none.
        let Ok(upgraded) = upgraded.await else { return };
        let config = WebSocketConfig::default()
            .read_buffer_size(SOCKET_READ_BYTES)
            .write_buffer_size(SOCKET_WRITE_BYTES)
            .max_message_size(Some(SOCKET_FRAME_BYTES_MAX))
            .max_frame_size(Some(SOCKET_FRAME_BYTES_MAX));
        let io = TokioIo::new(upgraded);
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        Session::new(app, caller, link).run(socket).await;
    });
    handshake::switch(&key, None)
}

type WebSocket = WebSocketStream<TokioIo<Upgraded>>;

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

/// Publishes that wait for their commit, each with its answer.
type Publishing = FuturesUnordered<BoxFuture<'static, Message>>;

/// Why a session ends.
enum Over {
    /// We leave, and say why.
    Close(CloseCode, &'static str),
    /// The client broke the rules, so that what else it says has no meaning.
    Broken(CloseCode, &'static str),
    /// The client said that it leaves.
    Left,
    /// There is nobody to talk to.
    Gone,
}

impl From<tungstenite::Error> for Over {
    fn from(error: tungstenite::Error) -> Self {
        use tungstenite::Error;
        use tungstenite::error::ProtocolError;
        match error {
            Error::Capacity(_) => Over::Broken(CloseCode::Size, "too large"),
            Error::Utf8(_) => Over::Broken(CloseCode::Invalid, "not UTF-8"),
            Error::Protocol(
                ProtocolError::ResetWithoutClosingHandshake
                | ProtocolError::SendAfterClosing
                | ProtocolError::ReceivedAfterClosing,
            ) => Over::Gone,
            Error::Protocol(_) => Over::Broken(CloseCode::Protocol, "protocol"),
            _ => Over::Gone,
        }
    }
}

impl From<tokio::time::error::Elapsed> for Over {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Over::Gone
    }
}

impl Session {
    fn new(app: Arc<App>, caller: Principal, link: Link) -> Session {
        Session {
            // Looked at once more, for it may have ended while the connection became a WebSocket.
            epoch: 0,
            app,
            caller,
            link,
            wake: Arc::new(Notify::new()),
            subscriptions: Vec::new(),
        }
    }

    async fn run(mut self, mut socket: WebSocket) {
        let over = match self.work(&mut socket).await {
            Ok(never) => match never {},
            Err(over) => over,
        };
        let farewell = async {
            if let Over::Close(code, reason) | Over::Broken(code, reason) = over {
                let reason = reason.into();
                let close = Message::Close(Some(CloseFrame { code, reason }));
                if socket.send(close).await.is_err() {
                    return;
                }
            }
            match over {
                Over::Gone => {}
                Over::Broken(..) => forget(&mut socket).await,
                // Our answer to the client's farewell, or its answer to ours.
                Over::Close(..) | Over::Left => while let Some(Ok(_)) = socket.next().await {},
            }
        };
        // Who does not answer in time is left alone.
        let limit = Duration::from_secs(SOCKET_CLOSE_SECONDS_MAX);
        let _ = tokio::time::timeout(limit, farewell).await;
    }

    async fn work(&mut self, socket: &mut WebSocket) -> Result<Infallible, Over> {
        let stop = self.app.lifecycle.stop.clone();
        let mut publishing = Publishing::new();
        let alive = Duration::from_secs(KEEP_ALIVE_SECONDS);
        let mut ping = Instant::now() + alive;
        let mut silent = 0;
        loop {
            self.check_allowed()?;
            // With more to deliver, look whether something came in, and go on.
            let more = self.deliver(socket).await?;
            tokio::select! {
                biased;
                () = stopped(stop.clone()) => {
                    let limit = Duration::from_secs(DRAIN_SECONDS_MAX);
                    tokio::time::timeout(limit, settle(socket, publishing)).await??;
                    return Err(Over::Close(CloseCode::Away, "stopping"));
                }
                () = tokio::time::sleep_until(ping) => {
                    silent += 1;
                    if silent > SOCKET_SILENCES_MAX {
                        return Err(Over::Gone);
                    }
                    send(socket, Message::Ping(Bytes::new())).await?;
                    ping = Instant::now() + alive;
                    // An open connection is use of its login.
                    self.epoch = 0;
                }
                Some(frame) = publishing.next(), if !publishing.is_empty() => {
                    send(socket, frame).await?;
                    while let Some(Some(frame)) = publishing.next().now_or_never() {
                        send(socket, frame).await?;
                    }
                }
                message = socket.next(), if publishing.len() < SOCKET_PUBLISHES_MAX => {
                    silent = 0;
                    let bytes = match message.ok_or(Over::Gone)?? {
                        Message::Text(text) => Bytes::from(text),
                        Message::Binary(bytes) => bytes,
                        Message::Close(_) => return Err(Over::Left),
                        Message::Ping(_) => {
                            // Nothing more is read before the answer is written, so that only one waits.
                            let limit = Duration::from_secs(SOCKET_SEND_SECONDS_MAX);
                            tokio::time::timeout(limit, socket.flush()).await??;
                            continue;
                        }
                        _ => continue,
                    };
                    if let Some(job) = self.take(bytes, socket).await? {
                        publishing.push(job);
                    }
                }
                () = self.wake.notified(), if !more => {}
                () = std::future::ready(()), if more => {}
            }
        }
    }

    fn check_allowed(&mut self) -> Result<(), Over> {
        let epoch = self.app.access.epoch();
        if epoch != self.epoch {
            self.epoch = epoch;
            let Some(caller) = self.app.access.current(&self.caller) else {
                return Err(Over::Close(CloseCode::Policy, "login"));
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
    ) -> Result<Option<BoxFuture<'static, Message>>, Over> {
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
                match Parsed::new(body, layout, Common::default()) {
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
        let now = self.app.bus.clock().now_micros();
        let start = Start::parse(frame.from.as_deref().unwrap_or("now"), now)?;
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
        let mut scanner = JsonParts::new(text);
        scanner
            .object(|key, place| {
                let value = &text[place.clone()];
                let name = json_unquote(key).unwrap_or_default();
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
                    "op" => match json_unquote(value) {
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
                match (slot, json_unquote(value)) {
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

/// Answers what is on its way to the disk.
async fn settle(socket: &mut WebSocket, mut publishing: Publishing) -> Result<(), Over> {
    while let Some(frame) = publishing.next().await {
        send(socket, frame).await?;
    }
    Ok(())
}

/// Reads until the client hangs up, without a thought: a connection that is closed with something
/// unread may take our last word with it.
async fn forget(socket: &mut WebSocket) {
    let mut left = REFUSED_BODY_BYTES_MAX;
    let mut bytes = vec![0; SOCKET_READ_BYTES];
    while let Ok(read @ 1..) = socket.get_mut().read(&mut bytes).await {
        let Some(less) = left.checked_sub(read) else {
            return;
        };
        left = less;
    }
}

async fn feed(
    socket: &mut WebSocket,
    app: &App,
    live: &Live,
    found: Found,
) -> Result<(), tungstenite::Error> {
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
            app.http.delivered.add(rows.len());
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

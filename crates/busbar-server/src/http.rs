//! The HTTP port: accepting, TLS, bounds on connections, an orderly end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use busbar_event::{Class, Error};
use busbar_gateway::Throttle;
use busbar_log::{Clock as _, SystemClock, Watched};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use crate::answer::{Answer, Refusal, bounded};
use crate::counts::PortStats;
use crate::idle::{Busy, ConnectionPlace, OpenConnections};
use crate::lifecycle::stopped;
use crate::limits::{
    DRAIN_SECONDS_MAX, HANDSHAKE_SECONDS_MAX, HEAD_BYTES_MAX, HEAD_SECONDS_MAX, HEADERS_MAX,
    MAKE_ROOM_MILLIS_MAX, TLS_ONLY_SECONDS,
};
use crate::peer::{Link, PeerAdmission, Peers};

/// A port that is bound and not yet served.
pub(crate) struct Port {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    /// Where it listens, with the port that was chosen.
    pub(crate) address: SocketAddr,
}

impl Port {
    /// Binds `listen`.
    ///
    /// # Errors
    /// When the address is not one, is taken, or may not be used.
    pub(crate) async fn bind(listen: &str, tls: Option<TlsAcceptor>) -> Result<Port, Error> {
        let failed = |cause: std::io::Error| {
            let code = match cause.kind() {
                std::io::ErrorKind::AddrInUse => "server.port-in-use",
                std::io::ErrorKind::PermissionDenied => "server.port-denied",
                _ => "server.port-unusable",
            };
            Error::new(Class::Configuration, code)
                .with("address", listen)
                .with("setting", "http.listen")
                .caused_by(cause)
        };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Port {
            listener,
            tls,
            address,
        })
    }

    /// Serves until `stop` says so.
    pub(crate) fn serve(
        self,
        router: Router,
        connections_max: usize,
        stats: Arc<PortStats>,
        mut stop: watch::Receiver<bool>,
        watched: Watched,
    ) -> JoinHandle<()> {
        tokio::spawn(async move {
            let _watched = watched;
            let peers = Peers::default();
            let open = Arc::new(OpenConnections::default());
            let connections = Arc::new(Semaphore::new(connections_max));
            let log_lines = Arc::new(Throttle::default());
            loop {
                let accepted = tokio::select! {
                    accepted = self.listener.accept() => accepted,
                    _ = stop.changed() => break,
                };
                let (stream, address) = match accepted {
                    Ok(accepted) => accepted,
                    Err(cause) => {
                        // Out of file descriptors, most likely: connections that end free some.
                        tracing::warn!(%cause, "cannot accept an HTTP connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                stats.accepted.fetch_add(1, Ordering::Relaxed);
                let peer = address.ip().to_canonical();
                let link = match peers.connect(address, self.tls.is_some()) {
                    PeerAdmission::Within(link) => Some(link),
                    // One of this peer's that waits for a request gives way.
                    PeerAdmission::Beyond(link) => open.close_one(Some(peer)).then_some(link),
                    PeerAdmission::TooManyPeers => None,
                };
                let permit = match link.is_some() {
                    true => permit(&connections, &open).await,
                    false => None,
                };
                let (Some(permit), Some(link)) = (permit, link) else {
                    stats.refused.fetch_add(1, Ordering::Relaxed);
                    if let Some(left_out) = log_lines.admit(SystemClock.now_micros()) {
                        let message = "an HTTP connection was refused: there are too many";
                        tracing::warn!(%peer, left_out, "{message}");
                    }
                    continue;
                };
                let place = open.add(peer);
                let _ = stream.set_nodelay(true);
                let (router, tls, stop, stats, log_lines) = (
                    router.clone(),
                    self.tls.clone(),
                    stop.clone(),
                    stats.clone(),
                    log_lines.clone(),
                );
                tokio::spawn(async move {
                    let _permit = permit;
                    stats.open.fetch_add(1, Ordering::Relaxed);
                    let place = Arc::new(place);
                    let served = async {
                        let Some(tls) = tls else {
                            return serve(stream, link, place.clone(), router, stop).await;
                        };
                        match handshake(stream, tls).await {
                            Ok(stream) => serve(stream, link, place.clone(), router, stop).await,
                            Err(error) => {
                                let now = SystemClock.now_micros();
                                let message = "a TLS handshake failed";
                                log_lines.log_broken(now, "http", Some(address), &error, message);
                            }
                        }
                    };
                    tokio::select! {
                        () = served => {}
                        () = place.closed() => {}
                    }
                    stats.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
            drop(self.listener);
            // Every connection holds a permit; when all are back, all have ended.
            let all = connections.acquire_many(connections_max as u32);
            let _ = tokio::time::timeout(Duration::from_secs(DRAIN_SECONDS_MAX), all).await;
        })
    }
}

/// Certificates and key from PEM files.
///
/// # Errors
/// When a file cannot be read or does not hold what it should.
pub(crate) fn tls(certificates: &Path, key: &Path) -> Result<TlsAcceptor, Error> {
    let mut config = busbar_gateway::server_tls(certificates, key, None)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The right to one more connection. If there are too many, one that waits for a request is closed.
async fn permit(
    connections: &Arc<Semaphore>,
    open: &OpenConnections,
) -> Option<OwnedSemaphorePermit> {
    if let Ok(permit) = connections.clone().try_acquire_owned() {
        return Some(permit);
    }
    if !open.close_one(None) {
        return None;
    }
    let limit = Duration::from_millis(MAKE_ROOM_MILLIS_MAX);
    let freed = tokio::time::timeout(limit, connections.clone().acquire_owned()).await;
    freed.ok()?.ok()
}

async fn handshake(
    stream: TcpStream,
    tls: TlsAcceptor,
) -> std::io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    let limit = Duration::from_secs(HANDSHAKE_SECONDS_MAX);
    tokio::time::timeout(limit, tls.accept(stream)).await?
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    link: Link,
    place: Arc<ConnectionPlace>,
    router: Router,
    stop: watch::Receiver<bool>,
) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (place, link, router) = (place.clone(), link.clone(), router.clone());
        async move { answer(request, &place, link, router).await }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEAD_SECONDS_MAX))
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        // A client that breaks off is no event worth a line.
        _ = connection.as_mut() => return,
        () = stopped(stop.clone()) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(Duration::from_secs(DRAIN_SECONDS_MAX), connection).await;
}

/// Answers a request.
async fn answer(
    request: hyper::Request<Incoming>,
    place: &ConnectionPlace,
    link: Link,
    router: Router,
) -> Result<Response, Infallible> {
    let Some(busy) = place.begin() else {
        // The connection is being closed.
        return std::future::pending().await;
    };
    let tls = link.is_tls();
    let mut response = match check_head(&request) {
        Ok(()) => {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(link);
            match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
        Err(refusal) => {
            // What follows on this connection is not known to be a request.
            let close = HeaderValue::from_static("close");
            refusal
                .with_header(header::CONNECTION, close)
                .into_response()
        }
    };
    if tls {
        let text = format!("max-age={TLS_ONLY_SECONDS}");
        if let Ok(value) = HeaderValue::from_str(&text) {
            let headers = response.headers_mut();
            headers.insert(header::STRICT_TRANSPORT_SECURITY, value);
        }
    }
    Ok(response.map(|inner| Body::new(Answered { inner, _busy: busy })))
}

/// Refuses a head that is too long, which the parser takes when it comes in one piece, and a body in an
/// encoding that would be taken for its content.
fn check_head(request: &hyper::Request<Incoming>) -> Answer<()> {
    let headers = request.headers();
    let fields: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    let target = request.uri();
    let target = target
        .path_and_query()
        .map_or(0, |path| path.as_str().len())
        + target.authority().map_or(0, |host| host.as_str().len() + 8);
    if fields + target + request.method().as_str().len() > HEAD_BYTES_MAX {
        let error =
            Error::new(Class::Permanent, "server.head-too-large").with("max_bytes", HEAD_BYTES_MAX);
        return Err(Refusal::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            error,
        ));
    }
    let codings = headers.get_all(header::TRANSFER_ENCODING);
    let other = codings
        .iter()
        .flat_map(|value| value.to_str().unwrap_or("?").split(','))
        .map(str::trim)
        .find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("chunked"));
    if let Some(coding) = other {
        let error = Error::new(Class::Permanent, "server.transfer-encoding")
            .with("encoding", bounded(coding));
        return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, error));
    }
    Ok(())
}

/// The body of an answer. Its connection counts as busy until the body was sent.
struct Answered {
    inner: Body,
    _busy: Busy,
}

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

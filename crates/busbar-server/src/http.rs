//! The HTTP port: accepting, TLS, bounds on connections, an orderly end.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use busbar_event::{Class, Error};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use crate::app::stopped;
use crate::limits::{
    DRAIN_SECONDS_MAX, HANDSHAKE_SECONDS_MAX, HEAD_BYTES_MAX, HEAD_SECONDS_MAX, HEADERS_MAX,
};
use crate::peer::{Link, Peers};

/// What the port counts.
#[derive(Default)]
pub(crate) struct PortStats {
    pub(crate) open: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
}

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
    ) -> JoinHandle<()> {
        tokio::spawn(async move {
            let peers = Peers::default();
            let connections = Arc::new(tokio::sync::Semaphore::new(connections_max));
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
                let permit = connections.clone().try_acquire_owned();
                let link = peers.connect(address, self.tls.is_some());
                let (Ok(permit), Some(link)) = (permit, link) else {
                    stats.refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                let _ = stream.set_nodelay(true);
                let (router, tls, stop, stats) = (
                    router.clone(),
                    self.tls.clone(),
                    stop.clone(),
                    stats.clone(),
                );
                tokio::spawn(async move {
                    let _permit = permit;
                    stats.open.fetch_add(1, Ordering::Relaxed);
                    connection(stream, link, tls, router, stop).await;
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
    let mut config = busbar_gateway::server_tls(certificates, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn connection(
    stream: TcpStream,
    link: Link,
    tls: Option<TlsAcceptor>,
    router: Router,
    stop: watch::Receiver<bool>,
) {
    match tls {
        None => serve(stream, link, router, stop).await,
        Some(tls) => {
            let limit = Duration::from_secs(HANDSHAKE_SECONDS_MAX);
            // Whoever does not shake hands is nobody we know anything about.
            if let Ok(Ok(stream)) = tokio::time::timeout(limit, tls.accept(stream)).await {
                serve(stream, link, router, stop).await;
            }
        }
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    link: Link,
    router: Router,
    stop: watch::Receiver<bool>,
) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(link.clone());
        router.clone().oneshot(request)
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

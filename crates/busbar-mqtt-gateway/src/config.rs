//! What a node tells the gateway.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::limits::Limits;

/// Where to listen, and the bounds.
#[derive(Clone, Debug, Default)]
pub struct MqttOptions {
    /// Addresses for plain TCP.
    pub listen: Vec<SocketAddr>,
    /// TLS.
    pub tls: Option<TlsConfig>,
    /// Address for WebSocket (path `/mqtt`, subprotocol `mqtt`) without an HTTP server.
    pub websocket: Option<SocketAddr>,
    /// Worker threads; zero for as many as the machine has.
    pub cores: usize,
    /// Bounds.
    pub limits: Limits,
}

/// TLS by a certificate chain and its key, both PEM.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// Address.
    pub listen: SocketAddr,
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Certificate authorities whose clients may log in by their certificates.
    pub client_ca: Option<PathBuf>,
}

//! One connection to a broker: a task that reads, writes and keeps alive, and two bounded queues.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use busbar_event::{Class, Error, quote};
use busbar_mqtt::client::{self, ConnAckIn, ServerPacket};
use busbar_mqtt::control::{Connect, RetainHandling, SubscribeOptions};
use busbar_mqtt::{AckKind, Reason, Split, Version, split};
use bytes::BytesMut;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::Options;
use crate::limits::{
    MQTT_ANSWER_MAX, MQTT_IN_FLIGHT_MAX, MQTT_INCOMING_MAX, MQTT_PACKET_BYTES_MAX, MQTT_READ_BYTES,
};

/// A connection; it ends when this is dropped.
pub struct Link {
    /// What the other broker sends.
    pub incoming: mpsc::Receiver<Incoming>,
    /// How many QoS 1 publishes it takes at a time.
    pub window: usize,
    /// The largest packet it takes.
    pub packet_bytes_max: usize,
    outgoing: mpsc::Sender<Vec<u8>>,
    address: String,
}

/// What the other broker sends.
pub enum Incoming {
    /// A message.
    Message(Message),
    /// It has a publish of ours, or says why not.
    Acknowledged(u16, Reason),
    /// The connection ended.
    Ended(Error),
}

/// A message, out of the read buffer.
pub struct Message {
    pub topic: String,
    pub qos: u8,
    pub retain: bool,
    pub packet_id: u16,
    pub tags: Vec<(String, String)>,
    pub payload: Vec<u8>,
}

/// Writes that may wait for the socket.
const OUTGOING_MAX: usize = 16;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Link {
    /// Connects, and subscribes when the options say so.
    pub async fn open(options: &Options, name: &str, project: &Path) -> Result<Link, Error> {
        let address = options.address.clone();
        let connected = timeout(MQTT_ANSWER_MAX, Link::connect(options, name, project)).await;
        let connected = connected.map_err(|_| silent(&address))?;
        let (stream, buffer, connack) = connected?;
        let (incoming_in, incoming) = mpsc::channel(MQTT_INCOMING_MAX);
        let (outgoing, outgoing_out) = mpsc::channel(OUTGOING_MAX);
        let keep_alive = connack
            .server_keep_alive_s
            .map_or(options.keep_alive.as_duration(), |seconds| {
                Duration::from_secs(u64::from(seconds.max(1)))
            });
        let task = Task {
            version: options.version.into(),
            stream,
            buffer,
            incoming: incoming_in,
            outgoing: outgoing_out,
            keep_alive,
            address: address.clone(),
        };
        tokio::spawn(task.run());
        let window = connack.receive_maximum.min(MQTT_IN_FLIGHT_MAX).max(1);
        let packet_bytes_max = connack.maximum_packet_size.unwrap_or(u32::MAX) as usize;
        Ok(Link {
            incoming,
            window: window.into(),
            packet_bytes_max,
            outgoing,
            address,
        })
    }

    /// Hands bytes to the socket; waits while too many wait already.
    pub async fn send(&self, bytes: Vec<u8>) -> Result<(), Error> {
        self.outgoing
            .send(bytes)
            .await
            .map_err(|_| lost(&self.address))
    }

    /// As [`Link::send`], without waiting.
    pub fn try_send(&self, bytes: Vec<u8>) -> Result<(), Vec<u8>> {
        self.outgoing.try_send(bytes).map_err(|why| match why {
            mpsc::error::TrySendError::Full(bytes) | mpsc::error::TrySendError::Closed(bytes) => {
                bytes
            }
        })
    }

    async fn connect(
        options: &Options,
        name: &str,
        project: &Path,
    ) -> Result<(Box<dyn Stream>, BytesMut, ConnAckIn), Error> {
        let failed = |why: io::Error| {
            let error = Error::new(Class::Transient, "connect.mqtt-unreachable");
            error.with("address", &options.address).caused_by(why)
        };
        let tcp = TcpStream::connect(&options.address).await.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        let mut stream: Box<dyn Stream> = match &options.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let host = options
                    .address
                    .rsplit_once(':')
                    .map_or("", |(host, _)| host);
                let host = host
                    .trim_start_matches('[')
                    .trim_end_matches(']')
                    .to_owned();
                let name = ServerName::try_from(host).map_err(|why| {
                    Error::new(Class::Configuration, "connect.mqtt-address").caused_by(why)
                })?;
                let connector = tokio_rustls::TlsConnector::from(tls_config(tls, project).await?);
                Box::new(connector.connect(name, tcp).await.map_err(failed)?)
            }
        };
        let version: Version = options.version.into();
        let mut bytes = Vec::new();
        client::encode_connect(&connect_packet(options, name)?, &mut bytes);
        stream.write_all(&bytes).await.map_err(failed)?;
        let mut buffer = BytesMut::with_capacity(MQTT_READ_BYTES);

        let connack = loop {
            match next_packet(&mut stream, &mut buffer, version, &options.address).await? {
                Owned::ConnAck(connack) => break connack,
                _ => return Err(strange(&options.address, "a packet before CONNACK")),
            }
        };
        if connack.reason.is_failure() {
            return Err(refused(
                &options.address,
                connack.reason,
                connack.reason_string.as_deref(),
            ));
        }
        if !options.subscribe.is_empty() {
            let how = SubscribeOptions {
                qos: options.qos.min(connack.maximum_qos),
                // What this bridge sends there must not come back.
                no_local: version == Version::V5,
                retain_as_published: true,
                retain_handling: RetainHandling::SendIfNew,
            };
            let filters: Vec<_> = options
                .subscribe
                .iter()
                .map(|filter| (filter.as_str(), how))
                .collect();
            bytes.clear();
            client::encode_subscribe(version, SUBSCRIBE_ID, None, &filters, &mut bytes);
            stream.write_all(&bytes).await.map_err(failed)?;
        }
        Ok((stream, buffer, connack))
    }
}

/// The packet id of the one SUBSCRIBE.
const SUBSCRIBE_ID: u16 = 1;

fn connect_packet(options: &Options, name: &str) -> Result<Connect, Error> {
    let source = !options.subscribe.is_empty();
    let expiry = options.session_expiry.as_duration().as_secs();
    Ok(Connect {
        version: options.version.into(),
        // Only a subscriber has anything to come back to.
        clean_start: !source,
        keep_alive_s: u16::try_from(options.keep_alive.as_duration().as_secs()).unwrap_or(u16::MAX),
        client_id: options
            .client_id
            .clone()
            .unwrap_or_else(|| format!("busbar-{name}")),
        username: options.user.clone(),
        password: options
            .password
            .as_ref()
            .map(|secret| secret.read().map(String::into_bytes))
            .transpose()?,
        will: None,
        session_expiry_s: if source {
            u32::try_from(expiry).unwrap_or(u32::MAX)
        } else {
            0
        },
        receive_maximum: MQTT_IN_FLIGHT_MAX,
        maximum_packet_size: Some(MQTT_PACKET_BYTES_MAX),
        topic_alias_maximum: 0,
        request_response_info: false,
        request_problem_info: true,
        auth_method: None,
    })
}

async fn tls_config(tls: &super::Tls, project: &Path) -> Result<Arc<rustls::ClientConfig>, Error> {
    let mut roots = rustls::RootCertStore::empty();
    match &tls.ca {
        Some(ca) => {
            let path = project.join(ca);
            let unusable =
                || Error::new(Class::Configuration, "connect.mqtt-ca").with("file", path.display());
            let pem = tokio::fs::read(&path)
                .await
                .map_err(|why| unusable().caused_by(why))?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|why| unusable().caused_by(why))?;
                roots
                    .add(certificate)
                    .map_err(|why| unusable().caused_by(why))?;
            }
            if roots.is_empty() {
                return Err(unusable());
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|why| Error::new(Class::Configuration, "connect.mqtt-tls").caused_by(why))?;
    Ok(Arc::new(
        config.with_root_certificates(roots).with_no_client_auth(),
    ))
}

/// A packet that no longer borrows the read buffer.
enum Owned {
    ConnAck(ConnAckIn),
    Message(Message),
    Ack(AckKind, u16, Reason),
    SubAck(Vec<Reason>),
    Disconnect(Reason, Option<String>),
    Other,
}

/// Reads until a whole packet is there. Dropped while it waits, it has lost nothing.
async fn next_packet(
    stream: &mut (impl AsyncRead + Unpin + ?Sized),
    buffer: &mut BytesMut,
    version: Version,
    address: &str,
) -> Result<Owned, Error> {
    loop {
        let malformed = |refusal: busbar_mqtt::Refusal| strange(address, refusal.detail);
        if let Split::Whole(frame) = split(buffer, MQTT_PACKET_BYTES_MAX).map_err(malformed)? {
            let length = frame.len;
            let owned = owned(client::decode(frame, version).map_err(malformed)?, version)
                .map_err(malformed)?;
            let _ = buffer.split_to(length);
            return Ok(owned);
        }
        buffer.reserve(MQTT_READ_BYTES);
        let read = stream
            .read_buf(buffer)
            .await
            .map_err(|why| lost(address).caused_by(why))?;
        if read == 0 {
            return Err(lost(address));
        }
    }
}

fn owned(packet: ServerPacket<'_>, version: Version) -> busbar_mqtt::Result<Owned> {
    Ok(match packet {
        ServerPacket::ConnAck(connack) => Owned::ConnAck(connack),
        ServerPacket::Publish(publish) => {
            let mut tags = Vec::new();
            if version == Version::V5 && !publish.properties.is_empty() {
                publish.parse_properties()?;
                for (name, value) in publish.user_properties() {
                    tags.push((
                        busbar_event::tags::escape(name).into_owned(),
                        value.to_owned(),
                    ));
                }
            }
            Owned::Message(Message {
                topic: publish.topic_text()?.to_owned(),
                qos: publish.qos,
                retain: publish.retain,
                packet_id: publish.packet_id,
                tags,
                payload: publish.payload.to_vec(),
            })
        }
        ServerPacket::Ack(ack) => Owned::Ack(ack.kind, ack.packet_id, ack.reason),
        ServerPacket::SubAck(_, reasons) => Owned::SubAck(reasons),
        ServerPacket::Disconnect(reason, text) => Owned::Disconnect(reason, text),
        ServerPacket::UnsubAck(..) | ServerPacket::PingResponse | ServerPacket::Auth(_) => {
            Owned::Other
        }
    })
}

struct Task {
    version: Version,
    stream: Box<dyn Stream>,
    buffer: BytesMut,
    incoming: mpsc::Sender<Incoming>,
    outgoing: mpsc::Receiver<Vec<u8>>,
    keep_alive: Duration,
    address: String,
}

impl Task {
    async fn run(mut self) {
        if let Err(error) = self.work().await {
            // Nobody may be listening any more, which is how a link is ended.
            let _ = self.incoming.send(Incoming::Ended(error)).await;
        }
    }

    /// Until the connection breaks (an error) or the link is dropped.
    async fn work(&mut self) -> Result<(), Error> {
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        let mut heard = Instant::now();
        let mut ping = tokio::time::interval(self.keep_alive / 2);
        loop {
            tokio::select! {
                packet = next_packet(&mut reader, &mut self.buffer, self.version, &self.address) => {
                    heard = Instant::now();
                    let incoming = match packet? {
                        Owned::Message(message) => Incoming::Message(message),
                        Owned::Ack(AckKind::Puback, id, reason) => Incoming::Acknowledged(id, reason),
                        // The other half of QoS 2: what was received is in a stream by then.
                        Owned::Ack(AckKind::Pubrel, id, _) => {
                            let mut bytes = Vec::new();
                            busbar_mqtt::ack::encode_run(AckKind::Pubcomp, id, 1, &mut bytes);
                            writer.write_all(&bytes).await.map_err(|why| lost(&self.address).caused_by(why))?;
                            continue;
                        }
                        Owned::SubAck(reasons) => match reasons.into_iter().find(|reason| reason.is_failure()) {
                            Some(reason) => return Err(refused(&self.address, reason, None)),
                            None => continue,
                        },
                        Owned::Disconnect(reason, text) => {
                            return Err(refused(&self.address, reason, text.as_deref()));
                        }
                        Owned::ConnAck(_) | Owned::Ack(..) | Owned::Other => continue,
                    };
                    if self.incoming.send(incoming).await.is_err() {
                        return Ok(());
                    }
                }
                bytes = self.outgoing.recv() => match bytes {
                    Some(bytes) => writer.write_all(&bytes).await.map_err(|why| lost(&self.address).caused_by(why))?,
                    None => {
                        let mut bytes = Vec::new();
                        client::encode_disconnect(self.version, Reason::SUCCESS, None, &mut bytes);
                        let _ = writer.write_all(&bytes).await;
                        return Ok(());
                    }
                },
                _ = ping.tick() => {
                    if heard.elapsed() > self.keep_alive.max(MQTT_ANSWER_MAX) * 2 {
                        return Err(silent(&self.address));
                    }
                    let mut bytes = Vec::new();
                    client::encode_pingreq(&mut bytes);
                    writer.write_all(&bytes).await.map_err(|why| lost(&self.address).caused_by(why))?;
                }
            }
        }
    }
}

fn lost(address: &str) -> Error {
    Error::new(Class::Transient, "connect.mqtt-lost").with("address", address)
}

fn silent(address: &str) -> Error {
    Error::new(Class::Transient, "connect.mqtt-silent").with("address", address)
}

fn strange(address: &str, what: &str) -> Error {
    Error::new(Class::Transient, "connect.mqtt-strange")
        .with("address", address)
        .with("what", what)
}

/// A refusal by the other broker: some pass by themselves, others need a change of the options.
fn refused(address: &str, reason: Reason, text: Option<&str>) -> Error {
    let class = match reason {
        Reason::BAD_USER_NAME_OR_PASSWORD
        | Reason::NOT_AUTHORIZED
        | Reason::CLIENT_IDENTIFIER_NOT_VALID
        | Reason::UNSUPPORTED_PROTOCOL_VERSION => Class::Configuration,
        _ => Class::Transient,
    };
    let said = text.map_or_else(|| reason.name().to_owned(), quote);
    Error::new(class, "connect.mqtt-refused")
        .with("address", address)
        .with("said", said)
}

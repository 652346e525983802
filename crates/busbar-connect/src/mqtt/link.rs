//! One connection to a broker: connecting, and the two bounded queues to its task.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use busbar_event::{Class, Error};
use busbar_log::Clock;
use busbar_mqtt::Version;
use busbar_mqtt::client::{self, ConnAckIn};
use busbar_mqtt::control::{Connect, RetainHandling, SubscribeOptions};
use bytes::BytesMut;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Options;
use super::task::Task;
use super::wire::{Incoming, Owned, Stream, lost, next_packet, refused, silent, strange};
use crate::limits::{
    MQTT_ANSWER_MAX, MQTT_GOODBYE_MAX, MQTT_IN_FLIGHT_MAX, MQTT_INCOMING_BYTES, MQTT_INCOMING_MAX,
    MQTT_PACKET_BYTES_MAX, MQTT_READ_BYTES,
};
use crate::places::Places;
use crate::tls;

/// A connection; dropping it ends the connection.
pub struct Link {
    /// Messages and acknowledgements from the other broker.
    pub incoming: mpsc::Receiver<Incoming>,
    /// QoS 1 publishes that the other broker accepts unacknowledged.
    pub window: usize,
    /// The largest packet that the other broker accepts, in bytes.
    pub packet_bytes_max: usize,
    /// Whether the other broker supports retained messages.
    pub retain_available: bool,
    /// Bytes for the socket.
    pub outgoing: mpsc::Sender<Vec<u8>>,
    address: String,
    task: JoinHandle<()>,
}

/// Writes that may wait for the socket.
const OUTGOING_MAX: usize = 16;

impl Link {
    /// Connects, and subscribes when the options say so.
    pub async fn open(
        options: &Options,
        client_id: &str,
        project: &Path,
        places: &Places,
        clock: &Arc<dyn Clock>,
    ) -> Result<Link, Error> {
        let address = options.address.clone();
        let connected = timeout(
            MQTT_ANSWER_MAX,
            Link::connect(options, client_id, project, places),
        )
        .await;
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
            room: Arc::new(Semaphore::new(MQTT_INCOMING_BYTES)),
            keep_alive,
            qos: options.qos,
            address: address.clone(),
            clock: Arc::clone(clock),
        };
        let task = tokio::spawn(task.run());
        let window = connack.receive_maximum.clamp(1, MQTT_IN_FLIGHT_MAX);
        let packet_bytes_max = connack.maximum_packet_size.unwrap_or(u32::MAX) as usize;
        Ok(Link {
            incoming,
            window: window.into(),
            packet_bytes_max,
            retain_available: connack.retain_available,
            outgoing,
            address,
            task,
        })
    }

    /// Ends the connection, and waits until the other broker has taken what was queued, or for as long as that may take.
    pub async fn close(self) {
        let Link {
            incoming,
            outgoing,
            task,
            ..
        } = self;
        drop((incoming, outgoing));
        let _ = timeout(MQTT_GOODBYE_MAX * 2, task).await;
    }

    /// Queues bytes for the socket; waits while the queue is full.
    pub async fn send(&self, bytes: Vec<u8>) -> Result<(), Error> {
        self.outgoing
            .send(bytes)
            .await
            .map_err(|_| lost(&self.address))
    }

    async fn connect(
        options: &Options,
        client_id: &str,
        project: &Path,
        places: &Places,
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
                let connector = tokio_rustls::TlsConnector::from(
                    tls::client_config(tls, project, places).await?,
                );
                let encrypted = connector.connect(name, tcp).await;
                Box::new(encrypted.map_err(|why| match tls::refused(&why) {
                    Some(why) => tls::untrusted(&options.address, why),
                    None => failed(why),
                })?)
            }
        };
        let version: Version = options.version.into();
        let mut bytes = Vec::new();
        let packet = connect_packet(options, client_id, project, places)?;
        client::encode_connect(&packet, &mut bytes);
        stream.write_all(&bytes).await.map_err(failed)?;
        // TLS buffers what is not flushed.
        stream.flush().await.map_err(failed)?;
        let mut buffer = BytesMut::with_capacity(MQTT_READ_BYTES);

        let connack =
            match next_packet(&mut stream, &mut buffer, version, &options.address, 0).await? {
                Owned::ConnAck(connack) => connack,
                _ => return Err(strange(&options.address, "a packet before CONNACK")),
            };
        if connack.reason.is_failure() {
            return Err(refused(
                &options.address,
                connack.reason,
                connack.reason_string.as_deref(),
            ));
        }
        if options.publish.is_some() && connack.maximum_qos == 0 {
            let error = Error::new(Class::Configuration, "connect.mqtt-qos-0");
            return Err(error.with("address", &options.address));
        }
        if !options.subscribe.is_empty() {
            let how = SubscribeOptions {
                qos: options.qos.min(connack.maximum_qos),
                no_local: false,
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
            stream.flush().await.map_err(failed)?;
        }
        Ok((stream, buffer, connack))
    }
}

/// The packet id of the one SUBSCRIBE.
const SUBSCRIBE_ID: u16 = 1;

fn connect_packet(
    options: &Options,
    client_id: &str,
    project: &Path,
    places: &Places,
) -> Result<Connect, Error> {
    let source = !options.subscribe.is_empty();
    let expiry = options.session_expiry.as_duration().as_secs();
    Ok(Connect {
        version: options.version.into(),
        // Only a subscriber has a session to resume.
        clean_start: !source,
        keep_alive_s: u16::try_from(options.keep_alive.as_duration().as_secs()).unwrap_or(u16::MAX),
        client_id: client_id.to_owned(),
        username: options.user.clone(),
        password: options
            .password
            .as_ref()
            .map(|secret| secret.read(project, places).map(String::into_bytes))
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

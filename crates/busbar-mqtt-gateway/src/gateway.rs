//! Starting and stopping the gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use busbar_bus::{Bus, Chunk};
use busbar_event::{Micros, Result};
use busbar_gateway::{
    Acceptors, Authorizer, BusLog, ByteStream, ClientOrigin, ConnId, Denied, Effect, Gateway,
    GatewayAddress, GatewayCounts, Handshake, Identity, Protocol, Workers, WorkersOptions,
    bind_tcp, partition_name, server_tls,
};
use busbar_log::{Change, Store};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::MqttOptions;
use crate::core::{Core, Message, Reader};
use crate::registry::Shared;
use crate::restore::restore_sessions;
use crate::state::Positions;
use crate::stats::Stats;
use crate::websocket::WebSocket;

/// A running MQTT gateway. Dropping it stops it without waiting; [`Gateway::shut_down`] waits.
pub struct MqttGateway {
    shared: Arc<Shared>,
    workers: Workers<Core<BusLog>>,
    addrs: LocalAddrs,
}

/// Where the gateway listens: the ports that the system gave are here.
#[derive(Clone, Debug, Default)]
pub struct LocalAddrs {
    /// Plain TCP.
    pub tcp: Vec<SocketAddr>,
    /// TLS.
    pub tls: Option<SocketAddr>,
    /// WebSocket.
    pub websocket: Option<SocketAddr>,
}

impl MqttGateway {
    /// Binds the addresses, restores the sessions and starts the worker threads.
    ///
    /// # Errors
    /// *Configuration*: an address or a certificate cannot be used. Otherwise what the store reports.
    pub fn start(
        bus: Bus,
        authorizer: Arc<dyn Authorizer>,
        options: MqttOptions,
    ) -> Result<MqttGateway> {
        let store = bus.store("sessions")?;
        let shared = Arc::new(Shared::new(options.limits.clone()));
        let now = bus.clock().now_micros();
        shared.started.store(now, Ordering::Relaxed);
        restore(&shared, &store, &bus, now);
        let mut addrs = LocalAddrs::default();
        let mut acceptors = Acceptors::default();
        for addr in &options.listen {
            let (listener, local) = bind_tcp(*addr, "mqtt.listen")?;
            addrs.tcp.push(local);
            acceptors.tcp.push(listener);
        }
        if let Some(tls) = &options.tls {
            let rustls = Arc::new(server_tls(&tls.cert, &tls.key, tls.client_ca.as_deref())?);
            let (listener, local) = bind_tcp(tls.listen, "mqtt.tls_listen")?;
            addrs.tls = Some(local);
            acceptors.tls.push((listener, rustls));
        }
        let packet_bytes_max = shared.limits.packet_bytes_max;
        if let Some(addr) = options.websocket {
            let (listener, local) = bind_tcp(addr, "websocket")?;
            addrs.websocket = Some(local);
            let upgrade = move |stream| -> Handshake {
                Box::pin(async move {
                    let stream = WebSocket::accept(stream, packet_bytes_max).await;
                    let stream = stream.map_err(std::io::Error::other)?;
                    Ok(Box::new(stream) as Box<dyn ByteStream>)
                })
            };
            acceptors.other.push((listener, Box::new(upgrade)));
        }
        let workers = WorkersOptions {
            name: NAME,
            threads: options.cores,
            bus,
            authorizer,
            admissions: Arc::clone(&shared.admissions),
            payload_bytes_max: packet_bytes_max as usize,
            store: Some(store),
        };
        let of_thread = Arc::clone(&shared);
        let make = move |number, log| Core::new(log, Arc::clone(&of_thread), number);
        Ok(MqttGateway {
            workers: Workers::start(workers, acceptors, make)?,
            shared,
            addrs,
        })
    }

    /// Where it listens.
    pub fn local_addrs(&self) -> &LocalAddrs {
        &self.addrs
    }

    /// Its counters.
    pub fn stats(&self) -> Stats {
        Stats::of(&self.shared)
    }

    /// Serves a byte stream that somebody else accepted.
    pub fn hand_over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Option<SocketAddr>,
    ) {
        self.workers.hand_over(Box::new(stream), peer);
    }

    /// Serves a WebSocket connection whose HTTP upgrade was answered already (with subprotocol `mqtt`): `io` is the
    /// raw connection after the 101.
    pub fn hand_over_websocket(
        &self,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Option<SocketAddr>,
    ) {
        let bytes_max = self.shared.limits.packet_bytes_max;
        let handshake = async move {
            let stream = WebSocket::after_upgrade(io, bytes_max).await;
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        };
        self.workers.hand_over_after(Box::pin(handshake), peer);
    }
}

const NAME: &str = "mqtt";

impl Gateway for MqttGateway {
    fn name(&self) -> &str {
        NAME
    }

    fn addresses(&self) -> Vec<GatewayAddress> {
        let named = |scheme| move |address| GatewayAddress { scheme, address };
        let tcp = self.addrs.tcp.iter().copied().map(named("mqtt"));
        let tls = self.addrs.tls.into_iter().map(named("mqtts"));
        let websocket = self.addrs.websocket.into_iter().map(named("ws"));
        tcp.chain(tls).chain(websocket).collect()
    }

    fn counts(&self) -> GatewayCounts {
        let stats = self.stats();
        GatewayCounts {
            connections: stats.connections,
            connections_total: stats.connections_total,
            refusals_total: stats.refusals_total,
            logins_refused_total: stats.logins_refused_total,
            events_in_total: stats.publishes_in_total,
            bytes_in_total: stats.bytes_in_total,
            events_refused_total: stats.publishes_refused_total,
            events_out_total: stats.publishes_out_total,
            datagrams_lost_total: 0,
        }
    }

    fn shut_down(&self) {
        self.workers.shut_down();
    }
}

impl Protocol for Core<BusLog> {
    type Reader = Reader;
    type Message = Message;

    fn log(&mut self) -> &mut BusLog {
        &mut self.log
    }

    fn open(&mut self, origin: ClientOrigin, paced: bool, now: Micros) -> Option<ConnId> {
        Core::open(self, origin, paced, now)
    }

    fn input(&mut self, id: ConnId, bytes: &[u8], now: Micros) {
        Core::input(self, id, bytes, now);
    }

    fn output(&self, id: ConnId) -> &[u8] {
        Core::output(self, id)
    }

    fn wrote(&mut self, id: ConnId, n: usize) {
        Core::wrote(self, id, n);
    }

    fn wants_input(&mut self, id: ConnId, now: Micros) -> bool {
        Core::wants_input(self, id, now)
    }

    fn is_closing(&mut self, id: ConnId) -> bool {
        Core::is_closing(self, id)
    }

    fn was_refused(&mut self, id: ConnId) -> bool {
        Core::was_refused(self, id)
    }

    fn gone(&mut self, id: ConnId, now: Micros) {
        Core::gone(self, id, now);
    }

    fn take_awake(&mut self) -> Vec<ConnId> {
        Core::take_awake(self)
    }

    fn take_effects(&mut self) -> Vec<Effect<Reader, Message>> {
        Core::take_effects(self)
    }

    fn has_work(&self) -> bool {
        Core::has_work(self)
    }

    fn turn(&mut self, now: Micros) -> bool {
        Core::turn(self, now)
    }

    fn tick(&mut self, now: Micros) {
        Core::tick(self, now);
    }

    fn is_watching(&self) -> bool {
        Core::is_watching(self)
    }

    fn connections(&self) -> usize {
        Core::connections(self)
    }

    fn authenticated(
        &mut self,
        id: ConnId,
        result: std::result::Result<Arc<dyn Identity>, Denied>,
        now: Micros,
    ) {
        Core::authenticated(self, id, result, now);
    }

    fn shut_down(&mut self, now: Micros) {
        Core::shut_down(self, now);
    }

    fn journalled(&mut self, batch: u64, durable: bool, now: Micros) {
        Core::journalled(self, batch, durable, now);
    }

    fn message(&mut self, message: Message, now: Micros) {
        Core::message(self, message, now);
    }

    fn rows_read(
        &mut self,
        reader: Reader,
        partition: u32,
        offset: u64,
        result: std::result::Result<Vec<Chunk>, u64>,
    ) {
        Core::rows_read(self, reader, partition, offset, result);
    }
}

/// Records read from the store at once.
const RECORDS_PAGE: usize = 1024;

fn restore(shared: &Shared, store: &Store, bus: &Bus, now: i64) {
    let mut ends = Positions::default();
    for stream in bus.streams().iter().filter(|s| !s.is_internal()) {
        for partition in stream.partitions().iter() {
            ends.insert(partition_name(partition), partition.end());
        }
    }
    let mut page = Vec::new().into_iter();
    let mut after: Option<bytes::Bytes> = None;
    let records = std::iter::from_fn(|| {
        if let Some(record) = page.next() {
            return Some(record);
        }
        page = store
            .scan(b"s/", after.as_deref(), RECORDS_PAGE)
            .into_iter();
        after = page.as_slice().last().map(|(key, _)| key.clone());
        page.next()
    });
    let group_record = |text: &str| {
        let key = crate::core::group_key(text);
        store.get(&key).map(|record| record.to_vec())
    };
    let stale = restore_sessions(shared, records, group_record, &ends, now);
    if !stale.is_empty() {
        store.apply(stale.into_iter().map(Change::Delete).collect(), None);
    }
}

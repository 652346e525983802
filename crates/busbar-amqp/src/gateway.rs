//! Starting and stopping the gateway.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use busbar_bus::{Bus, Chunk};
use busbar_event::{Micros, Result};
use busbar_gateway::{
    Acceptors, Admissions, Authorizer, BusLog, ClientOrigin, ConnId, Denied, Gateway,
    GatewayAddress, GatewayCounts, Identity, Protocol, Workers, WorkersOptions, bind_tcp,
    server_tls,
};

use crate::core::{Broker, BrokerEffect, BrokerRead};
use crate::counters::AmqpCounters;
use crate::limits::AmqpLimits;

/// Where to listen, and the bounds.
#[derive(Clone, Debug, Default)]
pub struct AmqpOptions {
    /// Addresses for plain TCP.
    pub listen: Vec<SocketAddr>,
    /// Address for TLS, with certificate chain, private key and, if clients may log in by certificates, their
    /// authorities; all PEM.
    pub tls: Option<AmqpTls>,
    /// New connections in one second.
    pub connections_per_second_max: u32,
    /// Bounds.
    pub limits: AmqpLimits,
}

/// TLS of the AMQP gateway.
#[derive(Clone, Debug)]
pub struct AmqpTls {
    /// Address.
    pub listen: SocketAddr,
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Certificate authorities whose clients may log in by their certificates.
    pub client_ca: Option<PathBuf>,
}

/// A running AMQP gateway. Dropping it stops it without waiting; [`Gateway::shut_down`] waits.
pub struct AmqpGateway {
    admissions: Arc<Admissions>,
    counters: Arc<AmqpCounters>,
    workers: Workers<Broker<BusLog>>,
    addresses: Vec<GatewayAddress>,
}

const NAME: &str = "amqp";

impl AmqpGateway {
    /// Binds the addresses, restores the queues and starts the thread.
    ///
    /// # Errors
    /// *Configuration*: an address or a certificate cannot be used. Otherwise what the store reports.
    pub fn start(
        bus: Bus,
        authorizer: Arc<dyn Authorizer>,
        options: AmqpOptions,
    ) -> Result<AmqpGateway> {
        let store = bus.store(NAME)?;
        let mut addresses = Vec::new();
        let mut acceptors = Acceptors::default();
        for address in &options.listen {
            let (listener, local) = bind_tcp(*address, "amqp.listen")?;
            addresses.push(GatewayAddress {
                scheme: "amqp",
                address: local,
            });
            acceptors.tcp.push(listener);
        }
        if let Some(tls) = &options.tls {
            let config = server_tls(&tls.cert, &tls.key, tls.client_ca.as_deref())?;
            let (listener, local) = bind_tcp(tls.listen, "amqp.tls_listen")?;
            addresses.push(GatewayAddress {
                scheme: "amqps",
                address: local,
            });
            acceptors.tls.push((listener, Arc::new(config)));
        }
        let limits = options.limits;
        let per_second = match options.connections_per_second_max {
            0 => u32::MAX,
            n => n,
        };
        let admissions = Arc::new(Admissions::new(limits.connections_max, per_second));
        let counters = Arc::new(AmqpCounters::default());
        let workers = WorkersOptions {
            name: NAME,
            // Exchanges and queues belong to one thread.
            threads: 1,
            bus: bus.clone(),
            authorizer,
            admissions: Arc::clone(&admissions),
            payload_bytes_max: limits.payload_bytes_max,
            store: Some(store.clone()),
        };
        let (of_thread, counted) = (Arc::clone(&admissions), Arc::clone(&counters));
        let make = move |_, log| {
            let mut records = Vec::new();
            store.for_each(b"", |key, value| records.push((key.clone(), value.clone())));
            let now = bus.clock().now_micros();
            Broker::new(
                log,
                limits.clone(),
                Arc::clone(&of_thread),
                Arc::clone(&counted),
                records,
                now,
            )
        };
        Ok(AmqpGateway {
            workers: Workers::start(workers, acceptors, make)?,
            admissions,
            counters,
            addresses,
        })
    }
}

impl Gateway for AmqpGateway {
    fn name(&self) -> &str {
        NAME
    }

    fn addresses(&self) -> Vec<GatewayAddress> {
        self.addresses.clone()
    }

    fn counts(&self) -> GatewayCounts {
        GatewayCounts {
            connections: self.admissions.connections() as u64,
            connections_total: self.admissions.accepted(),
            refusals_total: self.counters.refusals.get(),
            logins_refused_total: self.counters.logins_refused.get(),
            events_in_total: self.counters.published.get(),
            bytes_in_total: self.counters.published_bytes.get(),
            events_refused_total: self.counters.publishes_refused.get(),
            events_out_total: self.counters.delivered.get(),
            datagrams_lost_total: 0,
        }
    }

    fn shut_down(&self) {
        self.workers.shut_down();
    }
}

impl Protocol for Broker<BusLog> {
    type Reader = BrokerRead;
    type Message = ();

    fn log(&mut self) -> &mut BusLog {
        &mut self.log
    }

    fn open(&mut self, origin: ClientOrigin, paced: bool, now: Micros) -> Option<ConnId> {
        Broker::open(self, origin, paced, now)
    }

    fn input(&mut self, id: ConnId, bytes: &[u8], now: Micros) {
        Broker::input(self, id, bytes, now);
    }

    fn output(&self, id: ConnId) -> &[u8] {
        Broker::output(self, id)
    }

    fn wrote(&mut self, id: ConnId, n: usize) {
        Broker::wrote(self, id, n);
    }

    fn wants_input(&mut self, id: ConnId, now: Micros) -> bool {
        Broker::wants_input(self, id, now)
    }

    fn is_closing(&mut self, id: ConnId) -> bool {
        Broker::is_closing(self, id)
    }

    fn was_refused(&mut self, id: ConnId) -> bool {
        Broker::was_refused(self, id)
    }

    fn gone(&mut self, id: ConnId, now: Micros) {
        Broker::gone(self, id, now);
    }

    fn take_awake(&mut self) -> Vec<ConnId> {
        Broker::take_awake(self)
    }

    fn take_effects(&mut self) -> Vec<BrokerEffect> {
        Broker::take_effects(self)
    }

    fn has_work(&self) -> bool {
        Broker::has_work(self)
    }

    fn turn(&mut self, now: Micros) -> bool {
        Broker::turn(self, now)
    }

    fn tick(&mut self, now: Micros) {
        Broker::tick(self, now);
    }

    fn is_watching(&self) -> bool {
        Broker::is_watching(self)
    }

    fn connections(&self) -> usize {
        Broker::connections(self)
    }

    fn authenticated(
        &mut self,
        id: ConnId,
        result: std::result::Result<Arc<dyn Identity>, Denied>,
        now: Micros,
    ) {
        Broker::authenticated(self, id, result, now);
    }

    fn shut_down(&mut self, now: Micros) {
        Broker::shut_down(self, now);
    }

    fn journalled(&mut self, batch: u64, durable: bool, now: Micros) {
        Broker::journalled(self, batch, durable, now);
    }

    fn rows_read(
        &mut self,
        reader: BrokerRead,
        partition: u32,
        offset: u64,
        result: std::result::Result<Vec<Chunk>, u64>,
    ) {
        Broker::rows_read(self, reader, partition, offset, result);
    }
}

//! Logging in, and what a login may do.

use std::sync::Arc;

use busbar_event::Micros;
use busbar_gateway::{ConnId, Credentials, Denied, Effect, EventLog, Identity, Reach};

use crate::codec::{FieldTable, encode};
use crate::fault::AmqpFault;
use crate::graph::QueueIndex;
use crate::limits::{CHANNELS_MAX, FRAME_BYTES_MAX, PERMISSION_CACHE_TOPICS_MAX};
use crate::mapping;

use super::Broker;
use super::connection::ConnStage;

/// User and password of a response of PLAIN: an identity to act as, the user, the password, divided by NUL.
pub(super) fn plain(response: &[u8]) -> Option<(String, Vec<u8>)> {
    let mut parts = response.splitn(3, |byte| *byte == 0).skip(1);
    let user = String::from_utf8(parts.next()?.to_vec()).ok()?;
    Some((user, parts.next()?.to_vec()))
}

impl<S: EventLog> Broker<S> {
    /// Reads the answer of a client to the offered mechanisms and has it checked.
    pub(super) fn log_in(
        &mut self,
        id: ConnId,
        mechanism: &str,
        response: &[u8],
    ) -> Result<(), AmqpFault> {
        let Some(conn) = self.conn(id) else {
            return Ok(());
        };
        if conn.surplus {
            return Err(AmqpFault::not_allowed(
                "connection refused: node connection limit is reached",
            ));
        }
        let malformed = || AmqpFault::syntax(format!("malformed response of {mechanism}"));
        let (username, password) = match mechanism {
            "PLAIN" => {
                let (user, password) = plain(response).ok_or_else(malformed)?;
                (Some(user), Some(password))
            }
            "AMQPLAIN" => {
                let table = FieldTable::check(response)?;
                let field = |name| table.get(name).and_then(|value| value.as_text());
                match (field("LOGIN"), field("PASSWORD")) {
                    (Some(user), Some(password)) => {
                        (Some(user.to_owned()), Some(password.as_bytes().to_vec()))
                    }
                    _ => return Err(malformed()),
                }
            }
            "EXTERNAL" if conn.origin.user.is_some() => (None, None),
            _ => return Err(AmqpFault::login_refused(mechanism)),
        };
        conn.mechanism = match mechanism {
            "PLAIN" => "PLAIN",
            "AMQPLAIN" => "AMQPLAIN",
            _ => "EXTERNAL",
        };
        conn.stage = ConnStage::Login;
        conn.waits = true;
        let credentials = Credentials {
            client_id: conn.client.as_deref().unwrap_or_default().to_owned(),
            username,
            password,
            origin: conn.origin.clone(),
        };
        self.effects.push(Effect::Authenticate(id, credentials));
        Ok(())
    }

    /// The login was checked.
    pub fn authenticated(
        &mut self,
        id: ConnId,
        result: Result<Arc<dyn Identity>, Denied>,
        now: Micros,
    ) {
        let heartbeat_s = self.limits.heartbeat_s;
        let Some(conn) = self.conn(id) else { return };
        if conn.stage != ConnStage::Login {
            return;
        }
        conn.waits = false;
        if conn.v1.is_some() {
            let taken = result.is_ok();
            if let Ok(identity) = result {
                conn.unrestricted = identity.is_unrestricted();
                conn.identity = Some(identity);
            }
            self.v1_authenticated(id, taken, now);
            return self.resume_input(id, now);
        }
        match result {
            Ok(identity) => {
                conn.unrestricted = identity.is_unrestricted();
                conn.identity = Some(identity);
                conn.stage = ConnStage::Tune;
                conn.out.append(None, |out| {
                    encode::tune(CHANNELS_MAX, FRAME_BYTES_MAX, heartbeat_s, out);
                });
                self.wake(id);
            }
            Err(_) => {
                let fault = AmqpFault::login_refused(conn.mechanism);
                let told = conn.takes_login_close;
                self.counters.logins_refused.add(1);
                match told {
                    true => self.close_connection(id, &fault, now),
                    // A client that does not know better takes a closed socket for a refused login.
                    false => {
                        self.log_ending(id, &fault.text(), now);
                        self.finish(id);
                    }
                }
            }
        }
        self.resume_input(id, now);
    }

    /// Whether the client may publish to a topic.
    pub(super) fn may_publish(&mut self, id: ConnId, topic: &str) -> bool {
        let Some(conn) = self.conn(id) else {
            return false;
        };
        if conn.unrestricted {
            return true;
        }
        if let Some(allowed) = conn.permissions.get(topic) {
            return *allowed;
        }
        let Some(identity) = conn.identity.clone() else {
            return false;
        };
        let allowed = identity.may_publish(topic, &self.log.stream_of(topic));
        if let Some(conn) = self.conn(id) {
            if conn.permissions.len() >= PERMISSION_CACHE_TOPICS_MAX {
                conn.permissions.clear();
            }
            conn.permissions.insert(topic.into(), allowed);
        }
        allowed
    }

    fn refused(&mut self, id: ConnId, what: &str) -> AmqpFault {
        let Some(conn) = self.conn(id) else {
            return AmqpFault::access_refused(what);
        };
        let (user, host) = (conn.user().to_owned(), conn.host);
        let vhost = &self.hosts[host].name;
        AmqpFault::access_refused(format!(
            "access to {what} in vhost '{vhost}' refused for user '{user}'"
        ))
    }

    fn may_read(&mut self, id: ConnId, filter: Option<busbar_event::topic::Filter>) -> bool {
        let Some(conn) = self.conn(id) else {
            return false;
        };
        conn.unrestricted
            || match (&conn.identity, filter) {
                (Some(identity), Some(filter)) => identity.may_subscribe(&filter) == Reach::All,
                _ => false,
            }
    }

    /// Whether the client may declare, delete, bind and read a queue.
    pub(super) fn check_queue(&mut self, id: ConnId, queue: &str) -> Result<(), AmqpFault> {
        let Some(conn) = self.conn(id) else {
            return Ok(());
        };
        if conn.unrestricted {
            return Ok(());
        }
        let host = conn.host;
        let topic = mapping::queue_topic(&self.hosts[host].prefix, queue);
        match self.may_read(id, busbar_event::topic::Filter::parse(&topic).ok()) {
            true => Ok(()),
            false => Err(self.refused(id, &format!("queue '{queue}'"))),
        }
    }

    /// Whether the client may read what a queue holds: all that its bindings may bring.
    pub(super) fn check_consume(&mut self, id: ConnId, index: QueueIndex) -> Result<(), AmqpFault> {
        if let Some(queue) = self.queue(index) {
            let name = Arc::clone(&queue.name);
            self.check_queue(id, &name)?;
        }
        self.check_reads(id, index)
    }

    /// Whether the client may receive all that the bindings of a queue may bring.
    pub(super) fn check_reads(&mut self, id: ConnId, index: QueueIndex) -> Result<(), AmqpFault> {
        let Some(conn) = self.conn(id) else {
            return Ok(());
        };
        if conn.unrestricted {
            return Ok(());
        }
        let Some(host) = self.queue(index).map(|queue| queue.vhost) else {
            return Ok(());
        };
        let sources: Vec<(Arc<str>, Arc<str>)> = self.hosts[host]
            .bindings_to(index)
            .map(|(source, binding)| (Arc::clone(source), Arc::clone(&binding.key)))
            .collect();
        for (source, key) in sources {
            self.check_exchange_read(id, &source, &key)?;
        }
        Ok(())
    }

    /// Whether the client may receive what an exchange passes on by a binding with this key.
    pub(super) fn check_exchange_read(
        &mut self,
        id: ConnId,
        exchange: &str,
        key: &str,
    ) -> Result<(), AmqpFault> {
        let Some(conn) = self.conn(id) else {
            return Ok(());
        };
        if conn.unrestricted {
            return Ok(());
        }
        let host = conn.host;
        let host = &self.hosts[host];
        let is_topic = host
            .exchanges
            .get(exchange)
            .is_some_and(|e| e.kind == crate::graph::ExchangeKind::Topic);
        let filter = mapping::filter_of(&host.prefix, exchange, is_topic, key);
        match self.may_read(id, filter) {
            true => Ok(()),
            false => Err(self.refused(id, &format!("exchange '{exchange}'"))),
        }
    }

    /// Whether the client may declare, delete and bind an exchange as a destination.
    pub(super) fn check_exchange(&mut self, id: ConnId, exchange: &str) -> Result<(), AmqpFault> {
        let Some(conn) = self.conn(id) else {
            return Ok(());
        };
        if conn.unrestricted {
            return Ok(());
        }
        let mut topic = String::new();
        let host = conn.host;
        mapping::write_topic(&self.hosts[host].prefix, exchange, "", &mut topic);
        match self.may_publish(id, &topic) {
            true => Ok(()),
            false => Err(self.refused(id, &format!("exchange '{exchange}'"))),
        }
    }
}

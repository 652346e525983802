//! What the operator is told of connections that the gateway ends.

use busbar_event::Micros;
use busbar_gateway::{ClientOrigin, ConnId, EventLog};

use super::Broker;

impl<S: EventLog> Broker<S> {
    /// Logs why a connection ends: not every client is told, and not every client shows it.
    #[cold]
    pub(super) fn log_ending(&self, id: ConnId, reason: &str, now: Micros) {
        let Some(Some(conn)) = self.conns.get(id.slot as usize) else {
            return;
        };
        if conn.id != id || self.stopping {
            return;
        }
        if let Some(left_out) = self.ended_connections.admit(now) {
            let container = conn.v1.as_deref().map(|v1| &v1.container);
            let client = conn.client.as_ref().or(container).map(|name| &**name);
            let user = Some(conn.user()).filter(|user| !user.is_empty());
            let peer = conn.origin.address.map(tracing::field::display);
            let message = "an AMQP connection was closed";
            tracing::warn!(client, user, peer, reason, left_out, "{message}");
        }
    }

    /// Logs that a connection was not even begun because there are too many.
    #[cold]
    pub(super) fn log_surplus(&self, origin: &ClientOrigin, now: Micros) {
        if let Some(left_out) = self.ended_connections.admit(now) {
            let peer = origin.address.map(tracing::field::display);
            let (most, setting) = (self.limits.connections_max, "limits.connections");
            let message = "an AMQP connection was refused: there are too many";
            tracing::warn!(peer, most, setting, left_out, "{message}");
        }
    }
}

//! How the gateway ends connections: what the client is told, and what the operator.

use std::sync::atomic::Ordering;

use busbar_gateway::ConnId;
use busbar_gateway::event_log::EventLog;
use busbar_mqtt::{Reason, Refusal, Split, Version, encode, version_of_refused_connect};

use crate::conn::Phase;
use crate::limits::REASON_STRING_BYTES_MAX;

use super::Core;

impl<S: EventLog> Core<S> {
    /// Ends a connection for what its client sent; `bytes` begin with the packet at fault.
    pub(super) fn refuse_bytes(&mut self, id: ConnId, refusal: Refusal, bytes: &[u8]) {
        let size = match busbar_mqtt::split(bytes, u32::MAX) {
            _ if refusal.reason != Reason::PACKET_TOO_LARGE => None,
            Ok(Split::Whole(frame)) => Some(frame.len),
            Ok(Split::Partial(len)) => len,
            Err(_) => None,
        };
        self.log_ending(id, None, refusal.reason, refusal.detail, size);
        if let Some(conn) = self.conn(id)
            && matches!(conn.phase, Phase::Connect)
        {
            // The answer to a CONNECT is a CONNACK, in the version the client asked for.
            let is_connect = bytes.first() == Some(&0x10);
            match version_of_refused_connect(bytes).filter(|_| is_connect) {
                Some(version) => {
                    conn.version = version;
                    return self.answer_refused(id, refusal.reason, refusal.detail);
                }
                None => conn.version = Version::V311,
            }
        }
        self.end(id, refusal.reason, refusal.detail);
    }

    /// Sends DISCONNECT with the reason, where the version of MQTT has it, and closes. The will is published.
    pub(super) fn disconnect(&mut self, id: ConnId, reason: Reason, detail: &str) {
        self.log_ending(id, None, reason, detail, None);
        self.end(id, reason, detail);
    }

    /// Tells the operator why a connection ends: 3.1.1 has no words for it, so its clients cannot tell. `packet_bytes` is
    /// the size of a packet that is too large.
    #[cold]
    pub(super) fn log_ending(
        &self,
        id: ConnId,
        client: Option<&str>,
        reason: Reason,
        detail: &str,
        packet_bytes: Option<usize>,
    ) {
        let Some(Some(conn)) = self.conns.slots.get(id.slot as usize) else {
            return;
        };
        if conn.id != id
            || matches!(conn.phase, Phase::Closing)
            || reason == Reason::SERVER_SHUTTING_DOWN
        {
            return;
        }
        let now = self.ticked.unwrap_or_default();
        let Some(left_out) = self.shared.ended_connections.admit(now) else {
            return;
        };
        let client = client.or_else(|| conn.session.as_ref().map(|s| &*s.client));
        let user = conn.identity.as_ref().map(|i| i.user());
        let peer = conn.origin.address.map(tracing::field::display);
        let reason = reason.name();
        let message = "an MQTT connection was closed";
        match packet_bytes {
            None => tracing::warn!(client, user, peer, reason, detail, left_out, "{message}"),
            Some(packet_bytes) => {
                let packet_bytes_max = conn.decoder.packet_bytes_max();
                let whole = packet_bytes_max == self.shared.limits.packet_bytes_max;
                // What a client may send before it is connected is no setting.
                let setting = whole.then_some("limits.payload_size");
                tracing::warn!(
                    client,
                    user,
                    peer,
                    reason,
                    packet_bytes,
                    packet_bytes_max,
                    setting,
                    left_out,
                    "{message}"
                );
            }
        }
    }

    /// As [`Core::disconnect`], of an end that was logged.
    pub(super) fn end(&mut self, id: ConnId, reason: Reason, detail: &str) {
        let live = self.conn(id).is_some_and(|c| c.is_live());
        let Some(conn) = self.conn(id) else { return };
        if matches!(conn.phase, Phase::Closing) {
            return;
        }
        if conn.connack_gate.take().is_some() {
            // CONNACK was not sent yet: it now carries the refusal, no will is published, and a session that
            // began with this connection ends.
            conn.out.drop_staged();
            conn.said_goodbye = true;
            if conn.began_session
                && let Some(session) = conn.session.as_mut()
            {
                session.expiry_s = 0;
            }
            let reason = match reason.fits_connack() {
                true => reason,
                false => Reason::UNSPECIFIED_ERROR,
            };
            return self.answer_refused(id, reason, detail);
        }
        let version = conn.version;
        let text = Some(cut(detail)).filter(|t| !t.is_empty());
        if live {
            conn.out.drop_staged();
            let bytes_max = conn.packet_out_max;
            conn.out.append(None, |out| {
                encode::disconnect(version, reason, text, bytes_max, out);
            });
        }
        conn.phase = Phase::Closing;
        conn.refused = true;
        conn.partial = Vec::new();
        self.shared
            .counters
            .refusals
            .fetch_add(1, Ordering::Relaxed);
        self.wake(id);
    }

    /// Refuses the CONNECT of `client`.
    pub(super) fn refuse_connect(
        &mut self,
        id: ConnId,
        client: &str,
        reason: Reason,
        detail: &str,
    ) {
        self.log_ending(id, Some(client), reason, detail, None);
        self.answer_refused(id, reason, detail);
    }

    /// Sends CONNACK with the reason, and closes.
    pub(super) fn answer_refused(&mut self, id: ConnId, reason: Reason, detail: &str) {
        let Some(conn) = self.conn(id) else { return };
        let version = conn.version;
        let text = Some(cut(detail)).filter(|t| !t.is_empty());
        let mut refusal = encode::ConnAck::refusal(reason, text);
        if refusal.packet_len(version) > conn.packet_out_max {
            refusal.reason_string = None;
        }
        if refusal.packet_len(version) <= conn.packet_out_max {
            conn.out.append(None, |out| refusal.encode(version, out));
        }
        conn.phase = Phase::Closing;
        conn.refused = true;
        conn.partial = Vec::new();
        self.shared
            .counters
            .refusals
            .fetch_add(1, Ordering::Relaxed);
        self.wake(id);
    }
}

fn cut(text: &str) -> &str {
    match text
        .char_indices()
        .find(|(at, _)| *at >= REASON_STRING_BYTES_MAX)
    {
        Some((at, _)) => &text[..at],
        None => text,
    }
}

//! What the connections of a core may hold together, so that many who are slow cost no more than a few.

use std::sync::Arc;

use busbar_event::Micros;
use busbar_mqtt::Split;

use crate::limits::READ_BYTES;
use busbar_gateway::{ConnId, EventLog};

use super::Core;

impl<S: EventLog> Core<S> {
    /// Gives back what idle buffers hold, and reckons how much may wait for each client.
    pub(super) fn measure_memory(&mut self) {
        let (mut waiting, mut packets) = (0, 0);
        for conn in self.conns.slots.iter_mut().flatten() {
            conn.out.trim();
            waiting += conn.out.len();
            packets += conn.out.take_packets();
        }
        self.tally.packets_out += packets;
        if self.waiting.recount(waiting) {
            // Those that stopped at the lower bound may have passed the mark at which they go on.
            let all: Vec<ConnId> = self.all_connections();
            for id in all {
                self.pump(id);
            }
        }
    }

    /// Whether there is room for the packet that a connection has begun to send. A small one always
    /// has it; large ones wait for each other.
    pub(super) fn has_room(&mut self, id: ConnId, now: Micros) -> bool {
        let shared = Arc::clone(&self.shared);
        let Some(conn) = self.conn(id) else {
            return true;
        };
        if conn.large > 0 || conn.partial.len() < READ_BYTES / 2 {
            return true;
        }
        let len = match conn.decoder.split(&conn.partial) {
            Ok(Split::Partial(Some(len))) if len > READ_BYTES => len,
            _ => return true,
        };
        conn.waits_for_room = !shared.admissions.take_room(len);
        if !conn.waits_for_room {
            conn.large = len;
            conn.large_since = now;
            conn.partial.reserve_exact(len - conn.partial.len());
        }
        !conn.waits_for_room
    }

    /// The packet at the front of what a connection sends is decoded.
    pub(super) fn give_room_back(&mut self, id: ConnId) {
        let shared = Arc::clone(&self.shared);
        if let Some(conn) = self.conn(id)
            && conn.large > 0
        {
            shared.admissions.give_room(std::mem::take(&mut conn.large));
        }
    }
}

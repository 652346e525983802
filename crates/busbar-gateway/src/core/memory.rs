//! What the connections of a core may hold together, so that many who are slow cost no more than a few.

use std::sync::Arc;

use busbar_event::Micros;
use busbar_mqtt::Split;

use crate::conn::ConnId;
use crate::event_log::EventLog;
use crate::limits::{OUT_BYTES_HIGH, OUT_BYTES_PRESSED, OUT_BYTES_TOTAL_HIGH, READ_BYTES};

use super::Core;

/// Bytes that wait to be written to the clients of a core, and how many may wait for each of them.
#[derive(Debug)]
pub(super) struct Waiting {
    bytes: usize,
    each_max: usize,
}

impl Default for Waiting {
    fn default() -> Waiting {
        Waiting {
            bytes: 0,
            each_max: OUT_BYTES_HIGH,
        }
    }
}

impl Waiting {
    /// Bytes waiting for one client at which it is given no more.
    #[inline]
    pub fn each_max(&self) -> usize {
        self.each_max
    }

    /// `n` bytes more are to be delivered. The bound falls at once: what one turn delivers to many
    /// clients is a multiple of what the core may hold.
    #[inline]
    pub fn add(&mut self, n: usize) {
        self.bytes += n;
        if self.bytes > OUT_BYTES_TOTAL_HIGH {
            self.each_max = OUT_BYTES_PRESSED;
        }
    }

    /// `n` bytes were written to a socket.
    #[inline]
    pub fn sub(&mut self, n: usize) {
        self.bytes = self.bytes.saturating_sub(n);
    }

    /// Takes a sum over all clients in place of what was reckoned since the last one, which leaves out
    /// acknowledgements and connections that have ended. True when there is room again.
    fn recount(&mut self, bytes: usize) -> bool {
        let before = self.each_max;
        self.bytes = 0;
        self.add(bytes);
        if bytes < OUT_BYTES_TOTAL_HIGH / 2 {
            self.each_max = OUT_BYTES_HIGH;
        }
        self.each_max > before
    }
}

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
        conn.waits_for_room = !shared.take_room(len);
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
            shared.give_room(std::mem::take(&mut conn.large));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_falls_at_once_and_rises_when_half_of_it_is_free() {
        let mut waiting = Waiting::default();
        waiting.add(OUT_BYTES_TOTAL_HIGH);
        assert_eq!(waiting.each_max(), OUT_BYTES_HIGH);
        waiting.add(1);
        assert_eq!(waiting.each_max(), OUT_BYTES_PRESSED);
        waiting.sub(OUT_BYTES_TOTAL_HIGH);
        assert!(!waiting.recount(OUT_BYTES_TOTAL_HIGH / 2));
        assert_eq!(waiting.each_max(), OUT_BYTES_PRESSED);
        assert!(waiting.recount(OUT_BYTES_TOTAL_HIGH / 2 - 1));
        assert_eq!(waiting.each_max(), OUT_BYTES_HIGH);
    }
}

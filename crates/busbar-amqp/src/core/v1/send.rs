//! From a queue to a receiver.

use busbar_event::Micros;
use busbar_gateway::EventLog;

use crate::graph::QueueIndex;
use crate::queue::{ConsumerRef, ReadyRow};
use crate::v1::encode::{self, TRANSFER_BYTES_MAX};
use crate::v1::message::{TriedBefore, write_message};

use super::super::Broker;
use super::link::V1Link;
use super::session::V1Unsettled;

impl<S: EventLog> Broker<S> {
    /// Sends a row to a receiver that takes more.
    pub(in super::super) fn v1_send_row(
        &mut self,
        to: ConsumerRef,
        index: QueueIndex,
        row: &ReadyRow,
        now: Micros,
    ) {
        let Some(Some(queue)) = self.queues.get_mut(index as usize) else {
            return;
        };
        let (queue_number, prefix) = (queue.number, &*self.hosts[queue.vhost].prefix);
        let Some(Some(conn)) = self.conns.get_mut(to.conn.slot as usize) else {
            return;
        };
        let Some(v1) = conn.v1.as_deref_mut() else {
            return;
        };
        let frame_bytes_max = v1.frame_bytes_max;
        let Some(session) = v1.sessions.get_mut(&to.channel) else {
            return;
        };
        let Some(V1Link::Consume(link)) = session.links.get_mut(&to.number) else {
            return;
        };
        let delivery = session.next_delivery;
        session.next_delivery = delivery.wrapping_add(1);
        link.credit.credit = link.credit.credit.saturating_sub(1);
        link.credit.delivery_count = link.credit.delivery_count.wrapping_add(1);
        let settled = link.settled;
        let attempts = TriedBefore {
            redelivered: row.redelivered,
            failed: queue.failures.get(&row.id).copied().unwrap_or(0),
        };
        let mut message = std::mem::take(&mut self.properties);
        message.clear();
        let of = (&row.rows.batch, row.row);
        write_message(of, row.payload(), prefix, attempts, now, &mut message);
        let before = conn.out.len();
        let part_bytes_max = frame_bytes_max - TRANSFER_BYTES_MAX;
        let count = message.len().div_ceil(part_bytes_max);
        for (n, part) in message.chunks(part_bytes_max).enumerate() {
            let first = (n == 0).then_some(delivery);
            let body = |out: &mut Vec<u8>| {
                encode::transfer(to.number, first, settled, n + 1 < count, out);
                out.extend_from_slice(part);
            };
            if session.remote_window == 0 {
                let mut held = Vec::with_capacity(part.len() + TRANSFER_BYTES_MAX);
                body(&mut held);
                session.held.push_back(held);
                continue;
            }
            session.remote_window -= 1;
            session.next_outgoing_id = session.next_outgoing_id.wrapping_add(1);
            conn.out
                .append(None, |out| encode::frame(0, to.channel, out, body));
        }
        self.output_budget.add(conn.out.len() - before);
        self.properties = message;
        match settled {
            true => {
                queue.taken.remove(&row.id);
                queue.failures.remove(&row.id);
            }
            false => session.unsettled.push_back(V1Unsettled {
                delivery,
                handle: to.number,
                queue: index,
                queue_number,
                row: row.id,
            }),
        }
        self.counters.delivered.add(1);
        self.wake(to.conn);
    }
}

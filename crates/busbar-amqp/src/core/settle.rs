//! What was committed: confirms, dead letters that are safe, and connections that waited.

use busbar_bus::Status;
use busbar_event::Micros;
use busbar_gateway::{ConnId, EventLog};

use crate::codec::encode;
use crate::codec::method::id;
use crate::fault::AmqpFault;

use super::Broker;
use super::channel::Disposition;

impl<S: EventLog> Broker<S> {
    /// Confirms what was committed.
    pub(super) fn settle(&mut self, now: Micros) {
        let publishing = std::mem::take(&mut self.publishing);
        for (id, number) in publishing {
            self.settle_channel(id, number, now);
        }
        let log = &self.log;
        let queues = &mut self.queues;
        self.on_the_way.retain(|(ticket, index, number)| {
            let pending = log.status(*ticket) == Status::Pending;
            if !pending
                && let Some(Some(queue)) = queues.get_mut(*index as usize)
                && queue.number == *number
            {
                queue.on_the_way -= 1;
            }
            pending
        });
        self.settle_dead(now);
    }

    fn settle_channel(&mut self, id: ConnId, number: u16, now: Micros) {
        if self.v1(id).is_some() {
            return self.v1_settle(id, number, now);
        }
        let Some(Some(conn)) = self.conns.get_mut(id.slot as usize) else {
            return;
        };
        if conn.id != id {
            return;
        }
        let Some(channel) = conn.channels.get_mut(&number) else {
            return;
        };
        let (mut acked, mut lost) = (None, false);
        let mut wrote = false;
        while let Some(front) = channel.pending.front() {
            let failed = match self.log.status(front.ticket) {
                Status::Pending => break,
                Status::Committed => false,
                Status::Failed(_) => true,
            };
            let tag = front.tag;
            channel.pending.pop_front();
            if !channel.confirms {
                lost |= failed;
                continue;
            }
            if !failed {
                acked = Some(tag);
                continue;
            }
            if let Some(tag) = acked.take() {
                conn.out
                    .append(None, |out| encode::ack(number, tag, true, out));
            }
            wrote = true;
            channel.confirmed = tag;
            conn.out
                .append(None, |out| encode::nack(number, tag, true, out));
        }
        if let Some(tag) = acked {
            wrote = true;
            let many = tag - channel.confirmed > 1;
            channel.confirmed = tag;
            conn.out
                .append(None, |out| encode::ack(number, tag, many, out));
        }
        if !channel.pending.is_empty() {
            self.publishing.push((id, number));
        }
        if wrote {
            self.wake(id);
        }
        if lost {
            let fault = AmqpFault::resource("a message could not be stored");
            self.fail(id, number, fault.of(id::BASIC_PUBLISH), now);
        }
    }

    /// Goes on with connections that waited.
    pub(super) fn resume_waiting(&mut self, now: Micros) {
        if self.waiting.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.waiting) {
            let pending = self.has_pending(id);
            let Some(conn) = self.conn(id) else { continue };
            if !conn.waits {
                continue;
            }
            if pending {
                self.waiting.push(id);
                continue;
            }
            let (mut committed, mut getting) = (Vec::new(), None);
            for (number, channel) in &mut conn.channels {
                if let Some(transaction) = &mut channel.transaction
                    && std::mem::take(&mut transaction.committing)
                {
                    committed.push(*number);
                }
                if let Some(get) = channel.getting.take() {
                    getting = Some((*number, get));
                }
            }
            conn.waits = false;
            for number in committed {
                self.send(id, |out| encode::bare(id::TX_COMMIT_OK, number, out));
            }
            if let Some((number, (queue, queue_number, no_ack))) = getting
                && !self.get_row(id, number, queue, queue_number, no_ack, now)
            {
                continue;
            }
            self.resume_input(id, now);
            self.wake(id);
        }
    }

    /// Dead-lettered rows whose copies are committed are done.
    fn settle_dead(&mut self, now: Micros) {
        let mut at = 0;
        while let Some(dying) = self.dying.get(at) {
            let outcome = match self.log.status(dying.ticket) {
                Status::Pending => {
                    at += 1;
                    continue;
                }
                Status::Committed => Disposition::Done,
                // It stays, and dies again.
                Status::Failed(_) => Disposition::Release,
            };
            let dying = self.dying.swap_remove(at);
            self.row_done(dying.queue, dying.queue_number, dying.row, outcome);
            let _ = now;
        }
    }
}

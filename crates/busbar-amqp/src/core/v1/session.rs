//! A session: its windows, its links and its deliveries.

use std::collections::VecDeque;

use busbar_bus::Status;
use busbar_event::Micros;
use busbar_gateway::{ConnId, EventLog};
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::graph::QueueIndex;
use crate::limits::{V1_CHANNEL_MAX, V1_HANDLE_MAX, V1_INCOMING_WINDOW};
use crate::queue::RowId;
use crate::v1::encode::{self, SentState};
use crate::v1::fault::{self, V1Fault};
use crate::v1::performative::{
    BeginFields, DeliveryOutcome, DispositionFields, FlowFields, Performative,
};

use super::super::Broker;
use super::super::channel::{Disposition, PendingPublish, Unacked};
use super::link::V1Link;

/// A session.
pub struct V1Session<T> {
    /// `end` was sent; everything but its answer is ignored.
    pub closing: bool,
    /// The highest handle that the client takes.
    pub handle_max: u32,
    /// The number of the transfer that is expected next.
    pub next_incoming_id: u32,
    /// Transfers that the client may still send.
    pub incoming_window: u32,
    /// The number of the next transfer to the client.
    pub next_outgoing_id: u32,
    /// Transfers that the client still takes.
    pub remote_window: u32,
    /// Frames of a message for which the window was too small, without their heads.
    pub held: VecDeque<Vec<u8>>,
    /// Links by the handle of the client, which is that of the server too.
    pub links: HashMap<u32, V1Link, RandomState>,
    /// The number of the next delivery to the client.
    pub next_delivery: u32,
    /// Deliveries that are not settled, in the order of their numbers.
    pub unsettled: VecDeque<V1Unsettled>,
    /// Messages of the client that are on their way to the log.
    pub pending: VecDeque<V1Pending<T>>,
}

/// A delivery that the client has not settled.
#[derive(Clone, Copy, Debug)]
pub struct V1Unsettled {
    pub delivery: u32,
    pub handle: u32,
    pub queue: QueueIndex,
    pub queue_number: u64,
    pub row: RowId,
}

/// Deliveries that follow each other, share a ticket and are on their way to the log.
#[derive(Clone, Copy, Debug)]
pub struct V1Pending<T> {
    pub publish: PendingPublish<T>,
    pub handle: u32,
    pub first: u32,
    pub last: u32,
    /// The client has settled them.
    pub settled: bool,
}

impl<T> V1Session<T> {
    fn new(begin: &BeginFields) -> V1Session<T> {
        V1Session {
            closing: false,
            handle_max: begin.handle_max.min(V1_HANDLE_MAX),
            next_incoming_id: begin.next_outgoing_id,
            incoming_window: V1_INCOMING_WINDOW,
            next_outgoing_id: 0,
            remote_window: begin.incoming_window,
            held: VecDeque::new(),
            links: HashMap::default(),
            next_delivery: 0,
            unsettled: VecDeque::new(),
            pending: VecDeque::new(),
        }
    }

    /// Where a delivery stands, or would stand, among those that are not settled. Numbers go round.
    pub fn place_of(&self, delivery: u32) -> usize {
        let first = self.unsettled.front().map_or(delivery, |u| u.delivery);
        let distance = |n: u32| n.wrapping_sub(first);
        if distance(delivery) > u32::MAX / 2 {
            return 0;
        }
        self.unsettled
            .partition_point(|u| distance(u.delivery) < distance(delivery))
    }
}

impl<S: EventLog> Broker<S> {
    /// Handles what is said on a session; false when it has to wait.
    pub(super) fn v1_of_session(
        &mut self,
        id: ConnId,
        channel: u16,
        performative: Performative<'_>,
        payload: &[u8],
        now: Micros,
    ) -> Result<bool, V1Fault> {
        let pending = match performative {
            // What a receiver gets begins at the end of the log: after what was sent before.
            Performative::Attach(ref attach) if attach.receives => self.has_pending(id),
            _ => false,
        };
        if pending {
            if let Some(conn) = self.conn(id) {
                conn.waits = true;
            }
            self.waiting.push(id);
            return Ok(false);
        }
        let Some(session) = self.v1_session(id, channel) else {
            return match performative {
                Performative::Begin(begin) => self.v1_session_begin(id, channel, &begin),
                _ => Err(V1Fault::connection(
                    fault::ILLEGAL_STATE,
                    format!("there is no session on channel {channel}"),
                )),
            }
            .map(|()| true);
        };
        if session.closing {
            if let Performative::End = performative
                && let Some(v1) = self.v1(id)
            {
                v1.sessions.remove(&channel);
            }
            return Ok(true);
        }
        match performative {
            Performative::Attach(attach) => self.v1_attach(id, channel, &attach, now)?,
            Performative::Flow(flow) => self.v1_flow(id, channel, &flow)?,
            Performative::Transfer(transfer) => {
                self.v1_transfer(id, channel, &transfer, payload, now)?;
            }
            Performative::Disposition(said) => self.v1_disposition(id, channel, &said)?,
            Performative::Detach(handle, closed) => {
                self.v1_detached(id, channel, handle, closed, now)?;
            }
            Performative::End => {
                self.v1_release_session(id, channel, now);
                if let Some(v1) = self.v1(id) {
                    v1.sessions.remove(&channel);
                }
                self.send(id, |out| encode::end(channel, None, out));
            }
            Performative::Begin(_) => {
                return Err(V1Fault::connection(
                    fault::ILLEGAL_STATE,
                    format!("the session on channel {channel} has begun already"),
                ));
            }
            _ => return Err(V1Fault::decode("not a performative of a session")),
        }
        Ok(true)
    }

    fn v1_session_begin(
        &mut self,
        id: ConnId,
        channel: u16,
        begin: &BeginFields,
    ) -> Result<(), V1Fault> {
        let Some(v1) = self.v1(id) else {
            return Ok(());
        };
        if channel > V1_CHANNEL_MAX.min(v1.channel_max) {
            return Err(V1Fault::framing(format!(
                "channel {channel} is beyond channel-max"
            )));
        }
        if begin.remote_channel.is_some() {
            return Err(V1Fault::connection(
                fault::INVALID_FIELD,
                "the server has begun no session that could be answered",
            ));
        }
        v1.sessions.insert(channel, V1Session::new(begin));
        self.send(id, |out| {
            encode::performative(0x11, channel, out, |l| {
                l.value(&crate::v1::TypedValue::Ushort(channel));
                l.uint(0)
                    .uint(V1_INCOMING_WINDOW)
                    .uint(u32::MAX)
                    .uint(V1_HANDLE_MAX);
            });
        });
        Ok(())
    }

    /// Sends `end` with an error, and ignores what comes until it is answered.
    pub(super) fn v1_end(&mut self, id: ConnId, channel: u16, fault: &V1Fault, now: Micros) {
        self.v1_release_session(id, channel, now);
        let Some(session) = self.v1_session(id, channel) else {
            return self.v1_close(id, fault, now);
        };
        if std::mem::replace(&mut session.closing, true) {
            return;
        }
        self.send(id, |out| encode::end(channel, Some(fault), out));
    }

    /// Gives back what a session holds: its links end, its deliveries go back to their queues.
    pub(super) fn v1_release_session(&mut self, id: ConnId, channel: u16, now: Micros) {
        let Some(session) = self.v1_session(id, channel) else {
            return;
        };
        session.pending.clear();
        session.held.clear();
        let handles: Vec<u32> = session.links.keys().copied().collect();
        for handle in handles {
            self.v1_release_link(id, channel, handle, false, now);
        }
    }

    fn v1_flow(&mut self, id: ConnId, channel: u16, flow: &FlowFields) -> Result<(), V1Fault> {
        let Some(session) = self.v1_session(id, channel) else {
            return Ok(());
        };
        let from = flow.next_incoming_id.unwrap_or(0);
        let on_the_way = session.next_outgoing_id.wrapping_sub(from);
        session.remote_window = flow.incoming_window.saturating_sub(on_the_way);
        session.next_incoming_id = flow.next_outgoing_id;
        self.v1_send_held(id, channel);
        if let Some(handle) = flow.handle {
            self.v1_link_flow(id, channel, handle, flow)?;
        } else if flow.echo {
            self.v1_send_flow(id, channel, None);
        }
        let Some(session) = self.v1_session(id, channel) else {
            return Ok(());
        };
        let queues: Vec<QueueIndex> = session.links.values().filter_map(V1Link::queue).collect();
        queues.into_iter().for_each(|queue| self.activate(queue));
        Ok(())
    }

    /// Sends frames that waited for the window of the session.
    fn v1_send_held(&mut self, id: ConnId, channel: u16) {
        while let Some(session) = self.v1_session(id, channel)
            && session.remote_window > 0
            && let Some(body) = session.held.pop_front()
        {
            session.remote_window -= 1;
            session.next_outgoing_id = session.next_outgoing_id.wrapping_add(1);
            let len = body.len();
            self.send(id, |out| {
                encode::frame(0, channel, out, |out| out.extend_from_slice(&body));
            });
            self.output_budget.add(len);
        }
    }

    /// Sends the windows of a session, and the credit of a link.
    pub(super) fn v1_send_flow(&mut self, id: ConnId, channel: u16, handle: Option<u32>) {
        let Some(session) = self.v1_session(id, channel) else {
            return;
        };
        session.incoming_window = V1_INCOMING_WINDOW;
        let (incoming, outgoing) = (session.next_incoming_id, session.next_outgoing_id);
        let link = handle.and_then(|handle| session.links.get(&handle)?.credit());
        self.send(id, |out| {
            encode::performative(0x13, channel, out, |l| {
                l.uint(incoming)
                    .uint(V1_INCOMING_WINDOW)
                    .uint(outgoing)
                    .uint(u32::MAX);
                if let (Some(handle), Some(link)) = (handle, link) {
                    l.uint(handle).uint(link.delivery_count).uint(link.credit);
                    l.null().flag(link.drain);
                }
            });
        });
    }

    fn v1_disposition(
        &mut self,
        id: ConnId,
        channel: u16,
        said: &DispositionFields,
    ) -> Result<(), V1Fault> {
        // Of what the client sent nothing is left to settle: the answer settles it.
        if !said.of_receiver {
            return Ok(());
        }
        let outcome = match (said.state, said.settled) {
            (Some(DeliveryOutcome::Accepted), _) => Disposition::Done,
            (Some(DeliveryOutcome::Rejected), _) => Disposition::Reject,
            (
                Some(DeliveryOutcome::Modified {
                    undeliverable: true,
                    ..
                }),
                _,
            ) => Disposition::Reject,
            (Some(DeliveryOutcome::Modified { failed: true, .. }), _) => Disposition::Requeue,
            (Some(DeliveryOutcome::Released | DeliveryOutcome::Modified { .. }), _) => {
                Disposition::Release
            }
            (None | Some(DeliveryOutcome::Received), true) => Disposition::Release,
            (None | Some(DeliveryOutcome::Received), false) => return Ok(()),
        };
        let Some(session) = self.v1_session(id, channel) else {
            return Ok(());
        };
        let from = session.place_of(said.first);
        let to = session.place_of(said.last.wrapping_add(1)).max(from);
        let settled: Vec<V1Unsettled> = session.unsettled.drain(from..to).collect();
        for delivery in settled {
            self.v1_settled(&delivery, outcome);
        }
        if !said.settled {
            // The client waits for the server to settle.
            self.send(id, |out| {
                encode::performative(0x15, channel, out, |l| {
                    l.flag(false).uint(said.first).uint(said.last).flag(true);
                    l.field(|out| {
                        let code = match outcome {
                            Disposition::Done => 0x24,
                            Disposition::Reject => 0x25,
                            _ => 0x26,
                        };
                        out.extend_from_slice(&[0, 0x53, code, 0x45]);
                    });
                });
            });
        }
        Ok(())
    }

    /// A delivery is done, or goes back to its queue.
    pub(super) fn v1_settled(&mut self, delivery: &V1Unsettled, outcome: Disposition) {
        let unacked = Unacked {
            tag: 0,
            queue: delivery.queue,
            queue_number: delivery.queue_number,
            row: delivery.row,
            consumer: None,
        };
        self.settle_row(&unacked, outcome, 0);
        // The receiver has room for another one.
        self.activate(delivery.queue);
    }

    /// Tells a client which of its messages are committed.
    pub(in super::super) fn v1_settle(&mut self, id: ConnId, channel: u16, now: Micros) {
        let Some(Some(conn)) = self.conns.get_mut(id.slot as usize) else {
            return;
        };
        let Some(v1) = conn.v1.as_deref_mut().filter(|_| conn.id == id) else {
            return;
        };
        let Some(session) = v1.sessions.get_mut(&channel) else {
            return;
        };
        let mut accepted: Option<(u32, u32)> = None;
        let (mut wrote, mut lost) = (false, None);
        while let Some(front) = session.pending.front().copied() {
            let failed = match self.log.status(front.publish.ticket) {
                Status::Pending => break,
                Status::Committed => false,
                Status::Failed(_) => true,
            };
            session.pending.pop_front();
            match (front.settled, failed) {
                (true, false) => continue,
                (true, true) => {
                    lost = Some(front.handle);
                    continue;
                }
                (false, false) => {
                    wrote = true;
                    accepted = match accepted {
                        Some((first, last)) if last.wrapping_add(1) == front.first => {
                            Some((first, front.last))
                        }
                        Some((first, last)) => {
                            conn.out.append(None, |out| {
                                encode::disposition(channel, first, last, SentState::Accepted, out);
                            });
                            Some((front.first, front.last))
                        }
                        None => Some((front.first, front.last)),
                    };
                }
                (false, true) => {
                    wrote = true;
                    let fault =
                        V1Fault::session(fault::INTERNAL, "the message could not be stored");
                    conn.out.append(None, |out| {
                        if let Some((first, last)) = accepted.take() {
                            encode::disposition(channel, first, last, SentState::Accepted, out);
                        }
                        let state = SentState::Rejected(&fault);
                        encode::disposition(channel, front.first, front.last, state, out);
                    });
                }
            }
        }
        if let Some((first, last)) = accepted {
            conn.out.append(None, |out| {
                encode::disposition(channel, first, last, SentState::Accepted, out);
            });
        }
        if !session.pending.is_empty() {
            self.publishing.push((id, channel));
        }
        if wrote {
            self.wake(id);
        }
        if let Some(handle) = lost {
            let fault = V1Fault::link(handle, fault::INTERNAL, "a message could not be stored");
            self.v1_fail(id, channel, fault, now);
        }
    }
}

//! Links: credit, and how they end.

use busbar_event::Micros;
use busbar_gateway::{ConnId, EventLog};

use crate::graph::QueueIndex;
use crate::limits::{UNACKED_PER_CHANNEL_MAX, V1_LINK_CREDIT};
use crate::queue::ConsumerRef;
use crate::v1::address::NodeAddress;
use crate::v1::encode;
use crate::v1::fault::{self, V1Fault};
use crate::v1::performative::FlowFields;

use super::super::Broker;
use super::super::channel::Disposition;
use super::super::connection::AmqpConn;

/// A link.
#[derive(Debug)]
pub enum V1Link {
    /// The client sends.
    Publish(PublishLink),
    /// The client receives.
    Consume(ConsumeLink),
    /// `detach` was sent; everything but its answer is ignored.
    Closing,
}

/// A link on which the client sends.
#[derive(Debug)]
pub struct PublishLink {
    /// Where its messages go; `None` where each says it itself.
    pub target: Option<NodeAddress>,
    /// Its credit.
    pub credit: LinkCredit,
    /// The message of which more is to come.
    pub partial: Option<PartialMessage>,
    /// The queue that was made for it, and ends with it.
    pub dynamic: Option<(QueueIndex, u64)>,
}

/// The beginning of a message.
#[derive(Debug)]
pub struct PartialMessage {
    /// The number of its delivery.
    pub delivery: u32,
    /// Whether the client has settled it.
    pub settled: bool,
    /// What has arrived.
    pub bytes: Vec<u8>,
}

/// A link on which the client receives.
#[derive(Debug)]
pub struct ConsumeLink {
    /// The queue it receives from.
    pub queue: QueueIndex,
    /// Tells it from others that had or will have its index.
    pub queue_number: u64,
    /// Its credit.
    pub credit: LinkCredit,
    /// Whether deliveries are settled when they are sent.
    pub settled: bool,
    /// What becomes of the queue with the link.
    pub lifetime: QueueLifetime,
}

/// What becomes of the queue of a receiver when its link ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueLifetime {
    /// It stays.
    Kept,
    /// It ends with the link.
    Link,
    /// It ends when the link is closed, and stays when it is only detached.
    Subscription,
}

/// The credit of a link.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkCredit {
    /// Deliveries so far.
    pub delivery_count: u32,
    /// Deliveries that the receiver takes.
    pub credit: u32,
    /// Whether credit that nothing is there for is used up.
    pub drain: bool,
}

impl V1Link {
    /// The queue that it receives from.
    pub fn queue(&self) -> Option<QueueIndex> {
        match self {
            V1Link::Consume(link) => Some(link.queue),
            _ => None,
        }
    }

    /// Its credit.
    pub fn credit(&self) -> Option<LinkCredit> {
        match self {
            V1Link::Publish(link) => Some(link.credit),
            V1Link::Consume(link) => Some(link.credit),
            V1Link::Closing => None,
        }
    }
}

/// Whether a receiver takes another message.
pub(in super::super) fn takes_more<T>(
    conn: &mut AmqpConn<T>,
    of: ConsumerRef,
    out_bytes_max: usize,
) -> bool {
    let waiting = conn.out.len();
    let Some(session) = conn
        .v1
        .as_deref()
        .and_then(|v1| v1.sessions.get(&of.channel))
    else {
        return false;
    };
    let Some(V1Link::Consume(link)) = session.links.get(&of.number) else {
        return false;
    };
    if link.credit.credit == 0
        || session.remote_window == 0
        || !session.held.is_empty()
        || session.unsettled.len() >= UNACKED_PER_CHANNEL_MAX
    {
        return false;
    }
    if waiting >= out_bytes_max {
        conn.throttled = true;
        return false;
    }
    true
}

impl<S: EventLog> Broker<S> {
    pub(super) fn v1_link_flow(
        &mut self,
        id: ConnId,
        channel: u16,
        handle: u32,
        flow: &FlowFields,
    ) -> Result<(), V1Fault> {
        let Some(session) = self.v1_session(id, channel) else {
            return Ok(());
        };
        let (mut answers, mut activates) = (flow.echo, None);
        match session.links.get_mut(&handle) {
            None => return Err(unattached(handle)),
            Some(V1Link::Closing) => return Ok(()),
            Some(V1Link::Publish(_)) => {}
            Some(V1Link::Consume(link)) => {
                let credit = &mut link.credit;
                if let Some(given) = flow.link_credit {
                    let from = flow.delivery_count.unwrap_or(0);
                    // What is on its way counts.
                    let on_the_way = credit.delivery_count.wrapping_sub(from);
                    credit.credit = given.saturating_sub(on_the_way);
                }
                credit.drain = flow.drain;
                answers |= flow.drain && credit.credit == 0;
                activates = Some(link.queue);
            }
        }
        if answers {
            self.v1_send_flow(id, channel, Some(handle));
        }
        if let Some(queue) = activates {
            self.activate(queue);
        }
        Ok(())
    }

    /// Uses up the credit of the receivers of an empty queue that want that.
    pub(in super::super) fn v1_drained(&mut self, index: QueueIndex) {
        let mut at = 0;
        while let Some(consumer) = self.queue(index).and_then(|q| q.consumers.get(at).copied()) {
            at += 1;
            let session = self.v1_session(consumer.conn, consumer.channel);
            let Some(V1Link::Consume(link)) =
                session.and_then(|session| session.links.get_mut(&consumer.number))
            else {
                continue;
            };
            let credit = &mut link.credit;
            if credit.drain && credit.credit > 0 {
                credit.delivery_count = credit.delivery_count.wrapping_add(credit.credit);
                credit.credit = 0;
                self.v1_send_flow(consumer.conn, consumer.channel, Some(consumer.number));
            }
        }
    }

    /// Gives a client credit again when it has used up half of it.
    pub(super) fn v1_renew_credit(&mut self, id: ConnId, channel: u16, handle: u32) {
        let Some(session) = self.v1_session(id, channel) else {
            return;
        };
        let window_low = session.incoming_window < crate::limits::V1_INCOMING_WINDOW / 2;
        let low = match session.links.get_mut(&handle) {
            Some(V1Link::Publish(link)) if link.credit.credit <= V1_LINK_CREDIT / 2 => {
                link.credit.credit = V1_LINK_CREDIT;
                true
            }
            _ => false,
        };
        if low || window_low {
            self.v1_send_flow(id, channel, Some(handle));
        }
    }

    /// The client detaches a link.
    pub(super) fn v1_detached(
        &mut self,
        id: ConnId,
        channel: u16,
        handle: u32,
        closed: bool,
        now: Micros,
    ) -> Result<(), V1Fault> {
        let Some(session) = self.v1_session(id, channel) else {
            return Ok(());
        };
        match session.links.get(&handle) {
            None => return Err(unattached(handle)),
            Some(V1Link::Closing) => {
                session.links.remove(&handle);
                return Ok(());
            }
            Some(_) => {}
        }
        self.v1_release_link(id, channel, handle, closed, now);
        // The end of a durable subscription is on the disk before it is answered.
        self.answer(id, closed, |out| {
            encode::detach(channel, handle, closed, None, out)
        });
        Ok(())
    }

    /// Sends `detach` with an error, and ignores what comes until it is answered.
    pub(super) fn v1_detach(
        &mut self,
        id: ConnId,
        channel: u16,
        handle: u32,
        fault: &V1Fault,
        now: Micros,
    ) {
        let attached = self
            .v1_session(id, channel)
            .and_then(|s| s.links.get(&handle));
        if attached.is_none_or(|link| matches!(link, V1Link::Closing)) {
            return;
        }
        self.v1_release_link(id, channel, handle, false, now);
        if let Some(session) = self.v1_session(id, channel) {
            session.links.insert(handle, V1Link::Closing);
        }
        self.send(id, |out| {
            encode::detach(channel, handle, true, Some(fault), out)
        });
    }

    /// Gives back what a link holds: its deliveries go back to their queue.
    pub(super) fn v1_release_link(
        &mut self,
        id: ConnId,
        channel: u16,
        handle: u32,
        closed: bool,
        now: Micros,
    ) {
        let Some(v1) = self.v1(id) else { return };
        let Some(session) = v1.sessions.get_mut(&channel) else {
            return;
        };
        let (queue, number, goes) = match session.links.remove(&handle) {
            None | Some(V1Link::Closing) => return,
            Some(V1Link::Publish(link)) => {
                let partial = link.partial.map_or(0, |partial| partial.bytes.len());
                v1.partial_bytes = v1.partial_bytes.saturating_sub(partial);
                match link.dynamic {
                    Some((queue, number)) => (queue, number, true),
                    None => return,
                }
            }
            Some(V1Link::Consume(link)) => {
                let of_link = |delivery: &super::session::V1Unsettled| delivery.handle == handle;
                let open: Vec<_> = session.unsettled.iter().copied().filter(of_link).collect();
                session.unsettled.retain(|delivery| !of_link(delivery));
                for delivery in open {
                    self.v1_settled(&delivery, Disposition::Requeue);
                }
                let reference = ConsumerRef {
                    conn: id,
                    channel,
                    number: handle,
                };
                self.forget_reference(reference, link.queue, false, now);
                let goes = match link.lifetime {
                    QueueLifetime::Kept => false,
                    QueueLifetime::Link => true,
                    QueueLifetime::Subscription => closed,
                };
                (link.queue, link.queue_number, goes)
            }
        };
        if goes && self.queue(queue).is_some_and(|q| q.number == number) {
            self.delete_queue(queue, now);
        }
    }

    /// The queue of a receiver was deleted.
    pub(in super::super) fn v1_queue_gone(&mut self, consumer: ConsumerRef) {
        let session = self.v1_session(consumer.conn, consumer.channel);
        let Some(session) = session else { return };
        if !matches!(
            session.links.get(&consumer.number),
            Some(V1Link::Consume(_))
        ) {
            return;
        }
        session
            .unsettled
            .retain(|delivery| delivery.handle != consumer.number);
        session.links.insert(consumer.number, V1Link::Closing);
        let fault = V1Fault::link(
            consumer.number,
            fault::RESOURCE_DELETED,
            "the queue was deleted",
        );
        self.send(consumer.conn, |out| {
            encode::detach(consumer.channel, consumer.number, true, Some(&fault), out);
        });
    }
}

pub(super) fn unattached(handle: u32) -> V1Fault {
    V1Fault::session(
        fault::UNATTACHED_HANDLE,
        format!("no link has the handle {handle}"),
    )
}

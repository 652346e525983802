//! A channel, and the methods that clients send on it.

use std::collections::VecDeque;
use std::sync::Arc;

use busbar_event::Micros;
use busbar_gateway::{ConnId, EventLog};

use crate::codec::method::id;
use crate::codec::{ClientMethod, encode};
use crate::fault::AmqpFault;
use crate::graph::QueueIndex;
use crate::limits::{TX_BYTES_MAX, TX_OPERATIONS_MAX};
use crate::queue::RowId;

use super::Broker;

/// The name under which a client consumes the answers to its requests without declaring a queue, and which it gives
/// as `reply-to`.
pub const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// A channel.
pub struct Channel<T> {
    /// `close` was sent; everything but its answer is ignored.
    pub closing: bool,
    /// Whether publishes are confirmed.
    pub confirms: bool,
    /// Publishes since then.
    pub published: u64,
    /// Publishes that are confirmed, or refused.
    pub confirmed: u64,
    /// Publishes that are not settled, oldest first.
    pub pending: VecDeque<PendingPublish<T>>,
    pub content: Content,
    pub transaction: Option<ChannelTransaction>,
    pub last_tag: u64,
    /// Deliveries that are not acknowledged, in the order of their tags.
    pub unacked: VecDeque<Unacked>,
    pub consumers: Consumers,
    pub next_consumer: u32,
    /// Unacknowledged messages that new consumers may have, each; zero for any number.
    pub consumer_prefetch: u16,
    /// Unacknowledged messages that the consumers of the channel may have together.
    pub channel_prefetch: u16,
    /// The client takes messages.
    pub flows: bool,
    pub last_queue: Option<Arc<str>>,
    /// The queue that stands for [`DIRECT_REPLY_TO`] on this channel.
    pub direct_reply: Option<Arc<str>>,
    /// A `get` that waits for a row to be read: the queue, and whether it is acknowledged at once.
    pub getting: Option<(QueueIndex, u64, bool)>,
}

/// Publishes that are not settled and share a ticket.
#[derive(Clone, Copy, Debug)]
pub struct PendingPublish<T> {
    pub ticket: T,
    /// The last of them.
    pub tag: u64,
}

/// The content that is being received.
#[derive(Debug, Default)]
pub struct Content {
    pub stage: ContentStage,
    pub exchange: String,
    pub key: String,
    pub mandatory: bool,
    pub properties: Vec<u8>,
    pub len: usize,
    pub body: Vec<u8>,
}

/// What of a content comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContentStage {
    /// A method.
    #[default]
    Method,
    /// The header.
    Header,
    /// The body.
    Body,
}

/// What is to be done when a transaction is committed.
#[derive(Debug, Default)]
pub struct ChannelTransaction {
    pub publishes: Vec<Content>,
    pub bytes: usize,
    pub settlements: Vec<Settlement>,
    /// `commit` was sent, and its publishes are not settled.
    pub committing: bool,
}

/// What a client says of deliveries.
#[derive(Clone, Copy, Debug)]
pub struct Settlement {
    pub tag: u64,
    pub multiple: bool,
    pub outcome: Disposition,
}

/// What becomes of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    Done,
    /// It goes back, and the attempt counts.
    Requeue,
    /// It goes back as if it had not been delivered.
    Release,
    Reject,
}

/// A delivery that is not acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Unacked {
    pub tag: u64,
    pub queue: QueueIndex,
    pub queue_number: u64,
    pub row: RowId,
    /// The consumer; `None` for `get`.
    pub consumer: Option<u32>,
}

/// The consumers of a channel, by their numbers, which only grow.
#[derive(Debug, Default)]
pub struct Consumers(Vec<Consumer>);

impl Consumers {
    /// Adds one, whose number is the highest so far.
    pub fn add(&mut self, consumer: Consumer) {
        self.0.push(consumer);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Consumer> {
        self.0.iter()
    }

    pub fn get(&self, number: u32) -> Option<&Consumer> {
        self.0.get(self.at(number)?)
    }

    pub fn get_mut(&mut self, number: u32) -> Option<&mut Consumer> {
        let at = self.at(number)?;
        self.0.get_mut(at)
    }

    pub fn remove(&mut self, number: u32) -> Option<Consumer> {
        let at = self.at(number)?;
        Some(self.0.remove(at))
    }

    fn at(&self, number: u32) -> Option<usize> {
        self.0.binary_search_by_key(&number, |c| c.number).ok()
    }
}

impl IntoIterator for Consumers {
    type Item = Consumer;
    type IntoIter = std::vec::IntoIter<Consumer>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// A consumer.
#[derive(Debug)]
pub struct Consumer {
    pub number: u32,
    pub tag: Arc<str>,
    pub queue: QueueIndex,
    pub no_ack: bool,
    pub exclusive: bool,
    pub prefetch: u16,
    pub unacked: usize,
    /// Exchange and key of the topic that was delivered last.
    pub last: LastAddress,
}

/// The address of a topic, remembered from one delivery to the next.
#[derive(Debug, Default)]
pub struct LastAddress {
    pub topic: String,
    pub exchange: String,
    pub key: String,
}

impl<T> Default for Channel<T> {
    fn default() -> Channel<T> {
        Channel {
            closing: false,
            confirms: false,
            published: 0,
            confirmed: 0,
            pending: VecDeque::new(),
            content: Content::default(),
            transaction: None,
            last_tag: 0,
            unacked: VecDeque::new(),
            consumers: Consumers::default(),
            next_consumer: 0,
            consumer_prefetch: 0,
            channel_prefetch: 0,
            flows: true,
            last_queue: None,
            direct_reply: None,
            getting: None,
        }
    }
}

impl<S: EventLog> Broker<S> {
    pub(super) fn channel_method(
        &mut self,
        id: ConnId,
        number: u16,
        method_id: (u16, u16),
        method: ClientMethod<'_>,
        now: Micros,
    ) -> Result<(), AmqpFault> {
        let Some(conn) = self.conn(id) else {
            return Ok(());
        };
        let channels_max = conn.channels_max;
        let Some(channel) = conn.channels.get_mut(&number) else {
            return match method {
                ClientMethod::ChannelOpen if number > channels_max => {
                    Err(AmqpFault::not_allowed(format!(
                        "number of channels opened ({}) has reached the negotiated channel_max ({channels_max})",
                        conn.channels.len()
                    )))
                }
                ClientMethod::ChannelOpen => {
                    conn.channels.insert(number, Channel::default());
                    self.send(id, |out| {
                        encode::method(id::CHANNEL_OPEN_OK, number, out, |out| {
                            out.extend_from_slice(&[0; 4]);
                        });
                    });
                    Ok(())
                }
                ClientMethod::ChannelCloseOk => Ok(()),
                _ => Err(AmqpFault::channel_error(format!(
                    "expected 'channel.open', got method {} of class {} on channel {number}",
                    method_id.1, method_id.0
                ))),
            };
        };
        if channel.content.stage != ContentStage::Method {
            return Err(AmqpFault::unexpected_frame(
                "expected content header or body, got a method frame instead",
            ));
        }
        self.perform(id, number, method, now)
    }

    fn perform(
        &mut self,
        id: ConnId,
        number: u16,
        method: ClientMethod<'_>,
        now: Micros,
    ) -> Result<(), AmqpFault> {
        let Some(channel) = self.channel(id, number) else {
            return Ok(());
        };
        match method {
            ClientMethod::Publish {
                exchange,
                key,
                mandatory,
                immediate,
            } => {
                if immediate {
                    return Err(AmqpFault::not_implemented("immediate=true"));
                }
                let content = &mut channel.content;
                content.exchange.clear();
                content.exchange.push_str(exchange);
                content.key.clear();
                content.key.push_str(key);
                content.mandatory = mandatory;
                content.stage = ContentStage::Header;
                Ok(())
            }
            ClientMethod::Ack { tag, multiple } => self.settle_or_keep(
                id,
                number,
                Settlement {
                    tag,
                    multiple,
                    outcome: Disposition::Done,
                },
                now,
            ),
            ClientMethod::Nack {
                tag,
                multiple,
                requeue,
            } => {
                let outcome = if requeue {
                    Disposition::Requeue
                } else {
                    Disposition::Reject
                };
                self.settle_or_keep(
                    id,
                    number,
                    Settlement {
                        tag,
                        multiple,
                        outcome,
                    },
                    now,
                )
            }
            ClientMethod::Reject { tag, requeue } => {
                let outcome = if requeue {
                    Disposition::Requeue
                } else {
                    Disposition::Reject
                };
                self.settle_or_keep(
                    id,
                    number,
                    Settlement {
                        tag,
                        multiple: false,
                        outcome,
                    },
                    now,
                )
            }
            ClientMethod::Recover { requeue, answered } => {
                if !requeue {
                    return Err(AmqpFault::not_implemented("requeue=false"));
                }
                let all = Settlement {
                    tag: 0,
                    multiple: true,
                    outcome: Disposition::Requeue,
                };
                self.settle_deliveries(id, number, all, now)?;
                if answered {
                    self.send(id, |out| encode::bare(id::BASIC_RECOVER_OK, number, out));
                }
                Ok(())
            }
            ClientMethod::Consume(consume) => self.consume(id, number, &consume, now),
            ClientMethod::Cancel { tag, no_wait } => self.cancel(id, number, tag, no_wait, now),
            ClientMethod::CancelOk => Ok(()),
            ClientMethod::Get { queue, no_ack } => self.get(id, number, queue, no_ack, now),
            ClientMethod::Qos {
                size,
                count,
                global,
            } => {
                if size != 0 {
                    return Err(AmqpFault::not_implemented(format!(
                        "prefetch_size!=0 ({size})"
                    )));
                }
                match global {
                    true => channel.channel_prefetch = count,
                    false => channel.consumer_prefetch = count,
                }
                let queues: Vec<QueueIndex> = channel.consumers.iter().map(|c| c.queue).collect();
                queues.into_iter().for_each(|queue| self.activate(queue));
                self.send(id, |out| encode::bare(id::BASIC_QOS_OK, number, out));
                Ok(())
            }
            ClientMethod::QueueDeclare(declare) => self.queue_declare(id, number, &declare, now),
            ClientMethod::QueueDelete {
                queue,
                if_unused,
                if_empty,
                no_wait,
            } => self.queue_delete(id, number, queue, (if_unused, if_empty, no_wait), now),
            ClientMethod::QueuePurge { queue, no_wait } => {
                self.queue_purge(id, number, queue, no_wait)
            }
            ClientMethod::QueueBind(bind) => self.bind(id, number, &bind, true, now),
            ClientMethod::QueueUnbind(bind) => self.unbind(id, number, &bind, true),
            ClientMethod::ExchangeDeclare(declare) => self.exchange_declare(id, number, &declare),
            ClientMethod::ExchangeDelete {
                exchange,
                if_unused,
                no_wait,
            } => self.exchange_delete(id, number, exchange, if_unused, no_wait),
            ClientMethod::ExchangeBind(bind) => self.bind(id, number, &bind, false, now),
            ClientMethod::ExchangeUnbind(bind) => self.unbind(id, number, &bind, false),
            ClientMethod::ConfirmSelect { no_wait } => {
                if channel.transaction.is_some() {
                    return Err(AmqpFault::precondition(
                        "cannot switch from tx to confirm mode",
                    ));
                }
                channel.confirms = true;
                if !no_wait {
                    self.send(id, |out| encode::bare(id::CONFIRM_SELECT_OK, number, out));
                }
                Ok(())
            }
            ClientMethod::TxSelect => {
                if channel.confirms {
                    return Err(AmqpFault::precondition(
                        "cannot switch from confirm to tx mode",
                    ));
                }
                channel.transaction.get_or_insert_default();
                self.send(id, |out| encode::bare(id::TX_SELECT_OK, number, out));
                Ok(())
            }
            ClientMethod::TxCommit => self.commit(id, number, now),
            ClientMethod::TxRollback => {
                if channel.transaction.is_none() {
                    return Err(AmqpFault::precondition("channel is not transactional"));
                }
                channel.transaction = Some(ChannelTransaction::default());
                self.send(id, |out| encode::bare(id::TX_ROLLBACK_OK, number, out));
                Ok(())
            }
            ClientMethod::ChannelFlow { active } => {
                channel.flows = active;
                self.send(id, |out| {
                    encode::method(id::CHANNEL_FLOW_OK, number, out, |out| {
                        out.push(u8::from(active))
                    });
                });
                self.activate_consumed(id);
                Ok(())
            }
            ClientMethod::ChannelFlowOk | ClientMethod::ChannelCloseOk => Ok(()),
            ClientMethod::ChannelOpen => {
                Err(AmqpFault::channel_error("second 'channel.open' seen"))
            }
            ClientMethod::ChannelClose => {
                self.release_channel(id, number, now);
                if let Some(conn) = self.conn(id) {
                    conn.channels.remove(&number);
                }
                self.send(id, |out| encode::bare(id::CHANNEL_CLOSE_OK, number, out));
                Ok(())
            }
            ClientMethod::AccessRequest => {
                self.send(id, |out| {
                    encode::method(id::ACCESS_REQUEST_OK, number, out, |out| {
                        out.extend_from_slice(&1u16.to_be_bytes());
                    });
                });
                Ok(())
            }
            _ => Err(AmqpFault::command_invalid(
                "a method of the connection on a channel",
            )),
        }
    }

    /// Whether a method has to see what was published before it on this connection: it is counted, bound or
    /// read only when it is in the log. The connection waits then.
    pub(super) fn must_wait(&mut self, id: ConnId, payload: &[u8]) -> bool {
        let Some(&[a, b, c, d]) = payload.first_chunk::<4>() else {
            return false;
        };
        let method = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let looks = matches!(
            method,
            id::BASIC_GET
                | id::QUEUE_DECLARE
                | id::QUEUE_DELETE
                | id::QUEUE_PURGE
                | id::QUEUE_BIND
                | id::QUEUE_UNBIND
                | id::EXCHANGE_BIND
                | id::EXCHANGE_UNBIND
                | id::EXCHANGE_DELETE
                | id::CHANNEL_CLOSE
        );
        if !looks || !self.has_pending(id) {
            return false;
        }
        if let Some(conn) = self.conn(id) {
            conn.waits = true;
            self.waiting.push(id);
        }
        true
    }

    pub(super) fn has_pending(&mut self, id: ConnId) -> bool {
        self.conn(id).is_some_and(|conn| {
            let mut sessions = conn.v1.iter().flat_map(|v1| v1.sessions.values());
            conn.channels.values().any(|c| !c.pending.is_empty())
                || sessions.any(|s| !s.pending.is_empty())
        })
    }

    fn settle_or_keep(
        &mut self,
        id: ConnId,
        number: u16,
        settlement: Settlement,
        now: Micros,
    ) -> Result<(), AmqpFault> {
        if let Some(transaction) = self
            .channel(id, number)
            .and_then(|c| c.transaction.as_mut())
        {
            transaction.settlements.push(settlement);
            return match transaction.settlements.len() > TX_OPERATIONS_MAX {
                true => Err(AmqpFault::resource("the transaction is too large")),
                false => Ok(()),
            };
        }
        self.settle_deliveries(id, number, settlement, now)
    }

    fn commit(&mut self, id: ConnId, number: u16, now: Micros) -> Result<(), AmqpFault> {
        let Some(channel) = self.channel(id, number) else {
            return Ok(());
        };
        let Some(transaction) = channel.transaction.replace(ChannelTransaction {
            committing: true,
            ..Default::default()
        }) else {
            return Err(AmqpFault::precondition("channel is not transactional"));
        };
        for content in &transaction.publishes {
            self.publish(id, number, content, &content.body, now)?;
        }
        for settlement in transaction.settlements {
            self.settle_deliveries(id, number, settlement, now)?;
        }
        if let Some(conn) = self.conn(id) {
            conn.waits = true;
            self.waiting.push(id);
        }
        Ok(())
    }

    /// Keeps a publish until its transaction is committed.
    pub(super) fn keep_publish(
        &mut self,
        id: ConnId,
        number: u16,
        content: &Content,
        body: &[u8],
    ) -> Result<(), AmqpFault> {
        let Some(transaction) = self
            .channel(id, number)
            .and_then(|c| c.transaction.as_mut())
        else {
            return Ok(());
        };
        transaction.bytes += body.len() + content.properties.len();
        if transaction.bytes > TX_BYTES_MAX || transaction.publishes.len() >= TX_OPERATIONS_MAX {
            return Err(AmqpFault::resource("the transaction is too large"));
        }
        transaction.publishes.push(Content {
            stage: ContentStage::Method,
            exchange: content.exchange.clone(),
            key: content.key.clone(),
            mandatory: content.mandatory,
            properties: content.properties.clone(),
            len: body.len(),
            body: body.to_vec(),
        });
        Ok(())
    }

    /// Gives back what a channel holds: its deliveries go back to their queues, its consumers end.
    pub(super) fn release_channel(&mut self, id: ConnId, number: u16, now: Micros) {
        let Some(channel) = self.channel(id, number) else {
            return;
        };
        let consumers = std::mem::take(&mut channel.consumers);
        let unacked = std::mem::take(&mut channel.unacked);
        channel.pending.clear();
        channel.content = Content::default();
        channel.transaction = None;
        for delivery in unacked {
            self.settle_row(&delivery, Disposition::Requeue, now);
        }
        for consumer in consumers {
            self.forget_consumer(id, number, &consumer, now);
        }
    }
}

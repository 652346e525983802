//! Deleting exchanges and queues, and purging.

use std::sync::Arc;

use busbar_event::Micros;
use busbar_gateway::{ConnId, EventLog};

use crate::codec::encode;
use crate::codec::method::id;
use crate::fault::AmqpFault;
use crate::graph::QueueIndex;
use crate::record::RecordKey;

use super::Broker;

impl<S: EventLog> Broker<S> {
    pub(super) fn exchange_delete(
        &mut self,
        id: ConnId,
        number: u16,
        name: &str,
        if_unused: bool,
        no_wait: bool,
    ) -> Result<(), AmqpFault> {
        let host = self.conn(id).map_or(0, |conn| conn.host);
        if name.is_empty() {
            return Err(AmqpFault::access_refused(
                "operation not permitted on the default exchange",
            ));
        }
        let mut durable = false;
        if let Some(exchange) = self.hosts[host].exchanges.get(name) {
            if exchange.is_predeclared() {
                return Err(AmqpFault::access_refused(format!(
                    "exchange name '{name}' contains reserved prefix 'amq.*'"
                )));
            }
            durable = exchange.durable;
            if if_unused && self.hosts[host].bindings_of(name).next().is_some() {
                return Err(AmqpFault::precondition(format!(
                    "exchange '{name}' in vhost '{}' in use",
                    self.hosts[host].name
                )));
            }
            self.check_exchange(id, name)?;
            self.remove_exchange(host, name);
        }
        if !no_wait {
            self.answer(id, durable, |out| {
                encode::bare(id::EXCHANGE_DELETE_OK, number, out)
            });
        }
        Ok(())
    }

    fn remove_exchange(&mut self, host: usize, name: &str) {
        let until = self.ends();
        let vhost = self.hosts[host].name.to_string();
        let durable = self.hosts[host]
            .exchanges
            .get(name)
            .is_some_and(|e| e.durable);
        for (source, binding) in self.hosts[host].remove_exchange(name, &until) {
            if binding.durable {
                self.journal_binding(host, &source, &binding);
            }
        }
        if durable {
            self.journal
                .delete(&RecordKey::Exchange(vhost, name.to_owned()));
        }
    }

    /// An exchange that goes with its last binding goes, if that is gone.
    pub(super) fn drop_unbound(&mut self, host: usize, source: &str) {
        let goes = self.hosts[host]
            .exchanges
            .get(source)
            .is_some_and(|e| e.auto_delete)
            && self.hosts[host].bindings_of(source).next().is_none();
        if goes {
            self.remove_exchange(host, source);
        }
    }

    pub(super) fn queue_delete(
        &mut self,
        id: ConnId,
        number: u16,
        name: &str,
        (if_unused, if_empty, no_wait): (bool, bool, bool),
        now: Micros,
    ) -> Result<(), AmqpFault> {
        let (mut count, mut durable) = (0, false);
        match self.queue_named(id, number, name) {
            Err(fault) if fault.code == 404 && !name.is_empty() => {}
            Err(fault) => return Err(fault),
            Ok(index) => {
                self.run_live();
                let Some(queue) = self.queue(index) else {
                    return Ok(());
                };
                let (used, messages) = (!queue.consumers.is_empty(), queue.messages());
                let (name, host, owned) = (
                    Arc::clone(&queue.name),
                    queue.vhost,
                    queue.owner == Some(id),
                );
                durable = queue.durable;
                let why = match (if_unused && used, if_empty && messages > 0) {
                    (true, _) => Some("in use"),
                    (_, true) => Some("not empty"),
                    _ => None,
                };
                if let Some(why) = why {
                    return Err(AmqpFault::precondition(format!(
                        "queue '{name}' in vhost '{}' {why}",
                        self.hosts[host].name
                    )));
                }
                if !owned {
                    self.check_queue(id, &name)?;
                }
                count = messages;
                self.delete_queue(index, now);
            }
        }
        if !no_wait {
            self.answer(id, durable, |out| {
                encode::counted(id::QUEUE_DELETE_OK, number, count, out)
            });
        }
        Ok(())
    }

    pub(super) fn queue_purge(
        &mut self,
        id: ConnId,
        number: u16,
        name: &str,
        no_wait: bool,
    ) -> Result<(), AmqpFault> {
        let index = self.queue_named(id, number, name)?;
        let Some(queue) = self.queue(index) else {
            return Ok(());
        };
        let (name, owned) = (Arc::clone(&queue.name), queue.owner == Some(id));
        if !owned {
            self.check_queue(id, &name)?;
        }
        // What is on its way into the log from others is not purged.
        self.run_live();
        let live = self.live.clone();
        let Some(queue) = self.queue(index) else {
            return Ok(());
        };
        let count = queue.purge();
        queue.counted.raise(&live);
        let durable = queue.durable;
        if durable {
            self.journal_queue(index);
        }
        if !no_wait {
            self.answer(id, durable, |out| {
                encode::counted(id::QUEUE_PURGE_OK, number, count, out)
            });
        }
        Ok(())
    }

    /// Deletes a queue: its consumers are told, its bindings end.
    pub(super) fn delete_queue(&mut self, index: QueueIndex, _: Micros) {
        let Some(queue) = self.queues.get_mut(index as usize).and_then(Option::take) else {
            return;
        };
        self.free_queues.push(index);
        self.queue_count -= 1;
        self.rejecting -= usize::from(queue.rules.rejects());
        self.timed.retain(|timed| *timed != index);
        self.active.retain(|active| *active != index);
        let (host, vhost) = (queue.vhost, self.hosts[queue.vhost].name.to_string());
        for consumer in &queue.consumers {
            self.v1_queue_gone(*consumer);
            let Some(conn) = self.conn(consumer.conn) else {
                continue;
            };
            let told = conn.takes_cancel;
            let Some(channel) = conn.channels.get_mut(&consumer.channel) else {
                continue;
            };
            let Some(ended) = channel.consumers.remove(consumer.number) else {
                continue;
            };
            if told {
                self.send(consumer.conn, |out| {
                    encode::cancel(consumer.channel, &ended.tag, out)
                });
            }
        }
        if let Some(owner) = queue.owner
            && let Some(conn) = self.conn(owner)
        {
            conn.exclusive.retain(|owned| *owned != index);
        }
        let removed = self.hosts[host].remove_queue(&queue.name);
        for (source, binding) in removed {
            if binding.durable {
                self.journal
                    .delete(&RecordKey::Binding(vhost.clone(), binding.number));
            }
            self.drop_unbound(host, &source);
        }
        if queue.durable {
            self.journal.forget(index);
            self.journal
                .delete(&RecordKey::Queue(vhost, queue.name.to_string()));
        }
    }
}

//! Attaching links: which queue or topic an address means for a client, and what is made for it.

use std::sync::Arc;

use busbar_event::Micros;
use busbar_event::topic::Filter;
use busbar_gateway::reserved::is_reserved;
use busbar_gateway::{ConnId, EventLog};

use crate::args::QueueRules;
use crate::fault::AmqpFault;
use crate::graph::{Destination, ExchangeKind, QueueIndex};
use crate::limits::{
    BINDINGS_MAX, QUEUES_MAX, SHORT_BYTES_MAX, V1_LINK_CREDIT, V1_NAME_BYTES_MAX,
    V1_SECTION_BYTES_MAX,
};
use crate::queue::{AmqpQueue, ConsumerRef};
use crate::v1::address::{NodeAddress, percent_encode};
use crate::v1::encode::{self, ListWriter};
use crate::v1::fault::{self, FaultScope, V1Fault};
use crate::v1::performative::{AttachFields, TerminusFields};
use crate::v1::value::TypedValue;

use super::super::Broker;
use super::link::{ConsumeLink, LinkCredit, PublishLink, QueueLifetime, V1Link};

/// What a receiver gets.
struct Receiving {
    queue: QueueIndex,
    /// The address that the client is told.
    address: String,
    lifetime: QueueLifetime,
    /// Something was made that has to be on the disk before the answer leaves.
    durable: bool,
}

/// The name of the queue that a durable subscription is.
pub fn subscription_queue(container: &str, link: &str) -> String {
    format!("subscription:{}:{link}", percent_encode(container))
}

/// What the capabilities of a terminus say of its address.
fn is_topic(terminus: &TerminusFields<'_>) -> Option<bool> {
    let has = |name| terminus.capabilities.has_symbol(name);
    match (
        has("topic") || has("temporary-topic"),
        has("queue") || has("temporary-queue"),
    ) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    }
}

fn no_address(address: &str) -> V1Fault {
    V1Fault::link(
        0,
        fault::INVALID_FIELD,
        format!("'{address}' is no address"),
    )
}

impl<S: EventLog> Broker<S> {
    pub(super) fn v1_attach(
        &mut self,
        id: ConnId,
        channel: u16,
        attach: &AttachFields<'_>,
        now: Micros,
    ) -> Result<(), V1Fault> {
        let Some(session) = self.v1_session(id, channel) else {
            return Ok(());
        };
        let handle = attach.handle;
        if handle > session.handle_max {
            return Err(V1Fault::framing(format!(
                "handle {handle} is beyond handle-max, {}",
                session.handle_max
            )));
        }
        if session.links.contains_key(&handle) {
            return Err(V1Fault::session(
                fault::HANDLE_IN_USE,
                format!("handle {handle} is in use"),
            ));
        }
        let is_name = attach.name.len() <= V1_NAME_BYTES_MAX && !attach.name.contains('\0');
        let done = match (is_name, attach.receives) {
            (false, _) => Err(V1Fault::link(
                handle,
                fault::INVALID_FIELD,
                format!("the name of the link has a NUL, or more than {V1_NAME_BYTES_MAX} bytes"),
            )),
            (true, true) => self.v1_attach_receiver(id, channel, attach, now),
            (true, false) => self.v1_attach_sender(id, channel, attach, now),
        };
        match done {
            Err(fault) if matches!(fault.scope, FaultScope::Link(_)) => {
                self.v1_refuse_link(id, channel, attach, &fault);
                Ok(())
            }
            done => done,
        }
    }

    /// Refuses a link as the standard says: it is attached without what was asked for, and closed.
    fn v1_refuse_link(
        &mut self,
        id: ConnId,
        channel: u16,
        attach: &AttachFields<'_>,
        fault: &V1Fault,
    ) {
        if let Some(session) = self.v1_session(id, channel) {
            session.links.insert(attach.handle, V1Link::Closing);
        }
        self.send(id, |out| {
            encode::performative(0x12, channel, out, |l| {
                l.text(attach.name)
                    .uint(attach.handle)
                    .flag(!attach.receives);
                l.null().null().null().null().null().null();
                match attach.receives {
                    true => l.uint(0),
                    false => l.null(),
                };
            });
            encode::detach(channel, attach.handle, true, Some(fault), out);
        });
    }

    fn v1_attach_sender(
        &mut self,
        id: ConnId,
        channel: u16,
        attach: &AttachFields<'_>,
        now: Micros,
    ) -> Result<(), V1Fault> {
        let refuse = |condition, text: &str| Err(V1Fault::link(attach.handle, condition, text));
        let Some(target) = &attach.target else {
            return refuse(fault::INVALID_FIELD, "the link has no target");
        };
        if target.coordinates {
            return refuse(
                fault::NOT_IMPLEMENTED,
                "transactions are there in AMQP 0-9-1 and not in AMQP 1.0",
            );
        }
        let (mut dynamic, mut durable) = (None, false);
        let (node, address) = match (target.dynamic, target.address) {
            (true, _) if is_topic(target) == Some(true) => {
                let topic = format!("temporary/{}", self.made_up_name(now));
                let address = format!("/topics/{topic}");
                (Some(NodeAddress::Topic(topic)), Some(address))
            }
            (true, _) => {
                let (queue, name) = self.v1_temporary_queue(id, now)?;
                dynamic = self.queue(queue).map(|q| (queue, q.number));
                (Some(NodeAddress::Queue(name.clone(), true)), Some(name))
            }
            (false, None) => (None, None),
            (false, Some(address)) => {
                let node = NodeAddress::parse(address, is_topic(target))
                    .ok_or_else(|| no_address(address))?;
                durable = self.v1_check_target(id, &node, now)?;
                (Some(node), Some(address.to_owned()))
            }
        };
        let link = PublishLink {
            target: node,
            credit: LinkCredit {
                delivery_count: attach.initial_delivery_count,
                credit: V1_LINK_CREDIT,
                drain: false,
            },
            partial: None,
            dynamic,
        };
        if let Some(session) = self.v1_session(id, channel) {
            session.links.insert(attach.handle, V1Link::Publish(link));
        }
        let size = (self.limits.payload_bytes_max + V1_SECTION_BYTES_MAX) as u64;
        self.answer(id, durable, |out| {
            encode::performative(0x12, channel, out, |l| {
                l.text(attach.name).uint(attach.handle).flag(true);
                l.value(&TypedValue::Ubyte(attach.snd_settle_mode))
                    .value(&TypedValue::Ubyte(0));
                put_terminus(l, 0x28, attach.source.as_ref(), None);
                put_terminus(l, 0x29, Some(target), address.as_deref());
                l.null().null().null().value(&TypedValue::Ulong(size));
            });
        });
        self.v1_send_flow(id, channel, Some(attach.handle));
        Ok(())
    }

    /// Checks that a client may send to an address, and makes its queue if it is not there. True when something was
    /// made.
    pub(super) fn v1_check_target(
        &mut self,
        id: ConnId,
        node: &NodeAddress,
        now: Micros,
    ) -> Result<bool, V1Fault> {
        let host = self.conn(id).map_or(0, |conn| conn.host);
        if let NodeAddress::Exchange(name, key) = node {
            let exchange = self.hosts[host].exchanges.get(&**name);
            match exchange.filter(|_| !name.is_empty()) {
                None => {
                    let text = format!("there is no exchange '{name}'");
                    return Err(V1Fault::link(0, fault::NOT_FOUND, text));
                }
                Some(exchange) if exchange.internal => {
                    let text = format!("the exchange '{name}' is internal");
                    return Err(V1Fault::link(0, fault::UNAUTHORIZED, text));
                }
                Some(_) if key.is_none() => return Ok(false),
                Some(_) => {}
            }
        }
        let mut topic = String::new();
        node.write_topic(&self.hosts[host].prefix, None, &mut topic);
        if busbar_event::topic::check(&topic).is_err() {
            let text = format!("'{topic}' is no topic: it is empty, too long, or has a wildcard");
            return Err(V1Fault::link(0, fault::INVALID_FIELD, text));
        }
        if is_reserved(&topic) || topic.starts_with('$') || !self.may_publish(id, &topic) {
            return Err(V1Fault::link(
                0,
                fault::UNAUTHORIZED,
                format!("the user may not publish to the topic '{topic}'"),
            ));
        }
        match node {
            NodeAddress::Queue(name, there) => Ok(self.v1_queue(id, name, *there, now)?.1),
            _ => Ok(false),
        }
    }

    /// The queue of that name, which is made if it is not there and need not be; and whether it was made.
    fn v1_queue(
        &mut self,
        id: ConnId,
        name: &str,
        there: bool,
        now: Micros,
    ) -> Result<(QueueIndex, bool), V1Fault> {
        let host = self.conn(id).map_or(0, |conn| conn.host);
        if let Some((index, _)) = self.hosts[host].queues.get(name) {
            return Ok((*index, false));
        }
        if there {
            let text = format!("there is no queue '{name}'");
            return Err(V1Fault::link(0, fault::NOT_FOUND, text));
        }
        // 0-9-1 has names of up to 255 bytes, and keeps these for itself.
        if name.len() > SHORT_BYTES_MAX || name.starts_with("amq.") {
            let text = format!(
                "there may be no queue '{name}': its name is too long, or begins with amq."
            );
            return Err(V1Fault::link(0, fault::INVALID_FIELD, text));
        }
        self.v1_make_queue(host, name, None, now)
            .map(|index| (index, true))
    }

    fn v1_make_queue(
        &mut self,
        host: usize,
        name: &str,
        owner: Option<ConnId>,
        now: Micros,
    ) -> Result<QueueIndex, V1Fault> {
        if self.queue_count >= QUEUES_MAX {
            return Err(V1Fault::link(
                0,
                fault::RESOURCE_LIMIT,
                "the node has too many queues",
            ));
        }
        let mut queue: AmqpQueue = self.new_queue(host, name, QueueRules::default(), now);
        queue.durable = owner.is_none();
        queue.declared_durable = owner.is_none();
        queue.owner = owner;
        Ok(self.create_queue(queue))
    }

    /// A queue that ends with its connection at the latest.
    fn v1_temporary_queue(
        &mut self,
        id: ConnId,
        now: Micros,
    ) -> Result<(QueueIndex, String), V1Fault> {
        let host = self.conn(id).map_or(0, |conn| conn.host);
        let name = format!("amq.gen-{}", self.made_up_name(now));
        let index = self.v1_make_queue(host, &name, Some(id), now)?;
        Ok((index, name))
    }

    fn v1_attach_receiver(
        &mut self,
        id: ConnId,
        channel: u16,
        attach: &AttachFields<'_>,
        now: Micros,
    ) -> Result<(), V1Fault> {
        let receiving = match &attach.source {
            None => self.v1_subscription(id, attach.name, now)?,
            Some(source) => self.v1_receiving(id, attach, source, now)?,
        };
        let index = receiving.queue;
        let Some(queue) = self.queue(index) else {
            return Ok(());
        };
        if queue.exclusive_consumer {
            let text = format!("the queue '{}' is in exclusive use", queue.name);
            return Err(V1Fault::link(attach.handle, fault::RESOURCE_LOCKED, text));
        }
        queue.had_consumers = true;
        queue.used = now;
        let queue_number = queue.number;
        queue.consumers.push(ConsumerRef {
            conn: id,
            channel,
            number: attach.handle,
        });
        let settled = attach.snd_settle_mode == 1;
        let link = ConsumeLink {
            queue: index,
            queue_number,
            credit: LinkCredit::default(),
            settled,
            lifetime: receiving.lifetime,
        };
        if let Some(session) = self.v1_session(id, channel) {
            session.links.insert(attach.handle, V1Link::Consume(link));
        }
        self.answer(id, receiving.durable, |out| {
            encode::performative(0x12, channel, out, |l| {
                l.text(attach.name).uint(attach.handle).flag(false);
                l.value(&TypedValue::Ubyte(u8::from(settled)))
                    .value(&TypedValue::Ubyte(0));
                put_terminus(l, 0x28, attach.source.as_ref(), Some(&receiving.address));
                put_terminus(l, 0x29, attach.target.as_ref(), None);
                l.null().null().uint(0);
            });
        });
        Ok(())
    }

    /// A durable subscription that a client asks for by its name alone, as Qpid JMS does to end it.
    fn v1_subscription(
        &mut self,
        id: ConnId,
        link: &str,
        now: Micros,
    ) -> Result<Receiving, V1Fault> {
        let container = self
            .v1(id)
            .map(|v1| Arc::clone(&v1.container))
            .unwrap_or_default();
        let host = self.conn(id).map_or(0, |conn| conn.host);
        let name = subscription_queue(&container, link);
        let found = self.hosts[host].queues.get(&*name).map(|(index, _)| *index);
        let Some(index) = found else {
            let text = format!("'{container}' has no durable subscription '{link}'");
            return Err(V1Fault::link(0, fault::NOT_FOUND, text));
        };
        allowed(self.check_reads(id, index))?;
        self.v1_steal(index, now);
        let mut bindings = self.hosts[host].bindings_to(index);
        let address = bindings.next().map(|(exchange, binding)| {
            format!(
                "/exchanges/{}/{}",
                percent_encode(exchange),
                percent_encode(&binding.key)
            )
        });
        Ok(Receiving {
            queue: index,
            address: address.unwrap_or_default(),
            lifetime: QueueLifetime::Subscription,
            durable: false,
        })
    }

    fn v1_receiving(
        &mut self,
        id: ConnId,
        attach: &AttachFields<'_>,
        source: &TerminusFields<'_>,
        now: Micros,
    ) -> Result<Receiving, V1Fault> {
        let refuse = |condition, text: &str| Err(V1Fault::link(attach.handle, condition, text));
        if source.filter.is_some_and(|filter| !filter.is_empty()) {
            return refuse(
                fault::NOT_IMPLEMENTED,
                "filters and selectors of a source are not supported; use a topic with wildcards, or a flow",
            );
        }
        if ["shared", "global"]
            .iter()
            .any(|name| source.capabilities.has_symbol(name))
        {
            return refuse(
                fault::NOT_IMPLEMENTED,
                "shared subscriptions are not supported; let the receivers share a queue",
            );
        }
        if source.dynamic {
            let (queue, name) = self.v1_temporary_queue(id, now)?;
            return Ok(Receiving {
                queue,
                address: name,
                lifetime: QueueLifetime::Link,
                durable: false,
            });
        }
        let Some(address) = source.address else {
            return refuse(fault::INVALID_FIELD, "the source has no address");
        };
        let node =
            NodeAddress::parse(address, is_topic(source)).ok_or_else(|| no_address(address))?;
        let NodeAddress::Queue(name, there) = &node else {
            return self.v1_subscribe(id, attach.name, source, &node, now);
        };
        // Every receiver of a topic has a copy.
        if source.distribution == Some("copy") {
            return refuse(fault::NOT_IMPLEMENTED, "a queue cannot be browsed");
        }
        let host = self.conn(id).map_or(0, |conn| conn.host);
        if !self.hosts[host].queues.contains_key(&**name) {
            allowed(self.check_queue(id, name))?;
        }
        let (queue, durable) = self.v1_queue(id, name, *there, now)?;
        allowed(self.check_owner(id, queue))?;
        allowed(self.check_consume(id, queue))?;
        Ok(Receiving {
            queue,
            address: address.to_owned(),
            lifetime: QueueLifetime::Kept,
            durable,
        })
    }

    /// The queue of a receiver from a topic or an exchange.
    fn v1_subscribe(
        &mut self,
        id: ConnId,
        link: &str,
        source: &TerminusFields<'_>,
        node: &NodeAddress,
        now: Micros,
    ) -> Result<Receiving, V1Fault> {
        let address = source.address.unwrap_or_default().to_owned();
        if let NodeAddress::Topic(filter) = node
            && (Filter::parse(filter).is_err()
                || filter.starts_with('$')
                || filter.split('/').any(|level| level == "*"))
        {
            let text = format!("'{filter}' is no filter of topics");
            return Err(V1Fault::link(0, fault::INVALID_FIELD, text));
        }
        let Some((exchange, key)) = node.binding() else {
            return Err(no_address(&address));
        };
        let host = self.conn(id).map_or(0, |conn| conn.host);
        if exchange.is_empty() {
            // A topic that is that of a queue.
            let (queue, _) = self.v1_queue(id, &key, true, now)?;
            allowed(self.check_owner(id, queue))?;
            allowed(self.check_consume(id, queue))?;
            return Ok(Receiving {
                queue,
                address,
                lifetime: QueueLifetime::Kept,
                durable: false,
            });
        }
        let Some(kind) = self.hosts[host].exchanges.get(&*exchange).map(|e| e.kind) else {
            let text = format!("there is no exchange '{exchange}'");
            return Err(V1Fault::link(0, fault::NOT_FOUND, text));
        };
        let all = matches!(node, NodeAddress::Exchange(_, None));
        let key = if all && kind != ExchangeKind::Topic {
            String::new()
        } else {
            key
        };
        if key.len() > SHORT_BYTES_MAX {
            let text = format!("'{address}' is longer than {SHORT_BYTES_MAX} bytes");
            return Err(V1Fault::link(0, fault::INVALID_FIELD, text));
        }
        allowed(self.check_exchange_read(id, &exchange, &key))?;
        let durable = source.durable > 0 || source.expiry == Some("never");
        if !durable {
            let (queue, _) = self.v1_temporary_queue(id, now)?;
            self.v1_bind(host, &exchange, kind, queue, &key, false)?;
            return Ok(Receiving {
                queue,
                address,
                lifetime: QueueLifetime::Link,
                durable: false,
            });
        }
        let container = self
            .v1(id)
            .map(|v1| Arc::clone(&v1.container))
            .unwrap_or_default();
        let name = subscription_queue(&container, link);
        if name.len() > SHORT_BYTES_MAX {
            let text = format!(
                "the names of client and link are too long for a durable subscription: '{name}' has more than {SHORT_BYTES_MAX} bytes"
            );
            return Err(V1Fault::link(0, fault::INVALID_FIELD, text));
        }
        let found = self.hosts[host].queues.get(&*name).map(|(index, _)| *index);
        if let Some(index) = found {
            self.v1_steal(index, now);
            let mut bindings = self.hosts[host].bindings_to(index);
            let same = bindings.any(|(source, b)| **source == *exchange && *b.key == *key);
            if same {
                return Ok(Receiving {
                    queue: index,
                    address,
                    lifetime: QueueLifetime::Subscription,
                    durable: false,
                });
            }
            drop(bindings);
            // The subscription is to something else now: what it has is not that.
            self.delete_queue(index, now);
        }
        let queue = self.v1_make_queue(host, &name, None, now)?;
        self.v1_bind(host, &exchange, kind, queue, &key, true)?;
        Ok(Receiving {
            queue,
            address,
            lifetime: QueueLifetime::Subscription,
            durable: true,
        })
    }

    fn v1_bind(
        &mut self,
        host: usize,
        exchange: &str,
        kind: ExchangeKind,
        queue: QueueIndex,
        key: &str,
        durable: bool,
    ) -> Result<(), V1Fault> {
        if self.hosts.iter().map(|h| h.binding_count()).sum::<usize>() >= BINDINGS_MAX {
            return Err(V1Fault::link(
                0,
                fault::RESOURCE_LIMIT,
                "the node has too many bindings",
            ));
        }
        self.create_binding(
            host,
            &Arc::from(exchange),
            kind,
            Destination::Queue(queue),
            key,
            &[],
            durable,
        );
        Ok(())
    }

    /// Ends the link that receives from a durable subscription: it is attached again.
    fn v1_steal(&mut self, index: QueueIndex, now: Micros) {
        let Some(queue) = self.queue(index) else {
            return;
        };
        for consumer in queue.consumers.clone() {
            let fault = V1Fault::link(
                consumer.number,
                fault::LINK_STOLEN,
                "the subscription was attached again",
            );
            self.v1_detach(
                consumer.conn,
                consumer.channel,
                consumer.number,
                &fault,
                now,
            );
        }
    }
}

fn allowed(checked: Result<(), AmqpFault>) -> Result<(), V1Fault> {
    checked.map_err(|fault| V1Fault::from_code(&fault).of_link(0))
}

/// Appends a source or a target as the client asked for it, with the address that it has.
fn put_terminus(
    l: &mut ListWriter<'_>,
    code: u8,
    asked: Option<&TerminusFields<'_>>,
    address: Option<&str>,
) {
    l.described(code, |l| {
        l.text_or_null(address.or(asked.and_then(|t| t.address)));
        let Some(asked) = asked else { return };
        l.uint(asked.durable).symbol_or_null(asked.expiry).null();
        l.flag(asked.dynamic).null();
        if code == 0x28 {
            // What is not said to be filtered is not filtered. Outcomes that the node knows follow.
            l.null().null().null();
            l.symbols(&[
                "amqp:accepted:list",
                "amqp:rejected:list",
                "amqp:released:list",
                "amqp:modified:list",
            ]);
        }
        l.value(&asked.capabilities);
    });
}

//! Declaring exchanges and queues, and binding them.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use busbar_event::Micros;
use busbar_gateway::{ConnId, EventLog};

use crate::args::{self, QueueRules};
use crate::codec::method::{Bind, ExchangeDeclare, QueueDeclare, id};
use crate::codec::{FieldTable, encode};
use crate::fault::AmqpFault;
use crate::graph::{Binding, Destination, Exchange, ExchangeKind, QueueIndex};
use crate::limits::{BINDINGS_MAX, EXCHANGES_MAX, QUEUES_MAX};
use crate::marks::Marks;
use crate::queue::AmqpQueue;
use crate::record::{self, RecordKey};

use super::Broker;

impl<S: EventLog> Broker<S> {
    /// Positions from which on a new binding holds: the ends of all partitions, up to which nothing is
    /// looked at for it.
    pub(super) fn ends(&mut self) -> Marks {
        self.run_live();
        let mut marks = Marks::default();
        for partition in self.names.numbers() {
            marks.set(partition, self.log.end(partition));
        }
        marks
    }

    /// A name that nobody can guess from those before it.
    pub(super) fn made_up_name(&mut self, now: Micros) -> String {
        self.next_number += 1;
        let mut bytes = [0; 16];
        for (n, half) in bytes.chunks_mut(8).enumerate() {
            let hash = self.names_seed.hash_one((now, self.next_number, n));
            half.copy_from_slice(&hash.to_be_bytes());
        }
        BASE64.encode(bytes)
    }

    pub(super) fn exchange_declare(
        &mut self,
        id: ConnId,
        number: u16,
        declare: &ExchangeDeclare<'_>,
    ) -> Result<(), AmqpFault> {
        let Some(conn) = self.conn(id) else {
            return Ok(());
        };
        let host = conn.host;
        let vhost = Arc::clone(&self.hosts[host].name);
        let name = declare.exchange;
        let answer = |broker: &mut Self, durable: bool| {
            if !declare.no_wait {
                broker.answer(id, durable, |out| {
                    encode::bare(id::EXCHANGE_DECLARE_OK, number, out)
                });
            }
            Ok(())
        };
        if declare.passive {
            return match self.hosts[host].exchanges.contains_key(name) {
                true => answer(self, false),
                false => Err(AmqpFault::no_exchange(name, &vhost)),
            };
        }
        if name.is_empty() {
            return Err(AmqpFault::access_refused(
                "operation not permitted on the default exchange",
            ));
        }
        let kind = ExchangeKind::parse(declare.kind).ok_or_else(|| {
            AmqpFault::command_invalid(format!("unknown exchange type '{}'", declare.kind))
        })?;
        let what = format!("exchange '{name}'");
        if let Some(current) = self.hosts[host].exchanges.get(name) {
            let differs = |arg: &str, received: &str, current: &str| {
                AmqpFault::inequivalent(
                    arg,
                    &what,
                    &vhost,
                    &format!("'{received}'"),
                    &format!("'{current}'"),
                )
            };
            if current.kind != kind {
                return Err(differs("type", kind.as_str(), current.kind.as_str()));
            }
            for (arg, received, current) in [
                ("durable", declare.durable, current.durable),
                ("auto_delete", declare.auto_delete, current.auto_delete),
                ("internal", declare.internal, current.internal),
            ] {
                if received != current {
                    return Err(differs(arg, &received.to_string(), &current.to_string()));
                }
            }
            let arguments = FieldTable::check(&current.arguments)?;
            args::check_same(
                declare.arguments,
                arguments,
                args::EXCHANGE_ARGUMENTS,
                &what,
                &vhost,
            )?;
            return answer(self, false);
        }
        if name.starts_with("amq.") {
            return Err(AmqpFault::access_refused(format!(
                "exchange name '{name}' contains reserved prefix 'amq.*'"
            )));
        }
        check_name("exchange", name)?;
        self.check_exchange(id, name)?;
        if self.hosts.iter().map(|h| h.exchanges.len()).sum::<usize>() >= EXCHANGES_MAX {
            return Err(AmqpFault::resource("the node has too many exchanges"));
        }
        let alternate = declare.arguments.get("alternate-exchange");
        let alternate = match alternate {
            None => None,
            Some(value) => Some(Arc::from(value.as_text().ok_or_else(|| {
                AmqpFault::precondition(format!(
                    "invalid arg 'alternate-exchange' for {what} in vhost '{vhost}': text is expected"
                ))
            })?)),
        };
        let exchange = Exchange {
            name: name.into(),
            kind,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            arguments: declare.arguments.bytes().into(),
            alternate,
        };
        if exchange.durable {
            let key = RecordKey::Exchange(vhost.to_string(), name.to_owned());
            self.journal.put(&key, record::encode_exchange(&exchange));
        }
        let durable = exchange.durable;
        self.hosts[host]
            .exchanges
            .insert(Arc::clone(&exchange.name), exchange);
        self.hosts[host].ended_at(&Marks::default());
        answer(self, durable)
    }

    pub(super) fn queue_declare(
        &mut self,
        id: ConnId,
        number: u16,
        declare: &QueueDeclare<'_>,
        now: Micros,
    ) -> Result<(), AmqpFault> {
        let Some(conn) = self.conn(id) else {
            return Ok(());
        };
        let host = conn.host;
        let vhost = Arc::clone(&self.hosts[host].name);
        let name: String = match declare.queue {
            "" if declare.passive => self.last_queue(id, number)?.to_string(),
            "" => format!("amq.gen-{}", self.made_up_name(now)),
            name => name.to_owned(),
        };
        self.run_live();
        if let Some((index, _)) = self.hosts[host].queues.get(&*name).cloned() {
            self.check_owner(id, index)?;
            if !declare.passive {
                self.check_declared(index, declare, &vhost)?;
            }
            if let Some(queue) = self.queue(index) {
                queue.used = now;
            }
            self.declared(id, number, &name, index, declare.no_wait, false);
            return Ok(());
        }
        if declare.passive {
            return Err(AmqpFault::no_queue(&name, &vhost));
        }
        if declare.queue.starts_with("amq.") {
            return Err(AmqpFault::access_refused(format!(
                "queue name '{name}' contains reserved prefix 'amq.*'"
            )));
        }
        check_name("queue", &name)?;
        if !declare.queue.is_empty() {
            self.check_queue(id, &name)?;
        }
        let rules = QueueRules::read(declare.arguments, &name, &vhost)?;
        if self.queue_count >= QUEUES_MAX {
            return Err(AmqpFault::resource("the node has too many queues"));
        }
        let mut queue = self.new_queue(host, &name, rules, now);
        // A queue that ends with its connection has nothing to keep.
        queue.durable = declare.durable && !declare.exclusive;
        queue.declared_durable = declare.durable;
        queue.owner = declare.exclusive.then_some(id);
        queue.auto_delete = declare.auto_delete;
        queue.arguments = declare.arguments.bytes().into();
        let durable = queue.durable;
        let index = self.create_queue(queue);
        self.declared(id, number, &name, index, declare.no_wait, durable);
        Ok(())
    }

    /// Adds a queue that was not there: it gets what comes from now on.
    pub(super) fn create_queue(&mut self, queue: AmqpQueue) -> QueueIndex {
        let born = self.ends();
        let (owner, durable) = (queue.owner, queue.durable);
        if self.queue_count == 0 {
            self.live = born.clone();
        }
        let index = self.add_queue(queue, born);
        if let Some(conn) = owner.and_then(|owner| self.conn(owner)) {
            conn.exclusive.push(index);
        }
        if durable {
            self.journal_queue(index);
        }
        index
    }

    pub(super) fn new_queue(
        &mut self,
        host: usize,
        name: &str,
        rules: QueueRules,
        now: Micros,
    ) -> AmqpQueue {
        self.next_number += 1;
        AmqpQueue::new(self.next_number, host, name.into(), rules, now)
    }

    /// Gives a queue its place.
    pub(super) fn add_queue(&mut self, queue: AmqpQueue, born: Marks) -> QueueIndex {
        let index = self.free_queues.pop().unwrap_or_else(|| {
            self.queues.push(None);
            (self.queues.len() - 1) as QueueIndex
        });
        self.queue_count += 1;
        self.rejecting += usize::from(queue.rules.rejects());
        if queue.rules.message_ttl_us.is_some() || queue.rules.expires_us.is_some() {
            self.timed.push(index);
        }
        self.hosts[queue.vhost].add_queue(Arc::clone(&queue.name), index, born);
        self.queues[index as usize] = Some(Box::new(queue));
        index
    }

    fn declared(
        &mut self,
        id: ConnId,
        number: u16,
        name: &str,
        index: QueueIndex,
        no_wait: bool,
        durable: bool,
    ) {
        if let Some(channel) = self.channel(id, number) {
            channel.last_queue = Some(name.into());
        }
        let Some(queue) = self.queue(index) else {
            return;
        };
        let (messages, consumers) = (queue.messages(), queue.consumers.len());
        if !no_wait {
            self.answer(id, durable, |out| {
                encode::queue_declare_ok(number, name, messages, consumers, out);
            });
        }
    }

    fn check_declared(
        &mut self,
        index: QueueIndex,
        declare: &QueueDeclare<'_>,
        vhost: &str,
    ) -> Result<(), AmqpFault> {
        let Some(queue) = self.queue(index) else {
            return Ok(());
        };
        let what = format!("queue '{}'", queue.name);
        for (arg, received, current) in [
            ("durable", declare.durable, queue.declared_durable),
            ("auto_delete", declare.auto_delete, queue.auto_delete),
        ] {
            if received != current {
                let text = |on: bool| format!("'{on}'");
                return Err(AmqpFault::inequivalent(
                    arg,
                    &what,
                    vhost,
                    &text(received),
                    &text(current),
                ));
            }
        }
        if declare.exclusive != queue.owner.is_some() {
            return Err(AmqpFault::locked(&queue.name, vhost));
        }
        let arguments = FieldTable::check(&queue.arguments)?;
        args::check_same(
            declare.arguments,
            arguments,
            args::QUEUE_ARGUMENTS,
            &what,
            vhost,
        )
    }

    /// Whether a queue belongs to nobody else.
    pub(super) fn check_owner(&mut self, id: ConnId, index: QueueIndex) -> Result<(), AmqpFault> {
        let Some(queue) = self.queue(index) else {
            return Ok(());
        };
        match queue.owner {
            Some(owner) if owner != id => {
                let (name, host) = (Arc::clone(&queue.name), queue.vhost);
                Err(AmqpFault::locked(&name, &self.hosts[host].name))
            }
            _ => Ok(()),
        }
    }

    fn last_queue(&mut self, id: ConnId, number: u16) -> Result<Arc<str>, AmqpFault> {
        let last = self.channel(id, number).and_then(|c| c.last_queue.clone());
        last.ok_or_else(|| AmqpFault {
            code: 404,
            ..AmqpFault::precondition("no previously declared queue")
        })
    }

    /// The queue that a client means; the one that it declared last if it gives no name.
    pub(super) fn queue_named(
        &mut self,
        id: ConnId,
        number: u16,
        name: &str,
    ) -> Result<QueueIndex, AmqpFault> {
        let host = self.conn(id).map_or(0, |conn| conn.host);
        let name = match name {
            "" => self.last_queue(id, number)?,
            name => name.into(),
        };
        let vhost = &self.hosts[host];
        match vhost.queues.get(&name) {
            Some((index, _)) => {
                let index = *index;
                self.check_owner(id, index)?;
                Ok(index)
            }
            None => Err(AmqpFault::no_queue(&name, &vhost.name)),
        }
    }

    fn destination(
        &mut self,
        id: ConnId,
        number: u16,
        bind: &Bind<'_>,
        to_queue: bool,
    ) -> Result<Destination, AmqpFault> {
        if to_queue {
            return Ok(Destination::Queue(self.queue_named(
                id,
                number,
                bind.destination,
            )?));
        }
        let host = self.conn(id).map_or(0, |conn| conn.host);
        let vhost = &self.hosts[host];
        if bind.destination.is_empty() {
            return Err(AmqpFault::access_refused(
                "operation not permitted on the default exchange",
            ));
        }
        match vhost.exchanges.get(bind.destination) {
            Some(exchange) => Ok(Destination::Exchange(Arc::clone(&exchange.name))),
            None => Err(AmqpFault::no_exchange(bind.destination, &vhost.name)),
        }
    }

    /// The key that is meant: without a queue's name and without a key it is the queue's name.
    fn bind_key(
        &mut self,
        id: ConnId,
        number: u16,
        bind: &Bind<'_>,
        to_queue: bool,
    ) -> Result<String, AmqpFault> {
        match to_queue && bind.destination.is_empty() && bind.key.is_empty() {
            true => Ok(self.last_queue(id, number)?.to_string()),
            false => Ok(bind.key.to_owned()),
        }
    }

    pub(super) fn bind(
        &mut self,
        id: ConnId,
        number: u16,
        bind: &Bind<'_>,
        to_queue: bool,
        now: Micros,
    ) -> Result<(), AmqpFault> {
        let host = self.conn(id).map_or(0, |conn| conn.host);
        let to = self.destination(id, number, bind, to_queue)?;
        if bind.source.is_empty() {
            return Err(AmqpFault::access_refused(
                "operation not permitted on the default exchange",
            ));
        }
        let vhost = &self.hosts[host];
        let Some(source) = vhost.exchanges.get(bind.source).cloned() else {
            return Err(AmqpFault::no_exchange(bind.source, &vhost.name));
        };
        let key = self.bind_key(id, number, bind, to_queue)?;
        self.check_exchange_read(id, bind.source, &key)?;
        let durable = match &to {
            Destination::Queue(index) => {
                let name = self
                    .queue(*index)
                    .map(|q| Arc::clone(&q.name))
                    .unwrap_or_default();
                if self.queue(*index).is_some_and(|q| q.owner != Some(id)) {
                    self.check_queue(id, &name)?;
                }
                source.durable && self.queue(*index).is_some_and(|q| q.durable)
            }
            Destination::Exchange(name) => {
                self.check_exchange(id, name)?;
                let to = self.hosts[host].exchanges.get(name);
                source.durable && to.is_some_and(|e| e.durable)
            }
        };
        let arguments = bind.arguments.bytes();
        let is_new = self.hosts[host]
            .find_binding(bind.source, &to, &key, arguments)
            .is_none();
        if is_new {
            if self.hosts.iter().map(|h| h.binding_count()).sum::<usize>() >= BINDINGS_MAX {
                return Err(AmqpFault::resource("the node has too many bindings"));
            }
            let (name, kind) = (&source.name, source.kind);
            self.create_binding(host, name, kind, to.clone(), &key, arguments, durable);
        }
        if let Destination::Queue(index) = to
            && let Some(queue) = self.queue(index)
        {
            queue.used = now;
        }
        let ok = if to_queue {
            id::QUEUE_BIND_OK
        } else {
            id::EXCHANGE_BIND_OK
        };
        if !bind.no_wait {
            self.answer(id, durable && is_new, |out| encode::bare(ok, number, out));
        }
        Ok(())
    }

    /// Adds a binding that was not there: it brings what comes from now on.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn create_binding(
        &mut self,
        host: usize,
        source: &Arc<str>,
        kind: ExchangeKind,
        to: Destination,
        key: &str,
        arguments: &[u8],
        durable: bool,
    ) {
        let from = self.ends();
        self.next_binding += 1;
        let mut binding = Binding::new(self.next_binding, kind, to, key, arguments, from);
        binding.durable = durable;
        if durable {
            self.journal_binding(host, source, &binding);
        }
        self.hosts[host].add_binding(source, binding);
    }

    pub(super) fn unbind(
        &mut self,
        id: ConnId,
        number: u16,
        bind: &Bind<'_>,
        to_queue: bool,
    ) -> Result<(), AmqpFault> {
        let host = self.conn(id).map_or(0, |conn| conn.host);
        let to = self.destination(id, number, bind, to_queue)?;
        let key = self.bind_key(id, number, bind, to_queue)?;
        if bind.source.is_empty() {
            return Err(AmqpFault::access_refused(
                "operation not permitted on the default exchange",
            ));
        }
        if !self.hosts[host].exchanges.contains_key(bind.source) {
            let vhost = Arc::clone(&self.hosts[host].name);
            return Err(AmqpFault::no_exchange(bind.source, &vhost));
        }
        let until = self.ends();
        let found = self.hosts[host].find_binding(bind.source, &to, &key, bind.arguments.bytes());
        let ended = found.map(|binding| {
            binding.until = Some(until.clone());
            binding.clone()
        });
        let durable = ended.as_ref().is_some_and(|b| b.durable);
        if let Some(binding) = ended {
            self.hosts[host].ended_at(&until);
            if durable {
                self.journal_binding(host, bind.source, &binding);
            }
            self.drop_unbound(host, bind.source);
        }
        let ok = if to_queue {
            id::QUEUE_UNBIND_OK
        } else {
            id::EXCHANGE_UNBIND_OK
        };
        if !bind.no_wait {
            self.answer(id, durable, |out| encode::bare(ok, number, out));
        }
        Ok(())
    }
}

/// Names become keys of records, in which NUL divides.
fn check_name(what: &str, name: &str) -> Result<(), AmqpFault> {
    match name.contains('\0') {
        true => Err(AmqpFault::precondition(format!(
            "the name of the {what} has a NUL"
        ))),
        false => Ok(()),
    }
}

//! Messages that leave a queue without a consumer: they go to its dead-letter exchange, if it has one.

use busbar_bus::Event;
use busbar_event::tags::escape;
use busbar_event::{ARRIVAL, Flags, Micros, reserved};
use busbar_gateway::EventLog;

use crate::codec::table::{put_short, put_value};
use crate::codec::{FieldTable, FieldValue, TableWriter};
use crate::graph::QueueIndex;
use crate::limits::DEATHS_MAX;
use crate::mapping::{address_of, write_topic};
use crate::message::{self, OwnedTags};
use crate::queue::{DeathReason, RowId};

use super::Broker;
use super::channel::Disposition;

/// A row whose dead letter is on its way to the log.
pub struct Dying<T> {
    pub ticket: T,
    pub queue: QueueIndex,
    pub queue_number: u64,
    pub row: RowId,
}

impl<S: EventLog> Broker<S> {
    /// Takes the row at the front out of a queue and dead-letters it. It is done when its copy is committed.
    pub(super) fn kill(&mut self, index: QueueIndex, reason: DeathReason, now: Micros) {
        let Some(row) = self.take_head(index) else {
            return;
        };
        let Some(queue) = self.queue(index) else {
            return;
        };
        let (number, host) = (queue.number, queue.vhost);
        let mut ticket = None;
        if queue.rules.dead_letter_exchange.is_some() {
            let batch = &row.rows.batch;
            let topic = batch.topic(row.row);
            let prefix = &*self.hosts[host].prefix;
            let address = address_of(topic.strip_prefix(prefix).unwrap_or(topic));
            let key = message::reserved_tag(batch, row.row, message::ROUTING_KEY);
            let from = (&*address.exchange, key.unwrap_or(&address.key));
            let tags = batch
                .tags(row.row)
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .collect();
            let flags = Flags(batch.flags()[row.row]);
            ticket = self.dead_letter_event(index, from, tags, flags, row.payload(), reason, now);
        }
        match ticket {
            Some(ticket) => self.dying.push(Dying {
                ticket,
                queue: index,
                queue_number: number,
                row: row.id,
            }),
            None => self.row_done(index, number, row.id, Disposition::Done),
        }
    }

    /// Publishes a message to the dead-letter exchange of a queue; `None` when it goes nowhere.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn dead_letter_event(
        &mut self,
        index: QueueIndex,
        (exchange, key): (&str, &str),
        mut tags: OwnedTags,
        flags: Flags,
        payload: &[u8],
        reason: DeathReason,
        now: Micros,
    ) -> Option<S::Ticket> {
        let queue = self.queues.get(index as usize)?.as_deref()?;
        let host = &self.hosts[queue.vhost];
        let target = queue.rules.dead_letter_exchange.clone()?;
        let target_key = queue
            .rules
            .dead_letter_key
            .clone()
            .unwrap_or_else(|| key.into());
        if !host.exchanges.contains_key(&target) {
            return None;
        }
        let death = Death {
            queue: &queue.name,
            reason,
            exchange,
            key,
            seconds: now.div_euclid(1_000_000).max(0) as u64,
            expiration: tags
                .iter()
                .find(|(n, _)| n == message::EXPIRATION)
                .map(|(_, v)| v.clone()),
        };
        let goes_round = death.note(&mut tags);
        if goes_round {
            // It came back to this queue by itself; it would go round for ever.
            return None;
        }
        let dropped = [
            message::EXPIRATION,
            reserved::EXPIRES_AT,
            message::ROUTING_KEY,
        ];
        tags.retain(|(name, _)| !dropped.contains(&name.as_str()));
        let mut topic = String::new();
        if !write_topic(&host.prefix, &target, &target_key, &mut topic) {
            tags.push((message::ROUTING_KEY.to_owned(), target_key.to_string()));
        }
        let borrowed: Vec<(&str, &str)> =
            tags.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let event = Event {
            topic: &topic,
            key: None,
            time: ARRIVAL,
            client: None,
            flags: flags.with_reserved_tags(true).with_retain(false),
            tags: &borrowed,
            payload,
        };
        self.unflushed = true;
        self.log.publish(&event, None).ok()
    }
}

/// An entry of the `x-death` header.
struct Death<'a> {
    queue: &'a str,
    reason: DeathReason,
    exchange: &'a str,
    key: &'a str,
    seconds: u64,
    expiration: Option<String>,
}

impl Death<'_> {
    /// Adds the entry to the headers of a message, before those it has. True when the message went round
    /// without ever having been refused.
    fn note(&self, tags: &mut OwnedTags) -> bool {
        let at = tags.iter().position(|(name, _)| name == message::HEADERS);
        let typed = match at {
            Some(at) => message::decode_headers(&tags.swap_remove(at).1),
            None => Vec::new(),
        };
        let typed = FieldTable::check(&typed).unwrap_or_default();
        let (mut headers, mut older, mut count) = (Vec::new(), Vec::new(), 1);
        let (mut was_here, mut was_rejected) = (false, self.reason == DeathReason::Rejected);
        for (name, value) in typed.iter() {
            if name != "x-death" {
                put_short(&mut headers, name);
                put_value(&mut headers, &value);
                continue;
            }
            for entry in value.items().take(DEATHS_MAX) {
                let FieldValue::Table(table) = entry else {
                    continue;
                };
                let text = |name| table.get(name).and_then(|v| v.as_text());
                was_rejected |= text("reason") == Some(DeathReason::Rejected.as_str());
                if text("queue") == Some(self.queue) {
                    was_here = true;
                    if text("reason") == Some(self.reason.as_str()) {
                        // It is a client's word where a client has sent the header.
                        let known = table.get("count").and_then(|v| v.as_integer());
                        count = known.unwrap_or(0).saturating_add(1);
                        continue;
                    }
                }
                put_value(&mut older, &entry);
            }
        }
        let mut deaths = vec![b'F'];
        let mut table = TableWriter::begin(&mut deaths);
        table.field("count", &FieldValue::Signed(b'l', count));
        table.text("reason", self.reason.as_str());
        table.text("queue", self.queue);
        table.field("time", &FieldValue::Timestamp(self.seconds));
        table.text("exchange", self.exchange);
        let mut keys = Vec::new();
        put_value(&mut keys, &FieldValue::Text(self.key.as_bytes()));
        table.field("routing-keys", &FieldValue::Array(&keys));
        if let Some(expiration) = &self.expiration {
            table.text("original-expiration", expiration);
        }
        table.end();
        deaths.extend(older);
        put_short(&mut headers, "x-death");
        put_value(&mut headers, &FieldValue::Array(&deaths));
        tags.push((
            message::HEADERS.to_owned(),
            message::encode_headers(&headers),
        ));
        for (name, value) in [
            ("x-first-death-reason", self.reason.as_str()),
            ("x-first-death-queue", self.queue),
            ("x-first-death-exchange", self.exchange),
        ] {
            let name = escape(name);
            if !tags.iter().any(|(tag, _)| *tag == *name) {
                tags.push((name.into_owned(), value.to_owned()));
            }
        }
        was_here && !was_rejected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_a_client_has_made_up_stays_a_count() {
        for (said, expected) in [(1, 2), (i64::MAX, i64::MAX)] {
            let mut deaths = vec![b'F'];
            let mut table = TableWriter::begin(&mut deaths);
            table.field("count", &FieldValue::Signed(b'l', said));
            table.text("reason", DeathReason::Expired.as_str());
            table.text("queue", "q");
            table.end();
            let mut headers = Vec::new();
            put_short(&mut headers, "x-death");
            put_value(&mut headers, &FieldValue::Array(&deaths));
            let headers = message::encode_headers(&headers);
            let mut tags = vec![(message::HEADERS.to_owned(), headers)];
            let death = Death {
                queue: "q",
                reason: DeathReason::Expired,
                exchange: "",
                key: "q",
                seconds: 0,
                expiration: None,
            };
            assert!(death.note(&mut tags), "it was here before");
            let headers = tags.iter().find(|(name, _)| name == message::HEADERS);
            let headers = message::decode_headers(&headers.expect("headers").1);
            let headers = FieldTable::check(&headers).expect("a table");
            let first = headers.get("x-death").and_then(|all| all.items().next());
            let Some(FieldValue::Table(first)) = first else {
                panic!("no entry");
            };
            let count = first.get("count").and_then(|count| count.as_integer());
            assert_eq!(count, Some(expected));
        }
    }
}

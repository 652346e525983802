//! The arguments of a queue: what they mean, and whether two sets of them are the same.

use std::sync::Arc;

use crate::codec::{FieldTable, FieldValue};
use crate::fault::AmqpFault;

/// What happens to a queue that is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest message goes.
    #[default]
    DropHead,
    /// The new message is refused.
    RejectPublish,
    /// The new message is refused, and dead-lettered.
    RejectPublishDlx,
}

/// The rules of a queue, read from its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueRules {
    /// Microseconds that a message may wait.
    pub message_ttl_us: Option<i64>,
    /// Microseconds without use after which the queue is deleted.
    pub expires_us: Option<i64>,
    /// Messages that may wait.
    pub length_max: Option<u64>,
    /// Payload bytes that may wait.
    pub length_bytes_max: Option<u64>,
    /// What happens beyond that.
    pub overflow: Overflow,
    /// Where messages go that expire, overflow or are rejected.
    pub dead_letter_exchange: Option<Arc<str>>,
    /// With which key; their own if there is none.
    pub dead_letter_key: Option<Arc<str>>,
    /// Whether only one consumer at a time gets messages.
    pub single_active_consumer: bool,
    /// How often a message may go back to the queue before it is dead-lettered.
    pub delivery_limit: Option<u32>,
}

impl QueueRules {
    /// Reads the arguments of a queue.
    ///
    /// # Errors
    /// 406 when one has a wrong value, or asks for what is not there.
    pub fn read(
        arguments: FieldTable<'_>,
        queue: &str,
        vhost: &str,
    ) -> Result<QueueRules, AmqpFault> {
        let mut rules = QueueRules::default();
        let refuse = |name: &str, why: &str| {
            AmqpFault::precondition(format!(
                "invalid arg '{name}' for queue '{queue}' in vhost '{vhost}': {why}"
            ))
        };
        for (name, value) in arguments.iter() {
            let number = || {
                value
                    .as_integer()
                    .filter(|n| *n >= 0)
                    .ok_or_else(|| refuse(name, "a non-negative integer is expected"))
            };
            let text = || {
                value
                    .as_text()
                    .ok_or_else(|| refuse(name, "text is expected"))
            };
            match name {
                "x-message-ttl" => {
                    rules.message_ttl_us = Some(number()?.saturating_mul(1000));
                }
                "x-expires" => match number()? {
                    0 => return Err(refuse(name, "cannot be 0")),
                    ms => rules.expires_us = Some(ms.saturating_mul(1000)),
                },
                "x-max-length" => rules.length_max = Some(number()? as u64),
                "x-max-length-bytes" => rules.length_bytes_max = Some(number()? as u64),
                "x-overflow" => {
                    rules.overflow = match text()? {
                        "drop-head" => Overflow::DropHead,
                        "reject-publish" => Overflow::RejectPublish,
                        "reject-publish-dlx" => Overflow::RejectPublishDlx,
                        _ => {
                            return Err(refuse(
                                name,
                                "one of drop-head, reject-publish, reject-publish-dlx is expected",
                            ));
                        }
                    };
                }
                "x-dead-letter-exchange" => rules.dead_letter_exchange = Some(text()?.into()),
                "x-dead-letter-routing-key" => rules.dead_letter_key = Some(text()?.into()),
                "x-single-active-consumer" => {
                    rules.single_active_consumer = value
                        .as_bool()
                        .ok_or_else(|| refuse(name, "a boolean is expected"))?;
                }
                "x-delivery-limit" => {
                    rules.delivery_limit = Some(u32::try_from(number()?).unwrap_or(u32::MAX));
                }
                "x-max-priority" => {
                    return Err(refuse(name, "priority queues are not supported"));
                }
                "x-queue-type" => match text()? {
                    "classic" | "quorum" => {}
                    _ => return Err(refuse(name, "only classic and quorum are supported")),
                },
                _ => {}
            }
        }
        if rules.dead_letter_key.is_some() && rules.dead_letter_exchange.is_none() {
            return Err(refuse(
                "x-dead-letter-routing-key",
                "there is no x-dead-letter-exchange",
            ));
        }
        Ok(rules)
    }

    /// Whether more than this may not wait.
    pub fn is_over(&self, messages: u64, bytes: u64) -> bool {
        self.length_max.is_some_and(|max| messages > max)
            || self.length_bytes_max.is_some_and(|max| bytes > max)
    }

    /// Whether the queue refuses what it has no room for.
    pub fn rejects(&self) -> bool {
        self.overflow != Overflow::DropHead
    }
}

/// Checks that a second declaration has the arguments of the first.
///
/// # Errors
/// 406 with RabbitMQ's text for the first argument that differs.
pub fn check_same(
    received: FieldTable<'_>,
    current: FieldTable<'_>,
    names: &[&str],
    what: &str,
    vhost: &str,
) -> Result<(), AmqpFault> {
    let describe = |value: Option<FieldValue<'_>>| match value {
        None => "none".to_owned(),
        Some(value) => format!(
            "the value '{}' of type '{}'",
            value.to_tag().unwrap_or_default(),
            value.type_name()
        ),
    };
    let same = |a: Option<FieldValue<'_>>, b: Option<FieldValue<'_>>| match (a, b) {
        (Some(a), Some(b)) => match (a.as_integer(), b.as_integer()) {
            (Some(a), Some(b)) => a == b,
            _ => a == b,
        },
        (a, b) => a == b,
    };
    for name in names {
        let (new, old) = (received.get(name), current.get(name));
        if !same(new, old) {
            return Err(AmqpFault::inequivalent(
                name,
                what,
                vhost,
                &describe(new),
                &describe(old),
            ));
        }
    }
    Ok(())
}

/// The arguments of a queue that must be the same each time.
pub const QUEUE_ARGUMENTS: &[&str] = &[
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-overflow",
    "x-single-active-consumer",
    "x-delivery-limit",
    "x-queue-type",
];
/// The arguments of an exchange that must be the same each time.
pub const EXCHANGE_ARGUMENTS: &[&str] = &["alternate-exchange"];

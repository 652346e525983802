//! Addresses of links and messages.
//!
//! | address | names |
//! | --- | --- |
//! | `NAME`, `queue://NAME`, `/queue/NAME` | a queue, which is made if it is not there |
//! | `/queues/NAME` | a queue that is there |
//! | `A/B`, `topic://T`, `/topic/T`, `/topics/T` | a topic; a filter for a receiver |
//! | `/exchanges/E/KEY` | an exchange that is there, and a routing key |
//! | `/exchanges/E` | an exchange; the routing key is the subject of the message |
//!
//! What stands without one of these beginnings is a queue or a topic as the capability `queue` or `topic` of the
//! terminus says; without a capability it is a topic if it has a `/`. In the forms `/queues` and `/exchanges`
//! names are written with `%XX` as in a URI.

use std::borrow::Cow;

use crate::mapping::{address_of, reply_of_topic, write_topic};

/// What an address names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeAddress {
    /// A queue, and whether it has to be there.
    Queue(String, bool),
    /// A topic, or a filter.
    Topic(String),
    /// An exchange and a routing key; without one it is the subject of each message.
    Exchange(String, Option<String>),
}

impl NodeAddress {
    /// Reads an address. `is_topic` is what the capabilities of its terminus say, if they say it. `None` when it
    /// names nothing.
    pub fn parse(address: &str, is_topic: Option<bool>) -> Option<NodeAddress> {
        let strip = |beginnings: &[&str]| {
            let mut all = beginnings.iter();
            all.find_map(|beginning| address.strip_prefix(beginning))
        };
        let named = if let Some(name) = strip(&["/queues/"]) {
            NodeAddress::Queue(percent_decode(name)?, true)
        } else if let Some(name) = strip(&["queue://", "/queue/"]) {
            NodeAddress::Queue(name.to_owned(), false)
        } else if let Some(topic) = strip(&["topic://", "/topics/", "/topic/"]) {
            NodeAddress::Topic(topic.to_owned())
        } else if let Some(rest) = strip(&["/exchanges/"]) {
            match rest.split_once('/') {
                None => NodeAddress::Exchange(percent_decode(rest)?, None),
                Some((name, key)) => {
                    NodeAddress::Exchange(percent_decode(name)?, Some(percent_decode(key)?))
                }
            }
        } else if is_topic.unwrap_or_else(|| address.contains('/')) {
            NodeAddress::Topic(address.to_owned())
        } else {
            NodeAddress::Queue(address.to_owned(), false)
        };
        let name = match &named {
            NodeAddress::Queue(name, _)
            | NodeAddress::Topic(name)
            | NodeAddress::Exchange(name, _) => name,
        };
        (!name.is_empty() && !name.contains('\0')).then_some(named)
    }

    /// Appends the topic of an event that is sent to this address. False when the routing key cannot be read from
    /// it again.
    pub fn write_topic(&self, prefix: &str, subject: Option<&str>, out: &mut String) -> bool {
        match self {
            NodeAddress::Queue(name, _) => write_topic(prefix, "", name, out),
            NodeAddress::Topic(topic) => {
                out.push_str(prefix);
                out.push_str(topic);
                true
            }
            NodeAddress::Exchange(name, key) => {
                let key = key.as_deref().or(subject).unwrap_or_default();
                write_topic(prefix, name, key, out)
            }
        }
    }

    /// The exchange and the key, or pattern, by which a queue is bound for a receiver; `None` for an address that
    /// names a queue.
    pub fn binding(&self) -> Option<(String, String)> {
        match self {
            NodeAddress::Queue(..) => None,
            NodeAddress::Exchange(name, key) => {
                Some((name.clone(), key.clone().unwrap_or_else(|| "#".to_owned())))
            }
            NodeAddress::Topic(filter) => {
                let address = address_of(filter);
                let words = address.key.split('.');
                let words = words.map(|word| if word == "+" { "*" } else { word });
                let key = words.collect::<Vec<_>>().join(".");
                Some((address.exchange.into_owned(), key))
            }
        }
    }
}

/// The topic of the node that an answer goes to; `None` when the address names nothing.
pub fn topic_of_reply_address(prefix: &str, address: &str) -> Option<String> {
    let mut topic = String::new();
    NodeAddress::parse(address, None)?.write_topic(prefix, None, &mut topic);
    Some(topic)
}

/// The address to which an answer is sent that goes to this topic.
pub fn reply_address(prefix: &str, topic: &str) -> String {
    let reply = reply_of_topic(prefix, topic);
    if let Some(topic) = reply.strip_prefix(crate::mapping::TOPIC_ADDRESS) {
        return format!("/topics/{topic}");
    }
    match reply.contains('/') {
        true => format!("/queues/{}", percent_encode(&reply)),
        false => reply.into_owned(),
    }
}

fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        let digits = std::str::from_utf8(&digits).ok()?.to_owned();
        out.push(u8::from_str_radix(&digits, 16).ok()?);
    }
    String::from_utf8(out).ok()
}

/// Writes a name so that it stands for itself in `/queues/NAME`.
pub fn percent_encode(text: &str) -> Cow<'_, str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    if text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    for byte in text.bytes() {
        match plain(byte) {
            true => out.push(char::from(byte)),
            false => {
                use std::fmt::Write as _;
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_queues_topics_and_exchanges() {
        let queue = |name: &str, there| Some(NodeAddress::Queue(name.into(), there));
        let topic = |name: &str| Some(NodeAddress::Topic(name.into()));
        let exchange = |name: &str, key: Option<&str>| {
            Some(NodeAddress::Exchange(name.into(), key.map(str::to_owned)))
        };
        for (address, is_topic, expected) in [
            ("tasks", None, queue("tasks", false)),
            ("queue://a/b", None, queue("a/b", false)),
            ("/queues/a%2Fb%20c", None, queue("a/b c", true)),
            ("/queues/a%2", None, None),
            ("a/b", Some(false), queue("a/b", false)),
            ("gauge/g1/rain", None, topic("gauge/g1/rain")),
            ("news", Some(true), topic("news")),
            ("topic://news", None, topic("news")),
            ("/topics/a/+/#", None, topic("a/+/#")),
            (
                "/exchanges/logs/kern.%2A",
                None,
                exchange("logs", Some("kern.*")),
            ),
            ("/exchanges/logs", None, exchange("logs", None)),
            ("", None, None),
            ("topic://", None, None),
        ] {
            assert_eq!(NodeAddress::parse(address, is_topic), expected, "{address}");
        }
    }

    #[test]
    fn a_receiver_is_bound_by_what_its_address_means() {
        let binding = |address: &str| {
            let address = NodeAddress::parse(address, None).expect("an address");
            address
                .binding()
                .map(|(exchange, key)| format!("{exchange} {key}"))
        };
        assert_eq!(binding("/topics/a/+/#").as_deref(), Some("amq.topic a.*.#"));
        assert_eq!(binding("/topics/a.b/c").as_deref(), Some("amq.topic a/b.c"));
        assert_eq!(
            binding("/topics/amqp/x/logs/kern/#").as_deref(),
            Some("logs kern.#")
        );
        assert_eq!(binding("/exchanges/logs").as_deref(), Some("logs #"));
        assert_eq!(binding("tasks"), None);
    }

    #[test]
    fn answers_find_their_way_back() {
        for (address, topic) in [
            ("tasks", "amqp/q/tasks"),
            ("/queues/a%2Fb", "amqp/q/a%2Fb"),
            ("/topics/answers/7", "answers/7"),
        ] {
            assert_eq!(topic_of_reply_address("", address).as_deref(), Some(topic));
            assert_eq!(reply_address("", topic), address);
        }
    }
}

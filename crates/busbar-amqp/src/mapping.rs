//! Topics and addresses: where an event lies that was published to an exchange, and which exchange and
//! routing key an event has that came another way.
//!
//! | AMQP | topic |
//! | --- | --- |
//! | exchange `amq.topic`, key `a.b.c` | `a/b/c` |
//! | another exchange `E`, key `a.b` | `amqp/x/E/a/b` |
//! | another exchange `E`, empty key | `amqp/x/E` |
//! | default exchange, key `Q` (a queue) | `amqp/q/Q` |
//! | default exchange, key `/topic/a/b` | `a/b` |
//!
//! In a virtual host `V` other than `/` all of these begin with `V/`. In keys and topics `.` and `/` change
//! places, as RabbitMQ does for MQTT. In the names of exchanges and queues `%`, `/`, `+`, `#` and NUL are
//! written `%XX`. A key that no topic can say (one with `+`, `#` or NUL) is kept in the tag
//! [`ROUTING_KEY`](crate::message::ROUTING_KEY), and has `_` for these characters in its topic.

use std::borrow::Cow;

use busbar_event::topic::Filter;

/// The exchange that stands for all topics.
pub const TOPIC_EXCHANGE: &str = "amq.topic";
/// Routing keys of the default exchange that begin with this name a topic and no queue.
pub const TOPIC_ADDRESS: &str = "/topic/";

const QUEUES: &str = "amqp/q/";
const EXCHANGES: &str = "amqp/x/";

/// What a topic says about how an event is routed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address<'a> {
    /// The exchange; empty for the default exchange, whose keys name queues.
    pub exchange: Cow<'a, str>,
    /// The routing key.
    pub key: Cow<'a, str>,
}

/// What the topics of a virtual host begin with; `None` if it cannot have such a name.
pub fn prefix_of(vhost: &str) -> Option<String> {
    let name = vhost.strip_prefix('/').unwrap_or(vhost);
    if name.is_empty() {
        return Some(String::new());
    }
    let bad = name.len() > crate::limits::VHOST_BYTES_MAX
        || name.starts_with('$')
        || name.ends_with('/')
        || name.contains(['+', '#', '\0']);
    (!bad).then(|| format!("{name}/"))
}

/// Appends the topic of an event that is published to `exchange` with `key`. False when the key cannot be
/// read from it again.
pub fn write_topic(prefix: &str, exchange: &str, key: &str, out: &mut String) -> bool {
    out.push_str(prefix);
    match exchange {
        "" => match key.strip_prefix(TOPIC_ADDRESS) {
            Some(topic) => {
                out.push_str(topic);
                true
            }
            None => {
                out.push_str(QUEUES);
                write_name(key, out);
                true
            }
        },
        TOPIC_EXCHANGE if !key.is_empty() => write_key(key, out),
        _ => {
            out.push_str(EXCHANGES);
            write_name(exchange, out);
            if key.is_empty() {
                return true;
            }
            out.push('/');
            write_key(key, out)
        }
    }
}

/// The address that a topic, without the prefix of its virtual host, stands for.
pub fn address_of(topic: &str) -> Address<'_> {
    if let Some(name) = topic.strip_prefix(QUEUES) {
        return Address {
            exchange: Cow::Borrowed(""),
            key: read_name(name),
        };
    }
    if let Some(rest) = topic.strip_prefix(EXCHANGES) {
        let (name, key) = rest.split_once('/').unwrap_or((rest, ""));
        return Address {
            exchange: read_name(name),
            key: read_key(key),
        };
    }
    Address {
        exchange: Cow::Borrowed(TOPIC_EXCHANGE),
        key: read_key(topic),
    }
}

/// What has to be allowed to receive everything that a binding of `exchange` with `key` may bring; for a
/// topic exchange the key is a pattern.
pub fn filter_of(prefix: &str, exchange: &str, is_topic: bool, key: &str) -> Option<Filter> {
    let mut text = String::from(prefix);
    if exchange != TOPIC_EXCHANGE {
        text.push_str(EXCHANGES);
        write_name(exchange, &mut text);
        text.push('/');
    }
    if !is_topic {
        text.push('#');
        return Filter::parse(&text).ok();
    }
    for (n, word) in key.split('.').enumerate() {
        if n > 0 {
            text.push('/');
        }
        match word {
            // What follows a `#` within a pattern is not looked at: the filter reaches further.
            "#" => {
                text.push('#');
                break;
            }
            "*" => text.push('+'),
            word => {
                write_key(word, &mut text);
            }
        }
    }
    Filter::parse(&text).ok()
}

/// What has to be allowed to use a queue.
pub fn queue_topic(prefix: &str, queue: &str) -> String {
    let mut topic = format!("{prefix}{QUEUES}");
    write_name(queue, &mut topic);
    topic
}

/// How `reply-to` is kept: as the topic that an answer is published to.
pub fn topic_of_reply(prefix: &str, reply_to: &str) -> String {
    let mut topic = String::new();
    write_topic(prefix, "", reply_to, &mut topic);
    topic
}

/// The `reply-to` that a consumer in the virtual host of `prefix` sees: the key with which an answer is
/// published to the default exchange.
pub fn reply_of_topic<'a>(prefix: &str, topic: &'a str) -> Cow<'a, str> {
    match topic
        .strip_prefix(prefix)
        .and_then(|t| t.strip_prefix(QUEUES))
    {
        Some(name) => read_name(name),
        None => {
            let topic = topic.strip_prefix(prefix).unwrap_or(topic);
            Cow::Owned(format!("{TOPIC_ADDRESS}{topic}"))
        }
    }
}

fn write_key(key: &str, out: &mut String) -> bool {
    let mut exact = true;
    for c in key.chars() {
        out.push(match c {
            '.' => '/',
            '/' => '.',
            '+' | '#' | '\0' => {
                exact = false;
                '_'
            }
            c => c,
        });
    }
    exact
}

fn read_key(topic: &str) -> Cow<'_, str> {
    if !topic.bytes().any(|b| matches!(b, b'.' | b'/')) {
        return Cow::Borrowed(topic);
    }
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    Cow::Owned(topic.chars().map(swap).collect())
}

fn write_name(name: &str, out: &mut String) {
    for c in name.chars() {
        match c {
            '%' | '/' | '+' | '#' | '\0' => {
                use std::fmt::Write as _;
                let _ = write!(out, "%{:02X}", c as u32);
            }
            c => out.push(c),
        }
    }
}

fn read_name(name: &str) -> Cow<'_, str> {
    if !name.contains('%') {
        return Cow::Borrowed(name);
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let code = rest
            .get(at + 1..at + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => {
                out.push(char::from(code));
                rest = &rest[at + 3..];
            }
            None => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(prefix: &str, exchange: &str, key: &str) -> (String, bool) {
        let mut out = String::new();
        let exact = write_topic(prefix, exchange, key, &mut out);
        (out, exact)
    }

    #[test]
    fn an_address_has_a_topic_and_comes_back_from_it() {
        for (exchange, key, expected) in [
            ("amq.topic", "gauge.g1.rain", "gauge/g1/rain"),
            ("amq.topic", "a/b.c", "a.b/c"),
            ("amq.topic", "", "amqp/x/amq.topic"),
            ("logs", "", "amqp/x/logs"),
            ("logs", "kern.critical", "amqp/x/logs/kern/critical"),
            ("a/b", "k", "amqp/x/a%2Fb/k"),
            ("", "task queue", "amqp/q/task queue"),
            ("", "100%/#", "amqp/q/100%25%2F%23"),
            ("logs", ".", "amqp/x/logs//"),
        ] {
            assert_eq!(topic("", exchange, key), (expected.to_owned(), true));
            let address = address_of(expected);
            assert_eq!(
                (&*address.exchange, &*address.key),
                (exchange, key),
                "{expected}"
            );
        }
    }

    #[test]
    fn a_key_that_no_topic_can_say_is_known_to_be_lost() {
        assert_eq!(
            topic("", "logs", "a.#+"),
            ("amqp/x/logs/a/__".to_owned(), false)
        );
    }

    #[test]
    fn virtual_hosts_are_prefixes() {
        assert_eq!(prefix_of("/").as_deref(), Some(""));
        assert_eq!(prefix_of("plant").as_deref(), Some("plant/"));
        assert_eq!(prefix_of("/plant").as_deref(), Some("plant/"));
        for bad in ["$sys", "a+", "#", "a/"] {
            assert_eq!(prefix_of(bad), None, "{bad}");
        }
        assert_eq!(topic("plant/", "", "q").0, "plant/amqp/q/q");
    }

    #[test]
    fn replies_cross_protocols() {
        assert_eq!(topic_of_reply("", "amq.gen-1"), "amqp/q/amq.gen-1");
        assert_eq!(topic_of_reply("", "/topic/answers/7"), "answers/7");
        assert_eq!(reply_of_topic("", "amqp/q/amq.gen-1"), "amq.gen-1");
        assert_eq!(reply_of_topic("", "answers/7"), "/topic/answers/7");
    }

    #[test]
    fn a_binding_asks_for_what_it_may_bring() {
        let filter = |exchange, topic, key| {
            filter_of("", exchange, topic, key).map(|f| f.as_str().to_owned())
        };
        assert_eq!(filter("amq.topic", true, "a.*.#").as_deref(), Some("a/+/#"));
        assert_eq!(filter("amq.topic", true, "a.#.b").as_deref(), Some("a/#"));
        assert_eq!(filter("logs", false, "").as_deref(), Some("amqp/x/logs/#"));
    }
}

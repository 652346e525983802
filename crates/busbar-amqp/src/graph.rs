//! Exchanges and bindings of a virtual host, and the queues that a message reaches through them.
//!
//! A queue looks at a row of the log when it comes to it, which may be long after the row was written.
//! Each binding therefore knows the positions from which, and up to which, it holds; one that was removed
//! stays until every queue is past it.

use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::codec::{FieldTable, FieldValue};
use crate::limits::{ROUTE_CACHE_TOPICS_MAX, ROUTE_HOPS_MAX};
use crate::marks::Marks;

/// Which queue, while it exists.
pub type QueueIndex = u32;

/// How an exchange chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    /// The key is the binding's.
    Direct,
    /// All.
    Fanout,
    /// The key matches the binding's pattern.
    Topic,
    /// The headers match the binding's arguments.
    Headers,
}

impl ExchangeKind {
    /// By its name.
    pub fn parse(name: &str) -> Option<ExchangeKind> {
        Some(match name {
            "direct" => ExchangeKind::Direct,
            "fanout" => ExchangeKind::Fanout,
            "topic" => ExchangeKind::Topic,
            "headers" => ExchangeKind::Headers,
            _ => return None,
        })
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            ExchangeKind::Direct => "direct",
            ExchangeKind::Fanout => "fanout",
            ExchangeKind::Topic => "topic",
            ExchangeKind::Headers => "headers",
        }
    }
}

/// The exchanges that are always there.
pub const PREDECLARED: &[(&str, ExchangeKind)] = &[
    ("", ExchangeKind::Direct),
    ("amq.direct", ExchangeKind::Direct),
    ("amq.fanout", ExchangeKind::Fanout),
    ("amq.headers", ExchangeKind::Headers),
    ("amq.match", ExchangeKind::Headers),
    ("amq.topic", ExchangeKind::Topic),
];

/// An exchange.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Its name.
    pub name: Arc<str>,
    /// How it chooses.
    pub kind: ExchangeKind,
    /// Whether it outlives the node.
    pub durable: bool,
    /// Whether it goes with its last binding.
    pub auto_delete: bool,
    /// Whether clients may not publish to it.
    pub internal: bool,
    /// Its arguments, a field table.
    pub arguments: Box<[u8]>,
    /// Where messages go that no binding takes.
    pub alternate: Option<Arc<str>>,
}

impl Exchange {
    /// Whether it is always there.
    pub fn is_predeclared(&self) -> bool {
        PREDECLARED.iter().any(|(name, _)| *name == &*self.name)
    }
}

/// Where a binding leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To a queue.
    Queue(QueueIndex),
    /// To another exchange.
    Exchange(Arc<str>),
}

/// A binding.
#[derive(Clone, Debug)]
pub struct Binding {
    /// Its number, by which its record is found.
    pub number: u64,
    /// Where it leads.
    pub to: Destination,
    /// Its key or pattern.
    pub key: Arc<str>,
    /// Its arguments, a field table.
    pub arguments: Box<[u8]>,
    /// Whether it outlives the node.
    pub durable: bool,
    /// From where on it holds.
    pub from: Marks,
    /// Up to where it held, if it was removed.
    pub until: Option<Marks>,
    rule: BindingRule,
}

#[derive(Clone, Debug)]
enum BindingRule {
    Always,
    Key,
    Pattern(Box<[Box<str>]>),
    Headers { all: bool, pairs: Box<[Pair]> },
}

/// A header, and its value unless any will do.
type Pair = (Box<str>, Option<Box<str>>);

impl Binding {
    /// A binding of an exchange of that kind.
    pub fn new(
        number: u64,
        kind: ExchangeKind,
        to: Destination,
        key: &str,
        arguments: &[u8],
        from: Marks,
    ) -> Binding {
        let rule = match kind {
            ExchangeKind::Direct => BindingRule::Key,
            ExchangeKind::Fanout => BindingRule::Always,
            ExchangeKind::Topic => BindingRule::Pattern(key.split('.').map(Box::from).collect()),
            ExchangeKind::Headers => headers_rule(arguments),
        };
        Binding {
            number,
            to,
            key: key.into(),
            arguments: arguments.into(),
            durable: false,
            from,
            until: None,
            rule,
        }
    }

    fn holds_at(&self, at: Option<(u32, u64)>) -> bool {
        match at {
            None => self.until.is_none(),
            Some((partition, offset)) => {
                self.from.get(partition) <= offset
                    && self
                        .until
                        .as_ref()
                        .is_none_or(|u| offset < u.get(partition))
            }
        }
    }
}

fn headers_rule(arguments: &[u8]) -> BindingRule {
    let table = FieldTable::check(arguments).unwrap_or_default();
    let how = table
        .get("x-match")
        .and_then(|v| v.as_text())
        .unwrap_or("all");
    let with_x = how.ends_with("-with-x");
    let mut pairs = Vec::new();
    for (name, value) in table.iter() {
        if name == "x-match" || (name.starts_with("x-") && !with_x) {
            continue;
        }
        let value = match value {
            FieldValue::Void => None,
            value => Some(value.to_tag().unwrap_or_default().into_boxed_str()),
        };
        pairs.push((name.into(), value));
    }
    BindingRule::Headers {
        all: how.starts_with("all"),
        pairs: pairs.into(),
    }
}

/// What of a message decides where it goes.
pub struct Routed<'a> {
    /// The exchange.
    pub exchange: &'a str,
    /// The routing key.
    pub key: &'a str,
    /// Its headers, as text.
    pub header: &'a dyn Fn(&str) -> Option<String>,
}

/// A virtual host.
#[derive(Debug, Default)]
pub struct VirtualHost {
    /// Its name, as clients give it.
    pub name: Arc<str>,
    /// What its topics begin with.
    pub prefix: String,
    /// Its exchanges.
    pub exchanges: HashMap<Arc<str>, Exchange, RandomState>,
    /// Its queues, and from where on the default exchange leads to them.
    pub queues: HashMap<Arc<str>, (QueueIndex, Marks), RandomState>,
    bindings: HashMap<Arc<str>, Vec<Binding>, RandomState>,
    /// From these positions on the present bindings hold and no other.
    settled: Marks,
    cache: HashMap<Box<str>, Rc<[QueueIndex]>, RandomState>,
    count: usize,
}

impl VirtualHost {
    /// A virtual host with the exchanges that are always there.
    pub fn new(name: &str, prefix: String) -> VirtualHost {
        let mut host = VirtualHost {
            name: name.into(),
            prefix,
            ..Default::default()
        };
        for (name, kind) in PREDECLARED {
            let exchange = Exchange {
                name: (*name).into(),
                kind: *kind,
                durable: true,
                auto_delete: false,
                internal: false,
                arguments: Box::default(),
                alternate: None,
            };
            host.exchanges.insert(Arc::clone(&exchange.name), exchange);
        }
        host
    }

    /// Bindings, those included that were removed and are still needed.
    pub fn binding_count(&self) -> usize {
        self.count
    }

    /// Adds a queue.
    pub fn add_queue(&mut self, name: Arc<str>, index: QueueIndex, from: Marks) {
        self.settled.raise(&from);
        self.cache.clear();
        self.queues.insert(name, (index, from));
    }

    /// Removes a queue and all bindings that lead to it; returns those.
    pub fn remove_queue(&mut self, name: &str) -> Vec<(Arc<str>, Binding)> {
        self.cache.clear();
        let Some((index, _)) = self.queues.remove(name) else {
            return Vec::new();
        };
        self.remove_where(|_, b| b.to == Destination::Queue(index))
    }

    /// Removes an exchange. Its bindings to queues end at `until`; those that nobody needs any more are
    /// returned with their sources.
    pub fn remove_exchange(&mut self, name: &str, until: &Marks) -> Vec<(Arc<str>, Binding)> {
        self.exchanges.remove(name);
        let mut ended = Vec::new();
        for (source, bindings) in &mut self.bindings {
            for binding in bindings.iter_mut().filter(|b| b.until.is_none()) {
                let leads_here = matches!(&binding.to, Destination::Exchange(to) if **to == *name);
                if **source == *name || leads_here {
                    binding.until = Some(until.clone());
                    ended.push((Arc::clone(source), binding.clone()));
                }
            }
        }
        self.settled.raise(until);
        self.cache.clear();
        ended
    }

    /// Adds a binding.
    pub fn add_binding(&mut self, source: &Arc<str>, binding: Binding) {
        self.settled.raise(&binding.from);
        if let Some(until) = &binding.until {
            self.settled.raise(until);
        }
        self.cache.clear();
        self.count += 1;
        self.bindings
            .entry(Arc::clone(source))
            .or_default()
            .push(binding);
    }

    /// The present binding that is the same as this one.
    pub fn find_binding(
        &mut self,
        source: &str,
        to: &Destination,
        key: &str,
        arguments: &[u8],
    ) -> Option<&mut Binding> {
        self.bindings.get_mut(source)?.iter_mut().find(|b| {
            b.until.is_none() && b.to == *to && *b.key == *key && *b.arguments == *arguments
        })
    }

    /// Notes that a binding was changed.
    pub fn ended_at(&mut self, until: &Marks) {
        self.settled.raise(until);
        self.cache.clear();
    }

    /// Present bindings of an exchange.
    pub fn bindings_of(&self, source: &str) -> impl Iterator<Item = &Binding> {
        self.bindings
            .get(source)
            .into_iter()
            .flatten()
            .filter(|b| b.until.is_none())
    }

    /// Present bindings that lead to a queue, with their sources.
    pub fn bindings_to(&self, queue: QueueIndex) -> impl Iterator<Item = (&Arc<str>, &Binding)> {
        self.bindings.iter().flat_map(move |(source, bindings)| {
            let to = Destination::Queue(queue);
            let of = bindings
                .iter()
                .filter(move |b| b.to == to && b.until.is_none());
            of.map(move |b| (source, b))
        })
    }

    /// Forgets bindings that ended before the positions of every queue; returns their numbers.
    pub fn forget_ended(&mut self, oldest: impl Fn(u32) -> u64) -> Vec<u64> {
        let past = |b: &Binding| b.until.as_ref().is_some_and(|u| u.is_before(&oldest));
        if !self.bindings.values().flatten().any(past) {
            return Vec::new();
        }
        let gone = self.remove_where(|_, b| past(b));
        gone.into_iter().map(|(_, b)| b.number).collect()
    }

    fn remove_where(
        &mut self,
        mut test: impl FnMut(&Arc<str>, &Binding) -> bool,
    ) -> Vec<(Arc<str>, Binding)> {
        let mut removed = Vec::new();
        for (source, bindings) in &mut self.bindings {
            bindings.retain(|b| {
                let goes = test(source, b);
                if goes {
                    removed.push((Arc::clone(source), b.clone()));
                }
                !goes
            });
        }
        self.bindings.retain(|_, b| !b.is_empty());
        self.count -= removed.len();
        removed
    }

    /// Whether the present bindings, and no others, hold from this position on.
    #[inline]
    pub fn is_settled(&self, partition: u32, offset: u64) -> bool {
        offset >= self.settled.get(partition)
    }

    /// The queues that a message reaches by the present bindings, or by those that hold at a position;
    /// and whether its exchange and key alone decide it.
    pub fn route(&self, message: &Routed<'_>, at: Option<(u32, u64)>) -> (Vec<QueueIndex>, bool) {
        let mut walk = RouteWalk {
            host: self,
            message,
            at,
            words: message.key.split('.').collect(),
            queues: Vec::new(),
            seen: Vec::new(),
            pure: true,
        };
        walk.exchange(message.exchange);
        let RouteWalk {
            mut queues, pure, ..
        } = walk;
        queues.sort_unstable();
        queues.dedup();
        (queues, pure)
    }

    /// The queues that are remembered for a topic.
    #[inline]
    pub fn cached(&self, topic: &str) -> Option<&Rc<[QueueIndex]>> {
        self.cache.get(topic)
    }

    /// Remembers the queues of a topic.
    pub fn remember(&mut self, topic: &str, queues: Rc<[QueueIndex]>) {
        if self.cache.len() >= ROUTE_CACHE_TOPICS_MAX {
            self.cache.clear();
        }
        self.cache.insert(topic.into(), queues);
    }
}

struct RouteWalk<'a> {
    host: &'a VirtualHost,
    message: &'a Routed<'a>,
    at: Option<(u32, u64)>,
    words: Vec<&'a str>,
    queues: Vec<QueueIndex>,
    seen: Vec<&'a str>,
    pure: bool,
}

impl<'a> RouteWalk<'a> {
    fn exchange(&mut self, name: &'a str) {
        if self.seen.contains(&name) || self.seen.len() >= ROUTE_HOPS_MAX {
            return;
        }
        self.seen.push(name);
        if name.is_empty() {
            if let Some((queue, from)) = self.host.queues.get(self.message.key)
                && self.at.is_none_or(|(p, o)| from.get(p) <= o)
            {
                self.queues.push(*queue);
            }
            return;
        }
        let mut taken = false;
        for binding in self.host.bindings.get(name).into_iter().flatten() {
            if !binding.holds_at(self.at) || !self.matches(binding) {
                continue;
            }
            taken = true;
            match &binding.to {
                Destination::Queue(queue) => self.queues.push(*queue),
                Destination::Exchange(next) => self.exchange(next),
            }
        }
        if !taken
            && let Some(alternate) = self
                .host
                .exchanges
                .get(name)
                .and_then(|e| e.alternate.as_deref())
        {
            self.exchange(alternate);
        }
    }

    fn matches(&mut self, binding: &Binding) -> bool {
        match &binding.rule {
            BindingRule::Always => true,
            BindingRule::Key => *binding.key == *self.message.key,
            BindingRule::Pattern(pattern) => words_match(pattern, &self.words),
            BindingRule::Headers { all, pairs } => {
                self.pure = false;
                let mut holds = pairs.iter().map(|(name, value)| {
                    let found = (self.message.header)(name);
                    match (found, value) {
                        (Some(found), Some(value)) => *found == **value,
                        (found, None) => found.is_some(),
                        (None, _) => false,
                    }
                });
                match all {
                    true => holds.all(|h| h),
                    false => holds.any(|h| h),
                }
            }
        }
    }
}

/// Whether the words of a key match a pattern: `*` stands for one word, `#` for any number of them.
fn words_match(pattern: &[Box<str>], words: &[&str]) -> bool {
    // As for globs: on a mismatch the last `#` takes one word more, so the time is the product of the two
    // lengths at most.
    let (mut p, mut w) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while w < words.len() {
        match pattern.get(p).map(|word| &**word) {
            Some("#") => {
                back = Some((p, w));
                p += 1;
            }
            Some(word) if word == "*" || word == words[w] => {
                p += 1;
                w += 1;
            }
            _ => match back {
                Some((hash, from)) => {
                    back = Some((hash, from + 1));
                    p = hash + 1;
                    w = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|word| &**word == "#")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::TableWriter;

    #[test]
    fn patterns_match_as_the_specification_says() {
        let matches = |pattern: &str, key: &str| {
            let pattern: Vec<Box<str>> = pattern.split('.').map(Box::from).collect();
            words_match(&pattern, &key.split('.').collect::<Vec<_>>())
        };
        for (pattern, key) in [
            ("#", ""),
            ("#", "a.b"),
            ("a.#", "a"),
            ("a.#", "a.b.c"),
            ("#.c", "a.b.c"),
            ("a.*.c", "a.b.c"),
            ("a.#.c", "a.c"),
            ("#.b.#", "a.b.c"),
            ("*", "a"),
            ("#.*", "a"),
            ("a.#.#", "a"),
            ("*", ""),
        ] {
            assert!(matches(pattern, key), "{pattern} {key}");
        }
        for (pattern, key) in [
            ("a.*", "a"),
            ("a.*", "a.b.c"),
            ("*.*", "a"),
            ("a.b", "a"),
            ("#.c", "a.b"),
            ("", "a"),
        ] {
            assert!(!matches(pattern, key), "{pattern} {key}");
        }
    }

    fn host(bindings: &[(&str, ExchangeKind, Destination, &str, &[u8])]) -> VirtualHost {
        let mut host = VirtualHost::new("/", String::new());
        for (n, (source, kind, to, key, arguments)) in bindings.iter().enumerate() {
            let binding = Binding::new(
                n as u64,
                *kind,
                to.clone(),
                key,
                arguments,
                Marks::default(),
            );
            host.add_binding(&Arc::from(*source), binding);
        }
        host
    }

    fn route(
        host: &VirtualHost,
        exchange: &str,
        key: &str,
        header: &dyn Fn(&str) -> Option<String>,
    ) -> Vec<u32> {
        host.route(
            &Routed {
                exchange,
                key,
                header,
            },
            None,
        )
        .0
    }

    #[test]
    fn exchanges_lead_to_queues_through_each_other_and_never_in_circles() {
        let host = host(&[
            (
                "a",
                ExchangeKind::Fanout,
                Destination::Exchange("b".into()),
                "",
                b"",
            ),
            ("b", ExchangeKind::Topic, Destination::Queue(1), "x.*", b""),
            (
                "b",
                ExchangeKind::Topic,
                Destination::Exchange("a".into()),
                "#",
                b"",
            ),
            ("a", ExchangeKind::Fanout, Destination::Queue(2), "", b""),
        ]);
        assert_eq!(route(&host, "a", "x.y", &|_| None), [1, 2]);
        assert_eq!(route(&host, "b", "z", &|_| None), [2]);
        assert_eq!(route(&host, "amq.direct", "z", &|_| None), [] as [u32; 0]);
    }

    #[test]
    fn headers_match_all_or_any() {
        let table = |how: &str| {
            let mut out = Vec::new();
            let mut w = TableWriter::begin(&mut out);
            w.text("x-match", how);
            w.text("site", "north");
            w.field("level", &FieldValue::Signed(b'I', 3));
            w.end();
            out.split_off(4)
        };
        let (all, any) = (table("all"), table("any"));
        let host = host(&[
            ("h", ExchangeKind::Headers, Destination::Queue(1), "", &all),
            ("h", ExchangeKind::Headers, Destination::Queue(2), "", &any),
        ]);
        let both = |name: &str| match name {
            "site" => Some("north".to_owned()),
            "level" => Some("3".to_owned()),
            _ => None,
        };
        let one = |name: &str| (name == "level").then(|| "3".to_owned());
        assert_eq!(route(&host, "h", "", &both), [1, 2]);
        assert_eq!(route(&host, "h", "", &one), [2]);
        assert_eq!(route(&host, "h", "", &|_| None), [] as [u32; 0]);
    }

    #[test]
    fn a_binding_holds_between_its_positions() {
        let mut host = VirtualHost::new("/", String::new());
        let mut from = Marks::default();
        from.set(0, 10);
        let source: Arc<str> = "amq.direct".into();
        host.add_binding(
            &source,
            Binding::new(
                0,
                ExchangeKind::Direct,
                Destination::Queue(7),
                "k",
                b"",
                from,
            ),
        );
        let message = Routed {
            exchange: "amq.direct",
            key: "k",
            header: &|_| None,
        };
        assert!(host.route(&message, Some((0, 9))).0.is_empty());
        assert_eq!(host.route(&message, Some((0, 10))).0, [7]);
        assert!(!host.is_settled(0, 9) && host.is_settled(0, 10));
        let mut until = Marks::default();
        until.set(0, 20);
        host.find_binding("amq.direct", &Destination::Queue(7), "k", b"")
            .expect("it")
            .until = Some(until.clone());
        host.ended_at(&until);
        assert_eq!(host.route(&message, Some((0, 19))).0, [7]);
        assert!(host.route(&message, Some((0, 20))).0.is_empty());
        assert!(host.route(&message, None).0.is_empty());
        assert_eq!(host.forget_ended(|_| 19), [] as [u64; 0]);
        assert_eq!(host.forget_ended(|_| 20), [0]);
        assert_eq!(host.binding_count(), 0);
    }
}

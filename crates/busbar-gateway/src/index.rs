//! The subscriptions of one thread, as a tree of topic levels.

use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// One subscription of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubRef {
    /// Slot of the connection on its thread.
    pub conn: u32,
    /// Slot of the subscription in its session.
    pub sub: u32,
}

/// Finds the subscriptions that match a topic. The epoch changes with every change, so that callers
/// may remember what matched.
#[derive(Debug, Default)]
pub struct Index {
    root: Node,
    epoch: u64,
    len: usize,
}

#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, Node, RandomState>,
    /// Subscriptions that end here.
    here: Vec<SubRef>,
    /// Subscriptions that end with `#` here.
    rest: Vec<SubRef>,
}

impl Index {
    /// Changes whenever a match may.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Declares every remembered match void.
    pub fn touch(&mut self) {
        self.epoch += 1;
    }

    /// Number of subscriptions.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no subscription.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a subscription to a filter that was checked.
    pub fn insert(&mut self, filter: &str, sub: SubRef) {
        self.epoch += 1;
        self.len += 1;
        let mut node = &mut self.root;
        for level in filter.split('/') {
            if level == "#" {
                node.rest.push(sub);
                return;
            }
            node = match node.children.contains_key(level) {
                true => node.children.get_mut(level).expect("just seen"),
                false => node.children.entry(level.into()).or_default(),
            };
        }
        node.here.push(sub);
    }

    /// Removes a subscription; prunes what it leaves empty.
    pub fn remove(&mut self, filter: &str, sub: SubRef) {
        self.epoch += 1;
        if remove(&mut self.root, filter.split('/'), sub) {
            self.len -= 1;
        }
    }

    /// Appends what matches `topic`, sorted by connection.
    pub fn matches(&self, topic: &str, out: &mut Vec<SubRef>) {
        let wild = !topic.starts_with('$');
        collect(&self.root, Some(topic), wild, out);
        out.sort_unstable();
    }
}

fn remove<'a>(node: &mut Node, mut levels: impl Iterator<Item = &'a str>, sub: SubRef) -> bool {
    fn take(list: &mut Vec<SubRef>, sub: SubRef) -> bool {
        match list.iter().position(|s| *s == sub) {
            Some(at) => {
                list.swap_remove(at);
                true
            }
            None => false,
        }
    }
    match levels.next() {
        None => take(&mut node.here, sub),
        Some("#") => take(&mut node.rest, sub),
        Some(level) => {
            let Some(child) = node.children.get_mut(level) else {
                return false;
            };
            let removed = remove(child, levels, sub);
            if child.here.is_empty() && child.rest.is_empty() && child.children.is_empty() {
                node.children.remove(level);
            }
            removed
        }
    }
}

fn collect(node: &Node, topic: Option<&str>, wild: bool, out: &mut Vec<SubRef>) {
    if wild {
        out.extend_from_slice(&node.rest);
    }
    let Some(topic) = topic else {
        out.extend_from_slice(&node.here);
        return;
    };
    let (level, rest) = match topic.split_once('/') {
        Some((level, rest)) => (level, Some(rest)),
        None => (topic, None),
    };
    if let Some(child) = node.children.get(level) {
        collect(child, rest, true, out);
    }
    if wild && let Some(child) = node.children.get("+") {
        collect(child, rest, true, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use busbar_event::topic::Filter;
    use proptest::prelude::*;

    fn level() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("a".to_owned()),
            Just("b".to_owned()),
            Just(String::new()),
            Just("$s".to_owned())
        ]
    }

    fn filter() -> impl Strategy<Value = String> {
        (
            prop::collection::vec(prop_oneof![3 => level(), 1 => Just("+".to_owned())], 1..4),
            any::<bool>(),
        )
            .prop_map(|(mut levels, hash)| {
                if hash {
                    levels.push("#".to_owned());
                }
                levels.join("/")
            })
    }

    proptest! {
        #[test]
        fn the_tree_agrees_with_the_filter(
            filters in prop::collection::vec(filter(), 1..20),
            topics in prop::collection::vec(prop::collection::vec(level(), 1..5), 1..10),
            removed in prop::collection::vec(any::<bool>(), 20),
        ) {
            let mut index = Index::default();
            let filters: Vec<String> = filters.into_iter().filter(|f| !f.is_empty()).collect();
            for (i, f) in filters.iter().enumerate() {
                index.insert(f, SubRef { conn: i as u32, sub: 0 });
            }
            for (i, f) in filters.iter().enumerate() {
                if removed[i] {
                    index.remove(f, SubRef { conn: i as u32, sub: 0 });
                }
            }
            for topic in topics {
                let topic = topic.join("/");
                if topic.is_empty() { continue; }
                let mut got = Vec::new();
                index.matches(&topic, &mut got);
                let want: Vec<SubRef> = filters.iter().enumerate()
                    .filter(|(i, f)| !removed[*i] && Filter::parse(f).unwrap().matches(&topic))
                    .map(|(i, _)| SubRef { conn: i as u32, sub: 0 }).collect();
                prop_assert_eq!(got, want);
            }
        }
    }

    #[test]
    fn removing_leaves_nothing_behind() {
        let mut index = Index::default();
        let sub = SubRef { conn: 1, sub: 2 };
        index.insert("a/+/c/#", sub);
        index.remove("a/+/c/#", sub);
        assert!(index.is_empty() && index.root.children.is_empty());
    }
}

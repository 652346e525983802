//! How the partitions of topics are shared out among the members of a group, as Kafka's own clients do it.

use std::collections::{BTreeMap, BTreeSet};

use crate::message::NamedPartition;

/// A way to share partitions out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// One partition after the other to one member after the other, over all topics.
    RoundRobin,
    /// Each topic's partitions in as many ranges as it has members.
    Range,
}

impl Assignor {
    /// The names by which members agree on one, the best first.
    pub const NAMES: [&'static str; 2] = ["roundrobin", "range"];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Assignor> {
        match name {
            "roundrobin" => Some(Assignor::RoundRobin),
            "range" => Some(Assignor::Range),
            _ => None,
        }
    }

    /// The partitions of each member, by topic: of the members with the topics that each of them reads, and the number of
    /// partitions of each topic. Each partition of a topic that somebody reads is one member's.
    pub fn share(
        self,
        members: &[(String, BTreeSet<String>)],
        topics: &BTreeMap<String, i32>,
    ) -> Vec<(String, Vec<NamedPartition>)> {
        let mut members: Vec<_> = members.iter().collect();
        members.sort();
        let mut shares: Vec<(String, Vec<NamedPartition>)> = members
            .iter()
            .map(|(id, _)| (id.clone(), Vec::new()))
            .collect();
        let mut turn = 0;
        for (topic, count) in topics {
            let readers: Vec<usize> = (0..members.len())
                .filter(|at| members[*at].1.contains(topic))
                .collect();
            let count = usize::try_from(*count).unwrap_or(0);
            if readers.is_empty() {
                continue;
            }
            for number in 0..count {
                let to = match self {
                    // The next one in turn who reads the topic.
                    Assignor::RoundRobin => loop {
                        let at = turn % members.len();
                        turn += 1;
                        if readers.contains(&at) {
                            break at;
                        }
                    },
                    // The first ones have one more where the number cannot be divided.
                    Assignor::Range => {
                        let (each, more) = (count / readers.len(), count % readers.len());
                        let within = match number < more * (each + 1) {
                            true => number / (each + 1),
                            false => more + (number - more * (each + 1)) / each,
                        };
                        readers[within]
                    }
                };
                // The number is less than one of 32 bits.
                shares[to].1.push((topic.clone(), number as i32));
            }
        }
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(
        assignor: Assignor,
        members: &[(&str, &[&str])],
        topics: &[(&str, i32)],
    ) -> Vec<String> {
        let members: Vec<_> = members
            .iter()
            .map(|(id, topics)| {
                let topics = topics.iter().map(|topic| (*topic).to_owned());
                ((*id).to_owned(), topics.collect())
            })
            .collect();
        let topics = topics
            .iter()
            .map(|(topic, count)| ((*topic).to_owned(), *count));
        let shares = assignor.share(&members, &topics.collect());
        let share = shares.into_iter().map(|(id, partitions)| {
            let partitions: Vec<_> = partitions
                .iter()
                .map(|(topic, number)| format!("{topic}{number}"))
                .collect();
            format!("{id}:{}", partitions.join(","))
        });
        share.collect()
    }

    /// As the documentation of Kafka's clients has it.
    #[test]
    fn partitions_are_shared_out_as_other_clients_do() {
        let both: [(&str, &[&str]); 2] = [("m1", &["a", "b"]), ("m0", &["a", "b"])];
        let topics = [("a", 3), ("b", 3)];
        assert_eq!(
            shown(Assignor::Range, &both, &topics),
            ["m0:a0,a1,b0,b1", "m1:a2,b2"]
        );
        assert_eq!(
            shown(Assignor::RoundRobin, &both, &topics),
            ["m0:a0,a2,b1", "m1:a1,b0,b2"]
        );
        let unlike: [(&str, &[&str]); 3] = [
            ("m0", &["a"]),
            ("m1", &["a", "b"]),
            ("m2", &["a", "b", "c"]),
        ];
        let topics = [("a", 1), ("b", 2), ("c", 3)];
        assert_eq!(
            shown(Assignor::RoundRobin, &unlike, &topics),
            ["m0:a0", "m1:b0", "m2:b1,c0,c1,c2"]
        );
    }

    #[test]
    fn each_partition_is_one_members() {
        for assignor in Assignor::NAMES.map(|name| Assignor::named(name).expect("it is known")) {
            for members in 1..8 {
                for count in 0..20 {
                    let ids: Vec<String> = (0..members).map(|n| format!("m{n}")).collect();
                    let all: Vec<_> = ids
                        .iter()
                        .map(|id| (id.clone(), BTreeSet::from(["t".to_owned()])))
                        .collect();
                    let topics = BTreeMap::from([("t".to_owned(), count), ("u".to_owned(), 4)]);
                    let shares = assignor.share(&all, &topics);
                    let mut numbers: Vec<i32> = shares
                        .iter()
                        .flat_map(|(_, partitions)| partitions.iter().map(|(_, number)| *number))
                        .collect();
                    numbers.sort_unstable();
                    assert_eq!(numbers, (0..count).collect::<Vec<_>>());
                    let sizes = shares.iter().map(|(_, partitions)| partitions.len());
                    let (least, most) = (sizes.clone().min(), sizes.max());
                    assert!(most.expect("a member") - least.expect("a member") <= 1);
                }
            }
        }
    }
}

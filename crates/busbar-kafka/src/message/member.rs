//! Members of consumer groups: joining, sharing partitions out, being heard of, and leaving; and what members tell each other
//! within these messages.

use std::collections::BTreeSet;

use super::{read_topics, write_topics};
use crate::{KafkaCode, KafkaReader, KafkaWriter, Result};

/// The kind of group whose members read topics.
const CONSUMERS: &str = "consumer";

/// A member, as the coordinator of its group knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberIdentity {
    /// Its id; empty before the coordinator has given it one.
    pub id: String,
    /// Which sharing out it belongs to.
    pub generation: i32,
}

/// Joins a group. Answered when all its members have.
#[derive(Clone, Copy, Debug)]
pub struct JoinGroupRequest<'a> {
    /// The group.
    pub group: &'a str,
    /// The member's id; empty for a new one.
    pub member: &'a str,
    /// After so many milliseconds without a word the member is taken for dead.
    pub session_millis: i32,
    /// How long members have to join again, in milliseconds.
    pub rebalance_millis: i32,
    /// The ways to share partitions out that it knows, the best first.
    pub assignors: &'a [&'a str],
    /// The topics that it reads.
    pub topics: &'a [String],
}

impl JoinGroupRequest<'_> {
    /// Writes it.
    pub fn write(&self, w: &mut KafkaWriter<'_>, _version: i16) {
        w.text(self.group);
        w.i32(self.session_millis);
        w.i32(self.rebalance_millis);
        w.text(self.member);
        w.nullable_text(None);
        w.text(CONSUMERS);
        let subscription = subscription(self.topics);
        w.each(self.assignors.iter(), |w, name| {
            w.text(name);
            w.bytes(&subscription);
            w.tags();
        });
        w.tags();
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedGroup {
    /// What is wrong.
    pub code: KafkaCode,
    /// Which sharing out this is.
    pub generation: i32,
    /// How partitions are shared out.
    pub assignor: String,
    /// The id of the member that shares them out.
    pub leader: String,
    /// The member's own id.
    pub member: String,
    /// For the leader: all members, and the topics that each of them reads.
    pub members: Vec<(String, BTreeSet<String>)>,
}

impl JoinedGroup {
    /// Reads it.
    ///
    /// # Errors
    /// [`crate::KafkaFault`].
    pub fn read(r: &mut KafkaReader<'_>, version: i16) -> Result<JoinedGroup> {
        let _throttle = r.i32()?;
        let code = KafkaCode(r.i16()?);
        let generation = r.i32()?;
        if version >= 7 {
            let _kind = r.nullable_text()?;
        }
        let assignor = r.nullable_text()?.unwrap_or_default().to_owned();
        let leader = r.text()?.to_owned();
        let member = r.text()?.to_owned();
        let members = r.each(3, |r| {
            let id = r.text()?.to_owned();
            let _instance = r.nullable_text()?;
            let topics = read_subscription(r.nullable_bytes()?.unwrap_or_default())?;
            r.tags()?;
            Ok((id, topics))
        })?;
        Ok(JoinedGroup {
            code,
            generation,
            assignor,
            leader,
            member,
            members,
        })
    }
}

/// A topic and the number of a partition.
pub type NamedPartition = (String, i32);

/// Asks for the partitions that are a member's; the leader says all of them.
#[derive(Clone, Copy, Debug)]
pub struct SyncGroupRequest<'a> {
    /// The group.
    pub group: &'a str,
    /// Who.
    pub identity: &'a MemberIdentity,
    /// How partitions are shared out.
    pub assignor: &'a str,
    /// From the leader: the partitions of each member, by topic. Empty from the others.
    pub shares: &'a [(String, Vec<NamedPartition>)],
}

impl SyncGroupRequest<'_> {
    /// Writes it.
    pub fn write(&self, w: &mut KafkaWriter<'_>, version: i16) {
        w.text(self.group);
        write_identity(w, self.identity);
        if version >= 5 {
            w.nullable_text(Some(CONSUMERS));
            w.nullable_text(Some(self.assignor));
        }
        w.each(self.shares.iter(), |w, (member, partitions)| {
            w.text(member);
            w.bytes(&assignment(partitions));
            w.tags();
        });
        w.tags();
    }
}

/// Reads the answer: what is wrong, and the member's partitions.
///
/// # Errors
/// [`crate::KafkaFault`].
pub fn read_synced(
    r: &mut KafkaReader<'_>,
    version: i16,
) -> Result<(KafkaCode, Vec<NamedPartition>)> {
    let _throttle = r.i32()?;
    let code = KafkaCode(r.i16()?);
    if version >= 5 {
        let (_kind, _assignor) = (r.nullable_text()?, r.nullable_text()?);
    }
    let bytes = r.nullable_bytes()?.unwrap_or_default();
    Ok((code, read_assignment(bytes)?))
}

/// The heartbeat of a member.
#[derive(Clone, Copy, Debug)]
pub struct HeartbeatRequest<'a> {
    /// The group.
    pub group: &'a str,
    /// Who.
    pub identity: &'a MemberIdentity,
}

impl HeartbeatRequest<'_> {
    /// Writes it.
    pub fn write(&self, w: &mut KafkaWriter<'_>, _version: i16) {
        w.text(self.group);
        write_identity(w, self.identity);
        w.tags();
    }
}

/// Leaves a group, whose other members share the partitions out anew at once.
#[derive(Clone, Copy, Debug)]
pub struct LeaveGroupRequest<'a> {
    /// The group.
    pub group: &'a str,
    /// The member's id.
    pub member: &'a str,
}

impl LeaveGroupRequest<'_> {
    /// Writes it.
    pub fn write(&self, w: &mut KafkaWriter<'_>, _version: i16) {
        w.text(self.group);
        w.each([self.member].iter(), |w, member| {
            w.text(member);
            w.nullable_text(None);
            w.tags();
        });
        w.tags();
    }
}

fn write_identity(w: &mut KafkaWriter<'_>, identity: &MemberIdentity) {
    w.i32(identity.generation);
    w.text(&identity.id);
    w.nullable_text(None);
}

/// What a member tells the leader. It has classic lengths in every version.
fn subscription(topics: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut w = KafkaWriter::new(&mut out, false);
    w.i16(0);
    w.each(topics.iter(), |w, topic| w.text(topic));
    w.bytes(b"");
    out
}

/// What newer versions add comes behind.
fn read_subscription(bytes: &[u8]) -> Result<BTreeSet<String>> {
    let mut r = KafkaReader::new(bytes, false);
    if bytes.is_empty() {
        return Ok(BTreeSet::new());
    }
    let _version = r.i16()?;
    let topics = r.each(2, |r| Ok(r.text()?.to_owned()))?;
    Ok(topics.into_iter().collect())
}

/// What the leader tells a member.
fn assignment(partitions: &[NamedPartition]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut w = KafkaWriter::new(&mut out, false);
    w.i16(0);
    write_topics(
        &mut w,
        partitions,
        |(topic, _)| topic,
        |w, (_, number)| w.i32(*number),
    );
    w.bytes(b"");
    out
}

fn read_assignment(bytes: &[u8]) -> Result<Vec<NamedPartition>> {
    let mut r = KafkaReader::new(bytes, false);
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let _version = r.i16()?;
    read_topics(&mut r, 4, |topic, r| Ok((topic.to_owned(), r.i32()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(all: &[(&str, i32)]) -> Vec<NamedPartition> {
        all.iter()
            .map(|(topic, number)| ((*topic).to_owned(), *number))
            .collect()
    }

    #[test]
    fn what_members_tell_each_other_is_read_also_in_newer_forms() {
        let topics = ["b".to_owned(), "a".to_owned()];
        let mut bytes = subscription(&topics);
        assert_eq!(bytes[..6], [0, 0, 0, 0, 0, 2]);
        // Version 1 adds the partitions that the member has.
        bytes[1] = 1;
        bytes.extend([0, 0, 0, 0]);
        let read = read_subscription(&bytes).expect("a subscription");
        assert_eq!(read.into_iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(read_subscription(b""), Ok(BTreeSet::new()));
        assert!(read_subscription(&[0, 0, 0x7f, 0xff, 0xff, 0xff]).is_err());
        let partitions = named(&[("a", 0), ("a", 2), ("b", 1)]);
        assert_eq!(read_assignment(&assignment(&partitions)), Ok(partitions));
        assert_eq!(read_assignment(b""), Ok(Vec::new()));
        assert!(read_assignment(&[0, 0, 0, 0, 0, 9]).is_err());
    }

    #[test]
    fn answers_are_read_in_each_version() {
        for (version, flexible) in [(5, false), (7, true)] {
            let mut out = Vec::new();
            let mut w = KafkaWriter::new(&mut out, flexible);
            w.i32(0);
            w.i16(0);
            w.i32(7);
            if version >= 7 {
                w.nullable_text(Some(CONSUMERS));
            }
            w.text("range");
            w.text("m1");
            w.text("m1");
            w.each(["m1", "m2"].iter(), |w, id| {
                w.text(id);
                w.nullable_text(None);
                w.bytes(&subscription(&["t".to_owned()]));
                w.tags();
            });
            w.tags();
            let mut r = KafkaReader::new(&out, flexible);
            let joined = JoinedGroup::read(&mut r, version).expect("an answer");
            assert_eq!(
                (
                    joined.generation,
                    joined.assignor.as_str(),
                    joined.leader.as_str()
                ),
                (7, "range", "m1")
            );
            let ids: Vec<_> = joined.members.iter().map(|(id, _)| id.as_str()).collect();
            assert_eq!(ids, ["m1", "m2"]);
        }
        for (version, flexible) in [(3, false), (5, true)] {
            let partitions = named(&[("t", 3)]);
            let mut out = Vec::new();
            let mut w = KafkaWriter::new(&mut out, flexible);
            w.i32(0);
            w.i16(27);
            if version >= 5 {
                w.nullable_text(None);
                w.nullable_text(None);
            }
            w.bytes(&assignment(&partitions));
            w.tags();
            let mut r = KafkaReader::new(&out, flexible);
            let synced = read_synced(&mut r, version);
            assert_eq!(synced, Ok((KafkaCode::REBALANCE_IN_PROGRESS, partitions)));
        }
    }
}

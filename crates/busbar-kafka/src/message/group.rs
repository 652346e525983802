//! Coordinators, and the offsets that groups keep.

use super::member::MemberIdentity;
use super::{read_topics, write_topics};
use crate::{KafkaCode, KafkaReader, KafkaWriter, Result};

/// Asks which broker coordinates a group or a transactional id.
#[derive(Clone, Copy, Debug)]
pub struct CoordinatorRequest<'a> {
    /// The group or the transactional id.
    pub key: &'a str,
    /// Whether it is a transactional id.
    pub transaction: bool,
}

impl CoordinatorRequest<'_> {
    /// Writes it.
    pub fn write(&self, w: &mut KafkaWriter<'_>, _version: i16) {
        w.text(self.key);
        w.i8(i8::from(self.transaction));
        w.tags();
    }
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundCoordinator<'a> {
    /// What is wrong.
    pub code: KafkaCode,
    /// The broker's number.
    pub id: i32,
    /// Its host.
    pub host: &'a str,
    /// Its port.
    pub port: i32,
}

impl<'a> FoundCoordinator<'a> {
    /// Reads it.
    ///
    /// # Errors
    /// [`crate::KafkaFault`].
    pub fn read(r: &mut KafkaReader<'a>) -> Result<FoundCoordinator<'a>> {
        let _throttle = r.i32()?;
        let code = KafkaCode(r.i16()?);
        let _said = r.nullable_text()?;
        Ok(FoundCoordinator {
            code,
            id: r.i32()?,
            host: r.text()?,
            port: r.i32()?,
        })
    }
}

/// An offset that a group is to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptOffset {
    /// The topic.
    pub topic: std::sync::Arc<str>,
    /// The partition's number.
    pub partition: i32,
    /// The offset of the record that is read next.
    pub offset: i64,
    /// What is kept beside it.
    pub note: String,
}

/// Keeps offsets of a group.
#[derive(Clone, Copy, Debug)]
pub struct OffsetCommitRequest<'a> {
    /// The group.
    pub group: &'a str,
    /// The member whose partitions they are of; none for a group without members.
    pub member: Option<&'a MemberIdentity>,
    /// The offsets, by topic.
    pub offsets: &'a [KeptOffset],
}

impl OffsetCommitRequest<'_> {
    /// Writes it.
    pub fn write(&self, w: &mut KafkaWriter<'_>, version: i16) {
        w.text(self.group);
        w.i32(self.member.map_or(-1, |member| member.generation));
        w.text(self.member.map_or("", |member| &member.id));
        if version >= 7 {
            w.nullable_text(None);
        }
        write_offsets(w, self.offsets);
        w.tags();
    }
}

/// Topics, partitions and their offsets, as two requests have them.
pub(super) fn write_offsets(w: &mut KafkaWriter<'_>, offsets: &[KeptOffset]) {
    write_topics(
        w,
        offsets,
        |kept| &kept.topic,
        |w, kept| {
            w.i32(kept.partition);
            w.i64(kept.offset);
            w.i32(-1);
            w.nullable_text(Some(&kept.note));
            w.tags();
        },
    );
}

/// Reads the answer: the first thing that is wrong.
///
/// # Errors
/// [`crate::KafkaFault`].
pub fn read_offset_commit(r: &mut KafkaReader<'_>) -> Result<KafkaCode> {
    super::transaction::read_partition_codes(r)
}

/// Asks for offsets that a group has kept.
#[derive(Clone, Copy, Debug)]
pub struct OffsetFetchRequest<'a> {
    /// The group.
    pub group: &'a str,
    /// Topics and partitions, by topic.
    pub partitions: &'a [(&'a str, i32)],
}

impl OffsetFetchRequest<'_> {
    /// Writes it: offsets of transactions that have not ended are waited for.
    pub fn write(&self, w: &mut KafkaWriter<'_>, version: i16) {
        w.text(self.group);
        write_topics(
            w,
            self.partitions,
            |(topic, _)| topic,
            |w, (_, partition)| w.i32(*partition),
        );
        if version >= 7 {
            w.bool(true);
        }
        w.tags();
    }
}

/// An offset that a group has kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommittedOffset<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition's number.
    pub partition: i32,
    /// The offset; -1 for none.
    pub offset: i64,
    /// What was kept beside it.
    pub note: Option<&'a str>,
    /// What is wrong with it.
    pub code: KafkaCode,
}

/// Reads the answer: what is wrong with the whole, and the offsets.
///
/// # Errors
/// [`crate::KafkaFault`].
pub fn read_committed_offsets<'a>(
    r: &mut KafkaReader<'a>,
) -> Result<(KafkaCode, Vec<CommittedOffset<'a>>)> {
    let _throttle = r.i32()?;
    let offsets = read_topics(r, 19, |topic, r| {
        let partition = r.i32()?;
        let (offset, _epoch) = (r.i64()?, r.i32()?);
        Ok(CommittedOffset {
            topic,
            partition,
            offset,
            note: r.nullable_text()?,
            code: KafkaCode(r.i16()?),
        })
    })?;
    Ok((KafkaCode(r.i16()?), offsets))
}

/// An offset as a record of the topic in which coordinators keep the offsets of groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetRecord<'a> {
    /// The group.
    pub group: &'a str,
    /// The topic.
    pub topic: &'a str,
    /// The partition's number.
    pub partition: i32,
    /// The offset of the record that is read next.
    pub offset: i64,
    /// What is kept beside it.
    pub note: &'a str,
}

/// Reads such a record; `None` where it says something else of a group, or is of a form that this crate does not know.
///
/// # Errors
/// [`crate::KafkaFault`].
pub fn read_offset_record<'a>(key: &'a [u8], value: &'a [u8]) -> Result<Option<OffsetRecord<'a>>> {
    let mut r = KafkaReader::new(key, false);
    if !matches!(r.i16()?, 0..=1) {
        return Ok(None);
    }
    let (group, topic, partition) = (r.text()?, r.text()?, r.i32()?);
    let version = KafkaReader::new(value, false).i16()?;
    if !(0..=4).contains(&version) {
        return Ok(None);
    }
    let mut r = KafkaReader::new(value, version >= 4);
    let _version = r.i16()?;
    let offset = r.i64()?;
    if version >= 3 {
        let _leader_epoch = r.i32()?;
    }
    Ok(Some(OffsetRecord {
        group,
        topic,
        partition,
        offset,
        note: r.text()?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_offsets_are_read_in_each_form() {
        let wanted = OffsetRecord {
            group: "g",
            topic: "orders",
            partition: 3,
            offset: 70,
            note: "n",
        };
        let key = |version| {
            let mut out = Vec::new();
            let mut w = KafkaWriter::new(&mut out, false);
            w.i16(version);
            w.text("g");
            w.text("orders");
            w.i32(3);
            out
        };
        for version in 0..=4 {
            let mut value = Vec::new();
            let mut w = KafkaWriter::new(&mut value, version == 4);
            w.i16(version);
            w.i64(70);
            if version >= 3 {
                w.i32(-1);
            }
            w.text("n");
            w.i64(0);
            w.tags();
            assert_eq!(read_offset_record(&key(1), &value), Ok(Some(wanted)));
            assert_eq!(read_offset_record(&key(2), &value), Ok(None), "a group");
        }
        assert!(read_offset_record(&key(1), &[0, 3]).is_err());
    }
}

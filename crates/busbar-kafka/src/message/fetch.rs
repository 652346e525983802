//! Reading partitions.

use std::ops::Range;

use super::{read_topics, write_topics};
use crate::{KafkaCode, KafkaReader, KafkaWriter, Result};

/// Asks for records.
#[derive(Clone, Copy, Debug)]
pub struct FetchRequest<'a> {
    /// How long the broker waits for records, in milliseconds.
    pub wait_millis: i32,
    /// Bytes of all partitions, beyond the first batch.
    pub most_bytes: i32,
    /// Bytes of one partition, beyond its first batch.
    pub partition_bytes: i32,
    /// Whether records of transactions that have not ended are held back.
    pub committed: bool,
    /// The partitions, by topic.
    pub partitions: &'a [FetchPartition<'a>],
}

/// A partition to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchPartition<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition's number.
    pub partition: i32,
    /// The offset of the first record that is asked for.
    pub offset: i64,
}

impl FetchRequest<'_> {
    /// Writes it, without a session.
    pub fn write(&self, w: &mut KafkaWriter<'_>, version: i16) {
        w.i32(-1);
        w.i32(self.wait_millis);
        w.i32(1);
        w.i32(self.most_bytes);
        w.i8(i8::from(self.committed));
        w.i32(0);
        w.i32(-1);
        write_topics(
            w,
            self.partitions,
            |partition| partition.topic,
            |w, partition| {
                w.i32(partition.partition);
                w.i32(-1);
                w.i64(partition.offset);
                if version >= 12 {
                    w.i32(-1);
                }
                w.i64(-1);
                w.i32(self.partition_bytes);
                w.tags();
            },
        );
        w.each([0_u8; 0].iter(), |_, _| {});
        if version >= 11 {
            w.text("");
        }
        w.tags();
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchResponse<'a> {
    /// What is wrong with the whole.
    pub code: KafkaCode,
    /// What partitions have.
    pub partitions: Vec<FetchedPartition<'a>>,
}

/// What a partition has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedPartition<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition's number.
    pub partition: i32,
    /// What is wrong with it.
    pub code: KafkaCode,
    /// The offset behind the last record that may be read: of those that all replicas have, or of the transactions that have
    /// ended where those were asked for.
    pub end: i64,
    /// The offset of the oldest record.
    pub start: i64,
    /// Transactions that were given up and have records here.
    pub aborted: Vec<AbortedTransaction>,
    /// Where the batches are in the frame's body.
    pub records: Range<usize>,
}

/// A transaction that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Whose.
    pub producer_id: i64,
    /// Its first offset in the partition.
    pub first_offset: i64,
}

impl<'a> FetchResponse<'a> {
    /// Reads it from a body, in which [`FetchedPartition::records`] are places.
    ///
    /// # Errors
    /// [`crate::KafkaFault`].
    pub fn read(r: &mut KafkaReader<'a>, version: i16) -> Result<FetchResponse<'a>> {
        let whole = r.rest().len();
        let _throttle = r.i32()?;
        let code = KafkaCode(r.i16()?);
        let _session = r.i32()?;
        let partitions = read_topics(r, 32, |topic, r| {
            let (partition, code) = (r.i32()?, KafkaCode(r.i16()?));
            let (high, stable, start) = (r.i64()?, r.i64()?, r.i64()?);
            let aborted = r.each(16, |r| {
                let transaction = AbortedTransaction {
                    producer_id: r.i64()?,
                    first_offset: r.i64()?,
                };
                r.tags()?;
                Ok(transaction)
            })?;
            if version >= 11 {
                let _preferred = r.i32()?;
            }
            let records = r.nullable_bytes()?.unwrap_or_default().len();
            let end = whole - r.rest().len();
            Ok(FetchedPartition {
                topic,
                partition,
                code,
                end: if stable >= 0 { stable } else { high },
                start,
                aborted,
                records: end - records..end,
            })
        })?;
        Ok(FetchResponse { code, partitions })
    }
}

//! Writing partitions.

use super::{read_topics, write_topics};
use crate::{KafkaCode, KafkaReader, KafkaWriter, Result};

/// Sends batches, one for each partition.
#[derive(Clone, Copy, Debug)]
pub struct ProduceRequest<'a> {
    /// The transactional id of who sends.
    pub transactional_id: Option<&'a str>,
    /// How long the broker may wait for its replicas, in milliseconds.
    pub wait_millis: i32,
    /// The batches, by topic.
    pub batches: &'a [ProduceBatch],
}

/// A batch.
#[derive(Clone, Debug)]
pub struct ProduceBatch {
    /// The topic.
    pub topic: std::sync::Arc<str>,
    /// The partition's number.
    pub partition: i32,
    /// The batch, as [`crate::batch::BatchWriter`] makes it.
    pub records: Vec<u8>,
}

impl ProduceRequest<'_> {
    /// Writes it: all replicas that are in step must have the batches.
    pub fn write(&self, w: &mut KafkaWriter<'_>, _version: i16) {
        w.nullable_text(self.transactional_id);
        w.i16(-1);
        w.i32(self.wait_millis);
        write_topics(
            w,
            self.batches,
            |batch| &batch.topic,
            |w, batch| {
                w.i32(batch.partition);
                w.bytes(&batch.records);
                w.tags();
            },
        );
        w.tags();
    }
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducedPartition<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition's number.
    pub partition: i32,
    /// What is wrong with it.
    pub code: KafkaCode,
    /// The offset of the first record of the batch; -1 where it was not written.
    pub offset: i64,
    /// What the broker says about it.
    pub said: Option<&'a str>,
}

/// Reads the answer.
///
/// # Errors
/// [`crate::KafkaFault`].
pub fn read_produced<'a>(
    r: &mut KafkaReader<'a>,
    version: i16,
) -> Result<Vec<ProducedPartition<'a>>> {
    let produced = read_topics(r, 30, |topic, r| {
        let (partition, code) = (r.i32()?, KafkaCode(r.i16()?));
        let (offset, _time, _start) = (r.i64()?, r.i64()?, r.i64()?);
        let mut said = None;
        if version >= 8 {
            let rows = r.each(5, |r| {
                let _row = r.i32()?;
                let said = r.nullable_text()?;
                r.tags()?;
                Ok(said)
            })?;
            said = r.nullable_text()?;
            said = said.or(rows.into_iter().flatten().next());
        }
        Ok(ProducedPartition {
            topic,
            partition,
            code,
            offset,
            said,
        })
    })?;
    let _throttle = r.i32()?;
    Ok(produced)
}

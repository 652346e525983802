//! The producers of partitions, and whether they have transactions open there.

use std::sync::Arc;

use super::read_topics;
use crate::{KafkaCode, KafkaReader, KafkaWriter, Result};

/// Asks the leader of partitions who writes to them.
#[derive(Clone, Copy, Debug)]
pub struct ProducersRequest<'a> {
    /// Topics and partitions, by topic.
    pub partitions: &'a [(Arc<str>, i32)],
}

impl ProducersRequest<'_> {
    /// Writes it.
    pub fn write(&self, w: &mut KafkaWriter<'_>, _version: i16) {
        w.each(
            self.partitions
                .chunk_by(|a, b| a.0 == b.0)
                .collect::<Vec<_>>()
                .into_iter(),
            |w, group| {
                w.text(group.first().map_or("", |(topic, _)| topic));
                w.each(group.iter(), |w, (_, partition)| w.i32(*partition));
                w.tags();
            },
        );
        w.tags();
    }
}

/// Who writes to a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionProducers<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition's number.
    pub partition: i32,
    /// What is wrong with it.
    pub code: KafkaCode,
    /// The producers.
    pub producers: Vec<PartitionProducer>,
}

/// A producer as the leader of a partition knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionProducer {
    /// Its id.
    pub id: i64,
    /// The offset in the partition at which its open transaction begins; `None` where it has none open there.
    pub open: Option<i64>,
}

/// Reads the answer.
///
/// # Errors
/// [`crate::KafkaFault`].
pub fn read_producers<'a>(r: &mut KafkaReader<'a>) -> Result<Vec<PartitionProducers<'a>>> {
    let _throttle = r.i32()?;
    read_topics(r, 8, |topic, r| {
        let (partition, code) = (r.i32()?, KafkaCode(r.i16()?));
        let _said = r.nullable_text()?;
        let producers = r.each(33, |r| {
            let (id, _epoch, _sequence) = (r.i64()?, r.i32()?, r.i32()?);
            let (_time, _coordinator_epoch) = (r.i64()?, r.i32()?);
            let open = r.i64()?;
            r.tags()?;
            Ok(PartitionProducer {
                id,
                open: (open >= 0).then_some(open),
            })
        })?;
        Ok(PartitionProducers {
            topic,
            partition,
            code,
            producers,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_with_and_without_a_transaction_are_read() {
        let mut out = Vec::new();
        let mut w = KafkaWriter::new(&mut out, true);
        w.i32(0);
        w.each(["orders"].into_iter(), |w, topic| {
            w.text(topic);
            w.each([7].into_iter(), |w, partition| {
                w.i32(partition);
                w.i16(0);
                w.nullable_text(None);
                w.each([(1, -1), (2, 40)].into_iter(), |w, (id, open)| {
                    w.i64(id);
                    w.i32(3);
                    w.i32(9);
                    w.i64(0);
                    w.i32(1);
                    w.i64(open);
                    w.tags();
                });
                w.tags();
            });
            w.tags();
        });
        w.tags();
        let producer = |id, open| PartitionProducer { id, open };
        let wanted = PartitionProducers {
            topic: "orders",
            partition: 7,
            code: KafkaCode::NONE,
            producers: vec![producer(1, None), producer(2, Some(40))],
        };
        let mut r = KafkaReader::new(&out, true);
        assert_eq!(read_producers(&mut r), Ok(vec![wanted]));
    }
}

//! Brokers, topics with their partitions, and offsets by time.

use super::{read_topics, write_topics};
use crate::{KafkaCode, KafkaReader, KafkaWriter, Result};

/// Asks for brokers and topics.
#[derive(Clone, Copy, Debug)]
pub struct MetadataRequest<'a> {
    /// The topics; all of them where none are named.
    pub topics: Option<&'a [String]>,
}

impl MetadataRequest<'_> {
    /// Writes it. No topic is created by being asked for.
    pub fn write(&self, w: &mut KafkaWriter<'_>, version: i16) {
        match self.topics {
            None => w.no_array(),
            Some(topics) => w.each(topics.iter(), |w, topic| {
                if version >= 10 {
                    w.uuid([0; 16]);
                }
                w.text(topic);
                w.tags();
            }),
        }
        w.bool(false);
        if (8..=10).contains(&version) {
            w.bool(false);
        }
        if version >= 8 {
            w.bool(false);
        }
        w.tags();
    }
}

/// A broker and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaBroker {
    /// Its number.
    pub id: i32,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: i32,
}

/// Brokers of a cluster.
pub type Brokers = Vec<KafkaBroker>;

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaTopic {
    /// What is wrong with it.
    pub code: KafkaCode,
    /// Its name.
    pub name: String,
    /// Its identifier, which another topic of the same name does not have; zero from older brokers.
    pub id: [u8; 16],
    /// Whether it is one of Kafka's own.
    pub internal: bool,
    /// Its partitions.
    pub partitions: Vec<TopicPartition>,
}

/// A partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicPartition {
    /// What is wrong with it.
    pub code: KafkaCode,
    /// Its number.
    pub partition: i32,
    /// The broker that leads it; -1 for none.
    pub leader: i32,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataResponse {
    /// The brokers that live.
    pub brokers: Brokers,
    /// The topics.
    pub topics: Vec<KafkaTopic>,
}

impl MetadataResponse {
    /// Reads it.
    ///
    /// # Errors
    /// [`crate::KafkaFault`].
    pub fn read(r: &mut KafkaReader<'_>, version: i16) -> Result<MetadataResponse> {
        let _throttle = r.i32()?;
        let brokers = r.each(10, |r| {
            let broker = KafkaBroker {
                id: r.i32()?,
                host: r.text()?.to_owned(),
                port: r.i32()?,
            };
            let _rack = r.nullable_text()?;
            r.tags()?;
            Ok(broker)
        })?;
        let _cluster = r.nullable_text()?;
        let _controller = r.i32()?;
        let topics = r.each(8, |r| {
            let code = KafkaCode(r.i16()?);
            let name = r.nullable_text()?.unwrap_or_default().to_owned();
            let id = if version >= 10 { r.uuid()? } else { [0; 16] };
            let internal = r.bool()?;
            let partitions = r.each(17, |r| {
                let partition = TopicPartition {
                    code: KafkaCode(r.i16()?),
                    partition: r.i32()?,
                    leader: r.i32()?,
                };
                let _leader_epoch = r.i32()?;
                for _ in 0..3 {
                    // Replicas, those in step, and those that are away.
                    r.each(4, KafkaReader::i32)?;
                }
                r.tags()?;
                Ok(partition)
            })?;
            if version >= 8 {
                let _operations = r.i32()?;
            }
            r.tags()?;
            Ok(KafkaTopic {
                code,
                name,
                id,
                internal,
                partitions,
            })
        })?;
        Ok(MetadataResponse { brokers, topics })
    }
}

/// Asks for offsets by time.
#[derive(Clone, Copy, Debug)]
pub struct OffsetsRequest<'a> {
    /// Topic, partition and time of each in milliseconds, by topic. [`OffsetsRequest::EARLIEST`] and
    /// [`OffsetsRequest::LATEST`] are no times.
    pub partitions: &'a [(&'a str, i32, i64)],
    /// Whether the latest offset is that of the last transaction that has ended.
    pub committed: bool,
}

impl OffsetsRequest<'_> {
    /// The offset of the oldest record that is there.
    pub const EARLIEST: i64 = -2;
    /// The offset behind the newest record.
    pub const LATEST: i64 = -1;

    /// Writes it.
    pub fn write(&self, w: &mut KafkaWriter<'_>, _version: i16) {
        w.i32(-1);
        w.i8(i8::from(self.committed));
        write_topics(
            w,
            self.partitions,
            |(topic, ..)| topic,
            |w, (_, partition, time)| {
                w.i32(*partition);
                w.i32(-1);
                w.i64(*time);
                w.tags();
            },
        );
        w.tags();
    }
}

/// Topic, partition, and the offset; -1 where no record is as young as the time.
pub type FoundOffset<'a> = (&'a str, i32, Result<i64, KafkaCode>);

/// Reads the answer.
///
/// # Errors
/// [`crate::KafkaFault`].
pub fn read_offsets<'a>(r: &mut KafkaReader<'a>) -> Result<Vec<FoundOffset<'a>>> {
    let _throttle = r.i32()?;
    read_topics(r, 26, |topic, r| {
        let (partition, code) = (r.i32()?, KafkaCode(r.i16()?));
        let (_time, offset, _epoch) = (r.i64()?, r.i64()?, r.i32()?);
        let offset = if code.is_error() {
            Err(code)
        } else {
            Ok(offset)
        };
        Ok((topic, partition, offset))
    })
}

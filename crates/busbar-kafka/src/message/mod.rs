//! Requests and responses. A request is a structure with `write`, a response one with `read`; both are told the version.
//! Fields that Busbar does not look at are not kept.

mod cluster;
mod fetch;
mod group;
mod member;
mod produce;
mod producers;
mod session;
mod transaction;

pub use cluster::{
    Brokers, FoundOffset, KafkaBroker, KafkaTopic, MetadataRequest, MetadataResponse,
    OffsetsRequest, TopicPartition, read_offsets,
};
pub use fetch::{
    AbortedTransaction, FetchPartition, FetchRequest, FetchResponse, FetchedPartition,
};
pub use group::{
    CommittedOffset, CoordinatorRequest, FoundCoordinator, KeptOffset, OffsetCommitRequest,
    OffsetFetchRequest, OffsetRecord, read_committed_offsets, read_offset_commit,
    read_offset_record,
};
pub use member::{
    HeartbeatRequest, JoinGroupRequest, JoinedGroup, LeaveGroupRequest, MemberIdentity,
    NamedPartition, SyncGroupRequest, read_synced,
};
pub use produce::{ProduceBatch, ProduceRequest, ProducedPartition, read_produced};
pub use producers::{PartitionProducer, PartitionProducers, ProducersRequest, read_producers};
pub use session::{ApiRange, SaslAnswer, VersionsResponse, write_sasl, write_versions};
pub use transaction::{
    AddOffsetsRequest, AddPartitionsRequest, EndRequest, InitProducerRequest, ProducerIdentity,
    TxnCommitRequest, read_code, read_partition_codes,
};

use crate::{KafkaReader, KafkaWriter, Result};

/// Writes topics with partitions: `group` is sorted by topic, so that each topic is named once.
fn write_topics<T>(
    w: &mut KafkaWriter<'_>,
    all: &[T],
    topic: impl Fn(&T) -> &str,
    mut partition: impl FnMut(&mut KafkaWriter<'_>, &T),
) {
    let groups: Vec<&[T]> = all.chunk_by(|a, b| topic(a) == topic(b)).collect();
    w.each(groups.into_iter(), |w, group| {
        w.text(group.first().map_or("", &topic));
        w.each(group.iter(), &mut partition);
        w.tags();
    });
}

/// Reads topics with partitions, each of at least `least` bytes, by `partition` with its topic.
fn read_topics<'a, T>(
    r: &mut KafkaReader<'a>,
    least: usize,
    mut partition: impl FnMut(&'a str, &mut KafkaReader<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    let topics = r.each(3, |r| {
        let name = r.text()?;
        let partitions = r.each(least, |r| {
            let read = partition(name, r)?;
            r.tags()?;
            Ok(read)
        })?;
        r.tags()?;
        Ok(partitions)
    })?;
    Ok(topics.into_iter().flatten().collect())
}

//! Streams as the API shows them.

use busbar_bus::Stream;
use serde::Serialize;

/// The state of a stream.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct StreamSummary {
    /// Its name.
    pub(crate) name: String,
    /// Topic patterns it captures; none for one that flows write to.
    pub(crate) topics: Vec<String>,
    /// How many partitions it has.
    pub(crate) partitions: usize,
    /// Events it holds.
    pub(crate) events: u64,
    /// Bytes it holds.
    pub(crate) bytes: u64,
    /// Events in the last second.
    pub(crate) rate: u64,
    /// What an acknowledgement guarantees: `fsync` or `memory`.
    pub(crate) durability: &'static str,
    /// Number of damaged places.
    pub(crate) damaged: usize,
    /// Whether it is one of Busbar's own.
    pub(crate) internal: bool,
    /// Whether its file was removed: it can be read, and receives no events.
    pub(crate) detached: bool,
}

/// A stream at this moment.
pub(crate) fn stream_summary(stream: &Stream) -> StreamSummary {
    let spec = stream.spec();
    let partitions = stream.partitions();
    StreamSummary {
        name: stream.name().to_owned(),
        topics: spec
            .topics
            .iter()
            .map(|topic| topic.as_str().to_owned())
            .collect(),
        partitions: partitions.len(),
        events: partitions
            .iter()
            .map(|partition| partition.end().saturating_sub(partition.start()))
            .sum(),
        bytes: stream.bytes(),
        rate: stream.counters().events_per_second,
        durability: spec.durability.as_str(),
        damaged: partitions
            .iter()
            .map(|partition| partition.damage().len())
            .sum(),
        internal: stream.is_internal(),
        detached: stream.is_detached(),
    }
}

//! How a bus works: its bounds and its clock.

use std::sync::Arc;

use busbar_event::limits as event;
use busbar_log::{Clock, PartitionOptions, SystemClock};

use crate::limits::{
    CACHE_BYTES_DEFAULT, IN_FLIGHT_BYTES_MAX_DEFAULT, RETAINED_BYTES_MAX_DEFAULT,
    RETAINED_TOPICS_MAX_DEFAULT,
};

/// How a bus works.
#[derive(Clone)]
pub struct BusOptions {
    /// Bytes all publishers together may hold uncommitted.
    pub in_flight_bytes_max: u64,
    /// Largest payload of an event; never more than
    /// [`PAYLOAD_BYTES_MAX`](crate::limits::PAYLOAD_BYTES_MAX).
    pub payload_bytes_max: usize,
    /// Size at which a segment of a stream is sealed.
    pub segment_bytes: u64,
    /// Memory for recent events of all partitions together.
    pub cache_bytes: usize,
    /// Topics that may have a retained value.
    pub retained_topics_max: usize,
    /// Bytes of all retained values.
    pub retained_bytes_max: usize,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

impl Default for BusOptions {
    fn default() -> Self {
        let partition = PartitionOptions::default();
        BusOptions {
            in_flight_bytes_max: IN_FLIGHT_BYTES_MAX_DEFAULT,
            payload_bytes_max: event::PAYLOAD_BYTES_MAX_DEFAULT,
            segment_bytes: partition.segment_bytes,
            cache_bytes: CACHE_BYTES_DEFAULT,
            retained_topics_max: RETAINED_TOPICS_MAX_DEFAULT,
            retained_bytes_max: RETAINED_BYTES_MAX_DEFAULT,
            clock: Arc::new(SystemClock),
        }
    }
}

//! Ticks of idle partitions, kept in a stream of the flow: what a task has computed from the clock is computed again the same
//! way.
//!
//! A tick is an event whose key is `<stream>/<partition>`, whose time is the watermark, and whose payload is the offset of the
//! input, in decimal digits.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{BinaryArray, StringArray};
use busbar_bus::{Bus, Cursor, Item, Retention, Size, Stream, StreamPartition};
use busbar_event::{Batch, Body, Envelope, Error};

use super::input::Tick;
use crate::checkpoint::TaskKey;
use crate::limits::TICKS_BYTES_MAX;

/// The stream of a flow's ticks.
pub(crate) fn ticks_stream(bus: &Bus, known_as: &str) -> Result<Arc<Stream>, Error> {
    let retention = Retention {
        age: None,
        bytes: Some(Size::from_bytes(TICKS_BYTES_MAX)),
    };
    bus.derived_stream(&format!("_t-{known_as}"), 1, retention)
}

fn name(key: &TaskKey) -> String {
    format!("{}/{}", key.stream, key.partition)
}

/// Records a tick; it is durable then.
pub(super) async fn record(
    partition: &Arc<StreamPartition>,
    key: &TaskKey,
    offset: u64,
    watermark: i64,
) -> Result<Tick, Error> {
    let name = name(key);
    let mut envelope = Envelope::new(&StringArray::from(vec!["$tick"]), vec![watermark]);
    envelope.key = Some(StringArray::from(vec![name]));
    let payload = offset.to_string();
    let body = BinaryArray::from_vec(vec![payload.as_bytes()]);
    let batch = Batch::from_columns(envelope, Body::Payload(body))?;
    let appended = partition.append_rows(batch, None).await?;
    let landed = appended.parts.first().map(|part| part.appended);
    let read = landed.map_or(0, |at| at.base + u64::from(at.count));
    Ok(Tick {
        offset,
        watermark,
        read,
    })
}

/// The ticks that were recorded for a task at `position` of its input or behind, from an offset of their stream on. May block
/// on the disk.
pub(crate) fn recorded_ticks(
    partition: &Arc<StreamPartition>,
    key: &TaskKey,
    position: u64,
    from: u64,
) -> Result<VecDeque<Tick>, Error> {
    let name = name(key);
    let mut ticks = VecDeque::new();
    let from = from.clamp(partition.start(), partition.end());
    let mut cursor = Cursor::new(Arc::clone(partition), from);
    while let Some(item) = cursor.try_next()? {
        let Item::Chunk(chunk) = item else { continue };
        let payloads = chunk.batch.payloads();
        for row in 0..chunk.batch.rows() {
            if chunk.batch.key(row) != Some(name.as_str()) {
                continue;
            }
            let text = std::str::from_utf8(payloads.value(row)).ok();
            let Some(offset) = text.and_then(|text| text.parse().ok()) else {
                continue;
            };
            if offset >= position {
                ticks.push_back(Tick {
                    offset,
                    watermark: chunk.batch.times()[row],
                    read: chunk.base + row as u64 + 1,
                });
            }
        }
    }
    Ok(ticks)
}

//! Ticks of idle partitions, kept in a stream of the flow: what a task has computed from the clock is computed again the same
//! way.
//!
//! A tick is an event whose key is `<stream>/<partition>`, whose time is the watermark, and whose payload is the offset of the
//! input, in decimal digits. Events that are sent through the flow again are among them, see [`super::insert`].

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{BinaryArray, StringArray};
use busbar_bus::{Bus, Cursor, Item, Producer, Retention, Size, Stream, StreamPartition};
use busbar_event::{Batch, Body, Envelope, Error};

use super::input::{InputReader, Tick};
use super::machine::Machine;
use super::{Task, insert};
use crate::checkpoint::TaskKey;
use crate::limits::TICKS_BYTES_MAX;
use tokio::time::Instant;

/// The stream of a flow's ticks.
pub(crate) fn ticks_stream(bus: &Bus, known_as: &str) -> Result<Arc<Stream>, Error> {
    let retention = Retention {
        age: None,
        bytes: Some(Size::from_bytes(TICKS_BYTES_MAX)),
    };
    bus.derived_stream(&ticks_stream_name(known_as), 1, retention)
}

/// The name of the stream of a flow's ticks.
pub(crate) fn ticks_stream_name(known_as: &str) -> String {
    format!("_t-{known_as}")
}

pub(super) fn name(key: &TaskKey) -> String {
    format!("{}/{}", key.stream, key.partition)
}

impl Task {
    /// Records a tick where the partition is idle and some operator waits for time to go on.
    pub(super) async fn tick_if_due(
        &mut self,
        machine: &Machine,
        input: &mut InputReader,
        began: Instant,
    ) {
        let plan = &self.shared.plan.inputs[self.input];
        let (Some(keeps), Some(time), 0) = (&self.keeps, &self.chain.time, plan.stage) else {
            return;
        };
        let clock = self.surroundings.bus.clock().now_micros() - plan.lateness;
        let due = machine.tick(
            began.elapsed(),
            input.at_end(),
            clock,
            time.watermark(),
            self.shared.wanted(),
        );
        let Some(watermark) = due else { return };
        let offset = input.position();
        let recorded = record(&keeps.ticks_stream, &self.key, offset, watermark).await;
        match recorded {
            Ok(tick) => input.tick(tick),
            // It is tried again at the next look.
            Err(error) => self.input_error(Some(error), 1),
        }
    }
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
    let read = append(partition, batch, None).await?;
    Ok(Tick {
        offset,
        watermark,
        read: read.unwrap_or(0),
        event: None,
    })
}

/// Appends a record; answers the offset behind it, or none where the producer had written it before.
pub(super) async fn append(
    partition: &Arc<StreamPartition>,
    record: Batch,
    producer: Option<Producer>,
) -> Result<Option<u64>, Error> {
    let appended = partition.append_rows(record, producer).await?;
    if appended.duplicate() {
        return Ok(None);
    }
    let landed = appended.parts.first().map(|part| part.appended);
    Ok(landed.map(|at| at.base + u64::from(at.count)))
}

/// The ticks that were recorded for a task at `position` of its input or behind, from an offset of their stream on, and the
/// events that a generation was sent again, if one is given. May block on the disk.
pub(crate) fn recorded_ticks(
    partition: &Arc<StreamPartition>,
    key: &TaskKey,
    position: u64,
    from: u64,
    generation: Option<u64>,
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
            let record = chunk.batch.event(row);
            if insert::is_event(&record) {
                let event = generation.and_then(|own| insert::unrecorded(&record, own));
                if let Some((offset, event)) = event.filter(|(offset, _)| *offset >= position) {
                    ticks.push_back(Tick {
                        offset,
                        watermark: record.time,
                        read: chunk.base + row as u64 + 1,
                        event: Some(event),
                    });
                }
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
                    event: None,
                });
            }
        }
    }
    Ok(ticks)
}

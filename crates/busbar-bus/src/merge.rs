//! Small frames of sealed segments become large ones.
//!
//! An idle system commits an event a frame, and a frame has a fixed cost: for each reader, for ever.
//! A thread looks at segments once they are sealed; those with small frames are written anew with
//! rows of neighbouring frames in one. Offsets, times and producers' positions stay.

use std::{
    sync::{
        Weak,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use busbar_event::{Batch, Class, Error, Result, encode};
use busbar_log::{Change, Frame, LogError, Merged, Partition, Rewritten, Store, Watched};

use crate::{
    error::from_log,
    limits::{MERGE_BYTES_MAX, MERGE_EVERY_MILLIS, MERGE_FRAME_BYTES_MIN, MERGE_SAMPLE_BYTES},
    shared::Shared,
    stream::batch_of,
};

/// Starts the thread; it ends when the other side of `stop` is dropped.
pub(crate) fn start(
    shared: Weak<Shared>,
    store: Store,
    stop: Receiver<()>,
    watched: Watched,
) -> Result<()> {
    std::thread::Builder::new()
        .name("busbar-merge".into())
        .spawn(move || {
            run(&shared, &store, &stop);
            watched.finish();
        })
        .map(drop)
        .map_err(|cause| Error::new(Class::Transient, "bus.thread").caused_by(cause))
}

fn run(shared: &Weak<Shared>, store: &Store, stop: &Receiver<()>) {
    let every = Duration::from_millis(MERGE_EVERY_MILLIS);
    while stop.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let partitions: Vec<_> = shared
            .streams()
            .iter()
            .flat_map(|stream| stream.partitions().to_vec())
            .collect();
        drop(shared);
        for partition in partitions {
            if let Err(error) = sweep(partition.log(), store) {
                tracing::warn!(?partition, %error, "small frames were not merged");
            }
        }
    }
}

/// Looks at the sealed segments of a partition that were not looked at before.
pub(crate) fn sweep(partition: &Partition, store: &Store) -> Result<Rewritten> {
    let key = bytes::Bytes::copy_from_slice(partition.name().as_bytes());
    let done = store
        .get(&key)
        .and_then(|at| Some(u64::from_le_bytes(at.as_ref().try_into().ok()?)));
    let mut all = Rewritten::default();
    let mut looked = None;
    for segment in partition.segments() {
        if !segment.sealed || done.is_some_and(|done| segment.base <= done) {
            continue;
        }
        if has_small_frames(partition, segment.base, segment.end) {
            let rewritten = match partition.rewrite(segment.base, MERGE_BYTES_MAX, &mut merge) {
                // It stays as it is; those behind it must not wait for it.
                Err(LogError::Damaged { .. }) => Rewritten::default(),
                other => other.map_err(from_log)?,
            };
            all.frames.0 += rewritten.frames.0;
            all.frames.1 += rewritten.frames.1;
            all.bytes.0 += rewritten.bytes.0;
            all.bytes.1 += rewritten.bytes.1;
        }
        looked = Some(segment.base);
    }
    if let Some(base) = looked {
        let value = bytes::Bytes::copy_from_slice(&base.to_le_bytes());
        store
            .apply_sync(vec![Change::Put(key, value)])
            .map_err(from_log)?;
    }
    Ok(all)
}

/// Judged by the first frames: how a segment was filled seldom changes within it.
fn has_small_frames(partition: &Partition, base: u64, end: u64) -> bool {
    let Ok(frames) = partition.read(base.max(partition.start()), MERGE_SAMPLE_BYTES) else {
        return false;
    };
    let within = frames.iter().filter(|frame| frame.end() <= end);
    let (count, bytes) = within.fold((0, 0), |(n, bytes), frame| {
        (n + 1, bytes + frame.body.len())
    });
    count > 1 && bytes / count < MERGE_FRAME_BYTES_MIN
}

/// One body for the rows of neighbouring frames; `None` where they do not go together.
pub(crate) fn merge(frames: &[Frame]) -> Option<Merged> {
    if frames.len() < 2 {
        return None;
    }
    let batches: Vec<Batch> = frames.iter().map(batch_of).collect::<Result<_>>().ok()?;
    let merged = Batch::concat(&batches).ok()?;
    Some(Merged {
        body: encode(&merged),
        attributes: frames.iter().fold(0, |all, frame| all | frame.attributes),
    })
}

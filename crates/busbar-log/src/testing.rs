//! What the tests of this crate share.

use std::path::Path;
use std::sync::{Arc, mpsc};

use bytes::Bytes;

use crate::append::{Append, Appended};
use crate::clock::ManualClock;
use crate::error::Result;
use crate::frame::Frame;
use crate::log::{Driver, Log};
use crate::options::{LogOptions, PartitionOptions};
use crate::partition::Partition;
use crate::sim::SimDisk;

pub(crate) const DIR: &str = "/data";

pub(crate) fn append(body: Vec<u8>, count: u32) -> Append {
    Append {
        body: Bytes::from(body),
        count,
        min_time: 0,
        max_time: 0,
        producers: Vec::new(),
        attributes: 7,
        companion: None,
        done: None,
    }
}

pub(crate) fn options() -> PartitionOptions {
    PartitionOptions {
        segment_bytes: 64 << 10,
        cache_bytes: 0,
        ..PartitionOptions::default()
    }
}

pub(crate) fn small() -> LogOptions {
    LogOptions {
        reserve_bytes: 0,
        ..LogOptions::default()
    }
}

pub(crate) fn open(disk: &SimDisk, clock: &Arc<ManualClock>) -> (Log, Driver) {
    Log::open_driven(
        Arc::new(disk.clone()),
        Path::new(DIR),
        small(),
        clock.clone(),
    )
    .unwrap()
}

/// Appends and commits; what came of it.
pub(crate) fn commit(
    driver: &mut Driver,
    partition: &Partition,
    mut append: Append,
) -> Result<Appended> {
    let (send, receive) = mpsc::channel();
    append.done = Some(Box::new(move |result| {
        let _ = send.send(result);
    }));
    partition.append(append);
    driver.drain();
    receive.try_recv().unwrap()
}

pub(crate) fn read_all(partition: &Partition) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut offset = partition.start();
    while offset < partition.end() {
        let some = partition.read(offset, 100_000).unwrap();
        offset = some.last().unwrap().end();
        frames.extend(some);
    }
    frames
}

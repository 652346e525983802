//! Bodies of frames: any bytes are refused or become a batch that can be read to the end, written
//! and read again.
#![no_main]

use busbar_event::{Batch, Body, decode, encode};
use libfuzzer_sys::fuzz_target;

// Raw bytes, as seeds are: a `Vec` would be made out of them, and no seed would arrive whole.
fuzz_target!(|data: &[u8]| {
    let Ok(batch) = decode(data.to_vec().into()) else {
        return;
    };
    let read = walk(&batch);
    let again = decode(encode(&batch)).expect("what was read can be written and read");
    assert_eq!(walk(&again), read);
});

fn walk(batch: &Batch) -> usize {
    let mut sum = batch.record().num_rows();
    for row in 0..batch.rows() {
        sum += batch.topic(row).len() + batch.key(row).map_or(0, str::len);
        sum += batch.client(row).map_or(0, str::len);
        sum += batch
            .tags(row)
            .map(|(name, value)| name.len() + value.len())
            .sum::<usize>();
    }
    if let Body::Payload(payload) = batch.body() {
        sum += payload.iter().flatten().map(<[u8]>::len).sum::<usize>();
    }
    sum
}

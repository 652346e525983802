#![no_main]
//! Responses and record batches of Kafka, as a client reads them. The first two bytes choose the message and its version.
#![allow(missing_docs)]

use busbar_kafka::batch::{OpenBatch, next_batch};
use busbar_kafka::message::{
    FetchResponse, FoundCoordinator, JoinedGroup, MetadataResponse, ProducerIdentity, SaslAnswer,
    VersionsResponse, read_code, read_committed_offsets, read_offset_record, read_offsets,
    read_partition_codes, read_produced, read_producers, read_synced,
};
use busbar_kafka::{Api, response_body};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

/// Bytes that a batch may have once it is decompressed.
const MOST: usize = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let [which, version, rest @ ..] = bytes else {
        return;
    };
    let Some(api) = Api::ALL.get(usize::from(*which)).copied() else {
        records(rest);
        return;
    };
    let Some(version) = api.common(0, i16::from(*version % 16)) else {
        return;
    };
    let Ok((_, mut r)) = response_body(api, version, rest) else {
        return;
    };
    let body = r.rest();
    let r = &mut r;
    match api {
        Api::Produce => drop(read_produced(r, version)),
        Api::Fetch => {
            if let Ok(fetched) = FetchResponse::read(r, version) {
                for partition in fetched.partitions {
                    // Places in the body, whatever is sent.
                    records(&body[partition.records]);
                }
            }
        }
        Api::ListOffsets => drop(read_offsets(r)),
        Api::Metadata => drop(MetadataResponse::read(r, version)),
        Api::OffsetCommit | Api::AddPartitionsToTxn | Api::TxnOffsetCommit => {
            let _ = read_partition_codes(r);
        }
        Api::OffsetFetch => drop(read_committed_offsets(r)),
        Api::FindCoordinator => drop(FoundCoordinator::read(r)),
        Api::SaslHandshake => drop(SaslAnswer::read_mechanisms(r)),
        Api::SaslAuthenticate => drop(SaslAnswer::read(r)),
        Api::ApiVersions => drop(VersionsResponse::read(r, version)),
        Api::InitProducerId => drop(ProducerIdentity::read(r)),
        Api::JoinGroup => drop(JoinedGroup::read(r, version)),
        Api::SyncGroup => drop(read_synced(r, version)),
        Api::Heartbeat | Api::LeaveGroup | Api::AddOffsetsToTxn | Api::EndTxn => {
            let _ = read_code(r);
        }
        Api::DescribeProducers => drop(read_producers(r)),
    }
});

fn records(bytes: &[u8]) {
    let mut fixed = bytes.to_vec();
    // No fuzzer guesses a checksum.
    if let Some(length) = fixed.get(8..12) {
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let end = length.saturating_add(12);
        if end <= fixed.len() && end > 21 {
            let checksum = crc32c(&fixed[21..end]);
            fixed[17..21].copy_from_slice(&checksum.to_be_bytes());
        }
    }
    let mut rest = Bytes::from(fixed);
    while let Ok(Some((head, records))) = next_batch(&mut rest) {
        assert!(head.base_offset <= head.last_offset);
        let Ok(mut batch) = OpenBatch::new(head, records, MOST) else {
            continue;
        };
        let _ = batch.clone().aborts();
        let mut count = 0;
        while let Ok(Some(record)) = batch.next_record() {
            assert!((head.base_offset..=head.last_offset).contains(&record.offset));
            assert_eq!(record.headers.count(), record.headers.len());
            if let (Some(key), Some(value)) = (record.key, record.value) {
                let _ = read_offset_record(key, value);
            }
            count += 1;
        }
        assert!(count <= head.records);
    }
}

/// CRC-32C, a bit at a time.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

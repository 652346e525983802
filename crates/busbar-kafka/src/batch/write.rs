//! Writing batches.

use super::codec::KafkaCodec;
use super::varint;
use crate::limits::{BATCH_HEAD_BYTES, BATCH_LENGTH_AT_BYTES};

/// Collects the records of one batch after another.
#[derive(Debug, Default)]
pub struct BatchWriter {
    records: Vec<u8>,
    count: i32,
    first_time: i64,
    max_time: i64,
}

/// A record to be written.
#[derive(Clone, Copy, Debug)]
pub struct RecordParts<'a> {
    /// Its time in milliseconds since 1970.
    pub time: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// What it says.
    pub value: Option<&'a [u8]>,
    /// Names and values of its headers.
    pub headers: &'a [(&'a str, &'a str)],
}

/// Who writes a batch, for the broker to recognise it when it comes twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchStamp {
    /// The producer's id.
    pub producer_id: i64,
    /// The producer's epoch.
    pub producer_epoch: i16,
    /// The number of the first record among all that the producer writes to the partition.
    pub base_sequence: i32,
    /// Whether the batch belongs to the producer's transaction.
    pub transactional: bool,
}

impl BatchWriter {
    /// How many records there are.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// How many bytes the batch has so far, not compressed.
    pub fn bytes(&self) -> usize {
        BATCH_HEAD_BYTES + self.records.len()
    }

    /// About how many bytes a record would add, never fewer than it does.
    pub fn bytes_of(record: &RecordParts<'_>) -> usize {
        let headers = record.headers.iter();
        let headers: usize = headers.map(|(n, v)| 20 + n.len() + v.len()).sum();
        let key = record.key.map_or(0, <[u8]>::len);
        60 + key + record.value.map_or(0, <[u8]>::len) + headers
    }

    /// Adds a record.
    pub fn push(&mut self, record: &RecordParts<'_>) {
        if self.count == 0 {
            self.first_time = record.time;
            self.max_time = record.time;
        }
        self.max_time = self.max_time.max(record.time);
        let time_delta = record.time.saturating_sub(self.first_time);
        let offset_delta = i64::from(self.count);
        let sized = |bytes: Option<&[u8]>| match bytes {
            Some(bytes) => varint::len(bytes.len() as i64) + bytes.len(),
            None => varint::len(-1),
        };
        let header = |(name, value): &(&str, &str)| {
            sized(Some(name.as_bytes())) + sized(Some(value.as_bytes()))
        };
        let length = 1
            + varint::len(time_delta)
            + varint::len(offset_delta)
            + sized(record.key)
            + sized(record.value)
            + varint::len(record.headers.len() as i64)
            + record.headers.iter().map(header).sum::<usize>();
        let out = &mut self.records;
        varint::write(length as i64, out);
        let begin = out.len();
        out.push(0);
        varint::write(time_delta, out);
        varint::write(offset_delta, out);
        write_bytes(record.key, out);
        write_bytes(record.value, out);
        varint::write(record.headers.len() as i64, out);
        for (name, value) in record.headers {
            write_bytes(Some(name.as_bytes()), out);
            write_bytes(Some(value.as_bytes()), out);
        }
        debug_assert_eq!(out.len() - begin, length);
        self.count += 1;
    }

    /// Appends the batch to `out`, and begins another one.
    pub fn finish(&mut self, stamp: BatchStamp, codec: KafkaCodec, out: &mut Vec<u8>) {
        let codec = codec.written();
        let begin = out.len();
        out.extend(0_i64.to_be_bytes());
        out.extend([0; 4]); // the length
        out.extend((-1_i32).to_be_bytes());
        out.push(2);
        out.extend([0; 4]); // the checksum
        let attributes = codec as i16 | i16::from(stamp.transactional) << 4;
        out.extend(attributes.to_be_bytes());
        out.extend((self.count - 1).to_be_bytes());
        out.extend(self.first_time.to_be_bytes());
        out.extend(self.max_time.to_be_bytes());
        out.extend(stamp.producer_id.to_be_bytes());
        out.extend(stamp.producer_epoch.to_be_bytes());
        out.extend(stamp.base_sequence.to_be_bytes());
        out.extend(self.count.to_be_bytes());
        codec.compress(&self.records, out);
        let length = (out.len() - begin - BATCH_LENGTH_AT_BYTES) as i32;
        out[begin + 8..begin + 12].copy_from_slice(&length.to_be_bytes());
        let checksum = crc32c::crc32c(&out[begin + 21..]);
        out[begin + 17..begin + 21].copy_from_slice(&checksum.to_be_bytes());
        self.clear();
    }

    /// Forgets the records.
    pub fn clear(&mut self) {
        self.records.clear();
        self.count = 0;
    }
}

fn write_bytes(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    match bytes {
        Some(bytes) => {
            varint::write(bytes.len() as i64, out);
            out.extend(bytes);
        }
        None => varint::write(-1, out),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::KafkaFault;
    use crate::batch::{OpenBatch, next_batch};

    const STAMP: BatchStamp = BatchStamp {
        producer_id: 7,
        producer_epoch: 3,
        base_sequence: 42,
        transactional: true,
    };

    type Made = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, String)>);

    fn written(records: &[Made], codec: KafkaCodec) -> Vec<u8> {
        let (mut writer, mut out) = (BatchWriter::default(), Vec::new());
        for (time, key, value, headers) in records {
            let headers: Vec<_> = headers
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .collect();
            let record = RecordParts {
                time: *time,
                key: key.as_deref(),
                value: value.as_deref(),
                headers: &headers,
            };
            let before = writer.bytes();
            writer.push(&record);
            assert!(writer.bytes() - before <= BatchWriter::bytes_of(&record));
        }
        writer.finish(STAMP, codec, &mut out);
        assert_eq!(writer.count(), 0);
        out
    }

    fn read(out: Vec<u8>) -> Vec<Made> {
        let mut from = Bytes::from(out);
        let (head, records) = next_batch(&mut from).expect("it is read").expect("one");
        assert!(head.transactional && !head.control);
        assert_eq!((head.producer_id, head.base_sequence), (7, 42));
        assert_eq!(next_batch(&mut from), Ok(None));
        let mut open = OpenBatch::new(head, records, 1 << 20).expect("it opens");
        let mut all = Vec::new();
        while let Some(record) = open.next_record().expect("it is read") {
            assert_eq!(record.offset, all.len() as i64);
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
            let headers = record
                .headers
                .map(|(n, v)| (text(n), text(v.expect("a value"))));
            all.push((
                record.time,
                record.key.map(<[u8]>::to_vec),
                record.value.map(<[u8]>::to_vec),
                headers.collect(),
            ));
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_written_is_read(
            records in prop::collection::vec(
                (0..1_i64 << 44, any::<Option<Vec<u8>>>(), any::<Option<Vec<u8>>>(),
                 prop::collection::vec((".{0,20}", ".{0,200}"), 0..4)),
                1..20,
            ),
            codec in prop::sample::select(vec![KafkaCodec::None, KafkaCodec::Gzip, KafkaCodec::Lz4, KafkaCodec::Zstd]),
        ) {
            prop_assert_eq!(read(written(&records, codec)), records);
        }

        #[test]
        fn a_changed_byte_is_seen(at in 21..120_usize, change in 1..=255_u8) {
            let record: Made = (5, Some(b"key".to_vec()), Some(vec![b'v'; 60]), vec![]);
            let mut out = written(&[record], KafkaCodec::None);
            prop_assume!(at < out.len());
            out[at] ^= change;
            prop_assert_eq!(next_batch(&mut Bytes::from(out)), Err(KafkaFault::Checksum));
        }
    }

    #[test]
    fn a_batch_that_is_cut_off_is_the_end() {
        let out = written(&[(5, None, None, vec![])], KafkaCodec::None);
        for end in 0..out.len() {
            let mut from = Bytes::copy_from_slice(&out[..end]);
            assert_eq!(next_batch(&mut from), Ok(None), "{end}");
        }
    }

    #[test]
    fn older_formats_are_named() {
        let mut old = written(&[(5, None, None, vec![])], KafkaCodec::None);
        old[16] = 1;
        assert_eq!(
            next_batch(&mut Bytes::from(old)),
            Err(KafkaFault::OldFormat(1))
        );
    }
}

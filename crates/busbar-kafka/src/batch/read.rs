//! Reading batches, and their records in place.

use bytes::Bytes;

use super::codec::KafkaCodec;
use super::varint;
use crate::limits::{BATCH_HEAD_BYTES, BATCH_LENGTH_AT_BYTES, HEADER_BYTES_MIN, RECORD_BYTES_MIN};
use crate::{KafkaFault, KafkaReader, Result};

/// The head of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHead {
    /// Offset of the first record that was in it; compaction may have removed it.
    pub base_offset: i64,
    /// Offset of its last record.
    pub last_offset: i64,
    /// How its records are compressed.
    pub codec: KafkaCodec,
    /// The time of its first record, in milliseconds.
    pub base_time: i64,
    /// The time at which the broker wrote it, in milliseconds, where that counts for all its records.
    pub log_time: Option<i64>,
    /// Whether it belongs to a transaction.
    pub transactional: bool,
    /// Whether it ends a transaction, and holds no record of anybody.
    pub control: bool,
    /// Who wrote it; -1 where nobody is named.
    pub producer_id: i64,
    /// The epoch of who wrote it.
    pub producer_epoch: i16,
    /// The sequence of its first record; -1 without one.
    pub base_sequence: i32,
    /// How many records it has.
    pub records: u32,
}

/// Takes the next batch from the front of what a partition sent; `None` at the end, where a batch may be cut off.
///
/// The records are checked against the checksum and are as they came, compressed.
///
/// # Errors
/// [`KafkaFault`], after which nothing behind it can be read.
pub fn next_batch(from: &mut Bytes) -> Result<Option<(BatchHead, Bytes)>> {
    let mut r = KafkaReader::new(from, false);
    let (Ok(base_offset), Ok(length)) = (r.i64(), r.i32()) else {
        return Ok(None);
    };
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length >= BATCH_HEAD_BYTES - BATCH_LENGTH_AT_BYTES);
    // Older formats are shorter, and have their magic at the same place.
    let magic = from.get(16).copied();
    if let Some(magic @ 0..2) = magic {
        return Err(KafkaFault::OldFormat(magic));
    }
    let length = length.ok_or(KafkaFault::Malformed("a record batch is too short"))?;
    if length > r.rest().len() {
        return Ok(None);
    }
    let whole = from.split_to(BATCH_LENGTH_AT_BYTES + length);
    let mut r = KafkaReader::new(&whole[BATCH_LENGTH_AT_BYTES..], false);
    let _leader_epoch = r.i32()?;
    if r.i8()? != 2 {
        return Err(KafkaFault::Malformed("a record batch has an unknown magic"));
    }
    let checksum = r.i32()? as u32;
    if crc32c::crc32c(r.rest()) != checksum {
        return Err(KafkaFault::Checksum);
    }
    let attributes = r.i16()?;
    let last_delta = r.i32()?;
    let (base_time, max_time) = (r.i64()?, r.i64()?);
    let (producer_id, producer_epoch, base_sequence) = (r.i64()?, r.i16()?, r.i32()?);
    let records = r.i32()?;
    let last_offset = base_offset
        .checked_add(i64::from(last_delta))
        .filter(|last| base_offset >= 0 && *last >= base_offset && *last < i64::MAX)
        .ok_or(KafkaFault::Malformed(
            "a record batch has impossible offsets",
        ))?;
    let head = BatchHead {
        base_offset,
        last_offset,
        codec: KafkaCodec::of(attributes)?,
        base_time,
        log_time: (attributes & 8 != 0).then_some(max_time),
        transactional: attributes & 16 != 0,
        control: attributes & 32 != 0,
        producer_id,
        producer_epoch,
        base_sequence,
        records: u32::try_from(records)
            .map_err(|_| KafkaFault::Malformed("a record batch has a negative count"))?,
    };
    Ok(Some((head, whole.slice(BATCH_HEAD_BYTES..))))
}

/// The records of a batch, decompressed, one after the other.
#[derive(Clone, Debug)]
pub struct OpenBatch {
    /// The batch.
    pub head: BatchHead,
    records: Bytes,
    at: usize,
    left: u32,
}

/// One record, in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KafkaRecord<'a> {
    /// Its offset.
    pub offset: i64,
    /// Its time in milliseconds since 1970; -1 where it has none.
    pub time: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// What it says; none says that what was said for the key is deleted.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: RecordHeaders<'a>,
}

/// Headers of a record, in place and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeaders<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl OpenBatch {
    /// Decompresses the records of a batch to at most `most` bytes.
    ///
    /// # Errors
    /// [`KafkaFault`].
    pub fn new(head: BatchHead, records: Bytes, most: usize) -> Result<OpenBatch> {
        let records = match head.codec {
            KafkaCodec::None if records.len() > most => return Err(KafkaFault::TooLarge),
            KafkaCodec::None => records,
            codec => codec.decompress(&records, most)?.into(),
        };
        if head.records as usize > records.len() / RECORD_BYTES_MIN {
            return Err(KafkaFault::Malformed(
                "a record batch counts more records than it has bytes for",
            ));
        }
        Ok(OpenBatch {
            head,
            records,
            at: 0,
            left: head.records,
        })
    }

    /// The next record; `None` behind the last one.
    ///
    /// # Errors
    /// [`KafkaFault::Malformed`].
    pub fn next_record(&mut self) -> Result<Option<KafkaRecord<'_>>> {
        if self.left == 0 {
            return match self.at == self.records.len() {
                true => Ok(None),
                false => Err(KafkaFault::Malformed("bytes behind the last record")),
            };
        }
        let body = varint::read_bytes(&self.records, &mut self.at)?
            .ok_or(KafkaFault::Malformed("a record has no length"))?;
        self.left -= 1;
        let mut at = 1; // behind the attributes, of which none is used
        let time_delta = varint::read(body, &mut at)?;
        let offset_delta = varint::read(body, &mut at)?;
        let offset = self.head.base_offset.checked_add(offset_delta);
        let offset = offset
            .filter(|offset| (self.head.base_offset..=self.head.last_offset).contains(offset))
            .ok_or(KafkaFault::Malformed("a record is outside of its batch"))?;
        let key = varint::read_bytes(body, &mut at)?;
        let value = varint::read_bytes(body, &mut at)?;
        let count = varint::read(body, &mut at)?;
        let rest = &body[at..];
        let count = usize::try_from(count)
            .ok()
            .filter(|count| *count <= rest.len() / HEADER_BYTES_MIN)
            .ok_or(KafkaFault::Malformed("a record counts impossible headers"))?;
        let headers = RecordHeaders {
            bytes: rest,
            left: count,
        };
        headers.check()?;
        Ok(Some(KafkaRecord {
            offset,
            time: match self.head.log_time {
                Some(time) => time,
                None => self.head.base_time.saturating_add(time_delta),
            },
            key,
            value,
            headers,
        }))
    }

    /// Whether this batch says that its producer's transaction was given up, as only batches that end one do.
    ///
    /// # Errors
    /// [`KafkaFault::Malformed`].
    pub fn aborts(mut self) -> Result<bool> {
        let record = self.next_record()?;
        let key = record.and_then(|record| record.key).unwrap_or_default();
        let mut key = KafkaReader::new(key, false);
        let _version = key.i16()?;
        Ok(key.i16()? == 0)
    }
}

impl<'a> RecordHeaders<'a> {
    fn check(mut self) -> Result<()> {
        while self.left > 0 {
            self.read()?;
        }
        match self.bytes.is_empty() {
            true => Ok(()),
            false => Err(KafkaFault::Malformed("bytes behind the last header")),
        }
    }

    fn read(&mut self) -> Result<(&'a [u8], Option<&'a [u8]>)> {
        let mut at = 0;
        let name = varint::read_bytes(self.bytes, &mut at)?
            .ok_or(KafkaFault::Malformed("a header has no name"))?;
        let value = varint::read_bytes(self.bytes, &mut at)?;
        self.bytes = &self.bytes[at..];
        self.left -= 1;
        Ok((name, value))
    }
}

impl<'a> Iterator for RecordHeaders<'a> {
    /// Name and value.
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        match self.left {
            0 => None,
            // They were read before.
            _ => self.read().ok(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for RecordHeaders<'_> {}

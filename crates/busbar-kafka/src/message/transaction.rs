//! Transactions of a producer.

use std::sync::Arc;

use super::group::{KeptOffset, write_offsets};
use super::{read_topics, write_topics};
use crate::{KafkaCode, KafkaReader, KafkaWriter, Result};

/// Asks for an identity, which fences whoever had one under the same transactional id.
#[derive(Clone, Copy, Debug)]
pub struct InitProducerRequest<'a> {
    /// The transactional id.
    pub transactional_id: &'a str,
    /// How long a transaction may take, in milliseconds.
    pub timeout_millis: i32,
}

impl InitProducerRequest<'_> {
    /// Writes it.
    pub fn write(&self, w: &mut KafkaWriter<'_>, version: i16) {
        w.nullable_text(Some(self.transactional_id));
        w.i32(self.timeout_millis);
        if version >= 3 {
            w.i64(-1);
            w.i16(-1);
        }
        w.tags();
    }
}

/// The identity of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIdentity {
    /// Its id.
    pub id: i64,
    /// Its epoch: the highest one is the one that may write.
    pub epoch: i16,
}

impl ProducerIdentity {
    /// Reads the answer.
    ///
    /// # Errors
    /// [`crate::KafkaFault`].
    pub fn read(r: &mut KafkaReader<'_>) -> Result<Result<ProducerIdentity, KafkaCode>> {
        let _throttle = r.i32()?;
        let code = KafkaCode(r.i16()?);
        let (id, epoch) = (r.i64()?, r.i16()?);
        Ok(match code.is_error() {
            true => Err(code),
            false => Ok(ProducerIdentity { id, epoch }),
        })
    }

    fn write(self, w: &mut KafkaWriter<'_>) {
        w.i64(self.id);
        w.i16(self.epoch);
    }
}

/// Takes partitions into the transaction.
#[derive(Clone, Copy, Debug)]
pub struct AddPartitionsRequest<'a> {
    /// The transactional id.
    pub transactional_id: &'a str,
    /// Who.
    pub identity: ProducerIdentity,
    /// Topics and partitions, by topic.
    pub partitions: &'a [(Arc<str>, i32)],
}

impl AddPartitionsRequest<'_> {
    /// Writes it.
    pub fn write(&self, w: &mut KafkaWriter<'_>, _version: i16) {
        w.text(self.transactional_id);
        self.identity.write(w);
        write_topics(
            w,
            self.partitions,
            |(topic, _)| topic,
            |w, (_, partition)| w.i32(*partition),
        );
        w.tags();
    }
}

/// Takes offsets of a group into the transaction.
#[derive(Clone, Copy, Debug)]
pub struct AddOffsetsRequest<'a> {
    /// The transactional id.
    pub transactional_id: &'a str,
    /// Who.
    pub identity: ProducerIdentity,
    /// The group.
    pub group: &'a str,
}

impl AddOffsetsRequest<'_> {
    /// Writes it.
    pub fn write(&self, w: &mut KafkaWriter<'_>, _version: i16) {
        w.text(self.transactional_id);
        self.identity.write(w);
        w.text(self.group);
        w.tags();
    }
}

/// Keeps offsets of a group with the transaction.
#[derive(Clone, Copy, Debug)]
pub struct TxnCommitRequest<'a> {
    /// The transactional id.
    pub transactional_id: &'a str,
    /// The group.
    pub group: &'a str,
    /// Who.
    pub identity: ProducerIdentity,
    /// The offsets, by topic.
    pub offsets: &'a [KeptOffset],
}

impl TxnCommitRequest<'_> {
    /// Writes it.
    pub fn write(&self, w: &mut KafkaWriter<'_>, version: i16) {
        w.text(self.transactional_id);
        w.text(self.group);
        self.identity.write(w);
        if version >= 3 {
            // A group without members.
            w.i32(-1);
            w.text("");
            w.nullable_text(None);
        }
        write_offsets(w, self.offsets);
        w.tags();
    }
}

/// Ends the transaction.
#[derive(Clone, Copy, Debug)]
pub struct EndRequest<'a> {
    /// The transactional id.
    pub transactional_id: &'a str,
    /// Who.
    pub identity: ProducerIdentity,
    /// Whether what was written counts; given up otherwise.
    pub commit: bool,
}

impl EndRequest<'_> {
    /// Writes it.
    pub fn write(&self, w: &mut KafkaWriter<'_>, _version: i16) {
        w.text(self.transactional_id);
        self.identity.write(w);
        w.bool(self.commit);
        w.tags();
    }
}

/// Reads an answer that says only what is wrong.
///
/// # Errors
/// [`crate::KafkaFault`].
pub fn read_code(r: &mut KafkaReader<'_>) -> Result<KafkaCode> {
    let _throttle = r.i32()?;
    Ok(KafkaCode(r.i16()?))
}

/// Reads an answer that says for each partition what is wrong: the first of these, and the others where that one only says
/// that all were given up because of another.
///
/// # Errors
/// [`crate::KafkaFault`].
pub fn read_partition_codes(r: &mut KafkaReader<'_>) -> Result<KafkaCode> {
    /// The others were not tried because one of them failed.
    const OPERATION_NOT_ATTEMPTED: KafkaCode = KafkaCode(55);
    let _throttle = r.i32()?;
    let mut codes = read_topics(r, 6, |_, r| {
        let _partition = r.i32()?;
        Ok(KafkaCode(r.i16()?))
    })?;
    codes.retain(|code| code.is_error());
    codes.sort_by_key(|code| *code == OPERATION_NOT_ATTEMPTED);
    Ok(codes.first().copied().unwrap_or(KafkaCode::NONE))
}

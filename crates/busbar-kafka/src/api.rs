//! Which requests there are, in which versions, and the heads of requests and responses.

use crate::{KafkaFault, KafkaReader, KafkaWriter, Result};

/// A request that Busbar sends, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i16)]
#[allow(missing_docs)]
pub enum Api {
    Produce = 0,
    Fetch = 1,
    ListOffsets = 2,
    Metadata = 3,
    OffsetCommit = 8,
    OffsetFetch = 9,
    FindCoordinator = 10,
    JoinGroup = 11,
    Heartbeat = 12,
    LeaveGroup = 13,
    SyncGroup = 14,
    SaslHandshake = 17,
    ApiVersions = 18,
    InitProducerId = 22,
    AddPartitionsToTxn = 24,
    AddOffsetsToTxn = 25,
    EndTxn = 26,
    TxnOffsetCommit = 28,
    SaslAuthenticate = 36,
    DescribeProducers = 61,
}

impl Api {
    /// All of them.
    pub const ALL: [Api; 20] = [
        Api::Produce,
        Api::Fetch,
        Api::ListOffsets,
        Api::Metadata,
        Api::OffsetCommit,
        Api::OffsetFetch,
        Api::FindCoordinator,
        Api::JoinGroup,
        Api::Heartbeat,
        Api::LeaveGroup,
        Api::SyncGroup,
        Api::SaslHandshake,
        Api::ApiVersions,
        Api::InitProducerId,
        Api::AddPartitionsToTxn,
        Api::AddOffsetsToTxn,
        Api::EndTxn,
        Api::TxnOffsetCommit,
        Api::SaslAuthenticate,
        Api::DescribeProducers,
    ];

    /// The oldest and the newest version that this crate knows, and the first flexible one.
    fn versions(self) -> (i16, i16, i16) {
        match self {
            Api::Produce => (7, 9, 9),
            Api::Fetch => (10, 12, 12),
            Api::ListOffsets => (4, 6, 6),
            Api::Metadata => (7, 12, 9),
            Api::OffsetCommit => (6, 8, 8),
            Api::OffsetFetch => (5, 7, 6),
            Api::FindCoordinator => (1, 3, 3),
            Api::JoinGroup => (5, 7, 6),
            Api::Heartbeat => (3, 4, 4),
            Api::LeaveGroup => (3, 4, 4),
            Api::SyncGroup => (3, 5, 4),
            Api::SaslHandshake => (1, 1, i16::MAX),
            Api::ApiVersions => (0, 3, 3),
            Api::InitProducerId => (0, 4, 2),
            Api::AddPartitionsToTxn => (0, 3, 3),
            Api::AddOffsetsToTxn => (0, 3, 3),
            Api::EndTxn => (0, 3, 3),
            Api::TxnOffsetCommit => (2, 3, 3),
            Api::SaslAuthenticate => (0, 2, 2),
            Api::DescribeProducers => (0, 0, 0),
        }
    }

    /// The newest version that this crate and a broker that takes `least` to `most` both know.
    pub fn common(self, least: i16, most: i16) -> Option<i16> {
        let (ours_least, ours_most, _) = self.versions();
        let version = ours_most.min(most);
        (version >= ours_least.max(least)).then_some(version)
    }

    /// Whether a version is a flexible one.
    pub fn is_flexible(self, version: i16) -> bool {
        version >= self.versions().2
    }

    /// Appends a frame: its length, the head of the request, and what `body` writes.
    pub fn request(
        self,
        version: i16,
        correlation: i32,
        client: &str,
        out: &mut Vec<u8>,
        body: impl FnOnce(&mut KafkaWriter<'_>),
    ) {
        let begin = out.len();
        out.extend([0; 4]);
        // The client's name has the classic form in every version.
        let mut head = KafkaWriter::new(out, false);
        head.i16(self as i16);
        head.i16(version);
        head.i32(correlation);
        head.nullable_text(Some(client));
        let mut writer = KafkaWriter::new(out, self.is_flexible(version));
        writer.tags();
        body(&mut writer);
        let length = (out.len() - begin - 4) as i32;
        out[begin..begin + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// Reads the head of a response, whose frame is without its length: the number of the request that it answers, and a reader
/// of its body.
///
/// # Errors
/// [`KafkaFault::Malformed`].
pub fn response_body(api: Api, version: i16, frame: &[u8]) -> Result<(i32, KafkaReader<'_>)> {
    let mut head = KafkaReader::new(frame, false);
    let correlation = head
        .i32()
        .map_err(|_| KafkaFault::Malformed("a response has no head"))?;
    let mut body = KafkaReader::new(head.rest(), api.is_flexible(version));
    // Its head is classic always, so that every client can read that its version is not known.
    if api != Api::ApiVersions {
        body.tags()?;
    }
    Ok((correlation, body))
}

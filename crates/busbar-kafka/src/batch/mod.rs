//! Record batches of version 2, which is the format of Kafka since 0.11.
//!
//! | bytes | field |
//! | --- | --- |
//! | 8 | offset of the first record |
//! | 4 | bytes behind this field |
//! | 4 | epoch of the partition's leader |
//! | 1 | magic: 2 |
//! | 4 | CRC-32C of all that follows |
//! | 2 | attributes: codec (3 bits), time of the log (1), transactional (1), control (1) |
//! | 4 | offset of the last record less that of the first |
//! | 8 | first time, in milliseconds |
//! | 8 | largest time |
//! | 8 | id of the producer |
//! | 2 | epoch of the producer |
//! | 4 | sequence of the first record |
//! | 4 | number of records |
//! | … | the records, compressed as a whole |

mod codec;
mod read;
mod snappy;
mod varint;
mod write;

pub use codec::KafkaCodec;
pub use read::{BatchHead, KafkaRecord, OpenBatch, RecordHeaders, next_batch};
pub use write::{BatchStamp, BatchWriter, RecordParts};

//! The protocol of Kafka, without any input or output.
//!
//! - [`Api`] names the requests that Busbar sends and the versions of each that it knows, classic and flexible ones; brokers from
//!   2.1 on answer to at least one of them.
//! - [`message`] has each request and response: a request is written into a frame, a response is read from one.
//! - [`Assignor`] shares the partitions of a consumer group out among its members.
//! - [`batch`] reads and writes record batches (version 2) with their checksum and compression. Records are read in place.
//! - Nothing here panics on hostile bytes. Every length is compared with what is there before anything is allocated, and
//!   what a compressed batch becomes has a bound.
//!
//! This crate knows neither sockets nor which request follows which.

mod api;
mod assign;
pub mod batch;
mod code;
pub mod limits;
pub mod message;
mod partitioner;
mod wire;

pub use api::{Api, response_body};
pub use assign::Assignor;
pub use code::KafkaCode;
pub use partitioner::partition_of;
pub use wire::{KafkaReader, KafkaWriter};

/// Why bytes from a broker cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KafkaFault {
    /// They do not have the form that the protocol gives them.
    #[error("{0}")]
    Malformed(&'static str),
    /// The checksum of a record batch is not that of its bytes.
    #[error("the checksum of a record batch is wrong")]
    Checksum,
    /// A record batch of the format before version 2, as clients before 0.11 wrote it.
    #[error("a record batch has the format {0} of clients before 0.11")]
    OldFormat(u8),
    /// A record batch has more bytes, once it is decompressed, than is taken.
    #[error("a record batch is larger than is taken")]
    TooLarge,
    /// A codec that no version of Kafka has.
    #[error("a record batch is compressed by the unknown codec {0}")]
    UnknownCodec(u8),
    /// Compressed bytes cannot be decompressed.
    #[error("a record batch cannot be decompressed")]
    Compression,
}

/// What reading gives.
pub type Result<T, E = KafkaFault> = std::result::Result<T, E>;

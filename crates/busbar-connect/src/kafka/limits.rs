//! Every bound of the Kafka connector, units last.

use std::time::Duration;

/// The socket's buffer grows in steps of this size.
pub const READ_BYTES: usize = 256 << 10;
/// Bytes of a response of a broker. One batch of records may be as large as the largest payload that an event may have.
pub const RESPONSE_BYTES_MAX: usize = busbar_event::limits::PAYLOAD_BYTES_MAX + (16 << 20);
/// Bytes of the records of one batch once they are decompressed.
pub const RECORDS_BYTES_MAX: usize = busbar_event::limits::PAYLOAD_BYTES_MAX;
/// How long a connection may take to be opened, with its greetings and proofs.
pub const CONNECT_MAX: Duration = Duration::from_secs(15);
/// The longest timeout of a request that may be configured.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Brokers that may be named.
pub const BROKERS_MAX: usize = 64;
/// Topics and patterns that one connection may name.
pub const TOPICS_MAX: usize = 1_024;
/// Partitions that one connection reads.
pub const PARTITIONS_MAX: usize = 10_000;
/// Bytes of a topic's name, as Kafka bounds it.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;
/// How long a broker waits for a new record before it answers that there is none.
pub const FETCH_WAIT: Duration = Duration::from_millis(500);
/// Bytes of all partitions in one answer of a broker, beyond the first batch.
pub const FETCH_BYTES: i32 = 8 << 20;
/// Bytes of one partition in an answer, beyond its first batch.
pub const FETCH_PARTITION_BYTES: i32 = 4 << 20;
/// Answers that wait to be published, beside those that brokers' connections hold.
pub const FETCHED_WAITING_MAX: usize = 2;
/// Pause between two looks at the topics: how soon a new partition is noticed.
pub const METADATA_EVERY: Duration = Duration::from_secs(5);
/// The first pause before brokers are asked again for what changes hands; it doubles.
pub const RETRY_FIRST: Duration = Duration::from_millis(5);
/// The longest such pause.
pub const RETRY_LAST: Duration = Duration::from_millis(500);
/// How often the offsets of a group are told to its coordinator while events come.
pub const GROUP_EVERY: Duration = Duration::from_secs(5);
/// How often a member tells its group how far it is: what was read since then comes again after a crash, at another member.
pub const MEMBER_EVERY: Duration = Duration::from_millis(500);
/// How long a member may take to hand its partitions over before the group goes on without it.
pub const REBALANCE_MAX: Duration = Duration::from_secs(60);
/// The shortest time without a word after which a member may be taken for dead.
pub const SESSION_MIN: Duration = Duration::from_secs(1);
/// The longest such time, as brokers bound it unless they are told otherwise.
pub const SESSION_MAX: Duration = Duration::from_secs(1_800);
/// Bytes of a batch that is written, before it is compressed: less than the largest that brokers take unless they are told
/// otherwise.
pub const BATCH_BYTES: usize = 900_000;
/// Batches that wait for one broker's answer, as many as a broker can put in order.
pub const BATCHES_IN_FLIGHT_MAX: usize = 5;
/// How long a transaction may take before the brokers give it up.
pub const TRANSACTION_MAX: Duration = Duration::from_secs(60);
/// Rows that a broker refused whose numbers are kept with the position. Kafka keeps up to 4,096 bytes with an offset.
pub const REFUSED_KEPT_MAX: usize = 500;
/// Bytes of the partitions of a transaction that are kept with its position, beside the rows that were refused.
pub const PARTS_BYTES_MAX: usize = 900;
/// How long a position may be held back by a transaction that the cluster has ended before it is looked for where that
/// stays open.
pub const OPEN_AFTER: Duration = Duration::from_millis(500);
/// Bytes of a group's or transaction's name.
pub const NAME_BYTES_MAX: usize = 249;

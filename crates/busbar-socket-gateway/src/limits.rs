//! Bounds of gateways over TCP and UDP. Names carry their unit. Bounds that all gateways share are in
//! `busbar_gateway::limits`.

use std::time::Duration;

use busbar_event::Micros;

/// Threads of one TCP gateway, where the machine has as many cores. UDP has one thread.
pub const THREADS_MAX: usize = 4;
/// How long a connection may take to send its login, in microseconds.
pub const LOGIN_WAIT_US: Micros = 10_000_000;
/// How long a frame may take from its first byte to its last, in microseconds.
pub const FRAME_WAIT_US: Micros = 30_000_000;
/// Bytes of the frame with the login.
pub const LOGIN_BYTES_MAX: usize = 4096;
/// Frames of one connection that may wait for their commit. Above it nothing more is read from it.
pub const UNACKNOWLEDGED_MAX: usize = 65_536;
/// HL7 messages of one connection that may wait for their commit; what is needed to answer them is kept.
pub const MESSAGES_UNANSWERED_MAX: usize = 4096;
/// Datagrams read before what was read is handed to the log.
pub const DATAGRAMS_PER_TURN: usize = 4096;
/// Bytes of the largest datagram.
pub const DATAGRAM_BYTES_MAX: usize = 65_535;
/// Events from UDP whose commit is watched for failures; more than these are counted as taken unseen.
pub const WATCHED_TICKETS_MAX: usize = 4096;
/// Topics whose permission is remembered for one connection or UDP gateway.
pub const TOPICS_REMEMBERED_MAX: usize = 1024;
/// Connections of one gateway.
pub const CONNECTIONS_MAX: usize = 50_000;
/// How long stopping waits for a UDP thread to hand over what it has read.
pub const UDP_STOP_WAIT: Duration = Duration::from_secs(2);

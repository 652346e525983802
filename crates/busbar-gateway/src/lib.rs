//! What every gateway shares: listeners, limits on connections, TLS, worker threads, authentication and
//! authorisation, publishing to the log and reading from it, and the bounds on output.
//!
//! A protocol implements [`Protocol`]: bytes and answers in, bytes and [`Effect`]s out, for all connections of
//! one thread. [`Workers::start`] runs one instance on each worker thread, with sockets, a publisher and wake-ups
//! after commits. A running protocol is a [`Gateway`], which the node lists.
//!
//! What is not here: any protocol (`busbar-mqtt-gateway` and its like), storage (`busbar-bus`), users
//! (`busbar-access`, behind [`Authorizer`]).

mod acceptors;
mod access;
pub mod admission;
pub mod authorizer;
mod bus_log;
mod certificate;
pub mod connection_id;
pub mod event_log;
mod gateway;
pub mod index;
pub mod limits;
mod listen;
pub mod outbox;
pub mod output_budget;
pub mod protocol;
pub mod reserved;
mod slots;
mod throttle;
mod tls;
mod worker;
mod workers;

pub use acceptors::{Acceptors, BeginHandshake, ByteStream, Handshake};
pub use access::AccessAuthorizer;
pub use admission::{Admission, Admissions};
pub use authorizer::{Authorizer, ClientOrigin, Credentials, Denied, Identity, Open, Reach};
pub use bus_log::{BusLog, partition_name};
pub use connection_id::ConnId;
pub use event_log::EventLog;
pub use gateway::{Gateway, GatewayAddress, GatewayCounts};
pub use listen::{bind_tcp, bind_udp};
pub use outbox::Outbox;
pub use output_budget::OutputBudget;
pub use protocol::{Effect, Protocol};
pub use slots::Slots;
pub use throttle::Throttle;
pub use tls::server_tls;
pub use workers::{Workers, WorkersOptions};

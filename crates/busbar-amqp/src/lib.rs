//! The gateway of AMQP 0-9-1 and 1.0: exchanges and queues are views on the streams of the node.
//!
//! A publish to an exchange is an event, whose topic follows from the exchange and the routing key
//! ([`mapping`]). A queue is a cursor on the log: of the events that were stored since it was bound it holds
//! those that its bindings bring, whichever protocol they came by. Messages wait in the log and not in memory;
//! what a queue keeps are positions, and the rows that were delivered and are not acknowledged.
//!
//! The codec ([`codec`]) is our own: the methods are few, tables are checked against their bounds before
//! anything is allocated, and a publish goes from the socket's buffer to the log without a copy between. The
//! session layer ([`core::Broker`]) does no input or output; `busbar-gateway` runs it.
//!
//! What is not here: sockets, TLS and threads (`busbar-gateway`), storage (`busbar-bus`), users.

mod args;
pub mod codec;
pub mod core;
pub mod counters;
pub mod fault;
mod gateway;
mod graph;
pub mod limits;
pub mod mapping;
mod marks;
mod message;
mod queue;
mod record;
pub mod v1;

pub use gateway::{AmqpGateway, AmqpOptions, AmqpTls};
pub use limits::AmqpLimits;

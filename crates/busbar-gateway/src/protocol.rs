//! What a protocol implements: its sessions on one worker thread.

use std::sync::Arc;

use busbar_bus::Chunk;
use busbar_event::Micros;
use busbar_log::Change;

use crate::authorizer::{ClientOrigin, Credentials, Denied, Identity};
use crate::bus_log::BusLog;
use crate::connection_id::ConnId;

/// What sessions ask their worker thread to do.
pub enum Effect<R, M> {
    /// Check the credentials, then call [`Protocol::authenticated`].
    Authenticate(ConnId, Credentials),
    /// Make these changes durable in the gateway's store, then call [`Protocol::journalled`] with the number.
    /// Batches are handed over in order and become durable in order.
    Journal(u64, Vec<Change>),
    /// Read rows of a partition from an offset on, from disk, then call [`Protocol::rows_read`].
    ReadDisk(R, u32, u64),
    /// Give a message to the sessions of another thread, or of this one.
    Post(usize, M),
}

/// The sessions of one worker thread: bytes and answers in, bytes and effects out. An implementation does no
/// input or output, does not wait and does not read a clock, so that tests and fuzzers drive it without sockets.
pub trait Protocol: 'static {
    /// What a read from disk is for.
    type Reader: 'static;
    /// What threads tell each other.
    type Message: Send + 'static;

    /// The log of this thread.
    fn log(&mut self) -> &mut BusLog;
    /// Adds a connection. `None` refuses it without an answer. `paced`: the listener has applied the limit of
    /// connections per second already.
    fn open(&mut self, origin: ClientOrigin, paced: bool, now: Micros) -> Option<ConnId>;
    /// Takes bytes that a client sent.
    fn input(&mut self, id: ConnId, bytes: &[u8], now: Micros);
    /// The bytes to write to the socket.
    fn output(&self, id: ConnId) -> &[u8];
    /// `n` of these bytes were written.
    fn wrote(&mut self, id: ConnId, n: usize);
    /// Whether the socket should be read.
    fn wants_input(&mut self, id: ConnId, now: Micros) -> bool;
    /// Whether the socket is to be closed when [`Protocol::output`] is empty.
    fn is_closing(&mut self, id: ConnId) -> bool;
    /// Whether the server ended this connection, so that the client may still be sending.
    fn was_refused(&mut self, id: ConnId) -> bool;
    /// The client sends nothing more. True keeps the connection for output until [`Protocol::is_closing`]; otherwise
    /// it ends.
    fn input_ended(&mut self, id: ConnId, now: Micros) -> bool {
        let _ = (id, now);
        false
    }
    /// The socket is closed.
    fn gone(&mut self, id: ConnId, now: Micros);
    /// Connections whose sockets have something to do: output, reading again, or closing.
    fn take_awake(&mut self) -> Vec<ConnId>;
    /// Takes the effects, to be carried out in order.
    fn take_effects(&mut self) -> Vec<Effect<Self::Reader, Self::Message>>;
    /// Whether a turn would find something to do.
    fn has_work(&self) -> bool;
    /// Flushes publishes, acknowledges what was committed, delivers. True when there is more to do at once.
    fn turn(&mut self, now: Micros) -> bool;
    /// Handles what depends on time. Called about every [`crate::limits::TICK`].
    fn tick(&mut self, now: Micros);
    /// Whether this thread has to be woken when a partition grows or a publish is committed.
    fn is_watching(&self) -> bool;
    /// Number of connections.
    fn connections(&self) -> usize;
    /// The result of [`Effect::Authenticate`].
    fn authenticated(&mut self, id: ConnId, result: Result<Arc<dyn Identity>, Denied>, now: Micros);
    /// The gateway stops: says goodbye to all clients.
    fn shut_down(&mut self, now: Micros);

    /// The result of [`Effect::Journal`].
    fn journalled(&mut self, batch: u64, durable: bool, now: Micros) {
        let _ = (batch, durable, now);
    }
    /// A message from another thread.
    fn message(&mut self, message: Self::Message, now: Micros) {
        let _ = (message, now);
    }
    /// The result of [`Effect::ReadDisk`]: rows, or the offset to continue at when the rows no longer exist.
    fn rows_read(
        &mut self,
        reader: Self::Reader,
        partition: u32,
        offset: u64,
        result: Result<Vec<Chunk>, u64>,
    ) {
        let _ = (reader, partition, offset, result);
    }
}

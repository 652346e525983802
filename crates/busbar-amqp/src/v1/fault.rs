//! Errors of the protocol: the conditions of the standard, and what they end.

use crate::fault::AmqpFault;

/// What an error ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultScope {
    /// The connection.
    Connection,
    /// The session.
    Session,
    /// The link with this handle.
    Link(u32),
}

/// Why a link, a session or a connection ends, or a message is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V1Fault {
    /// What it ends.
    pub scope: FaultScope,
    /// The condition, a name of the standard.
    pub condition: &'static str,
    /// What is wrong.
    pub text: String,
}

/// No such address.
pub const NOT_FOUND: &str = "amqp:not-found";
/// The user may not do this.
pub const UNAUTHORIZED: &str = "amqp:unauthorized-access";
/// What is asked for is not there.
pub const NOT_IMPLEMENTED: &str = "amqp:not-implemented";
/// May not be done now, or not at all.
pub const NOT_ALLOWED: &str = "amqp:not-allowed";
/// A field has a value that it may not have.
pub const INVALID_FIELD: &str = "amqp:invalid-field";
/// A bound is reached.
pub const RESOURCE_LIMIT: &str = "amqp:resource-limit-exceeded";
/// Somebody else has it.
pub const RESOURCE_LOCKED: &str = "amqp:resource-locked";
/// It was deleted.
pub const RESOURCE_DELETED: &str = "amqp:resource-deleted";
/// Something is not as it has to be.
pub const PRECONDITION_FAILED: &str = "amqp:precondition-failed";
/// Something went wrong in the node.
pub const INTERNAL: &str = "amqp:internal-error";
/// Not well formed.
pub const DECODE: &str = "amqp:decode-error";
/// May not be sent in this state.
pub const ILLEGAL_STATE: &str = "amqp:illegal-state";
/// The peer takes frames that are too small.
pub const FRAME_SIZE_TOO_SMALL: &str = "amqp:frame-size-too-small";
/// A frame is not well formed.
pub const FRAMING: &str = "amqp:connection:framing-error";
/// The node ends the connection.
pub const CONNECTION_FORCED: &str = "amqp:connection:forced";
/// More transfers than the session takes.
pub const WINDOW_VIOLATION: &str = "amqp:session:window-violation";
/// The handle is in use.
pub const HANDLE_IN_USE: &str = "amqp:session:handle-in-use";
/// No link has this handle.
pub const UNATTACHED_HANDLE: &str = "amqp:session:unattached-handle";
/// The node ends the link.
pub const DETACH_FORCED: &str = "amqp:link:detach-forced";
/// More messages than there was credit for.
pub const TRANSFER_LIMIT: &str = "amqp:link:transfer-limit-exceeded";
/// The message is too large.
pub const MESSAGE_SIZE: &str = "amqp:link:message-size-exceeded";
/// The link was attached again somewhere else.
pub const LINK_STOLEN: &str = "amqp:link:stolen";

impl V1Fault {
    /// An error that ends the connection.
    pub fn connection(condition: &'static str, text: impl Into<String>) -> V1Fault {
        V1Fault {
            scope: FaultScope::Connection,
            condition,
            text: text.into(),
        }
    }

    /// An error that ends the session.
    pub fn session(condition: &'static str, text: impl Into<String>) -> V1Fault {
        V1Fault {
            scope: FaultScope::Session,
            ..V1Fault::connection(condition, text)
        }
    }

    /// An error that ends a link.
    pub fn link(handle: u32, condition: &'static str, text: impl Into<String>) -> V1Fault {
        V1Fault {
            scope: FaultScope::Link(handle),
            ..V1Fault::connection(condition, text)
        }
    }

    /// A frame that is not well formed.
    pub fn framing(text: impl Into<String>) -> V1Fault {
        V1Fault::connection(FRAMING, text)
    }

    /// A value that is not well formed.
    pub fn decode(text: impl Into<String>) -> V1Fault {
        V1Fault::connection(DECODE, text)
    }

    /// The same, ending only a link.
    #[must_use]
    pub fn of_link(self, handle: u32) -> V1Fault {
        V1Fault {
            scope: FaultScope::Link(handle),
            ..self
        }
    }

    /// The condition that an error of 0-9-1 stands for.
    pub fn from_code(fault: &AmqpFault) -> V1Fault {
        let condition = match fault.code {
            320 => CONNECTION_FORCED,
            403 => UNAUTHORIZED,
            404 => NOT_FOUND,
            405 => RESOURCE_LOCKED,
            406 => PRECONDITION_FAILED,
            502 => DECODE,
            506 => RESOURCE_LIMIT,
            530 => NOT_ALLOWED,
            540 => NOT_IMPLEMENTED,
            _ => INTERNAL,
        };
        V1Fault::connection(condition, fault.detail.clone())
    }
}

//! Errors of the protocol: RabbitMQ's codes and texts, which client libraries and people know.

/// `connection.start-ok`, the method that a refused login answers.
const START_OK: (u16, u16) = (10, 11);

/// Why a channel or a connection is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AmqpFault {
    /// The reply code.
    pub code: u16,
    /// What follows the code's name.
    pub detail: String,
    /// The method that was refused; zeroes when it is none.
    pub method: (u16, u16),
    /// Whether the connection is closed, and not only the channel.
    pub closes_connection: bool,
}

impl AmqpFault {
    fn channel(code: u16, detail: impl Into<String>) -> AmqpFault {
        AmqpFault {
            code,
            detail: detail.into(),
            method: (0, 0),
            closes_connection: false,
        }
    }

    fn connection(code: u16, detail: impl Into<String>) -> AmqpFault {
        AmqpFault {
            closes_connection: true,
            ..AmqpFault::channel(code, detail)
        }
    }

    /// The same, of a method.
    #[must_use]
    pub fn of(self, method: (u16, u16)) -> AmqpFault {
        match self.method {
            (0, 0) => AmqpFault { method, ..self },
            _ => self,
        }
    }

    /// The name of the code, as RabbitMQ writes it.
    pub fn name(&self) -> &'static str {
        match self.code {
            311 => "CONTENT_TOO_LARGE",
            320 => "CONNECTION_FORCED",
            402 => "INVALID_PATH",
            403 => "ACCESS_REFUSED",
            404 => "NOT_FOUND",
            405 => "RESOURCE_LOCKED",
            406 => "PRECONDITION_FAILED",
            501 => "FRAME_ERROR",
            502 => "SYNTAX_ERROR",
            503 => "COMMAND_INVALID",
            504 => "CHANNEL_ERROR",
            505 => "UNEXPECTED_FRAME",
            506 => "RESOURCE_ERROR",
            530 => "NOT_ALLOWED",
            540 => "NOT_IMPLEMENTED",
            _ => "INTERNAL_ERROR",
        }
    }

    /// The reply text.
    pub fn text(&self) -> String {
        format!("{} - {}", self.name(), self.detail)
    }

    /// 403: may not be done.
    pub fn access_refused(detail: impl Into<String>) -> AmqpFault {
        AmqpFault::channel(403, detail)
    }

    /// 403 for a login.
    pub fn login_refused(mechanism: &str) -> AmqpFault {
        AmqpFault::connection(
            403,
            format!(
                "Login was refused using authentication mechanism {mechanism}. For details see the broker logfile."
            ),
        )
        .of(START_OK)
    }

    /// 403 for a login that no longer holds.
    pub fn login_ended() -> AmqpFault {
        AmqpFault::connection(403, "the login or its permissions have changed")
    }

    /// 404: no such exchange.
    pub fn no_exchange(name: &str, vhost: &str) -> AmqpFault {
        AmqpFault::channel(404, format!("no exchange '{name}' in vhost '{vhost}'"))
    }

    /// 404: no such queue.
    pub fn no_queue(name: &str, vhost: &str) -> AmqpFault {
        AmqpFault::channel(404, format!("no queue '{name}' in vhost '{vhost}'"))
    }

    /// 405: the queue belongs to another connection.
    pub fn locked(name: &str, vhost: &str) -> AmqpFault {
        AmqpFault::channel(
            405,
            format!(
                "cannot obtain exclusive access to locked queue '{name}' in vhost '{vhost}'. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration."
            ),
        )
    }

    /// 406: something is not as it has to be.
    pub fn precondition(detail: impl Into<String>) -> AmqpFault {
        AmqpFault::channel(406, detail)
    }

    /// 406: an argument of a declaration differs from what was declared before.
    pub fn inequivalent(
        arg: &str,
        what: &str,
        vhost: &str,
        received: &str,
        current: &str,
    ) -> AmqpFault {
        AmqpFault::precondition(format!(
            "inequivalent arg '{arg}' for {what} in vhost '{vhost}': received {received} but current is {current}"
        ))
    }

    /// 506: a bound is reached.
    pub fn resource(detail: impl Into<String>) -> AmqpFault {
        AmqpFault::channel(506, detail)
    }

    /// 320: the node closes the connection.
    pub fn forced(detail: impl Into<String>) -> AmqpFault {
        AmqpFault::connection(320, detail)
    }

    /// 501: a frame is wrong.
    pub fn frame(detail: impl Into<String>) -> AmqpFault {
        AmqpFault::connection(501, detail)
    }

    /// 502: a field is wrong.
    pub fn syntax(detail: impl Into<String>) -> AmqpFault {
        AmqpFault::connection(502, detail)
    }

    /// 503: a method that may not be sent now.
    pub fn command_invalid(detail: impl Into<String>) -> AmqpFault {
        AmqpFault::connection(503, detail)
    }

    /// 504: a channel is not open, or open already.
    pub fn channel_error(detail: impl Into<String>) -> AmqpFault {
        AmqpFault::connection(504, detail)
    }

    /// 505: a frame that may not be sent now.
    pub fn unexpected_frame(detail: impl Into<String>) -> AmqpFault {
        AmqpFault::connection(505, detail)
    }

    /// 530: not allowed.
    pub fn not_allowed(detail: impl Into<String>) -> AmqpFault {
        AmqpFault::connection(530, detail)
    }

    /// 540: not there.
    pub fn not_implemented(detail: impl Into<String>) -> AmqpFault {
        AmqpFault::connection(540, detail)
    }

    /// 541: something went wrong in the node.
    pub fn internal(detail: impl Into<String>) -> AmqpFault {
        AmqpFault::connection(541, detail)
    }
}

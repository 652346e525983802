//! The task of one connection: moves bytes between its socket and the sessions.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::connection_id::ConnId;
use crate::limits::{LINGER_WAIT, READ_BYTES_PER_TURN_MAX};
use crate::protocol::Protocol;

use super::Local;

/// The task.
pub(super) struct Connection<S: Protocol, T> {
    local: Rc<Local<S>>,
    id: ConnId,
    address: Option<SocketAddr>,
    stream: T,
    unflushed: bool,
    gone: bool,
    input_ended: bool,
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<S: Protocol, T> Connection<S, T> {
    pub fn new(
        local: Rc<Local<S>>,
        id: ConnId,
        address: Option<SocketAddr>,
        stream: T,
    ) -> Connection<S, T> {
        Connection {
            local,
            id,
            address,
            stream,
            unflushed: false,
            gone: false,
            input_ended: false,
            lingering: None,
        }
    }

    fn leave(&mut self) {
        if !std::mem::replace(&mut self.gone, true) {
            self.local
                .sessions
                .borrow_mut()
                .gone(self.id, self.local.now());
            if let Some(waker) = self
                .local
                .wakers
                .borrow_mut()
                .get_mut(self.id.slot as usize)
            {
                *waker = None;
            }
            self.local.act();
            self.local.kick();
        }
    }
}

impl<S: Protocol, T: AsyncRead + AsyncWrite + Unpin> Connection<S, T> {
    /// The sessions have forgotten the connection; what the client still sends is read and dropped for a
    /// while, so that the socket is not reset before the client has read its last packet.
    fn linger(&mut self, cx: &mut Context<'_>, until: Pin<&mut Sleep>) -> Poll<()> {
        if until.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
        let mut read = 0;
        while read < READ_BYTES_PER_TURN_MAX {
            let mut buffer = self.local.buffer.borrow_mut();
            let mut into = ReadBuf::new(&mut buffer);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut into)) {
                Ok(()) if !into.filled().is_empty() => read += into.filled().len(),
                _ => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what there is; an error ends the connection.
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        loop {
            let n = {
                let sessions = self.local.sessions.borrow();
                let out = sessions.output(self.id);
                if out.is_empty() {
                    break;
                }
                ready!(Pin::new(&mut self.stream).poll_write(cx, out))?
            };
            if n == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            let mut sessions = self.local.sessions.borrow_mut();
            sessions.wrote(self.id, n);
            if sessions.has_work() {
                drop(sessions);
                self.local.kick();
            }
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Protocol, T: AsyncRead + AsyncWrite + Unpin> Future for Connection<S, T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if let Some(mut until) = this.lingering.take() {
            let done = this.linger(cx, until.as_mut());
            this.lingering = Some(until);
            return done;
        }
        {
            let mut wakers = this.local.wakers.borrow_mut();
            match &mut wakers[this.id.slot as usize] {
                Some(waker) if waker.will_wake(cx.waker()) => {}
                slot => *slot = Some(cx.waker().clone()),
            }
        }
        let mut read = 0;
        loop {
            let written = this.write(cx);
            if let Poll::Ready(Err(_)) = written {
                this.leave();
                return Poll::Ready(());
            }
            let (closing, hungry) = {
                let now = this.local.now();
                let mut sessions = this.local.sessions.borrow_mut();
                (
                    sessions.is_closing(this.id),
                    sessions.wants_input(this.id, now),
                )
            };
            if closing {
                // What the client still sends is ignored until it closes or the time is over.
                if written.is_pending() && !this.local.sessions.borrow().output(this.id).is_empty()
                {
                    return Poll::Pending;
                }
                let lingers =
                    !this.input_ended && this.local.sessions.borrow_mut().was_refused(this.id);
                let _ = Pin::new(&mut this.stream).poll_shutdown(cx);
                this.leave();
                if !lingers {
                    return Poll::Ready(());
                }
                this.lingering = Some(Box::pin(sleep(LINGER_WAIT)));
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if this.input_ended {
                return Poll::Pending;
            }
            if !hungry {
                this.local.paused.borrow_mut().push(this.id);
                return Poll::Pending;
            }
            if read >= READ_BYTES_PER_TURN_MAX {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut buffer = this.local.buffer.borrow_mut();
            let mut into = ReadBuf::new(&mut buffer);
            match Pin::new(&mut this.stream).poll_read(cx, &mut into) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !into.filled().is_empty() => {
                    let bytes = into.filled();
                    read += bytes.len();
                    let now = this.local.now();
                    this.local.sessions.borrow_mut().input(this.id, bytes, now);
                    drop(buffer);
                    this.local.act();
                    this.local.kick();
                }
                Poll::Ready(ended) => {
                    drop(buffer);
                    let now = this.local.now();
                    if ended.is_ok() && this.local.sessions.borrow_mut().input_ended(this.id, now) {
                        this.input_ended = true;
                        this.local.kick();
                        continue;
                    }
                    this.leave();
                    match ended {
                        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                            let message = "a connection was closed";
                            this.local.log_broken(this.address, &error, message);
                        }
                        _ => return Poll::Ready(()),
                    }
                    // The WebSocket layer has a close frame to send.
                    this.lingering = Some(Box::pin(sleep(LINGER_WAIT)));
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<S: Protocol, T> Drop for Connection<S, T> {
    fn drop(&mut self) {
        // The task was dropped: the gateway stops.
        if !self.gone {
            self.local
                .sessions
                .borrow_mut()
                .gone(self.id, self.local.now());
        }
    }
}

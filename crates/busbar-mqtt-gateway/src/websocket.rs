//! MQTT over WebSocket: binary frames as a byte stream. Packets may span frames, and messages may come
//! in fragments. What breaks the rules of WebSocket itself is told by the code of a close frame.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use crate::limits::WEBSOCKET_FRAME_EXTRA_BYTES;

/// A WebSocket connection as a byte stream. When the client breaks a rule of WebSocket, reading fails
/// with [`io::ErrorKind::InvalidData`]; shutting down then says why, and what is read afterwards are
/// bytes of no meaning, to be forgotten.
pub(crate) struct WebSocket<S> {
    inner: WebSocketStream<S>,
    unread: Bytes,
    fault: Option<Fault>,
}

/// What the client did, and whether it was told.
struct Fault {
    code: CloseCode,
    said: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Answers the upgrade: any path, but the subprotocol `mqtt` must be offered.
    pub async fn accept(stream: S, packet_bytes_max: u32) -> Result<WebSocket<S>, Error> {
        let inner = tokio_tungstenite::accept_hdr_async_with_config(
            stream,
            answer,
            Some(config(packet_bytes_max)),
        )
        .await?;
        Ok(WebSocket {
            inner,
            unread: Bytes::new(),
            fault: None,
        })
    }

    /// Over a connection whose upgrade was answered already.
    pub async fn after_upgrade(stream: S, packet_bytes_max: u32) -> WebSocket<S> {
        let config = Some(config(packet_bytes_max));
        let inner = WebSocketStream::from_raw_socket(stream, Role::Server, config).await;
        WebSocket {
            inner,
            unread: Bytes::new(),
            fault: None,
        }
    }
}

impl<S> WebSocket<S> {
    fn broken(&mut self, code: CloseCode, why: String) -> io::Error {
        self.fault = Some(Fault { code, said: false });
        io::Error::new(io::ErrorKind::InvalidData, why)
    }
}

fn config(packet_bytes_max: u32) -> WebSocketConfig {
    // A frame holds part of a packet or several; nobody needs a longer one than the longest packet
    // and what small ones may be sent together.
    let bytes_max = packet_bytes_max as usize + WEBSOCKET_FRAME_EXTRA_BYTES;
    WebSocketConfig::default()
        .max_message_size(Some(bytes_max))
        .max_frame_size(Some(bytes_max))
        .max_write_buffer_size(4 * bytes_max)
}

#[allow(clippy::result_large_err)]
fn answer(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let refuse = |status| {
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = status;
        refusal
    };
    if !matches!(request.uri().path(), "/mqtt" | "/") {
        return Err(refuse(StatusCode::NOT_FOUND));
    }
    let offered = request
        .headers()
        .get_all("Sec-WebSocket-Protocol")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|protocol| protocol.trim() == "mqtt");
    if !offered {
        return Err(refuse(StatusCode::BAD_REQUEST));
    }
    response
        .headers_mut()
        .insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
    Ok(response)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.fault.is_some() {
            return Pin::new(self.inner.get_mut()).poll_read(cx, into);
        }
        loop {
            if !self.unread.is_empty() {
                let n = self.unread.len().min(into.remaining());
                into.put_slice(&self.unread.split_to(n));
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                None | Some(Ok(Message::Close(_))) => return Poll::Ready(Ok(())),
                Some(Ok(Message::Binary(bytes))) => self.unread = bytes,
                // MQTT comes in binary frames.
                Some(Ok(Message::Text(_))) => {
                    let why = "a WebSocket frame of text, where MQTT has binary ones".to_owned();
                    return Poll::Ready(Err(self.broken(CloseCode::Unsupported, why)));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    let (code, setting) = match &error {
                        Error::Capacity(_) => (CloseCode::Size, " (limits.payload_size)"),
                        Error::Protocol(_) => (CloseCode::Protocol, ""),
                        Error::Utf8(_) => (CloseCode::Unsupported, ""),
                        _ => return Poll::Ready(Err(into_io(error))),
                    };
                    let why = format!("{error}{setting}");
                    return Poll::Ready(Err(self.broken(code, why)));
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.inner).poll_ready(cx)).map_err(into_io)?;
        let n = bytes.len().min(64 * 1024);
        let message = Message::Binary(Bytes::copy_from_slice(&bytes[..n]));
        Pin::new(&mut self.inner)
            .start_send(message)
            .map_err(into_io)?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx).map_err(into_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(fault) = &mut this.fault else {
            return Pin::new(&mut this.inner).poll_close(cx).map_err(into_io);
        };
        if !fault.said {
            ready!(Pin::new(&mut this.inner).poll_ready(cx)).map_err(into_io)?;
            fault.said = true;
            let frame = CloseFrame {
                code: fault.code,
                reason: "".into(),
            };
            Pin::new(&mut this.inner)
                .start_send(Message::Close(Some(frame)))
                .map_err(into_io)?;
        }
        Pin::new(&mut this.inner).poll_flush(cx).map_err(into_io)
    }
}

fn into_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

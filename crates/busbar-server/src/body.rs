//! Taking in the body of a request: within bounds of size, time and memory, and before the request
//! takes anybody's turn, so that slow senders wait for themselves alone.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody as _};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use busbar_event::{Class, Error};
use bytes::BytesMut;
use flate2::write::MultiGzDecoder;
use futures::StreamExt as _;

use crate::answer::{Answer, Refusal, bounded};
use crate::limits::{
    BODIES_BYTES_MAX, BODY_SECONDS_MAX, DECODED_STEP_BYTES, GZIP_STEP_BYTES,
    REFUSED_BODY_BYTES_MAX, REFUSED_BODY_SECONDS_MAX,
};

/// Bytes of bodies that are in memory.
#[derive(Default)]
pub(crate) struct Bodies(Arc<AtomicUsize>);

/// A body, which counts for as long as this lives.
pub(crate) struct Held {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Bodies {
    /// Takes a body in, decoded.
    ///
    /// # Errors
    /// When it is too large, too slow, broken, encoded in a way that is not known, or when there is
    /// no room for it now.
    pub(crate) async fn read(
        &self,
        headers: &HeaderMap,
        body: Body,
        bytes_max: usize,
    ) -> Answer<(Bytes, Held)> {
        let mut held = Held {
            all: self.0.clone(),
            bytes: 0,
        };
        let gzip = is_gzip(headers);
        let declared = body.size_hint().lower();
        let mut body = body.into_data_stream();
        if declared > bytes_max as u64 || gzip.is_err() {
            forget(headers, body).await;
            gzip?;
            return Err(too_large(bytes_max));
        }
        let limit = Duration::from_secs(BODY_SECONDS_MAX);
        let collected = async {
            match gzip? {
                true => held.decode(&mut body, bytes_max).await,
                false => held.collect(&mut body, bytes_max).await,
            }
        };
        match tokio::time::timeout(limit, collected).await {
            Ok(Ok(bytes)) => Ok((bytes, held)),
            Ok(Err(refusal)) => {
                drop(held);
                drain(body).await;
                Err(refusal)
            }
            Err(_) => Err(Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                Error::new(Class::Transient, "server.body-too-slow")
                    .with("max_seconds", BODY_SECONDS_MAX),
            )),
        }
    }
}

impl Held {
    async fn collect(&mut self, body: &mut BodyDataStream, bytes_max: usize) -> Answer<Bytes> {
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(broken)?;
            if first.len() + all.len() + chunk.len() > bytes_max {
                return Err(too_large(bytes_max));
            }
            self.take(chunk.len())?;
            // A small body comes in one piece and is not copied.
            if first.is_empty() && all.is_empty() {
                first = chunk;
                continue;
            }
            if !first.is_empty() {
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    }

    /// Decodes a gzip body as it comes, in steps. Memory is charged before it is allocated.
    async fn decode(&mut self, body: &mut BodyDataStream, bytes_max: usize) -> Answer<Bytes> {
        let mut compressed = 0;
        let mut decoder = MultiGzDecoder::new(DecodedBody {
            bytes: Vec::new(),
            bytes_max,
            held: self,
            refused: None,
        });
        let refused = |decoder: &mut MultiGzDecoder<DecodedBody<'_>>, cause: std::io::Error| {
            decoder.get_mut().refused.take().unwrap_or_else(|| {
                tracing::debug!(%cause, "a body is not gzip");
                Refusal::from(Error::new(Class::Permanent, "server.not-gzip"))
            })
        };
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(broken)?;
            compressed += chunk.len();
            if compressed > bytes_max {
                return Err(too_large(bytes_max));
            }
            for step in chunk.chunks(GZIP_STEP_BYTES) {
                if let Err(cause) = decoder.write_all(step) {
                    return Err(refused(&mut decoder, cause));
                }
                tokio::task::yield_now().await;
            }
        }
        if let Err(cause) = decoder.try_finish() {
            return Err(refused(&mut decoder, cause));
        }
        Ok(std::mem::take(&mut decoder.get_mut().bytes).into())
    }

    fn take(&mut self, bytes: usize) -> Result<(), Error> {
        self.bytes += bytes;
        let before = self.all.fetch_add(bytes, Ordering::AcqRel);
        if before + bytes > BODIES_BYTES_MAX {
            return Err(Error::new(Class::Transient, "server.bodies-full"));
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// Takes what is left of a body that nobody wants, for a while: a connection that is closed with
/// something unread may take the answer with it. Who waits to be asked for the body is not asked.
pub(crate) async fn forget(headers: &HeaderMap, body: BodyDataStream) {
    if !headers.contains_key(header::EXPECT) {
        drain(body).await;
    }
}

async fn drain(mut body: BodyDataStream) {
    let limit = Duration::from_secs(REFUSED_BODY_SECONDS_MAX);
    let rest = async {
        let mut left = REFUSED_BODY_BYTES_MAX;
        while let Some(Ok(chunk)) = body.next().await {
            let Some(less) = left.checked_sub(chunk.len()) else {
                return;
            };
            left = less;
        }
    };
    // Who sends for longer finds a closed connection.
    let _ = tokio::time::timeout(limit, rest).await;
}

/// Whether the body is compressed.
fn is_gzip(headers: &HeaderMap) -> Answer<bool> {
    let mut gzip = false;
    for value in headers.get_all(header::CONTENT_ENCODING) {
        for word in value.to_str().unwrap_or("?").split(',') {
            match &*word.trim().to_ascii_lowercase() {
                "" | "identity" => {}
                "gzip" | "x-gzip" if !gzip => gzip = true,
                other => {
                    let error = Error::new(Class::Permanent, "server.content-encoding")
                        .with("encoding", bounded(other));
                    return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error)
                        .with_header(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip")));
                }
            }
        }
    }
    Ok(gzip)
}

/// Takes what a gzip body decodes to.
struct DecodedBody<'a> {
    bytes: Vec<u8>,
    bytes_max: usize,
    held: &'a mut Held,
    /// Why nothing more is taken.
    refused: Option<Refusal>,
}

impl DecodedBody<'_> {
    /// Sees to it that there is room for `more` bytes.
    fn make_room(&mut self, more: usize) -> Answer<()> {
        let (len, capacity) = (self.bytes.len(), self.bytes.capacity());
        if len + more > self.bytes_max {
            return Err(too_large(self.bytes_max));
        }
        if len + more <= capacity {
            return Ok(());
        }
        let grown = (2 * capacity).max(len + more).max(DECODED_STEP_BYTES);
        let grown = grown.min(self.bytes_max);
        self.held.take(grown - capacity)?;
        self.bytes.reserve_exact(grown - len);
        Ok(())
    }
}

impl Write for DecodedBody<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Err(refusal) = self.make_room(bytes.len()) {
            self.refused = Some(refusal);
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn broken(cause: axum::Error) -> Error {
    tracing::debug!(%cause, "the body of a request broke off");
    Error::new(Class::Permanent, "server.body-broken")
}

fn too_large(bytes_max: usize) -> Refusal {
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        Error::new(Class::Permanent, "server.body-too-large").with("max", bytes_max),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn encoded(encoding: &'static str) -> HeaderMap {
        let value = HeaderValue::from_static(encoding);
        HeaderMap::from_iter([(header::CONTENT_ENCODING, value)])
    }

    async fn read(encoding: &'static str, body: Vec<u8>) -> Result<Bytes, &'static str> {
        let (bodies, headers) = (Bodies::default(), encoded(encoding));
        match bodies.read(&headers, body.into(), 1000).await {
            Ok((bytes, _)) => Ok(bytes),
            Err(refusal) => Err(refusal.error().code()),
        }
    }

    #[tokio::test]
    async fn encodings_are_undone_or_refused() {
        for encoding in ["gzip", "GZIP", "x-gzip", "identity, gzip"] {
            assert_eq!(read(encoding, gzip(b"text")).await.unwrap(), "text");
        }
        assert_eq!(read("identity", b"text".to_vec()).await.unwrap(), "text");
        for encoding in ["br", "zstd", "deflate", "gzip, gzip"] {
            let code = read(encoding, gzip(b"text")).await;
            assert_eq!(code, Err("server.content-encoding"), "{encoding}");
        }
        let cut = gzip(b"text")[..15].to_vec();
        assert_eq!(read("gzip", cut).await, Err("server.not-gzip"));
        assert_eq!(read("gzip", b"text".to_vec()).await, Err("server.not-gzip"));
        // What is small on the wire and large in memory.
        let bomb = gzip(&vec![0; 100_000]);
        assert!(bomb.len() < 1000);
        let cut = bomb[..bomb.len() - 20].to_vec();
        assert_eq!(read("gzip", bomb).await, Err("server.body-too-large"));
        // Nothing behind the bound is unpacked, or it would be noticed that the end is missing.
        assert_eq!(read("gzip", cut).await, Err("server.body-too-large"));
    }

    #[tokio::test]
    async fn what_is_in_memory_is_counted_and_bounded() {
        let bodies = Bodies::default();
        let none = HeaderMap::new();
        let (_, held) = bodies.read(&none, "12345".into(), 5).await.ok().unwrap();
        assert_eq!(bodies.0.load(Ordering::Relaxed), 5);
        drop(held);
        assert_eq!(bodies.0.load(Ordering::Relaxed), 0);
        bodies.0.store(BODIES_BYTES_MAX - 4, Ordering::Relaxed);
        let full = bodies.read(&none, "12345".into(), 5).await.err().unwrap();
        assert_eq!(full.error().code(), "server.bodies-full");
        assert_eq!(bodies.0.load(Ordering::Relaxed), BODIES_BYTES_MAX - 4);
        // What is small on the wire and large in memory is charged before it is there.
        let mut compressed = HeaderMap::new();
        compressed.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let bomb = gzip(&vec![7; 4 << 20]);
        assert!(bomb.len() < 64 << 10);
        bodies
            .0
            .store(BODIES_BYTES_MAX - (1 << 20), Ordering::Relaxed);
        let read = bodies.read(&compressed, bomb.clone().into(), 16 << 20);
        assert_eq!(
            read.await.err().unwrap().error().code(),
            "server.bodies-full"
        );
        assert_eq!(
            bodies.0.load(Ordering::Relaxed),
            BODIES_BYTES_MAX - (1 << 20)
        );
        bodies.0.store(0, Ordering::Relaxed);
        let (bytes, held) = bodies
            .read(&compressed, bomb.into(), 16 << 20)
            .await
            .ok()
            .unwrap();
        assert_eq!((bytes.len(), bytes[0]), (4 << 20, 7));
        let charged = bodies.0.load(Ordering::Relaxed);
        assert!((4 << 20..=8 << 20).contains(&charged), "{charged}");
        drop(held);
        assert_eq!(bodies.0.load(Ordering::Relaxed), 0);
    }
}

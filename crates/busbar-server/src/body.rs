//! Taking in the body of a request: within bounds of size, time and memory, and before the request
//! takes anybody's turn, so that slow senders wait for themselves alone.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody as _};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use busbar_event::{Class, Error};
use bytes::BytesMut;
use futures::StreamExt as _;

use crate::answer::{Answer, Refusal};
use crate::api::{blocking, bounded};
use crate::limits::{
    BODIES_BYTES_MAX, BODY_SECONDS_MAX, REFUSED_BODY_BYTES_MAX, REFUSED_BODY_SECONDS_MAX,
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
        let bytes = match tokio::time::timeout(limit, held.collect(&mut body, bytes_max)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(refusal)) => {
                drain(body).await;
                return Err(refusal);
            }
            Err(_) => {
                return Err(Refusal::new(
                    StatusCode::REQUEST_TIMEOUT,
                    Error::new(Class::Transient, "server.body-too-slow")
                        .with("max_seconds", BODY_SECONDS_MAX),
                ));
            }
        };
        if !gzip? {
            return Ok((bytes, held));
        }
        let decoded = blocking(move || decode(&bytes, bytes_max)).await??;
        held.take(decoded.len())?;
        Ok((decoded, held))
    }
}

impl Held {
    async fn collect(&mut self, body: &mut BodyDataStream, bytes_max: usize) -> Answer<Bytes> {
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|cause| {
                Error::new(Class::Permanent, "server.body-broken")
                    .with("why", bounded(&cause.to_string()))
            })?;
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

/// What a compressed body says, which may be a thousand times as long: no more than `bytes_max`.
fn decode(bytes: &[u8], bytes_max: usize) -> Result<Answer<Bytes>, Error> {
    let mut decoded = Vec::new();
    let mut reader = flate2::read::MultiGzDecoder::new(bytes).take(bytes_max as u64 + 1);
    if let Err(cause) = reader.read_to_end(&mut decoded) {
        return Err(Error::new(Class::Permanent, "server.not-gzip")
            .with("why", bounded(&cause.to_string())));
    }
    Ok(if decoded.len() > bytes_max {
        Err(too_large(bytes_max))
    } else {
        Ok(decoded.into())
    })
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
    }
}

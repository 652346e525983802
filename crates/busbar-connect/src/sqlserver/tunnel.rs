//! Encryption within the protocol: the handshake goes in packets like every other message; what is encrypted behind it does
//! not.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::limits::PACKET_BYTES;
use super::wire::{HEADER, kind, message};

/// A socket whose content is in packets until the handshake is over.
pub struct TdsTunnel<S> {
    socket: S,
    /// Whether the handshake is under way.
    packed: bool,
    header: [u8; HEADER],
    header_read: usize,
    /// Bytes of the packet that have not been read.
    left: usize,
    out: Vec<u8>,
    /// Packets that have not been sent, and how much of them has.
    sending: Vec<u8>,
    sent: usize,
}

impl<S> TdsTunnel<S> {
    pub fn new(socket: S) -> TdsTunnel<S> {
        TdsTunnel {
            socket,
            packed: true,
            header: [0; HEADER],
            header_read: 0,
            left: 0,
            out: Vec::new(),
            sending: Vec::new(),
            sent: 0,
        }
    }

    /// The handshake is over.
    pub fn open(&mut self) {
        self.packed = false;
    }

    pub fn into_socket(self) -> S {
        self.socket
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TdsTunnel<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.packed && this.left == 0 {
            return Pin::new(&mut this.socket).poll_read(context, buffer);
        }
        while this.left == 0 {
            let mut header = ReadBuf::new(&mut this.header[this.header_read..]);
            ready!(Pin::new(&mut this.socket).poll_read(context, &mut header))?;
            let read = header.filled().len();
            if read == 0 {
                return Poll::Ready(Ok(()));
            }
            this.header_read += read;
            if this.header_read == HEADER {
                this.header_read = 0;
                let length = usize::from(u16::from_be_bytes([this.header[2], this.header[3]]));
                this.left = length
                    .checked_sub(HEADER)
                    .ok_or(io::ErrorKind::InvalidData)?;
            }
        }
        // A handshake is a few kilobytes: they may be copied once more.
        let mut bytes = [0; 1024];
        let room = bytes.len().min(this.left).min(buffer.remaining());
        let mut part = ReadBuf::new(&mut bytes[..room]);
        ready!(Pin::new(&mut this.socket).poll_read(context, &mut part))?;
        this.left -= part.filled().len();
        buffer.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TdsTunnel<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.packed {
            this.out.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut this.socket).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.out.is_empty() {
            message(kind::PRELOGIN, &this.out, PACKET_BYTES, &mut this.sending);
            this.out.clear();
        }
        while this.sent < this.sending.len() {
            let rest = &this.sending[this.sent..];
            match ready!(Pin::new(&mut this.socket).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => this.sent += sent,
            }
        }
        this.sending.clear();
        this.sent = 0;
        Pin::new(&mut this.socket).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(context)
    }
}

/// Takes any certificate: what is sent is hidden from those who listen, but it is not proved who the server is.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // Older servers make themselves keys that are too short to be verified. Who takes any certificate has no use for a proof
    // that the server has the key of this one.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What a client that takes any certificate encrypts with.
pub fn any_certificate() -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(VERSIONS)?;
    Ok(config
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth())
}

/// Within this protocol servers speak no newer one.
pub const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];

//! One connection to a broker. Requests are answered in their order, so that several may be under way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use busbar_event::{Class, Error};
use busbar_kafka::message::{SaslAnswer, VersionsResponse, write_sasl, write_versions};
use busbar_kafka::{Api, KafkaCode, KafkaReader, KafkaWriter, response_body};
use bytes::{Bytes, BytesMut};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::failure::{KafkaDoing, closed, refused, unreadable};
use super::limits::{CONNECT_MAX, READ_BYTES, RESPONSE_BYTES_MAX};
use super::server::{KafkaProof, KafkaServer, Mechanism};
use crate::scram::{Scram, ScramHash};
use crate::tls;

/// A connection.
pub struct KafkaLink {
    socket: Box<dyn KafkaSocket>,
    buffer: BytesMut,
    /// What has not been sent yet.
    out: Vec<u8>,
    /// Bytes of it that were sent.
    sent: usize,
    /// Requests that are not answered yet: which, in which version, under which number.
    owed: VecDeque<(Api, i16, i32)>,
    next: i32,
    /// The version that both sides know, for each request.
    versions: Vec<(Api, i16)>,
    pub address: Arc<str>,
    timeout: Duration,
}

trait KafkaSocket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> KafkaSocket for T {}

/// A broker's answer.
pub struct KafkaAnswer {
    api: Api,
    version: i16,
    /// Behind the head.
    pub body: Bytes,
    address: Arc<str>,
}

impl KafkaAnswer {
    /// Reads it.
    ///
    /// # Errors
    /// *Transient*: it does not have the form that the protocol gives it.
    pub fn read<'a, T>(
        &'a self,
        read: impl FnOnce(&mut KafkaReader<'a>, i16) -> busbar_kafka::Result<T>,
    ) -> Result<T, Error> {
        let mut r = KafkaReader::new(&self.body, self.api.is_flexible(self.version));
        read(&mut r, self.version).map_err(|why| unreadable(&self.address, why))
    }
}

impl KafkaLink {
    /// Opens a connection, asks for versions and proves who one is.
    ///
    /// # Errors
    /// *Transient*: nobody answers. *Configuration*: the broker refuses the user or the encryption, or is too old.
    pub async fn open(server: &KafkaServer, address: &Arc<str>) -> Result<KafkaLink, Error> {
        match timeout(CONNECT_MAX, KafkaLink::connect(server, address)).await {
            Ok(opened) => opened,
            Err(_) => Err(silent(address, CONNECT_MAX)),
        }
    }

    async fn connect(server: &KafkaServer, address: &Arc<str>) -> Result<KafkaLink, Error> {
        let unreachable = |why: std::io::Error| {
            Error::new(Class::Transient, "kafka.unreachable")
                .with("address", address)
                .caused_by(why)
        };
        let tcp = TcpStream::connect(&**address).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let socket: Box<dyn KafkaSocket> = match server.tls().await? {
            None => Box::new(tcp),
            Some(config) => {
                let host = address.rsplit_once(':').map_or("", |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let name = ServerName::try_from(host.to_owned()).map_err(|why| {
                    Error::new(Class::Configuration, "kafka.brokers").caused_by(why)
                })?;
                let connector = tokio_rustls::TlsConnector::from(config);
                let opened = connector.connect(name, tcp).await;
                Box::new(opened.map_err(|why| match tls::refused(&why) {
                    Some(why) => tls::untrusted(address, why),
                    None => unreachable(why),
                })?)
            }
        };
        let mut link = KafkaLink {
            socket,
            buffer: BytesMut::with_capacity(READ_BYTES),
            out: Vec::new(),
            sent: 0,
            owed: VecDeque::new(),
            next: 0,
            versions: Vec::new(),
            address: Arc::clone(address),
            timeout: CONNECT_MAX,
        };
        link.negotiate(server).await?;
        if let Some(proof) = &server.proof {
            link.prove(proof).await?;
        }
        link.timeout = server.timeout;
        Ok(link)
    }

    /// Finds the versions that both sides know.
    async fn negotiate(&mut self, server: &KafkaServer) -> Result<(), Error> {
        // Where this version is not known the answer says so in the oldest one.
        for version in [3, 0] {
            self.versions = vec![(Api::ApiVersions, version)];
            let asked = self.call(Api::ApiVersions, |w, version| {
                write_versions(w, version, "busbar", env!("CARGO_PKG_VERSION"));
            });
            let known = asked.await?.read(VersionsResponse::read)?;
            match known.code {
                KafkaCode::UNSUPPORTED_VERSION if version > 0 => continue,
                code if code.is_error() => return Err(refused(code, server.doing(&self.address))),
                _ => {}
            }
            let common = |api: Api| {
                let range = known.apis.iter().find(|range| range.api == api as i16)?;
                Some((api, api.common(range.least, range.most)?))
            };
            self.versions = Api::ALL.into_iter().filter_map(common).collect();
            return Ok(());
        }
        Ok(())
    }

    async fn prove(&mut self, proof: &KafkaProof) -> Result<(), Error> {
        let address = Arc::clone(&self.address);
        let wrong = |answer: &SaslAnswer| {
            let code = match answer.code {
                KafkaCode::UNSUPPORTED_SASL_MECHANISM => "kafka.mechanism",
                KafkaCode::ILLEGAL_SASL_STATE => "kafka.wants-no-sasl",
                KafkaCode::SASL_AUTHENTICATION_FAILED => "kafka.credentials",
                code => {
                    return refused(
                        code,
                        KafkaDoing {
                            address: &address,
                            user: &proof.user,
                            resource: "",
                            operation: "",
                        },
                    );
                }
            };
            Error::new(Class::Configuration, code)
                .with("address", &address)
                .with("user", &proof.user)
                .with("mechanism", proof.mechanism.name())
                .with("said", &answer.said)
        };
        let name = proof.mechanism.name();
        let asked = self.call(Api::SaslHandshake, |w, _| w.text(name)).await?;
        let answer = asked.read(|r, _| SaslAnswer::read_mechanisms(r))?;
        if answer.code.is_error() {
            return Err(wrong(&answer));
        }
        let hash = match proof.mechanism {
            Mechanism::Plain => {
                let text = format!("\0{}\0{}", proof.user, proof.password);
                let answer = self.sasl(text.as_bytes()).await?;
                return match answer.code.is_error() {
                    true => Err(wrong(&answer)),
                    false => Ok(()),
                };
            }
            Mechanism::ScramSha256 => ScramHash::Sha256,
            Mechanism::ScramSha512 => ScramHash::Sha512,
        };
        let strange = || {
            Error::new(Class::Transient, "kafka.strange")
                .with("address", &address)
                .with("what", "a proof that SCRAM does not have")
        };
        let mut scram = Scram::new(hash, &proof.user, &proof.password).ok_or_else(strange)?;
        let challenge = self.sasl(&scram.first()).await?;
        if challenge.code.is_error() {
            return Err(wrong(&challenge));
        }
        let answer = scram.answer(&challenge.bytes).ok_or_else(strange)?;
        let last = self.sasl(&answer).await?;
        if last.code.is_error() {
            return Err(wrong(&last));
        }
        match scram.verify(&last.bytes) {
            true => Ok(()),
            false => Err(strange()),
        }
    }

    async fn sasl(&mut self, bytes: &[u8]) -> Result<SaslAnswer, Error> {
        let asked = self.call(Api::SaslAuthenticate, |w, _| write_sasl(w, bytes));
        asked.await?.read(|r, _| SaslAnswer::read(r))
    }

    /// Lets requests take as long as this.
    pub fn wait_for(&mut self, longest: Duration) {
        self.timeout = longest;
    }

    /// Whether it may be used for something new: every request was sent and answered.
    pub fn rests(&self) -> bool {
        self.owed.is_empty() && self.out.is_empty()
    }

    /// Whether the broker knows a version of a request that Busbar does.
    pub fn knows(&self, api: Api) -> bool {
        self.versions.iter().any(|(known, _)| *known == api)
    }

    /// Requests that are not answered yet.
    pub fn owed(&self) -> usize {
        self.owed.len()
    }

    /// Queues a request; [`KafkaLink::receive`] sends it.
    ///
    /// # Errors
    /// *Configuration*: the broker knows no version of it that Busbar does.
    pub fn send(
        &mut self,
        api: Api,
        body: impl FnOnce(&mut KafkaWriter<'_>, i16),
    ) -> Result<(), Error> {
        let found = self.versions.iter().find(|(known, _)| *known == api);
        let (_, version) = found.copied().ok_or_else(|| {
            Error::new(Class::Configuration, "kafka.too-old")
                .with("address", &self.address)
                .with("request", format!("{api:?}"))
        })?;
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        api.request(version, number, "busbar", &mut self.out, |w| {
            body(w, version);
        });
        self.owed.push_back((api, version, number));
        Ok(())
    }

    /// The answer to the oldest request. May be dropped while it waits, after which it is called again.
    ///
    /// # Errors
    /// *Transient*: the connection is lost.
    pub async fn receive(&mut self) -> Result<KafkaAnswer, Error> {
        let wait = self.timeout;
        while self.sent < self.out.len() {
            match timeout(wait, self.socket.write(&self.out[self.sent..])).await {
                Ok(Ok(0)) => return Err(closed(&self.address)),
                Ok(Ok(sent)) => self.sent += sent,
                Ok(Err(why)) => return Err(lost(&self.address, why)),
                Err(_) => return Err(silent(&self.address, wait)),
            }
        }
        if self.sent > 0 {
            let flushed = timeout(wait, self.socket.flush()).await;
            flushed
                .map_err(|_| silent(&self.address, wait))?
                .map_err(|why| lost(&self.address, why))?;
            self.out.clear();
            self.sent = 0;
        }
        loop {
            if let Some(length) = self.buffer.first_chunk::<4>() {
                let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(usize::MAX);
                if length > RESPONSE_BYTES_MAX {
                    let error = Error::new(Class::Configuration, "kafka.no-kafka");
                    return Err(error.with("address", &self.address));
                }
                if self.buffer.len() - 4 >= length {
                    let _ = self.buffer.split_to(4);
                    return self.answer(length);
                }
            }
            if self.buffer.capacity() - self.buffer.len() < READ_BYTES {
                self.buffer.reserve(READ_BYTES);
            }
            match timeout(wait, self.socket.read_buf(&mut self.buffer)).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0)) => return Err(closed(&self.address)),
                Ok(Err(why)) => return Err(lost(&self.address, why)),
                Err(_) => return Err(silent(&self.address, wait)),
            }
        }
    }

    fn answer(&mut self, length: usize) -> Result<KafkaAnswer, Error> {
        let frame = self.buffer.split_to(length).freeze();
        let strange = |what: &str| {
            Error::new(Class::Transient, "kafka.strange")
                .with("address", &self.address)
                .with("what", what)
        };
        let Some((api, version, number)) = self.owed.pop_front() else {
            return Err(strange("an answer that nobody asked for"));
        };
        let head = response_body(api, version, &frame);
        let (answered, body) = head.map_err(|why| unreadable(&self.address, why))?;
        if answered != number {
            return Err(strange("an answer to another request"));
        }
        let head = frame.len() - body.rest().len();
        Ok(KafkaAnswer {
            api,
            version,
            body: frame.slice(head..),
            address: Arc::clone(&self.address),
        })
    }

    /// Sends a request and waits for its answer; no other one may be under way.
    ///
    /// # Errors
    /// As [`KafkaLink::send`] and [`KafkaLink::receive`].
    pub async fn call(
        &mut self,
        api: Api,
        body: impl FnOnce(&mut KafkaWriter<'_>, i16),
    ) -> Result<KafkaAnswer, Error> {
        self.send(api, body)?;
        self.receive().await
    }
}

/// A connection that ended. A broker that refuses a certificate may say so only after the handshake.
fn lost(address: &str, why: std::io::Error) -> Error {
    match tls::refused(&why) {
        Some(why) => tls::untrusted(address, why),
        None => closed(address).caused_by(why),
    }
}

fn silent(address: &str, after: Duration) -> Error {
    Error::new(Class::Transient, "kafka.silent")
        .with("address", address)
        .with("seconds", after.as_secs())
}

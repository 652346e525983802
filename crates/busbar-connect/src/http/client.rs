//! The client of services: HTTP/1.1 with connections that are used again.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::{Duration, Instant};

use busbar_connector::{Service, ServiceAnswer, ServiceContext, ServiceRequest, Work};
use busbar_event::{Class, Error};
use bytes::{Bytes, BytesMut};
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{MANAGED, RemoteOptions, shown_url};
use crate::limits::{CALL_IDLE_LONGEST, CALL_IDLE_MAX};
use crate::places::Places;
use crate::secret::Secret;
use crate::tls::{self, Tls};
use busbar_connector::HIDDEN;

/// Where a service is and how to reach it.
pub(crate) struct Remote<'a> {
    pub url: &'a str,
    pub headers: &'a BTreeMap<String, Secret>,
    pub tls: Option<&'a Tls>,
    pub timeout: Duration,
    /// The protocol that is asked for where the connection is encrypted.
    pub alpn: &'static [u8],
    /// Bytes of an answer. A larger one is refused.
    pub answer_most: usize,
}

impl<'a> Remote<'a> {
    /// What a connection's options say, with HTTP/1.1 and answers of so many bytes.
    pub(crate) fn of(options: &RemoteOptions<'a>, answer_most: usize) -> Remote<'a> {
        Remote {
            url: options.url,
            headers: options.headers,
            tls: options.tls,
            timeout: options.timeout.as_duration(),
            alpn: b"http/1.1",
            answer_most,
        }
    }
}

/// Sends requests to one address.
pub(crate) struct HttpClient {
    host: String,
    port: u16,
    authority: HeaderValue,
    /// What the path of a request is put behind, and the query that each one carries.
    prefix: String,
    query: Option<String>,
    /// The address without its query, for messages.
    shown: String,
    headers: HeaderMap,
    /// Texts that must not be seen, the longest first.
    secrets: Vec<String>,
    tls: Option<TlsConnector>,
    timeout: Duration,
    /// Bytes of an answer.
    answer_most: usize,
    /// Connections that nobody uses, and since when; the last one was used last.
    idle: Mutex<Vec<(http1::SendRequest<Full<Bytes>>, Instant)>>,
}

impl HttpClient {
    /// Reads secrets and authorities. Connects to nobody.
    ///
    /// # Errors
    /// *Configuration*.
    pub async fn open(
        remote: Remote<'_>,
        context: &ServiceContext,
        places: &Places,
    ) -> Result<HttpClient, Error> {
        let wrong = |code| Error::new(Class::Configuration, code);
        let base: Uri = remote.url.parse().map_err(|_| wrong("connect.http-url"))?;
        let (Some(host), Some(authority)) = (base.host(), base.authority()) else {
            return Err(wrong("connect.http-url"));
        };
        let is_tls = base.scheme_str() == Some("https");
        let tls = match is_tls {
            false => None,
            true => {
                let own = Tls::default();
                let tls = remote.tls.unwrap_or(&own);
                let config = tls::client_config(tls, &context.project_dir, places).await?;
                let mut config = rustls::ClientConfig::clone(&config);
                config.alpn_protocols = vec![remote.alpn.to_vec()];
                Some(TlsConnector::from(Arc::new(config)))
            }
        };
        let (given, project, places) = (
            remote.headers.clone(),
            Arc::clone(&context.project_dir),
            places.clone(),
        );
        // Some stand in files.
        let read = tokio::task::spawn_blocking(move || read_headers(&given, &project, &places));
        let (headers, mut secrets) = read
            .await
            .map_err(|why| wrong("connect.failed-within").caused_by(why))??;
        let query = base.query().map(str::to_owned);
        secrets.extend(query.clone());
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Ok(HttpClient {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: base.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            authority: HeaderValue::from_str(authority.as_str())
                .map_err(|_| wrong("connect.http-url"))?,
            prefix: base.path().trim_end_matches('/').to_owned(),
            query,
            shown: shown_url(remote.url),
            headers,
            secrets,
            tls,
            timeout: remote.timeout,
            answer_most: remote.answer_most,
            idle: Mutex::default(),
        })
    }

    /// Hides one more text in what is shown of answers. Very short ones occur by chance.
    pub(crate) fn keep_secret(&mut self, text: &str) {
        if text.len() >= 4 {
            self.secrets.push(text.to_owned());
            self.secrets
                .sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        }
    }

    /// A request as it goes out.
    pub(crate) fn outgoing(&self, request: &ServiceRequest) -> Result<Request<Full<Bytes>>, Error> {
        let wrong =
            || Error::new(Class::Permanent, "connect.call-path").with("path", &request.path);
        let mut path = self.prefix.clone();
        if !request.path.is_empty() && !request.path.starts_with(['/', '?']) {
            path.push('/');
        }
        path.push_str(&request.path);
        if let Some(query) = &self.query {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(query);
        }
        if !path.starts_with('/') {
            path.insert(0, '/');
        }
        let path: PathAndQuery = path.parse().map_err(|_| wrong())?;
        let mut out = Request::new(Full::new(request.body.clone()));
        *out.method_mut() = request.method.parse().map_err(|_| wrong())?;
        *out.uri_mut() = Uri::from(path);
        let headers = out.headers_mut();
        for (name, value) in &request.headers {
            let name: HeaderName = name.parse().map_err(|_| wrong())?;
            headers.append(name, HeaderValue::from_str(value).map_err(|_| wrong())?);
        }
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
        headers.insert(header::HOST, self.authority.clone());
        Ok(out)
    }

    async fn attempt(&self, request: &ServiceRequest) -> Result<ServiceAnswer, Error> {
        let (answer, mut sender) = self.begun(request).await?;
        let answer = self.whole(answer).await?;
        if sender.ready().await.is_ok() {
            self.rest(sender);
        }
        Ok(answer)
    }

    /// The head of an answer, and the connection that its body comes over.
    async fn begun(&self, request: &ServiceRequest) -> Result<BegunAnswer, Error> {
        let mut request = self.outgoing(request)?;
        loop {
            let (mut sender, used) = match self.rested() {
                Some(sender) => (sender, true),
                None => (self.connect_once().await?, false),
            };
            match sender.try_send_request(request).await {
                Ok(answer) => return Ok((answer, sender)),
                // The other side has closed it meanwhile, and nothing of the request has gone out.
                Err(mut why) => match why.take_message() {
                    Some(unsent) if used => request = unsent,
                    _ => return Err(self.unreachable(why.into_error())),
                },
            }
        }
    }

    /// Sends a request, and hands out the body of its answer as it comes, however large it is; the whole answer where its status
    /// is not one of success. Each piece may take as long as a request.
    ///
    /// # Errors
    /// As [`Service::exchange`].
    pub(crate) async fn in_pieces(
        &self,
        request: &ServiceRequest,
    ) -> Result<Result<AnswerPieces, ServiceAnswer>, Error> {
        self.in_time(async {
            let (answer, sender) = self.begun(request).await?;
            if !answer.status().is_success() {
                return self.whole(answer).await.map(Err);
            }
            let (head, body) = answer.into_parts();
            Ok(Ok(AnswerPieces {
                headers: head.headers,
                body,
                sender: Some(sender),
            }))
        })
        .await
    }

    /// A connection that nobody uses.
    fn rested(&self) -> Option<http1::SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock();
        while let Some((sender, since)) = idle.pop() {
            if since.elapsed() > CALL_IDLE_LONGEST {
                // Those below have rested longer.
                idle.clear();
                return None;
            }
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn rest(&self, sender: http1::SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock();
        if idle.len() < CALL_IDLE_MAX {
            idle.push((sender, Instant::now()));
        }
    }

    async fn connect_once(&self) -> Result<http1::SendRequest<Full<Bytes>>, Error> {
        let io = TokioIo::new(self.connect().await?);
        let (sender, connection) = http1::handshake(io)
            .await
            .map_err(|why| self.unreachable(why))?;
        // Ends with its sender, or when the other side closes it.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    /// Connects, and encrypts.
    ///
    /// # Errors
    /// *Transient*, and *configuration* where the other side is not trusted.
    pub(crate) async fn connect(&self) -> Result<Box<dyn ServiceSocket>, Error> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(|why| self.unreachable(why))?;
        // Requests are small and waited for.
        stream
            .set_nodelay(true)
            .map_err(|why| self.unreachable(why))?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| Error::new(Class::Configuration, "connect.http-url"))?;
        match tls.connect(name, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(why) => Err(match tls::refused(&why) {
                Some(refused) => tls::untrusted(&self.shown, refused),
                None => self.unreachable(why),
            }),
        }
    }

    /// Reads an answer to its end, and its trailers.
    async fn whole(&self, answer: Response<Incoming>) -> Result<ServiceAnswer, Error> {
        let (head, mut body) = answer.into_parts();
        let mut headers = head.headers;
        let announced = headers.get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        // An answer to HEAD has a length and no body.
        if announced.is_some_and(|bytes| bytes > self.answer_most as u64)
            && head.status.is_success()
            && !body.is_end_stream()
        {
            return Err(self.too_large());
        }
        let mut first = Bytes::new();
        let mut more = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|why| self.unreachable(why))?;
            match frame.into_data() {
                Ok(data) if first.is_empty() => first = data,
                Ok(data) => {
                    if more.is_empty() {
                        more.extend_from_slice(&first);
                    }
                    more.extend_from_slice(&data);
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        headers.extend(trailers);
                    }
                }
            }
            if first.len().max(more.len()) > self.answer_most {
                if head.status.is_success() {
                    return Err(self.too_large());
                }
                // The beginning says why; the connection goes with the rest.
                break;
            }
        }
        let body = match more.is_empty() {
            true => first,
            false => more.freeze(),
        };
        let body = match head.status.is_success() {
            true => body,
            false => self.without_secrets(body),
        };
        Ok(ServiceAnswer {
            status: head.status.as_u16(),
            headers,
            body,
        })
    }

    /// The answer is larger than allowed.
    pub(crate) fn too_large(&self) -> Error {
        Error::new(Class::Permanent, "connect.call-answer-large")
            .with("url", &self.shown)
            .with("most", self.answer_most)
    }

    /// Waits for an answer no longer than the connection says.
    ///
    /// # Errors
    /// Those of `attempt`, and *transient* when the time is over.
    pub(crate) async fn in_time<T>(
        &self,
        attempt: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let answered = tokio::time::timeout(self.timeout, attempt).await;
        answered.unwrap_or_else(|_| {
            Err(Error::new(Class::Transient, "connect.call-timeout")
                .with("url", &self.shown)
                .with("seconds", self.timeout.as_secs_f64()))
        })
    }

    /// Hides what was sent in secret where headers of an answer repeat it.
    pub(crate) fn hide(&self, headers: &mut HeaderMap) {
        for value in headers.values_mut() {
            let text = Bytes::copy_from_slice(value.as_bytes());
            let hidden = self.without_secrets(text.clone());
            if hidden != text {
                *value = HeaderValue::from_bytes(&hidden)
                    .unwrap_or_else(|_| HeaderValue::from_static(HIDDEN));
            }
        }
    }

    /// What is shown of a refusal must not repeat what was sent in secret.
    pub(crate) fn without_secrets(&self, body: Bytes) -> Bytes {
        let text = String::from_utf8_lossy(&body);
        match self.repeats_secret(&text) {
            true => hidden(&self.secrets, text.into_owned()).into(),
            false => body,
        }
    }

    /// Whether a text holds what was sent in secret.
    pub(crate) fn repeats_secret(&self, text: &str) -> bool {
        self.secrets.iter().any(|secret| text.contains(secret))
    }

    /// There was no whole answer, and why.
    pub(crate) fn unreachable(&self, why: impl StdError + Send + Sync + 'static) -> Error {
        Error::new(Class::Transient, "connect.http-unreachable")
            .with("url", &self.shown)
            .caused_by(Cause(reason(&why)))
    }
}

/// The head of an answer, and the connection that its body comes over.
type BegunAnswer = (Response<Incoming>, http1::SendRequest<Full<Bytes>>);

/// The body of an answer, as it comes. Dropped before its end, it closes the connection.
pub(crate) struct AnswerPieces {
    pub headers: HeaderMap,
    body: Incoming,
    sender: Option<http1::SendRequest<Full<Bytes>>>,
}

impl AnswerPieces {
    /// The next piece; none behind the last.
    ///
    /// # Errors
    /// *Transient*: it does not come.
    pub(crate) async fn next(&mut self, client: &HttpClient) -> Result<Option<Bytes>, Error> {
        client
            .in_time(async {
                while let Some(frame) = self.body.frame().await {
                    let frame = frame.map_err(|why| client.unreachable(why))?;
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                if let Some(mut sender) = self.sender.take()
                    && sender.ready().await.is_ok()
                {
                    client.rest(sender);
                }
                Ok(None)
            })
            .await
    }
}

impl Service for HttpClient {
    fn exchange<'a>(
        &'a self,
        request: &'a ServiceRequest,
    ) -> Work<'a, Result<ServiceAnswer, Error>> {
        Box::pin(self.in_time(self.attempt(request)))
    }
}

/// A socket, plain or encrypted.
pub(crate) trait ServiceSocket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ServiceSocket for T {}

/// Why there was no answer: what the system says, or that the connection was closed.
#[derive(Debug)]
struct Cause(String);

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Cause {}

/// The innermost error of the operating system, in whose words people look it up; else that of the library.
fn reason(why: &(dyn StdError + 'static)) -> String {
    let mut last = why;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

/// A text without these others, of which longer ones come first.
pub(super) fn hidden(secrets: &[String], text: String) -> String {
    let secrets = secrets.iter();
    secrets.fold(text, |text, secret| text.replace(secret, HIDDEN))
}

type ReadHeaders = (HeaderMap, Vec<String>);

/// The connection's headers, and the texts in them that must not be seen. Blocks on the disk.
pub(super) fn read_headers(
    given: &BTreeMap<String, Secret>,
    project: &std::path::Path,
    places: &Places,
) -> Result<ReadHeaders, Error> {
    let refuse = || Error::new(Class::Configuration, "connect.http-header");
    let mut headers = HeaderMap::new();
    let mut secrets = Vec::new();
    for (name, secret) in given {
        let text = secret.read(project, places)?;
        let mut value = HeaderValue::from_str(&text).map_err(|_| refuse())?;
        value.set_sensitive(true);
        let name: HeaderName = name.parse().map_err(|_| refuse())?;
        if MANAGED.contains(&name) {
            return Err(refuse());
        }
        headers.insert(name, value);
        // `Bearer TOKEN`: the token alone is a secret too. Short words are none.
        let words = text.split_whitespace().map(str::to_owned);
        secrets.extend(words.chain([text.clone()]).filter(|word| word.len() >= 8));
    }
    Ok((headers, secrets))
}

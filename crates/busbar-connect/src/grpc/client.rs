//! The client of gRPC services: HTTP/2, one connection for all requests.

use busbar_connector::{Service, ServiceAnswer, ServiceContext, ServiceRequest, Work};
use busbar_event::{Class, Error};
use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::{Request, Uri, Version, header};

use crate::http::{HttpClient, Remote};
use crate::limits::CALL_ANSWER_BYTES_MAX;
use crate::places::Places;

/// Sends requests to one address.
pub(super) struct GrpcClient {
    http: HttpClient,
    base: Uri,
    shared: tokio::sync::Mutex<SharedSender>,
}

/// The connection that all requests use.
#[derive(Default)]
struct SharedSender {
    sender: Option<SendRequest<Bytes>>,
    /// How many there have been.
    number: u64,
}

impl GrpcClient {
    /// As [`HttpClient::open`].
    pub async fn open(
        remote: Remote<'_>,
        context: &ServiceContext,
        places: &Places,
    ) -> Result<GrpcClient, Error> {
        let base = remote.url.parse();
        let base = base.map_err(|_| Error::new(Class::Configuration, "connect.http-url"))?;
        Ok(GrpcClient {
            http: HttpClient::open(remote, context, places).await?,
            base,
            shared: tokio::sync::Mutex::default(),
        })
    }

    /// A sender that may send; connects where there is none, or where it is closed.
    async fn sender(&self) -> Result<SendRequest<Bytes>, Error> {
        let (sender, number) = {
            let shared = self.shared.lock().await;
            (shared.sender.clone(), shared.number)
        };
        if let Some(sender) = sender
            && let Ok(ready) = sender.ready().await
        {
            return Ok(ready);
        }
        let mut shared = self.shared.lock().await;
        if shared.number == number || shared.sender.is_none() {
            let stream = self.http.connect().await?;
            let (sender, connection) = h2::client::handshake(stream)
                .await
                .map_err(|why| self.http.unreachable(why))?;
            // Ends with its senders, or when the other side closes it.
            tokio::spawn(async move { drop(connection.await) });
            shared.sender = Some(sender);
            shared.number += 1;
        }
        let sender = shared.sender.clone();
        drop(shared);
        match sender {
            Some(sender) => sender
                .ready()
                .await
                .map_err(|why| self.http.unreachable(why)),
            // It was set above.
            None => Err(Error::new(Class::Transient, "connect.failed-within")),
        }
    }

    async fn attempt(&self, request: &ServiceRequest) -> Result<ServiceAnswer, Error> {
        let unreachable = |why: h2::Error| self.http.unreachable(why);
        let (mut head, _) = self.http.outgoing(request)?.into_parts();
        let mut uri = self.base.clone().into_parts();
        uri.path_and_query = head.uri.path_and_query().cloned();
        head.uri = Uri::from_parts(uri).map_err(|_| {
            Error::new(Class::Permanent, "connect.call-path").with("path", &request.path)
        })?;
        head.headers.remove(header::HOST);
        head.version = Version::HTTP_2;
        let mut sender = self.sender().await?;
        let outgoing = Request::from_parts(head, ());
        let (answer, mut stream) = sender.send_request(outgoing, false).map_err(unreachable)?;
        stream
            .send_data(request.body.clone(), true)
            .map_err(unreachable)?;
        let (head, mut body) = answer.await.map_err(unreachable)?.into_parts();
        let mut headers = head.headers;
        let mut data = BytesMut::new();
        while let Some(piece) = body.data().await {
            let piece = piece.map_err(unreachable)?;
            // A stream that was reset meanwhile has no window any more.
            let _ = body.flow_control().release_capacity(piece.len());
            data.extend_from_slice(&piece);
            if data.len() > CALL_ANSWER_BYTES_MAX {
                return Err(self.http.too_large());
            }
        }
        if let Some(trailers) = body.trailers().await.map_err(unreachable)? {
            headers.extend(trailers);
        }
        self.http.hide(&mut headers);
        Ok(ServiceAnswer {
            status: head.status.as_u16(),
            headers,
            body: data.freeze(),
        })
    }
}

impl Service for GrpcClient {
    fn exchange<'a>(
        &'a self,
        request: &'a ServiceRequest,
    ) -> Work<'a, Result<ServiceAnswer, Error>> {
        Box::pin(self.http.in_time(self.attempt(request)))
    }
}

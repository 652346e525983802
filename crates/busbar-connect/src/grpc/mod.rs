//! `grpc`: `call` steps ask gRPC services, one message for each event.
//!
//! ```yaml
//! grpc:
//!   url: https://levels.example:443
//!   proto: |
//!     syntax = "proto3";
//!     package levels;
//!     service Levels { rpc Get (Station) returns (Level); }
//!     message Station { string name = 1; }
//!     message Level { double mm = 1; }
//! ```

mod client;
mod codec;
mod form;
mod proto;
#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeMap;
use std::sync::Arc;

use busbar_bus::Span;
use busbar_catalog::{CallSpec, ConnectionSpec, Diagnostic, Project};
use busbar_connector::{
    CallFault, CallForm, Connector, LiteralSecret, Roles, Service, ServiceContext, Work,
};
use busbar_event::{Class, Error, quote};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::http::{Remote, RemoteOptions, address_secrets, check_remote, telling, ten_seconds};
use crate::places::Places;
use crate::secret::{self, Secret};
use crate::tls::Tls;
use client::GrpcClient;
use form::GrpcForm;
use proto::ProtoFile;

/// The connector.
pub struct Grpc {
    places: Places,
}

/// Is asked by `call` steps over gRPC: unary methods, a message for each event.
///
/// At least once: a request whose answer is lost is sent again with the same `Idempotency-Key`. The codes CANCELLED,
/// DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED and UNAVAILABLE are tried again; after any other the event becomes a dead
/// letter. Messages are not compressed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GrpcOptions {
    /// The address of the server, `http` or `https`.
    url: String,
    /// The text of the `.proto` file that declares the services and their messages. Without imports, groups and extensions.
    proto: String,
    /// Metadata of each request; a value is a text, or `{ env: NAME }` to take it from the environment.
    #[serde(default)]
    headers: BTreeMap<String, Secret>,
    /// Authorities to trust with `https`; by default the usual ones.
    tls: Option<Tls>,
    /// How long a request may take; the service is told.
    #[serde(default = "ten_seconds")]
    timeout: Span,
}

/// Reads what a `.proto` file declares.
///
/// # Errors
/// *Configuration*: what is not understood, and the line.
fn read_proto(text: &str) -> Result<ProtoFile, Error> {
    ProtoFile::parse(text).map_err(|fault| {
        Error::new(Class::Configuration, fault.code)
            .with("line", fault.line)
            .with("word", quote(&fault.word))
    })
}

impl GrpcOptions {
    /// Where the other side is, and how it is reached.
    fn remote(&self) -> RemoteOptions<'_> {
        RemoteOptions {
            url: &self.url,
            headers: &self.headers,
            tls: self.tls.as_ref(),
            timeout: self.timeout,
        }
    }
}

impl Grpc {
    pub(crate) fn new(places: Places) -> Grpc {
        Grpc { places }
    }

    fn options(&self, spec: &ConnectionSpec) -> Result<GrpcOptions, Diagnostic> {
        let options: GrpcOptions = spec.options.read()?;
        check_remote(spec, &options.remote(), &self.places)?;
        read_proto(&options.proto).map_err(|error| spec.options.diagnostic("proto", error))?;
        Ok(options)
    }
}

impl Connector for Grpc {
    fn kind(&self) -> &'static str {
        "grpc"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        self.options(spec).map(|_| Roles {
            service: true,
            ..Roles::default()
        })
    }

    fn schema(&self) -> serde_json::Value {
        schemars::schema_for!(GrpcOptions).to_value()
    }

    fn warnings(&self, spec: &ConnectionSpec, _: &Project) -> Vec<Diagnostic> {
        secret::warnings(spec, &telling(spec, self.secrets(spec)))
    }

    fn secrets(&self, spec: &ConnectionSpec) -> Vec<LiteralSecret> {
        address_secrets(spec)
    }

    fn call_form(
        &self,
        spec: &ConnectionSpec,
        call: &CallSpec,
    ) -> Result<Arc<dyn CallForm>, CallFault> {
        let unusable = |refused: Diagnostic| CallFault::at("connection", refused.error().clone());
        let options = self.options(spec).map_err(unusable)?;
        Ok(Arc::new(GrpcForm::new(&options, call)?))
    }

    fn service<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: ServiceContext,
    ) -> Work<'a, Result<Arc<dyn Service>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let most = crate::limits::CALL_ANSWER_BYTES_MAX;
            let remote = Remote {
                alpn: b"h2",
                ..Remote::of(&options.remote(), most)
            };
            let client = GrpcClient::open(remote, &context, &self.places).await?;
            Ok(Arc::new(client) as Arc<dyn Service>)
        })
    }
}

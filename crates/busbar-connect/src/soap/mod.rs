//! `soap`: `call` steps ask SOAP services.
//!
//! ```yaml
//! soap: { url: "https://water.example/levels", namespaces: { w: "urn:levels" } }
//! ```

mod form;

use std::collections::BTreeMap;
use std::sync::Arc;

use busbar_bus::Span;
use busbar_catalog::{CallSpec, ConnectionSpec, Diagnostic, Project};
use busbar_connector::{
    CallFault, CallForm, Connector, LiteralSecret, Roles, Service, ServiceContext, Work,
};
use busbar_event::Error;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::http::{HttpClient, Remote, RemoteOptions, address_secrets, check_remote, ten_seconds};
use crate::places::Places;
use crate::secret::{self, Secret};
use crate::tls::Tls;
use form::SoapForm;

/// The connector.
pub struct Soap {
    places: Places,
}

/// Is asked by `call` steps over SOAP, a document in an envelope for each event.
///
/// At least once: a request whose answer is lost is sent again with the same `Idempotency-Key`. Faults of the receiver
/// (`Server`, `Receiver`) are tried again; after any other fault the event becomes a dead letter. Statuses without a fault count as with
/// `http`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SoapOptions {
    /// The address of the service, `http` or `https`.
    url: String,
    /// The version of SOAP.
    #[serde(default)]
    version: SoapVersion,
    /// Prefixes that the paths of answers use, with their namespaces.
    #[serde(default)]
    namespaces: BTreeMap<String, String>,
    /// Headers; a value is a text, or `{ env: NAME }` to take it from the environment.
    #[serde(default)]
    headers: BTreeMap<String, Secret>,
    /// Authorities to trust with `https`; by default the usual ones.
    tls: Option<Tls>,
    /// How long a request may take.
    #[serde(default = "ten_seconds")]
    timeout: Span,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
enum SoapVersion {
    #[default]
    #[serde(rename = "1.1")]
    One,
    #[serde(rename = "1.2")]
    Two,
}

impl SoapVersion {
    /// The namespace of its envelope.
    fn namespace(self) -> &'static str {
        match self {
            SoapVersion::One => "http://schemas.xmlsoap.org/soap/envelope/",
            SoapVersion::Two => "http://www.w3.org/2003/05/soap-envelope",
        }
    }
}

impl Soap {
    pub(crate) fn new(places: Places) -> Soap {
        Soap { places }
    }

    fn options(&self, spec: &ConnectionSpec) -> Result<SoapOptions, Diagnostic> {
        let options: SoapOptions = spec.options.read()?;
        let remote = RemoteOptions {
            url: &options.url,
            headers: &options.headers,
            tls: options.tls.as_ref(),
            timeout: options.timeout,
        };
        check_remote(spec, &remote, &self.places)?;
        Ok(options)
    }
}

impl Connector for Soap {
    fn kind(&self) -> &'static str {
        "soap"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        self.options(spec).map(|_| Roles {
            service: true,
            ..Roles::default()
        })
    }

    fn schema(&self) -> serde_json::Value {
        schemars::schema_for!(SoapOptions).to_value()
    }

    fn warnings(&self, spec: &ConnectionSpec, _: &Project) -> Vec<Diagnostic> {
        secret::warnings(spec, &crate::http::telling(spec, self.secrets(spec)))
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
        Ok(Arc::new(SoapForm::new(&options, call)?))
    }

    fn service<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: ServiceContext,
    ) -> Work<'a, Result<Arc<dyn Service>, Error>> {
        Box::pin(async move {
            let options = self.options(spec);
            let options = options.map_err(|refused| refused.error().clone())?;
            let remote = Remote {
                url: &options.url,
                headers: &options.headers,
                tls: options.tls.as_ref(),
                timeout: options.timeout.as_duration(),
                alpn: b"http/1.1",
                answer_most: crate::limits::CALL_ANSWER_BYTES_MAX,
            };
            let client = HttpClient::open(remote, &context, &self.places).await?;
            Ok(Arc::new(client) as Arc<dyn Service>)
        })
    }
}

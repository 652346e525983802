//! `soap`: `call` steps ask SOAP services, and rows go out as calls of an operation.
//!
//! ```yaml
//! soap: { url: "https://water.example/levels", namespaces: { w: "urn:levels" } }
//! soap: { wsdl: levels.wsdl, user: { name: busbar, password: { env: LEVELS_PASSWORD } } }
//! ```

mod answer;
mod fault;
mod form;
mod limits;
mod message;
mod operation;
mod sink;
mod token;
mod wsdl;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::Schema;
use busbar_bus::Span;
use busbar_catalog::{CallSpec, ConnectionSpec, Diagnostic, Project};
use busbar_connector::{
    CallFault, CallForm, Connector, LiteralSecret, Roles, Service, ServiceContext, Sink,
    SinkContext, Work,
};
use busbar_event::{Class, Error, quote};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::http::{Remote, RemoteOptions, address_secrets, check_remote, ten_seconds};
use crate::places::Places;
use crate::secret::{self, Secret};
use crate::tls::Tls;
use form::SoapForm;
use message::ColumnFault;
use sink::SoapSink;
use token::SoapService;
use wsdl::{Wsdl, WsdlOperation};

/// The connector.
pub struct Soap {
    places: Places,
}

/// Is asked by `call` steps over SOAP, a document in an envelope for each event. With `wsdl`, steps name an operation as their
/// `method` and the columns of its message under `send`, which are checked by the types of the WSDL; with `write`, rows of flows
/// are sent to an operation, one call for each row, in order. The messages of a WSDL are literal, in the style document or rpc; an
/// element of an operation's header has the columns `header.NAME.PATH`. All files that a WSDL names lie beside it.
///
/// At least once: a request whose answer is lost is sent again with the same `Idempotency-Key`, also after a crash where the row was
/// made from one event. Faults of the receiver (`Server`, `Receiver`) are tried again; after any other fault the event becomes a dead letter, or goes on with the columns that
/// the step reads from it under `fault`. Statuses without a fault count as with `http`. An answer with status 200 that is no
/// envelope is tried again, too; when a web page has come five times for a row, a flow that writes stops and says so.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SoapOptions {
    /// The address of the service, `http` or `https`; without it, the one in the WSDL.
    url: Option<String>,
    /// A WSDL 1.1 in the connection's folder, `connections/NAME/`.
    wsdl: Option<String>,
    /// The port of the WSDL; without it the first one that speaks SOAP in the wanted version.
    port: Option<String>,
    /// The version of SOAP; without it that of the port, or 1.1.
    version: Option<SoapVersion>,
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
    /// Who asks: a user name token of WS-Security in each request.
    user: Option<SoapUser>,
    /// For flows that write to the connection: the operation that takes the rows. At least once; a fault of the sender makes
    /// a row a dead letter, and one of the receiver when it has come five times for the row.
    write: Option<SoapWrite>,
}

/// A user name token.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SoapUser {
    /// The user.
    name: String,
    /// The password: a text, or `{ env: NAME }` to take it from the environment.
    password: Secret,
    /// Send a digest of the password, with a random number and the time, in place of the password.
    #[serde(default)]
    digest: bool,
}

impl std::fmt::Debug for SoapUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SoapUser")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What takes rows.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SoapWrite {
    /// The operation of the WSDL.
    method: String,
}

/// The other side: what the options and the WSDL say of it.
struct SoapSide {
    url: String,
    version: SoapVersion,
    wsdl: Option<Wsdl>,
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

    fn options(&self, spec: &ConnectionSpec) -> Result<(SoapOptions, SoapSide), Diagnostic> {
        let options: SoapOptions = spec.options.read()?;
        let refuse = |key: &str, code| {
            let error = Error::new(Class::Configuration, code);
            spec.options.diagnostic(key, error)
        };
        let wsdl = match &options.wsdl {
            Some(name) => {
                let read = Wsdl::read(&spec.files, name, options.port.as_deref(), options.version);
                Some(read.map_err(|error| {
                    let names = spec.files.keys().map(String::as_str);
                    let help = busbar_catalog::suggest(name, names);
                    let key = match error.code() {
                        "connect.wsdl-port" => "port",
                        _ => "wsdl",
                    };
                    let is_file = error.code() == "connect.wsdl-file";
                    let diagnostic = spec.options.diagnostic(key, error);
                    diagnostic.with_help(help.filter(|_| is_file))
                })?)
            }
            None if options.port.is_some() => return Err(refuse("port", "connect.soap-no-wsdl")),
            None if options.write.is_some() => return Err(refuse("write", "connect.soap-no-wsdl")),
            None => None,
        };
        let known = wsdl.as_ref().and_then(|wsdl| wsdl.address.clone());
        let url = match (&options.url, &wsdl) {
            (Some(url), _) => url.clone(),
            (None, Some(_)) => known.ok_or_else(|| refuse("wsdl", "connect.wsdl-address"))?,
            (None, None) => return Err(refuse("url", "connect.soap-url")),
        };
        let remote = RemoteOptions {
            url: &url,
            headers: &options.headers,
            tls: options.tls.as_ref(),
            timeout: options.timeout,
        };
        check_remote(spec, &remote, &self.places)?;
        if options
            .user
            .as_ref()
            .is_some_and(|user| user.name.is_empty())
        {
            return Err(refuse("user", "connect.soap-user"));
        }
        let side = SoapSide {
            url,
            version: match &wsdl {
                Some(wsdl) => wsdl.version,
                None => options.version.unwrap_or_default(),
            },
            wsdl,
        };
        if let Some(write) = &options.write {
            side.operation(&write.method).map_err(|wrong| {
                let path = ["write".to_owned(), "method".to_owned()];
                let node = spec.options.at(&path).unwrap_or(spec.options.node());
                let diagnostic = spec.options.diagnostic_at(node, wrong.error);
                diagnostic.with_help(wrong.help)
            })?;
        }
        Ok((options, side))
    }

    async fn open(
        &self,
        options: &SoapOptions,
        side: &SoapSide,
        context: &ServiceContext,
    ) -> Result<SoapService, Error> {
        let remote = Remote {
            url: &side.url,
            headers: &options.headers,
            tls: options.tls.as_ref(),
            timeout: options.timeout.as_duration(),
            alpn: b"http/1.1",
            answer_most: crate::limits::CALL_ANSWER_BYTES_MAX,
        };
        let user = options.user.as_ref();
        SoapService::open(remote, user, side.version, context, &self.places).await
    }

    /// The form in which rows go out.
    fn written(options: &SoapOptions, side: &SoapSide) -> Result<SoapForm, Error> {
        let write = options.write.as_ref();
        let write = write.ok_or_else(|| Error::new(Class::Configuration, "connect.soap-write"))?;
        let operation = side.operation(&write.method);
        let operation = operation.map_err(|wrong| wrong.error)?;
        Ok(SoapForm::of(operation, side))
    }
}

impl SoapSide {
    /// An operation of the WSDL.
    ///
    /// # Errors
    /// There is none of this name, or it cannot be called.
    fn operation(&self, name: &str) -> Result<WsdlOperation, ColumnFault> {
        let fault = |error| ColumnFault { error, help: None };
        let unknown = |known: Vec<&str>| ColumnFault {
            error: Error::new(Class::Configuration, "connect.wsdl-operation")
                .with("name", quote(name)),
            help: busbar_catalog::suggest(name, known),
        };
        match &self.wsdl {
            None => Err(fault(Error::new(
                Class::Configuration,
                "connect.soap-no-wsdl",
            ))),
            Some(wsdl) => {
                let found = wsdl.operation(name).map_err(fault)?;
                found.ok_or_else(|| unknown(wsdl.names()))
            }
        }
    }
}

/// The columns that rows have besides those of the payload, where no step has made them anew.
const ENVELOPE: [&str; 4] = ["topic", "key", "time", "tags"];

impl Connector for Soap {
    fn kind(&self) -> &'static str {
        "soap"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        self.options(spec).map(|(options, _)| Roles {
            source: false,
            sink: options.write.is_some(),
            service: true,
        })
    }

    fn schema(&self) -> serde_json::Value {
        schemars::schema_for!(SoapOptions).to_value()
    }

    fn warnings(&self, spec: &ConnectionSpec, _: &Project) -> Vec<Diagnostic> {
        secret::warnings(spec, &crate::http::telling(spec, self.secrets(spec)))
    }

    fn secrets(&self, spec: &ConnectionSpec) -> Vec<LiteralSecret> {
        let mut secrets = address_secrets(spec);
        secrets.extend(secret::literals(spec, &[&["user", "password"]]));
        secrets
    }

    fn call_form(
        &self,
        spec: &ConnectionSpec,
        call: &CallSpec,
    ) -> Result<Arc<dyn CallForm>, CallFault> {
        let unusable = |refused: Diagnostic| CallFault::at("connection", refused.error().clone());
        let (options, side) = self.options(spec).map_err(unusable)?;
        Ok(Arc::new(SoapForm::new(&options, &side, call)?))
    }

    fn check_rows(&self, spec: &ConnectionSpec, columns: &Schema) -> Result<(), Error> {
        // What is wrong with the connection is said there.
        let Ok((options, side)) = self.options(spec) else {
            return Ok(());
        };
        let form = Soap::written(&options, &side)?;
        let sent = columns.fields().iter();
        let sent = sent
            .filter(|field| form.sends(field.name()) || !ENVELOPE.contains(&field.name().as_str()));
        let sent = Schema::new(sent.cloned().collect::<Vec<_>>());
        form.check_columns(&sent).map_err(|wrong| wrong.error)
    }

    fn service<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: ServiceContext,
    ) -> Work<'a, Result<Arc<dyn Service>, Error>> {
        Box::pin(async move {
            let (options, side) = self.options(spec)?;
            let service = self.open(&options, &side, &context).await?;
            Ok(Arc::new(service) as Arc<dyn Service>)
        })
    }

    fn sink<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SinkContext,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>> {
        Box::pin(async move {
            let (options, side) = self.options(spec)?;
            let form = Soap::written(&options, &side)?;
            self.check_rows(spec, &context.schema)?;
            let service = ServiceContext::from(&context);
            let service = self.open(&options, &side, &service).await?;
            let sink = SoapSink::new(service, form, &context.schema);
            Ok(Box::new(sink) as Box<dyn Sink>)
        })
    }
}

//! `hbase`: an HBase cluster, through its Thrift server. Wide tables are kept in it.
//!
//! ```yaml
//! hbase:
//!   address: "hbase.example:9090"
//! ```

mod calls;
mod cells;
mod failure;
mod limits;
mod link;
mod survey;
mod wire;

use std::sync::Arc;

use busbar_bus::Span;
use busbar_catalog::{ConnectionSpec, Diagnostic};
use busbar_connector::limits::{POOL_SESSIONS, POOL_SESSIONS_MAX};
use busbar_connector::{CellDatabase, Connector, Roles, ServiceContext, Survey, Work};
use busbar_event::{Class, Error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::places::Places;
use crate::secret::refuse_placeholder;
use crate::tls::Tls;
use cells::HbaseCells;
use link::HbaseServer;

/// The connector.
pub struct Hbase {
    places: Places,
}

/// An HBase cluster of version 2.1 and newer, through its Thrift 2 server (`hbase thrift2 start`) with the binary protocol.
/// Wide tables whose file names the connection are kept in it, each write exactly once: see `wide`. The server asks for no
/// password; who reaches it may do what the server's own user may.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Host and port of the Thrift server.
    address: String,
    /// Whether the server expects the length before each message: `true` for one that was started with `-framed`, `-nonblocking`
    /// or `-hsha`.
    #[serde(default)]
    framed: bool,
    /// TLS; `{}` trusts the usual authorities.
    tls: Option<Tls>,
    /// How long a call may take.
    #[serde(default = "half_a_minute")]
    timeout: Span,
    /// The most sessions that are open at a time.
    #[serde(default = "pool_sessions")]
    sessions: u16,
}

fn pool_sessions() -> u16 {
    POOL_SESSIONS
}

fn half_a_minute() -> Span {
    Span::from_micros(30_000_000)
}

impl Hbase {
    pub(crate) fn new(places: Places) -> Hbase {
        Hbase { places }
    }

    fn options(&self, spec: &ConnectionSpec) -> Result<Options, Diagnostic> {
        refuse_placeholder(spec, &["address"])?;
        let options: Options = spec.options.read()?;
        let refuse = |key: &str, error| Err(spec.options.diagnostic(key, error));
        let new = |code| Error::new(Class::Configuration, code);
        let port = options.address.rsplit_once(':').and_then(|(host, port)| {
            (!host.is_empty())
                .then(|| port.parse::<u16>().ok())
                .flatten()
        });
        if port.is_none_or(|port| port == 0) {
            return refuse("address", new("hbase.address"));
        }
        let timeout = options.timeout.as_duration();
        if timeout.is_zero() || timeout > limits::TIMEOUT_MAX {
            let error = new("hbase.timeout").with("most_s", limits::TIMEOUT_MAX.as_secs());
            return refuse("timeout", error);
        }
        if let Some(ca) = options.tls.as_ref().and_then(|tls| tls.ca.as_deref()) {
            let checked = self.places.check(ca);
            checked.map_err(|code| spec.options.diagnostic("tls", new(code)))?;
        }
        if options.sessions == 0 || options.sessions > POOL_SESSIONS_MAX {
            let error = new("database.sessions").with("most", POOL_SESSIONS_MAX);
            return refuse("sessions", error);
        }
        Ok(options)
    }

    fn server(&self, options: &Options, project: &Arc<std::path::Path>) -> HbaseServer {
        HbaseServer {
            address: options.address.as_str().into(),
            framed: options.framed,
            tls: options.tls.clone(),
            timeout: options.timeout.as_duration(),
            project: Arc::clone(project),
            places: self.places.clone(),
        }
    }
}

impl Connector for Hbase {
    fn kind(&self) -> &'static str {
        "hbase"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        self.options(spec).map(|_| Roles::default())
    }

    fn schema(&self) -> serde_json::Value {
        schemars::schema_for!(Options).to_value()
    }

    fn survey<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        project_dir: Arc<std::path::Path>,
        tables: bool,
    ) -> Work<'a, Result<Survey, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            survey::survey(&self.server(&options, &project_dir), tables).await
        })
    }

    fn keeps_cells(&self) -> bool {
        true
    }

    fn cells<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: ServiceContext,
    ) -> Work<'a, Result<Arc<dyn CellDatabase>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let server = self.server(&options, &context.project_dir);
            let cells = HbaseCells::new(&context.name, server, options.sessions);
            Ok(Arc::new(cells) as Arc<dyn CellDatabase>)
        })
    }
}

//! Databases behind drivers that are loaded by a process of their own, the worker: what `jdbc` and `odbc` have in common.
//!
//! A worker speaks with the node in frames of JSON (`frame`), has sessions with the database (`session`), and says of each
//! failure what kind it is (`failure`). Which program it is and what it is started with is the connector's affair
//! ([`DriverKind`]); everything else is here.

mod cells;
pub mod codes;
mod database;
mod dialect;
mod failure;
mod frame;
mod hidden;
pub mod limits;
mod options;
mod poll;
mod query;
mod row;
mod rows;
mod session;
mod sink;
mod survey;
mod types;
mod worker;

use std::path::Path;
use std::sync::{Arc, Weak};

use busbar_catalog::{ConnectionSpec, Diagnostic, Node, Project, Value};
use busbar_connector::{
    Connector, Guarantee, HIDDEN, LiteralSecret, OrderedRows, Roles, ServiceContext, Sink,
    SinkContext, Source, SourceContext, SqlDatabase, Survey, TableRead, Work,
};
use busbar_event::{Class, Error};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

pub use dialect::DriverDialectName;
pub use options::{DriverUse, PollOptions, QueryOptions, half_a_minute, memory, sessions};
pub use types::sql;
pub use worker::DriverLogin;

use crate::places::Places;
use crate::secret::{self, Secret, refuse_placeholder};
use database::DriverDatabase;
use poll::DriverPollSource;
use query::DriverQuerySource;
use sink::DriverSink;
use worker::DriverWorker;

/// What tells a connector of this family from the others: its options, and how its worker is started.
pub trait DriverKind: Send + Sync + 'static {
    /// The options of a connection's file.
    type Options: DeserializeOwned + JsonSchema + Send + Sync;
    /// The connection's kind.
    const KIND: &'static str;
    /// The key of the database's address.
    const ADDRESS: &'static str;
    /// The key of the driver.
    const DRIVER: &'static str;

    /// What the options say of how the connection is used.
    fn used(options: &Self::Options) -> DriverUse;

    /// Those of the options that are secrets, with their keys.
    fn secrets(options: &Self::Options) -> Vec<(&'static str, &Secret)>;

    /// What is wrong with options of the kind itself: the key, and the error.
    fn fault(options: &Self::Options, places: &Places) -> Option<(&'static str, Error)>;

    /// What a worker is started with. Blocks on the disk for a moment.
    ///
    /// # Errors
    /// *Configuration*: a driver or a secret is not there.
    fn login(
        options: &Self::Options,
        project: &Path,
        places: &Places,
    ) -> Result<DriverLogin, Error>;

    /// What is missing on this machine, if anything is.
    fn missing() -> Option<Error>;
}

/// A connector of this family.
pub struct Driven<K: DriverKind> {
    places: Places,
    /// Those that somebody uses.
    workers: Mutex<Vec<Weak<DriverWorker>>>,
    kind: std::marker::PhantomData<K>,
}

impl<K: DriverKind> Driven<K> {
    pub(crate) fn new(places: Places) -> Driven<K> {
        Driven {
            places,
            workers: Mutex::default(),
            kind: std::marker::PhantomData,
        }
    }

    fn options(&self, spec: &ConnectionSpec) -> Result<K::Options, Diagnostic> {
        for key in [K::ADDRESS, "user", "password"] {
            refuse_placeholder(spec, &[key])?;
        }
        let options: K::Options = spec.options.read()?;
        match self.fault(&options) {
            None => Ok(options),
            Some((key, error)) => Err(spec.options.diagnostic(key, error)),
        }
    }

    /// What is wrong with it: the key, and the error.
    fn fault(&self, options: &K::Options) -> Option<(&'static str, Error)> {
        let own = K::fault(options, &self.places);
        let secret = || {
            K::secrets(options).into_iter().find_map(|(key, secret)| {
                let refused = self.places.check(secret.file()?).err()?;
                Some((key, Error::new(Class::Configuration, refused)))
            })
        };
        own.or_else(secret).or_else(|| K::used(options).fault())
    }

    fn opened(&self, spec: &ConnectionSpec) -> Result<K::Options, Error> {
        self.options(spec)
            .map_err(|refused| refused.error().clone())
    }

    /// The process for these options, shared with all that use it. Blocks on the disk for a moment.
    fn worker(&self, options: &K::Options, project: &Path) -> Result<Arc<DriverWorker>, Error> {
        let login = K::login(options, project, &self.places)?;
        let mut workers = self.workers.lock();
        workers.retain(|worker| worker.strong_count() > 0);
        let known = workers.iter().filter_map(Weak::upgrade);
        if let Some(worker) = known.into_iter().find(|worker| worker.login == login) {
            return Ok(worker);
        }
        let worker = Arc::new(DriverWorker::new(login));
        workers.push(Arc::downgrade(&worker));
        Ok(worker)
    }
}

impl<K: DriverKind> Connector for Driven<K> {
    fn kind(&self) -> &'static str {
        K::KIND
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        let used = K::used(&self.options(spec)?);
        used.topic(spec)?;
        Ok(Roles {
            source: used.poll.is_some() || used.query.is_some(),
            sink: used.write.is_some(),
            service: true,
        })
    }

    fn schema(&self) -> serde_json::Value {
        schemars::schema_for!(K::Options).to_value()
    }

    fn warnings(&self, spec: &ConnectionSpec, _: &Project) -> Vec<Diagnostic> {
        let mut warnings = secret::warnings(spec, &self.secrets(spec));
        if let Some(missing) = K::missing() {
            warnings.push(spec.options.diagnostic(K::DRIVER, missing).warning());
        }
        warnings
    }

    fn secrets(&self, spec: &ConnectionSpec) -> Vec<LiteralSecret> {
        let literal = |node: &Node| !matches!(node.value, Value::Map(_) | Value::Null);
        let secret = |path: &[&str]| LiteralSecret {
            path: path.iter().map(|key| (*key).to_owned()).collect(),
            shown: HIDDEN.into(),
        };
        let mut secrets = Vec::new();
        let options = spec.options.node();
        if options.child("password".into()).is_some_and(literal) {
            secrets.push(secret(&["password"]));
        }
        let Some(properties) = options.child("properties".into()) else {
            return secrets;
        };
        let Value::Map(entries) = &properties.value else {
            return secrets;
        };
        for (key, value) in entries {
            let name = key.text.to_lowercase();
            let hidden = ["password", "passwd", "pwd", "secret", "token"];
            if literal(value) && hidden.iter().any(|word| name.contains(word)) {
                secrets.push(secret(&["properties", &key.text]));
            }
        }
        secrets
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn is_database(&self) -> bool {
        true
    }

    fn database<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: ServiceContext,
    ) -> Work<'a, Result<Arc<dyn SqlDatabase>, Error>> {
        Box::pin(async move {
            let options = self.opened(spec)?;
            let worker = self.worker(&options, &context.project_dir)?;
            let dialect = K::used(&options).dialect;
            let database = DriverDatabase::new(&context.name, worker, dialect).await?;
            Ok(Arc::new(database) as Arc<dyn SqlDatabase>)
        })
    }

    fn survey<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        project_dir: Arc<Path>,
        tables: bool,
    ) -> Work<'a, Result<Survey, Error>> {
        Box::pin(async move {
            let options = self.opened(spec)?;
            let worker = self.worker(&options, &project_dir)?;
            survey::survey(&worker, tables).await
        })
    }

    fn read_table<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        project_dir: Arc<Path>,
        read: TableRead,
    ) -> Work<'a, Result<Box<dyn OrderedRows>, Error>> {
        Box::pin(async move {
            let options = self.opened(spec)?;
            let worker = self.worker(&options, &project_dir)?;
            let rows = rows::DriverRows::open(&worker, K::used(&options).dialect, &read).await?;
            Ok(Box::new(rows) as Box<dyn OrderedRows>)
        })
    }

    fn source<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SourceContext,
    ) -> Work<'a, Result<Box<dyn Source>, Error>> {
        Box::pin(async move {
            let options = self.opened(spec)?;
            let used = K::used(&options);
            let topic = used
                .topic(spec)
                .map_err(|refused| refused.error().clone())?;
            let open = || self.worker(&options, &context.project_dir);
            if let Some(poll) = used.poll {
                let worker = open()?;
                let source =
                    DriverPollSource::open(worker, used.dialect, poll, &topic, context).await?;
                return Ok(Box::new(source) as Box<dyn Source>);
            }
            let Some(query) = used.query else {
                let error = Error::new(Class::Configuration, "connect.no-source");
                return Err(error.with("kind", K::KIND));
            };
            let worker = open()?;
            let source = DriverQuerySource::open(worker, query, &topic, context).await?;
            Ok(Box::new(source) as Box<dyn Source>)
        })
    }

    fn sink<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SinkContext,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>> {
        Box::pin(async move {
            let options = self.opened(spec)?;
            let used = K::used(&options);
            let Some(write) = used.write else {
                let error = Error::new(Class::Configuration, "connect.no-sink");
                return Err(error.with("kind", K::KIND));
            };
            let worker = self.worker(&options, &context.project_dir)?;
            let sink = DriverSink::open(worker, used.dialect, write, context).await?;
            Ok(Box::new(sink) as Box<dyn Sink>)
        })
    }
}

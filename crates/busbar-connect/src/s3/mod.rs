//! `s3`: objects in a bucket of Amazon S3 or of a service with its interface, such as MinIO or Ceph.
//!
//! ```yaml
//! s3:
//!   url: "https://s3.eu-central-1.amazonaws.com"
//!   region: eu-central-1
//!   bucket: events
//!   access_key: { env: S3_ACCESS_KEY }
//!   secret_key: { env: S3_SECRET_KEY }
//!   write: { prefix: alarms/ }
//! ```

mod gzip;
mod limits;
mod link;
mod sign;
mod sink;
mod source;

use std::collections::BTreeMap;
use std::sync::Arc;

use busbar_bus::Span;
use busbar_catalog::{ConnectionSpec, Diagnostic, Project};
use busbar_connector::{
    Connector, Guarantee, LiteralSecret, Roles, ServiceContext, Sink, SinkContext, Source,
    SourceContext, Survey, Work,
};
use busbar_event::{Class, Error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::http::{RemoteOptions, check_remote};
use crate::places::Places;
use crate::secret::{self, Secret, refuse_placeholder};
use crate::tls::Tls;
use crate::topic::TopicTemplate;
use crate::{lacks_sink, lacks_source};
use link::S3Link;
use sink::S3Sink;
use source::S3Source;

/// The connector.
pub struct S3 {
    places: Places,
}

/// A bucket of Amazon S3, or of a service with its interface. The bucket is named in the path of the address.
///
/// As a sink: exactly once. Each batch is one object with a JSON document on each line, and no object is ever replaced. Its key
/// is `PREFIX/PRODUCER/FROM-TRY.ndjson`, where FROM is the position behind the object before; the position behind its own rows
/// stands in its metadata. Each start creates an empty object first, in the place where a request of the process before might
/// still arrive. That takes a service that heeds `If-None-Match` when an object is put, as Amazon S3, MinIO and Ceph do; one that
/// does not is recognised and refused. The last object of each producer must stay, with its metadata, and two nodes need
/// different prefixes. A payload that is text but not JSON is written as a JSON string; one that is not even text becomes a
/// dead letter.
///
/// As a source: the lines of objects in the order of their keys, at least once. Objects whose keys end with `.gz` are
/// decompressed. An object with a smaller key than one that has been read does not come, so that keys must grow, as those
/// with a time in front do. What was not read of an object that is replaced or removed meanwhile is lost, and an error says
/// so.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3Options {
    /// The address of the service, `http` or `https`, without the bucket.
    url: String,
    /// The bucket.
    bucket: String,
    /// The region that requests are signed for.
    #[serde(default = "first_region")]
    region: String,
    /// The access key; without it requests are not signed.
    access_key: Option<Secret>,
    /// The secret key: a text, `{ env: NAME }` or `{ file: PATH }`.
    secret_key: Option<Secret>,
    /// Authorities to trust with `https`; by default the usual ones.
    tls: Option<Tls>,
    /// How long a request may take.
    #[serde(default = "a_minute")]
    timeout: Span,
    /// Objects to read; makes the connection a source.
    read: Option<S3Read>,
    /// Where objects are written; makes the connection a sink.
    write: Option<S3Write>,
}

/// Which objects are read. The connection's `topic` may use `${key}` and `${connection}`. Each line is an event.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct S3Read {
    /// What the keys of the objects begin with; all objects without it.
    #[serde(default)]
    prefix: String,
    /// Pause before the next look when there was nothing new.
    #[serde(default = "half_a_minute")]
    every: Span,
}

/// How objects are written.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct S3Write {
    /// What the keys of the objects begin with, such as `alarms/`.
    prefix: String,
    /// How objects are compressed. Give another prefix with another one.
    #[serde(default)]
    compression: ObjectCompression,
}

/// How objects are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ObjectCompression {
    /// Not at all.
    #[default]
    None,
    /// gzip; the keys end with `.ndjson.gz`.
    Gzip,
}

fn first_region() -> String {
    "us-east-1".to_owned()
}

fn a_minute() -> Span {
    Span::from_micros(60_000_000)
}

fn half_a_minute() -> Span {
    Span::from_micros(30_000_000)
}

impl S3 {
    pub(crate) fn new(places: Places) -> S3 {
        S3 { places }
    }

    fn options(&self, spec: &ConnectionSpec) -> Result<S3Options, Diagnostic> {
        for key in ["bucket", "region", "access_key", "secret_key"] {
            refuse_placeholder(spec, &[key])?;
        }
        let options: S3Options = spec.options.read()?;
        let headers = BTreeMap::new();
        let remote = RemoteOptions {
            url: &options.url,
            headers: &headers,
            tls: options.tls.as_ref(),
            timeout: options.timeout,
        };
        check_remote(spec, &remote, &self.places)?;
        let refuse = |key: &str, code| {
            let error = Error::new(Class::Configuration, code);
            spec.options.diagnostic(key, error)
        };
        if options.url.contains(['?', '#']) {
            return Err(refuse("url", "s3.url"));
        }
        if options.bucket.is_empty() || options.bucket.contains('/') {
            return Err(refuse("bucket", "s3.bucket"));
        }
        let secrets = [
            ("access_key", &options.access_key),
            ("secret_key", &options.secret_key),
        ];
        for (key, secret) in secrets {
            if let Some(file) = secret.as_ref().and_then(Secret::file) {
                self.places.check(file).map_err(|code| refuse(key, code))?;
            }
        }
        match (&options.access_key, &options.secret_key) {
            (Some(_), None) => return Err(refuse("access_key", "s3.keys")),
            (None, Some(_)) => return Err(refuse("secret_key", "s3.keys")),
            _ => {}
        }
        let at = |part: &str, option: &str, error| match spec
            .options
            .at(&[part.to_owned(), option.to_owned()])
        {
            Some(node) => spec.options.diagnostic_at(node, error),
            None => spec.options.diagnostic(part, error),
        };
        match (&options.read, &options.write) {
            (None, None) | (Some(_), Some(_)) => return Err(refuse("write", "s3.no-role")),
            (Some(read), None) => {
                self.topic(spec)?;
                if read.every.as_duration().is_zero() {
                    let error = Error::new(Class::Configuration, "s3.every");
                    return Err(at("read", "every", error));
                }
            }
            (None, Some(write)) => {
                if !write.prefix.ends_with('/') || write.prefix.starts_with('/') {
                    let error = Error::new(Class::Configuration, "s3.prefix");
                    return Err(at("write", "prefix", error));
                }
            }
        }
        Ok(options)
    }

    fn topic(&self, spec: &ConnectionSpec) -> Result<TopicTemplate, Diagnostic> {
        TopicTemplate::read(spec, "s3/${connection}", &["connection", "key"])
    }
}

impl Connector for S3 {
    fn kind(&self) -> &'static str {
        "s3"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        let options = self.options(spec)?;
        Ok(Roles {
            source: options.read.is_some(),
            sink: options.write.is_some(),
            service: false,
        })
    }

    fn schema(&self) -> serde_json::Value {
        schemars::schema_for!(S3Options).to_value()
    }

    fn warnings(&self, spec: &ConnectionSpec, _: &Project) -> Vec<Diagnostic> {
        secret::warnings(spec, &self.secrets(spec))
    }

    fn secrets(&self, spec: &ConnectionSpec) -> Vec<LiteralSecret> {
        secret::literals(spec, &[&["secret_key"]])
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn survey<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        project_dir: Arc<std::path::Path>,
        _: bool,
    ) -> Work<'a, Result<Survey, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let context = ServiceContext::unnamed(project_dir);
            let link = S3Link::open(&options, &context, &self.places).await?;
            let prefix = match (&options.read, &options.write) {
                (Some(read), _) => read.prefix.as_str(),
                (None, Some(write)) => write.prefix.as_str(),
                (None, None) => "",
            };
            link.list(prefix, "", true).await?;
            Ok(Survey {
                server: "S3".to_owned(),
                tables: Vec::new(),
            })
        })
    }

    fn source<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SourceContext,
    ) -> Work<'a, Result<Box<dyn Source>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let read = options
                .read
                .clone()
                .ok_or_else(|| lacks_source(self.kind()))?;
            let topic = self.topic(spec)?;
            let with = ServiceContext::from(&context);
            let link = S3Link::open(&options, &with, &self.places).await?;
            Ok(Box::new(S3Source::new(link, read, topic, &context)) as Box<dyn Source>)
        })
    }

    fn sink<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SinkContext,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            let write = options
                .write
                .clone()
                .ok_or_else(|| lacks_sink(self.kind()))?;
            let with = ServiceContext::from(&context);
            let link = S3Link::open(&options, &with, &self.places).await?;
            Ok(Box::new(S3Sink::new(link, write)?) as Box<dyn Sink>)
        })
    }
}

//! `mqtt`: a bridge to another broker, in either direction.
//!
//! ```yaml
//! mqtt: { address: "plant.example:1883", subscribe: ["meter/#"] }     # a source
//! topic: plant/${topic}
//! ```
//! ```yaml
//! mqtt: { address: "head.example:8883", tls: {}, publish: "site-7/${topic}" }   # a sink
//! ```

mod link;
mod message;
mod sink;
mod source;
mod task;
mod wire;

use busbar_bus::Span;
use busbar_catalog::{ConnectionSpec, Diagnostic, Project};
use busbar_connector::{
    Connector, LiteralSecret, Roles, Sink, SinkContext, Source, SourceContext, Work,
};
use busbar_event::topic::Filter;
use busbar_event::{Class, Error};
use busbar_mqtt::Version;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::places::Places;
use crate::secret::{self, Secret, refuse_placeholder};
use crate::tls::Tls;
use crate::topic::TopicTemplate;
use crate::{lacks_sink, lacks_source};
use sink::MqttSink;
use source::MqttSource;

/// The connector.
pub struct Mqtt {
    places: Places,
}

/// A bridge to another MQTT broker.
///
/// At least once in either direction: incoming messages are acknowledged to the other broker once they are in a stream;
/// outgoing rows are published with QoS 1 and are done once the other broker has acknowledged them. While the bridge is
/// not connected the other broker keeps its session; messages with QoS 0 are lost meanwhile.
///
/// Retain flag, user properties, content type, response topic, correlation data and the rest of the message expiry are
/// forwarded; an expired row is not sent. A row becomes a dead letter when the other broker refuses it permanently, when
/// it is larger than the broker accepts, or when the broker closes the connection on it five times in a row. A topic that
/// is not valid for an event (too many levels) is shortened; the original is kept in the tag `original-topic`.
///
/// Bridges that form a cycle would forward a message forever. With version 5.0 each bridge increments the user property
/// `busbar-hops`, and a message that has passed sixteen bridges becomes a dead letter; with 3.1.1 a bridge must not
/// subscribe to what another bridge sends back.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Host and port of the broker.
    address: String,
    /// TLS; `{}` trusts the usual authorities. A certificate that none of them has signed, or that is for another name
    /// than the host in `address`, stops the connection until its options are changed.
    tls: Option<Tls>,
    /// Version of the protocol.
    #[serde(default)]
    version: ProtocolVersion,
    /// Client identifier; by default `busbar-` and the connection's name. Two nodes that bridge to one broker need
    /// different identifiers. For the second and further partitions or flows of a sink a number is appended.
    client_id: Option<String>,
    /// User name.
    user: Option<String>,
    /// Password, a text or `{ env: NAME }`.
    password: Option<Secret>,
    /// Filters to subscribe to; makes the connection a source. `$share/GROUP/FILTER` shares.
    #[serde(default)]
    subscribe: Vec<Filter>,
    /// Topic to publish rows on, a template over `topic`; makes the connection a sink.
    publish: Option<String>,
    /// Highest quality of service to subscribe with.
    #[serde(default = "qos_1")]
    #[schemars(range(max = 2))]
    qos: u8,
    /// How long the other broker keeps the session while the bridge is not connected.
    #[serde(default = "one_day")]
    session_expiry: Span,
    /// Keep-alive interval.
    #[serde(default = "half_a_minute")]
    keep_alive: Span,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
enum ProtocolVersion {
    #[serde(rename = "3.1.1")]
    V311,
    #[default]
    #[serde(rename = "5.0")]
    V5,
}

impl From<ProtocolVersion> for Version {
    fn from(version: ProtocolVersion) -> Version {
        match version {
            ProtocolVersion::V311 => Version::V311,
            ProtocolVersion::V5 => Version::V5,
        }
    }
}

fn qos_1() -> u8 {
    1
}

fn one_day() -> Span {
    Span::from_micros(86_400_000_000)
}

fn half_a_minute() -> Span {
    Span::from_micros(30_000_000)
}

const OFFERED: [&str; 1] = ["topic"];

impl Options {
    /// Whether a topic is subscribed to.
    fn selects(&self, topic: &str) -> bool {
        self.subscribe.iter().any(|filter| match shared(filter) {
            Some(filter) => Filter::parse(filter).is_ok_and(|filter| filter.matches(topic)),
            None => filter.matches(topic),
        })
    }
}

/// The filter that a shared subscription shares.
fn shared(filter: &Filter) -> Option<&str> {
    let (_, filter) = filter.as_str().strip_prefix("$share/")?.split_once('/')?;
    Some(filter)
}

impl Mqtt {
    pub(crate) fn new(places: Places) -> Mqtt {
        Mqtt { places }
    }

    fn options(&self, spec: &ConnectionSpec) -> Result<Options, Diagnostic> {
        for key in ["address", "client_id", "user", "password"] {
            refuse_placeholder(spec, &[key])?;
        }
        let options: Options = spec.options.read()?;
        let refuse = |key: &str, code| {
            spec.options
                .diagnostic(key, Error::new(Class::Configuration, code))
        };
        let port = options.address.rsplit_once(':').and_then(|(host, port)| {
            (!host.is_empty())
                .then(|| port.parse::<u16>().ok())
                .flatten()
        });
        if port.is_none_or(|port| port == 0) {
            return Err(refuse("address", "connect.mqtt-address"));
        }
        if options.qos > 2 {
            return Err(refuse("qos", "connect.mqtt-qos"));
        }
        if options.subscribe.is_empty() == options.publish.is_none() {
            return Err(refuse("subscribe", "connect.mqtt-subscribe-or-publish"));
        }
        let keep_alive = options.keep_alive.as_duration().as_secs();
        if !(1..=u64::from(u16::MAX)).contains(&keep_alive) {
            return Err(refuse("keep_alive", "connect.mqtt-keep-alive"));
        }
        if options.password.is_some() && options.user.is_none() {
            return Err(refuse("password", "connect.mqtt-user"));
        }
        if let Some(ca) = options.tls.as_ref().and_then(|tls| tls.ca.as_deref()) {
            self.places.check(ca).map_err(|code| refuse("tls", code))?;
        }
        Ok(options)
    }

    /// The template of outgoing topics, read as a connection's topic is.
    fn publish_topic(
        spec: &ConnectionSpec,
        options: &Options,
    ) -> Result<TopicTemplate, Diagnostic> {
        let spec = ConnectionSpec {
            topic: options.publish.clone(),
            ..spec.clone()
        };
        TopicTemplate::read(&spec, "${topic}", &OFFERED)
    }
}

impl Connector for Mqtt {
    fn kind(&self) -> &'static str {
        "mqtt"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        let options = self.options(spec)?;
        Mqtt::publish_topic(spec, &options)?;
        TopicTemplate::read(spec, "${topic}", &OFFERED)?;
        Ok(Roles {
            source: !options.subscribe.is_empty(),
            sink: options.publish.is_some(),
            service: false,
        })
    }

    fn schema(&self) -> serde_json::Value {
        schemars::schema_for!(Options).to_value()
    }

    fn warnings(&self, spec: &ConnectionSpec, _: &Project) -> Vec<Diagnostic> {
        secret::warnings(spec, &self.secrets(spec))
    }

    fn secrets(&self, spec: &ConnectionSpec) -> Vec<LiteralSecret> {
        secret::literals(spec, &[&["password"]])
    }

    fn source<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SourceContext,
    ) -> Work<'a, Result<Box<dyn Source>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            if options.subscribe.is_empty() {
                return Err(lacks_source(self.kind()));
            }
            let topic = TopicTemplate::read(spec, "${topic}", &OFFERED)?;
            Ok(Box::new(MqttSource::new(
                options,
                topic,
                context,
                self.places.clone(),
            )) as Box<dyn Source>)
        })
    }

    fn sink<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SinkContext,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>> {
        Box::pin(async move {
            let options = self.options(spec)?;
            if options.publish.is_none() {
                return Err(lacks_sink(self.kind()));
            }
            let topic = Mqtt::publish_topic(spec, &options)?;
            Ok(
                Box::new(MqttSink::new(options, topic, context, self.places.clone()))
                    as Box<dyn Sink>,
            )
        })
    }
}

//! Settings of the process and their defaults; `settings.rs` reads them.

use std::path::PathBuf;

use busbar_bus::{Size, Span};
use schemars::JsonSchema;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// All settings, with their defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// AMQP 0-9-1 and 1.0.
    pub amqp: AmqpConfig,
    /// Where data is kept.
    pub data: DataConfig,
    /// What happens when a project is deployed.
    pub deploy: DeployConfig,
    /// Which files connections may use.
    pub files: FilesConfig,
    /// HTTP: API, console, WebSocket.
    pub http: HttpConfig,
    /// MQTT.
    pub mqtt: MqttConfig,
    /// Bounds.
    pub limits: LimitsConfig,
    /// What the process says of itself.
    pub log: LogConfig,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// The data folder; a relative path starts at the project's folder.
    pub dir: PathBuf,
    /// Bytes of a segment of a stream before the next one is begun.
    pub segment_size: Size,
    /// Recent frames kept in memory for each partition.
    pub cache_size: Size,
}

/// `[deploy]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeployConfig {
    /// What a flow test that fails does to a deployment: `warn` (it is deployed with a warning) or `refuse`.
    pub failing_tests: FailingTests,
}

/// What a flow test that fails does to a deployment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FailingTests {
    /// The project is deployed, and the failure is a warning.
    #[default]
    Warn,
    /// The project is refused.
    Refuse,
}

/// `[files]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FilesConfig {
    /// Folders outside the project whose files connections may read and write, with everything below them. A relative
    /// path starts at the project's folder. In the environment they are separated by colons.
    #[serde(deserialize_with = "folders")]
    pub allow: Vec<PathBuf>,
}

/// A list of paths, or a text with paths separated by colons.
fn folders<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    struct Folders;
    impl<'de> Visitor<'de> for Folders {
        type Value = Vec<PathBuf>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list of folders")
        }
        fn visit_str<E>(self, text: &str) -> Result<Vec<PathBuf>, E> {
            let folders = text.split(':').filter(|folder| !folder.is_empty());
            Ok(folders.map(PathBuf::from).collect())
        }
        fn visit_i64<E>(self, number: i64) -> Result<Vec<PathBuf>, E> {
            Ok(vec![number.to_string().into()])
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<PathBuf>, A::Error> {
            let mut folders = Vec::new();
            while let Some(folder) = list.next_element()? {
                folders.push(folder);
            }
            Ok(folders)
        }
    }
    from.deserialize_any(Folders)
}

/// `[http]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address and port, or `off`.
    pub listen: String,
    /// Certificate chain (PEM). With it and `tls_key` the port speaks HTTPS.
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM).
    pub tls_key: Option<PathBuf>,
    /// The largest body of a request.
    pub body_size: Size,
    /// Requests handled at the same time; what is beyond waits.
    pub requests: u32,
    /// As in `[mqtt]`, for the topic of a request to `/api/v1/events`.
    pub topic_separators: String,
    /// As in `[mqtt]`; `${client_id}` and `${user}` are both the user.
    pub topic_template: String,
    /// How long a login in the console lasts without use.
    pub session: Span,
}

/// `[amqp]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AmqpConfig {
    /// Address and port of plain TCP, or `off`. When another program has the default address, the node warns and runs
    /// without AMQP; any other address must be free.
    pub listen: String,
    /// Address and port of TLS, or `off`.
    pub tls_listen: String,
    /// Certificate chain (PEM).
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM).
    pub tls_key: Option<PathBuf>,
    /// Certificate authorities (PEM). A client with a certificate of theirs may log in by the mechanism EXTERNAL, as
    /// the user whom the common name of the certificate names.
    pub tls_client_ca: Option<PathBuf>,
    /// Silence after which a connection counts as lost; offered to clients, which may ask for another. 0 switches
    /// heartbeats off.
    pub heartbeat: Span,
}

/// `[mqtt]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MqttConfig {
    /// Address and port of plain TCP, or `off`.
    pub listen: String,
    /// Address and port of TLS, or `off`.
    pub tls_listen: String,
    /// Certificate chain (PEM).
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM).
    pub tls_key: Option<PathBuf>,
    /// Certificate authorities (PEM). A client with a certificate of theirs is logged in as the user whom the common
    /// name of the certificate names, unless it sends a password.
    pub tls_client_ca: Option<PathBuf>,
    /// Whether `/mqtt` on the HTTP port speaks MQTT over WebSocket.
    pub ws: bool,
    /// The longest time a session outlives its connection.
    pub session_expiry: Span,
    /// Unacknowledged QoS 1 and 2 messages a client may have under way at the same time.
    pub receive_max: u16,
    /// Topic aliases a client may use.
    pub topic_alias_max: u16,
    /// What may stand between the parts of a topic besides `/`, as in `gateway_g1_relay`: the characters `_`, `*` and `#`, in a
    /// text such as `_*`. Topics with a `/` keep their levels.
    pub topic_separators: String,
    /// Kind and client of topics that leave them out (`relay`, `//relay`), such as `gateway/${client_id}`; `${user}` is the
    /// user. Empty: nothing is filled in.
    pub topic_template: String,
    /// How long a new connection may take to say CONNECT.
    pub connect_timeout: Span,
    /// How often the topics under `$SYS/broker` are sent to those who subscribe to them; 0 switches them off.
    pub sys_interval: Span,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Open connections of all protocols together.
    pub connections: u32,
    /// New connections a second.
    pub connection_rate: u32,
    /// Events a second that one client may publish (MQTT: a connection; HTTP: an address); 0 is no limit.
    /// HTTP answers 429 with Retry-After; an MQTT connection is read more slowly.
    pub publish_rate: u32,
    /// The largest payload of an event. An MQTT packet may be 128 KiB larger, for its topic and properties;
    /// CONNACK announces the sum.
    pub payload_size: Size,
    /// Subscriptions of one session.
    pub subscriptions: u32,
    /// Topics whose last event is retained.
    pub retained: u32,
    /// Memory that events between socket and disk may take; beyond it gateways stop reading.
    pub in_flight_size: Size,
    /// How long a query may run.
    pub query_time: Span,
    /// Memory a query may take.
    pub query_memory: Size,
    /// Memory that the state of one flow may take; beyond it state is read from the disk when it is needed.
    pub state_memory: Size,
    /// Memory for what was read lately of wide tables: one half for rows, the other for blocks of their files.
    pub wide_cache: Size,
    /// Rows a query may answer.
    pub query_rows: u32,
    /// How long dead letters are kept; 0 is no limit. The log and `/metrics` warn before letters that nobody
    /// has re-driven are deleted.
    pub dead_letter_age: Span,
    /// Disk space that dead letters may take; the oldest are deleted beyond it. 0 is no limit.
    pub dead_letter_size: Size,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,busbar_gateway=debug`.
    pub level: String,
    /// `text` or `json`.
    pub format: LogFormat,
}

/// How lines of the process's own log look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

fn size(bytes: u64) -> Size {
    Size::from_bytes(bytes)
}

fn seconds(seconds: i64) -> Span {
    Span::from_micros(seconds * 1_000_000)
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig {
            dir: "data".into(),
            segment_size: size(256 << 20),
            cache_size: size(16 << 20),
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        HttpConfig {
            listen: "127.0.0.1:8080".into(),
            tls_cert: None,
            tls_key: None,
            body_size: size(16 << 20),
            requests: 1024,
            topic_separators: String::new(),
            topic_template: String::new(),
            session: seconds(7 * 86_400),
        }
    }
}

impl Default for AmqpConfig {
    fn default() -> Self {
        AmqpConfig {
            listen: "127.0.0.1:5672".into(),
            tls_listen: OFF.into(),
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
            heartbeat: seconds(60),
        }
    }
}

impl Default for MqttConfig {
    fn default() -> Self {
        MqttConfig {
            listen: "127.0.0.1:1883".into(),
            tls_listen: OFF.into(),
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
            ws: true,
            sys_interval: seconds(10),
            session_expiry: seconds(7 * 86_400),
            receive_max: 16_384,
            topic_alias_max: 1024,
            topic_separators: String::new(),
            topic_template: String::new(),
            connect_timeout: seconds(10),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig {
            connections: 20_000,
            connection_rate: 5_000,
            publish_rate: 0,
            payload_size: size(4 << 20),
            subscriptions: 10_000,
            retained: 1_000_000,
            in_flight_size: size(256 << 20),
            query_time: seconds(30),
            query_memory: size(256 << 20),
            state_memory: size(256 << 20),
            wide_cache: size(128 << 20),
            query_rows: 100_000,
            dead_letter_age: seconds(30 * 86_400),
            dead_letter_size: size(1 << 30),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            level: "info".into(),
            format: LogFormat::Text,
        }
    }
}

/// What stands for "do not listen".
pub(crate) const OFF: &str = "off";

//! `gateways/<name>.yaml`: a port on which events come in over TCP or UDP.

use std::net::IpAddr;
use std::path::PathBuf;

use busbar_event::format::Hl7Path;
use busbar_event::topic::TopicSpelling;
use busbar_event::{Class, Error, Size, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::diagnostic::Diagnostic;
use crate::limits::{
    ALLOW_MAX, CSV_COLUMNS_MAX, DELIMITER_BYTES_MAX, FRAME_BYTES_DEFAULT, FRAME_BYTES_MAX,
};
use crate::template::{Template, TemplatePart, Variable};
use crate::tree::Source;

/// A TCP or UDP port on which devices send events, one in each frame. Changes take effect without a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GatewaySpec {
    /// What the gateway is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `false`: the file is kept and nothing listens.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// `tcp` or `udp`.
    pub protocol: Transport,
    /// Address and port, for example `0.0.0.0:9000`. Beyond this machine only on a node with users.
    pub listen: String,
    /// TLS; for `tcp` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<GatewayTls>,
    /// How frames are told apart. By default `line` for TCP, and the whole datagram for UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<FrameSpec>,
    /// The longest frame. A longer one ends its connection.
    #[serde(default = "frame_size")]
    pub frame_size: Size,
    /// What is in a frame. Frames that are not of this form are refused.
    #[serde(default)]
    pub format: FrameFormat,
    /// The topic of the events: fixed, or a template over the members of a JSON object, the columns of CSV or the values
    /// of an HL7 message (`${MSH.9.2}`), `${peer}` for the sender's address and `${user}` for its user. Not together with `binary_topic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Where `topic` is one value of a frame, such as `${name}`, that value is the whole topic, and these characters of `_`, `*` and
    /// `#` may stand between its levels as well as `/`, as in `gauge_g1_rain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_separators: Option<String>,
    /// `true`: each frame begins with its topic in binary form. See docs/PROTOCOLS.md for the layout.
    #[serde(default)]
    pub binary_topic: bool,
    /// How senders log in. Needed as soon as the node has users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<GatewayLogin>,
    /// Addresses and networks (`10.1.0.0/16`) that may send; without it any may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// `true`: each frame is answered, in order, with a frame `ok` once its event is as durable as its stream says, or
    /// with `error CODE`. For `tcp` only.
    #[serde(default)]
    pub acknowledge: bool,
    /// A connection that sends no whole frame for so long is closed; 0 keeps it. For `tcp` only.
    #[serde(default = "idle")]
    pub idle: Span,
}

/// What carries the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams. What finds no room is lost, and counted where the system counts it.
    Udp,
}

/// TLS of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GatewayTls {
    /// Certificate chain (PEM).
    pub cert: PathBuf,
    /// The certificate's private key (PEM).
    pub key: PathBuf,
    /// Certificate authorities (PEM) whose clients may log in by their certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
}

/// How frames are told apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FrameSpec {
    /// A line feed ends a frame; a carriage return before it is dropped. Empty lines are skipped.
    Line,
    /// This text ends a frame. Empty frames are skipped.
    Delimiter(String),
    /// The length stands before the frame.
    Length(LengthSpec),
    /// The blocks of MLLP, with a message of HL7 version 2 in each. Each message is answered as HL7 says, whatever
    /// `acknowledge` says: `AA` once its event is as durable as its stream says, `AE` when the message is at fault, `AR` when
    /// it may be taken later. For `tcp` only.
    Mllp,
}

/// The length before a frame. It does not count itself, and a length of 0 is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LengthSpec {
    /// Bytes of the length: 1, 2 or 4.
    pub bytes: u8,
    /// Order of these bytes.
    pub order: ByteOrder,
}

impl Default for LengthSpec {
    fn default() -> LengthSpec {
        LengthSpec {
            bytes: 4,
            order: ByteOrder::Big,
        }
    }
}

/// Order of the bytes of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ByteOrder {
    /// The highest byte first, as in network protocols.
    Big,
    /// The lowest byte first.
    Little,
}

/// What is in a frame. The payload of the event is the frame as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FrameFormat {
    /// Any bytes.
    #[default]
    Raw,
    /// A JSON document; an object where the topic names members.
    Json,
    /// A row of separated values.
    Csv(CsvFrame),
    /// A message of HL7 version 2; the topic may name values by their path, such as `${MSH.9.2}`. What `frame: mllp` has in
    /// any case.
    Hl7,
}

/// Rows of separated values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CsvFrame {
    /// Names of the values, in their order. A row with another number of values is refused.
    pub columns: Vec<String>,
    /// What separates values: one ASCII character.
    #[serde(default = "comma")]
    pub delimiter: char,
}

/// How senders log in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GatewayLogin {
    /// The first frame of a connection is an API token, or a user name and password as `name:password`. For `tcp` only.
    Frame,
    /// The common name of the TLS client certificate is the name of a user. For `tcp` only.
    Certificate,
    /// Everybody whose address `allow` names counts as this user.
    User(String),
}

fn yes() -> bool {
    true
}

fn comma() -> char {
    ','
}

fn frame_size() -> Size {
    Size::from_bytes(FRAME_BYTES_DEFAULT)
}

fn idle() -> Span {
    Span::from_micros(10 * 60 * 1_000_000)
}

/// Variables of the topic that the connection knows.
pub const CONNECTION_VARIABLES: [&str; 2] = ["peer", "user"];

/// An address or a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    address: IpAddr,
    bits: u8,
}

impl AddressRange {
    /// Reads `10.1.0.0/16`, `::1` and the like; `None` when it is neither an address nor a network.
    pub fn parse(text: &str) -> Option<AddressRange> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(AddressRange { address, bits })
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                (net.to_bits() ^ address.to_bits()) & mask == 0
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.bits))
                    .unwrap_or(0);
                (net.to_bits() ^ address.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

impl GatewaySpec {
    /// Checks what the types of the fields do not say.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub(crate) fn check(&self, source: &Source) -> Result<(), Diagnostic> {
        let refuse = |key: &str, error: Error| Err(source.diagnostic(&[key.into()], None, error));
        let error = |code| Error::new(Class::Configuration, code);
        if !(1..=FRAME_BYTES_MAX).contains(&self.frame_size.as_bytes()) {
            let error = error("catalog.frame-size").with("bytes_max", FRAME_BYTES_MAX);
            return refuse("frame_size", error);
        }
        match &self.frame {
            Some(FrameSpec::Delimiter(text))
                if text.is_empty() || text.len() > DELIMITER_BYTES_MAX =>
            {
                let error = error("catalog.frame-delimiter").with("bytes_max", DELIMITER_BYTES_MAX);
                return refuse("frame", error);
            }
            Some(FrameSpec::Length(length)) if !matches!(length.bytes, 1 | 2 | 4) => {
                return refuse("frame", error("catalog.frame-length"));
            }
            _ => {}
        }
        if self.protocol == Transport::Udp {
            let of_tcp = [
                ("frame: mllp", self.frame == Some(FrameSpec::Mllp)),
                ("tls", self.tls.is_some()),
                ("acknowledge", self.acknowledge),
                (
                    "login",
                    matches!(
                        self.login,
                        Some(GatewayLogin::Frame | GatewayLogin::Certificate)
                    ),
                ),
            ];
            if let Some((key, _)) = of_tcp.iter().find(|(_, given)| *given) {
                let place = key.split(':').next().unwrap_or(key);
                return refuse(place, error("catalog.gateway-tcp-only").with("key", key));
            }
        }
        if self.frame == Some(FrameSpec::Mllp) {
            if !matches!(self.format, FrameFormat::Raw | FrameFormat::Hl7) {
                return refuse("format", error("catalog.gateway-mllp-format"));
            }
            if self.login == Some(GatewayLogin::Frame) {
                return refuse("login", error("catalog.gateway-mllp-login"));
            }
            if self.binary_topic {
                return refuse("binary_topic", error("catalog.gateway-mllp-format"));
            }
        }
        match &self.login {
            Some(GatewayLogin::Certificate)
                if self.tls.as_ref().is_none_or(|tls| tls.client_ca.is_none()) =>
            {
                return refuse("login", error("catalog.gateway-certificate"));
            }
            Some(GatewayLogin::User(_)) if self.allow.is_empty() => {
                return refuse("login", error("catalog.gateway-allow"));
            }
            _ => {}
        }
        if self.allow.len() > ALLOW_MAX {
            let error = error("catalog.count")
                .with("key", "allow")
                .with("found", self.allow.len())
                .with("least", 0)
                .with("most", ALLOW_MAX);
            return refuse("allow", error);
        }
        for (at, text) in self.allow.iter().enumerate() {
            if AddressRange::parse(text).is_none() {
                let error =
                    error("catalog.gateway-network").with("text", busbar_event::quote(text));
                return Err(source.diagnostic(&["allow".into(), at.into()], None, error));
            }
        }
        if let FrameFormat::Csv(csv) = &self.format {
            let bad = csv.columns.is_empty()
                || csv.columns.len() > CSV_COLUMNS_MAX
                || !csv.delimiter.is_ascii()
                || matches!(csv.delimiter, '"' | '\n' | '\r');
            if bad {
                let error = error("catalog.gateway-csv").with("most", CSV_COLUMNS_MAX);
                return refuse("format", error);
            }
        }
        self.check_topic(source)
    }

    /// What is in a frame, which its framing may say.
    pub fn form(&self) -> &FrameFormat {
        match self.frame {
            Some(FrameSpec::Mllp) => &FrameFormat::Hl7,
            _ => &self.format,
        }
    }

    fn check_topic(&self, source: &Source) -> Result<(), Diagnostic> {
        let error = |code| Error::new(Class::Configuration, code);
        let Some(text) = &self.topic else {
            return match self.binary_topic {
                true if self.topic_separators.is_some() => {
                    let key = &["topic_separators".into()];
                    Err(source.diagnostic(key, None, error("catalog.gateway-separators")))
                }
                true => Ok(()),
                false => Err(source.diagnostic(&[], None, error("catalog.gateway-topic"))),
            };
        };
        let key = &["topic".into()];
        let refuse = |inner, error| Err(source.diagnostic(key, inner, error));
        if self.binary_topic {
            return refuse(None, error("catalog.gateway-topic"));
        }
        let template = match Template::parse(text) {
            Ok(template) => template,
            Err((span, error)) => return refuse(Some(span), error),
        };
        for part in template.parts() {
            let TemplatePart::Variable { variable, span } = part else {
                continue;
            };
            let name = variable.name();
            let known = match (variable, self.form()) {
                _ if CONNECTION_VARIABLES.contains(&&*name) => true,
                // A tag, or the topic that is being made.
                (Variable::Topic | Variable::Tag(_), _) | (_, FrameFormat::Raw) => false,
                (_, FrameFormat::Hl7) => Hl7Path::parse(&name).is_some_and(|path| path.is_scalar()),
                (_, FrameFormat::Json) => true,
                (_, FrameFormat::Csv(csv)) => csv.columns.iter().any(|column| *column == name),
            };
            if !known {
                let error = error("catalog.gateway-variable").with("name", &name);
                return refuse(Some(span.clone()), error);
            }
        }
        if let Some(separators) = &self.topic_separators {
            let refuse = |error| {
                let key = &["topic_separators".into()];
                Err(source.diagnostic(key, None, error))
            };
            if let Err(error) = TopicSpelling::new(separators, "") {
                return refuse(error);
            }
            let is_value = |variable: &Variable| {
                let name = variable.name();
                !CONNECTION_VARIABLES.contains(&&*name)
            };
            return match template.parts() {
                [TemplatePart::Variable { variable, .. }] if is_value(variable) => Ok(()),
                _ => refuse(error("catalog.gateway-separators")),
            };
        }
        match template.pattern() {
            Ok(_) => Ok(()),
            Err(error) => refuse(None, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<GatewaySpec, Diagnostic> {
        let source = Source::parse("gateways/x.yaml", text)?;
        let spec: GatewaySpec = source.read()?;
        spec.check(&source)?;
        Ok(spec)
    }

    #[test]
    fn each_mistake_has_its_name_and_place() {
        let tcp = "protocol: tcp\nlisten: 127.0.0.1:9\n";
        let udp = "protocol: udp\nlisten: 127.0.0.1:9\n";
        for (head, rest, code, word) in [
            (tcp, "", "catalog.gateway-topic", ""),
            (
                tcp,
                "topic: a\nbinary_topic: true",
                "catalog.gateway-topic",
                "a",
            ),
            (tcp, "topic: a/${x}", "catalog.gateway-variable", "${x}"),
            (
                tcp,
                "topic: a/${x}\nformat: hl7",
                "catalog.gateway-variable",
                "${x}",
            ),
            (
                tcp,
                "topic: a/${PID.3[*]}\nframe: mllp",
                "catalog.gateway-variable",
                "${PID.3[*]}",
            ),
            (
                tcp,
                "topic: a\nframe: mllp\nformat: json",
                "catalog.gateway-mllp-format",
                "json",
            ),
            (
                tcp,
                "binary_topic: true\nframe: mllp",
                "catalog.gateway-mllp-format",
                "true",
            ),
            (
                tcp,
                "topic: a\nframe: mllp\nlogin: frame",
                "catalog.gateway-mllp-login",
                "frame",
            ),
            (
                udp,
                "topic: a\nframe: mllp",
                "catalog.gateway-tcp-only",
                "mllp",
            ),
            (
                tcp,
                "topic: a/${tags.x}\nformat: json",
                "catalog.gateway-variable",
                "${tags.x}",
            ),
            (
                tcp,
                "topic: a/${y}\nformat: { csv: { columns: [x] } }",
                "catalog.gateway-variable",
                "${y}",
            ),
            (
                tcp,
                "topic: a\nformat: { csv: { columns: [] } }",
                "catalog.gateway-csv",
                "",
            ),
            (tcp, "topic: a/+", "catalog.template-wildcard", "a/+"),
            (
                tcp,
                "topic: ${x}/${y}\nformat: json\ntopic_separators: _",
                "catalog.gateway-separators",
                "_",
            ),
            (
                tcp,
                "topic: ${peer}\ntopic_separators: _",
                "catalog.gateway-separators",
                "_",
            ),
            (
                tcp,
                "binary_topic: true\ntopic_separators: _",
                "catalog.gateway-separators",
                "_",
            ),
            (
                tcp,
                "topic: ${x}\nformat: json\ntopic_separators: '-'",
                "event.topic-separators",
                "'-'",
            ),
            (
                tcp,
                "topic: a\nframe: { delimiter: '' }",
                "catalog.frame-delimiter",
                "",
            ),
            (
                tcp,
                "topic: a\nframe: { length: { bytes: 3 } }",
                "catalog.frame-length",
                "",
            ),
            (tcp, "topic: a\nframe_size: 0", "catalog.frame-size", "0"),
            (
                tcp,
                "topic: a\nlogin: certificate",
                "catalog.gateway-certificate",
                "certificate",
            ),
            (
                tcp,
                "topic: a\nlogin: { user: u }",
                "catalog.gateway-allow",
                "",
            ),
            (
                tcp,
                "topic: a\nallow: [10.0.0.0/33]",
                "catalog.gateway-network",
                "10.0.0.0/33",
            ),
            (
                udp,
                "topic: a\nacknowledge: true",
                "catalog.gateway-tcp-only",
                "true",
            ),
            (
                udp,
                "topic: a\nlogin: frame",
                "catalog.gateway-tcp-only",
                "frame",
            ),
        ] {
            let refused = read(&format!("{head}{rest}\n")).unwrap_err();
            assert_eq!(refused.error().code(), code, "{rest}");
            if !word.is_empty() {
                assert_eq!(refused.word(), word, "{rest}");
            }
        }
        let spec = read(&format!(
            "{tcp}format: {{ csv: {{ columns: [x] }} }}\ntopic: a/${{x}}/${{peer}}\n"
        ));
        assert!(spec.is_ok());
        assert!(read(&format!("{udp}binary_topic: true\n")).is_ok());
    }

    #[test]
    fn networks_contain_addresses() {
        let contains = |net: &str, address: &str| {
            AddressRange::parse(net)
                .unwrap()
                .contains(address.parse().unwrap())
        };
        assert!(contains("10.1.0.0/16", "10.1.255.3"));
        assert!(contains("10.1.0.0/16", "::ffff:10.1.2.3"));
        assert!(!contains("10.1.0.0/16", "10.2.0.1"));
        assert!(contains("0.0.0.0/0", "1.2.3.4"));
        assert!(contains("::/0", "::1") && !contains("::/0", "1.2.3.4"));
        assert!(contains("127.0.0.1", "127.0.0.1") && !contains("127.0.0.1", "127.0.0.2"));
        assert!(
            AddressRange::parse("10.0.0.0/x").is_none() && AddressRange::parse("host").is_none()
        );
    }
}

//! The packets that open, steer and close a connection: plain structures, decoded by a
//! [`ControlCodec`].

use crate::Version;
use crate::reason::{Reason, Result};

/// Decodes control packets. The grammar is checked before by [`crate::check`], so an implementation
/// sees only well-formed frames.
pub trait ControlCodec {
    /// Decodes the body of the frame whose first byte is `header`.
    fn decode(&self, header: u8, body: &[u8], version: Version) -> Result<Control>;
}

/// A control packet from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// CONNECT.
    Connect(Box<Connect>),
    /// SUBSCRIBE.
    Subscribe(Subscribe),
    /// UNSUBSCRIBE.
    Unsubscribe(Unsubscribe),
    /// PINGREQ.
    PingRequest,
    /// DISCONNECT.
    Disconnect(Disconnect),
    /// AUTH.
    Auth(Auth),
}

/// CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Protocol version.
    pub version: Version,
    /// Clean start; clean session in 3.1.1.
    pub clean_start: bool,
    /// Seconds; zero switches it off.
    pub keep_alive_s: u16,
    /// Empty when the server shall choose.
    pub client_id: String,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Vec<u8>>,
    /// What to publish when the connection is lost.
    pub will: Option<Will>,
    /// Seconds the session outlives the connection; 3.1.1: zero for a clean session, otherwise
    /// `u32::MAX`.
    pub session_expiry_s: u32,
    /// QoS 1 and 2 messages the client takes at a time.
    pub receive_maximum: u16,
    /// Largest packet the client takes.
    pub maximum_packet_size: Option<u32>,
    /// Topic aliases the client takes.
    pub topic_alias_maximum: u16,
    /// Whether the client wants response information.
    pub request_response_info: bool,
    /// Whether reason strings are welcome on every packet.
    pub request_problem_info: bool,
    /// Enhanced authentication method.
    pub auth_method: Option<String>,
}

/// A will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Retain flag.
    pub retain: bool,
    /// Seconds between the loss of the connection and the will.
    pub delay_s: u32,
    /// The payload is UTF-8 by the sender's word.
    pub text_payload: bool,
    /// Message expiry in seconds.
    pub expiry_s: Option<u32>,
    /// Content type.
    pub content_type: Option<String>,
    /// Where to answer.
    pub response_topic: Option<String>,
    /// What the answer should repeat.
    pub correlation: Option<Vec<u8>>,
    /// User properties in order.
    pub user: Vec<(String, String)>,
}

/// SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Packet identifier.
    pub packet_id: u16,
    /// Subscription identifier.
    pub subscription_id: Option<u32>,
    /// Filters and their options.
    pub filters: Vec<(String, SubscribeOptions)>,
}

/// Options of one subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SubscribeOptions {
    /// Highest QoS to deliver with.
    pub qos: u8,
    /// Do not send what this client published itself.
    pub no_local: bool,
    /// Keep the retain flag as it was published.
    pub retain_as_published: bool,
    /// When to send retained messages.
    pub retain_handling: RetainHandling,
}

/// When a SUBSCRIBE brings retained messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RetainHandling {
    /// Always.
    #[default]
    Send,
    /// When the subscription is new.
    SendIfNew,
    /// Never.
    DoNotSend,
}

/// UNSUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Packet identifier.
    pub packet_id: u16,
    /// Filters.
    pub filters: Vec<String>,
}

/// DISCONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Why.
    pub reason: Reason,
    /// A new session expiry in seconds.
    pub session_expiry_s: Option<u32>,
}

/// AUTH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Why.
    pub reason: Reason,
    /// Method.
    pub method: Option<String>,
}

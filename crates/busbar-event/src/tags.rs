//! The flags byte of an event and the names of tags that Busbar itself sets.

use std::borrow::Cow;

/// Bits 0 and 1 hold the quality of service, the others are yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// The event is to be kept as its topic's last value.
    pub const RETAIN: u8 = 0x04;
    /// The sender says that the payload is UTF-8 text.
    pub const UTF8: u8 = 0x08;
    /// At least one tag has a reserved name, see [`reserved`].
    pub const RESERVED_TAGS: u8 = 0x10;
    /// The event has no time that can be right, and is a dead letter for whoever counts by time: its stream says so. Its
    /// time is that of its arrival.
    pub const UNTIMED: u8 = 0x20;
    const QOS: u8 = 0x03;

    /// The quality of service that the event was published with: 0, 1 or 2.
    pub fn qos(self) -> u8 {
        self.0 & Self::QOS
    }
    /// These flags with another quality of service, at most 2.
    #[must_use]
    pub fn with_qos(self, qos: u8) -> Flags {
        Flags((self.0 & !Self::QOS) | qos.min(2))
    }
    /// Whether the event is to be kept as its topic's last value.
    pub fn retain(self) -> bool {
        self.0 & Self::RETAIN != 0
    }
    /// These flags with [`Flags::retain`] set or cleared.
    #[must_use]
    pub fn with_retain(self, on: bool) -> Flags {
        self.with(Self::RETAIN, on)
    }
    /// Whether the sender says that the payload is UTF-8 text.
    pub fn utf8(self) -> bool {
        self.0 & Self::UTF8 != 0
    }
    /// These flags with [`Flags::utf8`] set or cleared.
    #[must_use]
    pub fn with_utf8(self, on: bool) -> Flags {
        self.with(Self::UTF8, on)
    }
    /// Whether a tag has a reserved name.
    pub fn reserved_tags(self) -> bool {
        self.0 & Self::RESERVED_TAGS != 0
    }
    /// These flags with [`Flags::reserved_tags`] set or cleared.
    #[must_use]
    pub fn with_reserved_tags(self, on: bool) -> Flags {
        self.with(Self::RESERVED_TAGS, on)
    }
    fn with(self, bit: u8, on: bool) -> Flags {
        Flags(if on { self.0 | bit } else { self.0 & !bit })
    }
}

/// Names of tags that Busbar sets itself. They begin with `$`; a user's tag that does so is kept
/// with one more `$` in front, see [`escape`] and [`unescape`].
pub mod reserved {
    /// What the payload is: a media type.
    pub const CONTENT_TYPE: &str = "$content-type";
    /// The topic on which an answer is awaited.
    pub const REPLY_TO: &str = "$reply-to";
    /// What the asker recognises the answer by, in base64.
    pub const CORRELATION_DATA: &str = "$correlation-data";
    /// When the event is no longer to be delivered: microseconds since 1970 in decimal.
    pub const EXPIRES_AT: &str = "$expires-at";
}

/// The tag that counts how often an event was relayed or has passed a bridge to another broker. It is a tag as any other, so
/// that it goes out as a user property or header and comes in again.
pub const HOPS: &str = "busbar-hops";

/// The tag that names the request of an API that an event is, or answers. It is a tag as any other, so that steps of flows keep
/// it and every protocol carries it.
pub const REQUEST: &str = "busbar-request";

/// Tags that name where an event is to be relayed begin so: `relay_to_alarm/g1`.
pub const RELAY_TO: &str = "relay_to_";

/// The tag that says an event is to be stored in the table that its stream names.
pub const STORE: &str = "DB";

/// How a user's tag name is kept.
pub fn escape(name: &str) -> Cow<'_, str> {
    if name.starts_with('$') {
        Cow::Owned(format!("${name}"))
    } else {
        Cow::Borrowed(name)
    }
}

/// The user's tag name that was kept as `name`, or `None` if it is a reserved one.
pub fn unescape(name: &str) -> Option<&str> {
    match name.strip_prefix('$') {
        None => Some(name),
        Some(user) if user.starts_with('$') => Some(user),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_do_not_touch_each_other() {
        let flags = Flags::default()
            .with_qos(2)
            .with_retain(true)
            .with_utf8(true);
        assert_eq!((flags.qos(), flags.retain(), flags.utf8()), (2, true, true));
        assert!(!flags.reserved_tags());
        let flags = flags
            .with_retain(false)
            .with_qos(1)
            .with_reserved_tags(true);
        assert_eq!(flags.0, 1 | Flags::UTF8 | Flags::RESERVED_TAGS);
        assert_eq!(Flags::default().with_qos(9).qos(), 2);
    }

    #[test]
    fn user_tags_come_back_and_reserved_ones_do_not() {
        for name in ["", "a", "$", "$$", "$content-type", "$$content-type"] {
            assert_eq!(unescape(&escape(name)), Some(name));
        }
        assert_eq!(unescape(reserved::CONTENT_TYPE), None);
        assert_eq!(unescape("$"), None);
    }
}

//! Why an event is not taken at all.

use busbar_event::{Class, Error, limits as event};

/// Why [`Publisher::push`](crate::Publisher::push) did not take an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The topic is empty, too long, too deep or has wildcards.
    Topic,
    /// The payload is larger than the node allows.
    PayloadTooLarge,
    /// The key is too long.
    KeyTooLong,
    /// There are too many tags, or one is too long.
    Tags,
    /// As many values are retained as the node allows, and this topic has none yet.
    RetainedFull,
    /// The byte budget is overrun: the owner went on reading although the publisher was not writable.
    Overloaded,
}

impl Refused {
    /// The name for programs.
    pub fn code(self) -> &'static str {
        match self {
            Refused::Topic => "bus.topic",
            Refused::PayloadTooLarge => "bus.payload-large",
            Refused::KeyTooLong => "bus.key-long",
            Refused::Tags => "bus.tags",
            Refused::RetainedFull => "bus.retained-full",
            Refused::Overloaded => "bus.overloaded",
        }
    }

    /// What to do about it.
    pub fn class(self) -> Class {
        match self {
            Refused::RetainedFull | Refused::Overloaded => Class::Transient,
            _ => Class::Permanent,
        }
    }

    /// The error people see.
    pub fn error(self) -> Error {
        let error = Error::new(self.class(), self.code());
        match self {
            Refused::KeyTooLong => error.with("max", event::KEY_BYTES_MAX),
            Refused::Tags => error.with("max", event::TAGS_MAX),
            _ => error,
        }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error().fmt(f)
    }
}

impl std::error::Error for Refused {}

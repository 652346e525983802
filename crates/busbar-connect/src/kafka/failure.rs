//! Failures by class, with what mends each.

use busbar_event::{Class, Error};
use busbar_kafka::{KafkaCode, KafkaFault};

/// What was being done, for what errors name.
#[derive(Clone, Copy, Debug)]
pub struct KafkaDoing<'a> {
    /// Where the broker is.
    pub address: &'a str,
    /// Who asks: the user, or `ANONYMOUS`, as Kafka names whoever does not say.
    pub user: &'a str,
    /// The resource at hand, as `kafka-acls.sh` names it: `--topic orders`.
    pub resource: &'a str,
    /// The operation that it takes: `Read`.
    pub operation: &'a str,
}

/// A broker's refusal as people see it.
pub fn refused(code: KafkaCode, doing: KafkaDoing<'_>) -> Error {
    let new = |class, name| {
        Error::new(class, name)
            .with("address", doing.address)
            .with("said", code)
    };
    match code {
        KafkaCode::TOPIC_AUTHORIZATION_FAILED
        | KafkaCode::GROUP_AUTHORIZATION_FAILED
        | KafkaCode::CLUSTER_AUTHORIZATION_FAILED
        | KafkaCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED => {
            new(Class::Configuration, "kafka.rights")
                .with("user", doing.user)
                .with("resource", doing.resource)
                .with("operation", doing.operation)
        }
        KafkaCode::ILLEGAL_SASL_STATE => new(Class::Configuration, "kafka.wants-sasl"),
        code if code.is_fenced() => new(Class::Transient, "kafka.fenced"),
        code if code.is_retriable() => new(Class::Transient, "kafka.for-now"),
        _ => new(Class::Configuration, "kafka.refused").with("resource", doing.resource),
    }
}

/// A broker's answer that cannot be used.
pub fn unreadable(address: &str, why: KafkaFault) -> Error {
    let new = |class, code| Error::new(class, code).with("address", address);
    match why {
        KafkaFault::TooLarge => new(Class::Configuration, "kafka.too-large")
            .with("most", super::limits::RECORDS_BYTES_MAX),
        KafkaFault::OldFormat(_) => new(Class::Configuration, "kafka.old-format"),
        KafkaFault::Checksum | KafkaFault::Compression => new(Class::Transient, "kafka.damaged"),
        KafkaFault::UnknownCodec(_) | KafkaFault::Malformed(_) => {
            new(Class::Transient, "kafka.strange").with("what", why)
        }
    }
}

pub fn closed(address: &str) -> Error {
    Error::new(Class::Transient, "kafka.closed").with("address", address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_class() {
        let doing = KafkaDoing {
            address: "a:9092",
            user: "u",
            resource: "--topic t",
            operation: "Read",
        };
        use Class::{Configuration, Transient};
        for (code, class, name) in [
            (29, Configuration, "kafka.rights"),
            (30, Configuration, "kafka.rights"),
            (53, Configuration, "kafka.rights"),
            (34, Configuration, "kafka.wants-sasl"),
            (47, Transient, "kafka.fenced"),
            (90, Transient, "kafka.fenced"),
            (6, Transient, "kafka.for-now"),
            (15, Transient, "kafka.for-now"),
            (51, Transient, "kafka.for-now"),
            (19, Transient, "kafka.for-now"),
            (42, Configuration, "kafka.refused"),
            (999, Configuration, "kafka.refused"),
        ] {
            let error = refused(KafkaCode(code), doing);
            assert_eq!((error.class(), error.code()), (class, name), "{code}");
        }
    }
}

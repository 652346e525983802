//! Failures by class, with what mends each.

use busbar_event::{Class, Error};

/// What was being done, for what errors name.
#[derive(Clone, Copy, Debug)]
pub struct RedisDoing<'a> {
    pub address: &'a str,
    pub user: &'a str,
    /// The keys at hand, as a pattern.
    pub keys: &'a str,
    /// The commands that it takes, as rights are written: `+hset +del`.
    pub rights: &'a str,
}

/// What the server's refusal says: the data, the moment, or how things are set up.
fn class_of(said: &str) -> Class {
    match said.split(' ').next().unwrap_or_default() {
        "LOADING" | "BUSY" | "MASTERDOWN" | "READONLY" | "TRYAGAIN" | "OOM" | "MISCONF"
        | "NOREPLICAS" | "UNBLOCKED" => Class::Transient,
        "ERR" if said.starts_with("ERR max number of clients") => Class::Transient,
        "WRONGTYPE" => Class::Permanent,
        _ => Class::Configuration,
    }
}

/// The server's refusal as people see it.
pub fn told(said: &str, doing: RedisDoing<'_>) -> Error {
    let class = class_of(said);
    let new = |code| {
        Error::new(class, code)
            .with("address", doing.address)
            .with("said", said)
    };
    let word = said.split(' ').next().unwrap_or_default();
    match (word, class) {
        ("NOAUTH" | "WRONGPASS", _) => new("redis.credentials").with("user", doing.user),
        ("ERR", _) if said.contains("AUTH") || said.contains("invalid password") => {
            new("redis.credentials").with("user", doing.user)
        }
        ("NOPERM", _) => new("redis.rights")
            .with("user", doing.user)
            .with("keys", doing.keys)
            .with("rights", doing.rights),
        ("MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN", _) => new("redis.cluster"),
        ("OOM", _) => new("redis.full"),
        ("WRONGTYPE", _) => new("redis.wrong-type").with("keys", doing.keys),
        ("ERR", _) if said.contains("DB index") || said.contains("invalid DB") => {
            new("redis.no-database")
        }
        ("ERR", _) if said.contains("unknown command") => new("redis.too-old"),
        (_, Class::Transient) => new("redis.for-now"),
        _ => new("redis.refused"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_class() {
        let doing = RedisDoing {
            address: "a:6379",
            user: "u",
            keys: "k:*",
            rights: "+hset",
        };
        use Class::{Configuration, Permanent, Transient};
        for (said, class, code) in [
            (
                "NOAUTH Authentication required.",
                Configuration,
                "redis.credentials",
            ),
            (
                "WRONGPASS invalid username-password pair",
                Configuration,
                "redis.credentials",
            ),
            (
                "ERR AUTH <password> called without any password configured",
                Configuration,
                "redis.credentials",
            ),
            (
                "NOPERM this user has no permissions",
                Configuration,
                "redis.rights",
            ),
            ("MOVED 866 127.0.0.1:7001", Configuration, "redis.cluster"),
            (
                "ERR DB index is out of range",
                Configuration,
                "redis.no-database",
            ),
            (
                "ERR unknown command 'HELLO'",
                Configuration,
                "redis.too-old",
            ),
            ("ERR syntax error", Configuration, "redis.refused"),
            (
                "WRONGTYPE Operation against a key",
                Permanent,
                "redis.wrong-type",
            ),
            ("OOM command not allowed", Transient, "redis.full"),
            (
                "READONLY You can't write against a read only replica.",
                Transient,
                "redis.for-now",
            ),
            (
                "LOADING Redis is loading the dataset in memory",
                Transient,
                "redis.for-now",
            ),
            (
                "ERR max number of clients reached",
                Transient,
                "redis.for-now",
            ),
        ] {
            let error = told(said, doing);
            assert_eq!((error.class(), error.code()), (class, code), "{said}");
        }
    }
}

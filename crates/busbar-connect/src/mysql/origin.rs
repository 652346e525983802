//! Which server's log is read, and how its places become positions that only grow.

use std::collections::BTreeMap;

use busbar_change::mysql::binlog::LogPlace;
use serde::{Deserialize, Serialize};

/// Kept with the position, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// What tells the server from others.
    pub server: String,
    /// Added to the numbers of its places: the last position of the server before it.
    #[serde(default)]
    pub base: u64,
    /// MariaDB's number of the last transaction of each domain, by which another server knows the same place.
    #[serde(default)]
    pub gtids: BTreeMap<u32, String>,
}

impl Origin {
    /// Reads what [`Origin::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Origin {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The position of a place.
    pub fn position(&self, place: LogPlace) -> u64 {
        self.base.saturating_add(place.number())
    }

    /// The place of a position.
    pub fn place(&self, position: u64) -> LogPlace {
        LogPlace::from_number(position.saturating_sub(self.base))
    }

    /// A transaction has passed, with its number: `0-1-5`.
    pub fn pass(&mut self, gtid: &str) {
        let domain = gtid
            .split('-')
            .next()
            .and_then(|domain| domain.parse().ok());
        if let (Some(domain), 3) = (domain, gtid.split('-').count()) {
            gtid.clone_into(self.gtids.entry(domain).or_default());
        }
    }

    /// Takes the numbers of a list: `0-1-5,1-2-9`.
    pub fn pass_all(&mut self, list: &str) {
        list.split(',').for_each(|gtid| self.pass(gtid.trim()));
    }

    /// The numbers as a list.
    pub fn list(&self) -> String {
        let numbers: Vec<_> = self.gtids.values().map(String::as_str).collect();
        numbers.join(",")
    }

    /// The same place on another server, for positions behind this one.
    pub fn taken_over(&self, server: &str, position: u64) -> Origin {
        Origin {
            server: server.to_owned(),
            base: position,
            gtids: self.gtids.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_grow_from_server_to_server() {
        let mut first = Origin {
            server: "1".into(),
            ..Origin::default()
        };
        first.pass_all("0-1-5, 7-2-9");
        first.pass("0-1-6");
        // MySQL's numbers are of another form.
        first.pass("3e11fa47-71ca-11e1-9e33-c80aa9429562:23");
        first.pass("");
        assert_eq!(first.list(), "0-1-6,7-2-9");
        let place = LogPlace {
            file: 9,
            byte: 5 << 30,
        };
        let position = first.position(place);
        assert_eq!(first.place(position), place);
        let second = first.taken_over("2", position);
        let begin = LogPlace { file: 1, byte: 4 };
        assert!(second.position(begin) > position);
        assert_eq!(second.place(second.position(begin)), begin);
        assert_eq!(Origin::from_bytes(&second.to_bytes()), second);
    }
}

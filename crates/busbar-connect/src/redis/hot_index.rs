//! How a hot table is kept in a server:
//!
//! | key | kind | holds |
//! | --- | --- | --- |
//! | `PREFIX:KEY` | hash | a row, a field for each column that is not null. It has the table's time to live, unless rows are moved |
//! | `busbar:rows:PREFIX` | sorted set | the key of each row, by when its time to live is over, in microseconds since 1970; `+inf` for a row that stays |
//! | `busbar:columns:PREFIX` | string | the key and the columns of the table, JSON |
//! | `busbar:position:tables/PREFIX/PRODUCER` | string | how far a producer has come |
//!
//! A key that has expired stays in the sorted set for [`INDEX_SLACK`] or until the next write after it. Where rows are moved,
//! they do not expire: the sorted set says which are due, and `+inf` there says that the other table has rejected the row.

use std::sync::Arc;
use std::time::Duration;

use busbar_connector::{HotLayout, HotPlace};
use busbar_log::Clock;

use super::key::RedisKey;
use super::limits::{INDEX_KEYS_MAX, INDEX_SLACK};
use super::wire::Commands;

/// The commands that a hot table takes, as rights are written.
pub const HOT_RIGHTS: &str = "+@connection +@transaction +@hash +@sortedset +get +set +type +exists +del +unlink +pexpire +pexpireat +persist +pttl +eval +info";

/// How the keys of rows are made.
pub fn hot_key(rows: &HotLayout) -> RedisKey {
    RedisKey::of_table(&rows.place.table, rows.key.iter().map(String::as_str))
}

/// The keys that a hot table takes, as rights are written.
pub fn hot_keys(place: &HotPlace) -> String {
    format!("{}:* ~busbar:*", place.table)
}

/// The sorted set of the keys of a table's rows.
pub fn index_key(place: &HotPlace) -> Vec<u8> {
    format!("busbar:rows:{}", place.table).into_bytes()
}

/// The key under which a table's columns are noted.
pub fn columns_key(place: &HotPlace) -> Vec<u8> {
    format!("busbar:columns:{}", place.table).into_bytes()
}

/// The sorted set of the keys of a table's rows, as it is written.
#[derive(Clone)]
pub struct HotIndex {
    key: Vec<u8>,
    ttl: Option<Duration>,
    /// Rows stay until they are moved, and their keys with them.
    moves: bool,
    clock: Arc<dyn Clock>,
}

impl HotIndex {
    pub fn of(rows: &HotLayout) -> HotIndex {
        HotIndex {
            key: index_key(&rows.place),
            ttl: rows.place.ttl,
            moves: rows.place.moves,
            clock: Arc::clone(&rows.clock),
        }
    }

    /// Adds the commands that note rows, each with whether it is put or deleted, in their order.
    pub fn note(&self, rows: &[(Vec<u8>, bool)], commands: &mut Commands) {
        let now = self.clock.now_micros();
        let score = score(now, self.ttl);
        for run in rows.chunk_by(|one, next| one.1 == next.1) {
            for some in run.chunks(INDEX_KEYS_MAX) {
                let is_put = some[0].1;
                commands.begin(2 + some.len() * if is_put { 2 } else { 1 });
                commands.word(if is_put { b"ZADD" } else { b"ZREM" });
                commands.word(&self.key);
                for (key, _) in some {
                    if is_put {
                        commands.word(score.as_bytes());
                    }
                    commands.word(key);
                }
            }
        }
        if self.ttl.is_some() && !self.moves {
            let gone = (now - INDEX_SLACK.as_micros() as i64).to_string();
            commands.add(&[b"ZREMRANGEBYSCORE", &self.key, b"-inf", gone.as_bytes()]);
        }
    }
}

/// When the time to live of a row that is written now is over, as a score.
pub fn score(now: i64, ttl: Option<Duration>) -> String {
    match ttl {
        None => "+inf".to_owned(),
        Some(ttl) => {
            let ttl = i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX);
            now.saturating_add(ttl).to_string()
        }
    }
}

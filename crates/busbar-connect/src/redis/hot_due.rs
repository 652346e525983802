//! Rows of a hot table that are due: read, and removed by a script of the server that leaves those that were written since.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use busbar_connector::{HotLayout, HotPlace, LeavingRows, TextColumns, Work};
use busbar_event::Error;
use bytes::Bytes;

use super::hot::{RedisHot, refusal};
use super::hot_index::index_key;
use super::limits::{DUE_BYTES_MAX, DUE_ROWS_MAX, INDEX_KEYS_MAX};
use super::store::{Portion, Texts};
use super::wire::{Commands, Reply};

/// Changes what the index, the first key, has of the others, if their score is still the argument at their place: each write
/// gives a row another one. The first argument is the new score, or `-`: the key leaves the index, and with `--` its row goes, too.
///
/// A transaction with `WATCH` could do the same, but a server without memory queues no commands, not even those that free some.
const CHANGE: &[u8] = b"local changed = 0
for at = 2, #KEYS do
  if redis.call('ZSCORE', KEYS[1], KEYS[at]) == ARGV[at] then
    if ARGV[1] == '--' then redis.call('UNLINK', KEYS[at]) end
    if ARGV[1] == '-' or ARGV[1] == '--' then redis.call('ZREM', KEYS[1], KEYS[at])
    else redis.call('ZADD', KEYS[1], ARGV[1], KEYS[at]) end
    changed = changed + 1
  end
end
return changed";
/// The score of a row that the other table has rejected, as the server writes it.
const REJECTED: &[u8] = b"inf";

/// Rows that wait to be moved.
pub struct RedisDue {
    hot: RedisHot,
    place: HotPlace,
    rows: RecordBatch,
    keys: Vec<ScoredKey>,
}

/// The key of a row, and its score as the server wrote it.
#[derive(Clone)]
struct ScoredKey {
    key: Vec<u8>,
    score: Bytes,
}

impl LeavingRows for RedisDue {
    fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    fn leave(self: Box<Self>, is_rejected: Vec<bool>) -> Work<'static, Result<u64, Error>> {
        Box::pin(async move {
            let (mut moved, mut rejected) = (Vec::new(), Vec::new());
            for (row, key) in self.keys.into_iter().enumerate() {
                match is_rejected.get(row) {
                    Some(true) => rejected.push(key),
                    _ => moved.push(key),
                }
            }
            let moved = self.hot.change(&self.place, &moved, b"--").await?;
            self.hot.change(&self.place, &rejected, b"+inf").await?;
            Ok(moved)
        })
    }
}

impl RedisHot {
    /// Rows that are due, no more than are moved at once; none if there are none.
    pub async fn find_due(&self, rows: &HotLayout) -> Result<Option<RedisDue>, Error> {
        let now = rows.clock.now_micros();
        let (place, until) = (&rows.place, now.to_string());
        let keys = self.between(place, "-inf", &until, DUE_ROWS_MAX).await?;
        let read = self.read_due(rows, &keys, now as f64).await?;
        self.change(place, &read.gone, b"-").await?;
        self.change(place, &read.unreadable, b"+inf").await?;
        if read.keys.is_empty() {
            return Ok(None);
        }
        let mut made = TextColumns::new(Arc::clone(&rows.schema));
        for texts in &read.rows {
            made.push(texts.iter().map(Option::as_deref))?;
        }
        Ok(Some(RedisDue {
            hot: self.clone(),
            place: place.clone(),
            rows: made.finish()?,
            keys: read.keys,
        }))
    }

    /// Makes all rows that were rejected due again.
    pub async fn try_rejected(&self, rows: &HotLayout) -> Result<(), Error> {
        loop {
            let place = &rows.place;
            let keys = self.between(place, "+inf", "+inf", INDEX_KEYS_MAX).await?;
            if keys.is_empty() {
                return Ok(());
            }
            let score = Bytes::from_static(REJECTED);
            let keys = keys.into_iter().map(|key| ScoredKey {
                key,
                score: score.clone(),
            });
            let now = rows.clock.now_micros().to_string();
            let keys: Vec<_> = keys.collect();
            if self.change(place, &keys, now.as_bytes()).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Runs [`CHANGE`]; how many keys it has changed.
    async fn change(&self, place: &HotPlace, keys: &[ScoredKey], to: &[u8]) -> Result<u64, Error> {
        if keys.is_empty() {
            return Ok(0);
        }
        let (count, mut commands) = (1 + keys.len(), Commands::default());
        commands.begin(3 + 2 * count);
        commands.word(b"EVAL");
        commands.word(CHANGE);
        commands.word(count.to_string().as_bytes());
        commands.word(&index_key(place));
        keys.iter().for_each(|one| commands.word(&one.key));
        commands.word(to);
        keys.iter().for_each(|one| commands.word(&one.score));
        // Made twice, it changes nothing the second time.
        let replies = self.ask(place, &commands).await?;
        match replies.first() {
            Some(Reply::Number(changed)) => Ok(u64::try_from(*changed).unwrap_or(0)),
            _ => Err(self.strange()),
        }
    }

    async fn read_due(
        &self,
        rows: &HotLayout,
        keys: &[Vec<u8>],
        now: f64,
    ) -> Result<DueRead, Error> {
        let mut read = DueRead::default();
        let (mut at, mut bytes, mut portion) = (0, 0, Portion::default());
        while at < keys.len() && bytes < DUE_BYTES_MAX {
            let end = keys.len().min(at + portion.keys());
            let (found, size) = self.read_scored(rows, &keys[at..end]).await?;
            portion.after(end - at, size);
            bytes += size;
            for (key, (score, texts)) in keys[at..end].iter().zip(found) {
                // Taken out of the index, or written, since it was named.
                let Some(score) = score.filter(|score| is_due(score, now)) else {
                    continue;
                };
                let key = ScoredKey {
                    key: key.clone(),
                    score,
                };
                match texts {
                    None => read.gone.push(key),
                    Some(texts) if !is_readable(&rows.schema, &texts) => {
                        tracing::warn!(connection = %self.name, table = %rows.place.table,
                            key = %String::from_utf8_lossy(&key.key),
                            "a row holds what is no value of its column and is not moved");
                        read.unreadable.push(key);
                    }
                    Some(texts) => {
                        read.keys.push(key);
                        read.rows.push(texts);
                    }
                }
            }
            at = end;
        }
        Ok(read)
    }

    /// Reads rows, each behind its score, so that a row that is written in between has another score later.
    async fn read_scored(
        &self,
        rows: &HotLayout,
        keys: &[Vec<u8>],
    ) -> Result<(Vec<(Option<Bytes>, Option<Texts>)>, usize), Error> {
        let (index, fields) = (index_key(&rows.place), rows.schema.fields());
        let mut commands = Commands::default();
        for key in keys {
            commands.add(&[b"ZSCORE", &index, key]);
            commands.begin(2 + fields.len());
            commands.word(b"HMGET");
            commands.word(key);
            for field in fields {
                commands.word(field.name().as_bytes());
            }
        }
        let (replies, bytes) = self.store.ask(&commands).await?;
        let mut replies = replies.into_iter();
        let mut found = Vec::with_capacity(keys.len());
        while let (Some(score), Some(row)) = (replies.next(), replies.next()) {
            if let Some(said) = refusal(&score) {
                return Err(self.refused(&rows.place, said));
            }
            let texts = match row {
                Reply::List(values) => Some(values.into_iter().map(value).collect::<Texts>()),
                // Somebody else has put something else there.
                Reply::Refused(said) if said.starts_with("WRONGTYPE") => None,
                Reply::Refused(said) => return Err(self.refused(&rows.place, &said)),
                _ => return Err(self.strange()),
            };
            let is_row = |texts: &Texts| texts.iter().any(Option::is_some);
            found.push((value(score), texts.filter(is_row)));
        }
        Ok((found, bytes))
    }
}

/// Rows that are due, as they were read.
#[derive(Default)]
struct DueRead {
    keys: Vec<ScoredKey>,
    rows: Vec<Texts>,
    /// Keys of rows that are not there.
    gone: Vec<ScoredKey>,
    /// Keys of rows that somebody else has changed so that they cannot be read.
    unreadable: Vec<ScoredKey>,
}

fn is_due(score: &[u8], now: f64) -> bool {
    let score = std::str::from_utf8(score).ok();
    let score = score.and_then(|score| score.parse::<f64>().ok());
    score.is_some_and(|score| score <= now)
}

fn is_readable(schema: &SchemaRef, texts: &Texts) -> bool {
    let mut made = TextColumns::new(Arc::clone(schema));
    made.push(texts.iter().map(Option::as_deref)).is_ok()
}

fn value(reply: Reply) -> Option<Bytes> {
    match reply {
        Reply::Value(value) => Some(value),
        _ => None,
    }
}

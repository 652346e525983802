//! Rows of a hot table that are due: read by a session that watches them, so that none that is written meanwhile is lost.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use busbar_connector::{HotLayout, HotPlace, LeavingRows, Pooled, TextColumns, Work};
use busbar_event::{Class, Error};

use super::hot::{RedisHot, refusal};
use super::hot_index::index_key;
use super::limits::{DISTURBED_MAX, DUE_BYTES_MAX, DUE_ROWS_MAX};
use super::link::RedisLink;
use super::store::{Portion, Texts};
use super::wire::{Commands, Reply};

/// Rows that wait to be moved, with the session that watches them.
pub struct RedisDue {
    hot: RedisHot,
    place: HotPlace,
    session: Pooled<RedisLink>,
    rows: RecordBatch,
    keys: Vec<Vec<u8>>,
    gone: Vec<Vec<u8>>,
    unreadable: Vec<Vec<u8>>,
    /// Rows whose score is larger have been written since.
    now: f64,
}

impl RedisDue {
    async fn leave_all(mut self, is_rejected: &[bool]) -> Result<u64, Error> {
        let index = index_key(&self.place);
        let is_kept = |row: usize| is_rejected.get(row).copied().unwrap_or(false);
        let (mut moved, mut kept) = (Vec::new(), std::mem::take(&mut self.unreadable));
        for (row, key) in self.keys.iter().enumerate() {
            match is_kept(row) {
                true => kept.push(key.clone()),
                false => moved.push(key.clone()),
            }
        }
        let mut changes = Commands::default();
        let mut all = |words: &[&[u8]], keys: &[Vec<u8>]| {
            if !keys.is_empty() {
                changes.begin(words.len() + keys.len());
                words.iter().for_each(|word| changes.word(word));
                keys.iter().for_each(|key| changes.word(key));
            }
        };
        all(&[b"UNLINK"], &moved);
        all(&[b"ZREM", &index], &moved);
        all(&[b"ZREM", &index], &self.gone);
        let session = &mut self.session.session;
        let is_done = self.hot.execute(&self.place, session, changes).await?;
        self.session.give_back();
        if !kept.is_empty() {
            // Apart from the others: a server without memory refuses this, and not that rows go.
            let is_due = |due| due <= self.now;
            let kept = self.hot.score_again(&self.place, &kept, is_due, "+inf");
            kept.await?;
        }
        Ok(if is_done { moved.len() as u64 } else { 0 })
    }
}

impl LeavingRows for RedisDue {
    fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    fn leave(self: Box<Self>, is_rejected: Vec<bool>) -> Work<'static, Result<u64, Error>> {
        Box::pin(async move { self.leave_all(&is_rejected).await })
    }
}

impl RedisHot {
    /// Watches rows and reads them, with their scores.
    async fn watched(
        &self,
        rows: &HotLayout,
        session: &mut RedisLink,
        keys: &[Vec<u8>],
    ) -> Result<(Vec<(f64, Option<Texts>)>, usize), Error> {
        let (index, fields) = (index_key(&rows.place), rows.schema.fields());
        let mut commands = Commands::default();
        commands.begin(1 + keys.len());
        commands.word(b"WATCH");
        for key in keys {
            commands.word(key);
        }
        for key in keys {
            commands.add(&[b"ZSCORE", &index, key]);
            commands.begin(2 + fields.len());
            commands.word(b"HMGET");
            commands.word(key);
            for field in fields {
                commands.word(field.name().as_bytes());
            }
        }
        let (replies, bytes) = session.run_sized(&commands).await?;
        let mut replies = replies.into_iter();
        if let Some(said) = replies.next().as_ref().and_then(refusal) {
            return Err(self.refused(&rows.place, said));
        }
        let mut found = Vec::with_capacity(keys.len());
        while let (Some(due), Some(row)) = (replies.next(), replies.next()) {
            if let Some(said) = refusal(&due) {
                return Err(self.refused(&rows.place, said));
            }
            let due = due_of(&due);
            let texts = match row {
                Reply::List(values) => {
                    let text = |value: Reply| match value {
                        Reply::Value(value) => Some(value),
                        _ => None,
                    };
                    Some(values.into_iter().map(text).collect::<Texts>())
                }
                // Somebody else has put something else there.
                Reply::Refused(said) if said.starts_with("WRONGTYPE") => None,
                Reply::Refused(said) => return Err(self.refused(&rows.place, &said)),
                _ => return Err(self.strange()),
            };
            let is_row = |texts: &Texts| texts.iter().any(Option::is_some);
            found.push((due, texts.filter(is_row)));
        }
        Ok((found, bytes))
    }

    /// Reads rows that are due on a session that watches them.
    async fn read_due(
        &self,
        rows: &HotLayout,
        session: &mut RedisLink,
        keys: &[Vec<u8>],
        now: f64,
    ) -> Result<DueRead, Error> {
        let mut read = DueRead::default();
        let (mut at, mut bytes, mut portion) = (0, 0, Portion::default());
        while at < keys.len() && bytes < DUE_BYTES_MAX {
            let end = keys.len().min(at + portion.keys());
            let (found, size) = self.watched(rows, session, &keys[at..end]).await?;
            portion.after(end - at, size);
            bytes += size;
            for (key, (due, texts)) in keys[at..end].iter().zip(found) {
                match texts {
                    // Written since it was named.
                    _ if due > now || due.is_nan() => {}
                    None => read.gone.push(key.clone()),
                    Some(texts) if !is_readable(&rows.schema, &texts) => {
                        tracing::warn!(connection = %self.name, table = %rows.place.table,
                            key = %String::from_utf8_lossy(key),
                            "a row holds what is no value of its column and is not moved");
                        read.unreadable.push(key.clone());
                    }
                    Some(texts) => {
                        read.keys.push(key.clone());
                        read.rows.push(texts);
                    }
                }
            }
            at = end;
        }
        Ok(read)
    }

    /// Rows that are due, no more than are moved at once; none if there are none.
    pub async fn find_due(&self, rows: &HotLayout) -> Result<Option<RedisDue>, Error> {
        let now = rows.clock.now_micros();
        let (place, until) = (&rows.place, now.to_string());
        let keys = self.between(place, "-inf", &until, DUE_ROWS_MAX).await?;
        let now = now as f64;
        if keys.is_empty() {
            return Ok(None);
        }
        loop {
            let mut session = self.take().await?;
            let read = self.read_due(rows, &mut session.session, &keys, now);
            let read = match read.await {
                Ok(read) => read,
                Err(error) if session.is_new || error.class() != Class::Transient => {
                    return Err(error);
                }
                // It was lost while nobody used it, and so were the others, probably.
                Err(_) => {
                    self.store.pool.forget();
                    continue;
                }
            };
            let mut made = TextColumns::new(Arc::clone(&rows.schema));
            for texts in &read.rows {
                made.push(texts.iter().map(Option::as_deref))?;
            }
            let due = RedisDue {
                hot: self.clone(),
                place: rows.place.clone(),
                rows: made.finish()?,
                session,
                keys: read.keys,
                gone: read.gone,
                unreadable: read.unreadable,
                now,
            };
            if due.keys.is_empty() {
                // Nothing to move, but perhaps something to tidy up.
                due.leave_all(&[]).await?;
                return Ok(None);
            }
            return Ok(Some(due));
        }
    }

    /// Gives rows another score, those whose score so far is one of these.
    pub async fn score_again(
        &self,
        place: &HotPlace,
        keys: &[Vec<u8>],
        is_one: impl Fn(f64) -> bool,
        score: &str,
    ) -> Result<(), Error> {
        let index = index_key(place);
        let mut asked = Commands::default();
        asked.begin(1 + keys.len());
        asked.word(b"WATCH");
        keys.iter().for_each(|key| asked.word(key));
        for key in keys {
            asked.add(&[b"ZSCORE", &index, key]);
        }
        for _ in 0..DISTURBED_MAX {
            let mut session = self.take().await?;
            let replies = session.session.run(&asked).await?;
            let replies = self.check(place, replies)?;
            let scores = replies.iter().skip(1).map(due_of);
            let mut changes = Commands::default();
            for (key, _) in keys.iter().zip(scores).filter(|(_, due)| is_one(*due)) {
                changes.add(&[b"ZADD", &index, b"XX", score.as_bytes(), key]);
            }
            let is_done = self.execute(place, &mut session.session, changes).await?;
            session.give_back();
            if is_done {
                return Ok(());
            }
        }
        Err(Error::new(Class::Transient, "redis.disturbed").with("table", &place.table))
    }
}

/// Rows that are due, as they were read.
#[derive(Default)]
struct DueRead {
    keys: Vec<Vec<u8>>,
    rows: Vec<Texts>,
    /// Keys of rows that are not there.
    gone: Vec<Vec<u8>>,
    /// Keys of rows that somebody else has changed so that they cannot be read.
    unreadable: Vec<Vec<u8>>,
}

fn is_readable(schema: &SchemaRef, texts: &Texts) -> bool {
    let mut made = TextColumns::new(Arc::clone(schema));
    made.push(texts.iter().map(Option::as_deref)).is_ok()
}

/// When a row is due by the answer to `ZSCORE`; not a number for one that is not in the index.
fn due_of(reply: &Reply) -> f64 {
    let due = reply.text().and_then(|due| due.parse().ok());
    due.unwrap_or(f64::NAN)
}

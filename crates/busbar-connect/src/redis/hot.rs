//! Hot tables whose rows a server keeps: see [`super::hot_index`] for what is where, [`super::hot_due`] for rows that move.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use busbar_connector::{
    Found, HotCount, HotDatabase, HotLayout, HotPlace, LeavingRows, PoolUse, Pooled, Sink, SqlRows,
    Work,
};
use busbar_event::Error;

use super::failure::told;
use super::hot_index::{HOT_RIGHTS, columns_key, hot_key, hot_keys, index_key, score};
use super::hot_memory::{ask_memory, check_memory};
use super::limits::SCAN_KEYS;
use super::link::{RedisLink, RedisServer, closed};
use super::sink::RedisSink;
use super::store::{HashRows, RedisStore, RowNames};
use super::wire::{Commands, Reply};

/// A server that keeps the rows of hot tables.
#[derive(Clone)]
pub struct RedisHot {
    /// The connection's name.
    pub(super) name: Arc<str>,
    pub(super) store: RedisStore,
}

/// A member of a sorted set and its score; infinite for a row that stays.
type Scored = (Vec<u8>, f64);

impl RedisHot {
    pub(super) fn new(
        name: Arc<str>,
        server: RedisServer,
        sessions: u16,
    ) -> Result<RedisHot, Error> {
        let store = RedisStore::new(&name, server, sessions, &BTreeMap::new())?;
        Ok(RedisHot { name, store })
    }

    pub(super) fn refused(&self, place: &HotPlace, said: &str) -> Error {
        let keys = hot_keys(place);
        told(said, self.store.server.doing(&keys, HOT_RIGHTS))
    }

    /// Answers to commands that may be sent twice, none of them refused.
    pub(super) async fn ask(
        &self,
        place: &HotPlace,
        commands: &Commands,
    ) -> Result<Vec<Reply>, Error> {
        let (replies, _) = self.store.ask(commands).await?;
        self.check(place, replies)
    }

    fn check(&self, place: &HotPlace, replies: Vec<Reply>) -> Result<Vec<Reply>, Error> {
        match replies.iter().find_map(refusal) {
            Some(said) => Err(self.refused(place, said)),
            None => Ok(replies),
        }
    }

    pub(super) fn strange(&self) -> Error {
        closed(&self.store.server.address)
    }

    async fn take(&self) -> Result<Pooled<RedisLink>, Error> {
        let pool = &self.store.pool;
        pool.take(|| self.store.server.open()).await
    }

    /// Runs a transaction over keys that a session watches; whether no other session has changed them.
    async fn execute(
        &self,
        place: &HotPlace,
        session: &mut RedisLink,
        changes: Commands,
    ) -> Result<bool, Error> {
        let mut begin = Commands::default();
        begin.add(&[b"MULTI"]);
        session.send(&begin);
        session.send(&changes);
        let mut end = Commands::default();
        end.add(&[b"EXEC"]);
        let mut replies = session.run_after(changes.count() + 1, &end).await?;
        let executed = replies.pop();
        // What was refused while it was queued is the reason for the refusal of all.
        self.check(place, replies)?;
        match executed {
            Some(Reply::Null) => Ok(false),
            Some(Reply::List(results)) => self.check(place, results).map(|_| true),
            Some(Reply::Refused(said)) => Err(self.refused(place, &said)),
            _ => Err(self.strange()),
        }
    }

    fn hashes(&self, rows: &HotLayout) -> HashRows {
        HashRows {
            key: hot_key(rows),
            schema: Arc::clone(&rows.schema),
            // Columns of the key are fields, too.
            places: vec![None; rows.schema.fields().len()],
            names: RowNames::Members(index_key(&rows.place)),
            rights: (hot_keys(&rows.place), HOT_RIGHTS),
        }
    }

    /// The members of a table's index, in pages.
    async fn index_page(
        &self,
        place: &HotPlace,
        cursor: &str,
    ) -> Result<(Vec<Scored>, String), Error> {
        let mut commands = Commands::default();
        let (key, count) = (index_key(place), SCAN_KEYS.to_string());
        commands.add(&[
            b"ZSCAN",
            &key,
            cursor.as_bytes(),
            b"COUNT",
            count.as_bytes(),
        ]);
        let replies = self.ask(place, &commands).await?;
        let Some([next, members]) = replies.first().and_then(Reply::list) else {
            return Err(self.strange());
        };
        let next = next.text().ok_or_else(|| self.strange())?.to_owned();
        Ok((scored(members).ok_or_else(|| self.strange())?, next))
    }

    /// Lets the rows of one page stay, or go by themselves; how many of them wait to be moved.
    async fn keep_page(&self, rows: &HotLayout, page: &[Scored]) -> Result<u64, Error> {
        let place = &rows.place;
        let mut asked = Commands::default();
        for (key, _) in page {
            asked.add(&[b"PTTL", key]);
        }
        let left = self.ask(place, &asked).await?;
        let now = rows.clock.now_micros();
        let (mut waiting, mut commands) = (0, Commands::default());
        for ((key, due), left) in page.iter().zip(left) {
            // Without a time to live.
            let stays = left == Reply::Number(-1);
            match place.ttl {
                _ if place.moves => commands.add(&[b"PERSIST", key]),
                None => commands.add(&[b"PERSIST", key]),
                Some(_) if !stays => {}
                Some(ttl) if due.is_infinite() => {
                    let (score, ttl) = (score(now, Some(ttl)), ttl.as_millis().to_string());
                    commands.add(&[b"PEXPIRE", key, ttl.as_bytes()]);
                    commands.add(&[b"ZADD", &index_key(place), b"XX", score.as_bytes(), key]);
                }
                Some(_) if *due <= now as f64 => waiting += 1,
                Some(_) => {
                    let at = ((*due / 1e3) as i64).to_string();
                    commands.add(&[b"PEXPIREAT", key, at.as_bytes()]);
                }
            }
        }
        self.ask(place, &commands).await?;
        Ok(waiting)
    }

    /// Keys of the index whose scores are between two, the lowest first.
    pub(super) async fn between(
        &self,
        place: &HotPlace,
        from: &str,
        to: &str,
        most: usize,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let mut commands = Commands::default();
        let (key, most) = (index_key(place), most.to_string());
        commands.add(&[
            b"ZRANGEBYSCORE",
            &key,
            from.as_bytes(),
            to.as_bytes(),
            b"LIMIT",
            b"0",
            most.as_bytes(),
        ]);
        let replies = self.ask(place, &commands).await?;
        let keys = replies.first().and_then(Reply::list).unwrap_or_default();
        let keys = keys.iter().filter_map(|key| match key {
            Reply::Value(key) => Some(key.to_vec()),
            _ => None,
        });
        Ok(keys.collect())
    }
}

pub(super) fn refusal(reply: &Reply) -> Option<&str> {
    match reply {
        Reply::Refused(said) => Some(said),
        _ => None,
    }
}

/// Members and their scores, which come in turn.
fn scored(list: &Reply) -> Option<Vec<Scored>> {
    let pairs = list.list()?.chunks_exact(2);
    pairs
        .map(|pair| match pair {
            [Reply::Value(key), due] => Some((key.to_vec(), due.text()?.parse().ok()?)),
            _ => None,
        })
        .collect()
}

impl HotDatabase for RedisHot {
    fn prepare<'a>(&'a self, place: &'a HotPlace) -> Work<'a, Result<Option<Vec<u8>>, Error>> {
        Box::pin(async move {
            let mut commands = Commands::default();
            ask_memory(&mut commands);
            commands.add(&[b"TYPE", &index_key(place)]);
            commands.add(&[b"GET", &columns_key(place)]);
            let (replies, _) = self.store.ask(&commands).await?;
            let Some((memory, rest)) = replies.split_first() else {
                return Err(self.strange());
            };
            check_memory(&self.name, &self.store.server.address, place, memory)?;
            let rest = self.check(place, rest.to_vec())?;
            let [kind, noted] = &rest[..] else {
                return Err(self.strange());
            };
            if !matches!(kind.text(), Some("none" | "zset")) {
                let said = "WRONGTYPE Operation against a key holding the wrong kind of value";
                return Err(self.refused(place, said));
            }
            Ok(match noted {
                Reply::Value(noted) => Some(noted.to_vec()),
                _ => None,
            })
        })
    }

    fn note<'a>(
        &'a self,
        place: &'a HotPlace,
        before: Option<Vec<u8>>,
        note: Vec<u8>,
    ) -> Work<'a, Result<bool, Error>> {
        Box::pin(async move {
            let key = columns_key(place);
            let mut session = self.take().await?;
            let mut commands = Commands::default();
            commands.add(&[b"WATCH", &key]);
            commands.add(&[b"GET", &key]);
            let replies = session.session.run(&commands).await?;
            let replies = self.check(place, replies)?;
            let now = match replies.last() {
                Some(Reply::Value(now)) => Some(&now[..]),
                _ => None,
            };
            if now != before.as_deref() {
                return Ok(false);
            }
            let mut changes = Commands::default();
            changes.add(&[b"SET", &key, &note]);
            let is_noted = self.execute(place, &mut session.session, changes).await?;
            session.give_back();
            Ok(is_noted)
        })
    }

    fn keep<'a>(&'a self, rows: &'a HotLayout) -> Work<'a, Result<u64, Error>> {
        Box::pin(async move {
            let (mut waiting, mut cursor) = (0, "0".to_owned());
            loop {
                let (page, next) = self.index_page(&rows.place, &cursor).await?;
                waiting += self.keep_page(rows, &page).await?;
                cursor = next;
                if cursor == "0" {
                    return Ok(waiting);
                }
            }
        })
    }

    fn sink<'a>(
        &'a self,
        rows: &'a HotLayout,
        columns: SchemaRef,
        change: Option<&'a str>,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>> {
        Box::pin(async move {
            let server = RedisServer::clone(&self.store.server);
            let name = Arc::clone(&self.name);
            let sink = RedisSink::of_table(server, name, rows, &columns, change).await?;
            Ok(Box::new(sink) as Box<dyn Sink>)
        })
    }

    fn find<'a>(
        &'a self,
        rows: &'a HotLayout,
        keys: &'a [ArrayRef],
        columns: &'a [usize],
    ) -> Work<'a, Result<Found, Error>> {
        Box::pin(async move {
            let hashes = self.hashes(rows);
            self.store.find_rows(&hashes, keys, columns).await
        })
    }

    fn all<'a>(
        &'a self,
        rows: &'a HotLayout,
        columns: &'a [usize],
    ) -> Work<'a, Result<Box<dyn SqlRows + 'a>, Error>> {
        Box::pin(async move {
            let hashes = Arc::new(self.hashes(rows));
            Ok(Box::new(self.store.scan_rows(hashes, columns)?) as Box<dyn SqlRows + 'a>)
        })
    }

    fn count<'a>(&'a self, rows: &'a HotLayout) -> Work<'a, Result<HotCount, Error>> {
        Box::pin(async move {
            let place = &rows.place;
            let (key, now) = (index_key(place), rows.clock.now_micros().to_string());
            let later = format!("({now}");
            let mut commands = Commands::default();
            match place.moves {
                true => commands.add(&[b"ZCARD", &key]),
                false => commands.add(&[b"ZCOUNT", &key, later.as_bytes(), b"+inf"]),
            }
            commands.add(&[b"ZCOUNT", &key, b"+inf", b"+inf"]);
            commands.add(&[
                b"ZRANGEBYSCORE",
                &key,
                b"-inf",
                now.as_bytes(),
                b"WITHSCORES",
                b"LIMIT",
                b"0",
                b"1",
            ]);
            let replies = self.ask(place, &commands).await?;
            let [Reply::Number(all), Reply::Number(stay), oldest] = &replies[..] else {
                return Err(self.strange());
            };
            let oldest = scored(oldest).ok_or_else(|| self.strange())?;
            let oldest = oldest.first().map(|(_, due)| *due as i64);
            Ok(HotCount {
                rows: u64::try_from(*all).unwrap_or(0),
                rejected: match place.moves {
                    true => u64::try_from(*stay).unwrap_or(0),
                    false => 0,
                },
                due: oldest.filter(|_| place.moves),
            })
        })
    }

    fn due<'a>(
        &'a self,
        rows: &'a HotLayout,
    ) -> Work<'a, Result<Option<Box<dyn LeavingRows>>, Error>> {
        Box::pin(async move {
            let due = self.find_due(rows).await?;
            Ok(due.map(|due| Box::new(due) as Box<dyn LeavingRows>))
        })
    }

    fn try_again<'a>(&'a self, rows: &'a HotLayout) -> Work<'a, Result<(), Error>> {
        Box::pin(self.try_rejected(rows))
    }

    fn pool(&self) -> PoolUse {
        self.store.pool.used()
    }
}

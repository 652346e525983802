//! Hashes of a server as rows: looked up by their keys, and read one after another.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::{Schema, SchemaRef};
use busbar_connector::{
    Found, KeyedLayout, KeyedStore, PoolUse, SessionPool, SqlRows, TextColumns, Work,
};
use busbar_event::{Class, Error};
use bytes::Bytes;

use super::RowsOptions;
use super::failure::told;
use super::key::RedisKey;
use super::limits::{ENTRIES_BYTES, ENTRIES_FIRST, FIND_KEYS_MAX, SCAN_KEYS, SCANNED_KEYS_MAX};
use super::link::{RedisLink, RedisServer, closed};
use super::wire::{Commands, Reply};
use crate::cells::TextCells;

/// The rows of a server that a connection's file names.
#[derive(Clone)]
pub struct RedisStore {
    pub(super) server: Arc<RedisServer>,
    pub(super) pool: Arc<SessionPool<RedisLink>>,
    tables: BTreeMap<String, Arc<HashRows>>,
}

/// Hashes whose keys are made alike.
pub struct HashRows {
    pub key: RedisKey,
    pub schema: SchemaRef,
    /// For each column its place in the key; none for a field of the hash.
    pub places: Vec<Option<usize>>,
    /// How all rows are found.
    pub names: RowNames,
    /// Keys and commands that reading takes, as rights are written.
    pub rights: (String, &'static str),
}

/// How the keys of all rows are found.
pub enum RowNames {
    /// Keys of the server that are like this.
    Like(String),
    /// The members of a sorted set.
    Members(Vec<u8>),
}

/// The texts of a row's fields, in the order of the columns that were asked for.
pub type Texts = Vec<Option<Bytes>>;

impl HashRows {
    fn is_indexed(&self) -> bool {
        matches!(self.names, RowNames::Members(_))
    }

    /// Adds a row: fields as they were answered, and the columns of its key.
    fn push(
        &self,
        columns: &[usize],
        of_key: &[&[u8]],
        texts: &Texts,
        made: &mut TextColumns,
    ) -> Result<(), Error> {
        let mut texts = texts.iter();
        let values = columns.iter().map(|column| match self.places[*column] {
            Some(place) => of_key.get(place).copied(),
            None => texts.next().and_then(Option::as_deref),
        });
        made.push(values.collect::<Vec<_>>())
    }
}

impl RedisStore {
    pub(super) fn new(
        name: &str,
        server: RedisServer,
        sessions: u16,
        tables: &BTreeMap<String, RowsOptions>,
    ) -> Result<RedisStore, Error> {
        let rows = |(name, options): (&String, &RowsOptions)| -> Result<_, Error> {
            let key = options.row_key()?;
            let place = |column: &str| key.columns().position(|known| known == column);
            let columns = options.columns.iter();
            let rows = HashRows {
                places: columns.clone().map(|one| place(&one.name)).collect(),
                names: RowNames::Like(key.pattern()),
                rights: (key.pattern(), "+hmget +hlen +exists +scan"),
                schema: Arc::new(Schema::new(
                    columns
                        .map(|one| one.kind.field(&one.name))
                        .collect::<Vec<_>>(),
                )),
                key,
            };
            Ok((name.clone(), Arc::new(rows)))
        };
        Ok(RedisStore {
            tables: tables.iter().map(rows).collect::<Result<_, Error>>()?,
            pool: SessionPool::new(name, usize::from(sessions), server.timeout),
            server: Arc::new(server),
        })
    }

    fn rows(&self, name: &str) -> Result<&Arc<HashRows>, Error> {
        self.tables
            .get(name)
            .ok_or_else(|| Error::new(Class::Configuration, "redis.no-table").with("table", name))
    }

    fn refused(&self, rows: &HashRows, said: &str) -> Error {
        let (keys, rights) = &rows.rights;
        told(said, self.server.doing(keys, rights))
    }

    /// Answers to commands that change nothing, and the bytes of their values. A session that was lost while it was not used
    /// is replaced by a new one.
    pub(super) async fn ask(&self, commands: &Commands) -> Result<(Vec<Reply>, usize), Error> {
        loop {
            let mut session = self.pool.take(|| self.server.open()).await?;
            match session.session.run_sized(commands).await {
                Ok(replies) => {
                    session.give_back();
                    return Ok(replies);
                }
                Err(error) => {
                    // The others were opened to the same server.
                    self.pool.forget();
                    if session.is_new || error.class() != Class::Transient {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// The fields of hashes, in the order of their keys, none where there is no such key; and their bytes.
    async fn fields(
        &self,
        rows: &HashRows,
        keys: &[Vec<u8>],
        columns: &[usize],
    ) -> Result<(Vec<Option<Texts>>, usize), Error> {
        let fields: Vec<&String> = columns
            .iter()
            .filter(|column| rows.places[**column].is_none())
            .map(|column| rows.schema.field(*column).name())
            .collect();
        let mut commands = Commands::default();
        for key in keys {
            match fields.is_empty() {
                true => commands.add(&[b"HLEN", key]),
                false => {
                    commands.begin(2 + fields.len());
                    commands.word(b"HMGET");
                    commands.word(key);
                    for field in &fields {
                        commands.word(field.as_bytes());
                    }
                }
            }
        }
        let mut found = Vec::with_capacity(keys.len());
        // A hash without these fields is a row all the same.
        let mut doubtful = Vec::new();
        let (replies, bytes) = self.ask(&commands).await?;
        for reply in replies {
            found.push(match reply {
                Reply::Number(0) => None,
                Reply::Number(_) => Some(Vec::new()),
                Reply::List(values) => {
                    let text = |value: &Reply| match value {
                        Reply::Value(value) => Some(value.clone()),
                        _ => None,
                    };
                    let texts: Texts = values.iter().map(text).collect();
                    if texts.iter().all(Option::is_none) {
                        doubtful.push(found.len());
                    }
                    Some(texts)
                }
                // Somebody has put something else in the place of a row.
                Reply::Refused(said) if rows.is_indexed() && said.starts_with("WRONGTYPE") => None,
                Reply::Refused(said) => return Err(self.refused(rows, &said)),
                Reply::Null | Reply::Value(_) => return Err(closed(&self.server.address)),
            });
        }
        if !doubtful.is_empty() {
            let mut commands = Commands::default();
            for place in &doubtful {
                commands.add(&[b"EXISTS", &keys[*place]]);
            }
            let (replies, _) = self.ask(&commands).await?;
            for (place, reply) in doubtful.iter().zip(replies) {
                match reply {
                    Reply::Number(0) => found[*place] = None,
                    Reply::Refused(said) => return Err(self.refused(rows, &said)),
                    _ => {}
                }
            }
        }
        Ok((found, bytes))
    }

    pub(super) async fn find_rows(
        &self,
        rows: &HashRows,
        keys: &[ArrayRef],
        columns: &[usize],
    ) -> Result<Found, Error> {
        let names = rows.key.columns();
        let cells = names
            .zip(keys)
            .map(|(name, column)| TextCells::new(name, column));
        let cells = cells.collect::<Result<Vec<_>, _>>()?;
        let count = keys.first().map_or(0, |column| column.len());
        let (mut asked, mut made_of) = (Vec::new(), Vec::new());
        for row in 0..count {
            let texts = || cells.iter().map(|cells| cells.get(row));
            if let Ok(key) = rows.key.of(texts()) {
                asked.push(key);
                made_of.push(row);
            }
        }
        let mut made = TextColumns::new(Arc::new(rows.schema.project(columns).map_err(of_arrow)?));
        let mut places = vec![None; count];
        let mut next = 0_u32;
        let (mut at, mut portion) = (0, Portion::default());
        while at < asked.len() {
            let end = asked.len().min(at + portion.keys());
            let (found, bytes) = self.fields(rows, &asked[at..end], columns).await?;
            portion.after(end - at, bytes);
            let numbers = &made_of[at..end];
            at = end;
            for (texts, row) in found.iter().zip(numbers) {
                let Some(texts) = texts else { continue };
                let of_key: Vec<_> = cells.iter().map(|cells| cells.get(*row)).collect();
                let of_key: Vec<&[u8]> = of_key
                    .iter()
                    .map(|value| value.as_deref().unwrap_or_default())
                    .collect();
                rows.push(columns, &of_key, texts, &mut made)?;
                places[*row] = Some(next);
                next += 1;
            }
        }
        Ok(Found {
            rows: made.finish()?,
            places: UInt32Array::from(places),
        })
    }
}

impl RedisStore {
    /// All rows, one key after another.
    pub(super) fn scan_rows<'a>(
        &'a self,
        rows: Arc<HashRows>,
        columns: &'a [usize],
    ) -> Result<RedisScan<'a>, Error> {
        let schema = rows.schema.project(columns).map_err(of_arrow)?;
        Ok(RedisScan {
            store: self,
            columns,
            made: TextColumns::new(Arc::new(schema)),
            rows,
            cursor: Some("0".to_owned()),
            seen: HashSet::new(),
            portion: Portion::default(),
            waiting: VecDeque::new(),
        })
    }
}

impl KeyedStore for RedisStore {
    fn layout(&self, rows: &str) -> Option<KeyedLayout> {
        let rows = self.tables.get(rows)?;
        Some(KeyedLayout {
            schema: Arc::clone(&rows.schema),
            key: rows.key.columns().map(str::to_owned).collect(),
        })
    }

    fn find<'a>(
        &'a self,
        rows: &'a str,
        keys: &'a [ArrayRef],
        columns: &'a [usize],
    ) -> Work<'a, Result<Found, Error>> {
        Box::pin(async move { self.find_rows(self.rows(rows)?, keys, columns).await })
    }

    fn all<'a>(
        &'a self,
        rows: &'a str,
        columns: &'a [usize],
    ) -> Work<'a, Result<Box<dyn SqlRows + 'a>, Error>> {
        Box::pin(async move {
            let rows = Arc::clone(self.rows(rows)?);
            Ok(Box::new(self.scan_rows(rows, columns)?) as Box<dyn SqlRows + 'a>)
        })
    }

    fn pool(&self) -> PoolUse {
        self.pool.used()
    }
}

/// The rows of a server, one key after another.
pub struct RedisScan<'a> {
    store: &'a RedisStore,
    rows: Arc<HashRows>,
    columns: &'a [usize],
    made: TextColumns,
    /// Where the server goes on; none at the end.
    cursor: Option<String>,
    /// The server may name a key more than once.
    seen: HashSet<Vec<u8>>,
    portion: Portion,
    /// Keys that were named and not read yet.
    waiting: VecDeque<Vec<u8>>,
}

impl SqlRows for RedisScan<'_> {
    fn next(&mut self) -> Work<'_, Result<Option<RecordBatch>, Error>> {
        Box::pin(async move {
            loop {
                if self.waiting.is_empty() {
                    let Some(cursor) = self.cursor.take() else {
                        return Ok(None);
                    };
                    self.name_keys(&cursor).await?;
                    continue;
                }
                let count = self.waiting.len().min(self.portion.keys());
                let keys: Vec<Vec<u8>> = self.waiting.drain(..count).collect();
                let rows = Arc::clone(&self.rows);
                let (found, bytes) = self.store.fields(&rows, &keys, self.columns).await?;
                self.portion.after(count, bytes);
                for (key, texts) in keys.iter().zip(&found) {
                    let of_key = match rows.names {
                        RowNames::Like(_) => rows.key.read(key),
                        RowNames::Members(_) => Some(Vec::new()),
                    };
                    // It may have gone since it was named.
                    if let (Some(texts), Some(of_key)) = (texts, of_key) {
                        rows.push(self.columns, &of_key, texts, &mut self.made)?;
                    }
                }
                if self.made.rows() > 0 {
                    return self.made.finish().map(Some);
                }
            }
        })
    }
}

impl RedisScan<'_> {
    /// Asks for more keys.
    async fn name_keys(&mut self, cursor: &str) -> Result<(), Error> {
        let mut commands = Commands::default();
        let (cursor, count) = (cursor.as_bytes(), SCAN_KEYS.to_string());
        let count: [&[u8]; 2] = [b"COUNT", count.as_bytes()];
        let (is_member, each) = match &self.rows.names {
            RowNames::Like(like) => {
                let like: [&[u8]; 4] = [b"SCAN", cursor, b"MATCH", like.as_bytes()];
                let kind: [&[u8]; 2] = [b"TYPE", b"hash"];
                commands.add(&[&like[..], &count, &kind].concat());
                (false, 1)
            }
            // Members and their scores.
            RowNames::Members(set) => {
                let scan: [&[u8]; 3] = [b"ZSCAN", set, cursor];
                commands.add(&[&scan[..], &count].concat());
                (true, 2)
            }
        };
        let (replies, _) = self.store.ask(&commands).await?;
        let scanned = match replies.first() {
            Some(Reply::List(scanned)) if scanned.len() == 2 => scanned,
            Some(Reply::Refused(said)) => return Err(self.store.refused(&self.rows, said)),
            _ => return Err(closed(&self.store.server.address)),
        };
        for key in scanned[1].list().unwrap_or_default().iter().step_by(each) {
            if let Reply::Value(key) = key
                && (is_member || self.rows.key.read(key).is_some())
                && self.seen.insert(key.to_vec())
            {
                self.waiting.push_back(key.to_vec());
            }
        }
        if self.seen.len() > SCANNED_KEYS_MAX {
            let error = Error::new(Class::Configuration, "redis.scan-large");
            return Err(error
                .with("keys", &self.rows.rights.0)
                .with("most", SCANNED_KEYS_MAX));
        }
        self.cursor = scanned[0]
            .text()
            .filter(|cursor| *cursor != "0")
            .map(str::to_owned);
        Ok(())
    }
}

/// How many keys are asked for at a time: fewer where rows are large.
pub struct Portion(usize);

impl Default for Portion {
    fn default() -> Portion {
        Portion(ENTRIES_FIRST as usize)
    }
}

impl Portion {
    pub fn keys(&self) -> usize {
        self.0
    }

    /// So many keys were answered with so many bytes.
    pub fn after(&mut self, keys: usize, bytes: usize) {
        let fit = keys.saturating_mul(ENTRIES_BYTES) / bytes.max(1);
        self.0 = fit.min(4 * self.0).clamp(1, FIND_KEYS_MAX);
    }
}

fn of_arrow(cause: arrow::error::ArrowError) -> Error {
    Error::new(Class::Permanent, "database.rows").caused_by(cause)
}

//! Writes rows under keys of their own, each delivery in one `MULTI` … `EXEC` together with the producer's position.
//!
//! Rows of a hot table have an index besides, a sorted set of their keys: see [`super::hot_index`].

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use busbar_connector::{Delivery, HotLayout, HotPlace, Sink, SinkContext, Work, Written};
use busbar_event::{Class, Error};

use super::failure::told;
use super::hot_index::{HOT_RIGHTS, HotIndex, hot_key, hot_keys};
use super::hot_memory::check_session;
use super::key::RedisKey;
use super::limits::SCAN_KEYS;
use super::link::{RedisLink, RedisServer, closed};
use super::wire::{Commands, Reply};
use super::{Kind, WriteOptions};
use crate::cells::TextCells;
use crate::change::Op;

/// Writes rows to a server.
pub struct RedisSink {
    server: RedisServer,
    /// The connection's name.
    name: Arc<str>,
    /// Stands before the names of producers.
    positions: String,
    plan: Plan,
    /// The hot table whose rows are written.
    place: Option<HotPlace>,
    link: Option<RedisLink>,
    /// The producer whose position the session watches, and that position.
    watched: Option<(Arc<str>, Option<u64>)>,
    /// What was written last, to see when the server has lost it.
    last: Option<(Arc<str>, u64)>,
}

/// How rows become commands.
#[derive(Clone)]
struct Plan {
    kind: Kind,
    key: RedisKey,
    /// Places of the columns of the key, in its order.
    key_places: Vec<usize>,
    /// All keys that there can be, as the server's own pattern.
    pattern: String,
    /// Keys that the user must have rights for, as rights are written.
    keys: String,
    /// Where keys of rows are noted.
    index: Option<HotIndex>,
    /// Names and places of the columns that are kept.
    columns: Vec<(String, usize)>,
    change: Option<usize>,
    unchanged: Option<usize>,
    ttl_millis: Option<u64>,
    max: Option<u64>,
    delete: bool,
}

/// The name of a field, and its value where there is one.
type NamedCell<'a> = (&'a [u8], Option<Cow<'a, [u8]>>);

/// A delivery as commands.
#[derive(Default)]
struct Ready {
    commands: Commands,
    /// The row that each command belongs to.
    rows: Vec<usize>,
    /// The rows that are written, with their keys.
    keys: Vec<(usize, Vec<u8>)>,
    /// For an index, the keys of all rows in order, and whether each is put.
    order: Vec<(Vec<u8>, bool)>,
    /// The keys that there are go first.
    truncate: bool,
    rejected: Vec<(usize, Error)>,
}

impl RedisSink {
    /// Opens a session.
    pub(super) async fn open(
        server: RedisServer,
        options: WriteOptions,
        context: SinkContext,
    ) -> Result<RedisSink, Error> {
        let plan = Plan::new(&options, &context.schema)?;
        let positions = options.producer.as_deref().unwrap_or(&context.name);
        let positions = positions.to_owned();
        RedisSink::open_with(server, context.name, positions, plan, None).await
    }

    /// Opens a session for the rows of a hot table with these columns, of which `change` says what is deleted.
    pub(super) async fn of_table(
        server: RedisServer,
        name: Arc<str>,
        rows: &HotLayout,
        columns: &SchemaRef,
        change: Option<&str>,
    ) -> Result<RedisSink, Error> {
        let plan = Plan::of_table(rows, columns, change)?;
        let positions = format!("tables/{}", rows.place.table);
        let place = Some(rows.place.clone());
        RedisSink::open_with(server, name, positions, plan, place).await
    }

    async fn open_with(
        server: RedisServer,
        name: Arc<str>,
        positions: String,
        plan: Plan,
        place: Option<HotPlace>,
    ) -> Result<RedisSink, Error> {
        let mut sink = RedisSink {
            server,
            name,
            positions,
            plan,
            place,
            link: None,
            watched: None,
            last: None,
        };
        sink.link = Some(sink.connect().await?);
        Ok(sink)
    }

    /// A new session; for a hot table with a server that keeps rows.
    async fn connect(&self) -> Result<RedisLink, Error> {
        let mut link = self.server.open().await?;
        if let Some(place) = &self.place {
            check_session(&self.name, &self.server.address, place, &mut link).await?;
        }
        Ok(link)
    }

    /// The key that holds a producer's position.
    fn position_key(&self, producer: &str) -> String {
        format!("busbar:position:{}/{producer}", self.positions)
    }

    fn refused(&self, said: &str) -> Error {
        told(said, self.server.doing(&self.plan.keys, self.plan.rights()))
    }

    /// A session that watches nothing.
    async fn unwatched(&mut self) -> Result<RedisLink, Error> {
        let was_watching = self.watched.take().is_some();
        let Some(mut link) = self.link.take().filter(RedisLink::rests) else {
            return self.connect().await;
        };
        if was_watching {
            let mut commands = Commands::default();
            commands.add(&[b"UNWATCH"]);
            link.run(&commands).await?;
        }
        Ok(link)
    }

    /// A session that watches the producer's position, and that position.
    async fn session(&mut self, producer: &Arc<str>) -> Result<(RedisLink, Option<u64>), Error> {
        let link = self.link.take().filter(RedisLink::rests);
        let watched = self.watched.take();
        let mut link = match (link, watched) {
            (Some(link), Some((known, position))) if known == *producer => {
                return Ok((link, position));
            }
            (Some(link), _) => link,
            // What the last session began and did not end is refused by the server once another one has written the position.
            (None, _) => self.connect().await?,
        };
        let mut commands = Commands::default();
        commands.add(&[b"UNWATCH"]);
        let key = self.position_key(producer);
        watch(&key, &mut commands);
        let replies = link.run(&commands).await?;
        let position = self.watched_position(&replies)?;
        if let Some((known, last)) = &self.last
            && known == producer
            && position.is_none_or(|position| position < *last)
        {
            tracing::warn!(connection = %self.name, address = %self.server.address, ?position, last,
                "Redis has lost rows that it had acknowledged; see its settings appendonly and appendfsync");
        }
        Ok((link, position))
    }

    /// The position in the answers to [`watch`], which are the last two.
    fn watched_position(&self, replies: &[Reply]) -> Result<Option<u64>, Error> {
        let refusal = replies.iter().find_map(|reply| match reply {
            Reply::Refused(said) => Some(said),
            _ => None,
        });
        if let Some(said) = refusal {
            let doing = self
                .server
                .doing("busbar:position:*", "+@transaction +get +set");
            return Err(told(said, doing));
        }
        let text = replies.last().and_then(Reply::text);
        Ok(text.and_then(|text| text.parse().ok()))
    }

    async fn deliver(&mut self, delivery: &Delivery) -> Result<Written, Error> {
        let ready = self.plan.ready(delivery)?;
        // Rows of nobody need not be recognised when they come again.
        let producer = Some(&delivery.producer).filter(|producer| !producer.is_empty());
        loop {
            let (mut link, known) = match producer {
                Some(producer) => self.session(producer).await?,
                None => (self.unwatched().await?, None),
            };
            if known.is_some_and(|known| known >= delivery.position) {
                // Written before; which rows the server refused then is found again.
                let rejected = self.refused_before(&mut link, &ready).await?;
                self.keep(link, producer, known);
                return Ok(Written::of(rejected));
            }
            if ready.truncate {
                self.truncate(&mut link).await?;
            }
            let mut commands = Commands::default();
            commands.add(&[b"MULTI"]);
            link.send(&commands);
            link.send(&ready.commands);
            let mut commands = Commands::default();
            if let Some(index) = &self.plan.index {
                index.note(&ready.order, &mut commands);
            }
            let noted = commands.count();
            if let Some(producer) = producer {
                let (key, position) = (self.position_key(producer), delivery.position.to_string());
                commands.add(&[b"SET", key.as_bytes(), position.as_bytes()]);
            }
            // MULTI, the rows, the index, SET.
            let queued = 1 + ready.commands.count() + commands.count();
            commands.add(&[b"EXEC"]);
            if let Some(producer) = producer {
                // Watched at once, so that the next delivery takes one round trip.
                watch(&self.position_key(producer), &mut commands);
            }
            link.send(&commands);
            let mut queueing = None;
            for _ in 0..queued {
                if let Reply::Refused(said) = link.reply().await? {
                    queueing.get_or_insert(said);
                }
            }
            let executed = link.reply().await?;
            let mut watching = Vec::new();
            while link.owed() > 0 {
                watching.push(link.reply().await?);
            }
            if let Some(said) = queueing {
                link.close().await;
                return Err(self.refused(&said));
            }
            match executed {
                // Another session has written this producer's position meanwhile.
                Reply::Null => {
                    let position = self.watched_position(&watching)?;
                    self.keep(link, producer, position);
                    continue;
                }
                Reply::List(results) => {
                    let position = self.watched_position(&watching)?;
                    let of_index = results.iter().skip(ready.rows.len()).take(noted);
                    for result in of_index {
                        if let Reply::Refused(said) = result {
                            return Err(self.refused(said));
                        }
                    }
                    self.forget_refused(&mut link, &ready, &results).await?;
                    if let Some(producer) = producer {
                        self.last = Some((Arc::clone(producer), delivery.position));
                    }
                    self.keep(link, producer, position);
                    return Ok(Written::of(self.rejected(ready, &results)));
                }
                Reply::Refused(said) => {
                    link.close().await;
                    return Err(self.refused(&said));
                }
                Reply::Number(_) | Reply::Value(_) => return Err(closed(&self.server.address)),
            }
        }
    }

    /// Takes rows that the server refused out of the index: their keys hold something else.
    async fn forget_refused(
        &self,
        link: &mut RedisLink,
        ready: &Ready,
        results: &[Reply],
    ) -> Result<(), Error> {
        let Some(index) = &self.plan.index else {
            return Ok(());
        };
        let refused = results.iter().zip(&ready.rows);
        let refused = refused.filter(|(result, _)| matches!(result, Reply::Refused(_)));
        let refused: HashSet<usize> = refused.map(|(_, row)| *row).collect();
        let keys = ready.keys.iter().filter(|(row, _)| refused.contains(row));
        let keys: Vec<(Vec<u8>, bool)> = keys.map(|(_, key)| (key.clone(), false)).collect();
        let mut commands = Commands::default();
        index.note(&keys, &mut commands);
        if !keys.is_empty() {
            link.run(&commands).await?;
        }
        Ok(())
    }

    fn keep(&mut self, link: RedisLink, producer: Option<&Arc<str>>, position: Option<u64>) {
        self.link = Some(link);
        self.watched = producer.map(|producer| (Arc::clone(producer), position));
    }

    /// The rows that were refused: here, and by the server, which goes on behind a command that it refuses.
    fn rejected(&self, ready: Ready, results: &[Reply]) -> Vec<(usize, Error)> {
        let mut rejected = ready.rejected;
        for (result, row) in results.iter().zip(&ready.rows) {
            if let Reply::Refused(said) = result
                && rejected.last().is_none_or(|(last, _)| last != row)
            {
                rejected.push((*row, self.permanent(said)));
            }
        }
        rejected.sort_by_key(|(row, _)| *row);
        rejected
    }

    /// The refusal of one row's command: its key holds something else, or the value does not fit.
    fn permanent(&self, said: &str) -> Error {
        let error = self.refused(said);
        match error.class() {
            Class::Permanent => error,
            _ => Error::new(Class::Permanent, "redis.row")
                .with("address", &self.server.address)
                .with("said", said),
        }
    }

    /// Rows of a delivery that was written before the writer could note what was refused: those whose key holds
    /// something else.
    async fn refused_before(
        &self,
        link: &mut RedisLink,
        ready: &Ready,
    ) -> Result<Vec<(usize, Error)>, Error> {
        let mut rejected: Vec<_> = ready.rejected.clone();
        let mut commands = Commands::default();
        for (_, key) in &ready.keys {
            commands.add(&[b"TYPE", key]);
        }
        let kinds = link.run(&commands).await?;
        for ((row, _), kind) in ready.keys.iter().zip(&kinds) {
            let holds = self.plan.kind.held();
            if kind
                .text()
                .is_some_and(|kind| kind != "none" && kind != holds)
                && self.plan.kind != Kind::Value
            {
                let said = "WRONGTYPE Operation against a key holding the wrong kind of value";
                rejected.push((*row, self.refused(said)));
            }
        }
        rejected.sort_by_key(|(row, _)| *row);
        rejected.dedup_by_key(|(row, _)| *row);
        Ok(rejected)
    }

    /// Removes every key that this connection can have written. Done again where the delivery comes again.
    async fn truncate(&self, link: &mut RedisLink) -> Result<(), Error> {
        let mut cursor = "0".to_owned();
        loop {
            let mut commands = Commands::default();
            let (pattern, count) = (self.plan.pattern.as_bytes(), SCAN_KEYS.to_string());
            commands.add(&[
                b"SCAN",
                cursor.as_bytes(),
                b"MATCH",
                pattern,
                b"COUNT",
                count.as_bytes(),
            ]);
            let replies = link.run(&commands).await?;
            let scanned = match replies.first() {
                Some(Reply::Refused(said)) => return Err(self.refused(said)),
                Some(Reply::List(scanned)) if scanned.len() == 2 => scanned,
                _ => return Err(closed(&self.server.address)),
            };
            let mut commands = Commands::default();
            for key in scanned[1].list().unwrap_or_default() {
                if let Reply::Value(key) = key {
                    commands.add(&[b"UNLINK", key]);
                }
            }
            for reply in link.run(&commands).await? {
                if let Reply::Refused(said) = reply {
                    return Err(self.refused(&said));
                }
            }
            cursor = scanned[0].text().unwrap_or("0").to_owned();
            if cursor == "0" {
                return Ok(());
            }
        }
    }
}

/// Watches a position and reads it.
fn watch(key: &str, commands: &mut Commands) {
    commands.add(&[b"WATCH", key.as_bytes()]);
    commands.add(&[b"GET", key.as_bytes()]);
}

impl Plan {
    fn new(options: &WriteOptions, schema: &SchemaRef) -> Result<Plan, Error> {
        let place = |option: &'static str, column: &str| {
            schema.index_of(column).map_err(|_| {
                let there: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                Error::new(Class::Configuration, "redis.flow-column")
                    .with("option", option)
                    .with("column", column)
                    .with("there", there.join(", "))
            })
        };
        let key = RedisKey::new(&options.template()?);
        let key_places = key.columns().map(|name| place("key", name));
        let key_places = key_places.collect::<Result<Vec<_>, _>>()?;
        let special = |option, column: &Option<String>| {
            let column = column.as_deref();
            column.map(|column| place(option, column)).transpose()
        };
        let change = special("change", &options.change)?;
        let unchanged = special("unchanged", &options.unchanged)?;
        let columns = schema.fields().iter().enumerate();
        let columns = columns
            .filter(|(at, _)| Some(*at) != change && Some(*at) != unchanged)
            .map(|(at, field)| (field.name().clone(), at));
        Ok(Plan {
            kind: options.kind,
            pattern: key.pattern(),
            keys: key.pattern(),
            index: None,
            key,
            key_places,
            columns: columns.collect(),
            change,
            unchanged,
            ttl_millis: options.ttl_millis(),
            max: options.max,
            delete: options.delete,
        })
    }

    fn of_table(rows: &HotLayout, schema: &SchemaRef, change: Option<&str>) -> Result<Plan, Error> {
        let place = |name: &str| {
            schema.index_of(name).map_err(|_| {
                Error::new(Class::Configuration, "table.key-missing")
                    .with("table", &rows.place.table)
                    .with("column", name)
            })
        };
        let key = hot_key(rows);
        let key_places = rows.key.iter().map(|name| place(name));
        let change = change.map(place).transpose()?;
        let columns = schema.fields().iter().enumerate();
        let columns = columns
            .filter(|(at, _)| Some(*at) != change)
            .map(|(at, field)| (field.name().clone(), at));
        let ttl = rows.place.ttl.filter(|_| !rows.place.moves);
        Ok(Plan {
            kind: Kind::Hash,
            key_places: key_places.collect::<Result<_, Error>>()?,
            pattern: key.pattern(),
            keys: hot_keys(&rows.place),
            index: Some(HotIndex::of(rows)),
            key,
            columns: columns.collect(),
            change,
            unchanged: None,
            ttl_millis: ttl.and_then(|ttl| u64::try_from(ttl.as_millis()).ok()),
            max: None,
            delete: false,
        })
    }

    /// The commands that writing takes, as rights are written.
    fn rights(&self) -> &'static str {
        match self.kind {
            Kind::Hash if self.index.is_some() => HOT_RIGHTS,
            Kind::Hash => "+hset +hdel +del +unlink +pexpire +scan +type",
            Kind::Value => "+set +del +unlink +scan +type",
            Kind::Set => "+sadd +srem +unlink +pexpire +scan +type",
            Kind::Stream => "+xadd +pexpire +type",
        }
    }

    /// The commands of a delivery.
    fn ready(&self, delivery: &Delivery) -> Result<Ready, Error> {
        let rows = &delivery.rows;
        let cell = |(name, at): &(String, usize)| TextCells::new(name, rows.column(*at));
        let cells = self.columns.iter().map(cell);
        let cells = cells.collect::<Result<Vec<_>, _>>()?;
        let key = self.key.columns().zip(&self.key_places);
        let key = key.map(|(name, at)| TextCells::new(name, rows.column(*at)));
        let key = key.collect::<Result<Vec<_>, _>>()?;
        let texts = |place: Option<usize>| {
            let column = place.map(|at| cast(rows.column(at), &DataType::Utf8));
            column.transpose().map_err(|why| {
                Error::new(Class::Configuration, "connect.change-type").caused_by(why)
            })
        };
        let (change, unchanged) = (texts(self.change)?, texts(self.unchanged)?);
        let text = |column: &Option<ArrayRef>, row: usize| {
            let column = column.as_ref().filter(|column| column.is_valid(row));
            column.map(|column| column.as_string::<i32>().value(row).to_owned())
        };
        let payloads = match self.kind {
            Kind::Value | Kind::Set => Some(delivery.events.payloads()),
            Kind::Hash | Kind::Stream => None,
        };
        let mut ready = Ready::default();
        for row in 0..rows.num_rows() {
            let op = match (&change, self.delete) {
                (None, false) => Ok(Op::Upsert),
                (None, true) => Ok(Op::Delete),
                (Some(_), _) => Op::of(&text(&change, row).unwrap_or_default()),
            };
            let op = match op {
                Ok(op) => op,
                Err(error) => {
                    ready.rejected.push((row, error));
                    continue;
                }
            };
            match op {
                Op::Nothing => continue,
                Op::Truncate => {
                    // What came before it would go with it.
                    ready = Ready {
                        truncate: true,
                        rejected: ready.rejected,
                        ..Ready::default()
                    };
                    continue;
                }
                _ => {}
            }
            let key = match self.key.of(key.iter().map(|cells| cells.get(row))) {
                Ok(key) => key,
                Err(name) => {
                    let error = Error::new(Class::Permanent, "connect.key-null");
                    ready.rejected.push((row, error.with("column", name)));
                    continue;
                }
            };
            if self.index.is_some() {
                ready.order.push((key.clone(), op != Op::Delete));
            }
            let before = ready.commands.count();
            let kept = text(&unchanged, row).map(|text| crate::change::kept(&text));
            let kept = kept.unwrap_or_default();
            let payload = payloads.as_ref().map(|payloads| payloads.value(row));
            if op == Op::Delete {
                match payload {
                    Some(member) if self.kind == Kind::Set => {
                        ready.commands.add(&[b"SREM", &key, member]);
                    }
                    _ => ready.commands.add(&[b"DEL", &key]),
                }
            } else {
                self.put(&key, row, &cells, payload, &kept, &mut ready.commands);
                ready.keys.push((row, key));
            }
            let count = ready.commands.count() - before;
            ready.rows.extend(std::iter::repeat_n(row, count));
        }
        Ok(ready)
    }

    /// Adds the commands that put a row under its key.
    fn put(
        &self,
        key: &[u8],
        row: usize,
        cells: &[TextCells],
        payload: Option<&[u8]>,
        kept: &[String],
        commands: &mut Commands,
    ) {
        let ttl = self.ttl_millis.map(|millis| millis.to_string());
        match self.kind {
            Kind::Value => {
                let payload = payload.unwrap_or_default();
                match &ttl {
                    Some(ttl) => commands.add(&[b"SET", key, payload, b"PX", ttl.as_bytes()]),
                    None => commands.add(&[b"SET", key, payload]),
                }
                return;
            }
            Kind::Set => commands.add(&[b"SADD", key, payload.unwrap_or_default()]),
            Kind::Hash | Kind::Stream => {
                let named = self.columns.iter().zip(cells);
                let named = named.filter(|((name, _), _)| !kept.contains(name));
                let values = named.map(|((name, _), cells)| (name.as_bytes(), cells.get(row)));
                let (there, gone): (Vec<_>, Vec<_>) =
                    values.partition(|(_, value)| value.is_some());
                self.fields(key, &there, &gone, commands);
            }
        }
        if let Some(ttl) = &ttl {
            commands.add(&[b"PEXPIRE", key, ttl.as_bytes()]);
        }
    }

    fn fields(
        &self,
        key: &[u8],
        there: &[NamedCell<'_>],
        gone: &[NamedCell<'_>],
        commands: &mut Commands,
    ) {
        let stream = self.kind == Kind::Stream;
        // A stream takes no entry without fields, and a row of nothing is an event all the same.
        let empty = stream && there.is_empty();
        if !there.is_empty() || empty {
            let max = self.max.filter(|_| stream).map(|max| max.to_string());
            let head = match (stream, &max) {
                (false, _) => 2,
                (true, None) => 3,
                (true, Some(_)) => 6,
            };
            commands.begin(head + 2 * there.len() + if empty { 2 } else { 0 });
            commands.word(if stream { b"XADD" } else { b"HSET" });
            commands.word(key);
            if let Some(max) = &max {
                commands.word(b"MAXLEN");
                commands.word(b"~");
                commands.word(max.as_bytes());
            }
            if stream {
                commands.word(b"*");
            }
            for (name, value) in there {
                commands.word(name);
                commands.word(value.as_deref().unwrap_or_default());
            }
            if empty {
                commands.word(b"");
                commands.word(b"");
            }
        }
        if !gone.is_empty() && !stream {
            commands.begin(2 + gone.len());
            commands.word(b"HDEL");
            commands.word(key);
            for (name, _) in gone {
                commands.word(name);
            }
        }
    }
}

impl Kind {
    /// What the server calls what is under a key of this kind.
    fn held(self) -> &'static str {
        match self {
            Kind::Hash => "hash",
            Kind::Value => "string",
            Kind::Set => "set",
            Kind::Stream => "stream",
        }
    }
}

impl Sink for RedisSink {
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>> {
        Box::pin(self.deliver(delivery))
    }

    fn position<'a>(&'a mut self, producer: &'a str) -> Work<'a, Result<Option<u64>, Error>> {
        Box::pin(async move {
            let producer = Arc::from(producer);
            let (link, position) = self.session(&producer).await?;
            self.keep(link, Some(&producer), position);
            Ok(position)
        })
    }

    fn close(&mut self) -> Work<'_, Result<(), Error>> {
        Box::pin(async {
            if let Some(link) = self.link.take() {
                link.close().await;
            }
            Ok(())
        })
    }
}

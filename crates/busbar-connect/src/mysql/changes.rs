//! Changes as they are committed, from the binary log, behind a snapshot of what was there before. Positions are places in
//! the log.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use busbar_connector::{Polled, Source, SourceContext, Work};
use busbar_event::{Class, Error};
use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::Instant;

use super::binlog::{self, Change, Entry, Event, Place, Rows, TableMap, Value};
use super::failure::Failed;
use super::follow::{self, Followed, Logs};
use super::limits::{CHUNK_ROWS_FIRST, IDLE, POLL_MAX, SILENCE_MAX, STATUS_EVERY};
use super::link::{Link, Server};
use super::{Follow, ZeroDates, row};
use crate::change::collect::{Collector, Table};
use crate::change::event;
use crate::change::snapshot::{Progress, Window, publishes};
use crate::topic::TopicTemplate;

/// Follows the changes of a database.
pub struct ChangeSource {
    server: Server,
    context: SourceContext,
    zero: ZeroDates,
    /// The session that changes come through.
    stream: Link,
    /// The session for snapshots and for looking at the server.
    sql: Option<Link>,
    tables: Vec<Following>,
    maps: HashMap<u64, Known>,
    collector: Collector,
    logs: Logs,
    /// The file that is read.
    file: u32,
    /// The transaction under way has begun, so that a statement is a part of it and does not end it.
    begun: bool,
    /// The server's seconds of the last event.
    time: u32,
    next_look: Instant,
    heard: Instant,
    lag_bytes: Option<u64>,
}

/// A table and how far its snapshot has come.
struct Following {
    followed: Followed,
    table: Table,
    window: Option<Window<u64>>,
    /// Rows of the next chunk.
    rows: usize,
    /// The columns of the last change, to see that they are others.
    columns: Option<Vec<binlog::Column>>,
}

struct Known {
    map: TableMap,
    table: Option<usize>,
}

impl ChangeSource {
    /// Checks the server and begins to listen.
    pub(super) async fn open(
        server: Server,
        options: &Follow,
        topic: &TopicTemplate,
        context: SourceContext,
    ) -> Result<ChangeSource, Error> {
        let mut collector = Collector::new(options.generation, context.resume.clone());
        let mut sql = server.open().await?;
        follow::check(&server, &mut sql).await?;
        let followed = follow::tables(&server, &mut sql, options).await?;
        let logs = follow::logs(&server, &mut sql).await?;
        let known = Place::from_number(collector.position());
        let begin = match known == Place::default() {
            true => logs.end(),
            false => known,
        };
        if !logs
            .files
            .iter()
            .any(|(file, length)| *file == begin.file && u64::from(begin.byte) <= *length)
        {
            let oldest = logs.files.first().map_or(0, |(file, _)| *file);
            return Err(lost(&server)
                .with("place", shown(&logs, begin))
                .with("oldest", logs.name(oldest)));
        }
        let mut stream = server.open().await?;
        let dumped = stream
            .dump(
                options.server_id.unwrap_or_else(any_id),
                &logs.name(begin.file),
                begin.byte,
            )
            .await;
        dumped.map_err(|failed| follow::replication_told(&server, failed))?;
        collector.advance(begin.number());
        let now = Instant::now();
        let mut source = ChangeSource {
            server,
            zero: options.zero_dates,
            stream,
            sql: Some(sql),
            tables: Vec::new(),
            maps: HashMap::new(),
            collector,
            logs,
            file: begin.file,
            begun: false,
            time: 0,
            next_look: now,
            heard: now,
            lag_bytes: None,
            context,
        };
        for followed in followed {
            source.follow(followed, options, topic);
        }
        source.collector.hand_on_position();
        Ok(source)
    }

    fn follow(&mut self, followed: Followed, options: &Follow, topic: &TopicTemplate) {
        let mut written = String::new();
        let value = |name: &str| match name {
            "connection" => Some(self.context.name.to_string()),
            "schema" => Some(followed.schema.clone()),
            _ => Some(followed.name.clone()),
        };
        topic.write(value, &mut written);
        let name = followed.shown();
        let again = options.again.get(&name).copied().unwrap_or(0);
        let now = self.context.clock.now_micros();
        let mut table = Table::new(
            &name,
            written,
            again,
            options.snapshot,
            &self.collector,
            now,
        );
        if !table.progress.done {
            // Rows that are gone since the snapshot before are known by their absence only.
            let mut emptied = Vec::new();
            event::truncate(&mut emptied);
            let anew = !table.has_begun() && (options.generation > 0 || again > 0);
            self.collector
                .begin_snapshot(&mut table, anew.then_some(&emptied));
        }
        self.tables.push(Following {
            followed,
            table,
            window: None,
            rows: CHUNK_ROWS_FIRST,
            columns: None,
        });
    }

    async fn next(&mut self) -> Result<Polled, Error> {
        loop {
            if let Some(polling) = self.collector.pop() {
                return Ok(Polled::Batch(polling));
            }
            self.look().await?;
            self.close_windows();
            if self.collector.is_full() || self.read_snapshot().await? {
                continue;
            }
            let Some(bytes) = self
                .stream
                .stream(POLL_MAX)
                .await
                .map_err(|failed| self.told(failed))?
            else {
                if self.heard.elapsed() > SILENCE_MAX {
                    let error = Error::new(Class::Transient, "mysql.silent");
                    return Err(error
                        .with("address", &self.server.address)
                        .with("seconds", SILENCE_MAX.as_secs()));
                }
                return Ok(Polled::Idle(IDLE));
            };
            self.heard = Instant::now();
            self.take(&bytes)?;
            while !self.collector.is_full() {
                let Some(bytes) = self.stream.streamed().map_err(|failed| self.told(failed))?
                else {
                    break;
                };
                self.take(&bytes)?;
            }
            self.collector.hand_on();
        }
    }

    fn told(&self, failed: Failed) -> Error {
        match failed {
            // The log is not there any more, or what it has there is no event.
            Failed::Server(error) if error.number == 1236 => {
                let place = Place::from_number(self.collector.position());
                lost(&self.server)
                    .with("place", shown(&self.logs, place))
                    .with("oldest", error.message)
            }
            failed => failed.told(self.server.doing("", "")),
        }
    }

    /// The session for statements; put back by the caller once its answer is there.
    async fn session(&mut self) -> Result<Link, Error> {
        match self.sql.take().filter(Link::usable) {
            Some(link) => Ok(link),
            None => self.server.open().await,
        }
    }

    /// Looks at how far the server is, from time to time.
    async fn look(&mut self) -> Result<(), Error> {
        if Instant::now() < self.next_look {
            return Ok(());
        }
        self.next_look = Instant::now() + STATUS_EVERY;
        // So that a restart does not read again what was about other tables.
        self.collector.hand_on_position();
        let mut sql = self.session().await?;
        self.logs = follow::logs(&self.server, &mut sql).await?;
        self.sql = Some(sql);
        let place = Place::from_number(self.collector.position());
        self.lag_bytes = Some(self.logs.behind(place));
        if self.logs.files.len() > 2
            && self
                .logs
                .files
                .first()
                .is_some_and(|(oldest, _)| *oldest == place.file)
        {
            tracing::warn!(
                connection = %self.context.name, file = self.logs.name(place.file),
                "the database will soon remove what this connection has not read; keep its binary log longer"
            );
        }
        Ok(())
    }

    fn take(&mut self, bytes: &Bytes) -> Result<(), Error> {
        let Some(Entry { time, end, event }) = binlog::entry(bytes) else {
            return Err(self.stream.strange("an event of another form"));
        };
        let place = Place {
            file: self.file,
            byte: end,
        };
        if time > 0 {
            self.time = time;
        }
        match event {
            Event::Rotate { file, byte } => {
                let Some(number) = file
                    .rsplit_once('.')
                    .and_then(|(_, number)| number.parse().ok())
                else {
                    return Err(self.stream.strange("a log file without a number"));
                };
                self.file = number;
                let byte = u32::try_from(byte).unwrap_or(0);
                self.collector
                    .advance(Place { file: number, byte }.number());
            }
            Event::Begin { id, begun } => {
                self.begun = begun;
                self.begin(place, id);
            }
            Event::Statement { schema, sql } => self.statement(place, &schema, &sql),
            Event::Commit => self.collector.commit(place.number()),
            Event::Table(map) => self.table(map)?,
            Event::Rows(rows) => self.rows(place, &rows)?,
            Event::Unreadable(variable) => {
                return Err(Error::new(Class::Configuration, "mysql.log-setting")
                    .with("address", &self.server.address)
                    .with("variable", variable)
                    .with("wanted", "OFF")
                    .with("found", "ON"));
            }
            Event::Heartbeat | Event::Other => {}
        }
        if end > 0 {
            self.collector.advance(place.number());
        }
        Ok(())
    }

    fn begin(&mut self, place: Place, id: String) {
        let time = i64::from(self.time) * 1_000_000;
        self.collector
            .begin(place.number(), shown(&self.logs, place), id, time);
    }

    /// A statement as text: it begins or ends a transaction, defines a table, or empties one.
    fn statement(&mut self, place: Place, schema: &str, sql: &str) {
        let words: Vec<_> = sql.split_whitespace().take(4).collect();
        let first = words
            .first()
            .map(|word| word.trim_end_matches(';').to_ascii_uppercase());
        match first.as_deref().unwrap_or_default() {
            "BEGIN" | "START" => {
                if !self.collector.in_transaction() {
                    self.begin(place, String::new());
                }
                self.begun = true;
            }
            "COMMIT" => self.collector.commit(place.number()),
            "ROLLBACK" if words.len() == 1 => self.collector.commit(place.number()),
            "SAVEPOINT" | "ROLLBACK" | "RELEASE" => {}
            first => {
                if !self.collector.in_transaction() {
                    self.begin(place, String::new());
                    self.begun = false;
                }
                if first == "TRUNCATE" {
                    let at = if words
                        .get(1)
                        .is_some_and(|word| word.eq_ignore_ascii_case("table"))
                    {
                        2
                    } else {
                        1
                    };
                    let name = words
                        .get(at)
                        .map_or("", |name| name.trim_end_matches(';'))
                        .replace('`', "");
                    let (schema, name) = crate::change::table_name(&name, schema);
                    let table = self.tables.iter().find(|table| {
                        table.followed.schema == schema && table.followed.name == name
                    });
                    if let Some(Following { table, .. }) =
                        table.filter(|table| table.table.has_begun())
                    {
                        let mut payload = Vec::new();
                        event::truncate(&mut payload);
                        self.collector.push(&table.topic, None, payload);
                    }
                }
                self.collector.count();
                if !self.begun {
                    self.collector.commit(place.number());
                }
            }
        }
    }

    fn table(&mut self, mut map: TableMap) -> Result<(), Error> {
        let table = self.tables.iter().position(|table| {
            table.followed.schema == map.schema && table.followed.name == map.name
        });
        if let Some(at) = table {
            if !map.full {
                return Err(Error::new(Class::Configuration, "mysql.log-setting")
                    .with("address", &self.server.address)
                    .with("variable", "binlog_row_metadata")
                    .with("wanted", "FULL")
                    .with("found", "MINIMAL"));
            }
            let Following {
                followed,
                table,
                columns,
                ..
            } = &mut self.tables[at];
            if map.key.is_empty() {
                let named = followed.key.iter().filter_map(|at| {
                    let name = &followed.columns[*at].name;
                    map.columns.iter().position(|column| column.name == *name)
                });
                map.key = named.collect();
            }
            let same = match columns {
                Some(before) => *before == map.columns,
                None => followed
                    .columns
                    .iter()
                    .map(|column| &column.name)
                    .eq(map.columns.iter().map(|column| &column.name)),
            };
            if !same {
                let mut payload = Vec::new();
                let described = map.columns.iter().enumerate();
                let described = described.map(|(at, column)| {
                    (
                        column.name.clone(),
                        format!("\"{}\"", column.kind.name()),
                        map.key.contains(&at),
                    )
                });
                event::schema(described, &mut payload);
                self.collector.push(&table.topic, None, payload);
                self.collector.count();
            }
            *columns = Some(map.columns.clone());
        }
        self.maps.insert(map.id, Known { map, table });
        Ok(())
    }

    fn rows(&mut self, place: Place, rows: &Rows) -> Result<(), Error> {
        let Some(Known {
            map,
            table: Some(at),
        }) = self.maps.get(&rows.table)
        else {
            return Ok(());
        };
        let Some(images) = rows.images(&map.columns) else {
            return Err(Error::new(Class::Configuration, "mysql.unreadable-row")
                .with("address", &self.server.address)
                .with("table", format!("{}.{}", map.schema, map.name)));
        };
        let Following {
            followed,
            table,
            window,
            ..
        } = &self.tables[*at];
        let columns: Vec<_> = map
            .columns
            .iter()
            .map(|column| column.described())
            .collect();
        let place = place.number();
        let has = |seen: &u64| place <= *seen;
        let push =
            |collector: &mut Collector, change: &str, image: &[Value], before: Option<&[Value]>| {
                let key = row::key(&map.key, image);
                let filtered = !table.resumed && (!table.progress.done || window.is_some());
                if filtered
                    && !publishes(
                        followed.order.as_deref(),
                        &table.progress,
                        window.as_ref(),
                        &key,
                        has,
                    )
                {
                    return;
                }
                let mut payload = Vec::new();
                row::write_change(change, &columns, image, before, self.zero, &mut payload);
                let key: Vec<_> = key
                    .iter()
                    .map(|value| String::from_utf8_lossy(value))
                    .collect();
                collector.push(&table.topic, Some(key.join(",")), payload);
            };
        for (first, second) in &images {
            match (rows.change, second) {
                // Whoever keeps rows by key has to let go of the old one.
                (Change::Update, Some(second))
                    if row::key(&map.key, first) != row::key(&map.key, second) =>
                {
                    push(&mut self.collector, "delete", first, None);
                    push(&mut self.collector, "insert", second, None);
                }
                (Change::Update, Some(second)) => {
                    push(&mut self.collector, "update", second, Some(first))
                }
                (Change::Delete, _) => push(&mut self.collector, "delete", first, None),
                _ => push(&mut self.collector, "insert", first, None),
            }
            self.collector.count();
        }
        Ok(())
    }

    fn close_windows(&mut self) {
        if self.collector.in_transaction() {
            return;
        }
        let position = self.collector.position();
        for table in &mut self.tables {
            if table
                .window
                .as_ref()
                .is_some_and(|window| position >= window.high)
            {
                table.window = None;
            }
        }
    }

    /// Reads a chunk of a snapshot, if one is due; whether it has.
    async fn read_snapshot(&mut self) -> Result<bool, Error> {
        let waits = self.tables.iter().any(|table| table.window.is_some());
        if waits || self.collector.in_transaction() {
            return Ok(false);
        }
        let Some(at) = self
            .tables
            .iter()
            .position(|table| !table.table.progress.done)
        else {
            return Ok(false);
        };
        let mut sql = self.session().await?;
        let Following {
            followed,
            table,
            rows,
            ..
        } = &self.tables[at];
        let after = table.progress.last.clone();
        let chunk = follow::chunk(&self.server, &mut sql, followed, after.as_deref(), *rows).await;
        let chunk =
            chunk.map_err(|failed| failed.told(self.server.doing(&followed.quoted(), "SELECT")))?;
        self.sql = Some(sql);
        let Following {
            followed,
            table,
            rows,
            window,
            ..
        } = &mut self.tables[at];
        let found = &chunk.answer.rows;
        let key = |row: &[Option<Bytes>]| -> Vec<Bytes> {
            followed
                .key
                .iter()
                .map(|at| row[*at].clone().unwrap_or_default())
                .collect()
        };
        let mut keys = HashSet::new();
        if followed.order.is_none() {
            keys.extend(found.iter().map(|row| key(row)));
        }
        let mut payload = Vec::new();
        for values in found {
            payload.clear();
            row::write_read(&followed.columns, values, self.zero, &mut payload);
            let key = key(values);
            let key: Vec<_> = key
                .iter()
                .map(|value| String::from_utf8_lossy(value))
                .collect();
            self.collector
                .push_read(table, Some(&key.join(",")), &payload);
        }
        let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
        let last = found.last().map(|row| key(row).iter().map(text).collect());
        let progress = Progress {
            last: last.or(after.clone()),
            done: chunk.last,
        };
        self.collector.hand_on();
        self.collector.end_read(table, Some(progress));
        *rows = follow::next_rows(&chunk.answer);
        let seen = chunk.seen.number();
        *window = Some(Window {
            after,
            seen,
            high: seen,
            keys,
        });
        Ok(true)
    }
}

impl Source for ChangeSource {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(self.next())
    }

    fn committed(&mut self, part: &str, position: u64) {
        self.collector.note_committed(part, position);
    }

    fn forgotten(&mut self) -> Vec<Arc<str>> {
        self.collector.forgotten()
    }

    fn lag_bytes(&self) -> Option<u64> {
        self.lag_bytes
    }
}

fn shown(logs: &Logs, place: Place) -> String {
    format!("{}:{}", logs.name(place.file), place.byte)
}

fn lost(server: &Server) -> Error {
    Error::new(Class::Configuration, "mysql.position-lost").with("address", &server.address)
}

/// A number for the server to tell its readers apart: one that no server and no other reader is likely to have.
fn any_id() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness all readers of this process would have one number, and the server would send one of them away.
    let _ = SystemRandom::new().fill(&mut bytes);
    u32::from_le_bytes(bytes) | 0x4000_0000
}

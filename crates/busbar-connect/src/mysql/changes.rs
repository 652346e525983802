//! Changes as they are committed, from the binary log, behind a snapshot of what was there before. Positions are places in
//! the log.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use busbar_change::event;
use busbar_change::mysql::binlog::{
    self, ImageValue, LogEntry, LogEvent, LogPlace, LoggedChange, LoggedRows, TableMap,
};
use busbar_change::mysql::{DescribedColumn, ZeroDates, row};
use busbar_connector::{Polled, SnapshotStatus, Source, SourceContext, Work};
use busbar_event::{Class, Error};
use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::Instant;

use super::MySqlFollow;
use super::failure::Failed;
use super::follow::{self, BinlogTable, Logs};
use super::limits::{CHUNK_ROWS_FIRST, IDLE, MAPS_MAX, POLL_MAX, SILENCE_MAX, STATUS_EVERY};
use super::link::{Link, MysqlServer, Start};
use super::origin::Origin;
use super::sink::POSITIONS_TABLE;
use super::snapshot::{self, PassedTransactions};
use super::statement::LogStatement;
use crate::change::begin::BeginTables;
use crate::change::collect::{Collector, Table};
use crate::change::count::RowEffect;
use crate::change::held::HeldChunk;
use crate::change::snapshot::{Progress, will_be_read};
use crate::change::watch::{Looked, Watch};
use crate::topic::TopicTemplate;

/// Follows the changes of a database.
pub struct MySqlChanges {
    server: MysqlServer,
    context: SourceContext,
    zero: ZeroDates,
    /// The session that changes come through.
    stream: Link,
    /// The session for snapshots and for looking at the server.
    sql: Option<Link>,
    tables: Vec<BinlogFollow>,
    maps: HashMap<u64, Known>,
    collector: Collector,
    /// The server whose log is read.
    origin: Origin,
    /// Another server has taken over; its first transaction takes the place of `origin`.
    taken_over: Option<Origin>,
    /// MariaDB's number of the transaction under way.
    gtid: String,
    logs: Logs,
    /// Collations whose texts are UTF-8.
    collations: HashSet<u64>,
    /// How far the log has been read.
    place: LogPlace,
    /// Events have checksums.
    checksums: bool,
    /// The transaction under way has begun, so that a statement is a part of it and does not end it.
    begun: bool,
    /// The server's seconds of the last event.
    time: u32,
    /// The transaction under way has a change of a followed table, the last one of this row: the place of the table and the
    /// key, where there is one.
    changed: Option<Option<(usize, Vec<Bytes>)>>,
    /// Transactions that have passed. A chunk that saw less is read again.
    passed: PassedTransactions,
    next_look: Instant,
    heard: Instant,
    lag_bytes: Option<u64>,
    watch: Watch,
    /// The log is soon to be removed where it is read.
    short: Option<Error>,
}

/// A table and how far its snapshot has come.
struct BinlogFollow {
    followed: BinlogTable,
    table: Table,
    /// The last chunk, until the stream has passed what it saw.
    held: Option<HeldChunk>,
    /// Rows of the next chunk.
    rows: usize,
    /// The columns of the last change, to see that they are others.
    columns: Option<Vec<binlog::Column>>,
}

struct Known {
    map: TableMap,
    columns: Vec<DescribedColumn>,
    table: Option<usize>,
}

impl MySqlChanges {
    /// Checks the server and begins to listen.
    pub(super) async fn open(
        server: MysqlServer,
        options: &MySqlFollow,
        topic: &TopicTemplate,
        context: SourceContext,
    ) -> Result<MySqlChanges, Error> {
        let mut collector = Collector::new(options.generation, context.resume.clone());
        collector.leave_out(&options.without, options.echo);
        let mut sql = server.open().await?;
        follow::check(&server, &mut sql).await?;
        let followed = follow::tables(&server, &mut sql, options).await?;
        let collations = follow::collations(&server, &mut sql).await?;
        let logs = follow::logs(&server, &mut sql).await?;
        let identity = follow::identity(&server, &mut sql).await?;
        let position = collector.position();
        let mut origin = Origin::from_bytes(&collector.note);
        let mut taken_over = None;
        let mut begin = LogPlace::default();
        if position == 0 {
            begin = logs.end();
            origin.server.clone_from(&identity);
            origin.pass_all(&follow::gtids_at(&server, &mut sql, &logs, begin).await?);
            collector.note = origin.to_bytes();
        } else if origin.server == identity {
            let place = origin.place(position);
            let Some(there) = logs.begin_at(place) else {
                return Err(follow::lost(&server, &logs, logs.shown(place)));
            };
            begin = there;
        } else if origin.gtids.is_empty() {
            return Err(follow::lost(
                &server,
                &logs,
                logs.shown(origin.place(position)),
            ));
        } else {
            taken_over = Some(origin.taken_over(&identity, collector.reached()));
        }
        let mut stream = server.open().await?;
        let from = match taken_over {
            Some(_) => Start::Gtid(origin.list()),
            None => Start::At(
                logs.name(begin.file),
                u32::try_from(begin.byte).unwrap_or(u32::MAX),
            ),
        };
        let id = options.server_id.unwrap_or_else(any_id);
        let dumped = stream.dump(id, &from).await;
        dumped.map_err(|failed| follow::replication_told(&server, failed))?;
        if taken_over.is_none() {
            collector.advance(origin.position(begin));
        }
        let now = Instant::now();
        let mut source = MySqlChanges {
            server,
            zero: options.zero_dates,
            stream,
            sql: Some(sql),
            tables: Vec::new(),
            maps: HashMap::new(),
            collector,
            origin,
            taken_over,
            gtid: String::new(),
            logs,
            collations,
            place: begin,
            checksums: false,
            begun: false,
            time: 0,
            changed: None,
            passed: PassedTransactions::default(),
            next_look: now,
            heard: now,
            lag_bytes: None,
            watch: Watch::new(now),
            short: None,
            context,
        };
        let begin = BeginTables {
            topic,
            snapshot: options.snapshot,
            generation: options.generation,
            again: &options.again,
        };
        for followed in followed {
            let (schema, name) = (&followed.schema, &followed.name);
            let columns = Some(followed.mark());
            let of = (&mut source.collector, &source.context);
            let table = begin.begin(of, (schema, name), columns);
            source.tables.push(BinlogFollow {
                followed,
                table,
                held: None,
                rows: CHUNK_ROWS_FIRST,
                columns: None,
            });
        }
        source.collector.hand_on_position();
        Ok(source)
    }

    async fn next(&mut self) -> Result<Polled, Error> {
        loop {
            if let Some(polling) = self.collector.pop() {
                return Ok(Polled::Batch(polling));
            }
            self.look().await?;
            self.begin_asked();
            self.let_go();
            if self.collector.is_full() || self.read_snapshot().await? {
                continue;
            }
            let bytes = match self.stream.stream(POLL_MAX).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) if self.heard.elapsed() > SILENCE_MAX => {
                    let error = Error::new(Class::Transient, "mysql.silent");
                    return Err(error
                        .with("address", &self.server.address)
                        .with("seconds", SILENCE_MAX.as_secs()));
                }
                Ok(None) => return Ok(Polled::Idle(IDLE)),
                Err(failed) => return Err(self.told(failed).await),
            };
            self.heard = Instant::now();
            self.take(&bytes)?;
            while !self.collector.is_full() {
                match self.stream.streamed() {
                    Ok(Some(bytes)) => self.take(&bytes)?,
                    Ok(None) => break,
                    Err(failed) => return Err(self.told(failed).await),
                }
            }
            self.collector.hand_on();
        }
    }

    /// Why the stream has ended. The server has one number for all that is wrong with reading its log: the place is looked
    /// for to tell a log that is lost from what passes.
    async fn told(&mut self, failed: Failed) -> Error {
        let error = match failed {
            Failed::Server(error) if BAD_LOG.contains(&error.number) => error,
            failed => return failed.told(self.server.doing("", "")),
        };
        let mut sql = match self.session().await {
            Ok(sql) => sql,
            Err(error) => return error,
        };
        let logs = match follow::logs(&self.server, &mut sql).await {
            Ok(logs) => logs,
            Err(error) => return error,
        };
        self.sql = Some(sql);
        if self.taken_over.is_some() {
            return follow::lost(&self.server, &logs, self.origin.list());
        }
        let place = self.origin.place(self.collector.position());
        match logs.begin_at(place) {
            None => follow::lost(&self.server, &logs, logs.shown(place)),
            Some(_) => Error::new(Class::Transient, "mysql.for-now")
                .with("address", &self.server.address)
                .with("said", error.message),
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
        let place = match self.taken_over {
            Some(_) => self.place,
            None => self.origin.place(self.collector.position()),
        };
        self.lag_bytes = Some(self.logs.behind(place));
        let oldest = self.logs.files.first().map(|(oldest, _)| *oldest);
        self.short = (self.logs.files.len() > 2 && oldest == Some(place.file)).then(|| {
            Error::new(Class::Configuration, "mysql.log-short")
                .with("address", &self.server.address)
                .with("place", self.logs.shown(place))
        });
        let reading = self.tables.iter().filter(|table| !table.is_read());
        let read = self.tables.iter().map(|table| table.table.progress.rows);
        let looked = Looked {
            taken: self.collector.taken(),
            there: self.origin.position(self.logs.end()),
            reading: (reading.count() > 0).then(|| read.sum()),
            kept_from: None,
        };
        self.watch.look(Instant::now(), looked);
        Ok(())
    }

    fn take(&mut self, bytes: &Bytes) -> Result<(), Error> {
        let Some(LogEntry { time, end, event }) = binlog::entry(bytes, self.checksums) else {
            return Err(self.stream.strange("an event of another form"));
        };
        match event {
            // It repeats the place of the last event.
            LogEvent::Heartbeat => {}
            _ if end > 0 => self.place = self.place.onward(end),
            _ => {}
        }
        if time > 0 {
            self.time = time;
        }
        match event {
            LogEvent::Rotate { file, byte } => {
                let Some(number) = file
                    .rsplit_once('.')
                    .and_then(|(_, number)| number.parse().ok())
                else {
                    return Err(self.stream.strange("a log file without a number"));
                };
                self.place = LogPlace { file: number, byte };
            }
            LogEvent::Format { checksums } => self.checksums = checksums,
            LogEvent::Begin { id, begun } => {
                self.begun = begun;
                self.begin(id);
            }
            LogEvent::Statement { schema, sql } => self.statement(&schema, &sql),
            LogEvent::Commit => self.commit(),
            LogEvent::Table(raw) => self.table(&raw)?,
            LogEvent::Rows(rows) => self.rows(&rows)?,
            LogEvent::Unreadable(variable) => {
                return Err(Error::new(Class::Configuration, "mysql.log-setting")
                    .with("address", &self.server.address)
                    .with("variable", variable)
                    .with("wanted", "OFF")
                    .with("found", "ON"));
            }
            LogEvent::Prepared if !self.collector.has_changes() => self.commit(),
            LogEvent::Prepared => {
                let error = Error::new(Class::Configuration, "mysql.prepared");
                return Err(error.with("address", &self.server.address));
            }
            LogEvent::Heartbeat | LogEvent::Other => {}
        }
        if self.taken_over.is_none() {
            self.collector.advance(self.origin.position(self.place));
        }
        Ok(())
    }

    fn begin(&mut self, id: String) {
        let time = i64::from(self.time) * 1_000_000;
        let shown = self.logs.shown(self.place);
        self.changed = None;
        if let Some(origin) = self.taken_over.take() {
            self.origin = origin;
        }
        self.gtid.clone_from(&id);
        let position = self.origin.position(self.place);
        let now = self.context.clock.now_micros();
        self.collector.begin(position, shown, id, time, now);
        let mut held = self.tables.iter_mut().filter(|table| table.held.is_some());
        if let Some(table) = held.next()
            && self.collector.repeats_transaction()
        {
            // A change that takes the place of a row of the chunk may be left out.
            table.held = None;
        }
    }

    fn commit(&mut self) {
        let position = self.origin.position(self.place);
        if let Some(row) = self.changed.take() {
            self.pass(position, row);
        }
        self.origin.pass(&std::mem::take(&mut self.gtid));
        // What was handed on before is of the transactions before.
        if self.collector.is_large() {
            self.collector.note = self.origin.to_bytes();
        }
        self.collector.commit(position);
        self.collector.note = self.origin.to_bytes();
        if self.maps.len() > MAPS_MAX {
            self.maps.clear();
        }
    }

    /// A transaction with changes of followed tables has passed; the next chunk has to see it.
    fn pass(&mut self, position: u64, row: Option<(usize, Vec<Bytes>)>) {
        let row = row.map(|(at, key)| self.tables[at].followed.locking(&key));
        let number = self.number().map(str::to_owned);
        self.passed.pass(position, number, row);
    }

    /// MySQL's number of the transaction under way, if it has one; these begin with one.
    fn number(&self) -> Option<&str> {
        let has_number = self.gtid.contains(':') && !self.gtid.ends_with(":0");
        has_number.then_some(&*self.gtid)
    }

    /// A statement as text: it begins or ends a transaction, defines a table, or empties one.
    fn statement(&mut self, schema: &str, sql: &str) {
        match LogStatement::read(sql) {
            LogStatement::Begin => {
                if !self.collector.in_transaction() {
                    self.begin(String::new());
                }
                self.begun = true;
            }
            LogStatement::Commit => self.commit(),
            LogStatement::Rollback => {
                self.collector.take_back();
                self.commit();
            }
            LogStatement::Savepoint => {}
            other => {
                if !self.collector.in_transaction() {
                    self.begin(String::new());
                    self.begun = false;
                }
                if let LogStatement::Empties(names) = other {
                    for (of, name) in names {
                        self.emptied(of.as_deref().unwrap_or(schema), &name);
                    }
                }
                self.collector.count();
                if !self.begun {
                    self.commit();
                }
            }
        }
    }

    fn emptied(&mut self, schema: &str, name: &str) {
        let table = self
            .tables
            .iter_mut()
            .find(|table| table.followed.schema == schema && table.followed.name == name);
        let Some(BinlogFollow { table, held, .. }) = table else {
            return;
        };
        match table.has_begun() || held.is_some() {
            // A chunk that has seen it waits for the stream.
            true => self.collector.empty(table),
            false => table.count.emptied(),
        }
        if let Some(held) = held {
            held.empty();
        }
        self.changed.get_or_insert(None);
    }

    fn table(&mut self, raw: &Bytes) -> Result<(), Error> {
        let known = binlog::table_id(raw).and_then(|id| self.maps.get(&id));
        if known.is_some_and(|known| known.map.raw == *raw) {
            return Ok(());
        }
        let Some(mut map) = binlog::table(raw) else {
            return Err(self.stream.strange("a table of another form"));
        };
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
            let BinlogFollow {
                followed,
                table,
                columns,
                ..
            } = &mut self.tables[at];
            let other = map.columns.iter().find(|column| {
                let collation = column.kind.collation();
                collation.is_some_and(|collation| !self.collations.contains(&collation))
            });
            if let Some(other) = other {
                return Err(Error::new(Class::Configuration, "mysql.charset")
                    .with("address", &self.server.address)
                    .with("table", followed.quoted())
                    .with("column", &other.name)
                    .with("charset", "-"));
            }
            if map.key.is_empty() {
                let named = followed.key.iter().filter_map(|at| {
                    let name = &followed.columns[*at].name;
                    map.columns.iter().position(|column| column.name == *name)
                });
                map.key = named.collect();
            }
            let mark = map.mark();
            let same = match columns {
                Some(before) => *before == map.columns,
                None => table.has_told(&mark).unwrap_or(true),
            };
            table.tell(mark);
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
        let columns = map.columns.iter().map(|column| column.described());
        let known = Known {
            columns: columns.collect(),
            table,
            map,
        };
        self.maps.insert(known.map.id, known);
        Ok(())
    }

    /// A sink begins its transaction with the position of its producer.
    fn producer(&mut self, rows: &LoggedRows) {
        let Some(Known { map, .. }) = self.maps.get(&rows.table) else {
            return;
        };
        if map.name != POSITIONS_TABLE {
            return;
        }
        let images = rows.images(&map.columns).unwrap_or_default();
        let image = images.first();
        let image = image.map(|(first, second)| second.as_ref().unwrap_or(first));
        if let Some(ImageValue::Text(producer)) = image.and_then(|image| image.first()) {
            self.collector
                .written_by(&String::from_utf8_lossy(producer));
        }
    }

    fn rows(&mut self, rows: &LoggedRows) -> Result<(), Error> {
        self.producer(rows);
        let lacks_number = self.number().is_none() && !self.stream.version.contains("MariaDB");
        let Some(Known {
            map,
            columns,
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
        let BinlogFollow {
            followed,
            table,
            held,
            ..
        } = &mut self.tables[*at];
        let changed = &mut self.changed;
        changed.get_or_insert(None);
        let mut push = |collector: &mut Collector,
                        change: &str,
                        image: &[ImageValue],
                        before: Option<&[ImageValue]>| {
            let key = row::key(&map.key, image);
            if lacks_number {
                *changed = Some(Some((*at, key.clone())));
            }
            let row_change = RowEffect::of(change);
            let Some(change) = collector.published(change) else {
                // The database counts it nevertheless.
                table.count.lose();
                return;
            };
            let order = followed.order.as_deref();
            let progress = held.as_ref().map_or(&table.progress, HeldChunk::progress);
            let is_read = progress.done;
            if !table.resumed && will_be_read(order, progress, &key) {
                return;
            }
            let inside = held.as_mut().map_or(order.map(|_| false), |held| {
                held.change(order, &key, row_change == RowEffect::Removed)
            });
            match inside {
                // It is counted with the rows of the chunk.
                Some(true) if !is_read => {}
                Some(false) if !is_read => table.count.changed(row_change),
                Some(_) if held.is_some() => table.count.perhaps_changed(row_change),
                None if !is_read || held.is_some() => table.count.lose(),
                _ => {}
            }
            let mut payload = Vec::new();
            row::write_change(change, columns, image, before, self.zero, &mut payload);
            collector.push(&table.topic, Some(row::key_text(&key)), payload);
        };
        for (first, second) in &images {
            match (rows.change, second) {
                // Whoever keeps rows by key has to let go of the old one.
                (LoggedChange::Update, Some(second))
                    if !row::is_same_key(&map.key, first, second) =>
                {
                    push(&mut self.collector, "delete", first, None);
                    push(&mut self.collector, "insert", second, None);
                }
                (LoggedChange::Update, Some(second)) => {
                    push(&mut self.collector, "update", second, Some(first))
                }
                (LoggedChange::Delete, _) => push(&mut self.collector, "delete", first, None),
                _ => push(&mut self.collector, "insert", first, None),
            }
            self.collector.count();
        }
        Ok(())
    }

    /// Begins the snapshots that were asked for.
    fn begin_asked(&mut self) {
        for BinlogFollow { table, held, .. } in &mut self.tables {
            self.collector.end_told(table);
            if self.collector.begin_asked(table) {
                *held = None;
            }
        }
    }

    /// Publishes what is left of chunks once the stream has passed what they saw.
    fn let_go(&mut self) {
        if self.collector.in_transaction() {
            return;
        }
        let position = self.collector.position();
        for at in 0..self.tables.len() {
            let BinlogFollow { table, held, .. } = &mut self.tables[at];
            if let Some(chunk) = held.take_if(|held| held.is_passed(position)) {
                // The stream is to go on behind it after a crash: what it left out for this chunk does not come again then.
                self.collector.hand_on_position();
                for row in chunk.rows() {
                    self.collector
                        .push_read(table, Some(&row.key), &row.payload);
                }
                // The rows of the last one are counted as they were read, like those that the database counts.
                if !chunk.progress().done {
                    table.count.read(chunk.there());
                }
                self.collector
                    .end_read(table, Some(chunk.progress().clone()));
            }
            if let Some(failed) = self.collector.end_count(table, held.is_none()) {
                tracing::warn!(connection = %self.context.name, error = %failed, "the rows of a table were not counted");
            }
        }
    }

    /// Reads a chunk of a snapshot, if one is due; whether it has.
    async fn read_snapshot(&mut self) -> Result<bool, Error> {
        let waits = self.tables.iter().any(|table| table.held.is_some());
        if self.taken_over.is_some() {
            // What a chunk saw is compared with positions of this server only.
            return Ok(false);
        }
        // A change that takes the place of a row of a chunk has to be published, so that no chunk is read while changes are
        // left out.
        if waits || self.collector.in_transaction() || self.collector.repeats() {
            return Ok(false);
        }
        let Some(at) = self.tables.iter().position(|table| !table.is_read()) else {
            return Ok(false);
        };
        let mut sql = self.session().await?;
        let BinlogFollow {
            followed,
            table,
            held,
            rows,
            ..
        } = &mut self.tables[at];
        let after = table.progress.last.clone();
        let origin = &self.origin;
        let read = (&*followed, after.as_deref(), *rows);
        let chunk = snapshot::chunk(
            &self.server,
            &mut sql,
            &mut self.passed,
            |place| origin.position(place),
            read,
        );
        let chunk = chunk
            .await
            .map_err(|failed| failed.told(self.server.doing(&followed.quoted(), "SELECT")))?;
        let Some(chunk) = chunk else {
            self.sql = Some(sql);
            return Ok(false);
        };
        let found = &chunk.answer.rows;
        let key = |row: &[Option<Bytes>]| -> Vec<Bytes> {
            followed
                .key
                .iter()
                .map(|at| row[*at].clone().unwrap_or_default())
                .collect()
        };
        let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
        let last = found.last().map(|row| key(row).iter().map(text).collect());
        let progress = Progress::up_to(last.or(after.clone()), chunk.last);
        let mut waiting = HeldChunk::new(after, origin.position(chunk.high), progress);
        for values in found {
            let mut payload = Vec::new();
            row::write_read(&followed.columns, values, self.zero, &mut payload);
            let parts = key(values);
            let shown = row::key_text(&parts);
            waiting.push(parts, shown, payload);
        }
        *rows = snapshot::next_rows(&chunk.answer);
        match chunk.last {
            true => {
                table.count.read(found.len() as u64);
                table
                    .count
                    .count(snapshot::count(sql, self.server.clone(), followed.quoted()));
            }
            false => self.sql = Some(sql),
        }
        *held = Some(waiting);
        Ok(true)
    }
}

impl BinlogFollow {
    /// Whether all chunks of its snapshot have been read.
    fn is_read(&self) -> bool {
        let held = self.held.as_ref();
        held.map_or(&self.table.progress, HeldChunk::progress).done
    }
}

impl Source for MySqlChanges {
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

    fn alarms(&self) -> Vec<Error> {
        let connection = &self.context.name;
        let tables = self.tables.iter();
        let mut alarms = self.watch.alarms(connection, &self.server.address);
        alarms.extend(self.short.clone());
        alarms.extend(tables.flat_map(|table| table.table.alarms(connection)));
        alarms
    }

    fn snapshots(&self) -> Vec<SnapshotStatus> {
        let tables = self.tables.iter();
        tables.filter_map(|table| table.table.status()).collect()
    }

    fn take_anew(&mut self, table: &str) -> Result<(), Error> {
        let tables = self.tables.iter_mut().map(|table| &mut table.table);
        Table::ask(tables, table)
    }
}

/// The numbers of a server's errors about reading its log, and about a transaction that is not in it.
const BAD_LOG: [u16; 3] = [1236, 1955, 1956];

/// A number for the server to tell its readers apart: one that no server and no other reader is likely to have.
fn any_id() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness all readers of this process would have one number, and the server would send one of them away.
    let _ = SystemRandom::new().fill(&mut bytes);
    u32::from_le_bytes(bytes) | 0x4000_0000
}

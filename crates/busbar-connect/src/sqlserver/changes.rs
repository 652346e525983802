//! Changes as they are committed, from the tables of `cdc` or by change tracking, behind a snapshot of what was there before.
//! Positions are places in the log, or versions and one.
//!
//! A look asks how far the server is. Where it is further than the last time, one batch of statements reads the first page of
//! each table's changes up to there, and they are taken in the order in which they were made. The next pause is twice as
//! long as the one before, while nothing comes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use busbar_change::event;
use busbar_connector::{Polled, Source, SourceContext, Work};
use busbar_event::{ARRIVAL, Class, Error};
use busbar_log::Clock;
use bytes::Bytes;
use tokio::time::Instant;

use super::failure::MssqlFailed;
use super::follow::{self, CaptureInstance, MssqlFollowed};
use super::limits::{
    CHANGE_BYTES_MAX, CHANGE_ROWS, CHUNK_BYTES, CHUNK_ROWS, CHUNK_ROWS_FIRST, IDLE_FIRST,
    LOOK_TRANSACTIONS, LOOK_VERSIONS, STATUS_EVERY,
};
use super::link::{MssqlAnswer, MssqlLink, MssqlServer};
use super::lsn::MssqlLsn;
use super::pages::{ChangePages, MssqlChange, MssqlOperation, MssqlWithin};
use super::token::TdsColumn;
use super::{MssqlFollow, MssqlFollowBy, row};
use crate::change::begin::BeginTables;
use crate::change::collect::{Collector, Table};
use crate::change::snapshot::{Progress, Window, publishes};
use crate::topic::TopicTemplate;

/// Follows the changes of a database.
pub struct MssqlChanges {
    server: MssqlServer,
    by: MssqlFollowBy,
    /// The session, unless a statement is under way or was left in the middle.
    sql: Option<MssqlLink>,
    tables: Vec<MssqlFollowing>,
    collector: Collector,
    clock: Arc<dyn Clock>,
    /// Changes up to a place that are being taken.
    taking: Option<Taking>,
    /// The longest pause between two looks.
    every: Duration,
    pause: Duration,
    next_status: Instant,
    lag: Option<u64>,
}

/// A table and how far its snapshot has come.
struct MssqlFollowing {
    followed: MssqlFollowed,
    table: Table,
    window: Option<Window<u64>>,
    /// Rows of the next chunk.
    rows: usize,
    /// Which of the tables with its captured changes is read.
    instance: Option<CaptureInstance>,
    /// Rows of a page of its changes.
    page_rows: usize,
    /// The event that says that the columns are others; it comes before the next change.
    other: Option<Vec<u8>>,
    /// Changes up to here are in the rows that its snapshot reads, so that nobody asks for them.
    since: u64,
    /// The row as it was before the update that follows.
    before: Option<Vec<Option<Bytes>>>,
}

struct Taking {
    pages: Vec<ChangePages>,
    to: u64,
    /// The place of the transaction that is open.
    open: Option<u64>,
}

impl MssqlFollowing {
    /// Sees whether its columns are those that were told; else the event that says so comes before its next change.
    fn compare(&mut self) {
        let mark = self.followed.mark();
        let has = self.table.has_told(&mark);
        self.other = None;
        if has == Some(false) && self.table.has_begun() {
            let mut payload = Vec::new();
            event::schema(self.followed.described().into_iter(), &mut payload);
            self.other = Some(payload);
        } else if has != Some(true) {
            self.table.tell(mark);
        }
    }
}

impl MssqlChanges {
    /// Checks the server and begins at its end, or where it was.
    pub(super) async fn open(
        server: MssqlServer,
        options: &MssqlFollow,
        topic: &TopicTemplate,
        context: SourceContext,
    ) -> Result<MssqlChanges, Error> {
        let mut collector = Collector::new(options.generation, context.resume.clone());
        let mut sql = server.open().await?;
        let end = follow::end(&server, &mut sql, options.by).await?;
        let followed = follow::tables(&server, &mut sql, options).await?;
        if options.by == MssqlFollowBy::Tracking {
            for table in &followed {
                let oldest = sql.run(&follow::oldest_tracked(table)).await;
                let oldest = oldest.map_err(|failed| {
                    failed.told(server.doing(&table.quoted(), "VIEW CHANGE TRACKING"))
                })?;
                follow::tracked(
                    &server,
                    table,
                    &oldest.into_iter().next().unwrap_or_default(),
                )?;
            }
        }
        let known = collector.position();
        if known == 0 {
            collector.advance(end);
        }
        let mut source = MssqlChanges {
            server,
            by: options.by,
            sql: Some(sql),
            tables: Vec::new(),
            collector,
            clock: Arc::clone(&context.clock),
            taking: None,
            every: options.every.as_duration(),
            pause: IDLE_FIRST,
            next_status: Instant::now(),
            lag: None,
        };
        source.collector.hand_on_position();
        let begin = BeginTables {
            topic,
            snapshot: options.snapshot,
            generation: options.generation,
            again: &options.again,
        };
        for followed in followed {
            let (schema, name) = (&followed.schema, &followed.name);
            // Where there are two captures, the one that is read says which columns it has.
            let is_sure = followed.instances.len() <= 1;
            let columns = is_sure.then(|| followed.mark());
            let of = (&mut source.collector, &context);
            let table = begin.begin(of, (schema, name), columns);
            let since = if table.has_begun() { 0 } else { end };
            source.tables.push(MssqlFollowing {
                followed,
                table,
                window: None,
                rows: CHUNK_ROWS_FIRST,
                instance: None,
                page_rows: CHANGE_ROWS,
                other: None,
                since,
                before: None,
            });
        }
        if options.by == MssqlFollowBy::Tracking {
            source.tables.iter_mut().for_each(MssqlFollowing::compare);
        }
        if known > end {
            return Err(source.lost("-", end));
        }
        Ok(source)
    }

    async fn next(&mut self) -> Result<Polled, Error> {
        loop {
            if let Some(polling) = self.collector.pop() {
                return Ok(Polled::Batch(polling));
            }
            if self.taking.is_some() {
                self.take().await?;
                continue;
            }
            self.close_windows();
            self.status().await?;
            if self.collector.is_full() {
                continue;
            }
            if self.read_snapshot().await? || self.look().await? {
                self.pause = IDLE_FIRST;
                continue;
            }
            let pause = self.pause.min(self.every);
            self.pause = (pause * 2).min(self.every);
            return Ok(Polled::Idle(pause));
        }
    }

    /// The session; put back by the caller once its answer is there.
    async fn session(&mut self) -> Result<MssqlLink, Error> {
        match self.sql.take().filter(MssqlLink::usable) {
            Some(link) => Ok(link),
            None => self.server.open().await,
        }
    }

    fn told(&self, failed: MssqlFailed) -> Error {
        match self.by {
            MssqlFollowBy::Cdc => follow::capture_told(&self.server, failed),
            MssqlFollowBy::Tracking => failed.told(self.server.doing("", "")),
        }
    }

    /// Asks whether there are changes, and reads the first of them; whether there are.
    async fn look(&mut self) -> Result<bool, Error> {
        let looked = self.look_at_captures().await;
        // A capture was made anew or removed since they were asked for.
        if let Err(failed) = &looked
            && follow::is_gone_by(failed.number())
            && self.captures_anew().await?
        {
            return Ok(true);
        }
        looked.map_err(|failed| self.told(failed))
    }

    /// Asks which captures there are; whether they are others than before.
    async fn captures_anew(&mut self) -> Result<bool, Error> {
        if self.by == MssqlFollowBy::Tracking {
            return Ok(false);
        }
        let mut sql = self.session().await?;
        let mut others = false;
        for table in &mut self.tables {
            let (schema, name) = (&table.followed.schema, &table.followed.name);
            let instances = follow::captured(&self.server, &mut sql, schema, name).await?;
            others |= instances != table.followed.instances;
            table.followed.instances = instances;
        }
        self.sql = Some(sql);
        Ok(others)
    }

    async fn look_at_captures(&mut self) -> Result<bool, MssqlFailed> {
        let from = self.collector.position();
        let mut sql = self.session().await?;
        let asked = match self.by {
            MssqlFollowBy::Cdc => format!(
                "SELECT MAX(start_lsn) FROM (SELECT TOP ({LOOK_TRANSACTIONS}) start_lsn FROM cdc.lsn_time_mapping \
                 WHERE start_lsn > {} ORDER BY start_lsn) AS x",
                MssqlLsn::of(from).literal()
            ),
            MssqlFollowBy::Tracking => "SELECT CHANGE_TRACKING_CURRENT_VERSION()".to_owned(),
        };
        let answers = sql.run(&asked).await?;
        let answer = answers.into_iter().next().unwrap_or_default();
        let to = follow::place(&self.server, self.by, &answer)?;
        let Some(to) = to.filter(|to| *to > from) else {
            self.sql = Some(sql);
            return Ok(false);
        };
        let mut to = to;
        if self.by == MssqlFollowBy::Tracking {
            to = to.min(from.saturating_add(LOOK_VERSIONS));
        }
        // A table whose changes are captured anew is read to the place where the new capture begins, and from there on in it.
        for table in &self.tables {
            for instance in &table.followed.instances {
                let start = instance.start.number().unwrap_or(0);
                if start > from {
                    to = to.min(start);
                }
            }
        }
        let mut pages = Vec::with_capacity(self.tables.len());
        for at in 0..self.tables.len() {
            pages.push(self.pages(&mut sql, at, from, to).await?);
        }
        let mut batch: Vec<_> = pages.iter().map(ChangePages::statement).collect();
        // What was removed before it was read is known only behind the reading.
        let checks: Vec<_> = self.tables.iter().map(|table| self.oldest(table)).collect();
        batch.extend(checks.iter().cloned());
        let batch = batch.join(";\n");
        let (mut answers, whole) = sql.run_within(&batch, CHANGE_BYTES_MAX).await?;
        let cut = (!whole).then(|| answers.len().saturating_sub(1));
        let mut kept = answers.split_off(pages.len().min(answers.len()));
        if !whole {
            sql = self.server.open().await?;
            kept = sql.run(&checks.join(";\n")).await?;
        }
        if kept.len() != self.tables.len() {
            return Err(self.other_answers().into());
        }
        for (at, (pages, answer)) in pages.iter_mut().zip(answers).enumerate() {
            pages.take(answer, cut != Some(at));
            self.tables[pages.table].page_rows = pages.asked();
        }
        for (at, answer) in kept.iter().enumerate() {
            self.check_kept(at, answer, from)?;
        }
        self.sql = Some(sql);
        self.taking = Some(Taking {
            pages,
            to,
            open: None,
        });
        Ok(true)
    }

    fn other_answers(&self) -> Error {
        super::link::strange(&self.server.address, "another number of answers")
    }

    /// Sees that the changes of a table behind a place are all there, by the answer to [`MssqlChanges::oldest`].
    fn check_kept(&self, at: usize, answer: &MssqlAnswer, from: u64) -> Result<(), Error> {
        let following = &self.tables[at];
        let oldest = match self.by {
            MssqlFollowBy::Cdc => follow::place(&self.server, self.by, answer)?.unwrap_or(0),
            MssqlFollowBy::Tracking => follow::tracked(&self.server, &following.followed, answer)?,
        };
        match oldest > from.max(following.since) && following.table.has_begun() {
            false => Ok(()),
            true => Err(self.lost(&following.followed.quoted(), oldest)),
        }
    }

    /// The statement that says from which place on the changes of a table are there.
    fn oldest(&self, table: &MssqlFollowing) -> String {
        match self.by {
            MssqlFollowBy::Tracking => follow::oldest_tracked(&table.followed),
            MssqlFollowBy::Cdc => format!(
                "SELECT MIN(c.start_lsn) FROM cdc.change_tables c JOIN sys.tables t ON t.object_id = c.source_object_id \
                 JOIN sys.schemas s ON s.schema_id = t.schema_id WHERE s.name = {} AND t.name = {}",
                super::wire::literal(&table.followed.schema),
                super::wire::literal(&table.followed.name)
            ),
        }
    }

    /// What reads the changes of a table. Says that its columns are others where its changes are captured anew.
    async fn pages(
        &mut self,
        sql: &mut MssqlLink,
        at: usize,
        from: u64,
        to: u64,
    ) -> Result<ChangePages, MssqlFailed> {
        let table = &mut self.tables[at];
        let page_rows = table.page_rows;
        if self.by == MssqlFollowBy::Tracking {
            let pages = ChangePages::tracked(at, &table.followed, from, to);
            return Ok(pages.asking(page_rows));
        }
        let instances = &table.followed.instances;
        let reached = |start: MssqlLsn| start.number().is_some_and(|start| start <= from);
        let instance = instances
            .iter()
            .rev()
            .find(|instance| reached(instance.start));
        let Some(instance) = instance.or(instances.first()).cloned() else {
            let (schema, name) = (&table.followed.schema, &table.followed.name);
            return Err(follow::not_captured(&self.server, schema, name).into());
        };
        if table.instance.as_ref() != Some(&instance) {
            let columns = follow::captured_columns(sql, &instance).await?;
            table
                .followed
                .take_columns(columns)
                .ok_or_else(|| follow::no_identity(&self.server, &table.followed.quoted()))?;
            table.instance = Some(instance.clone());
            table.compare();
        }
        let columns = &self.tables[at].followed.columns;
        let pages = ChangePages::captured(at, &instance, columns, from, to);
        Ok(pages.asking(page_rows))
    }

    /// Takes changes until there is something to hand on.
    async fn take(&mut self) -> Result<(), Error> {
        loop {
            let Some(taking) = &mut self.taking else {
                return Ok(());
            };
            if let Some(wanting) = taking.pages.iter().position(ChangePages::wants) {
                let pages = &taking.pages[wanting];
                let (at, reached, statement) = (pages.table, pages.reached(), pages.statement());
                let (page, whole, kept) = self
                    .read_page(&statement, at)
                    .await
                    .map_err(|failed| self.told_of_page(failed))?;
                self.check_kept(at, &kept, reached)?;
                if let Some(taking) = &mut self.taking {
                    taking.pages[wanting].take(page, whole);
                    self.tables[at].page_rows = taking.pages[wanting].asked();
                }
                continue;
            }
            let mut first: Option<(u64, MssqlWithin, usize)> = None;
            for (at, pages) in taking.pages.iter().enumerate() {
                if let Some((place, within)) = pages.next(&self.server, self.by)?
                    && first
                        .as_ref()
                        .is_none_or(|(p, w, _)| (place, &within) < (*p, w))
                {
                    first = Some((place, within, at));
                }
            }
            let Some((place, _, at)) = first else {
                let to = taking.to;
                if let Some(open) = taking.open.take() {
                    self.collector.commit(open);
                }
                self.taking = None;
                self.collector.advance(to);
                self.collector.hand_on();
                return Ok(());
            };
            if taking.open != Some(place) {
                if let Some(open) = taking.open.replace(place) {
                    self.collector.commit(open);
                }
                let now = self.clock.now_micros();
                begin(&mut self.collector, self.by, place, now);
                if self.by == MssqlFollowBy::Tracking {
                    // A row that is changed again has a new version: the transaction comes without it the next time.
                    self.collector.number_anew(now);
                }
            }
            let change = taking.pages[at].pop(&self.server, self.by)?;
            if let Some(change) = change {
                let pages = &taking.pages[at];
                let table = &mut self.tables[pages.table];
                publish(&mut self.collector, table, pages, change);
            }
            if self.collector.is_full() {
                self.collector.hand_on();
                return Ok(());
            }
        }
    }

    /// Reads a page of changes, whether it is whole, and from which place on they are there, which is asked behind the reading:
    /// whoever takes the changes may have been held up for longer than the server keeps them.
    async fn read_page(
        &mut self,
        statement: &str,
        at: usize,
    ) -> Result<(MssqlAnswer, bool, MssqlAnswer), MssqlFailed> {
        let oldest = self.oldest(&self.tables[at]);
        let mut sql = self.session().await?;
        let both = format!("{statement};\n{oldest}");
        let (mut answers, whole) = sql.run_within(&both, CHANGE_BYTES_MAX).await?;
        if !whole {
            answers.truncate(1);
            sql = self.server.open().await?;
            answers.extend(sql.run(&oldest).await?);
        }
        self.sql = Some(sql);
        let [page, kept] =
            <[MssqlAnswer; 2]>::try_from(answers).map_err(|_| self.other_answers())?;
        Ok((page, whole, kept))
    }

    /// Where a capture was removed while its changes were taken, they are looked for anew, behind the last position.
    fn told_of_page(&self, failed: MssqlFailed) -> Error {
        match failed {
            MssqlFailed::Server(gone)
                if self.by == MssqlFollowBy::Cdc && follow::is_gone_by(gone.number) =>
            {
                Error::new(Class::Transient, "sqlserver.for-now")
                    .with("address", &self.server.address)
                    .with("number", gone.number)
                    .with("said", gone.message)
            }
            failed => self.told(failed),
        }
    }

    /// Looks at how far the server is, from time to time.
    async fn status(&mut self) -> Result<(), Error> {
        if Instant::now() < self.next_status {
            return Ok(());
        }
        self.next_status = Instant::now() + STATUS_EVERY;
        // So that a restart does not read again what was about other tables.
        self.collector.hand_on_position();
        self.captures_anew().await?;
        let mut sql = self.session().await?;
        let end = follow::end(&self.server, &mut sql, self.by).await?;
        if self.by == MssqlFollowBy::Cdc {
            let behind = format!(
                "SELECT COUNT(*) FROM cdc.lsn_time_mapping WHERE start_lsn > {}",
                MssqlLsn::of(self.collector.position()).literal()
            );
            let answers = sql.run(&behind).await.map_err(|failed| self.told(failed))?;
            self.lag = answers
                .first()
                .and_then(|answer| answer.text(0, 0)?.parse().ok());
        } else {
            self.lag = Some(end.saturating_sub(self.collector.position()));
        }
        self.sql = Some(sql);
        // A database that was put back to an earlier state.
        if end < self.collector.position() {
            return Err(self.lost("-", end));
        }
        Ok(())
    }

    fn lost(&self, table: &str, oldest: u64) -> Error {
        let shown = |place: u64| match self.by {
            MssqlFollowBy::Cdc => MssqlLsn::of(place).to_string(),
            MssqlFollowBy::Tracking => place.saturating_sub(1).to_string(),
        };
        Error::new(Class::Configuration, "sqlserver.position-lost")
            .with("address", &self.server.address)
            .with("table", table)
            .with("place", shown(self.collector.position()))
            .with("there", shown(oldest))
    }

    fn close_windows(&mut self) {
        let position = self.collector.position();
        for table in &mut self.tables {
            table.window = table.window.take().filter(|window| position < window.high);
            self.collector.end_told(&mut table.table);
        }
    }

    /// Reads a chunk of a snapshot, if one is due; whether it has.
    async fn read_snapshot(&mut self) -> Result<bool, Error> {
        if self.tables.iter().any(|table| table.window.is_some()) {
            return Ok(false);
        }
        let unread = |table: &MssqlFollowing| !table.table.progress.done;
        let Some(at) = self.tables.iter().position(unread) else {
            return Ok(false);
        };
        let mut sql = self.session().await?;
        let MssqlFollowing {
            followed,
            table,
            rows,
            ..
        } = &self.tables[at];
        let after = table.progress.last.clone();
        let chunk = follow::chunk(
            &self.server,
            &mut sql,
            self.by,
            followed,
            after.as_deref(),
            *rows,
        )
        .await;
        let chunk =
            chunk.map_err(|failed| failed.told(self.server.doing(&followed.quoted(), "SELECT")))?;
        self.sql = Some(sql);
        let MssqlFollowing {
            followed,
            table,
            rows,
            window,
            ..
        } = &mut self.tables[at];
        let found = &chunk.answer.rows;
        let mut keys = HashSet::new();
        if followed.order.is_none() {
            keys.extend(found.iter().map(|row| followed.key_of(row)));
        }
        let mut payload = Vec::new();
        for values in found {
            payload.clear();
            row::write_change("read", &chunk.answer.columns, values, None, &mut payload);
            let key = followed.key_texts(&followed.key_of(values));
            self.collector
                .push_read(table, Some(&key.join(",")), &payload);
        }
        let last = found.last();
        let last = last.map(|row| followed.key_texts(&followed.key_of(row)));
        let progress = Progress::up_to(last.or(after.clone()), chunk.last);
        self.collector.hand_on();
        self.collector.end_read(table, Some(progress));
        let bytes: usize = found.iter().flatten().flatten().map(Bytes::len).sum();
        let per_row = bytes / found.len().max(1) + 1;
        *rows = (CHUNK_BYTES / per_row).clamp(1, CHUNK_ROWS);
        *window = Some(Window {
            after,
            seen: chunk.seen,
            high: chunk.seen,
            keys,
        });
        Ok(true)
    }
}

/// Begins a transaction of this place.
fn begin(collector: &mut Collector, by: MssqlFollowBy, place: u64, now_micros: i64) {
    let shown = match by {
        MssqlFollowBy::Cdc => MssqlLsn::of(place).to_string(),
        MssqlFollowBy::Tracking => place.saturating_sub(1).to_string(),
    };
    collector.begin(place, shown.clone(), shown, ARRIVAL, now_micros);
}

/// Publishes a change, unless a chunk of the snapshot has it or will have it.
fn publish(
    collector: &mut Collector,
    table: &mut MssqlFollowing,
    pages: &ChangePages,
    change: MssqlChange,
) {
    let MssqlChange {
        place,
        operation,
        row,
        key,
        ..
    } = change;
    let before = table.before.take();
    if let Some(other) = table.other.take() {
        collector.push(&table.table.topic, None, other);
        table.table.tell(table.followed.mark());
    }
    let mut push = |change: &str,
                    columns: &[TdsColumn],
                    row: &[Option<Bytes>],
                    key: &[Bytes],
                    before: Option<&[Option<Bytes>]>| {
        let followed = &table.followed;
        let progress = &table.table.progress;
        let filtered = !table.table.resumed && (!progress.done || table.window.is_some());
        let has = |seen: &u64| place <= *seen;
        if filtered
            && !publishes(
                followed.order.as_deref(),
                progress,
                table.window.as_ref(),
                key,
                has,
            )
        {
            return;
        }
        let mut payload = Vec::new();
        row::write_change(change, columns, row, before, &mut payload);
        let key = followed.key_texts(key).join(",");
        collector.push(&table.table.topic, Some(key), payload);
    };
    let followed = &table.followed;
    match operation {
        MssqlOperation::Before => {
            table.before = Some(row);
            return;
        }
        MssqlOperation::Delete if row.iter().all(Option::is_none) => {
            let values: Vec<_> = key
                .iter()
                .map(|value| value.clone().unwrap_or_default())
                .collect();
            push("delete", pages.key_columns(), &key, &values, None);
        }
        MssqlOperation::Delete => push(
            "delete",
            pages.columns(),
            &row,
            &followed.key_of(&row),
            None,
        ),
        MssqlOperation::Insert => push(
            "insert",
            pages.columns(),
            &row,
            &followed.key_of(&row),
            None,
        ),
        MssqlOperation::Update => {
            let key = followed.key_of(&row);
            match &before {
                // Whoever keeps rows by key has to let go of the old one.
                Some(before) if followed.key_of(before) != key => {
                    push(
                        "delete",
                        pages.columns(),
                        before,
                        &followed.key_of(before),
                        None,
                    );
                    push("insert", pages.columns(), &row, &key, None);
                }
                before => push("update", pages.columns(), &row, &key, before.as_deref()),
            }
        }
    }
    collector.count();
}

impl Source for MssqlChanges {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(self.next())
    }

    fn committed(&mut self, part: &str, position: u64) {
        self.collector.note_committed(part, position);
    }

    fn forgotten(&mut self) -> Vec<Arc<str>> {
        self.collector.forgotten()
    }

    fn lag_events(&self) -> BTreeMap<Arc<str>, u64> {
        let lag = self.lag.map(|lag| (Arc::from("stream"), lag));
        lag.into_iter().collect()
    }

    fn close(&mut self) -> Work<'_, Result<(), Error>> {
        Box::pin(async {
            if let Some(link) = self.sql.take() {
                link.close().await;
            }
            Ok(())
        })
    }
}

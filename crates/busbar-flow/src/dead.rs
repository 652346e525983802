//! Dead letters: events that could not be processed, kept as they came, with the cause.
//!
//! They are the events of the stream [`DEAD_LETTERS`]: topic, key, time, tags and payload as they were, and
//! these tags beside: `$dead-flow`, `$dead-place`, `$dead-output`, `$dead-class`, `$dead-code`, `$dead-args`
//! (JSON), `$dead-stream`, `$dead-partition`, `$dead-offset`, `$dead-at`. A result of a step that stands for no event is a
//! letter of its own with the tag `$dead-result`, at the place of the last event before it. A store records which of them are
//! closed: re-driven, edited or discarded, by whom and when.
//!
//! The stream is bounded by age and size. What the stream deletes is removed from the index and from the
//! store too.

mod earlier;
mod index;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use busbar_bus::{Bus, Cursor, Item, Retention, Stream};
use busbar_event::{Batch, BatchBuilder, Class, Error, Flags, Language, Row};
use busbar_log::{Change, Clock, Store};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::chain::{Dead, Place};
use crate::limits::{
    BATCH_BYTES_MAX, BATCH_ROWS_MAX, CAUSE_BYTES_MAX, DEAD_DONE_MAX, DEAD_LETTERS_MAX,
    DEAD_MARKS_BYTES, DEAD_READ_ROWS, DEAD_WARN_PERCENT,
};
use crate::status::{
    Closed, Closing, DeadFilter, DeadGroup, DeadLetter, DeadRetention, class_word, words,
};

pub(crate) use earlier::Earlier;
use index::{Entry, Index, event_hash};

/// The stream of dead letters.
pub const DEAD_LETTERS: &str = "_dead";

const FLOW: &str = "$dead-flow";
const PLACE: &str = "$dead-place";
const OUTPUT: &str = "$dead-output";
const CLASS: &str = "$dead-class";
const CODE: &str = "$dead-code";
const ARGS: &str = "$dead-args";
/// [`Error::record`] of a cause with an error within it, where that is short enough.
const RECORD: &str = "$dead-record";
const STREAM: &str = "$dead-stream";
const PARTITION: &str = "$dead-partition";
const OFFSET: &str = "$dead-offset";
const AT: &str = "$dead-at";
/// In letters of results, which stand for no event.
const RESULT: &str = "$dead-result";
const MARK: &str = "$dead-";
/// What stands in place of an output in letters of results that a step could not take or not compute.
const RESULTS: &str = "~results";

/// Where an event was read.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    pub stream: Arc<str>,
    pub partition: u16,
    pub offset: u64,
    /// It is no event but a result that was made behind the one there.
    pub is_result: bool,
}

/// Makes the dead letters of a batch.
pub(crate) fn letters(
    flow: &str,
    events: &Batch,
    dead: &[Dead],
    output_ids: &[Arc<str>],
    now_micros: i64,
    spot: impl Fn(usize) -> Spot,
) -> Batch {
    let mut builder = BatchBuilder::new();
    for letter in dead {
        let (place, output) = place_of(letter.place, |i| output_ids.get(i).map_or("", |id| &**id));
        let death = EventDeath {
            flow,
            place: &place,
            output,
            cause: &letter.cause,
            spot: spot(letter.event),
            now_micros,
        };
        death.push(&mut builder, events, letter.event);
    }
    builder.finish()
}

/// How an event came to its end.
pub(crate) struct EventDeath<'a> {
    pub flow: &'a str,
    pub place: &'a str,
    /// The output that refused it; empty when it died before.
    pub output: &'a str,
    pub cause: &'a Error,
    pub spot: Spot,
    pub now_micros: i64,
}

impl EventDeath<'_> {
    /// Adds the letter of an event.
    pub fn push(&self, builder: &mut BatchBuilder, events: &Batch, row: usize) {
        let event = events.event(row);
        let args = self.cause.args().iter();
        let args: Vec<(&str, String)> = args.map(|(name, value)| (*name, cut(value))).collect();
        let args = serde_json::to_string(&args).unwrap_or_default();
        let spot = &self.spot;
        let (partition, offset) = (spot.partition.to_string(), spot.offset.to_string());
        let now = self.now_micros.to_string();
        // A letter that dies again keeps one set of marks.
        let mut tags: Vec<(&str, &str)> = event
            .tags()
            .filter(|(name, _)| !name.starts_with(MARK))
            .collect();
        tags.extend([
            (FLOW, self.flow),
            (PLACE, self.place),
            (OUTPUT, self.output),
            (CLASS, class_word(self.cause.class())),
            (CODE, self.cause.code()),
            (ARGS, args.as_str()),
            (STREAM, &*spot.stream),
            (PARTITION, partition.as_str()),
            (OFFSET, offset.as_str()),
            (AT, now.as_str()),
        ]);
        let record = self.cause.has_error_within().then(|| self.cause.record());
        let record = record.filter(|record| record.len() <= CAUSE_BYTES_MAX);
        tags.extend(record.as_deref().map(|record| (RECORD, record)));
        tags.extend(spot.is_result.then_some((RESULT, "1")));
        let topic = builder.topic_id(event.topic);
        let client = event.client.map(|client| builder.client_id(client));
        builder.push(Row {
            topic,
            key: event.key,
            time: event.time,
            client,
            flags: event.flags.with_retain(false).with_reserved_tags(true),
            tags: &tags,
            payload: &event.payload,
        });
    }
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(CAUSE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// A letter with what it takes to send it again.
pub(crate) struct Letter {
    pub shown: DeadLetter,
    /// The output that refused it; empty when it died before.
    pub output: String,
    pub flags: Flags,
}

fn letter(events: &Batch, row: usize, id: u64, closed: Option<Closed>) -> Letter {
    let event = events.event(row);
    let mut marks: HashMap<&str, &str> = HashMap::new();
    let mut tags = Vec::new();
    for (name, value) in event.tags() {
        if name.starts_with(MARK) {
            marks.insert(name, value);
        } else {
            tags.push((name.to_owned(), value.to_owned()));
        }
    }
    let mark = |name: &str| marks.get(name).copied().unwrap_or_default().to_owned();
    let number = |name: &str| marks.get(name).and_then(|v| v.parse().ok()).unwrap_or(0);
    let args: Vec<(String, String)> = marks
        .get(ARGS)
        .and_then(|v| serde_json::from_str(v).ok())
        .unwrap_or_default();
    let code = mark(CODE);
    let recorded = marks.get(RECORD).and_then(|record| Error::recorded(record));
    let said = |language| match &recorded {
        Some(error) => error.message(language),
        None => words(&code, &args, language),
    };
    let (message, message_zh) = (said(Language::En), said(Language::Zh));
    let reserved = tags
        .iter()
        .any(|(n, _)| n.starts_with('$') && !n.starts_with("$$"));
    Letter {
        flags: event.flags.with_reserved_tags(reserved),
        output: mark(OUTPUT),
        shown: DeadLetter {
            id,
            flow: mark(FLOW),
            place: mark(PLACE),
            class: mark(CLASS),
            message,
            message_zh,
            code,
            args,
            stream: mark(STREAM),
            partition: u16::try_from(number(PARTITION)).unwrap_or(0),
            offset: number(OFFSET),
            died_micros: marks.get(AT).and_then(|v| v.parse().ok()).unwrap_or(0),
            topic: event.topic.to_owned(),
            key: event.key.map(str::to_owned),
            time_micros: event.time,
            tags,
            payload: event.payload.into_owned(),
            closed,
            also_in: Vec::new(),
            is_result: marks.contains_key(RESULT),
        },
    }
}

/// The letters' events as they were. Their times are decided on anew.
pub(crate) fn originals(letters: &[Letter]) -> Batch {
    let mut builder = BatchBuilder::new();
    for letter in letters {
        let shown = &letter.shown;
        let tags: Vec<(&str, &str)> = shown
            .tags
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        let topic = builder.topic_id(&shown.topic);
        builder.push(Row {
            topic,
            key: shown.key.as_deref(),
            time: shown.time_micros,
            client: None,
            flags: Flags(letter.flags.0 & !Flags::UNTIMED),
            tags: &tags,
            payload: &shown.payload,
        });
    }
    builder.finish()
}

/// How a place is written, and the output, if it is one.
fn place_of<'a>(place: Place, output: impl Fn(usize) -> &'a str) -> (String, &'a str) {
    let output = match place {
        Place::Output(i) => output(i),
        Place::Decode | Place::Step(_) => "",
        // No output, and yet nothing that could go into the flow again.
        Place::Result(_) => RESULTS,
    };
    (place.to_string(), output)
}

/// All dead letters, by number and cause.
pub(crate) struct DeadLetters {
    stream: Arc<Stream>,
    store: Store,
    clock: Arc<dyn Clock>,
    retention: Retention,
    index: Mutex<Index>,
}

/// A re-drive that was begun; it is finished after a crash.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Run {
    pub run: u64,
    pub ids: Vec<u64>,
    /// The user who began it.
    #[serde(default)]
    pub by: String,
    /// The payload to send instead of the letter's own, in base64.
    #[serde(default)]
    pub payload: Option<String>,
}

impl Run {
    /// Replaces the payload of the letters, if the run says so.
    pub fn edit(&self, letters: &mut [Letter]) -> Result<(), Error> {
        let Some(text) = &self.payload else {
            return Ok(());
        };
        let payload = STANDARD
            .decode(text)
            .map_err(|e| Error::new(Class::Permanent, "flow.checkpoint").caused_by(e))?;
        for letter in letters {
            letter.shown.payload.clone_from(&payload);
        }
        Ok(())
    }

    fn closing(&self) -> Closing {
        match self.payload {
            Some(_) => Closing::Edited,
            None => Closing::Redriven,
        }
    }
}

const DONE: &[u8] = b"done/";
const RUN: &[u8] = b"run/";

/// The change of the store that records how a letter was closed.
fn done(id: u64, closed: &Bytes) -> Change {
    Change::Put(numbered(DONE, id), closed.clone())
}

/// How a letter was closed, as it is stored. Older versions stored `1`.
fn closed(value: &[u8]) -> Closed {
    serde_json::from_slice(value).unwrap_or(Closed {
        how: Closing::Redriven,
        by: String::new(),
        at_micros: 0,
    })
}

fn numbered(prefix: &[u8], number: u64) -> Bytes {
    let mut key = prefix.to_vec();
    key.extend_from_slice(&number.to_be_bytes());
    key.into()
}

impl DeadLetters {
    pub fn open(bus: &Bus, retention: Retention) -> Result<DeadLetters, Error> {
        Ok(DeadLetters {
            stream: bus.derived_stream(DEAD_LETTERS, 1, retention)?,
            store: bus.store("dead-letters")?,
            clock: Arc::clone(bus.clock()),
            retention,
            index: Mutex::default(),
        })
    }

    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// Reads what was added since the last call, and forgets what the stream has deleted. May block on the
    /// disk.
    fn refresh(&self, index: &mut Index) -> Result<(), Error> {
        if !index.loaded {
            let mut after: Option<Bytes> = None;
            loop {
                let page = self.store.scan(DONE, after.as_deref(), DEAD_LETTERS_MAX);
                let Some((last, _)) = page.last() else { break };
                after = Some(last.clone());
                for (key, _) in &page {
                    if let Ok(number) = <[u8; 8]>::try_from(&key[DONE.len()..]) {
                        index.closed.insert(u64::from_be_bytes(number));
                    }
                }
            }
            index.loaded = true;
        }
        let Some(partition) = self.stream.partitions().first().cloned() else {
            return Ok(());
        };
        let mut unread = 0;
        let mut cursor = Cursor::new(partition.clone(), index.next);
        while let Some(item) = cursor.try_next()? {
            match item {
                // Deleted before it was read, or damaged, which the log has reported.
                Item::Gap(gap) => {
                    if index.next > 0 && gap.resume <= partition.start() {
                        let closed = index.closed.range(index.next..gap.resume).count();
                        unread += (gap.resume - index.next).saturating_sub(closed as u64);
                    }
                    index.next = gap.resume;
                }
                Item::Chunk(chunk) => {
                    for row in 0..chunk.batch.rows() {
                        let id = chunk.base + row as u64;
                        let letter = letter(&chunk.batch, row, id, None).shown;
                        index.add(letter);
                    }
                    index.next = chunk.end();
                }
            }
        }
        self.forget(index, partition.start(), unread);
        Ok(())
    }

    /// Forgets letters before number `start`, which the stream has deleted; `unread` open ones of them were never
    /// in the index.
    fn forget(&self, index: &mut Index, start: u64, unread: u64) {
        if start <= index.start {
            return;
        }
        index.start = start;
        let expired = unread + index.forget(start);
        if expired > 0 {
            index.expired += expired;
            tracing::warn!(
                letters = expired,
                "retention deleted dead letters that nobody had re-driven or discarded; `limits.dead_letter_age` and \
                 `limits.dead_letter_size` set how long they are kept"
            );
        }
        let kept = index.closed.split_off(&start);
        let gone: Vec<u64> = std::mem::replace(&mut index.closed, kept)
            .into_iter()
            .collect();
        for ids in gone.chunks(DEAD_DONE_MAX) {
            let delete = |id: &u64| Change::Delete(numbered(DONE, *id));
            // Not awaited: a mark that stays is deleted after the next start.
            self.store.apply(ids.iter().map(delete).collect(), None);
        }
    }

    /// How much room the letters take, and whether open ones will be deleted soon. May block on the disk.
    pub fn retention(&self, now_micros: i64) -> Result<DeadRetention, Error> {
        let mut index = self.index.lock();
        self.refresh(&mut index)?;
        let oldest = index
            .entries
            .iter()
            .find(|entry| !index.closed.contains(&entry.id));
        let bytes = self.stream.bytes();
        let old = oldest.is_some_and(|entry| {
            let age = now_micros.saturating_sub(entry.died_micros);
            self.retention
                .age
                .is_some_and(|max| age >= max.as_micros() / 100 * DEAD_WARN_PERCENT as i64)
        });
        let large = oldest.is_some()
            && self
                .retention
                .bytes
                .is_some_and(|max| bytes >= max.as_bytes() / 100 * DEAD_WARN_PERCENT);
        Ok(DeadRetention {
            bytes,
            bytes_max: self.retention.bytes.map(|max| max.as_bytes()),
            age_max_micros: self.retention.age.map(|max| max.as_micros()),
            oldest_open_micros: oldest.map(|entry| entry.died_micros),
            expires_soon: old || large,
            expired: index.expired,
        })
    }

    /// The causes, the one with the newest letter first. May block on the disk.
    pub fn groups(&self) -> Result<Vec<DeadGroup>, Error> {
        let mut index = self.index.lock();
        self.refresh(&mut index)?;
        let mut groups = index.groups.clone();
        groups.retain(|group| group.count > 0);
        groups.sort_by_key(|g| std::cmp::Reverse(g.newest));
        Ok(groups)
    }

    /// The numbers of those that fit, newest first. May block on the disk.
    pub fn find(&self, filter: &DeadFilter, limit: usize) -> Result<Vec<u64>, Error> {
        let mut index = self.index.lock();
        self.refresh(&mut index)?;
        let wanted: Option<BTreeSet<u64>> =
            filter.ids.as_ref().map(|ids| ids.iter().copied().collect());
        // By place, so that no name is compared for each letter.
        let of_streams: Option<Vec<bool>> = filter.streams.as_ref().map(|wanted| {
            let names = index.streams.iter();
            names.map(|name| wanted.contains(name)).collect()
        });
        let fits = |entry: &&Entry| {
            let group = &index.groups[entry.group];
            let is =
                |wanted: &Option<String>, has: &str| wanted.as_deref().is_none_or(|w| w == has);
            is(&filter.flow, &group.flow)
                && is(&filter.code, &group.code)
                && is(&filter.place, &group.place)
                && wanted.as_ref().is_none_or(|ids| ids.contains(&entry.id))
                && of_streams.as_ref().is_none_or(|of| of[entry.stream])
                && (filter.closed || !index.closed.contains(&entry.id))
        };
        let limit = limit.min(DEAD_LETTERS_MAX);
        Ok(index
            .entries
            .iter()
            .rev()
            .filter(fits)
            .map(|e| e.id)
            .take(limit)
            .collect())
    }

    /// The numbers of the letters of one event, newest first, by its partition and offset. May hold one of another event,
    /// which the letter tells. May block on the disk.
    pub fn find_of(
        &self,
        stream: &str,
        (partition, offset): (u16, u64),
        limit: usize,
    ) -> Result<Vec<u64>, Error> {
        let mut index = self.index.lock();
        self.refresh(&mut index)?;
        let event = event_hash(stream, partition, offset);
        let its = index.entries.iter().rev();
        let its = its.filter(|entry| entry.event == event);
        Ok(its.map(|entry| entry.id).take(limit).collect())
    }

    /// The first of these numbers that no letter of these streams has. May block on the disk.
    pub fn unknown(
        &self,
        ids: &[u64],
        streams: Option<&BTreeSet<String>>,
    ) -> Result<Option<u64>, Error> {
        let mut index = self.index.lock();
        self.refresh(&mut index)?;
        let known = |id: &u64| {
            index.entry(*id).is_some_and(|entry| {
                streams.is_none_or(|wanted| wanted.contains(&index.streams[entry.stream]))
            })
        };
        Ok(ids.iter().copied().find(|id| !known(id)))
    }

    /// Adds to each letter the other flows that have an open letter of the same event.
    pub fn add_also_in(&self, letters: &mut [DeadLetter]) {
        let index = self.index.lock();
        let mut flows: HashMap<u64, BTreeSet<usize>> = letters
            .iter()
            .filter_map(|letter| Some((index.entry(letter.id)?.event, BTreeSet::new())))
            .collect();
        for entry in &index.entries {
            if let Some(groups) = flows.get_mut(&entry.event)
                && !index.closed.contains(&entry.id)
            {
                groups.insert(entry.group);
            }
        }
        for letter in letters {
            let Some(entry) = index.entry(letter.id) else {
                continue;
            };
            let groups = flows.get(&entry.event).into_iter().flatten();
            let others: BTreeSet<&str> = groups
                .map(|group| index.groups[*group].flow.as_str())
                .filter(|flow| *flow != letter.flow)
                .collect();
            letter.also_in = others.into_iter().map(str::to_owned).collect();
        }
    }

    /// Closes open letters that fit without sending them; returns how many. May block on the disk.
    ///
    /// # Errors
    /// `flow.redriving` when one of them belongs to a re-drive that is not finished; then none is closed.
    pub fn discard(&self, filter: &DeadFilter, by: &str) -> Result<u64, Error> {
        let filter = DeadFilter {
            closed: false,
            ..filter.clone()
        };
        let sending: BTreeSet<u64> = self
            .unfinished()?
            .into_iter()
            .flat_map(|run| run.ids)
            .collect();
        let mut count = 0;
        loop {
            let ids = self.find(&filter, DEAD_LETTERS_MAX)?;
            if ids.is_empty() {
                return Ok(count);
            }
            if ids.iter().any(|id| sending.contains(id)) {
                return Err(Error::new(Class::Transient, "flow.redriving"));
            }
            self.close_as(&ids, Closing::Discarded, by)?;
            count += ids.len() as u64;
        }
    }

    /// Reads the first of these letters, about as many as make a batch; answers how many of the numbers it
    /// looked at. May block on the disk.
    pub fn read_some(&self, ids: &[u64]) -> Result<(Vec<Letter>, usize), Error> {
        let (mut letters, mut read, mut bytes) = (Vec::new(), 0, 0);
        for ids in ids.chunks(DEAD_READ_ROWS / 16) {
            let more = self.read(ids)?;
            bytes += more
                .iter()
                .map(|letter| letter.shown.payload.len() + DEAD_MARKS_BYTES)
                .sum::<usize>();
            letters.extend(more);
            read += ids.len();
            if bytes >= BATCH_BYTES_MAX || letters.len() >= BATCH_ROWS_MAX {
                break;
            }
        }
        Ok((letters, read))
    }

    /// Reads letters by number. Those that are gone are left out. May block on the disk.
    pub fn read(&self, ids: &[u64]) -> Result<Vec<Letter>, Error> {
        let Some(partition) = self.stream.partitions().first().cloned() else {
            return Ok(Vec::new());
        };
        let mut letters = Vec::with_capacity(ids.len());
        let mut chunks: Vec<busbar_bus::Chunk> = Vec::new();
        for id in ids {
            if *id < partition.start() || *id >= partition.end() {
                continue;
            }
            let holds = |c: &busbar_bus::Chunk| (c.base..c.end()).contains(id);
            if !chunks.iter().any(holds) {
                chunks = partition.read(*id, crate::limits::READ_BYTES)?;
            }
            let closed = self.store.get(&numbered(DONE, *id));
            let closed = closed.map(|value| self::closed(&value));
            if let Some(chunk) = chunks.iter().find(|c| holds(c)) {
                let row = (id - chunk.base) as usize;
                letters.push(letter(&chunk.batch, row, *id, closed));
            }
        }
        Ok(letters)
    }

    /// Records that the events of these letters were read again and processed. Not awaited: if the record is
    /// lost, the events are recognised again.
    pub fn close(&self, ids: &[u64]) {
        let closed = self.closed_now(Closing::Redriven, "");
        let mut index = self.index.lock();
        let kept = index.kept(ids);
        for ids in kept.chunks(DEAD_DONE_MAX) {
            let changes = ids.iter().map(|id| done(*id, &closed)).collect();
            self.store.apply(changes, None);
        }
        for id in kept {
            index.mark(id);
        }
    }

    /// Records how these letters were closed, and by whom. Durable when it returns.
    fn close_as(&self, ids: &[u64], how: Closing, by: &str) -> Result<(), Error> {
        let ids = &self.index.lock().kept(ids);
        let closed = self.closed_now(how, by);
        for ids in ids.chunks(DEAD_DONE_MAX) {
            let changes = ids.iter().map(|id| done(*id, &closed)).collect();
            self.store
                .apply_sync(changes)
                .map_err(busbar_bus::from_log)?;
        }
        let mut index = self.index.lock();
        for id in ids {
            index.mark(*id);
        }
        Ok(())
    }

    fn closed_now(&self, how: Closing, by: &str) -> Bytes {
        let closed = Closed {
            how,
            by: by.to_owned(),
            at_micros: self.clock.now_micros(),
        };
        serde_json::to_vec(&closed).unwrap_or_default().into()
    }

    /// Records a re-drive before it begins.
    pub fn begin(&self, run: &Run) -> Result<(), Error> {
        let value = serde_json::to_vec(run)
            .map_err(|e| Error::new(Class::Permanent, "flow.checkpoint").caused_by(e))?;
        let change = Change::Put(numbered(RUN, run.run), value.into());
        self.store
            .apply_sync(vec![change])
            .map_err(busbar_bus::from_log)
    }

    /// Records that all letters of a re-drive were sent.
    pub fn finish(&self, run: &Run, ids: &[u64]) -> Result<(), Error> {
        self.close_as(ids, run.closing(), &run.by)?;
        let over = Change::Delete(numbered(RUN, run.run));
        self.store
            .apply_sync(vec![over])
            .map_err(busbar_bus::from_log)
    }

    /// Re-drives that were begun and not finished.
    pub fn unfinished(&self) -> Result<Vec<Run>, Error> {
        self.store
            .scan(RUN, None, DEAD_LETTERS_MAX)
            .iter()
            .map(|(_, value)| {
                serde_json::from_slice(value)
                    .map_err(|e| Error::new(Class::Permanent, "flow.checkpoint").caused_by(e))
            })
            .collect()
    }
}

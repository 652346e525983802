//! Reads the entries of streams, each behind the last one that was committed here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use busbar_connector::{Polled, Polling, Position, Source, SourceContext, Work};
use busbar_event::format::write_json_text;
use busbar_event::{BatchBuilder, Class, Error, Flags, Row};

use super::ReadOptions;
use super::failure::told;
use super::limits::{
    BLOCK, ENTRIES_BYTES, ENTRIES_FIRST, ENTRIES_MAX, SEQUENCE_BITS, VALUE_BYTES_MAX,
};
use super::link::{RedisLink, RedisServer};
use super::wire::{Commands, Reply};
use crate::topic::TopicTemplate;

/// Reads streams of a server.
pub struct RedisSource {
    server: RedisServer,
    options: ReadOptions,
    name: Arc<str>,
    topic: TopicTemplate,
    link: RedisLink,
    streams: Vec<ReadStream>,
    /// Entries that have come and are not handed on yet: the stream's place, and each entry.
    come: VecDeque<(usize, Entry)>,
    /// What was asked and not answered yet.
    asked: Option<RedisAsked>,
    /// Entries that the server has dropped, to be told.
    lost: VecDeque<Error>,
    /// Entries that are asked for next.
    count: u64,
    /// All that there was has come, so that the server may wait for more.
    caught_up: bool,
    builder: BatchBuilder,
}

struct ReadStream {
    key: Arc<str>,
    /// The last entry that was handed on.
    at: EntryId,
    /// Begins where the stream ends.
    at_end: bool,
    /// The oldest entry, while it is looked whether some are missing.
    oldest: Option<EntryId>,
}

struct Entry {
    id: EntryId,
    /// Names and values, in turn.
    fields: Vec<Reply>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RedisAsked {
    /// The last entry of each stream that begins at its end.
    Ends,
    /// The oldest entry of each stream, then whether the one that was read last is still there; then entries.
    Checked,
    Entries,
}

/// The number of an entry: milliseconds, and which of those of a millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct EntryId {
    millis: u64,
    sequence: u64,
}

impl EntryId {
    fn parse(text: &str) -> Option<EntryId> {
        let (millis, sequence) = text.split_once('-')?;
        Some(EntryId {
            millis: millis.parse().ok()?,
            sequence: sequence.parse().ok()?,
        })
    }

    /// As one number in the same order; `None` for numbers that no clock has made.
    fn position(self) -> Option<u64> {
        let fits = self.millis >> (64 - SEQUENCE_BITS) == 0 && self.sequence >> SEQUENCE_BITS == 0;
        fits.then_some(self.millis << SEQUENCE_BITS | self.sequence)
    }

    fn at(position: u64) -> EntryId {
        EntryId {
            millis: position >> SEQUENCE_BITS,
            sequence: position & ((1 << SEQUENCE_BITS) - 1),
        }
    }
}

impl std::fmt::Display for EntryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.millis, self.sequence)
    }
}

impl RedisSource {
    pub(super) async fn open(
        server: RedisServer,
        options: ReadOptions,
        topic: TopicTemplate,
        context: SourceContext,
    ) -> Result<RedisSource, Error> {
        let link = server.open().await?;
        let resume = &context.resume;
        let streams = options.streams.iter().map(|key| ReadStream {
            key: key.as_str().into(),
            at: EntryId::at(resume.position(key)),
            at_end: options.new_only && !resume.positions.contains_key(key),
            oldest: None,
        });
        Ok(RedisSource {
            streams: streams.collect(),
            server,
            options,
            name: context.name,
            topic,
            link,
            come: VecDeque::new(),
            asked: None,
            lost: VecDeque::new(),
            count: ENTRIES_FIRST,
            caught_up: false,
            builder: BatchBuilder::new(),
        })
    }

    async fn next(&mut self) -> Result<Polled, Error> {
        loop {
            if let Some(lost) = self.lost.pop_front() {
                return Err(lost);
            }
            if !self.come.is_empty() {
                return self.publish().map(Polled::Batch);
            }
            match self.asked {
                None if self.streams.iter().any(|stream| stream.at_end) => self.ask_ends(),
                None => self.ask_entries(),
                Some(RedisAsked::Ends) => {
                    if let Some(polling) = self.answered_end().await? {
                        return Ok(Polled::Batch(polling));
                    }
                }
                Some(RedisAsked::Checked) => self.answered_check().await?,
                Some(RedisAsked::Entries) => {
                    let (reply, bytes) = self.link.sized_reply().await?;
                    self.asked = None;
                    if !self.answered_entries(reply, bytes)? {
                        // Lets the runtime see that the server answers.
                        return Ok(Polled::Idle(Duration::ZERO));
                    }
                }
            }
        }
    }

    fn ask_ends(&mut self) {
        let mut commands = Commands::default();
        for stream in self.streams.iter().filter(|stream| stream.at_end) {
            let key = stream.key.as_bytes();
            commands.add(&[b"XREVRANGE", key, b"+", b"-", b"COUNT", b"1"]);
        }
        self.link.send(&commands);
        self.asked = Some(RedisAsked::Ends);
    }

    /// Where the next of the streams that begin at their end begins; kept at once, so that what comes later is read also
    /// after a restart.
    async fn answered_end(&mut self) -> Result<Option<Polling>, Error> {
        let reply = self.link.reply().await?;
        if self.link.rests() {
            self.asked = None;
        }
        let Some(at) = self.streams.iter().position(|stream| stream.at_end) else {
            return Ok(None);
        };
        let key = Arc::clone(&self.streams[at].key);
        let last = entries(&reply, &key, &self.server)?.into_iter().next();
        let stream = &mut self.streams[at];
        stream.at_end = false;
        stream.at = last.map(|entry| entry.id).unwrap_or_default();
        let position = position(&key, stream.at)?;
        Ok(Some(Polling {
            batch: self.builder.finish(),
            part: key,
            position: Position::End(position),
            note: Vec::new(),
        }))
    }

    fn ask_entries(&mut self) {
        let mut commands = Commands::default();
        if !self.caught_up {
            for stream in &self.streams {
                let (key, at) = (stream.key.as_bytes(), stream.at.to_string());
                commands.add(&[b"XRANGE", key, b"-", b"+", b"COUNT", b"1"]);
                commands.add(&[b"XRANGE", key, at.as_bytes(), at.as_bytes()]);
            }
        }
        let count = self.count.to_string();
        let block = BLOCK.min(self.server.timeout / 2).as_millis().to_string();
        let mut words: Vec<&[u8]> = vec![b"XREAD", b"COUNT", count.as_bytes()];
        if self.caught_up {
            words.extend([&b"BLOCK"[..], block.as_bytes()]);
        }
        words.push(b"STREAMS");
        words.extend(self.streams.iter().map(|stream| stream.key.as_bytes()));
        let at: Vec<_> = self.streams.iter().map(|s| s.at.to_string()).collect();
        words.extend(at.iter().map(String::as_bytes));
        commands.add(&words);
        self.asked = Some(match self.caught_up {
            true => RedisAsked::Entries,
            false => RedisAsked::Checked,
        });
        self.link.send(&commands);
    }

    /// Sees whether the server has dropped entries that were not read: it drops the oldest, so that nothing is missing
    /// where the one that was read last is still there, or older than the oldest.
    async fn answered_check(&mut self) -> Result<(), Error> {
        // Two answers for each stream, and one for all.
        while self.link.owed() > 1 {
            let left = self.link.owed() - 1;
            let at = self.streams.len() - left.div_ceil(2);
            let reply = self.link.reply().await?;
            let stream = &mut self.streams[at];
            let there = entries(&reply, &stream.key, &self.server)?;
            if left.is_multiple_of(2) {
                stream.oldest = there.first().map(|entry| entry.id);
                continue;
            }
            let lost = stream.oldest.take().filter(|oldest| {
                there.is_empty() && stream.at != EntryId::default() && *oldest > stream.at
            });
            if let Some(oldest) = lost {
                self.lost.push_back(
                    Error::new(Class::Permanent, "redis.trimmed")
                        .with("stream", &stream.key)
                        .with("last", stream.at)
                        .with("oldest", oldest),
                );
            }
        }
        self.asked = Some(RedisAsked::Entries);
        Ok(())
    }

    /// Takes entries; false when there are none.
    fn answered_entries(&mut self, reply: Reply, bytes: usize) -> Result<bool, Error> {
        let streams = match reply {
            Reply::List(streams) => streams,
            Reply::Null => {
                self.caught_up = true;
                return Ok(false);
            }
            other => {
                entries(&other, &self.options.streams.join(", "), &self.server)?;
                return Ok(false);
            }
        };
        let mut full = false;
        for of_stream in &streams {
            let [Reply::Value(key), list] = of_stream.list().unwrap_or_default() else {
                return Err(strange(&self.server));
            };
            let at = self
                .streams
                .iter()
                .position(|s| s.key.as_bytes() == &key[..]);
            let at = at.ok_or_else(|| strange(&self.server))?;
            let list = entries(list, &self.streams[at].key, &self.server)?;
            full |= list.len() as u64 >= self.count;
            self.come.extend(list.into_iter().map(|entry| (at, entry)));
        }
        self.caught_up = !full;
        self.count = match bytes {
            0..ENTRIES_BYTES => (self.count * 2).min(ENTRIES_MAX),
            _ => (self.count / 2).max(1),
        };
        Ok(true)
    }

    /// Hands on entries of one stream, as many as a batch takes.
    fn publish(&mut self) -> Result<Polling, Error> {
        let at = self.come.front().map_or(0, |(at, _)| *at);
        let key = Arc::clone(&self.streams[at].key);
        let mut topic = String::new();
        let value = |name: &str| match name {
            "connection" => Some(self.name.to_string()),
            _ => Some(key.to_string()),
        };
        self.topic.write(value, &mut topic);
        let topic = self.builder.topic_id(&topic);
        let mut positions = Vec::new();
        let mut payload = Vec::new();
        while let Some((_, entry)) = self.come.pop_front_if(|(of, _)| *of == at) {
            let id = entry.id.to_string();
            let bytes = match &self.options.payload {
                Some(field) => entry.field(field).unwrap_or_default(),
                None => {
                    payload.clear();
                    entry.write(&mut payload);
                    &payload
                }
            };
            if bytes.len() > VALUE_BYTES_MAX {
                let error = Error::new(Class::Configuration, "redis.too-large");
                return Err(error
                    .with("address", &self.server.address)
                    .with("most", VALUE_BYTES_MAX));
            }
            let time = i64::try_from(entry.id.millis).unwrap_or(i64::MAX);
            positions.push(position(&key, entry.id)?);
            self.builder.push(Row {
                topic,
                key: None,
                time: time.saturating_mul(1_000),
                client: None,
                flags: Flags::default().with_qos(1),
                tags: &[("redis-id", &id)],
                payload: bytes,
            });
            self.streams[at].at = entry.id;
            if self.builder.is_full() {
                break;
            }
        }
        Ok(Polling {
            batch: self.builder.finish(),
            part: key,
            position: Position::Rows(positions),
            note: Vec::new(),
        })
    }
}

impl Entry {
    fn field(&self, name: &str) -> Option<&[u8]> {
        let mut pairs = self.fields.chunks_exact(2);
        pairs.find_map(|pair| match pair {
            [Reply::Value(field), Reply::Value(value)] if &field[..] == name.as_bytes() => {
                Some(&value[..])
            }
            _ => None,
        })
    }

    /// Appends the fields as a JSON object, each value as text.
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (at, pair) in self.fields.chunks_exact(2).enumerate() {
            if at > 0 {
                out.push(b',');
            }
            for (at, word) in pair.iter().enumerate() {
                if at > 0 {
                    out.push(b':');
                }
                let Reply::Value(word) = word else { continue };
                match std::str::from_utf8(word) {
                    Ok(text) => write_json_text(text, out),
                    Err(_) => {
                        // As PostgreSQL writes bytes.
                        let mut text = String::from("\\x");
                        for byte in word {
                            text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
                            text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
                        }
                        write_json_text(&text, out);
                    }
                }
            }
        }
        out.push(b'}');
    }
}

/// The entries of an answer.
fn entries(reply: &Reply, key: &str, server: &RedisServer) -> Result<Vec<Entry>, Error> {
    match reply {
        Reply::Refused(said) => {
            let told = told(said, server.doing(key, "+xread +xrange +xrevrange"));
            // A key of another kind does not become a stream by itself.
            Err(match told.class() {
                Class::Permanent => Error::new(Class::Configuration, "redis.no-stream")
                    .with("address", &server.address)
                    .with("stream", key),
                _ => told,
            })
        }
        Reply::Null => Ok(Vec::new()),
        Reply::List(list) => {
            let entry = |entry: &Reply| match entry.list()? {
                [id, Reply::List(fields)] => Some(Entry {
                    id: EntryId::parse(id.text()?)?,
                    fields: fields.clone(),
                }),
                _ => None,
            };
            let entries: Option<Vec<_>> = list.iter().map(entry).collect();
            entries.ok_or_else(|| strange(server))
        }
        _ => Err(strange(server)),
    }
}

fn position(key: &str, id: EntryId) -> Result<u64, Error> {
    id.position().ok_or_else(|| {
        Error::new(Class::Configuration, "redis.entry-id")
            .with("stream", key)
            .with("id", id)
    })
}

fn strange(server: &RedisServer) -> Error {
    Error::new(Class::Transient, "redis.strange")
        .with("address", &server.address)
        .with("what", "entries of another form")
}

impl Source for RedisSource {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(self.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_in_the_order_of_the_entries() {
        let ids = [
            "0-1",
            "1-0",
            "1700000000000-0",
            "1700000000000-4194303",
            "1700000000001-0",
        ];
        let ids = ids.map(|id| EntryId::parse(id).expect("an id"));
        let positions = ids.map(|id| id.position().expect("a position"));
        assert!(positions.is_sorted() && ids.is_sorted());
        for (id, position) in ids.into_iter().zip(positions) {
            assert_eq!(EntryId::at(position), id);
        }
        for id in ["4398046511104-0", "1-4194304"] {
            assert_eq!(EntryId::parse(id).expect("an id").position(), None, "{id}");
        }
        for none in ["", "5", "5-", "a-1", "-1-1"] {
            assert_eq!(EntryId::parse(none), None, "{none}");
        }
    }
}

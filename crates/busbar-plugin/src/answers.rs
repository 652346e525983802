//! What plug-ins answer: for each event none, one or many.

use std::fmt;
use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use busbar_event::{Class, Error};
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

use crate::frame::ScriptFailure;
use crate::limits::{ANSWER_EVENTS_MAX, EVENTS_OF_ONE_MAX};

/// The events that a plug-in made of a batch, in the order of the batch.
#[derive(Debug, Default)]
pub struct PluginAnswers {
    rows: Vec<MadeRow>,
    /// Texts and payloads that rows refer to.
    bytes: Vec<u8>,
    /// Names and values of tags, as ranges of `bytes`.
    tags: Vec<(Range<usize>, Range<usize>)>,
    /// Events that failed, by their place in the batch, in order.
    failed: Vec<(usize, ScriptFailure)>,
}

/// An event that a plug-in made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerRow<'a> {
    /// The event that it was made of, by its place in the batch.
    pub event: usize,
    /// Its topic; none: that of the event.
    pub topic: Option<&'a str>,
    /// Its key; none: that of the event. `Some(None)`: no key.
    pub key: Option<Option<&'a str>>,
    /// Whether it has tags of its own in place of the event's.
    pub own_tags: bool,
    /// Its payload; none: that of the event.
    pub payload: Option<&'a [u8]>,
}

/// An event that is being put together; ranges are of [`PluginAnswers::buffer`].
pub(crate) struct MadeDraft {
    row: MadeRow,
    /// Where its tags begin.
    tags: usize,
}

/// How much there is of each part of [`PluginAnswers`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswersMark {
    rows: usize,
    bytes: usize,
    tags: usize,
    failed: usize,
}

impl MadeDraft {
    pub fn topic(&mut self, range: Range<usize>) {
        self.row.topic = Some(range);
    }

    /// None: it has none.
    pub fn key(&mut self, range: Option<Range<usize>>) {
        self.row.key = Some(range);
    }

    /// All tags that were added since the draft was begun.
    pub fn tags(&mut self, answers: &PluginAnswers) {
        self.row.tags = Some(self.tags..answers.tags.len());
    }

    pub fn payload(&mut self, range: Range<usize>) {
        self.row.payload = Some(range);
    }
}

#[derive(Clone, Debug, Default)]
struct MadeRow {
    event: usize,
    topic: Option<Range<usize>>,
    key: Option<Option<Range<usize>>>,
    tags: Option<Range<usize>>,
    payload: Option<Range<usize>>,
}

impl PluginAnswers {
    /// Number of events that were made.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether none was made.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The events that were made.
    pub fn rows(&self) -> impl Iterator<Item = AnswerRow<'_>> {
        self.rows.iter().map(|row| AnswerRow {
            event: row.event,
            topic: row.topic.clone().map(|range| self.text(range)),
            key: row.key.clone().map(|key| key.map(|range| self.text(range))),
            own_tags: row.tags.is_some(),
            payload: row.payload.clone().map(|range| &self.bytes[range]),
        })
    }

    /// The tags of an event that was made, by its place among [`PluginAnswers::rows`]; none where it has those of the event.
    pub fn tags(&self, row: usize) -> impl Iterator<Item = (&str, &str)> {
        let range = self.rows[row].tags.clone().unwrap_or_default();
        let tags = self.tags[range].iter();
        tags.map(|(name, value)| (self.text(name.clone()), self.text(value.clone())))
    }

    /// Events that failed, by their place in the batch, in order.
    pub fn failed(&self) -> impl Iterator<Item = (usize, &ScriptFailure)> {
        self.failed.iter().map(|(event, failure)| (*event, failure))
    }

    /// Adds the answer to `count` events of the batch, from the event `first` on: a JSON array with an entry for each.
    ///
    /// # Errors
    /// `plugin.rubbish-answer`: it is none; nothing has been added then.
    pub fn read(&mut self, events: &RawValue, first: usize, count: usize) -> Result<(), Error> {
        let before = self.mark();
        let mut json = serde_json::Deserializer::from_str(events.get());
        let seed = AnswerList {
            answers: &mut *self,
            first,
            count,
        };
        seed.deserialize(&mut json).map_err(|cause| {
            self.reset(before);
            Error::new(Class::Permanent, "plugin.rubbish-answer").with("cause", cause)
        })
    }

    /// Adds the answer to `count` events of the batch, from the event `first` on, of which each came out once with another
    /// payload: a JSON array of these.
    ///
    /// # Errors
    /// `plugin.rubbish-answer`: it is none; nothing has been added then.
    pub fn read_payloads(
        &mut self,
        payloads: &RawValue,
        first: usize,
        count: usize,
    ) -> Result<(), Error> {
        let rubbish = |cause: &dyn fmt::Display| {
            Error::new(Class::Permanent, "plugin.rubbish-answer").with("cause", cause)
        };
        let payloads: Vec<&RawValue> =
            serde_json::from_str(payloads.get()).map_err(|cause| rubbish(&cause))?;
        if payloads.len() != count {
            return Err(rubbish(&format_args!(
                "{} payloads for {count} events",
                payloads.len()
            )));
        }
        for (at, payload) in payloads.into_iter().enumerate() {
            let payload = Some(self.add(payload.get().as_bytes()));
            self.rows.push(MadeRow {
                event: first + at,
                payload,
                ..MadeRow::default()
            });
        }
        Ok(())
    }

    /// Adds the answer to one event, by its place in the batch: an entry of the array that [`PluginAnswers::read`] reads.
    ///
    /// # Errors
    /// `plugin.rubbish-answer`: it is none.
    #[cfg(feature = "javascript")]
    pub(crate) fn read_one(&mut self, entry: &str, event: usize) -> Result<(), Error> {
        let mut json = serde_json::Deserializer::from_str(entry);
        let seed = AnswerEntry {
            answers: self,
            event,
            inner: false,
        };
        seed.deserialize(&mut json).map_err(|cause| {
            Error::new(Class::Permanent, "plugin.rubbish-answer").with("cause", cause)
        })
    }

    /// Adds an event that came out as it went in.
    #[cfg(feature = "javascript")]
    pub(crate) fn push_unchanged(&mut self, event: usize) {
        self.rows.push(MadeRow {
            event,
            ..MadeRow::default()
        });
    }

    /// Begins an event that was made of this one. Nothing counts before [`PluginAnswers::end_made`].
    pub(crate) fn begin_made(&self, event: usize) -> MadeDraft {
        MadeDraft {
            row: MadeRow {
                event,
                ..MadeRow::default()
            },
            tags: self.tags.len(),
        }
    }

    /// Where texts and payloads of drafts are written.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Adds a tag, whose name and value are in the buffer.
    pub(crate) fn add_tag(&mut self, name: Range<usize>, value: Range<usize>) {
        self.tags.push((name, value));
    }

    /// Adds the event.
    pub(crate) fn end_made(&mut self, draft: MadeDraft) {
        self.rows.push(draft.row);
    }

    /// Adds an event that failed, behind those that were added before.
    pub(crate) fn push_failed(&mut self, event: usize, failure: ScriptFailure) {
        self.failed.push((event, failure));
    }

    /// How much there is.
    pub(crate) fn mark(&self) -> AnswersMark {
        AnswersMark {
            rows: self.rows.len(),
            bytes: self.bytes.len(),
            tags: self.tags.len(),
            failed: self.failed.len(),
        }
    }

    /// Forgets what was added since.
    pub(crate) fn reset(&mut self, mark: AnswersMark) {
        self.rows.truncate(mark.rows);
        self.bytes.truncate(mark.bytes);
        self.tags.truncate(mark.tags);
        self.failed.truncate(mark.failed);
    }

    fn text(&self, range: Range<usize>) -> &str {
        // Only whole texts are added.
        std::str::from_utf8(&self.bytes[range]).unwrap_or_default()
    }

    fn add(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }
}

/// The array of all events.
struct AnswerList<'a> {
    answers: &'a mut PluginAnswers,
    first: usize,
    count: usize,
}

impl<'de> DeserializeSeed<'de> for AnswerList<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for AnswerList<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list with an entry for each of {} events", self.count)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let rows_max = self.answers.rows.len() + ANSWER_EVENTS_MAX;
        for at in 0..self.count {
            let seed = AnswerEntry {
                answers: &mut *self.answers,
                event: self.first + at,
                inner: false,
            };
            if list.next_element_seed(seed)?.is_none() {
                return Err(A::Error::invalid_length(at, &self));
            }
            if self.answers.rows.len() > rows_max {
                let many = format!("more than {ANSWER_EVENTS_MAX} events");
                return Err(A::Error::custom(many));
            }
        }
        match list.next_element::<IgnoredAny>()? {
            None => Ok(()),
            Some(_) => Err(A::Error::invalid_length(self.count + 1, &self)),
        }
    }
}

/// What came of one event.
struct AnswerEntry<'a> {
    answers: &'a mut PluginAnswers,
    event: usize,
    /// It stands in the list of one event.
    inner: bool,
}

impl<'de> DeserializeSeed<'de> for AnswerEntry<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnswerEntry<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event, a list of events, null, true or false")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, unchanged: bool) -> Result<(), E> {
        if unchanged {
            self.answers.rows.push(MadeRow {
                event: self.event,
                ..MadeRow::default()
            });
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if self.inner {
            return Err(A::Error::custom("a list within the list of an event"));
        }
        let before = self.answers.rows.len();
        loop {
            let seed = AnswerEntry {
                answers: &mut *self.answers,
                event: self.event,
                inner: true,
            };
            if list.next_element_seed(seed)?.is_none() {
                return Ok(());
            }
            if self.answers.rows.len() - before > EVENTS_OF_ONE_MAX {
                let many = format!("more than {EVENTS_OF_ONE_MAX} events of one");
                return Err(A::Error::custom(many));
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let AnswerEntry { answers, event, .. } = self;
        let mut row = MadeRow {
            event,
            ..MadeRow::default()
        };
        while let Some(key) = map.next_key::<AnswerKey>()? {
            match key {
                AnswerKey::Topic => row.topic = Some(map.next_value_seed(TextSeed(answers))?),
                AnswerKey::Key => row.key = Some(map.next_value_seed(KeySeed(answers))?),
                AnswerKey::Tags => row.tags = Some(map.next_value_seed(TagsSeed(answers))?),
                AnswerKey::Payload => {
                    let payload: &'de RawValue = map.next_value()?;
                    row.payload = Some(answers.add(payload.get().as_bytes()));
                }
                AnswerKey::Text => row.payload = Some(map.next_value_seed(TextSeed(answers))?),
                AnswerKey::Base64 => {
                    let text: String = map.next_value()?;
                    let bytes = STANDARD.decode(text);
                    let bytes =
                        bytes.map_err(|_| A::Error::custom("the value of base64 is none"))?;
                    row.payload = Some(answers.add(&bytes));
                }
                // It is the event's own.
                AnswerKey::Time => drop(map.next_value::<IgnoredAny>()?),
                AnswerKey::Error => {
                    let failure: ScriptFailure = map.next_value()?;
                    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                    // What it made before it failed goes with it.
                    while answers.rows.last().is_some_and(|row| row.event == event) {
                        answers.rows.pop();
                    }
                    if answers.failed.last().is_none_or(|(last, _)| *last != event) {
                        answers.failed.push((event, failure));
                    }
                    return Ok(());
                }
            }
        }
        if answers.failed.last().is_none_or(|(last, _)| *last != event) {
            answers.rows.push(row);
        }
        Ok(())
    }
}

#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum AnswerKey {
    Topic,
    Key,
    Tags,
    Time,
    Payload,
    Text,
    Base64,
    Error,
}

struct TextSeed<'a>(&'a mut PluginAnswers);

impl<'de> DeserializeSeed<'de> for TextSeed<'_> {
    type Value = Range<usize>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Range<usize>, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for TextSeed<'_> {
    type Value = Range<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_str<E>(self, text: &str) -> Result<Range<usize>, E> {
        Ok(self.0.add(text.as_bytes()))
    }
}

struct KeySeed<'a>(&'a mut PluginAnswers);

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Option<Range<usize>>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = Option<Range<usize>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text or null")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(self.0.add(text.as_bytes())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

struct TagsSeed<'a>(&'a mut PluginAnswers);

impl<'de> DeserializeSeed<'de> for TagsSeed<'_> {
    type Value = Range<usize>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Range<usize>, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TagsSeed<'_> {
    type Value = Range<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tags, an object")
    }

    fn visit_unit<E>(self) -> Result<Range<usize>, E> {
        Ok(self.0.tags.len()..self.0.tags.len())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Range<usize>, A::Error> {
        let start = self.0.tags.len();
        while let Some(name) = map.next_key_seed(TextSeed(self.0))? {
            let value: &'de RawValue = map.next_value()?;
            let value = match value.get() {
                "null" => continue,
                text if text.starts_with('"') => {
                    let text: String = serde_json::from_str(text).map_err(A::Error::custom)?;
                    self.0.add(text.as_bytes())
                }
                other => self.0.add(other.as_bytes()),
            };
            self.0.tags.push((name, value));
        }
        Ok(start..self.0.tags.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str, count: usize) -> Result<PluginAnswers, Error> {
        let mut answers = PluginAnswers::default();
        let raw: Box<RawValue> = serde_json::from_str(json).unwrap();
        answers.read(&raw, 10, count).map(|()| answers)
    }

    #[test]
    fn an_event_becomes_none_one_or_many() {
        let json = r#"[null, false, [], true, {"payload": {"a": [1, "\n"]}, "time": 3},
            [{"topic": "a/\u00e9", "key": null}, {"key": "k", "tags": {"n": 1, "s": "x\"", "z": null, "o": {"a": 1}}}],
            {"text": "a\tb"}, {"base64": "/wA="}]"#;
        let answers = read(json, 8).unwrap();
        let rows: Vec<_> = answers.rows().collect();
        let row = |event| AnswerRow {
            event,
            topic: None,
            key: None,
            own_tags: false,
            payload: None,
        };
        assert_eq!(
            rows,
            [
                row(13),
                AnswerRow {
                    payload: Some(br#"{"a": [1, "\n"]}"#),
                    ..row(14)
                },
                AnswerRow {
                    topic: Some("a/é"),
                    key: Some(None),
                    ..row(15)
                },
                AnswerRow {
                    key: Some(Some("k")),
                    own_tags: true,
                    ..row(15)
                },
                AnswerRow {
                    payload: Some(b"a\tb"),
                    ..row(16)
                },
                AnswerRow {
                    payload: Some(&[0xff, 0]),
                    ..row(17)
                },
            ]
        );
        let tags: Vec<_> = answers.tags(3).collect();
        assert_eq!(tags, [("n", "1"), ("s", "x\""), ("o", "{\"a\": 1}")]);
    }

    #[test]
    fn an_event_that_fails_makes_nothing() {
        let json = r#"[[{"payload": 1}, {"error": {"message": "no", "file": "main.py", "line": 3}}, {"payload": 2}], true]"#;
        let answers = read(json, 2).unwrap();
        assert_eq!(
            answers.rows().map(|row| row.event).collect::<Vec<_>>(),
            [11]
        );
        let failed: Vec<_> = answers.failed().collect();
        assert_eq!(failed.len(), 1);
        let error = failed[0].1.error(Class::Permanent, "rain");
        assert_eq!((failed[0].0, error.code()), (10, "plugin.script-at"));
    }

    #[test]
    fn payloads_alone_are_one_for_each_event() {
        let mut answers = PluginAnswers::default();
        let raw: Box<RawValue> = serde_json::from_str(r#"[{"a": 1}, null]"#).unwrap();
        answers.read_payloads(&raw, 4, 2).unwrap();
        let rows: Vec<_> = answers.rows().map(|row| (row.event, row.payload)).collect();
        assert_eq!(
            rows,
            [(4, Some(&b"{\"a\": 1}"[..])), (5, Some(&b"null"[..]))]
        );
        for count in [1, 3] {
            let error = answers.read_payloads(&raw, 6, count).unwrap_err();
            assert_eq!(error.code(), "plugin.rubbish-answer");
        }
        assert_eq!(answers.len(), 2);
    }

    #[test]
    fn an_answer_that_is_none_adds_nothing() {
        let mut answers = read("[true]", 1).unwrap();
        for bad in [
            "[true]",
            "[true, true, true]",
            "[true, 3]",
            "[true, \"x\"]",
            "[true, [[]]]",
            "{}",
            "null",
            r#"[true, {"topics": "a"}]"#,
            r#"[true, {"topic": 3}]"#,
            r#"[true, {"tags": 3}]"#,
            r#"[true, {"base64": "*"}]"#,
            r#"[true, {"error": "x"}]"#,
        ] {
            let raw: Box<RawValue> = serde_json::from_str(bad).unwrap();
            let error = answers.read(&raw, 1, 2).unwrap_err();
            assert_eq!(error.code(), "plugin.rubbish-answer", "{bad}");
            assert_eq!((answers.len(), answers.bytes.len()), (1, 0), "{bad}");
        }
    }
}

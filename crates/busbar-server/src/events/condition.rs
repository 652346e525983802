//! Conditions on single events: a text, a key, a tag, a range of times.

use busbar_event::{Batch, Class, Error, tags};

use crate::limits::CONDITION_BYTES_MAX;

/// What an event must have beside its topic. Empty matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    text: Option<Text>,
    key: Option<String>,
    tag: Option<(String, Option<String>)>,
    /// Earliest time, in microseconds since 1970.
    since: Option<i64>,
    /// First time that does not match, in microseconds since 1970.
    until: Option<i64>,
}

impl Condition {
    /// Reads the parameters of a request: a text to find in topic, key, tags or payload; an exact key;
    /// a tag as `name` or `name=value`. Empty parameters are ignored.
    ///
    /// # Errors
    /// When a parameter is longer than [`CONDITION_BYTES_MAX`].
    pub(crate) fn new(
        text: Option<&str>,
        key: Option<&str>,
        tag: Option<&str>,
    ) -> Result<Condition, Error> {
        let given = |name: &'static str, value: Option<&str>| match value {
            Some(value) if value.len() > CONDITION_BYTES_MAX => {
                Err(Error::new(Class::Permanent, "server.condition-too-long")
                    .with("name", name)
                    .with("max", CONDITION_BYTES_MAX))
            }
            value => Ok(value.filter(|value| !value.is_empty()).map(str::to_owned)),
        };
        let tag = given("tag", tag)?.map(|tag| match tag.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (tag, None),
        });
        Ok(Condition {
            text: given("text", text)?.map(Text::new),
            key: given("key", key)?,
            tag,
            since: None,
            until: None,
        })
    }

    /// The same for events at or after `since` and before `until`, in microseconds since 1970.
    #[must_use]
    pub(crate) fn between(self, since: Option<i64>, until: Option<i64>) -> Condition {
        Condition {
            since,
            until,
            ..self
        }
    }

    /// Removes the rows that do not match.
    pub(crate) fn retain(&self, batch: &Batch, rows: &mut Vec<u32>) {
        if *self == Condition::default() || rows.is_empty() {
            return;
        }
        let topics = batch.topic_values();
        let topics: Vec<bool> = match &self.text {
            // A topic is searched once for all events that have it.
            Some(text) => topics
                .iter()
                .map(|topic| topic.is_some_and(|topic| text.is_in(topic.as_bytes())))
                .collect(),
            None => Vec::new(),
        };
        let payloads = self.text.as_ref().map(|_| batch.payloads());
        rows.retain(|row| {
            let row = *row as usize;
            let time = batch.times()[row];
            if self.since.is_some_and(|since| time < since)
                || self.until.is_some_and(|until| time >= until)
                || (self.key.is_some() && batch.key(row) != self.key.as_deref())
                || self
                    .tag
                    .as_ref()
                    .is_some_and(|tag| !has_tag(batch, row, tag))
            {
                return false;
            }
            let (Some(text), Some(payloads)) = (&self.text, &payloads) else {
                return true;
            };
            topics[batch.topic_keys()[row] as usize]
                || text.is_in(payloads.value(row))
                || batch.key(row).is_some_and(|key| text.is_in(key.as_bytes()))
                || batch.has_tags()
                    && plain_tags(batch, row).any(|(name, value)| {
                        text.is_in(name.as_bytes()) || text.is_in(value.as_bytes())
                    })
        });
    }
}

fn has_tag(batch: &Batch, row: usize, (name, value): &(String, Option<String>)) -> bool {
    batch.has_tags()
        && plain_tags(batch, row)
            .any(|tag| tag.0 == name && value.as_deref().is_none_or(|value| tag.1 == value))
}

/// The tags that users see, without those that Busbar keeps for itself.
fn plain_tags(batch: &Batch, row: usize) -> impl Iterator<Item = (&str, &str)> {
    batch
        .tags(row)
        .filter_map(|(name, value)| Some((tags::unescape(name)?, value)))
}

/// A text to search for. ASCII letters match in either case.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Text(Vec<u8>);

impl Text {
    fn new(text: String) -> Text {
        let mut bytes = text.into_bytes();
        bytes.make_ascii_lowercase();
        Text(bytes)
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        let Some((first, rest)) = self.0.split_first() else {
            return true;
        };
        memchr::memchr2_iter(*first, first.to_ascii_uppercase(), bytes).any(|at| {
            bytes
                .get(at + 1..at + 1 + rest.len())
                .is_some_and(|found| found.eq_ignore_ascii_case(rest))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use busbar_event::{BatchBuilder, Flags, Row};

    fn found(condition: &Condition) -> Vec<u32> {
        let mut builder = BatchBuilder::new();
        type Given<'a> = (
            &'a str,
            Option<&'a str>,
            i64,
            &'a [(&'a str, &'a str)],
            &'a [u8],
        );
        let rows: [Given<'_>; 4] = [
            (
                "meter/M1/reading",
                Some("k1"),
                10,
                &[("site", "north")],
                b"{\"kw\":1}",
            ),
            (
                "meter/m2/reading",
                Some("k2"),
                20,
                &[("site", "south")],
                b"{\"kw\":2}",
            ),
            ("door", None, 30, &[], "打开 Open".as_bytes()),
            ("raw", None, 40, &[("n", "")], b"\xff\x00needle"),
        ];
        for (topic, key, time, tags, payload) in rows {
            let topic = builder.topic_id(topic);
            builder.push(Row {
                topic,
                key,
                time,
                client: None,
                flags: Flags::default(),
                tags,
                payload,
            });
        }
        let batch = builder.finish();
        let mut rows = (0..4).collect();
        condition.retain(&batch, &mut rows);
        rows
    }

    #[test]
    fn each_part_of_an_event_can_be_asked_for() {
        let with = |text: &str, key: &str, tag: &str| {
            found(&Condition::new(Some(text), Some(key), Some(tag)).unwrap())
        };
        assert_eq!(with("", "", ""), [0, 1, 2, 3]);
        assert_eq!(with("m1", "", ""), [0]);
        assert_eq!(with("NORTH", "", ""), [0]);
        assert_eq!(with("K2", "", ""), [1]);
        assert_eq!(with("打开", "", ""), [2]);
        assert_eq!(with("oPEN", "", ""), [2]);
        assert_eq!(with("needle", "", ""), [3]);
        assert_eq!(with("\"kw\":2", "", ""), [1]);
        assert_eq!(with("needles", "", ""), [] as [u32; 0]);
        assert_eq!(with("", "k1", ""), [0]);
        assert_eq!(with("", "k", ""), [] as [u32; 0]);
        assert_eq!(with("", "", "site"), [0, 1]);
        assert_eq!(with("", "", "site=south"), [1]);
        assert_eq!(with("", "", "n="), [3]);
        assert_eq!(with("reading", "k1", "site=south"), [] as [u32; 0]);
        let between = |since, until| found(&Condition::default().between(since, until));
        assert_eq!(between(Some(20), None), [1, 2, 3]);
        assert_eq!(between(None, Some(20)), [0]);
        assert_eq!(between(Some(20), Some(40)), [1, 2]);
    }

    #[test]
    fn a_condition_is_bounded() {
        let long = "x".repeat(CONDITION_BYTES_MAX + 1);
        for condition in [
            Condition::new(Some(&long), None, None),
            Condition::new(None, Some(&long), None),
            Condition::new(None, None, Some(&long)),
        ] {
            assert_eq!(condition.unwrap_err().code(), "server.condition-too-long");
        }
    }
}

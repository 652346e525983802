//! The resources of a server by the time of their last change, round after round.
//!
//! A round is a span of time: from where the one before ended until a little before now, by the clock of the server. What
//! changes meanwhile is of a later round, so that nothing is missed and nothing comes twice.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use busbar_connector::{
    Escape, Polled, Polling, Position, ServiceAnswer, Source, SourceContext, Work,
};
use busbar_event::limits::PAYLOAD_BYTES_MAX;
use busbar_event::{ARRIVAL, BatchBuilder, Class, Error, Flags, Row, time};
use busbar_log::Clock;
use serde::{Deserialize, Serialize};

use super::limits::{HISTORY_BYTES_MAX, ROUND_PAGES_MAX};
use super::link::FhirLink;
use super::outcome::{Refused, refused};
use super::page::{Page, Version, VersionChange};
use super::paging::{PageKey, to_milliseconds};
use super::{FhirRead, ReadBy};
use crate::change::attempt;
use crate::limits::{TRANSACTION_BYTES, TRANSACTION_ROWS};
use crate::topic::TopicTemplate;

/// Reads one round after the other.
pub struct FhirSource {
    link: FhirLink,
    options: FhirRead,
    topic: TopicTemplate,
    name: Arc<str>,
    clock: Arc<dyn Clock>,
    place: FhirPlace,
    /// Behind the last batch.
    position: u64,
    round: Option<FhirRound>,
    /// What the server's clock is ahead of the node's, in microseconds.
    ahead: Option<i64>,
    builder: BatchBuilder,
}

/// Where reading goes on. Kept as JSON with the position.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FhirPlace {
    /// Everything that changed before has been published, in microseconds since 1970.
    #[serde(default)]
    from: Option<i64>,
}

/// What one round has left to read.
struct FhirRound {
    /// What changed from here, in microseconds since 1970, until there.
    from: Option<i64>,
    until: i64,
    /// The types that have not been read to their ends; the first one is being read.
    types: VecDeque<String>,
    /// The path of the next page of the first type; none before its first page.
    next: Option<String>,
    pages: usize,
    /// With a search: whether the resources come in the order of their changes, and where the next page begins then.
    is_sorted: bool,
    key: PageKey,
    /// With a history: the versions of the first type, the newest first.
    history: Vec<Version>,
    /// With a history: id and version at the beginning of the page before.
    page_begin: Option<(String, String)>,
    /// What has come and is not published. A history is, when all of it has come.
    ready: VecDeque<Version>,
    bytes: usize,
    published: bool,
}

impl FhirSource {
    pub(super) fn new(
        link: FhirLink,
        options: FhirRead,
        topic: TopicTemplate,
        context: &SourceContext,
    ) -> FhirSource {
        let mut place: FhirPlace =
            serde_json::from_slice(context.resume.note("")).unwrap_or_default();
        if place.from.is_none() {
            place.from = options.start.as_deref().and_then(time::parse);
        }
        FhirSource {
            link,
            topic,
            name: Arc::clone(&context.name),
            place,
            position: attempt(context.clock.now_micros(), context.resume.reached("")),
            clock: Arc::clone(&context.clock),
            options,
            round: None,
            ahead: None,
            builder: BatchBuilder::new(),
        }
    }

    /// Publishes what is ready, or makes one request.
    async fn next(&mut self) -> Result<Polled, Error> {
        if self.round.is_none() {
            self.round = self.begin().await?;
        }
        let Some(round) = &mut self.round else {
            return Ok(Polled::Idle(self.options.every.as_duration()));
        };
        let is_read = round.types.is_empty();
        if !round.ready.is_empty() && (self.options.by == ReadBy::Search || is_read) {
            return Ok(Polled::Batch(self.publish()));
        }
        let Some(kind) = round.types.front() else {
            return Ok(self.end());
        };
        let path = match &round.next {
            Some(path) => path.clone(),
            None => self.options.first_page(kind, round.from, round.until),
        };
        if round.pages == ROUND_PAGES_MAX {
            return Err(Error::new(Class::Configuration, "fhir.pages-many")
                .with("url", &self.link.url)
                .with("most", ROUND_PAGES_MAX));
        }
        let answer = self
            .link
            .get(path.clone())
            .await
            .map_err(|error| match error.code() {
                "connect.call-answer-large" => {
                    let large = Error::new(Class::Configuration, "fhir.page-large");
                    large.with("url", &self.link.url).caused_by(error)
                }
                _ => error,
            })?;
        self.see_clock(&answer);
        self.read_page(&path, &answer)?;
        Ok(Polled::Idle(Duration::ZERO))
    }

    /// Begins a round, unless no time has passed.
    async fn begin(&mut self) -> Result<Option<FhirRound>, Error> {
        if self.ahead.is_none() {
            let answer = self.link.capabilities().await?;
            self.see_clock(&answer);
        }
        let now = self.clock.now_micros() + self.ahead.unwrap_or(0);
        let until = now - self.options.settle.as_micros();
        // Servers tell their time, and some the changes, to the second.
        let until = until - until.rem_euclid(1_000_000);
        if self.place.from.is_some_and(|from| from >= until) {
            return Ok(None);
        }
        Ok(Some(FhirRound {
            from: self.place.from,
            until,
            types: self.options.types.iter().cloned().collect(),
            next: None,
            pages: 0,
            is_sorted: true,
            key: PageKey::new(self.place.from),
            history: Vec::new(),
            page_begin: None,
            ready: VecDeque::new(),
            bytes: 0,
            published: false,
        }))
    }

    /// Notes what the server's clock is ahead of the node's.
    fn see_clock(&mut self, answer: &ServiceAnswer) {
        let ahead = FhirLink::answered_at(answer).map(|date| date - self.clock.now_micros());
        self.ahead = ahead.or(self.ahead).or(Some(0));
    }

    /// Takes the versions of a page.
    fn read_page(&mut self, path: &str, answer: &ServiceAnswer) -> Result<(), Error> {
        let Some(round) = &mut self.round else {
            return Ok(());
        };
        let url = &self.link.url;
        let wrong = |code| Error::new(Class::Configuration, code).with("url", url);
        match answer.status {
            200..=299 => {}
            // The server has forgotten the search; the next round asks anew.
            404 | 410 if round.next.is_some() => {
                return Err(Error::new(Class::Transient, "fhir.search-expired").with("url", url));
            }
            _ => return Err(refused(answer, Refused::Request, url)),
        }
        let page = serde_json::from_slice::<Page<'_>>(&answer.body);
        let Some(page) = page.ok().filter(|page| page.resource_type == "Bundle") else {
            return Err(self.link.strange(answer));
        };
        let versions = page.versions();
        let versions = versions.map_err(|number| wrong("fhir.entry").with("number", number))?;
        let next = page
            .next()
            .map(|link| self.link.path_of(link))
            .transpose()?;
        if next.as_deref() == Some(path) {
            return Err(wrong("fhir.pages-circle"));
        }
        if self.options.by == ReadBy::History {
            // Some servers name a next page and give the same one for it: what is behind it would be missed. As many new
            // versions as a page has, written meanwhile, look the same; then the next round reads all of them.
            let first = versions.first();
            let begin = first.and_then(|first| Some((first.id.clone(), first.version.clone()?)));
            if round.next.is_some() && begin.is_some() && begin == round.page_begin {
                return Err(Error::new(Class::Transient, "fhir.pages-repeat").with("url", url));
            }
            round.page_begin = begin;
        }
        round.is_sorted &= round.next.is_some() || page.is_sorted();
        let from = round.from.unwrap_or(i64::MIN);
        round.key.begin_page();
        for mut version in versions {
            let resource = format!("{}/{}", version.resource_type, version.id);
            if version.payload.len() > PAYLOAD_BYTES_MAX {
                let large = wrong("fhir.resource-large").with("resource", resource);
                return Err(large.with("most", PAYLOAD_BYTES_MAX));
            }
            let is_of_round = |at: i64| at >= from && at < round.until;
            round.bytes += version.payload.len() + VERSION_BYTES;
            if self.options.by == ReadBy::History {
                if round.bytes > HISTORY_BYTES_MAX {
                    return Err(
                        wrong("fhir.history-large").with("most_mb", HISTORY_BYTES_MAX >> 20)
                    );
                }
                if version.at.is_some_and(|at| at >= round.until) {
                    // Deletions that do not say when they were are at least as new as what follows them.
                    while round.history.last().is_some_and(|newer| newer.at.is_none()) {
                        round.history.pop();
                    }
                }
                if version.at.is_none_or(is_of_round) {
                    round.history.push(version);
                }
                continue;
            }
            // A search says what there is. HAPI says for some resources what was done with them.
            if version.change != VersionChange::Delete {
                version.change = VersionChange::Read;
            }
            // Not every server takes the instants into account, or as exactly. What comes along does so at any time.
            if !version.is_included && !version.at.is_none_or(is_of_round) {
                continue;
            }
            if !version.is_included {
                let at = version.at.map(to_milliseconds);
                if at.is_some_and(|at| !round.key.is_new(at, &version)) {
                    continue;
                }
                round.is_sorted &= at.is_some() && round.key.is_sorted();
            }
            round.ready.push_back(version);
        }
        round.pages += 1;
        let next = match (&self.options.by, round.types.front()) {
            (ReadBy::Search, Some(kind)) if round.is_sorted => {
                let from = |from| self.options.first_page(kind, from, round.until);
                round.key.next(next, from)
            }
            _ => next,
        };
        if next.is_none() {
            round.types.pop_front();
            if !round.types.is_empty() {
                round.is_sorted = true;
                round.key = PageKey::new(round.from);
            }
            // Of one instant, those that come last were written first.
            let mut before = from;
            for mut version in std::mem::take(&mut round.history).into_iter().rev() {
                before = version.at.unwrap_or(before);
                version.order = before;
                round.ready.push_back(version);
            }
            if round.types.is_empty() && self.options.by == ReadBy::History {
                round
                    .ready
                    .make_contiguous()
                    .sort_by_key(|version| version.order);
            }
        }
        round.next = next;
        Ok(())
    }

    /// Publishes what is ready, or as much of it as makes a batch.
    fn publish(&mut self) -> Polling {
        let mut topic = String::new();
        let (mut rows, mut bytes) = (0, 0);
        let Some(round) = &mut self.round else {
            return self.polling();
        };
        let mut last = None;
        while rows < TRANSACTION_ROWS
            && bytes < TRANSACTION_BYTES
            && let Some(version) = round.ready.pop_front()
        {
            let value = |name: &str| match name {
                "type" => Some(version.resource_type.clone()),
                "change" => Some(version.change.as_str().to_owned()),
                _ => Some(self.name.to_string()),
            };
            self.topic.write(value, &mut topic);
            let topic = self.builder.topic_id(&topic);
            let mut tags = vec![("change", version.change.as_str())];
            if let Some(version) = &version.version {
                tags.push(("version", version.as_str()));
            }
            self.builder.push(Row {
                topic,
                key: Some(&version.id),
                time: version.at.unwrap_or(ARRIVAL),
                client: None,
                flags: Flags::default().with_qos(1),
                tags: &tags,
                payload: &version.payload,
            });
            rows += 1;
            bytes += version.payload.len();
            last = match self.options.by {
                ReadBy::History => Some(version.order).filter(|at| *at > i64::MIN).or(last),
                ReadBy::Search => version.at.filter(|_| !version.is_included).or(last),
            };
        }
        round.published = true;
        if round.types.is_empty() && round.ready.is_empty() {
            self.place.from = Some(round.until);
            self.round = None;
        } else if (round.is_sorted && self.options.types.len() == 1)
            || self.options.by == ReadBy::History
        {
            // Others of the same instant may follow.
            let last = match self.options.by {
                ReadBy::History => last,
                ReadBy::Search => last.min(round.key.from()),
            };
            self.place.from = last.or(self.place.from);
        }
        self.polling()
    }

    /// The end of a round whose last page brought nothing.
    fn end(&mut self) -> Polled {
        let Some(round) = self.round.take() else {
            return Polled::Idle(self.options.every.as_duration());
        };
        self.place.from = Some(round.until);
        match round.published {
            true => Polled::Batch(self.polling()),
            false => Polled::Idle(self.options.every.as_duration()),
        }
    }

    fn polling(&mut self) -> Polling {
        self.position += 1;
        Polling {
            batch: self.builder.finish(),
            part: Arc::from(""),
            position: Position::End(self.position),
            note: serde_json::to_vec(&self.place).unwrap_or_default(),
        }
    }
}

impl FhirRead {
    /// The path of the first page of a type, of what changed between two instants.
    fn first_page(&self, kind: &str, from: Option<i64>, until: i64) -> String {
        let mut path = match self.by {
            ReadBy::Search => format!("/{kind}?_count={}", self.rows),
            ReadBy::History => format!("/{kind}/_history?_count={}", self.rows),
        };
        let mut add = |name: &str, value: &str| {
            path.push('&');
            path.push_str(name);
            path.push('=');
            Escape::Percent.write(value, &mut path);
        };
        match self.by {
            ReadBy::Search => {
                add("_sort", "_lastUpdated");
                if let Some(from) = from {
                    add("_lastUpdated", &format!("ge{}", instant(from)));
                }
                add("_lastUpdated", &format!("lt{}", instant(until)));
                if let Some(query) = &self.query {
                    path.push('&');
                    path.push_str(query);
                }
            }
            ReadBy::History => {
                if let Some(from) = from {
                    add("_since", &instant(from));
                }
            }
        }
        path
    }
}

/// Bytes of a version beside its resource, estimated.
const VERSION_BYTES: usize = 128;

/// An instant as FHIR writes it, to the millisecond: no server keeps more. Earlier by less than one.
fn instant(micros: i64) -> String {
    let text = time::text(micros);
    // `2026-11-22T02:03:04.500000Z`
    match text.split_at_checked(23) {
        Some((millis, _)) => format!("{millis}Z"),
        None => text,
    }
}

impl Source for FhirSource {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(async move {
            let polled = self.next().await;
            if polled.is_err() {
                // Begins again behind what is published.
                self.round = None;
            }
            polled
        })
    }
}

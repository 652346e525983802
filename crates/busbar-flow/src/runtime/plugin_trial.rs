//! A plug-in tried on events that are there, beside everything that runs: nothing of it is published or kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use busbar_catalog::{Diagnostic, Parsed};
use busbar_event::{Batch, Class, Error, Size, Span, tags};
use busbar_plugin::{GivenEvent, LogLine, Package};
use futures::executor::block_on;

use super::Runtime;
use super::plugins::{placed, start};
use crate::blocking::blocking;
use crate::limits::{PLUGIN_TRIAL_OUTPUT_BYTES, PLUGIN_TRIAL_TIMEOUT};

/// What a plug-in made of the events that it was tried on.
#[derive(Debug)]
pub struct PluginTrial {
    /// For each event, in order.
    pub events: Vec<TriedEvent>,
    /// What it has logged.
    pub log: Vec<LogLine>,
    /// How long it worked on the events.
    pub took: Duration,
}

/// What came of one event.
#[derive(Debug, Default)]
pub struct TriedEvent {
    /// What was made of it.
    pub made: Vec<TriedResult>,
    /// Why it would be a dead letter.
    pub error: Option<Error>,
}

/// An event that would be published.
#[derive(Debug)]
pub struct TriedResult {
    /// Its topic.
    pub topic: String,
    /// Its key.
    pub key: Option<String>,
    /// Its tags.
    pub tags: Vec<(String, String)>,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// An event that a plug-in is tried on: a row of a batch.
pub type TrialRow = (Batch, usize);

impl Runtime {
    /// Starts a plug-in with its tests in one worker, has it work on events and ends it. It reads the tables of the node
    /// as it will when it is deployed.
    ///
    /// # Errors
    /// Why it does not compile, load or pass its tests, at its place in the files.
    pub async fn try_plugin(
        &self,
        name: &str,
        parsed: &Parsed<Package>,
        rows: Vec<TrialRow>,
    ) -> Result<PluginTrial, Box<Diagnostic>> {
        let mut package = parsed.spec.clone();
        let spec = &mut package.spec;
        spec.workers = 1;
        let longest = i64::try_from(PLUGIN_TRIAL_TIMEOUT.as_micros()).unwrap_or(i64::MAX);
        if spec.timeout.as_duration() > PLUGIN_TRIAL_TIMEOUT {
            spec.timeout = Span::from_micros(longest);
        }
        if spec.output.as_bytes() > PLUGIN_TRIAL_OUTPUT_BYTES {
            spec.output = Size::from_bytes(PLUGIN_TRIAL_OUTPUT_BYTES);
        }
        let (inner, known_as) = (Arc::clone(&self.inner), name.to_owned());
        let tried = blocking(move || {
            let plugin = start(&inner, &known_as, &package)?;
            let mut events = plugin.events();
            for (batch, row) in &rows {
                let payloads = batch.payloads();
                let event = GivenEvent {
                    topic: batch.topic(*row),
                    key: batch.key(*row),
                    time: batch.times()[*row],
                    payload: payloads.value(*row),
                };
                events.push(&event, own_tags(batch, *row));
            }
            let began = Instant::now();
            let worked = block_on(plugin.give(0, events).worked())?;
            let took = began.elapsed();
            let mut tried: Vec<TriedEvent> = Vec::new();
            tried.resize_with(rows.len(), TriedEvent::default);
            for (at, made) in worked.answers.rows().enumerate() {
                let (batch, row) = &rows[made.event];
                let own = |text: &str| text.to_owned();
                let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
                tried[made.event].made.push(TriedResult {
                    topic: own(made.topic.unwrap_or(batch.topic(*row))),
                    key: made.key.unwrap_or(batch.key(*row)).map(own),
                    tags: match made.own_tags {
                        true => worked.answers.tags(at).map(pair).collect(),
                        false => own_tags(batch, *row).map(pair).collect(),
                    },
                    payload: match made.payload {
                        Some(payload) => payload.to_vec(),
                        None => batch.payloads().value(*row).to_vec(),
                    },
                });
            }
            for (event, failure) in worked.answers.failed() {
                tried[event].error = Some(failure.error(Class::Permanent, plugin.name()));
            }
            for (first, count, error) in &worked.lost {
                for event in &mut tried[*first..first + count] {
                    event.error = Some(error.clone());
                }
            }
            Ok(PluginTrial {
                events: tried,
                log: plugin.log(0),
                took,
            })
        });
        tried
            .await
            .map_err(|error: Error| Box::new(placed(name, parsed, error)))
    }
}

/// The tags of an event, without those that describe its payload.
fn own_tags(batch: &Batch, row: usize) -> impl Iterator<Item = (&str, &str)> {
    let has = batch.has_tags().then(|| batch.tags(row));
    has.into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((tags::unescape(name)?, value)))
}

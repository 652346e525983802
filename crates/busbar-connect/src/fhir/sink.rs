//! Writes resources, many with one Bundle.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use busbar_connector::{Delivery, ServiceAnswer, Sink, Work, Written};
use busbar_event::format::write_json_text;
use busbar_event::{Class, Error};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::limits::{BUNDLE_ENTRIES_MAX, REQUEST_BYTES};
use super::link::{FhirLink, FhirRequest};
use super::outcome::{Outcome, Refused, refusal, refused, said};
use super::plan::{FhirAction, FhirPlan};
use super::{BundleKind, FhirWrite};
use crate::reason::reason;

/// Writes resources.
pub struct FhirSink {
    link: FhirLink,
    plan: FhirPlan,
    bundle: BundleKind,
    /// Entries and bytes of one request; fewer where the server takes no more.
    entries_most: usize,
    bytes_most: usize,
    progress: Progress,
}

/// What is left of the delivery that was written last, so that an attempt goes on where the one before it ended.
#[derive(Default)]
struct Progress {
    /// Producer, position, first row and number of rows.
    delivery: (Arc<str>, u64, usize, usize),
    /// What is to be done, in order.
    open: Vec<FhirAction>,
    rejected: Vec<(usize, Error)>,
    /// Entries of the next request, fewer while one at fault is looked for.
    entries_most: usize,
}

/// What became of the entries of a Bundle.
#[derive(Deserialize)]
struct Responses<'a> {
    #[serde(rename = "resourceType", default)]
    resource_type: String,
    #[serde(borrow, default)]
    entry: Vec<ResponseEntry<'a>>,
}

#[derive(Deserialize)]
struct ResponseEntry<'a> {
    #[serde(borrow, default)]
    response: Option<EntryAnswer<'a>>,
}

#[derive(Deserialize)]
struct EntryAnswer<'a> {
    #[serde(default)]
    status: String,
    #[serde(borrow, default)]
    outcome: Option<&'a RawValue>,
}

/// What became of one row.
enum EntryFate {
    Written,
    Again(Error),
    Never(Error),
}

impl FhirSink {
    /// # Errors
    /// *Configuration*: a column that the flow does not make.
    pub(super) fn new(
        link: FhirLink,
        options: &FhirWrite,
        schema: &SchemaRef,
    ) -> Result<FhirSink, Error> {
        Ok(FhirSink {
            plan: FhirPlan::new(options, schema)?,
            link,
            bundle: options.bundle,
            entries_most: match options.bundle {
                BundleKind::None => 1,
                BundleKind::Batch | BundleKind::Transaction => BUNDLE_ENTRIES_MAX,
            },
            bytes_most: REQUEST_BYTES,
            progress: Progress::default(),
        })
    }

    async fn deliver(&mut self, delivery: &Delivery) -> Result<Written, Error> {
        let this = (
            Arc::clone(&delivery.producer),
            delivery.position,
            delivery.first,
            delivery.rows.num_rows(),
        );
        if self.progress.delivery != this {
            let actions = self.plan.actions(delivery)?;
            self.progress = Progress {
                delivery: this,
                open: actions.all,
                rejected: actions.rejected,
                entries_most: BUNDLE_ENTRIES_MAX,
            };
        }
        while !self.progress.open.is_empty() {
            let count = self.fitting();
            match self.bundle {
                BundleKind::None => self.one().await?,
                BundleKind::Batch | BundleKind::Transaction => self.bundled(count).await?,
            }
        }
        let mut rejected = std::mem::take(&mut self.progress).rejected;
        rejected.sort_by_key(|(row, _)| *row);
        Ok(Written::of(rejected))
    }

    /// How many of the open actions go into one request. Entries of a Bundle have no order among them, so each names
    /// another resource.
    fn fitting(&self) -> usize {
        let (mut count, mut bytes) = (0, 0);
        let mut targets = HashSet::new();
        let most = self.entries_most.min(self.progress.entries_most);
        for action in self.progress.open.iter().take(most) {
            let is_new = action
                .target
                .as_ref()
                .is_none_or(|target| targets.insert(target));
            if count > 0 && (!is_new || bytes + action.body.len() > self.bytes_most) {
                break;
            }
            count += 1;
            bytes += action.body.len();
        }
        count
    }

    /// Sends the first action as a request of its own.
    async fn one(&mut self) -> Result<(), Error> {
        let Some(action) = self.progress.open.first() else {
            return Ok(());
        };
        let condition = match (&action.if_match, &action.if_none_exist) {
            (Some(tag), _) => Some(("If-Match", tag.clone())),
            (None, Some(search)) => Some(("If-None-Exist", search.clone())),
            (None, None) => None,
        };
        let request = FhirRequest {
            method: action.method,
            path: action.path.clone(),
            condition,
            body: action.body.clone().into(),
        };
        let answer = self.link.ask(request).await?;
        let error = match (answer.status, action.method) {
            (200..=299, _) | (404 | 410, "DELETE") => None,
            _ => Some(refused(&answer, Refused::Resource, &self.link.url)),
        };
        match error {
            Some(error) if error.class() != Class::Permanent => return Err(error),
            Some(error) => {
                let row = action.row;
                self.progress.rejected.push((row, error));
            }
            None => {}
        }
        self.progress.open.remove(0);
        Ok(())
    }

    /// Sends the first actions as a Bundle.
    async fn bundled(&mut self, count: usize) -> Result<(), Error> {
        let request = FhirRequest {
            method: "POST",
            path: String::new(),
            condition: None,
            body: self.body(count).into(),
        };
        let bytes = request.body.len();
        let answer = self.link.ask(request).await?;
        match answer.status {
            200..=299 => {
                let most = self.progress.entries_most.saturating_mul(2);
                self.progress.entries_most = most.min(BUNDLE_ENTRIES_MAX);
                return self.settle(count, &answer);
            }
            413 if count > 1 => {
                // At most half of what was too much.
                self.bytes_most = (bytes / 2).max(1);
                self.entries_most = (count / 2).max(1);
                return Ok(());
            }
            404 | 405 | 501 => {
                return Err(Error::new(Class::Configuration, "fhir.no-bundle")
                    .with("url", &self.link.url)
                    .with("said", said(&answer.body)));
            }
            _ => {}
        }
        let error = refused(&answer, Refused::Resource, &self.link.url);
        if error.class() != Class::Permanent {
            return Err(error);
        }
        // A transaction is refused as a whole, and so is a Bundle that the server cannot read. At least one entry is at fault:
        // fewer are sent until it is alone.
        match count {
            1 => {
                let action = self.progress.open.remove(0);
                self.progress.rejected.push((action.row, error));
            }
            _ => self.progress.entries_most = (count / 2).max(1),
        }
        Ok(())
    }

    fn body(&self, count: usize) -> Vec<u8> {
        let mut out = b"{\"resourceType\":\"Bundle\",\"type\":\"".to_vec();
        out.extend_from_slice(match self.bundle {
            BundleKind::Transaction => b"transaction",
            BundleKind::Batch | BundleKind::None => b"batch",
        });
        out.extend_from_slice(b"\",\"entry\":[");
        for (at, action) in self.progress.open[..count].iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.push(b'{');
            if !action.body.is_empty() {
                out.extend_from_slice(b"\"resource\":");
                out.extend_from_slice(&action.body);
                out.push(b',');
            }
            out.extend_from_slice(b"\"request\":{\"method\":\"");
            out.extend_from_slice(action.method.as_bytes());
            out.extend_from_slice(b"\",\"url\":");
            write_json_text(action.path.trim_start_matches('/'), &mut out);
            for (name, value) in [
                ("ifMatch", &action.if_match),
                ("ifNoneExist", &action.if_none_exist),
            ] {
                if let Some(value) = value {
                    out.push(b',');
                    write_json_text(name, &mut out);
                    out.push(b':');
                    write_json_text(value, &mut out);
                }
            }
            out.extend_from_slice(b"}}");
        }
        out.extend_from_slice(b"]}");
        out
    }

    /// Notes what became of the first actions. Those that are to be tried again stay, before all that follow them.
    fn settle(&mut self, count: usize, answer: &ServiceAnswer) -> Result<(), Error> {
        let entries = match serde_json::from_slice::<Responses<'_>>(&answer.body) {
            Ok(said) if said.resource_type == "Bundle" && said.entry.len() == count => said.entry,
            _ => return Err(self.link.strange(answer)),
        };
        let rest = self.progress.open.split_off(count);
        let sent = std::mem::take(&mut self.progress.open);
        let mut failed: Option<Error> = None;
        for (action, entry) in sent.into_iter().zip(entries) {
            match self.fate(&action, entry.response) {
                EntryFate::Written => {}
                EntryFate::Never(error) => self.progress.rejected.push((action.row, error)),
                EntryFate::Again(error) => {
                    // What somebody must change first is said first.
                    if failed
                        .as_ref()
                        .is_none_or(|known| known.class() == Class::Transient)
                    {
                        failed = Some(error);
                    }
                    self.progress.open.push(action);
                }
            }
        }
        self.progress.open.extend(rest);
        match failed {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn fate(&self, action: &FhirAction, response: Option<EntryAnswer<'_>>) -> EntryFate {
        let response = response.unwrap_or(EntryAnswer {
            status: String::new(),
            outcome: None,
        });
        // `201 Created`
        let status = response.status.split(' ').next().unwrap_or_default();
        let Ok(status) = status.parse::<u16>() else {
            let error = Error::new(Class::Transient, "fhir.entry-silent");
            return EntryFate::Again(error.with("url", &self.link.url));
        };
        match (status, action.method) {
            (200..=299, _) => return EntryFate::Written,
            // It is not there, as is wanted.
            (404 | 410, "DELETE") => return EntryFate::Written,
            _ => {}
        }
        let outcome = response.outcome.map(|outcome| outcome.get());
        let outcome = outcome.and_then(|text| serde_json::from_str::<Outcome>(text).ok());
        let told = outcome.map(|outcome| outcome.said()).unwrap_or_default();
        let told = reason(&told);
        let error = refusal(status, told, Refused::Resource, &self.link.url);
        match error.class() {
            Class::Permanent => EntryFate::Never(error),
            Class::Transient | Class::Configuration => EntryFate::Again(error),
        }
    }
}

impl Sink for FhirSink {
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>> {
        Box::pin(self.deliver(delivery))
    }
}

//! Writes rows as documents, many with one request.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use busbar_connector::{Delivery, Escape, Sink, Work, Written};
use busbar_event::{Class, Error};
use bytes::Bytes;
use serde::Deserialize;

use super::document::{DocumentAction, DocumentPlan};
use super::failure::{ElasticRefusal, RefusedPart};
use super::limits::{REQUEST_BYTES, REQUEST_ROWS_MAX};
use super::link::{Carries, ElasticLink};
use super::{ElasticMode, ElasticWrite};

/// Writes documents.
pub struct ElasticSink {
    link: ElasticLink,
    plan: DocumentPlan,
    /// The index as it is configured, for messages.
    index: String,
    /// Bytes of one request; less where something on the way takes no more.
    most: usize,
    progress: Progress,
}

/// What is left of the delivery that was written last, so that an attempt goes on where the one before it ended.
#[derive(Default)]
struct Progress {
    /// Producer, position, first row and number of rows.
    delivery: (Arc<str>, u64, usize, usize),
    /// DocumentActions that are to be done, in order.
    open: Vec<DocumentAction>,
    truncate: bool,
    rejected: Vec<(usize, Error)>,
}

/// What became of the rows of a request.
#[derive(Deserialize)]
struct Bulk {
    items: Vec<std::collections::BTreeMap<String, BulkItem>>,
}

#[derive(Deserialize)]
struct BulkItem {
    status: u16,
    error: Option<ElasticRefusal>,
}

/// What became of one row.
enum DocumentFate {
    Written,
    Again(Error),
    Never(Error),
    Stop(Error),
}

impl ElasticSink {
    /// # Errors
    /// *Configuration*: a column that the flow does not make.
    pub(super) fn new(
        link: ElasticLink,
        options: &ElasticWrite,
        schema: &SchemaRef,
    ) -> Result<ElasticSink, Error> {
        Ok(ElasticSink {
            plan: DocumentPlan::new(options, schema)?,
            index: options.index.clone(),
            link,
            most: REQUEST_BYTES,
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
                truncate: actions.truncate,
                rejected: actions.rejected,
            };
        }
        if self.progress.truncate {
            self.truncate().await?;
            self.progress.truncate = false;
        }
        while !self.progress.open.is_empty() {
            self.request().await?;
        }
        let mut rejected = std::mem::take(&mut self.progress).rejected;
        rejected.sort_by_key(|(row, _)| *row);
        Ok(Written::of(rejected))
    }

    /// Sends as many of the open actions as fit into one request.
    async fn request(&mut self) -> Result<(), Error> {
        let (mut count, mut bytes) = (0, 0);
        for action in self.progress.open.iter().take(REQUEST_ROWS_MAX) {
            if count > 0 && bytes + action.lines.len() > self.most {
                break;
            }
            count += 1;
            bytes += action.lines.len();
        }
        let mut body = Vec::with_capacity(bytes);
        for action in &self.progress.open[..count] {
            body.extend_from_slice(&action.lines);
        }
        let path = "/_bulk?filter_path=errors,items.*.status,items.*.error.type,items.*.error.reason,items.*.error.caused_by";
        let answer = self
            .link
            .ask("POST", path.to_owned(), Carries::Lines, body.into())
            .await?;
        match answer.status {
            200..=299 => {}
            413 if count > 1 => {
                // At most half of what was too much.
                self.most = (bytes / 2).max(1);
                return Ok(());
            }
            413 => {
                let refusal = ElasticRefusal::of(&answer);
                let action = self.progress.open.remove(0);
                let error = refusal.error(413, RefusedPart::Row, &self.link.url, &action.index);
                self.progress.rejected.push((action.row, error));
                return Ok(());
            }
            _ => return Err(self.link.refused(&answer, &self.index)),
        }
        let items = match serde_json::from_slice::<Bulk>(&answer.body) {
            Ok(bulk) if bulk.items.len() == count => bulk.items,
            _ => return Err(self.link.strange(&answer)),
        };
        self.settle(count, items)
    }

    /// Notes what became of the first actions. Those that are to be tried again stay, and with each of them those behind
    /// it for the same document, which would be overtaken otherwise.
    fn settle(
        &mut self,
        count: usize,
        items: Vec<std::collections::BTreeMap<String, BulkItem>>,
    ) -> Result<(), Error> {
        let rest = self.progress.open.split_off(count);
        let sent = std::mem::take(&mut self.progress.open);
        let (mut again, mut stopped) = (None, None);
        let mut waiting: HashSet<(String, String)> = HashSet::new();
        let mut left = Vec::new();
        for (action, item) in sent.into_iter().zip(items) {
            let document = (action.index.clone(), action.id.clone());
            if waiting.contains(&document) {
                left.push(action);
                continue;
            }
            match self.fate(&action, item.into_values().next()) {
                DocumentFate::Written => {}
                DocumentFate::Never(error) => self.progress.rejected.push((action.row, error)),
                DocumentFate::Again(error) => {
                    again.get_or_insert(error);
                    waiting.insert(document);
                    left.push(action);
                }
                DocumentFate::Stop(error) => {
                    stopped.get_or_insert(error);
                    waiting.insert(document);
                    left.push(action);
                }
            }
        }
        left.extend(rest);
        self.progress.open = left;
        match stopped.or(again) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn fate(&self, action: &DocumentAction, item: Option<BulkItem>) -> DocumentFate {
        let Some(item) = item else {
            let error = Error::new(Class::Transient, "elastic.for-now");
            return DocumentFate::Again(
                error
                    .with("url", &self.link.url)
                    .with("index", &action.index)
                    .with("said", "-"),
            );
        };
        match (item.status, action.verb) {
            (200..=299, _) => return DocumentFate::Written,
            // It is not there, as is wanted.
            (404, ElasticMode::Delete) => return DocumentFate::Written,
            // It is there; or a newer one is.
            (409, ElasticMode::Create) => return DocumentFate::Written,
            (409, _) if action.versioned => return DocumentFate::Written,
            _ => {}
        }
        let refusal = item.error.unwrap_or_default();
        let error = refusal.error(item.status, RefusedPart::Row, &self.link.url, &action.index);
        match error.class() {
            Class::Transient => DocumentFate::Again(error),
            Class::Permanent => DocumentFate::Never(error),
            Class::Configuration => DocumentFate::Stop(error),
        }
    }

    /// Deletes every document of the index. Done again where the delivery comes again.
    async fn truncate(&mut self) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Deleted {
            #[serde(default)]
            version_conflicts: u64,
            #[serde(default)]
            failures: Vec<serde::de::IgnoredAny>,
            #[serde(default)]
            timed_out: bool,
        }
        let mut index = String::new();
        Escape::Percent.write(&self.index, &mut index);
        // What was written and is not found yet would stay.
        let path = format!("/{index}/_refresh");
        let answer = self
            .link
            .ask("POST", path, Carries::Nothing, Bytes::new())
            .await?;
        match answer.status {
            200..=299 => {}
            // Nothing has been written yet.
            404 => return Ok(()),
            _ => return Err(self.link.refused(&answer, &self.index)),
        }
        let path = format!("/{index}/_delete_by_query?conflicts=proceed&refresh=true");
        let query = Bytes::from_static(b"{\"query\":{\"match_all\":{}}}");
        let answer = self.link.ask("POST", path, Carries::Json, query).await?;
        if !(200..=299).contains(&answer.status) {
            return Err(self.link.refused(&answer, &self.index));
        }
        let Ok(deleted) = serde_json::from_slice::<Deleted>(&answer.body) else {
            return Err(self.link.strange(&answer));
        };
        if deleted.version_conflicts > 0 || deleted.timed_out || !deleted.failures.is_empty() {
            return Err(Error::new(Class::Transient, "elastic.not-truncated")
                .with("url", &self.link.url)
                .with("index", &self.index));
        }
        Ok(())
    }
}

impl Sink for ElasticSink {
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>> {
        Box::pin(self.deliver(delivery))
    }
}

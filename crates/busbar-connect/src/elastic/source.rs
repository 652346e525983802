//! The documents of an index in the order of some fields, page after page.

use std::sync::Arc;
use std::time::Duration;

use busbar_connector::{Polled, Polling, Position, Source, SourceContext, Work};
use busbar_event::limits::PAYLOAD_BYTES_MAX;
use busbar_event::{ARRIVAL, BatchBuilder, Class, Error, Flags, Row};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ElasticRead;
use super::limits::NOTE_BYTES_MAX;
use super::link::{Carries, ElasticLink, index_path};
use super::page::{DocumentPage, WHOLE};
use crate::change::attempt;
use crate::topic::TopicTemplate;

/// Searches again and again, each time behind the last document.
pub struct ElasticSource {
    link: ElasticLink,
    options: ElasticRead,
    topic: TopicTemplate,
    name: Arc<str>,
    place: DocumentPlace,
    /// Behind the last batch.
    position: u64,
    /// Documents that are asked for: fewer after an answer that was too large.
    rows: usize,
    builder: BatchBuilder,
}

/// The place behind the last document. Kept as JSON with the position.
#[derive(Debug, Default, Serialize, Deserialize)]
struct DocumentPlace {
    /// Its sort values, in the server's own words, for numbers may have more digits than others keep.
    #[serde(default)]
    after: Option<Box<RawValue>>,
}

impl ElasticSource {
    pub(super) fn new(
        link: ElasticLink,
        options: ElasticRead,
        topic: TopicTemplate,
        context: &SourceContext,
    ) -> ElasticSource {
        ElasticSource {
            link,
            topic,
            name: Arc::clone(&context.name),
            place: serde_json::from_slice(context.resume.note("")).unwrap_or_default(),
            position: attempt(context.clock.now_micros(), context.resume.reached("")),
            rows: options.rows,
            options,
            builder: BatchBuilder::new(),
        }
    }

    async fn next(&mut self) -> Result<Polled, Error> {
        let index = index_path(&self.options.index);
        let path = format!("/{index}/_search?{WHOLE}");
        let body = self.search().into_bytes().into();
        let answer = match self.link.ask("POST", path, Carries::Json, body).await {
            Ok(answer) => answer,
            Err(error) if error.code() == "connect.call-answer-large" && self.rows > 1 => {
                self.rows /= 2;
                return Ok(Polled::Idle(Duration::ZERO));
            }
            Err(error) if error.code() == "connect.call-answer-large" => {
                let large = Error::new(Class::Configuration, "elastic.document-large");
                return Err(large.with("index", &self.options.index).caused_by(error));
            }
            Err(error) => return Err(error),
        };
        if !(200..=299).contains(&answer.status) {
            return Err(self.link.refused(&answer, &self.options.index));
        }
        let Ok(page) = serde_json::from_slice::<DocumentPage<'_>>(&answer.body) else {
            return Err(self.link.strange(&answer));
        };
        if page.is_partial() {
            // The missing ones would be passed over for good.
            return Err(self.link.partial(&self.options.index));
        }
        let polling = self.publish(&page)?;
        self.rows = (self.rows * 2).min(self.options.rows);
        Ok(match polling {
            Some(polling) => Polled::Batch(polling),
            None => Polled::Idle(self.options.every.as_duration()),
        })
    }

    /// The search for the next page. One document more than is published is asked for, to see whether it has the same sort
    /// values as the last one; it would be passed over.
    fn search(&self) -> String {
        let sort: Vec<_> = self
            .options
            .sort
            .iter()
            .map(|field| serde_json::json!({ field.as_str(): { "order": "asc" } }))
            .collect();
        let mut filters = Vec::new();
        if let Some(query) = &self.options.query {
            filters.push(query.clone());
        }
        let settle = self.options.settle.as_duration();
        if let Some(first) = self.options.sort.first()
            && !settle.is_zero()
        {
            let until = format!("now-{}ms", settle.as_millis());
            let range = serde_json::json!({ "range": { first.as_str(): { "lte": until } } });
            filters.push(range.to_string());
        }
        let after = self.place.after.as_ref();
        let after = after.map_or_else(String::new, |after| {
            format!("\"search_after\":{},", after.get())
        });
        format!(
            "{{\"size\":{},\"track_total_hits\":false,{after}\"sort\":{},\"query\":{{\"bool\":{{\"filter\":[{}]}}}}}}",
            self.rows + 1,
            serde_json::Value::Array(sort),
            filters.join(",")
        )
    }

    fn publish(&mut self, page: &DocumentPage<'_>) -> Result<Option<Polling>, Error> {
        let hits = &page.hits.hits;
        let wrong = |code| {
            Error::new(Class::Configuration, code)
                .with("index", &self.options.index)
                .with("sort", self.options.sort.join(", "))
        };
        // Behind the last document there is none with its values.
        let after = self.place.after.as_ref().map(|after| after.get());
        if let Some(hit) = hits.iter().find(|hit| Some(hit.sort()) == after) {
            return Err(self.link.again(&self.options.index, &hit.id));
        }
        for pair in hits.windows(2) {
            if pair[0].sort() == pair[1].sort() {
                return Err(wrong("elastic.sort-same")
                    .with("first", &pair[0].id)
                    .with("second", &pair[1].id));
            }
        }
        let count = hits.len().min(self.rows);
        let Some(last) = hits[..count].last() else {
            return Ok(None);
        };
        for hit in &hits[..count] {
            let values: Vec<serde_json::Value> =
                serde_json::from_str(hit.sort()).unwrap_or_default();
            if values.len() != self.options.sort.len() || values.iter().any(|v| v.is_null()) {
                return Err(wrong("elastic.sort-null").with("id", &hit.id));
            }
            let Some(source) = hit.source else {
                return Err(wrong("elastic.no-source").with("id", &hit.id));
            };
            if source.get().len() > PAYLOAD_BYTES_MAX {
                return Err(wrong("elastic.document-large"));
            }
        }
        if last.sort().len() > NOTE_BYTES_MAX {
            return Err(wrong("elastic.sort-large").with("most", NOTE_BYTES_MAX));
        }
        let mut topic = String::new();
        for hit in &hits[..count] {
            let value = |name: &str| match name {
                "index" => Some(hit.index.clone()),
                _ => Some(self.name.to_string()),
            };
            self.topic.write(value, &mut topic);
            let topic = self.builder.topic_id(&topic);
            self.builder.push(Row {
                topic,
                key: Some(&hit.id),
                time: ARRIVAL,
                client: None,
                flags: Flags::default().with_qos(1),
                tags: &[],
                payload: hit.source.map_or(&[], |source| source.get().as_bytes()),
            });
        }
        self.place.after = serde_json::from_str(last.sort()).ok();
        self.position += 1;
        Ok(Some(Polling {
            batch: self.builder.finish(),
            part: Arc::from(""),
            position: Position::End(self.position),
            note: serde_json::to_vec(&self.place).unwrap_or_default(),
        }))
    }
}

impl Source for ElasticSource {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(self.next())
    }
}

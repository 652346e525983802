//! The rows of a statement that is run again and again, each time behind the last row.

use std::sync::Arc;
use std::time::Duration;

use busbar_connector::{Polled, Polling, Position, Source, SourceContext, Work};
use busbar_event::{ARRIVAL, BatchBuilder, Class, Error, Flags, Row};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use super::ClickHouseQuery;
use super::link::ClickHouseLink;
use crate::change::attempt;
use crate::schedule::RunSchedule;
use crate::topic::TopicTemplate;

/// Runs a statement.
pub struct ClickHouseSource {
    link: ClickHouseLink,
    options: ClickHouseQuery,
    topic: String,
    schedule: RunSchedule,
    place: RowPlace,
    /// Behind the last batch.
    position: u64,
    /// Rows that are asked for: fewer after an answer that was too large.
    rows: usize,
    builder: BatchBuilder,
}

/// The place behind the last row. Kept as JSON with the position.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct RowPlace {
    #[serde(default)]
    value: Option<String>,
    /// More rows of this run may follow.
    #[serde(default)]
    running: bool,
}

impl ClickHouseSource {
    pub(super) fn new(
        link: ClickHouseLink,
        options: ClickHouseQuery,
        topic: &TopicTemplate,
        context: &SourceContext,
    ) -> ClickHouseSource {
        let mut written = String::new();
        topic.write(|_| Some(context.name.to_string()), &mut written);
        ClickHouseSource {
            link,
            topic: written,
            schedule: options.schedule(&context.clock),
            place: serde_json::from_slice(context.resume.note("")).unwrap_or_default(),
            position: attempt(context.clock.now_micros(), context.resume.reached("")),
            rows: options.rows,
            options,
            builder: BatchBuilder::new(),
        }
    }

    async fn next(&mut self) -> Result<Polled, Error> {
        let wait = match self.place.running {
            true => Duration::ZERO,
            false => self.schedule.wait(),
        };
        if !wait.is_zero() {
            return Ok(Polled::Idle(wait));
        }
        // One row more than is published, to see whether it has the same position as the last one.
        let statement = format!(
            "{} SETTINGS limit = {}, output_format_json_quote_64bit_integers = 0, date_time_output_format = 'iso' FORMAT JSONEachRow",
            self.options.statement.trim().trim_end_matches(';'),
            self.rows + 1
        );
        let value = self.place.value.as_deref().unwrap_or(&self.options.start);
        let parameters = [("position", value)];
        let answer = match self.link.run(&statement, &parameters, Bytes::new()).await {
            Err(error) if error.code() == "connect.call-answer-large" && self.rows > 1 => {
                self.rows /= 2;
                return Ok(Polled::Idle(Duration::ZERO));
            }
            answer => answer?,
        };
        let polling = self.publish(&answer)?;
        self.rows = (self.rows * 2).min(self.options.rows);
        Ok(match polling {
            Some(polling) => Polled::Batch(polling),
            None => {
                self.place.running = false;
                self.schedule.ran();
                Polled::Idle(Duration::ZERO)
            }
        })
    }

    fn publish(&mut self, answer: &Bytes) -> Result<Option<Polling>, Error> {
        let lines = answer.split(|byte| *byte == b'\n');
        let lines: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
        let wrong =
            |code| Error::new(Class::Configuration, code).with("position", &self.options.position);
        let place = |line: &[u8]| {
            let row: BTreeMap<String, &RawValue> =
                serde_json::from_slice(line).map_err(|_| self.link.strange(line))?;
            let value = row.get(&self.options.position).map(|value| value.get());
            match value {
                None => Err(wrong("clickhouse.no-position")),
                Some("null") => Err(wrong("clickhouse.position-null")),
                Some(text) => Ok(serde_json::from_str::<String>(text).unwrap_or(text.to_owned())),
            }
        };
        let count = lines.len().min(self.rows);
        let Some(last) = lines[..count].last() else {
            return Ok(None);
        };
        let last = place(last)?;
        if self.place.value.as_ref() == Some(&last) {
            return Err(wrong("clickhouse.position-again").with("value", &last));
        }
        if let Some(next) = lines.get(count)
            && place(next)? == last
        {
            return Err(wrong("clickhouse.position-same").with("value", &last));
        }
        let topic = self.builder.topic_id(&self.topic);
        for line in &lines[..count] {
            self.builder.push(Row {
                topic,
                key: None,
                time: ARRIVAL,
                client: None,
                flags: Flags::default().with_qos(1),
                tags: &[],
                payload: line,
            });
        }
        self.place.value = Some(last);
        self.place.running = true;
        self.position += 1;
        Ok(Some(Polling {
            batch: self.builder.finish(),
            part: Arc::from(""),
            position: Position::End(self.position),
            note: serde_json::to_vec(&self.place).unwrap_or_default(),
        }))
    }
}

impl Source for ClickHouseSource {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(self.next())
    }
}

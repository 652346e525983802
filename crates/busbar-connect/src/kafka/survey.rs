//! What is on the other side: how many brokers there are, and the topics with their partitions.

use busbar_connector::{Survey, SurveyedColumn, SurveyedTable};
use busbar_event::Error;
use busbar_kafka::Api;
use busbar_kafka::message::{OffsetsRequest, read_offsets};

use super::link::KafkaLink;
use super::server::{KafkaServer, address_of};

/// Looks at the cluster, and at its topics where they are asked for: each topic is a table of the records that are there, and
/// each of its partitions a column with the range of its offsets.
///
/// # Errors
/// As [`KafkaLink::open`].
pub async fn survey(server: &KafkaServer, topics: bool) -> Result<Survey, Error> {
    let mut link = server.any().await?;
    let none: &[String] = &[];
    let asked = if topics { None } else { Some(none) };
    let metadata = server.metadata(&mut link, asked).await?;
    let mut survey = Survey {
        server: format!("Kafka, {} broker(s)", metadata.brokers.len()),
        tables: Vec::new(),
    };
    // Each partition by its leader, who alone knows its offsets.
    let mut ranges = std::collections::BTreeMap::new();
    for broker in &metadata.brokers {
        let led = metadata.topics.iter().flat_map(|topic| {
            let led = topic.partitions.iter();
            let led = led.filter(|partition| partition.leader == broker.id);
            led.map(|partition| (topic.name.as_str(), partition.partition))
        });
        let led: Vec<_> = led.collect();
        if led.is_empty() {
            continue;
        }
        let mut link = KafkaLink::open(server, &address_of(&broker.host, broker.port)).await?;
        for time in [OffsetsRequest::EARLIEST, OffsetsRequest::LATEST] {
            let partitions: Vec<_> = led.iter().map(|(topic, n)| (*topic, *n, time)).collect();
            let request = OffsetsRequest {
                partitions: &partitions,
                committed: false,
            };
            let asked = link.call(Api::ListOffsets, |w, version| request.write(w, version));
            let answer = asked.await?;
            for (topic, partition, offset) in answer.read(|r, _| read_offsets(r))? {
                let range = ranges.entry((topic.to_owned(), partition));
                let range: &mut (i64, i64) = range.or_default();
                match time {
                    OffsetsRequest::EARLIEST => range.0 = offset.unwrap_or(0),
                    _ => range.1 = offset.unwrap_or(0),
                }
            }
        }
    }
    for topic in metadata.topics {
        let mut columns = Vec::new();
        let mut rows = 0;
        let mut partitions = topic.partitions;
        partitions.sort_by_key(|partition| partition.partition);
        for partition in partitions {
            let key = (topic.name.clone(), partition.partition);
            let (first, end) = ranges.get(&key).copied().unwrap_or_default();
            let there = u64::try_from(end.saturating_sub(first)).unwrap_or(0);
            rows = there.saturating_add(rows);
            columns.push(SurveyedColumn {
                name: partition.partition.to_string(),
                kind: format!("offsets {first} to {end}"),
                key: false,
                required: false,
            });
        }
        survey.tables.push(SurveyedTable {
            schema: if topic.internal { "internal" } else { "topics" }.to_owned(),
            name: topic.name,
            rows: Some(rows),
            columns,
        });
    }
    survey
        .tables
        .sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
    survey.tables.retain(|table| table.schema != "internal");
    Ok(survey)
}

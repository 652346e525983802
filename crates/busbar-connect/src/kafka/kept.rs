//! What a producer keeps with each of its transactions.

use std::sync::Arc;

use super::limits::PARTS_BYTES_MAX;

/// How far a producer has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptPosition {
    /// The position behind the delivery.
    pub position: u64,
    /// The number behind the last row of the delivery that was written.
    pub rows: usize,
    /// Rows that the brokers refused, as text.
    pub refused: String,
    /// Where the records of the transaction begin; `None` where that was not kept.
    pub parts: Option<Vec<TransactionPart>>,
}

/// The records of a transaction in one partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransactionPart {
    pub topic: Arc<str>,
    pub partition: i32,
    /// The offset of the first one.
    pub offset: i64,
}

impl KeptPosition {
    /// The text that is kept beside the position: `rows=300 refused=3,17-20 in=orders:0@12,3@77;alarms:1@5`. Older nodes
    /// read it, too, without the partitions.
    pub fn note(&self) -> String {
        let parts = self.parts.as_deref().map(write_parts);
        let parts = parts.filter(|text| text.len() <= PARTS_BYTES_MAX);
        format!(
            "rows={} refused={} in={}",
            self.rows,
            self.refused,
            parts.as_deref().unwrap_or("*")
        )
    }

    /// Reads what was kept; `None` where it is none of a producer.
    pub fn read(offset: i64, note: &str) -> Option<KeptPosition> {
        let position = u64::try_from(offset).ok()?;
        let (rows, rest) = note.strip_prefix("rows=")?.split_once(" refused=")?;
        let (refused, parts) = match rest.split_once(" in=") {
            Some((refused, parts)) => (refused, read_parts(parts)),
            None => (rest, None),
        };
        Some(KeptPosition {
            position,
            rows: rows.parse().ok()?,
            refused: refused.to_owned(),
            parts,
        })
    }
}

fn write_parts(parts: &[TransactionPart]) -> String {
    let topics = parts.chunk_by(|a, b| a.topic == b.topic).map(|parts| {
        let places = parts
            .iter()
            .map(|part| format!("{}@{}", part.partition, part.offset));
        let places: Vec<_> = places.collect();
        let topic = parts.first().map_or("", |part| &part.topic);
        format!("{topic}:{}", places.join(","))
    });
    topics.collect::<Vec<_>>().join(";")
}

fn read_parts(text: &str) -> Option<Vec<TransactionPart>> {
    let mut parts = Vec::new();
    for topic in text.split(';').filter(|topic| !topic.is_empty()) {
        let (topic, places) = topic.split_once(':')?;
        let topic: Arc<str> = topic.into();
        for place in places.split(',') {
            let (partition, offset) = place.split_once('@')?;
            parts.push(TransactionPart {
                topic: Arc::clone(&topic),
                partition: partition.parse().ok()?,
                offset: offset.parse().ok()?,
            });
        }
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(topic: &str, partition: i32, offset: i64) -> TransactionPart {
        TransactionPart {
            topic: topic.into(),
            partition,
            offset,
        }
    }

    #[test]
    fn a_position_is_kept_with_what_was_refused_and_where_records_begin() {
        let mut kept = KeptPosition {
            position: 7,
            rows: 300,
            refused: "3,17-20".into(),
            parts: Some(vec![
                part("a-b.c_d", 0, 12),
                part("a-b.c_d", 3, 77),
                part("b", 1, 5),
            ]),
        };
        let note = kept.note();
        assert_eq!(note, "rows=300 refused=3,17-20 in=a-b.c_d:0@12,3@77;b:1@5");
        assert_eq!(KeptPosition::read(7, &note), Some(kept.clone()));
        kept.parts = Some(Vec::new());
        assert_eq!(KeptPosition::read(7, &kept.note()), Some(kept.clone()));
        // More than are kept.
        kept.parts = Some((0..300).map(|n| part("orders", n, 1 << 40)).collect());
        let read = KeptPosition::read(7, &kept.note());
        kept.parts = None;
        assert_eq!(read, Some(kept.clone()));
        // As older nodes wrote it.
        let read = KeptPosition::read(7, "rows=300 refused=3,17-20");
        assert_eq!(read, Some(kept));
        assert_eq!(KeptPosition::read(-1, ""), None);
        assert_eq!(KeptPosition::read(7, "of somebody else"), None);
    }
}

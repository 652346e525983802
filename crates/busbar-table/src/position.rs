use std::sync::Arc;

/// How far a producer has come: what a write stands for.
///
/// Positions of one producer only grow. What they count is the producer's affair: a flow's task uses
/// the offset after the last input row that the write covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerPosition {
    /// Who writes, for instance `flow:rain-alarm/0`.
    pub producer: Arc<str>,
    /// How far it has come, at most `i64::MAX`.
    pub position: u64,
    /// The write is only a part of what the position stands for: its producer is told to those who follow the table, and the
    /// position is neither looked at nor kept. For tables that keep their changes.
    pub is_part: bool,
}

impl ProducerPosition {
    /// The position of a producer.
    pub fn new(producer: impl Into<Arc<str>>, position: u64) -> Self {
        Self {
            producer: producer.into(),
            position,
            is_part: false,
        }
    }

    /// The same for a part of the write.
    #[must_use]
    pub fn part(&self) -> Self {
        Self {
            is_part: true,
            ..self.clone()
        }
    }
}

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
}

impl ProducerPosition {
    /// The position of a producer.
    pub fn new(producer: impl Into<Arc<str>>, position: u64) -> Self {
        Self {
            producer: producer.into(),
            position,
        }
    }
}

//! Latency samples and their percentiles.

use std::time::Duration;

/// Samples of a latency; kept whole, as a run has at most a few hundred thousand.
#[derive(Debug, Default, Clone)]
pub struct Latencies {
    nanos: Vec<u64>,
}

/// Samples beyond this are not kept: enough for a p99.9 of 10,000 samples behind it.
const SAMPLES_MAX: usize = 10_000_000;

impl Latencies {
    /// Adds one sample.
    pub fn add(&mut self, sample: Duration) {
        if self.nanos.len() < SAMPLES_MAX {
            self.nanos.push(sample.as_nanos() as u64);
        }
    }

    /// Adds another's samples.
    pub fn merge(&mut self, other: Latencies) {
        self.nanos.extend(other.nanos);
    }

    /// The p50, p99 and p99.9 in milliseconds; `None` without samples.
    pub fn percentiles(&self) -> Option<[f64; 3]> {
        let mut sorted = self.nanos.clone();
        sorted.sort_unstable();
        let at = |part: f64| {
            let index = (sorted.len() as f64 * part).ceil() as usize;
            sorted
                .get(index.max(1) - 1)
                .map(|nanos| *nanos as f64 / 1e6)
        };
        Some([at(0.50)?, at(0.99)?, at(0.999)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_taken_by_rank() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentiles(), None);
        for millis in (1..=1000).rev() {
            latencies.add(Duration::from_millis(millis));
        }
        assert_eq!(latencies.percentiles(), Some([500.0, 990.0, 999.0]));
    }
}

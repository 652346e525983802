//! Trying again, and finding the rows at fault.

use std::future::Future;
use std::time::Duration;

use busbar_event::{Class, Error};

use crate::limits::{BACKOFF_FIRST, BACKOFF_LAST};
use crate::{Delivery, Sink};

/// Pauses that double up to a bound, each cut short by chance so that many who failed together do not
/// come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    tries: u32,
    seed: u64,
}

impl Backoff {
    /// A back-off whose chance comes from `seed`.
    pub fn new(seed: u64) -> Backoff {
        Backoff {
            next: BACKOFF_FIRST,
            tries: 0,
            seed: seed | 1,
        }
    }

    /// How often it has been asked since it was reset.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// The next pause: between half and all of the present bound.
    pub fn pause(&mut self) -> Duration {
        // xorshift: enough to spread retries.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        let half = self.next / 2;
        let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1);
        let pause = half + Duration::from_nanos(self.seed % nanos);
        self.next = (self.next * 2).min(BACKOFF_LAST);
        self.tries = self.tries.saturating_add(1);
        pause
    }

    /// The next pause after an error, not less than the other side asks for.
    pub fn pause_after(&mut self, error: &Error) -> Duration {
        self.pause().max(error.retry_after().unwrap_or_default())
    }

    /// Something worked: begin with short pauses again.
    pub fn reset(&mut self) {
        self.next = BACKOFF_FIRST;
        self.tries = 0;
    }
}

/// What [`deliver`] came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Rows that will never be taken, and why, in the order of the rows.
    pub rejected: Vec<(usize, Error)>,
    /// Rows that gave way to those on the other side: see [`crate::Written::conflicts`].
    pub conflicts: u64,
}

/// Writes every row that can be written: waits and tries again while the sink fails for the moment, and
/// splits a batch that it refuses until the rows at fault are found.
///
/// `wait` is told of each failure and answers when to go on; an error from it (the flow stops) ends the
/// delivery.
///
/// # Errors
/// A *configuration* error of the sink, or what `wait` answered.
pub async fn deliver<W, F>(
    sink: &mut dyn Sink,
    delivery: &Delivery,
    mut wait: W,
) -> Result<Outcome, Error>
where
    W: FnMut(Error) -> F,
    F: Future<Output = Result<(), Error>>,
{
    let mut outcome = Outcome::default();
    // Ranges still to write, the next one last.
    let rows = delivery.events.rows();
    let mut open: Vec<_> = std::iter::once(0..rows).collect();
    while let Some(range) = open.pop() {
        if range.is_empty() {
            continue;
        }
        let part;
        let this = if range.len() == rows {
            delivery
        } else {
            part = delivery.slice(range.clone());
            &part
        };
        match sink.write(this).await {
            Ok(written) => {
                outcome.conflicts += written.conflicts;
                let rejected = written.rejected.into_iter();
                outcome.rejected.extend(
                    rejected
                        .filter(|(row, _)| *row < range.len())
                        .map(|(row, e)| (range.start + row, e)),
                );
            }
            Err(error) => match error.class() {
                Class::Configuration => return Err(error),
                Class::Transient => {
                    wait(error).await?;
                    open.push(range);
                }
                Class::Permanent if range.len() == 1 => outcome.rejected.push((range.start, error)),
                Class::Permanent => {
                    let middle = range.start + range.len() / 2;
                    open.push(middle..range.end);
                    open.push(range.start..middle);
                }
            },
        }
    }
    outcome.rejected.sort_by_key(|(row, _)| *row);
    Ok(outcome)
}

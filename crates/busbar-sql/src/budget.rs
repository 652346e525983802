//! Time of one query, and the memory that DataFusion does not count.
//!
//! DataFusion's memory pool counts what operators gather: sorts, groups, the build side of a join. The results of
//! functions are not in it, and a short text can make large ones: `s || s` of `s || s` of … doubles at each step.
//! So the result of each function is charged to a budget, and credited when its last reference is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, make_array};
use arrow::buffer::Buffer;
use busbar_event::{Class, Error};
use bytes::Bytes;
use datafusion_common::{DataFusionError, Result};

/// Memory and time of one query.
#[derive(Debug)]
pub(crate) struct Budget {
    left_bytes: AtomicUsize,
    time: Duration,
    created: Instant,
    /// When the time is over, in microseconds after `created`.
    deadline_us: AtomicU64,
    cancelled: AtomicBool,
}

/// Bytes charged to a budget; dropping it credits them.
#[derive(Debug)]
struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// A budget of `bytes`, and of `time` from `begun` on.
    pub fn new(bytes: usize, begun: Instant, time: Duration) -> Arc<Budget> {
        let budget = Budget {
            left_bytes: AtomicUsize::new(bytes),
            time,
            created: begun,
            deadline_us: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
        };
        budget.set_deadline(begun);
        Arc::new(budget)
    }

    /// Starts the time anew, for a query that is run again.
    pub fn restart(&self) {
        self.set_deadline(Instant::now());
    }

    fn set_deadline(&self, begun: Instant) {
        let deadline = begun.duration_since(self.created) + self.time;
        let deadline = u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX);
        self.deadline_us.store(deadline, Ordering::Release);
    }

    /// Tells everything that works for the query to stop.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// `sql.time` if the time is over or the query was cancelled.
    pub fn check(&self) -> Result<()> {
        let elapsed = self.created.elapsed().as_micros();
        let over = self.cancelled.load(Ordering::Acquire)
            || elapsed > u128::from(self.deadline_us.load(Ordering::Acquire));
        match over {
            false => Ok(()),
            true => Err(told(
                Error::new(Class::Permanent, "sql.time").with("seconds", self.time.as_secs_f64()),
            )),
        }
    }

    /// The array, charged for as long as anybody holds it.
    ///
    /// # Errors
    /// `sql.memory` if there are too few bytes left.
    pub fn hold(self: &Arc<Self>, array: ArrayRef) -> Result<ArrayRef> {
        let data = array.to_data();
        let bytes = data.get_buffer_memory_size();
        let Some(last) = data.buffers().len().checked_sub(1) else {
            return Ok(array);
        };
        let charge = self.charge(bytes)?;
        let mut buffers = data.buffers().to_vec();
        buffers[last] = Buffer::from(Bytes::from_owner(Owned {
            buffer: buffers[last].clone(),
            _charge: charge,
        }));
        Ok(make_array(data.into_builder().buffers(buffers).build()?))
    }

    /// Charges bytes for as long as the budget exists.
    ///
    /// # Errors
    /// `sql.memory` if there are too few bytes left.
    pub fn spend(self: &Arc<Self>, bytes: usize) -> Result<()> {
        std::mem::forget(self.charge(bytes)?);
        Ok(())
    }

    fn charge(self: &Arc<Self>, bytes: usize) -> Result<Charge> {
        let left = self
            .left_bytes
            .try_update(Ordering::AcqRel, Ordering::Acquire, |left| {
                left.checked_sub(bytes)
            });
        match left {
            Ok(_) => Ok(Charge {
                budget: Arc::clone(self),
                bytes,
            }),
            Err(_) => Err(told(Error::new(Class::Permanent, "sql.memory"))),
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget
            .left_bytes
            .fetch_add(self.bytes, Ordering::AcqRel);
    }
}

/// A buffer with its charge.
struct Owned {
    buffer: Buffer,
    _charge: Charge,
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_slice()
    }
}

/// One of our errors, wrapped to be passed through DataFusion.
pub(crate) fn told(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;

    use super::*;

    #[test]
    fn dropped_arrays_are_credited() {
        let budget = Budget::new(4096, Instant::now(), Duration::from_secs(60));
        let text = || -> ArrayRef { Arc::new(StringArray::from(vec!["x".repeat(2000)])) };
        let held = budget.hold(text()).expect("there is room");
        assert_eq!(&held, &text());
        let slice = held.slice(0, 1);
        drop(held);
        assert!(budget.hold(text()).is_err(), "the slice still refers to it");
        drop(slice);
        drop(budget.hold(text()).expect("it was credited"));
        budget.spend(3000).expect("there is room");
        assert!(budget.hold(text()).is_err(), "spent bytes are not credited");
        assert!(budget.check().is_ok());
        budget.cancel();
        assert!(budget.check().is_err());
        let second = Duration::from_secs(1);
        let begun = Instant::now().checked_sub(second);
        let late = Budget::new(0, begun.expect("a second ago"), second / 2);
        assert!(late.check().is_err());
        late.restart();
        assert!(late.check().is_ok());
    }
}

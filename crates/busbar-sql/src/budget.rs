//! What one query may take: memory that no operator counts, and time.
//!
//! DataFusion's memory pool counts what operators gather (sorts, groups, the built side of a join). What
//! functions make is outside it, and a short text can make much: `s || s` of `s || s` of … doubles at each
//! step. So the result of each function is taken out of a budget before anybody holds it, and comes back
//! when the last holder lets go of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
    deadline: Instant,
    time: Duration,
    given_up: AtomicBool,
}

/// Bytes out of a budget. Dropped, they are back.
#[derive(Debug)]
struct Taken {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// So many bytes, and so much time from `begun` on.
    pub fn new(bytes: usize, begun: Instant, time: Duration) -> Arc<Budget> {
        Arc::new(Budget {
            left_bytes: AtomicUsize::new(bytes),
            deadline: begun + time,
            time,
            given_up: AtomicBool::new(false),
        })
    }

    /// Nobody waits for the answer any more.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }

    /// Whether work still makes sense.
    ///
    /// # Errors
    /// The time is over, or nobody waits.
    pub fn check(&self) -> Result<()> {
        let over = self.given_up.load(Ordering::Acquire) || Instant::now() > self.deadline;
        match over {
            false => Ok(()),
            true => Err(told(
                Error::new(Class::Permanent, "sql.time").with("seconds", self.time.as_secs()),
            )),
        }
    }

    /// An array that counts for as long as anybody holds it.
    pub fn hold(self: &Arc<Self>, array: ArrayRef) -> Result<ArrayRef> {
        let data = array.to_data();
        let bytes = data.get_buffer_memory_size();
        let Some(last) = data.buffers().len().checked_sub(1) else {
            return Ok(array);
        };
        let taken = self.take(bytes)?;
        let mut buffers = data.buffers().to_vec();
        buffers[last] = Buffer::from(Bytes::from_owner(Owned {
            buffer: buffers[last].clone(),
            _taken: taken,
        }));
        Ok(make_array(data.into_builder().buffers(buffers).build()?))
    }

    /// Bytes that stay for as long as the query does.
    pub fn spend(self: &Arc<Self>, bytes: usize) -> Result<()> {
        std::mem::forget(self.take(bytes)?);
        Ok(())
    }

    fn take(self: &Arc<Self>, bytes: usize) -> Result<Taken> {
        let taken = self
            .left_bytes
            .try_update(Ordering::AcqRel, Ordering::Acquire, |left| {
                left.checked_sub(bytes)
            });
        match taken {
            Ok(_) => Ok(Taken {
                budget: Arc::clone(self),
                bytes,
            }),
            Err(_) => Err(told(Error::new(Class::Permanent, "sql.memory"))),
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget
            .left_bytes
            .fetch_add(self.bytes, Ordering::AcqRel);
    }
}

/// A buffer with the bytes that it takes.
struct Owned {
    buffer: Buffer,
    _taken: Taken,
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_slice()
    }
}

/// An error of ours on its way through DataFusion.
pub(crate) fn told(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;

    use super::*;

    #[test]
    fn what_is_let_go_of_comes_back() {
        let budget = Budget::new(4096, Instant::now(), Duration::from_secs(60));
        let text = || -> ArrayRef { Arc::new(StringArray::from(vec!["x".repeat(2000)])) };
        let held = budget.hold(text()).expect("there is room");
        assert_eq!(&held, &text());
        let slice = held.slice(0, 1);
        drop(held);
        assert!(budget.hold(text()).is_err(), "the slice holds it");
        drop(slice);
        drop(budget.hold(text()).expect("it came back"));
        budget.spend(3000).expect("there is room");
        assert!(budget.hold(text()).is_err(), "spent for good");
        assert!(budget.check().is_ok());
        budget.give_up();
        assert!(budget.check().is_err());
        let second = Duration::from_secs(1);
        let begun = Instant::now().checked_sub(second);
        let late = Budget::new(0, begun.expect("a second ago"), second / 2);
        assert!(late.check().is_err());
    }
}

//! A circuit breaker: a service that has failed several times in a row is left alone for a while.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::limits::{BREAKER_FAILURES_MAX, BREAKER_PAUSE_FIRST, BREAKER_PAUSE_LAST};

/// Counts failures in a row. Closed, it lets everything pass; open, nothing; half open, one call on trial.
#[derive(Debug, Default)]
pub struct Breaker(Mutex<Circuit>);

#[derive(Debug)]
struct Circuit {
    /// In a row.
    failures: u32,
    /// Open until then.
    until: Option<Instant>,
    /// How long it is open the next time.
    pause: Duration,
    /// A call is on trial.
    on_trial: bool,
}

/// Where a [`Breaker`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerState {
    /// Calls pass.
    Closed,
    /// Calls wait.
    Open,
    /// One call is on trial, or the next one will be.
    HalfOpen,
}

/// Leave for calls.
#[derive(Debug)]
pub enum Admitted<'a> {
    /// For any number of calls.
    All,
    /// For one call, whose outcome decides.
    Trial(CallTrial<'a>),
}

/// A call on trial. Dropped without an outcome, it lets another one try.
#[derive(Debug)]
pub struct CallTrial<'a>(&'a Breaker);

impl Default for Circuit {
    fn default() -> Self {
        Circuit {
            failures: 0,
            until: None,
            pause: BREAKER_PAUSE_FIRST,
            on_trial: false,
        }
    }
}

impl Breaker {
    /// Asks for leave.
    ///
    /// # Errors
    /// How long to wait before asking again.
    pub fn admit(&self) -> Result<Admitted<'_>, Duration> {
        let mut circuit = self.0.lock();
        let Some(until) = circuit.until else {
            return Ok(Admitted::All);
        };
        let left = until.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Err(left);
        }
        if circuit.on_trial {
            return Err(BREAKER_PAUSE_FIRST);
        }
        circuit.on_trial = true;
        Ok(Admitted::Trial(CallTrial(self)))
    }

    /// The service has answered.
    pub fn succeeded(&self) {
        *self.0.lock() = Circuit::default();
    }

    /// The service has failed. A call that was let pass before it opened changes nothing any more.
    pub fn failed(&self) {
        let mut circuit = self.0.lock();
        circuit.failures = circuit.failures.saturating_add(1);
        if circuit.until.is_some() && !circuit.on_trial {
            return;
        }
        if circuit.on_trial || circuit.failures >= BREAKER_FAILURES_MAX {
            circuit.until = Some(Instant::now() + circuit.pause);
            circuit.pause = (circuit.pause * 2).min(BREAKER_PAUSE_LAST);
            circuit.on_trial = false;
        }
    }

    /// Where it is.
    pub fn state(&self) -> BreakerState {
        let circuit = self.0.lock();
        match circuit.until {
            None => BreakerState::Closed,
            Some(until) if until > Instant::now() => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }
}

impl Drop for CallTrial<'_> {
    fn drop(&mut self) {
        self.0.0.lock().on_trial = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As if so much time had passed.
    fn pass(breaker: &Breaker, time: Duration) {
        let mut circuit = breaker.0.lock();
        circuit.until = circuit.until.and_then(|until| until.checked_sub(time));
    }

    fn opened() -> Breaker {
        let breaker = Breaker::default();
        for _ in 0..BREAKER_FAILURES_MAX {
            assert!(matches!(breaker.admit(), Ok(Admitted::All)));
            breaker.failed();
        }
        breaker
    }

    #[test]
    fn opens_after_failures_in_a_row_only() {
        let breaker = Breaker::default();
        for _ in 0..3 * BREAKER_FAILURES_MAX {
            for _ in 1..BREAKER_FAILURES_MAX {
                breaker.failed();
            }
            breaker.succeeded();
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        let breaker = opened();
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(
            breaker
                .admit()
                .is_err_and(|left| left <= BREAKER_PAUSE_FIRST)
        );
    }

    #[test]
    fn one_call_is_on_trial_and_decides() {
        let breaker = opened();
        pass(&breaker, BREAKER_PAUSE_FIRST);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        let trial = breaker.admit().expect("leave");
        assert!(matches!(trial, Admitted::Trial(_)));
        assert!(breaker.admit().is_err(), "one at a time");
        breaker.failed();
        drop(trial);
        // Twice as long.
        assert_eq!(breaker.state(), BreakerState::Open);
        pass(&breaker, BREAKER_PAUSE_FIRST);
        assert_eq!(breaker.state(), BreakerState::Open);
        pass(&breaker, BREAKER_PAUSE_FIRST);
        // One that was given up lets the next one try.
        drop(breaker.admit().expect("leave"));
        let trial = breaker.admit().expect("leave");
        breaker.succeeded();
        drop(trial);
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert!(matches!(breaker.admit(), Ok(Admitted::All)));
    }

    #[test]
    fn calls_that_were_under_way_do_not_keep_it_open() {
        let breaker = opened();
        for _ in 0..100 {
            breaker.failed();
        }
        pass(&breaker, BREAKER_PAUSE_FIRST);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
    }
}

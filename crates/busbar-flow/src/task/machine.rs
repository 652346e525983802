//! What a task decides: in which order batches go out, when state is committed, when idle time ticks. Nothing here reads,
//! computes, writes or looks at a clock.
//!
//! Computing runs one batch ahead of writing. A snapshot of the operators is taken right after a batch was computed, before
//! the next one is, and goes with that batch: when the batch has arrived everywhere, its snapshot is committed together with
//! the position behind it. One snapshot is on its way at a time.

use std::time::Duration;

use crate::checkpoint::Mark;
use crate::limits::{CHECKPOINT_EVERY, IDLE_AFTER};
use crate::state::Checkpoint;

/// A task as far as it decides anything. Times are since the task began.
#[derive(Debug)]
pub(super) struct Machine {
    mark: Mark,
    /// The task keeps state.
    keeps: bool,
    flying: Option<FlightSpan>,
    /// A snapshot was taken and is not committed yet.
    snapshot: bool,
    /// Everything that was computed has arrived.
    clean: bool,
    last_snapshot: Duration,
    snapshot_every: Duration,
    /// The position that was noted last, and when.
    noted: (u64, Duration),
    last_input: Duration,
}

/// A batch on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FlightSpan {
    pub base: u64,
    pub end: u64,
    /// Events between the batch before and this one that were gone when they were read.
    pub skipped: u64,
    /// Events that were counted.
    pub events: u64,
    /// The greatest time of its events, in microseconds since 1970.
    pub latest: Option<i64>,
    /// The checkpoint behind the batch, if a snapshot goes with it.
    pub checkpoint: Option<Box<Checkpoint>>,
}

/// How a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Arrived,
    /// An output does not take it as a whole.
    TooMuch,
    /// The task was told to stop before it arrived, or cannot go on.
    Lost,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TaskEffect {
    /// The cursor moved over `offsets`, and `events` were counted for them.
    Moved { offsets: u64, events: u64 },
    /// Commit the batch's snapshot with this.
    Commit(Box<Checkpoint>),
    /// Read these events again in two halves. `skipped` were gone before them.
    ReadAgain { base: u64, end: u64, skipped: u64 },
}

impl Machine {
    /// `keeps`: the task keeps state, of which it takes a snapshot so often.
    pub fn new(mark: Mark, keeps: bool, snapshot_every: Duration) -> Machine {
        Machine {
            mark,
            keeps,
            flying: None,
            snapshot: false,
            clean: true,
            last_snapshot: Duration::ZERO,
            snapshot_every,
            noted: (mark.position, Duration::ZERO),
            last_input: Duration::ZERO,
        }
    }

    /// How far the task has come.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Input came.
    pub fn input(&mut self, now: Duration) {
        self.last_input = now;
    }

    /// A batch was computed. Answers whether a snapshot is to go with it.
    pub fn computed(&mut self, now: Duration) -> bool {
        self.clean = false;
        let due = self.keeps && !self.snapshot && now >= self.last_snapshot + self.snapshot_every;
        if due {
            self.snapshot = true;
            self.last_snapshot = now;
        }
        due
    }

    /// A batch goes out; the one before has ended.
    pub fn fly(&mut self, span: FlightSpan) {
        debug_assert!(self.flying.is_none(), "one batch is on its way at a time");
        self.flying = Some(span);
    }

    /// The batch on its way has ended. `last`: no other one was computed meanwhile.
    pub fn landed(&mut self, outcome: Ending, last: bool) -> Vec<TaskEffect> {
        let Some(span) = self.flying.take() else {
            return Vec::new();
        };
        match outcome {
            Ending::Arrived => {
                let offsets = span.end.saturating_sub(self.mark.position);
                self.mark.position = span.end;
                self.mark.seen = self.mark.seen.max(span.latest);
                self.clean = last;
                let moved = TaskEffect::Moved {
                    offsets,
                    events: span.events + span.skipped,
                };
                let commit = span.checkpoint.map(TaskEffect::Commit);
                [moved].into_iter().chain(commit).collect()
            }
            Ending::TooMuch => vec![TaskEffect::ReadAgain {
                base: span.base,
                end: span.end,
                skipped: span.skipped,
            }],
            Ending::Lost => Vec::new(),
        }
    }

    /// A commit has ended, well or not.
    pub fn committed(&mut self) {
        self.snapshot = false;
    }

    /// When the position of a task without state is to be noted; none if nothing has changed.
    pub fn note_at(&self) -> Option<Duration> {
        (self.mark.position != self.noted.0).then(|| self.noted.1 + CHECKPOINT_EVERY)
    }

    pub fn noted(&mut self, now: Duration) {
        self.noted = (self.mark.position, now);
    }

    /// Whether the state is that behind the position, so that both can be committed at the end.
    pub fn ends_clean(&self) -> bool {
        self.keeps && self.clean && self.flying.is_none()
    }

    /// The watermark of a tick, if one is to be written: the partition is idle, and time, `clock` less the lateness, has
    /// reached what somebody waits for (`wanted`) while events have not (`watermark`). All but `now` in microseconds since 1970.
    pub fn tick(
        &self,
        now: Duration,
        at_end: bool,
        clock: i64,
        watermark: Option<i64>,
        wanted: Option<i64>,
    ) -> Option<i64> {
        let idle = at_end && self.flying.is_none() && now >= self.last_input + IDLE_AFTER;
        let wanted = wanted.filter(|wanted| *wanted <= clock)?;
        (self.keeps && idle && watermark.is_none_or(|mark| mark < wanted)).then_some(clock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn span(base: u64, end: u64, checkpoint: bool) -> FlightSpan {
        FlightSpan {
            base,
            end,
            skipped: 0,
            events: end - base,
            latest: Some(end as i64),
            checkpoint: checkpoint.then(|| {
                Box::new(Checkpoint {
                    position: end,
                    ..Checkpoint::default()
                })
            }),
        }
    }

    #[test]
    fn a_snapshot_is_committed_with_the_position_of_its_own_batch() {
        let mut machine = Machine::new(Mark::default(), true, SECOND);
        assert!(!machine.computed(Duration::ZERO), "too early");
        machine.fly(span(0, 10, false));
        // The next batch is computed while the first is on its way; its snapshot waits for it.
        assert!(machine.computed(SECOND));
        let effects = machine.landed(Ending::Arrived, false);
        assert_eq!(
            effects,
            [TaskEffect::Moved {
                offsets: 10,
                events: 10
            }]
        );
        assert!(!machine.ends_clean(), "state is ahead of the position");
        machine.fly(span(10, 20, true));
        let effects = machine.landed(Ending::Arrived, true);
        assert!(matches!(&effects[1], TaskEffect::Commit(c) if c.position == 20));
        assert_eq!(machine.mark().position, 20);
        assert!(machine.ends_clean());
        // One at a time.
        assert!(!machine.computed(3 * SECOND));
        machine.committed();
        assert!(machine.computed(3 * SECOND));
    }

    #[test]
    fn a_batch_that_is_lost_moves_nothing() {
        let mut machine = Machine::new(Mark::default(), true, SECOND);
        machine.computed(SECOND);
        machine.fly(span(0, 10, true));
        assert_eq!(machine.landed(Ending::Lost, true), []);
        assert_eq!(machine.mark().position, 0);
        assert!(!machine.ends_clean());
    }

    #[test]
    fn a_batch_that_is_too_much_is_read_again() {
        let mut machine = Machine::new(Mark::default(), false, SECOND);
        machine.computed(SECOND);
        machine.fly(span(0, 10, false));
        let again = TaskEffect::ReadAgain {
            base: 0,
            end: 10,
            skipped: 0,
        };
        assert_eq!(machine.landed(Ending::TooMuch, true), [again]);
        assert_eq!(machine.note_at(), None);
    }

    #[test]
    fn only_an_idle_partition_that_somebody_waits_for_ticks() {
        let mut machine = Machine::new(Mark::default(), true, SECOND);
        machine.input(SECOND);
        let later = SECOND + IDLE_AFTER;
        let tick = |machine: &Machine, now, at_end, clock, mark, wanted| {
            machine.tick(now, at_end, clock, mark, wanted)
        };
        assert_eq!(
            tick(&machine, later, true, 100, Some(50), Some(90)),
            Some(100)
        );
        assert_eq!(tick(&machine, later, true, 100, None, Some(90)), Some(100));
        assert_eq!(tick(&machine, SECOND, true, 100, Some(50), Some(90)), None);
        assert_eq!(tick(&machine, later, false, 100, Some(50), Some(90)), None);
        assert_eq!(tick(&machine, later, true, 80, Some(50), Some(90)), None);
        assert_eq!(tick(&machine, later, true, 100, Some(95), Some(90)), None);
        assert_eq!(tick(&machine, later, true, 100, Some(50), None), None);
        machine.fly(span(0, 1, false));
        assert_eq!(tick(&machine, later, true, 100, Some(50), Some(90)), None);
    }
}

//! What people want of instances.

use busbar_event::{Class, Error};

use super::{CANCELLED, InstanceStep, PersonOrder, with_key};
use crate::instance::{Attempt, Happened, InstanceStatus, PartDoing, PartFailure, Place, Undoing};
use crate::store;

impl InstanceStep<'_> {
    /// Carries an order out.
    ///
    /// # Errors
    /// Orders that do not fit what the instance is at.
    pub(super) fn order(&mut self, order: PersonOrder, by: &str) -> Result<(), Error> {
        let refused = |code| Err(Error::new(Class::Permanent, code));
        let status = self.instance.status;
        match order {
            PersonOrder::Cancel if status.has_ended() => return refused("orchestrate.ended"),
            PersonOrder::Cancel if self.instance.failure.is_some() => {
                return refused("orchestrate.goes-back");
            }
            PersonOrder::Cancel => {
                let error = Error::new(Class::Permanent, CANCELLED).with("by", by);
                self.record("", Happened::Cancelled).by = Some(by.to_owned());
                self.instance.failure = Some(PartFailure::new(&error, true));
                self.instance.paused = false;
                self.instance.status = InstanceStatus::Failing;
            }
            PersonOrder::Retry if status == InstanceStatus::Stuck => {
                if self.instance.outgrown.is_some()
                    && let Some(error) = store::too_large(store::write(self.instance)?.len())
                {
                    return Err(error);
                }
                self.instance.outgrown = None;
                self.instance.records_before = self.instance.records;
                let mut root = std::mem::take(&mut self.instance.root);
                retry_stuck(&mut root);
                self.instance.root = root;
                if let Some(Undoing { attempt, .. }) = &mut self.instance.undoing {
                    retry_attempt(attempt);
                }
                self.record("", Happened::Retried).by = Some(by.to_owned());
            }
            PersonOrder::Retry if status.has_ended() && status != InstanceStatus::Done => {
                let instance = &mut *self.instance;
                instance.run += 1;
                instance.status = InstanceStatus::Running;
                instance.values = with_key(&instance.input, &instance.key);
                instance.root = Place::new(0, "", None);
                instance.failure = None;
                instance.skipped.clear();
                instance.records_before = instance.records;
                self.record("", Happened::Retried).by = Some(by.to_owned());
            }
            PersonOrder::Retry => return refused("orchestrate.nothing-to-retry"),
            PersonOrder::Skip => match self.instance.undoing.take() {
                Some(undoing) if undoing.attempt.stuck => {
                    let place = undoing.what.place;
                    self.record(&place, Happened::Skipped).by = Some(by.to_owned());
                    self.instance.skipped.push(place);
                }
                other => {
                    self.instance.undoing = other;
                    return refused("orchestrate.nothing-to-skip");
                }
            },
            PersonOrder::Pause if status.has_ended() => return refused("orchestrate.ended"),
            PersonOrder::Pause if !self.instance.paused => {
                self.instance.paused = true;
                self.record("", Happened::Paused).by = Some(by.to_owned());
            }
            PersonOrder::Resume if self.instance.paused => {
                self.instance.paused = false;
                self.record("", Happened::Resumed).by = Some(by.to_owned());
            }
            PersonOrder::Pause | PersonOrder::Resume => {}
        }
        Ok(())
    }
}

fn retry_stuck(place: &mut Place) {
    match &mut place.doing {
        Some(PartDoing::Call(attempt)) => retry_attempt(attempt),
        Some(PartDoing::Inside(places)) => places.iter_mut().for_each(retry_stuck),
        Some(PartDoing::Each(each)) => {
            let places = each.running.iter_mut();
            places.for_each(|(_, place)| retry_stuck(place));
        }
        _ => {}
    }
}

/// A request that was refused is another one when it is made again; one that perhaps was taken is the same.
fn retry_attempt(attempt: &mut Attempt) {
    if !attempt.stuck {
        return;
    }
    let refused = attempt.failure.as_ref().is_some_and(|f| f.answered);
    attempt.number += u32::from(refused && !attempt.unknown);
    attempt.tries = 1;
    attempt.until = None;
    attempt.stuck = false;
}

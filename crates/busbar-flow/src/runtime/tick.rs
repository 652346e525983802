//! What the runtime does every second.

use std::sync::{Arc, Weak};

use busbar_event::Error;

use super::report::unaccounted;
use super::{Flow, Inner, Runtime, trim};
use crate::blocking::blocking;
use crate::limits::{RATE_EVERY, RESTART_AFTER, TRIM_TICKS};
use crate::status::FlowState;

/// Once a second: rates, counts that do not add up, flows that wait for their first event, and those that could
/// not start.
pub(super) async fn tick(inner: Weak<Inner>) {
    let mut every = tokio::time::interval(RATE_EVERY);
    let mut ticks = 0u64;
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        let runtime = Runtime { inner };
        let now = runtime.inner.options.bus.clock().now_micros();
        let flows: Vec<Arc<Flow>> = runtime.inner.flows.read().values().cloned().collect();
        ticks += 1;
        if ticks.is_multiple_of(TRIM_TICKS) {
            let (runtime, flows) = (runtime.clone(), flows.clone());
            // Where the disk does not give space back now, it is asked again.
            let _ = blocking(move || {
                for flow in &flows {
                    trim::trim(&runtime, flow)?;
                }
                trim::forget_removed(&runtime)
            })
            .await
            .map_err(
                |error: Error| tracing::warn!(%error, "streams between stages were not trimmed"),
            );
        }
        for flow in flows {
            if let Some(shared) = &flow.shared
                && let Some(error) = shared.tally.tick(now).and_then(unaccounted)
            {
                tracing::error!(flow = %flow.name, version = flow.version, %error, "the counts are off");
            }
            let tries_again = flow.idle.as_ref().is_some_and(|(state, _)| match state {
                FlowState::Waiting => true,
                FlowState::Retrying => now - flow.since_micros >= RESTART_AFTER.as_micros() as i64,
                _ => false,
            });
            let is_over = flow.shared.as_ref().is_some_and(|shared| shared.is_over());
            let tries_again = tries_again || (flow.idle.is_none() && is_over);
            if tries_again && let Ok(project) = runtime.inner.project.try_lock() {
                // How it went shows in its status.
                let _ = runtime.again(&project, Arc::clone(&flow)).await;
            }
        }
    }
}

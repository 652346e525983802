//! Agreeing with the other system that keeps a table's cells: its families, its columns, and what was committed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use busbar_event::Error;
use parking_lot::Mutex;

use super::keeper::WideKeeper;
use super::layout::{StoredLayout, WideLayout};
use super::outside::CellFamily;
use super::{Wide, agreed, damaged};
use crate::limits::WIDE_ASK_AGAIN;

/// When the other system did not answer the last time. Held while it is asked.
#[derive(Debug, Default)]
pub(super) struct Settling {
    asking: Mutex<()>,
    failed: Mutex<Option<Instant>>,
}

impl Wide {
    /// Whether what is known of the table here is what is kept.
    pub(super) fn is_settled(&self) -> bool {
        match &self.keeper {
            WideKeeper::Own(_) => true,
            WideKeeper::Other(kept) => kept.is_settled(),
        }
    }

    /// Asks the other system, if that is not known to be as it should.
    ///
    /// # Errors
    /// As of [`super::CellStore::prepare`]; a key, a salt or columns that do not agree with what is kept.
    pub(super) fn settle(&self) -> Result<(), Error> {
        let WideKeeper::Other(kept) = &self.keeper else {
            return Ok(());
        };
        if kept.is_settled() {
            return Ok(());
        }
        let _asking = self.settling.asking.lock();
        if kept.is_settled() {
            return Ok(());
        }
        {
            // A commit that is under way would be taken for one that was left unfinished, and options that change meanwhile would
            // not be asked for.
            let _writer = self.writer.lock();
            let options = self.options.read().clone();
            let families = options.families.iter().map(|family| CellFamily {
                name: family.name.as_str().into(),
                versions: family.versions,
                ttl: family
                    .ttl_us
                    .map(|us| Duration::from_micros(us.unsigned_abs())),
            });
            let text = kept.settle(&families.collect::<Vec<_>>())?;
            let mut stored = match &text {
                Some(text) => {
                    serde_json::from_slice(text).map_err(|why| damaged(&self.name, why))?
                }
                None => StoredLayout::default(),
            };
            if text.is_none() {
                // Nobody has used it yet, or only without columns.
                stored.salted = options.salted;
                stored.first.clone_from(&options.families[0].name);
            }
            kept.set_names(&stored.families);
            let stored = agreed(&self.name, stored, &self.key, &options, &self.keeper)?;
            let before = stored.families.clone();
            let layout = WideLayout::new(&self.name, stored, &options)?;
            kept.set_names(&layout.stored.families);
            let is_new = text.is_none() || before != layout.stored.families;
            kept.set_settled();
            if is_new && let Err(error) = self.keep(&layout) {
                kept.unsettle();
                return Err(error);
            }
            *self.layout.write() = Arc::new(layout);
        }
        let declared = Arc::clone(&self.declared.read());
        self.widen(&declared, false)
            .inspect_err(|_| kept.unsettle())
    }

    /// The same, for the columns of a table whose file names none; a failure is noted, and the other system is not asked again
    /// for a while.
    pub(super) fn settle_for_schema(&self) {
        if self.is_settled() || self.is_declared() {
            return;
        }
        let failed = *self.settling.failed.lock();
        if failed.is_some_and(|at| at.elapsed() < WIDE_ASK_AGAIN) {
            return;
        }
        if let Err(error) = self.settle() {
            tracing::warn!(table = %self.name, %error, "the columns of the table are not known");
            *self.settling.failed.lock() = Some(Instant::now());
        }
    }
}

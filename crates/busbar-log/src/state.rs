//! What readers and the commit thread share of a partition.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::{Mutex, RwLock};

use crate::error::Damage;
use crate::frame::Frame;
use crate::options::PartitionOptions;
use crate::producers::ProducerTable;
use crate::segment::{Files, Segment};
use crate::tail::Tail;

/// The state of a partition. Locks are taken in the order of the fields.
pub(crate) struct PartitionState {
    pub name: String,
    pub dir: PathBuf,
    pub files: Arc<Files>,
    pub options: Mutex<PartitionOptions>,
    pub segments: RwLock<Vec<Arc<Segment>>>,
    pub producers: Mutex<ProducerTable>,
    pub tail: Mutex<Tail>,
    pub observers: RwLock<Arc<Vec<Observer>>>,
    pub wakers: RwLock<Arc<Vec<(u64, Waker)>>>,
    pub damage: Mutex<Vec<Damage>>,
    pub start: AtomicU64,
    pub end: AtomicU64,
    pub closed: AtomicBool,
    pub next_waker: AtomicU64,
}

pub(crate) type Observer = Arc<dyn Fn(&Frame) + Send + Sync>;
pub(crate) type Waker = Arc<dyn Fn() + Send + Sync>;

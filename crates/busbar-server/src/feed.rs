//! The picture of the node that is taken each second, and the history that goes with it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use busbar_event::Error;
use busbar_flow::DeadRetention;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::api::overview::{Budget, Dead, Disk, History, Overview, Rates, RefusedSave};
use crate::api::{Live, connection_views, flow_views, stream_summaries};
use crate::app::App;
use crate::lifecycle::stopped;
use crate::limits::{HISTORY_SECONDS, SPARK_SECONDS};
use busbar_event::time;

/// Pictures of the node.
pub(crate) struct Feed {
    live: watch::Sender<Bytes>,
    overview: Mutex<Bytes>,
    latest: Mutex<Option<Arc<Live>>>,
    rates: Mutex<Lines>,
    /// Events a second that each source brought.
    sources: Mutex<HashMap<String, f64>>,
    dead: AtomicU64,
    dead_retention: Mutex<DeadRetention>,
}

/// The last minute of each stream and of each flow, by name, oldest first.
#[derive(Default)]
struct Lines {
    streams: BTreeMap<String, VecDeque<u64>>,
    flows: BTreeMap<String, VecDeque<u64>>,
}

impl Default for Feed {
    fn default() -> Self {
        Feed {
            live: watch::Sender::new(Bytes::from_static(b": busbar\n\n")),
            overview: Mutex::default(),
            latest: Mutex::default(),
            rates: Mutex::default(),
            sources: Mutex::default(),
            dead: AtomicU64::new(0),
            dead_retention: Mutex::default(),
        }
    }
}

impl Feed {
    /// The newest picture, and each one after it.
    pub(crate) fn listen(&self) -> watch::Receiver<Bytes> {
        self.live.subscribe()
    }

    /// The newest overview as JSON.
    pub(crate) fn overview(&self) -> Bytes {
        self.overview.lock().clone()
    }

    /// The newest state, for callers that may see a part of it; none before the first.
    pub(crate) fn latest(&self) -> Option<Arc<Live>> {
        self.latest.lock().clone()
    }

    /// Rates of the last minute.
    pub(crate) fn rates(&self) -> Rates {
        let lines = self.rates.lock();
        let plain = |lines: &BTreeMap<String, VecDeque<u64>>| {
            let plain = |(name, line): (&String, &VecDeque<u64>)| {
                (name.clone(), line.iter().copied().collect())
            };
            lines.iter().map(plain).collect()
        };
        Rates {
            step_s: 1,
            streams: plain(&lines.streams),
            flows: plain(&lines.flows),
        }
    }

    /// Events a second that a source brought.
    pub(crate) fn source_rate(&self, name: &str) -> f64 {
        self.sources.lock().get(name).copied().unwrap_or(0.0)
    }

    /// Dead letters that wait to be looked at, as counted last.
    pub(crate) fn dead(&self) -> u64 {
        self.dead.load(Ordering::Relaxed)
    }

    /// How long dead letters are kept, as determined last.
    pub(crate) fn dead_retention(&self) -> DeadRetention {
        self.dead_retention.lock().clone()
    }

    /// Takes a picture each second until the node stops. The first one is there when this returns.
    pub(crate) async fn run(app: Arc<App>) -> JoinHandle<()> {
        let mut camera = Camera::new(&app);
        camera.take(&app).await;
        let stop = app.lifecycle.stop.clone();
        let watched = app.bus.log().supervisor().watch_task("overview");
        tokio::spawn(async move {
            let _watched = watched;
            let mut second = tokio::time::interval(Duration::from_secs(1));
            second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            second.tick().await;
            loop {
                tokio::select! {
                    _ = second.tick() => camera.take(&app).await,
                    () = stopped(stop.clone()) => return,
                }
            }
        })
    }
}

/// What is remembered between two pictures.
struct Camera {
    input: VecDeque<u64>,
    output: VecDeque<u64>,
    delivered: u64,
    cpu: f64,
    taken: Instant,
    /// Events that each source had brought at the last picture.
    brought: HashMap<String, u64>,
    /// Dead letters are counted beside the picture: after a start there may be many to read.
    counting: Option<JoinHandle<Result<(u64, DeadRetention), Error>>>,
    counted: bool,
    /// When a warning that dead letters will be deleted was logged last.
    warned: Option<Instant>,
}

impl Camera {
    fn new(app: &App) -> Camera {
        Camera {
            input: VecDeque::with_capacity(HISTORY_SECONDS),
            output: VecDeque::with_capacity(HISTORY_SECONDS),
            delivered: app.events_out(),
            cpu: process_seconds(),
            taken: Instant::now(),
            brought: HashMap::new(),
            counting: None,
            counted: true,
            warned: None,
        }
    }

    /// Takes over a count that is done, and begins the next one.
    async fn count_dead(&mut self, app: &Arc<App>) {
        if let Some(counting) = self.counting.take_if(|counting| counting.is_finished())
            && let Ok(count) = counting.await
        {
            match &count {
                Ok((count, retention)) => {
                    app.feed.dead.store(*count, Ordering::Relaxed);
                    self.warn_of_expiry(*count, retention);
                    *app.feed.dead_retention.lock() = retention.clone();
                }
                // Said once, not each second.
                Err(why) if self.counted => tracing::error!(%why, "dead letters cannot be counted"),
                Err(_) => {}
            }
            self.counted = count.is_ok();
        }
        if self.counting.is_none() {
            let app = app.clone();
            self.counting = Some(tokio::spawn(async move {
                let groups = app.runtime.dead_groups().await?;
                let count = groups.iter().map(|group| group.open).sum();
                Ok((count, app.runtime.dead_retention().await?))
            }));
        }
    }

    /// Logs that dead letters will be deleted soon: when that becomes so, and once a day while it stays so.
    fn warn_of_expiry(&mut self, open: u64, retention: &DeadRetention) {
        if !retention.expires_soon {
            self.warned = None;
            return;
        }
        let day = Duration::from_secs(24 * 60 * 60);
        if self.warned.is_none_or(|at| at.elapsed() >= day) {
            self.warned = Some(Instant::now());
            tracing::warn!(
                open,
                bytes = retention.bytes,
                oldest = retention.oldest_open_micros.map(time::text),
                "the oldest dead letters will be deleted soon: re-drive them, or raise \
                 `limits.dead_letter_age` or `limits.dead_letter_size`"
            );
        }
    }

    /// How fast sources are, from what each had brought a picture ago.
    fn time_sources(&mut self, app: &App, seconds: f64) {
        let brought: HashMap<String, u64> = app
            .runtime
            .connections()
            .into_iter()
            .filter_map(|connection| Some((connection.name, connection.source?.events)))
            .collect();
        if seconds > 0.5 {
            let rate = |(name, now): (&String, &u64)| {
                // A source that was started again counts from zero.
                let before = self.brought.get(name).copied().unwrap_or(*now);
                let events = now.saturating_sub(before) as f64;
                (name.clone(), (events / seconds * 10.0).round() / 10.0)
            };
            *app.feed.sources.lock() = brought.iter().map(rate).collect();
        }
        self.brought = brought;
    }

    async fn take(&mut self, app: &Arc<App>) {
        let now = Instant::now();
        let seconds = now.duration_since(self.taken).as_secs_f64();
        self.taken = now;
        let (delivered, cpu) = (app.events_out(), process_seconds());
        let out = delivered.saturating_sub(self.delivered);
        let rate_out = if seconds > 0.5 {
            (out as f64 / seconds).round() as u64
        } else {
            0
        };
        let used = if seconds > 0.5 {
            (cpu - self.cpu) / seconds
        } else {
            0.0
        };
        (self.delivered, self.cpu) = (delivered, cpu);
        self.count_dead(app).await;
        self.time_sources(app, seconds);
        let streams = stream_summaries(app);
        let rate_in = streams
            .iter()
            .filter(|stream| !stream.internal)
            .map(|stream| stream.rate)
            .sum();
        push(&mut self.input, rate_in);
        push(&mut self.output, rate_out);
        let memory = streams
            .iter()
            .any(|stream| stream.durability == "memory" && !stream.detached);
        let bytes = streams.iter().map(|stream| stream.bytes).sum();
        let (summaries, flows) = flow_views(app);
        {
            let mut lines = app.feed.rates.lock();
            let now = streams.iter().map(|stream| (&*stream.name, stream.rate));
            grow(&mut lines.streams, now);
            let now = summaries.iter().map(|flow| (flow.name(), flow.rate()));
            grow(&mut lines.flows, now);
        }
        let budget = app.bus.budget();
        let disk = app.disk(bytes).await;
        expire_sessions(app).await;
        let overview = Overview {
            version: env!("CARGO_PKG_VERSION"),
            time: time::text(app.bus.clock().now_micros()),
            uptime_s: app.lifecycle.started.elapsed().as_secs(),
            memory_bytes: memory_bytes(),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            cpu: (used * 1000.0).round() / 1000.0,
            durability: if memory { "memory" } else { "fsync" },
            events_in_per_s: rate_in,
            events_out_per_s: rate_out,
            history: History {
                step_s: 1,
                input: self.input.iter().copied().collect(),
                output: self.output.iter().copied().collect(),
            },
            streams,
            flows: summaries,
            refused: RefusedSave::of(app),
            connections: connection_views(app),
            dead: Dead {
                count: app.dead_letters(),
                expires_soon: app.feed.dead_retention().expires_soon,
            },
            disk,
            sessions: app.mqtt().connections,
            budget: Budget {
                used_bytes: budget.used(),
                max_bytes: budget.max(),
            },
        };
        let short = serde_json::to_vec(&overview).unwrap_or_default();
        *app.feed.overview.lock() = short.into();
        let live = Live { overview, flows };
        let event = live.to_event();
        *app.feed.latest.lock() = Some(Arc::new(live));
        if let Some(event) = event {
            app.feed.live.send_replace(event);
        }
    }
}

/// Removes sessions of the console that are over.
async fn expire_sessions(app: &Arc<App>) {
    let app = app.clone();
    let done = tokio::task::spawn_blocking(move || app.access.expire());
    if let Ok(Err(why)) = done.await {
        tracing::warn!(%why, "sessions that are over could not be removed from the disk");
    }
}

fn push(history: &mut VecDeque<u64>, value: u64) {
    bounded(history, value, HISTORY_SECONDS);
}

fn bounded(history: &mut VecDeque<u64>, value: u64, seconds: usize) {
    if history.len() == seconds {
        history.pop_front();
    }
    history.push_back(value);
}

/// Adds a second to each line; a line whose name is gone goes too.
fn grow<'a>(
    lines: &mut BTreeMap<String, VecDeque<u64>>,
    now: impl Iterator<Item = (&'a str, u64)>,
) {
    let mut old = std::mem::take(lines);
    for (name, rate) in now {
        let (name, mut line) = old
            .remove_entry(name)
            .unwrap_or_else(|| (name.to_owned(), VecDeque::new()));
        bounded(&mut line, rate, SPARK_SECONDS);
        lines.insert(name, line);
    }
}

/// Resident memory of this process.
pub(crate) fn memory_bytes() -> u64 {
    // Pages, the second of which is what is resident; not there on other systems.
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    pages * 4096
}

/// Processor time of this process so far.
pub(crate) fn process_seconds() -> f64 {
    // The name, in parentheses, may hold spaces; user and system time are the 12th and 13th after it.
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    ticks as f64 / 100.0
}

/// Bytes free and in all on the disk that holds `dir`.
pub(crate) fn disk(space: Option<busbar_log::Space>, used_bytes: u64) -> Disk {
    Disk {
        used_bytes,
        free_bytes: space.as_ref().map_or(0, |space| space.free),
        total_bytes: space.as_ref().map_or(0, |space| space.total),
    }
}

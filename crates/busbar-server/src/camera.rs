//! Takes a picture of the node each second, with the history that goes with it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use busbar_event::{Error, time};
use busbar_flow::DeadRetention;
use tokio::task::JoinHandle;

use crate::api::{connection_views, flow_views, stream_summaries};
use crate::app::App;
use crate::lifecycle::stopped;
use crate::limits::HISTORY_SECONDS;
use crate::picture::{Budget, Dead, History, Live, Overview};
use crate::process::{memory_bytes, process_seconds};

/// Takes a picture each second until the node stops. The first one is there when this returns.
pub(crate) async fn take_pictures(app: Arc<App>) -> JoinHandle<()> {
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
                    app.feed.set_dead(*count, retention.clone());
                    self.warn_of_expiry(*count, retention);
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
            app.feed
                .set_source_rates(brought.iter().map(rate).collect());
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
            refused: app.deployer.refused().map(Into::into),
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
        app.feed.show(Live { overview, flows });
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

/// Appends a second; the oldest goes when there is no room.
fn push(history: &mut VecDeque<u64>, value: u64) {
    if history.len() == HISTORY_SECONDS {
        history.pop_front();
    }
    history.push_back(value);
}

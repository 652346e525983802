//! `host`: readings of the machine that Busbar runs on.
//!
//! ```yaml
//! host: { every: 1s }
//! topic: host/${host}/${kind}
//! ```

use std::path::Path;
use std::time::{Duration, Instant};

use busbar_bus::Span;
use busbar_catalog::{ConnectionSpec, Diagnostic};
use busbar_connector::{Connector, Polled, Polling, Position, Roles, Source, SourceContext, Work};
use busbar_event::{BatchBuilder, Class, Error, Flags, Row};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sysinfo::{Disks, Networks, System};

use crate::limits::HOST_EVERY_MIN;
use crate::topic::TopicTemplate;

/// The connector.
pub struct Host;

/// Readings of the machine that Busbar runs on, as JSON events.
///
/// `cpu`: used_percent, load_1m, cores. `memory`: used_bytes, total_bytes, used_percent,
/// swap_used_bytes. `disk`, one event a file system: disk, mount, used_bytes, total_bytes,
/// used_percent. `network`, one event an interface: interface, received_bytes_per_s,
/// sent_bytes_per_s. Each event also has `host`, the machine's name.
///
/// At most once: readings that a crash loses cannot be taken again.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Time between two readings.
    #[serde(default = "every_second")]
    every: Span,
    /// Which readings to take; all of them when not given.
    #[serde(default = "every_reading")]
    read: Vec<Reading>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Reading {
    Cpu,
    Memory,
    Disk,
    Network,
}

impl Reading {
    fn as_str(self) -> &'static str {
        match self {
            Reading::Cpu => "cpu",
            Reading::Memory => "memory",
            Reading::Disk => "disk",
            Reading::Network => "network",
        }
    }
}

fn every_second() -> Span {
    Span::from_micros(1_000_000)
}

fn every_reading() -> Vec<Reading> {
    vec![
        Reading::Cpu,
        Reading::Memory,
        Reading::Disk,
        Reading::Network,
    ]
}

const DEFAULT_TOPIC: &str = "host/${host}/${kind}";
const OFFERED: [&str; 3] = ["host", "kind", "name"];

impl Host {
    fn options(spec: &ConnectionSpec) -> Result<(Options, TopicTemplate), Diagnostic> {
        let options: Options = spec.options.read()?;
        if options.every.as_duration() < HOST_EVERY_MIN {
            let error = Error::new(Class::Configuration, "connect.host-every")
                .with("least_ms", HOST_EVERY_MIN.as_millis());
            return Err(spec.options.diagnostic("every", error));
        }
        Ok((options, TopicTemplate::read(spec, DEFAULT_TOPIC, &OFFERED)?))
    }
}

impl Connector for Host {
    fn kind(&self) -> &'static str {
        "host"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        Host::options(spec).map(|_| Roles {
            source: true,
            sink: false,
            service: false,
        })
    }

    fn schema(&self) -> serde_json::Value {
        schemars::schema_for!(Options).to_value()
    }

    fn source<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SourceContext,
    ) -> Work<'a, Result<Box<dyn Source>, Error>> {
        Box::pin(async move {
            let (options, topic) = Host::options(spec)?;
            Ok(Box::new(HostSource::new(options, topic, context)?) as Box<dyn Source>)
        })
    }
}

struct HostSource {
    options: Options,
    topic: TopicTemplate,
    context: SourceContext,
    host: String,
    system: System,
    disks: Disks,
    networks: Networks,
    builder: BatchBuilder,
    due: Instant,
    last: Instant,
}

impl HostSource {
    fn new(
        options: Options,
        topic: TopicTemplate,
        context: SourceContext,
    ) -> Result<HostSource, Error> {
        let now = Instant::now();
        let mut system = System::new().map_err(unreadable)?;
        // Usage is a difference between two readings; this is the first.
        system.refresh_cpu_usage();
        Ok(HostSource {
            host: System::host_name().unwrap_or_else(|_| "localhost".to_owned()),
            options,
            topic,
            context,
            system,
            disks: Disks::new_with_refreshed_list().map_err(unreadable)?,
            networks: Networks::new_with_refreshed_list().map_err(unreadable)?,
            builder: BatchBuilder::new(),
            due: now + sysinfo::MINIMUM_CPU_UPDATE_INTERVAL,
            last: now,
        })
    }

    fn read(&mut self) -> Polling {
        let now = Instant::now();
        let elapsed = now.duration_since(self.last).max(Duration::from_millis(1));
        self.last = now;
        let time = self.context.clock.now_micros();
        for reading in self.options.read.clone() {
            match reading {
                Reading::Cpu => self.cpu(time),
                Reading::Memory => self.memory(time),
                Reading::Disk => self.disks(time),
                Reading::Network => self.networks(time, elapsed),
            }
        }
        Polling {
            batch: self.builder.finish(),
            part: "".into(),
            position: Position::None,
            note: Vec::new(),
        }
    }

    fn cpu(&mut self, time: i64) {
        #[derive(Serialize)]
        struct Cpu<'a> {
            host: &'a str,
            used_percent: f64,
            load_1m: f64,
            cores: usize,
        }
        self.system.refresh_cpu_usage();
        let event = Cpu {
            host: &self.host,
            used_percent: tenths(f64::from(self.system.global_cpu_usage())),
            load_1m: System::load_average().map_or(0.0, |load| load.one),
            cores: self.system.cpus().len(),
        };
        self.push(Reading::Cpu, "", time, &to_json(&event));
    }

    fn memory(&mut self, time: i64) {
        #[derive(Serialize)]
        struct Memory<'a> {
            host: &'a str,
            used_bytes: u64,
            total_bytes: u64,
            used_percent: f64,
            swap_used_bytes: u64,
        }
        self.system.refresh_memory();
        let (used, total) = (self.system.used_memory(), self.system.total_memory());
        let event = Memory {
            host: &self.host,
            used_bytes: used,
            total_bytes: total,
            used_percent: percent(used, total),
            swap_used_bytes: self.system.used_swap(),
        };
        self.push(Reading::Memory, "", time, &to_json(&event));
    }

    fn disks(&mut self, time: i64) {
        #[derive(Serialize)]
        struct Disk<'a> {
            host: &'a str,
            disk: String,
            mount: String,
            used_bytes: u64,
            total_bytes: u64,
            used_percent: f64,
        }
        self.disks.refresh(true);
        let mut events = Vec::new();
        for disk in self.disks.iter() {
            let total = disk.total_space();
            let used = total.saturating_sub(disk.available_space());
            let event = Disk {
                host: &self.host,
                disk: disk.name().to_string_lossy().into_owned(),
                mount: shown(disk.mount_point()),
                used_bytes: used,
                total_bytes: total,
                used_percent: percent(used, total),
            };
            events.push((event.mount.clone(), to_json(&event)));
        }
        for (mount, event) in events {
            self.push(Reading::Disk, &mount, time, &event);
        }
    }

    fn networks(&mut self, time: i64, elapsed: Duration) {
        #[derive(Serialize)]
        struct Network<'a> {
            host: &'a str,
            interface: &'a str,
            received_bytes_per_s: f64,
            sent_bytes_per_s: f64,
        }
        self.networks.refresh(true);
        let rate = |bytes: u64| tenths(bytes as f64 / elapsed.as_secs_f64());
        let mut events = Vec::new();
        for (interface, data) in self.networks.iter() {
            let interface = interface.to_string_lossy().into_owned();
            let event = Network {
                host: &self.host,
                interface: &interface,
                received_bytes_per_s: rate(data.received()),
                sent_bytes_per_s: rate(data.transmitted()),
            };
            let json = to_json(&event);
            events.push((interface, json));
        }
        // The list is unordered.
        events.sort();
        for (interface, event) in events {
            self.push(Reading::Network, &interface, time, &event);
        }
    }

    fn push(&mut self, reading: Reading, name: &str, time: i64, payload: &[u8]) {
        let mut topic = String::new();
        let value = |variable: &str| match variable {
            "host" => Some(self.host.clone()),
            "kind" => Some(reading.as_str().to_owned()),
            _ => Some(name.to_owned()),
        };
        self.topic.write(value, &mut topic);
        let topic = self.builder.topic_id(&topic);
        let flags = Flags::default().with_qos(1).with_utf8(true);
        self.builder.push(Row {
            topic,
            key: None,
            time,
            client: None,
            flags,
            tags: &[],
            payload,
        });
    }
}

impl Source for HostSource {
    fn poll(&mut self) -> Work<'_, Result<Polled, Error>> {
        Box::pin(async move {
            tokio::time::sleep_until(self.due.into()).await;
            // Counted from now, so that a machine that was suspended does not catch up.
            self.due = Instant::now() + self.options.every.as_duration();
            Ok(Polled::Batch(self.read()))
        })
    }
}

fn unreadable(why: sysinfo::Error) -> Error {
    Error::new(Class::Configuration, "connect.host-unreadable").with("why", why)
}

fn to_json(event: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(event).expect("numbers and texts are always JSON")
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        tenths(part as f64 * 100.0 / whole as f64)
    }
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

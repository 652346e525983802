//! `busbar bench`: measures this binary on this machine, next to the peers that are installed, and
//! prints one table.

mod amqp;
mod calls;
mod documents;
mod fill;
mod flows;
mod load;
mod nexmark;
mod node;
mod orchestrations;
mod percentiles;
mod plugins;
mod report;
mod sockets;
mod state;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use load::{Load, Outcome};
use node::Process;
use report::{Report, Row};

/// What to measure and how long.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Seconds for each figure.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Payload size in bytes.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(8..=65_536))]
    pub payload: u32,
    /// Publishes in flight on each connection.
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub window: u32,
    /// Connections of the figures that use several.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub connections: u32,
    /// Measure a broker that runs already instead of starting Busbar (MQTT rows only).
    #[arg(long, value_name = "HOST:PORT")]
    pub against: Option<SocketAddr>,
    /// Publish this many events of the NEXMark benchmark to the broker of `--against`, and measure nothing.
    #[arg(long, value_name = "COUNT", requires = "against")]
    pub nexmark: Option<u64>,
    /// Leave out the peers that are installed here.
    #[arg(long)]
    pub no_peers: bool,
    /// Only the rows whose name contains this.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Write the figures to this file as well.
    #[arg(long, value_name = "FILE")]
    pub json_file: Option<PathBuf>,
}

/// A latency figure is taken at this rate, well below what saturates anything.
const LATENCY_RATE: u64 = 20_000;

/// Measures, prints and writes the report.
///
/// # Errors
/// In words for people: a node that does not start, a broker that is not there, a file that cannot
/// be written.
pub fn run(args: &BenchArgs, json: bool) -> Result<(), String> {
    if let (Some(address), Some(events)) = (args.against, args.nexmark) {
        return fill::nexmark_from_now(address, events)
            .map_err(|why| format!("publishing events of NEXMark to {address}: {why}"));
    }
    let mut report = Report::new();
    let mut failed = Vec::new();
    if let Some(address) = args.against {
        mqtt_rows(args, &address.to_string(), address, &mut report)?;
    } else {
        {
            let node = Process::busbar(&node::bare_project()?)?;
            mqtt_rows(args, "busbar", node.mqtt, &mut report)?;
        }
        sockets::rows(args, &mut report, &mut failed);
        if !args.no_peers
            && let Some(peer) = Process::mosquitto()?
        {
            mqtt_rows(args, "mosquitto", peer.mqtt, &mut report)?;
        }
        amqp::rows(args, &mut report, &mut failed);
        flows::rows(args, &mut report, &mut failed);
        plugins::rows(args, &mut report, &mut failed);
        documents::rows(args, &mut report, &mut failed);
        calls::rows(args, &mut report, &mut failed);
        orchestrations::rows(args, &mut report, &mut failed);
        state::rows(args, &mut report, &mut failed);
        if args.wants(START) {
            note(node::start_row(), &mut report, &mut failed);
        }
    }
    if let Some(file) = &args.json_file {
        std::fs::write(file, report.json())
            .map_err(|why| format!("cannot write {}: {why}", file.display()))?;
    }
    if json {
        println!("{}", report.json());
    } else {
        print!("{}", report.table());
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(failed.join("; ")),
    }
}

/// A row that cannot be measured does not take the others with it.
fn note(row: Result<Row, String>, report: &mut Report, failed: &mut Vec<String>) {
    match row {
        Ok(row) => report.add(row),
        Err(why) => failed.push(why),
    }
}

const QOS1_IN: &str = "MQTT QoS 1 in";
const QOS0_IN: &str = "MQTT QoS 0 in";
const QOS0_THROUGH: &str = "MQTT QoS 0 in to out";
const QOS1_LATENCY: &str = "MQTT QoS 1 in to out, 20 k/s";
pub(crate) const START: &str = "start and idle";

impl BenchArgs {
    fn wants(&self, row: &str) -> bool {
        self.only.as_deref().is_none_or(|only| row.contains(only))
    }
}

fn mqtt_rows(
    args: &BenchArgs,
    who: &str,
    address: SocketAddr,
    report: &mut Report,
) -> Result<(), String> {
    for connections in [args.connections as usize, 1] {
        let load = Load {
            address,
            connections,
            qos: 1,
            payload_bytes: args.payload as usize,
            window: args.window as usize,
            duration: Duration::from_secs(args.seconds),
            rate: None,
            subscribe: None,
        };
        let loads = [
            (QOS1_IN, load.clone()),
            (
                QOS0_IN,
                Load {
                    qos: 0,
                    ..load.clone()
                },
            ),
            (
                QOS0_THROUGH,
                Load {
                    qos: 0,
                    subscribe: Some(0),
                    ..load.clone()
                },
            ),
            (
                QOS1_LATENCY,
                Load {
                    rate: Some(LATENCY_RATE),
                    subscribe: Some(1),
                    ..load.clone()
                },
            ),
        ];
        for (row, load) in loads {
            if !args.wants(row) {
                continue;
            }
            eprintln!(
                "{who}: {row}, {connections} connection(s), {} s ...",
                args.seconds
            );
            let outcome = load::run(&load).map_err(|why| format!("{who}: {row}: {why}"))?;
            report.add(mqtt_row(row, who, &load, &outcome));
        }
    }
    Ok(())
}

fn mqtt_row(row: &'static str, who: &str, load: &Load, outcome: &Outcome) -> Row {
    let lost = if load.subscribe.is_some() {
        outcome.sent.saturating_sub(outcome.events)
    } else {
        0
    };
    Row {
        job: row,
        who: who.to_owned(),
        connections: load.connections,
        events_per_second: Some(outcome.rate()),
        latency_ms: outcome.latencies.percentiles(),
        events: outcome.events,
        lost,
        note: None,
    }
}

//! Metrics for Prometheus. Nothing is counted for their sake: they are read from the counters
//! that are there when somebody asks.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use busbar_connector::{BreakerState, DatabaseStatus};
use busbar_event::Error;
use busbar_flow::{ConnectionStatus, FlowState, ServiceStatus};
use busbar_gateway::GatewayCounts;
use busbar_table::Stats;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::blocking;
use crate::answer::Answer;
use crate::app::App;
use crate::guard::Caller;
use crate::process::{memory_bytes, process_seconds};
use crate::rights;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// Metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "node",
    responses((status = 200, description = "The metrics.", body = String, content_type = "text/plain")))]
async fn metrics(State(app): State<Arc<App>>, Caller(caller): Caller) -> Answer<Response> {
    // Labels name every stream, flow and connection.
    rights::check_all(&caller, "metrics")?;
    let disk = app.disk(0).await;
    let text = blocking(move || {
        let mut page = Page::default();
        process(&mut page, &app);
        page.gauge(
            "busbar_disk_free_bytes",
            "Bytes free on the disk under the data folder.",
            disk.free_bytes,
        );
        page.gauge(
            "busbar_disk_total_bytes",
            "Bytes of the disk under the data folder.",
            disk.total_bytes,
        );
        streams(&mut page, &app);
        flows(&mut page, &app);
        hot_tables(&mut page, &app)?;
        services(&mut page, &app);
        databases(&mut page, &app);
        gateways(&mut page, &app);
        apis(&mut page, &app);
        mqtt(&mut page, &app);
        http(&mut page, &app);
        Ok(page.0)
    })
    .await?;
    Ok((
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
        .into_response())
}

fn apis(page: &mut Page, app: &App) {
    let running = app.apis.running();
    if running.is_empty() {
        return;
    }
    page.head(
        "busbar_api_calls_total",
        "counter",
        "Calls of the project's APIs.",
    );
    for (name, api) in &running {
        let counts = &api.counts;
        for (outcome, count) in [
            ("answered", &counts.answered),
            ("late", &counts.late),
            ("refused", &counts.refused),
            ("failed", &counts.failed),
        ] {
            let labels = [("api", &**name), ("outcome", outcome)];
            let count = count.load(Ordering::Relaxed);
            page.sample("busbar_api_calls_total", &labels, count);
        }
    }
    page.head("busbar_api_calls", "gauge", "Calls of APIs under way.");
    for (name, api) in &running {
        page.sample("busbar_api_calls", &[("api", name)], api.in_flight() as u64);
    }
}

fn process(page: &mut Page, app: &App) {
    page.head(
        "busbar_build_info",
        "gauge",
        "The version that runs, as a label.",
    );
    page.sample(
        "busbar_build_info",
        &[("version", env!("CARGO_PKG_VERSION"))],
        1,
    );
    page.gauge(
        "busbar_ready",
        "1 while the node takes work.",
        u8::from(app.readiness() == "ok"),
    );
    page.gauge(
        "busbar_writable",
        "0 while publishers are refused because of the disk.",
        u8::from(app.refusal().is_none()),
    );
    page.gauge(
        "busbar_failed_threads",
        "Threads that have ended although the node needs them.",
        app.failed().len(),
    );
    page.gauge(
        "busbar_uptime_seconds",
        "Seconds since the node started.",
        app.lifecycle.started.elapsed().as_secs_f64(),
    );
    page.gauge(
        "process_resident_memory_bytes",
        "Resident memory of the process.",
        memory_bytes(),
    );
    page.counter(
        "process_cpu_seconds_total",
        "Processor time of the process.",
        process_seconds(),
    );
    let logins = app.access.login_counts();
    page.counter(
        "busbar_login_failures_total",
        "Logins with a wrong name, password or token.",
        logins.failed_passwords + logins.failed_tokens + logins.failed_proven,
    );
    page.counter(
        "busbar_login_lock_outs_total",
        "Failed logins after which further attempts had to wait.",
        logins.lock_outs,
    );
    page.counter(
        "busbar_login_refused_total",
        "Logins refused without a check because of earlier failures.",
        logins.refused,
    );
    let budget = app.bus.budget();
    page.gauge(
        "busbar_budget_used_bytes",
        "Bytes between sockets and disk.",
        budget.used(),
    );
    page.gauge(
        "busbar_budget_max_bytes",
        "Bytes between sockets and disk at which gateways stop reading.",
        budget.max(),
    );
    page.gauge(
        "busbar_retained_topics",
        "Topics with a retained value.",
        app.bus.retained().count() as u64,
    );
}

fn streams(page: &mut Page, app: &App) {
    let streams = app.bus.streams();
    let counters: Vec<_> = streams
        .iter()
        .map(|stream| (stream.name(), stream.counters()))
        .collect();
    let mut family = |name: &str, help: &str, value: &dyn Fn(&busbar_bus::Counters) -> u64| {
        page.head(name, "counter", help);
        for (stream, counters) in &counters {
            page.sample(name, &[("stream", stream)], value(counters));
        }
    };
    family(
        "busbar_stream_events_total",
        "Events committed since the start.",
        &|c| c.events,
    );
    family(
        "busbar_stream_bytes_total",
        "Bytes of frames committed since the start.",
        &|c| c.bytes,
    );
    family(
        "busbar_stream_frames_total",
        "Frames committed since the start.",
        &|c| c.frames,
    );
    for (name, help, value) in [
        (
            "busbar_partition_start_offset",
            "Oldest offset that is kept.",
            &(|p: &busbar_bus::StreamPartition| p.start())
                as &dyn Fn(&busbar_bus::StreamPartition) -> u64,
        ),
        ("busbar_partition_end_offset", "Next offset.", &|p| p.end()),
        ("busbar_partition_size_bytes", "Bytes on disk.", &|p| {
            p.bytes()
        }),
        (
            "busbar_partition_damaged_places",
            "Places that cannot be read.",
            &|p| p.damage().len() as u64,
        ),
    ] {
        page.head(name, "gauge", help);
        for stream in &streams {
            for partition in stream.partitions().iter() {
                let number = partition.number().to_string();
                page.sample(
                    name,
                    &[("stream", stream.name()), ("partition", &number)],
                    value(partition),
                );
            }
        }
    }
}

/// Tables in the memory of the node only: the rows of others are counted by reading them.
fn hot_tables(page: &mut Page, app: &App) -> Result<(), Error> {
    let names = app.tables.names();
    let hot = names.iter().filter_map(|name| {
        let spec = app.tables.spec(name)?.hot?;
        if spec.connection.is_some() {
            return None;
        }
        Some((name, spec.moves_to.is_some(), app.tables.table(name)?))
    });
    let stats = hot.map(|(name, moves, table)| Ok((name, moves, table.stats()?)));
    let stats: Vec<(&String, bool, Stats)> = stats.collect::<Result<_, Error>>()?;
    type Value = fn(&Stats) -> f64;
    let series: [(&str, &str, &str, bool, Value); 7] = [
        (
            "busbar_table_rows",
            "gauge",
            "Rows of a hot table.",
            false,
            |stats| stats.rows as f64,
        ),
        (
            "busbar_table_memory_bytes",
            "gauge",
            "Bytes of memory that the rows of a hot table take.",
            false,
            |stats| stats.bytes as f64,
        ),
        (
            "busbar_table_expired_rows_total",
            "counter",
            "Rows dropped from a hot table because their time to live was over.",
            false,
            |stats| stats.expired as f64,
        ),
        (
            "busbar_table_evicted_rows_total",
            "counter",
            "Rows dropped from a hot table to make room for others.",
            false,
            |stats| stats.evicted as f64,
        ),
        (
            "busbar_table_moved_rows_total",
            "counter",
            "Rows moved from a hot table to another table.",
            true,
            |stats| stats.moved as f64,
        ),
        (
            "busbar_table_move_rejected_rows",
            "gauge",
            "Rows of a hot table that the other table has rejected.",
            true,
            |stats| stats.move_rejected as f64,
        ),
        (
            "busbar_table_move_lag_seconds",
            "gauge",
            "How long the oldest row that is to be moved has waited beyond its time to live.",
            true,
            |stats| stats.move_lag_us as f64 / 1e6,
        ),
    ];
    for (name, kind, about, of_moves, value) in series {
        page.head(name, kind, about);
        for (table, moves, stats) in &stats {
            if *moves || !of_moves {
                page.sample(name, &[("table", table)], value(stats));
            }
        }
    }
    Ok(())
}

fn services(page: &mut Page, app: &App) {
    let connections = app.runtime.connections();
    let services = || {
        let with = |c: &ConnectionStatus| Some((c.name.clone(), c.service.clone()?));
        connections.iter().filter_map(with)
    };
    type Value = fn(&ServiceStatus) -> u64;
    let series: [(&str, &str, &str, Value); 4] = [
        (
            "busbar_service_calls_total",
            "counter",
            "Calls of a service by flows.",
            |service| service.calls,
        ),
        (
            "busbar_service_failures_total",
            "counter",
            "Calls that failed for the moment and are tried again.",
            |service| service.failures,
        ),
        (
            "busbar_service_in_flight",
            "gauge",
            "Calls under way.",
            |service| u64::from(service.in_flight),
        ),
        (
            "busbar_service_circuit_open",
            "gauge",
            "1 while a service is left alone because it has failed several times in a row.",
            |service| u64::from(service.circuit != BreakerState::Closed),
        ),
    ];
    for (name, kind, about, value) in series {
        page.head(name, kind, about);
        for (connection, service) in services() {
            page.sample(name, &[("connection", &connection)], value(&service));
        }
    }
}

fn databases(page: &mut Page, app: &App) {
    let connections = app.runtime.connections();
    type Value = fn(&DatabaseStatus) -> u64;
    let series: [(&str, &str, &str, Value); 7] = [
        (
            "busbar_database_sessions",
            "gauge",
            "Open sessions with a database for look-ups, calls and queries.",
            |database| (database.pool.used + database.pool.idle) as u64,
        ),
        (
            "busbar_database_sessions_used",
            "gauge",
            "Those of them that are in use.",
            |database| database.pool.used as u64,
        ),
        (
            "busbar_database_statements_total",
            "counter",
            "Statements sent to a database for look-ups, calls and queries.",
            |database| database.statements,
        ),
        (
            "busbar_database_failures_total",
            "counter",
            "Those of them that failed.",
            |database| database.failures,
        ),
        (
            "busbar_lookup_keys_total",
            "counter",
            "Keys that joins have asked a database for.",
            |database| database.keys,
        ),
        (
            "busbar_lookup_found_total",
            "counter",
            "Those of them that there was a row for.",
            |database| database.found,
        ),
        (
            "busbar_lookup_cached_total",
            "counter",
            "Keys that joins knew the answer for and did not ask.",
            |database| database.cached,
        ),
    ];
    for (name, kind, about, value) in series {
        page.head(name, kind, about);
        for connection in &connections {
            if let Some(database) = &connection.database {
                let labels = [("connection", connection.name.as_str())];
                page.sample(name, &labels, value(database));
            }
        }
    }
}

fn flows(page: &mut Page, app: &App) {
    let flows = app.runtime.status();
    page.head("busbar_flow_running", "gauge", "1 while the flow runs.");
    for flow in &flows {
        let runs = matches!(
            flow.state,
            FlowState::Running | FlowState::Retrying | FlowState::Waiting
        );
        page.sample(
            "busbar_flow_running",
            &[("flow", &flow.name)],
            u8::from(runs),
        );
    }
    page.head(
        "busbar_flow_events",
        "gauge",
        "What became of events since this version of the flow began to run.",
    );
    for flow in &flows {
        let counters = &flow.conservation.counters;
        for (outcome, count) in [
            ("in", counters.input),
            ("added", counters.added),
            ("out", counters.out),
            ("filtered", counters.filtered),
            ("dead", counters.dead),
            ("held", counters.held),
            ("taken", counters.taken),
            ("late", counters.late),
            ("overwritten", counters.overwritten),
            ("conflicts", counters.conflicts),
        ] {
            page.sample(
                "busbar_flow_events",
                &[("flow", &flow.name), ("outcome", outcome)],
                count,
            );
        }
    }
    page.head(
        "busbar_flow_unaccounted_events",
        "gauge",
        "Events the flow cannot account for; anything but 0 is an alarm.",
    );
    for flow in &flows {
        page.sample(
            "busbar_flow_unaccounted_events",
            &[("flow", &flow.name)],
            flow.conservation.difference,
        );
    }
    page.head(
        "busbar_flow_lag_events",
        "gauge",
        "Committed events the flow has not read yet.",
    );
    for flow in &flows {
        page.sample("busbar_flow_lag_events", &[("flow", &flow.name)], flow.lag);
    }
    page.head(
        "busbar_flow_watermark_seconds",
        "gauge",
        "The flow's watermark, seconds since 1970; not there before its first event.",
    );
    for flow in &flows {
        if let Some(micros) = flow.watermark_micros {
            let labels = [("flow", flow.name.as_str())];
            page.sample(
                "busbar_flow_watermark_seconds",
                &labels,
                micros as f64 / 1e6,
            );
        }
    }
    page.head(
        "busbar_flow_missed_events",
        "gauge",
        "Events that retention or damage took before the flow could read them.",
    );
    for flow in &flows {
        page.sample(
            "busbar_flow_missed_events",
            &[("flow", &flow.name)],
            flow.missed,
        );
    }
    page.gauge(
        "busbar_dead_letters",
        "Dead letters that are neither re-driven nor discarded.",
        app.dead_letters(),
    );
    let retention = app.feed.dead_retention();
    page.gauge(
        "busbar_dead_letters_size_bytes",
        "Bytes of dead letters on disk.",
        retention.bytes,
    );
    page.gauge(
        "busbar_dead_letters_expire_soon",
        "1 while the oldest open dead letters will soon be deleted by age or size.",
        u8::from(retention.expires_soon),
    );
    page.counter(
        "busbar_dead_letters_expired_total",
        "Open dead letters deleted by age or size.",
        retention.expired,
    );
}

fn gateways(page: &mut Page, app: &App) {
    type Pick = fn(&GatewayCounts) -> u64;
    let running = app.gateways.running();
    let rows: [(&str, &str, &str, Pick); 8] = [
        (
            "busbar_gateway_connections",
            "gauge",
            "Connections of each gateway.",
            |c| c.connections,
        ),
        (
            "busbar_gateway_connections_opened_total",
            "counter",
            "Connections of each gateway since it started.",
            |c| c.connections_total,
        ),
        (
            "busbar_gateway_refusals_total",
            "counter",
            "Connections refused, or closed for what the client did.",
            |c| c.refusals_total,
        ),
        (
            "busbar_gateway_logins_refused_total",
            "counter",
            "Logins refused.",
            |c| c.logins_refused_total,
        ),
        (
            "busbar_gateway_events_in_total",
            "counter",
            "Events taken.",
            |c| c.events_in_total,
        ),
        (
            "busbar_gateway_bytes_in_total",
            "counter",
            "Payload bytes taken.",
            |c| c.bytes_in_total,
        ),
        (
            "busbar_gateway_events_refused_total",
            "counter",
            "Events refused.",
            |c| c.events_refused_total,
        ),
        (
            "busbar_gateway_datagrams_lost_total",
            "counter",
            "Datagrams that the system dropped before they were read.",
            |c| c.datagrams_lost_total,
        ),
    ];
    let counts: Vec<_> = running.iter().map(|g| (g.name(), g.counts())).collect();
    for (name, kind, help, pick) in rows {
        page.head(name, kind, help);
        for (gateway, counts) in &counts {
            page.sample(name, &[("gateway", gateway)], pick(counts));
        }
    }
}

fn mqtt(page: &mut Page, app: &App) {
    let mqtt = app.mqtt();
    page.gauge(
        "busbar_mqtt_connections",
        "MQTT connections.",
        mqtt.connections,
    );
    page.gauge(
        "busbar_mqtt_sessions",
        "MQTT sessions, connected or not.",
        mqtt.sessions,
    );
    page.counter(
        "busbar_mqtt_connections_opened_total",
        "MQTT connections since the start.",
        mqtt.connections_total,
    );
    page.counter(
        "busbar_mqtt_refusals_total",
        "MQTT connections refused or closed for a fault.",
        mqtt.refusals_total,
    );
    page.counter(
        "busbar_mqtt_logins_refused_total",
        "MQTT logins refused.",
        mqtt.logins_refused_total,
    );
    page.counter(
        "busbar_mqtt_publishes_in_total",
        "MQTT publishes taken.",
        mqtt.publishes_in_total,
    );
    page.counter(
        "busbar_mqtt_payload_in_bytes_total",
        "Bytes of payload taken over MQTT.",
        mqtt.bytes_in_total,
    );
    page.counter(
        "busbar_mqtt_publishes_refused_total",
        "MQTT publishes refused.",
        mqtt.publishes_refused_total,
    );
    page.counter(
        "busbar_mqtt_publishes_out_total",
        "MQTT messages sent.",
        mqtt.publishes_out_total,
    );
    page.counter(
        "busbar_mqtt_expired_total",
        "MQTT messages not sent because they had expired.",
        mqtt.expired_total,
    );
    page.counter(
        "busbar_mqtt_too_large_total",
        "MQTT messages not sent because they were too large for the client.",
        mqtt.too_large_total,
    );
}

fn http(page: &mut Page, app: &App) {
    page.head(
        "busbar_http_responses_total",
        "counter",
        "Answers by class of status.",
    );
    for (class, count) in app.http.answers.all() {
        page.sample("busbar_http_responses_total", &[("class", class)], count);
    }
    let load = |value: &std::sync::atomic::AtomicU64| value.load(Ordering::Relaxed);
    page.counter(
        "busbar_http_requests_limited_total",
        "Requests refused because a peer asked too fast.",
        load(&app.http.answers.limited),
    );
    page.gauge(
        "busbar_http_connections",
        "Open connections.",
        load(&app.http.port.open),
    );
    page.counter(
        "busbar_http_connections_opened_total",
        "Connections accepted.",
        load(&app.http.port.accepted),
    );
    page.counter(
        "busbar_http_connections_refused_total",
        "Connections refused by a bound.",
        load(&app.http.port.refused),
    );
    let (accepted, rejected) = app.inlet.counts();
    page.counter(
        "busbar_http_events_accepted_total",
        "Events published over HTTP.",
        accepted,
    );
    page.counter(
        "busbar_http_events_rejected_total",
        "Events refused over HTTP.",
        rejected,
    );
    page.counter(
        "busbar_http_events_delivered_total",
        "Events delivered over HTTP.",
        app.http.delivered.count(),
    );
}

/// A page in the text format.
#[derive(Default)]
pub(super) struct Page(String);

impl Page {
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl fmt::Display) {
        self.head(name, "gauge", help);
        self.sample(name, &[], value);
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: impl fmt::Display) {
        self.head(name, "counter", help);
        self.sample(name, &[], value);
    }

    pub(super) fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl fmt::Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            self.0.push(if at == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"");
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        page.head("a_total", "counter", "What.");
        page.sample("a_total", &[("b", "x\"y\\z\n"), ("c", "d")], 7);
        assert_eq!(
            page.0,
            "# HELP a_total What.\n# TYPE a_total counter\na_total{b=\"x\\\"y\\\\z\\n\",c=\"d\"} 7\n"
        );
    }
}

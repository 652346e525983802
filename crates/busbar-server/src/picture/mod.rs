//! The node at one moment, as the API shows it: values without behaviour, taken by `camera` and kept by `feed`.

mod connections;
mod flows;
mod streams;

use std::collections::BTreeMap;

use axum::body::Bytes;
use busbar_access::Principal;
use busbar_event::time;
use serde::Serialize;

pub(crate) use connections::{ConnectionView, connection_view, readable_connections};
pub(crate) use flows::{FlowDetail, FlowSummary, flow_detail, flow_state};
pub(crate) use streams::{StreamSummary, stream_summary};

/// The state of the node.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct Live {
    /// The node at a glance.
    pub(crate) overview: Overview,
    /// The flows with all counters.
    pub(crate) flows: Vec<FlowDetail>,
}

impl Live {
    /// The same without what the caller may not read.
    pub(crate) fn readable_by(&self, caller: &Principal) -> Live {
        let mut flows = self.flows.clone();
        flows.retain(|flow| flow.may_be_read_by(caller));
        Live {
            overview: self.overview.readable_by(caller),
            flows,
        }
    }

    /// As a server-sent event.
    pub(crate) fn to_event(&self) -> Option<Bytes> {
        let mut event = b"event: live\ndata: ".to_vec();
        serde_json::to_writer(&mut event, self).ok()?;
        event.extend_from_slice(b"\n\n");
        Some(event.into())
    }
}

/// The node at a glance.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct Overview {
    /// The version that runs.
    pub(crate) version: &'static str,
    /// The node's clock.
    pub(crate) time: String,
    /// Seconds since it started.
    pub(crate) uptime_s: u64,
    /// Memory of the process.
    pub(crate) memory_bytes: u64,
    /// Cores it may use.
    pub(crate) cores: usize,
    /// Cores it used in the last second.
    pub(crate) cpu: f64,
    /// The weakest durability of any stream: `fsync` or `memory`.
    pub(crate) durability: &'static str,
    /// Events committed in the last second.
    pub(crate) events_in_per_s: u64,
    /// Events delivered to subscribers, and written by flows, in the last second.
    pub(crate) events_out_per_s: u64,
    /// Rates of the last five minutes.
    pub(crate) history: History,
    /// The streams.
    pub(crate) streams: Vec<StreamSummary>,
    /// The flows.
    pub(crate) flows: Vec<FlowSummary>,
    /// What was saved in the project's folder and does not check, while the version before goes on.
    pub(crate) refused: Option<RefusedSave>,
    /// The connections.
    pub(crate) connections: Vec<ConnectionView>,
    /// Dead letters.
    pub(crate) dead: Dead,
    /// The disk under the data folder.
    pub(crate) disk: Disk,
    /// MQTT clients that are connected.
    pub(crate) sessions: u64,
    /// Bytes between sockets and disk, and how many there may be.
    pub(crate) budget: Budget,
}

/// Files that were saved and do not check. `GET /api/v1/project` has all of it.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct RefusedSave {
    /// When they were looked at.
    pub(crate) time: String,
    /// How many mistakes there are.
    pub(crate) count: usize,
    /// The first one: file, line, column and message.
    #[schema(value_type = Option<crate::problem::DiagnosticView>)]
    pub(crate) first: Option<busbar_catalog::Diagnostic>,
}

impl From<crate::deploy::RefusedSave> for RefusedSave {
    fn from(refused: crate::deploy::RefusedSave) -> RefusedSave {
        RefusedSave {
            time: time::text(refused.time),
            count: refused.diagnostics.len(),
            first: refused.diagnostics.into_iter().next(),
        }
    }
}

/// Rates, oldest first.
#[derive(Clone, Default, Serialize, utoipa::ToSchema)]
pub(crate) struct History {
    /// Seconds between two values.
    pub(crate) step_s: u32,
    /// Events in a second, in.
    #[serde(rename = "in")]
    pub(crate) input: Vec<u64>,
    /// Events in a second, out.
    #[serde(rename = "out")]
    pub(crate) output: Vec<u64>,
}

/// Dead letters.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct Dead {
    /// How many are open: neither re-driven nor discarded.
    pub(crate) count: u64,
    /// Whether the oldest of them will soon be deleted by age or size.
    pub(crate) expires_soon: bool,
}

/// The disk under the data folder.
#[derive(Clone, Copy, Default, Serialize, utoipa::ToSchema)]
pub(crate) struct Disk {
    /// Bytes the streams take.
    pub(crate) used_bytes: u64,
    /// Bytes that are free.
    pub(crate) free_bytes: u64,
    /// Bytes in all.
    pub(crate) total_bytes: u64,
}

/// The byte budget.
#[derive(Clone, Copy, Default, Serialize, utoipa::ToSchema)]
pub(crate) struct Budget {
    /// Bytes in use.
    pub(crate) used_bytes: u64,
    /// Bytes at which gateways stop reading.
    pub(crate) max_bytes: u64,
}

impl Overview {
    /// The same without the streams, flows and connections that the caller may not read.
    pub(crate) fn readable_by(&self, caller: &Principal) -> Overview {
        let mut overview = self.clone();
        let connections = std::mem::take(&mut overview.connections);
        overview.connections = readable_connections(connections, caller, &overview.flows);
        overview
            .streams
            .retain(|stream| caller.may_read_stream(&stream.name));
        overview.flows.retain(|flow| flow.may_be_read_by(caller));
        // What is wrong with a file may quote it.
        overview.refused = None;
        overview
    }
}

/// Rates of the last minute, oldest first.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Rates {
    /// Seconds between two values.
    pub(crate) step_s: u32,
    /// Events a second of each stream.
    pub(crate) streams: BTreeMap<String, Vec<u64>>,
    /// Events a second of each flow.
    pub(crate) flows: BTreeMap<String, Vec<u64>>,
}

//! Other systems: one folder a connector, listed by hand in [`registry`].
//!
//! A connector reads its options, opens a source or a sink, and says of each failure whether it is
//! worth trying again. What is absent: connectors do not retry, batch, count, or know who uses them;
//! `busbar-flow` wraps all of that around them.

mod file;
mod host;
mod http;
mod json;
pub mod limits;
mod mqtt;
mod secret;
mod tls;
mod topic;

use std::sync::Arc;

use busbar_flow::{Connector, Connectors};

/// Every connector there is, in alphabetical order.
pub fn registry() -> Connectors {
    let all: [Arc<dyn Connector>; 4] = [
        Arc::new(file::File),
        Arc::new(host::Host),
        Arc::new(http::Http),
        Arc::new(mqtt::Mqtt),
    ];
    Connectors::new(all)
}

//! A node: everything below put together, and the HTTP side of it.
//!
//! [`Node::start`] opens the data folder, the bus, the tables and the flows of a project, and then
//! the ports. HTTP is one port for all: the REST API (described at `/api/openapi.json`), publishing
//! and subscribing, the console, MQTT over WebSocket at `/mqtt`, health and metrics.
//!
//! What is not here: protocols such as MQTT (`busbar-mqtt-gateway`), what flows do (`busbar-flow`), what users may
//! do (`busbar-access`).

mod actor;
mod answer;
mod api;
mod apis;
mod app;
mod assets;
mod audit;
mod backing;
mod body;
mod camera;
mod compare;
mod copy_table;
mod counts;
mod deploy;
mod events;
mod exit;
mod feed;
mod gateways;
mod guard;
mod http;
mod http_state;
mod idle;
mod lifecycle;
pub mod limits;
mod node;
mod orchestrations;
mod peer;
mod picture;
mod problem;
mod process;
mod relations;
mod repair;
mod rights;
mod secrets;

pub use deploy::FolderRead;
pub use exit::{StartError, exit_code};
pub use node::{Node, NodeOptions, Redeployed};

/// The OpenAPI document of the REST API, as a node serves it at `/api/openapi.json`.
pub fn openapi() -> String {
    api::routes().1.to_json().unwrap_or_default()
}

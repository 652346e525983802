//! A project: every resource of a bundle, by kind and name.

use std::collections::BTreeMap;

use busbar_bus::StreamSpec;
use busbar_plugin::Package;
use busbar_table::TableSpec;

use crate::api::ApiSpec;
use crate::bundle::Bundle;
use crate::connection::ConnectionSpec;
use crate::flow::FlowSpec;
use crate::gateway::GatewaySpec;
use crate::orchestration::OrchestrationSpec;
use crate::tree::Source;
use crate::unread::UnreadResources;

/// Every resource, by kind and name.
#[derive(Clone, Debug, Default)]
pub struct Project {
    /// `streams/`.
    pub streams: BTreeMap<String, Parsed<StreamSpec>>,
    /// `tables/`.
    pub tables: BTreeMap<String, Parsed<TableSpec>>,
    /// `connections/`.
    pub connections: BTreeMap<String, Parsed<ConnectionSpec>>,
    /// `gateways/`.
    pub gateways: BTreeMap<String, Parsed<GatewaySpec>>,
    /// `flows/`.
    pub flows: BTreeMap<String, Parsed<FlowSpec>>,
    /// `orchestrations/`.
    pub orchestrations: BTreeMap<String, Parsed<OrchestrationSpec>>,
    /// `apis/`.
    pub apis: BTreeMap<String, Parsed<ApiSpec>>,
    /// `plugins/`.
    pub plugins: BTreeMap<String, Parsed<Package>>,
    /// The files it was read from.
    pub bundle: Bundle,
    /// Resources that are not here because their files have errors.
    pub unread: UnreadResources,
}

/// A resource and the file that says it.
#[derive(Clone, Debug)]
pub struct Parsed<T> {
    /// What the file says.
    pub spec: T,
    /// The file, to point into.
    pub source: Source,
}

impl Project {
    /// The specs of the streams, for the bus.
    pub fn stream_specs(&self) -> BTreeMap<String, StreamSpec> {
        self.streams
            .iter()
            .map(|(name, p)| (name.clone(), p.spec.clone()))
            .collect()
    }

    /// The specs of the tables.
    pub fn table_specs(&self) -> BTreeMap<String, TableSpec> {
        self.tables
            .iter()
            .map(|(name, p)| (name.clone(), p.spec.clone()))
            .collect()
    }
}

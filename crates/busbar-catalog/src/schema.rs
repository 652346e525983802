//! JSON Schemas of the files, for editors, docs and the console's forms.

use busbar_bus::StreamSpec;
use busbar_plugin::PluginSpec;
use busbar_table::TableSpec;
use serde_json::{Value as Json, json};

use crate::api::ApiSpec;
use crate::bundle::Kind;
use crate::config::Config;
use crate::flow::FlowSpec;
use crate::gateway::GatewaySpec;
use crate::orchestration::OrchestrationSpec;

/// The JSON Schema of the files of a kind. The options of connections belong to the connectors; what is
/// here says which keys all connections have.
pub fn schema(kind: Kind) -> Json {
    match kind {
        Kind::Config => schemars::schema_for!(Config).to_value(),
        Kind::Stream => schemars::schema_for!(StreamSpec).to_value(),
        Kind::Table => schemars::schema_for!(TableSpec).to_value(),
        Kind::Flow => schemars::schema_for!(FlowSpec).to_value(),
        Kind::Orchestration => schemars::schema_for!(OrchestrationSpec).to_value(),
        Kind::Api => schemars::schema_for!(ApiSpec).to_value(),
        Kind::Gateway => schemars::schema_for!(GatewaySpec).to_value(),
        Kind::Plugin => schemars::schema_for!(PluginSpec).to_value(),
        Kind::Connection => json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "ConnectionSpec",
            "description": "Another system, and how to reach it; one key names the kind of connector.",
            "type": "object",
            "properties": {
                "description": { "type": "string", "description": "What the connection is for." },
                "topic": {
                    "type": "string",
                    "description": "For sources: the topic of the events, a template."
                },
                "enabled": { "type": "boolean", "default": true }
            },
            "minProperties": 1
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_schema_with_descriptions() {
        for kind in [
            Kind::Config,
            Kind::Stream,
            Kind::Table,
            Kind::Flow,
            Kind::Connection,
            Kind::Gateway,
            Kind::Orchestration,
            Kind::Api,
            Kind::Plugin,
        ] {
            let schema = schema(kind);
            assert!(schema["properties"].is_object(), "{kind:?}: {schema}");
        }
        let flow = schema(Kind::Flow);
        assert_eq!(flow["additionalProperties"], json!(false));
        assert!(
            flow["properties"]["from"].to_string().contains("OneOrMany"),
            "{flow}"
        );
    }
}

//! What is on the other side: the server's version, and its indices with their fields.

use std::collections::BTreeMap;

use busbar_connector::{Survey, SurveyedColumn, SurveyedTable};
use busbar_event::Error;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::link::{Carries, ElasticLink};

/// Looks at the server, and at its indices where they are asked for.
///
/// # Errors
/// *Transient* without an answer, *configuration* where the server refuses.
pub async fn survey(link: &ElasticLink, tables: bool) -> Result<Survey, Error> {
    let mut survey = Survey {
        server: server(link).await?,
        tables: Vec::new(),
    };
    if !tables {
        return Ok(survey);
    }
    #[derive(Deserialize)]
    struct IndexCount {
        index: String,
        #[serde(rename = "docs.count")]
        count: Option<String>,
    }
    let counts: Vec<IndexCount> = read(
        link,
        "/_cat/indices?format=json&h=index,docs.count&expand_wildcards=open",
    )
    .await?;
    let counts: BTreeMap<String, Option<u64>> = counts
        .into_iter()
        .map(|index| {
            (
                index.index,
                index.count.and_then(|count| count.parse().ok()),
            )
        })
        .collect();
    let mappings: BTreeMap<String, Value> = read(link, "/_mapping?expand_wildcards=open").await?;
    for (name, mapping) in mappings {
        // The server's own.
        if name.starts_with('.') {
            continue;
        }
        let mut columns = vec![SurveyedColumn {
            name: "_id".to_owned(),
            kind: "keyword".to_owned(),
            key: true,
            required: false,
        }];
        fields("", &mapping["mappings"]["properties"], &mut columns);
        survey.tables.push(SurveyedTable {
            schema: String::new(),
            rows: counts.get(&name).copied().flatten(),
            name,
            columns,
        });
    }
    Ok(survey)
}

/// What the server calls itself.
async fn server(link: &ElasticLink) -> Result<String, Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct ServerRoot {
        version: ServerVersion,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct ServerVersion {
        number: String,
        distribution: String,
    }
    let answer = link
        .ask("GET", "/".to_owned(), Carries::Nothing, Bytes::new())
        .await?;
    if answer.status == 200 {
        return match serde_json::from_slice::<ServerRoot>(&answer.body) {
            Ok(ServerRoot { version }) if !version.number.is_empty() => {
                let name = match version.distribution.as_str() {
                    "opensearch" => "OpenSearch",
                    _ => "Elasticsearch",
                };
                Ok(format!("{name} {}", version.number))
            }
            _ => Err(link.strange(&answer)),
        };
    }
    if !matches!(answer.status, 400 | 404 | 405) {
        return Err(link.refused(&answer, "/"));
    }
    // Builds without the module that answers there.
    let nodes: Value = read(link, "/_nodes/_local?filter_path=nodes.*.version").await?;
    let node = nodes["nodes"]
        .as_object()
        .and_then(|all| all.values().next());
    let version = node.and_then(|node| node["version"].as_str());
    version
        .map(|version| format!("Elasticsearch {version}"))
        .ok_or_else(|| link.strange(&answer))
}

async fn read<T: DeserializeOwned>(link: &ElasticLink, path: &str) -> Result<T, Error> {
    let answer = link
        .ask("GET", path.to_owned(), Carries::Nothing, Bytes::new())
        .await?;
    if answer.status != 200 {
        return Err(link.refused(&answer, "*"));
    }
    serde_json::from_slice(&answer.body).map_err(|_| link.strange(&answer))
}

/// The fields of a mapping, with those of objects as `object.field`.
fn fields(within: &str, properties: &Value, out: &mut Vec<SurveyedColumn>) {
    for (name, field) in properties.as_object().into_iter().flatten() {
        let name = format!("{within}{name}");
        match field["type"].as_str() {
            Some(kind) if kind != "nested" => out.push(SurveyedColumn {
                name,
                kind: kind.to_owned(),
                key: false,
                required: false,
            }),
            _ => fields(&format!("{name}."), &field["properties"], out),
        }
    }
}

//! What flows can name, from a project's files alone or from what runs; and checking a project without
//! running it.

use std::sync::Arc;

use busbar_bus::{Bus, EventTimes, StreamSpec};
use busbar_catalog::{Diagnostic, INBOX, Parsed, Project, suggest};
use busbar_event::format::FormatSpec;
use busbar_event::{Class, Error};
use busbar_log::{Clock, SystemClock};
use busbar_plugin::Package;
use busbar_table::{StandIn, TableSpec, Tables};

use crate::api::check_apis;
use crate::compile::{NoPlan, StreamInfo, World, compile};
use crate::operator::KnownPlugin;
use crate::orchestration::check_orchestrations;
use crate::reader::Input;
use crate::services::known_services;
use busbar_connector::{Connector, Connectors};

/// Checks everything that can be checked without running: types of expressions, columns of tables, options
/// of connections. Fields and topology are checked by [`Project::parse`] before.
pub fn check(project: &Project, connectors: &Connectors) -> Vec<Diagnostic> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (world, mut bad) = World::of_project(project, connectors, &clock);
    for (name, flow) in &project.flows {
        if project.unread.is_in(&flow.spec) {
            continue;
        }
        let compiled = compile(name, &flow.spec, &flow.source, &world);
        if let Ok(plan) = &compiled {
            bad.extend(plan.warnings.iter().cloned());
        }
        if let Err(NoPlan::Wrong(wrong)) = compiled {
            // Names were checked before: what is missing in this world has an error of its own.
            let known = |d: &Diagnostic| {
                !matches!(
                    d.error().code(),
                    "catalog.unknown-stream"
                        | "catalog.unknown-table"
                        | "catalog.unknown-connection"
                )
            };
            bad.extend(wrong.into_iter().filter(known));
        }
    }
    bad.extend(check_orchestrations(project, &world));
    bad.extend(check_apis(project));
    for connection in project.connections.values() {
        if let Some(connector) = connectors.get(&connection.spec.kind) {
            bad.extend(connector.warnings(&connection.spec, project));
        }
    }
    bad.retain(|found| !project.unread.explains(found));
    bad
}

impl World {
    /// The world of a project's files: nothing is opened. Streams whose columns are not declared are there without columns.
    /// `clock` says when rows are written to tables.
    pub fn of_project(
        project: &Project,
        connectors: &Connectors,
        clock: &Arc<dyn Clock>,
    ) -> (World, Vec<Diagnostic>) {
        let mut world = World::default();
        let mut bad = Vec::new();
        for (name, stream) in &project.streams {
            match declared(&stream.spec) {
                Ok(input) => {
                    let info = info(&stream.spec, input);
                    world.streams.insert(name.clone(), info);
                }
                Err(error) => {
                    bad.push(stream.source.diagnostic(&["schema".into()], None, error));
                    let info = info(&stream.spec, None);
                    world.streams.insert(name.clone(), info);
                }
            }
        }
        world.streams.entry(INBOX.to_owned()).or_insert_with(inbox);
        for (name, table) in &project.tables {
            if let Err(error) = table.spec.check(name) {
                let key = match error.code() {
                    "table.ttl" => Some("ttl"),
                    "table.hot-bounds" | "table.hot-there-bound" | "table.hot-prefix" => {
                        Some("hot")
                    }
                    _ => None,
                };
                bad.push(table.source.diagnostic_about(key, error));
                continue;
            }
            match StandIn::new(name, &table.spec, Arc::clone(clock)) {
                Ok(table) => {
                    world.tables.insert(name.clone(), Arc::new(table));
                }
                Err(error) => bad.push(table.source.diagnostic_about(None, error)),
            }
        }
        let specs = project.tables.iter();
        let specs = specs.map(|(name, table)| (name.clone(), table.spec.clone()));
        let specs: std::collections::BTreeMap<_, _> = specs.collect();
        for (name, table) in &project.tables {
            if let Err(error) = table.spec.check_move(name, &specs) {
                bad.push(table.source.diagnostic_about(Some("moves_to"), error));
            }
        }
        for (name, plugin) in &project.plugins {
            let package = Arc::new(plugin.spec.clone());
            let known = KnownPlugin {
                package,
                running: None,
                failed: None,
            };
            world.plugins.insert(name.clone(), known);
            bad.extend(unknown_tables(project, plugin));
        }
        bad.extend(world.add_connections(project, connectors));
        bad.extend(unknown_databases(project, connectors));
        (world, bad)
    }

    /// The world as it runs: inferred columns and columns that tables have grown are known.
    pub(crate) fn of_bus(
        bus: &Bus,
        tables: &Tables,
        project: &Project,
        connectors: &Connectors,
    ) -> Result<World, Error> {
        let mut world = World::default();
        let names = project.streams.keys().map(String::as_str);
        for name in names.chain([INBOX]) {
            let Some(stream) = bus.stream(name) else {
                continue;
            };
            let spec = stream.spec();
            let columns = stream.schema()?;
            let input = (columns.is_some() || spec.format == FormatSpec::Raw).then(|| Input {
                format: spec.format.clone(),
                columns,
                tags: spec.tags.clone(),
            });
            let info = StreamInfo {
                partitions: stream.partitions().len() as u16,
                ..info(&spec, input)
            };
            world.streams.insert(name.to_owned(), info);
        }
        for name in project.tables.keys() {
            if let Some(table) = tables.table(name) {
                world.tables.insert(name.clone(), table);
            }
        }
        // They were checked before anything was changed.
        let _ = world.add_connections(project, connectors);
        Ok(world)
    }

    /// Takes the columns that the streams of a project's files declare in place of those that they have now.
    pub(crate) fn take_declared(&mut self, project: &Project) {
        for (name, stream) in &project.streams {
            let known = self.streams.get_mut(name);
            if let (Some(known), Ok(Some(input))) = (known, declared(&stream.spec)) {
                known.input = Some(input);
            }
        }
    }

    fn add_connections(&mut self, project: &Project, connectors: &Connectors) -> Vec<Diagnostic> {
        let mut bad = Vec::new();
        let connections = project.connections.iter();
        let connections = connections.map(|(name, connection)| (name, &connection.spec));
        self.services = known_services(connections, connectors);
        for (name, connection) in &project.connections {
            let roles = match connectors.check(&connection.spec) {
                Ok(roles) => roles,
                Err(diagnostic) => {
                    bad.push(diagnostic);
                    continue;
                }
            };
            self.connections
                .insert(name.clone(), (connection.spec.clone(), roles.sink));
        }
        bad
    }
}

/// Connections that tables are to be kept in and that there are not, or that lead to nothing that keeps such tables.
fn unknown_databases(project: &Project, connectors: &Connectors) -> Vec<Diagnostic> {
    let mut bad = Vec::new();
    for (name, table) in &project.tables {
        let TableSpec {
            hot,
            relational,
            wide,
            ..
        } = &table.spec;
        let relational = relational.iter().flat_map(|relational| {
            let named = [
                ("connection", &relational.connection),
                ("replica", &relational.replica),
            ];
            named.map(|(option, connection)| ("relational", option, connection))
        });
        let wide = wide
            .iter()
            .map(|wide| ("wide", "connection", &wide.connection));
        let hot = hot.iter().map(|hot| ("hot", "connection", &hot.connection));
        for (engine, option, connection) in relational.chain(wide).chain(hot) {
            let Some(connection) = connection else {
                continue;
            };
            let keeps = |connector: &dyn Connector| match engine {
                "wide" => connector.keeps_cells(),
                "hot" => connector.keeps_hot(),
                _ => connector.keeps_tables(),
            };
            let known = project.connections.get(connection).map(|known| &known.spec);
            let new = |code| {
                Error::new(Class::Configuration, code)
                    .with("table", name)
                    .with("connection", connection)
            };
            let error = match known {
                Some(spec) => match connectors.get(&spec.kind) {
                    Some(connector) if !keeps(&**connector) => {
                        new("table.connection-kind").with("kind", &spec.kind)
                    }
                    Some(_) if !spec.enabled => new("table.no-connection"),
                    // A kind that is not known is told of with the connection.
                    _ => continue,
                },
                None => new("table.no-connection"),
            };
            let names = project.connections.keys().map(String::as_str);
            let help = match known {
                Some(_) => None,
                None => suggest(connection, names),
            };
            let place = [engine.into(), option.into()];
            let diagnostic = table.source.diagnostic(&place, None, error);
            bad.push(diagnostic.with_help(help));
        }
    }
    bad
}

/// Tables that a plug-in wants to read and that there are not.
fn unknown_tables(project: &Project, plugin: &Parsed<Package>) -> Vec<Diagnostic> {
    let tables = plugin.spec.spec.tables.iter().enumerate();
    let unknown = tables.filter(|(_, table)| !project.tables.contains_key(*table));
    unknown
        .map(|(at, table)| {
            let error =
                Error::new(Class::Configuration, "catalog.unknown-table").with("name", table);
            let help = suggest(table, project.tables.keys().map(String::as_str));
            let place = ["tables".into(), at.into()];
            plugin
                .source
                .diagnostic(&place, None, error)
                .with_help(help)
        })
        .collect()
}

fn declared(spec: &StreamSpec) -> Result<Option<Input>, Error> {
    let columns = spec
        .schema
        .as_ref()
        .map(|schema| schema.schema())
        .transpose()?;
    if columns.is_some() && spec.format == FormatSpec::Raw {
        return Err(Error::new(Class::Configuration, "flow.schema-raw"));
    }
    Ok(
        (columns.is_some() || spec.format == FormatSpec::Raw).then(|| Input {
            format: spec.format.clone(),
            columns,
            tags: spec.tags.clone(),
        }),
    )
}

fn info(spec: &StreamSpec, input: Option<Input>) -> StreamInfo {
    StreamInfo {
        input,
        // A rule that is wrong was told of when the stream was checked.
        times: EventTimes::of("", spec).ok(),
        topics: spec.topics.clone(),
        partitions: spec.partitions,
        lateness_micros: spec.lateness.map_or(0, |span| span.as_micros()),
    }
}

fn inbox() -> StreamInfo {
    StreamInfo {
        times: None,
        partitions: 1,
        lateness_micros: 0,
        input: Some(Input {
            format: FormatSpec::Raw,
            columns: None,
            tags: None,
        }),
        topics: Vec::new(),
    }
}

//! Resources whose files could not be read, and what follows from that for those that name them.

use std::collections::BTreeSet;

use crate::bundle::{Bundle, Kind};
use crate::diagnostic::Diagnostic;
use crate::flow::{FlowSpec, OutputTarget};

/// Resources whose files have errors of their own. Whether those that name them are right cannot be said.
#[derive(Clone, Debug, Default)]
pub struct UnreadResources(BTreeSet<(Kind, String)>);

impl UnreadResources {
    /// Adds the resource of a file.
    pub(crate) fn add(&mut self, file: &str) {
        if let Ok((kind, name)) = Bundle::classify(file) {
            self.0.insert((kind, name.to_owned()));
        }
    }

    /// Whether all files could be read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there are resources of this kind among them.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.0.iter().any(|(of, _)| *of == kind)
    }

    pub(crate) fn contains(&self, kind: Kind, name: &str) -> bool {
        self.0.iter().any(|(of, its)| *of == kind && its == name)
    }

    /// Whether an error says no more than that one of them is missing.
    pub fn explains(&self, found: &Diagnostic) -> bool {
        let error = found.error();
        let (kind, argument) = match error.code() {
            "catalog.unknown-stream" => (Kind::Stream, "name"),
            "flow.from-table" => (Kind::Stream, "table"),
            "catalog.unknown-table" => (Kind::Table, "name"),
            "table.moves-target" => (Kind::Table, "target"),
            "catalog.unknown-connection" => (Kind::Connection, "name"),
            "table.no-connection" => (Kind::Connection, "connection"),
            "catalog.unknown-orchestration" => (Kind::Orchestration, "name"),
            "catalog.unknown-plugin" => (Kind::Plugin, "name"),
            "catalog.plugin-file" | "catalog.connection-alone" => {
                let of = Bundle::classify(found.file());
                return of.is_ok_and(|(kind, name)| self.contains(kind, name));
            }
            _ => return false,
        };
        let mut args = error.args().iter();
        args.any(|(of, name)| *of == argument && self.contains(kind, name))
    }

    /// Whether a flow names one of them.
    pub fn is_in(&self, flow: &FlowSpec) -> bool {
        flow.streams().any(|name| self.contains(Kind::Stream, name))
            || flow.read_tables().any(|name| {
                // `pg.public.patient` is a table of a connection.
                let connection = name.split_once('.').map(|(connection, _)| connection);
                self.contains(Kind::Table, name)
                    || connection.is_some_and(|name| self.contains(Kind::Connection, name))
            })
            || flow.all_steps().iter().any(|step| {
                let plugin = step.spec.plugin();
                plugin.is_some_and(|name| self.contains(Kind::Plugin, name))
            })
            || flow
                .calls()
                .any(|(_, call)| self.contains(Kind::Connection, &call.connection))
            || flow.to.iter().any(|output| match &output.target {
                OutputTarget::Stream { stream, .. } => self.contains(Kind::Stream, stream),
                OutputTarget::Table(name) => self.contains(Kind::Table, name),
                OutputTarget::Connection(name) => self.contains(Kind::Connection, name),
                OutputTarget::Topic(_) | OutputTarget::Relay(_) => false,
            })
    }
}

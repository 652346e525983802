//! Names that a flow's file uses and that there are not.

use busbar_catalog::{OutputSpec, PathItem, suggest};
use busbar_event::{Class, Error};

use super::{Compiler, Target};

impl Compiler<'_> {
    /// Whether there is what an output names.
    pub(super) fn known(&mut self, i: usize, output: &OutputSpec, target: &Target) {
        let (name, code, known): (&str, &'static str, Vec<&String>) = match target {
            Target::Topic | Target::Relay | Target::Stage(_) | Target::Results(_) => return,
            Target::Stream(n) => (
                n,
                "catalog.unknown-stream",
                self.world.streams.keys().collect(),
            ),
            Target::Table(n) => (
                n,
                "catalog.unknown-table",
                self.world.tables.keys().collect(),
            ),
            Target::Connection(n) => (
                n,
                "catalog.unknown-connection",
                self.world.connections.keys().collect(),
            ),
        };
        let path = [
            PathItem::Key("to"),
            PathItem::Index(i),
            PathItem::Key(output.kind()),
        ];
        if !known.iter().any(|k| *k == name) {
            let help = suggest(name, known.iter().map(|k| k.as_str()));
            let error = Error::new(Class::Configuration, code).with("name", name);
            self.bad
                .push(self.source.diagnostic(&path, None, error).with_help(help));
        } else if let Target::Connection(n) = target
            && self.world.connections.get(n).is_some_and(|(_, sink)| !sink)
        {
            let error = Error::new(Class::Configuration, "flow.not-a-sink").with("connection", n);
            self.bad.push(self.source.diagnostic(&path, None, error));
        }
    }

    /// A stream that is not there; perhaps it is a table.
    pub(super) fn unknown_input(&mut self, i: usize, stream: &str) {
        let path = [PathItem::Key("from"), PathItem::Index(i)];
        if self.world.tables.contains_key(stream) {
            let error = Error::new(Class::Configuration, "flow.from-table").with("table", stream);
            self.bad.push(self.source.diagnostic(&path, None, error));
            return;
        }
        let help = suggest(stream, self.world.streams.keys().map(String::as_str));
        let error = Error::new(Class::Configuration, "catalog.unknown-stream").with("name", stream);
        self.bad
            .push(self.source.diagnostic(&path, None, error).with_help(help));
    }
}

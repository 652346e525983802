//! What SQL can be asked about: the streams and tables of the node.

use std::sync::Arc;

use busbar_bus::Bus;
use busbar_event::Error;
use busbar_sql::{Relation, Relations, StreamRelation};
use busbar_table::Tables;

/// Streams and tables by name. A table goes before a stream of the same name.
pub(crate) struct NodeRelations {
    pub(crate) bus: Bus,
    pub(crate) tables: Arc<Tables>,
}

impl Relations for NodeRelations {
    fn names(&self) -> Vec<String> {
        let mut names = self.tables.names();
        let streams = self.bus.streams();
        names.extend(streams.iter().map(|stream| stream.name().to_owned()));
        names.sort_unstable();
        names.dedup();
        names
    }

    fn relation(&self, name: &str) -> Result<Option<Relation>, Error> {
        if let Some(table) = self.tables.table(name) {
            return Ok(Some(Relation::Table(table)));
        }
        match self.bus.stream(name) {
            Some(stream) => Ok(Some(Relation::Stream(StreamRelation::of(&stream)?))),
            None => Ok(None),
        }
    }
}

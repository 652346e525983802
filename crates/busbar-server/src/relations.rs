//! What SQL can be asked about: the streams and tables of the node.

use std::sync::Arc;

use busbar_access::Principal;
use busbar_bus::Bus;
use busbar_connector::Databases;
use busbar_event::{Class, Error};
use busbar_sql::{Relation, Relations, StreamRelation};
use busbar_table::Tables;

/// Streams and tables by name. A table goes before a stream of the same name.
#[derive(Clone)]
pub(crate) struct NodeRelations {
    pub(crate) bus: Bus,
    pub(crate) tables: Arc<Tables>,
    pub(crate) databases: Databases,
}

impl NodeRelations {
    /// Only what `reader` may read: other names are not listed, and refused where they are asked for.
    pub(crate) fn readable_by(&self, reader: Principal) -> impl Relations + use<> {
        Readable {
            all: self.clone(),
            reader,
        }
    }
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
            None => Ok(self.databases.table(name)?.map(Relation::Table)),
        }
    }
}

/// What one principal may read.
struct Readable {
    all: NodeRelations,
    reader: Principal,
}

impl Readable {
    fn may_read(&self, name: &str) -> bool {
        if self.all.tables.table(name).is_some() {
            self.reader.may_read_table(name)
        } else if self.all.bus.stream(name).is_none() && self.all.databases.find(name).is_some() {
            self.reader.may_query_database(name)
        } else {
            self.reader.may_read_stream(name)
        }
    }
}

impl Relations for Readable {
    fn names(&self) -> Vec<String> {
        let mut names = self.all.names();
        names.retain(|name| self.may_read(name));
        names
    }

    fn relation(&self, name: &str) -> Result<Option<Relation>, Error> {
        // Whether a name that may not be read exists is nobody's business, so it is asked first.
        if !self.may_read(name) {
            return Err(Error::new(Class::Permanent, "access.read-denied")
                .with("name", busbar_event::quote(name)));
        }
        self.all.relation(name)
    }
}

//! Begins to follow a table.

use std::collections::BTreeMap;

use busbar_change::ColumnsMark;
use busbar_change::event;
use busbar_connector::SourceContext;

use super::collect::{Collector, Table};
use crate::topic::TopicTemplate;

/// What the options say of the tables that are followed.
pub struct BeginTables<'a> {
    pub topic: &'a TopicTemplate,
    /// Whether what is in the tables comes before their changes.
    pub snapshot: bool,
    pub generation: u32,
    /// How often the snapshot of a table, as `schema.table`, was begun anew.
    pub again: &'a BTreeMap<String, u32>,
}

impl BeginTables<'_> {
    /// The table of this name, with what is known of its snapshot. `columns` are those that it has now, where they are known.
    pub fn begin(
        &self,
        (collector, context): (&mut Collector, &SourceContext),
        (schema, name): (&str, &str),
        columns: Option<ColumnsMark>,
    ) -> Table {
        let mut topic = String::new();
        let value = |variable: &str| match variable {
            "connection" => Some(context.name.to_string()),
            "schema" => Some(schema.to_owned()),
            _ => Some(name.to_owned()),
        };
        self.topic.write(value, &mut topic);
        let whole = format!("{schema}.{name}");
        collector.follow(&whole);
        let again = self.again.get(&whole).copied().unwrap_or(0);
        let now = context.clock.now_micros();
        let mut table = Table::new(&whole, topic, again, self.snapshot, collector, now);
        if table.progress.columns.is_none() {
            match (table.has_begun(), columns) {
                (false, columns) => table.progress.columns = columns,
                (true, Some(columns)) => table.tell(columns),
                (true, None) => {}
            }
        }
        if !table.progress.done {
            // Rows that are gone since the snapshot before are known by their absence only.
            let mut emptied = Vec::new();
            event::truncate(&mut emptied);
            let anew =
                table.progress.empties || !table.has_begun() && (self.generation > 0 || again > 0);
            table.progress.empties = false;
            collector.begin_snapshot(&mut table, anew.then_some(&emptied));
        }
        table
    }
}

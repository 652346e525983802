//! Writes rows by their keys, each with a time that says which write counts.
//!
//! Before the rows of a delivery are written, its position is noted in a table together with a time. Each row is written
//! `USING TIMESTAMP`: that time and the number of the row. A delivery that comes again after a crash with the same rows is written
//! again with the same times, which changes nothing; one with other rows gets a later time. A request that is carried out late has
//! an earlier time than what was written since, and changes nothing either.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use busbar_connector::{Delivery, Sink, SinkContext, Work, Written};
use busbar_event::hash::fnv1a;
use busbar_event::{Class, Error};
use busbar_log::Clock;

use super::cells::{CellValues, CellWriter};
use super::frame::{
    CqlAnswer, CqlBound, CqlPage, CqlPrepared, CqlRefusal, CqlRequest, write_unset, write_value,
};
use super::limits::{BATCH_BYTES, BATCH_ROWS, KEY_BYTES_MAX, PAGE_ROWS, ROW_BYTES_MAX};
use super::link::{CassandraLink, CassandraServer, CqlFailed, quoted, strange};
use super::note::{WriteNote, WriteNotes};
use super::table::{CassandraTable, with_values};
use super::{CassandraMode, CassandraNulls, CassandraWrite};
use crate::change::plan::Refused;
use crate::change::{Op, kept};

/// Writes rows to a table.
pub struct CassandraSink {
    server: CassandraServer,
    options: CassandraWrite,
    schema: SchemaRef,
    clock: Arc<dyn Clock>,
    link: Option<CassandraLink>,
    plan: Option<Arc<CassandraPlan>>,
    notes: WriteNotes,
    noted: Option<WriteNote>,
}

/// How rows become statements.
struct CassandraPlan {
    written: String,
    /// The columns that are written; those of the key first, in its order.
    columns: Vec<CellWriter>,
    /// How many of them are of the key, and how many of those say where a row is kept.
    key: usize,
    partition: usize,
    change: Option<usize>,
    unchanged: Option<usize>,
    mode: Op,
    keeps_nulls: bool,
    ttl_s: Option<u64>,
}

/// The statements of a delivery.
#[derive(Default)]
struct ReadyWrites {
    /// Statements in CQL, each with how many values it takes.
    statements: Vec<(String, usize)>,
    writes: Vec<ReadyWrite>,
    /// The bytes of all values, with room for the times.
    values: Vec<u8>,
    /// The row that empties the table; what came before it is left out.
    emptied: Option<usize>,
    refused: Vec<Refused>,
}

/// The statement of a row.
struct ReadyWrite {
    row: usize,
    statement: usize,
    values: Range<usize>,
    /// Where its time stands among the values.
    time: usize,
    /// The values that say where the row is kept.
    partition: Range<usize>,
}

/// The statements that there are: the deletion, and insertions by the columns that they leave out.
type KnownStatements = HashMap<Option<Vec<usize>>, usize>;

impl CassandraSink {
    pub(super) fn new(
        server: CassandraServer,
        options: CassandraWrite,
        context: &SinkContext,
    ) -> CassandraSink {
        let keyspace = options.table_name(&server.keyspace).0.to_owned();
        CassandraSink {
            notes: WriteNotes::new(
                &context.name,
                (&keyspace, &options.positions),
                server.consistency,
            ),
            server,
            options,
            schema: Arc::clone(&context.schema),
            clock: Arc::clone(&context.clock),
            link: None,
            plan: None,
            noted: None,
        }
    }

    async fn session(&mut self) -> Result<CassandraLink, Error> {
        match self.link.take().filter(CassandraLink::rests) {
            Some(link) => Ok(link),
            None => self.server.open().await,
        }
    }

    /// How the rows are written to the table as it is now.
    async fn plan(&mut self, link: &mut CassandraLink) -> Result<Arc<CassandraPlan>, Error> {
        if let Some(plan) = &self.plan {
            return Ok(Arc::clone(plan));
        }
        let (keyspace, name) = self.options.table_name(&self.server.keyspace);
        let looked = CassandraTable::look(link, keyspace, name).await;
        let looked = looked.map_err(|failed| {
            failed.told(
                self.server
                    .doing(link, "\"system_schema\".\"columns\"", "SELECT"),
            )
        })?;
        let Some(table) = looked else {
            let error = Error::new(Class::Configuration, "cassandra.no-table");
            let table = format!("{}.{}", quoted(keyspace), quoted(name));
            return Err(error.with("address", &link.address).with("table", table));
        };
        self.notes.make(link, &self.server).await?;
        let plan = Arc::new(CassandraPlan::new(&table, &self.options, &self.schema)?);
        self.plan = Some(Arc::clone(&plan));
        Ok(plan)
    }

    async fn deliver(&mut self, delivery: &Delivery) -> Result<Written, Error> {
        let noted = self.noted.take();
        let mut link = self.session().await?;
        let written = self.write_on(&mut link, delivery, noted).await;
        if link.rests() {
            self.link = Some(link);
        }
        if written.is_err() {
            // The table may have changed.
            self.plan = None;
        }
        written
    }

    async fn write_on(
        &mut self,
        link: &mut CassandraLink,
        delivery: &Delivery,
        noted: Option<WriteNote>,
    ) -> Result<Written, Error> {
        let plan = self.plan(link).await?;
        let mut ready = plan.ready(delivery)?;
        let mut rejected = std::mem::take(&mut ready.refused);
        let producer = &delivery.producer;
        let noted = match noted {
            Some(noted) if noted.producer == *producer => noted,
            _ => self.notes.read(link, &self.server, producer).await?,
        };
        if !producer.is_empty() && delivery.position <= noted.done {
            self.noted = Some(noted);
            rejected.sort_by_key(|(row, _)| *row);
            return Ok(Written::of(rejected));
        }
        let rows = delivery.rows.num_rows() as u64;
        let now = self.clock.now_micros();
        let note = noted.next(delivery.position, rows, ready.content(), now);
        if note != noted && !producer.is_empty() {
            self.notes.write(link, &self.server, &note).await?;
        }
        ready.set_times(note.time);
        if let Some(row) = ready.emptied {
            let time = note.time.saturating_add(row as i64);
            self.empty(link, &plan, time).await?;
        }
        self.send(link, &plan, &ready, &mut rejected).await?;
        self.noted = Some(note);
        rejected.sort_by_key(|(row, _)| *row);
        Ok(Written::of(rejected))
    }

    fn told(&self, link: &CassandraLink, plan: &CassandraPlan, failed: CqlFailed) -> Error {
        failed.told(self.server.doing(link, &plan.written, "MODIFY"))
    }

    /// Sends all statements: those of one partition together, where they are small.
    async fn send(
        &self,
        link: &mut CassandraLink,
        plan: &CassandraPlan,
        ready: &ReadyWrites,
        rejected: &mut Vec<Refused>,
    ) -> Result<(), Error> {
        let mut statements = Vec::new();
        for (text, _) in &ready.statements {
            let prepared = link.prepare(text).await;
            statements.push(prepared.map_err(|failed| self.told(link, plan, failed))?);
        }
        let groups = ready.groups();
        let alone = self
            .request(link, plan, ready, &statements, &groups, rejected)
            .await?;
        // Together they were refused: each by itself shows which one is at fault.
        let alone: Vec<Vec<usize>> = alone.into_iter().map(|at| vec![at]).collect();
        self.request(link, plan, ready, &statements, &alone, rejected)
            .await?;
        Ok(())
    }

    /// Sends groups of statements; those of groups that were refused as a whole.
    async fn request(
        &self,
        link: &mut CassandraLink,
        plan: &CassandraPlan,
        ready: &ReadyWrites,
        statements: &[Arc<CqlPrepared>],
        groups: &[Vec<usize>],
        rejected: &mut Vec<Refused>,
    ) -> Result<Vec<usize>, Error> {
        let consistency = self.server.consistency;
        let bound = |at: &usize| {
            let write = &ready.writes[*at];
            CqlBound {
                id: &statements[write.statement].id,
                count: ready.statements[write.statement].1,
                values: &ready.values[write.values.clone()],
            }
        };
        let requests = groups.iter().map(|group| match &group[..] {
            [one] => CqlRequest::execute(bound(one), consistency, &CqlPage::default()),
            many => CqlRequest::batch(&many.iter().map(bound).collect::<Vec<_>>(), consistency),
        });
        let requests: Vec<CqlRequest> = requests.collect();
        let answers = link.ask_all(&requests).await?;
        let mut alone = Vec::new();
        for (group, answer) in groups.iter().zip(answers) {
            let CqlAnswer::Refused(refusal) = answer else {
                continue;
            };
            let told = self.refusal(link, plan, refusal);
            match (told.class(), &group[..]) {
                (Class::Permanent, [one]) => rejected.push((ready.writes[*one].row, told)),
                (Class::Permanent, many) => alone.extend_from_slice(many),
                _ => return Err(told),
            }
        }
        Ok(alone)
    }

    fn refusal(&self, link: &CassandraLink, plan: &CassandraPlan, refusal: CqlRefusal) -> Error {
        refusal.told(with_values(self.server.doing(
            link,
            &plan.written,
            "MODIFY",
        )))
    }

    /// Deletes all rows that were written before a time. `TRUNCATE` knows no time: carried out late it would delete newer rows.
    async fn empty(
        &self,
        link: &mut CassandraLink,
        plan: &CassandraPlan,
        time: i64,
    ) -> Result<(), Error> {
        let key = &plan.columns[..plan.partition];
        let names: Vec<String> = key.iter().map(|column| quoted(&column.name)).collect();
        let select = format!("SELECT DISTINCT {} FROM {}", names.join(", "), plan.written);
        let tests: Vec<String> = names.iter().map(|name| format!("{name} = ?")).collect();
        let delete = format!(
            "DELETE FROM {} USING TIMESTAMP ? WHERE {}",
            plan.written,
            tests.join(" AND ")
        );
        let told = |link: &CassandraLink, failed: CqlFailed, right: &str| {
            failed.told(self.server.doing(link, &plan.written, right))
        };
        let consistency = self.server.consistency;
        let mut page = CqlPage {
            rows: PAGE_ROWS,
            behind: None,
        };
        loop {
            let select = link.prepare(&select).await;
            let select = select.map_err(|failed| told(link, failed, "SELECT"))?;
            let bound = CqlBound {
                id: &select.id,
                count: 0,
                values: &[],
            };
            let asked = link
                .ask(&CqlRequest::execute(bound, consistency, &page))
                .await;
            let CqlAnswer::Rows(mut rows) = asked.map_err(|failed| told(link, failed, "SELECT"))?
            else {
                return Err(strange(&link.address, "no rows"));
            };
            let delete = link.prepare(&delete).await;
            let delete = delete.map_err(|failed| told(link, failed, "MODIFY"))?;
            let mut requests = Vec::new();
            while let Some(row) = rows.next().map_err(|why| link.unreadable(&why))? {
                let mut values = Vec::new();
                write_value(Some(&time.to_be_bytes()), &mut values);
                for value in &row {
                    write_value(value.as_deref(), &mut values);
                }
                let bound = CqlBound {
                    id: &delete.id,
                    count: 1 + row.len(),
                    values: &values,
                };
                requests.push(CqlRequest::execute(bound, consistency, &CqlPage::default()));
            }
            for answer in link.ask_all(&requests).await? {
                if let CqlAnswer::Refused(refusal) = answer {
                    return Err(told(link, CqlFailed::Refused(refusal), "MODIFY"));
                }
            }
            page.behind = rows.more;
            if page.behind.is_none() {
                return Ok(());
            }
        }
    }
}

impl CassandraPlan {
    fn new(
        table: &CassandraTable,
        options: &CassandraWrite,
        schema: &SchemaRef,
    ) -> Result<CassandraPlan, Error> {
        let written = table.written();
        let there = || {
            let names: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            names.join(", ")
        };
        let special = |option: &'static str, column: &Option<String>| {
            let place = column.as_ref().map(|column| {
                schema.index_of(column).map_err(|_| {
                    Error::new(Class::Configuration, "connect.flow-column")
                        .with("option", option)
                        .with("column", column)
                        .with("there", there())
                })
            });
            place.transpose()
        };
        let change = special("change", &options.change)?;
        let unchanged = special("unchanged", &options.unchanged)?;
        let is_written = |at: usize| Some(at) != change && Some(at) != unchanged;
        let mut columns = Vec::new();
        for column in table.key() {
            let place = schema
                .index_of(&column.name)
                .ok()
                .filter(|at| is_written(*at));
            let Some(at) = place else {
                return Err(Error::new(Class::Configuration, "cassandra.no-key")
                    .with("column", &column.name)
                    .with("table", &written)
                    .with("there", there()));
            };
            let from = schema.field(at).data_type();
            columns.push(CellWriter::new(at, from, column, &written, options.lossy)?);
        }
        let key = columns.len();
        for (at, field) in schema.fields().iter().enumerate() {
            if !is_written(at) || columns[..key].iter().any(|column| column.at == at) {
                continue;
            }
            let mut known = table.columns.iter();
            let Some(column) = known.find(|column| column.name == *field.name()) else {
                return Err(Error::new(Class::Configuration, "cassandra.no-column")
                    .with("column", field.name())
                    .with("table", &written));
            };
            let (from, lossy) = (field.data_type(), options.lossy);
            columns.push(CellWriter::new(at, from, column, &written, lossy)?);
        }
        Ok(CassandraPlan {
            partition: table
                .key()
                .filter(|column| column.role.is_partition())
                .count(),
            written,
            columns,
            key,
            change,
            unchanged,
            mode: match options.mode {
                CassandraMode::Upsert => Op::Upsert,
                CassandraMode::Delete => Op::Delete,
            },
            keeps_nulls: options.nulls == CassandraNulls::Keep,
            ttl_s: options.ttl.map(|ttl| ttl.as_duration().as_secs()),
        })
    }

    /// The statements of a delivery.
    fn ready(&self, delivery: &Delivery) -> Result<ReadyWrites, Error> {
        let rows = &delivery.rows;
        let cells = self
            .columns
            .iter()
            .map(|column| column.values(rows.column(column.at)));
        let cells = cells.collect::<Result<Vec<_>, _>>()?;
        let texts = |place: Option<usize>| {
            let column = place.map(|at| cast(rows.column(at), &DataType::Utf8));
            column.transpose().map_err(|why| {
                Error::new(Class::Configuration, "connect.change-type").caused_by(why)
            })
        };
        let (change, unchanged) = (texts(self.change)?, texts(self.unchanged)?);
        let text = |column: &Option<ArrayRef>, row: usize| {
            let column = column.as_ref().filter(|column| column.is_valid(row));
            column.map(|column| column.as_string::<i32>().value(row).to_owned())
        };
        let mut ready = ReadyWrites::default();
        let mut known = KnownStatements::new();
        for row in 0..rows.num_rows() {
            let op = match &change {
                None => Ok(self.mode),
                Some(_) => Op::of(&text(&change, row).unwrap_or_default()),
            };
            let is_delete = match op {
                Ok(Op::Nothing) => continue,
                Ok(Op::Truncate) => {
                    ready.writes.clear();
                    ready.values.clear();
                    ready.emptied = Some(row);
                    continue;
                }
                Ok(op) => op == Op::Delete,
                Err(error) => {
                    ready.refused.push((row, error));
                    continue;
                }
            };
            let keeps = text(&unchanged, row)
                .map(|text| kept(&text))
                .unwrap_or_default();
            let begin = ready.values.len();
            if let Err(error) = self.add(row, is_delete, &keeps, &cells, &mut known, &mut ready) {
                ready.values.truncate(begin);
                ready.refused.push((row, error));
            }
        }
        Ok(ready)
    }

    /// Adds the statement of a row.
    fn add(
        &self,
        row: usize,
        is_delete: bool,
        keeps: &[String],
        cells: &[CellValues<'_>],
        known: &mut KnownStatements,
        ready: &mut ReadyWrites,
    ) -> Result<(), Error> {
        let out = &mut ready.values;
        let begin = out.len();
        let add_time = |out: &mut Vec<u8>| {
            write_value(Some(&[0; 8]), out);
            out.len() - 8
        };
        let mut time = if is_delete { add_time(out) } else { 0 };
        let partition = out.len();
        let mut partition_end = partition;
        // Those that are sent as JSON cannot be left unset, so that the statement has no place for them.
        let mut left_out = Vec::new();
        let mut count = 0;
        for (at, (column, cells)) in self.columns.iter().zip(cells).enumerate() {
            if is_delete && at >= self.key {
                break;
            }
            if at == self.partition {
                partition_end = out.len();
            }
            let length = out.len();
            out.extend_from_slice(&[0; 4]);
            let is_there = cells.write(row, out)?;
            let bytes = out.len() - length - 4;
            let is_key = at < self.key;
            if is_key && !is_there {
                let error = Error::new(Class::Permanent, "connect.key-null");
                return Err(error.with("column", &column.name));
            }
            if is_key && bytes > KEY_BYTES_MAX || out.len() - begin > ROW_BYTES_MAX {
                return Err(Error::new(Class::Permanent, "cassandra.large")
                    .with("column", &column.name)
                    .with("most", if is_key { KEY_BYTES_MAX } else { ROW_BYTES_MAX }));
            }
            let keeps = !is_key && (keeps.contains(&column.name) || self.keeps_nulls && !is_there);
            match (keeps, is_there) {
                (true, _) => {
                    out.truncate(length);
                    if column.kind.is_none() {
                        left_out.push(at);
                        continue;
                    }
                    write_unset(out);
                }
                (false, true) => {
                    out[length..length + 4].copy_from_slice(&(bytes as i32).to_be_bytes());
                }
                (false, false) => {
                    out.truncate(length);
                    write_value(None, out);
                }
            }
            count += 1;
        }
        if self.partition == self.columns.len() || is_delete && self.partition == self.key {
            partition_end = out.len();
        }
        if !is_delete {
            time = add_time(out);
        }
        let which = (!is_delete).then_some(left_out);
        let statement = *known.entry(which).or_insert_with_key(|which| {
            let text = match which {
                None => self.deletion(),
                Some(left_out) => self.insertion(left_out),
            };
            ready.statements.push((text, count + 1));
            ready.statements.len() - 1
        });
        ready.writes.push(ReadyWrite {
            row,
            statement,
            values: begin..ready.values.len(),
            time,
            partition: partition..partition_end,
        });
        Ok(())
    }

    fn insertion(&self, left_out: &[usize]) -> String {
        let columns = self.columns.iter().enumerate();
        let columns = columns.filter(|(at, _)| !left_out.contains(at));
        let (names, values): (Vec<_>, Vec<_>) = columns
            .map(|(_, column)| {
                let value = if column.kind.is_none() {
                    "fromJson(?)"
                } else {
                    "?"
                };
                (quoted(&column.name), value)
            })
            .unzip();
        let ttl = self
            .ttl_s
            .map(|ttl| format!(" AND TTL {ttl}"))
            .unwrap_or_default();
        format!(
            "INSERT INTO {} ({}) VALUES ({}) USING TIMESTAMP ?{ttl}",
            self.written,
            names.join(", "),
            values.join(", ")
        )
    }

    fn deletion(&self) -> String {
        let key = self.columns[..self.key].iter();
        let tests: Vec<_> = key
            .map(|column| format!("{} = ?", quoted(&column.name)))
            .collect();
        format!(
            "DELETE FROM {} USING TIMESTAMP ? WHERE {}",
            self.written,
            tests.join(" AND ")
        )
    }
}

impl ReadyWrites {
    /// What the delivery is recognised by. The times are not set yet.
    fn content(&self) -> i64 {
        let mut content = fnv1a(&self.values);
        for (text, _) in &self.statements {
            content = content.rotate_left(1) ^ fnv1a(text.as_bytes());
        }
        for write in &self.writes {
            content = content.rotate_left(1) ^ (write.statement as u64) << 32 ^ write.row as u64;
        }
        (content ^ self.emptied.map_or(0, |row| row as u64 + 1)) as i64
    }

    /// Gives each row its time: that of its delivery, and its number.
    fn set_times(&mut self, time: i64) {
        for write in &self.writes {
            let time = time.saturating_add(write.row as i64);
            self.values[write.time..write.time + 8].copy_from_slice(&time.to_be_bytes());
        }
    }

    /// The statements that are sent together: those of one partition, as many as make no large batch.
    fn groups(&self) -> Vec<Vec<usize>> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        // The last group of each partition, and its bytes.
        let mut last: HashMap<&[u8], (usize, usize)> = HashMap::new();
        for (at, write) in self.writes.iter().enumerate() {
            let bytes = write.values.len();
            let open = last
                .entry(&self.values[write.partition.clone()])
                .or_insert((usize::MAX, 0));
            let group = groups.get_mut(open.0);
            match group.filter(|group| group.len() < BATCH_ROWS && open.1 + bytes <= BATCH_BYTES) {
                Some(group) => {
                    group.push(at);
                    open.1 += bytes;
                }
                None => {
                    *open = (groups.len(), bytes);
                    groups.push(vec![at]);
                }
            }
        }
        groups
    }
}

impl Sink for CassandraSink {
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>> {
        Box::pin(self.deliver(delivery))
    }

    fn position<'a>(&'a mut self, producer: &'a str) -> Work<'a, Result<Option<u64>, Error>> {
        Box::pin(async move { Ok(self.cuts(producer).await?.last().copied()) })
    }

    fn cuts<'a>(&'a mut self, producer: &'a str) -> Work<'a, Result<Vec<u64>, Error>> {
        Box::pin(async move {
            let mut link = self.session().await?;
            self.plan(&mut link).await?;
            let noted = self
                .notes
                .read(&mut link, &self.server, &producer.into())
                .await?;
            self.link = Some(link);
            let mut cuts = vec![noted.done, noted.position];
            self.noted = Some(noted);
            cuts.dedup();
            cuts.retain(|position| *position > 0);
            Ok(cuts)
        })
    }

    fn close(&mut self) -> Work<'_, Result<(), Error>> {
        Box::pin(async {
            if let Some(link) = self.link.take() {
                link.close().await;
            }
            Ok(())
        })
    }
}

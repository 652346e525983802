//! Cells of wide tables in HBase.

use std::sync::Arc;
use std::time::Duration;

use busbar_connector::{
    CellBytes, CellDatabase, CellFamily, CellGuard, CellMutation, CellRead, CellRow, CellScanner,
    PoolUse, SessionPool, Work,
};
use busbar_event::{Class, Error};
use bytes::BytesMut;

use super::calls::{self, DescribedTable, family_settings};
use super::failure::told;
use super::limits::{
    CHANGE_BYTES, CHANGE_ROWS_MAX, FRAME_BYTES, REST_MAX, SCAN_BYTES, SCAN_ROWS_FIRST,
    SCAN_ROWS_MAX,
};
use super::link::{HbaseLink, HbaseServer};
use super::wire::ThriftFault;

/// HBase behind a Thrift server. A call takes a session of the pool for as long as it lasts.
pub struct HbaseCells {
    server: HbaseServer,
    pool: Arc<SessionPool<HbaseLink>>,
}

impl HbaseCells {
    pub fn new(name: &str, server: HbaseServer, sessions: u16) -> HbaseCells {
        let wait = server.timeout;
        HbaseCells {
            pool: SessionPool::new(name, usize::from(sessions), wait),
            server,
        }
    }

    /// Makes a call that does no harm when it is made twice.
    ///
    /// # Errors
    /// As [`HbaseLink::call`].
    async fn call(&self, call: &[u8]) -> Result<BytesMut, Error> {
        loop {
            let mut pooled = self.pool.take(|| self.server.open()).await?;
            match pooled.session.call(call).await {
                Ok(answer) => {
                    pooled.give_back();
                    return Ok(answer);
                }
                // The server closes sessions that have rested for long.
                Err(error) if !pooled.is_new && error.code() == "hbase.closed" => {
                    self.pool.forget();
                }
                Err(error) => return Err(self.cut_off(call, error)),
            }
        }
    }

    /// Makes a call that must not be made twice.
    ///
    /// # Errors
    /// As [`HbaseLink::call`].
    async fn call_once(&self, call: &[u8]) -> Result<BytesMut, Error> {
        loop {
            let mut pooled = self.pool.take(|| self.server.open()).await?;
            let rested = !pooled.is_new && pooled.session.used.elapsed() > REST_MAX;
            if rested && pooled.session.call(&calls::server_type()).await.is_err() {
                self.pool.forget();
                continue;
            }
            let answer = pooled.session.call(call).await;
            let answer = answer.map_err(|error| self.cut_off(call, error))?;
            pooled.give_back();
            return Ok(answer);
        }
    }

    /// Why a call failed: a framed server says of one that is too large for it only that it closes the connection.
    fn cut_off(&self, call: &[u8], error: Error) -> Error {
        match error.code() {
            "hbase.closed" if self.server.framed && call.len() > FRAME_BYTES => {
                Error::new(Class::Configuration, "hbase.frame")
                    .with("address", &self.server.address)
                    .with("bytes", call.len())
            }
            _ => error,
        }
    }

    fn told(&self, table: &str) -> impl Fn(ThriftFault) -> Error {
        |fault| told(fault, &self.server.address, table)
    }

    async fn described(&self, table: &str) -> Result<Option<DescribedTable>, Error> {
        let there = self.call(&calls::table_exists(table)).await?;
        if !calls::read_bool(&there).map_err(self.told(table))? {
            return Ok(None);
        }
        let described = self.call(&calls::describe(table)).await?;
        calls::read_described(&described)
            .map(Some)
            .map_err(self.told(table))
    }

    /// The calls that make what a table lacks, each with what the shell of HBase calls it.
    fn lacking(
        table: &str,
        found: Option<&DescribedTable>,
        families: &[CellFamily],
    ) -> Vec<(Vec<u8>, String)> {
        let Some(found) = found else {
            let all = families.iter().map(|family| format!(", {}", shown(family)));
            let statement = format!("create '{table}'{}", all.collect::<String>());
            return vec![(calls::create_table(table, families), statement)];
        };
        let changes = families.iter().filter_map(|family| {
            let known = found.families.iter();
            let mut known = known.filter(|known| known.name == family.name.as_bytes());
            let call = match known.next() {
                None => calls::add_family(table, family),
                Some(known) if (known.versions, known.ttl_s) == family_settings(family) => {
                    return None;
                }
                Some(known) => calls::modify_family(table, known, family),
            };
            Some((call, format!("alter '{table}', {}", shown(family))))
        });
        changes.collect()
    }

    async fn make(&self, table: &str, families: &[CellFamily], create: bool) -> Result<(), Error> {
        let found = self.described(table).await?;
        let lacking = Self::lacking(table, found.as_ref(), families);
        if lacking.is_empty() {
            return Ok(());
        }
        let lacks = |statements: &[String]| {
            Error::new(Class::Configuration, "hbase.lacks")
                .with("address", &self.server.address)
                .with("table", table)
                .with("statement", statements.join("; "))
        };
        let (calls, statements): (Vec<Vec<u8>>, Vec<String>) = lacking.into_iter().unzip();
        if !create {
            return Err(lacks(&statements));
        }
        let mut failed = None;
        for call in &calls {
            let made = self.call(call).await?;
            // Another node may have made it at the same time.
            let made = calls::read_nothing(&made).map_err(self.told(table));
            failed = made.err().or(failed);
        }
        let found = self.described(table).await?;
        match Self::lacking(table, found.as_ref(), families).is_empty() {
            true => Ok(()),
            false => Err(failed.unwrap_or_else(|| lacks(&statements))),
        }
    }

    async fn fetch(
        &self,
        table: &str,
        keys: Vec<Vec<u8>>,
        read: &CellRead,
    ) -> Result<Vec<CellRow>, Error> {
        let mut rows = Vec::with_capacity(keys.len());
        let mut most = keys.len();
        while rows.len() < keys.len() {
            let left = &keys[rows.len()..];
            let some = &left[..most.min(left.len())];
            let answer = match self.call(&calls::get_multiple(table, some, read)).await {
                // Rows that are too large together.
                Err(error) if error.code() == "hbase.too-large" && some.len() > 1 => {
                    most = some.len() / 2;
                    continue;
                }
                answer => answer?,
            };
            let found = calls::read_rows(&answer, read).map_err(self.told(table))?;
            if found.len() != some.len() {
                return Err(self.told(table)(ThriftFault::Strange));
            }
            rows.extend(found);
        }
        for (row, key) in rows.iter_mut().zip(keys) {
            row.key = key;
        }
        Ok(rows)
    }

    async fn write(&self, table: &str, rows: &[CellMutation]) -> Result<(), Error> {
        if let [row] = rows {
            let answer = self.call(&calls::mutate_row(table, row)).await?;
            return calls::read_nothing(&answer).map_err(self.told(table));
        }
        let mut rest = rows;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fitting = rest.iter().take(CHANGE_ROWS_MAX).take_while(|row| {
                bytes += size_of_changes(row);
                bytes <= CHANGE_BYTES
            });
            let (some, after) = rest.split_at(fitting.count().max(1));
            rest = after;
            let with = |has: fn(&CellMutation) -> bool| {
                let rows = some.iter().filter(|row| has(row));
                rows.collect::<Vec<_>>()
            };
            let deletes = with(|row| !row.deleted.is_empty());
            if !deletes.is_empty() {
                let answer = self.call(&calls::delete_multiple(table, &deletes)).await?;
                let left = calls::read_count(&answer).map_err(self.told(table))?;
                if left > 0 {
                    let fault = ThriftFault::Io(format!("{left} rows are not deleted"), true);
                    return Err(self.told(table)(fault));
                }
            }
            let puts = with(|row| !row.cells.is_empty());
            if !puts.is_empty() {
                let answer = self.call(&calls::put_multiple(table, &puts)).await?;
                calls::read_nothing(&answer).map_err(self.told(table))?;
            }
        }
        Ok(())
    }
}

/// A family in the words of the shell of HBase.
fn shown(family: &CellFamily) -> String {
    let (versions, _) = family_settings(family);
    let ttl = family.ttl.map(|ttl: Duration| {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        format!(", TTL => {seconds}")
    });
    format!(
        "{{NAME => '{}', VERSIONS => {versions}{}}}",
        family.name,
        ttl.unwrap_or_default()
    )
}

fn size_of_changes(row: &CellMutation) -> usize {
    let cells = row.cells.iter().map(size_of_cell);
    row.key.len() + row.deleted.len() * 32 + cells.sum::<usize>()
}

fn size_of_cell(cell: &CellBytes) -> usize {
    cell.qualifier.len() + cell.value.len() + 32
}

impl CellDatabase for HbaseCells {
    fn prepare<'a>(
        &'a self,
        table: &'a str,
        families: &'a [CellFamily],
        create: bool,
    ) -> Work<'a, Result<(), Error>> {
        Box::pin(self.make(table, families, create))
    }

    fn get<'a>(
        &'a self,
        table: &'a str,
        keys: Vec<Vec<u8>>,
        read: &'a CellRead,
    ) -> Work<'a, Result<Vec<CellRow>, Error>> {
        Box::pin(self.fetch(table, keys, read))
    }

    fn scan<'a>(
        &'a self,
        table: &'a str,
        from: Vec<u8>,
        to: Vec<u8>,
        read: &'a CellRead,
    ) -> Work<'a, Result<Box<dyn CellScanner + 'a>, Error>> {
        let scan = HbaseScan {
            cells: self,
            table,
            from: Some(from),
            to,
            read,
            most: SCAN_ROWS_FIRST,
        };
        Box::pin(async move { Ok(Box::new(scan) as Box<dyn CellScanner + 'a>) })
    }

    fn change<'a>(
        &'a self,
        table: &'a str,
        rows: Vec<CellMutation>,
    ) -> Work<'a, Result<(), Error>> {
        Box::pin(async move { self.write(table, &rows).await })
    }

    fn change_if<'a>(
        &'a self,
        table: &'a str,
        guard: CellGuard,
        row: CellMutation,
    ) -> Work<'a, Result<bool, Error>> {
        Box::pin(async move {
            let call = calls::check_and_mutate(table, &guard, &row);
            let answer = self.call_once(&call).await?;
            calls::read_bool(&answer).map_err(self.told(table))
        })
    }

    fn pool(&self) -> PoolUse {
        self.pool.used()
    }
}

/// Rows in the order of their keys, a call for each piece: nothing stays open on the server while nobody reads.
struct HbaseScan<'a> {
    cells: &'a HbaseCells,
    table: &'a str,
    /// The first key of the next piece; none at the end.
    from: Option<Vec<u8>>,
    to: Vec<u8>,
    read: &'a CellRead,
    /// Rows that the next piece may have.
    most: usize,
}

impl CellScanner for HbaseScan<'_> {
    fn next(&mut self) -> Work<'_, Result<Option<Vec<CellRow>>, Error>> {
        Box::pin(async move {
            let from = self.from.take();
            // HBase takes a range without a row between its ends for the row at them.
            let from = from.filter(|from| self.to.is_empty() || *from < self.to);
            let Some(from) = from else {
                return Ok(None);
            };
            let answer = loop {
                let call = calls::scan(self.table, &from, &self.to, self.most, self.read);
                match self.cells.call(&call).await {
                    Err(error) if error.code() == "hbase.too-large" && self.most > 1 => {
                        self.most /= 8;
                        self.most = self.most.max(1);
                    }
                    answer => break answer?,
                }
            };
            let told = self.cells.told(self.table);
            let rows = calls::read_rows(&answer, self.read).map_err(told)?;
            if rows.len() == self.most
                && let Some(last) = rows.last()
            {
                // The key that follows it.
                let mut next = last.key.clone();
                next.push(0);
                self.from = Some(next);
            }
            self.most = match answer.len() {
                0..SCAN_BYTES => (self.most * 2).min(SCAN_ROWS_MAX),
                _ => (self.most / 2).max(1),
            };
            Ok((!rows.is_empty()).then_some(rows))
        })
    }
}

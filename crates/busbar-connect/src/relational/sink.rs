//! Writes rows to a table, each delivery in one transaction together with the producer's position. Rows that the server refuses
//! are found by halving and kept beside the position.

use std::future::Future;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use busbar_connector::{Delivery, Sink, SinkContext, Work, Written};
use busbar_event::{Class, Error};

use super::session::SessionServer;
use super::{Doing, Failed, SqlAnswer, SqlSession};
use crate::change::plan::{Halving, Refused};
use crate::change::refusal::{RefusedRecord, insertions};
use crate::change::{Op, Write};

/// Writes to one table.
pub struct RelationalSink<S: WriteServer> {
    server: S,
    /// The connection's name, before the names of producers.
    name: Arc<str>,
    options: Write,
    schema: SchemaRef,
    open: Option<(S::Session, Arc<S::Plan>)>,
}

/// A server to whose tables rows are written.
pub trait WriteServer: SessionServer {
    type Plan: WritePlan<Session = Self::Session>;

    /// Characters of the name of a producer, and the code of the error for one with more; none for no bound.
    const PRODUCER_CHARS_MAX: Option<(usize, &'static str)>;

    /// Looks at the table, which is made where that is asked for, and sees that the tables beside it are there.
    ///
    /// # Errors
    /// *Configuration*: columns, types or rights are not as they must be.
    fn plan(
        &self,
        session: &mut Self::Session,
        options: &Write,
        schema: &SchemaRef,
    ) -> impl Future<Output = Result<Self::Plan, Error>> + Send;
}

/// How rows become statements; made once a session, from the table as it is.
pub trait WritePlan: Sized + Send + Sync {
    type Session: SqlSession;
    type Row: WriteRow;

    /// Whether a part of a transaction can be undone. Where a failure ends the whole transaction, what was written before is
    /// written again.
    const SAVEPOINTS: bool;
    /// Bytes of a statement that keeps refused rows.
    const REFUSALS_BYTES: usize;

    fn tables(&self) -> &WriteTables;

    /// A text as a literal of SQL.
    fn literal(text: &str) -> String;

    /// The statement that reads how far a producer has come, and waits for a transaction of another session that changes it.
    fn known(&self, producer: &str) -> String;

    /// Rows as they are sent, and those that cannot be.
    ///
    /// # Errors
    /// *Configuration*: columns are of types that are not written.
    fn ready(&self, delivery: &Delivery, mode: Op)
    -> Result<(Vec<Self::Row>, Vec<Refused>), Error>;

    /// Begins a transaction and notes the position; false when it is known already.
    ///
    /// # Errors
    /// Why it failed.
    fn begin(
        &self,
        session: &mut Self::Session,
        from: &WriteOrigin,
    ) -> impl Future<Output = Result<bool, FailedIn<Self>>> + Send;

    /// Writes rows within the transaction that is open, and answers how many gave way to rows there. Which of these are to be
    /// written anew before its end is added to `anew`.
    ///
    /// # Errors
    /// Why it failed.
    fn apply(
        &self,
        session: &mut Self::Session,
        rows: &[Self::Row],
        from: &WriteOrigin,
        anew: &mut Vec<String>,
    ) -> impl Future<Output = Result<u64, FailedIn<Self>>> + Send;

    /// Writes rows anew that others gave way to, as [`WritePlan::apply`] named them.
    ///
    /// # Errors
    /// Why it failed.
    fn write_anew(
        &self,
        session: &mut Self::Session,
        from: &WriteOrigin,
        anew: &[String],
    ) -> impl Future<Output = Result<(), FailedIn<Self>>> + Send {
        let _ = (session, from, anew);
        async { Ok(()) }
    }
}

/// Why a statement of a plan failed.
pub type FailedIn<P> = Failed<<<P as WritePlan>::Session as SqlSession>::Said>;

/// A row, ready to be sent.
pub trait WriteRow: Send + Sync {
    /// Its number in the delivery.
    fn row(&self) -> usize;

    /// What it is recognised by when it comes again.
    fn content(&self) -> String;
}

/// Names of tables, as they are written in SQL.
pub struct WriteTables {
    /// The one that is written to.
    pub written: String,
    /// How far producers have come.
    pub positions: String,
    /// Rows that were refused with the last position.
    pub refusals: String,
}

/// A table that is kept beside those that are written to.
pub struct BesideTable {
    pub name: String,
    pub columns: String,
    pub rights: &'static str,
}

/// The producer of a delivery and its position, as they are written in SQL.
pub struct WriteOrigin {
    /// Empty for none.
    pub producer: String,
    pub position: u64,
}

/// How many rows gave way and which were refused; `None` when the position was known already.
type Outcome<P> = Result<Option<(u64, Vec<Refused>)>, FailedIn<P>>;

impl<S: WriteServer> RelationalSink<S> {
    /// Opens a session and looks at the table.
    ///
    /// # Errors
    /// As [`SessionServer::open`] and [`WriteServer::plan`].
    pub async fn open(
        server: S,
        options: Write,
        context: SinkContext,
    ) -> Result<RelationalSink<S>, Error> {
        let mut sink = RelationalSink {
            server,
            name: context.name,
            options,
            schema: context.schema,
            open: None,
        };
        sink.open = Some(sink.session().await?);
        Ok(sink)
    }

    /// The session, opened anew unless the one there is can be used. It is put back only once everything went well or was undone.
    async fn session(&mut self) -> Result<(S::Session, Arc<S::Plan>), Error> {
        if let Some((session, plan)) = self.open.take()
            && session.usable()
        {
            return Ok((session, plan));
        }
        let mut session = self.server.open().await?;
        let plan = self.server.plan(&mut session, &self.options, &self.schema);
        let plan = plan.await?;
        Ok((session, Arc::new(plan)))
    }

    /// The name that the position is kept under, as it is written in SQL; empty for none.
    fn producer(&self, producer: &str) -> Result<String, Error> {
        if producer.is_empty() {
            return Ok(String::new());
        }
        let name = self.options.producer.as_deref().unwrap_or(&self.name);
        let producer = format!("{name}/{producer}");
        match S::PRODUCER_CHARS_MAX {
            Some((most, code)) if producer.chars().count() > most => {
                Err(Error::new(Class::Configuration, code).with("producer", producer))
            }
            _ => Ok(S::Plan::literal(&producer)),
        }
    }

    async fn deliver(&mut self, delivery: &Delivery) -> Result<Written, Error> {
        let (mut session, plan) = self.session().await?;
        let from = WriteOrigin {
            producer: self.producer(&delivery.producer)?,
            position: delivery.position,
        };
        let doing = self
            .server
            .doing(&plan.tables().written, self.options.rights());
        let (ready, mut rejected) = plan.ready(delivery, self.options.mode.into())?;
        let written = match transaction(&mut session, &*plan, &from, &ready).await {
            Err(failed) if failed.is_about_rows() => match session.roll_back().await {
                Ok(()) => in_pieces(&mut session, &*plan, &from, &ready, doing).await,
                Err(failed) => Err(failed),
            },
            other => other,
        };
        let written = match written {
            Ok(Some(written)) => Ok(written),
            Ok(None) => {
                let recalled = recall(&mut session, &*plan, &from, &ready).await;
                recalled.map(|refused| (0, refused))
            }
            Err(failed) => Err(failed),
        };
        match written {
            Ok((conflicts, refused)) => {
                self.open = Some((session, plan));
                rejected.extend(refused);
                rejected.sort_by_key(|(row, _)| *row);
                Ok(Written {
                    rejected,
                    conflicts,
                })
            }
            Err(failed) => {
                let error = failed.told(doing);
                // The table may have changed; the next session looks at it anew. What this one began ends with it.
                session.close().await;
                Err(error)
            }
        }
    }

    async fn known(&mut self, producer: &str) -> Result<Option<u64>, Error> {
        let (mut session, plan) = self.session().await?;
        let answers = session.run(&plan.known(&self.producer(producer)?)).await;
        let positions = &plan.tables().positions;
        let doing = self.server.doing(positions, "SELECT, UPDATE");
        let answers = answers.map_err(|failed| failed.told(doing))?;
        let position = answers.first().and_then(|answer| answer.text(0, 0));
        let position = position.and_then(|position| position.parse().ok());
        self.open = Some((session, plan));
        Ok(position)
    }
}

impl<S: WriteServer> Sink for RelationalSink<S> {
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>> {
        Box::pin(self.deliver(delivery))
    }

    fn position<'a>(&'a mut self, producer: &'a str) -> Work<'a, Result<Option<u64>, Error>> {
        Box::pin(self.known(producer))
    }

    fn close(&mut self) -> Work<'_, Result<(), Error>> {
        Box::pin(async {
            if let Some((session, _)) = self.open.take() {
                session.close().await;
            }
            Ok(())
        })
    }
}

/// Writes rows and position.
async fn transaction<P: WritePlan>(
    session: &mut P::Session,
    plan: &P,
    from: &WriteOrigin,
    ready: &[P::Row],
) -> Outcome<P> {
    if !plan.begin(session, from).await? {
        session.roll_back().await?;
        return Ok(None);
    }
    let mut anew = Vec::new();
    let conflicts = plan.apply(session, ready, from, &mut anew).await?;
    plan.write_anew(session, from, &anew).await?;
    session.commit().await?;
    Ok(Some((conflicts, Vec::new())))
}

/// The same, where some rows are at fault: they are found by halving, and all others are written with the position.
async fn in_pieces<P: WritePlan>(
    session: &mut P::Session,
    plan: &P,
    from: &WriteOrigin,
    ready: &[P::Row],
    doing: Doing<'_>,
) -> Outcome<P> {
    let mut conflicts = 0;
    let (mut refused, mut anew) = (Vec::new(), Vec::new());
    let mut written: Vec<&[P::Row]> = Vec::new();
    let mut open = false;
    let mut halving = Halving::new(ready);
    loop {
        let part = halving.part();
        if !open {
            if !plan.begin(session, from).await? {
                session.roll_back().await?;
                return Ok(None);
            }
            conflicts = 0;
            anew.clear();
            for rows in &written {
                conflicts += plan.apply(session, rows, from, &mut anew).await?;
            }
            open = true;
        }
        let Some(rows) = part else { break };
        if P::SAVEPOINTS {
            session.run("SAVEPOINT busbar").await?;
        }
        let known = anew.len();
        match plan.apply(session, rows, from, &mut anew).await {
            Ok(more) => {
                conflicts += more;
                if P::SAVEPOINTS {
                    session.run("RELEASE SAVEPOINT busbar").await?;
                } else {
                    written.push(rows);
                }
            }
            Err(failed) if failed.is_about_rows() => {
                anew.truncate(known);
                if P::SAVEPOINTS {
                    session
                        .run("ROLLBACK TO SAVEPOINT busbar; RELEASE SAVEPOINT busbar")
                        .await?;
                } else {
                    session.roll_back().await?;
                    open = false;
                }
                if let Some(one) = halving.refused(rows) {
                    refused.push((one.row(), failed.told(doing)));
                }
            }
            Err(failed) => return Err(failed),
        }
    }
    if !from.producer.is_empty() {
        keep_refused(session, plan, from, ready, &refused).await?;
    }
    plan.write_anew(session, from, &anew).await?;
    session.commit().await?;
    Ok(Some((conflicts, refused)))
}

/// Keeps the refused rows within the transaction that is open.
async fn keep_refused<P: WritePlan>(
    session: &mut P::Session,
    plan: &P,
    from: &WriteOrigin,
    ready: &[P::Row],
    refused: &[Refused],
) -> Result<(), FailedIn<P>> {
    let WriteOrigin { producer, position } = from;
    let table = &plan.tables().refusals;
    session
        .run(&format!("DELETE FROM {table} WHERE producer = {producer}"))
        .await?;
    let content = |row: usize| {
        let at = ready.binary_search_by_key(&row, WriteRow::row);
        at.map_or_else(|_| String::new(), |at| ready[at].content())
    };
    let records = RefusedRecord::of(refused, content);
    let rows = records.iter().map(|record| {
        format!(
            "({producer}, {position}, {}, {}, {})",
            record.row,
            P::literal(&record.content),
            P::literal(&record.cause)
        )
    });
    let head =
        format!("INSERT INTO {table} (producer, position, refused_row, content, cause) VALUES");
    for statement in insertions(&head, rows, P::REFUSALS_BYTES) {
        session.run(&statement).await?;
    }
    Ok(())
}

/// The rows of a delivery that comes again that were refused the last time.
async fn recall<P: WritePlan>(
    session: &mut P::Session,
    plan: &P,
    from: &WriteOrigin,
    ready: &[P::Row],
) -> Result<Vec<Refused>, FailedIn<P>> {
    let tables = plan.tables();
    let sql = format!(
        "SELECT r.refused_row, r.content, r.cause FROM {} r JOIN {} p ON p.producer = r.producer AND p.position = r.position \
         WHERE r.producer = {} ORDER BY r.refused_row",
        tables.refusals, tables.positions, from.producer
    );
    let answers = session.run(&sql).await?;
    let records = answers.first().map_or_else(Vec::new, |answer| {
        let text = |row, column| answer.text(row, column).unwrap_or_default().to_owned();
        let records = (0..answer.rows().len()).map(|row| RefusedRecord {
            row: text(row, 0).parse().unwrap_or_default(),
            content: text(row, 1),
            cause: text(row, 2),
        });
        records.collect()
    });
    let rows = ready.iter().map(|row| (row.row(), row.content()));
    Ok(RefusedRecord::recalled(records, rows))
}

//! Writers: where the rows of a task go, each with the name it is known by on the other side.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use busbar_bus::{Bus, Stream, StreamPartition};
use busbar_catalog::ConnectionSpec;
use busbar_event::{Class, Error};
use busbar_log::Clock;
use busbar_table::{Applied, ChangeColumns, ProducerPosition, Table};

use crate::blocking::blocking;
use crate::outgoing::{Outgoing, pieces};
use busbar_connector::{Connector, Delivery, Sink, SinkContext, deliver};

/// Writes to one output for one task.
pub(crate) struct Writer {
    pub producer: Arc<str>,
    /// Results that are more than one append takes go in pieces. Else they are refused as a whole: the task reads its
    /// input again in halves.
    pub in_pieces: bool,
    to: To,
}

enum To {
    /// The stream that captures the topic.
    Topic(Bus),
    Stream(Bus, Arc<Stream>),
    /// Partitions of a stream of the flow's own.
    Parts(Arc<Stream>),
    /// One partition of a stream of the flow's own.
    Partition(Arc<StreamPartition>),
    /// What says what is done with each row, if something does.
    Table(Arc<dyn Table>, Option<ChangeColumns>),
    Sink(Box<OpenSink>),
}

/// A sink and what it takes to open it.
pub(crate) struct OpenSink {
    pub connector: Arc<dyn Connector>,
    pub spec: ConnectionSpec,
    pub name: Arc<str>,
    pub project_dir: Arc<Path>,
    pub clock: Arc<dyn Clock>,
    pub schema: SchemaRef,
    pub sink: Option<Box<dyn Sink>>,
}

impl OpenSink {
    /// Opens the sink unless it is open.
    pub async fn open(&mut self) -> Result<&mut Box<dyn Sink>, Error> {
        let sink = match self.sink.take() {
            Some(sink) => sink,
            None => {
                let context = SinkContext {
                    name: Arc::clone(&self.name),
                    project_dir: Arc::clone(&self.project_dir),
                    clock: Arc::clone(&self.clock),
                    schema: Arc::clone(&self.schema),
                };
                self.connector.sink(&self.spec, context).await?
            }
        };
        Ok(self.sink.insert(sink))
    }
}

/// Rows that were refused for good, by their number in what was sent.
pub(crate) type Refusals = Vec<(usize, Error)>;

/// What became of the rows of a write.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub refused: Refusals,
    /// Rows that a later row of the same write replaced.
    pub overwritten: u64,
    /// Rows that gave way to those on the other side.
    pub conflicts: u64,
}

impl Writer {
    pub fn topic(bus: Bus, producer: Arc<str>) -> Writer {
        Writer {
            producer,
            in_pieces: false,
            to: To::Topic(bus),
        }
    }

    pub fn stream(bus: Bus, stream: Arc<Stream>, producer: Arc<str>) -> Writer {
        Writer {
            producer,
            in_pieces: false,
            to: To::Stream(bus, stream),
        }
    }

    pub fn parts(stream: Arc<Stream>, producer: Arc<str>) -> Writer {
        Writer {
            producer,
            in_pieces: false,
            to: To::Parts(stream),
        }
    }

    pub fn partition(partition: Arc<StreamPartition>, producer: Arc<str>) -> Writer {
        Writer {
            producer,
            in_pieces: false,
            to: To::Partition(partition),
        }
    }

    pub fn table(
        table: Arc<dyn Table>,
        change: Option<ChangeColumns>,
        producer: Arc<str>,
    ) -> Writer {
        Writer {
            producer,
            in_pieces: false,
            to: To::Table(table, change),
        }
    }

    pub fn sink(sink: OpenSink, producer: Arc<str>) -> Writer {
        Writer {
            producer,
            in_pieces: false,
            to: To::Sink(Box::new(sink)),
        }
    }

    /// Positions above `committed` that some part of the other side knows already. Input is cut at them, so
    /// that a piece is known as a whole or not at all. Opens a sink that is not open yet.
    pub async fn known(&mut self, committed: u64) -> Result<Vec<u64>, Error> {
        let mut known = match &mut self.to {
            To::Topic(bus) => positions(bus.streams().iter(), &self.producer),
            To::Stream(_, stream) | To::Parts(stream) => {
                positions([&*stream].into_iter(), &self.producer)
            }
            To::Partition(partition) => {
                let position = partition.producer_position(&self.producer);
                position.into_iter().collect()
            }
            To::Table(table, _) => {
                let (table, producer) = (Arc::clone(table), Arc::clone(&self.producer));
                blocking(move || table.position(&producer))
                    .await?
                    .into_iter()
                    .collect()
            }
            To::Sink(open) => {
                let sink = open.open().await?;
                sink.cuts(&self.producer).await?
            }
        };
        known.retain(|position| *position > committed);
        Ok(known)
    }

    /// As [`Writer::known`], of another name under which events are written to the same stream.
    pub fn known_as(&self, producer: &str, committed: u64) -> Vec<u64> {
        let mut known = match &self.to {
            To::Stream(_, stream) => positions([stream].into_iter(), producer),
            _ => Vec::new(),
        };
        known.retain(|position| *position > committed);
        known
    }

    /// The furthest position that any part of the other side knows. Opens nothing.
    pub async fn furthest(&mut self) -> Result<Option<u64>, Error> {
        match &self.to {
            To::Sink(open) if open.sink.is_none() => Ok(None),
            _ => Ok(self.known(0).await?.into_iter().max()),
        }
    }

    /// Writes everything that can be written, and says what cannot. Transient errors go to `wait`, which
    /// answers when to try again or that it is over.
    pub async fn write<W, F>(
        &mut self,
        outgoing: &Outgoing,
        position: u64,
        mut wait: W,
    ) -> Result<Written, Error>
    where
        W: FnMut(Error) -> F,
        F: Future<Output = Result<(), Error>>,
    {
        match (&mut self.to, outgoing) {
            (To::Topic(_) | To::Stream(..) | To::Partition(_), Outgoing::Events(events)) => {
                // Each piece under a name of its own, so that each is recognised when it comes again.
                for (number, piece) in pieces(events, self.in_pieces).enumerate() {
                    let producer = piece_name(&self.producer, number);
                    loop {
                        let producer = Some((Arc::clone(&producer), position));
                        let piece = piece.clone();
                        let appended = match &self.to {
                            To::Stream(bus, stream) => bus.append_to(stream, piece, producer).await,
                            To::Topic(bus) => bus.append(piece, producer).await,
                            To::Partition(partition) => {
                                partition.append_rows(piece, producer).await
                            }
                            _ => return Err(mismatch()),
                        };
                        match appended {
                            Ok(_) => break,
                            Err(error) if error.class() == Class::Transient => wait(error).await?,
                            Err(error) => return Err(error),
                        }
                    }
                }
                Ok(Written::default())
            }
            (To::Parts(stream), Outgoing::Parts(parts)) => {
                let partitions = stream.partitions();
                for (number, events) in parts {
                    let partition = partitions.get(usize::from(*number)).ok_or_else(mismatch)?;
                    for (at, piece) in pieces(events, self.in_pieces).enumerate() {
                        let producer = piece_name(&self.producer, at);
                        loop {
                            let producer = Some((Arc::clone(&producer), position));
                            match partition.append_rows(piece.clone(), producer).await {
                                Ok(_) => break,
                                Err(error) if error.class() == Class::Transient => {
                                    wait(error).await?;
                                }
                                Err(error) => return Err(error),
                            }
                        }
                    }
                }
                Ok(Written::default())
            }
            (To::Table(table, change), Outgoing::Rows(rows)) => {
                if rows.num_rows() == 0 {
                    return Ok(Written::default());
                }
                let at = ProducerPosition::new(Arc::clone(&self.producer), position);
                loop {
                    let applied = if !table.capabilities().waits_for_disk {
                        apply(&**table, change.as_ref(), rows, &at)
                    } else {
                        let (table, rows, at) = (Arc::clone(table), rows.clone(), at.clone());
                        let change = change.clone();
                        blocking(move || apply(&*table, change.as_ref(), &rows, &at)).await
                    };
                    match applied {
                        Ok(applied) => {
                            let applied_conflicts = applied.conflicts as u64;
                            let refused = applied.rejected.into_iter();
                            return Ok(Written {
                                refused: refused.map(|r| (r.row, r.cause)).collect(),
                                overwritten: applied.overwritten as u64,
                                conflicts: applied_conflicts,
                            });
                        }
                        Err(error) if error.class() == Class::Transient => wait(error).await?,
                        Err(error) => return Err(error),
                    }
                }
            }
            (
                To::Sink(open),
                Outgoing::Delivery {
                    events,
                    rows,
                    sources,
                },
            ) => {
                if events.rows() == 0 {
                    return Ok(Written::default());
                }
                let sink = loop {
                    match open.open().await {
                        Ok(_) => break open.sink.as_mut().ok_or_else(mismatch)?,
                        Err(error) if error.class() == Class::Transient => wait(error).await?,
                        Err(error) => return Err(error),
                    }
                };
                let delivery = Delivery {
                    events: events.clone(),
                    rows: rows.clone(),
                    producer: Arc::clone(&self.producer),
                    position,
                    first: 0,
                    sources: sources.clone(),
                };
                let outcome = deliver(sink.as_mut(), &delivery, wait).await?;
                Ok(Written {
                    refused: outcome.rejected,
                    overwritten: 0,
                    conflicts: outcome.conflicts,
                })
            }
            _ => Err(mismatch()),
        }
    }

    /// Lets go in good order.
    pub async fn close(&mut self) {
        if let To::Sink(open) = &mut self.to
            && let Some(mut sink) = open.sink.take()
            && let Err(error) = sink.close().await
        {
            tracing::warn!(connection = %open.name, %error, "closing the sink failed");
        }
    }
}

fn apply(
    table: &dyn Table,
    change: Option<&ChangeColumns>,
    rows: &RecordBatch,
    at: &ProducerPosition,
) -> Result<Applied, Error> {
    match change {
        Some(change) => change.write(table, rows, Some(at)),
        None => table.apply(rows, Some(at)),
    }
}

fn piece_name(producer: &Arc<str>, number: usize) -> Arc<str> {
    match number {
        0 => Arc::clone(producer),
        _ => format!("{producer}~{number}").into(),
    }
}

fn mismatch() -> Error {
    Error::new(Class::Permanent, "flow.misfit").with("column", "")
}

fn positions<'a>(streams: impl Iterator<Item = &'a Arc<Stream>>, producer: &str) -> Vec<u64> {
    streams
        .flat_map(|stream| stream.partitions().to_vec())
        .filter_map(|partition| partition.producer_position(producer))
        .collect()
}

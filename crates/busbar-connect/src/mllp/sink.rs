use std::sync::Arc;

use busbar_connector::{Delivery, Sink, SinkContext, Work, Written};
use busbar_event::format::{Hl7Message, Hl7Path, Hl7Reader, Hl7Value};
use busbar_event::hash::fnv1a;
use busbar_event::{Class, Error, quote};
use busbar_log::Clock;
use tokio::time::timeout;

use super::link::{MllpLink, MllpPeer, fits_block};
use super::message::MessageMaker;
use super::options::Options;
use crate::limits::{MLLP_EXCERPT_CHARS_MAX, MLLP_STRANGERS_MAX};
use crate::places::Places;

/// Sends messages and waits for the answer to each.
pub(super) struct MllpSink {
    peer: MllpPeer,
    /// `None` while there is no connection, or one whose answer was not waited for.
    link: Option<MllpLink>,
    maker: Option<MessageMaker>,
    reader: Hl7Reader,
    clock: Arc<dyn Clock>,
    progress: Progress,
}

/// How far the delivery has come that was written last, so that a retry goes on there.
#[derive(Default)]
struct Progress {
    /// Producer, position, first row and number of rows.
    delivery: (Arc<str>, u64, usize, usize),
    next: usize,
    rejected: Vec<(usize, Error)>,
}

/// What the other side says to a message.
enum Said {
    Taken,
    /// It is an answer to another message.
    ToAnother,
    Refused(Error),
}

impl MllpSink {
    /// # Errors
    /// *Configuration*: the message names a column that the rows do not have.
    pub fn new(options: Options, context: SinkContext, places: Places) -> Result<MllpSink, Error> {
        let maker = match &options.message {
            None => None,
            Some(message) => Some(MessageMaker::new(message, &options, &context.schema)?),
        };
        Ok(MllpSink {
            peer: MllpPeer {
                address: options.address.as_str().into(),
                tls: options.tls,
                timeout: options.timeout.as_duration(),
                project: context.project_dir,
                places,
            },
            link: None,
            maker,
            reader: Hl7Reader::of_any_bytes(),
            clock: context.clock,
            progress: Progress::default(),
        })
    }

    async fn write_rows(&mut self, delivery: &Delivery) -> Result<Written, Error> {
        let this = (
            Arc::clone(&delivery.producer),
            delivery.position,
            delivery.first,
            delivery.events.rows(),
        );
        if self.progress.delivery != this {
            self.progress = Progress {
                delivery: this,
                ..Progress::default()
            };
        }
        let payloads = delivery.events.payloads();
        let objects = self.maker.as_ref().map(|maker| maker.rows(&delivery.rows));
        while self.progress.next < delivery.events.rows() {
            let row = self.progress.next;
            let made;
            let message = match (&mut self.maker, &objects) {
                (Some(maker), Some(objects)) => {
                    let id = control_id(delivery, row);
                    let now = self.clock.now_micros();
                    made = maker.make(delivery, row, objects.value(row), &id, now);
                    made.as_deref().map_err(Clone::clone)
                }
                _ => Ok(payloads.value(row)),
            };
            let sent = match message {
                Ok(message) => self.exchange(message).await,
                Err(why) => Err(why),
            };
            match sent {
                Ok(()) => {}
                Err(why) if why.class() == Class::Permanent => {
                    self.progress.rejected.push((row, why));
                }
                Err(why) => return Err(why),
            }
            self.progress.next += 1;
        }
        Ok(Written::of(std::mem::take(&mut self.progress).rejected))
    }

    /// Sends one message and waits until it is taken.
    async fn exchange(&mut self, message: &[u8]) -> Result<(), Error> {
        let id = asked(&mut self.reader, message)?;
        // It comes back only after the answer: a connection whose answer is still due is not used again.
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.peer.open().await?,
        };
        let waited = self.peer.timeout;
        let answered = timeout(waited, async {
            link.send(&self.peer, message).await?;
            for _ in 0..MLLP_STRANGERS_MAX {
                let block = link.receive(&self.peer).await?;
                match said(&mut self.reader, &block, &id, &self.peer)? {
                    Said::Taken => return Ok(Ok(())),
                    Said::Refused(why) => return Ok(Err(why)),
                    Said::ToAnother => {}
                }
            }
            Err(self.peer.strange())
        });
        let said = answered.await.map_err(|_| self.peer.silent(waited))??;
        self.link = Some(link);
        said
    }
}

impl Sink for MllpSink {
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>> {
        Box::pin(self.write_rows(delivery))
    }
}

/// The control id of a message that asks for an answer.
///
/// # Errors
/// *Permanent*: it is no message, does not fit a block, or asks for no answer that says that it was taken.
fn asked(reader: &mut Hl7Reader, message: &[u8]) -> Result<String, Error> {
    if !fits_block(message) {
        return Err(Error::new(Class::Permanent, "mllp.bytes"));
    }
    let message = reader.read(message)?;
    let field = |number| text(&message, b"MSH", number);
    let (accept, application) = (field(15), field(16));
    let asks = matches!(
        (accept.as_str(), application.as_str()),
        ("", "") | ("AL", _) | ("" | "NE", "AL")
    );
    match asks {
        true => Ok(field(10)),
        false => Err(Error::new(Class::Permanent, "mllp.no-answer")
            .with("accept", quote(&accept))
            .with("application", quote(&application))),
    }
}

/// Reads an answer.
fn said(reader: &mut Hl7Reader, block: &[u8], id: &str, peer: &MllpPeer) -> Result<Said, Error> {
    let answer = reader
        .read(block)
        .map_err(|why| peer.strange().caused_by(why))?;
    let code = text(&answer, b"MSA", 1);
    let of = text(&answer, b"MSA", 2);
    // Some leave it out; only one message is ever under way.
    if !of.is_empty() && of != id {
        return Ok(Said::ToAnother);
    }
    let class = match code.as_str() {
        "AA" | "CA" => return Ok(Said::Taken),
        "AE" | "CE" => Class::Permanent,
        // Locked, or an error within the application: the message may be good.
        "AR" | "CR" if matches!(text(&answer, b"ERR", 3).as_str(), "206" | "207") => {
            Class::Transient
        }
        "AR" | "CR" => Class::Permanent,
        _ => return Err(peer.strange()),
    };
    let reasons = [
        text(&answer, b"ERR", 8),
        text(&answer, b"ERR", 7),
        // HAPI writes it as the original text of the code.
        part(&answer, "ERR.3.9"),
        part(&answer, "ERR.3.2"),
        text(&answer, b"MSA", 3),
        part(&answer, "ERR.1.4.2"),
        text(&answer, b"ERR", 1),
    ];
    let reason = reasons.into_iter().find(|reason| !reason.is_empty());
    Ok(Said::Refused(
        Error::new(class, "mllp.refused")
            .with("address", &peer.address)
            .with("code", &code)
            .with("said", excerpt(&reason.unwrap_or_default())),
    ))
}

/// The beginning of a text of the other side, on one line.
fn excerpt(text: &str) -> String {
    let line = text.chars().take(MLLP_EXCERPT_CHARS_MAX);
    line.map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn text(message: &Hl7Message<'_>, segment: &[u8; 3], field: usize) -> String {
    value(message, &Hl7Path::field(*segment, field))
}

fn part(message: &Hl7Message<'_>, path: &str) -> String {
    Hl7Path::parse(path).map_or_else(String::new, |path| value(message, &path))
}

fn value(message: &Hl7Message<'_>, path: &Hl7Path) -> String {
    let mut text = Vec::new();
    match message.value(path, &mut text) {
        Hl7Value::Text => String::from_utf8(text).unwrap_or_default(),
        Hl7Value::Missing | Hl7Value::Deleted => String::new(),
    }
}

/// A control id of 16 letters: the same whenever the same row is sent.
fn control_id(delivery: &Delivery, row: usize) -> String {
    let name = format!("{}-{}", delivery.producer, delivery.row_name(row));
    format!("{:016X}", fnv1a(name.as_bytes()))
}

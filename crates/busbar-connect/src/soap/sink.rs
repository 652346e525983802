//! Rows as calls of an operation, one after the other.

use std::sync::Arc;

use arrow::array::StructArray;
use arrow::datatypes::SchemaRef;
use busbar_connector::{CallForm, CallParts, Delivery, Service, Sink, Work, Written};
use busbar_event::format::encode_json;
use busbar_event::{Class, Error};
use bytes::Bytes;

use super::form::SoapForm;
use super::limits::FAULTS_MAX;
use super::token::SoapService;
use crate::http::{idempotency_key, refused_answer};

/// Calls an operation with each row.
pub(super) struct SoapSink {
    service: SoapService,
    form: SoapForm,
    /// The columns that are parts of the message.
    columns: Vec<usize>,
    progress: SoapProgress,
}

/// What is left of the delivery that was written last, so that an attempt goes on where the one before it ended.
#[derive(Default)]
struct SoapProgress {
    /// Producer, position, first row and number of rows.
    delivery: (Arc<str>, u64, usize, usize),
    /// The row that is sent next.
    next: usize,
    /// How often this row was answered with a fault of the service.
    faults: u32,
    rejected: Vec<(usize, Error)>,
}

impl SoapSink {
    pub fn new(service: SoapService, form: SoapForm, schema: &SchemaRef) -> SoapSink {
        let fields = schema.fields().iter().enumerate();
        let columns = fields.filter(|(_, field)| form.sends(field.name()));
        SoapSink {
            columns: columns.map(|(at, _)| at).collect(),
            service,
            form,
            progress: SoapProgress::default(),
        }
    }

    async fn deliver(&mut self, delivery: &Delivery) -> Result<Written, Error> {
        let rows = delivery.rows.num_rows();
        let this = (
            Arc::clone(&delivery.producer),
            delivery.position,
            delivery.first,
            rows,
        );
        if self.progress.delivery != this {
            self.progress = SoapProgress {
                delivery: this,
                ..SoapProgress::default()
            };
        }
        let unfit = |why| Error::new(Class::Configuration, "connect.soap-rows").caused_by(why);
        let columns = delivery.rows.project(&self.columns).map_err(unfit)?;
        let objects = match self.columns.is_empty() {
            true => StructArray::new_empty_fields(rows, None),
            false => StructArray::from(columns),
        };
        let objects = encode_json(&objects);
        while self.progress.next < rows {
            let row = self.progress.next;
            let body = Bytes::copy_from_slice(objects.value(row));
            let refused = self
                .send(body, idempotency_key(delivery, &(row..row + 1)))
                .await?;
            if let Some(error) = refused {
                self.progress.rejected.push((row, error));
            }
            self.progress.next += 1;
            self.progress.faults = 0;
        }
        Ok(Written::of(std::mem::take(&mut self.progress).rejected))
    }

    /// Sends a row; returns why it is refused for good.
    async fn send(&mut self, body: Bytes, key: String) -> Result<Option<Error>, Error> {
        let request = self.form.request(CallParts {
            body: Some(body),
            headers: vec![("Idempotency-Key".into(), key)],
            ..CallParts::default()
        });
        let request = match request {
            Ok(request) => request,
            Err(error) => return Ok(Some(error)),
        };
        let answer = match self.service.exchange(&request).await {
            Ok(answer) => answer,
            Err(error) if error.class() == Class::Permanent => return Ok(Some(error)),
            Err(error) => return Err(error),
        };
        let status = answer.status;
        let kept = answer.clone();
        let Err(error) = self.form.answer(answer) else {
            return Ok(None);
        };
        let is_fault = error.code() == "connect.soap-fault";
        let is_page = error.code() == "connect.soap-page";
        let is_strange = is_page
            || matches!(
                error.code(),
                "connect.soap-no-envelope" | "connect.soap-not-xml"
            );
        if !is_fault && matches!(status, 300..=399 | 401 | 403 | 404 | 405 | 407 | 501) {
            // Every row would be refused.
            return Err(refused_answer(
                Class::Configuration,
                self.form.shown_url(),
                &kept,
            ));
        }
        if error.code() == "connect.soap-login" {
            // So would be this.
            return Err(stops(&error));
        }
        if (is_fault || is_strange)
            && error.class() == Class::Transient
            && !self.form.is_unavailable(&kept)
        {
            self.progress.faults += 1;
            if self.progress.faults >= FAULTS_MAX {
                self.progress.faults = 0;
                return match is_page {
                    // Something stands between, and every row would come to it.
                    true => Err(stops(&error)),
                    false => Ok(Some(error)),
                };
            }
        }
        match error.class() {
            Class::Permanent => Ok(Some(error)),
            _ => Err(error),
        }
    }
}

/// The same error as one that somebody must do something about first.
fn stops(error: &Error) -> Error {
    let stops = Error::new(Class::Configuration, error.code());
    let arguments = error.args().iter();
    arguments.fold(stops, |error, (name, value)| error.with(name, value))
}

impl Sink for SoapSink {
    fn write<'a>(&'a mut self, delivery: &'a Delivery) -> Work<'a, Result<Written, Error>> {
        Box::pin(self.deliver(delivery))
    }
}

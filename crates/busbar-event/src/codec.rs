//! A batch as bytes and back.

use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;

use crate::{Batch, Class, Error, Result};

/// The body of a batch for a frame.
pub fn encode(batch: &Batch) -> Bytes {
    let record = batch.record();
    let mut writer = StreamWriter::try_new(Vec::new(), &record.schema()).expect("schema is known");
    writer.write(record).expect("writing to memory");
    writer.into_inner().expect("writing to memory").into()
}

/// The batch of a body; refuses what is not one.
pub fn decode(body: Bytes) -> Result<Batch> {
    let damaged = |error| Error::new(Class::Permanent, "event.body-damaged").caused_by(error);
    let mut reader = StreamReader::try_new(&body[..], None).map_err(damaged)?;
    match reader.next() {
        Some(record) => Batch::from_record(record.map_err(damaged)?),
        None => Err(Error::new(Class::Permanent, "event.body-damaged")),
    }
}

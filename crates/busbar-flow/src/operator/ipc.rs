//! Record batches as bytes, for state.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use busbar_event::{Class, Error};
use bytes::Bytes;

/// A batch in Arrow's stream format.
///
/// # Errors
/// When the batch cannot be written, which its types decide.
pub(super) fn encode(batch: &RecordBatch) -> Result<Bytes, Error> {
    let write = || -> Result<Vec<u8>, arrow::error::ArrowError> {
        let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref())?;
        writer.write(batch)?;
        writer.finish()?;
        writer.into_inner()
    };
    write()
        .map(Bytes::from)
        .map_err(|cause| Error::new(Class::Permanent, "flow.state-encode").caused_by(cause))
}

/// The batch that was written.
///
/// # Errors
/// `flow.state-damaged` when the bytes hold no batch of this schema.
pub(super) fn decode(bytes: &[u8], schema: &SchemaRef) -> Result<RecordBatch, Error> {
    let damaged = || Error::new(Class::Permanent, "flow.state-damaged");
    let mut reader =
        StreamReader::try_new(bytes, None).map_err(|cause| damaged().caused_by(cause))?;
    let batch = reader
        .next()
        .ok_or_else(damaged)?
        .map_err(|cause| damaged().caused_by(cause))?;
    match batch.schema_ref().fields() == schema.fields() {
        true => Ok(batch),
        false => Err(damaged()),
    }
}

//! `mllp`: rows go out as HL7 messages over MLLP, each acknowledged before the next.
//!
//! ```yaml
//! mllp:
//!   address: "lab.example:2575"
//!   message:
//!     MSH.9.1: ORM
//!     MSH.9.2: O01
//!     PID.3.1: ${patient}
//!     OBX[*].5: ${values}
//! ```

mod link;
mod message;
mod options;
mod sink;

use busbar_catalog::{ConnectionSpec, Diagnostic};
use busbar_connector::{Connector, Roles, Sink, SinkContext, Work};
use busbar_event::Error;

use crate::places::Places;
use options::Options;
use sink::MllpSink;

/// The connector.
pub struct Mllp {
    places: Places,
}

impl Mllp {
    pub(crate) fn new(places: Places) -> Mllp {
        Mllp { places }
    }
}

impl Connector for Mllp {
    fn kind(&self) -> &'static str {
        "mllp"
    }

    fn check(&self, spec: &ConnectionSpec) -> Result<Roles, Diagnostic> {
        Options::read(spec, &self.places).map(|_| Roles {
            source: false,
            sink: true,
            service: false,
        })
    }

    fn schema(&self) -> serde_json::Value {
        schemars::schema_for!(Options).to_value()
    }

    fn sink<'a>(
        &'a self,
        spec: &'a ConnectionSpec,
        context: SinkContext,
    ) -> Work<'a, Result<Box<dyn Sink>, Error>> {
        Box::pin(async move {
            let options = Options::read(spec, &self.places)?;
            let sink = MllpSink::new(options, context, self.places.clone())?;
            Ok(Box::new(sink) as Box<dyn Sink>)
        })
    }
}

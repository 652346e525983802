//! FHIR payloads: resources in JSON, as typed columns and back.
//!
//! [`FhirPath`] says where in a resource a value is. [`FhirWriter`] makes a resource of values and their paths.
//! [`check_resource`] checks the form that all resources share.

mod check;
mod decoder;
mod path;
mod types;
mod write;

pub use check::{FhirFault, FhirHead, check_resource};
pub(super) use decoder::{FhirDecoder, FhirReject};
pub use path::{FhirFound, FhirPath};
pub use types::{RESOURCE_TYPES, is_fhir_id, is_resource_type};
pub use write::FhirWriter;

//! Events between HTTP and the bus: in ([`parse`], [`inlet`]) and out ([`subscription`],
//! [`condition`], [`render`]).

pub(crate) mod condition;
pub(crate) mod field;
pub(crate) mod inlet;
pub(crate) mod parse;
pub(crate) mod position;
pub(crate) mod render;
pub(crate) mod subscription;

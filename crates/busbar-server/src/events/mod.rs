//! Events on their way between HTTP and the bus: in ([`parse`], [`inlet`]) and out ([`render`],
//! [`subscription`]).

pub(crate) mod inlet;
pub(crate) mod parse;
pub(crate) mod position;
pub(crate) mod render;
pub(crate) mod subscription;

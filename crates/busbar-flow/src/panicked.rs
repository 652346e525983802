//! Panics of code that computes on people's events, as errors.

use busbar_event::{Class, Error};

/// What a panic said, as an error of the event or of the task it happened in.
pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let said = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or_default();
    Error::new(Class::Permanent, "flow.panic").with("detail", busbar_event::quote(said))
}
